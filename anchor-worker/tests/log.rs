//! The log in its store: it is that of the list of its entries, whatever it is stopped at, and whoever else writes.

#![allow(clippy::unwrap_used)] // a test

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use std::path::Path;
use std::sync::Arc;
use waxseal_anchor::log::{Log, LogError};
use waxseal_log::{Committed, NEWEST, ReadError, checkpoint, checkpoint_key, newest};
use waxseal_store::memory::MemoryBucket;
use waxseal_store::sim::{Errno, Fault, SimDisk, Survive};
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
    salted(n, 0)
}

/// What another worker, or another life of it, found at that time.
fn salted(n: usize, salt: u64) -> Vec<u8> {
    format!("{n} {salt} {}", "x".repeat(n % 97)).into_bytes()
}

/// Whether the entries are one of each number, in order, whoever wrote them.
fn are_all(entries: &[Vec<u8>], count: usize) -> bool {
    let number = |e: &Vec<u8>| String::from_utf8(e.clone()).ok()?.split(' ').next()?.parse().ok();
    entries.len() == count && entries.iter().enumerate().all(|(i, e)| number(e) == Some(i))
}

fn open(store: &dyn Store) -> Result<Log<'_>, LogError> {
    let mut log = Log::open(store, key(), retain(), None)?;
    log.resume(&mut |_, _| true)?;
    Ok(log)
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
    let Some(newest) = newest(store, &key(), None).unwrap() else { return Vec::new() };
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
        let c = checkpoint(store, &key(), n, 0).unwrap().unwrap().checkpoint;
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
        let mut log = open(&store).unwrap();
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
        let path = log.committed().inclusion_proof(n as u64 - 1).unwrap();
        let head = committed.checkpoint.root;
        assert!(merkle::verify_inclusion(&leaf_hash(&entry(n - 1)), n as u64 - 1, n as u64, &path, &head));
        let proof = log.committed().consistency_proof(1).unwrap();
        assert!(merkle::verify_consistency(1, &leaf_hash(&entry(0)), n as u64, &head, &proof));
    }
    assert_eq!(entries_of(&store), (0..n).map(entry).collect::<Vec<_>>());
    // Nothing else lies there.
    let kept = store.list("log/", None, 10_000).unwrap().keys;
    assert!(
        kept.iter()
            .all(|k| k == NEWEST || k.starts_with("log/checkpoints/") || Tile::parse(&k[4..]).is_some())
    );
    assert!(matches!(open(&store).unwrap().append(&[0; 65_536]), Err(LogError::TooLong(_))));
}

/// What a worker does: opens the log, adds what is missing of the first `wanted` entries, commits.
fn round(store: &dyn Store, wanted: usize) -> Result<Committed, LogError> {
    salted_round(store, wanted, 0)
}

fn salted_round(store: &dyn Store, wanted: usize, salt: u64) -> Result<Committed, LogError> {
    let mut log = open(store)?;
    for n in log.size() as usize..wanted {
        log.append(&salted(n, salt))?;
    }
    Ok(log.commit(sign)?.cloned().unwrap())
}

/// Stopped at each call of the disk, in each way, a worker goes on, though it finds other entries each time.
#[test]
fn stopped_anywhere_it_goes_on() {
    let sizes = [3, 255, 257, 300];
    let count = disk();
    let first = count.calls();
    sizes.iter().for_each(|wanted| drop(round(&store_on(&count, "a"), *wanted).unwrap()));
    let calls = count.calls();
    let mut tried = 0;
    for at in first..calls {
        for (fault, survive) in [
            (Fault::CrashBefore, Survive::Nothing),
            (Fault::CrashAfter, Survive::All),
            (Fault::CrashAfter, Survive::Nothing),
            (Fault::CrashAfter, Survive::Torn(at)),
            (Fault::CrashBefore, Survive::Torn(at * 31 + 7)),
            (Fault::FailAfter(Errno::Io), Survive::All),
        ] {
            let what = format!("call {at}, {fault:?}, {survive:?}");
            let disk = disk();
            disk.plan(at, fault);
            let mut shown: Vec<Committed> = Vec::new();
            let mut lives = 0;
            for wanted in sizes {
                let mut tries = 0;
                loop {
                    (lives, tries) = (lives + 1, tries + 1);
                    assert!(tries < 4, "{what}: {:?}", disk.log().last());
                    match salted_round(&store_on(&disk, &format!("{lives}")), wanted, lives) {
                        Ok(c) => {
                            shown.push(c);
                            break;
                        }
                        Err(LogError::Read(ReadError::Store(_))) if disk.crashed() => disk.reboot(survive),
                        Err(LogError::Read(ReadError::Store(_))) => {}
                        Err(e) => panic!("{what}: {e}"),
                    }
                }
            }
            disk.reboot(Survive::Nothing);
            let store = store_on(&disk, "end");
            assert!(are_all(&entries_of(&store), 300), "{what}");
            // A copy that was never durable is put again by whoever opens the log.
            drop(open(&store).unwrap());
            // What was shown to the world stays, and grows.
            assert!(shown.is_sorted_by_key(|c| (c.number, c.checkpoint.size)));
            assert_eq!(store.get(NEWEST).unwrap().as_ref(), shown.last().map(|c| &c.bytes), "{what}");
            for c in shown {
                let there = checkpoint(&store, &key(), c.number, 0).unwrap();
                assert_eq!(there, Some(c), "{what}");
            }
            tried += 1;
        }
    }
    println!("stopped {tried} times, at each of {} calls", calls - first);
    assert!(tried > 600);
}

