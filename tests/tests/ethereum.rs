//! On chain: receipts, made from what a real node says, and checked without it.

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall as _;
use serde_json::json;
use std::time::Instant;
use waxseal_e2e::chain::{Anvil, CHAIN, account, is_there};
use waxseal_ethereum::contract::AuditTrail::{anchorHashCall, batchAnchorCall};
use waxseal_ethereum::evidence::{Wanted, collect};
use waxseal_ethereum::receipt::{About, Metadata, Receipt, ReceiptFault};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::json::to_canonical;
use waxseal_trail::time::Time;

fn about(n: u64) -> About {
    About {
        hash: sha256(&n.to_be_bytes()),
        origin: "example.com/audit/0123456789abcdef".to_owned(),
        size: 1000 + n,
        root: sha256(b"root"),
    }
}

fn metadata(n: u64, about: &About) -> String {
    let sealed = Time::parse_rfc3339("2026-11-27T21:59:59.987654321Z");
    let metadata = Metadata {
        checkpoint: n,
        first_sealed_at: sealed,
        last_sealed_at: sealed,
        origin: about.origin.clone(),
        size: about.size,
    };
    String::from_utf8(to_canonical(&metadata).unwrap()).unwrap()
}

fn call(n: u64) -> Vec<u8> {
    let about = about(n);
    anchorHashCall { hash: about.hash.0.into(), metadata: metadata(n, &about) }.abi_encode()
}

fn batch(of: std::ops::Range<u64>) -> Vec<u8> {
    let hashes = of.clone().map(|n| about(n).hash.0.into()).collect();
    batchAnchorCall { hashes, metadata: of.map(|n| metadata(n, &about(n))).collect() }.abi_encode()
}

fn receipt(anvil: &Anvil, contract: Address, n: u64, transaction: B256) -> Receipt {
    let wanted = Wanted { chain: CHAIN, contract, sender: account(1), about: &about(n) };
    collect(&anvil.rpc(), &wanted, transaction).unwrap().expect("it is mined")
}

/// Blocks with one transaction and with many of all kinds, single anchors and batches: each receipt proves itself, and no byte of it
/// can be another.
#[test]
fn receipts_prove_themselves() {
    if !is_there() {
        return;
    }
    let anvil = Anvil::start(&["--no-mining"]);
    let contract = anvil.deploy(account(0), account(1));
    let alone = anvil.send(account(1), Some(contract), &call(1));
    anvil.mine();
    let first = receipt(&anvil, contract, 1, alone);
    assert_eq!((first.transaction_index, first.log_index), (0, 0));
    let proven = first.check().unwrap();
    assert_eq!((proven.block_hash, proven.of), (first.block_hash, Some((1, 1))));
    assert_eq!(first.is_about(&about(1)).map(|m| m.checkpoint), Ok(1));

    // Many, of three kinds, some that make events and some that are reverted.
    let transfer = |from: usize, kind: &str| -> B256 {
        let mut t = json!({ "from": account(from), "to": account(3), "value": "0x1", "gas": "0x5208", "type": kind });
        if kind != "0x2" {
            t["gasPrice"] = json!("0x77359400");
        }
        anvil.ask("eth_sendTransaction", json!([t]))
    };
    for n in 0..140 {
        transfer([0, 2][n % 2], ["0x0", "0x1", "0x2"][n % 3]);
    }
    let batched = anvil.send(account(1), Some(contract), &batch(2..26));
    let second = anvil.send(account(1), Some(contract), &call(26));
    anvil.send(account(2), Some(contract), &call(27));
    anvil.mine();
    let of_batch = receipt(&anvil, contract, 25, batched);
    assert_eq!(of_batch.log_index, 23);
    assert_eq!(of_batch.check().unwrap().of, Some((25, 26)));
    let last = receipt(&anvil, contract, 26, second);
    assert!(last.transaction_index > 0);
    assert_eq!(last.check().unwrap().of, Some((26, 26)));
    assert!(last.proof.as_ref().is_some_and(|p| !p.receipt_before.is_empty() && p.state.is_some()));

    for (what, n, receipt) in [("alone", 1, &first), ("of a batch", 25, &of_batch), ("among 143", 26, &last)] {
        let bytes = receipt.to_bytes().unwrap();
        let start = Instant::now();
        let same = Receipt::parse(&bytes).unwrap();
        same.check().unwrap();
        println!("{what}: {} bytes, {:?} to check", bytes.len(), start.elapsed());
        assert_eq!(same, *receipt);
        let refused = |bad: &[u8]| {
            let Ok(bad) = Receipt::parse(bad) else { return true };
            // Whose block hash is the chain's, says the chain; what is anchored and by whom, the trail and the trust file.
            bad.check().is_err() || bad.block_hash != receipt.block_hash || bad.is_about(&about(n)).is_err()
        };
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                assert!(refused(&bad), "{what}: byte {at} ^ {flip}: {}", String::from_utf8_lossy(&bad));
            }
        }
        // Shorter, longer, and in another order.
        assert!(refused(&bytes[..bytes.len() - 1]));
        assert!(refused(&[&bytes[..], b"\n"].concat()));
        let pretty = serde_json::to_vec_pretty(receipt).unwrap();
        assert!(matches!(Receipt::parse(&pretty), Err(ReceiptFault::Form(_))));
    }
    let Hash(other) = sha256(b"other");
    let swapped = |change: &dyn Fn(&mut Receipt)| {
        let mut bad = last.clone();
        change(&mut bad);
        bad.check().map_err(|e| e.to_string())
    };
    let said = |r: Result<_, String>, what: &str| {
        let e = r.expect_err(what);
        assert!(e.contains(what), "{e} has {what}");
    };
    said(swapped(&|r| r.chain = 1), "for another chain");
    said(swapped(&|r| r.sender = account(2)), "its sender");
    said(swapped(&|r| r.contract = account(2)), "no event of the contract");
    said(swapped(&|r| r.hash = Hash(other)), "its hash");
    said(swapped(&|r| r.metadata.push(' ')), "its metadata");
    said(swapped(&|r| r.gas_used += 1), "gas_used");
    said(swapped(&|r| r.block_hash = other.into()), "its header");
    said(swapped(&|r| r.proof = None), "only the chain itself");
    let state = |change: &dyn Fn(&mut waxseal_ethereum::receipt::State)| {
        swapped(&|r| change(r.proof.as_mut().unwrap().state.as_mut().unwrap()))
    };
    said(state(&|s| s.sequence = 25), "anchor");
    said(state(&|s| s.count = 27), "sender");
    said(state(&|s| s.count = 25), "none of the sender's");
    said(state(&|s| s.authorized = false), "sender");
    // A transaction that was reverted anchors nothing.
    let reverted = anvil.send(account(1), Some(contract), &call(26));
    anvil.mine();
    let wanted = Wanted { chain: CHAIN, contract, sender: account(1), about: &about(26) };
    assert!(collect(&anvil.rpc(), &wanted, reverted).is_err());
    assert!(collect(&anvil.rpc(), &wanted, B256::ZERO).unwrap().is_none());
}
