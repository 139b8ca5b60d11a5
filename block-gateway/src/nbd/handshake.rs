//! The handshake: what client and server agree on before the first request.
//!
//! Every length is looked at before anything is taken for it; what is not known is refused and the
//! session lives on.

use std::any::Any;
use std::io;
use std::rc::Rc;

use client::volume::VolumeError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::{self, Headers, export_flag, handshake, info, option, rep};
use crate::device::Device;
use crate::exports::{Export, Exports};

/// What is stored and what is not.
pub(super) const ALLOCATION: &str = "base:allocation";
/// What has changed since a snapshot, whose name follows.
pub(super) const CHANGED_SINCE: &str = "bixi:changed-since/";
/// Snapshots whose contexts are listed, and contexts that a client may have.
const SNAPSHOTS_MAX: usize = 64;
/// Longer options are not even skipped.
const SKIP_MAX: u32 = 32 << 20;

/// What was agreed on.
pub(super) struct Agreed {
    pub device: Rc<dyn Device>,
    pub headers: Headers,
    /// What was asked for: a context's number is its place here, from 1 on.
    pub contexts: Vec<String>,
    /// Keeps the volume attached.
    pub lease: Box<dyn Any>,
    /// See [`Export::leave`].
    pub leave: Box<dyn Fn() -> Box<dyn Any>>,
}

struct Session<'a, S> {
    stream: &'a mut S,
    exports: &'a dyn Exports,
    only: Option<&'a str>,
    headers: Headers,
    greeted: Greeted,
    /// The export whose contexts were set.
    contexts_of: Option<String>,
    contexts: Vec<String>,
}

/// What a client said to the first words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeted {
    no_zeroes: bool,
    /// What follows is inside TLS.
    is_tls: bool,
}

/// The first words; `None`: the client has broken the protocol.
pub(super) async fn greet<S>(stream: &mut S) -> io::Result<Option<Greeted>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut hello = Vec::new();
    hello.extend_from_slice(&wire::INIT.to_be_bytes());
    hello.extend_from_slice(&wire::OPTION.to_be_bytes());
    hello.extend_from_slice(&(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
    stream.write_all(&hello).await?;
    stream.flush().await?;
    let flags = stream.read_u32().await?;
    if flags & !u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES) != 0 {
        return Ok(None);
    }
    Ok(Some(Greeted { no_zeroes: flags & u32::from(handshake::NO_ZEROES) != 0, is_tls: false }))
}

/// Listens to nothing but STARTTLS, and answers it; `None`: the client has ended the session, or has broken
/// the protocol. Nothing that was said before counts inside TLS.
pub(super) async fn wait_for_tls<S>(stream: &mut S) -> io::Result<Option<Greeted>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let Some(greeted) = greet(stream).await? else { return Ok(None) };
    loop {
        if stream.read_u64().await? != wire::OPTION {
            return Ok(None);
        }
        let (option, len) = (stream.read_u32().await?, stream.read_u32().await?);
        if len > SKIP_MAX {
            return Ok(None);
        }
        let mut rest = (&mut *stream).take(len.into());
        if tokio::io::copy(&mut rest, &mut tokio::io::sink()).await? < u64::from(len) {
            return Ok(None);
        }
        let (kind, text) = match option {
            // Has no answer but an export.
            option::EXPORT_NAME => return Ok(None),
            option::ABORT | option::STARTTLS if len == 0 => (rep::ACK, ""),
            option::ABORT | option::STARTTLS => (rep::INVALID, "the option has no data"),
            _ => (rep::TLS_REQD, "this server speaks TLS only: STARTTLS comes first"),
        };
        stream.write_all(&wire::option_reply(option, kind, text.as_bytes())).await?;
        stream.flush().await?;
        match (option, kind) {
            (option::STARTTLS, rep::ACK) => return Ok(Some(Greeted { is_tls: true, ..greeted })),
            (option::ABORT, rep::ACK) => return Ok(None),
            _ => {}
        }
    }
}

/// Runs the handshake behind the first words; `None`: the client has ended the session, or broken the
/// protocol. With `only`, that export is the only one, and the one meant by an empty name.
pub(super) async fn run<S>(
    stream: &mut S,
    greeted: Greeted,
    exports: &dyn Exports,
    only: Option<&str>,
) -> io::Result<Option<Agreed>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut session =
        Session { stream, exports, only, headers: Headers::Simple, greeted, contexts_of: None, contexts: Vec::new() };
    session.options().await
}

