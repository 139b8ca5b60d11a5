//! Reads what a request claims about itself: key, scope, date, signed headers, signature. Pure.
//!
//! Invariant: a claim comes whole from the `Authorization` header or whole from the query, never
//! from both; nothing in it is believed before the signature is checked.

use http::HeaderMap;
use http::request::Parts;

use super::SKEW_MAX_MS;
use crate::dates;
use crate::errors::{Code, S3Error, S3Result, invalid_argument};
use crate::uri::Query;

pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const EXPIRES_MAX_S: i64 = 604_800;
const QUERY_NAMES: [&str; 6] =
    ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Expires"];

/// Where the claim was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// The `Authorization` header.
    Header,
    /// A presigned query.
    Query,
}

/// What a request says about itself.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Header or query.
    pub carrier: Carrier,
    /// The public half of the key.
    pub access_key: String,
    /// `20260131`, of the scope.
    pub date: String,
    /// `20260131/us-east-1/s3/aws4_request`.
    pub scope: String,
    /// Lower-case names in the order they were signed.
    pub signed_headers: Vec<String>,
    /// The same as it was written.
    pub signed_headers_text: String,
    /// As given.
    pub signature: String,
    /// `20260131T120000Z`.
    pub amz_date: String,
    /// The same in milliseconds since 1970.
    pub signed_ms: u64,
    /// Seconds a presigned request lives.
    pub expires_s: Option<u64>,
    /// `x-amz-content-sha256`, or what stands for it.
    pub payload_hash: String,
}

/// Reads the claim of a request.
pub fn read(parts: &Parts, region: &str) -> S3Result<Claim> {
    let query = Query::parse(parts.uri.query().unwrap_or("")).ok_or(Code::InvalidURI)?;
    for name in ["host", "authorization", "x-amz-date", "x-amz-content-sha256"] {
        if parts.headers.get_all(name).iter().nth(1).is_some() {
            return Err(invalid_argument(name, "", "This header must not be repeated"));
        }
    }
    refuse_session_tokens(parts, &query)?;
    let authorization = text_header(&parts.headers, "authorization")?.filter(|value| !value.trim().is_empty());
    let in_query = QUERY_NAMES[..3].iter().any(|name| query.has(name)) || query.has("Signature");
    match (authorization, in_query) {
        (Some(_), true) => Err(invalid_argument(
            "Authorization",
            "",
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string \
             parameter or the Authorization header should be specified",
        )),
        (Some(value), false) => from_header(&value, &parts.headers, region),
        (None, true) => from_query(&query, &parts.headers, region),
        (None, false) => Err(Code::AccessDenied.into()),
    }
}

impl Claim {
    /// The request's date against ours.
    pub fn check_time(&self, now_ms: u64) -> S3Result<()> {
        let early = self.signed_ms > now_ms.saturating_add(SKEW_MAX_MS);
        let Some(expires_s) = self.expires_s else {
            if early || now_ms > self.signed_ms.saturating_add(SKEW_MAX_MS) {
                return Err(S3Error::from(Code::RequestTimeTooSkewed)
                    .field("RequestTime", self.amz_date.clone())
                    .field("ServerTime", dates::iso8601(now_ms))
                    .field("MaxAllowedSkewMilliseconds", SKEW_MAX_MS.to_string()));
            }
            return Ok(());
        };
        if early {
            return Err(S3Error::new(Code::AccessDenied, "Request is not yet valid")
                .field("ServerTime", dates::iso8601(now_ms)));
        }
        let end_ms = self.signed_ms.saturating_add(expires_s * 1_000);
        if now_ms > end_ms {
            return Err(S3Error::new(Code::AccessDenied, "Request has expired")
                .field("X-Amz-Expires", expires_s.to_string())
                .field("Expires", dates::iso8601(end_ms))
                .field("ServerTime", dates::iso8601(now_ms)));
        }
        Ok(())
    }

    /// The scope's date is the request's. Looked at after the key: strangers are strangers first.
    pub fn check_scope_date(&self) -> S3Result<()> {
        let (date, amz_date) = (&self.date, &self.amz_date);
        if amz_date.get(..8) == Some(date.as_str()) {
            return Ok(());
        }
        let why =
            format!("Invalid credential date \"{date}\". This date is not the same as X-Amz-Date: \"{amz_date}\".");
        Err(match self.carrier {
            Carrier::Header => S3Error::new(
                Code::AuthorizationHeaderMalformed,
                format!("The authorization header is malformed; {why}"),
            ),
            Carrier::Query => S3Error::new(Code::AuthorizationQueryParametersError, why),
        })
    }

