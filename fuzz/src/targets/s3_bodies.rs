//! Bodies of S3 requests: aws-chunked framing with its chain of signatures, and XML documents.

use bytes::Bytes;
use crypto::hash::sha256;
use crypto::secret::Secret;
use s3_gateway::auth::chunk_signature::ChunkSigning;
use s3_gateway::body::chunked::Decoder;
use s3_gateway::xml::read::{Element, Limits, parse};
use s3_gateway::xml::write::Writer;

use crate::input::Input;

const LIMITS: Limits = Limits { bytes: 1 << 16, elements: 1_000 };

type Decoded = Option<(Vec<u8>, Vec<(String, String)>)>;

/// Chunked bodies: any pieces decode alike; damage under signatures never changes the data.
pub fn chunked(input: &mut Input) {
    let is_signed = input.once_in(2);
    let trailer = input.once_in(2).then(|| ("x-amz-checksum-crc32".to_owned(), "DUoRhQ==".to_owned()));
    let data = input.bytes(600);
    let mut wire = encoded(input, &data, is_signed, trailer.as_ref());
    let decoder = || Decoder::new(is_signed.then(chain), trailer.is_some());
    let whole = decoded(decoder(), &wire, &mut || usize::MAX);
    let expected: Vec<(String, String)> = trailer.clone().into_iter().collect();
    assert_eq!(whole, Some((data.clone(), expected)), "a body reads back");
    assert_eq!(decoded(decoder(), &wire, &mut || 1 + input.below(40)), whole, "pieces do not matter");

    input.damage(&mut wire);
    let damaged = decoded(decoder(), &wire, &mut || 1 + input.below(40));
    if is_signed && let Some((read, trailers)) = &damaged {
        assert_eq!(read, &data, "signed data cannot be changed");
        assert!(trailer.is_none() || trailers.iter().eq(trailer.iter()), "a signed trailer cannot be changed");
    }
    let wild = input.text("0123456789abcdef;\r\n:chunk-signature=", 80);
    let _ = decoded(decoder(), wild.as_bytes(), &mut || 1 + input.below(40));
}

fn chain() -> ChunkSigning {
    let scope = "20260131/us-east-1/s3/aws4_request".to_owned();
    ChunkSigning::new(Secret::new([7; 32]), "20260131T120000Z".to_owned(), scope, "0".repeat(64))
}

fn encoded(input: &mut Input, data: &[u8], is_signed: bool, trailer: Option<&(String, String)>) -> Vec<u8> {
    let mut signing = chain();
    let mut wire = Vec::new();
    let mut push_head = |wire: &mut Vec<u8>, chunk: &[u8]| {
        wire.extend(format!("{:x}", chunk.len()).bytes());
        if is_signed {
            let signature = signing.of_chunk(&sha256(chunk));
            wire.extend(format!(";chunk-signature={signature}").bytes());
            assert!(signing.accept(signature.clone(), &signature), "a signature is itself");
        }
        wire.extend(b"\r\n");
    };
    let mut rest = data;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(1 + input.below(rest.len()));
        push_head(&mut wire, chunk);
        wire.extend(chunk);
        wire.extend(b"\r\n");
        rest = tail;
    }
    push_head(&mut wire, &[]);
    if let Some((name, value)) = trailer {
        wire.extend(format!("{name}:{value}\r\n").bytes());
        if is_signed {
            let signature = signing.of_trailer(&format!("{name}:{value}\n"));
            wire.extend(format!("x-amz-trailer-signature:{signature}\r\n").bytes());
        }
    }
    wire.extend(b"\r\n");
    wire
}

fn decoded(mut decoder: Decoder, wire: &[u8], piece_len: &mut dyn FnMut() -> usize) -> Decoded {
    let mut out = Vec::new();
    let mut rest = wire;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(piece_len().min(rest.len()));
        decoder.push(Bytes::copy_from_slice(piece), &mut out).ok()?;
        rest = tail;
    }
    let trailers = decoder.finish().ok()?;
    Some((out.concat(), trailers))
}

/// XML: what is written reads back; whatever else comes is refused within bounds.
pub fn xml(input: &mut Input) {
    let key: String = input.text("abc<>&\"' /\u{e9}", 20).chars().filter(|c| is_sayable(*c)).collect();
    let etag = input.text("0123456789abcdef", 32).chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>();
    let mut writer = Writer::with_root("Delete", 64);
    writer.open("Object").text("Key", &key).etag("ETag", &etag).close("Object");
    let text = writer.finish("Delete");
    let mut bytes = AsRef::<[u8]>::as_ref(&text).to_vec();
    let read = parse(&bytes, &LIMITS).expect("what was written is a document");
    let object = read.child("Object").expect("the element is there");
    assert_eq!(object.child_text("Key"), Some(key.as_str()), "a key reads back");
    assert_eq!(object.child_text("ETag"), Some(format!("\"{etag}\"").as_str()), "an ETag reads back");

    input.damage(&mut bytes);
    check(&bytes);
    check(input.text("<>/a&;!x# \"'=?[]-\u{e9}", 80).as_bytes());
    check(&input.bytes(80));
}

/// Characters that XML 1.0 can say and that no reader folds into others.
fn is_sayable(character: char) -> bool {
    character >= ' ' && character != '\u{fffe}' && character != '\u{ffff}'
}

fn check(bytes: &[u8]) {
    if let Ok(root) = parse(bytes, &LIMITS) {
        assert!(depth(&root) <= s3_gateway::xml::read::DEPTH_MAX, "depth is bounded");
    }
}

fn depth(element: &Element) -> usize {
    1 + element.children.iter().map(depth).max().unwrap_or(0)
}
