//! The doors of a process: S3 and the admin API, over one object layer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block_gateway::nbd;
use block_gateway::registry::Registry;
use chunkserver::service::ChunkService;
use client::background;
use client::chunk::reader::ChunkReader;
use client::chunk::shards::Shards;
use client::chunk::writer::ChunkWriter;
use client::disks::DiskMap;
use client::meta::MetaClient;
use client::object::{ObjectConfig, Objects};
use platform::Platform;
use platform::net::Listener;
use platform::tls::ServerTls;
use proto::level;
use proto::query::{Ask, AskAll};
use proto::rows::ClusterRow;
use s3_gateway::admin::AdminHooks;
use types::redundancy::Redundancy;

use super::cluster::Inside;
use super::{NodeError, descriptors, members, memory, status, volumes};

/// The chunk layer of a process.
#[derive(Clone)]
pub struct ChunkLayer {
    /// Calls to shards.
    pub shards: Shards,
    /// Appends.
    pub writer: ChunkWriter,
    /// Reads.
    pub reader: ChunkReader,
}

impl ChunkLayer {
    /// Over the metaserver `meta` speaks to.
    pub fn new(meta: &MetaClient, cache_bytes: usize) -> ChunkLayer {
        let shards = Shards::new(meta.peers().clone(), DiskMap::new(meta.clone()));
        let writer = ChunkWriter::new(meta.clone(), shards.clone());
        let reader = ChunkReader::new(meta.clone(), shards.clone(), writer.clone(), cache_bytes);
        ChunkLayer { shards, writer, reader }
    }

    /// Runs the background executor beside a chunkserver.
    pub fn spawn_executor(&self, meta: &MetaClient) {
        let work = background::run(meta.clone(), self.shards.clone(), self.reader.clone());
        meta.platform().tasks().spawn(work);
    }
}

/// The cluster's row and policy.
///
/// # Errors
/// No leader in time.
pub async fn cluster(meta: &MetaClient) -> Result<(ClusterRow, Redundancy), NodeError> {
    let view = meta.query(Ask::Cluster(AskAll {})).await.map_err(|error| NodeError::new(error.to_string()))?;
    let row = view.cluster.ok_or_else(|| NodeError::new("the cluster is not initialised"))?;
    if row.feature_level > level::CURRENT {
        return Err(NodeError::conflict(format!(
            "the cluster is at feature level {}, and this version of bixi knows levels up to {}; start a newer one",
            row.feature_level,
            level::CURRENT
        )));
    }
    let policy =
        row.redundancy.policy().ok_or_else(|| NodeError::new("the cluster's redundancy is unknown to this version"))?;
    Ok((row, policy))
}

/// The object layer.
pub fn objects(
    meta: &MetaClient,
    chunks: &ChunkLayer,
    row: &ClusterRow,
    policy: Redundancy,
    replicas: usize,
) -> Objects {
    let config = ObjectConfig::new(policy, replicas);
    Objects::new(meta.clone(), chunks.writer.clone(), chunks.reader.clone(), row, config)
}

/// Days for which a bucket is kept in the trash, unless somebody says otherwise.
pub const TRASH_DAYS: f64 = 7.0;

/// The time for which a bucket is kept in the trash.
///
/// # Errors
/// No number of days.
pub fn trash_keep(days: f64) -> Result<Duration, NodeError> {
    let text = format!("--trash-days {days} is not between 0 and 36525");
    s3_gateway::admin::trash::keep_time(days).ok_or(NodeError { text, exit: 2 })
}

/// What the admin door needs to know.
pub struct AdminParts {
    /// Set once the process can serve.
    pub ready: Rc<Cell<bool>>,
    /// Where S3 listens, for people.
    pub s3: String,
    /// The stores of this process.
    pub stores: ChunkService,
    /// What it serves to other nodes, if it does.
    pub inside: Option<Inside>,
    /// How long a bucket is kept in the trash, unless the request says.
    pub trash_keep: Duration,
    /// Its volumes.
    pub registry: Registry,
}

/// Serves the admin API as a task.
pub fn spawn_admin(
    platform: &Platform,
    listener: Listener,
    objects: &Objects,
    meta: &MetaClient,
    region: &str,
    parts: AdminParts,
) {
    let ready = Rc::clone(&parts.ready);
    let (meta, s3, inside) = (meta.clone(), parts.s3, parts.inside.map(Rc::new));
    objects.follow_policy();
    let policy_objects = objects.clone();
    let metrics_objects = objects.clone();
    let (checks, changes, stores) = (meta.clone(), meta.clone(), parts.stores);
    let (registry, reached) = (parts.registry, inside.clone());
    let counted = registry.clone();
    let hooks = AdminHooks {
        ready: Rc::new(move || ready.get()),
        status: Rc::new(move || {
            let (meta, s3, policy) = (meta.clone(), s3.clone(), policy_objects.policy().to_string());
            Box::pin(async move { status::tree(&meta, &s3, &policy).await })
        }),
        fsck: Rc::new(move |disk, after| {
            let meta = checks.clone();
            Box::pin(async move { status::disk_page(&meta, disk, after).await })
        }),
        members: Rc::new(move |asked| {
            let (meta, inside) = (changes.clone(), inside.clone());
            Box::pin(async move { members::carry_out(&meta, inside.as_deref(), asked).await })
        }),
        volumes: Rc::new(move |asked| {
            let (registry, inside) = (registry.clone(), reached.clone());
            Box::pin(async move { volumes::carry_out(&registry, inside.as_deref(), asked).await })
        }),
        metrics: Rc::new(move || status::metrics(&metrics_objects, &stores.stores(), &counted.counts())),
        trash_keep: parts.trash_keep,
    };
    let (inner, objects, region) = (platform.clone(), objects.clone(), region.to_owned());
    platform.tasks().spawn(async move {
        let Err(error) = s3_gateway::admin::serve(inner, listener, objects, &region, hooks).await;
        tracing::error!(%error, "admin door closed");
    });
}

/// The volumes of a process, which `node` names to others.
pub fn volumes(meta: &MetaClient, chunks: &ChunkLayer, node: &str) -> Registry {
    Registry::new(meta.clone(), chunks.shards.clone(), chunks.reader.clone(), node)
}

/// Serves volumes to NBD clients as a task.
pub fn spawn_nbd(platform: &Platform, listener: Listener, registry: &Registry, tls: Option<ServerTls>) {
    platform.tasks().spawn(nbd::server::serve(platform.clone(), listener, registry.clone(), tls));
}

/// Serves S3 as a task.
pub fn spawn_s3(platform: &Platform, listener: Listener, objects: &Objects, mut config: s3_gateway::config::Config) {
    config.connections_max = descriptors::connections_max(config.connections_max);
    config.memory_budget_bytes = config.memory_budget_bytes.or(Some(memory::shares().bodies));
    let (inner, objects) = (platform.clone(), objects.clone());
    platform.tasks().spawn(async move {
        let Err(error) = s3_gateway::serve(inner, listener, objects, config).await;
        tracing::error!(%error, "S3 door closed");
    });
}
