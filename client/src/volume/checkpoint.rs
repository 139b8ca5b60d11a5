//! Checkpoints: the index goes into the journal and chunks in which nothing is alive go back; and copying
//! what is alive out of chunks in which little is.
//!
//! A crash in the middle leaves pages that nothing names; the row still has the index before.

use std::time::Duration;

use bytes::Bytes;
use platform::buffer::Buffer;
use proto::journal::{ENTRIES_MAX, Entry, EntryKind, record_kind};
use proto::meta::Body;
use proto::rows::ExtentRow;
use proto::volume::{Checkpoint, DetachVolume, PageRow};
use types::ids::ChunkId;

use super::admin::{named, told};
use super::device::{Volume, VolumeError};
use super::journal::{CHUNK_LEN, RECORD_MAX, Record, note_end, partition_of};
use super::recover;

/// How often it is looked whether something is to be done.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes of journal after which a checkpoint is due: what recovery reads again.
const DUE: u64 = 256 << 20;
/// One is due also when nothing was changed for so long.
const IDLE: Duration = Duration::from_secs(3);
/// Chunks that one checkpoint gives back at most.
const DROP_MAX: usize = 256;

impl Volume {
    /// Keeps the volume in order for as long as this process owns it and somebody holds it.
    pub(super) async fn tend(volume: std::rc::Weak<super::device::Inner>) {
        let mut behind = 0;
        loop {
            let Some(clock) = volume.upgrade().map(|inner| inner.platform.clock().clone()) else { return };
            clock.sleep(PERIOD).await;
            let Some(this) = volume.upgrade().map(Volume) else { return };
            if this.ended().is_some() {
                return;
            }
            this.look_at_row().await;
            behind += this.0.journal.take_appended();
            let idle = clock.now().saturating_since(this.0.changed.get()) >= IDLE;
            let is_due = behind >= DUE || idle && this.0.index.borrow().dirty() > 0;
            if is_due {
                match this.checkpoint().await {
                    Ok(()) => behind = 0,
                    Err(error) => tracing::warn!(volume = %this.0.name, %error, "index is not saved yet"),
                }
            }
            if let Err(error) = this.compact().await {
                tracing::warn!(volume = %this.0.name, %error, "journal is not compacted");
            }
        }
    }

    /// Whether the volume is this process's still, and how large it is now.
    async fn look_at_row(&self) {
        match named(&self.0.meta, &self.0.name).await {
            Ok(row) if row.id == self.0.id && row.epoch == self.0.epoch => self.0.size.set(row.size),
            Ok(row) => {
                let text = format!("volume {} belongs to {} now", row.name, row.owner);
                self.0.ended.borrow_mut().get_or_insert(VolumeError::Fenced(text));
            }
            Err(VolumeError::NotFound(text)) => {
                self.0
                    .ended
                    .borrow_mut()
                    .get_or_insert(VolumeError::Fenced(format!("there is no volume {text} any more")));
            }
            // Without the metadata it goes on with what it has.
            Err(error) => tracing::debug!(volume = %self.0.name, %error, "the volume's row is not known"),
        }
    }

    /// Writes the index into the journal and has the row name it.
    pub(super) async fn checkpoint(&self) -> Result<(), VolumeError> {
        let _one = self.0.saving.lock().await;
        let (sequence, from_order) = (self.0.applied.get(), self.replay_order());
        self.0.index.borrow_mut().begin_saving();
        if let Err((page, error)) = self.save_pages().await {
            self.0.index.borrow_mut().give_up_saving(page);
            return Err(error);
        }
        let (root, used) = self.0.index.borrow_mut().root();
        let root = self.save_root(&proto::encode(&root)).await?;
        let drop = self.dead(from_order, &root);
        let body =
            Checkpoint { volume: self.0.id, epoch: self.0.epoch, root, sequence, used, drop: drop.clone(), from_order };
        let saved = self.0.meta.command(partition_of(self.0.id), Body::Checkpoint(body)).await;
        saved.map_err(|error| {
            note_end(&self.0.ended, &error);
            told(error)
        })?;
        let mut orders = self.0.orders.borrow_mut();
        for chunk in &drop {
            orders.remove(chunk);
        }
        Ok(())
    }

