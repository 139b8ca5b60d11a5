//! The words in which gateways speak to the object layer: what goes in, what comes out, what can
//! go wrong. Pure data; [`super::Objects`] does the work.

use std::collections::BTreeMap;

use thiserror::Error;

/// What a caller can do about a failed object operation. Gateways map it in one table.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// No such bucket.
    #[error("bucket does not exist")]
    NoSuchBucket,
    /// The bucket exists and belongs to somebody else.
    #[error("bucket belongs to another user")]
    BucketAlreadyExists,
    /// The bucket exists and belongs to the caller.
    #[error("bucket already belongs to you")]
    BucketAlreadyOwnedByYou,
    /// A bucket with objects or unfinished uploads cannot be deleted.
    #[error("bucket is not empty")]
    BucketNotEmpty,
    /// The bucket in the trash is not in a state for it, or the cluster has no trash yet.
    #[error("{0}")]
    Trash(String),
    /// No such key.
    #[error("key does not exist")]
    NoSuchKey,
    /// No such multipart upload.
    #[error("upload does not exist")]
    NoSuchUpload,
    /// Complete names a part that was never uploaded or has another ETag or checksum.
    #[error("part {number} is missing or differs")]
    InvalidPart {
        /// The part's number.
        number: u32,
    },
    /// Complete lists parts out of ascending order.
    #[error("parts are not in ascending order")]
    InvalidPartOrder,
    /// A part other than the last is below 5 MiB.
    #[error("part {number} of {size} bytes is smaller than 5 MiB")]
    EntityTooSmall {
        /// The part's number.
        number: u32,
        /// Its bytes.
        size: u64,
    },
    /// A condition (If-Match, If-None-Match) did not hold when the command was applied.
    #[error("precondition failed")]
    PreconditionFailed,
    /// No such access key or user.
    #[error("no such key or user")]
    NoSuchAccessKey,
    /// Overload or a memory budget: come again later.
    #[error("overloaded, retry later: {0}")]
    SlowDown(String),
    /// No quorum, no leader, too few disks: come again later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Space is used up.
    #[error("no space left: {0}")]
    NoSpace(String),
    /// More shards are lost or damaged than the redundancy covers.
    #[error("data damaged: {0}")]
    Damaged(String),
    /// A request that can never succeed.
    #[error("invalid: {0}")]
    Invalid(String),
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its name.
    pub name: String,
    /// Stable number, never reused.
    pub id: u64,
    /// The user it belongs to.
    pub owner: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// A bucket in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashedBucket {
    /// The bucket, with the name it had.
    pub bucket: BucketInfo,
    /// When it came there, milliseconds since 1970.
    pub trashed_ms: u64,
    /// Until when it can be restored, milliseconds since 1970.
    pub keep_until_ms: u64,
    /// It was given up: what it holds is being removed.
    pub is_purging: bool,
    /// Objects that were counted in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// There are more objects than were counted.
    pub has_more: bool,
}

/// Everything about an object except where its bytes lie; also what a PUT hands in.
/// `content` holds the stored standard headers by lower-case name (`content-type`,
/// `cache-control`, `content-disposition`, `content-encoding`, `content-language`, `expires`);
/// `user` the `x-amz-meta-*` pairs by lower-case name without the prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Without quotes: 32 hex digits, or `...-N` for multipart objects.
    pub etag: String,
    /// Stored standard headers.
    pub content: BTreeMap<String, String>,
    /// User metadata.
    pub user: BTreeMap<String, String>,
    /// Checksum kind (`CRC32`, `CRC32C`, `CRC64NVME`, `SHA1`, `SHA256`) to base64 value.
    pub checksums: BTreeMap<String, String>,
    /// `FULL_OBJECT` or `COMPOSITE`; empty when there is no checksum.
    pub checksum_type: String,
    /// Empty means `STANDARD`.
    pub storage_class: String,
    /// Who owns it.
    pub owner: String,
}

/// An object as it is stored.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
    /// `null` in unversioned buckets.
    pub version: String,
    /// Metadata.
    pub meta: ObjectMeta,
    /// Sizes in bytes of the parts it was completed from, with their numbers; empty otherwise.
    pub parts: Vec<(u32, u64)>,
    /// Where the bytes are.
    pub(super) body: super::body::Body,
}

/// One row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSummary {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
    /// Without quotes.
    pub etag: String,
    /// The owner.
    pub owner: String,
    /// Empty means `STANDARD`.
    pub storage_class: String,
    /// Checksum kinds stored with it.
    pub checksum_kinds: Vec<String>,
    /// `FULL_OBJECT`, `COMPOSITE` or empty.
    pub checksum_type: String,
}

/// What a listing asks for.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only keys with this prefix.
    pub prefix: String,
    /// Roll keys up to the first occurrence after the prefix; empty for none.
    pub delimiter: String,
    /// Only keys (and common prefixes) strictly after this one; empty for all.
    pub after: String,
    /// At most this many keys and common prefixes together (0..=1000).
    pub max_keys: usize,
}

/// A page of a listing.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// In byte order.
    pub objects: Vec<ObjectSummary>,
    /// In byte order.
    pub common_prefixes: Vec<String>,
    /// There is more behind it.
    pub truncated: bool,
    /// What to pass as `after` to go on: the last key or common prefix of this page.
    pub next_after: String,
}

/// Conditions of a write or delete, decided where the command is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteConditions {
    /// `If-None-Match: *`: only if the key does not exist.
    pub absent: bool,
    /// `If-Match`: only if the object exists and has this ETag (without quotes), or any for `*`.
    pub etag: Option<String>,
}

/// An unfinished multipart upload.
#[derive(Clone, Debug)]
pub struct UploadInfo {
    /// Its key.
    pub key: String,
    /// Opaque, URL-safe.
    pub upload_id: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// What the object will carry; `checksums` is empty, `checksum_kind` says what was announced.
    pub meta: ObjectMeta,
    /// `CRC32`..., empty if none was announced.
    pub checksum_kind: String,
}

/// An uploaded part.
#[derive(Clone, Debug)]
pub struct PartInfo {
    /// 1..=10000.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// MD5, hex.
    pub etag: String,
    /// Milliseconds since 1970.
    pub modified_ms: u64,
    /// Kind to base64 value.
    pub checksums: BTreeMap<String, String>,
}

/// What Complete names of a part.
#[derive(Clone, Debug)]
pub struct CompletePart {
    /// 1..=10000.
    pub number: u32,
    /// Without quotes.
    pub etag: String,
    /// Kind to base64 value, as far as the client sent them.
    pub checksums: BTreeMap<String, String>,
}

/// A page of uploads: markers are (key, upload id).
#[derive(Clone, Debug, Default)]
pub struct UploadsPage {
    /// In order of key, then upload id.
    pub uploads: Vec<UploadInfo>,
    /// Rolled-up prefixes.
    pub common_prefixes: Vec<String>,
    /// There is more behind it.
    pub truncated: bool,
}

/// A page of parts.
#[derive(Clone, Debug, Default)]
pub struct PartsPage {
    /// The upload itself.
    pub upload: Option<UploadInfo>,
    /// In order of number.
    pub parts: Vec<PartInfo>,
    /// There is more behind it.
    pub truncated: bool,
}

/// An access key; the secret only where a caller must verify or show it.
#[derive(Clone)]
pub struct AccessKey {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: crypto::secret::Secret<String>,
    /// Whom it belongs to.
    pub user: String,
    /// The root user may do everything.
    pub is_root: bool,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}
