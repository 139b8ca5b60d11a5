//! The device: what clients ask, in the order in which the journal has it.
//!
//! A change is acknowledged when its record is durable on all shards, and then in the order of records:
//! whoever sees an acknowledgement sees all before it in the index, and the index is what a replay of
//! the journal up to there gives.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::clock::Instant;
use platform::planted::PlantedBug;
use proto::journal::{ENTRIES_MAX, Entry, EntryKind, record_kind};
use thiserror::Error;
use tokio::sync::oneshot;

use super::counts::Counts;
use super::encrypted::{Cipher, Doubt, Hold, forget, note};
use super::index::{Index, Piece};
use super::journal::{Ended, Journal, Orders, Record};
use super::mapped::Mapped;
use super::pace::Pace;
use super::qos::Limiter;
use crate::chunk::reader::ChunkReader;
use crate::chunk::writer::WriteError;
use crate::meta::MetaClient;

/// Records under way at once.
const DEPTH: usize = 4;
/// With so many bytes waiting, the next record begins although others are under way.
const MERGE: usize = 128 << 10;
/// Bytes that may wait for their record; more are not taken before some are through.
const WAITING_MAX: usize = 16 << 20;
/// So long after it sent what its shards took, an owner answers reads without asking them again.
pub(super) const LEASE: Duration = Duration::from_secs(1);
/// Who takes over waits for so long after it has sealed: clocks do not run that differently.
pub(super) const LEASE_OVER: Duration = Duration::from_millis(1250);
/// Bytes that one entry clears at most.
pub(super) const CLEAR_MAX: u64 = 1 << 30;
/// Changes that may be asked for in one record.
const TOGETHER_MAX: usize = 3;
/// Entries of one clearing that wait at once.
pub(super) const CLEARS_MAX: usize = 64;

/// Why a volume did not do what it was asked.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum VolumeError {
    /// No such volume or snapshot, in a sentence.
    #[error("{0}")]
    NotFound(String),
    /// Somebody else has it attached.
    #[error("{0}")]
    Busy(String),
    /// This process is the owner no more.
    #[error("the volume has another owner: {0}")]
    Fenced(String),
    /// The range lies beyond the end.
    #[error("bytes {start} to {end} of a volume of {size}")]
    OutOfRange {
        /// First byte.
        start: u64,
        /// Behind the last byte.
        end: u64,
        /// Size of the volume.
        size: u64,
    },
    /// A snapshot is read, not written.
    #[error("a snapshot can only be read")]
    ReadOnly,
    /// The pool is full.
    #[error("no space: {0}")]
    NoSpace(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
    /// Something that is stored is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// Not to be done.
    #[error("{0}")]
    Refused(String),
}

impl VolumeError {
    /// There is no volume of that name, which may be anything that somebody sent.
    pub fn no_volume(name: &str) -> VolumeError {
        VolumeError::NotFound(format!("there is no volume {}", name.chars().take(80).collect::<String>()))
    }
}

impl From<WriteError> for VolumeError {
    fn from(error: WriteError) -> VolumeError {
        match error {
            WriteError::NoSpace(text) => VolumeError::NoSpace(text),
            WriteError::SessionEnded => VolumeError::Fenced("the session has ended".into()),
            WriteError::Unavailable(text) => VolumeError::Unavailable(text),
        }
    }
}

/// How a change ends.
pub(super) type Wait = oneshot::Receiver<Result<(), VolumeError>>;

/// A change that waits for its record.
struct Change {
    entry: Entry,
    data: Bytes,
    done: oneshot::Sender<Result<(), VolumeError>>,
    /// The next one is in the same record: nobody finds one of them without the other.
    with_next: bool,
    /// Dropped, as the next field, when the change is carried out or has failed.
    _pin: Pin,
    _hold: Option<Rc<Hold>>,
}

/// Keeps the index pages of a range here.
struct Pin {
    volume: Rc<Inner>,
    start: u64,
    len: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.volume.map.index.borrow_mut().unpin(self.start, self.len);
    }
}

/// A record whose fate is known.
struct Through {
    changes: Vec<Change>,
    moved_from: u64,
    /// When it was begun: the shards have taken it since.
    begun: Instant,
    fate: Result<(u64, u64), VolumeError>,
}

