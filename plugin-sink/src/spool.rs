//! The spool: what is acknowledged lies here, synced, until its batch is in the store.
//!
//! A directory of preallocated segments, each a header and then frames; a frame is one accepted chunk,
//! its records already chained. Frames are written in groups, one write and one sync a group.
//!
//! What a stop at any instruction means:
//! - during a write: the last frames are torn. Nobody was told that they are safe; recovery cuts them.
//! - between write and sync, or between sync and acknowledgement: whole frames that nobody was told of.
//!   Recovery keeps them, and their retry is recognised.
//! - during the creation of a segment: a file without a whole header, removed at recovery.
//!
//! A torn frame and a damaged one are told apart: record text has no NUL bytes, and what a torn write
//! leaves out reads as zeros to the end of a sector. A damaged frame is an error that names the segment,
//! since what it held may have been acknowledged.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use waxseal_store::disk::{self, Disk, File, Open};

/// The version of the segment format.
pub const VERSION: u32 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"WXSPOOL\n";
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"WXF1");
/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 44;
const TABLE_ENTRY: usize = 9;
const SECTOR: u64 = 512;
/// Preallocated bytes of a segment; a larger group of frames gets a segment of its own size.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// What a segment is called while it is copied.
const UNFINISHED: &str = "tmp";
/// No group is larger than this; recovery refuses to believe a length beyond it.
const MAX_FRAME: u64 = 1 << 30;

/// What a record in the spool counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// An event from outside.
    Received,
    /// An event from outside that was none: `unparsed`.
    Unparsed,
    /// A record of the sink's own; for a `redelivery`, how many events were not sealed again.
    Own {
        /// Events.
        redelivered: u32,
    },
}

/// One record of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes of its text.
    pub len: u32,
    /// What it counts as.
    pub counted: Counted,
}

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The disk failed.
    #[error("the spool at {path}: cannot {operation}: {source}")]
    Disk {
        /// Which file or directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A frame whose bytes have changed since they were written.
    #[error(
        "spool segment {path} is damaged at byte {offset}: what was acknowledged from sequence {sequence} on may be \
         affected. Copy the state directory away before anything else; then restore the segment from a disk image, \
         or move the state directory aside to begin a new epoch"
    )]
    Damaged {
        /// Which segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// The first sequence that cannot be read.
        sequence: u64,
    },
    /// A segment of a later release.
    #[error("spool segment {path} has version {version}; this release reads version {VERSION}")]
    Newer {
        /// Which segment.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A sequence that no segment holds.
    #[error(
        "the spool at {path} does not hold sequence {sequence}, which is neither sealed nor anywhere else"
    )]
    Missing {
        /// The directory.
        path: PathBuf,
        /// Which.
        sequence: u64,
    },
}

/// Why a group of frames was not taken.
#[derive(Debug)]
pub enum AppendError {
    /// No room; nothing of it is in the spool.
    Full,
    /// The disk failed before the sync, and the spool is as it was.
    Retry(io::Error),
    /// A sync failed, or what was written could not be taken back: nothing more may be acknowledged until the
    /// spool has been opened and read again.
    Poisoned(io::Error),
}

impl From<AppendError> for io::Error {
    fn from(e: AppendError) -> io::Error {
        match e {
            AppendError::Full => io::ErrorKind::StorageFull.into(),
            AppendError::Retry(e) | AppendError::Poisoned(e) => e,
        }
    }
}

/// No room: of the disk, or of a quota.
pub(crate) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero)
}

/// Builds frames into one buffer.
#[derive(Debug, Default)]
pub struct Group {
    /// The frames' bytes.
    pub bytes: Vec<u8>,
    frame: usize,
    table: usize,
}

impl Group {
    /// An empty group in an empty buffer that has its memory already.
    pub fn reusing(bytes: Vec<u8>) -> Group {
        Group { bytes, frame: 0, table: 0 }
    }

