//! How directories become a cluster or a node of one: by `bixi cluster init`, `bixi cluster join`, or the
//! first start with `--internal-addr`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use platform::Platform;
use platform::disk::Disk;
use proto::level;
use proto::roles::Roles;

use super::certificates::{AUTHORITY_FILE, Authority, FILE, NODE_DAYS, NodeCertificates, read, write};
use super::cluster::{NODE_FILE, NodeFile, Token, root_key_of};
use super::identity::{self, Home, Members};
use super::{NodeError, root_key};
use crate::server::{found_or_join, open_homes};

/// What a person says of a node.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Its name; the machine's if none is given.
    pub name: Option<String>,
    /// Where the others reach it.
    pub internal: String,
    /// Zone and rack, empty = none.
    pub zone: String,
    /// See `zone`.
    pub rack: String,
}

impl Said {
    fn file(self) -> Result<NodeFile, NodeError> {
        let Said { name, internal, zone, rack } = self;
        let name = name.or_else(machine_name).unwrap_or_default();
        let file = NodeFile { version: 1, name, internal, zone, rack, contacts: BTreeMap::new() };
        file.check()?;
        Ok(file)
    }
}

#[expect(clippy::disallowed_methods, reason = "the machine's name, for people")]
fn machine_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Makes directories the first node of a cluster that others can join. They may hold a cluster of one
/// process already, whose server does not run. Answers what it wrote.
///
/// # Errors
/// In use, of several clusters, or the disk.
pub async fn init(platform: &Platform, dirs: &[PathBuf], said: Said) -> Result<NodeFile, NodeError> {
    let file = said.file()?;
    let (mut homes, _) = open_homes(platform, dirs).await?;
    if let Some(old) = NodeFile::find(&homes).await? {
        return Err(NodeError::conflict(format!(
            "these directories are node {} of a cluster already; start it with bixi server",
            old.name
        )));
    }
    found_or_join(platform, &mut homes, None).await?;
    root_key::load(platform, &homes, None, is_source(&homes).await?).await?;
    certify(platform, &homes, &file).await?;
    Ok(file)
}

/// The authority and the first node's certificates, then the file that makes it a node.
async fn certify(platform: &Platform, homes: &[Home], file: &NodeFile) -> Result<(), NodeError> {
    let Some(own) = homes.iter().find_map(|home| home.identity.as_ref()) else {
        return Err(NodeError::new("directory without identity"));
    };
    let mut known = None;
    for home in homes {
        known = known.or(read::<Authority>(&home.disk, AUTHORITY_FILE).await?);
    }
    let authority = match known {
        Some(authority) => authority,
        None => Authority::new(platform, own.cluster)?,
    };
    let made = authority.issue(platform, &file.name, Roles::ALL, NODE_DAYS, &authority.certificate)?;
    for home in homes {
        write(&home.disk, AUTHORITY_FILE, &authority).await?;
        write(&home.disk, FILE, &made).await?;
    }
    for home in homes {
        write(&home.disk, NODE_FILE, file).await?;
    }
    Ok(())
}

/// Makes empty directories a node of the cluster that gave the token. Answers what it wrote.
///
/// # Errors
/// Not let in, not empty, or the disk.
pub async fn join(platform: &Platform, token: &str, dirs: &[PathBuf], said: Said) -> Result<NodeFile, NodeError> {
    let token = Token::parse(token)?;
    let (cluster, secret) = (token.cluster()?, token.secret()?);
    let mut file = said.file()?;
    let (mut homes, _) = open_homes(platform, dirs).await?;
    for home in &homes {
        let is_other = home.identity.as_ref().is_some_and(|own| own.cluster != cluster);
        if is_other || read::<NodeFile>(&home.disk, NODE_FILE).await?.is_some() {
            let whose = if is_other { "belongs to another cluster" } else { "is part of a node already" };
            return Err(NodeError::conflict(format!("{} {whose}; give empty directories", home.disk.path().display())));
        }
    }
    let joined = token.ask(platform, &file.name).await?;
    let made: NodeCertificates = serde_json::from_str(&joined.certificates)
        .map_err(|error| NodeError::new(format!("the certificate that came cannot be read: {error}")))?;
    let root = root_key_of(&joined)?;
    let known = joined.member_ids.iter().zip(joined.members);
    file.contacts = known.map(|(id, address)| (format!("{id:016x}"), address)).collect();
    let nobody = Members::of(&BTreeMap::new());
    for home in &mut homes {
        if home.members.is_none() {
            let fresh = identity::fresh(platform, cluster, secret, level::FIRST, false);
            identity::write_identity(home, fresh).await?;
            identity::write_members(home, &nobody).await?;
        }
        write(&home.disk, FILE, &made).await?;
        if let Some(root) = &root {
            root_key::write(&home.disk, root).await?;
        }
    }
    for home in &homes {
        write(&home.disk, NODE_FILE, &file).await?;
    }
    Ok(file)
}

/// Whether a process with these directories would be the one to make a root key: it is alone, or keeps the
/// cluster's authority.
///
/// # Errors
/// The disk.
pub async fn is_source(homes: &[Home]) -> Result<bool, NodeError> {
    let mut is_node = false;
    for home in homes {
        if read::<Authority>(&home.disk, AUTHORITY_FILE).await?.is_some() {
            return Ok(true);
        }
        is_node |= read::<NodeFile>(&home.disk, NODE_FILE).await?.is_some();
    }
    Ok(!is_node)
}

/// What node a process is, from its directories; with `internal` it becomes the first node of a cluster
/// if it is none, or is reached there from now on. `bases` of the homes were given by a person.
///
/// # Errors
/// The disk, or an address that cannot be.
pub async fn node_file(
    platform: &Platform,
    homes: &[Home],
    bases: usize,
    internal: Option<&str>,
) -> Result<Option<NodeFile>, NodeError> {
    let bases = homes.get(..bases).unwrap_or(homes);
    let found = NodeFile::find(bases).await?;
    let Some(internal) = internal else { return Ok(found) };
    let file = match found {
        Some(known) if known.internal == internal => return Ok(Some(known)),
        Some(known) => NodeFile { internal: internal.to_owned(), ..known },
        None => {
            let file = Said { internal: internal.to_owned(), ..Said::default() }.file()?;
            certify(platform, bases, &file).await?;
            return Ok(Some(file));
        }
    };
    file.check()?;
    for home in bases {
        write(&home.disk, NODE_FILE, &file).await?;
    }
    Ok(Some(file))
}

/// The directory whose certificates a node goes by; they are renewed from the authority if it is there.
///
/// # Errors
/// None has any.
pub async fn certified(homes: &[Home]) -> Result<&Disk, NodeError> {
    for home in homes {
        if read::<NodeCertificates>(&home.disk, FILE).await?.is_some() {
            return Ok(&home.disk);
        }
    }
    Err(NodeError::new(format!("no directory of this node holds {FILE}; restore it, or join anew")))
}
