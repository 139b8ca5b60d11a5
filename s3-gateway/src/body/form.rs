//! `multipart/form-data` as it arrives (RFC 7578, RFC 2046 section 5.1): fields, then one file. Pure.
//!
//! Invariants: never looks back further than the delimiter is long; what is kept of fields and
//! heads is bounded; bytes of the file are handed on as slices of what arrived, not copied.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::errors::{Code, S3Error, S3Result, invalid_argument};

/// Bytes that all fields before the file may have together.
pub const FIELDS_LEN_MAX: usize = 64 << 10;
/// Bytes of the head of a part.
const HEAD_LEN_MAX: usize = 8 << 10;
/// RFC 2046: a boundary has 1 to 70 characters.
const BOUNDARY_LEN_MAX: usize = 70;

/// The fields before the file. Names are lower-case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    values: BTreeMap<String, String>,
    /// The file's name as the browser gave it, without directories.
    pub filename: String,
}

impl Fields {
    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// All fields in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets a field, for tests and for values that the server expands.
    pub fn set(&mut self, name: &str, value: &str) {
        self.values.insert(name.to_owned(), value.to_owned());
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// Behind a delimiter: `--` or the end of its line follows.
    AfterDelimiter,
    Head,
    Field,
    File,
    /// The file has ended; what follows is ignored.
    Done,
}

/// Takes a form apart.
pub struct FormReader {
    /// `\r\n--BOUNDARY`.
    delimiter: Vec<u8>,
    held: BytesMut,
    state: State,
    field: String,
    fields_len: usize,
    fields: Fields,
}

fn malformed() -> S3Error {
    Code::MalformedPOSTRequest.into()
}

/// The boundary that a content type announces, if it is one of a form.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim())
    })?;
    let value = value.strip_prefix('"').and_then(|inside| inside.strip_suffix('"')).unwrap_or(value);
    let fine = (1..=BOUNDARY_LEN_MAX).contains(&value.len()) && value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    fine.then(|| value.to_owned())
}

impl FormReader {
    /// For a form with this boundary.
    pub fn new(boundary: &str) -> FormReader {
        // The first delimiter may be the very beginning; this stands for the line before it.
        let held = BytesMut::from(&b"\r\n"[..]);
        FormReader {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            held,
            state: State::Preamble,
            field: String::new(),
            fields_len: 0,
            fields: Fields::default(),
        }
    }

    /// The fields read so far; complete once the file has begun.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether the file has begun.
    pub fn at_file(&self) -> bool {
        matches!(self.state, State::File | State::Done)
    }

    /// Whether the file has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes bytes; answers what of the file is now known, if the file has begun.
    ///
    /// # Errors
    /// The form is malformed or its fields are too long.
    pub fn push(&mut self, data: &[u8]) -> S3Result<Bytes> {
        if self.state == State::Done {
            return Ok(Bytes::new());
        }
        self.held.extend_from_slice(data);
        loop {
            match self.state {
                State::Preamble => match find(&self.held, &self.delimiter) {
                    Some(at) => {
                        let _ = self.held.split_to(at + self.delimiter.len());
                        self.state = State::AfterDelimiter;
                    }
                    None => {
                        self.forget_all_but(self.delimiter.len());
                        return Ok(Bytes::new());
                    }
                },
                State::AfterDelimiter => {
                    if self.held.len() < 2 {
                        return Ok(Bytes::new());
                    }
                    let two = self.held.split_to(2);
                    match &two[..] {
                        b"\r\n" => self.state = State::Head,
                        b"--" => return Err(no_file()),
                        // Transport padding (RFC 2046): no client sends it.
                        _ => return Err(malformed()),
                    }
                }
                State::Head => match find(&self.held, b"\r\n\r\n") {
                    Some(at) => {
                        let head = self.held.split_to(at + 4);
                        self.begin(&head[..at])?;
                    }
                    None if self.held.len() > HEAD_LEN_MAX => return Err(malformed()),
                    None => return Ok(Bytes::new()),
                },
                State::Field => match find(&self.held, &self.delimiter) {
                    Some(at) => {
                        let value = self.held.split_to(at + self.delimiter.len());
                        self.end_field(&value[..at])?;
                    }
                    None if self.held.len() > FIELDS_LEN_MAX => return Err(too_long()),
                    None => return Ok(Bytes::new()),
                },
                State::File => {
                    if let Some(at) = find(&self.held, &self.delimiter) {
                        let data = self.held.split_to(at).freeze();
                        self.held.clear();
                        self.state = State::Done;
                        return Ok(data);
                    }
                    // The end of what is held may be the beginning of the delimiter.
                    let sure = self.held.len().saturating_sub(self.delimiter.len() - 1);
                    return Ok(self.held.split_to(sure).freeze());
                }
                State::Done => return Ok(Bytes::new()),
            }
        }
    }

    fn forget_all_but(&mut self, len: usize) {
        let extra = self.held.len().saturating_sub(len);
        let _ = self.held.split_to(extra);
    }

    /// The head of a part: a field or the file begins.
    fn begin(&mut self, head: &[u8]) -> S3Result<()> {
        let head = std::str::from_utf8(head).map_err(|_| malformed())?;
        let disposition = head.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then(|| value.trim())
        });
        let disposition = disposition.ok_or_else(malformed)?;
        let name = parameter(disposition, "name").ok_or_else(malformed)?.to_ascii_lowercase();
        if name == "file" {
            let filename = parameter(disposition, "filename").unwrap_or_default();
            self.fields.filename = filename.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
            self.state = State::File;
        } else {
            self.field = name;
            self.state = State::Field;
        }
        Ok(())
    }

    fn end_field(&mut self, value: &[u8]) -> S3Result<()> {
        let value = std::str::from_utf8(value).map_err(|_| malformed())?;
        let name = std::mem::take(&mut self.field);
        self.fields_len += name.len() + value.len();
        if self.fields_len > FIELDS_LEN_MAX {
            return Err(too_long());
        }
        if self.fields.values.insert(name.clone(), value.to_owned()).is_some() {
            return Err(invalid_argument(&name, value, "A form field must not be repeated."));
        }
        self.state = State::AfterDelimiter;
        Ok(())
    }
}

