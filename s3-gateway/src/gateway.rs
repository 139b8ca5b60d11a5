//! What all requests of a gateway share, and the state of one request on its way through.
//!
//! Invariant: a [`Call`] is only made from an [`Authenticated`], so every handler has one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use client::object::Objects;
use client::object::api::BucketInfo;
use http::HeaderValue;
use http::request::Parts;
use hyper::body::Incoming;
use platform::Platform;
use types::ids::RequestId;
use types::names::{BucketName, ObjectKey};

use crate::auth::{Authenticated, Payload as Vouched, Verifier};
use crate::body::hashing::Md5Queue;
use crate::body::payload::{self, Payload};
use crate::config::Config;
use crate::dates;
use crate::errors::{Code, S3Error, S3Result};
use crate::metrics::Metrics;
use crate::target::Target;

/// What one large body may hold on its way in: two hash jobs, the connection's buffer, decoding, and
/// the appends under way with their parity.
const BODY_IN_MAX: u64 = 8 << 20;
/// And on its way out: the pieces that are read ahead.
const BODY_OUT_MAX: u64 = 6 << 20;
/// If nobody says how much there is for all.
const BUDGET_DEFAULT: u64 = 256 << 20;

/// One gateway.
pub struct Gateway {
    /// The machine.
    pub platform: Platform,
    /// What it is a door to.
    pub objects: Objects,
    /// Its settings.
    pub config: Config,
    /// Checks signatures.
    pub verifier: Verifier,
    /// Where the bodies under way meet for MD5.
    pub md5_queue: Md5Queue,
    /// Counts.
    pub metrics: Metrics,
    /// The text of `x-amz-id-2`.
    pub host_id: String,
    request_prefix: u64,
    request_count: Cell<u64>,
    held_bytes: Cell<u64>,
    date: RefCell<(u64, HeaderValue)>,
}

impl Gateway {
    /// A gateway in front of `objects`.
    pub fn new(platform: &Platform, objects: Objects, config: Config) -> Gateway {
        let mut random = [0; 32];
        platform.random().fill(&mut random);
        Gateway {
            platform: platform.clone(),
            objects,
            verifier: Verifier::new(&config.region),
            config,
            md5_queue: Md5Queue::default(),
            metrics: Metrics::default(),
            host_id: crypto::hash::base64_encode(&random[8..]),
            request_prefix: platform.random().next_u64(),
            request_count: Cell::new(0),
            held_bytes: Cell::new(0),
            date: RefCell::new((u64::MAX, HeaderValue::from_static(""))),
        }
    }

