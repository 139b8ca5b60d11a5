//! Objects: S3's own words begin here.
//!
//! Every PUT is the waist's two steps: append to chunks, then one command. Nothing is visible
//! before that command; dropping a writer leaves bytes that reclaim finds. Conditions are decided
//! where the command is applied.

mod access;
pub mod api;
pub mod body;
mod convert;
mod multipart;
pub mod reader;
mod trash;
pub mod writer;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use platform::clock::Instant;
use proto::meta::{Body as CommandBody, CreateBucket, DeleteBucket, DeleteObject, Outcome, PutObject};
use proto::query::{Ask, AskAll, AskBucket, AskObject, AskObjects, View};
use proto::rows::{ClusterRow, ObjectRow};
use types::checksum::crc32;
use types::ids::Partition;
use types::names::{BucketName, ObjectKey};
use types::redundancy::Redundancy;

use self::api::{AccessKey, BucketInfo, ListPage, ListQuery, ObjectError, ObjectInfo, ObjectMeta, WriteConditions};
use self::body::Body;
use self::reader::ObjectReader;
use self::writer::ObjectWriter;
use crate::chunk::packer::Packer;
use crate::chunk::reader::ChunkReader;
use crate::chunk::writer::ChunkWriter;
use crate::meta::MetaClient;

/// How long a bucket that was looked up is believed by reads and writes (commands check anew).
const BUCKET_CACHED: std::time::Duration = std::time::Duration::from_secs(2);

/// Settings of the object layer.
#[derive(Clone, Copy, Debug)]
pub struct ObjectConfig {
    /// Redundancy of large data; small data gets as many copies as it survives losses.
    pub policy: Redundancy,
    /// Bodies up to this many bytes ride inside the command; 0 = none do.
    pub inline_max: usize,
    /// Logical bytes of one append of large data.
    pub append_unit: usize,
}

impl ObjectConfig {
    /// Defaults for a policy, with `metadata_copies` replicas of the metadata: bodies are inlined
    /// only if the metadata has at least as many copies as they ask for.
    pub fn new(policy: Redundancy, metadata_copies: usize) -> ObjectConfig {
        let inline = metadata_copies >= policy.small().policy.shards();
        ObjectConfig { policy, inline_max: if inline { 8 << 10 } else { 0 }, append_unit: 1 << 20 }
    }
}

struct Inner {
    meta: MetaClient,
    writer: ChunkWriter,
    packer: Packer,
    reader: ChunkReader,
    policy: Cell<Redundancy>,
    inline_max: usize,
    append_unit: usize,
    partitions: u32,
    keys: RefCell<BTreeMap<String, (Instant, AccessKey)>>,
    buckets: RefCell<BTreeMap<String, (Instant, BucketInfo)>>,
}

/// The object layer of one process. Cheap to clone, not `Send`.
#[derive(Clone)]
pub struct Objects(Rc<Inner>);

/// A bucket's number says its partition.
fn partition_of(bucket: u64) -> Partition {
    Partition((bucket >> 48) as u16)
}

fn info_of(key: &str, row: ObjectRow, body: Body) -> ObjectInfo {
    ObjectInfo {
        key: key.to_owned(),
        size: row.size,
        modified_ms: row.modified_ms,
        version: "null".to_owned(),
        meta: convert::object_meta(row.meta),
        parts: row.parts.iter().map(|part| (part.number, part.size)).collect(),
        body,
    }
}

impl Objects {
    /// The object layer over a chunk writer and reader; `cluster` is the cluster's row.
    pub fn new(
        meta: MetaClient,
        writer: ChunkWriter,
        reader: ChunkReader,
        cluster: &ClusterRow,
        config: ObjectConfig,
    ) -> Objects {
        Objects(Rc::new(Inner {
            meta,
            packer: Packer::new(writer.clone()),
            writer,
            reader,
            policy: Cell::new(config.policy),
            inline_max: config.inline_max,
            append_unit: config.append_unit,
            partitions: cluster.partitions.max(1),
            keys: RefCell::new(BTreeMap::new()),
            buckets: RefCell::new(BTreeMap::new()),
        }))
    }

