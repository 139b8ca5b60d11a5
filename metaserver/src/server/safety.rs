//! Whether disks and nodes can be removed at once, now: counted from the placements of all chunks
//! and from the replicas that answer. The counting is pure; what it leaves out is not safe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proto::keys;
use proto::level;
use proto::members::{AskSafety, DrainDisks, Safety, SetRedundancy};
use proto::meta::{JoinReplica, MetaState, MetaStateRequest};
use proto::rows::{ChunkRow, DiskRow, chunk_state, disk_state};
use proto::service::{Answer, Request, class, code};
use types::ids::{ChunkId, StoreId};

use super::{MetaServer, Trouble, placement};
use crate::apply::txn::prost_free::Row;
use crate::consensus::replica::ReplicaError;

/// How long a replica may take to say that it lives.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// What removing some disks would do to the chunks.
#[derive(Default, PartialEq, Eq, Debug)]
struct Toll {
    chunks_lost: u64,
    bytes_lost: u64,
    chunks_degraded: u64,
    bytes_to_repair: u64,
    /// A chunk that would be lost: how many shards it would have of those it needs.
    example: Option<(u64, usize, usize)>,
}

impl Toll {
    /// Counts a chunk. `good` = the disk answers and stays; `leaves` = it is to be removed.
    fn add(&mut self, chunk: u64, row: &ChunkRow, good: impl Fn(u64) -> bool, leaves: impl Fn(u64) -> bool) {
        // What is open may hold bytes that a commit is about to name.
        if row.state != chunk_state::OPEN && row.sealed_len == 0 || !row.shards.iter().any(|at| leaves(at.disk)) {
            return;
        }
        let Some(policy) = row.redundancy.policy() else { return };
        let left = row.shards.iter().filter(|shard| !shard.bad && good(shard.disk)).count();
        if left < policy.needed() {
            self.chunks_lost += 1;
            self.bytes_lost += row.live_bytes;
            self.example.get_or_insert((chunk, left, policy.needed()));
        } else if left < policy.shards() {
            self.chunks_degraded += 1;
            self.bytes_to_repair += row.sealed_len * (policy.shards() - left) as u64;
        }
    }
}

/// Replicas that vote: those that answer, those that would go, and how many there are.
#[derive(Default)]
struct Votes {
    answering: BTreeSet<u64>,
    leaving: BTreeSet<u64>,
    voters: BTreeSet<u64>,
}

impl Votes {
    fn left(&self) -> u64 {
        let stays = |id: &&u64| self.answering.contains(id) && !self.leaving.contains(id);
        self.voters.iter().filter(stays).count() as u64
    }

    fn majority(&self) -> u64 {
        self.voters.len() as u64 / 2 + 1
    }
}

fn judge(toll: &Toll, votes: &Votes) -> Safety {
    let (left, majority) = (votes.left(), votes.majority());
    let metadata = !votes.leaving.is_disjoint(&votes.voters);
    let mut reasons = Vec::new();
    if let Some((chunk, shards, needed)) = toll.example {
        reasons.push(format!(
            "{} chunks with {} bytes could not be read any more (chunk {}: {shards} good shards would be left, {needed} are needed)",
            toll.chunks_lost,
            toll.bytes_lost,
            ChunkId(chunk)
        ));
    }
    if metadata && left < majority {
        reasons.push(format!(
            "metadata would lose its majority ({left} of {} replicas would answer, {majority} are needed)",
            votes.voters.len()
        ));
    }
    let safe = reasons.is_empty();
    if safe && toll.chunks_degraded > 0 {
        let (chunks, bytes) = (toll.chunks_degraded, toll.bytes_to_repair);
        reasons.push(format!("{chunks} chunks would lack shards until {bytes} bytes are rebuilt elsewhere"));
    }
    if safe && metadata {
        reasons.push(format!("{left} of {} metadata replicas would answer", votes.voters.len()));
    }
    if reasons.is_empty() {
        reasons.push("no shard that is needed lies there".to_owned());
    }
    Safety {
        safe,
        reason: reasons.join("; "),
        chunks_lost: toll.chunks_lost,
        bytes_lost: toll.bytes_lost,
        chunks_degraded: toll.chunks_degraded,
        bytes_to_repair: toll.bytes_to_repair,
        replicas_left: left,
        replicas: votes.voters.len() as u64,
        majority,
        unknown: String::new(),
    }
}