    /// Every signed header is there; `host` and all `x-amz-*` that arrived are signed.
    pub fn check_signed_headers(&self, headers: &HeaderMap) -> S3Result<()> {
        let not_signed = |name: &str| {
            S3Error::new(Code::AccessDenied, "There were headers present in the request which were not signed")
                .field("HeadersNotSigned", name)
        };
        for name in &self.signed_headers {
            if !headers.contains_key(name.as_str()) {
                return Err(S3Error::new(Code::AccessDenied, "A signed header is absent from the request")
                    .field("HeadersSignedButAbsent", name.clone()));
            }
        }
        let signed = |name: &str| self.signed_headers.iter().any(|known| known == name);
        if !signed("host") {
            return Err(not_signed("host"));
        }
        match headers.keys().map(http::HeaderName::as_str).find(|name| name.starts_with("x-amz-") && !signed(name)) {
            Some(name) => Err(not_signed(name)),
            None => Ok(()),
        }
    }
}

fn from_header(value: &str, headers: &HeaderMap, region: &str) -> S3Result<Claim> {
    let malformed = |why: &str| {
        S3Error::new(Code::AuthorizationHeaderMalformed, format!("The authorization header is malformed; {why}"))
    };
    let value = value.trim();
    let Some(rest) = value.strip_prefix(ALGORITHM) else { return Err(other_mechanism(value)) };
    if !rest.starts_with([' ', '\t']) {
        return Err(other_mechanism(value));
    }
    let (mut credential, mut signed, mut signature) = (None, None, None);
    for piece in rest.split(',') {
        let (name, value) = piece.trim().split_once('=').ok_or_else(|| malformed("a field has no value."))?;
        let slot = match name.trim() {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed,
            "Signature" => &mut signature,
            _ => return Err(malformed("it has an unknown field.")),
        };
        if slot.replace(value.trim().to_owned()).is_some() {
            return Err(malformed("a field is repeated."));
        }
    }
    let credential = credential.ok_or_else(|| malformed("missing Credential."))?;
    let signed = signed.ok_or_else(|| malformed("missing SignedHeaders."))?;
    let signature = signature.ok_or_else(|| malformed("missing Signature."))?;
    let (amz_date, signed_ms) = header_date(headers)?;
    let payload_hash = text_header(headers, "x-amz-content-sha256")?.ok_or_else(|| {
        S3Error::new(Code::InvalidRequest, "Missing required header for this request: x-amz-content-sha256")
    })?;
    let wrong = |why: String| malformed(&why);
    let scope = Scope::read(&credential, region, &wrong)?;
    let signed_headers = header_names(&signed).ok_or_else(|| malformed("SignedHeaders is not valid."))?;
    Ok(Claim {
        carrier: Carrier::Header,
        access_key: scope.access_key,
        date: scope.date,
        scope: scope.text,
        signed_headers,
        signed_headers_text: signed,
        signature,
        amz_date,
        signed_ms,
        expires_s: None,
        payload_hash: payload_hash.trim().to_owned(),
    })
}

