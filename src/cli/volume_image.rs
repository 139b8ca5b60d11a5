//! `bixi volume export|import`: between snapshots and files.
//!
//! A file is written beside its target under another name and renamed when it is whole and kept, so a broken
//! export never looks like an image. A volume whose import fails is deleted again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use block_gateway::image::qcow2::{self, SMALL_CLUSTER, SMALL_SIZE_MAX, Step};
use block_gateway::image::{self, Extent, Format, HEAD_LEN, ImageError, Kind, Piece, Rest, Span, raw};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use platform::Platform;
use serde_json::{Value, json};
use types::size::format_size;
use types::volume::SIZE_MAX;

use super::download::beside;
use super::failure::Failure;
use super::output::{print_json, print_line};
use super::progress::Progress;
use super::session::Admin;
use super::volume::{cipher, halves};
use crate::args::{ExportArgs, ImageFormat, ImportArgs, Output};

/// Bytes of one request.
const PART: u64 = 4 << 20;
/// Requests under way.
const DEPTH: usize = 4;
/// Zeroes of an imported file are looked for in pieces of so many bytes.
const GRAIN: u64 = 64 << 10;

/// A stretch of a volume.
#[derive(Clone, Copy)]
struct Stretch {
    start: u64,
    len: u64,
    /// It is stored, or it has changed.
    is_set: bool,
}

impl Stretch {
    fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// What of a volume is stored, or has changed, as the server tells it piece by piece.
struct Map<'a> {
    admin: &'a Admin,
    name: &'a str,
    since: &'a str,
    at: u64,
    size: u64,
    told: VecDeque<Stretch>,
}

impl Map<'_> {
    async fn next(&mut self) -> Result<Option<Stretch>, Failure> {
        if self.told.is_empty() && self.at < self.size {
            let body = json!({ "name": self.name, "start": self.at, "since": self.since });
            let page = self.admin.call("POST", "/v1/volumes/map", Some(&body)).await?;
            let pieces: Vec<(u64, u8)> = serde_json::from_value(page["pieces"].clone())
                .map_err(|error| Failure::failed(format!("the server's map is none: {error}")))?;
            for (len, state) in pieces {
                self.told.push_back(Stretch { start: self.at, len, is_set: state != 0 });
                self.at += len;
            }
            if self.told.is_empty() {
                return Err(Failure::failed("the server's map ends too early"));
            }
        }
        Ok(self.told.pop_front())
    }
}

/// What goes into the file.
#[derive(Clone, Copy)]
struct Part {
    start: u64,
    len: u64,
    is_data: bool,
}

enum Writer {
    Raw(raw::Writer),
    Qcow2(Box<qcow2::Writer>),
}

impl Writer {
    fn data(&mut self, start: u64, bytes: Bytes) -> Vec<Piece> {
        match self {
            Writer::Raw(writer) => writer.data(start, bytes),
            Writer::Qcow2(writer) => writer.data(start, bytes),
        }
    }

    fn zeroes(&mut self, start: u64, len: u64) -> Vec<Piece> {
        match self {
            Writer::Raw(writer) => {
                writer.zeroes(start, len);
                Vec::new()
            }
            Writer::Qcow2(writer) => writer.zeroes(start, len),
        }
    }

    fn finish(self) -> Rest {
        match self {
            Writer::Raw(writer) => writer.finish(),
            Writer::Qcow2(writer) => writer.finish(),
        }
    }
}

