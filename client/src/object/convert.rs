//! Between rows of the metaserver and the words of [`super::api`].

use std::collections::BTreeMap;

use proto::meta::{Conditions, refusal};
use proto::query::{ListedObject, ListedPart, ListedUpload};
use proto::rows::{BucketRow, MetaRow, Pair};

use super::api::{BucketInfo, ObjectError, ObjectMeta, ObjectSummary, PartInfo, UploadInfo, WriteConditions};
use crate::chunk::reader::ReadError;
use crate::chunk::writer::WriteError;
use crate::meta::MetaError;

pub(super) fn pairs(map: &BTreeMap<String, String>) -> Vec<Pair> {
    map.iter().map(|(name, value)| Pair { name: name.clone(), value: value.clone() }).collect()
}

pub(super) fn map(pairs: Vec<Pair>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.name, pair.value)).collect()
}

pub(super) fn meta_row(meta: &ObjectMeta) -> MetaRow {
    MetaRow {
        etag: meta.etag.clone(),
        content: pairs(&meta.content),
        user: pairs(&meta.user),
        checksums: pairs(&meta.checksums),
        checksum_type: meta.checksum_type.clone(),
        storage_class: meta.storage_class.clone(),
        owner: meta.owner.clone(),
        ..MetaRow::default()
    }
}

pub(super) fn object_meta(row: MetaRow) -> ObjectMeta {
    ObjectMeta {
        etag: row.etag,
        content: map(row.content),
        user: map(row.user),
        checksums: map(row.checksums),
        checksum_type: row.checksum_type,
        storage_class: row.storage_class,
        owner: row.owner,
    }
}

pub(super) fn bucket(row: BucketRow) -> BucketInfo {
    BucketInfo { name: row.name, id: row.id, owner: row.owner, created_ms: row.created_ms }
}

pub(super) fn summary(row: ListedObject) -> ObjectSummary {
    ObjectSummary {
        key: row.key,
        size: row.size,
        modified_ms: row.modified_ms,
        etag: row.etag,
        owner: row.owner,
        storage_class: row.storage_class,
        checksum_kinds: row.checksum_kinds,
        checksum_type: row.checksum_type,
    }
}

pub(super) fn conditions(conditions: &WriteConditions) -> Conditions {
    Conditions { absent: conditions.absent, etag: conditions.etag.clone().unwrap_or_default() }
}

/// Upload ids are told as 16 hex digits behind a letter.
pub(super) fn upload_id(upload: u64) -> String {
    format!("u{upload:016x}")
}

pub(super) fn upload_number(id: &str) -> Option<u64> {
    let digits = id.strip_prefix('u').filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

pub(super) fn upload(listed: ListedUpload) -> UploadInfo {
    UploadInfo {
        key: listed.row.key,
        upload_id: upload_id(listed.upload),
        created_ms: listed.row.created_ms,
        meta: object_meta(listed.row.meta),
        checksum_kind: listed.row.checksum_kind,
    }
}

pub(super) fn part(listed: ListedPart) -> PartInfo {
    PartInfo {
        number: listed.number,
        size: listed.row.size,
        etag: listed.row.etag,
        modified_ms: listed.row.modified_ms,
        checksums: map(listed.row.checksums),
    }
}

impl From<MetaError> for ObjectError {
    fn from(error: MetaError) -> ObjectError {
        match error {
            MetaError::Unavailable(text) => ObjectError::Unavailable(text),
            MetaError::SessionEnded => ObjectError::Unavailable("the session has ended, retry".into()),
            MetaError::Failed(failure) if failure.code == proto::service::code::FULL => {
                ObjectError::NoSpace(failure.text)
            }
            MetaError::Failed(failure) if failure.code == proto::service::code::BUSY => {
                ObjectError::SlowDown(failure.text)
            }
            // The cluster's feature level knows no trash yet.
            MetaError::Failed(failure) if failure.code == proto::service::code::CONFLICT => {
                ObjectError::Trash(failure.text)
            }
            MetaError::Failed(failure) => ObjectError::Unavailable(failure.text),
            MetaError::Refused { code, text, .. } => refused(code, text),
        }
    }
}

fn refused(code: u32, text: String) -> ObjectError {
    match code {
        refusal::NO_BUCKET => ObjectError::NoSuchBucket,
        refusal::BUCKET_EXISTS => ObjectError::BucketAlreadyExists,
        refusal::BUCKET_YOURS => ObjectError::BucketAlreadyOwnedByYou,
        refusal::BUCKET_NOT_EMPTY => ObjectError::BucketNotEmpty,
        refusal::NO_KEY => ObjectError::NoSuchKey,
        refusal::NO_UPLOAD => ObjectError::NoSuchUpload,
        refusal::INVALID_PART => ObjectError::InvalidPart { number: text.parse().unwrap_or(0) },
        refusal::PART_ORDER => ObjectError::InvalidPartOrder,
        refusal::PART_TOO_SMALL => {
            let (number, size) = text.split_once(' ').unwrap_or((&text, "0"));
            ObjectError::EntityTooSmall { number: number.parse().unwrap_or(0), size: size.parse().unwrap_or(0) }
        }
        refusal::PRECONDITION => ObjectError::PreconditionFailed,
        refusal::TRASH => ObjectError::Trash(text),
        refusal::NO_ACCESS_KEY => ObjectError::NoSuchAccessKey,
        refusal::CHUNK | refusal::NOT_INITIALISED | refusal::DISK | refusal::EPOCH => ObjectError::Unavailable(text),
        _ => ObjectError::Invalid(text),
    }
}

impl From<WriteError> for ObjectError {
    fn from(error: WriteError) -> ObjectError {
        match error {
            WriteError::Unavailable(text) => ObjectError::Unavailable(text),
            WriteError::NoSpace(text) => ObjectError::NoSpace(text),
            WriteError::SessionEnded => ObjectError::Unavailable("the session has ended, retry".into()),
        }
    }
}

impl From<ReadError> for ObjectError {
    fn from(error: ReadError) -> ObjectError {
        match error {
            ReadError::Gone(_) => ObjectError::NoSuchKey,
            ReadError::TooFewShards(text) => ObjectError::Unavailable(text),
            ReadError::Meta(error) => error.into(),
        }
    }
}
