//! The contracts on the real machine, with both disk engines.
#![allow(clippy::disallowed_methods)]

mod contract;

use std::path::{Path, PathBuf};

use platform::disk::real::{Engine, open};

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("bixi-platform-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn uring_disk_keeps_the_contract() {
    let scratch = Scratch::new("uring");
    platform::run(|platform| async move {
        let disk = open(&platform, scratch.path(), Engine::Uring).unwrap();
        contract::disk::holds(platform, disk).await;
    });
}

#[test]
fn plain_disk_keeps_the_contract() {
    let scratch = Scratch::new("plain");
    platform::run(|platform| async move {
        let disk = open(&platform, scratch.path(), Engine::Plain).unwrap();
        contract::disk::holds(platform, disk).await;
    });
}

#[test]
fn locks_exclude() {
    let scratch = Scratch::new("lock");
    platform::run(|platform| async move {
        let first = platform.open_disk(scratch.path()).unwrap();
        let second = platform.open_disk(scratch.path()).unwrap();
        contract::disk::a_second_lock_is_refused(first, &second);
    });
}

#[test]
fn operations_in_flight_at_the_end_of_a_run_are_waited_for() {
    let scratch = Scratch::new("end");
    for _ in 0..20 {
        platform::run(|platform| {
            let path = scratch.path().to_owned();
            async move {
                let disk = platform.open_disk(&path).unwrap();
                let file = disk.open("file", platform::disk::Open::CreateOrExisting).await.unwrap();
                for index in 0..32u64 {
                    let file = file.clone();
                    drop(platform.tasks().spawn(async move {
                        let bytes = contract::disk::pattern(1, 1 << 20);
                        file.write_at(index << 20, vec![bytes]).await.unwrap();
                    }));
                }
                platform::tasks::yield_now().await;
            }
        });
    }
}

#[test]
fn net_keeps_the_contract() {
    platform::run(|platform| async move {
        contract::net::holds(platform.clone(), platform, "127.0.0.1:0").await;
    });
}

#[test]
fn tasks_keep_the_contract() {
    platform::run(contract::tasks::holds);
}

/// Set in the process that a test starts anew to see it end.
const CHILD: &str = "BIXI_PLATFORM_TEST_CHILD";

/// Runs the named test of this binary in a process of its own.
fn run_as_child(test: &str) -> std::process::ExitStatus {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env(CHILD, "1");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().unwrap()
}

#[test]
fn a_panic_in_a_task_aborts_the_process() {
    if std::env::var_os(CHILD).is_some() {
        platform::run(|platform| async move {
            drop(platform.tasks().spawn(async { panic!("broken invariant") }));
            platform.clock().sleep(std::time::Duration::from_secs(10)).await;
        });
        return;
    }
    let status = run_as_child("a_panic_in_a_task_aborts_the_process");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGABRT));
}

#[test]
fn a_signal_asks_to_stop() {
    if std::env::var_os(CHILD).is_some() {
        platform::run(|platform| async move {
            let clock = platform.clock().clone();
            drop(platform.tasks().spawn(async move {
                clock.sleep(std::time::Duration::from_millis(50)).await;
                // SAFETY: kill touches no memory.
                unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
            }));
            platform::signal::wait_for_stop().await;
        });
        return;
    }
    assert!(run_as_child("a_signal_asks_to_stop").success());
}

#[test]
fn an_accept_loop_survives_a_lack_of_descriptors() {
    if std::env::var_os(CHILD).is_some() {
        platform::run(|platform| async move {
            let listener = platform.net().listen("127.0.0.1:0").await.unwrap();
            let mut clients = Vec::new();
            for _ in 0..8 {
                clients.push(platform.net().connect(&listener.local_addr()).await.unwrap());
            }
            let spare = std::fs::File::open("/dev/null").unwrap();
            let next = std::os::fd::AsRawFd::as_raw_fd(&spare) as u64;
            drop(spare);
            let limit = libc::rlimit { rlim_cur: next, rlim_max: next };
            // SAFETY: limit outlives the call.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
            let clock = platform.clock();
            let wait = std::time::Duration::from_millis(100);
            let mut accept = std::pin::pin!(listener.accept());
            assert!(clock.timeout(wait, accept.as_mut()).await.is_err(), "no descriptor is left");
            clients.truncate(4);
            accept.await.unwrap();
        });
        return;
    }
    assert!(run_as_child("an_accept_loop_survives_a_lack_of_descriptors").success());
}
