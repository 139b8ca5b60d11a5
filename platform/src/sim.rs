//! A simulated cluster: processes, disks, network and time in one thread, all drawn from a seed.
//!
//! ```
//! use std::time::Duration;
//! use platform::sim::{SimOptions, Simulation};
//!
//! let simulation = Simulation::new(7, SimOptions::default());
//! let node = simulation.node("m1");
//! let slept = simulation.run(async move { node.clock().sleep(Duration::from_secs(3600)).await }, Duration::MAX);
//! assert!(slept.is_ok());
//! ```
//!
//! What it leaves to others: cluster shapes, workloads, checkers (crate simulator). Invariants: the same seed,
//! options and driver give the same [`Simulation::trace_hash`]; a crashed process does nothing any more, not
//! even while its tasks are dropped; the driver's own platform never sees faults.

mod device;
pub(crate) mod disk;
pub(crate) mod executor;
pub(crate) mod network;
mod reached;
pub(crate) mod stream;
mod timers;
mod trace;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::Platform;
use crate::clock::Instant;
use crate::fault::DiskFault;
use crate::planted::PlantedBug;
pub use crate::sim::device::DiskImage;
use crate::sim::executor::{Join, Step, joined};
use crate::sim::network::nanoseconds;
use crate::sim::world::{DRIVER, Process, World};

/// Polls without any timer firing after which a run is taken for an endless loop.
const IDLE_POLLS_MAX: u64 = 5_000_000;

/// The shape of a simulated world. The default has latencies but no faults; [`SimOptions::rough`] has both.
/// Probabilities hold for each unit (network) or operation (disk) while faults are on.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Delay of a unit between two hosts, least and most. Default 0.1 to 0.5 ms.
    pub net_delay: (Duration, Duration),
    /// Probability that a unit takes 30 times as long.
    pub net_slow: f64,
    /// Probability that a unit is lost.
    pub loss: f64,
    /// Probability that a unit is delivered twice.
    pub duplicate: f64,
    /// Probability that one bit of a unit is flipped.
    pub damage: f64,
    /// Probability that sending a unit resets its connection.
    pub cut: f64,
    /// Time of a read, least and most. Default 30 to 120 us, and 0.5 ns a byte as for writes.
    pub disk_read: (Duration, Duration),
    /// Time of a write, least and most. Default 30 to 120 us.
    pub disk_write: (Duration, Duration),
    /// Time of a flush or a change of names, least and most. Default 30 to 300 us.
    pub disk_flush: (Duration, Duration),
    /// Probability that a disk operation takes 50 times as long.
    pub disk_slow: f64,
    /// Probability that a read fails.
    pub read_fails: f64,
    /// Probability that a write or a change of names fails.
    pub write_fails: f64,
    /// Probability that a flush fails, which poisons the disk for its process.
    pub flush_fails: f64,
    /// Probability that a write is answered as done but never reaches the device.
    pub lose_write: f64,
    /// Size of each disk in bytes. Default 64 GiB; only what is written takes memory.
    pub disk_capacity: u64,
    /// Deliberate mistakes that [`Platform::planted`] tells of.
    pub planted: Vec<PlantedBug>,
    /// How many events [`Simulation::trace`] keeps. Default 1000; 0 keeps none.
    pub trace_events: usize,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        let us = Duration::from_micros;
        SimOptions {
            net_delay: (us(100), us(500)),
            net_slow: 0.0,
            loss: 0.0,
            duplicate: 0.0,
            damage: 0.0,
            cut: 0.0,
            disk_read: (us(30), us(120)),
            disk_write: (us(30), us(120)),
            disk_flush: (us(30), us(300)),
            disk_slow: 0.0,
            read_fails: 0.0,
            write_fails: 0.0,
            flush_fails: 0.0,
            lose_write: 0.0,
            disk_capacity: 64 << 30,
            planted: Vec::new(),
            trace_events: 1000,
        }
    }
}

impl SimOptions {
    /// A bad day of network and latencies; disks keep what they promise, so nothing may be lost.
    pub fn rough() -> SimOptions {
        SimOptions {
            net_slow: 0.01,
            loss: 0.01,
            duplicate: 0.01,
            cut: 0.001,
            disk_slow: 0.005,
            ..SimOptions::default()
        }
    }
}

