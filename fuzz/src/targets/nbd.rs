//! Sessions of NBD clients, from the first byte to the last, against the real server over a device in memory.
//!
//! The device asserts that it is never asked for what it does not have. Of a session that was not damaged all
//! replies are parsed: each belongs to a request, is answered once, and has the length that it should.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block_gateway::device::{Answer, Device, Run, Since};
use block_gateway::exports::{Export, Exports};
use block_gateway::nbd::server;
use block_gateway::nbd::wire::{self, Headers, cmd, cmd_flag, export_flag, option, rep};
use bytes::Bytes;
use client::volume::VolumeError;
use platform::net::pair;
use platform::sim::{SimOptions, Simulation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::input::Input;

const SIZE: u64 = 300_001;
const BLOCK: u64 = 4096;

struct Disk {
    bytes: RefCell<Vec<u8>>,
    is_read_only: bool,
}

impl Disk {
    fn part(&self, start: u64, len: u64) -> std::ops::Range<usize> {
        let end = start.checked_add(len).expect("ranges have an end");
        assert!(end <= SIZE, "{start} + {len} is asked of a device of {SIZE}");
        start as usize..end as usize
    }

    /// Runs of whole blocks, of two kinds.
    fn runs(&self, start: u64, len: u64, is_other: impl Fn(u64) -> bool) -> Vec<(u64, bool)> {
        let (mut runs, mut at, end): (Vec<(u64, bool)>, u64, u64) = (Vec::new(), start, start + len);
        let _inside = self.part(start, len);
        while at < end {
            let upto = (at / BLOCK * BLOCK + BLOCK).min(end);
            let other = is_other(at / BLOCK);
            match runs.last_mut() {
                Some(last) if last.1 == other => last.0 += upto - at,
                _ => runs.push((upto - at, other)),
            }
            at = upto;
        }
        runs
    }

    fn is_zero(&self, block: u64) -> bool {
        let end = (block * BLOCK + BLOCK).min(SIZE);
        self.bytes.borrow()[(block * BLOCK) as usize..end as usize].iter().all(|byte| *byte == 0)
    }
}

impl Device for Disk {
    fn size(&self) -> u64 {
        SIZE
    }

    fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    fn read(&self, start: u64, len: u64) -> Answer<'_, Bytes> {
        let bytes = Bytes::copy_from_slice(&self.bytes.borrow()[self.part(start, len)]);
        Box::pin(std::future::ready(Ok(bytes)))
    }

    fn write(&self, start: u64, data: Bytes) -> Answer<'_, ()> {
        assert!(!self.is_read_only, "a snapshot is written");
        self.bytes.borrow_mut()[self.part(start, data.len() as u64)].copy_from_slice(&data);
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear(&self, start: u64, len: u64) -> Answer<'_, ()> {
        assert!(!self.is_read_only, "a snapshot is cleared");
        self.bytes.borrow_mut()[self.part(start, len)].fill(0);
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&self) -> Result<(), VolumeError> {
        Ok(())
    }

    fn status(&self, start: u64, len: u64) -> Answer<'_, Vec<Run>> {
        let runs = self.runs(start, len, |block| self.is_zero(block));
        let runs = runs.into_iter().map(|(len, is_hole)| Run { len, is_hole }).collect();
        Box::pin(std::future::ready(Ok(runs)))
    }

    fn changed_since<'a>(&'a self, snapshot: &'a str, start: u64, len: u64) -> Answer<'a, Vec<Since>> {
        assert_eq!(snapshot, "s", "only contexts that were agreed on");
        let runs = self.runs(start, len, |block| block % 3 == 0);
        let runs = runs.into_iter().map(|(len, is_changed)| Since { len, is_changed }).collect();
        Box::pin(std::future::ready(Ok(runs)))
    }
}

/// `disk`, and `disk@s`, which can only be read.
struct Memory(Rc<Disk>);

impl Memory {
    fn look<T>(&self, name: &str, found: impl FnOnce() -> T) -> Answer<'_, T>
    where
        T: 'static,
    {
        let is_there = name == "disk" || name == "disk@s";
        Box::pin(std::future::ready(if is_there { Ok(found()) } else { Err(VolumeError::no_volume(name)) }))
    }
}

impl Exports for Memory {
    fn names(&self) -> Answer<'_, Vec<String>> {
        Box::pin(std::future::ready(Ok(vec!["disk".to_owned()])))
    }

    fn size_of<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        self.look(name, || SIZE)
    }

    fn snapshots_of<'a>(&'a self, name: &'a str, _most: usize) -> Answer<'a, Vec<String>> {
        self.look(name, || vec!["s".to_owned()])
    }

    fn open<'a>(&'a self, name: &'a str) -> Answer<'a, Export> {
        let frozen = || Rc::new(Disk { bytes: self.0.bytes.clone(), is_read_only: true });
        let device = if name == "disk" { Rc::clone(&self.0) } else { frozen() };
        self.look(name, || Export { device, lease: Box::new(()), leave: Box::new(|| Box::new(())) })
    }
}

