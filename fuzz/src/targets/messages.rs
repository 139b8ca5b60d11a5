//! Protobuf messages: any bytes are refused or read; what is read has one stable encoding.

use proto::checkpoint::{Checkpoint, ShardEntry, SlotEntry};
use proto::meta::{Command, Heartbeat, HeartbeatAck, Job, MetaState, Outcome};
use proto::query::{Query, View};
use proto::rows::{
    AccessKeyRow, BlobRow, BucketRow, ChunkRow, ClusterRow, CounterRow, DeleteRow, DiskRow, ObjectRow, OutcomeRow,
    PartRow, SessionRow, UploadRow,
};
use proto::service::{AnswerMessage, Failure, RequestMessage};

use crate::input::Input;

/// A message type: reads bytes and writes what it read.
struct Codec {
    name: &'static str,
    recode: fn(&[u8]) -> Option<Vec<u8>>,
}

/// `proto` alone names prost, so the type stands here instead of a bound.
macro_rules! codecs {
    ($($message:ident),* $(,)?) => {
        [$(Codec {
            name: stringify!($message),
            recode: |bytes| proto::decode::<$message>(bytes).ok().map(|message| proto::encode(&message)),
        }),*]
    };
}

const CODECS: [Codec; 27] = codecs![
    RequestMessage,
    AnswerMessage,
    Failure,
    Command,
    Outcome,
    Query,
    View,
    Heartbeat,
    HeartbeatAck,
    Job,
    MetaState,
    Checkpoint,
    ShardEntry,
    SlotEntry,
    AccessKeyRow,
    BlobRow,
    BucketRow,
    ChunkRow,
    ClusterRow,
    CounterRow,
    DeleteRow,
    DiskRow,
    ObjectRow,
    OutcomeRow,
    PartRow,
    SessionRow,
    UploadRow,
];

/// Every message stored or sent, and the rules read out of rows.
pub fn messages(input: &mut Input) {
    let codec = &CODECS[input.below(CODECS.len())];
    let mut bytes = input.protobuf(24, |bytes| (codec.recode)(bytes).is_some());
    stable(codec, &bytes);
    input.damage(&mut bytes);
    stable(codec, &bytes);
    stable(codec, &input.bytes(64));
    if let Ok(row) = proto::decode::<ChunkRow>(&bytes)
        && let Some(policy) = row.redundancy.policy()
    {
        assert!(policy.shards() <= 32 && policy.needed() >= 1, "a policy that is read can be");
    }
}

fn stable(codec: &Codec, bytes: &[u8]) {
    if let Some(once) = (codec.recode)(bytes) {
        let twice = (codec.recode)(&once);
        assert_eq!(twice.as_ref(), Some(&once), "{} has one encoding", codec.name);
    }
}
