//! What chains have anchored (`contracts/AuditTrail.sol`): asked of their nodes, or read from receipts in the store and held to the
//! hashes of blocks that the auditor knows.

use crate::Session;
use crate::anchors::Found;
use crate::log::{Log, bodies};
use crate::report::AnchorInfo;
use alloy_primitives::{Address, B256, keccak256};
use alloy_sol_types::{SolCall as _, SolEvent as _};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use waxseal_ethereum::contract::AuditTrail::{HashAnchored, anchorCountCall, anchorsCall};
use waxseal_ethereum::contract::CODE_HASH;
use waxseal_ethereum::receipt::{About, MAX_RECEIPT, Metadata, Proven, Receipt, ReceiptFault};
use waxseal_ethereum::rpc::{At, Post, Rpc, RpcError};
use waxseal_log::{Committed, NEWEST, checkpoint};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Contract;
use waxseal_trail::verdict::{Finding, Verdict};

/// So many questions for events are asked of a node at most.
const MAX_ASKED: usize = 20_000;
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
}

impl OfChain {
    fn later(into: &mut Option<(Committed, Time)>, committed: &Committed, at: Time) {
        // Of one checkpoint the first anchor counts.
        let newer = match into {
            Some((c, t)) => {
                (c.number, *t) < (committed.number, *t) || c.number == committed.number && at < *t
            }
            None => true,
        };
        if newer {
            *into = Some((committed.clone(), at));
        }
    }
}

/// What a receipt has to be about to be of a checkpoint.
pub(crate) fn about(committed: &Committed) -> About {
    About {
        hash: sha256(&committed.bytes),
        origin: committed.checkpoint.origin.clone(),
        size: committed.checkpoint.size,
        root: committed.checkpoint.root,
    }
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
    let in_trust = names(trust, receipt).is_some_and(|c| c.blocks.contains(&receipt.block_hash.0));
    in_trust || chains.blocks.contains(&receipt.block_hash)
}

/// A receipt in the store, of a checkpoint of this log.
struct Kept<'k> {
    key: &'k String,
    receipt: Receipt,
    committed: Committed,
    /// What it proves; nothing, if only the chain can say.
    proven: Option<Proven>,
}

