//! Devices of this process: a volume that it owns, and a snapshot that it reads.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use client::chunk::reader::ChunkReader;
use client::chunk::shards::Shards;
use client::meta::MetaClient;
use client::volume::{Change, Counts, Snapshot, Volume, VolumeError};

use crate::device::{Answer, Device, Run, Since, blocks, runs_of, since_of};

/// How long a volume is tried to be had again before its clients see an error.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// What is needed to attach volumes.
pub(crate) struct Means {
    pub meta: MetaClient,
    pub shards: Shards,
    pub reader: ChunkReader,
    /// Names this process to others.
    pub owner: String,
    /// The process is about to end.
    pub closing: Cell<bool>,
}

impl Means {
    async fn attach(&self, name: &str, only_epoch: u64) -> Result<Volume, VolumeError> {
        Volume::attach(&self.meta, &self.shards, &self.reader, name, &self.owner, false, only_epoch).await
    }

    pub(crate) async fn snapshot(&self, name: &str, snapshot: &str) -> Result<Snapshot, VolumeError> {
        Snapshot::open(&self.meta, &self.shards, &self.reader, &self.owner, name, snapshot).await
    }
}

/// Snapshots by which changes were asked, kept open.
#[derive(Default)]
struct Olders(RefCell<BTreeMap<String, Snapshot>>);

impl Olders {
    async fn get(&self, means: &Means, name: &str, snapshot: &str) -> Result<Snapshot, VolumeError> {
        let known = self.0.borrow().get(snapshot).cloned();
        match known {
            Some(known) => Ok(known),
            None => {
                let opened = means.snapshot(name, snapshot).await?;
                self.0.borrow_mut().insert(snapshot.to_owned(), opened.clone());
                Ok(opened)
            }
        }
    }
}

/// A volume that this process owns. When its session has ended while nobody else had the volume, it is
/// attached again, and clients only wait.
pub(crate) struct Attachment {
    means: Rc<Means>,
    name: String,
    volume: Rc<RefCell<Volume>>,
    again: Rc<tokio::sync::Mutex<()>>,
    olders: Olders,
    /// Of the times before it was attached again.
    past: Rc<Cell<Counts>>,
}

impl Attachment {
    pub(crate) async fn new(means: &Rc<Means>, name: &str) -> Result<Attachment, VolumeError> {
        let volume = Rc::new(RefCell::new(means.attach(name, 0).await?));
        let (means, name) = (Rc::clone(means), name.to_owned());
        let (again, olders, past) = (Rc::default(), Olders::default(), Rc::default());
        Ok(Attachment { means, name, volume, again, olders, past })
    }

    pub(crate) fn volume(&self) -> Volume {
        self.volume.borrow().clone()
    }

    /// What was done with it by this process.
    pub(crate) fn counts(&self) -> Counts {
        self.past.get() + self.volume.borrow().counts()
    }

    /// Whether the volume is this process's, perhaps again.
    pub(crate) async fn is_alive(&self) -> bool {
        self.run(async |volume: &Volume| volume.flush()).await.is_ok()
    }

    /// Does something with the volume, again if it had to be attached again.
    async fn run<T>(&self, op: impl AsyncFn(&Volume) -> Result<T, VolumeError>) -> Result<T, VolumeError> {
        loop {
            let volume = self.volume();
            match op(&volume).await {
                Err(VolumeError::Fenced(why)) if !self.means.closing.get() => {
                    Box::pin(self.have_again(&volume, why)).await?
                }
                other => return other,
            }
        }
    }

    /// In a task of its own: a client that goes in the middle would leave an epoch behind that nobody has.
    async fn have_again(&self, volume: &Volume, why: String) -> Result<(), VolumeError> {
        let (means, name, epoch) = (Rc::clone(&self.means), self.name.clone(), volume.epoch());
        let (ours, again, past) = (Rc::clone(&self.volume), Rc::clone(&self.again), Rc::clone(&self.past));
        let task = self.means.meta.platform().tasks().spawn(async move {
            let _one = again.lock().await;
            if ours.borrow().epoch() != epoch {
                return Ok(());
            }
            let counts = ours.borrow().counts();
            attach_again(&means, &name, &ours, why).await?;
            past.set(past.get() + counts);
            Ok(())
        });
        task.await.unwrap_or_else(|_| Err(VolumeError::Unavailable("this process is stopping".into())))
    }
}

