//! Places in the code that a run has reached, counted; and traps that stop a process in one of them.
//!
//! The code says `platform.reached("...")` where something rare and interesting has just happened. A
//! real machine forgets it at once. In a simulation it is counted, so that a run can tell which
//! situations it never came into, and a test or a fault may wait for it there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::sim::world::HostId;

#[derive(Default)]
pub(crate) struct Reached {
    counts: RefCell<BTreeMap<&'static str, u64>>,
    traps: RefCell<Vec<Rc<State>>>,
}

struct State {
    host: HostId,
    what: &'static str,
    sprung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Reached {
    /// Counts, and answers whether a trap of the host was waiting there.
    pub(crate) fn note(&self, host: HostId, what: &'static str) -> bool {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
        let found = {
            let mut traps = self.traps.borrow_mut();
            let at = traps.iter().position(|trap| trap.host == host && trap.what == what);
            at.map(|at| traps.swap_remove(at))
        };
        let Some(trap) = found else { return false };
        trap.sprung.set(true);
        if let Some(waker) = trap.waker.borrow_mut().take() {
            waker.wake();
        }
        true
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.borrow().clone()
    }

    /// A trap; dropping it takes it away.
    pub(crate) fn set_trap(&self, host: HostId, what: &'static str) -> Trap<'_> {
        let state = Rc::new(State { host, what, sprung: Cell::new(false), waker: RefCell::default() });
        self.traps.borrow_mut().push(state.clone());
        Trap { reached: self, state }
    }
}

/// Ready once the process has reached the place.
pub(crate) struct Trap<'a> {
    reached: &'a Reached,
    state: Rc<State>,
}

impl Drop for Trap<'_> {
    fn drop(&mut self) {
        self.reached.traps.borrow_mut().retain(|known| !Rc::ptr_eq(known, &self.state));
    }
}

impl Future for Trap<'_> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.sprung.get() {
            return Poll::Ready(());
        }
        *self.state.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
