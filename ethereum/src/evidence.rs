//! From what a node says of a block to a receipt that proves itself: the block's tries are built again, and have to have the roots
//! that its header names.

use crate::contract::AuditTrail::HashAnchored;
use crate::contract::{Anchor, anchor_slot, count_from_slot, digest_slot, sender_slot};
use crate::receipt::{About, FORMAT, Proof, Receipt, ReceiptFault, State, index_key, text_of};
use crate::rpc::{At, Rpc, RpcError};
use alloy_consensus::TxEnvelope;
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Log, U64, U256, keccak256};
use alloy_rlp::Encodable;
use alloy_rpc_types_eth::{EIP1186AccountProofResponse, Header, TransactionReceipt};
use alloy_sol_types::SolEvent as _;
use alloy_trie::proof::ProofRetainer;
use alloy_trie::{HashBuilder, Nibbles};
use data_encoding::BASE64;
use serde_json::Value;
use waxseal_trail::time::Time;

/// The type of a deposit on chains of the OP stack.
const DEPOSIT: u8 = 0x7e;

/// Why there is no receipt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The node.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// What it says does not fit together.
    #[error("{place}: what it says of block {block} does not fit together: {what}")]
    Contradiction {
        /// The node.
        place: String,
        /// The block's hash.
        block: B256,
        /// What does not fit.
        what: String,
    },
    /// The transaction was mined and anchors nothing.
    #[error("transaction {0} does not anchor the checkpoint")]
    OtherTransaction(B256),
}

/// What was anchored, where, and by whom.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The chain's id.
    pub chain: u64,
    /// The contract.
    pub contract: Address,
    /// Who anchored.
    pub sender: Address,
    /// The checkpoints.
    pub about: &'a [About],
}

/// The receipts of a transaction that was mined, one for each checkpoint, with all the proofs that the node has; checked. `None` if
/// it was not mined, or its block is not there any more.
///
/// # Errors
/// [`EvidenceError`].
pub fn collect(
    rpc: &Rpc<'_>,
    wanted: &Wanted<'_>,
    transaction: B256,
) -> Result<Option<Vec<Receipt>>, EvidenceError> {
    let Some(own) = rpc.receipt(transaction)? else { return Ok(None) };
    let hash: B256 = field(&own, "blockHash").unwrap_or_default();
    let contradiction =
        |what: &str| EvidenceError::Contradiction { place: rpc.place(), block: hash, what: what.to_owned() };
    let number = |name: &str| field::<U64>(&own, name).map(|n| n.to::<u64>());
    let index = number("transactionIndex").ok_or_else(|| contradiction("the receipt has no index"))?;
    let block_number = number("blockNumber").ok_or_else(|| contradiction("the receipt has no block"))?;
    let gas_used = number("gasUsed").ok_or_else(|| contradiction("the receipt has no gas"))?;
    let logs: Vec<alloy_rpc_types_eth::Log> = field(&own, "logs").unwrap_or_default();
    let Some(block) = rpc.whole_block(hash)? else { return Ok(None) };
    let proof = match Rebuilt::new(rpc, &block, hash)? {
        Some(rebuilt) if !rebuilt.holds => {
            return Err(contradiction("its transactions or receipts are not those that its header is over"));
        }
        Some(rebuilt) => {
            Some(rebuilt.prove(index).ok_or_else(|| contradiction("it has no such transaction"))?)
        }
        None => None,
    };
    let mut receipts = Vec::new();
    for about in wanted.about {
        let hashed = B256::from(about.hash.0);
        let events = (0..).zip(&logs).filter(|(_, l)| l.inner.address == wanted.contract);
        let mut events =
            events.filter_map(|(i, l)| Some((i, HashAnchored::decode_log_validate(&l.inner).ok()?.data)));
        let event = events.find(|(_, e)| e.hash == hashed && e.submitter == wanted.sender);
        let (log_index, event) = event.ok_or(EvidenceError::OtherTransaction(transaction))?;
        let time = i64::try_from(event.timestamp.saturating_to::<u64>()).ok();
        let timestamp = time.and_then(|t| Time::from_unix(t, 0));
        let mut receipt = Receipt {
            format: FORMAT.to_owned(),
            chain: wanted.chain,
            contract: wanted.contract,
            sender: wanted.sender,
            hash: about.hash,
            merkle_root: about.root,
            metadata: event.metadata,
            transaction_hash: transaction,
            transaction_index: index,
            block_number,
            block_hash: hash,
            timestamp: timestamp.ok_or_else(|| contradiction("the event's time is none"))?,
            gas_used,
            log_index,
            proof: proof.clone(),
        };
        receipt.is_about(about).map_err(|e| contradiction(&e.to_string()))?;
        if receipt.proof.is_some() {
            let state = state(rpc, &receipt, hashed)?;
            if let Some(proof) = &mut receipt.proof {
                proof.state = state;
            }
            // What the node says of its state may be behind: without it the receipt is still one.
            let faulty = ["account", "anchor", "digest", "sender", "state"];
            if matches!(receipt.check(), Err(ReceiptFault::Part { what, .. }) if faulty.contains(&what))
                && let Some(proof) = &mut receipt.proof
            {
                proof.state = None;
            }
            receipt.check().map_err(|e| contradiction(&e.to_string()))?;
        }
        receipts.push(receipt);
    }
    Ok(Some(receipts))
}

