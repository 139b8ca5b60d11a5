//! Opening a connection: both ends prove that they hold the cluster secret (messages of
//! `crypto::mac`), and derive one mac key for each direction.

use bytes::Bytes;
use crypto::hash::constant_time_eq;
use crypto::mac::{FrameMac, Role, proof, session_key};
use platform::random::Random;
use proto::frame::FrameKind;
use tokio::io::{AsyncRead, AsyncWrite};
use types::ids::{ClusterId, RequestId, StoreId};

use crate::wire::{Outgoing, WireError, read_frame, write_frame};

const NONCE_LEN: usize = 32;

/// The keys of a connection.
pub(crate) struct Keys {
    pub send: FrameMac,
    pub receive: FrameMac,
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

pub(crate) async fn initiate<S: AsyncRead + AsyncWrite + Unpin>(
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

pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
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