fn unfit(error: ImageError) -> Failure {
    Failure::failed(error.to_string())
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

/// Writes a snapshot to a file.
pub async fn export(platform: &Platform, args: &ExportArgs) -> Result<(), Failure> {
    let (volume, _) = halves(&args.name)?;
    let since = match &args.since {
        None => "",
        Some(since) => match since.split_once('@') {
            Some((of, snapshot)) if of == volume => snapshot,
            Some(_) => return Err(Failure::usage(format!("{since} is not a snapshot of {volume}"))),
            None => since.as_str(),
        },
    };
    if !since.is_empty() && args.format == ImageFormat::Raw {
        return Err(Failure::usage("a raw file cannot say what has not changed; use --format qcow2 with --since"));
    }
    let admin = Admin::new(platform, &args.access)?;
    let first = json!({ "name": args.name, "start": 0, "since": since });
    let size = admin.call("POST", "/v1/volumes/map", Some(&first)).await?["size"].as_u64().unwrap_or(0);
    let (writer, grain) = match args.format {
        ImageFormat::Raw => (Writer::Raw(raw::Writer::new(size)), 1),
        ImageFormat::Qcow2 if !since.is_empty() && size <= SMALL_SIZE_MAX => {
            (Writer::Qcow2(Box::new(qcow2::Writer::small(size).map_err(unfit)?)), SMALL_CLUSTER)
        }
        ImageFormat::Qcow2 => (Writer::Qcow2(Box::new(qcow2::Writer::new(size).map_err(unfit)?)), qcow2::CLUSTER),
    };
    let map = |since| Map { admin: &admin, name: &args.name, since, at: 0, size, told: VecDeque::new() };
    let mut wanted = Wanted {
        stored: map(""),
        changed: (!since.is_empty()).then(|| map(since)),
        grain,
        part: None,
        stretch: None,
        parts: VecDeque::new(),
        upto: 0,
    };
    let progress = Progress::start(platform);
    let partial = beside(&args.out);
    let file = File::create(&partial).map_err(|error| cannot("write", &partial, &error))?;
    let moved = copy_out(platform, &admin, &args.name, &mut wanted, writer, file, &partial, &progress).await;
    progress.finish();
    let moved = match moved {
        Ok(moved) => moved,
        Err(failure) => {
            // What is there is no image; the failure itself is the one to tell.
            let _ = std::fs::remove_file(&partial);
            return Err(failure);
        }
    };
    std::fs::rename(&partial, &args.out).map_err(|error| cannot("write", &args.out, &error))?;
    match args.output {
        Output::Json => print_json(&json!({ "name": args.name, "since": since, "size": size, "data": moved })),
        Output::Table => {
            let out = args.out.display();
            print_line(&format!("exported {}, {} of {}, to {out}", args.name, format_size(moved), format_size(size)))
        }
    }
}

/// The parts that an export needs, in order.
struct Wanted<'a> {
    stored: Map<'a>,
    /// Only what is in here.
    changed: Option<Map<'a>>,
    /// Parts are widened to whole blocks of so many bytes.
    grain: u64,
    part: Option<Stretch>,
    stretch: Option<Stretch>,
    parts: VecDeque<Part>,
    /// End of what was answered.
    upto: u64,
}

impl Wanted<'_> {
    /// The next stretch that has changed, in whole blocks.
    async fn next_changed(&mut self) -> Result<Option<Stretch>, Failure> {
        let size = self.stored.size;
        let Some(changed) = &mut self.changed else {
            let all = Stretch { start: self.upto, len: size - self.upto, is_set: true };
            return Ok((all.len > 0).then_some(all));
        };
        loop {
            let next = match self.part.take() {
                Some(part) => Some(part),
                None => changed.next().await?,
            };
            let Some(next) = next else { return Ok(None) };
            let start = (next.start / self.grain * self.grain).max(self.upto);
            let end = next.end().next_multiple_of(self.grain).min(size);
            if next.is_set && start < end {
                return Ok(Some(Stretch { start, len: end - start, is_set: true }));
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Part>, Failure> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Ok(Some(part));
            }
            let Some(range) = self.next_changed().await? else { return Ok(None) };
            let mut at = range.start;
            while at < range.end() {
                let stretch = match self.stretch.filter(|stretch| stretch.end() > at) {
                    Some(stretch) => stretch,
                    None => {
                        self.stored.next().await?.ok_or_else(|| Failure::failed("the server's map is too short"))?
                    }
                };
                self.stretch = Some(stretch);
                if stretch.end() <= at {
                    continue;
                }
                let end = stretch.end().min(range.end());
                // Without --since, what was never written is left out.
                if stretch.is_set || self.changed.is_some() {
                    let most = if stretch.is_set { PART } else { u64::MAX };
                    while at < end {
                        let len = (end - at).min(most);
                        self.parts.push_back(Part { start: at, len, is_data: stretch.is_set });
                        at += len;
                    }
                }
                at = end;
                if self.parts.len() > 1024 {
                    break;
                }
            }
            self.upto = at;
            if at < range.end() && self.changed.is_some() {
                self.part = Some(Stretch { start: at, len: range.end() - at, is_set: true });
            }
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "an export's parts, used once")]
async fn copy_out(
    platform: &Platform,
    admin: &Admin,
    name: &str,
    wanted: &mut Wanted<'_>,
    mut writer: Writer,
    file: File,
    path: &Path,
    progress: &Progress,
) -> Result<u64, Failure> {
    let parts = stream::try_unfold(wanted, async |wanted| Ok(wanted.next().await?.map(|part| (part, wanted))));
    let reads = parts.map_ok(|part| async move {
        if !part.is_data {
            return Ok::<(Part, Bytes), Failure>((part, Bytes::new()));
        }
        let body = json!({ "name": name, "start": part.start, "len": part.len });
        Ok((part, admin.call_for_bytes("POST", "/v1/volumes/read", Bytes::from(body.to_string())).await?))
    });
    let mut reads = std::pin::pin!(reads.try_buffered(DEPTH));
    let (mut file, mut moved) = (file, 0);
    while let Some((part, bytes)) = reads.try_next().await? {
        let pieces = if part.is_data {
            if bytes.len() as u64 != part.len {
                return Err(Failure::failed(format!("the server sent {} bytes of {}", bytes.len(), part.len)));
            }
            moved += part.len;
            progress.add(part.len);
            writer.data(part.start, bytes)
        } else {
            writer.zeroes(part.start, part.len)
        };
        file = write(platform, file, pieces).await.map_err(|error| cannot("write", path, &error))?;
    }
    let Rest { pieces, file_len } = writer.finish();
    let file = write(platform, file, pieces).await.map_err(|error| cannot("write", path, &error))?;
    let kept = platform.lane().run(move || file.set_len(file_len).and_then(|()| file.sync_all())).await;
    kept.map_err(|error| cannot("write", path, &error))?;
    Ok(moved)
}

