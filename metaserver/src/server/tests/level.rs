//! Versions are mixed: what waits until the feature level is raised, and when it can be.

use proto::level;
use proto::members::{RaiseLevel, SetRedundancy};
use proto::meta::{Body, DiskReport, Heartbeat};
use proto::rows::RedundancyRow;
use proto::service::code;
use types::redundancy::Redundancy;

use super::story;

#[test]
fn level_is_raised_only_when_everybody_knows_it() {
    story(|world| async move {
        assert_eq!(world.server.level(), level::FIRST);
        let set = || Body::SetRedundancy(SetRedundancy { redundancy: RedundancyRow::from(Redundancy::Copies(1)) });
        let raise = |level| Body::RaiseLevel(RaiseLevel { level });
        assert_eq!(world.asked(4, set()).await, Err(code::CONFLICT), "a program of the first level would not know it");
        assert_eq!(world.asked(5, raise(level::CURRENT + 1)).await, Err(code::CONFLICT));
        // The disks' processes say nothing of levels: they are older.
        assert_eq!(world.asked(6, raise(level::CURRENT)).await, Err(code::CONFLICT));
        assert_eq!(world.server.level(), level::FIRST);
        let report = |disk| DiskReport {
            disk,
            total_bytes: 1 << 40,
            available_bytes: 1 << 40,
            failed: false,
            level: level::CURRENT,
        };
        let beat = Heartbeat { sessions: vec![], disks: vec![report(1), report(2)] };
        assert_eq!(world.server.heartbeat(beat).await.expect("heartbeat").level, level::FIRST);
        for (sequence, next) in (7..).zip(level::FIRST + 1..=level::CURRENT) {
            assert_eq!(world.asked(sequence, raise(next)).await, Ok(0), "one after the other");
        }
        assert_eq!(world.server.level(), level::CURRENT);
        assert_eq!(world.asked(20, set()).await, Ok(0));
    });
}
