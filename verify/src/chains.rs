//! What chains have anchored (`contracts/AuditTrail.sol`): asked of their nodes, or read from receipts in the store and held to the
//! hashes of blocks that the auditor knows.

use crate::anchors::Found;
use crate::log::{Log, bodies};
use crate::report::AnchorInfo;
use crate::{Anchor, Session};
use alloy_primitives::{Address, B256, keccak256};
use alloy_sol_types::{SolCall as _, SolEvent as _};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use waxseal_ethereum::contract::AuditTrail::{HashAnchored, anchorCountCall, anchorsCall};
use waxseal_ethereum::contract::CODE_HASH;
use waxseal_ethereum::receipt::{About, MAX_RECEIPT, Metadata, Proven, Receipt, ReceiptFault};
use waxseal_ethereum::rpc::{At, Post, Rpc, RpcError};
use waxseal_log::{Committed, NEWEST};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Contract;
use waxseal_trail::verdict::{Finding, Verdict};

/// So many questions for events are asked of a node at most.
const MAX_ASKED: usize = 100_000;
/// For so many blocks at first, for twice as many each time that it answers, and for so many at most.
const FIRST_BLOCKS: u64 = 1 << 16;
const MOST_BLOCKS: u64 = 1 << 22;
/// A node that refuses to look through so few blocks at once refuses for another reason.
const FEW_BLOCKS: u64 = 100;
/// So many anchors that are not of this log's checkpoints are listed.
const MOST: usize = 100;

/// How chains are asked.
#[derive(Clone, Default)]
pub struct Chains {
    /// Posts to nodes.
    pub post: Option<Arc<dyn Post>>,
    /// Nodes (JSON-RPC), of whatever chains.
    pub nodes: Vec<String>,
    /// Hashes of blocks that the auditor knows to be their chain's.
    pub blocks: Vec<B256>,
}

impl fmt::Debug for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.nodes.iter().map(|u| waxseal_ethereum::rpc::place(u)).collect();
        f.debug_struct("Chains").field("nodes", &nodes).field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// What one chain has.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfChain {
    pub(crate) chain: u64,
    /// The newest checkpoint that it has anchored, and when.
    pub(crate) newest: Option<(Committed, Time)>,
    /// The newest that receipts in the store say it has.
    pub(crate) claimed: Option<(Committed, Time)>,
    /// Why the chain has not been asked; nothing, if it was.
    pub(crate) unchecked: Option<String>,
    /// Whether somebody was asked, and has not answered, or not as it should be.
    pub(crate) failed: bool,
}

impl OfChain {
    fn later(into: &mut Option<(Committed, Time)>, committed: &Committed, at: Time) {
        // Of one checkpoint the first anchor counts.
        let newer = match into {
            Some((c, t)) => (c.number, Reverse(*t)) < (committed.number, Reverse(at)),
            None => true,
        };
        if newer {
            *into = Some((committed.clone(), at));
        }
    }
}

/// What a receipt has to be about to be of a checkpoint.
pub(crate) fn about(committed: &Committed) -> About {
    About::new(&committed.checkpoint, sha256(&committed.bytes))
}

/// The contract of a trust file that a receipt is of.
pub(crate) fn names<'t>(trust: &'t [Contract], receipt: &Receipt) -> Option<&'t Contract> {
    let same = |c: &&Contract| {
        (c.chain, Address::from(c.contract), Address::from(c.sender))
            == (receipt.chain, receipt.contract, receipt.sender)
    };
    trust.iter().filter(same).find(|c| c.until.is_none_or(|u| receipt.block_number <= u))
}

/// Checks a receipt by itself: it is of a contract that counts, and proves what it says, if its block is the chain's.
pub(crate) fn check(trust: &[Contract], receipt: &Receipt) -> Result<Proven, ReceiptFault> {
    if names(trust, receipt).is_none() {
        let what =
            format!("chain {}, contract {}, account {}", receipt.chain, receipt.contract, receipt.sender);
        return Err(ReceiptFault::Unknown(what));
    }
    receipt.check()
}

/// Whether the auditor knows a block.
pub(crate) fn is_known(chains: &Chains, trust: &[Contract], receipt: &Receipt) -> bool {
    let of_chain = |c: &Contract| c.chain == receipt.chain && c.blocks.contains(&receipt.block_hash.0);
    trust.iter().any(of_chain) || chains.blocks.contains(&receipt.block_hash)
}

/// A receipt in the store, of a checkpoint of this log.
struct Kept<'k> {
    key: &'k String,
    receipt: Receipt,
    committed: Committed,
    /// What it proves; nothing, if only the chain can say.
    proven: Option<Proven>,
}

