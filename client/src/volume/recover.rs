//! Take-over: how a process becomes the owner of a volume.
//!
//! The epoch rises in Raft, so nothing that an older owner asks for is applied any more; then every chunk
//! of the journal that is open is sealed, so nothing that it appends is acknowledged any more; then the
//! index is read back and the records behind it are carried out in their order. A record that was
//! appended twice (its first chunk failed) has one sequence number and the same bytes in both places.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use platform::clock::Instant;
use platform::planted::PlantedBug;
use proto::journal::{ENTRY_LEN, Entry, HEAD_LEN, Head, decode_head, peek_head, record_kind};
use proto::meta::{Body, ChunkEntry, refusal};
use proto::query::{Ask, AskChunks};
use proto::rows::chunk_state;
use proto::volume::{AttachVolume, PageRow, SnapshotRow, VolumeRow};
use types::ids::ChunkId;

use super::admin::{chunks, named, snapshot_numbered, snapshots, told};
use super::device::{Found, LEASE_OVER, Volume, VolumeError, carry_out};
use super::encrypted::{Cipher, cipher_of};
use super::index::{Index, Moment};
use super::journal::{Ended, Journal, Orders, partition_of};
use super::pace::Pace;
use super::snapshots::{read_root, ready};
use crate::chunk::reader::{ChunkReader, READ_MAX};
use crate::chunk::shards::Shards;
use crate::meta::{MetaClient, MetaError};

/// How long the chunks of an older owner are tried to be sealed.
const SEAL_PATIENCE: Duration = Duration::from_secs(60);
/// How long a silent owner is waited for before the volume is busy.
const OWNER_PATIENCE: Duration = Duration::from_secs(4);
/// Pages read at once.
const PAGES_AT_ONCE: usize = 32;
/// Chunks sealed at once: a shard that does not answer costs the same time for all of them.
const SEALS_AT_ONCE: usize = 128;

/// How a volume is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Names this process: if it owned the volume before, that was before it was started anew.
    pub owner: &'a str,
    /// Also from an owner that lives.
    pub force: bool,
    /// Above 0: only if nobody has had it since the owner of that epoch.
    pub only_epoch: u64,
    /// How the volume is looked after.
    pub pace: Pace,
}

impl Volume {
    /// Takes a volume over. `owner` names this process: if it owned the volume before, that was before it
    /// was started anew. With `force` also from an owner that lives. With `only_epoch` above 0 only if nobody
    /// has had it since the owner of that epoch.
    ///
    /// # Errors
    /// There is none, its owner lives, its chunks cannot be sealed or read.
    pub async fn attach(
        meta: &MetaClient,
        shards: &Shards,
        reader: &ChunkReader,
        name: &str,
        owner: &str,
        force: bool,
        only_epoch: u64,
    ) -> Result<Volume, VolumeError> {
        let claim = Claim { owner, force, only_epoch, pace: Pace::default() };
        Volume::attach_as(meta, shards, reader, name, claim).await
    }

