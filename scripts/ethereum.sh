# The chain that the tests anchor in (anvil), and the contract's compiler (solc): from the registry into the user's cache. Sourced,
# with $cache set. What cannot be had is said here, and the tests say what they did not try.

chain="$cache/ethereum-1"
if command -v npm >/dev/null 2>&1 && [ ! -d "$chain/node_modules/solc" ]; then
    echo "making $chain for the tests' chain"
    mkdir -p "$chain"
    cp tests/ethereum/package.json "$chain/"
    # What they would run at installation only copies the program.
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$chain" >/dev/null 2>&1 ||
        echo "no anvil and no solc can be had" >&2
fi
anvil="$(find "$chain/node_modules/@foundry-rs" -path '*/bin/anvil' -type f -perm -u+x 2>/dev/null | grep -v '/anvil/bin/' | head -n 1 || true)"
if [ -n "$anvil" ]; then export WAXSEAL_ANVIL="$anvil"; fi
if command -v node >/dev/null 2>&1 && [ -d "$chain/node_modules/solc" ]; then export WAXSEAL_SOLC="$chain/node_modules"; fi
