//! `bixi bench s3`: loads a running server through S3 and says what it answered.
//!
//! Bodies are random and made once; requests are signed one by one with an unsigned payload. The
//! bucket of the measurement is made for it and removed again. Latencies are of whole requests.
//!
//! Reads are hot (a working set, over and over: the server's cache has it soon) or cold (each
//! object once: writes fill no cache, and data files are read past the page cache where the file
//! system lets them).

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use platform::Platform;
use platform::clock::Instant;
use s3_gateway::auth::signer::{Signer, UNSIGNED_PAYLOAD, Unsigned, joined};
use serde_json::{Value, json};
use types::size::format_size;

use super::bench_limits;
use super::failure::Failure;
use super::lean::{Heard, Lean};
use super::object::delete_page;
use super::output::{print_json, print_line};
use super::session::{Call, S3};
use crate::args::{BenchOperation, BenchS3Args, Output};

/// Bytes of the working set of reads, at most; and its least and most objects.
const WORKING_SET: u64 = 64 << 20;
const OBJECTS_MIN: u64 = 16;
const OBJECTS_MAX: u64 = 1_000;
/// Bytes that are read once when reads are cold, at most; and the most objects.
const COLD_SET: u64 = 1 << 30;
const COLD_OBJECTS_MAX: u64 = 50_000;
/// Keys a list is measured over.
const LIST_KEYS: u64 = 5_000;
/// The longest latency told apart.
const LATENCY_MAX_US: u64 = 120_000_000;

/// What all workers share.
struct Load {
    platform: Platform,
    addr: String,
    bucket: String,
    body: Bytes,
    objects: u64,
    /// Objects read so far; each once.
    cold: Option<Cell<u64>>,
    end: Instant,
    op: BenchOperation,
    result: RefCell<Figures>,
}

impl Load {
    /// Cold, and every object has been asked for.
    fn is_all_read(&self) -> bool {
        self.cold.as_ref().is_some_and(|read| read.get() >= self.objects)
    }

    /// The object to read next.
    fn next_object(&self) -> u64 {
        match &self.cold {
            Some(read) => read.replace(read.get() + 1),
            None => self.platform.random().below(self.objects),
        }
    }
}

struct Figures {
    latency_us: Histogram<u64>,
    requests: u64,
    errors: u64,
    bytes: u64,
    keys: u64,
    first_error: Option<String>,
}

/// Runs the command.
pub async fn run(platform: Platform, args: BenchS3Args) -> Result<(), Failure> {
    let s3 = S3::find(&platform, &args.access).await?;
    if s3.tls.is_some() {
        return Err(Failure::usage("bench s3 measures plain HTTP; this server speaks TLS"));
    }
    if args.cold && args.op != BenchOperation::Get {
        return Err(Failure::usage("--cold goes with --op get"));
    }
    let bucket = format!("bixi-bench-{:016x}", platform.random().next_u64());
    s3.call(&Call { method: "PUT", path: &bucket, query: &[], headers: &[] }, Bytes::new()).await?;
    let measured = measure(&platform, &s3, &bucket, &args).await;
    let cleaned = if args.keep { Ok(()) } else { clean(&s3, &bucket).await };
    let report = measured?;
    if let Err(failure) = cleaned {
        eprintln!("bixi: bucket {bucket} was not removed: {}", failure.message);
    }
    match args.output {
        Output::Json => print_json(&report),
        Output::Table => print_line(&for_people(&report)),
    }
}

