//! Forms that browsers post: taken apart the same however they arrive, policies that fail closed.

use crypto::hash::base64_encode;
use s3_gateway::auth::policy_document::PolicyDocument;
use s3_gateway::body::form::{FormReader, boundary};

use crate::input::Input;

const BOUNDARY: &str = "xYz";

/// The file of a form read in pieces, if the form was whole.
fn read(form: &[u8], step: &mut dyn FnMut() -> usize) -> Option<(Vec<u8>, String)> {
    let mut reader = FormReader::new(BOUNDARY);
    let (mut rest, mut file) = (form, Vec::new());
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(step().min(rest.len()));
        file.extend_from_slice(&reader.push(piece).ok()?);
        rest = tail;
    }
    reader.is_done().then(|| (file, reader.fields().get("key").unwrap_or_default().to_owned()))
}

/// Forms: any pieces read alike, rubbish is refused and never panics.
pub fn forms(input: &mut Input) {
    let mut file = input.bytes(400);
    if input.once_in(3) {
        // Nearly a delimiter.
        file.extend_from_slice(b"\r\n--xY");
    }
    let key = input.text("abc/${filename}", 30).replace(['\r', '\n'], "");
    let mut form =
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n{key}\r\n").into_bytes();
    form.extend_from_slice(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=file\r\n\r\n").as_bytes());
    form.extend_from_slice(&file);
    form.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    let whole = read(&form, &mut || usize::MAX);
    let has_delimiter = file.windows(7).any(|window| window == b"\r\n--xYz");
    assert!(has_delimiter || whole == Some((file, key)), "a form reads back");
    assert_eq!(read(&form, &mut || 1 + input.below(50)), whole, "pieces do not matter");

    input.damage(&mut form);
    let damaged = read(&form, &mut || usize::MAX);
    assert_eq!(read(&form, &mut || 1 + input.below(50)).is_some(), damaged.is_some(), "refused alike");
    let _ = boundary(&input.text("multipart/form-data; boundary=\"x\"", 80));

    let mut policy =
        br#"{"expiration": "2100-01-01T00:00:00Z", "conditions": [["eq", "$key", "k"], {"bucket": "b"}]}"#.to_vec();
    input.damage(&mut policy);
    if let Ok(document) = PolicyDocument::read(&base64_encode(&policy)) {
        let (least, most) = document.length_range();
        assert!(least <= most, "an empty range was let in");
    }
}
