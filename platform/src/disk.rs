//! A disk: one directory of files, read and written by blocks, completion-style.
//!
//! What it leaves to others: what the files mean, checksums, group commit. Invariants:
//! - what `open`, `remove`, `rename` and `write_file` have answered survives a power cut; data does after `flush`;
//! - after one failed flush a disk takes no more writes (see [`DiskError::Poisoned`]), reads go on;
//! - dropping a future neither stops nor undoes what the device has begun.

pub(crate) mod parts;
pub(crate) mod plain;
pub mod real;
pub(crate) mod uring;

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use crate::buffer::{BLOCK, Buffer};
use crate::sim::disk::{SimDisk, SimFile};
use real::{RealDisk, RealFile};

/// The file that [`Disk::try_lock`] locks; never listed.
pub(crate) const LOCK_NAME: &str = "lock";

/// A directory of files. Clones are handles on the same one.
#[derive(Clone)]
pub struct Disk {
    pub(crate) kind: DiskKind,
}

#[derive(Clone)]
pub(crate) enum DiskKind {
    Real(Rc<RealDisk>),
    Simulated(Rc<SimDisk>),
}

/// An open file. Clones are handles on the same one.
#[derive(Clone)]
pub struct File {
    pub(crate) kind: FileKind,
}

#[derive(Clone)]
pub(crate) enum FileKind {
    Real(Rc<RealFile>),
    Simulated(Rc<SimFile>),
}

/// What [`Disk::open`] expects to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// The file must be there, else [`DiskError::NotFound`].
    Existing,
    /// The file must not be there, else [`DiskError::AlreadyExists`].
    CreateNew,
    /// Either.
    CreateOrExisting,
}

/// Room on the device of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Size of the file system in bytes.
    pub total: u64,
    /// Bytes that may still be allocated.
    pub available: u64,
}

/// A disk operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// No such file.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// A file of that name is there already.
    #[error("{} exists already", path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// Another process (or another handle) has the directory: do not touch it.
    #[error("{} is locked by another process", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// No space left: free some, or write elsewhere.
    #[error("no space left for {op} of {}", path.display())]
    Full {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// An earlier flush failed, so nobody knows what the device holds: write elsewhere, repair, replace the disk.
    #[error("{} refuses {op} since a flush failed", path.display())]
    Poisoned {
        /// What was tried.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
    },
    /// The device or the file system failed.
    #[error("{op} of {} failed", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl DiskError {
    /// Sorts what the operating system answered into the variant that says what to do.
    pub(crate) fn from_io(op: &'static str, path: PathBuf, source: io::Error) -> DiskError {
        match source.raw_os_error() {
            Some(libc::ENOENT) => DiskError::NotFound { path },
            Some(libc::EEXIST) => DiskError::AlreadyExists { path },
            Some(libc::ENOSPC | libc::EDQUOT) => DiskError::Full { op, path },
            _ => DiskError::Io { op, path, source },
        }
    }
}

/// Calls the same method on whichever disk or file lies inside.
macro_rules! inside {
    ($kind:ident, $self:expr, $inner:ident => $call:expr) => {
        match &$self.kind {
            $kind::Real($inner) => $call,
            $kind::Simulated($inner) => $call,
        }
    };
}

impl Disk {
    /// The directory.
    pub fn path(&self) -> &Path {
        inside!(DiskKind, self, disk => &disk.path)
    }

    /// Takes the directory for this handle and its clones, until the last is dropped or the process ends.
    /// [`DiskError::Locked`] if another process or another handle has it.
    pub fn try_lock(&self) -> Result<(), DiskError> {
        inside!(DiskKind, self, disk => disk.try_lock())
    }

    /// Opens a file for reading and writing. A creation is durable before this returns.
    pub async fn open(&self, name: &str, mode: Open) -> Result<File, DiskError> {
        inside!(DiskKind, self, disk => disk.open(name, mode).await)
    }

