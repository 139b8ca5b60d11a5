//! A replica that may have forgotten what it promised: its vote, or entries that it acknowledged.
//!
//! Until it has heard every other voter it takes no part: it neither votes nor campaigns nor
//! acknowledges. It asks twice, and believes the second answers if nobody has started anew between
//! the two. Why that is enough: an entry that counted on a lost acknowledgement of this replica was
//! led by some replica in one process start. If that start still lasted at the second question, its
//! log, which the answer covers, has the entry; if it had ended by the first one, whoever else the
//! entry counted on held it before, and so at the second.
//!
//! After that it takes part again, with the highest term heard (and no vote left in it), but votes
//! only for logs that reach as far as the furthest one heard, until its own does.
//!
//! A write that was torn was never acknowledged if the disk keeps its word; so a replica whose log
//! ended in one asks too, but does not wait for ever: a power cut must not make a cluster of three
//! with one replica gone wait for that one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use platform::clock::Instant;
use platform::planted::PlantedBug;
use proto::ballot::Doubt;
use proto::meta::{LogEnd, LogEndRequest};
use proto::service::{Answer, Request};
use raft::StateRole;
use raft::prelude::{Message, MessageType};
use types::ids::StoreId;

use super::replica::{Core, Replica};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a torn write is held against a replica.
const TORN_PATIENCE: Duration = Duration::from_secs(3);

/// A doubt, from its discovery to its end.
pub(super) struct Doubting {
    level: Doubt,
    since: Instant,
    /// Who votes, as of which applied index: the newest that was heard of.
    voters: (u64, Vec<u64>),
    /// Term and index that the log must reach; known once all have been heard.
    floor: Option<(u64, u64)>,
}

impl Doubting {
    pub(super) fn new(level: Doubt, now: Instant, voters: (u64, Vec<u64>)) -> Doubting {
        tracing::warn!(?level, "this replica may have forgotten something and asks the others");
        Doubting { level, since: now, voters, floor: None }
    }
}

