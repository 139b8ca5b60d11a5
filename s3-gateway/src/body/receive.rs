//! From a payload into a writer, with everything that was announced about it checked.
//!
//! Invariant: `Received` exists only if length, signatures, Content-MD5, signed SHA-256 and
//! checksum were right; callers commit with nothing less.

use std::collections::BTreeMap;

use bytes::Bytes;
use client::object::writer::ObjectWriter;
use crypto::hash::{base64_decode, base64_encode, constant_time_eq, hex_encode};
use http::HeaderMap;

use super::checksum::{self, Announced, ChecksumKind};
use super::hashing::{Digests, HashPipeline, Hashes};
use super::payload::Payload;
use crate::errors::{Code, S3Error, S3Result};
use crate::gateway::Gateway;

/// What a body turned out to be.
#[derive(Debug)]
pub struct Received {
    /// Its MD5 in hex: the ETag.
    pub etag: String,
    /// Kind to base64 value.
    pub checksums: BTreeMap<String, String>,
}

/// What a request says its body must be.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// `Content-MD5`.
    pub md5: Option<Vec<u8>>,
    /// `x-amz-checksum-*`.
    pub announced: Announced,
}

/// Reads `Content-MD5` and the checksum headers.
pub fn expected(headers: &HeaderMap) -> S3Result<Expected> {
    let md5 = match headers.get("content-md5") {
        None => None,
        Some(value) => {
            let raw = base64_decode(value.to_str().unwrap_or("").trim()).filter(|raw| raw.len() == 16);
            Some(raw.ok_or(Code::InvalidDigest)?)
        }
    };
    Ok(Expected { md5, announced: checksum::announced(headers)? })
}

/// Streams the payload into the writer. `store` is a kind to compute even if none was announced.
pub async fn into_writer(
    gateway: &Gateway,
    payload: &mut Payload,
    writer: &mut ObjectWriter,
    expected: &Expected,
    store: Option<ChecksumKind>,
) -> S3Result<Received> {
    let kind = expected.announced.kind.or(store);
    let hashes = Hashes::new(true, payload.signed_sha256().is_some(), kind);
    let mut pipeline = HashPipeline::new(&gateway.platform, &gateway.md5_queue, hashes, kind);
    while let Some(piece) = payload.next().await? {
        pipeline.update(&piece).await?;
        writer.write(piece).await?;
    }
    let digests = pipeline.finish().await?;
    check(payload, expected, &digests)?;
    received(digests)
}

/// What was received, once everything announced about it was found right.
fn received(digests: Digests) -> S3Result<Received> {
    let md5 = digests.md5.ok_or(Code::InternalError)?;
    let checksums = digests.checksum.map(|(kind, raw)| (kind.name().to_owned(), base64_encode(&raw)));
    Ok(Received { etag: hex_encode(&md5), checksums: checksums.into_iter().collect() })
}

/// As [`into_writer`] for bytes that come piece by piece out of something else, a form say.
pub struct Receiver {
    pipeline: HashPipeline,
    expected: Expected,
    len: u64,
}

impl Receiver {
    /// Nothing yet.
    pub fn new(gateway: &Gateway, expected: Expected) -> Receiver {
        let kind = expected.announced.kind;
        let pipeline = HashPipeline::new(&gateway.platform, &gateway.md5_queue, Hashes::new(true, false, kind), kind);
        Receiver { pipeline, expected, len: 0 }
    }

    /// Bytes so far.
    pub fn received_len(&self) -> u64 {
        self.len
    }

    /// Takes a piece.
    pub async fn push(&mut self, piece: Bytes, writer: &mut ObjectWriter) -> S3Result<()> {
        self.len += piece.len() as u64;
        self.pipeline.update(&piece).await?;
        writer.write(piece).await?;
        Ok(())
    }

    /// Checks the whole.
    pub async fn finish(self) -> S3Result<Received> {
        let digests = self.pipeline.finish().await?;
        check_digests(None, None, &self.expected, &digests)?;
        received(digests)
    }
}

/// Reads a small document whole and checks it like any other body. `digest_required` for requests
/// that S3 takes only with a Content-MD5 or checksum.
pub async fn document(
    payload: Payload,
    headers: &HeaderMap,
    len_max: usize,
    digest_required: bool,
) -> S3Result<Vec<u8>> {
    let expected = expected(headers)?;
    if digest_required && expected.md5.is_none() && expected.announced.kind.is_none() {
        return Err(S3Error::new(
            Code::InvalidRequest,
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
        ));
    }
    let (bytes, payload) = payload.collect(len_max, Code::MalformedXML).await?;
    let kind = expected.announced.kind;
    let mut hashes = Hashes::new(expected.md5.is_some(), payload.signed_sha256().is_some(), kind);
    hashes.update(&bytes);
    check(&payload, &expected, &hashes.finish(kind))?;
    Ok(bytes)
}

fn check(payload: &Payload, expected: &Expected, digests: &Digests) -> S3Result<()> {
    let trailer = expected.announced.kind.and_then(|kind| payload.trailer(kind.header()));
    check_digests(payload.signed_sha256(), trailer, expected, digests)
}

fn check_digests(
    signed_sha256: Option<[u8; 32]>,
    trailer: Option<&str>,
    expected: &Expected,
    digests: &Digests,
) -> S3Result<()> {
    if let (Some(signed), Some(found)) = (signed_sha256, digests.sha256)
        && !constant_time_eq(&signed, &found)
    {
        return Err(S3Error::from(Code::XAmzContentSHA256Mismatch)
            .field("ClientComputedContentSHA256", hex_encode(&signed))
            .field("S3ComputedContentSHA256", hex_encode(&found)));
    }
    if let (Some(given), Some(found)) = (&expected.md5, digests.md5)
        && given[..] != found[..]
    {
        return Err(S3Error::new(Code::BadDigest, "The Content-MD5 you specified did not match what we received.")
            .field("ExpectedDigest", base64_encode(given))
            .field("CalculatedDigest", base64_encode(&found)));
    }
    let (Some(kind), Some((_, found))) = (expected.announced.kind, &digests.checksum) else { return Ok(()) };
    let given = match &expected.announced.value {
        Some(value) => value.clone(),
        None => {
            let text = trailer.ok_or(Code::MalformedTrailerError)?;
            checksum::decode(kind, text).ok_or_else(|| checksum::invalid(kind))?
        }
    };
    if given == *found { Ok(()) } else { Err(checksum::mismatch(kind)) }
}
