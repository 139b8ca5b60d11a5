//! The chunk reader: any enough shards, hedged, reconstructing within the same request.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use platform::buffer::Buffer;
use proto::meta::ChunkEntry;
use proto::query::{Ask, AskBlob, AskChunks};
use proto::rows::{BlobRow, ChunkRow, ShardRow};
use thiserror::Error;
use types::ids::{ChunkId, Partition};
use types::redundancy::Redundancy;

use super::cache::Cache;
use super::layout::{ColumnRun, column_runs, scatter};
use super::shards::Shards;
use super::writer::ChunkWriter;
use crate::disks::DiskMap;
use crate::meta::{MetaClient, MetaError};

/// The most logical bytes of one read.
pub const READ_MAX: u64 = 1 << 20;
/// A hedge is sent after this multiple of the usual latency.
const HEDGE_FACTOR: u32 = 4;
const HEDGE_MIN: Duration = Duration::from_millis(10);
const HEDGE_MAX: Duration = Duration::from_millis(500);
/// How often the layout is fetched again before a read gives up.
const ATTEMPTS: usize = 4;
/// Bytes of a copy that are read from the same shard.
const RANGE_LEN: u64 = 1 << 20;
/// Layouts remembered.
const LAYOUTS_MAX: usize = 4096;

/// Why bytes could not be read.
#[derive(Debug, Error, Clone)]
pub enum ReadError {
    /// The chunk is gone: the object was deleted meanwhile.
    #[error("chunk {0} does not exist any more")]
    Gone(ChunkId),
    /// Too few shards answered with good bytes.
    #[error("{0}")]
    TooFewShards(String),
    /// The metaserver.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

struct Inner {
    meta: MetaClient,
    shards: Shards,
    writer: ChunkWriter,
    cache: Cache,
    layouts: RefCell<BTreeMap<u64, Rc<ChunkRow>>>,
    /// Usual latency of a shard read, microseconds (smoothed).
    usual_us: Cell<u64>,
    reconstructed: Cell<u64>,
    hedged: Cell<u64>,
}

/// The reader of a process. Cheap to clone.
#[derive(Clone)]
pub struct ChunkReader(Rc<Inner>);

impl ChunkReader {
    /// A reader with a cache of `cache_bytes`.
    pub fn new(meta: MetaClient, shards: Shards, writer: ChunkWriter, cache_bytes: usize) -> ChunkReader {
        ChunkReader(Rc::new(Inner {
            meta,
            shards,
            writer,
            cache: Cache::new(cache_bytes),
            layouts: RefCell::new(BTreeMap::new()),
            usual_us: Cell::new(1000),
            reconstructed: Cell::new(0),
            hedged: Cell::new(0),
        }))
    }

    /// The platform beneath.
    pub fn platform(&self) -> &platform::Platform {
        self.0.meta.platform()
    }

    /// Where a blob's bytes lie now; `None` if it is gone.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn blob(&self, partition: Partition, blob: u64) -> Result<Option<BlobRow>, ReadError> {
        let ask = Ask::Blob(AskBlob { partition: u32::from(partition.0), blob });
        let view = self.0.meta.query(ask).await?;
        self.learn(view.chunks);
        Ok(view.blobs.into_iter().next())
    }

    /// Layouts that came with an object's row.
    pub fn learn(&self, entries: Vec<ChunkEntry>) {
        let mut layouts = self.0.layouts.borrow_mut();
        for entry in entries {
            layouts.insert(entry.chunk, Rc::new(entry.row));
        }
        while layouts.len() > LAYOUTS_MAX {
            layouts.pop_first();
        }
    }

    /// Logical bytes of a sealed chunk; the last stripe counts whole.
    ///
    /// # Errors
    /// It is gone, or no leader answers in time.
    pub async fn sealed_len(&self, chunk: ChunkId) -> Result<u64, ReadError> {
        let row = self.layout(chunk, true).await?;
        Ok(row.sealed_len * row.redundancy.policy().map_or(1, |policy| policy.needed()) as u64)
    }

    /// The disks as seen here.
    pub fn disks(&self) -> &DiskMap {
        self.0.shards.disks()
    }

    /// Appends whose parity came out wrong and was computed anew.
    pub fn parity_wrong(&self) -> u64 {
        self.0.writer.parity().wrong()
    }

