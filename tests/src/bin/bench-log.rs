//! A million statements appended to a log in one run on the local store, beside the same bytes hashed and written plainly.
//!
//! `make bench-log`; prints rates, their ratio, and the peak of the resident memory.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;
use waxseal_anchor::log::Log;
use waxseal_e2e::fleet::Fleet;
use waxseal_e2e::forge::at;
use waxseal_e2e::process::{local_store, peak_resident};
use waxseal_signing::Signer as _;
use waxseal_store::Retain;
use waxseal_trail::hash::{Hash, leaf_hash};
use waxseal_trail::merkle::TreeHead;
use waxseal_trail::statement::Lock;

fn main() {
    let count: u64 = std::env::args().nth(1).map_or(1_000_000, |n| n.parse().expect("a number"));
    // As large as a header under an Ed25519 key.
    let mut entry = vec![b'x'; 1_700];
    let dir = tempfile::tempdir().expect("a directory");
    let fleet = Fleet::new(&[]);
    let signer = fleet.worker_key();
    let sign = |text: &[u8]| {
        signer.sign(text).map_err(|e| e.to_string())?.try_into().map_err(|_| "not Ed25519".to_owned())
    };
    println!("{count} statements of {} bytes", entry.len());
    let began = Instant::now();
    let mut file =
        std::io::BufWriter::new(std::fs::File::create(dir.path().join("plain")).expect("writable"));
    let mut head = TreeHead::default();
    for n in 0..count {
        entry[..8].copy_from_slice(&n.to_be_bytes());
        head.push(leaf_hash(&entry));
        file.write_all(&entry).expect("written");
    }
    file.into_inner().expect("written").sync_all().expect("synced");
    let plain = began.elapsed();
    let rate = |t: std::time::Duration| count as f64 / t.as_secs_f64();
    println!("hashed and written to one file, synced once: {:.0} a second", rate(plain));
    let store = Arc::new(local_store(dir.path()));
    let before = peak_resident(std::process::id()).unwrap_or(0);
    let retain = Retain { lock: Lock::None, until: at(86_400) };
    let began = Instant::now();
    let mut log = Log::open(&*store, fleet.log.clone(), retain, None).expect("a log");
    log.resume(&mut |_, _| true).expect("a log");
    let mut middle = 0;
    for n in 0..count {
        entry[..8].copy_from_slice(&n.to_be_bytes());
        log.append(&entry).expect("appended");
        if n == count / 10 {
            middle = peak_resident(std::process::id()).unwrap_or(0);
        }
    }
    let committed = log.commit(sign).expect("committed").cloned().expect("grown");
    let took = began.elapsed();
    let after = peak_resident(std::process::id()).unwrap_or(0);
    let same: Hash = committed.checkpoint.root;
    assert_eq!((committed.checkpoint.size, same), (count, head.root()));
    println!(
        "appended and committed, every bundle and tile synced: {:.0} a second, {:.2} of that",
        rate(took),
        rate(took) / rate(plain)
    );
    println!("resident memory at its peak: {before} KiB before, {middle} after a tenth, {after} at the end");
}
