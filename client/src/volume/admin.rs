//! Volumes as rows: made, listed, resized, deleted.

use crypto::suite::Suite;
use proto::level;
use proto::meta::{Body, refusal};
use proto::query::{Ask, AskAll, AskBucket};
use proto::rows::RedundancyRow;
use proto::volume::{
    AskSnapshots, AskVolumeChunks, CloneVolume, CreateVolume, DeleteSnapshot, DeleteVolume, Encryption, Qos,
    RenameVolume, ResizeVolume, SetQos, SnapshotRow, VolumeChunk, VolumeRow, WantSnapshot,
};
use types::ids::Partition;
use types::redundancy::Redundancy;

use super::device::VolumeError;
use super::journal::partition_of;
use crate::meta::{MetaClient, MetaError};

/// What a refusal means for who asked.
pub(super) fn told(error: MetaError) -> VolumeError {
    match error {
        MetaError::Refused { code: refusal::NO_VOLUME, text, .. } => VolumeError::NotFound(text),
        MetaError::Refused { code: refusal::VOLUME_BUSY | refusal::EXISTS, text, .. } => VolumeError::Busy(text),
        MetaError::Refused { code: refusal::VOLUME_FENCED, text, .. } => VolumeError::Fenced(text),
        MetaError::Refused { text, .. } => VolumeError::Refused(text),
        MetaError::Failed(failure) => VolumeError::Refused(failure.text),
        error => VolumeError::Unavailable(error.to_string()),
    }
}
/// Makes a volume that reads as zeroes, encrypted by a key of its own if a cipher is given.
///
/// # Errors
/// The name is taken or not one, the size is none; the cluster has no root key or is of an older feature level.
pub async fn create(
    meta: &MetaClient,
    name: &str,
    size: u64,
    redundancy: Redundancy,
    partition: Partition,
    cipher: Option<Suite>,
) -> Result<VolumeRow, VolumeError> {
    if cipher.is_some() {
        // A leader of an older version would make one that is not encrypted.
        let cluster = meta.query(Ask::Cluster(AskAll {})).await.map_err(told)?.cluster;
        if cluster.is_none_or(|row| row.feature_level < level::ENCRYPTION) {
            let text = "the cluster is of a feature level without encryption: bixi cluster finalize";
            return Err(VolumeError::Refused(text.into()));
        }
    }
    let encryption = cipher.map(|suite| Encryption { suite: suite.number(), ..Encryption::default() });
    let body = CreateVolume { name: name.into(), size, redundancy: RedundancyRow::from(redundancy), encryption };
    let outcome = meta.command(partition, Body::CreateVolume(body)).await.map_err(told)?;
    outcome.volume.ok_or_else(|| VolumeError::Damaged("a volume was made, and is not told of".into()))
}

/// All volumes, by name.
///
/// # Errors
/// No leader in time.
pub async fn list(meta: &MetaClient) -> Result<Vec<VolumeRow>, VolumeError> {
    Ok(meta.query(Ask::Volumes(AskAll {})).await.map_err(told)?.volumes)
}

/// The volume of a name.
///
/// # Errors
/// There is none, no leader in time.
pub async fn named(meta: &MetaClient, name: &str) -> Result<VolumeRow, VolumeError> {
    let view = meta.query(Ask::Volume(AskBucket { name: name.into() })).await.map_err(told)?;
    view.volumes.into_iter().next().ok_or_else(|| VolumeError::no_volume(name))
}

/// Deletes a volume that nobody has attached; its space comes back behind this.
///
/// # Errors
/// It is attached, there is none.
pub async fn delete(meta: &MetaClient, name: &str) -> Result<(), VolumeError> {
    let row = named(meta, name).await?;
    let body = Body::DeleteVolume(DeleteVolume { name: name.into() });
    meta.command(partition_of(row.id), body).await.map_err(told)?;
    Ok(())
}

/// Makes a volume larger. Who has it attached sees it a moment later.
///
/// # Errors
/// It would be smaller, there is none.
pub async fn resize(meta: &MetaClient, name: &str, size: u64) -> Result<VolumeRow, VolumeError> {
    let row = named(meta, name).await?;
    let body = Body::ResizeVolume(ResizeVolume { name: name.into(), size, epoch: 0 });
    let outcome = meta.command(partition_of(row.id), body).await.map_err(told)?;
    outcome.volume.ok_or_else(|| VolumeError::Damaged("a volume was resized, and is not told of".into()))
}