/// Two at once: one commits, the other opens the log again; nothing forks.
#[test]
fn of_two_workers_one_commits() {
    let disk = disk();
    let (a, b) = (store_on(&disk, "a"), store_on(&disk, "b"));
    round(&a, 5).unwrap();
    let mut first = open(&a).unwrap();
    let mut second = open(&b).unwrap();
    first.append(&entry(5)).unwrap();
    (5..9).for_each(|n| second.append(&entry(n)).unwrap());
    let committed = first.commit(sign).unwrap().cloned().unwrap();
    assert!(matches!(second.commit(sign), Err(LogError::Overtaken(1))));
    assert!(matches!(second.commit(sign), Err(LogError::Broken)));
    assert!(matches!(second.append(&entry(9)), Err(LogError::Broken)));
    assert_eq!(newest(&b, &key(), None).unwrap(), Some(committed));
    let last = round(&b, 9).unwrap();
    assert_eq!((last.number, last.checkpoint.size), (2, 9));
    assert_eq!(entries_of(&a), (0..9).map(entry).collect::<Vec<_>>());
    // Names that both want: the slower one is told that it was overtaken, not to clear the way.
    let mut first = open(&a).unwrap();
    let mut second = open(&b).unwrap();
    (9..300).for_each(|n| first.append(&entry(n)).unwrap());
    first.commit(sign).unwrap();
    let e = (9..300).find_map(|n| second.append(&salted(n, 1)).err()).unwrap();
    assert!(matches!(e, LogError::Overtaken(3)), "{e}");
    assert_eq!(entries_of(&b), (0..300).map(entry).collect::<Vec<_>>());
}

/// What lies behind the newest checkpoint in a directory is logged only if it may be.
#[test]
fn what_nobody_would_log_is_not_taken_up() {
    let disk = disk();
    let store = store_on(&disk, "a");
    round(&store, 5).unwrap();
    let mut bundle = store.get("log/tile/entries/000.p/5").unwrap().unwrap();
    bundle.extend_from_slice(b"\0\x04junk");
    let bundle = Bytes::from(bundle);
    store.put_if_absent("log/tile/entries/000.p/6", &bundle, &sha256(&bundle), &retain()).unwrap();
    let mut log = Log::open(&store, key(), retain(), None).unwrap();
    let e = log.resume(&mut |number, entry| number == 5 && entry != b"junk").err().unwrap();
    assert!(matches!(&e, LogError::Foreign(o) if o == "log/tile/entries/000.p/6"), "{e}");
    assert_eq!(open(&store).unwrap().size(), 6, "a worker that would log it takes it up");
}

/// A store that was set back is not written to by who has seen more.
#[test]
fn an_old_state_is_noticed_by_who_has_seen_more() {
    let (old, new) = (disk(), disk());
    for n in [3, 5] {
        round(&store_on(&old, "a"), n).unwrap();
        round(&store_on(&new, "a"), n).unwrap();
    }
    let seen = round(&store_on(&new, "a"), 9).unwrap();
    let store = store_on(&old, "b");
    let e = Log::open(&store, key(), retain(), Some(&seen)).err().unwrap();
    assert!(matches!(e, LogError::Read(ReadError::Rollback(2))), "{e}");
    let store = store_on(&new, "b");
    assert_eq!(Log::open(&store, key(), retain(), Some(&seen)).unwrap().newest(), Some(&seen));
}

