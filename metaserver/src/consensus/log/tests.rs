//! The log survives crashes, tells rot from torn tails, and gives up what it no longer needs.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::{LogConfig, LogEntry, LogError, LogWriter, StoreId, Tail, Vote};
use platform::fault::DiskFault;
use platform::planted::Planted;
use platform::sim::{SimOptions, Simulation};

fn entry(index: u64) -> LogEntry {
    LogEntry { index, term: 1, kind: 0, data: vec![index as u8; 100] }
}

pub(super) fn config(segment_size: u64) -> LogConfig {
    LogConfig { store: StoreId(1), first_segment: 0, segment_size, planted: Planted::default() }
}

pub(super) fn story<F: Future<Output = ()> + 'static>(make: impl FnOnce(Rc<Simulation>) -> F) {
    let simulation = Rc::new(Simulation::new(3, SimOptions::default()));
    simulation.set_faults(false);
    let run = make(Rc::clone(&simulation));
    simulation.run(run, Duration::from_secs(60)).expect("story ends");
}

#[test]
fn segment_of_an_earlier_start_gives_up_the_zeros_behind_its_records() {
    story(|sim| async move {
        let open = |node: platform::Platform| node.open_disk(Path::new("/d")).expect("disk");
        let disk = open(sim.node("n"));
        let (mut log, _) = LogWriter::open(disk.clone(), config(64 << 10)).await.expect("open");
        let vote = Some(Vote { term: 1, vote: 1, commit: 0 });
        log.append(vote, None, &[entry(1), entry(2)]).await.expect("append");
        let file = disk.open("log-0000000000000001", platform::disk::Open::Existing).await.expect("segment");
        let used = file.len().await.expect("len");
        file.set_len(64 << 10).await.expect("as if it had been written ahead");
        file.flush().await.expect("flush");
        for _ in 0..2 {
            sim.crash("n");
            let disk = open(sim.node("n"));
            let (_, found) = LogWriter::open(disk.clone(), config(64 << 10)).await.expect("open");
            assert_eq!(found.entries, [entry(1), entry(2)]);
            let file = disk.open("log-0000000000000001", platform::disk::Open::Existing).await.expect("segment");
            assert_eq!(file.len().await.expect("len"), used);
        }
    });
}

#[test]
fn flushed_records_survive_a_crash_over_segments() {
    story(|sim| async move {
        let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
        let (mut log, found) = LogWriter::open(disk, config(64 << 10)).await.expect("open");
        assert!(found.entries.is_empty());
        let vote = Vote { term: 3, vote: 2, commit: 1 };
        log.append(Some(vote), None, &[entry(1), entry(2)]).await.expect("append");
        for index in 3..60 {
            log.append(None, None, &[entry(index)]).await.expect("append");
        }
        log.append(None, Some(50), &[entry(50)]).await.expect("overwrite");
        assert!(log.segment_count() > 2);
        sim.crash("n");
        let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
        let (mut log, found) = LogWriter::open(disk, config(64 << 10)).await.expect("open");
        assert_eq!(found.vote, vote);
        assert_eq!(found.entries, (1..=50).map(entry).collect::<Vec<_>>());
        log.append(None, None, &[entry(51)]).await.expect("append");
        log.trim(40, &sim.node("other")).await.expect("trim");
        sim.crash("n");
        let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
        let (_, found) = LogWriter::open(disk, config(64 << 10)).await.expect("open");
        assert_eq!(found.entries.last(), Some(&entry(51)));
        assert!(found.entries.first().is_some_and(|first| first.index <= 41));
        assert_eq!(found.vote, vote);
    });
}

#[test]
fn torn_tail_is_not_taken_for_rot_by_a_later_opening() {
    // Several records in one write, torn by a power cut: a survivor may lie behind the gap.
    // Whatever survived, every later opening must go on where the first one did.
    for seed in 0..60 {
        let simulation = Rc::new(Simulation::new(seed, SimOptions::default()));
        simulation.set_faults(false);
        let sim = Rc::clone(&simulation);
        let run = async move {
            let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
            let (mut log, _) = LogWriter::open(disk, config(64 << 10)).await.expect("open");
            log.append(None, None, &[entry(1)]).await.expect("append");
            let platform = sim.node("n");
            let disk = platform.open_disk(Path::new("/d")).expect("disk");
            let (mut log, _) = LogWriter::open(disk, config(64 << 10)).await.expect("open");
            let entries: Vec<LogEntry> = (2..40).map(entry).collect();
            // Dropped in the middle: the write is under way, the flush has not begun.
            let appending = platform.clock().timeout(Duration::from_micros(20), log.append(None, None, &entries));
            assert!(appending.await.is_err());
            sim.crash("n");
            for round in 0..3 {
                let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
                let (mut log, found) = LogWriter::open(disk, config(64 << 10)).await.expect("open");
                let next = found.entries.last().expect("entries").index + 1;
                assert!(next > 1 + round);
                log.append(None, None, &[entry(next)]).await.expect("append");
                log.append(None, None, &[entry(next + 1)]).await.expect("append");
            }
        };
        simulation.run(run, Duration::from_secs(60)).expect("story ends");
    }
}

