//! Whom a process can call: itself by function, others by connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::clock::Instant;
use platform::tls::MutualTls;
use proto::service::{Answer, Request, RequestMessage};
use types::ids::{ClusterId, RequestId, StoreId};

use crate::call::{Call, CallError, Handler, Reply, run};
use crate::connection::Connection;
use crate::request;

/// The longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed connect the address is not tried again for this long.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);
/// A connection that has been silent for this long, and all through a call that timed out, is
/// given up: its other end may be gone without a word, or wait for the rest of a damaged frame.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// The machine part of an address `HOST:PORT#REPLICA` (16 hex digits; one process may hold several
/// replicas), and the replica, 0 = none.
pub fn split_address(address: &str) -> (&str, u64) {
    match address.split_once('#') {
        Some((machine, replica)) => (machine, u64::from_str_radix(replica, 16).unwrap_or(0)),
        None => (address, 0),
    }
}

/// Calls inside the process that take longer than this are logged.
const SLOW: Duration = Duration::from_secs(1);

enum Link {
    /// With the generation of certificates it was opened under.
    Open(Rc<Connection>, u64),
    Opening(Rc<tokio::sync::Notify>),
    Failed(Instant, String),
}

struct Inner {
    platform: Platform,
    cluster: Cell<ClusterId>,
    secret: RefCell<Vec<u8>>,
    tls: Option<MutualTls>,
    local: RefCell<BTreeMap<String, Handler>>,
    links: RefCell<BTreeMap<String, Link>>,
    next_request: Cell<u64>,
    slow: Cell<Duration>,
}

/// The calling side of a process. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Rc<Inner>);

impl Peers {
    /// Calls made by this process are of `cluster` and prove `secret`.
    pub fn new(platform: Platform, cluster: ClusterId, secret: Vec<u8>) -> Peers {
        Peers::secured(platform, cluster, secret, None)
    }

    /// As [`Peers::new`], and calls that leave the process go through mutual TLS.
    pub fn secured(platform: Platform, cluster: ClusterId, secret: Vec<u8>, tls: Option<MutualTls>) -> Peers {
        let first = platform.random().next_u64() & 0xffff_ffff_0000_0000;
        Peers(Rc::new(Inner {
            platform,
            cluster: Cell::new(cluster),
            secret: RefCell::new(secret),
            tls,
            local: RefCell::new(BTreeMap::new()),
            links: RefCell::new(BTreeMap::new()),
            next_request: Cell::new(first),
            slow: Cell::new(SLOW),
        }))
    }

    /// The platform this process runs on.
    pub fn platform(&self) -> &Platform {
        &self.0.platform
    }

