//! The directories of a process: those it was started with, and those that were added while it ran.
//!
//! The file `directories` in every directory that the process was started with lists the added ones;
//! the highest generation counts. A directory is in the list before its disk is registered, so that a
//! crash in between is mended by the next start; one that was taken out of the pool leaves the list.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use chunkserver::service::ChunkService;
use client::meta::MetaClient;
use platform::Platform;
use platform::disk::Disk;
use proto::chunk::{AddDisk, DiskAdded};
use proto::identity::Identity;
use proto::service::{Answer, Failure, class, code};
use rpc::call::Reply;
use serde::{Deserialize, Serialize};
use types::ids::StoreId;

use super::NodeError;
use super::chunks::{self, Announced, Place};
use super::cluster::Naming;
use super::identity::{self, Home, Members, OpenError};
use super::replicas::Replicas;

const FILE: &str = "directories";

/// The file `directories`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// Format version, 1.
    version: u32,
    /// Rises with every change.
    generation: u64,
    /// Absolute paths.
    added: Vec<PathBuf>,
}

/// What a process needs to open one more directory.
pub struct Parts {
    /// The machine.
    pub platform: Platform,
    /// Where its stores are served.
    pub service: ChunkService,
    /// Where they are announced.
    pub announced: Announced,
    /// The way to the metaserver.
    pub meta: MetaClient,
    /// How it is called and where it is reached.
    pub naming: Naming,
    /// The failure domain of all disks; one for each if there is none.
    pub domain: Option<String>,
    /// Time of a scrub.
    pub scrub: Option<Duration>,
    /// The metaserver replicas of the process, if it may hold several.
    pub replicas: Option<Replicas>,
}

struct Inner {
    parts: Parts,
    own: Identity,
    members: Members,
    bases: Vec<Disk>,
    added: RefCell<Added>,
    /// All that are served.
    homes: RefCell<Vec<Home>>,
    /// Two changes at once would lose one.
    changing: tokio::sync::Mutex<()>,
}

/// The directories of a process. Cheap to clone.
#[derive(Clone)]
pub struct Directories(Rc<Inner>);

impl Added {
    /// What directories that a process was started with say.
    ///
    /// # Errors
    /// A list is damaged.
    pub async fn read(bases: &[Home]) -> Result<Added, NodeError> {
        let mut found = Added { version: 1, ..Added::default() };
        for home in bases {
            let failed = |text: String| NodeError::new(format!("{}/{FILE}: {text}", home.disk.path().display()));
            let bytes = home.disk.read_file(FILE).await.map_err(|error| failed(error.to_string()))?;
            let Some(bytes) = bytes else { continue };
            let read: Added = serde_json::from_slice(&bytes).map_err(|error| failed(format!("damaged: {error}")))?;
            if read.generation > found.generation {
                found = read;
            }
        }
        // Some may be given by now.
        found.added.retain(|path| !bases.iter().any(|base| base.disk.path() == path));
        Ok(found)
    }

    /// Opens the directories that were added before this start. One that cannot be opened does not
    /// stop the others.
    pub async fn open(&self, platform: &Platform) -> Vec<Home> {
        let mut homes = Vec::new();
        for path in &self.added {
            match identity::open(platform, path).await {
                Ok(home) if home.identity.is_some() && home.members.is_some() => homes.push(home),
                Ok(_) => tracing::error!(
                    dir = %path.display(),
                    "this directory was added to the pool and is empty; if its disk is gone for good, say `bixi disk remove --lost`"
                ),
                Err(error) => {
                    let error = NodeError::from(error);
                    tracing::error!(%error, "this directory is not served; its chunks are read from the others");
                }
            }
        }
        homes
    }
}

impl Directories {
    /// Those of a process that was started with `bases`, of which one at least belongs to its
    /// cluster; `added` is what they say.
    ///
    /// # Errors
    /// None belongs to a cluster.
    pub fn new(bases: &[Home], added: Added, parts: Parts) -> Result<Directories, NodeError> {
        let identity = bases.iter().find_map(|home| Some((home.identity.clone()?, home.members.clone()?)));
        let (own, members) = identity.ok_or_else(|| NodeError::new("no directory belongs to a cluster"))?;
        let homes = RefCell::new(bases.to_vec());
        let bases = bases.iter().map(|home| home.disk.clone()).collect();
        let (added, changing) = (RefCell::new(added), tokio::sync::Mutex::new(()));
        Ok(Directories(Rc::new(Inner { parts, own, members, bases, added, homes, changing })))
    }

