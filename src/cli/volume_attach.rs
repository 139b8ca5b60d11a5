//! `bixi volume attach`: a volume's device in the host of the virtual machine, one hop from its disks.
//!
//! The process asks the server's admin door for a certificate that may attach volumes, and speaks to
//! metaserver and chunkservers by itself from then on. Started again for the same socket, it takes the volume
//! over from the one before at once; QEMU comes back to the socket (`reconnect=1`).

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use block_gateway::nbd;
use block_gateway::registry::{Lease, Registry};
use block_gateway::vhost;
use client::meta::MetaClient;
use platform::Platform;
use platform::tls::MutualTls;
use proto::roles::member_name;
use rpc::peers::Peers;
use serde_json::json;
use types::size::{format_size, parse_size};

use super::failure::Failure;
use super::output::print_line;
use super::session::Admin;
use crate::args::AttachArgs;
use crate::node::chunks::Announced;
use crate::node::cluster::Pass;
use crate::node::doors::{self, ChunkLayer};

/// How often it is asked for a new certificate and for where the metaservers are.
const PASS_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// Until it is tried again when that failed.
const PASS_PAUSE: Duration = Duration::from_secs(600);
/// How long giving the volume up may take.
const STOP: Duration = Duration::from_secs(10);

/// Serves a volume until the process is told to stop.
pub async fn run(platform: &Platform, args: &AttachArgs) -> Result<(), Failure> {
    let cache = parse_size(&args.cache).map_err(|error| Failure::usage(error.to_string()))?;
    let host = host_name(platform).await;
    let socket = match (&args.vhost_user, &args.nbd_unix) {
        (Some(socket), _) | (None, Some(socket)) => absolute(socket)?,
        (None, None) => return Err(Failure::usage("say --vhost-user SOCKET or --nbd-unix SOCKET")),
    };
    // A socket that somebody serves is the commonest mistake and must leave no trace.
    let listener = match &args.nbd_unix {
        Some(_) => {
            let address = format!("unix:{}", socket.display());
            let listener = platform.net().listen(&address).await;
            Some(listener.map_err(|error| Failure::caused("cannot serve", &error))?)
        }
        None => None,
    };
    let admin = Admin::new(platform, &args.access)?;
    let pass = ask(&admin, &host).await?;
    let (cluster, secret) = pass.cluster()?;
    let held = &pass.certificates;
    let (authorities, certificate, key) =
        (held.authorities.as_bytes(), held.certificate.as_bytes(), held.key.as_bytes());
    let tls = MutualTls::new(&member_name(cluster), authorities, certificate, key)
        .map_err(|error| Failure::caused("the server's certificate", &error))?;
    let peers = Peers::secured(platform.clone(), cluster, secret.to_vec(), Some(tls.clone()));
    // The same for whoever serves this socket next: what is left of this process is not waited for then.
    let owner = format!("{host}:{}", socket.display());
    let meta = MetaClient::new(peers, &owner, pass.addresses);
    meta.register().await.map_err(|error| Failure::caused("the cluster is not reached", &error))?;
    platform.tasks().spawn(Announced::default().heartbeat(meta.clone(), None));
    platform.tasks().spawn(keep_pass(platform.clone(), admin, host, meta.clone(), tls));
    let layer = ChunkLayer::new(&meta, usize::try_from(cache).unwrap_or(usize::MAX));
    let registry = doors::volumes(&meta, &layer, &owner);
    let lease = registry.open(&args.name).await.map_err(|error| Failure::conflict(error.to_string()))?;
    let served = match listener {
        Some(listener) => {
            let only = args.name.clone();
            platform.tasks().spawn(nbd::server::serve_one(platform.clone(), listener, registry.clone(), only));
            greet(&args.name, &lease, &nbd_lines(&args.name, &socket))?;
            platform::signal::wait_for_stop().await;
            Ok(())
        }
        None => {
            let serial: String = args.name.chars().take(20).collect();
            let device = lease.device();
            let server = vhost::Server::start(platform, &socket, Rc::clone(&device), &vhost::Options::new(&serial));
            let mut server = match server {
                Ok(server) => server,
                Err(error) => {
                    drop(device);
                    close(platform, lease, &registry).await;
                    return Err(Failure::caused("cannot serve", &error));
                }
            };
            greet(&args.name, &lease, &vhost_lines(&socket))?;
            let failed = {
                let stop = std::pin::pin!(platform::signal::wait_for_stop());
                let ended = std::pin::pin!(server.ended());
                match futures_util::future::select(stop, ended).await {
                    futures_util::future::Either::Left(_) => Ok(()),
                    futures_util::future::Either::Right((ended, _)) => ended,
                }
            };
            let stopped = server.stop().await;
            failed.and(stopped).map_err(|error| Failure::caused("the socket cannot be served any more", &error))
        }
    };
    close(platform, lease, &registry).await;
    served
}

