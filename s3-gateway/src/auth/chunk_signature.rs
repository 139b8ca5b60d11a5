//! The chain of signatures over the chunks and the trailer of an aws-chunked body.
//!
//! Each chunk's signature covers the one before it, so chunks cannot be dropped, reordered or
//! played back; the seed is the signature of the request's head.

use crypto::hash::{constant_time_eq, hex_decode, hex_encode, hmac_sha256, sha256};
use crypto::secret::Secret;

const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The state of the chain.
pub struct ChunkSigning {
    key: Secret<[u8; 32]>,
    amz_date: String,
    scope: String,
    previous: String,
}

impl ChunkSigning {
    /// Starts at the signature of the head, `seed`.
    pub fn new(key: Secret<[u8; 32]>, amz_date: String, scope: String, seed: String) -> ChunkSigning {
        ChunkSigning { key, amz_date, scope, previous: seed }
    }

    /// The signature the next chunk must have, given the SHA-256 of its data.
    pub fn of_chunk(&self, data_sha256: &[u8; 32]) -> String {
        let digest = hex_encode(data_sha256);
        self.sign(&[
            "AWS4-HMAC-SHA256-PAYLOAD\n",
            &self.amz_date,
            "\n",
            &self.scope,
            "\n",
            &self.previous,
            "\n",
            EMPTY_SHA256,
            "\n",
            &digest,
        ])
    }

    /// The signature the trailer must have; `canonical` is `name:value\n` for each of its headers.
    pub fn of_trailer(&self, canonical: &str) -> String {
        let digest = hex_encode(&sha256(canonical.as_bytes()));
        self.sign(&[
            "AWS4-HMAC-SHA256-TRAILER\n",
            &self.amz_date,
            "\n",
            &self.scope,
            "\n",
            &self.previous,
            "\n",
            &digest,
        ])
    }

    /// Whether `given` is `expected`; if so the chain moves on.
    pub fn accept(&mut self, expected: String, given: &str) -> bool {
        let right = match (hex_decode(&expected), hex_decode(given)) {
            (Some(expected), Some(given)) => constant_time_eq(&expected, &given),
            _ => false,
        };
        self.previous = expected;
        right
    }

    fn sign(&self, pieces: &[&str]) -> String {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        hex_encode(&hmac_sha256(self.key.expose(), &pieces))
    }
}
