//! An index and the chunks that it names: what volumes and snapshots are read by.

use std::cell::RefCell;

use bytes::Bytes;
use crypto::suite::BLOCK;
use futures_util::future::try_join_all;
use platform::buffer::Buffer;
use proto::volume::{IndexPage, PageRow};
use types::ids::ChunkId;

use super::device::VolumeError;
use super::encrypted::{Cipher, blocks};
use super::index::{Index, Piece};
use crate::chunk::reader::{ChunkReader, READ_MAX, ReadError};

/// Pages fetched at once.
const FETCHES: usize = 32;
/// How often a read looks again where bytes lie that were moved away meanwhile.
const LOOKS: usize = 8;

pub(super) struct Mapped {
    pub reader: ChunkReader,
    pub index: RefCell<Index>,
    extents_max: usize,
    /// What decrypts the bytes, if they are encrypted.
    pub cipher: Option<Cipher>,
}

impl Mapped {
    pub(super) fn new(reader: ChunkReader, index: Index, extents_max: usize, cipher: Option<Cipher>) -> Mapped {
        Mapped { reader, index: RefCell::new(index), extents_max, cipher }
    }

    /// Reads a range.
    pub(super) async fn read(&self, start: u64, len: u64) -> Result<Bytes, VolumeError> {
        if self.cipher.is_none() {
            return self.read_stored(start, len).await;
        }
        let (from, upto) = blocks(start, start + len);
        let whole = self.read_stored(from, upto - from).await?;
        let at = (start - from) as usize;
        Ok(whole.slice(at..at + len as usize))
    }

    /// Reads a range; of an encrypted volume one of whole blocks.
    async fn read_stored(&self, start: u64, len: u64) -> Result<Bytes, VolumeError> {
        for _ in 0..LOOKS {
            match self.read_now(start, len).await {
                Ok(bytes) => return Ok(bytes),
                // Compacted away between the look and the read.
                Err(ReadError::Gone(_)) => {}
                Err(error) => return Err(VolumeError::Unavailable(error.to_string())),
            }
        }
        Err(VolumeError::Unavailable("the bytes are moved faster than they can be read".into()))
    }

    async fn read_now(&self, start: u64, len: u64) -> Result<Bytes, ReadError> {
        let looked = self.look(start, len).await;
        let pieces = looked.map_err(|error| ReadError::TooFewShards(error.to_string()))?;
        if let [Piece { at: Some((chunk, offset)), len, .. }] = pieces[..]
            && len <= READ_MAX
        {
            let bytes = self.reader.read_once(ChunkId(chunk), offset, len).await?;
            let Some(cipher) = &self.cipher else { return Ok(bytes) };
            let mut bytes = Buffer::copy_of(&bytes);
            decrypt(cipher, start, &mut bytes)?;
            return Ok(bytes.freeze());
        }
        Box::pin(self.read_pieces(start, len, &pieces)).await
    }

    async fn read_pieces(&self, start: u64, len: u64, pieces: &[Piece]) -> Result<Bytes, ReadError> {
        let mut reads = Vec::new();
        for piece in pieces {
            let Some((chunk, offset)) = piece.at else { continue };
            let mut at = 0;
            while at < piece.len {
                let part = (piece.len - at).min(READ_MAX);
                let place = (piece.start - start + at) as usize;
                reads.push(async move {
                    self.reader.read_once(ChunkId(chunk), offset + at, part).await.map(|bytes| (place, bytes))
                });
                at += part;
            }
        }
        if reads.is_empty() {
            return Ok(Buffer::zeros(len as usize));
        }
        let mut out = Buffer::zeroed(len as usize);
        for (place, bytes) in try_join_all(reads).await? {
            let out = &mut out[place..place + bytes.len()];
            out.copy_from_slice(&bytes);
            if let Some(cipher) = &self.cipher {
                decrypt(cipher, start + place as u64, out)?;
            }
        }
        Ok(out.freeze())
    }

    /// Where the bytes of a range lie.
    pub(super) async fn look(&self, start: u64, len: u64) -> Result<Vec<Piece>, VolumeError> {
        self.fetch(start, len).await?;
        Ok(self.index.borrow().lookup(start, len))
    }

    /// Has the pages of a range here; nothing lets them go before this task waits again.
    pub(super) async fn fetch(&self, start: u64, len: u64) -> Result<(), VolumeError> {
        if self.index.borrow().absent(start, len).is_empty() {
            return Ok(());
        }
        Box::pin(self.fetch_absent(start, len)).await
    }

    async fn fetch_absent(&self, start: u64, len: u64) -> Result<(), VolumeError> {
        // Else whoever fetches others would let go what has come for this one.
        let _pin = Pin::new(&self.index, start, len);
        loop {
            let absent = self.index.borrow().absent(start, len);
            if absent.is_empty() {
                return Ok(());
            }
            tracing::debug!(?absent, "pages of an index are fetched");
            self.index.borrow_mut().shrink(self.extents_max);
            self.fetch_pages(&absent).await?;
        }
    }