async fn measure(platform: &Platform, s3: &S3, bucket: &str, args: &BenchS3Args) -> Result<Value, Failure> {
    let size = usize::try_from(args.size).map_err(|_| Failure::usage("--size is too large"))?;
    let mut body = vec![0; if args.op == BenchOperation::List { 0 } else { size }];
    platform.random().fill(&mut body);
    let objects = match args.op {
        BenchOperation::Put => 0,
        BenchOperation::Get if args.cold => (COLD_SET / args.size.max(1)).clamp(OBJECTS_MIN, COLD_OBJECTS_MAX),
        BenchOperation::Get => (WORKING_SET / args.size.max(1)).clamp(OBJECTS_MIN, OBJECTS_MAX),
        BenchOperation::List => LIST_KEYS,
    };
    let objects = args.objects.filter(|_| objects > 0).unwrap_or(objects);
    let figures = |capacity_failed: &str| {
        Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).map_err(|_| Failure::failed(capacity_failed.to_owned()))
    };
    let load = |end: Instant, op: BenchOperation| -> Result<Rc<Load>, Failure> {
        Ok(Rc::new(Load {
            platform: platform.clone(),
            addr: s3.addr.clone(),
            bucket: bucket.to_owned(),
            body: Bytes::from(body.clone()),
            objects,
            cold: args.cold.then(Cell::default),
            end,
            op,
            result: RefCell::new(Figures {
                latency_us: figures("no histogram")?,
                requests: 0,
                errors: 0,
                bytes: 0,
                keys: 0,
                first_error: None,
            }),
        }))
    };
    if objects > 0 {
        fill(s3, &load(Instant(u64::MAX), BenchOperation::Put)?, args.concurrency).await?;
    }
    let upload = args.op == BenchOperation::Put;
    let limit_size = if args.op == BenchOperation::List { 250 << 10 } else { size };
    let disk = disk_of(&args.access.credentials);
    let mut limit = bench_limits::measure(platform, limit_size, args.concurrency, &disk, upload).await;
    if args.cold {
        let reads = bench_limits::direct_reads(platform, &disk, size, args.concurrency).await;
        limit["disk_read_direct_per_sec"] = json!(reads.map(f64::round));
    }
    let start = platform.clock().now();
    let load = load(start + Duration::from_secs(args.secs), args.op)?;
    join_all((0..args.concurrency).map(|worker| work(load.clone(), s3.signer(), worker))).await;
    let seconds = platform.clock().now().saturating_since(start).as_secs_f64();
    let figures = load.result.borrow();
    if figures.requests == 0 {
        let why = figures.first_error.clone().unwrap_or_else(|| "nothing was answered in time".to_owned());
        return Err(Failure::failed(format!("no request succeeded: {why}")));
    }
    Ok(report(&figures, args, seconds, limit))
}

fn report(figures: &Figures, args: &BenchS3Args, seconds: f64, limit: Value) -> Value {
    let op = match args.op {
        BenchOperation::Put => "put",
        BenchOperation::Get => "get",
        BenchOperation::List => "list",
    };
    let rounded = |value: f64| (value * 10.0).round() / 10.0;
    // Of a listing the keys count, not the pages they come in.
    let done = if args.op == BenchOperation::List { figures.keys } else { figures.requests };
    json!({
        "schema": 1,
        "op": op,
        "cold": args.cold,
        "size_bytes": args.size,
        "concurrency": args.concurrency,
        "secs": rounded(seconds),
        "ops_per_sec": rounded(done as f64 / seconds),
        "requests": figures.requests,
        "requests_per_sec": rounded(figures.requests as f64 / seconds),
        "p50_us": figures.latency_us.value_at_quantile(0.5),
        "p99_us": figures.latency_us.value_at_quantile(0.99),
        "mib_per_sec": rounded(figures.bytes as f64 / seconds / f64::from(1 << 20)),
        "errors": figures.errors,
        "first_error": figures.first_error,
        "limit": limit,
    })
}

fn for_people(report: &Value) -> String {
    let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
    let unit = if report["op"] == "list" { "keys" } else { "requests" };
    format!(
        "{}{} of {} at concurrency {}: {:.0} {unit}/s, {:.1} MiB/s, p50 {} us, p99 {} us, {} errors\nlimit: {}",
        if report["cold"] == true { "cold " } else { "" },
        report["op"].as_str().unwrap_or(""),
        format_size(report["size_bytes"].as_u64().unwrap_or(0)),
        report["concurrency"],
        number("ops_per_sec"),
        number("mib_per_sec"),
        report["p50_us"],
        report["p99_us"],
        report["errors"],
        report["limit"],
    )
}

/// The disk the server most likely stores on: its credentials lie in its first directory.
pub(super) fn disk_of(credentials: &Path) -> PathBuf {
    match credentials.parent() {
        Some(directory) if directory.is_dir() => directory.to_owned(),
        _ => std::env::temp_dir(),
    }
}

