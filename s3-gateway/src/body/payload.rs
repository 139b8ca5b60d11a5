//! The body of a request as decoded pieces: length checked, chunks opened, signatures verified.
//!
//! Invariant: `next` gives `None` only if exactly the announced bytes came and every signature and
//! the signed hash's owner can rely on it; anything else is an error. Reading waits for the client
//! at most [`Payload::idle`] between two pieces, so a stalled client frees what it holds.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use platform::Platform;

use super::chunked::Decoder;
use crate::auth;
use crate::errors::{Code, S3Error, S3Result, header_not_implemented};

/// The largest body of one request, in bytes.
pub const BODY_MAX: u64 = 5 << 30;

/// A body being read.
pub struct Payload {
    platform: Platform,
    incoming: Incoming,
    decoder: Option<Decoder>,
    ready: VecDeque<Bytes>,
    /// Decoded bytes still to come.
    left: u64,
    /// Decoded bytes in all.
    len: u64,
    idle: Duration,
    trailers: Vec<(String, String)>,
    /// The SHA-256 that was signed for the whole body.
    signed_sha256: Option<[u8; 32]>,
}

/// How long the decoded body is, from its headers. `Ok(None)`: no length was given at all.
pub fn decoded_len(headers: &HeaderMap, payload: &auth::Payload) -> S3Result<Option<u64>> {
    let number = |name: &'static str| match headers.get(name) {
        None => Ok(None),
        Some(value) => {
            let text = value.to_str().unwrap_or("");
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let bad = || S3Error::new(Code::BadRequest, format!("The {name} header is not a length"));
            if digits { text.parse::<u64>().map(Some).map_err(|_| bad()) } else { Err(bad()) }
        }
    };
    if matches!(payload, auth::Payload::Chunked { .. }) {
        return match number("x-amz-decoded-content-length")? {
            Some(len) => Ok(Some(len)),
            None => Err(Code::MissingContentLength.into()),
        };
    }
    if headers.contains_key(http::header::TRANSFER_ENCODING) && !headers.contains_key(http::header::CONTENT_LENGTH) {
        // A length is needed before space is taken.
        return Err(Code::MissingContentLength.into());
    }
    number("content-length")
}

impl Payload {
    /// `len` is what [`decoded_len`] gave.
    pub fn new(
        platform: &Platform,
        incoming: Incoming,
        headers: &HeaderMap,
        payload: auth::Payload,
        len: u64,
        idle: Duration,
    ) -> S3Result<Payload> {
        if len > BODY_MAX {
            return Err(S3Error::from(Code::EntityTooLarge)
                .field("ProposedSize", len.to_string())
                .field("MaxSizeAllowed", BODY_MAX.to_string()));
        }
        let aws_chunked = headers.get_all(http::header::CONTENT_ENCODING).iter().any(|value| {
            value.to_str().unwrap_or("").split(',').any(|coding| coding.trim().eq_ignore_ascii_case("aws-chunked"))
        });
        let (decoder, signed_sha256) = match payload {
            auth::Payload::Unsigned => (None, None),
            auth::Payload::Exact(sha256) => (None, Some(sha256)),
            auth::Payload::Chunked { signing, trailer } => (Some(Decoder::new(signing, trailer)), None),
        };
        if decoder.is_none() && aws_chunked && headers.contains_key("x-amz-decoded-content-length") {
            return Err(header_not_implemented("Content-Encoding"));
        }
        Ok(Payload {
            platform: platform.clone(),
            incoming,
            decoder,
            ready: VecDeque::new(),
            left: len,
            len,
            idle,
            trailers: Vec::new(),
            signed_sha256,
        })
    }

    /// The body of a form, which says nothing of itself but its length.
    pub fn form(platform: &Platform, incoming: Incoming, len: u64, idle: Duration) -> Payload {
        Payload {
            platform: platform.clone(),
            incoming,
            decoder: None,
            ready: VecDeque::new(),
            left: len,
            len,
            idle,
            trailers: Vec::new(),
            signed_sha256: None,
        }
    }

    /// Decoded bytes in all.
    pub fn whole_len(&self) -> u64 {
        self.len
    }

    /// The SHA-256 the whole body must have, if it was signed.
    pub fn signed_sha256(&self) -> Option<[u8; 32]> {
        self.signed_sha256
    }

    /// A trailing header; complete after `next` gave `None`.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The next decoded piece.
    pub async fn next(&mut self) -> S3Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                let len = piece.len() as u64;
                self.left = self.left.checked_sub(len).ok_or_else(|| {
                    S3Error::new(Code::IncompleteBody, "The body is longer than its announced length")
                })?;
                return Ok(Some(piece));
            }
            let Some(data) = self.wire().await? else { break };
            match &mut self.decoder {
                None => self.ready.push_back(data),
                Some(decoder) => {
                    let mut decoded = Vec::new();
                    decoder.push(data, &mut decoded)?;
                    self.ready.extend(decoded);
                }
            }
        }
        if let Some(decoder) = self.decoder.take() {
            self.trailers = decoder.finish()?;
        }
        if self.left > 0 { Err(Code::IncompleteBody.into()) } else { Ok(None) }
    }

    /// The whole body, if it is at most `len_max` bytes.
    pub async fn collect(mut self, len_max: usize, too_long: Code) -> S3Result<(Vec<u8>, Payload)> {
        if self.len > len_max as u64 {
            return Err(too_long.into());
        }
        let mut out = Vec::new();
        while let Some(piece) = self.next().await? {
            out.extend_from_slice(&piece);
        }
        Ok((out, self))
    }

    /// The next bytes off the connection.
    async fn wire(&mut self) -> S3Result<Option<Bytes>> {
        loop {
            let frame = match futures_util::FutureExt::now_or_never(self.incoming.frame()) {
                Some(frame) => frame,
                None => self
                    .platform
                    .clock()
                    .timeout(self.idle, self.incoming.frame())
                    .await
                    .map_err(|_| S3Error::from(Code::RequestTimeout))?,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    tracing::debug!(%error, "a body broke off");
                    return Err(Code::IncompleteBody.into());
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    // Trailers of the HTTP coding itself say nothing to S3.
                    Err(_) => {}
                },
            }
        }
    }
}
