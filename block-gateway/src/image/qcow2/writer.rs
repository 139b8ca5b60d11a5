//! Writes an image from the front to the back: data as it comes, each L2 table behind its data, then the
//! other tables, and at the very end the header, so that a file that was left half done is no image.
//!
//! Version 3, clusters of 64 KiB (or of 4 KiB, for files of small changes), 16 bit refcounts that are all 1, no backing file. It holds one cluster
//! that is being filled, one L2 table, and the L1 table: 64 KiB + 64 KiB + 16 KiB for each TiB of the disk.

use bytes::{Bytes, BytesMut};

use super::{COPIED, ZERO, header};
use crate::image::{ImageError, Piece, Rest, Span};

/// Bytes of a cluster: what is data, zeroes or unallocated is so by whole clusters.
pub const CLUSTER: u64 = 1 << 16;
/// Bytes of the largest disk: 1 PiB, for QEMU reads no larger tables of refcounts.
pub const SIZE_MAX: u64 = 1 << 50;
/// Bytes of a cluster of [`Writer::small`].
pub const SMALL_CLUSTER: u64 = 1 << 12;
/// Bytes of the largest disk in small clusters: 4 TiB, for QEMU reads no larger L1 table than 32 MiB.
pub const SMALL_SIZE_MAX: u64 = 4 << 40;

/// How large things are.
#[derive(Clone, Copy)]
struct Shape {
    bits: u32,
    /// Bytes of a cluster.
    cluster: u64,
    /// Entries of a table that fills a cluster.
    entries: u64,
    /// Bytes of the disk that an L2 table maps.
    span: u64,
    /// Refcounts in a cluster.
    counts: u64,
}

impl Shape {
    fn of(bits: u32) -> Shape {
        let cluster = 1 << bits;
        Shape { bits, cluster, entries: cluster / 8, span: cluster * cluster / 8, counts: cluster / 2 }
    }
}

/// A disk is so many whole sectors.
const SECTOR: u64 = 512;

/// A cluster of which not all was told yet.
struct Filling {
    /// Counted from the disk's first.
    cluster: u64,
    /// None: nothing but zeroes so far.
    bytes: Option<BytesMut>,
}

/// The L2 table under way.
struct Table {
    /// Of the L1 entry.
    index: u64,
    entries: Vec<u64>,
}

/// See the module. Ranges are told in ascending order; what is never told is unallocated.
///
/// A cluster of which only a part is told is filled up with zeroes. That is right for a full export. An
/// incremental one, which is laid over an older image, must tell whole clusters (but for the end of the
/// disk): its caller rounds ranges to [`CLUSTER`] and reads what lies around them.
pub struct Writer {
    shape: Shape,
    size: u64,
    /// End of what was told.
    told: u64,
    /// Where the file's next cluster goes.
    end: u64,
    filling: Option<Filling>,
    table: Option<Table>,
    l1: Vec<u64>,
    /// A whole table of zero clusters: long trimmed ranges share its bytes.
    zero_table: Option<Bytes>,
    pieces: Vec<Piece>,
}

impl Writer {
    /// For a disk of `size` bytes, rounded up to whole sectors of 512.
    ///
    /// # Errors
    /// More than [`SIZE_MAX`].
    pub fn new(size: u64) -> Result<Writer, ImageError> {
        Writer::shaped(size, Shape::of(16), SIZE_MAX)
    }

    /// In clusters of 4 KiB: for changes that are scattered.
    ///
    /// # Errors
    /// More than [`SMALL_SIZE_MAX`].
    pub fn small(size: u64) -> Result<Writer, ImageError> {
        Writer::shaped(size, Shape::of(12), SMALL_SIZE_MAX)
    }

