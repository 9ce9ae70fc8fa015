//! A disk for tests: it loses what was not synced, tears what was being written, and fails when told to.
//!
//! Each file has its durable content and the writes since its last sync; each directory its durable and its
//! present entries. [`SimDisk::reboot`] decides what of the rest survives.

use crate::disk::{Disk, File, Open};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happens at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and has no effect.
    Fail(Errno),
    /// The call fails but has had its effect (of a write: half of it).
    FailAfter(Errno),
    /// The machine stops before the call.
    CrashBefore,
    /// The machine stops right after the call.
    CrashAfter,
}

/// Which error a failing call gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// Input/output error.
    Io,
    /// No space left.
    Full,
}

/// What of the unsynced survives a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survive {
    /// Everything: the process was killed, the machine ran on.
    All,
    /// Nothing: the power failed.
    Nothing,
    /// Each unsynced sector and directory entry by the toss of a coin, from this seed.
    Torn(u64),
}

#[derive(Clone, Default)]
struct Inode {
    present: Vec<u8>,
    durable: Vec<u8>,
    /// Lengths and sectors touched since the last sync, in order.
    pending: Vec<(u64, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Dir,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    present: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    calls: u64,
    plan: Option<(u64, Fault)>,
    log: Vec<String>,
    crashed: bool,
    /// Bytes that files may hold in all; allocation counts.
    capacity: Option<u64>,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

const SECTOR: usize = 512;

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At call number `at` (from 0) `fault` happens, once.
    pub fn plan(&self, at: u64, fault: Fault) {
        self.state().plan = Some((at, fault));
    }

    /// How many calls there have been.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// What the calls were, for the report of a failing case.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// Whether the machine has stopped.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Limits the bytes that all files may hold; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Starts the machine again: what was durable is there, of the rest what `survive` says. No plan is left.
    pub fn reboot(&self, survive: Survive) {
        let mut s = self.state();
        let mut seed = match survive {
            Survive::Torn(seed) => seed | 1,
            _ => 1,
        };
        let mut toss = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed & 1 == 1
        };
        for inode in &mut s.inodes {
            match survive {
                Survive::All => inode.durable = inode.present.clone(),
                Survive::Nothing => {}
                Survive::Torn(_) => {
                    if toss() {
                        inode.durable.resize(inode.present.len(), 0);
                    }
                    for (offset, data) in std::mem::take(&mut inode.pending) {
                        let mut at = 0;
                        while at < data.len() {
                            let from = offset as usize + at;
                            let end = (from / SECTOR + 1) * SECTOR;
                            let n = (end - from).min(data.len() - at);
                            if toss() && from + n <= inode.durable.len() {
                                inode.durable[from..from + n].copy_from_slice(&data[at..at + n]);
                            }
                            at += n;
                        }
                    }
                }
            }
            inode.pending.clear();
            inode.present = inode.durable.clone();
        }
        match survive {
            Survive::All => s.durable = s.present.clone(),
            Survive::Nothing => s.present = s.durable.clone(),
            Survive::Torn(_) => {
                let mut paths: Vec<PathBuf> = s.present.keys().chain(s.durable.keys()).cloned().collect();
                paths.sort();
                paths.dedup();
                for path in paths {
                    let (now, then) = (s.present.get(&path).copied(), s.durable.get(&path).copied());
                    if now != then && toss() {
                        match now {
                            Some(e) => s.durable.insert(path, e),
                            None => s.durable.remove(&path),
                        };
                    }
                }
                s.present = s.durable.clone();
            }
        }
        s.plan = None;
        s.crashed = false;
    }

    /// A file's present content, past all faults.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let s = self.state();
        match s.present.get(path) {
            Some(Entry::File(i)) => Some(s.inodes[*i].present.clone()),
            _ => None,
        }
    }

    /// Changes a file behind everybody's back.
    pub fn poke(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut s = self.state();
        if let Some(Entry::File(i)) = s.present.get(path).copied() {
            let inode = &mut s.inodes[i];
            change(&mut inode.present);
            inode.durable = inode.present.clone();
        }
    }

    /// The files there are.
    pub fn files(&self) -> Vec<PathBuf> {
        let s = self.state();
        s.present.iter().filter(|(_, e)| **e != Entry::Dir).map(|(p, _)| p.clone()).collect()
    }

    /// Counts a call and lets the plan have its way.
    fn call<T>(&self, what: String, run: impl FnOnce(&mut State, bool) -> io::Result<T>) -> io::Result<T> {
        let mut s = self.state();
        let stopped = || io::Error::other("the machine has stopped");
        if s.crashed {
            return Err(stopped());
        }
        let n = s.calls;
        s.calls += 1;
        s.log.push(what);
        let error = |e| match e {
            Errno::Io => io::Error::from_raw_os_error(5),
            Errno::Full => io::Error::from_raw_os_error(28),
        };
        match s.plan {
            Some((at, fault)) if at == n => {
                s.plan = None;
                match fault {
                    Fault::Fail(e) => Err(error(e)),
                    Fault::FailAfter(e) => {
                        let _ = run(&mut s, true);
                        Err(error(e))
                    }
                    Fault::CrashBefore => {
                        s.crashed = true;
                        Err(stopped())
                    }
                    Fault::CrashAfter => {
                        let _ = run(&mut s, true);
                        s.crashed = true;
                        Err(stopped())
                    }
                }
            }
            _ => run(&mut s, false),
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.present
            .values()
            .map(|e| if let Entry::File(i) = e { self.inodes[*i].present.len() as u64 } else { 0 })
            .sum()
    }

    fn room(&self, inode: usize, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.inodes[inode].present.len() as u64);
        match self.capacity {
            Some(c) if more > 0 && self.used() + more > c => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        }
    }

    fn parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            None => Ok(()),
            Some(p) if p == Path::new("/") || p == Path::new("") => Ok(()),
            Some(p) if self.present.get(p) == Some(&Entry::Dir) => Ok(()),
            Some(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
    path: PathBuf,
}

