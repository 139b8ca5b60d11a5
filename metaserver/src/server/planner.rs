//! What is to be done about a chunk: repair it, take it off a drained disk, spread it, balance it,
//! compact it. Pure. The executor's jobs and `bixi plan` come from this one function.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::level;
use proto::members::why;
use proto::rows::{ChunkRow, DiskRow, RedundancyRow, ShardRow, chunk_state, disk_state};
use types::redundancy::Redundancy;

use super::disk_table::Domains;
use super::homes::Homes;
use super::placement::{self, Candidate, Widths};
use super::repairs;

/// The disks as the leader sees them now.
#[derive(Clone)]
pub(super) struct Pool {
    /// Failure domains of the disks in use, drained ones too.
    pub domains: BTreeMap<u64, String>,
    /// How many racks and zones they make up.
    pub widths: Widths,
    pub draining: BTreeSet<u64>,
    /// Disks that may take a shard.
    pub candidates: Vec<Candidate>,
    /// Used and total bytes of each live disk.
    pub space: BTreeMap<u64, (u64, u64)>,
    /// The same in thousandths.
    pub fill: BTreeMap<u64, u64>,
    /// Where domains are many.
    pub homes: Option<Homes>,
    /// What the cluster asks for; chunks that survive fewer or more losses are laid out anew.
    pub policy: Option<Redundancy>,
    /// The cluster's feature level.
    pub level: u64,
}

/// A chunk with less than this part of its capacity stays as it is: each shard takes a slot at least.
const TRANSCODE_FILL: u64 = 8;

/// What is to be done about one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// See [`why`].
    pub why: u32,
    pub chunk: u64,
    /// The new shards: index and disk. None for a compaction, or if no disk can take them now.
    pub targets: Vec<ShardRow>,
    /// Disks whose shards they replace.
    pub sources: Vec<u64>,
    /// Bytes of new shards.
    pub bytes: u64,
    /// The policy that they are of, if the chunk is laid out anew.
    pub becomes: Option<RedundancyRow>,
}

impl Pool {
    /// A pool of these disks; `space` = used and total bytes of those that live.
    pub(super) fn new(
        disks: &BTreeMap<u64, DiskRow>,
        candidates: Vec<Candidate>,
        space: BTreeMap<u64, (u64, u64)>,
    ) -> Pool {
        let used = || disks.iter().filter(|(_, row)| row.state == disk_state::IN);
        let mut pool = Pool {
            domains: used().map(|(disk, row)| (*disk, row.domain.clone())).collect(),
            widths: Widths::of(used().map(|(_, row)| row.domain.as_str())),
            draining: used().filter(|(_, row)| row.draining).map(|(disk, _)| *disk).collect(),
            candidates,
            fill: BTreeMap::new(),
            homes: None,
            space,
            policy: None,
            level: level::CURRENT,
        };
        for disk in pool.space.keys().copied().collect::<Vec<u64>>() {
            pool.weigh(disk);
        }
        pool
    }

    fn weigh(&mut self, disk: u64) {
        let of = |(used, total): &(u64, u64)| used.saturating_mul(1000).checked_div(*total);
        if let Some(fill) = self.space.get(&disk).and_then(of) {
            self.fill.insert(disk, fill);
            self.homes.iter_mut().for_each(|homes| homes.note_fill(fill));
        }
    }

