//! A turn of a replica: take what arrived, step, handle what is ready, apply what is committed. It
//! is synchronous; what it wants written goes to `persist`.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::planted::PlantedBug;
use proto::keys;
use proto::meta::{Command, Outcome};
use raft::eraftpb::EntryType;
use raft::prelude::{Entry, Message};
use raft::{SnapshotStatus, StateRole};

use super::log::{LogEntry, Vote};
use super::replica::{Core, Input, ReadWaiter, Replica, ReplicaError, ToPersist, Waiter};
use super::start::{applied_key, encode_applied};
use crate::apply::apply;
use crate::apply::txn::Txn;
use crate::store::StoreFault;
use prost_old::Message as _;

/// A log write that takes this long makes its replica step down.
const STUCK: Duration = Duration::from_secs(1);

impl Replica {
    pub(super) async fn tick(self) {
        let tick = self.0.config.tick;
        loop {
            // Elections of equal replicas are kept apart by drawing each tick's length.
            let micros = tick.as_micros() as u64;
            let drawn = micros * 3 / 4 + self.0.platform.random().below(micros / 2 + 1);
            self.0.platform.clock().sleep(Duration::from_micros(drawn)).await;
            if self.stopped().is_some() {
                return;
            }
            {
                let mut core = self.0.core.borrow_mut();
                if self.is_stuck() {
                    self.make_way(&mut core);
                } else if core.doubt.is_some() {
                    // It must not campaign, but it must see that a leader is silent.
                    core.raw.raft.election_elapsed += 1;
                } else {
                    core.raw.tick();
                }
                self.promote(&mut core);
                // A read whose messages were lost is asked again.
                let lost: Vec<ReadWaiter> = std::mem::take(&mut core.reads).into_values().flatten().collect();
                for waiter in lost {
                    core.inbox.push_back(Input::Read(waiter));
                }
            }
            self.0.work.notify_one();
        }
    }

    /// The log's disk does not answer.
    fn is_stuck(&self) -> bool {
        let now = self.0.platform.clock().now();
        self.0.writing.get().is_some_and(|since| now.saturating_since(since) >= STUCK)
    }

    /// A replica that cannot write its log cannot apply, so it must not lead: it steps down, and does
    /// not stand for election (it does not tick) until the disk answers.
    fn make_way(&self, core: &mut Core) {
        if core.raw.raft.state == StateRole::Follower {
            return;
        }
        tracing::warn!(replica = format!("{:x}", self.0.config.raft_id), "log disk does not answer, stepping down");
        let term = core.raw.raft.term;
        core.raw.raft.become_follower(term, raft::INVALID_ID);
    }

    pub(super) async fn drive(self) {
        loop {
            self.0.work.notified().await;
            if self.stopped().is_some() {
                return;
            }
            if let Err(fault) = self.turn() {
                self.stop(fault.to_string());
                return;
            }
            self.start_write();
        }
    }

    fn turn(&self) -> Result<(), StoreFault> {
        let core = &mut *self.0.core.borrow_mut();
        let persisted = self.0.persisted.get();
        if persisted > 0 {
            core.raw.on_persist_ready(persisted);
            self.0.persisted.set(0);
        }
        self.take_inputs(core);
        let mut outgoing: BTreeMap<u64, Vec<Message>> = BTreeMap::new();
        while core.raw.has_ready() {
            self.handle_ready(core, &mut outgoing)?;
        }
        if std::mem::take(&mut core.note_commit) {
            let hs = core.raw.raft.hard_state();
            let vote = Some(Vote { term: hs.term, vote: hs.vote, commit: hs.commit });
            core.queue.push_back(ToPersist { vote, ..ToPersist::default() });
        }
        self.after(core);
        for (to, messages) in outgoing {
            self.send(core, to, messages);
        }
        Ok(())
    }