/// Up to which block each chain is final now. To be asked before the log is read: what is anchored in these blocks was committed
/// before.
pub(crate) type Heads = BTreeMap<u64, Result<u64, Unasked>>;

/// Why a chain has not been asked.
#[derive(Clone, Debug)]
pub(crate) struct Unasked {
    why: String,
    /// Whether somebody was asked.
    failed: bool,
}

/// Asks.
pub(crate) fn heads(session: &Session<'_>) -> Heads {
    let Anchor::File(trust) = &session.options.anchor else { return Heads::new() };
    let chains: BTreeSet<u64> = trust.ethereum.iter().map(|c| c.chain).collect();
    let asked = !session.options.chains.nodes.is_empty();
    let head = |chain| {
        let nodes = nodes_on(&session.options.chains, chain);
        nodes.and_then(|nodes| head(&nodes)).map_err(|why| Unasked { why, failed: asked })
    };
    chains.into_iter().map(|chain| (chain, head(chain))).collect()
}

/// The least of the blocks that the nodes call final, if they agree on it.
fn head(nodes: &[Rpc<'_>]) -> Result<u64, String> {
    let said = |e: RpcError| e.to_string();
    let mut head: Option<u64> = None;
    for rpc in nodes {
        // Some chains have no final blocks; a node that does not answer is none of them.
        let block = match rpc.block(At::Finalized) {
            Err(e @ RpcError::Unreachable { .. }) => return Err(e.to_string()),
            Ok(Some(block)) => Some(block),
            _ => rpc.block(At::Latest).map_err(said)?,
        };
        let block = block.ok_or_else(|| format!("{}: it has no blocks", rpc.place()))?;
        head = Some(head.map_or(block.number, |h| h.min(block.number)));
    }
    let head = head.unwrap_or(0);
    // Nodes of one chain have one history.
    let mut hashes = BTreeMap::new();
    for rpc in nodes {
        let block = rpc.block(At::Number(head)).map_err(said)?.filter(|b| b.number == head);
        let block = block.ok_or_else(|| format!("{}: it has no block {head}", rpc.place()))?;
        hashes.entry(block.hash).or_insert_with(|| rpc.place());
    }
    if hashes.len() > 1 {
        let said: Vec<String> = hashes.iter().map(|(hash, place)| format!("{place}: {hash}")).collect();
        return Err(format!("the nodes disagree on block {head}: {}", said.join("; ")));
    }
    Ok(head)
}

/// Reads receipts, and asks the chains if there are nodes to ask.
pub(crate) fn read(
    session: &Session<'_>,
    log: &Log<'_>,
    trust: &[Contract],
    heads: &Heads,
    by_number: &BTreeMap<u64, Vec<&String>>,
    found: &mut Found,
) {
    let chains: BTreeSet<u64> = trust.iter().map(|c| c.chain).collect();
    // Blocks that the auditor knows: each has to be one with an anchor that is there.
    let mut unseen: BTreeSet<B256> = session.options.chains.blocks.iter().copied().collect();
    unseen.extend(trust.iter().flat_map(|c| &c.blocks).map(|b| B256::from(*b)));
    for chain in chains {
        let contracts: Vec<Contract> = trust.iter().filter(|c| c.chain == chain).cloned().collect();
        let kept = receipts(session, log, &contracts, by_number, found);
        let mut of = OfChain { chain, ..OfChain::default() };
        for k in &kept {
            // What carries no proof may name any block.
            if k.proven.is_some() {
                unseen.remove(&k.receipt.block_hash);
            }
            OfChain::later(&mut of.claimed, &k.committed, k.receipt.timestamp);
        }
        let mut times: Vec<(u64, Time)> = Vec::new();
        let asked = heads.get(&chain).cloned();
        let asked = asked.unwrap_or(Err(Unasked { why: String::new(), failed: false })).and_then(|head| {
            let nodes = nodes_on(&session.options.chains, chain);
            let events = nodes.and_then(|nodes| ask(log, &contracts, &nodes, head));
            events.map_err(|why| Unasked { why, failed: true })
        });
        match asked {
            Ok(events) => {
                judge_events(session, log, chain, &events, found);
                for event in &events {
                    unseen.remove(&event.block_hash);
                    if let Some(committed) = &event.of {
                        times.push((committed.checkpoint.size, event.at));
                        OfChain::later(&mut of.newest, committed, event.at);
                    }
                }
                lost(session, chain, &kept, &events);
            }
            Err(Unasked { why, failed }) => (of.unchecked, of.failed) = (Some(why), failed),
        }
        if of.unchecked.is_some() {
            let known: Vec<&Kept<'_>> = kept
                .iter()
                .filter(|k| k.proven.is_some() && is_known(&session.options.chains, &contracts, &k.receipt))
                .collect();
            for k in &known {
                times.push((k.committed.checkpoint.size, k.receipt.timestamp));
                OfChain::later(&mut of.newest, &k.committed, k.receipt.timestamp);
            }
            withheld(session, chain, &kept, &known);
        }
        if let Some((committed, at)) = &of.newest {
            let (name, checkpoint) = (chain.to_string(), committed.number);
            found.all.push(AnchorInfo { kind: "ethereum", name, checkpoint, at: *at });
        }
        found.times.extend(times);
        found.chains.push(of);
    }
    // A quick look ends with the first that is known.
    for hash in unseen.into_iter().filter(|_| !session.options.quick) {
        let detail = format!(
            "CHAIN NOT CHECKED: block {hash} is known, and no anchor in it is here: was its receipt taken away? --rpc says what it had"
        );
        session.find(Finding::new(Verdict::ChainNotChecked, detail).at("anchors/"));
    }
}

/// The receipts of some contracts that hold by themselves.
fn receipts<'k>(
    session: &Session<'_>,
    log: &Log<'_>,
    contracts: &[Contract],
    by_number: &BTreeMap<u64, Vec<&'k String>>,
    found: &mut Found,
) -> Vec<Kept<'k>> {
    let mut kept = Vec::new();
    let prefix = contracts.first().map(|c| format!("{}-", c.chain)).unwrap_or_default();
    let numbered: HashMap<u64, &Committed> = log.chain.iter().map(|c| (c.number, c)).collect();
    for (number, keys) in by_number.iter().rev() {
        let known = |k: &Kept<'_>| is_known(&session.options.chains, contracts, &k.receipt);
        if session.options.quick && kept.iter().any(known) {
            break;
        }
        for key in keys.iter().filter(|k| k.rsplit('/').next().is_some_and(|f| f.starts_with(&prefix))) {
            let read = |b: &[u8]| Receipt::parse(b).and_then(|r| check(contracts, &r).map(|p| (r, Some(p))));
            // What carries no proof may still be true: only the chain can say.
            let read = |b: &[u8]| match read(b) {
                Err(ReceiptFault::NoProof) => Receipt::parse(b).map(|r| (r, None)),
                other => other,
            };
            let mut why = None;
            for body in bodies(session, key, MAX_RECEIPT as u64, &|b| read(b).is_ok()) {
                let (mut receipt, proven) = match read(&body) {
                    Ok(both) => both,
                    Err(e) => {
                        why = Some(e);
                        continue;
                    }
                };
                let of = numbered.get(number).map(|c| (receipt.is_about(&about(c)), (*c).clone()));
                let known = is_known(&session.options.chains, contracts, &receipt);
                match of {
                    Some((Ok(_), committed)) => {
                        // There may be very many.
                        receipt.proof = None;
                        kept.push(Kept { key, receipt, committed, proven });
                    }
                    // The chain remembers a checkpoint that is not there.
                    _ if known
                        && proven.is_some()
                        && receipt.metadata().is_ok_and(|m| is_ours(session, &m))
                        && log.chain.iter().all(|c| sha256(&c.bytes) != receipt.hash) =>
                    {
                        found.contradicted = true;
                        let detail = format!(
                            "block {} of chain {} has an anchor of a checkpoint (SHA-256 {}) that is none of those there",
                            receipt.block_number, receipt.chain, receipt.hash
                        );
                        session.find(Finding::new(Verdict::Rollback, detail).at(*key));
                    }
                    Some((Err(e), _)) => {
                        why = Some(e);
                        continue;
                    }
                    None => {}
                }
                why = None;
                break;
            }
            // Another contract or account than the trust file's counts for nothing, and is nobody's fault.
            if let Some(e) = why.filter(|e| !matches!(e, ReceiptFault::Unknown(_))) {
                let versions = session.store.has_versions();
                let verdict = if versions { Verdict::Foreign } else { Verdict::Tampered };
                session.find(
                    Finding::new(verdict, format!("no receipt of its checkpoint that counts: {e}")).at(*key),
                );
            }
        }
    }
    kept
}