    /// The redundancy of what is written now.
    pub fn policy(&self) -> Redundancy {
        self.0.policy.get()
    }

    /// Goes by the cluster's redundancy from now on, also when somebody changes it.
    pub fn follow_policy(&self) {
        let this = self.clone();
        self.0.meta.platform().tasks().spawn(async move {
            loop {
                let policy = this.0.meta.policy_later().await;
                this.0.policy.set(policy);
                this.0.writer.keep_only(policy);
            }
        });
    }

    /// The chunk reader beneath, for counters.
    pub fn reader(&self) -> &ChunkReader {
        &self.0.reader
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// `BucketAlreadyExists`, `BucketAlreadyOwnedByYou`.
    pub async fn create_bucket(&self, name: &BucketName, owner: &str) -> Result<BucketInfo, ObjectError> {
        let partition = Partition((crc32(name.as_str().as_bytes()) % self.0.partitions) as u16);
        let body = CommandBody::CreateBucket(CreateBucket {
            name: name.as_str().to_owned(),
            owner: owner.to_owned(),
            kind: 0,
        });
        let outcome = self.0.meta.command(partition, body).await?;
        outcome.bucket.map(convert::bucket).ok_or_else(|| ObjectError::Unavailable("outcome without a bucket".into()))
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`, `BucketNotEmpty`.
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), ObjectError> {
        self.forget_bucket(name.as_str());
        let bucket = self.bucket(name).await?;
        let body = CommandBody::DeleteBucket(DeleteBucket { name: name.as_str().to_owned() });
        let outcome = self.0.meta.command(partition_of(bucket.id), body).await;
        self.forget_bucket(name.as_str());
        outcome?;
        Ok(())
    }

    /// A bucket's row, believed for a moment; every command checks the bucket again.
    ///
    /// # Errors
    /// `NoSuchBucket`.
    pub async fn bucket(&self, name: &BucketName) -> Result<BucketInfo, ObjectError> {
        let now = self.0.meta.platform().clock().now();
        if let Some((at, bucket)) = self.0.buckets.borrow().get(name.as_str())
            && now.saturating_since(*at) < BUCKET_CACHED
        {
            return Ok(bucket.clone());
        }
        let view = self.0.meta.query(Ask::Bucket(AskBucket { name: name.as_str().to_owned() })).await?;
        let Some(row) = view.bucket else {
            self.forget_bucket(name.as_str());
            return Err(ObjectError::NoSuchBucket);
        };
        let bucket = convert::bucket(row);
        let mut buckets = self.0.buckets.borrow_mut();
        if buckets.len() > 1000 {
            buckets.clear();
        }
        buckets.insert(bucket.name.clone(), (now, bucket.clone()));
        Ok(bucket)
    }

    fn forget_bucket(&self, name: &str) {
        self.0.buckets.borrow_mut().remove(name);
    }

    /// A command about a bucket. If it is gone, it is believed no longer.
    async fn command_in(&self, bucket: &BucketInfo, body: CommandBody) -> Result<Outcome, ObjectError> {
        let outcome = self.0.meta.command(partition_of(bucket.id), body).await.map_err(ObjectError::from);
        if matches!(outcome, Err(ObjectError::NoSuchBucket)) {
            self.forget_bucket(&bucket.name);
        }
        outcome
    }

    /// A query about a bucket. If it is gone, it is believed no longer.
    async fn query_in(&self, bucket: &BucketInfo, ask: Ask) -> Result<View, ObjectError> {
        let view = self.0.meta.query(ask).await?;
        if view.no_bucket {
            self.forget_bucket(&bucket.name);
            return Err(ObjectError::NoSuchBucket);
        }
        Ok(view)
    }

    /// All buckets, or those of one owner, by name.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_buckets(&self, owner: Option<&str>) -> Result<Vec<BucketInfo>, ObjectError> {
        let view = self.0.meta.query(Ask::Buckets(AskAll {})).await?;
        let wanted = |row: &proto::rows::BucketRow| owner.is_none_or(|owner| row.owner == owner);
        Ok(view.buckets.into_iter().filter(wanted).map(convert::bucket).collect())
    }

    /// The object's row (HEAD). Also what `open` needs.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchKey`.
    pub async fn head(&self, bucket: &BucketInfo, key: &ObjectKey) -> Result<ObjectInfo, ObjectError> {
        let ask = Ask::Object(AskObject { bucket: bucket.id, key: key.as_str().to_owned() });
        let view = self.query_in(bucket, ask).await?;
        let row = view.object.ok_or(ObjectError::NoSuchKey)?;
        self.0.reader.learn(view.chunks);
        let body = Body::of(&row, &view.blobs)
            .ok_or_else(|| ObjectError::Damaged(format!("extents of {key} do not add up to {} bytes", row.size)))?;
        Ok(info_of(key.as_str(), row, body))
    }

    /// Starts reading `range` (bytes, end exclusive, inside the object) of an object.
    pub fn open(&self, object: &ObjectInfo, range: Range<u64>) -> ObjectReader {
        ObjectReader::new(self.0.reader.clone(), &object.body, range)
    }

    /// Starts a PUT. `size` is the exact number of bytes that will come, if known.
    pub fn writer(&self, bucket: &BucketInfo, _size: Option<u64>) -> ObjectWriter {
        ObjectWriter::new(Rc::clone(&self.0), partition_of(bucket.id))
    }

    /// Commits what was written as the object `key`: durable and visible when this returns.
    ///
    /// # Errors
    /// `NoSuchBucket`, `PreconditionFailed`, `NoSuchKey` (If-Match), `Unavailable` (then it may
    /// or may not be visible).
    pub async fn put(
        &self,
        bucket: &BucketInfo,
        key: &ObjectKey,
        body: ObjectWriter,
        meta: ObjectMeta,
        conditions: &WriteConditions,
    ) -> Result<ObjectInfo, ObjectError> {
        let (body, pins) = body.finish().await?;
        let command = CommandBody::PutObject(PutObject {
            bucket: bucket.id,
            key: key.as_str().to_owned(),
            meta: convert::meta_row(&meta),
            body,
            conditions: convert::conditions(conditions),
        });
        let outcome = self.command_in(bucket, command).await;
        // Until here the chunks could not be released, so none could be reclaimed.
        drop(pins);
        let row = outcome?.object.ok_or_else(|| ObjectError::Unavailable("outcome without an object".into()))?;
        Ok(info_of(key.as_str(), row, Body::default()))
    }

    /// Deletes; a missing key is fine (`Ok(false)`) unless a condition asks for it.
    ///
    /// # Errors
    /// `NoSuchBucket`, `PreconditionFailed`.
    pub async fn delete(
        &self,
        bucket: &BucketInfo,
        key: &ObjectKey,
        conditions: &WriteConditions,
    ) -> Result<bool, ObjectError> {
        let command = CommandBody::DeleteObject(DeleteObject {
            bucket: bucket.id,
            key: key.as_str().to_owned(),
            conditions: convert::conditions(conditions),
        });
        Ok(self.command_in(bucket, command).await?.existed)
    }

    /// A page of a listing.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Unavailable`.
    pub async fn list(&self, bucket: &BucketInfo, query: &ListQuery) -> Result<ListPage, ObjectError> {
        let ask = Ask::Objects(AskObjects {
            bucket: bucket.id,
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone(),
            after: query.after.clone(),
            max: u32::try_from(query.max_keys).unwrap_or(u32::MAX),
        });
        let view = self.query_in(bucket, ask).await?;
        Ok(ListPage {
            objects: view.listed.into_iter().map(convert::summary).collect(),
            common_prefixes: view.prefixes,
            truncated: view.truncated,
            next_after: view.next_after,
        })
    }
}
