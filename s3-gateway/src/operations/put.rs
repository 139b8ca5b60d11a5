//! PutObject: stream, check, commit.

use client::object::api::{BucketInfo, ObjectError, WriteConditions};
use types::names::ObjectKey;

use crate::body::{checksum, receive};
use crate::errors::{Code, S3Error, S3Result};
use crate::gateway::Call;
use crate::headers;
use crate::http::reply::Reply;

/// `PUT /BUCKET/KEY`.
pub async fn object(call: &mut Call) -> S3Result<Reply> {
    let conditions = headers::write_conditions(&call.parts.headers)?;
    let expected = receive::expected(&call.parts.headers)?;
    let key = call.key()?;
    let bucket = call.bucket().await?;
    let mut meta = headers::object_meta(&call.parts.headers, &bucket.owner)?;
    let mut payload = call.payload()?;
    let gateway = call.gateway.clone();
    let mut writer = call.gateway.objects.writer(&bucket, Some(payload.whole_len()));
    let received = receive::into_writer(&gateway, &mut payload, &mut writer, &expected, None).await?;
    meta.etag = received.etag;
    meta.checksums = received.checksums;
    if !meta.checksums.is_empty() {
        meta.checksum_type = checksum::FULL_OBJECT.to_owned();
    }
    let info = call.gateway.objects.put(&bucket, &key, writer, meta, &conditions).await;
    let info = match info {
        Ok(info) => info,
        Err(error) => return Err(refusal(call, error, &bucket, &key, &conditions).await),
    };
    let mut reply = Reply::ok().with("etag", &format!("\"{}\"", info.meta.etag));
    headers::checksum_headers(&mut reply.headers, &info.meta.checksums, &info.meta.checksum_type);
    Ok(reply)
}

/// A failed condition says which: `If-Match` on an absent key is NoSuchKey, as AWS has it.
pub async fn refusal(
    call: &Call,
    error: ObjectError,
    bucket: &BucketInfo,
    key: &ObjectKey,
    conditions: &WriteConditions,
) -> S3Error {
    if !matches!(error, ObjectError::PreconditionFailed) {
        return error.into();
    }
    let condition = if conditions.absent { "If-None-Match" } else { "If-Match" };
    if conditions.etag.is_some() && matches!(call.gateway.objects.head(bucket, key).await, Err(ObjectError::NoSuchKey))
    {
        return Code::NoSuchKey.into();
    }
    S3Error::from(Code::PreconditionFailed).field("Condition", condition)
}
