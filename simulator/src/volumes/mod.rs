//! Work on volumes: owners that write, read and lose them, and people who take snapshots, clone, go back and
//! delete, on the real device (`client::volume`); and who judges what they were answered.
//!
//! ```text
//! owner (one a process): attach, by force or not -> clients at once -> detach, or just stop, or be fenced
//! people (one a process): snapshot, read, clone, roll back, delete
//! history -> registers: each granule is a register, each snapshot a moment of all of them
//! ```
//!
//! Invariant: whoever has lost a volume goes on asking it for a moment; what it is answered counts.

pub mod finish;
pub mod history;
pub mod owner;
pub mod people;
pub mod registers;

use std::rc::Rc;
use std::time::Duration;

use client::volume::{Pace, VolumeError};
use crypto::suite::Suite;
use platform::Platform;
use platform::clock::Instant;

use crate::checkers::Checker;
use crate::cluster::Cluster;
use crate::draw::Draw;
use crate::nodes::client::Layers;

/// What a seed drew of it.
#[derive(Clone, Debug)]
pub struct VolumeWork {
    /// Volumes that are there from the beginning.
    pub volumes: usize,
    /// Client processes that own volumes.
    pub owners: usize,
    /// Clients of a volume at once.
    pub clients: usize,
    /// Mean pause of a client between what it asks.
    pub think: Duration,
    /// Mean time that an owner has a volume.
    pub hold: Duration,
    /// How likely an owner takes a volume from one that lives.
    pub force: f64,
    /// Mean pause between what people do.
    pub people: Duration,
    /// How owners look after volumes.
    pub pace: Pace,
    /// What the first volume is encrypted by, and the second.
    pub ciphers: [Option<Suite>; 2],
}

impl VolumeWork {
    /// What `seed` draws.
    pub fn draw(seed: u64, clients: usize) -> VolumeWork {
        let draw = Draw::new(seed ^ 0x766f_6c75_6d65);
        // A stream of its own, so that what was drawn before it came stays as it was.
        let ciphers = Draw::new(seed ^ 0x6369_7068_6572);
        let cipher = || *ciphers.pick(&[None, Some(Suite::Aes256Xts), Some(Suite::Sm4Xts)]);
        VolumeWork {
            volumes: draw.between(1, 2) as usize,
            owners: (draw.between(1, 2) as usize).min(clients),
            clients: draw.between(1, 4) as usize,
            think: draw.millis(40, 250),
            hold: draw.millis(1500, 9000),
            force: *draw.pick(&[0.1, 0.4, 0.8]),
            people: draw.millis(600, 2500),
            pace: Pace {
                period: draw.millis(60, 1000),
                idle: draw.millis(100, 3000),
                due_bytes: draw.between(32 << 10, 1 << 20),
                extents_max: *draw.pick(&[0, 60, 4 << 20]),
                // With the last one every chunk is worth copying out, again and again.
                chunk_len: *draw.pick(&[64 << 10, 128 << 10, 256 << 10, 64 << 20]),
            },
            ciphers: [cipher(), cipher()],
        }
    }
}

/// Whoever works with volumes in one process.
#[derive(Clone)]
pub struct Worker {
    /// The cluster.
    pub cluster: Rc<Cluster>,
    /// The machine it runs on.
    pub platform: Platform,
    /// The layers of its process.
    pub layers: Layers,
    /// By what name it owns volumes.
    pub name: String,
    /// A stream of its own, so that others stay as they were.
    pub draw: Rc<Draw>,
}

impl Worker {
    /// For a process that has just started.
    pub fn new(cluster: Rc<Cluster>, layers: &Layers, name: String) -> Worker {
        let platform = layers.meta.platform().clone();
        let salt = name.bytes().fold(0u64, |salt, byte| salt.wrapping_mul(131).wrapping_add(byte.into()));
        let draw = Rc::new(Draw::new(cluster.shape.seed ^ salt ^ (platform.clock().now().0 << 8)));
        Worker { cluster, platform, layers: layers.clone(), name, draw }
    }

    fn now(&self) -> u64 {
        self.platform.clock().now().0
    }

    fn later(&self, duration: Duration) -> Instant {
        self.platform.clock().now() + duration
    }

    async fn sleep(&self, duration: Duration) {
        self.platform.clock().sleep(duration).await;
    }

    fn wrong(&self, what: String) {
        self.cluster.violated(Checker::Volumes, what);
    }

    fn is_over(&self) -> bool {
        self.cluster.stopping.get()
    }

    /// A volume that is not to be deleted, by its number.
    fn some_volume(&self) -> (usize, String) {
        let lines = self.cluster.volumes.lines.borrow();
        let there: Vec<usize> = (0..lines.len()).filter(|line| !lines[*line].is_doomed).collect();
        // Mostly the first ones: so that they meet there.
        let chosen = if self.draw.chance(0.7) {
            self.draw.below(self.cluster.shape.work.volumes.as_ref().map_or(1, |work| work.volumes) as u64) as usize
        } else {
            *self.draw.pick(&there)
        };
        (chosen, lines[chosen].name.clone())
    }

    /// An error that nothing excuses. `is_doomed`: what was asked about may be gone.
    fn judge(&self, what: &str, error: &VolumeError, is_doomed: bool) {
        match error {
            VolumeError::Unavailable(_) | VolumeError::Busy(_) | VolumeError::Fenced(_) | VolumeError::NoSpace(_) => {
                tracing::debug!(what, %error, "volume operation failed")
            }
            VolumeError::NotFound(_) if is_doomed => {}
            error => self.wrong(format!("{what}: {error} ({error:?})")),
        }
    }
}
