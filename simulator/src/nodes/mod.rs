//! The processes of a cluster, assembled from the same parts as the real ones (`bixi`'s src/node).

pub mod chunk;
pub mod client;
pub mod meta;

use std::time::Duration;

use ::client::meta::MetaClient;
use platform::Platform;
use rpc::budget::Budget;
use rpc::call::Handler;
use rpc::peers::Peers;
use rpc::server::{ServerConfig, serve};

use crate::cluster::{CLUSTER, SECRET, meta_addresses};

/// The calling side of a process.
fn peers(platform: &Platform) -> Peers {
    Peers::new(platform.clone(), CLUSTER, SECRET.to_vec())
}

/// A process's way to the metaserver.
fn meta_client(peers: &Peers, name: &str) -> MetaClient {
    MetaClient::new(peers.clone(), name, meta_addresses())
}

/// Serves calls at `address` for ever.
async fn listen(platform: Platform, address: String, handler: Handler) {
    let listener = loop {
        match platform.net().listen(&address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(%error, "cannot listen yet");
                platform.clock().sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let config = ServerConfig {
        cluster: CLUSTER,
        secret: SECRET.to_vec(),
        tls: None,
        budget: Budget::new(256 << 20),
        slow: Duration::from_secs(60),
    };
    serve(platform, listener, config, handler).await;
}