/// What a client sends, and what it knows of that.
#[derive(Default)]
struct Script {
    bytes: Vec<u8>,
    /// Bytes that may be damaged: what is before them was agreed on well.
    headers: Option<Headers>,
    no_zeroes: bool,
    /// By cookie: command and length.
    sent: BTreeMap<u64, (u16, u64)>,
}

/// Sessions.
pub fn session(input: &mut Input) {
    let mut script = script(input);
    let is_damaged = input.once_in(2);
    if is_damaged {
        input.damage(&mut script.bytes);
    }
    let out = talk(input, script.bytes.clone());
    let known = if is_damaged { None } else { Some(&script) };
    parse(&out, known);
}

/// Sends it in pieces and reads all that comes.
fn talk(input: &mut Input, bytes: Vec<u8>) -> Vec<u8> {
    let simulation = Simulation::new(1, SimOptions::default());
    let platform = simulation.platform();
    let (ours, theirs) = pair(&platform);
    let mut disk = vec![0; SIZE as usize];
    disk[5000..90_000].fill(7);
    let exports = Memory(Rc::new(Disk { bytes: RefCell::new(disk), is_read_only: false }));
    let only = input.once_in(3).then_some("disk");
    let piece = if input.once_in(3) { 1 + input.below(40) } else { bytes.len().max(1) };
    let talk = async move {
        let (inner, tasks) = (platform.clone(), platform.tasks());
        let served = tasks.spawn(async move { server::session(&inner, theirs, &exports, only).await });
        let (mut reader, mut writer) = tokio::io::split(ours);
        let writing = tasks.spawn(async move {
            for piece in bytes.chunks(piece) {
                if writer.write_all(piece).await.is_err() {
                    return;
                }
            }
            let _ = writer.shutdown().await;
        });
        let mut out = Vec::new();
        // A connection that is cut ends, too.
        let _ = reader.read_to_end(&mut out).await;
        drop(reader);
        let _ = (served.await, writing.await);
        out
    };
    simulation.run(talk, Duration::from_secs(3600)).expect("a session ends when its client does")
}

fn script(input: &mut Input) -> Script {
    let mut script = Script { headers: Some(Headers::Simple), ..Script::default() };
    let flags = if input.once_in(10) { input.number() as u32 } else { 1 + 2 * input.below(2) as u32 };
    script.no_zeroes = flags & 2 != 0;
    script.bytes.extend_from_slice(&flags.to_be_bytes());
    for _ in 0..input.below(6) {
        let (number, data) = option_of(input, &mut script.headers);
        push_option(&mut script.bytes, number, &data);
    }
    let name = if input.once_in(4) { "disk@s" } else { "disk" };
    match input.below(8) {
        0 => push_option(&mut script.bytes, option::EXPORT_NAME, name.as_bytes()),
        1 => return script,
        _ => push_option(&mut script.bytes, option::GO, &question(name, &[0, 3])),
    }
    for cookie in 0..input.below(20) as u64 {
        request(input, &mut script, cookie);
    }
    script
}

