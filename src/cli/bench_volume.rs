//! `bixi bench volume`: loads a volume through a server's NBD door and says what it answered.
//!
//! The volume of the measurement is made for it, written once from end to end with random bytes, and
//! removed again. All bytes are random, so nothing can be packed. Latencies are of whole requests; a write
//! is answered when it is durable. Amplification is bytes of the journal, counted once however many copies
//! there are, against bytes written in the same time.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use platform::Platform;
use platform::clock::Instant;
use serde_json::{Value, json};
use types::size::format_size;

use super::bench_limits;
use super::failure::Failure;
use super::lean_nbd::{LeanNbd, LeanNbdError};
use super::output::{print_json, print_line};
use super::session::Admin;
use crate::args::{BenchVolumeArgs, Output, VolumeOperation};

/// The longest latency told apart.
const LATENCY_MAX_US: u64 = 120_000_000;
/// Bytes that writes are cut from.
const NOISE_LEN: usize = 4 << 20;
/// How the volume is filled.
const FILL_SIZE: u64 = 1 << 20;
const FILL_DEPTH: u32 = 8;
/// How uneven the skewed load is: the usual value of YCSB (Cooper et al., SoCC 2010).
const THETA: f64 = 0.99;

/// One figure: what is asked, of which size, how many at once.
#[derive(Clone, Copy)]
struct Step {
    op: VolumeOperation,
    size: u64,
    depth: u32,
}

/// Runs the command.
pub async fn run(platform: Platform, args: BenchVolumeArgs) -> Result<(), Failure> {
    let admin = Admin::new(&platform, &args.access)?;
    let (name, is_ours) = match &args.overwrite {
        Some(name) => (name.clone(), false),
        None => (format!("bixi-bench-{:016x}", platform.random().next_u64()), true),
    };
    if is_ours {
        let redundancy = args.redundancy.clone().unwrap_or_default();
        let body = json!({ "name": name, "size": args.volume_size, "redundancy": redundancy });
        admin.call("POST", "/v1/volumes", Some(&body)).await?;
    }
    let measured = measure(&platform, &admin, &args, &name).await;
    if is_ours && !args.keep {
        let deleted = admin.call("POST", "/v1/volumes/delete", Some(&json!({ "name": name }))).await;
        if let Err(failure) = deleted {
            eprintln!("bixi: volume {name} was not deleted: {}", failure.message);
        }
    }
    let steps = measured?;
    if args.output == Output::Json {
        return print_json(&json!({ "schema": 1, "volume_size_bytes": args.volume_size, "steps": steps }));
    }
    Ok(())
}

fn steps(args: &BenchVolumeArgs) -> Vec<Step> {
    use VolumeOperation::{Read, SeqRead, SeqWrite, Write, Zipf};
    let step = |op, size, depth| Step { op, size, depth };
    match args.op {
        Some(op) => vec![step(op, args.size, args.depth)],
        None => vec![
            step(SeqWrite, 1 << 20, 8),
            step(SeqRead, 1 << 20, 8),
            step(Write, 4096, 1),
            step(Write, 4096, 32),
            step(Read, 4096, 1),
            step(Read, 4096, 32),
            step(Zipf, 4096, 32),
        ],
    }
}

async fn measure(
    platform: &Platform,
    admin: &Admin,
    args: &BenchVolumeArgs,
    name: &str,
) -> Result<Vec<Value>, Failure> {
    let mut reports = Vec::new();
    let disk = super::bench_s3::disk_of(&args.access.credentials);
    if args.overwrite.is_none() {
        fill(platform, args, name).await?;
    }
    for step in steps(args) {
        let limit = limits(platform, &step, &disk).await;
        let before = journal(admin, name).await?;
        let mut report = one(platform, args, name, step).await?;
        report["limit"] = limit;
        if step.op.is_write() {
            report["journal"] = amplification(&before, &journal(admin, name).await?);
            report["space"] = space(admin, name).await?;
        }
        if args.output == Output::Table {
            print_line(&for_people(&report))?;
        }
        reports.push(report);
    }
    Ok(reports)
}

/// What the machine can do at best with requests of that kind.
async fn limits(platform: &Platform, step: &Step, disk: &Path) -> Value {
    let size = step.size as usize;
    let mut limit = bench_limits::measure(platform, size, step.depth, disk, step.op.is_write()).await;
    if step.op.is_write() {
        let copies = bench_limits::flushed_copies(platform, disk, size).await;
        limit["disk_three_writes_flush_per_sec"] = json!(copies.map(f64::round));
    } else {
        let reads = bench_limits::direct_reads(platform, disk, size, step.depth).await;
        limit["disk_read_direct_per_sec"] = json!(reads.map(f64::round));
    }
    limit
}

/// Writes the volume once from end to end.
async fn fill(platform: &Platform, args: &BenchVolumeArgs, name: &str) -> Result<(), Failure> {
    let step = Step { op: VolumeOperation::SeqWrite, size: FILL_SIZE, depth: FILL_DEPTH };
    let mut load = Load::new(platform, step, args.volume_size, Instant(u64::MAX))?;
    load.left = args.volume_size / FILL_SIZE;
    load.run(args, name).await.map_err(|error| Failure::caused("cannot fill the volume", &error))?;
    Ok(())
}

