//! Disks and nodes: what the admin door passes on of `bixi disk`, `bixi node`, `bixi plan` and
//! `bixi safe-to-remove`, in the words of the metaserver and of the processes.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use client::meta::{MetaClient, MetaError};
use proto::chunk::AddDisk;
use proto::level;
use proto::members::{
    AskSafety, DrainDisks, PlanView, PlannedMove, RaiseLevel, RemoveDisk, Safety, SetRedundancy, why,
};
use proto::meta::{Body, refusal};
use proto::query::{Ask, AskAll, DiskEntry};
use proto::rows::{RedundancyRow, disk_state};
use proto::service::{Answer, Request, code};
use rpc::call::CallError;
use rpc::peers::split_address;
use s3_gateway::admin::members::{Asked, Denied};
use serde_json::{Value, json};
use types::ids::{ChunkId, Partition, StoreId};
use types::redundancy::{BadRedundancy, Redundancy};

use super::cluster::Inside;
use super::tend;

/// How long a process may take to open a directory.
const ADD_TIMEOUT: Duration = Duration::from_secs(50);

/// Carries out what was asked.
///
/// # Errors
/// What stands against it, or no leader in time.
pub async fn carry_out(meta: &MetaClient, inside: Option<&Inside>, asked: Asked) -> Result<Value, Denied> {
    match asked {
        Asked::Plan => {
            let view = meta.query(Ask::Plan(AskAll {})).await.map_err(denied)?;
            Ok(plan_tree(&view.plan.unwrap_or_default()))
        }
        Asked::Safety { disks, nodes } => {
            let view = meta.query(Ask::Safety(AskSafety { disks, nodes })).await.map_err(denied)?;
            safety_tree(&view.safety.unwrap_or_default())
        }
        Asked::Drain { disks, node, draining } => drain(meta, disks, &node, draining).await,
        Asked::Remove { disk, lost } => {
            let body = Body::RemoveDisk(RemoveDisk { disk, lost });
            meta.command(Partition(0), body).await.map_err(denied)?;
            Ok(json!({ "disk": disk, "state": "removed" }))
        }
        Asked::Add { path, node } => add(meta, path, &node).await,
        Asked::RemoveNode { node, lost } => remove_node(meta, &node, lost).await,
        Asked::Token { days } => {
            let text = "this process is no node that others can join; see bixi cluster init --help";
            let inside = inside.ok_or_else(|| Denied::conflict(text))?;
            let token = inside.token(days).await.map_err(|error| Denied::conflict(error.text))?;
            Ok(json!({ "token": token }))
        }
        Asked::Finalize => finalize(meta).await,
        Asked::SetRedundancy { policy } => {
            let policy: Redundancy = policy.parse().map_err(|error: BadRedundancy| Denied::bad(error.to_string()))?;
            let body = Body::SetRedundancy(SetRedundancy { redundancy: RedundancyRow::from(policy) });
            meta.command(Partition(0), body).await.map_err(denied)?;
            Ok(json!({ "redundancy": policy.to_string() }))
        }
    }
}

/// Raises the feature level to what this version knows.
async fn finalize(meta: &MetaClient) -> Result<Value, Denied> {
    let cluster = meta.query(Ask::Cluster(AskAll {})).await.map_err(denied)?.cluster;
    let before = cluster.ok_or_else(|| Denied::unavailable("the cluster is not initialised"))?.feature_level;
    for next in before + 1..=level::CURRENT {
        let body = Body::RaiseLevel(RaiseLevel { level: next });
        meta.command(Partition(0), body).await.map_err(denied)?;
    }
    Ok(json!({ "feature_level": level::CURRENT.max(before), "before": before }))
}

/// Takes a node's replicas out of the metadata's group, then all its disks out of the pool.
async fn remove_node(meta: &MetaClient, node: &str, lost: bool) -> Result<Value, Denied> {
    let all = meta.query(Ask::Disks(AskAll {})).await.map_err(denied)?.disks;
    let own: Vec<&DiskEntry> = all.iter().filter(|entry| entry.row.node == node).collect();
    if own.is_empty() {
        return Err(Denied::not_found(format!("there is no node {node}")));
    }
    let is_other = |entry: &&DiskEntry| entry.row.node != node && entry.row.state == disk_state::IN;
    if !all.iter().any(|entry| is_other(&entry)) {
        return Err(Denied::conflict(format!("{node} is the only node with disks in use")));
    }
    let in_pool: Vec<u64> = own.iter().filter(|entry| !entry.row.removed).map(|entry| entry.disk).collect();
    let in_use = own.iter().find(|entry| entry.row.state == disk_state::IN && !entry.row.draining);
    if let Some(entry) = in_use.filter(|_| !lost) {
        return Err(Denied::conflict(format!("disk {} of {node} is in use; drain the node first", entry.disk)));
    }
    // First its replicas: who removes a disk with one in its directory has it stop.
    let machines: BTreeSet<&str> = own.iter().map(|entry| entry.row.address.as_str()).collect();
    let known = all.iter().map(|entry| entry.row.replica.clone()).filter(|address| !address.is_empty()).collect();
    let group = tend::ask_group(meta, &known).await.map_err(|error| Denied::unavailable(error.text))?;
    let mut left = 0;
    for (raft_id, address) in group.member_ids.iter().zip(&group.members) {
        if machines.contains(split_address(address).0) {
            meta.leave_replica(*raft_id).await.map_err(denied)?;
            left += 1;
        }
    }
    for disk in &in_pool {
        let body = Body::RemoveDisk(RemoveDisk { disk: *disk, lost });
        meta.command(Partition(0), body).await.map_err(denied)?;
    }
    Ok(json!({ "node": node, "disks": in_pool, "replicas": left, "state": "removed" }))
}

