//! The nodes of a chain, asked by JSON-RPC over whatever posts bytes.

use alloy_json_rpc::{Id, Request, Response, ResponsePayload};
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use alloy_rpc_types_eth::{EIP1186AccountProofResponse, Log};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The longest answer that is read, in bytes: a block with all its transactions.
const MAX_ANSWER: u64 = 64 << 20;
/// So many characters of what a node says are passed on.
const MAX_SAID: usize = 300;

/// What posts JSON and brings the answer.
pub trait Post: Send + Sync {
    /// Posts a body; brings the HTTP status and at most `limit` bytes.
    ///
    /// # Errors
    /// A text: no answer, or too long a one.
    fn post(&self, url: &str, body: &[u8], limit: u64) -> Result<(u16, Vec<u8>), String>;
}

/// Why a node has not answered what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// It cannot be reached, or does not speak JSON-RPC.
    #[error("{place}: {what}")]
    Unreachable {
        /// The node.
        place: String,
        /// What happened.
        what: String,
    },
    /// It refuses.
    #[error("{place}: {method}: {message} ({code})")]
    Refused {
        /// The node.
        place: String,
        /// What it was asked.
        method: &'static str,
        /// Its code.
        code: i64,
        /// Its words.
        message: String,
    },
}

impl RpcError {
    /// Whether it knows no such method.
    pub fn is_unknown_method(&self) -> bool {
        matches!(self, RpcError::Refused { code: -32601 | -32004, .. })
    }
}

/// Which block is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Latest,
    /// The newest that can no longer be replaced.
    Finalized,
    /// By its number.
    Number(u64),
}

impl At {
    fn text(self) -> String {
        match self {
            At::Latest => "latest".to_owned(),
            At::Finalized => "finalized".to_owned(),
            At::Number(n) => format!("{n:#x}"),
        }
    }
}

/// A block, as far as it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its hash.
    pub hash: B256,
    /// Its number.
    pub number: u64,
    /// Its time, in seconds since 1970.
    pub timestamp: u64,
    /// What a unit of gas costs at least, in wei; `None` before London.
    pub base_fee: Option<u128>,
}

/// Where a transaction was mined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mined {
    /// The block's hash.
    pub block_hash: B256,
    /// The block's number.
    pub block_number: u64,
    /// Whether it did what it should, or was reverted.
    pub status: bool,
    /// What it took of gas.
    pub gas_used: u64,
    /// The contract that it made.
    pub created: Option<Address>,
}

/// A node.
#[derive(Clone, Copy)]
pub struct Rpc<'a> {
    post: &'a dyn Post,
    url: &'a str,
}

