//! Anchoring in the contract `AuditTrail`: one transaction at a time, kept before it is sent, sent until a block has it, watched
//! until the chain cannot lose it any more; then its receipts go into the store.
//!
//! That a checkpoint is anchored at most once does not hang on what this worker remembers: the contract writes an anchor once, a
//! nonce is mined once, and before anything new is signed the contract is asked. What is remembered is there so that a transaction
//! that was sent is neither forgotten nor paid for twice.

mod nodes;
mod sender;
mod state;

pub mod deploy;
pub use nodes::{ChainError, Nodes, Open, Poster};
pub use sender::Sender;
pub use state::{Attempt, ChainFile, ChainState, Sent};

use crate::anchors::{Showing, Shown, Standing, back_off};
use crate::state::StateError;
use alloy_consensus::{SignableTransaction as _, Transaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_sol_types::{SolCall as _, SolEvent as _};
use bytes::Bytes as Body;
use std::sync::Arc;
use std::time::Duration;
use waxseal_ethereum::contract::AuditTrail::{
    HashAnchored, anchorHashCall, anchorsCall, anchorsReturn, authorizedAnchorsCall, batchAnchorCall,
};
use waxseal_ethereum::evidence::{Wanted, collect};
use waxseal_ethereum::receipt::{About, Metadata, Receipt};
use waxseal_ethereum::rpc::{At, RpcError};
use waxseal_log::{Committed, ReadError, Reader, checkpoint, receipts_prefix};
use waxseal_store::StoreError;
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::sha256;
use waxseal_trail::json;
use waxseal_trail::statement::Batch;
use waxseal_trail::time::Time;
use waxseal_trail::valid::{self, Place};

/// What it is, in a worker's output.
const KIND: &str = "chain";
/// So many checkpoints go into one transaction.
pub const MAX_BATCH: u64 = 24;
/// The longest wait after a failure.
const LONGEST: Duration = Duration::from_secs(300);
/// Nodes that disagree for so many seconds are not just one behind the other.
const LASTING: i64 = 300;
/// A transaction whose nonce is taken, and of which no node knows anything, is given up after so many seconds.
const GONE: i64 = 120;
/// A node without a notion of final blocks does not lose one that is so deep.
const DEEP: u64 = 256;
/// So many receipts of one transaction are kept: it was mined anew so often.
const MAX_SAME: u32 = 8;

/// How a chain is anchored in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its id.
    pub chain: u64,
    /// The contract.
    pub contract: Address,
    /// Its nodes.
    pub urls: Vec<String>,
    /// The most that a unit of gas may cost, in wei.
    pub max_fee: u128,
    /// The most of it that goes to whoever makes the block.
    pub max_priority_fee: u128,
    /// A block with so many, itself included, is settled; without a number, one that the chain calls final.
    pub confirmations: Option<u64>,
    /// Between two anchors.
    pub interval: Duration,
    /// A transaction that is in no block after so long is sent with higher fees.
    pub resubmit: Duration,
    /// Between two looks at one that is not settled.
    pub poll: Duration,
    /// Whether each checkpoint is anchored, or the newest, which is over all before it.
    pub each: bool,
}

/// Why a look at the chain came to no end.
#[derive(Debug, thiserror::Error)]
enum TickError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Read(#[from] ReadError),
}

impl From<RpcError> for TickError {
    fn from(e: RpcError) -> TickError {
        TickError::Chain(e.into())
    }
}

/// A chain to anchor in.
pub struct Chain {
    settings: Settings,
    nodes: Arc<Nodes>,
    sender: Sender,
    file: ChainFile,
    state: ChainState,
    /// Whether this process has sent what was under way when it began.
    announced: bool,
    last_success: Option<Time>,
    failures: u32,
    /// Since when something is lacking that should be there.
    wanting: Option<Time>,
    /// Since when nodes disagree.
    disagree: Option<Time>,
    /// Not before.
    next: Option<Time>,
}

/// The fees of a transaction, a unit of gas, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fees {
    max: u128,
    priority: u128,
}

impl Fees {
    fn of(raw: &Bytes) -> Option<Fees> {
        let transaction = TxEnvelope::decode_2718(&mut &raw[..]).ok()?;
        Some(Fees {
            max: transaction.max_fee_per_gas(),
            priority: transaction.max_priority_fee_per_gas().unwrap_or(0),
        })
    }

