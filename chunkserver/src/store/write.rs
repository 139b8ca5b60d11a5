//! Appends, fences and seals: one device write each, then a shared flush.
//!
//! Each runs to its end as a task of its caller's process (`rpc` sees to that): a request nobody waits
//! for any more still counts its writes back.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::buffer::Buffer;
use platform::clock::Instant;
use platform::disk::DiskError;
use platform::planted::PlantedBug;
use proto::chunk::ShardState;
use proto::record::{BLOCK, PAYLOAD_MAX, RecordHeader, RecordKind, is_inline};
use types::checksum::crc64;
use types::ids::{ChunkId, Epoch, PlacementId, RequestId, ShardIndex, StoreId};

use super::shard::{Piece, RecordRef, Refusal, Shard, Verdict};
use super::slots::Slots;
use super::{Need, Store, StoreError};

/// Names a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The chunk.
    pub chunk: ChunkId,
    /// The placement.
    pub placement: PlacementId,
    /// Which shard of the chunk.
    pub index: ShardIndex,
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> StoreError {
        match refusal {
            Refusal::Fenced(stored) => StoreError::Fenced { stored },
            Refusal::Sealed(len) => StoreError::Sealed { len },
            Refusal::WrongOffset(len) => StoreError::WrongOffset { len },
            Refusal::Broken => StoreError::Broken,
        }
    }
}

impl Store {
    /// Appends `payload` at exactly `offset` of the shard under `epoch`; returns when it and all
    /// before it are flushed. Offset 0 of an unknown placement creates the shard. An append that
    /// arrives early waits for those before it until `deadline`. An exact retry succeeds.
    ///
    /// # Errors
    /// See [`StoreError`]. After an error the bytes may or may not be there; after a crash they
    /// may or may not be there; after `Ok` they are.
    pub async fn append(
        &self,
        target: Target,
        epoch: Epoch,
        offset: u64,
        payload: Bytes,
        request: RequestId,
        deadline: Instant,
    ) -> Result<ShardState, StoreError> {
        self.append_for(Need::Data, target, epoch, offset, payload, request, deadline).await
    }

