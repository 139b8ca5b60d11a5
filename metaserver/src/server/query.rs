//! Linearizable reads: a read barrier, then a look at the state.

use std::collections::{BTreeMap, BTreeSet};

use platform::planted::PlantedBug;
use proto::keys;
use proto::members::DiskLoad;
use proto::meta::ChunkEntry;
use proto::query::{Ask, DiskEntry, ListedAccessKey, ListedPart, Query, StatusView, View};
use proto::rows::{
    AccessKeyRow, BlobRef, BlobRow, BodyRow, BucketRow, ChunkRow, ObjectRow, PartRow, UploadRow, chunk_state,
};
use proto::service::{class, code};
use proto::volume::VolumeRow;
use types::ids::{BlobId, ChunkId, Partition};
use types::redundancy::Redundancy;

use super::placement::Widths;
use super::{MetaServer, Trouble, agenda, listing, trash};
use crate::apply::txn::Txn;
use crate::apply::txn::prost_free::Row;
use crate::apply::{snapshots, volumes};

/// How long a status count may be told again, without counting.
const STATUS_AGE: std::time::Duration = std::time::Duration::from_millis(500);

impl MetaServer {
    pub(super) async fn query(&self, query: Query) -> Result<View, Trouble> {
        self.0.replica.read_barrier().await?;
        let store = self.0.replica.store();
        let txn = Txn::new(store);
        let mut view = View::default();
        if let Some(bucket) = query.ask.as_ref().and_then(bucket_of)
            && !trash::is_there(&txn, bucket)?
        {
            view.no_bucket = true;
            return Ok(view);
        }
        match query.ask {
            None => return Err(Trouble::new(class::GIVE_UP, code::BAD_REQUEST, "query is unknown to this version")),
            Some(Ask::Bucket(ask)) => view.bucket = txn.get(&keys::bucket(&ask.name))?,
            Some(Ask::Volume(ask)) => view.volumes = txn.get(&keys::volume(&ask.name))?.into_iter().collect(),
            Some(Ask::Volumes(_)) => {
                for (_, value) in txn.scan_prefix(&[keys::table::VOLUME], usize::MAX)? {
                    view.volumes.push(VolumeRow::from_bytes(&value)?);
                }
            }
            Some(Ask::WatchVolume(ask)) => view.volumes = self.watch_volume(&ask).await?,
            Some(Ask::Snapshots(ask)) => view.snapshots = snapshots::page_after(&txn, ask.volume, ask.after)?,
            Some(Ask::VolumeChunks(ask)) => view.volume_chunks = volumes::chunks_after(&txn, ask.volume, ask.after)?,
            Some(Ask::Buckets(_)) => {
                for (_, value) in txn.scan_prefix(&[keys::table::BUCKET], usize::MAX)? {
                    view.buckets.push(BucketRow::from_bytes(&value)?);
                }
            }
            Some(Ask::Object(ask)) => {
                let partition = Partition((ask.bucket >> 48) as u16);
                let row: Option<ObjectRow> = txn.get(&keys::object(partition, ask.bucket, &ask.key))?;
                if let Some(row) = &row {
                    add_body(&txn, partition, &row.body, &mut view)?;
                }
                view.object = row;
            }
            Some(Ask::Objects(ask)) => {
                view = listing::objects(store, &ask)?;
                if self.0.platform.planted(PlantedBug::ListingSkipsKey) && !ask.after.is_empty() {
                    view.listed.drain(..view.listed.len().min(1));
                }
            }
            Some(Ask::Uploads(ask)) => view = listing::uploads(store, &ask)?,
            Some(Ask::Parts(ask)) => {
                let partition = Partition((ask.bucket >> 48) as u16);
                let row: Option<UploadRow> = txn.get(&keys::upload(partition, ask.bucket, &ask.key, ask.upload))?;
                let Some(row) = row else { return Ok(view) };
                view.uploads.push(proto::query::ListedUpload { upload: ask.upload, row });
                let max = (ask.max as usize).min(10_000);
                for (key, value) in txn.scan_prefix(&keys::parts(partition, ask.upload), usize::MAX)? {
                    let number = keys::part_of(&key).unwrap_or(0);
                    if number <= ask.after {
                        continue;
                    }
                    if view.parts.len() == max {
                        view.truncated = true;
                        break;
                    }
                    let mut row = PartRow::from_bytes(&value)?;
                    row.body = BodyRow::default();
                    view.parts.push(ListedPart { number, row });
                }
            }
            Some(Ask::AccessKey(ask)) => {
                if let Some(row) = txn.get::<AccessKeyRow>(&keys::access_key(&ask.access_key))? {
                    view.access_keys.push(ListedAccessKey { access_key: ask.access_key, row });
                }
            }
            Some(Ask::AccessKeys(_)) => {
                for (key, value) in txn.scan_prefix(&[keys::table::ACCESS_KEY], usize::MAX)? {
                    let access_key = String::from_utf8_lossy(&key[1..]).into_owned();
                    view.access_keys.push(ListedAccessKey { access_key, row: AccessKeyRow::from_bytes(&value)? });
                }
            }
            Some(Ask::Chunks(ask)) => {
                for chunk in ask.chunks {
                    if let Some(row) = txn.get(&keys::chunk(ChunkId(chunk)))? {
                        view.chunks.push(ChunkEntry { chunk, row });
                    }
                }
            }
            Some(Ask::Blob(ask)) => {
                let partition = Partition(ask.partition as u16);
                let body = BodyRow { blobs: vec![BlobRef { blob: ask.blob, len: 0 }] };
                if txn.get_bytes(&keys::blob(partition, BlobId(ask.blob)))?.is_some() {
                    add_body(&txn, partition, &body, &mut view)?;
                }
            }
            Some(Ask::Disks(_)) => view.disks = self.disk_entries()?,
            Some(Ask::Status(_)) => view.status = Some(self.status()?),
            Some(Ask::Safety(ask)) => view.safety = Some(self.safety(ask).await?),
            Some(Ask::Plan(_)) => view.plan = Some(self.plan()?),
            Some(Ask::Trash(_)) => view.trash = self.trash()?,
            Some(Ask::Cluster(_)) => view.cluster = txn.get(&keys::cluster())?,
        }
        Ok(view)
    }

