//! What a module exports, and all the `unsafe` there is: memory that a host reads and writes.
#![cfg_attr(target_family = "wasm", allow(unsafe_code))] // the host's memory interface; each block has its reason

use crate::event::Orders;
use crate::wire::{self, Reader};
use crate::{About, Configured, Filter, Record, Shipped};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use waxseal_trail::record::MEMBERS;
use waxseal_trail::time::Time;

/// A module's state. It has one thread.
pub struct Module<F> {
    filter: Option<F>,
    /// Where the configuration lies, and what it and its data were when they were read.
    config: PathBuf,
    seen: Vec<(PathBuf, Stamp)>,
    /// When the files were looked at, and how many records ago.
    looked: Duration,
    since: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    orders: Orders,
}

type Stamp = Option<(u64, Option<SystemTime>)>;

/// Whether files have changed is looked at every so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// And the clock every so many records: a look costs a call into the host.
const RECORDS: u32 = 64;

fn now() -> Duration {
    #[allow(clippy::disallowed_methods)] // the host's clock, by WASI
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn stamp(path: &Path) -> Stamp {
    let m = std::fs::metadata(path).ok()?;
    Some((m.len(), m.modified().ok()))
}

impl<F: Filter> Module<F> {
    /// With nothing read yet.
    pub const fn new() -> Module<F> {
        Module {
            filter: None,
            config: PathBuf::new(),
            seen: Vec::new(),
            looked: Duration::ZERO,
            since: 0,
            input: Vec::new(),
            output: Vec::new(),
            orders: Orders::new(),
        }
    }

    fn load(&mut self, config: &Path) -> Result<About, String> {
        let before = stamp(config);
        let began = now();
        let filter = F::load(config)?;
        let data = filter.data();
        // What has changed since it may have been read is read again at the next look.
        let read = |path: &Path| {
            stamp(path).filter(|(_, changed)| {
                let changed = changed.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
                changed.is_none_or(|t| {
                    t + Duration::from_secs(1) < began || t > began + Duration::from_secs(3600)
                })
            })
        };
        self.seen = data.iter().map(|(_, path)| (path.clone(), read(path))).collect();
        self.seen.push((config.to_owned(), before));
        self.config = config.to_owned();
        self.filter = Some(filter);
        Ok(About {
            name: F::NAME.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            fails_closed: F::FAILS_CLOSED,
            data,
        })
    }

    /// At a shipper's start: finds the configuration and reads it. In the sink, which says so in the environment, waits.
    pub fn start(&mut self) {
        if std::env::var_os("WAXSEAL_HOST").is_some() {
            return;
        }
        let file = format!("{}.yaml", F::NAME);
        let all = directories();
        let found = all.iter().map(|d| Path::new(d).join(&file)).find(|p| p.is_file());
        let result = match found {
            Some(path) => self.load(&path).map(|_| ()),
            None => Err(format!("no {file} in the accessible_paths {all:?}")),
        };
        if let Err(e) = result {
            eprintln!("waxseal {}: {e}", F::NAME);
            // The host does not start with a module that cannot be instantiated.
            std::process::abort();
        }
        self.looked = now();
    }

    /// Reads everything anew if a file has changed; what is broken leaves the old in force.
    fn look(&mut self) {
        self.since += 1;
        if self.since < RECORDS {
            return;
        }
        self.since = 0;
        let now = now();
        if now.saturating_sub(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = now;
        if self.seen.iter().all(|(path, seen)| stamp(path) == *seen) {
            return;
        }
        let config = self.config.clone();
        let stamps: Vec<_> = self.seen.iter().map(|(p, _)| (p.clone(), stamp(p))).collect();
        match self.load(&config) {
            Ok(_) => eprintln!("waxseal {}: {} and its data were read anew", F::NAME, config.display()),
            Err(e) => {
                self.seen = stamps;
                eprintln!("waxseal {}: what was read before stays in force: {e}", F::NAME);
            }
        }
    }

    /// One record of Fluent Bit's. The answer, which ends with a NUL, is valid until the next call.
    pub fn record(&mut self, tag: &[u8], sec: u32, nsec: u32, record: &[u8]) -> &[u8] {
        self.look();
        self.output.clear();
        if record.is_empty() {
            self.output.extend_from_slice(
                b"{\"message\":\"waxseal: a record did not fit into the filter's memory\"}",
            );
        } else {
            self.filtered(tag, sec, nsec, record);
        }
        self.output.push(0);
        &self.output
    }

    fn filtered(&mut self, tag: &[u8], sec: u32, nsec: u32, record: &[u8]) {
        self.output.shrink_to(1 << 20);
        let tag = String::from_utf8_lossy(tag);
        let time = Time::from_unix(i64::from(sec), nsec.min(999_999_999));
        let shipped = Shipped { tag: &tag, time, now: time.unwrap_or(Time::MIN), record };
        match &mut self.filter {
            Some(filter) => filter.shipped(&shipped, &mut self.orders, &mut self.output),
            None if F::FAILS_CLOSED => {
                crate::event::put_withheld(
                    F::NAME,
                    "it has no configuration",
                    record.len(),
                    &mut self.output,
                );
            }
            None => self.output.extend_from_slice(record),
        }
    }

    /// Memory for what the host hands over.
    pub fn buffer(&mut self, len: usize) -> &mut [u8] {
        // What was there is written over.
        self.input.truncate(len);
        self.input.shrink_to(len.max(1 << 20));
        self.input.resize(len, 0);
        &mut self.input
    }

    /// Reads the configuration whose path lies in the buffer; the answer is JSON ([`Configured`]).
    pub fn configure(&mut self) -> &[u8] {
        let path = String::from_utf8_lossy(&self.input).into_owned();
        let answer = match self.load(Path::new(&path)) {
            Ok(about) => Configured::Ready(about),
            Err(e) => Configured::Refused(e),
        };
        self.output.clear();
        self.output.extend(serde_json::to_vec(&answer).unwrap_or_default());
        &self.output
    }

    /// A chunk that lies in the buffer. `None` if it cannot be read.
    pub fn batch(&mut self) -> Option<&[u8]> {
        self.output.clear();
        self.output.shrink_to(4 << 20);
        self.run_batch()?;
        Some(&self.output)
    }

    fn run_batch(&mut self) -> Option<()> {
        let filter = self.filter.as_mut()?;
        let mut r = Reader::new(&self.input);
        let (count, flags) = (r.int()?, r.int()?);
        let now = Time::from_unix(r.long()?, r.int()?)?;
        let (source, text) = (r.int()? as usize, r.int()? as usize);
        let source = r.bytes(source)?;
        let text = r.bytes(text)?;
        let tag_of = |source: &[u8]| {
            let tag = crate::Value::first(source)?.get("tag")?.str()?;
            Some(tag.into_owned())
        };
        let tag = tag_of(source).unwrap_or_default();
        for _ in 0..count {
            let mut members: [&[u8]; MEMBERS] = [&[]; MEMBERS];
            for m in &mut members {
                *m = text.get(r.int()? as usize..r.int()? as usize)?;
            }
            let own = text.get(r.int()? as usize..r.int()? as usize)?;
            let own = if own.is_empty() { None } else { tag_of(own) };
            let own_time = r.int()? & wire::OWN_TIME != 0;
            let record = Record {
                tag: own.as_deref().unwrap_or(&tag),
                now,
                members: &members,
                own_time,
                explain: flags & wire::EXPLAIN != 0,
            };
            filter.record(&record, &mut self.orders, &mut self.output);
        }
        Some(())
    }
}

impl<F: Filter> Default for Module<F> {
    fn default() -> Self {
        Module::new()
    }
}

/// None: no host hands any to what is no module.
#[cfg(not(target_family = "wasm"))]
fn directories() -> Vec<String> {
    Vec::new()
}

/// The directories that the host lets the module see, under the names by which it opens them.
#[cfg(target_family = "wasm")]
fn directories() -> Vec<String> {
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        fn fd_prestat_get(fd: u32, out: *mut [u32; 2]) -> u32;
        fn fd_prestat_dir_name(fd: u32, path: *mut u8, len: u32) -> u32;
    }
    let mut all = Vec::new();
    // The first three are the standard streams; WASI numbers the directories that follow without a gap.
    for fd in 3..1024 {
        let mut stat = [0; 2];
        // SAFETY: WASI writes the eight bytes of a `prestat` (tag, length of the name) there, or nothing.
        if unsafe { fd_prestat_get(fd, &mut stat) } != 0 {
            break;
        }
        let mut name = vec![0u8; stat[1] as usize];
        // SAFETY: WASI writes at most so many bytes there.
        if unsafe { fd_prestat_dir_name(fd, name.as_mut_ptr(), stat[1]) } == 0 {
            let end = name.iter().position(|c| *c == 0).unwrap_or(name.len());
            all.push(String::from_utf8_lossy(&name[..end]).into_owned());
        }
    }
    all
}

/// What the host wrote.
///
/// # Safety
/// `at` points at `len` bytes that stay as they are for as long as the slice is used, or is null.
#[cfg(target_family = "wasm")]
pub unsafe fn slice<'a>(at: *const u8, len: u32) -> &'a [u8] {
    if at.is_null() {
        return &[];
    }
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(at, len as usize) }
}

