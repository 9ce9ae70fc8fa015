#!/usr/bin/env bash
# Builds waxseal-trail for wasm32-unknown-unknown: with the toolchain's own target where it is installed, else with
# Debian's Rust for the web and its sources, unpacked into the user's cache. Says so where neither can be had.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/waxseal"
target=wasm32-unknown-unknown
export CARGO_TARGET_DIR="$cache/wasm"
build() { cargo build --locked --quiet -p waxseal-trail --lib --target "$target" "$@"; }

if [ -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ]; then
    build
    echo "waxseal-trail builds for $target (the toolchain's own target)"
    exit
fi
web="$cache/rust-web-1"
if [ ! -x "$web/rustc" ] && command -v apt-get >/dev/null 2>&1; then
    tmp="$(mktemp -d)"
    trap 'rm -rf "$tmp"' EXIT
    # Old lists name an old Rust; without the right to fetch new ones, the old must do.
    apt-get update -qq >/dev/null 2>&1 || true
    std="$(apt-cache depends libstd-rust-web-dev 2>/dev/null | sed -n 's/.*Depends: \(libstd-rust-web-[0-9.]*\)$/\1/p' | head -n 1)"
    llvm="$(apt-cache depends "${std:-none}" 2>/dev/null | sed -n 's/.*Depends: \(libllvm[0-9.]*\)$/\1/p' | head -n 1)"
    if [ -n "$std" ] && [ -n "$llvm" ] &&
        (cd "$tmp" && apt-get download -qq rustc-web rust-web-src libstd-rust-web-dev "$std" "$llvm" >/dev/null 2>&1); then
        mkdir -p "$web/root"
        for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$web/root"; done
        printf '#!/bin/sh\nLD_LIBRARY_PATH="%s/usr/lib/x86_64-linux-gnu:%s/usr/lib" exec "%s/usr/bin/rustc" "$@"\n' \
            "$web/root" "$web/root" "$web/root" >"$web/rustc"
        chmod +x "$web/rustc"
    fi
fi
minor="$("$web/rustc" --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p' || true)"
if [ "${minor:-0}" -ge 94 ]; then
    RUSTC_BOOTSTRAP=1 RUSTC="$web/rustc" build -Zbuild-std=std,panic_abort
    echo "waxseal-trail builds for $target ($("$web/rustc" --version), standard library from source)"
else
    echo "no toolchain for $target can be had here: that waxseal-trail builds for it was not checked" >&2
fi
