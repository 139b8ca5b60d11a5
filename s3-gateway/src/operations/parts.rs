//! Parts of an upload: put and list.

use crate::body::checksum::ChecksumKind;
use crate::body::receive;
use crate::errors::{Code, S3Error, S3Result};
use crate::gateway::Call;
use crate::headers;
use crate::http::reply::Reply;
use crate::operations::copy::checksums;
use crate::operations::get::part_number;
use crate::operations::list::{Encoding, PAGE_MAX, number_parameter};
use crate::xml::write::Writer;

/// `PUT /BUCKET/KEY?partNumber&uploadId`.
pub async fn upload(call: &mut Call) -> S3Result<Reply> {
    let expected = receive::expected(&call.parts.headers)?;
    let key = call.key()?;
    let number = part_number(&call.target.query)?.ok_or(Code::InvalidArgument)?;
    let upload_id = call.target.query.get("uploadId").unwrap_or("").to_owned();
    let bucket = call.bucket().await?;
    let upload = call.gateway.objects.upload(&bucket, &key, &upload_id).await?;
    let upload_kind = ChecksumKind::by_name(&upload.checksum_kind);
    if let (Some(of_upload), Some(of_part)) = (upload_kind, expected.announced.kind)
        && of_upload != of_part
    {
        return Err(S3Error::new(
            Code::InvalidRequest,
            format!(
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                of_upload.name().to_ascii_lowercase(),
                of_part.name().to_ascii_lowercase()
            ),
        ));
    }
    let mut payload = call.payload()?;
    let gateway = call.gateway.clone();
    let mut writer = call.gateway.objects.writer(&bucket, Some(payload.whole_len()));
    let received = receive::into_writer(&gateway, &mut payload, &mut writer, &expected, upload_kind).await?;
    let objects = &call.gateway.objects;
    let part = objects.put_part(&bucket, &key, &upload_id, number, writer, received.etag, received.checksums).await?;
    let mut reply = Reply::ok().with("etag", &format!("\"{}\"", part.etag));
    headers::checksum_headers(&mut reply.headers, &part.checksums, "");
    Ok(reply)
}

/// `GET /BUCKET/KEY?uploadId`.
pub async fn list(call: &Call) -> S3Result<Reply> {
    let key = call.key()?;
    let bucket = call.bucket().await?;
    let query = &call.target.query;
    let encoding = Encoding::read(query)?;
    let upload_id = query.get("uploadId").unwrap_or("");
    let max = number_parameter(query, "max-parts")?.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let after = number_parameter(query, "part-number-marker")?.unwrap_or(0);
    let after = u32::try_from(after).unwrap_or(u32::MAX);
    let page = call.gateway.objects.list_parts(&bucket, &key, upload_id, after, max).await?;
    let upload = page.upload.ok_or(Code::NoSuchUpload)?;
    let mut document = Writer::with_root("ListPartsResult", 512 + page.parts.len() * 200);
    document.text("Bucket", &bucket.name);
    encoding.name(&mut document, "Key", key.as_str());
    encoding.note(&mut document);
    document.text("UploadId", upload_id);
    document.owner("Initiator", &upload.meta.owner).owner("Owner", &upload.meta.owner);
    document.text("StorageClass", "STANDARD").number("PartNumberMarker", u64::from(after));
    let next = page.parts.last().map_or(after, |part| part.number);
    document.number("NextPartNumberMarker", u64::from(next));
    document.number("MaxParts", max as u64).boolean("IsTruncated", page.truncated);
    if !upload.checksum_kind.is_empty() {
        document.text("ChecksumAlgorithm", &upload.checksum_kind).text("ChecksumType", &upload.meta.checksum_type);
    }
    for part in &page.parts {
        document.open("Part").number("PartNumber", u64::from(part.number)).time("LastModified", part.modified_ms);
        document.etag("ETag", &part.etag).number("Size", part.size);
        checksums(&mut document, &part.checksums);
        document.close("Part");
    }
    Ok(Reply::xml(document.finish("ListPartsResult")))
}
