//! The guest's memory, as the frontend shares it. Every access names guest addresses and is checked against
//! the shared regions; all bytes may change under our hands at any time, so nothing is read twice.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost::vhost_user::Error;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Where a region lies in the frontend's own address space.
#[derive(Clone, Copy)]
struct Mapping {
    frontend: u64,
    guest: u64,
    len: u64,
}

/// The regions that are shared at one time.
#[derive(Clone, Default)]
pub struct Memory {
    regions: GuestMemoryMmap<()>,
    mappings: Vec<Mapping>,
}

/// An address that the guest does not have, or must not be accessed so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{len} bytes at guest address {address:#x} are not shared memory")]
pub struct NotShared {
    address: u64,
    len: usize,
}

impl NotShared {
    /// So many bytes behind the end of a request.
    pub fn beyond(len: u64) -> NotShared {
        NotShared { address: 0, len: len as usize }
    }
}

/// Checks that a file has so many bytes from `offset` on. Touching a mapping behind its file's end kills.
///
/// # Errors
/// `InvalidInput`: it has less. Its length cannot be asked.
pub fn holds(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let metadata = file.metadata()?;
    let have = metadata.len();
    // Memory that is a device has no length.
    if metadata.is_file() && offset.checked_add(len).is_none_or(|end| end > have) {
        let text = format!("{len} bytes at {offset} of a file of {have}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

impl Memory {
    /// How many regions there are.
    pub fn count(&self) -> usize {
        self.mappings.len()
    }

    /// With one region more.
    ///
    /// # Errors
    /// It overlaps another, or the file is shorter than it.
    pub fn with(&self, region: &VhostUserMemoryRegion, file: File) -> Result<Memory, Error> {
        let refused = |text: String| Error::ReqHandlerError(io::Error::new(io::ErrorKind::InvalidInput, text));
        let (guest, len, frontend) = (region.guest_phys_addr, region.memory_size, region.user_addr);
        holds(&file, region.mmap_offset, len).map_err(Error::ReqHandlerError)?;
        let mapped = GuestRegionMmap::new(region.mmap_region(file)?, GuestAddress(guest))
            .ok_or_else(|| refused(format!("a region of {len} bytes at {guest:#x} has no end")))?;
        let regions = self.regions.insert_region(Arc::new(mapped)).map_err(|error| refused(error.to_string()))?;
        let mut mappings = self.mappings.clone();
        mappings.push(Mapping { frontend, guest, len });
        Ok(Memory { regions, mappings })
    }

    /// With one region less.
    ///
    /// # Errors
    /// There is none such.
    pub fn without(&self, region: &VhostUserMemoryRegion) -> Result<Memory, Error> {
        let (guest, len) = (region.guest_phys_addr, region.memory_size);
        let (regions, _) = self.regions.remove_region(GuestAddress(guest), len).map_err(|_| Error::InvalidParam)?;
        let mappings = self.mappings.iter().copied().filter(|mapping| mapping.guest != guest).collect();
        Ok(Memory { regions, mappings })
    }

    /// The guest address of an address of the frontend's.
    pub fn guest_address(&self, frontend: u64) -> Option<u64> {
        self.mappings.iter().find_map(|mapping| {
            let offset = frontend.checked_sub(mapping.frontend)?;
            (offset < mapping.len).then(|| mapping.guest + offset)
        })
    }

    /// Fills `out`.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), NotShared> {
        let len = out.len();
        self.regions.read_slice(out, GuestAddress(address)).map_err(|_| NotShared { address, len })
    }

    /// Stores `data`. An error may leave a part of it stored.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), NotShared> {
        let len = data.len();
        self.regions.write_slice(data, GuestAddress(address)).map_err(|_| NotShared { address, len })
    }

    /// One little-endian number, read at once.
    pub fn load(&self, address: u64, order: Ordering) -> Result<u16, NotShared> {
        let loaded = self.regions.load::<u16>(GuestAddress(address), order);
        loaded.map(u16::from_le).map_err(|_| NotShared { address, len: 2 })
    }

    /// One little-endian number, stored at once.
    pub fn store(&self, address: u64, value: u16, order: Ordering) -> Result<(), NotShared> {
        let stored = self.regions.store(value.to_le(), GuestAddress(address), order);
        stored.map_err(|_| NotShared { address, len: 2 })
    }
}
