//! Names that come from outside: buckets and object keys. Keys never become paths.

use std::fmt;

use thiserror::Error;

/// The longest object key, in bytes of UTF-8.
pub const KEY_LEN_MAX: usize = 1024;

/// Why a name was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Not a bucket name by S3's rules.
    #[error("bucket name {name:?} is not valid: {why}")]
    Bucket {
        /// What was asked for.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// An empty key.
    #[error("key is empty")]
    KeyEmpty,
    /// A key beyond 1,024 bytes.
    #[error("key of {len} bytes is longer than 1024")]
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
    },
}

/// A valid bucket name: 3..=63 of `a-z 0-9 . -`, S3's general purpose rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct BucketName(String);

impl BucketName {
    /// Checks a name.
    ///
    /// # Errors
    /// `NameError::Bucket` with the rule that is broken.
    pub fn new(name: &str) -> Result<BucketName, NameError> {
        let bad = |why| Err(NameError::Bucket { name: name.chars().take(80).collect(), why });
        let bytes = name.as_bytes();
        if !(3..=63).contains(&bytes.len()) {
            return bad("length must be 3 to 63");
        }
        if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'.' || *b == b'-') {
            return bad("only a-z, 0-9, '.' and '-'");
        }
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !edge(bytes[0]) || !edge(bytes[bytes.len() - 1]) {
            return bad("must begin and end with a letter or digit");
        }
        if name.contains("..") || name.contains(".-") || name.contains("-.") {
            return bad("dots must stand between letters or digits");
        }
        let parts: Vec<&str> = name.split('.').collect();
        if parts.len() == 4 && parts.iter().all(|p| p.parse::<u8>().is_ok()) {
            return bad("must not look like an IP address");
        }
        if name.starts_with("xn--") || name.ends_with("-s3alias") || name.ends_with("--ol-s3") {
            return bad("reserved prefix or suffix");
        }
        Ok(BucketName(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A valid object key: 1..=1,024 bytes of any UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a key.
    ///
    /// # Errors
    /// `NameError::KeyEmpty`, `NameError::KeyTooLong`.
    pub fn new(key: &str) -> Result<ObjectKey, NameError> {
        match key.len() {
            0 => Err(NameError::KeyEmpty),
            len if len > KEY_LEN_MAX => Err(NameError::KeyTooLong { len }),
            _ => Ok(ObjectKey(key.to_owned())),
        }
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{BucketName, NameError, ObjectKey};

    #[test]
    fn bucket_names_follow_s3() {
        for name in ["abc", "my-bucket", "a.b.c", "123", &"a".repeat(63)] {
            assert!(BucketName::new(name).is_ok(), "{name}");
        }
        for name in ["", "ab", "Abc", "a_b", "..", "a..b", "-ab", "ab-", "127.0.0.1", &"a".repeat(64), "a/b"] {
            assert!(BucketName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn keys_are_bounded_by_bytes() {
        assert!(ObjectKey::new(&"k".repeat(1024)).is_ok());
        assert_eq!(ObjectKey::new(&"k".repeat(1025)), Err(NameError::KeyTooLong { len: 1025 }));
        assert_eq!(ObjectKey::new(&"é".repeat(513)), Err(NameError::KeyTooLong { len: 1026 }));
        assert_eq!(ObjectKey::new(""), Err(NameError::KeyEmpty));
    }
}
