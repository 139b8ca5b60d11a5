//! The header of an image. Nothing here panics on foreign bytes.
//!
//! | at | bytes | what | we write |
//! |---|---|---|---|
//! | 0 | 4 | magic `QFI\xfb` | |
//! | 4 | 4 | version | 3 |
//! | 8 | 8 | offset of the backing file's name | 0 |
//! | 16 | 4 | length of the name | 0 |
//! | 20 | 4 | bits of a cluster's offsets | 16 |
//! | 24 | 8 | bytes of the disk | |
//! | 32 | 4 | method of encryption | 0 |
//! | 36 | 4 | entries of the L1 table | |
//! | 40 | 8 | offset of the L1 table | |
//! | 48 | 8 | offset of the refcount table | |
//! | 56 | 4 | clusters of the refcount table | |
//! | 60 | 4 | snapshots | 0 |
//! | 64 | 8 | offset of the snapshot table | 0 |
//! | 72 | 8 | incompatible features; version 2 ends here | 0 |
//! | 80 | 8 | compatible features | 0 |
//! | 88 | 8 | features to clear when written | 0 |
//! | 96 | 4 | refcounts have 2^n bits | 4 |
//! | 100 | 4 | length of the header | 104 |
//! | 104 | 1 | method of compression, if the header is longer | |
//!
//! Extensions follow until one of type 0; the eight zero bytes behind our header are that.

use super::MAGIC;
use crate::image::{HEAD_LEN, ImageError, Span};

const LEN_V2: usize = 72;
const LEN_V3: usize = 104;
/// QEMU's own bounds.
const L1_BYTES_MAX: u64 = 32 << 20;
const NAME_LEN_MAX: u64 = 1023;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// Incompatible features.
mod feature {
    /// Refcounts may be wrong; they are not looked at.
    pub const DIRTY: u64 = 1;
    pub const CORRUPT: u64 = 1 << 1;
    pub const DATA_FILE: u64 = 1 << 2;
    pub const COMPRESSION: u64 = 1 << 3;
    pub const EXTENDED_L2: u64 = 1 << 4;
}

/// What the reader needs of a header, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the disk.
    pub size: u64,
    pub cluster_bits: u32,
    /// The part of the L1 table that maps the disk; it lies within the file.
    pub l1: Span,
    /// Where the backing file's name is.
    pub backing: Option<Span>,
}

/// The header of an image of ours, with 16 bit refcounts and nothing else but its tables.
pub fn encode(size: u64, cluster_bits: u32, l1: Span, refcounts: Span) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEN_V3);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&3u32.to_be_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&cluster_bits.to_be_bytes());
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&((l1.len / 8) as u32).to_be_bytes());
    out.extend_from_slice(&l1.offset.to_be_bytes());
    out.extend_from_slice(&refcounts.offset.to_be_bytes());
    out.extend_from_slice(&((refcounts.len >> cluster_bits) as u32).to_be_bytes());
    out.extend_from_slice(&[0; 36]);
    out.extend_from_slice(&4u32.to_be_bytes());
    out.extend_from_slice(&(LEN_V3 as u32).to_be_bytes());
    debug_assert_eq!(out.len(), LEN_V3);
    out
}

/// The header at the beginning of `head`: [`HEAD_LEN`] bytes or all `file_len` bytes of the file.
///
/// # Errors
/// Not qcow2, damaged, cut, or with something that is not read.
pub fn decode(head: &[u8], file_len: u64) -> Result<Header, ImageError> {
    if !head.starts_with(&MAGIC) {
        return Err(ImageError::Magic);
    }
    need(head, LEN_V2)?;
    let version = u32_at(head, 4);
    match version {
        2 => {}
        3 => check_v3(head)?,
        _ => return Err(ImageError::Unsupported { what: "an unknown version", value: version.into() }),
    }
    let (size, cluster_bits) = (u64_at(head, 24), u32_at(head, 20));
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(ImageError::Damaged { what: "the number of bits of a cluster", value: cluster_bits.into() });
    }
    if u32_at(head, 32) != 0 {
        return Err(ImageError::Unsupported { what: "encryption", value: u32_at(head, 32).into() });
    }
    if version == 3 && u64::from(u32_at(head, 100)) > 1 << cluster_bits {
        return Err(ImageError::Damaged { what: "the length of the header", value: u32_at(head, 100).into() });
    }
    let l1 = l1(head, size, cluster_bits, file_len)?;
    Ok(Header { version, size, cluster_bits, l1, backing: backing(head, cluster_bits, file_len)? })
}