    /// Stores the pages of the checkpoint; a page's number if it was left half-way.
    async fn save_pages(&self) -> Result<(), (Option<u64>, VolumeError)> {
        let mut batch: Vec<(u64, Bytes)> = Vec::new();
        let mut len = 0;
        loop {
            let next = self.0.index.borrow_mut().next_page();
            let is_last = next.is_none();
            match next {
                Some((number, Some(page))) => {
                    let bytes = Bytes::from(proto::encode(&page));
                    len += bytes.len();
                    batch.push((number, bytes));
                }
                Some((number, None)) => self.0.index.borrow_mut().stored(number, None),
                None => {}
            }
            if len >= RECORD_MAX / 2 || is_last && !batch.is_empty() {
                self.save_batch(&batch).await.map_err(|error| {
                    // Those of the batch are not stored; all but one are put back here.
                    let mut index = self.0.index.borrow_mut();
                    batch.iter().for_each(|(number, _)| index.touch(*number));
                    (None, error)
                })?;
                batch.clear();
                len = 0;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn save_batch(&self, batch: &[(u64, Bytes)]) -> Result<(), VolumeError> {
        let (chunk, mut offset) = self.append_index(batch.iter().map(|(_, bytes)| bytes.clone()).collect()).await?;
        let mut index = self.0.index.borrow_mut();
        for (number, bytes) in batch {
            let len = bytes.len() as u32;
            index.stored(*number, Some(PageRow { page: *number, chunk, offset: offset as u32, len }));
            offset += u64::from(len);
        }
        Ok(())
    }

    async fn save_root(&self, bytes: &[u8]) -> Result<Vec<ExtentRow>, VolumeError> {
        let (mut root, mut logical) = (Vec::new(), 0);
        for piece in bytes.chunks(RECORD_MAX) {
            let len = piece.len() as u64;
            let (chunk, offset) = self.append_index(vec![Buffer::copy_of(piece).freeze()]).await?;
            root.push(ExtentRow { logical, chunk, offset, len });
            logical += len;
        }
        Ok(root)
    }

    async fn append_index(&self, data: Vec<Bytes>) -> Result<(u64, u64), VolumeError> {
        let record = Record { kind: record_kind::INDEX, sequence: 0, moved_from: 0, entries: Vec::new(), data };
        Ok(self.0.journal.append(record).await?)
    }

    /// Chunks that hold nothing: neither bytes nor pages nor this root nor records to read again.
    fn dead(&self, from_order: u64, root: &[ExtentRow]) -> Vec<u64> {
        let (index, orders) = (self.0.index.borrow(), self.0.orders.borrow());
        let is_dead = |(chunk, order): &(&u64, &u64)| {
            **order < from_order && index.live_of(**chunk) == 0 && !root.iter().any(|piece| piece.chunk == **chunk)
        };
        orders.iter().filter(is_dead).map(|(chunk, _)| *chunk).take(DROP_MAX).collect()
    }

    /// Copies what is alive out of the chunk in which least is, if that is worth it: then it is dead.
    async fn compact(&self) -> Result<(), VolumeError> {
        let Some(chunk) = self.worth_compacting() else { return Ok(()) };
        let records = recover::records(&self.0.reader, chunk, self.0.id).await?;
        for record in records {
            if record.head.kind == record_kind::INDEX {
                continue;
            }
            let mut pieces: Vec<(Entry, Bytes)> = Vec::new();
            let (mut at, mut bytes) = (record.data_at, 0);
            for entry in record.entries.iter().filter(|entry| entry.kind == EntryKind::Write) {
                let (start, len) = (entry.start, u64::from(entry.len));
                self.fetch(start, len).await?;
                let alive = self.0.index.borrow().lookup(start, len);
                for piece in alive {
                    // Alive is what still lies exactly here.
                    if piece.at != Some((chunk, at + (piece.start - start))) {
                        continue;
                    }
                    if bytes + piece.len > RECORD_MAX as u64 || pieces.len() == ENTRIES_MAX {
                        self.copy_out(chunk, std::mem::take(&mut pieces)).await?;
                        bytes = 0;
                    }
                    let (from, len) = (at + (piece.start - start), piece.len);
                    let read = self.0.reader.read_once(ChunkId(chunk), from, len).await;
                    let data = read.map_err(|error| VolumeError::Unavailable(error.to_string()))?;
                    let entry = Entry { kind: EntryKind::Write, start: piece.start, len: len as u32 };
                    pieces.push((entry, data));
                    bytes += len;
                }
                at += len;
            }
            if !pieces.is_empty() {
                self.copy_out(chunk, pieces).await?;
            }
        }
        // Pages that lie here are stored anew with the next checkpoint.
        let pages = self.0.index.borrow().pages_in(chunk);
        self.fetch_pages(&pages).await?;
        pages.iter().for_each(|row| self.0.index.borrow_mut().touch(row.page));
        tracing::info!(volume = %self.0.name, chunk = %ChunkId(chunk), "a chunk of the journal was compacted");
        self.0.platform.reached("volume chunk is compacted");
        self.checkpoint().await
    }

    /// A full chunk of which less than a half is alive, when the journal is twice what is alive of it.
    fn worth_compacting(&self) -> Option<u64> {
        let (index, orders) = (self.0.index.borrow(), self.0.orders.borrow());
        let from_order = self.replay_order();
        let full: Vec<(u64, u64)> = orders
            .iter()
            .filter(|(_, order)| **order < from_order)
            .map(|(chunk, _)| (index.live_of(*chunk), *chunk))
            .filter(|(live, _)| *live > 0)
            .collect();
        let alive: u64 = full.iter().map(|(live, _)| live).sum();
        let held = full.len() as u64 * CHUNK_LEN;
        let (live, chunk) = full.into_iter().min()?;
        (held > 2 * alive && live < CHUNK_LEN / 2).then_some(chunk)
    }

    /// Saves the index and gives the volume up.
    ///
    /// # Errors
    /// The volume stays this process's until another takes it over.
    pub async fn detach(&self) -> Result<(), VolumeError> {
        if let Some(ended) = self.ended() {
            return Err(ended);
        }
        self.checkpoint().await?;
        let _one = self.0.saving.lock().await;
        let body = Body::DetachVolume(DetachVolume { volume: self.0.id, epoch: self.0.epoch });
        self.0.meta.command(partition_of(self.0.id), body).await.map_err(told)?;
        self.0.ended.borrow_mut().get_or_insert(VolumeError::Fenced("it was detached".into()));
        Ok(())
    }
}
