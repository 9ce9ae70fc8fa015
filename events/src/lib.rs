//! The events object of a batch: Parquet in and out (FORMAT section 4).
//!
//! Records are written in row groups as they come, so a batch of any size costs the memory of one row
//! group and of what is already compressed. Reading goes through all columns in step, a few thousand rows
//! at a time. Only the low-level column API is used: Arrow would double the dependencies of a DaemonSet.

#![forbid(unsafe_code)]

mod pages;

use bytes::Bytes;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::column::reader::ColumnReader;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type, TypePtr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use waxseal_trail::hash::Hash;
use waxseal_trail::record::{Columns, STRING_COLUMNS};

/// A batch has at most this many records.
pub const MAX_RECORDS: u64 = 1_048_576;
/// Its records have at most this many bytes together.
pub const MAX_RECORD_BYTES: u64 = 256 << 20;
/// Its events object has at most this many bytes.
pub const MAX_OBJECT: u64 = 512 << 20;
/// And its columns, as they and their pages declare it, at most this many when they are decompressed: they repeat parts
/// of the record, and twice its limit is far more than they can need.
pub const MAX_UNCOMPRESSED: u64 = 2 * MAX_RECORD_BYTES + (64 << 20);

/// The column names, in order; field ids are 1 to 13.
pub const COLUMNS: [&str; 13] = [
    "record",
    "sequence",
    "timestamp",
    "event_id",
    "category",
    "event_type",
    "actor",
    "resource",
    "action",
    "result",
    "correlation_id",
    "session_id",
    "source_ip",
];

const BLOOM: [&str; 6] = ["event_id", "actor", "resource", "correlation_id", "session_id", "source_ip"];
/// Columns in which nearly every value is another.
const NO_DICTIONARY: [&str; 7] =
    ["record", "sequence", "timestamp", "event_id", "resource", "correlation_id", "session_id"];

/// Rows of a row group at most.
const GROUP_ROWS: usize = 8_192;
/// Bytes of records after which a row group is closed.
const GROUP_BYTES: usize = 4 << 20;

