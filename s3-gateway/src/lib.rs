//! S3 in front of the object layer: Signature Version 4, documents, conditions, streaming bodies.
//!
//! ```text
//! connection -> request id -> target -> auth::Authenticated -> operation -> client::object
//!                                                          \-> errors.rs -> AWS's documents
//! ```
//!
//! What it leaves to others: storing (`client`), sockets, TLS and clocks (`platform`). It keeps no
//! state that another gateway lacks; caches here only save work.
//!
//! Invariants: a handler runs only with an [`auth::Authenticated`]; nothing is committed before
//! every announced length, signature and checksum was right; memory of a request is bounded
//! whatever its size; a header that asks for a guarantee is honoured or refused, never ignored.

pub mod config;
pub mod gateway;

pub mod auth;
pub mod body;
pub mod operations;

pub mod conditions;
pub mod headers;
pub mod range;
pub mod target;

pub mod errors;
pub mod xml;

pub mod admin;
pub mod http;

pub mod dates;
pub mod metrics;
pub mod uri;

use std::rc::Rc;

use client::object::Objects;
use platform::Platform;
use platform::net::{Listener, NetError};

use crate::config::Config;
use crate::gateway::Gateway;

/// Serves S3 on `listener` until the listener breaks. Drop the future to stop.
pub async fn serve(
    platform: Platform,
    listener: Listener,
    objects: Objects,
    config: Config,
) -> Result<std::convert::Infallible, NetError> {
    let gateway = Rc::new(Gateway::new(&platform, objects, config));
    http::server::serve_s3(gateway, listener).await
}
