//! The contract `AuditTrail` (`contracts/AuditTrail.sol`): its calls, its code, and where its storage has what.

use alloy_primitives::{Address, B256, Bytes, U256, b256, keccak256};
use alloy_sol_types::SolValue as _;

// Its documentation is that of the source.
#[allow(missing_docs, clippy::too_many_arguments)]
mod bindings {
    alloy_sol_types::sol!(
        #[sol(all_derives)]
        AuditTrail,
        "../contracts/AuditTrail.json"
    );
}
pub use bindings::AuditTrail;

/// keccak256 of the code that a chain holds once the contract is there: whatever has it does what the source says.
pub const CODE_HASH: B256 = b256!("7b2fbc41323452e1323bfd8de5e05314ebe6386a59c69b45967b20dba1392a3b");

/// The slot of `_anchors` (`storage` in AuditTrail.json).
const ANCHORS: u64 = 2;
/// The slot of `_senders`.
const SENDERS: u64 = 3;

/// What a transaction carries that makes a contract.
pub fn deployment(owner: Address, sender: Address) -> Bytes {
    let mut code = AuditTrail::BYTECODE.to_vec();
    code.extend((owner, sender).abi_encode_params());
    code.into()
}

/// Where storage has an anchor: the first of two slots.
pub fn anchor_slot(hash: &B256) -> B256 {
    keccak256((*hash, U256::from(ANCHORS)).abi_encode())
}

/// Where storage has the metadata's digest: the second.
pub fn digest_slot(hash: &B256) -> B256 {
    let first = U256::from_be_bytes(anchor_slot(hash).0);
    B256::from(first.wrapping_add(U256::from(1)))
}

/// Where storage has whether an account may write, and how many anchors it has written.
pub fn sender_slot(account: Address) -> B256 {
    keccak256((account, U256::from(SENDERS)).abi_encode())
}

/// An anchor, as the chain's state has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Time of its block, in seconds since 1970.
    pub timestamp: u64,
    /// Who wrote it.
    pub submitter: Address,
    /// How many anchors that account had written then, this one included.
    pub sequence: u64,
    /// keccak256 of the metadata.
    pub metadata_digest: B256,
}

impl Anchor {
    /// From its two slots; `None` if nothing is anchored there.
    pub fn from_slots(first: U256, second: U256) -> Option<Anchor> {
        // From the right: 40 bits, 160, 56.
        let bytes = first.to_be_bytes::<32>();
        let number = |b: &[u8]| b.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let timestamp = number(&bytes[27..]);
        (timestamp != 0).then(|| Anchor {
            timestamp,
            submitter: Address::from_slice(&bytes[7..27]),
            sequence: number(&bytes[..7]),
            metadata_digest: B256::from(second),
        })
    }

    /// Its first slot; `None` for numbers that do not fit.
    pub fn head(&self) -> Option<U256> {
        let fits = self.timestamp < 1 << 40 && self.sequence < 1 << 56;
        let submitter = U256::from_be_slice(self.submitter.as_slice());
        let head = U256::from(self.sequence) << 200 | submitter << 40 | U256::from(self.timestamp);
        fits.then_some(head)
    }
}

/// How many anchors an account has written, from its slot.
pub fn count_from_slot(slot: U256) -> u64 {
    // Beside whether it may write, in the lowest byte.
    U256::saturating_to(&(slot >> 8usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_has_its_hash() {
        assert_eq!(keccak256(&AuditTrail::DEPLOYED_BYTECODE), CODE_HASH);
    }
}
