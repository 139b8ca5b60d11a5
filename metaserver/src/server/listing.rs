//! Listings: range scans that roll keys up to common prefixes by jumping over them.

use proto::keys;
use proto::query::{AskObjects, AskUploads, ListedObject, ListedUpload, View};
use proto::rows::{ObjectGlance, UploadRow};
use types::ids::Partition;

use crate::apply::txn::prost_free::Row;
use crate::store::{StateStore, StoreFault};

/// The most rows of one page.
const PAGE_MAX: usize = 1000;

/// The common prefix of a key: up to the first delimiter behind the prefix, if there is one.
fn rolled<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// A page of objects.
pub(super) fn objects(store: &StateStore, ask: &AskObjects) -> Result<View, StoreFault> {
    let partition = Partition((ask.bucket >> 48) as u16);
    let base = keys::object(partition, ask.bucket, "");
    let max = (ask.max as usize).min(PAGE_MAX);
    let mut view = View::default();
    if max == 0 {
        return Ok(view);
    }
    let end = keys::after_prefix(&keys::object(partition, ask.bucket, &ask.prefix));
    let mut start = keys::object(partition, ask.bucket, &ask.prefix);
    if !ask.after.is_empty() && ask.after.as_str() >= ask.prefix.as_str() {
        let after_rolled = rolled(&ask.after, &ask.prefix, &ask.delimiter).filter(|rolled| *rolled == ask.after);
        start = match after_rolled {
            // The marker is itself a common prefix: everything below it was told.
            Some(rolled) => match keys::after_prefix(&keys::object(partition, ask.bucket, rolled)) {
                Some(next) => next,
                None => return Ok(view),
            },
            None => {
                let mut next = keys::object(partition, ask.bucket, &ask.after);
                next.push(0);
                next
            }
        };
    } else if !ask.after.is_empty() && ask.after > ask.prefix {
        return Ok(view);
    }
    loop {
        let mut jump = None;
        let mut fault = None;
        let mut full = false;
        store.scan(&start, end.as_deref(), &mut |key, value| {
            let Ok(name) = std::str::from_utf8(&key[base.len()..]) else {
                fault = Some(StoreFault("object key is not UTF-8".into()));
                return false;
            };
            if view.listed.len() + view.prefixes.len() == max {
                full = true;
                return false;
            }
            if let Some(prefix) = rolled(name, &ask.prefix, &ask.delimiter) {
                view.prefixes.push(prefix.to_owned());
                view.next_after = prefix.to_owned();
                jump = keys::after_prefix(&keys::object(partition, ask.bucket, prefix));
                return false;
            }
            match ObjectGlance::from_bytes(value) {
                Ok(row) => view.listed.push(listed(name, row)),
                Err(error) => {
                    fault = Some(error);
                    return false;
                }
            }
            true
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if full {
            view.truncated = true;
        }
        match jump {
            Some(next) if !full => start = next,
            _ => break,
        }
    }
    if view.truncated {
        let last_key = view.listed.last().map(|row| row.key.as_str()).unwrap_or_default();
        let last_prefix = view.prefixes.last().map(String::as_str).unwrap_or_default();
        view.next_after = last_key.max(last_prefix).to_owned();
    }
    Ok(view)
}

fn listed(key: &str, row: ObjectGlance) -> ListedObject {
    ListedObject {
        key: key.to_owned(),
        size: row.size,
        modified_ms: row.modified_ms,
        etag: row.meta.etag,
        owner: row.meta.owner,
        storage_class: row.meta.storage_class,
        checksum_kinds: row.meta.checksums.into_iter().map(|pair| pair.name).collect(),
        checksum_type: row.meta.checksum_type,
    }
}

/// A page of unfinished uploads, by key, then upload.
pub(super) fn uploads(store: &StateStore, ask: &AskUploads) -> Result<View, StoreFault> {
    let partition = Partition((ask.bucket >> 48) as u16);
    let max = (ask.max as usize).min(PAGE_MAX);
    let base = keys::uploads(partition, ask.bucket);
    let end = keys::after_prefix(&base);
    let mut view = View::default();
    let mut fault = None;
    if max == 0 {
        return Ok(view);
    }
    // Uploads are few: filtered while they are scanned.
    store.scan(&base, end.as_deref(), &mut |key, value| {
        let row = match UploadRow::from_bytes(value) {
            Ok(row) => row,
            Err(error) => {
                fault = Some(error);
                return false;
            }
        };
        let upload = keys::upload_of(key).unwrap_or(0);
        if !row.key.starts_with(&ask.prefix) {
            return true;
        }
        let behind = match row.key.as_str().cmp(ask.after_key.as_str()) {
            _ if ask.after_key.is_empty() => true,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => ask.after_upload > 0 && upload > ask.after_upload,
            std::cmp::Ordering::Less => false,
        };
        if !behind {
            return true;
        }
        let prefix = rolled(&row.key, &ask.prefix, &ask.delimiter);
        if let Some(prefix) = prefix
            && (view.prefixes.last().is_some_and(|last| last == prefix) || prefix == ask.after_key)
        {
            return true;
        }
        if view.uploads.len() + view.prefixes.len() == max {
            view.truncated = true;
            return false;
        }
        match prefix {
            Some(prefix) => view.prefixes.push(prefix.to_owned()),
            None => view.uploads.push(ListedUpload { upload, row }),
        }
        true
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(view),
    }
}
