#!/usr/bin/env bash
# What filters cost inside a real Fluent Bit: CPU of tail -> null with no filter, with a Lua script that classifies the same
# events (and adds no geography, users or indicators) beside enrich, and with one that hides a part of what privacy looks for
# beside privacy; over the same events in the same run. FLUENT_BIT or PATH names the shipper.
set -euo pipefail
bin="$1"
count="${2:-100000}"
. "$(dirname "$0")/common.sh"
find_fluent_bit
modules="${XDG_CACHE_HOME:-$HOME/.cache}/waxseal/filters"
for name in enrich privacy; do
    [ -r "$modules/$name.wasm" ] || { echo "no $name.wasm: make wasm" >&2; exit 1; }
done
"$bin/bench-filters" --site "$dir" "$count" 20000
json_parser
echo >"$dir/privacy.yaml"
cp "$(dirname "$0")/bench-filters.lua" "$(dirname "$0")/bench-redact.lua" "$dir/"

measure() {
    tail_through "" "$1
  outputs:
    - name: \"null\"
      match: '*'"
}
"$shipper" --version | head -n 1
printf '%s events of %s bytes\n\n' "$count" "$(($(stat -c %s "$dir/events") / count))"
printf '| filter | CPU s | µs an event | over none, µs | events/s a core | peak MiB |\n|---|---|---|---|---|---|\n'
# row TITLE FILTER: a line of the table; without a filter, what the others are over.
row() {
    measure "${2:+  filters:
    - $2}"
    read -r cpu each peak <<<"$result"
    [ -n "${2:-}" ] || none="$each"
    awk -v title="$1" -v s="$cpu" -v e="$each" -v none="$none" -v p="$peak" -v filter="${2:-}" 'BEGIN {
        printf "| %s | %s | %s | %s | %.0f | %s |\n", title, s, e, filter == "" ? "" : sprintf("%.2f", e - none), 1e6 / e, p
    }'
}
lua() { echo "{name: lua, match: '*', script: $dir/$1.lua, call: $2}"; }
wasm() {
    echo "{name: wasm, match: '*', event_format: json, wasm_path: $modules/$1.wasm, function_name: waxseal_filter, accessible_paths: $dir, wasm_heap_size: 1M, wasm_stack_size: 256K}"
}
for round in 1 2 3; do
    row none
    row "Lua, classifying only" "$(lua bench-filters classify)"
    row enrich.wasm "$(wasm enrich)"
    row "Lua, hiding a part" "$(lua bench-redact redact)"
    row privacy.wasm "$(wasm privacy)"
done
