//! GetObjectAttributes.

use http::StatusCode;

use crate::dates;
use crate::errors::{Code, S3Error, S3Result, invalid_argument};
use crate::gateway::Call;
use crate::headers;
use crate::http::reply::Reply;
use crate::operations::copy::checksums;
use crate::operations::get::check_version;
use crate::xml::write::Writer;

const KNOWN: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];

/// `GET /BUCKET/KEY?attributes`.
pub async fn get(call: &Call) -> S3Result<Reply> {
    let wanted = wanted(call)?;
    let bucket = call.bucket().await?;
    check_version(&call.target.query)?;
    let info = call.gateway.objects.head(&bucket, &call.key()?).await?;
    let has = |name: &str| wanted.iter().any(|known| known == name);
    let mut document = Writer::with_root("GetObjectAttributesResponse", 512);
    if has("ETag") {
        document.text("ETag", &info.meta.etag);
    }
    if has("Checksum") && !info.meta.checksums.is_empty() {
        document.open("Checksum");
        checksums(&mut document, &info.meta.checksums);
        document.text("ChecksumType", &info.meta.checksum_type).close("Checksum");
    }
    if has("ObjectParts") && !info.parts.is_empty() {
        let number = |name| -> S3Result<Option<usize>> {
            let Some(text) = call.header(name)? else { return Ok(None) };
            text.parse().map(Some).map_err(|_| invalid_argument(name, text, "This header must be a number"))
        };
        let after = number("x-amz-part-number-marker")?.unwrap_or(0);
        let max = number("x-amz-max-parts")?.unwrap_or(1_000).min(1_000);
        document.open("ObjectParts").number("PartsCount", info.parts.len() as u64);
        document.number("PartNumberMarker", after as u64).number("MaxParts", max as u64);
        let behind: Vec<_> = info.parts.iter().filter(|(part, _)| *part as usize > after).collect();
        let next = behind.iter().take(max).next_back().map_or(after as u64, |(part, _)| u64::from(*part));
        document.number("NextPartNumberMarker", next).boolean("IsTruncated", behind.len() > max);
        for (part, size) in behind.into_iter().take(max) {
            document.open("Part").number("PartNumber", u64::from(*part)).number("Size", *size).close("Part");
        }
        document.close("ObjectParts");
    }
    if has("StorageClass") {
        let class = info.meta.storage_class.as_str();
        document.text("StorageClass", if class.is_empty() { "STANDARD" } else { class });
    }
    if has("ObjectSize") {
        document.number("ObjectSize", info.size);
    }
    let mut reply = Reply::xml(document.finish("GetObjectAttributesResponse"));
    reply.status = StatusCode::OK;
    headers::set(&mut reply.headers, "last-modified", &dates::http_date(info.modified_ms));
    Ok(reply)
}

fn wanted(call: &Call) -> S3Result<Vec<String>> {
    let mut wanted = Vec::new();
    for value in call.parts.headers.get_all("x-amz-object-attributes") {
        for name in value.to_str().unwrap_or("").split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if !KNOWN.contains(&name) {
                return Err(invalid_argument("x-amz-object-attributes", name, "Invalid attribute name specified."));
            }
            wanted.push(name.to_owned());
        }
    }
    if wanted.is_empty() {
        return Err(S3Error::new(
            Code::InvalidRequest,
            "Missing required header for this request: x-amz-object-attributes",
        ));
    }
    Ok(wanted)
}
