//! The checkers: each stands outside the code, knows one promise, and says when it was broken.
//!
//! That each of them can fail is shown by the planted mistakes (docs/planted-bugs.md names the checker
//! that found each) and by tests beside those that are plain functions.

use std::fmt;

/// Who found something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Checker {
    /// The history of every key is that of one register (`linear`).
    Histories,
    /// Bytes that are read are those that were written (`content`).
    Bytes,
    /// An acknowledged append can be read for as long as its session lives (`journal`).
    Appends,
    /// A volume, a snapshot and a clone show what they may, and nothing else (`volumes`).
    Volumes,
    /// Answers are possible ones: no refusal that no fault excuses.
    Answers,
    /// No term has two leaders.
    Leaders,
    /// A replica starts and goes on, unless its disk failed.
    Replicas,
    /// Replicas with the same applied index have the same state.
    Agreement,
    /// In the end every replica votes, and knows what it promised.
    Voters,
    /// In the end every key can be read, and operations work.
    Service,
    /// In the end every chunk has all its shards, and nothing waits for its deletion.
    Redundancy,
    /// A shard that a move put into a chunk is whole on its disk when the chunk names it.
    Moves,
    /// In the end the shards of a chunk fit each other.
    Shards,
    /// In the end every reference has its use, and space adds up.
    References,
    /// No task panics, spins, or waits for ever.
    Machine,
    /// The same seed gives the same run.
    Replay,
    /// Every situation is one that the list knows.
    Situations,
}

impl Checker {
    /// All of them.
    pub const ALL: [Checker; 17] = [
        Checker::Histories,
        Checker::Bytes,
        Checker::Appends,
        Checker::Volumes,
        Checker::Answers,
        Checker::Leaders,
        Checker::Replicas,
        Checker::Agreement,
        Checker::Voters,
        Checker::Service,
        Checker::Redundancy,
        Checker::Moves,
        Checker::Shards,
        Checker::References,
        Checker::Machine,
        Checker::Replay,
        Checker::Situations,
    ];
}

/// A promise that was broken.
#[derive(Clone, PartialEq, Debug)]
pub struct Violation {
    /// Who found it.
    pub checker: Checker,
    /// Virtual seconds.
    pub at: f64,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.3}s, {:?}: {}", self.at, self.checker, self.what)
    }
}
