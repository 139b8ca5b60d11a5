//! Settings of buckets and objects that nobody can change yet: reading them says truthfully that
//! there are none, removing what is not there succeeds, setting them is refused (`route.rs`).

use client::object::api::BucketInfo;
use http::StatusCode;

use crate::body::receive;
use crate::errors::{Code, S3Error, S3Result};
use crate::gateway::Call;
use crate::http::reply::Reply;
use crate::uri::Query;
use crate::xml::read::{self, Element, Limits};
use crate::xml::write::Writer;

/// Bounds of an access list.
const ACL_DOCUMENT: Limits = Limits { bytes: 64 << 10, elements: 1_024 };

/// A setting S3 has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Setting {
    Acl,
    Accelerate,
    Cors,
    Encryption,
    Lifecycle,
    Logging,
    Notification,
    ObjectLock,
    OwnershipControls,
    Policy,
    PolicyStatus,
    PublicAccessBlock,
    Replication,
    RequestPayment,
    Tagging,
    Versioning,
    Website,
    ObjectTagging,
    ObjectRetention,
}

const BUCKET_SETTINGS: [Setting; 17] = [
    Setting::Acl,
    Setting::Accelerate,
    Setting::Cors,
    Setting::Encryption,
    Setting::Lifecycle,
    Setting::Logging,
    Setting::Notification,
    Setting::ObjectLock,
    Setting::OwnershipControls,
    Setting::Policy,
    Setting::PolicyStatus,
    Setting::PublicAccessBlock,
    Setting::Replication,
    Setting::RequestPayment,
    Setting::Tagging,
    Setting::Versioning,
    Setting::Website,
];

impl Setting {
    /// The bucket setting a query names.
    pub fn of(query: &Query) -> Option<Setting> {
        BUCKET_SETTINGS.into_iter().find(|setting| query.has(setting.name()))
    }

    /// Its subresource.
    pub fn name(self) -> &'static str {
        match self {
            Setting::Acl => "acl",
            Setting::Accelerate => "accelerate",
            Setting::Cors => "cors",
            Setting::Encryption => "encryption",
            Setting::Lifecycle => "lifecycle",
            Setting::Logging => "logging",
            Setting::Notification => "notification",
            Setting::ObjectLock => "object-lock",
            Setting::OwnershipControls => "ownershipControls",
            Setting::Policy => "policy",
            Setting::PolicyStatus => "policyStatus",
            Setting::PublicAccessBlock => "publicAccessBlock",
            Setting::Replication => "replication",
            Setting::RequestPayment => "requestPayment",
            Setting::Tagging | Setting::ObjectTagging => "tagging",
            Setting::Versioning => "versioning",
            Setting::Website => "website",
            Setting::ObjectRetention => "retention",
        }
    }

    /// Whether S3 has a DELETE for it.
    pub fn is_removable(self) -> bool {
        matches!(
            self,
            Setting::Cors
                | Setting::Encryption
                | Setting::Lifecycle
                | Setting::OwnershipControls
                | Setting::Policy
                | Setting::PublicAccessBlock
                | Setting::Replication
                | Setting::Tagging
                | Setting::Website
        )
    }
}

/// Reads a setting: an empty document or S3's word for "there is none".
pub async fn read(call: &Call, setting: Setting) -> S3Result<Reply> {
    let bucket = call.bucket().await?;
    let empty = |root: &str| Ok(Reply::xml(Writer::with_root(root, 0).finish(root)));
    let none = |code: Code| Err(S3Error::from(code));
    match setting {
        Setting::Accelerate => empty("AccelerateConfiguration"),
        Setting::Logging => empty("BucketLoggingStatus"),
        Setting::Notification => empty("NotificationConfiguration"),
        Setting::Versioning => empty("VersioningConfiguration"),
        Setting::RequestPayment => {
            let mut document = Writer::with_root("RequestPaymentConfiguration", 0);
            document.text("Payer", "BucketOwner");
            Ok(Reply::xml(document.finish("RequestPaymentConfiguration")))
        }
        Setting::Cors => none(Code::NoSuchCORSConfiguration),
        Setting::Encryption => none(Code::ServerSideEncryptionConfigurationNotFoundError),
        Setting::Lifecycle => none(Code::NoSuchLifecycleConfiguration),
        Setting::ObjectLock => none(Code::ObjectLockConfigurationNotFoundError),
        Setting::OwnershipControls => none(Code::OwnershipControlsNotFoundError),
        Setting::Policy | Setting::PolicyStatus => none(Code::NoSuchBucketPolicy),
        Setting::PublicAccessBlock => none(Code::NoSuchPublicAccessBlockConfiguration),
        Setting::Replication => none(Code::ReplicationConfigurationNotFoundError),
        Setting::Tagging => none(Code::NoSuchTagSet),
        Setting::Website => none(Code::NoSuchWebsiteConfiguration),
        Setting::Acl => acl(call).await,
        Setting::ObjectTagging => {
            existing(call, &bucket).await?;
            let mut document = Writer::with_root("Tagging", 0);
            document.open("TagSet").close("TagSet");
            Ok(Reply::xml(document.finish("Tagging")))
        }
        Setting::ObjectRetention => {
            existing(call, &bucket).await?;
            Err(S3Error::new(Code::InvalidRequest, "Bucket is missing Object Lock Configuration"))
        }
    }
}