/// Why a run ended without a result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The driver's future was not done within the given virtual time.
    #[error("not done after {}s of virtual time", limit.as_secs_f64())]
    Limit {
        /// What was given.
        limit: Duration,
    },
    /// Nothing is ready and no timer runs, so the driver's future can never be done.
    #[error("everybody waits for everybody at {at:?}")]
    Deadlock {
        /// When.
        at: Instant,
    },
    /// Tasks wake each other without waiting for anything.
    #[error("tasks spin without end at {at:?}")]
    Livelock {
        /// When.
        at: Instant,
    },
    /// A task panicked.
    #[error("a task of {node} panicked at {at:?}: {message}")]
    Panicked {
        /// The process it belonged to.
        node: String,
        /// The panic's message.
        message: String,
        /// When.
        at: Instant,
    },
    /// A task of the driver's ended the driver's future.
    #[error("the driver's future was cancelled")]
    Cancelled,
}

/// A simulated world. Clones are handles on the same one, for use inside its tasks; everything in it ends when
/// the first (the one that [`Simulation::new`] gave) is dropped.
pub struct Simulation {
    world: Rc<World>,
    driver: Rc<Process>,
    owner: bool,
}

impl Clone for Simulation {
    fn clone(&self) -> Simulation {
        Simulation { world: self.world.clone(), driver: self.driver.clone(), owner: false }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if self.owner {
            self.world.tear_down();
        }
    }
}

impl Simulation {
    /// A world that follows from `seed` and `options` alone.
    pub fn new(seed: u64, options: SimOptions) -> Simulation {
        let world = World::new(seed, options);
        let host = world.host("driver");
        assert_eq!(host, DRIVER);
        let driver = world.boot(host);
        Simulation { world, driver, owner: true }
    }

    /// Starts a new incarnation of the process `name` and gives its platform. Its disks are those of earlier
    /// incarnations. If one still lives it is crashed first (see [`Simulation::crash`]).
    pub fn node(&self, name: &str) -> Platform {
        let host = self.world.host(name);
        assert_ne!(host, DRIVER, "the driver's platform is had by platform()");
        if self.world.is_up(host) {
            self.crash(name);
        }
        self.event("boots", host, 0);
        Platform::simulated(self.world.boot(host))
    }

    /// Cuts the power of `name`: its tasks are dropped without any IO, its connections are reset, and of its
    /// unflushed writes a random subset of sectors survives. Also resolves the writes of a process killed before.
    pub fn crash(&self, name: &str) {
        let host = self.world.host(name);
        self.kill(name);
        for (_, disk) in self.world.disks_of(host) {
            disk.cut_power(&self.world.disk_random);
        }
    }

    /// Ends the process `name` like kill -9: what it wrote is kept by the machine, though not durable yet.
    pub fn kill(&self, name: &str) {
        let host = self.world.host(name);
        assert_ne!(host, DRIVER, "the driver never crashes");
        self.event("dies", host, 0);
        self.world.kill(host);
    }

    /// Whether `name` has a process that lives.
    pub fn is_up(&self, name: &str) -> bool {
        self.world.is_up(self.world.host(name))
    }

    /// Stops the process `name` like SIGSTOP: time goes on, its tasks do not run.
    pub fn pause(&self, name: &str) {
        let host = self.world.host(name);
        self.event("is paused", host, 0);
        self.world.pause(host);
    }

    /// Lets a paused process run again.
    pub fn resume(&self, name: &str) {
        let host = self.world.host(name);
        self.event("resumes", host, 0);
        self.world.resume(host);
    }

    /// Shifts the wall clock of `name` against the others'; its monotonic clock is not touched.
    pub fn set_wall_clock_offset_ms(&self, name: &str, offset_ms: i64) {
        self.world.set_wall_clock_offset_ms(self.world.host(name), offset_ms);
    }

