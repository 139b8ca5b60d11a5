//! The door for `bixi-scale`: the leader's own code for heartbeats, grants and repairs, over disks and
//! chunks that lie in memory. Nothing of it is Raft, network or store.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::clock::Instant;
use proto::members::why;
use proto::meta::Heartbeat;
use proto::rows::{ChunkRow, DiskRow, ShardRow, disk_state};
use types::redundancy::Redundancy;

use super::disk_table::DiskTable;
use super::grants::{View, Wanted};
use super::heartbeat::Liveness;
use super::placement;
use super::planner::Pool;
use super::repairs::Repairs;

/// What a leader knows of disks.
pub struct Leader {
    table: DiskTable,
    liveness: Liveness,
    chosen: BTreeMap<u64, u64>,
    now: Instant,
    silent: Duration,
}

impl Leader {
    /// A leader that has heard of no disk yet; one that is silent for longer gets no shards.
    pub fn new(disks: BTreeMap<u64, DiskRow>, silent: Duration) -> Leader {
        let liveness = Liveness::default();
        Leader { table: DiskTable::new(disks), liveness, chosen: BTreeMap::new(), now: Instant(0), silent }
    }

    /// Takes in a heartbeat as it comes over the wire. False: it cannot be read.
    pub fn hear(&mut self, heartbeat: &[u8], now: Instant) -> bool {
        let Ok(beat) = proto::decode::<Heartbeat>(heartbeat) else { return false };
        self.now = now;
        self.liveness.begin(1, now);
        for session in beat.sessions {
            self.liveness.hear_session(session, now);
        }
        self.liveness.hear_disks(beat.disks, &self.table.rows, now);
        true
    }

    /// How many copysets a policy has here; dealt when they are first asked for.
    pub fn copysets(&self, policy: Redundancy) -> Option<usize> {
        let sets = self.table.domains.as_ref()?.copysets(policy)?;
        Some(sets.count())
    }

    /// Homes for new chunks as one request is granted them; `None` if there are too few disks.
    pub fn grant(&mut self, policy: Redundancy, count: usize, draw: &mut dyn FnMut() -> u64) -> Option<Vec<Vec<u64>>> {
        let view = View { table: &self.table, liveness: &self.liveness, now: self.now, silent: self.silent };
        view.homes(&wanted(policy), count, &mut self.chosen, draw).ok()
    }

    /// Homes for one chunk by a look at every disk, as where domains are few.
    pub fn grant_by_scan(&self, policy: Redundancy, draw: &mut dyn FnMut() -> u64) -> Option<Vec<u64>> {
        let view = View { table: &self.table, liveness: &self.liveness, now: self.now, silent: self.silent };
        let candidates = view.candidates(&[], placement::SPACE_MIN, &self.chosen, draw);
        placement::plan(policy, &candidates)
    }

    /// These disks are declared lost.
    pub fn lose(&mut self, lost: &[u64]) {
        let mut rows = (*self.table.rows).clone();
        for disk in lost {
            rows.entry(*disk).and_modify(|row| row.state = disk_state::LOST);
        }
        self.table = DiskTable::new(rows);
    }

    /// Gathers the disks as the planner of repairs sees them.
    pub fn planner(&self, draw: &mut dyn FnMut() -> u64) -> Planner {
        let view = View { table: &self.table, liveness: &self.liveness, now: self.now, silent: self.silent };
        let live = self.liveness.live_disks(self.now, self.silent);
        let space = live
            .map(|heard| (heard.disk, (heard.total_bytes.saturating_sub(heard.available_bytes), heard.total_bytes)));
        let candidates = view.candidates(&[], placement::SPACE_MIN, &self.chosen, draw);
        let pool = Pool::new(&self.table.rows, candidates, space.collect());
        Planner(pool.with_domains(self.table.domains.clone()))
    }
}

fn wanted(policy: Redundancy) -> Wanted<'static> {
    Wanted { policy, avoid: &[], slow: &[], space_min: placement::SPACE_MIN }
}

/// The planner of background work.
pub struct Planner(Pool);

impl Planner {
    /// The chunks that lack something, most urgent first.
    pub fn order<'a>(&self, lacking: impl Iterator<Item = (u64, &'a ChunkRow)>, now: Instant) -> Vec<u64> {
        let mut repairs = Repairs::default();
        repairs.set_order(lacking, |disk| self.0.space.contains_key(&disk), now);
        std::iter::from_fn(|| repairs.next(now)).collect()
    }

    /// The new shards of a chunk that lacks some; what is planned next goes rather elsewhere.
    pub fn repair(&mut self, chunk: u64, row: &ChunkRow) -> Option<Vec<ShardRow>> {
        let step = self.0.step(chunk, row).filter(|step| step.why == why::REPAIR && !step.targets.is_empty())?;
        self.0.note(&step);
        Some(step.targets)
    }

    /// Whether there is nothing to do about a chunk.
    pub fn is_well(&self, chunk: u64, row: &ChunkRow) -> bool {
        self.0.step(chunk, row).is_none()
    }
}
