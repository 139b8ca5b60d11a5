//! Packing: small payloads that wait at the same moment share one append. A lone one never waits.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use platform::buffer::Buffer;
use rpc::request;
use tokio::sync::oneshot;
use types::extent::Extent;
use types::ids::{Partition, RequestId};
use types::redundancy::Filling;

use super::writer::{APPEND_MAX, ChunkWriter, Pin, WriteError};

/// Appends of one line under way at once; what comes meanwhile is merged.
const DEPTH: usize = 2;

type Answer = Result<(Extent, Pin), WriteError>;

struct Waiting {
    data: Bytes,
    /// For whom.
    request: Option<RequestId>,
    sender: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Queue {
    waiting: RefCell<VecDeque<Waiting>>,
    running: Cell<usize>,
}

/// One queue for each kind of chunk.
type Queues = BTreeMap<(Partition, Filling), Rc<Queue>>;

/// Packs small payloads. Cheap to clone.
#[derive(Clone)]
pub struct Packer {
    writer: ChunkWriter,
    queues: Rc<RefCell<Queues>>,
}

impl Packer {
    /// Appends go through `writer`.
    pub fn new(writer: ChunkWriter) -> Packer {
        Packer { writer, queues: Rc::new(RefCell::new(BTreeMap::new())) }
    }

    /// Stores `data` (1 byte to [`APPEND_MAX`]) in a chunk of copies.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn append(&self, partition: Partition, filling: Filling, data: Bytes) -> Answer {
        assert!(!data.is_empty() && data.len() <= APPEND_MAX, "packed payload out of bounds");
        let queue = Rc::clone(self.queues.borrow_mut().entry((partition, filling)).or_default());
        let (sender, receiver) = oneshot::channel();
        queue.waiting.borrow_mut().push_back(Waiting { data, request: request::current(), sender });
        if queue.running.get() < DEPTH {
            queue.running.set(queue.running.get() + 1);
            let this = self.clone();
            self.writer.platform().tasks().spawn(async move {
                while let Some(group) = take_group(&queue) {
                    this.append_group(partition, filling, group).await;
                }
                queue.running.set(queue.running.get() - 1);
            });
        }
        match receiver.await {
            Ok(answer) => answer,
            Err(_) => Err(WriteError::Unavailable("the process is stopping".into())),
        }
    }

    async fn append_group(&self, partition: Partition, filling: Filling, group: Vec<Waiting>) {
        let data = match group.as_slice() {
            [only] => only.data.clone(),
            _ => {
                let mut joined = Buffer::with_capacity(group.iter().map(|waiting| waiting.data.len()).sum());
                for waiting in &group {
                    joined.extend_from_slice(&waiting.data);
                }
                joined.freeze()
            }
        };
        let append = self.writer.append(partition, filling, data);
        // The record bears the first one's id; the log says who else is in it.
        let first = group.iter().find_map(|waiting| waiting.request);
        let stored = match first {
            Some(carrier) => {
                for request in group.iter().filter_map(|waiting| waiting.request).filter(|id| *id != carrier) {
                    tracing::debug!(%request, %carrier, "packed into another request's record");
                }
                request::within(carrier, Box::pin(append)).await
            }
            None => append.await,
        };
        let mut at = 0;
        for waiting in group {
            let len = waiting.data.len() as u64;
            let answer = match &stored {
                Ok((extent, pin)) => Ok((Extent { offset: extent.offset + at, len, ..*extent }, pin.clone())),
                Err(error) => Err(error.clone()),
            };
            at += len;
            // A caller that gave up leaves dead bytes, as any abandoned write does.
            let _ = waiting.sender.send(answer);
        }
    }
}

fn take_group(queue: &Queue) -> Option<Vec<Waiting>> {
    let mut waiting = queue.waiting.borrow_mut();
    let mut group = Vec::new();
    let mut len = 0;
    while let Some(next) = waiting.front() {
        if len + next.data.len() > APPEND_MAX {
            break;
        }
        len += next.data.len();
        group.extend(waiting.pop_front());
    }
    (!group.is_empty()).then_some(group)
}
