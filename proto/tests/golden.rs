//! Pins the bytes of everything that has a byte table in docs/formats.md: the same bytes field by
//! field, as they were worked out from the tables, apart from the code under test. A test that
//! fails here says that a stored or sent format has changed.

use proto::checkpoint::{Checkpoint, ShardEntry, SlotEntry};
use proto::chunk::ShardName;
use proto::frame::{FrameHeader, FrameKind, payload_checksum};
use proto::identity::Identity;
use proto::keys::{self, Counter};
use proto::log_record::{LogKind, LogRecord};
use proto::record::{BLOCK, RecordHeader, RecordKind};
use types::ids::{
    BlobId, ChunkId, ClusterId, DiskId, Epoch, Partition, PlacementId, RequestId, SessionId, ShardIndex, StoreId,
};

const STORE: StoreId = StoreId(0x0a0b_0c0d_0e0f_1011);
const REQUEST: RequestId = RequestId(0x1122_3344_5566_7788);

/// Field by field, so that a difference names its field.
#[track_caller]
fn assert_fields(bytes: &[u8], fields: &[(&str, &str)]) {
    let mut at = 0;
    for (hex, field) in fields {
        let end = at + hex.len() / 2;
        let found: String = bytes[at..end.min(bytes.len())].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, *hex, "{field}, bytes {at}..{end}");
        at = end;
    }
    assert!(bytes[at..].iter().all(|byte| *byte == 0), "more than zeros behind byte {at}");
}

fn record(kind: RecordKind, offset: u64, payload: &[u8], cut: bool) -> Vec<u8> {
    let header = RecordHeader {
        kind,
        shard: ShardIndex(2),
        chunk: ChunkId(0x0003_0000_0000_0102),
        placement: PlacementId(7),
        epoch: Epoch(3),
        offset,
        payload_len: payload.len() as u32,
        cut,
        durable_len: 4096,
        slot_sequence: 99,
        slot_index: 1,
        request: REQUEST,
    };
    let mut block = vec![0; BLOCK];
    header.encode(STORE, payload, &mut block);
    assert_eq!(RecordHeader::decode(&block, STORE), Ok(header));
    block
}

#[test]
fn golden_bytes_of_an_inline_record() {
    assert_fields(
        &record(RecordKind::Data, 8192, b"abc", false),
        &[
            ("42585231", "magic"),
            ("0100", "version"),
            ("01", "kind"),
            ("02", "shard"),
            ("0201000000000300", "chunk"),
            ("0700000000000000", "placement"),
            ("0300000000000000", "epoch"),
            ("0020000000000000", "offset"),
            ("03000000", "payload_len"),
            ("01000000", "flags"),
            ("0010000000000000", "durable_len"),
            ("6300000000000000", "slot_sequence"),
            ("01000000", "slot_index"),
            ("00000000", "reserved"),
            ("8877665544332211", "request"),
            ("eb31b4131c54ccb0", "table_crc"),
            ("f576839a09b258b9", "header_crc"),
            ("0000000000000000000000000000000000000000000000000000000000000000", "reserved"),
            ("ebfac13fbbcae505", "table"),
            ("616263", "payload"),
        ],
    );
}

#[test]
fn golden_bytes_of_a_record_with_its_payload_behind_it() {
    assert_fields(
        &record(RecordKind::Data, 8192, &[0x5a; 5000], false),
        &[
            ("42585231", "magic"),
            ("0100", "version"),
            ("01", "kind"),
            ("02", "shard"),
            ("0201000000000300", "chunk"),
            ("0700000000000000", "placement"),
            ("0300000000000000", "epoch"),
            ("0020000000000000", "offset"),
            ("88130000", "payload_len"),
            ("00000000", "flags"),
            ("0010000000000000", "durable_len"),
            ("6300000000000000", "slot_sequence"),
            ("01000000", "slot_index"),
            ("00000000", "reserved"),
            ("8877665544332211", "request"),
            ("71449bdb992e4f78", "table_crc"),
            ("b210e80fdb463106", "header_crc"),
            ("0000000000000000000000000000000000000000000000000000000000000000", "reserved"),
            ("66c10395bacb56d7e1827bbf16ab2636", "table"),
        ],
    );
}

