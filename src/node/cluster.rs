//! A cluster of several nodes: what a node is called and where it is reached, how a machine becomes one,
//! and what it serves to the others.
//!
//! ```text
//! cluster init  -> directories founded, authority.json, tls.json, node.json   (first node)
//! cluster token -> a certificate that may ask to join, for a day, with the cluster's secret
//! cluster join  -> JoinNode by that certificate -> tls.json, identity, members, node.json
//! server        -> finds node.json, opens its internal address, serves stores, replicas and doors
//! ```
//!
//! `node.json` is written last: a crash before it leaves directories that `cluster join` takes again.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use client::meta::MetaClient;
use crypto::envelope::RootKey;
use crypto::hash::hex_encode;
use metaserver::server::keyring::Keyring;
use platform::Platform;
use platform::disk::Disk;
use platform::tls::MutualTls;
use proto::members::{JoinNode, NodeJoined};
use proto::query::{Ask, AskAll};
use proto::roles::{Roles, member_name};
use proto::rows::disk_state;
use proto::service::{Answer, Failure, Request, class, code};
use rpc::call::{Call, Handler, Reply};
use rpc::peers::Peers;
use serde::{Deserialize, Serialize};
use types::ids::{ClusterId, StoreId};

use super::certificates::{AUTHORITY_FILE, Authority, FILE, NODE_DAYS, NodeCertificates, is_old, read, write};
use super::identity::Home;
use super::replicas::{Replicas, local};
use super::{NodeError, root_key};

/// What a node is called and where it is reached, in its first directory.
pub const NODE_FILE: &str = "node.json";
/// How a token begins; its version is the number.
const TOKEN_PREFIX: &str = "bixi-join-1.";
/// How long the certificate of a host serves that attaches volumes; it gets another one in time.
pub const PASS_DAYS: u64 = 30;
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a node looks whether its certificate grows old.
const RENEW_PERIOD: Duration = Duration::from_secs(3600);
const RENEW_FIRST: Duration = Duration::from_secs(30);

/// The file `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Format version, 1.
    pub version: u32,
    /// Unique in the cluster.
    pub name: String,
    /// HOST:PORT where the other nodes reach it.
    pub internal: String,
    /// The zone it stands in; may be empty.
    #[serde(default)]
    pub zone: String,
    /// The rack it stands in; may be empty.
    #[serde(default)]
    pub rack: String,
    /// Metaserver replicas that it knew last: Raft id (hex) to address.
    #[serde(default)]
    pub contacts: BTreeMap<String, String>,
}

impl NodeFile {
    /// The file of the first directory that has one.
    ///
    /// # Errors
    /// Unreadable or damaged.
    pub async fn find(homes: &[Home]) -> Result<Option<NodeFile>, NodeError> {
        for home in homes {
            if let Some(found) = read::<NodeFile>(&home.disk, NODE_FILE).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Checks what a person gave.
    ///
    /// # Errors
    /// Names or the address cannot be.
    pub fn check(&self) -> Result<(), NodeError> {
        let usage = |text: String| NodeError { text, exit: 2 };
        let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        for (what, text) in [("--name", &self.name), ("--zone", &self.zone), ("--rack", &self.rack)] {
            if text.len() > 63 || !is_word(text) || what == "--name" && text.is_empty() {
                return Err(usage(format!("{what} `{text}`: 1 to 63 letters, digits, `-`, `_` and `.`")));
            }
        }
        let port = self.internal.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if port.is_none_or(|port| port.parse::<u16>().is_err()) || self.internal.contains('#') {
            return Err(usage(format!("--internal-addr `{}`: HOST:PORT", self.internal)));
        }
        if ["0.0.0.0:", "[::]:"].iter().any(|any| self.internal.starts_with(any)) {
            return Err(usage(format!("--internal-addr {}: the other nodes must reach it there", self.internal)));
        }
        Ok(())
    }

    /// The replicas it knew last.
    pub fn contacts(&self) -> BTreeMap<u64, String> {
        let parsed =
            self.contacts.iter().filter_map(|(id, address)| Some((u64::from_str_radix(id, 16).ok()?, address.clone())));
        parsed.collect()
    }
}

/// How the parts of a process are called: to each other, or to the other nodes as well.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The node's name.
    pub node: String,
    /// Where its stores are reached.
    pub stores: String,
    file: Option<NodeFile>,
}

impl Naming {
    /// Of a node of a cluster, or of a process that is all of it.
    pub fn new(file: Option<NodeFile>, alone: (&str, &str)) -> Naming {
        match &file {
            Some(own) => Naming { node: own.name.clone(), stores: own.internal.clone(), file },
            None => Naming { node: alone.0.to_owned(), stores: alone.1.to_owned(), file },
        }
    }