/// What version 3 adds.
fn check_v3(head: &[u8]) -> Result<(), ImageError> {
    need(head, LEN_V3)?;
    let (bits, header_len) = (u64_at(head, 72), u32_at(head, 100) as usize);
    let refuse = |what, value| Err(ImageError::Unsupported { what, value });
    if header_len < LEN_V3 || !header_len.is_multiple_of(8) {
        return Err(ImageError::Damaged { what: "the length of the header", value: header_len as u64 });
    }
    if bits & feature::CORRUPT != 0 {
        return Err(ImageError::Corrupt);
    }
    if bits & feature::DATA_FILE != 0 {
        return refuse("its data in another file", bits);
    }
    if bits & feature::EXTENDED_L2 != 0 {
        return refuse("extended L2 entries", bits);
    }
    if bits & !(feature::DIRTY | feature::COMPRESSION) != 0 {
        return refuse("unknown features", bits);
    }
    if header_len > LEN_V3 {
        need(head, LEN_V3 + 1)?;
    }
    match (if header_len > LEN_V3 { head[LEN_V3] } else { 0 }, bits & feature::COMPRESSION != 0) {
        (0, false) => Ok(()),
        (1, true) => refuse("zstd compression", 1),
        (kind, true) if kind > 1 => refuse("an unknown compression", kind.into()),
        (kind, _) => Err(ImageError::Damaged { what: "the method of compression", value: kind.into() }),
    }
}

fn l1(head: &[u8], size: u64, cluster_bits: u32, file_len: u64) -> Result<Span, ImageError> {
    let (offset, entries) = (u64_at(head, 40), u64::from(u32_at(head, 36)));
    let len = entries * 8;
    // An L2 table has an eighth as many entries as a cluster has bytes.
    let needed = size.div_ceil(1 << (2 * cluster_bits - 3));
    if len > L1_BYTES_MAX {
        return Err(ImageError::Damaged { what: "the number of L1 entries", value: entries });
    }
    if entries < needed {
        return Err(ImageError::Damaged { what: "the number of L1 entries, too few for the disk,", value: entries });
    }
    if needed > 0 && !offset.is_multiple_of(1 << cluster_bits) {
        return Err(ImageError::Damaged { what: "the offset of the L1 table", value: offset });
    }
    let span = Span { offset, len: needed * 8 };
    if needed > 0 { within(span, file_len, "the offset of the L1 table") } else { Ok(Span { offset: 0, len: 0 }) }
}

fn backing(head: &[u8], cluster_bits: u32, file_len: u64) -> Result<Option<Span>, ImageError> {
    let name = Span { offset: u64_at(head, 8), len: u32_at(head, 16).into() };
    if name.offset == 0 || name.len == 0 {
        return Ok(None);
    }
    if name.len > NAME_LEN_MAX {
        return Err(ImageError::Damaged { what: "the length of the backing file's name", value: name.len });
    }
    let what = "the offset of the backing file's name";
    within(name, 1 << cluster_bits, what)?;
    within(name, file_len, what).map(Some)
}

/// The span, if it ends by `end`.
pub fn within(span: Span, end: u64, what: &'static str) -> Result<Span, ImageError> {
    let fits = span.offset.checked_add(span.len).is_some_and(|upto| upto <= end);
    if fits { Ok(span) } else { Err(ImageError::Damaged { what, value: span.offset }) }
}

fn need(head: &[u8], len: usize) -> Result<(), ImageError> {
    debug_assert!(len <= HEAD_LEN);
    if head.len() >= len { Ok(()) } else { Err(ImageError::Short { have: head.len() as u64, need: len as u64 }) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The big-endian number at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(value)
}
