//! `bixi bench disk DIR`: what this machine can do at best, through the same layers as the server.
//!
//! Measures the disk below a directory, a call inside the process and over loopback TCP, and the
//! coders of one core, one after the other, each for a fraction of a second. Every figure of Bixi
//! is to be read beside these: nothing can be faster than its parts.
//!
//! The scratch files are unlinked as soon as they are open, so that nothing stays behind, however
//! the command ends. What it leaves to others: judging, and load on a running server (`bench s3`).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use crypto::hash::{md5, sha256};
use crypto::md5_lanes::{Job, Stream, update_all};
use erasure::{Coder, ErasureError};
use futures_util::FutureExt;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use platform::Platform;
use platform::buffer::{BLOCK, Buffer};
use platform::clock::{Clock, Instant};
use platform::disk::{Disk, DiskError, File, Open};
use platform::net::NetError;
use platform::tls::MutualTls;
use proto::chunk::{Append, ShardName};
use proto::roles::{Roles, member_name};
use proto::service::{Answer, Done, Request};
use rpc::budget::Budget;
use rpc::call::{CallError, Handler, Reply};
use rpc::peers::Peers;
use rpc::server::{ServerConfig, serve};
use types::checksum::crc64;
use types::ids::{ClusterId, StoreId};
use types::size::format_size;

use crate::node::certificates::Authority;

/// Time of one measurement of the disk or the network.
const WINDOW: Duration = Duration::from_millis(600);
/// Time of one of the five windows of a coder.
const CODER_WINDOW: Duration = Duration::from_millis(30);
/// Bytes of the file that is worked on, if the disk writes them in [`FILL_TIME`].
const FILE_LEN: u64 = 256 << 20;
/// The longest time spent on writing the file before the measurements.
const FILL_TIME: Duration = Duration::from_millis(1500);
/// Bytes of each of the three small files of the replicated write.
const COPY_LEN: u64 = 4 << 20;
const MIB: usize = 1 << 20;
/// Bytes of a shard given to the coders.
const SHARD_LEN: usize = 64 << 10;
/// The longest latency told apart, nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const LOCAL: &str = "local";

