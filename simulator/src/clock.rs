//! The virtual time of the simulation that runs on this thread, for lines of a log.

use std::cell::RefCell;

use platform::sim::Simulation;

thread_local! {
    static SHOWN: RefCell<Option<Simulation>> = const { RefCell::new(None) };
}

/// Lines of this thread are of `simulation` from now on.
pub fn show(simulation: &Simulation) {
    SHOWN.with(|shown| *shown.borrow_mut() = Some(simulation.clone()));
}

/// Lines of this thread are of no simulation any more.
pub fn hide() {
    SHOWN.with(|shown| *shown.borrow_mut() = None);
}

/// Seconds of virtual time, if a simulation runs on this thread.
pub fn seconds() -> Option<f64> {
    SHOWN.with(|shown| shown.borrow().as_ref().map(|simulation| simulation.now().0 as f64 / 1e9))
}
