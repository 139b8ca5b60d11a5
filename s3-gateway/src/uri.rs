//! Percent coding as S3 does it, and query strings. Works on bytes; invalid escapes are refused.
//!
//! S3 encodes everything but `A-Z a-z 0-9 - . _ ~` (and `/` inside paths), once, with upper-case
//! digits. In a query `+` stands for a space; in a path it is a plus.

const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Whether S3 leaves the byte as it is.
pub fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Appends `bytes` encoded; `/` stays if `keep_slash`.
pub fn push_encoded(out: &mut String, bytes: &[u8], keep_slash: bool) {
    for &byte in bytes {
        if is_unreserved(byte) || (keep_slash && byte == b'/') {
            out.push(byte as char);
        } else {
            out.push('%');
            out.push(UPPER[usize::from(byte >> 4)] as char);
            out.push(UPPER[usize::from(byte & 15)] as char);
        }
    }
}

/// A query name or value, encoded.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    push_encoded(&mut out, text.as_bytes(), false);
    out
}

/// A path or key, encoded; slashes stay.
pub fn encode_path(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    push_encoded(&mut out, text.as_bytes(), true);
    out
}

/// Undoes percent coding; `None` if an escape is not two hex digits. `plus_is_space` for queries.
pub fn decode(raw: &[u8], plus_is_space: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut index = 0;
    while index < raw.len() {
        match raw[index] {
            b'%' => {
                let digit = |at: usize| raw.get(at).and_then(|byte| (*byte as char).to_digit(16));
                out.push((digit(index + 1)? << 4 | digit(index + 2)?) as u8);
                index += 3;
                continue;
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(byte),
        }
        index += 1;
    }
    Some(out)
}

/// Undoes percent coding of a query's name or value; `None` if it is not UTF-8 or an escape is broken.
pub fn decode_text_query(raw: &str) -> Option<String> {
    if !raw.contains(['%', '+']) {
        return Some(raw.to_owned());
    }
    String::from_utf8(decode(raw.as_bytes(), true)?).ok()
}

/// Undoes percent coding of a path, where `+` is a plus.
pub fn decode_text_path(raw: &str) -> Option<String> {
    if !raw.contains('%') {
        return Some(raw.to_owned());
    }
    String::from_utf8(decode(raw.as_bytes(), false)?).ok()
}

/// A decoded query string, in the order it came.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads what follows the `?`; `None` if an escape is broken or the text is not UTF-8.
    pub fn parse(raw: &str) -> Option<Query> {
        let mut pairs = Vec::new();
        for piece in raw.split('&').filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            pairs.push((decode_text_query(name)?, decode_text_query(value)?));
        }
        Some(Query { pairs })
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether `name` is there at all, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// How often `name` is there.
    pub fn count(&self, name: &str) -> usize {
        self.pairs.iter().filter(|(key, _)| key == name).count()
    }

    /// All pairs in order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}

#[cfg(test)]
mod tests {
    use super::{Query, decode, encode, encode_path};
    use proptest::prelude::{any, proptest};

    #[test]
    fn plus_is_a_space_in_queries_only() {
        assert_eq!(decode(b"a+b%2B%20", true), Some(b"a b+ ".to_vec()));
        assert_eq!(decode(b"a+b%2b", false), Some(b"a+b+".to_vec()));
        for bad in ["%", "%2", "%2g", "%é"] {
            assert_eq!(decode(bad.as_bytes(), false), None, "{bad}");
        }
        assert_eq!(encode("a/b c~"), "a%2Fb%20c~");
        assert_eq!(encode_path("a/é"), "a/%C3%A9");
    }

    #[test]
    fn queries_keep_empty_and_repeated_names() {
        let query = Query::parse("acl&prefix=a%2Fb+c&prefix=2&=x").unwrap();
        assert_eq!(query.get("acl"), Some(""));
        assert_eq!(query.get("prefix"), Some("a/b c"));
        assert_eq!(query.count("prefix"), 2);
        assert!(Query::parse("a=%ff").is_none());
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(text in any::<String>()) {
            assert_eq!(decode(encode(&text).as_bytes(), true), Some(text.clone().into_bytes()));
            assert_eq!(decode(encode_path(&text).as_bytes(), false), Some(text.into_bytes()));
        }

        #[test]
        fn decode_never_panics(raw in any::<Vec<u8>>()) {
            let _ = decode(&raw, true);
        }
    }
}
