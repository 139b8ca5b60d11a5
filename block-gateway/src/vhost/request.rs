//! Requests: from a chain's first bytes to what the device is to do, and back to a status.

use std::sync::Arc;

use bytes::Bytes;
use platform::buffer::Buffer;

use super::chain::Chain;
use super::ring::{Ring, Taken};
use super::shared::Shared;
use super::wire::{
    CLEAR_RANGES_MAX, CLEAR_SECTORS_MAX, HEADER_LEN, ID_LEN, MAY_UNMAP, RANGE_LEN, SECTOR, SEGMENT_MAX, SEGMENTS_MAX,
    kind, status,
};

/// Bytes that one request moves at most: what the configuration space allows.
pub const DATA_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_MAX as u64;

/// What the device is to do. Whether the device has the range is not looked at yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Read {
        start: u64,
        len: u64,
    },
    Write {
        start: u64,
        data: Bytes,
    },
    Flush,
    /// Start and length, each.
    Clear(Vec<(u64, u64)>),
}

/// What is known without the device.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    Do(Command),
    Answer(u8, Vec<u8>),
}

/// What requests are judged by.
pub struct Terms {
    /// The device's name, filled up with zeroes.
    pub id: [u8; ID_LEN],
    pub is_read_only: bool,
}

/// The answer that is owed for a request. Dropped without an answer, the request stays undone.
pub struct Pending {
    ring: Arc<Ring>,
    chain: Chain,
    shared: Arc<Shared>,
    charged: u64,
    is_answered: bool,
}

/// A request on its way to the device.
pub struct Request {
    pub command: Command,
    pub pending: Pending,
}

impl Pending {
    /// Charges the bytes that the request will hold.
    pub fn new(ring: &Arc<Ring>, chain: Chain, shared: &Arc<Shared>) -> Pending {
        let charged = (chain.room() + chain.readable_len()).min(DATA_MAX);
        shared.charge(charged);
        Pending { ring: Arc::clone(ring), chain, shared: Arc::clone(shared), charged, is_answered: false }
    }

    /// Answers with bytes.
    pub fn answer(mut self, status: u8, data: &[u8]) {
        self.is_answered = true;
        self.ring.answer(&self.chain, status, data);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_answered {
            self.ring.abandon(self.chain.head);
        }
        self.shared.discharge(self.charged);
    }
}

/// Reads what the driver asks.
pub fn parse(taken: &Taken, terms: &Terms) -> Parsed {
    let Taken { memory, chain } = taken;
    let failed = Parsed::Answer(status::IOERR, Vec::new());
    let mut header = [0; HEADER_LEN];
    if !chain.is_ordered || chain.gather(memory, 0, &mut header).is_err() {
        return failed;
    }
    let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
    let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
    let said = chain.readable_len() - HEADER_LEN as u64;
    if matches!(kind, kind::OUT | kind::DISCARD | kind::WRITE_ZEROES) && terms.is_read_only {
        return failed;
    }
    // Data that the device would have to fill: the driver has mixed up its flags.
    if kind == kind::OUT && chain.room() > 0 {
        return failed;
    }
    match kind {
        kind::IN => sectors(sector, chain.room()).map_or(failed, |(start, len)| match len {
            0 => Parsed::Answer(status::OK, Vec::new()),
            _ => Parsed::Do(Command::Read { start, len }),
        }),
        kind::OUT => {
            let Some((start, len)) = sectors(sector, said) else { return failed };
            let mut data = Buffer::zeroed(len as usize);
            match chain.gather(memory, HEADER_LEN as u64, &mut data) {
                Ok(()) if len == 0 => Parsed::Answer(status::OK, Vec::new()),
                Ok(()) => Parsed::Do(Command::Write { start, data: data.freeze() }),
                Err(_) => failed,
            }
        }
        kind::FLUSH => Parsed::Do(Command::Flush),
        kind::GET_ID => {
            let len = chain.room().min(ID_LEN as u64) as usize;
            Parsed::Answer(status::OK, terms.id[..len].to_vec())
        }
        kind::DISCARD | kind::WRITE_ZEROES => ranges(taken, kind, said),
        _ => Parsed::Answer(status::UNSUPP, Vec::new()),
    }
}

/// Start and length in bytes of whole sectors; `None`: they are not whole, too many, or have no end.
fn sectors(sector: u64, len: u64) -> Option<(u64, u64)> {
    let start = sector.checked_mul(SECTOR)?;
    start.checked_add(len)?;
    (len.is_multiple_of(SECTOR) && len <= DATA_MAX).then_some((start, len))
}

/// The ranges that are to read as zeroes. Both kinds give the space back: a volume holds no zeroes, and space
/// is not promised to anybody before it is written.
fn ranges(taken: &Taken, kind: u32, said: u64) -> Parsed {
    let answer = |status| Parsed::Answer(status, Vec::new());
    let count = said / RANGE_LEN as u64;
    if !said.is_multiple_of(RANGE_LEN as u64) || count == 0 || count > u64::from(CLEAR_RANGES_MAX) {
        return answer(status::IOERR);
    }
    let mut bytes = vec![0; said as usize];
    if taken.chain.gather(&taken.memory, HEADER_LEN as u64, &mut bytes).is_err() {
        return answer(status::IOERR);
    }
    let allowed = if kind == kind::WRITE_ZEROES { MAY_UNMAP } else { 0 };
    let mut ranges = Vec::with_capacity(count as usize);
    for range in bytes.chunks_exact(RANGE_LEN) {
        let sector = u64::from_le_bytes(range[..8].try_into().expect("eight bytes"));
        let count = u32::from_le_bytes(range[8..12].try_into().expect("four bytes"));
        let flags = u32::from_le_bytes(range[12..].try_into().expect("four bytes"));
        if flags & !allowed != 0 {
            return answer(status::UNSUPP);
        }
        let len = u64::from(count) * SECTOR;
        match sector.checked_mul(SECTOR).filter(|start| start.checked_add(len).is_some()) {
            Some(start) if count <= CLEAR_SECTORS_MAX => ranges.push((start, len)),
            _ => return answer(status::IOERR),
        }
    }
    Parsed::Do(Command::Clear(ranges))
}