/// The entries of a log in a bucket, by its checkpoints, which are all prefixes of one tree.
fn is_one_log(bucket: &MemoryBucket, count: usize) {
    let log = open(bucket).unwrap();
    let newest = log.newest().unwrap().clone();
    assert_eq!((newest.checkpoint.size, log.size()), (count as u64, count as u64));
    let mut before = 0;
    for n in 0..=newest.number {
        let c = checkpoint(bucket, &key(), n, before).unwrap().unwrap().checkpoint;
        let proof = log.committed().consistency_proof(c.size).unwrap();
        let head = newest.checkpoint.root;
        assert!(merkle::verify_consistency(c.size, &c.root, count as u64, &head, &proof), "checkpoint {n}");
        before = c.size;
    }
    assert!(checkpoint(bucket, &key(), newest.number + 1, before).unwrap().is_none());
}

/// Strangers write first wherever the log will write: junk, and copies of what the log signed before.
#[test]
fn in_a_bucket_strangers_are_passed_by() {
    let bucket = MemoryBucket::default();
    let mut size = 0;
    for (n, more) in [3, 252, 1, 300, 7, 1, 600].into_iter().enumerate() {
        size += more;
        for level in 0..3 {
            if let Some(tile) = Tile::of(size as u64, Some(level), size as u64 >> (8 * (level + 1))) {
                bucket.stranger(&format!("log/{}", tile.path()), &vec![7; usize::from(tile.width) * 32]);
            }
        }
        bucket.stranger(
            &format!("log/{}", Tile { level: Some(0), index: n as u64 / 2, width: 256 }.path()),
            &[9; 8192],
        );
        if let Some(tile) = Tile::of(size as u64, None, size as u64 / 256) {
            bucket.stranger(&format!("log/{}", tile.path()), b"junk");
        }
        bucket.stranger(&checkpoint_key(n as u64), b"junk");
        // Copies of the first ones under the next numbers, rising.
        for old in 0..n.min(3) as u64 {
            let copy = checkpoint(&bucket, &key(), old, 0).unwrap().unwrap();
            bucket.stranger(&checkpoint_key(n as u64 + old), &copy.bytes);
        }
        let committed = round(&bucket, size).unwrap();
        assert_eq!((committed.number, committed.checkpoint.size), (n as u64, size as u64));
        is_one_log(&bucket, size);
    }
}

/// A round that was stopped has left a full tile of other entries: the next ones write theirs beside, and know which is which.
#[test]
fn in_a_bucket_a_stopped_round_is_in_nobodys_way() {
    let bucket = MemoryBucket::default();
    round(&bucket, 5).unwrap();
    let mut stopped = open(&bucket).unwrap();
    (5..600).for_each(|n| stopped.append(&salted(n, 1)).unwrap());
    drop(stopped);
    for (n, size) in [10, 310, 900].into_iter().enumerate() {
        assert_eq!(round(&bucket, size).unwrap().number, n as u64 + 1);
        is_one_log(&bucket, size);
        // Entries that are not committed yet change nothing about proofs.
        let mut log = open(&bucket).unwrap();
        (0..3).for_each(|n| log.append(&entry(n)).unwrap());
        let c = log.newest().unwrap().checkpoint.clone();
        let path = log.committed().inclusion_proof(c.size - 1).unwrap();
        let leaf = leaf_hash(&entry(size - 1));
        assert!(merkle::verify_inclusion(&leaf, c.size - 1, c.size, &path, &c.root));
    }
}

/// The note, a blank line, the log's own signature: a line more, and it is another object than the one that was time-stamped.
#[test]
fn a_checkpoint_has_one_form_in_the_store() {
    let bucket = MemoryBucket::default();
    let good = round(&bucket, 4).unwrap();
    let more = [&good.bytes[..], "\u{2014} x AAAAAAA=\n".as_bytes()].concat();
    let other = MemoryBucket::default();
    other.stranger(&checkpoint_key(0), &more);
    assert_eq!(newest(&other, &key(), None).unwrap(), None);
    other.stranger(&checkpoint_key(0), &good.bytes);
    assert_eq!(newest(&other, &key(), None).unwrap(), Some(good));
}

