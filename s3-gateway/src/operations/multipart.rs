//! Multipart uploads: create, list, abort.

use http::StatusCode;

use crate::body::checksum::{self, COMPOSITE, ChecksumKind, FULL_OBJECT};
use crate::errors::{Code, S3Error, S3Result, invalid_argument};
use crate::gateway::Call;
use crate::headers;
use crate::http::reply::Reply;
use crate::operations::list::{Encoding, PAGE_MAX, number_parameter};
use crate::xml::write::Writer;

/// `POST /BUCKET/KEY?uploads`.
pub async fn create(call: &Call) -> S3Result<Reply> {
    let key = call.key()?;
    let bucket = call.bucket().await?;
    let mut meta = headers::object_meta(&call.parts.headers, &bucket.owner)?;
    let kind = call.header("x-amz-checksum-algorithm")?.map(checksum::named).transpose()?;
    meta.checksum_type = checksum_type(kind, call.header("x-amz-checksum-type")?)?.to_owned();
    let kind_name = kind.map_or("", ChecksumKind::name);
    let checksum_type = meta.checksum_type.clone();
    let upload = call.gateway.objects.create_upload(&bucket, &key, meta, kind_name).await?;
    let mut document = Writer::with_root("InitiateMultipartUploadResult", 256);
    document.text("Bucket", &bucket.name).text("Key", key.as_str()).text("UploadId", &upload.upload_id);
    let mut reply = Reply::xml(document.finish("InitiateMultipartUploadResult"));
    if !kind_name.is_empty() {
        headers::set(&mut reply.headers, "x-amz-checksum-algorithm", kind_name);
        headers::set(&mut reply.headers, "x-amz-checksum-type", &checksum_type);
    }
    Ok(reply)
}

/// What the whole object's checksum will be made of.
fn checksum_type(kind: Option<ChecksumKind>, asked: Option<&str>) -> S3Result<&'static str> {
    let Some(kind) = kind else {
        return match asked {
            None => Ok(""),
            Some(_) => Err(S3Error::new(
                Code::InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )),
        };
    };
    let impossible = |asked: &str| {
        let name = kind.name().to_ascii_lowercase();
        S3Error::new(
            Code::InvalidRequest,
            format!("The {asked} checksum type cannot be used with the {name} checksum algorithm."),
        )
    };
    match asked {
        None if kind == ChecksumKind::Crc64Nvme => Ok(FULL_OBJECT),
        None => Ok(COMPOSITE),
        Some(FULL_OBJECT) if kind.crc().is_some() => Ok(FULL_OBJECT),
        Some(COMPOSITE) if kind != ChecksumKind::Crc64Nvme => Ok(COMPOSITE),
        Some(known @ (FULL_OBJECT | COMPOSITE)) => Err(impossible(known)),
        Some(other) => {
            Err(S3Error::new(Code::InvalidRequest, format!("Value for x-amz-checksum-type header is invalid: {other}")))
        }
    }
}

/// `DELETE /BUCKET/KEY?uploadId`.
pub async fn abort(call: &Call) -> S3Result<Reply> {
    let bucket = call.bucket().await?;
    let upload_id = call.target.query.get("uploadId").unwrap_or("");
    call.gateway.objects.abort_upload(&bucket, &call.key()?, upload_id).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// `GET /BUCKET?uploads`.
pub async fn list_uploads(call: &Call) -> S3Result<Reply> {
    let bucket = call.bucket().await?;
    let query = &call.target.query;
    let encoding = Encoding::read(query)?;
    let max = number_parameter(query, "max-uploads")?.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    if query.has("max-uploads") && max == 0 {
        return Err(invalid_argument("max-uploads", "0", "max-uploads must be between 1 and 2147483647"));
    }
    let text = |name| query.get(name).unwrap_or("");
    let (prefix, delimiter, key_marker) = (text("prefix"), text("delimiter"), text("key-marker"));
    // An upload id alone marks nothing: S3 ignores it without a key.
    let id_marker = if key_marker.is_empty() { "" } else { text("upload-id-marker") };
    let page = call.gateway.objects.list_uploads(&bucket, prefix, delimiter, (key_marker, id_marker), max).await?;
    let mut document = Writer::with_root("ListMultipartUploadsResult", 512 + page.uploads.len() * 400);
    document.text("Bucket", &bucket.name);
    encoding.name(&mut document, "KeyMarker", key_marker);
    document.text("UploadIdMarker", id_marker);
    if page.truncated {
        let last_upload = page.uploads.last().map(|upload| (upload.key.as_str(), upload.upload_id.as_str()));
        let last_prefix = page.common_prefixes.last().map(|prefix| (prefix.as_str(), ""));
        let (next_key, next_id) = last_upload.max(last_prefix).unwrap_or(("", ""));
        encoding.name(&mut document, "NextKeyMarker", next_key);
        document.text("NextUploadIdMarker", next_id);
    }
    encoding.name(&mut document, "Prefix", prefix);
    if !delimiter.is_empty() {
        encoding.name(&mut document, "Delimiter", delimiter);
    }
    encoding.note(&mut document);
    document.number("MaxUploads", max as u64).boolean("IsTruncated", page.truncated);
    for upload in &page.uploads {
        document.open("Upload");
        encoding.name(&mut document, "Key", &upload.key);
        document.text("UploadId", &upload.upload_id);
        document.owner("Initiator", &upload.meta.owner).owner("Owner", &upload.meta.owner);
        document.text("StorageClass", "STANDARD").time("Initiated", upload.created_ms);
        if !upload.checksum_kind.is_empty() {
            document.text("ChecksumAlgorithm", &upload.checksum_kind).text("ChecksumType", &upload.meta.checksum_type);
        }
        document.close("Upload");
    }
    for prefix in &page.common_prefixes {
        document.open("CommonPrefixes");
        encoding.name(&mut document, "Prefix", prefix);
        document.close("CommonPrefixes");
    }
    Ok(Reply::xml(document.finish("ListMultipartUploadsResult")))
}

#[cfg(test)]
mod tests {
    use super::checksum_type;
    use crate::body::checksum::ChecksumKind;
    use crate::errors::Code;

    #[test]
    fn only_crcs_cover_whole_objects() {
        let of = |kind, asked| checksum_type(kind, asked).map_err(|error| error.code);
        assert_eq!(of(None, None), Ok(""));
        assert_eq!(of(Some(ChecksumKind::Crc32), None), Ok("COMPOSITE"));
        assert_eq!(of(Some(ChecksumKind::Crc32), Some("FULL_OBJECT")), Ok("FULL_OBJECT"));
        assert_eq!(of(Some(ChecksumKind::Crc64Nvme), None), Ok("FULL_OBJECT"));
        for (kind, asked) in [
            (Some(ChecksumKind::Sha256), "FULL_OBJECT"),
            (Some(ChecksumKind::Crc64Nvme), "COMPOSITE"),
            (Some(ChecksumKind::Crc32), "HALF"),
            (None, "COMPOSITE"),
        ] {
            assert_eq!(of(kind, Some(asked)), Err(Code::InvalidRequest));
        }
    }
}
