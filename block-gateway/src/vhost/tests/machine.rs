//! A process that serves a device: a thread with a reactor of its own, which can be stopped or killed.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::disk::Disk;
use crate::vhost::{Options, Server};

enum End {
    Stop,
    Death,
}

pub struct Machine {
    path: PathBuf,
    end: oneshot::Sender<End>,
    thread: JoinHandle<()>,
}

/// The path of a socket that no other test has.
pub fn socket_path() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("bixi-vhost-{}-{number}", std::process::id()))
}

impl Machine {
    /// Serves four queues under the name "volume".
    pub fn start(disk: &Disk) -> Machine {
        Machine::start_at(disk, socket_path())
    }

    #[expect(clippy::disallowed_methods, reason = "the guest has to run beside the process that serves it")]
    pub fn start_at(disk: &Disk, path: PathBuf) -> Machine {
        let (end, ended) = oneshot::channel();
        let (ready, listens) = mpsc::channel();
        let (disk, socket) = (disk.clone(), path.clone());
        let thread = std::thread::spawn(move || {
            platform::run(|platform| async move {
                let options = Options { queues: 4, ..Options::new("volume") };
                let server = Server::start(&platform, &socket, Rc::new(disk), &options).unwrap();
                ready.send(()).unwrap();
                match ended.await {
                    Ok(End::Stop) => server.stop().await.unwrap(),
                    // What is under way is forgotten with the reactor.
                    Ok(End::Death) | Err(_) => {}
                }
            });
        });
        listens.recv().unwrap();
        Machine { path, end, thread }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers what is under way and ends.
    pub fn stop(self) {
        assert!(self.end.send(End::Stop).is_ok());
        self.thread.join().unwrap();
    }

    /// Ends at once; returns the path.
    pub fn die(self) -> PathBuf {
        assert!(self.end.send(End::Death).is_ok());
        self.thread.join().unwrap();
        // The session's thread ends by itself: its socket file is the last that it leaves.
        while self.path.exists() {
            std::thread::yield_now();
        }
        self.path
    }
}