    /// What a node takes in the place of these at least: a tenth more is the rule, an eighth is on the safe side.
    fn raised(self) -> Fees {
        let more = |fee: u128| fee.saturating_add(fee / 8).saturating_add(1);
        Fees { max: more(self.max), priority: more(self.priority) }
    }
}

impl Chain {
    /// Reads what an earlier life has kept.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(
        settings: Settings,
        nodes: Nodes,
        sender: Sender,
        file: ChainFile,
    ) -> Result<Chain, StateError> {
        let state = file.load()?;
        Ok(Chain {
            settings,
            nodes: Arc::new(nodes),
            sender,
            file,
            state,
            announced: false,
            last_success: None,
            failures: 0,
            wanting: None,
            disagree: None,
            next: None,
        })
    }

    /// What is known of it.
    pub fn state(&self) -> &ChainState {
        &self.state
    }

    /// How it is with it.
    pub fn standing(&self) -> Standing {
        Standing {
            kind: "ethereum",
            name: self.settings.chain.to_string(),
            last_success: self.last_success,
            failures: self.failures,
            signed: self.state.anchored,
            wanting: self.wanting,
        }
    }

    /// Whether a transaction is under way.
    pub fn is_busy(&self) -> bool {
        self.state.sent.iter().any(|s| !s.written)
    }

    /// Whether checkpoint `number` should have been anchored by now, and is not.
    pub fn is_lacking(&self, number: u64, now: Time) -> bool {
        self.is_busy() || !self.due_checkpoints(number, now).is_empty()
    }

    /// When to look at it next.
    pub fn due(&self, number: u64, now: Time) -> Option<Time> {
        if !self.state.sent.is_empty() || !self.due_checkpoints(number, now).is_empty() {
            return Some(self.next.unwrap_or(Time::MIN));
        }
        let newer = self.next_number(number).is_some_and(|n| n <= number);
        newer.then(|| self.next.unwrap_or(Time::MIN).max(self.next_anchor()))
    }

    fn next_anchor(&self) -> Time {
        let interval = i64::try_from(self.settings.interval.as_secs()).unwrap_or(i64::MAX);
        // A job that is run once an hour comes a little earlier or later.
        self.state.last.map_or(Time::MIN, |t| t.saturating_add_seconds(interval - interval / 10))
    }

    /// The first checkpoint that is to be anchored next, if the newest is `newest`.
    fn next_number(&self, newest: u64) -> Option<u64> {
        let sent = self.state.sent.iter().flat_map(|s| s.checkpoints.iter().copied());
        match sent.chain(self.state.anchored).max() {
            Some(last) => last.checked_add(1),
            None => Some(self.state.first.unwrap_or(newest)),
        }
    }

    /// What to anchor now.
    fn due_checkpoints(&self, newest: u64, now: Time) -> Vec<u64> {
        let from = self.next_number(newest).unwrap_or(u64::MAX);
        let each = self.settings.each;
        let mut wanted = self.state.again.clone();
        // The newest is over all of them.
        wanted.retain(|n| if each { *n <= newest } else { *n == newest });
        if from <= newest {
            wanted.extend(if each { from } else { newest }..=newest.min(from.saturating_add(MAX_BATCH)));
            wanted.insert(newest);
        }
        // One at a time; and what waits for a whole transaction does not wait for its hour, too.
        let later = self.state.last.is_some_and(|t| t <= now) && self.next_anchor() > now;
        let waits = later && !(each && wanted.len() as u64 >= MAX_BATCH);
        if self.state.sent.iter().any(|s| !s.is_mined()) || waits || wanted.is_empty() {
            return Vec::new();
        }
        wanted.into_iter().take(usize::try_from(MAX_BATCH).unwrap_or(1)).collect()
    }

    /// Looks at what is under way, and anchors what is due.
    ///
    /// # Errors
    /// [`StoreError`], if a receipt cannot be kept.
    pub fn show(&mut self, showing: &Showing<'_>) -> Result<Vec<Shown>, StoreError> {
        let now = showing.now;
        let before = self.state.anchored;
        let number = showing.committed.number;
        let result = self.tick(showing);
        self.wanting = if self.is_lacking(number, now) { self.wanting.or(Some(now)) } else { None };
        let name = self.settings.chain.to_string();
        let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        let shown = |result| Shown { kind: KIND, name: name.clone(), result };
        let mut all = Vec::new();
        if self.state.anchored > before {
            self.last_success = Some(now);
            all.push(shown(Ok(())));
        }
        match result {
            Ok(complaints) => {
                (self.failures, self.disagree) = (0, None);
                self.next = Some(now.saturating_add_seconds(seconds(self.settings.poll).max(1)));
                all.extend(complaints.into_iter().map(|c| shown(Err((c, false)))));
            }
            Err(e) => {
                let wait = back_off(self.failures, self.settings.interval.min(LONGEST));
                self.failures = self.failures.saturating_add(1);
                self.next = Some(now.saturating_add_seconds(seconds(wait)));
                match e {
                    TickError::Store(e) => return Err(e),
                    TickError::Chain(e) => {
                        // One node is often a block behind another: that is no alarm before it has lasted.
                        let lasts = match &e {
                            ChainError::Disagree { .. } => {
                                let since = *self.disagree.get_or_insert(now);
                                now >= since.saturating_add_seconds(LASTING)
                            }
                            _ => true,
                        };
                        all.push(shown(Err((e.to_string(), e.is_alarm() && lasts))));
                    }
                    other => all.push(shown(Err((other.to_string(), false)))),
                }
            }
        }
        Ok(all)
    }

    /// One look. What nodes cannot be used for is not in the way, and said.
    fn tick(&mut self, showing: &Showing<'_>) -> Result<Vec<String>, TickError> {
        let newest = showing.committed.number;
        if self.state.sent.is_empty() && self.due_checkpoints(newest, showing.now).is_empty() {
            return Ok(Vec::new());
        }
        if self.state.first.is_none() && self.state.anchored.is_none() {
            self.state.first = Some(newest);
            self.file.save(&self.state)?;
        }
        let contract = Some(self.settings.contract);
        // Borrowed apart from the state, which changes below.
        let nodes = self.nodes.clone();
        let open = nodes.open(contract)?;
        self.go_on(showing, &open)?;
        Ok(open.failed)
    }

    fn go_on(&mut self, showing: &Showing<'_>, open: &Open<'_>) -> Result<(), TickError> {
        let mut index = 0;
        while index < self.state.sent.len() {
            if self.progress(showing, open, index)? {
                index += 1;
            } else {
                self.state.sent.remove(index);
                self.file.save(&self.state)?;
            }
        }
        self.announced = true;
        let due = self.due_checkpoints(showing.committed.number, showing.now);
        if due.is_empty() { Ok(()) } else { self.submit(showing, open, &due) }
    }

    /// Goes on with one that was sent; whether it is still to be watched.
    fn progress(&mut self, showing: &Showing<'_>, open: &Open<'_>, index: usize) -> Result<bool, TickError> {
        let sent = self.state.sent[index].clone();
        if let Some(first) = sent.receipts.first() {
            let (number, hash) = (first.block_number, first.block_hash);
            match open.has_block(number, hash) {
                // At the tip of a chain nodes may be of two minds for a while: an alarm it is where they should not be any more.
                Ok(Some(true)) | Err(ChainError::Disagree { .. }) => {
                    return self.settle(showing, open, index, number);
                }
                // Nobody has got so far.
                Ok(None) => return Ok(true),
                Ok(Some(false)) => {}
                Err(e) => return Err(e.into()),
            }
            // Its block was replaced by another.
            let names = numbers(&sent.checkpoints);
            tracing::warn!(
                "chain {}: block {number} with the anchor of {names} was replaced",
                self.settings.chain
            );
            let now = &mut self.state.sent[index];
            (now.receipts, now.written) = (Vec::new(), false);
            self.file.save(&self.state)?;
            // Nodes have forgotten it, or will.
            self.announced = false;
        }
        for attempt in sent.attempts.iter().rev() {
            let Some(mined) = open.mined(attempt.hash)? else { continue };
            if !mined.status {
                // One node's word at the tip is not enough to forget a transaction.
                let (block, hash) = (mined.block_number, mined.block_hash);
                let settled = open.settled(self.settings.confirmations)? >= block;
                if !settled || open.has_block(block, hash)? != Some(true) {
                    return Ok(true);
                }
                open.agreed("a receipt", |rpc| rpc.mined(attempt.hash))?;
                self.state.again.extend(&sent.checkpoints);
                let names = numbers(&sent.checkpoints);
                tracing::error!(
                    "chain {}: transaction {} was reverted ({} gas); {names} will be anchored anew",
                    self.settings.chain,
                    attempt.hash,
                    mined.gas_used
                );
                return Ok(false);
            }
            let receipts = self.evidence(showing, open, &sent.checkpoints, attempt.hash)?;
            let Some(receipts) = receipts else { continue };
            let now = &mut self.state.sent[index];
            (now.receipts, now.gone) = (receipts, None);
            self.file.save(&self.state)?;
            return self.settle(showing, open, index, mined.block_number);
        }
        self.push(showing, open, index)
    }

    /// What proves that a transaction has anchored checkpoints, from the first node whose words fit together.
    fn evidence(
        &self,
        showing: &Showing<'_>,
        open: &Open<'_>,
        checkpoints: &[u64],
        transaction: B256,
    ) -> Result<Option<Vec<Receipt>>, TickError> {
        let mut all = Vec::new();
        for number in checkpoints {
            all.extend(committed(showing, *number)?.map(|c| about(&c)));
        }
        let (chain, contract) = (self.settings.chain, self.settings.contract);
        let wanted = Wanted { chain, contract, sender: self.sender.address(), about: &all };
        // How much they prove: a node that has less does not keep another from being asked.
        let worth = |r: &[Receipt]| match r.first().map(|r| &r.proof) {
            Some(Some(proof)) if proof.state.is_some() => 3,
            Some(Some(_)) => 2,
            Some(None) => 1,
            None => 0,
        };
        let mut best: Vec<Receipt> = Vec::new();
        let mut failed = None;
        for rpc in &open.nodes {
            match collect(rpc, &wanted, transaction) {
                Ok(Some(found)) if worth(&found) > worth(&best) => best = found,
                Ok(_) => {}
                Err(e) => failed = Some(e),
            }
            if worth(&best) == 3 {
                break;
            }
        }
        match (best.is_empty(), failed) {
            (true, Some(e)) => return Err(ChainError::from(e).into()),
            (false, Some(e)) => tracing::error!("chain {chain}: {e}"),
            (_, None) => {}
        }
        if worth(&best) == 1 {
            tracing::error!(
                "chain {chain}: no node can prove transaction {transaction}: its receipt only says where to ask"
            );
        }
        Ok((!best.is_empty()).then_some(best))
    }

    /// Writes receipts once the chain cannot lose them; whether it is still to be watched.
    fn settle(
        &mut self,
        showing: &Showing<'_>,
        open: &Open<'_>,
        index: usize,
        block: u64,
    ) -> Result<bool, TickError> {
        let depth = self.settings.confirmations;
        if !self.state.sent[index].written {
            if open.settled(depth)? < block || !self.is_everywhere(open, index)? {
                return Ok(true);
            }
            let sent = self.state.sent[index].clone();
            for receipt in &sent.receipts {
                let number = self.write(showing, receipt)?;
                self.state.anchored = self.state.anchored.max(Some(number));
            }
            let (names, gas) = (numbers(&sent.checkpoints), sent.receipts[0].gas_used);
            let (chain, transaction) = (self.settings.chain, sent.receipts[0].transaction_hash);
            tracing::info!(
                "chain {chain}: {names} anchored in block {block}, transaction {transaction}, {gas} gas"
            );
            self.state.sent[index].written = true;
            self.file.save(&self.state)?;
        }
        let watched = match depth {
            None => false,
            Some(_) => match open.settled(None) {
                Ok(settled) => settled < block,
                Err(_) => open.settled(Some(DEEP))? < block,
            },
        };
        Ok(watched)
    }

    /// Whether all nodes have the block; those that are behind will.
    fn is_everywhere(&self, open: &Open<'_>, index: usize) -> Result<bool, TickError> {
        let Some(first) = self.state.sent[index].receipts.first() else { return Ok(false) };
        Ok(open.has_block(first.block_number, first.block_hash)? == Some(true))
    }

    /// Keeps a receipt; the number of its checkpoint.
    fn write(&self, showing: &Showing<'_>, receipt: &Receipt) -> Result<u64, TickError> {
        let odd = |e: waxseal_ethereum::receipt::ReceiptFault| ChainError::Operator(e.to_string());
        let number = receipt.metadata().map_err(odd)?.checkpoint;
        let body = Body::from(receipt.to_bytes().map_err(odd)?);
        let transaction = format!("{:x}", receipt.transaction_hash);
        let name = |k: u32| {
            let again = if k == 0 { String::new() } else { format!("-{k}") };
            format!("{}{}-{transaction}{again}.json", receipts_prefix(number), receipt.chain)
        };
        showing.keep_first(&name, MAX_SAME, &body)?;
        Ok(number)
    }

    /// Has checkpoints anchored by another transaction: the contract is asked first whether they are.
    fn give_up(&mut self, sent: &Sent) {
        self.state.again.extend(&sent.checkpoints);
        self.state.last = None;
    }

    /// Sends again what is in no block: as it was, or with higher fees.
    fn push(&mut self, showing: &Showing<'_>, open: &Open<'_>, index: usize) -> Result<bool, TickError> {
        let now = showing.now;
        let sent = self.state.sent[index].clone();
        let names = numbers(&sent.checkpoints);
        let Some(nonce) = sent.nonce else {
            // Found on the chain, and there no longer.
            self.give_up(&sent);
            return Ok(false);
        };
        let agreed = self.nonce(open)?;
        let earlier = self.state.sent[..index].iter().any(|s| s.nonce.is_some_and(|n| n >= agreed));
        if agreed < nonce && !earlier {
            // What came before it is in no block any more, and forgotten: it would wait for that for ever.
            tracing::warn!(
                "chain {}: nonce {nonce} is too high now; {names} will be anchored anew",
                self.settings.chain
            );
            self.give_up(&sent);
            return Ok(false);
        }
        if agreed > nonce {
            // Mined, then, and the nodes do not know yet; or another transaction has taken its nonce.
            let since = sent.gone.unwrap_or(now);
            if sent.gone.is_none() {
                self.state.sent[index].gone = Some(now);
                self.file.save(&self.state)?;
            }
            if now < since.saturating_add_seconds(GONE) {
                return Ok(true);
            }
            let chain = self.settings.chain;
            tracing::error!(
                "chain {chain}: another transaction of account {} has nonce {nonce}: does something else use its key? {names} will \
                 be anchored anew",
                self.sender.address()
            );
            self.give_up(&sent);
            return Ok(false);
        }
        let last = sent.attempts.last().cloned();
        let Some(last) = last else { return Ok(false) };
        let patience = i64::try_from(self.settings.resubmit.as_secs()).unwrap_or(i64::MAX);
        if now < last.at.saturating_add_seconds(patience) {
            if !self.announced {
                broadcast(open, &last.raw)?;
            }
            return Ok(true);
        }
        let stuck = Fees::of(&last.raw).unwrap_or(Fees { max: 0, priority: 0 });
        let least = stuck.raised();
        let cap = self.settings.max_fee;
        match self.fees(open) {
            Ok(fresh) if least.max <= cap && least.priority <= cap => {
                let max = fresh.max.max(least.max).min(cap);
                let fees = Fees { max, priority: fresh.priority.max(least.priority).min(max) };
                let attempt = self.sign(now, nonce, sent.gas, &sent.data, fees)?;
                let chain = self.settings.chain;
                tracing::warn!(
                    "chain {chain}: {names} in no block for {patience} s; sent again with at most {} gwei, as {}",
                    gwei(fees.max),
                    attempt.hash
                );
                let raw = attempt.raw.clone();
                self.state.sent[index].attempts.push(attempt);
                self.file.save(&self.state)?;
                broadcast(open, &raw)?;
                Ok(true)
            }
            // It can be raised no further. What is known of it to no node any more they hear again.
            result => {
                broadcast(open, &last.raw)?;
                result?;
                Ok(true)
            }
        }
    }

    /// Anchors.
    fn submit(&mut self, showing: &Showing<'_>, open: &Open<'_>, due: &[u64]) -> Result<(), TickError> {
        let now = showing.now;
        let mut wanted: Vec<(u64, B256, String)> = Vec::new();
        for number in due {
            let Some(committed) = committed(showing, *number)? else { continue };
            let hash = B256::from(sha256(&committed.bytes).0);
            let anchor = self.anchor_of(open, hash)?;
            if anchor.timestamp.is_zero() {
                wanted.push((*number, hash, metadata(showing, &committed)?));
            } else if anchor.submitter == self.sender.address() {
                // The others come next.
                self.state.again.extend(wanted.iter().map(|w| w.0).filter(|_| self.settings.each));
                return self.adopt(showing, open, *number, hash, &anchor);
            } else {
                let chain = self.settings.chain;
                let why = format!(
                    "checkpoint {number} was anchored by account {}, which is not this worker's: for whoever trusts only this one, \
                     the next checkpoint has to do",
                    anchor.submitter
                );
                if due.len() == 1 {
                    return Err(ChainError::Operator(why).into());
                }
                tracing::error!("chain {chain}: {why}");
            }
        }
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
            // Others have anchored all of them: that is said once.
            self.state.anchored = self.state.anchored.max(due.last().copied());
            self.state.again.retain(|n| !due.contains(n));
            self.file.save(&self.state)?;
            return Ok(());
        };
        let names = numbers(&[first.0, last.0]);
        self.may_write(open)?;
        let data: Bytes = if wanted.len() == 1 {
            anchorHashCall { hash: first.1, metadata: first.2.clone() }.abi_encode().into()
        } else {
            let (hashes, metadata) = wanted.iter().map(|(_, h, m)| (*h, m.clone())).unzip();
            batchAnchorCall { hashes, metadata }.abi_encode().into()
        };
        let (from, to) = (self.sender.address(), self.settings.contract);
        let fees = self.fees(open)?;
        let gas = open.first(|rpc| rpc.estimate(from, Some(to), &data))?;
        // What the code takes is known: a node that says less would have it fail, and paid for.
        let least = 30_000 + 60_000 * wanted.len() as u64;
        let gas = gas.saturating_add(gas / 4).max(least);
        let cost = U256::from(gas) * U256::from(fees.max);
        let balance = open.first(|rpc| rpc.balance(from))?;
        if balance < cost {
            let (has, needs) = (ether(balance), ether(cost));
            let why = format!(
                "account {from} has {has} of the chain's coin, and an anchor may cost {needs}: fund it"
            );
            return Err(ChainError::Operator(why).into());
        }
        let nonce = self.nonce(open)?;
        if self.state.sent.iter().any(|s| s.nonce.is_some_and(|n| n >= nonce)) {
            let why = format!(
                "the nodes say that account {from} has sent {nonce} transactions, and there were more: they are behind"
            );
            return Err(ChainError::Operator(why).into());
        }
        let attempt = self.sign(now, nonce, gas, &data, fees)?;
        tracing::info!(
            "chain {}: anchoring {names}, transaction {} with at most {} gwei",
            self.settings.chain,
            attempt.hash,
            gwei(fees.max)
        );
        let raw = attempt.raw.clone();
        self.state.sent.push(Sent {
            nonce: Some(nonce),
            gas,
            data,
            checkpoints: wanted.iter().map(|w| w.0).collect(),
            attempts: vec![attempt],
            receipts: Vec::new(),
            written: false,
            gone: None,
        });
        let before = (self.state.last.replace(now), self.state.again.clone());
        self.state.again.retain(|n| self.settings.each && !due.contains(n));
        // Before anybody hears of it: whoever comes after a crash sends this one again.
        if let Err(e) = self.file.save(&self.state) {
            self.state.sent.pop();
            (self.state.last, self.state.again) = before;
            return Err(e.into());
        }
        broadcast(open, &raw)?;
        Ok(())
    }

    /// Takes up an anchor that an earlier life has made and not remembered.
    fn adopt(
        &mut self,
        showing: &Showing<'_>,
        open: &Open<'_>,
        number: u64,
        hash: B256,
        anchor: &anchorsReturn,
    ) -> Result<(), TickError> {
        let at = anchor.timestamp.saturating_to::<u64>();
        let mut transaction = None;
        for rpc in &open.nodes {
            transaction = self.find(rpc, hash, at).unwrap_or_default();
            if transaction.is_some() {
                break;
            }
        }
        let Some(transaction) = transaction else {
            let why = format!("checkpoint {number} is anchored, and no node knows the event");
            return Err(ChainError::Operator(why).into());
        };
        tracing::info!(
            "chain {}: checkpoint {number} is anchored already, by {transaction}",
            self.settings.chain
        );
        self.state.again.retain(|n| self.settings.each && *n != number);
        self.state.sent.push(Sent {
            nonce: None,
            gas: 0,
            data: Bytes::new(),
            checkpoints: vec![number],
            attempts: vec![Attempt { raw: Bytes::new(), hash: transaction, at: showing.now }],
            receipts: Vec::new(),
            written: false,
            gone: None,
        });
        self.file.save(&self.state)?;
        let index = self.state.sent.len() - 1;
        if !self.progress(showing, open, index)? {
            self.state.sent.remove(index);
            self.file.save(&self.state)?;
        }
        Ok(())
    }

    /// The transaction with the event: the block is found by its time, for many nodes search only few blocks at once.
    fn find(
        &self,
        rpc: &waxseal_ethereum::rpc::Rpc<'_>,
        hash: B256,
        at: u64,
    ) -> Result<Option<B256>, RpcError> {
        let Some(newest) = rpc.block(At::Latest)? else { return Ok(None) };
        let (mut low, mut high) = (0, newest.number);
        while low < high {
            let middle = low + (high - low) / 2;
            match rpc.block(At::Number(middle))? {
                Some(block) if block.timestamp < at => low = middle + 1,
                Some(_) => high = middle,
                None => return Ok(None),
            }
        }
        let submitter = self.sender.address().into_word();
        let topics = [Some(HashAnchored::SIGNATURE_HASH), Some(hash), Some(submitter)];
        // On quick chains several blocks have the same time.
        let logs = rpc.logs(
            self.settings.contract,
            &topics,
            low,
            At::Number(low.saturating_add(100).min(newest.number)),
        )?;
        Ok(logs.iter().find_map(|l| l.transaction_hash))
    }

    fn anchor_of(&self, open: &Open<'_>, hash: B256) -> Result<anchorsReturn, TickError> {
        let data = anchorsCall { hash }.abi_encode();
        let answer = open.agreed("an anchor", |rpc| rpc.call(self.settings.contract, &data, At::Latest))?;
        let odd = |e: alloy_sol_types::Error| ChainError::Operator(format!("the contract's answer: {e}"));
        Ok(anchorsCall::abi_decode_returns(&answer).map_err(odd)?)
    }

    fn may_write(&self, open: &Open<'_>) -> Result<(), TickError> {
        let account = self.sender.address();
        let data = authorizedAnchorsCall { account }.abi_encode();
        let answer = open.first(|rpc| rpc.call(self.settings.contract, &data, At::Latest))?;
        if authorizedAnchorsCall::abi_decode_returns(&answer).is_ok_and(|may| may) {
            return Ok(());
        }
        let contract = self.settings.contract;
        let why = format!(
            "account {account} may not write to contract {contract}: its owner has to call addAuthorizedAnchor({account})"
        );
        Err(ChainError::Operator(why).into())
    }

    fn nonce(&self, open: &Open<'_>) -> Result<u64, TickError> {
        Ok(open.agreed("the account's nonce", |rpc| rpc.nonce(self.sender.address()))?)
    }

    /// What gas costs now, with room for two blocks in a row that are full (EIP-1559), below the cap.
    fn fees(&self, open: &Open<'_>) -> Result<Fees, ChainError> {
        fees(open, self.settings.max_fee, self.settings.max_priority_fee)
    }

    fn sign(&self, now: Time, nonce: u64, gas: u64, data: &Bytes, fees: Fees) -> Result<Attempt, ChainError> {
        let to = TxKind::Call(self.settings.contract);
        let (raw, hash) = sign(&self.sender, self.settings.chain, nonce, gas, to, data, fees)?;
        Ok(Attempt { raw, hash, at: now })
    }
}

