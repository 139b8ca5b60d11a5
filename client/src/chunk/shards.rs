//! Calls to single shards.

use std::time::Duration;

use bytes::Bytes;
use proto::chunk::{Append, Read, Seal, ShardName, ShardState};
use proto::rows::ShardRow;
use proto::service::{Answer, Failure, Request, class, code};
use rpc::call::CallError;
use rpc::peers::Peers;
use types::ids::RequestId;

use crate::disks::DiskMap;

/// How long an append may take before its chunk is given up.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a read of one shard may take.
pub const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Calls shards by their rows. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    peers: Peers,
    disks: DiskMap,
}

impl Shards {
    /// Calls go out by `peers` to where `disks` says.
    pub fn new(peers: Peers, disks: DiskMap) -> Shards {
        Shards { peers, disks }
    }

    /// The disks as seen here.
    pub fn disks(&self) -> &DiskMap {
        &self.disks
    }

    async fn call(
        &self,
        disk: u64,
        request: RequestId,
        body: Request,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<rpc::call::Reply, CallError> {
        let place = self
            .disks
            .place(disk)
            .await
            .map_err(|error| CallError::Unreachable { address: format!("disk {disk}"), why: error.to_string() })?;
        let Some((address, store)) = place else {
            return Err(CallError::Refused(Failure::new(class::REFETCH, code::WRONG_TARGET, "no such disk")));
        };
        let called = self.peers.call(&address, store, request, body, payload, timeout).await;
        let is_elsewhere = match &called {
            Err(CallError::Refused(failure)) => failure.code == code::WRONG_TARGET,
            Err(CallError::Unreachable { .. }) => true,
            _ => false,
        };
        if is_elsewhere {
            self.disks.look_again();
        }
        match &called {
            Ok(_) => self.disks.mark_well(disk),
            Err(CallError::Refused(failure)) if failure.code != code::DISK && failure.code != code::FULL => {}
            Err(_) => self.disks.mark_failed(disk),
        }
        called
    }

    /// Appends; returns when the bytes are flushed there. With `reserve` they may take from what
    /// the store keeps for freeing space.
    ///
    /// # Errors
    /// The bytes may or may not be there.
    #[expect(clippy::too_many_arguments, reason = "everything an append names")]
    pub async fn append(
        &self,
        chunk: u64,
        shard: ShardRow,
        epoch: u64,
        offset: u64,
        payload: Bytes,
        reserve: bool,
        request: RequestId,
    ) -> Result<ShardState, CallError> {
        let name = ShardName { placement: shard.placement, chunk, index: shard.index };
        let body = Request::Append(Append { shard: name, epoch, offset, reserve });
        let clock = self.peers.platform().clock();
        let began = clock.now();
        let called = self.call(shard.disk, request, body, payload, APPEND_TIMEOUT).await;
        // One that nobody waits for any longer says most about the disk.
        if matches!(&called, Ok(_) | Err(CallError::TimedOut { .. })) {
            self.disks.note_append(shard.disk, clock.now().saturating_since(began));
        }
        match called?.answer {
            Answer::Shard(state) => Ok(state),
            _ => Err(CallError::Confused { address: format!("disk {}", shard.disk) }),
        }
    }

    /// Reads, verified.
    ///
    /// # Errors
    /// Read another shard.
    pub async fn read(
        &self,
        chunk: u64,
        shard: ShardRow,
        offset: u64,
        len: u32,
        request: RequestId,
    ) -> Result<Bytes, CallError> {
        let name = ShardName { placement: shard.placement, chunk, index: shard.index };
        let reply = self
            .call(shard.disk, request, Request::Read(Read { shard: name, offset, len }), Bytes::new(), READ_TIMEOUT)
            .await?;
        match reply.answer {
            Answer::Data(_) if reply.payload.len() == len as usize => Ok(reply.payload),
            _ => Err(CallError::Confused { address: format!("disk {}", shard.disk) }),
        }
    }

    /// Fixes a shard's length after it was filled (repair).
    ///
    /// # Errors
    /// The shard is not sealed there yet.
    pub async fn seal(
        &self,
        chunk: u64,
        shard: ShardRow,
        epoch: u64,
        len: u64,
        request: RequestId,
    ) -> Result<ShardState, CallError> {
        let name = ShardName { placement: shard.placement, chunk, index: shard.index };
        let body = Request::Seal(Seal { shard: name, epoch, len });
        match self.call(shard.disk, request, body, Bytes::new(), APPEND_TIMEOUT).await?.answer {
            Answer::Shard(state) => Ok(state),
            _ => Err(CallError::Confused { address: format!("disk {}", shard.disk) }),
        }
    }
}
