//! Owners of volumes, caught where it is delicate: in the middle of a checkpoint, of a take-over, right behind
//! a snapshot or a chunk that was copied out.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::Faults;
use crate::cluster::Node;
use crate::shape::METAS;

const PLACES: [&str; 5] = [
    "volume index is half stored",
    "volume journal is sealed",
    "volume snapshot is taken",
    "volume chunk is copied out",
    "volume write wins over a move",
];
/// How long an owner is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl Faults {
    /// An owner is cut off from the metaservers: it does not hear that another has its volume.
    pub(super) fn split_owner(self: &Rc<Faults>) {
        let Some(work) = self.cluster.shape.work.volumes.as_ref() else { return };
        let name = Node::Client(self.below(work.owners)).name();
        self.cluster.fault("owner is cut off from the metaservers", &format!("{name} cut off from the metaservers"));
        for meta in (0..METAS).map(Node::Meta) {
            self.simulation().partition(&name, &meta.name(), true);
        }
        self.later(self.cluster.draw.millis(2000, 12_000), |this| this.simulation().heal_all());
    }

    /// An owner loses its power in such a place, or stops there until somebody else may have its volume.
    pub(super) fn catch_owner(self: &Rc<Faults>) {
        let Some(work) = self.cluster.shape.work.volumes.as_ref() else { return };
        let node = Node::Client(self.below(work.owners));
        let place = *self.cluster.draw.pick(&PLACES);
        let this = self.clone();
        self.spawn(async move {
            let name = node.name();
            let patience = std::pin::pin!(this.wait(PATIENCE));
            let trap = std::pin::pin!(this.simulation().trap(&name, place));
            let Either::Left(_) = select(trap, patience).await else { return this.simulation().resume(&name) };
            if !this.on.get() {
                return this.simulation().resume(&name);
            }
            this.cluster.fault("owner of a volume is caught", &format!("{name} is caught: {place}"));
            if this.cluster.draw.chance(0.5) {
                this.crash(node);
                return;
            }
            this.wait(this.cluster.draw.millis(500, 9000)).await;
            this.simulation().resume(&name);
        });
    }
}