    /// These were added before this start and are served already.
    pub fn knows(&self, homes: &[Home]) {
        self.0.homes.borrow_mut().extend(homes.iter().cloned());
    }

    /// Serves directories that were added before this start.
    pub async fn serve_all(&self, homes: &[Home]) {
        for home in homes {
            if let Err(error) = self.serve(home).await {
                tracing::error!(%error, "this directory is not served; its chunks are read from the others");
            }
        }
    }

    async fn serve(&self, home: &Home) -> Result<StoreId, NodeError> {
        let parts = &self.0.parts;
        let config = chunks::config();
        let cluster = home.identity.as_ref().map(|own| own.cluster);
        if cluster != Some(self.0.own.cluster) {
            let text = format!("{} belongs to another cluster; give an empty directory", home.disk.path().display());
            return Err(NodeError::conflict(text));
        }
        let store = chunks::start(&parts.platform, &parts.service, home, config, parts.scrub).await?;
        let id = store.id();
        let domain = parts.domain.clone().unwrap_or_else(|| parts.naming.domain(&id.to_string()));
        let raft_id = home.identity.as_ref().map(|own| own.raft_id).filter(|raft_id| *raft_id != 0);
        let replica = raft_id.map(|raft_id| parts.naming.replica(raft_id));
        let replica = replica.unwrap_or_default();
        let naming = &parts.naming;
        let place = Place { node: &naming.node, domain: &domain, address: &naming.stores, replica: &replica };
        parts.announced.add(store, &place);
        self.0.homes.borrow_mut().push(home.clone());
        Ok(id)
    }

    /// Takes a directory into the pool; answers its disk.
    async fn add(&self, path: &Path) -> Result<u64, NodeError> {
        let _one = self.0.changing.lock().await;
        if !path.is_absolute() {
            return Err(NodeError { text: format!("{} is not an absolute path", path.display()), exit: 2 });
        }
        let mut home = identity::open(&self.0.parts.platform, path).await.map_err(|error| match error {
            OpenError::Disk(error) => error,
            OpenError::Refused(error) => NodeError::conflict(error.text),
        })?;
        if let Some(own) = &home.identity
            && self.0.parts.announced.serves(own.store)
        {
            return Err(NodeError::conflict(format!("{} is in the pool already", path.display())));
        }
        if home.members.is_none() {
            let own = &self.0.own;
            let fresh =
                identity::fresh(&self.0.parts.platform, own.cluster, own.cluster_secret, own.feature_level, false);
            identity::write_identity(&mut home, fresh).await?;
            identity::write_members(&mut home, &self.0.members).await?;
        }
        let path = home.disk.path().to_owned();
        // First the list: from the moment that the store is served, every heartbeat may register it.
        let is_new = self.remember(&path).await?;
        let store = match self.serve(&home).await {
            Ok(store) => store,
            Err(error) => {
                if is_new {
                    self.forget(&path).await;
                }
                return Err(error);
            }
        };
        let announced = &self.0.parts.announced;
        announced.register(&self.0.parts.meta).await.map_err(|error| NodeError::new(error.to_string()))?;
        match announced.disk_of(store) {
            Some(disk) => {
                self.fill_replicas().await;
                Ok(disk)
            }
            None => {
                self.give_up(&home.disk);
                self.forget(&path).await;
                let text = format!("{} was removed from the pool; empty it so that it joins anew", path.display());
                Err(NodeError::conflict(text))
            }
        }
    }

    /// Says in every directory that the cluster's feature level has risen, durably: an older program
    /// refuses it then.
    pub async fn raise(&self, level: u64) {
        let is_behind = |home: &Home| home.identity.as_ref().is_some_and(|own| own.feature_level < level);
        if !self.0.homes.borrow().iter().any(is_behind) {
            return;
        }
        let _one = self.0.changing.lock().await;
        for home in self.homes().into_iter().filter(is_behind) {
            match identity::raised(home, level).await {
                Ok(home) => self.exchange(home),
                Err(error) => tracing::warn!(%error, "the directory does not say yet that the feature level has risen"),
            }
        }
    }