/// Removes a setting that cannot be there.
pub async fn remove(call: &Call) -> S3Result<Reply> {
    let bucket = call.bucket().await?;
    existing(call, &bucket).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// The access list every bucket and object has: its owner may do everything.
pub async fn acl(call: &Call) -> S3Result<Reply> {
    let bucket = call.bucket().await?;
    existing(call, &bucket).await?;
    let mut document = Writer::with_root("AccessControlPolicy", 512);
    document.owner("Owner", &bucket.owner);
    document.open("AccessControlList").open("Grant");
    document.open("Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\"");
    document.text("ID", &bucket.owner).text("DisplayName", &bucket.owner).close("Grantee");
    document.text("Permission", "FULL_CONTROL").close("Grant").close("AccessControlList");
    Ok(Reply::xml(document.finish("AccessControlPolicy")))
}

/// Setting the access list there is anyway succeeds (s3cmd copies it along); any other is not built.
pub async fn put_acl(call: &mut Call) -> S3Result<Reply> {
    let bucket = call.bucket().await?;
    existing(call, &bucket).await?;
    let canned = call.header("x-amz-acl")?.is_some_and(|value| !value.is_empty());
    let payload = call.payload_or_empty()?;
    let document = receive::document(payload, &call.parts.headers, ACL_DOCUMENT.bytes, false).await?;
    match (canned, document.is_empty()) {
        (true, true) => Ok(Reply::ok()),
        (false, false) if gives_all_to(&document, &bucket.owner)? => Ok(Reply::ok()),
        (true, false) => Err(S3Error::new(Code::InvalidRequest, "An ACL comes as a header or as a document, not both")),
        (false, _) => Err(Code::NotImplemented.into()),
    }
}

/// Whether an AccessControlPolicy says that `owner`, and nobody else, may do everything.
fn gives_all_to(document: &[u8], owner: &str) -> S3Result<bool> {
    let malformed = || S3Error::from(Code::MalformedACLError);
    let root = read::parse(document, &ACL_DOCUMENT).map_err(|_| malformed())?;
    let grants =
        root.child("AccessControlList").filter(|_| root.name == "AccessControlPolicy").ok_or_else(malformed)?;
    let right_owner = root.child("Owner").is_none_or(|found| found.child_text("ID") == Some(owner));
    let all = |grant: &Element| {
        let grantee = grant.child("Grantee").and_then(|grantee| grantee.child_text("ID"));
        grantee == Some(owner) && grant.child_text("Permission") == Some("FULL_CONTROL")
    };
    Ok(right_owner && !grants.children.is_empty() && grants.children.iter().all(all))
}

/// If the request names an object, it must exist.
async fn existing(call: &Call, bucket: &BucketInfo) -> S3Result<()> {
    if call.target.key.is_some() {
        call.gateway.objects.head(bucket, &call.key()?).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::gives_all_to;

    #[test]
    fn only_the_access_list_there_is_can_be_set() {
        let of = |id: &str, permission: &str| {
            let grant = format!("<Grant><Grantee><ID>{id}</ID></Grantee><Permission>{permission}</Permission></Grant>");
            let list = format!("<AccessControlList>{grant}</AccessControlList>");
            let document = format!("<AccessControlPolicy><Owner><ID>u</ID></Owner>{list}</AccessControlPolicy>");
            gives_all_to(document.as_bytes(), "u").ok()
        };
        assert_eq!(of("u", "FULL_CONTROL"), Some(true));
        assert_eq!(of("u", "READ"), Some(false));
        assert_eq!(of("v", "FULL_CONTROL"), Some(false));
        assert!(gives_all_to(b"<AccessControlPolicy/>", "u").is_err());
    }
}
