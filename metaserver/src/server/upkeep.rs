//! What the leader does once a second: sessions that are silent, disks that are gone, chunks whose
//! writer or disk is gone (`abandoned`), shards to delete.

use std::time::Duration;

use bytes::Bytes;
use proto::chunk::Delete;
use proto::keys;
use proto::meta::{Body, Deleted, EndSession, LoseDisk};
use proto::rows::{DiskRow, SessionRow, disk_state};
use proto::service::Request;
use types::ids::{Partition, StoreId};

use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;
use crate::apply::txn::prost_free::Row;

/// Space that was freed comes back this soon; everything else is looked at in every fourth turn.
const PERIOD: Duration = Duration::from_millis(250);
const TURNS: u32 = 4;
/// How long a disk may take to delete shards before the others go on.
const DELETE_TIMEOUT: Duration = Duration::from_secs(2);
/// Shards deleted in one call.
const DELETE_MAX: usize = 500;

impl MetaServer {
    pub(super) async fn upkeep(self) {
        let mut turn = 0;
        loop {
            self.0.platform.clock().sleep(PERIOD).await;
            if self.0.replica.stopped().is_some() {
                return;
            }
            turn = (turn + 1) % TURNS;
            if turn > 0 {
                if self.0.replica.is_leader()
                    && let Err(trouble) = self.delete_shards().await
                {
                    tracing::debug!(text = %trouble.failure().text, "shards are not deleted yet");
                }
                continue;
            }
            if let Ok(space) = self.0.disk.space() {
                self.0.full.set(space.available < super::RESERVE_BYTES);
            }
            if !self.0.replica.is_leader() {
                continue;
            }
            let (term, now) = (self.0.replica.term(), self.0.platform.clock().now());
            self.0.liveness.borrow_mut().begin(term, now);
            if let Err(trouble) = self.round().await {
                let failure = trouble.failure();
                tracing::debug!(text = %failure.text, "upkeep stopped early");
            }
        }
    }

    async fn round(&self) -> Result<(), Trouble> {
        self.0.replica.read_barrier().await?;
        // That may have been the moment in which this process was paused.
        self.0.liveness.borrow_mut().begin(self.0.replica.term(), self.0.platform.clock().now());
        if self.cluster().is_err() {
            return Ok(());
        }
        self.end_silent_sessions().await?;
        self.lose_disks().await?;
        self.seal_abandoned()?;
        self.delete_shards().await?;
        self.sweep_volumes().await?;
        self.expire_moves().await
    }

    async fn end_silent_sessions(&self) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let mut silent = Vec::new();
        let txn = Txn::new(self.0.replica.store());
        let prefix = [&[keys::table::SESSION][..], &Partition(0).0.to_be_bytes()].concat();
        for (key, value) in txn.scan_prefix(&prefix, usize::MAX)? {
            let row = SessionRow::from_bytes(&value)?;
            let Some(session) = keys::last_u64(&key) else { continue };
            let silence = self.0.liveness.borrow().session_silence(session, now);
            if !row.ended && silence.is_some_and(|silence| silence > self.0.times.session_silent) {
                silent.push(session);
            }
        }
        for session in silent {
            tracing::info!(session, "session is silent and ends");
            self.propose_own(Body::EndSession(EndSession { session })).await?;
        }
        Ok(())
    }

    async fn lose_disks(&self) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        for (disk, row) in self.disks()?.iter() {
            let disk = *disk;
            if row.state != disk_state::IN {
                continue;
            }
            let (failed, silence) = {
                let liveness = self.0.liveness.borrow();
                let failed = liveness.disk(disk, now, self.0.times.disk_silent).is_some_and(|heard| heard.failed);
                (failed, liveness.disk_silence(disk, now))
            };
            let gone = silence.is_some_and(|silence| silence > self.0.times.disk_lost);
            if failed || gone {
                tracing::warn!(disk = %Self::disk_name(disk), failed, "disk is declared lost, its shards are repaired elsewhere");
                self.propose_own(Body::LoseDisk(LoseDisk { disk })).await?;
                self.0.repairs.borrow_mut().forget_order();
            }
        }
        Ok(())
    }

    async fn delete_shards(&self) -> Result<(), Trouble> {
        let now = self.0.platform.clock().now();
        let disks = self.disks()?;
        let usable = |disk: u64, row: &DiskRow| {
            let alive = self.0.liveness.borrow().disk(disk, now, self.0.times.disk_silent).is_some();
            alive && row.state == disk_state::IN
        };
        let asks = disks.iter().filter(|(disk, row)| usable(**disk, row)).map(|(disk, row)| self.delete_on(*disk, row));
        futures_util::future::join_all(asks).await.into_iter().collect()
    }

    async fn delete_on(&self, disk: u64, row: &DiskRow) -> Result<(), Trouble> {
        let prefix = [&[keys::table::DELETE][..], &disk.to_be_bytes()].concat();
        let rows = Txn::new(self.0.replica.store()).scan_prefix(&prefix, DELETE_MAX)?;
        let placements: Vec<u64> = rows.iter().filter_map(|(key, _)| keys::last_u64(key)).collect();
        if placements.is_empty() {
            return Ok(());
        }
        let request = Request::Delete(Delete { placements: placements.clone() });
        let id = self.0.peers.new_request();
        match self.0.peers.call(&row.address, StoreId(row.store), id, request, Bytes::new(), DELETE_TIMEOUT).await {
            Ok(_) => {
                self.propose_own(Body::Deleted(Deleted { disk, placements })).await?;
            }
            Err(error) => tracing::debug!(disk, %error, "shards are not deleted yet"),
        }
        Ok(())
    }
}
