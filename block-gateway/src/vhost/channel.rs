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
        let mut header = [0; HEADER_LEN];
        // SAFETY: the descriptor is open while `connection` lives, and the buffer has the length that is told.
        let seen = unsafe {
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            libc::recv(connection.as_raw_fd(), header.as_mut_ptr().cast(), HEADER_LEN, flags)
        };
        let is_channel = seen == HEADER_LEN as isize && word(&header, 0) == u32::from(FrontendReq::SET_BACKEND_REQ_FD);
        if !is_channel {
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
