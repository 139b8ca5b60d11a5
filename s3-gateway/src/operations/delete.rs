//! DeleteObject and DeleteObjects.

use client::object::api::{BucketInfo, WriteConditions};
use futures_util::StreamExt;
use http::StatusCode;
use types::names::ObjectKey;

use crate::body::receive;
use crate::conditions::bare_tag;
use crate::errors::{Code, S3Error, S3Result};
use crate::gateway::Call;
use crate::headers;
use crate::http::reply::Reply;
use crate::operations::get::check_version;
use crate::operations::put::refusal;
use crate::xml::read::{self, Element, Limits};
use crate::xml::write::Writer;

/// Keys one request may delete.
const KEYS_MAX: usize = 1_000;
/// Bounds of its document: a key of 1,024 bytes may take six times as many.
const DOCUMENT: Limits = Limits { bytes: 8 << 20, elements: KEYS_MAX * 8 + 8 };
/// Deletes under way at once.
const AT_ONCE: usize = 32;

/// `DELETE /BUCKET/KEY`: 204 whether it was there or not.
pub async fn one(call: &Call) -> S3Result<Reply> {
    let conditions = headers::write_conditions(&call.parts.headers)?;
    let key = call.key()?;
    let bucket = call.bucket().await?;
    check_version(&call.target.query)?;
    match call.gateway.objects.delete(&bucket, &key, &conditions).await {
        Ok(_) => Ok(Reply::empty(StatusCode::NO_CONTENT)),
        Err(error) => Err(refusal(call, error, &bucket, &key, &conditions).await),
    }
}

/// One key of a DeleteObjects.
struct Wanted {
    key: String,
    version: Option<String>,
    conditions: WriteConditions,
    unbuilt: bool,
}

/// `POST /BUCKET?delete`.
pub async fn many(call: &mut Call) -> S3Result<Reply> {
    let bucket = call.bucket().await?;
    let payload = call.payload()?;
    let document = receive::document(payload, &call.parts.headers, DOCUMENT.bytes, true).await?;
    let (quiet, wanted) = read_document(&document)?;
    let call = &*call;
    let bucket = &bucket;
    let results: Vec<(Wanted, S3Result<()>)> = futures_util::stream::iter(wanted)
        .map(|wanted| async move {
            let result = delete(call, bucket, &wanted).await;
            (wanted, result)
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut answer = Writer::with_root("DeleteResult", results.len() * 128);
    for (wanted, result) in &results {
        match result {
            Ok(()) if quiet => {}
            Ok(()) => {
                answer.open("Deleted").text("Key", &wanted.key);
                answer.optional("VersionId", wanted.version.as_deref()).close("Deleted");
            }
            Err(error) => {
                answer.open("Error").text("Key", &wanted.key).optional("VersionId", wanted.version.as_deref());
                answer.text("Code", error.code.name()).text("Message", &error.message).close("Error");
            }
        }
    }
    Ok(Reply::xml(answer.finish("DeleteResult")))
}

async fn delete(call: &Call, bucket: &BucketInfo, wanted: &Wanted) -> S3Result<()> {
    if wanted.unbuilt {
        return Err(Code::NotImplemented.into());
    }
    if let Some(version) = wanted.version.as_deref().filter(|version| *version != "null") {
        return Err(S3Error::from(Code::NoSuchVersion).field("VersionId", version));
    }
    let key = ObjectKey::new(&wanted.key)?;
    match call.gateway.objects.delete(bucket, &key, &wanted.conditions).await {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal(call, error, bucket, &key, &wanted.conditions).await),
    }
}

fn read_document(document: &[u8]) -> S3Result<(bool, Vec<Wanted>)> {
    let malformed = || S3Error::from(Code::MalformedXML);
    let root = read::parse(document, &DOCUMENT).map_err(|_| malformed())?;
    if root.name != "Delete" {
        return Err(malformed());
    }
    let (mut quiet, mut wanted) = (false, Vec::new());
    for element in &root.children {
        match element.name.as_str() {
            "Quiet" => quiet = element.text.trim().eq_ignore_ascii_case("true"),
            "Object" => wanted.push(read_object(element).ok_or_else(malformed)?),
            _ => return Err(malformed()),
        }
    }
    if wanted.is_empty() || wanted.len() > KEYS_MAX {
        return Err(malformed());
    }
    Ok((quiet, wanted))
}

fn read_object(element: &Element) -> Option<Wanted> {
    let text = |name| element.child_text(name).map(str::to_owned);
    let etag = element.child_text("ETag").map(|tag| bare_tag(tag).to_owned());
    Some(Wanted {
        key: text("Key").filter(|key| !key.is_empty())?,
        version: text("VersionId").filter(|version| !version.is_empty()),
        conditions: WriteConditions { absent: false, etag },
        // Conditions that apply does not decide are refused, not checked too early.
        unbuilt: element.child("LastModifiedTime").is_some() || element.child("Size").is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::read_document;
    use crate::errors::Code;

    #[test]
    fn a_thousand_keys_and_no_more() {
        let of = |count: usize| {
            let keys = "<Object><Key>k</Key></Object>".repeat(count);
            read_document(format!("<Delete><Quiet>true</Quiet>{keys}</Delete>").as_bytes())
        };
        assert!(of(1_000).is_ok_and(|(quiet, wanted)| quiet && wanted.len() == 1_000));
        for count in [0, 1_001, 100_000] {
            assert_eq!(of(count).err().map(|error| error.code), Some(Code::MalformedXML), "{count}");
        }
    }
}