#[test]
fn golden_bytes_of_a_tombstone() {
    assert_fields(
        &record(RecordKind::Tombstone, 0, b"", true),
        &[
            ("42585231", "magic"),
            ("0100", "version"),
            ("04", "kind"),
            ("02", "shard"),
            ("0201000000000300", "chunk"),
            ("0700000000000000", "placement"),
            ("0300000000000000", "epoch"),
            ("0000000000000000", "offset"),
            ("00000000", "payload_len"),
            ("03000000", "flags"),
            ("0010000000000000", "durable_len"),
            ("6300000000000000", "slot_sequence"),
            ("01000000", "slot_index"),
            ("00000000", "reserved"),
            ("8877665544332211", "request"),
            ("0000000000000000", "table_crc"),
            ("352a6bfac1cc24de", "header_crc"),
            ("0000000000000000000000000000000000000000000000000000000000000000", "reserved"),
        ],
    );
}

#[test]
fn golden_kinds_of_records() {
    let kinds = [RecordKind::Data, RecordKind::Fence, RecordKind::Seal, RecordKind::Tombstone];
    assert_eq!(kinds.map(|kind| record(kind, 0, b"", false)[6]), [1, 2, 3, 4]);
}

fn log_record(kind: LogKind, index: u64, extra: u64, data: &[u8]) -> Vec<u8> {
    let record = LogRecord {
        kind,
        store: STORE,
        segment: 2,
        index,
        term: 4,
        extra,
        durable_sequence: 6,
        sequence: 7,
        data: data.to_vec(),
    };
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    assert_eq!(LogRecord::decode(&bytes), Ok((record, bytes.len())));
    bytes
}

#[test]
fn golden_bytes_of_a_log_entry() {
    let bytes = log_record(LogKind::Entry, 3, 0, b"hello");
    assert_eq!(bytes.len(), 88);
    assert_fields(
        &bytes,
        &[
            ("42584c31", "magic"),
            ("01", "version"),
            ("01", "kind"),
            ("0000", "reserved"),
            ("11100f0e0d0c0b0a", "store"),
            ("0200000000000000", "segment"),
            ("0300000000000000", "index"),
            ("0400000000000000", "term"),
            ("0000000000000000", "extra"),
            ("0600000000000000", "durable_sequence"),
            ("0700000000000000", "sequence"),
            ("05000000", "len"),
            ("2d9d8fc5", "check"),
            ("875a8c9b1387c618", "crc"),
            ("68656c6c6f", "data"),
            ("000000", "padding"),
        ],
    );
}

#[test]
fn golden_bytes_of_a_hard_state() {
    assert_fields(
        &log_record(LogKind::HardState, 9, 0x21, b""),
        &[
            ("42584c31", "magic"),
            ("01", "version"),
            ("02", "kind"),
            ("0000", "reserved"),
            ("11100f0e0d0c0b0a", "store"),
            ("0200000000000000", "segment"),
            ("0900000000000000", "index"),
            ("0400000000000000", "term"),
            ("2100000000000000", "extra"),
            ("0600000000000000", "durable_sequence"),
            ("0700000000000000", "sequence"),
            ("00000000", "len"),
            ("5339eeea", "check"),
            ("c7883bff6428423e", "crc"),
        ],
    );
}

#[test]
fn golden_bytes_of_a_cut_of_the_log() {
    assert_fields(
        &log_record(LogKind::Cut, 3, 0, b""),
        &[
            ("42584c31", "magic"),
            ("01", "version"),
            ("03", "kind"),
            ("0000", "reserved"),
            ("11100f0e0d0c0b0a", "store"),
            ("0200000000000000", "segment"),
            ("0300000000000000", "index"),
            ("0400000000000000", "term"),
            ("0000000000000000", "extra"),
            ("0600000000000000", "durable_sequence"),
            ("0700000000000000", "sequence"),
            ("00000000", "len"),
            ("a7b83753", "check"),
            ("042edabae6b487f5", "crc"),
        ],
    );
}