    fn take_inputs(&self, core: &mut Core) {
        let leads = core.raw.raft.state == StateRole::Leader;
        let hint = core.raw.raft.leader_id;
        let mut reads: Vec<ReadWaiter> = std::mem::take(&mut core.early_reads);
        for input in std::mem::take(&mut core.inbox) {
            match input {
                Input::Messages(messages) => {
                    for mut message in messages {
                        if self.lets_in(core, &mut message) {
                            // Stale messages are refused by Raft, as they should be.
                            let _ = core.raw.step(message);
                        }
                    }
                }
                Input::Propose(_, waiter) if !leads => {
                    let _ = waiter.send(Err(ReplicaError::NotLeader(hint)));
                }
                Input::Propose(data, waiter) => {
                    let number = core.next_proposal;
                    core.next_proposal += 1;
                    let mut context = self.0.config.raft_id.to_be_bytes().to_vec();
                    context.extend_from_slice(&number.to_be_bytes());
                    match core.raw.propose(context, data) {
                        Ok(()) => {
                            core.waiting.insert(number, waiter);
                        }
                        Err(_) => {
                            let _ = waiter.send(Err(ReplicaError::Dropped));
                        }
                    }
                }
                Input::Read(waiter) => reads.push(waiter),
                Input::Change(change) => {
                    let context = change.context.clone();
                    if let Err(error) = core.raw.propose_conf_change(context, change) {
                        tracing::debug!(%error, "membership change was not proposed");
                    }
                }
                Input::Unreachable(id) => core.raw.report_unreachable(id),
                Input::SnapshotSent(id, well) => {
                    let status = if well { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                    core.raw.report_snapshot(id, status);
                }
            }
        }
        if reads.is_empty() {
            return;
        }
        if core.raw.raft.state != StateRole::Leader {
            for waiter in reads {
                let _ = waiter.send(Err(ReplicaError::NotLeader(core.raw.raft.leader_id)));
            }
        } else if core.mem.0.borrow().term(core.raw.raft.raft_log.committed) != Some(core.raw.raft.term) {
            // A new leader answers reads once an entry of its own term is committed.
            core.early_reads = reads;
        } else {
            let number = core.next_read;
            core.next_read += 1;
            core.reads.insert(number, reads);
            core.raw.read_index(number.to_be_bytes().to_vec());
        }
    }

    fn handle_ready(&self, core: &mut Core, outgoing: &mut BTreeMap<u64, Vec<Message>>) -> Result<(), StoreFault> {
        let mut ready = core.raw.ready();
        for message in ready.take_messages() {
            outgoing.entry(message.to).or_default().push(message);
        }
        let snapshot = ready.snapshot().clone();
        if snapshot.get_metadata().index > 0 {
            self.install(core, &snapshot)?;
        }
        let entries = ready.take_entries();
        let cut = core.mem.0.borrow_mut().append(&entries);
        if let Some(hs) = ready.hs() {
            core.mem.0.borrow_mut().hard_state = hs.clone();
        }
        // A changed commit index alone is no reason for a write of its own. A snapshot is: a log that
        // ends before the state must say that nothing of it was lost.
        let said = ready.must_sync() && ready.hs().is_some() || snapshot.get_metadata().index > 0;
        let vote = said.then(|| {
            let hs = core.raw.raft.hard_state();
            Vote { term: hs.term, vote: hs.vote, commit: hs.commit }
        });
        core.queue.push_back(ToPersist {
            number: ready.number(),
            vote,
            cut,
            entries: entries.iter().map(log_entry).collect(),
            messages: ready.take_persisted_messages(),
        });
        for state in ready.take_read_states() {
            if let Ok(number) = state.request_ctx.as_slice().try_into().map(u64::from_be_bytes)
                && let Some(waiters) = core.reads.remove(&number)
            {
                core.reads_at.push_back((state.index, waiters));
            }
        }
        let committed = ready.take_committed_entries();
        let (number, installed) = (ready.number(), snapshot.get_metadata().index);
        core.raw.advance_append_async(ready);
        if installed > 0 {
            // The state is durable already, and Raft must know at once that everything up to there
            // is applied: an election that it starts before would look for entries that are gone.
            core.raw.on_persist_ready(number);
            core.raw.advance_apply_to(installed);
        }
        self.apply_entries(core, committed)
    }

    fn apply_entries(&self, core: &mut Core, entries: Vec<Entry>) -> Result<(), StoreFault> {
        let Some(last) = entries.last() else { return Ok(()) };
        let (last_index, last_term) = (last.index, last.term);
        let planted = self.0.platform.all_planted();
        let mut txn = Txn::new(&self.0.store).with_mistakes(planted);
        let mut told: Vec<(Waiter, Outcome)> = Vec::new();
        for entry in entries {
            match entry.entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    let mut command: Command =
                        proto::decode(&entry.data).map_err(|error| StoreFault(error.to_string()))?;
                    if planted.has(PlantedBug::ApplyLooksAtClock) {
                        command.now_ms = self.0.platform.clock().unix_ms();
                    }
                    let outcome = apply(&mut txn, &command)?;
                    if let Some(waiter) = self.waiter(core, &entry.context) {
                        told.push((waiter, outcome));
                    }
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.apply_change(core, &mut txn, &entry)?;
                    core.note_commit = true;
                }
            }
        }
        let conf = core.mem.0.borrow().conf_state.clone();
        txn.put_bytes(applied_key(), encode_applied(last_index, last_term, &conf));
        let batch = txn.into_batch();
        self.0.store.write(&batch)?;
        if batch.iter().any(|(key, _)| key.first() == Some(&keys::table::DISK)) {
            self.disks_changed();
        }
        core.applied = last_index;
        core.applied_term = last_term;
        core.raw.advance_apply_to(last_index);
        for (waiter, outcome) in told {
            // A proposer that gave up is no error.
            let _ = waiter.send(Ok(outcome));
        }
        Ok(())
    }

    fn waiter(&self, core: &mut Core, context: &[u8]) -> Option<Waiter> {
        let (id, number) = context.split_first_chunk::<8>()?;
        if u64::from_be_bytes(*id) != self.0.config.raft_id {
            return None;
        }
        core.waiting.remove(&u64::from_be_bytes(number.try_into().ok()?))
    }

    /// What follows from a turn: doubts that are over, reads that may be answered, leadership, proposals that are lost.
    fn after(&self, core: &mut Core) {
        self.look_at_doubt(core);
        while core.reads_at.front().is_some_and(|(index, _)| *index <= core.applied) {
            for waiter in core.reads_at.pop_front().map(|(_, waiters)| waiters).into_iter().flatten() {
                let _ = waiter.send(Ok(()));
            }
        }
        let leads = core.raw.raft.state == StateRole::Leader;
        let leader = core.raw.raft.leader_id;
        self.0.term.set(core.raw.raft.term);
        if self.0.leader.replace(leader) != leader {
            tracing::info!(
                replica = format!("{:x}", self.0.config.raft_id),
                leader = format!("{leader:x}"),
                term = core.raw.raft.term,
                "leader"
            );
            if leads {
                self.0.became_leader.notify_waiters();
            }
        }
        if !leads {
            for (_, waiter) in std::mem::take(&mut core.waiting) {
                let _ = waiter.send(Err(ReplicaError::Dropped));
            }
            let reads = std::mem::take(&mut core.reads).into_values().flatten();
            for waiter in reads.chain(core.reads_at.drain(..).flat_map(|(_, waiters)| waiters)) {
                let _ = waiter.send(Err(ReplicaError::NotLeader(leader)));
            }
        }
        if std::mem::take(&mut core.mem.0.borrow_mut().snapshot_wanted) {
            self.make_snapshot(core);
        }
    }
}

fn log_entry(entry: &Entry) -> LogEntry {
    LogEntry { index: entry.index, term: entry.term, kind: 0, data: entry.encode_to_vec() }
}
