//! A metaserver replica.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crypto::envelope::RootKey;
use metaserver::consensus::log::LogError;
use metaserver::consensus::replica::{ReplicaConfig, StartError};
use metaserver::server::MetaServer;
use metaserver::server::keyring::Keyring;
use metaserver::store::StateStore;
use platform::Platform;
use platform::planted::Planted;
use proto::service::{class, code};
use rpc::call::{Handler, Reply};
use types::ids::StoreId;

use crate::checkers::Checker;
use crate::cluster::{Cluster, Node};
use crate::shape::METAS;

/// The directory of a replica.
pub const DIR: &str = "/meta";
/// The file in it that says who the replica is.
pub const BALLOT: &str = "ballot";

fn raft_id(index: usize) -> u64 {
    index as u64 + 1
}

/// A replica's process, until it dies.
pub async fn run(cluster: Rc<Cluster>, platform: Platform, index: usize) {
    let node = Node::Meta(index);
    let founders: BTreeMap<u64, String> =
        (0..METAS).map(|index| (raft_id(index), Node::Meta(index).address())).collect();
    let config = ReplicaConfig {
        raft_id: raft_id(index),
        address: node.address(),
        founders,
        contacts: BTreeMap::new(),
        replaces: 0,
        founding: !cluster.has_started(index),
        planted: Planted::default(),
        state_damaged: None,
        store: StoreId(0x3e7a_0000 + raft_id(index)),
        tick: Duration::from_millis(50),
        election_ticks: 10,
        segment_size: cluster.shape.segment_size,
        flush_entries: cluster.shape.flush_entries,
        keep_entries: cluster.shape.keep_entries,
    };
    let peers = super::peers(&platform);
    let server = loop {
        let disk = match platform.open_disk(Path::new(DIR)) {
            Ok(disk) => disk,
            Err(error) => return cluster.violated(Checker::Replicas, format!("{}: {error}", node.name())),
        };
        let state = StateStore::Memory(cluster.state(index));
        let times = cluster.shape.times;
        let (peers, config) = (peers.clone(), config.clone());
        // The same for all, as an operator would see to it.
        let keyring = Keyring::new(Some(RootKey::draw(|bytes| bytes.fill(0x5a))));
        match MetaServer::start(platform.clone(), disk, state, peers, node.name(), config, times, keyring).await {
            Ok(server) => break server,
            Err(StartError::Log(LogError::Disk(error))) => {
                tracing::warn!(node = node.name(), %error, "replica cannot start yet");
                platform.clock().sleep(Duration::from_millis(500)).await;
            }
            // Whatever is damaged, the others can fill it anew.
            Err(error) => return cluster.violated(Checker::Replicas, format!("{} cannot start: {error}", node.name())),
        }
    };
    cluster.has_started_now(index);
    cluster.serves_meta(index, server.clone());
    let serving = server.clone();
    let handler: Handler = Rc::new(move |call| {
        let server = serving.clone();
        Box::pin(async move {
            let reply = server.handle(call).await;
            reply.unwrap_or_else(|| Reply::failed(class::GIVE_UP, code::BAD_REQUEST, "not a metaserver's request"))
        })
    });
    platform.tasks().spawn(super::listen(platform.clone(), node.address(), handler)).detach();
    loop {
        platform.clock().sleep(Duration::from_millis(500)).await;
        if let Some(why) = server.replica().stopped() {
            if cluster.is_excused(index) {
                return;
            }
            cluster.violated(Checker::Replicas, format!("replica {} stopped: {why}", node.name()));
            return;
        }
    }
}
