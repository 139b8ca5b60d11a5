//! Which operation a request asks for: the one table of method, level and subresource. Pure.
//!
//! Invariant: a subresource of S3 that nobody built answers NotImplemented; it is never taken for
//! the plain operation (a `PUT ?tagging` must not become a PutObject).

use http::{HeaderMap, Method};

use super::settings::Setting;
use crate::errors::{Code, S3Error, S3Result};
use crate::target::Target;

/// Everything the gateway can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    ReadSetting(Setting),
    RemoveSetting,
    GetAcl,
    PutAcl,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObjects,
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    GetObjectAttributes,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    ListParts,
    CompleteMultipartUpload,
    AbortMultipartUpload,
}

impl Operation {
    /// Its name in counts and logs.
    pub fn name(self) -> &'static str {
        match self {
            Operation::ListBuckets => "ListBuckets",
            Operation::CreateBucket => "CreateBucket",
            Operation::HeadBucket => "HeadBucket",
            Operation::DeleteBucket => "DeleteBucket",
            Operation::GetBucketLocation => "GetBucketLocation",
            Operation::ReadSetting(_) => "ReadSetting",
            Operation::RemoveSetting => "RemoveSetting",
            Operation::GetAcl => "GetAcl",
            Operation::PutAcl => "PutAcl",
            Operation::ListObjects => "ListObjects",
            Operation::ListObjectsV2 => "ListObjectsV2",
            Operation::ListObjectVersions => "ListObjectVersions",
            Operation::ListMultipartUploads => "ListMultipartUploads",
            Operation::DeleteObjects => "DeleteObjects",
            Operation::GetObject => "GetObject",
            Operation::HeadObject => "HeadObject",
            Operation::PutObject => "PutObject",
            Operation::CopyObject => "CopyObject",
            Operation::DeleteObject => "DeleteObject",
            Operation::GetObjectAttributes => "GetObjectAttributes",
            Operation::CreateMultipartUpload => "CreateMultipartUpload",
            Operation::UploadPart => "UploadPart",
            Operation::UploadPartCopy => "UploadPartCopy",
            Operation::ListParts => "ListParts",
            Operation::CompleteMultipartUpload => "CompleteMultipartUpload",
            Operation::AbortMultipartUpload => "AbortMultipartUpload",
        }
    }
}

/// Subresources of buckets and objects that S3 has and this gateway does not serve in any way.
const UNBUILT: [&str; 19] = [
    "analytics",
    "append",
    "attributes",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataTable",
    "metrics",
    "renameObject",
    "restore",
    "retention",
    "select",
    "session",
    "torrent",
    "encryption-key",
    "abac",
    "vector",
];

/// Finds the operation.
pub fn route(method: &Method, target: &Target, headers: &HeaderMap) -> S3Result<Operation> {
    match (&target.bucket, &target.key) {
        (None, _) => match *method {
            Method::GET => Ok(Operation::ListBuckets),
            _ => Err(not_allowed("GET")),
        },
        (Some(_), None) => bucket(method, target),
        (Some(_), Some(_)) => object(method, target, headers),
    }
}

fn bucket(method: &Method, target: &Target) -> S3Result<Operation> {
    let query = &target.query;
    if let Some(setting) = Setting::of(query) {
        return match (method, setting) {
            (&Method::GET, Setting::Acl) => Ok(Operation::GetAcl),
            (&Method::PUT, Setting::Acl) => Ok(Operation::PutAcl),
            (&Method::GET, setting) => Ok(Operation::ReadSetting(setting)),
            (&Method::DELETE, setting) if setting.is_removable() => Ok(Operation::RemoveSetting),
            _ => Err(not_built(setting.name())),
        };
    }
    refuse_unbuilt(target)?;
    match *method {
        Method::GET if query.has("location") => Ok(Operation::GetBucketLocation),
        Method::GET if query.has("uploads") => Ok(Operation::ListMultipartUploads),
        Method::GET if query.has("versions") => Ok(Operation::ListObjectVersions),
        Method::GET if query.get("list-type") == Some("2") => Ok(Operation::ListObjectsV2),
        Method::GET => Ok(Operation::ListObjects),
        Method::HEAD => Ok(Operation::HeadBucket),
        Method::PUT => Ok(Operation::CreateBucket),
        Method::DELETE => Ok(Operation::DeleteBucket),
        Method::POST if query.has("delete") => Ok(Operation::DeleteObjects),
        // A form is recognised by its content type, before this table is asked.
        Method::POST => {
            Err(S3Error::new(Code::PreconditionFailed, "Bucket POST must be of the enclosure-type multipart/form-data")
                .field("Condition", "Bucket POST must be of the enclosure-type multipart/form-data"))
        }
        _ => Err(not_allowed("GET, HEAD, PUT, DELETE, POST")),
    }
}

