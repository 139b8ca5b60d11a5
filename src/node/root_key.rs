//! The cluster's root key: a file of one line, readable by its owner alone.
//!
//! It lies in the directories of every process that may hold a metaserver replica (`root-key`), or wherever the
//! operator wants it (`--root-key FILE`); never in the log or the state. It is made when a cluster is founded,
//! or by the first start of this version on a cluster of an older feature level, and handed to nodes that join
//! by mutual TLS. One that the operator keeps is handed to nobody.
//!
//! A crash leaves some directories without it; the next start copies it there. Without it everything is served
//! but encrypted volumes.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crypto::envelope::RootKey;
use crypto::secret::Secret;
use metaserver::server::keyring::Keyring;
use platform::Platform;
use platform::disk::Disk;
use proto::level;

use super::NodeError;
use super::identity::Home;

/// The file in a directory.
pub const FILE: &str = "root-key";

/// Draws a root key.
fn drawn(platform: &Platform) -> RootKey {
    RootKey::draw(|bytes| platform.random().fill(bytes))
}

fn parsed(text: &Secret<Vec<u8>>, place: &Path) -> Result<RootKey, NodeError> {
    RootKey::parse(text.expose()).map_err(|error| NodeError::conflict(format!("{}: {error}", place.display())))
}

async fn read(disk: &Disk) -> Result<Option<RootKey>, NodeError> {
    let place = disk.path().join(FILE);
    let text = disk.read_file(FILE).await;
    let text = text.map_err(|error| NodeError::new(format!("{}: {error}", place.display())))?;
    text.map(|text| parsed(&Secret::new(text), &place)).transpose()
}

/// Keeps a root key in a directory, durably.
///
/// # Errors
/// The disk.
pub async fn write(disk: &Disk, root: &RootKey) -> Result<(), NodeError> {
    let place = disk.path().join(FILE);
    let written = disk.write_file(FILE, root.text().expose().as_bytes()).await;
    written.map_err(|error| NodeError::new(format!("{}: {error}", place.display())))
}

/// The root key that these directories hold; they must hold the same one.
async fn held(disks: &[&Disk]) -> Result<Option<RootKey>, NodeError> {
    let mut found: Option<(RootKey, &Disk)> = None;
    for disk in disks.iter().copied() {
        let Some(root) = read(disk).await? else { continue };
        let Some((first, at)) = &found else {
            found = Some((root, disk));
            continue;
        };
        if first.name() != root.name() {
            let (one, other) = (at.path().join(FILE), disk.path().join(FILE));
            let text = format!("{} and {} are different keys; keep the right one", one.display(), other.display());
            return Err(NodeError::conflict(text));
        }
    }
    Ok(found.map(|(root, _)| root))
}

/// Has all these directories hold the root key: one that some hold, or a new one if `may_make`.
///
/// # Errors
/// The disk, a damaged file, or different keys.
pub async fn keep(platform: &Platform, disks: &[&Disk], may_make: bool) -> Result<Option<RootKey>, NodeError> {
    let root = match held(disks).await? {
        Some(root) => root,
        None if may_make => drawn(platform),
        None => return Ok(None),
    };
    for disk in disks {
        if read(disk).await?.is_none() {
            write(disk, &root).await?;
        }
    }
    Ok(Some(root))
}

/// The root key of a cluster that is being founded, before anything else of it is kept.
///
/// # Errors
/// The disk, or a file that is none.
pub async fn found(platform: &Platform, homes: &[Home], path: Option<&Path>) -> Result<(), NodeError> {
    match path {
        Some(path) => make_at(platform, path),
        None => keep(platform, &disks(homes), true).await.map(|_| ()),
    }
}

/// The root key of a process that starts. `is_source`: nobody else could have it.
///
/// # Errors
/// The disk, a damaged file, different keys; the operator's file is not there.
pub async fn load(
    platform: &Platform,
    homes: &[Home],
    path: Option<&Path>,
    is_source: bool,
) -> Result<Keyring, NodeError> {
    let root = match path {
        Some(path) => {
            let root = read_at(path)?;
            match held(&disks(homes)).await? {
                Some(other) if other.name() != root.name() => {
                    let text = format!("{} is another key than the one in {FILE} of the directories", path.display());
                    return Err(NodeError::conflict(text));
                }
                Some(_) => tracing::warn!("--root-key is given, and {FILE} is still in a directory beside the data"),
                None => {}
            }
            Some(root)
        }
        None => {
            let is_older =
                |home: &Home| home.identity.as_ref().is_some_and(|own| own.feature_level < level::ENCRYPTION);
            keep(platform, &disks(homes), is_source && homes.iter().any(is_older)).await?
        }
    };
    if root.is_none() {
        tracing::warn!("there is no {FILE}: encrypted volumes cannot be served by this process's metaserver");
    }
    Ok(Keyring::new(root))
}

fn disks(homes: &[Home]) -> Vec<&Disk> {
    homes.iter().map(|home| &home.disk).collect()
}

#[expect(clippy::disallowed_methods, reason = "it lies wherever its owner put it")]
fn read_at(path: &Path) -> Result<RootKey, NodeError> {
    let text = std::fs::read(path).map_err(|error| NodeError::conflict(format!("{}: {error}", path.display())))?;
    parsed(&Secret::new(text), path)
}

/// Makes the operator's file unless it is there.
#[expect(clippy::disallowed_methods, reason = "it lies wherever its owner wants it")]
fn make_at(platform: &Platform, path: &Path) -> Result<(), NodeError> {
    let failed = |error: std::io::Error| NodeError::new(format!("{}: {error}", path.display()));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return read_at(path).map(|_| ()),
        Err(error) => return Err(failed(error)),
    };
    file.write_all(drawn(platform).text().expose().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}