/// Whether an anchor says that it is of this log: whatever is left of the log.
pub(crate) fn is_ours(session: &Session<'_>, metadata: &Metadata) -> bool {
    crate::log::key(session).is_ok_and(|key| key.is_some_and(|k| k.name() == metadata.origin))
}

/// The nodes that are on a chain; why there are none.
pub(crate) fn nodes_on(chains: &Chains, chain: u64) -> Result<Vec<Rpc<'_>>, String> {
    let post = chains.post.as_deref().filter(|_| !chains.nodes.is_empty());
    let how = "give --rpc with a node of it, or --block-hash with the hash of the block of a receipt (waxseal anchor list)";
    let post = post.ok_or_else(|| format!("nobody was asked: {how}"))?;
    let (mut nodes, mut failed) = (Vec::new(), Vec::new());
    for url in &chains.nodes {
        let rpc = Rpc::new(post, url);
        match rpc.chain_id() {
            Ok(id) if id == chain => nodes.push(rpc),
            Ok(_) => {}
            Err(e) => failed.push(e.to_string()),
        }
    }
    match (nodes.is_empty(), failed.is_empty()) {
        // Who was named to check another is missed.
        (_, false) => Err(failed.join("; ")),
        (false, true) => Ok(nodes),
        (true, true) => Err(format!("none of the nodes is on it: {how}")),
    }
}

