//! Names and sizes of volumes.

use thiserror::Error;

/// The largest volume, bytes: 64 TiB.
pub const SIZE_MAX: u64 = 64 << 40;

/// Not a volume's name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("volume name {name:?} is not valid: {why}")]
pub struct VolumeNameError {
    /// What was asked for.
    pub name: String,
    /// The rule it breaks.
    pub why: &'static str,
}

/// A valid volume name: 1..=63 of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit. No `@`, which
/// stands between a volume and a snapshot, and no `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// Checks a name.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn new(name: &str) -> Result<VolumeName, VolumeNameError> {
        let bad = |why| Err(VolumeNameError { name: name.chars().take(80).collect(), why });
        let bytes = name.as_bytes();
        if !(1..=63).contains(&bytes.len()) {
            return bad("length must be 1 to 63");
        }
        if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte)) {
            return bad("only letters, digits, '.', '_' and '-'");
        }
        if !bytes[0].is_ascii_alphanumeric() {
            return bad("must begin with a letter or digit");
        }
        Ok(VolumeName(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::VolumeName;

    #[test]
    fn names_that_would_confuse_are_refused() {
        for good in ["a", "vm-01.root", "A_b", &"x".repeat(63)] {
            assert_eq!(VolumeName::new(good).map(|name| name.as_str().to_owned()).as_deref(), Ok(good));
        }
        for bad in ["", "-a", ".a", "a/b", "a@b", "a b", "ä", &"x".repeat(64), "a\0"] {
            assert!(VolumeName::new(bad).is_err(), "{bad:?}");
        }
    }
}