fn frame(kind: FrameKind, message: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut mac = [0; 16];
    for (byte, value) in mac.iter_mut().zip(0xa0..) {
        *byte = value;
    }
    let header = FrameHeader {
        versions: (1, 1),
        kind,
        cluster: ClusterId(0xc1),
        store: STORE,
        call: 3,
        request: REQUEST,
        deadline_ms: 2500,
        message_len: message.len() as u32,
        payload_len: payload.len() as u32,
        payload_crc: payload_checksum(payload),
        mac,
    };
    let bytes = header.encode(message);
    assert_eq!(FrameHeader::decode(&bytes), Ok(header));
    assert_eq!(FrameHeader::verify(&bytes, message, payload), Ok(()));
    bytes.to_vec()
}

#[test]
fn golden_bytes_of_a_request_frame() {
    assert_fields(
        &frame(FrameKind::Request, b"hello", b"abc"),
        &[
            ("42584631", "magic"),
            ("01", "version_min"),
            ("01", "version_max"),
            ("01", "kind"),
            ("00", "reserved"),
            ("c100000000000000", "cluster"),
            ("11100f0e0d0c0b0a", "store"),
            ("0300000000000000", "call"),
            ("8877665544332211", "request"),
            ("c4090000", "deadline_ms"),
            ("05000000", "message_len"),
            ("03000000", "payload_len"),
            ("9a1a2976", "crc"),
            ("ebfac13fbbcae505", "payload_crc"),
            ("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", "mac"),
        ],
    );
}

#[test]
fn golden_bytes_of_an_answer_frame() {
    assert_fields(
        &frame(FrameKind::Answer, b"", b""),
        &[
            ("42584631", "magic"),
            ("01", "version_min"),
            ("01", "version_max"),
            ("02", "kind"),
            ("00", "reserved"),
            ("c100000000000000", "cluster"),
            ("11100f0e0d0c0b0a", "store"),
            ("0300000000000000", "call"),
            ("8877665544332211", "request"),
            ("c4090000", "deadline_ms"),
            ("00000000", "message_len"),
            ("00000000", "payload_len"),
            ("e1b12321", "crc"),
            ("0000000000000000", "payload_crc"),
            ("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", "mac"),
        ],
    );
}

#[test]
fn golden_bytes_of_a_hello_frame() {
    assert_fields(
        &frame(FrameKind::Hello, b"x", b""),
        &[
            ("42584631", "magic"),
            ("01", "version_min"),
            ("01", "version_max"),
            ("03", "kind"),
            ("00", "reserved"),
            ("c100000000000000", "cluster"),
            ("11100f0e0d0c0b0a", "store"),
            ("0300000000000000", "call"),
            ("8877665544332211", "request"),
            ("c4090000", "deadline_ms"),
            ("01000000", "message_len"),
            ("00000000", "payload_len"),
            ("28a9a44a", "crc"),
            ("0000000000000000", "payload_crc"),
            ("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", "mac"),
        ],
    );
}

