//! A client that costs next to nothing: prebuilt request bytes out, status and length in. The bench
//! uses it so that it measures the server and not itself.
//!
//! It understands what our own server sends (Content-Length answers) and nothing more.

use bytes::Bytes;
use platform::Platform;
use platform::net::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes read at a time.
const BUFFER_LEN: usize = 64 << 10;

/// One connection, kept alive.
pub struct Lean {
    stream: Stream,
    buffer: Vec<u8>,
    filled: usize,
}

/// An answer, its body read to the end.
pub struct Heard {
    /// HTTP status.
    pub status: u16,
    /// Bytes of its body.
    pub len: u64,
}

/// The connection broke or said something unexpected.
#[derive(Debug, thiserror::Error)]
#[error("lost the connection of the bench: {0}")]
pub struct LeanError(String);

impl From<std::io::Error> for LeanError {
    fn from(error: std::io::Error) -> LeanError {
        LeanError(error.to_string())
    }
}

impl Lean {
    /// Connects.
    pub async fn open(platform: &Platform, addr: &str) -> Result<Lean, LeanError> {
        let stream = platform.net().connect(addr).await.map_err(|error| LeanError(error.to_string()))?;
        Ok(Lean { stream, buffer: vec![0; BUFFER_LEN], filled: 0 })
    }

    /// Sends a request and reads its answer; `see` is shown the body's bytes.
    pub async fn exchange(
        &mut self,
        head: &[u8],
        body: &Bytes,
        mut see: impl FnMut(&[u8]),
    ) -> Result<Heard, LeanError> {
        if body.len() <= 16 << 10 {
            // Small ones go out in one write.
            let mut whole = Vec::with_capacity(head.len() + body.len());
            whole.extend_from_slice(head);
            whole.extend_from_slice(body);
            self.stream.write_all(&whole).await?;
        } else {
            self.stream.write_all(head).await?;
            self.stream.write_all(body).await?;
        }
        let (status, len, head_len) = loop {
            if let Some(parsed) = parse_head(&self.buffer[..self.filled]) {
                break parsed?;
            }
            if self.filled == self.buffer.len() {
                return Err(LeanError("an answer's head is too long".to_owned()));
            }
            self.fill().await?;
        };
        let mut left = len;
        let mut start = head_len;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.filled - start);
            see(&self.buffer[start..start + here]);
            left -= here as u64;
            start += here;
            if left == 0 {
                break;
            }
            (self.filled, start) = (0, 0);
            self.fill().await?;
        }
        self.buffer.copy_within(start..self.filled, 0);
        self.filled -= start;
        Ok(Heard { status, len })
    }

    async fn fill(&mut self) -> Result<(), LeanError> {
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(LeanError("the server closed it".to_owned())),
            len => {
                self.filled += len;
                Ok(())
            }
        }
    }
}

/// Status, body length and head length, once the head is whole.
fn parse_head(bytes: &[u8]) -> Option<Result<(u16, u64, usize), LeanError>> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let bad = || LeanError("an answer cannot be understood".to_owned());
    let parse = || {
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let status: u16 = head.get(9..12)?.parse().ok()?;
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
        let len = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let len = match len {
            Some((_, value)) => value.trim().parse().ok()?,
            None => 0,
        };
        Some((status, len, end))
    };
    Some(parse().ok_or_else(bad))
}

#[cfg(test)]
mod tests {
    use super::parse_head;

    #[test]
    fn heads_are_parsed_once_whole() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert!(parse_head(&head[..20]).is_none());
        assert!(matches!(parse_head(head), Some(Ok((200, 5, 38)))));
        assert!(matches!(parse_head(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(Ok((204, 0, 27)))));
        assert!(matches!(parse_head(b"nonsense\r\n\r\n"), Some(Err(_))));
    }
}
