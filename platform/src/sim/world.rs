//! The state that all parts of a simulation share: time, the seed's streams, hosts and their processes.
//!
//! A host has a name, disks and partitions; a process is one incarnation of it and owns tasks, streams and
//! locks. Invariant: a dead process is never polled again and what it still holds does nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::planted::Planted;
use crate::random::{Generator, mix};
use crate::sim::SimOptions;
use crate::sim::device::Device;
use crate::sim::executor::{Executor, TaskKey};
use crate::sim::network::Network;
use crate::sim::reached::Reached;
use crate::sim::timers::{TimerKey, Timers};
use crate::sim::trace::{Trace, digest};

/// Index of a host in the order in which names were first used.
pub(crate) type HostId = u32;

/// The host of the driver: never crashes, sees no faults.
pub(crate) const DRIVER: HostId = 0;

/// What one poll costs in virtual time, so that a loop that waits for the clock gets on. Nanoseconds.
const POLL_NS: u64 = 100;

pub(crate) struct World {
    now: Cell<u64>,
    pub(crate) options: SimOptions,
    pub(crate) faults_on: Cell<bool>,
    pub(crate) executor: Executor,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) network: Network,
    pub(crate) trace: Trace,
    pub(crate) reached: Reached,
    pub(crate) planted: Planted,
    pub(crate) steps: Cell<u64>,
    pub(crate) schedule: Generator,
    pub(crate) network_random: Generator,
    pub(crate) disk_random: Generator,
    seed: u64,
    hosts: RefCell<Vec<Host>>,
    names: RefCell<BTreeMap<String, HostId>>,
}

struct Host {
    name: Rc<str>,
    process: Option<Rc<Process>>,
    incarnations: u64,
    paused: bool,
    /// Ready tasks of a paused process.
    parked: Vec<TaskKey>,
    wall_clock_offset_ms: i64,
    disks: BTreeMap<PathBuf, Rc<Device>>,
}

/// One incarnation of a host.
pub(crate) struct Process {
    pub(crate) world: Rc<World>,
    pub(crate) host: HostId,
    pub(crate) name: Rc<str>,
    alive: Cell<bool>,
    pub(crate) random: Rc<Generator>,
}

