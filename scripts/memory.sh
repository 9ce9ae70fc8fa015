#!/usr/bin/env bash
# How much memory a sink with default settings takes under load: CLIENTS clients that each post EVENTS events at a
# time, for SECONDS. Prints resident MiB as time goes on, and the peak. Needs curl.
set -euo pipefail
bin="$1"
clients="${2:-8}"
events="${3:-5000}"
seconds="${4:-60}"
dir="$(mktemp -d "${TMPDIR:-/tmp}/waxseal-memory.XXXXXX")"
sink=""
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    if [ -n "$sink" ]; then kill "$sink" 2>/dev/null || true; wait "$sink" 2>/dev/null || true; fi
    chmod -R u+w "$dir" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
"$bin/waxseal" init --store "file://$dir/trail" --name memory --lock none --retention 30d --out "$dir/keys" >/dev/null
"$bin/waxseal" keys generate --algorithm rsa --out "$dir/writer" --name node --trust "$dir/keys/trust.yaml" >/dev/null
port=$((20000 + (RANDOM % 20000)))
cat >"$dir/sink.yaml" <<YAML
trail: memory
writer: node
state_dir: $dir/state
store: file://$dir/trail
retention: 30d
signing:
  - key: file:$dir/writer/signing.key
intake:
  http: {listen: "127.0.0.1:$port"}
YAML
WAXSEAL_LOG=warn "$bin/waxseal-sink" --config "$dir/sink.yaml" &
sink=$!
for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
    sleep 0.1
done
"$bin/waxseal" generate --count "$((events * 8))" --output "$dir/events"
split -l "$events" "$dir/events" "$dir/part."
status() { awk -v k="$1:" '$1 == k {printf "%.0f", $2 / 1024}' "/proc/$sink/status"; }
end=$((SECONDS + seconds))
load() {
    while [ "$SECONDS" -lt "$end" ]; do
        for part in "$dir"/part.*; do
            curl -s -o /dev/null -w '%{http_code}\n' --data-binary "@$part" "http://127.0.0.1:$port/v1/events" || true
        done
    done >"$dir/answers.$1"
}
for i in $(seq "$clients"); do load "$i" & pids+=($!); done
step=$(((seconds + 9) / 10))
while [ "$SECONDS" -lt "$end" ]; do
    sleep "$step"
    printf 'resident %s MiB, peak %s MiB\n' "$(status VmRSS)" "$(status VmHWM)"
done
wait "${pids[@]}"
accepted=$(cat "$dir"/answers.* | grep -c '^200$' || true)
refused=$(cat "$dir"/answers.* | grep -vc '^200$' || true)
printf '%s clients, %s events a post, %s s: %s posts (%s events) answered 200, %s otherwise; peak resident %s MiB\n' \
    "$clients" "$events" "$seconds" "$accepted" "$((accepted * events))" "$refused" "$(status VmHWM)"
