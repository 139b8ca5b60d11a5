//! Encrypted volumes: bytes are encrypted before they go into a record and decrypted after they were read, so
//! journals, stripes, caches, the network and whoever moves chunks see what is encrypted only.
//!
//! ```text
//! change:      ...|-- block --|-- block --|-- block --|...     blocks of 16 bytes, by their place in the volume
//! asked:               [==================]
//! written:        [ old ======|===========|== old ]            edges are read, decrypted and written again
//! ```
//!
//! A volume that is not encrypted neither reads nor merges anything for a change that is not aligned; one that
//! is does so at its edges. What that needs:
//!
//! - changes of ranges that overlap wait for each other ([`Hold`]), for else an edge would be written again as
//!   it was before a change that was answered meanwhile;
//! - a change that failed may still be found by who reads the journal next. Before an edge that it touches is
//!   written again it is settled: what was to be written there is written as it was before, what was to be
//!   cleared is cleared. Else that reader would find one block of it as it was and the next one changed;
//! - edges and what lies between them are in one record, so that no replay and no snapshot has one without the other.
//!
//! Invariant: every extent of an encrypted volume begins and ends at a block, so each is decrypted by itself,
//! and is moved by compaction as it is.

use std::rc::Rc;

use bytes::Bytes;
use crypto::suite::{BLOCK, BlockSuite, Suite};
use platform::buffer::Buffer;
use proto::journal::{Entry, EntryKind};
use proto::volume::VolumeRow;

use super::admin::told;
use super::device::{CLEAR_MAX, CLEARS_MAX, Inner, Volume, VolumeError, all};
use crate::meta::MetaClient;

/// What encrypts a volume, with its key.
pub(super) type Cipher = Rc<dyn BlockSuite>;

/// What encrypts a volume; none: it is not encrypted. The leader unwraps the key.
///
/// # Errors
/// The root key is missing or another one, the cipher is unknown, no leader in time.
pub(super) async fn cipher_of(meta: &MetaClient, row: &VolumeRow) -> Result<Option<Cipher>, VolumeError> {
    let Some(encryption) = &row.encryption else { return Ok(None) };
    let unknown = || VolumeError::Refused(format!("the cipher of volume {} is unknown to this version", row.name));
    let suite = Suite::of_number(encryption.suite).ok_or_else(unknown)?;
    let (number, key) = meta.volume_key(row.id).await.map_err(told)?;
    if number != encryption.number {
        return Err(VolumeError::Damaged(format!("the key that came is not that of volume {}", row.name)));
    }
    let cipher = suite.cipher(&key);
    let cipher = cipher.map_err(|error| VolumeError::Damaged(format!("volume {}: {error}", row.name)))?;
    Ok(Some(Rc::from(cipher)))
}

/// The whole blocks that hold a range: their first byte, and the byte behind them.
pub(super) fn blocks(start: u64, end: u64) -> (u64, u64) {
    (start / BLOCK * BLOCK, end.next_multiple_of(BLOCK))
}

/// A range that a change has for itself until it is through, however its client ends.
pub(super) struct Hold {
    volume: Rc<Inner>,
    start: u64,
    end: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.volume.holds.borrow_mut();
        if let Some(at) = holds.iter().position(|one| *one == (self.start, self.end)) {
            holds.swap_remove(at);
        }
        self.volume.freed.notify_waiters();
    }
}

/// A range of a change whose fate is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Doubt {
    start: u64,
    end: u64,
    kind: EntryKind,
}

/// Takes note of a change that failed.
pub(super) fn note(doubts: &mut Vec<Doubt>, entry: &Entry) {
    let end = entry.start + u64::from(entry.len);
    if entry.len > 0 {
        doubts.push(Doubt { start: entry.start, end, kind: entry.kind });
    }
}

