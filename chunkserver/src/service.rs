//! Requests to the stores of one process: which store, which call, which refusal.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use proto::chunk::{ShardList, ShardName};
use proto::service::{Answer, Done, Failure, Request, class, code};
use rpc::call::{Call, Reply};
use types::ids::{ChunkId, Epoch, PlacementId, ShardIndex, StoreId};

use crate::store::write::Target;
use crate::store::{Store, StoreError};

/// Shards listed in one answer.
const LIST_MAX: usize = 1000;

/// The stores of a process; a spoilt one does not stop the others.
#[derive(Clone, Default)]
pub struct ChunkService(Rc<RefCell<BTreeMap<StoreId, Store>>>);

impl ChunkService {
    /// Serves this store too.
    pub fn add(&self, store: Store) {
        self.0.borrow_mut().insert(store.id(), store);
    }

    /// Serves this store no more.
    pub fn remove(&self, store: StoreId) {
        self.0.borrow_mut().remove(&store);
    }

    /// The stores served.
    pub fn stores(&self) -> Vec<Store> {
        self.0.borrow().values().cloned().collect()
    }

    /// Carries out one request; `None` if it is not meant for a chunkserver.
    pub async fn handle(&self, call: Call) -> Option<Reply> {
        let is_ours = matches!(
            call.body,
            Request::Append(_)
                | Request::Fence(_)
                | Request::Seal(_)
                | Request::Read(_)
                | Request::Delete(_)
                | Request::ListShards(_)
                | Request::Census(_)
        );
        if !is_ours {
            return None;
        }
        let store = self.0.borrow().get(&call.store).cloned();
        let Some(store) = store else {
            return Some(Reply::failed(class::REFETCH, code::WRONG_TARGET, format!("{} is not here", call.store)));
        };
        Some(match carry_out(&store, call).await {
            Ok(reply) => reply,
            Err(error) => Reply::of(Answer::Failed(failure(&error))),
        })
    }
}

fn target(name: ShardName) -> Result<Target, StoreError> {
    let index = u8::try_from(name.index).map_err(|_| StoreError::BadRequest("shard index"))?;
    if name.placement == 0 || name.chunk == 0 {
        return Err(StoreError::BadRequest("no placement"));
    }
    Ok(Target { chunk: ChunkId(name.chunk), placement: PlacementId(name.placement), index: ShardIndex(index) })
}

async fn carry_out(store: &Store, call: Call) -> Result<Reply, StoreError> {
    let request = call.request;
    Ok(match call.body {
        Request::Append(append) => {
            let (target, epoch) = (target(append.shard)?, Epoch(append.epoch));
            let (offset, payload, deadline) = (append.offset, call.payload, call.deadline);
            let appended = if append.reserve {
                Box::pin(store.append_from_reserve(target, epoch, offset, payload, request, deadline)).await
            } else {
                Box::pin(store.append(target, epoch, offset, payload, request, deadline)).await
            };
            Reply::of(Answer::Shard(appended?))
        }
        Request::Fence(fence) => {
            let fenced = store.fence(target(fence.shard)?, Epoch(fence.epoch), request);
            Reply::of(Answer::Shard(Box::pin(fenced).await?))
        }
        Request::Seal(seal) => {
            let sealed = store.seal(target(seal.shard)?, Epoch(seal.epoch), seal.len, request);
            Reply::of(Answer::Shard(Box::pin(sealed).await?))
        }
        Request::Read(read) => {
            let payload = store.read(target(read.shard)?, read.offset, read.len as usize).await?;
            Reply { answer: Answer::Data(Done {}), payload }
        }
        Request::Delete(delete) => {
            let placements: Vec<PlacementId> = delete.placements.into_iter().map(PlacementId).collect();
            Box::pin(store.delete(&placements)).await?;
            Reply { answer: Answer::Done(Done {}), payload: Bytes::new() }
        }
        Request::ListShards(list) => {
            let shards = store.list(PlacementId(list.after), LIST_MAX);
            let more = shards.len() == LIST_MAX;
            Reply::of(Answer::ShardList(ShardList { shards, more }))
        }
        Request::Census(ask) => Reply::of(Answer::CensusPage(store.census(ask))),
        _ => return Err(StoreError::BadRequest("not a request to a chunkserver")),
    })
}

fn failure(error: &StoreError) -> Failure {
    let (class, code, hint) = match error {
        StoreError::Fenced { stored } => (class::REFETCH, code::FENCED, stored.0),
        StoreError::Sealed { len } => (class::REFETCH, code::SEALED, *len),
        StoreError::WrongOffset { len } => (class::REFETCH, code::WRONG_OFFSET, *len),
        StoreError::NoShard => (class::REFETCH, code::NO_SHARD, 0),
        StoreError::Beyond { len } => (class::ELSEWHERE, code::BEYOND, *len),
        StoreError::Rot { offset } => (class::ELSEWHERE, code::ROT, *offset),
        StoreError::Broken | StoreError::Disk(_) => (class::ELSEWHERE, code::DISK, 0),
        StoreError::Full => (class::ELSEWHERE, code::FULL, 0),
        StoreError::BadRequest(_) => (class::GIVE_UP, code::BAD_REQUEST, 0),
    };
    let mut failure = Failure::new(class, code, error.to_string());
    failure.hint = hint;
    failure
}
