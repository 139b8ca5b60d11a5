//! Faults of the metaservers' directories. Crashes and slow disks come at any time; real damage is
//! done to one replica at a time, and to the next one only when that one is whole again, because more
//! than a minority of damaged replicas is not promised to be survived.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use metaserver::server::MetaServer;
use platform::fault::DiskFault;
use platform::sim::DiskImage;
use proto::ballot::Ballot;
use proto::query::{Ask, AskAll};

use super::Faults;
use crate::cluster::Node;
use crate::nodes::meta::{BALLOT, DIR};
use crate::shape::METAS;

/// What happens to a directory while its replica is down.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    /// A bit flips in the log, not at its end.
    RotInLog,
    /// A bit flips in the last blocks of the log.
    RotAtEnd,
    /// The log is an older copy.
    OldLog,
    /// The ballot is an older copy.
    OldBallot,
    /// The ballot is gone.
    NoBallot,
    /// A bit flips in the ballot.
    RottenBallot,
    /// Everything is gone.
    Emptied,
    /// Everything but the applied state is gone.
    OnlyState,
    /// The applied state is gone.
    NoState,
    /// The applied state cannot be read.
    RottenState,
}

/// All of them.
pub const DAMAGES: &[Damage] = &[
    Damage::RotInLog,
    Damage::RotAtEnd,
    Damage::OldLog,
    Damage::OldBallot,
    Damage::NoBallot,
    Damage::RottenBallot,
    Damage::Emptied,
    Damage::OnlyState,
    Damage::NoState,
    Damage::RottenState,
];

/// Places in which a power cut is delicate.
pub const PLACES: [&str; 8] = [
    "log write under way",
    "snapshot fetched",
    "snapshot in place",
    "state flushed",
    "log segment removed",
    "log written, ballot not",
    "ballot written",
    "replica in doubt has heard the others",
];

/// An older content of a directory.
pub(super) struct Copied {
    image: DiskImage,
    /// The ballot's word on the log, then and since: raft id, sequence.
    said: (u64, u64),
    /// How often that changed since.
    marks: u32,
}

impl Faults {
    pub(super) fn start_metadata(self: &Rc<Faults>) {
        let rates = self.cluster.shape.rates.clone();
        self.every(rates.meta_flush_fails, Faults::meta_flush_fails);
        self.every(rates.meta_trap, Faults::meta_trap);
        if rates.meta_damage.is_some() {
            self.every(rates.meta_damage, Faults::meta_damage);
            let this = self.clone();
            self.spawn(async move {
                while this.on.get() {
                    this.wait(Duration::from_secs(1)).await;
                    this.look_at_copies();
                }
            });
        }
    }

    fn meta_flush_fails(self: &Rc<Faults>) {
        let index = self.below(METAS);
        let node = Node::Meta(index);
        if !self.cluster.is_up(node) {
            return;
        }
        self.cluster.fault("flushes of a metaserver fail", &format!("flushes of {} fail", node.name()));
        self.cluster.excuse(index);
        self.simulation().disk_fault(&node.name(), DIR, DiskFault::FlushFails);
        self.later(self.cluster.draw.millis(500, 8000), move |this| {
            this.cluster.crash(node);
            this.simulation().disk_fault(&node.name(), DIR, DiskFault::Healthy);
            this.back_later(node, this.cluster.draw.millis(1, 2000));
        });
    }

    /// Cuts the power of a replica where it is delicate, if it comes there soon.
    fn meta_trap(self: &Rc<Faults>) {
        let node = Node::Meta(self.below(METAS));
        let place = *self.cluster.draw.pick(&PLACES);
        let this = self.clone();
        self.spawn(async move {
            let patience = std::pin::pin!(this.wait(Duration::from_secs(8)));
            let name = node.name();
            let trap = std::pin::pin!(this.simulation().trap(&name, place));
            if let Either::Right(_) = select(trap, patience).await {
                return;
            }
            if !this.on.get() {
                return this.simulation().resume(&name);
            }
            this.cluster.fault("power cut in a delicate place", &format!("power cut of {name} at \"{place}\""));
            this.cluster.crash(node);
            this.back_later(node, this.cluster.draw.millis(1, 3000));
        });
    }

    /// Takes copies of directories now and then, and watches how far their logs have come since.
    fn look_at_copies(&self) {
        for index in 0..METAS {
            let image = self.simulation().disk_image(&Node::Meta(index).name(), DIR);
            let Some(ballot) = image.file(BALLOT).and_then(|bytes| Ballot::decode(&bytes).ok()) else { continue };
            let said = (ballot.raft_id, ballot.sequence);
            let mut copies = self.copies.borrow_mut();
            match &mut copies[index] {
                Some(copied) if copied.said.0 == said.0 && !self.cluster.draw.chance(0.03) => {
                    copied.marks += u32::from(copied.said.1 != said.1);
                    copied.said = said;
                }
                place => *place = Some(Copied { image, said, marks: 0 }),
            }
        }
    }

