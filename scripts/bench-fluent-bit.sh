#!/usr/bin/env bash
# What the plugin costs inside a real Fluent Bit: CPU of tail -> null, tail -> file and tail -> Waxseal over the same
# events in the same run, and the peak resident memory. FLUENT_BIT or PATH names the shipper.
set -euo pipefail
bin="$1"
count="${2:-500000}"
. "$(dirname "$0")/common.sh"
find_fluent_bit
make_trail bench node
"$bin/waxseal" generate --count "$count" --output "$dir/events"
json_parser
mkdir "$dir/out"

# One run to the end of the file, with an output.
measure() {
    tail_through "  plugins_file: $dir/plugins.conf" "  outputs:
    - name: $1
      match: '*'
$2"
}
"$shipper" --version | head -n 1
printf '%s events; CPU of the whole process, s; µs an event; peak resident MiB\n\n' "$count"
printf '| output | CPU s | µs an event | over null, µs | peak MiB |\n|---|---|---|---|---|\n'
for round in 1 2 3; do
    measure null ""
    read -r s0 e0 p0 <<<"$result"
    measure file "      path: $dir/out"
    read -r s1 e1 p1 <<<"$result"
    measure waxseal "      config: $dir/sink.yaml
      retry_limit: no_limits"
    read -r s2 e2 p2 <<<"$result"
    rm -f "$dir"/out/*
    awk -v s0="$s0" -v e0="$e0" -v p0="$p0" -v s1="$s1" -v e1="$e1" -v p1="$p1" -v s2="$s2" -v e2="$e2" -v p2="$p2" 'BEGIN {
        printf "| null | %s | %s | | %s |\n", s0, e0, p0
        printf "| file | %s | %s | %.2f | %s |\n", s1, e1, e1 - e0, p1
        printf "| waxseal | %s | %s | %.2f, %.2f of file | %s |\n", s2, e2, e2 - e0, (e2 - e0) / (e1 - e0), p2
    }'
done
"$bin/waxseal" verify "$dir/trail" --trust "$dir/keys/trust.yaml" | tail -n 1
