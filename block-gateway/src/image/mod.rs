//! Disk image files: what a volume is exported to and imported from. No IO, no clock: a writer answers
//! what goes where in the file, a reader says what it has to see of it.
//!
//! ```text
//! export: ranges of the volume -> Writer -> Piece { offset, bytes }, ... , Rest -> file
//! import: file -> detect -> Reader: Read(span) <-> feed(bytes), Extent, ... , End -> volume
//! ```
//!
//! It leaves to others: files, the volume, and whether an image without some of its bytes (one with a
//! backing file) may be imported onto what is there.

pub mod qcow2;
pub mod raw;

use bytes::Bytes;
use thiserror::Error;

/// Bytes of the beginning of a file that [`detect`] and [`qcow2::Reader::open`] look at.
pub const HEAD_LEN: usize = 112;

/// How a disk lies in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

/// The format that the first bytes of a file show: [`HEAD_LEN`] of them, or the whole file.
///
/// Raw has no mark, so anything else is raw: a disk whose first bytes were made to look like qcow2 is
/// taken for it, and a person who knows better must be able to say so.
pub fn detect(head: &[u8]) -> Format {
    if head.starts_with(&qcow2::MAGIC) { Format::Qcow2 } else { Format::Raw }
}

/// Bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Bytes to write to a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// First byte in the file.
    pub offset: u64,
    /// What to write there.
    pub bytes: Bytes,
}

/// What makes a file whole once all ranges were told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rest {
    /// To be written in this order.
    pub pieces: Vec<Piece>,
    /// Bytes of the file: it is set to this length.
    pub file_len: u64,
}

/// Bytes of the disk that are found in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte of the disk.
    pub start: u64,
    /// Bytes of the disk, at least 1.
    pub len: u64,
    /// Where they are.
    pub kind: Kind,
}

/// Where bytes of the disk are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// In the file as they are, from this offset on.
    Data {
        /// Of the first byte.
        file_offset: u64,
    },
    /// In the file, packed: these bytes go to [`qcow2::Reader::inflate`].
    Packed(Span),
    /// They are zeroes, whatever a backing file says.
    Zero,
    /// The file says nothing: bytes of the backing file, without one zeroes.
    Unallocated,
}

/// Why there is no image.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ImageError {
    /// Read it as another format.
    #[error("not a qcow2 image")]
    Magic,
    /// A good image, made in a way that is not read: `qemu-img convert` makes one that is.
    #[error("the qcow2 image has {what}, which is not supported: qemu-img convert makes an image without")]
    Unsupported {
        /// What it has.
        what: &'static str,
        /// The number that says so.
        value: u64,
    },
    /// QEMU found it damaged: `qemu-img check -r all` may repair it.
    #[error("the qcow2 image is marked as corrupt: repair it with qemu-img check -r all")]
    Corrupt,
    /// Nothing can be relied on.
    #[error("the qcow2 image is damaged: {what} is {value:#x}")]
    Damaged {
        /// A field or an entry.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// The file is cut, or shorter than the caller said.
    #[error("the image ends too early: {have} bytes of {need}")]
    Short {
        /// Bytes given.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// Export it as another format.
    #[error("a disk of {size} bytes does not fit a qcow2 image, at most {max} do")]
    TooLarge {
        /// Bytes of the disk.
        size: u64,
        /// Bytes that fit.
        max: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::{Format, detect};

    #[test]
    fn what_is_not_qcow2_is_raw() {
        assert_eq!(detect(b"QFI\xfb\0\0\0\x03"), Format::Qcow2);
        assert_eq!(detect(b"QFI\xfb"), Format::Qcow2);
        for other in [&b""[..], b"QFI", b"\0QFI\xfb", b"KDMV"] {
            assert_eq!(detect(other), Format::Raw, "{other:?}");
        }
    }
}
