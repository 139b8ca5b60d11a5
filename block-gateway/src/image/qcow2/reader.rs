//! Reads where the bytes of a disk lie in an image. Nothing here panics on foreign bytes, and nothing is
//! allocated by a number from the file but a piece of a table: at most 64 KiB of the L1 table and as much
//! of an L2 table are held.

use bytes::Bytes;

use super::header::{self, Header, u64_at, within};
use super::{COPIED, OFFSET, PACKED, ZERO, packed};
use crate::image::{Extent, ImageError, Kind, Span};

/// Bytes of a table that are read at once.
const WINDOW: u64 = 64 << 10;
/// Bits that are 0 in an L1 entry, and in an L2 entry that is not packed.
const L1_RESERVED: u64 = !(OFFSET | COPIED);
const L2_RESERVED: u64 = !(OFFSET | COPIED | PACKED | ZERO);

/// What the reader needs or has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// These bytes of the file go to [`Reader::feed`]; they lie within the file, at most 64 KiB.
    Read(Span),
    /// The next bytes of the disk, directly behind the ones before.
    Extent(Extent),
    /// The whole disk was told.
    End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    L1,
    L2,
}

/// A piece of a table.
#[derive(Default)]
struct Window {
    /// Of the file.
    offset: u64,
    bytes: Bytes,
}

impl Window {
    fn entry(&self, offset: u64) -> Option<u64> {
        let at = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        (at < self.bytes.len()).then(|| u64_at(&self.bytes, at))
    }
}

/// An entry, or what has to be read first.
enum Found<T> {
    Here(T),
    Need(Span),
}

/// See the module.
pub struct Reader {
    header: Header,
    file_len: u64,
    /// First byte of the disk that was not looked at.
    at: u64,
    l1: Window,
    l2: Window,
    wanted: Option<(Level, Span)>,
    /// Looked at and not told: the next bytes may continue it.
    held: Option<Extent>,
}

impl Reader {
    /// Reads the image whose file has `file_len` bytes and begins with `head`: [`crate::image::HEAD_LEN`]
    /// bytes or more, or all of a shorter file.
    ///
    /// # Errors
    /// Not qcow2, damaged, cut, or with something that is not read: encryption, data in another file,
    /// extended L2 entries, zstd, features that are unknown.
    pub fn open(head: &[u8], file_len: u64) -> Result<Reader, ImageError> {
        let header = header::decode(head, file_len)?;
        let (l1, l2) = (Window::default(), Window::default());
        Ok(Reader { header, file_len, at: 0, l1, l2, wanted: None, held: None })
    }

    /// Bytes of the disk: a stranger's number, and not always whole sectors.
    pub fn size(&self) -> u64 {
        self.header.size
    }

    /// Bytes of a cluster, 512 to 2 MiB.
    pub fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// Where in the file the name of the backing file is, 1 to 1023 bytes within the file. With one, what
    /// is unallocated is not zeroes: the image makes sense only on top of the disk it was made from.
    pub fn backing_name(&self) -> Option<Span> {
        self.header.backing
    }

    /// What comes next. Asked again before it was fed, it answers the same.
    ///
    /// # Errors
    /// The tables are damaged; nothing more can be had.
    pub fn step(&mut self) -> Result<Step, ImageError> {
        while self.at < self.header.size {
            let extent = match self.look()? {
                Found::Here(extent) => extent,
                Found::Need(span) => return Ok(Step::Read(span)),
            };
            self.at += extent.len;
            if let Some(whole) = self.hold(extent) {
                return Ok(Step::Extent(whole));
            }
        }
        Ok(self.held.take().map_or(Step::End, Step::Extent))
    }

    /// Takes the bytes that [`Step::Read`] asked for.
    ///
    /// # Errors
    /// Not as many: the file is shorter than it was.
    ///
    /// # Panics
    /// If nothing was asked for.
    pub fn feed(&mut self, bytes: Bytes) -> Result<(), ImageError> {
        let (level, span) = self.wanted.expect("bytes are fed that were asked for");
        if bytes.len() as u64 != span.len {
            return Err(ImageError::Short { have: bytes.len() as u64, need: span.len });
        }
        self.wanted = None;
        *self.window(level) = Window { offset: span.offset, bytes };
        Ok(())
    }

