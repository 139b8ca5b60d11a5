//! The contracts on a simulated machine, and what only a simulation can show: crashes, faults, replay.
#![allow(clippy::disallowed_methods)]

mod contract;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use contract::disk::pattern;
use platform::Platform;
use platform::buffer::BLOCK;
use platform::disk::{DiskError, Open};
use platform::fault::DiskFault;
use platform::planted::PlantedBug;
use platform::sim::{SimError, SimOptions, Simulation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DISK: &str = "/disk0";
const MINUTE: Duration = Duration::from_secs(60);

fn calm(seed: u64) -> Simulation {
    Simulation::new(seed, SimOptions::default())
}

#[test]
fn simulated_disk_keeps_the_contract() {
    let simulation = calm(1);
    let node = simulation.node("c1");
    let disk = node.open_disk(Path::new(DISK)).unwrap();
    simulation.run(contract::disk::holds(node, disk), MINUTE).unwrap();
    let node = simulation.node("c1");
    let first = node.open_disk(Path::new(DISK)).unwrap();
    let second = node.open_disk(Path::new(DISK)).unwrap();
    contract::disk::a_second_lock_is_refused(first, &second);
}

#[test]
fn simulated_net_keeps_the_contract() {
    let simulation = calm(2);
    let (server, client) = (simulation.node("m1"), simulation.node("c1"));
    simulation.run(contract::net::holds(server, client, "m1:7000"), MINUTE).unwrap();
}

#[test]
fn simulated_tasks_keep_the_contract() {
    let simulation = calm(3);
    simulation.run(contract::tasks::holds(simulation.node("m1")), MINUTE).unwrap();
    simulation.run(contract::tasks::holds(simulation.platform()), MINUTE).unwrap();
}

#[test]
fn a_crash_keeps_flushed_bytes_and_names_and_drops_tasks() {
    for seed in 0..50 {
        let simulation = calm(seed);
        let driver = simulation.clone();
        let ran_after_crash = Rc::new(Cell::new(false));
        let flag = ran_after_crash.clone();
        simulation
            .run(
                async move {
                    let node = driver.node("c1");
                    let disk = node.open_disk(Path::new(DISK)).unwrap();
                    disk.try_lock().unwrap();
                    let (clock, random) = (node.clock().clone(), driver.platform().random().clone());
                    drop(node.tasks().spawn(async move {
                        let file = disk.open("data", Open::CreateNew).await.unwrap();
                        file.write_at(0, vec![pattern(1, 4 * BLOCK)]).await.unwrap();
                        file.flush().await.unwrap();
                        disk.write_file("state", b"one").await.unwrap();
                        let later = [file.clone(), file];
                        later[0].write_at(4 * BLOCK as u64, vec![pattern(2, 4 * BLOCK)]).await.unwrap();
                        later[1].write_at(0, vec![pattern(1, BLOCK)]).await.unwrap();
                        clock.sleep(Duration::from_millis(20)).await;
                        flag.set(true);
                    }));
                    driver.platform().clock().sleep(Duration::from_millis(10 + random.below(5))).await;
                    driver.crash("c1");
                    assert!(!driver.is_up("c1"));
                    driver.platform().clock().sleep(MINUTE / 2).await;

                    let node = driver.node("c1");
                    let disk = node.open_disk(Path::new(DISK)).unwrap();
                    disk.try_lock().unwrap();
                    assert_eq!(disk.read_file("state").await.unwrap().unwrap(), b"one");
                    let file = disk.open("data", Open::Existing).await.unwrap();
                    let read = file.read_at(0, 8 * BLOCK).await.unwrap();
                    assert!(read.len() == 4 * BLOCK || read.len() == 8 * BLOCK);
                    assert_eq!(&read[..4 * BLOCK], &pattern(1, 4 * BLOCK)[..]);
                },
                MINUTE,
            )
            .unwrap();
        assert!(!ran_after_crash.get());
    }
}

#[test]
fn a_failed_flush_poisons_the_disk_for_writes_and_not_for_reads() {
    let simulation = calm(4);
    let driver = simulation.clone();
    simulation
        .run(
            async move {
                let node = driver.node("c1");
                let disk = node.open_disk(Path::new(DISK)).unwrap();
                let file = disk.open("data", Open::CreateNew).await.unwrap();
                let other = disk.open("other", Open::CreateNew).await.unwrap();
                file.write_at(0, vec![pattern(1, BLOCK)]).await.unwrap();
                driver.disk_fault("c1", DISK, DiskFault::FlushFails);
                assert!(matches!(file.flush().await, Err(DiskError::Io { .. })));
                driver.disk_fault("c1", DISK, DiskFault::Healthy);
                assert!(matches!(file.flush().await, Err(DiskError::Poisoned { .. })));
                let bytes = vec![pattern(1, BLOCK)];
                assert!(matches!(other.write_at(0, bytes).await, Err(DiskError::Poisoned { .. })));
                assert!(matches!(disk.write_file("state", b"x").await, Err(DiskError::Poisoned { .. })));
                assert_eq!(&file.read_at(0, BLOCK).await.unwrap()[..], &pattern(1, BLOCK)[..]);
                // A new process may try again.
                let disk = driver.node("c1").open_disk(Path::new(DISK)).unwrap();
                disk.write_file("state", b"x").await.unwrap();
            },
            MINUTE,
        )
        .unwrap();
}

#[test]
fn disk_faults_do_what_they_say() {
    let simulation = calm(5);
    let driver = simulation.clone();
    simulation
        .run(
            async move {
                let node = driver.node("c1");
                let disk = node.open_disk(Path::new(DISK)).unwrap();
                let file = disk.open("data", Open::CreateNew).await.unwrap();
                file.write_at(0, vec![pattern(1, 2 * BLOCK)]).await.unwrap();
                file.flush().await.unwrap();

                driver.disk_fault("c1", DISK, DiskFault::ReadFails);
                assert!(matches!(file.read_at(0, BLOCK).await, Err(DiskError::Io { .. })));
                driver.disk_fault("c1", DISK, DiskFault::WriteFails);
                assert!(matches!(file.write_at(0, vec![pattern(1, BLOCK)]).await, Err(DiskError::Io { .. })));
                driver.disk_fault("c1", DISK, DiskFault::Healthy);

                driver.disk_fault("c1", DISK, DiskFault::Full);
                let growing = file.write_at(2 * BLOCK as u64, vec![pattern(1, BLOCK)]).await;
                assert!(matches!(growing, Err(DiskError::Full { .. })));
                file.write_at(0, vec![pattern(1, BLOCK)]).await.unwrap();
                assert_eq!(disk.space().unwrap().available, 0);
                disk.remove("data").await.unwrap();
                driver.disk_fault("c1", DISK, DiskFault::Healthy);

                driver.disk_fault("c1", DISK, DiskFault::LoseNextWrite);
                file.write_at(0, vec![pattern(9, BLOCK)]).await.unwrap();
                assert_eq!(&file.read_at(0, BLOCK).await.unwrap()[..], &pattern(1, BLOCK)[..]);

                let start = node.clock().now();
                driver.disk_fault("c1", DISK, DiskFault::SlowBy(1000));
                file.read_at(0, BLOCK).await.unwrap();
                assert!(node.clock().now().saturating_since(start) > Duration::from_millis(30));

                let image = driver.disk_image("c1", DISK);
                disk.write_file("state", b"new").await.unwrap();
                driver.crash("c1");
                driver.restore_disk("c1", DISK, &image);
                let disk = driver.node("c1").open_disk(Path::new(DISK)).unwrap();
                assert_eq!(disk.read_file("state").await.unwrap(), None);
                driver.wipe_disk("c1", DISK);
                assert!(disk.list().await.unwrap().is_empty());
            },
            MINUTE,
        )
        .unwrap();
}

/// Answers each byte with the next one.
async fn serve(node: Platform) {
    let listener = node.net().listen("0.0.0.0:7000").await.unwrap();
    loop {
        let mut stream = listener.accept().await.unwrap();
        drop(node.tasks().spawn(async move {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                if stream.write_all(&[byte[0].wrapping_add(1)]).await.is_err() {
                    break;
                }
            }
        }));
    }
}

