//! Buckets in the trash: moved there whole, taken out again, or removed page by page.
//!
//! A bucket in the trash has neither a row by name nor one by number, so every command that carries
//! its number is refused like one for a bucket that never was. Objects, uploads, parts, blobs and
//! references stay untouched under its number. Invariants: while a bucket is in the trash nothing
//! is added under its number; once a page of it was removed it cannot be restored.

use bytes::Bytes;
use proto::keys;
use proto::meta::{Outcome, refusal};
use proto::rows::{BucketRow, ObjectRow, PartRow, TrashRow};
use proto::trash::{PurgeBucket, PurgePage, RestoreBucket, TrashBucket};
use types::names::BucketName;

use super::txn::Txn;
use super::txn::prost_free::Row;
use super::{Applied, Env, Stop, buckets, references, refuse};

/// The longest time a bucket is kept: a hundred years.
const KEEP_MS_MAX: u64 = 36_525 * 86_400_000;
/// Rows of a table that a page looks at.
const PAGE_ROWS: usize = 128;
/// Rows and extents that a page removes before it ends. An object goes whole, however many it has.
const PAGE_WORK: usize = 1024;

fn trash_row(txn: &Txn<'_>, env: &Env, bucket: u64) -> Result<TrashRow, Stop> {
    match txn.get(&keys::trash(env.partition, bucket))? {
        Some(row) => Ok(row),
        None => refuse(refusal::NO_BUCKET, "no such bucket in the trash"),
    }
}

pub(super) fn put_in(txn: &mut Txn<'_>, env: &Env, body: &TrashBucket) -> Applied {
    let bucket = buckets::named(txn, env, &body.name)?;
    if body.keep_ms > KEEP_MS_MAX {
        return refuse(refusal::MALFORMED, "a bucket is kept for a hundred years at most");
    }
    buckets::forget(txn, env, &bucket);
    let row = TrashRow {
        trashed_ms: env.now_ms,
        keep_until_ms: env.now_ms.saturating_add(body.keep_ms),
        purging: false,
        purged_upto: Bytes::new(),
        bucket,
    };
    txn.put(keys::trash(env.partition, row.bucket.id), &row);
    Ok(Outcome { number: row.bucket.id, trashed: Some(row), ..Outcome::default() })
}

pub(super) fn restore(txn: &mut Txn<'_>, env: &Env, body: &RestoreBucket) -> Applied {
    let row = trash_row(txn, env, body.bucket)?;
    if row.purging {
        return refuse(refusal::TRASH, "the bucket is being purged, a part of it is gone");
    }
    let name = if body.name.is_empty() { row.bucket.name.clone() } else { body.name.clone() };
    if let Err(error) = BucketName::new(&name) {
        return refuse(refusal::MALFORMED, error.to_string());
    }
    if txn.get::<BucketRow>(&keys::bucket(&name))?.is_some() {
        return refuse(refusal::BUCKET_EXISTS, format!("there is a bucket {name}"));
    }
    let bucket = BucketRow { name, ..row.bucket };
    buckets::remember(txn, env, &bucket);
    txn.delete(keys::trash(env.partition, bucket.id));
    Ok(Outcome { number: bucket.id, bucket: Some(bucket), ..Outcome::default() })
}

pub(super) fn purge(txn: &mut Txn<'_>, env: &Env, body: &PurgeBucket) -> Applied {
    let row = TrashRow { purging: true, ..trash_row(txn, env, body.bucket)? };
    txn.put(keys::trash(env.partition, body.bucket), &row);
    Ok(Outcome { number: body.bucket, trashed: Some(row), ..Outcome::default() })
}

pub(super) fn purge_page(txn: &mut Txn<'_>, env: &Env, body: &PurgePage) -> Applied {
    let mut row = trash_row(txn, env, body.bucket)?;
    if !row.purging && env.now_ms < row.keep_until_ms {
        return refuse(refusal::TRASH, "the bucket is to be kept");
    }
    row.purging = true;
    let mut page = Page { work: 0, upto: std::mem::take(&mut row.purged_upto) };
    let is_gone = page.objects(txn, env, body.bucket)? && page.uploads(txn, env, body.bucket)?;
    let key = keys::trash(env.partition, body.bucket);
    if is_gone {
        txn.delete(key);
    } else {
        row.purged_upto = page.upto;
        txn.put(key, &row);
    }
    Ok(Outcome { number: body.bucket, existed: !is_gone, ..Outcome::default() })
}

/// What a page has done so far. Objects lie before uploads in the order of keys, so that one key
/// tells how far it is: the rows before it are not looked at again.
struct Page {
    work: usize,
    upto: Bytes,
}

impl Page {
    /// Removes objects; answers whether none is left.
    fn objects(&mut self, txn: &mut Txn<'_>, env: &Env, bucket: u64) -> Result<bool, Stop> {
        let prefix = keys::object(env.partition, bucket, "");
        let rows = txn.scan_prefix_from(&prefix, &self.upto, PAGE_ROWS)?;
        let is_last = rows.len() < PAGE_ROWS;
        for (key, value) in rows {
            if self.work >= PAGE_WORK {
                return Ok(false);
            }
            self.work += 1 + references::release(txn, env, &ObjectRow::from_bytes(&value)?.body)?;
            self.remove(txn, key);
        }
        Ok(is_last)
    }

    /// Removes uploads with their parts; answers whether none is left.
    fn uploads(&mut self, txn: &mut Txn<'_>, env: &Env, bucket: u64) -> Result<bool, Stop> {
        let prefix = keys::uploads(env.partition, bucket);
        let rows = txn.scan_prefix_from(&prefix, &self.upto, PAGE_ROWS)?;
        let is_last = rows.len() < PAGE_ROWS;
        for (key, _) in rows {
            let parts = keys::parts(env.partition, keys::upload_of(&key).unwrap_or(0));
            for (part_key, value) in txn.scan_prefix(&parts, PAGE_WORK)? {
                if self.work >= PAGE_WORK {
                    return Ok(false);
                }
                self.work += 1 + references::release(txn, env, &PartRow::from_bytes(&value)?.body)?;
                txn.delete(part_key);
            }
            if self.work >= PAGE_WORK {
                return Ok(false);
            }
            self.work += 1;
            self.remove(txn, key);
        }
        Ok(is_last)
    }

    fn remove(&mut self, txn: &mut Txn<'_>, key: Vec<u8>) {
        let mut next = key.clone();
        next.push(0);
        self.upto = Bytes::from(next);
        txn.delete(key);
    }
}