impl<S> Session<'_, S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    async fn options(&mut self) -> io::Result<Option<Agreed>> {
        loop {
            if self.stream.read_u64().await? != wire::OPTION {
                return Ok(None);
            }
            let (option, len) = (self.stream.read_u32().await?, self.stream.read_u32().await?);
            if len > wire::OPTION_MAX {
                if len > SKIP_MAX || !self.skip(len).await? || option == option::EXPORT_NAME {
                    return Ok(None);
                }
                self.answer(option, rep::TOO_BIG, b"too much data for an option").await?;
                continue;
            }
            let mut data = vec![0; len as usize];
            self.stream.read_exact(&mut data).await?;
            match option {
                option::EXPORT_NAME => return self.export_name(&data).await,
                option::ABORT => {
                    self.answer(option, rep::ACK, &[]).await?;
                    return Ok(None);
                }
                option::GO => {
                    if let Some(agreed) = self.info(option, &data).await? {
                        return Ok(Some(agreed));
                    }
                }
                option::INFO => _ = self.info(option, &data).await?,
                option::LIST => self.list(&data).await?,
                option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => self.headers(option, &data).await?,
                option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, &data).await?,
                option::STARTTLS if self.greeted.is_tls => {
                    self.answer(option, rep::INVALID, b"this is TLS already").await?;
                }
                option::STARTTLS => self.answer(option, rep::POLICY, b"this server has no TLS").await?,
                _ => self.answer(option, rep::UNSUP, b"unknown option").await?,
            }
        }
    }

    async fn answer(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        // Texts of refusals may hold what the client sent; the protocol bounds them.
        let data = if kind >= rep::UNSUP { &data[..data.len().min(wire::NAME_MAX)] } else { data };
        self.stream.write_all(&wire::option_reply(option, kind, data)).await?;
        self.stream.flush().await
    }

    async fn skip(&mut self, len: u32) -> io::Result<bool> {
        let mut rest = (&mut *self.stream).take(len.into());
        Ok(tokio::io::copy(&mut rest, &mut tokio::io::sink()).await? == u64::from(len))
    }

    async fn list(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.answer(option::LIST, rep::INVALID, b"a list has no data").await;
        }
        let names = match self.only {
            Some(only) => Ok(vec![only.to_owned()]),
            None => self.exports.names().await,
        };
        let names = match names {
            Ok(names) => names,
            Err(error) => return self.answer(option::LIST, rep::SHUTDOWN, error.to_string().as_bytes()).await,
        };
        for name in names {
            let entry = [&(name.len() as u32).to_be_bytes()[..], name.as_bytes()].concat();
            self.answer(option::LIST, rep::SERVER, &entry).await?;
        }
        self.answer(option::LIST, rep::ACK, &[]).await
    }

    async fn headers(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.answer(option, rep::INVALID, b"the option has no data").await;
        }
        match (option, self.headers) {
            (option::STRUCTURED_REPLY, Headers::Extended) => {
                self.answer(option, rep::EXT_HEADER_REQD, b"extended headers are agreed on").await
            }
            (option::STRUCTURED_REPLY, Headers::Structured) | (option::EXTENDED_HEADERS, Headers::Extended) => {
                self.answer(option, rep::INVALID, b"agreed on already").await
            }
            (option::STRUCTURED_REPLY, _) => {
                self.headers = Headers::Structured;
                self.answer(option, rep::ACK, &[]).await
            }
            _ => {
                self.headers = Headers::Extended;
                self.answer(option, rep::ACK, &[]).await
            }
        }
    }

    async fn contexts(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        if option == option::SET_META_CONTEXT {
            (self.contexts_of, self.contexts) = (None, Vec::new());
        }
        if self.headers == Headers::Simple {
            return self.answer(option, rep::INVALID, b"structured replies come first").await;
        }
        let Some((name, queries)) = wire::parse_contexts(data) else {
            return self.answer(option, rep::INVALID, b"lengths disagree").await;
        };
        if name.len() > wire::NAME_MAX {
            return self.answer(option, rep::TOO_BIG, b"name too long").await;
        }
        let name = match self.meant(name) {
            Ok(name) => name,
            Err(error) => return self.answer(option, refusal(&error), error.to_string().as_bytes()).await,
        };
        if let Err(error) = self.exports.size_of(&name).await {
            return self.answer(option, refusal(&error), error.to_string().as_bytes()).await;
        }
        let is_listing = option == option::LIST_META_CONTEXT;
        let asks = |start: &str| queries.iter().any(|query| query.starts_with(start));
        let mut there = vec![ALLOCATION.to_owned()];
        if asks("bixi:") || is_listing && queries.is_empty() {
            let most = if is_listing { SNAPSHOTS_MAX } else { usize::MAX };
            match self.exports.snapshots_of(&name, most).await {
                Ok(names) => there.extend(names.iter().map(|snapshot| format!("{CHANGED_SINCE}{snapshot}"))),
                Err(error) => return self.answer(option, refusal(&error), error.to_string().as_bytes()).await,
            }
        }
        // A listing may ask for all of a kind.
        let is_wanted = |context: &String| {
            queries.contains(context)
                || is_listing
                    && (queries.is_empty()
                        || queries.iter().any(|query| query.ends_with(':') && context.starts_with(query)))
        };
        there.retain(is_wanted);
        there.truncate(SNAPSHOTS_MAX + 1);
        for (place, context) in there.iter().enumerate() {
            let id = if is_listing { 0 } else { place as u32 + 1 };
            let entry = [&id.to_be_bytes()[..], context.as_bytes()].concat();
            self.answer(option, rep::META_CONTEXT, &entry).await?;
        }
        if !is_listing {
            self.contexts = there;
        }
        if !is_listing {
            self.contexts_of = Some(name);
        }
        self.answer(option, rep::ACK, &[]).await
    }

    /// The export that a client means.
    fn meant(&self, name: String) -> Result<String, VolumeError> {
        match self.only {
            Some(only) if name.is_empty() || name == only => Ok(only.to_owned()),
            Some(_) => Err(VolumeError::no_volume(&name)),
            None => Ok(name),
        }
    }

    fn flags(&self, is_read_only: bool) -> u16 {
        use export_flag::*;
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE | CAN_MULTI_CONN;
        flags |= if is_read_only { READ_ONLY } else { SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO };
        if self.headers >= Headers::Structured {
            flags |= SEND_DF;
        }
        if self.headers == Headers::Extended {
            flags |= BLOCK_STATUS_PAYLOAD;
        }
        flags
    }

    fn agreed(&mut self, name: &str, export: Export) -> Agreed {
        let is_of_it = self.contexts_of.as_deref() == Some(name);
        let contexts = if is_of_it { std::mem::take(&mut self.contexts) } else { Vec::new() };
        Agreed { device: export.device, headers: self.headers, contexts, lease: export.lease, leave: export.leave }
    }

    /// INFO, and GO, which ends the handshake if the export can be had.
    async fn info(&mut self, option: u32, data: &[u8]) -> io::Result<Option<Agreed>> {
        let Some((name, kinds)) = wire::parse_info(data) else {
            self.answer(option, rep::INVALID, b"lengths disagree").await?;
            return Ok(None);
        };
        if name.len() > wire::NAME_MAX {
            self.answer(option, rep::TOO_BIG, b"name too long").await?;
            return Ok(None);
        }
        let name = match self.meant(name) {
            Ok(name) => name,
            Err(error) => {
                self.answer(option, refusal(&error), error.to_string().as_bytes()).await?;
                return Ok(None);
            }
        };
        let had = match option {
            option::GO => self.exports.open(&name).await.map(|export| (export.device.size(), Some(export))),
            _ => self.exports.size_of(&name).await.map(|size| (size, None)),
        };
        let (size, export) = match had {
            Ok(had) => had,
            Err(error) => {
                self.answer(option, refusal(&error), error.to_string().as_bytes()).await?;
                return Ok(None);
            }
        };
        if kinds.contains(&info::NAME) {
            let entry = [&info::NAME.to_be_bytes()[..], name.as_bytes()].concat();
            self.answer(option, rep::INFO, &entry).await?;
        }
        let sizes = [wire::BLOCK_MIN, wire::BLOCK_BEST, wire::PAYLOAD_MAX as u32].map(u32::to_be_bytes).concat();
        self.answer(option, rep::INFO, &[&info::BLOCK_SIZE.to_be_bytes()[..], &sizes].concat()).await?;
        let told =
            [&info::EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &self.flags(is_read_only(&name)).to_be_bytes()]
                .concat();
        self.answer(option, rep::INFO, &told).await?;
        self.answer(option, rep::ACK, &[]).await?;
        Ok(export.map(|export| self.agreed(&name, export)))
    }

    /// The oldest way in: it cannot be refused but by hanging up.
    async fn export_name(&mut self, data: &[u8]) -> io::Result<Option<Agreed>> {
        let Ok(name) = std::str::from_utf8(data) else { return Ok(None) };
        let Ok(name) = self.meant(name.to_owned()) else { return Ok(None) };
        let name = name.as_str();
        let export = match self.exports.open(name).await {
            Ok(export) => export,
            Err(error) => {
                tracing::info!(export = name, %error, "a client was turned away");
                return Ok(None);
            }
        };
        let mut reply = export.device.size().to_be_bytes().to_vec();
        reply.extend_from_slice(&self.flags(is_read_only(name)).to_be_bytes());
        if !self.greeted.no_zeroes {
            reply.extend_from_slice(&[0; 124]);
        }
        self.stream.write_all(&reply).await?;
        self.stream.flush().await?;
        Ok(Some(self.agreed(name, export)))
    }
}

/// Snapshots are.
fn is_read_only(name: &str) -> bool {
    name.contains('@')
}

fn refusal(error: &VolumeError) -> u32 {
    match error {
        VolumeError::NotFound(_) => rep::UNKNOWN,
        VolumeError::Busy(_) => rep::POLICY,
        _ => rep::SHUTDOWN,
    }
}
