//! Bytes of the NBD protocol (the "proto.md" of the NetworkBlockDevice project): numbers, and the parsers
//! of what clients send. No IO; nothing here panics on foreign bytes.

use crate::device::Fault;

/// First bytes of the handshake.
pub const INIT: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// First bytes of an option.
pub const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// First bytes of the answer to an option.
pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;

/// Flags of the handshake.
pub mod handshake {
    pub const FIXED_NEWSTYLE: u16 = 1;
    pub const NO_ZEROES: u16 = 2;
}

/// Options.
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Answers to options.
pub mod rep {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    const ERR: u32 = 1 << 31;
    pub const UNSUP: u32 = ERR + 1;
    pub const POLICY: u32 = ERR + 2;
    pub const INVALID: u32 = ERR + 3;
    pub const TLS_REQD: u32 = ERR + 5;
    pub const UNKNOWN: u32 = ERR + 6;
    pub const SHUTDOWN: u32 = ERR + 7;
    pub const TOO_BIG: u32 = ERR + 9;
    pub const EXT_HEADER_REQD: u32 = ERR + 10;
}

/// Kinds of information about an export.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Flags of an export.
pub mod export_flag {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Commands.
pub mod cmd {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub mod cmd_flag {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 2;
    pub const DF: u16 = 4;
    pub const REQ_ONE: u16 = 8;
    pub const FAST_ZERO: u16 = 16;
    pub const PAYLOAD_LEN: u16 = 32;
}

/// Kinds of chunks of a structured reply.
pub mod chunk {
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = 0x8001;
}

/// Errors of the protocol.
pub mod errno {
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const EOVERFLOW: u32 = 75;
    pub const ENOTSUP: u32 = 95;
    pub const ESHUTDOWN: u32 = 108;
}

/// The longest name of an export, and of a query for contexts.
pub const NAME_MAX: usize = 4096;
/// The longest data of an option that is looked at.
pub const OPTION_MAX: u32 = 64 << 10;
/// The largest payload of a read or a write.
pub const PAYLOAD_MAX: u64 = 32 << 20;
/// The smallest and the best block, bytes.
pub const BLOCK_MIN: u32 = 1;
pub const BLOCK_BEST: u32 = 4096;

const REQUEST: u32 = 0x2560_9513;
const REQUEST_EXT: u32 = 0x21e4_1c71;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const STRUCTURED_REPLY: u32 = 0x668e_33ef;
const EXTENDED_REPLY: u32 = 0x6e8a_278c;
const DONE: u16 = 1;

/// How a connection's headers look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd)]
pub enum Headers {
    /// As ever.
    Simple,
    /// Structured replies.
    Structured,
    /// 64-bit lengths.
    Extended,
}

impl Headers {
    /// Bytes of a request's header.
    pub fn request_len(self) -> usize {
        if self == Headers::Extended { 32 } else { 28 }
    }
}

/// A request as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub flags: u16,
    pub cmd: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Request {
    /// Parses a header of [`Headers::request_len`] bytes; `None`: it does not begin as one must.
    pub fn parse(bytes: &[u8], headers: Headers) -> Option<Request> {
        let is_extended = headers == Headers::Extended;
        let magic = if is_extended { REQUEST_EXT } else { REQUEST };
        let len = if is_extended { u64_at(bytes, 24)? } else { u32_at(bytes, 24)?.into() };
        (u32_at(bytes, 0)? == magic).then_some(Request {
            flags: u16_at(bytes, 4)?,
            cmd: u16_at(bytes, 6)?,
            cookie: u64_at(bytes, 8)?,
            offset: u64_at(bytes, 16)?,
            len,
        })
    }
}

/// What INFO and GO ask: the name, and what else is wanted.
pub fn parse_info(data: &[u8]) -> Option<(String, Vec<u16>)> {
    let name_len = u32_at(data, 0)? as usize;
    let name = data.get(4..4usize.checked_add(name_len)?)?;
    let rest = &data[4 + name_len..];
    let count = usize::from(u16_at(rest, 0)?);
    if rest.len() != 2 + 2 * count {
        return None;
    }
    let kinds = (0..count).filter_map(|at| u16_at(rest, 2 + 2 * at)).collect();
    Some((String::from_utf8(name.to_vec()).ok()?, kinds))
}

/// What LIST_META_CONTEXT and SET_META_CONTEXT ask: the name, and the queries.
pub fn parse_contexts(data: &[u8]) -> Option<(String, Vec<String>)> {
    let name_len = u32_at(data, 0)? as usize;
    let mut at = 4usize.checked_add(name_len)?;
    let name = String::from_utf8(data.get(4..at)?.to_vec()).ok()?;
    let count = u32_at(data, at)?;
    at += 4;
    let mut queries = Vec::new();
    for _ in 0..count {
        let len = u32_at(data, at)? as usize;
        at += 4;
        let end = at.checked_add(len)?;
        queries.push(String::from_utf8(data.get(at..end)?.to_vec()).ok()?);
        at = end;
    }
    (at == data.len()).then_some((name, queries))
}

/// The answer to an option.
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + data.len());
    out.extend_from_slice(&OPTION_REPLY.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// A reply without structure.
pub fn simple_reply(cookie: u64, error: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    out.extend_from_slice(&SIMPLE_REPLY.to_be_bytes());
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out
}

/// The header of a chunk of a reply; `len` bytes follow.
pub fn chunk_header(headers: Headers, request: &Request, kind: u16, is_last: bool, len: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    let magic = if headers == Headers::Extended { EXTENDED_REPLY } else { STRUCTURED_REPLY };
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&(if is_last { DONE } else { 0 }).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&request.cookie.to_be_bytes());
    if headers == Headers::Extended {
        out.extend_from_slice(&request.offset.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.extend_from_slice(&(len as u32).to_be_bytes());
    }
    out
}

/// The reply that says nothing but whether it was done.
pub fn plain_reply(headers: Headers, request: &Request, error: u32, text: &str) -> Vec<u8> {
    match (headers, error) {
        (Headers::Simple, _) | (Headers::Structured, 0) => simple_reply(request.cookie, error),
        (Headers::Extended, 0) => chunk_header(headers, request, chunk::NONE, true, 0),
        _ => {
            // Lengths of strings are bounded by the protocol.
            let text = &text.as_bytes()[..text.len().min(NAME_MAX)];
            let mut out = chunk_header(headers, request, chunk::ERROR, true, 6 + text.len() as u64);
            out.extend_from_slice(&error.to_be_bytes());
            out.extend_from_slice(&(text.len() as u16).to_be_bytes());
            out.extend_from_slice(text);
            out
        }
    }
}

/// The protocol's number for a fault.
pub fn errno_of(fault: Fault) -> u32 {
    match fault {
        Fault::Io => errno::EIO,
        Fault::Invalid => errno::EINVAL,
        Fault::NoSpace => errno::ENOSPC,
        Fault::Shutdown => errno::ESHUTDOWN,
        Fault::ReadOnly => errno::EPERM,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn foreign_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_info(&bytes);
            let _ = parse_contexts(&bytes);
            let _ = Request::parse(&bytes, Headers::Simple);
            let _ = Request::parse(&bytes, Headers::Extended);
        }
    }

    #[test]
    fn questions_are_parsed_to_their_last_byte() {
        let info = [&4u32.to_be_bytes()[..], b"disk", &[0, 2, 0, 1, 0, 3]].concat();
        assert_eq!(parse_info(&info), Some(("disk".into(), vec![1, 3])));
        assert_eq!(parse_info(&info[..info.len() - 1]), None);
        assert_eq!(parse_info(&[&info[..], &[0]].concat()), None);
        assert_eq!(parse_info(&[&u32::MAX.to_be_bytes()[..], b"disk"].concat()), None);
        let query = [&15u32.to_be_bytes()[..], b"base:allocation"].concat();
        let contexts = [&1u32.to_be_bytes()[..], b"d", &1u32.to_be_bytes(), &query].concat();
        assert_eq!(parse_contexts(&contexts), Some(("d".into(), vec!["base:allocation".into()])));
        let lying = [&1u32.to_be_bytes()[..], b"d", &u32::MAX.to_be_bytes(), &query].concat();
        assert_eq!(parse_contexts(&lying), None);
    }
}
