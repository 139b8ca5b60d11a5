//! Who a directory is: its identity file, and which replicas the cluster was founded with.
//!
//! A cluster is founded in two steps: identities first, then the file `members` in every
//! directory. A crash in between leaves directories without `members`, which are founded anew; a
//! directory with `members` belongs to a cluster for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::Platform;
use platform::disk::{Disk, DiskError};
use proto::identity::Identity;
use proto::level;
use serde::{Deserialize, Serialize};
use types::ids::{ClusterId, StoreId};

use super::NodeError;

const IDENTITY: &str = "identity";
const MEMBERS: &str = "members";
/// How often a locked directory is tried again, and the pause between.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Present from the founding of a replica until its first start: tells an empty directory that is
/// new from one that was emptied.
const FOUNDING: &str = "founding";

/// The file `members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Members {
    /// Format version, 1.
    pub version: u32,
    /// Raft id (hex) to address of the founding replicas.
    pub founders: BTreeMap<String, String>,
}

impl Members {
    /// Founders by number.
    pub fn founders(&self) -> BTreeMap<u64, String> {
        let parsed =
            self.founders.iter().filter_map(|(id, address)| Some((u64::from_str_radix(id, 16).ok()?, address.clone())));
        parsed.collect()
    }

    /// From numbers.
    pub fn of(founders: &BTreeMap<u64, String>) -> Members {
        let founders = founders.iter().map(|(id, address)| (format!("{id:016x}"), address.clone()));
        Members { version: 1, founders: founders.collect() }
    }
}

/// A directory with what it says of itself.
#[derive(Clone)]
pub struct Home {
    /// The directory, locked by this process.
    pub disk: Disk,
    /// Absent in a directory that is new or whose founding was cut short.
    pub identity: Option<Identity>,
    /// Present once the founding was complete.
    pub members: Option<Members>,
}

/// Why a directory was not opened.
pub enum OpenError {
    /// Its disk or file system fails: the process can do without it if it has others.
    Disk(NodeError),
    /// It must not be used as it is; somebody has to look.
    Refused(NodeError),
}

impl From<OpenError> for NodeError {
    fn from(error: OpenError) -> NodeError {
        match error {
            OpenError::Disk(error) | OpenError::Refused(error) => error,
        }
    }
}

fn failed(disk: &Disk, error: &DiskError) -> NodeError {
    NodeError::new(format!("{}: {error}", disk.path().display()))
}

/// Opens and locks a directory and reads what it says of itself.
///
/// # Errors
/// Locked by another process, unreadable, or its identity is damaged.
pub async fn open(platform: &Platform, path: &std::path::Path) -> Result<Home, OpenError> {
    let disk = platform.open_disk(path).map_err(|error| {
        let text = format!("{}: {error}; choose another directory or fix its permissions", path.display());
        OpenError::Disk(NodeError::new(text))
    })?;
    lock(platform, &disk).await.map_err(|error| match error {
        DiskError::Locked { .. } => OpenError::Refused(NodeError::conflict(format!(
            "{} is in use by another bixi process; stop that one first, or give each server its own directories",
            path.display()
        ))),
        error => OpenError::Disk(failed(&disk, &error)),
    })?;
    let unreadable = |error: DiskError| OpenError::Disk(failed(&disk, &error));
    let identity = read_identity(&disk).await?;
    let refused = |text: String| OpenError::Refused(NodeError::new(format!("{}: {text}", path.display())));
    let members = match disk.read_file(MEMBERS).await.map_err(unreadable)? {
        None => None,
        Some(bytes) => Some(
            serde_json::from_slice::<Members>(&bytes)
                .map_err(|error| refused(format!("file `members` is damaged: {error}")))?,
        ),
    };
    if members.is_some() && identity.is_none() {
        return Err(refused(
            "file `identity` is missing but the directory is not empty; restore it, or empty the directory so that it joins as a new store".to_owned(),
        ));
    }
    Ok(Home { disk, identity, members })
}

/// Locks a directory. A process that was killed may hold it for a moment longer, until the kernel has
/// ended its I/O.
async fn lock(platform: &Platform, disk: &Disk) -> Result<(), DiskError> {
    for _ in 0..LOCK_TRIES {
        match disk.try_lock() {
            Err(DiskError::Locked { .. }) => platform.clock().sleep(LOCK_PAUSE).await,
            other => return other,
        }
    }
    disk.try_lock()
}

