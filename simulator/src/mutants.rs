//! Planted mistakes: for each, how many seeds it takes until a checker finds it.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use platform::planted::PlantedBug;
use simulator::checkers::Checker;
use simulator::seed::{self, Options};

/// What became of a mistake.
struct Hunt {
    bug: PlantedBug,
    /// Seeds tried, the last of which found it, and who found it.
    found: Option<(u64, Checker, String)>,
    /// The same seed and faults without the mistake pass.
    honest: bool,
}

/// Hunts every mistake in at most `seeds_max` seeds each, on `jobs` threads. Answers the report and
/// whether all is as it should be.
pub fn hunt_all(bugs: &[PlantedBug], seeds_max: u64, jobs: usize) -> (String, bool) {
    let hunts: Mutex<Vec<Hunt>> = Mutex::default();
    let next = AtomicUsize::new(0);
    let tried = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let hunt = hunt(*bug, seeds_max, &tried);
                    let what = match &hunt.found {
                        Some((seeds, checker, _)) => format!("found by {checker:?} after {seeds} seeds"),
                        None => format!("not found in {seeds_max} seeds"),
                    };
                    println!("{}: {what}{}", bug.name(), if hunt.honest { "" } else { "; FAILS WITHOUT IT TOO" });
                    hunts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(hunt);
                }
            });
        }
    });
    let mut hunts = hunts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    hunts.sort_by_key(|hunt| hunt.bug);
    let found = hunts.iter().filter(|hunt| hunt.found.is_some()).count();
    let good = found * 20 >= hunts.len() * 19 && hunts.iter().all(|hunt| hunt.honest);
    (report(&hunts, seeds_max), good)
}

fn hunt(bug: PlantedBug, seeds_max: u64, tried: &AtomicU64) -> Hunt {
    for seed in 1..=seeds_max {
        tried.fetch_add(1, Ordering::Relaxed);
        let report = seed::run(seed, &Options::planted(bug));
        let Some(first) = report.violations.first() else { continue };
        let honest = Options { planted: Vec::new(), ..Options::planted(bug) };
        let honest = seed::run(seed, &honest).violations.is_empty();
        return Hunt { bug, found: Some((seed, first.checker, first.what.clone())), honest };
    }
    Hunt { bug, found: None, honest: true }
}

fn report(hunts: &[Hunt], seeds_max: u64) -> String {
    let mut out = String::from(
        "# Planted mistakes\n\nMistakes that the simulator makes on purpose, to see that its checkers find them. Written by \
         `make sim-mutants`;\neach switch belongs to the simulated machine (`platform::planted`) and is off on a real \
         one. A mistake is hunted with\nthe faults that uncover it (`simulator/src/uncover.rs`); the seed that finds it must \
         pass without it.\n\n| mistake | what is wrong | found by | seeds |\n|---|---|---|---|\n",
    );
    for hunt in hunts {
        let (checker, seeds) = match &hunt.found {
            Some((seeds, checker, _)) => (format!("{checker:?}"), seeds.to_string()),
            None => ("**not found**".to_owned(), format!("{seeds_max} without success")),
        };
        let note = if hunt.honest { "" } else { " (fails without it too)" };
        let _ = writeln!(out, "| `{}` | {} | {checker}{note} | {seeds} |", hunt.bug.name(), hunt.bug.about());
    }
    let found = hunts.iter().filter(|hunt| hunt.found.is_some()).count();
    let _ = writeln!(out, "\n{found} of {} are found, each within {seeds_max} seeds.", hunts.len());
    out.push_str("\n## Checkers\n\nWhich planted mistakes each checker was the first to find:\n\n");
    for checker in Checker::ALL {
        let by: Vec<String> = hunts
            .iter()
            .filter(|hunt| hunt.found.as_ref().is_some_and(|(_, by, _)| *by == checker))
            .map(|hunt| format!("`{}`", hunt.bug.name()))
            .collect();
        let by = if by.is_empty() { "none; see its tests".to_owned() } else { by.join(", ") };
        let _ = writeln!(out, "- {checker:?}: {by}");
    }
    out
}
