//! The worker lane: a few threads for calls that block, such as RocksDB's, and a queue before them.
//!
//! The threads start with the first job and end with the last handle. A simulated lane calls inline.
//! A job once queued runs even if its caller stops waiting.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::sim::world::Process;
use crate::tasks::AbortWhenDropped;

/// Threads of a platform's lane.
pub(crate) const THREADS: usize = 2;

/// A handle on the lane; clones share its threads.
#[derive(Clone)]
pub struct Lane {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Real(Rc<Owner>),
    Simulated(Rc<Process>),
}

/// What a simulated job takes, nanoseconds: at least, and how much more at most.
const SIMULATED_NS: (u64, u64) = (10_000, 100_000);

type Job = Box<dyn FnOnce() + Send>;

/// Closes the queue when the last handle goes, which ends the threads.
struct Owner {
    queue: Arc<Queue>,
    threads_max: usize,
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Lane {
    pub(crate) fn real(threads_max: usize) -> Lane {
        let state = State { jobs: VecDeque::new(), threads: 0, idle: 0, closed: false };
        let queue = Arc::new(Queue { state: Mutex::new(state), changed: Condvar::new() });
        Lane { kind: Kind::Real(Rc::new(Owner { queue, threads_max })) }
    }

    pub(crate) fn simulated(process: Rc<Process>) -> Lane {
        Lane { kind: Kind::Simulated(process) }
    }

    /// Runs `job` on a thread of the lane and gives back what it returns. A panic in it aborts the process.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        match &self.kind {
            Kind::Real(owner) => {
                let (answer, wait) = tokio::sync::oneshot::channel();
                owner.push(Box::new(move || {
                    // The caller may have stopped waiting; then nobody wants the answer.
                    let _ = answer.send(job());
                }));
                wait.await.expect("a queued job always runs")
            }
            Kind::Simulated(process) => {
                process.check_alive().await;
                let answer = job();
                let more = process.world.disk_random.below(SIMULATED_NS.1);
                process.sleep_ns(SIMULATED_NS.0 + more).await;
                answer
            }
        }
    }

    /// Starts a thread beside the lane for a job that runs for as long as something is served. A panic in it
    /// aborts the process.
    ///
    /// # Errors
    /// The system refuses a thread. `Unsupported`: the machine is simulated, where nothing may run beside it.
    pub fn start_thread(&self, name: &str, job: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        match &self.kind {
            Kind::Real(_) => {
                let guarded = move || {
                    let bomb = AbortWhenDropped;
                    job();
                    std::mem::forget(bomb);
                };
                std::thread::Builder::new().name(name.to_owned()).spawn(guarded).map(drop)
            }
            Kind::Simulated(_) => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Owner {
    fn push(&self, job: Job) {
        let mut state = self.queue.lock();
        state.jobs.push_back(job);
        if state.idle < state.jobs.len() && state.threads < self.threads_max {
            state.threads += 1;
            let queue = self.queue.clone();
            std::thread::Builder::new()
                .name("lane".to_owned())
                .spawn(move || queue.work())
                .expect("the operating system refuses a thread");
        } else {
            self.queue.changed.notify_one();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run outside the lock, so a poisoned lock holds no half-made change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life. Jobs queued before the close still run: they may be writes.
    fn work(&self) {
        let bomb = AbortWhenDropped;
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
            } else if state.closed {
                break;
            } else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
        std::mem::forget(bomb);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn jobs_run_and_answer() {
        let sum = crate::run(|platform| async move {
            let mut handles = Vec::new();
            for number in 0..100u64 {
                let lane = platform.lane().clone();
                handles.push(platform.tasks().spawn(async move { lane.run(move || number * 2).await }));
            }
            let mut sum = 0;
            for handle in handles {
                sum += handle.await.unwrap();
            }
            sum
        });
        assert_eq!(sum, 9900);
    }
}
