//! `anchors/<n>/ethereum/<chain>-<tx>.json`: what a chain has answered, in a form that anybody can check without the chain, against
//! the hash of one block.
//!
//! A block's hash is over its header; the header has the roots of three Merkle-Patricia tries (Ethereum Yellow Paper, appendix D):
//! of the block's transactions, of their receipts, and of the chain's state. From each a proof leads to what is said here.

use crate::contract::AuditTrail::HashAnchored;
use crate::contract::{Anchor, CODE_HASH, anchor_slot, digest_slot, sender_slot};
use alloy_consensus::{Header, ReceiptEnvelope, Transaction as _, TxEnvelope};
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Decodable as _, Encodable as _};
use alloy_sol_types::SolEvent as _;
use alloy_trie::nodes::TrieNode;
use alloy_trie::proof::verify_proof;
use alloy_trie::{Nibbles, TrieAccount};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use waxseal_trail::base64;
use waxseal_trail::hash::Hash;
use waxseal_trail::json;
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::time::Time;

/// `waxseal/ethereum/1`
pub const FORMAT: &str = "waxseal/ethereum/1";
/// The largest receipt that is read, in bytes.
pub const MAX_RECEIPT: usize = 1 << 20;

/// What a submitter says of a checkpoint; JCS of it is in the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The checkpoint's number.
    pub checkpoint: u64,
    /// Of the headers that this checkpoint is over and the one before it is not, the least `sealed_at`; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_sealed_at: Option<Time>,
    /// The greatest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sealed_at: Option<Time>,
    /// The log's origin.
    pub origin: String,
    /// How many entries the checkpoint is over.
    pub size: u64,
}

/// A receipt; the file is its JCS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`FORMAT`]
    pub format: String,
    /// The chain's id (EIP-155).
    pub chain: u64,
    /// The contract.
    pub contract: Address,
    /// Who anchored.
    pub sender: Address,
    /// SHA-256 of the checkpoint as it is stored: what was anchored.
    pub hash: Hash,
    /// The root of the log that the checkpoint is over.
    pub merkle_root: Hash,
    /// [`Metadata`], as it is in the event.
    pub metadata: String,
    /// keccak256 of the transaction.
    pub transaction_hash: B256,
    /// Its place in the block, from 0.
    pub transaction_index: u64,
    /// The block's number.
    pub block_number: u64,
    /// keccak256 of its header.
    pub block_hash: B256,
    /// Its time.
    pub timestamp: Time,
    /// What the transaction took of gas.
    pub gas_used: u64,
    /// The event's place among those of the transaction, from 0.
    pub log_index: u64,
    /// What proves it; absent if the chain has blocks of a form that is not known here: it can be looked up there, and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// What leads from a block's hash to what a receipt says: nodes of tries in RLP, from the root to the leaf, and the header in RLP,
/// each in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The block's header.
    pub header: String,
    /// To the transaction.
    pub transaction: Vec<String>,
    /// To its receipt.
    pub receipt: Vec<String>,
    /// To the receipt before it, from which the gas that it took follows; absent for the first of a block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipt_before: Vec<String>,
    /// To the contract's storage, behind the block; absent if nobody had it (`eth_getProof`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

/// The contract's storage behind a block, as far as it is about an anchor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Which of the sender's anchors this is, from 1.
    pub sequence: u64,
    /// How many the sender had written behind this block.
    pub count: u64,
    /// Whether it could write more then.
    pub authorized: bool,
    /// To the contract's account.
    pub account: Vec<String>,
    /// To the anchor: time, submitter and sequence.
    pub anchor: Vec<String>,
    /// To the metadata's digest.
    pub digest: Vec<String>,
    /// To what the contract knows of the sender.
    pub sender: Vec<String>,
}

