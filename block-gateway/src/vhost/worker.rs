//! The session's thread: accepts one frontend after the other, hears its messages and its guest's kicks, and
//! hands requests to the reactor.
//!
//! A frontend that goes leaves requests under way. They are not answered any more, and the next frontend waits
//! until the device is through with them, so that none of them is done after what comes later.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use platform::local_socket::LocalListener;
use tokio::sync::mpsc::UnboundedSender;
use vhost::vhost_user::{BackendReqHandler, Error};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::channel::{Channel, Next, look};
use super::request::{Parsed, Pending, Request, Terms, parse};
use super::ring::{Ring, SIZE_MAX};
use super::session::Session;
use super::shared::Shared;

/// A frontend that has begun a message must be through with it in this time.
const MESSAGE: Duration = Duration::from_secs(5);
/// Pause between two looks at a message that is not whole, milliseconds.
const LOOK_MS: i32 = 5;
/// Pause after a frontend could not be accepted, milliseconds.
const PAUSE_MS: i32 = 100;
/// Events that are no ring's.
const WAKE: u64 = u64::MAX;
const CONNECTION: u64 = u64::MAX - 1;

/// What the thread owns.
pub struct Worker {
    pub listener: LocalListener,
    pub shared: Arc<Shared>,
    pub terms: Arc<Terms>,
    pub queues: u16,
    pub requests: UnboundedSender<Request>,
}

impl Worker {
    /// Serves until it is stopped.
    ///
    /// # Errors
    /// The system refuses what is needed to wait for anybody.
    pub fn run(self) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        while let Some(connection) = self.accept()? {
            tracing::debug!("a frontend has come");
            match self.serve(&connection) {
                Ok(()) => tracing::debug!("a frontend has gone"),
                Err(error) => tracing::warn!(%error, "a frontend's session ended"),
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.shared.is_stopped() || self.requests.is_closed()
    }

    /// The next frontend; `None`: the server is stopped.
    fn accept(&self) -> io::Result<Option<UnixStream>> {
        let epoll = Epoll::new()?;
        add(&epoll, self.shared.wake(), WAKE)?;
        add(&epoll, &*self.listener, CONNECTION)?;
        let mut events = [EpollEvent::default(); 2];
        loop {
            if self.is_over() {
                return Ok(None);
            }
            match self.listener.accept() {
                Ok((connection, _)) => return Ok(Some(connection)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&epoll, -1, &mut events)?;
                    // Nothing was told if nobody had rung.
                    let _ = self.shared.wake().read();
                }
                Err(error) => {
                    tracing::warn!(%error, "a frontend could not be accepted");
                    let pause = Epoll::new()?;
                    wait(&pause, PAUSE_MS, &mut events)?;
                }
            }
        }
    }

    /// One frontend's session, from the first message until nothing of it is under way.
    fn serve(&self, connection: &UnixStream) -> io::Result<()> {
        let rings: Vec<Arc<Ring>> = (0..usize::from(self.queues)).map(|index| Arc::new(Ring::new(index))).collect();
        let mut channel = None;
        let ended = self.listen(connection, &rings, &mut channel);
        // Whoever stops the server wants what was begun to be answered.
        if self.shared.is_stopped() && ended.is_ok() {
            rings.iter().for_each(|ring| ring.drain());
        }
        rings.iter().for_each(|ring| ring.close());
        drop(channel);
        rings.iter().for_each(|ring| ring.drain());
        self.shared.set_in_use(false);
        ended
    }

    fn listen(&self, connection: &UnixStream, rings: &[Arc<Ring>], channel: &mut Option<Channel>) -> io::Result<()> {
        connection.set_nonblocking(false)?;
        connection.set_read_timeout(Some(MESSAGE))?;
        connection.set_write_timeout(Some(MESSAGE))?;
        let epoll = Arc::new(Epoll::new()?);
        add(&epoll, self.shared.wake(), WAKE)?;
        add(&epoll, connection, CONNECTION)?;
        let session = Arc::new(Mutex::new(Session::new(&self.terms, &self.shared, &epoll, rings)));
        let mut handler = BackendReqHandler::from_stream(connection.try_clone()?, Arc::clone(&session));
        let mut events = [EpollEvent::default(); 32];
        while !self.is_over() {
            let count = wait(&epoll, -1, &mut events)?;
            for event in &events[..count] {
                match event.data() {
                    WAKE => _ = self.shared.wake().read(),
                    CONNECTION if !self.is_message(connection)? => {}
                    CONNECTION => match Channel::receive(connection)? {
                        Some(received) => *channel = Some(received),
                        None => match handler.handle_request() {
                            Ok(()) => {}
                            Err(Error::Disconnected | Error::SocketBroken(_)) => return Ok(()),
                            Err(error) => return Err(io::Error::other(error)),
                        },
                    },
                    index => session.lock().unwrap_or_else(PoisonError::into_inner).heard(index as usize),
                }
            }
            self.tell(channel);
            // After a message, too: what was made available before the ring could run is not kicked again.
            rings.iter().for_each(|ring| self.take_all(ring));
        }
        Ok(())
    }

    /// Whether a message, or the end, can be taken without waiting for a frontend that stands still.
    fn is_message(&self, connection: &UnixStream) -> io::Result<bool> {
        let (pause, mut events) = (Epoll::new()?, [EpollEvent::default()]);
        for _ in 0..MESSAGE.as_millis() / LOOK_MS as u128 {
            match look(connection)? {
                Next::Whole => return Ok(true),
                Next::Nothing => return Ok(false),
                Next::Part if self.is_over() => return Ok(false),
                Next::Part => _ = wait(&pause, LOOK_MS, &mut events)?,
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "a message that does not go on, or answers that are not read"))
    }

    /// Has the frontend look at the device's size if it knows another.
    fn tell(&self, channel: &mut Option<Channel>) {
        if !self.shared.is_to_tell() {
            return;
        }
        let size = self.shared.tell_size();
        if let Some(open) = channel
            && let Err(error) = open.config_changed()
        {
            tracing::warn!(size, %error, "the frontend does not hear that the volume has another size");
            *channel = None;
        }
    }

    /// Hands everything that a ring holds to the reactor.
    fn take_all(&self, ring: &Arc<Ring>) {
        for _ in 0..SIZE_MAX {
            if !self.shared.has_room() {
                return;
            }
            let Some(taken) = ring.take() else { return };
            let parsed = parse(&taken, &self.terms);
            let pending = Pending::new(ring, taken.chain, &self.shared);
            match parsed {
                Parsed::Answer(status, data) => pending.answer(status, &data),
                // Dropped if the reactor has gone, as if the process had.
                Parsed::Do(command) => drop(self.requests.send(Request { command, pending })),
            }
        }
        // A driver that never stops must not keep others waiting: its ring comes again after theirs.
        self.shared.wake_up();
    }
}

fn add(epoll: &Epoll, what: &impl AsRawFd, data: u64) -> io::Result<()> {
    epoll.ctl(ControlOperation::Add, what.as_raw_fd(), EpollEvent::new(EventSet::IN, data))
}

fn wait(epoll: &Epoll, timeout_ms: i32, events: &mut [EpollEvent]) -> io::Result<usize> {
    match epoll.wait(timeout_ms, events) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}
