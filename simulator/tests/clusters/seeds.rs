//! Seeds, each a cluster with a load and faults of its own: what must pass, and what must be found.

use platform::planted::PlantedBug;
use simulator::seed::{Options, Report, run};

/// Seeds that once found a bug.
const OLD_SEEDS: &str = include_str!("../../seeds.txt");

/// Runs a seed that must pass.
fn passes(seed: u64, options: &Options) -> Report {
    let report = run(seed, options);
    assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
    report
}

#[test]
fn same_seed_twice_gives_the_same_trace() {
    for seed in [3, 4, 5] {
        let (one, two) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(one.trace_hash, two.trace_hash, "seed {seed}");
        assert_eq!((one.operations, one.story), (two.operations, two.story), "seed {seed}");
        assert_ne!(one.trace_hash, run(seed + 10, &Options::default()).trace_hash);
    }
}

#[test]
fn volumes_show_what_they_may_in_six_seeds() {
    for seed in 200..206 {
        let report = passes(seed, &Options { volumes: true, ..Options::default() });
        assert!(report.reached["volume is attached"] > 0 && report.operations > 100);
    }
}

#[test]
fn planted_bug_is_found_volume_trimmed_early() {
    is_found(PlantedBug::VolumeTrimmedEarly, 20);
}

#[test]
fn six_seeds_pass() {
    for seed in 100..106 {
        let report = passes(seed, &Options::default());
        assert!(report.virtual_seconds >= 60.0 && report.operations > 0);
    }
}

#[test]
fn seeds_that_found_bugs_pass() {
    for line in OLD_SEEDS.lines() {
        let mut words = line.split_whitespace();
        let Some(seed) = words.next().and_then(|word| word.parse().ok()) else { continue };
        passes(seed, &Options { volumes: words.next() == Some("--volumes"), ..Options::default() });
    }
}

/// Within `seeds_max` seeds the planted bug must be found; the same faults without it find nothing.
fn is_found(bug: PlantedBug, seeds_max: u64) {
    let found = (0..seeds_max).find(|seed| !run(*seed, &Options::planted(bug)).violations.is_empty());
    let Some(seed) = found else { panic!("{bug:?} was not found within {seeds_max} seeds") };
    let honest = Options { planted: Vec::new(), ..Options::planted(bug) };
    passes(seed, &honest);
}

#[test]
fn planted_bug_is_found_ack_before_flush() {
    is_found(PlantedBug::AckBeforeFlush, 10);
}

#[test]
fn planted_bug_is_found_seal_without_fence() {
    is_found(PlantedBug::SealWithoutFence, 20);
}
