//! The one door to the machine: clock, randomness, tasks, a lane for blocking calls, network, disks.
//!
//! [`run`] gives the real machine (one current_thread tokio runtime and one io_uring on the calling
//! thread); [`sim::Simulation`] gives a simulated one on virtual time, drawn from a seed. Both give the
//! same concrete types, so that no code above needs a type parameter.
//!
//! What it leaves to others: frames and request ids (rpc), formats of files (chunkserver, metaserver).
//!
//! Invariants:
//! - nothing else in the workspace touches clock, randomness, threads, files or sockets;
//! - dropping a future does no IO; what was already handed to a disk may still happen;
//! - memory handed to the kernel lives until the kernel is done with it, whatever is dropped meanwhile.
// This crate is the door that the lint sends everybody else to.
#![allow(clippy::disallowed_methods)]

pub mod buffer;
pub mod clock;
pub mod disk;
pub mod fault;
pub mod lane;
pub mod local_socket;
pub mod net;
pub mod planted;
pub mod random;
pub mod signal;
pub mod sim;
pub mod tasks;
pub mod tls;

use std::cell::OnceCell;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;

use clock::Clock;
use disk::real::Engine;
use disk::uring::Ring;
use disk::{Disk, DiskError};
use lane::Lane;
use net::Net;
use planted::{Planted, PlantedBug};
use random::Random;
use sim::world::Process;
use tasks::Tasks;

/// A handle on the machine (or on one process of a simulated cluster). Cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct Platform {
    inner: Rc<Inner>,
}

struct Inner {
    clock: Clock,
    random: Random,
    tasks: Tasks,
    net: Net,
    lane: Lane,
    machine: Machine,
}

enum Machine {
    Real {
        engine: Engine,
        /// Made when the first disk is opened; `None` inside when the kernel refuses.
        ring: OnceCell<Option<Rc<Ring>>>,
    },
    Simulated(Rc<Process>),
}

/// How [`run_with`] sets up the real machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RunOptions {
    /// Which disk engine [`Platform::open_disk`] uses. Default: io_uring if the kernel permits, else plain files.
    pub engine: Engine,
}

impl Platform {
    /// Monotonic time, wall time, sleeping.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Random bytes and numbers.
    pub fn random(&self) -> &Random {
        &self.inner.random
    }

    /// Starting tasks on this thread.
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// Byte streams between processes.
    pub fn net(&self) -> &Net {
        &self.inner.net
    }

    /// Threads for calls that block.
    pub fn lane(&self) -> &Lane {
        &self.inner.lane
    }

    /// Opens the directory `path` as a disk and makes it (mode 0700) if absent. Takes no lock: see [`Disk::try_lock`].
    pub fn open_disk(&self, path: &Path) -> Result<Disk, DiskError> {
        match &self.inner.machine {
            Machine::Real { engine, .. } => disk::real::open(self, path, *engine),
            Machine::Simulated(process) => Ok(sim::disk::open(process, path)),
        }
    }

    /// Whether the simulation was asked to make this mistake. False on a real machine.
    pub fn planted(&self, bug: PlantedBug) -> bool {
        self.all_planted().has(bug)
    }

    /// The mistakes that the simulation was asked to make. None on a real machine.
    pub fn all_planted(&self) -> Planted {
        match &self.inner.machine {
            Machine::Real { .. } => Planted::default(),
            Machine::Simulated(process) => process.world.planted,
        }
    }

    /// Says that something rare and interesting has just happened. A simulation counts it and may stop
    /// the process here; a real machine does nothing.
    pub fn reached(&self, what: &'static str) {
        if let Machine::Simulated(process) = &self.inner.machine {
            process.world.note_reached(process.host, what);
        }
    }

    /// The ring of this thread; `None` if the kernel refuses io_uring or the machine is simulated.
    fn ring(&self) -> Option<Rc<Ring>> {
        match &self.inner.machine {
            Machine::Real { ring, .. } => ring.get_or_init(Ring::start).clone(),
            Machine::Simulated(_) => None,
        }
    }

    pub(crate) fn simulated(process: Rc<Process>) -> Platform {
        let inner = Inner {
            clock: Clock::simulated(process.clone()),
            random: Random::simulated(process.random.clone()),
            tasks: Tasks::simulated(process.clone()),
            net: Net::simulated(process.clone()),
            lane: Lane::simulated(process.clone()),
            machine: Machine::Simulated(process),
        };
        Platform { inner: Rc::new(inner) }
    }
}

/// Runs `make`'s future to its end on the real machine: one current_thread runtime, and one io_uring as soon as
/// a disk is opened. Tasks still running then are dropped; disk operations in flight are waited for.
///
/// # Panics
/// If the operating system refuses a runtime (epoll, timers).
pub fn run<F: Future>(make: impl FnOnce(Platform) -> F) -> F::Output {
    run_with(RunOptions::default(), make)
}

/// [`run`] with options.
pub fn run_with<F: Future>(options: RunOptions, make: impl FnOnce(Platform) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("the operating system refuses a runtime");
    let clock = Clock::real();
    let inner = Inner {
        random: Random::real(),
        tasks: Tasks::real(),
        net: Net::real(),
        lane: Lane::real(lane::THREADS),
        machine: Machine::Real { engine: options.engine, ring: OnceCell::new() },
        clock,
    };
    let platform = Platform { inner: Rc::new(inner) };
    runtime.block_on(async move { make(platform).await })
}
