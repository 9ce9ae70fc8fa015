# What the scripts share; sourced, with $bin set to the directory of the binaries.

# A directory that goes at the end, with whatever was started in $started.
dir="$(mktemp -d "${TMPDIR:-/tmp}/waxseal.XXXXXX")"
started=()
end() {
    for pid in ${started[@]+"${started[@]}"}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    chmod -R u+w "$dir" 2>/dev/null || true
    rm -rf "$dir"
}
trap end EXIT

bold() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$1"; else printf '\n%s\n' "$1"; fi; }
say() { printf '  %s\n' "$1"; }
# Shows a command and what it says.
run() { printf '  $ %s\n' "${*/#$bin\//}"; "$@" | sed 's/^/    /'; }

# make_trail NAME WRITER [run]: a trail, a key, and $dir/sink.yaml without an intake. Silent without `run`.
make_trail() {
    local show="${3:-}"
    quietly() { if [ -n "$show" ]; then run "$@"; else "$@" >/dev/null; fi; }
    quietly "$bin/waxseal" init --store "file://$dir/trail" --name "$1" --lock none --retention 30d --out "$dir/keys"
    quietly "$bin/waxseal" keys generate --algorithm rsa --out "$dir/writer" --name "$2" --trust "$dir/keys/trust.yaml"
    cat >"$dir/sink.yaml" <<YAML
trail: $1
writer: $2
state_dir: $dir/state
store: file://$dir/trail
retention: 30d
signing:
  - key: file:$dir/writer/signing.key
YAML
}

open_port() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start_sink: the sink of $dir/sink.yaml, with HTTP intake on $port; waits until it listens. Its pid is $sink.
start_sink() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        port=$((20000 + (RANDOM % 20000)))
        if ! open_port "$port"; then break; fi
    done
    printf 'intake:\n  http: {listen: "127.0.0.1:%s"}\n' "$port" >>"$dir/sink.yaml"
    WAXSEAL_LOG=warn "$bin/waxseal-sink" --config "$dir/sink.yaml" &
    sink=$!
    started+=("$sink")
    for _ in $(seq 100); do
        if open_port "$port"; then break; fi
        sleep 0.1
    done
}

# find_fluent_bit: $shipper, or the end.
find_fluent_bit() {
    shipper="${FLUENT_BIT:-$(command -v fluent-bit || true)}"
    if [ -z "$shipper" ]; then
        echo "no Fluent Bit here: name its binary in FLUENT_BIT" >&2
        exit 1
    fi
    printf '[PLUGINS]\n    Path %s\n' "$bin/libwaxseal_sink.so" >"$dir/plugins.conf"
}

json_parser() { printf '[PARSER]\n    name json\n    format json\n' >"$dir/parsers.conf"; }

# run_shipper: $dir/fluent-bit.yaml to the end of its input of $count events; $result: CPU seconds of the whole process, CPU
# microseconds an event, peak resident MiB.
run_shipper() {
    "$shipper" -c "$dir/fluent-bit.yaml" >"$dir/log" 2>&1 &
    pid=$!
    started=("$pid")
    peak=0
    cpu=0
    while [ -r "/proc/$pid/stat" ]; do
        now=$(awk '$1 == "VmHWM:" {print $2}' "/proc/$pid/status" 2>/dev/null || true)
        ticks=$(awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/$pid/stat" 2>/dev/null || true)
        peak="${now:-$peak}"
        cpu="${ticks:-$cpu}"
        sleep 0.02
    done
    wait "$pid" || { cat "$dir/log" >&2; exit 1; }
    started=()
    result=$(awk -v c="$cpu" -v p="$peak" -v n="$count" 'BEGIN {printf "%.2f %.2f %d", c / 100, c * 10000 / n, p / 1024}')
}

# tail_through SERVICE PIPELINE: $dir/events, JSON, to the end of the file, with more lines of both; $result as of run_shipper.
tail_through() {
    cat >"$dir/fluent-bit.yaml" <<YAML
service:
  flush: 1
  log_level: error
  parsers_file: $dir/parsers.conf
$1
pipeline:
  inputs:
    - name: tail
      path: $dir/events
      tag: bench
      parser: json
      read_from_head: true
      exit_on_eof: true
$2
YAML
    run_shipper
}
