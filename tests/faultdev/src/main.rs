//! Disks that fail on demand and record what was written to them.
//!
//! A FUSE file system of a few files `disk0`, `disk1`...; `losetup` and a real file system go on
//! top (tests/faults/devices.py). Everything that the kernel writes or flushes passes here, also
//! what came by O_DIRECT and io_uring.
//!
//! ```text
//! bixi -> ext4 or XFS -> loop device -> FUSE -> this program -> backing file
//!                                                   |--> stream of writes, flushes and marks
//! ```
//!
//!     faultdev MOUNTPOINT BACKING-DIRECTORY COUNT BYTES-OF-A-DISK
//!
//! Serves until it is unmounted (`fusermount3 -u`). Commands come over the Unix socket
//! `BACKING-DIRECTORY/control`, see `control.rs`; the stream lies in `BACKING-DIRECTORY/stream`, see
//! `stream.rs`.
//!
//! What it leaves to others: making crash images out of a stream (tests/faults/power_cut.py).

// A program of the top floor: its disks, threads and delays are what it is for.
#![allow(clippy::disallowed_methods)]

mod control;
mod disk;
mod files;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use fuser::{Config, MountOption};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mountpoint, backing, count, len] = arguments.as_slice() else {
        eprintln!("usage: faultdev MOUNTPOINT BACKING-DIRECTORY COUNT BYTES-OF-A-DISK");
        std::process::exit(2);
    };
    let backing = PathBuf::from(backing);
    let count: u8 = count.parse().expect("COUNT is a small number");
    let len: u64 = len.parse().expect("BYTES-OF-A-DISK is a number");
    let stream = Arc::new(stream::Stream::create(&backing.join("stream")).expect("the stream can be made"));
    let disks: Vec<_> = (0..count)
        .map(|index| disk::Disk::create(index, &backing, len, Arc::clone(&stream)).expect("a disk can be made"))
        .collect();
    let disks = Arc::new(disks);
    control::listen(&backing.join("control"), Arc::clone(&disks), stream).expect("the control socket can be made");
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("faultdev".to_owned()), MountOption::RW];
    fuser::mount(files::Files::new(disks, len), mountpoint, &config).expect("it can be mounted");
}
