//! Buckets in the trash: whole buckets are moved there, taken out again, or given up.

use std::time::Duration;

use proto::meta::{Body as CommandBody, Outcome};
use proto::query::{Ask, AskAll};
use proto::trash::{PurgeBucket, RestoreBucket, TrashBucket, TrashEntry};
use types::names::BucketName;

use super::api::{BucketInfo, ObjectError, TrashedBucket};
use super::{Objects, convert, partition_of};

fn trashed(entry: TrashEntry) -> TrashedBucket {
    TrashedBucket {
        trashed_ms: entry.row.trashed_ms,
        keep_until_ms: entry.row.keep_until_ms,
        is_purging: entry.row.purging,
        objects: entry.objects,
        bytes: entry.bytes,
        has_more: entry.more,
        bucket: convert::bucket(entry.row.bucket),
    }
}

/// The bucket of an outcome; nothing was counted.
fn trashed_now(outcome: Outcome) -> Result<TrashedBucket, ObjectError> {
    let row = outcome.trashed.ok_or_else(|| ObjectError::Unavailable("outcome without a bucket".into()))?;
    Ok(trashed(TrashEntry { row, ..TrashEntry::default() }))
}

impl Objects {
    /// Moves a bucket with all that it holds to the trash, to be kept for that long. From then on
    /// nobody reaches it, and its name is free.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Trash` (the cluster's feature level knows none yet).
    pub async fn trash_bucket(&self, name: &BucketName, keep: Duration) -> Result<TrashedBucket, ObjectError> {
        self.forget_bucket(name.as_str());
        let bucket = self.bucket(name).await?;
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let body = CommandBody::TrashBucket(TrashBucket { name: name.as_str().to_owned(), keep_ms });
        let outcome = self.0.meta.command(partition_of(bucket.id), body).await;
        self.forget_bucket(name.as_str());
        trashed_now(outcome?)
    }

    /// What is in the trash, by number.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_trash(&self) -> Result<Vec<TrashedBucket>, ObjectError> {
        let view = self.0.meta.query(Ask::Trash(AskAll {})).await?;
        Ok(view.trash.into_iter().map(trashed).collect())
    }

    /// Takes a bucket out of the trash, under the name it had or another one.
    ///
    /// # Errors
    /// `NoSuchBucket` (it is not in the trash), `BucketAlreadyExists` (the name is taken), `Trash`
    /// (it is being purged).
    pub async fn restore_bucket(&self, id: u64, name: Option<&BucketName>) -> Result<BucketInfo, ObjectError> {
        let name = name.map(|name| name.as_str().to_owned()).unwrap_or_default();
        let body = CommandBody::RestoreBucket(RestoreBucket { bucket: id, name });
        let outcome = self.0.meta.command(partition_of(id), body).await?;
        let row = outcome.bucket.ok_or_else(|| ObjectError::Unavailable("outcome without a bucket".into()))?;
        self.forget_bucket(&row.name);
        Ok(convert::bucket(row))
    }

    /// Gives a bucket in the trash up: what it holds is removed now.
    ///
    /// # Errors
    /// `NoSuchBucket` (it is not in the trash).
    pub async fn purge_bucket(&self, id: u64) -> Result<TrashedBucket, ObjectError> {
        let body = CommandBody::PurgeBucket(PurgeBucket { bucket: id });
        trashed_now(self.0.meta.command(partition_of(id), body).await?)
    }
}
