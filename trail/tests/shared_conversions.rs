//! The conversions of the shared conformance kit, where it lies beside the project.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::Read as _;
use waxseal_trail::record::{Converter, Events};

fn field(line: &serde_json::Value, name: &str) -> Vec<u8> {
    let b64 = |t: &str| data_encoding::BASE64.decode(t.as_bytes()).unwrap();
    let gz = |t: &str| {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&b64(t)[..]).read_to_end(&mut out).unwrap();
        out
    };
    match (&line[name], &line[format!("{name}_gzip")]) {
        (serde_json::Value::String(t), _) if name == "input" => b64(t),
        (serde_json::Value::String(t), _) => t.clone().into_bytes(),
        (_, serde_json::Value::String(t)) => gz(t),
        _ => panic!("neither {name} nor {name}_gzip"),
    }
}

#[test]
fn shared_records() {
    let kits = [
        concat!(env!("CARGO_MANIFEST_DIR"), "/../conformance"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/conformance"),
    ];
    for kit in kits {
        let Ok(text) = std::fs::read_to_string(format!("{kit}/records.jsonl")) else {
            println!("not there: {kit}/records.jsonl");
            continue;
        };
        let mut converter = Converter::default();
        let mut faults = 0;
        for (n, line) in text.lines().enumerate() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let (input, want) = (field(&line, "input"), field(&line, "record_members"));
            let mut events = Events::default();
            match line["kind"].as_str().unwrap() {
                "json" => converter.json(&input, &mut events),
                _ => converter.msgpack(&input, &mut events),
            }
            let got = events.members_json(0);
            if got != want {
                faults += 1;
                let show = |b: &[u8]| String::from_utf8_lossy(&b[..b.len().min(400)]).into_owned();
                println!("line {n}: {}\n  want {}\n  got  {}", show(&input), show(&want), show(&got));
            }
        }
        assert_eq!(faults, 0, "of {} in {kit}", text.lines().count());
        println!("{} conversions of {kit} agree", text.lines().count());
    }
}
