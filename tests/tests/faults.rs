//! Every file-system call of spool and store fails once, or is the last before the machine stops.
//!
//! One thread drives the sink's own parts in the order in which its threads do, on a disk that loses what was
//! not synced. After each fault the sink goes on as it does in life: the same way in, everything unanswered
//! sent again with its key. Then the trail must hold every event exactly once, without a gap, and verify.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use waxseal_e2e::forge::{Signers, at, trail};
use waxseal_e2e::process::{each_record, headers};
use waxseal_filter_host::Passed;
use waxseal_sink::Context;
use waxseal_sink::chain::{Accepted, Chain, Chunk, Redelivery, Sealables, read_back};
use waxseal_sink::clock::Clock;
use waxseal_sink::config::{Acknowledge, Config, Intakes};
use waxseal_sink::epoch::{Epoch, Intent, SinkError};
use waxseal_sink::keys::{Signing, SigningKeys};
use waxseal_sink::pipeline::open_state;
use waxseal_sink::seal::{Close, Sealer};
use waxseal_sink::signer::{Algorithm, MemoryKey};
use waxseal_sink::spool::{Counted, Entry, Frame, Group, Spool, SpoolReader};
use waxseal_sink::upload::{self, Uploaded};
use waxseal_store::disk::Disk;
use waxseal_store::sim::{Errno, Fault, SimDisk, Survive};
use waxseal_store::{LocalStore, Location, Retain, Store};
use waxseal_trail::hash::sha256;
use waxseal_trail::json;
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name;
use waxseal_trail::record::{Checker, Converter, Events};
use waxseal_trail::statement::{Filter, Lock, State};
use waxseal_trail::time::Time;
use waxseal_trail::trust::{Trust, WriterTrust};
use waxseal_verify::{Anchor, Options, Silent, verify};

const CHUNKS: usize = 12;
const EVENTS: usize = 3;

/// What may happen at a call, and what then survives.
const FAULTS: [(Fault, Survive); 10] = [
    (Fault::Fail(Errno::Io), Survive::All),
    (Fault::Fail(Errno::Full), Survive::All),
    (Fault::FailAfter(Errno::Io), Survive::All),
    (Fault::FailAfter(Errno::Full), Survive::All),
    (Fault::CrashBefore, Survive::All),
    (Fault::CrashBefore, Survive::Nothing),
    (Fault::CrashBefore, Survive::Torn(1)),
    (Fault::CrashAfter, Survive::All),
    (Fault::CrashAfter, Survive::Nothing),
    (Fault::CrashAfter, Survive::Torn(2)),
];

