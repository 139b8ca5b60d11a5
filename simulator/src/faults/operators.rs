//! What operators do to a whole cluster while it works: an upgrade is finalized, redundancy is changed.

use std::rc::Rc;

use proto::level;
use proto::members::{RaiseLevel, SetRedundancy};
use proto::meta::Body;
use proto::rows::RedundancyRow;
use types::ids::Partition;
use types::redundancy::Redundancy;

use super::Faults;

impl Faults {
    /// Raises the feature level of a cluster that began at the one before.
    pub(super) fn finalize(self: &Rc<Faults>) {
        let Some(leader) = self.cluster.leader() else { return };
        if leader.level() == 0 || leader.level() >= level::CURRENT {
            return;
        }
        self.cluster.fault("upgrade is finalized", "the feature level is raised");
        let meta = self.meta.clone();
        // Somebody may be silent: then it is refused, and comes again.
        self.spawn(async move {
            let body = Body::RaiseLevel(RaiseLevel { level: level::CURRENT });
            drop(meta.command(Partition(0), body).await);
        });
    }

    /// Asks for another redundancy: what survives fewer losses is laid out anew. Never for one that
    /// survives fewer than the faults of this seed go by.
    pub(super) fn change_redundancy(self: &Rc<Faults>) {
        let least = self.cluster.shape.policy.parity();
        let all = [
            Redundancy::Copies(2),
            Redundancy::Copies(3),
            Redundancy::Erasure { data: 2, parity: 1 },
            Redundancy::Erasure { data: 4, parity: 2 },
            Redundancy::Erasure { data: 2, parity: 2 },
        ];
        let enough: Vec<Redundancy> = all.into_iter().filter(|policy| policy.parity() >= least).collect();
        let policy = *self.cluster.draw.pick(&enough);
        self.cluster.fault("redundancy is changed", &format!("redundancy becomes {policy}"));
        let meta = self.meta.clone();
        self.spawn(async move {
            let body = Body::SetRedundancy(SetRedundancy { redundancy: RedundancyRow::from(policy) });
            drop(meta.command(Partition(0), body).await);
        });
    }
}
