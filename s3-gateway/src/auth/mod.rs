//! Who asks: from a raw request to [`Authenticated`], which no handler is reachable without.
//!
//! ```text
//! request --claim--> Claim --lookup--> secret --canonical + keys--> signature equal? --> Authenticated
//! ```
//!
//! Leaves to others: what the identity may touch (`operations/access.rs`), and the bytes of the
//! body, which are checked as they stream (`body/`), before anything is committed.
//!
//! Invariants: identity and signature come from the same place (header or query, never both); an
//! `x-amz-*` header that arrived unsigned is refused; comparison takes constant time; nothing here
//! prints a secret.

pub mod canonical;
pub mod chunk_signature;
pub mod claim;
mod form;
pub mod keys;
pub mod policy_document;
pub mod signer;

use client::object::api::{AccessKey, ObjectError};
use crypto::hash::{constant_time_eq, hex_decode, hex_encode, hmac_sha256, sha256};
use http::request::Parts;

use self::canonical::Spelling;
use self::chunk_signature::ChunkSigning;
use self::claim::Claim;
use self::keys::SigningKeys;
use crate::errors::{Code, S3Error, S3Result, invalid_argument};

/// How far a request's date may lie from ours, in milliseconds.
pub const SKEW_MAX_MS: u64 = 15 * 60 * 1_000;

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user the key belongs to.
    pub user: String,
    /// The key that signed.
    pub access_key: String,
    /// The root user may do everything.
    pub is_root: bool,
}

/// How the body is vouched for.
pub enum Payload {
    /// The signature says nothing about it.
    Unsigned,
    /// Its SHA-256 was signed.
    Exact([u8; 32]),
    /// aws-chunked.
    Chunked {
        /// Each chunk is signed; `None` for unsigned chunks with a trailer.
        signing: Option<ChunkSigning>,
        /// Trailing headers follow the last chunk.
        trailer: bool,
    },
}

/// A request whose signature was found right. Only this module makes one.
pub struct Authenticated {
    /// Who.
    pub identity: Identity,
    /// `20260131/us-east-1/s3/aws4_request`.
    pub scope: String,
    /// What the signature says about the body.
    pub payload: Payload,
    /// Keeps others from making one.
    #[allow(dead_code)]
    proof: Proof,
}

/// That [`verify`] has said yes.
struct Proof;

/// Checks signatures for one region.
pub struct Verifier {
    region: String,
    keys: SigningKeys,
}

impl Verifier {
    /// For the region clients must sign for.
    pub fn new(region: &str) -> Verifier {
        Verifier { region: region.to_owned(), keys: SigningKeys::new(region) }
    }

    /// Turns a raw request into `Authenticated`; `lookup` finds the secret of an access key.
    pub async fn authenticate(
        &self,
        parts: &Parts,
        now_ms: u64,
        lookup: impl AsyncFnOnce(&str) -> Result<Option<AccessKey>, ObjectError>,
    ) -> S3Result<Authenticated> {
        let claim = claim::read(parts, &self.region)?;
        claim.check_time(now_ms)?;
        claim.check_signed_headers(&parts.headers)?;
        let key = lookup(&claim.access_key)
            .await?
            .ok_or_else(|| S3Error::from(Code::InvalidAccessKeyId).field("AWSAccessKeyId", claim.access_key.clone()))?;
        claim.check_scope_date()?;
        let signing_key = self.keys.derive(&key, &claim.date);
        let signature = verify(parts, &claim, signing_key.expose())?;
        let payload = payload(&claim, signing_key, signature)?;
        let identity = Identity { user: key.user, access_key: key.access_key, is_root: key.is_root };
        Ok(Authenticated { identity, scope: claim.scope, payload, proof: Proof })
    }
}

/// Compares the signature with the one this request should have; gives it back as text.
fn verify(parts: &Parts, claim: &Claim, signing_key: &[u8]) -> S3Result<String> {
    let mut first = None;
    for spelling in [Spelling::Normal, Spelling::AsSent] {
        let canonical = canonical::request(parts, claim, spelling);
        let to_sign = string_to_sign(claim, &canonical);
        let expected = hmac_sha256(signing_key, &[to_sign.as_bytes()]);
        if hex_decode(&claim.signature).is_some_and(|given| constant_time_eq(&given, &expected)) {
            return Ok(hex_encode(&expected));
        }
        first.get_or_insert((canonical, to_sign));
        // Clients that spell a path or query in their own way sign what they send.
        if !canonical::has_other_spelling(parts) {
            break;
        }
    }
    let (canonical, to_sign) = first.unwrap_or_default();
    Err(S3Error::from(Code::SignatureDoesNotMatch)
        .field("AWSAccessKeyId", claim.access_key.clone())
        .field("StringToSign", to_sign)
        .field("SignatureProvided", claim.signature.clone())
        .field("CanonicalRequest", String::from_utf8_lossy(&canonical).into_owned()))
}

fn string_to_sign(claim: &Claim, canonical: &[u8]) -> String {
    let digest = hex_encode(&sha256(canonical));
    format!("AWS4-HMAC-SHA256\n{}\n{}\n{digest}", claim.amz_date, claim.scope)
}

/// What the signed `x-amz-content-sha256` promises about the body.
fn payload(claim: &Claim, key: crypto::secret::Secret<[u8; 32]>, seed: String) -> S3Result<Payload> {
    let signed = |trailer| Payload::Chunked {
        signing: Some(ChunkSigning::new(key, claim.amz_date.clone(), claim.scope.clone(), seed)),
        trailer,
    };
    match claim.payload_hash.as_str() {
        "UNSIGNED-PAYLOAD" => Ok(Payload::Unsigned),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(signed(false)),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(signed(true)),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Payload::Chunked { signing: None, trailer: true }),
        text => {
            let digest = hex_decode(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            digest.map(Payload::Exact).ok_or_else(|| bad_payload_hash(text))
        }
    }
}

fn bad_payload_hash(value: &str) -> S3Error {
    if value.starts_with("STREAMING-") {
        return S3Error::new(Code::NotImplemented, "This streaming signature algorithm is not implemented")
            .field("Header", "x-amz-content-sha256");
    }
    invalid_argument(
        "x-amz-content-sha256",
        value,
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
         STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
    )
}

#[cfg(test)]
mod tests;