#[test]
fn what_was_changed_behind_its_back_is_named() {
    let disk = disk();
    let store = store_on(&disk, "a");
    round(&store, 300).unwrap();
    round(&store, 600).unwrap();
    let size = || open(&store_on(&disk, "b")).map(|l| l.size());
    assert_eq!(size().unwrap(), 600);
    let file = |key: &str| Path::new("/trail").join(key);
    for (key, missing) in [
        ("log/tile/0/002.p/88", "log/tile/0/002.p/88"),
        ("log/tile/1/000.p/2", "log/tile/0/002.p/88"),
        ("log/tile/entries/002.p/88", "log/tile/entries/002.p/88"),
        ("log/tile/0/001", "log/tile/0/001"),
    ] {
        let flip = |disk: &SimDisk| disk.poke(&file(key), |bytes| bytes[40] ^= 1);
        flip(&disk);
        let result = size();
        assert!(
            matches!(&result, Err(LogError::Read(ReadError::Damaged { object, .. })) if object == missing),
            "{key}: {result:?}"
        );
        flip(&disk);
        let cut = disk.peek(&file(key)).unwrap();
        disk.poke(&file(key), |bytes| bytes.truncate(31));
        assert!(size().is_err(), "{key}");
        disk.poke(&file(key), |bytes| *bytes = cut.clone());
    }
    // A checkpoint that the log did not sign is none: the one before is the newest.
    disk.poke(&file(&checkpoint_key(1)), |bytes| bytes[40] ^= 1);
    assert_eq!(size().unwrap(), 600, "what was left behind checkpoint 0 is taken up");
    let e = round(&store, 600).unwrap_err();
    assert!(matches!(&e, LogError::Occupied(o) if *o == checkpoint_key(1)), "{e}");
    disk.poke(&file(&checkpoint_key(1)), |bytes| bytes[40] ^= 1);
    assert_eq!(size().unwrap(), 600);
    // Another key's log.
    let other = VerifierKey::new(
        key().name(),
        Kind::Note,
        SigningKey::from_bytes(&[12; 32]).verifying_key().as_bytes(),
    );
    assert!(newest(&store, &other.unwrap(), None).unwrap().is_none());
    // A key that signs something else.
    let mut log = open(&store).unwrap();
    log.append(&entry(600)).unwrap();
    assert!(matches!(log.commit(|_| Ok([0; 64])), Err(LogError::Sign(_))));
    assert!(store.get(&checkpoint_key(2)).unwrap().is_none());
}

#[test]
fn the_newest_is_found_and_nothing_is_written_below_a_gap() {
    let disk = disk();
    let mut known = None;
    for n in 0..40u64 {
        let store = store_on(&disk, "a");
        let c = round(&store, n as usize + 1).unwrap();
        assert_eq!(c.number, n);
        assert_eq!(newest(&store, &key(), None).unwrap().as_ref(), Some(&c));
        // Who has seen the last one looks at what is new.
        let before = disk.calls();
        assert_eq!(newest(&store, &key(), known.as_ref()).unwrap().as_ref(), Some(&c));
        assert!(disk.calls() - before < 60, "{n}: {}", disk.calls() - before);
        known = Some(c);
    }
    // A copy of an old one above a gap, and next to the newest, is nothing new.
    let store = store_on(&disk, "b");
    let bytes = Bytes::from(checkpoint(&store, &key(), 7, 0).unwrap().unwrap().bytes);
    store.put_if_absent(&checkpoint_key(99), &bytes, &sha256(&bytes), &retain()).unwrap();
    assert_eq!(newest(&store, &key(), None).unwrap(), known);
    // But a later one of the log's, with one missing before it: nobody may go on below.
    let other = self::disk();
    let longer = store_on(&other, "b");
    (0..43).for_each(|n| drop(round(&longer, n + 1).unwrap()));
    let bytes = Bytes::from(newest(&longer, &key(), None).unwrap().unwrap().bytes);
    store.put_if_absent(&checkpoint_key(42), &bytes, &sha256(&bytes), &retain()).unwrap();
    let e = newest(&store_on(&disk, "c"), &key(), None).unwrap_err();
    assert!(matches!(&e, ReadError::Missing { object, number: 42 } if *object == checkpoint_key(40)), "{e}");
    assert!(round(&store_on(&disk, "c"), 50).is_err());
}