fn start_server(simulation: &Simulation) {
    let node = simulation.node("m1");
    drop(node.tasks().spawn(serve(node.clone())));
}

#[test]
fn a_crash_resets_connections_and_refuses_new_ones() {
    let simulation = calm(6);
    start_server(&simulation);
    let driver = simulation.clone();
    simulation
        .run(
            async move {
                let client = driver.node("c1");
                client.clock().sleep(Duration::from_millis(1)).await;
                let mut stream = client.net().connect("m1:7000").await.unwrap();
                stream.write_all(&[41]).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), 42);
                driver.crash("m1");
                assert!(stream.read_u8().await.is_err());
                assert!(stream.write_all(&[1]).await.is_err());
                assert!(client.net().connect("m1:7000").await.is_err());
                start_server(&driver);
                client.clock().sleep(Duration::from_millis(1)).await;
                client.net().connect("m1:7000").await.unwrap();
            },
            MINUTE,
        )
        .unwrap();
}

#[test]
fn a_partition_drops_silently_and_resets_later() {
    for both_ways in [true, false] {
        let simulation = calm(7);
        start_server(&simulation);
        let driver = simulation.clone();
        simulation
            .run(
                async move {
                    let client = driver.node("c1");
                    client.clock().sleep(Duration::from_millis(1)).await;
                    let mut stream = client.net().connect("m1:7000").await.unwrap();
                    // Without both_ways the question arrives and the answer does not.
                    driver.partition("m1", "c1", both_ways);
                    stream.write_all(&[1]).await.unwrap();
                    let mut byte = [0];
                    let half_a_second = Duration::from_millis(500);
                    assert!(client.clock().timeout(half_a_second, stream.read_exact(&mut byte)).await.is_err());
                    assert!(client.net().connect("m1:7000").await.is_err());
                    driver.heal_all();
                    assert!(stream.read_exact(&mut byte).await.is_err(), "the connection has lost data");
                    let mut stream = client.net().connect("m1:7000").await.unwrap();
                    stream.write_all(&[1]).await.unwrap();
                    assert_eq!(stream.read_u8().await.unwrap(), 2);
                },
                MINUTE,
            )
            .unwrap();
    }
}

