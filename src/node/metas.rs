//! Starting metaserver replicas.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use metaserver::consensus::replica::ReplicaConfig;
use metaserver::server::keyring::Keyring;
use metaserver::server::{MetaServer, ServerTimes};
use metaserver::store::StateStore;
use metaserver::store::rocks::RocksStore;
use platform::Platform;
use platform::planted::Planted;
use rpc::peers::Peers;

use super::NodeError;
use super::identity::{self, Home};

/// What a replica is told beside its directory.
#[derive(Default)]
pub struct Group {
    /// The founding replicas (Raft id to address); empty for a replica that joins.
    pub founders: BTreeMap<u64, String>,
    /// Replicas that it can reach at the start.
    pub contacts: BTreeMap<u64, String>,
    /// The founder in whose place it joins, 0 = none.
    pub replaces: u64,
}

/// Starts the replica in a directory.
///
/// # Errors
/// Damage that only its peers can repair, if there are none; the disk.
pub async fn start(
    platform: &Platform,
    peers: &Peers,
    home: &Home,
    name: &str,
    address: &str,
    group: Group,
    keyring: Keyring,
) -> Result<MetaServer, NodeError> {
    let Some(identity) = &home.identity else { return Err(NodeError::new("directory without identity")) };
    let path = home.disk.path().to_owned();
    let failed = |error: &dyn std::fmt::Display| NodeError::new(format!("metaserver in {}: {error}", path.display()));
    // It blocks while it reads; replicas and stores start side by side.
    let state_dir = path.clone();
    let (opened, state_damaged) = match platform.lane().run(move || RocksStore::open(&state_dir)).await {
        Ok(opened) => (opened, None),
        // Peers can fill an empty one; without peers the start fails with the reason.
        Err(fault) => (RocksStore::open_beside(&path).map_err(|error| failed(&error))?, Some(fault.to_string())),
    };
    let config = ReplicaConfig {
        raft_id: identity.raft_id,
        address: address.to_owned(),
        founders: group.founders,
        contacts: group.contacts,
        replaces: group.replaces,
        founding: identity::is_founding(home).await?,
        planted: Planted::default(),
        state_damaged,
        store: identity.store,
        tick: Duration::from_millis(50),
        election_ticks: 9,
        segment_size: 16 << 20,
        flush_entries: 20_000,
        keep_entries: 1000,
    };
    let state = StateStore::Rocks(Rc::new(opened));
    let (disk, times) = (home.disk.clone(), ServerTimes::default());
    let server =
        MetaServer::start(platform.clone(), disk, state, peers.clone(), name.to_owned(), config, times, keyring)
            .await
            .map_err(|error| failed(&error))?;
    identity::founding_is_over(home).await?;
    Ok(server)
}

/// How often a replica's process looks at the cluster's feature level.
const LEVEL_PERIOD: Duration = Duration::from_secs(2);

/// Keeps the feature level in the directory's identity what the replica's state says.
pub async fn follow_level(platform: Platform, mut home: Home, server: MetaServer) {
    loop {
        platform.clock().sleep(LEVEL_PERIOD).await;
        match identity::raised(home.clone(), server.level()).await {
            Ok(raised) => home = raised,
            Err(error) => tracing::warn!(%error, "the directory does not say yet that the feature level has risen"),
        }
    }
}
