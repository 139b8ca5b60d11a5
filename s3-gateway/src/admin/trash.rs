//! The trash in the admin API.
//!
//! ```text
//! GET  /v1/trash                                              the buckets in it
//! POST /v1/trash          {"bucket":NAME,"keep_days":..}      moves a bucket there with all it holds
//! POST /v1/trash/restore  {"bucket":NAME or ID,"as":NAME}     takes one out again
//! POST /v1/trash/purge    {"bucket":NAME or ID}               gives one up before its time
//! ```
//!
//! With `"dry_run":true` they answer what they would do. All for the root user only; each change is
//! logged with who asked for it. An id is `PARTITION:NUMBER`, which no bucket can be called.

use std::time::Duration;

use client::object::api::{ObjectError, TrashedBucket};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use types::names::BucketName;

use super::{Admin, Refusal, refusal};
use crate::auth::Authenticated;
use crate::dates;

/// Where changes are logged.
const LOG: &str = "bixi::admin";
/// The longest time a bucket is kept, days.
const KEEP_DAYS_MAX: f64 = 36_525.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrashBody {
    bucket: String,
    keep_days: Option<f64>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreBody {
    bucket: String,
    #[serde(default, rename = "as")]
    new_name: String,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeBody {
    bucket: String,
    #[serde(default)]
    dry_run: bool,
}

/// Days as time, if they are a time for which a bucket can be kept.
pub fn keep_time(days: f64) -> Option<Duration> {
    (0.0..=KEEP_DAYS_MAX).contains(&days).then(|| Duration::from_secs_f64(days * 86_400.0))
}

/// Whether a path is one of these.
pub(super) fn is_here(path: &str) -> bool {
    matches!(path, "/v1/trash" | "/v1/trash/restore" | "/v1/trash/purge")
}

/// Carries a request out; `None` if the path takes no such method.
pub(super) async fn answer(
    admin: &Admin,
    who: &Authenticated,
    method: &Method,
    path: &str,
    body: &[u8],
) -> Result<Option<Value>, Refusal> {
    Ok(Some(match (method.as_str(), path) {
        ("GET", "/v1/trash") => {
            let buckets: Vec<Value> = admin.objects.list_trash().await?.iter().map(counted).collect();
            json!({ "schema": 1, "buckets": buckets })
        }
        ("POST", "/v1/trash") => put_in(admin, who, parsed(body)?).await?,
        ("POST", "/v1/trash/restore") => restore(admin, who, parsed(body)?).await?,
        ("POST", "/v1/trash/purge") => purge(admin, who, parsed(body)?).await?,
        _ => return Ok(None),
    }))
}

async fn put_in(admin: &Admin, who: &Authenticated, asked: TrashBody) -> Result<Value, Refusal> {
    let name = bucket_name(&asked.bucket)?;
    let keep = match asked.keep_days {
        None => admin.hooks.trash_keep,
        Some(days) => keep_time(days).ok_or_else(|| bad("a bucket is kept for 0 to 36525 days"))?,
    };
    if asked.dry_run {
        let bucket = admin.objects.bucket(&name).await.map_err(|error| refused(error, &asked.bucket))?;
        return Ok(json!({ "id": id(bucket.id), "name": bucket.name, "keep_seconds": keep.as_secs() }));
    }
    let done = admin.objects.trash_bucket(&name, keep).await.map_err(|error| refused(error, &asked.bucket))?;
    let (bucket, by) = (&done.bucket, &who.identity);
    let until = dates::iso8601(done.keep_until_ms);
    tracing::info!(target: LOG, user = %by.user, access_key = %by.access_key, bucket = %bucket.name, id = %id(bucket.id),
        kept_until = %until, "a bucket went to the trash with all it holds");
    Ok(shown(&done))
}

async fn restore(admin: &Admin, who: &Authenticated, asked: RestoreBody) -> Result<Value, Refusal> {
    let found = chosen(admin.objects.list_trash().await?, &asked.bucket)?;
    let new_name = if asked.new_name.is_empty() { &found.bucket.name } else { &asked.new_name };
    let name = bucket_name(new_name)?;
    if asked.dry_run {
        if found.is_purging {
            return Err(conflict("the bucket is being purged, a part of it is gone"));
        }
        return match admin.objects.bucket(&name).await {
            Ok(_) => Err(refused(ObjectError::BucketAlreadyExists, new_name)),
            Err(ObjectError::NoSuchBucket) => Ok(json!({ "id": id(found.bucket.id), "name": new_name })),
            Err(error) => Err(error.into()),
        };
    }
    let restored = admin.objects.restore_bucket(found.bucket.id, Some(&name)).await;
    let bucket = restored.map_err(|error| refused(error, new_name))?;
    let (id, by) = (id(bucket.id), &who.identity);
    tracing::info!(target: LOG, user = %by.user, access_key = %by.access_key, bucket = %found.bucket.name, %id,
        name = %bucket.name, "a bucket was restored from the trash");
    Ok(json!({ "id": id, "name": bucket.name, "was": found.bucket.name, "owner": bucket.owner, "state": "restored" }))
}

async fn purge(admin: &Admin, who: &Authenticated, asked: PurgeBody) -> Result<Value, Refusal> {
    let found = chosen(admin.objects.list_trash().await?, &asked.bucket)?;
    if asked.dry_run {
        return Ok(counted(&found));
    }
    let done = admin.objects.purge_bucket(found.bucket.id).await.map_err(|error| refused(error, &asked.bucket))?;
    let (id, by) = (id(found.bucket.id), &who.identity);
    tracing::info!(target: LOG, user = %by.user, access_key = %by.access_key, bucket = %found.bucket.name, %id,
        objects = found.objects, "a bucket in the trash was given up");
    Ok(shown(&done))
}

/// The one in the trash that a name or an id stands for.
fn chosen(trash: Vec<TrashedBucket>, wanted: &str) -> Result<TrashedBucket, Refusal> {
    let is_wanted = |one: &TrashedBucket| one.bucket.name == wanted || id(one.bucket.id) == wanted;
    // What is being purged already is meant only if there is nothing else.
    let (purging, mut kept): (Vec<_>, Vec<_>) = trash.into_iter().filter(is_wanted).partition(|one| one.is_purging);
    if kept.len() > 1 {
        let told = |one: &TrashedBucket| format!("{} (deleted {})", id(one.bucket.id), dates::iso8601(one.trashed_ms));
        let ids: Vec<String> = kept.iter().map(told).collect();
        let text =
            format!("{} buckets in the trash were called {wanted}; name one by its id: {}", kept.len(), ids.join(", "));
        return Err(conflict(&text));
    }
    let found = kept.pop().or_else(|| purging.into_iter().next());
    found.ok_or_else(|| {
        let text = format!("there is no bucket {wanted} in the trash; bixi bucket trash lists what is");
        refusal(StatusCode::NOT_FOUND, "NoSuchBucket", &text)
    })
}

/// A bucket's number as people are told it.
fn id(bucket: u64) -> String {
    format!("{}:{}", bucket >> 48, bucket & ((1 << 48) - 1))
}

fn shown(one: &TrashedBucket) -> Value {
    json!({
        "id": id(one.bucket.id),
        "name": one.bucket.name,
        "owner": one.bucket.owner,
        "created_ms": one.bucket.created_ms,
        "deleted_ms": one.trashed_ms,
        "kept_until_ms": one.keep_until_ms,
        "state": if one.is_purging { "purging" } else { "kept" },
    })
}

fn counted(one: &TrashedBucket) -> Value {
    let mut tree = shown(one);
    tree["objects"] = one.objects.into();
    tree["bytes"] = one.bytes.into();
    tree["counted_all"] = (!one.has_more).into();
    tree
}

fn refused(error: ObjectError, name: &str) -> Refusal {
    match error {
        ObjectError::NoSuchBucket => {
            refusal(StatusCode::NOT_FOUND, "NoSuchBucket", &format!("there is no bucket {name}"))
        }
        ObjectError::BucketAlreadyExists => {
            conflict(&format!("there is a bucket {name}; restore it under another name with --as"))
        }
        ObjectError::Trash(text) => conflict(&text),
        error => error.into(),
    }
}

fn conflict(text: &str) -> Refusal {
    refusal(StatusCode::CONFLICT, "Conflict", text)
}

fn bad(text: &str) -> Refusal {
    refusal(StatusCode::BAD_REQUEST, "InvalidRequest", text)
}

fn bucket_name(name: &str) -> Result<BucketName, Refusal> {
    BucketName::new(name).map_err(|error| bad(&error.to_string()))
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| bad(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use client::object::api::{BucketInfo, TrashedBucket};
    use http::StatusCode;

    use super::{chosen, id, keep_time};

    fn trashed(number: u64, name: &str, is_purging: bool) -> TrashedBucket {
        let bucket = BucketInfo { name: name.into(), id: number, owner: "u".into(), created_ms: 1 };
        TrashedBucket { bucket, trashed_ms: 2, keep_until_ms: 3, is_purging, objects: 0, bytes: 0, has_more: false }
    }

    #[test]
    fn a_name_that_two_had_is_asked_for_by_its_id() {
        let one = (5 << 48) | 3;
        let trash =
            || vec![trashed(one, "a", false), trashed(9, "a", false), trashed(10, "b", true), trashed(11, "b", false)];
        let number = |wanted: &str| chosen(trash(), wanted).ok().map(|found| found.bucket.id);
        assert_eq!(number("5:3"), Some(one));
        assert_eq!(number("0:9"), Some(9));
        let Err(denied) = chosen(trash(), "a") else { panic!("two were called so") };
        assert_eq!(denied.status, StatusCode::CONFLICT);
        assert!(denied.message.contains(&id(one)) && denied.message.contains("0:9"), "{}", denied.message);
        assert_eq!(number("b"), Some(11), "the other one is being purged");
        assert_eq!(chosen(vec![trashed(10, "b", true)], "b").ok().map(|found| found.bucket.id), Some(10));
        let Err(denied) = chosen(trash(), "c") else { panic!("nothing was called so") };
        assert_eq!(denied.status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn only_days_that_are_a_time_are_taken() {
        assert_eq!(keep_time(0.5).map(|time| time.as_secs()), Some(43_200));
        assert_eq!(keep_time(0.0).map(|time| time.as_secs()), Some(0));
        for days in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert_eq!(keep_time(days), None, "{days}");
        }
    }
}
