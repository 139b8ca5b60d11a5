//! One bit flipped in bytes of a small database: rows are those of some flush, or the store says that it is
//! damaged. A state that is older than the log's beginning is found by the replica that opens it.
//!
//! Opening RocksDB takes milliseconds, so one byte in [`STRIDE`] is tried, another one in each file;
//! `BIXI_TEST_ALL_FLIPS=1` tries them all (a quarter of an hour).

#![allow(clippy::disallowed_methods, reason = "RocksDB's files are damaged behind its back")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::StoreFault;
use super::rocks::RocksStore;

const STRIDE: usize = 23;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn rows(dir: &Path) -> Result<Rows, StoreFault> {
    let store = RocksStore::open(dir)?;
    let mut rows = Rows::new();
    store.scan(&[], None, &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        true
    })?;
    for (key, value) in &rows {
        assert_eq!(store.get(key)?.as_ref(), Some(value), "get and scan differ");
    }
    Ok(rows)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(copy.parent().expect("parent")).expect("directory");
        fs::copy(&file, copy).expect("copy");
    }
}

#[test]
fn flipped_bits_of_the_state_are_noticed_or_give_the_rows_of_a_flush() {
    let base = std::env::temp_dir().join(format!("bixi-flips-{}", std::process::id()));
    let (sound, tried) = (base.join("sound"), base.join("tried"));
    let mut states = vec![Rows::new()];
    {
        let store = RocksStore::open(&sound).expect("open");
        for flush in 1..=3u8 {
            let mut now = states.last().expect("state").clone();
            let batch: Vec<(Vec<u8>, Option<Vec<u8>>)> =
                (0..20u8).map(|row| (vec![row % 7, flush, row], Some(vec![flush ^ row; 40]))).collect();
            now.extend(batch.iter().map(|(key, value)| (key.clone(), value.clone().expect("a value"))));
            store.write(&batch).expect("write");
            store.flusher()().expect("flush");
            states.push(now);
        }
    }
    assert_eq!(rows(&sound).expect("sound").len(), 60);
    let all = std::env::var_os("BIXI_TEST_ALL_FLIPS").is_some();
    let (mut noticed, mut older, mut passed) = (0, 0, 0);
    for (number, file) in files(&sound).iter().enumerate() {
        let name = file.strip_prefix(&sound).expect("below").to_owned();
        if name.file_name().is_some_and(|name| name.to_string_lossy().starts_with("LOG")) {
            continue;
        }
        let bytes = fs::read(file).expect("read");
        for offset in (0..bytes.len()).filter(|offset| all || (offset + number) % STRIDE == 0) {
            copy(&sound, &tried);
            let mut flipped = bytes.clone();
            flipped[offset] ^= 1 << (offset % 8);
            fs::write(tried.join(&name), flipped).expect("write");
            match rows(&tried) {
                Err(_) => noticed += 1,
                Ok(rows) if Some(&rows) == states.last() => passed += 1,
                Ok(rows) => {
                    assert!(states.contains(&rows), "byte {offset} of {} gives rows that never were", name.display());
                    older += 1;
                }
            }
        }
    }
    println!("{noticed} noticed, {older} give an older state, {passed} change nothing");
    assert!(noticed > passed / 4, "{noticed} noticed, {older} older, {passed} change nothing");
    fs::remove_dir_all(&base).expect("clean up");
}
