//! `bixi-scale`: how the leader's planning does with very many disks. Prints the page docs/scale.md,
//! and writes it if asked to.
//!
//! ```text
//! map of disks -> heartbeats -> grants of all chunks -> a rack is lost -> its repair is planned
//!                                                  \-> chance of loss when nodes die at once
//! ```
//!
//! The code that is timed is the leader's own (`metaserver::server::scale`); everything but the times
//! follows from the seed.

#![allow(clippy::disallowed_methods, reason = "this program measures the machine's time and memory")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use metaserver::server::copysets::SCATTER_WIDTH;
use metaserver::server::scale::Leader;
use simulator::draw::Draw;
use simulator::scale::loss::{self, Deaths};
use simulator::scale::map::Map;
use simulator::scale::repair::{self, Repair};
use simulator::scale::{CHUNK_BYTES, Stored, hear_all, heartbeats, leader};
use types::redundancy::Redundancy;

/// The leader's planning over a synthetic map of disks, from a seed.
#[derive(Parser)]
#[command(name = "bixi-scale", version)]
struct Args {
    /// Zones of the map.
    #[arg(long, default_value_t = 10)]
    zones: u64,
    /// Racks of each zone.
    #[arg(long, default_value_t = 20)]
    racks: u64,
    /// Hosts of each rack, with one disk each.
    #[arg(long, default_value_t = 50)]
    hosts: u64,
    /// Chunks on them.
    #[arg(long, default_value_t = 1_000_000)]
    chunks: usize,
    /// Redundancy of the chunks.
    #[arg(long, default_value = "ec:8+3")]
    redundancy: Redundancy,
    /// Chunks in each row of the table about loss among 1,000 nodes.
    #[arg(long, default_value_t = 200_000)]
    loss_chunks: usize,
    /// MiB a second that a disk reads and writes for repairs, in all.
    #[arg(long, default_value_t = 64)]
    disk_mib_s: u64,
    /// Everything but the times follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the page to this file.
    #[arg(long)]
    report: Option<PathBuf>,
    /// What the page names as the code's revision.
    #[arg(long, default_value = "unknown")]
    revision: String,
}

/// Virtual time of the first heartbeat; one comes each second.
const START: u64 = 1_000_000_000;
/// Rounds of heartbeats that are timed.
const ROUNDS: u64 = 20;
/// Times that something short is repeated.
const REPEATS: u32 = 20;
/// Steps of counting losses, so that each row takes about as long as the others.
const COUNT_STEPS: u64 = 500_000_000;
const TRIALS_MAX: u64 = 2_000_000;

fn main() {
    let args = Args::parse();
    let page = measure(&args);
    println!("{page}");
    if let Some(path) = &args.report
        && let Err(error) = std::fs::write(path, &page)
    {
        eprintln!("cannot write {}: {error}", path.display());
        std::process::exit(1);
    }
}

/// Time on a core that this process has had: what others do on the machine is not in it.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    first.map_or_else(|| START_OF_ALL.elapsed(), Duration::from_nanos)
}

static START_OF_ALL: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = cpu();
    let done = work();
    (done, cpu().saturating_sub(before))
}

fn memory_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} cores, {}", model.map_or("of unknown make", |(_, name)| name))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The rows of a table with two columns.
#[derive(Default)]
struct Table(String);

impl Table {
    fn row(&mut self, what: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "| {what} | {value} |");
    }
}

