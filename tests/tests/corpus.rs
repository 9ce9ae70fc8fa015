//! Every input that fuzzing has been given to keep, through what it asserts: seeds, and each finding since.

use std::collections::BTreeSet;
use std::path::Path;
use waxseal_e2e::fuzz::TARGETS;

#[test]
fn the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, check) in TARGETS {
        let mut files: Vec<_> = std::fs::read_dir(corpus.join(name))
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .map(|f| f.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in &files {
            let data = std::fs::read(file).unwrap();
            let held = std::panic::catch_unwind(|| check(&data));
            assert!(held.is_ok(), "{} does not hold: see above", file.display());
        }
        println!("{name}: {} inputs", files.len());
    }
}

#[test]
fn every_target_is_fuzzed_and_has_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(fuzz.join(dir)).unwrap();
        entries.map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let listed: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), listed);
    assert_eq!(names("corpus"), listed);
}
