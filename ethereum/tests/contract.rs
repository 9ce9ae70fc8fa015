//! The contract's own tests, run in the process by revm: what each call does, whom it refuses, what it costs, and that every
//! branch of its code was taken both ways.

use alloy_primitives::{Address, B256, Bytes, Log, U256, keccak256};
use alloy_sol_types::{SolCall, SolError, SolEvent};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use revm::context::result::{ExecutionResult, Output};
use revm::context::{BlockEnv, Context, TxEnv};
use revm::database::CacheDB;
use revm::database::EmptyDB;
use revm::interpreter::Interpreter;
use revm::interpreter::interpreter::EthInterpreter;
use revm::interpreter::interpreter_types::Jumps as _;
use revm::primitives::TxKind;
use revm::state::AccountInfo;
use revm::{DatabaseRef as _, InspectCommitEvm as _, Inspector, MainBuilder as _, MainContext as _};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use waxseal_ethereum::contract::AuditTrail::*;
use waxseal_ethereum::contract::{
    Anchor, CODE_HASH, anchor_slot, count_from_slot, deployment, digest_slot, sender_slot,
};

const OWNER: Address = Address::repeat_byte(0x0e);
const SENDER: Address = Address::repeat_byte(0x5e);
const STRANGER: Address = Address::repeat_byte(0x66);
const START: u64 = 1_800_000_000;
const JUMPI: u8 = 0x57;

/// Which ways conditional jumps went, by where they stand.
#[derive(Clone, Default)]
struct Branches(Rc<RefCell<BTreeMap<usize, BTreeSet<bool>>>>);

impl<C> Inspector<C, EthInterpreter> for Branches {
    fn step(&mut self, interp: &mut Interpreter<EthInterpreter>, _: &mut C) {
        if interp.bytecode.opcode() == JUMPI {
            let taken = interp.stack.peek(1).is_ok_and(|v| !v.is_zero());
            self.0.borrow_mut().entry(interp.bytecode.pc()).or_default().insert(taken);
        }
    }
}

struct Chain {
    db: CacheDB<EmptyDB>,
    contract: Address,
    time: u64,
    nonces: HashMap<Address, u64>,
    branches: Branches,
}

/// What came of a call.
#[derive(Debug)]
struct Done {
    gas: u64,
    logs: Vec<Log>,
    /// What it returned, or what it reverted with.
    result: Result<Bytes, Bytes>,
}

impl Done {
    fn ok(self) -> (u64, Vec<Log>, Bytes) {
        (self.gas, self.logs, self.result.expect("it succeeds"))
    }

    fn refused<E: SolError>(self) -> E {
        let data = self.result.expect_err("it reverts");
        E::abi_decode(&data).unwrap_or_else(|e| panic!("another error: {data} {e}"))
    }
}

impl Chain {
    fn new() -> Chain {
        Chain::with(OWNER, SENDER).expect("it is deployed")
    }

    fn with(owner: Address, sender: Address) -> Result<Chain, Bytes> {
        let mut chain = Chain {
            db: CacheDB::new(EmptyDB::default()),
            contract: Address::ZERO,
            time: START,
            nonces: HashMap::new(),
            branches: Branches::default(),
        };
        let rich = AccountInfo::from_balance(U256::from(1_000_000));
        chain.db.insert_account_info(SENDER, rich);
        // The constructor's branches are counted apart, and forgotten.
        let (result, created) = chain.transact(OWNER, TxKind::Create, deployment(owner, sender), U256::ZERO);
        chain.branches = Branches::default();
        result.result?;
        chain.contract = created.expect("an address");
        Ok(chain)
    }

