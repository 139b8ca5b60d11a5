//! The metaserver replicas of a process that holds several: when the directory of one is removed,
//! another directory takes its place.
//!
//! The new replica asks the group to be let in, learns, and then votes (`metaserver/src/consensus`,
//! `membership`); the old one leaves in the same change. Its number is in the directory's identity
//! before it starts, so that a crash in between is mended by the next start.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use client::meta::{MetaClient, MetaError};
use metaserver::server::MetaServer;
use metaserver::server::keyring::Keyring;
use platform::Platform;
use proto::query::{Ask, AskAll};
use rpc::peers::Peers;

use super::cluster::Naming;
use super::identity::{self, Home};
use super::metas::{self, Group};
use super::{NodeError, chunks::Announced};

/// Where the replica of a Raft id is reached within its process.
pub fn local(raft_id: u64) -> String {
    format!("local-meta-{raft_id:016x}")
}

/// How often a replica in a removed directory tries to leave the group, and the pause between.
const LEAVE_TRIES: u32 = 100;
const LEAVE_PAUSE: Duration = Duration::from_secs(3);

struct Running {
    dir: PathBuf,
    server: MetaServer,
}

struct Inner {
    platform: Platform,
    peers: Peers,
    meta: MetaClient,
    announced: Announced,
    naming: Naming,
    /// How many the process is to hold; none for itself in a cluster of several nodes, where `tend` decides.
    wanted: usize,
    keyring: Keyring,
    running: RefCell<Vec<Running>>,
}

/// The replicas. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(Rc<Inner>);

impl Replicas {
    /// Those that run, with their directories, of `wanted` that there should be.
    pub fn new(
        peers: &Peers,
        meta: &MetaClient,
        announced: &Announced,
        naming: &Naming,
        wanted: usize,
        running: Vec<(PathBuf, MetaServer)>,
        keyring: Keyring,
    ) -> Replicas {
        let running = running.into_iter().map(|(dir, server)| Running { dir, server }).collect();
        Replicas(Rc::new(Inner {
            platform: meta.platform().clone(),
            peers: peers.clone(),
            meta: meta.clone(),
            announced: announced.clone(),
            naming: naming.clone(),
            wanted: if naming.is_reached() { 0 } else { wanted },
            keyring,
            running: RefCell::new(running),
        }))
    }

    /// All that run.
    pub fn servers(&self) -> Vec<MetaServer> {
        self.0.running.borrow().iter().map(|one| one.server.clone()).collect()
    }

    /// The one that a call is meant for; with 0 the one that leads, or any.
    pub fn addressed(&self, raft_id: u64) -> Option<MetaServer> {
        let servers = self.servers();
        if raft_id != 0 {
            return servers.into_iter().find(|server| server.replica().raft_id() == raft_id);
        }
        servers.iter().find(|server| server.replica().is_leader()).or(servers.first()).cloned()
    }

    /// Members of the group that replicas here know, by Raft id.
    pub fn known(&self) -> BTreeMap<u64, String> {
        let servers = self.servers();
        let newest = servers.iter().max_by_key(|server| server.replica().applied());
        newest.map(|server| server.replica().group()).unwrap_or_default()
    }

    /// Takes a replica that belongs to the group no more out of the process; answers its directory.
    pub fn take_out(&self, raft_id: u64, why: &str) -> Option<PathBuf> {
        let mut running = self.0.running.borrow_mut();
        let at = running.iter().position(|one| one.server.replica().raft_id() == raft_id)?;
        let gone = running.remove(at);
        gone.server.replica().retire(why);
        Some(gone.dir)
    }

    /// The replica in a directory that was removed stops; in a cluster of several nodes when it has left
    /// the group.
    pub fn stop_in(&self, dir: &Path) {
        if self.0.naming.is_reached() {
            let raft_id = {
                let running = self.0.running.borrow();
                running.iter().find(|one| one.dir == dir).map(|one| one.server.replica().raft_id())
            };
            if let Some(raft_id) = raft_id {
                let this = self.clone();
                self.0.platform.tasks().spawn(async move { this.leave(raft_id).await });
            }
            return;
        }
        let mut running = self.0.running.borrow_mut();
        let gone = running.iter().position(|one| one.dir == dir).map(|at| running.remove(at));
        if let Some(gone) = gone {
            gone.server.replica().retire("its directory was removed");
        }
    }

