//! Disks that are drained, and taken back or removed in the end. Not a fault, but it comes at any
//! time, also while others happen.

use std::rc::Rc;

use proto::members::DrainDisks;
use proto::meta::Body;
use proto::rows::disk_state;
use types::ids::Partition;

use super::Faults;
use crate::cluster::Node;
use crate::inspect;
use crate::shape::CHUNKS;

impl Faults {
    /// Drains a disk if none is; some are taken back after a while, others stay so.
    pub(super) fn drain(self: &Rc<Faults>) {
        let Some(leader) = self.cluster.leader() else { return };
        let index = self.below(CHUNKS);
        let Some(Some(store)) = self.cluster.stores().get(index).cloned() else { return };
        let disks = inspect::disks(&leader);
        if disks.values().any(|row| row.draining && row.state == disk_state::IN) {
            return;
        }
        let own = disks.iter().find(|(_, row)| row.store == store.id().0 && row.state == disk_state::IN);
        let Some((disk, _)) = own else { return };
        self.cluster.fault("disk is drained", &format!("disk {disk} of {} is drained", Node::Chunk(index).name()));
        self.set_draining(*disk, true);
        if self.cluster.draw.chance(0.5) {
            let disk = *disk;
            self.later(self.cluster.draw.millis(500, 15_000), move |this| this.set_draining(disk, false));
        }
    }

    fn set_draining(&self, disk: u64, draining: bool) {
        let meta = self.meta.clone();
        // It may be lost by now, or too few would be left: then it is not drained.
        self.spawn(async move {
            let body = Body::DrainDisks(DrainDisks { disks: vec![disk], draining });
            drop(meta.command(Partition(0), body).await);
        });
    }
}
