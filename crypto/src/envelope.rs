//! The envelope of volumes' keys: each is drawn for its volume and stored wrapped by a key that comes of the
//! cluster's root key.
//!
//! ```text
//! root key (32 bytes, in a file) --HMAC-SHA-256, by suite--> wrapping key --GCM--> wrapped key, in the row
//! ```
//!
//! Invariants: the root key is never stored by a metaserver nor sent but to a node that joins; a wrapped key
//! opens only with the suite and the key's own number that it was wrapped for.

use crate::hash::{hex_encode, hmac_sha256};
use crate::seal::{NONCE_LEN, OpenError};
use crate::secret::Secret;
use crate::suite::{BadKey, Suite};

/// Bytes of a root key.
pub const ROOT_LEN: usize = 32;
/// Bytes of a root key's name.
pub const NAME_LEN: usize = 8;
/// Bytes of a key's number.
pub const NUMBER_LEN: usize = 16;

/// The cluster's root key. It has no `Debug` that would show it.
#[derive(Clone)]
pub struct RootKey(Secret<[u8; ROOT_LEN]>);

/// The text is not one of a root key. It does not say what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a root key is one line of 64 hex digits")]
pub struct BadRootKey;

impl RootKey {
    /// Of bytes drawn at random.
    #[cfg(test)]
    fn new(bytes: [u8; ROOT_LEN]) -> RootKey {
        RootKey(Secret::new(bytes))
    }

    /// Reads the text of a key's file.
    ///
    /// # Errors
    /// [`BadRootKey`].
    pub fn parse(text: &[u8]) -> Result<RootKey, BadRootKey> {
        let digits = text.trim_ascii();
        if digits.len() != 2 * ROOT_LEN {
            return Err(BadRootKey);
        }
        let mut key = RootKey(Secret::new([0; ROOT_LEN]));
        for (byte, pair) in key.0.expose_mut().iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| (digit as char).to_digit(16);
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(BadRootKey) };
            *byte = (high << 4 | low) as u8;
        }
        Ok(key)
    }

    /// The text of a key's file.
    pub fn text(&self) -> Secret<String> {
        Secret::new(format!("{}\n", hex_encode(self.0.expose())))
    }

    /// Draws one: `fill` fills bytes with random ones.
    pub fn draw(fill: impl FnOnce(&mut [u8])) -> RootKey {
        let mut key = RootKey(Secret::new([0; ROOT_LEN]));
        fill(key.0.expose_mut());
        key
    }

    /// Tells root keys apart, and nothing of them.
    pub fn name(&self) -> [u8; NAME_LEN] {
        let mut name = [0; NAME_LEN];
        name.copy_from_slice(&hmac_sha256(self.0.expose(), &[b"bixi root key name v1"])[..NAME_LEN]);
        name
    }

    fn wrapping(&self, suite: Suite) -> Secret<[u8; 32]> {
        Secret::new(hmac_sha256(self.0.expose(), &[b"bixi wrapping key v1 ", suite.name().as_bytes()]))
    }

    /// Wraps a volume's key: `nonce || encrypted || tag`. The nonce must be drawn anew each time.
    ///
    /// # Errors
    /// None for a key of that suite.
    pub fn wrap(
        &self,
        suite: Suite,
        number: &[u8; NUMBER_LEN],
        nonce: [u8; NONCE_LEN],
        key: &Secret<Vec<u8>>,
    ) -> Result<Vec<u8>, BadKey> {
        let wrapping = self.wrapping(suite);
        let mut wrapped = nonce.to_vec();
        let key_bytes = &wrapping.expose()[..suite.wrapping_key_len()];
        wrapped.extend_from_slice(&suite.wrap(key_bytes, nonce, &context(suite, number), key)?);
        Ok(wrapped)
    }

    /// Opens what [`RootKey::wrap`] made.
    ///
    /// # Errors
    /// It was made with another root key, suite or number, or is damaged.
    pub fn unwrap(&self, suite: Suite, number: &[u8], wrapped: &[u8]) -> Result<Secret<Vec<u8>>, OpenError> {
        let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_LEN>().ok_or(OpenError)?;
        let wrapping = self.wrapping(suite);
        suite.unwrap(&wrapping.expose()[..suite.wrapping_key_len()], *nonce, &context(suite, number), sealed)
    }
}

fn context(suite: Suite, number: &[u8]) -> Vec<u8> {
    let mut context = b"BXVKEY".to_vec();
    context.extend_from_slice(&suite.number().to_le_bytes());
    context.extend_from_slice(number);
    context
}

#[cfg(test)]
mod tests {
    use super::{BadRootKey, RootKey};
    use crate::secret::Secret;
    use crate::suite::{SUITES, Suite};

    #[test]
    fn a_wrapped_key_opens_only_with_its_root_key_suite_and_number() {
        let root = RootKey::new([7; 32]);
        for suite in SUITES {
            let key = Secret::new((0..suite.key_len() as u8).collect::<Vec<u8>>());
            let wrapped = root.wrap(suite, &[1; 16], [2; 12], &key).unwrap();
            assert_eq!(wrapped.len(), 12 + suite.key_len() + 16);
            assert_eq!(root.unwrap(suite, &[1; 16], &wrapped).unwrap().expose(), key.expose());
            assert!(root.unwrap(suite, &[2; 16], &wrapped).is_err());
            assert!(RootKey::new([8; 32]).unwrap(suite, &[1; 16], &wrapped).is_err());
            let other = if suite == Suite::Sm4Xts { Suite::Aes256Xts } else { Suite::Sm4Xts };
            assert!(root.unwrap(other, &[1; 16], &wrapped).is_err());
            for at in 0..wrapped.len() {
                let mut damaged = wrapped.clone();
                damaged[at] ^= 1;
                assert!(root.unwrap(suite, &[1; 16], &damaged).is_err());
                assert!(root.unwrap(suite, &[1; 16], &wrapped[..at]).is_err());
            }
        }
    }

    #[test]
    fn a_root_key_is_a_line_of_hex_digits() {
        let root = RootKey::new([0xab; 32]);
        let text = root.text();
        assert_eq!(text.expose().as_str(), format!("{}\n", "ab".repeat(32)));
        assert_eq!(RootKey::parse(text.expose().as_bytes()).map(|read| read.name()), Ok(root.name()));
        assert_ne!(root.name(), RootKey::new([0xac; 32]).name());
        for bad in ["", "ab", &"ag".repeat(32), &"ab".repeat(33)] {
            assert_eq!(RootKey::parse(bad.as_bytes()).err(), Some(BadRootKey));
        }
    }
}
