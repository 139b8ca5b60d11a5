//! The census: what disks hold, compared with what they should hold.
//!
//! ```text
//! a page of a disk's chunks (read barrier) -> ask the store -> differences -> look again (read barrier)
//!   missing, short, damaged: marked bad in Raft, then repaired
//!   unknown: quarantined where it lies, deleted by decision when it is still unknown later
//!   alien (never given out here): reported, never deleted
//! ```
//!
//! The leader goes round all disks, a page at a time, and asks each disk every round for the damage
//! its reads and its scrub have found. Neither heartbeats nor upkeep wait for it. What it remembers
//! is in memory and begins anew with each leader; what it decides is in Raft.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use platform::clock::Instant;
use proto::chunk::{Census, CensusPage, HeldShard, ScrubState, ShardName};
use proto::keys;
use proto::meta::{Body, CheckDisk, Difference, DiskChecked, DiskShards, difference};
use proto::rows::{ChunkRow, DiskRow, ShardRow, chunk_state, disk_state};
use proto::service::{Answer, Request, class, code};
use types::ids::{ChunkId, DiskId};

use super::{MetaServer, Trouble};
use crate::apply::chunks::{given_out, is_named};
use crate::apply::txn::Txn;
use crate::consensus::replica::ReplicaError;

/// Pause between two rounds over the disks.
const PERIOD: Duration = Duration::from_secs(1);
/// Chunks of a disk compared at once.
const PAGE: usize = 500;
/// Disks whose chunks are compared in one round; the others only tell of damage.
const COMPARED_MAX: usize = 8;
/// Pause between two walks over the same disk.
const WALK_PAUSE: Duration = Duration::from_secs(30);
/// An unknown shard is deleted when it is still unknown after this long.
const QUARANTINE: Duration = Duration::from_secs(600);
/// How long a store may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What the leader remembers of a disk.
#[derive(Default)]
struct Walk {
    /// Chunks up to here were compared.
    at: u64,
    /// The next walk over the disk begins then.
    next: Option<Instant>,
    scrub: ScrubState,
    /// Since when a shard there is unknown.
    unknown: BTreeMap<u64, Unknown>,
}

struct Unknown {
    since: Instant,
    name: ShardName,
}

/// What the leader remembers of all disks.
#[derive(Default)]
pub(super) struct Rounds {
    term: u64,
    disks: BTreeMap<u64, Walk>,
    /// The disk whose chunks were compared last.
    last: u64,
}

impl Rounds {
    /// Whose turn it is to be compared.
    fn due(&mut self, live: &[u64], now: Instant) -> Vec<u64> {
        let ready = |disk: &&u64| self.disks.get(disk).and_then(|walk| walk.next).is_none_or(|next| next <= now);
        let behind = live.partition_point(|disk| *disk <= self.last);
        let order = live[behind..].iter().chain(&live[..behind]);
        let due: Vec<u64> = order.filter(ready).take(COMPARED_MAX).copied().collect();
        if let Some(last) = due.last() {
            self.last = *last;
        }
        due
    }
}

/// Compares a page: `chunks` are all that should have a shard on `disk` up to `upto`.
fn compare(disk: u64, chunks: &BTreeMap<u64, ChunkRow>, held: &[HeldShard], upto: u64) -> Vec<Difference> {
    let mut out = Vec::new();
    let by_placement: BTreeMap<u64, &HeldShard> = held.iter().map(|shard| (shard.name.placement, shard)).collect();
    for (chunk, row) in chunks.range(..=upto) {
        for shard in row.shards.iter().filter(|shard| shard.disk == disk) {
            let want = bytes_due(row);
            let have = by_placement.get(&shard.placement).map(|held| held.len);
            if want == 0 || have.is_some_and(|have| have >= want) {
                continue;
            }
            let name = ShardName { placement: shard.placement, chunk: *chunk, index: shard.index };
            let kind = if have.is_none() { difference::MISSING } else { difference::SHORT };
            out.push(Difference { shard: name, kind, have: have.unwrap_or(0), want });
        }
    }
    for shard in held {
        let row = chunks.get(&shard.name.chunk);
        let pending = row.and_then(|row| row.pending_move.as_ref()).map_or(&[][..], |pending| &pending.shards);
        let named = row.map_or(&[][..], |row| &row.shards).iter().chain(pending);
        if !named.into_iter().any(|named| named.placement == shard.name.placement && named.disk == disk) {
            out.push(Difference { shard: shard.name, kind: difference::UNKNOWN, have: shard.len, want: 0 });
        }
    }
    out
}

