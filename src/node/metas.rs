//! Starting metaserver replicas.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use metaserver::consensus::replica::ReplicaConfig;
use metaserver::server::{MetaServer, ServerTimes};
use metaserver::store::StateStore;
use metaserver::store::rocks::RocksStore;
use platform::Platform;
use rpc::peers::Peers;

use super::NodeError;
use super::identity::Home;

/// Starts the replica in a directory. `founders` is empty for a replica that joins.
///
/// # Errors
/// Damage that only its peers can repair, or the disk.
pub async fn start(
    platform: &Platform,
    peers: &Peers,
    home: &Home,
    name: &str,
    address: &str,
    founders: BTreeMap<u64, String>,
    contacts: BTreeMap<u64, String>,
) -> Result<MetaServer, NodeError> {
    let Some(identity) = &home.identity else { return Err(NodeError::new("directory without identity")) };
    let path = home.disk.path().to_owned();
    // It blocks while it reads; replicas and stores start side by side.
    let state_dir = path.clone();
    let opened = platform.lane().run(move || RocksStore::open(&state_dir)).await;
    let opened = opened.map_err(|error| NodeError::new(format!("{}: {error}", path.display())))?;
    let config = ReplicaConfig {
        raft_id: identity.raft_id,
        address: address.to_owned(),
        founders,
        contacts,
        store: identity.store,
        tick: Duration::from_millis(50),
        election_ticks: 9,
        segment_size: 16 << 20,
        flush_entries: 20_000,
    };
    let state = StateStore::Rocks(Rc::new(opened));
    MetaServer::start(
        platform.clone(),
        home.disk.clone(),
        state,
        peers.clone(),
        name.to_owned(),
        config,
        ServerTimes::default(),
    )
    .await
    .map_err(|error| NodeError::new(format!("metaserver in {}: {error}", path.display())))
}