/// What is wrong with an events object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// Not Parquet, or broken within.
    #[error("no readable Parquet: {0}")]
    Parquet(#[from] ParquetError),
    /// Other columns than the page's.
    #[error("its columns are not those of FORMAT section 4: {0}")]
    Schema(String),
    /// Over a limit.
    #[error("it declares {what} of {found}; the limit is {limit}")]
    Limit {
        /// Which one.
        what: &'static str,
        /// What it declares.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Columns of different lengths.
    #[error("its columns have different lengths")]
    Ragged,
    /// Other rows in its row groups than in the whole: readers would not agree on what it holds.
    #[error("it declares {declared} rows, and its row groups {groups}")]
    Rows {
        /// Of the file.
        declared: i64,
        /// Of the row groups together.
        groups: u64,
    },
    /// Broken in a way that the Parquet library does not look for.
    #[error("no readable Parquet: the reader gave up: {0}")]
    Unreadable(String),
}

fn schema() -> Result<TypePtr, ParquetError> {
    let fields = COLUMNS
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let (physical, logical) = match i {
                1 => (Physical::INT64, None),
                2 => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
                _ => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            };
            let repetition = if i < 2 { Repetition::REQUIRED } else { Repetition::OPTIONAL };
            Type::primitive_type_builder(name, physical)
                .with_logical_type(logical)
                .with_repetition(repetition)
                .with_id(Some(i as i32 + 1))
                .build()
                .map(Arc::new)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Type::group_type_builder("waxseal").with_fields(fields).build().map(Arc::new)
}

fn properties(identity: &Identity<'_>) -> Result<WriterProperties, ParquetError> {
    let kv = |k: &str, v: String| KeyValue::new(format!("waxseal.{k}"), v);
    let mut p = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_created_by(identity.software.to_owned())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_bloom_filter_fpp(0.01)
        // Filters are folded down to what the rows need.
        .set_bloom_filter_max_ndv(GROUP_ROWS as u64)
        .set_key_value_metadata(Some(vec![
            kv("trail", identity.trail.to_string()),
            kv("writer", identity.writer.to_owned()),
            kv("batch", identity.batch.to_string()),
        ]));
    for name in NO_DICTIONARY {
        p = p.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    for name in BLOOM {
        p = p.set_column_bloom_filter_enabled(ColumnPath::from(name), true);
    }
    p = p.set_column_statistics_enabled(ColumnPath::from("record"), EnabledStatistics::None);
    Ok(p.build())
}

/// Which batch an events object is of.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The trail id.
    pub trail: &'a Hash,
    /// `<name>.<epoch>`
    pub writer: &'a str,
    /// The batch's number.
    pub batch: u64,
    /// Name and version of the writing software.
    pub software: &'a str,
}

/// Writes an events object.
pub struct Writer {
    file: SerializedFileWriter<Vec<u8>>,
    records: Vec<ByteArray>,
    sequences: Vec<i64>,
    timestamps: Vec<i64>,
    strings: [Strings; STRING_COLUMNS],
    bytes: usize,
}

/// The values of a string column, side by side: a column is gone through on its own, and values that lie in records
/// a kilobyte apart would each be fetched from far away.
#[derive(Default)]
struct Strings {
    text: Vec<u8>,
    ends: Vec<usize>,
    levels: Vec<i16>,
}

impl Strings {
    fn push(&mut self, value: Option<&[u8]>) {
        self.levels.push(i16::from(value.is_some()));
        if let Some(v) = value {
            self.text.extend_from_slice(v);
            self.ends.push(self.text.len());
        }
    }

    fn values(&mut self) -> Vec<ByteArray> {
        let capacity = self.text.capacity();
        let text = Bytes::from(std::mem::replace(&mut self.text, Vec::with_capacity(capacity)));
        let mut from = 0;
        self.ends
            .drain(..)
            .map(|to| {
                let value = ByteArray::from(text.slice(from..to));
                from = to;
                value
            })
            .collect()
    }
}

impl Writer {
    /// Begins an object.
    ///
    /// # Errors
    /// Only if the Parquet library refuses our own schema.
    pub fn new(identity: &Identity<'_>) -> Result<Writer, EventsError> {
        let properties = Arc::new(properties(identity)?);
        Ok(Writer {
            file: SerializedFileWriter::new(Vec::with_capacity(1 << 20), schema()?, properties)?,
            records: Vec::new(),
            sequences: Vec::new(),
            timestamps: Vec::new(),
            strings: Default::default(),
            bytes: 0,
        })
    }

    /// Adds the next record; `columns` are relative to it.
    ///
    /// # Errors
    /// As the Parquet library.
    pub fn push(&mut self, record: Bytes, sequence: u64, columns: &Columns) -> Result<(), EventsError> {
        for (i, column) in self.strings.iter_mut().enumerate() {
            match columns.get(&record, i) {
                None => column.push(None),
                Some(Ok((from, to))) => column.push(Some(&record[from as usize..to as usize])),
                Some(Err(rewritten)) => column.push(Some(&rewritten)),
            }
        }
        self.bytes += record.len();
        self.sequences.push(sequence as i64);
        self.timestamps.push(columns.timestamp_micros);
        self.records.push(ByteArray::from(record));
        if self.records.len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
            self.close_group()?;
        }
        Ok(())
    }

    fn close_group(&mut self) -> Result<(), EventsError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let present = vec![1i16; self.records.len()];
        let mut group = self.file.next_row_group()?;
        let mut at = 0;
        while let Some(mut column) = group.next_column()? {
            match (at, column.untyped()) {
                (0, ColumnWriter::ByteArrayColumnWriter(w)) => {
                    w.write_batch(&self.records, None, None)?;
                }
                (1, ColumnWriter::Int64ColumnWriter(w)) => {
                    w.write_batch(&self.sequences, None, None)?;
                }
                (2, ColumnWriter::Int64ColumnWriter(w)) => {
                    w.write_batch(&self.timestamps, Some(&present), None)?;
                }
                (_, ColumnWriter::ByteArrayColumnWriter(w)) => {
                    let column = &mut self.strings[at - 3];
                    w.write_batch(&column.values(), Some(&column.levels), None)?;
                }
                _ => return Err(EventsError::Schema(COLUMNS[at].to_owned())),
            }
            column.close()?;
            at += 1;
        }
        group.close()?;
        self.records.clear();
        self.sequences.clear();
        self.timestamps.clear();
        self.strings.iter_mut().for_each(|c| c.levels.clear());
        self.bytes = 0;
        Ok(())
    }

    /// The finished object.
    ///
    /// # Errors
    /// As the Parquet library.
    pub fn finish(mut self) -> Result<Vec<u8>, EventsError> {
        self.close_group()?;
        Ok(self.file.into_inner()?)
    }
}