    /// Whether other nodes can reach it.
    pub fn is_reached(&self) -> bool {
        self.file.is_some()
    }

    /// Where a replica of the process is reached.
    pub fn replica(&self, raft_id: u64) -> String {
        match &self.file {
            Some(own) => format!("{}#{raft_id:016x}", own.internal),
            None => local(raft_id),
        }
    }

    /// What a replica says when it is asked for its name.
    pub fn replica_name(&self, alone: &str) -> String {
        self.file.as_ref().map_or_else(|| alone.to_owned(), |own| own.name.clone())
    }

    /// The failure domain of a disk: the disk itself in a process that is alone, else the path to it.
    pub fn domain(&self, disk: &str) -> String {
        let Some(own) = &self.file else { return format!("disk-{disk}") };
        let disk = format!("disk-{disk}");
        let path = [own.zone.as_str(), own.rack.as_str(), own.name.as_str(), disk.as_str()];
        path.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }
}

/// What `bixi cluster token` gives: enough to ask, and nothing else. No `Debug`: it holds secrets.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    cluster: String,
    /// Where the node is reached that lets others in.
    address: String,
    /// The cluster's secret, hex.
    secret: String,
    certificates: NodeCertificates,
}

impl Token {
    /// One line of text.
    ///
    /// # Errors
    /// None in practice.
    pub fn text(&self) -> Result<String, NodeError> {
        let json = serde_json::to_vec(self).map_err(|error| NodeError::new(error.to_string()))?;
        Ok(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json)))
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn parse(text: &str) -> Result<Token, NodeError> {
        let bad = |why: &str| NodeError { text: format!("this is no token of `bixi cluster token`: {why}"), exit: 2 };
        let body = text.trim().strip_prefix(TOKEN_PREFIX).ok_or_else(|| bad("it does not begin like one"))?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| bad("it is cut short or altered"))?;
        serde_json::from_slice(&json).map_err(|_| bad("it is cut short or altered"))
    }

    /// Whom it lets in.
    ///
    /// # Errors
    /// It is altered.
    pub fn cluster(&self) -> Result<ClusterId, NodeError> {
        let number = u64::from_str_radix(&self.cluster, 16);
        number.map(ClusterId).map_err(|_| NodeError { text: "the token is altered".into(), exit: 2 })
    }

    /// The cluster's secret.
    ///
    /// # Errors
    /// It is altered.
    pub fn secret(&self) -> Result<[u8; 32], NodeError> {
        secret_of(&self.secret).ok_or_else(|| NodeError { text: "the token is altered".into(), exit: 2 })
    }

    /// Asks to be let in as node `name`.
    ///
    /// # Errors
    /// Not reached, or refused, with the cause.
    pub async fn ask(&self, platform: &Platform, name: &str) -> Result<NodeJoined, NodeError> {
        let (cluster, held) = (self.cluster()?, &self.certificates);
        let tls = MutualTls::new(
            &member_name(cluster),
            held.authorities.as_bytes(),
            held.certificate.as_bytes(),
            held.key.as_bytes(),
        )
        .map_err(|error| NodeError::new(format!("the token's certificate: {error}")))?;
        let peers = Peers::secured(platform.clone(), cluster, self.secret()?.to_vec(), Some(tls));
        ask_for_certificate(&peers, &self.address, name, false).await.map_err(|error| {
            let ends = platform.clock().unix_ms() / 1000 > held.ends;
            let hint = if ends { "the token has expired; get another one with `bixi cluster token`; " } else { "" };
            NodeError { text: format!("{hint}{}", error.text), ..error }
        })
    }
}

