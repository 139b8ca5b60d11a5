//! Time: a monotonic clock, the wall clock, and sleeping.
//!
//! Real timers have a granularity of about a millisecond (tokio's wheel). On a simulated machine time stands
//! still while a task runs and jumps to the next event when all tasks wait.

use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::sim::world::Process;

/// The wall clock when a simulation starts: 2026-01-01.
const SIMULATED_UNIX_MS: u64 = 1_767_225_600_000;

/// A moment of the monotonic clock, in nanoseconds since an arbitrary start of this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Time since `earlier`; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    /// Saturates at the end of time, so that `now + Duration::MAX` means never.
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(nanoseconds(duration)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    /// Saturates at the start.
    fn sub(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanoseconds(duration)))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The time given to [`Clock::timeout`] ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no answer within {}ms", .0.as_millis())]
pub struct Elapsed(pub Duration);

/// The clock of a machine or of one simulated process.
#[derive(Clone)]
pub struct Clock {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Real { start: std::time::Instant },
    Simulated(Rc<Process>),
}

impl Clock {
    pub(crate) fn real() -> Clock {
        Clock { kind: Kind::Real { start: std::time::Instant::now() } }
    }

    pub(crate) fn simulated(process: Rc<Process>) -> Clock {
        Clock { kind: Kind::Simulated(process) }
    }

    /// The monotonic clock.
    pub fn now(&self) -> Instant {
        match &self.kind {
            Kind::Real { start } => Instant(nanoseconds(start.elapsed())),
            Kind::Simulated(process) => Instant(process.world.now()),
        }
    }

    /// Milliseconds since 1970 by the wall clock, which may jump: for S3's dates, never for decisions.
    pub fn unix_ms(&self) -> u64 {
        match &self.kind {
            Kind::Real { .. } => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            Kind::Simulated(process) => (SIMULATED_UNIX_MS + process.world.now() / 1_000_000)
                .saturating_add_signed(process.world.wall_clock_offset_ms(process.host)),
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        match &self.kind {
            Kind::Real { .. } => tokio::time::sleep(duration).await,
            Kind::Simulated(process) => process.sleep_ns(nanoseconds(duration)).await,
        }
    }

    /// Waits until `moment`; returns at once if it has passed.
    pub async fn sleep_until(&self, moment: Instant) {
        self.sleep(moment.saturating_since(self.now())).await;
    }

    /// Runs `future`, but drops it after `duration`.
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Result<F::Output, Elapsed> {
        match &self.kind {
            Kind::Real { .. } => tokio::time::timeout(duration, future).await.map_err(|_| Elapsed(duration)),
            Kind::Simulated(process) => {
                let mut future = pin!(future);
                let mut sleep = pin!(process.sleep_ns(nanoseconds(duration)));
                std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
                    Poll::Ready(output) => Poll::Ready(Ok(output)),
                    Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(Elapsed(duration))),
                })
                .await
            }
        }
    }
}
