//! The transmission phase: requests are carried out side by side, their replies go out as they are ready.
//!
//! A change is durable before its reply, so a flush covers what was replied before it, on every
//! connection. Bytes under way are bounded for each connection: a request holds its share from before its
//! payload is read until its reply is written, so a client that reads no replies is read no more requests.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::buffer::Buffer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::handshake::{Agreed, CHANGED_SINCE};
use super::wire::{self, Headers, Request, chunk, cmd, cmd_flag, errno};
use crate::device::{Device, Fault, Run};

/// Requests of a connection under way at once.
const REQUESTS_MAX: usize = 256;
/// Bytes of a connection's requests under way at once, KiB.
const BUDGET_KIB: u32 = 64 << 10;
/// Bytes read at a time; larger payloads are read in place.
const READ_LEN: usize = 64 << 10;
/// Frames below this are joined to one write.
const JOINED_MAX: usize = 64 << 10;
/// Runs that a block status tells at most.
const RUNS_MAX: usize = 64 << 10;
/// What a block status looks at, at most.
const STATUS_MAX: u64 = 64 << 30;
/// How long a client that has ended its session is served the replies that it is owed.
const FAREWELL: Duration = Duration::from_secs(120);

struct Connection {
    device: Rc<dyn Device>,
    headers: Headers,
    contexts: Vec<String>,
}

/// Changes of a connection under way, also when its client has gone.
#[derive(Default)]
struct Changes {
    count: Cell<usize>,
    /// What those who come next wait for.
    gone: RefCell<Option<Box<dyn Any>>>,
}

/// One of them.
struct Underway(Rc<Changes>);

impl Underway {
    fn begin(changes: &Rc<Changes>) -> Underway {
        changes.count.set(changes.count.get() + 1);
        Underway(Rc::clone(changes))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.gone.borrow_mut().take();
        }
    }
}

/// A reply, or its refusal: number and text.
type Reply = Result<Vec<Bytes>, (u32, String)>;

/// A reply on its way out, with the shares that its request holds until it is written.
struct Owed {
    frames: Vec<Bytes>,
    _shares: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// Serves requests until the client ends the session or breaks the protocol.
pub(super) async fn run<S>(platform: &Platform, stream: S, agreed: Agreed) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    // Requests that came together are read together.
    let mut reader = tokio::io::BufReader::with_capacity(READ_LEN, reader);
    let (send, replies) = mpsc::unbounded_channel::<Owed>();
    let mut writing = platform.tasks().spawn(send_replies(writer, replies));
    let connection =
        Rc::new(Connection { device: Rc::clone(&agreed.device), headers: agreed.headers, contexts: agreed.contexts });
    let budget = Arc::new(Semaphore::new(BUDGET_KIB as usize));
    let slots = Arc::new(Semaphore::new(REQUESTS_MAX));
    let changes = Rc::new(Changes::default());
    let mut head = vec![0; agreed.headers.request_len()];
    let ended = loop {
        match reader.read_exact(&mut head).await {
            Ok(_) => {}
            // Hung up between two requests.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Ok(()),
            Err(error) => break Err(error),
        }
        let Some(request) = Request::parse(&head, agreed.headers) else {
            break Err(io::Error::new(io::ErrorKind::InvalidData, "no request begins so"));
        };
        if request.cmd == cmd::DISC {
            break Ok(());
        }
        // Never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break Ok(()) };
        let Ok(room) = Arc::clone(&budget).acquire_many_owned(share_kib(&request)).await else { break Ok(()) };
        let payload = match payload(&mut reader, &request, agreed.headers).await {
            Ok(Some(payload)) => payload,
            Ok(None) => break Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than a request has")),
            Err(error) => break Err(error),
        };
        let (connection, send) = (Rc::clone(&connection), send.clone());
        let is_change = matches!(request.cmd, cmd::WRITE | cmd::TRIM | cmd::WRITE_ZEROES);
        let underway = is_change.then(|| Underway::begin(&changes));
        platform.tasks().spawn(async move {
            let frames = connection.reply(&request, payload).await;
            drop(underway);
            // The writer is gone when the client is.
            let _ = send.send(Owed { frames, _shares: (slot, room) });
        });
    };
    if changes.count.get() > 0 {
        *changes.gone.borrow_mut() = Some((agreed.leave)());
    }
    // What is under way is carried out and answered first.
    let written = async {
        let _ = slots.acquire_many(REQUESTS_MAX as u32).await;
        drop(send);
        (&mut writing).await.unwrap_or(Ok(()))
    };
    let written = match platform.clock().timeout(FAREWELL, written).await {
        Ok(written) => written,
        Err(_) => {
            writing.abort();
            Err(io::Error::new(io::ErrorKind::TimedOut, "the last replies were not read in two minutes"))
        }
    };
    drop(agreed.lease);
    ended.and(written)
}

