//! What clients do: operations on a few keys that everybody writes, and on many that are written
//! once, all noted in the history.
//!
//! An operation whose fate the client does not know stays open in the history for ever.

use std::rc::Rc;

use client::object::Objects;
use client::object::api::{BucketInfo, CompletePart, ListQuery, ObjectError, ObjectMeta, WriteConditions};
use client::object::writer::ObjectWriter;
use platform::Platform;
use platform::clock::Instant;
use types::names::{BucketName, ObjectKey};

use crate::checkers::Checker;
use crate::cluster::{BUCKET, Cluster, Running};
use crate::content::{content, difference, etag, value_of};
use crate::history::{Ask, Operation, Told};

/// How often a read begins anew because its object was replaced in the middle.
const REPLACED_MAX: usize = 5;
/// The smallest part that is not the last, bytes.
const PART_MIN: u64 = 5 << 20;

/// The bucket's name.
pub fn bucket_name() -> BucketName {
    match BucketName::new(BUCKET) {
        Ok(name) => name,
        Err(error) => unreachable!("the name is ours: {error}"),
    }
}

/// One who does operations and notes them.
#[derive(Clone)]
pub struct Actor {
    /// The cluster.
    pub cluster: Rc<Cluster>,
    /// The machine it runs on.
    pub platform: Platform,
    /// The object layer of its process.
    pub objects: Objects,
    /// Its number in the history.
    pub worker: u32,
}

/// A worker: one operation after the other until the cluster says stop.
pub async fn run(cluster: Rc<Cluster>, platform: Platform, objects: Objects, worker: u32) {
    let _running = Running::new(&cluster);
    let actor = Actor { cluster: cluster.clone(), platform, objects, worker };
    while !cluster.stopping.get() {
        actor.platform.clock().sleep(cluster.draw.wait(cluster.shape.work.think)).await;
        if cluster.stopping.get() {
            break;
        }
        cluster.counts.operations.set(cluster.counts.operations.get() + 1);
        if let Err(error) = actor.something().await {
            actor.judge(&error);
        }
    }
}

impl Actor {
    fn now(&self) -> Instant {
        self.platform.clock().now()
    }

    /// A key's name: registers first, then keys that are written once.
    pub fn key(&self, key: u32) -> ObjectKey {
        let registers = self.cluster.shape.work.registers;
        let name = if key < registers { register_name(key) } else { format!("w/{:05}", key - registers) };
        match ObjectKey::new(&name) {
            Ok(key) => key,
            Err(error) => unreachable!("the name is ours: {error}"),
        }
    }

    /// An error that no fault excuses is a violation.
    fn judge(&self, error: &ObjectError) {
        match error {
            ObjectError::Unavailable(_) | ObjectError::SlowDown(_) => tracing::debug!(%error, "operation failed"),
            other => self.cluster.violated(Checker::Answers, format!("worker {} was told: {other}", self.worker)),
        }
    }

    async fn something(&self) -> Result<(), ObjectError> {
        let cluster = &self.cluster;
        let (draw, work) = (&cluster.draw, &cluster.shape.work);
        let bucket = self.objects.bucket(&bucket_name()).await?;
        let register = draw.below(u64::from(work.registers)) as u32;
        let once = |total: u32| work.registers + draw.below(u64::from(total)) as u32;
        match draw.weighted(&work.mix) {
            0 => self.put(&bucket, register, WriteConditions::default(), |value| Ask::Put { value }).await,
            1 => self.conditional_put(&bucket, register).await,
            2 => self.get(&bucket, register).await.map(|_| ()),
            3 => self.delete(&bucket, register).await,
            4 => self.list(&bucket).await,
            5 => {
                let key = work.registers + cluster.once_keys.get();
                cluster.once_keys.set(cluster.once_keys.get() + 1);
                self.put(&bucket, key, WriteConditions::default(), |value| Ask::Put { value }).await
            }
            6 if cluster.once_keys.get() > 0 => {
                let key = once(cluster.once_keys.get());
                if draw.chance(0.1) {
                    self.delete(&bucket, key).await
                } else {
                    self.get(&bucket, key).await.map(|_| ())
                }
            }
            7 => self.upload(&bucket, register).await,
            _ => self.get(&bucket, register).await.map(|_| ()),
        }
    }

