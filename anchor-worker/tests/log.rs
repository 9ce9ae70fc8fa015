//! The log in its store: it is that of the list of its entries, whatever it is stopped at, and whoever else writes.

#![allow(clippy::unwrap_used)] // a test

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use waxseal_anchor::log::{Committed, Log, LogError, NEWEST, checkpoint_key, newest};
use waxseal_store::sim::{Fault, SimDisk, Survive};
use waxseal_store::{LocalStore, Retain, Store};
use waxseal_trail::hash::{Hash, leaf_hash, sha256};
use waxseal_trail::log::note::{Kind, VerifierKey};
use waxseal_trail::log::tile::Tile;
use waxseal_trail::merkle;
use waxseal_trail::statement::Lock;
use waxseal_trail::time::Time;

fn signing() -> SigningKey {
    SigningKey::from_bytes(&[11; 32])
}

fn key() -> VerifierKey {
    VerifierKey::new("example.org/trail/0011223344556677", Kind::Note, signing().verifying_key().as_bytes())
        .unwrap()
}

fn retain() -> Retain {
    Retain { lock: Lock::None, until: Time::from_unix(1_900_000_000, 0).unwrap() }
}

fn sign(text: &[u8]) -> Result<[u8; 64], String> {
    Ok(signing().sign(text).to_bytes())
}

fn entry(n: usize) -> Vec<u8> {
    format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(n % 97)).into_bytes()
}

fn store_on(disk: &SimDisk, tag: &str) -> LocalStore {
    LocalStore::new(Arc::new(disk.clone()), "/trail", tag)
}

