//! A worker that deletes whole buckets of its own with what they hold: into the trash, and then out
//! again under another name, or given up, or left there.
//!
//! What it looks for: nobody reaches a bucket in the trash, a restored one has every byte, one that
//! was given up does not come back. That references add up is the checkers' business, who do not
//! know what a trash is.

use std::rc::Rc;
use std::time::Duration;

use client::object::Objects;
use client::object::api::{BucketInfo, CompletePart, ObjectError, ObjectMeta, WriteConditions};
use platform::Platform;
use types::names::{BucketName, ObjectKey};

use crate::checkers::Checker;
use crate::cluster::{Cluster, Running};
use crate::content::{content, difference, etag};
use crate::draw::Draw;

/// Apart from the stream of the other workers, which stays as it is.
const STREAM: u64 = 0x7472_6173_6800;
/// Longer than any clock jumps.
const KEEP: Duration = Duration::from_secs(30 * 86_400);
/// How often a read begins anew because its bytes were moved.
const MOVED_MAX: usize = 5;

/// An object of such a bucket.
struct Put {
    key: ObjectKey,
    value: u64,
    size: u64,
}

/// The worker of one process.
pub struct Trasher {
    cluster: Rc<Cluster>,
    platform: Platform,
    objects: Objects,
    draw: Draw,
}

fn bucket_name(name: &str) -> BucketName {
    match BucketName::new(name) {
        Ok(name) => name,
        Err(error) => unreachable!("the name is ours: {error}"),
    }
}

fn object_key(number: u64) -> ObjectKey {
    match ObjectKey::new(&format!("o/{number}")) {
        Ok(key) => key,
        Err(error) => unreachable!("the name is ours: {error}"),
    }
}

impl Trasher {
    /// For a process that has just started.
    pub fn new(cluster: Rc<Cluster>, platform: Platform, objects: Objects) -> Trasher {
        let draw = Draw::new(cluster.shape.seed ^ STREAM ^ platform.clock().now().0);
        Trasher { cluster, platform, objects, draw }
    }

    /// One bucket after the other until the cluster says stop.
    pub async fn run(self, mean: Duration) {
        let _running = Running::new(&self.cluster);
        while !self.cluster.stopping.get() {
            self.platform.clock().sleep(self.draw.wait(mean)).await;
            if self.cluster.stopping.get() {
                break;
            }
            match self.bucket().await {
                Ok(()) => {}
                Err(error @ (ObjectError::Unavailable(_) | ObjectError::SlowDown(_))) => {
                    tracing::debug!(%error, "a bucket of the trash is left as it is");
                }
                Err(error) => self.wrong(format!("the trash's worker was told: {error}")),
            }
        }
    }

    fn wrong(&self, what: String) {
        self.cluster.violated(Checker::Answers, what);
    }

    /// The story of one bucket.
    async fn bucket(&self) -> Result<(), ObjectError> {
        let number = self.cluster.trash_buckets.get();
        self.cluster.trash_buckets.set(number + 1);
        let (name, other) = (bucket_name(&format!("trash-{number}")), bucket_name(&format!("restored-{number}")));
        let bucket = self.objects.create_bucket(&name, "owner").await?;
        let mut puts = Vec::new();
        for number in 0..self.draw.between(1, 4) {
            puts.push(self.put(&bucket, number).await?);
        }
        let upload = if self.draw.chance(0.5) { Some(self.begin_upload(&bucket).await?) } else { None };
        let keep = if self.draw.chance(0.2) { Duration::ZERO } else { KEEP };
        match self.objects.trash_bucket(&name, keep).await {
            // The cluster's feature level knows no trash yet.
            Err(ObjectError::Trash(_)) => return Ok(()),
            done => done?,
        };
        self.nobody_reaches(&bucket, &puts[0]).await?;
        if keep.is_zero() {
            return Ok(());
        }
        match self.draw.below(4) {
            0 => Ok(()),
            1 => self.give_up(&bucket).await,
            _ => {
                self.come_back(&name, &bucket, &other).await?;
                let restored = self.objects.bucket(&other).await?;
                if let Some((key, id, put)) = upload {
                    self.end_upload(&restored, &key, &id, &put).await?;
                    puts.push(put);
                }
                for put in &puts {
                    self.read(&restored, put).await?;
                }
                // Its time is over at once.
                self.objects.trash_bucket(&other, Duration::ZERO).await.map(|_| ())
            }
        }
    }

