//! Byte streams between processes: TCP when real, simulated units otherwise, optionally inside TLS.
//!
//! What it leaves to others: frames, checksums, request ids, reconnecting. Invariants: TCP_NODELAY is always
//! on (a delayed small answer costs 40 ms); an accept loop survives a lack of file descriptors.
//!
//! On a simulated machine the host part of an address is a process name ("m1:7000"); one call of write is one
//! unit that is delivered, lost or repeated whole, so frames should be written by one (vectored) write each.

use std::io;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::Platform;
use crate::local_socket::{self, LocalListener};
use crate::sim::stream::{self, SimListener, SimStream};
use crate::sim::world::Process;

/// How an address begins that is a socket file.
const UNIX: &str = "unix:";
/// Connections the kernel holds for a listener before it refuses.
const BACKLOG: u32 = 1024;
/// How long an accept loop waits for descriptors to become free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Bytes in flight each way in a [`pair`].
const PAIR_CAPACITY: usize = 1 << 20;

/// Opens and accepts byte streams.
#[derive(Clone)]
pub struct Net {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Real,
    Simulated(Rc<Process>),
}

/// Why a stream or a listener could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// Nobody answers at the address: try later or elsewhere.
    #[error("cannot connect to {addr}")]
    Connect {
        /// What was asked for.
        addr: String,
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on: a mistake of configuration, or still in use.
    #[error("cannot listen on {addr}")]
    Listen {
        /// What was asked for.
        addr: String,
        #[source]
        source: io::Error,
    },
    /// The listener is broken: listen again or stop.
    #[error("cannot accept on {addr}")]
    Accept {
        /// Where it listens.
        addr: String,
        #[source]
        source: io::Error,
    },
}

/// Waits for streams from others.
pub struct Listener {
    kind: ListenerKind,
    local: String,
}

enum ListenerKind {
    Tcp(TcpListener),
    Local {
        listener: UnixListener,
        /// Removes the socket file when it is dropped.
        _file: LocalListener,
    },
    Simulated(SimListener),
}

/// A stream of bytes both ways. Dropping it closes both.
pub struct Stream {
    pub(crate) kind: StreamKind,
    pub(crate) peer: String,
    pub(crate) local: String,
}

pub(crate) enum StreamKind {
    Tcp(TcpStream),
    Local(UnixStream),
    Tls(Box<tokio_rustls::TlsStream<Stream>>),
    Memory(DuplexStream),
    Simulated(SimStream),
}

impl Net {
    pub(crate) fn real() -> Net {
        Net { kind: Kind::Real }
    }

    pub(crate) fn simulated(process: Rc<Process>) -> Net {
        Net { kind: Kind::Simulated(process) }
    }

    /// Listens on `addr` ("host:port"; port 0 lets the system choose, see [`Listener::local_addr`]; or
    /// "unix:PATH", a socket file for programs of this machine).
    pub async fn listen(&self, addr: &str) -> Result<Listener, NetError> {
        match &self.kind {
            Kind::Real => {
                let failed = |source| NetError::Listen { addr: addr.to_owned(), source };
                if let Some(path) = addr.strip_prefix(UNIX) {
                    let file = local_socket::listen(Path::new(path)).map_err(failed)?;
                    let system = file.try_clone().map_err(failed)?;
                    system.set_nonblocking(true).map_err(failed)?;
                    let listener = UnixListener::from_std(system).map_err(failed)?;
                    return Ok(Listener {
                        kind: ListenerKind::Local { listener, _file: file },
                        local: addr.to_owned(),
                    });
                }
                let (socket, target) = socket_for(addr).await.map_err(failed)?;
                let listener = listen_tcp(socket, target).map_err(failed)?;
                let local = listener.local_addr().map_err(failed)?.to_string();
                Ok(Listener { kind: ListenerKind::Tcp(listener), local })
            }
            Kind::Simulated(process) => {
                let (listener, local) = stream::listen(process, addr).await?;
                Ok(Listener { kind: ListenerKind::Simulated(listener), local })
            }
        }
    }

