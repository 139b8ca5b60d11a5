//! Keeps an eye on a connection: slow heads, idle clients, stalled readers, requests under way.
//!
//! ```text
//! Idle --first byte--> Head --service called--> InFlight --last byte out--> Idle
//! ```
//!
//! The stream tells what it sees, the connection's task sleeps until the next deadline. Nothing
//! here waits for storage: a slow disk is not the client's fault.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use platform::clock::Instant;
use platform::net::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use types::ids::RequestId;

use crate::config::Config;
use crate::gateway::Gateway;

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    Head,
    InFlight,
}

/// One connection, as its task and its stream both see it.
pub struct Watch {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// The client has not taken what was written since then.
    stalled: Cell<Option<Instant>>,
    /// Told to go, to make room for others.
    pub evicted: Notify,
}

impl Watch {
    /// A connection that was just accepted: its first head is due.
    pub fn new(now: Instant) -> Watch {
        Watch { phase: Cell::new(Phase::Head), since: Cell::new(now), stalled: Cell::new(None), evicted: Notify::new() }
    }

    /// How long it has waited for its client; `None` while a request is under way.
    pub fn waiting_since(&self) -> Option<Instant> {
        (self.phase.get() != Phase::InFlight).then(|| self.since.get())
    }

    /// When its client has had enough time.
    pub fn deadline(&self, config: &Config) -> Option<Instant> {
        match self.phase.get() {
            Phase::Idle => Some(self.since.get() + config.idle_timeout()),
            Phase::Head => Some(self.since.get() + config.header_timeout()),
            Phase::InFlight => self.stalled.get().map(|since| since + config.body_timeout()),
        }
    }

    fn enter(&self, phase: Phase, now: Instant) {
        self.phase.set(phase);
        self.since.set(now);
    }
}

/// A stream that reports to its [`Watch`].
pub struct WatchedStream {
    stream: Stream,
    watch: Rc<Watch>,
    gateway: Rc<Gateway>,
}

impl WatchedStream {
    /// Watches `stream`.
    pub fn new(stream: Stream, watch: Rc<Watch>, gateway: Rc<Gateway>) -> WatchedStream {
        WatchedStream { stream, watch, gateway }
    }

    fn note_write<T>(&self, progress: &Poll<T>) {
        match (progress, self.watch.stalled.get()) {
            (Poll::Pending, None) => self.watch.stalled.set(Some(self.gateway.platform.clock().now())),
            (Poll::Ready(_), Some(_)) => self.watch.stalled.set(None),
            _ => {}
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, out);
        if self.watch.phase.get() == Phase::Idle && out.filled().len() > before {
            self.watch.enter(Phase::Head, self.gateway.platform.clock().now());
        }
        result
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The access log is what goes to this target: `BIXI_LOG=warn,access=info`.
const ACCESS: &str = "access";

/// A request under way; counted and logged when its last byte is out.
pub struct Tracked {
    gateway: Rc<Gateway>,
    watch: Rc<Watch>,
    start: Instant,
    request: RequestId,
    /// Method and target as they came, if somebody wants the access log.
    line: Option<String>,
    outcome: RefCell<Outcome>,
    sent_bytes: Cell<u64>,
}

/// What a request turned out to be, once it is known.
struct Outcome {
    operation: &'static str,
    status: u16,
    access_key: Option<String>,
}

impl Tracked {
    /// The service was called.
    pub fn start(gateway: &Rc<Gateway>, watch: &Rc<Watch>, id: RequestId, request: &Request<Incoming>) -> Tracked {
        let start = gateway.platform.clock().now();
        watch.enter(Phase::InFlight, start);
        let in_flight = &gateway.metrics.in_flight;
        in_flight.set(in_flight.get() + 1);
        Tracked {
            gateway: gateway.clone(),
            watch: watch.clone(),
            start,
            request: id,
            line: tracing::enabled!(target: ACCESS, tracing::Level::INFO)
                .then(|| format!("{} {}", request.method(), request.uri())),
            outcome: RefCell::new(Outcome { operation: "Unknown", status: 0, access_key: None }),
            sent_bytes: Cell::new(0),
        }
    }

    /// Its id.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// What it turned out to be.
    pub fn outcome(&self, operation: &'static str, status: u16, access_key: Option<String>) {
        *self.outcome.borrow_mut() = Outcome { operation, status, access_key };
    }

    /// Body bytes were handed to the connection.
    pub fn sent(&self, len: u64) {
        for sent in [&self.gateway.metrics.sent_bytes, &self.sent_bytes] {
            sent.set(sent.get().saturating_add(len));
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let now = self.gateway.platform.clock().now();
        let took = now.saturating_since(self.start);
        let outcome = self.outcome.borrow();
        let (request, operation, status) = (self.request, outcome.operation, outcome.status);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.gateway.metrics.count(operation, status, took_us);
        let in_flight = &self.gateway.metrics.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
        self.watch.enter(Phase::Idle, now);
        if took > Duration::from_millis(self.gateway.config.slow_request_ms) {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(%request, operation, status, took_ms, "slow request");
        }
        if let Some(line) = &self.line {
            let (access_key, sent_bytes) = (outcome.access_key.as_deref().unwrap_or("-"), self.sent_bytes.get());
            // What a client wrote is quoted, so that it cannot write lines of its own.
            tracing::info!(target: ACCESS, %request, operation, status, took_us, sent_bytes, access_key, ?line);
        }
    }
}
