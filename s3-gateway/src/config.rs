//! What can be set about the gateway. Plain data; only `src/` reads files, flags and environment.

use std::time::Duration;

use platform::tls::ServerTls;
use serde::Deserialize;

/// Settings of the S3 gateway.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The region clients must sign for. Default `us-east-1`.
    pub region: String,
    /// Domains under which `BUCKET.DOMAIN` is a bucket (without port). Default: `localhost`, and
    /// path style always works.
    pub domains: Vec<String>,
    /// Connections held at once; beyond it the one idle longest is closed. Default 4096.
    pub connections_max: usize,
    /// Seconds a client may take for a request's head. Default 20.
    pub header_timeout_s: u64,
    /// Seconds a connection may be idle between requests. Default 120.
    pub idle_timeout_s: u64,
    /// Seconds a body (either way) may stand still. Default 30.
    pub body_timeout_s: u64,
    /// Bytes that bodies under way, in both directions, may hold; beyond it requests get 503
    /// SlowDown. Default: a quarter of the memory that the process may use, at most 2 GiB.
    pub memory_budget_bytes: Option<u64>,
    /// Requests that took longer than this many milliseconds are logged. Default 1000.
    pub slow_request_ms: u64,
    /// Certificate and key; plain HTTP without.
    #[serde(skip)]
    pub tls: Option<ServerTls>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            region: "us-east-1".to_owned(),
            domains: vec!["localhost".to_owned()],
            connections_max: 4096,
            header_timeout_s: 20,
            idle_timeout_s: 120,
            body_timeout_s: 30,
            memory_budget_bytes: None,
            slow_request_ms: 1_000,
            tls: None,
        }
    }
}

impl Config {
    /// Time for a head.
    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s)
    }

    /// Time between requests.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }

    /// Time a body may stand still.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<Config>("{\"region\":\"eu\"}").is_ok_and(|config| config.region == "eu"));
        assert!(serde_json::from_str::<Config>("{\"regoin\":\"eu\"}").is_err());
    }
}