    /// Serves disks that were taken out of the pool no more, and does not open them again.
    pub async fn drop_removed(&self, disks: &[u64]) {
        for disk in disks {
            let Some(store) = self.0.parts.announced.remove(*disk) else { continue };
            tracing::info!(disk, dir = %store.disk().path().display(), "this disk was removed, its directory is given up");
            self.0.parts.service.remove(store.id());
            store.retire();
            let _one = self.0.changing.lock().await;
            self.give_up(store.disk());
            self.forget(store.disk().path()).await;
            self.mend();
        }
    }

    /// Looks behind the caller's back whether a metaserver replica is to begin in one of the
    /// directories.
    pub fn mend(&self) {
        let this = self.clone();
        self.0.parts.platform.tasks().spawn(async move {
            let _one = this.0.changing.lock().await;
            this.fill_replicas().await;
        });
    }

    fn give_up(&self, disk: &Disk) {
        self.0.homes.borrow_mut().retain(|home| home.disk.path() != disk.path());
        if let Some(replicas) = &self.0.parts.replicas {
            replicas.stop_in(disk.path());
        }
    }

    /// A metaserver replica whose directory is gone begins anew in another one.
    async fn fill_replicas(&self) {
        let Some(replicas) = &self.0.parts.replicas else { return };
        let homes = self.0.homes.borrow().clone();
        for started in replicas.fill(&homes).await {
            self.exchange(started);
        }
    }

    /// Directories that are served, as they are now; hold `changing` while one is exchanged.
    pub fn homes(&self) -> Vec<Home> {
        self.0.homes.borrow().clone()
    }

    /// A directory's identity has changed.
    pub fn exchange(&self, home: Home) {
        let mut homes = self.0.homes.borrow_mut();
        homes.retain(|old| old.disk.path() != home.disk.path());
        homes.push(home);
    }

    /// Nobody else changes directories until the guard goes.
    pub async fn changing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.changing.lock().await
    }

    /// Puts a directory on the list. Answers whether it was not there, nor given at the start.
    async fn remember(&self, path: &Path) -> Result<bool, NodeError> {
        let mut added = self.0.added.borrow().clone();
        if self.0.bases.iter().any(|base| base.path() == path) || added.added.iter().any(|other| other == path) {
            return Ok(false);
        }
        added.added.push(path.to_owned());
        self.write(added).await?;
        Ok(true)
    }

    async fn forget(&self, path: &Path) {
        let mut added = self.0.added.borrow().clone();
        let before = added.added.len();
        added.added.retain(|other| other != path);
        if added.added.len() < before
            && let Err(error) = self.write(added).await
        {
            tracing::error!(%error, "the list of directories could not be written");
        }
    }

    /// Durable in one directory at least.
    async fn write(&self, mut added: Added) -> Result<(), NodeError> {
        added.generation += 1;
        let bytes = serde_json::to_vec_pretty(&added).map_err(|error| NodeError::new(error.to_string()))?;
        let (mut written, mut last) = (0, String::new());
        for base in &self.0.bases {
            match base.write_file(FILE, &bytes).await {
                Ok(()) => written += 1,
                Err(error) => last = format!("{}/{FILE}: {error}", base.path().display()),
            }
        }
        if written == 0 {
            return Err(NodeError::new(last));
        }
        *self.0.added.borrow_mut() = added;
        Ok(())
    }

    /// Carries out a request that is meant for the process; `None` if it is not.
    pub async fn answer(&self, ask: &AddDisk) -> Reply {
        match self.add(Path::new(&ask.path)).await {
            Ok(disk) => Reply::of(Answer::DiskAdded(DiskAdded { disk })),
            Err(error) => {
                let code = match error.exit {
                    2 => code::BAD_REQUEST,
                    4 => code::CONFLICT,
                    _ => code::OTHER,
                };
                Reply::of(Answer::Failed(Failure::new(class::GIVE_UP, code, error.text)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Added;

    #[test]
    fn golden_bytes_of_directories() {
        let text = r#"{"version":1,"generation":3,"added":["/data/e","/data/f"]}"#;
        let added = Added { version: 1, generation: 3, added: vec!["/data/e".into(), "/data/f".into()] };
        assert_eq!(serde_json::to_string(&added).ok().as_deref(), Some(text));
        assert_eq!(serde_json::from_str::<Added>(text).ok(), Some(added));
        assert!(serde_json::from_str::<Added>(&text.replace("generation", "genration")).is_err());
    }
}
