//! Reads the few documents clients send, into a small tree, by pulling events.
//!
//! Invariants: bounded before anything is allocated (bytes, elements, depth 16); no document type,
//! no entities but the five of XML and character references, attributes are short and not looked at, one root and
//! nothing behind it. No recursion on the client's input.

use quick_xml::Reader;
use quick_xml::events::Event;

/// How deep elements may nest.
pub const DEPTH_MAX: usize = 16;

/// Bytes an element's attributes may take: only namespaces are ever sent.
const ATTRIBUTES_MAX: usize = 1_024;

/// Bounds of one kind of document.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Its length in bytes.
    pub bytes: usize,
    /// How many elements it may hold.
    pub elements: usize,
}

/// The document cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("document is not well-formed or beyond its bounds")]
pub struct Malformed;

/// An element: local name, the text directly inside, the elements inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Without a namespace prefix.
    pub name: String,
    /// Character data, references resolved, not trimmed.
    pub text: String,
    /// In order.
    pub children: Vec<Element>,
}

impl Element {
    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of this name.
    pub fn child_text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

/// Reads a whole document.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Element, Malformed> {
    if bytes.len() > limits.bytes {
        return Err(Malformed);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed)?;
    let mut reader = Reader::from_str(text);
    let mut stack: Vec<Element> = Vec::new();
    let mut root: Option<Element> = None;
    let mut elements = 0;
    loop {
        let event = reader.read_event().map_err(|_| Malformed)?;
        if let Event::Start(start) | Event::Empty(start) = &event {
            elements += 1;
            let too_many = elements > limits.elements || start.attributes_raw().len() > ATTRIBUTES_MAX;
            if too_many || stack.len() >= DEPTH_MAX || root.is_some() {
                return Err(Malformed);
            }
        }
        match event {
            Event::Start(start) => stack.push(named(start.local_name().as_ref())),
            Event::Empty(start) => close(named(start.local_name().as_ref()), &mut stack, &mut root),
            Event::End(_) => {
                let done = stack.pop().ok_or(Malformed)?;
                close(done, &mut stack, &mut root);
            }
            Event::Text(piece) => match stack.last_mut() {
                Some(top) => push_line_ends(&mut top.text, &piece),
                None if piece.chars().all(|c| c.is_ascii_whitespace()) => {}
                None => return Err(Malformed),
            },
            Event::CData(piece) => {
                stack.last_mut().ok_or(Malformed)?.text.push_str(&piece);
            }
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref().map_err(|_| Malformed)? {
                    Some(character) => character,
                    None => predefined(&reference)?,
                };
                stack.last_mut().ok_or(Malformed)?.text.push(character);
            }
            Event::Decl(_) | Event::Comment(_) => {}
            Event::DocType(_) | Event::PI(_) => return Err(Malformed),
            Event::Eof => break,
        }
    }
    if stack.is_empty() { root.ok_or(Malformed) } else { Err(Malformed) }
}

fn named(name: &str) -> Element {
    Element { name: name.to_owned(), ..Element::default() }
}

fn close(done: Element, stack: &mut [Element], root: &mut Option<Element>) {
    match stack.last_mut() {
        Some(parent) => parent.children.push(done),
        None => *root = Some(done),
    }
}

/// XML reads `\r\n` and `\r` as `\n`; a real carriage return comes as a reference.
fn push_line_ends(out: &mut String, piece: &str) {
    if piece.contains('\r') {
        out.push_str(&piece.replace("\r\n", "\n").replace('\r', "\n"));
    } else {
        out.push_str(piece);
    }
}

fn predefined(name: &str) -> Result<char, Malformed> {
    match name {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Malformed, parse};
    use proptest::prelude::{any, proptest};

    const LIMITS: Limits = Limits { bytes: 1 << 20, elements: 1_000 };

    #[test]
    fn namespaces_references_and_cdata_are_read() {
        let document = b"\xef\xbb\xbf<?xml version='1.0'?><!-- c --><s:Delete xmlns:s='x'><Object><Key>a&amp;b&#x31;<![CDATA[<]]></Key></Object><Quiet/></s:Delete>\n";
        let root = parse(document, &LIMITS).unwrap();
        assert_eq!(root.name, "Delete");
        assert_eq!(root.child("Object").unwrap().child_text("Key"), Some("a&b1<"));
        assert_eq!(root.child_text("Quiet"), Some(""));
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
        let many = format!("<a>{}</a>", "<b/>".repeat(1_001));
        let laughs = "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><a>&b;</a>";
        let external = "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a>&b;</a>";
        let blank = " ".repeat((1 << 20) + 1);
        for bad in [
            &deep,
            &many,
            laughs,
            external,
            &blank,
            "<a>&b;</a>",
            "<a/>x",
            "<a/><b/>",
            "<a>",
            "<a></b>",
            "",
            "x",
            "</a>",
        ] {
            assert_eq!(parse(bad.as_bytes(), &LIMITS), Err(Malformed), "{}", &bad[..bad.len().min(40)]);
        }
        assert_eq!(parse(b"\xff\xfe<\0a\0/\0>\0", &LIMITS), Err(Malformed));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in any::<Vec<u8>>(), text in "[<>/a&;!x# \\[\\]?-]{0,60}") {
            let _ = parse(&bytes, &LIMITS);
            let _ = parse(text.as_bytes(), &LIMITS);
        }
    }
}
