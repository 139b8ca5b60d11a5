//! What a serving side does with frames that are not its cluster's, over a real connection. The
//! caller is played by hand, byte by byte.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use crypto::mac::{FrameMac, Role, proof, session_key};
use platform::Platform;
use platform::net::Stream;
use proto::frame::{FrameHeader, FrameKind, HEADER_LEN, payload_checksum, set_mac};
use proto::meta::MetaStateRequest;
use proto::service::{Answer, Done, Request, RequestMessage};
use rpc::budget::Budget;
use rpc::call::{Call, Handler, Reply};
use rpc::server::{ServerConfig, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use types::ids::{ClusterId, RequestId, StoreId};

const CLUSTER: ClusterId = ClusterId(0xc1);
const SECRET: [u8; 32] = [7; 32];
const NONCE: [u8; 32] = [9; 32];

/// A server that counts what reaches its handler.
struct Served {
    platform: Platform,
    address: String,
    handled: Rc<Cell<u32>>,
}

impl Served {
    async fn start(platform: Platform) -> Served {
        let listener = platform.net().listen("127.0.0.1:0").await.expect("a port of the loopback");
        let address = listener.local_addr();
        let handled = Rc::new(Cell::new(0));
        let count = Rc::clone(&handled);
        let handler: Handler = Rc::new(move |_: Call| {
            count.set(count.get() + 1);
            Box::pin(async { Reply::of(Answer::Done(Done {})) })
        });
        let config = ServerConfig {
            cluster: CLUSTER,
            secret: SECRET.to_vec(),
            tls: None,
            budget: Budget::new(1 << 20),
            slow: Duration::from_secs(60),
        };
        platform.tasks().spawn(serve(platform.clone(), listener, config, handler)).detach();
        Served { platform, address, handled }
    }

    async fn connect(&self) -> Stream {
        self.platform.net().connect(&self.address).await.expect("connect")
    }

    /// A connection that has proved itself, and the key of its caller.
    async fn proven(&self) -> (Stream, FrameMac) {
        let mut stream = self.connect().await;
        stream.write_all(&frame(FrameKind::Hello, CLUSTER, &NONCE, b"", None)).await.expect("hello");
        let mut answer = vec![0; HEADER_LEN + 64];
        stream.read_exact(&mut answer).await.expect("the acceptor's proof");
        let nonce_b = &answer[HEADER_LEN..HEADER_LEN + 32];
        let own = proof(&SECRET, &NONCE, nonce_b, Role::Initiator);
        let key = FrameMac::new(&session_key(&SECRET, &NONCE, nonce_b, Role::Initiator));
        stream.write_all(&frame(FrameKind::Hello, CLUSTER, &own, b"", None)).await.expect("proof");
        (stream, key)
    }

    /// The connection ends without an answer, and nothing reached the handler.
    async fn assert_ends(&self, mut stream: Stream, what: &str) {
        let before = self.handled.get();
        let mut byte = [0];
        let read = self.platform.clock().timeout(Duration::from_secs(60), stream.read(&mut byte)).await;
        let read = read.unwrap_or_else(|_| panic!("{what}: the connection stays open"));
        assert!(matches!(read, Ok(0) | Err(_)), "{what}: answered {byte:?}");
        assert_eq!(self.handled.get(), before, "{what}: reached the handler");
    }

    /// The connection is good: a request is answered.
    async fn assert_answers(&self, stream: &mut Stream, key: &FrameMac) {
        stream.write_all(&request(CLUSTER, b"payload", Some(key))).await.expect("request");
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head).await.expect("an answer");
        let header = FrameHeader::decode(&head).expect("a frame");
        assert_eq!((header.kind, header.call), (FrameKind::Answer, 5));
        let mut rest = vec![0; header.message_len as usize];
        stream.read_exact(&mut rest).await.expect("the whole answer");
    }
}