/// Why a receipt proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptFault {
    /// Not in the one form of a receipt.
    #[error("not a receipt of {FORMAT}: {0}")]
    Form(String),
    /// Of another chain, contract or account than the trust file names.
    #[error("it is of {0}, which the trust file does not name")]
    Unknown(String),
    /// Of something else than this checkpoint.
    #[error("it is of another checkpoint: its {0} is another")]
    OtherCheckpoint(&'static str),
    /// It carries no proof.
    #[error("it carries no proof: only the chain itself can be asked")]
    NoProof,
    /// A part of the proof leads elsewhere.
    #[error("its {what}: {why}")]
    Part {
        /// Which.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A checkpoint, as far as a receipt is about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// SHA-256 of it as it is stored.
    pub hash: Hash,
    /// The log's origin.
    pub origin: String,
    /// How many entries it is over.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

impl About {
    /// A checkpoint, and SHA-256 of it as it is stored.
    pub fn new(checkpoint: &Checkpoint, hash: Hash) -> About {
        let Checkpoint { origin, size, root, .. } = checkpoint;
        About { hash, origin: origin.clone(), size: *size, root: *root }
    }
}

/// What a receipt proves, if its block is one of the chain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The block's hash: who knows that it is the chain's, knows the rest.
    pub block_hash: B256,
    /// The block's number.
    pub block_number: u64,
    /// The block's time: the checkpoint was there not later than that.
    pub at: Time,
    /// Which of the sender's anchors it is, and how many there were behind the block; where the state was proven.
    pub of: Option<(u64, u64)>,
}

fn part(what: &'static str, why: impl core::fmt::Display) -> ReceiptFault {
    ReceiptFault::Part { what, why: why.to_string() }
}

/// Nodes, as they stand in a receipt.
pub(crate) fn text_of(nodes: &[Bytes]) -> Vec<String> {
    nodes.iter().map(|n| BASE64.encode(n)).collect()
}

fn nodes(what: &'static str, texts: &[String]) -> Result<Vec<Bytes>, ReceiptFault> {
    let node = |t: &String| base64::decode(t).map(Bytes::from).ok_or_else(|| part(what, "not base64"));
    texts.iter().map(node).collect()
}

/// The value that a proof leads to, from `root` along `key`: it has a leaf of its own, as everything longer than 31 bytes has.
fn value(what: &'static str, root: B256, key: &[u8], texts: &[String]) -> Result<Vec<u8>, ReceiptFault> {
    let nodes = nodes(what, texts)?;
    let last = nodes.last().ok_or_else(|| part(what, "no nodes"))?;
    let value = match TrieNode::decode(&mut &last[..]) {
        Ok(TrieNode::Leaf(leaf)) => leaf.value,
        Ok(_) => return Err(part(what, "it ends in no leaf")),
        Err(e) => return Err(part(what, e)),
    };
    verify_proof(root, Nibbles::unpack(key), Some(value.clone()), &nodes).map_err(|e| part(what, e))?;
    Ok(value)
}

/// Checks that a slot has a value.
fn slot(
    what: &'static str,
    root: B256,
    slot: B256,
    value: U256,
    texts: &[String],
) -> Result<(), ReceiptFault> {
    let nodes = nodes(what, texts)?;
    let rlp = (!value.is_zero()).then(|| alloy_rlp::encode(value));
    verify_proof(root, Nibbles::unpack(keccak256(slot)), rlp, &nodes).map_err(|e| part(what, e))
}

/// The key of a block's `index`th transaction or receipt.
pub(crate) fn index_key(index: u64) -> Vec<u8> {
    let mut key = Vec::new();
    index.encode(&mut key);
    key
}

fn receipt_of(
    what: &'static str,
    root: B256,
    index: u64,
    nodes: &[String],
) -> Result<ReceiptEnvelope, ReceiptFault> {
    let bytes = value(what, root, &index_key(index), nodes)?;
    let mut rest = &bytes[..];
    let receipt = ReceiptEnvelope::decode_2718(&mut rest).map_err(|e| part(what, e))?;
    if rest.is_empty() { Ok(receipt) } else { Err(part(what, "something stands behind it")) }
}

/// The gas that a block had taken with the receipt before: all that is read of it, whatever its kind.
fn gas_before(root: B256, index: u64, nodes: &[String]) -> Result<u64, ReceiptFault> {
    let what = "receipt_before";
    let bytes = value(what, root, &index_key(index), nodes)?;
    // Behind the byte of its type, if it has one (EIP-2718): a list of status, gas, and more.
    let mut rest = if bytes.first().is_some_and(|b| *b < 0xc0) { &bytes[1..] } else { &bytes[..] };
    let header = alloy_rlp::Header::decode(&mut rest).map_err(|e| part(what, e))?;
    if !header.list {
        return Err(part(what, "it is no list"));
    }
    Bytes::decode(&mut rest).and_then(|_| u64::decode(&mut rest)).map_err(|e| part(what, e))
}

impl Receipt {
    /// Reads a file; nothing is checked yet.
    ///
    /// # Errors
    /// [`ReceiptFault::Form`]: also for another form of the same receipt.
    pub fn parse(bytes: &[u8]) -> Result<Receipt, ReceiptFault> {
        let form = |why: String| ReceiptFault::Form(why);
        if bytes.len() > MAX_RECEIPT {
            return Err(form(format!("more than {MAX_RECEIPT} bytes")));
        }
        let receipt: Receipt = serde_json::from_slice(bytes).map_err(|e| form(e.to_string()))?;
        if receipt.format != FORMAT {
            return Err(form(format!("its format is {:?}", receipt.format)));
        }
        if receipt.to_bytes()? != bytes {
            return Err(form("not in canonical form (RFC 8785)".to_owned()));
        }
        Ok(receipt)
    }

    /// The file.
    ///
    /// # Errors
    /// [`ReceiptFault::Form`], for numbers that JSON has not.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReceiptFault> {
        json::to_canonical(self).map_err(|e| ReceiptFault::Form(e.to_string()))
    }

    /// What its submitter says of the checkpoint.
    ///
    /// # Errors
    /// [`ReceiptFault::Form`].
    pub fn metadata(&self) -> Result<Metadata, ReceiptFault> {
        let form = |why: String| ReceiptFault::Form(format!("metadata: {why}"));
        let text = self.metadata.as_bytes();
        let metadata: Metadata = serde_json::from_slice(text).map_err(|e| form(e.to_string()))?;
        match json::to_canonical(&metadata) {
            Ok(bytes) if bytes == text => Ok(metadata),
            _ => Err(form("not in canonical form (RFC 8785)".to_owned())),
        }
    }

    /// Checks that it is about a checkpoint; not that it is true.
    ///
    /// # Errors
    /// [`ReceiptFault::OtherCheckpoint`], naming what is another; [`ReceiptFault::Form`].
    pub fn is_about(&self, about: &About) -> Result<Metadata, ReceiptFault> {
        let metadata = self.metadata()?;
        let same = [
            ("hash", self.hash == about.hash),
            ("merkle_root", self.merkle_root == about.root),
            ("origin", metadata.origin == about.origin),
            ("size", metadata.size == about.size),
        ];
        match same.into_iter().find(|(_, same)| !same) {
            Some((what, _)) => Err(ReceiptFault::OtherCheckpoint(what)),
            None => Ok(metadata),
        }
    }

    /// Checks its proof: if the block is the chain's, all that it says is true.
    ///
    /// # Errors
    /// [`ReceiptFault`].
    pub fn check(&self) -> Result<Proven, ReceiptFault> {
        let proof = self.proof.as_ref().ok_or(ReceiptFault::NoProof)?;
        let header = self.header(proof)?;
        let roots = (header.transactions_root, header.receipts_root);

        let what = "transaction";
        let raw = value(what, roots.0, &index_key(self.transaction_index), &proof.transaction)?;
        if keccak256(&raw) != self.transaction_hash {
            return Err(part(what, "another one than it names"));
        }
        // It is a transaction for this chain and no other.
        let mut rest = &raw[..];
        let transaction = TxEnvelope::decode_2718(&mut rest).map_err(|e| part(what, e))?;
        if transaction.chain_id() != Some(self.chain) {
            return Err(part(what, "it is for another chain"));
        }

        let what = "receipt";
        let receipt = receipt_of(what, roots.1, self.transaction_index, &proof.receipt)?;
        if !receipt.status() {
            return Err(part(what, "the transaction was reverted"));
        }
        let before = match self.transaction_index.checked_sub(1) {
            Some(before) => gas_before(roots.1, before, &proof.receipt_before)?,
            None if proof.receipt_before.is_empty() => 0,
            None => return Err(part("receipt_before", "nothing is before the first")),
        };
        if receipt.cumulative_gas_used().checked_sub(before) != Some(self.gas_used) {
            return Err(part("gas_used", "another one than the receipts say"));
        }
        let log = usize::try_from(self.log_index).ok().and_then(|i| receipt.logs().get(i));
        let log = log.filter(|l| l.address == self.contract);
        let log = log.ok_or_else(|| part("log_index", "no event of the contract is there"))?;
        let event = HashAnchored::decode_log_validate(log).map_err(|e| part("event", e))?.data;
        let same = [
            ("hash", event.hash.0 == self.hash.0),
            ("timestamp", event.timestamp == U256::from(header.timestamp)),
            ("metadata", event.metadata == self.metadata),
            ("sender", event.submitter == self.sender),
        ];
        if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
            return Err(part(what, "the event says another one"));
        }
        if let Some(state) = &proof.state {
            self.check_state(state, &header)?;
        }
        Ok(Proven {
            block_hash: self.block_hash,
            block_number: self.block_number,
            at: self.timestamp,
            of: proof.state.as_ref().map(|s| (s.sequence, s.count)),
        })
    }

    fn header(&self, proof: &Proof) -> Result<Header, ReceiptFault> {
        let what = "header";
        let bytes = base64::decode(&proof.header).ok_or_else(|| part(what, "not base64"))?;
        if keccak256(&bytes) != self.block_hash {
            return Err(part(what, "it has another hash than its block"));
        }
        let mut rest = &bytes[..];
        let header = Header::decode(&mut rest).map_err(|e| part(what, e))?;
        if !rest.is_empty() {
            return Err(part(what, "something stands behind it"));
        }
        let time = i64::try_from(header.timestamp).ok().and_then(|s| Time::from_unix(s, 0));
        if header.number != self.block_number || time != Some(self.timestamp) {
            return Err(part(what, "it has another number or time"));
        }
        Ok(header)
    }

    fn check_state(&self, state: &State, header: &Header) -> Result<(), ReceiptFault> {
        let what = "state";
        let account =
            value("account", header.state_root, keccak256(self.contract).as_slice(), &state.account)?;
        let account: TrieAccount = alloy_rlp::decode_exact(account).map_err(|e| part("account", e))?;
        if account.code_hash != CODE_HASH {
            return Err(part(what, "the contract has another code than AuditTrail"));
        }
        if state.sequence > state.count {
            return Err(part(what, "it is none of the sender's anchors"));
        }
        let root = account.storage_root;
        let hash = B256::from(self.hash.0);
        let metadata_digest = keccak256(self.metadata.as_bytes());
        let anchor = Anchor {
            timestamp: header.timestamp,
            submitter: self.sender,
            sequence: state.sequence,
            metadata_digest,
        };
        let head = anchor.head().ok_or_else(|| part(what, "a number that no slot holds"))?;
        slot("anchor", root, anchor_slot(&hash), head, &state.anchor)?;
        slot("digest", root, digest_slot(&hash), metadata_digest.into(), &state.digest)?;
        let sender = U256::from(state.count) << 8 | U256::from(u8::from(state.authorized));
        slot("sender", root, sender_slot(self.sender), sender, &state.sender)
    }
}