impl MetaServer {
    /// Answers `bixi safe-to-remove`.
    pub(super) async fn safety(&self, ask: AskSafety) -> Result<Safety, Trouble> {
        let replicas = self.ask_replicas().await;
        // They were asked for a while: as of now again.
        self.0.replica.read_barrier().await?;
        self.has_heard()?;
        let now = self.0.platform.clock().now();
        let disks = self.disks()?;
        let unknown = |name: String| Ok(Safety { unknown: name, ..Safety::default() });
        let mut leaving: BTreeSet<u64> = ask.disks.iter().copied().collect();
        if let Some(disk) = leaving.iter().find(|disk| !disks.contains_key(disk)) {
            return unknown(format!("disk {disk}"));
        }
        let members = self.0.replica.members();
        let mut votes = Votes { voters: self.0.replica.voters().into_iter().collect(), ..Votes::default() };
        for node in &ask.nodes {
            let own = disks.iter().filter(|(_, row)| row.node == *node && !row.removed).map(|(disk, _)| *disk);
            let before = leaving.len() + votes.leaving.len();
            let named = |id: &&u64| {
                let state = replicas.get(id).and_then(Option::as_ref);
                state.is_some_and(|state| state.name == *node) || members.get(id) == Some(node)
            };
            let own_replicas: Vec<u64> = members.keys().filter(named).copied().collect();
            let found = own.clone().next().is_some() || !own_replicas.is_empty();
            leaving.extend(own);
            votes.leaving.extend(own_replicas);
            if !found && before == leaving.len() + votes.leaving.len() {
                return unknown(format!("node {node}"));
            }
        }
        let beside =
            |address: &str| leaving.iter().any(|disk| disks.get(disk).is_some_and(|row| row.replica == address));
        votes.leaving.extend(members.iter().filter(|(_, address)| beside(address)).map(|(id, _)| *id));
        let takes_part = |state: &Option<MetaState>| state.as_ref().is_some_and(|state| !state.in_doubt);
        votes.answering = replicas.iter().filter(|(_, state)| takes_part(state)).map(|(id, _)| *id).collect();
        let liveness = self.0.liveness.borrow();
        let good = |disk: u64| {
            let in_use = disks.get(&disk).is_some_and(|row| row.state == disk_state::IN);
            let heard = liveness.disk(disk, now, self.0.times.disk_silent).is_some_and(|heard| !heard.failed);
            in_use && heard && !leaving.contains(&disk)
        };
        let mut toll = Toll::default();
        let (prefix, mut fault) = ([keys::table::CHUNK], None);
        self.0.replica.store().scan(&prefix, keys::after_prefix(&prefix).as_deref(), &mut |key, value| {
            match ChunkRow::from_bytes(value) {
                Ok(row) => toll.add(keys::last_u64(key).unwrap_or(0), &row, good, |disk| leaving.contains(&disk)),
                Err(error) => fault = Some(error),
            }
            fault.is_none()
        })?;
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        Ok(judge(&toll, &votes))
    }

    /// What every member of the group says of itself; none that does not answer.
    async fn ask_replicas(&self) -> BTreeMap<u64, Option<MetaState>> {
        let asks = self.0.replica.members().into_iter().map(|(id, address)| async move {
            if id == self.0.replica.raft_id() {
                return (id, self.meta_state().ok());
            }
            let ask = Request::MetaState(MetaStateRequest {});
            let request = self.0.peers.new_request();
            let call = self.0.peers.call(&address, StoreId(0), request, ask, Bytes::new(), ASK_TIMEOUT);
            match call.await.map(|reply| reply.answer) {
                // Another one may listen at its address by now.
                Ok(Answer::MetaState(state)) if state.raft_id == id => (id, Some(state)),
                _ => (id, None),
            }
        });
        futures_util::future::join_all(asks).await.into_iter().collect()
    }

