//! Verified reads: the header block names what it holds, each block carries its checksum.

use std::rc::Rc;

use bytes::Bytes;
use platform::buffer::Buffer;
use platform::planted::PlantedBug;
use proto::record::{BLOCK, RecordHeader, RecordKind, is_inline, payload_start, verify_blocks};

use super::shard::RecordRef;
use super::write::Target;
use super::{Store, StoreError};

/// The most bytes of one read.
pub const READ_MAX: usize = 1 << 20;
/// Skipping less than this, header and data come in one read.
const GAP_MAX: usize = 64 << 10;

impl Store {
    /// Reads `len` bytes at `offset`, all durable, all verified. A shard that gives other bytes or
    /// none is noted as damaged, so that it is repaired.
    ///
    /// # Errors
    /// `Beyond`, `NoShard`, `Rot` (nothing wrong is ever returned), `Disk`.
    pub async fn read(&self, target: Target, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        self.read_noting(target, offset, len, true).await
    }

    /// [`Store::read`] that also reads and checks headers which are known.
    pub(super) async fn read_all(&self, target: Target, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        self.read_noting(target, offset, len, false).await
    }

    async fn read_noting(&self, target: Target, offset: u64, len: usize, by_tables: bool) -> Result<Bytes, StoreError> {
        let read = self.read_verified(target, offset, len, by_tables).await;
        match &read {
            Err(StoreError::Rot { offset }) => self.note_damage(target, *offset)?,
            Err(StoreError::Disk(_)) => self.note_damage(target, offset)?,
            _ => {}
        }
        read
    }

    /// # Errors
    /// `NoShard` if it was deleted under the read: its slots may hold another one's bytes.
    fn note_damage(&self, target: Target, offset: u64) -> Result<(), StoreError> {
        let mut state = self.0.state.borrow_mut();
        if !state.shards.contains_key(&target.placement) {
            return Err(StoreError::NoShard);
        }
        self.0.rot_found.set(self.0.rot_found.get() + 1);
        tracing::warn!(store = %self.0.id, placement = %target.placement, chunk = %target.chunk, offset, "damaged bytes found");
        state.damaged.insert(target.placement);
        Ok(())
    }

    async fn read_verified(
        &self,
        target: Target,
        offset: u64,
        len: usize,
        by_tables: bool,
    ) -> Result<Bytes, StoreError> {
        if len == 0 || len > READ_MAX {
            return Err(StoreError::BadRequest("read of 0 or more than 1 MiB"));
        }
        let end = offset.checked_add(len as u64).ok_or(StoreError::BadRequest("offset overflows"))?;
        let records = {
            let state = self.0.state.borrow();
            let shard = state.shards.get(&target.placement).ok_or(StoreError::NoShard)?;
            if shard.chunk != target.chunk || shard.index != target.index {
                return Err(StoreError::NoShard);
            }
            if end > shard.durable_len() {
                return Err(StoreError::Beyond { len: shard.durable_len() });
            }
            shard.find(offset, end).to_vec()
        };
        if let [only] = records.as_slice()
            && only.offset <= offset
            && only.offset + u64::from(only.len) >= end
        {
            return self.read_record(target, *only, (offset, end), by_tables).await;
        }
        let mut out = Buffer::with_capacity(len);
        let mut at = offset;
        for record in records {
            // A hole is a record that recovery found rotten.
            if record.offset > at {
                break;
            }
            let upto = end.min(record.offset + u64::from(record.len));
            out.extend_from_slice(&self.read_record(target, record, (at, upto), by_tables).await?);
            at = upto;
        }
        if at < end {
            return Err(StoreError::Rot { offset: at });
        }
        Ok(out.freeze())
    }