async fn one(platform: &Platform, args: &BenchVolumeArgs, name: &str, step: Step) -> Result<Value, Failure> {
    let connections = args.connections.min(step.depth);
    let start = platform.clock().now();
    let end = start + Duration::from_secs(args.secs);
    let share = Step { depth: step.depth.div_ceil(connections), ..step };
    let loads = (0..connections).map(|_| async {
        let mut load = Load::new(platform, share, args.volume_size, end)?;
        load.run(args, name).await.map_err(|error| Failure::caused("cannot measure", &error))?;
        Ok::<Figures, Failure>(load.figures)
    });
    let mut all: Option<Figures> = None;
    for figures in join_all(loads).await {
        let figures = figures?;
        match &mut all {
            None => all = Some(figures),
            Some(sum) => sum.add(&figures)?,
        }
    }
    let seconds = platform.clock().now().saturating_since(start).as_secs_f64();
    let figures = all.ok_or_else(|| Failure::failed("no connection was made"))?;
    if figures.errors > 0 {
        return Err(Failure::failed(format!(
            "{} requests failed, the last with error {}",
            figures.errors, figures.last
        )));
    }
    let rounded = |value: f64| (value * 10.0).round() / 10.0;
    let us = |quantile: f64| rounded(figures.latency_ns.value_at_quantile(quantile) as f64 / 1e3);
    Ok(json!({
        "op": step.op.name(),
        "size_bytes": step.size,
        "depth": step.depth,
        "connections": connections,
        "secs": rounded(seconds),
        "requests": figures.requests,
        "requests_per_sec": rounded(figures.requests as f64 / seconds),
        "mib_per_sec": rounded((figures.requests * step.size) as f64 / seconds / f64::from(1 << 20)),
        "p50_us": us(0.5),
        "p99_us": us(0.99),
        "max_us": us(1.0),
    }))
}

struct Figures {
    latency_ns: Histogram<u64>,
    requests: u64,
    errors: u64,
    last: u32,
}

impl Figures {
    fn add(&mut self, other: &Figures) -> Result<(), Failure> {
        self.latency_ns.add(&other.latency_ns).map_err(|_| Failure::failed("latencies cannot be added"))?;
        self.requests += other.requests;
        self.errors += other.errors;
        self.last = self.last.max(other.last);
        Ok(())
    }
}

/// One connection's load.
struct Load {
    platform: Platform,
    step: Step,
    blocks: u64,
    zipf: Option<Zipf>,
    noise: Vec<u8>,
    next: u64,
    end: Instant,
    /// Requests to go.
    left: u64,
    figures: Figures,
}

impl Load {
    fn new(platform: &Platform, step: Step, span: u64, end: Instant) -> Result<Load, Failure> {
        let mut noise = vec![0; NOISE_LEN + step.size as usize];
        platform.random().fill(&mut noise);
        let blocks = span / step.size;
        if blocks == 0 {
            return Err(Failure::usage("the volume is smaller than one request"));
        }
        let latency_ns = Histogram::new_with_bounds(1, LATENCY_MAX_US * 1000, 3)
            .map_err(|error| Failure::caused("no histogram", &error))?;
        Ok(Load {
            platform: platform.clone(),
            step,
            blocks,
            zipf: (step.op == VolumeOperation::Zipf).then(|| Zipf::new(blocks)),
            noise,
            next: 0,
            end,
            left: u64::MAX,
            figures: Figures { latency_ns, requests: 0, errors: 0, last: 0 },
        })
    }

    /// Keeps requests under way until the time is over.
    async fn run(&mut self, args: &BenchVolumeArgs, name: &str) -> Result<(), LeanNbdError> {
        let mut nbd = LeanNbd::open(&self.platform, &args.nbd, name, args.volume_size).await?;
        let (clock, len) = (self.platform.clock().clone(), self.step.size as usize);
        let mut began = vec![clock.now(); self.step.depth as usize];
        let mut under_way = 0;
        for (slot, began) in began.iter_mut().enumerate() {
            if self.left > 0 {
                *began = clock.now();
                self.issue(&mut nbd, slot as u64);
                under_way += 1;
            }
        }
        let answer_len = if self.step.op.is_write() { 0 } else { len };
        while under_way > 0 {
            let answered = nbd.answer(|_| answer_len).await?;
            let now = clock.now();
            let Some(began) = began.get_mut(answered.cookie as usize) else { continue };
            let took = u64::try_from(now.saturating_since(*began).as_nanos()).unwrap_or(u64::MAX);
            self.figures.latency_ns.saturating_record(took);
            self.figures.requests += 1;
            if answered.error != 0 {
                self.figures.errors += 1;
                self.figures.last = answered.error;
            }
            if now < self.end && self.left > 0 && answered.error == 0 {
                *began = now;
                self.issue(&mut nbd, answered.cookie);
            } else {
                under_way -= 1;
            }
        }
        nbd.close().await;
        Ok(())
    }

