//! Pins the bytes of the rows of the metadata and of the envelopes of commands and calls. Which
//! number each field has is held by `messages_page.rs`; these show that the encoding is protobuf's.

use proto::chunk::{Append, ShardName};
use proto::members::{DrainDisks, RemoveDisk};
use proto::meta::{Body, Command, Conditions, NewBody, PutObject};
use proto::rows::{
    AccessKeyRow, BlobRef, BlobRow, BodyRow, BucketRow, ChunkRow, ClusterRow, CounterRow, DeleteRow, DiskRow,
    ExtentRow, MetaRow, MoveRow, ObjectRow, OutcomeRow, Pair, PartBound, PartRow, RedundancyRow, SessionRow, ShardRow,
    TrashRow, UploadRow,
};
use proto::service::{Answer, AnswerMessage, Failure, Request, RequestMessage, class, code};
use proto::trash::{PurgePage, RestoreBucket, TrashBucket};
use proto::volume::{Base, Encryption, Qos, SnapshotRow, SweepRow, VolumeChunkRow, VolumeRow};

#[track_caller]
fn assert_golden<M: prost::Message + Default + PartialEq + std::fmt::Debug>(message: M, hex: &str) {
    let bytes = proto::encode(&message);
    let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, hex);
    assert_eq!(proto::decode::<M>(&bytes), Ok(message));
}

const EXTENT: ExtentRow = ExtentRow { logical: 10, chunk: 0x102, offset: 4096, len: 5000 };
const SHARD: ShardRow = ShardRow { index: 1, placement: 7, disk: 4, bad: false };
const EC: RedundancyRow = RedundancyRow { copies: 0, data: 4, parity: 2 };
const NOON_MS: u64 = 1_700_000_000_000;

fn pair(name: &str, value: &str) -> Pair {
    Pair { name: name.into(), value: value.into() }
}

fn body() -> BodyRow {
    BodyRow { blobs: vec![BlobRef { blob: 5, len: 5000 }] }
}

fn meta() -> MetaRow {
    MetaRow {
        etag: "e1".into(),
        content: vec![pair("content-type", "text/plain")],
        user: vec![pair("a", "b")],
        checksums: vec![pair("CRC32", "AAAAAA==")],
        checksum_type: "FULL_OBJECT".into(),
        storage_class: "STANDARD_IA".into(),
        owner: "anna".into(),
        encryption: vec![1, 2].into(),
        compression: 1,
    }
}

#[test]
fn golden_bytes_of_chunk_rows() {
    assert_golden(EC, "10041802");
    assert_golden(RedundancyRow { copies: 3, data: 0, parity: 0 }, "0803");
    assert_golden(SHARD, "080110071804");
    assert_golden(ShardRow { bad: true, ..SHARD }, "0801100718042001");
    let chunk = ChunkRow {
        redundancy: EC,
        cell_size: 65_536,
        capacity: 128 << 20,
        epoch: 3,
        state: 1,
        sealed_len: 4096,
        session: 11,
        released: true,
        shards: vec![SHARD],
        committed_len: 9000,
        live_bytes: 8000,
        pending_move: Some(MoveRow { id: 6, shards: vec![SHARD], becomes: None, sealed_len: 0 }),
        becomes: None,
        of_volume: false,
    };
    let move_row = MoveRow { id: 6, shards: vec![SHARD], becomes: Some(EC), sealed_len: 8192 };
    assert_golden(move_row, "080612060801100718041a0410041802208040");
    assert_golden(
        ChunkRow { becomes: Some(EC), ..chunk.clone() },
        "0a041004180210808004188080804020032801308020380b40014a0608011007180450a84658c03e620a080612060801100718046a0410041802",
    );
    assert_golden(
        ChunkRow { of_volume: true, ..chunk.clone() },
        "0a041004180210808004188080804020032801308020380b40014a0608011007180450a84658c03e620a080612060801100718047001",
    );
    assert_golden(
        chunk,
        "0a041004180210808004188080804020032801308020380b40014a0608011007180450a84658c03e620a08061206080110071804",
    );
    assert_golden(DeleteRow { disk: 4, chunk: 0x102 }, "0804108202");
}

