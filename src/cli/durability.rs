//! `bixi durability`: how likely the cluster as it stands loses data within a year, and what that hangs on.
//!
//! A chain of births and deaths (Angus, "On computing MTBF for a k-out-of-n:G repairable system", 1988; for
//! copysets Cidon et al., "Copysets: Reducing the Frequency of Data Loss in Cloud Storage", 2013): one of `N` parts
//! fails, another one before the first is rebuilt, and so on until more have failed than a chunk survives; then a
//! chunk must lie on just these. It counts parts that never come back, independent of each other. It does not count
//! mistakes of people and programs, which are likelier than anything it prints beyond nine nines.

use platform::Platform;
use serde_json::{Value, json};
use types::redundancy::Redundancy;

use super::failure::Failure;
use super::output::{print_json, print_line};
use super::session::Admin;
use crate::args::{DurabilityArgs, Output};

const YEAR_S: f64 = 365.25 * 86_400.0;

/// Runs the command.
pub async fn run(platform: Platform, args: DurabilityArgs) -> Result<(), Failure> {
    let status = Admin::new(&platform, &args.access)?.call("GET", "/v1/status", None).await?;
    let answer = of_cluster(&status, &args)?;
    match args.output {
        Output::Json => print_json(&answer),
        Output::Table => lines(&answer).iter().try_for_each(|line| print_line(line)),
    }
}

/// Parts of one kind, disks or nodes, and what a chunk has on them.
#[derive(Clone, Copy, Debug)]
struct Parts {
    /// How many there are.
    count: u64,
    /// On how many of them a chunk lies.
    width: u64,
    /// How many of those a chunk can lose.
    survives: u64,
    /// Chunks.
    chunks: u64,
    /// Likelihood that a part fails for good within a year.
    yearly: f64,
    /// From a failure to the last byte rebuilt, seconds.
    rebuild_s: f64,
}

/// What a chunk that should have `shards` on different parts has on so few: (parts it lies on, parts it can lose).
fn folded(shards: u64, parity: u64, parts: u64) -> (u64, u64) {
    let each = shards.div_ceil(parts.max(1)).max(1);
    (shards.div_ceil(each), parity / each)
}

/// Chance that so many parts failed at once hold more of some chunk than it can lose.
fn hit(parts: &Parts) -> f64 {
    let fatal = parts.survives + 1;
    // Of all sets of `fatal` parts, those that one chunk cannot lose; chunks are spread independently.
    let one: f64 = (0..fatal).map(|i| (parts.width as f64 - i as f64) / (parts.count as f64 - i as f64)).product();
    -f64::exp_m1(parts.chunks as f64 * f64::ln_1p(-one.clamp(0.0, 1.0 - 1e-15)))
}

/// Losses of data a year.
fn yearly_losses(parts: &Parts) -> f64 {
    if parts.chunks == 0 || parts.survives >= parts.count {
        return 0.0;
    }
    let rate = -f64::ln_1p(-parts.yearly.min(0.999_999)) / YEAR_S;
    let first = parts.count as f64 * rate * YEAR_S;
    let further: f64 =
        (1..=parts.survives).map(|i| (parts.count - i) as f64 * rate * parts.rebuild_s / i as f64).product();
    first * further * hit(parts)
}