/// Makes a volume that reads as a snapshot does. Size 0: the snapshot's; no redundancy: the volume's.
///
/// # Errors
/// The name is taken, there is no such snapshot, the size is less.
pub async fn clone(
    meta: &MetaClient,
    from: &str,
    snapshot: &str,
    name: &str,
    size: u64,
    redundancy: Option<Redundancy>,
) -> Result<VolumeRow, VolumeError> {
    let parent = named(meta, from).await?;
    let redundancy = redundancy.map(RedundancyRow::from);
    let body = CloneVolume { from: from.into(), snapshot: snapshot.into(), name: name.into(), size, redundancy };
    let outcome = meta.command(partition_of(parent.id), Body::CloneVolume(body)).await.map_err(told)?;
    outcome.volume.ok_or_else(|| VolumeError::Damaged("a volume was cloned, and is not told of".into()))
}

/// Gives a volume that nobody has attached another name.
///
/// # Errors
/// It is attached, the name is taken or not one.
pub async fn rename(meta: &MetaClient, name: &str, to: &str) -> Result<(), VolumeError> {
    let row = named(meta, name).await?;
    let body = Body::RenameVolume(RenameVolume { name: name.into(), to: to.into() });
    meta.command(partition_of(row.id), body).await.map_err(told)?;
    Ok(())
}

/// Sets what a volume's clients may ask for; its owner knows a moment later.
///
/// # Errors
/// There is none.
pub async fn set_qos(meta: &MetaClient, name: &str, qos: Option<Qos>) -> Result<VolumeRow, VolumeError> {
    let row = named(meta, name).await?;
    let body = Body::SetQos(SetQos { name: name.into(), qos });
    let outcome = meta.command(partition_of(row.id), body).await.map_err(told)?;
    outcome.volume.ok_or_else(|| VolumeError::Damaged("limits were set, and are not told of".into()))
}

/// Deletes a snapshot; what only it held comes back behind this.
///
/// # Errors
/// There is none.
pub async fn delete_snapshot(meta: &MetaClient, name: &str, snapshot: &str) -> Result<(), VolumeError> {
    let row = named(meta, name).await?;
    let body = Body::DeleteSnapshot(DeleteSnapshot { name: name.into(), snapshot: snapshot.into() });
    meta.command(partition_of(row.id), body).await.map_err(told)?;
    Ok(())
}

/// Asks the owner of a volume for a snapshot, or withdraws that. Answers the volume's row.
pub(super) async fn want_snapshot(
    meta: &MetaClient,
    volume: u64,
    name: &str,
    snapshot: &str,
    withdraw: bool,
) -> Result<VolumeRow, VolumeError> {
    let body = Body::WantSnapshot(WantSnapshot { name: name.into(), snapshot: snapshot.into(), withdraw });
    let outcome = meta.command(partition_of(volume), body).await.map_err(told)?;
    outcome.volume.ok_or_else(|| VolumeError::Damaged("a snapshot is wanted, and nothing is told".into()))
}

/// The snapshots of a volume, by number; also hidden ones, which only clones need.
///
/// # Errors
/// No leader in time.
pub async fn snapshots(meta: &MetaClient, volume: u64) -> Result<Vec<SnapshotRow>, VolumeError> {
    let (mut all, mut after): (Vec<SnapshotRow>, u64) = (Vec::new(), 0);
    loop {
        let page = meta.query(Ask::Snapshots(AskSnapshots { volume, after })).await.map_err(told)?.snapshots;
        let Some(last) = page.last() else { return Ok(all) };
        after = last.number;
        all.extend(page);
    }
}

/// The snapshot of a name.
pub(super) async fn snapshot_named(
    meta: &MetaClient,
    volume: &VolumeRow,
    name: &str,
) -> Result<Option<SnapshotRow>, VolumeError> {
    let all = snapshots(meta, volume.id).await?;
    Ok(all.into_iter().find(|snapshot| !snapshot.hidden && snapshot.name == name))
}

/// The snapshot of a number.
pub(super) async fn snapshot_numbered(
    meta: &MetaClient,
    volume: u64,
    number: u64,
) -> Result<Option<SnapshotRow>, VolumeError> {
    let ask = AskSnapshots { volume, after: number.saturating_sub(1) };
    let page = meta.query(Ask::Snapshots(ask)).await.map_err(told)?.snapshots;
    Ok(page.into_iter().next().filter(|snapshot| snapshot.number == number))
}

/// The chunks of a volume's journal, in its order.
///
/// # Errors
/// No leader in time.
pub async fn chunks(meta: &MetaClient, volume: u64) -> Result<Vec<VolumeChunk>, VolumeError> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = meta.query(Ask::VolumeChunks(AskVolumeChunks { volume, after })).await.map_err(told)?.volume_chunks;
        let Some(last) = page.last() else { break };
        after = last.chunk;
        all.extend(page);
    }
    all.sort_by_key(|chunk| chunk.row.order);
    Ok(all)
}
