//! Writes an image from the front to the back: data as it comes, each L2 table behind its data, then the
//! other tables, and at the very end the header, so that a file that was left half done is no image.
//!
//! Version 3, clusters of 64 KiB, 16 bit refcounts that are all 1, no backing file. It holds one cluster
//! that is being filled, one L2 table, and the L1 table: 64 KiB + 64 KiB + 16 KiB for each TiB of the disk.

use bytes::{Bytes, BytesMut};

use super::{COPIED, ZERO, header};
use crate::image::{ImageError, Piece, Rest, Span};

const CLUSTER_BITS: u32 = 16;
/// Bytes of a cluster: what is data, zeroes or unallocated is so by whole clusters.
pub const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of the largest disk: 1 PiB, for QEMU reads no larger tables of refcounts.
pub const SIZE_MAX: u64 = 1 << 50;

/// Entries of a table that fills a cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Bytes of the disk that an L2 table maps.
const SPAN: u64 = CLUSTER * ENTRIES;
/// Refcounts in a cluster.
const COUNTS: u64 = CLUSTER / 2;
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
        if size > SIZE_MAX {
            return Err(ImageError::TooLarge { size, max: SIZE_MAX });
        }
        let size = size.next_multiple_of(SECTOR);
        let l1 = vec![0; size.div_ceil(SPAN).max(1) as usize];
        Ok(Writer { size, told: 0, end: CLUSTER, filling: None, table: None, l1, zero_table: None, pieces: Vec::new() })
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
        self.tell(start, bytes.len() as u64);
        while !bytes.is_empty() {
            let (within, len) = (start % CLUSTER, bytes.len() as u64);
            let take = if within == 0 && len >= CLUSTER {
                let take = len.min(SPAN - start % SPAN) / CLUSTER * CLUSTER;
                self.flush();
                self.store(start / CLUSTER, bytes.split_to(take as usize));
                take
            } else {
                let take = len.min(CLUSTER - within);
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
        self.tell(start, len);
        let (mut at, end) = (start, start + len);
        while at < end {
            let within = at % CLUSTER;
            let take = if within == 0 && end - at >= CLUSTER {
                let take = (end - at).min(SPAN - at % SPAN) / CLUSTER * CLUSTER;
                self.flush();
                self.clear(at / CLUSTER, take / CLUSTER);
                take
            } else {
                self.filling(at / CLUSTER);
                (end - at).min(CLUSTER - within)
            };
            at += take;
        }
        std::mem::take(&mut self.pieces)
    }

    /// What is left: tables, and the header as the last.
    pub fn finish(mut self) -> Rest {
        self.flush();
        self.close_table();
        let l1 = Span { offset: self.end, len: self.l1.len() as u64 * 8 };
        self.append(table_bytes(&self.l1));
        let refcounts = self.refcounts();
        let mut head = header::encode(self.size, CLUSTER_BITS, l1, refcounts);
        head.resize(CLUSTER as usize, 0);
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
        let within = (start % CLUSTER) as usize;
        let bytes = &mut self.filling(start / CLUSTER).bytes;
        let bytes = bytes.get_or_insert_with(|| BytesMut::zeroed(CLUSTER as usize));
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
        let count = bytes.len() as u64 / CLUSTER;
        let entries = self.entries(cluster, count);
        let offset = self.append(bytes);
        let table = self.table.as_mut().expect("it was just made");
        for (entry, place) in table.entries[entries].iter_mut().zip((offset..).step_by(CLUSTER as usize)) {
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
        let (index, first) = (cluster / ENTRIES, (cluster % ENTRIES) as usize);
        if self.table.as_ref().is_none_or(|table| table.index != index) {
            self.close_table();
            self.table = Some(Table { index, entries: vec![0; ENTRIES as usize] });
        }
        first..first + count as usize
    }

    fn close_table(&mut self) {
        let Some(table) = self.table.take() else { return };
        let bytes = if table.entries.iter().all(|entry| *entry == ZERO) {
            self.zero_table.get_or_insert_with(|| table_bytes(&table.entries)).clone()
        } else {
            table_bytes(&table.entries)
        };
        self.l1[table.index as usize] = COPIED | self.append(bytes);
    }

    /// Puts whole clusters at the end of the file; answers their offset.
    fn append(&mut self, bytes: Bytes) -> u64 {
        debug_assert_eq!(bytes.len() as u64 % CLUSTER, 0);
        let offset = self.end;
        self.end += bytes.len() as u64;
        self.pieces.push(Piece { offset, bytes });
        offset
    }

    /// Appends the refcount table and its blocks, which count themselves too; answers where the table is.
    fn refcounts(&mut self) -> Span {
        let used = self.end / CLUSTER;
        let (mut blocks, mut tables) = (0, 0);
        let total = loop {
            let total = used + blocks + tables;
            let (more_blocks, more_tables) = (total.div_ceil(COUNTS), total.div_ceil(COUNTS).div_ceil(ENTRIES));
            if (more_blocks, more_tables) == (blocks, tables) {
                break total;
            }
            (blocks, tables) = (more_blocks, more_tables);
        };
        let first = self.end + tables * CLUSTER;
        let table: Vec<u64> = (0..blocks).map(|block| first + block * CLUSTER).collect();
        let offset = self.append(table_bytes(&table));
        // All of them but the last are the same bytes.
        let full = Bytes::from([0, 1].repeat(COUNTS as usize));
        for block in 0..blocks {
            let counts = (total - block * COUNTS).min(COUNTS) as usize;
            let mut bytes = full.clone();
            if counts < COUNTS as usize {
                bytes = [full.slice(..counts * 2), vec![0; CLUSTER as usize - counts * 2].into()].concat().into();
            }
            self.append(bytes);
        }
        assert_eq!(self.end, total * CLUSTER, "every cluster is counted");
        Span { offset, len: tables * CLUSTER }
    }
}

/// A table, filled up to whole clusters.
fn table_bytes(entries: &[u64]) -> Bytes {
    let mut out = BytesMut::with_capacity((entries.len() * 8).next_multiple_of(CLUSTER as usize));
    entries.iter().for_each(|entry| out.extend_from_slice(&entry.to_be_bytes()));
    out.resize(out.len().next_multiple_of(CLUSTER as usize), 0);
    out.freeze()
}
