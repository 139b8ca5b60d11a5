//! The journal of a volume: records, appended to chunks that are noted in the volume's row first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use crypto::suite::BLOCK;
use platform::buffer::Buffer;
use proto::journal::{Entry, Head, encode_head};
use proto::meta::Body;
use proto::volume::{TakeChunks, VolumeRow};
use types::extent::Extent;
use types::ids::Partition;
use types::redundancy::{Filling, Redundancy};

use super::counts::Counts;
use super::device::VolumeError;
use crate::chunk::reader::ChunkReader;
use crate::chunk::shards::Shards;
use crate::chunk::writer::{ChunkWriter, Claim, WriteError};
use crate::meta::{MetaClient, MetaError};

/// Bytes of data of one record at most.
const RECORD_MAX: usize = 512 << 10;

/// Which chunk is where in the journal.
pub(super) type Orders = Rc<RefCell<BTreeMap<u64, u64>>>;

/// Why the owner is none any more.
pub(super) type Ended = Rc<RefCell<Option<VolumeError>>>;

pub(super) struct Journal {
    writer: ChunkWriter,
    partition: Partition,
    filling: Filling,
    volume: u64,
    epoch: u64,
    record_max: usize,
    /// Bytes appended since it was asked last.
    appended: Cell<u64>,
    pub counts: Cell<Counts>,
}

/// The partition of a volume's chunks and commands.
pub(super) fn partition_of(volume: u64) -> Partition {
    Partition((volume >> 48) as u16)
}

impl Journal {
    pub(super) fn new(
        meta: &MetaClient,
        shards: &Shards,
        reader: &ChunkReader,
        row: &VolumeRow,
        orders: Orders,
        ended: Ended,
        chunk_len: u64,
    ) -> Journal {
        let (volume, epoch, partition) = (row.id, row.epoch, partition_of(row.id));
        let (taker, learner) = (meta.clone(), reader.clone());
        let claim: Claim = Box::new(move |granted| {
            let (meta, reader) = (taker.clone(), learner.clone());
            let (orders, ended) = (Rc::clone(&orders), Rc::clone(&ended));
            Box::pin(async move {
                let chunks: Vec<u64> = granted.iter().map(|entry| entry.chunk).collect();
                let count = chunks.len() as u64;
                let body = Body::TakeChunks(TakeChunks { volume, epoch, chunks: chunks.clone() });
                match meta.command(partition, body).await {
                    Ok(outcome) => {
                        let next = outcome.volume.map_or(count, |row| row.next_order);
                        let first = next.saturating_sub(count);
                        orders.borrow_mut().extend(chunks.into_iter().zip(first..));
                        // What is written there is read without asking where it lies.
                        reader.learn(granted);
                        Ok(())
                    }
                    Err(error) => {
                        note_end(&ended, &error);
                        Err(error)
                    }
                }
            })
        });
        let policy = row.redundancy.policy().unwrap_or(Redundancy::Copies(1));
        // Records of encrypted volumes hold whole blocks.
        let record_max = RECORD_MAX.min((chunk_len / 2) as usize) / BLOCK as usize * BLOCK as usize;
        let writer = ChunkWriter::claiming(meta.clone(), shards.clone(), claim, chunk_len);
        Journal {
            writer,
            partition,
            filling: policy.small(),
            volume,
            epoch,
            record_max,
            appended: Cell::new(0),
            counts: Cell::default(),
        }
    }

    /// Whether full chunks become stripes.
    pub(super) fn is_striped(&self) -> bool {
        self.filling.becomes.is_some()
    }

    /// Bytes of data of one record at most.
    pub(super) fn record_max(&self) -> usize {
        self.record_max
    }

    /// Appends a record; durable when this returns. Answers where its data begins: chunk and offset.
    pub(super) async fn append(&self, record: Record) -> Result<(u64, u64), WriteError> {
        let data_len: usize = record.data.iter().map(Bytes::len).sum();
        let head = Head {
            kind: record.kind,
            volume: self.volume,
            epoch: self.epoch,
            sequence: record.sequence,
            entries: record.entries.len() as u16,
            data_len: data_len as u32,
            moved_from: record.moved_from,
        };
        let head = encode_head(&head, &record.entries);
        let mut bytes = Buffer::with_capacity(head.len() + data_len);
        bytes.extend_from_slice(&head);
        for piece in &record.data {
            bytes.extend_from_slice(piece);
        }
        let len = bytes.len() as u64;
        let (Extent { chunk, offset, .. }, _pin) =
            self.writer.append(self.partition, self.filling, bytes.freeze()).await?;
        self.appended.set(self.appended.get() + len);
        self.count(|counts| counts.append(record.kind, len));
        Ok((chunk.0, offset + head.len() as u64))
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        add(&mut counts);
        self.counts.set(counts);
    }

    /// Bytes appended since this was asked last.
    pub(super) fn take_appended(&self) -> u64 {
        self.appended.take()
    }
}

/// What is appended.
pub(super) struct Record {
    pub kind: u8,
    /// 0 for index records.
    pub sequence: u64,
    pub moved_from: u64,
    pub entries: Vec<Entry>,
    pub data: Vec<Bytes>,
}

/// Remembers an error that says that this process is the owner no more.
pub(super) fn note_end(ended: &Ended, error: &MetaError) {
    use proto::meta::refusal;
    let why = match error {
        MetaError::SessionEnded => VolumeError::Fenced("the session has ended".into()),
        MetaError::Refused { code: refusal::VOLUME_FENCED | refusal::NO_VOLUME, text, .. } => {
            VolumeError::Fenced(text.clone())
        }
        _ => return,
    };
    ended.borrow_mut().get_or_insert(why);
}