/// An anchor that a chain has.
struct Event {
    hash: B256,
    at: Time,
    block: u64,
    block_hash: B256,
    metadata: Option<Metadata>,
    /// The checkpoint that it is of.
    of: Option<Committed>,
}

/// All anchors by the contracts' accounts, up to a block.
fn ask(log: &Log<'_>, contracts: &[Contract], nodes: &[Rpc<'_>], head: u64) -> Result<Vec<Event>, String> {
    let by_hash: HashMap<Hash, &Committed> = log.chain.iter().map(|c| (sha256(&c.bytes), c)).collect();
    let mut events = Vec::new();
    for contract in contracts {
        let mut first = None;
        for rpc in nodes {
            let all = anchors(rpc, contract, head)?;
            match &first {
                None => first = Some(all),
                Some(other) if *other == all => {}
                Some(_) => return Err("the nodes disagree on the events of the contract".to_owned()),
            }
        }
        for (event, block, block_hash) in first.unwrap_or_default() {
            if contract.until.is_some_and(|u| block > u) {
                continue;
            }
            let time = i64::try_from(event.timestamp.saturating_to::<u64>()).ok();
            let Some(at) = time.and_then(|t| Time::from_unix(t, 0)) else { continue };
            let metadata: Option<Metadata> = serde_json::from_str(&event.metadata).ok();
            let of = by_hash.get(&Hash(event.hash.0)).map(|c| (*c).clone());
            events.push(Event { hash: event.hash, at, block, block_hash, metadata, of });
        }
    }
    Ok(events)
}

/// An event, the number of its block and the block's hash.
type Found3 = (HashAnchored, u64, B256);

/// The anchors of one contract's account up to a block: as many as the contract has counted.
fn anchors(rpc: &Rpc<'_>, contract: &Contract, head: u64) -> Result<Vec<Found3>, String> {
    let (address, sender) = (Address::from(contract.contract), Address::from(contract.sender));
    let said = |e: RpcError| e.to_string();
    let code = keccak256(rpc.code(address, At::Number(head)).map_err(said)?);
    if code != CODE_HASH {
        return Err(format!("{}: no contract AuditTrail is at {address}", rpc.place()));
    }
    // What a node keeps to itself the contract has counted. It is asked first: nodes forget what was.
    let count = anchorCountCall { account: sender }.abi_encode();
    let count = rpc.call(address, &count, At::Number(head)).map_err(said)?;
    let count = anchorCountCall::abi_decode_returns(&count).map_err(|e| format!("{}: {e}", rpc.place()))?;
    let count = count.saturating_to::<usize>();
    let topics = [Some(HashAnchored::SIGNATURE_HASH), None, Some(sender.into_word())];
    let odd = || format!("{}: events that are not as they should be", rpc.place());
    let mut found: Vec<Found3> = Vec::new();
    let mut hashes = BTreeSet::new();
    let (mut next, mut span) = (contract.from, FIRST_BLOCKS);
    for _ in 0..MAX_ASKED {
        if next > head || found.len() > count {
            break;
        }
        let to = next.saturating_add(span - 1).min(head);
        match rpc.logs(address, &topics, next, At::Number(to)) {
            Ok(logs) => {
                for log in logs.into_iter().filter(|l| l.inner.address == address && !l.removed) {
                    let event = HashAnchored::decode_log_validate(&log.inner).map_err(|_| odd())?.data;
                    let (block, hash) = log.block_number.zip(log.block_hash).ok_or_else(odd)?;
                    let last = found.last().map_or(next, |(_, b, _)| *b);
                    if event.submitter != sender
                        || !(last.max(next)..=to).contains(&block)
                        || !hashes.insert(event.hash)
                    {
                        return Err(odd());
                    }
                    found.push((event, block, hash));
                }
                let Some(after) = to.checked_add(1) else { break };
                (next, span) = (after, span.saturating_mul(2).min(MOST_BLOCKS));
            }
            // Too many blocks or too many events for one answer, however it says that.
            Err(_) if to - next >= FEW_BLOCKS => span = (to - next) / 2,
            Err(e) => return Err(e.to_string()),
        }
    }
    if found.len() != count {
        return Err(format!(
            "{}: {} events of {count} that the contract has counted: the node withholds some, answers for too few blocks at once, or \
             from: in the trust file is too late",
            rpc.place(),
            found.len()
        ));
    }
    // And the last of them stands in its storage, as the last.
    if let Some((event, ..)) = found.last() {
        let stored = rpc.call(address, &anchorsCall { hash: event.hash }.abi_encode(), At::Number(head));
        let stored = anchorsCall::abi_decode_returns(&stored.map_err(said)?);
        let digest = keccak256(event.metadata.as_bytes());
        let same = stored.is_ok_and(|s| {
            let last = s.sequence.saturating_to::<usize>() == count;
            last && (s.timestamp, s.submitter, s.metadataDigest) == (event.timestamp, event.submitter, digest)
        });
        if !same {
            return Err(format!("{}: the contract's storage and its events differ", rpc.place()));
        }
    }
    Ok(found)
}

