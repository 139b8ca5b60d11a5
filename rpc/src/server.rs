//! The serving side: accepts connections, authenticates them, runs each request as a task.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::net::{Listener, Stream};
use platform::tls::MutualTls;
use proto::frame::FrameKind;
use proto::roles::Roles;
use proto::service::{AnswerMessage, RequestMessage, class, code};
use tokio::sync::mpsc;
use types::ids::{ClusterId, RequestId, StoreId};

use crate::budget::Budget;
use crate::call::{Call, Handler, Reply, run};
use crate::handshake;
use crate::wire::{Incoming, Outgoing, WireError, read_frame, write_frame};

/// Settings of a serving side.
#[derive(Clone)]
pub struct ServerConfig {
    /// The cluster served; frames of another one end the connection.
    pub cluster: ClusterId,
    /// What both ends must hold.
    pub secret: Vec<u8>,
    /// The process's certificate. Only a simulated machine goes without.
    pub tls: Option<MutualTls>,
    /// Payload bytes held for requests in flight, all connections together.
    pub budget: Budget,
    /// Requests slower than this are logged, with their request id.
    pub slow: Duration,
}

/// Time a new connection has to prove itself.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers that may wait for the socket of one connection.
const QUEUE_MAX: usize = 1024;

/// Accepts for ever. Returns only when the listener is gone.
pub async fn serve(platform: Platform, listener: Listener, config: ServerConfig, handler: Handler) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let (inner, config, handler) = (platform.clone(), config.clone(), Rc::clone(&handler));
                platform.tasks().spawn(async move {
                    let peer = stream.peer_addr();
                    if let Err(error) = connection(inner, stream, config, handler).await {
                        match error {
                            WireError::Closed | WireError::Io(_) => tracing::debug!(%peer, %error, "connection ended"),
                            _ => tracing::warn!(%peer, %error, "connection refused"),
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                platform.clock().sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    platform: Platform,
    stream: Stream,
    config: ServerConfig,
    handler: Handler,
) -> Result<(), WireError> {
    let opening = handshake::welcome(stream, config.cluster, &config.secret, config.tls.as_ref(), platform.random());
    let opened = platform
        .clock()
        .timeout(HANDSHAKE_TIMEOUT, opening)
        .await
        .map_err(|_| WireError::Handshake("took too long"))??;
    let (mut reader, mut writer) = tokio::io::split(opened.stream);
    let (queue, mut outgoing) = mpsc::channel::<Outgoing>(QUEUE_MAX);
    let (send_key, peer) = (opened.send, opened.peer);
    let sender = platform.tasks().spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            if write_frame(&mut writer, frame, send_key.as_ref()).await.is_err() {
                break;
            }
        }
    });
    let result = loop {
        let frame = match read_frame(&mut reader, config.cluster, opened.receive.as_ref()).await {
            Ok(frame) if frame.header.kind == FrameKind::Request => frame,
            Ok(_) => break Err(WireError::Handshake("not a request")),
            Err(error) => break Err(error),
        };
        let (platform_of_task, config, handler, queue) =
            (platform.clone(), config.clone(), Rc::clone(&handler), queue.clone());
        platform.tasks().spawn(async move {
            let (call, request) = (frame.header.call, frame.header.request);
            let cluster = config.cluster;
            let reply = answer(&platform_of_task, config, handler, frame, peer).await;
            // A connection that is gone has nobody to answer to.
            let _ = queue.send(outgoing_answer(cluster, call, request, reply)).await;
        });
    };
    drop(queue);
    if sender.is_finished() {
        sender.abort();
    }
    result
}

async fn answer(platform: &Platform, config: ServerConfig, handler: Handler, frame: Incoming, peer: Roles) -> Reply {
    let Some(_share) = config.budget.take(frame.payload.len()) else {
        return Reply::failed(class::RETRY, code::BUSY, "memory budget of the process is used up");
    };
    let body = match proto::decode::<RequestMessage>(&frame.message) {
        Ok(RequestMessage { body: Some(body) }) => body,
        Ok(RequestMessage { body: None }) => {
            return Reply::failed(class::GIVE_UP, code::BAD_REQUEST, "request is unknown to this version");
        }
        Err(error) => return Reply::failed(class::GIVE_UP, code::BAD_REQUEST, error.to_string()),
    };
    if !peer.meets(body.callers()) {
        let text = format!("the caller's certificate holds {peer}, which may not send {}", body.name());
        tracing::warn!(request = %frame.header.request, "{text}");
        return Reply::failed(class::GIVE_UP, code::NOT_PERMITTED, text);
    }
    let started = platform.clock().now();
    let deadline_ms = if frame.header.deadline_ms == 0 { 60_000 } else { u64::from(frame.header.deadline_ms) };
    let call = Call {
        store: frame.header.store,
        request: frame.header.request,
        deadline: started + Duration::from_millis(deadline_ms),
        body,
        payload: frame.payload,
    };
    run(platform.clock().clone(), config.slow, &handler, call).await
}

fn outgoing_answer(cluster: ClusterId, call: u64, request: RequestId, reply: Reply) -> Outgoing {
    Outgoing {
        kind: FrameKind::Answer,
        cluster,
        store: StoreId(0),
        call,
        request,
        deadline_ms: 0,
        message: proto::encode(&AnswerMessage { body: Some(reply.answer) }),
        payload: if reply.payload.is_empty() { Bytes::new() } else { reply.payload },
    }
}
