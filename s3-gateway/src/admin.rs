//! The admin listener: health and metrics for everybody who can reach it, JSON for holders of a key.
//!
//! ```text
//! GET  /health/live      200                    GET    /v1/status      the cluster, any key
//! GET  /health/ready     200 or 503             GET    /v1/keys        access keys, root only
//! GET  /metrics          Prometheus text        POST   /v1/keys        {"user":..} -> a new key, root only
//!                                               DELETE /v1/keys/KEY    root only
//!                                               POST   /v1/fsck        {"disk":..,"after":..}, root only
//! ```
//! Disks and nodes: [`members`]. Buckets in the trash: [`trash`]. Volumes: [`volumes`].
//!
//! Leaves to others: what status, readiness and metrics say ([`AdminHooks`]). Invariants: secrets
//! leave only in the answer that makes a key; nothing under `/v1/` answers without a signature.

pub mod members;
pub mod trash;
pub mod volumes;

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use client::object::Objects;
use client::object::api::ObjectError;
use futures_util::future::LocalBoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use platform::Platform;
use platform::net::{Listener, NetError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::{Authenticated, Payload, Verifier};
use crate::errors::{Code, S3Error};

/// Connections held at once.
const CONNECTIONS_MAX: usize = 256;
/// A connection's whole life.
const LIFETIME: Duration = Duration::from_secs(300);
/// The longest body.
const BODY_MAX: usize = 64 << 10;
/// The longest name of a user.
const USER_LEN_MAX: usize = 64;

/// A tree that is being put together, or why it cannot be.
pub type Told = LocalBoxFuture<'static, Result<Value, String>>;

/// What the process knows and the admin listener tells.
#[derive(Clone)]
pub struct AdminHooks {
    /// Whether requests can be served now.
    pub ready: Rc<dyn Fn() -> bool>,
    /// The tree of `bixi status`.
    pub status: Rc<dyn Fn() -> Told>,
    /// A page of the comparison of a disk (first number) with the metadata, from a chunk on.
    pub fsck: Rc<dyn Fn(u64, u64) -> Told>,
    /// Disks and nodes.
    pub members: Rc<dyn Fn(members::Asked) -> LocalBoxFuture<'static, Result<Value, members::Denied>>>,
    /// Volumes.
    pub volumes: Rc<dyn Fn(volumes::AskedVolume) -> LocalBoxFuture<'static, Result<volumes::Told, members::Denied>>>,
    /// Prometheus text.
    pub metrics: Rc<dyn Fn() -> String>,
    /// How long a bucket is kept in the trash, unless the request says.
    pub trash_keep: Duration,
}

struct Admin {
    platform: Platform,
    objects: Objects,
    verifier: Verifier,
    hooks: AdminHooks,
    connections: Cell<usize>,
    requests: Cell<u64>,
    request_prefix: u64,
}

/// Serves the admin API until the listener breaks. Requests are signed for `region`.
pub async fn serve(
    platform: Platform,
    listener: Listener,
    objects: Objects,
    region: &str,
    hooks: AdminHooks,
) -> Result<Infallible, NetError> {
    let admin = Rc::new(Admin {
        request_prefix: platform.random().next_u64(),
        platform,
        objects,
        verifier: Verifier::new(region),
        hooks,
        connections: Cell::new(0),
        requests: Cell::new(0),
    });
    loop {
        let stream = listener.accept().await?;
        if admin.connections.get() >= CONNECTIONS_MAX {
            continue;
        }
        admin.connections.set(admin.connections.get() + 1);
        let task_admin = admin.clone();
        let task = async move {
            let service_admin = task_admin.clone();
            let service = service_fn(move |request| {
                let admin = service_admin.clone();
                async move { Ok::<_, Infallible>(answer(&admin, request).await) }
            });
            let connection = http1::Builder::new()
                .auto_date_header(false)
                .max_buf_size(BODY_MAX)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = task_admin.platform.clock().timeout(LIFETIME, connection).await {
                tracing::debug!(%error, "an admin connection ended badly");
            }
            task_admin.connections.set(task_admin.connections.get() - 1);
        };
        admin.platform.tasks().spawn(task).detach();
    }
}

/// What is sent back: a status and JSON or text.
struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

/// A refusal.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

async fn answer(admin: &Admin, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let count = admin.requests.get();
    admin.requests.set(count.wrapping_add(1));
    let request_id = format!("{:016X}", admin.request_prefix.wrapping_add(count));
    let answer = match handle(admin, request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let error = json!({"code": refusal.code, "message": refusal.message, "request_id": request_id});
            json_answer(refusal.status, &json!({ "error": error }))
        }
    };
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert("content-type", HeaderValue::from_static(answer.content_type));
    crate::headers::set(response.headers_mut(), "x-amz-request-id", &request_id);
    response
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    Answer { status, content_type: "application/json", body: Bytes::from(format!("{value}\n")) }
}

