//! `Range` and `x-amz-copy-source-range`. Pure.
//!
//! One range is served. A header with several ranges, or one that cannot be read, is ignored as
//! RFC 9110 permits and AWS does; one that lies outside the object is refused.

use std::ops::Range;

/// What a `Range` header means for an object of a known size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// No header, or one to be ignored.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing of it exists: 416.
    Unsatisfiable,
}

/// Resolves a `Range` header against an object of `size` bytes.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else { return Wanted::Whole };
    let Some((first, last)) = spec.split_once('-') else { return Wanted::Whole };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        return match number(last) {
            None => Wanted::Whole,
            Some(0) => Wanted::Unsatisfiable,
            Some(_) if size == 0 => Wanted::Unsatisfiable,
            Some(suffix) => Wanted::Part(size.saturating_sub(suffix)..size),
        };
    }
    let Some(first) = number(first) else { return Wanted::Whole };
    let end = match last {
        "" => size,
        last => match number(last) {
            None => return Wanted::Whole,
            Some(last) if last < first => return Wanted::Whole,
            Some(last) => last.saturating_add(1).min(size),
        },
    };
    if first >= size { Wanted::Unsatisfiable } else { Wanted::Part(first..end) }
}

/// Reads `bytes=first-last` of a part copy; both ends must be there. End exclusive.
pub fn copy_source(header: &str) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then(|| first..last.saturating_add(1))
}

/// Digits only; a number beyond 64 bits saturates, so that it means "past the end".
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{Wanted, copy_source, wanted};
    use proptest::prelude::{any, proptest};

    #[test]
    fn one_range_is_served() {
        assert_eq!(wanted(Some("bytes=0-0"), 10), Wanted::Part(0..1));
        assert_eq!(wanted(Some("bytes=4-7"), 11), Wanted::Part(4..8));
        assert_eq!(wanted(Some("bytes=4-"), 11), Wanted::Part(4..11));
        assert_eq!(wanted(Some("bytes=-7"), 11), Wanted::Part(4..11));
        assert_eq!(wanted(Some("bytes=-70"), 11), Wanted::Part(0..11));
        assert_eq!(wanted(Some("bytes=4-99999999999999999999999"), 11), Wanted::Part(4..11));
    }

    #[test]
    fn outside_is_unsatisfiable() {
        for (header, size) in
            [("bytes=40-50", 11), ("bytes=11-", 11), ("bytes=0-", 0), ("bytes=-0", 5), ("bytes=-1", 0)]
        {
            assert_eq!(wanted(Some(header), size), Wanted::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn unreadable_and_several_are_ignored() {
        for header in ["bytes=5-2", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=", "bytes=-", "bytes=--1", ""] {
            assert_eq!(wanted(Some(header), 11), Wanted::Whole, "{header}");
        }
        assert_eq!(wanted(None, 11), Wanted::Whole);
    }

    #[test]
    fn copy_ranges_need_both_ends() {
        assert_eq!(copy_source("bytes=0-4"), Some(0..5));
        for bad in
            ["0-4", "bytes=0-", "bytes=-4", "bytes=4-0", "bytes=0-4,6-7", "bytes=hello-world", "bytes=0", "bytes=0-bar"]
        {
            assert_eq!(copy_source(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_beyond_the_object(header in any::<String>(), a in any::<u64>(), b in any::<u64>(), size in any::<u64>()) {
            for text in [header, format!("bytes={a}-{b}"), format!("bytes=-{a}"), format!("bytes={a}-")] {
                if let Wanted::Part(range) = wanted(Some(&text), size) {
                    assert!(range.start < range.end && range.end <= size);
                }
                let _ = copy_source(&text);
            }
        }
    }
}
