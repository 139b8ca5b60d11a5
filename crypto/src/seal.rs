//! Sealing of small secrets at rest (users' secret keys in the metadata): AES-256-GCM.
//!
//! The nonce is the caller's and is stored beside the sealed bytes. `context` is bound but not
//! stored: the access key a secret belongs to, say, so that two rows cannot be swapped.
//!
//! Invariant: **a nonce is used once per key.** A caller that draws 96 random bits for each seal
//! keeps it. `sealed = ciphertext || tag`, 16 bytes longer than the plain text.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::secret::Secret;

/// Length of a sealing key in bytes.
pub const KEY_LEN: usize = 32;
/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 12;
/// What sealing adds to the plain text, in bytes.
pub const TAG_LEN: usize = 16;

/// The sealed bytes are not what was sealed with this key, nonce and context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes do not open with this key, nonce and context")]
pub struct OpenError;

/// Seals `plain`. `nonce` must never have been used with `key` before.
pub fn seal(key: &[u8; KEY_LEN], nonce: [u8; NONCE_LEN], context: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(plain.len() + TAG_LEN);
    bytes.extend_from_slice(plain);
    sealing_key(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut bytes)
        .expect("plain text is far below the cipher's 64 GiB");
    bytes
}

/// Opens what [`seal`] made with the same key, nonce and context.
pub fn open(
    key: &[u8; KEY_LEN],
    nonce: [u8; NONCE_LEN],
    context: &[u8],
    sealed: &[u8],
) -> Result<Secret<Vec<u8>>, OpenError> {
    let mut bytes = sealed.to_vec();
    let len = sealing_key(key)
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut bytes)
        .map_err(|_| OpenError)?
        .len();
    bytes.truncate(len);
    Ok(Secret::new(bytes))
}

fn sealing_key(key: &[u8; KEY_LEN]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of this length is always taken"))
}

#[cfg(test)]
mod tests {
    use super::{OpenError, TAG_LEN, open, seal};
    use crate::hash::hex_encode;

    #[test]
    fn sealed_bytes_open_only_with_the_same_key_nonce_and_context() {
        let (key, nonce) = ([1u8; 32], [2u8; 12]);
        let sealed = seal(&key, nonce, b"BXUSER", b"the secret");
        assert_eq!(sealed.len(), 10 + TAG_LEN);
        assert_eq!(open(&key, nonce, b"BXUSER", &sealed).unwrap().expose(), b"the secret");
        let refused = |key, nonce, context: &[u8], sealed: &[u8]| open(key, nonce, context, sealed).unwrap_err();
        assert_eq!(refused(&[9u8; 32], nonce, b"BXUSER", &sealed), OpenError);
        assert_eq!(refused(&key, [9u8; 12], b"BXUSER", &sealed), OpenError);
        assert_eq!(refused(&key, nonce, b"BXOTHER", &sealed), OpenError);
        assert_eq!(refused(&key, nonce, b"BXUSER", &sealed[..sealed.len() - 1]), OpenError);
        assert_eq!(refused(&key, nonce, b"BXUSER", &[]), OpenError);
        for position in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert_eq!(refused(&key, nonce, b"BXUSER", &damaged), OpenError);
        }
    }

    #[test]
    fn seal_matches_the_published_vector() {
        // McGrew and Viega, test case 14: zero key, zero nonce, one zero block.
        assert_eq!(
            hex_encode(&seal(&[0; 32], [0; 12], b"", &[0; 16])),
            "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
        );
    }
}
