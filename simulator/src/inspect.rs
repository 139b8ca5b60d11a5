//! What the metadata says, read from a replica's state behind its back.

use std::collections::{BTreeMap, BTreeSet};

use metaserver::server::MetaServer;
use proto::keys::{self, table};
use proto::rows::{BlobRow, BodyRow, ChunkRow, DiskRow, ObjectRow, PartRow, TrashRow, chunk_state, disk_state};
use proto::volume::VolumeChunkRow;

use crate::cluster::Cluster;

/// All rows of a table.
pub fn rows(meta: &MetaServer, table: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let prefix = [table];
    let scanned = meta.replica().store().scan(&prefix, keys::after_prefix(&prefix).as_deref(), &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        true
    });
    assert!(scanned.is_ok(), "a map cannot be damaged");
    rows
}

fn decoded<R: prost_row::Row>(meta: &MetaServer, table: u8) -> BTreeMap<u64, R> {
    rows(meta, table).into_iter().map(|(key, value)| (keys::last_u64(&key).unwrap_or(0), R::read(&value))).collect()
}

/// Rows are messages; a row that cannot be read was never written by apply.
mod prost_row {
    /// A row.
    pub trait Row {
        /// Reads it.
        fn read(bytes: &[u8]) -> Self;
    }

    macro_rules! rows {
        ($($row:ty),*) => {$(
            impl Row for $row {
                fn read(bytes: &[u8]) -> Self {
                    match proto::decode(bytes) {
                        Ok(row) => row,
                        Err(error) => panic!("row cannot be read: {error}"),
                    }
                }
            }
        )*};
    }

    rows!(
        super::ChunkRow,
        super::DiskRow,
        super::BlobRow,
        super::ObjectRow,
        super::PartRow,
        super::TrashRow,
        super::VolumeChunkRow
    );
}

/// Chunks by id.
pub fn chunks(meta: &MetaServer) -> BTreeMap<u64, ChunkRow> {
    decoded(meta, table::CHUNK)
}

/// Disks by number.
pub fn disks(meta: &MetaServer) -> BTreeMap<u64, DiskRow> {
    decoded(meta, table::DISK)
}

/// Chunks of volumes' journals, in no order.
pub fn volume_chunks(meta: &MetaServer) -> Vec<(u64, VolumeChunkRow)> {
    let rows = rows(meta, table::VOLUME_CHUNK).into_iter();
    rows.map(|(key, value)| (keys::last_u64(&key).unwrap_or(0), prost_row::Row::read(&value))).collect()
}

/// Whether every chunk can be read without the disk of chunkserver `index`, and there is a leader
/// to know it.
pub fn can_spare(cluster: &Cluster, index: usize) -> bool {
    let Some(leader) = cluster.leader() else { return false };
    let stores = cluster.stores();
    let Some(Some(store)) = stores.get(index) else { return false };
    let good: BTreeSet<u64> = disks(&leader)
        .into_iter()
        .filter(|(_, row)| {
            let alive = stores.iter().flatten().any(|other| other.id().0 == row.store && !other.is_failed());
            row.state == disk_state::IN && row.store != store.id().0 && alive
        })
        .map(|(disk, _)| disk)
        .collect();
    // Enough disks must be left to write on.
    let spare = good.len() >= cluster.shape.policy.shards().min(4);
    spare
        && chunks(&leader).values().all(|row| {
            let needed = row.redundancy.policy().map_or(1, |policy| policy.needed());
            row.shards.iter().filter(|shard| good.contains(&shard.disk)).count() >= needed
        })
}

