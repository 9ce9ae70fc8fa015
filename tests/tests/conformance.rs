//! `waxseal verify` over the conformance kit, and over the shared one where it lies beside the project.

use std::path::{Path, PathBuf};
use waxseal_e2e::kit::{Case, copy_dir};
use waxseal_store::{LocalStore, disk::RealDisk};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;
use waxseal_verify::{Anchor, Memory, Options, Silent, verify};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cases(kit: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(kit.join("cases.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The exit status and the verdicts for a case.
fn judge(kit: &Path, trust: &Trust, case: &Case) -> (u8, Vec<String>, String) {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&kit.join("good"), dir.path()).unwrap();
    for op in &case.ops {
        op.apply(dir.path()).unwrap();
    }
    let store = LocalStore::new(std::sync::Arc::new(RealDisk), dir.path(), "test");
    let flag = |f: &str| case.args.iter().any(|a| a == f);
    let options = Options {
        anchor: Anchor::File(Box::new(trust.clone())),
        quick: flag("--quick"),
        writer: None,
        since: None,
        until: None,
        now: Time::parse(&case.as_of).unwrap(),
        restore: false,
        threads: 1,
        memories: case
            .args
            .iter()
            .zip(case.args.iter().skip(1))
            .filter(|(flag, _)| *flag == "--checkpoint")
            .map(|(_, file)| file.replace("{kit}", &kit.display().to_string()))
            .map(|file| Memory { checkpoint: Ok(std::fs::read(&file).unwrap()), what: file, at: None })
            .collect(),
        chains: Default::default(),
    };
    let report = verify(&store, &options, &Silent);
    let verdicts = report.findings.iter().map(|f| f.verdict.name().to_owned()).collect();
    let text = serde_json::to_string_pretty(&report.findings).unwrap();
    (report.exit_status(flag("--strict"), false), verdicts, text)
}

fn run(kit: &Path, trust: &Trust) {
    let (mut ran, mut wrong) = (0, 0);
    for case in cases(kit) {
        ran += 1;
        let (exit, verdicts, findings) = judge(kit, trust, &case);
        let missing: Vec<_> = case.expect.verdicts.iter().filter(|v| !verdicts.contains(v)).collect();
        if exit != case.expect.exit || !missing.is_empty() {
            wrong += 1;
            println!(
                "{:?}: exit {exit}, expected {}; missing {missing:?}\n{findings}",
                case.name, case.expect.exit
            );
        }
    }
    println!("{ran} cases of {}, {wrong} wrong", kit.display());
    assert_eq!(wrong, 0);
    assert!(ran > 0);
}

fn trust(kit: &Path) -> Trust {
    let text = std::fs::read_to_string(kit.join("trust.yaml")).unwrap();
    Trust::parse(&text, &|_| Err("no files".to_owned())).unwrap()
}

#[test]
fn own_kit() {
    let kit = root().join("conformance");
    run(&kit, &trust(&kit));
}

#[test]
fn shared_kit() {
    let kit = root().join("../shared/conformance");
    if !kit.exists() {
        println!("not there: {}; skipped", kit.display());
        return;
    }
    run(&kit, &trust(&kit));
}

#[test]
fn the_pages_example_is_what_the_code_makes() {
    let page = std::fs::read_to_string(root().join("docs/format.md")).unwrap();
    let kit = root().join("conformance");
    assert_eq!(page, waxseal_e2e::example::with_example(&page, &kit), "run make-kit");
}
