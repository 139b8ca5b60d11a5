//! Snapshots: taken, read, gone back to.
//!
//! Taking one freezes the index in memory and notes the moment in the volume's row; the checkpoint behind it
//! stores the index as it was then. A crash in between leaves the note, and who attaches the volume next
//! comes by that moment when it reads the journal again, and freezes the index there.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::buffer::Buffer;
use proto::meta::Body;
use proto::query::Ask;
use proto::rows::ExtentRow;
use proto::volume::{AskWatch, IndexRoot, RollBack, SnapshotRow, TakeSnapshot, VolumeRow};
use types::ids::ChunkId;

use super::admin::{named, snapshot_named, snapshot_numbered, told, want_snapshot};
use super::device::{Volume, VolumeError};
use super::encrypted::cipher_of;
use super::index::{Index, Moment, Piece};
use super::journal::partition_of;
use super::mapped::{Change, Mapped, changes};
use super::pace::Pace;
use crate::chunk::reader::ChunkReader;
use crate::chunk::shards::Shards;
use crate::meta::MetaClient;

/// How long an owner is waited for that is asked for a snapshot.
const OWNER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a snapshot's index is waited for.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// When nobody stores a snapshot's index, somebody has to attach its volume.
const READY_ALONE: Duration = Duration::from_secs(3);

impl Volume {
    /// Takes a snapshot: all that was acknowledged before this was called is in it.
    ///
    /// # Errors
    /// There is one of that name, too many, or no leader in time: then it may be there or not.
    pub async fn take_snapshot(&self, name: &str) -> Result<SnapshotRow, VolumeError> {
        let _one = self.0.telling.lock().await;
        let moment = self.moment();
        {
            let mut index = self.0.map.index.borrow_mut();
            let last = index.last_frozen().map_or(self.0.saved.get(), |last| last.sequence);
            if last != moment.sequence {
                index.freeze(moment);
            }
        }
        // Later moments are not stored before the metaservers know of this one.
        self.0.taking.borrow_mut().push(moment.sequence);
        let body = TakeSnapshot {
            name: self.0.name.clone(),
            snapshot: name.to_owned(),
            epoch: self.0.epoch,
            sequence: moment.sequence,
        };
        let taken = self.0.meta.command(partition_of(self.0.id), Body::TakeSnapshot(body)).await;
        let mut taking = self.0.taking.borrow_mut();
        if let Some(at) = taking.iter().position(|one| *one == moment.sequence) {
            taking.swap_remove(at);
        }
        let outcome = taken.map_err(told)?;
        self.0.platform.reached("volume snapshot is taken");
        outcome.snapshot.ok_or_else(|| VolumeError::Damaged("a snapshot was taken, and is not told of".into()))
    }

    /// The moment after the last record that is in the index.
    pub(super) fn moment(&self) -> Moment {
        Moment { sequence: self.0.applied.get(), from_order: self.replay_order() }
    }

    /// What of a range may have changed since a snapshot of this volume.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub async fn changed_since(&self, older: &Snapshot, start: u64, len: u64) -> Result<Vec<Change>, VolumeError> {
        self.status(start, 0).await?;
        changes(&older.0.map, &self.0.map, start, len).await
    }

    /// Takes a snapshot's index for its own, and gives the volume up: what was written since is gone.
    async fn become_snapshot(&self, name: &str) -> Result<(), VolumeError> {
        self.checkpoint().await?;
        let _one = self.0.saving.lock().await;
        let Moment { sequence, from_order } = self.moment();
        // No record of an earlier chunk is above that, and later ones go to chunks of the next owner. Earlier
        // chunks may be gone, all of them.
        let from_order = self.0.orders.borrow().values().map(|order| order + 1).fold(from_order, u64::max);
        let body = RollBack { volume: self.0.id, epoch: self.0.epoch, snapshot: name.to_owned(), sequence, from_order };
        self.0.meta.command(partition_of(self.0.id), Body::RollBack(body)).await.map_err(told)?;
        self.give_up(sequence).await
    }
}

