//! Formats of fixed layout: foreign bytes are refused or read, never a panic; what is read is
//! written back the same.
//!
//! Checksums refuse nearly all damage, so each target also forges: it damages fields and then puts
//! right checksums on, to reach the checks behind them.

use proto::checkpoint::Checkpoint;
use proto::frame::{self, FrameHeader, FrameKind};
use proto::identity::Identity;
use proto::keys;
use proto::log_record::{self, LogKind, LogRecord};
use proto::record::{self, BLOCK, HEADER_LEN, RecordHeader, RecordKind, blocks, payload_start, record_len};
use types::checksum::crc64;
use types::ids::{BlobId, ChunkId, ClusterId, Epoch, Partition, PlacementId, RequestId, ShardIndex, StoreId};

use crate::input::Input;

/// Shard records.
pub fn record(input: &mut Input) {
    let store = StoreId(input.any());
    let payload_max = if input.once_in(8) { 40 * BLOCK } else { 2 * BLOCK };
    let payload = input.bytes(payload_max);
    let header = record_header(input, payload.len());
    let mut block = vec![0; BLOCK];
    header.encode(store, &payload, &mut block);
    assert_eq!(RecordHeader::decode(&block, store), Ok(header), "a record reads back");
    if !record::is_inline(payload.len()) {
        assert_eq!(record_len(payload.len()), BLOCK + blocks(payload.len()) * BLOCK);
    } else {
        let start = payload_start(payload.len());
        assert_eq!(&block[start..start + payload.len()], payload, "an inline payload reads back");
    }
    assert_eq!(record::verify_blocks(&block, payload.len(), 0, &payload), Ok(()), "its blocks fit");
    damaged_payload(input, &block, &payload);
    assert!(RecordHeader::decode(&block, StoreId(store.0 ^ 1)).is_err(), "a record of another store is none");

    let mut bad = block.clone();
    input.damage(&mut bad);
    bad.truncate(BLOCK);
    if input.once_in(2) && bad.len() == BLOCK {
        forge_record(input, &mut bad, store);
    }
    if let Ok(read) = RecordHeader::decode(&bad, store) {
        let len = read.payload_len as usize;
        let mut again = vec![0; BLOCK];
        let payload = vec![0x5a; len];
        read.encode(store, &payload, &mut again);
        assert_eq!(RecordHeader::decode(&again, store), Ok(read), "what was read is written back");
        let first = input.below(300);
        let _ = record::verify_blocks(&bad, len, first, &payload);
    }
    let _ = RecordHeader::resembles(&bad, PlacementId(input.number()), input.number());
}

fn record_header(input: &mut Input, len: usize) -> RecordHeader {
    let kinds = [RecordKind::Data, RecordKind::Fence, RecordKind::Seal, RecordKind::Tombstone];
    RecordHeader {
        kind: kinds[input.below(4)],
        shard: ShardIndex(input.any() as u8),
        chunk: ChunkId(input.number()),
        placement: PlacementId(input.number()),
        epoch: Epoch(input.number()),
        offset: input.number(),
        payload_len: len as u32,
        cut: input.once_in(2),
        durable_len: input.number(),
        slot_sequence: input.number(),
        slot_index: input.number() as u32,
        request: RequestId(input.number()),
    }
}

/// One flipped bit of a payload names the block it lies in.
fn damaged_payload(input: &mut Input, block: &[u8], payload: &[u8]) {
    if payload.is_empty() {
        return;
    }
    let at = input.below(payload.len());
    let mut bad = payload.to_vec();
    bad[at] ^= 1 << input.below(8);
    assert_eq!(record::verify_blocks(block, payload.len(), 0, &bad), Err(at / BLOCK), "rot is seen and named");
}

/// Random fields under right checksums.
fn forge_record(input: &mut Input, block: &mut [u8], store: StoreId) {
    block[0..4].copy_from_slice(b"BXR1");
    block[4..6].copy_from_slice(&1u16.to_le_bytes());
    if input.once_in(2) {
        block[6] = input.below(6) as u8;
        block[40..44].copy_from_slice(&(input.number() as u32).to_le_bytes());
        block[44..48].copy_from_slice(&(input.below(4) as u32).to_le_bytes());
    }
    let len = u32::from_le_bytes([block[40], block[41], block[42], block[43]]) as usize;
    let table_end = HEADER_LEN.saturating_add(8 * blocks(len)).min(BLOCK);
    let table_crc = crc64(&block[HEADER_LEN..table_end]);
    block[80..88].copy_from_slice(&table_crc.to_le_bytes());
    let mut bound = block[..88].to_vec();
    bound.extend_from_slice(&store.0.to_le_bytes());
    block[88..96].copy_from_slice(&crc64(&bound).to_le_bytes());
}