    /// Takes a volume over, see [`Volume::attach`].
    ///
    /// # Errors
    /// There is none, its owner lives, its chunks cannot be sealed or read.
    pub async fn attach_as(
        meta: &MetaClient,
        shards: &Shards,
        reader: &ChunkReader,
        name: &str,
        claim: Claim<'_>,
    ) -> Result<Volume, VolumeError> {
        let Claim { owner, force, only_epoch, pace } = claim;
        let clock = meta.platform().clock().clone();
        let (row, before, since, cipher) = become_owner(meta, name, owner, force, only_epoch).await?;
        let orders: Orders = Rc::default();
        let ended: Ended = Rc::default();
        let mut all = chunks(meta, row.id).await?;
        // Only snapshots need those.
        all.retain(|chunk| chunk.row.dropped == 0);
        orders.borrow_mut().extend(all.iter().map(|chunk| (chunk.chunk, chunk.row.order)));
        let later: Vec<u64> =
            all.iter().filter(|chunk| chunk.row.order >= row.from_order).map(|chunk| chunk.chunk).collect();
        let sealed = seal_all(meta, &later).await?;
        let sealed_at = clock.now();
        let lens: BTreeMap<u64, u64> = sealed.iter().map(|entry| (entry.chunk, logical_len(entry))).collect();
        reader.learn(sealed);
        meta.platform().reached("volume journal is sealed");
        let mut index = match row.base_to_read() {
            Some(base) => {
                let gone = || VolumeError::Damaged(format!("{}, of which it was cloned, is gone", base.name));
                let snapshot = snapshot_numbered(meta, base.volume, base.snapshot).await?.ok_or_else(gone)?;
                let snapshot = ready(meta, shards, reader, owner, base.volume, snapshot).await?;
                read_root(reader, &snapshot.root).await?
            }
            None => read_root(reader, &row.root).await?,
        };
        let unsaved: Vec<SnapshotRow> =
            snapshots(meta, row.id).await?.into_iter().filter(|snapshot| !snapshot.ready).collect();
        let (sequence, last) = replay(reader, &row, &later, &lens, &mut index, &unsaved).await?;
        let order = last.and_then(|chunk| orders.borrow().get(&chunk).copied()).unwrap_or(row.from_order);
        // Reads of an owner that cannot know yet end with its lease.
        // One of the same name may have died before it had waited for another; who had that epoch itself knows.
        let was_other = before.session != 0 && only_epoch == 0;
        let waited = clock.now().saturating_since(sealed_at);
        if was_other && waited < LEASE_OVER {
            clock.sleep(LEASE_OVER - waited).await;
        }
        let journal = Journal::new(meta, shards, reader, &row, Rc::clone(&orders), Rc::clone(&ended), pace.chunk_len);
        let found = Found { since, index, sequence, order, cipher };
        let volume = Volume::new(meta.clone(), reader.clone(), journal, &row, orders, ended, found, pace);
        tracing::info!(volume = name, epoch = row.epoch, chunks = all.len(), sequence, "volume is attached");
        meta.platform().tasks().spawn(Volume::tend(Rc::downgrade(&volume.0))).detach();
        meta.platform().tasks().spawn(Volume::watch(Rc::downgrade(&volume.0))).detach();
        Ok(volume)
    }
}

/// Answers the volume's row now, and before, and when it was asked for, and what encrypts it: who has no key for
/// a volume does not take it from anybody.
async fn become_owner(
    meta: &MetaClient,
    name: &str,
    owner: &str,
    force: bool,
    only_epoch: u64,
) -> Result<(VolumeRow, VolumeRow, Instant, Option<Cipher>), VolumeError> {
    let clock = meta.platform().clock();
    let deadline = clock.now() + OWNER_PATIENCE;
    loop {
        let before = named(meta, name).await?;
        if only_epoch > 0 && before.epoch != only_epoch {
            return Err(VolumeError::Fenced(format!("volume {name} was attached by {} since", before.owner)));
        }
        let cipher = cipher_of(meta, &before).await?;
        let take_over = force || before.owner == owner;
        let since = clock.now();
        let body = AttachVolume { name: name.into(), owner: owner.into(), take_over, only_epoch };
        match meta.command(partition_of(before.id), Body::AttachVolume(body)).await {
            Ok(outcome) => {
                let row = outcome.volume.ok_or_else(|| VolumeError::Damaged("attached to nothing".into()))?;
                // Another one of the name may have come meanwhile.
                let is_same = row.encryption == before.encryption;
                let cipher = if is_same { cipher } else { cipher_of(meta, &row).await? };
                return Ok((row, before, since, cipher));
            }
            // Its owner may be dead: the leader knows after some seconds.
            Err(MetaError::Refused { code: refusal::VOLUME_BUSY | refusal::OTHER_BODY, text, .. }) => {
                if clock.now() >= deadline {
                    return Err(VolumeError::Busy(text));
                }
                clock.sleep(Duration::from_millis(250)).await;
            }
            Err(MetaError::SessionEnded) if clock.now() < deadline => {}
            Err(error) => return Err(told(error)),
        }
    }
}

