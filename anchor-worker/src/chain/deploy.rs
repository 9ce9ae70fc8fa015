//! Makes the contract, once for each chain.

use super::{ChainError, Nodes, Sender, broadcast, fees, gwei, sign};
use alloy_primitives::{Address, B256, TxKind, U256};
use std::time::{Duration, Instant};
use waxseal_ethereum::contract::deployment;

/// What is made.
#[derive(Clone, Copy, Debug)]
pub struct Deployment {
    /// The chain's id.
    pub chain: u64,
    /// Decides who may write.
    pub owner: Address,
    /// May write.
    pub writer: Address,
    /// The most that a unit of gas may cost, in wei.
    pub max_fee: u128,
    /// The most of it that goes to whoever makes the block.
    pub max_priority_fee: u128,
    /// How long to wait for a block that has it.
    pub patience: Duration,
}

/// What was made.
#[derive(Clone, Copy, Debug)]
pub struct Deployed {
    /// Where.
    pub contract: Address,
    /// By which transaction.
    pub transaction: B256,
    /// In which block.
    pub block: u64,
    /// What it took of gas.
    pub gas: u64,
}

/// Makes a contract; `say` is told the transaction before it is sent.
///
/// # Errors
/// [`ChainError`].
pub fn deploy(
    nodes: &Nodes,
    sender: &Sender,
    what: &Deployment,
    say: &mut dyn FnMut(String),
) -> Result<Deployed, ChainError> {
    let open = nodes.open(None)?;
    let data = deployment(what.owner, what.writer);
    let from = sender.address();
    let fees = fees(&open, what.max_fee, what.max_priority_fee)?;
    let gas = open.first(|rpc| rpc.estimate(from, None, &data))?;
    let gas = gas.saturating_add(gas / 10);
    let (balance, cost) = (open.first(|rpc| rpc.balance(from))?, U256::from(gas) * U256::from(fees.max));
    if balance < cost {
        let (has, needs) = (super::ether(balance), super::ether(cost));
        let why = format!("account {from} has {has} of the chain's coin, and this may cost {needs}: fund it");
        return Err(ChainError::Operator(why));
    }
    let nonce = open.agreed("the account's nonce", |rpc| rpc.nonce(from))?;
    let (raw, hash) = sign(sender, what.chain, nonce, gas, TxKind::Create, &data, fees)?;
    let contract = from.create(nonce);
    say(format!(
        "transaction {hash}, at most {gas} gas at {} gwei; the contract will be {contract}",
        gwei(fees.max)
    ));
    broadcast(&open, &raw)?;
    let start = Instant::now();
    loop {
        // It is sent, and may be paid for: what fails now is asked again.
        if let Ok(Some(mined)) = open.mined(hash) {
            if !mined.status {
                return Err(ChainError::Operator(format!("transaction {hash} was reverted")));
            }
            // Its code is what it should be.
            if nodes.open(Some(contract)).is_ok_and(|with| with.failed.is_empty()) {
                let (block, gas) = (mined.block_number, mined.gas_used);
                return Ok(Deployed { contract, transaction: hash, block, gas });
            }
        }
        if start.elapsed() > what.patience {
            let why = format!(
                "transaction {hash} is in no block that all nodes have after {} s: look it up, and contract {contract}, before you try \
                 again",
                what.patience.as_secs()
            );
            return Err(ChainError::Operator(why));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