#[test]
fn a_paused_process_stands_still_while_time_goes_on() {
    let simulation = calm(8);
    let driver = simulation.clone();
    simulation
        .run(
            async move {
                let node = driver.node("c1");
                let ticks = Rc::new(Cell::new(0));
                let (counted, clock) = (ticks.clone(), node.clock().clone());
                drop(node.tasks().spawn(async move {
                    loop {
                        clock.sleep(Duration::from_millis(10)).await;
                        counted.set(counted.get() + 1);
                    }
                }));
                let clock = driver.platform().clock().clone();
                clock.sleep(Duration::from_secs(1)).await;
                assert!((90..=100).contains(&ticks.get()));
                driver.pause("c1");
                clock.sleep(Duration::from_secs(1)).await;
                let paused = ticks.get();
                clock.sleep(Duration::from_secs(1)).await;
                assert_eq!(ticks.get(), paused);
                driver.resume("c1");
                clock.sleep(Duration::from_secs(1)).await;
                assert!(ticks.get() >= paused + 90);
                driver.set_wall_clock_offset_ms("c1", -3_600_000);
                let skew = clock.unix_ms() - node.clock().unix_ms();
                assert_eq!(skew, 3_600_000);
            },
            MINUTE,
        )
        .unwrap();
}

#[test]
fn runs_that_cannot_end_say_why() {
    let simulation = calm(9);
    assert!(matches!(simulation.run(std::future::pending::<()>(), MINUTE), Err(SimError::Deadlock { .. })));
    let clock = simulation.platform().clock().clone();
    let long = async move { clock.sleep(2 * MINUTE).await };
    assert!(matches!(simulation.run(long, MINUTE), Err(SimError::Limit { .. })));
    let node = simulation.node("m1");
    let clock = simulation.platform().clock().clone();
    let result = simulation.run(
        async move {
            drop(node.tasks().spawn(async { panic!("broken invariant") }));
            clock.sleep(MINUTE / 2).await;
        },
        MINUTE,
    );
    let Err(SimError::Panicked { node, message, .. }) = result else { panic!("{result:?}") };
    assert_eq!((node.as_str(), message.as_str()), ("m1", "broken invariant"));
}

#[test]
fn bugs_are_planted_on_request_only() {
    assert!(!calm(1).node("m1").planted(PlantedBug::AckBeforeFlush));
    let options = SimOptions { planted: vec![PlantedBug::AckBeforeFlush], ..SimOptions::default() };
    let simulation = Simulation::new(1, options);
    assert!(simulation.node("m1").planted(PlantedBug::AckBeforeFlush));
    assert!(!simulation.node("m1").planted(PlantedBug::SealWithoutFence));
    assert!(!platform::run(|platform| async move { platform.planted(PlantedBug::AckBeforeFlush) }));
}