/// Where an answer lies, for the host: its address and its length.
pub fn place(answer: &[u8]) -> u64 {
    (answer.as_ptr() as u64) << 32 | answer.len() as u64
}

/// Makes a module of a [`Filter`].
#[macro_export]
macro_rules! export {
    ($filter:ty) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, missing_docs)] // the module's exports
        mod exports {
            use $crate::guest::{Module, place, slice};

            static mut MODULE: Module<$filter> = Module::new();

            fn module() -> &'static mut Module<$filter> {
                // SAFETY: a module has one thread, the host enters it once at a time, and nothing here calls itself.
                unsafe { &mut *(&raw mut MODULE) }
            }

            extern "C" fn start() {
                module().start();
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static START: extern "C" fn() = start;

            /// `u8 *(u8 *tag, u32 tag_len, u32 sec, u32 nsec, u8 *record, u32 len)`: Fluent Bit's `filter_wasm`, in its JSON format.
            #[unsafe(no_mangle)]
            extern "C" fn waxseal_filter(
                tag: *const u8,
                tag_len: u32,
                sec: u32,
                nsec: u32,
                record: *const u8,
                len: u32,
            ) -> *const u8 {
                // SAFETY: Fluent Bit copied tag and record to where these point, and waits for the answer.
                let (tag, record) = unsafe { (slice(tag, tag_len), slice(record, len)) };
                module().record(tag, sec, nsec, record).as_ptr()
            }

            #[unsafe(no_mangle)]
            extern "C" fn waxseal_abi() -> u32 {
                $crate::wire::VERSION
            }

            #[unsafe(no_mangle)]
            extern "C" fn waxseal_buffer(len: u32) -> *mut u8 {
                module().buffer(len as usize).as_mut_ptr()
            }

            #[unsafe(no_mangle)]
            extern "C" fn waxseal_configure() -> u64 {
                place(module().configure())
            }

            #[unsafe(no_mangle)]
            extern "C" fn waxseal_batch() -> u64 {
                module().batch().map_or(0, place)
            }
        }
    };
}