    /// Reads that had to be reconstructed, and reads that were hedged, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.reconstructed.get(), self.0.hedged.get())
    }

    /// Hits and misses of the cache.
    pub fn cache_counts(&self) -> (u64, u64) {
        self.0.cache.counts()
    }

    /// Reads `len` (at most [`READ_MAX`]) logical bytes at `offset` of a chunk, verified.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, chunk: ChunkId, offset: u64, len: u64) -> Result<Bytes, ReadError> {
        if let Some(bytes) = self.0.cache.get(chunk.0, offset, len) {
            return Ok(bytes);
        }
        let bytes = self.read_once(chunk, offset, len).await?;
        self.0.cache.put(chunk.0, offset, bytes.clone());
        Ok(bytes)
    }

    /// [`ChunkReader::read`] of what nobody will read here again: past the cache.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_once(&self, chunk: ChunkId, offset: u64, len: u64) -> Result<Bytes, ReadError> {
        assert!(len > 0 && len <= READ_MAX, "read out of bounds");
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            let row = self.layout(chunk, attempt > 0).await?;
            match self.read_by(chunk, &row, offset, len).await {
                Ok(bytes) => return Ok(bytes),
                Err(why) => last = why,
            }
            if attempt > 0 {
                self.platform().clock().sleep(Duration::from_millis(50 << attempt)).await;
                Box::pin(self.0.shards.disks().refresh()).await?;
            }
        }
        Err(ReadError::TooFewShards(format!("chunk {chunk} at {offset}: {last}")))
    }

    async fn layout(&self, chunk: ChunkId, fresh: bool) -> Result<Rc<ChunkRow>, ReadError> {
        if !fresh && let Some(row) = self.0.layouts.borrow().get(&chunk.0) {
            return Ok(Rc::clone(row));
        }
        let view = Box::pin(self.0.meta.query(Ask::Chunks(AskChunks { chunks: vec![chunk.0] }))).await?;
        let Some(entry) = view.chunks.into_iter().next() else { return Err(ReadError::Gone(chunk)) };
        let row = Rc::new(entry.row.clone());
        self.learn(vec![entry]);
        Ok(row)
    }

    async fn read_by(&self, chunk: ChunkId, row: &ChunkRow, offset: u64, len: u64) -> Result<Bytes, String> {
        match row.redundancy.policy() {
            None => Err("layout without a policy".into()),
            Some(Redundancy::Copies(_)) => self.read_copies(chunk, row, offset, len).await,
            Some(Redundancy::Erasure { data, parity }) => {
                Box::pin(self.read_erasure(chunk, row, (data, parity), offset, len)).await
            }
        }
    }

    fn hedge_after(&self) -> Duration {
        (Duration::from_micros(self.0.usual_us.get()) * HEDGE_FACTOR).clamp(HEDGE_MIN, HEDGE_MAX)
    }

    async fn timed(&self, chunk: ChunkId, shard: ShardRow, offset: u64, len: u64) -> Result<Bytes, String> {
        let clock = self.platform().clock();
        let start = clock.now();
        let request = self.0.meta.peers().new_request();
        let read = self.0.shards.read(chunk.0, shard, offset, len as u32, request).await;
        match read {
            Ok(bytes) => {
                let took = clock.now().saturating_since(start).as_micros() as u64;
                self.0.usual_us.set((self.0.usual_us.get() * 15 + took) / 16);
                Ok(bytes)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Copies in the order they should be tried: healthy ones first, and each range by one of its own, so
    /// that what a store remembers of a range serves the next read of it.
    fn order(&self, chunk: ChunkId, offset: u64, shards: &[ShardRow]) -> Vec<ShardRow> {
        let turn = chunk.0.wrapping_add(offset / RANGE_LEN);
        let mut order = shards.to_vec();
        if !order.is_empty() {
            let by = (turn % order.len() as u64) as usize;
            order.rotate_left(by);
        }
        order.sort_by_key(|shard| (shard.bad, self.0.shards.disks().is_suspect(shard.disk)));
        order
    }

    async fn read_copies(&self, chunk: ChunkId, row: &ChunkRow, offset: u64, len: u64) -> Result<Bytes, String> {
        let mut order = self.order(chunk, offset, &row.shards).into_iter();
        let mut last = "chunk has no shards".to_owned();
        let clock = self.platform().clock();
        let Some(first) = order.next() else { return Err(last) };
        // Most reads need nothing but this.
        let mut first = Box::pin(self.timed(chunk, first, offset, len));
        let mut running = FuturesUnordered::new();
        match clock.timeout(self.hedge_after(), &mut first).await {
            Ok(Ok(bytes)) => return Ok(bytes),
            Ok(Err(why)) => last = why,
            Err(_) => {
                running.push(first);
                if let Some(shard) = order.next() {
                    self.0.hedged.set(self.0.hedged.get() + 1);
                    running.push(Box::pin(self.timed(chunk, shard, offset, len)));
                }
            }
        }
        loop {
            if running.is_empty() {
                match order.next() {
                    Some(shard) => running.push(Box::pin(self.timed(chunk, shard, offset, len))),
                    None => return Err(last),
                }
            }
            match clock.timeout(self.hedge_after(), running.next()).await {
                Ok(Some(Ok(bytes))) => return Ok(bytes),
                Ok(Some(Err(why))) => last = why,
                Ok(None) => {}
                Err(_) => {
                    // Slow: ask another shard as well. When there is none, wait on.
                    if let Some(shard) = order.next() {
                        self.0.hedged.set(self.0.hedged.get() + 1);
                        running.push(Box::pin(self.timed(chunk, shard, offset, len)));
                    } else if let Some(answer) = running.next().await {
                        match answer {
                            Ok(bytes) => return Ok(bytes),
                            Err(why) => last = why,
                        }
                    }
                }
            }
        }
    }

    async fn read_erasure(
        &self,
        chunk: ChunkId,
        row: &ChunkRow,
        shape: (u8, u8),
        offset: u64,
        len: u64,
    ) -> Result<Bytes, String> {
        let (data, cell) = (usize::from(shape.0), row.cell_size.max(1));
        let end = offset + len;
        let runs = column_runs(data, cell, offset, end);
        let mut out = Buffer::zeroed(len as usize);
        let reads = runs.iter().map(|run| {
            let shard = row.shards.iter().find(|shard| shard.index as usize == run.column).copied();
            async move {
                let Some(shard) = shard.filter(|shard| !self.0.shards.disks().is_suspect(shard.disk)) else {
                    return Err("shard is missing".to_owned());
                };
                let clock = self.platform().clock();
                // Beyond the usual, reconstruction from the others is quicker than waiting.
                match clock
                    .timeout(self.hedge_after() * 2, self.timed(chunk, shard, run.start, run.end - run.start))
                    .await
                {
                    Ok(answer) => answer,
                    Err(_) => Err("shard is slow".to_owned()),
                }
            }
        });
        let answers = futures_util::future::join_all(reads).await;
        let mut missing: Vec<ColumnRun> = Vec::new();
        for (run, answer) in runs.iter().zip(answers) {
            match answer {
                Ok(bytes) => scatter(data, cell, *run, &bytes, offset, end, &mut out),
                Err(_) => missing.push(*run),
            }
        }
        if !missing.is_empty() {
            self.0.reconstructed.set(self.0.reconstructed.get() + 1);
            for run in missing {
                let bytes = self.rebuild(chunk, row, shape, run.column, run.start, run.end).await?;
                scatter(data, cell, run, &bytes, offset, end, &mut out);
            }
        }
        Ok(out.freeze())
    }

    /// Computes `start..end` of one column from any `data` other shards.
    ///
    /// # Errors
    /// Too few of them answer.
    pub async fn rebuild(
        &self,
        chunk: ChunkId,
        row: &ChunkRow,
        shape: (u8, u8),
        column: usize,
        start: u64,
        end: u64,
    ) -> Result<Bytes, String> {
        let needed = usize::from(shape.0);
        let others: Vec<ShardRow> = row.shards.iter().copied().filter(|shard| shard.index as usize != column).collect();
        let mut order = self.order(chunk, start, &others).into_iter();
        let mut running = FuturesUnordered::new();
        let mut present: Vec<(usize, Bytes)> = Vec::new();
        let mut last = "too few shards".to_owned();
        let ask = |shard: ShardRow| async move { (shard, self.timed(chunk, shard, start, end - start).await) };
        loop {
            while present.len() + running.len() < needed {
                match order.next() {
                    Some(shard) => running.push(ask(shard)),
                    None => {
                        // The shard itself may be merely slow.
                        if let Some(own) = row.shards.iter().find(|shard| shard.index as usize == column) {
                            return self.timed(chunk, *own, start, end - start).await.map_err(|_| last);
                        }
                        return Err(last);
                    }
                }
            }
            match running.next().await {
                Some((shard, Ok(bytes))) => present.push((shard.index as usize, bytes)),
                Some((_, Err(why))) => last = why,
                None => {}
            }
            if present.len() == needed {
                let mut out = Buffer::zeroed((end - start) as usize);
                let sources: Vec<(usize, &[u8])> = present.iter().map(|(index, bytes)| (*index, &bytes[..])).collect();
                let coder = self.0.writer.parity().coder(shape.0, shape.1);
                coder.reconstruct(&sources, &mut [(column, &mut out[..])]).map_err(|error| error.to_string())?;
                return Ok(out.freeze());
            }
        }
    }
}
