//! Deliberate mistakes that the simulator must find. They are switches of the simulated machine; on a
//! real one every switch is off.

/// Defines the mistakes with their names on the command line.
macro_rules! mistakes {
    ($($(#[doc = $doc:expr])+ $variant:ident = $name:literal,)+) => {
        /// A deliberate mistake.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        #[non_exhaustive]
        pub enum PlantedBug {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl PlantedBug {
            /// All of them.
            pub const ALL: &[PlantedBug] = &[$(PlantedBug::$variant,)+];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(PlantedBug::$variant => $name,)+
                }
            }

            /// What it does wrong.
            pub fn about(self) -> &'static str {
                match self {
                    $(PlantedBug::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

mistakes! {
    /// An append is acknowledged before its flush has returned.
    AckBeforeFlush = "ack-before-flush",
    /// A seal is decided without fencing the old writer first.
    SealWithoutFence = "seal-without-fence",
    /// A seal takes the longest answer for the length.
    SealTakesLongest = "seal-takes-longest",
    /// A writer is content with all shards but one, while the seal goes by the shortest answer.
    AckWithoutOne = "ack-without-one",
    /// A shard takes appends of a lower epoch than it has stored.
    EpochNotChecked = "epoch-not-checked",
    /// Parity comes out wrong, and nobody looks at it.
    ParityWrong = "parity-wrong",
    /// A fence answers at once, and appends that were under way then are still acknowledged.
    AckAfterFence = "ack-after-fence",
    /// A chunkserver forgets at a restart that its shards were fenced.
    EpochLostAtRestart = "epoch-lost-at-restart",
    /// Recovery cuts a shard at a rotten record, though a later record vouches for it, as if nothing
    /// behind it had been acknowledged.
    ShardCutAtRot = "shard-cut-at-rot",
    /// A read answers what the disk gave, without looking at checksums.
    ReadNotVerified = "read-not-verified",
    /// A delete takes every shard of the chunk on the disk, not the placement that it names.
    DeleteByChunk = "delete-by-chunk",
    /// A commit checks neither that its session lives nor that its chunks do.
    CommitOfEndedSession = "commit-of-ended-session",
    /// A chunk without references is reclaimed while the session lives that fills it.
    ReclaimOfLiveSession = "reclaim-of-live-session",
    /// A command that is sent again is applied again.
    RetryAppliedTwice = "retry-applied-twice",
    /// Apply looks at the replica's own clock.
    ApplyLooksAtClock = "apply-looks-at-clock",
    /// Conditions are decided by the leader before the command is in the log.
    ConditionBeforeLog = "condition-before-log",
    /// The commit of a move does not look which move is pending.
    MoveNotPending = "move-not-pending",
    /// A deleted object leaves its references behind.
    ReferencesKept = "references-kept",
    /// A listing leaves out the first key of a page that is not the first.
    ListingSkipsKey = "listing-skips-key",
    /// A leader answers reads without asking whether it still leads.
    StaleRead = "stale-read",
    /// Term and vote are not written to the disk.
    VoteNotWritten = "vote-not-written",
    /// Entries of the Raft log are acknowledged before they are flushed.
    LogNotFlushed = "log-not-flushed",
    /// The Raft log is trimmed although the state was not flushed.
    TrimBeforeFlush = "trim-before-flush",
    /// A snapshot leaves sessions and their outcomes out.
    SnapshotWithoutSessions = "snapshot-without-sessions",
    /// A log with rot in its middle is cut there and used.
    LogCutAtRot = "log-cut-at-rot",
    /// A replica that lost entries it acknowledged votes as if nothing had happened.
    DoubtIgnored = "doubt-ignored",
    /// A replica whose directory was emptied votes as a founder.
    EmptiedVotes = "emptied-votes",
    /// What a volume's compaction copies takes its place in the index although it was overwritten meanwhile.
    VolumeMoveUnchecked = "volume-move-unchecked",
    /// A volume's journal is read again by chunks, the last one first, not by the numbers of records.
    VolumeReplayDisorder = "volume-replay-disorder",
    /// A replay of a volume's journal freezes the index of a snapshot at its end, not at the snapshot's moment.
    VolumeFreezeLate = "volume-freeze-late",
    /// The owner of a volume answers reads without asking whether it still is the owner.
    VolumeReadUnconfirmed = "volume-read-unconfirmed",
    /// A checkpoint of a volume takes every record up to now for one that is in its index.
    VolumeTrimmedEarly = "volume-trimmed-early",
}

/// The mistakes that are switched on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted(u64);

impl Planted {
    /// Those of a list.
    pub fn of(bugs: &[PlantedBug]) -> Planted {
        Planted(bugs.iter().fold(0, |bits, bug| bits | 1 << *bug as u64))
    }

    /// Whether the mistake is to be made.
    pub fn has(self, bug: PlantedBug) -> bool {
        self.0 >> bug as u64 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::{Planted, PlantedBug};

    #[test]
    fn every_mistake_has_a_switch_and_a_name_of_its_own() {
        for bug in PlantedBug::ALL {
            let switched = Planted::of(&[*bug]);
            assert!(PlantedBug::ALL.iter().all(|other| switched.has(*other) == (other == bug)), "{bug:?}");
            assert_eq!(PlantedBug::ALL.iter().filter(|other| other.name() == bug.name()).count(), 1);
            assert!(!Planted::default().has(*bug));
        }
    }
}
