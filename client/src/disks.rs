//! Where disks are reached, and which of them answer slowly or not at all.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use platform::clock::Instant;
use proto::query::{Ask, AskAll};
use types::ids::StoreId;

use crate::meta::{MetaClient, MetaError};
use crate::speeds::Speeds;

/// How long a disk that failed is avoided.
const AVOID: Duration = Duration::from_secs(5);
/// The map is fetched again at most this often.
const REFRESH: Duration = Duration::from_millis(200);

#[derive(Clone)]
struct Place {
    address: String,
    store: StoreId,
}

struct Inner {
    meta: MetaClient,
    places: RefCell<BTreeMap<u64, Place>>,
    failed: RefCell<BTreeMap<u64, Instant>>,
    speeds: RefCell<Speeds>,
    demoted: Cell<u64>,
    fetched: Cell<Instant>,
    /// Somebody is fetching it behind the others' backs.
    looking: Cell<bool>,
}

/// Disks that new chunks should not lie on.
#[derive(Clone, Debug, Default)]
pub struct Avoid {
    /// They failed a moment ago.
    pub failed: Vec<u64>,
    /// They are much slower than the others.
    pub slow: Vec<u64>,
}

/// The disks as this process sees them. Cheap to clone.
#[derive(Clone)]
pub struct DiskMap(Rc<Inner>);

impl DiskMap {
    /// An empty map; it is fetched when the first disk is looked up.
    pub fn new(meta: MetaClient) -> DiskMap {
        DiskMap(Rc::new(Inner {
            meta,
            places: RefCell::new(BTreeMap::new()),
            failed: RefCell::new(BTreeMap::new()),
            speeds: RefCell::default(),
            demoted: Cell::new(0),
            fetched: Cell::new(Instant(0)),
            looking: Cell::new(false),
        }))
    }

    /// Address and store of a disk, fetching the map if it is unknown.
    ///
    /// # Errors
    /// No leader in time. `None` for a disk that does not exist.
    pub async fn place(&self, disk: u64) -> Result<Option<(String, StoreId)>, MetaError> {
        if let Some(found) = self.known(disk) {
            return Ok(Some(found));
        }
        self.refresh().await?;
        Ok(self.known(disk))
    }

    fn known(&self, disk: u64) -> Option<(String, StoreId)> {
        self.0.places.borrow().get(&disk).map(|place| (place.address.clone(), place.store))
    }

    /// Fetches the map.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn refresh(&self) -> Result<(), MetaError> {
        let now = self.0.meta.platform().clock().now();
        if self.0.fetched.get().0 > 0 && now.saturating_since(self.0.fetched.get()) < REFRESH {
            return Ok(());
        }
        let view = self.0.meta.query(Ask::Disks(AskAll {})).await?;
        self.0.fetched.set(self.0.meta.platform().clock().now());
        let places = view
            .disks
            .into_iter()
            .map(|entry| (entry.disk, Place { address: entry.row.address, store: StoreId(entry.row.store) }));
        *self.0.places.borrow_mut() = places.collect();
        Ok(())
    }

    /// A disk is not where the map says: fetches the map anew, behind the caller's back, so that
    /// nothing waits for the metaserver.
    pub fn look_again(&self) {
        if self.0.looking.replace(true) {
            return;
        }
        let this = self.clone();
        let looking = self.0.meta.platform().tasks().spawn(async move {
            if let Err(error) = this.refresh().await {
                tracing::debug!(%error, "map of the disks could not be fetched");
            }
            this.0.looking.set(false);
        });
        looking.detach();
    }

    /// A call to this disk failed.
    pub fn mark_failed(&self, disk: u64) {
        self.0.failed.borrow_mut().insert(disk, self.0.meta.platform().clock().now());
    }

    /// A call to this disk went well.
    pub fn mark_well(&self, disk: u64) {
        if !self.0.failed.borrow().is_empty() {
            self.0.failed.borrow_mut().remove(&disk);
        }
    }

    /// Whether this disk failed a moment ago.
    pub fn is_suspect(&self, disk: u64) -> bool {
        let failed = self.0.failed.borrow();
        let now = self.0.meta.platform().clock().now();
        failed.get(&disk).is_some_and(|at| now.saturating_since(*at) < AVOID)
    }

    /// Whether this disk failed after `moment`, a moment ago.
    pub fn failed_since(&self, disk: u64, moment: Instant) -> bool {
        self.is_suspect(disk) && self.0.failed.borrow().get(&disk).is_some_and(|at| *at > moment)
    }

    /// An append to this disk took so long.
    pub fn note_append(&self, disk: u64, took: Duration) {
        let now = self.0.meta.platform().clock().now();
        if let Some(slow) = self.0.speeds.borrow_mut().note(disk, took, now) {
            self.0.demoted.set(self.0.demoted.get() + 1);
            tracing::warn!(
                disk,
                usual_ms = slow.usual.as_millis() as u64,
                others_ms = slow.others.as_secs_f64() * 1000.0,
                rest_s = slow.rest.as_secs(),
                "disk is slow, new chunks are written elsewhere"
            );
        }
    }

    /// Whether this disk is much slower than the others and let alone for that.
    pub fn is_slow(&self, disk: u64) -> bool {
        self.0.speeds.borrow().is_slow(disk, self.0.meta.platform().clock().now())
    }

    /// How often a disk was found to be slow since the start.
    pub fn demoted(&self) -> u64 {
        self.0.demoted.get()
    }

    /// What new chunks should not lie on.
    pub fn avoid(&self) -> Avoid {
        let now = self.0.meta.platform().clock().now();
        let failed = self.0.failed.borrow().keys().copied().filter(|disk| self.is_suspect(*disk)).collect();
        Avoid { failed, slow: self.0.speeds.borrow().slow(now).collect() }
    }
}
