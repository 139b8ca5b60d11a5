//! Which chunk is repaired next, and where its new shards go. Pure.
//!
//! The chunk with the fewest good shards to spare comes first. The order is made from a scan of the
//! chunks that lack something, and kept until it is old or something happened that may change it.
//! When nothing lacks, crowded chunks are spread over domains that have come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use platform::clock::Instant;
use proto::rows::{ChunkRow, ShardRow, chunk_state};

use super::placement::{self, Candidate, Widths};

/// The order is made anew after this long.
const AGE: Duration = Duration::from_secs(10);
/// A repair that failed is tried again after this long, and after at most that long.
const PUT_OFF_MIN: Duration = Duration::from_secs(5);
const PUT_OFF_MAX: Duration = Duration::from_secs(60);
/// A shard is moved to a disk that is emptier by this much, thousandths.
pub(super) const REBALANCE_MIN: u64 = 200;
/// A chunk with fewer bytes is not compacted: there is hardly anything to win.
const COMPACT_MIN: u64 = 256 << 10;
/// Over how long the speed of repairs is measured.
const SPEED_OVER: Duration = Duration::from_secs(60);

/// What is to be repaired, most urgent first. In memory; each leader begins anew.
#[derive(Default)]
pub(super) struct Repairs {
    /// (good shards to spare, chunk); negative: fewer than a read needs.
    order: BTreeSet<(i64, u64)>,
    made: Option<Instant>,
    /// Chunks whose repair failed or cannot be planned: until when they wait, and how long.
    put_off: BTreeMap<u64, (Instant, Duration)>,
    /// Bytes of new shards still to be written, when the order was made.
    bytes_left: u64,
    done: Speed,
}

/// Bytes of new shards written lately, by the time they were done.
#[derive(Default)]
pub(super) struct Speed(Vec<(Instant, u64)>);

impl Speed {
    pub(super) fn note(&mut self, bytes: u64, now: Instant) {
        self.0.retain(|(at, _)| now.saturating_since(*at) < SPEED_OVER);
        self.0.push((now, bytes));
    }

    /// Bytes a second over the last minute.
    pub(super) fn bytes_per_s(&self, now: Instant) -> u64 {
        let recent = self.0.iter().filter(|(at, _)| now.saturating_since(*at) < SPEED_OVER);
        recent.map(|(_, bytes)| bytes).sum::<u64>() / SPEED_OVER.as_secs()
    }
}

/// What `bixi status` tells of repairs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Progress {
    pub chunks_left: u64,
    pub bytes_left: u64,
    pub bytes_per_s: u64,
    /// Seconds until all is done at this speed; 0 = nothing is left or nothing is known.
    pub eta_s: u64,
}