fn of_cluster(status: &Value, args: &DurabilityArgs) -> Result<Value, Failure> {
    let lacks = |what: &str| Failure::failed(format!("the server's status lacks {what}"));
    let redundancy = status["redundancy"].as_str().ok_or_else(|| lacks("the redundancy"))?;
    let policy: Redundancy = redundancy.parse().map_err(|_| lacks("a known redundancy"))?;
    let (shards, parity) = (policy.shards() as u64, policy.parity() as u64);
    let all = status["disks"].as_array().ok_or_else(|| lacks("the disks"))?;
    let disks: Vec<&Value> = all.iter().filter(|disk| disk["state"] == "in").collect();
    let sum = |name: &str| status["chunks"][name].as_u64().unwrap_or(0);
    let chunks = sum("healthy") + sum("crowded") + sum("degraded");
    let mut nodes: Vec<&str> = disks.iter().filter_map(|disk| disk["node"].as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let bytes: u64 = disks.iter().filter_map(|disk| disk["shard_bytes"].as_u64()).sum();
    let part = |count: u64, percent: f64| {
        let (width, survives) = folded(shards, parity, count);
        // Everybody who is left rebuilds.
        let speed = args.repair_mib_per_s.max(0.001) * 1_048_576.0 * count.saturating_sub(1).max(1) as f64;
        let rebuild_s = args.notice_minutes * 60.0 + bytes as f64 / count.max(1) as f64 / speed;
        Parts { count, width, survives, chunks, yearly: percent / 100.0, rebuild_s }
    };
    let disk = part(disks.len() as u64, args.disk_failures_percent);
    let node = part(nodes.len() as u64, args.node_failures_percent);
    let losses = yearly_losses(&disk) + yearly_losses(&node);
    let chance = -f64::exp_m1(-losses);
    let tell = |parts: &Parts| {
        json!({
            "count": parts.count, "failures_percent_per_year": parts.yearly * 100.0, "survives": parts.survives,
            "rebuild_seconds": parts.rebuild_s.round(), "chance_that_the_next_hits_a_chunk": hit(parts),
            "losses_per_year": yearly_losses(parts),
        })
    };
    Ok(json!({
        "schema": 1, "redundancy": redundancy, "chunks": chunks, "shard_bytes": bytes,
        "disks": tell(&disk), "nodes": tell(&node),
        "chance_of_loss_per_year": chance, "nines": (chance > 0.0).then(|| -chance.log10()),
    }))
}

fn lines(answer: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    for (what, name) in [("disks", "disk"), ("nodes", "node")] {
        let parts = &answer[what];
        out.push(format!(
            "{} {what}, {}% of which fail for good in a year; data survives the loss of {}; a {name} is rebuilt in {}; \
             one more hits a chunk with a chance of {:.3}: {:.2e} losses a year",
            parts["count"],
            number(&parts["failures_percent_per_year"]),
            parts["survives"],
            span(number(&parts["rebuild_seconds"])),
            number(&parts["chance_that_the_next_hits_a_chunk"]),
            number(&parts["losses_per_year"]),
        ));
    }
    out.push(match answer["nines"].as_f64() {
        None => "nothing that could be lost is stored yet".to_owned(),
        Some(nines) => format!(
            "{}: a year without loss has {nines:.1} nines (chance of a loss {:.2e})",
            answer["redundancy"].as_str().unwrap_or(""),
            number(&answer["chance_of_loss_per_year"])
        ),
    });
    out
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by playing it through: parts fail and are rebuilt, a chunk lies on `width` parts drawn at random.
    /// Losses in so many years; a loss ends with everything rebuilt.
    fn played(parts: &Parts, years: f64, seed: u64) -> f64 {
        let mut state = seed;
        let mut draw = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let rate = -f64::ln_1p(-parts.yearly) / YEAR_S;
        let (mut now, mut back, mut losses) = (0.0, Vec::<f64>::new(), 0.0);
        while now < years * YEAR_S {
            now += -(1.0 - draw()).ln() / (rate * (parts.count - back.len() as u64) as f64);
            back.retain(|until| *until > now);
            back.push(now + parts.rebuild_s);
            if back.len() as u64 > parts.survives {
                if draw() < hit(parts) {
                    losses += 1.0;
                }
                back.clear();
            }
        }
        losses
    }

    #[test]
    fn formula_agrees_with_playing_it_through() {
        let parts = Parts { count: 12, width: 6, survives: 2, chunks: 40, yearly: 0.9, rebuild_s: YEAR_S / 400.0 };
        for (parts, years) in [
            (parts, 40_000.0),
            (Parts { survives: 1, width: 3, chunks: 7, ..parts }, 8_000.0),
            (Parts { survives: 0, width: 1, chunks: 1, ..parts }, 2_000.0),
        ] {
            let (said, seen) = (yearly_losses(&parts) * years, played(&parts, years, 7));
            assert!(seen > 100.0, "{seen} losses say little");
            assert!((said / seen - 1.0).abs() < 0.25, "{parts:?}: {said} by the formula, {seen} by playing");
        }
    }

    #[test]
    fn few_parts_hold_several_shards_each() {
        assert_eq!(folded(6, 2, 6), (6, 2));
        assert_eq!(folded(6, 2, 3), (3, 1));
        assert_eq!(folded(6, 2, 2), (2, 0));
        assert_eq!(folded(3, 2, 1), (1, 0));
    }

    #[test]
    fn more_redundancy_and_quicker_repair_give_more_nines() {
        let parts = Parts { count: 100, width: 6, survives: 2, chunks: 10_000, yearly: 0.02, rebuild_s: 3600.0 };
        let losses = yearly_losses(&parts);
        assert!(losses > 0.0 && losses < 1e-6, "{losses}");
        assert!(yearly_losses(&Parts { survives: 3, width: 7, ..parts }) < losses / 100.0);
        assert!(yearly_losses(&Parts { rebuild_s: 36_000.0, ..parts }) > losses * 90.0);
        assert!(yearly_losses(&Parts { chunks: 0, ..parts }) == 0.0);
        // Every chunk is on all three: the next one always hits.
        assert!(hit(&Parts { count: 3, width: 3, survives: 2, chunks: 1, ..parts }) > 0.999);
    }
}
