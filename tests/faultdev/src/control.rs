//! Commands over a Unix socket, a line each, each answered by a line:
//!
//! ```text
//! record on | record off          the stream; off when it lies in the file
//! mark TEXT                       a mark in the stream
//! fail DISK read|write|flush N    the next N of them fail with EIO; N = all: every one
//! delay DISK MILLISECONDS         each operation takes that much longer
//! freeze DISK | thaw DISK         nothing is answered in between
//! heal DISK                       no fault any more
//! failed DISK                     how many operations were failed so far
//! ```

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Disk, Faults};
use crate::stream::Stream;

/// Serves commands from threads of its own.
pub fn listen(path: &Path, disks: Arc<Vec<Disk>>, stream: Arc<Stream>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (disks, stream) = (Arc::clone(&disks), Arc::clone(&stream));
            // A client that goes away in the middle ends its own connection only.
            std::thread::spawn(move || {
                let _ = serve(connection, &disks, &stream);
            });
        }
    });
    Ok(())
}

fn serve(connection: UnixStream, disks: &[Disk], stream: &Stream) -> io::Result<()> {
    let mut out = connection.try_clone()?;
    for line in BufReader::new(connection).lines() {
        let answer = match carry_out(&line?, disks, stream) {
            Some(answer) => answer?,
            None => "unknown command".to_owned(),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn carry_out(line: &str, disks: &[Disk], stream: &Stream) -> Option<io::Result<String>> {
    let (command, rest) = line.split_once(' ')?;
    let ok = || Some(Ok("ok".to_owned()));
    match (command, rest) {
        ("record", "on") => {
            stream.switch_on();
            return ok();
        }
        ("record", "off") => return Some(stream.switch_off().map(|()| "ok".to_owned())),
        ("mark", text) => {
            return Some(stream.record(b'm', 0, 0, text.as_bytes(), || Ok("ok".to_owned())));
        }
        _ => {}
    }
    let words: Vec<&str> = rest.split(' ').collect();
    let disk = disks.get(words.first()?.parse::<usize>().ok()?)?;
    match (command, &words[1..]) {
        ("fail", [what, count]) => {
            let count = if *count == "all" { u64::MAX } else { count.parse().ok()? };
            disk.with_faults(|faults| match *what {
                "read" => faults.reads = count,
                "write" => faults.writes = count,
                _ => faults.flushes = count,
            });
        }
        ("delay", [milliseconds]) => {
            let delay = Duration::from_millis(milliseconds.parse().ok()?);
            disk.with_faults(|faults| faults.delay = delay);
        }
        ("freeze", []) => disk.with_faults(|faults| faults.is_frozen = true),
        ("thaw", []) => disk.with_faults(|faults| faults.is_frozen = false),
        ("heal", []) => disk.with_faults(|faults| *faults = Faults { failed: faults.failed, ..Faults::default() }),
        ("failed", []) => return Some(Ok(disk.with_faults(|faults| faults.failed).to_string())),
        _ => return None,
    }
    ok()
}
