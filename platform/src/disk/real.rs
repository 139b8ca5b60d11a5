//! A disk that is a directory of the real machine, by io_uring or by blocking calls on threads.
//!
//! Data goes by direct IO where the file system has it; directories, small files and locks go by plain calls
//! on the disk's own lane in both engines. Invariant: after a failed flush nothing is written any more, since
//! the kernel forgets which pages it failed to write and answers the next flush with success.

use std::cell::{Cell, RefCell};
use std::fs::{File as OsFile, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::Platform;
use crate::buffer::{BLOCK, Buffer};
use crate::disk::parts;
use crate::disk::plain;
use crate::disk::uring::{Memory, Ring};
use crate::disk::{Disk, DiskError, DiskKind, File, FileKind, LOCK_NAME, Open, Space, check_name};
use crate::lane::Lane;

/// Threads of a disk without a ring: its queue depth.
const PLAIN_THREADS: usize = 4;
/// Threads of a disk with a ring, for directory changes.
const RING_THREADS: usize = 1;

/// How file data reaches the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// io_uring if the kernel permits, else plain calls.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Blocking calls on threads.
    Plain,
}

/// Opens the directory `path` with the given engine; makes it (mode 0700, with parents) if absent.
pub fn open(platform: &Platform, path: &Path, engine: Engine) -> Result<Disk, DiskError> {
    let failed = |source| DiskError::from_io("opening", path.to_owned(), source);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let directory = Arc::new(OsFile::open(path).map_err(failed)?);
    let ring = match engine {
        Engine::Plain => None,
        Engine::Auto => platform.ring(),
        Engine::Uring => {
            let refused = || failed(io::Error::new(io::ErrorKind::Unsupported, "the kernel refuses io_uring"));
            Some(platform.ring().ok_or_else(refused)?)
        }
    };
    let threads = if ring.is_some() { RING_THREADS } else { PLAIN_THREADS };
    let disk = RealDisk {
        path: path.to_owned(),
        directory,
        ring,
        lane: Lane::real(threads),
        poisoned: Cell::new(false),
        lock: RefCell::new(None),
        temporaries: Cell::new(0),
    };
    Ok(Disk { kind: DiskKind::Real(Rc::new(disk)) })
}

pub(crate) struct RealDisk {
    pub(crate) path: PathBuf,
    directory: Arc<OsFile>,
    ring: Option<Rc<Ring>>,
    lane: Lane,
    poisoned: Cell<bool>,
    lock: RefCell<Option<OsFile>>,
    /// Numbers the temporary files, so that two writers of one name do not share one.
    temporaries: Cell<u64>,
}

pub(crate) struct RealFile {
    disk: Rc<RealDisk>,
    path: PathBuf,
    file: Arc<OsFile>,
}

/// When a write must be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    /// With the next flush.
    Later,
    /// When it is answered.
    Now,
}

impl Durability {
    /// The flags of pwritev2 that ask for it.
    pub(crate) fn flags(self) -> libc::c_int {
        match self {
            Durability::Later => 0,
            Durability::Now => libc::RWF_DSYNC,
        }
    }
}

/// A blocking step failed; `unsure` if after it nobody knows what the device holds.
struct Failure {
    op: &'static str,
    source: io::Error,
    unsure: bool,
}

fn step(op: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure { op, source, unsure: false }
}

fn flush_step(op: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure { op, source, unsure: true }
}

