//! What a protocol needs of the volumes of a process: names, and devices by their names.

use std::any::Any;
use std::rc::Rc;

use crate::device::{Answer, Device};
use crate::registry::Registry;

/// A device that was opened.
pub struct Export {
    /// It.
    pub device: Rc<dyn Device>,
    /// Keeps it attached until it is dropped.
    pub lease: Box<dyn Any>,
    /// Asked when its client goes and leaves changes under way: what this gives is kept until they are through,
    /// and whoever opens the device next waits for that.
    pub leave: Box<dyn Fn() -> Box<dyn Any>>,
}

/// Devices by their names. Foreign names are errors, whatever they are.
pub trait Exports {
    /// The names of all volumes.
    fn names(&self) -> Answer<'_, Vec<String>>;
    /// The size of a volume or snapshot that need not be attached.
    fn size_of<'a>(&'a self, name: &'a str) -> Answer<'a, u64>;
    /// The names of a volume's snapshots, the last `most` of them.
    fn snapshots_of<'a>(&'a self, name: &'a str, most: usize) -> Answer<'a, Vec<String>>;
    /// Attaches a volume, or opens a snapshot.
    fn open<'a>(&'a self, name: &'a str) -> Answer<'a, Export>;
}

impl Exports for Registry {
    fn names(&self) -> Answer<'_, Vec<String>> {
        Box::pin(Registry::names(self))
    }

    fn size_of<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        Box::pin(Registry::size_of(self, name))
    }

    fn snapshots_of<'a>(&'a self, name: &'a str, most: usize) -> Answer<'a, Vec<String>> {
        Box::pin(Registry::snapshots_of(self, name, most))
    }

    fn open<'a>(&'a self, name: &'a str) -> Answer<'a, Export> {
        Box::pin(async move {
            let lease = Registry::open(self, name).await?;
            lease.settled().await;
            let leaving = lease.clone();
            let leave = Box::new(move || Box::new(leaving.leave()) as Box<dyn Any>);
            Ok(Export { device: lease.device(), lease: Box::new(lease), leave })
        })
    }
}