async fn entries(meta: &MetaClient) -> Result<Vec<DiskEntry>, Denied> {
    let disks = meta.query(Ask::Disks(AskAll {})).await.map_err(denied)?.disks;
    Ok(disks.into_iter().filter(|entry| !entry.row.removed).collect())
}

async fn drain(meta: &MetaClient, mut disks: Vec<u64>, node: &str, draining: bool) -> Result<Value, Denied> {
    if !node.is_empty() {
        let all = entries(meta).await?;
        let own = all.iter().filter(|entry| entry.row.node == node && entry.row.state == disk_state::IN);
        disks.extend(own.map(|entry| entry.disk));
        if disks.is_empty() {
            return Err(Denied::not_found(format!("there is no node {node} with disks in use")));
        }
    }
    let body = Body::DrainDisks(DrainDisks { disks: disks.clone(), draining });
    meta.command(Partition(0), body).await.map_err(denied)?;
    Ok(json!({ "disks": disks, "draining": draining }))
}

async fn add(meta: &MetaClient, path: String, node: &str) -> Result<Value, Denied> {
    let all = entries(meta).await?;
    let mut places: Vec<(&str, &str)> = all
        .iter()
        .filter(|entry| node.is_empty() || entry.row.node == node)
        .map(|entry| (entry.row.node.as_str(), entry.row.address.as_str()))
        .collect();
    places.sort_unstable();
    places.dedup();
    let (node, address) = match places[..] {
        [place] => place,
        [] => return Err(Denied::not_found(format!("there is no node {node} with disks"))),
        _ => {
            let names: Vec<&str> = places.iter().map(|(node, _)| *node).collect();
            return Err(Denied::bad(format!("say which node it is on with --node: {}", names.join(", "))));
        }
    };
    let ask = Request::AddDisk(AddDisk { path: path.clone() });
    let peers = meta.peers();
    let called = peers.call(address, StoreId(0), peers.new_request(), ask, Bytes::new(), ADD_TIMEOUT).await;
    match called.map(|reply| reply.answer) {
        Ok(Answer::DiskAdded(added)) => Ok(json!({ "disk": added.disk, "node": node, "path": path })),
        Ok(_) => Err(Denied::unavailable(format!("{node} answered something else than was asked"))),
        Err(CallError::Refused(failure)) if failure.code == code::CONFLICT => Err(Denied::conflict(failure.text)),
        Err(CallError::Refused(failure)) if failure.code == code::BAD_REQUEST => Err(Denied::bad(failure.text)),
        Err(error) => Err(Denied::unavailable(format!("{node}: {error}"))),
    }
}

fn denied(error: MetaError) -> Denied {
    match error {
        MetaError::Refused { code: refusal::NO_DISK, text, .. } => Denied::not_found(text),
        MetaError::Refused { code: refusal::DISK, text, .. } => Denied::conflict(text),
        MetaError::Failed(failure) if failure.code == code::CONFLICT => Denied::conflict(failure.text),
        error => Denied::unavailable(error.to_string()),
    }
}

fn safety_tree(safety: &Safety) -> Result<Value, Denied> {
    if !safety.unknown.is_empty() {
        return Err(Denied::not_found(format!("there is no {}", safety.unknown)));
    }
    Ok(json!({
        "schema": 1,
        "safe": safety.safe,
        "reason": safety.reason,
        "chunks_lost": safety.chunks_lost,
        "bytes_lost": safety.bytes_lost,
        "chunks_degraded": safety.chunks_degraded,
        "bytes_to_repair": safety.bytes_to_repair,
        "meta": { "replicas": safety.replicas, "left": safety.replicas_left, "majority": safety.majority },
    }))
}

fn name_of(kind: u32) -> &'static str {
    match kind {
        why::REPAIR => "repair",
        why::DRAIN => "drain",
        why::SPREAD => "spread",
        why::BALANCE => "balance",
        why::COMPACT => "compact",
        why::TRANSCODE => "transcode",
        _ => "other",
    }
}

fn plan_tree(plan: &PlanView) -> Value {
    let one = |planned: &PlannedMove| {
        json!({
            "why": name_of(planned.why),
            "chunk": ChunkId(planned.chunk).to_string(),
            "bytes": planned.bytes,
            "from": planned.sources,
            "to": planned.targets,
            "under_way": planned.under_way,
        })
    };
    let moves: Vec<Value> = plan.moves.iter().map(one).collect();
    let total = |one: &proto::members::PlanTotal| json!({ "why": name_of(one.why), "moves": one.moves, "bytes": one.bytes, "blocked": one.blocked });
    let totals: Vec<Value> = plan.totals.iter().map(total).collect();
    let count: u64 = plan.totals.iter().map(|total| total.moves).sum();
    let bytes: u64 = plan.totals.iter().map(|total| total.bytes).sum();
    json!({
        "schema": 1,
        "moves_total": count,
        "bytes_total": bytes,
        "bytes_per_second": plan.bytes_per_s,
        "eta_seconds": plan.eta_s,
        "totals": totals,
        "moves": moves,
    })
}
