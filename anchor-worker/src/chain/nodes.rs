//! The nodes of one chain: each has to be on it and know the contract; where one fails the next is asked, and where two say different
//! things nothing is believed.

use crate::http::Client;
use alloy_primitives::{Address, B256};
use waxseal_ethereum::contract::CODE_HASH;
use waxseal_ethereum::evidence::{EvidenceError, code_hash};
use waxseal_ethereum::rpc::{At, Block, Post, Rpc, RpcError, place};

/// Why nothing was done, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// No node can be used; each with its reason.
    #[error("no node can be used: {0}")]
    NoNode(String),
    /// A node.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// What a node says of a block.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// Nodes say different things.
    #[error("the nodes disagree on {what}: {said}")]
    Disagree {
        /// What they were asked.
        what: &'static str,
        /// Which said what.
        said: String,
    },
    /// Gas costs more than what may be spent.
    #[error("gas costs {now} wei now, and max_fee_gwei allows {cap}: waiting until it is cheaper")]
    FeeCap {
        /// Base and priority fee now, in wei.
        now: u128,
        /// The cap, in wei.
        cap: u128,
    },
    /// What an operator has to do something about; a text.
    #[error("{0}")]
    Operator(String),
}

impl ChainError {
    /// Whether somebody has lied, or two chains have the same id.
    pub fn is_alarm(&self) -> bool {
        matches!(
            self,
            ChainError::Disagree { .. } | ChainError::Evidence(EvidenceError::Contradiction { .. })
        )
    }
}

/// A node whose newest block is so many seconds older than another's is not asked.
const BEHIND: u64 = 300;

/// Posts JSON with the worker's client.
pub struct Poster(pub Client);

impl Post for Poster {
    fn post(&self, url: &str, body: &[u8], limit: u64) -> Result<(u16, Vec<u8>), String> {
        let answer = self.0.post(url, "application/json", body, limit);
        // What failed names the URL, and URLs carry keys.
        let short = |e: String| e.strip_prefix(&format!("{url}: ")).map_or_else(|| e.clone(), str::to_owned);
        let answer = answer.map_err(|e| short(e).replace(url, &place(url)))?;
        Ok((answer.status, answer.body))
    }
}

/// The nodes of a chain.
pub struct Nodes {
    poster: Poster,
    urls: Vec<String>,
    chain: u64,
}

/// Those that can be used now, and why the others cannot.
pub struct Open<'a> {
    /// The nodes, in the order of the configuration.
    pub nodes: Vec<Rpc<'a>>,
    /// One line for each other.
    pub failed: Vec<String>,
}

impl Nodes {
    /// These, which have to be on chain `chain`.
    pub fn new(http: Client, urls: Vec<String>, chain: u64) -> Nodes {
        Nodes { poster: Poster(http), urls, chain }
    }

    /// Those that can be used: on the chain, and with the contract's code where one is named.
    ///
    /// # Errors
    /// [`ChainError::NoNode`].
    pub fn open(&self, contract: Option<Address>) -> Result<Open<'_>, ChainError> {
        let mut open = Open { nodes: Vec::new(), failed: Vec::new() };
        let mut good = Vec::new();
        for url in &self.urls {
            let rpc = Rpc::new(&self.poster, url);
            match self.check(&rpc, contract) {
                Ok(time) => good.push((rpc, time)),
                Err(why) => open.failed.push(why),
            }
        }
        // One that no longer hears of new blocks answers as well as any.
        let newest = good.iter().map(|(_, time)| *time).max().unwrap_or(0);
        for (rpc, time) in good {
            match newest - time {
                behind if behind > BEHIND => {
                    open.failed.push(format!(
                        "{}: its newest block is {behind} s behind another node's",
                        rpc.place()
                    ));
                }
                _ => open.nodes.push(rpc),
            }
        }
        if open.nodes.is_empty() { Err(ChainError::NoNode(open.failed.join("; "))) } else { Ok(open) }
    }

    /// The time of its newest block, if it can be used.
    fn check(&self, rpc: &Rpc<'_>, contract: Option<Address>) -> Result<u64, String> {
        let id = rpc.chain_id().map_err(|e| e.to_string())?;
        if id != self.chain {
            return Err(format!("{}: it is on chain {id}, not {}", rpc.place(), self.chain));
        }
        let newest = rpc.block(At::Latest).map_err(|e| e.to_string())?;
        let newest = newest.ok_or_else(|| format!("{}: it has no blocks", rpc.place()))?.timestamp;
        let Some(contract) = contract else { return Ok(newest) };
        let code = code_hash(rpc, contract).map_err(|e| e.to_string())?;
        if code != CODE_HASH {
            let there =
                if code == alloy_primitives::KECCAK256_EMPTY { "no contract" } else { "another contract" };
            return Err(format!(
                "{}: {there} is at {contract}; waxseal-anchor deploy-contract makes one",
                rpc.place()
            ));
        }
        Ok(newest)
    }
}

