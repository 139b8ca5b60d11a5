//! Repairs: planned by the leader, leased to executors, committed here.

use std::collections::BTreeMap;

use proto::keys;
use proto::meta::{Body, ChunkEntry, FinishMove, Job, LeaseJobRequest, StartMove, refusal};
use proto::rows::{ChunkRow, ShardRow, chunk_state};

use super::{MetaServer, Trouble, placement};
use crate::apply::txn::Txn;

/// A repair that failed is tried again after this long.
const PUT_OFF: std::time::Duration = std::time::Duration::from_secs(5);
/// Chunks looked at in one round of expiry.
const LOOK_MAX: usize = 256;

impl MetaServer {
    /// Commits what the executor has done, then gives it the most urgent repair.
    pub(super) async fn lease_job(&self, ask: LeaseJobRequest) -> Result<Job, Trouble> {
        self.0.replica.read_barrier().await?;
        if let Some(done) = ask.done {
            self.finish(done).await?;
        }
        let (chunk, start) = loop {
            let Some((chunk, row)) = self.most_urgent()? else { return Ok(Job { chunk: None }) };
            match self.plan_repair(chunk, &row)? {
                Some(start) => break (chunk, start),
                // No disk takes its shards now: the others must not wait for it.
                None => self.put_off(chunk),
            }
        };
        let outcome = self.propose_own(Body::StartMove(start)).await?;
        if outcome.refusal != refusal::NONE {
            return Ok(Job { chunk: None });
        }
        self.0.leased.borrow_mut().insert(outcome.number, self.0.platform.clock().now());
        tracing::info!(chunk, executor = %ask.executor, "repair leased");
        Ok(Job { chunk: outcome.chunks.into_iter().next() })
    }

    fn put_off(&self, chunk: u64) {
        let until = self.0.platform.clock().now() + PUT_OFF;
        self.0.put_off.borrow_mut().insert(chunk, until);
    }

    async fn finish(&self, done: FinishMove) -> Result<(), Trouble> {
        if !done.commit {
            self.put_off(done.chunk);
        }
        self.0.leased.borrow_mut().remove(&done.id);
        let outcome = self.propose_own(Body::FinishMove(done)).await?;
        if outcome.refusal == refusal::NONE && done.commit {
            self.0.repaired.set(self.0.repaired.get() + 1);
        }
        Ok(())
    }

    /// The chunk with the fewest spare shards that can be repaired and has no move pending.
    fn most_urgent(&self) -> Result<Option<(u64, ChunkRow)>, Trouble> {
        let txn = Txn::new(self.0.replica.store());
        let mut best: Option<(usize, u64, ChunkRow)> = None;
        let now = self.0.platform.clock().now();
        self.0.put_off.borrow_mut().retain(|_, until| *until > now);
        for (key, _) in txn.scan_prefix(&[keys::table::MISSING], usize::MAX)? {
            let Some(chunk) = keys::last_u64(&key) else { continue };
            if self.0.put_off.borrow().contains_key(&chunk) {
                continue;
            }
            let Some(row) = self.chunk(chunk)? else { continue };
            let Some(policy) = row.redundancy.policy() else { continue };
            if row.state != chunk_state::SEALED || row.pending_move.is_some() || row.shards.len() < policy.needed() {
                continue;
            }
            let spare = row.shards.len() - policy.needed();
            if best.as_ref().is_none_or(|(least, _, _)| spare < *least) {
                best = Some((spare, chunk, row));
            }
        }
        Ok(best.map(|(_, chunk, row)| (chunk, row)))
    }

    fn plan_repair(&self, chunk: u64, row: &ChunkRow) -> Result<Option<StartMove>, Trouble> {
        let Some(policy) = row.redundancy.policy() else { return Ok(None) };
        let disks = self.disks()?;
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        for shard in &row.shards {
            if let Some(disk) = disks.get(&shard.disk) {
                *used.entry(disk.domain.clone()).or_insert(0) += 1;
            }
        }
        let missing: Vec<u32> =
            (0..policy.shards() as u32).filter(|index| !row.shards.iter().any(|shard| shard.index == *index)).collect();
        let on: Vec<u64> = row.shards.iter().map(|shard| shard.disk).collect();
        // First without the disks that hold a shard already; crowded only if there is no other way.
        let planned = placement::plan_some(policy, missing.len(), &used, &self.candidates(&on)?)
            .or(placement::plan_some(policy, missing.len(), &used, &self.candidates(&[])?));
        let Some(targets) = planned else { return Ok(None) };
        let shards =
            missing.into_iter().zip(targets).map(|(index, disk)| ShardRow { index, placement: 0, disk }).collect();
        Ok(Some(StartMove { chunk, shards }))
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