/// What a request holds of its connection's budget: about what it, or its reply, takes of memory.
fn share_kib(request: &Request) -> u32 {
    // The range of such a status is in its payload.
    let is_status = request.cmd == cmd::BLOCK_STATUS && request.flags & cmd_flag::PAYLOAD_LEN != 0;
    let len = if is_status { wire::PAYLOAD_MAX } else { request.len.min(wire::PAYLOAD_MAX) };
    (len >> 10).max(1) as u32
}

/// Sends replies as they come: those that wait together go out together.
async fn send_replies<W: tokio::io::AsyncWrite + Unpin>(
    mut writer: W,
    mut replies: mpsc::UnboundedReceiver<Owed>,
) -> io::Result<()> {
    let (mut joined, mut shares) = (Vec::new(), Vec::new());
    while let Some(owed) = replies.recv().await {
        let mut next = Some(owed);
        while let Some(Owed { frames, _shares }) = next {
            shares.push(_shares);
            for frame in frames {
                if frame.len() >= JOINED_MAX {
                    writer.write_all(&joined).await?;
                    joined.clear();
                    writer.write_all(&frame).await?;
                } else {
                    joined.extend_from_slice(&frame);
                }
            }
            if joined.is_empty() {
                shares.clear();
            }
            next = if joined.len() < JOINED_MAX { replies.try_recv().ok() } else { None };
        }
        writer.write_all(&joined).await?;
        joined.clear();
        writer.flush().await?;
        shares.clear();
    }
    writer.shutdown().await
}

/// The bytes behind a request's header; `None`: more than can be taken.
async fn payload<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut R,
    request: &Request,
    headers: Headers,
) -> io::Result<Option<Bytes>> {
    let says_so = headers == Headers::Extended && request.flags & cmd_flag::PAYLOAD_LEN != 0;
    if request.cmd != cmd::WRITE && !says_so {
        return Ok(Some(Bytes::new()));
    }
    if request.len > wire::PAYLOAD_MAX {
        return Ok(None);
    }
    // Large memory is not touched before its bytes come.
    let mut bytes = Buffer::stale(request.len as usize);
    reader.read_exact(&mut bytes).await?;
    Ok(Some(bytes.freeze()))
}

impl Connection {
    async fn reply(&self, request: &Request, payload: Bytes) -> Vec<Bytes> {
        match self.carry_out(request, payload).await {
            Ok(frames) => frames,
            Err((number, text)) => {
                tracing::debug!(
                    command = request.cmd,
                    offset = request.offset,
                    len = request.len,
                    text,
                    "request refused"
                );
                vec![Bytes::from(wire::plain_reply(self.headers, request, number, &text))]
            }
        }
    }

    async fn carry_out(&self, request: &Request, payload: Bytes) -> Reply {
        self.check(request)?;
        let (device, offset, len) = (&self.device, request.offset, request.len);
        let done = match request.cmd {
            cmd::READ => return self.read(request).await,
            cmd::BLOCK_STATUS => return self.block_status(request, &payload).await,
            cmd::WRITE => device.write(offset, payload).await,
            cmd::TRIM | cmd::WRITE_ZEROES => device.clear(offset, len).await,
            cmd::FLUSH => device.flush(),
            _ => Ok(()),
        };
        match done {
            Ok(()) => Ok(vec![Bytes::from(wire::plain_reply(self.headers, request, 0, ""))]),
            Err(error) => Err((wire::errno_of(Fault::from(&error)), error.to_string())),
        }
    }

