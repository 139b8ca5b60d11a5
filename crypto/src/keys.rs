//! Forms of the keys that users hold: access key (a name) and secret key.
//!
//! The caller draws the random bytes. Both forms consist of letters and digits only, so that
//! they survive shells, URLs and configuration files without quoting.

/// Length of an access key in characters.
pub const ACCESS_KEY_LEN: usize = 20;
/// Length of a secret key in characters.
pub const SECRET_KEY_LEN: usize = 40;

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new access key: `BX` and 18 characters of base32 (90 of the 120 bits given).
pub fn make_access_key(random: &[u8; 15]) -> String {
    let mut key = String::from("BX");
    for position in 0..ACCESS_KEY_LEN - 2 {
        key.push(BASE32[usize::from(five_bits(random, position * 5))] as char);
    }
    key
}

/// A new secret key: 40 letters and digits (238 of the 240 bits given). Keep it in a
/// [`crate::secret::Secret`].
pub fn make_secret_key(random: &[u8; 30]) -> String {
    // The bytes are one big number; its digits to base 62 are taken by long division.
    let mut number = *random;
    let mut key = String::with_capacity(SECRET_KEY_LEN);
    for _ in 0..SECRET_KEY_LEN {
        let mut remainder = 0u32;
        for byte in number.iter_mut() {
            let value = remainder << 8 | u32::from(*byte);
            *byte = (value / 62) as u8;
            remainder = value % 62;
        }
        key.push(BASE62[remainder as usize] as char);
    }
    key
}

/// The five bits that start at bit `start` (most significant first).
fn five_bits(bytes: &[u8], start: usize) -> u8 {
    let low = bytes.get(start / 8 + 1).copied().unwrap_or(0);
    let word = u16::from_be_bytes([bytes[start / 8], low]);
    (word >> (11 - start % 8)) as u8 & 31
}

#[cfg(test)]
mod tests {
    use super::{ACCESS_KEY_LEN, SECRET_KEY_LEN, make_access_key, make_secret_key};
    use std::collections::BTreeSet;

    #[test]
    fn access_key_is_bx_and_base32() {
        assert_eq!(make_access_key(&[0; 15]), "BXAAAAAAAAAAAAAAAAAA");
        assert_eq!(make_access_key(&[255; 15]), "BX777777777777777777");
        // RFC 4648: "foobar" is MZXW6YTBOI.
        let mut random = [0u8; 15];
        random[..6].copy_from_slice(b"foobar");
        assert_eq!(make_access_key(&random), "BXMZXW6YTBOIAAAAAAAA");
        assert_eq!(make_access_key(&random).len(), ACCESS_KEY_LEN);
    }

    #[test]
    fn secret_key_is_forty_letters_and_digits_and_uses_every_byte() {
        let mut seen = BTreeSet::new();
        for position in 0..30 {
            let mut random = [0x5au8; 30];
            random[position] ^= 1;
            let key = make_secret_key(&random);
            assert_eq!(key.len(), SECRET_KEY_LEN);
            assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            seen.insert(key);
        }
        assert_eq!(seen.len(), 30);
    }
}