fn from_query(query: &Query, headers: &HeaderMap, region: &str) -> S3Result<Claim> {
    let malformed = |why: &str| S3Error::new(Code::AuthorizationQueryParametersError, why.to_owned());
    if query.has("Signature") && !query.has("X-Amz-Signature") {
        return Err(other_mechanism("AWS query:signature"));
    }
    let value = |name: &str| match query.count(name) {
        1 => Ok(query.get(name).unwrap_or("").to_owned()),
        0 => Err(malformed(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, \
             X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        )),
        _ => Err(malformed("An authentication parameter is repeated.")),
    };
    for name in QUERY_NAMES {
        value(name)?;
    }
    if value("X-Amz-Algorithm")? != ALGORITHM {
        return Err(malformed("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let amz_date = value("X-Amz-Date")?;
    let signed_ms = dates::parse_amz_date(&amz_date)
        .ok_or_else(|| malformed("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""))?;
    let expires: i64 = value("X-Amz-Expires")?.parse().map_err(|_| malformed("X-Amz-Expires should be a number"))?;
    match expires {
        ..0 => return Err(malformed("X-Amz-Expires must be non-negative")),
        0 => return Err(malformed("X-Amz-Expires must be at least 1 second")),
        _ if expires > EXPIRES_MAX_S => {
            return Err(malformed(
                "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less \
                 than 604800 seconds",
            ));
        }
        _ => {}
    }
    let wrong = |why: String| malformed(&format!("Error parsing the X-Amz-Credential parameter; {why}"));
    let scope = Scope::read(&value("X-Amz-Credential")?, region, &wrong)?;
    let signed = value("X-Amz-SignedHeaders")?;
    let signed_headers = header_names(&signed).ok_or_else(|| malformed("X-Amz-SignedHeaders is not valid."))?;
    let payload_hash = match text_header(headers, "x-amz-content-sha256")? {
        Some(value) => value,
        None => query.get("X-Amz-Content-Sha256").unwrap_or("UNSIGNED-PAYLOAD").to_owned(),
    };
    Ok(Claim {
        carrier: Carrier::Query,
        access_key: scope.access_key,
        date: scope.date,
        scope: scope.text,
        signed_headers,
        signed_headers_text: signed,
        signature: value("X-Amz-Signature")?,
        amz_date,
        signed_ms,
        expires_s: u64::try_from(expires).ok(),
        payload_hash,
    })
}

/// The parts of `KEY/20260131/us-east-1/s3/aws4_request`.
pub(super) struct Scope {
    pub access_key: String,
    pub date: String,
    pub text: String,
}

impl Scope {
    pub fn read(credential: &str, region: &str, wrong: &dyn Fn(String) -> S3Error) -> S3Result<Scope> {
        // The key itself may contain slashes, so the scope is taken from the end.
        let mut pieces = credential.rsplitn(5, '/');
        let (Some(end), Some(service), Some(scope_region), Some(date), Some(access_key)) =
            (pieces.next(), pieces.next(), pieces.next(), pieces.next(), pieces.next())
        else {
            return Err(wrong(
                "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"."
                    .to_owned(),
            ));
        };
        if end != "aws4_request" {
            return Err(wrong(format!("incorrect terminal \"{end}\". This endpoint uses \"aws4_request\".")));
        }
        if service != "s3" {
            return Err(wrong(format!("incorrect service \"{service}\". This endpoint belongs to \"s3\".")));
        }
        if scope_region != region {
            let why = format!("the region '{scope_region}' is wrong; expecting '{region}'");
            return Err(wrong(why).field("Region", region));
        }
        if access_key.is_empty() {
            return Err(wrong("the Credential names no access key.".to_owned()));
        }
        let text = format!("{date}/{scope_region}/{service}/{end}");
        Ok(Scope { access_key: access_key.to_owned(), date: date.to_owned(), text })
    }
}

/// `a;b;c`: lower-case, none empty, none twice.
fn header_names(text: &str) -> Option<Vec<String>> {
    let names: Vec<String> = text.split(';').map(str::to_owned).collect();
    let fine =
        |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase());
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    (names.iter().all(fine) && sorted.len() == names.len()).then_some(names)
}

/// The date a header-signed request was made at, and in the form it was signed with.
fn header_date(headers: &HeaderMap) -> S3Result<(String, u64)> {
    let missing = || S3Error::new(Code::AccessDenied, "AWS authentication requires a valid Date or x-amz-date header");
    if let Some(value) = text_header(headers, "x-amz-date")? {
        let value = value.trim().to_owned();
        let ms = dates::parse_amz_date(&value).ok_or_else(missing)?;
        return Ok((value, ms));
    }
    let value = text_header(headers, "date")?.ok_or_else(missing)?;
    let value = value.trim();
    let ms = dates::parse_amz_date(value).or_else(|| dates::parse_http_date(value)).ok_or_else(missing)?;
    Ok((dates::amz_date(ms), ms))
}

fn other_mechanism(value: &str) -> S3Error {
    if value.starts_with("AWS ") && value.contains(':') || value.starts_with("AWS query") {
        return S3Error::new(
            Code::InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        );
    }
    invalid_argument("Authorization", "", "Unsupported Authorization Type")
}

/// Temporary credentials are not given out here, so a token is always a mistake.
fn refuse_session_tokens(parts: &Parts, query: &Query) -> S3Result<()> {
    let header = parts.headers.contains_key("x-amz-security-token");
    if header || query.has("X-Amz-Security-Token") { Err(Code::InvalidToken.into()) } else { Ok(()) }
}

fn text_header(headers: &HeaderMap, name: &'static str) -> S3Result<Option<String>> {
    match headers.get(name).map(http::HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text.to_owned())),
        Some(Err(_)) => Err(invalid_argument(name, "", "This header must be ASCII text")),
    }
}
