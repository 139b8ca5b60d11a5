//! What a protocol needs of a volume.

use bytes::Bytes;
use client::volume::{Change, Piece, VolumeError};
use futures_util::future::LocalBoxFuture;

/// Zeroes or bytes: what a range holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Bytes.
    pub len: u64,
    /// Nothing is stored: it reads as zeroes.
    pub is_hole: bool,
}

/// What went wrong, in the words that block protocols have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The bytes cannot be read or written.
    Io,
    /// The request makes no sense.
    Invalid,
    /// Beyond the end, or the pool is full.
    NoSpace,
    /// The device is gone for this client.
    Shutdown,
    /// It can only be read.
    ReadOnly,
}

impl From<&VolumeError> for Fault {
    fn from(error: &VolumeError) -> Fault {
        match error {
            VolumeError::OutOfRange { .. } => Fault::Invalid,
            VolumeError::NoSpace(_) => Fault::NoSpace,
            VolumeError::ReadOnly => Fault::ReadOnly,
            VolumeError::Fenced(_) | VolumeError::NotFound(_) | VolumeError::Busy(_) => Fault::Shutdown,
            VolumeError::Unavailable(_) | VolumeError::Damaged(_) | VolumeError::Refused(_) => Fault::Io,
        }
    }
}

/// The same bytes as before, or not: what a range holds since a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Since {
    /// Bytes.
    pub len: u64,
    /// They may be other ones.
    pub is_changed: bool,
}

/// What a device answers some time.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, VolumeError>>;

/// A block device. Every change is durable when it is answered, so a flush only says whether the device
/// still is this process's.
pub trait Device {
    /// Bytes.
    fn size(&self) -> u64;
    /// Whether changes are refused.
    fn is_read_only(&self) -> bool {
        false
    }
    /// Reads a range.
    fn read(&self, start: u64, len: u64) -> Answer<'_, Bytes>;
    /// Writes at any byte.
    fn write(&self, start: u64, data: Bytes) -> Answer<'_, ()>;
    /// Makes a range read as zeroes and gives its space back.
    fn clear(&self, start: u64, len: u64) -> Answer<'_, ()>;
    /// Whether everything that was answered is kept.
    fn flush(&self) -> Result<(), VolumeError>;
    /// What a range holds, in order, without gaps.
    fn status(&self, start: u64, len: u64) -> Answer<'_, Vec<Run>>;
    /// What of a range has changed since a snapshot of the same volume, in order, without gaps.
    fn changed_since<'a>(&'a self, snapshot: &'a str, _start: u64, _len: u64) -> Answer<'a, Vec<Since>> {
        let missing = VolumeError::NotFound(format!("there is no snapshot {snapshot}"));
        Box::pin(std::future::ready(Err(missing)))
    }
}

/// The whole blocks that a range of a device touches: first byte and length.
///
/// # Errors
/// It lies beyond the end.
pub(crate) fn blocks(start: u64, len: u64, size: u64) -> Result<(u64, u64), VolumeError> {
    let end = start.saturating_add(len);
    if end > size {
        return Err(VolumeError::OutOfRange { start, end, size });
    }
    let first = start / BLOCK * BLOCK;
    Ok((first, end.div_ceil(BLOCK).saturating_mul(BLOCK).min(size) - first))
}

/// What a range holds, of a lookup of the blocks that it touches: a block is stored if any byte of it is.
pub(crate) fn runs_of(start: u64, len: u64, pieces: &[Piece]) -> Vec<Run> {
    let stored = pieces.iter().filter(|piece| piece.at.is_some()).map(|piece| (piece.start, piece.start + piece.len));
    runs(start, start + len, stored)
}

/// What of a range has changed, of the blocks that it touches.
pub(crate) fn since_of(start: u64, len: u64, changes: &[Change]) -> Vec<Since> {
    let changed = changes.iter().filter(|one| one.is_changed).map(|one| (one.start, one.start + one.len));
    let runs = runs(start, start + len, changed);
    runs.into_iter().map(|Run { len, is_hole }| Since { len, is_changed: !is_hole }).collect()
}

/// What is stored is told in whole blocks of so many bytes.
const BLOCK: u64 = 4096;

/// Runs of `start..end`, from stored ranges in order, each widened to whole blocks.
fn runs(start: u64, end: u64, stored: impl Iterator<Item = (u64, u64)>) -> Vec<Run> {
    let (mut runs, mut at): (Vec<Run>, u64) = (Vec::new(), start);
    let push = |runs: &mut Vec<Run>, len: u64, is_hole: bool| match runs.last_mut() {
        Some(last) if last.is_hole == is_hole => last.len += len,
        _ if len > 0 => runs.push(Run { len, is_hole }),
        _ => {}
    };
    for (from, upto) in stored {
        let (from, upto) =
            ((from / BLOCK * BLOCK).clamp(at, end), upto.div_ceil(BLOCK).saturating_mul(BLOCK).clamp(at, end));
        push(&mut runs, from - at, true);
        push(&mut runs, upto - from, false);
        at = upto;
    }
    push(&mut runs, end - at, true);
    runs
}

#[cfg(test)]
mod tests {
    use super::{Run, runs};

    #[test]
    fn what_is_stored_is_told_in_whole_blocks() {
        let of = |start, end, stored: &[(u64, u64)]| -> Vec<(u64, bool)> {
            runs(start, end, stored.iter().copied()).iter().map(|Run { len, is_hole }| (*len, *is_hole)).collect()
        };
        assert_eq!(of(0, 20_000, &[]), [(20_000, true)]);
        assert_eq!(of(0, 16_384, &[(4100, 4101)]), [(4096, true), (4096, false), (8192, true)]);
        assert_eq!(of(0, 16_384, &[(4100, 4101), (5000, 9000)]), [(4096, true), (8192, false), (4096, true)]);
        assert_eq!(of(5000, 6000, &[(4100, 4101)]), [(1000, false)]);
        assert_eq!(of(0, 5000, &[(4999, 5000)]), [(4096, true), (904, false)]);
        assert_eq!(of(0, 0, &[]), []);
    }
}
