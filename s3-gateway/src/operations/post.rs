//! PostObject: the upload of a browser's form, with a signed policy (AWS: "POST Object").
//!
//! The fields come first and say who asks and for what; they are checked whole before a byte of the
//! file is stored. What comes after the file is read to its end and ignored.

use std::rc::Rc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{Progress, put};
use crate::auth::policy_document::PolicyDocument;
use crate::body::form::{self, Fields, FormReader};
use crate::body::payload::{BODY_MAX, Payload, decoded_len};
use crate::body::{checksum, receive};
use crate::errors::{Code, S3Error, S3Result, invalid_argument};
use crate::gateway::{Call, Gateway};
use crate::headers;
use crate::http::reply::Reply;
use crate::target::Target;
use crate::uri;
use crate::xml::write::Writer;

/// Fields that become headers of a PUT, beside those that begin with `x-amz-`.
const CONTENT: [&str; 7] = [
    "content-type",
    "content-disposition",
    "content-encoding",
    "content-language",
    "cache-control",
    "expires",
    "content-md5",
];
/// Fields that begin with `x-amz-` and are the signature's.
const SIGNATURE: [&str; 4] = ["x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"];

/// Bytes of a form beside its file.
const FORM_LEN_MAX: u64 = 2 * form::FIELDS_LEN_MAX as u64;

/// The boundary, if the request is a form posted to a bucket.
pub fn boundary(parts: &Parts, target: &Target) -> Option<String> {
    if parts.method != Method::POST || target.bucket.is_none() || target.key.is_some() || target.query.has("delete") {
        return None;
    }
    form::boundary(parts.headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?)
}

/// `POST /BUCKET` with a form.
pub(super) async fn object(
    gateway: &Rc<Gateway>,
    mut parts: Parts,
    mut target: Target,
    progress: &mut Progress,
    boundary: &str,
) -> S3Result<Reply> {
    let vouched = crate::auth::Payload::Unsigned;
    let len = decoded_len(&parts.headers, &vouched)?.ok_or(Code::MissingContentLength)?;
    let held = gateway.hold_in(len)?;
    let body = progress.incoming.take().ok_or(Code::InternalError)?;
    let idle = gateway.config.body_timeout();
    if len > BODY_MAX + FORM_LEN_MAX {
        return Err(Code::EntityTooLarge.into());
    }
    let mut payload = Payload::form(&gateway.platform, body, len, idle);
    let mut reader = FormReader::new(boundary);
    let mut first = bytes::Bytes::new();
    while !reader.at_file() {
        let piece = payload.next().await?.ok_or_else(form::no_file)?;
        first = reader.push(&piece)?;
    }
    let mut fields = reader.fields().clone();
    let key = fields.get("key").filter(|key| !key.is_empty()).ok_or_else(|| {
        invalid_argument(
            "key",
            "",
            "Bucket POST must contain a field named 'key'. If it is specified, please check the order of the fields.",
        )
    })?;
    let key = key.replace("${filename}", &fields.filename);
    fields.set("key", &key);
    let bucket = target.bucket.clone().unwrap_or_default();
    let objects = gateway.objects.clone();
    let now_ms = gateway.platform.clock().unix_ms();
    let lookup = async |key: &str| objects.access_key(key).await;
    let (who, policy) = gateway.verifier.authenticate_form(&fields, &bucket, now_ms, lookup).await?;
    progress.access_key = Some(who.identity.access_key.clone());
    let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    // From here on the form stands for the headers of a PUT.
    parts.headers = as_headers(&fields)?;
    headers::refuse_unbuilt(&parts.headers)?;
    target.key = Some(key);
    let mut call = Call { gateway: gateway.clone(), parts, target, who, incoming: None, held: Some(held) };
    let upload = Upload { payload, reader, first };
    let etag = store(&mut call, upload, &policy).await.map_err(|error| super::with_names(error, &call.target))?;
    Ok(answer(&call, &fields, &host, &etag))
}

/// The file on its way.
struct Upload {
    payload: Payload,
    reader: FormReader,
    /// The beginning of the file, which came with the end of the fields.
    first: bytes::Bytes,
}

