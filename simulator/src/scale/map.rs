//! A map of zones, racks and hosts with one disk each.

use std::collections::{BTreeMap, BTreeSet};

use proto::rows::DiskRow;
use types::redundancy::Redundancy;

/// How many there are of each, within the next wider. Disks are numbered from 1, rack by rack.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// Zones.
    pub zones: u64,
    /// Racks of a zone.
    pub racks: u64,
    /// Hosts of a rack.
    pub hosts: u64,
}

impl Map {
    /// How many disks there are.
    pub fn count(&self) -> u64 {
        self.zones * self.racks * self.hosts
    }

    /// The rows of all disks.
    pub fn disks(&self) -> BTreeMap<u64, DiskRow> {
        let row = |disk: u64| DiskRow {
            store: disk,
            node: format!("node-{disk}"),
            domain: self.domain(disk),
            address: format!("10.{}.{}.{}:7000", disk >> 16, (disk >> 8) & 255, disk & 255),
            path: "/data".into(),
            ..DiskRow::default()
        };
        (1..=self.count()).map(|disk| (disk, row(disk))).collect()
    }

    fn domain(&self, disk: u64) -> String {
        let rack = self.rack(disk);
        format!("zone-{}/rack-{}/host-{}", rack / self.racks, rack % self.racks, (disk - 1) % self.hosts)
    }

    /// The rack of a disk, counted over all zones.
    fn rack(&self, disk: u64) -> u64 {
        (disk - 1) / self.hosts
    }

    /// The disks of a rack.
    pub fn disks_of_rack(&self, rack: u64) -> Vec<u64> {
        (rack * self.hosts + 1..=(rack + 1) * self.hosts).collect()
    }

    /// Whether the shards of a chunk are as placement promises: each on a host of its own, no more
    /// than parity in one rack or zone.
    pub fn keeps_bounds(&self, policy: Redundancy, disks: &[u64]) -> bool {
        let most = policy.parity().max(1);
        let within = |place: &dyn Fn(u64) -> u64| {
            let mut held: BTreeMap<u64, usize> = BTreeMap::new();
            disks.iter().for_each(|disk| *held.entry(place(*disk)).or_default() += 1);
            held.values().all(|count| *count <= most)
        };
        disks.iter().collect::<BTreeSet<_>>().len() == policy.shards()
            && within(&|disk| self.rack(disk))
            && within(&|disk| self.rack(disk) / self.racks)
    }
}