    fn issue(&mut self, nbd: &mut LeanNbd, slot: u64) {
        self.left -= 1;
        let random = self.platform.random();
        let block = match (&self.zipf, self.step.op) {
            (Some(zipf), _) => zipf.draw(random.next_u64()),
            (_, VolumeOperation::SeqRead | VolumeOperation::SeqWrite) => {
                self.next += 1;
                (self.next - 1) % self.blocks
            }
            _ => random.below(self.blocks),
        };
        let (offset, len) = (block * self.step.size, self.step.size as usize);
        if self.step.op.is_write() {
            let from = random.below(NOISE_LEN as u64) as usize;
            nbd.write(slot, offset, &self.noise[from..from + len]);
        } else {
            nbd.read(slot, offset, len as u32);
        }
    }
}

/// Draws blocks by Zipf's law, the popular ones spread over the volume (Gray et al., "Quickly Generating
/// Billion-Record Synthetic Databases", SIGMOD 1994).
struct Zipf {
    blocks: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
    half: f64,
}

impl Zipf {
    fn new(blocks: u64) -> Zipf {
        let count = blocks as f64;
        let zeta: f64 = (1..=blocks).map(|rank| (rank as f64).powf(-THETA)).sum();
        let half = 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / count).powf(1.0 - THETA)) / (1.0 - (1.0 + half) / zeta);
        Zipf { blocks, zeta, alpha: 1.0 / (1.0 - THETA), eta, half }
    }

    fn draw(&self, random: u64) -> u64 {
        let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
        let at = uniform * self.zeta;
        let rank = if at < 1.0 {
            0
        } else if at < 1.0 + self.half {
            1
        } else {
            (self.blocks as f64 * (self.eta * uniform - self.eta + 1.0).powf(self.alpha)) as u64
        };
        // An odd factor: neighbours in rank are none on the volume.
        rank.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.blocks
    }
}

/// Bytes that a server's metrics tell of a volume: written, changes, moved, index.
async fn journal(admin: &Admin, name: &str) -> Result<[f64; 4], Failure> {
    let text = admin.call_for_bytes("GET", "/metrics", bytes::Bytes::new()).await?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let of = |kind: &str| {
        let start = format!("bixi_volume_{kind}_bytes_total{{volume=\"{name}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    Ok([of("written"), of("change"), of("moved"), of("index")])
}

/// What went into the journal for each byte written; null where the server does not hold the volume itself.
fn amplification(before: &[f64; 4], after: &[f64; 4]) -> Value {
    let [written, changes, moved, index] = std::array::from_fn(|at| after[at] - before[at]);
    let of = |bytes: f64| if written > 0.0 { json!((bytes / written * 1000.0).round() / 1000.0) } else { Value::Null };
    json!({
        "write_amplification": of(changes + moved + index),
        "changes": of(changes),
        "moved": of(moved),
        "index": of(index),
    })
}

/// What the volume holds against what is in use.
async fn space(admin: &Admin, name: &str) -> Result<Value, Failure> {
    let found = admin.call("POST", "/v1/volumes/status", Some(&json!({ "name": name }))).await?;
    let number = |key: &str| found[key].as_f64().unwrap_or(0.0);
    let of = |bytes: f64| {
        if number("used") > 0.0 { json!((bytes / number("used") * 1000.0).round() / 1000.0) } else { Value::Null }
    };
    Ok(json!({
        "used_bytes": found["used"],
        "journal_bytes": found["journal"],
        "stored_bytes": found["stored"],
        "space_amplification": of(number("stored")),
    }))
}

fn for_people(report: &Value) -> String {
    let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
    let mut text = format!(
        "{} of {} at depth {}: {:.0} requests/s, {:.1} MiB/s, p50 {} us, p99 {} us, max {} us\n  limit: {}",
        report["op"].as_str().unwrap_or(""),
        format_size(report["size_bytes"].as_u64().unwrap_or(0)),
        report["depth"],
        number("requests_per_sec"),
        number("mib_per_sec"),
        report["p50_us"],
        report["p99_us"],
        report["max_us"],
        report["limit"],
    );
    for part in ["journal", "space"] {
        if !report[part].is_null() {
            text.push_str(&format!("\n  {part}: {}", report[part]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::Zipf;

    #[test]
    fn popular_blocks_are_few_and_all_are_on_the_volume() {
        let zipf = Zipf::new(10_000);
        let mut counts = std::collections::BTreeMap::new();
        for draw in 0..100_000u64 {
            let block = zipf.draw(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!(block < 10_000);
            *counts.entry(block).or_insert(0u32) += 1;
        }
        let mut counts: Vec<u32> = counts.into_values().collect();
        counts.sort_unstable_by(|one, other| other.cmp(one));
        let top: u32 = counts.iter().take(100).sum();
        assert!((40_000..70_000).contains(&top), "one in a hundred blocks gets about half: {top}");
    }
}
