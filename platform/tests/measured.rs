//! Figures of the real disk engines on the machine at hand: printed, not judged.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use platform::Platform;
use platform::buffer::{BLOCK, Buffer};
use platform::disk::real::{Engine, open};
use platform::disk::{File, Open};

/// Blocks of the file that is worked on.
const BLOCKS: u64 = 16 * 1024;

#[test]
fn disk_engines_are_measured() {
    for engine in [Engine::Uring, Engine::Plain] {
        let path = std::env::temp_dir().join(format!("bixi-platform-measured-{}", std::process::id()));
        platform::run(|platform| {
            let path = path.clone();
            async move {
                let disk = open(&platform, &path, engine).unwrap();
                let file = disk.open("file", Open::CreateNew).await.unwrap();
                file.set_len(BLOCKS * BLOCK as u64).await.unwrap();
                for block in (0..BLOCKS).step_by(256) {
                    file.write_at(block * BLOCK as u64, vec![Buffer::zeroed(256 * BLOCK).freeze()]).await.unwrap();
                }
                file.flush().await.unwrap();
                measure(&platform, engine, &file).await;
            }
        });
        std::fs::remove_dir_all(&path).unwrap();
    }
}

async fn measure(platform: &Platform, engine: Engine, file: &File) {
    let page = Buffer::zeroed(BLOCK).freeze();
    let mut times = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        file.write_at(platform.random().below(BLOCKS) * BLOCK as u64, vec![page.clone()]).await.unwrap();
        file.flush().await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!("{engine:?}: 4K write+flush p50 {:?} p99 {:?}", times[500], times[990]);
    let mut times = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        let at = platform.random().below(BLOCKS) * BLOCK as u64;
        file.write_durable_at(at, vec![page.clone()]).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!("{engine:?}: 4K durable write p50 {:?} p99 {:?}", times[500], times[990]);
    let mut times = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        file.read_at(platform.random().below(BLOCKS) * BLOCK as u64, BLOCK).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!("{engine:?}: 4K read QD1 p50 {:?} p99 {:?}", times[500], times[990]);
    for (what, kind, depth, len) in [
        ("4K write QD32", Kind::Write, 32, BLOCK),
        ("4K read QD32", Kind::Read, 32, BLOCK),
        ("4K write+flush QD32, each its own flush", Kind::WriteFlush, 32, BLOCK),
        ("4K durable write QD32", Kind::WriteDurable, 32, BLOCK),
        ("1M write QD8", Kind::Write, 8, 1 << 20),
        ("1M read QD8", Kind::Read, 8, 1 << 20),
    ] {
        let (count, took, cpu) = load(platform, file, kind, depth, len).await;
        let rate = count as f64 / took.as_secs_f64();
        let cpu_us = cpu.as_secs_f64() * 1e6 / count as f64;
        println!("{engine:?}: {what}: {rate:.0}/s, {:.2} GB/s, {cpu_us:.1} us CPU each", rate * len as f64 / 1e9);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    WriteFlush,
    WriteDurable,
}

/// `depth` tasks for a short while; how many operations, how long, how much CPU of the process.
async fn load(platform: &Platform, file: &File, kind: Kind, depth: usize, len: usize) -> (u64, Duration, Duration) {
    let bytes: Bytes = Buffer::zeroed(len).freeze();
    let (start, cpu_start) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..depth)
        .map(|_| {
            let (file, bytes, random) = (file.clone(), bytes.clone(), platform.random().clone());
            platform.tasks().spawn(async move {
                let mut count = 0u64;
                while start.elapsed() < Duration::from_millis(150) {
                    let at = random.below(BLOCKS * BLOCK as u64 / len as u64) * len as u64;
                    match kind {
                        Kind::Read => drop(file.read_at(at, len).await.unwrap()),
                        Kind::WriteDurable => file.write_durable_at(at, vec![bytes.clone()]).await.unwrap(),
                        Kind::Write | Kind::WriteFlush => file.write_at(at, vec![bytes.clone()]).await.unwrap(),
                    }
                    if matches!(kind, Kind::WriteFlush) {
                        file.flush().await.unwrap();
                    }
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    (count, start.elapsed(), cpu() - cpu_start)
}

fn cpu() -> Duration {
    // SAFETY: an all-zero rusage is a valid one, and the call fills it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: usage outlives the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let part =
        |time: libc::timeval| Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64);
    part(usage.ru_utime) + part(usage.ru_stime)
}
