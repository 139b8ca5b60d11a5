//! Checkpoints: the index goes into the journal and chunks in which nothing is alive go back; and copying
//! what is alive out of chunks in which little is.
//!
//! A crash in the middle leaves pages that nothing names; the row still has the index before.

use bytes::Bytes;
use platform::buffer::Buffer;
use proto::journal::{ENTRIES_MAX, Entry, EntryKind, record_kind};
use proto::meta::Body;
use proto::rows::ExtentRow;
use proto::volume::{Checkpoint, DetachVolume, PageRow};
use types::ids::ChunkId;

use super::admin::{chunks, snapshots, told};
use super::device::{Volume, VolumeError};
use super::index::Moment;
use super::journal::{Record, note_end, partition_of};
use super::recover;

/// Chunks that are emptied before a checkpoint gives them back.
const EMPTIED_MAX: u32 = 4;
/// Chunks that one checkpoint gives back at most.
const DROP_MAX: usize = 256;

impl Volume {
    /// Keeps the volume in order for as long as this process owns it and somebody holds it.
    pub(super) async fn tend(volume: std::rc::Weak<super::device::Inner>) {
        let mut behind = 0;
        loop {
            let Some((clock, pace)) = volume.upgrade().map(|inner| (inner.platform.clock().clone(), inner.pace)) else {
                return;
            };
            clock.sleep(pace.period).await;
            let Some(this) = volume.upgrade().map(Volume) else { return };
            if this.ended().is_some() {
                return;
            }
            behind += this.0.journal.take_appended();
            let idle = clock.now().saturating_since(this.0.changed.get()) >= pace.idle;
            let is_due = {
                let index = this.0.map.index.borrow();
                behind >= pace.due_bytes || idle && !index.is_stored() || index.first_frozen().is_some()
            };
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

    /// Writes the index into the journal and has the row name it: as it was at the moments that are frozen,
    /// one after the other, or as it is now.
    pub(super) async fn checkpoint(&self) -> Result<(), VolumeError> {
        let _one = self.0.saving.lock().await;
        if self.0.map.index.borrow().first_frozen().is_none() {
            let moment = self.moment();
            self.0.map.index.borrow_mut().freeze(moment);
        }
        loop {
            let Some(moment) = self.0.map.index.borrow().first_frozen() else { return Ok(()) };
            if self.0.taking.borrow().iter().any(|taking| *taking < moment.sequence) {
                // The metaservers are being told of a snapshot before it.
                return Ok(());
            }
            self.save_pages().await?;
            self.0.platform.reached("volume index is half stored");
            let (root, used) = self.0.map.index.borrow().root();
            let is_alone = self.is_alone();
            let root = self.save_root(&proto::encode(&root)).await?;
            self.forget_dropped().await?;
            let drop = self.dead(moment.from_order, &root);
            let Moment { sequence, from_order } = moment;
            let body = Checkpoint {
                volume: self.0.id,
                epoch: self.0.epoch,
                root,
                sequence,
                used,
                drop: drop.clone(),
                from_order,
                is_alone,
            };
            self.0.dropping.borrow_mut().clone_from(&drop);
            let saved = self.0.meta.command(partition_of(self.0.id), Body::Checkpoint(body)).await;
            saved.map_err(|error| {
                note_end(&self.0.ended, &error);
                told(error)
            })?;
            self.0.dropping.borrow_mut().clear();
            self.0.map.index.borrow_mut().thaw();
            self.0.saved.set(sequence);
            let mut orders = self.0.orders.borrow_mut();
            for chunk in &drop {
                orders.remove(chunk);
            }
        }
    }

    /// A checkpoint whose outcome was never heard may have been carried out: what it dropped cannot be dropped
    /// again.
    async fn forget_dropped(&self) -> Result<(), VolumeError> {
        let unsure = self.0.dropping.borrow().clone();
        if unsure.is_empty() {
            return Ok(());
        }
        let all = chunks(&self.0.meta, self.0.id).await?;
        let is_there = |chunk: u64| all.iter().any(|one| one.chunk == chunk && one.row.dropped == 0);
        self.0.orders.borrow_mut().retain(|chunk, _| !unsure.contains(chunk) || is_there(*chunk));
        self.0.dropping.borrow_mut().clear();
        Ok(())
    }

    /// Whether the index that is being stored names only chunks of this volume, not of one it was cloned of.
    fn is_alone(&self) -> bool {
        let orders = self.0.orders.borrow();
        self.0.map.index.borrow().all_in(|chunk| orders.contains_key(&chunk))
    }

    /// Stores the pages of the first moment that is frozen.
    async fn save_pages(&self) -> Result<(), VolumeError> {
        // Whoever began this before may have been given up in the middle.
        self.0.map.index.borrow_mut().put_back();
        let mut batch: Vec<(u64, Bytes)> = Vec::new();
        let mut len = 0;
        loop {
            let next = self.0.map.index.borrow_mut().next_page();
            let is_last = next.is_none();
            match next {
                Some((number, Some(page))) => {
                    let bytes = Bytes::from(proto::encode(&page));
                    len += bytes.len();
                    batch.push((number, bytes));
                }
                Some((number, None)) => self.0.map.index.borrow_mut().stored(number, None),
                None => {}
            }
            if len >= self.0.journal.record_max() / 2 || is_last && !batch.is_empty() {
                self.save_batch(std::mem::take(&mut batch)).await?;
                len = 0;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn save_batch(&self, batch: Vec<(u64, Bytes)>) -> Result<(), VolumeError> {
        let appended = self.append_index(batch.iter().map(|(_, bytes)| bytes.clone()).collect()).await;
        let mut index = self.0.map.index.borrow_mut();
        match appended {
            Ok((chunk, mut offset)) => {
                for (number, bytes) in batch {
                    let len = bytes.len() as u32;
                    index.stored(number, Some(PageRow { page: number, chunk, offset: offset as u32, len }));
                    offset += u64::from(len);
                }
                Ok(())
            }
            Err(error) => {
                index.put_back();
                Err(error)
            }
        }
    }

    async fn save_root(&self, bytes: &[u8]) -> Result<Vec<ExtentRow>, VolumeError> {
        let (mut root, mut logical) = (Vec::new(), 0);
        for piece in bytes.chunks(self.0.journal.record_max()) {
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

    /// Chunks that hold nothing: neither bytes nor pages of the index, now or as it was at a moment that is
    /// not stored yet, nor this root, nor records to read again.
    fn dead(&self, from_order: u64, root: &[ExtentRow]) -> Vec<u64> {
        let (index, orders) = (self.0.map.index.borrow(), self.0.orders.borrow());
        let is_dead = |(chunk, order): &(&u64, &u64)| {
            **order < from_order && !index.needs(**chunk) && !root.iter().any(|piece| piece.chunk == **chunk)
        };
        orders.iter().filter(is_dead).map(|(chunk, _)| *chunk).take(DROP_MAX).collect()
    }

    /// Copies what is alive out of chunks in which little is, for as long as that is worth it: then they are
    /// dead, and go with a checkpoint.
    async fn compact(&self) -> Result<(), VolumeError> {
        let mut emptied = 0;
        while self.worth_compacting(0).is_some() && self.ended().is_none() {
            let Some(chunk) = self.worth_compacting(self.kept_below().await?) else { break };
            self.empty(chunk).await?;
            emptied += 1;
            if self.0.map.index.borrow().live_of(chunk) > 0 {
                // Its records do not have what the index says: not again and again.
                tracing::warn!(volume = %self.0.name, chunk = %ChunkId(chunk), "a chunk cannot be emptied");
                break;
            }
            if emptied % EMPTIED_MAX == 0 {
                self.checkpoint().await?;
            }
        }
        if emptied % EMPTIED_MAX > 0 { self.checkpoint().await } else { Ok(()) }
    }

    /// Copies what is alive out of a chunk.
    async fn empty(&self, chunk: u64) -> Result<(), VolumeError> {
        let records = recover::records(&self.0.map.reader, chunk, self.0.id).await?;
        for record in records {
            if record.head.kind == record_kind::INDEX {
                continue;
            }
            let mut pieces: Vec<(Entry, Bytes)> = Vec::new();
            let (mut at, mut bytes) = (record.data_at, 0);
            for entry in record.entries.iter().filter(|entry| entry.kind == EntryKind::Write) {
                let (start, len) = (entry.start, u64::from(entry.len));
                let alive = self.0.map.look(start, len).await?;
                for piece in alive {
                    // Alive is what still lies exactly here.
                    if piece.at != Some((chunk, at + (piece.start - start))) {
                        continue;
                    }
                    if bytes + piece.len > self.0.journal.record_max() as u64 || pieces.len() == ENTRIES_MAX {
                        self.copy_out(chunk, std::mem::take(&mut pieces)).await?;
                        bytes = 0;
                    }
                    let (from, len) = (at + (piece.start - start), piece.len);
                    let read = self.0.map.reader.read_once(ChunkId(chunk), from, len).await;
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
        self.0.platform.reached("volume chunk is copied out");
        // Pages that lie here are stored anew with the next checkpoint.
        let pages = self.0.map.index.borrow().pages_in(chunk);
        self.0.map.fetch_pages(&pages).await?;
        pages.iter().for_each(|row| self.0.map.index.borrow_mut().touch(row.page));
        tracing::info!(volume = %self.0.name, chunk = %ChunkId(chunk), "a chunk of the journal was compacted");
        self.0.platform.reached("volume chunk is compacted");
        Ok(())
    }

    /// Chunks of a lower order are kept for snapshots: copying out of them would free nothing.
    async fn kept_below(&self) -> Result<u64, VolumeError> {
        let revision = self.0.revision.get();
        if self.0.kept.get().0 != revision || revision == 0 {
            let all = snapshots(&self.0.meta, self.0.id).await?;
            let below = all.iter().map(|snapshot| snapshot.upto_order).max().unwrap_or(0);
            self.0.kept.set((revision, below));
        }
        Ok(self.0.kept.get().1)
    }

    /// A full chunk, not below that order, of which little enough is alive, when those chunks hold too much
    /// beside what is alive: as much again for copies, whose data is moved seldom therefore; a quarter for
    /// stripes, which are there to save space.
    fn worth_compacting(&self, kept_below: u64) -> Option<u64> {
        let (index, orders) = (self.0.map.index.borrow(), self.0.orders.borrow());
        let from_order = self.replay_order();
        let full: Vec<(u64, u64)> = orders
            .iter()
            .filter(|(_, order)| (kept_below..from_order).contains(*order))
            .map(|(chunk, _)| (index.live_of(*chunk), *chunk))
            .filter(|(live, _)| *live > 0)
            .collect();
        let alive: u64 = full.iter().map(|(live, _)| live).sum();
        let chunk_len = self.0.pace.chunk_len;
        let held = full.len() as u64 * chunk_len;
        let (live, chunk) = full.into_iter().min()?;
        let (held_max, live_max) = match self.0.journal.is_striped() {
            false => (2 * alive, chunk_len / 2),
            true => (alive + alive / 4, chunk_len - chunk_len / 8),
        };
        (held > held_max && live < live_max).then_some(chunk)
    }

    /// Saves the index and gives the volume up.
    ///
    /// # Errors
    /// The volume stays this process's until another takes it over; if it was about to be given up it is served
    /// no more, and has to be attached again.
    pub async fn detach(&self) -> Result<(), VolumeError> {
        if let Some(ended) = self.ended() {
            return Err(ended);
        }
        self.checkpoint().await?;
        if !self.0.map.index.borrow().is_stored() {
            // That stored an earlier moment.
            self.checkpoint().await?;
        }
        let _one = self.0.saving.lock().await;
        self.give_up(self.0.applied.get()).await
    }

    /// Gives the volume up as it is kept. `sequence`: the last record there is.
    pub(super) async fn give_up(&self, sequence: u64) -> Result<(), VolumeError> {
        // Before anybody knows: the next owner of a volume that was given up waits for no lease.
        self.end("it was detached".into());
        let body = Body::DetachVolume(DetachVolume { volume: self.0.id, epoch: self.0.epoch, sequence });
        self.0.meta.command(partition_of(self.0.id), body).await.map_err(told)?;
        Ok(())
    }
}
