//! On chain: receipts, made from what a real node says, and checked without it.

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall as _;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use waxseal_anchor::anchors::Shown;
use waxseal_anchor::chain::{Sender, Settings};
use waxseal_anchor::worker::Worker;
use waxseal_e2e::chain::{ACCOUNTS, Anvil, CHAIN, Liar, Lies, Posts, account, is_there};
use waxseal_e2e::fleet::{Fleet, dump, verdicts};
use waxseal_e2e::forge::{at, sign};
use waxseal_e2e::process::{bin, local_store, verify_proof_in_python, waxseal};
use waxseal_ethereum::contract::AuditTrail::{
    addAuthorizedAnchorCall, anchorCountCall, anchorHashCall, batchAnchorCall, removeAuthorizedAnchorCall,
    transferOwnershipCall,
};
use waxseal_ethereum::evidence::{Wanted, collect};
use waxseal_ethereum::receipt::{About, Metadata, Receipt, ReceiptFault};
use waxseal_log::{newest, receipts_prefix};
use waxseal_store::memory::MemoryBucket;
use waxseal_store::{Store, list_all};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::json::to_canonical;
use waxseal_trail::proof::Proof;
use waxseal_trail::statement::Batch;
use waxseal_trail::time::Time;
use waxseal_verify::event::check_proof;
use waxseal_verify::{Chains, Memory};

fn about(n: u64) -> About {
    About {
        hash: sha256(&n.to_be_bytes()),
        origin: "example.com/audit/0123456789abcdef".to_owned(),
        size: 1000 + n,
        root: sha256(b"root"),
    }
}

fn metadata(n: u64, about: &About) -> String {
    let sealed = Time::parse_rfc3339("2026-11-27T21:59:59.987654321Z");
    let metadata = Metadata {
        checkpoint: n,
        first_sealed_at: sealed,
        last_sealed_at: sealed,
        origin: about.origin.clone(),
        size: about.size,
    };
    String::from_utf8(to_canonical(&metadata).unwrap()).unwrap()
}

fn call(n: u64) -> Vec<u8> {
    let about = about(n);
    anchorHashCall { hash: about.hash.0.into(), metadata: metadata(n, &about) }.abi_encode()
}

fn batch(of: std::ops::Range<u64>) -> Vec<u8> {
    let hashes = of.clone().map(|n| about(n).hash.0.into()).collect();
    batchAnchorCall { hashes, metadata: of.map(|n| metadata(n, &about(n))).collect() }.abi_encode()
}

fn receipt(anvil: &Anvil, contract: Address, n: u64, transaction: B256) -> Receipt {
    let wanted = Wanted { chain: CHAIN, contract, sender: account(1), about: &[about(n)] };
    collect(&anvil.rpc(), &wanted, transaction).unwrap().expect("it is mined").remove(0)
}

/// Blocks with one transaction and with many of all kinds, single anchors and batches: each receipt proves itself, and no byte of it
/// can be another.
#[test]
fn receipts_prove_themselves() {
    if !is_there() {
        return;
    }
    let anvil = Anvil::start(&["--no-mining"]);
    let contract = anvil.deploy(account(0), account(1));
    let alone = anvil.send(account(1), Some(contract), &call(1));
    anvil.mine();
    let first = receipt(&anvil, contract, 1, alone);
    assert_eq!((first.transaction_index, first.log_index), (0, 0));
    let proven = first.check().unwrap();
    assert_eq!((proven.block_hash, proven.of), (first.block_hash, Some((1, 1))));
    assert_eq!(first.is_about(&about(1)).map(|m| m.checkpoint), Ok(1));

    // Many, of three kinds, some that make events and some that are reverted.
    let transfer = |from: usize, kind: &str| -> B256 {
        let mut t =
            json!({ "from": account(from), "to": account(3), "value": "0x1", "gas": "0x5208", "type": kind });
        if kind != "0x2" {
            t["gasPrice"] = json!("0x77359400");
        }
        anvil.ask("eth_sendTransaction", json!([t]))
    };
    for n in 0..140 {
        transfer([0, 2][n % 2], ["0x0", "0x1", "0x2"][n % 3]);
    }
    let batched = anvil.send(account(1), Some(contract), &batch(2..26));
    let second = anvil.send(account(1), Some(contract), &call(26));
    anvil.send(account(2), Some(contract), &call(27));
    anvil.mine();
    let of_batch = receipt(&anvil, contract, 25, batched);
    assert_eq!(of_batch.log_index, 23);
    assert_eq!(of_batch.check().unwrap().of, Some((25, 26)));
    let last = receipt(&anvil, contract, 26, second);
    assert!(last.transaction_index > 0);
    assert_eq!(last.check().unwrap().of, Some((26, 26)));
    assert!(last.proof.as_ref().is_some_and(|p| !p.receipt_before.is_empty() && p.state.is_some()));

    for (what, n, receipt) in [("alone", 1, &first), ("of a batch", 25, &of_batch), ("among 143", 26, &last)]
    {
        let bytes = receipt.to_bytes().unwrap();
        let start = Instant::now();
        let same = Receipt::parse(&bytes).unwrap();
        same.check().unwrap();
        println!("{what}: {} bytes, {:?} to check", bytes.len(), start.elapsed());
        assert_eq!(same, *receipt);
        let refused = |bad: &[u8]| {
            let Ok(bad) = Receipt::parse(bad) else { return true };
            // Whose block hash is the chain's, says the chain; what is anchored and by whom, the trail and the trust file.
            bad.check().is_err() || bad.block_hash != receipt.block_hash || bad.is_about(&about(n)).is_err()
        };
        // Each bit of one, some of the others, which are of the same parts.
        let flips: &[u8] = if n == 1 { &[1, 2, 4, 8, 16, 32, 64, 128] } else { &[1, 32] };
        for at in 0..bytes.len() {
            for flip in flips {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                assert!(refused(&bad), "{what}: byte {at} ^ {flip}: {}", String::from_utf8_lossy(&bad));
            }
        }
        // Shorter, longer, and in another order.
        assert!(refused(&bytes[..bytes.len() - 1]));
        assert!(refused(&[&bytes[..], b"\n"].concat()));
        let pretty = serde_json::to_vec_pretty(receipt).unwrap();
        assert!(matches!(Receipt::parse(&pretty), Err(ReceiptFault::Form(_))));
    }
    in_python(&[&first, &of_batch, &last]);
    let Hash(other) = sha256(b"other");
    let swapped = |change: &dyn Fn(&mut Receipt)| {
        let mut bad = last.clone();
        change(&mut bad);
        bad.check().map_err(|e| e.to_string())
    };
    let said = |r: Result<_, String>, what: &str| {
        let e = r.expect_err(what);
        assert!(e.contains(what), "{e} has {what}");
    };
    said(swapped(&|r| r.chain = 1), "for another chain");
    said(swapped(&|r| r.sender = account(2)), "its sender");
    said(swapped(&|r| r.contract = account(2)), "no event of the contract");
    said(swapped(&|r| r.hash = Hash(other)), "its hash");
    said(swapped(&|r| r.metadata.push(' ')), "its metadata");
    said(swapped(&|r| r.gas_used += 1), "gas_used");
    said(swapped(&|r| r.block_hash = other.into()), "its header");
    said(swapped(&|r| r.proof = None), "only the chain itself");
    let state = |change: &dyn Fn(&mut waxseal_ethereum::receipt::State)| {
        swapped(&|r| change(r.proof.as_mut().unwrap().state.as_mut().unwrap()))
    };
    said(state(&|s| s.sequence = 25), "anchor");
    said(state(&|s| s.count = 27), "sender");
    said(state(&|s| s.count = 25), "none of the sender's");
    said(state(&|s| s.authorized = false), "sender");
    // A transaction that was reverted anchors nothing.
    let reverted = anvil.send(account(1), Some(contract), &call(26));
    anvil.mine();
    let wanted = Wanted { chain: CHAIN, contract, sender: account(1), about: &[about(26)] };
    assert!(collect(&anvil.rpc(), &wanted, reverted).is_err());
    assert!(collect(&anvil.rpc(), &wanted, B256::ZERO).unwrap().is_none());
}

