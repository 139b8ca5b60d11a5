//! One door for each foreign package: it is named only in the files of its door, and listed only
//! in the manifests of the crates that have one (ARCHITECTURE.md, section 1).
//!
//! A name counts as the foreign package if the crate depends on it and the file neither declares
//! nor imports a module of its own by that name.

use super::Finding;
use super::syntax::{NamedPath, matches, paths};
use super::workspace::{Member, Source, Workspace};

/// A package, or a part of one, and where it may be named.
struct Door {
    /// Key in manifests.
    dependency: &'static str,
    /// The path that sources may not begin with elsewhere.
    path: &'static [&'static str],
    /// Beginnings of paths of files.
    places: &'static [&'static str],
}

const fn door(dependency: &'static str, path: &'static [&'static str], places: &'static [&'static str]) -> Door {
    Door { dependency, path, places }
}

const PLATFORM: &[&str] = &["platform/"];
const VHOST: &[&str] = &["block-gateway/src/vhost/"];

/// Whole packages.
const PACKAGES: [Door; 25] = [
    door("io-uring", &["io_uring"], PLATFORM),
    door("rustls", &["rustls"], PLATFORM),
    door("tokio-rustls", &["tokio_rustls"], PLATFORM),
    door("rustls-pki-types", &["rustls_pki_types"], PLATFORM),
    door("rustls-webpki", &["webpki"], PLATFORM),
    door("rcgen", &["rcgen"], &["src/node/certificates", "platform/tests", "rpc/tests"]),
    door("raft", &["raft"], &["metaserver/src/consensus"]),
    door("raft-proto", &["raft_proto"], &["metaserver/src/consensus"]),
    door("prost-old", &["prost_old"], &["metaserver/src/consensus"]),
    door("rocksdb", &["rocksdb"], &["metaserver/src/store"]),
    door("prost", &["prost"], &["proto/"]),
    door("reed-solomon-erasure", &["reed_solomon_erasure"], &["erasure/"]),
    door("crc32fast", &["crc32fast"], &["types/src/checksum"]),
    door("crc-fast", &["crc_fast"], &["types/src/checksum"]),
    door("hyper", &["hyper"], &["s3-gateway/"]),
    door("hyper-util", &["hyper_util"], &["s3-gateway/"]),
    door("ring", &["ring"], &["crypto/", "platform/src/random", "platform/src/tls"]),
    door("md-5", &["md5"], &["crypto/"]),
    door("fuser", &["fuser"], &["tests/faultdev/"]),
    door("tikv-jemallocator", &["tikv_jemallocator"], &["src/main", "simulator/src/main"]),
    door("miniz_oxide", &["miniz_oxide"], &["block-gateway/src/image/"]),
    door("aws-lc-rs", &["aws_lc_rs"], &["crypto/"]),
    door("vhost", &["vhost"], VHOST),
    door("vm-memory", &["vm_memory"], VHOST),
    door("vmm-sys-util", &["vmm_sys_util"], VHOST),
];

/// Parts of tokio that only `platform` may name: what touches the machine or starts tasks.
const TOKIO_PARTS: [Door; 9] = [
    door("tokio", &["tokio", "net"], PLATFORM),
    door("tokio", &["tokio", "time"], PLATFORM),
    door("tokio", &["tokio", "fs"], PLATFORM),
    door("tokio", &["tokio", "runtime"], PLATFORM),
    door("tokio", &["tokio", "spawn"], PLATFORM),
    door("tokio", &["tokio", "task"], PLATFORM),
    door("tokio", &["tokio", "signal"], PLATFORM),
    door("tokio", &["tokio", "process"], PLATFORM),
    door("tokio", &["tokio", "main"], PLATFORM),
];

/// All that the program in `src/` may name of tokio: what touches no machine by itself.
const TOKIO_OF_THE_PROGRAM: [&str; 6] = ["sync", "io", "select", "join", "try_join", "pin"];

/// Reports manifests and sources that name a foreign package outside its door.
pub fn check(workspace: &Workspace, findings: &mut Vec<Finding>) {
    for member in &workspace.members {
        check_manifest(member, findings);
        for source in &member.sources {
            check_source(member, source, findings);
        }
    }
}

fn check_manifest(member: &Member, findings: &mut Vec<Finding>) {
    for dependency in &member.dependencies {
        // An alias may have a door of its own (`prost-old`); otherwise the package behind it counts.
        let by_name = |name: &str| PACKAGES.iter().find(|door| door.dependency == name);
        let Some(door) = by_name(&dependency.key).or_else(|| by_name(&dependency.package)) else { continue };
        // The program's own sources lie in the workspace's root.
        let inside = if member.folder == "." { "src/".to_owned() } else { format!("{}/", member.folder) };
        if !door.places.iter().any(|place| place.starts_with(&inside)) {
            let text = format!("`{}` has its door in {}", dependency.key, door.places.join(", "));
            findings.push(Finding::error(&member.manifest_path, text));
        }
    }
}

fn check_source(member: &Member, source: &Source, findings: &mut Vec<Finding>) {
    let named = paths(&source.tokens);
    for path in &named {
        if is_own_name(source, &named, &path.segments[0]) {
            continue;
        }
        for door in PACKAGES.iter().chain(&TOKIO_PARTS) {
            let listed = member.dependencies.iter().any(|dependency| dependency.key == door.dependency);
            let inside = door.places.iter().any(|place| source.path.starts_with(place));
            if listed && !inside && begins_with(path, door.path) {
                let text = format!("`{}` has its door in {}", door.path.join("::"), door.places.join(", "));
                findings.push(Finding::error(format!("{}:{}", source.path, path.line), text));
            }
        }
        check_program(source, path, findings);
    }
}

fn check_program(source: &Source, path: &NamedPath, findings: &mut Vec<Finding>) {
    let is_program = source.path.starts_with("src/");
    let part = path.segments.get(1).map_or("", String::as_str);
    let is_reported_above = TOKIO_PARTS.iter().any(|door| begins_with(path, door.path));
    if is_program && path.segments[0] == "tokio" && !TOKIO_OF_THE_PROGRAM.contains(&part) && !is_reported_above {
        let text = format!("the program may name tokio::sync and tokio::io only, not tokio::{part}");
        findings.push(Finding::error(format!("{}:{}", source.path, path.line), text));
    }
}

fn begins_with(path: &NamedPath, beginning: &[&str]) -> bool {
    path.segments.len() >= beginning.len() && path.segments.iter().zip(beginning).all(|(a, b)| a == b)
}

/// Whether the file declares a module `name` or imports one from elsewhere.
fn is_own_name(source: &Source, named: &[NamedPath], name: &str) -> bool {
    let declares = (0..source.tokens.len())
        .any(|position| matches(&source.tokens, position, "mod") && matches(&source.tokens, position + 1, name));
    let imports = named.iter().any(|path| {
        let ends_in_self = path.segments.last().is_some_and(|last| last == "self");
        let last = path.segments.len() - 1 - usize::from(ends_in_self && path.segments.len() > 1);
        path.is_import && last > 0 && path.segments[last] == name && path.segments[0] != name
    });
    declares || imports
}