impl Repairs {
    /// Whether the order must be made anew before it is asked.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.made.is_none_or(|made| now.saturating_since(made) > AGE)
    }

    /// Something happened that may change the order.
    pub(super) fn forget_order(&mut self) {
        self.made = None;
    }

    /// Takes in the chunks that lack something.
    pub(super) fn set_order<'a>(
        &mut self,
        lacking: impl Iterator<Item = (u64, &'a ChunkRow)>,
        live: impl Fn(u64) -> bool,
        now: Instant,
    ) {
        self.made = Some(now);
        self.order.clear();
        self.bytes_left = 0;
        for (chunk, row) in lacking {
            if let Some(spare) = spare(row, &live) {
                self.bytes_left += row.sealed_len * lacking_indexes(row).len() as u64;
                self.order.insert((spare, chunk));
            }
        }
    }

    /// The most urgent chunk that is not put off; it leaves the order.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        let waits = |chunk: &u64| self.put_off.get(chunk).is_some_and(|(until, _)| *until > now);
        let found = self.order.iter().find(|(_, chunk)| !waits(chunk)).copied()?;
        self.order.remove(&found);
        Some(found.1)
    }

    /// Whether a try with this chunk failed a moment ago.
    pub(super) fn is_put_off(&self, chunk: u64, now: Instant) -> bool {
        self.put_off.get(&chunk).is_some_and(|(until, _)| *until > now)
    }

    /// A move that was no repair went well.
    pub(super) fn went_well(&mut self, chunk: u64) {
        self.put_off.remove(&chunk);
    }

    /// The order number of a chunk that lacks something: the lowest comes first.
    pub(super) fn urgency(row: &ChunkRow, live: impl Fn(u64) -> bool) -> i64 {
        spare(row, live).unwrap_or(i64::MAX)
    }

    /// A repair failed or cannot be planned now: the others must not wait for it.
    pub(super) fn failed(&mut self, chunk: u64, now: Instant) {
        let pause = self.put_off.get(&chunk).map_or(PUT_OFF_MIN, |(_, pause)| (*pause * 2).min(PUT_OFF_MAX));
        self.put_off.insert(chunk, (now + pause, pause));
    }

    /// A repair that wrote `bytes` is committed.
    pub(super) fn finished(&mut self, chunk: u64, bytes: u64, now: Instant) {
        self.put_off.remove(&chunk);
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.done.note(bytes, now);
    }

    /// Disks or chunks are not what they were: whatever failed is worth another try.
    pub(super) fn try_all_again(&mut self) {
        self.put_off.clear();
        self.made = None;
    }

    pub(super) fn progress(&self, under_way: u64, now: Instant) -> Progress {
        let chunks_left = self.order.len() as u64 + under_way;
        if chunks_left == 0 {
            return Progress::default();
        }
        let bytes_per_s = self.done.bytes_per_s(now);
        let eta_s = self.bytes_left.checked_div(bytes_per_s).unwrap_or(0);
        Progress { chunks_left, bytes_left: self.bytes_left, bytes_per_s, eta_s }
    }
}

/// Good shards on live disks beyond those a read needs; `None` if the chunk cannot be repaired now.
fn spare(row: &ChunkRow, live: impl Fn(u64) -> bool) -> Option<i64> {
    let policy = row.redundancy.policy()?;
    // What is left of a bad shard may be what is missing elsewhere, so it counts for the try.
    if row.state != chunk_state::SEALED || row.pending_move.is_some() || row.shards.len() < policy.needed() {
        return None;
    }
    let good = row.shards.iter().filter(|shard| !shard.bad && live(shard.disk)).count();
    Some(good as i64 - policy.needed() as i64)
}

/// Indexes of the chunk without a good shard.
pub(super) fn lacking_indexes(row: &ChunkRow) -> Vec<u32> {
    let count = row.redundancy.policy().map_or(0, |policy| policy.shards()) as u32;
    let good = |index: u32| row.shards.iter().any(|shard| shard.index == index && !shard.bad);
    (0..count).filter(|index| !good(*index)).collect()
}

/// New shards for what the chunk lacks. First on disks that hold none of it; crowded only if there
/// is no other way.
pub(super) fn plan(row: &ChunkRow, domains: &BTreeMap<u64, String>, candidates: &[Candidate]) -> Option<Vec<ShardRow>> {
    let policy = row.redundancy.policy()?;
    let lacking = lacking_indexes(row);
    let kept: Vec<&ShardRow> = row.shards.iter().filter(|shard| !shard.bad).collect();
    let used = used_domains(&kept, domains);
    let fresh: Vec<Candidate> =
        candidates.iter().filter(|at| !kept.iter().any(|shard| shard.disk == at.disk)).cloned().collect();
    let targets = placement::plan_some(policy, lacking.len(), &used, &fresh)
        .or_else(|| placement::plan_some(policy, lacking.len(), &used, candidates))?;
    Some(
        lacking.into_iter().zip(targets).map(|(index, disk)| ShardRow { index, disk, ..ShardRow::default() }).collect(),
    )
}

