//! An implementation of c2sp.org/tlog-tiles that is not ours reads what ours writes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use tlog_tiles::{
    Error, HashReader as _, Tile, TileHashReader, TileReader, check_record, check_tree, prove_record,
    prove_tree, record_hash, tree_hash,
};
use waxseal_anchor::log::Log;
use waxseal_e2e::fleet::Fleet;
use waxseal_e2e::forge::at;
use waxseal_signing::Signer as _;
use waxseal_store::memory::MemoryBucket;
use waxseal_store::{Retain, Store as _};
use waxseal_trail::hash::{Hash, leaf_hash, node_hash};
use waxseal_trail::statement::Lock;

/// The tiles of a store, as that implementation asks for them; the height is no part of C2SP's paths.
struct Tiles<'a> {
    store: &'a MemoryBucket,
    saved: Mutex<usize>,
}

impl TileReader for Tiles<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let read = |tile: &Tile| {
            let path = tile.path().replacen("tile/8/", "log/tile/", 1);
            Ok(self.store.get(&path).unwrap().unwrap_or_else(|| panic!("{path} is not there")))
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, tiles: &[Tile], _: &[Vec<u8>]) {
        *self.saved.lock().unwrap() += tiles.len();
    }
}

/// The root of a list, in the plainest way there is (RFC 6962 section 2.1).
fn plain_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::empty(),
        [one] => *one,
        many => {
            let half = many.len().next_power_of_two() / 2;
            node_hash(&plain_root(&many[..half]), &plain_root(&many[half..]))
        }
    }
}

#[test]
fn a_log_of_a_hundred_thousand_entries_is_what_others_read() {
    let fleet = Fleet::new(&[]);
    let signer = fleet.worker_key();
    let sign = |text: &[u8]| Ok(signer.sign(text).unwrap().try_into().unwrap());
    let retain = Retain { lock: Lock::None, until: at(86_400) };
    let bucket = MemoryBucket::default();
    let mut log = Log::open(&bucket, fleet.log.clone(), retain, None).unwrap();
    log.resume(&mut |_, _| true).unwrap();
    let entry = |n: u64| format!("entry {n} {}", "x".repeat(n as usize % 50)).into_bytes();
    // The checkpoints of rounds, of which others ask for consistency.
    let mut heads = BTreeMap::new();
    let mut n = 0;
    for size in [1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 100_000] {
        while n < size {
            log.append(&entry(n)).unwrap();
            n += 1;
        }
        heads.insert(size, log.commit(sign).unwrap().cloned().unwrap());
    }
    let leaves: Vec<Hash> = (0..100_000).map(|n| leaf_hash(&entry(n))).collect();
    let theirs = |h: &Hash| tlog_tiles::Hash(h.0);
    for (size, committed) in &heads {
        let text = committed.bytes.split(|b| *b == b'\n').take(3).collect::<Vec<_>>().join(&b'\n');
        let read = tlog_tiles::Checkpoint::from_bytes(&[&text[..], b"\n"].concat()).unwrap();
        assert_eq!((read.origin(), read.size()), (fleet.log.name(), *size));
        let plain = plain_root(&leaves[..*size as usize]);
        assert_eq!((committed.checkpoint.root, *read.hash()), (plain, theirs(&plain)), "{size}");
    }
    // Every tile of the newest tree is that of the list.
    let mut level = leaves.clone();
    let mut tiles = 0;
    for l in 0..3 {
        for index in 0..level.len().div_ceil(256) {
            let hashes = &level[index * 256..level.len().min(index * 256 + 256)];
            let tile = Tile::new(8, l, index as u64, hashes.len() as u32, false);
            let path = tile.path().replacen("tile/8/", "log/tile/", 1);
            let wanted: Vec<u8> = hashes.iter().flat_map(|h| h.0).collect();
            assert_eq!(bucket.get(&path).unwrap().as_deref(), Some(&wanted[..]), "{path}");
            tiles += 1;
        }
        level = level.chunks_exact(256).map(plain_root).collect();
    }
    // And they authenticate what they read by the checkpoint.
    let size = 100_000;
    let root = theirs(&heads[&size].checkpoint.root);
    let reader = Tiles { store: &bucket, saved: Mutex::default() };
    let hashes = TileHashReader::new(size, root, &reader);
    assert_eq!(tree_hash(size, &hashes).unwrap(), root);
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..300 {
        let index = random.u64(..size);
        let proof = prove_record(size, index, &hashes).unwrap();
        check_record(&proof, size, root, index, record_hash(&entry(index))).unwrap();
        // Ours is theirs.
        let ours = log.committed().inclusion_proof(index).unwrap();
        assert_eq!(ours.iter().map(theirs).collect::<Vec<_>>(), proof, "{index}");
        let old = random.u64(1..=size);
        let old_root = theirs(&plain_root(&leaves[..old as usize]));
        let proof = prove_tree(size, old, &hashes).unwrap();
        check_tree(&proof, size, root, old, old_root).unwrap();
        let ours = log.committed().consistency_proof(old).unwrap();
        assert_eq!(ours.iter().map(theirs).collect::<Vec<_>>(), proof, "{old}");
    }
    assert!(hashes.read_hashes(&[0]).is_ok());
    println!(
        "{tiles} tiles; {} read and authenticated by the other implementation",
        reader.saved.lock().unwrap()
    );
}
