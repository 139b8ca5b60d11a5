//! `bixi dev`: a whole cluster of separate processes on loopback, for tests, demos and benches.
//!
//! The first start founds the cluster: identities, ports and one description per process, all
//! kept in the directory, so that `bixi dev --data DIR` again brings the same cluster back. It
//! never restarts children by itself.

#![allow(clippy::disallowed_methods, reason = "the supervisor of processes touches files and processes")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use chunkserver::service::ChunkService;
use client::meta::MetaClient;
use platform::Platform;
use platform::disk::Disk;
use proto::level;
use proto::meta::Body;
use proto::rows::{ClusterRow, RedundancyRow};
use proto::service::{class, code};
use rpc::budget::Budget;
use rpc::call::{Handler, Reply};
use rpc::peers::Peers;
use rpc::server::{ServerConfig, serve};
use serde::{Deserialize, Serialize};
use types::ids::ClusterId;
use types::redundancy::Redundancy;

use crate::args::DevArgs;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::node::chunks::{Announced, Place};
use crate::node::cluster::Naming;
use crate::node::directories::{Added, Directories, Parts};
use crate::node::doors::{self, AdminParts, ChunkLayer};
use crate::node::identity::{self, Members};
use crate::node::metas::Group;
use crate::node::{NodeError, certificates as tls, chunks, memory, metas, root_key};
use crate::server::{CELL, CHUNK_CAPACITY, PARTITIONS, default_redundancy};

pub mod certificates;

/// What one process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A metaserver replica.
    Meta,
    /// A chunkserver.
    Chunk,
    /// The S3 and admin doors.
    S3,
}

/// The description of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its directory.
    pub dir: PathBuf,
    /// Where it listens for frames; S3: where S3 clients connect.
    pub listen: String,
    /// S3: where the admin door listens.
    pub admin: String,
    /// S3: where volumes are exported by NBD; empty in what an earlier version wrote.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nbd: String,
    /// Raft id (hex) to address of the founding metaserver replicas.
    pub metas: BTreeMap<String, String>,
    /// Redundancy of a new cluster.
    pub redundancy: String,
    /// Bytes of memory for hot data.
    pub cache_bytes: usize,
    /// The zone it stands in; none in a cluster of one zone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

/// The description of the cluster, kept in `DIR/dev.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevConfig {
    version: u32,
    processes: Vec<ProcessConfig>,
}

const LOOPBACK: &str = "127.0.0.1";
/// Ports of processes: below those that Linux gives to clients, and not those of tests/harness.py.
const PORTS: std::ops::Range<u64> = 24_000..32_000;
/// How long the processes may take to become ready.
const READY: Duration = Duration::from_secs(60);

fn io(path: &Path) -> impl Fn(std::io::Error) -> NodeError + '_ {
    move |error| NodeError::new(format!("{}: {error}", path.display()))
}

/// Founds or reopens the cluster, starts its processes, and stops them on SIGINT or SIGTERM.
///
/// # Errors
/// With what to do about it.
pub fn run(args: DevArgs) -> Result<(), Failure> {
    platform::run(|platform| supervise(platform, args)).map_err(Failure::from)
}

