//! Homes for shards of chunks that are there already, where there are many domains: found by the
//! chunk's copyset, without a look at every disk. Pure. `planner` asks here first.

use std::collections::BTreeMap;
use std::rc::Rc;

use proto::rows::{ChunkRow, ShardRow};
use types::redundancy::Redundancy;

use super::copysets::{self, Crowding, Pick};
use super::disk_table::Domains;
use super::placement::Candidate;
use super::repairs::REBALANCE_MIN;

/// Which disks may take shards.
#[derive(Clone)]
pub(super) struct Homes {
    domains: Rc<Domains>,
    /// Weight and tie-break of each disk that may, by its position.
    free: Vec<Option<(u64, u64)>>,
    /// No disk that may take shards is emptier than this, thousandths.
    emptiest: u64,
}

impl Homes {
    /// `fill` is how full each live disk is, in thousandths.
    pub(super) fn new(domains: Rc<Domains>, candidates: &[Candidate], fill: &BTreeMap<u64, u64>) -> Homes {
        let mut free = vec![None; domains.disks_count()];
        for candidate in candidates {
            if let Some(at) = domains.position(candidate.disk) {
                free[at] = Some((candidate.weight, candidate.draw));
            }
        }
        let emptiest = candidates.iter().filter_map(|at| fill.get(&at.disk)).min();
        Homes { domains, free, emptiest: emptiest.copied().unwrap_or(u64::MAX) }
    }

    /// New shards for these indexes of a chunk. `None`: the caller looks at all disks.
    pub(super) fn replace(&self, row: &ChunkRow, indexes: &[u32]) -> Option<Vec<ShardRow>> {
        self.replace_by(row, indexes, |_| true)
    }

    fn replace_by(&self, row: &ChunkRow, indexes: &[u32], fits: impl Fn(u64) -> bool) -> Option<Vec<ShardRow>> {
        let sets = self.domains.copysets(row.redundancy.policy()?)?;
        let stays = |shard: &&ShardRow| !indexes.contains(&shard.index);
        let kept: Option<Vec<u32>> =
            row.shards.iter().filter(stays).map(|shard| self.domains.domain_of(shard.disk)).collect();
        let holds = |disk: u64| row.shards.iter().any(|shard| shard.disk == disk);
        let pick = |domain: u32| self.pick(domain, |disk| !holds(disk) && fits(disk));
        let disks = sets.replace(&kept?, indexes.len(), &pick)?;
        let shard = |(index, disk): (&u32, u64)| ShardRow { index: *index, disk, ..ShardRow::default() };
        Some(indexes.iter().zip(disks).map(shard).collect())
    }

    /// The best disk of a domain.
    fn pick(&self, domain: u32, fits: impl Fn(u64) -> bool) -> Option<Pick> {
        let disks = self.domains.disks_of(domain).iter().filter(|disk| fits(**disk));
        let picks = disks.filter_map(|disk| {
            let (weight, draw) = self.free[self.domains.position(*disk)?]?;
            Some(Pick { weight, draw, disk: *disk })
        });
        picks.min()
    }

    /// Homes for all shards of a chunk that is laid out anew by this policy.
    pub(super) fn anew(&self, row: &ChunkRow, policy: Redundancy) -> Option<Vec<u64>> {
        let sets = self.domains.copysets(policy)?;
        // Drawn from a number that no other chunk has, for whoever plans again shall find the same.
        let mut draw = copysets::stream(row.shards.first().map_or(0, |shard| shard.placement));
        sets.choose(Crowding::AsDealt, &|domain| self.pick(domain, |_| true), &mut draw)
    }

    /// A place on a much emptier disk, near its group, for the shard on the fullest one.
    pub(super) fn balance(&self, row: &ChunkRow, fill: &BTreeMap<u64, u64>) -> Option<Vec<ShardRow>> {
        let filled = row.shards.iter().filter_map(|shard| Some((*fill.get(&shard.disk)?, shard.index)));
        let (fullest, index) = filled.max()?;
        let is_emptier = |disk: u64| fill.get(&disk).is_some_and(|fill| fill + REBALANCE_MIN < fullest);
        self.replace_by(row, &[index], is_emptier)
    }

    /// Whether there are copysets of a policy.
    pub(super) fn deals(&self, policy: Redundancy) -> bool {
        self.domains.copysets(policy).is_some()
    }

    /// Whether a whole chunk need be neither spread nor balanced.
    pub(super) fn is_settled(&self, row: &ChunkRow, fill: &BTreeMap<u64, u64>) -> bool {
        let Some(sets) = row.redundancy.policy().and_then(|policy| self.domains.copysets(policy)) else { return false };
        let domains: Option<Vec<u32>> = row.shards.iter().map(|shard| self.domains.domain_of(shard.disk)).collect();
        let fullest = row.shards.iter().filter_map(|shard| fill.get(&shard.disk)).max().copied().unwrap_or(0);
        domains.is_some_and(|domains| sets.is_well_spread(&domains))
            && fullest <= self.emptiest.saturating_add(REBALANCE_MIN)
    }

    /// A shard goes to this disk: the next ones rather to others.
    pub(super) fn note_chosen(&mut self, disk: u64) {
        if let Some((weight, _)) = self.domains.position(disk).and_then(|at| self.free[at].as_mut()) {
            *weight += 1;
        }
    }

    /// A disk is this full now.
    pub(super) fn note_fill(&mut self, fill: u64) {
        self.emptiest = self.emptiest.min(fill);
    }
}
