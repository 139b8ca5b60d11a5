//! How much a volume's clients may ask for: the generic cell rate algorithm (ITU-T I.371), for requests and
//! for bytes. No IO, no clock.

use std::time::Duration;

use platform::clock::Instant;
use proto::volume::Qos;

/// Keeps a volume within its limits.
#[derive(Default)]
pub(super) struct Limiter {
    qos: Qos,
    /// When all that was let through is paid for, nanoseconds of the clock.
    requests_ns: u64,
    bytes_ns: u64,
}

/// A bucket's next moment, and how long to wait.
fn take(paid_ns: u64, now_ns: u64, amount: u64, rate: u64, burst_ns: u64) -> (u64, u64) {
    let cost = u128::from(amount) * 1_000_000_000 / u128::from(rate);
    let begin = paid_ns.max(now_ns);
    let wait = begin.saturating_sub(now_ns).saturating_sub(burst_ns);
    (begin.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX / 4)), wait)
}

impl Limiter {
    /// With these limits.
    pub(super) fn of(qos: Qos) -> Limiter {
        Limiter { qos, ..Limiter::default() }
    }

    /// Other limits from now on.
    pub(super) fn set(&mut self, qos: Qos) {
        if qos != self.qos {
            *self = Limiter { qos, ..Limiter::default() };
        }
    }

    /// Lets a request of so many bytes through, after the time that is answered.
    pub(super) fn admit(&mut self, now: Instant, bytes: u64) -> Duration {
        let burst_ns = u64::from(self.qos.burst_s.max(1)) * 1_000_000_000;
        let mut wait = 0;
        if self.qos.iops > 0 {
            let (paid, one) = take(self.requests_ns, now.0, 1, self.qos.iops, burst_ns);
            (self.requests_ns, wait) = (paid, one);
        }
        if self.qos.bytes > 0 {
            let (paid, one) = take(self.bytes_ns, now.0, bytes, self.qos.bytes, burst_ns);
            (self.bytes_ns, wait) = (paid, wait.max(one));
        }
        Duration::from_nanos(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(qos: Qos, bytes: u64, seconds: u64) -> u64 {
        let mut limiter = Limiter::default();
        limiter.set(qos);
        let (mut now, mut count) = (Instant(5_000_000_000), 0);
        let end = now + Duration::from_secs(seconds);
        loop {
            now = now + limiter.admit(now, bytes);
            if now >= end {
                return count;
            }
            count += 1;
        }
    }

    #[test]
    fn limits_hold_over_time_and_leave_room_for_a_burst() {
        let qos = Qos { iops: 100, bytes: 0, burst_s: 0 };
        assert!((1000..=1102).contains(&through(qos, 4096, 10)), "a second's worth at once, then the rate");
        let long = Qos { burst_s: 5, ..qos };
        assert!((1400..=1502).contains(&through(long, 4096, 10)));
        let bytes = Qos { iops: 0, bytes: 1 << 20, burst_s: 1 };
        assert!((2560..=2820).contains(&through(bytes, 4096, 10)));
        let both = Qos { iops: 100, bytes: 1 << 20, burst_s: 1 };
        assert!(through(both, 1 << 20, 10) <= 12, "the tighter one holds");
        assert_eq!(Limiter::default().admit(Instant(7), u64::MAX), Duration::ZERO);
        let mut limiter = Limiter::default();
        limiter.set(Qos { iops: 1, bytes: 1, burst_s: 1 });
        for _ in 0..4 {
            limiter.admit(Instant(1), u64::MAX);
        }
    }
}
