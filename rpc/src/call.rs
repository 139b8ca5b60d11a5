//! What a call is made of, on either side.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use platform::clock::Instant;
use proto::service::{Answer, Failure, Request, class, code};
use thiserror::Error;
use types::ids::{RequestId, StoreId};

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
