//! Writes the documents S3 answers with.
//!
//! Invariant: what comes out is well-formed XML 1.0 whatever a key contains. Control characters
//! that XML 1.0 has no way to say are written as `&#xN;`, as AWS does; `encoding-type=url` is the
//! way for clients that care.

use std::fmt::Write;

use crate::dates;

/// The namespace of S3's documents.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// A document under construction.
pub struct Writer {
    out: String,
}

impl Writer {
    /// Starts a document whose root is closed by [`Writer::finish`]; `capacity` is a guess in bytes.
    pub fn new(capacity: usize) -> Writer {
        let mut out = String::with_capacity(capacity + 128);
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        Writer { out }
    }

    /// A document with a root in S3's namespace.
    pub fn with_root(root: &str, capacity: usize) -> Writer {
        let mut writer = Writer::new(capacity);
        let _ = write!(writer.out, "<{root} xmlns=\"{NAMESPACE}\">");
        writer
    }

    /// Opens an element; `name` may carry attributes of the gateway's own making.
    pub fn open(&mut self, name: &str) -> &mut Writer {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
        self
    }

    /// Closes an element.
    pub fn close(&mut self, name: &str) -> &mut Writer {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
        self
    }

    /// `<name>text</name>`, escaped.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Writer {
        self.open(name);
        push_escaped(&mut self.out, text);
        self.close(name)
    }

    /// Text inside the element that is open, escaped.
    pub fn raw_text(&mut self, text: &str) -> &mut Writer {
        push_escaped(&mut self.out, text);
        self
    }

    /// [`Writer::text`] if there is one.
    pub fn optional(&mut self, name: &str, text: Option<&str>) -> &mut Writer {
        if let Some(text) = text {
            self.text(name, text);
        }
        self
    }

    /// `<name>number</name>`.
    pub fn number(&mut self, name: &str, number: u64) -> &mut Writer {
        let _ = write!(self.out, "<{name}>{number}</{name}>");
        self
    }

    /// `<name>true</name>`.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Writer {
        self.text(name, if value { "true" } else { "false" })
    }

    /// `<name>2026-01-31T12:00:00.000Z</name>`.
    pub fn time(&mut self, name: &str, unix_ms: u64) -> &mut Writer {
        self.open(name);
        dates::push_iso8601(&mut self.out, unix_ms);
        self.close(name)
    }

    /// `<name>"etag"</name>`, the quotes as entities like AWS.
    pub fn etag(&mut self, name: &str, etag: &str) -> &mut Writer {
        self.open(name);
        self.out.push_str("&quot;");
        push_escaped(&mut self.out, etag);
        self.out.push_str("&quot;");
        self.close(name)
    }

    /// `<name><ID/><DisplayName/></name>`.
    pub fn owner(&mut self, name: &str, user: &str) -> &mut Writer {
        self.open(name).text("ID", user).text("DisplayName", user).close(name)
    }

    /// The document, with its root closed.
    pub fn finish(mut self, root: &str) -> String {
        self.close(root);
        self.out
    }
}

/// Appends text with everything escaped that would not survive a parser.
pub fn push_escaped(out: &mut String, text: &str) {
    let plain = |byte: u8| !matches!(byte, b'&' | b'<' | b'>' | b'"' | 0..=0x1f | 0x7f) && byte != 0xef;
    if text.bytes().all(plain) {
        out.push_str(text);
        return;
    }
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{0}'..='\u{1f}' | '\u{7f}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "&#x{:x};", u32::from(character));
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Writer;
    use crate::xml::read;
    use proptest::prelude::{any, proptest};

    #[test]
    fn documents_are_escaped() {
        let mut writer = Writer::with_root("R", 0);
        writer.text("K", "a<&>\"\u{1}\n").etag("E", "abc").time("T", 0).number("N", 7).boolean("B", true);
        assert_eq!(
            writer.finish("R"),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<R xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <K>a&lt;&amp;&gt;&quot;&#x1;&#xa;</K><E>&quot;abc&quot;</E><T>1970-01-01T00:00:00.000Z</T>\
             <N>7</N><B>true</B></R>"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in any::<String>()) {
            let mut writer = Writer::with_root("R", 0);
            writer.text("K", &text);
            let document = writer.finish("R");
            let root = read::parse(document.as_bytes(), &read::Limits { bytes: 1 << 20, elements: 10 }).unwrap();
            assert_eq!(root.child("K").map(|k| k.text.clone()), Some(text));
        }
    }
}
