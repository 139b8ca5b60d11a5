//! Decodes aws-chunked bodies, signed or not, with or without trailer. Pure: bytes in, bytes out.
//!
//! ```text
//! 400;chunk-signature=<64 hex>\r\n  <1024 bytes>\r\n
//! 0;chunk-signature=<64 hex>\r\n
//! x-amz-checksum-crc32:<base64>\r\n          only with a trailer
//! x-amz-trailer-signature:<64 hex>\r\n       only with a signed trailer
//! \r\n
//! ```
//!
//! Invariants: at most [`LINE_MAX`] bytes of a line and [`TRAILER_MAX`] bytes of trailer are kept;
//! data is passed on without a copy; a body that ends early is never complete.

use bytes::{Buf, Bytes};
use crypto::hash::Sha256;

use crate::auth::chunk_signature::ChunkSigning;
use crate::errors::{Code, S3Error, S3Result};

/// The longest chunk header, in bytes.
pub const LINE_MAX: usize = 256;
/// The longest trailer, in bytes.
pub const TRAILER_MAX: usize = 4_096;
/// The longest chunk, in bytes.
const CHUNK_MAX: u64 = 5 << 30;

enum State {
    /// Inside `size;chunk-signature=...\r\n`.
    Header,
    /// Inside a chunk's bytes.
    Data { left: u64 },
    /// Expecting the `\r\n` behind them.
    DataEnd,
    /// Inside the trailer's lines or the last `\r\n`.
    Trailer,
    /// Everything has been read.
    Done,
}

/// The decoder of one body.
pub struct Decoder {
    state: State,
    line: Vec<u8>,
    signing: Option<ChunkSigning>,
    trailer: bool,
    trailer_len: usize,
    /// Of the chunk under way, when chunks are signed.
    data_hash: Sha256,
    /// What the chunk under way says its signature is.
    signature: String,
    /// Trailing headers, names in lower case.
    trailers: Vec<(String, String)>,
}

impl Decoder {
    /// For chunks signed with `signing`, and with a trailer or not.
    pub fn new(signing: Option<ChunkSigning>, trailer: bool) -> Decoder {
        Decoder {
            state: State::Header,
            line: Vec::new(),
            signing,
            trailer,
            trailer_len: 0,
            data_hash: Sha256::new(),
            signature: String::new(),
            trailers: Vec::new(),
        }
    }