impl RealDisk {
    pub(crate) fn try_lock(&self) -> Result<(), DiskError> {
        if self.lock.borrow().is_some() {
            return Ok(());
        }
        let path = self.path.join(LOCK_NAME);
        let failed = |source| DiskError::from_io("locking", path.clone(), source);
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
        // SAFETY: flock touches no memory.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let source = io::Error::last_os_error();
            if source.raw_os_error() == Some(libc::EWOULDBLOCK) {
                return Err(DiskError::Locked { path: self.path.clone() });
            }
            return Err(failed(source));
        }
        *self.lock.borrow_mut() = Some(file);
        Ok(())
    }

    pub(crate) async fn open(self: &Rc<RealDisk>, name: &str, mode: Open) -> Result<File, DiskError> {
        check_name(name);
        let path = self.path.join(name);
        if mode != Open::Existing {
            self.check_poison("creating", &path)?;
        }
        let (target, directory) = (path.clone(), self.directory.clone());
        let file = self.lane.run(move || open_file(&target, &directory, mode)).await;
        let file = self.settle(&path, file)?;
        let file = RealFile { disk: self.clone(), path, file: Arc::new(file) };
        Ok(File { kind: FileKind::Real(Rc::new(file)) })
    }

    pub(crate) async fn list(&self) -> Result<Vec<String>, DiskError> {
        let path = self.path.clone();
        let names = self.lane.run(move || list_files(&path)).await;
        names.map_err(|source| DiskError::from_io("listing", self.path.clone(), source))
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<(), DiskError> {
        check_name(name);
        let path = self.path.join(name);
        self.check_poison("removing", &path)?;
        let (target, directory) = (path.clone(), self.directory.clone());
        let done = self
            .lane
            .run(move || {
                std::fs::remove_file(&target).map_err(step("removing"))?;
                directory.sync_all().map_err(flush_step("flushing the directory"))
            })
            .await;
        self.settle(&path, done)
    }

    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        check_name(from);
        check_name(to);
        let path = self.path.join(from);
        self.check_poison("renaming", &path)?;
        let (source, target, directory) = (path.clone(), self.path.join(to), self.directory.clone());
        let done = self
            .lane
            .run(move || {
                std::fs::rename(&source, &target).map_err(step("renaming"))?;
                directory.sync_all().map_err(flush_step("flushing the directory"))
            })
            .await;
        self.settle(&path, done)
    }

    pub(crate) async fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        check_name(name);
        let path = self.path.join(name);
        let target = path.clone();
        match self.lane.run(move || std::fs::read(&target)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(failure) if failure.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(failure) => Err(DiskError::from_io("reading", path, failure)),
        }
    }

    pub(crate) async fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        check_name(name);
        let path = self.path.join(name);
        self.check_poison("writing", &path)?;
        let number = self.temporaries.get();
        self.temporaries.set(number + 1);
        let temporary = self.path.join(format!(".{name}.{number}.tmp"));
        let (target, directory, bytes) = (path.clone(), self.directory.clone(), bytes.to_vec());
        let done = self.lane.run(move || replace_file(&temporary, &target, &directory, &bytes)).await;
        self.settle(&path, done)
    }

    pub(crate) fn space(&self) -> Result<Space, DiskError> {
        // SAFETY: an all-zero statvfs is a valid one, and the call fills it.
        let mut status: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and status outlives the call.
        if unsafe { libc::fstatvfs(self.directory.as_raw_fd(), &mut status) } != 0 {
            let source = io::Error::last_os_error();
            return Err(DiskError::from_io("asking for the space", self.path.clone(), source));
        }
        Ok(Space { total: status.f_blocks * status.f_frsize, available: status.f_bavail * status.f_frsize })
    }

    fn check_poison(&self, op: &'static str, path: &Path) -> Result<(), DiskError> {
        if self.poisoned.get() {
            return Err(DiskError::Poisoned { op, path: path.to_owned() });
        }
        Ok(())
    }

    /// Turns the outcome of a blocking step into ours, and remembers a failed flush.
    fn settle<T>(&self, path: &Path, outcome: Result<T, Failure>) -> Result<T, DiskError> {
        outcome.map_err(|failure| {
            if failure.unsure {
                self.poison(path, &failure.source);
            }
            DiskError::from_io(failure.op, path.to_owned(), failure.source)
        })
    }

    fn poison(&self, path: &Path, cause: &io::Error) {
        tracing::error!(path = %path.display(), "a flush failed, the disk takes no more writes: {cause}");
        self.poisoned.set(true);
    }
}

impl RealFile {
    pub(crate) async fn read_at(&self, offset: u64, len: usize) -> Result<Buffer, DiskError> {
        let mut buffer = Buffer::stale(len);
        let mut filled = 0;
        while filled < len {
            let result;
            (result, buffer) = self.read_once(offset, buffer, filled).await;
            match result {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    // Direct IO stops inside a block only at the end of the file.
                    if !count.is_multiple_of(BLOCK) {
                        break;
                    }
                }
                Err(failure) if is_transient(&failure) => {}
                Err(failure) => return Err(DiskError::from_io("reading", self.path.clone(), failure)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }

    async fn read_once(&self, offset: u64, buffer: Buffer, skip: usize) -> (io::Result<usize>, Buffer) {
        let Some(ring) = &self.disk.ring else {
            let file = self.file.clone();
            return self.disk.lane.run(move || plain::read(&file, offset, buffer, skip)).await;
        };
        match ring.read(&self.file, offset, buffer, skip).await {
            (result, Memory::Read(buffer)) => (result, buffer),
            (_, Memory::None | Memory::Write { .. }) => unreachable!("a read gives its buffer back"),
        }
    }

    pub(crate) async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.write_all_at(offset, parts, Durability::Later).await
    }

    pub(crate) async fn write_durable_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        let result = self.write_all_at(offset, parts, Durability::Now).await;
        if let Err(DiskError::Io { source, .. }) = &result {
            self.disk.poison(&self.path, source);
        }
        result?;
        // A flush beside this one may have failed and taken the only report of our error.
        self.disk.check_poison("writing", &self.path)
    }

