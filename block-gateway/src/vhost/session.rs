//! What one frontend sets up: features, memory, rings. The messages themselves are the crate `vhost`'s.
//!
//! Requests are not carried out here; the rings only learn where they are and whether they may run.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::inflight::{self, Region};
use super::memory::Memory;
use super::request::Terms;
use super::ring::{Addresses, Ring};
use super::shared::Shared;
use super::wire::{config_space, feature};

/// Regions of memory that can be shared one by one.
const REGIONS_MAX: u64 = 509;

/// The state of a session but for its rings' own.
pub struct Session {
    terms: Arc<Terms>,
    shared: Arc<Shared>,
    epoll: Arc<Epoll>,
    rings: Vec<Arc<Ring>>,
    kicks: Vec<Option<File>>,
    memory: Arc<Memory>,
    inflight: Option<Arc<Region>>,
}

impl Session {
    /// Nothing is agreed on. Kicks of ring `i` are heard on `epoll` as event `i`.
    pub fn new(terms: &Arc<Terms>, shared: &Arc<Shared>, epoll: &Arc<Epoll>, rings: &[Arc<Ring>]) -> Session {
        Session {
            terms: Arc::clone(terms),
            shared: Arc::clone(shared),
            epoll: Arc::clone(epoll),
            rings: rings.to_vec(),
            kicks: rings.iter().map(|_| None).collect(),
            memory: Arc::default(),
            inflight: None,
        }
    }

    /// A ring was kicked.
    pub fn heard(&mut self, index: usize) {
        let Some(Some(kick)) = self.kicks.get_mut(index) else { return };
        match kick.read(&mut [0; 8]) {
            Ok(8) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            ended => {
                tracing::warn!(queue = index, ?ended, "a queue cannot be kicked any more");
                // Listened to on, it would ring for ever. Taking the old one away cannot fail.
                let _ = self.set_kick(index, None);
            }
        }
    }

    fn features(&self) -> u64 {
        let read_only = if self.terms.is_read_only { feature::READ_ONLY } else { 0 };
        let changes = if self.terms.is_read_only { 0 } else { feature::DISCARD | feature::WRITE_ZEROES };
        let queues = if self.rings.len() > 1 { feature::MULTI_QUEUE } else { 0 };
        feature::VERSION_1
            | feature::INDIRECT_DESC
            | feature::EVENT_IDX
            | feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::TOPOLOGY
            | feature::FLUSH
            | read_only
            | changes
            | queues
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn ring(&self, index: u32) -> Result<&Arc<Ring>> {
        self.rings.get(index as usize).ok_or(Error::InvalidParam)
    }

    fn share(&mut self, memory: Memory) {
        self.memory = Arc::new(memory);
        self.rings.iter().for_each(|ring| ring.set_memory(&self.memory));
    }

    /// Listens to another descriptor for kicks, or to none.
    fn set_kick(&mut self, index: usize, kick: Option<File>) -> Result<()> {
        // Somebody else may have heard it before us: two rings with one descriptor, or the frontend itself.
        let kick = event(kick)?;
        // The frontend holds the descriptor too, so that closing it here would not end the events.
        if let Some(old) = self.kicks[index].take() {
            let _ = self.epoll.ctl(ControlOperation::Delete, old.as_raw_fd(), EpollEvent::default());
        }
        if let Some(kick) = kick {
            let event = EpollEvent::new(EventSet::IN, index as u64);
            self.epoll.ctl(ControlOperation::Add, kick.as_raw_fd(), event).map_err(Error::ReqHandlerError)?;
            self.kicks[index] = Some(kick);
        }
        Ok(())
    }
}

/// An event that rings, or is heard, without ever waiting: no frontend may hold up either thread.
///
/// Only what carries events is one. The frontend's own end of the connection would keep a session for ever.
fn event(file: Option<File>) -> Result<Option<File>> {
    let Some(file) = file else { return Ok(None) };
    let kind = file.metadata().map_err(Error::ReqHandlerError)?.file_type();
    if kind.is_socket() || kind.is_file() || kind.is_dir() {
        return Err(Error::InvalidOperation("a descriptor that is no event"));
    }
    // SAFETY: the descriptor is open while `file` lives, and the calls take no pointers.
    let set = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if set < 0 { Err(Error::ReqHandlerError(io::Error::last_os_error())) } else { Ok(Some(file)) }
}

fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.rings.iter().for_each(|ring| ring.set_enabled(false));
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.features())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.features() != 0 {
            return Err(Error::FeatureMismatch);
        }
        for ring in &self.rings {
            ring.set_event_idx(features & feature::EVENT_IDX != 0);
            if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                ring.set_enabled(true);
            }
        }
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mut memory = Memory::default();
        for (region, file) in regions.iter().zip(files) {
            memory = memory.with(region, file)?;
        }
        self.share(memory);
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        if self.memory.count() as u64 >= REGIONS_MAX {
            return Err(Error::InvalidOperation("more memory regions than there are slots for"));
        }
        self.share(self.memory.with(region, file)?);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.share(self.memory.without(region)?);
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        if self.ring(index)?.set_size(num) { Ok(()) } else { Err(Error::InvalidParam) }
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let guest = |address| self.memory.guest_address(address).ok_or(Error::InvalidParam);
        let addresses =
            Addresses { descriptors: guest(descriptors)?, available: guest(available)?, used: guest(used)? };
        self.ring(index)?.set_addresses(addresses);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.set_base(base as u16);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let base = self.ring(index)?.stop();
        self.set_kick(index as usize, None)?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        let ring = Arc::clone(self.ring(index.into())?);
        if kick.is_none() {
            return Err(Error::InvalidOperation("a ring that is not kicked would have to be looked at all the time"));
        }
        self.set_kick(index.into(), kick)?;
        let tracker = match &self.inflight {
            None => None,
            Some(region) => Some(region.tracker(index.into()).ok_or(Error::InvalidParam)?),
        };
        ring.start(tracker);
        self.shared.set_in_use(true);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        self.ring(index.into())?.set_call(event(call)?);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, error: Option<File>) -> Result<()> {
        self.ring(index.into())?.set_error(event(error)?);
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, is_enabled: bool) -> Result<()> {
        self.ring(index)?.set_enabled(is_enabled);
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let config = config_space(self.shared.tell_size(), self.rings.len() as u16);
        // A frontend may know fields that this device does not have.
        let from_offset = config.iter().copied().skip(offset as usize).chain(std::iter::repeat(0));
        Ok(from_offset.take(size as usize).collect())
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation("nothing in the configuration can be set"))
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        inflight::create(asked).map_err(Error::ReqHandlerError)
    }

    fn set_inflight_fd(&mut self, told: &VhostUserInflight, file: File) -> Result<()> {
        self.inflight = Some(Arc::new(Region::map(told, file).map_err(Error::ReqHandlerError)?));
        Ok(())
    }

    fn set_backend_req_fd(&mut self, _backend: Backend) {
        // See `channel`: the crate cannot send what we have to say.
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered()
    }
}
