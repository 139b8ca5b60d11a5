//! Which volumes this process has attached: a volume is attached when its first client comes and given up
//! a moment after its last has gone. All clients of a process share one device, so what one was answered
//! all others see. `VOLUME@SNAPSHOT` is a device that can only be read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use client::chunk::reader::ChunkReader;
use client::chunk::shards::Shards;
use client::meta::MetaClient;
use client::volume::{Counts, VolumeError, list, named, snapshots};
use proto::volume::SnapshotRow;

use crate::attachment::{Attachment, Frozen, Means};
use crate::device::Device;

/// A client that comes back within this time finds its volume attached.
const LINGER: Duration = Duration::from_secs(1);
/// Snapshots whose indexes are kept.
const RECENT_MAX: usize = 8;

struct Inner {
    means: Rc<Means>,
    slots: RefCell<BTreeMap<String, Rc<Slot>>>,
    /// Snapshots that were read lately, the last one at the end.
    recent: RefCell<Vec<Rc<Frozen>>>,
}

/// A name that somebody uses or has used.
#[derive(Default)]
struct Slot {
    attached: tokio::sync::Mutex<Option<Rc<Attachment>>>,
    leases: RefCell<Weak<Held>>,
}

/// The volumes of a process. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Rc<Inner>);

struct Held {
    registry: Registry,
    name: String,
    attachment: Rc<Attachment>,
    left: Rc<Left>,
}

/// Clients that have gone while changes of theirs were under way.
#[derive(Default)]
struct Left {
    count: Cell<usize>,
    none: tokio::sync::Notify,
}

/// A client that has gone; dropped when nothing of it is under way any more.
pub struct Gone(Rc<Left>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.none.notify_waiters();
        }
    }
}

/// A client's hold on a device.
#[derive(Clone)]
pub struct Lease(Hold);

#[derive(Clone)]
enum Hold {
    Volume(Rc<Held>),
    Snapshot(Rc<Frozen>),
}

impl Lease {
    /// The device.
    pub fn device(&self) -> Rc<dyn Device> {
        match &self.0 {
            Hold::Volume(held) => Rc::clone(&held.attachment) as Rc<dyn Device>,
            Hold::Snapshot(frozen) => Rc::clone(frozen) as Rc<dyn Device>,
        }
    }

    /// A client goes and leaves changes under way.
    pub fn leave(&self) -> Option<Gone> {
        let Hold::Volume(held) = &self.0 else { return None };
        held.left.count.set(held.left.count.get() + 1);
        Some(Gone(Rc::clone(&held.left)))
    }

    /// Waits until nothing of those who have gone is under way: whoever comes must not have done over what it
    /// changes.
    pub async fn settled(&self) {
        let Hold::Volume(held) = &self.0 else { return };
        loop {
            let none = held.left.none.notified();
            if held.left.count.get() == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (registry, name) = (self.registry.clone(), self.name.clone());
        let platform = registry.0.means.meta.platform().clone();
        platform.tasks().spawn(async move { registry.linger(&name).await });
    }
}

/// The halves of `VOLUME@SNAPSHOT`.
fn halves(name: &str) -> Option<(&str, &str)> {
    name.split_once('@')
}

impl Registry {
    /// `owner` names this process to others.
    pub fn new(meta: MetaClient, shards: Shards, reader: ChunkReader, owner: &str) -> Registry {
        let means = Rc::new(Means { meta, shards, reader, owner: owner.to_owned(), closing: Cell::new(false) });
        Registry(Rc::new(Inner { means, slots: RefCell::default(), recent: RefCell::default() }))
    }

    /// The names of all volumes.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn names(&self) -> Result<Vec<String>, VolumeError> {
        Ok(list(&self.0.means.meta).await?.into_iter().map(|row| row.name).collect())
    }

    /// The size of a volume that need not be attached, or of a snapshot.
    ///
    /// # Errors
    /// There is none, no leader in time.
    pub async fn size_of(&self, name: &str) -> Result<u64, VolumeError> {
        let meta = &self.0.means.meta;
        let Some((volume, snapshot)) = halves(name) else { return Ok(named(meta, name).await?.size) };
        let all = snapshots(meta, named(meta, volume).await?.id).await?;
        let found = all.into_iter().find(|row| !row.hidden && row.name == snapshot);
        found.map(|row| row.size).ok_or_else(|| VolumeError::NotFound(format!("there is no snapshot {name}")))
    }

    /// The names of a volume's snapshots, the last ones if there are many. Of a snapshot: those before it.
    ///
    /// # Errors
    /// There is no such volume, no leader in time.
    pub async fn snapshots_of(&self, name: &str, most: usize) -> Result<Vec<String>, VolumeError> {
        let (volume, upto) = halves(name).map_or((name, None), |(volume, upto)| (volume, Some(upto)));
        let all = snapshots(&self.0.means.meta, named(&self.0.means.meta, volume).await?.id).await?;
        let shown = all.into_iter().filter(|row| !row.hidden).map(|row| row.name);
        let before: Vec<String> = shown.take_while(|name| Some(name.as_str()) != upto).collect();
        Ok(before[before.len().saturating_sub(most)..].to_vec())
    }

