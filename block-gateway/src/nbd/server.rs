//! Accepts clients.

use std::time::Duration;

use platform::Platform;
use platform::net::Listener;

use super::{handshake, transmission};
use crate::registry::Registry;

/// How long a client may take to agree.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// Serves every volume by its name, for as long as the process lives.
pub async fn serve(platform: Platform, listener: Listener, registry: Registry) {
    loop {
        let mut stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                platform.clock().sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (inner, registry) = (platform.clone(), registry.clone());
        platform.tasks().spawn(async move {
            let peer = stream.peer_addr();
            let agreed = inner.clock().timeout(HANDSHAKE, handshake::run(&mut stream, &registry)).await;
            let ended = match agreed {
                Ok(Ok(Some(agreed))) => transmission::run(&inner, stream, agreed).await,
                Ok(Ok(None)) => Ok(()),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no agreement in a minute")),
            };
            if let Err(error) = ended {
                tracing::debug!(peer, %error, "a connection ended");
            }
        });
    }
}
