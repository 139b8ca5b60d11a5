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

use super::NodeError;
use super::identity::Home;

/// A heartbeat is due this often.
const PERIOD: Duration = Duration::from_secs(1);

/// Days of a scrub unless somebody says otherwise.
pub const SCRUB_DAYS: f64 = 14.0;

/// A store and the number the metaserver knows its disk by (0 = not registered yet).
pub struct Member {
    /// The store.
    pub store: Store,
    /// Its disk.
    pub disk: u64,
    row: DiskRow,
}

/// The stores of a process as they are announced.
#[derive(Clone, Default)]
pub struct Announced(Rc<RefCell<Vec<Member>>>);

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
    /// Adds a store that is reached at `address`, in the given failure domain.
    pub fn add(&self, store: Store, node: &str, domain: &str, address: &str) {
        let row = DiskRow {
            store: store.id().0,
            node: node.to_owned(),
            domain: domain.to_owned(),
            address: address.to_owned(),
            path: store.disk().path().display().to_string(),
            state: 0,
        };
        self.0.borrow_mut().push(Member { store, disk: 0, row });
    }

    /// Registers every store that is not yet known.
    ///
    /// # Errors
    /// No leader in time, or the store was declared lost.
    pub async fn register(&self, meta: &MetaClient) -> Result<(), MetaError> {
        let wanted: Vec<(usize, DiskRow)> = {
            let members = self.0.borrow();
            members
                .iter()
                .enumerate()
                .filter(|(_, member)| member.disk == 0)
                .map(|(at, member)| (at, member.row.clone()))
                .collect()
        };
        let asks =
            wanted.into_iter().map(|(at, row)| async move { (at, meta.bare_command(Body::RegisterDisk(row)).await) });
        for (at, registered) in futures_util::future::join_all(asks).await {
            match registered {
                Ok(outcome) => self.0.borrow_mut()[at].disk = outcome.number,
                Err(MetaError::Refused { code: proto::meta::refusal::DISK, text, .. }) => {
                    tracing::error!(store = at + 1, %text, "this disk is not taken, the others serve on");
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
                }
            })
            .collect()
    }

    /// Says for ever that this process and its disks live.
    pub async fn heartbeat(self, meta: MetaClient) {
        let clock = meta.platform().clock().clone();
        loop {
            if let Err(error) = self.register(&meta).await {
                tracing::warn!(%error, "a disk is not registered");
            }
            if let Err(error) = meta.heartbeat(self.reports()).await {
                tracing::debug!(%error, "heartbeat was not heard");
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