#[test]
fn golden_bytes_of_blob_rows() {
    assert_golden(EXTENT, "080a108202188020208827");
    assert_golden(BlobRow { extents: vec![EXTENT], inline: Vec::new().into() }, "0a0b080a108202188020208827");
    assert_golden(BlobRow { extents: Vec::new(), inline: b"abc".to_vec().into() }, "1203616263");
}

#[test]
fn golden_bytes_of_object_rows() {
    let object = ObjectRow {
        size: 5000,
        modified_ms: NOON_MS,
        version: 8,
        meta: meta(),
        body: body(),
        parts: vec![PartBound { number: 1, size: 5000 }],
        delete_marker: true,
    };
    assert_golden(
        object,
        "0888271080d095ffbc31180822610a026531121a0a0c636f6e74656e742d74797065120a746578742f706c61696e1a060a016112016222110a05435243333212084141414141413d3d2a0b46554c4c5f4f424a454354320b5354414e444152445f49413a04616e6e614202010248012a0712050805108827320508011088273801",
    );
    let upload = UploadRow {
        key: "k".into(),
        created_ms: NOON_MS,
        meta: MetaRow { owner: "anna".into(), ..MetaRow::default() },
        checksum_kind: "CRC32".into(),
    };
    assert_golden(upload, "0a016b1080d095ffbc311a063a04616e6e6122054352433332");
    let part = PartRow {
        size: 5000,
        etag: "e2".into(),
        modified_ms: NOON_MS,
        checksums: vec![pair("CRC32", "AAAAAA==")],
        body: body(),
    };
    assert_golden(part, "088827120265321880d095ffbc3122110a05435243333212084141414141413d3d2a0712050805108827");
}

#[test]
fn golden_bytes_of_the_other_rows() {
    let cluster = ClusterRow {
        cluster: 0xc1,
        feature_level: 1,
        partitions: 16,
        redundancy: EC,
        chunk_capacity: 128 << 20,
        cell_size: 65_536,
    };
    assert_golden(cluster, "08c10110011810220410041802288080804030808004");
    assert_golden(CounterRow { last: 300 }, "08ac02");
    assert_golden(SessionRow { name: "s3".into(), floor: 9, ended: true }, "0a02733310091801");
    let outcome = OutcomeRow { body_hash: 0xfedc_ba98_7654_3210, outcome: vec![0x18, 5].into() };
    assert_golden(outcome, "0890e4d0b287d3aeeefe0112021805");
    let disk = DiskRow {
        store: 0x0a0b_0c0d_0e0f_1011,
        node: "n1".into(),
        domain: "z/r/h".into(),
        address: "h:1".into(),
        path: "/d".into(),
        state: 1,
        ..DiskRow::default()
    };
    let hex = "0891a0bcf0d081c3850a12026e311a057a2f722f682203683a312a022f643001";
    assert_golden(disk.clone(), hex);
    let removed = DiskRow { draining: true, removed: true, replica: "m:1".into(), ..disk };
    assert_golden(removed, &format!("{hex}380140014a036d3a31"));
    assert_golden(DrainDisks { disks: vec![3, 300], draining: true }, "0a0303ac021001");
    assert_golden(RemoveDisk { disk: 4, lost: true }, "08041001");
    let bucket =
        BucketRow { id: 4, name: "b".into(), owner: "anna".into(), created_ms: NOON_MS, kind: 1, versioning: 2 };
    let hex = "08041201621a04616e6e612080d095ffbc3128013002";
    assert_golden(bucket.clone(), hex);
    let trashed = TrashRow {
        bucket,
        trashed_ms: NOON_MS,
        keep_until_ms: NOON_MS,
        purging: true,
        purged_upto: vec![0x20, 0].into(),
    };
    assert_golden(trashed, &format!("0a16{hex}1080d095ffbc311880d095ffbc3120012a022000"));
    assert_golden(TrashBucket { name: "b".into(), keep_ms: 300 }, "0a016210ac02");
    assert_golden(RestoreBucket { bucket: 4, name: "c".into() }, "0804120163");
    assert_golden(PurgePage { bucket: 4 }, "0804");
    let key = AccessKeyRow {
        user: "anna".into(),
        sealed_secret: (0..12).collect::<Vec<u8>>().into(),
        is_root: true,
        created_ms: NOON_MS,
    };
    assert_golden(key, "0a04616e6e61120c000102030405060708090a0b18012080d095ffbc31");
}

