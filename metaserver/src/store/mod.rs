//! Where the applied state lies: RocksDB with its own WAL off, or a map in the simulator.
//!
//! Both promise the same: a batch is atomic; after a crash the store reopens at some prefix of the
//! batches that contains every batch before the last `flush`. The applied index rides in every
//! batch, so the Raft log replays what is missing.

#[cfg(test)]
mod flips;
mod hot;
pub mod memory;
pub mod rocks;

use std::rc::Rc;

use thiserror::Error;

use self::memory::MemoryStore;
use self::rocks::RocksStore;

/// The state can no longer be read or written: the replica stops rather than guess.
#[derive(Debug, Error, Clone)]
#[error("state store: {0}")]
pub struct StoreFault(pub String);

/// Puts (Some) and deletes (None), applied together.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The state of one replica. Cheap to clone.
#[derive(Clone)]
pub enum StateStore {
    /// On disk.
    Rocks(Rc<RocksStore>),
    /// In the simulator.
    Memory(MemoryStore),
}

impl StateStore {
    /// The value of a key.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        match self {
            StateStore::Rocks(store) => store.get(key),
            StateStore::Memory(store) => store.check().map(|()| store.get(key)),
        }
    }

    /// Visits keys in `start..end` (`None` = to the end) in byte order until `visit` says false.
    ///
    /// # Errors
    /// The store is damaged.
    pub fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreFault> {
        match self {
            StateStore::Rocks(store) => store.scan(start, end, visit),
            StateStore::Memory(store) => {
                store.check()?;
                store.scan(start, end, visit);
                Ok(())
            }
        }
    }

    /// Writes a batch; it survives a crash once a later `flush` has returned.
    ///
    /// # Errors
    /// The store is damaged or full.
    pub fn write(&self, batch: &Batch) -> Result<(), StoreFault> {
        match self {
            StateStore::Rocks(store) => store.write(batch),
            StateStore::Memory(store) => {
                store.check()?;
                store.write(batch);
                Ok(())
            }
        }
    }

    /// Makes everything written before this call durable. May block: run it in the worker lane.
    ///
    /// # Errors
    /// The store is damaged or full.
    pub async fn flush(&self, platform: &platform::Platform) -> Result<(), StoreFault> {
        match self {
            StateStore::Rocks(store) => {
                let work = store.flusher();
                platform.lane().run(work).await
            }
            StateStore::Memory(store) => {
                store.check()?;
                store.flush();
                Ok(())
            }
        }
    }

    /// Replaces the whole content, durably and atomically: a crash in the middle leaves the old.
    ///
    /// # Errors
    /// The store is damaged or full.
    pub fn replace(&self, pages: &[Vec<(Vec<u8>, Vec<u8>)>]) -> Result<(), StoreFault> {
        match self {
            StateStore::Rocks(store) => store.replace(pages),
            StateStore::Memory(store) => {
                store.replace(pages);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StateStore;
    use super::memory::MemoryStore;
    use super::rocks::RocksStore;
    use std::rc::Rc;

    fn contract(store: &StateStore) {
        rows_of_tables(store, b"");
        // Rows of these are kept beside the database.
        rows_of_tables(store, &[proto::keys::table::SESSION]);
    }

    fn rows_of_tables(store: &StateStore, table: &[u8]) {
        let row = |name: &str| [table, name.as_bytes()].concat();
        let put = |name: &str, value: &str| (row(name), Some(value.as_bytes().to_vec()));
        let get = |name: &str| store.get(&row(name)).expect("get").map(|value| String::from_utf8(value).expect("text"));
        store.replace(&[]).expect("empty");
        assert_eq!(get("a"), None);
        store.write(&vec![put("a", "1"), put("c", "3")]).expect("write");
        assert_eq!(get("a").as_deref(), Some("1"));
        store.write(&vec![put("b", "2"), (row("a"), None)]).expect("write");
        assert_eq!(get("a"), None);
        assert_eq!(get("b").as_deref(), Some("2"));
        let seen = |start: &str, end: Option<&str>| {
            let mut seen = Vec::new();
            store
                .scan(&row(start), end.map(row).as_deref(), &mut |key, value| {
                    seen.push((key.to_vec(), Some(value.to_vec())));
                    true
                })
                .expect("scan");
            seen
        };
        assert_eq!(seen("", None), [put("b", "2"), put("c", "3")]);
        assert_eq!(seen("b", Some("c")), [put("b", "2")]);
        store.replace(&[vec![(row("x"), b"9".to_vec())]]).expect("replace");
        assert_eq!(get("b"), None);
        assert_eq!(get("x").as_deref(), Some("9"));
    }

    #[test]
    fn both_stores_keep_the_contract() {
        contract(&StateStore::Memory(MemoryStore::default()));
        let dir = std::env::temp_dir().join(format!("bixi-state-{}", std::process::id()));
        contract(&StateStore::Rocks(Rc::new(RocksStore::open(&dir).expect("open"))));
        let again = RocksStore::open(&dir).expect("open again");
        let row = [&[proto::keys::table::SESSION], b"x".as_slice()].concat();
        assert_eq!(again.get(&row).expect("get"), Some(b"9".to_vec()), "replace is durable");
        drop(again);
        #[expect(clippy::disallowed_methods, reason = "a test cleans up behind itself")]
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
