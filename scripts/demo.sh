#!/usr/bin/env bash
# A real log becomes a sealed trail; one byte is changed; the change is found. No root, no server, no account.
set -euo pipefail
bin="$1"
. "$(dirname "$0")/common.sh"

bold "1. A trail on a local write-once store"
make_trail demo demo-node run

bold "2. The sink"
start_sink
say "waxseal-sink listens on http://127.0.0.1:$port/v1/events"

bold "3. A real log"
# Text lines become JSON objects; a journal is JSON already.
as_json() { sed -e 's/\\/\\\\/g; s/"/\\"/g; s/	/\\t/g; s/[[:cntrl:]]//g' -e 's/^.*$/{"message":"&"}/'; }
log="$dir/log.ndjson"
if command -v journalctl >/dev/null 2>&1 && journalctl --no-pager -o json -n 5000 2>/dev/null >"$log" && [ -s "$log" ]; then
    what="this machine's journal"
elif [ -s /var/log/dpkg.log ] && tail -n 5000 /var/log/dpkg.log | as_json >"$log"; then
    what="this machine's package log, /var/log/dpkg.log"
else
    as_json <scripts/sample.log >"$log"
    what="a sample log (no journal and no package log can be read here)"
fi
say "$what: $(wc -l <"$log" | tr -d ' ') lines"
# POST over a plain socket: not even curl is needed.
exec 3<>"/dev/tcp/127.0.0.1/$port"
{
    printf 'POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n'
    printf 'Idempotency-Key: demo-1\r\nConnection: close\r\nContent-Length: %s\r\n\r\n' "$(wc -c <"$log" | tr -d ' ')"
    cat "$log"
} >&3
say "the sink answers: $(tail -n 1 <&3)"
exec 3>&-
kill "$sink"
wait "$sink" || true
started=()

bold "4. The sealed trail"
run "$bin/waxseal" tree "$dir/trail"

bold "5. Verified"
run "$bin/waxseal" verify "$dir/trail" --trust "$dir/keys/trust.yaml"

bold "6. One byte changed, in a copy"
cp -r "$dir/trail" "$dir/copy"
object="$(find "$dir/copy/events" -name '*.parquet' | sort | head -n 1)"
chmod u+w "$object"
size=$(wc -c <"$object" | tr -d ' ')
at=$((size / 2))
old=$(dd if="$object" bs=1 skip="$at" count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
printf "\\$(printf '%03o' $(((old + 1) % 256)))" | dd of="$object" bs=1 seek="$at" conv=notrunc 2>/dev/null
say "byte $at of $size: $old is now $(((old + 1) % 256))"
set +e
printf '  $ waxseal verify COPY --trust trust.yaml\n'
"$bin/waxseal" verify "$dir/copy" --trust "$dir/keys/trust.yaml" | sed 's/^/    /'
status=${PIPESTATUS[0]}
set -e
[ "$status" = 1 ] || { echo "verify should have said TAMPERED" >&2; exit 1; }
say "exit $status"

bold "What comes next"
cat <<'YAML'
  A sink beside your shipper, in sink.yaml:

    trail: prod
    writer: ${NODE_NAME}
    state_dir: /var/lib/waxseal
    store: file:///var/lib/waxseal-trail
    retention: 2555d
    signing:
      - key: file:/etc/waxseal/signing.key
    intake:
      http: {listen: 127.0.0.1:9880}
    telemetry: {listen: 127.0.0.1:9881}

  and in Fluent Bit's pipeline (or any shipper that can post NDJSON):

    outputs:
      - name: http
        match: '*'
        host: 127.0.0.1
        port: 9880
        uri: /v1/events
        format: json_lines
        retry_limit: no_limits
YAML
