//! One bit flipped in each byte in turn of a small store: never a wrong byte, never an acknowledged byte
//! that is given up in silence, never an append of a fenced writer; and what nobody notices is a byte
//! that docs/formats.md calls unreferenced.

use std::collections::BTreeMap;
use std::path::Path;

use platform::Platform;
use platform::fault::DiskFault;
use proto::checkpoint::Checkpoint;
use proto::chunk::Census;
use proto::record::{BLOCK, HEADER_LEN, RecordHeader, RecordKind, blocks, payload_start};
use types::ids::{Epoch, PlacementId, RequestId, StoreId};

use super::config::StoreConfig;
use super::maintain::CHECKPOINT;
use super::tests::{append, pattern, simulated, target};
use super::{Store, StoreError};

const SLOT: u64 = 16 << 10;

async fn open(platform: &Platform) -> Store {
    let config = StoreConfig { slot_size: SLOT, prewritten_slots: 0, reserve_bytes: 0, ..StoreConfig::default() };
    let disk = platform.open_disk(Path::new("/d")).expect("disk");
    Store::open(platform.clone(), disk, StoreId(77), config).await.expect("a store opens, whatever bit is flipped")
}

/// Sealed and in the checkpoint; sealed since; open; deleted; fenced.
const OLD: u64 = 1;
const SEALED: u64 = 2;
const OPEN: u64 = 3;
const DELETED: u64 = 4;
const FENCED: u64 = 5;

/// What was acknowledged, by placement.
type Acked = BTreeMap<u64, Vec<u8>>;

async fn fill(platform: &Platform, store: &Store, placement: u64, lens: &[usize], acked: &mut Acked) {
    let bytes = acked.entry(placement).or_default();
    for len in lens {
        let more = pattern(placement * 100 + bytes.len() as u64, *len);
        append(platform, store, placement, 1, bytes.len() as u64, &more).await.expect("append");
        bytes.extend(more);
    }
}

/// A store of all kinds of records, and what it owes.
async fn build(platform: &Platform) -> Acked {
    let mut acked = Acked::new();
    let store = open(platform).await;
    for (placement, lens) in [(OLD, &[100usize, 5000][..]), (SEALED, &[7000, 50])] {
        fill(platform, &store, placement, lens, &mut acked).await;
        store.fence(target(placement), Epoch(2), RequestId(1)).await.expect("fence");
        let len = acked[&placement].len() as u64;
        store.seal(target(placement), Epoch(2), len, RequestId(1)).await.expect("seal");
        if placement == OLD {
            store.checkpoint().await.expect("checkpoint");
        }
    }
    fill(platform, &store, OPEN, &[3000, 8000], &mut acked).await;
    fill(platform, &store, DELETED, &[600], &mut Acked::new()).await;
    store.delete(&[PlacementId(DELETED)]).await.expect("delete");
    fill(platform, &store, FENCED, &[900], &mut acked).await;
    store.fence(target(FENCED), Epoch(2), RequestId(1)).await.expect("fence");
    acked
}

/// What one sees of a store that was opened: all of it differs from that of the sound store, or the flip
/// was not noticed.
#[derive(PartialEq, Debug)]
struct Seen {
    census: Vec<(u64, u64)>,
    damaged: usize,
    /// Which shards can be read.
    readable: Vec<bool>,
    /// Answers to fences: length, cut, sealed.
    fences: Vec<(u64, bool, bool)>,
}

