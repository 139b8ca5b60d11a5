//! What the leader hears: disks and sessions that live.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::clock::Instant;
use proto::meta::{DiskReport, Heartbeat, HeartbeatAck};
use proto::rows::{DiskRow, SessionRow};
use types::ids::{Partition, SessionId};

use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;

/// A leader that did not look for so long was not there itself, and cannot say who was silent meanwhile.
const AWAY: Duration = Duration::from_secs(10);

/// In memory; begins empty with each leader.
#[derive(Default)]
pub(crate) struct Liveness {
    disks: BTreeMap<u64, (Instant, DiskReport)>,
    sessions: BTreeMap<u64, Instant>,
    /// Since when this replica leads, by term.
    pub leading: Option<(u64, Instant)>,
    /// When that was looked at last.
    looked: Option<Instant>,
}

impl Liveness {
    /// A new leader counts every silence anew, and so does one that was away (its machine was suspended, say).
    pub fn begin(&mut self, term: u64, now: Instant) {
        let was_away = self.looked.replace(now).is_some_and(|last| now.saturating_since(last) > AWAY);
        if was_away || self.leading.is_none_or(|(known, _)| known != term) {
            *self = Liveness { leading: Some((term, now)), looked: Some(now), ..Liveness::default() };
        }
    }

    /// The last report of a disk if it is not older than `silent`.
    pub fn disk(&self, disk: u64, now: Instant, silent: Duration) -> Option<&DiskReport> {
        let (at, report) = self.disks.get(&disk)?;
        (now.saturating_since(*at) <= silent).then_some(report)
    }

    /// The last reports of all disks that were heard within `silent`.
    pub fn live_disks(&self, now: Instant, silent: Duration) -> impl Iterator<Item = &DiskReport> {
        self.disks.values().filter(move |(at, _)| now.saturating_since(*at) <= silent).map(|(_, report)| report)
    }

    /// How long a disk has been silent.
    pub fn disk_silence(&self, disk: u64, now: Instant) -> Option<Duration> {
        let since = self.disks.get(&disk).map(|(at, _)| *at).or(self.leading.map(|(_, at)| at))?;
        Some(now.saturating_since(since))
    }

    /// How long a session has been silent.
    pub fn session_silence(&self, session: u64, now: Instant) -> Option<Duration> {
        let since = self.sessions.get(&session).copied().or(self.leading.map(|(_, at)| at))?;
        Some(now.saturating_since(since))
    }

    /// Disks have reported. Answers those that were removed.
    pub fn hear_disks(&mut self, reports: Vec<DiskReport>, known: &BTreeMap<u64, DiskRow>, now: Instant) -> Vec<u64> {
        let mut removed = Vec::new();
        for report in reports {
            if known.get(&report.disk).is_some_and(|row| row.removed) {
                removed.push(report.disk);
            }
            self.disks.insert(report.disk, (now, report));
        }
        removed
    }

    /// A session was just registered or heard.
    pub fn hear_session(&mut self, session: u64, now: Instant) {
        self.sessions.insert(session, now);
    }
}

impl MetaServer {
    pub(super) async fn heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatAck, Trouble> {
        if !self.0.replica.is_leader() {
            return Err(crate::consensus::replica::ReplicaError::NotLeader(self.0.replica.leader()).into());
        }
        let now = self.0.platform.clock().now();
        let term = self.0.replica.term();
        let disks = self.disks()?;
        let mut ended = Vec::new();
        let removed = {
            let mut liveness = self.0.liveness.borrow_mut();
            liveness.begin(term, now);
            let txn = Txn::new(self.0.replica.store());
            for session in beat.sessions {
                let key = proto::keys::session(Partition(0), SessionId(session));
                match txn.get::<SessionRow>(&key)? {
                    Some(row) if !row.ended => liveness.hear_session(session, now),
                    Some(_) => ended.push(session),
                    None => {}
                }
            }
            liveness.hear_disks(beat.disks, &disks, now)
        };
        Ok(HeartbeatAck { ended, term, removed, level: self.level() })
    }
}
