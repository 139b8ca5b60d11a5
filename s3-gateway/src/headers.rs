//! Headers of objects: what is stored and given back, and what is refused because nobody built it.
//!
//! Invariant: a header that asks for a guarantee (encryption, lock, access list, tags, storage
//! class) is never ignored.

use std::collections::BTreeMap;

use client::object::api::{ObjectInfo, ObjectMeta, WriteConditions};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::body::checksum::ChecksumKind;
use crate::conditions::{ReadConditions, bare_tag};
use crate::dates;
use crate::errors::{Code, S3Error, S3Result, header_not_implemented, invalid_argument};

/// Bytes of user metadata an object may carry, names and values.
pub const USER_METADATA_MAX: usize = 2_048;

/// Standard headers that are stored with an object.
const STORED: [&str; 6] =
    ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"];

/// Beginnings of headers that ask for something nobody built.
const UNBUILT: [&str; 13] = [
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-object-lock-",
    "x-amz-grant-",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-rename-source",
    "x-amz-if-match-",
    "x-amz-source-if-",
    "x-amz-mfa",
    "x-amz-fwd-",
    "x-amz-restore",
    "x-amz-snowball",
];

const CANNED_ACLS: [&str; 8] = [
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
    "log-delivery-write",
];

const STORAGE_CLASSES: [&str; 11] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "GLACIER_IR",
    "SNOW",
    "EXPRESS_ONEZONE",
];

/// A header as text.
pub fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> S3Result<Option<&'a str>> {
    match headers.get(name).map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(invalid_argument(name, "", "This header must be ASCII text")),
    }
}

/// Refuses what would otherwise be silently ignored. Runs before every operation.
pub fn refuse_unbuilt(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-amz-")) {
        if UNBUILT.iter().any(|beginning| name.starts_with(beginning)) {
            return Err(header_not_implemented(name));
        }
        let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) else { continue };
        match name {
            "x-amz-acl" => match value {
                "" | "private" | "bucket-owner-full-control" => {}
                known if CANNED_ACLS.contains(&known) => return Err(header_not_implemented(name)),
                _ => return Err(invalid_argument(name, value, "The canned ACL you provided is not valid")),
            },
            "x-amz-storage-class" => match value {
                "STANDARD" => {}
                known if STORAGE_CLASSES.contains(&known) => return Err(header_not_implemented(name)),
                _ => return Err(S3Error::from(Code::InvalidStorageClass).field("StorageClassRequested", value)),
            },
            "x-amz-tagging" if !value.is_empty() => return Err(header_not_implemented(name)),
            "x-amz-tagging-directive" => match value {
                "COPY" | "REPLACE" => {}
                _ => return Err(invalid_argument(name, value, "Unknown tagging directive.")),
            },
            "x-amz-bucket-object-lock-enabled" if !value.eq_ignore_ascii_case("false") => {
                return Err(header_not_implemented(name));
            }
            "x-amz-object-ownership" if value != "BucketOwnerEnforced" => return Err(header_not_implemented(name)),
            _ => {}
        }
    }
    Ok(())
}

/// What a PUT stores besides the bytes.
pub fn object_meta(headers: &HeaderMap, owner: &str) -> S3Result<ObjectMeta> {
    let mut meta = ObjectMeta { owner: owner.to_owned(), ..ObjectMeta::default() };
    for name in STORED {
        let Some(value) = headers.get(name) else { continue };
        let mut value = lossless(value.as_bytes());
        if name == "content-encoding" {
            // The transport's coding is undone here and is none of the object's.
            let kept: Vec<&str> = headers
                .get_all(name)
                .iter()
                .flat_map(|value| value.to_str().unwrap_or("").split(','))
                .map(str::trim)
                .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
                .collect();
            value = kept.join(",");
        }
        if !value.is_empty() {
            meta.content.insert(name.to_owned(), value);
        }
    }
    meta.user = user_metadata(headers)?;
    Ok(meta)
}

fn user_metadata(headers: &HeaderMap) -> S3Result<BTreeMap<String, String>> {
    let mut user: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let Some(short) = name.as_str().strip_prefix("x-amz-meta-") else { continue };
        let value = lossless(value.as_bytes());
        user.entry(short.to_owned())
            .and_modify(|known| {
                known.push(',');
                known.push_str(&value);
            })
            .or_insert(value);
    }
    let size: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > USER_METADATA_MAX {
        return Err(S3Error::from(Code::MetadataTooLarge)
            .field("Size", size.to_string())
            .field("MaxSizeAllowed", USER_METADATA_MAX.to_string()));
    }
    Ok(user)
}