    async fn read_record(
        &self,
        target: Target,
        record: RecordRef,
        (start, end): (u64, u64),
        by_tables: bool,
    ) -> Result<Bytes, StoreError> {
        let payload_len = record.len as usize;
        let (from, to) = ((start - record.offset) as usize, (end - record.offset) as usize);
        let first = from / BLOCK;
        let io = |error| StoreError::Disk(Rc::new(error));
        if is_inline(payload_len) {
            let block = self.0.file.read_at(record.position, BLOCK).await.map_err(io)?;
            self.check_header(target, record, &block)?;
            let begin = payload_start(payload_len);
            let bytes = block.freeze();
            return self.checked(record, &bytes[..BLOCK], 0, bytes.slice(begin..begin + payload_len), (from, to));
        }
        let last = to.div_ceil(BLOCK);
        if by_tables && let Some(bytes) = self.read_by_table(target, record, (first, last), (from, to)).await? {
            return Ok(bytes);
        }
        if first * BLOCK <= GAP_MAX {
            let whole = self.0.file.read_at(record.position, BLOCK + last * BLOCK).await.map_err(io)?;
            if whole.len() < BLOCK + last * BLOCK {
                return Err(StoreError::Rot { offset: start });
            }
            let bytes = whole.freeze();
            self.check_header(target, record, &bytes[..BLOCK])?;
            self.0.tables.remember(target, record, &bytes[..BLOCK], self.0.config.tables_bytes);
            let data = bytes.slice(BLOCK + first * BLOCK..BLOCK + last * BLOCK);
            return self.checked(record, &bytes[..BLOCK], first, data, (from, to));
        }
        let data_at = record.position + (BLOCK + first * BLOCK) as u64;
        let header = self.0.file.read_at(record.position, BLOCK);
        let data = self.0.file.read_at(data_at, (last - first) * BLOCK);
        let (header, data) = futures_util::future::join(header, data).await;
        let (header, data) = (header.map_err(io)?, data.map_err(io)?.freeze());
        self.check_header(target, record, &header)?;
        self.0.tables.remember(target, record, &header, self.0.config.tables_bytes);
        self.checked(record, &header, first, data, (from, to))
    }

    /// Reads blocks `first..last` of a record whose table is known. `None`: it is not, or it says that these
    /// are not the bytes.
    async fn read_by_table(
        &self,
        target: Target,
        record: RecordRef,
        (first, last): (usize, usize),
        range: (usize, usize),
    ) -> Result<Option<Bytes>, StoreError> {
        // Many blocks are read with their header at no cost.
        if (last - first) * BLOCK > GAP_MAX || !self.0.tables.has(target, record) {
            return Ok(None);
        }
        let read = self.0.file.read_at(record.position + (BLOCK + first * BLOCK) as u64, (last - first) * BLOCK);
        let data = read.await.map_err(|error| StoreError::Disk(Rc::new(error)))?.freeze();
        let checked = |table: &[u8]| self.checked(record, table, first, data.clone(), range).ok();
        Ok(self.0.tables.check(target, record, checked).flatten())
    }

    fn check_header(&self, target: Target, record: RecordRef, block: &[u8]) -> Result<(), StoreError> {
        let fits = RecordHeader::decode(block, self.0.id).is_ok_and(|header| {
            header.kind == RecordKind::Data
                && header.placement == target.placement
                && header.chunk == target.chunk
                && header.shard == target.index
                && header.offset == record.offset
                && header.payload_len == record.len
        });
        if fits { Ok(()) } else { Err(StoreError::Rot { offset: record.offset }) }
    }

    /// Checks blocks from `first` on and cuts `range` (bytes of the payload) out of them.
    fn checked(
        &self,
        record: RecordRef,
        header: &[u8],
        first: usize,
        data: Bytes,
        range: (usize, usize),
    ) -> Result<Bytes, StoreError> {
        if self.0.platform.planted(PlantedBug::ReadNotVerified) {
            return Ok(data.slice(range.0 - first * BLOCK..range.1 - first * BLOCK));
        }
        verify_blocks(header, record.len as usize, first, &data)
            .map_err(|block| StoreError::Rot { offset: record.offset + (block * BLOCK) as u64 })?;
        Ok(data.slice(range.0 - first * BLOCK..range.1 - first * BLOCK))
    }
}
