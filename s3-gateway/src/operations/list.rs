//! Listings: ListObjects, ListObjectsV2, ListObjectVersions.
//!
//! Keys come in byte order. A continuation token is the last name of the page before, in base64;
//! it is checked, not trusted: any name is a fine place to go on from.

use client::object::api::{BucketInfo, ListPage, ListQuery, ObjectSummary};
use crypto::hash::{base64_decode, base64_encode};

use crate::errors::{Code, S3Error, S3Result, invalid_argument};
use crate::gateway::Call;
use crate::http::reply::Reply;
use crate::uri::{self, Query};
use crate::xml::write::Writer;

/// Keys and prefixes a page may hold.
pub const PAGE_MAX: usize = 1_000;
/// Bytes a key takes in a document, roughly.
const ROW_GUESS: usize = 400;

/// How names are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// Percent-encoded, as `encoding-type=url` asks.
    Url,
}

impl Encoding {
    /// Reads `encoding-type`.
    pub fn read(query: &Query) -> S3Result<Encoding> {
        match query.get("encoding-type") {
            None | Some("") => Ok(Encoding::Plain),
            Some(name) if name.eq_ignore_ascii_case("url") => Ok(Encoding::Url),
            Some(other) => {
                Err(invalid_argument("encoding-type", other, "Invalid Encoding Method specified in Request"))
            }
        }
    }

    /// Writes a name as this encoding does.
    pub fn name(self, document: &mut Writer, element: &str, name: &str) {
        match self {
            Encoding::Plain => document.text(element, name),
            Encoding::Url => document.text(element, &uri::encode_path(name)),
        };
    }

    /// Says in the document that names are encoded.
    pub fn note(self, document: &mut Writer) {
        if self == Encoding::Url {
            document.text("EncodingType", "url");
        }
    }
}

/// A parameter that is a whole number not below zero.
pub fn number_parameter(query: &Query, name: &str) -> S3Result<Option<usize>> {
    let Some(text) = query.get(name) else { return Ok(None) };
    if text.is_empty() {
        return Ok(None);
    }
    let number: i64 = text
        .parse()
        .map_err(|_| invalid_argument(name, text, format!("Provided {name} not an integer or within integer range")))?;
    if !(0..=i64::from(i32::MAX)).contains(&number) {
        return Err(invalid_argument(
            name,
            text,
            format!("Argument {name} must be an integer between 0 and 2147483647"),
        ));
    }
    Ok(usize::try_from(number).ok())
}

/// What all listings share.
struct Listing {
    bucket: BucketInfo,
    encoding: Encoding,
    prefix: String,
    delimiter: String,
    max_keys: usize,
}

impl Listing {
    async fn read(call: &Call) -> S3Result<Listing> {
        let query = &call.target.query;
        let encoding = Encoding::read(query)?;
        let max_keys = number_parameter(query, "max-keys")?.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let text = |name| query.get(name).unwrap_or("").to_owned();
        let (prefix, delimiter) = (text("prefix"), text("delimiter"));
        Ok(Listing { bucket: call.bucket().await?, encoding, prefix, delimiter, max_keys })
    }

    async fn page(&self, call: &Call, after: &str) -> S3Result<ListPage> {
        if self.max_keys == 0 {
            return Ok(ListPage::default());
        }
        let query = ListQuery {
            prefix: self.prefix.clone(),
            delimiter: self.delimiter.clone(),
            after: after.to_owned(),
            max_keys: self.max_keys,
        };
        Ok(call.gateway.objects.list(&self.bucket, &query).await?)
    }

    fn start(&self, root: &str, page: &ListPage, prefix: Encoding) -> Writer {
        let rows = page.objects.len() + page.common_prefixes.len();
        let mut document = Writer::with_root(root, 512 + rows * ROW_GUESS);
        document.text("Name", &self.bucket.name);
        prefix.name(&mut document, "Prefix", &self.prefix);
        if !self.delimiter.is_empty() {
            self.encoding.name(&mut document, "Delimiter", &self.delimiter);
        }
        document.number("MaxKeys", self.max_keys as u64);
        self.encoding.note(&mut document);
        document
    }

    fn contents(&self, document: &mut Writer, page: &ListPage, with_owner: bool) {
        for object in &page.objects {
            document.open("Contents");
            self.encoding.name(document, "Key", &object.key);
            describe(document, object);
            if with_owner {
                document.owner("Owner", &object.owner);
            }
            document.close("Contents");
        }
    }

