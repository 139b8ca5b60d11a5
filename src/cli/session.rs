//! A command's way to a running server: the admin API first, which says where S3 is.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use crypto::hash::{hex_encode, sha256};
use platform::Platform;
use platform::tls::ClientTls;
use s3_gateway::auth::signer::{Credentials, Signer, UNSIGNED_PAYLOAD, Unsigned, joined};
use s3_gateway::http::client::{Answer, ClientError, Connection, RequestBody};
use s3_gateway::uri;
use s3_gateway::xml::read::{self, Element, Limits};
use serde_json::Value;

use super::credentials;
use super::failure::Failure;
use crate::args::Access;

/// The region the server's signatures are made for.
pub const REGION: &str = "us-east-1";
/// Bounds of the documents a server answers with.
const DOCUMENT: Limits = Limits { bytes: 64 << 20, elements: 1 << 20 };
/// Idle connections kept.
const SPARE_MAX: usize = 16;

/// Speaks to the admin API.
pub struct Admin {
    platform: Platform,
    addr: String,
    signer: Signer,
    timeout: Duration,
}

/// Speaks S3.
pub struct S3 {
    platform: Platform,
    /// host:port.
    pub addr: String,
    /// Whether it is served with TLS.
    pub tls: Option<ClientTls>,
    credentials: Credentials,
    signer: Signer,
    timeout: Duration,
    spare: RefCell<Vec<Connection>>,
}

/// One request to S3.
pub struct Call<'a> {
    /// `GET`...
    pub method: &'a str,
    /// Bucket and key, not encoded; empty for the service.
    pub path: &'a str,
    /// Not encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Names in lower case.
    pub headers: &'a [(String, String)],
}

/// A whole answer.
pub struct Got {
    /// The ETag header, with its quotes.
    pub etag: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Admin {
    /// For the server that `access` names.
    pub fn new(platform: &Platform, access: &Access) -> Result<Admin, Failure> {
        let credentials = credentials::read(&access.credentials)?;
        let signer = Signer::new(credentials, REGION, &access.admin_addr);
        let timeout = Duration::from_secs(access.timeout);
        Ok(Admin { platform: platform.clone(), addr: access.admin_addr.clone(), signer, timeout })
    }

    /// Sends a request; gives the JSON it is answered with (null if none).
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let body = Bytes::from(body.map(Value::to_string).unwrap_or_default());
        let bytes = self.call_for_bytes(method, path, body).await?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Sends a request; gives what it is answered with.
    pub async fn call_for_bytes(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let payload_hash = hex_encode(&sha256(&body));
        let request = Unsigned { method, path, query: &[], headers: &[], payload_hash: &payload_hash };
        let headers = self.signer.sign(&request, self.platform.clock().unix_ms());
        let exchange = async {
            let mut connection = Connection::open(&self.platform, &self.addr, None).await?;
            connection.call(method, path, &headers, body).await
        };
        let answer = within(&self.platform, self.timeout, exchange).await;
        let (status, _, bytes) = answer.map_err(|error| Failure::no_answer(&error))?;
        if status.is_success() {
            return Ok(bytes);
        }
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let text = |name: &str| value["error"][name].as_str().unwrap_or("").to_owned();
        Err(Failure::refused(&format!("{method} {path}"), status.as_u16(), &text("code"), &text("message")))
    }
}

impl S3 {
    /// Asks the admin API where S3 is.
    pub async fn find(platform: &Platform, access: &Access) -> Result<S3, Failure> {
        let status = Admin::new(platform, access)?.call("GET", "/v1/status", None).await?;
        let addr = status["s3"].as_str().unwrap_or("");
        let (addr, with_tls) = match (addr.strip_prefix("https://"), addr.strip_prefix("http://")) {
            (Some(addr), _) => (addr, true),
            (None, Some(addr)) => (addr, false),
            (None, None) => (addr, status["s3_tls"].as_bool().unwrap_or(false)),
        };
        if addr.is_empty() {
            return Err(Failure::failed("the server does not say where S3 is"));
        }
        let credentials = credentials::read(&access.credentials)?;
        Ok(S3 {
            platform: platform.clone(),
            addr: addr.to_owned(),
            tls: if with_tls { Some(trust(access)?) } else { None },
            signer: Signer::new(credentials.clone(), REGION, addr),
            credentials,
            timeout: Duration::from_secs(access.timeout),
            spare: RefCell::new(Vec::new()),
        })
    }

    /// A signer of its own, for a bench worker.
    pub fn signer(&self) -> Signer {
        Signer::new(self.credentials.clone(), REGION, &self.addr)
    }

