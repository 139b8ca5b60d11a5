//! What a seed draws: the cluster's shape, the workload, and how likely each fault is ("swarm":
//! each seed leaves some kinds of faults out altogether, so that the others get through).

use std::time::Duration;

use metaserver::server::ServerTimes;
use platform::planted::PlantedBug;
use platform::sim::SimOptions;
use proto::level;
use types::redundancy::Redundancy;

use crate::draw::Draw;
use crate::faults::metadata::{DAMAGES, Damage};
use crate::uncover::uncover;
use crate::volumes::VolumeWork;

/// Metaserver replicas.
pub const METAS: usize = 3;
/// Chunkservers, each with one disk.
pub const CHUNKS: usize = 6;

/// Mean times between faults of each kind; `None` = this seed has none of them.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Power cut of one chunkserver, then a restart.
    pub crash_chunk: Option<Duration>,
    /// Power cut of one metaserver.
    pub crash_meta: Option<Duration>,
    /// kill -9 of any process.
    pub kill: Option<Duration>,
    /// A client process dies and another one starts.
    pub crash_client: Option<Duration>,
    /// Power cut of everything at once.
    pub power_cut: Option<Duration>,
    /// Some nodes are cut off from the others, both ways.
    pub partition: Option<Duration>,
    /// One direction between two groups is cut.
    pub one_way: Option<Duration>,
    /// A process is stopped and goes on later (SIGSTOP, SIGCONT).
    pub pause: Option<Duration>,
    /// A disk becomes slow for a while.
    pub slow_disk: Option<Duration>,
    /// Reads of a chunk disk fail for a while.
    pub read_fails: Option<Duration>,
    /// Writes of a chunk disk fail for a while.
    pub write_fails: Option<Duration>,
    /// A chunk disk is gone for good: its flushes fail, or it comes back empty.
    pub lose_disk: Option<Duration>,
    /// A wall clock jumps.
    pub clock_jump: Option<Duration>,
    /// Somebody has a chunk sealed that its writer still writes to, as a take-over does.
    pub seal: Option<Duration>,
    /// All chunkservers lose their power when a seal is committed, before they are told of it.
    pub dark: Option<Duration>,
    /// The leader is cut off from the other metaservers, and from nobody else.
    pub split: Option<Duration>,
    /// A process stops when it has rebuilt a shard, and goes on when its lease is over.
    pub stall: Option<Duration>,
    /// Flushes of a metaserver's disk fail until it is restarted.
    pub meta_flush_fails: Option<Duration>,
    /// Bits of a chunk disk flip when the other faults have stopped.
    pub rot: Option<Duration>,
    /// A record of an open chunk rots.
    pub rot_open: Option<Duration>,
    /// A disk is drained.
    pub drain: Option<Duration>,
    /// The upgrade of a cluster that began at the level before is finalized.
    pub finalize: Option<Duration>,
    /// The cluster's redundancy is changed.
    pub redundancy: Option<Duration>,
    /// Something in a metaserver's directory is damaged, put back from an older copy, or gone.
    pub meta_damage: Option<Duration>,
    /// A client that may own volumes is cut off from the metaservers, and from nobody else.
    pub split_owner: Option<Duration>,
    /// The owner of a volume loses its power in a delicate moment, or stops there.
    pub owner: Option<Duration>,
    /// A metaserver loses its power in a delicate moment.
    pub meta_trap: Option<Duration>,
}

/// How long the things of a workload take and how they are mixed.
#[derive(Clone, Debug)]
pub struct Work {
    /// Client processes.
    pub clients: usize,
    /// Tasks in each that do one operation after the other.
    pub workers: usize,
    /// Tasks in each that append without a command behind each append.
    pub journals: usize,
    /// Mean pause between two appends of a journal.
    pub journal: Duration,
    /// Mean pause between two buckets that are deleted with what they hold, if any are.
    pub trash: Option<Duration>,
    /// Work on volumes, if there is any.
    pub volumes: Option<VolumeWork>,
    /// Mean pause between two operations of a worker.
    pub think: Duration,
    /// Keys that are written again and again.
    pub registers: u32,
    /// Weights: put, conditional put, get, delete, list, put once, get once, upload.
    pub mix: [f64; 8],
    /// Weights of sizes: empty, tiny (inline), small (packed), stripes, large.
    pub sizes: [f64; 5],
    /// The largest size in bytes.
    pub size_max: u64,
    /// Sizes of stripes and more are smaller by this power of two.
    pub size_shift: u32,
}

