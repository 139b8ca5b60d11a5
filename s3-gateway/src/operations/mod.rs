//! From a request to an operation, and the operations themselves.
//!
//! Invariant: [`handle`] is the only way in; it authenticates before it looks for an operation, and
//! whatever happens the client gets S3's kind of answer.

pub mod route;

pub mod bucket;
pub mod list;
pub mod settings;

pub mod attributes;
pub mod copy;
pub mod delete;
pub mod get;
pub mod post;
pub mod put;

pub mod complete;
pub mod multipart;
pub mod parts;

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use http::{Method, Request};
use hyper::body::Incoming;
use types::ids::RequestId;

use self::route::Operation;
use crate::errors::{Code, S3Error, S3Result};
use crate::gateway::{Call, Gateway};
use crate::headers;
use crate::http::reply::Reply;
use crate::target::Target;

/// What became of a request.
pub struct Outcome {
    /// The answer.
    pub reply: Reply,
    /// The operation's name, for counts and logs.
    pub operation: &'static str,
    /// The key it was signed with, once that was found right.
    pub access_key: Option<String>,
    /// A body nobody read, if the client is sending it.
    pub unread: Option<Incoming>,
}

/// What is known of a request as it goes on, also when it is refused in the middle.
struct Progress {
    operation: &'static str,
    resource: String,
    access_key: Option<String>,
    incoming: Option<Incoming>,
}

/// Answers any request.
pub async fn handle(gateway: &Rc<Gateway>, request: Request<Incoming>, request_id: RequestId) -> Outcome {
    let (parts, incoming) = request.into_parts();
    // A client that waits for 100 Continue sends nothing once it has its answer.
    let sends_anyway = !parts.headers.contains_key(http::header::EXPECT);
    let mut progress = Progress {
        operation: "Unknown",
        resource: parts.uri.path().to_owned(),
        access_key: None,
        incoming: Some(incoming),
    };
    let result = try_handle(gateway, parts, &mut progress).await;
    let Progress { operation, resource, access_key, incoming } = progress;
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(request = %request_id, operation, code = error.code.name(), "refused");
            Reply::error(&error, &resource, request_id, &gateway.host_id)
        }
    };
    let unread = incoming.filter(|body| sends_anyway && !hyper::body::Body::is_end_stream(body));
    Outcome { reply, operation, access_key, unread }
}

async fn try_handle(gateway: &Rc<Gateway>, parts: http::request::Parts, progress: &mut Progress) -> S3Result<Reply> {
    let target = Target::read(&parts, &gateway.config.domains)?;
    if parts.method == Method::OPTIONS {
        return Err(Code::AccessForbidden.into());
    }
    let now_ms = gateway.platform.clock().unix_ms();
    if let Some(boundary) = post::boundary(&parts, &target) {
        progress.operation = "PostObject";
        progress.resource = target.resource();
        // The form has to be read before anybody knows who sent it.
        return Box::pin(post::object(gateway, parts, target, progress, &boundary)).await;
    }
    let objects = gateway.objects.clone();
    let who = gateway.verifier.authenticate(&parts, now_ms, async |key| objects.access_key(key).await).await;
    let who = who.inspect_err(|_| progress.resource = target.resource())?;
    progress.access_key = Some(who.identity.access_key.clone());
    let operation = route::route(&parts.method, &target, &parts.headers);
    let operation = operation.inspect_err(|_| progress.resource = target.resource())?;
    progress.operation = operation.name();
    let mut call =
        Call { gateway: gateway.clone(), parts, target, who, incoming: progress.incoming.take(), held: None };
    let result = match headers::refuse_unbuilt(&call.parts.headers) {
        Ok(()) => run(operation, &mut call).await,
        Err(error) => Err(error),
    };
    progress.incoming = call.incoming.take();
    result.map_err(|error| {
        progress.resource = call.target.resource();
        with_names(error, &call.target)
    })
}

/// Adds what AWS names in the errors about absent things.
fn with_names(mut error: S3Error, target: &Target) -> S3Error {
    let (field, value) = match error.code {
        Code::NoSuchKey => ("Key", target.key.clone()),
        Code::NoSuchUpload => ("UploadId", target.query.get("uploadId").map(str::to_owned)),
        Code::NoSuchBucket
        | Code::BucketNotEmpty
        | Code::BucketAlreadyExists
        | Code::BucketAlreadyOwnedByYou
        | Code::NoSuchBucketPolicy
        | Code::NoSuchCORSConfiguration
        | Code::NoSuchLifecycleConfiguration
        | Code::NoSuchTagSet
        | Code::NoSuchWebsiteConfiguration
        | Code::ServerSideEncryptionConfigurationNotFoundError
        | Code::ObjectLockConfigurationNotFoundError
        | Code::OwnershipControlsNotFoundError
        | Code::ReplicationConfigurationNotFoundError
        | Code::NoSuchPublicAccessBlockConfiguration => ("BucketName", target.bucket.clone()),
        _ => return error,
    };
    if let Some(value) = value
        && error.fields.iter().all(|(known, _)| *known != field)
    {
        error.fields.push((field, value));
    }
    error
}

/// The operation's future, in a box of its own: a connection at rest then holds no room for the
/// largest of them.
fn run(operation: Operation, call: &mut Call) -> LocalBoxFuture<'_, S3Result<Reply>> {
    match operation {
        Operation::ListBuckets => Box::pin(bucket::list(call)),
        Operation::CreateBucket => Box::pin(bucket::create(call)),
        Operation::HeadBucket => Box::pin(bucket::head(call)),
        Operation::DeleteBucket => Box::pin(bucket::delete(call)),
        Operation::GetBucketLocation => Box::pin(bucket::location(call)),
        Operation::ReadSetting(setting) => Box::pin(settings::read(call, setting)),
        Operation::RemoveSetting => Box::pin(settings::remove(call)),
        Operation::GetAcl => Box::pin(settings::acl(call)),
        Operation::PutAcl => Box::pin(settings::put_acl(call)),
        Operation::ListObjects => Box::pin(list::v1(call)),
        Operation::ListObjectsV2 => Box::pin(list::v2(call)),
        Operation::ListObjectVersions => Box::pin(list::versions(call)),
        Operation::ListMultipartUploads => Box::pin(multipart::list_uploads(call)),
        Operation::DeleteObjects => Box::pin(delete::many(call)),
        Operation::GetObject | Operation::HeadObject => Box::pin(get::object(call)),
        Operation::PutObject => Box::pin(put::object(call)),
        Operation::CopyObject => Box::pin(copy::object(call)),
        Operation::DeleteObject => Box::pin(delete::one(call)),
        Operation::GetObjectAttributes => Box::pin(attributes::get(call)),
        Operation::CreateMultipartUpload => Box::pin(multipart::create(call)),
        Operation::UploadPart => Box::pin(parts::upload(call)),
        Operation::UploadPartCopy => Box::pin(copy::part(call)),
        Operation::ListParts => Box::pin(parts::list(call)),
        Operation::CompleteMultipartUpload => Box::pin(complete::complete(call)),
        Operation::AbortMultipartUpload => Box::pin(multipart::abort(call)),
    }
}
