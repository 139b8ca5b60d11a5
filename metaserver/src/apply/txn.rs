//! A transaction over the state store: reads see its own writes; it ends as one batch.

use std::collections::BTreeMap;
use std::ops::Bound;

use platform::planted::{Planted, PlantedBug};
use prost_free::Row;
use proto::keys::{self, Counter};
use types::ids::Partition;

use crate::store::{Batch, StateStore, StoreFault};

/// Rows are protobuf messages; this names what the transaction needs of them.
pub mod prost_free {
    /// A row that can be stored.
    pub trait Row: Sized {
        /// Its bytes.
        fn to_bytes(&self) -> Vec<u8>;
        /// Reads it back; damage is the store's fault.
        fn from_bytes(bytes: &[u8]) -> Result<Self, crate::store::StoreFault>;
    }

    macro_rules! rows {
        ($($row:ty),* $(,)?) => {$(
            impl Row for $row {
                fn to_bytes(&self) -> Vec<u8> {
                    proto::encode(self)
                }
                fn from_bytes(bytes: &[u8]) -> Result<Self, crate::store::StoreFault> {
                    proto::decode(bytes).map_err(|error| crate::store::StoreFault(error.to_string()))
                }
            }
        )*};
    }

    rows!(
        proto::rows::AccessKeyRow,
        proto::rows::BlobRow,
        proto::rows::BucketRow,
        proto::rows::ChunkRow,
        proto::rows::ClusterRow,
        proto::rows::CounterRow,
        proto::rows::DeleteRow,
        proto::rows::DiskRow,
        proto::rows::ObjectGlance,
        proto::rows::ObjectRow,
        proto::rows::OutcomeRow,
        proto::rows::PartRow,
        proto::rows::SessionRow,
        proto::rows::TrashRow,
        proto::rows::UploadRow,
        proto::volume::SnapshotRow,
        proto::volume::SweepRow,
        proto::volume::VolumeChunkRow,
        proto::volume::VolumeRow,
    );
}

/// A row's value in a transaction; none: the row is deleted.
type Change = Option<Vec<u8>>;

/// Key and value.
type KeyValue = (Vec<u8>, Vec<u8>);

/// Changes on top of a store.
pub struct Txn<'a> {
    store: &'a StateStore,
    changes: BTreeMap<Vec<u8>, Change>,
    /// What each change since the savepoint replaced, newest last.
    undo: Option<Vec<(Vec<u8>, Option<Change>)>>,
    planted: Planted,
}

impl<'a> Txn<'a> {
    /// A transaction without changes.
    pub fn new(store: &'a StateStore) -> Txn<'a> {
        Txn { store, changes: BTreeMap::new(), undo: None, planted: Planted::default() }
    }

    /// Makes these mistakes.
    pub fn with_mistakes(self, planted: Planted) -> Txn<'a> {
        Txn { planted, ..self }
    }

    /// Whether a mistake is to be made.
    pub fn planted(&self, bug: PlantedBug) -> bool {
        self.planted.has(bug)
    }

    /// A row.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn get<R: Row>(&self, key: &[u8]) -> Result<Option<R>, StoreFault> {
        match self.get_bytes(key)? {
            Some(bytes) => R::from_bytes(&bytes).map(Some),
            None => Ok(None),
        }
    }

    /// A row's bytes.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn get_bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.store.get(key),
        }
    }

    /// Writes a row.
    pub fn put<R: Row>(&mut self, key: Vec<u8>, row: &R) {
        self.change(key, Some(row.to_bytes()));
    }

    /// Writes bytes.
    pub fn put_bytes(&mut self, key: Vec<u8>, bytes: Vec<u8>) {
        self.change(key, Some(bytes));
    }

    /// Deletes a row.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.change(key, None);
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let before = self.changes.insert(key.clone(), value);
        if let Some(undo) = &mut self.undo {
            undo.push((key, before));
        }
    }

    /// Runs a step that leaves no change behind when it fails.
    ///
    /// # Errors
    /// The step's own.
    pub fn all_or_nothing<T, E>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        assert!(self.undo.is_none(), "steps do not nest");
        self.undo = Some(Vec::new());
        let done = step(self);
        let undo = self.undo.take().unwrap_or_default();
        if done.is_err() {
            for (key, before) in undo.into_iter().rev() {
                match before {
                    Some(value) => self.changes.insert(key, value),
                    None => self.changes.remove(&key),
                };
            }
        }
        done
    }

    /// All rows with a prefix, at most `max`, own changes included.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn scan_prefix(&self, prefix: &[u8], max: usize) -> Result<Vec<KeyValue>, StoreFault> {
        self.scan_prefix_from(prefix, prefix, max)
    }

    /// Rows with a prefix whose keys are not below `from`, at most `max`, own changes included.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn scan_prefix_from(&self, prefix: &[u8], from: &[u8], max: usize) -> Result<Vec<KeyValue>, StoreFault> {
        let end = keys::after_prefix(prefix);
        let start = prefix.max(from);
        if end.as_deref().is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let own: Vec<(&Vec<u8>, &Change)> = self.changes.range::<[u8], _>((Bound::Included(start), upper)).collect();
        let mut rows = BTreeMap::new();
        // Own deletions may hide stored rows: read that many more.
        let wanted = max.saturating_add(own.len());
        self.store.scan(start, end.as_deref(), &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            rows.len() < wanted
        })?;
        for (key, change) in own {
            match change {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().take(max).collect())
    }

    /// The next number of a counter of a partition; numbers start at 1 and are never reused.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn next(&mut self, partition: Partition, which: Counter) -> Result<u64, StoreFault> {
        let key = keys::counter(partition, which);
        let last = self.get::<proto::rows::CounterRow>(&key)?.map_or(0, |row| row.last);
        self.put(key, &proto::rows::CounterRow { last: last + 1 });
        Ok(last + 1)
    }

    /// The changes as a batch.
    pub fn into_batch(self) -> Batch {
        self.changes.into_iter().collect()
    }
}
