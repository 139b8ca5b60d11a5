//! Who may send which request: one table, from the roles in the caller's certificate.
//!
//! A certificate names its holder's roles by URIs `bixi://CLUSTER/role/ROLE` (cluster: 16 hex
//! digits). A request without a row here does not compile.

use types::ids::ClusterId;

use crate::service::Request;

/// A set of roles that a process holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Roles(u8);

const NAMES: [(Roles, &str); 5] = [
    (Roles::META, "meta"),
    (Roles::CHUNK, "chunk"),
    (Roles::GATEWAY, "gateway"),
    (Roles::JOIN, "join"),
    (Roles::VOLUME, "volume"),
];

impl Roles {
    /// None: everything is refused.
    pub const NONE: Roles = Roles(0);
    /// A metaserver replica.
    pub const META: Roles = Roles(1);
    /// A chunkserver with its background executor.
    pub const CHUNK: Roles = Roles(2);
    /// A door: S3, block, file.
    pub const GATEWAY: Roles = Roles(4);
    /// Who may ask to become a member, and nothing else.
    pub const JOIN: Roles = Roles(8);
    /// A volume's device in the host of a virtual machine.
    pub const VOLUME: Roles = Roles(16);
    /// Every role of a member: the parts of one process among themselves.
    pub const ALL: Roles = Roles(7);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }

    /// Whether the sets have a role in common.
    pub const fn meets(self, other: Roles) -> bool {
        self.0 & other.0 != 0
    }

    /// The roles that the URI names of a certificate grant in `cluster`. What is not understood
    /// grants nothing.
    pub fn of_uris(cluster: ClusterId, uris: &[String]) -> Roles {
        let mut found = Roles::NONE;
        for (role, _) in NAMES {
            if role.uris(cluster).iter().any(|uri| uris.contains(uri)) {
                found = found.and(role);
            }
        }
        found
    }

    /// The URI names for a certificate that grants these roles in `cluster`.
    pub fn uris(self, cluster: ClusterId) -> Vec<String> {
        let held = NAMES.iter().filter(|(role, _)| self.meets(*role));
        held.map(|(_, name)| format!("bixi://{:016x}/role/{name}", cluster.0)).collect()
    }
}

impl std::fmt::Display for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held: Vec<&str> = NAMES.iter().filter(|(role, _)| self.meets(*role)).map(|(_, name)| *name).collect();
        f.write_str(if held.is_empty() { "none" } else { "" })?;
        f.write_str(&held.join("+"))
    }
}

/// The DNS name that every member's certificate carries.
pub fn member_name(cluster: ClusterId) -> String {
    format!("{:016x}.bixi.internal", cluster.0)
}

impl Request {
    /// Roles of which the caller must hold one.
    pub fn callers(&self) -> Roles {
        let readers_and_writers = Roles::CHUNK.and(Roles::GATEWAY).and(Roles::VOLUME);
        match self {
            // Only a metaserver fences and deletes: it alone decides when a right to write moves
            // and when a placement dies.
            Request::Fence(_) | Request::Delete(_) | Request::ListShards(_) | Request::Census(_) => Roles::META,
            Request::Append(_) | Request::Read(_) => readers_and_writers,
            // A repair seals the shard it has rebuilt.
            Request::Seal(_) => Roles::META.and(Roles::CHUNK),
            Request::Propose(_) | Request::Query(_) | Request::Grant(_) | Request::SealChunk(_) => readers_and_writers,
            // Who encrypts and decrypts: a chunkserver has no use for it.
            Request::VolumeKey(_) => Roles::GATEWAY.and(Roles::VOLUME),
            // `bixi fsck` asks through a door.
            // So does `bixi disk add`.
            Request::CheckDisk(_) | Request::AddDisk(_) => Roles::GATEWAY,
            // A door keeps its session alive by it.
            Request::Heartbeat(_) => readers_and_writers,
            Request::LeaseJob(_) => Roles::CHUNK,
            Request::Raft(_) | Request::SnapshotPage(_) | Request::JoinReplica(_) | Request::LogEnd(_) => Roles::META,
            Request::MetaState(_) => Roles::ALL,
            // A member asks for its next certificate the same way.
            Request::JoinNode(_) => Roles::JOIN.and(Roles::META),
            // A door passes on `bixi cluster remove`.
            Request::LeaveReplica(_) => Roles::META.and(Roles::GATEWAY),
        }
    }

    /// Roles of which the process asked must hold one.
    pub fn servers(&self) -> Roles {
        match self {
            Request::Append(_)
            | Request::Fence(_)
            | Request::Seal(_)
            | Request::Read(_)
            | Request::Delete(_)
            | Request::ListShards(_)
            | Request::Census(_)
            | Request::AddDisk(_) => Roles::CHUNK,
            Request::Propose(_)
            | Request::Query(_)
            | Request::Heartbeat(_)
            | Request::Grant(_)
            | Request::SealChunk(_)
            | Request::LeaseJob(_)
            | Request::CheckDisk(_)
            | Request::VolumeKey(_)
            | Request::Raft(_)
            | Request::MetaState(_)
            | Request::JoinReplica(_)
            | Request::SnapshotPage(_)
            | Request::JoinNode(_)
            | Request::LeaveReplica(_)
            | Request::LogEnd(_) => Roles::META,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ClusterId, Request, Roles};
    use crate::chunk::Fence;

    #[test]
    fn roles_are_read_from_the_uris_of_the_same_cluster_only() {
        let (ours, theirs) = (ClusterId(1), ClusterId(2));
        for roles in [Roles::META, Roles::CHUNK.and(Roles::GATEWAY), Roles::ALL, Roles::JOIN, Roles::NONE] {
            assert_eq!(Roles::of_uris(ours, &roles.uris(ours)), roles);
            assert_eq!(Roles::of_uris(theirs, &roles.uris(ours)), Roles::NONE);
        }
        let near = ["bixi://0000000000000001/role/meta2".to_owned(), "bixi://0000000000000001/role/META".to_owned()];
        assert_eq!(Roles::of_uris(ours, &near), Roles::NONE);
        assert_eq!(Roles::META.and(Roles::CHUNK).to_string(), "meta+chunk");
        assert_eq!(Roles::NONE.to_string(), "none");
    }

    #[test]
    fn a_chunkserver_is_not_told_the_key_of_a_volume() {
        let ask = Request::VolumeKey(crate::volume::AskVolumeKey::default());
        assert!(!ask.callers().meets(Roles::CHUNK.and(Roles::META).and(Roles::JOIN)));
        assert!(ask.callers().meets(Roles::GATEWAY) && ask.callers().meets(Roles::VOLUME));
    }

    #[test]
    fn only_a_metaserver_fences() {
        let fence = Request::Fence(Fence::default());
        assert!(fence.callers().meets(Roles::META));
        assert!(!fence.callers().meets(Roles::CHUNK.and(Roles::GATEWAY)));
    }
}