/// A better place for one shard of a crowded chunk: in a domain that holds none of it, or out of a
/// rack or zone that holds more than it should.
pub(super) fn plan_spread(
    row: &ChunkRow,
    domains: &BTreeMap<u64, String>,
    widths: &Widths,
    candidates: &[Candidate],
) -> Option<Vec<ShardRow>> {
    if row.state != chunk_state::SEALED || row.pending_move.is_some() || !lacking_indexes(row).is_empty() {
        return None;
    }
    find_spread(row, domains, widths, candidates)
}

/// The same for a chunk in any state.
pub(super) fn find_spread(
    row: &ChunkRow,
    domains: &BTreeMap<u64, String>,
    widths: &Widths,
    candidates: &[Candidate],
) -> Option<Vec<ShardRow>> {
    let policy = row.redundancy.policy()?;
    let all: Vec<&ShardRow> = row.shards.iter().collect();
    let used = used_domains(&all, domains);
    let room = widths.room(policy, &used);
    if used.iter().all(|(domain, count)| *count == 1 && !room.is_exceeded(domain)) {
        return None;
    }
    row.shards.iter().find_map(|shard| {
        let own = domains.get(&shard.disk)?;
        let others: Vec<&ShardRow> = row.shards.iter().filter(|other| other.index != shard.index).collect();
        let used = used_domains(&others, domains);
        let room = widths.room(policy, &used);
        // What is free here was not free there, so no shard goes back and forth.
        if room.is_free(own) {
            return None;
        }
        let better: Vec<Candidate> = candidates.iter().filter(|at| room.is_free(&at.domain)).cloned().collect();
        let target = placement::plan_some(policy, 1, &used, &better)?;
        Some(vec![ShardRow { index: shard.index, disk: *target.first()?, ..ShardRow::default() }])
    })
}

/// A place on a much emptier disk for the shard on the fullest one. `fill` is how full each live
/// disk is, in thousandths. No domain, rack or zone comes to hold more of the chunk than it may.
pub(super) fn plan_rebalance(
    row: &ChunkRow,
    domains: &BTreeMap<u64, String>,
    widths: &Widths,
    candidates: &[Candidate],
    fill: &BTreeMap<u64, u64>,
) -> Option<Vec<ShardRow>> {
    if row.state != chunk_state::SEALED || row.sealed_len == 0 || row.pending_move.is_some() {
        return None;
    }
    let (fullest, moved) =
        row.shards.iter().filter_map(|shard| Some((*fill.get(&shard.disk)?, shard))).max_by_key(|at| at.0)?;
    if !lacking_indexes(row).is_empty() {
        return None;
    }
    let others: Vec<&ShardRow> = row.shards.iter().filter(|shard| shard.index != moved.index).collect();
    let used = used_domains(&others, domains);
    let room = widths.room(row.redundancy.policy()?, &used);
    let fits = |at: &&Candidate| {
        let emptier = fill.get(&at.disk).is_some_and(|fill| fill + REBALANCE_MIN < fullest);
        emptier && room.is_free(&at.domain)
    };
    let target = candidates.iter().filter(fits).min_by_key(|at| (fill.get(&at.disk).copied(), at.draw))?;
    Some(vec![ShardRow { index: moved.index, disk: target.disk, ..ShardRow::default() }])
}

/// Whether a chunk wastes so much that its live bytes are worth moving: sealed and released for
/// good, whole, and less than a quarter of it alive.
pub(super) fn is_mostly_dead(row: &ChunkRow) -> bool {
    let stored = row.sealed_len.saturating_mul(row.redundancy.policy().map_or(1, |policy| policy.needed()) as u64);
    row.state == chunk_state::SEALED
        && row.released
        && row.pending_move.is_none()
        && row.live_bytes > 0
        && stored >= COMPACT_MIN
        && row.live_bytes.saturating_mul(4) < stored
        && lacking_indexes(row).is_empty()
}