/// Whatever failed there, this change is carried out behind it.
pub(super) fn forget(doubts: &mut Vec<Doubt>, entry: &Entry) {
    let (start, end) = (entry.start, entry.start + u64::from(entry.len));
    if doubts.is_empty() || entry.len == 0 {
        return;
    }
    let left = std::mem::take(doubts).into_iter().flat_map(|doubt| {
        let before = Doubt { end: doubt.end.min(start), ..doubt };
        let behind = Doubt { start: doubt.start.max(end), ..doubt };
        [before, behind]
    });
    doubts.extend(left.filter(|doubt| doubt.start < doubt.end));
}

fn overlap(one: (u64, u64), other: (u64, u64)) -> bool {
    one.0 < other.1 && other.0 < one.1
}

impl Volume {
    /// Waits until nothing is under way in the range, and has it alone.
    async fn hold(&self, start: u64, end: u64) -> Rc<Hold> {
        while self.0.holds.borrow().iter().any(|one| overlap(*one, (start, end))) {
            self.0.freed.notified().await;
        }
        self.0.holds.borrow_mut().push((start, end));
        Rc::new(Hold { volume: Rc::clone(&self.0), start, end })
    }

    /// [`Volume::hold`], and nothing at the edges has failed without being settled.
    async fn hold_settled(
        &self,
        cipher: &Cipher,
        start: u64,
        end: u64,
        edges: &[u64],
    ) -> Result<Rc<Hold>, VolumeError> {
        loop {
            let at_edge =
                |doubt: &&Doubt| edges.iter().any(|edge| overlap((doubt.start, doubt.end), (*edge, *edge + BLOCK)));
            let doubt = self.0.doubts.borrow().iter().find(at_edge).copied();
            let Some(doubt) = doubt else {
                let hold = self.hold(start, end).await;
                // Something may have failed while this waited.
                if !self.0.doubts.borrow().iter().any(|doubt| at_edge(&doubt)) {
                    return Ok(hold);
                }
                continue;
            };
            let hold = self.hold(doubt.start, doubt.end).await;
            if self.0.doubts.borrow().contains(&doubt) {
                self.settle_doubt(cipher, doubt, &hold).await?;
            }
        }
    }

    /// Writes what lies in a range again as it is, or clears it: in one record, as the change was.
    async fn settle_doubt(&self, cipher: &Cipher, doubt: Doubt, hold: &Rc<Hold>) -> Result<(), VolumeError> {
        let Doubt { start, end, kind } = doubt;
        let len = end - start;
        let stored = self.0.map.look(start, len).await?;
        if kind == EntryKind::Clear || stored.iter().all(|piece| piece.at.is_none()) {
            let entry = Entry { kind: EntryKind::Clear, start, len: len as u32 };
            return all(vec![self.enter(entry, Bytes::new(), Some(hold)).await?]).await;
        }
        let mut bytes = Buffer::copy_of(&self.0.map.read(start, len).await?);
        cipher.encrypt(start, &mut bytes);
        let entry = Entry { kind: EntryKind::Write, start, len: len as u32 };
        let wait = self.enter(entry, bytes.freeze(), Some(hold)).await?;
        self.0.platform.reached("volume change that failed is settled");
        all(vec![wait]).await
    }

    /// Encrypts and writes.
    pub(super) async fn write_encrypted(&self, cipher: &Cipher, start: u64, data: &Bytes) -> Result<(), VolumeError> {
        if data.is_empty() {
            return Ok(());
        }
        let end = start + data.len() as u64;
        let (from, upto) = blocks(start, end);
        let (head, tail) = ((start - from) as usize, (upto - end) as usize);
        let mut edges = Vec::new();
        if head > 0 {
            edges.push(from);
        }
        if tail > 0 && (head == 0 || upto - from > BLOCK) {
            edges.push(upto - BLOCK);
        }
        let hold = self.hold_settled(cipher, from, upto, &edges).await?;
        let mut bytes = Buffer::with_capacity((upto - from) as usize);
        bytes.resize(head);
        bytes.extend_from_slice(data);
        bytes.resize((upto - from) as usize);
        for edge in edges {
            let old = self.0.map.read(edge, BLOCK).await?;
            let at = (edge - from) as usize;
            for (place, byte) in (at..).zip(old.iter()) {
                if place < head || place >= head + data.len() {
                    bytes[place] = *byte;
                }
            }
            self.0.platform.reached("volume edge is encrypted anew");
        }
        cipher.encrypt(from, &mut bytes);
        let waits = self.put(from, &bytes.freeze(), Some(&hold)).await?;
        drop(hold);
        all(waits).await
    }