/// Has a snapshot taken, by whoever owns the volume; `owner` names this process, should it be that for a
/// moment. All that was acknowledged before is in it.
///
/// # Errors
/// There is one of that name, no such volume, no leader in time.
pub async fn take_snapshot(
    meta: &MetaClient,
    shards: &Shards,
    reader: &ChunkReader,
    owner: &str,
    name: &str,
    snapshot: &str,
) -> Result<SnapshotRow, VolumeError> {
    let row = named(meta, name).await?;
    if row.session == 0 && (row.clean || row.epoch == 0) {
        let body = TakeSnapshot { name: name.into(), snapshot: snapshot.into(), epoch: 0, sequence: 0 };
        match meta.command(partition_of(row.id), Body::TakeSnapshot(body)).await.map_err(told) {
            Ok(outcome) => {
                return outcome.snapshot.ok_or_else(|| VolumeError::Damaged("a snapshot is not told of".into()));
            }
            // Attached since.
            Err(VolumeError::Busy(_)) if snapshot_named(meta, &row, snapshot).await?.is_none() => {}
            Err(error) => return Err(error),
        }
    }
    if row.session != 0
        && let Some(taken) = ask_owner(meta, &row, snapshot).await?
    {
        return Ok(taken);
    }
    // Nobody has it, or who has it does not answer.
    let volume = Volume::attach(meta, shards, reader, name, owner, false, 0).await?;
    let taken = volume.take_snapshot(snapshot).await;
    let detached = volume.detach().await;
    let taken = taken?;
    detached?;
    Ok(taken)
}

/// Asks the owner; `None`: it has not done so in time.
async fn ask_owner(meta: &MetaClient, row: &VolumeRow, snapshot: &str) -> Result<Option<SnapshotRow>, VolumeError> {
    let clock = meta.platform().clock();
    let deadline = clock.now() + OWNER_PATIENCE;
    let mut seen = want_snapshot(meta, row.id, &row.name, snapshot, false).await?;
    while clock.now() < deadline {
        if !seen.wanted.iter().any(|name| name == snapshot) {
            return match snapshot_named(meta, &seen, snapshot).await? {
                Some(taken) => Ok(Some(taken)),
                None => Err(VolumeError::Refused(format!("{} could not take the snapshot", seen.owner))),
            };
        }
        let ask = AskWatch { name: row.name.clone(), revision: seen.revision };
        let view = meta.query(Ask::WatchVolume(ask)).await.map_err(told)?;
        seen = view.volumes.into_iter().next().ok_or_else(|| VolumeError::no_volume(&row.name))?;
    }
    want_snapshot(meta, row.id, &row.name, snapshot, true).await?;
    snapshot_named(meta, &seen, snapshot).await
}

/// Makes a volume that nobody has attached what it was at a snapshot.
///
/// # Errors
/// It is attached, there is no such snapshot.
pub async fn roll_back(
    meta: &MetaClient,
    shards: &Shards,
    reader: &ChunkReader,
    owner: &str,
    name: &str,
    snapshot: &str,
) -> Result<(), VolumeError> {
    let row = named(meta, name).await?;
    if snapshot_named(meta, &row, snapshot).await?.is_none() {
        return Err(VolumeError::NotFound(format!("there is no snapshot {name}@{snapshot}")));
    }
    let volume = Volume::attach(meta, shards, reader, name, owner, false, 0).await?;
    volume.become_snapshot(snapshot).await
}

struct Held {
    row: SnapshotRow,
    map: Mapped,
}

/// A snapshot that is read. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot(Rc<Held>);

