//! The simulated network: who listens, which connections exist, what is cut.
//!
//! A connection is two pipes of units. A unit is what one write call gave; it arrives after a drawn delay and
//! never before the unit ahead of it. When faults are on, a unit may be lost, repeated or damaged, or cut the
//! connection. A partition drops units silently; a connection that lost one so is reset some seconds later.
//!
//! ```text
//!   side 0: write -> pipes[0] -> read: side 1
//!   side 1: write -> pipes[1] -> read: side 0
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::sim::stream::SimStream;
use crate::sim::timers::TimerKey;
use crate::sim::trace::digest;
use crate::sim::world::{DRIVER, HostId, Process, World};

/// Unread bytes of a pipe at which its writer waits.
pub(crate) const WINDOW: usize = 4 << 20;
/// Delay between parts of one host, nanoseconds.
const LOOPBACK_NS: u64 = 10_000;
/// After how long a connection that lost data to a partition is reset, nanoseconds: at least and at most.
const RESET_NS: (u64, u64) = (1_000_000_000, 8_000_000_000);
/// How much longer a slow unit takes.
const SLOW_FACTOR: u64 = 30;
/// Ports given for port 0 start here.
const FIRST_FREE_PORT: u16 = 40_000;

#[derive(Default)]
pub(crate) struct Network {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<(HostId, u16), Rc<RefCell<Accepting>>>,
    connections: Vec<Weak<RefCell<Connection>>>,
    /// Dead entries are swept when there are more than this.
    sweep_at: usize,
    /// Units from the first to the second are dropped.
    cut: BTreeSet<(HostId, HostId)>,
    next_port: u16,
}

/// A listener's queue.
pub(crate) struct Accepting {
    pub(crate) process: Rc<Process>,
    pub(crate) queue: VecDeque<SimStream>,
    pub(crate) waker: Option<Waker>,
    pub(crate) closed: bool,
}

pub(crate) struct Connection {
    pub(crate) processes: [Rc<Process>; 2],
    pub(crate) pipes: [Pipe; 2],
    /// From when on each side sees a reset.
    pub(crate) reset_at: [Option<u64>; 2],
}

/// One direction of a connection, from side `i` to side `1 - i`.
#[derive(Default)]
pub(crate) struct Pipe {
    pub(crate) units: VecDeque<Unit>,
    /// Bytes not read yet.
    pub(crate) unread: usize,
    /// When the last unit or end arrives: the next comes no earlier.
    pub(crate) last_at: u64,
    /// When the reader sees the end.
    pub(crate) end_at: Option<u64>,
    /// From when on the writer is told that nobody reads any more.
    pub(crate) deaf_at: Option<u64>,
    pub(crate) shut: bool,
    pub(crate) reader: Waiter,
    pub(crate) writer: Waiter,
}

pub(crate) struct Unit {
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) read: usize,
}

/// A task that waits for something to arrive, and the timer that will wake it.
#[derive(Default)]
pub(crate) struct Waiter {
    waker: Option<Waker>,
    timer: Option<(TimerKey, u64)>,
}

impl Waiter {
    /// Remembers whom to wake.
    pub(crate) fn wait(&mut self, world: &World, waker: &Waker) {
        match &mut self.waker {
            Some(old) => old.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
        if let Some((timer, _)) = self.timer
            && !world.timers.borrow_mut().update(timer, waker)
        {
            self.timer = None;
        }
    }

    /// Wakes the waiting task at `at`, if one waits and nothing wakes it earlier.
    pub(crate) fn wake_at(&mut self, world: &World, at: u64) {
        let Some(waker) = &self.waker else { return };
        if at <= world.now() {
            waker.wake_by_ref();
            return;
        }
        let mut timers = world.timers.borrow_mut();
        if let Some((timer, earlier)) = self.timer {
            if earlier <= at && earlier > world.now() {
                return;
            }
            timers.cancel(timer);
        }
        self.timer = Some((timers.register(at, waker.clone()), at));
    }

    /// The task has what it waited for.
    pub(crate) fn done(&mut self, world: &World) {
        self.waker = None;
        if let Some((timer, _)) = self.timer.take() {
            world.timers.borrow_mut().cancel(timer);
        }
    }
}

impl Network {
    /// The port to listen on; `None` if it is taken.
    pub(crate) fn listen(&self, process: &Rc<Process>, port: u16) -> Option<(u16, Rc<RefCell<Accepting>>)> {
        let mut state = self.state.borrow_mut();
        let port = if port == 0 {
            state.next_port += 1;
            FIRST_FREE_PORT + state.next_port
        } else {
            port
        };
        if state.listeners.contains_key(&(process.host, port)) {
            return None;
        }
        let accepting = Accepting { process: process.clone(), queue: VecDeque::new(), waker: None, closed: false };
        let accepting = Rc::new(RefCell::new(accepting));
        state.listeners.insert((process.host, port), accepting.clone());
        Some((port, accepting))
    }

