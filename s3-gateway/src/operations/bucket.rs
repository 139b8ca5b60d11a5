//! Buckets: list, create, head, delete, location.

use client::object::api::{BucketInfo, ObjectError};
use http::StatusCode;
use types::names::BucketName;

use crate::body::receive;
use crate::errors::{Code, S3Error, S3Result, invalid_argument};
use crate::gateway::Call;
use crate::http::reply::Reply;
use crate::operations::list::number_parameter;
use crate::xml::read::{self, Limits};
use crate::xml::write::Writer;

/// Bounds of a CreateBucketConfiguration.
const CONFIGURATION: Limits = Limits { bytes: 64 << 10, elements: 32 };
/// Buckets a page may hold.
const PAGE_MAX: usize = 10_000;

/// `GET /`: the caller's buckets; all of them for the root user.
pub async fn list(call: &Call) -> S3Result<Reply> {
    let query = &call.target.query;
    let identity = &call.who.identity;
    let owner = (!identity.is_root).then_some(identity.user.as_str());
    let prefix = query.get("prefix").unwrap_or("");
    let after = query.get("continuation-token").unwrap_or("");
    let max = number_parameter(query, "max-buckets")?.map_or(PAGE_MAX, |max| max.min(PAGE_MAX));
    if query.has("max-buckets") && max == 0 {
        return Err(invalid_argument("max-buckets", "0", "max-buckets must be between 1 and 10000"));
    }
    let mut buckets = call.gateway.objects.list_buckets(owner).await?;
    buckets.retain(|bucket| bucket.name.starts_with(prefix) && bucket.name.as_str() > after);
    if query.get("bucket-region").is_some_and(|region| region != call.gateway.config.region) {
        buckets.clear();
    }
    let truncated = buckets.len() > max;
    buckets.truncate(max);
    let mut document = Writer::with_root("ListAllMyBucketsResult", 256 + buckets.len() * 160);
    document.owner("Owner", &identity.user).open("Buckets");
    for bucket in &buckets {
        document.open("Bucket").text("Name", &bucket.name).time("CreationDate", bucket.created_ms);
        if query.has("max-buckets") || query.has("bucket-region") {
            document.text("BucketRegion", &call.gateway.config.region);
        }
        document.close("Bucket");
    }
    document.close("Buckets");
    if query.has("prefix") {
        document.text("Prefix", prefix);
    }
    if truncated {
        document.optional("ContinuationToken", buckets.last().map(|bucket| bucket.name.as_str()));
    }
    Ok(Reply::xml(document.finish("ListAllMyBucketsResult")))
}

/// `PUT /BUCKET`. Creating one's own bucket again succeeds, as in us-east-1.
pub async fn create(call: &mut Call) -> S3Result<Reply> {
    let name = BucketName::new(call.target.bucket.as_deref().unwrap_or(""))?;
    let payload = call.payload_or_empty()?;
    let document = receive::document(payload, &call.parts.headers, CONFIGURATION.bytes, false).await?;
    check_configuration(&document, &call.gateway.config.region)?;
    match call.gateway.objects.create_bucket(&name, &call.who.identity.user).await {
        Ok(_) | Err(ObjectError::BucketAlreadyOwnedByYou) => Ok(Reply::ok().with("location", &format!("/{name}"))),
        Err(error) => Err(error.into()),
    }
}

/// The only thing a bucket may be asked to be is where it is anyway.
fn check_configuration(document: &[u8], region: &str) -> S3Result<()> {
    if document.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let root = read::parse(document, &CONFIGURATION).map_err(|_| S3Error::from(Code::MalformedXML))?;
    if root.name != "CreateBucketConfiguration" {
        return Err(Code::MalformedXML.into());
    }
    for element in &root.children {
        match element.name.as_str() {
            "LocationConstraint" => {
                let location = element.text.trim();
                if !location.is_empty() && location != region {
                    return Err(S3Error::from(Code::InvalidLocationConstraint).field("LocationConstraint", location));
                }
            }
            "Tags" if element.children.is_empty() => {}
            _ => return Err(Code::NotImplemented.into()),
        }
    }
    Ok(())
}

/// `HEAD /BUCKET`.
pub async fn head(call: &Call) -> S3Result<Reply> {
    call.bucket().await?;
    Ok(Reply::ok().with("x-amz-bucket-region", &call.gateway.config.region).with("x-amz-access-point-alias", "false"))
}

/// `DELETE /BUCKET`.
pub async fn delete(call: &Call) -> S3Result<Reply> {
    let _: BucketInfo = call.bucket().await?;
    call.gateway.objects.delete_bucket(&call.bucket_name()?).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// `GET /BUCKET?location`: empty means us-east-1.
pub async fn location(call: &Call) -> S3Result<Reply> {
    call.bucket().await?;
    let region = call.gateway.config.region.as_str();
    let mut document = Writer::new(256);
    document.open(&format!("LocationConstraint xmlns=\"{}\"", crate::xml::write::NAMESPACE));
    if region != "us-east-1" {
        document.raw_text(region);
    }
    Ok(Reply::xml(document.finish("LocationConstraint")))
}