    async fn write_all_at(&self, offset: u64, parts: Vec<Bytes>, durability: Durability) -> Result<(), DiskError> {
        let total = parts::total_len(&parts);
        self.disk.check_poison("writing", &self.path)?;
        let mut parts = parts::align(parts);
        let mut written = 0;
        while written < total {
            let result;
            (result, parts) = self.write_once(offset, parts, written, durability).await;
            match result {
                // A short write may end inside a block: the rest of that block is written again.
                Ok(count) if count >= BLOCK || written + count == total => {
                    written = if written + count == total { total } else { written + count / BLOCK * BLOCK };
                }
                Ok(_) => {
                    let source = io::Error::new(io::ErrorKind::WriteZero, "the device takes no more bytes");
                    return Err(DiskError::from_io("writing", self.path.clone(), source));
                }
                Err(failure) if is_transient(&failure) => {}
                Err(failure) => return Err(DiskError::from_io("writing", self.path.clone(), failure)),
            }
        }
        Ok(())
    }

    async fn write_once(
        &self,
        offset: u64,
        parts: Vec<Bytes>,
        skip: usize,
        durability: Durability,
    ) -> (io::Result<usize>, Vec<Bytes>) {
        let Some(ring) = &self.disk.ring else {
            let file = self.file.clone();
            return self.disk.lane.run(move || plain::write(&file, offset, parts, skip, durability)).await;
        };
        match ring.write(&self.file, offset, parts, skip, durability).await {
            (result, Memory::Write { parts, .. }) => (result, parts),
            (_, Memory::None | Memory::Read(_)) => unreachable!("a write gives its parts back"),
        }
    }

    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        self.disk.check_poison("flushing", &self.path)?;
        let result = match &self.disk.ring {
            Some(ring) => ring.flush(&self.file).await.0.map(|_| ()),
            None => {
                let file = self.file.clone();
                self.disk.lane.run(move || file.sync_data()).await
            }
        };
        if let Err(failure) = result {
            self.disk.poison(&self.path, &failure);
            return Err(DiskError::Io { op: "flushing", path: self.path.clone(), source: failure });
        }
        // A flush beside this one may have failed and taken the only report of our error.
        self.disk.check_poison("flushing", &self.path)
    }

    pub(crate) async fn len(&self) -> Result<u64, DiskError> {
        let failed = |source| DiskError::from_io("asking for the length", self.path.clone(), source);
        Ok(self.file.metadata().map_err(failed)?.len())
    }

    pub(crate) async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.disk.check_poison("resizing", &self.path)?;
        let file = self.file.clone();
        let done = self.disk.lane.run(move || resize(&file, len)).await;
        done.map_err(|source| DiskError::from_io("resizing", self.path.clone(), source))
    }

    pub(crate) async fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.disk.check_poison("making a hole in", &self.path)?;
        let file = self.file.clone();
        let done = self.disk.lane.run(move || punch(&file, offset, len)).await;
        done.map_err(|source| DiskError::from_io("making a hole in", self.path.clone(), source))
    }
}

fn is_transient(failure: &io::Error) -> bool {
    matches!(failure.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

fn open_file(path: &Path, directory: &OsFile, mode: Open) -> Result<OsFile, Failure> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match mode {
        Open::Existing => {}
        Open::CreateNew => {
            options.create_new(true);
        }
        Open::CreateOrExisting => {
            options.create(true);
        }
    }
    let file = options.open(path).map_err(step("opening"))?;
    set_direct(&file);
    if mode != Open::Existing {
        directory.sync_all().map_err(flush_step("flushing the directory"))?;
    }
    Ok(file)
}

/// Asks for direct IO; a file system without it keeps going through its cache.
fn set_direct(file: &OsFile) {
    let descriptor = file.as_raw_fd();
    // SAFETY: fcntl on an open descriptor touches no memory.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags >= 0 {
        // SAFETY: as above.
        unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_DIRECT) };
    }
}