fn measure(args: &Args) -> String {
    let map = Map { zones: args.zones, racks: args.racks, hosts: args.hosts };
    let draw = Draw::new(args.seed);
    let (mut leader, heard) = hear(&map);
    let (stored, granted) = grant(args, &mut leader, &draw);
    let after_rack = lose_rack(args, &map, &mut leader, &stored, &draw);
    let big = loss_row(args.redundancy, Deaths::of_percent(map.count()), &leader, &stored, &draw);
    drop(stored);
    let small = small_losses(args, &draw);
    format!(
        "# Scale\n\n\
        What the leader's own code for heartbeats, grants and repairs needs when there are very many disks: in memory and on one\n\
        thread, without Raft, network and RocksDB (so without the row of a heartbeat's session). Written by `make scale`\n\
        (`bixi-scale`, seed {seed}, {took:.0} s). Times are of the processor, on a machine with {machine}; all else follows from the\n\
        seed. Code: {revision}.\n\n\
        Map: {disks} disks in {zones} zones of {racks} racks of {hosts} hosts with one disk each; {chunks} sealed chunks of {mib} MiB, `{policy}`.\n\
        Placement is that of [decision 13](decisions/0013-copysets.md).\n\n\
        ## Heartbeats and grants\n\n| | |\n|---|---|\n{heard}{granted}\n\
        ## A rack is lost\n\n| | |\n|---|---|\n{after_rack}\n\
        A chunk's new shard goes to the zone that holds the fewest of it, so mostly to that of the lost rack. Data is read\n\
        from all shards that are left alike. The leader grants a job for each of these chunks; how fast it could was not measured.\n\n\
        ## One node in a hundred dies at once\n\n\
        The chance that any chunk is lost: counted over the placements above and of smaller maps, beside the closed forms\n\
        `1 - (1 - q)^s`, q = the chance that one set has lost more than its parity (hypergeometric), s = number of copysets, or of\n\
        chunks where each has disks of its own at random. A chance that was counted from few losses is rough.\n\n\
        | nodes, dead | redundancy | chunks | copysets: sets in use | losses / trials | counted | closed form | at random: closed form | one round of copysets |\n\
        |---|---|---|---|---|---|---|---|---|\n{big}{small}\n\
        \"One round\" is what could be reached at best: fewer groups would leave nodes out. A node then shares chunks with shards - 1\n\
        others only, and a lost disk is repaired from so few. Bixi deals rounds until {width} others share chunks with a node.\n",
        seed = args.seed,
        took = cpu().as_secs_f64(),
        machine = machine(),
        revision = args.revision,
        disks = map.count(),
        zones = map.zones,
        racks = map.racks,
        hosts = map.hosts,
        chunks = args.chunks,
        mib = CHUNK_BYTES >> 20,
        policy = args.redundancy,
        heard = heard.0,
        granted = granted.0,
        after_rack = after_rack.0,
        width = SCATTER_WIDTH,
    )
}

fn at(second: u64) -> platform::clock::Instant {
    platform::clock::Instant(START * (second + 1))
}

fn hear(map: &Map) -> (Leader, Table) {
    let mut table = Table::default();
    let before = memory_mib();
    let mut leader = leader(map);
    let beats = heartbeats(map);
    hear_all(&mut leader, &beats, at(0));
    let ((), took) = timed(|| (1..=ROUNDS).for_each(|round| hear_all(&mut leader, &beats, at(round))));
    let one = took.as_secs_f64() / (ROUNDS * map.count()) as f64;
    table.row("processor time of a heartbeat: decoded, session and disk taken in", format!("{:.2} us", one * 1e6));
    let share = one * map.count() as f64 * 100.0;
    table.row("share of a core for one from each disk every second", format!("{share:.1} %"));
    table.row("memory of disks and what is heard of them", format!("{:.0} MiB", memory_mib() - before));
    (leader, table)
}

fn grant(args: &Args, leader: &mut Leader, draw: &Draw) -> (Stored, Table) {
    let mut table = Table::default();
    let policy = args.redundancy;
    let (groups, took) = timed(|| leader.copysets(policy));
    let groups = groups.map_or("none".into(), |groups| groups.to_string());
    table.row(
        "copysets; time to deal them, once for each change of disks",
        format!("{groups}; {:.0} ms", micros(took) / 1e3),
    );
    let (_, took) = timed(|| (0..REPEATS).for_each(|_| drop(leader.grant_by_scan(policy, &mut || draw.word()))));
    let scan = micros(took) / f64::from(REPEATS);
    let before = memory_mib();
    let (stored, took) = timed(|| Stored::fill(leader, policy, args.chunks, draw));
    let Some(stored) = stored else {
        eprintln!("too few disks for {policy}");
        std::process::exit(1);
    };
    let one = micros(took) / args.chunks as f64;
    table
        .row("time to plan the grant of a chunk", format!("{one:.1} us; by a look at every disk {:.1} ms", scan / 1e3));
    let (most, mean) = stored.load();
    table.row("shards on the fullest disk, and in the mean", format!("{most}, {mean:.0}"));
    let rows = stored.bytes() as f64 / args.chunks as f64;
    table.row("memory of all chunk rows", format!("{:.0} MiB ({rows:.0} bytes a row)", memory_mib() - before));
    let (_, took) = timed(|| (0..REPEATS).for_each(|_| drop(repair::planner(leader, draw))));
    let gather = micros(took) / f64::from(REPEATS) / 1e3;
    table.row("time to gather the disks for jobs, once a second at most", format!("{gather:.1} ms"));
    let planner = repair::planner(leader, draw);
    let (well, took) =
        timed(|| (0..stored.count()).filter(|chunk| planner.is_well(*chunk as u64, &stored.row(*chunk))).count());
    let each = micros(took) / stored.count() as f64;
    let text = format!("{:.1} s, {each:.1} us each; {well} need nothing", took.as_secs_f64());
    table.row("a look at every chunk (`bixi plan`)", text);
    (stored, table)
}

