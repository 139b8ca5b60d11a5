//! Every command, by every kind of chain.

use super::disk::{Did, Disk};
use super::guest::{DATA, FAR, Guest, says, takes};
use super::machine::Machine;
use crate::vhost::wire::{config_space, feature, kind, status};

#[test]
fn what_is_written_is_read_and_flushed() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    for features in [u64::MAX, !feature::EVENT_IDX] {
        let mut guest = Guest::with(machine.path(), 1, features);
        for round in 0..40u64 {
            let data: Vec<u8> = (0..4096u64).map(|at| (at * 7 + round) as u8).collect();
            assert_eq!(guest.request(kind::OUT, round * 8 + 1, &data, 0), (status::OK, vec![]));
            assert_eq!(guest.request(kind::IN, round * 8 + 1, &[], 4096), (status::OK, data.clone()));
            assert_eq!(disk.bytes((round as usize * 8 + 1) * 512, 4096), data);
        }
        assert_eq!(guest.request(kind::FLUSH, 0, &[], 0), (status::OK, vec![]));
        assert_eq!(disk.did().last(), Some(&Did::Flush));
    }
    machine.stop();
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    let range = |sector: u64, count: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    guest.request(kind::OUT, 0, &[9; 8192], 0);
    let two = [range(1, 2, 0), range(10, 3, 0)].concat();
    assert_eq!(guest.request(kind::DISCARD, 0, &two, 0).0, status::OK);
    assert_eq!(guest.request(kind::WRITE_ZEROES, 0, &range(5, 1, 0), 0).0, status::OK);
    assert_eq!(guest.request(kind::WRITE_ZEROES, 0, &range(6, 1, 1), 0).0, status::OK);
    let clears = [Did::Clear(1, 2), Did::Clear(10, 3), Did::Clear(5, 1), Did::Clear(6, 1)];
    assert_eq!(disk.did()[1..], clears);
    let zeroes: Vec<usize> = (0..16).filter(|sector| disk.bytes(sector * 512, 512) == [0; 512]).collect();
    assert_eq!(zeroes, [1, 2, 5, 6, 10, 11, 12]);
    // A discard has no flags, and neither has others.
    assert_eq!(guest.request(kind::DISCARD, 0, &range(1, 1, 1), 0).0, status::UNSUPP);
    assert_eq!(guest.request(kind::WRITE_ZEROES, 0, &range(1, 1, 2), 0).0, status::UNSUPP);
    for bad in [range(2048, 1, 0), range(2047, 2, 0), range(u64::MAX, 1, 0), range(0, u32::MAX, 0), vec![0; 15], vec![]]
    {
        assert_eq!(guest.request(kind::DISCARD, 0, &bad, 0).0, status::IOERR, "{bad:?}");
    }
    assert_eq!(guest.request(kind::DISCARD, 0, &range(0, 1, 0).repeat(17), 0).0, status::IOERR);
    assert_eq!(disk.did().len(), 5);
    machine.stop();
}

