//! Repairs: planned by the leader (`repairs`), leased to executors, committed here.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::clock::Instant;
use proto::keys;
use proto::meta::{Body, ChunkEntry, DiskReport, FinishMove, Job, LeaseJobRequest, LiveExtent, StartMove, refusal};
use proto::rows::{BlobRow, ChunkRow, DiskRow, disk_state};
use types::ids::{BlobId, ChunkId};

use super::{MetaServer, Trouble, repairs};
use crate::apply::txn::Txn;
use crate::apply::txn::prost_free::Row;

/// Chunks looked at in one round of expiry.
const LOOK_MAX: usize = 256;
/// Chunks looked at in one search for crowded and mostly dead ones, and the pause between two.
const LOOK_CHUNKS: usize = 500;
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Extents, and bytes, moved by one compaction at most.
const COMPACT_EXTENTS: usize = 1000;
const COMPACT_BYTES: u64 = 64 << 20;

/// Work that is not urgent.
enum Found {
    Move(StartMove),
    Compact(Job),
}

impl MetaServer {
    /// Commits what the executor has done, then gives it the most urgent repair.
    pub(super) async fn lease_job(&self, ask: LeaseJobRequest) -> Result<Job, Trouble> {
        self.0.replica.read_barrier().await?;
        if let Some(done) = ask.done {
            self.finish(done).await?;
        }
        self.0.compacting.borrow_mut().remove(&ask.compacted);
        let start = match self.next_move()? {
            Some(start) => Some(start),
            None => match self.look_for_work()? {
                Some(Found::Move(start)) => Some(start),
                Some(Found::Compact(job)) => {
                    tracing::info!(extents = job.live.len(), executor = %ask.executor, "compaction leased");
                    return Ok(job);
                }
                None => None,
            },
        };
        let Some(start) = start else { return Ok(Job::default()) };
        let chunk = start.chunk;
        self.note_chosen(start.shards.iter().map(|shard| shard.disk));
        let outcome = self.propose_own(Body::StartMove(start)).await?;
        if outcome.refusal != refusal::NONE {
            return Ok(Job::default());
        }
        self.0.leased.borrow_mut().insert(outcome.number, self.0.platform.clock().now());
        tracing::info!(chunk, executor = %ask.executor, "repair leased");
        Ok(Job { chunk: outcome.chunks.into_iter().next(), live: Vec::new() })
    }

    fn next_move(&self) -> Result<Option<StartMove>, Trouble> {
        let now = self.0.platform.clock().now();
        if self.0.repairs.borrow().is_old(now) {
            self.order_repairs()?;
        }
        let disks = self.disks()?;
        let domains = domains(&disks);
        loop {
            let next = self.0.repairs.borrow_mut().next(now);
            let Some(chunk) = next else { break };
            let Some(row) = self.chunk(chunk)? else { continue };
            if row.pending_move.is_some() || repairs::lacking_indexes(&row).is_empty() {
                continue;
            }
            match repairs::plan(&row, &domains, &self.candidates(&[])?) {
                Some(shards) => return Ok(Some(StartMove { chunk, shards })),
                None => self.0.repairs.borrow_mut().failed(chunk, now),
            }
        }
        Ok(None)
    }

