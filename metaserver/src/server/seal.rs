//! Sealing: raise the epoch in Raft, fence every shard, decide, commit (ARCHITECTURE 4, rules
//! 4 to 6; the model `seal_with_replacement`).
//!
//! A crash anywhere leaves the chunk open under a higher epoch; whoever seals next begins anew.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use platform::planted::PlantedBug;
use proto::chunk::{Fence, Seal, ShardName, ShardState};
use proto::keys;
use proto::meta::{Body, ChunkEntry, RaiseEpoch, SealChunk, refusal};
use proto::rows::{ChunkRow, DiskRow, ShardRow, chunk_state, disk_state};
use proto::service::{Answer, Request, class, code};
use types::ids::ChunkId;
use types::redundancy::Redundancy;

use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;

/// What a fenced shard answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The shard's placement.
    pub placement: u64,
    /// Its length, bytes.
    pub len: u64,
    /// It lost a tail at a restart, or was not known: the length is "at least".
    pub cut: bool,
}

/// What may be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Shard bytes.
    pub len: u64,
    /// Placements that hold them.
    pub keep: Vec<u64>,
}

/// Decides the seal of a chunk of `policy`, whose writer acks only with all shards (q = n).
/// `unanswered` = shards that gave no answer and whose disks are not declared lost.
///
/// Without a cut shard among the answers the shortest answer is the length and everybody who
/// answered holds it. With one, nothing is decided before every shard that is not lost has
/// answered; the length is then the longest prefix that at least `needed` of them hold.
pub fn decide(policy: Redundancy, answers: &[Answered], unanswered: usize) -> Option<Decision> {
    let needed = policy.needed();
    if answers.len() < needed || !policy.seal_is_safe(policy.shards(), answers.len()) {
        return None;
    }
    let whole: Vec<&Answered> = answers.iter().filter(|answer| !answer.cut).collect();
    if whole.len() == answers.len() {
        let len = answers.iter().map(|answer| answer.len).min()?;
        return Some(Decision { len, keep: answers.iter().map(|answer| answer.placement).collect() });
    }
    // Enough answers that lost nothing decide alone, by the same law.
    if whole.len() >= needed {
        let len = whole.iter().map(|answer| answer.len).min()?;
        let keep = answers.iter().filter(|answer| answer.len >= len).map(|answer| answer.placement).collect();
        return Some(Decision { len, keep });
    }
    if unanswered > 0 {
        return None;
    }
    let mut lens: Vec<u64> = answers.iter().map(|answer| answer.len).collect();
    lens.sort_unstable_by(|a, b| b.cmp(a));
    let len = *lens.get(needed - 1)?;
    let keep = answers.iter().filter(|answer| answer.len >= len).map(|answer| answer.placement).collect();
    Some(Decision { len, keep })
}

impl MetaServer {
    /// Fences and seals a chunk; a sealed one is answered as it is. `release` = its writer will
    /// not name it again.
    pub(super) async fn seal_chunk(&self, chunk: u64, release: bool) -> Result<ChunkEntry, Trouble> {
        loop {
            let wait = self.0.sealing.borrow().get(&chunk).cloned();
            match wait {
                Some(notify) => {
                    let waiting = notify.notified();
                    let _ = self.0.platform.clock().timeout(self.0.times.fence_timeout, waiting).await;
                }
                None => break,
            }
        }
        let notify = Rc::new(tokio::sync::Notify::new());
        self.0.sealing.borrow_mut().insert(chunk, Rc::clone(&notify));
        let _guard = Guard { server: self, chunk, notify };
        self.seal_now(chunk, release).await
    }

