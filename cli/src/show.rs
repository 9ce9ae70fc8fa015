//! `waxseal show`

use crate::tree::read;
use crate::{Paint, open};
use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use std::io::Write as _;
use std::process::ExitCode;
use waxseal_events::{EventsError, Reader};
use waxseal_store::{Store, list_all_keys, oldest};
use waxseal_trail::hash::{leaf_hash, sha256};
use waxseal_trail::merkle::{inclusion_proof, verify_inclusion};
use waxseal_trail::name;
use waxseal_trail::statement::{Batch, BatchObject};

/// Show a record and where it is sealed: every match of an event id, or one WRITER:SEQUENCE
#[derive(Args)]
pub(crate) struct Show {
    /// The trail: file:///path, a directory, or s3://bucket/prefix
    trail: String,
    /// An event id (a UUID), or WRITER:SEQUENCE with the writer's name or its name and epoch
    #[arg(value_name = "EVENT_ID|WRITER:SEQUENCE")]
    what: String,
}

enum Wanted<'a> {
    Event(&'a str),
    Sequence(&'a str, u64),
}

impl Show {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let store = open(&self.trail)?;
        let wanted = match self.what.rsplit_once(':') {
            Some((writer, n)) => {
                Wanted::Sequence(writer, n.parse().with_context(|| format!("{n:?} is no sequence"))?)
            }
            None if self.what.len() == 36 => Wanted::Event(&self.what),
            None => bail!("{:?} is neither an event id (a UUID) nor WRITER:SEQUENCE", self.what),
        };
        let mut keys = Vec::new();
        list_all_keys(&*store, "batches/", &mut |k| keys.push(k))?;
        let paint = Paint::stdout();
        let mut found = 0;
        for key in keys {
            let writer = key.split('/').nth(1).unwrap_or_default();
            if let Wanted::Sequence(w, _) = wanted
                && w != writer
                && name::split_writer(writer).is_none_or(|(n, _)| n != w)
            {
                continue;
            }
            let Some(header) = read::<Batch>(&*store, &key) else {
                eprintln!("waxseal: {key}: no header that can be read; skipped");
                continue;
            };
            found += look(&*store, &key, &header, &wanted, &paint)?;
        }
        if found == 0 {
            eprintln!("waxseal: {}: not in this trail", self.what);
            return Ok(ExitCode::from(1));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The events object that a header names: its key and its bytes, which may be others than were sealed.
pub(crate) fn events_object(
    store: &dyn Store,
    header_key: &str,
    h: &Batch,
    object: &BatchObject,
) -> anyhow::Result<(String, Vec<u8>)> {
    let key = name::events_key(&h.writer, h.batch, h.sealed_at, &object.sha256);
    let named = |b: &[u8]| sha256(b) == object.sha256;
    let mut bytes = store.get(&key)?;
    if store.has_versions() && !bytes.as_deref().is_some_and(named) {
        // Behind something that was written later.
        bytes = oldest(store, &key, object.bytes, &named)?;
    }
    let bytes = bytes.ok_or_else(|| anyhow!("{key}: missing, and {header_key} names it"))?;
    Ok((key, bytes))
}

fn look(
    store: &dyn Store,
    header_key: &str,
    h: &Batch,
    wanted: &Wanted<'_>,
    paint: &Paint,
) -> anyhow::Result<u32> {
    let e = &h.events;
    let Some(object) = &h.object else { return Ok(0) };
    if let Wanted::Sequence(_, n) = wanted
        && !(e.first_sequence..e.first_sequence + e.count).contains(n)
    {
        return Ok(0);
    }
    let (key, bytes) = events_object(store, header_key, h, object)?;
    let intact = sha256(&bytes) == object.sha256;
    let reader = Reader::new(Bytes::from(bytes)).with_context(|| key.clone())?;
    let rows = match wanted {
        Wanted::Sequence(_, n) => vec![n - e.first_sequence],
        Wanted::Event(id) => reader.find("event_id", id.as_bytes())?,
    };
    if rows.is_empty() {
        return Ok(0);
    }
    let (mut leaves, mut records, mut at) = (Vec::new(), Vec::new(), 0u64);
    reader.read::<EventsError>(|step| {
        for r in &step.records {
            leaves.push(leaf_hash(r.data()));
            if rows.contains(&at) {
                records.push((at, r.data().to_vec()));
            }
            at += 1;
        }
        Ok(())
    })?;
    let mut out = std::io::stdout().lock();
    let mut shown = 0;
    for (row, record) in records {
        let index = usize::try_from(row)?;
        let path = inclusion_proof(&leaves, index).unwrap_or_default();
        let under_root = verify_inclusion(&leaves[index], row, e.count, &path, &e.merkle_root);
        let value: serde_json::Value = serde_json::from_slice(&record)?;
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        writeln!(
            out,
            "record    {} (sequence {}, {} bytes)",
            leaves[index],
            e.first_sequence + row,
            record.len()
        )?;
        writeln!(out, "batch     {header_key}, sealed {}, kept until {}", h.sealed_at, h.retain_until)?;
        writeln!(out, "object    {key}")?;
        let say = if intact && under_root {
            paint.good("the record is under the root that the header names")
        } else {
            paint.bad("the object or the record is NOT what the header names")
        };
        writeln!(out, "proof     {say} ({} hashes); signatures: waxseal verify\n", path.len())?;
        shown += 1;
    }
    Ok(shown)
}