    async fn leave(&self, raft_id: u64) {
        for _ in 0..LEAVE_TRIES {
            match self.0.meta.leave_replica(raft_id).await {
                Ok(()) => {
                    self.take_out(raft_id, "its directory was removed");
                    return;
                }
                Err(error) => tracing::warn!(%error, "the replica in the directory that was removed stays for now"),
            }
            self.0.platform.clock().sleep(LEAVE_PAUSE).await;
        }
    }

    /// Starts replicas in directories without one, in place of those whose directories were removed.
    /// Answers the directories as they are now.
    pub async fn fill(&self, homes: &[Home]) -> Vec<Home> {
        let mut begun = Vec::new();
        let mut gone = match self.gone().await {
            Ok(gone) => gone,
            Err(error) => {
                tracing::warn!(%error, "it is not known whether a metaserver replica is missing");
                return begun;
            }
        };
        for home in homes {
            let has_one = home.identity.as_ref().is_none_or(|own| own.raft_id != 0);
            if has_one || self.0.running.borrow().len() >= self.0.wanted {
                continue;
            }
            let Some(replaces) = gone.pop() else { break };
            let contacts = self.contacts();
            match self.start_in(home, replaces, contacts).await {
                Ok(home) => {
                    tracing::warn!(dir = %home.disk.path().display(), "a metaserver replica begins here");
                    begun.push(home);
                }
                Err(error) => tracing::error!(%error, "no metaserver replica begins here"),
            }
        }
        begun
    }

    /// Members whose directories were removed.
    async fn gone(&self) -> Result<Vec<u64>, MetaError> {
        let disks = self.0.meta.query(Ask::Disks(AskAll {})).await?.disks;
        let removed: BTreeSet<String> =
            disks.into_iter().filter(|entry| entry.row.removed).map(|entry| entry.row.replica).collect();
        let Some(server) = self.servers().into_iter().find(|server| server.replica().stopped().is_none()) else {
            return Ok(Vec::new());
        };
        let members = server.replica().group();
        Ok(members.into_iter().filter(|(_, address)| removed.contains(address)).map(|(id, _)| id).collect())
    }

    fn contacts(&self) -> BTreeMap<u64, String> {
        let address = |one: &Running| (one.server.replica().raft_id(), one.server.replica().address().to_owned());
        self.0.running.borrow().iter().map(address).collect()
    }

    /// Begins a replica in a directory without one; it asks `contacts` to be let in.
    ///
    /// # Errors
    /// The disk.
    pub async fn start_in(
        &self,
        home: &Home,
        replaces: u64,
        contacts: BTreeMap<u64, String>,
    ) -> Result<Home, NodeError> {
        let platform = &self.0.platform;
        let Some(mut own) = home.identity.clone() else { return Err(NodeError::new("directory without identity")) };
        own.raft_id = identity::random_id(platform);
        let (raft_id, address, store) = (own.raft_id, self.0.naming.replica(own.raft_id), own.store);
        let mut home = home.clone();
        identity::founding_is_over(&home).await?;
        identity::write_identity(&mut home, own).await?;
        let group = Group { founders: BTreeMap::new(), contacts, replaces };
        let name = self.0.naming.replica_name(&format!("meta-{raft_id:x}"));
        let server =
            metas::start(platform, &self.0.peers, &home, &name, &address, group, self.0.keyring.clone()).await?;
        crate::server::register_meta(&self.0.peers, &address, &server);
        self.0.meta.add_address(&address);
        self.0.announced.has_replica(store, &address);
        self.0.running.borrow_mut().push(Running { dir: home.disk.path().to_owned(), server });
        Ok(home)
    }
}
