//! Multipart uploads: parts are bodies of their own; completing is one command.

use std::collections::BTreeMap;

use proto::meta::{AbortUpload, Body as CommandBody, CompleteUpload, CreateUpload, NamedPart, PutPart};
use proto::query::{Ask, AskParts, AskUploads, ListedPart, ListedUpload};
use types::names::ObjectKey;

use super::api::{
    BucketInfo, CompletePart, ObjectError, ObjectInfo, ObjectMeta, PartInfo, PartsPage, UploadInfo, UploadsPage,
    WriteConditions,
};
use super::convert::{conditions, meta_row, pairs, part, upload, upload_number};
use super::writer::ObjectWriter;
use super::{Objects, info_of};

impl Objects {
    /// Opens an upload. `checksum_kind` and `meta.checksum_type` are what the client announced
    /// (may be empty).
    ///
    /// # Errors
    /// `NoSuchBucket`, `Unavailable`.
    pub async fn create_upload(
        &self,
        bucket: &BucketInfo,
        key: &ObjectKey,
        meta: ObjectMeta,
        checksum_kind: &str,
    ) -> Result<UploadInfo, ObjectError> {
        let body = CommandBody::CreateUpload(CreateUpload {
            bucket: bucket.id,
            key: key.as_str().to_owned(),
            meta: meta_row(&meta),
            checksum_kind: checksum_kind.to_owned(),
        });
        let outcome = self.command_in(bucket, body).await?;
        let row = outcome.upload.ok_or_else(|| ObjectError::Unavailable("outcome without an upload".into()))?;
        Ok(upload(ListedUpload { upload: outcome.number, row }))
    }

    /// The upload's own row.
    ///
    /// # Errors
    /// `NoSuchUpload` if key or id do not fit.
    pub async fn upload(
        &self,
        bucket: &BucketInfo,
        key: &ObjectKey,
        upload_id: &str,
    ) -> Result<UploadInfo, ObjectError> {
        let page = self.list_parts(bucket, key, upload_id, 0, 0).await?;
        page.upload.ok_or(ObjectError::NoSuchUpload)
    }

    /// Makes what was written part `number`, replacing an earlier one.
    ///
    /// # Errors
    /// `NoSuchUpload`, `Invalid` (number), `Unavailable`.
    #[expect(clippy::too_many_arguments, reason = "S3's own list")]
    pub async fn put_part(
        &self,
        bucket: &BucketInfo,
        key: &ObjectKey,
        upload_id: &str,
        number: u32,
        body: ObjectWriter,
        etag: String,
        checksums: BTreeMap<String, String>,
    ) -> Result<PartInfo, ObjectError> {
        let upload = upload_number(upload_id).ok_or(ObjectError::NoSuchUpload)?;
        let (body, pins) = body.finish().await?;
        let command = CommandBody::PutPart(PutPart {
            bucket: bucket.id,
            key: key.as_str().to_owned(),
            upload,
            number,
            etag,
            checksums: pairs(&checksums),
            body,
        });
        let outcome = self.command_in(bucket, command).await;
        drop(pins);
        let row = outcome?.part.ok_or_else(|| ObjectError::Unavailable("outcome without a part".into()))?;
        Ok(part(ListedPart { number, row }))
    }

    /// Parts with numbers above `after`, at most `max`.
    ///
    /// # Errors
    /// `NoSuchUpload`.
    pub async fn list_parts(
        &self,
        bucket: &BucketInfo,
        key: &ObjectKey,
        upload_id: &str,
        after: u32,
        max: usize,
    ) -> Result<PartsPage, ObjectError> {
        let number = upload_number(upload_id).ok_or(ObjectError::NoSuchUpload)?;
        let ask = Ask::Parts(AskParts {
            bucket: bucket.id,
            key: key.as_str().to_owned(),
            upload: number,
            after,
            max: u32::try_from(max).unwrap_or(u32::MAX),
        });
        let view = self.query_in(bucket, ask).await?;
        let row = view.uploads.into_iter().next().ok_or(ObjectError::NoSuchUpload)?;
        Ok(PartsPage {
            upload: Some(upload(row)),
            parts: view.parts.into_iter().map(part).collect(),
            truncated: view.truncated,
        })
    }

    /// Turns parts into the object. One command, no bytes are copied; apply checks order,
    /// existence, ETags, checksums and sizes. `meta.etag` and its checksums are the whole's.
    ///
    /// # Errors
    /// `NoSuchUpload`, `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall`, `PreconditionFailed`.
    pub async fn complete_upload(
        &self,
        bucket: &BucketInfo,
        key: &ObjectKey,
        upload_id: &str,
        parts: &[CompletePart],
        meta: ObjectMeta,
        wanted: &WriteConditions,
    ) -> Result<ObjectInfo, ObjectError> {
        let upload = upload_number(upload_id).ok_or(ObjectError::NoSuchUpload)?;
        let named = parts.iter().map(|part| NamedPart {
            number: part.number,
            etag: part.etag.clone(),
            checksums: pairs(&part.checksums),
        });
        let body = CommandBody::CompleteUpload(CompleteUpload {
            bucket: bucket.id,
            key: key.as_str().to_owned(),
            upload,
            parts: named.collect(),
            meta: meta_row(&meta),
            conditions: conditions(wanted),
        });
        let outcome = self.command_in(bucket, body).await?;
        let row = outcome.object.ok_or_else(|| ObjectError::Unavailable("outcome without an object".into()))?;
        Ok(info_of(key.as_str(), row, super::body::Body::default()))
    }

    /// Drops an upload and its parts.
    ///
    /// # Errors
    /// `NoSuchUpload`.
    pub async fn abort_upload(&self, bucket: &BucketInfo, key: &ObjectKey, upload_id: &str) -> Result<(), ObjectError> {
        let upload = upload_number(upload_id).ok_or(ObjectError::NoSuchUpload)?;
        let body = CommandBody::AbortUpload(AbortUpload { bucket: bucket.id, key: key.as_str().to_owned(), upload });
        self.command_in(bucket, body).await?;
        Ok(())
    }

    /// Unfinished uploads behind `after` = (key marker, upload id marker).
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_uploads(
        &self,
        bucket: &BucketInfo,
        prefix: &str,
        delimiter: &str,
        after: (&str, &str),
        max: usize,
    ) -> Result<UploadsPage, ObjectError> {
        let ask = Ask::Uploads(AskUploads {
            bucket: bucket.id,
            prefix: prefix.to_owned(),
            delimiter: delimiter.to_owned(),
            after_key: after.0.to_owned(),
            after_upload: upload_number(after.1).unwrap_or(0),
            max: u32::try_from(max).unwrap_or(u32::MAX),
        });
        let view = self.query_in(bucket, ask).await?;
        Ok(UploadsPage {
            uploads: view.uploads.into_iter().map(upload).collect(),
            common_prefixes: view.prefixes,
            truncated: view.truncated,
        })
    }
}
