//! The disks of the state, decoded once and kept until one changes; and their domains by number,
//! where there are many. What is heard of disks is in `heartbeat`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::keys;
use proto::rows::{DiskRow, disk_state};
use types::redundancy::Redundancy;

use super::copysets::{Copysets, DOMAINS_MIN};
use super::{MetaServer, Trouble};
use crate::apply::txn::Txn;
use crate::apply::txn::prost_free::Row;

/// All disks there ever were, as of one moment.
#[derive(Clone)]
pub(super) struct DiskTable {
    pub rows: Rc<BTreeMap<u64, DiskRow>>,
    /// `None` where domains are few.
    pub domains: Option<Rc<Domains>>,
}

impl DiskTable {
    pub(super) fn new(rows: BTreeMap<u64, DiskRow>) -> DiskTable {
        let domains = Domains::of(&rows).map(Rc::new);
        DiskTable { rows: Rc::new(rows), domains }
    }
}

/// The domains of all disks that were not removed, numbered as they are sorted, and their copysets.
/// Lost disks count: what stands in their place later shall find the groups as they were.
pub(super) struct Domains {
    names: Vec<String>,
    /// Disks in order, and the domain of each.
    disks: Vec<u64>,
    domain_of: Vec<u32>,
    disks_of: Vec<Vec<u64>>,
    dealt: RefCell<BTreeMap<Redundancy, Option<Rc<Copysets>>>>,
}

impl Domains {
    fn of(rows: &BTreeMap<u64, DiskRow>) -> Option<Domains> {
        let kept = || rows.iter().filter(|(_, row)| !row.removed);
        let names: BTreeSet<&str> = kept().map(|(_, row)| row.domain.as_str()).collect();
        if names.len() < DOMAINS_MIN {
            return None;
        }
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut disks_of = vec![Vec::new(); names.len()];
        let (mut disks, mut domain_of) = (Vec::new(), Vec::new());
        for (disk, row) in kept() {
            let Ok(domain) = names.binary_search(&row.domain) else { continue };
            if row.state == disk_state::IN && !row.draining {
                disks_of[domain].push(*disk);
            }
            disks.push(*disk);
            domain_of.push(domain as u32);
        }
        Some(Domains { names, disks, domain_of, disks_of, dealt: RefCell::default() })
    }

    /// The copysets of a policy, dealt when they are first asked for.
    pub(super) fn copysets(&self, policy: Redundancy) -> Option<Rc<Copysets>> {
        let mut dealt = self.dealt.borrow_mut();
        dealt.entry(policy).or_insert_with(|| Copysets::deal(policy, &self.names).map(Rc::new)).clone()
    }

    pub(super) fn domain_of(&self, disk: u64) -> Option<u32> {
        self.position(disk).map(|at| self.domain_of[at])
    }

    /// Where a disk comes among all of them.
    pub(super) fn position(&self, disk: u64) -> Option<usize> {
        self.disks.binary_search(&disk).ok()
    }

    /// How many disks there are.
    pub(super) fn disks_count(&self) -> usize {
        self.disks.len()
    }

    /// Disks of a domain that take new shards when they live and have room.
    pub(super) fn disks_of(&self, domain: u32) -> &[u64] {
        self.disks_of.get(domain as usize).map_or(&[], Vec::as_slice)
    }
}

impl MetaServer {
    /// The disks as the state has them now.
    pub(super) fn disk_table(&self) -> Result<DiskTable, Trouble> {
        // The number first: a change in between makes what is kept here old, never too young.
        let changes = self.0.replica.disk_changes();
        if let Some((at, table)) = &*self.0.disk_table.borrow()
            && *at == changes
        {
            return Ok(table.clone());
        }
        let mut rows = BTreeMap::new();
        let txn = Txn::new(self.0.replica.store());
        for (key, value) in txn.scan_prefix(&[keys::table::DISK], usize::MAX)? {
            if let Some(disk) = keys::last_u64(&key) {
                rows.insert(disk, DiskRow::from_bytes(&value)?);
            }
        }
        let table = DiskTable::new(rows);
        *self.0.disk_table.borrow_mut() = Some((changes, table.clone()));
        Ok(table)
    }

    /// The disks as this replica goes by them, for whoever compares them with its state. `None`: the state
    /// cannot be read.
    pub fn known_disks(&self) -> Option<BTreeMap<u64, DiskRow>> {
        self.disks().ok().map(|disks| (*disks).clone())
    }

    pub(crate) fn disks(&self) -> Result<Rc<BTreeMap<u64, DiskRow>>, Trouble> {
        Ok(self.disk_table()?.rows)
    }
}