    /// A fresh request id, unlike any other of this process. It goes with every call that the
    /// request causes, down to the records on the disks.
    pub fn next_request_id(&self) -> RequestId {
        let count = self.request_count.get();
        self.request_count.set(count.wrapping_add(1));
        // An odd multiplier walks through all 64-bit values before one comes again.
        RequestId(self.request_prefix.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// The `Date` header of now, formatted once a second.
    pub fn date_header(&self) -> HeaderValue {
        let now_ms = self.platform.clock().unix_ms();
        let mut date = self.date.borrow_mut();
        if date.0 != now_ms / 1_000 {
            let text = dates::http_date(now_ms);
            *date = (now_ms / 1_000, HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")));
        }
        date.1.clone()
    }

    /// Sets memory aside for a body of `len` bytes on its way in, until the guard is dropped.
    pub fn hold_in(self: &Rc<Gateway>, len: u64) -> S3Result<Held> {
        // A small one is there twice at most: as it came, and packed with others.
        self.hold(len.saturating_mul(2).min(BODY_IN_MAX))
    }

    /// Sets memory aside for a body of `len` bytes on its way out, until the guard is dropped.
    pub fn hold_out(self: &Rc<Gateway>, len: u64) -> S3Result<Held> {
        self.hold(len.min(BODY_OUT_MAX))
    }

    fn hold(self: &Rc<Gateway>, bytes: u64) -> S3Result<Held> {
        let sum = self.held_bytes.get() + bytes;
        if sum > self.config.memory_budget_bytes.unwrap_or(BUDGET_DEFAULT) {
            return Err(Code::SlowDown.into());
        }
        self.held_bytes.set(sum);
        Ok(Held { gateway: self.clone(), bytes })
    }
}

/// Memory set aside for a body.
pub struct Held {
    gateway: Rc<Gateway>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gateway.held_bytes.set(self.gateway.held_bytes.get().saturating_sub(self.bytes));
    }
}

/// An authenticated request on its way through.
pub struct Call {
    /// The gateway it came to.
    pub gateway: Rc<Gateway>,
    /// Head of the request.
    pub parts: Parts,
    /// What it points at.
    pub target: Target,
    /// Who sent it.
    pub who: Authenticated,
    /// Its body until a handler takes it.
    pub incoming: Option<Incoming>,
    /// Memory set aside for the body.
    pub held: Option<Held>,
}

impl Call {
    /// A header as text; one that is not text counts as bad.
    pub fn header(&self, name: &'static str) -> S3Result<Option<&str>> {
        crate::headers::text(&self.parts.headers, name)
    }

    /// The bucket's name, if it can be one.
    pub fn bucket_name(&self) -> S3Result<BucketName> {
        // What cannot be a name cannot exist either; only creating says why.
        BucketName::new(self.target.bucket.as_deref().unwrap_or("")).map_err(|_| Code::NoSuchBucket.into())
    }

    /// The key.
    pub fn key(&self) -> S3Result<ObjectKey> {
        Ok(ObjectKey::new(self.target.key.as_deref().unwrap_or(""))?)
    }

    /// The bucket, if the caller may touch it and the expected owner is right.
    pub async fn bucket(&self) -> S3Result<BucketInfo> {
        let expected = self.header("x-amz-expected-bucket-owner")?;
        self.open_bucket(&self.bucket_name()?, expected).await
    }

    /// Any bucket (of a copy's source, say), under the same rules.
    pub async fn open_bucket(&self, name: &BucketName, expected_owner: Option<&str>) -> S3Result<BucketInfo> {
        let bucket = self.gateway.objects.bucket(name).await?;
        let identity = &self.who.identity;
        let may = identity.is_root || bucket.owner == identity.user;
        if !may || expected_owner.is_some_and(|owner| owner != bucket.owner) {
            return Err(Code::AccessDenied.into());
        }
        Ok(bucket)
    }

    /// Takes the body; its length must be known. Memory is set aside for it.
    pub fn payload(&mut self) -> S3Result<Payload> {
        let vouched = std::mem::replace(&mut self.who.payload, Vouched::Unsigned);
        let len = payload::decoded_len(&self.parts.headers, &vouched)?.ok_or(Code::MissingContentLength)?;
        self.take_payload(vouched, len)
    }

    /// Takes the body of a request that may do without one.
    pub fn payload_or_empty(&mut self) -> S3Result<Payload> {
        let vouched = std::mem::replace(&mut self.who.payload, Vouched::Unsigned);
        let len = payload::decoded_len(&self.parts.headers, &vouched)?.unwrap_or(0);
        self.take_payload(vouched, len)
    }

    fn take_payload(&mut self, vouched: Vouched, len: u64) -> S3Result<Payload> {
        let incoming = self.incoming.take().ok_or_else(|| S3Error::from(Code::InternalError))?;
        let idle = self.gateway.config.body_timeout();
        let payload = Payload::new(&self.gateway.platform, incoming, &self.parts.headers, vouched, len, idle)?;
        self.held = Some(self.gateway.hold_in(len)?);
        let received = &self.gateway.metrics.received_bytes;
        received.set(received.get().saturating_add(len));
        Ok(payload)
    }
}
