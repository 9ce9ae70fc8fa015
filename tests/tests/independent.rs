//! The second verifier, in Python, over the conformance kits: `tests/independent/verify.py`, written from
//! docs/format.md alone. `make test` installs its two packages and sets `WAXSEAL_PYTHON`.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(args: &[&str], kit: &Path) -> Option<String> {
    let Some(python) = std::env::var_os("WAXSEAL_PYTHON") else {
        println!("WAXSEAL_PYTHON is not set: the independent verifier was not run (make test sets it)");
        return None;
    };
    let out = Command::new(python)
        .arg(root().join("tests/independent/verify.py"))
        .args(args)
        .arg(kit)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    println!("{text}");
    assert!(out.status.success(), "{text}");
    Some(text)
}

#[test]
fn same_verdict_on_every_case() {
    if let Some(text) = run(&["--cases"], &root().join("conformance")) {
        assert!(text.contains(" cases, 0 wrong"));
    }
}

#[test]
fn same_conversions() {
    for kit in ["conformance", "../shared/conformance"] {
        let file = root().join(kit).join("records.jsonl");
        if file.exists() {
            run(&["--records"], &file);
        } else {
            println!("not there: {}", file.display());
        }
    }
}
