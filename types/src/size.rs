//! Sizes as people write them: `4k`, `10M`, `5G` are binary units.

use thiserror::Error;

/// A size that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("size {text:?} is not a number with an optional k, M, G or T (binary units)")]
pub struct BadSize {
    text: String,
}

/// Reads `123`, `4k`, `1M`, `5G`, `2T` (also `4KiB`, `1MiB`); answers bytes.
///
/// # Errors
/// Empty, negative, fractional, unknown unit or beyond 64 bits.
pub fn parse_size(text: &str) -> Result<u64, BadSize> {
    let bad = || BadSize { text: text.to_owned() };
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = trimmed[..digits].parse().map_err(|_| bad())?;
    let shift = match trimmed[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Writes bytes for people: `1.5 MiB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::{format_size, parse_size};

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("1M"), Ok(1 << 20));
        assert_eq!(parse_size("5GiB"), Ok(5 << 30));
        for text in ["", "k", "-1", "1.5M", "4x", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(format_size(1536), "1.5 KiB");
    }
}