fn text_answer(status: StatusCode, body: &str) -> Answer {
    Answer { status, content_type: "text/plain; version=0.0.4", body: Bytes::from(body.to_owned()) }
}

async fn handle(admin: &Admin, request: Request<Incoming>) -> Result<Answer, Refusal> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/health/live") => return Ok(text_answer(StatusCode::OK, "live\n")),
        (&Method::GET, "/health/ready") if (admin.hooks.ready)() => return Ok(text_answer(StatusCode::OK, "ready\n")),
        (&Method::GET, "/health/ready") => return Ok(text_answer(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")),
        (&Method::GET, "/metrics") => return Ok(text_answer(StatusCode::OK, &(admin.hooks.metrics)())),
        _ => {}
    }
    let (parts, incoming) = request.into_parts();
    let now_ms = admin.platform.clock().unix_ms();
    let who = admin.verifier.authenticate(&parts, now_ms, async |key| admin.objects.access_key(key).await).await?;
    let body = read_body(admin, incoming, &who, parts.uri.path()).await?;
    let root_only = || {
        let refusal = refusal(StatusCode::FORBIDDEN, "AccessDenied", "only the root user may do this");
        if who.identity.is_root { Ok(()) } else { Err(refusal) }
    };
    let path = parts.uri.path();
    if members::is_here(path) {
        root_only()?;
        if let Some(asked) = members::asked(&parts.method, path, &body)? {
            let told = (admin.hooks.members)(asked).await?;
            return Ok(json_answer(StatusCode::OK, &told));
        }
    }
    if volumes::is_here(path) {
        root_only()?;
        if let Some(asked) = volumes::asked(&parts.method, path, &body)? {
            return Ok(match (admin.hooks.volumes)(asked).await? {
                volumes::Told::Tree(tree) => json_answer(StatusCode::OK, &tree),
                volumes::Told::Data(body) => {
                    Answer { status: StatusCode::OK, content_type: "application/octet-stream", body }
                }
            });
        }
    }
    if trash::is_here(path) {
        root_only()?;
        if let Some(told) = trash::answer(admin, &who, &parts.method, path, &body).await? {
            return Ok(json_answer(StatusCode::OK, &told));
        }
    }
    match (&parts.method, path) {
        (&Method::GET, "/v1/status") => match (admin.hooks.status)().await {
            Ok(status) => Ok(json_answer(StatusCode::OK, &status)),
            Err(why) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", &why)),
        },
        (&Method::POST, "/v1/fsck") => {
            root_only()?;
            let asked: DiskPage = serde_json::from_slice(&body).map_err(|error| {
                refusal(
                    StatusCode::BAD_REQUEST,
                    "InvalidRequest",
                    &format!("not {{\"disk\":..,\"after\":..}}: {error}"),
                )
            })?;
            match (admin.hooks.fsck)(asked.disk, asked.after).await {
                Ok(page) => Ok(json_answer(StatusCode::OK, &page)),
                Err(why) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", &why)),
            }
        }
        (&Method::GET, "/v1/keys") => {
            root_only()?;
            list_keys(admin).await
        }
        (&Method::POST, "/v1/keys") => {
            root_only()?;
            create_key(admin, &body).await
        }
        (&Method::DELETE, _) if path.starts_with("/v1/keys/") => {
            root_only()?;
            delete_key(admin, &path["/v1/keys/".len()..]).await
        }
        _ => Err(refusal(StatusCode::NOT_FOUND, "NotFound", "no such admin resource")),
    }
}

