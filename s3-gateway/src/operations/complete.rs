//! CompleteMultipartUpload: checks what the client names against what was uploaded, computes the
//! whole's ETag and checksum from the parts', and commits one command. No bytes are copied.
//!
//! Completing again with the same list succeeds while the object is still the one it made: the
//! answer to the first attempt may have been lost on its way.

use std::collections::BTreeMap;

use client::object::api::{BucketInfo, CompletePart, ObjectError, ObjectInfo, PartInfo, UploadInfo};
use crypto::hash::{base64_decode, base64_encode, hex_decode, hex_encode};
use types::names::ObjectKey;

use crate::body::checksum::{self, COMPOSITE, ChecksumKind, FULL_OBJECT, KINDS};
use crate::body::hashing::Hashes;
use crate::body::receive;
use crate::conditions::bare_tag;
use crate::errors::{Code, S3Error, S3Result};
use crate::gateway::Call;
use crate::headers;
use crate::http::reply::Reply;
use crate::operations::copy::checksums;
use crate::operations::list::PAGE_MAX;
use crate::operations::put::refusal;
use crate::xml::read::{self, Element, Limits};
use crate::xml::write::Writer;

/// Parts an upload may have.
const PARTS_MAX: usize = 10_000;
/// The least any part but the last may have, in bytes.
const PART_LEN_MIN: u64 = 5 << 20;
/// Bounds of the document.
const DOCUMENT: Limits = Limits { bytes: 8 << 20, elements: PARTS_MAX * 8 + 8 };

/// `POST /BUCKET/KEY?uploadId`.
pub async fn complete(call: &mut Call) -> S3Result<Reply> {
    let conditions = headers::write_conditions(&call.parts.headers)?;
    let key = call.key()?;
    let upload_id = call.target.query.get("uploadId").unwrap_or("").to_owned();
    let bucket = call.bucket().await?;
    let payload = call.payload()?;
    // Checksum headers of this request speak of the object, not of the document.
    let document = receive::document(payload, &without_checksums(&call.parts.headers), DOCUMENT.bytes, false).await?;
    let named = read_document(&document)?;
    let objects = call.gateway.objects.clone();
    let (upload, known) = match all_parts(call, &bucket, &key, &upload_id).await {
        Ok(found) => found,
        Err(error) if error.code == Code::NoSuchUpload => {
            let made = completed_before(call, &bucket, &key, &named).await.ok_or(error)?;
            return Ok(answer(call, &bucket, &made));
        }
        Err(error) => return Err(error),
    };
    let chosen = choose(&named, &known)?;
    check_size(call, &chosen)?;
    let mut meta = upload.meta.clone();
    meta.etag = whole_etag(chosen.iter().map(|part| part.etag.as_str())).ok_or(Code::InvalidPart)?;
    meta.checksums = whole_checksum(&upload, &chosen)?;
    if meta.checksums.is_empty() {
        meta.checksum_type = String::new();
    }
    check_announced(call, &meta.checksums, &meta.checksum_type)?;
    match objects.complete_upload(&bucket, &key, &upload_id, &named, meta, &conditions).await {
        Ok(made) => Ok(answer(call, &bucket, &made)),
        Err(error) => Err(refusal(call, error, &bucket, &key, &conditions).await),
    }
}

fn answer(call: &Call, bucket: &BucketInfo, made: &ObjectInfo) -> Reply {
    let host = call.header("host").ok().flatten().unwrap_or("localhost");
    let scheme = if call.gateway.config.tls.is_some() { "https" } else { "http" };
    let path = crate::uri::encode_path(&made.key);
    let mut document = Writer::with_root("CompleteMultipartUploadResult", 512);
    document.text("Location", &format!("{scheme}://{host}/{}/{path}", bucket.name));
    document.text("Bucket", &bucket.name).text("Key", &made.key).etag("ETag", &made.meta.etag);
    checksums(&mut document, &made.meta.checksums);
    if !made.meta.checksums.is_empty() {
        document.text("ChecksumType", &made.meta.checksum_type);
    }
    Reply::xml(document.finish("CompleteMultipartUploadResult"))
}