/// Records of the Raft log, several behind each other.
pub fn log_record(input: &mut Input) {
    let kinds = [LogKind::Entry, LogKind::HardState, LogKind::Cut];
    let count = 1 + input.below(4);
    let mut bytes = Vec::new();
    let mut written = Vec::new();
    for _ in 0..count {
        let record = LogRecord {
            kind: kinds[input.below(3)],
            store: StoreId(input.number()),
            segment: input.number(),
            index: input.number(),
            term: input.number(),
            extra: input.number(),
            durable_sequence: input.number(),
            sequence: input.number(),
            data: input.bytes(300),
        };
        record.encode(&mut bytes);
        written.push(record);
    }
    assert_eq!(read_log(&bytes), written, "log records read back");

    let at = input.below(bytes.len());
    input.damage(&mut bytes);
    if input.once_in(3) && bytes.len() >= log_record::HEADER_LEN {
        forge_log_record(input, &mut bytes);
    }
    for start in [0, at.min(bytes.len())] {
        for record in read_log(&bytes[start..]) {
            let mut again = Vec::new();
            record.encode(&mut again);
            assert_eq!(LogRecord::decode(&again), Ok((record, again.len())), "what was read is written back");
        }
    }
}

fn read_log(mut bytes: &[u8]) -> Vec<LogRecord> {
    let mut records = Vec::new();
    while let Ok((record, used)) = LogRecord::decode(bytes) {
        assert!(used > 0 && used <= bytes.len(), "a record takes room that is there");
        records.push(record);
        bytes = &bytes[used..];
    }
    records
}

fn forge_log_record(input: &mut Input, bytes: &mut [u8]) {
    bytes[0..4].copy_from_slice(b"BXL1");
    bytes[4] = input.below(3) as u8;
    bytes[5] = input.below(6) as u8;
    let room = bytes.len() - log_record::HEADER_LEN;
    let len = if input.once_in(4) { input.number() as u32 } else { input.below(room + 2) as u32 };
    bytes[64..68].copy_from_slice(&len.to_le_bytes());
    let end = log_record::HEADER_LEN.saturating_add(len as usize).min(bytes.len());
    let mut bound = bytes[..72].to_vec();
    bound.extend_from_slice(&crc64(&bytes[log_record::HEADER_LEN..end]).to_le_bytes());
    bytes[72..80].copy_from_slice(&crc64(&bound).to_le_bytes());
}

/// Frames.
pub fn frame(input: &mut Input) {
    let kinds = [FrameKind::Request, FrameKind::Answer, FrameKind::Hello];
    let (message, payload) = (input.bytes(200), input.bytes(200));
    let mut mac = [0; 16];
    mac.copy_from_slice(&input.exactly(16));
    let header = FrameHeader {
        versions: (input.below(2) as u8, 1 + input.below(255) as u8),
        kind: kinds[input.below(3)],
        cluster: ClusterId(input.number()),
        store: StoreId(input.number()),
        call: input.number(),
        request: RequestId(input.number()),
        deadline_ms: input.number() as u32,
        message_len: message.len() as u32,
        payload_len: payload.len() as u32,
        payload_crc: frame::payload_checksum(&payload),
        mac,
    };
    let bytes = header.encode(&message);
    assert_eq!(FrameHeader::decode(&bytes), Ok(header), "a header reads back");
    assert_eq!(FrameHeader::verify(&bytes, &message, &payload), Ok(()), "a frame is whole");

    // Any one flipped bit outside the mac is seen (the mac has its own check).
    let (mut bad, mut bad_message, mut bad_payload) = (bytes, message.clone(), payload.clone());
    let at = input.below(64 + message.len() + payload.len());
    let bit = 1 << input.below(8);
    match at.checked_sub(64) {
        None => bad[at] ^= bit,
        Some(at) if at < message.len() => bad_message[at] ^= bit,
        Some(at) => bad_payload[at - message.len()] ^= bit,
    }
    let is_seen = FrameHeader::decode(&bad).is_err() || FrameHeader::verify(&bad, &bad_message, &bad_payload).is_err();
    assert!(is_seen, "a flipped bit at {at} is seen");

    let mut wild = bytes.to_vec();
    input.damage(&mut wild);
    wild.resize(frame::HEADER_LEN, 0);
    if let Some(wild) = wild.first_chunk::<{ frame::HEADER_LEN }>() {
        let _ = FrameHeader::verify(wild, &input.bytes(50), &input.bytes(50));
        if let Ok(read) = FrameHeader::decode(wild) {
            let message = vec![1; read.message_len as usize % 4096];
            let short = FrameHeader { message_len: message.len() as u32, ..read };
            assert_eq!(FrameHeader::decode(&short.encode(&message)), Ok(short), "what was read is written back");
        }
    }
}