    /// The step of a chunk, `None` if all is well with it. With `live_bytes` hardly any, it is
    /// compacted instead of being spread or balanced.
    pub(super) fn step(&self, chunk: u64, row: &ChunkRow) -> Option<Step> {
        if row.state != chunk_state::SEALED || row.sealed_len == 0 || row.pending_move.is_some() {
            return None;
        }
        let policy = row.redundancy.policy()?;
        let lacking = repairs::lacking_indexes(row);
        if !lacking.is_empty() {
            if row.shards.len() < policy.needed() {
                return None;
            }
            let near = self.homes.as_ref().and_then(|homes| homes.replace(row, &lacking));
            let targets = near.or_else(|| repairs::plan(row, &self.domains, &self.candidates)).unwrap_or_default();
            return Some(self.made(why::REPAIR, chunk, row, targets, &lacking));
        }
        let leaving: Vec<u32> =
            row.shards.iter().filter(|shard| self.draining.contains(&shard.disk)).map(|shard| shard.index).collect();
        if !leaving.is_empty() {
            let near = self.homes.as_ref().and_then(|homes| homes.replace(row, &leaving));
            let targets = near.or_else(|| self.plan_drain(row, &leaving)).unwrap_or_default();
            let step = self.made(why::DRAIN, chunk, row, targets, &leaving);
            // What no longer fits as it is may fit as the cluster asks for by now.
            let instead = if step.targets.is_empty() { self.transcode_step(chunk, row) } else { None };
            return instead.or(Some(step));
        }
        let moved = |kind, targets: Vec<ShardRow>| {
            let indexes: Vec<u32> = targets.iter().map(|shard| shard.index).collect();
            self.made(kind, chunk, row, targets, &indexes)
        };
        if let Some(step) = self.transcode_step(chunk, row) {
            return Some(step);
        }
        let homes = self.homes.as_ref().filter(|homes| homes.deals(policy));
        if homes.is_some_and(|homes| homes.is_settled(row, &self.fill)) {
            return self.compact(policy, chunk, row);
        }
        if let Some(targets) = repairs::plan_spread(row, &self.domains, &self.widths, &self.candidates) {
            return Some(moved(why::SPREAD, targets));
        }
        let balanced = match homes {
            Some(homes) => homes.balance(row, &self.fill),
            None => repairs::plan_rebalance(row, &self.domains, &self.widths, &self.candidates, &self.fill),
        };
        if let Some(targets) = balanced {
            return Some(moved(why::BALANCE, targets));
        }
        self.compact(policy, chunk, row)
    }

    fn compact(&self, policy: Redundancy, chunk: u64, row: &ChunkRow) -> Option<Step> {
        repairs::is_mostly_dead(row).then(|| {
            let bytes = row.live_bytes.saturating_mul(policy.shards() as u64) / policy.needed() as u64;
            Step { bytes, ..self.made(why::COMPACT, chunk, row, Vec::new(), &[]) }
        })
    }

    fn transcode_step(&self, chunk: u64, row: &ChunkRow) -> Option<Step> {
        let (becomes, targets, bytes) = self.plan_transcode(row)?;
        let sources = row.shards.iter().map(|shard| shard.disk).collect();
        Some(Step { why: why::TRANSCODE, chunk, targets, sources, bytes, becomes: Some(RedundancyRow::from(becomes)) })
    }

    /// The layout that a chunk is to have instead of its own, homes for all shards of it, and their bytes:
    /// stripes, if it was filled well and that saves space, or what survives as many losses as the cluster
    /// asks for by now (more or fewer). What is mostly dead is compacted instead.
    fn plan_transcode(&self, row: &ChunkRow) -> Option<(Redundancy, Vec<ShardRow>, u64)> {
        let now = row.redundancy.policy()?;
        let is_due = row.released && row.live_bytes > 0 && !repairs::is_mostly_dead(row);
        if !is_due || self.level < level::TRANSCODE {
            return None;
        }
        let logical = row.sealed_len.saturating_mul(now.needed() as u64);
        let is_full = logical >= row.capacity / TRANSCODE_FILL;
        let bytes =
            |policy: Redundancy| policy.shard_len(logical, row.cell_size).saturating_mul(policy.shards() as u64);
        let wanted = self.policy.filter(|wanted| !row.of_volume && wanted.parity() != now.parity());
        let then = match (wanted, row.becomes.and_then(|becomes| becomes.policy())) {
            (Some(wanted), _) if is_full => wanted,
            (Some(wanted), _) => wanted.small().policy,
            (None, Some(then)) if is_full && bytes(then) < bytes(now) => then,
            _ => return None,
        };
        let bytes = bytes(then);
        let near = self.homes.as_ref().and_then(|homes| homes.anew(row, then));
        let disks = near.or_else(|| placement::plan(then, &self.candidates))?;
        let target = |(index, disk)| ShardRow { index: index as u32, disk, ..ShardRow::default() };
        Some((then, disks.into_iter().enumerate().map(target).collect(), bytes))
    }

