//! Accepts clients.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use platform::Platform;
use platform::net::Listener;
use tokio::sync::Semaphore;

use super::{handshake, transmission};
use crate::exports::Exports;
use crate::registry::Registry;

/// How long a client may take to agree.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// Connections held at once: each may have its buffers full.
const CONNECTIONS_MAX: usize = 512;

/// Serves every volume by its name, for as long as the process lives.
pub async fn serve(platform: Platform, listener: Listener, registry: Registry) {
    accept(platform, listener, registry, None).await;
}

/// Serves one volume and no other, also to those that do not name it.
pub async fn serve_one(platform: Platform, listener: Listener, registry: Registry, name: String) {
    accept(platform, listener, registry, Some(name)).await;
}

async fn accept(platform: Platform, listener: Listener, registry: Registry, only: Option<String>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                platform.clock().sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(peer = stream.peer_addr(), "a client was turned away: {CONNECTIONS_MAX} are there");
            continue;
        };
        let (inner, registry, only) = (platform.clone(), registry.clone(), only.clone());
        platform.tasks().spawn(async move {
            let peer = stream.peer_addr();
            if let Err(error) = session(&inner, stream, &registry, only.as_deref()).await {
                tracing::debug!(peer, %error, "a connection ended");
            }
            drop(place);
        });
    }
}

/// One client's session, from its first byte to its last. With `only`, that export is the only one.
///
/// # Errors
/// The connection is broken, or the client breaks the protocol.
pub async fn session<S>(platform: &Platform, mut stream: S, exports: &dyn Exports, only: Option<&str>) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let agreeing = handshake::run(&mut stream, exports, only);
    match platform.clock().timeout(HANDSHAKE, agreeing).await {
        Ok(Ok(Some(agreed))) => transmission::run(platform, stream, agreed).await,
        Ok(Ok(None)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no agreement in a minute")),
    }
}
