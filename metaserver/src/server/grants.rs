//! Homes for new chunks: what the leader grants. The disks are gathered once for a request, and
//! where there are copysets only those of a few groups are looked at. Pure but for the drawing.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::clock::Instant;
use proto::level;
use proto::meta::Body;
use proto::meta::{Command, GrantChunks, GrantRequest, Outcome, PlannedChunk, refusal};
use proto::rows::{DiskRow, disk_state};
use proto::service::{class, code};
use types::redundancy::Redundancy;

use super::copysets::{Crowding, Pick};
use super::disk_table::DiskTable;
use super::heartbeat::Liveness;
use super::placement::{self, Candidate};
use super::{MetaServer, Trouble};

/// What the leader knows of disks when it looks for homes.
pub(super) struct View<'a> {
    pub table: &'a DiskTable,
    pub liveness: &'a Liveness,
    pub now: Instant,
    /// After so much silence a disk gets no new shards.
    pub silent: Duration,
}

/// What homes are wanted.
pub(super) struct Wanted<'a> {
    pub policy: Redundancy,
    /// Disks on which a write failed a moment ago.
    pub avoid: &'a [u64],
    /// Disks that are slow.
    pub slow: &'a [u64],
    /// Bytes that must be left on a disk.
    pub space_min: u64,
}

/// No homes were found.
pub(super) struct TooFew {
    /// Disks that may take shards.
    pub usable: usize,
    /// There would be enough if there were room on them.
    pub is_full: bool,
}

impl View<'_> {
    fn can_take(&self, disk: u64, row: &DiskRow, avoid: &[u64], space_min: u64) -> bool {
        row.state == disk_state::IN && !row.draining && !avoid.contains(&disk) && self.has_room(disk, space_min)
    }

    /// Whether a disk lives and has so much room.
    fn has_room(&self, disk: u64, space_min: u64) -> bool {
        let heard = self.liveness.disk(disk, self.now, self.silent);
        heard.is_some_and(|heard| !heard.failed && heard.available_bytes >= space_min)
    }

    /// Disks that may take a new shard now. `chosen` tells how often each was.
    pub(super) fn candidates(
        &self,
        avoid: &[u64],
        space_min: u64,
        chosen: &BTreeMap<u64, u64>,
        draw: &mut dyn FnMut() -> u64,
    ) -> Vec<Candidate> {
        let rows = self.table.rows.iter();
        let free = rows.filter(|(disk, row)| self.can_take(**disk, row, avoid, space_min));
        let candidate = |(disk, row): (&u64, &DiskRow)| Candidate {
            disk: *disk,
            domain: row.domain.clone(),
            weight: chosen.get(disk).copied().unwrap_or(0),
            draw: draw(),
        };
        free.map(candidate).collect()
    }

    /// Homes for `count` chunks, each in order of shard index; `chosen` counts them.
    pub(super) fn homes(
        &self,
        wanted: &Wanted<'_>,
        count: usize,
        chosen: &mut BTreeMap<u64, u64>,
        draw: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<Vec<u64>>, TooFew> {
        let mut candidates = None;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let disks = match self.among_copysets(wanted, chosen, draw) {
                Some(disks) => disks,
                None => self.among_all(wanted, &mut candidates, chosen, draw)?,
            };
            for disk in &disks {
                *chosen.entry(*disk).or_insert(0) += 1;
            }
            chunks.push(disks);
        }
        Ok(chunks)
    }

    /// From the groups of the copysets, if there are any.
    pub(super) fn among_copysets(
        &self,
        wanted: &Wanted<'_>,
        chosen: &BTreeMap<u64, u64>,
        draw: &mut dyn FnMut() -> u64,
    ) -> Option<Vec<u64>> {
        let domains = self.table.domains.as_ref()?;
        let sets = domains.copysets(wanted.policy)?;
        let pick = |domain: u32, avoid: &[u64], slow: &[u64]| {
            let disks = domains.disks_of(domain).iter().filter(|disk| !slow.contains(disk) && !avoid.contains(disk));
            let free = disks.filter(|disk| self.has_room(**disk, wanted.space_min));
            free.map(|disk| Pick { weight: chosen.get(disk).copied().unwrap_or(0), draw: 0, disk: *disk }).min()
        };
        let around = |domain: u32| pick(domain, wanted.avoid, wanted.slow);
        let some = |domain: u32| pick(domain, wanted.avoid, &[]);
        // Better on a disk that failed a moment ago than out of bounds or nowhere.
        let any = |domain: u32| pick(domain, &[], &[]);
        let found = sets.choose(Crowding::AsDealt, &around, draw);
        let found = found.or_else(|| sets.choose(Crowding::WithinBounds, &some, draw));
        if found.is_some() || wanted.avoid.is_empty() {
            return found;
        }
        sets.choose(Crowding::WithinBounds, &any, draw)
    }

    /// From all disks. `candidates` keeps them from chunk to chunk.
    fn among_all(
        &self,
        wanted: &Wanted<'_>,
        candidates: &mut Option<Vec<Candidate>>,
        chosen: &BTreeMap<u64, u64>,
        draw: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<u64>, TooFew> {
        let candidates: &[Candidate] = match candidates {
            Some(known) => {
                for candidate in &mut *known {
                    candidate.weight = chosen.get(&candidate.disk).copied().unwrap_or(0);
                    candidate.draw = draw();
                }
                known
            }
            None => candidates.insert(self.candidates(wanted.avoid, wanted.space_min, chosen, draw)),
        };
        let planned = placement::plan_around(wanted.slow, wanted.policy, candidates);
        // Better on a disk that failed a moment ago than nowhere.
        let planned = planned.or_else(|| {
            let all = self.candidates(&[], wanted.space_min, chosen, draw);
            placement::plan(wanted.policy, &all)
        });
        planned.ok_or_else(|| {
            let with_full = placement::plan(wanted.policy, &self.candidates(&[], 0, chosen, draw));
            TooFew { usable: candidates.len(), is_full: with_full.is_some() }
        })
    }
}