    fn transact(&mut self, from: Address, kind: TxKind, data: Bytes, value: U256) -> (Done, Option<Address>) {
        let nonce = *self.nonces.entry(from).and_modify(|n| *n += 1).or_insert(0);
        let block = BlockEnv { timestamp: U256::from(self.time), ..BlockEnv::default() };
        let tx = TxEnv {
            caller: from,
            gas_limit: 5_000_000,
            kind,
            data,
            value,
            nonce,
            chain_id: Some(1),
            ..TxEnv::default()
        };
        let mut evm = Context::mainnet()
            .with_db(&mut self.db)
            .with_block(block)
            .build_mainnet_with_inspector(self.branches.clone());
        let result = evm.inspect_tx_commit(tx).expect("the transaction is valid");
        let gas = result.tx_gas_used();
        match result {
            ExecutionResult::Success { logs, output: Output::Call(data), .. } => {
                (Done { gas, logs, result: Ok(data) }, None)
            }
            ExecutionResult::Success { logs, output: Output::Create(_, address), .. } => {
                (Done { gas, logs, result: Ok(Bytes::new()) }, address)
            }
            ExecutionResult::Revert { output, .. } => {
                (Done { gas, logs: Vec::new(), result: Err(output) }, None)
            }
            ExecutionResult::Halt { reason, .. } => panic!("halted: {reason:?}"),
        }
    }

    fn raw(&mut self, from: Address, data: Bytes) -> Done {
        self.transact(from, TxKind::Call(self.contract), data, U256::ZERO).0
    }

    fn call<C: SolCall>(&mut self, from: Address, call: &C) -> Done {
        self.raw(from, call.abi_encode().into())
    }

    fn ask<C: SolCall>(&mut self, call: &C) -> C::Return {
        let (.., data) = self.call(STRANGER, call).ok();
        C::abi_decode_returns(&data).expect("what the ABI says")
    }

    fn anchor(&mut self, from: Address, hash: B256, metadata: &str) -> Done {
        self.call(from, &anchorHashCall { hash, metadata: metadata.to_owned() })
    }

    fn slot(&self, slot: B256) -> U256 {
        self.db.storage_ref(self.contract, slot.into()).expect("a slot")
    }

    fn stored(&self, hash: &B256) -> Option<Anchor> {
        Anchor::from_slots(self.slot(anchor_slot(hash)), self.slot(digest_slot(hash)))
    }
}

fn hash(n: u64) -> B256 {
    keccak256(n.to_be_bytes())
}

/// As long as those of a real log are.
fn metadata(n: u64) -> String {
    format!(
        "{{\"checkpoint\":{n},\"first_sealed_at\":\"2026-11-27T21:00:00.123456789Z\",\"last_sealed_at\":\
         \"2026-11-27T21:59:59.987654321Z\",\"origin\":\"audit.example.com/prod/0123456789abcdef\",\"size\":{}}}",
        1_000_000 + n
    )
}

#[test]
fn an_anchor_is_kept_as_it_was_written() {
    let mut c = Chain::new();
    let (h, text) = (hash(1), metadata(1));
    let (_, logs, out) = c.anchor(SENDER, h, &text).ok();
    assert!(out.is_empty());
    let [log] = &logs[..] else { panic!("{logs:?}") };
    assert_eq!(log.address, c.contract);
    let event = HashAnchored::decode_log(log).expect("the event").data;
    assert_eq!(
        event,
        HashAnchored { hash: h, timestamp: U256::from(START), metadata: text.clone(), submitter: SENDER }
    );
    let digest = keccak256(text.as_bytes());
    let got = c.ask(&getAnchorCall { hash: h });
    assert_eq!((got.timestamp, got.submitter, got.metadataDigest), (U256::from(START), SENDER, digest));
    let public = c.ask(&anchorsCall { hash: h });
    assert_eq!((public.timestamp.to::<u64>(), public.submitter), (START, SENDER));
    assert_eq!((public.sequence.to::<u64>(), public.metadataDigest), (1, digest));
    let stored = Anchor { timestamp: START, submitter: SENDER, sequence: 1, metadata_digest: digest };
    assert_eq!(c.stored(&h), Some(stored));
    assert_eq!(count_from_slot(c.slot(sender_slot(SENDER))), 1);
    assert_eq!(c.ask(&anchorCountCall { account: SENDER }), U256::from(1));
    assert!(c.ask(&verifyHashCall { hash: h, timestamp: U256::from(START) }));
    for wrong in [U256::ZERO, U256::from(START + 1), U256::MAX] {
        assert!(!c.ask(&verifyHashCall { hash: h, timestamp: wrong }));
    }
}