async fn supervise(platform: Platform, args: DevArgs) -> Result<(), NodeError> {
    std::fs::create_dir_all(&args.data).map_err(io(&args.data))?;
    let data = std::fs::canonicalize(&args.data).map_err(io(&args.data))?;
    let root = platform.open_disk(&data).map_err(|error| NodeError::new(error.to_string()))?;
    root.try_lock().map_err(|error| NodeError::conflict(format!("{error}; is `bixi dev` running there already?")))?;
    let config_path = data.join("dev.json");
    let config = if config_path.exists() {
        let (_, config) = read_config(&data)?;
        check_same(&config, &args)?;
        config
    } else {
        let config = found(&platform, &data, &args).await?;
        let text = serde_json::to_vec_pretty(&config).map_err(|error| NodeError::new(error.to_string()))?;
        root.write_file("dev.json", &text).await.map_err(|error| NodeError::new(error.to_string()))?;
        config
    };
    certificates::ensure(&platform, &root, &config).await?;
    keep_root_key(&platform, &config).await?;
    let _ = std::fs::remove_file(data.join("cluster.json"));
    let mut children = Children(Vec::new());
    for process in &config.processes {
        children.0.push(spawn(&data, process)?);
    }
    let door = config
        .processes
        .iter()
        .find(|process| process.role == Role::S3)
        .ok_or_else(|| NodeError::new("dev.json without an S3 process"))?;
    let ready = wait_ready(&platform, door, &mut children);
    let stop = platform::signal::wait_for_stop();
    let up = tokio::select! {
        biased;
        () = stop => None,
        up = ready => Some(up),
    };
    if let Some(up) = up {
        if let Err(error) = up {
            children.stop(&platform).await;
            return Err(error);
        }
        let text = describe(&data, &config, &children)?;
        root.write_file("cluster.json", text.as_bytes()).await.map_err(|error| NodeError::new(error.to_string()))?;
        greet(&data, door);
        platform::signal::wait_for_stop().await;
    }
    children.stop(&platform).await;
    Ok(())
}

/// Has the metaservers hold the root key, also those of a cluster that was founded before there was one.
async fn keep_root_key(platform: &Platform, config: &DevConfig) -> Result<(), NodeError> {
    let (mut disks, mut is_older) = (Vec::new(), false);
    for process in config.processes.iter().filter(|process| process.role == Role::Meta) {
        let disk = platform.open_disk(&process.dir).map_err(|error| NodeError::new(error.to_string()))?;
        let own = identity::read_identity(&disk).await.ok().flatten();
        is_older |= own.is_some_and(|own| own.feature_level < level::ENCRYPTION);
        disks.push(disk);
    }
    root_key::keep(platform, &disks.iter().collect::<Vec<&Disk>>(), is_older).await.map(|_| ())
}

/// The cluster described in a directory of `bixi dev`.
fn read_config(data: &Path) -> Result<(PathBuf, DevConfig), NodeError> {
    let data = std::fs::canonicalize(data).map_err(io(data))?;
    let path = data.join("dev.json");
    let text = std::fs::read(&path).map_err(io(&path))?;
    let config =
        serde_json::from_slice(&text).map_err(|error| NodeError::new(format!("{}: {error}", path.display())))?;
    Ok((data, config))
}

fn check_same(config: &DevConfig, args: &DevArgs) -> Result<(), NodeError> {
    if let Some(text) = &args.redundancy {
        let known = config.processes.first().map(|process| process.redundancy.clone()).unwrap_or_default();
        if *text != known {
            return Err(NodeError::conflict(format!("this cluster was made with --redundancy {known}")));
        }
    }
    let known = config.processes.iter().map(|process| &process.zone).filter(|zone| !zone.is_empty());
    let known = known.collect::<std::collections::BTreeSet<_>>().len().max(1) as u32;
    if args.zones.is_some_and(|zones| zones != known) {
        return Err(NodeError::conflict(format!("this cluster was made with --zones {known}")));
    }
    Ok(())
}