#[test]
fn golden_bytes_of_a_command() {
    let put = PutObject {
        bucket: 4,
        key: "k".into(),
        meta: MetaRow { etag: "e1".into(), ..MetaRow::default() },
        body: NewBody { inline: b"abc".to_vec().into(), extents: vec![EXTENT], size: 3 },
        conditions: Conditions { absent: true, etag: "*".into() },
    };
    let command =
        Command { session: 11, sequence: 2, floor: 1, partition: 3, now_ms: NOON_MS, body: Some(Body::PutObject(put)) };
    assert_golden(
        command,
        "080b1002180120032880d095ffbc31820228080412016b1a040a02653122140a03616263120b080a10820218802020882718032a05080112012a",
    );
}

#[test]
fn golden_bytes_of_a_request_and_a_refusal() {
    let append =
        Append { shard: ShardName { placement: 7, chunk: 0x102, index: 2 }, epoch: 3, offset: 4096, reserve: false };
    assert_golden(RequestMessage { body: Some(Request::Append(append)) }, "0a0e0a07080710820218021003188020");
    let reserve = RequestMessage { body: Some(Request::Append(Append { reserve: true, ..append })) };
    assert_golden(reserve, "0a100a070807108202180210031880202001");
    let failure = Failure { hint: 5, ..Failure::new(class::REFETCH, code::FENCED, "old") };
    assert_golden(AnswerMessage { body: Some(Answer::Failed(failure)) }, "0a0b080310021a036f6c642005");
}

#[test]
fn golden_bytes_of_volume_rows() {
    assert_golden(VolumeChunkRow { order: 3, bytes: 128 << 20, born: 0, dropped: 0 }, "08031080808040");
    let dropped = VolumeChunkRow { order: 3, bytes: 1, born: 4, dropped: 5 };
    assert_golden(dropped, "0803100118042005");
    let volume = VolumeRow {
        id: (1 << 48) | 2,
        name: "v".into(),
        size: 1 << 30,
        redundancy: EC,
        created_ms: 99,
        epoch: 7,
        session: 11,
        owner: "n".into(),
        root: vec![EXTENT],
        sequence: 500,
        next_order: 4,
        deleting: true,
        used: 4096,
        from_order: 3,
        ..VolumeRow::default()
    };
    assert_golden(
        volume,
        "088280808080804012017618808080800422041004180228633007380b42016e4a0b080a10820218802020882750f403580460016880207003",
    );
}

#[test]
fn golden_bytes_of_snapshot_rows() {
    let snapshot = SnapshotRow {
        number: 1,
        name: "s".into(),
        sequence: 500,
        size: 1 << 30,
        created_ms: 99,
        ready: true,
        root: vec![EXTENT],
        used: 4096,
        frozen_tick: 6,
        ready_tick: 7,
        hidden: true,
        clones: 2,
        upto_order: 4,
    };
    assert_golden(snapshot, "080112017318f403208080808004286330013a0b080a10820218802020882740802048065007580160026804");
    assert_golden(SweepRow { after: 9 }, "0809");
    let volume = VolumeRow {
        ticks: 5,
        revision: 6,
        clean: true,
        wanted: vec!["w".into()],
        base: Some(Base { volume: 1, snapshot: 2, name: "p@s".into() }),
        qos: Some(Qos { iops: 1, bytes: 2, burst_s: 3 }),
        snapshots_made: 8,
        parked: true,
        ..VolumeRow::default()
    };
    assert_golden(volume, "22007805800106880101920101779a0109080110021a03704073a20106080110021803a80108b00101");
}

#[test]
fn golden_bytes_of_an_encrypted_volume() {
    let encryption = Encryption { suite: 2, number: vec![1, 2], root: vec![3], wrapped: vec![4, 5, 6] };
    let volume = VolumeRow { encryption: Some(encryption), ..VolumeRow::default() };
    assert_golden(volume, "2200ba010e0802120201021a01032203040506");
}
