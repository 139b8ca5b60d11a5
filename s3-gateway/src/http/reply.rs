//! Answers: a status, headers and a body that is empty, whole, or streamed with back pressure.
//!
//! Invariant: a streamed body that breaks off ends the connection, so that a client never takes
//! half an object for the whole.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use client::object::reader::ObjectReader;
use futures_util::stream::{self, Stream};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::{Body, Frame, SizeHint};
use rpc::request::during;
use types::ids::RequestId;

use super::watch::Tracked;
use crate::errors::S3Error;
use crate::gateway::Held;
use crate::xml::write::Writer;

/// Objects up to this many bytes are sent in one write with their head.
pub const WHOLE_MAX: u64 = 64 << 10;

/// An answer under construction.
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without those every answer has.
    pub headers: HeaderMap,
    /// Its body.
    pub body: ReplyBody,
}

/// A body on its way out.
pub enum ReplyBody {
    /// Nothing.
    Empty,
    /// Whole.
    Whole(Bytes),
    /// Piece by piece.
    Stream(ObjectStream),
}

/// The bytes of an object as hyper asks for them.
pub struct ObjectStream {
    #[expect(dead_code, reason = "memory is set aside while it lives")]
    held: Held,
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, BrokenOff>>>>,
    left: u64,
}

/// The stored bytes could not be read to their end.
#[derive(Debug, thiserror::Error)]
#[error("the object could not be read to its end: {0}")]
pub struct BrokenOff(String);

impl Reply {
    /// A status alone.
    pub fn empty(status: StatusCode) -> Reply {
        Reply { status, headers: HeaderMap::new(), body: ReplyBody::Empty }
    }

    /// 200 without a body.
    pub fn ok() -> Reply {
        Reply::empty(StatusCode::OK)
    }

    /// 200 with a document.
    pub fn xml(document: String) -> Reply {
        let mut reply = Reply::ok();
        reply.headers.insert("content-type", HeaderValue::from_static("application/xml"));
        reply.body = ReplyBody::Whole(Bytes::from(document));
        reply
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Reply {
        crate::headers::set(&mut self.headers, name, value);
        self
    }

    /// The document of an error.
    pub fn error(error: &S3Error, resource: &str, request: RequestId, host_id: &str) -> Reply {
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut reply = Reply::empty(status);
        for (name, value) in &error.headers {
            crate::headers::set(&mut reply.headers, name, value);
        }
        if status == StatusCode::NOT_MODIFIED {
            return reply;
        }
        let mut document = Writer::new(512);
        document.open("Error").text("Code", error.code.name()).text("Message", &error.message);
        for (name, value) in &error.fields {
            document.text(name, value);
        }
        document.text("Resource", resource).text("RequestId", &request.to_string()).text("HostId", host_id);
        reply.headers.insert("content-type", HeaderValue::from_static("application/xml"));
        reply.body = ReplyBody::Whole(Bytes::from(document.finish("Error")));
        reply
    }
}

impl ObjectStream {
    /// `first` has been read already; `left` counts it and all that follow.
    pub fn new(first: Bytes, reader: ObjectReader, left: u64, held: Held) -> ObjectStream {
        let rest = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
                Ok(None) => None,
                Err(error) => {
                    tracing::error!(%error, "an object could not be read to its end");
                    Some((Err(BrokenOff(error.to_string())), None))
                }
            }
        });
        let pieces = Box::pin(futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest));
        ObjectStream { held, pieces, left }
    }
}

/// What hyper is given: the body, and what ends with it.
pub struct OutgoingBody {
    /// The body itself.
    pub body: ReplyBody,
    /// Marks the request as under way until the last byte is out.
    pub tracked: Tracked,
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let request = self.tracked.request();
        match &mut self.body {
            ReplyBody::Empty => Poll::Ready(None),
            ReplyBody::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.body = ReplyBody::Empty;
                self.tracked.sent(bytes.len() as u64);
                if bytes.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(Frame::data(bytes)))) }
            }
            ReplyBody::Stream(stream) => match during(request, || stream.pieces.as_mut().poll_next(cx)) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) if stream.left > 0 => {
                    Poll::Ready(Some(Err(BrokenOff("it is shorter than its size".to_owned()))))
                }
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(piece))) => {
                    let len = piece.len() as u64;
                    if len > stream.left {
                        return Poll::Ready(Some(Err(BrokenOff("it is longer than its size".to_owned()))));
                    }
                    stream.left -= len;
                    self.tracked.sent(len);
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            ReplyBody::Empty => true,
            ReplyBody::Whole(bytes) => bytes.is_empty(),
            ReplyBody::Stream(stream) => stream.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            ReplyBody::Empty => SizeHint::with_exact(0),
            ReplyBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ReplyBody::Stream(stream) => SizeHint::with_exact(stream.left),
        }
    }
}