/// Moves on by a second at every look, so that nothing depends on the machine's speed.
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Time {
        at(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

struct World {
    cx: Context,
    disk: SimDisk,
    trust: Trust,
}

fn world(operator: &Signers, key: &Arc<MemoryKey>) -> World {
    let disk = SimDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    for dir in ["/trail", "/state"] {
        shared.create_dir(Path::new(dir), true).unwrap();
    }
    shared.sync_dir(Path::new("/")).unwrap();
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(shared.clone(), "/trail", "t"));
    let (_, statement) = trail("test", operator);
    let bytes = statement.to_bytes().unwrap();
    store
        .put_if_absent(
            name::TRAIL,
            &bytes.clone().into(),
            &sha256(&bytes),
            &Retain { lock: Lock::None, until: at(1 << 30) },
        )
        .unwrap();
    let id = statement.statement_hash();
    let public = |k: &str| PublicKey::from_base64(k).unwrap();
    let trust = Trust {
        trail: id,
        operators: vec![operator[0].public().clone()],
        writers: vec![WriterTrust {
            name: "w".into(),
            keys: vec![public(&waxseal_sink::signer::Signer::public(&**key).to_base64())],
            cas: vec![],
        }],
        log: None,
        timestamps: vec![],
        policy: None,
        max_anchor_age: None,
        revoked: vec![],
        ethereum: vec![],
    };
    let config = Config {
        trail: "test".into(),
        writer: "w".into(),
        state_dir: "/state".into(),
        store: Location::Local("/trail".into()),
        retention_days: 2555,
        signing: SigningKeys::fixed(signing(key.clone(), vec![])),
        max_events: 7,
        max_batch_bytes: 1 << 20,
        max_age: Duration::from_secs(300),
        heartbeat: Duration::from_secs(1_000_000),
        acknowledge: Acknowledge::Spooled,
        // Segments of a quarter of this: several of them in a run.
        spool_bytes: 40 << 10,
        filters: Vec::new(),
        intake: Intakes::default(),
        telemetry: None,
    };
    let cx = Context {
        config: Arc::new(config),
        disk: shared,
        store,
        clock: Arc::new(TestClock(AtomicI64::new(0))),
        machine: "m".into(),
    };
    World { cx, disk, trust }
}

fn signing(key: Arc<MemoryKey>, previous: Vec<Arc<MemoryKey>>) -> Signing {
    let previous = previous.into_iter().map(|k| k as Arc<dyn waxseal_sink::signer::Signer>).collect();
    Signing { signers: vec![key], certificates: vec![vec![]], previous, oldest_key: None }
}

fn chunk(n: usize) -> Chunk {
    let (mut converter, mut events) = (Converter::default(), Events::default());
    for i in 0..EVENTS {
        let pad = "x".repeat(300);
        converter.json(format!(r#"{{"chunk":{n},"event":{i},"pad":"{pad}"}}"#).as_bytes(), &mut events);
    }
    let key = sha256(format!("key {n}").as_bytes()).0;
    Chunk {
        events,
        source: json::canonicalize(b"{\"intake\":\"http\"}").unwrap(),
        key: Some(key),
        redelivery: Redelivery::Always,
        passed: Passed { errors: 0, filters: Arc::new(filters_of(n)) },
    }
}

/// What chunk `n` went through: none, then one, then another.
fn filters_of(n: usize) -> Vec<Filter> {
    let filter = |config: &[u8]| {
        vec![Filter { name: "f".into(), module: sha256(b"module"), config: sha256(config), data: vec![] }]
    };
    match n {
        0..4 => vec![],
        4..8 => filter(b"one"),
        _ => filter(b"another"),
    }
}

fn store_one(cx: &Context, epoch: &mut Epoch, sealer: &mut Sealer, state: State) -> Result<(), SinkError> {
    let intent = sealer.seal(cx, state)?;
    epoch.write_intent(cx, &intent)?;
    store(cx, epoch, &intent)
}

fn store(cx: &Context, epoch: &mut Epoch, intent: &Intent) -> Result<(), SinkError> {
    assert_eq!(upload::keys_before(cx, epoch, intent.header.batch)?, Uploaded::Stored(vec![]));
    let own = upload::Own::of(epoch, intent.header.batch);
    let Uploaded::Stored(kept) = upload::batch(cx, &own, intent)? else { panic!("nobody else writes here") };
    epoch.note_stored(cx, &intent.header, intent.statement, kept)
}

fn take(
    cx: &Context,
    epoch: &mut Epoch,
    sealer: &mut Sealer,
    chain: &mut Chain,
    records: &Sealables,
) -> Result<(), SinkError> {
    for r in records.records.iter().filter(|r| r.sequence >= sealer.next_sequence()).collect::<Vec<_>>() {
        if let Some(filters) = sealer.other_filters(records, r) {
            if sealer.open_since().is_some() {
                store_one(cx, epoch, sealer, State::Running)?;
                chain.release(cx, epoch.stored.next_sequence)?;
            }
            sealer.set_filters(filters);
        }
        if sealer.push(cx, records, r)? == Close::Now {
            store_one(cx, epoch, sealer, State::Running)?;
            chain.release(cx, epoch.stored.next_sequence)?;
        }
    }
    Ok(())
}

#[allow(clippy::needless_range_loop)] // the number names the chunk
/// One life of the process: until everything is acknowledged and stored, or something fails.
fn life(w: &World, acknowledged: &mut [bool], starting: bool, rewrite: bool) -> Result<(), SinkError> {
    let cx = &w.cx;
    let (mut epoch, mut chain) = open_state(cx, starting, rewrite)?;
    let mut sealer = Sealer::new(cx, &epoch);
    assert!(matches!(upload::genesis(cx, &epoch)?, Uploaded::Stored(_)));
    epoch.note_genesis_stored(cx)?;
    for intent in std::mem::take(&mut epoch.intents) {
        store(cx, &mut epoch, &intent)?;
    }
    let mut reader = SpoolReader::new(cx.disk.clone(), &epoch.dir.join("spool"));
    let mut checker = Checker::default();
    while sealer.next_sequence() < chain.next_sequence() {
        let frame = reader.frame_with(sealer.next_sequence())?;
        take(cx, &mut epoch, &mut sealer, &mut chain, &read_back(&frame, &mut checker)?)?;
    }
    for n in 0..CHUNKS {
        if acknowledged[n] {
            continue;
        }
        let mut tries = 0;
        loop {
            match chain.accept(cx, &[chunk(n)])? {
                Accepted::Durable(receipts, records) => {
                    assert_eq!(receipts[0].accepted, EVENTS as u64);
                    acknowledged[n] = true;
                    take(cx, &mut epoch, &mut sealer, &mut chain, &records)?;
                    break;
                }
                Accepted::Refused(_) => {
                    tries += 1;
                    assert!(tries < 20, "refused for ever");
                    // The store thread gives room back: seal and store what there is.
                    store_one(cx, &mut epoch, &mut sealer, State::Running)?;
                    chain.release(cx, epoch.stored.next_sequence)?;
                }
                Accepted::Poisoned(e) => {
                    return Err(SinkError::State { operation: "sync", path: "spool".into(), source: e });
                }
            }
        }
    }
    store_one(cx, &mut epoch, &mut sealer, State::Stopped)
}

/// Runs to the end through one planned fault; the number of calls.
fn run(w: &World, survive: Survive) -> u64 {
    run_from(w, vec![false; CHUNKS], survive)
}

fn run_from(w: &World, mut acknowledged: Vec<bool>, survive: Survive) -> u64 {
    let (mut starting, mut rewrite) = (true, false);
    for _ in 0..6 {
        match life(w, &mut acknowledged, starting, rewrite) {
            // The call that nothing waits for was the last one.
            Ok(()) if w.disk.crashed() => {
                w.disk.reboot(survive);
                (starting, rewrite) = (true, false);
            }
            Ok(()) => {
                let calls = w.disk.calls();
                check(w, &acknowledged);
                return calls;
            }
            Err(e) if w.disk.crashed() => {
                let _ = e;
                w.disk.reboot(survive);
                (starting, rewrite) = (true, false);
            }
            Err(
                SinkError::State { .. }
                | SinkError::Store(_)
                | SinkError::Spool(waxseal_sink::spool::SpoolError::Disk { .. }),
            ) => {
                (starting, rewrite) = (false, true);
            }
            Err(e) => panic!("{e}\nlast calls: {:#?}", w.disk.log().iter().rev().take(8).collect::<Vec<_>>()),
        }
    }
    panic!("never done; last calls: {:#?}", w.disk.log().iter().rev().take(12).collect::<Vec<_>>());
}

fn check(w: &World, acknowledged: &[bool]) {
    assert!(acknowledged.iter().all(|a| *a));
    let options = Options {
        anchor: Anchor::File(Box::new(w.trust.clone())),
        quick: false,
        writer: None,
        since: None,
        until: None,
        now: w.cx.clock.now(),
        restore: false,
        threads: 1,
        memories: Vec::new(),
        chains: Default::default(),
    };
    let report = verify(&*w.cx.store, &options, &Silent);
    assert_eq!(report.exit_status(false, false), 0, "{:#?}", report.findings);
    // A header speaks for all events of its batch.
    let headers = headers(&*w.cx.store);
    let mut seen = vec![0; CHUNKS * EVENTS];
    each_record(&*w.cx.store, &[], &mut |v| {
        if let Some(n) = v["metadata"]["chunk"].as_u64() {
            let sequence = v["sequence"].as_u64().unwrap();
            let of = headers.iter().find(|h| {
                (h.events.first_sequence..h.events.first_sequence + h.events.count).contains(&sequence)
            });
            assert_eq!(of.expect("a header").filters, filters_of(n as usize), "chunk {n}");
            seen[n as usize * EVENTS + v["metadata"]["event"].as_u64().unwrap() as usize] += 1;
        }
    });
    assert!(seen.iter().all(|n| *n == 1), "events in the trail: {seen:?}");
}

fn keys() -> (Signers, Arc<MemoryKey>) {
    let operator: Signers = vec![Arc::new(MemoryKey::generate(Algorithm::Ed25519).unwrap())];
    (operator, Arc::new(MemoryKey::generate(Algorithm::Ed25519).unwrap()))
}

/// A downgrade: segments of a later release stay, and a new epoch goes on beside them.
#[test]
fn newer_segments_are_set_aside() {
    use waxseal_store::disk::Open;
    let (operator, key) = keys();
    let w = world(&operator, &key);
    let (epoch, mut chain) = open_state(&w.cx, true, false).unwrap();
    for n in 0..CHUNKS {
        if !matches!(chain.accept(&w.cx, &[chunk(n)]).unwrap(), Accepted::Durable(..)) {
            break;
        }
    }
    let spool = epoch.dir.join("spool");
    let mut segments: Vec<String> =
        w.cx.disk.read_dir(&spool).unwrap().into_iter().map(|(name, _)| name).collect();
    segments.sort();
    assert!(segments.len() > 1);
    let last = spool.join(segments.last().unwrap());
    w.cx.disk.open(&last, Open::Write).unwrap().write_at(&99u32.to_le_bytes(), 8).unwrap();
    let (next, mut chain) = open_state(&w.cx, true, false).unwrap();
    assert_ne!(next.writer, epoch.writer);
    assert!(chain.next_sequence() > 0, "what could be read was not taken along");
    assert!(matches!(chain.accept(&w.cx, &[chunk(CHUNKS)]).unwrap(), Accepted::Durable(..)));
    assert!(w.cx.disk.open(&last, Open::Read).is_ok(), "what could not be read is gone");
    assert!(w.cx.disk.open(&spool.join(&segments[0]), Open::Read).is_err());
    let (again, _) = open_state(&w.cx, true, false).unwrap();
    assert_eq!(again.writer, next.writer);
}

/// Another key is put in force, and every call of that start fails once or is the last: no event is lost, every
/// header is signed with a key in force, and no new epoch begins.
#[test]
fn every_call_while_keys_are_rotated() {
    let (operator, first_key) = keys();
    let second_key = Arc::new(MemoryKey::generate(Algorithm::Ed25519).unwrap());
    let half = |done: bool| (0..CHUNKS).map(|n| (n < CHUNKS / 2) == done).collect::<Vec<bool>>();
    let rotated = |previous: Vec<Arc<MemoryKey>>| {
        let mut w = world(&operator, &first_key);
        life(&w, &mut half(false), true, false).unwrap();
        let mut config = Config::clone(&w.cx.config);
        config.signing = SigningKeys::fixed(signing(second_key.clone(), previous));
        w.cx.config = Arc::new(config);
        w
    };
    let writers = |w: &World| w.cx.store.list("writers/", None, 100).unwrap().keys;
    let faults = [
        (Fault::Fail(Errno::Io), Survive::All),
        (Fault::CrashBefore, Survive::Nothing),
        (Fault::CrashAfter, Survive::Nothing),
        (Fault::CrashAfter, Survive::Torn(1)),
    ];
    let w = rotated(vec![first_key.clone()]);
    let first = w.disk.calls();
    let last = run_from(&w, half(true), Survive::All);
    assert!(last > first + 50);
    for n in first..last {
        for (fault, survive) in faults {
            let mut w = rotated(vec![first_key.clone()]);
            w.disk.plan(n, fault);
            run_from(&w, half(true), survive);
            let there = writers(&w);
            assert_eq!(there.len(), 2, "call {n}, {fault:?}: {there:?}");
            assert!(there[1].ends_with("/keys/000001.json"), "{there:?}");
            // From here on the old key is not needed.
            let mut config = Config::clone(&w.cx.config);
            config.signing = SigningKeys::fixed(signing(second_key.clone(), vec![]));
            w.cx.config = Arc::new(config);
            life(&w, &mut [true; CHUNKS], true, false).unwrap();
            assert_eq!(writers(&w), there);
        }
    }
    // Without the old key nobody can say that the new one follows.
    let w = rotated(vec![]);
    life(&w, &mut half(true), true, false).unwrap();
    assert_eq!(writers(&w).iter().filter(|k| k.ends_with("/genesis.json")).count(), 2);
}

#[test]
fn every_call_fails_once_or_is_the_last() {
    let (operator, key) = keys();
    let w = world(&operator, &key);
    let first = w.disk.calls();
    let calls = run(&w, Survive::All);
    let next = std::sync::atomic::AtomicU64::new(first);
    let runs = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= calls {
                        break;
                    }
                    for (fault, survive) in FAULTS {
                        let w = world(&operator, &key);
                        w.disk.plan(n, fault);
                        let survive = match survive {
                            Survive::Torn(seed) => Survive::Torn(seed + 2 * n),
                            s => s,
                        };
                        let outcome =
                            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&w, survive)));
                        assert!(
                            outcome.is_ok(),
                            "call {n} ({:?}): {fault:?}, {survive:?}",
                            w.disk.log().get(n as usize)
                        );
                        runs.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let runs = runs.into_inner();
    assert!(runs >= 3000);
    println!("{} calls, {runs} runs", calls - first);
}

/// A crash, and while the sink recovers another one.
#[test]
fn a_crash_during_recovery() {
    let (operator, key) = keys();
    let mut runs = 0;
    for n in (60..400).step_by(7) {
        for m in (0..80).step_by(3) {
            let w = world(&operator, &key);
            w.disk.plan(n, Fault::CrashAfter);
            let mut acknowledged = vec![false; CHUNKS];
            if life(&w, &mut acknowledged, true, false).is_ok() {
                continue;
            }
            w.disk.reboot(Survive::Torn(n * 31 + m));
            w.disk.plan(w.disk.calls() + m, Fault::CrashAfter);
            let _ = life(&w, &mut acknowledged, true, false);
            w.disk.reboot(Survive::Torn(n * 17 + m));
            for _ in 0..3 {
                if life(&w, &mut acknowledged, true, false).is_ok() {
                    break;
                }
            }
            check(&w, &acknowledged);
            runs += 1;
        }
    }
    println!("{runs} runs");
    assert!(runs > 500);
}

#[test]
fn a_full_disk_pushes_back_and_loses_nothing() {
    let (operator, key) = keys();
    for room in (0..60).map(|k| k * 1_111) {
        let w = world(&operator, &key);
        let used: u64 = w.disk.files().iter().map(|f| w.disk.peek(f).map_or(0, |b| b.len() as u64)).sum();
        w.disk.set_capacity(Some(used + room));
        let mut acknowledged = vec![false; CHUNKS];
        // The disk is full: whatever this life comes to, nothing acknowledged may be lost by it.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            life(&w, &mut acknowledged, true, false)
        }));
        w.disk.set_capacity(None);
        run_on(&w, acknowledged);
    }
}