#[test]
fn nothing_is_known_of_what_is_not_anchored() {
    let mut c = Chain::new();
    let h = hash(7);
    // The naive contract says true: no anchor has the time 0.
    for timestamp in [U256::ZERO, U256::from(START), U256::MAX] {
        assert!(!c.ask(&verifyHashCall { hash: h, timestamp }));
    }
    assert_eq!(c.call(STRANGER, &getAnchorCall { hash: h }).refused::<NotAnchored>().hash, h);
    assert!(c.ask(&anchorsCall { hash: h }).timestamp.is_zero());
    assert_eq!(c.stored(&h), None);
}

#[test]
fn an_anchor_is_written_once() {
    let mut c = Chain::new();
    c.call(OWNER, &addAuthorizedAnchorCall { account: STRANGER }).ok();
    c.anchor(SENDER, hash(1), "{}").ok();
    let before = c.stored(&hash(1));
    c.time += 3600;
    for who in [SENDER, STRANGER] {
        assert_eq!(c.anchor(who, hash(1), "later").refused::<AlreadyAnchored>().hash, hash(1));
        let batch =
            batchAnchorCall { hashes: vec![hash(2), hash(1)], metadata: vec!["2".into(), "1".into()] };
        assert_eq!(c.call(who, &batch).refused::<AlreadyAnchored>().hash, hash(1));
    }
    let twice = batchAnchorCall { hashes: vec![hash(3), hash(3)], metadata: vec!["a".into(), "b".into()] };
    assert_eq!(c.call(SENDER, &twice).refused::<AlreadyAnchored>().hash, hash(3));
    assert_eq!(c.stored(&hash(1)), before);
    // All or none.
    assert_eq!((c.stored(&hash(2)), c.stored(&hash(3))), (None, None));
    assert_eq!(c.ask(&anchorCountCall { account: SENDER }), U256::from(1));
}

#[test]
fn only_who_is_authorised_writes() {
    let mut c = Chain::new();
    assert_eq!(c.anchor(STRANGER, hash(1), "").refused::<NotAuthorized>().account, STRANGER);
    assert_eq!(c.anchor(OWNER, hash(1), "").refused::<NotAuthorized>().account, OWNER);
    let batch = batchAnchorCall { hashes: vec![hash(1)], metadata: vec![String::new()] };
    assert_eq!(c.call(STRANGER, &batch).refused::<NotAuthorized>().account, STRANGER);
    // Who may write decides nothing: the naive contract lets it remove everyone else.
    let add = addAuthorizedAnchorCall { account: STRANGER };
    let remove = removeAuthorizedAnchorCall { account: SENDER };
    assert_eq!(c.call(SENDER, &add).refused::<NotOwner>().account, SENDER);
    assert_eq!(c.call(SENDER, &remove).refused::<NotOwner>().account, SENDER);
    assert_eq!(c.call(SENDER, &transferOwnershipCall { to: SENDER }).refused::<NotOwner>().account, SENDER);
    let (_, logs, _) = c.call(OWNER, &add).ok();
    assert_eq!(AuthorizedAnchorAdded::decode_log(&logs[0]).expect("the event").account, STRANGER);
    assert!(c.ask(&authorizedAnchorsCall { account: STRANGER }));
    c.anchor(STRANGER, hash(1), "").ok();
    c.anchor(SENDER, hash(2), "").ok();
    let (_, logs, _) = c.call(OWNER, &remove).ok();
    assert_eq!(AuthorizedAnchorRemoved::decode_log(&logs[0]).expect("the event").account, SENDER);
    assert!(!c.ask(&authorizedAnchorsCall { account: SENDER }));
    assert_eq!(c.anchor(SENDER, hash(3), "").refused::<NotAuthorized>().account, SENDER);
    // What it wrote stays, and is counted on.
    assert_eq!(c.stored(&hash(2)).map(|a| a.sequence), Some(1));
    c.call(OWNER, &addAuthorizedAnchorCall { account: SENDER }).ok();
    c.anchor(SENDER, hash(3), "").ok();
    assert_eq!(c.stored(&hash(3)).map(|a| a.sequence), Some(2));
    let zero = addAuthorizedAnchorCall { account: Address::ZERO };
    let _: ZeroAddress = c.call(OWNER, &zero).refused();
}