async fn store(call: &mut Call, mut upload: Upload, policy: &PolicyDocument) -> S3Result<String> {
    let conditions = headers::write_conditions(&call.parts.headers)?;
    let expected = receive::expected(&call.parts.headers)?;
    let key = call.key()?;
    let bucket = call.bucket().await?;
    let mut meta = headers::object_meta(&call.parts.headers, &bucket.owner)?;
    let (least, most) = policy.length_range();
    let most = most.min(BODY_MAX);
    let too_large = |len: u64| {
        S3Error::from(Code::EntityTooLarge)
            .field("ProposedSize", len.to_string())
            .field("MaxSizeAllowed", most.to_string())
    };
    let mut writer = call.gateway.objects.writer(&bucket, None);
    let mut receiver = receive::Receiver::new(&call.gateway, expected);
    let mut piece = std::mem::take(&mut upload.first);
    loop {
        if receiver.received_len() + piece.len() as u64 > most {
            return Err(too_large(receiver.received_len() + piece.len() as u64));
        }
        if !piece.is_empty() {
            receiver.push(piece, &mut writer).await?;
        }
        match upload.payload.next().await? {
            Some(data) => piece = upload.reader.push(&data)?,
            None if upload.reader.is_done() => break,
            None => return Err(Code::MalformedPOSTRequest.into()),
        }
    }
    if receiver.received_len() < least {
        return Err(S3Error::from(Code::EntityTooSmall)
            .field("ProposedSize", receiver.received_len().to_string())
            .field("MinSizeAllowed", least.to_string()));
    }
    let received = receiver.finish().await?;
    meta.etag = received.etag;
    meta.checksums = received.checksums;
    if !meta.checksums.is_empty() {
        meta.checksum_type = checksum::FULL_OBJECT.to_owned();
    }
    match call.gateway.objects.put(&bucket, &key, writer, meta, &conditions).await {
        Ok(info) => Ok(info.meta.etag),
        Err(error) => Err(put::refusal(call, error, &bucket, &key, &conditions).await),
    }
}

/// The fields that a PUT would carry as headers.
fn as_headers(fields: &Fields) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter() {
        let header = match name {
            "acl" => "x-amz-acl",
            "tagging" => "x-amz-tagging",
            name if CONTENT.contains(&name) => name,
            name if name.starts_with("x-amz-") && !SIGNATURE.contains(&name) => name,
            _ => continue,
        };
        let bad = || invalid_argument(name, value, "This form field has a value that cannot be stored.");
        let header = HeaderName::from_bytes(header.as_bytes()).map_err(|_| bad())?;
        headers.insert(header, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?);
    }
    Ok(headers)
}

fn answer(call: &Call, fields: &Fields, host: &str, etag: &str) -> Reply {
    let (bucket, key) = (call.target.bucket.as_deref().unwrap_or(""), call.target.key.as_deref().unwrap_or(""));
    let quoted = format!("\"{etag}\"");
    let redirect = fields.get("success_action_redirect").or_else(|| fields.get("redirect"));
    // What is no address counts as absent.
    let redirect = redirect
        .filter(|url| (url.starts_with("http://") || url.starts_with("https://")) && url.parse::<http::Uri>().is_ok());
    if let Some(url) = redirect {
        let joint = if url.contains('?') { '&' } else { '?' };
        let (bucket, key, etag) = (uri::encode(bucket), uri::encode(key), uri::encode(&quoted));
        let target = format!("{url}{joint}bucket={bucket}&key={key}&etag={etag}");
        return Reply::empty(StatusCode::SEE_OTHER).with("location", &target).with("etag", &quoted);
    }
    let scheme = if call.gateway.config.tls.is_some() { "https" } else { "http" };
    let location = format!("{scheme}://{host}/{}/{}", uri::encode(bucket), uri::encode_path(key));
    let status = fields.get("success_action_status").unwrap_or_default();
    let reply = match status {
        "200" => Reply::ok(),
        "201" => {
            let mut document = Writer::new(256);
            document.open("PostResponse");
            document.text("Location", &location).text("Bucket", bucket).text("Key", key).etag("ETag", etag);
            Reply { status: StatusCode::CREATED, ..Reply::xml(document.finish("PostResponse")) }
        }
        _ => Reply::empty(StatusCode::NO_CONTENT),
    };
    reply.with("location", &location).with("etag", &quoted)
}
