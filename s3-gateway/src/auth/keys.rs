//! Derived signing keys, one a day for each access key, kept because deriving costs four HMACs.
//!
//! Invariant: an entry is used only with the very secret it was derived from, so a key that was
//! deleted and made again does not verify with the old one.

use std::cell::RefCell;
use std::collections::BTreeMap;

use client::object::api::AccessKey;
use crypto::hash::{constant_time_eq, hmac_sha256};
use crypto::secret::Secret;

/// Entries kept; beyond that the cache starts afresh.
const ENTRIES_MAX: usize = 4_096;

struct Entry {
    date: String,
    secret: Secret<String>,
    key: Secret<[u8; 32]>,
}

/// The cache, for one region.
pub struct SigningKeys {
    region: String,
    entries: RefCell<BTreeMap<String, Entry>>,
}

impl SigningKeys {
    /// Empty.
    pub fn new(region: &str) -> SigningKeys {
        SigningKeys { region: region.to_owned(), entries: RefCell::new(BTreeMap::new()) }
    }

    /// The signing key of `key` on `date` (`20260131`).
    pub fn derive(&self, key: &AccessKey, date: &str) -> Secret<[u8; 32]> {
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get(&key.access_key) {
            let same = constant_time_eq(entry.secret.expose().as_bytes(), key.secret_key.expose().as_bytes());
            if same && entry.date == date {
                return entry.key.clone();
            }
        }
        let derived = Secret::new(signing_key(key.secret_key.expose(), date, &self.region));
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        let entry = Entry { date: date.to_owned(), secret: key.secret_key.clone(), key: derived.clone() };
        entries.insert(key.access_key.clone(), entry);
        derived
    }
}

/// The key chain of Signature Version 4 for the service `s3`.
pub fn signing_key(secret_key: &str, date: &str, region: &str) -> [u8; 32] {
    let start = Secret::new(format!("AWS4{secret_key}"));
    let date_key = hmac_sha256(start.expose().as_bytes(), &[date.as_bytes()]);
    let region_key = hmac_sha256(&date_key, &[region.as_bytes()]);
    let service_key = hmac_sha256(&region_key, &[b"s3"]);
    hmac_sha256(&service_key, &[b"aws4_request"])
}