/// Anchors of checkpoints of this log that are not there.
fn judge_events(session: &Session<'_>, log: &Log<'_>, chain: u64, events: &[Event], found: &mut Found) {
    let size = log.newest().map_or(0, |n| n.checkpoint.size);
    let ours = |e: &&Event| e.of.is_none() && e.metadata.as_ref().is_some_and(|m| is_ours(session, m));
    for event in events.iter().filter(ours).take(MOST) {
        let Some(m) = &event.metadata else { continue };
        found.contradicted = true;
        let (verdict, what) = match m.size > size {
            true => (Verdict::Truncated, "the store is behind"),
            false => (Verdict::Rollback, "it is none of those there"),
        };
        let detail = format!(
            "chain {chain} has anchored checkpoint {} of {} entries at {} (SHA-256 {}), and the log in the store has {size}: {what}",
            m.checkpoint,
            m.size,
            event.at,
            Hash(event.hash.0)
        );
        session.find(Finding::new(verdict, detail).at(NEWEST));
    }
}

/// Receipts of blocks that the chain does not have.
fn lost(session: &Session<'_>, chain: u64, kept: &[Kept<'_>], events: &[Event]) {
    let last = events.iter().map(|e| e.block).max().unwrap_or(0);
    let has = |r: &Receipt| events.iter().any(|e| e.hash.0 == r.hash.0 && e.block_hash == r.block_hash);
    for k in kept.iter().filter(|k| k.receipt.block_number <= last && !has(&k.receipt)) {
        let detail =
            format!("a receipt of block {}, which chain {chain} does not have", k.receipt.block_hash);
        session.find(Finding::new(Verdict::Foreign, detail).at(k.key));
    }
}

/// An account numbers its anchors: below one that is known to be the chain's, those whose receipts are not there.
fn withheld(session: &Session<'_>, chain: u64, kept: &[Kept<'_>], known: &[&Kept<'_>]) {
    let of = |k: &Kept<'_>| Some(((k.receipt.contract, k.receipt.sender), k.proven?.of?));
    let mut last: BTreeMap<(Address, Address), u64> = BTreeMap::new();
    for (account, (sequence, count)) in known.iter().filter_map(|k| of(k)) {
        let most = last.entry(account).or_default();
        *most = (*most).max(sequence).max(count);
    }
    if session.options.quick {
        return;
    }
    for (account, count) in last {
        let there: BTreeSet<u64> =
            kept.iter().filter_map(of).filter(|(a, _)| *a == account).map(|(_, (s, _))| s).collect();
        let missing = count.saturating_sub(there.len() as u64);
        if missing > 0 {
            let detail = format!(
                "account {} had written {count} anchors by a block that is known, and the store has receipts of {} of them: what the \
                 others are over only the chain can say (--rpc)",
                account.1,
                there.len()
            );
            let at = format!("anchors/*/ethereum/{chain}-*");
            session.find(Finding::new(Verdict::Unanchored, detail).at(at));
        }
    }
}
