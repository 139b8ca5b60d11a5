//! The canonical request of Signature Version 4, S3's flavour: paths are encoded once and not
//! normalised (`//`, `/./` and `/../` stay as they are).
//!
//! Two spellings are tried. `Normal` decodes what was sent and encodes it by the rule, which is
//! what the rule's authors meant; `AsSent` takes the bytes of path and query as they stand, which
//! is what some clients sign. Both are one to one with the request, so neither opens a door.

use http::HeaderMap;
use http::request::Parts;

use super::claim::{Carrier, Claim};
use crate::uri;

/// How path and query are spelt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spelling {
    /// Decoded, then encoded by the rule.
    Normal,
    /// The bytes as they came.
    AsSent,
}

/// Whether [`Spelling::AsSent`] may differ from [`Spelling::Normal`].
pub fn has_other_spelling(parts: &Parts) -> bool {
    let odd = |byte: u8| !uri::is_unreserved(byte) && !matches!(byte, b'/' | b'&' | b'=');
    parts.uri.path().bytes().any(odd) || parts.uri.query().is_some_and(|query| query.bytes().any(odd))
}

/// The canonical request's bytes (header values need not be UTF-8).
pub fn request(parts: &Parts, claim: &Claim, spelling: Spelling) -> Vec<u8> {
    let mut text = String::with_capacity(1024);
    text.push_str(parts.method.as_str());
    text.push('\n');
    push_path(&mut text, parts.uri.path(), spelling);
    text.push('\n');
    push_query(&mut text, parts.uri.query().unwrap_or(""), claim.carrier == Carrier::Query, spelling);
    text.push('\n');
    let mut out = text.into_bytes();
    for name in &claim.signed_headers {
        push_header(&mut out, name, &parts.headers);
    }
    out.push(b'\n');
    out.extend_from_slice(claim.signed_headers_text.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(claim.payload_hash.as_bytes());
    out
}

fn push_path(out: &mut String, path: &str, spelling: Spelling) {
    let plain = path.bytes().all(|byte| uri::is_unreserved(byte) || byte == b'/');
    match uri::decode(path.as_bytes(), false) {
        Some(decoded) if spelling == Spelling::Normal && !plain => uri::push_encoded(out, &decoded, true),
        _ => out.push_str(path),
    }
}

/// Names and values encoded, sorted; the signature itself left out.
fn push_query(out: &mut String, query: &str, presigned: bool, spelling: Spelling) {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for piece in query.split('&').filter(|piece| !piece.is_empty()) {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        if presigned && name == "X-Amz-Signature" {
            continue;
        }
        pairs.push((respelt(name, spelling), respelt(value, spelling)));
    }
    pairs.sort();
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
}

fn respelt(raw: &str, spelling: Spelling) -> String {
    match uri::decode(raw.as_bytes(), true) {
        Some(decoded) if spelling == Spelling::Normal => {
            let mut out = String::with_capacity(raw.len());
            uri::push_encoded(&mut out, &decoded, false);
            out
        }
        _ => raw.to_owned(),
    }
}

/// `name:value\n`, runs of blanks made one, several values joined by commas.
fn push_header(out: &mut Vec<u8>, name: &str, headers: &HeaderMap) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    for (index, value) in headers.get_all(name).iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut words = value.as_bytes().split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        if let Some(first) = words.next() {
            out.extend_from_slice(first);
        }
        for word in words {
            out.push(b' ');
            out.extend_from_slice(word);
        }
    }
    out.push(b'\n');
}
