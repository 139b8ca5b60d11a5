//! What a replica writes and sends: groups of log records, its ballot, the flush of the state.
//!
//! At most one log write is under way; what becomes ready meanwhile joins the next one. A crash between
//! log and ballot leaves the log ahead, which is as good; one between log and state costs a replay.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use platform::planted::PlantedBug;
use proto::ballot::{Ballot, Phase};
use proto::service::Request;
use raft::prelude::{Message, MessageType};
use types::ids::StoreId;

use super::log::{LogError, LogWriter};
use super::replica::{Core, Input, Replica, ToPersist};
use super::snapshot::OFFER_MAX;
use super::start::BALLOT;
use super::transport;

/// Bytes of entries kept at most before the state is flushed.
const KEEP_BYTES: usize = 8 << 20;
/// Rounds of a second after which the ballot says anew how far the log goes.
const MARK_ROUNDS: u32 = 5;

impl Replica {
    /// Starts the write of everything queued, unless one is under way.
    pub(super) fn start_write(&self) {
        if self.0.writing.get().is_some() {
            return;
        }
        let mut group = ToPersist::default();
        {
            let mut core = self.0.core.borrow_mut();
            while let Some(next) = core.queue.front() {
                // A cut in the middle of a group would void entries of the group itself.
                if next.cut.is_some() && !group.entries.is_empty() {
                    break;
                }
                let Some(next) = core.queue.pop_front() else { break };
                group.number = group.number.max(next.number);
                group.vote = next.vote.or(group.vote);
                group.cut = next.cut.or(group.cut);
                group.entries.extend(next.entries);
                group.messages.extend(next.messages);
            }
        }
        if self.0.platform.planted(PlantedBug::VoteNotWritten) {
            group.vote = None;
        }
        let ballot = self.ballot_with(&group);
        self.0.ballot.set(ballot);
        // A life that nobody has let in yet leaves no trace.
        let ballot_due = self.0.kept.get().is_some_and(|kept| kept != ballot);
        let nothing = group.vote.is_none() && group.cut.is_none() && group.entries.is_empty();
        if nothing && !ballot_due {
            if group.number > 0 {
                self.written(group.number, group.messages);
            }
            return;
        }
        let Some(mut writer) = self.0.writer.borrow_mut().take() else { return };
        self.0.writing.set(Some(self.0.platform.clock().now()));
        let this = self.clone();
        self.0.platform.tasks().spawn(async move {
            let outcome = this.write(&mut writer, &group, nothing, ballot).await;
            *this.0.writer.borrow_mut() = Some(writer);
            this.0.writing.set(None);
            match outcome {
                Ok(()) if group.number > 0 => this.written(group.number, group.messages),
                Ok(()) => this.0.work.notify_one(),
                Err(error) => this.stop(error.to_string()),
            }
        });
    }

    /// The ballot that goes with a group of records.
    fn ballot_with(&self, group: &ToPersist) -> Ballot {
        let mut ballot = self.0.ballot.get();
        if let Some(vote) = group.vote {
            ballot.term = vote.term;
            ballot.vote = vote.vote;
        }
        ballot
    }

    /// Writes records and ballot. A new life begins with its ballot: before that the directory is
    /// still that of the earlier one.
    async fn write(
        &self,
        writer: &mut LogWriter,
        group: &ToPersist,
        nothing: bool,
        ballot: Ballot,
    ) -> Result<(), LogError> {
        if self.0.kept.get().is_none() {
            self.keep(ballot).await?;
        }
        if !nothing {
            let writing = writer.append(group.vote, group.cut, &group.entries);
            let under_way = async { self.0.platform.reached("log write under way") };
            join(writing, under_way).await.0?;
        }
        if self.0.kept.get() != Some(ballot) {
            self.keep(ballot).await?;
        }
        Ok(())
    }

    async fn keep(&self, ballot: Ballot) -> Result<(), LogError> {
        self.0.platform.reached("log written, ballot not");
        self.0.disk.write_file(BALLOT, &ballot.encode()).await?;
        self.0.platform.reached("ballot written");
        self.0.kept.set(Some(ballot));
        Ok(())
    }

    fn written(&self, number: u64, messages: Vec<Message>) {
        self.0.persisted.set(number);
        let mut outgoing: BTreeMap<u64, Vec<Message>> = BTreeMap::new();
        for message in messages {
            outgoing.entry(message.to).or_default().push(message);
        }
        let core = self.0.core.borrow();
        for (to, messages) in outgoing {
            self.send(&core, to, messages);
        }
        drop(core);
        self.0.work.notify_one();
    }

