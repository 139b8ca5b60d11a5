//! One io_uring of a thread, driven by the thread's own runtime.
//!
//! Operations pushed during one turn of the scheduler are handed to the kernel by one system call: the first
//! push wakes the driver task, which runs after the tasks that were ready before it. Completions are noticed
//! by epoll on the ring's descriptor. COOP_TASKRUN saves interrupts; SQPOLL would burn a core and
//! DEFER_TASKRUN measured no gain.
//!
//! Invariant: the ring's slots own file and memory of each operation until the kernel has answered, so that a
//! dropped future frees nothing the kernel still uses. The last handle waits for what is in flight.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use io_uring::{IoUring, opcode, squeue, types};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::buffer::Buffer;
use crate::disk::real::Durability;

/// Entries of the submission queue: operations a turn hands over by one system call.
const SUBMISSIONS: u32 = 256;
/// Operations in flight; more wait in a queue of ours. Equal to the completion queue, which so never overflows.
const IN_FLIGHT_MAX: u32 = 2048;

/// Threads of the kernel for operations that cannot begin at once. It would have four for each core,
/// and all of them wait when one disk answers nothing: then no other disk is served either.
const WORKERS_MAX: u32 = 256;

/// A handle on the thread's ring.
pub(crate) struct Ring {
    state: RefCell<State>,
}

struct State {
    uring: IoUring,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Built, but not yet in the submission queue.
    backlog: VecDeque<squeue::Entry>,
    /// In the submission queue or with the kernel.
    in_flight: u32,
    driver: Option<Waker>,
    driver_woken: bool,
}

/// What an operation must keep alive.
struct Keep {
    file: Arc<File>,
    memory: Memory,
}

/// The memory of an operation, given back with its result.
pub(crate) enum Memory {
    None,
    Read(Buffer),
    /// The vectors point into the parts.
    Write {
        parts: Vec<Bytes>,
        _vectors: Vec<libc::iovec>,
    },
}

enum Slot {
    Free,
    Waiting {
        waker: Option<Waker>,
        keep: Keep,
    },
    /// Nobody waits any more.
    Orphan {
        _keep: Keep,
    },
    Done {
        result: i32,
        memory: Memory,
    },
}

/// One operation: resolves to what the kernel answered and the memory.
pub(crate) struct Operation {
    ring: Rc<Ring>,
    slot: usize,
}

impl Ring {
    /// Makes a ring and starts its driver on this thread's runtime; `None` if the kernel refuses.
    pub(crate) fn start() -> Option<Rc<Ring>> {
        let built = IoUring::builder()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(IN_FLIGHT_MAX)
            .dontfork()
            .build(SUBMISSIONS)
            // Kernels before 5.19 know neither flag.
            .or_else(|_| IoUring::builder().setup_cqsize(IN_FLIGHT_MAX).dontfork().build(SUBMISSIONS));
        let uring = match built {
            Ok(uring) => uring,
            Err(refusal) => {
                tracing::info!("io_uring is not available, using plain files: {refusal}");
                return None;
            }
        };
        // Kernels before 5.15 do not know it. The second number, of threads for sockets, stays.
        if let Err(refusal) = uring.submitter().register_iowq_max_workers(&mut [WORKERS_MAX, 0]) {
            tracing::info!("one disk that hangs may hold up the others: {refusal}");
        }
        let descriptor = Descriptor(uring.as_raw_fd());
        // SAFETY: the driver drops the watch before its handle on the ring, which owns the descriptor.
        let watch = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.ok()?;
        let state = State {
            uring,
            slots: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            driver: None,
            driver_woken: false,
        };
        let ring = Rc::new(Ring { state: RefCell::new(state) });
        tokio::task::spawn_local(Driver { watch, ring: ring.clone() });
        Some(ring)
    }

    /// Reads into `buffer` from its byte `skip` on.
    pub(crate) fn read(self: &Rc<Ring>, file: &Arc<File>, offset: u64, mut buffer: Buffer, skip: usize) -> Operation {
        let target = &mut buffer[skip..];
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), target.as_mut_ptr(), target.len() as u32)
            .offset(offset + skip as u64)
            .build();
        self.push(entry, Keep { file: file.clone(), memory: Memory::Read(buffer) })
    }

    /// Writes `parts` without their first `skip` bytes; `offset` is where the first of `parts` belongs.
    pub(crate) fn write(
        self: &Rc<Ring>,
        file: &Arc<File>,
        offset: u64,
        parts: Vec<Bytes>,
        skip: usize,
        durability: Durability,
    ) -> Operation {
        let vectors = vectors_of(&parts, skip);
        let descriptor = types::Fd(file.as_raw_fd());
        let offset = offset + skip as u64;
        let entry = match vectors.as_slice() {
            [one] => opcode::Write::new(descriptor, one.iov_base.cast(), one.iov_len as u32)
                .offset(offset)
                .rw_flags(durability.flags())
                .build(),
            many => opcode::Writev::new(descriptor, many.as_ptr(), many.len() as u32)
                .offset(offset)
                .rw_flags(durability.flags())
                .build(),
        };
        self.push(entry, Keep { file: file.clone(), memory: Memory::Write { parts, _vectors: vectors } })
    }

    /// fdatasync.
    pub(crate) fn flush(self: &Rc<Ring>, file: &Arc<File>) -> Operation {
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build();
        self.push(entry, Keep { file: file.clone(), memory: Memory::None })
    }

    fn push(self: &Rc<Ring>, entry: squeue::Entry, keep: Keep) -> Operation {
        let mut state = self.state.borrow_mut();
        let slot = state.free.pop().unwrap_or_else(|| {
            state.slots.push(Slot::Free);
            state.slots.len() - 1
        });
        state.slots[slot] = Slot::Waiting { waker: None, keep };
        state.backlog.push_back(entry.user_data(slot as u64));
        if !state.driver_woken {
            state.driver_woken = true;
            if let Some(driver) = &state.driver {
                driver.wake_by_ref();
            }
        }
        drop(state);
        Operation { ring: self.clone(), slot }
    }
}