/// Why the machine could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchDiskError {
    /// The directory is absent: name one on the disk to be measured.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// What was named.
        path: PathBuf,
    },
    /// Not enough room for the scratch files: free some.
    #[error("{} has {} free, {} are needed", path.display(), format_size(*available), format_size(*needed))]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// Bytes free.
        available: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The disk failed under the measurement.
    #[error("the disk could not be measured")]
    Disk(#[from] DiskError),
    /// No certificates for the measurement.
    #[error("mutual TLS could not be set up: {0}")]
    Tls(String),
    /// Loopback cannot be listened on.
    #[error("loopback could not be measured")]
    Net(#[from] NetError),
    /// A call over loopback failed.
    #[error("calls could not be measured")]
    Call(#[from] CallError),
    /// The coders refused their own shapes.
    #[error("erasure coding could not be measured")]
    Erasure(#[from] ErasureError),
    /// The scratch directory could not be removed, or the output not be written.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// One line of the result.
struct Figure {
    name: &'static str,
    /// Operations a second; 0 for the coders.
    per_sec: f64,
    /// Median and 99th percentile of an operation in microseconds; `None` where only rate counts.
    latency_us: Option<(f64, f64)>,
    /// Bytes a second.
    bytes_per_sec: f64,
}

/// Measures the disk that `dir` lies on and the machine around it (about 10 seconds, 270 MiB of
/// scratch), and prints a table, or JSON.
///
/// # Errors
/// See [`BenchDiskError`]. Nothing is left in `dir` in any case.
pub async fn run(platform: Platform, dir: &Path, json: bool) -> Result<(), BenchDiskError> {
    if !dir.is_dir() {
        return Err(BenchDiskError::NotADirectory { path: dir.to_owned() });
    }
    let scratch = Scratch::make(&platform, dir).await?;
    let mut figures = scratch.measure(&platform).await?;
    figures.extend(calls(&platform).await?);
    figures.extend(coders(platform.clock())?);
    let text = if json { as_json(dir, &figures) } else { as_table(dir, &figures) };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever closed the output has seen enough.
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(BenchDiskError::Io { what: "write the result", source })
        }
        _ => Ok(()),
    }
}

/// Unlinked files on the disk to be measured, written from end to end.
struct Scratch {
    file: File,
    blocks: u64,
    copies: Vec<File>,
}

impl Scratch {
    async fn make(platform: &Platform, dir: &Path) -> Result<Scratch, BenchDiskError> {
        let path = dir.join(format!("bixi-bench-{:016x}", platform.random().next_u64()));
        let disk = platform.open_disk(&path)?;
        let files = Scratch::open_all(&disk).await;
        drop(disk);
        let removed = std::fs::remove_dir(&path);
        let (file, copies) = files?;
        removed.map_err(|source| BenchDiskError::Io { what: "remove the scratch directory", source })?;
        let clock = platform.clock();
        let mut filled = 0;
        let deadline = clock.now() + FILL_TIME;
        while filled < FILE_LEN && (filled < FILE_LEN / 16 || clock.now() < deadline) {
            let writes = (0..8).map(|step| file.write_at(filled + step * MIB as u64, vec![noise(platform, MIB)]));
            join_all(writes).await.into_iter().collect::<Result<(), DiskError>>()?;
            filled += 8 * MIB as u64;
        }
        file.flush().await?;
        for copy in &copies {
            for at in (0..COPY_LEN).step_by(MIB) {
                copy.write_at(at, vec![noise(platform, MIB)]).await?;
            }
            copy.flush().await?;
        }
        Ok(Scratch { file, blocks: filled / BLOCK as u64, copies })
    }

    async fn open_all(disk: &Disk) -> Result<(File, Vec<File>), BenchDiskError> {
        let needed = FILE_LEN + 4 * COPY_LEN;
        let available = disk.space()?.available;
        if available < needed {
            return Err(BenchDiskError::NoRoom { path: disk.path().to_owned(), available, needed });
        }
        let mut files = Vec::new();
        for (name, len) in [("large", FILE_LEN), ("one", COPY_LEN), ("two", COPY_LEN), ("three", COPY_LEN)] {
            let file = disk.open(name, Open::CreateNew).await?;
            disk.remove(name).await?;
            file.set_len(len).await?;
            files.push(file);
        }
        let copies = files.split_off(1);
        Ok((files.remove(0), copies))
    }

    async fn measure(&self, platform: &Platform) -> Result<Vec<Figure>, BenchDiskError> {
        let page = noise(platform, BLOCK);
        let large = noise(platform, MIB);
        let at = |len: usize| platform.random().below(self.blocks * BLOCK as u64 / len as u64) * len as u64;
        let read = async |len: usize| self.file.read_at(at(len), len).await.map(drop);
        let write = async |bytes: &Bytes| self.file.write_at(at(bytes.len()), vec![bytes.clone()]).await;
        let write_flush = async || {
            write(&page).await?;
            self.file.flush().await
        };
        let write_durable = async || self.file.write_durable_at(at(BLOCK), vec![page.clone()]).await;
        let replicated = async || {
            let at = platform.random().below(COPY_LEN / BLOCK as u64) * BLOCK as u64;
            let writes = self.copies.iter().map(|copy| copy.write_durable_at(at, vec![page.clone()]));
            join_all(writes).await.into_iter().collect::<Result<(), DiskError>>()
        };
        let clock = platform.clock();
        Ok(vec![
            timed(clock, "4K random read, QD1", 1, BLOCK, async || read(BLOCK).await).await?,
            timed(clock, "4K random read, QD32", 32, BLOCK, async || read(BLOCK).await).await?,
            timed(clock, "4K random write, QD32", 32, BLOCK, async || write(&page).await).await?,
            timed(clock, "4K write + flush", 1, BLOCK, write_flush).await?,
            timed(clock, "4K write, durable (one trip)", 1, BLOCK, write_durable).await?,
            timed(clock, "three 4K durable writes at once", 1, 3 * BLOCK, replicated).await?,
            timed(clock, "1M write, QD8", 8, MIB, async || write(&large).await).await?,
            timed(clock, "1M read, QD8", 8, MIB, async || read(MIB).await).await?,
        ])
    }
}

/// Runs `depth` of `operation` beside each other until the window is over.
async fn timed<E>(
    clock: &Clock,
    name: &'static str,
    depth: usize,
    len: usize,
    operation: impl AsyncFn() -> Result<(), E>,
) -> Result<Figure, E> {
    let (start, operation) = (clock.now(), &operation);
    let histogram = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("bounds and digits fit");
    let histogram = RefCell::new(histogram);
    let runners = (0..depth).map(|_| async {
        while clock.now() < start + WINDOW {
            let begun = clock.now();
            operation().await?;
            let taken_ns = clock.now().saturating_since(begun).as_nanos() as u64;
            histogram.borrow_mut().saturating_record(taken_ns);
        }
        Ok(())
    });
    join_all(runners).await.into_iter().collect::<Result<(), E>>()?;
    let seconds = clock.now().saturating_since(start).as_secs_f64();
    let histogram = histogram.into_inner();
    let quantile = |q| histogram.value_at_quantile(q) as f64 / 1e3;
    let per_sec = histogram.len() as f64 / seconds;
    let latency_us = Some((quantile(0.5), quantile(0.99)));
    Ok(Figure { name, per_sec, latency_us, bytes_per_sec: per_sec * len as f64 })
}

/// Echoes of 4 KiB through the internal protocol, checks and authentication included.
async fn calls(platform: &Platform) -> Result<Vec<Figure>, BenchDiskError> {
    let cluster = ClusterId(platform.random().next_u64());
    let mut secret = vec![0; 32];
    platform.random().fill(&mut secret);
    let echo: Handler =
        Rc::new(|call| async move { Reply { answer: Answer::Data(Done {}), payload: call.payload } }.boxed_local());
    let peers = Peers::new(platform.clone(), cluster, secret.clone());
    peers.register_local(LOCAL, Rc::clone(&echo));
    let listener = platform.net().listen("127.0.0.1:0").await?;
    let remote = listener.local_addr();
    let config = ServerConfig { cluster, secret, tls: None, budget: Budget::new(64 * MIB), slow: CALL_TIMEOUT };
    let server = platform.tasks().spawn(serve(platform.clone(), listener, config.clone(), Rc::clone(&echo)));
    let (tls_config, tls_peers) = inside_tls(platform, cluster, config)?;
    let listener = platform.net().listen("127.0.0.1:0").await?;
    let tls_remote = listener.local_addr();
    let tls_server = platform.tasks().spawn(serve(platform.clone(), listener, tls_config, echo));
    let page = noise(platform, BLOCK);
    let call = async |peers: &Peers, address: &str| {
        let shard = ShardName { placement: 1, chunk: 1, index: 0 };
        let body = Request::Append(Append { shard, epoch: 1, offset: 0, reserve: false });
        let request = peers.new_request();
        peers.call(address, StoreId(0), request, body, page.clone(), CALL_TIMEOUT).await.map(drop)
    };
    let clock = platform.clock();
    let figures = vec![
        timed(clock, "4K call inside the process", 1, BLOCK, async || call(&peers, LOCAL).await).await?,
        timed(clock, "4K call over loopback, 1 at a time", 1, BLOCK, async || call(&peers, &remote).await).await?,
        timed(clock, "4K call over loopback, 16 at a time", 16, BLOCK, async || call(&peers, &remote).await).await?,
        timed(clock, "4K call inside mutual TLS, 1 at a time", 1, BLOCK, async || call(&tls_peers, &tls_remote).await)
            .await?,
        timed(clock, "4K call inside mutual TLS, 16 at a time", 16, BLOCK, async || {
            call(&tls_peers, &tls_remote).await
        })
        .await?,
    ];
    server.abort();
    tls_server.abort();
    Ok(figures)
}

/// The same ends as two processes of a cluster have them.
fn inside_tls(
    platform: &Platform,
    cluster: ClusterId,
    plain: ServerConfig,
) -> Result<(ServerConfig, Peers), BenchDiskError> {
    let failed = |error: &dyn std::fmt::Display| BenchDiskError::Tls(error.to_string());
    let authority = Authority::new(platform, cluster).map_err(|error| failed(&error))?;
    let member = |roles| {
        let made =
            authority.issue(platform, "bench", roles, 1, &authority.certificate).map_err(|error| failed(&error))?;
        let (ca, own, key) = (made.authorities.as_bytes(), made.certificate.as_bytes(), made.key.as_bytes());
        MutualTls::new(&member_name(cluster), ca, own, key).map_err(|error| failed(&error))
    };
    let peers = Peers::secured(platform.clone(), cluster, plain.secret.clone(), Some(member(Roles::GATEWAY)?));
    Ok((ServerConfig { tls: Some(member(Roles::CHUNK)?), ..plain }, peers))
}

/// Rates of one core on data that fits its cache.
fn coders(clock: &Clock) -> Result<Vec<Figure>, BenchDiskError> {
    let source = vec![0x5a; 8 * SHARD_LEN];
    let mut target = vec![0; source.len()];
    let mut figures = vec![
        rated(clock, "memcpy", source.len(), || black_box(&mut target).copy_from_slice(black_box(&source))),
        rated(clock, "CRC-64/NVME", source.len(), || crc64(black_box(&source))),
        rated(clock, "SHA-256", source.len(), || sha256(black_box(&source))),
        rated(clock, "MD5", source.len(), || md5(black_box(&source))),
        rated(clock, "MD5, 8 at once", source.len(), || {
            let pieces: Vec<[&[u8]; 1]> = black_box(&source).chunks(SHARD_LEN).map(|piece| [piece]).collect();
            let mut streams = vec![Stream::default(); pieces.len()];
            let jobs = streams.iter_mut().zip(&pieces);
            let mut jobs: Vec<Job<'_>> = jobs.map(|(stream, pieces)| Job { stream, pieces }).collect();
            update_all(&mut jobs);
            black_box(streams);
        }),
    ];
    for (name, data, parity) in [("erasure encode 4+2", 4, 2), ("erasure encode 8+3", 8, 3)] {
        let coder = Coder::new(data, parity)?;
        let inputs: Vec<&[u8]> = source.chunks(SHARD_LEN).take(data).collect();
        let mut outputs: Vec<&mut [u8]> = target.chunks_mut(SHARD_LEN).take(parity).collect();
        let mut outcome = Ok(());
        figures.push(rated(clock, name, data * SHARD_LEN, || {
            outcome = coder.encode(black_box(&inputs), black_box(&mut outputs));
        }));
        outcome?;
    }
    Ok(figures)
}

/// The median of five windows: neighbours on the machine disturb single ones.
fn rated<T>(clock: &Clock, name: &'static str, len: usize, mut work: impl FnMut() -> T) -> Figure {
    let mut window = || {
        let start = clock.now();
        let mut count = 0;
        let mut now: Instant = start;
        while now < start + CODER_WINDOW {
            black_box(work());
            count += 1;
            now = clock.now();
        }
        (count * len) as f64 / now.saturating_since(start).as_secs_f64()
    };
    let mut rates = [0.0; 5].map(|_: f64| window());
    rates.sort_by(f64::total_cmp);
    Figure { name, per_sec: rates[2] / len as f64, latency_us: None, bytes_per_sec: rates[2] }
}

/// Bytes that no layer below can compress.
fn noise(platform: &Platform, len: usize) -> Bytes {
    let mut bytes = Buffer::zeroed(len);
    let (words, _) = bytes.as_chunks_mut::<8>();
    words.iter_mut().for_each(|word| *word = platform.random().next_u64().to_le_bytes());
    bytes.freeze()
}

fn as_table(dir: &Path, figures: &[Figure]) -> String {
    let mut text = format!(
        "limits of this machine, disk of {}, erasure kernel {}\n{:<38} {:>12} {:>10} {:>10} {:>12}\n",
        dir.display(),
        erasure::kernel::kernel_name(),
        "",
        "per second",
        "p50 us",
        "p99 us",
        "MiB/s"
    );
    for figure in figures {
        let latency = |us: Option<f64>| us.map_or("-".to_owned(), |us| format!("{us:.1}"));
        let _ = writeln!(
            text,
            "{:<38} {:>12.0} {:>10} {:>10} {:>12.1}",
            figure.name,
            figure.per_sec,
            latency(figure.latency_us.map(|(p50, _)| p50)),
            latency(figure.latency_us.map(|(_, p99)| p99)),
            figure.bytes_per_sec / MIB as f64
        );
    }
    text
}

fn as_json(dir: &Path, figures: &[Figure]) -> String {
    let round = |value: f64| (value * 10.0).round() / 10.0;
    let rows: Vec<serde_json::Value> = figures
        .iter()
        .map(|figure| {
            serde_json::json!({
                "name": figure.name,
                "per_sec": round(figure.per_sec),
                "p50_us": figure.latency_us.map(|(p50, _)| round(p50)),
                "p99_us": figure.latency_us.map(|(_, p99)| round(p99)),
                "mib_per_sec": round(figure.bytes_per_sec / MIB as f64),
            })
        })
        .collect();
    let kernel = erasure::kernel::kernel_name();
    let whole = serde_json::json!({
        "schema": 1,
        "directory": dir.display().to_string(),
        "erasure_kernel": kernel,
        "figures": rows,
    });
    format!("{whole}\n")
}

#[cfg(test)]
mod tests {
    use super::{Figure, as_json, as_table};
    use std::path::Path;

    #[test]
    fn both_outputs_hold_every_figure() {
        let figures = [
            Figure { name: "a", per_sec: 10.0, latency_us: Some((1.0, 2.0)), bytes_per_sec: 1048576.0 },
            Figure { name: "b", per_sec: 0.0, latency_us: None, bytes_per_sec: 2097152.0 },
        ];
        let json: serde_json::Value = serde_json::from_str(&as_json(Path::new("d"), &figures)).expect("JSON");
        assert_eq!(json["figures"][0]["p99_us"], 2.0);
        assert_eq!(json["figures"][1]["p50_us"], serde_json::Value::Null);
        assert_eq!(json["figures"][1]["mib_per_sec"], 2.0);
        assert_eq!(as_table(Path::new("d"), &figures).lines().count(), 4);
    }
}
