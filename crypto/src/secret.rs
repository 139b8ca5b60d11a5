//! A value that must not reach a log.
//!
//! `Secret` hides its contents from `Debug` and overwrites them when dropped. It has no
//! `Display`, no serde and no equality: whoever needs the bytes says `expose()`, which is easy
//! to search for, and compares with [`crate::hash::constant_time_eq`].
//!
//! Invariant: the last owner overwrites the memory it owns. Copies made through `expose()` are
//! the caller's affair.

use std::fmt;
use std::sync::atomic::{Ordering, compiler_fence};

/// Types whose contents can be overwritten in place.
pub trait Wipe {
    /// Overwrites the contents with zeroes, in a way the compiler may not leave out.
    fn wipe(&mut self);
}

impl Wipe for [u8] {
    fn wipe(&mut self) {
        for byte in self.iter_mut() {
            // SAFETY: `byte` is a valid, exclusive reference. The volatile write is what keeps
            // the compiler from dropping a store to memory that is about to be freed.
            unsafe { std::ptr::write_volatile(byte, 0) };
        }
        compiler_fence(Ordering::SeqCst);
    }
}

impl<const N: usize> Wipe for [u8; N] {
    fn wipe(&mut self) {
        self.as_mut_slice().wipe();
    }
}

impl Wipe for Vec<u8> {
    fn wipe(&mut self) {
        self.as_mut_slice().wipe();
        self.clear();
    }
}

impl Wipe for String {
    fn wipe(&mut self) {
        // Taken as bytes, because zeroes are valid UTF-8 but the compiler cannot know.
        std::mem::take(self).into_bytes().wipe();
    }
}

/// Holds a secret value: not printed, zeroed when dropped.
#[derive(Clone)]
pub struct Secret<T: Wipe>(T);

impl<T: Wipe> Secret<T> {
    /// Takes the value into keeping.
    pub fn new(value: T) -> Secret<T> {
        Secret(value)
    }

    /// The value itself. Do not log what comes out.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The value itself, to be filled in place.
    pub fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Wipe> From<T> for Secret<T> {
    fn from(value: T) -> Secret<T> {
        Secret(value)
    }
}

impl<T: Wipe> fmt::Debug for Secret<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

impl<T: Wipe> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, Wipe};

    #[test]
    fn debug_never_shows_the_contents() {
        let secret = Secret::new("open sesame".to_string());
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(..))");
        assert_eq!(secret.expose(), "open sesame");
    }

    #[test]
    fn wipe_leaves_zeroes_or_nothing() {
        let mut array = [7u8; 32];
        array.wipe();
        assert_eq!(array, [0u8; 32]);
        let mut bytes = vec![7u8; 32];
        bytes.wipe();
        assert!(bytes.is_empty());
        let mut text = "abc".to_string();
        text.wipe();
        assert!(text.is_empty());
    }
}