    /// Whether a chunk is more crowded than it need be, as the disks are now.
    pub(super) fn could_spread(&self, row: &ChunkRow) -> bool {
        repairs::find_spread(row, &self.domains, &self.widths, &self.candidates).is_some()
    }

    /// New homes for the shards that leave their disks: as many as can be placed, one at least.
    fn plan_drain(&self, row: &ChunkRow, leaving: &[u32]) -> Option<Vec<ShardRow>> {
        let policy = row.redundancy.policy()?;
        (1..=leaving.len()).rev().find_map(|count| {
            let (moved, staying) = leaving.split_at(count);
            let kept: Vec<&ShardRow> = row.shards.iter().filter(|shard| !moved.contains(&shard.index)).collect();
            // A shard that waits for its turn to leave takes no room in its domain.
            let settled: Vec<&ShardRow> = kept.iter().copied().filter(|at| !staying.contains(&at.index)).collect();
            let used = repairs::used_domains(&settled, &self.domains);
            let holds = |at: &&Candidate| kept.iter().any(|shard| shard.disk == at.disk);
            let fresh: Vec<Candidate> = self.candidates.iter().filter(|at| !holds(at)).cloned().collect();
            let disks = placement::plan_some(policy, count, &used, &fresh)
                .or_else(|| placement::plan_some(policy, count, &used, &self.candidates))?;
            let target = |(index, disk): (&u32, u64)| ShardRow { index: *index, disk, ..ShardRow::default() };
            Some(moved.iter().zip(disks).map(target).collect())
        })
    }

    fn made(&self, why: u32, chunk: u64, row: &ChunkRow, targets: Vec<ShardRow>, indexes: &[u32]) -> Step {
        let leaves = |shard: &&ShardRow| indexes.contains(&shard.index);
        let sources = match why {
            why::COMPACT => row.shards.iter().map(|shard| shard.disk).collect(),
            _ => row.shards.iter().filter(leaves).map(|shard| shard.disk).collect(),
        };
        let count = if targets.is_empty() { indexes.len() } else { targets.len() };
        Step { why, chunk, bytes: row.sealed_len * count as u64, targets, sources, becomes: None }
    }

    /// Whether a step that was planned earlier is still what `now` asks for, with homes that may
    /// still be taken.
    pub(super) fn still_fits(&self, planned: &Step, now: &Step) -> bool {
        let is_free = |shard: &ShardRow| self.candidates.iter().any(|at| at.disk == shard.disk);
        let indexes = |step: &Step| step.targets.iter().map(|shard| shard.index).collect::<Vec<u32>>();
        planned.why == now.why
            && planned.becomes == now.becomes
            && planned.sources == now.sources
            && indexes(planned) == indexes(now)
            && planned.targets.iter().all(is_free)
    }

    /// Takes a step as done: what is planned next goes rather elsewhere.
    pub(super) fn note(&mut self, step: &Step) {
        let share = step.bytes / (step.targets.len() as u64).max(1);
        for shard in &step.targets {
            self.note_chosen(shard.disk);
            if let Some((used, _)) = self.space.get_mut(&shard.disk) {
                *used = used.saturating_add(share);
            }
            self.weigh(shard.disk);
        }
        if step.why == why::COMPACT {
            return;
        }
        for disk in &step.sources {
            if let Some((used, _)) = self.space.get_mut(disk) {
                *used = used.saturating_sub(share);
            }
            self.weigh(*disk);
        }
    }
}

impl Pool {
    /// A shard goes to this disk: the next ones rather to others.
    pub(super) fn note_chosen(&mut self, disk: u64) {
        if let Some(candidate) = self.candidates.iter_mut().find(|at| at.disk == disk) {
            candidate.weight += 1;
        }
        self.homes.iter_mut().for_each(|homes| homes.note_chosen(disk));
    }

    /// The same pool, with what it takes to find homes quickly where domains are many.
    pub(super) fn with_domains(mut self, domains: Option<Rc<Domains>>) -> Pool {
        self.homes = domains.map(|domains| Homes::new(domains, &self.candidates, &self.fill));
        self
    }
}