#[test]
fn golden_bytes_of_an_identity() {
    let mut cluster_secret = [0; 32];
    for (byte, value) in cluster_secret.iter_mut().zip(0..) {
        *byte = value;
    }
    let identity = Identity {
        cluster: ClusterId(0xc1),
        store: STORE,
        generation: 3,
        feature_level: 1,
        slot_size: 4 << 20,
        raft_id: 0x21,
        cluster_secret,
    };
    let bytes = identity.encode();
    assert_eq!(bytes.len(), 104);
    assert!(Identity::decode(&bytes).is_ok_and(|read| read == identity));
    assert_fields(
        &bytes,
        &[
            ("42584931", "magic"),
            ("01000000", "version"),
            ("c100000000000000", "cluster"),
            ("11100f0e0d0c0b0a", "store"),
            ("0300000000000000", "generation"),
            ("0100000000000000", "feature_level"),
            ("0000400000000000", "slot_size"),
            ("2100000000000000", "raft_id"),
            ("cc096ad393b352cb", "crc"),
            ("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "cluster_secret"),
            ("7fbd2c49a8d4d9b9", "crc"),
        ],
    );
}

#[test]
fn golden_bytes_of_a_checkpoint() {
    let shard = ShardEntry {
        name: ShardName { placement: 7, chunk: 0x102, index: 2 },
        epoch: 3,
        len: 5000,
        sealed: true,
        cut: true,
        slots: vec![SlotEntry { slot: 9, sequence: 99 }],
        records: vec![0, 4096, 5000],
        tail: 16_384,
        tail_slot: 1,
        broken: false,
    };
    let checkpoint = Checkpoint { next_slot_sequence: 100, shards: vec![shard], scrubbed: 0, scrub_began_ms: 0 };
    let bytes = checkpoint.encode_file();
    assert_eq!(Checkpoint::decode_file(&bytes), Ok(checkpoint));
    assert_fields(
        &bytes,
        &[
            ("42584331", "magic"),
            ("01000000", "version"),
            ("2bab161f75eb7503", "crc"),
            ("086412250a07080710820218021003188827200128013204080910633a050080208827408080014801", "body"),
        ],
    );
}

#[test]
fn golden_bytes_of_keys() {
    let (p, chunk, disk) = (Partition(0x0102), ChunkId(0x0003_0000_0000_0009), DiskId(4));
    for (key, hex) in [
        (keys::cluster(), "00"),
        (keys::counter(p, Counter::Session), "01 0102 01"),
        (keys::counter(p, Counter::Chunk), "01 0102 02"),
        (keys::counter(p, Counter::Placement), "01 0102 03"),
        (keys::counter(p, Counter::Disk), "01 0102 04"),
        (keys::counter(p, Counter::Blob), "01 0102 05"),
        (keys::counter(p, Counter::Bucket), "01 0102 06"),
        (keys::counter(p, Counter::Upload), "01 0102 07"),
        (keys::counter(p, Counter::Move), "01 0102 08"),
        (keys::session(p, SessionId(5)), "02 0102 0000000000000005"),
        (keys::outcome(p, SessionId(5), 6), "03 0102 0000000000000005 0000000000000006"),
        (keys::disk(disk), "04 0000000000000004"),
        (keys::chunk(chunk), "05 0003000000000009"),
        (keys::open_chunk(SessionId(5), chunk), "06 0000000000000005 0003000000000009"),
        (keys::missing(chunk), "07 0003000000000009"),
        (keys::disk_chunk(disk, chunk), "08 0000000000000004 0003000000000009"),
        (keys::delete(disk, PlacementId(7)), "09 0000000000000004 0000000000000007"),
        (keys::bucket("b-1"), "10 622d31"),
        (keys::bucket_number(p, 8), "11 0102 0000000000000008"),
        (keys::trash(p, 8), "12 0102 0000000000000008"),
        (keys::object(p, 8, "a/\u{0}z"), "20 0102 0000000000000008 612f007a"),
        (keys::upload(p, 8, "a\u{0}z", 9), "22 0102 0000000000000008 6100ff7a 0001 0000000000000009"),
        (keys::part(p, 9, 77), "23 0102 0000000000000009 0000004d"),
        (keys::blob(p, BlobId(10)), "30 0102 000000000000000a"),
        (keys::reference(chunk, 4096, BlobId(10)), "31 0003000000000009 0000000000001000 000000000000000a"),
        (keys::access_key("BXA"), "40 425841"),
    ] {
        let found: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, hex.replace(' ', ""), "key {hex}");
    }
    assert_eq!(keys::table::OLD_VERSION, 0x21);
    assert_eq!(keys::table::APPLIED, 0xf0);
}
