//! The records of a batch against its header (FORMAT sections 2, 4 and 7).

use bytes::Bytes;
use waxseal_events::{COLUMNS, EventsError, Reader, Rows};
use waxseal_trail::hash::{Hash, leaf_hash};
use waxseal_trail::merkle::TreeHead;
use waxseal_trail::record::{Checker, STRING_COLUMNS};
use waxseal_trail::statement::Batch;
use waxseal_trail::time::Time;
use waxseal_trail::verdict::Verdict;

/// A fault within an events object whose digest is the header's.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) verdict: Verdict,
    /// The record, if it is about one.
    pub(crate) sequence: Option<u64>,
    pub(crate) detail: String,
}

impl From<EventsError> for Fault {
    fn from(e: EventsError) -> Fault {
        inconsistent(None, format!("signed, but {e}"))
    }
}

fn inconsistent(sequence: Option<u64>, detail: impl Into<String>) -> Fault {
    Fault { verdict: Verdict::Inconsistent, sequence, detail: detail.into() }
}

fn tampered(sequence: Option<u64>, detail: impl Into<String>) -> Fault {
    Fault { verdict: Verdict::Tampered, sequence, detail: detail.into() }
}

struct State<'h> {
    header: &'h Batch,
    checker: Checker,
    tree: TreeHead,
    last: Hash,
    next: u64,
    bytes: u64,
    span: Option<(Time, Time)>,
    observed: Option<(Time, Time)>,
}

/// Checks every record of a batch; returns the `observed_at` of the first and the last.
pub(crate) fn check(header: &Batch, object: Bytes) -> Result<Option<(Time, Time)>, Fault> {
    let reader = Reader::new(object)?;
    let e = &header.events;
    for (name, want) in [
        ("trail", header.trail.to_string()),
        ("writer", header.writer.clone()),
        ("batch", header.batch.to_string()),
    ] {
        if reader.key_value(name) != Some(&want) {
            return Err(inconsistent(None, format!("waxseal.{name} in the Parquet file is not {want}")));
        }
    }
    if reader.rows() != e.count {
        return Err(inconsistent(None, format!("{} rows, and the header counts {}", reader.rows(), e.count)));
    }
    let mut state = State {
        header,
        checker: Checker::default(),
        tree: TreeHead::default(),
        last: e.previous_hash,
        next: e.first_sequence,
        bytes: 0,
        span: None,
        observed: None,
    };
    reader.read::<Fault>(|rows| state.rows(rows))?;
    if state.next - e.first_sequence != e.count {
        return Err(inconsistent(None, "its row groups hold another number of rows than its footer says"));
    }
    if state.last != e.last_hash {
        return Err(tampered(None, "last_hash in the header is not the last record's"));
    }
    if state.tree.root() != e.merkle_root {
        return Err(tampered(None, "merkle_root in the header is not the records'"));
    }
    if state.bytes != e.record_bytes {
        return Err(inconsistent(
            None,
            format!("record_bytes is {}, and the records have {}", e.record_bytes, state.bytes),
        ));
    }
    if state.span != e.first_timestamp.zip(e.last_timestamp) {
        return Err(inconsistent(None, "first_timestamp and last_timestamp are not the records'"));
    }
    Ok(state.observed)
}

impl State<'_> {
    fn rows(&mut self, rows: &Rows) -> Result<(), Fault> {
        for i in 0..rows.records.len() {
            self.row(rows, i)?;
        }
        Ok(())
    }

    fn row(&mut self, rows: &Rows, i: usize) -> Result<(), Fault> {
        let record = rows.records[i].data();
        let want = self.next;
        let at = Some(want);
        let view =
            self.checker.check(record).map_err(|m| inconsistent(at, format!("a malformed record: {m}")))?;
        if view.previous_hash != self.last {
            return Err(tampered(at, "previous_hash is not the hash of the record before"));
        }
        if view.sequence != want {
            return Err(inconsistent(at, format!("the record's sequence is {}", view.sequence)));
        }
        if view.writer != self.header.writer {
            return Err(inconsistent(at, format!("the record's writer is {:?}", view.writer)));
        }
        if self.observed.is_some_and(|(_, last)| view.observed_at < last) {
            return Err(inconsistent(at, "observed_at goes back"));
        }
        if rows.sequences[i] != want as i64 {
            return Err(inconsistent(at, format!("column sequence says {}", rows.sequences[i])));
        }
        if rows.timestamps[i] != Some(view.columns.timestamp_micros) {
            return Err(inconsistent(at, "column timestamp is not the record's"));
        }
        for c in 0..STRING_COLUMNS {
            let have = rows.strings[c][i].as_ref().map(|v| v.data());
            let same = match view.columns.get(record, c) {
                None => have.is_none(),
                Some(Ok((from, to))) => have == Some(&record[from as usize..to as usize]),
                Some(Err(text)) => have == Some(&text[..]),
            };
            if !same {
                return Err(inconsistent(
                    at,
                    format!("column {} is not what the record says", COLUMNS[c + 3]),
                ));
            }
        }
        self.last = leaf_hash(record);
        self.tree.push(self.last);
        self.bytes += record.len() as u64;
        self.next += 1;
        let t = view.timestamp;
        self.span = Some(self.span.map_or((t, t), |(a, b)| (a.min(t), b.max(t))));
        let o = view.observed_at;
        self.observed = Some(self.observed.map_or((o, o), |(a, _)| (a, o)));
        Ok(())
    }
}
