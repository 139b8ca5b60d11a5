//! What a call is made of, on either side.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use platform::clock::{Clock, Instant};
use proto::service::{Answer, Failure, Request, class, code};
use thiserror::Error;
use types::ids::{RequestId, StoreId};

use crate::request::within;

/// A request as a handler sees it.
#[derive(Clone)]
pub struct Call {
    /// The store it is meant for; 0 = the process.
    pub store: StoreId,
    /// One id from the door to the disk.
    pub request: RequestId,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// What is asked.
    pub body: Request,
    /// Raw bytes beside it.
    pub payload: Bytes,
}

/// An answer with its raw bytes.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What is answered.
    pub answer: Answer,
    /// Raw bytes beside it.
    pub payload: Bytes,
}

impl Reply {
    /// An answer without payload.
    pub fn of(answer: Answer) -> Reply {
        Reply { answer, payload: Bytes::new() }
    }

    /// A refusal.
    pub fn failed(class: u32, code: u32, text: impl Into<String>) -> Reply {
        Reply::of(Answer::Failed(Failure::new(class, code, text)))
    }
}

/// Serves calls. Shared by all connections and by callers in the same process.
pub type Handler = Rc<dyn Fn(Call) -> LocalBoxFuture<'static, Reply>>;

/// Has `handler` serve `call` in the name of its request, and logs it: every call at debug, one
/// that took `slow` or longer as a warning.
pub(crate) async fn run(clock: Clock, slow: Duration, handler: &Handler, call: Call) -> Reply {
    let (started, request, store, what) = (clock.now(), call.request, call.store, call.body.name());
    let reply = within(request, handler(call)).await;
    let took = clock.now().saturating_since(started);
    if took >= slow {
        tracing::warn!(%request, what, %store, took_ms = took.as_millis() as u64, "slow request");
    } else {
        tracing::debug!(%request, what, %store, took_us = took.as_micros() as u64, "served");
    }
    reply
}

/// Why no useful answer came.
#[derive(Debug, Error, Clone)]
pub enum CallError {
    /// No connection, or it broke. The request may or may not have been carried out.
    #[error("{address} is unreachable: {why}")]
    Unreachable {
        /// Whom.
        address: String,
        /// What happened.
        why: String,
    },
    /// No answer within the deadline. The request may or may not have been carried out.
    #[error("{address} did not answer within {after:?}")]
    TimedOut {
        /// Whom.
        address: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The other side refused.
    #[error("refused: {}", .0.text)]
    Refused(Failure),
    /// An answer of a kind that does not belong to the question.
    #[error("{address} answered something else than was asked")]
    Confused {
        /// Whom.
        address: String,
    },
}

impl CallError {
    /// Whether it is this refusal.
    pub fn is_code(&self, wanted: u32) -> bool {
        matches!(self, CallError::Refused(failure) if failure.code == wanted)
    }

    /// Whether the request was surely not carried out.
    pub fn surely_not_done(&self) -> bool {
        match self {
            CallError::Refused(failure) => failure.class != class::RETRY || failure.code == code::BUSY,
            CallError::Unreachable { .. } | CallError::TimedOut { .. } | CallError::Confused { .. } => false,
        }
    }
}