pub(super) struct Inner {
    pub platform: Platform,
    pub pace: Pace,
    pub meta: MetaClient,
    pub map: Mapped,
    pub journal: Journal,
    pub name: String,
    pub id: u64,
    pub epoch: u64,
    pub size: Cell<u64>,
    pub limiter: RefCell<Limiter>,
    pub orders: Orders,
    pub ended: Ended,
    queue: RefCell<VecDeque<Change>>,
    waiting: Cell<usize>,
    room: tokio::sync::Notify,
    running: Cell<usize>,
    /// A task is about to begin records.
    pumping: Cell<bool>,
    /// The sequence number given out last, and the last one whose record is in the index.
    sequence: Cell<u64>,
    pub applied: Cell<u64>,
    /// The place in the journal of the chunk that holds the last record in the index.
    pub applied_order: Cell<u64>,
    through: RefCell<BTreeMap<u64, Through>>,
    /// Since then all shards were heard to obey this owner. Not when their answers came: they may have waited
    /// here while the process was paused and another took over.
    confirmed: Cell<Instant>,
    pub changed: Cell<Instant>,
    pub saving: tokio::sync::Mutex<()>,
    /// Snapshots are told to the metaservers in the order of their moments.
    pub telling: tokio::sync::Mutex<()>,
    /// The record up to which the row's index goes; `u64::MAX`: a clone that has none of its own.
    pub saved: Cell<u64>,
    /// Chunks that a checkpoint is dropping, or has dropped or not.
    pub dropping: RefCell<Vec<u64>>,
    /// Moments of snapshots that the metaservers are being told of.
    pub taking: RefCell<Vec<u64>>,
    /// The row's revision as it was seen last.
    pub revision: Cell<u64>,
    /// Chunks of a lower order are kept for snapshots, as of a revision.
    pub kept: Cell<(u64, u64)>,
    /// Of an encrypted volume: ranges that changes have for themselves, and those whose fate is not known.
    pub holds: RefCell<Vec<(u64, u64)>>,
    pub freed: tokio::sync::Notify,
    pub doubts: RefCell<Vec<Doubt>>,
}

/// What recovery found.
pub(super) struct Found {
    /// Before it became the owner.
    pub since: Instant,
    pub index: Index,
    pub sequence: u64,
    pub order: u64,
    /// What its bytes are encrypted by, if they are.
    pub cipher: Option<Cipher>,
}

/// A volume that this process owns. Cheap to clone.
#[derive(Clone)]
pub struct Volume(pub(super) Rc<Inner>);

