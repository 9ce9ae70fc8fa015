# What the end-to-end tests send with: real clients, from the registries into the user's cache. Sourced, with $cache set.
# What cannot be had is said here, and the tests say what they did not try.

clients="$cache/clients-1"
if ! "$clients/bin/python" -c 'import fluent, opentelemetry.sdk, confluent_kafka' 2>/dev/null; then
    echo "making $clients for the tests' Python clients"
    rm -rf "$clients"
    if ! { python3 -m venv "$clients" && "$clients/bin/pip" install --quiet -r tests/clients/requirements.txt; }; then
        echo "no Python clients can be had" >&2
        rm -rf "$clients"
    fi
fi
if [ -x "$clients/bin/python" ]; then export WAXSEAL_CLIENTS="$clients/bin/python"; fi

node="$cache/node-1"
if command -v npm >/dev/null 2>&1 && [ ! -d "$node/node_modules/@fluent-org/logger" ]; then
    echo "making $node for the tests' Node.js clients"
    mkdir -p "$node"
    cp tests/clients/package.json "$node/"
    npm install --silent --no-audit --no-fund --prefix "$node" >/dev/null 2>&1 ||
        echo "no Node.js clients can be had" >&2
fi
if [ -d "$node/node_modules/@fluent-org/logger" ]; then export WAXSEAL_NODE="$node/node_modules"; fi

# syslog-ng, without root: unpacked, with a script that tells it where its parts are.
syslog="$cache/syslog-ng-1"
if ! command -v syslog-ng >/dev/null 2>&1 && [ ! -x "$syslog/syslog-ng" ] && command -v apt-get >/dev/null 2>&1; then
    tmp="$(mktemp -d)"
    apt-get update -qq >/dev/null 2>&1 || true
    if (cd "$tmp" && apt-get download -qq syslog-ng-core syslog-ng-mod-http libivykis0 libjson-c5 libnet1 libcurl4 \
        libpcre3 libwrap0 libglib2.0-0 libcap2 >/dev/null 2>&1); then
        mkdir -p "$syslog/root"
        for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$syslog/root"; done
        modules="$(dirname "$(find "$syslog/root/usr/lib/syslog-ng" -name libhttp.so)")"
        cat >"$syslog/syslog-ng" <<SH
#!/bin/sh
LD_LIBRARY_PATH="$syslog/root/usr/lib/syslog-ng:$syslog/root/usr/lib/x86_64-linux-gnu:$syslog/root/lib/x86_64-linux-gnu" \\
    exec "$syslog/root/usr/sbin/syslog-ng" --module-path="$modules" "\$@"
SH
        chmod +x "$syslog/syslog-ng"
    else
        echo "no syslog-ng can be had" >&2
    fi
    rm -rf "$tmp"
fi
if [ -x "$syslog/syslog-ng" ] && ! command -v syslog-ng >/dev/null 2>&1; then export SYSLOG_NG="$syslog/syslog-ng"; fi

# OpenSSL's command, for its time-stamping authority (openssl ts); likewise, where there is none.
ossl="$cache/openssl-1"
if ! command -v openssl >/dev/null 2>&1 && [ ! -x "$ossl/openssl" ] && command -v apt-get >/dev/null 2>&1; then
    tmp="$(mktemp -d)"
    apt-get update -qq >/dev/null 2>&1 || true
    if (cd "$tmp" && apt-get download -qq openssl libssl3 >/dev/null 2>&1); then
        mkdir -p "$ossl/root"
        for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$ossl/root"; done
        cat >"$ossl/openssl" <<SH
#!/bin/sh
LD_LIBRARY_PATH="$ossl/root/usr/lib/x86_64-linux-gnu" exec "$ossl/root/usr/bin/openssl" "\$@"
SH
        chmod +x "$ossl/openssl"
    else
        echo "no openssl command can be had" >&2
    fi
    rm -rf "$tmp"
fi
if [ -x "$ossl/openssl" ] && ! command -v openssl >/dev/null 2>&1; then export OPENSSL="$ossl/openssl"; fi
