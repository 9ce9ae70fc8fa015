# The commands that people and CI run. Build products go to the user's cache, so that clones share them.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/waxseal/target
CARGO ?= cargo

.PHONY: all build release demo demo-fluent-bit test wasm lint fmt bench bench-intake bench-s3 bench-log bench-filters bench-filters-fluent-bit bench-privacy memory kit deny fuzz

all: build

build:
	$(CARGO) build --locked

release:
	$(CARGO) build --locked --release

# A real log, sealed, verified, tampered with, and caught. PROFILE=debug is quicker to build.
PROFILE ?= release
demo:
	@if [ "$(PROFILE)" = debug ]; then $(CARGO) build --locked; else $(CARGO) build --locked --release; fi
	@bash scripts/demo.sh "$(CARGO_TARGET_DIR)/$(PROFILE)"

# The same through a stock Fluent Bit, where FLUENT_BIT or PATH has one.
demo-fluent-bit:
	@$(CARGO) build --locked --release -p waxseal -p waxseal-fluent-bit
	@bash scripts/demo-fluent-bit.sh "$(CARGO_TARGET_DIR)/release"

# Everything: unit, property, end-to-end and crash tests, and the second verifier.
test:
	@bash scripts/test.sh

# The filters as WASM modules (into the cache: filters/enrich.wasm), and the format's crate for browsers.
wasm:
	@bash scripts/wasm.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

# Ratios beside sha256sum and zstd in the same run; needs zstd on the PATH.
bench:
	$(CARGO) build --locked --release --workspace
	"$(CARGO_TARGET_DIR)/release/bench" $(BENCH)

# Each protocol beside a server that keeps nothing, and a crowd of connections; EVENTS=1000000 is more.
bench-intake:
	$(CARGO) build --locked --release --workspace
	"$(CARGO_TARGET_DIR)/release/bench-intake" $(EVENTS)

# Writing to a bucket beside writing to a directory, and how often a bucket is asked.
bench-s3:
	$(CARGO) build --locked --release --workspace
	"$(CARGO_TARGET_DIR)/release/bench-s3"

# A million statements into a log on the local store, beside the same bytes hashed and written plainly. STATEMENTS=1000000.
bench-log:
	$(CARGO) build --locked --release -p waxseal-e2e --bin bench-log
	"$(CARGO_TARGET_DIR)/release/bench-log" $(STATEMENTS)

# Filters as modules beside the same logic run natively; needs make wasm. FILTERS="1000000 400000" is more events, more networks;
# FILTERS=--plugin, as it is inside Fluent Bit.
bench-filters:
	$(CARGO) build --locked --release -p waxseal-filter-testkit
	"$(CARGO_TARGET_DIR)/release/bench-filters" $(FILTERS)

# What filters cost in Fluent Bit's own runtime, beside Lua scripts, where FLUENT_BIT or PATH has one. EVENTS=100000.
bench-filters-fluent-bit:
	$(CARGO) build --locked --release -p waxseal-filter-testkit
	@bash scripts/bench-filters.sh "$(CARGO_TARGET_DIR)/release" $(EVENTS)

# How much privacy finds of a labelled corpus, beside Presidio's pattern recognisers. STRINGS=100000.
bench-privacy:
	$(CARGO) build --locked --release -p waxseal-filter-testkit
	@bash scripts/bench-privacy.sh $(STRINGS)

# Makes conformance/ and the example of docs/format.md anew.
kit:
	$(CARGO) run --locked -p waxseal-e2e --bin make-kit -- conformance

# Licences, bans and sources; needs cargo-deny. Advisories need a database: cargo deny check advisories.
deny:
	$(CARGO) deny check licenses bans sources

# How much memory a sink takes under load: eight clients, 5,000 events a post, for a minute.
memory:
	$(CARGO) build --locked --release
	@bash scripts/memory.sh "$(CARGO_TARGET_DIR)/release" $(MEMORY)

# Every decoder of outside bytes, a quarter of an hour each; needs cargo-fuzz. FUZZ="60 json chunk" is shorter.
fuzz:
	@bash scripts/fuzz.sh $(FUZZ)
