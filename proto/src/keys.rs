//! Keys of the metaserver's tables. Byte order is meaning: a listing is a range scan.
//!
//! | table | key | value |
//! |---|---|---|
//! | cluster | `00` | ClusterRow |
//! | counter | `01` partition u16, which u8 | CounterRow |
//! | session | `02` partition u16, session u64 | SessionRow |
//! | outcome | `03` partition u16, session u64, sequence u64 | OutcomeRow |
//! | disk | `04` disk u64 | DiskRow |
//! | chunk | `05` chunk u64 (partition in its top bits) | ChunkRow |
//! | open chunk | `06` session u64, chunk u64 | empty |
//! | missing shards | `07` chunk u64 | empty |
//! | chunks of a disk | `08` disk u64, chunk u64 | empty |
//! | delete | `09` disk u64, placement u64 | DeleteRow |
//! | bucket | `10` name | BucketRow |
//! | bucket of a number | `11` partition u16, bucket u64 | name |
//! | trash | `12` partition u16, bucket u64 | TrashRow |
//! | object | `20` partition u16, bucket u64, key bytes | ObjectRow |
//! | old version | `21` partition u16, bucket u64, key bytes escaped, !version u64 | ObjectRow |
//! | upload | `22` partition u16, bucket u64, key escaped, upload u64 | UploadRow |
//! | part | `23` partition u16, upload u64, number u32 | PartRow |
//! | blob | `30` partition u16, blob u64 | BlobRow |
//! | reference | `31` chunk u64, offset u64, blob u64 | empty |
//! | access key | `40` access key bytes | AccessKeyRow |
//! | volume | `50` name | VolumeRow |
//! | volume of a number | `51` partition u16, volume u64 | name |
//! | chunk of a volume | `52` volume u64, chunk u64 | VolumeChunkRow |
//! | volume that is deleted | `53` partition u16, volume u64 | VolumeRow |
//! | snapshot | `54` volume u64, number u64 | SnapshotRow |
//! | volume to sweep | `55` partition u16, volume u64 | SweepRow |
//! | applied | `f0` | applied index, term, configuration (the store's own) |
//!
//! All integers are big-endian. "Escaped" writes `00` as `00 ff` and ends with `00 01`, which
//! keeps the order and lets something follow.

use types::ids::{BlobId, ChunkId, DiskId, Partition, PlacementId, SessionId};

/// First byte of a key.
pub mod table {
    pub const CLUSTER: u8 = 0x00;
    pub const COUNTER: u8 = 0x01;
    pub const SESSION: u8 = 0x02;
    pub const OUTCOME: u8 = 0x03;
    pub const DISK: u8 = 0x04;
    pub const CHUNK: u8 = 0x05;
    pub const OPEN_CHUNK: u8 = 0x06;
    pub const MISSING: u8 = 0x07;
    pub const DISK_CHUNK: u8 = 0x08;
    pub const DELETE: u8 = 0x09;
    pub const BUCKET: u8 = 0x10;
    pub const BUCKET_NUMBER: u8 = 0x11;
    pub const TRASH: u8 = 0x12;
    pub const OBJECT: u8 = 0x20;
    pub const OLD_VERSION: u8 = 0x21;
    pub const UPLOAD: u8 = 0x22;
    pub const PART: u8 = 0x23;
    pub const BLOB: u8 = 0x30;
    pub const REFERENCE: u8 = 0x31;
    pub const ACCESS_KEY: u8 = 0x40;
    pub const VOLUME: u8 = 0x50;
    pub const VOLUME_NUMBER: u8 = 0x51;
    pub const VOLUME_CHUNK: u8 = 0x52;
    pub const DELETED_VOLUME: u8 = 0x53;
    pub const SNAPSHOT: u8 = 0x54;
    pub const SWEEP: u8 = 0x55;
    pub const APPLIED: u8 = 0xf0;
}

/// Which counter of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Counter {
    Session = 1,
    Chunk = 2,
    Placement = 3,
    Disk = 4,
    Blob = 5,
    Bucket = 6,
    Upload = 7,
    Move = 8,
    Volume = 9,
}

