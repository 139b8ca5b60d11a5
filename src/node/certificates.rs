//! The cluster's own certificate authority, and the certificates of its processes.
//!
//! A process keeps its certificate, its key and the authorities it trusts in one file, `tls.json`
//! of its directory, which is replaced whole: a crash leaves the old one or the new one. It reads
//! the file again every few seconds, so certificates are exchanged without a restart. The
//! authority's key lies only where `bixi dev` (or the operator) keeps it, never on a node.

use std::time::Duration;

use platform::Platform;
use platform::disk::Disk;
use platform::tls::MutualTls;
use proto::roles::{Roles, member_name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use types::ids::ClusterId;

use super::NodeError;

/// A process's certificates, in its directory.
pub const FILE: &str = "tls.json";
/// The authority, in the directory of `bixi dev`.
pub const AUTHORITY_FILE: &str = "authority.json";
/// How often a process looks whether its certificates were exchanged.
pub const RELOAD_PERIOD: Duration = Duration::from_secs(5);

const DAY: u64 = 86_400;
const AUTHORITY_DAYS: u64 = 3_650;
/// How long a process's certificate serves.
pub const NODE_DAYS: u64 = 365;
/// A certificate serves from so long before it was made: clocks of machines differ.
const EARLIER_DAYS: u64 = 2;

/// The file `tls.json`: PEM texts. No `Debug`: it holds a private key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeCertificates {
    /// Format version, 1.
    pub version: u32,
    /// Authorities trusted; two while the authority is exchanged.
    pub authorities: String,
    /// The own certificate.
    pub certificate: String,
    /// Its private key (PKCS 8).
    pub key: String,
    /// Seconds since 1970 at which the certificate ends.
    pub ends: u64,
}

/// The file `authority.json`. No `Debug`: it holds a private key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Format version, 1.
    pub version: u32,
    /// 16 hex digits.
    pub cluster: String,
    /// Distinguishes the authorities that a cluster had.
    pub serial: u64,
    /// Its own certificate, PEM.
    pub certificate: String,
    /// Its private key (PKCS 8), PEM.
    key: String,
}

fn failed(error: impl std::fmt::Display) -> NodeError {
    NodeError::new(format!("cannot make a certificate: {error}"))
}

fn seconds(platform: &Platform) -> u64 {
    platform.clock().unix_ms() / 1000
}

fn lasting(params: &mut CertificateParams, now: u64, days: u64) -> u64 {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let ends = now + days * DAY;
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(EARLIER_DAYS * DAY));
    params.not_after = epoch + Duration::from_secs(ends);
    ends
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

impl Authority {
    /// A new authority for a cluster, with a key of its own.
    ///
    /// # Errors
    /// The system's source of randomness.
    pub fn new(platform: &Platform, cluster: ClusterId) -> Result<Authority, NodeError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut this = Authority {
            version: 1,
            cluster: format!("{:016x}", cluster.0),
            serial: platform.random().next_u64() >> 1,
            certificate: String::new(),
            key: key.serialize_pem(),
        };
        let mut params = this.params()?;
        lasting(&mut params, seconds(platform), AUTHORITY_DAYS);
        this.certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(this)
    }

    /// Name and rights, the same whenever this authority signs.
    fn params(&self) -> Result<CertificateParams, NodeError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name = named(&format!("Bixi cluster {} authority {:016x}", self.cluster, self.serial));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }

    fn cluster(&self) -> Result<ClusterId, NodeError> {
        u64::from_str_radix(&self.cluster, 16)
            .map(ClusterId)
            .map_err(|_| NodeError::new(format!("{AUTHORITY_FILE}: `{}` is no cluster", self.cluster)))
    }

    /// A certificate for the process `name`, which may be what `roles` say, for `days` days.
    /// `authorities` is what the process is to trust.
    ///
    /// # Errors
    /// The authority's key is unusable.
    pub fn issue(
        &self,
        platform: &Platform,
        name: &str,
        roles: Roles,
        days: u64,
        authorities: &str,
    ) -> Result<NodeCertificates, NodeError> {
        let cluster = self.cluster()?;
        let issuer = Issuer::new(self.params()?, KeyPair::from_pem(&self.key).map_err(failed)?);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![member_name(cluster)]).map_err(failed)?;
        for uri in roles.uris(cluster) {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().map_err(failed)?));
        }
        params.distinguished_name = named(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let ends = lasting(&mut params, seconds(platform), days);
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?.pem();
        Ok(NodeCertificates {
            version: 1,
            authorities: authorities.to_owned(),
            certificate,
            key: key.serialize_pem(),
            ends,
        })
    }
}

/// Reads a file of this module from a directory; `None` if it is not there.
///
/// # Errors
/// Unreadable or damaged.
pub async fn read<T: serde::de::DeserializeOwned>(disk: &Disk, name: &str) -> Result<Option<T>, NodeError> {
    let place = || disk.path().join(name).display().to_string();
    match disk.read_file(name).await.map_err(|error| NodeError::new(format!("{}: {error}", place())))? {
        None => Ok(None),
        Some(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| NodeError::new(format!("{}: damaged: {error}", place()))),
    }
}

/// Replaces a file of this module, durably and whole, readable by its owner alone.
///
/// # Errors
/// The disk.
pub async fn write<T: Serialize>(disk: &Disk, name: &str, value: &T) -> Result<(), NodeError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| NodeError::new(error.to_string()))?;
    disk.write_file(name, &text)
        .await
        .map_err(|error| NodeError::new(format!("{}: {error}", disk.path().join(name).display())))
}

/// What a process secures its calls with. Starts a task that takes over exchanged certificates.
///
/// # Errors
/// No certificates in the directory, or unusable ones.
pub async fn load(platform: &Platform, disk: &Disk, cluster: ClusterId) -> Result<MutualTls, NodeError> {
    let place = disk.path().join(FILE).display().to_string();
    let held: NodeCertificates = read(disk, FILE).await?.ok_or_else(|| {
        NodeError::new(format!("{place} is missing; processes speak to each other by mutual TLS only"))
    })?;
    let tls = MutualTls::new(
        &member_name(cluster),
        held.authorities.as_bytes(),
        held.certificate.as_bytes(),
        held.key.as_bytes(),
    )
    .map_err(|error| NodeError::new(format!("{place}: {error}")))?;
    platform.tasks().spawn(follow(platform.clone(), disk.clone(), tls.clone(), held));
    Ok(tls)
}

async fn follow(platform: Platform, disk: Disk, tls: MutualTls, mut held: NodeCertificates) {
    let place = disk.path().join(FILE).display().to_string();
    loop {
        platform.clock().sleep(RELOAD_PERIOD).await;
        let found: NodeCertificates = match read(&disk, FILE).await {
            Ok(Some(found)) if found != held => found,
            Ok(Some(_)) => continue,
            Ok(None) => {
                tracing::warn!("{place} is gone; the certificates read before serve on");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "the certificates read before serve on");
                continue;
            }
        };
        match tls.replace(found.authorities.as_bytes(), found.certificate.as_bytes(), found.key.as_bytes()) {
            Ok(()) => tracing::info!(file = %place, "certificates exchanged"),
            Err(error) => tracing::warn!(%error, file = %place, "unusable; the certificates read before serve on"),
        }
        held = found;
    }
}

/// Whether a certificate has used up two thirds of its life.
pub fn is_old(platform: &Platform, held: &NodeCertificates) -> bool {
    seconds(platform) + NODE_DAYS * DAY / 3 >= held.ends
}