    fn shaped(size: u64, shape: Shape, max: u64) -> Result<Writer, ImageError> {
        if size > max {
            return Err(ImageError::TooLarge { size, max });
        }
        let size = size.next_multiple_of(SECTOR);
        let l1 = vec![0; size.div_ceil(shape.span).max(1) as usize];
        let (told, end) = (0, shape.cluster);
        Ok(Writer { shape, size, told, end, filling: None, table: None, l1, zero_table: None, pieces: Vec::new() })
    }

    /// Bytes of the disk that the image has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A range of data. Answers what to write now, nothing of which is copied if it fills its clusters.
    ///
    /// # Panics
    /// If the range lies before one that was told, or beyond the end.
    pub fn data(&mut self, mut start: u64, mut bytes: Bytes) -> Vec<Piece> {
        let shape = self.shape;
        self.tell(start, bytes.len() as u64);
        while !bytes.is_empty() {
            let (within, len) = (start % shape.cluster, bytes.len() as u64);
            let take = if within == 0 && len >= shape.cluster {
                let take = len.min(shape.span - start % shape.span) / shape.cluster * shape.cluster;
                self.flush();
                self.store(start / shape.cluster, bytes.split_to(take as usize));
                take
            } else {
                let take = len.min(shape.cluster - within);
                self.fill(start, &bytes.split_to(take as usize));
                take
            };
            start += take;
        }
        std::mem::take(&mut self.pieces)
    }

    /// A range that reads as zeroes even where a backing file has other bytes. Answers what to write now.
    ///
    /// # Panics
    /// As [`Writer::data`].
    pub fn zeroes(&mut self, start: u64, len: u64) -> Vec<Piece> {
        let shape = self.shape;
        self.tell(start, len);
        let (mut at, end) = (start, start + len);
        while at < end {
            let within = at % shape.cluster;
            let take = if within == 0 && end - at >= shape.cluster {
                let take = (end - at).min(shape.span - at % shape.span) / shape.cluster * shape.cluster;
                self.flush();
                self.clear(at / shape.cluster, take / shape.cluster);
                take
            } else {
                self.filling(at / shape.cluster);
                (end - at).min(shape.cluster - within)
            };
            at += take;
        }
        std::mem::take(&mut self.pieces)
    }

    /// What is left: tables, and the header as the last.
    pub fn finish(mut self) -> Rest {
        let shape = self.shape;
        self.flush();
        self.close_table();
        let l1 = Span { offset: self.end, len: self.l1.len() as u64 * 8 };
        self.append(shape.table_bytes(&self.l1));
        let refcounts = self.refcounts();
        let mut head = header::encode(self.size, shape.bits, l1, refcounts);
        head.resize(shape.cluster as usize, 0);
        self.pieces.push(Piece { offset: 0, bytes: head.into() });
        Rest { pieces: self.pieces, file_len: self.end }
    }

    fn tell(&mut self, start: u64, len: u64) {
        assert!(start >= self.told && start <= self.size && len <= self.size - start, "ranges ascend within the disk");
        self.told = start + len;
    }

    /// The cluster being filled, which becomes `cluster`.
    fn filling(&mut self, cluster: u64) -> &mut Filling {
        if self.filling.as_ref().is_some_and(|filling| filling.cluster != cluster) {
            self.flush();
        }
        self.filling.get_or_insert(Filling { cluster, bytes: None })
    }

    fn fill(&mut self, start: u64, part: &[u8]) {
        let shape = self.shape;
        let within = (start % shape.cluster) as usize;
        let bytes = &mut self.filling(start / shape.cluster).bytes;
        let bytes = bytes.get_or_insert_with(|| BytesMut::zeroed(shape.cluster as usize));
        bytes[within..within + part.len()].copy_from_slice(part);
    }

    /// Stores the cluster being filled.
    fn flush(&mut self) {
        match self.filling.take() {
            Some(Filling { cluster, bytes: Some(bytes) }) => self.store(cluster, bytes.freeze()),
            Some(Filling { cluster, bytes: None }) => self.clear(cluster, 1),
            None => {}
        }
    }

