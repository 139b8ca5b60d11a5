//! `bixi server DIR...`: everything in one process.
//!
//! With three or more directories three metaserver replicas run, one per directory. Calls between
//! the parts go through memory. A directory that was wiped joins as a new store (and a new
//! replica, if an old one is missing); nothing of the other directories changes.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use chunkserver::service::ChunkService;
use client::meta::MetaClient;
use client::object::Objects;
use metaserver::server::MetaServer;
use metaserver::server::keyring::Keyring;
use platform::Platform;
use platform::net::Listener;
use proto::level;
use proto::meta::Body;
use proto::rows::{ClusterRow, RedundancyRow};
use proto::service::{Request, class, code};
use rpc::budget::Budget;
use rpc::call::{Handler, Reply};
use rpc::peers::Peers;
use rpc::server::ServerConfig;
use types::ids::ClusterId;
use types::redundancy::Redundancy;

use crate::args::ServerArgs;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::node::chunks::{Announced, Place};
use crate::node::cluster::{Inside, Naming, NodeFile, RootKeyPlace};
use crate::node::directories::{Added, Directories, Parts};
use crate::node::doors::{self, AdminParts, ChunkLayer};
use crate::node::identity::{self, Home, Members, OpenError};
use crate::node::metas::Group;
use crate::node::replicas::{Replicas, local};
use crate::node::tend::{self, Tender};
use crate::node::{NodeError, certificates, chunks, founding, memory, metas, root_key};

/// Partitions of a cluster made by this version.
pub const PARTITIONS: u32 = 16;
/// Logical bytes of a chunk in a small cluster.
pub const CHUNK_CAPACITY: u64 = 128 << 20;
/// Bytes of a cell.
pub const CELL: u64 = 64 << 10;

/// The process's name, and where its stores are reached by the other parts.
const NODE: &str = "server";
const CHUNKS: &str = "local-chunks";

const S3_ADDR: &str = "127.0.0.1:9000";
const ADMIN_ADDR: &str = "127.0.0.1:9001";