    /// Whether the request is one that the protocol has, for bytes that the device has.
    fn check(&self, request: &Request) -> Result<(), (u32, String)> {
        let invalid = |text: &str| Err((errno::EINVAL, text.to_owned()));
        let extended = self.headers == Headers::Extended;
        let structured = self.headers >= Headers::Structured;
        let mut flags = match request.cmd {
            cmd::READ => cmd_flag::FUA | if structured { cmd_flag::DF } else { 0 },
            // With extended headers it should say that it has a payload; QEMU's client does not.
            cmd::WRITE => cmd_flag::FUA | if extended { cmd_flag::PAYLOAD_LEN } else { 0 },
            cmd::FLUSH | cmd::CACHE | cmd::TRIM => cmd_flag::FUA,
            cmd::WRITE_ZEROES => cmd_flag::FUA | cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO,
            cmd::BLOCK_STATUS => cmd_flag::FUA | cmd_flag::REQ_ONE | if extended { cmd_flag::PAYLOAD_LEN } else { 0 },
            _ => return invalid("unknown command"),
        };
        if request.cmd == cmd::BLOCK_STATUS && self.contexts.is_empty() {
            return invalid("no context was agreed on");
        }
        flags = request.flags & !flags;
        if flags != 0 {
            return invalid("flags that the command does not have");
        }
        if request.cmd == cmd::FLUSH {
            return if request.offset == 0 && request.len == 0 { Ok(()) } else { invalid("a flush has no range") };
        }
        let has_payload = request.cmd == cmd::BLOCK_STATUS && request.flags & cmd_flag::PAYLOAD_LEN != 0;
        let len = if has_payload { 0 } else { request.len };
        let changes = matches!(request.cmd, cmd::WRITE | cmd::WRITE_ZEROES | cmd::TRIM);
        if changes && self.device.is_read_only() {
            return Err((errno::EPERM, "a snapshot can only be read".into()));
        }
        let end = request.offset.checked_add(len);
        if end.is_none_or(|end| end > self.device.size()) {
            let number =
                if matches!(request.cmd, cmd::WRITE | cmd::WRITE_ZEROES) { errno::ENOSPC } else { errno::EINVAL };
            return Err((number, format!("beyond the end at {}", self.device.size())));
        }
        if request.cmd == cmd::READ && len > wire::PAYLOAD_MAX {
            return invalid("more than a read answers");
        }
        if request.cmd == cmd::BLOCK_STATUS && len == 0 && !has_payload {
            return invalid("a status of nothing");
        }
        Ok(())
    }

    async fn read(&self, request: &Request) -> Reply {
        let told = |error: client::volume::VolumeError| (wire::errno_of(Fault::from(&error)), error.to_string());
        let (start, len) = (request.offset, request.len);
        if self.headers == Headers::Simple {
            let bytes = self.device.read(start, len).await.map_err(told)?;
            return Ok(vec![Bytes::from(wire::simple_reply(request.cookie, 0)), bytes]);
        }
        if len == 0 {
            return Ok(vec![Bytes::from(wire::chunk_header(self.headers, request, chunk::NONE, true, 0))]);
        }
        let runs = match request.flags & cmd_flag::DF {
            0 => self.device.status(start, len).await.map_err(told)?,
            _ => vec![Run { len, is_hole: false }],
        };
        let bytes = match runs[..] {
            [Run { is_hole: true, .. }] => Bytes::new(),
            _ => self.device.read(start, len).await.map_err(told)?,
        };
        let (mut frames, mut at) = (Vec::new(), 0);
        for (number, run) in runs.iter().enumerate() {
            let is_last = number + 1 == runs.len();
            let place = (start + at).to_be_bytes();
            if run.is_hole {
                frames.push(Bytes::from(wire::chunk_header(self.headers, request, chunk::OFFSET_HOLE, is_last, 12)));
                frames.push(Bytes::from([&place[..], &(run.len as u32).to_be_bytes()].concat()));
            } else {
                let kind = chunk::OFFSET_DATA;
                frames.push(Bytes::from(wire::chunk_header(self.headers, request, kind, is_last, 8 + run.len)));
                frames.push(Bytes::copy_from_slice(&place));
                frames.push(bytes.slice(at as usize..(at + run.len) as usize));
            }
            at += run.len;
        }
        Ok(frames)
    }

