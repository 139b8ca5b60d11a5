//! Authentication between the cluster's own processes: the handshake's proofs, the keys of a
//! connection, and the tag of each frame.
//!
//! ```text
//! initiator                                   acceptor
//!   nonce_a  ------------------------------->
//!            <-------------------------------  nonce_b, proof(secret, nonce_a, nonce_b, Acceptor)
//!   proof(secret, nonce_a, nonce_b, Initiator)
//!            ------------------------------->
//!   frames tagged with session_key(.., Initiator)  ->
//!          <-  frames tagged with session_key(.., Acceptor)
//! ```
//!
//! Both sides prove that they hold the cluster secret without sending it. The role is part of
//! every message, so a proof cannot be reflected and a frame cannot be played back to its sender.
//! Messages and the order of frames are `rpc`'s: it puts the frame's number among the parts.
//!
//! Invariant: the strings below are part of the wire format; a change is a new protocol version.

use ring::hmac;

use crate::hash::{constant_time_eq, hmac_sha256};

/// Length of a frame's tag in bytes.
pub const FRAME_TAG_LEN: usize = 16;

const PROOF_LABEL: &[u8] = b"bixi handshake proof v1";
const SESSION_LABEL: &[u8] = b"bixi session key v1";

/// Which end of a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The end that connected.
    Initiator,
    /// The end that accepted.
    Acceptor,
}

/// Proof that the end with this `role` holds the cluster secret; compare with [`constant_time_eq`].
/// `nonce_a` is the initiator's, `nonce_b` the acceptor's; each at least 16 fresh random bytes.
pub fn proof(cluster_secret: &[u8], nonce_a: &[u8], nonce_b: &[u8], role: Role) -> [u8; 32] {
    derive(PROOF_LABEL, cluster_secret, nonce_a, nonce_b, role)
}

/// Key of the frames that the end with this `role` sends on the connection of these nonces.
pub fn session_key(cluster_secret: &[u8], nonce_a: &[u8], nonce_b: &[u8], role: Role) -> [u8; 32] {
    derive(SESSION_LABEL, cluster_secret, nonce_a, nonce_b, role)
}

/// Tags and checks frames: HMAC-SHA256 cut to 128 bits (RFC 2104 section 5 allows half the length).
#[derive(Clone)]
pub struct FrameMac(hmac::Key);

impl FrameMac {
    /// Prepares the key of one direction, from [`session_key`].
    pub fn new(key: &[u8; 32]) -> FrameMac {
        FrameMac(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Tag of the parts taken as one message: where one part ends and the next begins is not
    /// bound, so a frame's header must carry the lengths of what follows it.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; FRAME_TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let full = context.sign();
        full.as_ref()[..FRAME_TAG_LEN].try_into().expect("a tag is cut from a longer one")
    }

    /// Whether `tag` is the tag of the parts. Takes the same time whatever differs.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        constant_time_eq(&self.tag(parts), tag)
    }
}

fn derive(label: &[u8], cluster_secret: &[u8], nonce_a: &[u8], nonce_b: &[u8], role: Role) -> [u8; 32] {
    let role: &[u8] = match role {
        Role::Initiator => b"initiator",
        Role::Acceptor => b"acceptor",
    };
    // Lengths go before the nonces, so that no two pairs of nonces make the same message.
    let len_a = (nonce_a.len() as u64).to_le_bytes();
    let len_b = (nonce_b.len() as u64).to_le_bytes();
    hmac_sha256(cluster_secret, &[label, &[0], role, &[0], &len_a, nonce_a, &len_b, nonce_b])
}

#[cfg(test)]
mod tests {
    use super::{FrameMac, Role, proof, session_key};
    use crate::hash::hex_encode;

    #[test]
    fn proofs_and_keys_differ_by_every_input() {
        let mut all = vec![
            proof(b"secret", b"nonce a", b"nonce b", Role::Initiator),
            proof(b"secret", b"nonce a", b"nonce b", Role::Acceptor),
            session_key(b"secret", b"nonce a", b"nonce b", Role::Initiator),
            session_key(b"secret", b"nonce a", b"nonce b", Role::Acceptor),
            proof(b"other", b"nonce a", b"nonce b", Role::Initiator),
            proof(b"secret", b"nonce b", b"nonce a", Role::Initiator),
            proof(b"secret", b"nonce an", b"once b", Role::Initiator),
        ];
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn frame_tag_covers_the_parts_as_one_message() {
        let mac = FrameMac::new(&[3; 32]);
        let tag = mac.tag(&[b"header", b"payload"]);
        assert_eq!(tag, mac.tag(&[b"headerpayload"]));
        assert!(mac.verify(&[b"header", b"payload"], &tag));
        assert!(!mac.verify(&[b"header", b"payloaD"], &tag));
        assert!(!mac.verify(&[b"header", b"payload"], &tag[..15]));
        assert!(!FrameMac::new(&[4; 32]).verify(&[b"header", b"payload"], &tag));
    }

    #[test]
    fn handshake_bytes_are_pinned() {
        assert_eq!(
            hex_encode(&proof(b"secret", &[1; 32], &[2; 32], Role::Initiator)),
            "88d1936aca568cd6d7a7fa8da3344a033532338ab4e41c7416ad957bd88604a2"
        );
        assert_eq!(
            hex_encode(&session_key(b"secret", &[1; 32], &[2; 32], Role::Acceptor)),
            "0df62347d1f9289411caa1a281525902e1ed9002cc58267a72a7aba5a80c9363"
        );
    }
}