pub(super) fn used_domains(shards: &[&ShardRow], domains: &BTreeMap<u64, String>) -> BTreeMap<String, usize> {
    let mut used = BTreeMap::new();
    for domain in shards.iter().filter_map(|shard| domains.get(&shard.disk)) {
        *used.entry(domain.clone()).or_insert(0) += 1;
    }
    used
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proto::rows::{ChunkRow, RedundancyRow, ShardRow, chunk_state};
    use types::redundancy::Redundancy;

    use super::{Candidate, Instant, Repairs, Widths, is_mostly_dead, plan, plan_rebalance, plan_spread};

    const NOW: Instant = Instant(1);

    fn chunk(policy: Redundancy, shards: &[(u32, u64, bool)]) -> ChunkRow {
        let shards =
            shards.iter().map(|(index, disk, bad)| ShardRow { index: *index, placement: 1, disk: *disk, bad: *bad });
        ChunkRow {
            redundancy: RedundancyRow::from(policy),
            state: chunk_state::SEALED,
            sealed_len: 1000,
            shards: shards.collect(),
            ..ChunkRow::default()
        }
    }

    fn candidates(disks: &[u64]) -> Vec<Candidate> {
        let of = |disk: &u64| Candidate { disk: *disk, domain: format!("d{disk}"), weight: 0, draw: *disk };
        disks.iter().map(of).collect()
    }

    fn domains(disks: std::ops::RangeInclusive<u64>) -> BTreeMap<u64, String> {
        disks.map(|disk| (disk, format!("d{disk}"))).collect()
    }

    const EC: Redundancy = Redundancy::Erasure { data: 2, parity: 2 };

    #[test]
    fn chunk_with_the_least_redundancy_left_is_repaired_first() {
        let lacking = [
            (1, chunk(EC, &[(0, 1, false), (1, 2, false), (2, 3, false)])),
            (2, chunk(EC, &[(0, 1, false), (1, 2, false)])),
            (3, chunk(EC, &[(0, 1, false), (1, 2, false), (2, 3, true)])),
            (4, chunk(EC, &[(0, 1, false), (1, 9, false), (2, 3, false)])),
            (5, chunk(EC, &[(0, 1, false), (1, 9, false), (2, 3, true)])),
            (6, chunk(EC, &[(0, 1, false)])),
        ];
        let mut repairs = Repairs::default();
        // Disk 9 is silent.
        repairs.set_order(lacking.iter().map(|(chunk, row)| (*chunk, row)), |disk| disk != 9, NOW);
        let order: Vec<u64> = std::iter::from_fn(|| repairs.next(NOW)).collect();
        assert_eq!(order, [5, 2, 3, 4, 1], "6 cannot be rebuilt from one shard");
    }

    #[test]
    fn repair_that_failed_waits_longer_each_time_and_holds_nobody_back() {
        let lacking = [
            (1, chunk(EC, &[(0, 1, false), (1, 2, false)])),
            (2, chunk(EC, &[(0, 1, false), (1, 2, false), (2, 3, false)])),
        ];
        let mut repairs = Repairs::default();
        let mut now = NOW;
        let mut tries = 0;
        for _ in 0..1000 {
            repairs.set_order(lacking.iter().map(|(chunk, row)| (*chunk, row)), |_| true, now);
            let next = repairs.next(now).expect("one is always free");
            if next == 1 {
                tries += 1;
                repairs.failed(1, now);
            }
            now = now + Duration::from_secs(1);
        }
        assert!((15..=25).contains(&tries), "{tries}");
        repairs.try_all_again();
        repairs.set_order(lacking.iter().map(|(chunk, row)| (*chunk, row)), |_| true, now);
        assert_eq!(repairs.next(now), Some(1));
    }

    #[test]
    fn progress_tells_what_is_left_and_when_it_is_done() {
        let lacking = [
            (1, chunk(EC, &[(0, 1, false), (1, 2, false)])),
            (2, chunk(EC, &[(0, 1, false), (1, 2, false), (2, 3, false)])),
        ];
        let mut repairs = Repairs::default();
        repairs.set_order(lacking.iter().map(|(chunk, row)| (*chunk, row)), |_| true, NOW);
        assert_eq!(repairs.progress(0, NOW).bytes_left, 3000);
        repairs.next(NOW);
        repairs.finished(1, 600, NOW);
        let progress = repairs.progress(0, NOW);
        assert_eq!(
            (progress.chunks_left, progress.bytes_left, progress.bytes_per_s, progress.eta_s),
            (1, 2400, 10, 240)
        );
    }

    #[test]
    fn bad_shard_is_replaced_on_its_own_disk_only_if_there_is_no_other() {
        let row = chunk(Redundancy::Copies(3), &[(0, 1, false), (1, 2, true), (2, 3, false)]);
        let planned = plan(&row, &domains(1..=4), &candidates(&[1, 2, 3])).expect("plan");
        assert_eq!(planned.iter().map(|shard| (shard.index, shard.disk)).collect::<Vec<_>>(), [(1, 2)]);
        let planned = plan(&row, &domains(1..=4), &candidates(&[1, 4, 3])).expect("plan");
        assert_eq!(planned.iter().map(|shard| (shard.index, shard.disk)).collect::<Vec<_>>(), [(1, 4)]);
    }

    #[test]
    fn crowded_chunk_is_spread_when_a_domain_is_back() {
        let row = chunk(EC, &[(0, 1, false), (1, 1, false), (2, 2, false), (3, 3, false)]);
        assert_eq!(plan_spread(&row, &domains(1..=4), &Widths::default(), &candidates(&[1, 2, 3])), None);
        let planned = plan_spread(&row, &domains(1..=4), &Widths::default(), &candidates(&[1, 2, 3, 4])).expect("plan");
        assert_eq!(planned.iter().map(|shard| (shard.index, shard.disk)).collect::<Vec<_>>(), [(0, 4)]);
        let spread = chunk(EC, &[(0, 4, false), (1, 1, false), (2, 2, false), (3, 3, false)]);
        assert_eq!(plan_spread(&spread, &domains(1..=5), &Widths::default(), &candidates(&[5])), None);
    }

    #[test]
    fn shard_on_the_fullest_disk_moves_to_a_much_emptier_one_in_another_domain() {
        let row = chunk(Redundancy::Copies(2), &[(0, 1, false), (1, 2, false)]);
        let fill = |third: u64| BTreeMap::from([(1, 500), (2, 800), (3, third)]);
        let plan =
            |third| plan_rebalance(&row, &domains(1..=3), &Widths::default(), &candidates(&[1, 2, 3]), &fill(third));
        let planned = plan(100).expect("plan");
        assert_eq!(planned.iter().map(|shard| (shard.index, shard.disk)).collect::<Vec<_>>(), [(1, 3)]);
        assert_eq!(plan(650), None, "not worth it");
        // The emptier disk lies in the domain of the other copy.
        let crowded: BTreeMap<u64, String> = [(1, "a".into()), (2, "b".into()), (3, "a".into())].into();
        let third = Candidate { disk: 3, domain: "a".into(), weight: 0, draw: 0 };
        assert_eq!(plan_rebalance(&row, &crowded, &Widths::default(), &[third], &fill(100)), None);
    }

    #[test]
    fn only_whole_released_and_mostly_dead_chunks_are_compacted() {
        let whole = [(0, 1, false), (1, 2, false), (2, 3, false), (3, 4, false)];
        let dead = ChunkRow { sealed_len: 32 << 20, released: true, live_bytes: 15 << 20, ..chunk(EC, &whole) };
        assert!(is_mostly_dead(&dead));
        assert!(!is_mostly_dead(&ChunkRow { live_bytes: 17 << 20, ..dead.clone() }));
        assert!(!is_mostly_dead(&ChunkRow { live_bytes: 0, ..dead.clone() }), "it goes by itself");
        assert!(!is_mostly_dead(&ChunkRow { released: false, ..dead.clone() }));
        assert!(!is_mostly_dead(&ChunkRow { sealed_len: 100_000, live_bytes: 1, ..dead.clone() }));
        let shards = dead.shards[1..].to_vec();
        assert!(!is_mostly_dead(&ChunkRow { shards, ..dead }), "it is repaired first");
    }
}