    /// A size by the workload's mix.
    fn size(&self) -> u64 {
        let (draw, work) = (&self.cluster.draw, &self.cluster.shape.work);
        match draw.weighted(&work.sizes) {
            0 => 0,
            1 => draw.between(1, 8 << 10),
            2 => draw.between(1 << 10, (100 << 10) >> work.size_shift),
            3 => draw.between(100 << 10, 400 << 10) >> work.size_shift,
            _ => draw.between(300 << 10, work.size_max) >> work.size_shift,
        }
    }

    async fn conditional_put(&self, bucket: &BucketInfo, key: u32) -> Result<(), ObjectError> {
        let seen = self.cluster.seen.borrow().get(&key).copied();
        match seen.filter(|_| self.cluster.draw.chance(0.5)) {
            None => {
                let conditions = WriteConditions { absent: true, etag: None };
                self.put(bucket, key, conditions, |value| Ask::PutAbsent { value }).await
            }
            Some(expected) => {
                let conditions = WriteConditions { absent: false, etag: Some(etag(expected)) };
                self.put(bucket, key, conditions, |value| Ask::PutMatch { value, expected }).await
            }
        }
    }

    async fn fill(&self, writer: &mut ObjectWriter, value: u64, from: u64, to: u64) -> Result<(), ObjectError> {
        let mut bytes = content(value, to as usize).slice(from as usize..);
        while !bytes.is_empty() {
            let len = (self.cluster.draw.between(1 << 10, 512 << 10) as usize).min(bytes.len());
            writer.write(bytes.split_to(len)).await?;
        }
        Ok(())
    }

    /// Puts a new value.
    pub async fn put(
        &self,
        bucket: &BucketInfo,
        key: u32,
        conditions: WriteConditions,
        ask: impl Fn(u64) -> Ask,
    ) -> Result<(), ObjectError> {
        let size = self.size();
        let value = self.cluster.history.new_value(size);
        let mut writer = self.objects.writer(bucket, Some(size));
        self.fill(&mut writer, value, 0, size).await?;
        let meta = ObjectMeta { etag: etag(value), ..ObjectMeta::default() };
        let handle = self.cluster.history.start(self.worker, key, ask(value), self.now());
        let told = match self.objects.put(bucket, &self.key(key), writer, meta, &conditions).await {
            Ok(info) => {
                if info.size != size {
                    self.cluster
                        .violated(Checker::Bytes, format!("put of {size} bytes was answered with {} bytes", info.size));
                }
                self.cluster.seen.borrow_mut().insert(key, value);
                Told::Done
            }
            Err(ObjectError::PreconditionFailed) => Told::Precondition,
            Err(ObjectError::NoSuchKey) => Told::NoKey,
            Err(error) => return Err(error),
        };
        self.cluster.history.end(handle, told, self.now());
        Ok(())
    }

    /// Deletes, sometimes only a value that was seen.
    async fn delete(&self, bucket: &BucketInfo, key: u32) -> Result<(), ObjectError> {
        let seen = self.cluster.seen.borrow().get(&key).copied();
        let (ask, conditions) = match seen.filter(|_| self.cluster.draw.chance(0.3)) {
            Some(expected) => {
                (Ask::DeleteMatch { expected }, WriteConditions { absent: false, etag: Some(etag(expected)) })
            }
            None => (Ask::Delete, WriteConditions::default()),
        };
        let handle = self.cluster.history.start(self.worker, key, ask, self.now());
        let told = match self.objects.delete(bucket, &self.key(key), &conditions).await {
            Ok(existed) => Told::Existed(existed),
            Err(ObjectError::PreconditionFailed) => Told::Precondition,
            Err(ObjectError::NoSuchKey) => Told::NoKey,
            Err(error) => return Err(error),
        };
        self.cluster.history.end(handle, told, self.now());
        Ok(())
    }

