#!/usr/bin/env bash
# Ceph's RADOS gateway for tests: one monitor, one store in memory, one gateway, on loopback, as whoever runs this; no
# systemd, no cephx, no block device.
#   ceph.sh up ROOT DIR PORT ACCESS SECRET PID   starts one in DIR, which ends with process PID at the latest
#   ceph.sh user ROOT DIR NAME ACCESS SECRET adds a user
#   ceph.sh down ROOT DIR                    ends what `up` started there, and waits for it
#   ceph.sh version ROOT
# ROOT is where Debian's packages are unpacked (scripts/s3.sh), or / where they are installed.
set -euo pipefail
command=${1:?up, user, down or version}
ROOT=${2:?root}
ROOT=${ROOT%/}
export PATH="$ROOT/usr/bin:$ROOT/usr/sbin:$PATH"
libraries="$ROOT/usr/lib/x86_64-linux-gnu"
where=""
if [ -n "$ROOT" ]; then
    export PYTHONPATH="$ROOT/usr/lib/python3/dist-packages"
    export LD_LIBRARY_PATH="$libraries:$libraries/ceph:$ROOT/lib/x86_64-linux-gnu"
    where="plugin_dir = $libraries/ceph
erasure_code_dir = $libraries/ceph/erasure-code
osd_class_dir = $libraries/rados-classes"
fi
if [ "$command" = version ]; then exec radosgw --version; fi
DIR=${3:?dir}
if [ "$command" = down ]; then
    for f in "$DIR"/run/{rgw,osd,mon}.pid; do
        [ -f "$f" ] || continue
        p=$(cat "$f")
        kill "$p" 2>/dev/null || true
        for _ in $(seq 40); do
            kill -0 "$p" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$p" 2>/dev/null || true
        rm -f "$f"
    done
    exit 0
fi
if [ "$command" = user ]; then
    exec radosgw-admin --no-mon-config -c "$DIR/ceph.conf" -n client.rgw.a user create --uid="$4" --display-name="$4" \
        --access-key="$5" --secret-key="$6" >/dev/null
fi
PORT=${4:?port} AK=${5:?access key} SK=${6:?secret key} WATCH=${7:?pid}
# Two more ports, below the ones that the system gives out.
MON1=$((10000 + RANDOM % 20000)) MON2=$((10000 + RANDOM % 20000))
mkdir -p "$DIR"/{mon.a,osd.0,run,log,crash,rgw}
DIR=$(cd "$DIR" && pwd)
CONF=$DIR/ceph.conf
FSID=$(cat /proc/sys/kernel/random/uuid); OSDUUID=$(cat /proc/sys/kernel/random/uuid)
cat > "$CONF" <<C
[global]
fsid = $FSID
mon_initial_members = a
mon_host = [v2:127.0.0.1:$MON1/0,v1:127.0.0.1:$MON2/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
auth_supported = none
run_dir = $DIR/run
log_file = $DIR/log/\$name.log
pid_file = $DIR/run/\$name.pid
admin_socket = $DIR/run/\$name.\$pid.asok
crash_dir = $DIR/crash
heartbeat_file =
debug_ms = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_max_object_name_len = 1024
$where
[mon]
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
mon_tick_interval = 1
mon_data = $DIR/mon.a
mon_data_avail_crit = 1
mon_max_pg_per_osd = 1000
[osd]
osd_data = $DIR/osd.0
osd_objectstore = memstore
memstore_device_bytes = ${MEMSTORE_BYTES:-2147483648}
osd_class_load_list = *
osd_class_default_list = *
osd_op_num_shards = 2
osd_op_num_threads_per_shard = 1
[client.rgw.a]
# radosgw defaults this to "secure", which auth "none" cannot do
ms_mon_client_mode = crc
rgw_data = $DIR/rgw
rgw_frontends = beast endpoint=127.0.0.1:$PORT
rgw_thread_pool_size = 64
rgw_num_rados_handles = 1
rgw_enable_usage_log = false
rgw_enable_ops_log = false
rgw_crypt_require_ssl = false
rgw_override_bucket_index_max_shards = 1
rgw_s3_auth_use_rados = true
${RGW_EXTRA:-}
C
export CEPH_CONF=$CONF
# The command is a script for Debian's own Python.
ceph=(/usr/bin/python3 "$ROOT/usr/bin/ceph")
monmaptool --create --clobber --fsid "$FSID" --addv a "[v2:127.0.0.1:$MON1,v1:127.0.0.1:$MON2]" "$DIR/monmap" >/dev/null
ceph-mon -c "$CONF" --mkfs -i a --monmap "$DIR/monmap"
ceph-mon -c "$CONF" -i a -f >"$DIR/log/mon.out" 2>&1 & echo $! >"$DIR/run/mon.pid"
for _ in $(seq 100); do timeout 5 "${ceph[@]}" -c "$CONF" --connect-timeout 2 mon stat >/dev/null 2>&1 && break; sleep 0.2; done
"${ceph[@]}" -c "$CONF" osd new "$OSDUUID" 0 >/dev/null
ceph-osd -c "$CONF" -i 0 --mkfs --osd-uuid "$OSDUUID" >"$DIR/log/osd-mkfs.out" 2>&1
ceph-osd -c "$CONF" -i 0 -f >"$DIR/log/osd.out" 2>&1 & echo $! >"$DIR/run/osd.pid"
for _ in $(seq 100); do "${ceph[@]}" -c "$CONF" osd stat 2>/dev/null | grep -q '1 up' && break; sleep 0.3; done
ADM="radosgw-admin --no-mon-config -c $CONF -n client.rgw.a"
$ADM user create --uid=test --display-name=test --access-key="$AK" --secret-key="$SK" >"$DIR/log/user.out" 2>&1   # also makes the default zone
for sc in STANDARD_IA GLACIER; do   # so that these storage classes exist, as on AWS
  $ADM zonegroup placement add --rgw-zonegroup default --placement-id default-placement --storage-class $sc >"$DIR/log/sc.out" 2>&1
  $ADM zone placement add --rgw-zone default --placement-id default-placement --storage-class $sc --data-pool default.rgw.buckets.data >>"$DIR/log/sc.out" 2>&1
done
radosgw --no-mon-config -c "$CONF" -n client.rgw.a -f >"$DIR/log/rgw.out" 2>&1 & echo $! >"$DIR/run/rgw.pid"
for _ in $(seq 300); do curl -fsS -o /dev/null "http://127.0.0.1:$PORT/" 2>/dev/null && break; sleep 0.2; done
curl -fsS -o /dev/null "http://127.0.0.1:$PORT/" || { echo "rgw did not answer; see $DIR/log" >&2; exit 1; }
# Whatever becomes of the test, nothing stays.
(
    while kill -0 "$WATCH" 2>/dev/null && [ -f "$DIR/run/rgw.pid" ]; do sleep 2; done
    exec bash "$0" down "${ROOT:-/}" "$DIR"
) >/dev/null 2>&1 &
