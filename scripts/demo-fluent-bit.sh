#!/usr/bin/env bash
# A log file, through a stock Fluent Bit with the plugin loaded, into a sealed trail, verified. No root, no server.
set -euo pipefail
bin="$1"
. "$(dirname "$0")/common.sh"
find_fluent_bit

bold "1. A trail, and the sink's configuration"
make_trail demo demo-node run

bold "2. $("$shipper" --version | head -n 1), with one output more"
cat >"$dir/fluent-bit.yaml" <<YAML
service:
  flush: 0.2
  log_level: warn
  storage.path: $dir/storage
  plugins_file: $dir/plugins.conf
pipeline:
  inputs:
    - name: tail
      path: $dir/app.log
      tag: demo.app
      read_from_head: true
      storage.type: filesystem
  outputs:
    - name: waxseal
      match: '*'
      config: $dir/sink.yaml
      retry_limit: no_limits
YAML
sed -n '/outputs/,$p' "$dir/fluent-bit.yaml" | sed 's/^/    /'
cp scripts/sample.log "$dir/app.log"
say "the log: $(wc -l <"$dir/app.log" | tr -d ' ') lines"
"$shipper" -c "$dir/fluent-bit.yaml" >"$dir/fluent-bit.log" 2>&1 &
pid=$!
started+=("$pid")
sleep 3
kill "$pid"
wait "$pid" || { cat "$dir/fluent-bit.log" >&2; exit 1; }
started=()

bold "3. The sealed trail"
run "$bin/waxseal" tree "$dir/trail"
run "$bin/waxseal" show "$dir/trail" demo-node:1

bold "4. Verified"
run "$bin/waxseal" verify "$dir/trail" --trust "$dir/keys/trust.yaml"
