//! A crate depends only on crates of strictly lower floors (ARCHITECTURE.md, section 1).
//!
//! Dependencies of tests and build scripts count like all others: what a test may see, its author
//! will lean on.

use super::Finding;
use super::workspace::Workspace;

/// The floors, lowest first. A new crate is entered here, in the same change as it is made.
const FLOORS: [&[&str]; 7] = [
    &["types"],
    &["proto", "erasure", "crypto"],
    &["platform"],
    &["rpc"],
    &["client", "metaserver", "chunkserver"],
    &["s3-gateway", "block-gateway", "file-gateway", "console"],
    &[".", "simulator", "fuzz", "tests", "tests/faultdev", "benches", "xtask"],
];

/// Reports members without a floor and dependencies that do not lead down.
pub fn check(workspace: &Workspace, findings: &mut Vec<Finding>) {
    for member in &workspace.members {
        let Some(own) = floor(&member.folder) else {
            findings.push(Finding::error(
                &member.manifest_path,
                format!("crate `{}` has no floor: enter it in xtask/src/tidy/floors.rs", member.folder),
            ));
            continue;
        };
        for dependency in &member.dependencies {
            let Some(folder) = &dependency.folder else { continue };
            match floor(folder) {
                Some(below) if below < own => {}
                Some(other) => findings.push(Finding::error(
                    &member.manifest_path,
                    format!("floor {own} depends on `{folder}` of floor {other}, which is not lower"),
                )),
                None => findings
                    .push(Finding::error(&member.manifest_path, format!("depends on `{folder}`, which has no floor"))),
            }
        }
    }
}

fn floor(folder: &str) -> Option<usize> {
    FLOORS.iter().position(|crates| crates.contains(&folder))
}
