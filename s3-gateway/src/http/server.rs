//! Accepts connections and turns requests into answers.
//!
//! One task a connection, HTTP/1.1 with keep-alive and pipelining; bodies are read only when a
//! handler asks, so `Expect: 100-continue` is answered after authentication.
//!
//! Invariants: heads are bounded (64 KiB, 100 lines) and timed; connections are bounded, the one
//! that has waited longest for its client makes room; a panic-free answer for every request, with
//! one request id in headers, document and log.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use platform::clock::Instant;
use platform::net::{Listener, NetError, Stream};
use rpc::request::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use types::ids::RequestId;

use super::reply::{OutgoingBody, Reply, ReplyBody};
use super::watch::{Tracked, Watch, WatchedStream};
use crate::gateway::Gateway;
use crate::operations;

/// The longest head, and the largest single read of a body, in bytes.
const BUFFER_MAX: usize = 128 << 10;
/// Header lines of a head.
const HEADERS_MAX: usize = 200;
/// Of a body nobody wants, this much is read so that the client sees the answer.
const DRAIN_MAX: usize = 64 << 20;
/// And for this long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Of what follows a head that could not be read, this much is read.
const LINGER_MAX: usize = 4 << 20;
/// And for this long.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Open connections by number.
type Connections = RefCell<BTreeMap<u64, Rc<Watch>>>;

/// Serves S3 until the listener breaks.
pub async fn serve_s3(gateway: Rc<Gateway>, listener: Listener) -> Result<Infallible, NetError> {
    let connections: Rc<Connections> = Rc::default();
    let mut number = 0u64;
    loop {
        let stream = listener.accept().await?;
        number += 1;
        make_room(&gateway, &connections);
        let watch = Rc::new(Watch::new(gateway.platform.clock().now()));
        connections.borrow_mut().insert(number, watch.clone());
        gateway.metrics.connections.set(connections.borrow().len() as u64);
        let (task_gateway, task_connections) = (gateway.clone(), connections.clone());
        let task = async move {
            serve_connection(&task_gateway, stream, watch).await;
            task_connections.borrow_mut().remove(&number);
            task_gateway.metrics.connections.set(task_connections.borrow().len() as u64);
        };
        gateway.platform.tasks().spawn(task).detach();
    }
}

/// At the limit, the connection that has waited longest for its client goes.
fn make_room(gateway: &Gateway, connections: &Connections) {
    let mut open = connections.borrow_mut();
    if open.len() < gateway.config.connections_max {
        return;
    }
    let waiting = open.iter().filter_map(|(number, watch)| Some((watch.waiting_since()?, *number)));
    // It counts as gone at once: many may be accepted before its task runs again.
    if let Some(oldest) = waiting.min().and_then(|(_, number)| open.remove(&number)) {
        oldest.evicted.notify_one();
    }
}

async fn serve_connection(gateway: &Rc<Gateway>, stream: Stream, watch: Rc<Watch>) {
    let stream = match &gateway.config.tls {
        None => stream,
        Some(tls) => {
            let handshake = stream.accept_tls(tls);
            match gateway.platform.clock().timeout(gateway.config.header_timeout(), handshake).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "no TLS with a client"),
                Err(_) => return,
            }
        }
    };
    let io = TokioIo::new(WatchedStream::new(stream, watch.clone(), gateway.clone()));
    let (service_gateway, service_watch) = (gateway.clone(), watch.clone());
    let service = service_fn(move |request| {
        let (gateway, watch) = (service_gateway.clone(), service_watch.clone());
        async move { Ok::<_, Infallible>(answer(gateway, watch, request).await) }
    });
    let mut connection = http1::Builder::new()
        .half_close(true)
        .auto_date_header(false)
        .max_buf_size(BUFFER_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(io, service);
    loop {
        let now = gateway.platform.clock().now();
        let deadline = watch.deadline(&gateway.config);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return;
        }
        // Deadlines move while we sleep, at the earliest to one head's time from now.
        let wake = deadline.unwrap_or(Instant(u64::MAX)).min(now + gateway.config.header_timeout());
        tokio::select! {
            biased;
            result = &mut connection => match result {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(%error, "a connection ended badly");
                    break;
                }
            },
            () = watch.evicted.notified() => return,
            () = gateway.platform.clock().sleep_until(wake) => {}
        }
    }
    linger(gateway, connection.into_parts().io.into_inner()).await;
}

/// After a refusal without a request (a head too large, say) the rest of what the client sends is
/// read for a moment: closing at once would reset the connection before the answer is seen.
async fn linger(gateway: &Gateway, mut stream: WatchedStream) {
    let rest = async {
        let mut buffer = vec![0; 16 << 10];
        let mut left = LINGER_MAX;
        stream.shutdown().await?;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                len => left = left.saturating_sub(len),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = gateway.platform.clock().timeout(LINGER_TIMEOUT, rest).await;
}

/// One request in, one answer out.
async fn answer(gateway: Rc<Gateway>, watch: Rc<Watch>, request: Request<Incoming>) -> Response<OutgoingBody> {
    let request_id = gateway.next_request_id();
    let tracked = Tracked::start(&gateway, &watch, request_id, &request);
    let is_head = request.method() == Method::HEAD;
    // A client that waits for `100 Continue` before an empty body never gets one: its body is
    // never read. Some (botocore) then misread the next answer on the same connection.
    let unasked =
        request.headers().contains_key(hyper::header::EXPECT) && http_body::Body::is_end_stream(request.body());
    let handling = Box::pin(operations::handle(&gateway, request, request_id));
    let outcome = within(request_id, handling).await;
    if let Some(unread) = outcome.unread {
        drain(&gateway, unread);
    }
    let mut reply = outcome.reply;
    tracked.outcome(outcome.operation, reply.status.as_u16(), outcome.access_key);
    if is_head {
        reply.body = ReplyBody::Empty;
    }
    if unasked {
        reply.headers.insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
    }
    finish(&gateway, reply, request_id, tracked)
}

/// Adds what every answer has.
fn finish(gateway: &Gateway, reply: Reply, request_id: RequestId, tracked: Tracked) -> Response<OutgoingBody> {
    let mut response = Response::new(OutgoingBody { body: reply.body, tracked });
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    let headers = response.headers_mut();
    headers.insert("date", gateway.date_header());
    headers.insert("server", HeaderValue::from_static("bixi"));
    crate::headers::set(headers, "x-amz-request-id", &request_id.to_string());
    crate::headers::set(headers, "x-amz-id-2", &gateway.host_id);
    response
}

/// Reads on what a client still sends after its request was refused: closing at once would reset
/// the connection and the client might never see the answer.
fn drain(gateway: &Gateway, mut unread: Incoming) {
    // Most bodies of refused requests have already arrived with the head.
    let mut read = 0;
    let platform = gateway.platform.clone();
    let mut rest = Box::pin(async move {
        while let Some(Ok(frame)) = unread.frame().await {
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
            if read > DRAIN_MAX {
                break;
            }
        }
    });
    if rest.as_mut().now_or_never().is_none() {
        let clock = platform.clock().clone();
        let task = async move {
            let _ = clock.timeout(DRAIN_TIMEOUT, rest).await;
        };
        gateway.platform.tasks().spawn(task).detach();
    }
}
