//! What `bixi status` and `/metrics` tell.

use std::fmt::Write as _;

use client::meta::MetaClient;
use client::object::Objects;
use proto::meta::{Ask, AskAll};
use serde_json::{Value, json};

/// The tree of `bixi status`. Numbers answer: safe? fast? full?
///
/// # Errors
/// No leader in time.
pub async fn tree(meta: &MetaClient, s3: &str, policy: &str) -> Result<Value, String> {
    let status =
        meta.query(Ask::Status(AskAll {})).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
    let disks = meta.query(Ask::Disks(AskAll {})).await.map_err(|error| error.to_string())?.disks;
    let voters = status.voters.len();
    let total: u64 = disks.iter().map(|disk| disk.total_bytes).sum();
    let available: u64 = disks.iter().map(|disk| disk.available_bytes).sum();
    let rows: Vec<Value> = disks
        .iter()
        .map(|entry| {
            json!({
                "disk": entry.disk,
                "node": entry.row.node,
                "path": entry.row.path,
                "domain": entry.row.domain,
                "state": if entry.row.state == 1 { "lost" } else if entry.failed { "failed" } else if entry.alive { "in" } else { "silent" },
                "total_bytes": entry.total_bytes,
                "available_bytes": entry.available_bytes,
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
        "live_bytes": status.live_bytes,
        "total_bytes": total,
        "available_bytes": available,
        "disks": rows,
    }))
}

/// Prometheus text of this process.
pub fn metrics(objects: &Objects, rot_found: u64, extra: &str) -> String {
    let (reconstructed, hedged) = objects.reader().counts();
    let (hits, misses) = objects.reader().cache_counts();
    let mut out = String::new();
    let rows = [
        ("bixi_reads_reconstructed_total", "Reads that needed reconstruction.", reconstructed),
        ("bixi_reads_hedged_total", "Reads sent to a second shard.", hedged),
        ("bixi_cache_hits_total", "Pieces served from memory.", hits),
        ("bixi_cache_misses_total", "Pieces read from disks.", misses),
        ("bixi_rot_found_total", "Damaged blocks found by reads.", rot_found),
    ];
    for (name, help, value) in rows {
        // Writing to a string cannot fail.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
    }
    out.push_str(extra);
    out
}