/// Redundancy by the number of failure domains.
pub fn default_redundancy(domains: usize) -> Redundancy {
    match domains {
        0..=2 => Redundancy::Copies(1),
        3..=5 => Redundancy::Copies(3),
        _ => Redundancy::Erasure { data: 4, parity: 2 },
    }
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// With what to do about it.
pub fn run(args: ServerArgs) -> Result<(), Failure> {
    let (args, gateway) = merged(args)?;
    platform::run(|platform| serve(platform, args, gateway)).map_err(Failure::from)
}

/// Flags and environment win over the file.
fn merged(mut args: ServerArgs) -> Result<(ServerArgs, s3_gateway::config::Config), Failure> {
    let Some(path) = &args.config else { return Ok((args, s3_gateway::config::Config::default())) };
    let file = crate::cli::config::load(path)?;
    let section = file.server;
    if args.dirs.is_empty() {
        args.dirs = section.dirs;
    }
    // A flag at its default cannot be told from none; the file's word then holds.
    if let Some(address) = section.s3_addr.filter(|_| args.s3_addr == S3_ADDR) {
        args.s3_addr = address;
    }
    if let Some(address) = section.admin_addr.filter(|_| args.admin_addr == ADMIN_ADDR) {
        args.admin_addr = address;
    }
    args.redundancy = args.redundancy.or(section.redundancy);
    args.tls_cert = args.tls_cert.or(section.tls_cert);
    args.tls_key = args.tls_key.or(section.tls_key);
    Ok((args, file.s3))
}

async fn serve(platform: Platform, args: ServerArgs, mut config: s3_gateway::config::Config) -> Result<(), NodeError> {
    config.domains.extend(args.s3_domain.iter().cloned());
    let wanted = match &args.redundancy {
        Some(text) => Some(text.parse::<Redundancy>().map_err(|error| NodeError { text: error.to_string(), exit: 2 })?),
        None => None,
    };
    let trash_keep = doors::trash_keep(args.trash_days)?;
    // Ports first: a port in use is the commonest mistake and must leave no trace.
    let s3_listener = listen(&platform, &args.s3_addr, "--s3-addr").await?;
    let admin_listener = listen(&platform, &args.admin_addr, "--admin-addr").await?;
    let nbd_listener = match &args.nbd_addr {
        Some(address) => Some(listen(&platform, address, "--nbd-addr").await?),
        None => None,
    };
    let tls = server_tls(&args)?;
    let nbd_security = nbd_tls(&args)?;

    let (mut homes, mut names) = open_homes(&platform, &args.dirs).await?;
    let bases = homes.len();
    let added = Added::read(&homes).await?;
    for home in added.open(&platform).await {
        names.extend(home.identity.as_ref().map(|own| own.store.to_string()));
        homes.push(home);
    }
    let root_key = args.root_key.as_deref();
    let founded = found_or_join(&platform, &mut homes, root_key).await?;
    let file = founding::node_file(&platform, &homes, bases, args.internal_addr.as_deref()).await?;
    let internal_listener = match &file {
        Some(own) => Some(listen(&platform, &own.internal, "--internal-addr").await?),
        None => None,
    };
    let base_homes = homes.get(..bases).unwrap_or(&homes);
    let keyring = root_key::load(&platform, base_homes, root_key, founding::is_source(base_homes).await?).await?;
    for home in &homes {
        tend::clear(home)?;
    }
    let naming = Naming::new(file.clone(), (NODE, CHUNKS));
    let founded: BTreeMap<u64, String> = founded.into_keys().map(|id| (id, naming.replica(id))).collect();
    let (cluster, secret) = match &homes[0].identity {
        Some(identity) => (identity.cluster, identity.cluster_secret),
        None => return Err(NodeError::new("directory without identity")),
    };

    let certified = match &file {
        Some(_) => Some(founding::certified(&homes).await?.clone()),
        None => None,
    };
    let security = match &certified {
        Some(disk) => Some(certificates::load(&platform, disk, cluster).await?),
        None => None,
    };
    let peers = Peers::secured(platform.clone(), cluster, secret.to_vec(), security.clone());
    let service = ChunkService::default();
    let announced = Announced::default();
    let store_config = chunks::config();
    // Recovery reads each disk; side by side, and beside the replicas' start, they cost what the
    // slowest does.
    let scrub = chunks::scrub_cycle(args.scrub_days)?;
    let opening = homes.iter().map(|home| chunks::start(&platform, &service, home, store_config, scrub));
    let contacts = file.as_ref().map(NodeFile::contacts).unwrap_or_default();
    let starting = start_replicas(&platform, &peers, &homes, &names, &founded, (&naming, &contacts, &keyring));
    let (servers, opened) = futures_util::future::join(starting, futures_util::future::join_all(opening)).await;
    let servers = servers?;
    let mut addresses: Vec<String> = servers.iter().map(|(_, server)| server.replica().address().to_owned()).collect();
    addresses.extend(contacts.values().filter(|address| !addresses.contains(address)).cloned().collect::<Vec<_>>());
    let meta = MetaClient::new(peers.clone(), &naming.node, addresses);
    let replicas = Replicas::new(&peers, &meta, &announced, &naming, founded.len(), servers, keyring.clone());
    let parts = Parts {
        platform: platform.clone(),
        service: service.clone(),
        announced: announced.clone(),
        meta: meta.clone(),
        naming: naming.clone(),
        domain: None,
        scrub,
        replicas: Some(replicas.clone()),
    };
    let (given, known) = homes.split_at(bases);
    let directories = Directories::new(given, added, parts)?;
    directories.knows(known);
    let stores = chunk_handler(&service, &directories);
    peers.register_local(&naming.stores, Rc::clone(&stores));
    let inside = file.clone().zip(certified).map(|(file, disk)| {
        let (platform, meta, replicas) = (platform.clone(), meta.clone(), replicas.clone());
        let root_key = RootKeyPlace { keyring, is_given: root_key.is_some() };
        Inside { platform, disk, file, cluster: (cluster, secret), meta, replicas, stores, root_key }
    });
    if let (Some(inside), Some(listener)) = (&inside, internal_listener) {
        let config = ServerConfig {
            cluster,
            secret: secret.to_vec(),
            tls: security,
            budget: Budget::new(usize::try_from(memory::shares().calls).unwrap_or(usize::MAX)),
            slow: Duration::from_secs(1),
        };
        platform.tasks().spawn(rpc::server::serve(platform.clone(), listener, config, inside.clone().handler()));
        platform.tasks().spawn(inside.clone().renew());
    }
    for ((opened, name), home) in opened.into_iter().zip(&names).zip(&homes) {
        let raft_id = home.identity.as_ref().map_or(0, |own| own.raft_id);
        let replica = if raft_id == 0 { String::new() } else { naming.replica(raft_id) };
        match opened {
            Ok(store) => {
                let (domain, Naming { node, stores: address, .. }) = (naming.domain(name), &naming);
                announced.add(store, &Place { node, domain: &domain, address, replica: &replica });
            }
            Err(error) if homes.len() > 1 => {
                tracing::error!(%error, "this directory is not served; its chunks are read from the others");
            }
            Err(error) => return Err(error),
        }
    }

    let policy = wanted.unwrap_or_else(|| default_redundancy(homes.len()));
    let init = ClusterRow {
        cluster: cluster.0,
        feature_level: level::CURRENT,
        partitions: PARTITIONS,
        redundancy: RedundancyRow::from(policy),
        chunk_capacity: CHUNK_CAPACITY,
        cell_size: CELL,
    };
    // Only who founded it can be the first to speak to the cluster.
    if !founded.is_empty() {
        meta.bare_command(Body::InitCluster(init)).await.map_err(|error| {
            NodeError::new(format!("{error}; are more than half of the metaserver's directories there and sound?"))
        })?;
    }
    let (row, stored) = doors::cluster(&meta).await?;
    if wanted.is_some_and(|wanted| wanted != stored) {
        return Err(NodeError::conflict(format!(
            "the cluster was made with --redundancy {stored}; start without the flag (changing it is not built yet)"
        )));
    }
    announced.register(&meta).await.map_err(|error| NodeError::new(error.to_string()))?;
    meta.heartbeat(announced.reports()).await.map_err(|error| NodeError::new(error.to_string()))?;
    directories.mend();
    platform.tasks().spawn(announced.clone().heartbeat(meta.clone(), Some(directories.clone())));
    let copies = match &file {
        Some(file) => {
            let known = file.contacts().into_values().chain(replicas.known().into_values()).collect();
            let copies = tend::ask_group(&meta, &known).await?.voters.len();
            let (meta, replicas, naming, file) = (meta.clone(), replicas.clone(), naming.clone(), file.clone());
            platform.tasks().spawn(Tender { meta, replicas, directories, naming, file }.run());
            copies
        }
        None => replicas.servers().len(),
    };

    let layer = ChunkLayer::new(&meta, usize::try_from(memory::shares().cache).unwrap_or(usize::MAX));
    let objects = doors::objects(&meta, &layer, &row, stored, copies);
    let root = write_credentials(&homes[0], &objects).await?;
    layer.spawn_executor(&meta);
    let ready = Rc::new(Cell::new(true));
    let s3 = s3_listener.local_addr();
    let admin = admin_listener.local_addr();
    let region = config.region.clone();
    let mut gateway = config;
    gateway.tls = tls;
    let scheme = if gateway.tls.is_some() { "https" } else { "http" };
    doors::spawn_s3(&platform, s3_listener, &objects, gateway);
    let registry = doors::volumes(&meta, &layer, &naming.node);
    if let Some(listener) = nbd_listener {
        doors::spawn_nbd(&platform, listener, &registry, nbd_security);
    }
    let (ready_too, stores, volumes) = (Rc::clone(&ready), service.clone(), registry.clone());
    let parts = AdminParts { ready: ready_too, s3: s3.clone(), stores, inside, trash_keep, registry: volumes };
    doors::spawn_admin(&platform, admin_listener, &objects, &meta, &region, parts);
    let credentials = homes[0].disk.path().join("credentials");
    greet(&format!("{scheme}://{s3}"), &admin, &root, &credentials, stored, homes.len(), file.as_ref());

    platform::signal::wait_for_stop().await;
    tracing::info!("stopping");
    ready.set(false);
    let settle = async {
        registry.close().await;
        announced.settle().await;
        for server in replicas.servers() {
            server.replica().settle().await;
        }
    };
    if platform.clock().timeout(Duration::from_secs(10), settle).await.is_err() {
        tracing::warn!("orderly stop took too long; the next start replays the log");
    }
    Ok(())
}

/// Opens the directories; each is known by its place in the list, from 1. One whose disk fails is
/// left out if others hold a cluster: they serve on.
///
/// # Errors
/// In use, given twice, copies of each other, or none can be opened.
pub async fn open_homes(platform: &Platform, dirs: &[PathBuf]) -> Result<(Vec<Home>, Vec<String>), NodeError> {
    let (mut homes, mut names): (Vec<Home>, Vec<String>) = Default::default();
    let mut broken = Vec::new();
    for (at, path) in dirs.iter().enumerate() {
        let home = match identity::open(platform, path).await {
            Ok(home) => home,
            Err(OpenError::Disk(error)) => {
                broken.push(error);
                continue;
            }
            Err(OpenError::Refused(error)) => return Err(error),
        };
        if homes.iter().any(|other| other.disk.path() == home.disk.path()) {
            return Err(NodeError { text: format!("{} is given twice", path.display()), exit: 2 });
        }
        if let Some(own) = &home.identity
            && let Some(twin) =
                homes.iter().find(|other| other.identity.as_ref().is_some_and(|it| it.store == own.store))
        {
            return Err(NodeError::conflict(format!(
                "{} and {} are the same store: one is a copy of the other; leave the copy out",
                twin.disk.path().display(),
                path.display()
            )));
        }
        homes.push(home);
        names.push((at + 1).to_string());
    }
    let is_founded = homes.iter().any(|home| home.members.is_some());
    for error in broken {
        if !is_founded {
            return Err(error);
        }
        tracing::error!(%error, "this directory is not served, the others are");
    }
    if homes.is_empty() {
        return Err(NodeError { text: "give at least one directory".into(), exit: 2 });
    }
    Ok((homes, names))
}

async fn listen(platform: &Platform, address: &str, flag: &str) -> Result<Listener, NodeError> {
    platform.net().listen(address).await.map_err(|error| {
        NodeError::new(format!(
            "cannot listen on {address}: {error}; is another server running? choose another with {flag}"
        ))
    })
}

/// A file that an operator names, read once at the start.
#[expect(clippy::disallowed_methods, reason = "it lies wherever its owner put it")]
fn named_file(path: &Path) -> Result<Vec<u8>, NodeError> {
    std::fs::read(path).map_err(|error| NodeError::new(format!("{}: {error}", path.display())))
}

fn server_tls(args: &ServerArgs) -> Result<Option<platform::tls::ServerTls>, NodeError> {
    let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    let tls = platform::tls::ServerTls::from_pem(&named_file(cert)?, &named_file(key)?);
    tls.map(Some).map_err(|error| NodeError::new(format!("--tls-cert and --tls-key: {error}")))
}

/// What NBD clients have to speak, if that is TLS.
fn nbd_tls(args: &ServerArgs) -> Result<Option<platform::tls::ServerTls>, NodeError> {
    let (Some(roots), Some(cert), Some(key)) = (&args.nbd_client_ca, &args.tls_cert, &args.tls_key) else {
        return if args.nbd_tls { server_tls(args) } else { Ok(None) };
    };
    let tls = platform::tls::ServerTls::with_client_roots(&named_file(cert)?, &named_file(key)?, &named_file(roots)?);
    tls.map(Some).map_err(|error| NodeError::new(format!("--tls-cert, --tls-key and --nbd-client-ca: {error}")))
}

/// Makes a new cluster in directories that are all new, or lets new ones join the cluster of the
/// others. `root_key`: where the operator keeps that. Answers the founding replicas.
///
/// # Errors
/// Of several clusters, or the disk.
pub async fn found_or_join(
    platform: &Platform,
    homes: &mut [Home],
    root_key: Option<&Path>,
) -> Result<BTreeMap<u64, String>, NodeError> {
    let old = homes.iter().find(|home| home.members.is_some()).cloned();
    let Some(Home { disk, identity: Some(first), members: Some(members) }) = old else {
        return found(platform, homes, root_key).await;
    };
    for home in homes.iter() {
        if let (Some(identity), Some(_)) = (&home.identity, &home.members)
            && identity.cluster != first.cluster
        {
            return Err(NodeError::conflict(format!(
                "{} belongs to {} but {} to {}; give each cluster its own directories",
                home.disk.path().display(),
                identity.cluster,
                disk.path().display(),
                first.cluster
            )));
        }
    }
    let present: BTreeSet<u64> = homes
        .iter()
        .filter(|home| home.members.is_some())
        .filter_map(|home| home.identity.as_ref().map(|own| own.raft_id))
        .collect();
    let mut missing = members.founders().keys().filter(|id| !present.contains(id)).count();
    // Replicas that replaced founders stand in the place of missing ones.
    let joined = present.iter().filter(|id| **id != 0 && !members.founders().contains_key(id)).count();
    missing = missing.saturating_sub(joined);
    for home in homes.iter_mut().filter(|home| home.members.is_none()) {
        let with_replica = missing > 0;
        missing -= usize::from(with_replica);
        let own = identity::fresh(platform, first.cluster, first.cluster_secret, first.feature_level, with_replica);
        tracing::warn!(dir = %home.disk.path().display(), "new directory joins the cluster as a new store");
        identity::write_identity(home, own).await?;
        identity::write_members(home, &members).await?;
    }
    Ok(members.founders())
}

async fn found(
    platform: &Platform,
    homes: &mut [Home],
    root_key: Option<&Path>,
) -> Result<BTreeMap<u64, String>, NodeError> {
    root_key::found(platform, homes, root_key).await?;
    let cluster = ClusterId(identity::random_id(platform));
    let mut secret = [0; 32];
    platform.random().fill(&mut secret);
    let replicas = if homes.len() >= 3 { 3 } else { 1 };
    let mut founders = BTreeMap::new();
    for (at, home) in homes.iter_mut().enumerate() {
        let own = identity::fresh(platform, cluster, secret, level::CURRENT, at < replicas);
        if own.raft_id != 0 {
            founders.insert(own.raft_id, local(own.raft_id));
        }
        identity::write_identity(home, own).await?;
        identity::begin_founding(home).await?;
    }
    let members = Members::of(&founders);
    for home in homes.iter_mut() {
        identity::write_members(home, &members).await?;
    }
    Ok(founders)
}

/// Serves what chunkservers are asked.
pub fn chunk_handler(service: &ChunkService, directories: &Directories) -> Handler {
    let (service, directories) = (service.clone(), directories.clone());
    Rc::new(move |call| {
        let (service, directories) = (service.clone(), directories.clone());
        Box::pin(async move {
            if let Request::AddDisk(ask) = &call.body {
                return Box::pin(directories.answer(ask)).await;
            }
            let reply = service.handle(call).await;
            reply.unwrap_or_else(|| Reply::failed(class::GIVE_UP, code::BAD_REQUEST, "not a chunkserver's request"))
        })
    })
}

async fn start_replicas(
    platform: &Platform,
    peers: &Peers,
    homes: &[Home],
    names: &[String],
    founders: &BTreeMap<u64, String>,
    (naming, others, keyring): (&Naming, &BTreeMap<u64, String>, &Keyring),
) -> Result<Vec<(PathBuf, MetaServer)>, NodeError> {
    let mut servers = Vec::new();
    let mut broken = None;
    // Alone, all replicas live in this process, founders and those that replaced some.
    let present = homes.iter().filter_map(|home| home.identity.as_ref().map(|own| own.raft_id)).filter(|id| *id != 0);
    let mut contacts: BTreeMap<u64, String> = present.map(|id| (id, naming.replica(id))).collect();
    let is_empty = contacts.is_empty();
    // Founders whose directories are not here any more: those that join take their places.
    let is_gone = |id: &u64| !contacts.contains_key(id) && !naming.is_reached();
    let mut gone: Vec<u64> = founders.keys().copied().filter(is_gone).collect();
    contacts.extend(others.iter().map(|(id, address)| (*id, address.clone())));
    let starting = homes.iter().zip(names).filter_map(|(home, name)| {
        let raft_id = home.identity.as_ref().map(|own| own.raft_id).filter(|id| *id != 0)?;
        let founder = founders.contains_key(&raft_id);
        let group = Group {
            founders: if founder { founders.clone() } else { BTreeMap::new() },
            contacts: contacts.clone(),
            replaces: if founder { 0 } else { gone.pop().unwrap_or(0) },
        };
        Some(async move {
            let (name, address) = (naming.replica_name(&format!("meta-{name}")), naming.replica(raft_id));
            let started = metas::start(platform, peers, home, &name, &address, group, keyring.clone()).await;
            started.map(|server| (home.disk.path().to_owned(), server))
        })
    });
    let starting: Vec<_> = starting.collect();
    for started in futures_util::future::join_all(starting).await {
        match started {
            Ok((dir, server)) => {
                register_meta(peers, server.replica().address(), &server);
                // As those here called it before the process became a node of a cluster.
                register_meta(peers, &local(server.replica().raft_id()), &server);
                servers.push((dir, server));
            }
            Err(error) => {
                tracing::error!(%error, "this replica does not run; the others go on if they are more than half");
                broken = Some(error);
            }
        }
    }
    let founder = servers
        .iter()
        .map(|(_, server)| server)
        .find(|server| server.replica().voters().contains(&server.replica().raft_id()));
    match (founder, broken) {
        (Some(founder), _) => founder.replica().campaign(),
        (None, Some(error)) => return Err(error),
        (None, None) if naming.is_reached() && (is_empty || !servers.is_empty()) => {}
        (None, None) => {
            return Err(NodeError::new(
                "none of these directories holds a metaserver replica; add the cluster's other directories",
            ));
        }
    }
    Ok(servers)
}

/// Calls to `address` go to this replica.
pub fn register_meta(peers: &Peers, address: &str, server: &MetaServer) {
    let server = server.clone();
    let handler: Handler = Rc::new(move |call| {
        let server = server.clone();
        Box::pin(async move {
            let reply = server.handle(call).await;
            reply.unwrap_or_else(|| Reply::failed(class::GIVE_UP, code::BAD_REQUEST, "not a metaserver's request"))
        })
    });
    peers.register_local(address, handler);
}

async fn write_credentials(home: &Home, objects: &Objects) -> Result<client::object::api::AccessKey, NodeError> {
    let root = objects.root_key().await.map_err(|error| NodeError::new(error.to_string()))?;
    let text = format!("access_key={}\nsecret_key={}\n", root.access_key, root.secret_key.expose());
    let stored = home.disk.read_file("credentials").await.map_err(|error| NodeError::new(error.to_string()))?;
    if stored.as_deref() != Some(text.as_bytes()) {
        home.disk
            .write_file("credentials", text.as_bytes())
            .await
            .map_err(|error| NodeError::new(error.to_string()))?;
    }
    Ok(root)
}

fn greet(
    endpoint: &str,
    admin: &str,
    root: &client::object::api::AccessKey,
    credentials: &Path,
    policy: Redundancy,
    dirs: usize,
    node: Option<&NodeFile>,
) {
    // With metadata on three directories, two losses may take its majority.
    let metadata = if dirs >= 3 { 1 } else { 0 };
    let losses = policy.parity();
    let safety = if let Some(own) = node {
        format!("{policy}; node {} is reached by the others at {}", own.name, own.internal)
    } else if losses == 0 {
        format!(
            "ONE COPY ONLY ({policy}): losing {} loses data. Give 3 or more directories for redundancy.",
            if dirs == 1 { "this directory" } else { "a directory" }
        )
    } else {
        format!("{policy}: data survives the loss of {losses} directories, metadata of {metadata} of its three")
    };
    let key = &root.access_key;
    let secret = root.secret_key.expose();
    let text = format!(
        "\nBixi is ready.\n\
         \n  S3 endpoint   {endpoint}\n  admin         http://{admin}\n  access key    {key}\n  secret key    {secret}\n  kept in       {file}\n  redundancy    {safety}\n\
         \nPaste this to try it:\n\
         \n  export AWS_ACCESS_KEY_ID={key} AWS_SECRET_ACCESS_KEY={secret} AWS_DEFAULT_REGION=us-east-1\
         \n  aws --endpoint-url {endpoint} s3 mb s3://first\
         \n  aws --endpoint-url {endpoint} s3 cp README.md s3://first/\
         \n  aws --endpoint-url {endpoint} s3 ls s3://first/\n\
         \n  export BIXI_ADMIN_ADDR={admin} BIXI_CREDENTIALS={file}\
         \n  bixi status\n\
         \nStop with Ctrl-C; start again with the same directories.\n",
        file = credentials.display(),
    );
    // Nobody listening to the greeting is no reason to stop serving.
    let _ = output::print_bytes(text.as_bytes());
}