    /// Attaches a volume unless it is, or opens a snapshot.
    ///
    /// # Errors
    /// There is none, somebody else has it, its chunks cannot be had.
    pub async fn open(&self, name: &str) -> Result<Lease, VolumeError> {
        if let Some((volume, snapshot)) = halves(name) {
            return Ok(Lease(Hold::Snapshot(self.frozen(volume, snapshot).await?)));
        }
        if self.0.means.closing.get() {
            return Err(VolumeError::Unavailable("this process is stopping".into()));
        }
        let slot = Rc::clone(self.0.slots.borrow_mut().entry(name.to_owned()).or_default());
        let mut attached = slot.attached.lock().await;
        let held = slot.leases.borrow().upgrade();
        if let Some(held) = held
            && held.attachment.is_alive().await
        {
            return Ok(Lease(Hold::Volume(held)));
        }
        let attachment = match attached.take().filter(|attached| attached.volume().ended().is_none()) {
            Some(attachment) => attachment,
            None => match Attachment::new(&self.0.means, name).await {
                Ok(attachment) => Rc::new(attachment),
                Err(error) => {
                    self.forget(name, &slot);
                    return Err(error);
                }
            },
        };
        *attached = Some(Rc::clone(&attachment));
        let held = Rc::new(Held { registry: self.clone(), name: name.to_owned(), attachment, left: Rc::default() });
        *slot.leases.borrow_mut() = Rc::downgrade(&held);
        Ok(Lease(Hold::Volume(held)))
    }

    async fn frozen(&self, volume: &str, snapshot: &str) -> Result<Rc<Frozen>, VolumeError> {
        let meta = &self.0.means.meta;
        let all = snapshots(meta, named(meta, volume).await?.id).await?;
        let row = all.into_iter().find(|row| !row.hidden && row.name == snapshot);
        let row = row.ok_or_else(|| VolumeError::NotFound(format!("there is no snapshot {volume}@{snapshot}")))?;
        let is_it = |one: &Rc<Frozen>| one.name == volume && one.snapshot.number() == row.number;
        let known = self.0.recent.borrow().iter().find(|one| is_it(one)).cloned();
        let frozen = match known {
            Some(known) => known,
            None => Rc::new(Frozen::new(&self.0.means, volume, snapshot).await?),
        };
        let mut recent = self.0.recent.borrow_mut();
        recent.retain(|one| !is_it(one));
        if recent.len() == RECENT_MAX {
            recent.remove(0);
        }
        recent.push(Rc::clone(&frozen));
        Ok(frozen)
    }

    /// Has a snapshot taken of a volume that may be attached here or elsewhere.
    ///
    /// # Errors
    /// See [`client::volume::take_snapshot`].
    pub async fn take_snapshot(&self, name: &str, snapshot: &str) -> Result<SnapshotRow, VolumeError> {
        let Means { meta, shards, reader, owner, .. } = &*self.0.means;
        let held = self.0.slots.borrow().get(name).and_then(|slot| slot.leases.borrow().upgrade());
        match held.map(|held| held.attachment.volume()).filter(|volume| volume.ended().is_none()) {
            Some(volume) => volume.take_snapshot(snapshot).await,
            None => client::volume::take_snapshot(meta, shards, reader, owner, name, snapshot).await,
        }
    }

    /// Makes a volume what it was at a snapshot.
    ///
    /// # Errors
    /// Somebody has it, there is no such snapshot.
    pub async fn roll_back(&self, name: &str, snapshot: &str) -> Result<(), VolumeError> {
        self.release(name).await;
        if self.0.slots.borrow().contains_key(name) {
            return Err(VolumeError::Busy(format!("volume {name} is attached here")));
        }
        let Means { meta, shards, reader, owner, .. } = &*self.0.means;
        client::volume::roll_back(meta, shards, reader, owner, name, snapshot).await
    }

    /// What was done with each volume that is attached now.
    pub fn counts(&self) -> Vec<(String, Counts)> {
        let slots = self.0.slots.borrow();
        let of = |slot: &Slot| Some(slot.attached.try_lock().ok()?.as_ref()?.counts());
        slots.iter().filter_map(|(name, slot)| Some((name.clone(), of(slot)?))).collect()
    }

    /// The metadata's client.
    pub fn meta(&self) -> &MetaClient {
        &self.0.means.meta
    }

    /// Gives a volume up that nobody has come back for.
    async fn linger(&self, name: &str) {
        self.0.means.meta.platform().clock().sleep(LINGER).await;
        self.release(name).await;
    }

    /// Gives a volume up at once, unless a client has it.
    pub async fn release(&self, name: &str) {
        let Some(slot) = self.0.slots.borrow().get(name).cloned() else { return };
        let mut attached = slot.attached.lock().await;
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

    async fn give_up(&self, attached: &mut Option<Rc<Attachment>>) {
        let Some(attachment) = attached.take() else { return };
        let volume = attachment.volume();
        if let Err(error) = volume.detach().await {
            tracing::warn!(volume = volume.name(), %error, "volume is not given up; who comes next takes it over");
        }
    }

    /// Gives all volumes up; the process is about to end.
    pub async fn close(&self) {
        self.0.means.closing.set(true);
        let slots: Vec<Rc<Slot>> = self.0.slots.borrow().values().cloned().collect();
        for slot in slots {
            let mut attached = slot.attached.lock().await;
            self.give_up(&mut attached).await;
        }
    }
}