    /// Reads a key and all or a part of its bytes, which must be those of the value.
    pub async fn get(&self, bucket: &BucketInfo, key: u32) -> Result<Option<u64>, ObjectError> {
        for _ in 0..REPLACED_MAX {
            let handle = self.cluster.history.start(self.worker, key, Ask::Read, self.now());
            let info = match self.objects.head(bucket, &self.key(key)).await {
                Ok(info) => info,
                Err(ObjectError::NoSuchKey) => {
                    self.cluster.history.end(handle, Told::Value(None), self.now());
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let value = value_of(&info.meta.etag).unwrap_or(0);
            self.cluster.history.end(handle, Told::Value(Some(value)), self.now());
            if self.cluster.history.size_of(value) != Some(info.size) {
                self.cluster.violated(
                    Checker::Bytes,
                    format!("key {key}: value {value} has {} bytes, which nobody wrote", info.size),
                );
                return Ok(None);
            }
            self.cluster.seen.borrow_mut().insert(key, value);
            let whole = self.cluster.draw.chance(0.8);
            let start = if whole { 0 } else { self.cluster.draw.below(info.size + 1) };
            let end = if whole { info.size } else { self.cluster.draw.between(start, info.size) };
            let mut reader = self.objects.open(&info, start..end);
            let mut at = start;
            let outcome = loop {
                match reader.next().await {
                    Ok(None) => break Ok(()),
                    Ok(Some(bytes)) => {
                        if let Some(position) = difference(value, at, &bytes) {
                            self.cluster.violated(
                                Checker::Bytes,
                                format!("key {key}: value {value} differs at byte {position} of {}", info.size),
                            );
                            return Ok(None);
                        }
                        at += bytes.len() as u64;
                    }
                    Err(error) => break Err(error),
                }
            };
            match outcome {
                Ok(()) if at == end => return Ok(Some(value)),
                Ok(()) => {
                    self.cluster
                        .violated(Checker::Bytes, format!("key {key}: {} of {} bytes came", at - start, end - start));
                    return Ok(None);
                }
                // Replaced between its row and its bytes: there must be something newer.
                Err(ObjectError::NoSuchKey) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ObjectError::Unavailable("replaced again and again while it was read".into()))
    }

    /// Lists the registers, in pages; each page is one look at its part of the names.
    pub async fn list(&self, bucket: &BucketInfo) -> Result<(), ObjectError> {
        let max_keys = self.cluster.draw.between(1, 8) as usize;
        let registers = self.cluster.shape.work.registers;
        let mut after = String::new();
        loop {
            let start = self.now();
            let query = ListQuery { prefix: "r/".into(), delimiter: String::new(), after: after.clone(), max_keys };
            let page = self.objects.list(bucket, &query).await?;
            let end = self.now();
            for key in 0..registers {
                let name = register_name(key);
                let behind = page.truncated && name > page.next_after;
                if name <= after || behind {
                    continue;
                }
                let row = page.objects.iter().find(|row| row.key == name);
                let value = row.map(|row| value_of(&row.etag).unwrap_or(u64::MAX));
                let told = Some(Told::Value(value));
                self.cluster.history.note(Operation {
                    worker: self.worker,
                    key,
                    ask: Ask::Read,
                    start,
                    end: Some(end),
                    told,
                });
            }
            if !page.truncated {
                return Ok(());
            }
            if page.next_after <= after {
                self.cluster.violated(Checker::Answers, format!("listing does not go on behind {after:?}"));
                return Ok(());
            }
            after = page.next_after;
        }
    }

    /// A multipart upload: one part as a rule, since others have at least 5 MiB.
    async fn upload(&self, bucket: &BucketInfo, key: u32) -> Result<(), ObjectError> {
        let draw = &self.cluster.draw;
        let last = self.size();
        let first = if draw.chance(0.03) { PART_MIN } else { 0 };
        let value = self.cluster.history.new_value(first + last);
        let name = self.key(key);
        let upload = self.objects.create_upload(bucket, &name, ObjectMeta::default(), "").await?;
        let id = &upload.upload_id;
        let mut parts = Vec::new();
        for (number, from, to) in [(1, 0, first), (7, first, first + last)] {
            if number == 1 && first == 0 {
                continue;
            }
            let part_etag = format!("part-{value}-{number}");
            if draw.chance(0.2) {
                // Replaced by the one below.
                let mut writer = self.objects.writer(bucket, None);
                self.fill(&mut writer, value, 0, last.min(50_000)).await?;
                self.objects.put_part(bucket, &name, id, number, writer, "old".into(), Default::default()).await?;
            }
            let mut writer = self.objects.writer(bucket, Some(to - from));
            self.fill(&mut writer, value, from, to).await?;
            self.objects.put_part(bucket, &name, id, number, writer, part_etag.clone(), Default::default()).await?;
            parts.push(CompletePart { number, etag: part_etag, checksums: Default::default() });
        }
        if draw.chance(0.15) {
            return self.objects.abort_upload(bucket, &name, id).await;
        }
        let meta = ObjectMeta { etag: etag(value), ..ObjectMeta::default() };
        let handle = self.cluster.history.start(self.worker, key, Ask::Put { value }, self.now());
        self.objects.complete_upload(bucket, &name, id, &parts, meta, &WriteConditions::default()).await?;
        self.cluster.history.end(handle, Told::Done, self.now());
        Ok(())
    }
}

fn register_name(key: u32) -> String {
    format!("r/{key:02}")
}
