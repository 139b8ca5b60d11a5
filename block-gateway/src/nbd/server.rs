//! Accepts clients.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use platform::Platform;
use platform::net::{Listener, Stream};
use platform::tls::ServerTls;
use tokio::sync::Semaphore;

use super::{handshake, transmission};
use crate::exports::Exports;
use crate::registry::Registry;

/// How long a client may take to agree.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// Connections held at once: each may have its buffers full.
const CONNECTIONS_MAX: usize = 512;

/// Serves every volume by its name, for as long as the process lives. With `tls` only inside that.
pub async fn serve(platform: Platform, listener: Listener, registry: Registry, tls: Option<ServerTls>) {
    accept(platform, listener, registry, None, tls).await;
}

/// Serves one volume and no other, also to those that do not name it.
pub async fn serve_one(platform: Platform, listener: Listener, registry: Registry, name: String) {
    accept(platform, listener, registry, Some(name), None).await;
}

async fn accept(
    platform: Platform,
    listener: Listener,
    registry: Registry,
    only: Option<String>,
    tls: Option<ServerTls>,
) {
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
        let (inner, registry, only, tls) = (platform.clone(), registry.clone(), only.clone(), tls.clone());
        platform.tasks().spawn(async move {
            let peer = stream.peer_addr();
            let served = match &tls {
                Some(tls) => secured(&inner, stream, tls, &registry, only.as_deref()).await,
                None => session(&inner, stream, &registry, only.as_deref()).await,
            };
            if let Err(error) = served {
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
    let agreeing = async {
        match handshake::greet(&mut stream).await? {
            Some(greeted) => handshake::run(&mut stream, greeted, exports, only).await,
            None => Ok(None),
        }
    };
    match in_time(platform, agreeing).await? {
        Some(agreed) => transmission::run(platform, stream, agreed).await,
        None => Ok(()),
    }
}

/// One client's session, all of it behind STARTTLS.
async fn secured(
    platform: &Platform,
    mut stream: Stream,
    tls: &ServerTls,
    exports: &dyn Exports,
    only: Option<&str>,
) -> io::Result<()> {
    let agreeing = async {
        let Some(greeted) = handshake::wait_for_tls(&mut stream).await? else { return Ok(None) };
        let mut stream = stream.accept_tls(tls).await.map_err(io::Error::other)?;
        let agreed = handshake::run(&mut stream, greeted, exports, only).await?;
        Ok(agreed.map(|agreed| (stream, agreed)))
    };
    match in_time(platform, agreeing).await? {
        Some((stream, agreed)) => transmission::run(platform, stream, agreed).await,
        None => Ok(()),
    }
}

async fn in_time<T>(platform: &Platform, agreeing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match platform.clock().timeout(HANDSHAKE, agreeing).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no agreement in a minute")),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use bytes::Bytes;
    use client::volume::VolumeError;
    use platform::net::pair;
    use platform::sim::{SimOptions, Simulation};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::session;
    use crate::device::{Answer, Device, Run};
    use crate::exports::{Export, Exports};
    use crate::nbd::wire::{OPTION, PAYLOAD_MAX, cmd, option};

    /// Zeroes; it counts what was read of it.
    #[derive(Default)]
    struct Zeroes {
        reads: Cell<usize>,
    }

    impl Device for Zeroes {
        fn size(&self) -> u64 {
            PAYLOAD_MAX
        }

        fn read(&self, _start: u64, len: u64) -> Answer<'_, Bytes> {
            self.reads.set(self.reads.get() + 1);
            Box::pin(std::future::ready(Ok(Bytes::from(vec![0; len as usize]))))
        }

        fn write(&self, _start: u64, _data: Bytes) -> Answer<'_, ()> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn clear(&self, _start: u64, _len: u64) -> Answer<'_, ()> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn flush(&self) -> Result<(), VolumeError> {
            Ok(())
        }

        fn status(&self, _start: u64, len: u64) -> Answer<'_, Vec<Run>> {
            Box::pin(std::future::ready(Ok(vec![Run { len, is_hole: false }])))
        }
    }

    struct One(Rc<Zeroes>);

    impl Exports for One {
        fn names(&self) -> Answer<'_, Vec<String>> {
            Box::pin(std::future::ready(Ok(vec!["disk".into()])))
        }

        fn size_of<'a>(&'a self, _name: &'a str) -> Answer<'a, u64> {
            Box::pin(std::future::ready(Ok(PAYLOAD_MAX)))
        }

        fn snapshots_of<'a>(&'a self, _name: &'a str, _most: usize) -> Answer<'a, Vec<String>> {
            Box::pin(std::future::ready(Ok(Vec::new())))
        }

        fn open<'a>(&'a self, _name: &'a str) -> Answer<'a, Export> {
            let export = Export {
                device: Rc::clone(&self.0) as Rc<dyn Device>,
                lease: Box::new(()),
                leave: Box::new(|| Box::new(())),
            };
            Box::pin(std::future::ready(Ok(export)))
        }
    }

    /// What a client sends that takes the oldest way in, asks for `count` reads of all there is, and ends.
    fn reads(count: u64) -> Vec<u8> {
        let mut bytes = 3u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&OPTION.to_be_bytes());
        bytes.extend_from_slice(&[option::EXPORT_NAME, 4].map(u32::to_be_bytes).concat());
        bytes.extend_from_slice(b"disk");
        for cookie in 0..count {
            bytes.extend_from_slice(&0x2560_9513u32.to_be_bytes());
            bytes.extend_from_slice(&u32::from(cmd::READ).to_be_bytes());
            bytes.extend_from_slice(&[cookie, 0].map(u64::to_be_bytes).concat());
            bytes.extend_from_slice(&(PAYLOAD_MAX as u32).to_be_bytes());
        }
        bytes
    }

    const HELLO: u64 = 18 + 10;

    #[test]
    fn a_client_that_reads_no_replies_is_read_no_more_requests() {
        let simulation = Simulation::new(1, SimOptions::default());
        let platform = simulation.platform();
        let told = simulation.run(
            async move {
                let (mut ours, theirs) = pair(&platform);
                let disk = Rc::new(Zeroes::default());
                let (inner, exports) = (platform.clone(), One(Rc::clone(&disk)));
                let served = platform.tasks().spawn(async move { session(&inner, theirs, &exports, None).await });
                ours.write_all(&reads(10)).await.unwrap();
                platform.clock().sleep(Duration::from_secs(30)).await;
                let before = disk.reads.get();
                ours.shutdown().await.unwrap();
                let mut out = Vec::new();
                ours.read_to_end(&mut out).await.unwrap();
                served.await.unwrap().unwrap();
                (before, disk.reads.get(), out.len() as u64)
            },
            Duration::from_secs(3600),
        );
        assert_eq!(told.unwrap(), (2, 10, HELLO + 10 * (16 + PAYLOAD_MAX)));
    }

    #[test]
    fn a_client_that_has_ended_is_not_waited_for_without_end() {
        let simulation = Simulation::new(1, SimOptions::default());
        let platform = simulation.platform();
        let ended = simulation.run(
            async move {
                let (mut ours, theirs) = pair(&platform);
                let (inner, exports) = (platform.clone(), One(Rc::default()));
                let served = platform.tasks().spawn(async move { session(&inner, theirs, &exports, None).await });
                ours.write_all(&reads(1)).await.unwrap();
                ours.shutdown().await.unwrap();
                let ended = served.await.unwrap();
                drop(ours);
                ended.map_err(|error| error.kind())
            },
            Duration::from_secs(3600),
        );
        assert_eq!(ended.unwrap(), Err(std::io::ErrorKind::TimedOut));
    }
}
