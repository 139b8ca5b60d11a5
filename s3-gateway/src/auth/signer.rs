//! The client's side of Signature Version 4: signs headers and makes presigned URLs. Used by the
//! command line, the bench and the tests.
//!
//! Callers give path and query already encoded (`uri::encode_path`, `uri::encode`).

use std::cell::RefCell;

use crypto::hash::{hex_encode, hmac_sha256, sha256};
use crypto::secret::Secret;

use super::keys::signing_key;
use crate::dates;
use crate::uri;

/// The payload hash of a body that is not signed.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// A key pair.
#[derive(Clone)]
pub struct Credentials {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: Secret<String>,
}

/// Signs requests for one key, host and region.
pub struct Signer {
    credentials: Credentials,
    region: String,
    host: String,
    /// The day's derived key: deriving costs more than signing.
    key: RefCell<(String, Secret<[u8; 32]>)>,
}

/// What is to be signed.
pub struct Unsigned<'a> {
    /// `GET`...
    pub method: &'a str,
    /// Encoded, begins with a slash.
    pub path: &'a str,
    /// Encoded pairs.
    pub query: &'a [(String, String)],
    /// Further headers to be signed, names in lower case.
    pub headers: &'a [(String, String)],
    /// Hex SHA-256 of the body, or [`UNSIGNED_PAYLOAD`].
    pub payload_hash: &'a str,
}

impl Signer {
    /// `host` is what the `Host` header will say.
    pub fn new(credentials: Credentials, region: &str, host: &str) -> Signer {
        let key = RefCell::new((String::new(), Secret::new([0; 32])));
        Signer { credentials, region: region.to_owned(), host: host.to_owned(), key }
    }

    /// All headers to send: the given ones, `host`, `x-amz-date`, `x-amz-content-sha256`, `authorization`.
    pub fn sign(&self, request: &Unsigned<'_>, now_ms: u64) -> Vec<(String, String)> {
        let amz_date = dates::amz_date(now_ms);
        let mut headers: Vec<(String, String)> = request.headers.to_vec();
        headers.push(("host".to_owned(), self.host.clone()));
        headers.push(("x-amz-content-sha256".to_owned(), request.payload_hash.to_owned()));
        headers.push(("x-amz-date".to_owned(), amz_date.clone()));
        headers.sort();
        let mut query = request.query.to_vec();
        query.sort();
        let (signature, names) = self.signature(request, &query, &headers, &amz_date);
        let credential = self.credential(&amz_date);
        headers.push((
            "authorization".to_owned(),
            format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"),
        ));
        headers
    }

    /// The path and query of a URL that works without headers for `expires_s` seconds.
    pub fn presign(&self, request: &Unsigned<'_>, expires_s: u64, now_ms: u64) -> String {
        let amz_date = dates::amz_date(now_ms);
        let mut headers: Vec<(String, String)> = request.headers.to_vec();
        headers.push(("host".to_owned(), self.host.clone()));
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let mut query = request.query.to_vec();
        let credential = self.credential(&amz_date);
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &amz_date),
            ("X-Amz-Expires", &expires_s.to_string()),
            ("X-Amz-SignedHeaders", &names.join(";")),
        ] {
            query.push((name.to_owned(), uri::encode(value)));
        }
        query.sort();
        let (signature, _) = self.signature(request, &query, &headers, &amz_date);
        format!("{}?{}&X-Amz-Signature={signature}", request.path, joined(&query))
    }

    fn credential(&self, amz_date: &str) -> String {
        format!("{}/{}/{}/s3/aws4_request", self.credentials.access_key, &amz_date[..8], self.region)
    }

    /// The signature and the list of signed headers; `query` and `headers` are sorted.
    fn signature(
        &self,
        request: &Unsigned<'_>,
        query: &[(String, String)],
        headers: &[(String, String)],
        amz_date: &str,
    ) -> (String, String) {
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, joined(query));
        for (name, value) in headers {
            let words: Vec<&str> = value.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            canonical.push_str(&format!("{name}:{}\n", words.join(" ")));
        }
        canonical.push_str(&format!("\n{names}\n{}", request.payload_hash));
        let date = &amz_date[..8];
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{amz_date}\n{date}/{}/s3/aws4_request\n{}",
            self.region,
            hex_encode(&sha256(canonical.as_bytes()))
        );
        let mut key = self.key.borrow_mut();
        if key.0 != date {
            let derived = signing_key(self.credentials.secret_key.expose(), date, &self.region);
            *key = (date.to_owned(), Secret::new(derived));
        }
        (hex_encode(&hmac_sha256(key.1.expose(), &[to_sign.as_bytes()])), names)
    }
}

/// `a=b&c=d`.
pub fn joined(query: &[(String, String)]) -> String {
    let pieces: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pieces.join("&")
}