    async fn block_status(&self, request: &Request, payload: &Bytes) -> Reply {
        let invalid = |text: &str| Err((errno::EINVAL, text.to_owned()));
        let mut len = request.len;
        let mut wanted: Vec<u32> = (1..=self.contexts.len() as u32).collect();
        if request.flags & cmd_flag::PAYLOAD_LEN != 0 {
            // The length of the effect, then the contexts that are wanted.
            if payload.len() < 8 || !payload.len().is_multiple_of(4) {
                return invalid("a payload of another length");
            }
            let (first, ids) = payload.split_at(8);
            len = first.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            let number = |id: &[u8]| id.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
            let ids: Vec<u32> = ids.chunks_exact(4).map(number).collect();
            let mut once = ids.clone();
            once.sort_unstable();
            once.dedup();
            if once.len() < ids.len() || !ids.iter().all(|id| wanted.contains(id)) {
                return invalid("contexts that were not agreed on");
            }
            wanted = ids;
            if len == 0 || request.offset.checked_add(len).is_none_or(|end| end > self.device.size()) {
                return invalid("a status of nothing, or beyond the end");
            }
        }
        if wanted.is_empty() {
            return Ok(vec![Bytes::from(wire::chunk_header(self.headers, request, chunk::NONE, true, 0))]);
        }
        let mut frames = Vec::new();
        for (place, id) in wanted.iter().enumerate() {
            let mut runs = self.runs(&self.contexts[*id as usize - 1], request.offset, len.min(STATUS_MAX)).await?;
            runs.truncate(if request.flags & cmd_flag::REQ_ONE != 0 { 1 } else { RUNS_MAX });
            let body = self.status_body(*id, &runs);
            let is_extended = self.headers == Headers::Extended;
            let kind = if is_extended { chunk::BLOCK_STATUS_EXT } else { chunk::BLOCK_STATUS };
            let is_last = place + 1 == wanted.len();
            let header = wire::chunk_header(self.headers, request, kind, is_last, body.len() as u64);
            frames.extend([Bytes::from(header), Bytes::from(body)]);
        }
        Ok(frames)
    }

    /// What a context says of a range: lengths and states.
    async fn runs(&self, context: &str, start: u64, len: u64) -> Result<Vec<(u64, u32)>, (u32, String)> {
        let told = |error: client::volume::VolumeError| (wire::errno_of(Fault::from(&error)), error.to_string());
        Ok(match context.strip_prefix(CHANGED_SINCE) {
            Some(snapshot) => {
                let runs = self.device.changed_since(snapshot, start, len).await.map_err(told)?;
                runs.iter().map(|run| (run.len, u32::from(run.is_changed))).collect()
            }
            None => {
                let runs = self.device.status(start, len).await.map_err(told)?;
                // A hole that reads as zeroes, or bytes.
                runs.iter().map(|run| (run.len, if run.is_hole { 3 } else { 0 })).collect()
            }
        })
    }

    fn status_body(&self, id: u32, runs: &[(u64, u32)]) -> Vec<u8> {
        let is_extended = self.headers == Headers::Extended;
        let mut body = id.to_be_bytes().to_vec();
        if is_extended {
            body.extend_from_slice(&(runs.len() as u32).to_be_bytes());
        }
        for (len, state) in runs {
            if is_extended {
                body.extend_from_slice(&len.to_be_bytes());
                body.extend_from_slice(&u64::from(*state).to_be_bytes());
            } else {
                // Runs are at most as long as the request, whose length has 32 bits here.
                body.extend_from_slice(&(*len as u32).to_be_bytes());
                body.extend_from_slice(&state.to_be_bytes());
            }
        }
        body
    }
}