    async fn seal_now(&self, chunk: u64, release: bool) -> Result<ChunkEntry, Trouble> {
        for _ in 0..4 {
            let raised = self.propose_own(Body::RaiseEpoch(RaiseEpoch { chunk })).await?;
            let row = match raised.chunks.into_iter().next() {
                Some(entry) => entry.row,
                None => {
                    return Err(Trouble::new(
                        class::GIVE_UP,
                        code::OTHER,
                        format!("chunk {}: {}", ChunkId(chunk), raised.text),
                    ));
                }
            };
            if row.state != chunk_state::OPEN {
                return self.release_sealed(chunk, row, release).await;
            }
            let disks = self.disks()?;
            let mut answers = self.fence_all(chunk, &row, &disks).await;
            let needed = row.redundancy.policy().map_or(1, Redundancy::needed) as u64;
            for answer in &mut answers {
                // Every ack needs every shard, so less than what is committed proves a lost tail.
                answer.cut |= answer.len.saturating_mul(needed) < row.committed_len;
            }
            let lost = |shard: &ShardRow| disks.get(&shard.disk).is_none_or(|disk| disk.state == disk_state::LOST);
            let answered = |shard: &ShardRow| answers.iter().any(|answer| answer.placement == shard.placement);
            let unanswered = row.shards.iter().filter(|shard| !answered(shard) && !lost(shard)).count();
            let Some(policy) = row.redundancy.policy() else {
                return Err(Trouble::new(class::GIVE_UP, code::OTHER, "chunk without a policy"));
            };
            if unanswered > 0 && answers.len() <= policy.needed() && self.is_too_soon(chunk) {
                let text = format!("{} of {} shards answered, none to spare", answers.len(), row.shards.len());
                return Err(Trouble::new(class::RETRY, code::OTHER, text));
            }
            let decided = decide(policy, &answers, unanswered).map(|mut decision| {
                if self.0.platform.planted(PlantedBug::SealTakesLongest) {
                    decision.len = answers.iter().map(|answer| answer.len).max().unwrap_or(0);
                }
                decision
            });
            let Some(decision) = decided else {
                let text = format!("{} of {} shards answered, too few to seal", answers.len(), row.shards.len());
                return Err(Trouble::new(class::RETRY, code::OTHER, text));
            };
            let seal = SealChunk { chunk, epoch: row.epoch, len: decision.len, keep: decision.keep, release };
            let outcome = self.propose_own(Body::SealChunk(seal)).await?;
            match (outcome.refusal, outcome.chunks.into_iter().next()) {
                (refusal::NONE, Some(entry)) => {
                    self.0.platform.reached("seal is committed");
                    self.tell_sealed(&entry, row.epoch, &disks);
                    return Ok(entry);
                }
                (refusal::EPOCH, _) => continue,
                _ => return Err(Trouble::new(class::RETRY, code::OTHER, outcome.text)),
            }
        }
        Err(Trouble::new(class::RETRY, code::OTHER, "the chunk's epoch keeps rising"))
    }

    /// A seal drops the shards that do not answer, which may be good ones and back in a moment; what is
    /// left may be rotten. So one that would leave nothing to spare waits for them, a while.
    fn is_too_soon(&self, chunk: u64) -> bool {
        let now = self.0.platform.clock().now();
        let mut short = self.0.short_seals.borrow_mut();
        // Whoever is not asked for any more was sealed, or will be asked for anew.
        short.retain(|_, since| now.saturating_since(*since) < self.0.times.disk_silent * 8);
        let since = *short.entry(chunk).or_insert(now);
        now.saturating_since(since) < self.0.times.disk_silent * 4
    }

    async fn release_sealed(&self, chunk: u64, row: ChunkRow, release: bool) -> Result<ChunkEntry, Trouble> {
        if !release || row.released {
            return Ok(ChunkEntry { chunk, row });
        }
        let seal = SealChunk { chunk, epoch: row.epoch, len: row.sealed_len, keep: Vec::new(), release };
        let outcome = self.propose_own(Body::SealChunk(seal)).await?;
        let entry = outcome.chunks.into_iter().next();
        entry.ok_or_else(|| Trouble::new(class::GIVE_UP, code::OTHER, outcome.text))
    }