    pub(crate) fn unlisten(&self, host: HostId, port: u16) {
        let removed = self.state.borrow_mut().listeners.remove(&(host, port));
        if let Some(accepting) = removed {
            close_listener(&accepting);
        }
    }

    pub(crate) fn listener(&self, host: HostId, port: u16) -> Option<Rc<RefCell<Accepting>>> {
        self.state.borrow().listeners.get(&(host, port)).cloned()
    }

    pub(crate) fn cut(&self, from: HostId, to: HostId) {
        self.state.borrow_mut().cut.insert((from, to));
    }

    pub(crate) fn heal(&self) {
        self.state.borrow_mut().cut.clear();
    }

    pub(crate) fn is_cut(&self, from: HostId, to: HostId) -> bool {
        let state = self.state.borrow();
        !state.cut.is_empty() && state.cut.contains(&(from, to))
    }

    /// A new connection; side 0 is `from`'s.
    pub(crate) fn connection(&self, from: &Rc<Process>, to: &Rc<Process>) -> Rc<RefCell<Connection>> {
        let connection = Connection {
            processes: [from.clone(), to.clone()],
            pipes: [Pipe::default(), Pipe::default()],
            reset_at: [None; 2],
        };
        let connection = Rc::new(RefCell::new(connection));
        let mut state = self.state.borrow_mut();
        if state.connections.len() > state.sweep_at {
            state.connections.retain(|connection| connection.strong_count() > 0);
            state.sweep_at = state.connections.len() * 2 + 64;
        }
        state.connections.push(Rc::downgrade(&connection));
        connection
    }

    /// The process has died: its listeners close, and the other ends of its connections see a reset.
    pub(crate) fn reset_process(&self, world: &World, process: &Process) {
        let (connections, listeners) = {
            let mut state = self.state.borrow_mut();
            let mut closed = Vec::new();
            state.listeners.retain(|(host, _), accepting| {
                if *host == process.host {
                    closed.push(accepting.clone());
                }
                *host != process.host
            });
            (state.connections.clone(), closed)
        };
        for connection in connections.iter().filter_map(Weak::upgrade) {
            let mut connection = connection.borrow_mut();
            for side in 0..2 {
                if std::ptr::eq(&*connection.processes[side], process) {
                    let peer = connection.processes[1 - side].host;
                    let at = world.now() + delay(world, process.host, peer, 0);
                    connection.reset(world, 1 - side, at);
                }
            }
        }
        for accepting in listeners {
            close_listener(&accepting);
        }
    }

