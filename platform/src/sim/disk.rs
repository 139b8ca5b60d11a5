//! Simulated disks as processes see them: time and errors around `sim::device`.
//!
//! A write takes effect when it is handed over and is answered after a drawn latency; if the caller stops
//! waiting, or crashes, it may still be on the device. What is not flushed is decided by the next power cut.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::buffer::{BLOCK, Buffer};
use crate::disk::parts;
use crate::disk::{Disk, DiskError, DiskKind, File, FileKind, Open, Space, check_name};
use crate::sim::device::{Device, FileState};
use crate::sim::network::nanoseconds;
use crate::sim::trace::digest;
use crate::sim::world::Process;

/// However slow, an operation ends so soon: a kernel gives one up, too (SCSI: 30 s).
const LATENCY_MAX_NS: u64 = 8_000_000_000;
/// How much longer a slow operation takes.
const HICCUP_FACTOR: u64 = 50;

pub(crate) struct SimDisk {
    pub(crate) path: PathBuf,
    process: Rc<Process>,
    device: Rc<Device>,
    poisoned: Cell<bool>,
    locked: Cell<bool>,
}

pub(crate) struct SimFile {
    disk: Rc<SimDisk>,
    path: PathBuf,
    state: Rc<RefCell<FileState>>,
}

/// What a latency is drawn for.
#[derive(Clone, Copy)]
enum Work {
    Read,
    Write,
    Flush,
}

/// The host's disk of that path.
pub(crate) fn open(process: &Rc<Process>, path: &Path) -> Disk {
    let disk = SimDisk {
        path: path.to_owned(),
        process: process.clone(),
        device: process.world.disk(process.host, path),
        poisoned: Cell::new(false),
        locked: Cell::new(false),
    };
    Disk { kind: DiskKind::Simulated(Rc::new(disk)) }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        if self.locked.get() && self.process.is_alive() {
            self.device.unlock();
        }
    }
}

impl SimDisk {
    pub(crate) fn try_lock(&self) -> Result<(), DiskError> {
        if !self.locked.get() {
            if !self.device.lock() {
                return Err(DiskError::Locked { path: self.path.clone() });
            }
            self.locked.set(true);
        }
        Ok(())
    }

    pub(crate) async fn open(self: &Rc<SimDisk>, name: &str, mode: Open) -> Result<File, DiskError> {
        check_name(name);
        self.process.check_alive().await;
        let path = self.path.join(name);
        let found = self.device.files.borrow().get(name).cloned();
        let state = match (found, mode) {
            (Some(_), Open::CreateNew) => return Err(DiskError::AlreadyExists { path }),
            (None, Open::Existing) => return Err(DiskError::NotFound { path }),
            (Some(state), Open::Existing | Open::CreateOrExisting) => state,
            (None, Open::CreateNew | Open::CreateOrExisting) => {
                self.start_change("creating", &path).await?;
                let state = Rc::<RefCell<FileState>>::default();
                self.device.files.borrow_mut().insert(name.to_owned(), state.clone());
                self.finish(Work::Flush, 0).await;
                state
            }
        };
        Ok(File { kind: FileKind::Simulated(Rc::new(SimFile { disk: self.clone(), path, state })) })
    }

    pub(crate) async fn list(&self) -> Result<Vec<String>, DiskError> {
        self.process.check_alive().await;
        Ok(self.device.files.borrow().keys().cloned().collect())
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<(), DiskError> {
        check_name(name);
        let path = self.path.join(name);
        self.start_change("removing", &path).await?;
        if self.device.files.borrow_mut().remove(name).is_none() {
            return Err(DiskError::NotFound { path });
        }
        self.finish(Work::Flush, 0).await;
        Ok(())
    }

    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        check_name(from);
        check_name(to);
        let path = self.path.join(from);
        self.start_change("renaming", &path).await?;
        {
            let mut files = self.device.files.borrow_mut();
            let Some(state) = files.remove(from) else {
                return Err(DiskError::NotFound { path });
            };
            files.insert(to.to_owned(), state);
        }
        self.finish(Work::Flush, 0).await;
        Ok(())
    }