impl<'a> Rpc<'a> {
    /// The node at a URL.
    pub fn new(post: &'a dyn Post, url: &'a str) -> Rpc<'a> {
        Rpc { post, url }
    }

    /// The node's name, for people: URLs carry keys.
    pub fn place(&self) -> String {
        place(self.url)
    }

    /// Asks.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn ask<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, RpcError> {
        // Whoever answers may say the URL, too.
        let gone =
            |what: String| RpcError::Unreachable { place: self.place(), what: redact(&what, self.url) };
        let request = Request::new(method, Id::Number(1), params);
        let body = serde_json::to_vec(&request).map_err(|e| gone(e.to_string()))?;
        let (status, answer) = self.post.post(self.url, &body, MAX_ANSWER).map_err(gone)?;
        // Nodes answer refusals with other statuses than 200, too.
        let response: Response<Value, Value> = serde_json::from_slice(&answer).map_err(|_| {
            gone(format!("it answers {status}, not in JSON-RPC: {}", said(&String::from_utf8_lossy(&answer))))
        })?;
        match response.payload {
            ResponsePayload::Success(value) => {
                serde_json::from_value(value).map_err(|e| gone(format!("{method}: its answer: {e}")))
            }
            ResponsePayload::Failure(e) => Err(RpcError::Refused {
                place: self.place(),
                method,
                code: e.code,
                message: redact(&said(&e.message), self.url),
            }),
        }
    }

    /// The chain's id.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn chain_id(&self) -> Result<u64, RpcError> {
        self.ask::<U64>("eth_chainId", json!([])).map(|n| n.to())
    }

    /// A block, without its transactions.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn block(&self, at: At) -> Result<Option<Block>, RpcError> {
        let found: Option<Value> = self.ask("eth_getBlockByNumber", json!([at.text(), false]))?;
        let Some(found) = found else { return Ok(None) };
        let block = || {
            let number = |name: &str| -> Option<u64> {
                serde_json::from_value::<U64>(found[name].clone()).ok().map(|n| n.to())
            };
            let base_fee = serde_json::from_value::<U128>(found["baseFeePerGas"].clone()).ok();
            Some(Block {
                hash: serde_json::from_value(found["hash"].clone()).ok()?,
                number: number("number")?,
                timestamp: number("timestamp")?,
                base_fee: base_fee.map(|f| f.to()),
            })
        };
        let what = || "eth_getBlockByNumber: its answer is no block".to_owned();
        block().map(Some).ok_or_else(|| RpcError::Unreachable { place: self.place(), what: what() })
    }

    /// A whole block, as it says it, by its hash.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn whole_block(&self, hash: B256) -> Result<Option<Value>, RpcError> {
        self.ask("eth_getBlockByHash", json!([hash, true]))
    }

    /// The receipts of a block's transactions, as it says them.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn block_receipts(&self, hash: B256) -> Result<Option<Vec<Value>>, RpcError> {
        self.ask("eth_getBlockReceipts", json!([hash]))
    }

    /// A transaction's receipt, as it says it.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn receipt(&self, transaction: B256) -> Result<Option<Value>, RpcError> {
        self.ask("eth_getTransactionReceipt", json!([transaction]))
    }

    /// Where a transaction was mined; `None` if it was not.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn mined(&self, transaction: B256) -> Result<Option<Mined>, RpcError> {
        let Some(found) = self.receipt(transaction)? else { return Ok(None) };
        let mined = || {
            let number = |name: &str| -> Option<u64> {
                serde_json::from_value::<U64>(found[name].clone()).ok().map(|n| n.to())
            };
            Some(Mined {
                block_hash: serde_json::from_value(found["blockHash"].clone()).ok()?,
                block_number: number("blockNumber")?,
                status: number("status")? == 1,
                gas_used: number("gasUsed")?,
                created: serde_json::from_value(found["contractAddress"].clone()).ok()?,
            })
        };
        let what = "eth_getTransactionReceipt: its answer is no receipt".to_owned();
        mined().map(Some).ok_or(RpcError::Unreachable { place: self.place(), what })
    }

    /// How many transactions an account has sent that were mined: the next nonce.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn nonce(&self, account: Address) -> Result<u64, RpcError> {
        self.ask::<U64>("eth_getTransactionCount", json!([account, "latest"])).map(|n| n.to())
    }

    /// What an account has, in wei.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn balance(&self, account: Address) -> Result<U256, RpcError> {
        self.ask("eth_getBalance", json!([account, "latest"]))
    }

    /// The code of a contract.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn code(&self, contract: Address, at: At) -> Result<Bytes, RpcError> {
        self.ask("eth_getCode", json!([contract, at.text()]))
    }

    /// Calls a contract, without a transaction.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn call(&self, contract: Address, data: &[u8], at: At) -> Result<Bytes, RpcError> {
        let call = json!({ "to": contract, "data": Bytes::copy_from_slice(data) });
        self.ask("eth_call", json!([call, at.text()]))
    }

    /// What a transaction will take of gas.
    ///
    /// # Errors
    /// [`RpcError`]: also why it would be reverted.
    pub fn estimate(&self, from: Address, to: Option<Address>, data: &Bytes) -> Result<u64, RpcError> {
        let call = match to {
            Some(to) => json!({ "from": from, "to": to, "data": data }),
            None => json!({ "from": from, "data": data }),
        };
        self.ask::<U64>("eth_estimateGas", json!([call])).map(|n| n.to())
    }

    /// What is usually given to whoever makes the block, in wei a unit of gas.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn priority_fee(&self) -> Result<u128, RpcError> {
        self.ask::<U128>("eth_maxPriorityFeePerGas", json!([])).map(|n| n.to())
    }

    /// Sends a signed transaction.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn send(&self, raw: &Bytes) -> Result<B256, RpcError> {
        self.ask("eth_sendRawTransaction", json!([raw]))
    }

    /// Events of a contract in blocks from `from` to `to`, by their topics.
    ///
    /// # Errors
    /// [`RpcError`]: many nodes refuse too many blocks at once.
    pub fn logs(
        &self,
        contract: Address,
        topics: &[Option<B256>],
        from: u64,
        to: At,
    ) -> Result<Vec<Log>, RpcError> {
        let filter = json!({
            "address": contract, "topics": topics, "fromBlock": format!("{from:#x}"), "toBlock": to.text(),
        });
        self.ask("eth_getLogs", json!([filter]))
    }

    /// A contract's account and some of its slots, with proofs (EIP-1186).
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn proof(
        &self,
        contract: Address,
        slots: &[B256],
        at: At,
    ) -> Result<EIP1186AccountProofResponse, RpcError> {
        self.ask("eth_getProof", json!([contract, slots, at.text()]))
    }
}

