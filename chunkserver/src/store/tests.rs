//! Promises of a store, on real and simulated disks.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use platform::Platform;
use platform::fault::DiskFault;
use platform::sim::{DiskImage, SimOptions, Simulation};
use types::ids::{ChunkId, Epoch, PlacementId, RequestId, ShardIndex, StoreId};

use super::config::StoreConfig;
use super::write::Target;
use super::{Store, StoreError};

pub(super) fn config() -> StoreConfig {
    StoreConfig { slot_size: 1 << 20, prewritten_slots: 0, reserve_bytes: 0, ..StoreConfig::default() }
}

pub(super) fn target(placement: u64) -> Target {
    Target { chunk: ChunkId(9), placement: PlacementId(placement), index: ShardIndex(0) }
}

pub(super) async fn open(platform: &Platform) -> Store {
    let disk = platform.open_disk(Path::new("/d")).expect("disk");
    Store::open(platform.clone(), disk, StoreId(77), config()).await.expect("store")
}

pub(super) async fn append(
    platform: &Platform,
    store: &Store,
    placement: u64,
    epoch: u64,
    offset: u64,
    bytes: &[u8],
) -> Result<u64, StoreError> {
    let deadline = platform.clock().now() + Duration::from_secs(1);
    let payload = Bytes::copy_from_slice(bytes);
    let state = store.append(target(placement), Epoch(epoch), offset, payload, RequestId(1), deadline).await?;
    Ok(state.len)
}

pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at as u64).wrapping_mul(31) ^ seed.wrapping_mul(977) ^ (at as u64 >> 8)) as u8).collect()
}

/// Runs a story in a simulation of one node, without faults.
pub(super) fn simulated<T: 'static, F: Future<Output = T> + 'static>(story: impl FnOnce(Simulation2) -> F) -> T {
    let simulation = std::rc::Rc::new(Simulation::new(5, SimOptions::default()));
    simulation.set_faults(false);
    let run = story(Simulation2(std::rc::Rc::clone(&simulation)));
    simulation.run(run, Duration::from_secs(7200)).expect("story ends")
}

pub(super) struct Simulation2(std::rc::Rc<Simulation>);

impl Simulation2 {
    pub(super) fn node(&self) -> Platform {
        self.0.node("n")
    }
    pub(super) fn crash(&self) {
        self.0.crash("n");
    }
    pub(super) fn fault(&self, fault: DiskFault) {
        self.0.disk_fault("n", "/d", fault);
    }
    pub(super) fn image(&self) -> DiskImage {
        self.0.disk_image("n", "/d")
    }
    pub(super) fn restore(&self, image: &DiskImage) {
        self.0.restore_disk("n", "/d", image);
    }
    pub(super) fn files(&self) -> Vec<(String, u64)> {
        self.0.disk_files("n", "/d")
    }
    pub(super) fn rot(&self, offset: u64) {
        self.fault(DiskFault::RotBit { file: "data".into(), offset, bit: 3 });
    }
}

#[test]
fn acked_bytes_survive_a_crash_and_are_read_back() {
    simulated(|sim| async move {
        let platform = sim.node();
        let store = open(&platform).await;
        let mut offset = 0;
        let mut lens = Vec::new();
        for (step, len) in [10usize, 4096, 5000, 300_000, 1 << 20, 1, 900_000, 77_777].into_iter().enumerate() {
            let end = append(&platform, &store, 1, 1, offset, &pattern(step as u64, len)).await.expect("append");
            assert_eq!(end, offset + len as u64);
            lens.push((offset, len));
            offset = end;
        }
        sim.crash();
        let platform = sim.node();
        let store = open(&platform).await;
        for (step, (offset, len)) in lens.iter().enumerate() {
            let bytes = store.read(target(1), *offset, *len).await.expect("read");
            assert_eq!(&bytes[..], &pattern(step as u64, *len)[..], "append {step}");
        }
        // Across records, unaligned.
        let all: Vec<u8> = lens.iter().enumerate().flat_map(|(step, (_, len))| pattern(step as u64, *len)).collect();
        let bytes = store.read(target(1), 4000, 700_000).await.expect("read");
        assert_eq!(&bytes[..], &all[4000..704_000]);
        assert!(matches!(store.read(target(1), offset - 1, 2).await, Err(StoreError::Beyond { .. })));
        // It goes on where it stopped.
        append(&platform, &store, 1, 1, offset, b"more").await.expect("append after restart");
    });
}