fn frame(kind: FrameKind, cluster: ClusterId, message: &[u8], payload: &[u8], key: Option<&FrameMac>) -> Vec<u8> {
    let header = FrameHeader {
        versions: (1, 1),
        kind,
        cluster,
        store: StoreId(0),
        call: 5,
        request: RequestId(6),
        deadline_ms: 1000,
        message_len: message.len() as u32,
        payload_len: payload.len() as u32,
        payload_crc: payload_checksum(payload),
        mac: [0; 16],
    };
    let mut bytes = header.encode(message);
    if let Some(key) = key {
        let tag = key.tag(&[&bytes[..64], message]);
        set_mac(&mut bytes, tag);
    }
    [&bytes, message, payload].concat()
}

fn request(cluster: ClusterId, payload: &'static [u8], key: Option<&FrameMac>) -> Vec<u8> {
    let message = RequestMessage { body: Some(Request::MetaState(MetaStateRequest {})) };
    frame(FrameKind::Request, cluster, &proto::encode(&message), &Bytes::from_static(payload), key)
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Served) -> F) {
    platform::run(|platform| async move { test(Served::start(platform).await).await });
}

#[test]
fn a_good_frame_is_answered_and_one_of_another_cluster_ends_the_connection() {
    run(|served| async move {
        let (mut stream, key) = served.proven().await;
        served.assert_answers(&mut stream, &key).await;
        stream.write_all(&request(ClusterId(0xc2), b"", Some(&key))).await.expect("sent");
        served.assert_ends(stream, "a frame of another cluster").await;
        assert_eq!(served.handled.get(), 1);
    });
}

#[test]
fn a_damaged_frame_ends_the_connection_whichever_byte_it_is() {
    run(|served| async move {
        let whole = request(CLUSTER, b"payload", None).len();
        for at in 0..whole {
            let (mut stream, key) = served.proven().await;
            let mut bytes = request(CLUSTER, b"payload", Some(&key));
            bytes[at] ^= 0x10;
            stream.write_all(&bytes).await.expect("sent");
            // A longer length makes it wait for what never comes; the end of ours settles it.
            stream.shutdown().await.expect("no more from us");
            served.assert_ends(stream, &format!("byte {at} flipped")).await;
        }
        assert_eq!(served.handled.get(), 0);
    });
}

#[test]
fn a_frame_without_the_right_mac_ends_the_connection() {
    run(|served| async move {
        let (mut stream, _) = served.proven().await;
        stream.write_all(&request(CLUSTER, b"", None)).await.expect("sent");
        served.assert_ends(stream, "no mac").await;
        let (mut stream, _) = served.proven().await;
        let foreign = FrameMac::new(&[1; 32]);
        stream.write_all(&request(CLUSTER, b"", Some(&foreign))).await.expect("sent");
        served.assert_ends(stream, "a mac under another key").await;
        assert_eq!(served.handled.get(), 0);
    });
}

#[test]
fn a_connection_that_has_not_proved_itself_is_ended() {
    run(|served| async move {
        let mut stream = served.connect().await;
        let key = FrameMac::new(&[1; 32]);
        stream.write_all(&request(CLUSTER, b"", Some(&key))).await.expect("sent");
        served.assert_ends(stream, "a request before the handshake").await;
        let mut stream = served.connect().await;
        stream.write_all(&frame(FrameKind::Hello, CLUSTER, &NONCE, b"", None)).await.expect("hello");
        let mut answer = vec![0; HEADER_LEN + 64];
        stream.read_exact(&mut answer).await.expect("the acceptor's proof");
        // Proving to be the acceptor is what a mirror would do.
        let mirrored = proof(&SECRET, &NONCE, &answer[HEADER_LEN..HEADER_LEN + 32], Role::Acceptor);
        stream.write_all(&frame(FrameKind::Hello, CLUSTER, &mirrored, b"", None)).await.expect("sent");
        served.assert_ends(stream, "a mirrored proof").await;
        assert_eq!(served.handled.get(), 0);
    });
}