/// Some rows of an events object.
#[derive(Debug, Default)]
pub struct Rows {
    /// The records' bytes.
    pub records: Vec<ByteArray>,
    /// Column `sequence`.
    pub sequences: Vec<i64>,
    /// Column `timestamp`.
    pub timestamps: Vec<Option<i64>>,
    /// The string columns, from `event_id` to `source_ip`.
    pub strings: [Vec<Option<ByteArray>>; STRING_COLUMNS],
}

/// Rows that are looked at together.
const STEP: usize = 4096;

/// Reads an events object.
pub struct Reader {
    file: SerializedFileReader<Bytes>,
}

impl Reader {
    /// Opens an object and holds it to the page's schema and limits, before anything is decompressed.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn new(object: Bytes) -> Result<Reader, EventsError> {
        limit("a size", object.len() as u64, MAX_OBJECT)?;
        let file = guarded(|| Ok(SerializedFileReader::new(object.clone())?))?;
        let meta = file.metadata();
        let descr = meta.file_metadata().schema_descr();
        let expected = schema()?;
        let fields = descr.root_schema().get_fields();
        if fields.len() != COLUMNS.len() {
            return Err(EventsError::Schema(format!("{} columns", fields.len())));
        }
        for (have, want) in fields.iter().zip(expected.get_fields()) {
            let same = have.is_primitive()
                && have.name() == want.name()
                && have.get_physical_type() == want.get_physical_type()
                && have.get_basic_info().repetition() == want.get_basic_info().repetition()
                && have.get_basic_info().logical_type_ref() == want.get_basic_info().logical_type_ref()
                && have.get_basic_info().has_id()
                && have.get_basic_info().id() == want.get_basic_info().id();
            if !same {
                return Err(EventsError::Schema(format!("column {:?}", have.name())));
            }
        }
        let rows = meta
            .row_groups()
            .iter()
            .try_fold(0u64, |n, g| u64::try_from(g.num_rows()).ok().and_then(|r| n.checked_add(r)));
        let rows = rows.unwrap_or(u64::MAX);
        limit("a number of rows", rows, MAX_RECORDS)?;
        let declared = meta.file_metadata().num_rows();
        if u64::try_from(declared) != Ok(rows) {
            return Err(EventsError::Rows { declared, groups: rows });
        }
        let size =
            meta.row_groups().iter().flat_map(|g| g.columns()).try_fold(0u64, |n, c| {
                u64::try_from(c.uncompressed_size()).ok().and_then(|r| n.checked_add(r))
            });
        limit("a size of uncompressed columns", size.unwrap_or(u64::MAX), MAX_UNCOMPRESSED)?;
        let mut pages = 0u64;
        for column in meta.row_groups().iter().flat_map(|g| g.columns()) {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let chunk = usize::try_from(start).ok().zip(usize::try_from(column.compressed_size()).ok());
            let chunk = chunk.and_then(|(at, n)| object.get(at..at.checked_add(n)?));
            let chunk = chunk.ok_or_else(|| EventsError::Unreadable("a column beyond its end".to_owned()))?;
            pages = pages.saturating_add(pages::declared(chunk)?);
            limit("a size of uncompressed pages", pages, MAX_UNCOMPRESSED)?;
        }
        Ok(Reader { file })
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.file.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// A `waxseal.*` string of the file's metadata.
    pub fn key_value(&self, name: &str) -> Option<&str> {
        let key = format!("waxseal.{name}");
        let list = self.file.metadata().file_metadata().key_value_metadata()?;
        list.iter().find(|kv| kv.key == key)?.value.as_deref()
    }