    fn order_repairs(&self) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let txn = Txn::new(self.0.replica.store());
        let mut lacking: Vec<(u64, ChunkRow)> = Vec::new();
        for (key, _) in txn.scan_prefix(&[keys::table::MISSING], usize::MAX)? {
            let Some(chunk) = keys::last_u64(&key) else { continue };
            if let Some(row) = self.chunk(chunk)? {
                lacking.push((chunk, row));
            }
        }
        let liveness = self.0.liveness.borrow();
        let live = |disk: u64| liveness.disk(disk, now, self.0.times.disk_silent).is_some_and(|heard| !heard.failed);
        let rows = lacking.iter().map(|(chunk, row)| (*chunk, row));
        self.0.repairs.borrow_mut().set_order(rows, live, now);
        Ok(())
    }

    /// How full each live disk is, in thousandths.
    fn fill(&self, now: Instant) -> BTreeMap<u64, u64> {
        let liveness = self.0.liveness.borrow();
        let of = |report: &DiskReport| {
            let used = report.total_bytes.saturating_sub(report.available_bytes);
            used.saturating_mul(1000).checked_div(report.total_bytes)
        };
        let live = liveness.live_disks(now, self.0.times.disk_silent);
        live.filter_map(|report| Some((report.disk, of(report)?))).collect()
    }

    /// When nothing lacks: a crowded chunk that can be spread, one with a shard on a disk that is
    /// much fuller than another, or a mostly dead one. Looks at a page of all chunks, at most once
    /// a second.
    fn look_for_work(&self) -> Result<Option<Found>, Trouble> {
        let now = self.0.platform.clock().now();
        if now.saturating_since(self.0.looked_at.get()) < LOOK_PAUSE {
            return Ok(None);
        }
        self.0.looked_at.set(now);
        let domains = domains(&self.disks()?);
        let candidates = self.candidates(&[])?;
        let fill = self.fill(now);
        let start = keys::chunk(ChunkId(self.0.looked_upto.get().saturating_add(1)));
        let end = keys::after_prefix(&[keys::table::CHUNK]);
        let (mut looked, mut found, mut fault) = (0, None, None);
        let mut compacting = self.0.compacting.borrow_mut();
        compacting.retain(|_, until| *until > now);
        self.0.replica.store().scan(&start, end.as_deref(), &mut |key, value| {
            looked += 1;
            let chunk = keys::last_u64(key).unwrap_or(0);
            self.0.looked_upto.set(chunk);
            match ChunkRow::from_bytes(value) {
                Ok(row) => {
                    let moved = repairs::plan_spread(&row, &domains, &candidates)
                        .or_else(|| repairs::plan_rebalance(&row, &domains, &candidates, &fill));
                    if let Some(shards) = moved {
                        found = Some((chunk, row, Some(shards)));
                    } else if repairs::is_mostly_dead(&row) && !compacting.contains_key(&chunk) {
                        found = Some((chunk, row, None));
                    }
                }
                Err(error) => fault = Some(error),
            }
            looked < LOOK_CHUNKS && found.is_none() && fault.is_none()
        })?;
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        if found.is_none() && looked < LOOK_CHUNKS {
            self.0.looked_upto.set(0);
        }
        match found {
            Some((chunk, _, Some(shards))) => Ok(Some(Found::Move(StartMove { chunk, shards }))),
            Some((chunk, row, None)) => {
                // Whatever becomes of it, it is tried again later.
                compacting.insert(chunk, now + self.0.times.job_lease);
                let live = self.live_extents(chunk)?;
                Ok(Some(Found::Compact(Job { chunk: Some(ChunkEntry { chunk, row }), live })))
            }
            None => Ok(None),
        }
    }

    /// What blobs use of a chunk: as much as one job moves.
    fn live_extents(&self, chunk: u64) -> Result<Vec<LiveExtent>, Trouble> {
        let txn = Txn::new(self.0.replica.store());
        let prefix = keys::references(ChunkId(chunk));
        let (mut live, mut bytes) = (Vec::new(), 0);
        for (key, _) in txn.scan_prefix(&prefix, COMPACT_EXTENTS)? {
            let Some(blob) = keys::last_u64(&key) else { continue };
            let row: Option<BlobRow> = txn.get(&keys::blob(ChunkId(chunk).partition(), BlobId(blob)))?;
            for extent in row.iter().flat_map(|row| &row.extents) {
                // A blob with several extents here has a reference for each: each is taken once.
                let here = extent.chunk == chunk && keys::reference(ChunkId(chunk), extent.offset, BlobId(blob)) == key;
                if here && bytes < COMPACT_BYTES {
                    bytes += extent.len;
                    live.push(LiveExtent { blob, extent: *extent });
                }
            }
        }
        Ok(live)
    }

    async fn finish(&self, done: FinishMove) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let before = self.chunk(done.chunk)?;
        let pending =
            before.as_ref().and_then(|row| row.pending_move.as_ref()).map_or(0, |pending| pending.shards.len());
        let bytes = before.as_ref().map_or(0, |row| row.sealed_len) * pending as u64;
        if !done.commit {
            self.0.repairs.borrow_mut().failed(done.chunk, now);
        }
        self.0.leased.borrow_mut().remove(&done.id);
        let outcome = self.propose_own(Body::FinishMove(done)).await?;
        if outcome.refusal == refusal::NONE && done.commit {
            self.0.repaired.set(self.0.repaired.get() + 1);
            self.0.repairs.borrow_mut().finished(done.chunk, bytes, now);
        }
        Ok(())
    }

    /// How far the repairs are.
    pub(super) fn repair_progress(&self) -> Result<repairs::Progress, Trouble> {
        let now = self.0.platform.clock().now();
        if self.0.repairs.borrow().is_old(now) {
            self.order_repairs()?;
        }
        let under_way = self.0.leased.borrow().len() as u64;
        Ok(self.0.repairs.borrow().progress(under_way, now))
    }

    /// Moves nobody works on any more are given up; their placements are deleted.
    pub(super) async fn expire_moves(&self) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let mut dead: Vec<ChunkEntry> = Vec::new();
        let txn = Txn::new(self.0.replica.store());
        for (key, _) in txn.scan_prefix(&[keys::table::MISSING], LOOK_MAX)? {
            let Some(chunk) = keys::last_u64(&key) else { continue };
            let Some(row) = self.chunk(chunk)? else { continue };
            if let Some(pending) = &row.pending_move {
                let mut leased = self.0.leased.borrow_mut();
                let since = *leased.entry(pending.id).or_insert(now);
                if now.saturating_since(since) > self.0.times.job_lease {
                    dead.push(ChunkEntry { chunk, row });
                }
            }
        }
        for entry in dead {
            if let Some(pending) = entry.row.pending_move {
                self.finish(FinishMove { chunk: entry.chunk, id: pending.id, commit: false }).await?;
            }
        }
        Ok(())
    }
}

fn domains(disks: &BTreeMap<u64, DiskRow>) -> BTreeMap<u64, String> {
    let used = disks.iter().filter(|(_, row)| row.state == disk_state::IN);
    used.map(|(disk, row)| (*disk, row.domain.clone())).collect()
}