#[test]
fn rot_in_the_middle_is_told_from_a_torn_tail() {
    story(|sim| async move {
        let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
        let (mut log, _) = LogWriter::open(disk, config(1 << 20)).await.expect("open");
        for index in 1..10 {
            log.append(None, None, &[entry(index)]).await.expect("append");
        }
        // Record 4 lies in the fourth block of the first segment.
        let rot = DiskFault::RotBit { file: "log-0000000000000001".into(), offset: 3 * 4096 + 100, bit: 3 };
        sim.disk_fault("n", Path::new("/d"), rot);
        sim.crash("n");
        let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
        let opened = LogWriter::open(disk, config(1 << 20)).await;
        assert!(matches!(opened, Err(LogError::Rot { .. })));
        // The last record alone: nothing vouches for it.
        let disk = sim.node("m").open_disk(Path::new("/d")).expect("disk");
        let (mut log, _) = LogWriter::open(disk, config(1 << 20)).await.expect("open");
        for index in 1..10 {
            log.append(None, None, &[entry(index)]).await.expect("append");
        }
        let torn = DiskFault::RotBit { file: "log-0000000000000001".into(), offset: 8 * 4096 + 100, bit: 3 };
        sim.disk_fault("m", Path::new("/d"), torn);
        sim.crash("m");
        let disk = sim.node("m").open_disk(Path::new("/d")).expect("disk");
        let (_, found) = LogWriter::open(disk, config(1 << 20)).await.expect("open");
        assert_eq!(found.entries.len(), 8);
    });
}

#[test]
fn damaged_end_is_told_from_a_torn_one() {
    // A bit of the last record flips: it may have been acknowledged. A write that a power cut tears
    // never was; and what a later life wrote behind the one or the other makes it the past.
    story(|sim| async move {
        let open = async |node: &str| {
            let disk = sim.node(node).open_disk(Path::new("/d")).expect("disk");
            LogWriter::open(disk, config(1 << 20)).await.expect("open")
        };
        for offset in [0, 30, 64, 75, 90, 150] {
            let node = format!("n{offset}");
            let (mut log, _) = open(&node).await;
            for index in 1..5 {
                log.append(None, None, &[entry(index)]).await.expect("append");
            }
            sim.crash(&node);
            let rot = DiskFault::RotBit { file: "log-0000000000000001".into(), offset: 3 * 4096 + offset, bit: 3 };
            sim.disk_fault(&node, Path::new("/d"), rot);
            let (mut log, found) = open(&node).await;
            assert_eq!((found.tail, found.entries.len()), (Tail::Bad, 3), "byte {offset}");
            log.append(None, None, &[entry(4)]).await.expect("append");
            let (_, found) = open(&node).await;
            assert_eq!((found.tail, found.entries.len()), (Tail::Whole, 4));
        }
    });
    let mut torn = 0;
    for seed in 0..60 {
        let simulation = Rc::new(Simulation::new(seed, SimOptions::default()));
        simulation.set_faults(false);
        let sim = Rc::clone(&simulation);
        let run = async move {
            let platform = sim.node("n");
            let disk = platform.open_disk(Path::new("/d")).expect("disk");
            let (mut log, _) = LogWriter::open(disk, config(64 << 10)).await.expect("open");
            log.append(None, None, &[entry(1)]).await.expect("append");
            let entries: Vec<LogEntry> = (2..60).map(entry).collect();
            let appending = platform.clock().timeout(Duration::from_micros(20), log.append(None, None, &entries));
            assert!(appending.await.is_err());
            sim.crash("n");
            let disk = sim.node("n").open_disk(Path::new("/d")).expect("disk");
            let (_, found) = LogWriter::open(disk, config(64 << 10)).await.expect("open");
            assert_ne!(found.tail, Tail::Bad);
            found.tail
        };
        torn += u32::from(simulation.run(run, Duration::from_secs(60)).expect("story ends") == Tail::Torn);
    }
    assert!(torn > 10, "only {torn} of 60 power cuts tore the write");
}