impl MetaServer {
    /// Plans chunks for a writer and grants them in one command.
    pub(super) async fn grant(&self, ask: GrantRequest) -> Result<Outcome, Trouble> {
        self.0.replica.read_barrier().await?;
        let cluster = self.cluster()?;
        let Some(policy) = ask.redundancy.policy() else {
            return Err(Trouble::new(class::GIVE_UP, code::BAD_REQUEST, "no such redundancy"));
        };
        let space_min = if ask.reserve { 0 } else { placement::SPACE_MIN };
        let wanted = Wanted { policy, avoid: &ask.avoid, slow: &ask.slow, space_min };
        let count = ask.count.clamp(1, 16) as usize;
        let body = GrantChunks {
            session: ask.session,
            redundancy: ask.redundancy,
            cell_size: cluster.cell_size,
            capacity: cluster.chunk_capacity,
            chunks: self.homes(&wanted, count)?,
            becomes: ask.becomes.filter(|_| cluster.feature_level >= level::TRANSCODE),
        };
        let command = Command {
            session: ask.session,
            sequence: ask.sequence,
            floor: ask.floor,
            partition: ask.partition,
            now_ms: 0,
            body: Some(Body::GrantChunks(body)),
        };
        let outcome = self.propose(command).await?;
        if outcome.refusal == refusal::OTHER_BODY {
            // A retry planned anew; the first plan's outcome is gone from this client's sight.
            return Err(Trouble::new(class::REFETCH, code::OTHER, "grant was planned twice; ask with a new sequence"));
        }
        Ok(outcome)
    }

    fn homes(&self, wanted: &Wanted<'_>, count: usize) -> Result<Vec<PlannedChunk>, Trouble> {
        let (table, liveness) = (self.disk_table()?, self.0.liveness.borrow());
        let view = self.view(&table, &liveness);
        let mut draw = || self.0.platform.random().next_u64();
        let homes = view.homes(wanted, count, &mut self.0.chosen.borrow_mut(), &mut draw);
        let chunks = homes.map_err(|few| {
            let text = format!("too few disks for {}: {} usable", wanted.policy, few.usable);
            // Full only if room is what lacks: a disk that this leader has not heard yet may
            // be heard in a moment, so its writer waits instead of failing.
            let code = if few.is_full { code::FULL } else { code::OTHER };
            Trouble::new(class::RETRY, code, text)
        })?;
        Ok(chunks.into_iter().map(|disks| PlannedChunk { disks }).collect())
    }

    fn view<'a>(&self, table: &'a DiskTable, liveness: &'a Liveness) -> View<'a> {
        View { table, liveness, now: self.0.platform.clock().now(), silent: self.0.times.disk_silent }
    }

    /// New shards go to these disks: the next ones rather to others.
    pub(super) fn note_chosen(&self, disks: impl Iterator<Item = u64>) {
        let mut chosen = self.0.chosen.borrow_mut();
        let mut kept = self.0.pool.borrow_mut();
        for disk in disks {
            *chosen.entry(disk).or_insert(0) += 1;
            if let Some(kept) = &mut *kept {
                kept.note_chosen(disk);
            }
        }
    }

    /// Disks that may take a new shard now.
    pub(super) fn candidates(&self, avoid: &[u64]) -> Result<Vec<Candidate>, Trouble> {
        let (table, liveness) = (self.disk_table()?, self.0.liveness.borrow());
        let mut draw = || self.0.platform.random().next_u64();
        let chosen = self.0.chosen.borrow();
        Ok(self.view(&table, &liveness).candidates(avoid, placement::SPACE_MIN, &chosen, &mut draw))
    }
}