async fn ask_for_certificate(peers: &Peers, address: &str, name: &str, renews: bool) -> Result<NodeJoined, NodeError> {
    let ask = Request::JoinNode(JoinNode { name: name.to_owned(), renews });
    let called = peers.call(address, StoreId(0), peers.new_request(), ask, Bytes::new(), ASK_TIMEOUT).await;
    match called.map(|reply| reply.answer) {
        Ok(Answer::NodeJoined(joined)) => Ok(joined),
        Ok(_) => Err(NodeError::new(format!("{address} answered something else than was asked"))),
        Err(rpc::call::CallError::Refused(failure)) if failure.code == code::CONFLICT => {
            Err(NodeError::conflict(failure.text))
        }
        Err(error) => Err(NodeError::new(error.to_string())),
    }
}

/// What a host needs to attach volumes itself. No `Debug`: it holds secrets.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// 16 hex digits.
    pub cluster: String,
    /// The cluster's secret, hex.
    pub secret: String,
    /// Where the metaserver is.
    pub addresses: Vec<String>,
    /// Of the role that attaches volumes.
    pub certificates: NodeCertificates,
}

impl Pass {
    /// The cluster and its secret.
    ///
    /// # Errors
    /// They are none.
    pub fn cluster(&self) -> Result<(ClusterId, [u8; 32]), NodeError> {
        let damaged = || NodeError::new("the server's pass is damaged");
        let cluster = u64::from_str_radix(&self.cluster, 16).map_err(|_| damaged())?;
        Ok((ClusterId(cluster), secret_of(&self.secret).ok_or_else(damaged)?))
    }
}

/// 32 bytes of hex digits.
fn secret_of(digits: &str) -> Option<[u8; 32]> {
    let mut secret = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(secret)
}

/// What a node serves to the others.
#[derive(Clone)]
pub struct Inside {
    /// The machine.
    pub platform: Platform,
    /// The directory whose certificates it goes by.
    pub disk: Disk,
    /// What it is.
    pub file: NodeFile,
    /// The cluster and its secret.
    pub cluster: (ClusterId, [u8; 32]),
    /// The way to the metaserver.
    pub meta: MetaClient,
    /// Its replicas.
    pub replicas: Replicas,
    /// Its stores.
    pub stores: Handler,
    /// The cluster's root key.
    pub root_key: RootKeyPlace,
}

/// The root key of a process.
#[derive(Clone)]
pub struct RootKeyPlace {
    /// The key, once there is one.
    pub keyring: Keyring,
    /// The operator gives it to each node, and no node to another.
    pub is_given: bool,
}

/// The root key that came with a certificate, if one did.
///
/// # Errors
/// It is none.
pub fn root_key_of(joined: &NodeJoined) -> Result<Option<RootKey>, NodeError> {
    if joined.root_key.is_empty() {
        return Ok(None);
    }
    let parsed = RootKey::parse(joined.root_key.as_bytes());
    parsed.map(Some).map_err(|error| NodeError::new(format!("the root key that came: {error}")))
}

impl Inside {
    /// Carries out what another node asks.
    pub fn handler(self) -> Handler {
        let this = Rc::new(self);
        Rc::new(move |call: Call| {
            let this = Rc::clone(&this);
            Box::pin(async move {
                if let Request::JoinNode(ask) = &call.body {
                    return this.let_in(ask).await.unwrap_or_else(Reply::of);
                }
                if call.body.servers().meets(Roles::CHUNK) {
                    return (this.stores)(call).await;
                }
                let Some(server) = this.replicas.addressed(call.store.0) else {
                    let text = "that metaserver replica is not here";
                    return Reply::failed(class::ELSEWHERE, code::NOT_LEADER, text);
                };
                let reply = server.handle(call).await;
                reply.unwrap_or_else(|| Reply::failed(class::GIVE_UP, code::BAD_REQUEST, "not a metaserver's request"))
            })
        })
    }