/// Why a move that is under way was begun.
pub(super) fn why_pending(row: &ChunkRow, draining: &BTreeSet<u64>) -> u32 {
    let Some(pending) = &row.pending_move else { return 0 };
    if pending.becomes.is_some() {
        return why::TRANSCODE;
    }
    let lacking = repairs::lacking_indexes(row);
    let moved = |shard: &&ShardRow| pending.shards.iter().any(|new| new.index == shard.index);
    let mut old = row.shards.iter().filter(moved);
    if pending.shards.iter().any(|new| lacking.contains(&new.index)) {
        why::REPAIR
    } else if old.clone().any(|shard| draining.contains(&shard.disk)) {
        why::DRAIN
    } else if old.any(|shard| row.shards.iter().any(|other| other.index != shard.index && other.disk == shard.disk)) {
        why::SPREAD
    } else {
        why::BALANCE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proto::members::why;
    use proto::rows::{ChunkRow, DiskRow, MoveRow, RedundancyRow, ShardRow, chunk_state, disk_state};
    use types::redundancy::Redundancy;

    use super::{Candidate, Pool, Step, why_pending};

    const EC: Redundancy = Redundancy::Erasure { data: 4, parity: 2 };

    /// Disks 1..=count, each a domain of its own; those of `draining` are no candidates.
    fn pool(count: u64, draining: &[u64]) -> Pool {
        let row = |disk: u64| DiskRow {
            domain: format!("d{disk}"),
            draining: draining.contains(&disk),
            state: disk_state::IN,
            ..DiskRow::default()
        };
        let disks = (1..=count).map(|disk| (disk, row(disk))).collect();
        let free = (1..=count).filter(|disk| !draining.contains(disk));
        let candidates = free.map(|disk| Candidate { disk, domain: format!("d{disk}"), weight: 0, draw: disk });
        let space = (1..=count).map(|disk| (disk, (500, 1_000_000))).collect();
        Pool::new(&disks, candidates.collect(), space)
    }

    /// A sealed chunk whose shards lie on these disks, in order of their index.
    fn chunk(policy: Redundancy, disks: &[u64]) -> ChunkRow {
        let shard = |(index, disk): (usize, &u64)| ShardRow {
            index: index as u32,
            placement: index as u64 + 1,
            disk: *disk,
            bad: false,
        };
        ChunkRow {
            redundancy: RedundancyRow::from(policy),
            state: chunk_state::SEALED,
            sealed_len: 1000,
            shards: disks.iter().enumerate().map(shard).collect(),
            ..ChunkRow::default()
        }
    }

    fn targets(step: &Step) -> Vec<(u32, u64)> {
        step.targets.iter().map(|shard| (shard.index, shard.disk)).collect()
    }

    #[test]
    fn shard_on_a_drained_disk_goes_to_a_domain_that_holds_none() {
        let step = pool(7, &[3]).step(9, &chunk(EC, &[1, 2, 3, 4, 5, 6])).expect("a step");
        assert_eq!((step.why, step.chunk, step.bytes), (why::DRAIN, 9, 1000));
        assert_eq!((targets(&step), &step.sources[..]), (vec![(2, 7)], &[3][..]));
        assert_eq!(pool(7, &[7]).step(9, &chunk(EC, &[1, 2, 3, 4, 5, 6])), None);
    }

    #[test]
    fn without_a_spare_domain_a_drained_chunk_becomes_crowded_but_never_beyond_parity() {
        let step = pool(6, &[3]).step(9, &chunk(EC, &[1, 2, 3, 4, 5, 6])).expect("a step");
        assert_eq!(step.targets.len(), 1);
        // Three domains are left, and each may hold two.
        let step = pool(6, &[1, 2, 3]).step(9, &chunk(EC, &[1, 2, 3, 4, 5, 6])).expect("a step");
        let homes: BTreeSet<u64> = step.targets.iter().map(|shard| shard.disk).collect();
        assert_eq!(homes, BTreeSet::from([4, 5, 6]));
        // Two cannot take all six: as many go as fit, and the last two stay where they are.
        let step = pool(6, &[1, 2, 3, 4]).step(9, &chunk(EC, &[1, 2, 3, 4, 5, 6])).expect("a step");
        assert_eq!((step.why, step.targets.len()), (why::DRAIN, 2));
        let step = pool(2, &[1, 2]).step(9, &chunk(Redundancy::Copies(2), &[1, 2])).expect("it wants to go");
        assert_eq!((step.why, step.targets.len(), step.bytes), (why::DRAIN, 0, 2000));
    }

    #[test]
    fn repair_comes_before_drain_and_no_new_shard_goes_to_a_drained_disk() {
        let mut row = chunk(EC, &[1, 2, 3, 4, 5, 6]);
        row.shards.remove(0);
        let step = pool(7, &[3, 1]).step(9, &row).expect("a step");
        assert_eq!((step.why, targets(&step)), (why::REPAIR, vec![(0, 7)]));
        // A crowded chunk is not spread to one either.
        let crowded = chunk(Redundancy::Copies(2), &[1, 1]);
        assert_eq!(pool(2, &[2]).step(9, &crowded), None);
        let step = pool(2, &[]).step(9, &crowded).expect("a step");
        assert_eq!((step.why, targets(&step)), (why::SPREAD, vec![(0, 2)]));
    }

    #[test]
    fn planned_step_is_kept_while_its_reason_holds_and_its_homes_are_free() {
        let row = chunk(EC, &[1, 2, 3, 4, 5, 6]);
        let planned = pool(8, &[3]).step(9, &row).expect("a step");
        assert_eq!(targets(&planned), [(2, 7)]);
        let mut later = pool(8, &[3]);
        later.candidates.retain(|at| at.disk != 1);
        assert!(later.still_fits(&planned, &later.step(9, &row).expect("a step")));
        let full = pool(8, &[3, 7]);
        let anew = full.step(9, &row).expect("a step");
        assert!(!full.still_fits(&planned, &anew));
        assert_eq!(targets(&anew), [(2, 8)]);
        assert!(pool(8, &[]).step(9, &row).is_none(), "taken back into use");
    }

    #[test]
    fn steps_that_were_planned_weigh_on_those_after_them() {
        let mut pool = pool(8, &[3]);
        let mut homes = Vec::new();
        for number in 0..4 {
            let step = pool.step(number, &chunk(EC, &[1, 2, 3, 4, 5, 6])).expect("a step");
            pool.note(&step);
            homes.push(step.targets[0].disk);
        }
        assert_eq!(homes, [7, 8, 7, 8]);
    }

    #[test]
    fn full_chunk_of_copies_is_turned_into_stripes_where_that_saves_space() {
        let full = ChunkRow {
            sealed_len: 1000,
            capacity: 1000,
            cell_size: 10,
            live_bytes: 900,
            released: true,
            becomes: Some(RedundancyRow::from(EC)),
            ..chunk(Redundancy::Copies(3), &[1, 2, 3])
        };
        let step = pool(7, &[]).step(9, &full).expect("a step");
        assert_eq!((step.why, &step.sources[..], step.bytes), (why::TRANSCODE, &[1, 2, 3][..], 6 * 250));
        let homes: BTreeSet<u64> = step.targets.iter().map(|shard| shard.disk).collect();
        assert_eq!((step.targets.len(), homes.len()), (6, 6));
        let is_left = |row: ChunkRow| pool(7, &[]).step(9, &row).is_none();
        assert!(is_left(ChunkRow { released: false, ..full.clone() }));
        assert!(is_left(ChunkRow { becomes: None, ..full.clone() }));
        assert!(is_left(ChunkRow { capacity: 9000, ..full.clone() }), "hardly filled");
        assert!(is_left(ChunkRow { cell_size: 1000, ..full.clone() }), "six cells are more than three copies");
        // Whatever it costs, if the cluster asks for more by now.
        let raised = Pool { policy: Some(EC), ..pool(7, &[]) };
        let single = ChunkRow { becomes: None, ..chunk(Redundancy::Copies(1), &[3]) };
        let single = ChunkRow { capacity: 1000, cell_size: 10, live_bytes: 900, released: true, ..single };
        let of_volume = ChunkRow { of_volume: true, ..single.clone() };
        assert!(raised.step(9, &of_volume).is_none(), "a volume has a redundancy of its own");
        let step = raised.step(9, &single).expect("a step");
        assert_eq!((step.why, step.becomes, step.targets.len()), (why::TRANSCODE, Some(RedundancyRow::from(EC)), 6));
        let step = raised.step(9, &ChunkRow { capacity: 90_000, ..single }).expect("a step");
        assert_eq!((step.becomes, step.targets.len()), (Some(RedundancyRow::from(Redundancy::Copies(3))), 3));
        // A shard that lacks is repaired first.
        let mut lacking = full;
        lacking.shards.remove(0);
        assert_eq!(pool(7, &[]).step(9, &lacking).expect("a step").why, why::REPAIR);
    }

    #[test]
    fn reason_of_a_move_under_way_is_found_again() {
        let pending = |row: ChunkRow, index, disk| ChunkRow {
            pending_move: Some(MoveRow {
                id: 1,
                shards: vec![ShardRow { index, disk, ..ShardRow::default() }],
                ..MoveRow::default()
            }),
            ..row
        };
        let row = chunk(EC, &[1, 2, 3, 4, 5, 6]);
        let draining = BTreeSet::from([3]);
        assert_eq!(why_pending(&row, &draining), 0);
        assert_eq!(why_pending(&pending(row.clone(), 2, 7), &draining), why::DRAIN);
        assert_eq!(why_pending(&pending(row.clone(), 1, 7), &draining), why::BALANCE);
        let mut lacking = row;
        lacking.shards.remove(1);
        assert_eq!(why_pending(&pending(lacking, 1, 7), &draining), why::REPAIR);
        assert_eq!(why_pending(&pending(chunk(EC, &[1, 1, 3, 4, 5, 6]), 1, 7), &draining), why::SPREAD);
        assert!(pool(7, &[3]).step(1, &pending(chunk(EC, &[1, 2, 3, 4, 5, 6]), 2, 7)).is_none());
    }

    #[test]
    fn chunk_that_a_lost_zone_left_in_two_is_spread_when_it_is_back() {
        // Zones of three disks each: 1-3, 4-6, 7-9.
        let row = |disk: u64| DiskRow {
            domain: format!("zone-{}/host-{disk}", (disk - 1) / 3),
            state: disk_state::IN,
            ..DiskRow::default()
        };
        let disks: BTreeMap<u64, DiskRow> = (1..=9).map(|disk| (disk, row(disk))).collect();
        let candidate = |disk: u64| Candidate { disk, domain: row(disk).domain, weight: 0, draw: disk };
        let with = |live: &[u64]| {
            let space = live.iter().map(|disk| (*disk, (500, 1_000_000))).collect();
            Pool::new(&disks, live.iter().map(|disk| candidate(*disk)).collect(), space)
        };
        let mut chunk = chunk(EC, &[1, 2, 4, 5, 7, 8]);
        assert_eq!(with(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).step(1, &chunk), None);
        // The third zone is declared lost: what lacks goes to the two that are left.
        chunk.shards.truncate(4);
        let step = with(&[1, 2, 3, 4, 5, 6]).step(1, &chunk).expect("repair");
        let mut homes: Vec<u64> = step.targets.iter().map(|shard| shard.disk).collect();
        homes.sort_unstable();
        assert_eq!((step.why, homes), (why::REPAIR, vec![3, 6]));
        chunk.shards.extend(step.targets);
        assert_eq!(with(&[1, 2, 3, 4, 5, 6]).step(1, &chunk), None);
        // It is back, empty.
        let all = with(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        for _ in 0..2 {
            let step = all.step(1, &chunk).expect("spread");
            assert_eq!((step.why, step.targets.len()), (why::SPREAD, 1));
            assert!(step.targets[0].disk >= 7, "{step:?}");
            let moved = chunk.shards.iter_mut().find(|shard| shard.index == step.targets[0].index).expect("shard");
            moved.disk = step.targets[0].disk;
        }
        assert_eq!(all.step(1, &chunk), None);
    }
}