/// Everything a seed draws before it begins.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The seed.
    pub seed: u64,
    /// Redundancy of large data.
    pub policy: Redundancy,
    /// Logical bytes of a chunk.
    pub chunk_capacity: u64,
    /// The feature level that the cluster is founded at.
    pub level: u64,
    /// Bytes of a cell.
    pub cell_size: u64,
    /// Partitions of the metadata.
    pub partitions: u32,
    /// Bodies up to this many bytes ride in the command.
    pub inline_max: usize,
    /// Logical bytes of one append.
    pub append_unit: usize,
    /// Bytes of the clients' caches.
    pub cache_bytes: usize,
    /// Bytes of a slot of a data file.
    pub slot_size: u64,
    /// Records between checkpoints of a store.
    pub checkpoint_records: u64,
    /// Bytes of a segment of the Raft log.
    pub segment_size: u64,
    /// Applied entries between flushes of the state.
    pub flush_entries: u64,
    /// Entries kept behind that for slow followers.
    pub keep_entries: u64,
    /// Times the leader goes by.
    pub times: ServerTimes,
    /// Length of the safety phase.
    pub safety: Duration,
    /// The workload.
    pub work: Work,
    /// The faults.
    pub rates: Rates,
    /// What may be damaged in a metaserver's directory.
    pub damages: Vec<Damage>,
    /// Time in which a chunkserver reads everything that it holds.
    pub scrub: Duration,
    /// The machine: latencies and random faults of network and disks.
    pub machine: SimOptions,
}

fn rate(draw: &Draw, likely: f64, low_s: u64, high_s: u64) -> Option<Duration> {
    let mean = draw.millis(low_s * 1000, high_s * 1000);
    draw.chance(likely).then_some(mean)
}

fn machine(draw: &Draw, planted: &[PlantedBug], events: usize) -> SimOptions {
    let us = Duration::from_micros;
    let rough = |likely: f64, high: f64| {
        let p = draw.fraction() * high;
        if draw.chance(likely) { p } else { 0.0 }
    };
    let slowest = *draw.pick(&[300, 500, 2000, 10_000]);
    SimOptions {
        net_delay: (us(100), us(slowest)),
        net_slow: rough(0.5, 0.02),
        loss: rough(0.4, 0.01),
        duplicate: rough(0.4, 0.01),
        damage: rough(0.2, 0.002),
        cut: rough(0.4, 0.002),
        disk_write: (us(30), us(*draw.pick(&[60, 120, 2000]))),
        disk_flush: (us(30), us(*draw.pick(&[100, 300, 5000, 30_000]))),
        disk_slow: rough(0.4, 0.01),
        planted: planted.to_vec(),
        trace_events: events,
        ..SimOptions::default()
    }
}

fn work(draw: &Draw) -> Work {
    let clients = draw.between(2, 3) as usize;
    let workers = draw.between(1, 3) as usize;
    let all = (clients * workers) as u32;
    // So that a seed has some two to three hundred operations, however many workers do them.
    let think = Duration::from_millis(draw.between(90, 200)) * all;
    let tilt = |base: f64| base * draw.fraction();
    Work {
        clients,
        workers,
        journals: draw.between(0, 2) as usize,
        journal: draw.millis(50, 600),
        trash: None,
        volumes: None,
        think,
        registers: draw.between(1, 6) as u32,
        mix: [tilt(3.0), tilt(2.0), tilt(4.0) + 0.1, tilt(1.0), tilt(0.6), tilt(2.0) + 0.3, tilt(2.0), tilt(0.5)],
        sizes: [tilt(0.2), tilt(2.0), tilt(4.0) + 0.1, tilt(2.0), tilt(0.5)],
        size_max: *draw.pick(&[600 << 10, 1 << 20, 1536 << 10]),
        size_shift: 0,
    }
}

