//! Raft messages on their way: opaque bytes, several in one call.

use prost_old::Message as _;
use raft::prelude::Message;

/// Joins messages into one string of bytes, each behind its length (u32, little-endian).
pub(super) fn join(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        let bytes = message.encode_to_vec();
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// Takes them apart; `None` for anything else.
pub(super) fn split(mut bytes: &[u8]) -> Option<Vec<Message>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        if rest.len() < len {
            return None;
        }
        out.push(Message::decode(&rest[..len]).ok()?);
        bytes = &rest[len..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{Message, join, split};

    #[test]
    fn messages_round_trip_and_rubbish_is_refused() {
        let message = Message { to: 3, term: 7, ..Message::default() };
        let bytes = join(&[message.clone(), Message::default()]);
        assert_eq!(split(&bytes), Some(vec![message, Message::default()]));
        for len in 1..bytes.len() {
            let _ = split(&bytes[..len]);
        }
        assert_eq!(split(&[9, 0, 0, 0, 1]), None);
    }

    #[test]
    fn golden_bytes_of_raft_messages_on_their_way() {
        let message = Message { to: 3, term: 7, ..Message::default() };
        assert_eq!(join(&[message, Message::default()]), [4, 0, 0, 0, 0x10, 3, 0x20, 7, 0, 0, 0, 0]);
    }
}
