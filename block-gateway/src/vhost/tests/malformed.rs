//! What a hostile driver writes: a status that says so, or a queue that stands still, and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserInflight, VhostUserMemoryRegion};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

use super::disk::Disk;
use super::guest::{DATA, FAR, Guest, NEAR_LEN, Piece, SIZE, rings, says, takes};
use super::machine::Machine;
use crate::vhost::chain::{Broken, walk};
use crate::vhost::inflight::memory_file;
use crate::vhost::memory::Memory;
use crate::vhost::request::{Command, Parsed, Terms, parse};
use crate::vhost::ring::Taken;
use crate::vhost::wire::{kind, status};

const STATUS: u64 = DATA + 0x800;

/// Submits a chain that has a place for its status, and returns that.
fn status_of(guest: &mut Guest, pieces: &[Piece]) -> u8 {
    guest.put(STATUS, &[0xee]);
    let head = guest.submit(0, pieces);
    assert_eq!(guest.answer(0), (head, 1));
    guest.get(STATUS, 1)[0]
}

#[test]
fn requests_that_make_no_sense_are_errors() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    let end = takes(STATUS, 1);
    let data = |len| says(DATA + 0x100, len);
    let write = guest.header(DATA, kind::OUT, 2047);
    let read = guest.header(DATA + 0x20, kind::IN, 2047);
    let far = guest.header(DATA + 0x40, kind::IN, u64::MAX / 512);
    let further = guest.header(DATA + 0x60, kind::IN, u64::MAX);
    let first = guest.header(DATA + 0x80, kind::OUT, 0);
    let room = |address, len| takes(address, len);
    let bad: [(&str, Vec<Piece>); 15] = [
        ("write not whole sectors", vec![write, data(511), end]),
        ("write beyond the end", vec![write, data(1024), end]),
        ("read not whole sectors", vec![read, room(DATA + 0x1000, 513), end]),
        ("read beyond the end", vec![read, room(DATA + 0x1000, 1024), end]),
        ("sector that overflows with its length", vec![far, room(DATA + 0x1000, 512), end]),
        ("sector that overflows", vec![further, room(DATA + 0x1000, 512), end]),
        ("no header", vec![end]),
        ("half a header", vec![says(DATA, 15), end]),
        ("header that the device would fill", vec![takes(DATA, 16), end]),
        ("data that the device would fill", vec![first, takes(DATA + 0x1000, 511), end]),
        ("said after filled", vec![first, end, data(512), end]),
        ("header nowhere", vec![says(NEAR_LEN, 16), data(512), end]),
        ("data nowhere", vec![first, says(FAR - 256, 512), end]),
        ("data at the end of all addresses", vec![first, says(u64::MAX - 511, 512), end]),
        ("more than 4 GiB", vec![first, says(0, u32::MAX), says(0, u32::MAX), end]),
    ];
    for (name, pieces) in bad {
        assert_eq!(status_of(&mut guest, &pieces), status::IOERR, "{name}");
    }
    // The device has the bytes, the guest has no room for them.
    let start = guest.header(DATA, kind::IN, 0);
    assert_eq!(status_of(&mut guest, &[start, takes(NEAR_LEN - 256, 512), end]), status::IOERR);
    assert!(disk.did().iter().all(|did| *did == super::disk::Did::Read(0)));
    assert_eq!(guest.request(kind::OUT, 0, &[7; 512], 0).0, status::OK);
    machine.stop();
}

/// The queue stands still, others go on, and it works again when the driver has reset it.
fn breaks(name: &str, spoil: impl FnOnce(&mut Guest)) {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 2);
    spoil(&mut guest);
    assert!(rings(&guest.queues[1].error), "{name}");
    assert_eq!(guest.used_index(1), 0, "{name}");
    assert_eq!(guest.request(kind::OUT, 0, &[7; 512], 0).0, status::OK, "{name}");
    guest.frontend.get_vring_base(1).unwrap();
    guest.put(guest.queues[1].descriptors(), &[0; 0x3000]);
    (guest.queues[1].available, guest.queues[1].seen) = (0, 0);
    let asked = VhostUserInflight::new(0, 0, 2, SIZE);
    let (told, file) = guest.frontend.get_inflight_fd(&asked).unwrap();
    guest.frontend.set_inflight_fd(&told, file.as_raw_fd()).unwrap();
    guest.start(1, 0);
    let header = guest.header(DATA, kind::FLUSH, 0);
    let head = guest.submit(1, &[header, takes(STATUS, 1)]);
    assert_eq!(guest.answer(1), (head, 1), "{name}");
    machine.stop();
}