fn without_checksums(headers: &http::HeaderMap) -> http::HeaderMap {
    let mut kept = headers.clone();
    for kind in KINDS {
        kept.remove(kind.header());
    }
    kept.remove("x-amz-sdk-checksum-algorithm");
    kept
}

async fn all_parts(
    call: &Call,
    bucket: &BucketInfo,
    key: &ObjectKey,
    upload_id: &str,
) -> S3Result<(UploadInfo, BTreeMap<u32, PartInfo>)> {
    let mut known = BTreeMap::new();
    let mut after = 0;
    loop {
        let page = call.gateway.objects.list_parts(bucket, key, upload_id, after, PAGE_MAX).await?;
        let upload = page.upload.ok_or(Code::NoSuchUpload)?;
        let last = page.parts.last().map(|part| part.number);
        known.extend(page.parts.into_iter().map(|part| (part.number, part)));
        match last.filter(|last| page.truncated && *last > after) {
            Some(last) => after = last,
            None => return Ok((upload, known)),
        }
    }
}

/// The object that an earlier, equal request made, if it is still there.
async fn completed_before(
    call: &Call,
    bucket: &BucketInfo,
    key: &ObjectKey,
    named: &[CompletePart],
) -> Option<ObjectInfo> {
    let etag = whole_etag(named.iter().map(|part| part.etag.as_str()))?;
    let found: Result<ObjectInfo, ObjectError> = call.gateway.objects.head(bucket, key).await;
    found.ok().filter(|found| found.meta.etag == etag && found.parts.len() == named.len())
}

fn read_document(document: &[u8]) -> S3Result<Vec<CompletePart>> {
    let malformed = || S3Error::from(Code::MalformedXML);
    let root = read::parse(document, &DOCUMENT).map_err(|_| malformed())?;
    if root.name != "CompleteMultipartUpload" {
        return Err(malformed());
    }
    let mut named = Vec::new();
    for element in &root.children {
        if element.name != "Part" {
            return Err(malformed());
        }
        named.push(read_part(element).ok_or_else(malformed)?);
    }
    if named.is_empty() || named.len() > PARTS_MAX {
        return Err(malformed());
    }
    if named.windows(2).any(|pair| pair[0].number >= pair[1].number) {
        return Err(Code::InvalidPartOrder.into());
    }
    Ok(named)
}

fn read_part(element: &Element) -> Option<CompletePart> {
    let number = element.child_text("PartNumber")?.trim().parse().ok()?;
    let etag = bare_tag(element.child_text("ETag")?).to_owned();
    let sent =
        |kind: ChecksumKind| Some((kind.name().to_owned(), element.child_text(kind.element())?.trim().to_owned()));
    let sent = KINDS.into_iter().filter_map(sent).collect();
    (1..=PARTS_MAX as u32).contains(&number).then_some(CompletePart { number, etag, checksums: sent })
}

/// Each named part must have been uploaded as named, and all but the last be large enough.
fn choose<'a>(named: &[CompletePart], known: &'a BTreeMap<u32, PartInfo>) -> S3Result<Vec<&'a PartInfo>> {
    let mut chosen = Vec::with_capacity(named.len());
    for part in named {
        let wrong = || S3Error::from(Code::InvalidPart).field("PartNumber", part.number.to_string());
        let found = known.get(&part.number).ok_or_else(wrong)?;
        if !found.etag.eq_ignore_ascii_case(&part.etag) {
            return Err(wrong().field("ETag", part.etag.clone()));
        }
        if part.checksums.iter().any(|(kind, value)| found.checksums.get(kind).is_some_and(|known| known != value)) {
            return Err(wrong());
        }
        chosen.push(found);
    }
    let but_last = chosen.split_last().map_or(&[][..], |(_, before)| before);
    match but_last.iter().find(|part| part.size < PART_LEN_MIN) {
        None => Ok(chosen),
        Some(small) => Err(S3Error::from(Code::EntityTooSmall)
            .field("ProposedSize", small.size.to_string())
            .field("MinSizeAllowed", PART_LEN_MIN.to_string())
            .field("PartNumber", small.number.to_string())
            .field("ETag", small.etag.clone())),
    }
}

