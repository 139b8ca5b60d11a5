//! Redundancy: how many shards a chunk has and how many of them are needed to read it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Policy of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Redundancy {
    /// Whole copies of the chunk.
    Copies(u8),
    /// Reed-Solomon columns.
    Erasure {
        /// Columns that hold the data.
        data: u8,
        /// Columns that hold parity.
        parity: u8,
    },
}

/// The most shards a chunk may have.
pub const SHARDS_MAX: u8 = 32;

/// The most copies a chunk may have.
pub const COPIES_MAX: u8 = 9;

/// How a chunk is filled, and what it is turned into after its seal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Filling {
    /// Its redundancy while it is written.
    pub policy: Redundancy,
    /// Its redundancy in the end; none = the same.
    pub becomes: Option<Redundancy>,
}

impl From<Redundancy> for Filling {
    fn from(policy: Redundancy) -> Filling {
        Filling { policy, becomes: None }
    }
}

impl Redundancy {
    /// Number of shards of a chunk.
    pub fn shards(self) -> usize {
        match self {
            Redundancy::Copies(copies) => usize::from(copies),
            Redundancy::Erasure { data, parity } => usize::from(data) + usize::from(parity),
        }
    }

    /// Number of shards needed to read a chunk (`k` in the law of sealing).
    pub fn needed(self) -> usize {
        match self {
            Redundancy::Copies(_) => 1,
            Redundancy::Erasure { data, .. } => usize::from(data),
        }
    }

    /// Number of shards that may be lost without losing data.
    pub fn parity(self) -> usize {
        self.shards() - self.needed()
    }

    /// Bytes of each shard when `logical` bytes are laid out by this policy: whole cells, the last stripe filled up.
    pub fn shard_len(self, logical: u64, cell: u64) -> u64 {
        match self {
            Redundancy::Copies(_) => logical,
            Redundancy::Erasure { data, .. } => {
                let cell = cell.max(1);
                logical.div_ceil(cell.saturating_mul(u64::from(data))).saturating_mul(cell)
            }
        }
    }

    /// The law of sealing: with acks from `acked` shards and a seal decided on `answered` fenced
    /// answers nothing acked is lost iff `acked + answered >= n + k` (ARCHITECTURE 4, rule 5).
    pub fn seal_is_safe(self, acked: usize, answered: usize) -> bool {
        acked + answered >= self.shards() + self.needed()
    }

    /// What small data of this policy is stored as: copies that survive as many losses, and stripes later.
    pub fn small(self) -> Filling {
        match self {
            Redundancy::Copies(_) => self.into(),
            Redundancy::Erasure { parity, .. } => {
                Filling { policy: Redundancy::Copies(parity + 1), becomes: Some(self) }
            }
        }
    }
}

impl fmt::Display for Redundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Redundancy::Copies(copies) => write!(f, "copies:{copies}"),
            Redundancy::Erasure { data, parity } => write!(f, "ec:{data}+{parity}"),
        }
    }
}

/// A redundancy that cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("redundancy {text:?} is not copies:N (1..=9) or ec:K+M (K, M >= 1, K+M <= 32)")]
pub struct BadRedundancy {
    text: String,
}

impl FromStr for Redundancy {
    type Err = BadRedundancy;

    fn from_str(text: &str) -> Result<Redundancy, BadRedundancy> {
        let bad = || BadRedundancy { text: text.to_owned() };
        if let Some(copies) = text.strip_prefix("copies:") {
            let copies: u8 = copies.parse().map_err(|_| bad())?;
            return (1..=COPIES_MAX).contains(&copies).then_some(Redundancy::Copies(copies)).ok_or_else(bad);
        }
        let (data, parity) = text.strip_prefix("ec:").and_then(|rest| rest.split_once('+')).ok_or_else(bad)?;
        let data: u8 = data.parse().map_err(|_| bad())?;
        let parity: u8 = parity.parse().map_err(|_| bad())?;
        let fits = data >= 1 && parity >= 1 && data.checked_add(parity).is_some_and(|n| n <= SHARDS_MAX);
        // Small data of the policy becomes parity + 1 copies, so parity is bounded by that as well.
        (fits && parity < COPIES_MAX).then_some(Redundancy::Erasure { data, parity }).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::{Filling, Redundancy};

    #[test]
    fn text_round_trips_and_nonsense_is_refused() {
        for text in ["copies:1", "copies:3", "ec:4+2", "ec:8+3"] {
            assert_eq!(text.parse::<Redundancy>().expect("valid").to_string(), text);
        }
        for text in ["", "copies:0", "copies:10", "ec:0+2", "ec:4+0", "ec:31+2", "ec:4", "copies:x", "ec:300+1"] {
            assert!(text.parse::<Redundancy>().is_err(), "{text}");
        }
    }

    #[test]
    fn law_of_sealing_asks_for_q_plus_r_at_least_n_plus_k() {
        let copies = Redundancy::Copies(3);
        assert!(copies.seal_is_safe(3, 1));
        assert!(!copies.seal_is_safe(2, 1), "ack 2 of 3 loses data");
        let stripes = Redundancy::Erasure { data: 4, parity: 2 };
        assert!(stripes.seal_is_safe(6, 4));
        assert!(!stripes.seal_is_safe(6, 3));
    }

    #[test]
    fn small_data_survives_as_many_losses() {
        let stripes = Redundancy::Erasure { data: 4, parity: 2 };
        let small = stripes.small();
        assert_eq!(small, Filling { policy: Redundancy::Copies(3), becomes: Some(stripes) });
        assert_eq!(small.policy.parity(), stripes.parity());
        assert_eq!(Redundancy::Copies(2).small(), Redundancy::Copies(2).into());
    }

    #[test]
    fn last_stripe_is_filled_up() {
        let stripes = Redundancy::Erasure { data: 4, parity: 2 };
        assert_eq!([0, 1, 40, 41, 80].map(|logical| stripes.shard_len(logical, 10)), [0, 10, 10, 20, 20]);
        assert_eq!(Redundancy::Copies(3).shard_len(41, 10), 41);
    }
}