    /// Begins a frame for `count` records.
    pub fn begin(&mut self, key: Option<&[u8; 32]>, first_sequence: u64, count: usize, filter_errors: u32) {
        self.frame = self.bytes.len();
        self.bytes.resize(self.frame + FRAME_HEADER, 0);
        let header = &mut self.bytes[self.frame..];
        header[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        header[12..16].copy_from_slice(&(count as u32).to_le_bytes());
        header[16..24].copy_from_slice(&first_sequence.to_le_bytes());
        header[32] = u8::from(key.is_some());
        header[36..40].copy_from_slice(&filter_errors.to_le_bytes());
        if let Some(key) = key {
            self.bytes.extend_from_slice(key);
        }
        self.table = self.bytes.len();
        self.bytes.resize(self.table + TABLE_ENTRY * count, 0);
    }

    /// Notes record `i` of the frame, whose text has just been appended to `bytes`.
    pub fn entry(&mut self, i: usize, entry: Entry) {
        let at = self.table + TABLE_ENTRY * i;
        let (kind, extra) = match entry.counted {
            Counted::Received => (0, 0),
            Counted::Unparsed => (1, 0),
            Counted::Own { redelivered } => (2, redelivered),
        };
        let slot = &mut self.bytes[at..at + TABLE_ENTRY];
        slot[..4].copy_from_slice(&entry.len.to_le_bytes());
        slot[4] = kind;
        slot[5..9].copy_from_slice(&u32::to_le_bytes(extra));
    }

    /// Ends the frame. `synced`: everything below this sequence is known to be durable.
    pub fn end(&mut self, synced: u64) {
        let body = &self.bytes[self.frame + FRAME_HEADER..];
        let (len, crc) = (body.len() as u32, crc32fast::hash(body));
        let header = &mut self.bytes[self.frame..self.frame + FRAME_HEADER];
        header[4..8].copy_from_slice(&len.to_le_bytes());
        header[8..12].copy_from_slice(&crc.to_le_bytes());
        header[24..32].copy_from_slice(&synced.to_le_bytes());
        let crc = crc32fast::hash(&header[..40]);
        header[40..44].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A frame read back.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The sequence of its first record.
    pub first_sequence: u64,
    /// Below this everything was durable when it was written.
    pub synced: u64,
    /// What recognises its redelivery.
    pub key: Option<[u8; 32]>,
    /// Events of it that a filter failed on.
    pub filter_errors: u32,
    /// Its records.
    pub entries: Vec<Entry>,
    /// Their text, one after the other.
    pub text: Vec<u8>,
    /// All its bytes in the segment.
    pub length: u64,
}

impl Frame {
    /// The sequence after its last record.
    pub fn end(&self) -> u64 {
        self.first_sequence + self.entries.len() as u64
    }
}

struct Head {
    body: usize,
    crc: u32,
    count: usize,
    first_sequence: u64,
    synced: u64,
    keyed: bool,
    filter_errors: u32,
}

fn parse_head(h: &[u8]) -> Option<Head> {
    let u32_at = |i: usize| h.get(i..i + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let u64_at = |i: usize| Some(u64::from(u32_at(i)?) | u64::from(u32_at(i + 4)?) << 32);
    let whole = h.get(..40).map(crc32fast::hash)? == u32_at(40)? && u32_at(0)? == FRAME_MAGIC;
    let keyed = h[32] == 1;
    let head = Head {
        body: u32_at(4)? as usize,
        crc: u32_at(8)?,
        count: u32_at(12)? as usize,
        first_sequence: u64_at(16)?,
        synced: u64_at(24)?,
        keyed,
        filter_errors: u32_at(36)?,
    };
    let least = head.count.checked_mul(TABLE_ENTRY)?.checked_add(if keyed { 32 } else { 0 })?;
    (whole && head.body as u64 <= MAX_FRAME && head.body >= least).then_some(head)
}

enum Found {
    Frame(Frame),
    /// Zeros, or nothing more.
    End,
    /// Bytes that are no whole frame.
    Bad,
}

fn read_full(file: &dyn File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; len];
    let mut at = 0;
    while at < len {
        match file.read_at(&mut out[at..], offset + at as u64)? {
            0 => break,
            n => at += n,
        }
    }
    out.truncate(at);
    Ok(out)
}

/// The body of the frame at `offset`, if it is as its header says.
fn read_body(file: &dyn File, offset: u64, head: &Head) -> io::Result<Option<Vec<u8>>> {
    let body = read_full(file, offset + FRAME_HEADER as u64, head.body)?;
    Ok((body.len() == head.body && crc32fast::hash(&body) == head.crc).then_some(body))
}

fn read_frame(file: &dyn File, offset: u64) -> io::Result<Found> {
    let head_bytes = read_full(file, offset, FRAME_HEADER)?;
    if head_bytes.iter().all(|b| *b == 0) {
        return Ok(Found::End);
    }
    let Some(head) = parse_head(&head_bytes) else { return Ok(Found::Bad) };
    let Some(mut body) = read_body(file, offset, &head)? else { return Ok(Found::Bad) };
    let key_len = if head.keyed { 32 } else { 0 };
    let key = head.keyed.then(|| {
        let mut k = [0; 32];
        k.copy_from_slice(&body[..32]);
        k
    });
    let table_end = key_len + TABLE_ENTRY * head.count;
    let entries: Vec<Entry> = body[key_len..table_end]
        .chunks(TABLE_ENTRY)
        .map(|e| Entry {
            len: u32::from_le_bytes([e[0], e[1], e[2], e[3]]),
            counted: match e[4] {
                0 => Counted::Received,
                1 => Counted::Unparsed,
                _ => Counted::Own { redelivered: u32::from_le_bytes([e[5], e[6], e[7], e[8]]) },
            },
        })
        .collect();
    let text: u64 = entries.iter().map(|e| u64::from(e.len)).sum();
    if text != (body.len() - table_end) as u64 {
        return Ok(Found::Bad);
    }
    let length = (FRAME_HEADER + body.len()) as u64;
    body.drain(..table_end);
    let Head { first_sequence, synced, filter_errors, .. } = head;
    Ok(Found::Frame(Frame { first_sequence, synced, key, filter_errors, entries, text: body, length }))
}

/// Whether what lies at `offset` is a write that never finished: a whole sector's rest, or everything to the
/// end of what was written, reads as zeros. No frame holds eight zeros before a sector's end otherwise.
fn looks_torn(file: &dyn File, offset: u64, end: u64) -> io::Result<bool> {
    let head = read_full(file, offset, FRAME_HEADER)?;
    let frame_end = match parse_head(&head) {
        Some(h) => (offset + (FRAME_HEADER + h.body) as u64).min(end),
        // Its header is not whole: that is one sector, or the part of one up to a boundary.
        None => (offset + FRAME_HEADER as u64).min(end),
    };
    if head.len() < FRAME_HEADER {
        return Ok(true);
    }
    let bytes = read_full(file, offset, usize::try_from(frame_end - offset).unwrap_or(0))?;
    let mut from = offset;
    while from < frame_end {
        let to = ((from / SECTOR + 1) * SECTOR).min(frame_end);
        let part = &bytes[(from - offset) as usize..((to - offset) as usize).min(bytes.len())];
        let zeros = part.iter().rev().take_while(|b| **b == 0).count();
        if zeros == part.len() || zeros >= 8 {
            return Ok(true);
        }
        from = to;
    }
    // The text ends before the frame says it does: the file is shorter.
    Ok(matches!(parse_head(&head), Some(h) if bytes.len() < FRAME_HEADER + h.body))
}

/// Whether a whole frame after `offset` says that what lies at `sequence` was durable once.
fn was_durable(file: &dyn File, offset: u64, end: u64, sequence: u64) -> io::Result<bool> {
    const WINDOW: usize = 1 << 20;
    let magic = FRAME_MAGIC.to_le_bytes();
    let mut at = offset;
    while at < end {
        let bytes = read_full(file, at, WINDOW.min((end - at) as usize) + FRAME_HEADER)?;
        for i in 0..bytes.len().saturating_sub(FRAME_HEADER) {
            if bytes[i..i + 4] == magic
                && parse_head(&bytes[i..i + FRAME_HEADER]).is_some_and(|h| h.synced > sequence)
            {
                return Ok(true);
            }
        }
        at += WINDOW as u64;
    }
    Ok(false)
}

#[derive(Clone, Debug)]
struct Segment {
    number: u64,
    first_sequence: u64,
    bytes: u64,
}

struct Current {
    file: Box<dyn File>,
    offset: u64,
    capacity: u64,
}

/// The spool of one epoch. Owned by the thread that writes it.
pub struct Spool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    writer: String,
    max_bytes: u64,
    segments: VecDeque<Segment>,
    current: Option<Current>,
    next_number: u64,
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.seg"))
}

fn fault<'a>(path: &'a Path, operation: &'static str) -> impl Fn(io::Error) -> SpoolError + 'a {
    move |source| SpoolError::Disk { path: path.into(), operation, source }
}

/// What a segment's header says: its version and where its frames begin.
fn read_segment_header(file: &dyn File) -> io::Result<Option<(u32, u64, u64)>> {
    let head = read_full(file, 0, 28)?;
    if head.len() < 28 || &head[..8] != SEGMENT_MAGIC {
        return Ok(None);
    }
    let u32_at = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    let version = u32_at(8);
    let first = u64::from(u32_at(12)) | u64::from(u32_at(16)) << 32;
    let len = u32_at(20) as usize;
    if version != VERSION {
        return Ok(Some((version, first, 0)));
    }
    let writer = read_full(file, 28, len.min(256))?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..24]);
    crc.update(&writer);
    Ok((writer.len() == len && crc.finalize() == u32_at(24)).then_some((version, first, 28 + len as u64)))
}

