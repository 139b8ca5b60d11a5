//! A chunkserver with one disk.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ::client::background;
use ::client::chunk::reader::ChunkReader;
use ::client::chunk::shards::Shards;
use ::client::chunk::writer::ChunkWriter;
use ::client::disks::DiskMap;
use ::client::meta::{MetaClient, MetaError};
use chunkserver::service::ChunkService;
use chunkserver::store::Store;
use chunkserver::store::config::StoreConfig;
use platform::Platform;
use platform::disk::DiskError;
use proto::meta::{Body, DiskReport, refusal};
use proto::rows::DiskRow;
use proto::service::{class, code};
use rpc::call::{Handler, Reply};
use types::ids::StoreId;

use crate::checkers::Checker;
use crate::cluster::{Cluster, Node};

/// The directory of a store.
pub const DIR: &str = "/chunks";

/// A chunkserver's process, until it dies.
pub async fn run(cluster: Rc<Cluster>, platform: Platform, index: usize) {
    let node = Node::Chunk(index);
    let clock = platform.clock().clone();
    let store = loop {
        match open(&cluster, &platform).await {
            Ok(store) => break store,
            Err(error) => {
                tracing::warn!(node = node.name(), error, "store cannot be opened yet");
                clock.sleep(Duration::from_millis(500)).await;
            }
        }
    };
    platform.tasks().spawn(store.clone().maintain()).detach();
    platform.tasks().spawn(store.clone().scrub(cluster.shape.scrub)).detach();
    let service = ChunkService::default();
    service.add(store.clone());
    let handler: Handler = Rc::new(move |call| {
        let service = service.clone();
        Box::pin(async move {
            let reply = service.handle(call).await;
            reply.unwrap_or_else(|| Reply::failed(class::GIVE_UP, code::BAD_REQUEST, "not a chunkserver's request"))
        })
    });
    let peers = super::peers(&platform);
    platform.tasks().spawn(super::listen(platform.clone(), node.address(), handler)).detach();
    let meta = super::meta_client(&peers, &node.name());
    let Some(disk) = register(&cluster, &meta, node, store.id()).await else {
        // Declared lost: an operator replaces the disk, and the node joins anew.
        return replace(&cluster, index);
    };
    cluster.serves_store(index, store.clone());
    let shards = Shards::new(peers, DiskMap::new(meta.clone()));
    let writer = ChunkWriter::new(meta.clone(), shards.clone());
    let reader = ChunkReader::new(meta.clone(), shards.clone(), writer, 0);
    platform.tasks().spawn(background::run(meta.clone(), shards, reader)).detach();
    loop {
        let space = store.space();
        let report = DiskReport {
            disk,
            total_bytes: space.total,
            available_bytes: space.available,
            failed: store.is_failed(),
            level: proto::level::CURRENT,
        };
        if let Err(error) = meta.heartbeat(vec![report]).await {
            tracing::debug!(node = node.name(), %error, "heartbeat failed");
        }
        clock.sleep(Duration::from_secs(1)).await;
    }
}

async fn open(cluster: &Cluster, platform: &Platform) -> Result<Store, String> {
    let text = |error: DiskError| error.to_string();
    let disk = platform.open_disk(Path::new(DIR)).map_err(text)?;
    let id = match disk.read_file("identity").await.map_err(text)? {
        Some(bytes) => {
            StoreId(u64::from_le_bytes(bytes.try_into().map_err(|_| "identity file is damaged".to_owned())?))
        }
        None => {
            let id = StoreId(platform.random().next_u64() | 1);
            disk.write_file("identity", &id.0.to_le_bytes()).await.map_err(text)?;
            id
        }
    };
    let config = StoreConfig {
        slot_size: cluster.shape.slot_size,
        prewritten_slots: 2,
        checkpoint_records: cluster.shape.checkpoint_records,
        reserve_bytes: 1 << 20,
        tables_bytes: 4 << 10,
        capacity_bytes: 0,
    };
    Store::open(platform.clone(), disk, id, config).await.map_err(|error| error.to_string())
}

/// The number of the disk; `None` if it was declared lost.
async fn register(cluster: &Cluster, meta: &MetaClient, node: Node, store: StoreId) -> Option<u64> {
    let row = DiskRow {
        store: store.0,
        node: node.name(),
        domain: node.name(),
        address: node.address(),
        path: DIR.to_owned(),
        ..DiskRow::default()
    };
    loop {
        match meta.bare_command(Body::RegisterDisk(row.clone())).await {
            Ok(outcome) => return Some(outcome.number),
            Err(MetaError::Refused { code: refusal::DISK, .. }) => return None,
            Err(MetaError::Refused { code: refusal::NOT_INITIALISED, .. } | MetaError::Unavailable(_)) => {}
            Err(error) => cluster.violated(Checker::Answers, format!("{} cannot register: {error}", node.name())),
        }
        meta.platform().clock().sleep(Duration::from_millis(100)).await;
    }
}

/// Puts an empty disk in place of the lost one. The process ends by it.
fn replace(cluster: &Rc<Cluster>, index: usize) {
    let cluster = cluster.clone();
    let simulation = cluster.simulation.clone();
    let driver = simulation.platform();
    driver
        .tasks()
        .spawn(async move {
            let node = Node::Chunk(index);
            cluster.crash(node);
            cluster.simulation.wipe_disk(&node.name(), DIR);
            cluster.boot(node);
        })
        .detach();
}
