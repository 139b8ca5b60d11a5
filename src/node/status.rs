//! What `bixi status` and `/metrics` tell.

use std::fmt::Write as _;

use chunkserver::store::Store;
use client::meta::MetaClient;
use client::object::Objects;
use client::volume::Counts;
use proto::meta::difference;
use proto::query::{Ask, AskAll, DiskEntry};
use serde_json::{Value, json};
use types::ids::{ChunkId, PlacementId};

/// The tree of `bixi status`. Numbers answer: safe? fast? full?
///
/// # Errors
/// No leader in time.
pub async fn tree(meta: &MetaClient, s3: &str, policy: &str) -> Result<Value, String> {
    let status =
        meta.query(Ask::Status(AskAll {})).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
    let disks = meta.query(Ask::Disks(AskAll {})).await.map_err(|error| error.to_string())?.disks;
    let cluster = meta.query(Ask::Cluster(AskAll {})).await.map_err(|error| error.to_string())?.cluster;
    let cluster = cluster.unwrap_or_default();
    let voters = status.voters.len();
    let total: u64 = disks.iter().map(|disk| disk.total_bytes).sum();
    let available: u64 = disks.iter().map(|disk| disk.available_bytes).sum();
    let load =
        |disk: u64| status.loads.iter().find(|load| load.disk == disk).map_or((0, 0), |at| (at.shards, at.bytes));
    let draining: Vec<u64> =
        disks.iter().filter(|entry| entry.row.draining && entry.row.state == 0).map(|entry| entry.disk).collect();
    let (shards_left, bytes_left) = draining.iter().fold((0, 0), |sum, disk| {
        let (shards, bytes) = load(*disk);
        (sum.0 + shards, sum.1 + bytes)
    });
    let rows: Vec<Value> = disks
        .iter()
        .filter(|entry| !entry.row.removed)
        .map(|entry| {
            let (shards, bytes) = load(entry.disk);
            json!({
                "disk": entry.disk,
                "node": entry.row.node,
                "path": entry.row.path,
                "domain": entry.row.domain,
                "state": state_of(entry, shards),
                "draining": entry.row.draining,
                "shards": shards,
                "shard_bytes": bytes,
                "total_bytes": entry.total_bytes,
                "available_bytes": entry.available_bytes,
                "unknown_shards": entry.unknown_shards,
                "scrub": {
                    "cycle_seconds": entry.scrub.cycle_s,
                    "rounds": entry.scrub.rounds,
                    "done_bytes": entry.scrub.done_bytes,
                    "total_bytes": entry.scrub.total_bytes,
                    "bytes_per_second": entry.scrub.rate_bytes,
                },
            })
        })
        .collect();
    let chunks = status.healthy + status.crowded + status.degraded + status.lost;
    Ok(json!({
        "schema": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "cluster_id": format!("{:016x}", meta.peers().cluster().0),
        "ready": true,
        "s3": s3,
        "redundancy": policy,
        "upgrade": { "level": cluster.feature_level, "known": proto::level::CURRENT },
        "meta": {
            "leader": status.leader_name,
            "term": status.term,
            "applied": status.applied,
            "voters": voters,
            "survives_losses": voters.saturating_sub(1) / 2,
        },
        "chunks": {
            "healthy": status.healthy,
            "crowded": status.crowded,
            "degraded": status.degraded,
            "lost": status.lost,
            "survives_losses": if chunks == 0 { Value::Null } else { json!(status.survives) },
        },
        "repair": {
            "bad_shards": status.bad_shards,
            "chunks_left": status.repair_chunks,
            "bytes_left": status.repair_bytes,
            "bytes_per_second": status.repair_bytes_per_s,
            "eta_seconds": if status.repair_eta_s == 0 { Value::Null } else { json!(status.repair_eta_s) },
        },
        "drain": {
            "disks": draining.len(),
            "shards_left": shards_left,
            "bytes_left": bytes_left,
            "bytes_per_second": status.drain_bytes_per_s,
            "eta_seconds": if status.drain_eta_s == 0 { Value::Null } else { json!(status.drain_eta_s) },
        },
        "live_bytes": status.live_bytes,
        "total_bytes": total,
        "available_bytes": available,
        "disks": rows,
    }))
}

fn state_of(entry: &DiskEntry, shards: u64) -> &'static str {
    match (entry.row.state, entry.row.draining) {
        (1, _) => "lost",
        _ if entry.failed => "failed",
        _ if !entry.alive => "silent",
        (_, true) if shards == 0 => "drained",
        (_, true) => "draining",
        _ => "in",
    }
}