/// Identity files.
pub fn identity(input: &mut Input) {
    let mut cluster_secret = [0; 32];
    cluster_secret.copy_from_slice(&input.exactly(32));
    let identity = Identity {
        cluster: ClusterId(input.number()),
        store: StoreId(input.number()),
        generation: input.number(),
        feature_level: input.number(),
        slot_size: input.number(),
        raft_id: input.number(),
        cluster_secret,
    };
    let mut bytes = identity.encode();
    assert!(Identity::decode(&bytes).is_ok_and(|read| read == identity), "an identity reads back");
    input.damage(&mut bytes);
    if input.once_in(2) && bytes.len() >= 104 {
        for (start, end) in [(0, 56), (64, 96)] {
            let crc = crc64(&bytes[start..end]);
            bytes[end..end + 8].copy_from_slice(&crc.to_le_bytes());
        }
    }
    if let Ok(read) = Identity::decode(&bytes) {
        assert_eq!(read.encode(), bytes, "what was read is written back");
    }
}

/// Checkpoint files, protobuf behind a checksum.
pub fn checkpoint(input: &mut Input) {
    let body = input.protobuf(24, |bytes| proto::decode::<Checkpoint>(bytes).is_ok());
    let mut bytes = b"BXC1".to_vec();
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&crc64(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    let read = Checkpoint::decode_file(&bytes).expect("right checksum, right body");
    assert_eq!(Checkpoint::decode_file(&read.encode_file()), Ok(read), "a checkpoint reads back");
    input.damage(&mut bytes);
    if input.once_in(2) && bytes.len() >= 16 {
        let crc = crc64(&bytes[16..]);
        bytes[8..16].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok(read) = Checkpoint::decode_file(&bytes) {
        assert_eq!(Checkpoint::decode_file(&read.encode_file()), Ok(read), "what was read is written back");
    }
}

/// Keys: their order is the order of what they name; foreign keys never panic.
pub fn keys(input: &mut Input) {
    let partition = Partition(input.any() as u16);
    let bucket = input.number();
    let (one, two) = (input.text("ab/\0\u{1}\u{ff}", 6), input.text("ab/\0\u{1}\u{ff}", 6));
    let object = |key: &str| keys::object(partition, bucket, key);
    assert_eq!(object(&one).cmp(&object(&two)), one.as_bytes().cmp(two.as_bytes()), "objects sort by key");
    let (a, b) = (input.number(), input.number());
    let upload = |key: &str, number| keys::upload(partition, bucket, key, number);
    let expected = one.as_bytes().cmp(two.as_bytes()).then(a.cmp(&b));
    assert_eq!(upload(&one, a).cmp(&upload(&two, b)), expected, "uploads sort by key, then number");
    assert_eq!(keys::upload_of(&upload(&one, a)), Some(a));
    let number = input.number() as u32;
    assert_eq!(keys::part_of(&keys::part(partition, a, number)), Some(number));
    let reference = |chunk, offset| keys::reference(ChunkId(chunk), offset, BlobId(a));
    assert_eq!(reference(a, b).cmp(&reference(b, a)), (a, b).cmp(&(b, a)), "references sort by chunk and offset");

    let (prefix, key) = (input.bytes(5), input.bytes(7));
    let _ = (keys::last_u64(&key), keys::upload_of(&key), keys::part_of(&key));
    let end = keys::after_prefix(&prefix);
    let is_below_end = end.as_ref().is_none_or(|end| key < *end);
    assert_eq!(key >= prefix && is_below_end, key.starts_with(&prefix), "a prefix is a range");
}
