//! Multipart uploads. Completing one is this command alone; no bytes move.

use std::collections::BTreeMap;

use proto::keys::{self, Counter};
use proto::meta::{AbortUpload, CompleteUpload, CreateUpload, Outcome, PutPart, refusal};
use proto::rows::{BodyRow, ObjectRow, PartBound, PartRow, UploadRow};
use types::names::KEY_LEN_MAX;

use super::buckets::bucket_row;
use super::objects::{check, replace};
use super::txn::Txn;
use super::txn::prost_free::Row;
use super::{Applied, Env, Stop, references, refuse};

/// The smallest part that is not the last, bytes.
const PART_MIN: u64 = 5 << 20;
/// The highest part number.
const PART_NUMBER_MAX: u32 = 10_000;

/// The upload, which may lie in a bucket that is in the trash: then it is refused like the bucket.
fn upload_row(txn: &Txn<'_>, env: &Env, bucket: u64, key: &str, upload: u64) -> Result<UploadRow, Stop> {
    match txn.get(&keys::upload(env.partition, bucket, key, upload))? {
        Some(row) => bucket_row(txn, env, bucket).map(|_| row),
        None => refuse(refusal::NO_UPLOAD, "no such upload"),
    }
}

pub(super) fn create(txn: &mut Txn<'_>, env: &Env, body: &CreateUpload) -> Applied {
    bucket_row(txn, env, body.bucket)?;
    if body.key.is_empty() || body.key.len() > KEY_LEN_MAX {
        return refuse(refusal::MALFORMED, "key length");
    }
    let upload = txn.next(env.partition, Counter::Upload)?;
    let row = UploadRow {
        key: body.key.clone(),
        created_ms: env.now_ms,
        meta: body.meta.clone(),
        checksum_kind: body.checksum_kind.clone(),
    };
    txn.put(keys::upload(env.partition, body.bucket, &body.key, upload), &row);
    Ok(Outcome { number: upload, upload: Some(row), ..Outcome::default() })
}

pub(super) fn put_part(txn: &mut Txn<'_>, env: &Env, body: &PutPart) -> Applied {
    upload_row(txn, env, body.bucket, &body.key, body.upload)?;
    if body.number == 0 || body.number > PART_NUMBER_MAX {
        return refuse(refusal::MALFORMED, "part number");
    }
    let key = keys::part(env.partition, body.upload, body.number);
    if let Some(old) = txn.get::<PartRow>(&key)? {
        references::release(txn, env, &old.body)?;
    }
    let row = PartRow {
        size: body.body.size,
        etag: body.etag.clone(),
        modified_ms: env.now_ms,
        checksums: body.checksums.clone(),
        body: references::take(txn, env, &body.body)?,
    };
    txn.put(key, &row);
    let mut told = row;
    told.body = BodyRow::default();
    Ok(Outcome { part: Some(told), ..Outcome::default() })
}

pub(super) fn complete(txn: &mut Txn<'_>, env: &Env, body: &CompleteUpload) -> Applied {
    let object_key = keys::object(env.partition, body.bucket, &body.key);
    let upload = upload_row(txn, env, body.bucket, &body.key, body.upload)?;
    let mut stored = BTreeMap::new();
    for (key, value) in txn.scan_prefix(&keys::parts(env.partition, body.upload), usize::MAX)? {
        stored.insert(keys::part_of(&key).unwrap_or(0), (key, PartRow::from_bytes(&value)?));
    }
    let mut object_body = BodyRow::default();
    let mut parts = Vec::new();
    let mut size = 0;
    let mut before = 0;
    if body.parts.is_empty() {
        return refuse(refusal::MALFORMED, "no parts");
    }
    for (at, named) in body.parts.iter().enumerate() {
        if named.number <= before {
            return refuse(refusal::PART_ORDER, "parts are not in ascending order");
        }
        before = named.number;
        let Some((_, part)) = stored.get(&named.number) else {
            return refuse(refusal::INVALID_PART, named.number.to_string());
        };
        let differs = named
            .checksums
            .iter()
            .any(|sum| part.checksums.iter().any(|stored| stored.name == sum.name && stored.value != sum.value));
        if part.etag != named.etag || differs {
            return refuse(refusal::INVALID_PART, named.number.to_string());
        }
        if part.size < PART_MIN && at + 1 < body.parts.len() {
            return refuse(refusal::PART_TOO_SMALL, format!("{} {}", named.number, part.size));
        }
        size += part.size;
        parts.push(PartBound { number: named.number, size: part.size });
    }
    let old: Option<ObjectRow> = txn.get(&object_key)?;
    check(txn, &body.conditions, old.as_ref())?;
    for named in &body.parts {
        let Some((key, part)) = stored.remove(&named.number) else { continue };
        txn.delete(key);
        object_body.blobs.extend(part.body.blobs);
    }
    for (_, (key, part)) in stored {
        references::release(txn, env, &part.body)?;
        txn.delete(key);
    }
    txn.delete(keys::upload(env.partition, body.bucket, &body.key, body.upload));
    let mut meta = body.meta.clone();
    meta.content = upload.meta.content;
    meta.user = upload.meta.user;
    meta.owner = upload.meta.owner;
    meta.storage_class = upload.meta.storage_class;
    let row =
        ObjectRow { size, modified_ms: env.now_ms, version: 0, meta, body: object_body, parts, delete_marker: false };
    replace(txn, env, body.bucket, &body.key, &row, old)?;
    // The outcome is kept for retries: 10,000 blobs need not be told twice.
    let mut told = row;
    told.body = BodyRow::default();
    Ok(Outcome { object: Some(told), ..Outcome::default() })
}

pub(super) fn abort(txn: &mut Txn<'_>, env: &Env, body: &AbortUpload) -> Applied {
    upload_row(txn, env, body.bucket, &body.key, body.upload)?;
    for (key, value) in txn.scan_prefix(&keys::parts(env.partition, body.upload), usize::MAX)? {
        references::release(txn, env, &PartRow::from_bytes(&value)?.body)?;
        txn.delete(key);
    }
    txn.delete(keys::upload(env.partition, body.bucket, &body.key, body.upload));
    Ok(Outcome::default())
}
