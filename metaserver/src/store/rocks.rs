//! RocksDB as the state store. Its WAL is off: the Raft log is the only one.
//!
//! The database lies in `DIR/state-N`; the file `DIR/state-current` names it, so that replacing
//! the whole content is one atomic rename. Whatever else is called `state-*` is left over.

#![allow(clippy::disallowed_methods, reason = "RocksDB owns its directory; naming it belongs to the same door")]

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WriteBatch, WriteOptions};

use super::hot::{self, HotRows};
use super::{Batch, StoreFault};

/// Bytes of block cache.
const CACHE_BYTES: usize = 16 << 20;
/// Bytes of a memtable.
const MEMTABLE_BYTES: usize = 16 << 20;

/// A RocksDB in a directory.
pub struct RocksStore {
    dir: PathBuf,
    db: RefCell<Arc<DB>>,
    hot: RefCell<HotRows>,
}

fn fault(what: &str, error: impl std::fmt::Display) -> StoreFault {
    StoreFault(format!("{what}: {error}"))
}

fn options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(3);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_paranoid_checks(true);
    options.set_max_open_files(512);
    options
}

fn open_db(path: &Path) -> Result<Arc<DB>, StoreFault> {
    DB::open(&options(), path).map(Arc::new).map_err(|error| fault("open", error))
}

impl RocksStore {
    /// Opens the store in `dir`, making it if it is new.
    ///
    /// # Errors
    /// RocksDB finds damage: the replica must be rebuilt from its peers.
    pub fn open(dir: &Path) -> Result<RocksStore, StoreFault> {
        fs::create_dir_all(dir).map_err(|error| fault("create directory", error))?;
        let current = match fs::read_to_string(dir.join("state-current")) {
            Ok(name) if name.starts_with("state-") && !name.contains('/') => name,
            Ok(name) => return Err(StoreFault(format!("state-current names {name:?}"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                point_to(dir, "state-1")?;
                "state-1".to_owned()
            }
            Err(error) => return Err(fault("read state-current", error)),
        };
        let db = open_db(&dir.join(current))?;
        Ok(RocksStore { dir: dir.to_owned(), db: RefCell::new(db), hot: RefCell::default() })
    }

    /// Opens an empty store beside one that cannot be opened, and uses it from now on only if it is
    /// filled (`replace`): until then the damaged one stays what the directory means.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn open_beside(dir: &Path) -> Result<RocksStore, StoreFault> {
        let path = dir.join("state-beside");
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| fault("remove what was left over", error))?;
        }
        let db = open_db(&path)?;
        Ok(RocksStore { dir: dir.to_owned(), db: RefCell::new(db), hot: RefCell::default() })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Damage.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        let hot = hot::is_hot(key);
        if hot && let Some(known) = self.hot.borrow_mut().get(key) {
            return Ok(known);
        }
        let value = self.db.borrow().get(key).map_err(|error| fault("get", error))?;
        if hot {
            self.hot.borrow_mut().learn(key, &value);
        }
        Ok(value)
    }

    pub(super) fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreFault> {
        let db = self.db.borrow();
        let mut options = ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end.to_vec());
        }
        // The raw iterator lends keys and values; the other one would copy each.
        let mut rows = db.raw_iterator_opt(options);
        rows.seek(start);
        while let Some((key, value)) = rows.item() {
            if !visit(key, value) {
                break;
            }
            rows.next();
        }
        rows.status().map_err(|error| fault("scan", error))
    }

    pub(super) fn write(&self, batch: &Batch) -> Result<(), StoreFault> {
        let rows = || batch.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
        if let Err(fault) = write(&self.db.borrow(), rows()) {
            // What of it is there, nobody knows.
            *self.hot.borrow_mut() = HotRows::default();
            return Err(fault);
        }
        let mut hot = self.hot.borrow_mut();
        rows().filter(|(key, _)| hot::is_hot(key)).for_each(|(key, value)| hot.change(key, value));
        Ok(())
    }

    pub(super) fn flusher(&self) -> impl FnOnce() -> Result<(), StoreFault> + Send + 'static {
        let db = Arc::clone(&self.db.borrow());
        move || db.flush().map_err(|error| fault("flush", error))
    }

    pub(super) fn replace(&self, pages: &[Vec<(Vec<u8>, Vec<u8>)>]) -> Result<(), StoreFault> {
        let old = fs::read_to_string(self.dir.join("state-current")).unwrap_or_default();
        let name = next_name(&self.dir)?;
        let path = self.dir.join(&name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| fault("remove what was left over", error))?;
        }
        let db = open_db(&path)?;
        for page in pages {
            write(&db, page.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice()))))?;
        }
        db.flush().map_err(|error| fault("flush", error))?;
        point_to(&self.dir, &name)?;
        *self.db.borrow_mut() = db;
        *self.hot.borrow_mut() = HotRows::default();
        // The old directory is garbage from here on; failing to remove it costs space only.
        let is_state = old.starts_with("state-") && !old.contains('/') && old != name;
        if is_state && let Err(error) = fs::remove_dir_all(self.dir.join(old)) {
            tracing::warn!(%error, "old state directory could not be removed");
        }
        Ok(())
    }
}

fn write<'a>(db: &DB, rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Result<(), StoreFault> {
    let mut rocks = WriteBatch::default();
    for (key, value) in rows {
        match value {
            Some(value) => rocks.put(key, value),
            None => rocks.delete(key),
        }
    }
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    db.write_opt(rocks, &options).map_err(|error| fault("write", error))
}

/// A name that no directory has yet.
fn next_name(dir: &Path) -> Result<String, StoreFault> {
    let mut last = 0;
    for entry in fs::read_dir(dir).map_err(|error| fault("list directory", error))? {
        let entry = entry.map_err(|error| fault("list directory", error))?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix("state-")?.parse::<u64>().ok());
        last = last.max(number.unwrap_or(0));
    }
    Ok(format!("state-{}", last + 1))
}

fn point_to(dir: &Path, name: &str) -> Result<(), StoreFault> {
    let temporary = dir.join("state-current.tmp");
    let mut file = fs::File::create(&temporary).map_err(|error| fault("write state-current", error))?;
    file.write_all(name.as_bytes()).map_err(|error| fault("write state-current", error))?;
    file.sync_all().map_err(|error| fault("sync state-current", error))?;
    fs::rename(&temporary, dir.join("state-current")).map_err(|error| fault("rename state-current", error))?;
    let directory = fs::File::open(dir).map_err(|error| fault("open directory", error))?;
    directory.sync_all().map_err(|error| fault("sync directory", error))
}
