//! Buckets and access keys.

use proto::keys::{self, Counter};
use proto::meta::{CreateBucket, DeleteAccessKey, DeleteBucket, Outcome, PutAccessKey, refusal};
use proto::rows::{AccessKeyRow, BucketRow};

use super::txn::Txn;
use super::{Applied, Env, Stop, refuse};

/// The bucket of a number, which must lie in the command's partition.
pub(super) fn bucket_row(txn: &Txn<'_>, env: &Env, bucket: u64) -> Result<BucketRow, Stop> {
    let name = txn.get_bytes(&keys::bucket_number(env.partition, bucket))?;
    let row = match name.and_then(|name| String::from_utf8(name).ok()) {
        Some(name) => txn.get::<BucketRow>(&keys::bucket(&name))?,
        None => None,
    };
    match row {
        Some(row) => Ok(row),
        None => refuse(refusal::NO_BUCKET, "no such bucket"),
    }
}

pub(super) fn create(txn: &mut Txn<'_>, env: &Env, body: &CreateBucket) -> Applied {
    if types::names::BucketName::new(&body.name).is_err() || body.owner.is_empty() {
        return refuse(refusal::MALFORMED, "bucket name or owner");
    }
    let key = keys::bucket(&body.name);
    if let Some(row) = txn.get::<BucketRow>(&key)? {
        let code = if row.owner == body.owner { refusal::BUCKET_YOURS } else { refusal::BUCKET_EXISTS };
        return Ok(Outcome { refusal: code, text: "bucket exists".into(), bucket: Some(row), ..Outcome::default() });
    }
    // A bucket's number says its partition, as a chunk's does.
    let id = (u64::from(env.partition.0) << 48) | txn.next(env.partition, Counter::Bucket)?;
    let row = BucketRow {
        id,
        name: body.name.clone(),
        owner: body.owner.clone(),
        created_ms: env.now_ms,
        kind: body.kind,
        versioning: 0,
    };
    remember(txn, env, &row);
    Ok(Outcome { number: id, bucket: Some(row), ..Outcome::default() })
}

/// The bucket of a name, which must lie in the command's partition.
pub(super) fn named(txn: &Txn<'_>, env: &Env, name: &str) -> Result<BucketRow, Stop> {
    match txn.get::<BucketRow>(&keys::bucket(name))? {
        None => refuse(refusal::NO_BUCKET, "no such bucket"),
        Some(row) if (row.id >> 48) as u16 != env.partition.0 => {
            refuse(refusal::MALFORMED, "bucket of another partition")
        }
        Some(row) => Ok(row),
    }
}

/// Makes the bucket found by its name and by its number.
pub(super) fn remember(txn: &mut Txn<'_>, env: &Env, row: &BucketRow) {
    txn.put(keys::bucket(&row.name), row);
    txn.put_bytes(keys::bucket_number(env.partition, row.id), row.name.clone().into_bytes());
}

/// The bucket is found no more.
pub(super) fn forget(txn: &mut Txn<'_>, env: &Env, row: &BucketRow) {
    txn.delete(keys::bucket(&row.name));
    txn.delete(keys::bucket_number(env.partition, row.id));
}

pub(super) fn delete(txn: &mut Txn<'_>, env: &Env, body: &DeleteBucket) -> Applied {
    let row = named(txn, env, &body.name)?;
    let objects = keys::object(env.partition, row.id, "");
    let uploads = keys::uploads(env.partition, row.id);
    if !txn.scan_prefix(&objects, 1)?.is_empty() || !txn.scan_prefix(&uploads, 1)?.is_empty() {
        return refuse(refusal::BUCKET_NOT_EMPTY, "bucket holds objects or unfinished uploads");
    }
    forget(txn, env, &row);
    Ok(Outcome::default())
}

pub(super) fn put_access_key(txn: &mut Txn<'_>, env: &Env, body: &PutAccessKey) -> Applied {
    let key = keys::access_key(&body.access_key);
    if body.access_key.is_empty() || body.access_key.len() > 128 || body.row.user.is_empty() {
        return refuse(refusal::MALFORMED, "access key or user");
    }
    if body.only_first_root {
        for (_, value) in txn.scan_prefix(&[keys::table::ACCESS_KEY], usize::MAX)? {
            let row: AccessKeyRow = super::txn::prost_free::Row::from_bytes(&value)?;
            if row.is_root {
                return refuse(refusal::EXISTS, "there is a root key");
            }
        }
    }
    if txn.get::<AccessKeyRow>(&key)?.is_some() {
        return refuse(refusal::EXISTS, "access key exists");
    }
    txn.put(key, &AccessKeyRow { created_ms: env.now_ms, ..body.row.clone() });
    Ok(Outcome::default())
}

pub(super) fn delete_access_key(txn: &mut Txn<'_>, body: &DeleteAccessKey) -> Applied {
    let key = keys::access_key(&body.access_key);
    let Some(row) = txn.get::<AccessKeyRow>(&key)? else { return refuse(refusal::NO_ACCESS_KEY, "no such access key") };
    if row.is_root {
        let mut roots = 0;
        for (_, value) in txn.scan_prefix(&[keys::table::ACCESS_KEY], usize::MAX)? {
            let row: AccessKeyRow = super::txn::prost_free::Row::from_bytes(&value)?;
            roots += usize::from(row.is_root);
        }
        if roots <= 1 {
            return refuse(refusal::MALFORMED, "the last root key cannot be deleted");
        }
    }
    txn.delete(key);
    Ok(Outcome::default())
}
