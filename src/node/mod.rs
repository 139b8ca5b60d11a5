//! Assembling processes out of the crates below: stores, replicas, doors.

pub mod certificates;
pub mod chunks;
pub mod cluster;
pub mod descriptors;
pub mod directories;
pub mod doors;
pub mod founding;
pub mod identity;
pub mod members;
pub mod memory;
pub mod metas;
pub mod replicas;
pub mod root_key;
pub mod status;
pub mod tend;
pub mod volumes;
pub mod voters;

use std::fmt;

/// Why a process cannot start or go on: for people, with what to do.
#[derive(Debug)]
pub struct NodeError {
    /// What failed, why, what to do.
    pub text: String,
    /// The exit code.
    pub exit: u8,
}

impl NodeError {
    /// A failure with exit code 1.
    pub fn new(text: impl Into<String>) -> NodeError {
        NodeError { text: text.into(), exit: 1 }
    }

    /// A conflict with what is there: exit code 4.
    pub fn conflict(text: impl Into<String>) -> NodeError {
        NodeError { text: text.into(), exit: 4 }
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for NodeError {}

impl From<NodeError> for crate::cli::failure::Failure {
    fn from(error: NodeError) -> crate::cli::failure::Failure {
        crate::cli::failure::Failure { message: error.text, exit_code: i32::from(error.exit) }
    }
}