fn field<T: serde::de::DeserializeOwned>(of: &Value, name: &str) -> Option<T> {
    serde_json::from_value(of[name].clone()).ok()
}

/// A block whose bytes are known, so that its tries have its roots.
struct Rebuilt {
    header: Vec<u8>,
    transactions: Vec<Vec<u8>>,
    receipts: Vec<Vec<u8>>,
    /// Whether they have the roots that the header names.
    holds: bool,
}

impl Rebuilt {
    /// `None` for a block of a form that is not known here.
    fn new(rpc: &Rpc<'_>, block: &Value, hash: B256) -> Result<Option<Rebuilt>, EvidenceError> {
        let Ok(header) = serde_json::from_value::<Header>(block.clone()) else { return Ok(None) };
        let header = header.inner;
        if header.hash_slow() != hash {
            return Ok(None);
        }
        let transactions = block["transactions"].as_array().map_or(&[][..], |t| t);
        let receipts = match rpc.block_receipts(hash) {
            Ok(Some(receipts)) => receipts,
            Ok(None) => return Ok(None),
            Err(e) if e.is_unknown_method() => {
                let each = transactions.iter().map(|t| rpc.receipt(field(t, "hash").unwrap_or_default()));
                let all = each.collect::<Result<Option<Vec<Value>>, RpcError>>()?;
                let Some(all) = all else { return Ok(None) };
                all
            }
            Err(e) => return Err(e.into()),
        };
        let own = transactions.iter().any(is_deposit);
        let transactions: Option<Vec<_>> = transactions.iter().map(transaction_bytes).collect();
        let receipts: Option<Vec<_>> = receipts.iter().map(receipt_bytes).collect();
        let (Some(transactions), Some(receipts)) = (transactions, receipts) else { return Ok(None) };
        let holds = trie(&transactions, &[]).0 == header.transactions_root
            && trie(&receipts, &[]).0 == header.receipts_root;
        // A chain that has transactions of its own may have more of its own; Ethereum's are known.
        let known = holds || !own;
        Ok(known.then(|| Rebuilt { header: alloy_rlp::encode(&header), transactions, receipts, holds }))
    }

    fn prove(&self, index: u64) -> Option<Proof> {
        if index >= self.transactions.len() as u64 {
            return None;
        }
        let mut transaction = trie(&self.transactions, &[index]).1;
        let before = index.checked_sub(1);
        let wanted: Vec<u64> = before.into_iter().chain([index]).collect();
        let mut receipts = trie(&self.receipts, &wanted).1;
        Some(Proof {
            header: BASE64.encode(&self.header),
            transaction: transaction.pop()?,
            receipt: receipts.pop()?,
            receipt_before: receipts.pop().unwrap_or_default(),
            state: None,
        })
    }
}

