#!/usr/bin/env bash
# How much memory a sink with default settings takes under load: CLIENTS clients that each post EVENTS events at a
# time, for SECONDS. Prints resident MiB as time goes on, and the peak. Needs curl.
set -euo pipefail
bin="$1"
clients="${2:-8}"
events="${3:-5000}"
seconds="${4:-60}"
. "$(dirname "$0")/common.sh"
make_trail memory node
start_sink
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
clients_pids=()
for i in $(seq "$clients"); do load "$i" & clients_pids+=($!); done
started+=("${clients_pids[@]}")
step=$(((seconds + 9) / 10))
while [ "$SECONDS" -lt "$end" ]; do
    sleep "$step"
    printf 'resident %s MiB, peak %s MiB\n' "$(status VmRSS)" "$(status VmHWM)"
done
wait "${clients_pids[@]}"
started=("$sink")
accepted=$(cat "$dir"/answers.* | grep -c '^200$' || true)
refused=$(cat "$dir"/answers.* | grep -vc '^200$' || true)
printf '%s clients, %s events a post, %s s: %s posts (%s events) answered 200, %s otherwise; peak resident %s MiB\n' \
    "$clients" "$events" "$seconds" "$accepted" "$((accepted * events))" "$refused" "$(status VmHWM)"