    /// Names of the files, sorted; without `lock` and names that start with a dot.
    pub async fn list(&self) -> Result<Vec<String>, DiskError> {
        inside!(DiskKind, self, disk => disk.list().await)
    }

    /// Removes a file, durably. Handles on it stay usable.
    pub async fn remove(&self, name: &str) -> Result<(), DiskError> {
        inside!(DiskKind, self, disk => disk.remove(name).await)
    }

    /// Renames a file, durably and atomically; replaces `to` if it is there.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        inside!(DiskKind, self, disk => disk.rename(from, to).await)
    }

    /// The whole of a small file; `None` if it is absent.
    pub async fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        inside!(DiskKind, self, disk => disk.read_file(name).await)
    }

    /// Replaces a small file by `bytes`, atomically and durably: a crash leaves the old content or the new.
    pub async fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        inside!(DiskKind, self, disk => disk.write_file(name, bytes).await)
    }

    /// Room on the device.
    pub fn space(&self) -> Result<Space, DiskError> {
        inside!(DiskKind, self, disk => disk.space())
    }
}

impl File {
    /// Reads up to `len` bytes; fewer only at the end of the file.
    ///
    /// # Panics
    /// If `offset` or `len` is no multiple of [`BLOCK`].
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Buffer, DiskError> {
        assert!(offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK), "read of {len} at {offset}");
        inside!(FileKind, self, file => file.read_at(offset, len).await)
    }

    /// Writes `parts` one behind the other by one device write. Parts that start and end at multiples of
    /// [`BLOCK`] in memory and in the file go as they are, others are copied. A crash before the next flush
    /// leaves any subset of the sectors.
    ///
    /// # Panics
    /// If `offset` or the total length is no multiple of [`BLOCK`].
    pub async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        let total = parts::total_len(&parts);
        assert!(offset.is_multiple_of(BLOCK as u64) && total.is_multiple_of(BLOCK), "write of {total} at {offset}");
        inside!(FileKind, self, file => file.write_at(offset, parts).await)
    }

    /// Makes durable what was written before this call (fdatasync). After a failure the disk is poisoned.
    pub async fn flush(&self) -> Result<(), DiskError> {
        inside!(FileKind, self, file => file.flush().await)
    }

    /// [`File::write_at`] that is durable when it returns (RWF_DSYNC): one trip to the device instead of two.
    /// It says nothing about earlier writes. A failure poisons the disk, since nobody knows whether the write
    /// or its flush failed; [`DiskError::Full`] does not.
    ///
    /// # Panics
    /// As [`File::write_at`].
    pub async fn write_durable_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        let total = parts::total_len(&parts);
        assert!(offset.is_multiple_of(BLOCK as u64) && total.is_multiple_of(BLOCK), "write of {total} at {offset}");
        inside!(FileKind, self, file => file.write_durable_at(offset, parts).await)
    }

    /// Whether the length is zero.
    pub async fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len().await? == 0)
    }

    /// Length in bytes.
    pub async fn len(&self) -> Result<u64, DiskError> {
        inside!(FileKind, self, file => file.len().await)
    }

    /// Gives the space of a range back to the file system: it reads as zeros then. A crash before the next
    /// flush leaves any part of it as it was.
    ///
    /// # Errors
    /// The disk; where a file system cannot do it, nothing is done.
    ///
    /// # Panics
    /// If `offset` or `len` is no multiple of [`BLOCK`].
    pub async fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let block = BLOCK as u64;
        assert!(offset.is_multiple_of(block) && len.is_multiple_of(block), "hole of {len} at {offset}");
        inside!(FileKind, self, file => file.punch(offset, len).await)
    }

    /// Cuts, or grows by zeros whose space is reserved on the device. Durable with the next flush.
    pub async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        inside!(FileKind, self, file => file.set_len(len).await)
    }
}

/// # Panics
/// If `name` is not the name of a plain file in the directory; names are ours, never a peer's.
pub(crate) fn check_name(name: &str) {
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.') && name != LOCK_NAME;
    assert!(plain, "not a file name: {name:?}");
}