impl Replica {
    /// Whether Raft may see a message; a commit index beyond the log is cut to it.
    pub(super) fn lets_in(&self, core: &mut Core, message: &mut Message) -> bool {
        let last = core.raw.raft.raft_log.last_index();
        let kind = message.msg_type();
        let beyond = kind == MessageType::MsgHeartbeat && message.commit > last;
        let planted = self.0.platform.all_planted();
        if beyond && (planted.has(PlantedBug::DoubtIgnored) || planted.has(PlantedBug::LogCutAtRot)) {
            message.commit = last;
            return true;
        }
        if beyond && core.doubt.is_none() {
            // It once acknowledged more than its log holds.
            self.0.platform.reached("log is shorter than was acknowledged");
            self.begin_doubt(core);
        }
        let Some(doubt) = &core.doubt else { return true };
        match kind {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                let enough = doubt.floor.is_some_and(|floor| (message.log_term, message.index) >= floor);
                self.0.platform.reached(if enough { "vote in doubt" } else { "vote refused in doubt" });
                enough
            }
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot => {
                message.commit = if beyond { last } else { message.commit };
                doubt.floor.is_some()
            }
            _ => false,
        }
    }

    fn begin_doubt(&self, core: &mut Core) {
        let voters = core.raw.raft.prs().conf().to_conf_state().voters;
        core.doubt = Some(Doubting::new(Doubt::Forgot, self.0.platform.clock().now(), (core.applied, voters)));
        let mut ballot = self.0.ballot.get();
        ballot.doubt = Doubt::Forgot;
        self.0.ballot.set(ballot);
        self.0.platform.tasks().spawn(self.clone().resolve_doubt());
    }

    /// Asks the others until they have answered.
    pub(super) async fn resolve_doubt(self) {
        loop {
            if self.stopped().is_some() || !self.has_open_doubt() {
                return;
            }
            if let Some(first) = self.hear_others().await
                && let Some(second) = self.hear_others().await
            {
                let starts =
                    |ends: &[LogEnd]| -> Vec<(u64, u64)> { ends.iter().map(|end| (end.raft_id, end.start)).collect() };
                if starts(&first) == starts(&second) {
                    self.heard(&second);
                    return;
                }
            }
            self.0.platform.clock().sleep(PAUSE).await;
        }
    }

    /// Whether there is a doubt that hearing the others would change; ends one that has lasted long enough.
    fn has_open_doubt(&self) -> bool {
        let core = &mut *self.0.core.borrow_mut();
        let now = self.0.platform.clock().now();
        let torn = |doubt: &Doubting| doubt.level == Doubt::Torn && now.saturating_since(doubt.since) >= TORN_PATIENCE;
        if core.doubt.as_ref().is_some_and(torn) {
            self.0.platform.reached("torn log forgiven");
            self.end_doubt(core, "a torn write is no reason to wait longer");
        }
        core.doubt.as_ref().is_some_and(|doubt| doubt.floor.is_none())
    }

    /// One answer of each other voter, in order; `None` if one is missing or if there turn out to be others.
    async fn hear_others(&self) -> Option<Vec<LogEnd>> {
        let own = self.0.config.raft_id;
        let ask = LogEndRequest { raft_id: own, last_index: self.durable_index() };
        let addresses = self.members();
        let others = self.other_voters()?;
        // The rest can tell who votes now, if those that voted once are not there any more.
        let rest = addresses.keys().copied().filter(|id| *id != own && !others.contains(id));
        let everybody: Vec<u64> = others.iter().copied().chain(rest).collect();
        let asked = everybody.iter().copied().map(async |id| {
            let Some(address) = addresses.get(&id) else {
                tracing::debug!(other = format!("{id:x}"), "address is not known");
                return None;
            };
            let (request, store) = (self.0.peers.new_request(), StoreId(id));
            let call = self.0.peers.call(address, store, request, Request::LogEnd(ask), Bytes::new(), TIMEOUT);
            match call.await.map(|reply| reply.answer) {
                Ok(Answer::LogEnd(end)) => Some(end),
                Ok(_) => None,
                Err(error) => {
                    tracing::debug!(other = format!("{id:x}"), address, %error, "log end not heard");
                    None
                }
            }
        });
        let ends: Vec<Option<LogEnd>> = join_all(asked).await;
        let mut changed = false;
        for end in ends.iter().flatten() {
            changed |= self.note_voters(end);
        }
        let ends: Vec<LogEnd> = ends.into_iter().take(others.len()).collect::<Option<_>>()?;
        let all = ends.iter().zip(&others).all(|(end, id)| end.raft_id == *id);
        tracing::debug!(?others, ?ends, changed, "log ends heard");
        (all && !changed).then_some(ends)
    }

    /// Who votes besides this replica, as far as it knows: what it replays while it is in doubt may tell
    /// it of changes.
    fn other_voters(&self) -> Option<Vec<u64>> {
        let core = &mut *self.0.core.borrow_mut();
        let doubt = core.doubt.as_mut()?;
        if core.applied > doubt.voters.0 {
            doubt.voters = (core.applied, core.raw.raft.prs().conf().to_conf_state().voters);
        }
        let own = self.0.config.raft_id;
        Some(doubt.voters.1.iter().copied().filter(|id| *id != own).collect())
    }

    /// Takes over who votes if the answer knows it newer. Answers whether that changed anything.
    fn note_voters(&self, end: &LogEnd) -> bool {
        let core = &mut *self.0.core.borrow_mut();
        let Some(doubt) = &mut core.doubt else { return false };
        if end.voters.is_empty() || end.applied <= doubt.voters.0 {
            return false;
        }
        let members: BTreeMap<u64, String> = end.member_ids.iter().copied().zip(end.members.iter().cloned()).collect();
        core.members.extend(members);
        let changed = doubt.voters.1.iter().collect::<BTreeSet<_>>() != end.voters.iter().collect();
        doubt.voters = (end.applied, end.voters.clone());
        changed
    }

    fn heard(&self, ends: &[LogEnd]) {
        let core = &mut *self.0.core.borrow_mut();
        let Some(doubt) = &mut core.doubt else { return };
        let floor = ends.iter().map(|end| (end.last_term, end.last_index)).max().unwrap_or_default();
        let term = ends.iter().map(|end| end.term).max().unwrap_or_default();
        doubt.floor = Some(floor);
        self.0.platform.reached("replica in doubt has heard the others");
        tracing::info!(?floor, term, "the others have been heard");
        let raft = &mut core.raw.raft;
        if term > raft.term || raft.state != StateRole::Follower {
            let term = term.max(raft.term);
            raft.become_follower(term, 0);
        }
        if raft.vote == 0 {
            // It may have voted in this term; a vote for itself refuses everybody else.
            raft.vote = self.0.config.raft_id;
        }
        self.0.work.notify_one();
    }

    /// Ends the doubt once the log reaches as far as the others' did.
    pub(super) fn look_at_doubt(&self, core: &mut Core) {
        let log = &core.raw.raft.raft_log;
        let end = (log.last_term(), log.last_index());
        let durable = log.persisted >= end.1;
        if durable && core.doubt.as_ref().and_then(|doubt| doubt.floor).is_some_and(|floor| end >= floor) {
            self.end_doubt(core, "the log reaches as far as the others' did");
        }
    }

    fn end_doubt(&self, core: &mut Core, why: &str) {
        tracing::info!(why, "this replica takes part again");
        core.doubt = None;
        let mut ballot = self.0.ballot.get();
        ballot.doubt = Doubt::None;
        self.0.ballot.set(ballot);
        self.0.work.notify_one();
    }
}
