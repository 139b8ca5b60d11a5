//! Opening a connection: mutual TLS where the process has certificates, then both ends prove that
//! they hold the cluster secret (messages of `crypto::mac`). Without TLS (simulated machines) the
//! secret also gives a mac key for each direction; inside TLS frames need no mac of their own.

use bytes::Bytes;
use crypto::hash::constant_time_eq;
use crypto::mac::{FrameMac, Role, proof, session_key};
use platform::net::Stream;
use platform::random::Random;
use platform::tls::MutualTls;
use proto::frame::FrameKind;
use proto::roles::Roles;
use tokio::io::{AsyncRead, AsyncWrite};
use types::ids::{ClusterId, RequestId, StoreId};

use crate::wire::{Outgoing, WireError, read_frame, write_frame};

const NONCE_LEN: usize = 32;

/// The keys of a connection that is not inside TLS.
pub(crate) struct Keys {
    pub send: FrameMac,
    pub receive: FrameMac,
}

/// A connection whose other end is known.
pub(crate) struct Opened {
    pub stream: Stream,
    /// What the other end may be.
    pub peer: Roles,
    /// Absent inside TLS.
    pub send: Option<FrameMac>,
    /// Absent inside TLS.
    pub receive: Option<FrameMac>,
}

impl Opened {
    fn new(stream: Stream, peer: Roles, keys: Keys, inside_tls: bool) -> Opened {
        let (send, receive) = if inside_tls { (None, None) } else { (Some(keys.send), Some(keys.receive)) };
        Opened { stream, peer, send, receive }
    }
}

/// Opens `stream` as the caller.
pub(crate) async fn open(
    mut stream: Stream,
    cluster: ClusterId,
    secret: &[u8],
    tls: Option<&MutualTls>,
    random: &Random,
) -> Result<Opened, WireError> {
    let mut peer = Roles::ALL;
    if let Some(tls) = tls {
        let (inside, uris) = tls.connect(stream).await?;
        (stream, peer) = (inside, Roles::of_uris(cluster, &uris));
    }
    let keys = initiate(&mut stream, cluster, secret, random).await?;
    Ok(Opened::new(stream, peer, keys, tls.is_some()))
}

/// Opens `stream` as the one that was called.
pub(crate) async fn welcome(
    mut stream: Stream,
    cluster: ClusterId,
    secret: &[u8],
    tls: Option<&MutualTls>,
    random: &Random,
) -> Result<Opened, WireError> {
    let mut peer = Roles::ALL;
    if let Some(tls) = tls {
        let (inside, uris) = tls.accept(stream).await?;
        (stream, peer) = (inside, Roles::of_uris(cluster, &uris));
    }
    let keys = accept(&mut stream, cluster, secret, random).await?;
    Ok(Opened::new(stream, peer, keys, tls.is_some()))
}

fn hello(cluster: ClusterId, message: Vec<u8>) -> Outgoing {
    Outgoing {
        kind: FrameKind::Hello,
        cluster,
        store: StoreId(0),
        call: 0,
        request: RequestId(0),
        deadline_ms: 0,
        message,
        payload: Bytes::new(),
    }
}

fn fresh_nonce(random: &Random) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce);
    nonce
}

async fn read_hello<S: AsyncRead + Unpin>(
    stream: &mut S,
    cluster: ClusterId,
    len: usize,
) -> Result<Vec<u8>, WireError> {
    let frame = read_frame(stream, cluster, None).await?;
    if frame.header.kind != FrameKind::Hello || frame.message.len() != len || !frame.payload.is_empty() {
        return Err(WireError::Handshake("unexpected frame"));
    }
    Ok(frame.message)
}

async fn initiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    cluster: ClusterId,
    secret: &[u8],
    random: &Random,
) -> Result<Keys, WireError> {
    let nonce_a = fresh_nonce(random);
    write_frame(stream, hello(cluster, nonce_a.to_vec()), None).await?;
    let answer = read_hello(stream, cluster, NONCE_LEN + 32).await?;
    let (nonce_b, their_proof) = answer.split_at(NONCE_LEN);
    if !constant_time_eq(their_proof, &proof(secret, &nonce_a, nonce_b, Role::Acceptor)) {
        return Err(WireError::Handshake("the other end does not hold the cluster secret"));
    }
    write_frame(stream, hello(cluster, proof(secret, &nonce_a, nonce_b, Role::Initiator).to_vec()), None).await?;
    Ok(Keys {
        send: FrameMac::new(&session_key(secret, &nonce_a, nonce_b, Role::Initiator)),
        receive: FrameMac::new(&session_key(secret, &nonce_a, nonce_b, Role::Acceptor)),
    })
}

async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    cluster: ClusterId,
    secret: &[u8],
    random: &Random,
) -> Result<Keys, WireError> {
    let nonce_a = read_hello(stream, cluster, NONCE_LEN).await?;
    let nonce_b = fresh_nonce(random);
    let mut answer = nonce_b.to_vec();
    answer.extend_from_slice(&proof(secret, &nonce_a, &nonce_b, Role::Acceptor));
    write_frame(stream, hello(cluster, answer), None).await?;
    let their_proof = read_hello(stream, cluster, 32).await?;
    if !constant_time_eq(&their_proof, &proof(secret, &nonce_a, &nonce_b, Role::Initiator)) {
        return Err(WireError::Handshake("the other end does not hold the cluster secret"));
    }
    Ok(Keys {
        send: FrameMac::new(&session_key(secret, &nonce_a, &nonce_b, Role::Acceptor)),
        receive: FrameMac::new(&session_key(secret, &nonce_a, &nonce_b, Role::Initiator)),
    })
}
