//! Rows that nearly every command reads, kept beside RocksDB: a session, a bucket, the cluster, counters. A lookup in
//! RocksDB costs some microseconds, and each of a command's half dozen was for the same few rows.
//!
//! What it leaves to others: the truth. Nothing is in here that the database does not say as well.
//!
//! Promise: bounded to twice [`GENERATION`] rows of at most [`VALUE_MAX`] bytes.

use std::collections::HashMap;

use proto::keys::table;

/// Rows of a generation; when one is full, the one before it is forgotten.
const GENERATION: usize = 4096;
/// A longer value is not kept.
const VALUE_MAX: usize = 1024;

/// A value as the database has it; none: there is no such row.
type Value = Option<Vec<u8>>;

/// The rows, in two generations: what is used moves to the young one.
#[derive(Default)]
pub(super) struct HotRows {
    young: HashMap<Vec<u8>, Value>,
    old: HashMap<Vec<u8>, Value>,
}

/// Whether rows like this one are read again and again.
pub(super) fn is_hot(key: &[u8]) -> bool {
    matches!(
        key.first(),
        Some(
            &(table::CLUSTER
                | table::COUNTER
                | table::SESSION
                | table::DISK
                | table::CHUNK
                | table::BUCKET
                | table::BUCKET_NUMBER
                | table::ACCESS_KEY
                | table::VOLUME
                | table::VOLUME_NUMBER)
        )
    )
}

impl HotRows {
    /// What is known of a row; none: ask the database.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Value> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.keep(key, value.clone());
        Some(value)
    }

    /// Remembers what the database has answered.
    pub(super) fn learn(&mut self, key: &[u8], value: &Value) {
        if value.as_ref().is_none_or(|value| value.len() <= VALUE_MAX) {
            self.keep(key.to_vec(), value.clone());
        }
    }

    /// Follows a change that the database has taken.
    pub(super) fn change(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.old.remove(key);
        match value {
            Some(value) if value.len() > VALUE_MAX => drop(self.young.remove(key)),
            value => {
                if let Some(known) = self.young.get_mut(key) {
                    *known = value.map(<[u8]>::to_vec);
                }
            }
        }
    }

    fn keep(&mut self, key: Vec<u8>, value: Value) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::{GENERATION, HotRows, VALUE_MAX};

    #[test]
    fn what_changes_is_followed_and_what_is_too_long_is_not_kept() {
        let mut rows = HotRows::default();
        assert_eq!(rows.get(b"a"), None, "nothing is known");
        rows.learn(b"a", &None);
        assert_eq!(rows.get(b"a"), Some(None), "it is known that there is none");
        rows.change(b"a", Some(b"1"));
        assert_eq!(rows.get(b"a"), Some(Some(b"1".to_vec())));
        rows.change(b"b", Some(b"2"));
        assert_eq!(rows.get(b"b"), None, "a change alone makes no row hot");
        rows.change(b"a", Some(&vec![0; VALUE_MAX + 1]));
        assert_eq!(rows.get(b"a"), None);
        rows.learn(b"a", &Some(b"3".to_vec()));
        rows.change(b"a", None);
        assert_eq!(rows.get(b"a"), Some(None));
    }

    #[test]
    fn rows_in_use_outlive_those_that_are_not_and_old_ones_change_too() {
        let mut rows = HotRows::default();
        rows.learn(b"used", &Some(b"1".to_vec()));
        rows.learn(b"unused", &Some(b"1".to_vec()));
        for number in 0..3 * GENERATION {
            rows.learn(&number.to_be_bytes(), &None);
            assert!(rows.get(b"used").is_some(), "{number}");
        }
        assert_eq!(rows.get(b"unused"), None);
        assert!(rows.young.len() + rows.old.len() <= 2 * GENERATION);
        let mut rows = HotRows::default();
        rows.learn(b"old", &Some(b"1".to_vec()));
        (0..GENERATION).for_each(|number| rows.learn(&number.to_be_bytes(), &None));
        assert!(rows.old.contains_key(b"old".as_slice()));
        rows.change(b"old", Some(b"2"));
        assert_eq!(rows.get(b"old"), None, "asked anew");
    }
}