/// The root of an index trie, and the nodes that lead to some of its values.
fn trie(values: &[Vec<u8>], wanted: &[u64]) -> (B256, Vec<Vec<String>>) {
    let key = |i: u64| Nibbles::unpack(index_key(i));
    let retainer: ProofRetainer = wanted.iter().map(|i| key(*i)).collect();
    let mut builder = HashBuilder::default().with_proof_retainer(retainer);
    let mut leaves: Vec<(Nibbles, &Vec<u8>)> = (0..).map(key).zip(values).collect();
    leaves.sort_unstable();
    for (key, value) in leaves {
        builder.add_leaf(key, value);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes();
    let path = |i: &u64| -> Vec<String> {
        let path: Vec<Bytes> = nodes.matching_nodes_sorted(&key(*i)).into_iter().map(|(_, n)| n).collect();
        text_of(&path)
    };
    (root, wanted.iter().map(path).collect())
}

fn is_deposit(of: &Value) -> bool {
    field::<U64>(of, "type").is_some_and(|t| t.to::<u64>() == u64::from(DEPOSIT))
}

/// A list in RLP behind the byte of a type.
fn typed(kind: u8, items: &[&dyn Encodable]) -> Vec<u8> {
    let payload_length = items.iter().map(|i| i.length()).sum();
    let mut out = vec![kind];
    alloy_rlp::Header { list: true, payload_length }.encode(&mut out);
    for item in items {
        item.encode(&mut out);
    }
    out
}

/// A transaction's bytes (EIP-2718), from what a node says of it.
fn transaction_bytes(of: &Value) -> Option<Vec<u8>> {
    if is_deposit(of) {
        let to: Option<Address> = field(of, "to")?;
        let to = to.map_or_else(Bytes::new, |a| Bytes::copy_from_slice(a.as_slice()));
        let mint: Option<U256> = field(of, "mint").flatten();
        let (source, from): (B256, Address) = (field(of, "sourceHash")?, field(of, "from")?);
        let (value, gas): (U256, U64) = (field(of, "value")?, field(of, "gas")?);
        let (system, data): (bool, Bytes) = (field(of, "isSystemTx").unwrap_or(false), field(of, "input")?);
        let (mint, gas) = (mint.unwrap_or_default(), gas.to::<u64>());
        return Some(typed(DEPOSIT, &[&source, &from, &to, &mint, &value, &gas, &system, &data]));
    }
    serde_json::from_value::<TxEnvelope>(of.clone()).ok().map(|t| t.encoded_2718())
}

/// A receipt's bytes.
fn receipt_bytes(of: &Value) -> Option<Vec<u8>> {
    if is_deposit(of) {
        let logs: Vec<alloy_rpc_types_eth::Log> = field(of, "logs")?;
        let logs: Vec<Log> = logs.into_iter().map(|l| l.inner).collect();
        let number = |name| field::<U64>(of, name).map(|n| n.to::<u64>());
        let (status, gas) = (number("status")? == 1, number("cumulativeGasUsed")?);
        let bloom: alloy_primitives::Bloom = field(of, "logsBloom")?;
        let (nonce, version) = (number("depositNonce"), number("depositReceiptVersion"));
        let mut items: Vec<&dyn Encodable> = vec![&status, &gas, &bloom, &logs];
        // What came with Canyon; before it the nonce is no part of what is hashed.
        if let (Some(nonce), Some(version)) = (&nonce, &version) {
            items.extend([nonce as &dyn Encodable, version]);
        }
        return Some(typed(DEPOSIT, &items));
    }
    let receipt: TransactionReceipt = serde_json::from_value(of.clone()).ok()?;
    Some(receipt.inner.map_logs(|l| l.inner).encoded_2718())
}

/// The contract's storage behind the receipt's block, if the node has it.
fn state(rpc: &Rpc<'_>, receipt: &Receipt, hash: B256) -> Result<Option<State>, EvidenceError> {
    let slots = [anchor_slot(&hash), digest_slot(&hash), sender_slot(receipt.sender)];
    let answer = match rpc.proof(receipt.contract, &slots, At::Number(receipt.block_number)) {
        Ok(answer) => answer,
        Err(e @ RpcError::Unreachable { .. }) => return Err(e.into()),
        Err(_) => return Ok(None),
    };
    Ok(state_of(&answer))
}

fn state_of(answer: &EIP1186AccountProofResponse) -> Option<State> {
    let [anchor, digest, sender] = &answer.storage_proof[..] else { return None };
    let anchored = Anchor::from_slots(anchor.value, digest.value)?;
    Some(State {
        sequence: anchored.sequence,
        count: count_from_slot(sender.value),
        authorized: sender.value.bit(0),
        account: text_of(&answer.account_proof),
        anchor: text_of(&anchor.proof),
        digest: text_of(&digest.proof),
        sender: text_of(&sender.proof),
    })
}

/// keccak256 of a contract's code, as a node has it.
///
/// # Errors
/// [`RpcError`].
pub fn code_hash(rpc: &Rpc<'_>, contract: Address) -> Result<B256, RpcError> {
    rpc.code(contract, At::Latest).map(keccak256)
}
