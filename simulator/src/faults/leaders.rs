//! Leaders that do not know yet that they lead no more.

use std::rc::Rc;
use std::time::Duration;

use super::Faults;
use crate::cluster::Node;
use crate::shape::METAS;

impl Faults {
    /// The leader cannot reach the other metaservers, while everybody reaches everybody else.
    pub(super) fn split(self: &Rc<Faults>) {
        let Some(leader) = self.cluster.leader() else { return };
        let leader = leader.replica().address().trim_end_matches(":7000").to_owned();
        if self.cluster.draw.chance(0.5) {
            return self.leave_behind(leader);
        }
        self.cluster.fault(
            "leader is cut off from the other metaservers",
            &format!("{leader} is cut off from the other metaservers"),
        );
        self.cut_off(&leader);
        self.later(self.cluster.draw.millis(500, 5000), |this| this.simulation().heal_all());
    }

    /// Cuts a metaserver off from the others.
    fn cut_off(&self, meta: &str) {
        for other in (0..METAS).map(|index| Node::Meta(index).name()).filter(|name| name != meta) {
            self.simulation().partition(meta, &other, true);
        }
    }

    /// The leader is stopped and cut off from the other metaservers until these have another one, whom a new
    /// client finds while the old clients do not know; then it goes on and takes itself for the leader.
    fn leave_behind(self: &Rc<Faults>, leader: String) {
        let this = self.clone();
        self.spawn(async move {
            this.cluster.fault("leader is left behind", &format!("{leader} is stopped until there is another leader"));
            this.simulation().pause(&leader);
            this.cut_off(&leader);
            let address = format!("{leader}:7000");
            for _ in 0..40 {
                this.wait(Duration::from_millis(50)).await;
                let now = this.cluster.leader();
                if !this.on.get() || now.is_some_and(|meta| meta.replica().address() != address) {
                    break;
                }
            }
            if this.on.get() {
                this.cluster.boot(Node::Client(this.below(this.cluster.shape.work.clients)));
                this.wait(this.cluster.draw.millis(200, 1200)).await;
            }
            this.simulation().resume(&leader);
            this.wait(this.cluster.draw.millis(300, 2000)).await;
            this.simulation().heal_all();
        });
    }
}