#[test]
fn the_owner_is_handed_over_in_two_steps() {
    let mut c = Chain::new();
    let (_, logs, _) = c.call(OWNER, &transferOwnershipCall { to: STRANGER }).ok();
    let event = OwnershipTransferStarted::decode_log(&logs[0]).expect("the event").data;
    assert_eq!((event.from, event.to), (OWNER, STRANGER));
    assert_eq!((c.ask(&ownerCall {}), c.ask(&pendingOwnerCall {})), (OWNER, STRANGER));
    assert_eq!(c.call(SENDER, &acceptOwnershipCall {}).refused::<NotPendingOwner>().account, SENDER);
    // Taken back.
    c.call(OWNER, &transferOwnershipCall { to: Address::ZERO }).ok();
    assert_eq!(c.call(STRANGER, &acceptOwnershipCall {}).refused::<NotPendingOwner>().account, STRANGER);
    c.call(OWNER, &transferOwnershipCall { to: STRANGER }).ok();
    let (_, logs, _) = c.call(STRANGER, &acceptOwnershipCall {}).ok();
    let event = OwnershipTransferred::decode_log(&logs[0]).expect("the event").data;
    assert_eq!((event.from, event.to), (OWNER, STRANGER));
    assert_eq!((c.ask(&ownerCall {}), c.ask(&pendingOwnerCall {})), (STRANGER, Address::ZERO));
    assert_eq!(c.call(OWNER, &transferOwnershipCall { to: OWNER }).refused::<NotOwner>().account, OWNER);
    assert_eq!(c.call(STRANGER, &acceptOwnershipCall {}).refused::<NotPendingOwner>().account, STRANGER);
}

#[test]
fn deployed_as_it_should_be() {
    let c = Chain::new();
    let code = c.db.basic_ref(c.contract).expect("the account").expect("the account").code_hash;
    assert_eq!(code, CODE_HASH);
    assert_eq!(c.slot(B256::ZERO), U256::from_be_slice(OWNER.as_slice()));
    let mut nobody = Chain::with(OWNER, Address::ZERO).expect("deployed");
    assert!(!nobody.ask(&authorizedAnchorsCall { account: Address::ZERO }));
    let refused = Chain::with(Address::ZERO, SENDER).map(|_| ()).expect_err("no owner");
    assert!(ZeroAddress::abi_decode(&refused).is_ok());
}

#[test]
fn texts_have_a_longest_length_and_batches_fit() {
    let mut c = Chain::new();
    let longest = usize::try_from(c.ask(&MAX_METADATACall {})).expect("small");
    c.anchor(SENDER, hash(1), &"x".repeat(longest)).ok();
    let long = "x".repeat(longest + 1);
    let refused = c.anchor(SENDER, hash(2), &long).refused::<MetadataTooLong>();
    assert_eq!(refused.length, U256::from(longest + 1));
    let batch = |n: usize, m: usize| batchAnchorCall {
        hashes: (0..n as u64).map(|i| hash(100 + i)).collect(),
        metadata: vec![String::new(); m],
    };
    for (n, m) in [(0, 0), (0, 1), (2, 1), (1, 2)] {
        let refused: BadBatch = c.call(SENDER, &batch(n, m)).refused();
        assert_eq!((refused.hashes, refused.texts), (U256::from(n), U256::from(m)));
    }
    let refused = c.call(SENDER, &batchAnchorCall { hashes: vec![hash(9)], metadata: vec![long] });
    let _: MetadataTooLong = refused.refused();
}