fn too_long() -> S3Error {
    S3Error::from(Code::MaxPostPreDataLengthExceeded)
}

/// No part of the form is named `file`.
pub fn no_file() -> S3Error {
    invalid_argument("file", "0", "POST requires exactly one file upload per request.")
}

/// A parameter of a `Content-Disposition`: a token or a quoted string.
fn parameter(disposition: &str, wanted: &str) -> Option<String> {
    let mut rest = disposition.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut letters = quoted.char_indices();
                let end = loop {
                    match letters.next()? {
                        (at, '"') => break at,
                        // Browsers escape the quote alone, by percent or backslash.
                        (_, '\\') => match letters.next()? {
                            (_, escaped @ ('"' | '\\')) => value.push(escaped),
                            (_, other) => value.extend(['\\', other]),
                        },
                        (_, letter) => value.push(letter),
                    }
                };
                (value.replace("%22", "\""), quoted[end + 1..].trim_start().strip_prefix(';'))
            }
            None => match after.split_once(';') {
                Some((value, tail)) => (value.trim().to_owned(), Some(tail)),
                None => (after.trim().to_owned(), None),
            },
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = tail?;
    }
}

/// Where `needle` begins in `hay`.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = needle[0];
    let last = hay.len().checked_sub(needle.len())?;
    let mut from = 0;
    while from <= last {
        from += hay[from..=last].iter().position(|byte| *byte == first)?;
        if hay[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{FIELDS_LEN_MAX, FormReader, boundary, parameter};
    use crate::errors::Code;

    const FORM: &[u8] = b"ignored\r\n--B\r\nContent-Disposition: form-data; name=\"Key\"\r\n\r\nup/${filename}\r\n\
        --B\r\ncontent-disposition: form-data; name=empty\r\nContent-Type: text/plain\r\n\r\n\r\n\
        --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\\\dir\\\\a \\\"b\\\".txt\"\r\n\r\n\
        line\r\n--A\r\n--\r\n-\r\n--B\r\nContent-Disposition: form-data; name=\"late\"\r\n\r\nx\r\n--B--\r\n";

    fn read(form: &[u8], step: usize) -> Result<(FormReader, Vec<u8>), Code> {
        let mut reader = FormReader::new("B");
        let mut file = Vec::new();
        for piece in form.chunks(step) {
            file.extend_from_slice(&reader.push(piece).map_err(|error| error.code)?);
        }
        Ok((reader, file))
    }

    #[test]
    fn a_form_is_the_same_however_it_is_cut() {
        for step in 1..FORM.len() {
            let (reader, file) = read(FORM, step).unwrap();
            assert!(reader.is_done(), "step {step}");
            assert_eq!(file, b"line\r\n--A\r\n--\r\n-", "step {step}");
            let fields = reader.fields();
            assert_eq!(fields.get("key"), Some("up/${filename}"));
            assert_eq!(fields.get("empty"), Some(""));
            assert_eq!(fields.get("late"), None);
            assert_eq!(fields.filename, "a \"b\".txt");
        }
    }

    #[test]
    fn a_cut_form_is_not_done_at_any_byte() {
        let end = FORM.windows(7).position(|window| window == b"\r\n--B\r\n").unwrap();
        let last = FORM.len() - b"\r\n--B\r\nContent-Disposition: form-data; name=\"late\"\r\n\r\nx\r\n--B--\r\n".len();
        assert!(end < last);
        for len in 0..last + b"\r\n--B".len() {
            let (reader, _) = read(&FORM[..len], 7).unwrap();
            assert!(!reader.is_done(), "{len} bytes of it");
        }
    }

    #[test]
    fn hostile_forms_are_refused() {
        let huge = format!("--B\r\nContent-Disposition: form-data; name=a\r\n\r\n{}", "x".repeat(FIELDS_LEN_MAX + 100));
        let long_head = format!("--B\r\nX: {}", "x".repeat(100_000));
        let twice = "--B\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--B\r\n\
            Content-Disposition: form-data; name=A\r\n\r\n2\r\n--B\r\n";
        for (form, code) in [
            (huge.as_str(), Code::MaxPostPreDataLengthExceeded),
            (long_head.as_str(), Code::MalformedPOSTRequest),
            (twice, Code::InvalidArgument),
            ("--B\r\nContent-Type: x\r\n\r\n", Code::MalformedPOSTRequest),
            ("--Bnonsense", Code::MalformedPOSTRequest),
            ("--B--\r\n", Code::InvalidArgument),
        ] {
            assert_eq!(read(form.as_bytes(), 1000).err(), Some(code));
        }
    }

    #[test]
    fn boundaries_and_parameters() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; Boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(boundary("multipart/form-data"), None);
        assert_eq!(boundary("multipart/mixed; boundary=abc"), None);
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
        assert_eq!(parameter("form-data; name=\"a;b\"; filename=c", "filename").as_deref(), Some("c"));
        assert_eq!(parameter("form-data; filename=\"name=x\"; name=y", "name").as_deref(), Some("y"));
        assert_eq!(parameter("form-data; name=\"open", "name"), None);
        assert_eq!(parameter("form-data", "name"), None);
    }
}