    /// Takes the next bytes of the wire; appends decoded data to `out`.
    pub fn push(&mut self, mut input: Bytes, out: &mut Vec<Bytes>) -> S3Result<()> {
        while !input.is_empty() {
            match self.state {
                State::Header => {
                    if self.take_line(&mut input, LINE_MAX)? {
                        self.chunk_header()?;
                    }
                }
                State::Data { left } => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let data = input.split_to(len);
                    if self.signing.is_some() {
                        self.data_hash.update(&data);
                    }
                    out.push(data);
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data { left } };
                    if left == 0 {
                        self.check_chunk()?;
                    }
                }
                State::DataEnd => {
                    if self.take_line(&mut input, 2)? {
                        if !self.line.is_empty() {
                            return Err(malformed("a chunk is longer than its size says"));
                        }
                        self.state = State::Header;
                    }
                }
                State::Trailer => {
                    if self.take_line(&mut input, TRAILER_MAX)? {
                        self.trailer_line()?;
                    }
                }
                State::Done => return Err(malformed("bytes follow the last chunk")),
            }
        }
        Ok(())
    }

    /// Ends the body; gives its trailing headers.
    pub fn finish(self) -> S3Result<Vec<(String, String)>> {
        match self.state {
            State::Done => Ok(self.trailers),
            // Some clients leave out the last empty line when no trailer is due.
            State::Trailer if !self.trailer && self.line.is_empty() => Ok(self.trailers),
            _ => Err(Code::IncompleteBody.into()),
        }
    }

    /// Collects up to `\n`; true when `line` holds a whole line without its end.
    fn take_line(&mut self, input: &mut Bytes, len_max: usize) -> S3Result<bool> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let len = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + len > len_max + 2 {
            return Err(malformed("a chunk header is too long"));
        }
        self.line.extend_from_slice(&input[..len]);
        input.advance(len);
        if end.is_none() {
            return Ok(false);
        }
        self.line.pop();
        if self.line.last() != Some(&b'\r') {
            return Err(malformed("a line does not end with CRLF"));
        }
        self.line.pop();
        Ok(true)
    }

    fn chunk_header(&mut self) -> S3Result<()> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| malformed("a chunk header is not text"))?;
        let (size, extension) = line.split_once(';').unwrap_or((line, ""));
        if size.is_empty() || size.len() > 16 || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(malformed("a chunk size is not a hexadecimal number"));
        }
        let size = u64::from_str_radix(size, 16).map_err(|_| malformed("a chunk size is out of range"))?;
        if size > CHUNK_MAX {
            return Err(malformed("a chunk size is out of range"));
        }
        if self.signing.is_some() {
            let signature = extension.strip_prefix("chunk-signature=");
            self.signature = signature.ok_or_else(|| malformed("a chunk has no signature"))?.to_owned();
        }
        if size > 0 {
            self.state = State::Data { left: size };
            return Ok(());
        }
        self.state = State::Trailer;
        self.check_chunk()
    }

    /// The chunk's data is complete: its signature must be right.
    fn check_chunk(&mut self) -> S3Result<()> {
        let Some(signing) = &mut self.signing else { return Ok(()) };
        let hash = std::mem::take(&mut self.data_hash).finish();
        let expected = signing.of_chunk(&hash);
        if signing.accept(expected, &self.signature) { Ok(()) } else { Err(Code::SignatureDoesNotMatch.into()) }
    }

    fn trailer_line(&mut self) -> S3Result<()> {
        let line = std::mem::take(&mut self.line);
        self.trailer_len += line.len();
        if line.is_empty() {
            self.state = State::Done;
            return self.check_trailer();
        }
        if !self.trailer || self.trailer_len > TRAILER_MAX {
            return Err(Code::MalformedTrailerError.into());
        }
        let line = std::str::from_utf8(&line).map_err(|_| S3Error::from(Code::MalformedTrailerError))?;
        let (name, value) = line.split_once(':').ok_or(Code::MalformedTrailerError)?;
        self.trailers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        Ok(())
    }

    /// With signed chunks the trailer is signed too.
    fn check_trailer(&mut self) -> S3Result<()> {
        let Some(signing) = self.signing.as_mut().filter(|_| self.trailer) else { return Ok(()) };
        let at = self.trailers.iter().position(|(name, _)| name == "x-amz-trailer-signature");
        let (_, given) = self.trailers.remove(at.ok_or(Code::MalformedTrailerError)?);
        let canonical: String = self.trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let expected = signing.of_trailer(&canonical);
        if signing.accept(expected, &given) { Ok(()) } else { Err(Code::SignatureDoesNotMatch.into()) }
    }
}

fn malformed(why: &'static str) -> S3Error {
    S3Error::new(Code::InvalidRequest, format!("The aws-chunked body is malformed: {why}."))
}

#[cfg(test)]
mod tests {
    use super::Decoder;
    use crate::auth::chunk_signature::ChunkSigning;
    use crate::auth::keys::signing_key;
    use crate::errors::Code;
    use bytes::Bytes;
    use crypto::secret::Secret;
    use proptest::prelude::{any, proptest};

    type Decoded = Result<(Vec<u8>, Vec<(String, String)>), Code>;

    fn decode(mut decoder: Decoder, pieces: &[&[u8]]) -> Decoded {
        let mut out = Vec::new();
        for piece in pieces {
            decoder.push(Bytes::copy_from_slice(piece), &mut out).map_err(|error| error.code)?;
        }
        let trailers = decoder.finish().map_err(|error| error.code)?;
        Ok((out.concat(), trailers))
    }