fn fees(open: &Open<'_>, cap: u128, max_priority: u128) -> Result<Fees, ChainError> {
    let block = open.first(|rpc| rpc.block(At::Latest))?;
    let base = block.and_then(|b| b.base_fee);
    let base = base.ok_or_else(|| ChainError::Operator("the chain has no base fee (EIP-1559)".to_owned()))?;
    // Not every node has an opinion.
    let usual = open.first(|rpc| rpc.priority_fee()).unwrap_or(max_priority);
    // Nothing at all is taken by nobody.
    let priority = usual.max(max_priority / 20).min(max_priority);
    let now = base.saturating_add(priority);
    if now > cap {
        return Err(ChainError::FeeCap { now, cap });
    }
    // Room for two blocks in a row that are full; and below the cap for raises, should nobody take it.
    let max = base.saturating_mul(2).saturating_add(priority).min(cap / 3 * 2).max(now);
    Ok(Fees { max, priority })
}

fn sign(
    sender: &Sender,
    chain: u64,
    nonce: u64,
    gas: u64,
    to: TxKind,
    data: &Bytes,
    fees: Fees,
) -> Result<(Bytes, B256), ChainError> {
    let transaction = TxEip1559 {
        chain_id: chain,
        nonce,
        gas_limit: gas,
        max_fee_per_gas: fees.max,
        max_priority_fee_per_gas: fees.priority,
        to,
        value: U256::ZERO,
        access_list: Default::default(),
        input: data.clone(),
    };
    let signature = sender.sign(&transaction.signature_hash()).map_err(ChainError::Operator)?;
    let signed: TxEnvelope = transaction.into_signed(signature).into();
    Ok((signed.encoded_2718().into(), *signed.tx_hash()))
}

