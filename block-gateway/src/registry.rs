//! Which volumes this process has attached: a volume is attached when its first client comes and given up
//! a moment after its last has gone. All clients of a process share one device, so what one was answered
//! all others see.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use client::chunk::reader::ChunkReader;
use client::chunk::shards::Shards;
use client::meta::MetaClient;
use client::volume::{Volume, VolumeError, list, named};

use crate::device::Device;

/// A client that comes back within this time finds its volume attached.
const LINGER: Duration = Duration::from_secs(1);

struct Inner {
    meta: MetaClient,
    shards: Shards,
    reader: ChunkReader,
    owner: String,
    slots: RefCell<BTreeMap<String, Rc<Slot>>>,
}

/// A name that somebody uses or has used.
#[derive(Default)]
struct Slot {
    volume: tokio::sync::Mutex<Option<Volume>>,
    leases: RefCell<Weak<Held>>,
}

/// The volumes of a process. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Rc<Inner>);

struct Held {
    registry: Registry,
    name: String,
    volume: Volume,
}

/// A client's hold on a volume.
#[derive(Clone)]
pub struct Lease(Rc<Held>);

impl Lease {
    /// The device.
    pub fn device(&self) -> Rc<dyn Device> {
        Rc::new(self.0.volume.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (registry, name) = (self.registry.clone(), self.name.clone());
        let platform = registry.0.meta.platform().clone();
        platform.tasks().spawn(async move { registry.linger(&name).await });
    }
}

impl Registry {
    /// `owner` names this process to others.
    pub fn new(meta: MetaClient, shards: Shards, reader: ChunkReader, owner: &str) -> Registry {
        let slots = RefCell::default();
        Registry(Rc::new(Inner { meta, shards, reader, owner: owner.to_owned(), slots }))
    }

    /// The names of all volumes.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn names(&self) -> Result<Vec<String>, VolumeError> {
        Ok(list(&self.0.meta).await?.into_iter().map(|row| row.name).collect())
    }

    /// The size of a volume that need not be attached.
    ///
    /// # Errors
    /// There is none, no leader in time.
    pub async fn size_of(&self, name: &str) -> Result<u64, VolumeError> {
        Ok(named(&self.0.meta, name).await?.size)
    }

    /// Attaches a volume unless it is.
    ///
    /// # Errors
    /// There is none, somebody else has it, its chunks cannot be had.
    pub async fn open(&self, name: &str) -> Result<Lease, VolumeError> {
        let slot = Rc::clone(self.0.slots.borrow_mut().entry(name.to_owned()).or_default());
        let mut attached = slot.volume.lock().await;
        let held = slot.leases.borrow().upgrade();
        if let Some(held) = held.filter(|held| held.volume.ended().is_none()) {
            return Ok(Lease(held));
        }
        let volume = match attached.take().filter(|volume| volume.ended().is_none()) {
            Some(volume) => volume,
            None => {
                let Inner { meta, shards, reader, owner, .. } = &*self.0;
                match Volume::attach(meta, shards, reader, name, owner, false).await {
                    Ok(volume) => volume,
                    Err(error) => {
                        self.forget(name, &slot);
                        return Err(error);
                    }
                }
            }
        };
        *attached = Some(volume.clone());
        let held = Rc::new(Held { registry: self.clone(), name: name.to_owned(), volume });
        *slot.leases.borrow_mut() = Rc::downgrade(&held);
        Ok(Lease(held))
    }

    /// Gives a volume up that nobody has come back for.
    async fn linger(&self, name: &str) {
        self.0.meta.platform().clock().sleep(LINGER).await;
        let Some(slot) = self.0.slots.borrow().get(name).cloned() else { return };
        let mut attached = slot.volume.lock().await;
        if slot.leases.borrow().upgrade().is_some() {
            return;
        }
        self.give_up(&mut attached).await;
        self.forget(name, &slot);
    }

    /// Nobody uses the name but who calls this: it need not be kept. Names are what clients send.
    fn forget(&self, name: &str, slot: &Rc<Slot>) {
        if Rc::strong_count(slot) == 2 {
            self.0.slots.borrow_mut().remove(name);
        }
    }

    async fn give_up(&self, attached: &mut Option<Volume>) {
        let Some(volume) = attached.take() else { return };
        if let Err(error) = volume.detach().await {
            tracing::warn!(volume = volume.name(), %error, "volume is not given up; who comes next takes it over");
        }
    }

    /// Gives all volumes up; the process is about to end.
    pub async fn close(&self) {
        let slots: Vec<Rc<Slot>> = self.0.slots.borrow().values().cloned().collect();
        for slot in slots {
            let mut attached = slot.volume.lock().await;
            self.give_up(&mut attached).await;
        }
    }
}
