//! The tasks of a simulation and the order in which they run.
//!
//! One thread; which of the ready tasks runs next is drawn from the seed, so that a run tries an order that a
//! fair queue never would. Invariant: no future is polled or dropped while the table is borrowed.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::sim::world::{Process, World};
use crate::tasks::Cancelled;

type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Names one task for as long as it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskKey {
    index: u32,
    generation: u32,
}

#[derive(Default)]
pub(crate) struct Executor {
    table: RefCell<Table>,
    woken: Arc<WakeList>,
}

#[derive(Default)]
struct Table {
    tasks: Vec<Slot>,
    free: Vec<u32>,
    ready: Vec<TaskKey>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    task: Option<Task>,
}

struct Task {
    /// Absent while it is being polled.
    future: Option<BoxedFuture>,
    wake: Arc<TaskWake>,
    waker: Waker,
    process: Rc<Process>,
}

/// Tasks woken since the executor last looked. A mutex because wakers must be `Send`; nobody contends for it.
#[derive(Default)]
struct WakeList {
    keys: Mutex<Vec<TaskKey>>,
}

struct TaskWake {
    key: TaskKey,
    queued: AtomicBool,
    list: Arc<WakeList>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.list.keys.lock().unwrap_or_else(PoisonError::into_inner).push(self.key);
        }
    }
}

/// What [`Executor::step`] did.
pub(crate) enum Step {
    /// Polled a task.
    Polled,
    /// Nothing was ready.
    Idle,
    /// The task panicked; it is gone.
    Panicked { process: Rc<Process>, message: String },
}

impl Executor {
    /// Adds a task, ready to run.
    pub(crate) fn spawn(&self, process: Rc<Process>, future: BoxedFuture) -> TaskKey {
        let mut table = self.table.borrow_mut();
        let index = table.free.pop().unwrap_or_else(|| {
            table.tasks.push(Slot::default());
            (table.tasks.len() - 1) as u32
        });
        let slot = &mut table.tasks[index as usize];
        let key = TaskKey { index, generation: slot.generation };
        let wake = Arc::new(TaskWake { key, queued: AtomicBool::new(true), list: self.woken.clone() });
        let waker = Waker::from(wake.clone());
        slot.task = Some(Task { future: Some(future), wake, waker, process });
        table.ready.push(key);
        key
    }

    /// Polls one of the ready tasks.
    pub(crate) fn step(&self, world: &World) -> Step {
        let Some((key, mut future, waker, process)) = self.take_ready(world) else { return Step::Idle };
        world.trace.note((u64::from(key.index) << 32) ^ world.now());
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        match polled {
            Ok(Poll::Pending) => {
                self.put_back(key, future);
                Step::Polled
            }
            Ok(Poll::Ready(())) => {
                drop(self.remove(key));
                Step::Polled
            }
            Err(payload) => {
                drop(self.remove(key));
                Step::Panicked { process, message: panic_text(payload.as_ref()) }
            }
        }
    }

    fn take_ready(&self, world: &World) -> Option<(TaskKey, BoxedFuture, Waker, Rc<Process>)> {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        table.ready.append(&mut self.woken.keys.lock().unwrap_or_else(PoisonError::into_inner));
        while !table.ready.is_empty() {
            let choice = world.schedule.below(table.ready.len() as u64) as usize;
            let key = table.ready.swap_remove(choice);
            let slot = &mut table.tasks[key.index as usize];
            let Some(task) = slot.task.as_mut().filter(|_| slot.generation == key.generation) else { continue };
            if world.park_if_paused(&task.process, key) {
                continue;
            }
            task.wake.queued.store(false, Ordering::Relaxed);
            if let Some(future) = task.future.take() {
                return Some((key, future, task.waker.clone(), task.process.clone()));
            }
        }
        None
    }

    fn put_back(&self, key: TaskKey, future: BoxedFuture) {
        let mut table = self.table.borrow_mut();
        let slot = &mut table.tasks[key.index as usize];
        match slot.task.as_mut() {
            Some(task) if slot.generation == key.generation => task.future = Some(future),
            _ => {
                // Aborted or crashed while it ran.
                drop(table);
                drop(future);
            }
        }
    }

    /// Takes a task out; the caller drops it, with nothing borrowed.
    fn remove(&self, key: TaskKey) -> Option<Task> {
        let mut table = self.table.borrow_mut();
        let slot = &mut table.tasks[key.index as usize];
        if slot.generation != key.generation {
            return None;
        }
        let task = slot.task.take()?;
        slot.generation += 1;
        table.free.push(key.index);
        Some(task)
    }

    /// Drops the task's future; nothing if it has ended.
    pub(crate) fn abort(&self, key: TaskKey) {
        drop(self.remove(key));
    }

    /// Makes parked tasks ready again.
    pub(crate) fn unpark(&self, keys: Vec<TaskKey>) {
        self.table.borrow_mut().ready.extend(keys);
    }

    /// Drops all tasks for which `dead` holds, in the order of the table.
    pub(crate) fn drop_where(&self, dead: impl Fn(&Process) -> bool) {
        let keys: Vec<TaskKey> = {
            let table = self.table.borrow();
            let with_index = table.tasks.iter().enumerate();
            with_index
                .filter(|(_, slot)| slot.task.as_ref().is_some_and(|task| dead(&task.process)))
                .map(|(index, slot)| TaskKey { index: index as u32, generation: slot.generation })
                .collect()
        };
        for key in keys {
            drop(self.remove(key));
        }
    }

    /// Whether a task still lives.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.borrow().tasks.iter().all(|slot| slot.task.is_none())
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

/// Where a task leaves its result for the holder of its handle.
pub(crate) struct Join<T> {
    state: RefCell<JoinState<T>>,
}

enum JoinState<T> {
    Running(Option<Waker>),
    Finished(Result<T, Cancelled>),
    Taken,
}

impl<T> Join<T> {
    pub(crate) fn new() -> Rc<Join<T>> {
        Rc::new(Join { state: RefCell::new(JoinState::Running(None)) })
    }

    pub(crate) fn is_finished(&self) -> bool {
        !matches!(&*self.state.borrow(), JoinState::Running(_))
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, Cancelled>> {
        let mut state = self.state.borrow_mut();
        match std::mem::replace(&mut *state, JoinState::Taken) {
            JoinState::Running(_) => {
                *state = JoinState::Running(Some(cx.waker().clone()));
                Poll::Pending
            }
            JoinState::Finished(result) => Poll::Ready(result),
            JoinState::Taken => panic!("a task handle was polled after its end"),
        }
    }

    /// The result, if there is one to take.
    pub(crate) fn take(&self) -> Option<Result<T, Cancelled>> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn finish(&self, result: Result<T, Cancelled>) {
        let old = std::mem::replace(&mut *self.state.borrow_mut(), JoinState::Finished(result));
        match old {
            JoinState::Running(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            // Finished before; the guard's drop changes nothing.
            other => *self.state.borrow_mut() = other,
        }
    }
}

/// Says "cancelled" if the future is dropped before it has returned.
struct FinishGuard<T> {
    join: Rc<Join<T>>,
}

impl<T> Drop for FinishGuard<T> {
    fn drop(&mut self) {
        self.join.finish(Err(Cancelled));
    }
}

/// `future` with its result put into `join`.
pub(crate) fn joined<F: Future + 'static>(future: F, join: Rc<Join<F::Output>>) -> BoxedFuture {
    let guard = FinishGuard { join };
    Box::pin(async move {
        let result = future.await;
        guard.join.finish(Ok(result));
    })
}