    async fn let_in(&self, ask: &JoinNode) -> Result<Reply, Answer> {
        let refused = |code: u32, text: String| Answer::Failed(Failure::new(class::GIVE_UP, code, text));
        let other = |error: &dyn std::fmt::Display| refused(code::OTHER, error.to_string());
        let authority: Option<Authority> = read(&self.disk, AUTHORITY_FILE).await.map_err(|error| other(&error))?;
        let Some(authority) = authority else {
            let text = format!("node {} does not keep {AUTHORITY_FILE}, so it lets nobody in", self.file.name);
            return Err(refused(code::CONFLICT, text));
        };
        let file = NodeFile { name: ask.name.clone(), ..self.file.clone() };
        file.check().map_err(|error| refused(code::BAD_REQUEST, error.text))?;
        let disks = self.meta.query(Ask::Disks(AskAll {})).await.map_err(|error| other(&error))?.disks;
        let is_taken = disks.iter().any(|disk| disk.row.node == ask.name && disk.row.state == disk_state::IN);
        if (is_taken || ask.name == self.file.name) && !ask.renews {
            return Err(refused(code::CONFLICT, format!("there is a node {} already; give --name", ask.name)));
        }
        let made = authority.issue(&self.platform, &ask.name, Roles::ALL, NODE_DAYS, &authority.certificate);
        let made = made.map_err(|error| other(&error))?;
        let certificates = serde_json::to_string(&made).map_err(|error| other(&error))?;
        let (member_ids, members) = self.replicas.known().into_iter().unzip();
        tracing::info!(node = %ask.name, renews = ask.renews, "a node was given a certificate");
        let RootKeyPlace { keyring, is_given } = &self.root_key;
        let root = keyring.root().filter(|_| !is_given);
        let root_key = root.map_or_else(String::new, |root| root.text().expose().clone());
        Ok(Reply::of(Answer::NodeJoined(NodeJoined { certificates, member_ids, members, root_key })))
    }

    /// A token for one who is to join within `days`.
    ///
    /// # Errors
    /// The authority's key is not here.
    pub async fn token(&self, days: u64) -> Result<String, NodeError> {
        let authority: Authority = read(&self.disk, AUTHORITY_FILE).await?.ok_or_else(|| {
            let text = format!("node {} does not keep {AUTHORITY_FILE}; ask the first node", self.file.name);
            NodeError::conflict(text)
        })?;
        let name = format!("token of {}", self.file.name);
        let certificates =
            authority.issue(&self.platform, &name, Roles::JOIN, days.clamp(1, 30), &authority.certificate)?;
        let token = Token {
            cluster: format!("{:016x}", self.cluster.0.0),
            address: self.file.internal.clone(),
            secret: hex_encode(&self.cluster.1),
            certificates,
        };
        token.text()
    }

    /// What a host needs to attach volumes itself.
    ///
    /// # Errors
    /// The authority's key is not here.
    pub async fn pass(&self, host: &str) -> Result<Pass, NodeError> {
        let authority: Authority = read(&self.disk, AUTHORITY_FILE).await?.ok_or_else(|| {
            let text = format!("node {} does not keep {AUTHORITY_FILE}; ask the first node", self.file.name);
            NodeError::conflict(text)
        })?;
        let name = format!("volumes of {}", host.chars().take(200).collect::<String>());
        let certificates = authority.issue(&self.platform, &name, Roles::VOLUME, PASS_DAYS, &authority.certificate)?;
        tracing::info!(host, "a host was given a certificate to attach volumes");
        Ok(Pass {
            cluster: format!("{:016x}", self.cluster.0.0),
            secret: hex_encode(&self.cluster.1),
            addresses: self.replicas.known().into_values().collect(),
            certificates,
        })
    }

