//! Volumes as rows: made, listed, resized, deleted.

use proto::meta::{Body, refusal};
use proto::query::{Ask, AskAll, AskBucket};
use proto::rows::RedundancyRow;
use proto::volume::{AskVolumeChunks, CreateVolume, DeleteVolume, ResizeVolume, VolumeChunk, VolumeRow};
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

/// Makes a volume that reads as zeroes.
///
/// # Errors
/// The name is taken or not one, the size is none.
pub async fn create(
    meta: &MetaClient,
    name: &str,
    size: u64,
    redundancy: Redundancy,
    partition: Partition,
) -> Result<VolumeRow, VolumeError> {
    let body = CreateVolume { name: name.into(), size, redundancy: RedundancyRow::from(redundancy) };
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
    view.volumes.into_iter().next().ok_or_else(|| VolumeError::NotFound(name.into()))
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
