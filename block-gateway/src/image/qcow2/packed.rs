//! Packed clusters: where they are, and their bytes. Nothing here panics on foreign bytes.
//!
//! | bits of the entry, for clusters of 2^n bytes | what |
//! |---|---|
//! | 0 to 69 - n | offset, at any byte |
//! | 70 - n to 61 | sectors of 512 bytes it reaches into, but for the first |
//!
//! The bytes are a bare deflate stream; what follows it in the last sector means nothing.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::{COPIED, PACKED};
use crate::image::{ImageError, Span};

const SECTOR: u64 = 512;

/// Where the cluster of an L2 entry lies: at most twice the bytes of a cluster, within the file.
///
/// # Errors
/// The entry cannot be.
pub fn place(entry: u64, cluster_bits: u32, file_len: u64) -> Result<Span, ImageError> {
    let bad = ImageError::Damaged { what: "the L2 entry of a packed cluster", value: entry };
    let bits = 70 - cluster_bits;
    let descriptor = entry & !(COPIED | PACKED);
    let (offset, sectors) = (descriptor & ((1 << bits) - 1), descriptor >> bits);
    if entry & COPIED != 0 || offset >= file_len {
        return Err(bad);
    }
    // The last sector may not have been written to its end.
    let len = ((sectors + 1) * SECTOR - offset % SECTOR).min(file_len - offset);
    Ok(Span { offset, len })
}

/// The `len` bytes of a cluster.
///
/// # Errors
/// Not a deflate stream, or one of fewer bytes.
pub fn inflate(packed: &[u8], len: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = vec![0; len];
    let (mut state, flags) = (DecompressorOxide::new(), TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
    let (status, _, written) = decompress(&mut state, packed, &mut out, 0, flags);
    match status {
        TINFLStatus::Done | TINFLStatus::HasMoreOutput if written == len => Ok(out),
        _ => Err(ImageError::Damaged { what: "the number of bytes in a packed cluster", value: written as u64 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_bits_of_an_offset_depends_on_the_cluster() {
        let entry = |bits: u32, offset: u64, sectors: u64| PACKED | sectors << (70 - bits) | offset;
        assert_eq!(place(entry(16, 1000, 3), 16, 1 << 20), Ok(Span { offset: 1000, len: 2048 - 488 }));
        assert_eq!(place(entry(9, 512, 1), 9, 1 << 20), Ok(Span { offset: 512, len: 1024 }));
        assert_eq!(place(entry(21, 512, 8191), 21, 1 << 30), Ok(Span { offset: 512, len: 4 << 20 }));
        assert_eq!(place(entry(16, 1000, 3), 16, 1100), Ok(Span { offset: 1000, len: 100 }), "the file ends");
        assert!(place(entry(16, 1000, 3), 16, 1000).is_err(), "the file has ended");
        assert!(place(entry(16, 1000, 3) | COPIED, 16, 1 << 20).is_err());
        assert!(place(!COPIED, 9, u64::MAX).is_ok());
    }

    #[test]
    fn a_cluster_has_all_its_bytes_or_is_damaged() {
        let mut packed = miniz_oxide::deflate::compress_to_vec(&[7; 512], 6);
        assert_eq!(inflate(&packed, 512), Ok(vec![7; 512]));
        assert!(inflate(&packed, 513).is_err());
        assert!(inflate(&packed[..packed.len() - 1], 1024).is_err());
        packed.extend_from_slice(&[0xff; 100]);
        assert_eq!(inflate(&packed, 512), Ok(vec![7; 512]), "what follows means nothing");
        assert!(inflate(&[], 512).is_err());
        assert!(inflate(&[0xff; 512], 512).is_err());
    }
}
