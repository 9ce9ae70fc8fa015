//! How much privacy finds of a labelled corpus, and how much that it should not: beside Presidio's pattern recognisers where their
//! answers are given.
//!
//! `bench-privacy corpus.ndjson [presidio.ndjson]`: scripts/bench-privacy.sh makes both. Lines of the corpus are
//! `{"text", "kind", "secret"}`; of kind `decoy:…` nothing is to be found. Exits with 1 if a bar of docs/privacy.md is missed.

use std::collections::BTreeMap;
use std::process::ExitCode;
use waxseal_filter_testkit::{Native, converted, cpu, members};
use waxseal_privacy::Privacy;
use waxseal_trail::record::Events;
use waxseal_trail::time::Time;

#[derive(Default)]
struct Row {
    all: usize,
    ours: usize,
    theirs: usize,
    shown: Vec<String>,
}

/// Letters and digits alone: what is left of a secret if its separators are not.
fn bare(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let corpus = std::fs::read_to_string(args.next().expect("corpus.ndjson")).expect("readable");
    let presidio = args.next().map(|p| std::fs::read_to_string(p).expect("readable"));
    let lines: Vec<serde_json::Value> =
        corpus.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let theirs: Vec<serde_json::Value> = presidio
        .as_deref()
        .map(|t| t.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect())
        .unwrap_or_default();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let policy = dir.path().join("privacy.yaml");
    std::fs::write(&policy, "").expect("writable");
    let mut filter = Native::<Privacy>::load(&policy).expect("the policy is good");
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let (mut spent, mut bytes) = (0.0, 0);
    for (n, chunk) in lines.chunks(2000).enumerate() {
        let records: Vec<String> =
            chunk.iter().map(|l| serde_json::json!({"message": l["text"]}).to_string()).collect();
        let raw = converted(records.iter().map(String::as_str));
        let mut out = Events::default();
        let began = cpu();
        filter.in_sink(&raw, "", Time::MIN, &mut out);
        spent += cpu() - began;
        for (i, (line, member)) in chunk.iter().zip(members(&out)).enumerate() {
            let text = line["text"].as_str().expect("a text");
            bytes += text.len();
            let now = member["metadata"]["message"].as_str().expect("a message");
            let row = rows.entry(line["kind"].as_str().expect("a kind").to_owned()).or_default();
            row.all += 1;
            let spans = theirs.get(n * 2000 + i).and_then(|t| t["found"].as_array());
            let hit = match line["secret"].as_str() {
                Some(secret) => {
                    let at = text.find(secret).map(|b| text[..b].chars().count()).unwrap_or_default();
                    let end = at + secret.chars().count();
                    let covered = |a: &serde_json::Value| {
                        let place = |i: usize| a[i].as_u64().unwrap_or_default() as usize;
                        // Nine tenths of it.
                        let both = place(1).min(end).saturating_sub(place(0).max(at));
                        both * 10 >= (end - at) * 9
                    };
                    row.theirs += usize::from(spans.is_some_and(|s| s.iter().any(covered)));
                    !bare(now).contains(&bare(secret))
                }
                None => {
                    row.theirs += usize::from(spans.is_some_and(|s| !s.is_empty()));
                    now != text
                }
            };
            row.ours += usize::from(hit);
            if hit == line["secret"].is_null() && row.shown.len() < 5 {
                row.shown.push(text.chars().take(160).collect());
            }
        }
    }
    let share = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
    let there =
        |n: usize, of: usize| if theirs.is_empty() { "".into() } else { format!("{:.3} %", share(n, of)) };
    println!("| secrets | strings | found | Presidio |\n|---|---|---|---|");
    let mut good = true;
    let (mut decoys, mut wrong, mut wrong_there) = (0, 0, 0);
    for (kind, row) in &rows {
        if kind.starts_with("decoy:") {
            continue;
        }
        let least = if matches!(&**kind, "email" | "phone") { 99.0 } else { 99.9 };
        let met = share(row.ours, row.all) >= least;
        good &= met;
        println!(
            "| {kind} | {} | {:.3} %{} | {} |",
            row.all,
            share(row.ours, row.all),
            if met { "" } else { " (missed)" },
            there(row.theirs, row.all)
        );
    }
    println!("\n| decoys | strings | changed | Presidio |\n|---|---|---|---|");
    for (kind, row) in rows.iter().filter_map(|(k, r)| Some((k.strip_prefix("decoy:")?, r))) {
        println!(
            "| {kind} | {} | {:.3} % | {} |",
            row.all,
            share(row.ours, row.all),
            there(row.theirs, row.all)
        );
        decoys += row.all;
        wrong += row.ours;
        wrong_there += row.theirs;
    }
    good &= share(wrong, decoys) < 0.1;
    println!("| all | {decoys} | {:.3} % | {} |", share(wrong, decoys), there(wrong_there, decoys));
    println!(
        "\n{} strings, {} bytes each: {:.2} µs a string",
        lines.len(),
        bytes / lines.len(),
        spent * 1e6 / lines.len() as f64
    );
    if let Some(seconds) = theirs.last().and_then(|t| t["seconds"].as_f64()) {
        println!(
            "Presidio: {:.2} µs a string, {:.0} times as much",
            seconds * 1e6 / lines.len() as f64,
            seconds / spent
        );
    }
    for (kind, row) in rows.iter().filter(|(_, r)| !r.shown.is_empty()) {
        println!("\n{kind}:");
        row.shown.iter().for_each(|t| println!("  {}", t.replace('\n', "⏎")));
    }
    ExitCode::from(u8::from(!good))
}