/// What is not yet as it should be in the long run; empty when all is well.
pub fn unsettled(cluster: &Cluster, meta: &MetaServer) -> Vec<String> {
    let mut out = Vec::new();
    let stores = cluster.stores();
    let alive: BTreeSet<u64> = disks(meta)
        .into_iter()
        .filter(|(_, row)| {
            row.state == disk_state::IN
                && stores.iter().flatten().any(|store| store.id().0 == row.store && !store.is_failed())
        })
        .map(|(disk, _)| disk)
        .collect();
    for (chunk, row) in chunks(meta) {
        let wanted = row.redundancy.policy().map_or(0, |policy| policy.shards());
        let present = row.shards.iter().filter(|shard| alive.contains(&shard.disk)).count();
        let has_bytes = row.state == chunk_state::OPEN || row.sealed_len > 0;
        if present < wanted && has_bytes {
            out.push(format!("chunk {chunk:x} has {present} of {wanted} shards, state {}", row.state));
        }
        if row.pending_move.is_some() {
            out.push(format!("chunk {chunk:x} is being repaired"));
        }
    }
    for (disk, row) in disks(meta) {
        let holds = |row: &ChunkRow| row.shards.iter().any(|shard| shard.disk == disk);
        let needed = |row: &ChunkRow| holds(row) && (row.state == chunk_state::OPEN || row.sealed_len > 0);
        let left = chunks(meta).values().filter(|row| needed(row)).count();
        if row.draining && row.state == disk_state::IN && left > 0 {
            out.push(format!("disk {disk} is drained and holds shards of {left} chunks"));
        }
    }
    let deletes = rows(meta, table::DELETE).len();
    if deletes > 0 {
        out.push(format!("{deletes} shards wait for their deletion"));
    }
    for (bucket, row) in decoded::<TrashRow>(meta, table::TRASH) {
        if row.purging {
            out.push(format!("bucket {bucket:x} was given up and is not purged"));
        }
    }
    out
}

/// Objects and uploads lie in a bucket, be it in the trash, and parts in an upload.
fn homeless(meta: &MetaServer) -> Vec<String> {
    // Partition and number stand behind the table byte.
    let home = |key: &[u8]| key[1..11].to_vec();
    let numbers = |table: u8| rows(meta, table).into_iter().map(|(key, _)| home(&key));
    let buckets: BTreeSet<Vec<u8>> = numbers(table::BUCKET_NUMBER).chain(numbers(table::TRASH)).collect();
    let mut out = Vec::new();
    for key in numbers(table::OBJECT).chain(numbers(table::UPLOAD)).filter(|key| !buckets.contains(key)) {
        out.push(format!("bucket {key:02x?} does not exist and holds something"));
    }
    let of_upload = |key: &[u8]| [&key[1..3], &key[key.len() - 8..]].concat();
    let uploads: BTreeSet<Vec<u8>> = rows(meta, table::UPLOAD).iter().map(|(key, _)| of_upload(key)).collect();
    for key in numbers(table::PART).filter(|key| !uploads.contains(key)) {
        out.push(format!("upload {key:02x?} does not exist and has parts"));
    }
    out
}

/// Every extent of every object and part is counted exactly once in its chunk; no blob is left over,
/// and nothing lies outside a bucket.
pub fn references(meta: &MetaServer) -> Vec<String> {
    let mut out = homeless(meta);
    // A blob's number is unique in its partition: the key behind the table byte.
    let blobs: BTreeMap<Vec<u8>, BlobRow> = rows(meta, table::BLOB)
        .into_iter()
        .map(|(key, value)| (key[1..].to_vec(), prost_row::Row::read(&value)))
        .collect();
    let mut used: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut note = |key: &[u8], body: BodyRow| {
        for part in body.blobs {
            let id = [&key[1..3], &part.blob.to_be_bytes()].concat();
            *used.entry(id).or_default() += 1;
        }
    };
    for (key, value) in rows(meta, table::OBJECT) {
        note(&key, <ObjectRow as prost_row::Row>::read(&value).body);
    }
    for (key, value) in rows(meta, table::PART) {
        note(&key, <PartRow as prost_row::Row>::read(&value).body);
    }
    let mut live: BTreeMap<u64, u64> = BTreeMap::new();
    let mut extents = 0;
    for (id, blob) in &blobs {
        match used.remove(id) {
            Some(1) => {}
            count => out.push(format!("blob {id:02x?} is used {} times", count.unwrap_or(0))),
        }
        for extent in &blob.extents {
            *live.entry(extent.chunk).or_default() += extent.len;
            extents += 1;
        }
    }
    for (chunk, row) in volume_chunks(meta) {
        *live.entry(chunk).or_default() += row.bytes;
    }
    if let Some((id, _)) = used.first_key_value() {
        out.push(format!("blob {id:02x?} does not exist"));
    }
    for (chunk, row) in chunks(meta) {
        let counted = live.remove(&chunk).unwrap_or(0);
        if counted != row.live_bytes {
            out.push(format!("chunk {chunk:x} counts {} live bytes, its extents {counted}", row.live_bytes));
        }
    }
    if let Some((chunk, bytes)) = live.first_key_value() {
        out.push(format!("chunk {chunk:x} does not exist but {bytes} bytes refer to it"));
    }
    let references = rows(meta, table::REFERENCE).len();
    if references != extents {
        out.push(format!("{references} references for {extents} extents"));
    }
    out
}
