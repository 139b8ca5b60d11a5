//! Volumes in the admin API: which request asks what. What it does is the process's
//! ([`super::AdminHooks`]).
//!
//! ```text
//! GET  /v1/volumes                                              all of them
//! POST /v1/volumes          {"name":..,"size":..,"redundancy":..,"cipher":..}  makes one; without redundancy the
//!                           cluster's, without cipher not encrypted
//! POST /v1/volumes/status   {"name":..}                         one, with its snapshots
//! POST /v1/volumes/resize   {"name":..,"size":..}
//! POST /v1/volumes/delete   {"name":..}                         a volume, or with "@" a snapshot
//! POST /v1/volumes/rename   {"name":..,"to":..}
//! POST /v1/volumes/snapshot {"name":..,"snapshot":..}
//! POST /v1/volumes/rollback {"name":..,"snapshot":..}
//! POST /v1/volumes/clone    {"from":..,"snapshot":..,"name":..,"size":..,"redundancy":..}
//! POST /v1/volumes/qos      {"name":..,"iops":..,"bytes":..,"burst_s":..}   0: no limit
//! POST /v1/volumes/map      {"name":..,"start":..,"since":..}   what is stored, or has changed, from there on
//! POST /v1/volumes/read     {"name":..,"start":..,"len":..}     bytes
//! POST /v1/volumes/zero     {"name":..,"start":..,"len":..}
//! POST /v1/volumes/door     {"host":..}                         what a host needs to attach volumes itself
//! PUT  /v1/volumes/data/NAME/START                              writes the body there
//! ```
//!
//! For the root user only.

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::members::{Denied, parsed};

/// Bytes of one read or write at most.
pub const DATA_MAX: u64 = 8 << 20;
const DATA: &str = "/v1/volumes/data/";

/// What is answered.
pub enum Told {
    /// A tree.
    Tree(Value),
    /// Bytes of a volume.
    Data(Bytes),
}

/// What is asked about volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AskedVolume {
    /// All of them.
    List,
    /// One of them.
    Status(Named),
    /// Make one.
    Create(Create),
    /// Change the size.
    Resize(Resize),
    /// Delete one that nobody has attached, or a snapshot.
    Delete(Named),
    /// Another name.
    Rename(Rename),
    /// Take a snapshot.
    Snapshot(OfSnapshot),
    /// Make it what it was.
    Rollback(OfSnapshot),
    /// Make a volume of a snapshot.
    Clone(Clone),
    /// Limits.
    Qos(Qos),
    /// What is stored, or has changed.
    Map(Map),
    /// Bytes.
    Read(Range),
    /// Makes a range read as zeroes.
    Zero(Range),
    /// What a host needs to attach volumes itself.
    Door(Door),
    /// Writes.
    Write {
        /// Which.
        name: String,
        /// First byte.
        start: u64,
        /// What.
        data: Bytes,
    },
}

/// A volume, or `VOLUME@SNAPSHOT`.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its name.
    pub name: String,
}

/// See the module.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// As it is written; empty: the cluster's.
    #[serde(default)]
    pub redundancy: String,
    /// The cipher that it is encrypted by; empty: it is not.
    #[serde(default)]
    pub cipher: String,
}

/// See the module.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Which.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// See the module.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// Which.
    pub name: String,
    /// Its name from now on.
    pub to: String,
}

/// A volume and one of its snapshots.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct OfSnapshot {
    /// The volume.
    pub name: String,
    /// The snapshot.
    pub snapshot: String,
}

/// See the module.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Clone {
    /// The volume.
    pub from: String,
    /// Its snapshot.
    pub snapshot: String,
    /// The new volume.
    pub name: String,
    /// Bytes; 0: as many.
    #[serde(default)]
    pub size: u64,
    /// As it is written; empty: the volume's.
    #[serde(default)]
    pub redundancy: String,
}

/// See the module.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Qos {
    /// Which.
    pub name: String,
    /// Requests a second.
    #[serde(default)]
    pub iops: u64,
    /// Bytes a second.
    #[serde(default)]
    pub bytes: u64,
    /// Seconds for which unused room is kept.
    #[serde(default)]
    pub burst_s: u32,
}

/// See the module.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// A volume or snapshot.
    pub name: String,
    /// First byte.
    pub start: u64,
    /// An earlier snapshot of the same volume; empty: what is stored.
    #[serde(default)]
    pub since: String,
}

/// See the module.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// A volume or snapshot.
    pub name: String,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// See the module.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Door {
    /// Its name.
    pub host: String,
}

/// Whether a path is one of these.
pub(super) fn is_here(path: &str) -> bool {
    path == "/v1/volumes" || path.starts_with("/v1/volumes/")
}

/// The longest body of a request to a path.
pub(super) fn body_max(path: &str) -> Option<usize> {
    path.starts_with(DATA).then_some(DATA_MAX as usize)
}

/// What a request asks about volumes; `None` if it asks something else.
pub(super) fn asked(method: &Method, path: &str, body: &Bytes) -> Result<Option<AskedVolume>, Denied> {
    if let Some(place) = path.strip_prefix(DATA).filter(|_| method == Method::PUT) {
        let place = place.split_once('/').and_then(|(name, start)| Some((name.to_owned(), start.parse().ok()?)));
        let (name, start) = place.ok_or_else(|| Denied::bad("not /v1/volumes/data/NAME/START"))?;
        return Ok(Some(AskedVolume::Write { name, start, data: body.clone() }));
    }
    Ok(Some(match (method.as_str(), path.strip_prefix("/v1/volumes").unwrap_or(path)) {
        ("GET", "") => AskedVolume::List,
        ("POST", "") => AskedVolume::Create(parsed(body)?),
        ("POST", "/status") => AskedVolume::Status(parsed(body)?),
        ("POST", "/resize") => AskedVolume::Resize(parsed(body)?),
        ("POST", "/delete") => AskedVolume::Delete(parsed(body)?),
        ("POST", "/rename") => AskedVolume::Rename(parsed(body)?),
        ("POST", "/snapshot") => AskedVolume::Snapshot(parsed(body)?),
        ("POST", "/rollback") => AskedVolume::Rollback(parsed(body)?),
        ("POST", "/clone") => AskedVolume::Clone(parsed(body)?),
        ("POST", "/qos") => AskedVolume::Qos(parsed(body)?),
        ("POST", "/map") => AskedVolume::Map(parsed(body)?),
        ("POST", "/read") => AskedVolume::Read(parsed(body)?),
        ("POST", "/door") => AskedVolume::Door(parsed(body)?),
        ("POST", "/zero") => AskedVolume::Zero(parsed(body)?),
        _ => return Ok(None),
    }))
}
