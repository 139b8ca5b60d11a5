//! The plan: what background work there is now, in the order in which it will be done.
//!
//! Executors find their work step by step (`jobs`); `bixi plan` looks at all of it at once. What it
//! told is kept here: a chunk that was planned moves to the homes that were told, as long as its
//! reason holds and they may be taken. In memory; each leader begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use platform::clock::Instant;
use proto::keys;
use proto::members::{PlanTotal, PlanView, PlannedMove, why};
use proto::rows::{ChunkRow, disk_state};
use types::ids::{ChunkId, DiskId};

use super::planner::{Pool, Step, why_pending};
use super::repairs::{Repairs, Speed};
use super::{MetaServer, Trouble};
use crate::apply::disks::is_needed;
use crate::apply::txn::prost_free::Row;

/// Moves told one by one, and kept.
const MOVES_MAX: usize = 1000;
/// Chunks of a drained disk looked at together.
const PAGE: usize = 256;
/// A pool of many domains is kept for this long.
const POOL_AGE: Duration = Duration::from_secs(1);
/// Pause after no chunk of the drained disks could be moved.
const BLOCKED_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of new shards a second of one executor: it writes them and reads them back, each at its
/// budget (client/src/background).
const EXECUTOR_BYTES_PER_S: u64 = 64 << 20;

/// What was told, and how drains go.
#[derive(Default)]
pub(super) struct Agenda {
    told: BTreeMap<u64, Step>,
    /// Nothing on the drained disks can be moved: not looked at again before.
    blocked_until: Option<Instant>,
    pub(super) drained: Speed,
}

/// See `MetaServer::tell`.
pub(super) struct BeingBegun<'a> {
    server: &'a MetaServer,
    chunk: u64,
}

impl Drop for BeingBegun<'_> {
    /// From now on the row tells of the move; or it was not begun, and is planned anew.
    fn drop(&mut self) {
        self.server.0.agenda.borrow_mut().told.remove(&self.chunk);
    }
}

/// The disks as they were a moment ago.
pub(super) struct KeptPool {
    pool: Rc<Pool>,
    /// See `Replica::disk_changes`.
    changes: u64,
    made: Instant,
}

impl KeptPool {
    fn get(&self, changes: u64, now: Instant) -> Option<Rc<Pool>> {
        let is_fresh = self.changes == changes && now.saturating_since(self.made) < POOL_AGE;
        is_fresh.then(|| Rc::clone(&self.pool))
    }

    /// A shard goes to this disk.
    pub(super) fn note_chosen(&mut self, disk: u64) {
        Rc::make_mut(&mut self.pool).note_chosen(disk);
    }
}

impl Agenda {
    /// Disks are not what they were.
    pub(super) fn try_all_again(&mut self) {
        self.blocked_until = None;
    }
}

impl MetaServer {
    /// The disks as they are now.
    pub(super) fn pool_now(&self) -> Result<Pool, Trouble> {
        let now = self.0.platform.clock().now();
        let liveness = self.0.liveness.borrow();
        let live = liveness.live_disks(now, self.0.times.disk_silent);
        let space = live
            .map(|heard| (heard.disk, (heard.total_bytes.saturating_sub(heard.available_bytes), heard.total_bytes)));
        let table = self.disk_table()?;
        let cluster = self.cluster()?;
        let pool = Pool::new(&table.rows, self.candidates(&[])?, space.collect()).with_domains(table.domains);
        Ok(Pool { policy: cluster.redundancy.policy(), level: cluster.feature_level, ..pool })
    }

    /// The same; where domains are many it may be a moment old, for it takes a while to gather.
    pub(super) fn pool(&self) -> Result<Rc<Pool>, Trouble> {
        let (now, changes) = (self.0.platform.clock().now(), self.0.replica.disk_changes());
        if let Some(pool) = self.0.pool.borrow().as_ref().and_then(|kept| kept.get(changes, now)) {
            return Ok(pool);
        }
        let pool = Rc::new(self.pool_now()?);
        *self.0.pool.borrow_mut() =
            pool.homes.is_some().then(|| KeptPool { pool: Rc::clone(&pool), changes, made: now });
        Ok(pool)
    }