/// Header bytes as text: UTF-8 if they are, otherwise Latin-1, which every byte string is.
fn lossless(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// The headers a GET or HEAD of an object answers with, but for its length and range.
pub fn object_headers(out: &mut HeaderMap, info: &ObjectInfo) {
    set(out, "etag", &format!("\"{}\"", info.meta.etag));
    set(out, "last-modified", &dates::http_date(info.modified_ms));
    out.insert("accept-ranges", HeaderValue::from_static("bytes"));
    out.insert("content-type", HeaderValue::from_static("binary/octet-stream"));
    for (name, value) in &info.meta.content {
        set(out, name, value);
    }
    for (name, value) in &info.meta.user {
        set(out, &format!("x-amz-meta-{name}"), value);
    }
    if !info.meta.storage_class.is_empty() && info.meta.storage_class != "STANDARD" {
        set(out, "x-amz-storage-class", &info.meta.storage_class);
    }
}

/// The stored checksums as headers, with their type.
pub fn checksum_headers(out: &mut HeaderMap, checksums: &BTreeMap<String, String>, checksum_type: &str) {
    for (kind, value) in checksums {
        if let Some(kind) = ChecksumKind::by_name(kind) {
            set(out, kind.header(), value);
        }
    }
    if !checksums.is_empty() && !checksum_type.is_empty() {
        set(out, "x-amz-checksum-type", checksum_type);
    }
}

/// Sets a header from stored text; one that cannot be a header is left out.
pub fn set(out: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
    {
        out.insert(name, value);
    }
}

/// The conditions of a GET or HEAD.
pub fn read_conditions(headers: &HeaderMap) -> S3Result<ReadConditions> {
    conditions_named(headers, ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"])
}

/// The conditions on a copy's source.
pub fn source_conditions(headers: &HeaderMap) -> S3Result<ReadConditions> {
    let names = [
        "x-amz-copy-source-if-match",
        "x-amz-copy-source-if-none-match",
        "x-amz-copy-source-if-modified-since",
        "x-amz-copy-source-if-unmodified-since",
    ];
    conditions_named(headers, names)
}

fn conditions_named(headers: &HeaderMap, names: [&'static str; 4]) -> S3Result<ReadConditions> {
    // A date that cannot be read is no condition (RFC 9110 section 13.1.3).
    let time = |name| Ok::<_, S3Error>(text(headers, name)?.and_then(dates::parse_http_date));
    Ok(ReadConditions {
        matches: text(headers, names[0])?.map(str::to_owned),
        none_match: text(headers, names[1])?.map(str::to_owned),
        modified_since: time(names[2])?,
        unmodified_since: time(names[3])?,
    })
}

/// The conditions of a write or delete, decided later where the command is applied.
pub fn write_conditions(headers: &HeaderMap) -> S3Result<WriteConditions> {
    for name in ["if-modified-since", "if-unmodified-since"] {
        if headers.contains_key(name) {
            return Err(header_not_implemented(name));
        }
    }
    let absent = match text(headers, "if-none-match")?.map(str::trim) {
        None => false,
        Some("*") => true,
        Some(_) => return Err(header_not_implemented("If-None-Match")),
    };
    let etag = match text(headers, "if-match")? {
        Some(tag) if tag.contains(',') => return Err(header_not_implemented("If-Match")),
        tag => tag.map(|tag| bare_tag(tag).to_owned()),
    };
    Ok(WriteConditions { absent, etag })
}

#[cfg(test)]
mod tests {
    use super::{object_meta, refuse_unbuilt, write_conditions};
    use crate::errors::Code;
    use http::HeaderMap;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn guarantees_nobody_built_are_refused() {
        for (name, value) in [
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
            ("x-amz-object-lock-mode", "COMPLIANCE"),
            ("x-amz-tagging", "a=b"),
            ("x-amz-acl", "public-read"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-website-redirect-location", "/x"),
            ("x-amz-grant-read", "id=1"),
            ("x-amz-bucket-object-lock-enabled", "true"),
        ] {
            let refused = refuse_unbuilt(&headers(&[(name, value)])).map_err(|error| error.code);
            assert_eq!(refused, Err(Code::NotImplemented), "{name}");
        }
        let fine = [("x-amz-acl", "private"), ("x-amz-storage-class", "STANDARD"), ("x-amz-meta-a", "b")];
        assert!(refuse_unbuilt(&headers(&fine)).is_ok());
    }

    #[test]
    fn transport_coding_is_not_stored() {
        let meta = object_meta(&headers(&[("content-encoding", "gzip, aws-chunked")]), "u").unwrap();
        assert_eq!(meta.content.get("content-encoding").map(String::as_str), Some("gzip"));
        let meta = object_meta(&headers(&[("content-encoding", "aws-chunked")]), "u").unwrap();
        assert!(meta.content.is_empty());
    }

    #[test]
    fn user_metadata_is_bounded_and_joined() {
        let meta = object_meta(&headers(&[("x-amz-meta-a", "1"), ("x-amz-meta-a", "2")]), "u").unwrap();
        assert_eq!(meta.user.get("a").map(String::as_str), Some("1,2"));
        let long = "x".repeat(2_047);
        assert!(object_meta(&headers(&[("x-amz-meta-a", &long)]), "u").is_ok());
        let error = object_meta(&headers(&[("x-amz-meta-ab", &long)]), "u").map_err(|error| error.code);
        assert_eq!(error.err(), Some(Code::MetadataTooLarge));
    }

    #[test]
    fn write_conditions_take_what_apply_can_decide() {
        let of = |pairs: &[(&'static str, &str)]| write_conditions(&headers(pairs)).map_err(|error| error.code);
        assert!(of(&[("if-none-match", "*")]).is_ok_and(|c| c.absent));
        assert!(of(&[("if-match", "\"abc\"")]).is_ok_and(|c| c.etag.as_deref() == Some("abc")));
        assert_eq!(of(&[("if-none-match", "\"abc\"")]), Err(Code::NotImplemented));
        assert_eq!(of(&[("if-unmodified-since", "x")]), Err(Code::NotImplemented));
    }
}