/// The identity of a directory, without locking it; `None` if it has none.
///
/// # Errors
/// Unreadable or damaged.
pub async fn read_identity(disk: &Disk) -> Result<Option<Identity>, OpenError> {
    let unreadable = |error: DiskError| OpenError::Disk(failed(disk, &error));
    let Some(bytes) = disk.read_file(IDENTITY).await.map_err(unreadable)? else { return Ok(None) };
    let identity = Identity::decode(&bytes).map_err(|error| {
        OpenError::Refused(NodeError::new(format!(
            "{}: {error}; the directory cannot be trusted. Restore the file `identity`, or empty the directory so that it joins as a new store",
            disk.path().display()
        )))
    })?;
    if identity.feature_level > level::CURRENT {
        return Err(OpenError::Refused(NodeError::conflict(format!(
            "{}: the cluster is at feature level {}, and this version of bixi knows levels up to {}; start a newer one",
            disk.path().display(),
            identity.feature_level,
            level::CURRENT
        ))));
    }
    Ok(Some(identity))
}

/// A random number that is not 0.
pub fn random_id(platform: &Platform) -> u64 {
    let mut bytes = [0; 8];
    platform.random().fill(&mut bytes);
    u64::from_le_bytes(bytes).max(1)
}

/// A new identity in a cluster.
pub fn fresh(
    platform: &Platform,
    cluster: ClusterId,
    secret: [u8; 32],
    feature_level: u64,
    with_replica: bool,
) -> Identity {
    Identity {
        cluster,
        store: StoreId(random_id(platform)),
        generation: 1,
        feature_level,
        slot_size: super::chunks::SLOT,
        raft_id: if with_replica { random_id(platform) } else { 0 },
        cluster_secret: secret,
    }
}

/// The directory with the cluster's feature level in its identity, durably.
///
/// # Errors
/// The disk.
pub async fn raised(mut home: Home, feature_level: u64) -> Result<Home, NodeError> {
    if let Some(own) = home.identity.clone().filter(|own| own.feature_level < feature_level) {
        write_identity(&mut home, Identity { feature_level, ..own }).await?;
    }
    Ok(home)
}

/// Writes a directory's identity, durably.
///
/// # Errors
/// The disk.
pub async fn write_identity(home: &mut Home, identity: Identity) -> Result<(), NodeError> {
    home.disk.write_file(IDENTITY, &identity.encode()).await.map_err(|error| failed(&home.disk, &error))?;
    home.identity = Some(identity);
    Ok(())
}

/// Says that the replica in this directory is yet to be started for the first time, durably.
///
/// # Errors
/// The disk.
pub async fn begin_founding(home: &Home) -> Result<(), NodeError> {
    home.disk
        .write_file(FOUNDING, b"the replica here has not been started yet\n")
        .await
        .map_err(|error| failed(&home.disk, &error))
}

/// Whether the replica in this directory is yet to be started for the first time.
///
/// # Errors
/// The disk.
pub async fn is_founding(home: &Home) -> Result<bool, NodeError> {
    let found = home.disk.read_file(FOUNDING).await.map_err(|error| failed(&home.disk, &error))?;
    Ok(found.is_some())
}

/// The replica was started.
///
/// # Errors
/// The disk.
pub async fn founding_is_over(home: &Home) -> Result<(), NodeError> {
    match home.disk.remove(FOUNDING).await {
        Ok(()) | Err(DiskError::NotFound { .. }) => Ok(()),
        Err(error) => Err(failed(&home.disk, &error)),
    }
}

/// Writes a directory's `members`, durably: from then on it belongs to the cluster.
///
/// # Errors
/// The disk.
pub async fn write_members(home: &mut Home, members: &Members) -> Result<(), NodeError> {
    let text = serde_json::to_vec_pretty(members).map_err(|error| NodeError::new(error.to_string()))?;
    home.disk.write_file(MEMBERS, &text).await.map_err(|error| failed(&home.disk, &error))?;
    home.members = Some(members.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Members;

    #[test]
    fn golden_bytes_of_members() {
        let text = r#"{"version":1,"founders":{"00000000000000ab":"h:1","ffffffffffffffff":"h:2"}}"#;
        let founders = [(0xab, "h:1".to_owned()), (u64::MAX, "h:2".to_owned())].into();
        let members = Members::of(&founders);
        assert_eq!(serde_json::to_string(&members).ok().as_deref(), Some(text));
        assert_eq!(serde_json::from_str::<Members>(text).ok(), Some(members));
        assert_eq!(serde_json::from_str::<Members>(text).map(|read| read.founders()).ok(), Some(founders));
        assert!(serde_json::from_str::<Members>(&text.replace("founders", "fouders")).is_err());
    }
}