/// Sends to all nodes: one that knows it already is as good as one that takes it.
fn broadcast(open: &Open<'_>, raw: &Bytes) -> Result<(), ChainError> {
    let known = |e: &RpcError| {
        let RpcError::Refused { message, .. } = e else { return false };
        let message = message.to_ascii_lowercase();
        [
            "already known",
            "alreadyknown",
            "known transaction",
            "already imported",
            "nonce too low",
            "oldnonce",
        ]
        .iter()
        .any(|k| message.contains(k))
    };
    let mut refused = None;
    let mut taken = false;
    for rpc in &open.nodes {
        match rpc.send(raw) {
            Ok(_) => taken = true,
            Err(e) if known(&e) => taken = true,
            Err(e) => refused = Some(e),
        }
    }
    refused.filter(|_| !taken).map_or(Ok(()), |e| Err(e.into()))
}

/// How many entries the checkpoint before one is over.
fn size_before(showing: &Showing<'_>, number: u64) -> Result<u64, StoreError> {
    let Some(before) = number.checked_sub(1) else { return Ok(0) };
    Ok(checkpoint(showing.store, showing.key, before, 0)?.map_or(0, |c| c.checkpoint.size))
}

/// A checkpoint that was committed.
fn committed(showing: &Showing<'_>, number: u64) -> Result<Option<Committed>, TickError> {
    if number == showing.committed.number {
        return Ok(Some(showing.committed.clone()));
    }
    Ok(checkpoint(showing.store, showing.key, number, size_before(showing, number)?)?)
}

