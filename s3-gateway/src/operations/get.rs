//! GetObject and HeadObject: conditions, ranges, parts, overrides.

use client::object::api::ObjectInfo;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use bytes::Bytes;

use crate::conditions::Verdict;
use crate::dates;
use crate::errors::{Code, S3Error, S3Result, invalid_argument};
use crate::gateway::Call;
use crate::headers;
use crate::http::reply::{ObjectStream, Reply, ReplyBody, WHOLE_MAX};
use crate::range::{self, Wanted};
use crate::uri::Query;

/// Query parameters that replace a header of the answer.
const OVERRIDES: [(&str, &str); 6] = [
    ("response-content-type", "content-type"),
    ("response-content-language", "content-language"),
    ("response-expires", "expires"),
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
];

/// `GET` or `HEAD /BUCKET/KEY`.
pub async fn object(call: &Call) -> S3Result<Reply> {
    let bucket = call.bucket().await?;
    check_version(&call.target.query)?;
    let info = call.gateway.objects.head(&bucket, &call.key()?).await?;
    let conditions = headers::read_conditions(&call.parts.headers)?;
    match conditions.check(&info.meta.etag, info.modified_ms) {
        Verdict::Go => {}
        Verdict::Failed => return Err(Code::PreconditionFailed.into()),
        Verdict::NotModified => {
            return Err(S3Error::from(Code::NotModified)
                .header("etag", format!("\"{}\"", info.meta.etag))
                .header("last-modified", dates::http_date(info.modified_ms)));
        }
    }
    let piece = piece(call, &info)?;
    let mut reply = Reply::empty(piece.status);
    headers::object_headers(&mut reply.headers, &info);
    reply.headers.insert("content-length", HeaderValue::from(piece.range.end - piece.range.start));
    if let Some(content_range) = &piece.content_range {
        headers::set(&mut reply.headers, "content-range", content_range);
    }
    if let Some(count) = piece.parts_count {
        reply.headers.insert("x-amz-mp-parts-count", HeaderValue::from(count as u64));
    }
    let whole = piece.range == (0..info.size);
    if whole && call.header("x-amz-checksum-mode")?.is_some_and(|mode| mode.eq_ignore_ascii_case("enabled")) {
        headers::checksum_headers(&mut reply.headers, &info.meta.checksums, &info.meta.checksum_type);
    }
    override_headers(&mut reply.headers, &call.target.query);
    if call.parts.method == Method::GET {
        reply.body = body(call, &info, piece.range).await?;
    }
    Ok(reply)
}

/// Without versioning the only version is `null`.
pub fn check_version(query: &Query) -> S3Result<()> {
    match query.get("versionId") {
        None | Some("null") => Ok(()),
        Some("") => Err(invalid_argument("versionId", "", "Version id cannot be the empty string")),
        Some(version) => Err(S3Error::from(Code::NoSuchVersion).field("VersionId", version)),
    }
}

/// Which bytes are to be served, and how that is said.
struct Piece {
    range: std::ops::Range<u64>,
    status: StatusCode,
    content_range: Option<String>,
    parts_count: Option<usize>,
}

fn piece(call: &Call, info: &ObjectInfo) -> S3Result<Piece> {
    let range_header = call.header("range")?;
    if let Some(number) = part_number(&call.target.query)? {
        if range_header.is_some() {
            return Err(S3Error::new(
                Code::InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter",
            ));
        }
        return part(info, number);
    }
    match range::wanted(range_header, info.size) {
        Wanted::Whole => {
            Ok(Piece { range: 0..info.size, status: StatusCode::OK, content_range: None, parts_count: None })
        }
        Wanted::Part(range) => Ok(Piece {
            content_range: Some(content_range(&range, info.size)),
            range,
            status: StatusCode::PARTIAL_CONTENT,
            parts_count: None,
        }),
        Wanted::Unsatisfiable => Err(S3Error::from(Code::InvalidRange)
            .field("RangeRequested", range_header.unwrap_or(""))
            .field("ActualObjectSize", info.size.to_string())
            .header("content-range", format!("bytes */{}", info.size))),
    }
}

/// Reads `partNumber`.
pub fn part_number(query: &Query) -> S3Result<Option<u32>> {
    let Some(text) = query.get("partNumber") else { return Ok(None) };
    match text.parse() {
        Ok(number @ 1..=10_000) => Ok(Some(number)),
        _ => Err(invalid_argument("partNumber", text, "Part number must be an integer between 1 and 10000, inclusive")),
    }
}

fn part(info: &ObjectInfo, number: u32) -> S3Result<Piece> {
    let outside = || {
        S3Error::from(Code::InvalidPartNumber)
            .field("PartNumberRequested", number.to_string())
            .field("ActualPartCount", info.parts.len().max(1).to_string())
    };
    if info.parts.is_empty() {
        if number != 1 {
            return Err(outside());
        }
        let content_range = (info.size > 0).then(|| content_range(&(0..info.size), info.size));
        let status = if info.size > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        return Ok(Piece { range: 0..info.size, status, content_range, parts_count: None });
    }
    // Parts are counted as they were completed, whatever numbers they were uploaded with.
    let mut start = 0;
    for (_, size) in info.parts.iter().take(number as usize - 1) {
        start += size;
    }
    let (_, size) = info.parts.get(number as usize - 1).ok_or_else(outside)?;
    let range = start..start + size;
    Ok(Piece {
        content_range: (info.size > 0).then(|| content_range(&range, info.size)),
        range,
        status: StatusCode::PARTIAL_CONTENT,
        parts_count: Some(info.parts.len()),
    })
}

fn content_range(range: &std::ops::Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

fn override_headers(out: &mut HeaderMap, query: &Query) {
    for (parameter, header) in OVERRIDES {
        if let Some(value) = query.get(parameter) {
            headers::set(out, header, value);
        }
    }
}

/// Reads the first piece before anything is answered, so that an unreadable object is an error.
async fn body(call: &Call, info: &ObjectInfo, range: std::ops::Range<u64>) -> S3Result<ReplyBody> {
    let len = range.end - range.start;
    if len == 0 {
        return Ok(ReplyBody::Empty);
    }
    let held = call.gateway.hold_out(len)?;
    let short = || S3Error::new(Code::InternalError, "The object is shorter than its size");
    let mut reader = call.gateway.objects.open(info, range);
    let first = reader.next().await?.ok_or_else(short)?;
    if len > WHOLE_MAX && (first.len() as u64) < len {
        return Ok(ReplyBody::Stream(ObjectStream::new(first, reader, len, held)));
    }
    let whole = if first.len() as u64 == len {
        first
    } else {
        let mut whole = Vec::with_capacity(first.len());
        whole.extend_from_slice(&first);
        while let Some(next) = reader.next().await? {
            whole.extend_from_slice(&next);
        }
        Bytes::from(whole)
    };
    if whole.len() as u64 != len {
        return Err(short());
    }
    Ok(ReplyBody::Whole(whole))
}