    /// In whose place a replica joins. It may name one that left long ago, because it does not know who
    /// came after; then the one that does not answer is meant, or the group would grow.
    pub(super) async fn in_place_of(&self, ask: &JoinReplica) -> u64 {
        let group = self.0.replica.group();
        let is_known = group.contains_key(&ask.replaces) || group.values().any(|address| *address == ask.address);
        let voters = self.0.replica.voters();
        if ask.replaces == 0 || is_known || voters.len() < 3 {
            return ask.replaces;
        }
        let replicas = self.ask_replicas().await;
        let silent = |id: &u64| replicas.get(id).is_some_and(Option::is_none);
        voters.into_iter().find(silent).unwrap_or(ask.replaces)
    }

    /// Who judges by which disks answer must have had the time to hear them: a leader begins with none.
    fn has_heard(&self) -> Result<(), Trouble> {
        if !self.0.replica.is_leader() {
            return Err(ReplicaError::NotLeader(self.0.replica.leader()).into());
        }
        let now = self.0.platform.clock().now();
        let mut liveness = self.0.liveness.borrow_mut();
        liveness.begin(self.0.replica.term(), now);
        let leads = liveness.leading.map_or(Duration::ZERO, |(_, since)| now.saturating_since(since));
        let in_use = |row: &DiskRow| row.state == disk_state::IN && !row.removed;
        let silent = |disk: u64| liveness.disk(disk, now, self.0.times.disk_silent).is_none();
        let unheard = self.disks()?.iter().any(|(disk, row)| in_use(row) && silent(*disk));
        if unheard && leads < self.0.times.disk_silent {
            let text = "the metadata has a new leader, which has not heard all disks yet";
            return Err(Trouble::new(class::RETRY, code::OTHER, text));
        }
        Ok(())
    }

    /// Everybody must know a feature level before it is raised: who does not would be shut out.
    pub(super) async fn can_raise(&self, wanted: u64) -> Result<(), Trouble> {
        let conflict = |text: String| Err(Trouble::new(class::GIVE_UP, code::CONFLICT, text));
        if wanted > level::CURRENT {
            return conflict(format!("this version knows feature levels up to {}", level::CURRENT));
        }
        for (id, state) in self.ask_replicas().await {
            let known = state.as_ref().map(|state| state.level.max(level::FIRST));
            if known.is_none_or(|known| known < wanted) {
                let name = state.map_or_else(|| format!("{id:x}"), |state| state.name);
                return conflict(format!("metaserver replica {name} is silent or of an older version"));
            }
        }
        self.has_heard()?;
        let now = self.0.platform.clock().now();
        let liveness = self.0.liveness.borrow();
        for (disk, row) in self.disks()?.iter().filter(|(_, row)| row.state == disk_state::IN) {
            let heard = liveness.disk(*disk, now, self.0.times.disk_silent);
            if heard.is_none_or(|heard| heard.level.max(level::FIRST) < wanted) {
                return conflict(format!("disk {disk} of {} is silent or of an older version", row.node));
            }
        }
        Ok(())
    }

    /// The disks must be enough for a redundancy.
    pub(super) async fn can_have(&self, body: &SetRedundancy) -> Result<(), Trouble> {
        self.needs_level(level::TRANSCODE).await?;
        let Some(policy) = body.redundancy.policy() else { return Ok(()) };
        self.has_heard()?;
        if placement::plan(policy, &self.candidates(&[])?).is_none() {
            let text = format!("the disks that can be written now are too few for {policy}; add some first");
            return Err(Trouble::new(class::GIVE_UP, code::CONFLICT, text));
        }
        Ok(())
    }