/// Regular files, sorted; without the lock and the temporary files, which are ours.
fn list_files(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        if let Ok(name) = entry.file_name().into_string()
            && name != LOCK_NAME
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn replace_file(temporary: &Path, target: &Path, directory: &OsFile, bytes: &[u8]) -> Result<(), Failure> {
    let written =
        write_temporary(temporary, bytes).and_then(|()| std::fs::rename(temporary, target).map_err(step("renaming")));
    if let Err(failure) = written {
        // The old content stands; the leftover only wastes space.
        let _ = std::fs::remove_file(temporary);
        return Err(failure);
    }
    directory.sync_all().map_err(flush_step("flushing the directory"))
}

fn write_temporary(temporary: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(temporary)
        .map_err(step("creating"))?;
    file.write_all(bytes).map_err(step("writing"))?;
    file.sync_all().map_err(|source| {
        // A full disk says so as late as here, about a file that nobody has seen yet.
        let unsure = !matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
        Failure { op: "flushing", source, unsure }
    })
}

fn resize(file: &OsFile, len: u64) -> io::Result<()> {
    let old = file.metadata()?.len();
    if len > old {
        let len = i64::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        // SAFETY: fallocate on an open descriptor touches no memory.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let failure = io::Error::last_os_error();
        if failure.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return Err(failure);
        }
    }
    file.set_len(len)
}

fn punch(file: &OsFile, offset: u64, len: u64) -> io::Result<()> {
    let far = |number: u64| i64::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG));
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: fallocate on an open descriptor touches no memory.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, far(offset)?, far(len)?) } == 0 {
        return Ok(());
    }
    let failure = io::Error::last_os_error();
    if failure.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(()) } else { Err(failure) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_of_a_hole_is_given_back_and_it_reads_as_zeros() {
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("bixi-platform-punch-{}", std::process::id()));
        crate::run(|platform| {
            let path = path.clone();
            async move {
                let disk = open(&platform, &path, Engine::Auto).unwrap();
                let file = disk.open("file", Open::CreateNew).await.unwrap();
                file.write_at(0, vec![bytes::Bytes::from(vec![7; 1 << 20])]).await.unwrap();
                file.flush().await.unwrap();
                file.punch(65_536, 917_504).await.unwrap();
                file.flush().await.unwrap();
                let blocks = std::fs::metadata(path.join("file")).unwrap().blocks();
                assert!(blocks <= 512, "{blocks} blocks of 512 bytes");
                let bytes = file.read_at(61_440, 8192).await.unwrap();
                assert!(bytes[..4096].iter().all(|byte| *byte == 7) && bytes[4096..].iter().all(|byte| *byte == 0));
                assert_eq!(file.len().await.unwrap(), 1 << 20);
            }
        });
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_poisoned_disk_reads_on_and_takes_no_writes() {
        let path = std::env::temp_dir().join(format!("bixi-platform-poison-{}", std::process::id()));
        crate::run(|platform| {
            let path = path.clone();
            async move {
                let disk = open(&platform, &path, Engine::Auto).unwrap();
                let file = disk.open("file", Open::CreateNew).await.unwrap();
                let page = Buffer::zeros(BLOCK);
                file.write_durable_at(0, vec![page.clone()]).await.unwrap();
                let DiskKind::Real(inner) = &disk.kind else { panic!("a real disk") };
                inner.poison(&path, &io::Error::from_raw_os_error(libc::EIO));
                assert!(matches!(file.flush().await, Err(DiskError::Poisoned { .. })));
                assert!(matches!(file.write_at(0, vec![page.clone()]).await, Err(DiskError::Poisoned { .. })));
                assert!(matches!(file.write_durable_at(0, vec![page]).await, Err(DiskError::Poisoned { .. })));
                assert!(matches!(disk.write_file("small", b"x").await, Err(DiskError::Poisoned { .. })));
                assert!(matches!(disk.open("new", Open::CreateNew).await, Err(DiskError::Poisoned { .. })));
                assert_eq!(file.read_at(0, BLOCK).await.unwrap().len(), BLOCK);
                assert_eq!(disk.list().await.unwrap(), ["file"]);
            }
        });
        std::fs::remove_dir_all(&path).unwrap();
    }
}