fn object(method: &Method, target: &Target, headers: &HeaderMap) -> S3Result<Operation> {
    let query = &target.query;
    let upload = query.has("uploadId");
    match *method {
        Method::GET if query.has("attributes") => return Ok(Operation::GetObjectAttributes),
        Method::GET if query.has("acl") => return Ok(Operation::GetAcl),
        Method::PUT if query.has("acl") => return Ok(Operation::PutAcl),
        Method::GET if query.has("tagging") => return Ok(Operation::ReadSetting(Setting::ObjectTagging)),
        Method::DELETE if query.has("tagging") => return Ok(Operation::RemoveSetting),
        Method::GET if query.has("retention") || query.has("legal-hold") => {
            return Ok(Operation::ReadSetting(Setting::ObjectRetention));
        }
        _ => {}
    }
    for name in ["acl", "tagging", "versions", "policy"] {
        if query.has(name) {
            return Err(not_built(name));
        }
    }
    refuse_unbuilt(target)?;
    match *method {
        Method::GET if upload => Ok(Operation::ListParts),
        Method::GET => Ok(Operation::GetObject),
        Method::HEAD => Ok(Operation::HeadObject),
        Method::PUT if query.has("partNumber") || upload => {
            if !(query.has("partNumber") && upload) {
                return Err(S3Error::new(Code::InvalidArgument, "A part needs both partNumber and uploadId."));
            }
            let copy = headers.contains_key("x-amz-copy-source");
            Ok(if copy { Operation::UploadPartCopy } else { Operation::UploadPart })
        }
        Method::PUT if headers.contains_key("x-amz-copy-source") => Ok(Operation::CopyObject),
        Method::PUT => Ok(Operation::PutObject),
        Method::DELETE if upload => Ok(Operation::AbortMultipartUpload),
        Method::DELETE => Ok(Operation::DeleteObject),
        Method::POST if query.has("uploads") => Ok(Operation::CreateMultipartUpload),
        Method::POST if upload => Ok(Operation::CompleteMultipartUpload),
        _ => Err(not_allowed("GET, HEAD, PUT, DELETE")),
    }
}

fn refuse_unbuilt(target: &Target) -> S3Result<()> {
    match UNBUILT.iter().find(|name| target.query.has(name)) {
        Some(name) => Err(not_built(name)),
        None => Ok(()),
    }
}

fn not_built(what: &str) -> S3Error {
    S3Error::from(Code::NotImplemented).field("Resource", what)
}

fn not_allowed(allow: &str) -> S3Error {
    S3Error::from(Code::MethodNotAllowed).header("allow", allow)
}

#[cfg(test)]
mod tests {
    use super::{Operation, route};
    use crate::errors::Code;
    use crate::target::Target;
    use http::HeaderMap;

    fn of(method: &str, uri: &str) -> Result<Operation, Code> {
        let parts =
            http::Request::builder().method(method).uri(uri).header("host", "h").body(()).unwrap().into_parts().0;
        let target = Target::read(&parts, &[]).unwrap();
        route(&parts.method, &target, &HeaderMap::new()).map_err(|error| error.code)
    }

    #[test]
    fn operations_are_found() {
        for (method, uri, operation) in [
            ("GET", "/", Operation::ListBuckets),
            ("PUT", "/b", Operation::CreateBucket),
            ("GET", "/b?list-type=2&prefix=x", Operation::ListObjectsV2),
            ("GET", "/b?marker=x", Operation::ListObjects),
            ("POST", "/b?delete", Operation::DeleteObjects),
            ("PUT", "/b/k?x-id=PutObject", Operation::PutObject),
            ("PUT", "/b/k?partNumber=1&uploadId=u", Operation::UploadPart),
            ("POST", "/b/k?uploads", Operation::CreateMultipartUpload),
            ("DELETE", "/b/k?uploadId=u", Operation::AbortMultipartUpload),
        ] {
            assert_eq!(of(method, uri), Ok(operation), "{method} {uri}");
        }
    }

    #[test]
    fn unbuilt_subresources_never_become_plain_operations() {
        for (method, uri) in [
            ("PUT", "/b?versioning"),
            ("PUT", "/b?policy"),
            ("PUT", "/b?object-lock"),
            ("PUT", "/b/k?tagging"),
            ("PUT", "/b/k?retention"),
            ("PUT", "/b/k?legal-hold"),
            ("POST", "/b/k?restore"),
            ("GET", "/b?inventory"),
            ("GET", "/b/k?torrent"),
            ("PUT", "/b/k?renameObject"),
            ("DELETE", "/b?accelerate"),
        ] {
            assert_eq!(of(method, uri), Err(Code::NotImplemented), "{method} {uri}");
        }
        assert_eq!(of("PATCH", "/b/k"), Err(Code::MethodNotAllowed));
        assert_eq!(of("DELETE", "/"), Err(Code::MethodNotAllowed));
    }
}