fn run_on(w: &World, mut acknowledged: Vec<bool>) {
    life(w, &mut acknowledged, true, false).unwrap();
    check(w, &acknowledged);
}

/// What was acknowledged and has changed since is said, with the segment's name; nothing goes silently.
#[test]
fn a_flipped_byte_in_the_spool_is_named() {
    let (operator, key) = keys();
    let w = world(&operator, &key);
    let cx = &w.cx;
    let (epoch, mut chain) = open_state(cx, true, false).unwrap();
    for n in 0..4 {
        assert!(matches!(chain.accept(cx, &[chunk(n)]).unwrap(), Accepted::Durable(..)));
    }
    let segment = w.disk.files().into_iter().find(|f| f.to_string_lossy().ends_with(".seg")).unwrap();
    let good = w.disk.peek(&segment).unwrap();
    let used = good.iter().rposition(|b| *b != 0).unwrap() + 1;
    drop((epoch, chain));
    let mut said = 0;
    for at in (0..used).step_by(13) {
        w.disk.poke(&segment, |b| b[at] ^= 0x10);
        match open_state(cx, true, false) {
            Err(SinkError::Spool(e)) => {
                assert!(e.to_string().contains(".seg"), "{e}");
                said += 1;
            }
            Err(e) => panic!("byte {at}: {e}"),
            Ok(_) => panic!("byte {at} of {used} was flipped and nobody said so"),
        }
        w.disk.poke(&segment, |b| *b = good.clone());
    }
    println!("{said} flips named");
    // The segment as it was, but for a torn frame after it: cut, and on it goes.
    w.disk.poke(&segment, |b| b[used..used + 30].copy_from_slice(&good[100..130]));
    run_on(&w, (0..CHUNKS).map(|n| n < 4).collect());
}