    /// The machine.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Sends a request and waits for the answer's head. The connection is the answer's alone.
    pub async fn send(&self, call: &Call<'_>, body: RequestBody) -> Result<(Answer, Connection), Failure> {
        let payload_hash = match &body {
            RequestBody::Whole(bytes) if bytes.len() <= 64 << 10 => hex_encode(&sha256(bytes)),
            RequestBody::Whole(_) | RequestBody::Channel { .. } => UNSIGNED_PAYLOAD.to_owned(),
        };
        let path = format!("/{}", uri::encode_path(call.path));
        let query: Vec<(String, String)> =
            call.query.iter().map(|(name, value)| (uri::encode(name), uri::encode(value))).collect();
        let request = Unsigned {
            method: call.method,
            path: &path,
            query: &query,
            headers: call.headers,
            payload_hash: &payload_hash,
        };
        let headers = self.signer.sign(&request, self.platform.clock().unix_ms());
        let target = if query.is_empty() { path } else { format!("{path}?{}", joined(&query)) };
        let exchange = async {
            let spare = self.spare.borrow_mut().pop().filter(|connection| !connection.is_closed());
            let mut connection = match spare {
                Some(connection) => connection,
                None => Connection::open(&self.platform, &self.addr, self.tls.as_ref()).await?,
            };
            let answer = connection.send(call.method, &target, &headers, body).await?;
            Ok((answer, connection))
        };
        let answer = within(&self.platform, self.timeout, exchange).await;
        let (answer, connection) = answer.map_err(|error| Failure::no_answer(&error))?;
        if answer.status.is_success() {
            return Ok((answer, connection));
        }
        Err(self.refusal(call, answer).await)
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&self, call: &Call<'_>, body: Bytes) -> Result<Got, Failure> {
        self.call_with(call, RequestBody::Whole(body)).await
    }

    /// [`S3::call`] with any body.
    pub async fn call_with(&self, call: &Call<'_>, body: RequestBody) -> Result<Got, Failure> {
        let (mut answer, connection) = self.send(call, body).await?;
        let mut whole = Vec::new();
        while let Some(piece) = self.next(&mut answer).await? {
            whole.extend_from_slice(&piece);
        }
        self.give_back(connection);
        Ok(Got { etag: answer.header("etag").map(str::to_owned), body: Bytes::from(whole) })
    }

    /// [`S3::call`] whose answer is a document.
    pub async fn document(&self, call: &Call<'_>, body: Bytes) -> Result<Element, Failure> {
        let got = self.call(call, body).await?;
        read::parse(&got.body, &DOCUMENT).map_err(|_| Failure::failed("the server's document cannot be read"))
    }

    /// The next piece of an answer.
    pub async fn next(&self, answer: &mut Answer) -> Result<Option<Bytes>, Failure> {
        within(&self.platform, self.timeout, answer.next()).await.map_err(|error| Failure::no_answer(&error))
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn give_back(&self, connection: Connection) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX && !connection.is_closed() {
            spare.push(connection);
        }
    }

    async fn refusal(&self, call: &Call<'_>, mut answer: Answer) -> Failure {
        let status = answer.status.as_u16();
        let mut whole = Vec::new();
        while let Ok(Some(piece)) = self.next(&mut answer).await {
            whole.extend_from_slice(&piece);
        }
        let document = read::parse(&whole, &DOCUMENT).unwrap_or_default();
        let text = |name: &str| document.child_text(name).unwrap_or("").to_owned();
        // A HEAD is answered without a document.
        let (code, message) = match (text("Code"), status) {
            (code, _) if !code.is_empty() => (code, text("Message")),
            (_, 404) => ("NotFound".to_owned(), "it does not exist".to_owned()),
            (_, 403) => ("AccessDenied".to_owned(), "these credentials may not touch it".to_owned()),
            _ => (String::new(), answer.status.to_string()),
        };
        let what = super::output::printable(call.path);
        Failure::refused(&format!("s3://{what}"), status, &code, &message)
    }
}

fn trust(access: &Access) -> Result<ClientTls, Failure> {
    let path = access.ca_file.as_ref().ok_or_else(|| {
        Failure::usage("this server speaks TLS; name the certificates to trust with --ca-file or BIXI_CA_FILE")
    })?;
    let pem =
        std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    ClientTls::with_roots_pem(&pem).map_err(|error| Failure::caused("cannot use --ca-file", &error))
}

async fn within<T>(
    platform: &Platform,
    timeout: Duration,
    exchange: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match platform.clock().timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(ClientError::TimedOut),
    }
}

/// Splits `s3://BUCKET/KEY`; the key may be empty.
pub fn remote(name: &str) -> Option<(&str, &str)> {
    let path = name.strip_prefix("s3://")?;
    Some(path.split_once('/').unwrap_or((path, ""))).filter(|(bucket, _)| !bucket.is_empty())
}

/// [`remote`], or an error that says how it should look.
pub fn remote_or_usage(name: &str) -> Result<(&str, &str), Failure> {
    remote(name).ok_or_else(|| Failure::usage(format!("{name} is not a remote name; write s3://BUCKET/KEY")))
}

#[cfg(test)]
mod tests {
    use super::remote;

    #[test]
    fn remote_names_are_split_once() {
        assert_eq!(remote("s3://b/a/b//c"), Some(("b", "a/b//c")));
        assert_eq!(remote("s3://b"), Some(("b", "")));
        assert_eq!(remote("s3:///k"), None);
        assert_eq!(remote("b/k"), None);
    }
}