impl SimFile {
    fn call<T>(
        &self,
        what: &str,
        run: impl FnOnce(&mut State, usize, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.call(format!("{what} {}", self.path.display()), |s, half| run(s, self.inode, half))
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call("read", |s, i, _| {
            let data = &s.inodes[i].present;
            let from = (offset as usize).min(data.len());
            let n = buf.len().min(data.len() - from);
            buf[..n].copy_from_slice(&data[from..from + n]);
            Ok(n)
        })
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.call("write", |s, i, half| {
            let data = if half { &buf[..buf.len() / 2] } else { buf };
            let end = offset as usize + data.len();
            s.room(i, end as u64)?;
            let inode = &mut s.inodes[i];
            if inode.present.len() < end {
                inode.present.resize(end, 0);
            }
            inode.present[offset as usize..end].copy_from_slice(data);
            inode.pending.push((offset, data.to_vec()));
            Ok(data.len())
        })
    }
    fn sync(&self) -> io::Result<()> {
        self.call("sync", |s, i, half| {
            // A failed sync may have written nothing and still have forgotten that there was something to
            // write: no later sync brings it back.
            let inode = &mut s.inodes[i];
            let pending = std::mem::take(&mut inode.pending);
            if !half {
                inode.durable.resize(inode.present.len(), 0);
                for (offset, data) in pending {
                    let from = (offset as usize).min(inode.durable.len());
                    let end = (from + data.len()).min(inode.durable.len());
                    inode.durable[from..end].copy_from_slice(&data[..end - from]);
                }
            }
            Ok(())
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call("set_len", |s, i, _| {
            s.room(i, len)?;
            let inode = &mut s.inodes[i];
            let old = inode.present.len();
            if old > len as usize {
                inode.pending.push((len, vec![0; old - len as usize]));
            }
            inode.present.resize(len as usize, 0);
            Ok(())
        })
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.call("allocate", |s, i, _| {
            s.room(i, len)?;
            if (s.inodes[i].present.len() as u64) < len {
                s.inodes[i].present.resize(len as usize, 0);
            }
            Ok(())
        })
    }
    fn len(&self) -> io::Result<u64> {
        self.call("len", |s, i, _| Ok(s.inodes[i].present.len() as u64))
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let inode = self.call(format!("open {how:?} {}", path.display()), |s, _| {
            s.parent(path)?;
            match (s.present.get(path).copied(), how) {
                (Some(_), Open::Create) => Err(io::ErrorKind::AlreadyExists.into()),
                (None, Open::Create) => {
                    s.inodes.push(Inode::default());
                    let i = s.inodes.len() - 1;
                    s.present.insert(path.into(), Entry::File(i));
                    Ok(i)
                }
                (Some(Entry::File(i)), _) => Ok(i),
                (Some(Entry::Dir), _) => Err(io::ErrorKind::IsADirectory.into()),
                (None, _) => Err(io::ErrorKind::NotFound.into()),
            }
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), inode, path: path.into() }))
    }
    fn create_dir(&self, path: &Path, _private: bool) -> io::Result<()> {
        self.call(format!("create_dir {}", path.display()), |s, _| {
            s.parent(path)?;
            if s.present.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            s.present.insert(path.into(), Entry::Dir);
            Ok(())
        })
    }
    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        self.call(format!("rename {} {}", from.display(), to.display()), |s, _| {
            s.parent(to)?;
            if !replace && s.present.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let entry = s.present.remove(from).ok_or(io::ErrorKind::NotFound)?;
            s.present.insert(to.into(), entry);
            Ok(())
        })
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(format!("remove {}", path.display()), |s, _| {
            s.present.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(format!("sync_dir {}", path.display()), |s, half| {
            if half {
                return Ok(());
            }
            let inside = |p: &Path| p.parent() == Some(path);
            let now: Vec<(PathBuf, Entry)> =
                s.present.iter().filter(|(p, _)| inside(p)).map(|(p, e)| (p.clone(), *e)).collect();
            s.durable.retain(|p, _| !inside(p));
            s.durable.extend(now);
            Ok(())
        })
    }
    fn set_read_only(&self, path: &Path) -> io::Result<()> {
        self.call(format!("set_read_only {}", path.display()), |s, _| {
            s.present.get(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.call(format!("stat {}", path.display()), |_, _| Ok((1, 1)))
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        self.call(format!("read_dir {}", path.display()), |s, _| {
            if path != Path::new("/") && s.present.get(path) != Some(&Entry::Dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(s.present
                .iter()
                .filter(|(p, _)| p.parent() == Some(path))
                .filter_map(|(p, e)| Some((p.file_name()?.to_string_lossy().into_owned(), *e == Entry::Dir)))
                .collect())
        })
    }
}