/// `x-amz-mp-object-size`, if sent, must be what the parts add up to.
fn check_size(call: &Call, chosen: &[&PartInfo]) -> S3Result<()> {
    let Some(text) = call.header("x-amz-mp-object-size")? else { return Ok(()) };
    let size: u64 = chosen.iter().map(|part| part.size).sum();
    if text.trim().parse() == Ok(size) {
        return Ok(());
    }
    Err(S3Error::new(
        Code::InvalidRequest,
        format!("The provided 'x-amz-mp-object-size' header value {text} does not match what was computed: {size}"),
    ))
}

/// MD5 of the parts' MD5s, and how many there were.
fn whole_etag<'a>(etags: impl ExactSizeIterator<Item = &'a str>) -> Option<String> {
    let count = etags.len();
    let mut joined = Vec::with_capacity(count * 16);
    for etag in etags {
        joined.extend_from_slice(&hex_decode(etag)?);
    }
    Some(format!("{}-{count}", hex_encode(&crypto::hash::md5(&joined))))
}

/// The whole's checksum, from the parts': combined if it covers the object, else a checksum of them.
fn whole_checksum(upload: &UploadInfo, chosen: &[&PartInfo]) -> S3Result<BTreeMap<String, String>> {
    let Some(kind) = ChecksumKind::by_name(&upload.checksum_kind) else { return Ok(BTreeMap::new()) };
    let mut raw = Vec::with_capacity(chosen.len());
    for part in chosen {
        let value = part.checksums.get(kind.name()).and_then(|value| base64_decode(value));
        raw.push(
            value
                .filter(|value| value.len() == kind.size())
                .ok_or_else(|| S3Error::from(Code::InvalidPart).field("PartNumber", part.number.to_string()))?,
        );
    }
    let text = match (upload.meta.checksum_type.as_str(), kind.crc()) {
        (FULL_OBJECT, Some(crc)) => {
            let mut whole: Option<Vec<u8>> = None;
            for (value, part) in raw.iter().zip(chosen) {
                whole = match whole {
                    None => Some(value.clone()),
                    Some(before) => types::checksum::combine(crc, &before, value, part.size),
                };
            }
            base64_encode(&whole.ok_or(Code::InternalError)?)
        }
        _ => {
            let mut hashes = Hashes::new(false, false, Some(kind));
            for value in &raw {
                hashes.update(value);
            }
            let (_, value) = hashes.finish(Some(kind)).checksum.ok_or(Code::InternalError)?;
            format!("{}-{}", base64_encode(&value), raw.len())
        }
    };
    Ok(BTreeMap::from([(kind.name().to_owned(), text)]))
}