    async fn fence_all(&self, chunk: u64, row: &ChunkRow, disks: &BTreeMap<u64, DiskRow>) -> Vec<Answered> {
        let mut epoch = row.epoch;
        if self.0.platform.planted(PlantedBug::SealWithoutFence) {
            epoch -= 1;
        }
        let asks = row.shards.iter().map(|shard| async move {
            if disks.get(&shard.disk).is_none_or(|disk| disk.state == disk_state::LOST) {
                return None;
            }
            let (address, store) = Self::address_of(disks, shard.disk)?;
            let name = ShardName { placement: shard.placement, chunk, index: shard.index };
            let request = Request::Fence(Fence { shard: name, epoch });
            let id = self.0.peers.new_request();
            let timeout = self.0.times.fence_timeout;
            match self.0.peers.call(&address, store, id, request, Bytes::new(), timeout).await {
                Ok(reply) => match reply.answer {
                    Answer::Shard(ShardState { len, cut, .. }) => {
                        Some(Answered { placement: shard.placement, len, cut })
                    }
                    _ => None,
                },
                Err(error) => {
                    tracing::debug!(chunk = %ChunkId(chunk), %error, "a shard did not answer the fence");
                    None
                }
            }
        });
        futures_util::future::join_all(asks).await.into_iter().flatten().collect()
    }

    /// Tells the shards, behind the answer: the seal is in Raft, so nothing depends on it.
    fn tell_sealed(&self, entry: &ChunkEntry, epoch: u64, disks: &BTreeMap<u64, DiskRow>) {
        for shard in &entry.row.shards {
            let Some((address, store)) = Self::address_of(disks, shard.disk) else { continue };
            let name = ShardName { placement: shard.placement, chunk: entry.chunk, index: shard.index };
            let request = Request::Seal(Seal { shard: name, epoch, len: entry.row.sealed_len });
            let (peers, timeout) = (self.0.peers.clone(), self.0.times.fence_timeout);
            self.0.platform.tasks().spawn(async move {
                let id = peers.new_request();
                // A shard that does not hear it stays fenced, which is as good.
                let _ = peers.call(&address, store, id, request, Bytes::new(), timeout).await;
            });
        }
    }

    pub(crate) fn chunk(&self, chunk: u64) -> Result<Option<ChunkRow>, Trouble> {
        Ok(Txn::new(self.0.replica.store()).get(&keys::chunk(ChunkId(chunk)))?)
    }
}

struct Guard<'a> {
    server: &'a MetaServer,
    chunk: u64,
    notify: Rc<tokio::sync::Notify>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.server.0.sealing.borrow_mut().remove(&self.chunk);
        self.notify.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::{Answered, Decision, Redundancy, decide};

    fn answer(placement: u64, len: u64, cut: bool) -> Answered {
        Answered { placement, len, cut }
    }

    #[test]
    fn shortest_answer_is_the_length_when_nobody_cut() {
        let answers = [answer(1, 10, false), answer(2, 8, false)];
        assert_eq!(decide(Redundancy::Copies(3), &answers, 1), Some(Decision { len: 8, keep: vec![1, 2] }));
        let policy = Redundancy::Erasure { data: 4, parity: 2 };
        assert_eq!(decide(policy, &answers, 4), None);
    }

    #[test]
    fn cut_shards_do_not_decide_before_everybody_answered() {
        let answers = [answer(1, 5, true), answer(2, 5, true)];
        assert_eq!(decide(Redundancy::Copies(3), &answers, 1), None);
        assert_eq!(decide(Redundancy::Copies(3), &answers, 0), Some(Decision { len: 5, keep: vec![1, 2] }));
        let answers = [answer(1, 5, true), answer(2, 9, true), answer(3, 7, true)];
        assert_eq!(decide(Redundancy::Copies(3), &answers, 0), Some(Decision { len: 9, keep: vec![2] }));
    }

    #[test]
    fn whole_answers_decide_and_short_cut_ones_are_dropped() {
        let answers = [answer(1, 5, true), answer(2, 9, false)];
        assert_eq!(decide(Redundancy::Copies(3), &answers, 1), Some(Decision { len: 9, keep: vec![2] }));
    }
}
