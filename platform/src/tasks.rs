//! Tasks: futures that run beside each other on this thread.
//!
//! Futures need not be `Send`. Dropping a [`TaskHandle`] lets the task run on; a panic in a task is a broken
//! invariant and is never swallowed: it aborts the process (real) or fails the run (simulated).

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::sim::executor::{Join, TaskKey, joined};
use crate::sim::world::Process;

/// Bytes of a future above which it is boxed.
const BOXED: usize = 512;

/// Starts tasks.
#[derive(Clone)]
pub struct Tasks {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Real,
    Simulated(Rc<Process>),
}

/// The task was aborted, or its machine stopped, before it finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the task was cancelled")]
pub struct Cancelled;

/// A running task; as a future, its result.
pub struct TaskHandle<T> {
    kind: HandleKind<T>,
}

enum HandleKind<T> {
    Real(tokio::task::JoinHandle<T>),
    /// No key if the process was dead already.
    Simulated {
        process: Rc<Process>,
        join: Rc<Join<T>>,
        key: Option<TaskKey>,
    },
}

impl Tasks {
    pub(crate) fn real() -> Tasks {
        Tasks { kind: Kind::Real }
    }

    pub(crate) fn simulated(process: Rc<Process>) -> Tasks {
        Tasks { kind: Kind::Simulated(process) }
    }

    /// Starts `future`; it first runs when the caller next waits.
    pub fn spawn<F>(&self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
    {
        match &self.kind {
            // Large ones are boxed before they are moved about: the runtime does that several times.
            Kind::Real if size_of::<F>() > BOXED => {
                let future = Box::pin(future);
                TaskHandle { kind: HandleKind::Real(tokio::task::spawn_local(AbortOnPanic { future })) }
            }
            Kind::Real => TaskHandle { kind: HandleKind::Real(tokio::task::spawn_local(AbortOnPanic { future })) },
            Kind::Simulated(process) => {
                let join = Join::new();
                // Boxed before it is moved about: futures are large.
                let task = joined(Box::pin(future), join.clone());
                let key = process.is_alive().then(|| process.world.executor.spawn(process.clone(), task));
                TaskHandle { kind: HandleKind::Simulated { process: process.clone(), join, key } }
            }
        }
    }
}

impl<T> TaskHandle<T> {
    /// Drops the task's future at its next chance; nothing if it has finished.
    pub fn abort(&self) {
        match &self.kind {
            HandleKind::Real(handle) => handle.abort(),
            HandleKind::Simulated { process, key, .. } => {
                if let Some(key) = key {
                    process.world.executor.abort(*key);
                }
            }
        }
    }

    /// Whether it has returned or was dropped.
    pub fn is_finished(&self) -> bool {
        match &self.kind {
            HandleKind::Real(handle) => handle.is_finished(),
            HandleKind::Simulated { join, .. } => join.is_finished(),
        }
    }

    /// Lets it run on with nobody waiting for it.
    pub fn detach(self) {}
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, Cancelled>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.kind {
            HandleKind::Real(handle) => Pin::new(handle).poll(cx).map_err(|_| Cancelled),
            HandleKind::Simulated { join, .. } => join.poll(cx),
        }
    }
}

/// Lets the other tasks that are ready run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Turns a panic of the future into the end of the process: half-changed state must not serve on.
struct AbortOnPanic<F> {
    future: F,
}

impl<F: Future> Future for AbortOnPanic<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: future is only ever reached through this pin, and AbortOnPanic has no Drop.
        let future = unsafe { self.map_unchecked_mut(|this| &mut this.future) };
        let bomb = AbortWhenDropped;
        let result = future.poll(cx);
        std::mem::forget(bomb);
        result
    }
}

/// Dropped only while unwinding: the panic's message has been printed by then.
pub(crate) struct AbortWhenDropped;

impl Drop for AbortWhenDropped {
    fn drop(&mut self) {
        std::process::abort();
    }
}