    fn disk_entries(&self) -> Result<Vec<DiskEntry>, Trouble> {
        let now = self.0.platform.clock().now();
        let liveness = self.0.liveness.borrow();
        Ok(self
            .disks()?
            .iter()
            .map(|(disk, row)| {
                let (disk, row) = (*disk, row.clone());
                let heard = liveness.disk(disk, now, self.0.times.disk_silent);
                DiskEntry {
                    disk,
                    row,
                    alive: heard.is_some(),
                    total_bytes: heard.map_or(0, |heard| heard.total_bytes),
                    available_bytes: heard.map_or(0, |heard| heard.available_bytes),
                    failed: heard.is_some_and(|heard| heard.failed),
                    scrub: self.scrub_of(disk),
                    unknown_shards: self.unknown_on(disk),
                }
            })
            .collect())
    }

    /// Counts chunks by health: a scan, kept for half a second.
    fn status(&self) -> Result<StatusView, Trouble> {
        let now = self.0.platform.clock().now();
        if let Some((at, status)) = &*self.0.status.borrow()
            && now.saturating_since(*at) < STATUS_AGE
        {
            return Ok(status.clone());
        }
        let domains: BTreeMap<u64, (String, bool)> = self
            .disk_entries()?
            .into_iter()
            .map(|entry| (entry.disk, (entry.row.domain, entry.alive && !entry.failed)))
            .collect();
        let widths = Widths::of(domains.values().filter(|(_, alive)| *alive).map(|(domain, _)| domain.as_str()));
        let replica = &self.0.replica;
        let repairs = self.repair_progress()?;
        let mut status = StatusView {
            repair_chunks: repairs.chunks_left,
            repair_bytes: repairs.bytes_left,
            repair_bytes_per_s: repairs.bytes_per_s,
            repair_eta_s: repairs.eta_s,
            leader: replica.leader(),
            term: replica.term(),
            applied: replica.applied(),
            voters: replica.voters(),
            leader_name: self.0.name.clone(),
            survives: 255,
            ..StatusView::default()
        };
        let prefix = [keys::table::CHUNK];
        let (mut fault, mut loads) = (None, BTreeMap::new());
        replica.store().scan(&prefix, keys::after_prefix(&prefix).as_deref(), &mut |_, value| {
            match ChunkRow::from_bytes(value) {
                Ok(row) => {
                    count(&mut status, &row, &domains, &widths);
                    agenda::add_load(&mut loads, &row);
                }
                Err(error) => fault = Some(error),
            }
            fault.is_none()
        })?;
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        let draining: BTreeSet<u64> =
            self.disks()?.iter().filter(|(_, row)| row.draining).map(|(disk, _)| *disk).collect();
        let left: u64 = loads.iter().filter(|(disk, _)| draining.contains(disk)).map(|(_, load)| load.1).sum();
        status.loads = loads.into_iter().map(|(disk, (shards, bytes))| DiskLoad { disk, shards, bytes }).collect();
        if left > 0 {
            status.drain_bytes_per_s = self.0.agenda.borrow().drained.bytes_per_s(now);
            status.drain_eta_s = left.checked_div(status.drain_bytes_per_s).unwrap_or(0);
        }
        *self.0.status.borrow_mut() = Some((now, status.clone()));
        Ok(status)
    }
}