    pub(super) async fn fetch_pages(&self, rows: &[PageRow]) -> Result<(), VolumeError> {
        for some in rows.chunks(FETCHES) {
            try_join_all(some.iter().map(|row| self.fetch_page(row))).await?;
        }
        Ok(())
    }

    async fn fetch_page(&self, row: &PageRow) -> Result<(), VolumeError> {
        let bytes = self.reader.read_once(ChunkId(row.chunk), row.offset.into(), row.len.max(1).into()).await;
        let bytes = match bytes {
            Ok(bytes) => bytes,
            // Stored anew meanwhile, and its chunk is gone: whoever wants it looks again.
            Err(ReadError::Gone(_)) if self.index.borrow().stored_at(row.page).is_none_or(|now| now != *row) => {
                return Ok(());
            }
            Err(error) => return Err(VolumeError::Unavailable(error.to_string())),
        };
        let page: IndexPage = proto::decode(&bytes).map_err(|error| VolumeError::Damaged(error.to_string()))?;
        let installed = self.index.borrow_mut().install(row, &page);
        installed.map_err(|error| VolumeError::Damaged(error.to_string()))
    }
}

/// Decrypts what lies at a place of the volume.
fn decrypt(cipher: &Cipher, start: u64, bytes: &mut [u8]) -> Result<(), ReadError> {
    if !start.is_multiple_of(BLOCK) || !(bytes.len() as u64).is_multiple_of(BLOCK) {
        // The index comes from disks.
        return Err(ReadError::TooFewShards(format!("the index names {} bytes at {start}: no blocks", bytes.len())));
    }
    cipher.decrypt(start, bytes);
    Ok(())
}

/// Keeps the pages of a range here, or lets them stay when they come.
struct Pin<'a> {
    index: &'a RefCell<Index>,
    start: u64,
    len: u64,
}

impl Pin<'_> {
    fn new(index: &RefCell<Index>, start: u64, len: u64) -> Pin<'_> {
        index.borrow_mut().pin(start, len);
        Pin { index, start, len }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.index.borrow_mut().unpin(self.start, self.len);
    }
}

/// A range of a volume that is the same as before, or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// It may hold other bytes.
    pub is_changed: bool,
}

/// What of a range may have changed from one index to a later one, without gaps. Bytes that lie where they
/// did are the same.
pub(super) async fn changes(older: &Mapped, newer: &Mapped, start: u64, len: u64) -> Result<Vec<Change>, VolumeError> {
    use super::index::PAGE_SPAN;
    let (mut found, mut at, end) = (Vec::new(), start, start + len);
    while at < end {
        let number = at / PAGE_SPAN;
        let upto = ((number + 1) * PAGE_SPAN).min(end);
        let row = newer.index.borrow().stored_at(number);
        if row.is_some() && row == older.index.borrow().stored_at(number) {
            push(&mut found, at, upto - at, false);
        } else {
            let (before, now) = (older.look(at, upto - at).await?, newer.look(at, upto - at).await?);
            compare(&before, &now, &mut found);
        }
        at = upto;
    }
    Ok(found)
}

/// Two lookups of one range.
fn compare(before: &[Piece], now: &[Piece], found: &mut Vec<Change>) {
    let (mut before, mut now) = (before.iter().copied(), now.iter().copied());
    let (mut one, mut other) = (before.next(), now.next());
    while let (Some(old), Some(new)) = (one, other) {
        let len = old.len.min(new.len);
        push(found, new.start, len, old.at != new.at);
        one = if old.len == len { before.next() } else { Some(behind(old, len)) };
        other = if new.len == len { now.next() } else { Some(behind(new, len)) };
    }
}

fn behind(piece: Piece, len: u64) -> Piece {
    Piece { start: piece.start + len, len: piece.len - len, at: piece.at.map(|(chunk, offset)| (chunk, offset + len)) }
}

fn push(found: &mut Vec<Change>, start: u64, len: u64, is_changed: bool) {
    match found.last_mut() {
        Some(last) if last.is_changed == is_changed => last.len += len,
        _ if len > 0 => found.push(Change { start, len, is_changed }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Piece, compare};

    #[test]
    fn bytes_that_lie_where_they_did_are_the_same() {
        let piece = |start, len, at| Piece { start, len, at };
        let before = [piece(0, 10, Some((1, 100))), piece(10, 20, None), piece(30, 10, Some((2, 0)))];
        let now =
            [piece(0, 4, Some((1, 100))), piece(4, 8, Some((3, 0))), piece(12, 20, None), piece(32, 8, Some((2, 2)))];
        let mut found = Vec::new();
        compare(&before, &now, &mut found);
        let told: Vec<(u64, u64, bool)> =
            found.iter().map(|Change { start, len, is_changed }| (*start, *len, *is_changed)).collect();
        assert_eq!(told, [(0, 4, false), (4, 8, true), (12, 18, false), (30, 2, true), (32, 8, false)]);
    }
}