async fn write(platform: &Platform, file: File, pieces: Vec<Piece>) -> Result<File, std::io::Error> {
    if pieces.is_empty() {
        return Ok(file);
    }
    let all = move || -> Result<File, std::io::Error> {
        for piece in &pieces {
            file.write_all_at(&piece.bytes, piece.offset)?;
        }
        Ok(file)
    };
    platform.lane().run(all).await
}

/// Makes a volume of an image, or applies one.
pub async fn import(platform: &Platform, args: &ImportArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &args.change.access)?;
    let broken = |error: &std::io::Error| cannot("read", &args.file, error);
    let mut file = File::open(&args.file).map_err(|error| broken(&error))?;
    // A device has a length too, but only its end tells.
    let file_len = file.seek(SeekFrom::End(0)).map_err(|error| broken(&error))?;
    file.rewind().map_err(|error| broken(&error))?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(HEAD_LEN as u64).read_to_end(&mut head).map_err(|error| broken(&error))?;
    let format = match args.format {
        Some(ImageFormat::Raw) => Format::Raw,
        Some(ImageFormat::Qcow2) => Format::Qcow2,
        None => image::detect(&head),
    };
    let mut source = match format {
        Format::Raw => Source::Raw(raw::extent(file_len)),
        Format::Qcow2 => Source::Qcow2(Box::new(qcow2::Reader::open(&head, file_len).map_err(unfit)?)),
    };
    let size = source.size(file_len);
    if size == 0 {
        return Err(Failure::failed(format!("{} holds no disk: it is empty", args.file.display())));
    }
    if size > SIZE_MAX {
        return Err(Failure::failed(format!("the image has {}, and a volume at most 64 TiB", format_size(size))));
    }
    if source.has_backing() && !args.onto {
        let text = format!("{} holds only what has changed; --onto applies it to a volume", args.file.display());
        return Err(Failure::usage(text));
    }
    let what = format!("volume {} of {} from {}", args.name, format_size(size), args.file.display());
    if args.change.dry_run {
        print_line(&format!("would be imported: {what}"))?;
        return Err(Failure::would_change());
    }
    if args.onto {
        let there = admin.call("POST", "/v1/volumes/status", Some(&json!({ "name": args.name }))).await?;
        let have = there["size"].as_u64().unwrap_or(0);
        if size.next_multiple_of(512) > have.next_multiple_of(512) {
            let text = format!("the image has {size} bytes and volume {} only {have}; resize it first", args.name);
            return Err(Failure::conflict(text));
        }
    } else {
        let cipher = cipher(args.encrypt.as_deref())?;
        let redundancy = args.redundancy.clone().unwrap_or_default();
        let body = json!({ "name": args.name, "size": size, "redundancy": redundancy, "cipher": cipher });
        admin.call("POST", "/v1/volumes", Some(&body)).await?;
    }
    let progress = Progress::start(platform);
    let copied = copy_in(&admin, args, &mut source, file, &progress).await;
    progress.finish();
    match copied {
        Ok(moved) if args.change.output == Output::Json => {
            print_json(&json!({ "name": args.name, "size": size, "data": moved }))
        }
        Ok(moved) => print_line(&format!("imported {what}, {} of data", format_size(moved))),
        Err(failure) => {
            if !args.onto {
                // Half a volume is none; the failure itself is the one to tell.
                let _ = admin.call("POST", "/v1/volumes/delete", Some(&json!({ "name": args.name }))).await;
            }
            Err(failure)
        }
    }
}

enum Source {
    Raw(Option<Extent>),
    Qcow2(Box<qcow2::Reader>),
}

