//! Objects: put and delete, with their conditions.

use platform::planted::PlantedBug;
use proto::keys;
use proto::meta::{Conditions, DeleteObject, Outcome, PutObject, refusal};
use proto::rows::ObjectRow;
use types::names::KEY_LEN_MAX;

use super::buckets::bucket_row;
use super::txn::Txn;
use super::{Applied, Env, Stop, references, refuse};

/// Decides `If-None-Match: *` and `If-Match` against what is there.
pub(super) fn check(txn: &Txn<'_>, conditions: &Conditions, old: Option<&ObjectRow>) -> Result<(), Stop> {
    if txn.planted(PlantedBug::ConditionBeforeLog) {
        return Ok(());
    }
    if conditions.absent && old.is_some() {
        return refuse(refusal::PRECONDITION, "the key exists");
    }
    if conditions.etag.is_empty() {
        return Ok(());
    }
    match old {
        None => refuse(refusal::NO_KEY, "no such key"),
        Some(old) if conditions.etag == "*" || conditions.etag == old.meta.etag => Ok(()),
        Some(_) => refuse(refusal::PRECONDITION, "the ETag differs"),
    }
}

/// Puts a row in place of the present one and releases what that held.
pub(super) fn replace(
    txn: &mut Txn<'_>,
    env: &Env,
    bucket: u64,
    key: &str,
    row: &ObjectRow,
    old: Option<ObjectRow>,
) -> Result<(), Stop> {
    if let Some(old) = old {
        references::release(txn, env, &old.body)?;
    }
    txn.put(keys::object(env.partition, bucket, key), row);
    Ok(())
}

pub(super) fn put(txn: &mut Txn<'_>, env: &Env, body: &PutObject) -> Applied {
    bucket_row(txn, env, body.bucket)?;
    if body.key.is_empty() || body.key.len() > KEY_LEN_MAX {
        return refuse(refusal::MALFORMED, "key length");
    }
    let old: Option<ObjectRow> = txn.get(&keys::object(env.partition, body.bucket, &body.key))?;
    check(txn, &body.conditions, old.as_ref())?;
    let row = ObjectRow {
        size: body.body.size,
        modified_ms: env.now_ms,
        version: 0,
        meta: body.meta.clone(),
        body: references::take(txn, env, &body.body)?,
        parts: Vec::new(),
        delete_marker: false,
    };
    replace(txn, env, body.bucket, &body.key, &row, old)?;
    Ok(Outcome { object: Some(row), ..Outcome::default() })
}

pub(super) fn delete(txn: &mut Txn<'_>, env: &Env, body: &DeleteObject) -> Applied {
    bucket_row(txn, env, body.bucket)?;
    let key = keys::object(env.partition, body.bucket, &body.key);
    let old: Option<ObjectRow> = txn.get(&key)?;
    check(txn, &body.conditions, old.as_ref())?;
    let existed = old.is_some();
    if let Some(old) = old {
        references::release(txn, env, &old.body)?;
        txn.delete(key);
    }
    Ok(Outcome { existed, ..Outcome::default() })
}