    /// Draining must leave disks to write on.
    pub(super) fn can_drain(&self, body: &DrainDisks) -> Result<(), Trouble> {
        let Some(policy) = self.cluster()?.redundancy.policy() else { return Ok(()) };
        self.has_heard()?;
        let left = self.candidates(&body.disks)?;
        let could_before = || Ok::<bool, Trouble>(placement::plan(policy, &self.candidates(&[])?).is_some());
        if body.draining && placement::plan(policy, &left).is_none() && could_before()? {
            let text = format!("the {} disks that would be left are too few for {policy}; add one first", left.len());
            return Err(Trouble::new(class::GIVE_UP, code::CONFLICT, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proto::rows::{ChunkRow, RedundancyRow, ShardRow, chunk_state};
    use types::redundancy::Redundancy;

    use super::{Toll, Votes, judge};

    fn chunk(policy: Redundancy, disks: &[u64]) -> ChunkRow {
        let shard = |(index, disk): (usize, &u64)| ShardRow { index: index as u32, disk: *disk, ..ShardRow::default() };
        ChunkRow {
            redundancy: RedundancyRow::from(policy),
            state: chunk_state::SEALED,
            sealed_len: 1000,
            live_bytes: 3000,
            shards: disks.iter().enumerate().map(shard).collect(),
            ..ChunkRow::default()
        }
    }

    /// The toll of removing `leaving` while `silent` do not answer.
    fn toll(rows: &[ChunkRow], leaving: &[u64], silent: &[u64]) -> Toll {
        let mut toll = Toll::default();
        for (number, row) in rows.iter().enumerate() {
            let good = |disk| !leaving.contains(&disk) && !silent.contains(&disk);
            toll.add(number as u64 + 1, row, good, |disk| leaving.contains(&disk));
        }
        toll
    }

    fn votes(voters: u64, answering: &[u64], leaving: &[u64]) -> Votes {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        Votes { voters: (1..=voters).collect(), answering: set(answering), leaving: set(leaving) }
    }

    const EC: Redundancy = Redundancy::Erasure { data: 4, parity: 2 };

    #[test]
    fn as_many_disks_as_parity_can_go_and_not_one_more() {
        let rows = [chunk(EC, &[1, 2, 3, 4, 5, 6]), chunk(EC, &[2, 3, 4, 5, 6, 7])];
        let all = votes(3, &[1, 2, 3], &[]);
        let two = toll(&rows, &[1, 2], &[]);
        assert_eq!((two.chunks_lost, two.chunks_degraded, two.bytes_to_repair), (0, 2, 3000));
        assert!(judge(&two, &all).safe);
        let three = toll(&rows, &[1, 2, 3], &[]);
        assert_eq!((three.chunks_lost, three.bytes_lost, three.example), (1, 3000, Some((1, 3, 4))));
        assert!(!judge(&three, &all).safe);
        // Disks that do not answer and shards that are bad count as gone.
        assert!(!judge(&toll(&rows, &[1, 2], &[6]), &all).safe);
        let mut bad = chunk(EC, &[1, 2, 3, 4, 5, 6]);
        bad.shards[3].bad = true;
        assert!(!judge(&toll(&[bad], &[1, 2], &[]), &all).safe);
    }

    #[test]
    fn only_what_has_a_shard_there_and_may_hold_bytes_counts() {
        let all = votes(3, &[1, 2, 3], &[]);
        let elsewhere = chunk(Redundancy::Copies(1), &[9]);
        let empty = ChunkRow { sealed_len: 0, ..chunk(Redundancy::Copies(1), &[1]) };
        // Lost already, whatever is removed now.
        assert_eq!(toll(&[elsewhere, empty], &[1], &[9]), Toll::default());
        assert_eq!(judge(&Toll::default(), &all).reason, "no shard that is needed lies there");
        let open = ChunkRow { state: chunk_state::OPEN, ..chunk(Redundancy::Copies(2), &[1, 2]) };
        assert!(judge(&toll(std::slice::from_ref(&open), &[1], &[]), &all).safe);
        assert!(!judge(&toll(&[open], &[1, 2], &[]), &all).safe, "it may hold what a commit will name");
    }

    #[test]
    fn metadata_keeps_its_majority_or_the_answer_is_no() {
        let none = Toll::default();
        assert!(judge(&none, &votes(3, &[1, 2, 3], &[3])).safe);
        assert!(!judge(&none, &votes(3, &[1, 2, 3], &[2, 3])).safe);
        assert!(!judge(&none, &votes(3, &[1, 2], &[2])).safe, "another one does not answer");
        assert!(judge(&none, &votes(3, &[1, 2], &[3])).safe, "the one that does not answer");
        assert!(!judge(&none, &votes(1, &[1], &[1])).safe);
        assert!(judge(&none, &votes(3, &[1], &[])).safe, "nothing of it is removed");
        assert!(judge(&none, &votes(3, &[1, 2, 3], &[9])).safe, "it does not vote");
    }
}
