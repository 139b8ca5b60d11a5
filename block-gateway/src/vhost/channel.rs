//! The channel on which the device speaks first: "the configuration has changed".
//!
//! The crate `vhost` 0.18 takes the channel's descriptor for itself and cannot send this message, so the
//! message that brings the descriptor is taken from the connection before the crate sees it. All messages:
//! `u32` request, `u32` flags, `u32` bytes that follow, in the machine's order.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vhost::vhost_user::message::{BackendReq, FrontendReq};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const HEADER_LEN: usize = 12;
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// A way to the frontend.
pub struct Channel(UnixStream);

impl Channel {
    /// Takes the next message from the connection if it brings a channel.
    ///
    /// # Errors
    /// The connection is broken; the message brings none.
    pub fn receive(connection: &UnixStream) -> io::Result<Option<Channel>> {
        let (mut header, seen) = peek(connection)?;
        if seen < HEADER_LEN || word(&header, 0) != u32::from(FrontendReq::SET_BACKEND_REQ_FD) {
            return Ok(None);
        }
        let broken = |text| io::Error::new(io::ErrorKind::InvalidData, text);
        let (len, file) =
            connection.recv_with_fd(&mut header).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        let file = file.ok_or_else(|| broken("a channel without its descriptor"))?;
        if len != HEADER_LEN || word(&header, 8) != 0 {
            return Err(broken("a channel with something behind it"));
        }
        if word(&header, 4) & NEED_REPLY != 0 {
            let mut reply = message(FrontendReq::SET_BACKEND_REQ_FD.into(), REPLY, 8).to_vec();
            reply.extend_from_slice(&0u64.to_ne_bytes());
            let mut connection = connection;
            connection.write_all(&reply)?;
        }
        let stream = UnixStream::from(OwnedFd::from(file));
        stream.set_nonblocking(true)?;
        Ok(Some(Channel(stream)))
    }

    /// Has the frontend read the configuration again.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn config_changed(&mut self) -> io::Result<()> {
        self.0.write_all(&message(BackendReq::CONFIG_CHANGE_MSG.into(), 0, 0))
    }
}

/// What a look at the next message shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Its header, or the end of the connection.
    Whole,
    /// A part of its header, or there is no room for the answer to it.
    Part,
    /// Nothing.
    Nothing,
}

/// Looks at the next message without taking anything. The crate `vhost` waits for the rest of a header, and
/// for room for its answers, without an end, so it may only be called for what is [`Next::Whole`].
///
/// # Errors
/// The connection is broken.
pub fn look(connection: &UnixStream) -> io::Result<Next> {
    let seen = match peek(connection) {
        Ok((_, seen)) => seen,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            return Ok(Next::Nothing);
        }
        Err(error) => return Err(error),
    };
    if seen == 0 {
        return Ok(Next::Whole);
    }
    let mut poll = libc::pollfd { fd: connection.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry, which lives until the call returns. Writable is a socket with three quarters of its
    // buffer free, far more than an answer takes.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    Ok(if seen == HEADER_LEN && ready == 1 { Next::Whole } else { Next::Part })
}

/// The first bytes of the next message, and how many there are; none: the connection has ended.
fn peek(connection: &UnixStream) -> io::Result<([u8; HEADER_LEN], usize)> {
    let mut header = [0; HEADER_LEN];
    // SAFETY: the descriptor is open while `connection` lives, and the buffer has the length that is told.
    let seen = unsafe {
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        libc::recv(connection.as_raw_fd(), header.as_mut_ptr().cast(), HEADER_LEN, flags)
    };
    usize::try_from(seen).map(|seen| (header, seen)).map_err(|_| io::Error::last_os_error())
}

fn message(request: u32, flags: u32, len: u32) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    for (place, number) in header.chunks_exact_mut(4).zip([request, VERSION | flags, len]) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    header
}

fn word(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"))
}