    fn meta_damage(self: &Rc<Faults>) {
        if self.damaged.get().is_some() {
            return;
        }
        let index = self.below(METAS);
        let damage = *self.cluster.draw.pick(&self.cluster.shape.damages);
        let node = Node::Meta(index);
        // Down first; what is damaged while it runs is found at the next start anyway.
        self.cluster.crash(node);
        self.back_later(node, self.cluster.draw.millis(10, 4000));
        if !self.do_damage(index, damage) {
            return;
        }
        self.cluster.fault("damage to a metaserver", &format!("damage to {}: {damage:?}", node.name()));
        self.damaged.set(Some(index));
        let this = self.clone();
        self.spawn(async move {
            // Twice: what everybody knows must be on their disks too.
            let mut times = 0;
            while this.on.get() && times < 2 {
                this.wait(Duration::from_millis(500)).await;
                times = if this.is_whole(index).await { times + 1 } else { 0 };
            }
            this.damaged.set(None);
        });
    }

    /// Answers whether anything was done.
    fn do_damage(&self, index: usize, damage: Damage) -> bool {
        let name = Node::Meta(index).name();
        let simulation = self.simulation();
        let state = self.cluster.state(index);
        let copies = self.copies.borrow();
        match damage {
            Damage::RotInLog => self.rot_log(&name, false),
            Damage::RotAtEnd => self.rot_log(&name, true),
            Damage::OldLog => {
                // A log that the ballot has not been told of twice since may be the present one.
                let Some(copied) = copies[index].as_ref().filter(|copied| copied.marks >= 2) else { return false };
                simulation.restore_files(&name, DIR, &copied.image, |file| file.starts_with("log-"));
                true
            }
            Damage::OldBallot => {
                let Some(copied) = &copies[index] else { return false };
                simulation.restore_files(&name, DIR, &copied.image, |file| file == BALLOT);
                true
            }
            Damage::NoBallot => {
                simulation.restore_files(&name, DIR, &DiskImage::default(), |file| file == BALLOT);
                true
            }
            Damage::RottenBallot => {
                let (offset, bit) = (self.cluster.draw.below(72), self.cluster.draw.below(8) as u8);
                simulation.disk_fault(&name, DIR, DiskFault::RotBit { file: BALLOT.into(), offset, bit });
                true
            }
            Damage::Emptied => {
                simulation.wipe_disk(&name, DIR);
                state.wipe();
                true
            }
            Damage::OnlyState => {
                simulation.wipe_disk(&name, DIR);
                true
            }
            Damage::NoState => {
                state.wipe();
                true
            }
            Damage::RottenState => {
                state.rot();
                true
            }
        }
    }

    fn rot_log(&self, name: &str, at_end: bool) -> bool {
        let draw = &self.cluster.draw;
        let files = self.simulation().disk_files(name, DIR);
        let blocks: Vec<(String, u64)> = files
            .into_iter()
            .filter(|(file, _)| file.starts_with("log-"))
            .flat_map(|(file, len)| (0..len / 4096).map(move |block| (file.clone(), block)))
            .collect();
        let last = 3.min(blocks.len());
        let (from, to) = if at_end { (blocks.len() - last, blocks.len()) } else { (0, blocks.len() - last) };
        if from >= to {
            return false;
        }
        let hit = Cell::new(false);
        for _ in 0..draw.between(1, 3) {
            let (file, block) = blocks[from + draw.below((to - from) as u64) as usize].clone();
            let offset = block * 4096 + draw.below(*draw.pick(&[80, 300, 4096]));
            let rot = DiskFault::RotBit { file, offset, bit: draw.below(8) as u8 };
            self.simulation().disk_fault(name, DIR, rot);
            hit.set(true);
        }
        hit.get()
    }

    /// Whether the replica votes and holds all that was committed when this was asked.
    async fn is_whole(&self, index: usize) -> bool {
        // Once the leader has answered, it has applied everything committed before.
        if self.meta.query(Ask::Cluster(AskAll {})).await.is_err() {
            return false;
        }
        let metas = self.cluster.metas();
        let (Some(leader), Some(Some(meta))) = (self.cluster.leader(), metas.get(index)) else { return false };
        let replica = meta.replica();
        let voters = leader.replica().voters();
        // Who does not know of a new voter may be unable to find a leader without the old ones.
        let agreed = |meta: &Option<MetaServer>| {
            meta.as_ref().is_some_and(|meta| meta.replica().stopped().is_none() && meta.replica().voters() == voters)
        };
        metas.iter().all(agreed)
            && !replica.is_in_doubt()
            && voters.len() == METAS
            && voters.contains(&replica.raft_id())
            && replica.applied() >= leader.replica().applied()
    }
}
