#!/usr/bin/env bash
# How much privacy finds: scripts/bench-privacy.sh [STRINGS [SEED]], by default 100,000 labelled strings, beside Presidio's pattern
# recognisers. What Python needs goes into the user's cache. Exits with 1 if a bar is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/waxseal"
venv="$cache/privacy-1"
here=filters-wasm/testkit/privacy
if ! "$venv/bin/python" -c 'import faker, presidio_analyzer' 2>/dev/null; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet -r "$here/requirements.txt"
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$venv/bin/python" "$here/corpus.py" "${1:-100000}" "${2:-1}" >"$work/corpus.ndjson"
"$venv/bin/python" "$here/presidio.py" "$work/corpus.ndjson" >"$work/presidio.ndjson" 2>/dev/null
"${CARGO_TARGET_DIR:-$cache/target}/release/bench-privacy" "$work/corpus.ndjson" "$work/presidio.ndjson"
