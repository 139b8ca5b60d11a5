//! How many connections this process can hold, by the file descriptors it may have.

/// Descriptors that files, other processes and a moment of crowding may need.
const RESERVE: usize = 32;
/// With fewer connections there is no service.
const CONNECTIONS_MIN: usize = 8;

/// Raises the limit of descriptors as far as it goes, and answers how many of `wanted` connections
/// there is room for beside what is open now.
pub fn connections_max(wanted: usize) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the struct they are given and nothing else.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    if !known {
        return wanted;
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above. If it is refused, the old limit stands and is read again below.
        unsafe {
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        }
    }
    room(wanted, usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX), open_now())
}

fn room(wanted: usize, limit: usize, open: usize) -> usize {
    let left = limit.saturating_sub(open).saturating_sub(RESERVE);
    if left < wanted {
        tracing::warn!(limit, open, connections = left.max(CONNECTIONS_MIN), "few file descriptors, few connections");
    }
    left.max(CONNECTIONS_MIN).min(wanted)
}

#[expect(clippy::disallowed_methods, reason = "the process looks at itself")]
fn open_now() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(64, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::{CONNECTIONS_MIN, RESERVE, room};

    #[test]
    fn connections_leave_descriptors_for_files() {
        assert_eq!(room(4096, 1 << 20, 60), 4096);
        assert_eq!(room(4096, 128, 60), 128 - 60 - RESERVE);
        assert_eq!(room(4096, 64, 60), CONNECTIONS_MIN);
        assert_eq!(room(5, 64, 60), 5);
    }
}
