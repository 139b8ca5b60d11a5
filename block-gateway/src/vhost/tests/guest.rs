//! A guest with its frontend: memory in a file, rings written by hand.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use crate::vhost::inflight::memory_file;
use crate::vhost::wire::feature;

/// Descriptors of a ring.
pub const SIZE: u16 = 16;
/// The guest's memory: one region from zero, one far away.
pub const NEAR_LEN: u64 = 1 << 20;
pub const FAR: u64 = 1 << 30;
pub const FAR_LEN: u64 = 1 << 20;
/// Where the frontend has the memory.
const FRONTEND: u64 = 0x7f00_0000_0000;
/// Where a test's own bytes begin.
pub const DATA: u64 = 0x4_0000;

/// A descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// A piece that the device reads.
pub fn says(address: u64, len: u32) -> Piece {
    Piece { address, len, flags: 0, next: 0 }
}

/// A piece that the device fills.
pub fn takes(address: u64, len: u32) -> Piece {
    Piece { address, len, flags: 2, next: 0 }
}

pub struct Queue {
    index: usize,
    pub kick: EventFd,
    call: EventFd,
    pub error: EventFd,
    /// Entries made available, and answers seen.
    pub available: u16,
    pub seen: u16,
    next_descriptor: u16,
}

pub struct Guest {
    memory: File,
    pub frontend: Frontend,
    pub queues: Vec<Queue>,
    pub features: u64,
    inflight: Option<(VhostUserInflight, File)>,
    pub channel: Option<UnixStream>,
}

/// A frontend that has agreed on everything that it can.
fn connect(path: &Path) -> (Frontend, u64) {
    let mut frontend = Frontend::connect(path, 4).unwrap();
    frontend.set_owner().unwrap();
    let features = frontend.get_features().unwrap();
    frontend.set_features(features).unwrap();
    let protocol = frontend.get_protocol_features().unwrap();
    assert!(protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD | VhostUserProtocolFeatures::CONFIG));
    frontend.set_protocol_features(protocol).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    (frontend, features)
}

impl Guest {
    /// A machine with so many queues and everything that the device offers.
    pub fn new(path: &Path, queues: usize) -> Guest {
        Guest::with(path, queues, u64::MAX)
    }

    /// A machine whose driver knows only some features.
    pub fn with(path: &Path, queues: usize, features: u64) -> Guest {
        let memory = memory_file(c"guest", NEAR_LEN + FAR_LEN).unwrap();
        let (mut frontend, offered) = connect(path);
        let asked = VhostUserInflight::new(0, 0, queues as u16, SIZE);
        let inflight = frontend.get_inflight_fd(&asked).unwrap();
        let queue = |index| Queue {
            index,
            kick: EventFd::new(0).unwrap(),
            call: EventFd::new(0).unwrap(),
            error: EventFd::new(0).unwrap(),
            available: 0,
            seen: 0,
            next_descriptor: 0,
        };
        let queues = (0..queues).map(queue).collect();
        let features = features & offered;
        let mut guest = Guest { memory, frontend, queues, features, inflight: Some(inflight), channel: None };
        guest.share();
        (0..guest.queues.len()).for_each(|index| guest.start(index, 0));
        guest
    }

    /// Finds another backend, as QEMU does when its socket was closed.
    pub fn reconnect(&mut self, path: &Path) {
        self.frontend = connect(path).0;
        self.share();
        for index in 0..self.queues.len() {
            // What QEMU takes for the base if nobody could be asked.
            let used = self.used_index(index);
            self.start(index, used);
        }
    }

    fn share(&mut self) {
        let region = |guest, len, offset| VhostUserMemoryRegionInfo {
            guest_phys_addr: guest,
            memory_size: len,
            userspace_addr: FRONTEND + guest,
            mmap_offset: offset,
            mmap_handle: self.memory.as_raw_fd(),
        };
        self.frontend.set_features(self.features | 1 << 30).unwrap();
        // Not in order: nobody promised that.
        self.frontend.set_mem_table(&[region(FAR, FAR_LEN, NEAR_LEN), region(0, NEAR_LEN, 0)]).unwrap();
        let (told, file) = self.inflight.as_ref().unwrap();
        self.frontend.set_inflight_fd(told, file.as_raw_fd()).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.frontend.set_backend_request_fd(&theirs).unwrap();
        self.channel = Some(ours);
    }