#[test]
fn chains_without_an_end_stop_their_queue() {
    let next = |index| Piece { flags: 1, next: index, ..says(DATA, 16) };
    let table = |address, len, flags: u16| Piece { address, len, flags: 4 | flags, next: 1 };
    let offer = |guest: &mut Guest, piece: Piece| {
        guest.describe(guest.queues[1].descriptors(), 0, piece);
        guest.offer(1, 0);
        guest.kick(1);
    };
    breaks("circle", |guest| offer(guest, next(0)));
    breaks("next outside the table", |guest| offer(guest, next(SIZE)));
    breaks("no status", |guest| offer(guest, says(DATA, 16)));
    breaks("status without an address", |guest| offer(guest, takes(u64::MAX, 2)));
    breaks("table of half a descriptor", |guest| offer(guest, table(DATA, 24, 0)));
    breaks("table of nothing", |guest| offer(guest, table(DATA, 0, 0)));
    breaks("table with something behind it", |guest| offer(guest, table(DATA, 16, 1)));
    breaks("table nowhere", |guest| offer(guest, table(FAR - 16, 32, 0)));
    breaks("table at the end of all addresses", |guest| offer(guest, table(u64::MAX - 3, 32, 0)));
    breaks("table in a table", |guest| {
        guest.describe(DATA, 0, table(DATA + 0x100, 16, 0));
        offer(guest, table(DATA, 16, 0));
    });
    breaks("circle in a table", |guest| {
        guest.describe(DATA, 0, next(1));
        guest.describe(DATA, 1, next(0));
        offer(guest, table(DATA, 32, 0));
    });
    breaks("a million pieces", |guest| {
        (0..2048).for_each(|index| guest.describe(DATA, index, next(index + 1)));
        offer(guest, table(DATA, 16 << 20, 0));
    });
    breaks("status nowhere", |guest| {
        guest.header(DATA, kind::FLUSH, 0);
        guest.submit(1, &[says(DATA, 16), takes(NEAR_LEN, 1)]);
    });
}

#[test]
fn a_circle_of_nothing_is_not_followed_as_long_as_its_table_is() {
    let file = memory_file(c"guest", 4096).unwrap();
    let memory = Memory::default().with(&VhostUserMemoryRegion::new(0, 4096, 0, 0), file).unwrap();
    let put = |at, address: u64, len: u32, flags: u16| {
        memory.write(at, &[&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &[0; 2]].concat())
    };
    // A table that says it has 2^28 descriptors, the first of which is empty and followed by itself.
    put(0, 1024, !15, 4).unwrap();
    put(1024, 0, 0, 1).unwrap();
    // All of them together take less time than one to the table's end would.
    for _ in 0..1000 {
        assert_eq!(walk(&memory, 0, 16, 0), Err(Broken::Endless));
    }
}

#[test]
fn two_rings_with_one_kick_hold_nobody_up() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 2);
    for round in 0..20 {
        guest.frontend.get_vring_base(1).unwrap();
        guest.frontend.set_vring_kick(1, &guest.queues[0].kick).unwrap();
        assert_eq!(guest.request(kind::OUT, round, &[7; 512], 0).0, status::OK, "{round}");
    }
    machine.stop();
}