async fn read_body(admin: &Admin, incoming: Incoming, who: &Authenticated, path: &str) -> Result<Bytes, Refusal> {
    let most = volumes::body_max(path).filter(|_| who.identity.is_root).unwrap_or(BODY_MAX);
    let collect = Limited::new(incoming, most).collect();
    let body = admin.platform.clock().timeout(Duration::from_secs(20), collect).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => {
            return Err(refusal(StatusCode::BAD_REQUEST, "IncompleteBody", "the body cannot be read"));
        }
    };
    match &who.payload {
        Payload::Unsigned => Ok(body),
        Payload::Exact(sha256) if crypto::hash::sha256(&body) == *sha256 => Ok(body),
        Payload::Exact(_) => Err(S3Error::from(Code::XAmzContentSHA256Mismatch).into()),
        Payload::Chunked { .. } => Err(S3Error::from(Code::NotImplemented).into()),
    }
}

async fn list_keys(admin: &Admin) -> Result<Answer, Refusal> {
    let keys = admin.objects.list_access_keys().await?;
    let rows: Vec<Value> = keys
        .iter()
        .map(|key| {
            json!({
                "user": key.user, "access_key": key.access_key, "is_root": key.is_root, "created_ms": key.created_ms,
            })
        })
        .collect();
    Ok(json_answer(StatusCode::OK, &json!({ "keys": rows })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskPage {
    disk: u64,
    after: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    user: String,
}

async fn create_key(admin: &Admin, body: &[u8]) -> Result<Answer, Refusal> {
    let asked: NewKey = serde_json::from_slice(body).map_err(|error| {
        refusal(StatusCode::BAD_REQUEST, "InvalidRequest", &format!("not {{\"user\":..}}: {error}"))
    })?;
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'@' | b'-');
    if asked.user.is_empty() || asked.user.len() > USER_LEN_MAX || !asked.user.bytes().all(fine) {
        let why = "a user's name has 1 to 64 of a-z, A-Z, 0-9, '.', '_', '@' and '-'";
        return Err(refusal(StatusCode::BAD_REQUEST, "InvalidUser", why));
    }
    let key = admin.objects.create_access_key(&asked.user).await?;
    let made = json!({"user": key.user, "access_key": key.access_key, "secret_key": key.secret_key.expose()});
    Ok(json_answer(StatusCode::CREATED, &made))
}

async fn delete_key(admin: &Admin, access_key: &str) -> Result<Answer, Refusal> {
    let keys = admin.objects.list_access_keys().await?;
    let Some(key) = keys.iter().find(|key| key.access_key == access_key) else {
        return Err(ObjectError::NoSuchAccessKey.into());
    };
    if key.is_root && keys.iter().filter(|key| key.is_root).count() == 1 {
        let why = "this is the only root key; make another one first";
        return Err(refusal(StatusCode::CONFLICT, "LastRootKey", why));
    }
    admin.objects.delete_access_key(access_key).await?;
    Ok(Answer { status: StatusCode::NO_CONTENT, content_type: "application/json", body: Bytes::new() })
}

fn refusal(status: StatusCode, code: &'static str, message: &str) -> Refusal {
    Refusal { status, code, message: message.to_owned() }
}

impl From<S3Error> for Refusal {
    fn from(error: S3Error) -> Refusal {
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
        refusal(status, error.code.name(), &error.message)
    }
}

impl From<ObjectError> for Refusal {
    fn from(error: ObjectError) -> Refusal {
        match error {
            ObjectError::NoSuchAccessKey => refusal(StatusCode::NOT_FOUND, "NoSuchAccessKey", "no such access key"),
            other => S3Error::from(other).into(),
        }
    }
}
