//! The one table from what went wrong to what S3 says about it: code, status, message.
//!
//! Leaves to others: turning an error into a document (`http/reply.rs`). Invariant: nothing here
//! ever says 200, and no text carries a secret.

use std::borrow::Cow;

use client::object::api::ObjectError;
use types::names::NameError;

macro_rules! codes {
    ($($name:ident $status:literal $message:literal;)*) => {
        /// S3's error codes, as far as the gateway uses them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs)]
        pub enum Code { $($name,)* }

        impl Code {
            /// The code's text.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }
            /// The HTTP status it travels with.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }
            /// What it says when nothing more particular is known.
            pub fn message(self) -> &'static str {
                match self { $(Code::$name => $message,)* }
            }
        }
    };
}

codes! {
    AccessDenied 403 "Access Denied";
    AccessForbidden 403 "CORSResponse: CORS is not enabled for this bucket.";
    AuthorizationHeaderMalformed 400 "The authorization header that you provided is not valid.";
    AuthorizationQueryParametersError 400 "The authorization query parameters that you provided are not valid.";
    BadDigest 400 "The Content-MD5 or checksum value that you specified did not match what the server received.";
    BadRequest 400 "The request is not valid.";
    BucketAlreadyExists 409 "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again.";
    BucketAlreadyOwnedByYou 409 "Your previous request to create the named bucket succeeded and you already own it.";
    BucketNotEmpty 409 "The bucket you tried to delete is not empty";
    EntityTooLarge 400 "Your proposed upload exceeds the maximum allowed size";
    EntityTooSmall 400 "Your proposed upload is smaller than the minimum allowed size";
    IllegalLocationConstraintException 400 "The specified location constraint is not valid here.";
    IncompleteBody 400 "You did not provide the number of bytes specified by the Content-Length HTTP header";
    InternalError 500 "We encountered an internal error. Please try again.";
    InvalidAccessKeyId 403 "The AWS Access Key Id you provided does not exist in our records.";
    InvalidArgument 400 "Invalid Argument";
    InvalidBucketName 400 "The specified bucket is not valid.";
    InvalidChunkSizeError 400 "Only the last chunk is allowed to have a size less than 8192 bytes";
    InvalidDigest 400 "The Content-MD5 you specified is not valid.";
    InvalidLocationConstraint 400 "The specified location-constraint is not valid";
    InvalidPart 400 "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.";
    InvalidPartNumber 416 "The requested partnumber is not satisfiable";
    InvalidPartOrder 400 "The list of parts was not in ascending order. Parts must be ordered by part number.";
    InvalidPolicyDocument 400 "The content of the form does not meet the conditions specified in the policy document.";
    InvalidRange 416 "The requested range is not satisfiable";
    InvalidRequest 400 "Invalid Request";
    InvalidStorageClass 400 "The storage class you specified is not valid";
    InvalidTag 400 "The tag provided was not a valid tag.";
    InvalidToken 400 "The provided token is malformed or otherwise invalid.";
    InvalidURI 400 "Couldn't parse the specified URI.";
    KeyTooLongError 400 "Your key is too long";
    MalformedACLError 400 "The XML you provided was not well-formed or did not validate against our published schema";
    MalformedPOSTRequest 400 "The body of your POST request is not well-formed multipart/form-data.";
    MalformedTrailerError 400 "The request contained trailing data that was not well-formed or did not conform to our published schema.";
    MalformedXML 400 "The XML you provided was not well-formed or did not validate against our published schema";
    MaxPostPreDataLengthExceeded 400 "Your POST request fields preceding the upload file were too large.";
    MetadataTooLarge 400 "Your metadata headers exceed the maximum allowed metadata size";
    MethodNotAllowed 405 "The specified method is not allowed against this resource.";
    MissingContentLength 411 "You must provide the Content-Length HTTP header.";
    MissingRequestBodyError 400 "Request Body is empty";
    MissingSecurityHeader 400 "Your request was missing a required header";
    NoSuchBucket 404 "The specified bucket does not exist";
    NoSuchBucketPolicy 404 "The bucket policy does not exist";
    NoSuchCORSConfiguration 404 "The CORS configuration does not exist";
    NoSuchKey 404 "The specified key does not exist.";
    NoSuchLifecycleConfiguration 404 "The lifecycle configuration does not exist";
    NoSuchObjectLockConfiguration 404 "The specified object does not have a ObjectLock configuration";
    NoSuchPublicAccessBlockConfiguration 404 "The public access block configuration was not found";
    NoSuchTagSet 404 "The TagSet does not exist";
    NoSuchUpload 404 "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
    NoSuchVersion 404 "The specified version does not exist.";
    NoSuchWebsiteConfiguration 404 "The specified bucket does not have a website configuration";
    NotImplemented 501 "A header or query you provided implies functionality that is not implemented.";
    NotModified 304 "Not Modified";
    ObjectLockConfigurationNotFoundError 404 "Object Lock configuration does not exist for this bucket";
    OwnershipControlsNotFoundError 404 "The bucket ownership controls were not found";
    PreconditionFailed 412 "At least one of the pre-conditions you specified did not hold";
    ReplicationConfigurationNotFoundError 404 "The replication configuration was not found";
    RequestHeaderSectionTooLarge 400 "Your request header section exceeds the maximum allowed size.";
    RequestTimeTooSkewed 403 "The difference between the request time and the current time is too large.";
    RequestTimeout 400 "Your socket connection to the server was not read from or written to within the timeout period. Idle connections will be closed.";
    ServerSideEncryptionConfigurationNotFoundError 404 "The server side encryption configuration was not found";
    ServiceUnavailable 503 "Service is unable to handle request.";
    SignatureDoesNotMatch 403 "The request signature we calculated does not match the signature you provided. Check your key and signing method.";
    SlowDown 503 "Please reduce your request rate.";
    UserKeyMustBeSpecified 400 "The key of the object must be specified.";
    XAmzContentSHA256Mismatch 400 "The provided 'x-amz-content-sha256' header does not match what was computed.";
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub struct S3Error {
    /// What happened.
    pub code: Code,
    /// For people.
    pub message: Cow<'static, str>,
    /// Elements of the error document beyond the usual ones.
    pub fields: Vec<(&'static str, String)>,
    /// Headers that belong to the answer (ETag of a 304, Allow of a 405, Content-Range of a 416).
    pub headers: Vec<(&'static str, String)>,
}

/// What a handler gives.
pub type S3Result<T> = Result<T, S3Error>;

impl S3Error {
    /// The code with a text of its own.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> S3Error {
        S3Error { code, message: message.into(), fields: Vec::new(), headers: Vec::new() }
    }

    /// Adds an element to the document.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> S3Error {
        self.fields.push((name, value.into()));
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> S3Error {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Code> for S3Error {
    fn from(code: Code) -> S3Error {
        S3Error::new(code, code.message())
    }
}

/// An argument (query parameter or header) with a value that cannot be.
pub fn invalid_argument(name: &str, value: &str, message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::new(Code::InvalidArgument, message).field("ArgumentName", name).field("ArgumentValue", value)
}

/// A header that asks for something nobody built.
pub fn header_not_implemented(name: &str) -> S3Error {
    S3Error::new(Code::NotImplemented, "A header you provided implies functionality that is not implemented")
        .field("Header", name)
}

/// The table for everything the object layer can say.
impl From<ObjectError> for S3Error {
    fn from(error: ObjectError) -> S3Error {
        let simple = |code: Code| S3Error::from(code);
        match error {
            ObjectError::NoSuchBucket => simple(Code::NoSuchBucket),
            ObjectError::BucketAlreadyExists => simple(Code::BucketAlreadyExists),
            ObjectError::BucketAlreadyOwnedByYou => simple(Code::BucketAlreadyOwnedByYou),
            ObjectError::BucketNotEmpty => simple(Code::BucketNotEmpty),
            // Only the admin API asks for what this answers.
            ObjectError::Trash(_) => simple(Code::NoSuchBucket),
            ObjectError::NoSuchKey => simple(Code::NoSuchKey),
            ObjectError::NoSuchUpload => simple(Code::NoSuchUpload),
            ObjectError::InvalidPart { number } => simple(Code::InvalidPart).field("PartNumber", number.to_string()),
            ObjectError::InvalidPartOrder => simple(Code::InvalidPartOrder),
            ObjectError::EntityTooSmall { number, size } => simple(Code::EntityTooSmall)
                .field("ProposedSize", size.to_string())
                .field("MinSizeAllowed", (5u64 << 20).to_string())
                .field("PartNumber", number.to_string()),
            ObjectError::PreconditionFailed => simple(Code::PreconditionFailed),
            ObjectError::NoSuchAccessKey => simple(Code::InvalidAccessKeyId),
            ObjectError::SlowDown(why) => {
                tracing::debug!(why, "told a client to slow down");
                simple(Code::SlowDown)
            }
            ObjectError::Unavailable(why) => {
                tracing::warn!(why, "unavailable");
                simple(Code::ServiceUnavailable)
            }
            ObjectError::NoSpace(why) => {
                tracing::error!(why, "no space left");
                S3Error::new(Code::ServiceUnavailable, "No space is left for this write; free some or add disks.")
            }
            ObjectError::Damaged(why) => {
                tracing::error!(why, "data damaged");
                S3Error::new(Code::InternalError, "The stored data is damaged beyond its redundancy.")
            }
            ObjectError::Invalid(why) => S3Error::new(Code::InvalidRequest, why),
        }
    }
}

impl From<NameError> for S3Error {
    fn from(error: NameError) -> S3Error {
        match error {
            NameError::Bucket { name, .. } => S3Error::from(Code::InvalidBucketName).field("BucketName", name),
            NameError::KeyEmpty => Code::UserKeyMustBeSpecified.into(),
            NameError::KeyTooLong { len } => S3Error::from(Code::KeyTooLongError)
                .field("Size", len.to_string())
                .field("MaxSizeAllowed", types::names::KEY_LEN_MAX.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, S3Error};
    use client::object::api::ObjectError;

    #[test]
    fn overload_is_503_and_conditions_are_412() {
        assert_eq!(S3Error::from(ObjectError::SlowDown(String::new())).code.status(), 503);
        assert_eq!(S3Error::from(ObjectError::PreconditionFailed).code.status(), 412);
        assert_eq!(Code::XAmzContentSHA256Mismatch.name(), "XAmzContentSHA256Mismatch");
    }
}
