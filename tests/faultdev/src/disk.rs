//! One disk: a backing file, a thread that serves it, and the faults it has at the moment.
//!
//! A disk does one thing after the other, as cheap ones do. So a delay holds up what comes behind,
//! and a frozen disk answers nothing until it is thawed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite};

use crate::stream::Stream;

/// What is asked of a disk.
pub enum Job {
    Read { offset: u64, len: u32, reply: ReplyData },
    Write { offset: u64, data: Vec<u8>, reply: ReplyWrite },
    Flush { reply: ReplyEmpty },
}

/// What is wrong with a disk. Counts are of operations still to fail; `u64::MAX` is for ever.
#[derive(Default)]
pub struct Faults {
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    pub delay: Duration,
    pub is_frozen: bool,
    /// Operations that were failed so far.
    pub failed: u64,
}

/// A disk.
pub struct Disk {
    jobs: Mutex<Sender<Job>>,
    shared: Arc<Shared>,
}

struct Shared {
    index: u8,
    file: File,
    stream: Arc<Stream>,
    faults: Mutex<Faults>,
    changed: Condvar,
}

impl Disk {
    /// A disk of zeros in `directory`.
    pub fn create(index: u8, directory: &Path, len: u64, stream: Arc<Stream>) -> io::Result<Disk> {
        let path = directory.join(format!("backing{index}"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(len)?;
        let shared = Arc::new(Shared { index, file, stream, faults: Mutex::default(), changed: Condvar::new() });
        let (jobs, queue) = channel();
        let worker = Arc::clone(&shared);
        std::thread::spawn(move || {
            for job in queue {
                worker.serve(job);
            }
        });
        Ok(Disk { jobs: Mutex::new(jobs), shared })
    }

    /// Has it done when the disk comes to it.
    pub fn give(&self, job: Job) {
        // The worker ends only with the process.
        let _ = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
    }

    /// Changes or looks at what is wrong with it.
    pub fn with_faults<T>(&self, work: impl FnOnce(&mut Faults) -> T) -> T {
        let result = work(&mut self.shared.lock());
        self.shared.changed.notify_all();
        result
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, job: Job) {
        let delay = {
            let mut faults = self.lock();
            while faults.is_frozen {
                faults = self.changed.wait(faults).unwrap_or_else(PoisonError::into_inner);
            }
            faults.delay
        };
        std::thread::sleep(delay);
        match job {
            Job::Read { offset, len, reply } => match self.read(offset, len) {
                Ok(bytes) => reply.data(&bytes),
                Err(_) => reply.error(Errno::EIO),
            },
            Job::Write { offset, data, reply } => match self.write(offset, &data) {
                Ok(()) => reply.written(data.len() as u32),
                Err(_) => reply.error(Errno::EIO),
            },
            Job::Flush { reply } => match self.flush() {
                Ok(()) => reply.ok(),
                Err(_) => reply.error(Errno::EIO),
            },
        }
    }

    fn read(&self, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        self.maybe_fail(|faults| &mut faults.reads)?;
        let mut bytes = vec![0; len as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.maybe_fail(|faults| &mut faults.writes)?;
        self.stream.record(b'w', self.index, offset, data, || self.file.write_all_at(data, offset))
    }

    fn flush(&self) -> io::Result<()> {
        // A disk whose flush fails may have lost what it held; what a crash would show is decided
        // by the stream, in which no flush stands then.
        self.maybe_fail(|faults| &mut faults.flushes)?;
        self.stream.record(b'f', self.index, 0, &[], || Ok(()))
    }

    fn maybe_fail(&self, count: impl Fn(&mut Faults) -> &mut u64) -> io::Result<()> {
        let mut faults = self.lock();
        let left = count(&mut faults);
        if *left == 0 {
            return Ok(());
        }
        if *left != u64::MAX {
            *left -= 1;
        }
        faults.failed += 1;
        Err(io::Error::other("on demand"))
    }
}