/// Whether a file is a segment of a later release.
pub(crate) fn is_newer(disk: &dyn Disk, path: &Path) -> bool {
    let header = disk.open(path, Open::Read).and_then(|f| read_segment_header(&*f));
    matches!(header, Ok(Some((version, ..))) if version > VERSION)
}

fn list_segments(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> =
        disk.read_dir(dir)?.iter().filter_map(|(n, _)| n.strip_suffix(".seg")?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

impl Spool {
    /// Opens the spool of an epoch and reads it: `each` gets every whole frame, in order; from `from` on none may
    /// be missing. With `rewrite`, what is only in the last segment is written and synced anew, since after a
    /// failed sync the system may hold pages for durable that are not.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        writer: &str,
        max_bytes: u64,
        from: u64,
        rewrite: bool,
        each: &mut dyn FnMut(&Frame),
    ) -> Result<Spool, SpoolError> {
        let base = dir.parent().unwrap_or(dir);
        disk::create_dirs(&*disk, base, dir, true).map_err(fault(dir, "make the directory"))?;
        for (name, _) in disk.read_dir(dir).map_err(fault(dir, "list it"))? {
            let path = dir.join(name);
            if path.extension().is_some_and(|e| e == UNFINISHED) {
                disk.remove(&path).map_err(fault(&path, "remove it"))?;
            }
        }
        let mut numbers = list_segments(&*disk, dir).map_err(fault(dir, "list it"))?;
        if numbers.is_empty() {
            // Numbers begin anew: what was given back must not come back beside them when the machine stops.
            disk.sync_dir(dir).map_err(fault(dir, "sync it"))?;
        }
        let mut spool = Spool {
            disk: disk.clone(),
            dir: dir.into(),
            writer: writer.to_owned(),
            max_bytes,
            segments: VecDeque::new(),
            current: None,
            next_number: numbers.last().map_or(0, |n| n + 1),
        };
        // A stop may leave segments that nothing was written to: the last one is the last with a frame.
        while let [_, .., number] = numbers[..] {
            let path = segment_path(dir, number);
            if !is_empty_segment(&*disk, &path).map_err(fault(&path, "read it"))? {
                break;
            }
            disk.remove(&path).map_err(fault(&path, "remove it"))?;
            disk.sync_dir(dir).map_err(fault(dir, "sync it"))?;
            numbers.pop();
        }
        let mut next = from;
        // Where the frames of the last segment begin, if one of them is not stored yet.
        let mut again = None;
        for (i, number) in numbers.iter().enumerate() {
            let path = segment_path(dir, *number);
            let last = i + 1 == numbers.len();
            let file = disk.open(&path, Open::Write).map_err(fault(&path, "open it"))?;
            let header = read_segment_header(&*file).map_err(fault(&path, "read it"))?;
            let length = file.len().map_err(fault(&path, "look at it"))?;
            let (first_sequence, mut offset) = match header {
                Some((version, ..)) if version != VERSION => return Err(SpoolError::Newer { path, version }),
                Some((_, first, offset)) => (first, offset),
                // A stop while it was made: nothing was ever acknowledged in it.
                None if last && looks_torn_header(&*file).map_err(fault(&path, "read it"))? => {
                    disk.remove(&path).map_err(fault(&path, "remove it"))?;
                    disk.sync_dir(dir).map_err(fault(dir, "sync it"))?;
                    break;
                }
                None => return Err(SpoolError::Damaged { path, offset: 0, sequence: next }),
            };
            let begin = offset;
            loop {
                match read_frame(&*file, offset).map_err(fault(&path, "read it"))? {
                    Found::Frame(frame) => {
                        offset += frame.length;
                        if frame.first_sequence > next {
                            return Err(SpoolError::Missing { path: dir.into(), sequence: next });
                        }
                        next = next.max(frame.end());
                        // Older frames too: what they were must be recognised when it comes again.
                        each(&frame);
                        if last && frame.end() > from {
                            again = Some(begin);
                        }
                    }
                    Found::End => break,
                    Found::Bad => {
                        let torn = last
                            && looks_torn(&*file, offset, length).map_err(fault(&path, "read it"))?
                            && !was_durable(&*file, offset + 1, length, next)
                                .map_err(fault(&path, "read it"))?;
                        if !torn {
                            return Err(SpoolError::Damaged { path, offset, sequence: next });
                        }
                        break;
                    }
                }
            }
            // Cut what is torn and what was preallocated: the segment is complete now.
            if last && length > offset {
                file.set_len(offset).map_err(fault(&path, "cut it"))?;
            }
            file.sync().map_err(fault(&path, "sync it"))?;
            spool.segments.push_back(Segment { number: *number, first_sequence, bytes: offset.min(length) });
        }
        if let Some(begin) = again.filter(|_| rewrite) {
            spool.rewrite(begin)?;
        }
        Ok(spool)
    }

    /// Writes the last segment's frames, which begin at `begin`, into a new one. It gets its name when it is whole: a
    /// part of a copy would hide what only the original has.
    fn rewrite(&mut self, begin: u64) -> Result<(), SpoolError> {
        let Some(old) = self.segments.back().cloned() else { return Ok(()) };
        let old_path = segment_path(&self.dir, old.number);
        let path = segment_path(&self.dir, self.next_number);
        let unfinished = path.with_extension(UNFINISHED);
        // Of exactly its size, whatever the spool may take: these bytes are there already.
        let header = self.segment_header(old.first_sequence);
        let capacity = header.len() as u64 + old.bytes.saturating_sub(begin);
        let from = self.disk.open(&old_path, Open::Write).map_err(fault(&old_path, "open it"))?;
        let made = (|| -> io::Result<()> {
            let file = self.disk.open(&unfinished, Open::Create)?;
            file.allocate(capacity)?;
            disk::write_all_at(&*file, &header, 0)?;
            copy_frames(&*from, begin..old.bytes, &*file, header.len() as u64)?;
            file.sync()?;
            self.disk.rename(&unfinished, &path, true)?;
            self.disk.sync_dir(&self.dir)
        })();
        match made {
            Ok(()) => {
                self.segments.pop_back();
                self.segments.push_back(Segment { number: self.next_number, bytes: capacity, ..old });
                self.next_number += 1;
                self.disk.remove(&old_path).map_err(fault(&old_path, "remove it"))?;
                self.disk.sync_dir(&self.dir).map_err(fault(&self.dir, "sync it"))
            }
            // No room for a second copy: the same bytes once more, in their own place.
            Err(e) if is_full(&e) => {
                let _ = self.disk.remove(&unfinished);
                copy_frames(&*from, begin..old.bytes, &*from, begin)
                    .and_then(|()| read_full(&*from, 0, usize::try_from(begin).map_err(io::Error::other)?))
                    .and_then(|header| disk::write_all_at(&*from, &header, 0))
                    .and_then(|()| from.sync())
                    .map_err(fault(&old_path, "write it again"))
            }
            Err(e) => {
                let _ = self.disk.remove(&unfinished);
                Err(fault(&path, "make it")(e))
            }
        }
    }

    /// Bytes that the spool takes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Writes and syncs a group of frames, of which the first record has `first_sequence`.
    ///
    /// # Errors
    /// [`AppendError`] says what may be done next.
    pub fn append(&mut self, group: &[u8], first_sequence: u64) -> Result<(), AppendError> {
        let fits = self.current.as_ref().is_some_and(|c| c.capacity - c.offset >= group.len() as u64);
        if !fits {
            self.new_segment(first_sequence, group.len() as u64)?;
        }
        let Some(current) = self.current.as_mut() else { return Err(AppendError::Full) };
        if let Err(e) = disk::write_all_at(&*current.file, group, current.offset) {
            // Take it back: a cut, and the cut synced, before anyone is told to try again.
            let back = current.file.set_len(current.offset).and_then(|()| current.file.sync());
            let full = is_full(&e);
            let capacity = current.offset;
            if let Some(s) = self.segments.back_mut() {
                s.bytes = capacity;
            }
            self.current = None;
            return Err(match back {
                Err(e) => AppendError::Poisoned(e),
                Ok(()) if full => AppendError::Full,
                Ok(()) => AppendError::Retry(e),
            });
        }
        current.file.sync().map_err(AppendError::Poisoned)?;
        current.offset += group.len() as u64;
        Ok(())
    }

    fn new_segment(&mut self, first_sequence: u64, need: u64) -> Result<(), AppendError> {
        let header = self.segment_header(first_sequence);
        let capacity = SEGMENT_BYTES.min(self.max_bytes / 4).max(header.len() as u64 + need);
        // The present segment's unused rest is given back.
        if let (Some(c), Some(s)) = (self.current.take(), self.segments.back_mut())
            && c.file.set_len(c.offset).is_ok()
        {
            s.bytes = c.offset;
        }
        if self.bytes() + capacity > self.max_bytes {
            return Err(AppendError::Full);
        }
        self.make_segment(first_sequence, &header, capacity)
    }

    fn segment_header(&self, first_sequence: u64) -> Vec<u8> {
        let writer = self.writer.as_bytes();
        let mut header = SEGMENT_MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&first_sequence.to_le_bytes());
        header.extend_from_slice(&(writer.len() as u32).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header);
        crc.update(writer);
        header.extend_from_slice(&crc.finalize().to_le_bytes());
        header.extend_from_slice(writer);
        header
    }

    fn make_segment(&mut self, first_sequence: u64, header: &[u8], capacity: u64) -> Result<(), AppendError> {
        let number = self.next_number;
        let path = segment_path(&self.dir, number);
        let made = (|| {
            let file = self.disk.open(&path, Open::Create)?;
            file.allocate(capacity)?;
            disk::write_all_at(&*file, header, 0)?;
            file.sync()?;
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        })();
        match made {
            Ok(file) => {
                self.next_number += 1;
                self.segments.push_back(Segment { number, first_sequence, bytes: capacity });
                self.current = Some(Current { file, offset: header.len() as u64, capacity });
                Ok(())
            }
            Err(e) => {
                let e: io::Error = e;
                // An empty segment is harmless where it stays; its number is not used again.
                self.next_number += 1;
                let _ = self.disk.remove(&path);
                Err(if is_full(&e) { AppendError::Full } else { AppendError::Retry(e) })
            }
        }
    }

    /// Removes the segments all of whose records are below `stored`; the last one only when `end`, the sequence of
    /// the next record, is not above it and little room is left in it: it might be the only one that fits. How many
    /// bytes that gave back.
    ///
    /// # Errors
    /// [`SpoolError::Disk`]; what is left over is removed another time.
    pub fn release(&mut self, stored: u64, end: u64) -> Result<u64, SpoolError> {
        let mut freed = 0;
        while self.releasable(stored, end) {
            let Some(first) = self.segments.front() else { break };
            let path = segment_path(&self.dir, first.number);
            match self.disk.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fault(&path, "remove it")(e)),
                _ => {}
            }
            freed += first.bytes;
            self.segments.pop_front();
            if self.segments.is_empty() {
                self.current = None;
            }
        }
        Ok(freed)
    }

    /// Whether [`Spool::release`] would remove something.
    pub fn releasable(&self, stored: u64, end: u64) -> bool {
        match (self.segments.front(), self.segments.get(1)) {
            (Some(_), Some(second)) => second.first_sequence <= stored,
            (Some(_), None) => {
                stored >= end && self.current.as_ref().is_none_or(|c| c.offset > c.capacity / 2)
            }
            (None, _) => false,
        }
    }
}

