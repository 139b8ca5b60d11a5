//! The caller's end of one connection: many calls at once, matched by number.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use platform::Platform;
use platform::clock::Instant;
use platform::tasks::TaskHandle;
use platform::tls::MutualTls;
use proto::frame::FrameKind;
use proto::roles::Roles;
use proto::service::{AnswerMessage, RequestMessage};
use tokio::sync::{mpsc, oneshot};
use types::ids::{ClusterId, RequestId, StoreId};

use crate::call::Reply;
use crate::handshake;
use crate::wire::{Outgoing, WireError, read_frame, write_frame};

/// Requests that may wait for the socket.
const QUEUE_MAX: usize = 1024;

struct Waiting {
    calls: RefCell<BTreeMap<u64, oneshot::Sender<Reply>>>,
    closed: Cell<bool>,
    /// When the last whole frame arrived.
    heard: Cell<Instant>,
}

pub(crate) struct Connection {
    next_call: Cell<u64>,
    queue: mpsc::Sender<Outgoing>,
    waiting: Rc<Waiting>,
    cluster: ClusterId,
    peer: Roles,
    tasks: Vec<TaskHandle<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Connection {
    pub async fn open(
        platform: &Platform,
        address: &str,
        cluster: ClusterId,
        secret: &[u8],
        tls: Option<&MutualTls>,
    ) -> Result<Connection, WireError> {
        let stream = platform.net().connect(address).await.map_err(|error| std::io::Error::other(error.to_string()))?;
        let opened = handshake::open(stream, cluster, secret, tls, platform.random()).await?;
        let (mut reader, mut writer) = tokio::io::split(opened.stream);
        let clock = platform.clock().clone();
        let waiting = Rc::new(Waiting {
            calls: RefCell::new(BTreeMap::new()),
            closed: Cell::new(false),
            heard: Cell::new(clock.now()),
        });
        let (queue, mut outgoing) = mpsc::channel::<Outgoing>(QUEUE_MAX);
        let sender_waiting = Rc::clone(&waiting);
        let send_key = opened.send;
        let sender = platform.tasks().spawn(async move {
            while let Some(frame) = outgoing.recv().await {
                if let Err(error) = write_frame(&mut writer, frame, send_key.as_ref()).await {
                    tracing::debug!(%error, "sending side of a connection ended");
                    break;
                }
            }
            sender_waiting.close();
        });
        let receiver_waiting = Rc::clone(&waiting);
        let receive_key = opened.receive;
        let receiver = platform.tasks().spawn(async move {
            loop {
                match read_frame(&mut reader, cluster, receive_key.as_ref()).await {
                    Ok(frame) if frame.header.kind == FrameKind::Answer => {
                        receiver_waiting.heard.set(clock.now());
                        let waiter = receiver_waiting.calls.borrow_mut().remove(&frame.header.call);
                        let answer = proto::decode::<AnswerMessage>(&frame.message);
                        if let (Some(waiter), Ok(AnswerMessage { body: Some(answer) })) = (waiter, answer) {
                            // A caller that gave up is no error.
                            let _ = waiter.send(Reply { answer, payload: frame.payload });
                        }
                    }
                    Ok(_) => break,
                    Err(error) => {
                        tracing::debug!(%error, "receiving side of a connection ended");
                        break;
                    }
                }
            }
            receiver_waiting.close();
        });
        Ok(Connection {
            next_call: Cell::new(1),
            queue,
            waiting,
            cluster,
            peer: opened.peer,
            tasks: vec![sender, receiver],
        })
    }

    pub fn is_closed(&self) -> bool {
        self.waiting.closed.get()
    }

    /// What the other end may be, by its certificate.
    pub fn peer(&self) -> Roles {
        self.peer
    }

    /// When the last answer arrived, or when it was opened.
    pub fn heard(&self) -> Instant {
        self.waiting.heard.get()
    }

    /// Gives the connection up; calls under way fail, the next call opens another one.
    pub fn close(&self) {
        self.waiting.close();
    }

    /// Sends a request; the receiver yields the answer, or an error when the connection broke.
    pub async fn send(
        &self,
        store: StoreId,
        request: RequestId,
        deadline_ms: u32,
        message: &RequestMessage,
        payload: Bytes,
    ) -> Result<Reply, WireError> {
        let call = self.next_call.get();
        self.next_call.set(call + 1);
        let (sender, receiver) = oneshot::channel();
        if self.is_closed() {
            return Err(WireError::Closed);
        }
        self.waiting.calls.borrow_mut().insert(call, sender);
        let forget = Forget { waiting: &self.waiting, call };
        let frame = Outgoing {
            kind: FrameKind::Request,
            cluster: self.cluster,
            store,
            call,
            request,
            deadline_ms,
            message: proto::encode(message),
            payload,
        };
        self.queue.send(frame).await.map_err(|_| WireError::Closed)?;
        let reply = receiver.await.map_err(|_| WireError::Closed);
        drop(forget);
        reply
    }
}

impl Waiting {
    fn close(&self) {
        self.closed.set(true);
        self.calls.borrow_mut().clear();
    }
}

/// Takes a call out of the table when its caller stops waiting.
struct Forget<'a> {
    waiting: &'a Waiting,
    call: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.calls.borrow_mut().remove(&self.call);
    }
}
