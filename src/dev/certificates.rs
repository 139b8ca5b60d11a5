//! Certificates of a `bixi dev` cluster: made when it is founded, renewed when it starts, exchanged
//! while it runs by `bixi cluster rotate-certificates`.

use std::path::Path;
use std::time::Duration;

use platform::Platform;
use platform::disk::Disk;
use proto::roles::Roles;
use types::ids::ClusterId;

use super::{DevConfig, ProcessConfig, Role, read_config};
use crate::args::RotateArgs;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::node::NodeError;
use crate::node::certificates::{
    AUTHORITY_FILE, Authority, FILE, NODE_DAYS, NodeCertificates, RELOAD_PERIOD, is_old, read, write,
};
use crate::node::identity;

/// What a process may be.
fn roles(process: &ProcessConfig) -> Roles {
    match process.role {
        Role::Meta => Roles::META,
        Role::Chunk => Roles::CHUNK,
        Role::S3 => Roles::GATEWAY,
    }
}

fn directory(platform: &Platform, path: &Path) -> Result<Disk, NodeError> {
    platform.open_disk(path).map_err(|error| NodeError::new(format!("{}: {error}", path.display())))
}

/// Gives every process a certificate that will serve for a while. Done before they start; a crash
/// in the middle is made good by the next start.
///
/// # Errors
/// The disk, or a damaged file.
pub async fn ensure(platform: &Platform, root: &Disk, config: &DevConfig) -> Result<(), NodeError> {
    let authority: Authority = match read(root, AUTHORITY_FILE).await? {
        Some(authority) => authority,
        None => {
            let made = Authority::new(platform, cluster(platform, config).await?)?;
            write(root, AUTHORITY_FILE, &made).await?;
            made
        }
    };
    for process in &config.processes {
        let disk = directory(platform, &process.dir)?;
        let held: Option<NodeCertificates> = read(&disk, FILE).await?;
        if held.is_some_and(|held| held.authorities == authority.certificate && !is_old(platform, &held)) {
            continue;
        }
        let made = authority.issue(platform, &process.name, roles(process), NODE_DAYS, &authority.certificate)?;
        write(&disk, FILE, &made).await?;
    }
    Ok(())
}

async fn cluster(platform: &Platform, config: &DevConfig) -> Result<ClusterId, NodeError> {
    for process in &config.processes {
        let disk = directory(platform, &process.dir)?;
        if let Ok(Some(own)) = identity::read_identity(&disk).await {
            return Ok(own.cluster);
        }
    }
    Err(NodeError::new("no process of this cluster has kept its identity"))
}

/// `bixi cluster rotate-certificates`: exchanges the certificates of a cluster that may be running.
///
/// # Errors
/// With what to do about it.
pub fn rotate(args: RotateArgs) -> Result<(), Failure> {
    platform::run(|platform| exchange(platform, args))
}

/// Long enough for every process to have taken its file over.
const TAKEN_OVER: Duration = Duration::from_secs(2 * RELOAD_PERIOD.as_secs() + 2);

async fn exchange(platform: Platform, args: RotateArgs) -> Result<(), Failure> {
    let (data, config) = read_config(&args.data)?;
    let root = directory(&platform, &data)?;
    let count = config.processes.len();
    if args.dry_run {
        let what = if args.authority { "the authority and " } else { "" };
        output::print_bytes(format!("would exchange {what}{count} certificates\n").as_bytes())?;
        return Err(Failure::would_change());
    }
    let missing = || NodeError::new(format!("{} has no {AUTHORITY_FILE}", data.display()));
    let mut authority: Authority = read(&root, AUTHORITY_FILE).await?.ok_or_else(missing)?;
    if args.authority {
        // First everybody trusts the new one besides the old; then everybody shows certificates
        // of the new one; last, the old one is forgotten. Cut short anywhere, all still trust
        // each other, and the command can be given again.
        let new = Authority::new(&platform, cluster(&platform, &config).await?)?;
        for process in &config.processes {
            let disk = directory(&platform, &process.dir)?;
            let mut held: NodeCertificates = read(&disk, FILE).await?.ok_or_else(missing)?;
            held.authorities.push_str(&new.certificate);
            write(&disk, FILE, &held).await?;
        }
        platform.clock().sleep(TAKEN_OVER).await;
        write(&root, AUTHORITY_FILE, &new).await?;
        authority = new;
    }
    for process in &config.processes {
        let disk = directory(&platform, &process.dir)?;
        let held: NodeCertificates = read(&disk, FILE).await?.ok_or_else(missing)?;
        let made = authority.issue(&platform, &process.name, roles(process), NODE_DAYS, &held.authorities)?;
        write(&disk, FILE, &made).await?;
    }
    if args.authority {
        platform.clock().sleep(TAKEN_OVER).await;
        for process in &config.processes {
            let disk = directory(&platform, &process.dir)?;
            let mut held: NodeCertificates = read(&disk, FILE).await?.ok_or_else(missing)?;
            held.authorities.clone_from(&authority.certificate);
            write(&disk, FILE, &held).await?;
        }
    }
    let text = format!("exchanged {count} certificates; running processes take them over within {RELOAD_PERIOD:?}\n");
    output::print_bytes(text.as_bytes())?;
    Ok(())
}
