//! Digests, HMAC and the text forms their results travel in (hex and base64).
//!
//! MD5 and SHA-1 are here only because S3 speaks them (`Content-MD5`, ETags,
//! `x-amz-checksum-sha1`); nothing of ours relies on their strength.
//!
//! Invariant: decoders take foreign text, so they never panic and accept one spelling only
//! (hex of either case; base64 of the standard alphabet with its padding).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Digest;
use ring::{digest, hmac};

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(bytes);
    hasher.finish()
}

/// SHA-1 of `bytes`. For S3's checksums only.
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    hasher.update(bytes);
    hasher.finish()
}

/// MD5 of `bytes`. For S3's ETags and `Content-MD5` only.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    let mut hasher = Md5::new();
    hasher.update(bytes);
    hasher.finish()
}

/// HMAC-SHA256 under `key` (any length) of `parts` taken as one message.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(part);
    }
    exact(context.sign().as_ref())
}

/// SHA-256 of a message that comes in pieces.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Starts an empty message.
    pub fn new() -> Sha256 {
        Sha256(digest::Context::new(&digest::SHA256))
    }

    /// Adds `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the message.
    pub fn finish(self) -> [u8; 32] {
        exact(self.0.finish().as_ref())
    }
}

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256::new()
    }
}

/// SHA-1 of a message that comes in pieces.
#[derive(Clone)]
pub struct Sha1(digest::Context);

impl Sha1 {
    /// Starts an empty message.
    pub fn new() -> Sha1 {
        Sha1(digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY))
    }

    /// Adds `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the message.
    pub fn finish(self) -> [u8; 20] {
        exact(self.0.finish().as_ref())
    }
}

impl Default for Sha1 {
    fn default() -> Sha1 {
        Sha1::new()
    }
}

/// MD5 of a message that comes in pieces.
#[derive(Clone, Default)]
pub struct Md5(md5::Md5);

impl Md5 {
    /// Starts an empty message.
    pub fn new() -> Md5 {
        Md5::default()
    }

    /// Adds `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the message.
    pub fn finish(self) -> [u8; 16] {
        self.0.finalize().into()
    }
}

/// Compares two secrets in time that depends on their lengths only.
pub fn constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut difference = 0u8;
    for (a, b) in left.iter().zip(right) {
        // The black box keeps the compiler from turning the loop into one with an early exit.
        difference = std::hint::black_box(difference | (a ^ b));
    }
    difference == 0
}

/// Lower-case hex of `bytes`, two characters each.
pub fn hex_encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// Bytes of a hex text of either case; `None` if it is not one.
pub fn hex_decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(hex_digit(*high)? << 4 | hex_digit(*low)?)).collect()
}

/// Base64 of `bytes`: standard alphabet, padded.
pub fn base64_encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes of a standard, padded base64 text; `None` if it is not one.
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn hex_digit(character: u8) -> Option<u8> {
    (character as char).to_digit(16).map(|digit| digit as u8)
}

/// Copies a digest whose length follows from its algorithm.
fn exact<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a digest has the length of its algorithm")
}

#[cfg(test)]
mod tests {
    use super::{
        Md5, Sha1, Sha256, base64_decode, base64_encode, constant_time_eq, hex_decode, hex_encode, hmac_sha256, md5,
        sha1, sha256,
    };

    #[test]
    fn digests_match_the_published_vectors() {
        assert_eq!(hex_encode(&sha256(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hex_encode(&sha1(b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex_encode(&md5(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
        // RFC 4231, case 2.
        assert_eq!(
            hex_encode(&hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_message_in_pieces_has_the_digest_of_the_whole() {
        let message: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        let (mut a, mut b, mut c) = (Sha256::new(), Sha1::new(), Md5::new());
        for piece in message.chunks(77) {
            a.update(piece);
            b.update(piece);
            c.update(piece);
        }
        assert_eq!(a.finish(), sha256(&message));
        assert_eq!(b.finish(), sha1(&message));
        assert_eq!(c.finish(), md5(&message));
    }

    #[test]
    fn hex_and_base64_return_what_was_encoded_and_refuse_the_rest() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(hex_decode(&hex_encode(&bytes)), Some(bytes.clone()));
        assert_eq!(hex_decode("aBCd"), Some(vec![0xab, 0xcd]));
        assert_eq!(base64_decode(&base64_encode(&bytes)), Some(bytes));
        for text in ["a", "0g", "+1", "é", "abc"] {
            assert_eq!(hex_decode(text), None, "{text}");
        }
        for text in ["a", "YQ", "YQ=", "YR==", "Y Q==", "_w==", "YQ==\n"] {
            assert_eq!(base64_decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn constant_time_eq_is_equality() {
        assert!(constant_time_eq(b"", b""));
        assert!(constant_time_eq(b"same", b"same"));
        assert!(!constant_time_eq(b"same", b"sane"));
        assert!(!constant_time_eq(b"same", b"same "));
    }
}