    /// The rows whose string column `name` (from `event_id` on) has this value; only that column is read.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn find(&self, name: &str, value: &[u8]) -> Result<Vec<u64>, EventsError> {
        let at = COLUMNS.iter().position(|c| *c == name).filter(|i| *i >= 3);
        let at = at.ok_or_else(|| EventsError::Schema(format!("no string column {name:?}")))?;
        guarded(|| {
            let (mut rows, mut base) = (Vec::new(), 0u64);
            for g in 0..self.file.num_row_groups() {
                let group = self.file.get_row_group(g)?;
                let ColumnReader::ByteArrayColumnReader(mut r) = group.get_column_reader(at)? else {
                    return Err(EventsError::Schema(name.to_owned()));
                };
                loop {
                    let (mut values, mut levels) = (Vec::new(), Vec::new());
                    let (n, ..) = r.read_records(STEP, Some(&mut levels), None, &mut values)?;
                    if n == 0 {
                        break;
                    }
                    let mut values = values.iter();
                    for (i, level) in levels.iter().enumerate() {
                        if *level > 0 && values.next().is_some_and(|v| v.data() == value) {
                            rows.push(base + i as u64);
                        }
                    }
                    base += n as u64;
                }
            }
            Ok(rows)
        })
    }

    /// Calls `each` with all rows, some thousand at a time, in order.
    ///
    /// # Errors
    /// [`EventsError`], or what `each` gives.
    pub fn read<E: From<EventsError>>(&self, mut each: impl FnMut(&Rows) -> Result<(), E>) -> Result<(), E> {
        for g in 0..self.file.num_row_groups() {
            let group = guarded(|| Ok(self.file.get_row_group(g)?))?;
            let mut columns = guarded(|| {
                let columns = (0..COLUMNS.len()).map(|c| Ok(group.get_column_reader(c)?));
                columns.collect::<Result<Vec<_>, EventsError>>()
            })?;
            let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let mut rows = Rows::default();
            while left > 0 {
                let step = left.min(STEP);
                guarded(|| read_step(&mut columns, step, &mut rows))?;
                each(&rows)?;
                left -= step;
            }
        }
        Ok(())
    }
}

/// Calls the Parquet library, which panics on some broken files: what it was reading is then given up.
fn guarded<T>(call: impl FnOnce() -> Result<T, EventsError>) -> Result<T, EventsError> {
    std::panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        Err(EventsError::Unreadable(text.to_owned()))
    })
}

fn limit(what: &'static str, found: u64, limit: u64) -> Result<(), EventsError> {
    if found > limit { Err(EventsError::Limit { what, found, limit }) } else { Ok(()) }
}