/// Copies whole frames from one file to a place in another, or to their own. What is read now is checked now: after a
/// failed sync the system may have dropped what an earlier reading still saw.
fn copy_frames(
    from: &dyn File,
    range: std::ops::Range<u64>,
    to: &dyn File,
    mut offset: u64,
) -> io::Result<()> {
    let changed =
        || io::Error::new(io::ErrorKind::InvalidData, "its frames read otherwise than a moment ago");
    let mut at = range.start;
    while at < range.end {
        let header = read_full(from, at, FRAME_HEADER)?;
        let head = parse_head(&header).ok_or_else(changed)?;
        let body = read_body(from, at, &head)?.ok_or_else(changed)?;
        disk::write_all_at(to, &header, offset)?;
        disk::write_all_at(to, &body, offset + FRAME_HEADER as u64)?;
        at += (FRAME_HEADER + body.len()) as u64;
        offset += (FRAME_HEADER + body.len()) as u64;
    }
    if at == range.end { Ok(()) } else { Err(changed()) }
}

/// Whether a segment of this version has no frame, whole or torn.
fn is_empty_segment(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    let file = disk.open(path, Open::Read)?;
    match read_segment_header(&*file)? {
        Some((VERSION, _, offset)) => Ok(read_full(&*file, offset, FRAME_HEADER)?.iter().all(|b| *b == 0)),
        _ => Ok(false),
    }
}

