//! Starting chunkserver stores, telling the metaserver of them, and the heartbeat.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use chunkserver::service::ChunkService;
use chunkserver::store::Store;
use chunkserver::store::config::StoreConfig;
use client::meta::{MetaClient, MetaError};
use platform::Platform;
use proto::meta::{Body, DiskReport};
use proto::rows::DiskRow;
use types::ids::StoreId;

use super::directories::Directories;
use super::identity::Home;
use super::{NodeError, memory};

/// A heartbeat is due this often.
const PERIOD: Duration = Duration::from_secs(1);

/// Bytes of a slot of a store's data file.
pub const SLOT: u64 = 4 << 20;

/// Days of a scrub unless somebody says otherwise.
pub const SCRUB_DAYS: f64 = 14.0;

/// A store and the number the metaserver knows its disk by (0 = not registered yet).
pub struct Member {
    /// The store.
    pub store: Store,
    /// Its disk.
    pub disk: u64,
    row: DiskRow,
    /// The metaserver does not take it.
    refused: bool,
    /// What the metaserver was told of it is not true any more.
    stale: bool,
}

/// Where a store is, for the metaserver.
pub struct Place<'a> {
    /// Process name.
    pub node: &'a str,
    /// Failure domain.
    pub domain: &'a str,
    /// Where the process is reached.
    pub address: &'a str,
    /// Address of the metaserver replica in the same directory; empty = none.
    pub replica: &'a str,
}

/// The stores of a process as they are announced.
#[derive(Clone, Default)]
pub struct Announced(Rc<RefCell<Vec<Member>>>);

/// How stores of this process are kept.
pub fn config() -> StoreConfig {
    let tables_bytes = usize::try_from(memory::shares().tables).unwrap_or(usize::MAX);
    StoreConfig { slot_size: SLOT, tables_bytes, ..StoreConfig::default() }
}

/// Opens the store of a directory and serves it; everything in it is read once within `scrub`.
///
/// # Errors
/// The disk.
pub async fn start(
    platform: &Platform,
    service: &ChunkService,
    home: &Home,
    config: StoreConfig,
    scrub: Option<Duration>,
) -> Result<Store, NodeError> {
    let Some(identity) = &home.identity else { return Err(NodeError::new("directory without identity")) };
    let store = Store::open(platform.clone(), home.disk.clone(), identity.store, config)
        .await
        .map_err(|error| NodeError::new(format!("store in {}: {error}", home.disk.path().display())))?;
    service.add(store.clone());
    platform.tasks().spawn(store.clone().maintain());
    if let Some(cycle) = scrub {
        platform.tasks().spawn(store.clone().scrub(cycle));
    }
    Ok(store)
}

/// The time of a scrub; none if it is not wanted.
///
/// # Errors
/// No number of days.
pub fn scrub_cycle(days: f64) -> Result<Option<Duration>, NodeError> {
    let cycle = Duration::try_from_secs_f64(days * 86_400.0)
        .map_err(|_| NodeError { text: format!("--scrub-days {days} is no number of days"), exit: 2 })?;
    Ok((!cycle.is_zero()).then_some(cycle))
}

impl Announced {
    /// Adds a store.
    pub fn add(&self, store: Store, place: &Place<'_>) {
        let row = DiskRow {
            store: store.id().0,
            node: place.node.to_owned(),
            domain: place.domain.to_owned(),
            address: place.address.to_owned(),
            path: store.disk().path().display().to_string(),
            replica: place.replica.to_owned(),
            ..DiskRow::default()
        };
        self.0.borrow_mut().push(Member { store, disk: 0, row, refused: false, stale: false });
    }

    /// Whether a store is among them.
    pub fn serves(&self, store: StoreId) -> bool {
        self.0.borrow().iter().any(|member| member.store.id() == store)
    }

    /// The disk of a store; `None` if the metaserver did not take it.
    pub fn disk_of(&self, store: StoreId) -> Option<u64> {
        let members = self.0.borrow();
        members.iter().find(|member| member.store.id() == store && member.disk != 0).map(|member| member.disk)
    }

    /// A metaserver replica begins in a store's directory; told with the next heartbeat.
    pub fn has_replica(&self, store: StoreId, address: &str) {
        if let Some(member) = self.0.borrow_mut().iter_mut().find(|member| member.store.id() == store) {
            address.clone_into(&mut member.row.replica);
            member.stale = true;
        }
    }

    /// Takes a disk's store out.
    pub fn remove(&self, disk: u64) -> Option<Store> {
        let mut members = self.0.borrow_mut();
        let at = members.iter().position(|member| member.disk == disk)?;
        Some(members.remove(at).store)
    }

    /// Registers every store that is not yet known.
    ///
    /// # Errors
    /// No leader in time, or the store was declared lost.
    pub async fn register(&self, meta: &MetaClient) -> Result<(), MetaError> {
        let wanted: Vec<DiskRow> = {
            let members = self.0.borrow();
            let open = members.iter().filter(|member| (member.disk == 0 || member.stale) && !member.refused);
            open.map(|member| member.row.clone()).collect()
        };
        let asks = wanted.into_iter().map(|row| async move {
            let store = row.store;
            (store, meta.bare_command(Body::RegisterDisk(row)).await)
        });
        for (store, registered) in futures_util::future::join_all(asks).await {
            // The list may have changed meanwhile.
            let mut members = self.0.borrow_mut();
            let Some(member) = members.iter_mut().find(|member| member.row.store == store) else { continue };
            match registered {
                Ok(outcome) => (member.disk, member.stale) = (outcome.number, false),
                Err(MetaError::Refused { code: proto::meta::refusal::DISK, text, .. }) => {
                    tracing::error!(dir = %member.row.path, %text, "this disk is not taken, the others serve on");
                    member.refused = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What the disks report now.
    pub fn reports(&self) -> Vec<DiskReport> {
        let members = self.0.borrow();
        members
            .iter()
            .filter(|member| member.disk != 0)
            .map(|member| {
                let space = member.store.space();
                DiskReport {
                    disk: member.disk,
                    total_bytes: space.total,
                    available_bytes: space.available,
                    failed: member.store.is_failed(),
                    level: proto::level::CURRENT,
                }
            })
            .collect()
    }

    /// Says for ever that this process and its disks live; gives up those that were removed.
    pub async fn heartbeat(self, meta: MetaClient, directories: Option<Directories>) {
        let clock = meta.platform().clock().clone();
        loop {
            if let Err(error) = self.register(&meta).await {
                tracing::warn!(%error, "a disk is not registered");
            }
            match (meta.heartbeat(self.reports()).await, &directories) {
                (Ok(ack), Some(directories)) => {
                    directories.drop_removed(&ack.removed).await;
                    directories.raise(ack.level).await;
                }
                (Ok(_), None) => {}
                (Err(error), _) => tracing::debug!(%error, "heartbeat was not heard"),
            }
            clock.sleep(PERIOD).await;
        }
    }

    /// Writes checkpoints (orderly stop).
    pub async fn settle(&self) {
        let stores: Vec<Store> = self.0.borrow().iter().map(|member| member.store.clone()).collect();
        for store in stores {
            if let Err(error) = store.checkpoint().await {
                tracing::warn!(%error, "checkpoint at the stop failed; the next start reads more");
            }
        }
    }
}