fn read_step(columns: &mut [ColumnReader], step: usize, rows: &mut Rows) -> Result<(), EventsError> {
    rows.records.clear();
    rows.sequences.clear();
    rows.timestamps.clear();
    rows.strings.iter_mut().for_each(Vec::clear);
    let mut levels: Vec<i16> = Vec::with_capacity(step);
    for (i, column) in columns.iter_mut().enumerate() {
        levels.clear();
        let read = match (i, column) {
            (0, ColumnReader::ByteArrayColumnReader(r)) => {
                r.read_records(step, None, None, &mut rows.records)?.0
            }
            (1, ColumnReader::Int64ColumnReader(r)) => {
                r.read_records(step, None, None, &mut rows.sequences)?.0
            }
            (2, ColumnReader::Int64ColumnReader(r)) => {
                let mut values = Vec::with_capacity(step);
                let n = r.read_records(step, Some(&mut levels), None, &mut values)?.0;
                let mut values = values.into_iter();
                rows.timestamps.extend(levels.iter().map(|l| if *l > 0 { values.next() } else { None }));
                n
            }
            (_, ColumnReader::ByteArrayColumnReader(r)) => {
                let mut values = Vec::with_capacity(step);
                let n = r.read_records(step, Some(&mut levels), None, &mut values)?.0;
                let mut values = values.into_iter();
                rows.strings[i - 3].extend(levels.iter().map(|l| if *l > 0 { values.next() } else { None }));
                n
            }
            _ => return Err(EventsError::Schema(COLUMNS[i].to_owned())),
        };
        if read != step {
            return Err(EventsError::Ragged);
        }
    }
    let whole = rows.records.len() == step
        && rows.sequences.len() == step
        && rows.timestamps.len() == step
        && rows.strings.iter().all(|s| s.len() == step);
    if whole { Ok(()) } else { Err(EventsError::Ragged) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waxseal_trail::record::{Checker, Converter, Events, Link, Template};
    use waxseal_trail::time::Time;

    #[test]
    fn what_goes_in_comes_out() {
        let trail = Hash::empty();
        let identity = Identity {
            trail: &trail,
            writer: "a.019bc11901007ca690a569ed3e38712f",
            batch: 7,
            software: "test",
        };
        let mut writer = Writer::new(&identity).unwrap();
        let (mut converter, mut events) = (Converter::default(), Events::default());
        let n = 20_000;
        for i in 0..n {
            let text = format!(
                r#"{{"actor":"u\"{i}","action":"read","ip_address":"10.0.0.{}","n":{i},"pad":"{}"}}"#,
                i % 250,
                "x".repeat(i % 300)
            );
            converter.json(text.as_bytes(), &mut events);
        }
        let template = Template::new(identity.writer);
        let mut checker = Checker::default();
        let mut all = Vec::new();
        for i in 0..n {
            let link = Link {
                sequence: i as u64,
                previous_hash: Hash::empty(),
                observed_at: Time::from_unix(1_700_000_000 + i as i64, 5).unwrap(),
                nonce: [7; 16],
                id_bits: [3; 10],
            };
            let mut record = Vec::new();
            let (columns, _) = template.assemble(&events, i, b"{\"intake\":\"http\"}", &link, &mut record);
            let view = checker.check(&record).unwrap();
            // What was noted on the way in is what a reader finds.
            for c in 0..STRING_COLUMNS {
                let text = |v: &Columns| {
                    v.get(&record, c).map(|r| match r {
                        Ok((a, b)) => record[a as usize..b as usize].to_vec(),
                        Err(v) => v,
                    })
                };
                assert_eq!(
                    text(&view.columns),
                    text(&columns),
                    "{c} of {}",
                    String::from_utf8_lossy(&record)
                );
            }
            assert_eq!(view.columns.timestamp_micros, columns.timestamp_micros);
            all.push(record.clone());
            writer.push(Bytes::from(record), i as u64, &columns).unwrap();
        }
        let object = Bytes::from(writer.finish().unwrap());
        let reader = Reader::new(object.clone()).unwrap();
        assert_eq!(reader.rows(), n as u64);
        assert_eq!(reader.key_value("batch"), Some("7"));
        let mut at = 0;
        reader
            .read::<EventsError>(|rows| {
                for (i, record) in rows.records.iter().enumerate() {
                    assert_eq!(record.data(), all[at]);
                    assert_eq!(rows.sequences[i], at as i64);
                    assert_eq!(rows.strings[3][i].as_ref().unwrap().data(), format!("u\"{at}").as_bytes());
                    assert!(rows.strings[4][i].is_none());
                    at += 1;
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(at, n);
        for cut in [0, 3, 11, object.len() / 2, object.len() - 1] {
            let cut = object.slice(..cut);
            assert!(Reader::new(cut).is_err());
        }
    }
}
