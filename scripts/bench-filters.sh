#!/usr/bin/env bash
# What enrich costs inside a real Fluent Bit: CPU of tail -> null with no filter, with a Lua script that classifies the same
# events (and adds no geography, users or indicators), and with the module, as it is and compiled ahead of time where Fluent Bit
# takes that; over the same events in the same run. FLUENT_BIT or PATH names the shipper.
set -euo pipefail
bin="$1"
count="${2:-100000}"
. "$(dirname "$0")/common.sh"
find_fluent_bit
module="${XDG_CACHE_HOME:-$HOME/.cache}/waxseal/filters/enrich.wasm"
[ -r "$module" ] || { echo "no enrich.wasm: make wasm" >&2; exit 1; }
"$bin/bench-filters" --site "$dir" "$count" 20000
json_parser
cp "$(dirname "$0")/bench-filters.lua" "$dir/classify.lua"

measure() {
    tail_through "" "$1
  outputs:
    - name: \"null\"
      match: '*'"
}
"$shipper" --version | head -n 1
printf '%s events of %s bytes\n\n' "$count" "$(($(stat -c %s "$dir/events") / count))"
printf '| filter | CPU s | µs an event | over none, µs | events/s a core | peak MiB |\n|---|---|---|---|---|---|\n'
for round in 1 2 3; do
    measure ""
    read -r s0 e0 p0 <<<"$result"
    measure "  filters:
    - {name: lua, match: '*', script: $dir/classify.lua, call: classify}"
    read -r s1 e1 p1 <<<"$result"
    measure "  filters:
    - {name: wasm, match: '*', event_format: json, wasm_path: $module, function_name: waxseal_filter, accessible_paths: $dir, wasm_heap_size: 1M, wasm_stack_size: 256K}"
    read -r s2 e2 p2 <<<"$result"
    awk -v s0="$s0" -v e0="$e0" -v p0="$p0" -v s1="$s1" -v e1="$e1" -v p1="$p1" -v s2="$s2" -v e2="$e2" -v p2="$p2" 'BEGIN {
        printf "| none | %s | %s | | %.0f | %s |\n", s0, e0, 1e6 / e0, p0
        printf "| Lua, classifying only | %s | %s | %.2f | %.0f | %s |\n", s1, e1, e1 - e0, 1e6 / e1, p1
        printf "| enrich.wasm | %s | %s | %.2f | %.0f | %s |\n", s2, e2, e2 - e0, 1e6 / e2, p2
    }'
done
