//! Moves, transcodes and compactions: planned by the leader (`planner`), leased to executors, committed here.

use std::collections::BTreeSet;
use std::time::Duration;

use platform::clock::Instant;
use proto::keys;
use proto::members::why;
use proto::meta::{Body, ChunkEntry, FinishMove, Job, LeaseJobRequest, LiveExtent, StartMove, refusal};
use proto::rows::{BlobRow, ChunkRow, disk_state};
use types::ids::{BlobId, ChunkId};

use super::planner::{self, Pool, Step};
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

/// A pending move, and who carries it out.
pub(super) struct Lease {
    chunk: u64,
    since: Instant,
    why: u32,
    /// Empty: another leader leased it.
    executor: String,
}

/// Work that is not urgent.
enum Found {
    Move(Step),
    Compact(Job),
}

impl MetaServer {
    /// Commits what the executor has done, then gives it the most urgent work: repairs, then what
    /// leaves drained disks, then what can wait.
    pub(super) async fn lease_job(&self, ask: LeaseJobRequest) -> Result<Job, Trouble> {
        self.0.replica.read_barrier().await?;
        if let Some(done) = ask.done {
            self.finish(done).await?;
        }
        self.0.compacting.borrow_mut().remove(&ask.compacted);
        // Who asks for work carries out nothing: it was started anew, or never got the last answer.
        self.give_up_leases(|lease| !ask.executor.is_empty() && lease.executor == ask.executor).await?;
        let pool = self.pool()?;
        let step = match self.next_repair(&pool)? {
            Some(step) => Some(step),
            None => self.next_drain(&pool)?,
        };
        let step = match step {
            Some(step) => step,
            None => match self.look_for_work(&pool)? {
                Some(Found::Move(step)) => step,
                Some(Found::Compact(job)) => {
                    tracing::info!(extents = job.live.len(), executor = %ask.executor, "compaction leased");
                    return Ok(job);
                }
                None => return Ok(Job::default()),
            },
        };
        drop(pool);
        self.note_chosen(step.targets.iter().map(|shard| shard.disk));
        let start = StartMove { chunk: step.chunk, shards: step.targets.clone(), becomes: step.becomes };
        let being_begun = self.tell(step.clone());
        let outcome = self.propose_own(Body::StartMove(start)).await?;
        drop(being_begun);
        if outcome.refusal != refusal::NONE {
            return Ok(Job::default());
        }
        let since = self.0.platform.clock().now();
        tracing::info!(chunk = step.chunk, why = step.why, executor = %ask.executor, "move leased");
        let lease = Lease { chunk: step.chunk, since, why: step.why, executor: ask.executor };
        self.0.leased.borrow_mut().insert(outcome.number, lease);
        Ok(Job { chunk: outcome.chunks.into_iter().next(), live: Vec::new() })
    }

