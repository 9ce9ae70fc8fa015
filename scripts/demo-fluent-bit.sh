#!/usr/bin/env bash
# A log file, through a stock Fluent Bit with the plugin loaded, into a sealed trail, verified. No root, no server.
set -euo pipefail
bin="$1"
shipper="${FLUENT_BIT:-$(command -v fluent-bit || true)}"
if [ -z "$shipper" ]; then
    echo "no Fluent Bit here: name its binary, FLUENT_BIT=/path/to/fluent-bit make demo-fluent-bit" >&2
    exit 1
fi
dir="$(mktemp -d "${TMPDIR:-/tmp}/waxseal-demo.XXXXXX")"
pid=""
cleanup() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; fi
    chmod -R u+w "$dir" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
bold() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$1"; else printf '\n%s\n' "$1"; fi; }
run() { printf '  $ %s\n' "${*/#$bin\//}"; "$@" | sed 's/^/    /'; }

bold "1. A trail, and the sink's configuration"
run "$bin/waxseal" init --store "file://$dir/trail" --name demo --lock none --retention 30d --out "$dir/keys"
run "$bin/waxseal" keys generate --algorithm rsa --out "$dir/writer" --name demo-node --trust "$dir/keys/trust.yaml"
cat >"$dir/sink.yaml" <<YAML
trail: demo
writer: demo-node
state_dir: $dir/state
store: file://$dir/trail
retention: 30d
signing:
  - key: file:$dir/writer/signing.key
YAML

bold "2. $("$shipper" --version | head -n 1), with one output more"
printf '[PLUGINS]\n    Path %s\n' "$bin/libwaxseal_sink.so" >"$dir/plugins.conf"
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
printf '  the log: %s lines\n' "$(wc -l <"$dir/app.log" | tr -d ' ')"
"$shipper" -c "$dir/fluent-bit.yaml" >"$dir/fluent-bit.log" 2>&1 &
pid=$!
sleep 3
kill "$pid"
wait "$pid" || { cat "$dir/fluent-bit.log" >&2; exit 1; }
pid=""

bold "3. The sealed trail"
run "$bin/waxseal" tree "$dir/trail"
run "$bin/waxseal" show "$dir/trail" demo-node:1

bold "4. Verified"
run "$bin/waxseal" verify "$dir/trail" --trust "$dir/keys/trust.yaml"
