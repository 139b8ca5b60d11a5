//! How much memory this process may use, and what it sets aside for what.
//!
//! The limit is the machine's memory, or less if the process lives in a control group with a limit.
//! The shares leave half for the state of the metaserver, indexes and what nobody counts.

/// Shares of the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares {
    /// Bytes of chunks kept for hot reads.
    pub cache: u64,
    /// Bytes that S3 bodies under way may hold.
    pub bodies: u64,
    /// Bytes of payloads that calls of other processes may hold.
    pub calls: u64,
    /// Bytes of checksum tables that each store keeps.
    pub tables: u64,
}

const MIB: u64 = 1 << 20;

/// What this process sets aside.
pub fn shares() -> Shares {
    let limit = limit(&read("/proc/meminfo"), &read("/proc/self/cgroup"), &|path| read(path));
    Shares {
        cache: (limit / 8).clamp(8 * MIB, 256 * MIB),
        bodies: (limit / 4).clamp(16 * MIB, 2048 * MIB),
        calls: (limit / 8).clamp(16 * MIB, 256 * MIB),
        tables: (limit / 128).clamp(MIB, 16 * MIB),
    }
}

#[expect(clippy::disallowed_methods, reason = "the process looks at itself")]
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The least of the machine's memory and the limits of all control groups around the process.
fn limit(meminfo: &str, groups: &str, file: &dyn Fn(&str) -> String) -> u64 {
    let total =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let mut limit = total.map_or(u64::MAX, |kib: u64| kib * 1024);
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            some if some.split(',').any(|one| one == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            // "max", or an absent file, is no limit.
            if let Ok(bytes) = file(&format!("{root}{path}/{name}")).trim().parse::<u64>() {
                limit = limit.min(bytes);
            }
            match path.rfind('/') {
                Some(at) => path = &path[..at],
                None => break,
            }
        }
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::limit;

    const MEMINFO: &str = "MemTotal:       1000000 kB\nMemFree: 1 kB\n";

    #[test]
    fn the_tightest_limit_around_the_process_counts() {
        let files = |path: &str| match path {
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes" => "5000\n".to_owned(),
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes" => "9223372036854771712\n".to_owned(),
            "/sys/fs/cgroup/c/memory.max" => "max\n".to_owned(),
            "/sys/fs/cgroup/memory.max" => "7000\n".to_owned(),
            _ => String::new(),
        };
        assert_eq!(limit(MEMINFO, "", &files), 1_024_000_000);
        assert_eq!(limit(MEMINFO, "4:cpu:/a\n3:memory:/a/b\n", &files), 5000);
        assert_eq!(limit(MEMINFO, "0::/c\n", &files), 7000);
        assert_eq!(limit("", "rubbish\n0::\n::::\n", &|_| String::new()), u64::MAX);
    }
}