impl Volume {
    #[expect(clippy::too_many_arguments, reason = "its parts, made one after the other by take-over alone")]
    pub(super) fn new(
        meta: MetaClient,
        reader: ChunkReader,
        journal: Journal,
        row: &proto::volume::VolumeRow,
        orders: Orders,
        ended: Ended,
        found: Found,
        pace: Pace,
    ) -> Volume {
        let platform = meta.platform().clone();
        let now = platform.clock().now();
        Volume(Rc::new(Inner {
            platform,
            pace,
            meta,
            map: Mapped::new(reader, found.index, pace.extents_max, found.cipher),
            journal,
            name: row.name.clone(),
            id: row.id,
            epoch: row.epoch,
            size: Cell::new(row.size),
            limiter: RefCell::new(Limiter::of(row.qos.unwrap_or_default())),
            orders,
            ended,
            queue: RefCell::default(),
            waiting: Cell::new(0),
            room: tokio::sync::Notify::new(),
            running: Cell::new(0),
            pumping: Cell::new(false),
            sequence: Cell::new(found.sequence),
            applied: Cell::new(found.sequence),
            applied_order: Cell::new(found.order),
            through: RefCell::default(),
            confirmed: Cell::new(found.since),
            changed: Cell::new(now),
            saving: tokio::sync::Mutex::new(()),
            telling: tokio::sync::Mutex::new(()),
            saved: Cell::new(if row.base_to_read().is_some() { u64::MAX } else { row.sequence }),
            dropping: RefCell::default(),
            taking: RefCell::default(),
            revision: Cell::new(0),
            kept: Cell::new((u64::MAX, u64::MAX)),
            holds: RefCell::default(),
            freed: tokio::sync::Notify::new(),
            doubts: RefCell::default(),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Rises with every owner.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.size.get()
    }

    /// What this owner has done so far.
    pub fn counts(&self) -> Counts {
        self.0.journal.counts.get()
    }

    /// Why this process is the owner no more, if so.
    pub fn ended(&self) -> Option<VolumeError> {
        self.0.ended.borrow().clone()
    }

    /// Writes; durable when this returns, wherever the bytes begin and end.
    ///
    /// # Errors
    /// See [`VolumeError`]. The bytes may or may not be there, each block for itself.
    pub async fn write(&self, start: u64, data: Bytes) -> Result<(), VolumeError> {
        self.check(start, data.len() as u64)?;
        self.admit(data.len() as u64).await;
        self.0.journal.count(|counts| {
            counts.writes += 1;
            counts.written_bytes += data.len() as u64;
        });
        match &self.0.map.cipher {
            Some(cipher) => Box::pin(self.write_encrypted(cipher, start, &data)).await,
            None => all(self.put(start, &data, None).await?).await,
        }
    }

    /// Queues bytes as they are to be stored.
    pub(super) async fn put(
        &self,
        start: u64,
        data: &Bytes,
        hold: Option<&Rc<Hold>>,
    ) -> Result<Vec<Wait>, VolumeError> {
        let mut waits = Vec::new();
        let mut at = 0;
        while at < data.len() {
            let len = (data.len() - at).min(self.0.journal.record_max());
            let entry = Entry { kind: EntryKind::Write, start: start + at as u64, len: len as u32 };
            waits.push(self.enter(entry, data.slice(at..at + len), hold).await?);
            at += len;
        }
        Ok(waits)
    }

    /// Makes a range read as zeroes and gives its space back; durable when this returns.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub async fn clear(&self, start: u64, len: u64) -> Result<(), VolumeError> {
        self.check(start, len)?;
        self.admit(0).await;
        if let Some(cipher) = &self.0.map.cipher {
            return Box::pin(self.clear_encrypted(cipher, start, len)).await;
        }
        let (mut waits, mut at, end) = (Vec::new(), start, start + len);
        while at < end {
            let part = (end - at).min(CLEAR_MAX);
            let entry = Entry { kind: EntryKind::Clear, start: at, len: part as u32 };
            waits.push(self.enter(entry, Bytes::new(), None).await?);
            at += part;
            // The largest volumes would fill the memory with what waits.
            if waits.len() == CLEARS_MAX {
                all(std::mem::take(&mut waits)).await?;
            }
        }
        all(waits).await
    }

    /// Waits until the volume's limits let a request through.
    async fn admit(&self, bytes: u64) {
        let clock = self.0.platform.clock();
        let wait = self.0.limiter.borrow_mut().admit(clock.now(), bytes);
        if !wait.is_zero() {
            clock.sleep(wait).await;
        }
    }

    /// Everything acknowledged is durable: says whether this process is still the owner.
    ///
    /// # Errors
    /// `Fenced`.
    pub fn flush(&self) -> Result<(), VolumeError> {
        self.ended().map_or(Ok(()), Err)
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub async fn read(&self, start: u64, len: u64) -> Result<Bytes, VolumeError> {
        self.check(start, len)?;
        self.confirm().await?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        self.admit(len).await;
        self.0.journal.count(|counts| {
            counts.reads += 1;
            counts.read_bytes += len;
        });
        self.0.map.read(start, len).await
    }

    /// Which bytes of the range are stored and which read as zeroes.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub async fn status(&self, start: u64, len: u64) -> Result<Vec<Piece>, VolumeError> {
        self.check(start, len)?;
        // What reads as zeroes is answered by this alone.
        self.confirm().await?;
        self.0.map.look(start, len).await
    }

    fn check(&self, start: u64, len: u64) -> Result<(), VolumeError> {
        if let Some(ended) = self.ended() {
            return Err(ended);
        }
        let (end, size) = (start.saturating_add(len), self.size());
        if end > size { Err(VolumeError::OutOfRange { start, end, size }) } else { Ok(()) }
    }

    /// Queues a change; what is answered comes when its record is through.
    pub(super) async fn enter(&self, entry: Entry, data: Bytes, hold: Option<&Rc<Hold>>) -> Result<Wait, VolumeError> {
        let pin = self.pinned(entry).await?;
        while self.0.waiting.get() > WAITING_MAX {
            self.0.room.notified().await;
        }
        let wait = self.queued(entry, data, pin, hold.cloned(), false);
        self.pump_soon();
        Ok(wait)
    }

    fn queued(&self, entry: Entry, data: Bytes, pin: Pin, hold: Option<Rc<Hold>>, with_next: bool) -> Wait {
        let (done, wait) = oneshot::channel();
        self.0.waiting.set(self.0.waiting.get() + data.len());
        self.0.queue.borrow_mut().push_back(Change { entry, data, done, with_next, _pin: pin, _hold: hold });
        wait
    }

    /// Queues changes that are in one record: at most [`TOGETHER_MAX`], with few bytes.
    pub(super) async fn enter_together(
        &self,
        changes: Vec<(Entry, Bytes)>,
        hold: &Rc<Hold>,
    ) -> Result<Vec<Wait>, VolumeError> {
        assert!(changes.len() <= TOGETHER_MAX, "they fit into a record beside others");
        let mut pins = Vec::new();
        for (entry, _) in &changes {
            pins.push(self.pinned(*entry).await?);
        }
        while self.0.waiting.get() > WAITING_MAX {
            self.0.room.notified().await;
        }
        let (mut waits, last) = (Vec::new(), changes.len());
        for (number, ((entry, data), pin)) in (1..).zip(changes.into_iter().zip(pins)) {
            waits.push(self.queued(entry, data, pin, Some(Rc::clone(hold)), number < last));
        }
        self.pump_soon();
        Ok(waits)
    }

    /// Begins records when all that is ready now has been queued: requests that came together share one.
    fn pump_soon(&self) {
        if self.0.waiting.get() >= MERGE {
            self.pump();
        } else if self.0.running.get() == 0 && !self.0.pumping.replace(true) {
            let this = self.clone();
            self.0.platform.tasks().spawn(async move {
                this.0.pumping.set(false);
                this.pump();
            });
        }
    }

    /// Has the index pages of an entry here, until it is carried out.
    async fn pinned(&self, entry: Entry) -> Result<Pin, VolumeError> {
        let (start, len) = (entry.start, u64::from(entry.len));
        self.0.map.fetch(start, len).await?;
        self.0.map.index.borrow_mut().pin(start, len);
        Ok(Pin { volume: Rc::clone(&self.0), start, len })
    }

    /// Begins records: at once if none is under way, else when enough waits.
    fn pump(&self) {
        loop {
            let running = self.0.running.get();
            let begins = running == 0 || running < DEPTH && self.0.waiting.get() >= MERGE;
            if !begins || self.0.queue.borrow().is_empty() {
                return;
            }
            let changes = self.next_changes();
            self.begin(changes, record_kind::CHANGES, 0);
        }
    }

    fn next_changes(&self) -> Vec<Change> {
        let mut queue = self.0.queue.borrow_mut();
        let (mut changes, mut bytes) = (Vec::<Change>::new(), 0);
        while let Some(next) = queue.front() {
            let is_over = bytes + next.data.len() > self.0.journal.record_max();
            let is_full = is_over || changes.len() > ENTRIES_MAX - TOGETHER_MAX;
            if is_full && changes.last().is_some_and(|before| !before.with_next) {
                break;
            }
            bytes += next.data.len();
            changes.extend(queue.pop_front());
        }
        self.0.waiting.set(self.0.waiting.get() - bytes);
        self.0.room.notify_waiters();
        changes
    }

    /// Appends a record as a task of its own: it is carried out however its clients end.
    fn begin(&self, changes: Vec<Change>, kind: u8, moved_from: u64) {
        let sequence = self.0.sequence.get() + 1;
        self.0.sequence.set(sequence);
        self.0.running.set(self.0.running.get() + 1);
        let begun = self.0.platform.clock().now();
        let this = self.clone();
        self.0.platform.tasks().spawn(async move {
            let record = Record {
                kind,
                sequence,
                moved_from,
                entries: changes.iter().map(|change| change.entry).collect(),
                data: changes.iter().map(|change| change.data.clone()).collect(),
            };
            let fate = this.0.journal.append(record).await.map_err(|error| {
                let ended = this.ended();
                let error = ended.unwrap_or_else(|| VolumeError::from(error));
                if matches!(error, VolumeError::Fenced(_)) {
                    this.0.ended.borrow_mut().get_or_insert(error.clone());
                }
                error
            });
            this.0.running.set(this.0.running.get() - 1);
            this.0.through.borrow_mut().insert(sequence, Through { changes, moved_from, begun, fate });
            this.settle();
            this.pump();
        });
    }

    /// Takes records that are through into the index, in order, and answers their clients.
    fn settle(&self) {
        loop {
            let next = self.0.applied.get() + 1;
            let Some(through) = self.0.through.borrow_mut().remove(&next) else { return };
            self.0.applied.set(next);
            match through.fate {
                Ok((chunk, offset)) => {
                    let now = self.0.platform.clock().now();
                    self.0.confirmed.set(self.0.confirmed.get().max(through.begun));
                    if let Some(order) = self.0.orders.borrow().get(&chunk) {
                        self.0.applied_order.set(*order);
                    }
                    let entries: Vec<Entry> = through.changes.iter().map(|change| change.entry).collect();
                    if entries.iter().any(|entry| entry.len > 0) {
                        self.0.changed.set(now);
                    }
                    let unchecked = self.0.platform.planted(PlantedBug::VolumeMoveUnchecked);
                    let moved_from = if unchecked { 0 } else { through.moved_from };
                    let in_vain = carry_out(&mut self.0.map.index.borrow_mut(), &entries, moved_from, chunk, offset);
                    if through.moved_from == 0 && self.0.map.cipher.is_some() {
                        let mut doubts = self.0.doubts.borrow_mut();
                        entries.iter().for_each(|entry| forget(&mut doubts, entry));
                    }
                    if in_vain > 0 {
                        self.0.platform.reached("volume write wins over a move");
                    }
                    for change in through.changes {
                        // Who has gone away does not need to know.
                        let _ = change.done.send(Ok(()));
                    }
                }
                Err(error) => {
                    if through.moved_from == 0 && self.0.map.cipher.is_some() {
                        let mut doubts = self.0.doubts.borrow_mut();
                        through.changes.iter().for_each(|change| note(&mut doubts, &change.entry));
                    }
                    for change in through.changes {
                        let _ = change.done.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Chunks of a lower order hold no record that is not in the index yet.
    pub(super) fn replay_order(&self) -> u64 {
        if self.0.platform.planted(PlantedBug::VolumeTrimmedEarly) {
            return self.0.orders.borrow().values().max().map_or(0, |order| order + 1);
        }
        // One that was begun later can be through in an earlier chunk, when that chunk failed meanwhile.
        let (through, orders) = (self.0.through.borrow(), self.0.orders.borrow());
        let waiting = through.values().filter_map(|through| through.fate.as_ref().ok());
        let waiting = waiting.filter_map(|(chunk, _)| orders.get(chunk).copied());
        waiting.chain([self.0.applied_order.get()]).min().unwrap_or(0)
    }

    /// Makes sure that no other owner has come, unless that is known: a record that nobody reads, on all
    /// shards of a chunk that another owner would have sealed.
    pub(super) async fn confirm(&self) -> Result<(), VolumeError> {
        let is_fresh = || self.0.platform.clock().now().saturating_since(self.0.confirmed.get()) < LEASE;
        if is_fresh() || self.0.platform.planted(PlantedBug::VolumeReadUnconfirmed) {
            return Ok(());
        }
        let entry = Entry { kind: EntryKind::Clear, start: 0, len: 0 };
        let wait = self.enter(entry, Bytes::new(), None).await?;
        all(vec![wait]).await
    }

    /// Copies what is alive of these ranges out of a chunk; answers when the index has them.
    pub(super) async fn copy_out(&self, from: u64, pieces: Vec<(Entry, Bytes)>) -> Result<(), VolumeError> {
        let mut waits = Vec::new();
        let mut changes = Vec::with_capacity(pieces.len());
        for (entry, data) in pieces {
            let pin = self.pinned(entry).await?;
            let (done, wait) = oneshot::channel();
            waits.push(wait);
            changes.push(Change { entry, data, done, with_next: false, _pin: pin, _hold: None });
        }
        self.begin(changes, record_kind::MOVED, from);
        all(waits).await
    }
}

pub(super) async fn all(waits: Vec<Wait>) -> Result<(), VolumeError> {
    let mut outcome = Ok(());
    for wait in waits {
        let one = wait.await.unwrap_or_else(|_| Err(VolumeError::Unavailable("the process is stopping".into())));
        outcome = outcome.and(one);
    }
    outcome
}

/// What a record does to the index. Its data begins at `offset` of `chunk`. Answers how many bytes of it were
/// moved in vain, because something else was written there since.
pub(super) fn carry_out(index: &mut Index, entries: &[Entry], moved_from: u64, chunk: u64, offset: u64) -> u64 {
    let (mut at, mut in_vain) = (offset, 0);
    for entry in entries {
        let (start, len) = (entry.start, u64::from(entry.len));
        match entry.kind {
            EntryKind::Clear => index.clear(start, len),
            EntryKind::Write => {
                if moved_from == 0 {
                    index.set(start, len, chunk, at);
                } else {
                    in_vain += len - index.set_moved(moved_from, start, len, chunk, at);
                }
                at += len;
            }
        }
    }
    in_vain
}
