//! `bixi-fuzz [--target NAME] [--seconds N] [--seed S] [--cases N] [--list]`: runs every fuzzer, or one.
//!
//! Prints one line per target with its rate. Ends with 1 if a case failed, after the line that
//! replays it; with 2 if the arguments make no sense. Without `--seed` the seeds begin at the wall
//! clock, so that each run sees other cases; the first seed is printed.

#![allow(clippy::disallowed_methods, reason = "a fuzzer is given real time and fresh seeds")]

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuzz::runner::{Target, replay_line, run};
use fuzz::targets::all;

const USAGE: &str = "usage: bixi-fuzz [--target NAME] [--seconds N] [--seed S] [--cases N] [--list]\n  \
    --seconds N  for all targets together (default 60)\n  \
    --seed S     seed of the first case (default: from the clock)\n  \
    --cases N    stop a target after N cases\n  \
    --list       name the targets";

struct Options {
    targets: Vec<Target>,
    seconds: f64,
    seed: u64,
    cases_max: u64,
    list: bool,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("bixi-fuzz: {text}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if options.list {
        options.targets.iter().for_each(|target| println!("{:<12} {}", target.name, target.about));
        return ExitCode::SUCCESS;
    }
    let share = Duration::from_secs_f64(options.seconds / options.targets.len() as f64);
    println!("first seed {}, {:.1} s for each target", options.seed, share.as_secs_f64());
    let failed = options.targets.iter().filter(|target| !is_good(target, &options, share)).count();
    if failed > 0 {
        println!("{failed} of {} targets failed", options.targets.len());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn is_good(target: &Target, options: &Options, share: Duration) -> bool {
    let start = Instant::now();
    match run(target, options.seed, options.cases_max, || start.elapsed() >= share) {
        Ok(cases) => {
            let rate = cases as f64 / start.elapsed().as_secs_f64();
            println!("{:<12} {cases:>10} cases {rate:>10.0} /s", target.name);
            true
        }
        Err(seed) => {
            println!("{:<12} FAILED at seed {seed}; replay: {}", target.name, replay_line(target, seed));
            false
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    // A short number is easier to type again.
    let seed = now / 1_000_000 % 1_000_000_000;
    let mut options = Options { targets: all(), seconds: 60.0, seed, cases_max: u64::MAX, list: false };
    while let Some(name) = arguments.next() {
        if name == "--list" {
            options.list = true;
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name} is unknown or lacks its value"))?;
        let bad = || format!("{name} {value} is not a number that fits");
        match name.as_str() {
            "--target" => {
                options.targets.retain(|target| target.name == value);
                if options.targets.is_empty() {
                    return Err(format!("no target {value}; --list names them"));
                }
            }
            "--seconds" => {
                options.seconds = value.parse().ok().filter(|n| (0.0..1e6).contains(n)).ok_or_else(bad)?;
            }
            "--seed" => options.seed = value.parse().map_err(|_| bad())?,
            "--cases" => options.cases_max = value.parse().map_err(|_| bad())?,
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(options)
}