    pub(super) fn send(&self, core: &Core, to: u64, messages: Vec<Message>) {
        let Some(address) = core.members.get(&to).cloned() else { return };
        let this = self.clone();
        let has_snapshot = messages.iter().any(|message| message.msg_type() == MessageType::MsgSnapshot);
        let bytes = Bytes::from(transport::join(&messages));
        self.0.platform.tasks().spawn(async move {
            let request = this.0.peers.new_request();
            let timeout = if has_snapshot { OFFER_MAX } else { Duration::from_secs(2) };
            let call = this.0.peers.call(&address, StoreId(to), request, Request::Raft(bytes), Bytes::new(), timeout);
            let is_sent = if has_snapshot { this.is_offer_taken(call).await } else { call.await.is_ok() };
            let mut core = this.0.core.borrow_mut();
            if has_snapshot {
                core.inbox.push_back(Input::SnapshotSent(to, is_sent));
            }
            if !is_sent {
                core.inbox.push_back(Input::Unreachable(to));
            }
            if has_snapshot || !is_sent {
                drop(core);
                this.0.work.notify_one();
            }
        });
    }

    /// Flushes the state and trims the log behind it.
    pub(super) async fn flush_now_and_then(self) {
        let mut rounds = 0;
        loop {
            self.0.platform.clock().sleep(Duration::from_secs(1)).await;
            if self.stopped().is_some() {
                return;
            }
            rounds += 1;
            if rounds % MARK_ROUNDS == 0 {
                self.mark();
            }
            if let Err(error) = self.settle_in().await {
                self.stop(error.to_string());
                return;
            }
            let (applied, due) = {
                let core = self.0.core.borrow();
                let soon = self.0.flush_soon.replace(false) && core.applied > core.flushed;
                let many = soon || core.applied >= core.flushed + self.0.config.flush_entries;
                (core.applied, many || core.mem.0.borrow().bytes > KEEP_BYTES && core.applied > core.flushed)
            };
            if due && let Err(error) = self.flush(applied).await {
                self.stop(error.to_string());
                return;
            }
        }
    }

    /// Has the ballot say how far the log goes, so that an older log is known as such.
    fn mark(&self) {
        let Some(sequence) = self.0.writer.borrow().as_ref().map(LogWriter::durable_sequence) else { return };
        let mut ballot = self.0.ballot.get();
        // In a life that has not begun there is nothing to lose.
        if ballot.sequence != sequence && self.0.kept.get().is_some() {
            ballot.sequence = sequence;
            self.0.ballot.set(ballot);
            self.0.work.notify_one();
        }
    }

    /// A replica that joined and votes now is a member; what its earlier life left can go.
    async fn settle_in(&self) -> Result<(), LogError> {
        let mut ballot = self.0.ballot.get();
        if ballot.phase != Phase::Joining || !self.voters().contains(&self.0.config.raft_id) {
            return Ok(());
        }
        let writer = self.0.writer.borrow_mut().take();
        if let Some(writer) = writer {
            self.0.writing.set(Some(self.0.platform.clock().now()));
            let removed = writer.remove_earlier_lives(ballot.first_segment).await;
            *self.0.writer.borrow_mut() = Some(writer);
            self.0.writing.set(None);
            removed?;
            ballot.phase = Phase::Member;
            self.0.ballot.set(ballot);
            self.0.work.notify_one();
            self.0.platform.reached("joined replica votes");
            tracing::info!(replica = format!("{:x}", self.0.config.raft_id), "joined replica votes");
        }
        Ok(())
    }

    async fn flush(&self, applied: u64) -> Result<(), LogError> {
        if !self.0.platform.planted(PlantedBug::TrimBeforeFlush)
            && let Err(fault) = self.0.store.flush(&self.0.platform).await
        {
            self.stop(fault.to_string());
            return Ok(());
        }
        let keep_from = {
            let mut core = self.0.core.borrow_mut();
            core.flushed = core.flushed.max(applied);
            let mut mem = core.mem.0.borrow_mut();
            let keep = self.0.config.keep_entries.max(1);
            let keep_from = applied.saturating_sub(if mem.bytes > KEEP_BYTES { keep.min(100) } else { keep });
            mem.trim(keep_from);
            keep_from
        };
        // The writer is away while a write is under way; the next round trims then.
        let writer = self.0.writer.borrow_mut().take();
        if let Some(mut writer) = writer {
            self.0.writing.set(Some(self.0.platform.clock().now()));
            self.0.platform.reached("state flushed");
            let trimmed = writer.trim(keep_from, &self.0.platform).await;
            *self.0.writer.borrow_mut() = Some(writer);
            self.0.writing.set(None);
            self.0.work.notify_one();
            trimmed?;
        }
        Ok(())
    }

    /// Makes the state durable now (orderly stop): the next start has nothing to replay.
    pub async fn settle(&self) {
        let applied = self.applied();
        if let Err(error) = self.flush(applied).await {
            tracing::warn!(%error, "flush at the stop failed; the log will be replayed");
        }
    }
}