/// A page of `bixi fsck`.
///
/// # Errors
/// The disk does not answer, no leader in time.
pub async fn disk_page(meta: &MetaClient, disk: u64, after: u64) -> Result<Value, String> {
    let checked = meta.check_disk(disk, after).await.map_err(|error| error.to_string())?;
    let differences: Vec<Value> = checked
        .differences
        .iter()
        .map(|found| {
            json!({
                "kind": kind_of(found.kind),
                "chunk": ChunkId(found.shard.chunk).to_string(),
                "placement": PlacementId(found.shard.placement).to_string(),
                "index": found.shard.index,
                "have": found.have,
                "want": found.want,
            })
        })
        .collect();
    Ok(json!({ "expected": checked.expected, "upto": checked.upto, "differences": differences }))
}

fn kind_of(kind: u32) -> &'static str {
    match kind {
        difference::MISSING => "missing",
        difference::SHORT => "short",
        difference::UNKNOWN => "unknown",
        difference::ALIEN => "alien",
        difference::DAMAGED => "damaged",
        _ => "other",
    }
}

/// Prometheus text of this process.
pub fn metrics(objects: &Objects, stores: &[Store], volumes: &[(String, Counts)]) -> String {
    let (reconstructed, hedged) = objects.reader().counts();
    let (hits, misses) = objects.reader().cache_counts();
    let mut out = String::new();
    let sum = |of: &dyn Fn(&Store) -> u64| stores.iter().map(of).sum::<u64>();
    let rows = [
        ("bixi_reads_reconstructed_total", "counter", "Reads that needed reconstruction.", reconstructed),
        (
            "bixi_disks_found_slow_total",
            "counter",
            "Times a disk was found to be much slower than others.",
            objects.reader().disks().demoted(),
        ),
        (
            "bixi_parity_wrong_total",
            "counter",
            "Appends whose parity came out wrong and was computed anew.",
            objects.reader().parity_wrong(),
        ),
        ("bixi_reads_hedged_total", "counter", "Reads sent to a second shard.", hedged),
        ("bixi_cache_hits_total", "counter", "Pieces served from memory.", hits),
        ("bixi_cache_misses_total", "counter", "Pieces read from disks.", misses),
        ("bixi_rot_found_total", "counter", "Reads of damaged bytes.", sum(&Store::rot_found)),
        (
            "bixi_shards_damaged",
            "gauge",
            "Shards with damage that wait for their repair.",
            sum(&|store| store.damaged_count() as u64),
        ),
        ("bixi_slots_free_bytes", "gauge", "Free slots of the data files.", sum(&Store::free_bytes)),
        (
            "bixi_scrub_rounds_total",
            "counter",
            "Rounds over all data at rest.",
            sum(&|store| store.scrub_state().rounds),
        ),
        (
            "bixi_scrub_done_bytes",
            "gauge",
            "Bytes of this round read so far.",
            sum(&|store| store.scrub_state().done_bytes),
        ),
        ("bixi_scrub_total_bytes", "gauge", "Bytes of this round.", sum(&|store| store.scrub_state().total_bytes)),
        ("bixi_scrub_bytes_per_second", "gauge", "Speed aimed at.", sum(&|store| store.scrub_state().rate_bytes)),
    ];
    for (name, kind, help, value) in rows {
        // Writing to a string cannot fail.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    volume_metrics(&mut out, volumes);
    out
}

/// Volumes that are attached here; their counters begin anew when they are attached again.
fn volume_metrics(out: &mut String, volumes: &[(String, Counts)]) {
    type Of = fn(&Counts) -> u64;
    let rows: [(&str, &str, Of); 7] = [
        ("bixi_volume_reads_total", "Reads that clients asked for.", |counts| counts.reads),
        ("bixi_volume_read_bytes_total", "Bytes of these.", |counts| counts.read_bytes),
        ("bixi_volume_writes_total", "Writes that clients asked for.", |counts| counts.writes),
        ("bixi_volume_written_bytes_total", "Bytes of these.", |counts| counts.written_bytes),
        ("bixi_volume_change_bytes_total", "Journal bytes of clients' changes, once.", |counts| counts.change_bytes),
        ("bixi_volume_moved_bytes_total", "Journal bytes that compaction moved, once.", |counts| counts.moved_bytes),
        ("bixi_volume_index_bytes_total", "Journal bytes of the index, once.", |counts| counts.index_bytes),
    ];
    for (name, help, of) in rows {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} counter\n");
        for (volume, counts) in volumes {
            let _ = writeln!(out, "{name}{{volume=\"{volume}\"}} {}", of(counts));
        }
    }
}