fn push_option(bytes: &mut Vec<u8>, number: u32, data: &[u8]) {
    bytes.extend_from_slice(&wire::OPTION.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

fn question(name: &str, kinds: &[u16]) -> Vec<u8> {
    let mut data = text(name);
    data.extend_from_slice(&(kinds.len() as u16).to_be_bytes());
    kinds.iter().for_each(|kind| data.extend_from_slice(&kind.to_be_bytes()));
    data
}

fn option_of(input: &mut Input, headers: &mut Option<Headers>) -> (u32, Vec<u8>) {
    let name = input.pick(&["disk", "disk", "disk@s", "", "none"]).to_owned();
    match input.below(10) {
        0 => (option::LIST, Vec::new()),
        1 => (option::INFO, question(&name, &[input.any() as u16, 1, 3])),
        2 | 3 => {
            *headers = headers.map(|headers| if headers < Headers::Structured { Headers::Structured } else { headers });
            (option::STRUCTURED_REPLY, Vec::new())
        }
        4 => {
            *headers = Some(Headers::Extended);
            (option::EXTENDED_HEADERS, Vec::new())
        }
        5..8 => {
            let mut data = text(&name);
            let count = input.below(4);
            data.extend_from_slice(&(count as u32).to_be_bytes());
            for _ in 0..count {
                let contexts = ["base:allocation", "bixi:changed-since/s", "base:", "bixi:", "x", ""];
                data.extend(text(input.pick(&contexts)));
            }
            let kinds = [option::SET_META_CONTEXT, option::LIST_META_CONTEXT];
            (kinds[input.below(2)], data)
        }
        8 => (12 + input.below(1000) as u32, input.bytes(40)),
        _ => (option::STARTTLS, input.bytes(4)),
    }
}

fn request(input: &mut Input, script: &mut Script, cookie: u64) {
    let is_extended = script.headers == Some(Headers::Extended);
    let command = if input.once_in(20) { input.any() as u16 } else { input.below(8) as u16 };
    if command == cmd::DISC && !input.once_in(4) {
        return;
    }
    let mut flags = if input.once_in(4) { 1 << input.below(7) } else { 0 };
    let offset = if input.once_in(6) { input.number() } else { input.any() % SIZE };
    let mut len = match input.below(8) {
        0 => input.number(),
        1 => SIZE - offset.min(SIZE),
        _ => input.any() % 20_000,
    };
    if !is_extended {
        len = u64::from(len as u32);
    }
    let mut payload = Vec::new();
    if is_extended && command == cmd::BLOCK_STATUS && input.once_in(2) {
        flags |= cmd_flag::PAYLOAD_LEN;
        payload.extend_from_slice(&(input.any() % 60_000).to_be_bytes());
        (0..input.below(3)).for_each(|_| payload.extend_from_slice(&(input.below(3) as u32).to_be_bytes()));
        len = payload.len() as u64;
    } else if command == cmd::WRITE || is_extended && flags & cmd_flag::PAYLOAD_LEN != 0 {
        // A longer one never comes to its end.
        payload = vec![1 + cookie as u8; len.min(40_000) as usize];
    }
    let magic: u32 = if is_extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let out = &mut script.bytes;
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&command.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    if is_extended {
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.extend_from_slice(&(len as u32).to_be_bytes());
    }
    out.extend_from_slice(&payload);
    script.sent.insert(cookie, (command, len));
}

/// Takes bytes from the front.
struct Taken<'a>(&'a [u8]);

impl<'a> Taken<'a> {
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        assert!(len <= self.0.len(), "{len} bytes of a reply, {} are there", self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn number(&mut self, len: usize) -> u64 {
        self.bytes(len).iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

/// Replies to options, and to requests if it is known what was sent.
fn parse(out: &[u8], script: Option<&Script>) {
    let mut out = Taken(out);
    assert_eq!((out.number(8), out.number(8), out.number(2)), (wire::INIT, wire::OPTION, 3), "the hello");
    let mut agreed = false;
    while !agreed && out.0.starts_with(&wire::OPTION_REPLY.to_be_bytes()) {
        let _magic = out.number(8);
        let (number, kind, len) = (out.number(4) as u32, out.number(4) as u32, out.number(4) as usize);
        let data = out.bytes(len);
        assert!(kind < rep::UNSUP || std::str::from_utf8(data).is_ok(), "refusals are text");
        agreed = number == option::GO && kind == rep::ACK;
    }
    let Some(script) = script else { return };
    if !agreed && !out.0.is_empty() {
        // By the oldest way in.
        assert_eq!(out.number(8), SIZE);
        let flags = out.number(2) as u16;
        assert!(flags & export_flag::HAS_FLAGS != 0);
        out.bytes(if script.no_zeroes { 0 } else { 124 });
    }
    let mut sent = script.sent.clone();
    while !out.0.is_empty() {
        reply(&mut out, &mut sent);
    }
}

fn reply(out: &mut Taken, sent: &mut BTreeMap<u64, (u16, u64)>) {
    let answered = |sent: &mut BTreeMap<u64, (u16, u64)>, cookie| sent.remove(&cookie).expect("asked and not answered");
    match out.number(4) {
        0x6744_6698 => {
            let (error, cookie) = (out.number(4), out.number(8));
            let (command, len) = answered(sent, cookie);
            out.bytes(if command == cmd::READ && error == 0 { len as usize } else { 0 });
        }
        magic @ (0x668e_33ef | 0x6e8a_278c) => {
            let is_extended = magic == 0x6e8a_278c;
            let (flags, kind, cookie) = (out.number(2), out.number(2), out.number(8));
            let len = if is_extended { (out.number(8), out.number(8)).1 } else { out.number(4) };
            assert!(sent.contains_key(&cookie), "a chunk for nobody");
            let mut body = Taken(out.bytes(len as usize));
            match kind as u16 {
                wire::chunk::NONE => {}
                wire::chunk::OFFSET_DATA => assert!(body.number(8) + len - 8 <= SIZE && len > 8),
                wire::chunk::OFFSET_HOLE => assert!(len == 12 && body.number(8) + body.number(4) <= SIZE),
                wire::chunk::BLOCK_STATUS => assert!(!is_extended && len % 8 == 4 && len > 4),
                wire::chunk::BLOCK_STATUS_EXT => assert!(is_extended && len % 16 == 8 && len > 8),
                wire::chunk::ERROR => assert!(body.number(4) > 0 && body.number(2) + 6 == len),
                other => panic!("chunk of kind {other}"),
            }
            if flags & 1 != 0 {
                answered(sent, cookie);
            }
        }
        other => panic!("a reply begins with {other:#x}"),
    }
}