fn rates(draw: &Draw) -> Rates {
    // A calm or a wild seed, apart from which faults it has.
    let likely = *draw.pick(&[0.2, 0.45, 0.7]);
    let rates = Rates {
        crash_chunk: rate(draw, likely, 3, 20),
        crash_meta: rate(draw, likely, 3, 20),
        kill: rate(draw, likely, 3, 20),
        crash_client: rate(draw, likely, 8, 30),
        power_cut: rate(draw, likely, 10, 40),
        partition: rate(draw, likely, 5, 30),
        one_way: rate(draw, likely, 5, 30),
        pause: rate(draw, likely, 4, 20),
        slow_disk: rate(draw, likely, 4, 20),
        read_fails: rate(draw, likely, 5, 30),
        write_fails: rate(draw, likely, 5, 30),
        lose_disk: rate(draw, likely, 10, 30),
        clock_jump: rate(draw, likely * 0.5, 10, 30),
        seal: rate(draw, likely, 1, 10),
        ..Rates::default()
    };
    Rates { crash_chunk: rates.crash_chunk.or(Some(Duration::from_secs(15))), ..rates }
}

fn times(draw: &Draw) -> ServerTimes {
    ServerTimes {
        disk_silent: draw.millis(2000, 4000),
        // Losing a disk by its silence is an injected fault, not a matter of luck.
        disk_lost: Duration::from_secs(3600),
        session_silent: draw.millis(4_000, 30_000),
        fence_timeout: draw.millis(300, 1500),
        job_lease: draw.millis(5_000, 30_000),
    }
}

impl Shape {
    /// What `seed` draws. `planted` are switched on; `profile` turns up the faults that uncover it.
    pub fn draw(seed: u64, planted: &[PlantedBug], profile: Option<PlantedBug>, trace_events: usize) -> Shape {
        Shape::draw_with(seed, planted, profile, trace_events, false)
    }

    /// The same; with `volumes` there is work on volumes in any case, and less of the other.
    pub fn draw_with(
        seed: u64,
        planted: &[PlantedBug],
        profile: Option<PlantedBug>,
        trace_events: usize,
        volumes: bool,
    ) -> Shape {
        let draw = Draw::new(seed);
        let policies = [
            Redundancy::Copies(3),
            Redundancy::Copies(2),
            Redundancy::Erasure { data: 4, parity: 2 },
            Redundancy::Erasure { data: 2, parity: 1 },
        ];
        let policy = *draw.pick(&policies);
        // A stream of its own, so that what was drawn before it came stays as it was.
        let meta = Draw::new(seed ^ 0x6d65_7461);
        let mut shape = Shape {
            seed,
            policy,
            chunk_capacity: draw.between(1, 4) << 20,
            cell_size: *draw.pick(&[4 << 10, 16 << 10, 64 << 10]),
            partitions: *draw.pick(&[1, 4, 16]),
            inline_max: *draw.pick(&[0, 512, 8 << 10]),
            append_unit: *draw.pick(&[128 << 10, 512 << 10, 1 << 20]),
            cache_bytes: *draw.pick(&[0, 0, 1 << 20, 16 << 20]),
            slot_size: *draw.pick(&[64 << 10, 256 << 10, 1 << 20]),
            checkpoint_records: *draw.pick(&[20, 200, 20_000]),
            segment_size: *draw.pick(&[16 << 10, 64 << 10, 1 << 20]),
            flush_entries: *draw.pick(&[20, 100, 1000]),
            keep_entries: *meta.pick(&[2, 20, 1000]),
            times: times(&draw),
            safety: draw.millis(32_000, 44_000),
            work: work(&draw),
            rates: rates(&draw),
            level: level::CURRENT,
            damages: DAMAGES.to_vec(),
            scrub: Duration::from_secs(meta.between(8, 30)),
            machine: machine(&draw, planted, trace_events),
        };
        // Most seeds move an eighth of the bytes, in as many operations and chunks.
        if Draw::new(seed ^ 0x7369_7a65).chance(0.85) {
            shape.work.size_shift = 3;
            // What the packer takes at once must fit.
            shape.chunk_capacity >>= 2;
            shape.append_unit >>= 3;
        }
        let likely = *meta.pick(&[0.0, 0.4, 0.8]);
        shape.rates.meta_flush_fails = rate(&meta, likely, 6, 30);
        shape.rates.meta_damage = rate(&meta, likely, 3, 15);
        shape.rates.meta_trap = rate(&meta, likely, 3, 15);
        shape.rates.rot = rate(&meta, 0.3, 1, 2);
        if shape.rates.rot.is_none() {
            // Nobody waits for what it finds.
            shape.scrub *= 4;
        }
        shape.rates.dark = rate(&meta, 0.2, 4, 20);
        shape.rates.split = rate(&meta, 0.3, 4, 20);
        shape.rates.stall = rate(&meta, 0.3, 2, 10);
        shape.rates.drain = rate(&meta, 0.4, 3, 15);
        let operators = Draw::new(seed ^ 0x6f70_7321);
        shape.level = if operators.chance(0.2) { level::CURRENT - 1 } else { level::CURRENT };
        shape.rates.finalize = (shape.level < level::CURRENT).then(|| operators.millis(4_000, 20_000));
        shape.rates.redundancy = rate(&operators, 0.3, 5, 20);
        shape.rates.rot_open = rate(&meta, 0.2, 8, 30);
        shape.work.trash = rate(&Draw::new(seed ^ 0x7472_6173), 0.3, 1, 6);
        let volume = Draw::new(seed ^ 0x766f_6c73);
        if volumes || shape.level == level::CURRENT && volume.chance(0.25) {
            shape.have_volumes(&volume, volumes);
        }
        if let Some(bug) = profile {
            uncover(&mut shape, bug);
        }
        shape
    }