/// Shards on the disk that are marked bad.
fn marked(disk: u64, chunks: &BTreeMap<u64, ChunkRow>, upto: u64) -> Vec<ShardName> {
    let rows = chunks.range(..=upto);
    let shards = rows.flat_map(|(chunk, row)| row.shards.iter().map(move |shard| (*chunk, shard)));
    let bad = shards.filter(|(_, shard)| shard.disk == disk && shard.bad);
    bad.map(|(chunk, shard)| ShardName { placement: shard.placement, chunk, index: shard.index }).collect()
}

/// Bytes that every shard of the chunk must hold: all of it when sealed, what was committed while
/// it is open (each append was acknowledged by every shard).
fn bytes_due(row: &ChunkRow) -> u64 {
    match (row.state, row.redundancy.policy()) {
        (chunk_state::SEALED, _) => row.sealed_len,
        (_, Some(policy)) => row.committed_len / policy.needed() as u64,
        (_, None) => 0,
    }
}

impl MetaServer {
    /// Runs for ever; does something only while this replica leads.
    pub(super) async fn take_census(self) {
        loop {
            self.0.platform.clock().sleep(PERIOD).await;
            if self.0.replica.stopped().is_some() {
                return;
            }
            if self.0.replica.is_leader()
                && let Err(trouble) = self.census_round().await
            {
                tracing::debug!(text = %trouble.failure().text, "census stopped early");
            }
        }
    }

