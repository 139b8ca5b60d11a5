//! Feature levels: what a cluster may write, so that versions can be mixed and rolled back.
//!
//! A new cluster begins at the level of the program that founds it. A newer program serves a cluster of a
//! lower level and writes only what that level knows, until somebody says `bixi cluster finalize`; then
//! the level rises in Raft, directories say so in their identity, and older programs refuse them.
//!
//! | level | since it |
//! |---|---|
//! | 1 | the first |
//! | 2 | chunks are laid out anew (transcode), redundancy is changed; buckets go to the trash |
//! | 3 | there are volumes |
//! | 4 | volumes have snapshots, clones and limits |
//! | 5 | volumes can be encrypted |

/// The first level there was.
pub const FIRST: u64 = 1;
/// The level of this version.
pub const CURRENT: u64 = 5;
/// From this level on chunks are laid out anew, redundancy can be changed and buckets go to the trash.
pub const TRANSCODE: u64 = 2;
/// From this level on there are volumes.
pub const VOLUMES: u64 = 3;
/// From this level on volumes have snapshots, clones and limits.
pub const SNAPSHOTS: u64 = 4;
/// From this level on volumes can be encrypted.
pub const ENCRYPTION: u64 = 5;