impl World {
    pub(crate) fn new(seed: u64, options: SimOptions) -> Rc<World> {
        let stream = |which: u64| Generator::new(mix(seed ^ mix(which)));
        Rc::new(World {
            // Not zero, so that subtracting a little from now works as on a real machine.
            now: Cell::new(1_000_000_000),
            faults_on: Cell::new(true),
            executor: Executor::default(),
            timers: RefCell::default(),
            network: Network::default(),
            trace: Trace::new(options.trace_events),
            reached: Reached::default(),
            planted: Planted::of(&options.planted),
            steps: Cell::new(0),
            schedule: stream(1),
            network_random: stream(2),
            disk_random: stream(3),
            seed,
            hosts: RefCell::default(),
            names: RefCell::default(),
            options,
        })
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    /// Moves time forward to `at`; never back.
    pub(crate) fn advance_to(&self, at: u64) {
        self.now.set(self.now.get().max(at));
    }

    /// Charges one poll.
    pub(crate) fn count_poll(&self) {
        self.steps.set(self.steps.get() + 1);
        self.now.set(self.now.get() + POLL_NS);
    }

    /// The host of that name; made at its first mention.
    pub(crate) fn host(&self, name: &str) -> HostId {
        if let Some(host) = self.names.borrow().get(name) {
            return *host;
        }
        let mut hosts = self.hosts.borrow_mut();
        let id = hosts.len() as HostId;
        hosts.push(Host {
            name: Rc::from(name),
            process: None,
            incarnations: 0,
            paused: false,
            parked: Vec::new(),
            wall_clock_offset_ms: 0,
            disks: BTreeMap::new(),
        });
        self.names.borrow_mut().insert(name.to_owned(), id);
        id
    }

    /// The host of that name, if it was mentioned before.
    pub(crate) fn known_host(&self, name: &str) -> Option<HostId> {
        self.names.borrow().get(name).copied()
    }

    pub(crate) fn host_name(&self, host: HostId) -> Rc<str> {
        self.hosts.borrow()[host as usize].name.clone()
    }

    /// A new incarnation; the host must have none that lives.
    pub(crate) fn boot(self: &Rc<World>, host: HostId) -> Rc<Process> {
        let mut hosts = self.hosts.borrow_mut();
        let entry = &mut hosts[host as usize];
        entry.incarnations += 1;
        entry.paused = false;
        entry.parked.clear();
        let seed = mix(self.seed ^ digest(entry.name.as_bytes()).rotate_left(32) ^ entry.incarnations);
        let process = Rc::new(Process {
            world: self.clone(),
            host,
            name: entry.name.clone(),
            alive: Cell::new(true),
            random: Rc::new(Generator::new(seed)),
        });
        entry.process = Some(process.clone());
        process
    }

    /// Ends the host's process, if it lives: resets its streams, then drops its tasks.
    pub(crate) fn kill(&self, host: HostId) {
        let process = {
            let mut hosts = self.hosts.borrow_mut();
            let entry = &mut hosts[host as usize];
            entry.parked.clear();
            entry.paused = false;
            entry.process.take()
        };
        let Some(process) = process else { return };
        process.alive.set(false);
        self.network.reset_process(self, &process);
        for (_, disk) in self.disks_of(host) {
            disk.unlock();
            disk.writer_died(self.now());
        }
        self.executor.drop_where(|candidate| std::ptr::eq(candidate, &*process));
    }

    /// Whether the host has a process that lives.
    pub(crate) fn is_up(&self, host: HostId) -> bool {
        self.hosts.borrow()[host as usize].process.is_some()
    }

    pub(crate) fn pause(&self, host: HostId) {
        self.hosts.borrow_mut()[host as usize].paused = true;
    }

    /// The host's process has reached a place; stops it if a trap waits there.
    pub(crate) fn note_reached(&self, host: HostId, what: &'static str) {
        if self.reached.note(host, what) {
            self.trace.event(self.now(), what, host, 0, 0);
            self.pause(host);
        }
    }

    pub(crate) fn resume(&self, host: HostId) {
        let mut hosts = self.hosts.borrow_mut();
        let entry = &mut hosts[host as usize];
        entry.paused = false;
        self.executor.unpark(std::mem::take(&mut entry.parked));
    }

    /// Whether the task's process is paused; then its task is kept for later.
    pub(crate) fn park_if_paused(&self, process: &Process, key: TaskKey) -> bool {
        let mut hosts = self.hosts.borrow_mut();
        let entry = &mut hosts[process.host as usize];
        if entry.paused {
            entry.parked.push(key);
        }
        entry.paused
    }

    pub(crate) fn set_wall_clock_offset_ms(&self, host: HostId, offset_ms: i64) {
        self.hosts.borrow_mut()[host as usize].wall_clock_offset_ms = offset_ms;
    }

    pub(crate) fn wall_clock_offset_ms(&self, host: HostId) -> i64 {
        self.hosts.borrow()[host as usize].wall_clock_offset_ms
    }

    /// The host's disk of that path; made at its first mention.
    pub(crate) fn disk(&self, host: HostId, path: &Path) -> Rc<Device> {
        let mut hosts = self.hosts.borrow_mut();
        let disks = &mut hosts[host as usize].disks;
        if let Some(disk) = disks.get(path) {
            return disk.clone();
        }
        let disk = Rc::new(Device::new(self.options.disk_capacity));
        disks.insert(path.to_owned(), disk.clone());
        disk
    }

    pub(crate) fn disks_of(&self, host: HostId) -> Vec<(PathBuf, Rc<Device>)> {
        let hosts = self.hosts.borrow();
        hosts[host as usize].disks.iter().map(|(path, disk)| (path.clone(), disk.clone())).collect()
    }

    /// Whether faults may be drawn for something that `host` does.
    pub(crate) fn faulty(&self, host: HostId) -> bool {
        self.faults_on.get() && host != DRIVER
    }

    /// Ends everything, so that tasks and world do not keep each other alive.
    pub(crate) fn tear_down(&self) {
        let processes: Vec<Rc<Process>> = {
            let mut hosts = self.hosts.borrow_mut();
            hosts.iter_mut().filter_map(|host| host.process.take()).collect()
        };
        for process in &processes {
            process.alive.set(false);
        }
        while !self.executor.is_empty() {
            self.executor.drop_where(|_| true);
        }
        let wakers = self.timers.borrow_mut().clear();
        drop(wakers);
        self.network.clear();
    }
}

impl Process {
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.get()
    }

    /// Never returns to a dead process: its futures may still be held by somebody else.
    pub(crate) async fn check_alive(&self) {
        if !self.is_alive() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the virtual time is `at`.
    pub(crate) fn sleep_until(self: &Rc<Process>, at: u64) -> Sleep {
        Sleep { process: self.clone(), at, timer: None }
    }

    /// Waits for `duration` nanoseconds.
    pub(crate) fn sleep_ns(self: &Rc<Process>, duration: u64) -> Sleep {
        self.sleep_until(self.world.now().saturating_add(duration))
    }
}

/// Waits on virtual time.
pub(crate) struct Sleep {
    process: Rc<Process>,
    at: u64,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let world = self.process.world.clone();
        if !self.process.is_alive() {
            return Poll::Pending;
        }
        if world.now() >= self.at {
            return Poll::Ready(());
        }
        let mut timers = world.timers.borrow_mut();
        if !self.timer.is_some_and(|timer| timers.update(timer, cx.waker())) {
            self.timer = Some(timers.register(self.at, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.process.world.timers.borrow_mut().cancel(timer);
        }
    }
}
