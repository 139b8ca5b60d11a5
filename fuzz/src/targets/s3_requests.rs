//! Heads of S3 requests: ranges, percent coding, dates, and Signature Version 4.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use client::object::api::{AccessKey, ObjectError};
use crypto::secret::Secret;
use http::request::Parts;
use s3_gateway::auth::Verifier;
use s3_gateway::auth::signer::{Credentials, Signer, UNSIGNED_PAYLOAD, Unsigned, joined};
use s3_gateway::dates;
use s3_gateway::range::{Wanted, copy_source, wanted};
use s3_gateway::target::Target;
use s3_gateway::uri::{Query, decode, encode, encode_path};

use crate::input::Input;

const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "BXAAAAAAAAAAAAAAAAAA";
const SECRET_KEY: &str = "0123456789abcdefghijABCDEFGHIJ0123456789";
const HOST: &str = "localhost:9000";

/// `Range` and `x-amz-copy-source-range`.
pub fn range(input: &mut Input) {
    let (first, last, size) = (input.number(), input.number(), input.number());
    let text = match input.below(4) {
        0 => format!("bytes={first}-{last}"),
        1 => format!("bytes={first}-"),
        2 => format!("bytes=-{last}"),
        _ => format!("bytes={}", input.text("0123456789-, ", 24)),
    };
    match wanted(Some(&text), size) {
        Wanted::Part(range) => assert!(range.start < range.end && range.end <= size, "{text} of {size}: {range:?}"),
        Wanted::Whole | Wanted::Unsatisfiable => {}
    }
    if text == format!("bytes={first}-{last}") && first <= last && first < size {
        let expected = Wanted::Part(first..last.saturating_add(1).min(size));
        assert_eq!(wanted(Some(&text), size), expected, "{text} of {size}");
    }
    if let Some(range) = copy_source(&text) {
        assert!(range.start < range.end || range.start == u64::MAX, "{text}: {range:?}");
    }
}

/// Percent coding, query strings, dates.
pub fn uri(input: &mut Input) {
    let raw = input.text("abc%20+&=/;~-_.\u{e9}", 40);
    assert_eq!(decode(encode(&raw).as_bytes(), true).as_deref(), Some(raw.as_bytes()), "a value reads back");
    assert_eq!(decode(encode_path(&raw).as_bytes(), false).as_deref(), Some(raw.as_bytes()), "a path reads back");
    let _ = decode(&input.bytes(40), input.once_in(2));
    let pairs: Vec<(String, String)> =
        (0..input.below(4)).map(|_| (input.text("abc=&%+", 6), input.text("abc=&%+", 6))).collect();
    let text: Vec<String> = pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    let read = Query::parse(&text.join("&")).expect("what was encoded is a query");
    assert_eq!(read.pairs(), pairs, "a query reads back");
    let _ = Query::parse(&raw);

    let moment_ms = input.number() % 253_402_300_800_000;
    let second_ms = moment_ms / 1000 * 1000;
    assert_eq!(dates::parse_amz_date(&dates::amz_date(moment_ms)), Some(second_ms), "a date reads back");
    assert_eq!(dates::parse_http_date(&dates::http_date(moment_ms)), Some(second_ms), "an HTTP date reads back");
    assert_eq!(dates::parse_iso8601(&dates::iso8601(moment_ms)), Some(second_ms), "a time reads back to the second");
    let digits = input.text("0123456789TZ:-. ,GMTJanMon", 32);
    let _ = (dates::parse_amz_date(&digits), dates::parse_http_date(&digits), dates::parse_iso8601(&digits));
}

