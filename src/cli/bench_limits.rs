//! What this machine can do at best, measured right beside a bench, so that its figures can be
//! judged: flushed writes to the disk, and requests over loopback HTTP that do nothing.

use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use platform::Platform;
use platform::buffer::{BLOCK, Buffer};
use platform::disk::Open;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::lean::Lean;

/// Bytes of the file that is read from.
const READ_FILE_LEN: usize = 128 << 20;
/// Time of one measurement.
const WINDOW: Duration = Duration::from_millis(500);

/// Measures the limits of `concurrency` requests of `size` bytes. `disk` is a directory on the disk
/// in question; `upload` says which way the bytes go.
pub async fn measure(platform: &Platform, size: usize, concurrency: u32, disk: &Path, upload: bool) -> Value {
    let http = loopback(platform, size, concurrency, upload).await;
    let sync = if upload { Some(flushed_writes(platform, disk, size).await) } else { None };
    json!({
        "loopback_http_per_sec": http.map(f64::round),
        "disk_write_flush_per_sec": sync.flatten().map(f64::round),
        "disk_directory": disk.display().to_string(),
    })
}

/// Three writes of `size` bytes at once, each to a file of its own and flushed, one round after the other:
/// what three copies on this disk cost at least. Rounds a second.
pub async fn flushed_copies(platform: &Platform, directory: &Path, size: usize) -> Option<f64> {
    let path = directory.join(format!(".bixi-bench-{:016x}", platform.random().next_u64()));
    let disk = platform.open_disk(&path).ok()?;
    let names = ["one", "two", "three"];
    let opened = join_all(names.map(|name| disk.open(name, Open::CreateNew))).await;
    for name in names {
        // Unlinked at once, so nothing stays behind however this ends.
        let _ = disk.remove(name).await;
    }
    drop(disk);
    let _ = std::fs::remove_dir(&path);
    let files = opened.into_iter().collect::<Result<Vec<_>, _>>().ok()?;
    let len = size.max(1).next_multiple_of(BLOCK);
    let mut noise = Buffer::zeroed(len);
    platform.random().fill(&mut noise);
    let (clock, noise, mut rounds) = (platform.clock(), noise.freeze(), 0u32);
    let start = clock.now();
    while clock.now().saturating_since(start) < WINDOW {
        let at = u64::from(rounds) * len as u64;
        let round = files.iter().map(|file| async {
            file.write_at(at, vec![noise.clone()]).await?;
            file.flush().await
        });
        join_all(round).await.into_iter().collect::<Result<(), _>>().ok()?;
        rounds += 1;
    }
    Some(f64::from(rounds) / clock.now().saturating_since(start).as_secs_f64())
}

/// Writes of `size` bytes, each flushed, one after the other, to a file that is removed again.
async fn flushed_writes(platform: &Platform, directory: &Path, size: usize) -> Option<f64> {
    let path: PathBuf = directory.join(format!(".bixi-bench-{:016x}", platform.random().next_u64()));
    let clock = platform.clock();
    let mut file = std::fs::File::create(&path).ok()?;
    // Unlinked at once, so nothing stays behind however this ends.
    std::fs::remove_file(&path).ok()?;
    let start = clock.now();
    let mut count = 0u32;
    while clock.now().saturating_since(start) < WINDOW {
        let job = platform.lane().run(move || {
            let result = file.write_all(&vec![0x5a; size.max(1)]).and_then(|()| file.sync_data());
            result.map(|()| file)
        });
        file = job.await.ok()?;
        count += 1;
    }
    Some(f64::from(count) / clock.now().saturating_since(start).as_secs_f64())
}

/// Reads a second of `size` bytes past the page cache, `depth` at once, from a file of its own that
/// is removed again.
pub async fn direct_reads(platform: &Platform, directory: &Path, size: usize, depth: u32) -> Option<f64> {
    let path = directory.join(format!(".bixi-bench-{:016x}", platform.random().next_u64()));
    let disk = platform.open_disk(&path).ok()?;
    let opened = disk.open("scratch", Open::CreateNew).await;
    // Unlinked at once, so nothing stays behind however this ends.
    let _ = disk.remove("scratch").await;
    drop(disk);
    let _ = std::fs::remove_dir(&path);
    let file = opened.ok()?;
    let len = size.max(1).next_multiple_of(BLOCK);
    let places = (READ_FILE_LEN / len).max(1);
    for place in 0..places {
        let mut noise = Buffer::zeroed(len);
        platform.random().fill(&mut noise);
        file.write_at((place * len) as u64, vec![noise.freeze()]).await.ok()?;
    }
    file.flush().await.ok()?;
    let (clock, count) = (platform.clock(), Cell::new(0u64));
    let start = clock.now();
    let readers = (0..depth).map(|_| async {
        while clock.now().saturating_since(start) < WINDOW {
            let place = platform.random().below(places as u64);
            file.read_at(place * len as u64, len).await.ok()?;
            count.set(count.get() + 1);
        }
        Some(())
    });
    join_all(readers).await.into_iter().collect::<Option<()>>()?;
    Some(count.get() as f64 / clock.now().saturating_since(start).as_secs_f64())
}

/// Requests a second against a server in this process that reads and answers without thought.
async fn loopback(platform: &Platform, size: usize, concurrency: u32, upload: bool) -> Option<f64> {
    let listener = platform.net().listen("127.0.0.1:0").await.ok()?;
    let addr = listener.local_addr().to_owned();
    let (request_len, answer_len) = if upload { (size, 0) } else { (0, size) };
    let tasks = platform.tasks().clone();
    let echo_tasks = tasks.clone();
    let echo = tasks.spawn(async move {
        while let Ok(stream) = listener.accept().await {
            echo_tasks.spawn(echo(stream, request_len, answer_len)).detach();
        }
    });
    let head = Bytes::from(format!("PUT / HTTP/1.1\r\nhost: {addr}\r\ncontent-length: {request_len}\r\n\r\n"));
    let body = Bytes::from(vec![0x5a; request_len]);
    let count = Rc::new(Cell::new(0u64));
    let start = platform.clock().now();
    let workers = (0..concurrency).map(|_| {
        let (platform, addr, head, body, count) =
            (platform.clone(), addr.clone(), head.clone(), body.clone(), count.clone());
        async move {
            let Ok(mut lean) = Lean::open(&platform, &addr).await else { return };
            while platform.clock().now().saturating_since(start) < WINDOW {
                if lean.exchange(&head, &body, |_| {}).await.is_err() {
                    return;
                }
                count.set(count.get() + 1);
            }
        }
    });
    join_all(workers).await;
    echo.abort();
    Some(count.get() as f64 / platform.clock().now().saturating_since(start).as_secs_f64())
}

/// Answers requests of one known length until the client goes.
async fn echo(mut stream: platform::net::Stream, request_len: usize, answer_len: usize) {
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {answer_len}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + answer_len, 0x5a);
    let mut buffer = vec![0; 64 << 10];
    let mut pending: Vec<u8> = Vec::new();
    loop {
        // The head is small and comes whole or in two pieces; the body is counted, not kept.
        let end = loop {
            if let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut buffer).await {
                Ok(len) if len > 0 => pending.extend_from_slice(&buffer[..len]),
                _ => return,
            }
        };
        let mut left = request_len.saturating_sub(pending.len() - end);
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(len) if len > 0 => left = left.saturating_sub(len),
                _ => return,
            }
        }
        pending.clear();
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}
