//! An Ethereum chain: `anvil`, started for a test, and what tests do with it that no user would.

use alloy_primitives::{Address, B256, Bytes, U64};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use waxseal_ethereum::contract::deployment;
use waxseal_ethereum::rpc::{Post, Rpc};

/// The chain's id.
pub const CHAIN: u64 = 31337;
/// The accounts that a new chain gives money to, and their keys: those of the mnemonic that everybody's tests have.
pub const ACCOUNTS: [(&str, &str); 4] = [
    (
        "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    ),
    (
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    ),
    (
        "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    ),
    (
        "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
        "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    ),
];

/// One of the accounts.
///
/// # Panics
/// If there are not so many.
pub fn account(n: usize) -> Address {
    ACCOUNTS[n].0.parse().expect("an address")
}

/// Posts with `ureq`.
#[derive(Clone)]
pub struct Posts(ureq::Agent);

impl Default for Posts {
    fn default() -> Posts {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        Posts(config.timeout_global(Some(Duration::from_secs(10))).build().into())
    }
}

impl Post for Posts {
    fn post(&self, url: &str, body: &[u8], limit: u64) -> Result<(u16, Vec<u8>), String> {
        let request = self.0.post(url).header("content-type", "application/json");
        let mut response = request.send(body).map_err(|e| e.to_string())?;
        let mut answer = Vec::new();
        let reader = response.body_mut().as_reader();
        reader.take(limit).read_to_end(&mut answer).map_err(|e| e.to_string())?;
        Ok((response.status().as_u16(), answer))
    }
}

/// A chain; it ends with this.
pub struct Anvil {
    child: Child,
    /// Where it answers.
    pub url: String,
    posts: Posts,
}

/// Whether there is an `anvil`; says so if not.
pub fn is_there() -> bool {
    let there = std::env::var_os("WAXSEAL_ANVIL").is_some();
    if !there {
        eprintln!("SKIPPED: no anvil on this machine (WAXSEAL_ANVIL), so no chain");
    }
    there
}

impl Anvil {
    /// A new chain.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(args: &[&str]) -> Anvil {
        let program = std::env::var_os("WAXSEAL_ANVIL").expect("asked before");
        let mut child = Command::new(program)
            .args(["--port", "0", "--threads", "1"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("anvil starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let says = |l: &String| l.starts_with("Listening on ");
        let line = lines.by_ref().map_while(Result::ok).find(says).expect("it says where it listens");
        // It must not wait for somebody to read what it says.
        std::thread::spawn(move || lines.for_each(drop));
        let url = format!("http://{}", line.trim_start_matches("Listening on ").trim());
        Anvil { child, url, posts: Posts::default() }
    }

    /// Its node.
    pub fn rpc(&self) -> Rpc<'_> {
        Rpc::new(&self.posts, &self.url)
    }

    /// Asks it.
    ///
    /// # Panics
    /// If it refuses.
    pub fn ask<T: serde::de::DeserializeOwned>(&self, method: &'static str, params: Value) -> T {
        self.rpc().ask(method, params).unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// Makes a block.
    pub fn mine(&self) {
        self.ask::<Value>("evm_mine", json!([]));
    }

    /// Makes so many blocks.
    pub fn mine_more(&self, count: u64) {
        self.ask::<Value>("anvil_mine", json!([format!("{count:#x}")]));
    }

    /// The newest block's number.
    pub fn height(&self) -> u64 {
        self.ask::<U64>("eth_blockNumber", json!([])).to()
    }

    /// Has a transaction sent by an account whose key the chain has.
    pub fn send(&self, from: Address, to: Option<Address>, data: &[u8]) -> B256 {
        let data = Bytes::copy_from_slice(data);
        let mut transaction = json!({ "from": from, "data": data, "gas": "0x2dc6c0" });
        if let Some(to) = to {
            transaction["to"] = json!(to);
        }
        let sent = self.ask("eth_sendTransaction", json!([transaction]));
        self.catch_up();
        sent
    }

    /// Waits until what was sent is in blocks, where it makes them by itself: it does so a little later.
    pub fn catch_up(&self) {
        if self.ask::<bool>("anvil_getAutomine", json!([])) {
            let empty = || {
                let status: Value = self.ask("txpool_status", json!([]));
                (status["pending"] == "0x0").then_some(())
            };
            self.wait("transactions are in blocks", empty);
        }
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// If it is not within a minute.
    pub fn wait<T>(&self, what: &str, mut is: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(t) = is() {
                return t;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The contract, made by the first account; a block is made for it where none are made by themselves.
    pub fn deploy(&self, owner: Address, sender: Address) -> Address {
        let hash = self.send(account(0), None, &deployment(owner, sender));
        if self.rpc().mined(hash).ok().flatten().is_none() {
            self.mine();
        }
        let created = || self.rpc().mined(hash).ok().flatten().and_then(|m| m.created);
        self.wait("the contract is made", created)
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a [`Liar`] lies about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// Blocks by their number have another hash.
    BlockHash,
    /// Accounts have sent more.
    Nonce,
    /// Everything is anchored, by somebody else.
    Anchored,
    /// Receipts have used more gas.
    Receipt,
    /// Blocks lack a transaction.
    Transactions,
    /// There are no events.
    Withhold,
    /// It is another chain.
    Chain,
}

/// A node that passes on what another says, but for one lie.
pub struct Liar {
    /// Where it answers.
    pub url: String,
    _stop: tokio::sync::watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Liar {
    /// In front of a chain.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(anvil: &Anvil, lie: Lies) -> Liar {
        use waxseal_anchor::serve::{Answer, Asked, bind, run};
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (target, posts) = (anvil.url.clone(), Posts::default());
        let answer = move |asked: Asked| -> Answer {
            let question: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            let (status, body) = posts.post(&target, &asked.body, 64 << 20).unwrap_or((502, Vec::new()));
            let mut said: Value = serde_json::from_slice(&body).unwrap_or_default();
            twist(lie, question["method"].as_str().unwrap_or_default(), &mut said["result"]);
            let mut answer = Answer::text(status, said.to_string());
            answer.kind = "application/json";
            answer
        };
        let listener = runtime.block_on(bind("liar", ([127, 0, 0, 1], 0).into())).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        runtime.spawn(run(listener, std::sync::Arc::new(answer), 1 << 20, Duration::from_secs(10), stopped));
        Liar { url, _stop: stop, runtime: Some(runtime) }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn twist(lie: Lies, method: &str, result: &mut Value) {
    let other = json!(B256::repeat_byte(0x11));
    match (lie, method) {
        (Lies::BlockHash, "eth_getBlockByNumber") if result.is_object() => result["hash"] = other,
        (Lies::Nonce, "eth_getTransactionCount") => *result = json!("0x77"),
        (Lies::Anchored, "eth_call") => {
            // Time, submitter, sequence and digest, each not zero.
            *result = json!(format!(
                "0x{}",
                "0000000000000000000000000000000000000000000000000000000000000001".repeat(4)
            ));
        }
        (Lies::Receipt, "eth_getTransactionReceipt") if result.is_object() => {
            result["gasUsed"] = json!("0x99999");
        }
        (Lies::Transactions, "eth_getBlockByHash") if result.is_object() => {
            // The header is as it should be; what is said to be in it is not.
            result["transactions"][0]["input"] = json!("0x00");
        }
        (Lies::Withhold, "eth_getLogs") => *result = json!([]),
        (Lies::Chain, "eth_chainId") => *result = json!("0x1"),
        _ => {}
    }
}
