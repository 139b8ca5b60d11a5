//! One bit flipped in each byte in turn of a small log: never a wrong entry, never a vote or an entry given
//! up as if it had not been acknowledged, and what nobody notices is a byte that nobody reads.

use std::collections::BTreeMap;
use std::path::Path;

use platform::buffer::BLOCK;
use platform::disk::Open;
use platform::fault::DiskFault;
use proto::log_record::{HEADER_LEN, LogRecord};

use super::tests::{config, story};
use super::{LogEntry, LogError, LogWriter, Tail, Vote};

const SEGMENT: u64 = 64 << 10;

fn entry(index: u64, len: usize) -> LogEntry {
    LogEntry { index, term: 2, kind: 0, data: (0..len).map(|at| (at as u64 * 7 + index) as u8 | 1).collect() }
}

/// Which bytes of a segment belong to no record.
fn free(bytes: &[u8]) -> Vec<bool> {
    let mut free = vec![true; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        match LogRecord::decode(&bytes[at..]) {
            Ok((record, used)) => {
                free[at..at + HEADER_LEN + record.data.len()].fill(false);
                at += used;
            }
            Err(_) => at = (at + 1).next_multiple_of(BLOCK),
        }
    }
    free
}

#[test]
fn every_bit_flip_in_a_log_is_noticed_or_hits_what_nobody_reads() {
    story(|sim| async move {
        let open = || sim.node("n").open_disk(Path::new("/d")).expect("disk");
        let (mut log, _) = LogWriter::open(open(), config(SEGMENT)).await.expect("open");
        log.append(Some(Vote { term: 1, vote: 1, commit: 0 }), None, &[entry(1, 100)]).await.expect("append");
        // Several records in one write, one of them longer than a block.
        log.append(None, None, &[entry(2, 10), entry(3, 5000), entry(4, 0)]).await.expect("append");
        log.append(Some(Vote { term: 2, vote: 3, commit: 3 }), Some(4), &[entry(4, 30)]).await.expect("append");
        sim.crash("n");
        let (mut log, _) = LogWriter::open(open(), config(SEGMENT)).await.expect("open");
        log.append(None, None, &[entry(5, 600)]).await.expect("append");
        log.append(None, None, &[entry(6, 4200)]).await.expect("append");
        sim.crash("n");
        let image = sim.disk_image("n", Path::new("/d"));
        let wanted: Vec<LogEntry> =
            [(1, 100), (2, 10), (3, 5000), (4, 30), (5, 600), (6, 4200)].map(|(index, len)| entry(index, len)).into();
        let vote = Vote { term: 2, vote: 3, commit: 3 };
        let mut unnoticed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
        for (file, len) in sim.disk_files("n", Path::new("/d")) {
            let opened = open().open(&file, Open::Existing).await.expect("segment");
            let free = free(&opened.read_at(0, len as usize).await.expect("read"));
            sim.crash("n");
            for offset in 0..len {
                sim.restore_disk("n", Path::new("/d"), &image);
                let rot = DiskFault::RotBit { file: file.clone(), offset, bit: (offset % 8) as u8 };
                sim.disk_fault("n", Path::new("/d"), rot);
                let what = format!("byte {offset} of {file}");
                let outcome = match LogWriter::open(open(), config(SEGMENT)).await {
                    Err(LogError::Rot { .. } | LogError::Foreign { .. }) => "halts",
                    Err(error) => panic!("{what}: {error}"),
                    Ok((_, found)) => {
                        let is_wanted = |found: &LogEntry| wanted.get(found.index as usize - 1) == Some(found);
                        assert!(found.entries.iter().all(is_wanted), "{what} gives another entry");
                        let (first, last) = (found.entries.first(), found.entries.last());
                        let lost = last.is_none_or(|last| last.index < 6) || found.vote != vote;
                        assert!(!lost || found.tail == Tail::Bad, "{what}: {:?}, {:?}", found.tail, found.vote);
                        match first {
                            _ if lost => "in doubt",
                            // A start refuses it unless the state holds the entries before.
                            Some(first) if first.index > 1 => "begins later",
                            _ => "nothing lost",
                        }
                    }
                };
                *outcomes.entry(outcome).or_default() += 1;
                if outcome == "nothing lost" && !free[offset as usize] {
                    unnoticed.entry(file.clone()).or_default().push(offset);
                }
                sim.crash("n");
            }
        }
        println!("{outcomes:?}");
        assert!(unnoticed.is_empty(), "{unnoticed:?}");
        assert!(outcomes.len() == 4, "{outcomes:?}");
    });
}
