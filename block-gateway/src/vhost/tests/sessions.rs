//! Frontends and backends that come and go.

use std::io::Read;
use std::rc::Rc;

use vhost::VhostBackend;

use super::disk::{Did, Disk};
use super::guest::{DATA, Guest, readable, says, takes};
use super::machine::{Machine, socket_path};
use crate::vhost::wire::{kind, status};
use crate::vhost::{Options, Server};

/// Makes a write of one sector available, with memory of its own; `number` is the sector and what is written.
fn offer_write(guest: &mut Guest, number: u64) -> u16 {
    let at = DATA + 0x1000 * number;
    let header = guest.header(at, kind::OUT, number);
    guest.put(at + 0x100, &[number as u8; 512]);
    guest.put(at + 0x800, &[0xee]);
    let head = guest.lay(0, &[header, says(at + 0x100, 512), takes(at + 0x800, 1)]);
    guest.offer(0, head);
    head
}

fn status_of(guest: &Guest, number: u64) -> u8 {
    guest.get(DATA + 0x1000 * number + 0x800, 1)[0]
}

#[test]
fn a_new_backend_carries_out_what_the_dead_one_had_taken() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    disk.hold();
    let heads: Vec<u16> = (1..=3).map(|number| offer_write(&mut guest, number)).collect();
    guest.kick(0);
    disk.wait_for(3);
    disk.let_through(1);
    let (done, _) = guest.answer(0);
    assert_eq!((done, disk.did()), (heads[0], vec![Did::Write(1)]));
    let path = machine.die();
    // What is made available while nobody is there is not forgotten either.
    let late = offer_write(&mut guest, 4);
    assert_eq!(disk.did(), [Did::Write(1)]);

    let machine = Machine::start_at(&disk, path);
    disk.let_through(10);
    guest.reconnect(machine.path());
    let mut answered: Vec<u16> = (0..3).map(|_| guest.answer(0).0).collect();
    answered.sort_unstable();
    assert_eq!(answered, [heads[1], heads[2], late]);
    let mut did = disk.did();
    did.sort_unstable();
    assert_eq!(did, [Did::Write(1), Did::Write(2), Did::Write(3), Did::Write(4)]);
    assert!((1..=4).all(|number| status_of(&guest, number) == status::OK));
    assert_eq!(guest.request(kind::FLUSH, 0, &[], 0).0, status::OK);
    assert_eq!(guest.used_index(0), 5);
    machine.stop();
}

#[test]
fn a_frontend_that_comes_back_finds_its_requests_carried_out() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    disk.hold();
    (1..=2).for_each(|number| _ = offer_write(&mut guest, number));
    guest.kick(0);
    disk.wait_for(2);
    // The old session's requests end unanswered, and only then does the next session begin.
    guest.frontend = vhost::vhost_user::Frontend::from_stream(std::os::unix::net::UnixStream::pair().unwrap().0, 1);
    while guest.channel.as_ref().is_some_and(|channel| !is_closed(channel)) {
        std::thread::yield_now();
    }
    disk.let_through(10);
    guest.reconnect(machine.path());
    (0..2).for_each(|_| _ = guest.answer(0));
    let mut did = disk.did();
    did.sort_unstable();
    assert_eq!(did, [Did::Write(1), Did::Write(1), Did::Write(2), Did::Write(2)]);
    assert_eq!((guest.used_index(0), disk.came()), (2, 4));
    machine.stop();
}

fn is_closed(mut channel: &std::os::unix::net::UnixStream) -> bool {
    readable(channel) && channel.read(&mut [0; 12]).unwrap() == 0
}

#[test]
fn a_ring_stops_when_everything_is_answered() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    disk.hold();
    (1..=2).for_each(|number| _ = offer_write(&mut guest, number));
    guest.kick(0);
    disk.wait_for(2);
    // Not let through before the frontend asks, if the threads run so; the answer is the same.
    disk.let_through(2);
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 2);
    assert_eq!(guest.used_index(0), 2);
    // A guest that was paused goes on.
    guest.start(0, 2);
    disk.let_through(1);
    offer_write(&mut guest, 3);
    guest.kick(0);
    (0..3).for_each(|_| _ = guest.answer(0));
    assert_eq!(status_of(&guest, 3), status::OK);
    machine.stop();
}

#[test]
fn a_server_that_is_stopped_answers_what_is_under_way() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    disk.hold();
    (1..=3).for_each(|number| _ = offer_write(&mut guest, number));
    guest.kick(0);
    disk.wait_for(3);
    disk.let_through(3);
    let path = machine.path().to_owned();
    machine.stop();
    assert_eq!(guest.used_index(0), 3);
    assert!((1..=3).all(|number| status_of(&guest, number) == status::OK));
    assert!(!path.exists());
}

#[test]
fn a_guest_hears_of_another_size() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    let capacity = |guest: &mut Guest| u64::from_le_bytes(guest.config()[..8].try_into().unwrap());
    assert_eq!(capacity(&mut guest), 2048);
    disk.resize(2 << 20);
    let mut channel = guest.channel.take().unwrap();
    assert!(readable(&channel));
    let mut message = [0; 12];
    channel.read_exact(&mut message).unwrap();
    // Request 2, version 1, nothing behind it.
    assert_eq!(message, [2u32, 1, 0].map(u32::to_ne_bytes).concat()[..]);
    assert_eq!(capacity(&mut guest), 4096);
    assert_eq!(guest.request(kind::OUT, 4095, &[7; 512], 0).0, status::OK);
    machine.stop();
}

#[test]
fn a_socket_that_somebody_listens_on_is_refused() {
    let path = socket_path();
    platform::run(|platform| async move {
        let start = || Server::start(&platform, &path, Rc::new(Disk::new(4096)), &Options::new("volume"));
        let first = start().unwrap();
        let error = start().err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("somebody listens"), "{error}");
        first.stop().await.unwrap();
        start().unwrap().stop().await.unwrap();
    });
}