/// Scheme and host of a URL: the rest may be a secret.
pub fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}")
}

/// A text without those parts of a URL that may be keys.
fn redact(text: &str, url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let parts = rest.split(['/', '?', '&', '=', '#']).chain(user.split(':')).filter(|p| p.len() >= 6);
    parts.fold(text.to_owned(), |text, part| text.replace(part, "…"))
}

/// What a stranger says, in one line and not too long.
fn said(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MAX_SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_urls_are_not_said() {
        for (url, said) in [
            ("https://mainnet.example.com/v3/0123456789abcdef", "https://mainnet.example.com"),
            ("https://user:secret@node.example.com:8545/x?key=1", "https://node.example.com:8545"),
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ] {
            assert_eq!(place(url), said);
        }
    }

    #[test]
    fn nor_in_what_nodes_answer() {
        let url = "https://user:secret1@node.example.com/v3/0123456789abcdef?key=topsecret";
        for text in ["Cannot POST /v3/0123456789abcdef", "bad key topsecret", "user:secret1 is wrong"] {
            let said = redact(text, url);
            assert!(["0123456789abcdef", "topsecret", "secret1"].iter().all(|s| !said.contains(s)), "{said}");
        }
    }

    struct Says(u16, &'static str);

    impl Post for Says {
        fn post(&self, _: &str, body: &[u8], _: u64) -> Result<(u16, Vec<u8>), String> {
            let asked: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
            assert_eq!((asked["jsonrpc"].as_str(), asked["id"].as_u64()), (Some("2.0"), Some(1)));
            Ok((self.0, self.1.as_bytes().to_vec()))
        }
    }

    #[test]
    fn what_nodes_answer() {
        let ok = Says(200, r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#);
        assert_eq!(Rpc::new(&ok, "http://a/").chain_id(), Ok(1));
        let refused =
            Says(400, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no\nsuch method"}}"#);
        let error = Rpc::new(&refused, "http://a/").chain_id().expect_err("refused");
        assert!(error.is_unknown_method());
        assert_eq!(error.to_string(), "http://a: eth_chainId: no such method (-32601)");
        for bad in [
            Says(502, "<html>Bad gateway"),
            Says(200, r#"{"jsonrpc":"2.0","id":1,"result":"one"}"#),
            Says(200, r#"{"jsonrpc":"2.0","id":1}"#),
        ] {
            let error = Rpc::new(&bad, "http://a/").chain_id().expect_err("no answer");
            assert!(matches!(error, RpcError::Unreachable { .. }), "{error}");
        }
        // Neither mined nor an error.
        let none = Says(200, r#"{"jsonrpc":"2.0","id":1,"result":null}"#);
        assert_eq!(Rpc::new(&none, "http://a/").mined(B256::ZERO), Ok(None));
        assert_eq!(Rpc::new(&none, "http://a/").block(At::Latest), Ok(None));
    }
}