/// Seals the chunks that are open and answers all as they are.
async fn seal_all(meta: &MetaClient, wanted: &[u64]) -> Result<Vec<ChunkEntry>, VolumeError> {
    let mut all = Vec::new();
    for some in wanted.chunks(SEALS_AT_ONCE) {
        let view = meta.query(Ask::Chunks(AskChunks { chunks: some.to_vec() })).await.map_err(told)?;
        all.extend(try_join_all(view.chunks.into_iter().map(|entry| seal(meta, entry))).await?);
    }
    Ok(all)
}

async fn seal(meta: &MetaClient, entry: ChunkEntry) -> Result<ChunkEntry, VolumeError> {
    if entry.row.state != chunk_state::OPEN && entry.row.released {
        return Ok(entry);
    }
    let clock = meta.platform().clock();
    let deadline = clock.now() + SEAL_PATIENCE;
    loop {
        match meta.seal(entry.chunk, true).await {
            Ok(sealed) => return Ok(sealed),
            Err(error) if clock.now() >= deadline => {
                let chunk = ChunkId(entry.chunk);
                return Err(VolumeError::Unavailable(format!(
                    "chunk {chunk} of the journal cannot be sealed: {error}"
                )));
            }
            Err(_) => clock.sleep(Duration::from_millis(100)).await,
        }
    }
}

fn logical_len(entry: &ChunkEntry) -> u64 {
    entry.row.sealed_len * entry.row.redundancy.policy().map_or(1, |policy| policy.needed()) as u64
}

/// A record as it lies in a chunk.
pub(super) struct Lying {
    pub head: Head,
    pub entries: Vec<Entry>,
    /// Where its data begins in the chunk.
    pub data_at: u64,
}

/// Carries out the records behind the index, and freezes it at the moments of snapshots. Answers the last
/// sequence number and the chunk it lies in.
async fn replay(
    reader: &ChunkReader,
    row: &VolumeRow,
    wanted: &[u64],
    lens: &BTreeMap<u64, u64>,
    index: &mut Index,
    snapshots: &[SnapshotRow],
) -> Result<(u64, Option<u64>), VolumeError> {
    let mut records: BTreeMap<u64, (u64, Lying)> = BTreeMap::new();
    for chunk in wanted {
        let len = lens.get(chunk).copied().unwrap_or(0);
        for record in scan(reader, *chunk, row.id, len).await? {
            if record.head.kind != record_kind::INDEX && record.head.sequence > row.sequence {
                records.insert(record.head.sequence, (*chunk, record));
            }
        }
    }
    let mut absent: BTreeMap<u64, PageRow> = BTreeMap::new();
    for (_, record) in records.values() {
        for entry in &record.entries {
            absent.extend(index.absent(entry.start, entry.len.into()).into_iter().map(|row| (row.page, row)));
        }
    }
    let absent: Vec<PageRow> = absent.into_values().collect();
    for some in absent.chunks(PAGES_AT_ONCE) {
        let pages = try_join_all(some.iter().map(|row| async move {
            let bytes = reader.read_once(ChunkId(row.chunk), row.offset.into(), row.len.max(1).into()).await;
            let bytes = bytes.map_err(|error| VolumeError::Unavailable(error.to_string()))?;
            proto::decode(&bytes).map_err(|error| VolumeError::Damaged(error.to_string()))
        }));
        for (row, page) in some.iter().zip(pages.await?) {
            index.install(row, &page).map_err(|error| VolumeError::Damaged(error.to_string()))?;
        }
    }
    let (mut sequence, mut last) = (row.sequence, None);
    let mut moments: Vec<u64> = snapshots.iter().map(|snapshot| snapshot.sequence).collect();
    moments.dedup();
    let mut moments = moments.into_iter().peekable();
    let freeze = |index: &mut Index, sequence| index.freeze(Moment { sequence, from_order: row.from_order });
    let mut records: Vec<(u64, (u64, Lying))> = records.into_iter().collect();
    if reader.platform().planted(PlantedBug::VolumeReplayDisorder) {
        records.sort_by_key(|(number, (chunk, _))| {
            (std::cmp::Reverse(wanted.iter().position(|one| one == chunk)), *number)
        });
    }
    for (number, (chunk, record)) in records {
        if reader.platform().planted(PlantedBug::VolumeFreezeLate) {
            carry_out(index, &record.entries, record.head.moved_from, chunk, record.data_at);
            (sequence, last) = (number, Some(chunk));
            continue;
        }
        while let Some(moment) = moments.next_if(|moment| *moment < number) {
            freeze(index, moment);
            reader.platform().reached("volume replay goes on behind a snapshot");
        }
        carry_out(index, &record.entries, record.head.moved_from, chunk, record.data_at);
        (sequence, last) = (number, Some(chunk));
    }
    for moment in moments {
        freeze(index, moment);
        sequence = sequence.max(moment);
    }
    Ok((sequence, last))
}

