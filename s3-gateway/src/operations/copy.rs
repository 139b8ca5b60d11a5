//! CopyObject and UploadPartCopy: the bytes stream from a reader into a writer.
//!
//! Access is decided on both ends: the caller must be allowed to touch source and destination.

use std::ops::Range;

use bytes::Bytes;
use client::object::api::{ObjectInfo, ObjectMeta};
use client::object::writer::ObjectWriter;
use crypto::hash::{base64_encode, hex_encode};
use types::names::{BucketName, ObjectKey};

use crate::body::checksum::{self, ChecksumKind};
use crate::body::hashing::{HashPipeline, Hashes};
use crate::body::payload::BODY_MAX;
use crate::body::receive::Received;
use crate::conditions::Verdict;
use crate::errors::{Code, S3Error, S3Result, invalid_argument};
use crate::gateway::Call;
use crate::headers;
use crate::http::reply::Reply;
use crate::operations::get::part_number;
use crate::operations::put::refusal;
use crate::range;
use crate::uri;
use crate::xml::write::Writer;

/// `PUT /BUCKET/KEY` with `x-amz-copy-source`.
pub async fn object(call: &mut Call) -> S3Result<Reply> {
    let conditions = headers::write_conditions(&call.parts.headers)?;
    let key = call.key()?;
    let bucket = call.bucket().await?;
    let (source_name, source_key, info) = source(call).await?;
    let replace = replaces_metadata(call)?;
    let same = source_name.as_str() == bucket.name && source_key == key;
    let wanted_kind = call.header("x-amz-checksum-algorithm")?.map(checksum::named).transpose()?;
    if same && !replace && wanted_kind.is_none() {
        return Err(S3Error::new(
            Code::InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    if info.size > BODY_MAX {
        return Err(S3Error::new(
            Code::InvalidRequest,
            format!(
                "The specified copy source is larger than the maximum allowable size for a copy source: {BODY_MAX}"
            ),
        ));
    }
    let mut meta = if replace {
        headers::object_meta(&call.parts.headers, &bucket.owner)?
    } else {
        ObjectMeta {
            content: info.meta.content.clone(),
            user: info.meta.user.clone(),
            owner: bucket.owner.clone(),
            ..ObjectMeta::default()
        }
    };
    let stored_kind = info.meta.checksums.keys().find_map(|kind| ChecksumKind::by_name(kind));
    let mut writer = call.gateway.objects.writer(&bucket, Some(info.size));
    let copied = stream(call, &info, 0..info.size, &mut writer, wanted_kind.or(stored_kind)).await?;
    meta.etag = copied.etag;
    meta.checksums = copied.checksums;
    if !meta.checksums.is_empty() {
        meta.checksum_type = checksum::FULL_OBJECT.to_owned();
    }
    let made = match call.gateway.objects.put(&bucket, &key, writer, meta, &conditions).await {
        Ok(made) => made,
        Err(error) => return Err(refusal(call, error, &bucket, &key, &conditions).await),
    };
    let mut document = Writer::with_root("CopyObjectResult", 256);
    document.etag("ETag", &made.meta.etag).time("LastModified", made.modified_ms);
    checksums(&mut document, &made.meta.checksums);
    document.optional("ChecksumType", Some(made.meta.checksum_type.as_str()).filter(|text| !text.is_empty()));
    Ok(Reply::xml(document.finish("CopyObjectResult")))
}

/// `PUT /BUCKET/KEY?partNumber&uploadId` with `x-amz-copy-source`.
pub async fn part(call: &mut Call) -> S3Result<Reply> {
    let key = call.key()?;
    let number = part_number(&call.target.query)?.ok_or(Code::InvalidArgument)?;
    let upload_id = call.target.query.get("uploadId").unwrap_or("").to_owned();
    let bucket = call.bucket().await?;
    let upload = call.gateway.objects.upload(&bucket, &key, &upload_id).await?;
    let (_, _, info) = source(call).await?;
    let range = match call.header("x-amz-copy-source-range")? {
        None => 0..info.size,
        Some(text) => source_range(text, info.size)?,
    };
    if range.end - range.start > BODY_MAX {
        return Err(Code::EntityTooLarge.into());
    }
    let kind = ChecksumKind::by_name(&upload.checksum_kind);
    let mut writer = call.gateway.objects.writer(&bucket, Some(range.end - range.start));
    let copied = stream(call, &info, range, &mut writer, kind).await?;
    let objects = &call.gateway.objects;
    let made = objects.put_part(&bucket, &key, &upload_id, number, writer, copied.etag, copied.checksums).await?;
    let mut document = Writer::with_root("CopyPartResult", 256);
    document.etag("ETag", &made.etag).time("LastModified", made.modified_ms);
    checksums(&mut document, &made.checksums);
    Ok(Reply::xml(document.finish("CopyPartResult")))
}

/// Writes checksums as elements.
pub fn checksums(document: &mut Writer, checksums: &std::collections::BTreeMap<String, String>) {
    for (kind, value) in checksums {
        if let Some(kind) = ChecksumKind::by_name(kind) {
            document.text(kind.element(), value);
        }
    }
}

/// Finds the source, checks access to it and the conditions on it.
async fn source(call: &Call) -> S3Result<(BucketName, ObjectKey, ObjectInfo)> {
    let header = call.parts.headers.get("x-amz-copy-source").map(http::HeaderValue::as_bytes).unwrap_or(b"");
    let text = std::str::from_utf8(header).unwrap_or("");
    let (bucket, key) = read_source(text)?;
    let expected_owner = call.header("x-amz-source-expected-bucket-owner")?;
    let info = call.open_bucket(&bucket, expected_owner).await?;
    let info = call.gateway.objects.head(&info, &key).await.map_err(|error| {
        let error = S3Error::from(error);
        if error.code == Code::NoSuchKey { error.field("Key", key.as_str()) } else { error }
    })?;
    let conditions = headers::source_conditions(&call.parts.headers)?;
    match conditions.check(&info.meta.etag, info.modified_ms) {
        Verdict::Go => Ok((bucket, key, info)),
        Verdict::Failed | Verdict::NotModified => Err(Code::PreconditionFailed.into()),
    }
}

/// Reads `[/]BUCKET/KEY[?versionId=null]`, percent-encoded.
fn read_source(text: &str) -> S3Result<(BucketName, ObjectKey)> {
    let bad = |why: &'static str| invalid_argument("x-amz-copy-source", text, why);
    let (path, version) = match text.split_once("?versionId=") {
        Some((path, version)) => (path, Some(version)),
        None => (text, None),
    };
    // Coded like a query: a plus is a space here.
    let path = uri::decode_text_query(path).ok_or_else(|| bad("Invalid copy source encoding"))?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    let Some((bucket, key)) = path.split_once('/').filter(|(_, key)| !key.is_empty()) else {
        return Err(bad("Invalid copy source object key"));
    };
    if let Some(version) = version.filter(|version| *version != "null") {
        return Err(S3Error::from(Code::NoSuchVersion).field("VersionId", version));
    }
    let bucket = BucketName::new(bucket).map_err(|_| S3Error::from(Code::NoSuchBucket).field("BucketName", bucket))?;
    Ok((bucket, ObjectKey::new(key)?))
}

fn replaces_metadata(call: &Call) -> S3Result<bool> {
    match call.header("x-amz-metadata-directive")? {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(other) => Err(invalid_argument("x-amz-metadata-directive", other, "Unknown metadata directive.")),
    }
}

fn source_range(text: &str, size: u64) -> S3Result<Range<u64>> {
    let bad = |why: String| invalid_argument("x-amz-copy-source-range", text, why);
    let range = range::copy_source(text).ok_or_else(|| {
        bad("The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy"
            .to_owned())
    })?;
    if range.end > size {
        return Err(bad(format!("Range specified is not valid for source object of size: {size}")));
    }
    Ok(range)
}

async fn stream(
    call: &Call,
    info: &ObjectInfo,
    range: Range<u64>,
    writer: &mut ObjectWriter,
    kind: Option<ChecksumKind>,
) -> S3Result<Received> {
    let mut left = range.end - range.start;
    let mut reader = call.gateway.objects.open(info, range);
    let mut pipeline =
        HashPipeline::new(&call.gateway.platform, &call.gateway.md5_queue, Hashes::new(true, false, kind), kind);
    while left > 0 {
        let short = || S3Error::new(Code::InternalError, "The source is shorter than its size");
        let piece: Bytes = reader.next().await?.ok_or_else(short)?;
        left = left.checked_sub(piece.len() as u64).ok_or_else(short)?;
        pipeline.update(&piece).await?;
        writer.write(piece).await?;
    }
    let digests = pipeline.finish().await?;
    let md5 = digests.md5.ok_or(Code::InternalError)?;
    let checksums = digests.checksum.map(|(kind, raw)| (kind.name().to_owned(), base64_encode(&raw)));
    Ok(Received { etag: hex_encode(&md5), checksums: checksums.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::{read_source, source_range};
    use crate::errors::Code;

    #[test]
    fn sources_are_decoded() {
        for (text, key) in [
            ("bucket/key", "key"),
            ("/bucket/a%20b/c%2Bd+e", "a b/c+d e"),
            ("bucket/%3FversionId", "?versionId"),
            ("bucket/k?versionId=null", "k"),
            ("bucket//k", "/k"),
        ] {
            assert!(read_source(text).is_ok_and(|(b, k)| b.as_str() == "bucket" && k.as_str() == key), "{text}");
        }
        for (text, code) in [
            ("", Code::InvalidArgument),
            ("bucket", Code::InvalidArgument),
            ("bucket/", Code::InvalidArgument),
            ("bucket/%ff", Code::InvalidArgument),
            ("BAD_/k", Code::NoSuchBucket),
            ("bucket/k?versionId=7", Code::NoSuchVersion),
        ] {
            assert_eq!(read_source(text).err().map(|error| error.code), Some(code), "{text}");
        }
    }

    #[test]
    fn ranges_lie_inside_the_source() {
        assert!(source_range("bytes=0-9", 10).is_ok_and(|range| range == (0..10)));
        for text in ["bytes=0-10", "bytes=10-20", "0-9", "bytes=9-0"] {
            assert_eq!(source_range(text, 10).err().map(|error| error.code), Some(Code::InvalidArgument), "{text}");
        }
    }
}