    pub(crate) async fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        check_name(name);
        self.process.check_alive().await;
        let Some(state) = self.device.files.borrow().get(name).cloned() else { return Ok(None) };
        let len = state.borrow().len() as usize;
        self.finish(Work::Read, len).await;
        self.check_read(&self.path.join(name))?;
        let bytes = state.borrow().read(0, len).to_vec();
        Ok(Some(bytes))
    }

    pub(crate) async fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        check_name(name);
        let path = self.path.join(name);
        self.start_change("writing", &path).await?;
        // Old and new stand beside each other until the rename.
        if !self.device.has_room((bytes.len() as u64).next_multiple_of(BLOCK as u64)) {
            return Err(DiskError::Full { op: "writing", path });
        }
        let state = Rc::new(RefCell::new(FileState::durable(bytes)));
        self.device.files.borrow_mut().insert(name.to_owned(), state);
        self.event("replaces", name, bytes.len() as u64);
        self.finish(Work::Write, bytes.len()).await;
        self.finish(Work::Flush, 0).await;
        Ok(())
    }

    pub(crate) fn space(&self) -> Result<Space, DiskError> {
        let total = self.device.capacity();
        let full = self.device.faults.borrow().full;
        let available = if full { 0 } else { total.saturating_sub(self.device.used()) };
        Ok(Space { total, available })
    }

    /// What every change of names or small files checks first. A directory's flush fails like a file's.
    async fn start_change(&self, op: &'static str, path: &Path) -> Result<(), DiskError> {
        self.process.check_alive().await;
        self.check_poison(op, path)?;
        self.check_write(op, path)?;
        self.check_flush(op, path)
    }

    fn check_poison(&self, op: &'static str, path: &Path) -> Result<(), DiskError> {
        if self.poisoned.get() {
            return Err(DiskError::Poisoned { op, path: path.to_owned() });
        }
        Ok(())
    }

    fn check_read(&self, path: &Path) -> Result<(), DiskError> {
        let world = &self.process.world;
        let drawn = world.faulty(self.process.host) && world.disk_random.chance(world.options.read_fails);
        if drawn || self.device.faults.borrow().read_fails {
            return Err(self.input_output("reading", path));
        }
        Ok(())
    }

    fn check_write(&self, op: &'static str, path: &Path) -> Result<(), DiskError> {
        let world = &self.process.world;
        let drawn = world.faulty(self.process.host) && world.disk_random.chance(world.options.write_fails);
        if drawn || self.device.faults.borrow().write_fails {
            return Err(self.input_output(op, path));
        }
        Ok(())
    }

    fn check_flush(&self, op: &'static str, path: &Path) -> Result<(), DiskError> {
        let world = &self.process.world;
        let drawn = world.faulty(self.process.host) && world.disk_random.chance(world.options.flush_fails);
        if drawn || self.device.faults.borrow().flush_fails {
            self.poisoned.set(true);
            return Err(self.input_output(op, path));
        }
        Ok(())
    }

    fn input_output(&self, op: &'static str, path: &Path) -> DiskError {
        let world = &self.process.world;
        world.trace.event(world.now(), "disk fails", self.process.host, digest(op.as_bytes()), 0);
        DiskError::Io { op, path: path.to_owned(), source: io::Error::from_raw_os_error(libc::EIO) }
    }

    /// Draws how long `work` on `len` bytes takes.
    fn latency(&self, work: Work, len: usize) -> u64 {
        let world = &self.process.world;
        let range: (Duration, Duration) = match work {
            Work::Read => world.options.disk_read,
            Work::Write => world.options.disk_write,
            Work::Flush => world.options.disk_flush,
        };
        let low = nanoseconds(range.0);
        let spread = nanoseconds(range.1).saturating_sub(low);
        // Half a nanosecond a byte: about 2 GB/s.
        let mut latency = low + world.disk_random.below(spread + 1) + len as u64 / 2;
        if world.faulty(self.process.host) && world.disk_random.chance(world.options.disk_slow) {
            latency = latency.saturating_mul(HICCUP_FACTOR);
        }
        latency.saturating_mul(u64::from(self.device.faults.borrow().slow_by.max(1))).min(LATENCY_MAX_NS)
    }

    async fn finish(&self, work: Work, len: usize) {
        self.process.sleep_ns(self.latency(work, len)).await;
    }

    fn event(&self, what: &'static str, name: &str, number: u64) {
        let world = &self.process.world;
        world.trace.event(world.now(), what, self.process.host, digest(name.as_bytes()), number);
    }
}

