//! Hashes, message authentication, keys and sealing: every use of a cryptographic primitive.
//!
//! Pure: no clock and no randomness. Whoever needs a nonce or fresh key bytes draws them from
//! `platform::Random` and passes them in, so that a simulated run replays from its seed.
//!
//! What it leaves to others: SigV4's canonical forms (`s3-gateway`), frames and the handshake's
//! messages (`rpc`), TLS and the source of randomness (`platform`), block checksums (`types`).
//!
//! This is the only door to the packages `ring` and `md-5` (besides `platform`, which takes its
//! randomness and its TLS provider from `ring`), and `suite` the only one to `aes`, `sm4` and `aes-gcm`.

pub mod secret;

pub mod hash;

pub mod keys;

pub mod seal;

pub mod mac;

pub mod md5_lanes;

pub mod suite;

pub mod envelope;