    pub(crate) fn clear(&self) {
        let state = std::mem::take(&mut *self.state.borrow_mut());
        for accepting in state.listeners.values() {
            close_listener(accepting);
        }
    }
}

fn close_listener(accepting: &Rc<RefCell<Accepting>>) {
    let queue = {
        let mut accepting = accepting.borrow_mut();
        accepting.closed = true;
        if let Some(waker) = accepting.waker.take() {
            waker.wake();
        }
        std::mem::take(&mut accepting.queue)
    };
    drop(queue);
}

impl Connection {
    /// Takes one unit from `side`. What becomes of it is drawn here.
    pub(crate) fn send(&mut self, world: &World, side: usize, mut bytes: Vec<u8>) {
        let (from, to) = (self.processes[side].host, self.processes[1 - side].host);
        let now = world.now();
        let options = &world.options;
        let random = &world.network_random;
        world.trace.event(now, "sends", from, digest(&bytes), u64::from(to));
        if world.network.is_cut(from, to) {
            self.doom(world);
            return;
        }
        let faulty = world.faulty(from) && to != DRIVER && from != to;
        if faulty && random.chance(options.cut) {
            world.trace.event(now, "cuts", from, 0, u64::from(to));
            let at = now + delay(world, from, to, 0);
            self.reset(world, 0, at);
            self.reset(world, 1, at);
            return;
        }
        if faulty && random.chance(options.loss) {
            world.trace.event(now, "loses", from, bytes.len() as u64, u64::from(to));
            return;
        }
        if faulty && !bytes.is_empty() && random.chance(options.damage) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            world.trace.event(now, "damages", from, at as u64, u64::from(to));
        }
        if faulty && random.chance(options.duplicate) {
            world.trace.event(now, "repeats", from, bytes.len() as u64, u64::from(to));
            self.deliver(world, side, bytes.clone());
        }
        self.deliver(world, side, bytes);
    }

    fn deliver(&mut self, world: &World, side: usize, bytes: Vec<u8>) {
        let (from, to) = (self.processes[side].host, self.processes[1 - side].host);
        let pipe = &mut self.pipes[side];
        if pipe.deaf_at.is_some() {
            return;
        }
        let at = (world.now() + delay(world, from, to, bytes.len())).max(pipe.last_at);
        pipe.last_at = at;
        pipe.unread += bytes.len();
        pipe.units.push_back(Unit { at, bytes, read: 0 });
        pipe.reader.wake_at(world, at);
    }

    /// No more units from `side`: the other side sees the end behind the last one.
    pub(crate) fn end(&mut self, world: &World, side: usize) {
        if std::mem::replace(&mut self.pipes[side].shut, true) {
            return;
        }
        let (from, to) = (self.processes[side].host, self.processes[1 - side].host);
        if world.network.is_cut(from, to) {
            self.doom(world);
            return;
        }
        let pipe = &mut self.pipes[side];
        let at = (world.now() + delay(world, from, to, 0)).max(pipe.last_at);
        pipe.end_at = Some(at);
        pipe.reader.wake_at(world, at);
    }

    /// `side` is dropped: it writes no more and reads no more.
    pub(crate) fn close(&mut self, world: &World, side: usize) {
        self.end(world, side);
        let (from, to) = (self.processes[side].host, self.processes[1 - side].host);
        let at = world.now() + delay(world, from, to, 0);
        let pipe = &mut self.pipes[1 - side];
        pipe.deaf_at = Some(at);
        pipe.units.clear();
        pipe.unread = 0;
        pipe.writer.wake_at(world, at);
    }

    /// `side` sees a reset from `at` on.
    fn reset(&mut self, world: &World, side: usize, at: u64) {
        if self.reset_at[side].is_some_and(|earlier| earlier <= at) {
            return;
        }
        self.reset_at[side] = Some(at);
        self.pipes[side].writer.wake_at(world, at);
        self.pipes[1 - side].reader.wake_at(world, at);
    }

    /// Data was lost to a partition: both sides give up after a while.
    fn doom(&mut self, world: &World) {
        let at = world.now() + between(world, RESET_NS);
        for side in 0..2 {
            if self.reset_at[side].is_none() {
                self.reset(world, side, at);
            }
        }
    }
}

/// A drawn number of nanoseconds.
pub(crate) fn between(world: &World, range: (u64, u64)) -> u64 {
    range.0 + world.network_random.below(range.1.saturating_sub(range.0) + 1)
}

/// How long `len` bytes take between two hosts, nanoseconds.
pub(crate) fn delay(world: &World, from: HostId, to: HostId, len: usize) -> u64 {
    if from == to {
        return LOOPBACK_NS;
    }
    let range = (nanoseconds(world.options.net_delay.0), nanoseconds(world.options.net_delay.1));
    let mut delay = between(world, range);
    if world.faulty(from) && world.network_random.chance(world.options.net_slow) {
        delay = delay.saturating_mul(SLOW_FACTOR);
    }
    // One byte a nanosecond: about 8 Gbit/s.
    delay + len as u64
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
