//! A volume as a disk in a virtual machine: the device half of virtio-blk, spoken over vhost-user.
//!
//! ```text
//!  guest --kick--> session's thread --channel--> reactor: Device --used ring, call--> guest
//!                       ^
//!  frontend (QEMU) --messages, memory, descriptors
//! ```
//!
//! [`worker`] is the thread, with the [`session`] that messages change; a [`ring`] yields [`chain`]s, which
//! become [`request`]s; [`perform`] carries them out; [`inflight`] remembers them beyond this process. So a
//! request wakes two threads on its way in and none on its way out.
//!
//! Invariants: the guest is not believed, whatever lies in its memory; the frontend is a program of this
//! machine that is believed not to shrink the memory it shares. What is answered is durable, so a flush only
//! asks whether the device is still ours. All bytes under way are bounded by `shared`.

mod chain;
mod channel;
mod inflight;
mod memory;
mod perform;
mod request;
mod ring;
mod session;
mod shared;
mod wire;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use platform::Platform;
use tokio::sync::{mpsc, oneshot};

use crate::device::Device;
use request::Terms;
use shared::Shared;
use worker::Worker;

/// Queues of which a frontend may use as many as it likes. QEMU asks for one per processor of the guest, and
/// refuses a device that has fewer.
pub const QUEUES: u16 = 16;

/// How a device looks to its guest.
#[derive(Clone, Debug)]
pub struct Options {
    /// Queues that a frontend may use at most; 1 to 256.
    pub queues: u16,
    /// What the guest is told as the disk's serial number: the first 20 bytes.
    pub serial: String,
    /// Nothing may be changed, even if the device could.
    pub read_only: bool,
}

impl Options {
    /// As many queues as frontends ask for, and everything that the device allows.
    pub fn new(serial: &str) -> Options {
        Options { queues: QUEUES, serial: serial.to_owned(), read_only: false }
    }
}

/// A device that is served. Dropping it stops it without waiting.
pub struct Server {
    shared: Arc<Shared>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Server {
    /// Serves `device` on the socket file `socket`, to one frontend at a time; the socket listens when this
    /// returns.
    ///
    /// # Errors
    /// `AddrInUse`: somebody listens there, or the file is no socket. `InvalidInput`: queues that cannot be.
    /// The system refuses a descriptor or a thread.
    pub fn start(platform: &Platform, socket: &Path, device: Rc<dyn Device>, options: &Options) -> io::Result<Server> {
        if !(1..=256).contains(&options.queues) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} queues", options.queues)));
        }
        let shared = Arc::new(Shared::new(device.size())?);
        let mut terms = Terms { id: [0; wire::ID_LEN], is_read_only: options.read_only || device.is_read_only() };
        terms.id.iter_mut().zip(options.serial.bytes()).for_each(|(place, byte)| *place = byte);
        let (requests, queue) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let worker = Worker {
            listener: platform.net().listen_local(socket)?,
            shared: Arc::clone(&shared),
            terms: Arc::new(terms),
            queues: options.queues,
            requests,
        };
        // Who dropped the server does not want to know how it ended.
        platform.lane().start_thread("vhost-user", move || _ = end.send(worker.run()))?;
        platform.tasks().spawn(perform::watch(platform.clone(), Rc::downgrade(&device), Arc::clone(&shared)));
        platform.tasks().spawn(perform::run(platform.clone(), device, queue));
        Ok(Server { shared, ended })
    }

    /// Waits for the end, which comes only with an error or from [`Server::stop`].
    ///
    /// # Errors
    /// The system refused what is needed to wait for frontends.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or(Ok(()))
    }

    /// Takes no more requests, waits until those under way are answered, hangs up and removes the socket.
    ///
    /// # Errors
    /// See [`Server::ended`].
    pub async fn stop(mut self) -> io::Result<()> {
        self.shared.stop();
        self.ended().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// [`Server::start`], then [`Server::ended`]; `ready` hears when the socket listens.
///
/// # Errors
/// See both.
pub async fn serve(
    platform: Platform,
    socket: &Path,
    device: Rc<dyn Device>,
    options: Options,
    ready: oneshot::Sender<()>,
) -> io::Result<()> {
    let mut server = Server::start(&platform, socket, device, &options)?;
    // Who does not wait for it does not hear it.
    let _ = ready.send(());
    server.ended().await
}