    /// Lets the device use a ring from entry `base` on.
    pub fn start(&mut self, index: usize, base: u16) {
        let queue = &self.queues[index];
        let at = FRONTEND + queue.descriptors();
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: at,
            used_ring_addr: at + 0x2000,
            avail_ring_addr: at + 0x1000,
            log_addr: None,
        };
        self.frontend.set_vring_num(index, SIZE).unwrap();
        self.frontend.set_vring_base(index, base).unwrap();
        self.frontend.set_vring_addr(index, &config).unwrap();
        self.frontend.set_vring_call(index, &queue.call).unwrap();
        self.frontend.set_vring_err(index, &queue.error).unwrap();
        self.frontend.set_vring_kick(index, &queue.kick).unwrap();
        self.frontend.set_vring_enable(index, true).unwrap();
    }

    pub fn config(&mut self) -> Vec<u8> {
        let (_, config) = self.frontend.get_config(0, 72, VhostUserConfigFlags::empty(), &[0; 72]).unwrap();
        config
    }

    fn offset(address: u64) -> u64 {
        if address >= FAR { address - FAR + NEAR_LEN } else { address }
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, Guest::offset(address)).unwrap();
    }

    pub fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, Guest::offset(address)).unwrap();
        bytes
    }

    fn word(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.get(address, 2).try_into().unwrap())
    }

    pub fn used_index(&self, index: usize) -> u16 {
        self.word(self.queues[index].used() + 2)
    }

    /// Stores a descriptor as it is.
    pub fn describe(&self, table: u64, index: u16, piece: Piece) {
        let mut bytes = piece.address.to_le_bytes().to_vec();
        bytes.extend_from_slice(&piece.len.to_le_bytes());
        bytes.extend_from_slice(&piece.flags.to_le_bytes());
        bytes.extend_from_slice(&piece.next.to_le_bytes());
        self.put(table + 16 * u64::from(index), &bytes);
    }

    /// Stores pieces as a chain in a table; returns its head.
    fn chain(&self, table: u64, first: u16, pieces: &[Piece]) -> u16 {
        for (position, piece) in pieces.iter().enumerate() {
            let index = first + position as u16;
            let more = u16::from(position + 1 < pieces.len());
            self.describe(table, index, Piece { flags: piece.flags | more, next: index + 1, ..*piece });
        }
        first
    }

    /// Stores a chain in a ring's own table, which is filled from its beginning to its end and again.
    pub fn lay(&mut self, index: usize, pieces: &[Piece]) -> u16 {
        let count = pieces.len() as u16;
        let queue = &mut self.queues[index];
        if queue.next_descriptor + count > SIZE {
            queue.next_descriptor = 0;
        }
        let first = queue.next_descriptor;
        queue.next_descriptor += count;
        let table = queue.descriptors();
        self.chain(table, first, pieces)
    }

    /// Stores a chain in a table at `table`, and one descriptor that points to it.
    pub fn lay_indirect(&mut self, index: usize, table: u64, pieces: &[Piece]) -> u16 {
        self.chain(table, 0, pieces);
        let whole = Piece { address: table, len: 16 * pieces.len() as u32, flags: 4, next: 0 };
        self.lay(index, &[whole])
    }

    /// Makes a chain available without a kick.
    pub fn offer(&mut self, index: usize, head: u16) {
        let queue = &mut self.queues[index];
        let at = queue.driver();
        let (entry, seen) = (u64::from(queue.available % SIZE), queue.seen);
        queue.available = queue.available.wrapping_add(1);
        let available = queue.available;
        self.put(at + 4 + 2 * entry, &head.to_le_bytes());
        // An interrupt for the next answer.
        self.put(at + 4 + 2 * u64::from(SIZE), &seen.to_le_bytes());
        self.put(at + 2, &available.to_le_bytes());
    }

    /// Kicks if the device wants to be.
    pub fn kick(&self, index: usize) {
        let queue = &self.queues[index];
        let event = self.word(queue.used() + 4 + 8 * u64::from(SIZE));
        let is_wanted = event == queue.available.wrapping_sub(1);
        if self.features & feature::EVENT_IDX == 0 || is_wanted {
            queue.kick.write(1).unwrap();
        }
    }

    pub fn submit(&mut self, index: usize, pieces: &[Piece]) -> u16 {
        let head = self.lay(index, pieces);
        self.offer(index, head);
        self.kick(index);
        head
    }

    /// Waits for the next answer: the head, and the bytes that the device filled.
    pub fn answer(&mut self, index: usize) -> (u16, u32) {
        loop {
            let queue = &self.queues[index];
            if self.used_index(index) != queue.seen {
                break;
            }
            self.put(queue.driver() + 4 + 2 * u64::from(SIZE), &queue.seen.to_le_bytes());
            if self.used_index(index) == queue.seen {
                assert!(rings(&queue.call), "no answer on queue {index}");
            }
        }
        let queue = &mut self.queues[index];
        let entry = u64::from(queue.seen % SIZE);
        queue.seen = queue.seen.wrapping_add(1);
        let element = queue.used() + 4 + 8 * entry;
        let bytes = self.get(element, 8);
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        (number(0) as u16, number(4))
    }

    /// A header at `address`.
    pub fn header(&self, address: u64, kind: u32, sector: u64) -> Piece {
        self.put(address, &kind.to_le_bytes());
        self.put(address + 4, &[0; 4]);
        self.put(address + 8, &sector.to_le_bytes());
        says(address, 16)
    }

    /// One request from its beginning to its end, through queue 0: status, and what the device filled.
    pub fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> (u8, Vec<u8>) {
        let header = self.header(DATA, kind, sector);
        self.put(DATA + 0x100, data);
        self.put(DATA + 0x8000, &vec![0xee; room as usize + 1]);
        let pieces = [header, says(DATA + 0x100, data.len() as u32), takes(DATA + 0x8000, room + 1)];
        let head = self.submit(0, &pieces);
        let (answered, len) = self.answer(0);
        assert_eq!(answered, head);
        let mut filled = self.get(DATA + 0x8000, len as usize);
        let status = self.get(DATA + 0x8000 + u64::from(room), 1)[0];
        filled.truncate(len as usize - 1);
        (status, filled)
    }
}

impl Queue {
    pub fn descriptors(&self) -> u64 {
        0x4000 * self.index as u64 + 0x1_0000
    }

    fn driver(&self) -> u64 {
        self.descriptors() + 0x1000
    }

    fn used(&self) -> u64 {
        self.descriptors() + 0x2000
    }
}

/// Whether an event rings within ten seconds.
pub fn rings(event: &EventFd) -> bool {
    let is_readable = readable(event);
    if is_readable {
        event.read().unwrap();
    }
    is_readable
}

/// Whether something can be read within ten seconds.
pub fn readable(what: &impl AsRawFd) -> bool {
    let mut poll = libc::pollfd { fd: what.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives until the call returns.
    unsafe { libc::poll(&mut poll, 1, 10_000) == 1 }
}