impl State {
    /// Hands the backlog to the kernel; false if something had to stay behind for want of room.
    fn submit(&mut self) -> bool {
        loop {
            while self.in_flight < IN_FLIGHT_MAX {
                let Some(entry) = self.backlog.pop_front() else { break };
                // SAFETY: the slot named by the entry keeps file and memory until the completion is seen.
                if unsafe { self.uring.submission().push(&entry) }.is_err() {
                    self.backlog.push_front(entry);
                    break;
                }
                self.in_flight += 1;
            }
            if self.uring.submission().is_empty() {
                return self.backlog.is_empty() || self.in_flight >= IN_FLIGHT_MAX;
            }
            match self.uring.submit() {
                Ok(_) => {}
                Err(failure) if failure.raw_os_error() == Some(libc::EINTR) => {}
                Err(failure) if matches!(failure.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => return false,
                Err(failure) => panic!("the kernel refuses our submissions: {failure}"),
            }
        }
    }

    /// Takes the completions and wakes their owners; whether there were any.
    fn reap(&mut self) -> bool {
        let mut any = false;
        let State { uring, slots, free, in_flight, .. } = self;
        for completion in uring.completion() {
            any = true;
            *in_flight -= 1;
            let index = completion.user_data() as usize;
            match std::mem::replace(&mut slots[index], Slot::Free) {
                Slot::Waiting { waker, keep } => {
                    drop(keep.file);
                    slots[index] = Slot::Done { result: completion.result(), memory: keep.memory };
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Slot::Orphan { .. } => free.push(index),
                Slot::Free | Slot::Done { .. } => panic!("a completion for an operation that is not in flight"),
            }
        }
        any
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        loop {
            state.submit();
            state.reap();
            if state.in_flight == 0 && state.backlog.is_empty() {
                return;
            }
            if let Err(failure) = state.uring.submit_and_wait(1)
                && !matches!(failure.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
            {
                // Freeing what the kernel may still write to is worse than leaking it.
                std::mem::forget(std::mem::take(&mut state.slots));
                return;
            }
        }
    }
}

impl Future for Operation {
    type Output = (io::Result<usize>, Memory);
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.ring.state.borrow_mut();
        match std::mem::replace(&mut state.slots[self.slot], Slot::Free) {
            Slot::Done { result, memory } => {
                let result = match usize::try_from(result) {
                    Ok(count) => Ok(count),
                    Err(_) => Err(io::Error::from_raw_os_error(-result)),
                };
                // The slot itself is given back when the operation is dropped.
                Poll::Ready((result, memory))
            }
            Slot::Waiting { keep, .. } => {
                state.slots[self.slot] = Slot::Waiting { waker: Some(cx.waker().clone()), keep };
                Poll::Pending
            }
            Slot::Free | Slot::Orphan { .. } => panic!("an operation was polled after its end"),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let mut state = self.ring.state.borrow_mut();
        let old = std::mem::replace(&mut state.slots[self.slot], Slot::Free);
        if let Slot::Waiting { keep, .. } = old {
            state.slots[self.slot] = Slot::Orphan { _keep: keep };
            return;
        }
        state.free.push(self.slot);
        drop(state);
        // Memory that was never collected goes after the borrow has ended.
        drop(old);
    }
}

/// The vectors of `parts` without their first `skip` bytes.
pub(crate) fn vectors_of(parts: &[Bytes], mut skip: usize) -> Vec<libc::iovec> {
    let mut vectors = Vec::with_capacity(parts.len());
    for part in parts {
        let skipped = skip.min(part.len());
        skip -= skipped;
        let rest = &part[skipped..];
        if !rest.is_empty() {
            vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        }
    }
    vectors
}

/// The ring's descriptor as epoll sees it; the ring itself owns and closes it.
struct Descriptor(RawFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// The task that submits and reaps. Fields drop in this order: the watch must go before the ring closes.
struct Driver {
    watch: AsyncFd<Descriptor>,
    ring: Rc<Ring>,
}

impl Future for Driver {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.ring.state.borrow_mut();
        state.driver_woken = false;
        if !state.driver.as_ref().is_some_and(|driver| driver.will_wake(cx.waker())) {
            state.driver = Some(cx.waker().clone());
        }
        loop {
            let reaped = state.reap();
            if !state.submit() {
                // The kernel is short of something: come again next turn.
                cx.waker().wake_by_ref();
            }
            if reaped || !state.uring.completion().is_empty() {
                continue;
            }
            match self.watch.poll_read_ready(cx) {
                Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