impl SimFile {
    pub(crate) async fn read_at(&self, offset: u64, len: usize) -> Result<Buffer, DiskError> {
        self.disk.process.check_alive().await;
        self.disk.finish(Work::Read, len).await;
        self.disk.check_read(&self.path)?;
        Ok(self.state.borrow().read(offset, len))
    }

    pub(crate) async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        let disk = &self.disk;
        disk.process.check_alive().await;
        disk.check_poison("writing", &self.path)?;
        let total = parts::total_len(&parts);
        if total == 0 {
            return Ok(());
        }
        let world = &disk.process.world;
        let ends_at = world.now() + disk.latency(Work::Write, total);
        let end = offset + total as u64;
        if let Err(failure) = self.check_write_at(end) {
            disk.process.sleep_until(ends_at).await;
            return Err(failure);
        }
        let drawn = world.faulty(disk.process.host) && world.disk_random.chance(world.options.lose_write);
        let lost = std::mem::take(&mut disk.device.faults.borrow_mut().lose_next_write) || drawn;
        self.event(if lost { "loses a write" } else { "writes" }, offset, total as u64);
        self.state.borrow_mut().write(offset, &parts::align(parts), ends_at, lost);
        disk.process.sleep_until(ends_at).await;
        Ok(())
    }

    pub(crate) async fn write_durable_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        let disk = &self.disk;
        let total = parts::total_len(&parts) as u64;
        let written = self.write_at(offset, parts).await;
        if let Err(DiskError::Io { .. }) = &written {
            disk.poisoned.set(true);
        }
        written?;
        disk.finish(Work::Flush, 0).await;
        disk.check_poison("writing", &self.path)?;
        disk.check_flush("writing", &self.path)?;
        self.event("flushes", offset, total);
        self.state.borrow_mut().flush_range(offset, total);
        Ok(())
    }

    fn check_write_at(&self, end: u64) -> Result<(), DiskError> {
        self.disk.check_write("writing", &self.path)?;
        if !self.disk.device.has_room(self.state.borrow().growth_to(end)) {
            return Err(DiskError::Full { op: "writing", path: self.path.clone() });
        }
        Ok(())
    }

    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        let disk = &self.disk;
        disk.process.check_alive().await;
        disk.check_poison("flushing", &self.path)?;
        let started_at = disk.process.world.now();
        disk.finish(Work::Flush, 0).await;
        disk.check_poison("flushing", &self.path)?;
        disk.check_flush("flushing", &self.path)?;
        self.event("flushes", started_at, 0);
        self.state.borrow_mut().flush(started_at);
        Ok(())
    }

    pub(crate) async fn len(&self) -> Result<u64, DiskError> {
        self.disk.process.check_alive().await;
        Ok(self.state.borrow().len())
    }

    /// A hole is so many sectors of zeros here.
    pub(crate) async fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let mut at = 0;
        while at < len {
            let part = (len - at).min(1 << 20);
            self.write_at(offset + at, vec![Buffer::zeros(part as usize)]).await?;
            at += part;
        }
        Ok(())
    }

    pub(crate) async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        let disk = &self.disk;
        disk.process.check_alive().await;
        disk.check_poison("resizing", &self.path)?;
        disk.check_write("resizing", &self.path)?;
        if !disk.device.has_room(self.state.borrow().growth_to(len)) {
            return Err(DiskError::Full { op: "resizing", path: self.path.clone() });
        }
        let ends_at = disk.process.world.now() + disk.latency(Work::Write, 0);
        self.event("resizes", len, 0);
        self.state.borrow_mut().set_len(len, ends_at);
        disk.process.sleep_until(ends_at).await;
        Ok(())
    }

    fn event(&self, what: &'static str, one: u64, two: u64) {
        let world = &self.disk.process.world;
        world.trace.event(world.now(), what, self.disk.process.host, one, two);
    }
}
