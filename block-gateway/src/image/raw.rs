//! Raw images: the disk byte for byte. Zeroes are not written, the file is made as long as the disk.
//!
//! It cannot tell a range that was trimmed from one that was never told, so an incremental export has to
//! be another format.

use bytes::Bytes;

use super::{Extent, Kind, Piece, Rest};

/// Writes a disk to an empty file.
pub struct Writer {
    size: u64,
    /// End of what was told.
    told: u64,
}

impl Writer {
    /// For a disk of `size` bytes.
    pub fn new(size: u64) -> Writer {
        Writer { size, told: 0 }
    }

    /// What to write for these bytes of the disk.
    ///
    /// # Panics
    /// If the range lies before one that was told, or beyond the end.
    pub fn data(&mut self, start: u64, bytes: Bytes) -> Vec<Piece> {
        self.zeroes(start, bytes.len() as u64);
        if bytes.is_empty() { Vec::new() } else { vec![Piece { offset: start, bytes }] }
    }

    /// A range of zeroes: nothing is written.
    ///
    /// # Panics
    /// As [`Writer::data`].
    pub fn zeroes(&mut self, start: u64, len: u64) {
        assert!(start >= self.told && start <= self.size && len <= self.size - start, "ranges ascend within the disk");
        self.told = start + len;
    }

    /// Only the length is left. Before it is set, a file whose end is zeroes is too short.
    pub fn finish(self) -> Rest {
        Rest { pieces: Vec::new(), file_len: self.size }
    }
}

/// All of a file of `file_len` bytes, at least 1, is the disk.
pub fn extent(file_len: u64) -> Option<Extent> {
    (file_len > 0).then_some(Extent { start: 0, len: file_len, kind: Kind::Data { file_offset: 0 } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lies_where_it_was_and_zeroes_are_left_out() {
        let mut writer = Writer::new(1000);
        let bytes = Bytes::from_static(b"abc");
        assert_eq!(writer.data(10, bytes.clone()), [Piece { offset: 10, bytes }]);
        assert_eq!(writer.data(13, Bytes::new()), []);
        writer.zeroes(100, 900);
        assert_eq!(writer.finish(), Rest { pieces: Vec::new(), file_len: 1000 });
        assert_eq!(extent(0), None);
        assert_eq!(extent(7), Some(Extent { start: 0, len: 7, kind: Kind::Data { file_offset: 0 } }));
    }

    #[test]
    #[should_panic(expected = "ranges ascend")]
    fn ranges_do_not_go_back() {
        let mut writer = Writer::new(1000);
        writer.zeroes(5, 5);
        writer.data(9, Bytes::from_static(b"x"));
    }
}
