//! Checks a proof of one event, with what chains say of its checkpoint (`waxseal verify-proof`).

use crate::chains::{self, Chains, nodes_on};
use alloy_primitives::B256;
use alloy_sol_types::SolCall as _;
use waxseal_ethereum::contract::AuditTrail::anchorsCall;
use waxseal_ethereum::receipt::{About, Receipt};
use waxseal_ethereum::rpc::{At, Rpc};
use waxseal_trail::json;
use waxseal_trail::proof::{EventProofFault, Proof, Proven};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;

/// An anchor of a proof's checkpoint that holds by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchored {
    /// The chain's id.
    pub chain: u64,
    /// The block's number.
    pub block_number: u64,
    /// The block's hash: if it is the chain's, everything else follows.
    pub block_hash: B256,
    /// The block's time.
    pub at: Time,
    /// Nothing, if the block is known to be the chain's; else why it is not known.
    pub unchecked: Option<String>,
}

/// What a proof proves, and what chains say of it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The event.
    pub proven: Proven,
    /// Of contracts and accounts that the trust file names.
    pub anchors: Vec<Anchored>,
    /// How many more there are, of others.
    pub unknown: usize,
}

/// Checks a proof: its receipts are held to the blocks that the auditor knows, and to what nodes say, if there are any to ask.
///
/// # Errors
/// [`EventProofFault`]: also for a receipt that does not hold by itself, whoever's it is.
pub fn check_proof(proof: &Proof, trust: &Trust, chains: &Chains) -> Result<Checked, EventProofFault> {
    let stamp = waxseal_timestamp::checker(&trust.timestamps);
    let proven = proof.verify(trust, &stamp)?;
    let part = |why: String| EventProofFault::Part { what: "ethereum", why };
    let about = About::new(&proven.checkpoint, proven.imprint);
    let (mut anchors, mut unknown) = (Vec::new(), 0);
    for value in &proof.ethereum {
        let bytes = json::to_canonical(value).map_err(|e| part(e.to_string()))?;
        let receipt = Receipt::parse(&bytes).map_err(|e| part(e.to_string()))?;
        receipt.is_about(&about).map_err(|e| part(e.to_string()))?;
        let holds = receipt.check().map_err(|e| part(e.to_string()))?;
        if chains::names(&trust.ethereum, &receipt).is_none() {
            unknown += 1;
            continue;
        }
        let known = chains::is_known(chains, &trust.ethereum, &receipt);
        anchors.push(Anchored {
            chain: receipt.chain,
            block_number: holds.block_number,
            block_hash: holds.block_hash,
            at: holds.at,
            unchecked: if known { None } else { ask(chains, &receipt).err() },
        });
    }
    Ok(Checked { proven, anchors, unknown })
}

/// Asks the nodes of a receipt's chain whether its block is there, and the anchor in the contract's storage.
fn ask(chains: &Chains, receipt: &Receipt) -> Result<(), String> {
    let nodes = nodes_on(chains, receipt.chain)?;
    for rpc in &nodes {
        has(rpc, receipt)?;
    }
    Ok(())
}

fn has(rpc: &Rpc<'_>, receipt: &Receipt) -> Result<(), String> {
    let number = receipt.block_number;
    let block = rpc.block(At::Number(number)).map_err(|e| e.to_string())?;
    if block.is_none_or(|b| b.hash != receipt.block_hash) {
        return Err(format!(
            "{}: its block {number} is another one than {}",
            rpc.place(),
            receipt.block_hash
        ));
    }
    if let Ok(Some(last)) = rpc.block(At::Finalized)
        && last.number < number
    {
        return Err(format!("{}: its block {number} is not final yet", rpc.place()));
    }
    // The state as it is now: an anchor stays, and few nodes know what was.
    let call = anchorsCall { hash: receipt.hash.0.into() }.abi_encode();
    let stored = rpc.call(receipt.contract, &call, At::Latest).map_err(|e| e.to_string())?;
    let stored = anchorsCall::abi_decode_returns(&stored).map_err(|e| e.to_string())?;
    let digest = alloy_primitives::keccak256(receipt.metadata.as_bytes());
    if (stored.submitter, stored.metadataDigest) == (receipt.sender, digest) {
        Ok(())
    } else {
        Err(format!("{}: the contract has no such anchor", rpc.place()))
    }
}