    /// The cluster this process belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster.get()
    }

    /// The cluster secret.
    pub fn secret(&self) -> Vec<u8> {
        self.0.secret.borrow().clone()
    }

    /// Calls to `address` become function calls to `handler`, as the whole of it says.
    pub fn register_local(&self, address: &str, handler: Handler) {
        self.0.local.borrow_mut().insert(address.to_owned(), handler);
    }

    /// Calls inside the process that take this long are logged; 1 s if it is never said.
    pub fn log_slower_than(&self, slow: Duration) {
        self.0.slow.set(slow);
    }

    /// The id for a new call: of the request that the running task works for, else a fresh one.
    pub fn new_request(&self) -> RequestId {
        if let Some(request) = request::current() {
            return request;
        }
        let id = self.0.next_request.get();
        self.0.next_request.set(id + 1);
        RequestId(id)
    }

    /// Calls `address` and waits for the answer at most `timeout`.
    ///
    /// # Errors
    /// See [`CallError`]; a refusal of the other side is an error too.
    pub async fn call(
        &self,
        address: &str,
        store: StoreId,
        request: RequestId,
        body: Request,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let clock = self.0.platform.clock();
        let started = clock.now();
        let work = self.dispatch(address, store, request, body, payload, timeout);
        let reply = match clock.timeout(timeout, work).await {
            Ok(reply) => reply?,
            Err(_) => {
                self.close_if_silent(address, started);
                return Err(CallError::TimedOut { address: address.to_owned(), after: timeout });
            }
        };
        match reply.answer {
            Answer::Failed(failure) => Err(CallError::Refused(failure)),
            _ => Ok(reply),
        }
    }

    fn close_if_silent(&self, address: &str, since: Instant) {
        let links = self.0.links.borrow();
        let Some(Link::Open(connection, _)) = links.get(split_address(address).0) else { return };
        let heard = connection.heard();
        if heard < since && self.0.platform.clock().now().saturating_since(heard) >= SILENCE_MAX {
            tracing::debug!(address, "connection is silent and is given up");
            connection.close();
        }
    }

    async fn dispatch(
        &self,
        address: &str,
        store: StoreId,
        request: RequestId,
        body: Request,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let local = self.0.local.borrow().get(address).cloned();
        if let Some(handler) = local {
            let deadline = self.0.platform.clock().now() + timeout;
            // A task of its own: a caller that gives up must not tear what was begun, as it could
            // not across a socket.
            let (clock, slow) = (self.0.platform.clock().clone(), self.0.slow.get());
            let call = Call { store, request, deadline, body, payload };
            let task = self.0.platform.tasks().spawn(async move { run(clock, slow, &handler, call).await });
            return task.await.map_err(|_| CallError::Unreachable {
                address: address.to_owned(),
                why: "the process is stopping".to_owned(),
            });
        }
        Box::pin(self.send_away(address, store, request, body, payload, timeout)).await
    }

    async fn send_away(
        &self,
        address: &str,
        store: StoreId,
        request: RequestId,
        body: Request,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let unreachable = |why: String| CallError::Unreachable { address: address.to_owned(), why };
        let (machine, replica) = split_address(address);
        let store = if store.0 == 0 { StoreId(replica) } else { store };
        let connection = self.link(machine).await.map_err(unreachable)?;
        if !connection.peer().meets(body.servers()) {
            return Err(unreachable(format!(
                "its certificate holds {}, which does not answer {}",
                connection.peer(),
                body.name()
            )));
        }
        let message = RequestMessage { body: Some(body) };
        let deadline_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        connection
            .send(store, request, deadline_ms, &message, payload)
            .await
            .map_err(|error| unreachable(error.to_string()))
    }

    async fn link(&self, address: &str) -> Result<Rc<Connection>, String> {
        loop {
            let wait = {
                let mut links = self.0.links.borrow_mut();
                match links.get(address) {
                    // A connection under older certificates ends with the calls it carries.
                    Some(Link::Open(connection, generation))
                        if !connection.is_closed() && *generation == self.generation() =>
                    {
                        return Ok(Rc::clone(connection));
                    }
                    Some(Link::Opening(notify)) => Some(Rc::clone(notify)),
                    Some(Link::Failed(until, why)) if *until > self.0.platform.clock().now() => return Err(why.clone()),
                    _ => {
                        links.insert(address.to_owned(), Link::Opening(Rc::new(tokio::sync::Notify::new())));
                        None
                    }
                }
            };
            if let Some(notify) = wait {
                notify.notified().await;
                continue;
            }
            // The opening runs as a task of its own: a caller that gives up must not leave
            // everybody else waiting.
            let this = self.clone();
            let target = address.to_owned();
            let opening = self.0.platform.tasks().spawn(async move { this.open(&target).await });
            // A cancelled task means the process is going down.
            let _ = opening.await;
        }
    }

    fn generation(&self) -> u64 {
        self.0.tls.as_ref().map_or(0, MutualTls::generation)
    }

    async fn open(&self, address: &str) {
        let (secret, generation) = (self.secret(), self.generation());
        let work = Connection::open(&self.0.platform, address, self.cluster(), &secret, self.0.tls.as_ref());
        let result = match self.0.platform.clock().timeout(CONNECT_TIMEOUT, work).await {
            Ok(Ok(connection)) => Link::Open(Rc::new(connection), generation),
            Ok(Err(error)) => Link::Failed(self.0.platform.clock().now() + CONNECT_PAUSE, error.to_string()),
            Err(_) => Link::Failed(self.0.platform.clock().now() + CONNECT_PAUSE, "connecting timed out".to_owned()),
        };
        let before = self.0.links.borrow_mut().insert(address.to_owned(), result);
        if let Some(Link::Opening(notify)) = before {
            notify.notify_waiters();
        }
    }
}
