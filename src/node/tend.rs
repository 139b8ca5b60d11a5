//! A node looks after its part of the metadata: it knows who belongs to the group, begins a replica or
//! has one leave as `voters` says, and clears away what is left of one that has left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use client::meta::MetaClient;
use platform::clock::Instant;
use proto::meta::{LogEnd, LogEndRequest};
use proto::query::{Ask, AskAll};
use proto::rows::disk_state;
use proto::service::{Answer, Request};
use types::ids::StoreId;

use super::cluster::{NODE_FILE, Naming, NodeFile};
use super::directories::Directories;
use super::identity::{self, Home};
use super::replicas::Replicas;
use super::voters::{Facts, Node, Step, step};
use super::{NodeError, certificates};

const PERIOD: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A replica here that the group does not name for so long has left it.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// One node's part.
pub struct Tender {
    /// The way to the metaserver.
    pub meta: MetaClient,
    /// The replicas here.
    pub replicas: Replicas,
    /// The directories here.
    pub directories: Directories,
    /// How the node is called.
    pub naming: Naming,
    /// What it is.
    pub file: NodeFile,
}

#[derive(Default)]
struct Seen {
    /// Since when a replica is needed here.
    needed: Option<Instant>,
    /// Since when the group does not name these.
    unnamed: BTreeMap<u64, Instant>,
}

/// Who belongs to the group, as the one says who knows most of those that answer.
///
/// # Errors
/// Nobody answers.
pub async fn ask_group(meta: &MetaClient, known: &BTreeSet<String>) -> Result<LogEnd, NodeError> {
    let peers = meta.peers();
    let asks = known.iter().map(|address| async move {
        let ask = Request::LogEnd(LogEndRequest { raft_id: 0, last_index: 0 });
        let called = peers.call(address, StoreId(0), peers.new_request(), ask, Bytes::new(), ASK_TIMEOUT).await;
        match called.map(|reply| reply.answer) {
            Ok(Answer::LogEnd(end)) if !end.member_ids.is_empty() => Some(end),
            _ => None,
        }
    });
    let answers = futures_util::future::join_all(asks).await;
    let newest = answers.into_iter().flatten().max_by_key(|end| end.applied);
    newest.ok_or_else(|| NodeError::new("no metaserver replica answers"))
}

impl Tender {
    /// Looks for ever.
    pub async fn run(mut self) {
        let clock = self.meta.platform().clock().clone();
        let mut seen = Seen::default();
        loop {
            clock.sleep(PERIOD).await;
            if let Err(error) = self.look(&mut seen).await {
                tracing::debug!(%error, "nothing is decided about replicas of the metadata now");
            }
        }
    }

