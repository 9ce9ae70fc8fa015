//! The worked example of docs/format.md, from the kit's good trail.

use bytes::Bytes;
use std::fmt::Write as _;
use std::path::Path;
use waxseal_events::{EventsError, Reader};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::{leaf_hash, node_hash, sha256};
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch};

/// The markers between which it stands.
pub const BEGIN: &str =
    "<!-- example begins: made by `cargo run -p waxseal-e2e --bin make-kit`, held by the tests -->\n";
/// The end.
pub const END: &str = "<!-- example ends -->";

/// The example's text.
///
/// # Panics
/// If the kit is not whole.
pub fn example(kit: &Path) -> String {
    let writer = "alpha.019bc143ba807752b89c195f9fa852d8";
    let read = |key: &str| std::fs::read(kit.join("good").join(key)).expect("the kit is whole");
    let mut out = String::new();
    let mut show = |key: &str| {
        let bytes = read(key);
        let e = Envelope::parse(&bytes).expect("the kit is good");
        let s = &e.signatures[0];
        let _ = write!(
            out,
            "`{key}`, {} bytes, SHA-256 `{}`. Payload type `{}`, key id `{}`, a signature of {} bytes over `DSSEv1 {} {} {} …`. Payload:\n\n```json\n{}\n```\n\nStatement hash `{}`.\n\n",
            bytes.len(),
            sha256(&bytes),
            e.payload_type,
            s.key,
            s.bytes.len(),
            e.payload_type.len(),
            e.payload_type,
            e.payload.len(),
            String::from_utf8_lossy(&e.payload),
            e.statement_hash()
        );
        e
    };
    show(name::TRAIL);
    show(&name::genesis_key(writer));
    let header = show(&name::batch_key(writer, 0));
    let header: Batch = statement::read(&header).expect("the kit is good");
    let object = header.object.as_ref().expect("it has records");
    let key = name::events_key(writer, 0, header.sealed_at, &object.sha256);
    let bytes = read(&key);
    let _ = write!(out, "`{key}`, {} bytes, SHA-256 `{}`. Its records:\n\n", bytes.len(), sha256(&bytes));
    let mut hashes = Vec::new();
    let reader = Reader::new(Bytes::from(bytes)).expect("the kit is good");
    reader
        .read::<EventsError>(|rows| {
            for r in &rows.records {
                hashes.push(leaf_hash(r.data()));
                let _ = write!(
                    out,
                    "```json\n{}\n```\n\n`H(record)` = `{}`, {} bytes.\n\n",
                    String::from_utf8_lossy(r.data()),
                    leaf_hash(r.data()),
                    r.data().len()
                );
            }
            Ok(())
        })
        .expect("the kit is good");
    let _ = writeln!(
        out,
        "`merkle_root` = SHA-256(0x01 ‖ `{}` ‖ `{}`) = `{}`.",
        hashes[0],
        hashes[1],
        node_hash(&hashes[0], &hashes[1])
    );
    out
}

/// `page` with the example in its place.
///
/// # Panics
/// If the page has no markers.
pub fn with_example(page: &str, kit: &Path) -> String {
    let from = page.find(BEGIN).expect("the page has its marker") + BEGIN.len();
    let to = page.find(END).expect("the page has its marker");
    format!("{}{}{}", &page[..from], example(kit), &page[to..])
}