    fn next_repair(&self, pool: &Pool) -> Result<Option<Step>, Trouble> {
        let now = self.0.platform.clock().now();
        if self.0.repairs.borrow().is_old(now) {
            self.order_repairs()?;
        }
        loop {
            let next = self.0.repairs.borrow_mut().next(now);
            let Some(chunk) = next else { break };
            let Some(row) = self.chunk(chunk)? else { continue };
            if row.pending_move.is_some() || repairs::lacking_indexes(&row).is_empty() {
                continue;
            }
            match self.settled_step(pool, chunk, &row).filter(|step| !step.targets.is_empty()) {
                Some(step) => return Ok(Some(step)),
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

    /// When nothing lacks: a crowded chunk that can be spread, one with a shard on a disk that is
    /// much fuller than another, a full one of copies that is to become stripes, or a mostly dead one. Looks at a page of all chunks, at most once
    /// a second.
    fn look_for_work(&self, pool: &Pool) -> Result<Option<Found>, Trouble> {
        let now = self.0.platform.clock().now();
        if now.saturating_since(self.0.looked_at.get()) < LOOK_PAUSE {
            return Ok(None);
        }
        self.0.looked_at.set(now);
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
                    let step = pool
                        .step(chunk, &row)
                        .filter(|step| step.why != why::COMPACT || !compacting.contains_key(&chunk));
                    if step.is_some_and(|step| step.why >= why::SPREAD) {
                        found = Some((chunk, row));
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
        let Some((chunk, row)) = found else { return Ok(None) };
        match self.settled_step(pool, chunk, &row) {
            Some(step) if step.why == why::COMPACT => {
                // Whatever becomes of it, it is tried again later.
                compacting.insert(chunk, now + self.0.times.job_lease);
                let live = self.live_extents(chunk)?;
                Ok(Some(Found::Compact(Job { chunk: Some(ChunkEntry { chunk, row }), live })))
            }
            step => Ok(step.map(Found::Move)),
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
        let why = self.0.leased.borrow_mut().remove(&done.id).map_or(0, |lease| lease.why);
        let outcome = self.propose_own(Body::FinishMove(done)).await?;
        if outcome.refusal == refusal::NONE && done.commit {
            self.0.repaired.set(self.0.repaired.get() + 1);
            let mut repairs = self.0.repairs.borrow_mut();
            match why {
                why::DRAIN => self.0.agenda.borrow_mut().drained.note(bytes, now),
                why::REPAIR => repairs.finished(done.chunk, bytes, now),
                _ => {}
            }
            repairs.went_well(done.chunk);
        }
        Ok(())
    }

    /// How far the repairs are.
    pub(super) fn repair_progress(&self) -> Result<repairs::Progress, Trouble> {
        let now = self.0.platform.clock().now();
        if self.0.repairs.borrow().is_old(now) {
            self.order_repairs()?;
        }
        let under_way = self.0.leased.borrow().values().filter(|lease| lease.why == why::REPAIR).count() as u64;
        Ok(self.0.repairs.borrow().progress(under_way, now))
    }

    /// Moves nobody works on any more are given up; their placements are deleted.
    pub(super) async fn expire_moves(&self) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let draining = self.pool()?.draining.clone();
        let txn = Txn::new(self.0.replica.store());
        for (key, _) in txn.scan_prefix(&[keys::table::MISSING], LOOK_MAX)? {
            let Some(chunk) = keys::last_u64(&key) else { continue };
            let Some(row) = self.chunk(chunk)? else { continue };
            if let Some(pending) = &row.pending_move {
                let why = planner::why_pending(&row, &draining);
                let unknown = || Lease { chunk, since: now, why, executor: String::new() };
                self.0.leased.borrow_mut().entry(pending.id).or_insert_with(unknown);
            }
        }
        let dead = self.dead_nodes(now)?;
        let is_over = |lease: &Lease| {
            now.saturating_since(lease.since) > self.0.times.job_lease || dead.contains(&lease.executor)
        };
        self.give_up_leases(is_over).await
    }

    /// Nodes none of whose disks lives: what they had begun is not carried on. One that is only slow
    /// loses its work, and hears so when it reports it.
    fn dead_nodes(&self, now: Instant) -> Result<BTreeSet<String>, Trouble> {
        let liveness = self.0.liveness.borrow();
        let (mut dead, mut alive) = (BTreeSet::new(), BTreeSet::new());
        for (disk, row) in self.disks()?.iter() {
            let is_silent =
                liveness.disk_silence(*disk, now).is_some_and(|silence| silence > self.0.times.disk_silent * 2);
            let nodes = if row.state == disk_state::LOST || is_silent { &mut dead } else { &mut alive };
            nodes.insert(row.node.clone());
        }
        dead.retain(|node| !alive.contains(node));
        Ok(dead)
    }

    async fn give_up_leases(&self, is_over: impl Fn(&Lease) -> bool) -> Result<(), Trouble> {
        let over: Vec<FinishMove> = {
            let leased = self.0.leased.borrow();
            let over = leased.iter().filter(|(_, lease)| is_over(lease));
            over.map(|(id, lease)| FinishMove { chunk: lease.chunk, id: *id, commit: false }).collect()
        };
        for done in over {
            tracing::info!(chunk = done.chunk, id = done.id, "a move that nobody carries out is given up");
            self.finish(done).await?;
        }
        Ok(())
    }
}