#[test]
fn half_a_message_and_answers_that_nobody_reads_hold_the_socket_for_seconds() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let get_features = [1u32, 1, 0].map(u32::to_ne_bytes).concat();
    #[expect(clippy::disallowed_methods, reason = "a frontend by hand")]
    let connect = || {
        let connection = UnixStream::connect(machine.path()).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        connection.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        connection
    };
    let mut half = connect();
    half.write_all(&get_features[..5]).unwrap();
    // Hung up with bytes that nobody has taken.
    assert_eq!(half.read(&mut [0; 12]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    let mut deaf = connect();
    let error = loop {
        if let Err(error) = deaf.write_all(&get_features) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    let mut guest = Guest::new(machine.path(), 1);
    assert_eq!(guest.request(kind::OUT, 0, &[7; 512], 0).0, status::OK);
    drop(guest);
    // Nor does it keep the server from ending.
    let mut half = connect();
    half.write_all(&get_features[..5]).unwrap();
    machine.stop();
}

#[test]
fn memory_behind_the_end_of_its_file_is_refused() {
    let file = memory_file(c"guest", 8192).unwrap();
    let shared = |len, offset| {
        let region = VhostUserMemoryRegion::new(0, len, 0, offset);
        Memory::default().with(&region, file.try_clone().unwrap()).is_ok()
    };
    assert!(shared(8192, 0) && shared(4096, 4096));
    assert!(!shared(12288, 0) && !shared(8192, 4096) && !shared(4096, 8192) && !shared(4096, u64::MAX - 4095));
}

#[test]
fn memory_in_more_pieces_than_there_are_slots_is_refused() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    let piece = memory_file(c"piece", 4096).unwrap();
    let slots = guest.frontend.get_max_mem_slots().unwrap();
    let region = |number: u64| VhostUserMemoryRegionInfo {
        guest_phys_addr: (1 << 40) + 4096 * number,
        memory_size: 4096,
        userspace_addr: (1 << 40) + 4096 * number,
        mmap_offset: 0,
        mmap_handle: piece.as_raw_fd(),
    };
    // Two are there.
    for number in 2..slots {
        guest.frontend.add_mem_region(&region(number)).unwrap();
    }
    assert!(guest.frontend.add_mem_region(&region(slots)).is_err());
    let mut next = Guest::new(machine.path(), 1);
    assert_eq!(next.request(kind::OUT, 0, &[7; 512], 0).0, status::OK);
    machine.stop();
}

#[test]
fn rings_that_make_no_sense_stop() {
    breaks("head that there is not", |guest| {
        guest.offer(1, SIZE);
        guest.kick(1);
    });
    breaks("more than the ring holds", |guest| {
        guest.queues[1].available = SIZE;
        guest.offer(1, 0);
        guest.queues[1].available = 1;
        guest.kick(1);
    });
}

#[test]
fn a_head_is_not_taken_twice() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    disk.hold();
    let header = guest.header(DATA, kind::IN, 0);
    let head = guest.submit(0, &[header, takes(DATA + 0x1000, 512), takes(STATUS, 1)]);
    guest.offer(0, head);
    guest.kick(0);
    assert!(rings(&guest.queues[0].error));
    disk.let_through(1);
    machine.stop();
    assert_eq!(disk.came(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn foreign_descriptors_do_no_harm(table in vec(descriptor(), 32), headers in vec(any::<u8>(), 64), head in 0..20u16) {
        let file = memory_file(c"guest", 8192).unwrap();
        let region = VhostUserMemoryRegion::new(0, 8192, 0, 0);
        let memory = Arc::new(Memory::default().with(&region, file).unwrap());
        for (index, piece) in table.iter().enumerate() {
            let bytes = [
                &piece.address.to_le_bytes()[..],
                &piece.len.to_le_bytes(),
                &piece.flags.to_le_bytes(),
                &piece.next.to_le_bytes(),
            ];
            memory.write(16 * index as u64, &bytes.concat()).unwrap();
        }
        memory.write(4096, &headers).unwrap();
        if let Ok(chain) = walk(&memory, 0, 16, head) {
            let taken = Taken { memory: Arc::clone(&memory), chain };
            let parsed = parse(&taken, &Terms { id: [1; 20], is_read_only: false });
            if let Parsed::Do(Command::Read { len, .. }) = parsed {
                prop_assert_eq!(len, taken.chain.room());
                let _ = taken.chain.scatter(&memory, &vec![7; len as usize]);
            }
        }
    }
}

/// Descriptors that make sense more often than chance would have it.
fn descriptor() -> impl Strategy<Value = Piece> {
    let address = prop_oneof![0..8192u64, Just(4096), Just(256), any::<u64>()];
    let len = prop_oneof![0..1024u32, Just(16), Just(512), Just(1), Just(256), any::<u32>()];
    (address, len, 0..8u16, 0..20u16).prop_map(|(address, len, flags, next)| Piece { address, len, flags, next })
}
