//! What is kept of transactions: each before it is sent, so that whoever comes after a crash sends the same again, and no other.

use crate::state::StateError;
use alloy_primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use waxseal_ethereum::receipt::Receipt;
use waxseal_store::disk::{self, Disk};
use waxseal_trail::hash::Hash;
use waxseal_trail::time::Time;

const VERSION: u64 = 1;

/// A signed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Its bytes (EIP-2718); none of one that was found on the chain.
    pub raw: Bytes,
    /// keccak256 of them.
    pub hash: B256,
    /// When it was signed.
    pub at: Time,
}

/// Checkpoints that one transaction anchors; the same with higher fees is the same one, for its nonce is mined once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// The account's nonce; none of one that was found on the chain.
    pub nonce: Option<u64>,
    /// The most gas that it may take.
    pub gas: u64,
    /// What it calls.
    pub data: Bytes,
    /// The checkpoints' numbers.
    pub checkpoints: Vec<u64>,
    /// The same transaction with ever higher fees.
    pub attempts: Vec<Attempt>,
    /// What proves that it was mined, one for each checkpoint; none before it was.
    #[serde(default)]
    pub receipts: Vec<Receipt>,
    /// Whether these are in the store.
    #[serde(default)]
    pub written: bool,
    /// Since when its nonce is taken and none of its transactions is known.
    #[serde(default)]
    pub gone: Option<Time>,
}

impl Sent {
    /// Whether a block has it.
    pub fn is_mined(&self) -> bool {
        !self.receipts.is_empty()
    }
}

/// What is known of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainState {
    /// Transactions that are not yet settled, the oldest first; only the last of them may be in no block.
    #[serde(default)]
    pub sent: Vec<Sent>,
    /// The highest checkpoint whose receipt is in the store.
    #[serde(default)]
    pub anchored: Option<u64>,
    /// The first checkpoint that was there when this chain was.
    #[serde(default)]
    pub first: Option<u64>,
    /// Checkpoints whose transaction came to nothing.
    #[serde(default)]
    pub again: BTreeSet<u64>,
    /// When something was last sent for the first time.
    #[serde(default)]
    pub last: Option<Time>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u64,
    trail: Hash,
    chain: u64,
    contract: Address,
    sender: Address,
    state: ChainState,
}

/// Where it lies: a file for each chain and contract.
pub struct ChainFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    trail: Hash,
    chain: u64,
    contract: Address,
    sender: Address,
}

impl ChainFile {
    /// In a directory that is there.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        trail: Hash,
        (chain, contract, sender): (u64, Address, Address),
    ) -> ChainFile {
        let path = dir.join(format!("ethereum-{chain}-{contract:x}.json"));
        ChainFile { disk, path, trail, chain, contract, sender }
    }

    /// Reads it; a fresh state if there is none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn load(&self) -> Result<ChainState, StateError> {
        let bytes = match disk::read_all(&*self.disk, &self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(ChainState::default()),
            Err(source) => return Err(StateError::Io { path: self.path.clone(), source }),
        };
        let unusable = |what: String| StateError::Chain { path: self.path.clone(), what };
        let file: File = serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
        if file.version != VERSION {
            return Err(unusable(format!("version {}; this worker knows {VERSION}", file.version)));
        }
        if file.trail != self.trail {
            return Err(unusable(format!("it is of trail {}", file.trail)));
        }
        let state = file.state;
        // What another account has sent, this one cannot send again; what is in a block needs nobody any more.
        if file.sender != self.sender && state.sent.iter().any(|s| !s.is_mined()) {
            let sender = file.sender;
            return Err(unusable(format!(
                "a transaction of account {sender} is under way: let that one end first"
            )));
        }
        Ok(state)
    }

    /// Writes it, durably, in the place of the one before.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn save(&self, state: &ChainState) -> Result<(), StateError> {
        let io = |source| StateError::Io { path: self.path.clone(), source };
        let ChainFile { trail, chain, contract, sender, .. } = *self;
        let file = File { version: VERSION, trail, chain, contract, sender, state: state.clone() };
        let bytes = serde_json::to_vec(&file).map_err(|e| io(e.into()))?;
        disk::replace(&*self.disk, &self.path, &bytes).map_err(io)
    }
}
