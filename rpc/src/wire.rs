//! Frames on a stream: one frame is one write; a reader bounds every length before it allocates.

use bytes::Bytes;
use crypto::mac::FrameMac;
use platform::buffer::Buffer;
use proto::error::CodecError;
use proto::frame::{FrameHeader, FrameKind, HEADER_LEN, PROTOCOL_VERSION, payload_checksum, set_mac};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use types::ids::{ClusterId, RequestId, StoreId};

/// A broken connection.
#[derive(Debug, Error)]
pub(crate) enum WireError {
    #[error("connection closed")]
    Closed,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("frame of another cluster ({0})")]
    Cluster(ClusterId),
    #[error("frame is not authentic")]
    Mac,
    #[error("{0}")]
    Tls(#[from] platform::tls::TlsError),
    #[error("handshake: {0}")]
    Handshake(&'static str),
}

/// A frame to send.
pub(crate) struct Outgoing {
    pub kind: FrameKind,
    pub cluster: ClusterId,
    pub store: StoreId,
    pub call: u64,
    pub request: RequestId,
    pub deadline_ms: u32,
    pub message: Vec<u8>,
    pub payload: Bytes,
}

/// A frame that arrived, checked.
pub(crate) struct Incoming {
    pub header: FrameHeader,
    pub message: Vec<u8>,
    pub payload: Bytes,
}

/// Frames whose payload is below this are copied into one buffer with the header.
const COPY_MAX: usize = 16 << 10;

pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    stream: &mut W,
    frame: Outgoing,
    mac: Option<&FrameMac>,
) -> Result<(), WireError> {
    let header = FrameHeader {
        versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
        kind: frame.kind,
        cluster: frame.cluster,
        store: frame.store,
        call: frame.call,
        request: frame.request,
        deadline_ms: frame.deadline_ms,
        message_len: frame.message.len() as u32,
        payload_len: frame.payload.len() as u32,
        payload_crc: payload_checksum(&frame.payload),
        mac: [0; 16],
    };
    let mut bytes = header.encode(&frame.message);
    if let Some(mac) = mac {
        let tag = mac.tag(&[&bytes[..64], &frame.message]);
        set_mac(&mut bytes, tag);
    }
    let mut out = Vec::with_capacity(HEADER_LEN + frame.message.len() + frame.payload.len().min(COPY_MAX));
    out.extend_from_slice(&bytes);
    out.extend_from_slice(&frame.message);
    if frame.payload.len() <= COPY_MAX {
        out.extend_from_slice(&frame.payload);
        stream.write_all(&out).await?;
    } else {
        let mut parts = bytes::Buf::chain(Bytes::from(out), frame.payload);
        stream.write_all_buf(&mut parts).await?;
    }
    // TLS may hold a part of it back.
    stream.flush().await?;
    Ok(())
}

pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    stream: &mut R,
    cluster: ClusterId,
    mac: Option<&FrameMac>,
) -> Result<Incoming, WireError> {
    let mut head = [0u8; HEADER_LEN];
    match stream.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(WireError::Closed),
        Err(error) => return Err(error.into()),
    }
    let header = FrameHeader::decode(&head)?;
    if header.cluster != cluster {
        return Err(WireError::Cluster(header.cluster));
    }
    let mut message = vec![0; header.message_len as usize];
    stream.read_exact(&mut message).await?;
    let payload = if header.payload_len == 0 {
        Bytes::new()
    } else {
        let mut buffer = Buffer::zeroed(header.payload_len as usize);
        stream.read_exact(&mut buffer).await?;
        buffer.freeze()
    };
    FrameHeader::verify(&head, &message, &payload)?;
    if let Some(mac) = mac
        && !mac.verify(&[&head[..64], &message], &header.mac)
    {
        return Err(WireError::Mac);
    }
    Ok(Incoming { header, message, payload })
}