/// A request as it goes over the wire.
#[derive(Clone)]
struct Wire {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

/// A signed request is taken; a changed one is taken only if it means the same; a mangled one
/// never panics.
pub fn sigv4(input: &mut Input) {
    let now_ms = 1_400_000_000_000 + input.number() % 1_000_000_000_000;
    let Some(wire) = signed(input, now_ms) else { return };
    let Some(parts) = parts_of(&wire) else { return };
    if Query::parse(parts.uri.query().unwrap_or("")).is_none() {
        return;
    }
    assert!(is_taken(&parts, now_ms), "our own signature is taken: {} {}", wire.method, wire.target);
    let _ = Target::read(&parts, &["localhost".to_owned()]);

    let mut changed = wire.clone();
    change(input, &mut changed);
    let Some(changed_parts) = parts_of(&changed) else { return };
    if is_taken(&changed_parts, now_ms) {
        assert_eq!(meaning(&parts), meaning(&changed_parts), "a changed request was taken");
    }
    let _ = Target::read(&changed_parts, &["localhost".to_owned()]);
}

fn signed(input: &mut Input, now_ms: u64) -> Option<Wire> {
    let method = input.pick(&["GET", "PUT", "POST", "DELETE", "HEAD"]).to_owned();
    let raw = input.text("abz09-._~/ +%\u{e9}", 16);
    // Some clients sign a path in a spelling of their own.
    let path = if input.once_in(4) {
        format!("/{}", raw.chars().filter(|c| c.is_ascii_graphic() && !"%?#&=".contains(*c)).collect::<String>())
    } else {
        format!("/{}", encode_path(&raw))
    };
    let query: Vec<(String, String)> = (0..input.below(4))
        .map(|_| (encode(&input.text("acl-uploads ", 8)), encode(&input.text("ab/+ =&", 8))))
        .collect();
    if query.iter().any(|(name, _)| name.is_empty()) {
        return None;
    }
    let headers: Vec<(String, String)> = (0..input.below(3))
        .map(|at| (format!("x-amz-meta-{at}"), input.text("ab  c", 12)))
        .filter(|(_, value)| value.bytes().all(|byte| (0x20..0x7f).contains(&byte)))
        .collect();
    let credentials = Credentials { access_key: ACCESS_KEY.to_owned(), secret_key: Secret::new(SECRET_KEY.to_owned()) };
    let signer = Signer::new(credentials, REGION, HOST);
    let unsigned =
        Unsigned { method: &method, path: &path, query: &query, headers: &headers, payload_hash: UNSIGNED_PAYLOAD };
    if input.once_in(3) {
        let target = signer.presign(&unsigned, 1 + input.below(604_800) as u64, now_ms);
        let mut headers = headers;
        headers.push(("host".to_owned(), HOST.to_owned()));
        return Some(Wire { method, target, headers });
    }
    let headers = signer.sign(&unsigned, now_ms);
    let target = if query.is_empty() { path } else { format!("{path}?{}", joined(&query)) };
    Some(Wire { method, target, headers })
}

fn change(input: &mut Input, wire: &mut Wire) {
    match input.below(6) {
        0 => wire.method = input.pick(&["GET", "PUT", "POST", "DELETE", "HEAD"]).to_owned(),
        1 => wire.target = damaged(input, &wire.target),
        2 => wire.headers.push(("x-amz-meta-late".to_owned(), "1".to_owned())),
        3 => {
            let at = input.below(wire.headers.len());
            wire.headers.remove(at);
        }
        4 => {
            let at = input.below(wire.headers.len());
            let copy = wire.headers[at].clone();
            wire.headers.push(copy);
        }
        _ => {
            let at = input.below(wire.headers.len());
            wire.headers[at].1 = damaged(input, &wire.headers[at].1);
        }
    }
}

fn damaged(input: &mut Input, text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    input.damage(&mut bytes);
    bytes.iter_mut().for_each(|byte| *byte &= 0x7f);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `None` if it is no HTTP.
fn parts_of(wire: &Wire) -> Option<Parts> {
    let mut builder = http::Request::builder().method(wire.method.as_str()).uri(wire.target.as_str());
    for (name, value) in &wire.headers {
        builder = builder.header(name.as_str(), value.as_bytes());
    }
    Some(builder.body(()).ok()?.into_parts().0)
}

fn is_taken(parts: &Parts, now_ms: u64) -> bool {
    let verifier = Verifier::new(REGION);
    let lookup = async |name: &str| -> Result<Option<AccessKey>, ObjectError> {
        Ok((name == ACCESS_KEY).then(|| AccessKey {
            access_key: ACCESS_KEY.to_owned(),
            secret_key: Secret::new(SECRET_KEY.to_owned()),
            user: "fuzz".to_owned(),
            is_root: false,
            created_ms: 0,
        }))
    };
    let future = pin!(verifier.authenticate(parts, now_ms, lookup));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome.is_ok(),
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// What a handler would see of a request, the signature and blanks aside.
#[derive(PartialEq, Eq, Debug)]
struct Meaning {
    method: String,
    path: Option<Vec<u8>>,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

fn meaning(parts: &Parts) -> Meaning {
    let query = Query::parse(parts.uri.query().unwrap_or("")).unwrap_or_default();
    let mut pairs: Vec<(String, String)> =
        query.pairs().iter().filter(|(name, _)| name != "X-Amz-Signature").cloned().collect();
    pairs.sort();
    let mut headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .filter(|(name, _)| *name == "host" || name.as_str().starts_with("x-amz-"))
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect();
    headers.sort();
    let path = decode(parts.uri.path().as_bytes(), false);
    Meaning { method: parts.method.to_string(), path, query: pairs, headers }
}