/// Looks at everything.
///
/// # Panics
/// A promise is broken.
async fn look(platform: &Platform, acked: &Acked, what: &str) -> Seen {
    let store = open(platform).await;
    let mut readable = Vec::new();
    for (placement, bytes) in acked {
        let read = store.read(target(*placement), 0, bytes.len()).await;
        if let Ok(read) = &read {
            assert!(read[..] == bytes[..], "{what}: shard {placement} gives other bytes");
        }
        readable.push(read.is_ok());
    }
    let page = store.census(Census { after: 0, upto: u64::MAX });
    let census = page.shards.iter().map(|shard| (shard.name.placement, shard.len)).collect();
    let damaged = store.damaged_count();
    for placement in [OLD, SEALED, FENCED] {
        let zombie = append(platform, &store, placement, 1, acked[&placement].len() as u64, b"too late").await;
        assert!(zombie.is_err(), "{what}: shard {placement} takes an append of a fenced writer");
    }
    let mut fences = Vec::new();
    for (placement, bytes) in acked {
        match store.fence(target(*placement), Epoch(9), RequestId(2)).await {
            Ok(state) => {
                let whole = state.len == bytes.len() as u64;
                assert!(whole || state.cut, "{what}: shard {placement} answers {} as if it were all", state.len);
                fences.push((state.len, state.cut, state.sealed));
            }
            Err(StoreError::Fenced { .. }) => panic!("{what}: an epoch came from nowhere"),
            Err(_) => fences.push((0, true, false)),
        }
    }
    Seen { census, damaged, readable, fences }
}

/// Which bytes of the data file nobody reads: the block before slot 0, blocks without a record, what lies
/// behind the payload in a record's last block, header bytes that no checksum covers, and fences and seals that
/// the checkpoint knows of.
async fn unreferenced(store: &Store, len: u64) -> Vec<bool> {
    let bytes = store.0.file.read_at(0, len as usize).await.expect("read");
    let mut free = vec![true; len as usize];
    for start in (0..len as usize).step_by(BLOCK) {
        let Ok(header) = RecordHeader::decode(&bytes[start..start + BLOCK], StoreId(77)) else { continue };
        let payload = header.payload_len as usize;
        if header.placement.0 == OLD && header.kind != RecordKind::Data {
            continue;
        }
        free[start..start + 96].fill(false);
        free[start + HEADER_LEN..start + HEADER_LEN + 8 * blocks(payload)].fill(false);
        let from = start + payload_start(payload);
        free[from..from + payload].fill(false);
    }
    free
}

#[test]
fn every_bit_flip_is_noticed_or_hits_what_nobody_reads() {
    let unnoticed = simulated(|sim| async move {
        let platform = sim.node();
        let acked = build(&platform).await;
        sim.crash();
        let image = sim.image();
        let sound = look(&sim.node(), &acked, "nothing flipped").await;
        sim.crash();
        sim.restore(&image);
        let free = unreferenced(
            &open(&sim.node()).await,
            sim.files().into_iter().find(|(file, _)| file == "data").map_or(0, |(_, len)| len),
        )
        .await;
        sim.crash();
        sim.restore(&image);
        let mut unnoticed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (file, len) in sim.files() {
            assert!(len <= 128 << 10, "{file} has {len} bytes");
            for offset in 0..len {
                sim.restore(&image);
                let bit = (offset % 8) as u8;
                sim.fault(DiskFault::RotBit { file: file.clone(), offset, bit });
                let what = format!("bit {bit} of byte {offset} of {file}");
                let platform = sim.node();
                if file == CHECKPOINT {
                    // It is not missed: recovery reads every slot instead, and writes it anew.
                    let disk = platform.open_disk(Path::new("/d")).expect("disk");
                    let bytes = disk.read_file(CHECKPOINT).await.expect("read").expect("checkpoint");
                    assert!(Checkpoint::decode_file(&bytes).is_err(), "{what} passes");
                    drop(disk);
                    assert_eq!(look(&platform, &acked, &what).await, sound, "{what}");
                    sim.crash();
                    continue;
                }
                let seen = look(&platform, &acked, &what).await;
                if seen == sound && !free[offset as usize] {
                    unnoticed.entry(file.clone()).or_default().push(offset);
                }
                sim.crash();
            }
        }
        unnoticed
    });
    for (file, offsets) in &unnoticed {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for offset in offsets {
            match ranges.last_mut() {
                Some((_, end)) if *end == *offset => *end += 1,
                _ => ranges.push((*offset, *offset + 1)),
            }
        }
        println!("{file}: {ranges:?}");
    }
    assert!(unnoticed.is_empty());
}