    /// The step of a chunk as it was told, if that still fits; else as it is planned now.
    pub(super) fn settled_step(&self, pool: &Pool, chunk: u64, row: &ChunkRow) -> Option<Step> {
        let now = pool.step(chunk, row)?;
        let told = self.0.agenda.borrow_mut().told.remove(&chunk);
        Some(told.filter(|told| pool.still_fits(told, &now)).unwrap_or(now))
    }

    /// Until the answer is dropped, who asks for the plan is told these homes of the chunk: the move is being
    /// begun, and not in the chunk's row yet.
    pub(super) fn tell(&self, step: Step) -> BeingBegun<'_> {
        let begun = BeingBegun { server: self, chunk: step.chunk };
        self.0.agenda.borrow_mut().told.insert(step.chunk, step);
        begun
    }

    /// The next chunk that leaves a drained disk.
    pub(super) fn next_drain(&self, pool: &Pool) -> Result<Option<Step>, Trouble> {
        let now = self.0.platform.clock().now();
        let is_blocked = self.0.agenda.borrow().blocked_until.is_some_and(|until| until > now);
        if pool.draining.is_empty() || pool.candidates.is_empty() || is_blocked {
            return Ok(None);
        }
        for disk in &pool.draining {
            let mut after = None;
            loop {
                let page = self.chunks_of(*disk, after)?;
                after = page.last().copied();
                if let Some(step) = self.first_drain(pool, &page, now)? {
                    return Ok(Some(step));
                }
                if page.len() < PAGE {
                    break;
                }
            }
        }
        self.0.agenda.borrow_mut().blocked_until = Some(now + BLOCKED_PAUSE);
        Ok(None)
    }

    /// The first of these chunks that can leave.
    fn first_drain(&self, pool: &Pool, chunks: &[u64], now: Instant) -> Result<Option<Step>, Trouble> {
        for chunk in chunks {
            if self.0.repairs.borrow().is_put_off(*chunk, now) {
                continue;
            }
            let Some(row) = self.chunk(*chunk)? else { continue };
            let step = self.settled_step(pool, *chunk, &row);
            if let Some(step) = step.filter(|step| step.why == why::DRAIN && !step.targets.is_empty()) {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    /// A page of the chunks of a disk, behind `after`.
    fn chunks_of(&self, disk: u64, after: Option<u64>) -> Result<Vec<u64>, Trouble> {
        let prefix = keys::disk_chunks(DiskId(disk));
        let start = match after {
            Some(after) => keys::disk_chunk(DiskId(disk), ChunkId(after.saturating_add(1))),
            None => prefix.clone(),
        };
        let mut chunks = Vec::new();
        self.0.replica.store().scan(&start, keys::after_prefix(&prefix).as_deref(), &mut |key, _| {
            chunks.extend(keys::last_u64(key));
            chunks.len() < PAGE
        })?;
        Ok(chunks)
    }

    /// Answers `bixi plan`: a scan of all chunks.
    pub(super) fn plan(&self) -> Result<PlanView, Trouble> {
        let now = self.0.platform.clock().now();
        let mut pool = self.pool_now()?;
        let live: BTreeSet<u64> = pool.space.keys().copied().collect();
        let upto = self.0.looked_upto.get();
        // In the order in which executors come to them.
        let mut wanted: BTreeMap<(u32, i64, u64), ChunkRow> = BTreeMap::new();
        let mut moves = Vec::new();
        let (prefix, mut fault) = ([keys::table::CHUNK], None);
        self.0.replica.store().scan(&prefix, keys::after_prefix(&prefix).as_deref(), &mut |key, value| {
            let chunk = keys::last_u64(key).unwrap_or(0);
            match ChunkRow::from_bytes(value) {
                Ok(row) if row.pending_move.is_some() => moves.push(under_way(chunk, &row, &pool)),
                Ok(row) => {
                    if let Some(step) = pool.step(chunk, &row) {
                        let order = match step.why {
                            why::REPAIR => (0, Repairs::urgency(&row, |disk| live.contains(&disk))),
                            why::DRAIN => (1, step.sources.iter().min().map_or(0, |disk| *disk as i64)),
                            _ => (2, i64::from(chunk <= upto)),
                        };
                        wanted.insert((order.0, order.1, chunk), row);
                    }
                }
                Err(error) => fault = Some(error),
            }
            fault.is_none()
        })?;
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        let mut totals = Totals::default();
        for one in &moves {
            totals.add(one);
        }
        let mut told = BTreeMap::new();
        for ((_, _, chunk), row) in wanted {
            // Those before it may have changed what is best, or made it needless.
            let Some(step) = self.settled_step(&pool, chunk, &row) else { continue };
            pool.note(&step);
            let one = planned(&step);
            totals.add(&one);
            if moves.len() < MOVES_MAX {
                moves.push(one);
                told.insert(chunk, step);
            }
        }
        self.0.agenda.borrow_mut().told = told;
        let executors = self.executors(now)?;
        let bytes_per_s = executors * EXECUTOR_BYTES_PER_S;
        let bytes: u64 = totals.0.values().map(|total| total.bytes).sum();
        let slow = [why::SPREAD, why::BALANCE, why::COMPACT, why::TRANSCODE];
        // Of what is not urgent, one is begun a second.
        let slow: u64 = slow.iter().filter_map(|why| totals.0.get(why)).map(|total| total.moves).sum();
        let eta_s = if moves.is_empty() { 0 } else { bytes.checked_div(bytes_per_s).unwrap_or(0).max(slow).max(1) };
        Ok(PlanView { moves, totals: totals.0.into_values().collect(), eta_s, bytes_per_s })
    }

    /// Processes with a live disk: each has an executor beside it.
    fn executors(&self, now: Instant) -> Result<u64, Trouble> {
        let liveness = self.0.liveness.borrow();
        let disks = self.disks()?;
        let live = disks.iter().filter(|(disk, row)| {
            row.state == disk_state::IN && liveness.disk(**disk, now, self.0.times.disk_silent).is_some()
        });
        Ok(live.map(|(_, row)| row.node.as_str()).collect::<BTreeSet<&str>>().len() as u64)
    }
}

/// What lies on disks that is needed, by disk: shards and bytes.
pub(super) fn add_load(loads: &mut BTreeMap<u64, (u64, u64)>, row: &ChunkRow) {
    let pending = row.pending_move.iter().flat_map(|pending| &pending.shards);
    let policy = row.redundancy.policy().map_or(1, |policy| policy.needed() as u64);
    let bytes = row.sealed_len.max(row.committed_len / policy);
    for shard in row.shards.iter().chain(pending).filter(|shard| is_needed(row, shard.disk)) {
        let load = loads.entry(shard.disk).or_default();
        *load = (load.0 + 1, load.1 + bytes);
    }
}

#[derive(Default)]
struct Totals(BTreeMap<u32, PlanTotal>);

impl Totals {
    fn add(&mut self, one: &PlannedMove) {
        let total = self.0.entry(one.why).or_insert_with(|| PlanTotal { why: one.why, ..PlanTotal::default() });
        total.moves += 1;
        total.bytes += one.bytes;
        total.blocked += u64::from(one.targets.is_empty() && one.why != why::COMPACT);
    }
}

fn planned(step: &Step) -> PlannedMove {
    PlannedMove {
        why: step.why,
        chunk: step.chunk,
        bytes: step.bytes,
        sources: step.sources.clone(),
        targets: step.targets.iter().map(|shard| shard.disk).collect(),
        under_way: false,
    }
}

fn under_way(chunk: u64, row: &ChunkRow, pool: &Pool) -> PlannedMove {
    let pending = row.pending_move.iter().flat_map(|pending| &pending.shards);
    let laid_out_anew = row.pending_move.as_ref().filter(|pending| pending.becomes.is_some());
    let moved = |index: u32| laid_out_anew.is_some() || pending.clone().any(|shard| shard.index == index);
    let shard_len = laid_out_anew.map_or(row.sealed_len, |pending| pending.sealed_len);
    PlannedMove {
        why: why_pending(row, &pool.draining),
        chunk,
        bytes: shard_len * pending.clone().count() as u64,
        sources: row.shards.iter().filter(|shard| moved(shard.index)).map(|shard| shard.disk).collect(),
        targets: pending.clone().map(|shard| shard.disk).collect(),
        under_way: true,
    }
}
