#!/usr/bin/env bash
# Fuzzes the decoders of outside bytes: scripts/fuzz.sh [SECONDS [TARGET ...]], by default each target for 900 s, under
# AddressSanitizer. Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler. What is found new is kept in the
# user's cache; fuzz/corpus/ in the tree is small, and `make test` runs all of it.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/waxseal"
export CARGO_TARGET_DIR="${FUZZ_TARGET_DIR:-$cache/fuzz}"
# The sanitizers are behind a nightly flag that a stable compiler takes when it is told to.
export RUSTC_BOOTSTRAP=1
seconds="${1:-900}"
shift || true
if [ $# -eq 0 ]; then
    mapfile -t targets < <(cargo fuzz list --fuzz-dir .)
else
    targets=("$@")
fi
failed=()
for target in "${targets[@]}"; do
    grown="$cache/corpus/$target"
    mkdir -p "$grown"
    echo "== $target: $seconds s"
    # What may be declared is bounded by FORMAT section 4; a decoder of small inputs that takes more is itself a finding.
    features=()
    case "$target" in guest | enrich_files | privacy*) features=(--no-default-features) ;; esac
    if ! cargo fuzz run --fuzz-dir . ${features[@]+"${features[@]}"} "$target" "$grown" "corpus/$target" -- \
        -max_total_time="$seconds" -timeout=25 -rss_limit_mb=1536 -malloc_limit_mb=640 -max_len=65536 \
        -print_final_stats=1 -verbosity=0; then
        failed+=("$target")
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "findings in: ${failed[*]} (fuzz/artifacts/)" >&2
    exit 1
fi
