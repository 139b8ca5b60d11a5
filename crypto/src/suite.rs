//! Ciphers for data at rest, behind one trait: what encrypts a volume's bytes, and what wraps its key.
//!
//! | suite | bytes | key, bytes | wraps keys with |
//! |---|---|---|---|
//! | `aes-256-xts` | AES-256 in XTS (IEEE 1619, NIST SP 800-38E) | 64 | AES-256-GCM |
//! | `sm4-xts` | SM4 in XTS (GB/T 17964-2021) | 32 | SM4-GCM (RFC 8998) |
//!
//! ```text
//! volume:   | unit 0: 4096 bytes          | unit 1 | ...
//!           | block 0 | block 1 | ... 255 |
//! tweak of block j in unit u = E(second key, u) * alpha^j
//! ```
//!
//! Where a byte lies in the volume is the tweak, so any run of whole blocks is encrypted and decrypted by
//! itself, and stays as it is when it is moved to another chunk. XTS says nothing of changed bytes: that is
//! for the checksums of chunks, and they are no secret. The same bytes written twice to the same place look
//! the same; see docs/decisions/0020.
//!
//! AES uses the machine's instructions where it has them, found out when the program runs. SM4 is a plain
//! program.
//!
//! This is the only door to the packages `aes`, `sm4` and `aes-gcm`.

use std::fmt;
use std::str::FromStr;

use aes::Aes256;
use aes_gcm::AesGcm;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{KeyInit, Nonce};
use sm4::Sm4;
use thiserror::Error;

use crate::seal::{NONCE_LEN, OpenError, TAG_LEN};
use crate::secret::Secret;

mod xts;

use xts::{Ieee, National, Xts};

/// Bytes that are encrypted as one: positions and lengths are multiples of it.
pub const BLOCK: u64 = 16;
/// Bytes of a volume that share a tweak's first half.
pub const UNIT: u64 = 4096;

/// Which suite a volume's bytes are encrypted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suite {
    /// The usual one.
    Aes256Xts,
    /// For sites that must use national ciphers.
    Sm4Xts,
}

/// All suites.
pub const SUITES: [Suite; 2] = [Suite::Aes256Xts, Suite::Sm4Xts];

/// The name of no suite.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no cipher {0:?}; there are aes-256-xts and sm4-xts")]
pub struct NoSuite(String);

/// A key that is none of its suite: the wrong length, or its halves are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the key is none of that cipher")]
pub struct BadKey;

impl Suite {
    /// As it is stored.
    pub fn number(self) -> u32 {
        match self {
            Suite::Aes256Xts => 1,
            Suite::Sm4Xts => 2,
        }
    }

    /// The suite of a stored number; `None`: a later version's.
    pub fn of_number(number: u32) -> Option<Suite> {
        SUITES.into_iter().find(|suite| suite.number() == number)
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Aes256Xts => "aes-256-xts",
            Suite::Sm4Xts => "sm4-xts",
        }
    }

    /// Bytes of a key: two halves that must differ.
    pub fn key_len(self) -> usize {
        match self {
            Suite::Aes256Xts => 64,
            Suite::Sm4Xts => 32,
        }
    }

    /// Bytes of the key that wraps a key of this suite.
    pub fn wrapping_key_len(self) -> usize {
        match self {
            Suite::Aes256Xts => 32,
            Suite::Sm4Xts => 16,
        }
    }

    /// What encrypts with this key.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn cipher(self, key: &Secret<Vec<u8>>) -> Result<Box<dyn BlockSuite>, BadKey> {
        let key = key.expose();
        if key.len() != self.key_len() {
            return Err(BadKey);
        }
        let (one, other) = key.split_at(key.len() / 2);
        if crate::hash::constant_time_eq(one, other) {
            return Err(BadKey);
        }
        Ok(match self {
            Suite::Aes256Xts => Box::new(Xts::<Aes256, Ieee>::new(one, other).ok_or(BadKey)?),
            Suite::Sm4Xts => Box::new(Xts::<Sm4, National>::new(one, other).ok_or(BadKey)?),
        })
    }

    /// Encrypts a key under another one, with a tag over it and `context`: 16 bytes longer. **A nonce is used once
    /// for each `key`.**
    ///
    /// # Errors
    /// `key` has not [`Suite::wrapping_key_len`] bytes.
    pub(crate) fn wrap(
        self,
        key: &[u8],
        nonce: [u8; NONCE_LEN],
        context: &[u8],
        plain: &Secret<Vec<u8>>,
    ) -> Result<Vec<u8>, BadKey> {
        let mut bytes = Vec::with_capacity(plain.expose().len() + TAG_LEN);
        bytes.extend_from_slice(plain.expose());
        let nonce = Nonce::<AesGcm<Aes256, U12>>::from(nonce);
        let done = match self {
            Suite::Aes256Xts => wrapping::<Aes256>(key)?.encrypt_in_place(&nonce, context, &mut bytes),
            Suite::Sm4Xts => wrapping::<Sm4>(key)?.encrypt_in_place(&nonce, context, &mut bytes),
        };
        done.map_err(|_| BadKey)?;
        Ok(bytes)
    }

    /// Opens what [`Suite::wrap`] made.
    ///
    /// # Errors
    /// It is not that, whole and of this context.
    pub(crate) fn unwrap(
        self,
        key: &[u8],
        nonce: [u8; NONCE_LEN],
        context: &[u8],
        wrapped: &[u8],
    ) -> Result<Secret<Vec<u8>>, OpenError> {
        let mut bytes = wrapped.to_vec();
        let nonce = Nonce::<AesGcm<Aes256, U12>>::from(nonce);
        let done = match self {
            Suite::Aes256Xts => {
                wrapping::<Aes256>(key).map_err(|_| OpenError)?.decrypt_in_place(&nonce, context, &mut bytes)
            }
            Suite::Sm4Xts => wrapping::<Sm4>(key).map_err(|_| OpenError)?.decrypt_in_place(&nonce, context, &mut bytes),
        };
        done.map_err(|_| OpenError)?;
        Ok(Secret::new(bytes))
    }
}

fn wrapping<C>(key: &[u8]) -> Result<AesGcm<C, U12>, BadKey>
where
    AesGcm<C, U12>: KeyInit,
{
    AesGcm::<C, U12>::new_from_slice(key).map_err(|_| BadKey)
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = NoSuite;

    fn from_str(text: &str) -> Result<Suite, NoSuite> {
        let found = SUITES.into_iter().find(|suite| suite.name() == text);
        found.ok_or_else(|| NoSuite(text.chars().take(40).collect()))
    }
}

/// Encrypts bytes by where they lie in a volume. No `Debug`: it holds keys, which are overwritten when it is
/// dropped.
pub trait BlockSuite {
    /// Encrypts in place the bytes that lie from `position` on. Both `position` and the length are multiples of
    /// [`BLOCK`].
    fn encrypt(&self, position: u64, bytes: &mut [u8]);
    /// Decrypts what [`BlockSuite::encrypt`] made of bytes at the same position.
    fn decrypt(&self, position: u64, bytes: &mut [u8]);
}

#[cfg(test)]
mod tests;
