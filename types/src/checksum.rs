//! The one door to CRC: CRC-64/NVME at rest, CRC-32 on frames, and the kinds S3 clients send.

use crc_fast::{CrcAlgorithm, Digest};

/// Which CRC a streaming [`Crc`] computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrcKind {
    /// IEEE 802.3, as in zlib.
    Crc32,
    /// Castagnoli, as in iSCSI.
    Crc32c,
    /// NVMe's 64-bit CRC.
    Crc64Nvme,
}

/// A streaming CRC.
pub struct Crc {
    kind: CrcKind,
    digest: Digest,
}

impl Crc {
    /// Starts at the empty string.
    pub fn new(kind: CrcKind) -> Crc {
        let algorithm = match kind {
            CrcKind::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
            CrcKind::Crc32c => CrcAlgorithm::Crc32Iscsi,
            CrcKind::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
        };
        Crc { kind, digest: Digest::new(algorithm) }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The value so far, big-endian: 4 bytes, or 8 for CRC-64/NVME (S3's order).
    pub fn finish(&self) -> Vec<u8> {
        let value = self.digest.finalize();
        match self.kind {
            CrcKind::Crc64Nvme => value.to_be_bytes().to_vec(),
            CrcKind::Crc32 | CrcKind::Crc32c => (value as u32).to_be_bytes().to_vec(),
        }
    }
}

/// CRC-64/NVME of `bytes`: the checksum of everything at rest.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// CRC-32 of `bytes`: the checksum of frames.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC of the concatenation of two byte strings, from their CRCs (as [`Crc::finish`] gives them)
/// and the length of the second. Needed for full-object checksums of multipart uploads.
pub fn combine(kind: CrcKind, first: &[u8], second: &[u8], second_len: u64) -> Option<Vec<u8>> {
    let algorithm = match kind {
        CrcKind::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
        CrcKind::Crc32c => CrcAlgorithm::Crc32Iscsi,
        CrcKind::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
    };
    if kind == CrcKind::Crc64Nvme {
        let first = u64::from_be_bytes(first.try_into().ok()?);
        let second = u64::from_be_bytes(second.try_into().ok()?);
        return Some(crc_fast::checksum_combine(algorithm, first, second, second_len).to_be_bytes().to_vec());
    }
    let first = u32::from_be_bytes(first.try_into().ok()?);
    let second = u32::from_be_bytes(second.try_into().ok()?);
    let value = crc_fast::checksum_combine(algorithm, u64::from(first), u64::from(second), second_len);
    Some((value as u32).to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::{Crc, CrcKind, combine, crc32, crc64};

    #[test]
    fn check_values_of_the_catalogue() {
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let mut castagnoli = Crc::new(CrcKind::Crc32c);
        castagnoli.update(b"12345");
        castagnoli.update(b"6789");
        assert_eq!(castagnoli.finish(), 0xe306_9283_u32.to_be_bytes());
    }

    #[test]
    fn combined_equals_whole() {
        for kind in [CrcKind::Crc32, CrcKind::Crc32c, CrcKind::Crc64Nvme] {
            let of = |bytes: &[u8]| {
                let mut crc = Crc::new(kind);
                crc.update(bytes);
                crc.finish()
            };
            assert_eq!(combine(kind, &of(b"hello "), &of(b"world"), 5), Some(of(b"hello world")));
            assert_eq!(combine(kind, b"x", b"y", 1), None);
        }
    }
}