/// A little cluster under faults: clients ask servers, which write and flush before they answer.
fn busy_cluster(seed: u64, seconds: u64) -> (u64, u64, u64) {
    let options = SimOptions { damage: 0.001, read_fails: 0.001, write_fails: 0.001, ..SimOptions::rough() };
    let simulation = Simulation::new(seed, options);
    let answered = Rc::new(Cell::new(0u64));
    for server in 0..5 {
        start_writer(&simulation, &format!("m{server}"));
    }
    for client in 0..5u64 {
        let node = simulation.node(&format!("c{client}"));
        let answered = answered.clone();
        drop(node.tasks().spawn(ask_forever(node.clone(), answered)));
    }
    let driver = simulation.clone();
    let chaos = async move {
        let platform = driver.platform();
        for _ in 0..seconds {
            platform.clock().sleep(Duration::from_secs(1)).await;
            let victim = format!("m{}", platform.random().below(5));
            match platform.random().below(4) {
                0 => {
                    driver.crash(&victim);
                    platform.clock().sleep(Duration::from_millis(100)).await;
                    start_writer(&driver, &victim);
                }
                1 => driver.partition(&victim, "c1", false),
                2 => driver.heal_all(),
                _ => {}
            }
        }
    };
    simulation.run(chaos, Duration::from_secs(seconds * 3)).unwrap();
    (simulation.trace_hash(), simulation.steps(), answered.get())
}

fn start_writer(simulation: &Simulation, name: &str) {
    let node = simulation.node(name);
    let server = async move |node: Platform| {
        let disk = node.open_disk(Path::new(DISK)).unwrap();
        let Ok(file) = disk.open("log", Open::CreateOrExisting).await else { return };
        let listener = node.net().listen("0.0.0.0:7000").await.unwrap();
        let end = Rc::new(Cell::new(0u64));
        loop {
            let mut stream = listener.accept().await.unwrap();
            let (file, end) = (file.clone(), end.clone());
            drop(node.tasks().spawn(async move {
                let mut request = [0u8; 64];
                while stream.read_exact(&mut request).await.is_ok() {
                    let at = end.get() % (1 << 24);
                    end.set(at + BLOCK as u64);
                    let page = pattern(request[0], BLOCK);
                    if file.write_at(at, vec![page]).await.is_err() || file.flush().await.is_err() {
                        break;
                    }
                    if stream.write_all(&request).await.is_err() {
                        break;
                    }
                }
            }));
        }
    };
    drop(node.tasks().spawn(server(node.clone())));
}

async fn ask_forever(node: Platform, answered: Rc<Cell<u64>>) {
    let clock = node.clock();
    loop {
        clock.sleep(Duration::from_millis(5)).await;
        let target = format!("m{}:7000", node.random().below(5));
        let Ok(Ok(mut stream)) = clock.timeout(Duration::from_secs(1), node.net().connect(&target)).await else {
            continue;
        };
        for _ in 0..100 {
            let mut request = [0u8; 64];
            node.random().fill(&mut request);
            let exchange = async {
                stream.write_all(&request).await?;
                stream.read_exact(&mut request).await
            };
            if !matches!(clock.timeout(Duration::from_millis(200), exchange).await, Ok(Ok(_))) {
                break;
            }
            answered.set(answered.get() + 1);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let first = busy_cluster(1, 10);
    assert_eq!(first, busy_cluster(1, 10));
    assert_ne!(first.0, busy_cluster(2, 10).0);
    assert!(first.2 > 1000, "{first:?}");
}

#[test]
fn a_minute_of_a_busy_cluster_is_simulated_quickly() {
    let start = std::time::Instant::now();
    let (_, steps, answered) = busy_cluster(3, 60);
    let took = start.elapsed();
    println!("60 s of 10 processes: {took:?}, {steps} polls, {answered} flushed answers");
}

#[test]
fn nothing_of_a_simulation_outlives_it() {
    let held = Rc::new(RefCell::new(()));
    {
        let simulation = calm(10);
        start_server(&simulation);
        for name in ["m2", "m3"] {
            let (node, held, handle) = (simulation.node(name), held.clone(), simulation.clone());
            drop(node.tasks().spawn(async move {
                let node = handle.platform();
                let _stream = node.net().connect("m1:7000").await;
                let _held = held;
                std::future::pending::<()>().await;
            }));
        }
        let clock = simulation.platform().clock().clone();
        simulation.run(async move { clock.sleep(MINUTE).await }, 2 * MINUTE).unwrap();
        assert_eq!(Rc::strong_count(&held), 3);
    }
    assert_eq!(Rc::strong_count(&held), 1);
}