    /// The chain of AWS's published example of a signed streaming upload.
    fn example() -> (Decoder, Vec<u8>) {
        let key = signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1");
        let signing = ChunkSigning::new(
            Secret::new(key),
            "20130524T000000Z".to_owned(),
            "20130524/us-east-1/s3/aws4_request".to_owned(),
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9".to_owned(),
        );
        let mut wire = Vec::new();
        for (size, signature) in [
            (65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            (1_024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ] {
            wire.extend(format!("{size:x};chunk-signature={signature}\r\n").bytes());
            wire.extend(std::iter::repeat_n(b'a', size));
            wire.extend(b"\r\n");
        }
        (Decoder::new(Some(signing), false), wire)
    }

    #[test]
    fn aws_example_of_signed_chunks_decodes() {
        let (decoder, wire) = example();
        assert_eq!(decode(decoder, &[&wire]), Ok((vec![b'a'; 66_560], Vec::new())));
    }

    #[test]
    fn changed_dropped_and_cut_chunks_are_refused() {
        let (decoder, mut wire) = example();
        wire[70_000 % 65_000] ^= 1;
        assert_eq!(decode(decoder, &[&wire]), Err(Code::SignatureDoesNotMatch));
        let (decoder, wire) = example();
        let second = 65_536 + 5 + 17 + 64 + 4;
        assert_eq!(decode(decoder, &[&wire[second..]]), Err(Code::SignatureDoesNotMatch));
        let (decoder, wire) = example();
        assert_eq!(decode(decoder, &[&wire[..second]]), Err(Code::IncompleteBody));
        let (decoder, mut wire) = example();
        wire.extend(b"0\r\n");
        assert_eq!(decode(decoder, &[&wire]), Err(Code::InvalidRequest));
    }

    #[test]
    fn unsigned_trailer_is_read() {
        let wire = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Amz-Checksum-CRC32:DUoRhQ==\r\n\r\n";
        let trailers = vec![("x-amz-checksum-crc32".to_owned(), "DUoRhQ==".to_owned())];
        assert_eq!(decode(Decoder::new(None, true), &[wire]), Ok((b"hello world".to_vec(), trailers)));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
        for bad in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "g\r\n",
            "-5\r\n",
            "ffffffffffffffffff\r\n",
            "5 \r\n",
            "\r\n",
            &long,
        ] {
            assert_eq!(decode(Decoder::new(None, true), &[bad.as_bytes()]), Err(Code::InvalidRequest), "{bad:?}");
        }
        let flood = format!("0\r\n{}\r\n", "a:b\r\n".repeat(5_000));
        assert_eq!(decode(Decoder::new(None, true), &[flood.as_bytes()]), Err(Code::MalformedTrailerError));
        assert_eq!(decode(Decoder::new(None, true), &[b"5\r\nhello\r\n0\r\na:b\r\n"]), Err(Code::IncompleteBody));
        assert_eq!(decode(Decoder::new(None, true), &[b"5\r\nhello\r\n"]), Err(Code::IncompleteBody));
        assert_eq!(decode(Decoder::new(None, true), &[]), Err(Code::IncompleteBody));
    }

    #[test]
    fn every_split_decodes_alike() {
        let wire = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
        let whole = decode(Decoder::new(None, true), &[wire]).unwrap();
        for at in 0..wire.len() {
            for then in at..wire.len() {
                let pieces: [&[u8]; 3] = [&wire[..at], &wire[at..then], &wire[then..]];
                assert_eq!(decode(Decoder::new(None, true), &pieces), Ok(whole.clone()), "{at} {then}");
            }
        }
        let single: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(decode(Decoder::new(None, true), &single), Ok(whole));
    }

    proptest! {
        #[test]
        fn signed_splits_decode_alike(at in 0usize..66_900, then in 0usize..66_900) {
            let (decoder, wire) = example();
            let (at, then) = (at.min(then).min(wire.len()), at.max(then).min(wire.len()));
            let pieces: [&[u8]; 3] = [&wire[..at], &wire[at..then], &wire[then..]];
            assert_eq!(decode(decoder, &pieces).map(|(data, _)| data.len()), Ok(66_560));
        }

        #[test]
        fn junk_never_panics(wire in any::<Vec<u8>>(), text in "[0-9a-f;:\r\n]{0,60}") {
            for bytes in [&wire[..], text.as_bytes()] {
                let _ = decode(Decoder::new(None, true), &[bytes]);
                let (decoder, _) = example();
                let _ = decode(decoder, &[bytes]);
            }
        }
    }
}