impl Source {
    fn size(&self, file_len: u64) -> u64 {
        match self {
            Source::Raw(_) => file_len,
            Source::Qcow2(reader) => reader.size(),
        }
    }

    fn has_backing(&self) -> bool {
        matches!(self, Source::Qcow2(reader) if reader.backing_name().is_some())
    }

    fn next(&mut self, file: &File) -> Result<Option<Extent>, Failure> {
        match self {
            Source::Raw(all) => Ok(all.take()),
            Source::Qcow2(reader) => loop {
                match reader.step().map_err(unfit)? {
                    Step::Read(span) => reader.feed(read(file, span)?).map_err(unfit)?,
                    Step::Extent(extent) => return Ok(Some(extent)),
                    Step::End => return Ok(None),
                }
            },
        }
    }
}

fn read(file: &File, span: Span) -> Result<Bytes, Failure> {
    let mut bytes = vec![0; span.len as usize];
    let mut at = 0;
    while at < bytes.len() {
        match file.read_at(&mut bytes[at..], span.offset + at as u64) {
            // The last cluster of an image may be cut: zeroes follow.
            Ok(0) => break,
            Ok(count) => at += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Failure::failed(format!("the image cannot be read at {}: {error}", span.offset)));
            }
        }
    }
    Ok(bytes.into())
}

/// What the server is to do with a stretch of the volume.
enum Order {
    Write(u64, Bytes),
    Zero(u64, u64),
}

async fn copy_in(
    admin: &Admin,
    args: &ImportArgs,
    source: &mut Source,
    file: File,
    progress: &Progress,
) -> Result<u64, Failure> {
    let mut moved = 0;
    let mut orders: Vec<Order> = Vec::new();
    while let Some(extent) = source.next(&file)? {
        match extent.kind {
            Kind::Data { file_offset } => {
                let mut at = 0;
                while at < extent.len {
                    let len = (extent.len - at).min(PART);
                    let bytes = read(&file, Span { offset: file_offset + at, len })?;
                    put_parts(&mut orders, extent.start + at, bytes, args.onto);
                    at += len;
                    moved += send_full(admin, &args.name, &mut orders, progress, DEPTH).await?;
                }
            }
            Kind::Packed(span) => {
                let Source::Qcow2(reader) = &*source else { continue };
                let bytes = reader.inflate(&extent, &read(&file, span)?).map_err(unfit)?;
                put_parts(&mut orders, extent.start, bytes.into(), args.onto);
            }
            Kind::Zero if args.onto => orders.push(Order::Zero(extent.start, extent.len)),
            Kind::Zero | Kind::Unallocated => {}
        }
        moved += send_full(admin, &args.name, &mut orders, progress, DEPTH).await?;
    }
    moved += send_full(admin, &args.name, &mut orders, progress, 1).await?;
    Ok(moved)
}

/// Splits bytes into what is written and zeroes, which need not be written to a new volume.
fn put_parts(orders: &mut Vec<Order>, start: u64, bytes: Bytes, onto: bool) {
    let (mut from, len) = (0, bytes.len());
    while from < len {
        let is_zero = |at: usize| bytes[at..(at + GRAIN as usize).min(len)].iter().all(|byte| *byte == 0);
        let zero = is_zero(from);
        let mut upto = from;
        while upto < len && is_zero(upto) == zero {
            upto = (upto + GRAIN as usize).min(len);
        }
        let place = start + from as u64;
        if !zero {
            orders.push(Order::Write(place, bytes.slice(from..upto)));
        } else if onto {
            orders.push(Order::Zero(place, (upto - from) as u64));
        }
        from = upto;
    }
}

/// Carries out orders when there are so many. Answers how many bytes were written.
async fn send_full(
    admin: &Admin,
    name: &str,
    orders: &mut Vec<Order>,
    progress: &Progress,
    least: usize,
) -> Result<u64, Failure> {
    if orders.len() < least {
        return Ok(0);
    }
    let sends = std::mem::take(orders).into_iter().map(|order| async move {
        match order {
            Order::Write(start, bytes) => {
                let len = bytes.len() as u64;
                admin.call_for_bytes("PUT", &format!("/v1/volumes/data/{name}/{start}"), bytes).await?;
                Ok::<u64, Failure>(len)
            }
            Order::Zero(start, len) => {
                let body = json!({ "name": name, "start": start, "len": len });
                let _told: Value = admin.call("POST", "/v1/volumes/zero", Some(&body)).await?;
                Ok(0)
            }
        }
    });
    let lens: Vec<u64> = stream::iter(sends).buffer_unordered(DEPTH).try_collect().await?;
    let sum = lens.iter().sum();
    progress.add(sum);
    Ok(sum)
}