/// The bars: 80,000 for one, whatever it anchors; under 60,000 for each of 24.
#[test]
fn gas() {
    let mut c = Chain::new();
    let first = c.anchor(SENDER, hash(0), &metadata(0)).ok().0;
    let mut worst = first;
    for n in 1..20 {
        c.time += 3600;
        // Numbers as large as a log will ever have.
        worst = worst.max(c.anchor(SENDER, hash(n), &metadata(n * 999_999_999_999 / 20)).ok().0);
    }
    let items = 24;
    let batch = batchAnchorCall {
        hashes: (0..items).map(|n| hash(1000 + n)).collect(),
        metadata: (0..items).map(metadata).collect(),
    };
    let each = c.call(SENDER, &batch).ok().0 / items;
    println!("anchorHash: {first} gas the first time, {worst} at most; batchAnchor of {items}: {each} each");
    assert!(worst <= 80_000, "{worst}");
    assert!(each < 60_000, "{each}");
}

/// What the contract is asked at random, beside a model of it.
#[derive(Clone, Debug)]
enum Step {
    Anchor(usize, u64, String),
    Batch(usize, Vec<(u64, String)>),
    Add(usize, usize),
    Remove(usize, usize),
    Transfer(usize, usize),
    Accept(usize),
}

const ACCOUNTS: [Address; 4] = [OWNER, SENDER, STRANGER, Address::repeat_byte(0x77)];

fn step() -> impl Strategy<Value = Step> {
    let (who, h) = (|| 0..ACCOUNTS.len(), || 0..12u64);
    let text = || proptest::string::string_regex("[ -~]{0,80}").expect("a pattern");
    prop_oneof![
        4 => (who(), h(), text()).prop_map(|(w, h, t)| Step::Anchor(w, h, t)),
        2 => (who(), prop::collection::vec((h(), text()), 0..4)).prop_map(|(w, b)| Step::Batch(w, b)),
        1 => (who(), who()).prop_map(|(w, a)| Step::Add(w, a)),
        1 => (who(), who()).prop_map(|(w, a)| Step::Remove(w, a)),
        1 => (who(), who()).prop_map(|(w, a)| Step::Transfer(w, a)),
        1 => who().prop_map(Step::Accept),
    ]
}

#[derive(Default)]
struct Model {
    owner: Address,
    pending: Address,
    senders: BTreeMap<Address, (bool, u64)>,
    anchors: BTreeMap<B256, Anchor>,
}

impl Model {
    fn batch(&mut self, from: Address, items: &[(u64, String)], time: u64) -> bool {
        let (allowed, mut count) = self.senders.get(&from).copied().unwrap_or_default();
        let hashes: BTreeSet<u64> = items.iter().map(|(h, _)| *h).collect();
        let fresh = items.iter().all(|(h, _)| !self.anchors.contains_key(&hash(*h)));
        if !allowed || items.is_empty() || hashes.len() != items.len() || !fresh {
            return false;
        }
        for (h, text) in items {
            count += 1;
            let metadata_digest = keccak256(text.as_bytes());
            let anchor = Anchor { timestamp: time, submitter: from, sequence: count, metadata_digest };
            self.anchors.insert(hash(*h), anchor);
        }
        self.senders.insert(from, (allowed, count));
        true
    }

    fn step(&mut self, step: &Step, time: u64) -> bool {
        match step {
            Step::Anchor(w, h, t) => self.batch(ACCOUNTS[*w], &[(*h, t.clone())], time),
            Step::Batch(w, items) => self.batch(ACCOUNTS[*w], items, time),
            Step::Add(w, a) | Step::Remove(w, a) => {
                let may = ACCOUNTS[*w] == self.owner;
                if may {
                    self.senders.entry(ACCOUNTS[*a]).or_default().0 = matches!(step, Step::Add(..));
                }
                may
            }
            Step::Transfer(w, to) => {
                let may = ACCOUNTS[*w] == self.owner;
                if may {
                    self.pending = ACCOUNTS[*to];
                }
                may
            }
            Step::Accept(w) => {
                let may = ACCOUNTS[*w] == self.pending;
                if may {
                    (self.owner, self.pending) = (self.pending, Address::ZERO);
                }
                may
            }
        }
    }
}

