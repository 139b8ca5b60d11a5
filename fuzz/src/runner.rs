//! Runs the cases of a target until its time is up, and says how to replay the one that failed.
//!
//! Time is the caller's: `is_over` is asked between batches of cases, so this file needs no clock.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::input::Input;

/// Cases between two looks at the clock.
const BATCH: u64 = 16;

/// A named fuzzer.
#[derive(Clone, Copy)]
pub struct Target {
    /// What `--target` takes.
    pub name: &'static str,
    /// What it feeds to whom.
    pub about: &'static str,
    /// One case. Panics if a promise is broken.
    pub run: fn(&mut Input),
}

/// Runs cases `seed`, `seed + 1`, ... of `target`; answers how many were run.
///
/// # Errors
/// The seed of the first case that panicked; its message has been printed by the panic hook.
pub fn run(target: &Target, seed: u64, cases_max: u64, mut is_over: impl FnMut() -> bool) -> Result<u64, u64> {
    let mut done = 0;
    while done < cases_max {
        if done % BATCH == 0 && done > 0 && is_over() {
            break;
        }
        let case = seed.wrapping_add(done);
        // A case owns all it touches, so nothing half-changed survives its panic.
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&mut Input::new(case))));
        if outcome.is_err() {
            return Err(case);
        }
        done += 1;
    }
    Ok(done)
}

/// The command that runs the failed case alone.
pub fn replay_line(target: &Target, seed: u64) -> String {
    format!("bixi-fuzz --target {} --seed {seed} --cases 1", target.name)
}

#[cfg(test)]
mod tests {
    use super::{Target, replay_line, run};

    #[test]
    fn a_failing_case_is_named_by_its_seed() {
        let target = Target { name: "odd", about: "", run: |input| assert!(!input.once_in(50), "planted") };
        let seed = run(&target, 1, 100_000, || false).expect_err("one in fifty fails");
        assert_eq!(run(&target, seed, 1, || false), Err(seed));
        assert_eq!(replay_line(&target, 5), "bixi-fuzz --target odd --seed 5 --cases 1");
    }

    #[test]
    fn cases_end_with_the_time_or_the_count() {
        let target = Target { name: "idle", about: "", run: |_| {} };
        assert_eq!(run(&target, 1, 5, || false), Ok(5));
        assert_eq!(run(&target, 1, u64::MAX, || true), Ok(16));
    }
}
