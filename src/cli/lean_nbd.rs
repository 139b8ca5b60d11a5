//! An NBD client that costs next to nothing: the bench uses it so that it measures the server and not
//! itself. Fixed newstyle, simple replies, one connection with any number of requests under way.

use block_gateway::nbd::wire::{INIT, OPTION, OPTION_REPLY, cmd, handshake, info, option, rep};
use platform::Platform;
use platform::net::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes read at a time.
const BUFFER_LEN: usize = 1 << 20;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const REPLY_LEN: usize = 16;
/// The longest answer to an option that is listened to.
const ANSWER_MAX: u32 = 64 << 10;

/// The connection broke or said something unexpected.
#[derive(Debug, thiserror::Error)]
#[error("lost the connection of the bench: {0}")]
pub struct LeanNbdError(String);

impl From<std::io::Error> for LeanNbdError {
    fn from(error: std::io::Error) -> LeanNbdError {
        LeanNbdError(error.to_string())
    }
}

fn bad(text: impl Into<String>) -> LeanNbdError {
    LeanNbdError(text.into())
}

/// A connection to one export.
pub struct LeanNbd {
    stream: Stream,
    out: Vec<u8>,
    buffer: Vec<u8>,
    from: usize,
    upto: usize,
}

/// An answer, its data passed over.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The number the request had.
    pub cookie: u64,
    /// The protocol's error, 0 = done.
    pub error: u32,
}

impl LeanNbd {
    /// Connects to `HOST:PORT` or `unix:PATH` and opens an export of that many bytes at least.
    ///
    /// # Errors
    /// Nobody listens, there is no such export, what is said is not the protocol.
    pub async fn open(platform: &Platform, addr: &str, export: &str, size_min: u64) -> Result<LeanNbd, LeanNbdError> {
        let mut stream = platform.net().connect(addr).await.map_err(|error| bad(error.to_string()))?;
        if stream.read_u64().await? != INIT || stream.read_u64().await? != OPTION {
            return Err(bad("no NBD server, or an old one"));
        }
        let flags = stream.read_u16().await?;
        let flags = u32::from(flags & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES));
        let mut hello = flags.to_be_bytes().to_vec();
        hello.extend_from_slice(&OPTION.to_be_bytes());
        hello.extend_from_slice(&option::GO.to_be_bytes());
        hello.extend_from_slice(&(export.len() as u32 + 6).to_be_bytes());
        hello.extend_from_slice(&(export.len() as u32).to_be_bytes());
        hello.extend_from_slice(export.as_bytes());
        hello.extend_from_slice(&0u16.to_be_bytes());
        stream.write_all(&hello).await?;
        let mut size = None;
        loop {
            let (magic, asked) = (stream.read_u64().await?, stream.read_u32().await?);
            let (kind, len) = (stream.read_u32().await?, stream.read_u32().await?);
            if magic != OPTION_REPLY || asked != option::GO || len > ANSWER_MAX {
                return Err(bad("an answer that is none"));
            }
            let mut data = vec![0; len as usize];
            stream.read_exact(&mut data).await?;
            match (kind, data.get(2..10)) {
                (rep::ACK, _) => break,
                (rep::INFO, Some(bytes)) if data[..2] == info::EXPORT.to_be_bytes() => {
                    size = bytes.try_into().ok().map(u64::from_be_bytes);
                }
                (rep::INFO, _) => {}
                _ => return Err(bad(format!("{export}: {}", String::from_utf8_lossy(&data)))),
            }
        }
        if size.is_none_or(|size| size < size_min) {
            return Err(bad(format!("{export} is not as large as what is to be measured")));
        }
        Ok(LeanNbd { stream, out: Vec::new(), buffer: vec![0; BUFFER_LEN], from: 0, upto: 0 })
    }

    /// Notes a read; it is sent with the next [`LeanNbd::answer`].
    pub fn read(&mut self, cookie: u64, offset: u64, len: u32) {
        self.request(cmd::READ, cookie, offset, len);
    }

    /// Notes a write; it is sent with the next [`LeanNbd::answer`].
    pub fn write(&mut self, cookie: u64, offset: u64, data: &[u8]) {
        self.request(cmd::WRITE, cookie, offset, data.len() as u32);
        self.out.extend_from_slice(data);
    }

    fn request(&mut self, command: u16, cookie: u64, offset: u64, len: u32) {
        self.out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        self.out.extend_from_slice(&0u16.to_be_bytes());
        self.out.extend_from_slice(&command.to_be_bytes());
        self.out.extend_from_slice(&cookie.to_be_bytes());
        self.out.extend_from_slice(&offset.to_be_bytes());
        self.out.extend_from_slice(&len.to_be_bytes());
    }

    /// Whether an answer has come already.
    pub fn has_answer(&self) -> bool {
        self.upto - self.from >= REPLY_LEN
    }

    /// Sends what was noted and takes the next answer. `data_len` says how many bytes follow a good one.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn answer(&mut self, data_len: impl Fn(u64) -> usize) -> Result<Answered, LeanNbdError> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        while !self.has_answer() {
            self.fill().await?;
        }
        let head = &self.buffer[self.from..self.from + REPLY_LEN];
        let (magic, rest) = head.split_first_chunk::<4>().ok_or_else(|| bad("a short answer"))?;
        let (error, cookie) = rest.split_first_chunk::<4>().ok_or_else(|| bad("a short answer"))?;
        let cookie = u64::from_be_bytes(cookie.try_into().map_err(|_| bad("a short answer"))?);
        let answered = Answered { cookie, error: u32::from_be_bytes(*error) };
        if u32::from_be_bytes(*magic) != REPLY_MAGIC {
            return Err(bad("an answer that is none"));
        }
        self.from += REPLY_LEN;
        let mut left = if answered.error == 0 { data_len(cookie) } else { 0 };
        while left > 0 {
            if self.from == self.upto {
                self.fill().await?;
            }
            let part = left.min(self.upto - self.from);
            self.from += part;
            left -= part;
        }
        Ok(answered)
    }

    async fn fill(&mut self) -> Result<(), LeanNbdError> {
        self.buffer.copy_within(self.from..self.upto, 0);
        (self.from, self.upto) = (0, self.upto - self.from);
        match self.stream.read(&mut self.buffer[self.upto..]).await? {
            0 => Err(bad("the server has closed it")),
            len => {
                self.upto += len;
                Ok(())
            }
        }
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        self.request(cmd::DISC, 0, 0, 0);
        // Whoever does not hear it sees the connection end.
        let _ = self.stream.write_all(&self.out).await;
    }
}