#[test]
fn fenced_writer_is_refused_and_the_fence_survives() {
    simulated(|sim| async move {
        let platform = sim.node();
        let store = open(&platform).await;
        append(&platform, &store, 1, 1, 0, b"hello").await.expect("append");
        let state = store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
        assert_eq!((state.len, state.epoch), (5, 2));
        assert!(matches!(append(&platform, &store, 1, 1, 5, b"x").await, Err(StoreError::Fenced { stored: Epoch(2) })));
        assert!(matches!(append(&platform, &store, 1, 3, 5, b"x").await, Err(StoreError::Fenced { .. })));
        // Fencing an absent shard creates it, empty.
        let state = store.fence(target(2), Epoch(2), RequestId(1)).await.expect("fence");
        assert_eq!(state.len, 0);
        sim.crash();
        let platform = sim.node();
        let store = open(&platform).await;
        assert!(matches!(append(&platform, &store, 1, 1, 5, b"x").await, Err(StoreError::Fenced { stored: Epoch(2) })));
        assert!(matches!(append(&platform, &store, 2, 1, 0, b"x").await, Err(StoreError::Fenced { .. })));
        append(&platform, &store, 1, 2, 5, b"x").await.expect("the new epoch writes");
    });
}

#[test]
fn sealed_shard_refuses_append_for_ever() {
    simulated(|sim| async move {
        let platform = sim.node();
        let store = open(&platform).await;
        append(&platform, &store, 1, 1, 0, &pattern(1, 9000)).await.expect("append");
        store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
        store.seal(target(1), Epoch(2), 8000, RequestId(1)).await.expect("seal");
        for _ in 0..2 {
            sim.crash();
            let platform = sim.node();
            let store = open(&platform).await;
            assert!(matches!(append(&platform, &store, 1, 2, 8000, b"x").await, Err(StoreError::Sealed { len: 8000 })));
            assert_eq!(&store.read(target(1), 0, 8000).await.expect("read")[..], &pattern(1, 9000)[..8000]);
        }
    });
}

#[test]
fn deleted_shard_is_gone_after_a_crash_and_its_slots_come_back() {
    simulated(|sim| async move {
        let platform = sim.node();
        let store = open(&platform).await;
        append(&platform, &store, 1, 1, 0, &pattern(1, 9000)).await.expect("append");
        append(&platform, &store, 2, 1, 0, &pattern(2, 9000)).await.expect("append");
        store.checkpoint().await.expect("checkpoint");
        store.delete(&[PlacementId(1)]).await.expect("delete");
        sim.crash();
        let platform = sim.node();
        let store = open(&platform).await;
        assert!(matches!(store.read(target(1), 0, 10).await, Err(StoreError::NoShard)));
        assert_eq!(&store.read(target(2), 0, 9000).await.expect("read")[..], &pattern(2, 9000)[..]);
        append(&platform, &store, 3, 1, 0, &pattern(3, 9000)).await.expect("append in a recycled slot");
        sim.crash();
        let platform = sim.node();
        let store = open(&platform).await;
        assert_eq!(&store.read(target(3), 0, 9000).await.expect("read")[..], &pattern(3, 9000)[..]);
        assert_eq!(store.shard_count(), 2);
    });
}

#[test]
fn exact_retry_succeeds_and_other_bytes_are_refused() {
    simulated(|sim| async move {
        let platform = sim.node();
        let store = open(&platform).await;
        append(&platform, &store, 1, 1, 0, b"hello").await.expect("append");
        append(&platform, &store, 1, 1, 0, b"hello").await.expect("retry");
        assert!(matches!(append(&platform, &store, 1, 1, 0, b"other").await, Err(StoreError::WrongOffset { len: 5 })));
    });
}

#[test]
fn crash_in_the_middle_of_appends_keeps_every_ack() {
    for seed in 0..40 {
        let simulation = std::rc::Rc::new(Simulation::new(seed, SimOptions::default()));
        simulation.set_faults(false);
        let sim = std::rc::Rc::clone(&simulation);
        simulation
            .run(
                async move {
                    let platform = sim.node("n");
                    let store = open(&platform).await;
                    let acked = std::rc::Rc::new(std::cell::Cell::new(0u64));
                    let mut offset = 0;
                    for step in 0..20u64 {
                        let len = 1 + (step * 3677) % 20_000;
                        let (store, platform2, acked) = (store.clone(), platform.clone(), std::rc::Rc::clone(&acked));
                        let at = offset;
                        platform.tasks().spawn(async move {
                            if let Ok(end) = append(&platform2, &store, 1, 1, at, &pattern(at, len as usize)).await {
                                acked.set(acked.get().max(end).max(at + len));
                            }
                        });
                        offset += len;
                    }
                    sim.platform().clock().sleep(Duration::from_micros(50 + seed * 37)).await;
                    sim.crash("n");
                    let platform = sim.node("n");
                    let store = open(&platform).await;
                    let state = store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
                    assert!(state.len >= acked.get(), "seed {seed}: {} < acked {}", state.len, acked.get());
                    let mut at = 0;
                    for step in 0..20u64 {
                        let len = 1 + (step * 3677) % 20_000;
                        if at + len <= state.len {
                            let bytes = store.read(target(1), at, len as usize).await.expect("read");
                            assert_eq!(&bytes[..], &pattern(at, len as usize)[..]);
                        }
                        at += len;
                    }
                },
                Duration::from_secs(60),
            )
            .expect("story ends");
    }
}

