//! A client process: the object layer and some workers.

use std::rc::Rc;
use std::time::Duration;

use ::client::chunk::reader::ChunkReader;
use ::client::chunk::shards::Shards;
use ::client::chunk::writer::ChunkWriter;
use ::client::disks::DiskMap;
use ::client::meta::MetaClient;
use ::client::object::{ObjectConfig, Objects};
use platform::Platform;
use proto::query::{Ask, AskAll};
use proto::rows::ClusterRow;

use crate::cluster::{Cluster, Node};
use crate::journal::Journal;
use crate::trash::Trasher;
use crate::volumes::Worker;
use crate::workload;

/// The layers of a process that stores objects.
#[derive(Clone)]
pub struct Layers {
    /// The way to the metaserver.
    pub meta: MetaClient,
    /// Calls to single shards.
    pub shards: Shards,
    /// Appends to chunks.
    pub writer: ChunkWriter,
    /// Reads from chunks.
    pub reader: ChunkReader,
    /// Objects.
    pub objects: Objects,
}

/// Builds the layers on `platform`.
pub fn layers(cluster: &Cluster, platform: &Platform, name: &str, row: &ClusterRow, cache_bytes: usize) -> Layers {
    let peers = super::peers(platform);
    let meta = super::meta_client(&peers, name);
    let shards = Shards::new(peers, DiskMap::new(meta.clone()));
    let writer = ChunkWriter::new(meta.clone(), shards.clone());
    let reader = ChunkReader::new(meta.clone(), shards.clone(), writer.clone(), cache_bytes);
    let shape = &cluster.shape;
    let config = ObjectConfig { policy: shape.policy, inline_max: shape.inline_max, append_unit: shape.append_unit };
    let objects = Objects::new(meta.clone(), writer.clone(), reader.clone(), row, config);
    Layers { meta, shards, writer, reader, objects }
}

/// Says once a second that the process lives, so that its session does.
pub async fn heartbeat(meta: MetaClient) {
    loop {
        if let Err(error) = meta.heartbeat(Vec::new()).await {
            tracing::debug!(%error, "heartbeat failed");
        }
        meta.platform().clock().sleep(Duration::from_secs(1)).await;
    }
}

/// A client's process, until it dies.
pub async fn run(cluster: Rc<Cluster>, platform: Platform, index: usize) {
    let node = Node::Client(index);
    let peers = super::peers(&platform);
    let meta = super::meta_client(&peers, &node.name());
    let row = loop {
        match meta.query(Ask::Cluster(AskAll {})).await {
            Ok(view) => {
                if let Some(row) = view.cluster {
                    break row;
                }
            }
            Err(error) => tracing::debug!(%error, "cluster is not known yet"),
        }
        platform.clock().sleep(Duration::from_millis(100)).await;
    };
    let layers = layers(&cluster, &platform, &node.name(), &row, cluster.shape.cache_bytes);
    platform.tasks().spawn(heartbeat(layers.meta.clone())).detach();
    if cluster.shape.work.journals > 0 {
        let journal = Journal::new(cluster.clone(), layers.clone());
        for _ in 0..cluster.shape.work.journals {
            platform.tasks().spawn(journal.clone().write()).detach();
        }
        platform.tasks().spawn(journal.verify()).detach();
    }
    if let Some(mean) = cluster.shape.work.trash.filter(|_| index == 0) {
        let trasher = Trasher::new(cluster.clone(), platform.clone(), layers.objects.clone());
        platform.tasks().spawn(trasher.run(mean)).detach();
    }
    if let Some(work) = &cluster.shape.work.volumes {
        if index < work.owners {
            platform.tasks().spawn(Worker::new(cluster.clone(), &layers, node.name()).own()).detach();
        }
        if index == 0 || index + 1 == cluster.shape.work.clients {
            let name = format!("people-{}", node.name());
            platform.tasks().spawn(Worker::new(cluster.clone(), &layers, name).administer()).detach();
        }
    }
    cluster.serves_objects(index, layers.objects.clone());
    for worker in 0..cluster.shape.work.workers {
        let number = (index * cluster.shape.work.workers + worker) as u32;
        let work = workload::run(cluster.clone(), platform.clone(), layers.objects.clone(), number);
        platform.tasks().spawn(work).detach();
    }
}
