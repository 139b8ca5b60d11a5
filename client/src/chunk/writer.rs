//! The chunk writer: appends to granted chunks; every shard must ack; at any doubt it gives the
//! chunk up, has it sealed behind its back, and goes on in another one, granted ahead.
//!
//! ```text
//! append -> chunk with room -> all shards at once -> all acked: extent
//!                                   | any error: chunk is broken, same bytes to the next chunk
//! ```
//!
//! A chunk stays pinned while extents in it may still be committed; when the last pin goes the
//! metaserver is told that this session will not name it again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use platform::clock::Instant;
use platform::planted::PlantedBug;
use proto::meta::ChunkEntry;
use proto::rows::ShardRow;
use proto::service::code;
use rpc::call::CallError;
use rpc::request::carried;
use thiserror::Error;
use tokio::sync::Notify;
use types::extent::Extent;
use types::ids::{ChunkId, Partition};
use types::redundancy::{Filling, Redundancy};

use super::farewell::Farewells;
use super::parity::Parity;
use super::shards::Shards;
use crate::meta::{MetaClient, MetaError};

/// The most bytes one shard takes in one append.
pub const APPEND_MAX: usize = 1 << 20;
/// How long an append tries before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Chunks that an append gives up without a rest between them.
const GIVEN_UP_AT_ONCE: u32 = 2;
/// The first rest; each is twice the one before, up to 64 times this.
const REST_MIN: Duration = Duration::from_millis(4);
/// For how long chunks that are somebody's are kept ahead, at the pace at which the last one was filled: the
/// metaservers may be gone for so long, and nobody who writes notices.
const AHEAD: Duration = Duration::from_secs(45);
/// So many at most.
const AHEAD_MAX: usize = 80;
/// Granted at once.
const GRANT_MAX: usize = 16;
/// Before chunks are asked for again that nobody waits for, when there were none.
const GRANT_REST: Duration = Duration::from_secs(1);

/// Why bytes could not be stored.
#[derive(Debug, Error, Clone)]
pub enum WriteError {
    /// No chunk could be had or none took the bytes in time.
    #[error("no chunk took the bytes: {0}")]
    Unavailable(String),
    /// The pool is full.
    #[error("no space: {0}")]
    NoSpace(String),
    /// The session has ended: the whole operation must begin anew.
    #[error("the session has ended")]
    SessionEnded,
}

impl From<MetaError> for WriteError {
    fn from(error: MetaError) -> WriteError {
        match error {
            MetaError::SessionEnded => WriteError::SessionEnded,
            MetaError::Failed(failure) if failure.code == code::FULL => WriteError::NoSpace(failure.text),
            other => WriteError::Unavailable(other.to_string()),
        }
    }
}

/// Why an append failed.
struct Failed {
    why: String,
    /// The chunk was sealed behind its writer: that says nothing about the next one.
    is_sealed: bool,
}

impl Failed {
    fn by(error: &CallError) -> Failed {
        let is_sealed =
            matches!(error, CallError::Refused(failure) if matches!(failure.code, code::FENCED | code::SEALED));
        Failed { why: error.to_string(), is_sealed }
    }

    fn with_another() -> Failed {
        Failed { why: "an earlier append failed".into(), is_sealed: false }
    }
}

/// A chunk granted to this process.
struct OpenChunk {
    chunk: u64,
    epoch: u64,
    session: u64,
    cell: usize,
    capacity: u64,
    shards: Vec<ShardRow>,
    /// Disks that were known to be slow when it was granted.
    slow: Vec<u64>,
    /// When it was granted: what failed before was known to the planner.
    granted: Instant,
    /// Logical bytes handed out.
    used: Cell<u64>,
    broken: Cell<bool>,
    broke: Notify,
    farewells: Farewells,
}

impl Drop for OpenChunk {
    fn drop(&mut self) {
        self.farewells.say(self.chunk, self.session, true);
    }
}

