//! Volumes: what the admin door passes on of `bixi volume`.

use client::meta::MetaClient;
use client::volume::{self, VolumeError};
use proto::query::{Ask, AskAll};
use proto::volume::VolumeRow;
use s3_gateway::admin::members::Denied;
use s3_gateway::admin::volumes::AskedVolume;
use serde_json::{Value, json};
use types::ids::Partition;
use types::redundancy::{BadRedundancy, Redundancy};

/// Carries out what was asked.
///
/// # Errors
/// What stands against it, or no leader in time.
pub async fn carry_out(meta: &MetaClient, asked: AskedVolume) -> Result<Value, Denied> {
    match asked {
        AskedVolume::List => {
            let mut rows = volume::list(meta).await.map_err(denied)?;
            rows.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(json!({ "volumes": rows.iter().map(tree).collect::<Vec<Value>>() }))
        }
        AskedVolume::Create { name, size, redundancy } => create(meta, &name, size, &redundancy).await,
        AskedVolume::Resize { name, size } => Ok(tree(&volume::resize(meta, &name, size).await.map_err(denied)?)),
        AskedVolume::Delete { name } => {
            volume::delete(meta, &name).await.map_err(denied)?;
            Ok(json!({ "name": name, "state": "deleted" }))
        }
    }
}

async fn create(meta: &MetaClient, name: &str, size: u64, redundancy: &str) -> Result<Value, Denied> {
    let view = meta.query(Ask::Cluster(AskAll {})).await.map_err(|error| Denied::unavailable(error.to_string()))?;
    let cluster = view.cluster.ok_or_else(|| Denied::unavailable("the cluster is not initialised"))?;
    let policy = if redundancy.is_empty() {
        cluster.redundancy.policy().ok_or_else(|| Denied::conflict("the cluster's redundancy is unknown here"))?
    } else {
        redundancy.parse::<Redundancy>().map_err(|error: BadRedundancy| Denied::bad(error.to_string()))?
    };
    // Volumes are dealt out to partitions, so that they need not all have one leader.
    let partition = meta.platform().random().below(u64::from(cluster.partitions.max(1)));
    let row = volume::create(meta, name, size, policy, Partition(partition as u16)).await.map_err(denied)?;
    Ok(tree(&row))
}

fn tree(row: &VolumeRow) -> Value {
    json!({
        "name": row.name,
        "size": row.size,
        "used": row.used,
        "redundancy": row.redundancy.policy().map(|policy| policy.to_string()),
        "created_ms": row.created_ms,
        "attached_by": (row.session != 0).then_some(&row.owner),
    })
}

fn denied(error: VolumeError) -> Denied {
    match error {
        VolumeError::NotFound(text) => Denied::not_found(text),
        VolumeError::Busy(_) | VolumeError::Fenced(_) => Denied::conflict(error.to_string()),
        VolumeError::Refused(text) => Denied::bad(text),
        error => Denied::unavailable(error.to_string()),
    }
}