async fn close(platform: &Platform, lease: Lease, registry: &Registry) {
    drop(lease);
    if platform.clock().timeout(STOP, registry.close()).await.is_err() {
        tracing::warn!("the volume is not given up in time; who comes next takes it over");
    }
}

async fn ask(admin: &Admin, host: &str) -> Result<Pass, Failure> {
    let told = admin.call("POST", "/v1/volumes/door", Some(&json!({ "host": host }))).await?;
    serde_json::from_value(told).map_err(|error| Failure::caused("the server's pass", &error))
}

/// Exchanges the certificate long before it ends, and hears where the metaservers are.
async fn keep_pass(platform: Platform, admin: Admin, host: String, meta: MetaClient, tls: MutualTls) {
    let mut pause = PASS_PERIOD;
    loop {
        platform.clock().sleep(pause).await;
        pause = match ask(&admin, &host).await {
            Ok(pass) => {
                let held = &pass.certificates;
                let exchanged =
                    tls.replace(held.authorities.as_bytes(), held.certificate.as_bytes(), held.key.as_bytes());
                if let Err(error) = exchanged {
                    tracing::warn!(%error, "a new certificate cannot be used");
                }
                pass.addresses.iter().for_each(|address| meta.add_address(address));
                PASS_PERIOD
            }
            Err(failure) => {
                tracing::warn!(why = failure.message, "no new certificate yet");
                PASS_PAUSE
            }
        };
    }
}

/// What the machine is called.
async fn host_name(platform: &Platform) -> String {
    let read = platform.lane().run(|| std::fs::read_to_string("/proc/sys/kernel/hostname")).await;
    read.map_or_else(|_| "host".to_owned(), |name| name.trim().to_owned())
}

fn absolute(socket: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(socket).map_err(|error| Failure::caused("the socket's path", &error))
}

fn greet(name: &str, lease: &Lease, lines: &[String]) -> Result<(), Failure> {
    print_line(&format!("volume {name} of {}", format_size(lease.device().size())))?;
    for line in lines {
        print_line(line)?;
    }
    print_line("ready")
}

fn vhost_lines(socket: &Path) -> Vec<String> {
    let socket = socket.display();
    vec![
        "  QEMU:    -object memory-backend-memfd,id=mem,size=2G,share=on -numa node,memdev=mem -m 2G \\".into(),
        format!(
            "           -chardev socket,id=bixi0,path={socket},reconnect=1 -device vhost-user-blk-pci,chardev=bixi0"
        ),
        "  libvirt: <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>".into(),
        format!(
            "           <disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/>\
             <source type='unix' path='{socket}'><reconnect enabled='yes' timeout='1'/></source>\
             <target dev='vdb' bus='virtio'/></disk>"
        ),
    ]
}

fn nbd_lines(name: &str, socket: &Path) -> Vec<String> {
    let socket = socket.display();
    vec![
        format!(
            "  QEMU:    -drive driver=nbd,server.type=unix,server.path={socket},export={name},\
             reconnect-delay=60,discard=unmap,cache=none,if=virtio"
        ),
        format!(
            "  libvirt: <disk type='network' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>\
             <source protocol='nbd' name='{name}'><host transport='unix' socket='{socket}'/></source>\
             <target dev='vdb' bus='virtio'/></disk>"
        ),
        format!("  Linux:   nbd-client -unix {socket} /dev/nbd0 -N {name}"),
    ]
}