    async fn put(&self, bucket: &BucketInfo, number: u64) -> Result<Put, ObjectError> {
        let put = self.new_value(object_key(number));
        let mut writer = self.objects.writer(bucket, Some(put.size));
        writer.write(content(put.value, put.size as usize)).await?;
        let meta = ObjectMeta { etag: etag(put.value), ..ObjectMeta::default() };
        self.objects.put(bucket, &put.key, writer, meta, &WriteConditions::default()).await?;
        Ok(put)
    }

    fn new_value(&self, key: ObjectKey) -> Put {
        let size = *self.draw.pick(&[100, 5_000, 60_000, 300_000]) >> self.cluster.shape.work.size_shift;
        Put { key, value: self.cluster.history.new_value(size), size }
    }

    async fn begin_upload(&self, bucket: &BucketInfo) -> Result<(ObjectKey, String, Put), ObjectError> {
        let put = self.new_value(object_key(99));
        let upload = self.objects.create_upload(bucket, &put.key, ObjectMeta::default(), "").await?;
        let mut writer = self.objects.writer(bucket, Some(put.size));
        writer.write(content(put.value, put.size as usize)).await?;
        let id = upload.upload_id;
        self.objects.put_part(bucket, &put.key, &id, 1, writer, "part".into(), Default::default()).await?;
        Ok((put.key.clone(), id, put))
    }

    async fn end_upload(&self, bucket: &BucketInfo, key: &ObjectKey, id: &str, put: &Put) -> Result<(), ObjectError> {
        let parts = [CompletePart { number: 1, etag: "part".into(), checksums: Default::default() }];
        let meta = ObjectMeta { etag: etag(put.value), ..ObjectMeta::default() };
        self.objects.complete_upload(bucket, key, id, &parts, meta, &WriteConditions::default()).await?;
        Ok(())
    }

    /// Neither reads nor writes reach what is in the trash, for whoever knows its number.
    async fn nobody_reaches(&self, bucket: &BucketInfo, put: &Put) -> Result<(), ObjectError> {
        match self.objects.head(bucket, &put.key).await {
            Err(ObjectError::NoSuchBucket) => {}
            Ok(_) => self.wrong(format!("{} is read in the trash", bucket.name)),
            Err(error) => return Err(error),
        }
        match self.put(bucket, 7).await {
            Err(ObjectError::NoSuchBucket) => Ok(()),
            Ok(_) => {
                self.wrong(format!("{} is written to in the trash", bucket.name));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn give_up(&self, bucket: &BucketInfo) -> Result<(), ObjectError> {
        self.objects.purge_bucket(bucket.id).await?;
        match self.objects.restore_bucket(bucket.id, None).await {
            Err(ObjectError::Trash(_) | ObjectError::NoSuchBucket) => Ok(()),
            Ok(_) => {
                self.wrong(format!("{} came back though it was given up", bucket.name));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the bucket out of the trash under another name; its own may be somebody else's by now.
    async fn come_back(&self, name: &BucketName, bucket: &BucketInfo, other: &BucketName) -> Result<(), ObjectError> {
        if self.draw.chance(0.3) {
            self.objects.create_bucket(name, "owner").await?;
            match self.objects.restore_bucket(bucket.id, None).await {
                Err(ObjectError::BucketAlreadyExists) => {}
                Ok(_) => self.wrong(format!("two buckets are called {}", bucket.name)),
                Err(error) => return Err(error),
            }
        }
        self.objects.restore_bucket(bucket.id, Some(other)).await?;
        self.platform.reached("bucket is restored");
        Ok(())
    }

    async fn read(&self, bucket: &BucketInfo, put: &Put) -> Result<(), ObjectError> {
        for _ in 0..MOVED_MAX {
            let info = self.objects.head(bucket, &put.key).await?;
            let mut reader = self.objects.open(&info, 0..info.size);
            let mut at = 0;
            let ended = loop {
                match reader.next().await {
                    Ok(None) => break Ok(()),
                    Ok(Some(bytes)) => {
                        if let Some(position) = difference(put.value, at, &bytes) {
                            let what = format!("{}: value {} differs at byte {position}", put.key, put.value);
                            self.cluster.violated(Checker::Bytes, what);
                            return Ok(());
                        }
                        at += bytes.len() as u64;
                    }
                    Err(error) => break Err(error),
                }
            };
            match ended {
                Ok(()) if at == put.size => return Ok(()),
                Ok(()) => {
                    let what = format!("{} of the trash: {at} of {} bytes came", put.key, put.size);
                    self.cluster.violated(Checker::Bytes, what);
                    return Ok(());
                }
                Err(ObjectError::NoSuchKey) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ObjectError::Unavailable("moved again and again while it was read".into()))
    }
}