    async fn look(&mut self, seen: &mut Seen) -> Result<(), NodeError> {
        let mut known: BTreeSet<String> = self.file.contacts().into_values().collect();
        known.extend(self.replicas.known().into_values());
        let end = ask_group(&self.meta, &known).await?;
        let group: BTreeMap<u64, String> = end.member_ids.iter().copied().zip(end.members).collect();
        self.learn(&group).await?;
        let facts = Facts { voters: end.voters.into_iter().collect(), nodes: self.nodes().await?, group };
        self.clear_away(&facts, seen).await?;
        let now = self.meta.platform().clock().now();
        match step(&facts, &self.naming.stores) {
            Step::Nothing => seen.needed = None,
            Step::Begin(wait) => {
                let since = *seen.needed.get_or_insert(now);
                if now.saturating_since(since) >= wait && self.replicas.servers().is_empty() {
                    seen.needed = None;
                    self.begin(&facts.group).await?;
                }
            }
            Step::Leave(raft_id) => {
                tracing::warn!(replica = format!("{raft_id:x}"), "a replica of the metadata leaves: there are enough");
                self.meta.leave_replica(raft_id).await.map_err(|error| NodeError::new(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Remembers where replicas are, for the next start too.
    async fn learn(&mut self, group: &BTreeMap<u64, String>) -> Result<(), NodeError> {
        self.meta.set_addresses(group.values().cloned().collect());
        let contacts = group.iter().map(|(id, address)| (format!("{id:016x}"), address.clone())).collect();
        if self.file.contacts == contacts {
            return Ok(());
        }
        self.file.contacts = contacts;
        for home in self.directories.homes() {
            if certificates::read::<NodeFile>(&home.disk, NODE_FILE).await?.is_some() {
                certificates::write(&home.disk, NODE_FILE, &self.file).await?;
            }
        }
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<Node>, NodeError> {
        let view = self.meta.query(Ask::Disks(AskAll {})).await.map_err(|error| NodeError::new(error.to_string()))?;
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        for disk in view.disks.into_iter().filter(|disk| disk.row.state == disk_state::IN) {
            let empty = Node { address: disk.row.address.clone(), alive: false, stays: false };
            let node = nodes.entry(disk.row.address).or_insert(empty);
            node.alive |= disk.alive;
            node.stays |= !disk.row.draining;
        }
        Ok(nodes.into_values().collect())
    }

    async fn begin(&self, group: &BTreeMap<u64, String>) -> Result<(), NodeError> {
        let _one = self.directories.changing().await;
        for home in self.directories.homes() {
            let has_one = home.identity.as_ref().is_none_or(|own| own.raft_id != 0);
            if has_one || left_over(&home).await? {
                continue;
            }
            let begun = self.replicas.start_in(&home, 0, group.clone()).await?;
            tracing::warn!(dir = %home.disk.path().display(), "a replica of the metadata begins here");
            self.directories.exchange(begun);
            return Ok(());
        }
        Err(NodeError::new("no directory here is free for a replica of the metadata until the next start"))
    }

    /// Replicas here that have left the group stop for good.
    async fn clear_away(&self, facts: &Facts, seen: &mut Seen) -> Result<(), NodeError> {
        let now = self.meta.platform().clock().now();
        let here: Vec<u64> = self.replicas.servers().iter().map(|server| server.replica().raft_id()).collect();
        seen.unnamed.retain(|id, _| here.contains(id) && !facts.group.contains_key(id));
        for raft_id in here {
            if facts.group.contains_key(&raft_id) {
                continue;
            }
            let since = *seen.unnamed.entry(raft_id).or_insert(now);
            if now.saturating_since(since) < FORGOTTEN {
                continue;
            }
            // What was heard may be old; the leader knows, and what it says is for good.
            self.meta.leave_replica(raft_id).await.map_err(|error| NodeError::new(error.to_string()))?;
            let _one = self.directories.changing().await;
            self.replicas.take_out(raft_id, "it has left the group");
            let homes = self.directories.homes();
            let home = homes.into_iter().find(|home| home.identity.as_ref().is_some_and(|own| own.raft_id == raft_id));
            if let Some(home) = home {
                self.directories.exchange(without_replica(home).await?);
            }
        }
        Ok(())
    }
}

/// The directory's identity names no replica any more, durably. What the replica left is cleared away by
/// the next start: it may still be open.
async fn without_replica(mut home: Home) -> Result<Home, NodeError> {
    let Some(own) = home.identity.clone() else { return Ok(home) };
    identity::write_identity(&mut home, proto::identity::Identity { raft_id: 0, ..own }).await?;
    Ok(home)
}

/// Whether an earlier replica's files lie there.
async fn left_over(home: &Home) -> Result<bool, NodeError> {
    let found = home.disk.read_file("ballot").await;
    Ok(found.map_err(|error| NodeError::new(format!("{}: {error}", home.disk.path().display())))?.is_some())
}

/// Clears away what a replica left in a directory that has none now; done before anything is started.
#[expect(clippy::disallowed_methods, reason = "removes files of a replica that is gone, before the start")]
pub fn clear(home: &Home) -> Result<(), NodeError> {
    if home.identity.as_ref().is_none_or(|own| own.raft_id != 0) {
        return Ok(());
    }
    let path = home.disk.path();
    let failed = |error: std::io::Error| NodeError::new(format!("{}: {error}", path.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "ballot" || name.starts_with("log-") || name.starts_with("state-") {
            found.push((name, entry.path()));
        }
    }
    // The ballot goes last: it is what tells that the others may lie there.
    found.sort_by_key(|(name, _)| name == "ballot");
    for (_, path) in found {
        let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        gone.map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use types::ids::ClusterId;

    use super::{clear, identity};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what lies beside it is made and looked at from outside")]
    fn only_what_a_replica_left_is_cleared_away_and_only_where_none_is() {
        let path = std::env::temp_dir().join(format!("bixi-clear-{}", std::process::id()));
        let kept = ["identity", "data", "checkpoint", "node.json", "logs"];
        let left = ["ballot", "log-0000000000000001", "state-current"];
        let there =
            || -> Vec<&str> { kept.iter().chain(&left).copied().filter(|name| path.join(name).exists()).collect() };
        std::fs::create_dir_all(path.join("state-1")).expect("directory");
        for name in kept.iter().chain(&left) {
            std::fs::write(path.join(name), name).expect("file");
        }
        let inner = path.clone();
        let cleared = platform::run(move |platform| async move {
            let disk = platform.open_disk(&inner).expect("disk");
            let mut own = identity::fresh(&platform, ClusterId(1), [0; 32], 1, true);
            let home = |own| identity::Home { disk: disk.clone(), identity: own, members: None };
            clear(&home(Some(own.clone()))).expect("nothing to do");
            clear(&home(None)).expect("nothing to do");
            let before = inner.join("ballot").exists() && inner.join("state-1").exists();
            own.raft_id = 0;
            clear(&home(Some(own.clone()))).expect("cleared");
            // As after a crash in the middle: once more.
            clear(&home(Some(own))).expect("cleared");
            before
        });
        assert!(cleared, "a replica lives there");
        assert_eq!(there(), kept);
        assert!(!path.join("state-1").exists());
        std::fs::remove_dir_all(&path).expect("removed");
    }
}