fn looks_torn_header(file: &dyn File) -> io::Result<bool> {
    let bytes = read_full(file, 0, 28 + 256)?;
    Ok(bytes.len() < 28
        || bytes.iter().rev().take_while(|b| **b == 0).count() >= 8 && file_is_empty_after(file)?)
}

/// Whether there is no frame after a broken segment header.
fn file_is_empty_after(file: &dyn File) -> io::Result<bool> {
    Ok(!was_durable(file, 0, file.len()?, 0)?)
}

/// Reads durable frames while the spool is being written.
pub struct SpoolReader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment: Option<(u64, Box<dyn File>, u64)>,
}

impl SpoolReader {
    /// For the spool in `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> SpoolReader {
        SpoolReader { disk, dir: dir.into(), segment: None }
    }

    /// The frame that holds `sequence`, which must be durable.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn frame_with(&mut self, sequence: u64) -> Result<Frame, SpoolError> {
        let dir = self.dir.clone();
        // Ends at the last segment's end: every step goes on.
        loop {
            let (number, file, offset) = match self.segment.take() {
                Some(s) => s,
                None => self.find(sequence)?,
            };
            let path = segment_path(&dir, number);
            match read_frame(&*file, offset).map_err(fault(&path, "read it"))? {
                Found::Frame(frame) => {
                    self.segment = Some((number, file, offset + frame.length));
                    if frame.first_sequence > sequence {
                        return Err(SpoolError::Missing { path: dir, sequence });
                    }
                    if frame.end() > sequence {
                        return Ok(frame);
                    }
                }
                Found::End => {
                    let later = list_segments(&*self.disk, &dir)
                        .map_err(fault(&dir, "list it"))?
                        .into_iter()
                        .find(|n| *n > number);
                    let Some(next) = later else {
                        return Err(SpoolError::Missing { path: dir, sequence });
                    };
                    self.segment = match self.open(next) {
                        Ok(segment) => Some(segment),
                        // Released meanwhile: what is wanted lies in a later one.
                        Err(SpoolError::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                            None
                        }
                        Err(e) => return Err(e),
                    };
                }
                Found::Bad => return Err(SpoolError::Damaged { path, offset, sequence }),
            }
        }
    }

    fn open(&self, number: u64) -> Result<(u64, Box<dyn File>, u64), SpoolError> {
        let path = segment_path(&self.dir, number);
        let file = self.disk.open(&path, Open::Read).map_err(fault(&path, "open it"))?;
        match read_segment_header(&*file).map_err(fault(&path, "read it"))? {
            Some((VERSION, _, offset)) => Ok((number, file, offset)),
            _ => Err(SpoolError::Damaged { path, offset: 0, sequence: 0 }),
        }
    }

    /// The last segment that begins at or before `sequence`.
    fn find(&self, sequence: u64) -> Result<(u64, Box<dyn File>, u64), SpoolError> {
        let numbers = list_segments(&*self.disk, &self.dir).map_err(fault(&self.dir, "list it"))?;
        for number in numbers.into_iter().rev() {
            let path = segment_path(&self.dir, number);
            let file = match self.disk.open(&path, Open::Read) {
                // Removed meanwhile, or being made.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(fault(&path, "open it"))?,
            };
            if let Some((VERSION, first, offset)) =
                read_segment_header(&*file).map_err(fault(&path, "read it"))?
                && first <= sequence
            {
                return Ok((number, file, offset));
            }
        }
        Err(SpoolError::Missing { path: self.dir.clone(), sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waxseal_store::disk::RealDisk;

    fn group(first: u64, bytes: usize) -> Vec<u8> {
        let mut g = Group::default();
        g.begin(None, first, 1, 0);
        g.entry(0, Entry { len: bytes as u32, counted: Counted::Received });
        g.bytes.resize(g.bytes.len() + bytes, b'x');
        g.end(first);
        g.bytes
    }

    /// The last segment is given back too: else a segment that takes all that the spool may take would end it.
    #[test]
    fn a_spool_that_is_stored_takes_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let open = |from| Spool::open(Arc::new(RealDisk), &path, "a.b", 1 << 20, from, false, &mut |_| {});
        let mut spool = open(0).unwrap();
        for n in 0..4u64 {
            spool.append(&group(n, 900 << 10), n).unwrap();
            assert!(matches!(spool.append(&group(n + 1, 900 << 10), n + 1), Err(AppendError::Full)));
            assert_eq!(spool.release(n, n + 1).unwrap(), 0, "not stored yet");
            assert!(spool.release(n + 1, n + 1).unwrap() > 900 << 10);
            assert_eq!(spool.bytes(), 0);
        }
        spool.append(&group(4, 10), 4).unwrap();
        assert_eq!(spool.release(5, 5).unwrap(), 0, "there is room in it");
        drop(spool);
        assert!(open(4).is_ok());
    }

    /// A spool that fills its disk, or more than it may take now, is opened all the same.
    #[test]
    fn a_full_spool_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let open = |max_bytes, each: &mut dyn FnMut(&Frame)| {
            Spool::open(Arc::new(RealDisk), &path, "a.b", max_bytes, 0, true, each)
        };
        let mut spool = open(8 << 20, &mut |_| {}).unwrap();
        for n in 0..7 {
            spool.append(&group(n, 900 << 10), n).unwrap();
        }
        drop(spool);
        for _ in 0..3 {
            let mut seen = Vec::new();
            let spool = open(1 << 20, &mut |f| seen.push(f.first_sequence)).unwrap();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
            assert!(spool.bytes() < 7 << 20);
        }
    }
}
