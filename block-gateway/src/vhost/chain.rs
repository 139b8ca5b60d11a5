//! Descriptor chains: which pieces of the guest's memory a request consists of.
//!
//! A walk reads every descriptor once and believes none: it ends after as many as there can be, whether they
//! have a piece or are empty. What the pieces point to is looked at only when they are read or written.

use super::memory::{Memory, NotShared};
use super::wire::{DESCRIPTOR_LEN, descriptor_flag};

/// Descriptors of one table that a chain has; drivers keep to [`super::wire::SEGMENTS_MAX`] and a few, but
/// need not. A table in the guest's memory can say that it has 2^28.
const STEPS_MAX: u32 = 1024;

/// A run of guest memory; never empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// A request's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The descriptor that it begins with.
    pub head: u16,
    /// What the driver says.
    pub readable: Vec<Segment>,
    /// What the device fills; the last byte is the status.
    pub writable: Vec<Segment>,
    /// All readable pieces come before all writable ones, as they must.
    pub is_ordered: bool,
}

/// A chain without an end: nobody knows where its status belongs, and the queue cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// A descriptor that the table does not have.
    #[error("descriptor {0} lies outside its table")]
    Index(u16),
    /// It runs in a circle, or has too many pieces.
    #[error("the chain does not end")]
    Endless,
    /// An indirect table in an indirect table, of a broken length, or with something behind it.
    #[error("an indirect table that cannot be")]
    Indirect,
    /// The table itself is not the guest's.
    #[error(transparent)]
    NotShared(#[from] NotShared),
    /// No piece that could take the status.
    #[error("a request without room for its status")]
    NoStatus,
}

struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// Follows the chain that begins at `head` in a table of `size` descriptors at guest address `table`.
///
/// # Errors
/// See [`Broken`].
pub fn walk(memory: &Memory, table: u64, size: u16, head: u16) -> Result<Chain, Broken> {
    let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new(), is_ordered: true };
    let (mut table, mut size, mut index) = (table, u32::from(size), head);
    let (mut is_indirect, mut steps) = (false, 0);
    loop {
        if u32::from(index) >= size {
            return Err(Broken::Index(index));
        }
        steps += 1;
        if steps > size.min(STEPS_MAX) {
            return Err(Broken::Endless);
        }
        let descriptor = descriptor(memory, table, index)?;
        let has_next = descriptor.flags & descriptor_flag::NEXT != 0;
        if descriptor.flags & descriptor_flag::INDIRECT != 0 {
            let count = descriptor.len / DESCRIPTOR_LEN as u32;
            let is_whole = descriptor.len.is_multiple_of(DESCRIPTOR_LEN as u32) && count > 0;
            if is_indirect || has_next || !is_whole {
                return Err(Broken::Indirect);
            }
            (table, size, index) = (descriptor.address, count, 0);
            (is_indirect, steps) = (true, 0);
            continue;
        }
        chain.add(&descriptor);
        if !has_next {
            break;
        }
        index = descriptor.next;
    }
    if chain.status_address().is_none() { Err(Broken::NoStatus) } else { Ok(chain) }
}

fn descriptor(memory: &Memory, table: u64, index: u16) -> Result<Descriptor, Broken> {
    let offset = u64::from(index) * DESCRIPTOR_LEN as u64;
    let address = table.checked_add(offset).ok_or(Broken::Index(index))?;
    let mut bytes = [0; DESCRIPTOR_LEN];
    memory.read(address, &mut bytes)?;
    let (address, rest) = bytes.split_first_chunk::<8>().expect("16 bytes hold 8");
    let (len, rest) = rest.split_first_chunk::<4>().expect("8 bytes hold 4");
    let (flags, rest) = rest.split_first_chunk::<2>().expect("4 bytes hold 2");
    Ok(Descriptor {
        address: u64::from_le_bytes(*address),
        len: u32::from_le_bytes(*len),
        flags: u16::from_le_bytes(*flags),
        next: u16::from_le_bytes([rest[0], rest[1]]),
    })
}

impl Chain {
    fn add(&mut self, descriptor: &Descriptor) {
        let segment = Segment { address: descriptor.address, len: descriptor.len };
        if descriptor.len == 0 {
            return;
        }
        if descriptor.flags & descriptor_flag::WRITE != 0 {
            self.writable.push(segment);
        } else {
            self.is_ordered &= self.writable.is_empty();
            self.readable.push(segment);
        }
    }

    /// Where the status belongs: the last byte of what the device fills.
    pub fn status_address(&self) -> Option<u64> {
        let last = self.writable.last()?;
        last.address.checked_add(u64::from(last.len) - 1)
    }

    /// Bytes that the driver says.
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|segment| u64::from(segment.len)).sum()
    }

    /// Bytes that the device fills, without the status.
    pub fn room(&self) -> u64 {
        self.writable.iter().map(|segment| u64::from(segment.len)).sum::<u64>() - 1
    }

    /// Fills `out` from what the driver says, from byte `skip` on.
    ///
    /// # Errors
    /// A piece is not the guest's; the driver says less.
    pub fn gather(&self, memory: &Memory, skip: u64, out: &mut [u8]) -> Result<(), NotShared> {
        let mut rest = out;
        each(&self.readable, skip, rest.len() as u64, |address, len| {
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(len);
            rest = behind;
            memory.read(address, piece)
        })
    }

    /// Stores `data` at the beginning of what the device fills.
    ///
    /// # Errors
    /// A piece is not the guest's; there is less room.
    pub fn scatter(&self, memory: &Memory, data: &[u8]) -> Result<(), NotShared> {
        let mut rest = data;
        each(&self.writable, 0, data.len() as u64, |address, len| {
            let (piece, behind) = rest.split_at(len);
            rest = behind;
            memory.write(address, piece)
        })
    }
}

/// Visits `len` bytes of the segments from byte `skip` on, piece by piece.
fn each(
    segments: &[Segment],
    mut skip: u64,
    mut len: u64,
    mut visit: impl FnMut(u64, usize) -> Result<(), NotShared>,
) -> Result<(), NotShared> {
    for segment in segments {
        let skipped = skip.min(u64::from(segment.len));
        skip -= skipped;
        let piece = (u64::from(segment.len) - skipped).min(len);
        if piece > 0 {
            // An address that overflows is no one's.
            visit(segment.address.saturating_add(skipped), piece as usize)?;
        }
        len -= piece;
    }
    if len > 0 { Err(NotShared::beyond(len)) } else { Ok(()) }
}