/// Checksum headers of the request must agree with what the parts make.
fn check_announced(call: &Call, whole: &BTreeMap<String, String>, whole_type: &str) -> S3Result<()> {
    for kind in KINDS {
        let Some(given) = call.header(kind.header())? else { continue };
        let Some(known) = whole.get(kind.name()) else {
            return Err(S3Error::new(
                Code::InvalidRequest,
                "The checksum type of this request is not the one the upload was created with.",
            ));
        };
        // A composite may be given without its count of parts.
        let bare = known.split_once('-').map_or(known.as_str(), |(value, _)| value);
        if given.trim() != known && !(whole_type == COMPOSITE && given.trim() == bare) {
            return Err(checksum::mismatch(kind));
        }
    }
    match call.header("x-amz-checksum-type")? {
        Some(asked) if !whole.is_empty() && asked != whole_type => Err(S3Error::new(
            Code::InvalidRequest,
            format!(
                "The upload was created using the {whole_type} checksum mode. The complete request must use the same checksum mode."
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{choose, read_document, whole_checksum, whole_etag};
    use crate::errors::Code;
    use client::object::api::{CompletePart, ObjectMeta, PartInfo, UploadInfo};
    use crypto::hash::{base64_encode, md5};
    use std::collections::BTreeMap;
    use types::checksum::{Crc, CrcKind};

    fn part(number: u32, size: u64, checksum: &[u8]) -> PartInfo {
        let checksums = BTreeMap::from([("CRC32".to_owned(), base64_encode(checksum))]);
        PartInfo { number, size, etag: "00".repeat(16), modified_ms: 0, checksums }
    }

    fn upload(checksum_type: &str) -> UploadInfo {
        UploadInfo {
            key: "k".to_owned(),
            upload_id: "u".to_owned(),
            created_ms: 0,
            meta: ObjectMeta { checksum_type: checksum_type.to_owned(), ..ObjectMeta::default() },
            checksum_kind: "CRC32".to_owned(),
        }
    }

    fn crc(bytes: &[u8]) -> Vec<u8> {
        let mut crc = Crc::new(CrcKind::Crc32);
        crc.update(bytes);
        crc.finish()
    }

    #[test]
    fn etag_of_the_whole_is_made_of_the_parts() {
        let zero = "00".repeat(16);
        let expected = format!("{}-2", crypto::hash::hex_encode(&md5(&[0; 32])));
        assert_eq!(whole_etag([zero.as_str(), &zero].into_iter()), Some(expected));
        assert_eq!(whole_etag(["xyz"].into_iter()), None);
    }

    #[test]
    fn checksums_combine_or_compose() {
        let (one, two) = (part(1, 6, &crc(b"hello ")), part(2, 5, &crc(b"world")));
        let full = whole_checksum(&upload("FULL_OBJECT"), &[&one, &two]).unwrap();
        assert_eq!(full["CRC32"], base64_encode(&crc(b"hello world")));
        let composite = whole_checksum(&upload("COMPOSITE"), &[&one, &two]).unwrap();
        let joined = [crc(b"hello "), crc(b"world")].concat();
        assert_eq!(composite["CRC32"], format!("{}-2", base64_encode(&crc(&joined))));
    }

    #[test]
    fn documents_are_bounded_and_ordered() {
        let of = |parts: &str| {
            let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
            read_document(document.as_bytes()).map(|named| named.len()).map_err(|error| error.code)
        };
        let one = |number: i64| format!("<Part><PartNumber>{number}</PartNumber><ETag>\"a\"</ETag></Part>");
        assert_eq!(of(&(one(1) + &one(3))), Ok(2));
        assert_eq!(of(&(one(2) + &one(1))), Err(Code::InvalidPartOrder));
        assert_eq!(of(&(one(1) + &one(1))), Err(Code::InvalidPartOrder));
        for bad in ["", &one(0), &one(10_001), &one(1_000_000_000_000), &one(-1), "<Part/>", "<Port/>"] {
            assert_eq!(of(bad), Err(Code::MalformedXML), "{bad}");
        }
        assert_eq!(of(&one(1).repeat(200_000)), Err(Code::MalformedXML));
    }

    #[test]
    fn parts_must_be_as_named_and_large_enough() {
        let known = BTreeMap::from([(1, part(1, 100, &[0; 4])), (2, part(2, 100, &[0; 4]))]);
        let named = |number, etag: &str| CompletePart { number, etag: etag.to_owned(), checksums: BTreeMap::new() };
        let code = |named: &[CompletePart]| choose(named, &known).map(|_| ()).map_err(|error| error.code);
        let zero = "00".repeat(16);
        assert_eq!(code(&[named(1, &zero)]), Ok(()));
        assert_eq!(code(&[named(1, &zero), named(2, &zero)]), Err(Code::EntityTooSmall));
        assert_eq!(code(&[named(3, &zero)]), Err(Code::InvalidPart));
        assert_eq!(code(&[named(1, "ffff")]), Err(Code::InvalidPart));
    }
}
