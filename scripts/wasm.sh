#!/usr/bin/env bash
# Builds what runs as WebAssembly: waxseal-trail for browsers (wasm32-unknown-unknown), and the filters as modules
# (wasm32-wasip1), which go to the user's cache: filters/enrich.wasm and privacy.wasm, with their SHA-256. With the toolchain's own targets
# where they are installed, else with Debian's Rust for the web and its sources, unpacked into the user's cache. Says so where
# neither can be had.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/waxseal"
export CARGO_TARGET_DIR="$cache/wasm"
# Nothing of this machine in a module: two builds give the same bytes. (Cargo names the workspace's own files relative to it.)
remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$CARGO_TARGET_DIR=/target"
export CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=true CARGO_PROFILE_RELEASE_LTO=fat
export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_PANIC=abort
filters=(enrich privacy)

has() { [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ]; }
trail() { cargo build --locked --quiet -p waxseal-trail --lib --target wasm32-unknown-unknown "$@"; }
modules() {
    local f
    for f in "${filters[@]}"; do
        cargo build --locked --quiet --release -p "waxseal-$f" --lib --target wasm32-wasip1 "$@"
    done
    mkdir -p "$cache/filters"
    for f in "${filters[@]}"; do
        # In place at once: a test may be reading the old one.
        cp "$CARGO_TARGET_DIR/wasm32-wasip1/release/waxseal_$f.wasm" "$cache/filters/.$f.wasm.tmp"
        mv "$cache/filters/.$f.wasm.tmp" "$cache/filters/$f.wasm"
        (cd "$cache/filters" && sha256sum "$f.wasm")
    done
}

# Debian's Rust for the web, its sources, and WASI's C library, unpacked.
web="$cache/rust-web-2"
debian() {
    if [ ! -x "$web/rustc" ] && command -v apt-get >/dev/null 2>&1; then
        tmp="$(mktemp -d)"
        trap 'rm -rf "$tmp"' EXIT
        # Old lists name an old Rust; without the right to fetch new ones, the old must do.
        apt-get update -qq >/dev/null 2>&1 || true
        std="$(apt-cache depends libstd-rust-web-dev 2>/dev/null | sed -n 's/.*Depends: \(libstd-rust-web-[0-9.]*\)$/\1/p' | head -n 1)"
        llvm="$(apt-cache depends "${std:-none}" 2>/dev/null | sed -n 's/.*Depends: \(libllvm[0-9.]*\)$/\1/p' | head -n 1)"
        if [ -n "$std" ] && [ -n "$llvm" ] &&
            (cd "$tmp" && apt-get download -qq rustc-web rust-web-src libstd-rust-web-dev wasi-libc "$std" "$llvm" >/dev/null 2>&1); then
            mkdir -p "$web/root"
            for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$web/root"; done
            printf '#!/bin/sh\nLD_LIBRARY_PATH="%s/usr/lib/x86_64-linux-gnu:%s/usr/lib" exec "%s/usr/bin/rustc" "$@"\n' \
                "$web/root" "$web/root" "$web/root" >"$web/rustc"
            chmod +x "$web/rustc"
        fi
    fi
    minor="$("$web/rustc" --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p' || true)"
    [ "${minor:-0}" -ge 95 ]
}

if has wasm32-unknown-unknown; then
    trail
    echo "waxseal-trail builds for wasm32-unknown-unknown (the toolchain's own target)"
elif debian; then
    RUSTC_BOOTSTRAP=1 RUSTC="$web/rustc" trail -Zbuild-std=std,panic_abort
    echo "waxseal-trail builds for wasm32-unknown-unknown ($("$web/rustc" --version), standard library from source)"
else
    echo "no toolchain for wasm32-unknown-unknown can be had here: that waxseal-trail builds for it was not checked" >&2
fi

if has wasm32-wasip1; then
    export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="$remap"
    echo "filters are built for wasm32-wasip1 (the toolchain's own target)"
    modules
elif debian; then
    linker="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/rust-lld"
    [ -x "$linker" ] || linker="$(command -v wasm-ld || true)"
    if [ -z "$linker" ]; then
        echo "no linker for WebAssembly (rust-lld, wasm-ld) can be had here: the filters were not built" >&2
        exit
    fi
    libc="$web/root/usr/lib/wasm32-wasi"
    export CARGO_TARGET_WASM32_WASIP1_LINKER="$linker"
    # A start file that makes a library of it (a reactor): without one each export would begin and end a program.
    export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="$remap --remap-path-prefix=$web=/rust -L native=$libc -C link-self-contained=no -C link-arg=$libc/crt1-reactor.o -C link-arg=--export=_initialize"
    echo "filters are built for wasm32-wasip1 ($("$web/rustc" --version), standard library from source)"
    RUSTC_BOOTSTRAP=1 RUSTC="$web/rustc" modules -Zbuild-std=std,panic_abort
else
    echo "no toolchain for wasm32-wasip1 can be had here: the filters were not built, and what needs them is not tested" >&2
fi
