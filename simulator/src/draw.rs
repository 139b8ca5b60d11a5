//! The simulator's own stream of choices: SplitMix64, apart from the streams of the simulated machine.

use std::cell::Cell;
use std::time::Duration;

/// A stream of choices.
pub struct Draw {
    state: Cell<u64>,
}

/// Spreads every bit of `word` over the whole word.
pub fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

impl Draw {
    /// A stream that follows from `seed`.
    pub fn new(seed: u64) -> Draw {
        Draw { state: Cell::new(mix(seed ^ 0x5157_7f1d_9b1e_6c33)) }
    }

    /// The next word.
    pub fn word(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.state.set(state);
        mix(state)
    }

    /// A number in `0..n`; 0 if `n` is 0.
    pub fn below(&self, n: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// A number in `0.0..1.0`.
    pub fn fraction(&self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with probability `p`.
    pub fn chance(&self, p: f64) -> bool {
        self.fraction() < p
    }

    /// A duration between two, in milliseconds.
    pub fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }

    /// A duration whose mean is `mean`, as between events of a Poisson process.
    pub fn wait(&self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.fraction()).ln())
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// The index of one of `weights` (not all 0), drawn by weight.
    pub fn weighted(&self, weights: &[f64]) -> usize {
        let mut at = self.fraction() * weights.iter().sum::<f64>();
        for (index, weight) in weights.iter().enumerate() {
            if at < *weight {
                return index;
            }
            at -= weight;
        }
        weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::Draw;

    #[test]
    fn choices_follow_from_the_seed_and_stay_in_bounds() {
        let (one, two) = (Draw::new(7), Draw::new(7));
        for _ in 0..1000 {
            assert_eq!(one.word(), two.word());
            assert!((3..=9).contains(&one.between(3, 9)));
            two.word();
            let weighted = one.weighted(&[0.0, 2.0, 0.0, 1.0]);
            two.word();
            assert!(weighted == 1 || weighted == 3);
        }
    }
}