    /// Gets itself a new certificate when its own grows old, from the node that keeps the authority.
    pub async fn renew(self) {
        self.platform.clock().sleep(RENEW_FIRST).await;
        loop {
            if let Err(error) = self.renew_if_old().await {
                tracing::warn!(%error, "the node's certificate was not renewed; it is tried again");
            }
            self.platform.clock().sleep(RENEW_PERIOD).await;
        }
    }

    async fn renew_if_old(&self) -> Result<(), NodeError> {
        let held: Option<NodeCertificates> = read(&self.disk, FILE).await?;
        // A node of a cluster that was older when it joined asks for both.
        let lacks_root = self.root_key.keyring.root().is_none() && !self.root_key.is_given;
        if !lacks_root && held.is_some_and(|held| !is_old(&self.platform, &held)) {
            return Ok(());
        }
        if let Some(authority) = read::<Authority>(&self.disk, AUTHORITY_FILE).await? {
            let name = &self.file.name;
            let made = authority.issue(&self.platform, name, Roles::ALL, NODE_DAYS, &authority.certificate)?;
            return write(&self.disk, FILE, &made).await;
        }
        let disks = self.meta.query(Ask::Disks(AskAll {})).await.map_err(|error| NodeError::new(error.to_string()))?;
        let mut nodes: Vec<String> = disks.disks.into_iter().map(|disk| disk.row.address).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut last = NodeError::new("no other node is known");
        for address in nodes.into_iter().filter(|address| *address != self.file.internal) {
            match ask_for_certificate(self.meta.peers(), &address, &self.file.name, true).await {
                Ok(joined) => {
                    let made: NodeCertificates = serde_json::from_str(&joined.certificates)
                        .map_err(|error| NodeError::new(format!("{address}: {error}")))?;
                    if let Some(root) = root_key_of(&joined)?.filter(|_| lacks_root) {
                        root_key::write(&self.disk, &root).await?;
                        self.root_key.keyring.set(root);
                    }
                    return write(&self.disk, FILE, &made).await;
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::{Naming, NodeFile, Token};

    fn file(name: &str, internal: &str) -> NodeFile {
        NodeFile {
            version: 1,
            name: name.to_owned(),
            internal: internal.to_owned(),
            zone: String::new(),
            rack: String::new(),
            contacts: Default::default(),
        }
    }

    #[test]
    fn names_and_addresses_that_cannot_be_are_refused() {
        assert!(file("node-1", "10.0.0.1:9100").check().is_ok());
        assert!(file("node-1", "[fd00::1]:9100").check().is_ok());
        for (name, internal) in
            [("", "h:1"), ("a/b", "h:1"), ("a", "h"), ("a", ":1"), ("a", "h:x"), ("a", "0.0.0.0:1"), ("a", "h:1#2")]
        {
            assert!(file(name, internal).check().is_err(), "{name} {internal}");
        }
    }

    #[test]
    fn domain_of_a_disk_is_the_path_to_it() {
        let mut own = file("n", "h:1");
        assert_eq!(Naming::new(None, ("server", "local")).domain("2"), "disk-2");
        assert_eq!(Naming::new(Some(own.clone()), ("server", "local")).domain("2"), "n/disk-2");
        own.zone = "z".into();
        assert_eq!(Naming::new(Some(own.clone()), ("server", "local")).domain("2"), "z/n/disk-2");
        let naming = Naming::new(Some(own), ("server", "local"));
        assert_eq!((naming.replica(0xab).as_str(), naming.stores.as_str()), ("h:1#00000000000000ab", "h:1"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "bixi-join-1.", "bixi-join-1.@", "bixi-join-2.e30", "bixi-join-1.e30"] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn golden_bytes_of_node_json() {
        let text = r#"{"version":1,"name":"n","internal":"h:1","zone":"","rack":"","contacts":{}}"#;
        assert_eq!(serde_json::to_string(&file("n", "h:1")).ok().as_deref(), Some(text));
        assert_eq!(serde_json::from_str::<NodeFile>(text).ok(), Some(file("n", "h:1")));
    }
}
