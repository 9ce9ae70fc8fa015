//! The file system as the spool and the local store need it: one small trait, so that tests can put a disk
//! behind it on which every call fails once and every crash loses what was not synced.
//!
//! Nothing outside this module touches a file that evidence depends on.

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading.
    Read,
    /// For reading and writing.
    Write,
    /// Exclusively created, mode 0600, for reading and writing.
    Create,
}

/// An open file.
pub trait File: Send + Sync {
    /// Reads at an offset; 0 at the end.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at an offset; may write less.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes content durable (`fdatasync`). After an error nothing may be assumed about any earlier write.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self) -> io::Result<()>;
    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space, which then reads as zeros.
    ///
    /// # Errors
    /// The system's.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Its length.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;
    /// Whether it is empty.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// The system's; `AlreadyExists` for [`Open::Create`] over anything.
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>>;
    /// Makes one directory, mode 0700 if `private`, else 0755; `AlreadyExists` if it is there.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, path: &Path, private: bool) -> io::Result<()>;
    /// Renames; replaces what is there only if `replace`.
    ///
    /// # Errors
    /// The system's; `AlreadyExists`.
    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file read-only (0444).
    ///
    /// # Errors
    /// The system's.
    fn set_read_only(&self, path: &Path) -> io::Result<()>;
    /// What tells a directory from every other one that ever lies at its path: device and inode.
    ///
    /// # Errors
    /// The system's.
    fn identity(&self, path: &Path) -> io::Result<(u64, u64)>;
    /// The names in a directory and whether each is itself a directory; unsorted.
    ///
    /// # Errors
    /// The system's.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(String, bool)>>;
}

/// Writes all of `data` from `offset` on.
///
/// # Errors
/// The system's; `WriteZero` if the disk takes nothing more.
pub fn write_all_at(file: &dyn File, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match file.write_at(data, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => {
                data = &data[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// Reads a whole file.
///
/// # Errors
/// The system's.
pub fn read_all(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let mut out = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    let mut at = 0;
    while at < out.len() {
        match file.read_at(&mut out[at..], at as u64)? {
            0 => break,
            n => at += n,
        }
    }
    out.truncate(at);
    Ok(out)
}

/// Makes `path` and what is missing between it and `base`, which exists; afterwards each entry on the way is durable,
/// those too that an earlier process made and did not come to sync.
///
/// # Errors
/// The system's.
pub fn create_dirs(disk: &dyn Disk, base: &Path, path: &Path, private: bool) -> io::Result<()> {
    let below = path.strip_prefix(base).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut parent = base.to_path_buf();
    for part in below.components() {
        let dir = parent.join(part);
        match disk.create_dir(&dir, private) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => disk.sync_dir(&parent)?,
        }
        parent = dir;
    }
    Ok(())
}

/// Replaces a file by `data` so that, whatever happens, either the old or the new content is there: temporary
/// name, sync, rename, sync of the directory.
///
/// # Errors
/// The system's; the old content then stands.
pub fn replace(disk: &dyn Disk, path: &Path, data: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    match disk.remove(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.open(&tmp, Open::Create)?;
    write_all_at(&*file, data, 0)?;
    file.sync()?;
    drop(file);
    disk.rename(&tmp, path, true)?;
    disk.sync_dir(path.parent().ok_or(io::ErrorKind::InvalidInput)?)
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile(OwnedFd);

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::pread(&self.0, &mut *buf, offset))?)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.0, buf, offset))?)
    }
    fn sync(&self) -> io::Result<()> {
        // Interrupted is no failure of the disk, everything else is.
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&self.0))?)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.0, len)?)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len)) {
            // Some file systems cannot; a sparse file then does, and the first write finds the disk full.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.set_len(len),
            other => Ok(other?),
        }
    }
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(rustix::fs::fstat(&self.0)?.st_size).unwrap_or(0))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let flags = match how {
            // A pipe under an object's name must not make a reader wait for ever.
            Open::Read => OFlags::RDONLY | OFlags::NONBLOCK,
            Open::Write => OFlags::RDWR,
            Open::Create => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let fd = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
        Ok(Box::new(RealFile(fd)))
    }
    fn create_dir(&self, path: &Path, private: bool) -> io::Result<()> {
        let mode = Mode::from_raw_mode(if private { 0o700 } else { 0o755 });
        Ok(rustix::fs::mkdir(path, mode)?)
    }
    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        if replace {
            return Ok(rustix::fs::rename(from, to)?);
        }
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty())?;
                Ok(rustix::fs::unlink(from)?)
            }
            other => Ok(other?),
        }
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlink(path)?)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fsync(&fd))?)
    }
    fn set_read_only(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::chmod(path, Mode::from_raw_mode(0o444))?)
    }
    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let m = std::fs::metadata(path)?;
        Ok((m.dev(), m.ino()))
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            // A name that is not UTF-8 cannot be a key; it is shown as it can be.
            out.push((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()));
        }
        Ok(out)
    }
}
