//! Who belongs to the group: new replicas come as learners, in place of those that are gone, and
//! vote once they have caught up (joint consensus, by raft-rs).

use prost_old::Message as _;
use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, EntryType};
use raft::prelude::Entry;

use super::replica::{Core, Input, Replica, member_key};
use crate::apply::txn::Txn;
use crate::store::StoreFault;

impl Replica {
    /// Lets a new replica in as a learner, in place of `replaces` (0 = nobody) and of any older one
    /// at the same address.
    pub fn admit(&self, raft_id: u64, address: &str, replaces: u64) {
        let mut core = self.0.core.borrow_mut();
        let known = core.raw.raft.prs().conf().to_conf_state();
        if known.voters.contains(&raft_id) || known.learners.contains(&raft_id) {
            return;
        }
        let old: Vec<u64> = core
            .members
            .iter()
            .filter(|(id, member)| *member == address || **id == replaces)
            .map(|(id, _)| *id)
            .collect();
        let mut change = ConfChangeV2 { context: address.as_bytes().to_vec(), ..ConfChangeV2::default() };
        change.changes.push(single(ConfChangeType::AddLearnerNode, raft_id));
        for id in old {
            if known.voters.contains(&id) || known.learners.contains(&id) {
                change.changes.push(single(ConfChangeType::RemoveNode, id));
            }
        }
        core.inbox.push_back(Input::Change(change));
        drop(core);
        self.0.work.notify_one();
    }

    /// Makes learners that have caught up voters.
    pub(super) fn promote(&self, core: &mut Core) {
        if core.raw.raft.state != StateRole::Leader || core.raw.raft.has_pending_conf() {
            return;
        }
        let committed = core.raw.raft.raft_log.committed;
        let ready = core.raw.raft.prs().conf().to_conf_state().learners.into_iter().find(|learner| {
            core.raw
                .raft
                .prs()
                .get(*learner)
                .is_some_and(|progress| progress.matched + 100 >= committed && progress.matched > 0)
        });
        if let Some(learner) = ready {
            let mut change = ConfChangeV2::default();
            change.changes.push(single(ConfChangeType::AddNode, learner));
            core.inbox.push_back(Input::Change(change));
        }
    }

    pub(super) fn apply_change(&self, core: &mut Core, txn: &mut Txn<'_>, entry: &Entry) -> Result<(), StoreFault> {
        let change = match entry.entry_type() {
            EntryType::EntryConfChangeV2 => {
                ConfChangeV2::decode(entry.data.as_slice()).map_err(|error| StoreFault(error.to_string()))?
            }
            _ => return Err(StoreFault("membership change of an unknown kind".into())),
        };
        let conf = core.raw.apply_conf_change(&change).map_err(|error| StoreFault(error.to_string()))?;
        {
            let mut mem = core.mem.0.borrow_mut();
            mem.conf_state = conf;
            // A snapshot that does not name a new replica is refused by it for ever.
            mem.snapshot = None;
        }
        for single in &change.changes {
            match single.change_type() {
                ConfChangeType::RemoveNode => {
                    core.members.remove(&single.node_id);
                    txn.delete(member_key(single.node_id));
                }
                ConfChangeType::AddLearnerNode if !change.context.is_empty() => {
                    let address = String::from_utf8_lossy(&change.context).into_owned();
                    txn.put_bytes(member_key(single.node_id), address.clone().into_bytes());
                    core.members.insert(single.node_id, address);
                }
                _ => {}
            }
        }
        // Founders are written too, so that a replica that joins learns everybody.
        for (id, address) in &core.members {
            txn.put_bytes(member_key(*id), address.clone().into_bytes());
        }
        Ok(())
    }
}

fn single(kind: ConfChangeType, id: u64) -> ConfChangeSingle {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = id;
    single
}