/// The records of a sealed chunk of a volume's journal.
pub(super) async fn records(reader: &ChunkReader, chunk: u64, volume: u64) -> Result<Vec<Lying>, VolumeError> {
    scan(reader, chunk, volume, reader.sealed_len(ChunkId(chunk)).await.map_err(unread)?).await
}

fn unread(error: crate::chunk::reader::ReadError) -> VolumeError {
    VolumeError::Unavailable(error.to_string())
}

/// Reads a chunk's records. They end where the chunk does, where one was cut, or where the zeroes begin
/// that fill the last stripe.
async fn scan(reader: &ChunkReader, chunk: u64, volume: u64, len: u64) -> Result<Vec<Lying>, VolumeError> {
    let mut window = Window { reader, chunk, len, at: 0, bytes: Bytes::new() };
    let (mut at, mut found) = (0, Vec::new());
    while at + (HEAD_LEN as u64) <= len {
        let head = window.get(at, HEAD_LEN as u64).await?;
        if head.iter().all(|byte| *byte == 0) {
            break;
        }
        let damaged = |why: String| VolumeError::Damaged(format!("chunk {} at {at}: {why}", ChunkId(chunk)));
        let peeked = peek_head(&head).map_err(|error| damaged(error.to_string()))?;
        let entries_len = u64::from(peeked.entries) * ENTRY_LEN as u64;
        if at + peeked.record_len() > len {
            break;
        }
        let whole = window.get(at, HEAD_LEN as u64 + entries_len).await?;
        let (head, entries) = decode_head(&whole).map_err(|error| damaged(error.to_string()))?;
        if head.volume != volume {
            return Err(damaged(format!("a record of volume {}", head.volume)));
        }
        found.push(Lying { head, entries, data_at: at + HEAD_LEN as u64 + entries_len });
        at += head.record_len();
    }
    Ok(found)
}

/// What was read last of a chunk.
struct Window<'a> {
    reader: &'a ChunkReader,
    chunk: u64,
    len: u64,
    at: u64,
    bytes: Bytes,
}

impl Window<'_> {
    async fn get(&mut self, at: u64, len: u64) -> Result<Bytes, VolumeError> {
        let end = self.at + self.bytes.len() as u64;
        if at < self.at || at + len > end {
            let most = (self.len - at).min(READ_MAX);
            self.bytes = self.reader.read_once(ChunkId(self.chunk), at, most).await.map_err(unread)?;
            self.at = at;
        }
        let from = (at - self.at) as usize;
        match self.bytes.get(from..from + len as usize) {
            Some(_) => Ok(self.bytes.slice(from..from + len as usize)),
            None => Err(VolumeError::Damaged(format!("chunk {} ends at {}", ChunkId(self.chunk), self.len))),
        }
    }
}
