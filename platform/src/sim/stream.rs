//! Simulated listeners and the ends of simulated connections.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use crate::net::{NetError, Stream, StreamKind};
use crate::sim::network::{Accepting, Connection, WINDOW, between, delay};
use crate::sim::world::{HostId, Process};

/// How long a connect waits in a partition, nanoseconds: at least and at most.
const CONNECT_TIMEOUT_NS: (u64, u64) = (1_000_000_000, 3_000_000_000);

pub(crate) struct SimListener {
    process: Rc<Process>,
    port: u16,
    accepting: Rc<RefCell<Accepting>>,
}

/// One end of a connection.
pub(crate) struct SimStream {
    process: Rc<Process>,
    connection: Rc<RefCell<Connection>>,
    side: usize,
    pub(crate) peer: String,
    pub(crate) local: String,
}

/// Listens on the port of `addr`; the host part is the process's own name or an unspecified address.
pub(crate) async fn listen(process: &Rc<Process>, addr: &str) -> Result<(SimListener, String), NetError> {
    process.check_alive().await;
    let refused = |kind, text: &str| NetError::Listen { addr: addr.to_owned(), source: io::Error::new(kind, text) };
    let (name, port) = split(addr).ok_or_else(|| refused(io::ErrorKind::InvalidInput, "not host:port"))?;
    if !matches!(name, "0.0.0.0" | "[::]" | "127.0.0.1" | "localhost") && name != &*process.name {
        return Err(refused(io::ErrorKind::AddrNotAvailable, "the name of another process"));
    }
    let listening = process.world.network.listen(process, port);
    let (port, accepting) = listening.ok_or_else(|| refused(io::ErrorKind::AddrInUse, "the port is taken"))?;
    let local = format!("{}:{port}", process.name);
    Ok((SimListener { process: process.clone(), port, accepting }, local))
}

/// Connects to "name:port".
pub(crate) async fn connect(process: &Rc<Process>, addr: &str) -> Result<SimStream, NetError> {
    process.check_alive().await;
    let world = &process.world;
    let failed = |kind, text: &str| NetError::Connect { addr: addr.to_owned(), source: io::Error::new(kind, text) };
    let (name, port) = split(addr).ok_or_else(|| failed(io::ErrorKind::InvalidInput, "not host:port"))?;
    let name = if matches!(name, "127.0.0.1" | "localhost") { &*process.name } else { name };
    let Some(host) = world.known_host(name) else {
        return Err(failed(io::ErrorKind::NotFound, "no process of that name"));
    };
    process.sleep_ns(delay(world, process.host, host, 0)).await;
    if is_cut(process, host) {
        process.sleep_ns(between(world, CONNECT_TIMEOUT_NS)).await;
        return Err(failed(io::ErrorKind::TimedOut, "no answer"));
    }
    let Some(accepting) = world.network.listener(host, port) else {
        process.sleep_ns(delay(world, host, process.host, 0)).await;
        return Err(failed(io::ErrorKind::ConnectionRefused, "nobody listens"));
    };
    let stream = offer(process, &accepting, port, addr);
    process.sleep_ns(delay(world, host, process.host, 0)).await;
    Ok(stream)
}

fn is_cut(process: &Process, host: HostId) -> bool {
    let network = &process.world.network;
    network.is_cut(process.host, host) || network.is_cut(host, process.host)
}

/// Makes a connection and puts its far end into the listener's queue.
fn offer(process: &Rc<Process>, accepting: &Rc<RefCell<Accepting>>, port: u16, addr: &str) -> SimStream {
    let mut accepting = accepting.borrow_mut();
    let server = accepting.process.clone();
    let connection = process.world.network.connection(process, &server);
    let client_addr = format!("{}:{}", process.name, 49_152 + process.world.network_random.below(16_000));
    let server_addr = format!("{}:{port}", server.name);
    accepting.queue.push_back(SimStream {
        process: server,
        connection: connection.clone(),
        side: 1,
        peer: client_addr.clone(),
        local: server_addr,
    });
    if let Some(waker) = accepting.waker.take() {
        waker.wake();
    }
    SimStream { process: process.clone(), connection, side: 0, peer: addr.to_owned(), local: client_addr }
}