async fn found(platform: &Platform, data: &Path, args: &DevArgs) -> Result<DevConfig, NodeError> {
    let usage = |text: String| NodeError { text, exit: 2 };
    if !matches!(args.meta, 1 | 3) || args.chunk == 0 || args.chunk > 64 {
        return Err(usage("--meta is 1 or 3, --chunk is 1 to 64".into()));
    }
    let policy = match &args.redundancy {
        Some(text) => text.parse::<Redundancy>().map_err(|error| usage(error.to_string()))?,
        None => default_redundancy(args.chunk as usize),
    };
    let cluster = ClusterId(identity::random_id(platform));
    let mut secret = [0; 32];
    platform.random().fill(&mut secret);
    let mut homes = Vec::new();
    let mut founders = BTreeMap::new();
    let mut processes = Vec::new();
    let zones = args.zones.unwrap_or(1);
    if zones == 0 || zones > args.chunk {
        return Err(usage("--zones is 1 to the number of chunkservers".into()));
    }
    let zone = |at: u32| if zones > 1 { format!("zone-{}", (at - 1) % zones + 1) } else { String::new() };
    let names = (1..=args.meta)
        .map(|at| (format!("meta-{at}"), Role::Meta, zone(at)))
        .chain((1..=args.chunk).map(|at| (format!("chunk-{at}"), Role::Chunk, zone(at))))
        .chain([("s3".to_owned(), Role::S3, String::new())]);
    // All ports are taken at once, so that no two are the same, and given back together.
    let mut held = Vec::new();
    for (name, role, zone) in names {
        let dir = data.join(&name);
        let mut home = identity::open(platform, &dir).await?;
        if home.members.is_some() {
            return Err(NodeError::conflict(format!(
                "{} holds data of a cluster but dev.json is missing; restore it or choose another --data",
                dir.display()
            )));
        }
        let own = identity::fresh(platform, cluster, secret, level::CURRENT, role == Role::Meta);
        let listen = match (&role, &args.s3_addr) {
            (Role::S3, Some(address)) => address.clone(),
            _ => free_port(platform, &mut held).await?,
        };
        let admin = match (&role, &args.admin_addr) {
            (Role::S3, Some(address)) => address.clone(),
            (Role::S3, None) => free_port(platform, &mut held).await?,
            _ => String::new(),
        };
        let nbd = match (&role, &args.nbd_addr) {
            (Role::S3, Some(address)) => address.clone(),
            (Role::S3, None) => free_port(platform, &mut held).await?,
            _ => String::new(),
        };
        if own.raft_id != 0 {
            founders.insert(own.raft_id, listen.clone());
        }
        identity::write_identity(&mut home, own).await?;
        identity::begin_founding(&home).await?;
        homes.push(home);
        processes.push(ProcessConfig {
            name,
            role,
            dir,
            listen,
            admin,
            nbd,
            metas: BTreeMap::new(),
            redundancy: policy.to_string(),
            cache_bytes: 64 << 20,
            zone,
        });
    }
    let metas: Vec<&Disk> = homes
        .iter()
        .zip(&processes)
        .filter(|(_, process)| process.role == Role::Meta)
        .map(|(home, _)| &home.disk)
        .collect();
    root_key::keep(platform, &metas, true).await?;
    let members = Members::of(&founders);
    for home in &mut homes {
        identity::write_members(home, &members).await?;
    }
    for process in &mut processes {
        process.metas = members.founders.clone();
        let path = process.dir.join("process.json");
        let text = serde_json::to_vec_pretty(process).map_err(|error| NodeError::new(error.to_string()))?;
        std::fs::write(&path, text).map_err(io(&path))?;
    }
    Ok(DevConfig { version: 1, processes })
}

