//! Which replicas belong to the metaserver's group: who is let in, and who leaves.
//!
//! Replicas of one process name each other by addresses that mean nothing elsewhere; those of a cluster
//! of several nodes are reached at `HOST:PORT#REPLICA` (`rpc::peers::split_address`). A node holds one
//! of them once there are enough nodes, and none if it is drained or was removed.

use std::time::Duration;

use proto::meta::{JoinReplica, LogEnd, LogEndRequest};
use proto::rows::disk_state;
use proto::service::{class, code};
use rpc::peers::split_address;

use super::{MetaServer, Trouble};

/// How long a replica's leaving may take, and the pause between two looks.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
const LEAVE_PAUSE: Duration = Duration::from_millis(50);
/// As many replicas as a cluster needs.
const REPLICAS: usize = 3;

impl MetaServer {
    /// Lets a replica in and tells it who belongs to the group.
    pub(super) async fn join(&self, ask: &JoinReplica) -> Result<LogEnd, Trouble> {
        self.0.replica.read_barrier().await?;
        if ask.raft_id == 0 || ask.address.is_empty() {
            return Err(Trouble::new(class::GIVE_UP, code::BAD_REQUEST, "raft id or address missing"));
        }
        if let Some(why) = self.stands_against(ask)? {
            return Err(Trouble::new(class::GIVE_UP, code::CONFLICT, why));
        }
        let replaces = self.in_place_of(ask).await;
        self.0.replica.admit(ask.raft_id, &ask.address, replaces);
        Ok(self.0.replica.log_end(LogEndRequest { raft_id: 0, last_index: 0 }))
    }

    fn stands_against(&self, ask: &JoinReplica) -> Result<Option<&'static str>, Trouble> {
        let disks = self.disks()?;
        if disks.values().any(|row| row.removed && row.replica == ask.address) {
            return Ok(Some("the replica's directory was removed"));
        }
        let group = self.0.replica.group();
        let (machine, replica) = split_address(&ask.address);
        if replica == 0 || group.contains_key(&ask.raft_id) {
            return Ok(None);
        }
        let mut own = disks.values().filter(|row| row.address == machine).peekable();
        let is_known = own.peek().is_some();
        if is_known && !own.any(|row| row.state == disk_state::IN && !row.draining) {
            return Ok(Some("the replica's node is drained or was removed"));
        }
        let has_another = group.iter().any(|(id, address)| split_address(address).0 == machine && *id != ask.replaces);
        if has_another && group.len() >= REPLICAS && !group.contains_key(&ask.replaces) {
            return Ok(Some("another replica of the node belongs to the group"));
        }
        Ok(None)
    }

    /// Has a replica leave the group for good.
    pub(super) async fn leave(&self, raft_id: u64) -> Result<(), Trouble> {
        self.0.replica.read_barrier().await?;
        let voters = self.0.replica.voters();
        if voters == [raft_id] {
            let text = "it is the last replica of the metadata";
            return Err(Trouble::new(class::GIVE_UP, code::CONFLICT, text));
        }
        let clock = self.0.platform.clock();
        let deadline = clock.now() + LEAVE_TIMEOUT;
        while clock.now() < deadline {
            if self.0.replica.dismiss(raft_id) {
                return Ok(());
            }
            clock.sleep(LEAVE_PAUSE).await;
            // After handing leadership over this answers who leads now.
            self.0.replica.read_barrier().await?;
        }
        Err(Trouble::new(class::RETRY, code::OTHER, "the replica has not left yet"))
    }
}