fn split(addr: &str) -> Option<(&str, u16)> {
    let (name, port) = addr.rsplit_once(':')?;
    Some((name, port.parse().ok()?))
}

impl SimListener {
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Result<Stream, NetError>> {
        let mut accepting = self.accepting.borrow_mut();
        if let Some(stream) = accepting.queue.pop_front() {
            return Poll::Ready(Ok(stream.into_stream()));
        }
        accepting.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if self.process.is_alive() {
            self.process.world.network.unlisten(self.process.host, self.port);
        }
    }
}

impl SimStream {
    pub(crate) fn into_stream(self) -> Stream {
        let (peer, local) = (self.peer.clone(), self.local.clone());
        Stream { kind: StreamKind::Simulated(self), peer, local }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.process.is_alive() {
            return Poll::Pending;
        }
        let world = &self.process.world;
        let now = world.now();
        let mut connection = self.connection.borrow_mut();
        let connection = &mut *connection;
        let reset_at = connection.reset_at[self.side];
        let pipe = &mut connection.pipes[1 - self.side];
        let mut got = false;
        while out.remaining() > 0
            && let Some(unit) = pipe.units.front_mut().filter(|unit| unit.at <= now)
        {
            let rest = &unit.bytes[unit.read..];
            let count = rest.len().min(out.remaining());
            out.put_slice(&rest[..count]);
            unit.read += count;
            pipe.unread -= count;
            got |= count > 0;
            if unit.read == unit.bytes.len() {
                pipe.units.pop_front();
            }
        }
        if got || out.remaining() == 0 {
            pipe.reader.done(world);
            if pipe.unread < WINDOW {
                pipe.writer.wake_at(world, now);
            }
            return Poll::Ready(Ok(()));
        }
        if reset_at.is_some_and(|at| at <= now) {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        let next = pipe.units.front().map(|unit| unit.at).or(pipe.end_at);
        if pipe.units.is_empty() && pipe.end_at.is_some_and(|at| at <= now) {
            return Poll::Ready(Ok(()));
        }
        pipe.reader.wait(world, cx.waker());
        for at in [next, reset_at].into_iter().flatten() {
            pipe.reader.wake_at(world, at);
        }
        Poll::Pending
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if !self.process.is_alive() {
            return Poll::Pending;
        }
        let world = &self.process.world;
        let now = world.now();
        let mut connection = self.connection.borrow_mut();
        let reset_at = connection.reset_at[self.side];
        if reset_at.is_some_and(|at| at <= now) {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        let pipe = &mut connection.pipes[self.side];
        if pipe.shut || pipe.deaf_at.is_some_and(|at| at <= now) {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
        }
        if pipe.unread >= WINDOW {
            pipe.writer.wait(world, cx.waker());
            for at in [reset_at, pipe.deaf_at].into_iter().flatten() {
                pipe.writer.wake_at(world, at);
            }
            return Poll::Pending;
        }
        pipe.writer.done(world);
        let len = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(len);
        for part in parts {
            bytes.extend_from_slice(part);
        }
        if len > 0 {
            connection.send(world, self.side, bytes);
        }
        Poll::Ready(Ok(len))
    }

    pub(crate) fn poll_shutdown(&mut self) -> Poll<io::Result<()>> {
        if !self.process.is_alive() {
            return Poll::Pending;
        }
        self.connection.borrow_mut().end(&self.process.world, self.side);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        // A dead process says nothing; the network has reset its connections already.
        if self.process.is_alive() {
            self.connection.borrow_mut().close(&self.process.world, self.side);
        }
    }
}