/// Not one that the kernel would choose: it also gives those to clients, and a client may have it
/// when the process comes back (one that calls the dead process even connects to itself).
async fn free_port(platform: &Platform, held: &mut Vec<platform::net::Listener>) -> Result<String, NodeError> {
    let mut last = None;
    for _ in 0..1000 {
        let port = PORTS.start + platform.random().below(PORTS.end - PORTS.start);
        match platform.net().listen(&format!("{LOOPBACK}:{port}")).await {
            Ok(listener) => {
                let address = listener.local_addr();
                held.push(listener);
                return Ok(address);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(NodeError::new(format!("no port of {PORTS:?} is free: {}", last.map_or(String::new(), |e| e.to_string()))))
}

fn argv(process: &ProcessConfig) -> Result<Vec<String>, NodeError> {
    let exe = std::env::current_exe().map_err(|error| NodeError::new(error.to_string()))?;
    let config = process.dir.join("process.json");
    Ok(vec![exe.display().to_string(), "node".into(), "--spec".into(), config.display().to_string()])
}

fn spawn(data: &Path, process: &ProcessConfig) -> Result<(String, Child), NodeError> {
    let argv = argv(process)?;
    let log_path = data.join(format!("{}.log", process.name));
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path).map_err(io(&log_path))?;
    let child = Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(io(&log_path))?)
        .stderr(log)
        .spawn()
        .map_err(|error| NodeError::new(format!("{}: {error}", argv[0])))?;
    Ok((process.name.clone(), child))
}

struct Children(Vec<(String, Child)>);

impl Children {
    /// The name of a child that has ended, if any.
    fn ended(&mut self) -> Option<String> {
        self.0.iter_mut().find_map(|(name, child)| match child.try_wait() {
            Ok(None) => None,
            _ => Some(name.clone()),
        })
    }

    async fn stop(&mut self, platform: &Platform) {
        // The doors first: they give up what they hold at the others.
        for is_turn in [|name: &str| name == "s3", |name: &str| name != "s3"] {
            let mut some: Vec<&mut Child> =
                self.0.iter_mut().filter(|(name, _)| is_turn(name)).map(|(_, child)| child).collect();
            some.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            for child in &some {
                // SAFETY: plain system call on the pid of a child that has not been waited for.
                unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
            }
            for _ in 0..120 {
                some.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
                if some.is_empty() {
                    break;
                }
                platform.clock().sleep(Duration::from_millis(100)).await;
            }
        }
        for (name, child) in &mut self.0 {
            if matches!(child.try_wait(), Ok(None)) {
                tracing::warn!(%name, "did not stop in time, killed");
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

async fn wait_ready(platform: &Platform, door: &ProcessConfig, children: &mut Children) -> Result<(), NodeError> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let deadline = platform.clock().now() + READY;
    while platform.clock().now() < deadline {
        if let Some(name) = children.ended() {
            return Err(NodeError::new(format!("process {name} ended; see {name}.log in the data directory")));
        }
        if let Ok(mut stream) = platform.net().connect(&door.admin).await {
            let request = format!("GET /health/ready HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", door.admin);
            let mut answer = Vec::new();
            let asked = stream.write_all(request.as_bytes()).await;
            let read = platform.clock().timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
            if asked.is_ok() && matches!(read, Ok(Ok(_))) && answer.starts_with(b"HTTP/1.1 200") {
                return Ok(());
            }
        }
        platform.clock().sleep(Duration::from_millis(50)).await;
    }
    Err(NodeError::new("the cluster did not become ready within 60 s; see the logs in the data directory"))
}

fn credentials(dir: &Path) -> Result<(String, String), NodeError> {
    let path = dir.join("credentials");
    let text = std::fs::read_to_string(&path).map_err(io(&path))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    Ok((field("access_key="), field("secret_key=")))
}

fn describe(data: &Path, config: &DevConfig, children: &Children) -> Result<String, NodeError> {
    let door = config
        .processes
        .iter()
        .find(|process| process.role == Role::S3)
        .ok_or_else(|| NodeError::new("no S3 process"))?;
    let (access_key, secret_key) = credentials(&data.join("s3"))?;
    let mut processes = Vec::new();
    for process in &config.processes {
        let pid = children.0.iter().find(|(name, _)| *name == process.name).map_or(0, |(_, child)| child.id());
        processes.push(serde_json::json!({
            "name": process.name,
            "roles": [process.role],
            "pid": pid,
            "data": [process.dir],
            "argv": argv(process)?,
        }));
    }
    let tree = serde_json::json!({
        "s3": door.listen,
        "admin": door.admin,
        "nbd": door.nbd,
        "access_key": access_key,
        "secret_key": secret_key,
        "processes": processes,
    });
    serde_json::to_string_pretty(&tree).map_err(|error| NodeError::new(error.to_string()))
}

fn greet(data: &Path, door: &ProcessConfig) {
    let text = format!(
        "\nThe cluster is ready.\n\n  S3 endpoint   http://{}\n  admin         http://{}\n  volumes       nbd://{}/NAME\n  processes     {}\n\n  export BIXI_ADMIN_ADDR={} BIXI_CREDENTIALS={}\n  bixi status\n\nStop with Ctrl-C; `bixi dev --data {}` brings it back.\n",
        door.listen,
        door.admin,
        door.nbd,
        data.join("cluster.json").display(),
        door.admin,
        data.join("s3/credentials").display(),
        data.display(),
    );
    // Nobody listening to the greeting is no reason to stop serving.
    let _ = output::print_bytes(text.as_bytes());
}

/// Runs one process until SIGINT or SIGTERM.
///
/// # Errors
/// With what to do about it.
pub fn run_node(spec: &Path) -> Result<(), Failure> {
    platform::run(|platform| process(platform, spec)).map_err(Failure::from)
}

async fn process(platform: Platform, spec: &Path) -> Result<(), NodeError> {
    let text = std::fs::read(spec).map_err(io(spec))?;
    let config: ProcessConfig = serde_json::from_slice(&text)
        .map_err(|error| NodeError { text: format!("{}: {error}", spec.display()), exit: 2 })?;
    let home = identity::open(&platform, &config.dir).await?;
    let Some(own) = home.identity.clone() else {
        return Err(NodeError::new(format!("{}: no identity; the directory was emptied", config.dir.display())));
    };
    let security = tls::load(&platform, &home.disk, own.cluster).await?;
    let peers = Peers::secured(platform.clone(), own.cluster, own.cluster_secret.to_vec(), Some(security.clone()));
    let founders = Members { version: 1, founders: config.metas.clone() }.founders();
    let addresses: Vec<String> = founders.values().cloned().collect();
    let meta = MetaClient::new(peers.clone(), &config.name, addresses);
    let internal = ServerConfig {
        cluster: own.cluster,
        secret: own.cluster_secret.to_vec(),
        tls: Some(security),
        budget: Budget::new(usize::try_from(memory::shares().calls).unwrap_or(usize::MAX)),
        slow: Duration::from_secs(1),
    };
    match config.role {
        Role::Meta => {
            let listener = listen(&platform, &config.listen).await?;
            let group = Group { founders, ..Group::default() };
            let keyring = root_key::load(&platform, std::slice::from_ref(&home), None, false).await?;
            let server = metas::start(&platform, &peers, &home, &config.name, &config.listen, group, keyring).await?;
            crate::server::register_meta(&peers, &config.listen, &server);
            let served = server.clone();
            let handler: Handler = Rc::new(move |call| {
                let server = served.clone();
                Box::pin(async move {
                    let reply = server.handle(call).await;
                    reply.unwrap_or_else(|| {
                        Reply::failed(class::GIVE_UP, code::BAD_REQUEST, "not a metaserver's request")
                    })
                })
            });
            platform.tasks().spawn(serve(platform.clone(), listener, internal, handler));
            platform.tasks().spawn(metas::follow_level(platform.clone(), home.clone(), server.clone()));
            platform::signal::wait_for_stop().await;
            server.replica().settle().await;
        }
        Role::Chunk => {
            let listener = listen(&platform, &config.listen).await?;
            let service = ChunkService::default();
            let store_config = chunks::config();
            let scrub = chunks::scrub_cycle(chunks::SCRUB_DAYS)?;
            let store = chunks::start(&platform, &service, &home, store_config, scrub).await?;
            let announced = Announced::default();
            let (node, address) = (config.name.as_str(), config.listen.as_str());
            let domain = match config.zone.as_str() {
                "" => node.to_owned(),
                zone => format!("{zone}/{node}"),
            };
            announced.add(store, &Place { node, domain: &domain, address, replica: "" });
            let added = Added::read(std::slice::from_ref(&home)).await?;
            let parts = Parts {
                platform: platform.clone(),
                service: service.clone(),
                announced: announced.clone(),
                meta: meta.clone(),
                naming: Naming::new(None, (node, address)),
                domain: Some(domain),
                scrub,
                replicas: None,
            };
            let known = added.open(&platform).await;
            let directories = Directories::new(std::slice::from_ref(&home), added, parts)?;
            let handler = crate::server::chunk_handler(&service, &directories);
            peers.register_local(address, Rc::clone(&handler));
            directories.serve_all(&known).await;
            platform.tasks().spawn(serve(platform.clone(), listener, internal, handler));
            platform.tasks().spawn(announced.clone().heartbeat(meta.clone(), Some(directories)));
            let layer = ChunkLayer::new(&meta, 0);
            layer.spawn_executor(&meta);
            platform::signal::wait_for_stop().await;
            announced.settle().await;
        }
        Role::S3 => serve_doors(&platform, &config, &home, &meta, own.cluster, founders.len()).await?,
    }
    Ok(())
}

async fn listen(platform: &Platform, address: &str) -> Result<platform::net::Listener, NodeError> {
    platform.net().listen(address).await.map_err(|error| NodeError::new(format!("cannot listen on {address}: {error}")))
}

async fn serve_doors(
    platform: &Platform,
    config: &ProcessConfig,
    home: &identity::Home,
    meta: &MetaClient,
    cluster: ClusterId,
    replicas: usize,
) -> Result<(), NodeError> {
    let s3_listener = listen(platform, &config.listen).await?;
    let admin_listener = listen(platform, &config.admin).await?;
    let nbd_listener = if config.nbd.is_empty() { None } else { Some(listen(platform, &config.nbd).await?) };
    let policy: Redundancy = config
        .redundancy
        .parse()
        .map_err(|error: types::redundancy::BadRedundancy| NodeError::new(error.to_string()))?;
    let init = ClusterRow {
        cluster: cluster.0,
        feature_level: level::CURRENT,
        partitions: PARTITIONS,
        redundancy: RedundancyRow::from(policy),
        chunk_capacity: CHUNK_CAPACITY,
        cell_size: CELL,
    };
    meta.bare_command(Body::InitCluster(init)).await.map_err(|error| NodeError::new(error.to_string()))?;
    let (row, stored) = doors::cluster(meta).await?;
    platform.tasks().spawn(Announced::default().heartbeat(meta.clone(), None));
    let layer = ChunkLayer::new(meta, config.cache_bytes);
    let objects = doors::objects(meta, &layer, &row, stored, replicas);
    let root = objects.root_key().await.map_err(|error| NodeError::new(error.to_string()))?;
    let text = format!("access_key={}\nsecret_key={}\n", root.access_key, root.secret_key.expose());
    home.disk.write_file("credentials", text.as_bytes()).await.map_err(|error| NodeError::new(error.to_string()))?;
    let ready = Rc::new(Cell::new(false));
    let registry = doors::volumes(meta, &layer, "s3");
    if let Some(listener) = nbd_listener {
        doors::spawn_nbd(platform, listener, &registry, None);
    }
    let parts = AdminParts {
        ready: Rc::clone(&ready),
        s3: config.listen.clone(),
        stores: ChunkService::default(),
        inside: None,
        trash_keep: doors::trash_keep(doors::TRASH_DAYS)?,
        registry: registry.clone(),
    };
    let gateway = s3_gateway::config::Config::default();
    let region = gateway.region.clone();
    doors::spawn_admin(platform, admin_listener, &objects, meta, &region, parts);
    doors::spawn_s3(platform, s3_listener, &objects, gateway);
    // Ready = enough disks for new chunks have been heard of.
    let (meta, clock) = (meta.clone(), platform.clock().clone());
    platform.tasks().spawn(async move {
        loop {
            let heard = meta.query(proto::query::Ask::Disks(proto::query::AskAll {})).await;
            let alive = heard.map_or(0, |view| view.disks.iter().filter(|disk| disk.alive).count());
            if alive >= stored.shards().min(stored.needed() + stored.parity()) {
                ready.set(true);
                return;
            }
            clock.sleep(Duration::from_millis(50)).await;
        }
    });
    platform::signal::wait_for_stop().await;
    if platform.clock().timeout(Duration::from_secs(10), registry.close()).await.is_err() {
        tracing::warn!("volumes are not given up in time; who comes next takes them over");
    }
    Ok(())
}