/// Another language takes these receipts, and none of which a byte is another.
fn in_python(receipts: &[&Receipt]) {
    let Some(python) = std::env::var_os("WAXSEAL_PYTHON") else {
        println!("WAXSEAL_PYTHON is not set: the independent verifier was not run (make test sets it)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("independent/verify_receipt.py");
    let check = |bytes: &[u8], block: &B256| {
        let file = dir.path().join("receipt.json");
        std::fs::write(&file, bytes).unwrap();
        let out = Command::new(&python).arg(&script).arg(file).arg(block.to_string()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for receipt in receipts {
        let bytes = receipt.to_bytes().unwrap();
        assert_eq!(check(&bytes, &receipt.block_hash), (Some(0), String::new()));
        for _ in 0..10 {
            let mut bad = bytes.clone();
            let at = fastrand::usize(..bad.len());
            bad[at] ^= 1;
            // What is anchored it is told by the receipt; a proof holds it to the checkpoint.
            let text = String::from_utf8_lossy(&bad).into_owned();
            let root = text.find("merkle_root").unwrap();
            if !(root..root + 80).contains(&at) {
                assert_eq!(check(&bad, &receipt.block_hash).0, Some(1), "byte {at}");
            }
        }
    }
}

/// A trail whose worker anchors in a chain, whose time is the trail's.
struct Site {
    anvil: Arc<Anvil>,
    contract: Address,
    fleet: Fleet,
    store: Arc<MemoryBucket>,
    dir: tempfile::TempDir,
    second: i64,
}

const GWEI: u128 = 1_000_000_000;
/// Between two anchors, in seconds: writers promise to be heard of again within half an hour.
const HOUR: i64 = 120;

fn settings(contract: Address, urls: &[&str]) -> Settings {
    Settings {
        chain: CHAIN,
        contract,
        urls: urls.iter().map(|u| (*u).to_owned()).collect(),
        max_fee: 100 * GWEI,
        max_priority_fee: GWEI,
        confirmations: None,
        interval: Duration::from_secs(HOUR as u64),
        resubmit: Duration::from_secs(30),
        poll: Duration::from_secs(1),
        each: false,
    }
}

/// The worker's account of a site anchors with these settings.
fn anchors(fleet: &mut Fleet, settings: Settings, n: usize) {
    let make = move || (settings.clone(), Sender::from_private_key(ACCOUNTS[n].1).unwrap());
    fleet.anchors = Some(Box::new(make));
}

impl Site {
    /// Blocks are final two blocks later.
    fn new(args: &[&str]) -> Site {
        Site::settling("1", args)
    }

    /// Blocks are final after twice so many.
    fn settling(slots: &str, args: &[&str]) -> Site {
        let time = at(0).unix_seconds().to_string();
        let all = [&["--timestamp", &time, "--slots-in-an-epoch", slots], args].concat();
        let anvil = Arc::new(Anvil::start(&all));
        let contract = anvil.deploy(account(0), account(1));
        let mut fleet = Fleet::new(&["a", "b"]);
        fleet.ethereum =
            vec![format!("{{chain: {CHAIN}, contract: \"{contract}\", sender: \"{}\"}}", account(1))];
        anchors(&mut fleet, settings(contract, &[&anvil.url]), 1);
        fleet.chains = chains(&anvil);
        let site = Site {
            anvil,
            contract,
            fleet,
            store: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            second: 0,
        };
        site.fleet.put(&*site.store);
        site.anvil.mine_more(50);
        site
    }

    fn worker(&self) -> Worker {
        self.fleet.worker(self.store.clone(), Some(self.dir.path()))
    }

    /// A batch more in the log.
    fn grow(&mut self, worker: &mut Worker) -> u64 {
        self.second += 10;
        self.fleet.seal(self.second);
        self.fleet.put(&*self.store);
        worker.round(at(self.second)).unwrap().newest.unwrap().number
    }

    /// A look of the worker at the chain, so many seconds later; what it says.
    fn look(&mut self, worker: &mut Worker, seconds: i64) -> Vec<Shown> {
        self.second += seconds;
        self.set_time();
        let shown = worker.anchor(at(self.second)).unwrap();
        self.anvil.catch_up();
        shown
    }

    /// The chain's time goes on with the trail's.
    fn set_time(&self) {
        let latest = self.anvil.rpc().block(waxseal_ethereum::rpc::At::Latest).unwrap().unwrap().timestamp;
        let now = u64::try_from(at(self.second).unix_seconds()).unwrap();
        if now > latest {
            self.anvil.ask::<Value>("evm_setNextBlockTimestamp", json!([now]));
        }
    }

    /// Looks until the receipt of a checkpoint is there, with blocks in between.
    fn settle(&mut self, worker: &mut Worker, number: u64) -> Vec<Receipt> {
        for _ in 0..20 {
            self.look(worker, 2);
            let there = self.receipts(number);
            if !there.is_empty() && !worker.targets().is_busy() {
                return there;
            }
            self.anvil.mine();
        }
        panic!("checkpoint {number} is not anchored");
    }

    fn receipts(&self, number: u64) -> Vec<Receipt> {
        receipts(&*self.store, number)
    }

    /// How many anchors the worker's account has written.
    fn count(&self) -> u64 {
        self.anvil.catch_up();
        count(&self.anvil, self.contract)
    }

    /// How many of its transactions are in blocks.
    fn nonce(&self) -> u64 {
        self.anvil.catch_up();
        self.anvil.rpc().nonce(account(1)).unwrap()
    }

    fn verdicts(&self, memories: Vec<Memory>) -> Vec<&'static str> {
        verdicts(&self.fleet.verify(&*self.store, self.second, memories))
    }
}

fn chains(anvil: &Anvil) -> Chains {
    Chains { post: Some(Arc::new(Posts::default())), nodes: vec![anvil.url.clone()], blocks: vec![] }
}

fn receipts(store: &dyn Store, number: u64) -> Vec<Receipt> {
    let mut keys = Vec::new();
    list_all(store, &receipts_prefix(number), &mut |k| keys.push(k)).unwrap();
    let all = dump(store);
    keys.iter().map(|k| Receipt::parse(&all[k]).unwrap()).collect()
}

fn count(anvil: &Anvil, contract: Address) -> u64 {
    let call = anchorCountCall { account: account(1) }.abi_encode();
    let answer = anvil.rpc().call(contract, &call, waxseal_ethereum::rpc::At::Latest).unwrap();
    anchorCountCall::abi_decode_returns(&answer).unwrap().to()
}

/// The one thing that was said of the chain, which is a complaint.
fn complaint(shown: &[Shown]) -> (&str, bool) {
    let all: Vec<_> = shown.iter().filter_map(|s| s.result.as_ref().err()).collect();
    let [(why, alarm)] = &all[..] else { panic!("{shown:?}") };
    (why, *alarm)
}

/// Sent, mined, final, kept; once an hour, and only if the log grew; checked by RPC, by a block's hash, and not at all.
#[test]
fn an_anchor_an_hour() {
    if !is_there() {
        return;
    }
    let mut site = Site::new(&[]);
    let mut worker = site.worker();
    assert_eq!(site.grow(&mut worker), 0);
    assert!(site.look(&mut worker, 1).is_empty(), "sent");
    assert_eq!((site.count(), site.receipts(0).len()), (1, 0), "mined, and not final");
    assert!(site.look(&mut worker, 2).is_empty());
    assert!(site.receipts(0).is_empty());
    assert_eq!(site.verdicts(vec![]), ["UNANCHORED"], "what is not final does not count");
    let [receipt] = &site.settle(&mut worker, 0)[..] else { panic!("one receipt") };
    assert!(receipt.proof.as_ref().is_some_and(|p| p.state.is_some()));
    let sealed = receipt.metadata().unwrap();
    assert_eq!((sealed.first_sealed_at, sealed.last_sealed_at), (Some(at(10)), Some(at(10))));
    // By RPC.
    let report = site.fleet.verify(&*site.store, site.second, vec![]);
    assert_eq!(verdicts(&report), Vec::<&str>::new());
    assert!(report.freshness.contains("ethereum 31337, checkpoint 0"), "{}", report.freshness);
    assert_eq!(report.log.as_ref().map(|l| l.anchors.len()), Some(1));
    // By nobody's word: never OK.
    let asked = std::mem::take(&mut site.fleet.chains);
    let report = site.fleet.verify(&*site.store, site.second, vec![]);
    assert_eq!(verdicts(&report), ["CHAIN_NOT_CHECKED"]);
    assert_eq!((report.verdict.name(), report.exit_status(false, false)), ("CHAIN_NOT_CHECKED", 2));
    assert!(report.findings[0].detail.contains("--block-hash"), "{:?}", report.findings);
    // By the hash of its block, and not by another.
    site.fleet.chains.blocks = vec![receipt.block_hash];
    assert_eq!(site.verdicts(vec![]), Vec::<&str>::new());
    site.fleet.chains.blocks = vec![B256::repeat_byte(1)];
    assert_eq!(site.verdicts(vec![]), ["CHAIN_NOT_CHECKED"]);
    site.fleet.chains = asked;

    // Nothing new, nothing sent; something new, and the hour is not over.
    site.look(&mut worker, HOUR + 10);
    assert_eq!(site.count(), 1);
    site.grow(&mut worker);
    site.look(&mut worker, 1);
    site.settle(&mut worker, 1);
    site.grow(&mut worker);
    assert!(worker.due(at(site.second)).unwrap() > at(site.second + HOUR / 2));
    site.look(&mut worker, 20);
    assert_eq!(site.count(), 2);
    assert_eq!(site.verdicts(vec![]), ["UNANCHORED"]);
    site.grow(&mut worker);
    site.look(&mut worker, HOUR);
    assert_eq!(site.settle(&mut worker, 3).len(), 1);
    assert_eq!(site.receipts(2).len(), 0, "the newest is over it");
    // A worker that has forgotten everything asks the contract first.
    let fresh = tempfile::tempdir().unwrap();
    let mut forgetful = site.fleet.worker(site.store.clone(), Some(fresh.path()));
    forgetful.round(at(site.second)).unwrap();
    site.look(&mut forgetful, 1);
    assert_eq!((site.count(), site.nonce()), (3, 3), "nothing was sent again");
    assert!(!forgetful.targets().is_busy());
    assert_eq!(site.receipts(3).len(), 1);
    // An older proof is stale in the end.
    let late = site.second + 90_000;
    assert!(verdicts(&site.fleet.verify(&*site.store, late, vec![])).contains(&"STALE"));
}

/// A chain that was down: the newest checkpoint makes up for it, or each does, 24 in a transaction.
#[test]
fn after_an_outage() {
    if !is_there() {
        return;
    }
    let mut site = Site::new(&[]);
    let (contract, good) = (site.contract, site.anvil.url.clone());
    let each = Settings { each: true, ..settings(contract, &["http://127.0.0.1:9"]) };
    anchors(&mut site.fleet, each.clone(), 1);
    let mut worker = site.worker();
    site.grow(&mut worker);
    let (why, alarm) = {
        let shown = site.look(&mut worker, 1);
        let (w, a) = complaint(&shown);
        (w.to_owned(), a)
    };
    assert!(why.contains("no node can be used") && !alarm, "{why}");
    anchors(&mut site.fleet, Settings { urls: vec![good.clone()], ..each.clone() }, 1);
    let mut worker = site.worker();
    site.look(&mut worker, 1);
    site.settle(&mut worker, 0);
    // Down again, for 30 rounds.
    anchors(&mut site.fleet, each.clone(), 1);
    let mut worker = site.worker();
    let mut last = 0;
    for _ in 0..30 {
        last = site.grow(&mut worker);
        site.look(&mut worker, HOUR);
    }
    anchors(&mut site.fleet, Settings { urls: vec![good], ..each }, 1);
    let mut worker = site.worker();
    site.look(&mut worker, 1);
    site.settle(&mut worker, 24);
    assert_eq!((site.count(), site.nonce()), (25, 2), "24 in one transaction");
    site.look(&mut worker, HOUR);
    site.settle(&mut worker, last);
    assert_eq!((site.count(), site.nonce()), (31, 3));
    for number in 0..=last {
        assert_eq!(site.receipts(number).len(), 1, "{number}");
    }
    assert_eq!(site.verdicts(vec![]), Vec::<&str>::new());
}

/// A block that is replaced: what vanished is anchored again, by the same transaction, before and after its receipt was kept.
#[test]
fn what_a_reorganisation_takes_is_anchored_again() {
    if !is_there() {
        return;
    }
    // Kept after one block, so that there is something to lose.
    let mut site = Site::settling("20", &[]);
    let once = Settings { confirmations: Some(1), ..settings(site.contract, &[&site.anvil.url]) };
    anchors(&mut site.fleet, once, 1);
    let mut worker = site.worker();
    site.anvil.mine_more(5);
    site.grow(&mut worker);
    site.look(&mut worker, 1);
    site.look(&mut worker, 2);
    let first = site.receipts(0);
    assert_eq!(first.len(), 1, "kept");
    site.anvil.ask::<Value>("anvil_reorg", json!([2, []]));
    assert_eq!(site.count(), 0, "gone");
    site.look(&mut worker, 2);
    assert_eq!(site.count(), 1, "sent again");
    site.look(&mut worker, 2);
    let both = site.receipts(0);
    assert_eq!(both.len(), 2, "with a receipt of its own");
    assert_eq!(both[0].transaction_hash, both[1].transaction_hash);
    assert_ne!(both[0].block_hash, both[1].block_hash);
    assert_eq!((site.count(), site.nonce()), (1, 1));
    // What the chain does not have is said, and no more.
    site.anvil.mine_more(60);
    site.look(&mut worker, 2);
    assert_eq!(site.verdicts(vec![]), ["FOREIGN"]);
    assert!(worker.due(at(site.second)).is_none(), "settled");
}

/// A transaction that nobody mines: sent again with higher fees, under the same nonce, up to the cap and not above.
#[test]
fn a_transaction_that_is_stuck() {
    if !is_there() {
        return;
    }
    let mut site = Site::new(&["--no-mining"]);
    let capped = Settings { max_fee: 4 * GWEI, ..settings(site.contract, &[&site.anvil.url]) };
    anchors(&mut site.fleet, capped, 1);
    let mut worker = site.worker();
    site.grow(&mut worker);
    site.look(&mut worker, 1);
    let waiting = |site: &Site| -> u128 {
        let pool: Value = site.anvil.ask("txpool_content", json!([]));
        let of = pool["pending"].as_object().and_then(|p| p.values().next()).cloned().unwrap();
        let all = of.as_object().unwrap();
        assert_eq!(all.len(), 1, "one at a time: {all:?}");
        let fee = all.values().next().unwrap()["maxFeePerGas"].as_str().unwrap().to_owned();
        u128::from_str_radix(fee.trim_start_matches("0x"), 16).unwrap()
    };
    let first = waiting(&site);
    site.look(&mut worker, 10);
    assert_eq!(waiting(&site), first, "patience");
    site.look(&mut worker, 30);
    let second = waiting(&site);
    assert!(second > first, "{second} {first}");
    // Another life goes on where this one was.
    let mut worker = site.worker();
    let mut last = second;
    for _ in 0..12 {
        site.look(&mut worker, 60);
        let fee = waiting(&site);
        assert!(fee >= last && fee <= 4 * GWEI, "{fee}");
        last = fee;
    }
    assert!(last > 3 * GWEI);
    site.settle(&mut worker, 0);
    assert_eq!((site.count(), site.nonce()), (1, 1));
}

/// Gas above the cap: nothing is sent until it is cheaper.
#[test]
fn gas_above_the_cap() {
    if !is_there() {
        return;
    }
    let mut site = Site::new(&["--no-mining"]);
    let mut worker = site.worker();
    site.grow(&mut worker);
    site.anvil.ask::<Value>("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 200 * GWEI)]));
    site.anvil.mine();
    let shown = site.look(&mut worker, 1);
    let (why, alarm) = complaint(&shown);
    assert!(why.contains("max_fee_gwei allows 100000000000") && !alarm, "{why}");
    assert!(!worker.targets().is_busy());
    // Each empty block makes it an eighth cheaper.
    site.anvil.mine_more(10);
    site.look(&mut worker, HOUR);
    assert!(worker.targets().is_busy());
    site.settle(&mut worker, 0);
    assert_eq!(site.count(), 1);
}

/// An account that may not write, or has no money, is told what to do; nothing is sent for nothing.
#[test]
fn an_account_that_cannot() {
    if !is_there() {
        return;
    }
    let mut site = Site::new(&[]);
    let only = settings(site.contract, &[&site.anvil.url]);
    anchors(&mut site.fleet, only.clone(), 2);
    let mut worker = site.worker();
    site.grow(&mut worker);
    let shown = site.look(&mut worker, 1);
    let (why, _) = complaint(&shown);
    assert!(why.contains("addAuthorizedAnchor(0x3C44"), "{why}");
    assert_eq!(site.anvil.rpc().nonce(account(2)).unwrap(), 0);
    let add = addAuthorizedAnchorCall { account: account(2) }.abi_encode();
    site.anvil.send(account(0), Some(site.contract), &add);
    site.anvil.ask::<Value>("anvil_setBalance", json!([account(2), "0x1"]));
    let shown = site.look(&mut worker, HOUR);
    let (why, _) = complaint(&shown);
    assert!(why.contains("fund it") || why.to_lowercase().contains("insufficient"), "{why}");
    site.anvil.ask::<Value>("anvil_setBalance", json!([account(2), "0xde0b6b3a7640000"]));
    site.look(&mut worker, HOUR);
    assert_eq!(site.anvil.rpc().nonce(account(2)).unwrap(), 1);
    // Whom the trust file does not name does not count.
    site.anvil.mine_more(3);
    for _ in 0..3 {
        site.look(&mut worker, 2);
    }
    assert_eq!(site.receipts(0).len(), 1);
    assert_eq!(site.verdicts(vec![]), ["UNANCHORED"]);
    // A contract that is none, and another chain.
    for (settings, what) in [
        (Settings { contract: account(3), ..only.clone() }, "no contract is at"),
        (Settings { chain: 1, ..only }, "it is on chain 31337, not 1"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        anchors(&mut site.fleet, settings, 1);
        let mut worker = site.fleet.worker(site.store.clone(), Some(dir.path()));
        worker.round(at(site.second)).unwrap();
        let shown = site.look(&mut worker, 1);
        let (why, _) = complaint(&shown);
        assert!(why.contains(what), "{why}");
    }
}

/// Nodes that do not answer, and nodes that lie: the next one is asked, and what two do not agree on is not believed.
#[test]
fn nodes_that_fail_and_nodes_that_lie() {
    if !is_there() {
        return;
    }
    // One that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    let mut site = Site::new(&[]);
    let both = settings(site.contract, &[&silent.0, &site.anvil.url]);
    anchors(&mut site.fleet, both, 1);
    let mut worker = site.worker();
    site.grow(&mut worker);
    let shown = site.look(&mut worker, 1);
    let (why, alarm) = complaint(&shown);
    assert!(why.contains("127.0.0.1") && !alarm, "{why}");
    assert_eq!(site.count(), 1, "the second has sent it");
    site.settle(&mut worker, 0);

    let lies = |site: &mut Site, lie: Lies, alone: bool| {
        let liar = Liar::start(&site.anvil, lie);
        let mut urls = vec![&liar.url[..]];
        urls.extend((!alone).then_some(&site.anvil.url[..]));
        anchors(&mut site.fleet, settings(site.contract, &urls), 1);
        let mut worker = site.worker();
        let number = site.grow(&mut worker);
        let mut said = Vec::new();
        // An alarm it is when it lasts.
        for _ in 0..7 {
            let shown = site.look(&mut worker, HOUR);
            said.extend(shown.into_iter().filter_map(|s| s.result.err()));
            site.anvil.mine_more(3);
        }
        (number, said, liar)
    };
    // It says that the block is another one.
    for lie in [Lies::BlockHash, Lies::Nonce, Lies::Anchored] {
        let (number, said, _liar) = lies(&mut site, lie, false);
        assert!(said.iter().any(|(why, alarm)| *alarm && why.contains("disagree")), "{lie:?} {said:?}");
        assert!(site.receipts(number).is_empty(), "{lie:?}");
        // Without it everything is as it should be.
        let honest = settings(site.contract, &[&site.anvil.url]);
        anchors(&mut site.fleet, honest, 1);
        let mut worker = site.worker();
        site.look(&mut worker, HOUR);
        site.settle(&mut worker, number);
    }
    // Alone it can say what it likes, but not prove it.
    for lie in [Lies::Receipt, Lies::Transactions] {
        let (number, said, _liar) = lies(&mut site, lie, true);
        assert!(said.iter().any(|(why, alarm)| *alarm && why.contains("fit together")), "{lie:?} {said:?}");
        assert!(site.receipts(number).is_empty(), "{lie:?}");
        let honest = settings(site.contract, &[&site.anvil.url]);
        anchors(&mut site.fleet, honest, 1);
        let mut worker = site.worker();
        site.look(&mut worker, HOUR);
        site.settle(&mut worker, number);
    }
    // Nor can it keep an anchor from a verifier.
    assert_eq!(site.verdicts(vec![]), Vec::<&str>::new());
    for lie in [Lies::Withhold, Lies::Chain, Lies::BlockHash] {
        let liar = Liar::start(&site.anvil, lie);
        site.fleet.chains.nodes = vec![liar.url.clone()];
        if lie == Lies::BlockHash {
            site.fleet.chains.nodes.push(site.anvil.url.clone());
        }
        assert_eq!(site.verdicts(vec![]), ["CHAIN_NOT_CHECKED"], "{lie:?}");
    }
}

/// Everything is stolen but what the chain remembers: all online keys, the contract's owner and the sending account included.
#[test]
fn what_was_anchored_stays_provable() {
    if !is_there() {
        return;
    }
    let mut site = Site::new(&[]);
    let mut worker = site.worker();
    for number in 0..3 {
        assert_eq!(site.grow(&mut worker), number);
        site.look(&mut worker, HOUR);
        site.settle(&mut worker, number);
    }
    assert_eq!(site.verdicts(vec![]), Vec::<&str>::new());
    let kept = site.receipts(2).remove(0);
    let good = dump(&*site.store);
    let second = site.second;
    // The owner and the sender are the thief's: nothing that is anchored changes.
    let before = kept.check().unwrap();
    let thief = [
        removeAuthorizedAnchorCall { account: account(1) }.abi_encode(),
        addAuthorizedAnchorCall { account: account(3) }.abi_encode(),
        transferOwnershipCall { to: account(3) }.abi_encode(),
    ];
    for call in thief {
        site.anvil.send(account(0), Some(site.contract), &call);
    }
    let again = anchorHashCall { hash: kept.hash.0.into(), metadata: "{}".to_owned() }.abi_encode();
    site.anvil.send(account(3), Some(site.contract), &again);
    site.anvil.mine_more(3);
    assert_eq!(site.verdicts(vec![]), Vec::<&str>::new());
    let wanted_about = About {
        hash: kept.hash,
        origin: kept.metadata().unwrap().origin,
        size: kept.metadata().unwrap().size,
        root: kept.merkle_root,
    };
    let wanted = Wanted { chain: CHAIN, contract: site.contract, sender: account(1), about: &[wanted_about] };
    let found = collect(&site.anvil.rpc(), &wanted, kept.transaction_hash).unwrap().unwrap();
    assert_eq!(found[0].check().unwrap().block_hash, before.block_hash);

    // What thieves with the log's and the writers' keys leave of a store, each anew from what was there, logged again from nothing.
    let forged = |site: &mut Site, change: &dyn Fn(&mut Fleet)| {
        let mut fleet = Fleet::new(&[]);
        std::mem::swap(&mut fleet, &mut site.fleet);
        change(&mut fleet);
        let store = Arc::new(MemoryBucket::default());
        fleet.put(&*store);
        let anchors = fleet.anchors.take();
        fleet.worker(store.clone(), None).round(at(second)).unwrap();
        fleet.anchors = anchors;
        std::mem::swap(&mut fleet, &mut site.fleet);
        store
    };
    type Attack<'a> = (&'a str, &'a dyn Fn(&mut Fleet), &'a [&'a str]);
    let drop_last = |fleet: &mut Fleet| {
        for writer in fleet.writers.values_mut() {
            let last = writer.objects.keys().filter(|k| k.starts_with("batches/")).max().cloned().unwrap();
            writer.objects.remove(&last);
            writer.objects.retain(|k, _| !k.contains("000000000002-"));
        }
    };
    let drop_writer = |fleet: &mut Fleet| fleet.get("b").objects.clear();
    let replace = |fleet: &mut Fleet| {
        // Signed with the writer's stolen key, as everything is.
        let writer = fleet.get("a");
        let key = writer.objects.keys().filter(|k| k.starts_with("batches/")).max().cloned().unwrap();
        let bytes = String::from_utf8(writer.objects[&key].clone()).unwrap();
        let envelope = Envelope::parse(bytes.as_bytes()).unwrap();
        let mut header: Batch = waxseal_trail::valid::payload(&envelope).unwrap();
        header.software = "another".to_owned();
        let forged = sign(&header, &writer.signers);
        writer.objects.insert(key, forged.to_bytes().unwrap());
    };
    let attacks: [Attack<'_>; 3] = [
        ("a batch", &replace, &["TRUNCATED", "ROLLBACK"]),
        ("the last hour's batches", &drop_last, &["TRUNCATED", "ROLLBACK"]),
        ("a writer", &drop_writer, &["TRUNCATED", "ROLLBACK"]),
    ];
    for (what, attack, any) in attacks {
        let original: Vec<_> =
            site.fleet.writers.iter().map(|(n, w)| (n.clone(), w.objects.clone())).collect();
        let store = forged(&mut site, attack);
        let report = site.fleet.verify(&*store, second, vec![]);
        let said = verdicts(&report);
        assert!(any.iter().any(|v| said.contains(v)), "{what}: {said:?}");
        // Without the chain nothing says so.
        let asked = std::mem::take(&mut site.fleet.chains);
        let blind = site.fleet.verify(&*store, second, vec![]);
        assert!(!any.iter().any(|v| verdicts(&blind).contains(v)), "{what}");
        assert!(verdicts(&blind).contains(&"CHAIN_NOT_CHECKED"), "{what}");
        assert!(blind.freshness.contains("the beginning"), "{}", blind.freshness);
        // A receipt that somebody kept does.
        let memory =
            Memory { what: "a receipt".to_owned(), checkpoint: Ok(kept.to_bytes().unwrap()), at: None };
        let report = site.fleet.verify(&*store, second, vec![memory]);
        assert!(verdicts(&report).contains(&"ROLLBACK"), "{what}: {:?}", verdicts(&report));
        site.fleet.chains = asked;
        for (name, objects) in original {
            site.fleet.get(&name).objects = objects;
        }
    }
    let without = |gone: &dyn Fn(&String) -> bool| {
        let store = Arc::new(MemoryBucket::default());
        for (key, bytes) in good.iter().filter(|(k, _)| !gone(k)) {
            waxseal_e2e::fleet::put(&*store, key, bytes);
        }
        store
    };
    // No log is left at all.
    let store = without(&|k| k.starts_with("log/") || k.starts_with("anchors/"));
    let said = verdicts(&site.fleet.verify(&*store, second, vec![]));
    assert!(said.contains(&"TRUNCATED"), "{said:?}");
    // Offline: of two blocks that the auditor knows one has no receipt any more, though the other is young enough.
    let asked = std::mem::take(&mut site.fleet.chains);
    let first = site.receipts(0).remove(0);
    site.fleet.chains.blocks = vec![first.block_hash, kept.block_hash];
    assert_eq!(site.verdicts(vec![]), Vec::<&str>::new());
    let store = without(&|k| k.starts_with(&receipts_prefix(0)));
    let said = verdicts(&site.fleet.verify(&*store, second, vec![]));
    assert_eq!(said, ["CHAIN_NOT_CHECKED", "UNANCHORED"], "and two of three receipts are there");
    // Nor does a receipt that only names that block make up for it.
    let named = Receipt { proof: None, ..first.clone() };
    let name = format!("{}{CHAIN}-{:x}.json", receipts_prefix(0), first.transaction_hash);
    waxseal_e2e::fleet::put(&*store, &name, &named.to_bytes().unwrap());
    assert!(verdicts(&site.fleet.verify(&*store, second, vec![])).contains(&"CHAIN_NOT_CHECKED"));
    // A true receipt in another's place says nothing.
    let store = without(&|_| false);
    let name = format!("{}{CHAIN}-{:x}-1.json", receipts_prefix(1), first.transaction_hash);
    waxseal_e2e::fleet::put(&*store, &name, &first.to_bytes().unwrap());
    assert_eq!(verdicts(&site.fleet.verify(&*store, second, vec![])), ["FOREIGN"]);
    site.fleet.chains = asked;

    // Two workers with the log's key and two stores: the chain has seen both, and either store is one too few.
    let other = Arc::new(MemoryBucket::default());
    site.fleet.put(&*other);
    let second_dir = tempfile::tempdir().unwrap();
    let mut second_worker = site.fleet.worker(other.clone(), Some(second_dir.path()));
    let late = second_worker.round(at(second)).unwrap().newest.unwrap();
    assert_eq!(late.number, 0, "one checkpoint over everything");
    let add = addAuthorizedAnchorCall { account: account(1) }.abi_encode();
    site.anvil.send(account(0), Some(site.contract), &add);
    let shown = second_worker.anchor(at(second)).unwrap();
    assert_eq!(site.count(), 4, "it has anchored its own: {shown:?}");
    site.anvil.mine_more(3);
    for store in [&*site.store, &*other] {
        let said = verdicts(&site.fleet.verify(store, second, vec![]));
        assert!(said.contains(&"ROLLBACK") || said.contains(&"TRUNCATED"), "{said:?}");
    }
    // From then on the account is not believed; and another trail's anchors by it were never ours.
    let until = site.receipts(2)[0].block_number;
    let trusted = site.fleet.ethereum[0].replace('}', &format!(", until: {until}}}"));
    site.fleet.ethereum = vec![trusted];
    let foreign = About { origin: "example.org/another".to_owned(), ..about(9) };
    let call = anchorHashCall { hash: foreign.hash.0.into(), metadata: metadata(9, &foreign) }.abi_encode();
    site.anvil.send(account(1), Some(site.contract), &call);
    site.anvil.mine_more(3);
    assert_eq!(site.verdicts(vec![]), Vec::<&str>::new());
    // The log rolled back: the store as it was two checkpoints ago, receipts and all.
    let store = Arc::new(MemoryBucket::default());
    let old = |k: &String| {
        let late = |n: u64| k.contains(&format!("{n:012}"));
        !(k.starts_with("log/checkpoints/") || k.starts_with("anchors/")) || !(late(1) || late(2))
    };
    for (key, bytes) in good.iter().filter(|(k, _)| old(k) && *k != "log/checkpoint") {
        waxseal_e2e::fleet::put(&*store, key, bytes);
    }
    let said = verdicts(&site.fleet.verify(&*store, second, vec![]));
    assert!(said.contains(&"TRUNCATED"), "{said:?}");
}

/// The worker killed at a hundred random points, where transactions are under way all the time.
#[test]
fn killed_a_hundred_times_it_anchors_everything_once() {
    use std::process::Stdio;
    if !is_there() {
        return;
    }
    let anvil = Anvil::start(&["--block-time", "1"]);
    let contract = anvil.deploy(account(0), account(1));
    let dir = tempfile::tempdir().unwrap();
    let trail = dir.path().join("trail");
    std::fs::create_dir_all(&trail).unwrap();
    let store = local_store(&trail);
    let mut fleet = Fleet::new(&["a"]);
    fleet.ethereum =
        vec![format!("{{chain: {CHAIN}, contract: \"{contract}\", sender: \"{}\"}}", account(1))];
    let p = |s: &str| dir.path().join(s).display().to_string();
    std::fs::write(p("worker.key"), fleet.worker_key().to_pem().unwrap()).unwrap();
    std::fs::write(p("trust.yaml"), fleet.trust_yaml()).unwrap();
    let yaml = format!(
        "trail: fleet\nstore: file://{}\nstate_dir: state\nkey: file:worker.key\ntrust: trust.yaml\nethereum:\n  - chain: {CHAIN}\n    \
         contract: \"{contract}\"\n    rpcs: [\"{}\"]\n    key: env:SENDER_KEY\n    max_fee_gwei: 100\n    confirmations: 1\n    \
         interval: 1s\n    poll: 1s\n    catch_up: each\n",
        trail.display(),
        anvil.url
    );
    std::fs::write(p("anchor.yaml"), yaml).unwrap();
    let config = p("anchor.yaml");
    let start = || {
        let mut command = Command::new(bin("waxseal-anchor"));
        command.args(["--config", &config, "--once"]).env("SENDER_KEY", ACCOUNTS[1].1);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (mut killed, mut second) = (0, 0);
    for _ in 0..300 {
        if killed == 100 {
            break;
        }
        second += 1;
        fleet.get("a").seal(&[], second, |_| {});
        fleet.put(&store);
        let mut child = start();
        // From before it begins to after a block has what it sent.
        std::thread::sleep(Duration::from_millis(1500).mul_f64(fastrand::f64()));
        killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(killed, 100);
    for _ in 0..5 {
        let mut child = start();
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "it ends");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let newest = newest(&store, &fleet.log, None).unwrap().unwrap().number;
    let (nonce, anchored) = (anvil.rpc().nonce(account(1)).unwrap(), count(&anvil, contract));
    println!("killed {killed} times: {} checkpoints, {anchored} anchors in {nonce} transactions", newest + 1);
    // Each checkpoint from the first that was anchored has one anchor and one receipt, and no transaction was for nothing.
    let with: Vec<u64> = (0..=newest).filter(|n| !receipts(&store, *n).is_empty()).collect();
    let first = with[0];
    assert_eq!(with, (first..=newest).collect::<Vec<_>>(), "none is left out");
    assert!((first..=newest).all(|n| receipts(&store, n).len() == 1));
    assert_eq!(anchored, newest - first + 1);
    let transactions: std::collections::BTreeSet<B256> =
        with.iter().map(|n| receipts(&store, *n)[0].transaction_hash).collect();
    assert_eq!(nonce, transactions.len() as u64, "each transaction has anchored something");
    fleet.chains = chains(&anvil);
    let report = fleet.verify(&store, second, vec![]);
    assert!(!verdicts(&report).iter().any(|v| ["ROLLBACK", "TRUNCATED", "FORK"].contains(v)));
}

/// As a new user does it: the contract, the worker, what is verified and how, proofs.
#[test]
fn from_the_contract_to_a_proof() {
    if !is_there() {
        return;
    }
    let anvil = Anvil::start(&["--slots-in-an-epoch", "1", "--block-time", "1"]);
    let dir = tempfile::tempdir().unwrap();
    let p = |s: &str| dir.path().join(s).display().to_string();
    let anchor = |args: &[&str]| {
        let mut command = Command::new(bin("waxseal-anchor"));
        let out = command.args(args).env("SENDER_KEY", ACCOUNTS[1].1).output().unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let chain = CHAIN.to_string();
    let args = ["deploy-contract", "--rpc", &anvil.url, "--chain", &chain, "--key", "env:SENDER_KEY"];
    let owner = ["--owner", ACCOUNTS[0].0, "--max-fee-gwei", "50"];
    let (code, out, err) = anchor(&[&args[..], &owner].concat());
    assert_eq!(code, Some(0), "{err}");
    let (config, trust) = out.split_once("# Trust files:\n").unwrap();
    let mut fleet = Fleet::new(&[]);
    let trail = dir.path().join("trail");
    std::fs::create_dir_all(&trail).unwrap();
    let store = local_store(&trail);
    // Times as they are: the writers have to look alive.
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let now = now - at(0).unix_seconds();
    fleet.join("a", now);
    fleet.join("b", now);
    fleet.seal(now);
    fleet.put(&store);
    std::fs::write(p("worker.key"), fleet.worker_key().to_pem().unwrap()).unwrap();
    std::fs::write(p("trust.yaml"), fleet.trust_yaml() + trust).unwrap();
    let yaml = format!(
        "trail: fleet\nstore: file://{}\nstate_dir: state\nkey: file:worker.key\ntrust: trust.yaml\n{}    poll: 1s\n",
        trail.display(),
        config
    );
    std::fs::write(p("anchor.yaml"), yaml).unwrap();
    let (code, _, err) = anchor(&["--config", &p("anchor.yaml"), "--once"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("checkpoint 0 anchored in block"), "{err}");
    let receipt = receipts(&store, 0).remove(0);
    let block = receipt.block_hash.to_string();
    let verify = |more: &[&str]| {
        let args = ["verify", &p("trail"), "--trust", &p("trust.yaml"), "--no-state"];
        let out = waxseal(&[&args[..], more].concat());
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let by_rpc = verify(&["--rpc", &anvil.url]);
    assert_eq!(by_rpc.0, Some(0), "{}", by_rpc.1);
    assert!(by_rpc.1.contains("chain      31337 has anchored checkpoint 0"), "{}", by_rpc.1);
    assert_eq!(verify(&["--block-hash", &block]).0, Some(0));
    let alone = verify(&[]);
    assert_eq!(alone.0, Some(2));
    assert!(alone.1.contains("CHAIN NOT CHECKED") && !alone.1.contains("verdict    OK"), "{}", alone.1);
    // A proof.
    let writer = fleet.get("a").writer.clone();
    let out = waxseal(&["prove", &p("trail"), &format!("{writer}:0"), "--trust", &p("trust.yaml")]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::write(p("proof.json"), &out.stdout).unwrap();
    println!(
        "a proof with a receipt: {} bytes; the receipt: {}",
        out.stdout.len(),
        receipt.to_bytes().unwrap().len()
    );
    let prove = |more: &[&str]| {
        let args = ["verify-proof", &p("proof.json"), "--trust", &p("trust.yaml")];
        let out = waxseal(&[&args[..], more].concat());
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (code, said) = prove(&["--block-hash", &block]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("chain      31337 has anchored it by"), "{said}");
    assert_eq!(prove(&["--rpc", &anvil.url]).0, Some(0));
    let (code, said) = prove(&[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("CHAIN NOT CHECKED") && !said.contains("verdict    OK"), "{said}");
    // Another language agrees, with nothing but the pages.
    if let Some((code, said)) = verify_proof_in_python(&p("proof.json"), &p("trust.yaml")) {
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("if chain {CHAIN} has block {block}")), "{said}");
    }
    // No byte of it can be another: what is in a receipt is under the block's hash, and everything else under the checkpoint.
    let trust = waxseal_anchor::config::read_trust(Path::new(&p("trust.yaml"))).unwrap();
    let known = Chains { blocks: vec![receipt.block_hash], ..Chains::default() };
    let bytes = std::fs::read(p("proof.json")).unwrap();
    let holds = |bytes: &[u8]| {
        let checked = Proof::parse(bytes).and_then(|proof| check_proof(&proof, &trust, &known));
        checked.is_ok_and(|c| matches!(&c.anchors[..], [a] if a.unchecked.is_none()))
    };
    assert!(holds(&bytes));
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(!holds(&bad), "byte {at}");
    }
    // The table.
    let out = waxseal(&["anchor", "list", &p("trail"), "--trust", &p("trust.yaml")]);
    let table = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(table.contains(&block) && table.contains(&receipt.gas_used.to_string()), "{table}");
}

/// What is committed is what the source compiles to.
#[test]
fn the_contract_is_what_its_source_compiles_to() {
    let Some(modules) = std::env::var_os("WAXSEAL_SOLC") else {
        eprintln!("SKIPPED: no solc on this machine (WAXSEAL_SOLC), so the contract is not compiled again");
        return;
    };
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts/build.js");
    let out = Command::new("node").arg(build).arg(modules).arg("--check").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// An account whose key AWS KMS has, and nobody else.
#[test]
fn a_key_in_kms() {
    if !is_there() {
        return;
    }
    let Some(kms) = waxseal_e2e::s3::servers::localstack_kms() else {
        eprintln!("SKIPPED: no LocalStack on this machine, so no KMS");
        return;
    };
    let anvil = Anvil::start(&[]);
    let create = |spec: &str| -> String {
        let mut answer = ureq::post(kms.endpoint())
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", "TrentService.CreateKey")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=x")
            .send(json!({"KeySpec": spec, "KeyUsage": "SIGN_VERIFY"}).to_string())
            .unwrap();
        let said: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
        said["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
    };
    let deploy = |key: &str| {
        let mut command = Command::new(bin("waxseal-anchor"));
        let chain = CHAIN.to_string();
        command.args(["deploy-contract", "--rpc", &anvil.url, "--chain", &chain, "--key", key]);
        command.args(["--owner", ACCOUNTS[0].0, "--max-fee-gwei", "50"]);
        command.env("AWS_ENDPOINT_URL", kms.endpoint()).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    let key = format!("kms:{}", create("ECC_SECG_P256K1"));
    // It has no money yet, and says which account that is.
    let (code, said) = deploy(&key);
    assert_eq!(code, Some(1), "{said}");
    let account = said.split("account 0x").nth(1).unwrap().split(' ').next().unwrap();
    let account: Address = account.parse().unwrap();
    anvil.ask::<Value>("anvil_setBalance", json!([account, "0xde0b6b3a7640000"]));
    let (code, said) = deploy(&key);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("sender: \"{account}\"")), "{said}");
    assert_eq!(anvil.rpc().nonce(account).unwrap(), 1);
    // Keys of another kind, and none.
    let (code, said) = deploy(&format!("kms:{}", create("ECC_NIST_P256")));
    assert!(code == Some(1) && said.contains("ECC_SECG_P256K1"), "{said}");
    let (code, said) = deploy("kms:alias/nobody");
    assert!(code == Some(1) && said.contains("AWS KMS"), "{said}");
}
