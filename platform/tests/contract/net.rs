//! The contract of byte streams: what `platform::net` and `platform::tls` promise.

use std::time::Duration;

use platform::Platform;
use platform::net::{Listener, Stream};
use platform::tls::{ClientTls, ServerTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// All of it. `server` listens on `addr` (whose port may be 0), `client` connects.
pub async fn holds(server: Platform, client: Platform, addr: &str) {
    let listener = server.net().listen(addr).await.unwrap();
    let addr = listener.local_addr();
    let (one, two) = connected(&client, &listener, &addr).await;
    echo(&server, one, two).await;
    let (one, two) = connected(&client, &listener, &addr).await;
    half_close(one, two).await;
    let (one, two) = connected(&client, &listener, &addr).await;
    large_transfer(&server, one, two).await;
    let (one, two) = connected(&client, &listener, &addr).await;
    the_end_is_seen(&server, one, two).await;
    let (one, two) = connected(&client, &listener, &addr).await;
    tls_round_trip(&server, one, two).await;
    let (one, two) = platform::net::pair(&server);
    echo(&server, one, two).await;
    drop(listener);
    assert!(client.net().connect(&addr).await.is_err(), "nobody listens any more");
}

async fn connected(client: &Platform, listener: &Listener, addr: &str) -> (Stream, Stream) {
    let (connected, accepted) = tokio::join!(client.net().connect(addr), listener.accept());
    let (connected, accepted) = (connected.unwrap(), accepted.unwrap());
    assert_eq!(connected.peer_addr(), addr);
    assert_eq!(connected.local_addr(), accepted.peer_addr());
    (connected, accepted)
}

async fn echo(platform: &Platform, mut one: Stream, mut two: Stream) {
    let echoing = platform.tasks().spawn(async move {
        let mut bytes = vec![0; 5];
        for _ in 0..100 {
            two.read_exact(&mut bytes).await.unwrap();
            two.write_all(&bytes).await.unwrap();
            two.flush().await.unwrap();
        }
    });
    for round in 0..100u8 {
        one.write_all(&[round; 5]).await.unwrap();
        one.flush().await.unwrap();
        let mut bytes = [0; 5];
        one.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [round; 5]);
    }
    echoing.await.unwrap();
}

async fn half_close(mut one: Stream, mut two: Stream) {
    one.write_all(b"question").await.unwrap();
    one.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    two.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"question");
    two.write_all(b"answer").await.unwrap();
    drop(two);
    let mut bytes = Vec::new();
    one.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"answer");
}

async fn large_transfer(platform: &Platform, mut one: Stream, mut two: Stream) {
    const LEN: usize = 20 << 20;
    let sending = platform.tasks().spawn(async move {
        let bytes: Vec<u8> = (0..LEN).map(|index| (index / 7) as u8).collect();
        for chunk in bytes.chunks(100_003) {
            one.write_all(chunk).await.unwrap();
        }
        one.shutdown().await.unwrap();
        one
    });
    let mut received = Vec::new();
    two.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), LEN);
    assert!(received.iter().enumerate().all(|(index, byte)| *byte == (index / 7) as u8));
    drop(sending.await.unwrap());
}

async fn the_end_is_seen(platform: &Platform, mut one: Stream, two: Stream) {
    drop(two);
    let mut byte = [0];
    assert!(matches!(one.read(&mut byte).await, Ok(0) | Err(_)));
    // The first write may still be taken; one of the next fails.
    let mut failed = false;
    for _ in 0..100 {
        failed |= one.write_all(b"anybody?").await.is_err();
        platform.clock().sleep(Duration::from_millis(1)).await;
    }
    assert!(failed);
}

async fn tls_round_trip(platform: &Platform, one: Stream, two: Stream) {
    let made = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).unwrap();
    let certificate = made.cert.pem();
    let server = ServerTls::from_pem(certificate.as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    let client = ClientTls::with_roots_pem(certificate.as_bytes()).unwrap();
    let (one, two) = tokio::join!(one.connect_tls(&client, "node"), two.accept_tls(&server));
    echo(platform, one.unwrap(), two.unwrap()).await;

    let (one, two) = platform::net::pair(platform);
    let (refused, _) = tokio::join!(one.connect_tls(&client, "stranger"), two.accept_tls(&server));
    assert!(refused.is_err(), "a wrong name is refused");
    let (one, two) = platform::net::pair(platform);
    let anybody = ClientTls::insecure_for_tests();
    let (one, two) = tokio::join!(one.connect_tls(&anybody, "stranger"), two.accept_tls(&server));
    echo(platform, one.unwrap(), two.unwrap()).await;
}