    /// Listens on the socket file `path` for programs of this machine. A file that a dead process left behind is
    /// replaced. The listener is the system's own, because programs of one machine pass descriptors.
    ///
    /// # Errors
    /// `AddrInUse`: somebody listens there, or the file is no socket. `Unsupported`: the machine is simulated.
    pub fn listen_local(&self, path: &Path) -> io::Result<LocalListener> {
        match &self.kind {
            Kind::Real => local_socket::listen(path),
            Kind::Simulated(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated machine has no files")),
        }
    }

    /// Connects to `addr` ("host:port"). Waits as long as the system does: put a timeout around it.
    pub async fn connect(&self, addr: &str) -> Result<Stream, NetError> {
        match &self.kind {
            Kind::Real => {
                let failed = |source| NetError::Connect { addr: addr.to_owned(), source };
                let (socket, target) = socket_for(addr).await.map_err(failed)?;
                let stream = socket.connect(target).await.map_err(failed)?;
                Stream::tcp(stream).map_err(failed)
            }
            Kind::Simulated(process) => Ok(stream::connect(process, addr).await?.into_stream()),
        }
    }
}

impl Listener {
    /// The next stream. Waits through a lack of file descriptors or memory and through peers that gave up.
    pub async fn accept(&self) -> Result<Stream, NetError> {
        match &self.kind {
            ListenerKind::Simulated(listener) => std::future::poll_fn(|cx| listener.poll_accept(cx)).await,
            ListenerKind::Tcp(listener) => loop {
                match listener.accept().await {
                    // If it cannot be set up, the peer has gone again.
                    Ok((stream, _)) => match Stream::tcp(stream) {
                        Ok(stream) => return Ok(stream),
                        Err(_) => continue,
                    },
                    Err(failure) => self.survive(failure).await?,
                }
            },
            ListenerKind::Local { listener, .. } => loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let kind = StreamKind::Local(stream);
                        return Ok(Stream { kind, peer: "local".to_owned(), local: self.local.clone() });
                    }
                    Err(failure) => self.survive(failure).await?,
                }
            },
        }
    }

    /// Waits through a failure to accept that passes.
    async fn survive(&self, failure: io::Error) -> Result<(), NetError> {
        match failure.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                tracing::warn!(addr = self.local, "cannot accept for now: {failure}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Ok(())
            }
            Some(
                libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EINTR,
            ) => Ok(()),
            _ => Err(NetError::Accept { addr: self.local.clone(), source: failure }),
        }
    }

    /// The address it listens on, with the port that was chosen.
    pub fn local_addr(&self) -> String {
        self.local.clone()
    }
}

impl Stream {
    fn tcp(stream: TcpStream) -> io::Result<Stream> {
        stream.set_nodelay(true)?;
        resend_soon(&stream);
        let peer = stream.peer_addr()?.to_string();
        let local = stream.local_addr()?.to_string();
        Ok(Stream { kind: StreamKind::Tcp(stream), peer, local })
    }

    /// Address of the other end.
    pub fn peer_addr(&self) -> String {
        self.peer.clone()
    }

    /// Address of this end.
    pub fn local_addr(&self) -> String {
        self.local.clone()
    }
}

/// Two ends of a stream inside this process, for tests and for parts that share a process.
pub fn pair(platform: &Platform) -> (Stream, Stream) {
    // Memory needs no machine; the handle is asked for so that a later kind of pair may use it.
    let _ = platform;
    let (one, two) = tokio::io::duplex(PAIR_CAPACITY);
    let end = |kind| Stream { kind: StreamKind::Memory(kind), peer: "memory".to_owned(), local: "memory".to_owned() };
    (end(one), end(two))
}

/// Has a connection with little under way send lost packets again in even steps. The usual way, each
/// pause twice the one before, makes a few losses in a row stand still for seconds, longer than an
/// election (tcp(7), `tcp_thin_linear_timeouts`).
fn resend_soon(stream: &TcpStream) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open while `stream` lives, and the option is read from `on` alone.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_THIN_LINEAR_TIMEOUTS,
            std::ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "lost packets are sent again in growing steps");
    }
}

async fn socket_for(addr: &str) -> io::Result<(TcpSocket, SocketAddr)> {
    let target = match addr.parse::<SocketAddr>() {
        Ok(target) => target,
        Err(_) => tokio::net::lookup_host(addr)
            .await?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?,
    };
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    Ok((socket, target))
}

fn listen_tcp(socket: TcpSocket, target: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuseaddr(true)?;
    socket.bind(target)?;
    socket.listen(BACKLOG)
}

/// Calls the same method on whichever stream lies inside.
macro_rules! inside {
    ($self:expr, $inner:ident => $call:expr, $simulated:ident => $otherwise:expr) => {
        match &mut $self.get_mut().kind {
            StreamKind::Tcp($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            StreamKind::Local($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            StreamKind::Tls($inner) => {
                let $inner = Pin::new($inner.as_mut());
                $call
            }
            StreamKind::Memory($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            StreamKind::Simulated($simulated) => $otherwise,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        inside!(self, stream => stream.poll_read(cx, out), simulated => simulated.poll_read(cx, out))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inside!(self,
            stream => stream.poll_write(cx, bytes),
            simulated => simulated.poll_write(cx, &[IoSlice::new(bytes)]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inside!(self,
            stream => stream.poll_write_vectored(cx, parts),
            simulated => simulated.poll_write(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            StreamKind::Tcp(stream) => stream.is_write_vectored(),
            StreamKind::Local(stream) => stream.is_write_vectored(),
            StreamKind::Tls(stream) => stream.is_write_vectored(),
            StreamKind::Memory(stream) => stream.is_write_vectored(),
            StreamKind::Simulated(_) => true,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self, stream => stream.poll_flush(cx), _simulated => Poll::Ready(Ok(())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self, stream => stream.poll_shutdown(cx), simulated => simulated.poll_shutdown())
    }
}
