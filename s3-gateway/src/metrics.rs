//! What the gateway counts, and its Prometheus text. Names of buckets and keys never appear.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Upper bounds of the latency buckets, in microseconds.
const BOUNDS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000];

/// Counters since the start.
#[derive(Default)]
pub struct Metrics {
    requests: RefCell<BTreeMap<(&'static str, u16), u64>>,
    latency: RefCell<[u64; BOUNDS_US.len() + 1]>,
    latency_sum_us: Cell<u64>,
    /// Connections open now.
    pub connections: Cell<u64>,
    /// Requests under way now.
    pub in_flight: Cell<u64>,
    /// Body bytes taken in.
    pub received_bytes: Cell<u64>,
    /// Body bytes given out.
    pub sent_bytes: Cell<u64>,
}

impl Metrics {
    /// A request has ended.
    pub fn count(&self, operation: &'static str, status: u16, took_us: u64) {
        *self.requests.borrow_mut().entry((operation, status)).or_default() += 1;
        let bucket = BOUNDS_US.iter().position(|bound| took_us <= *bound).unwrap_or(BOUNDS_US.len());
        self.latency.borrow_mut()[bucket] += 1;
        self.latency_sum_us.set(self.latency_sum_us.get().saturating_add(took_us));
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut out = String::new();
        out.push_str("# TYPE bixi_s3_requests_total counter\n");
        for ((operation, status), count) in self.requests.borrow().iter() {
            let _ = writeln!(out, "bixi_s3_requests_total{{operation=\"{operation}\",status=\"{status}\"}} {count}");
        }
        out.push_str("# TYPE bixi_s3_request_duration_seconds histogram\n");
        let mut sum = 0;
        for (index, count) in self.latency.borrow().iter().enumerate() {
            sum += count;
            let bound = BOUNDS_US.get(index).map_or("+Inf".to_owned(), |bound| format!("{}", *bound as f64 / 1e6));
            let _ = writeln!(out, "bixi_s3_request_duration_seconds_bucket{{le=\"{bound}\"}} {sum}");
        }
        let seconds = self.latency_sum_us.get() as f64 / 1e6;
        let _ = writeln!(out, "bixi_s3_request_duration_seconds_sum {seconds}");
        let _ = writeln!(out, "bixi_s3_request_duration_seconds_count {sum}");
        for (name, kind, value) in [
            ("bixi_s3_connections", "gauge", &self.connections),
            ("bixi_s3_requests_in_flight", "gauge", &self.in_flight),
            ("bixi_s3_received_bytes_total", "counter", &self.received_bytes),
            ("bixi_s3_sent_bytes_total", "counter", &self.sent_bytes),
        ] {
            let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {}", value.get());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn counts_are_rendered() {
        let metrics = Metrics::default();
        metrics.count("GetObject", 200, 300);
        metrics.count("GetObject", 200, 99_000_000);
        let text = metrics.render();
        assert!(text.contains("bixi_s3_requests_total{operation=\"GetObject\",status=\"200\"} 2"));
        assert!(text.contains("_bucket{le=\"0.0005\"} 1"));
        assert!(text.contains("_bucket{le=\"+Inf\"} 2"));
    }
}
