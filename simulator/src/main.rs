//! `bixi-sim`: runs seeds of the simulator, or replays one.
//!
//! Ends with the line `n seeds, f failed, r seeds/min`; a failed seed prints the command that
//! replays it. Exit code 1 if any failed.

#![allow(clippy::disallowed_methods, reason = "this program measures real time and runs seeds on threads")]

mod mutants;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use platform::planted::PlantedBug;
use simulator::seed::{self, Options, Report};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// A seed is one thread that makes and drops millions of small things; a fifth faster than with glibc's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Whole Bixi clusters under virtual time, with faults, from seeds.
#[derive(Parser)]
#[command(name = "bixi-sim", version)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Run seeds for this many seconds instead.
    #[arg(long)]
    seconds: Option<u64>,
    /// Replay this seed and tell what happens. With --seeds above 1: the first of so many.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed of many; drawn from the clock if not given.
    #[arg(long)]
    from: Option<u64>,
    /// Seeds at once, each on a thread of its own.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Switch a deliberate mistake on, by its name in docs/planted-bugs.md.
    #[arg(long, value_parser = planted)]
    planted: Vec<PlantedBug>,
    /// Turn up the faults that uncover this mistake without making it.
    #[arg(long, value_parser = planted)]
    profile: Option<PlantedBug>,
    /// Work on volumes in every seed, and less of the other.
    #[arg(long)]
    volumes: bool,
    /// Run seeds of a model instead: `index`, a volume's index against a map.
    #[arg(long, value_parser = ["index"])]
    model: Option<String>,
    /// Hunt every planted mistake (or those of --planted) in at most so many seeds each.
    #[arg(long)]
    mutants: Option<u64>,
    /// Where the table of the hunt goes.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Append the result to this file.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// What the ledger names as the code's revision.
    #[arg(long, default_value = "unknown")]
    revision: String,
    /// Events of the machine shown at the end of a replay.
    #[arg(long, default_value_t = 200)]
    events: usize,
    /// What a replay logs, as of tracing's env-filter.
    #[arg(long, default_value = "info")]
    log: String,
}

fn planted(text: &str) -> Result<PlantedBug, String> {
    let known = PlantedBug::ALL.iter().copied();
    known.clone().find(|bug| bug.name() == text).ok_or_else(|| {
        let names: Vec<&str> = known.map(PlantedBug::name).collect();
        format!("one of {}", names.join(", "))
    })
}

impl Args {
    fn options(&self, trace_events: usize) -> Options {
        let profile = self.profile.or(self.planted.first().copied());
        Options { planted: self.planted.clone(), profile, trace_events, volumes: self.volumes }
    }
}

struct VirtualTime;

impl FormatTime for VirtualTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        match simulator::clock::seconds() {
            Some(seconds) => write!(writer, "{seconds:12.6}"),
            None => write!(writer, "{:>12}", "-"),
        }
    }
}

/// Lines of a failed seed's story that are shown.
const STORY_LINES: usize = 40;
/// A run of so many seeds must come into every situation.
const SEEDS_FOR_ALL: u64 = 500;

#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: Vec<u64>,
    virtual_seconds: f64,
    operations: u64,
    faults: u64,
    undecided: u64,
    reached: BTreeMap<&'static str, u64>,
}

fn main() {
    let args = Args::parse();
    if let Some(seeds_max) = args.mutants {
        std::process::exit(hunt(&args, seeds_max));
    }
    if args.model.is_some() {
        std::process::exit(model(&args));
    }
    if let Some(seed) = args.seed.filter(|_| args.seeds <= 1 || args.from.is_none() && args.seconds.is_none()) {
        std::process::exit(replay(seed, &args));
    }
    std::process::exit(many(&args));
}

/// Hunts planted mistakes.
fn hunt(args: &Args, seeds_max: u64) -> i32 {
    std::panic::set_hook(Box::new(|_| {}));
    let bugs = if args.planted.is_empty() { PlantedBug::ALL.to_vec() } else { args.planted.clone() };
    let (report, good) = mutants::hunt_all(&bugs, seeds_max, args.jobs);
    if let Some(path) = &args.report
        && let Err(error) = std::fs::write(path, &report)
    {
        eprintln!("cannot write {}: {error}", path.display());
        return 1;
    }
    println!("\n{report}");
    i32::from(!good)
}

