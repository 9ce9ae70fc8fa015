//! How the library that Fluent Bit loads is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A hot reload closes the library and opens it again: its threads and statics must not lose their code.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // What libraries of ours export for C (crc-fast does) is none of the host's business.
    println!("cargo::rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
}
