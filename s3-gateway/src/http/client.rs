//! A small HTTP/1.1 client for the command line, the bench and tests: one connection, kept alive.
//!
//! It signs nothing itself (`auth::signer` does) and retries nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use platform::Platform;
use platform::tls::ClientTls;
use tokio::sync::mpsc;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there: is the server running?
    #[error("cannot connect to {addr}: {why}")]
    Connect {
        /// What was asked for.
        addr: String,
        /// The system's word.
        why: String,
    },
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(#[from] hyper::Error),
    /// A header or target that cannot be sent.
    #[error("request cannot be sent: {0}")]
    Request(#[from] http::Error),
    /// The server took too long.
    #[error("no answer in time")]
    TimedOut,
}

/// A body to send.
pub enum RequestBody {
    /// Known whole (empty too).
    Whole(Bytes),
    /// `len` bytes that come through a channel; a sender dropped early ends the request as broken.
    Channel {
        /// Pieces, in order.
        pieces: mpsc::Receiver<Bytes>,
        /// Bytes in all.
        len: u64,
    },
}

/// The sender of a channel body went away before all bytes were sent.
#[derive(Debug, thiserror::Error)]
#[error("the body ended early")]
pub struct EndedEarly;

/// A connection.
pub struct Connection {
    sender: SendRequest<RequestBody>,
}

/// An answer whose body is read by the caller.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
}

impl Connection {
    /// Connects to `addr` ("host:port") within ten seconds.
    pub async fn open(platform: &Platform, addr: &str, tls: Option<&ClientTls>) -> Result<Connection, ClientError> {
        let failed = |why: String| ClientError::Connect { addr: addr.to_owned(), why };
        let connect = platform.net().connect(addr);
        let stream = match platform.clock().timeout(Duration::from_secs(10), connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                return Err(failed(cause));
            }
            Err(elapsed) => return Err(failed(elapsed.to_string())),
        };
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        let stream = match tls {
            None => stream,
            Some(tls) => stream.connect_tls(tls, host).await.map_err(|error| failed(error.to_string()))?,
        };
        let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
        let task = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a client's connection ended badly");
            }
        };
        platform.tasks().spawn(task).detach();
        Ok(Connection { sender })
    }

    /// Whether the server has closed it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request (`target` = path and query) and waits for the head of its answer.
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: RequestBody,
    ) -> Result<Answer, ClientError> {
        self.sender.ready().await?;
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(name.as_str(), value.as_str());
        }
        // An empty body says so: hyper would leave the length out, and S3 asks for it.
        let is_empty = matches!(&body, RequestBody::Whole(bytes) if bytes.is_empty())
            || matches!(body, RequestBody::Channel { len: 0, .. });
        if is_empty && matches!(method, "PUT" | "POST") {
            request = request.header(hyper::header::CONTENT_LENGTH, 0);
        }
        let answer = self.sender.send_request(request.body(body)?).await?;
        let (parts, body) = answer.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// Sends a request with a whole body and reads the whole answer.
    pub async fn call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
        let mut answer = self.send(method, target, headers, RequestBody::Whole(body)).await?;
        let mut whole = Vec::new();
        while let Some(piece) = answer.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok((answer.status, answer.headers, Bytes::from(whole)))
    }
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The next piece of the body.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = EndedEarly;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, EndedEarly>>> {
        match &mut *self {
            RequestBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            RequestBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            RequestBody::Channel { pieces, len } => match pieces.poll_recv(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) if *len > 0 => Poll::Ready(Some(Err(EndedEarly))),
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(piece)) => {
                    *len = len.saturating_sub(piece.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Whole(bytes) => bytes.is_empty(),
            RequestBody::Channel { len, .. } => *len == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Channel { len, .. } => SizeHint::with_exact(*len),
        }
    }
}