/// What a receipt of it has to be about.
fn about(committed: &Committed) -> About {
    About::new(&committed.checkpoint, sha256(&committed.bytes))
}

/// What is said of a checkpoint: JCS of [`Metadata`].
fn metadata(showing: &Showing<'_>, committed: &Committed) -> Result<String, TickError> {
    let number = committed.number;
    let before = size_before(showing, number)?;
    let reader = Reader::open(showing.store, Some(committed.clone()))?;
    let (mut first, mut last) = (None::<Time>, None::<Time>);
    reader.entries(before, &mut |_, entry| {
        let envelope = Envelope::parse(entry).ok();
        let header = envelope.filter(|e| matches!(valid::place(e), Some(Place::Batch(..))));
        if let Some(header) = header.and_then(|e| valid::payload::<Batch>(&e).ok()) {
            first = Some(first.map_or(header.sealed_at, |t| t.min(header.sealed_at)));
            last = last.max(Some(header.sealed_at));
        }
        true
    })?;
    let said = Metadata {
        checkpoint: number,
        first_sealed_at: first,
        last_sealed_at: last,
        origin: committed.checkpoint.origin.clone(),
        size: committed.checkpoint.size,
    };
    let bytes = json::to_canonical(&said).map_err(|e| ChainError::Operator(e.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Checkpoints, for people.
fn numbers(all: &[u64]) -> String {
    match (all.first(), all.last()) {
        (Some(first), Some(last)) if first != last => format!("checkpoints {first} to {last}"),
        (Some(first), _) => format!("checkpoint {first}"),
        _ => "no checkpoint".to_owned(),
    }
}

fn gwei(wei: u128) -> String {
    alloy_primitives::utils::format_units(wei, "gwei").unwrap_or_default()
}

fn ether(wei: U256) -> String {
    alloy_primitives::utils::format_ether(wei)
}
