#!/usr/bin/env bash
# Installs what the tests need into the user's cache, builds, and runs all tests. Nothing goes into the tree.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/waxseal"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
mkdir -p "$cache"

# The second verifier's two packages, in a virtual environment that is made once.
venv="$cache/python-1"
if ! "$venv/bin/python" -c 'import pyarrow, cryptography' 2>/dev/null; then
    echo "making $venv for tests/independent/verify.py"
    rm -rf "$venv"
    if python3 -m venv "$venv" && "$venv/bin/pip" install --quiet -r tests/independent/requirements.txt; then :; else
        echo "no Python with pyarrow and cryptography can be had: the independent verifier will not be run" >&2
        rm -rf "$venv"
    fi
fi
if [ -x "$venv/bin/python" ]; then export WAXSEAL_PYTHON="$venv/bin/python"; fi

# shellcheck source=scripts/clients.sh
. scripts/clients.sh
# shellcheck source=scripts/ethereum.sh
. scripts/ethereum.sh
# shellcheck source=scripts/s3.sh
. scripts/s3.sh

cargo build --locked --workspace
bash scripts/wasm.sh
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --workspace --no-fail-fast "$@"
else
    cargo test --locked --workspace --no-fail-fast "$@"
fi
