# Real S3 servers for the tests, without root: Ceph's gateway from Debian's packages, unpacked into the user's cache, and
# LocalStack from Python's. Sourced, with $cache set. What cannot be had is said here, and the tests say what they did
# not try.

ceph="$cache/ceph-1"
if command -v radosgw >/dev/null 2>&1 && command -v ceph-mon >/dev/null 2>&1 && command -v ceph-osd >/dev/null 2>&1; then
    export WAXSEAL_CEPH=/
elif command -v apt-get >/dev/null 2>&1; then
    if [ ! -x "$ceph/usr/bin/radosgw" ]; then
        echo "unpacking Ceph into $ceph for the tests"
        tmp="$(mktemp -d)"
        apt-get update -qq >/dev/null 2>&1 || true
        # With all that they need and this machine has not got.
        packages="$(apt-get install --simulate --no-install-recommends radosgw ceph-mon ceph-osd 2>/dev/null | sed -n 's/^Inst \([^ ]*\) .*/\1/p')"
        # shellcheck disable=SC2086
        if [ -n "$packages" ] && (cd "$tmp" && apt-get download -qq $packages >/dev/null 2>&1); then
            rm -rf "$ceph" "$ceph.new"
            mkdir -p "$ceph.new"
            for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$ceph.new"; done
            mv "$ceph.new" "$ceph"
        else
            echo "no Ceph can be had" >&2
        fi
        rm -rf "$tmp"
    fi
    if bash tests/s3/ceph.sh version "$ceph" >/dev/null 2>&1; then export WAXSEAL_CEPH="$ceph"; fi
fi

localstack="$cache/localstack-1"
if ! "$localstack/bin/python" -c 'import localstack.runtime.main' 2>/dev/null; then
    echo "making $localstack for the tests' S3 server"
    rm -rf "$localstack"
    if ! { python3 -m venv "$localstack" && "$localstack/bin/pip" install --quiet --no-deps -r tests/s3/requirements.txt; }; then
        echo "no LocalStack can be had" >&2
        rm -rf "$localstack"
    fi
fi
if [ -x "$localstack/bin/python" ]; then export WAXSEAL_LOCALSTACK="$localstack/bin/python"; fi
