//! What is written: bytes that follow from a value's number, so that any bytes read back tell
//! whether they are the right ones.

use bytes::Bytes;
use platform::buffer::Buffer;

use crate::draw::mix;

fn word(value: u64, at: u64) -> u64 {
    mix(value.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at)
}

/// The first `size` bytes of value `value`.
pub fn content(value: u64, size: usize) -> Bytes {
    let mut buffer = Buffer::zeroed(size);
    let key = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for (at, chunk) in buffer.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(key ^ at as u64).to_le_bytes()[..chunk.len()]);
    }
    buffer.freeze()
}

/// The first position at which `bytes` differ from those of `value` at `offset`.
pub fn difference(value: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut at = 0;
    while at < bytes.len() {
        let position = offset + at as u64;
        let inside = (position % 8) as usize;
        let expected = word(value, position / 8).to_le_bytes();
        let len = (8 - inside).min(bytes.len() - at);
        if bytes[at..at + len] != expected[inside..inside + len] {
            return Some(position);
        }
        at += len;
    }
    None
}

/// The ETag that carries a value's number.
pub fn etag(value: u64) -> String {
    format!("{value:032x}")
}

/// The value of an ETag.
pub fn value_of(etag: &str) -> Option<u64> {
    u64::from_str_radix(etag, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{content, difference, etag, value_of};

    #[test]
    fn content_is_recognised_from_any_offset_and_any_change_is_seen() {
        let bytes = content(42, 1000);
        for offset in 0..40 {
            assert_eq!(difference(42, offset as u64, &bytes[offset..]), None);
        }
        let mut bad = bytes.to_vec();
        bad[777] ^= 1;
        assert!(difference(42, 0, &bad).is_some_and(|at| at / 8 == 777 / 8));
        assert!(difference(43, 0, &bytes).is_some());
        assert_eq!(value_of(&etag(42)), Some(42));
    }
}