/// A start copies the last segment; whatever becomes of the copy, and of the one after it, each frame is still there, also
/// after what is stored has been released.
#[test]
fn a_start_that_ends_while_it_copies() {
    const FRAMES: u64 = 5;
    let dir = Path::new("/state/spool");
    let frame = |first: u64| {
        let mut g = Group::default();
        g.begin(None, first, 1, 0);
        g.entry(0, Entry { len: 3000, counted: Counted::Received });
        g.bytes.resize(g.bytes.len() + 3000, b'x');
        g.end(first);
        g.bytes
    };
    let make = || {
        let disk = SimDisk::default();
        disk.create_dir(Path::new("/state"), true).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let mut spool =
            Spool::open(Arc::new(disk.clone()), dir, "a.b", 1 << 20, 0, true, &mut |_| {}).unwrap();
        for n in 0..FRAMES {
            spool.append(&frame(n), n).unwrap();
        }
        disk
    };
    let open = |disk: &SimDisk, from: u64| {
        let mut seen = Vec::new();
        let each = &mut |f: &Frame| seen.push(f.first_sequence);
        let spool = Spool::open(Arc::new(disk.clone()), dir, "a.b", 1 << 20, from, true, each);
        spool.map(|s| (s, seen))
    };
    let whole = |disk: &SimDisk, what: &dyn std::fmt::Debug| {
        let say = |e: &dyn std::fmt::Display| panic!("{what:?}: {e}\n{}", disk.log().join("\n"));
        let (mut spool, seen) = open(disk, 0).unwrap_or_else(|e| say(&e));
        for n in 0..FRAMES {
            assert!(seen.contains(&n), "{what:?}: {n} is not in {seen:?}");
        }
        spool.release(2, FRAMES).unwrap();
        drop(spool);
        let (_, seen) = open(disk, 2).unwrap_or_else(|e| say(&e));
        for n in 2..FRAMES {
            assert!(seen.contains(&n), "{what:?}: {n} is gone with what was stored: {seen:?}");
        }
    };
    let mut runs = 0;
    for (fault, survive) in FAULTS {
        for first in 0.. {
            let once = |disk: &SimDisk, at: u64| {
                let begin = disk.calls();
                disk.plan(begin + at, fault);
                let opened = open(disk, 0);
                let reached = disk.calls() > begin + at;
                if disk.crashed() {
                    disk.reboot(survive);
                }
                drop(opened);
                reached
            };
            let disk = make();
            if !once(&disk, first) {
                break;
            }
            whole(&disk, &(fault, survive, first));
            for second in 0.. {
                let disk = make();
                once(&disk, first);
                if !once(&disk, second) {
                    break;
                }
                whole(&disk, &(fault, survive, first, second));
                runs += 1;
            }
        }
    }
    println!("{runs} starts that ended twice");
    assert!(runs > 1000);
}