    /// Whole clusters of data, all of one table.
    fn store(&mut self, cluster: u64, bytes: Bytes) {
        let shape = self.shape;
        let count = bytes.len() as u64 / shape.cluster;
        let entries = self.entries(cluster, count);
        let offset = self.append(bytes);
        let table = self.table.as_mut().expect("it was just made");
        for (entry, place) in table.entries[entries].iter_mut().zip((offset..).step_by(shape.cluster as usize)) {
            *entry = COPIED | place;
        }
    }

    /// Whole clusters of zeroes, all of one table.
    fn clear(&mut self, cluster: u64, count: u64) {
        let entries = self.entries(cluster, count);
        self.table.as_mut().expect("it was just made").entries[entries].fill(ZERO);
    }

    /// The place of clusters in their table, which becomes the one under way.
    fn entries(&mut self, cluster: u64, count: u64) -> std::ops::Range<usize> {
        let shape = self.shape;
        let (index, first) = (cluster / shape.entries, (cluster % shape.entries) as usize);
        if self.table.as_ref().is_none_or(|table| table.index != index) {
            self.close_table();
            self.table = Some(Table { index, entries: vec![0; shape.entries as usize] });
        }
        first..first + count as usize
    }

    fn close_table(&mut self) {
        let shape = self.shape;
        let Some(table) = self.table.take() else { return };
        let bytes = if table.entries.iter().all(|entry| *entry == ZERO) {
            self.zero_table.get_or_insert_with(|| shape.table_bytes(&table.entries)).clone()
        } else {
            shape.table_bytes(&table.entries)
        };
        self.l1[table.index as usize] = COPIED | self.append(bytes);
    }

    /// Puts whole clusters at the end of the file; answers their offset.
    fn append(&mut self, bytes: Bytes) -> u64 {
        let shape = self.shape;
        debug_assert_eq!(bytes.len() as u64 % shape.cluster, 0);
        let offset = self.end;
        self.end += bytes.len() as u64;
        self.pieces.push(Piece { offset, bytes });
        offset
    }

    /// Appends the refcount table and its blocks, which count themselves too; answers where the table is.
    fn refcounts(&mut self) -> Span {
        let shape = self.shape;
        let used = self.end / shape.cluster;
        let (mut blocks, mut tables) = (0, 0);
        let total = loop {
            let total = used + blocks + tables;
            let (more_blocks, more_tables) =
                (total.div_ceil(shape.counts), total.div_ceil(shape.counts).div_ceil(shape.entries));
            if (more_blocks, more_tables) == (blocks, tables) {
                break total;
            }
            (blocks, tables) = (more_blocks, more_tables);
        };
        let first = self.end + tables * shape.cluster;
        let table: Vec<u64> = (0..blocks).map(|block| first + block * shape.cluster).collect();
        let offset = self.append(shape.table_bytes(&table));
        // All of them but the last are the same bytes.
        let full = Bytes::from([0, 1].repeat(shape.counts as usize));
        for block in 0..blocks {
            let counts = (total - block * shape.counts).min(shape.counts) as usize;
            let mut bytes = full.clone();
            if counts < shape.counts as usize {
                bytes = [full.slice(..counts * 2), vec![0; shape.cluster as usize - counts * 2].into()].concat().into();
            }
            self.append(bytes);
        }
        assert_eq!(self.end, total * shape.cluster, "every cluster is counted");
        Span { offset, len: tables * shape.cluster }
    }
}

impl Shape {
    /// A table, filled up to whole clusters.
    fn table_bytes(self, entries: &[u64]) -> Bytes {
        let mut out = BytesMut::with_capacity((entries.len() * 8).next_multiple_of(self.cluster as usize));
        entries.iter().for_each(|entry| out.extend_from_slice(&entry.to_be_bytes()));
        out.resize(out.len().next_multiple_of(self.cluster as usize), 0);
        out.freeze()
    }
}
