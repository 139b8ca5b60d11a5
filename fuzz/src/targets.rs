//! The list of targets, and the smoke test that runs each for a moment.

pub mod coding;

pub mod images;

pub mod messages;

pub mod nbd;

pub mod records;

pub mod s3_bodies;
mod s3_forms;

pub mod s3_requests;

pub mod secrets;

pub mod volumes;

pub mod words;

use crate::runner::Target;

/// All targets, in the order they run.
pub fn all() -> Vec<Target> {
    let target = |name, about, run| Target { name, about, run };
    vec![
        target("record", "headers of shard records and their checksum tables", records::record),
        target("log-record", "records of the Raft log", records::log_record),
        target("frame", "headers of frames and their checks", records::frame),
        target("identity", "identity files", records::identity),
        target("checkpoint", "checkpoint files", records::checkpoint),
        target("keys", "keys of the metadata: order and suffixes", records::keys),
        target("messages", "every protobuf message stored or sent", messages::messages),
        target("erasure", "random shapes, lengths, kernels and losses", coding::erasure),
        target("checksum", "CRCs in pieces and combined", coding::checksum),
        target("redundancy", "redundancy as text and the law of sealing", words::redundancy),
        target("size", "sizes as text", words::size),
        target("names", "bucket names, object keys, extents", words::names),
        target("secrets", "hex, base64, sealed secrets, ciphers for volumes, handshake proofs", secrets::secrets),
        target("range", "Range headers and ranges of copies", s3_requests::range),
        target("uri", "percent coding, query strings, dates", s3_requests::uri),
        target("sigv4", "signed, changed and mangled requests", s3_requests::sigv4),
        target("post-form", "forms of browsers and their policies, in any pieces", s3_forms::forms),
        target("aws-chunked", "signed and unsigned chunked bodies in any pieces", s3_bodies::chunked),
        target("nbd", "sessions of clients, well meant and damaged", nbd::session),
        target("journal", "records of volumes", volumes::journal),
        target("volume-index", "roots and pages of volumes' indexes", volumes::index),
        target("image", "qcow2 images written, made up, damaged", images::image),
        target("xml", "documents written, read, damaged", s3_bodies::xml),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::all;
    use crate::runner::{replay_line, run};

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the smoke is bounded by real time")]
    fn every_target_keeps_its_promises_for_a_second() {
        for target in all() {
            let start = Instant::now();
            let done = run(&target, 1, u64::MAX, || start.elapsed() >= Duration::from_secs(1));
            let cases = done.unwrap_or_else(|seed| panic!("{}: replay: {}", target.name, replay_line(&target, seed)));
            println!("{:<12} {cases} cases", target.name);
        }
    }
}
