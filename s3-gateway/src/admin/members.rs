//! Disks and nodes in the admin API: which request asks what. What it does is the process's
//! ([`super::AdminHooks`]).
//!
//! ```text
//! GET  /v1/plan                                   what would be moved now
//! POST /v1/safe-to-remove  {"disks":..,"nodes":..}
//! POST /v1/disks           {"path":..,"node":..}    adds a directory
//! POST /v1/disks/drain     {"disks":..,"node":..,"draining":..}
//! POST /v1/disks/remove    {"disk":..,"lost":..}
//! POST /v1/nodes/remove    {"node":..,"lost":..}
//! POST /v1/cluster/token   {"days":..}              lets one more machine in
//! POST /v1/cluster/redundancy {"policy":..}
//! POST /v1/cluster/finalize                        ends an upgrade
//! ```
//!
//! All for the root user only: what asks looks at every chunk, and tells how the cluster is built.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Refusal, refusal};

/// What is asked about disks and nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// What would be moved now.
    Plan,
    /// Whether these can be removed at once.
    Safety {
        /// Disks.
        disks: Vec<u64>,
        /// Names of processes.
        nodes: Vec<String>,
    },
    /// Take a directory into the pool.
    Add {
        /// Absolute.
        path: String,
        /// On which node; empty if there is only one.
        node: String,
    },
    /// Drain disks, or take them back into use.
    Drain {
        /// Disks.
        disks: Vec<u64>,
        /// All disks of this node too; empty = none.
        node: String,
        /// Drain, else take back.
        draining: bool,
    },
    /// Take a node out of the cluster.
    RemoveNode {
        /// Its name.
        node: String,
        /// It will not come back, whatever lies there.
        lost: bool,
    },
    /// A token by which a machine can join.
    Token {
        /// How long it serves.
        days: u64,
    },
    /// Raise the feature level to what this version knows.
    Finalize,
    /// Change the redundancy of new data.
    SetRedundancy {
        /// As it is written.
        policy: String,
    },
    /// Take a disk out of the pool.
    Remove {
        /// The disk.
        disk: u64,
        /// It will not come back, whatever lies there.
        lost: bool,
    },
}

/// Why it was not done.
#[derive(Debug)]
pub struct Denied {
    status: StatusCode,
    code: &'static str,
    text: String,
}

impl Denied {
    /// The disk or node does not exist.
    pub fn not_found(text: impl Into<String>) -> Denied {
        Denied { status: StatusCode::NOT_FOUND, code: "NotFound", text: text.into() }
    }

    /// What is there stands against it.
    pub fn conflict(text: impl Into<String>) -> Denied {
        Denied { status: StatusCode::CONFLICT, code: "Conflict", text: text.into() }
    }

    /// The request cannot be right.
    pub fn bad(text: impl Into<String>) -> Denied {
        Denied { status: StatusCode::BAD_REQUEST, code: "InvalidRequest", text: text.into() }
    }

    /// Nobody could do it now.
    pub fn unavailable(text: impl Into<String>) -> Denied {
        Denied { status: StatusCode::SERVICE_UNAVAILABLE, code: "Unavailable", text: text.into() }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        refusal(denied.status, denied.code, &denied.text)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct SafetyBody {
    disks: Vec<u64>,
    nodes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    path: String,
    #[serde(default)]
    node: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    #[serde(default)]
    disks: Vec<u64>,
    #[serde(default)]
    node: String,
    draining: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveBody {
    disk: u64,
    #[serde(default)]
    lost: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveNodeBody {
    node: String,
    #[serde(default)]
    lost: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    days: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedundancyBody {
    policy: String,
}

/// Whether a path is one of these.
pub(super) fn is_here(path: &str) -> bool {
    let disks = matches!(path, "/v1/disks" | "/v1/disks/drain" | "/v1/disks/remove");
    let cluster = matches!(path, "/v1/cluster/token" | "/v1/cluster/redundancy" | "/v1/cluster/finalize");
    disks || cluster || matches!(path, "/v1/plan" | "/v1/safe-to-remove" | "/v1/nodes/remove")
}

/// What a request asks about disks and nodes; `None` if it asks something else.
pub(super) fn asked(method: &Method, path: &str, body: &[u8]) -> Result<Option<Asked>, Denied> {
    Ok(Some(match (method.as_str(), path) {
        ("GET", "/v1/plan") => Asked::Plan,
        ("POST", "/v1/safe-to-remove") => {
            let SafetyBody { disks, nodes } = parsed(body)?;
            Asked::Safety { disks, nodes }
        }
        ("POST", "/v1/disks") => {
            let AddBody { path, node } = parsed(body)?;
            Asked::Add { path, node }
        }
        ("POST", "/v1/disks/drain") => {
            let DrainBody { disks, node, draining } = parsed(body)?;
            if disks.is_empty() && node.is_empty() {
                return Err(Denied::bad("neither disks nor a node"));
            }
            Asked::Drain { disks, node, draining }
        }
        ("POST", "/v1/nodes/remove") => {
            let RemoveNodeBody { node, lost } = parsed(body)?;
            Asked::RemoveNode { node, lost }
        }
        ("POST", "/v1/cluster/token") => {
            let TokenBody { days } = parsed(body)?;
            Asked::Token { days }
        }
        ("POST", "/v1/cluster/finalize") => Asked::Finalize,
        ("POST", "/v1/cluster/redundancy") => {
            let RedundancyBody { policy } = parsed(body)?;
            Asked::SetRedundancy { policy }
        }
        ("POST", "/v1/disks/remove") => {
            let RemoveBody { disk, lost } = parsed(body)?;
            Asked::Remove { disk, lost }
        }
        _ => return Ok(None),
    }))
}

pub(super) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Denied> {
    serde_json::from_slice(body).map_err(|error| Denied::bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};

    use super::{Asked, asked, is_here};

    #[test]
    fn requests_are_read_and_mistakes_in_them_named() {
        let ask = |method: Method, path: &str, body: &str| asked(&method, path, body.as_bytes());
        let plan = ask(Method::GET, "/v1/plan", "").expect("it is fine");
        assert_eq!(plan, Some(Asked::Plan));
        let safety = ask(Method::POST, "/v1/safe-to-remove", r#"{"disks":[3]}"#).expect("it is fine");
        assert_eq!(safety, Some(Asked::Safety { disks: vec![3], nodes: Vec::new() }));
        for (path, body) in [
            ("/v1/disks", r#"{"path":"/d"}"#),
            ("/v1/disks/drain", r#"{"node":"n","draining":true}"#),
            ("/v1/disks/remove", r#"{"disk":3,"lost":true}"#),
            ("/v1/nodes/remove", r#"{"node":"n"}"#),
            ("/v1/cluster/token", r#"{"days":1}"#),
            ("/v1/cluster/redundancy", r#"{"policy":"ec:4+2"}"#),
        ] {
            assert!(ask(Method::POST, path, body).expect("it is fine").is_some() && is_here(path), "{path}");
        }
        assert_eq!(ask(Method::GET, "/v1/disks", "").expect("it is fine"), None);
        for (path, body) in [
            ("/v1/disks/remove", r#"{"disk":3,"lsot":true}"#),
            ("/v1/disks/drain", r#"{"draining":true}"#),
            ("/v1/disks", "{}"),
        ] {
            let denied = ask(Method::POST, path, body).expect_err("it is malformed");
            assert_eq!(denied.status, StatusCode::BAD_REQUEST, "{path}");
        }
    }
}
