//! For each planted mistake: the faults and the work that bring it to light soon. The same faults
//! without the mistake find nothing.

use std::time::Duration;

use platform::planted::PlantedBug;
use types::redundancy::Redundancy;

use crate::draw::Draw;
use crate::faults::metadata::Damage;
use crate::shape::{Rates, Shape};
use crate::volumes::VolumeWork;

const fn often(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

/// Turns up what uncovers `bug`.
pub fn uncover(shape: &mut Shape, bug: PlantedBug) {
    let (rates, work) = (&mut shape.rates, &mut shape.work);
    let busy = Duration::from_millis(20);
    match bug {
        PlantedBug::AckBeforeFlush => {
            rates.power_cut = often(8);
            rates.crash_chunk = often(4);
            shape.machine.disk_flush.1 = Duration::from_millis(30);
        }
        PlantedBug::SealWithoutFence
        | PlantedBug::AckAfterFence
        | PlantedBug::EpochNotChecked
        | PlantedBug::SealTakesLongest => {
            // Appends that are under way in the moment of the seal.
            rates.seal = Some(Duration::from_millis(500));
            (work.journals, work.journal) = (2, busy);
            shape.machine.disk_flush.1 = Duration::from_millis(30);
        }
        PlantedBug::EpochLostAtRestart => {
            rates.dark = often(1);
            (work.journals, work.journal) = (2, Duration::from_millis(150));
        }
        PlantedBug::AckWithoutOne => {
            rates.seal = often(1);
            rates.crash_chunk = often(3);
            rates.write_fails = often(4);
            rates.partition = often(8);
            (work.journals, work.journal) = (2, busy);
            shape.policy = Redundancy::Copies(3);
        }
        PlantedBug::ParityWrong => {
            (work.journals, work.journal) = (2, busy);
            shape.policy = Redundancy::Erasure { data: 2, parity: 1 };
        }
        PlantedBug::ShardCutAtRot => {
            rates.rot_open = often(2);
            rates.crash_client = None;
            // So few records that those of the rotten chunk are still remembered in the end.
            (work.journals, work.journal) = (2, Duration::from_millis(400));
            shape.checkpoint_records = 20_000;
        }
        PlantedBug::ReadNotVerified => {
            rates.rot = often(1);
            rates.crash_chunk = often(4);
        }
        PlantedBug::DeleteByChunk => {
            rates.crash_chunk = often(3);
            rates.write_fails = often(3);
            rates.seal = often(1);
            rates.lose_disk = often(10);
        }
        PlantedBug::CommitOfEndedSession => {
            rates.pause = often(3);
            rates.partition = often(6);
            shape.times.session_silent = Duration::from_secs(4);
            shape.inline_max = 0;
            work.think /= 3;
        }
        PlantedBug::ReclaimOfLiveSession => {
            rates.seal = often(1);
            (work.journals, work.journal) = (2, Duration::from_millis(100));
        }
        PlantedBug::RetryAppliedTwice => {
            rates.crash_meta = often(3);
            rates.one_way = often(5);
            shape.machine.cut = 0.005;
            work.registers = 2;
        }
        PlantedBug::ApplyLooksAtClock => rates.clock_jump = often(5),
        PlantedBug::ConditionBeforeLog => {
            work.registers = 1;
            work.mix = [0.5, 6.0, 1.0, 1.5, 0.0, 0.0, 0.0, 0.0];
            work.think /= 4;
        }
        PlantedBug::MoveNotPending => {
            rates.write_fails = often(4);
            rates.crash_chunk = often(4);
            rates.stall = often(1);
            rates.seal = often(1);
            shape.times.job_lease = Duration::from_secs(2);
            shape.machine.disk_flush.1 = Duration::from_millis(30);
            shape.machine.disk_write.1 = Duration::from_millis(2);
        }
        PlantedBug::ReferencesKept => {}
        PlantedBug::ListingSkipsKey => {
            work.mix[4] = 4.0;
            work.registers = 6;
        }
        PlantedBug::StaleRead => {
            // An old leader and a new one, and nothing else that keeps the others from electing it.
            *rates = Rates { split: often(3), ..Rates::default() };
            (work.registers, work.mix) = (2, [3.0, 1.0, 6.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
            work.think /= 4;
        }
        PlantedBug::VoteNotWritten | PlantedBug::LogNotFlushed => {
            rates.power_cut = often(6);
            rates.crash_meta = often(2);
            rates.meta_trap = often(3);
            shape.machine.disk_write.1 = Duration::from_millis(2);
        }
        PlantedBug::TrimBeforeFlush => {
            rates.power_cut = often(8);
            (shape.flush_entries, shape.keep_entries, shape.segment_size) = (20, 2, 16 << 10);
        }
        PlantedBug::SnapshotWithoutSessions => {
            rates.meta_damage = often(5);
            shape.damages = vec![Damage::Emptied];
        }
        PlantedBug::LogCutAtRot => {
            rates.meta_damage = often(2);
            rates.crash_meta = often(2);
            shape.damages = vec![Damage::RotInLog];
        }
        PlantedBug::DoubtIgnored => {
            rates.meta_damage = often(3);
            rates.crash_meta = often(2);
            shape.damages = vec![Damage::RotAtEnd, Damage::OldLog];
        }
        PlantedBug::EmptiedVotes => {
            rates.meta_damage = often(3);
            rates.crash_meta = often(2);
            shape.damages = vec![Damage::Emptied, Damage::OnlyState];
        }
        PlantedBug::VolumeMoveUnchecked => volumes(shape, |work| {
            work.pace.period = Duration::from_millis(60);
            work.think = Duration::from_millis(20);
        }),
        PlantedBug::VolumeReplayDisorder | PlantedBug::VolumeTrimmedEarly => {
            shape.rates.owner = often(2);
            shape.rates.seal = Some(Duration::from_millis(500));
            volumes(shape, |work| {
                work.think = Duration::from_millis(20);
                work.hold = Duration::from_secs(2);
            });
        }
        PlantedBug::VolumeFreezeLate => {
            shape.rates.owner = often(2);
            volumes(shape, |work| {
                work.pace.period = Duration::from_secs(3);
                work.think = Duration::from_millis(20);
                work.people = Duration::from_millis(500);
            });
        }
        PlantedBug::VolumeReadUnconfirmed => {
            // Owners that do not hear of others, while the shards still answer their readers.
            shape.rates = Rates { split_owner: often(3), ..Rates::default() };
            volumes(shape, |work| {
                (work.volumes, work.owners, work.force, work.clients) = (1, 2, 1.0, 5);
                (work.hold, work.think) = (Duration::from_secs(12), Duration::from_millis(30));
            });
        }
        _ => {}
    }
}

/// Much work on volumes.
fn volumes(shape: &mut Shape, turn_up: impl FnOnce(&mut VolumeWork)) {
    let (owner, split) = (shape.rates.owner, shape.rates.split_owner);
    shape.have_volumes(&Draw::new(shape.seed), true);
    shape.rates.owner = owner.or(shape.rates.owner);
    shape.rates.split_owner = split.or(shape.rates.split_owner);
    if let Some(work) = shape.work.volumes.as_mut() {
        (work.volumes, work.owners) = (1, 2);
        turn_up(work);
    }
}