impl Open<'_> {
    /// What the first node says that answers.
    ///
    /// # Errors
    /// The last one's.
    pub fn first<T>(&self, ask: impl Fn(&Rpc<'_>) -> Result<T, RpcError>) -> Result<T, ChainError> {
        let mut last = None;
        for rpc in &self.nodes {
            match ask(rpc) {
                Ok(t) => return Ok(t),
                Err(e) => last = Some(e),
            }
        }
        Err(last.map_or(ChainError::NoNode(String::new()), ChainError::Rpc))
    }

    /// What all nodes say that answer.
    ///
    /// # Errors
    /// [`ChainError::Disagree`]; the last one's if none answers.
    pub fn agreed<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &'static str,
        ask: impl Fn(&Rpc<'_>) -> Result<T, RpcError>,
    ) -> Result<T, ChainError> {
        let mut last = None;
        let mut said: Vec<(String, T)> = Vec::new();
        for rpc in &self.nodes {
            match ask(rpc) {
                Ok(t) => said.push((rpc.place(), t)),
                Err(e) => last = Some(e),
            }
        }
        let Some((_, first)) = said.first() else {
            return Err(last.map_or(ChainError::NoNode(String::new()), ChainError::Rpc));
        };
        if said.iter().all(|(_, t)| t == first) {
            return Ok(said.swap_remove(0).1);
        }
        let said: Vec<String> = said.iter().map(|(place, t)| format!("{place}: {t:?}")).collect();
        Err(ChainError::Disagree { what, said: said.join("; ") })
    }

    /// Where a transaction was mined, by the first node that knows: whoever says so has to prove it.
    ///
    /// # Errors
    /// The last one's, if none answers.
    pub fn mined(&self, transaction: B256) -> Result<Option<waxseal_ethereum::rpc::Mined>, ChainError> {
        let mut answer = Err(ChainError::NoNode(String::new()));
        for rpc in &self.nodes {
            match rpc.mined(transaction) {
                Ok(Some(mined)) => return Ok(Some(mined)),
                Ok(None) => answer = Ok(None),
                Err(e) if answer.is_err() => answer = Err(e.into()),
                Err(_) => {}
            }
        }
        answer
    }

    /// Whether a block is the chain's: all nodes that have one of this number have this one, and at least one has; `None` if none
    /// has one of this number.
    ///
    /// # Errors
    /// [`ChainError::Disagree`], if one has another than another node.
    pub fn has_block(&self, number: u64, hash: B256) -> Result<Option<bool>, ChainError> {
        let mut said: Vec<(String, Block)> = Vec::new();
        let mut last = None;
        for rpc in &self.nodes {
            match rpc.block(At::Number(number)) {
                Ok(block) => said.extend(block.map(|b| (rpc.place(), b))),
                Err(e) => last = Some(e),
            }
        }
        let same = said.iter().filter(|(_, b)| b.hash == hash).count();
        match (said.len(), same) {
            (0, _) => last.map_or(Ok(None), |e| Err(e.into())),
            (_, 0) => Ok(Some(false)),
            (all, same) if all == same => Ok(Some(true)),
            _ => {
                let said: Vec<String> =
                    said.iter().map(|(place, b)| format!("{place}: {}", b.hash)).collect();
                Err(ChainError::Disagree { what: "a block", said: said.join("; ") })
            }
        }
    }

    /// Up to which block the chain is settled: `depth` behind the newest, or what it calls final without one. The least of what the
    /// nodes say.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn settled(&self, depth: Option<u64>) -> Result<u64, ChainError> {
        let mut least: Option<u64> = None;
        let mut last = None;
        for rpc in &self.nodes {
            let at = if depth.is_some() { At::Latest } else { At::Finalized };
            match rpc.block(at) {
                Ok(Some(block)) => {
                    // The block itself is its first confirmation.
                    let number = block.number.saturating_sub(depth.map_or(0, |d| d.saturating_sub(1)));
                    least = Some(least.map_or(number, |l| l.min(number)));
                }
                Ok(None) => {
                    let why = "it has no finalized block: set confirmations to a number";
                    return Err(ChainError::Operator(format!("{}: {why}", rpc.place())));
                }
                Err(e) => last = Some(e),
            }
        }
        least.ok_or_else(|| last.map_or(ChainError::NoNode(String::new()), ChainError::Rpc))
    }
}
