//! One flush serves every append that has been written by the time it starts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use platform::disk::{DiskError, File};
use tokio::sync::oneshot;

type Outcome = Result<(), Rc<DiskError>>;

/// Shares flushes of one file.
#[derive(Default)]
pub(super) struct Flusher {
    waiting: RefCell<Vec<oneshot::Sender<Outcome>>>,
    running: Cell<bool>,
}

/// Sets `running` back if the leading caller is dropped in the middle.
struct Running<'a>(&'a Flusher);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        // Whoever still waits is told by its sender's end, and calls again.
        self.0.waiting.borrow_mut().clear();
    }
}

impl Flusher {
    /// Returns when a flush that started after this call has succeeded.
    ///
    /// # Errors
    /// The flush failed: nothing written since the last one may be relied on.
    pub async fn flush(&self, file: &File) -> Outcome {
        let mut again = false;
        loop {
            if self.running.get() {
                let (sender, receiver) = oneshot::channel();
                self.waiting.borrow_mut().push(sender);
                match receiver.await {
                    Ok(outcome) => return outcome,
                    // Came while a flush ran: another one is needed, led by whoever is first.
                    Err(_) => {
                        again = true;
                        continue;
                    }
                }
            }
            self.running.set(true);
            let guard = Running(self);
            if again {
                // Those that were woken with us join.
                platform::tasks::yield_now().await;
            }
            let group = std::mem::take(&mut *self.waiting.borrow_mut());
            let outcome = file.flush().await.map_err(Rc::new);
            for waiter in group {
                // A caller that gave up is no error.
                let _ = waiter.send(outcome.clone());
            }
            drop(guard);
            return outcome;
        }
    }
}
