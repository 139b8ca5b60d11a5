//! Randomness: secure bytes, and a fast generator for jitter and choices.
//!
//! On a simulated machine everything, also [`Random::fill`], follows from the seed.

use std::cell::Cell;
use std::rc::Rc;

use ring::rand::{SecureRandom, SystemRandom};

/// A source of randomness; clones share one stream.
#[derive(Clone)]
pub struct Random {
    generator: Rc<Generator>,
    secure: Option<SystemRandom>,
}

impl Random {
    pub(crate) fn real() -> Random {
        let secure = SystemRandom::new();
        let mut seed = [0u8; 8];
        secure.fill(&mut seed).expect("the operating system gives no random bytes");
        Random { generator: Rc::new(Generator::new(u64::from_le_bytes(seed))), secure: Some(secure) }
    }

    pub(crate) fn simulated(generator: Rc<Generator>) -> Random {
        Random { generator, secure: None }
    }

    /// Fills `out` with bytes fit for keys and tokens (seeded ones when simulated).
    ///
    /// # Panics
    /// If the operating system gives no random bytes: then nothing secret can be made.
    pub fn fill(&self, out: &mut [u8]) {
        match &self.secure {
            Some(secure) => secure.fill(out).expect("the operating system gives no random bytes"),
            None => self.generator.fill(out),
        }
    }

    /// A number for jitter and choices; not for secrets.
    pub fn next_u64(&self) -> u64 {
        self.generator.next()
    }

    /// A number in `0..n`; 0 if `n` is 0.
    pub fn below(&self, n: u64) -> u64 {
        self.generator.below(n)
    }

    /// True with probability `p`.
    pub fn chance(&self, p: f64) -> bool {
        self.generator.chance(p)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mix a number, any seed is good.
pub(crate) struct Generator {
    state: Cell<u64>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Generator {
        Generator { state: Cell::new(seed) }
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.state.set(state);
        mix(state)
    }

    /// By Lemire's multiplication; its bias is below n / 2^64.
    pub(crate) fn below(&self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    pub(crate) fn chance(&self, p: f64) -> bool {
        // An impossible event draws nothing, so that a fault that is off does not disturb the stream.
        p > 0.0 && ((self.next() >> 11) as f64) * (1.0 / (1u64 << 53) as f64) < p
    }

    pub(crate) fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The finaliser of SplitMix64: spreads every input bit over the whole word.
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_stays_below_and_reaches_all() {
        let generator = Generator::new(1);
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[generator.below(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!(generator.below(0), 0);
    }

    #[test]
    fn chance_is_about_right() {
        let generator = Generator::new(2);
        let hits = (0..10_000).filter(|_| generator.chance(0.3)).count();
        assert!((2_700..3_300).contains(&hits), "{hits}");
        assert!(generator.chance(1.0));
        assert!(!generator.chance(0.0));
    }

    #[test]
    fn real_bytes_differ() {
        let random = Random::real();
        let (mut one, mut two) = ([0u8; 32], [0u8; 32]);
        random.fill(&mut one);
        random.fill(&mut two);
        assert_ne!(one, two);
    }
}