#[test]
fn full_store_can_be_fenced_sealed_and_compacted() {
    simulated(|sim| async move {
        let platform = sim.node();
        let disk = platform.open_disk(Path::new("/d")).expect("disk");
        let small = StoreConfig { capacity_bytes: 4 << 20, ..config() };
        let store = Store::open(platform.clone(), disk, StoreId(77), small).await.expect("store");
        // Each takes a slot to its last block; the first slot is a block shorter.
        let mut len = 0;
        for step in [1_040_000, 1_044_000, 1_044_000, 1_044_000] {
            len = append(&platform, &store, 1, 1, len, &pattern(1, step)).await.expect("append");
        }
        assert!(matches!(append(&platform, &store, 1, 1, len, b"more").await, Err(StoreError::Full)));
        assert!(matches!(append(&platform, &store, 2, 1, 0, b"other").await, Err(StoreError::Full)));
        // A refusal for lack of room takes nothing from what was acked.
        let state = store.fence(target(1), Epoch(2), RequestId(1)).await.expect("fence");
        assert_eq!((state.len, state.cut), (len, false));
        store.seal(target(1), Epoch(2), len, RequestId(1)).await.expect("seal");
        let deadline = platform.clock().now() + Duration::from_secs(1);
        let live = store.read(target(1), 7, 1000).await.expect("read");
        store.append_from_reserve(target(3), Epoch(1), 0, live, RequestId(1), deadline).await.expect("compaction");
        store.delete(&[PlacementId(1)]).await.expect("delete");
        store.checkpoint().await.expect("checkpoint");
        append(&platform, &store, 4, 1, 0, &pattern(4, 1_000_000)).await.expect("space is back");
        assert_eq!(&store.read(target(3), 0, 1000).await.expect("read")[..], &pattern(1, 1_040_000)[7..1007]);
    });
}

#[test]
fn reserve_is_not_eaten_between_two_looks_at_the_space() {
    let options = SimOptions { disk_capacity: 20 << 20, ..SimOptions::default() };
    let simulation = Simulation::new(5, options);
    simulation.set_faults(false);
    let platform = simulation.node("n");
    let story = async move {
        let disk = platform.open_disk(Path::new("/d")).expect("disk");
        let reserved = StoreConfig { reserve_bytes: 8 << 20, ..config() };
        let store = Store::open(platform.clone(), disk.clone(), StoreId(77), reserved).await.expect("store");
        let mut refused = 0;
        for placement in 1..=30 {
            refused += u32::from(append(&platform, &store, placement, 1, 0, &pattern(1, 1_000_000)).await.is_err());
        }
        assert!((15..25).contains(&refused), "{refused} of 30");
        let left = disk.space().expect("space").available;
        assert!(left >= 7 << 20, "{left} bytes are left of the reserve");
    };
    simulation.run(story, Duration::from_secs(600)).expect("story ends");
}

#[test]
fn real_disk_gives_back_what_was_appended() {
    let dir = std::env::temp_dir().join(format!("bixi-store-{}", std::process::id()));
    platform::run(|platform| async move {
        let disk = platform.open_disk(&dir).expect("disk");
        let store = Store::open(platform.clone(), disk.clone(), StoreId(1), config()).await.expect("store");
        append(&platform, &store, 1, 1, 0, &pattern(1, 123_456)).await.expect("append");
        drop(store);
        let store = Store::open(platform.clone(), disk, StoreId(1), config()).await.expect("store");
        assert_eq!(&store.read(target(1), 1000, 100_000).await.expect("read")[..], &pattern(1, 123_456)[1000..101_000]);
        #[expect(clippy::disallowed_methods, reason = "a test cleans up behind itself")]
        std::fs::remove_dir_all(&dir).expect("clean up");
    });
}