    /// Makes a range of an encrypted volume read as zeroes: whole blocks are cleared, edges written again.
    pub(super) async fn clear_encrypted(&self, cipher: &Cipher, start: u64, len: u64) -> Result<(), VolumeError> {
        if len == 0 {
            return Ok(());
        }
        let end = start + len;
        let (from, upto) = blocks(start, end);
        let inner_from = start.next_multiple_of(BLOCK);
        // Behind the volume's end there is nothing to keep.
        let inner_upto = if end == self.size() { upto } else { end / BLOCK * BLOCK };
        let mut edges = Vec::new();
        if inner_from > inner_upto {
            edges.push((from, start, end));
        } else {
            if start < inner_from {
                edges.push((from, start, inner_from));
            }
            if inner_upto < end {
                edges.push((inner_upto, inner_upto, end));
            }
        }
        let places: Vec<u64> = edges.iter().map(|(edge, ..)| *edge).collect();
        let hold = self.hold_settled(cipher, from, upto, &places).await?;
        // An edge and what is cleared beside it are in one record: nobody finds half of it.
        let mut together = Vec::new();
        for (edge, zero_from, zero_upto) in edges {
            let stored = self.0.map.look(edge, BLOCK).await?;
            if stored.iter().all(|piece| piece.at.is_none()) {
                continue;
            }
            let mut bytes = Buffer::copy_of(&self.0.map.read(edge, BLOCK).await?);
            bytes[(zero_from - edge) as usize..(zero_upto - edge) as usize].fill(0);
            cipher.encrypt(edge, &mut bytes);
            together.push((Entry { kind: EntryKind::Write, start: edge, len: BLOCK as u32 }, bytes.freeze()));
        }
        let (mut waits, mut at) = (Vec::new(), inner_from);
        while at < inner_upto {
            let part = (inner_upto - at).min(CLEAR_MAX);
            together.push((Entry { kind: EntryKind::Clear, start: at, len: part as u32 }, Bytes::new()));
            at += part;
            waits.extend(self.enter_together(std::mem::take(&mut together), &hold).await?);
            if waits.len() >= CLEARS_MAX {
                all(std::mem::take(&mut waits)).await?;
            }
        }
        waits.extend(self.enter_together(together, &hold).await?);
        drop(hold);
        all(waits).await
    }
}

#[cfg(test)]
mod tests {
    use proto::journal::{Entry, EntryKind};

    use super::{Doubt, blocks, forget, note};

    fn entry(start: u64, len: u32) -> Entry {
        Entry { kind: EntryKind::Write, start, len }
    }

    #[test]
    fn a_range_lies_in_whole_blocks() {
        assert_eq!(blocks(0, 16), (0, 16));
        assert_eq!(blocks(15, 17), (0, 32));
        assert_eq!(blocks(16, 17), (16, 32));
        assert_eq!(blocks(33, 33), (32, 48));
    }

    #[test]
    fn a_change_that_is_carried_out_ends_the_doubt_where_it_lies() {
        let doubt = |start, end| Doubt { start, end, kind: EntryKind::Write };
        let mut doubts = Vec::new();
        note(&mut doubts, &entry(32, 64));
        note(&mut doubts, &entry(200, 0));
        assert_eq!(doubts, [doubt(32, 96)]);
        forget(&mut doubts, &entry(0, 32));
        assert_eq!(doubts, [doubt(32, 96)]);
        forget(&mut doubts, &entry(48, 16));
        assert_eq!(doubts, [doubt(32, 48), doubt(64, 96)]);
        forget(&mut doubts, &entry(0, 80));
        assert_eq!(doubts, [doubt(80, 96)]);
        forget(&mut doubts, &entry(80, 16));
        assert_eq!(doubts, []);
    }
}