/// Keeps a chunk from being released while its extents may still be committed.
#[derive(Clone)]
pub struct Pin(#[expect(dead_code, reason = "held for its drop")] Rc<OpenChunk>);

/// One line of chunks: same partition, same policy now and in the end.
struct Line {
    partition: Partition,
    filling: Filling,
    current: RefCell<Option<Rc<OpenChunk>>>,
    ahead: RefCell<VecDeque<Rc<OpenChunk>>>,
    granting: Cell<bool>,
    granted: Notify,
    failure: RefCell<Option<(u64, MetaError)>>,
    grants: Cell<u64>,
    /// Since when its pace is measured, and the bytes appended since then.
    begun: Cell<Option<Instant>>,
    bytes: Cell<u64>,
    /// How many chunks are to be ahead.
    pace: Cell<usize>,
    /// No chunks are asked for ahead of need before that.
    rests_until: Cell<Option<Instant>>,
}

impl Line {
    /// Another chunk of `capacity` bytes is begun: the time that the last ones took says how many are to be ahead.
    fn begin(&self, now: Instant, capacity: u64) {
        let bytes = self.bytes.get();
        if let Some(begun) = self.begun.get() {
            // Given up, not filled: that says nothing.
            if bytes < capacity / 2 {
                return;
            }
            let took = now.saturating_since(begun).max(Duration::from_millis(1));
            let chunks = (AHEAD.as_nanos() * u128::from(bytes)).div_ceil(took.as_nanos() * u128::from(capacity));
            self.pace.set(usize::try_from(chunks).unwrap_or(AHEAD_MAX).clamp(1, AHEAD_MAX));
        }
        self.begun.set(Some(now));
        self.bytes.set(0);
    }
}

/// Notes in the metadata that chunks are granted, before the first byte goes there.
pub type Claim = Box<dyn Fn(Vec<ChunkEntry>) -> std::pin::Pin<Box<dyn Future<Output = Result<(), MetaError>>>>>;

struct Inner {
    /// It writes to free space.
    reserve: bool,
    claim: Option<(Claim, u64)>,
    meta: MetaClient,
    shards: Shards,
    lines: RefCell<BTreeMap<(Partition, Filling), Rc<Line>>>,
    parity: Parity,
    farewells: Farewells,
}

/// The writer of a process. Cheap to clone.
#[derive(Clone)]
pub struct ChunkWriter(Rc<Inner>);

impl ChunkWriter {
    /// A writer; it grants itself chunks when the first bytes come.
    pub fn new(meta: MetaClient, shards: Shards) -> ChunkWriter {
        ChunkWriter::taking(false, None, meta, shards)
    }

    /// A writer whose chunks are somebody's before they are written, and take `chunk_max` logical bytes at most.
    pub fn claiming(meta: MetaClient, shards: Shards, claim: Claim, chunk_max: u64) -> ChunkWriter {
        ChunkWriter::taking(false, Some((claim, chunk_max)), meta, shards)
    }

    /// A writer of bytes that are moved to free space: it may take from what nearly full disks
    /// keep for that.
    pub fn from_reserve(meta: MetaClient, shards: Shards) -> ChunkWriter {
        ChunkWriter::taking(true, None, meta, shards)
    }

    fn taking(reserve: bool, claim: Option<(Claim, u64)>, meta: MetaClient, shards: Shards) -> ChunkWriter {
        ChunkWriter(Rc::new(Inner {
            reserve,
            claim,
            farewells: Farewells::new(meta.clone()),
            meta,
            shards,
            lines: RefCell::new(BTreeMap::new()),
            parity: Parity::default(),
        }))
    }

    /// The platform beneath.
    pub fn platform(&self) -> &platform::Platform {
        self.0.meta.platform()
    }

    /// Gives back the chunks that are kept open for other policies than this one: when the cluster's
    /// redundancy changes they are sealed, and laid out anew.
    pub fn keep_only(&self, policy: Redundancy) {
        let kept = [Filling::from(policy), policy.small()];
        // Dropped outside the borrow: the last holder of a chunk says farewell.
        let mut gone = Vec::new();
        self.0.lines.borrow_mut().retain(|(_, filling), line| {
            let keep = kept.contains(filling) || line.granting.get();
            if !keep {
                gone.push(Rc::clone(line));
            }
            keep
        });
    }

    /// Bytes of a stripe of this policy in the next chunk: the unit of [`ChunkWriter::append`].
    ///
    /// # Errors
    /// No chunk can be had.
    pub async fn stripe_len(&self, partition: Partition, policy: Redundancy) -> Result<usize, WriteError> {
        match policy {
            Redundancy::Copies(_) => Ok(1),
            Redundancy::Erasure { data, .. } => {
                let line = self.line(partition, policy.into());
                let chunk = self.chunk_with_room(&line, 1).await?;
                Ok(usize::from(data) * chunk.cell)
            }
        }
    }

    /// Stores `data` (for erasure: whole stripes, at most [`APPEND_MAX`] a column; for copies at
    /// most [`APPEND_MAX`]); durable on all shards when this returns. `logical` of the extent is 0.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing is visible then.
    pub async fn append(
        &self,
        partition: Partition,
        filling: impl Into<Filling>,
        data: Bytes,
    ) -> Result<(Extent, Pin), WriteError> {
        let filling = filling.into();
        let policy = filling.policy;
        let clock = self.platform().clock().clone();
        let deadline = clock.now() + PATIENCE;
        let line = self.line(partition, filling);
        let mut columns: Option<(usize, Vec<Bytes>)> = None;
        let mut given_up = 0u32;
        loop {
            let open = self.chunk_with_room(&line, data.len() as u64).await?;
            if columns.as_ref().is_none_or(|(cell, _)| *cell != open.cell) {
                columns = Some((open.cell, self.columns(policy, open.cell, &data)));
            }
            let Some((_, payloads)) = &columns else { continue };
            let offset = open.used.get();
            // Room may have gone while columns were made (no await lies between, but be sure).
            assert!(offset + data.len() as u64 <= open.capacity, "append beyond the chunk's capacity");
            open.used.set(offset + data.len() as u64);
            line.bytes.set(line.bytes.get() + data.len() as u64);
            let shard_offset = offset / policy.needed() as u64;
            let Failed { why, is_sealed } = match self.append_all(&open, shard_offset, payloads).await {
                Ok(()) => {
                    let extent = Extent { logical: 0, chunk: ChunkId(open.chunk), offset, len: data.len() as u64 };
                    return Ok((extent, Pin(open)));
                }
                Err(failed) => failed,
            };
            tracing::debug!(chunk = %ChunkId(open.chunk), %why, "chunk given up, going on in another one");
            self.give_up(&line, &open);
            if clock.now() >= deadline {
                return Err(WriteError::Unavailable(why));
            }
            if is_sealed {
                continue;
            }
            // One disk that fails costs a chunk or two; in an outage every try would cost one more.
            if given_up >= GIVEN_UP_AT_ONCE {
                let doublings = (given_up - GIVEN_UP_AT_ONCE).min(6);
                clock.sleep(REST_MIN * (1 << doublings)).await;
            }
            given_up += 1;
        }
    }

    /// What each shard takes of `data` (whole stripes of a policy with parity), by index.
    pub(crate) fn columns(&self, policy: Redundancy, cell: usize, data: &Bytes) -> Vec<Bytes> {
        assert!(data.len() / policy.needed() <= APPEND_MAX, "more than an append takes");
        self.0.parity.columns(self.platform(), policy, cell, data)
    }

    /// The arithmetic of stripes.
    pub fn parity(&self) -> &Parity {
        &self.0.parity
    }

    async fn append_all(&self, open: &Rc<OpenChunk>, offset: u64, payloads: &[Bytes]) -> Result<(), Failed> {
        let broke = open.broke.notified();
        if open.broken.get() {
            return Err(Failed::with_another());
        }
        let request = self.0.meta.peers().new_request();
        let calls = open.shards.iter().map(|shard| {
            let payload = payloads[shard.index as usize].clone();
            self.0.shards.append(open.chunk, *shard, open.epoch, offset, payload, self.0.reserve, request)
        });
        let all = join_all(calls);
        tokio::select! {
            biased;
            acks = all => match self.first_error(acks) {
                None => Ok(()),
                Some(error) => Err(Failed::by(&error)),
            },
            () = broke => Err(Failed::with_another()),
        }
    }

    /// Every shard must have acknowledged.
    fn first_error<T, E>(&self, acks: Vec<Result<T, E>>) -> Option<E> {
        let (all, mut errors) = (acks.len(), acks.into_iter().filter_map(Result::err));
        let first = errors.next();
        let one_alone = errors.next().is_none() && all > 2;
        first.filter(|_| !(one_alone && self.platform().planted(PlantedBug::AckWithoutOne)))
    }

    fn give_up(&self, line: &Line, open: &Rc<OpenChunk>) {
        line.current.borrow_mut().take_if(|current| Rc::ptr_eq(current, open));
        if !open.broken.replace(true) {
            open.broke.notify_waiters();
            // Sealed soon, so that its missing shard is rebuilt; released when the last pin goes.
            self.0.farewells.say(open.chunk, open.session, false);
        }
    }

    fn line(&self, partition: Partition, filling: Filling) -> Rc<Line> {
        let mut lines = self.0.lines.borrow_mut();
        let line = lines.entry((partition, filling)).or_insert_with(|| {
            Rc::new(Line {
                partition,
                filling,
                current: RefCell::new(None),
                ahead: RefCell::new(VecDeque::new()),
                granting: Cell::new(false),
                granted: Notify::new(),
                failure: RefCell::new(None),
                grants: Cell::new(0),
                begun: Cell::new(None),
                bytes: Cell::new(0),
                pace: Cell::new(1),
                rests_until: Cell::new(None),
            })
        });
        Rc::clone(line)
    }

    /// A chunk of the line with room for `len` more logical bytes.
    async fn chunk_with_room(&self, line: &Rc<Line>, len: u64) -> Result<Rc<OpenChunk>, WriteError> {
        loop {
            let session = self.0.meta.session();
            let usable = |open: &Rc<OpenChunk>| {
                let suspect = open.used.get() == 0
                    && open.shards.iter().any(|shard| self.0.shards.disks().failed_since(shard.disk, open.granted));
                // Not given up: what is under way in it is waited for, what comes goes to another one.
                let slowed = open
                    .shards
                    .iter()
                    .any(|shard| self.0.shards.disks().is_slow(shard.disk) && !open.slow.contains(&shard.disk));
                let suspect = suspect || slowed;
                !open.broken.get() && open.session == session && open.used.get() + len <= open.capacity && !suspect
            };
            {
                let mut current = line.current.borrow_mut();
                if let Some(open) = current.as_ref().filter(|open| usable(open)) {
                    let open = Rc::clone(open);
                    drop(current);
                    if self.is_short(line, &open) {
                        self.grant_ahead(line);
                    }
                    return Ok(open);
                }
                *current = None;
                let mut ahead = line.ahead.borrow_mut();
                while let Some(next) = ahead.pop_front() {
                    if len > next.capacity {
                        let text = format!("{len} bytes are more than a chunk of {} takes", next.capacity);
                        return Err(WriteError::Unavailable(text));
                    }
                    if usable(&next) {
                        line.begin(self.platform().clock().now(), next.capacity);
                        *current = Some(Rc::clone(&next));
                        break;
                    }
                }
                if current.is_some() {
                    continue;
                }
            }
            let grants = line.grants.get();
            let granted = line.granted.notified();
            self.grant_ahead(line);
            granted.await;
            if let Some((number, error)) = &*line.failure.borrow()
                && *number > grants
            {
                return Err(error.clone().into());
            }
        }
    }

    /// Whether fewer chunks are ahead than should be.
    fn is_short(&self, line: &Line, open: &OpenChunk) -> bool {
        let now = self.platform().clock().now();
        let (ahead, rests) = (line.ahead.borrow().len(), line.rests_until.get().is_some_and(|until| now < until));
        match self.0.claim {
            None => ahead == 0 && open.used.get() > open.capacity / 2,
            // Not one by one.
            Some(_) => !rests && ahead < line.pace.get().saturating_sub(line.pace.get() / 4),
        }
    }

    /// Asks for the next chunks unless somebody does already. Runs as a task of its own, so that a
    /// caller that gives up leaves no grant behind.
    fn grant_ahead(&self, line: &Rc<Line>) {
        if line.granting.get() {
            return;
        }
        line.granting.set(true);
        let count = match self.0.claim {
            None => 1,
            Some(_) => line.pace.get().saturating_sub(line.ahead.borrow().len()).clamp(1, GRANT_MAX),
        };
        let (this, line) = (self.clone(), Rc::clone(line));
        self.platform().tasks().spawn(carried(async move {
            let session = this.0.meta.register().await;
            let avoid = this.0.shards.disks().avoid();
            let slow = avoid.slow.clone();
            let granted = match session {
                Ok(_) => this.0.meta.grant(line.partition, line.filling, count, this.0.reserve, avoid).await,
                Err(error) => Err(error),
            };
            let granted = match (&this.0.claim, granted) {
                (Some((claim, _)), Ok(chunks)) => match claim(chunks.clone()).await {
                    Ok(()) => Ok(chunks),
                    Err(error) => {
                        for entry in chunks {
                            this.0.farewells.say(entry.chunk, entry.row.session, true);
                        }
                        Err(error)
                    }
                },
                (_, granted) => granted,
            };
            if let Ok(chunks) = &granted {
                this.look_up(chunks).await;
            }
            line.grants.set(line.grants.get() + 1);
            match granted {
                Ok(chunks) => {
                    let opened = chunks.into_iter().map(|entry| Rc::new(this.open(entry, &slow)));
                    line.ahead.borrow_mut().extend(opened);
                }
                Err(error) => {
                    line.rests_until.set(Some(this.platform().clock().now() + GRANT_REST));
                    *line.failure.borrow_mut() = Some((line.grants.get(), error));
                }
            }
            line.granting.set(false);
            line.granted.notify_waiters();
        }));
    }

    /// Learns where the disks of these chunks are, some of which may have come since the map was fetched: by the time
    /// the chunks are written to, there may be no metaserver to ask.
    async fn look_up(&self, chunks: &[ChunkEntry]) {
        for shard in chunks.iter().flat_map(|entry| &entry.row.shards) {
            if let Err(error) = self.0.shards.disks().place(shard.disk).await {
                tracing::debug!(%error, disk = shard.disk, "where a disk is will be asked when it is written to");
                return;
            }
        }
    }

    /// `slow` = disks that it was known with: it may lie on them, for lack of others.
    fn open(&self, entry: ChunkEntry, slow: &[u64]) -> OpenChunk {
        OpenChunk {
            chunk: entry.chunk,
            epoch: entry.row.epoch,
            session: entry.row.session,
            cell: entry.row.cell_size.max(1) as usize,
            capacity: entry.row.capacity.min(self.0.claim.as_ref().map_or(u64::MAX, |(_, chunk_max)| *chunk_max)),
            slow: slow.to_vec(),
            shards: entry.row.shards,
            granted: self.platform().clock().now(),
            used: Cell::new(0),
            broken: Cell::new(false),
            broke: Notify::new(),
            farewells: self.0.farewells.clone(),
        }
    }
}
