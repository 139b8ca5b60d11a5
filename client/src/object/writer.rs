//! Bytes on their way into an object or part.
//!
//! They gather to units, go out as appends (a few at once), and come back as extents. Very small
//! bodies stay in memory and ride inside the command. What is below a stripe goes to shared
//! chunks of copies.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use platform::buffer::Buffer;
use platform::tasks::TaskHandle;
use proto::meta::NewBody;
use proto::rows::ExtentRow;
use rpc::request::carried;
use types::extent::Extent;
use types::ids::Partition;
use types::redundancy::Redundancy;

use super::Inner;
use super::api::ObjectError;
use crate::chunk::writer::{APPEND_MAX, Pin, WriteError};

/// Appends of one body under way at once.
const APPENDS_MAX: usize = 4;
/// Payloads up to this are packed with others.
const PACK_MAX: usize = 256 << 10;

type Stored = Result<(Extent, Pin), WriteError>;

/// Bytes on their way into an object or part; push them with `write`, in order. Dropping it
/// abandons them: nothing is visible, and reclaim finds the bytes.
pub struct ObjectWriter {
    objects: Rc<Inner>,
    partition: Partition,
    /// As it was when the first byte came.
    policy: Redundancy,
    pending: VecDeque<Bytes>,
    pending_len: usize,
    written: u64,
    unit: usize,
    running: VecDeque<(u64, TaskHandle<Stored>)>,
    extents: BTreeMap<u64, Extent>,
    pins: Vec<Pin>,
}

impl ObjectWriter {
    pub(super) fn new(objects: Rc<Inner>, partition: Partition) -> ObjectWriter {
        let policy = objects.policy.get();
        ObjectWriter {
            objects,
            partition,
            policy,
            pending: VecDeque::new(),
            pending_len: 0,
            written: 0,
            unit: 0,
            running: VecDeque::new(),
            extents: BTreeMap::new(),
            pins: Vec::new(),
        }
    }

    /// Takes the next bytes; waits while too much is under way (bounded memory).
    ///
    /// # Errors
    /// An earlier append failed for good.
    pub async fn write(&mut self, data: Bytes) -> Result<(), ObjectError> {
        if data.is_empty() {
            return Ok(());
        }
        self.written += data.len() as u64;
        self.pending_len += data.len();
        self.pending.push_back(data);
        if self.pending_len >= PACK_MAX && self.unit == 0 {
            self.unit = self.unit_len().await?;
        }
        while self.unit > 0 && self.pending_len >= self.unit {
            let payload = self.take(self.unit);
            self.append(payload).await?;
        }
        Ok(())
    }

    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of one append: as much as fits, in whole stripes.
    async fn unit_len(&self) -> Result<usize, ObjectError> {
        let policy = self.policy;
        let stripe = self.objects.writer.stripe_len(self.partition, policy).await?;
        let unit = self.objects.append_unit.min(APPEND_MAX * policy.needed());
        Ok((unit / stripe).max(1) * stripe)
    }

    /// The next `len` pending bytes in one piece.
    fn take(&mut self, len: usize) -> Bytes {
        self.pending_len -= len;
        if let Some(first) = self.pending.front_mut()
            && first.len() >= len
        {
            let taken = first.split_to(len);
            if first.is_empty() {
                self.pending.pop_front();
            }
            return taken;
        }
        let mut joined = Buffer::with_capacity(len);
        while joined.len() < len {
            let Some(mut next) = self.pending.pop_front() else { break };
            let part = next.split_to(next.len().min(len - joined.len()));
            joined.extend_from_slice(&part);
            if !next.is_empty() {
                self.pending.push_front(next);
            }
        }
        joined.freeze()
    }