    /// The bytes of an extent of [`Kind::Packed`], from those of the file; at most a cluster.
    ///
    /// # Errors
    /// They are damaged.
    ///
    /// # Panics
    /// If the extent is of another kind.
    pub fn inflate(&self, extent: &Extent, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
        let Kind::Packed(span) = extent.kind else { panic!("only packed clusters are unpacked") };
        if bytes.len() as u64 != span.len {
            return Err(ImageError::Short { have: bytes.len() as u64, need: span.len });
        }
        let mut out = packed::inflate(bytes, self.cluster() as usize)?;
        out.truncate(extent.len as usize);
        Ok(out)
    }

    /// What begins at `at`, within one cluster or one unallocated L2 table.
    fn look(&mut self) -> Result<Found<Extent>, ImageError> {
        let (cluster, left) = (self.cluster(), self.header.size - self.at);
        let mapped = cluster * (cluster / 8);
        let (index, l1) = (self.at / mapped, self.header.l1);
        let l1_entry = match self.entry(Level::L1, l1, index)? {
            Found::Here(entry) => entry,
            Found::Need(span) => return Ok(Found::Need(span)),
        };
        let table = l1_entry & OFFSET;
        if l1_entry & L1_RESERVED != 0 || !table.is_multiple_of(cluster) {
            return Err(ImageError::Damaged { what: "an L1 entry", value: l1_entry });
        }
        let (start, within_table) = (self.at, self.at % mapped);
        if table == 0 {
            let len = left.min(mapped - within_table);
            return Ok(Found::Here(Extent { start, len, kind: Kind::Unallocated }));
        }
        // The disk may end before its last table does.
        let entries = (within_table + left).min(mapped).div_ceil(cluster);
        let l2 = Span { offset: table, len: entries * 8 };
        let entry = match self.entry(Level::L2, l2, within_table / cluster)? {
            Found::Here(entry) => entry,
            Found::Need(span) => return Ok(Found::Need(span)),
        };
        let within_cluster = self.at % cluster;
        let (kind, len_max) = self.classify(entry, within_cluster)?;
        Ok(Found::Here(Extent { start, len: left.min(cluster - within_cluster).min(len_max), kind }))
    }

    /// What an L2 entry says of its cluster from byte `within_cluster` on, and for how many bytes at most.
    fn classify(&self, entry: u64, within_cluster: u64) -> Result<(Kind, u64), ImageError> {
        if entry & PACKED != 0 {
            let span = packed::place(entry, self.header.cluster_bits, self.file_len)?;
            return Ok((Kind::Packed(span), u64::MAX));
        }
        let (offset, is_zero) = (entry & OFFSET, entry & ZERO != 0);
        let bad = Err(ImageError::Damaged { what: "an L2 entry", value: entry });
        if entry & L2_RESERVED != 0 || !offset.is_multiple_of(self.cluster()) || is_zero && self.header.version < 3 {
            return bad;
        }
        if is_zero {
            return Ok((Kind::Zero, u64::MAX));
        }
        if offset == 0 {
            return Ok((Kind::Unallocated, u64::MAX));
        }
        // QEMU does not always write the file's last cluster to its end; what lacks are zeroes.
        let file_offset = offset + within_cluster;
        match self.file_len.saturating_sub(file_offset) {
            0 if within_cluster == 0 => bad,
            0 => Ok((Kind::Zero, u64::MAX)),
            len_max => Ok((Kind::Data { file_offset }, len_max)),
        }
    }

    /// Entry `index` of a table, which is within the table.
    fn entry(&mut self, level: Level, table: Span, index: u64) -> Result<Found<u64>, ImageError> {
        let offset = within(table, self.file_len, "the offset of a table")?.offset + index * 8;
        if let Some(entry) = self.window(level).entry(offset) {
            return Ok(Found::Here(entry));
        }
        let span = Span { offset, len: WINDOW.min(table.offset + table.len - offset) };
        self.wanted = Some((level, span));
        Ok(Found::Need(span))
    }

    fn window(&mut self, level: Level) -> &mut Window {
        match level {
            Level::L1 => &mut self.l1,
            Level::L2 => &mut self.l2,
        }
    }

    /// Joins what continues the held extent; else holds it and answers the one held before.
    fn hold(&mut self, extent: Extent) -> Option<Extent> {
        if let Some(held) = &mut self.held {
            let continues = match (held.kind, extent.kind) {
                (Kind::Data { file_offset: first }, Kind::Data { file_offset }) => first + held.len == file_offset,
                (Kind::Zero, Kind::Zero) | (Kind::Unallocated, Kind::Unallocated) => true,
                _ => false,
            };
            if continues {
                held.len += extent.len;
                return None;
            }
        }
        self.held.replace(extent)
    }
}