struct Key(Vec<u8>);

impl Key {
    fn table(table: u8) -> Key {
        let mut key = Vec::with_capacity(32);
        key.push(table);
        Key(key)
    }

    fn u16(mut self, value: u16) -> Key {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Key {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Key {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn bytes(mut self, value: &[u8]) -> Key {
        self.0.extend_from_slice(value);
        self
    }

    fn escaped(mut self, value: &[u8]) -> Key {
        for byte in value {
            self.0.push(*byte);
            if *byte == 0 {
                self.0.push(0xff);
            }
        }
        self.0.extend_from_slice(&[0, 1]);
        self
    }
}

pub fn cluster() -> Vec<u8> {
    Key::table(table::CLUSTER).0
}

pub fn counter(partition: Partition, which: Counter) -> Vec<u8> {
    Key::table(table::COUNTER).u16(partition.0).bytes(&[which as u8]).0
}

pub fn session(partition: Partition, session: SessionId) -> Vec<u8> {
    Key::table(table::SESSION).u16(partition.0).u64(session.0).0
}

pub fn outcome(partition: Partition, session: SessionId, sequence: u64) -> Vec<u8> {
    Key::table(table::OUTCOME).u16(partition.0).u64(session.0).u64(sequence).0
}

pub fn disk(disk: DiskId) -> Vec<u8> {
    Key::table(table::DISK).u64(disk.0).0
}

pub fn chunk(chunk: ChunkId) -> Vec<u8> {
    Key::table(table::CHUNK).u64(chunk.0).0
}

pub fn open_chunk(session: SessionId, chunk: ChunkId) -> Vec<u8> {
    Key::table(table::OPEN_CHUNK).u64(session.0).u64(chunk.0).0
}

/// All open chunks of a session.
pub fn open_chunks(session: SessionId) -> Vec<u8> {
    Key::table(table::OPEN_CHUNK).u64(session.0).0
}

pub fn missing(chunk: ChunkId) -> Vec<u8> {
    Key::table(table::MISSING).u64(chunk.0).0
}

pub fn disk_chunk(disk: DiskId, chunk: ChunkId) -> Vec<u8> {
    Key::table(table::DISK_CHUNK).u64(disk.0).u64(chunk.0).0
}

/// All chunks of a disk.
pub fn disk_chunks(disk: DiskId) -> Vec<u8> {
    Key::table(table::DISK_CHUNK).u64(disk.0).0
}

pub fn delete(disk: DiskId, placement: PlacementId) -> Vec<u8> {
    Key::table(table::DELETE).u64(disk.0).u64(placement.0).0
}

pub fn bucket(name: &str) -> Vec<u8> {
    Key::table(table::BUCKET).bytes(name.as_bytes()).0
}

pub fn bucket_number(partition: Partition, bucket: u64) -> Vec<u8> {
    Key::table(table::BUCKET_NUMBER).u16(partition.0).u64(bucket).0
}

pub fn volume(name: &str) -> Vec<u8> {
    Key::table(table::VOLUME).bytes(name.as_bytes()).0
}

pub fn volume_number(partition: Partition, volume: u64) -> Vec<u8> {
    Key::table(table::VOLUME_NUMBER).u16(partition.0).u64(volume).0
}

pub fn volume_chunk(volume: u64, chunk: ChunkId) -> Vec<u8> {
    Key::table(table::VOLUME_CHUNK).u64(volume).u64(chunk.0).0
}

/// All chunks of a volume.
pub fn volume_chunks(volume: u64) -> Vec<u8> {
    Key::table(table::VOLUME_CHUNK).u64(volume).0
}

pub fn snapshot(volume: u64, number: u64) -> Vec<u8> {
    Key::table(table::SNAPSHOT).u64(volume).u64(number).0
}

/// All snapshots of a volume, by number.
pub fn snapshots(volume: u64) -> Vec<u8> {
    Key::table(table::SNAPSHOT).u64(volume).0
}

pub fn sweep(partition: Partition, volume: u64) -> Vec<u8> {
    Key::table(table::SWEEP).u16(partition.0).u64(volume).0
}

pub fn deleted_volume(partition: Partition, volume: u64) -> Vec<u8> {
    Key::table(table::DELETED_VOLUME).u16(partition.0).u64(volume).0
}

/// A bucket in the trash.
pub fn trash(partition: Partition, bucket: u64) -> Vec<u8> {
    Key::table(table::TRASH).u16(partition.0).u64(bucket).0
}

pub fn object(partition: Partition, bucket: u64, key: &str) -> Vec<u8> {
    Key::table(table::OBJECT).u16(partition.0).u64(bucket).bytes(key.as_bytes()).0
}

pub fn upload(partition: Partition, bucket: u64, key: &str, upload: u64) -> Vec<u8> {
    Key::table(table::UPLOAD).u16(partition.0).u64(bucket).escaped(key.as_bytes()).u64(upload).0
}

/// All uploads of a bucket.
pub fn uploads(partition: Partition, bucket: u64) -> Vec<u8> {
    Key::table(table::UPLOAD).u16(partition.0).u64(bucket).0
}

/// The upload number at the end of an upload key.
pub fn upload_of(key: &[u8]) -> Option<u64> {
    let tail = key.get(key.len().checked_sub(8)?..)?;
    Some(u64::from_be_bytes(tail.try_into().ok()?))
}

pub fn part(partition: Partition, upload: u64, number: u32) -> Vec<u8> {
    Key::table(table::PART).u16(partition.0).u64(upload).u32(number).0
}

/// All parts of an upload.
pub fn parts(partition: Partition, upload: u64) -> Vec<u8> {
    Key::table(table::PART).u16(partition.0).u64(upload).0
}

/// The part number at the end of a part key.
pub fn part_of(key: &[u8]) -> Option<u32> {
    let tail = key.get(key.len().checked_sub(4)?..)?;
    Some(u32::from_be_bytes(tail.try_into().ok()?))
}

pub fn blob(partition: Partition, blob: BlobId) -> Vec<u8> {
    Key::table(table::BLOB).u16(partition.0).u64(blob.0).0
}

pub fn reference(chunk: ChunkId, offset: u64, blob: BlobId) -> Vec<u8> {
    Key::table(table::REFERENCE).u64(chunk.0).u64(offset).u64(blob.0).0
}

/// All references to a chunk.
pub fn references(chunk: ChunkId) -> Vec<u8> {
    Key::table(table::REFERENCE).u64(chunk.0).0
}

pub fn access_key(access_key: &str) -> Vec<u8> {
    Key::table(table::ACCESS_KEY).bytes(access_key.as_bytes()).0
}

/// The last 8 bytes of a key as a number: chunk of `disk_chunk`, `open_chunk`, `missing`; placement of `delete`; disk of `disk`; bucket of `trash`.
pub fn last_u64(key: &[u8]) -> Option<u64> {
    upload_of(key)
}

/// The smallest key behind all keys with this prefix; `None` if there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Partition, after_prefix, object, part, part_of, upload, upload_of};

    #[test]
    fn objects_sort_by_key_bytes() {
        let p = Partition(1);
        assert!(object(p, 1, "a") < object(p, 1, "a/b"));
        assert!(object(p, 1, "a/b") < object(p, 1, "b"));
        assert!(object(p, 1, "zzz") < object(p, 2, ""));
    }

    #[test]
    fn escaped_keys_keep_their_order_with_a_suffix() {
        let p = Partition(1);
        let mut keys = ["a", "a\0", "a\0b", "a\u{1}", "ab", "b"];
        keys.sort_unstable();
        let encoded: Vec<_> = keys.iter().map(|key| upload(p, 1, key, 9)).collect();
        assert!(encoded.is_sorted());
        assert_eq!(upload_of(&encoded[0]), Some(9));
        assert_eq!(part_of(&part(p, 3, 77)), Some(77));
    }

    #[test]
    fn prefix_end_is_behind_all_of_it() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(&[1, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(&[0xff, 0xff]), None);
    }
}