    async fn census_round(&self) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let disks = self.disks()?;
        let live: Vec<u64> = {
            let liveness = self.0.liveness.borrow();
            let alive =
                |disk: u64| liveness.disk(disk, now, self.0.times.disk_silent).is_some_and(|heard| !heard.failed);
            let usable = disks.iter().filter(|(disk, row)| row.state == disk_state::IN && alive(**disk));
            usable.map(|(disk, _)| *disk).collect()
        };
        let due = {
            let mut rounds = self.0.census.borrow_mut();
            let term = self.0.replica.term();
            if rounds.term != term {
                *rounds = Rounds { term, ..Rounds::default() };
            }
            rounds.disks.retain(|disk, _| live.binary_search(disk).is_ok());
            rounds.due(&live, now)
        };
        let visits = live.iter().map(|disk| self.visit(*disk, &disks, due.contains(disk)));
        for visited in futures_util::future::join_all(visits).await {
            if let Err(trouble) = visited {
                tracing::debug!(text = %trouble.failure().text, "a disk was not compared");
            }
        }
        Ok(())
    }

    async fn visit(&self, disk: u64, disks: &BTreeMap<u64, DiskRow>, compared: bool) -> Result<(), Trouble> {
        let after = self.0.census.borrow().disks.get(&disk).map_or(0, |walk| walk.at);
        let checked = if compared {
            self.check_page(disk, disks, after).await?
        } else {
            let page = self.ask_census(disks, disk, Census { after: 0, upto: 0 }).await?;
            DiskChecked { differences: self.damaged(disk, &page)?, upto: after, expected: 0 }
        };
        let now = self.0.platform.clock().now();
        let (mut bad, mut expired) = (Vec::new(), Vec::new());
        {
            let mut rounds = self.0.census.borrow_mut();
            let walk = rounds.disks.entry(disk).or_default();
            for found in &checked.differences {
                match found.kind {
                    difference::UNKNOWN | difference::ALIEN => {
                        let alien = found.kind == difference::ALIEN;
                        let known = walk.unknown.entry(found.shard.placement).or_insert_with(|| {
                            tracing::warn!(
                                disk, placement = found.shard.placement, chunk = %ChunkId(found.shard.chunk), alien,
                                "a disk holds a shard that no chunk names; it is left alone for now"
                            );
                            Unknown { since: now, name: found.shard }
                        });
                        if !alien && now.saturating_since(known.since) >= QUARANTINE {
                            expired.push(found.shard);
                        }
                    }
                    _ if self.is_marked(disk, &found.shard)? => {}
                    _ => bad.push(found.shard),
                }
            }
            if compared {
                let seen =
                    |placement: &u64| checked.differences.iter().any(|found| found.shard.placement == *placement);
                let page = |chunk: u64| chunk > after && chunk <= checked.upto;
                walk.unknown.retain(|placement, unknown| !page(unknown.name.chunk) || seen(placement));
                walk.at = checked.upto;
                walk.next = None;
                if checked.upto == u64::MAX {
                    (walk.at, walk.next) = (0, Some(now + WALK_PAUSE));
                }
            }
        }
        if !bad.is_empty() {
            tracing::warn!(disk, shards = bad.len(), "damaged or missing shards are repaired");
            self.propose_own(Body::MarkBad(DiskShards { disk, shards: bad })).await?;
            self.0.repairs.borrow_mut().forget_order();
        }
        if !expired.is_empty() {
            tracing::warn!(disk, shards = expired.len(), "shards that stayed unknown are deleted");
            self.propose_own(Body::DropUnknown(DiskShards { disk, shards: expired })).await?;
        }
        Ok(())
    }

    /// Compares one page of a disk on somebody's request (`bixi fsck`). Changes nothing.
    pub(super) async fn check_disk(&self, ask: CheckDisk) -> Result<DiskChecked, Trouble> {
        let disks = self.disks()?;
        let checked = self.check_page(ask.disk, &disks, ask.after).await?;
        if checked.differences.is_empty() {
            return Ok(checked);
        }
        // What was under way is no difference: it must be there twice.
        self.0.platform.clock().sleep(PERIOD).await;
        let again = self.check_page(ask.disk, &disks, ask.after).await?;
        let same = |found: &Difference| {
            again.differences.iter().any(|other| other.shard == found.shard && other.kind == found.kind)
        };
        let differences = checked.differences.into_iter().filter(same).collect();
        Ok(DiskChecked { differences, ..checked })
    }

    async fn check_page(&self, disk: u64, disks: &BTreeMap<u64, DiskRow>, after: u64) -> Result<DiskChecked, Trouble> {
        self.0.replica.read_barrier().await?;
        let (chunks, upto) = self.chunks_on(disk, after)?;
        let page = self.ask_census(disks, disk, Census { after, upto }).await?;
        let found = compare(disk, &chunks, &page.shards, page.upto);
        let mut differences = self.damaged(disk, &page)?;
        if !found.is_empty() {
            self.0.replica.read_barrier().await?;
            if !self.0.replica.is_leader() {
                return Err(ReplicaError::NotLeader(self.0.replica.leader()).into());
            }
            for found in found {
                differences.extend(self.confirmed(disk, found)?);
            }
        }
        for name in marked(disk, &chunks, page.upto) {
            // Found earlier and not replaced yet.
            if !differences.iter().any(|found| found.shard.placement == name.placement) {
                differences.push(Difference { shard: name, kind: difference::DAMAGED, have: 0, want: 0 });
            }
        }
        let expected = chunks.range(..=page.upto).flat_map(|(_, row)| &row.shards);
        let expected = expected.filter(|shard| shard.disk == disk).count() as u64;
        Ok(DiskChecked { differences, upto: page.upto, expected })
    }

    /// The chunks with something on a disk, above `after`: a page, and how far it reaches.
    fn chunks_on(&self, disk: u64, after: u64) -> Result<(BTreeMap<u64, ChunkRow>, u64), Trouble> {
        let txn = Txn::new(self.0.replica.store());
        let start = keys::disk_chunk(DiskId(disk), ChunkId(after.saturating_add(1)));
        let end = keys::after_prefix(&keys::disk_chunks(DiskId(disk)));
        let mut numbers = Vec::new();
        self.0.replica.store().scan(&start, end.as_deref(), &mut |key, _| {
            numbers.extend(keys::last_u64(key));
            numbers.len() < PAGE
        })?;
        let upto = if numbers.len() < PAGE { u64::MAX } else { numbers.last().copied().unwrap_or(u64::MAX) };
        let mut chunks = BTreeMap::new();
        for chunk in numbers {
            if let Some(row) = txn.get::<ChunkRow>(&keys::chunk(ChunkId(chunk)))? {
                chunks.insert(chunk, row);
            }
        }
        Ok((chunks, upto))
    }

    /// A difference as the state is now, after the store has answered; none if it has gone.
    fn confirmed(&self, disk: u64, found: Difference) -> Result<Option<Difference>, Trouble> {
        let txn = Txn::new(self.0.replica.store());
        if found.kind == difference::UNKNOWN {
            if is_named(&txn, disk, &found.shard)? {
                return Ok(None);
            }
            let kind = if given_out(&txn, &found.shard)? { difference::UNKNOWN } else { difference::ALIEN };
            return Ok(Some(Difference { kind, ..found }));
        }
        let row = txn.get::<ChunkRow>(&keys::chunk(ChunkId(found.shard.chunk)))?;
        let here = row.iter().flat_map(|row| &row.shards).find(|shard| shard.placement == found.shard.placement);
        Ok(here.filter(|shard| shard.disk == disk).map(|_| found))
    }

    /// What a store's readers have found, of what is still in use.
    fn damaged(&self, disk: u64, page: &CensusPage) -> Result<Vec<Difference>, Trouble> {
        let mut out = Vec::new();
        for name in &page.damaged {
            if self.shard_row(disk, name)?.is_some() {
                out.push(Difference { shard: *name, kind: difference::DAMAGED, have: 0, want: 0 });
            }
        }
        Ok(out)
    }

    fn is_marked(&self, disk: u64, name: &ShardName) -> Result<bool, Trouble> {
        Ok(self.shard_row(disk, name)?.is_none_or(|shard| shard.bad))
    }

    fn shard_row(&self, disk: u64, name: &ShardName) -> Result<Option<ShardRow>, Trouble> {
        let row = self.chunk(name.chunk)?;
        let named = |shard: &&ShardRow| shard.placement == name.placement && shard.disk == disk;
        Ok(row.and_then(|row| row.shards.iter().find(named).copied()))
    }

    async fn ask_census(&self, disks: &BTreeMap<u64, DiskRow>, disk: u64, ask: Census) -> Result<CensusPage, Trouble> {
        let Some((address, store)) = Self::address_of(disks, disk) else {
            return Err(Trouble::new(class::GIVE_UP, code::OTHER, format!("no disk {}", DiskId(disk))));
        };
        let id = self.0.peers.new_request();
        let called = self.0.peers.call(&address, store, id, Request::Census(ask), Bytes::new(), TIMEOUT).await;
        let page = match called.map(|reply| reply.answer) {
            Ok(Answer::CensusPage(page)) => page,
            Ok(_) => return Err(Trouble::new(class::RETRY, code::OTHER, "a store answered something else")),
            Err(error) => {
                let text = format!("disk {} does not answer: {error}", DiskId(disk));
                return Err(Trouble::new(class::RETRY, code::OTHER, text));
            }
        };
        if let Some(walk) = self.0.census.borrow_mut().disks.get_mut(&disk) {
            walk.scrub = page.scrub;
        }
        Ok(page)
    }

    /// A disk's scrub as last heard.
    pub(super) fn scrub_of(&self, disk: u64) -> ScrubState {
        self.0.census.borrow().disks.get(&disk).map(|walk| walk.scrub).unwrap_or_default()
    }

    /// How many shards on a disk no chunk names.
    pub(super) fn unknown_on(&self, disk: u64) -> u64 {
        self.0.census.borrow().disks.get(&disk).map_or(0, |walk| walk.unknown.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proto::chunk::{HeldShard, ShardName};
    use proto::meta::difference::{MISSING, SHORT, UNKNOWN};
    use proto::rows::{ChunkRow, MoveRow, RedundancyRow, ShardRow, chunk_state};
    use types::redundancy::Redundancy;

    use super::{COMPARED_MAX, Instant, Rounds, Walk, compare};

    fn row(state: u32, sealed_len: u64, committed_len: u64, placement: u64) -> ChunkRow {
        ChunkRow {
            redundancy: RedundancyRow::from(Redundancy::Copies(2)),
            state,
            sealed_len,
            committed_len,
            shards: vec![
                ShardRow { index: 0, placement, disk: 1, bad: false },
                ShardRow { index: 1, placement: placement + 1, disk: 2, bad: false },
            ],
            ..ChunkRow::default()
        }
    }

    fn held(chunk: u64, placement: u64, len: u64) -> HeldShard {
        HeldShard { name: ShardName { placement, chunk, index: 0 }, len }
    }

    #[test]
    fn census_names_missing_short_and_unknown_shards_and_nothing_else() {
        let sealed = |placement| row(chunk_state::SEALED, 100, 100, placement);
        let open = |committed, placement| row(chunk_state::OPEN, 0, committed, placement);
        let moving = ChunkRow {
            pending_move: Some(MoveRow {
                id: 1,
                shards: vec![ShardRow { index: 1, placement: 99, disk: 1, bad: false }],
                ..MoveRow::default()
            }),
            ..sealed(60)
        };
        let chunks: BTreeMap<u64, ChunkRow> = [
            (1, sealed(10)),
            (2, sealed(20)),
            (3, sealed(30)),
            (4, open(0, 40)),
            (5, open(50, 50)),
            (6, moving),
            (9, sealed(90)),
        ]
        .into();
        let held =
            [held(1, 10, 100), held(2, 20, 99), held(5, 50, 49), held(6, 60, 130), held(6, 99, 7), held(7, 70, 5)];
        let found: Vec<(u64, u32)> =
            compare(1, &chunks, &held, 8).iter().map(|found| (found.shard.placement, found.kind)).collect();
        assert_eq!(found, [(20, SHORT), (30, MISSING), (50, SHORT), (70, UNKNOWN)]);
    }

    #[test]
    fn every_disk_has_its_turn() {
        let mut rounds = Rounds::default();
        let live: Vec<u64> = (1..=3 * COMPARED_MAX as u64).collect();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let due = rounds.due(&live, Instant(5));
            assert_eq!(due.len(), COMPARED_MAX);
            seen.extend(due);
        }
        seen.sort_unstable();
        assert_eq!(seen, live);
        for disk in &live {
            let next = Some(Instant(5) + Duration::from_secs(9));
            rounds.disks.insert(*disk, Walk { next, ..Walk::default() });
        }
        assert!(rounds.due(&live, Instant(6)).is_empty(), "walked a moment ago");
    }
}