    /// Drives everything until `future` is done. `limit` is virtual time from now on. The other tasks stay as
    /// they are, and a later run goes on with them.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static, limit: Duration) -> Result<T, SimError> {
        let world = &self.world;
        let join = Join::new();
        let task = world.executor.spawn(self.driver.clone(), joined(future, join.clone()));
        let deadline = world.now().saturating_add(nanoseconds(limit));
        let outcome = self.drive(&join, deadline, limit);
        if outcome.is_err() {
            world.executor.abort(task);
        }
        outcome?;
        join.take().ok_or(SimError::Cancelled)?.map_err(|_| SimError::Cancelled)
    }

    fn drive<T>(&self, join: &Join<T>, deadline: u64, limit: Duration) -> Result<(), SimError> {
        let world = &self.world;
        let mut idle_polls = 0;
        while !join.is_finished() {
            match world.executor.step(world) {
                Step::Polled => {
                    world.count_poll();
                    idle_polls += 1;
                    if idle_polls > IDLE_POLLS_MAX {
                        return Err(SimError::Livelock { at: self.now() });
                    }
                }
                Step::Idle => match world.timers.borrow_mut().next_at() {
                    None => return Err(SimError::Deadlock { at: self.now() }),
                    Some(at) if at > deadline => {
                        world.advance_to(deadline);
                        return Err(SimError::Limit { limit });
                    }
                    Some(at) => world.advance_to(at),
                },
                Step::Panicked { process, message } => {
                    return Err(SimError::Panicked { node: process.name.to_string(), message, at: self.now() });
                }
            }
            loop {
                // The borrow must end before the waker runs.
                let due = world.timers.borrow_mut().pop_due(world.now());
                let Some(waker) = due else { break };
                waker.wake();
                idle_polls = 0;
            }
            if world.now() > deadline {
                return Err(SimError::Limit { limit });
            }
        }
        Ok(())
    }

    /// The driver's own platform: a process called "driver" that never crashes and sees no faults.
    pub fn platform(&self) -> Platform {
        Platform::simulated(self.driver.clone())
    }

    /// Drops what `a` sends to `b`, and with `both_ways` also what `b` sends to `a`, until [`Simulation::heal_all`].
    pub fn partition(&self, a: &str, b: &str, both_ways: bool) {
        let (a, b) = (self.world.host(a), self.world.host(b));
        self.event("is cut off from", a, u64::from(b));
        self.world.network.cut(a, b);
        if both_ways {
            self.world.network.cut(b, a);
        }
    }

    /// Ends all partitions. Connections that lost data meanwhile are still reset.
    pub fn heal_all(&self) {
        self.event("heals", DRIVER, 0);
        self.world.network.heal();
    }

    /// Turns the random faults of [`SimOptions`] on (as at the start) or off. Partitions and
    /// [`Simulation::disk_fault`] are not touched.
    pub fn set_faults(&self, on: bool) {
        self.world.faults_on.set(on);
    }

    /// Injects a fault into the disk `path` of `node`.
    pub fn disk_fault(&self, node: &str, path: impl AsRef<Path>, fault: DiskFault) {
        let host = self.world.host(node);
        self.event("has a disk fault", host, 0);
        self.world.disk(host, path.as_ref()).apply_fault(fault);
    }

    /// Empties the disk `path` of `node` and ends its faults, as if it had been replaced.
    pub fn wipe_disk(&self, node: &str, path: impl AsRef<Path>) {
        let host = self.world.host(node);
        self.event("has a disk wiped", host, 0);
        self.world.disk(host, path.as_ref()).wipe();
    }

    /// The present content of the disk `path` of `node`, for [`Simulation::restore_disk`].
    pub fn disk_image(&self, node: &str, path: impl AsRef<Path>) -> DiskImage {
        self.world.disk(self.world.host(node), path.as_ref()).image()
    }

    /// Puts old content back. The node should be down: open files would keep what they had.
    pub fn restore_disk(&self, node: &str, path: impl AsRef<Path>, image: &DiskImage) {
        let host = self.world.host(node);
        self.event("has a disk restored", host, 0);
        self.world.disk(host, path.as_ref()).restore(image);
    }

    /// Names and lengths in bytes of the files on the disk `path` of `node`.
    pub fn disk_files(&self, node: &str, path: impl AsRef<Path>) -> Vec<(String, u64)> {
        self.world.disk(self.world.host(node), path.as_ref()).lengths()
    }

    /// Puts the files of an older image back that `chosen` takes; files it takes that the image does not
    /// have go. The node must be down.
    pub fn restore_files(&self, node: &str, path: impl AsRef<Path>, image: &DiskImage, chosen: impl Fn(&str) -> bool) {
        let host = self.world.host(node);
        self.event("has files restored", host, 0);
        self.world.disk(host, path.as_ref()).restore_files(image, chosen);
    }

    /// How often each place that calls [`Platform::reached`] was reached.
    pub fn reached(&self) -> BTreeMap<&'static str, u64> {
        self.world.reached.counts()
    }

    /// Waits until the process of `node` reaches `what`, and stops it there (see [`Simulation::pause`]).
    pub async fn trap(&self, node: &str, what: &'static str) {
        self.world.reached.set_trap(self.world.host(node), what).await;
    }

    /// A hash over everything that happened: equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.world.trace.hash()
    }

    /// The last events in words, oldest first.
    pub fn trace(&self) -> Vec<String> {
        self.world.trace.lines(|host| self.world.host_name(host).to_string())
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        Instant(self.world.now())
    }

    /// Polls so far.
    pub fn steps(&self) -> u64 {
        self.world.steps.get()
    }

    fn event(&self, what: &'static str, host: u32, number: u64) {
        self.world.trace.event(self.world.now(), what, host, number, 0);
    }
}