/// Runs seeds of the model of a volume's index.
fn model(args: &Args) -> i32 {
    let first = args.seed.or(args.from).unwrap_or(0);
    let seeds = if args.seed.is_some() { 1 } else { args.seeds };
    if seeds > 1 {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds {
                        break;
                    }
                    let seed = first + number;
                    let run = std::panic::catch_unwind(|| simulator::models::index::run(seed));
                    let why = match run {
                        Ok(Ok(())) => continue,
                        Ok(Err(why)) => why,
                        Err(_) => "it panicked".to_owned(),
                    };
                    println!("seed {seed}: {why}; replay it with: bixi-sim --model index --seed {seed}");
                    failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(seed);
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let rate = seeds as f64 / started.elapsed().as_secs_f64().max(0.001);
    let line = format!("model index: {seeds} seeds from {first}, {} failed, {rate:.0} seeds/s", failed.len());
    if let Some(ledger) = &args.ledger
        && let Err(error) = append(ledger, &format!("{}: {line}\n", args.revision))
    {
        eprintln!("cannot write {}: {error}", ledger.display());
    }
    println!("{line}");
    i32::from(!failed.is_empty())
}

/// Runs one seed, loud.
fn replay(seed: u64, args: &Args) -> i32 {
    tracing_subscriber::fmt()
        .with_timer(VirtualTime)
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stdout)
        .with_env_filter(tracing_subscriber::EnvFilter::new(&args.log))
        .init();
    let started = Instant::now();
    let report = seed::run(seed, &args.options(args.events));
    for line in &report.trace {
        println!("{line}");
    }
    println!("drawn: {}", report.summary);
    println!(
        "seed {seed}: {:.1} virtual seconds, {} operations, {} faults, trace {:016x}",
        report.virtual_seconds, report.operations, report.faults, report.trace_hash
    );
    let mut sum = Sum::default();
    take(&mut sum, &report);
    for violation in &report.violations {
        println!("  {violation}");
    }
    finish(&sum, started.elapsed(), args)
}

fn many(args: &Args) -> i32 {
    // A panic is told by the report; its backtrace by the replay.
    std::panic::set_hook(Box::new(|_| {}));
    let clock =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64);
    let first = args.from.unwrap_or(clock % 1_000_000_000_000);
    let started = Instant::now();
    let deadline = args.seconds.map(|seconds| started + Duration::from_secs(seconds));
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    let options = args.options(0);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let over = match deadline {
                        Some(deadline) => Instant::now() >= deadline,
                        None => number >= args.seeds,
                    };
                    if over {
                        break;
                    }
                    // One in a hundred is run twice: the same seed must give the same run.
                    let run = if number.is_multiple_of(100) { seed::run_twice } else { seed::run };
                    let report = run(first + number, &options);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if !report.violations.is_empty() {
                        tell_failure(&report, args);
                    }
                    take(&mut sum, &report);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("first seed {first}");
    finish(&sum, started.elapsed(), args)
}

fn tell_failure(report: &Report, args: &Args) {
    let more = if args.volumes { " VOLUMES=1" } else { "" };
    println!("seed {} failed; replay it with: make sim SEEDS=1 SEED={}{more}", report.seed, report.seed);
    if !args.planted.is_empty() {
        println!("  (with the planted mistakes {:?})", args.planted);
    }
    println!("  drawn: {}", report.summary);
    for violation in report.violations.iter().take(6) {
        println!("  {violation}");
    }
    println!("  what happened last:");
    for line in report.story.iter().rev().take(STORY_LINES).rev() {
        println!("    {line}");
    }
}

fn take(sum: &mut Sum, report: &Report) {
    sum.seeds += 1;
    sum.virtual_seconds += report.virtual_seconds;
    sum.operations += report.operations;
    sum.faults += report.faults;
    sum.undecided += report.undecided;
    for (name, count) in &report.reached {
        *sum.reached.entry(name).or_default() += count;
    }
    if !report.violations.is_empty() {
        sum.failed.push(report.seed);
    }
}

fn finish(sum: &Sum, took: Duration, args: &Args) -> i32 {
    let count = sum.seeds.max(1) as f64;
    let means = format!(
        "means a seed: {:.1} virtual seconds, {:.0} operations, {:.1} faults; {} keys undecided",
        sum.virtual_seconds / count,
        sum.operations as f64 / count,
        sum.faults as f64 / count,
        sum.undecided
    );
    let rate = sum.seeds as f64 * 60.0 / took.as_secs_f64().max(0.001);
    let line = format!("{} seeds, {} failed, {rate:.0} seeds/min", sum.seeds, sum.failed.len());
    println!("{means}");
    let never = tell_situations(sum);
    if let Some(ledger) = &args.ledger
        && let Err(error) = append(ledger, &format!("{}: {line}; {means}; failed {:?}\n", args.revision, sum.failed))
    {
        eprintln!("cannot write {}: {error}", ledger.display());
    }
    println!("{line}");
    // Some situations need the objects that seeds of volumes have little of.
    let enough = sum.seeds < SEEDS_FOR_ALL || never == 0 || !args.planted.is_empty() || args.volumes;
    i32::from(!sum.failed.is_empty() || !enough)
}

/// Tells how often each situation was reached; answers how many never were.
fn tell_situations(sum: &Sum) -> usize {
    let told: Vec<String> = sum.reached.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("situations: {}", told.join("; "));
    let never: Vec<&str> = sum.reached.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    if !never.is_empty() {
        println!("never reached: {}", never.join("; "));
    }
    never.len()
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())
}
