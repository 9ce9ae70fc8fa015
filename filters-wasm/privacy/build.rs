//! What the module must export beside its own functions: Fluent Bit's host copies records in by `malloc`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_FAMILY").as_deref() == Ok("wasm") {
        for name in ["malloc", "free"] {
            println!("cargo:rustc-cdylib-link-arg=--export={name}");
        }
    }
}