fn tell(table: &mut Table, repair: &Repair, args: &Args, rate: u64) {
    let (sources, targets) = (Repair::spread(&repair.read), Repair::spread(&repair.written));
    table.row("disks that are read; disks that are written", format!("{sources}; {targets}"));
    let (read, written) = (Repair::peak(&repair.read).1, Repair::peak(&repair.written).1);
    table.row("busiest over the mean: read; written", format!("{read:.2}; {written:.2}"));
    let seconds = repair.seconds(rate);
    table.row(
        &format!("time of the repair at {} MiB/s a disk, reading and writing together", args.disk_mib_s),
        format!("{seconds:.0} s; for each TB on a disk {:.1} h", seconds / 3600.0 / tb_on_a_disk(args)),
    );
}

fn tb_on_a_disk(args: &Args) -> f64 {
    let shard = CHUNK_BYTES as f64 / args.redundancy.needed() as f64;
    let disks = args.zones * args.racks * args.hosts;
    shard * (args.chunks * args.redundancy.shards()) as f64 / disks as f64 / 1e12
}

fn lose_rack(args: &Args, map: &Map, leader: &mut Leader, stored: &Stored, draw: &Draw) -> Table {
    let mut table = Table::default();
    let rate = args.disk_mib_s << 20;
    let encoded = |rows: &[(u64, proto::rows::ChunkRow)]| -> Vec<(u64, Vec<u8>)> {
        rows.iter().map(|(chunk, row)| (*chunk, proto::encode(row))).collect()
    };
    let rack = map.disks_of_rack(draw.below(map.zones * map.racks));
    let lacking = repair::lacking(stored, &rack);
    let rows = encoded(&lacking);
    leader.lose(&rack);
    let (mut planner, gathered) = timed(|| {
        leader.copysets(args.redundancy);
        repair::planner(leader, draw)
    });
    let (repaired, took) = timed(|| repair::plan(&mut planner, &rows, at(ROUNDS)));
    let all = repair::weigh(map, stored, &lacking, &repaired);
    table.row("disks lost; chunks that lack shards", format!("{}; {}", rack.len(), all.chunks));
    let each = micros(took) / all.chunks.max(1) as f64;
    let text = format!(
        "{:.2} s, {each:.1} us each; before it {:.0} ms to deal and gather",
        took.as_secs_f64(),
        micros(gathered) / 1e3
    );
    table.row("time to plan all of it, most urgent first", text);
    table.row("without a home; out of bounds", format!("{}; {}", all.blocked, all.out_of_bounds));
    tell(&mut table, &all, args, rate);
    let homes = repaired.iter().map(|(_, row)| row.shards.iter().map(|shard| shard.disk).collect());
    let sets = loss::distinct(homes).len();
    table.row("sets of disks that these chunks lie on afterwards", sets);
    let one = &rack[..1];
    let lacking = repair::lacking(stored, one);
    let repaired = repair::plan(&mut repair::planner(leader, draw), &encoded(&lacking), at(ROUNDS));
    let one = repair::weigh(map, stored, &lacking, &repaired);
    table.row("**one disk of it alone**: chunks that lack a shard", one.chunks);
    tell(&mut table, &one, args, rate);
    table
}

fn loss_row(policy: Redundancy, deaths: Deaths, leader: &Leader, stored: &Stored, draw: &Draw) -> String {
    let sets = loss::distinct(stored.homes());
    let steps = deaths.dead * (sets.len() * policy.shards()) as u64 / deaths.nodes + deaths.dead;
    let trials = (COUNT_STEPS / steps.max(1)).clamp(100, TRIALS_MAX);
    let losses = loss::count(&sets, deaths, policy.parity() + 1, trials, draw);
    let groups = leader.copysets(policy).unwrap_or(stored.count()) as u64;
    let rounds = SCATTER_WIDTH.div_ceil(policy.shards() - 1) as u64;
    format!(
        "| {}, {} | `{policy}` | {} | {} | {losses} / {trials} | {:.1e} | {:.1e} | {:.1e} | {:.1e} |\n",
        deaths.nodes,
        deaths.dead,
        stored.count(),
        sets.len(),
        losses as f64 / trials as f64,
        deaths.of_any(policy, groups),
        deaths.of_any(policy, stored.count() as u64),
        deaths.of_any(policy, groups / rounds),
    )
}

/// The same for other policies on 1,000 nodes.
fn small_losses(args: &Args, draw: &Draw) -> String {
    let map = Map { zones: 10, racks: 10, hosts: 10 };
    let mut rows = String::new();
    for text in ["copies:3", "copies:4", "ec:4+2", "ec:8+3", "ec:8+4"] {
        let Ok(policy) = text.parse() else { continue };
        let mut leader = leader(&map);
        hear_all(&mut leader, &heartbeats(&map), at(0));
        let Some(stored) = Stored::fill(&mut leader, policy, args.loss_chunks, draw) else { continue };
        rows += &loss_row(policy, Deaths::of_percent(map.count()), &leader, &stored, draw);
    }
    rows
}
