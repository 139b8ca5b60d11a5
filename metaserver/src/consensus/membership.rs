//! Who belongs to the group: new replicas come as learners, in place of those that are gone, and
//! vote once they have caught up (joint consensus, by raft-rs).

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost_old::Message as _;
use proto::meta::{JoinReplica, LogEnd, LogEndRequest};
use proto::service::{Answer, Request};
use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, EntryType};
use raft::prelude::Entry;
use types::ids::StoreId;

use super::replica::{Core, Input, Replica};
use super::start::member_key;
use crate::apply::txn::Txn;
use crate::store::StoreFault;

/// Rounds without a leader after which a replica asks around.
const LONELY_ROUNDS: u32 = 4;
/// Pause between two attempts to be let in.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

impl Replica {
    /// Lets a new replica in as a learner, in place of `replaces` (0 = nobody) and of any older one
    /// at the same address.
    pub fn admit(&self, raft_id: u64, address: &str, replaces: u64) {
        let mut core = self.0.core.borrow_mut();
        let known = core.raw.raft.prs().conf().to_conf_state();
        let votes = known.voters.contains(&raft_id);
        if votes || known.learners.contains(&raft_id) {
            if core.members.get(&raft_id).is_some_and(|known| known != address) {
                // It is reached elsewhere by now.
                let kind = if votes { ConfChangeType::AddNode } else { ConfChangeType::AddLearnerNode };
                let mut change = ConfChangeV2 { context: address.as_bytes().to_vec(), ..ConfChangeV2::default() };
                change.changes.push(single(kind, raft_id));
                core.inbox.push_back(Input::Change(change));
                drop(core);
                self.0.work.notify_one();
            }
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

    /// Has a member leave for good. Answers whether it has left; asked again until then. A leader hands
    /// leadership over before it leaves.
    pub fn dismiss(&self, raft_id: u64) -> bool {
        let mut core = self.0.core.borrow_mut();
        let known = core.raw.raft.prs().conf().to_conf_state();
        if !known.voters.contains(&raft_id) && !known.learners.contains(&raft_id) {
            return true;
        }
        if raft_id == self.0.config.raft_id {
            let best = known.voters.iter().filter(|id| **id != raft_id).copied();
            let best = best.max_by_key(|id| core.raw.raft.prs().get(*id).map_or(0, |progress| progress.matched));
            if let Some(next) = best {
                core.raw.transfer_leader(next);
            }
        } else {
            let mut change = ConfChangeV2::default();
            change.changes.push(single(ConfChangeType::RemoveNode, raft_id));
            core.inbox.push_back(Input::Change(change));
        }
        drop(core);
        self.0.work.notify_one();
        false
    }

    /// Asks to be let in for as long as this replica does not belong to the group, and asks around when
    /// it hears of nobody or from somebody it does not know.
    pub(super) async fn keep_in_touch(self) {
        let mut lonely = 0;
        loop {
            if self.stopped().is_some() {
                return;
            }
            lonely = if self.leader() == 0 { lonely + 1 } else { 0 };
            let ask_around = self.0.stranger.replace(false) || lonely >= LONELY_ROUNDS;
            if !self.belongs() || self.has_moved() || ask_around && self.is_told_that_it_left().await {
                self.ask_to_be_let_in().await;
            }
            self.0.platform.clock().sleep(ASK_PAUSE).await;
        }
    }

    /// As far as it knows itself.
    fn belongs(&self) -> bool {
        let core = self.0.core.borrow();
        let conf = core.raw.raft.prs().conf().to_conf_state();
        let own = self.0.config.raft_id;
        conf.voters.contains(&own) || conf.learners.contains(&own)
    }

    /// The group knows it by another address than its own.
    fn has_moved(&self) -> bool {
        let known = self.0.core.borrow().members.get(&self.0.config.raft_id).cloned();
        known.is_some_and(|known| known != self.0.config.address)
    }

    fn others(&self) -> BTreeSet<String> {
        self.members().into_values().filter(|address| *address != self.0.config.address).collect()
    }

    /// Asks the others who belongs to the group. Whether somebody who knows more than this replica says
    /// that it does not: it was replaced, and came back after all.
    async fn is_told_that_it_left(&self) -> bool {
        let own = self.0.config.raft_id;
        let mut left = false;
        for address in self.others() {
            let ask = LogEndRequest { raft_id: own, last_index: self.durable_index() };
            let request = self.0.peers.new_request();
            let call =
                self.0.peers.call(&address, StoreId(0), request, Request::LogEnd(ask), Bytes::new(), ASK_TIMEOUT);
            if let Ok(Answer::LogEnd(end)) = call.await.map(|reply| reply.answer) {
                self.learn_members(&end);
                left |= end.applied > self.applied() && !end.voters.is_empty() && !end.member_ids.contains(&own);
            }
        }
        left
    }

    /// Takes over addresses that it did not know.
    fn learn_members(&self, end: &LogEnd) {
        let members = end.member_ids.iter().copied().zip(end.members.iter().cloned());
        self.0.core.borrow_mut().members.extend(members);
    }

    /// Whoever leads lets it in.
    async fn ask_to_be_let_in(&self) {
        let join = JoinReplica {
            raft_id: self.0.config.raft_id,
            address: self.0.config.address.clone(),
            replaces: self.0.ballot.get().replaces,
        };
        if self.is_leader() && self.belongs() {
            return self.admit(join.raft_id, &join.address, 0);
        }
        for address in self.others() {
            let ask = Request::JoinReplica(join.clone());
            let request = self.0.peers.new_request();
            let asked = self.0.peers.call(&address, StoreId(0), request, ask, Bytes::new(), ASK_TIMEOUT).await;
            match asked.map(|reply| reply.answer) {
                Ok(Answer::LogEnd(end)) => return self.learn_members(&end),
                Ok(_) => {}
                Err(error) => tracing::debug!(address, %error, "not let in yet"),
            }
        }
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
                ConfChangeType::AddLearnerNode | ConfChangeType::AddNode if !change.context.is_empty() => {
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