    /// Adds work on volumes and the faults of its own.
    pub fn have_volumes(&mut self, draw: &Draw, above_all: bool) {
        self.work.volumes = Some(VolumeWork::draw(self.seed, self.work.clients));
        self.rates.owner = rate(draw, 0.6, 2, 10);
        self.rates.split_owner = rate(draw, 0.4, 4, 15);
        if above_all {
            (self.level, self.rates.finalize) = (level::CURRENT, None);
            (self.work.journals, self.work.trash) = (0, None);
            self.work.think *= 5;
        }
    }

    /// What the seed drew, in a line: what sets it apart from others.
    pub fn summary(&self) -> String {
        let Shape { policy, times, work, machine, .. } = self;
        let mut line = format!(
            "{policy}, chunks of {} KiB, cells of {} KiB, {} partitions, inline up to {}, segments of {} KiB, state \
             flushed after {} entries, {} kept, {} clients with {} workers and {} journals, sessions end after {:?}",
            self.chunk_capacity >> 10,
            self.cell_size >> 10,
            self.partitions,
            self.inline_max,
            self.segment_size >> 10,
            self.flush_entries,
            self.keep_entries,
            work.clients,
            work.workers,
            work.journals,
            times.session_silent,
        );
        let network = [
            ("slow", machine.net_slow),
            ("loss", machine.loss),
            ("duplicate", machine.duplicate),
            ("damage", machine.damage),
            ("cut", machine.cut),
            ("disk slow", machine.disk_slow),
        ];
        for (name, probability) in network.into_iter().filter(|(_, probability)| *probability > 0.0) {
            line.push_str(&format!("; {name} {probability:.4}"));
        }
        if let Some(mean) = work.trash {
            line.push_str(&format!("; a bucket into the trash every {mean:?}"));
        }
        if let Some(volumes) = &work.volumes {
            line.push_str(&format!("; {volumes:?}"));
        }
        // Rates are told by their names as the code has them.
        let rates = format!("{:?}", self.rates);
        let on = rates.trim_start_matches("Rates { ").split(", ").filter(|rate| rate.contains("Some("));
        for rate in on {
            line.push_str("; ");
            line.push_str(&rate.replace("Some(", "every ").replace([')', '}'], ""));
        }
        line
    }

    /// How many chunk disks may be lost before data is.
    pub fn parity(&self) -> usize {
        self.policy.parity()
    }
}

#[cfg(test)]
mod tests {
    use super::Shape;

    #[test]
    fn shape_follows_from_the_seed_alone() {
        for seed in 0..50 {
            let one = format!("{:?}", Shape::draw(seed, &[], None, 0));
            assert_eq!(one, format!("{:?}", Shape::draw(seed, &[], None, 0)));
            assert_ne!(one, format!("{:?}", Shape::draw(seed + 1, &[], None, 0)));
        }
    }
}