    fn prefixes(&self, document: &mut Writer, page: &ListPage) {
        for prefix in &page.common_prefixes {
            document.open("CommonPrefixes");
            self.encoding.name(document, "Prefix", prefix);
            document.close("CommonPrefixes");
        }
    }
}

/// What every kind of row says of an object.
fn describe(document: &mut Writer, object: &ObjectSummary) {
    document.time("LastModified", object.modified_ms).etag("ETag", &object.etag);
    for kind in &object.checksum_kinds {
        document.text("ChecksumAlgorithm", kind);
    }
    if !object.checksum_kinds.is_empty() && !object.checksum_type.is_empty() {
        document.text("ChecksumType", &object.checksum_type);
    }
    document.number("Size", object.size);
    let class = object.storage_class.as_str();
    document.text("StorageClass", if class.is_empty() { "STANDARD" } else { class });
}

/// `GET /BUCKET`.
pub async fn v1(call: &Call) -> S3Result<Reply> {
    let listing = Listing::read(call).await?;
    let marker = call.target.query.get("marker").unwrap_or("");
    let page = listing.page(call, marker).await?;
    // The first version's clients do not decode the prefix, so it is never encoded for them.
    let mut document = listing.start("ListBucketResult", &page, Encoding::Plain);
    listing.encoding.name(&mut document, "Marker", marker);
    document.boolean("IsTruncated", page.truncated);
    // Without a delimiter the last key is the next marker and S3 does not repeat it.
    if page.truncated && !listing.delimiter.is_empty() {
        listing.encoding.name(&mut document, "NextMarker", &page.next_after);
    }
    listing.contents(&mut document, &page, true);
    listing.prefixes(&mut document, &page);
    Ok(Reply::xml(document.finish("ListBucketResult")))
}

/// `GET /BUCKET?list-type=2`.
pub async fn v2(call: &Call) -> S3Result<Reply> {
    let listing = Listing::read(call).await?;
    let query = &call.target.query;
    let start_after = query.get("start-after").unwrap_or("");
    let token = query.get("continuation-token");
    let after = match token {
        None | Some("") => start_after.to_owned(),
        Some(token) => base64_decode(token).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
            invalid_argument("continuation-token", token, "The continuation token provided is incorrect")
        })?,
    };
    let page = listing.page(call, &after).await?;
    let mut document = listing.start("ListBucketResult", &page, listing.encoding);
    document.number("KeyCount", (page.objects.len() + page.common_prefixes.len()) as u64);
    document.boolean("IsTruncated", page.truncated);
    document.optional("ContinuationToken", token);
    if page.truncated {
        document.text("NextContinuationToken", &base64_encode(page.next_after.as_bytes()));
    }
    if query.has("start-after") {
        listing.encoding.name(&mut document, "StartAfter", start_after);
    }
    listing.contents(&mut document, &page, query.get("fetch-owner") == Some("true"));
    listing.prefixes(&mut document, &page);
    Ok(Reply::xml(document.finish("ListBucketResult")))
}

/// `GET /BUCKET?versions`: without versioning every object is its own, latest version `null`.
pub async fn versions(call: &Call) -> S3Result<Reply> {
    let listing = Listing::read(call).await?;
    let query = &call.target.query;
    let key_marker = query.get("key-marker").unwrap_or("");
    let id_marker = query.get("version-id-marker");
    if id_marker.is_some() && key_marker.is_empty() {
        return Err(S3Error::new(
            Code::InvalidArgument,
            "A version-id marker cannot be specified without a key marker.",
        ));
    }
    let page = listing.page(call, key_marker).await?;
    let mut document = listing.start("ListVersionsResult", &page, listing.encoding);
    listing.encoding.name(&mut document, "KeyMarker", key_marker);
    document.text("VersionIdMarker", id_marker.unwrap_or(""));
    document.boolean("IsTruncated", page.truncated);
    if page.truncated {
        listing.encoding.name(&mut document, "NextKeyMarker", &page.next_after);
        document.text("NextVersionIdMarker", "null");
    }
    for object in &page.objects {
        document.open("Version");
        listing.encoding.name(&mut document, "Key", &object.key);
        document.text("VersionId", "null").boolean("IsLatest", true);
        describe(&mut document, object);
        document.owner("Owner", &object.owner).close("Version");
    }
    listing.prefixes(&mut document, &page);
    Ok(Reply::xml(document.finish("ListVersionsResult")))
}