fn disk() -> SimDisk {
    use waxseal_store::disk::Disk as _;
    let disk = SimDisk::default();
    disk.create_dir(Path::new("/trail"), false).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// Every entry of the newest checkpoint, from its bundles alone; each checkpoint is the root of a prefix.
fn entries_of(store: &dyn Store) -> Vec<Vec<u8>> {
    let Some(newest) = newest(store, &key()).unwrap() else { return Vec::new() };
    let size = newest.checkpoint.size;
    let mut all = Vec::new();
    for index in 0..size.div_ceil(256) {
        let tile = Tile::of(size, None, index).unwrap();
        let bytes =
            store.get(&format!("log/{}", tile.path())).unwrap().unwrap_or_else(|| panic!("{}", tile.path()));
        all.extend(tile.entries(&bytes).unwrap().into_iter().map(<[u8]>::to_vec));
    }
    let leaves: Vec<Hash> = all.iter().map(|e| leaf_hash(e)).collect();
    let mut before = 0;
    for n in 0..=newest.number {
        let c = waxseal_anchor::log::checkpoint(store, &key(), n).unwrap().unwrap().checkpoint;
        assert!(c.size > before, "checkpoint {n}");
        assert_eq!(merkle::root(&leaves[..c.size as usize]), c.root, "checkpoint {n}");
        before = c.size;
    }
    // Its tiles are those of the page, computed from the list.
    let mut level = leaves.clone();
    for l in 0..8 {
        for index in 0..(level.len() as u64).div_ceil(256) {
            let at = index as usize * 256;
            let hashes = &level[at..level.len().min(at + 256)];
            let tile = Tile { level: Some(l), index, width: hashes.len() as u16 };
            let bytes = store.get(&format!("log/{}", tile.path())).unwrap();
            let wanted: Vec<u8> = hashes.iter().flat_map(|h| h.0).collect();
            assert_eq!(bytes.as_deref(), Some(&wanted[..]), "{}", tile.path());
        }
        level = level.chunks_exact(256).map(merkle::root).collect();
    }
    all
}

#[test]
fn rounds_make_one_log() {
    let disk = disk();
    let store = store_on(&disk, "a");
    let mut n = 0;
    for (round, many) in [1, 255, 1, 0, 300, 1, 700].into_iter().enumerate() {
        let mut log = Log::open(&store, key(), retain()).unwrap();
        assert_eq!(log.size(), n as u64);
        for _ in 0..many {
            log.append(&entry(n)).unwrap();
            n += 1;
        }
        assert_eq!(log.has_grown(), many > 0);
        let committed = log.commit(sign).unwrap().cloned().unwrap();
        assert_eq!(
            (committed.number, committed.checkpoint.size),
            (round as u64 - u64::from(round > 2), n as u64)
        );
        assert_eq!(store.get(NEWEST).unwrap(), Some(committed.bytes));
        let path = log.inclusion_proof(n as u64 - 1).unwrap();
        let head = committed.checkpoint.root;
        assert!(merkle::verify_inclusion(&leaf_hash(&entry(n - 1)), n as u64 - 1, n as u64, &path, &head));
        let proof = log.consistency_proof(1).unwrap();
        assert!(merkle::verify_consistency(1, &leaf_hash(&entry(0)), n as u64, &head, &proof));
    }
    assert_eq!(entries_of(&store), (0..n).map(entry).collect::<Vec<_>>());
    // Nothing else lies there.
    let kept = store.list("log/", None, 10_000).unwrap().keys;
    assert!(
        kept.iter()
            .all(|k| k == NEWEST || k.starts_with("log/checkpoints/") || Tile::parse(&k[4..]).is_some())
    );
    assert!(matches!(
        Log::open(&store, key(), retain()).unwrap().append(&[0; 65_536]),
        Err(LogError::TooLong(_))
    ));
}

/// What a worker does: opens the log, adds what is missing of the first `wanted` entries, commits.
fn round(store: &dyn Store, wanted: usize) -> Result<Committed, LogError> {
    let mut log = Log::open(store, key(), retain())?;
    for n in log.size() as usize..wanted {
        log.append(&entry(n))?;
    }
    Ok(log.commit(sign)?.cloned().unwrap())
}

/// Stopped at each call of the disk, in each way, a worker goes on, and the log is that of the list.
#[test]
fn stopped_anywhere_it_goes_on() {
    let sizes = [3, 255, 257, 600];
    // How many calls there are.
    let count = disk();
    let before: Vec<u64> = sizes
        .iter()
        .map(|wanted| {
            let at = count.calls();
            round(&store_on(&count, "a"), *wanted).unwrap();
            at
        })
        .collect();
    let calls = count.calls();
    let mut tried = 0;
    for at in before[0]..calls {
        for (i, (fault, survive)) in [
            (Fault::CrashBefore, Survive::Nothing),
            (Fault::CrashAfter, Survive::All),
            (Fault::CrashAfter, Survive::Torn(at)),
            (Fault::CrashBefore, Survive::Torn(at * 31 + 7)),
        ]
        .into_iter()
        .enumerate()
        {
            let disk = disk();
            disk.plan(at, fault);
            let mut shown: Vec<Committed> = Vec::new();
            for wanted in sizes {
                let mut lives = 0;
                loop {
                    lives += 1;
                    assert!(lives < 4, "call {at}: {:?}", disk.log().last());
                    let store = store_on(&disk, &format!("{lives}"));
                    match round(&store, wanted) {
                        Ok(c) => {
                            shown.push(c);
                            break;
                        }
                        Err(e) => {
                            assert!(disk.crashed(), "call {at}, way {i}: {e}");
                            disk.reboot(survive);
                        }
                    }
                }
            }
            disk.reboot(Survive::All);
            let store = store_on(&disk, "end");
            // What was shown to the world stays, and grows.
            assert!(shown.is_sorted_by_key(|c| (c.number, c.checkpoint.size)));
            for c in shown {
                let there = waxseal_anchor::log::checkpoint(&store, &key(), c.number).unwrap();
                assert_eq!(there, Some(c), "call {at}, way {i}");
            }
            assert_eq!(entries_of(&store), (0..600).map(entry).collect::<Vec<_>>(), "call {at}, way {i}");
            tried += 1;
        }
    }
    println!("stopped {tried} times, at each of {} calls", calls - before[0]);
    assert!(tried > 400);
}

/// Two at once: one commits, the other opens the log again; nothing forks.
#[test]
fn of_two_workers_one_commits() {
    let disk = disk();
    let (a, b) = (store_on(&disk, "a"), store_on(&disk, "b"));
    round(&a, 5).unwrap();
    let mut first = Log::open(&a, key(), retain()).unwrap();
    let mut second = Log::open(&b, key(), retain()).unwrap();
    first.append(&entry(5)).unwrap();
    (5..9).for_each(|n| second.append(&entry(n)).unwrap());
    let committed = first.commit(sign).unwrap().cloned().unwrap();
    assert!(matches!(second.commit(sign), Err(LogError::Overtaken(1))));
    assert!(matches!(second.commit(sign), Err(LogError::Broken)));
    assert!(matches!(second.append(&entry(9)), Err(LogError::Broken)));
    assert_eq!(newest(&b, &key()).unwrap(), Some(committed));
    let last = round(&b, 9).unwrap();
    assert_eq!((last.number, last.checkpoint.size), (2, 9));
    assert_eq!(entries_of(&a), (0..9).map(entry).collect::<Vec<_>>());
}

#[test]
fn what_was_changed_behind_its_back_is_named() {
    let disk = disk();
    let store = store_on(&disk, "a");
    round(&store, 300).unwrap();
    round(&store, 600).unwrap();
    let open = || Log::open(&store, key(), retain()).map(|l| l.size());
    assert_eq!(open().unwrap(), 600);
    let file = |key: &str| Path::new("/trail").join(key);
    for (key, missing) in [
        ("log/tile/0/002.p/88", "log/tile/0/002.p/88"),
        ("log/tile/1/000.p/2", "log/tile/0/002.p/88"),
        ("log/tile/entries/002.p/88", "log/tile/entries/002.p/88"),
        ("log/tile/0/001", "log/checkpoints/000000000000"),
    ] {
        let flip = |disk: &SimDisk| disk.poke(&file(key), |bytes| bytes[40] ^= 1);
        flip(&disk);
        let result = open();
        assert!(
            matches!(&result, Err(LogError::Damaged { object, .. }) if object == missing),
            "{key}: {result:?}"
        );
        flip(&disk);
        let cut = disk.peek(&file(key)).unwrap();
        disk.poke(&file(key), |bytes| bytes.truncate(31));
        assert!(open().is_err(), "{key}");
        disk.poke(&file(key), |bytes| *bytes = cut.clone());
    }
    // A checkpoint that the log did not sign is none: the one before is the newest.
    disk.poke(&file(&checkpoint_key(1)), |bytes| bytes[40] ^= 1);
    assert_eq!(open().unwrap(), 600, "what was left behind checkpoint 0 is taken up");
    let e = round(&store, 600).unwrap_err();
    assert!(matches!(&e, LogError::Occupied(o) if *o == checkpoint_key(1)), "{e}");
    disk.poke(&file(&checkpoint_key(1)), |bytes| bytes[40] ^= 1);
    assert_eq!(open().unwrap(), 600);
    // Another key's log.
    let other = VerifierKey::new(
        key().name(),
        Kind::Note,
        SigningKey::from_bytes(&[12; 32]).verifying_key().as_bytes(),
    );
    assert!(newest(&store, &other.unwrap()).unwrap().is_none());
    // A key that signs something else.
    let mut log = Log::open(&store, key(), retain()).unwrap();
    log.append(&entry(600)).unwrap();
    assert!(matches!(log.commit(|_| Ok([0; 64])), Err(LogError::Sign(_))));
    assert!(store.get(&checkpoint_key(2)).unwrap().is_none());
}

#[test]
fn the_newest_of_many_is_found_with_few_looks() {
    let disk = disk();
    let store = store_on(&disk, "a");
    let mut wanted = BTreeSet::new();
    for n in 0..40u64 {
        let c = round(&store, n as usize + 1).unwrap();
        assert_eq!(c.number, n);
        let before = disk.calls();
        assert_eq!(newest(&store, &key()).unwrap(), Some(c.clone()));
        wanted.insert(c.number);
        // Each look is a head and a read, which are a few calls of the disk.
        assert!(disk.calls() - before < 15 * 12, "{n}: {}", disk.calls() - before);
    }
    // What lies above a gap is no round of the log's.
    let bytes = Bytes::from(newest(&store, &key()).unwrap().unwrap().bytes);
    store.put_if_absent(&checkpoint_key(99), &bytes, &sha256(&bytes), &retain()).unwrap();
    assert_eq!(newest(&store, &key()).unwrap().unwrap().number, 39, "a copy of an old one is nothing new");
    // But a later one of the log's, with one missing before it: nobody may go on below.
    let other = self::disk();
    let longer = store_on(&other, "b");
    (0..43).for_each(|n| drop(round(&longer, n + 1).unwrap()));
    let bytes = Bytes::from(newest(&longer, &key()).unwrap().unwrap().bytes);
    store.put_if_absent(&checkpoint_key(42), &bytes, &sha256(&bytes), &retain()).unwrap();
    let e = newest(&store, &key()).unwrap_err();
    assert!(matches!(&e, LogError::Missing { object, number: 42 } if *object == checkpoint_key(40)), "{e}");
    assert!(round(&store, 50).is_err());
}