#[test]
fn the_device_says_who_it_is_and_how_large() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    assert_eq!(guest.request(kind::GET_ID, 0, &[], 20), (status::OK, b"volume\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()));
    assert_eq!(guest.request(kind::GET_ID, 0, &[], 3), (status::OK, b"vol".to_vec()));
    assert_eq!(guest.request(99, 0, &[], 0).0, status::UNSUPP);
    assert_eq!(guest.config(), [&config_space(1 << 20, 4)[..], &[0; 12]].concat());
    let offered = [feature::FLUSH, feature::DISCARD, feature::WRITE_ZEROES, feature::MULTI_QUEUE, feature::VERSION_1];
    assert!(offered.iter().all(|feature| guest.features & feature != 0));
    assert_eq!(guest.features & feature::READ_ONLY, 0);
    machine.stop();
}

#[test]
fn a_read_only_device_takes_no_changes() {
    let disk = Disk::new(1 << 20);
    disk.set_read_only();
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    assert_ne!(guest.features & feature::READ_ONLY, 0);
    assert_eq!(guest.features & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    assert_eq!(guest.request(kind::OUT, 0, &[1; 512], 0).0, status::IOERR);
    assert_eq!(guest.request(kind::DISCARD, 0, &[0; 16], 0).0, status::IOERR);
    assert_eq!(guest.request(kind::WRITE_ZEROES, 0, &[0; 16], 0).0, status::IOERR);
    assert_eq!(guest.request(kind::IN, 0, &[], 512), (status::OK, vec![0; 512]));
    assert_eq!(disk.did(), [Did::Read(0)]);
    machine.stop();
}

#[test]
fn a_fault_of_the_device_is_told() {
    let disk = Disk::new(1 << 20);
    disk.set_failing();
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    assert_eq!(guest.request(kind::OUT, 0, &[1; 512], 0).0, status::IOERR);
    assert_eq!(guest.request(kind::IN, 0, &[], 512), (status::IOERR, vec![]));
    machine.stop();
}

#[test]
fn a_chain_may_be_cut_anywhere() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 1);
    // Header in three pieces, the last with data behind it; data across both regions of memory; empty pieces.
    let data: Vec<u8> = (0..1024u32).map(|at| at as u8 ^ 0x5a).collect();
    guest.header(DATA, kind::OUT, 4);
    guest.put(DATA + 16, &data[..100]);
    guest.put(FAR, &data[100..]);
    let write = [
        says(DATA, 3),
        says(DATA + 3, 9),
        says(DATA, 0),
        says(DATA + 12, 104),
        says(FAR, 924),
        takes(DATA + 0x1000, 1),
    ];
    let head = guest.lay_indirect(0, DATA + 0x2000, &write);
    guest.offer(0, head);
    guest.kick(0);
    assert_eq!(guest.answer(0), (head, 1));
    assert_eq!((guest.get(DATA + 0x1000, 1), disk.bytes(2048, 1024)), (vec![status::OK], data.clone()));
    // Read into pieces; the status shares the last one.
    let header = guest.header(DATA, kind::IN, 4);
    let read = [header, takes(FAR + 0x100, 1000), takes(DATA + 0x1000, 25)];
    let head = guest.submit(0, &read);
    assert_eq!(guest.answer(0), (head, 1025));
    assert_eq!(guest.get(FAR + 0x100, 1000), data[..1000]);
    assert_eq!(guest.get(DATA + 0x1000, 24), data[1000..]);
    assert_eq!(guest.get(DATA + 0x1018, 1), [status::OK]);
    machine.stop();
}

#[test]
fn queues_do_not_wait_for_each_other() {
    let disk = Disk::new(1 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 4);
    disk.hold();
    // Four writes in one queue, then one in each other queue: nothing is done, all have come.
    for (number, queue) in [0, 0, 0, 0, 1, 2, 3].into_iter().enumerate() {
        let at = DATA + 0x1000 * number as u64;
        let header = guest.header(at, kind::OUT, number as u64);
        guest.put(at + 0x100, &[number as u8 + 1; 512]);
        guest.submit(queue, &[header, says(at + 0x100, 512), takes(at + 0x800, 1)]);
    }
    // A flush waits for nobody: what was answered is durable.
    let at = DATA + 0x8000;
    let header = guest.header(at, kind::FLUSH, 0);
    let flush = guest.submit(1, &[header, takes(at + 0x800, 1)]);
    assert_eq!(guest.answer(1), (flush, 1));
    disk.wait_for(7);
    assert_eq!(disk.did(), [Did::Flush]);
    disk.let_through(7);
    for queue in [0, 0, 0, 0, 1, 2, 3] {
        guest.answer(queue);
    }
    for number in 0..7 {
        assert_eq!(disk.bytes(number * 512, 512), [number as u8 + 1; 512]);
        assert_eq!(guest.get(DATA + 0x1000 * number as u64 + 0x800, 1), [status::OK]);
    }
    machine.stop();
}

#[test]
fn bytes_under_way_are_bounded() {
    let disk = Disk::new(64 << 20);
    let machine = Machine::start(&disk);
    let mut guest = Guest::new(machine.path(), 2);
    disk.hold();
    // 30 MiB each, all into the same memory.
    let pieces = |header| {
        let mut pieces = vec![header];
        pieces.extend((0..120).map(|_| takes(FAR, 256 << 10)));
        pieces.push(takes(DATA + 0x800, 1));
        pieces
    };
    let header = guest.header(DATA, kind::IN, 0);
    for number in 0..5 {
        let head = guest.lay_indirect(0, DATA + 0x1000 * (number + 1), &pieces(header));
        guest.offer(0, head);
        guest.kick(0);
    }
    disk.wait_for(3);
    // The thread that takes requests has looked at everything when it answers this.
    guest.config();
    assert_eq!(disk.came(), 3);
    disk.let_through(5);
    (0..5).for_each(|_| _ = guest.answer(0));
    assert_eq!(guest.get(DATA + 0x800, 1), [status::OK]);
    machine.stop();
}