fn run(c: &mut Chain, step: &Step) -> Done {
    match step {
        Step::Anchor(w, h, t) => c.anchor(ACCOUNTS[*w], hash(*h), t),
        Step::Batch(w, items) => {
            let (hashes, metadata) = items.iter().map(|(h, t)| (hash(*h), t.clone())).unzip();
            c.call(ACCOUNTS[*w], &batchAnchorCall { hashes, metadata })
        }
        Step::Add(w, a) => c.call(ACCOUNTS[*w], &addAuthorizedAnchorCall { account: ACCOUNTS[*a] }),
        Step::Remove(w, a) => c.call(ACCOUNTS[*w], &removeAuthorizedAnchorCall { account: ACCOUNTS[*a] }),
        Step::Transfer(w, to) => c.call(ACCOUNTS[*w], &transferOwnershipCall { to: ACCOUNTS[*to] }),
        Step::Accept(w) => c.call(ACCOUNTS[*w], &acceptOwnershipCall {}),
    }
}

/// Whoever calls what in whatever order, owner and senders included: the contract does what the model does, and no anchor that
/// was there is ever another.
#[test]
fn as_the_model_has_it() {
    let mut runner = TestRunner::new(Config { cases: 128, ..Config::default() });
    let steps = prop::collection::vec(step(), 1..40);
    let result = runner.run(&steps, |steps| {
        let mut c = Chain::new();
        let mut model = Model { owner: OWNER, ..Model::default() };
        model.senders.insert(SENDER, (true, 0));
        for step in &steps {
            c.time += 12;
            let expected = model.step(step, c.time);
            prop_assert_eq!(run(&mut c, step).result.is_ok(), expected, "{:?}", step);
            for n in 0..12 {
                prop_assert_eq!(c.stored(&hash(n)), model.anchors.get(&hash(n)).copied());
            }
        }
        for account in ACCOUNTS {
            let (allowed, count) = model.senders.get(&account).copied().unwrap_or_default();
            prop_assert_eq!(c.ask(&authorizedAnchorsCall { account }), allowed);
            prop_assert_eq!(count_from_slot(c.slot(sender_slot(account))), count);
        }
        prop_assert_eq!(c.ask(&ownerCall {}), model.owner);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

/// Where the deployed code jumps on a condition.
fn jumps() -> Vec<usize> {
    let code = DEPLOYED_BYTECODE.clone();
    let (mut all, mut pc) = (Vec::new(), 0);
    while pc < code.len() {
        match code[pc] {
            JUMPI => all.push(pc),
            // PUSH1 to PUSH32 carry data.
            push @ 0x60..=0x7f => pc += usize::from(push - 0x5f),
            _ => {}
        }
        pc += 1;
    }
    all
}

/// Checks that the compiler adds and that no call can fail: that there are four bytes, where a selector of four was found (four
/// calls without arguments); that an index is below a length that equals the one it was compared with (2010); that a text of at most
/// 1,024 bytes fits into memory, and that it ends where its arguments do, which was checked when they were read (the last three).
const UNREACHABLE: [usize; 8] = [473, 1209, 1507, 2010, 2245, 2782, 2884, 2904];

/// Every branch of the code, those that the compiler adds included, goes both ways in what is called here.
#[test]
fn every_branch_is_taken_both_ways() {
    let mut c = Chain::new();
    let accounts = [Address::ZERO, OWNER, SENDER, STRANGER];
    let long = "x".repeat(1025);
    let mut calls: Vec<Vec<u8>> = vec![ownerCall {}.abi_encode(), pendingOwnerCall {}.abi_encode()];
    calls.push(MAX_METADATACall {}.abi_encode());
    for account in accounts {
        calls.push(addAuthorizedAnchorCall { account }.abi_encode());
        calls.push(authorizedAnchorsCall { account }.abi_encode());
        calls.push(anchorCountCall { account }.abi_encode());
        calls.push(transferOwnershipCall { to: account }.abi_encode());
    }
    for n in 0..2 {
        let hash = hash(n);
        for metadata in [&long, "", "{}", &metadata(1)] {
            calls.push(anchorHashCall { hash, metadata: metadata.to_owned() }.abi_encode());
        }
        calls.push(getAnchorCall { hash }.abi_encode());
        calls.push(anchorsCall { hash }.abi_encode());
        for timestamp in [0, START, START + 1] {
            calls.push(verifyHashCall { hash, timestamp: U256::from(timestamp) }.abi_encode());
        }
    }
    calls.push(getAnchorCall { hash: hash(99) }.abi_encode());
    calls.push(verifyHashCall { hash: hash(99), timestamp: U256::ZERO }.abi_encode());
    for (hashes, texts) in [(0, 0), (1, 0), (2, 2), (3, 3)] {
        let hashes = (0..hashes).map(|n| hash(50 + n)).collect();
        let metadata = (0..texts).map(metadata).collect();
        calls.push(batchAnchorCall { hashes, metadata }.abi_encode());
    }
    calls.push(batchAnchorCall { hashes: vec![hash(60)], metadata: vec![long] }.abi_encode());
    calls.push(removeAuthorizedAnchorCall { account: STRANGER }.abi_encode());
    calls.push(acceptOwnershipCall {}.abi_encode());
    for call in &calls {
        for from in accounts {
            c.raw(from, call.clone().into());
        }
    }
    for call in &calls {
        // Shorter, with any word of its head as large as can be, with dirty high bytes, and with offsets and lengths around the
        // end of the data.
        for length in (0..call.len()).step_by(4) {
            c.raw(SENDER, call[..length].to_vec().into());
        }
        for at in (4..call.len()).step_by(32) {
            for word in [[0xff; 32], U256::from(u64::MAX).to_be_bytes(), U256::from(call.len()).to_be_bytes()]
            {
                let mut bad = call.clone();
                bad.iter_mut().skip(at).zip(word).for_each(|(b, w)| *b = w);
                c.raw(SENDER, bad.into());
            }
            for less in [4, 5, 35, 36, 37, 68] {
                let mut bad = call.clone();
                let word: [u8; 32] = U256::from(call.len() - less.min(call.len())).to_be_bytes();
                bad.iter_mut().skip(at).zip(word).for_each(|(b, w)| *b = w);
                c.raw(SENDER, bad.into());
            }
        }
    }
    c.raw(SENDER, vec![1, 2, 3, 4].into());
    for call in &calls {
        let paid = c.transact(SENDER, TxKind::Call(c.contract), call.clone().into(), U256::from(1)).0;
        assert!(paid.result.is_err(), "the contract takes no money");
    }
    let taken = c.branches.0.borrow();
    let jumps = jumps();
    let open = |pc: &&usize| taken.get(pc).is_none_or(|t| t.len() < 2);
    let open: Vec<usize> = jumps.iter().filter(open).copied().collect();
    println!("{} branches, each taken both ways but for {}", jumps.len(), open.len());
    assert_eq!(open, UNREACHABLE);
}

/// Calls of no form that the ABI knows write nothing and do not halt.
#[test]
fn what_is_no_call_is_refused() {
    let mut runner = TestRunner::new(Config { cases: 2000, ..Config::default() });
    let selectors: Vec<[u8; 4]> = AuditTrailCalls::SELECTORS.to_vec();
    let any = (prop::sample::select(selectors), prop::collection::vec(any::<u8>(), 0..300));
    let mut c = Chain::new();
    let before = c.slot(sender_slot(SENDER));
    let result = runner.run(&any, |(selector, rest)| {
        let mut data = selector.to_vec();
        data.extend(rest);
        let mut c = Chain::new();
        let done = c.raw(SENDER, data.into());
        let wrote = c.slot(sender_slot(SENDER)) != before;
        prop_assert!(!wrote || done.result.is_ok());
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    assert!(c.raw(SENDER, Bytes::new()).result.is_err());
}
