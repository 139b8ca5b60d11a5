//! The stream: every write and flush of all disks in the order in which they took effect, and marks
//! that a test sets between them.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0 | kind | `w` write, `f` flush, `m` mark |
//! | 1 | disk | index; 0 for a mark |
//! | 2..4 | reserved | 0 |
//! | 4..8 | len | bytes of data behind the header (u32, little-endian) |
//! | 8..16 | offset | of a write (u64, little-endian) |
//! | 16.. | data | what was written, or the text of the mark |

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Where the stream goes; nowhere until it is switched on.
pub struct Stream(Mutex<State>);

struct State {
    out: BufWriter<File>,
    is_on: bool,
}

impl Stream {
    /// An empty stream in `path`, switched off.
    pub fn create(path: &Path) -> io::Result<Stream> {
        let out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        Ok(Stream(Mutex::new(State { out, is_on: false })))
    }

    /// From now on things are recorded.
    pub fn switch_on(&self) {
        self.lock().is_on = true;
    }

    /// From now on nothing is recorded; all that was lies in the file.
    pub fn switch_off(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.is_on = false;
        state.out.flush()
    }

    /// Makes an effect and its record one step: nothing of another disk comes in between.
    pub fn record<T>(
        &self,
        kind: u8,
        disk: u8,
        offset: u64,
        data: &[u8],
        effect: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.lock();
        let result = effect()?;
        if state.is_on {
            let mut head = [0; 16];
            head[0] = kind;
            head[1] = disk;
            head[4..8].copy_from_slice(&(data.len() as u32).to_le_bytes());
            head[8..16].copy_from_slice(&offset.to_le_bytes());
            state.out.write_all(&head)?;
            state.out.write_all(data)?;
        }
        Ok(result)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