    /// [`Store::append`] of bytes that are moved so that more become free: it may take from the
    /// reserve.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub async fn append_from_reserve(
        &self,
        target: Target,
        epoch: Epoch,
        offset: u64,
        payload: Bytes,
        request: RequestId,
        deadline: Instant,
    ) -> Result<ShardState, StoreError> {
        self.append_for(Need::Compaction, target, epoch, offset, payload, request, deadline).await
    }

    #[expect(clippy::too_many_arguments, reason = "what an append says, and what it is for")]
    async fn append_for(
        &self,
        need: Need,
        target: Target,
        epoch: Epoch,
        offset: u64,
        payload: Bytes,
        request: RequestId,
        deadline: Instant,
    ) -> Result<ShardState, StoreError> {
        if payload.is_empty() || payload.len() > PAYLOAD_MAX {
            return Err(StoreError::BadRequest("append of 0 or more than 1 MiB"));
        }
        if self.is_failed() {
            return Err(StoreError::Full);
        }
        let len = payload.len() as u64;
        let checksum = crc64(&payload);
        let epoch = self.planted_epoch(target, epoch);
        loop {
            let changed = self.0.changed.notified();
            match self.judge(target, epoch, offset, len, checksum)? {
                Verdict::Accept => break,
                Verdict::Retry(end) => {
                    self.wait_durable(target, epoch, end, deadline).await?;
                    return self.state_of(target);
                }
                Verdict::Early => {
                    let left = deadline.saturating_since(self.0.platform.clock().now()).min(Duration::from_secs(2));
                    if left.is_zero() || self.0.platform.clock().timeout(left, changed).await.is_err() {
                        let len = self.0.state.borrow().shards.get(&target.placement).map_or(0, Shard::accepted_len);
                        return Err(StoreError::WrongOffset { len });
                    }
                }
            }
        }
        let (ticket, pieces) = self.accept(need, target, epoch, offset, len, checksum)?;
        self.0.changed.notify_waiters();
        self.write_pieces(target, epoch, RecordKind::Data, offset, &payload, &pieces, request, ticket).await?;
        self.settled(target, epoch, ticket).await?;
        self.state_of(target)
    }

    /// The epoch that the shard has stored, if the check is to be left out.
    fn planted_epoch(&self, target: Target, epoch: Epoch) -> Epoch {
        if !self.0.platform.planted(PlantedBug::EpochNotChecked) {
            return epoch;
        }
        self.0.state.borrow().shards.get(&target.placement).map_or(epoch, |shard| shard.epoch.max(epoch))
    }

    fn judge(&self, target: Target, epoch: Epoch, offset: u64, len: u64, checksum: u64) -> Result<Verdict, StoreError> {
        let mut state = self.0.state.borrow_mut();
        if !state.shards.contains_key(&target.placement) {
            if offset > 0 {
                // The append that creates the shard may still be on its way.
                return Ok(Verdict::Early);
            }
            if state.is_deleted(target.placement) {
                return Err(StoreError::NoShard);
            }
            let shard = Shard::new(target.chunk, target.placement, target.index, epoch);
            state.shards.insert(target.placement, shard);
        }
        let shard = state.shards.get(&target.placement).ok_or(StoreError::NoShard)?;
        if shard.chunk != target.chunk || shard.index != target.index {
            return Err(StoreError::BadRequest("placement belongs to another chunk or shard"));
        }
        Ok(shard.judge(epoch, offset, len, checksum)?)
    }

    fn accept(
        &self,
        need: Need,
        target: Target,
        epoch: Epoch,
        offset: u64,
        len: u64,
        checksum: u64,
    ) -> Result<(u64, Vec<Piece>), StoreError> {
        let pieces = self.place(target.placement, len as usize, need)?;
        let mut state = self.0.state.borrow_mut();
        let shard = state.shards.get_mut(&target.placement).ok_or(StoreError::NoShard)?;
        assert_eq!(shard.epoch, epoch, "accepted under another epoch");
        let mut at = offset;
        let data = pieces
            .iter()
            .map(|piece| {
                let record = RecordRef { offset: at, position: piece.position, len: piece.len as u32 };
                at += piece.len as u64;
                record
            })
            .collect();
        Ok((shard.started(RecordKind::Data, offset, len, checksum, data), pieces))
    }

    fn place(&self, placement: PlacementId, len: usize, need: Need) -> Result<Vec<Piece>, StoreError> {
        let mut state = self.0.state.borrow_mut();
        let count_max = self.0.slots_max(&state, need);
        let state = &mut *state;
        state.fresh_records += 1;
        let slots = &mut state.slots;
        let shard = state.shards.get_mut(&placement).ok_or(StoreError::NoShard)?;
        shard.place(len, self.0.config.slot_size, || slots.take(count_max)).map_err(|unused| {
            slots.untake(unused);
            StoreError::Full
        })
    }

    #[expect(clippy::too_many_arguments, reason = "everything a record's header binds")]
    async fn write_pieces(
        &self,
        target: Target,
        epoch: Epoch,
        kind: RecordKind,
        offset: u64,
        payload: &Bytes,
        pieces: &[Piece],
        request: RequestId,
        ticket: u64,
    ) -> Result<(), StoreError> {
        let (durable_len, cut) = self.with_shard(target, |shard| (shard.durable_len(), shard.cut))?;
        let mut at = 0;
        let mut written = Ok(());
        for piece in pieces {
            // Deleted meanwhile: the tombstone waits for what is under way and for nothing more.
            if self.with_shard(target, |_| ()).is_err() {
                break;
            }
            let part = payload.slice(at..at + piece.len);
            let header = RecordHeader {
                kind,
                shard: target.index,
                chunk: target.chunk,
                placement: target.placement,
                epoch,
                offset: offset + at as u64,
                payload_len: piece.len as u32,
                cut,
                durable_len,
                slot_sequence: piece.sequence,
                slot_index: piece.slot_index,
                request,
            };
            written = self.0.file.write_at(piece.position, encode(self.0.id, &header, part)).await;
            if written.is_err() {
                break;
            }
            at += piece.len;
        }
        self.write_came_back(target.placement);
        let outcome = match written {
            Ok(()) if self.0.platform.planted(PlantedBug::AckBeforeFlush) => Ok(()),
            Ok(()) => self.0.flusher.flush(&self.0.file).await,
            Err(error) => Err(Rc::new(error)),
        };
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        let Some(shard) = state.shards.get_mut(&target.placement) else { return Err(StoreError::NoShard) };
        match outcome {
            Ok(()) => shard.finished(ticket),
            Err(_) => {
                shard.failed(ticket);
                give_back_abandoned(shard, &mut state.slots);
            }
        }
        self.0.changed.notify_waiters();
        outcome.map_err(|error| {
            if matches!(*error, DiskError::Poisoned { .. }) || self.0.flusher_failed(&error) {
                self.0.fail(&error);
            }
            StoreError::Disk(error)
        })
    }

    /// The device has answered for a record, whatever became of its shard meanwhile.
    fn write_came_back(&self, placement: PlacementId) {
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        if let Some(shard) = state.shards.get_mut(&placement) {
            shard.writing -= 1;
            give_back_abandoned(shard, &mut state.slots);
        } else if let Some(dying) = state.dying.get_mut(&placement) {
            dying.shard.writing -= 1;
            self.0.changed.notify_waiters();
        }
    }

    /// Waits until the record of `ticket` and all before it are durable; never acks under an
    /// epoch that is no longer the stored one.
    async fn settled(&self, target: Target, epoch: Epoch, ticket: u64) -> Result<(), StoreError> {
        loop {
            let changed = self.0.changed.notified();
            {
                let state = self.0.state.borrow();
                let shard = state.shards.get(&target.placement).ok_or(StoreError::NoShard)?;
                if shard.epoch != epoch && !self.0.platform.planted(PlantedBug::AckAfterFence) {
                    return Err(StoreError::Fenced { stored: shard.epoch });
                }
                if shard.broken {
                    return Err(StoreError::Broken);
                }
                if shard.is_finished(ticket) {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    async fn wait_durable(&self, target: Target, epoch: Epoch, end: u64, deadline: Instant) -> Result<(), StoreError> {
        loop {
            let changed = self.0.changed.notified();
            {
                let state = self.0.state.borrow();
                let shard = state.shards.get(&target.placement).ok_or(StoreError::NoShard)?;
                if shard.epoch != epoch {
                    return Err(StoreError::Fenced { stored: shard.epoch });
                }
                if shard.durable_len() >= end {
                    return Ok(());
                }
                if shard.broken {
                    return Err(StoreError::Broken);
                }
            }
            let left = deadline.saturating_since(self.0.platform.clock().now());
            if left.is_zero() || self.0.platform.clock().timeout(left, changed).await.is_err() {
                return Err(StoreError::WrongOffset { len: end });
            }
        }
    }

    /// Stores a higher epoch durably, then answers the length; creates an absent shard, empty.
    /// The same epoch again answers the same. The length covers every ack ever sent; of a shard that
    /// it creates it says "at least" (`cut`), since a shard whose first record rotted is not known
    /// any more.
    ///
    /// # Errors
    /// `Fenced` when a higher epoch is stored already.
    pub async fn fence(&self, target: Target, epoch: Epoch, request: RequestId) -> Result<ShardState, StoreError> {
        if self.is_failed() {
            return Err(StoreError::Full);
        }
        let repeated = {
            let mut state = self.0.state.borrow_mut();
            if state.is_deleted(target.placement) {
                return Err(StoreError::NoShard);
            }
            let mut fresh = Shard::new(target.chunk, target.placement, target.index, Epoch(0));
            fresh.cut = true;
            let shard = state.shards.entry(target.placement).or_insert(fresh);
            if shard.chunk != target.chunk || shard.index != target.index {
                return Err(StoreError::BadRequest("placement belongs to another chunk or shard"));
            }
            if shard.sealed {
                return Ok(state_of(shard));
            }
            if epoch < shard.epoch {
                return Err(StoreError::Fenced { stored: shard.epoch });
            }
            let repeated = shard.epoch == epoch && !shard.is_busy() && !shard.slots.is_empty();
            shard.epoch = epoch;
            repeated
        };
        self.0.changed.notify_waiters();
        if !repeated && !self.0.platform.planted(PlantedBug::AckAfterFence) {
            self.control_record(target, epoch, RecordKind::Fence, request).await?;
        }
        self.state_of(target)
    }

    /// Fixes the length, which was decided in Raft, and forgets what lies beyond it.
    ///
    /// # Errors
    /// `WrongOffset` when the shard holds less than `len`; `Fenced` under a higher epoch.
    pub async fn seal(
        &self,
        target: Target,
        epoch: Epoch,
        len: u64,
        request: RequestId,
    ) -> Result<ShardState, StoreError> {
        {
            let mut state = self.0.state.borrow_mut();
            let shard = state.shards.get_mut(&target.placement).ok_or(StoreError::NoShard)?;
            if shard.sealed && shard.durable_len() == len {
                return Ok(state_of(shard));
            }
            if shard.sealed {
                return Err(StoreError::Sealed { len: shard.durable_len() });
            }
            if epoch < shard.epoch {
                return Err(StoreError::Fenced { stored: shard.epoch });
            }
            if shard.durable_len() < len {
                return Err(StoreError::WrongOffset { len: shard.durable_len() });
            }
            shard.epoch = epoch;
            shard.seal_at(len);
        }
        self.0.changed.notify_waiters();
        self.control_record(target, epoch, RecordKind::Seal, request).await?;
        self.state_of(target)
    }

    async fn control_record(
        &self,
        target: Target,
        epoch: Epoch,
        kind: RecordKind,
        request: RequestId,
    ) -> Result<(), StoreError> {
        let pieces = self.place(target.placement, 0, Need::Control)?;
        let (ticket, len) = {
            let mut state = self.0.state.borrow_mut();
            let shard = state.shards.get_mut(&target.placement).ok_or(StoreError::NoShard)?;
            if shard.broken {
                // The fence begins a new life of the shard: what failed before it is cut off.
                shard.broken = false;
                shard.cut = true;
            }
            (shard.started(kind, shard.accepted_len(), 0, 0, Vec::new()), shard.accepted_len())
        };
        self.write_pieces(target, epoch, kind, len, &Bytes::new(), &pieces, request, ticket).await?;
        self.settled(target, epoch, ticket).await
    }

    fn with_shard<T>(&self, target: Target, look: impl FnOnce(&Shard) -> T) -> Result<T, StoreError> {
        self.0.state.borrow().shards.get(&target.placement).map(look).ok_or(StoreError::NoShard)
    }

    fn state_of(&self, target: Target) -> Result<ShardState, StoreError> {
        self.with_shard(target, state_of)
    }
}

impl super::Inner {
    /// Whether the file refuses everything from now on.
    fn flusher_failed(&self, error: &DiskError) -> bool {
        matches!(error, DiskError::Io { op, .. } if op.contains("flush") || op.contains("sync"))
    }
}

/// Slots without a durable record go back when no write can land in them any more.
fn give_back_abandoned(shard: &mut Shard, slots: &mut Slots) {
    if shard.writing == 0 {
        slots.give_back(shard.abandoned.drain(..));
    }
}

fn state_of(shard: &Shard) -> ShardState {
    ShardState { len: shard.durable_len(), epoch: shard.epoch.0, cut: shard.cut, sealed: shard.sealed }
}

/// The parts of one device write: header block, payload, padding.
pub(super) fn encode(store: StoreId, header: &RecordHeader, payload: Bytes) -> Vec<Bytes> {
    let mut block = Buffer::zeroed(BLOCK);
    header.encode(store, &payload, &mut block);
    if is_inline(payload.len()) {
        return vec![block.freeze()];
    }
    let whole = payload.len() / BLOCK * BLOCK;
    let mut parts = vec![block.freeze()];
    if whole > 0 {
        parts.push(payload.slice(..whole));
    }
    if whole < payload.len() {
        let mut last = Buffer::zeroed(BLOCK);
        last[..payload.len() - whole].copy_from_slice(&payload[whole..]);
        parts.push(last.freeze());
    }
    parts
}