impl Snapshot {
    /// Opens a snapshot, waiting for its index if that is not stored yet.
    ///
    /// # Errors
    /// There is none; its index does not come.
    pub async fn open(
        meta: &MetaClient,
        shards: &Shards,
        reader: &ChunkReader,
        owner: &str,
        name: &str,
        snapshot: &str,
    ) -> Result<Snapshot, VolumeError> {
        let volume = named(meta, name).await?;
        let missing = || VolumeError::NotFound(format!("there is no snapshot {name}@{snapshot}"));
        let row = snapshot_named(meta, &volume, snapshot).await?.ok_or_else(missing)?;
        let row = ready(meta, shards, reader, owner, volume.id, row).await?;
        let cipher = cipher_of(meta, &volume).await?;
        let index = read_root(reader, &row.root).await?;
        let map = Mapped::new(reader.clone(), index, Pace::default().extents_max, cipher);
        Ok(Snapshot(Rc::new(Held { row, map })))
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.row.size
    }

    /// Its number, which no other snapshot of the volume ever has.
    pub fn number(&self) -> u64 {
        self.0.row.number
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`VolumeError`]; it may have been deleted.
    pub async fn read(&self, start: u64, len: u64) -> Result<Bytes, VolumeError> {
        self.check(start, len)?;
        if len == 0 { Ok(Bytes::new()) } else { self.0.map.read(start, len).await }
    }

    /// Which bytes of the range are stored and which read as zeroes.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub async fn status(&self, start: u64, len: u64) -> Result<Vec<Piece>, VolumeError> {
        self.check(start, len)?;
        self.0.map.look(start, len).await
    }

    /// What of a range may have changed since an earlier snapshot of the same volume.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub async fn changed_since(&self, older: &Snapshot, start: u64, len: u64) -> Result<Vec<Change>, VolumeError> {
        self.check(start, len)?;
        changes(&older.0.map, &self.0.map, start, len).await
    }

    fn check(&self, start: u64, len: u64) -> Result<(), VolumeError> {
        let (end, size) = (start.saturating_add(len), self.size());
        if end > size { Err(VolumeError::OutOfRange { start, end, size }) } else { Ok(()) }
    }
}

/// The row of a snapshot whose index is stored. Its owner does that; if there is none, this process.
pub(super) async fn ready(
    meta: &MetaClient,
    shards: &Shards,
    reader: &ChunkReader,
    owner: &str,
    volume: u64,
    mut row: SnapshotRow,
) -> Result<SnapshotRow, VolumeError> {
    let clock = meta.platform().clock();
    let began = clock.now();
    let mut pause = Duration::from_millis(5);
    while !row.ready {
        let waited = clock.now().saturating_since(began);
        if waited > READY_PATIENCE {
            return Err(VolumeError::Unavailable(format!("the index of snapshot {} is not stored yet", row.name)));
        }
        if waited > READY_ALONE
            && let Some(parent) = super::admin::list(meta).await?.into_iter().find(|row| row.id == volume)
        {
            let attached = Box::pin(Volume::attach(meta, shards, reader, &parent.name, owner, false, 0)).await;
            match attached {
                Ok(parent) => parent.detach().await?,
                // Its owner lives, and will.
                Err(VolumeError::Busy(_)) => {}
                Err(error) => return Err(error),
            }
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
        let gone = || VolumeError::NotFound(format!("snapshot {} was deleted", row.name));
        row = snapshot_numbered(meta, volume, row.number).await?.ok_or_else(gone)?;
    }
    Ok(row)
}

/// Reads an index's root.
pub(super) async fn read_root(reader: &ChunkReader, root: &[ExtentRow]) -> Result<Index, VolumeError> {
    let mut bytes = Buffer::with_capacity(root.iter().map(|piece| piece.len as usize).sum());
    for piece in root {
        let read = reader.read_once(ChunkId(piece.chunk), piece.offset, piece.len).await;
        bytes.extend_from_slice(&read.map_err(|error| VolumeError::Unavailable(error.to_string()))?);
    }
    let root: IndexRoot = proto::decode(&bytes).map_err(|error| VolumeError::Damaged(error.to_string()))?;
    Index::from_root(&root).map_err(|error| VolumeError::Damaged(error.to_string()))
}