/// One worker: a connection, one request after the other.
async fn work(load: Rc<Load>, signer: Signer, worker: u32) {
    let mut lean = None;
    let mut number = 0u64;
    let mut token: Option<String> = None;
    while load.platform.clock().now() < load.end && !load.is_all_read() {
        let connection = match lean.take() {
            Some(connection) => Ok(connection),
            None => Lean::open(&load.platform, &load.addr).await,
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                count_error(&load, error.to_string());
                load.platform.clock().sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let start = load.platform.clock().now();
        let outcome = match load.op {
            BenchOperation::Put => {
                number += 1;
                put(&load, &signer, &mut connection, format!("{worker:04}-{number:010}")).await
            }
            BenchOperation::Get => get(&load, &signer, &mut connection).await,
            BenchOperation::List => list(&load, &signer, &mut connection, &mut token).await,
        };
        match outcome {
            Ok(heard) if heard.status == 200 => {
                let took = load.platform.clock().now().saturating_since(start);
                let mut figures = load.result.borrow_mut();
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                figures.latency_us.saturating_record(took_us);
                figures.requests += 1;
                figures.bytes += heard.len;
                lean = Some(connection);
            }
            Ok(heard) => {
                count_error(&load, format!("status {}", heard.status));
                lean = Some(connection);
                load.platform.clock().sleep(Duration::from_millis(5)).await;
            }
            Err(error) => count_error(&load, error.to_string()),
        }
    }
}

fn count_error(load: &Load, why: String) {
    let mut figures = load.result.borrow_mut();
    figures.errors += 1;
    figures.first_error.get_or_insert(why);
}

type Outcome = Result<Heard, super::lean::LeanError>;

async fn put(load: &Load, signer: &Signer, lean: &mut Lean, key: String) -> Outcome {
    let head = head(load, signer, "PUT", &format!("/{}/{key}", load.bucket), &[], load.body.len());
    let mut heard = lean.exchange(&head, &load.body, |_| {}).await?;
    heard.len = load.body.len() as u64;
    Ok(heard)
}

async fn get(load: &Load, signer: &Signer, lean: &mut Lean) -> Outcome {
    let key = key_of(load.next_object());
    let head = head(load, signer, "GET", &format!("/{}/{key}", load.bucket), &[], 0);
    let heard = lean.exchange(&head, &Bytes::new(), |_| {}).await?;
    if heard.status == 200 && heard.len != load.body.len() as u64 {
        count_error(load, format!("an object of {} bytes instead of {}", heard.len, load.body.len()));
    }
    Ok(heard)
}

async fn list(load: &Load, signer: &Signer, lean: &mut Lean, token: &mut Option<String>) -> Outcome {
    let mut query = vec![("list-type".to_owned(), "2".to_owned())];
    if let Some(token) = token.take() {
        query.push(("continuation-token".to_owned(), s3_gateway::uri::encode(&token)));
    }
    let head = head(load, signer, "GET", &format!("/{}", load.bucket), &query, 0);
    let mut page = Vec::with_capacity(400 << 10);
    let heard = lean.exchange(&head, &Bytes::new(), |bytes| page.extend_from_slice(bytes)).await?;
    let text = String::from_utf8_lossy(&page);
    load.result.borrow_mut().keys += text.matches("<Key>").count() as u64;
    let after = text.split_once("<NextContinuationToken>").and_then(|(_, rest)| rest.split_once('<'));
    *token = after.map(|(token, _)| token.to_owned());
    Ok(heard)
}

fn key_of(number: u64) -> String {
    format!("set-{number:010}")
}

/// A signed request's bytes up to its body.
fn head(load: &Load, signer: &Signer, method: &str, path: &str, query: &[(String, String)], len: usize) -> Vec<u8> {
    let request = Unsigned { method, path, query, headers: &[], payload_hash: UNSIGNED_PAYLOAD };
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    if !query.is_empty() {
        out.push(b'?');
        out.extend_from_slice(joined(query).as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in signer.sign(&request, load.platform.clock().unix_ms()) {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if method == "PUT" {
        out.extend_from_slice(format!("content-length: {len}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Uploads the objects that are read or listed later.
async fn fill(s3: &S3, load: &Rc<Load>, concurrency: u32) -> Result<(), Failure> {
    let next = Rc::new(std::cell::Cell::new(0u64));
    let workers = (0..concurrency.max(8)).map(|_| {
        let (load, next, signer) = (load.clone(), next.clone(), s3.signer());
        async move {
            let mut lean = Lean::open(&load.platform, &load.addr).await?;
            while next.get() < load.objects {
                let number = next.get();
                next.set(number + 1);
                let heard = put(&load, &signer, &mut lean, key_of(number)).await?;
                if heard.status != 200 {
                    count_error(&load, format!("status {} for an object of the working set", heard.status));
                }
            }
            Ok::<_, super::lean::LeanError>(())
        }
    });
    for result in join_all(workers).await {
        result.map_err(|error| Failure::caused("cannot upload the working set", &error))?;
    }
    match load.result.borrow().first_error.clone() {
        None => Ok(()),
        Some(why) => Err(Failure::failed(format!("cannot upload the working set: {why}"))),
    }
}

/// Removes the bucket and all in it.
async fn clean(s3: &S3, bucket: &str) -> Result<(), Failure> {
    loop {
        let mut pages = super::listing::Pages::new(s3, bucket, "", "");
        let keys: Vec<String> =
            pages.next().await?.map(|rows| rows.into_iter().map(|row| row.key).collect()).unwrap_or_default();
        if keys.is_empty() {
            break;
        }
        delete_page(s3, bucket, &keys).await?;
    }
    s3.call(&Call { method: "DELETE", path: bucket, query: &[], headers: &[] }, Bytes::new()).await?;
    Ok(())
}
