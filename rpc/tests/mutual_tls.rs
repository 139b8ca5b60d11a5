//! Calls over loopback between processes with certificates: who is let in, and what they may ask.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::tls::MutualTls;
use proto::chunk::{Append, Fence, ShardName};
use proto::roles::{Roles, member_name};
use proto::service::{Answer, Done, Request, code};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rpc::budget::Budget;
use rpc::call::{CallError, Handler, Reply};
use rpc::peers::Peers;
use rpc::server::{ServerConfig, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use types::ids::{ClusterId, RequestId, StoreId};

const CLUSTER: ClusterId = ClusterId(0xabc);
const SECRET: &[u8] = b"the secret of the cluster, 32 b.";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a test may get wrong.
struct Wish {
    roles: Roles,
    cluster: ClusterId,
    expired: bool,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { roles: Roles::GATEWAY, cluster: CLUSTER, expired: false }
    }
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key, PEM.
    fn issue(&self, wish: &Wish) -> (String, String) {
        let mut params = CertificateParams::new(vec![member_name(wish.cluster)]).unwrap();
        for uri in wish.roles.uris(wish.cluster) {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        }
        if wish.expired {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A member's side, trusting this authority.
    fn member(&self, wish: &Wish) -> MutualTls {
        let (certificate, key) = self.issue(wish);
        MutualTls::new(&member_name(wish.cluster), self.pem.as_bytes(), certificate.as_bytes(), key.as_bytes()).unwrap()
    }
}

/// A chunkserver that answers everything; its address.
async fn server(platform: &Platform, tls: MutualTls) -> String {
    let handler: Handler =
        Rc::new(|call| Box::pin(async move { Reply { answer: Answer::Data(Done {}), payload: call.payload } }));
    let listener = platform.net().listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr();
    let config = ServerConfig {
        cluster: CLUSTER,
        secret: SECRET.to_vec(),
        tls: Some(tls),
        budget: Budget::new(64 << 20),
        slow: Duration::from_secs(5),
    };
    platform.tasks().spawn(serve(platform.clone(), listener, config, handler));
    address
}

fn caller(platform: &Platform, tls: Option<MutualTls>) -> Peers {
    Peers::secured(platform.clone(), CLUSTER, SECRET.to_vec(), tls)
}

async fn ask(peers: &Peers, address: &str, body: Request, payload: Bytes) -> Result<Reply, CallError> {
    peers.call(address, StoreId(0), RequestId(7), body, payload, Duration::from_secs(5)).await
}

fn append() -> Request {
    Request::Append(Append {
        shard: ShardName { placement: 1, chunk: 1, index: 0 },
        epoch: 1,
        offset: 0,
        reserve: false,
    })
}

#[test]
fn members_speak_and_payloads_arrive_whole() {
    platform::run(|platform| async move {
        let authority = Authority::new("one");
        let chunk = authority.member(&Wish { roles: Roles::CHUNK, ..Wish::default() });
        let address = server(&platform, chunk).await;
        let peers = caller(&platform, Some(authority.member(&Wish::default())));
        for len in [0, 1, 4096, 70_000, 1 << 20] {
            let payload = Bytes::from((0..len).map(|at| (at % 251) as u8).collect::<Vec<_>>());
            let reply = ask(&peers, &address, append(), payload.clone()).await.unwrap();
            assert!(reply.payload == payload, "{len} bytes");
        }
    });
}

#[test]
fn roles_decide_what_may_be_asked_and_who_may_answer() {
    platform::run(|platform| async move {
        let authority = Authority::new("one");
        let address = server(&platform, authority.member(&Wish { roles: Roles::CHUNK, ..Wish::default() })).await;
        let gateway = caller(&platform, Some(authority.member(&Wish::default())));
        let refused = ask(&gateway, &address, Request::Fence(Fence::default()), Bytes::new()).await.unwrap_err();
        assert!(refused.is_code(code::NOT_PERMITTED), "{refused}");
        // The connection lives on.
        ask(&gateway, &address, append(), Bytes::new()).await.unwrap();
        let meta = caller(&platform, Some(authority.member(&Wish { roles: Roles::META, ..Wish::default() })));
        ask(&meta, &address, Request::Fence(Fence::default()), Bytes::new()).await.unwrap();
        let nobody = caller(&platform, Some(authority.member(&Wish { roles: Roles::NONE, ..Wish::default() })));
        assert!(ask(&nobody, &address, append(), Bytes::new()).await.unwrap_err().is_code(code::NOT_PERMITTED));
        // A gateway that poses as a chunkserver gets no bytes.
        let impostor = server(&platform, authority.member(&Wish::default())).await;
        let error = ask(&gateway, &impostor, append(), Bytes::from_static(b"private")).await.unwrap_err();
        assert!(error.to_string().contains("does not answer append"), "{error}");
    });
}

#[test]
fn strangers_are_refused_with_the_cause() {
    platform::run(|platform| async move {
        let (authority, other) = (Authority::new("one"), Authority::new("two"));
        let address = server(&platform, authority.member(&Wish { roles: Roles::CHUNK, ..Wish::default() })).await;
        let of_another_cluster = {
            let wish = Wish { cluster: ClusterId(0xdef), roles: Roles::META, ..Wish::default() };
            authority.member(&wish)
        };
        let expired = authority.member(&Wish { expired: true, ..Wish::default() });
        for (why, tls) in [
            ("no certificate", None),
            ("another authority", Some(other.member(&Wish::default()))),
            ("another cluster", Some(of_another_cluster)),
            ("expired", Some(expired)),
        ] {
            let error = ask(&caller(&platform, tls), &address, append(), Bytes::new()).await.unwrap_err();
            assert!(matches!(error, CallError::Unreachable { .. }), "{why}: {error}");
        }
        // Members are still served.
        ask(&caller(&platform, Some(authority.member(&Wish::default()))), &address, append(), Bytes::new())
            .await
            .unwrap();
        // A member does not speak to an expired server either, and says why.
        let stale =
            server(&platform, authority.member(&Wish { expired: true, roles: Roles::CHUNK, ..Wish::default() }));
        let stale = stale.await;
        let error = ask(&caller(&platform, Some(authority.member(&Wish::default()))), &stale, append(), Bytes::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("expired"), "{error}");
    });
}

#[test]
fn plain_bytes_on_the_port_end_the_connection() {
    platform::run(|platform| async move {
        let authority = Authority::new("one");
        let address = server(&platform, authority.member(&Wish { roles: Roles::CHUNK, ..Wish::default() })).await;
        let mut stream = platform.net().connect(&address).await.unwrap();
        stream.write_all(b"BXIF anybody there? This is not TLS at all.").await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // An alert at most, then the end.
        let _ = platform.clock().timeout(Duration::from_secs(10), read).await.expect("the connection was kept");
        assert!(answer.len() < 64, "{} bytes were answered to a stranger", answer.len());
    });
}

#[test]
fn certificates_are_exchanged_without_a_restart() {
    platform::run(|platform| async move {
        let (old, new) = (Authority::new("old"), Authority::new("new"));
        let chunk_wish = Wish { roles: Roles::CHUNK, ..Wish::default() };
        let (chunk, gateway) = (old.member(&chunk_wish), old.member(&Wish::default()));
        let address = server(&platform, chunk.clone()).await;
        let peers = caller(&platform, Some(gateway.clone()));
        ask(&peers, &address, append(), Bytes::new()).await.unwrap();
        let (certificate, key) = new.issue(&chunk_wish);
        chunk.replace(new.pem.as_bytes(), certificate.as_bytes(), key.as_bytes()).unwrap();
        let (certificate, key) = new.issue(&Wish::default());
        gateway.replace(new.pem.as_bytes(), certificate.as_bytes(), key.as_bytes()).unwrap();
        ask(&peers, &address, append(), Bytes::new()).await.unwrap();
        // The old authority counts for nothing now; an unusable exchange changes nothing.
        assert!(gateway.replace(b"rubbish", certificate.as_bytes(), key.as_bytes()).is_err());
        ask(&peers, &address, append(), Bytes::new()).await.unwrap();
        let left_behind = caller(&platform, Some(old.member(&Wish::default())));
        assert!(ask(&left_behind, &address, append(), Bytes::new()).await.is_err());
    });
}
