//! Volumes in the admin API: which request asks what. What it does is the process's
//! ([`super::AdminHooks`]).
//!
//! ```text
//! GET  /v1/volumes                                              all of them
//! POST /v1/volumes         {"name":..,"size":..,"redundancy":..}  makes one; without redundancy the cluster's
//! POST /v1/volumes/resize  {"name":..,"size":..}
//! POST /v1/volumes/delete  {"name":..}
//! ```
//!
//! For the root user only.

use http::Method;
use serde::Deserialize;

use super::members::{Denied, parsed};

/// What is asked about volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AskedVolume {
    /// All of them.
    List,
    /// Make one.
    Create {
        /// Its name.
        name: String,
        /// Bytes.
        size: u64,
        /// As it is written; empty: the cluster's.
        redundancy: String,
    },
    /// Change the size.
    Resize {
        /// Which.
        name: String,
        /// Bytes.
        size: u64,
    },
    /// Delete one that nobody has attached.
    Delete {
        /// Which.
        name: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    size: u64,
    #[serde(default)]
    redundancy: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeBody {
    name: String,
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteBody {
    name: String,
}

/// Whether a path is one of these.
pub(super) fn is_here(path: &str) -> bool {
    matches!(path, "/v1/volumes" | "/v1/volumes/resize" | "/v1/volumes/delete")
}

/// What a request asks about volumes; `None` if it asks something else.
pub(super) fn asked(method: &Method, path: &str, body: &[u8]) -> Result<Option<AskedVolume>, Denied> {
    Ok(Some(match (method.as_str(), path) {
        ("GET", "/v1/volumes") => AskedVolume::List,
        ("POST", "/v1/volumes") => {
            let CreateBody { name, size, redundancy } = parsed(body)?;
            AskedVolume::Create { name, size, redundancy }
        }
        ("POST", "/v1/volumes/resize") => {
            let ResizeBody { name, size } = parsed(body)?;
            AskedVolume::Resize { name, size }
        }
        ("POST", "/v1/volumes/delete") => {
            let DeleteBody { name } = parsed(body)?;
            AskedVolume::Delete { name }
        }
        _ => return Ok(None),
    }))
}