/// Puts another into the place of a volume that this process has lost.
async fn attach_again(means: &Means, name: &str, ours: &Rc<RefCell<Volume>>, why: String) -> Result<(), VolumeError> {
    let clock = means.meta.platform().clock();
    let deadline = clock.now() + PATIENCE;
    let epoch = ours.borrow().epoch();
    loop {
        match means.attach(name, epoch).await {
            // Nobody is left who wants it.
            Ok(again) if Rc::strong_count(ours) == 1 => return again.detach().await,
            Ok(again) => {
                tracing::info!(volume = name, why, "volume is attached again");
                *ours.borrow_mut() = again;
                return Ok(());
            }
            Err(error @ (VolumeError::Unavailable(_) | VolumeError::NoSpace(_))) if clock.now() < deadline => {
                tracing::debug!(volume = name, %error, "volume is not attached again yet");
                clock.sleep(PAUSE).await;
            }
            Err(error) => return Err(VolumeError::Fenced(error.to_string())),
        }
    }
}

impl Device for Attachment {
    fn size(&self) -> u64 {
        self.volume.borrow().size()
    }

    fn read(&self, start: u64, len: u64) -> Answer<'_, Bytes> {
        Box::pin(self.run(async move |volume: &Volume| volume.read(start, len).await))
    }

    fn write(&self, start: u64, data: Bytes) -> Answer<'_, ()> {
        Box::pin(self.run(async move |volume: &Volume| volume.write(start, data.clone()).await))
    }

    fn clear(&self, start: u64, len: u64) -> Answer<'_, ()> {
        Box::pin(self.run(async move |volume: &Volume| volume.clear(start, len).await))
    }

    fn flush(&self) -> Result<(), VolumeError> {
        // What was acknowledged is kept, whoever owns the volume now: who may not write hears so by a write.
        match self.volume.borrow().flush() {
            Err(VolumeError::Fenced(_)) | Ok(()) => Ok(()),
            error => error,
        }
    }

    fn status(&self, start: u64, len: u64) -> Answer<'_, Vec<Run>> {
        Box::pin(async move {
            let (first, whole) = blocks(start, len, self.size())?;
            let pieces = self.run(async |volume: &Volume| volume.status(first, whole).await).await?;
            Ok(runs_of(start, len, &pieces))
        })
    }

    fn changed_since<'a>(&'a self, snapshot: &'a str, start: u64, len: u64) -> Answer<'a, Vec<Since>> {
        Box::pin(async move {
            let older = self.olders.get(&self.means, &self.name, snapshot).await?;
            let (first, whole) = blocks(start, len, self.size())?;
            let changes: Vec<Change> =
                self.run(async |volume: &Volume| volume.changed_since(&older, first, whole).await).await?;
            Ok(since_of(start, len, &changes))
        })
    }
}

/// A snapshot: it can only be read, by any number of processes at once.
pub(crate) struct Frozen {
    pub means: Rc<Means>,
    pub name: String,
    pub snapshot: Snapshot,
    olders: Olders,
}

impl Frozen {
    pub(crate) async fn new(means: &Rc<Means>, name: &str, snapshot: &str) -> Result<Frozen, VolumeError> {
        let opened = means.snapshot(name, snapshot).await?;
        Ok(Frozen { means: Rc::clone(means), name: name.to_owned(), snapshot: opened, olders: Olders::default() })
    }
}

fn read_only<'a>() -> Answer<'a, ()> {
    Box::pin(std::future::ready(Err(VolumeError::ReadOnly)))
}

impl Device for Frozen {
    fn size(&self) -> u64 {
        self.snapshot.size()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn read(&self, start: u64, len: u64) -> Answer<'_, Bytes> {
        Box::pin(self.snapshot.read(start, len))
    }

    fn write(&self, _start: u64, _data: Bytes) -> Answer<'_, ()> {
        read_only()
    }

    fn clear(&self, _start: u64, _len: u64) -> Answer<'_, ()> {
        read_only()
    }

    fn flush(&self) -> Result<(), VolumeError> {
        Ok(())
    }

    fn status(&self, start: u64, len: u64) -> Answer<'_, Vec<Run>> {
        Box::pin(async move {
            let (first, whole) = blocks(start, len, self.size())?;
            Ok(runs_of(start, len, &self.snapshot.status(first, whole).await?))
        })
    }

    fn changed_since<'a>(&'a self, snapshot: &'a str, start: u64, len: u64) -> Answer<'a, Vec<Since>> {
        Box::pin(async move {
            let older = self.olders.get(&self.means, &self.name, snapshot).await?;
            if older.number() > self.snapshot.number() {
                return Err(VolumeError::Refused(format!("{}@{snapshot} is the later one", self.name)));
            }
            let (first, whole) = blocks(start, len, self.size())?;
            Ok(since_of(start, len, &self.snapshot.changed_since(&older, first, whole).await?))
        })
    }
}