/// Reads receipts, and asks the chains if there are nodes to ask.
pub(crate) fn read(
    session: &Session<'_>,
    log: &Log<'_>,
    trust: &[Contract],
    by_number: &BTreeMap<u64, Vec<&String>>,
    found: &mut Found,
) {
    let chains: BTreeSet<u64> = trust.iter().map(|c| c.chain).collect();
    for chain in chains {
        let contracts: Vec<Contract> = trust.iter().filter(|c| c.chain == chain).cloned().collect();
        let kept = receipts(session, log, &contracts, by_number, found);
        let mut of = OfChain { chain, ..OfChain::default() };
        for k in &kept {
            OfChain::later(&mut of.claimed, &k.committed, k.receipt.timestamp);
        }
        let mut times: Vec<(u64, Time)> = Vec::new();
        match nodes_on(&session.options.chains, chain) {
            Ok(nodes) => match ask(session, log, &contracts, &nodes) {
                Ok(events) => {
                    judge_events(session, log, chain, &events, found);
                    for (committed, at) in events.iter().filter_map(|e| Some((e.of.as_ref()?, e.at))) {
                        times.push((committed.checkpoint.size, at));
                        OfChain::later(&mut of.newest, committed, at);
                    }
                    lost(session, chain, &kept, &events);
                }
                Err(why) => of.unchecked = Some(why),
            },
            Err(why) => of.unchecked = Some(why),
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
        if session.options.quick && !kept.is_empty() {
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
                let (receipt, proven) = match read(&body) {
                    Ok(both) => both,
                    Err(e) => {
                        why = Some(e);
                        continue;
                    }
                };
                let of = numbered.get(number).map(|c| (receipt.is_about(&about(c)), (*c).clone()));
                let known = is_known(&session.options.chains, contracts, &receipt);
                match of {
                    Some((Ok(_), committed)) => kept.push(Kept { key, receipt, committed, proven }),
                    // The chain remembers a checkpoint that is not there.
                    _ if known && receipt.metadata().is_ok_and(|m| is_ours(log, &m)) => {
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

fn is_ours(log: &Log<'_>, metadata: &Metadata) -> bool {
    log.chain.first().is_some_and(|c| c.checkpoint.origin == metadata.origin)
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
        (false, _) => Ok(nodes),
        (true, true) => Err(format!("none of the nodes is on it: {how}")),
        (true, false) => Err(failed.join("; ")),
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

/// All anchors by the contracts' accounts, in blocks that the chain calls final.
fn ask(
    session: &Session<'_>,
    log: &Log<'_>,
    contracts: &[Contract],
    nodes: &[Rpc<'_>],
) -> Result<Vec<Event>, String> {
    let said = |e: RpcError| e.to_string();
    let mut head: Option<u64> = None;
    for rpc in nodes {
        let block = match rpc.block(At::Finalized) {
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
        let block = rpc.block(At::Number(head)).map_err(said)?;
        let block = block.ok_or_else(|| format!("{}: it has no block {head}", rpc.place()))?;
        hashes.entry(block.hash).or_insert_with(|| rpc.place());
    }
    if hashes.len() > 1 {
        let said: Vec<String> = hashes.iter().map(|(hash, place)| format!("{place}: {hash}")).collect();
        return Err(format!("the nodes disagree on block {head}: {}", said.join("; ")));
    }
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
            let hash = Hash(event.hash.0);
            let of = by_hash.get(&hash).map(|c| (*c).clone());
            // A round may have ended since the log was read.
            let of = of.or_else(|| {
                let number = metadata.as_ref()?.checkpoint;
                let above = log.newest().map_or(0, |n| n.checkpoint.size);
                let key = crate::log::key(session).ok()??;
                let c = checkpoint(session.store, &key, number, above).ok()??;
                (sha256(&c.bytes) == hash).then_some(c)
            });
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
    let topics = [Some(HashAnchored::SIGNATURE_HASH), None, Some(sender.into_word())];
    let mut found: Vec<Found3> = Vec::new();
    let (mut next, mut span) = (contract.from, u64::MAX);
    for _ in 0..MAX_ASKED {
        if next > head {
            break;
        }
        let to = next.saturating_add(span - 1).min(head);
        match rpc.logs(address, &topics, next, At::Number(to)) {
            Ok(logs) => {
                for log in logs {
                    let event = HashAnchored::decode_log_validate(&log.inner);
                    let (Ok(event), Some(block), Some(hash)) = (event, log.block_number, log.block_hash)
                    else {
                        return Err(format!("{}: an event in another form", rpc.place()));
                    };
                    if log.inner.address == address && event.submitter == sender && !log.removed {
                        found.push((event.data, block, hash));
                    }
                }
                next = to + 1;
            }
            // Too many blocks or too many events for one answer.
            Err(RpcError::Refused { .. }) if to - next >= FEW_BLOCKS => span = (to - next) / 2,
            Err(e) => return Err(e.to_string()),
        }
    }
    if next <= head {
        return Err(format!("{}: it answers for too few blocks at once", rpc.place()));
    }
    // What a node keeps to itself the contract has counted.
    let count = anchorCountCall { account: sender }.abi_encode();
    let count = rpc.call(address, &count, At::Number(head)).map_err(said)?;
    let count = anchorCountCall::abi_decode_returns(&count).map_err(|e| format!("{}: {e}", rpc.place()))?;
    if count.saturating_to::<usize>() != found.len() {
        return Err(format!(
            "{}: {} events of {count} that the contract has counted: the node withholds some, or from: in the trust file is too late",
            rpc.place(),
            found.len()
        ));
    }
    // And the newest stands in its storage.
    if let Some((event, ..)) = found.last() {
        let stored = rpc.call(address, &anchorsCall { hash: event.hash }.abi_encode(), At::Number(head));
        let stored = anchorsCall::abi_decode_returns(&stored.map_err(said)?);
        let digest = keccak256(event.metadata.as_bytes());
        let same = stored.is_ok_and(|s| {
            (s.timestamp, s.submitter, s.metadataDigest) == (event.timestamp, event.submitter, digest)
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
    let ours = |e: &&Event| e.of.is_none() && e.metadata.as_ref().is_some_and(|m| is_ours(log, m));
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