/// The bucket that is asked about by its number. It may have gone to the trash since the number was
/// looked up.
fn bucket_of(ask: &Ask) -> Option<u64> {
    match ask {
        Ask::Object(ask) => Some(ask.bucket),
        Ask::Objects(ask) => Some(ask.bucket),
        Ask::Uploads(ask) => Some(ask.bucket),
        Ask::Parts(ask) => Some(ask.bucket),
        _ => None,
    }
}

fn count(status: &mut StatusView, row: &ChunkRow, domains: &BTreeMap<u64, (String, bool)>, widths: &Widths) {
    let Some(policy) = row.redundancy.policy() else { return };
    // Where nothing was written nothing lacks; a chunk may have been sealed before its first byte.
    let len = if row.state == chunk_state::OPEN { row.committed_len } else { row.sealed_len };
    if len == 0 {
        return;
    }
    status.bad_shards += row.shards.iter().filter(|shard| shard.bad).count() as u64;
    let alive: Vec<&String> = row
        .shards
        .iter()
        .filter(|shard| !shard.bad)
        .filter_map(|shard| domains.get(&shard.disk).filter(|(_, alive)| *alive).map(|(domain, _)| domain))
        .collect();
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for domain in &alive {
        *used.entry((*domain).clone()).or_insert(0) += 1;
    }
    let survives = alive.len().saturating_sub(policy.needed()) as u32;
    status.live_bytes += row.live_bytes;
    status.survives = status.survives.min(survives);
    if alive.len() < policy.needed() {
        status.lost += 1;
    } else if alive.len() < policy.shards() {
        status.degraded += 1;
    } else if used.len() < alive.len() || too_wide(policy, widths, &used) {
        status.crowded += 1;
    } else {
        status.healthy += 1;
    }
}

/// Whether a rack or zone holds more of a chunk than it needs to.
fn too_wide(policy: Redundancy, widths: &Widths, used: &BTreeMap<String, usize>) -> bool {
    let room = widths.room(policy, used);
    used.keys().any(|domain| room.is_exceeded(domain))
}

fn add_body(txn: &Txn<'_>, partition: Partition, body: &BodyRow, view: &mut View) -> Result<(), Trouble> {
    let mut seen = BTreeSet::new();
    for part in &body.blobs {
        let row: Option<BlobRow> = txn.get(&keys::blob(partition, BlobId(part.blob)))?;
        let row = row.unwrap_or_default();
        for extent in &row.extents {
            if seen.insert(extent.chunk)
                && let Some(row) = txn.get(&keys::chunk(ChunkId(extent.chunk)))?
            {
                view.chunks.push(ChunkEntry { chunk: extent.chunk, row });
            }
        }
        view.blobs.push(row);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::query::StatusView;
    use proto::rows::{ChunkRow, RedundancyRow, ShardRow, chunk_state};
    use types::redundancy::Redundancy;

    use super::{Widths, count};

    #[test]
    fn chunk_without_a_byte_lacks_nothing() {
        let domains: BTreeMap<u64, (String, bool)> =
            (1..=3).map(|disk| (disk, (format!("d{disk}"), disk < 3))).collect();
        let widths = Widths::of(domains.values().map(|(domain, _)| domain.as_str()));
        let shard = |disk| ShardRow { index: disk as u32, placement: disk, disk, bad: false };
        let of = |state, committed_len, sealed_len, disks: &[u64]| {
            let redundancy = RedundancyRow::from(Redundancy::Copies(2));
            let shards = disks.iter().map(|disk| shard(*disk)).collect();
            let row = ChunkRow { redundancy, state, committed_len, sealed_len, shards, ..ChunkRow::default() };
            let mut status = StatusView { survives: u32::MAX, ..StatusView::default() };
            count(&mut status, &row, &domains, &widths);
            (status.healthy, status.degraded, status.lost, status.survives)
        };
        let (open, sealed) = (chunk_state::OPEN, chunk_state::SEALED);
        for disks in [&[1, 2][..], &[1, 3], &[1], &[3], &[]] {
            assert_eq!(of(sealed, 0, 0, disks), (0, 0, 0, u32::MAX), "{disks:?}");
            assert_eq!(of(open, 0, 0, disks), (0, 0, 0, u32::MAX), "{disks:?}");
        }
        assert_eq!(of(sealed, 9, 9, &[1, 2]), (1, 0, 0, 1));
        assert_eq!(of(open, 9, 0, &[1, 3]), (0, 1, 0, 0));
        assert_eq!(of(sealed, 0, 9, &[1]), (0, 1, 0, 0));
        assert_eq!(of(sealed, 9, 9, &[3]), (0, 0, 1, 0));
    }
}