    async fn append(&mut self, payload: Bytes) -> Result<(), ObjectError> {
        let logical = self.written - self.pending_len as u64 - payload.len() as u64;
        let (writer, partition, policy) = (self.objects.writer.clone(), self.partition, self.policy);
        let work = async move { writer.append(partition, policy, payload).await };
        let task = self.objects.meta.platform().tasks().spawn(carried(work));
        self.running.push_back((logical, task));
        while self.running.len() >= APPENDS_MAX {
            self.reap().await?;
        }
        Ok(())
    }

    async fn reap(&mut self) -> Result<(), ObjectError> {
        let Some((logical, task)) = self.running.pop_front() else { return Ok(()) };
        let stored = task.await.map_err(|_| ObjectError::Unavailable("the process is stopping".into()))?;
        let (extent, pin) = stored?;
        self.keep(logical, extent, pin);
        Ok(())
    }

    fn keep(&mut self, logical: u64, extent: Extent, pin: Pin) {
        self.extents.insert(logical, Extent { logical, ..extent });
        self.pins.push(pin);
    }

    /// Everything is stored when this returns: a body for the command, and the pins that must
    /// live until it is applied.
    pub(super) async fn finish(mut self) -> Result<(NewBody, Vec<Pin>), ObjectError> {
        let nothing_out = self.running.is_empty() && self.extents.is_empty();
        if nothing_out && self.pending_len <= self.objects.inline_max {
            let len = self.pending_len;
            let inline = self.take(len);
            return Ok((NewBody { inline, extents: Vec::new(), size: self.written }, Vec::new()));
        }
        let policy = self.policy;
        if let Redundancy::Erasure { .. } = policy {
            let stripe = self.objects.writer.stripe_len(self.partition, policy).await?;
            let whole = self.pending_len / stripe * stripe;
            if whole > 0 {
                let payload = self.take(whole);
                self.append(payload).await?;
            }
        }
        while self.pending_len > 0 {
            let len = self.pending_len.min(APPEND_MAX);
            let logical = self.written - self.pending_len as u64;
            let payload = self.take(len);
            let small = policy.small();
            let (extent, pin) = if len <= PACK_MAX {
                self.objects.packer.append(self.partition, small, payload).await?
            } else {
                {
                    // As a task: dropped in the middle it would leave a hole that stalls the others.
                    let (writer, partition) = (self.objects.writer.clone(), self.partition);
                    let work = async move { writer.append(partition, small, payload).await };
                    let task = self.objects.meta.platform().tasks().spawn(carried(work));
                    task.await.map_err(|_| ObjectError::Unavailable("the process is stopping".into()))??
                }
            };
            self.keep(logical, extent, pin);
        }
        while !self.running.is_empty() {
            self.reap().await?;
        }
        let extents = join_neighbours(self.extents.values())
            .into_iter()
            .map(|extent| ExtentRow {
                logical: extent.logical,
                chunk: extent.chunk.0,
                offset: extent.offset,
                len: extent.len,
            })
            .collect();
        Ok((NewBody { inline: Bytes::new(), extents, size: self.written }, self.pins))
    }
}

/// Extents that follow each other both in the body and in the chunk become one.
fn join_neighbours<'a>(extents: impl Iterator<Item = &'a Extent>) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for extent in extents {
        match out.last_mut() {
            Some(last)
                if last.chunk == extent.chunk
                    && last.offset + last.len == extent.offset
                    && last.logical + last.len == extent.logical =>
            {
                last.len += extent.len;
            }
            _ => out.push(*extent),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Extent, join_neighbours};
    use types::ids::ChunkId;

    #[test]
    fn neighbours_join_only_if_they_follow_in_both_places() {
        let extent = |logical, chunk, offset, len| Extent { logical, chunk: ChunkId(chunk), offset, len };
        let joined = join_neighbours(
            [extent(0, 1, 0, 10), extent(10, 1, 10, 5), extent(15, 1, 20, 5), extent(20, 2, 25, 5)].iter(),
        );
        assert_eq!(joined, vec![extent(0, 1, 0, 15), extent(15, 1, 20, 5), extent(20, 2, 25, 5)]);
    }
}
