//! Fuzzers: feed random and damaged bytes to every decoder and random shapes to the coders.
//!
//! A case is a function of one 64-bit seed, so a failure is replayed by its seed alone; there is no
//! corpus, no instrumentation and nothing but the stable toolchain.
//!
//! ```text
//! seed -> Input (bytes, numbers, damage) -> Target::run -> panics if a promise is broken
//!                                             runner: counts, catches, prints the replay line
//! ```
//!
//! What it leaves to others: clusters under faults (`simulator`), the real program (`tests`).
//!
//! Invariant: a target asks only its [`input::Input`] for anything; no clock, no other randomness.

pub mod input;

pub mod runner;

pub mod targets;
