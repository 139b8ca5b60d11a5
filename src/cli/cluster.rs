//! `bixi cluster init|token|join|remove|set-redundancy|finalize`.

use std::io::Read as _;
use std::path::PathBuf;

use platform::Platform;
use serde_json::json;
use types::redundancy::Redundancy;

use super::failure::Failure;
use super::output::{print_json, print_line};
use super::session::Admin;
use crate::args::{ChangeArgs, ClusterCommand, NodeDescription, Output};
use crate::node::cluster::NodeFile;
use crate::node::founding::{self, Said};

/// The longest token read from standard input, bytes.
const TOKEN_MAX: u64 = 64 << 10;

/// Runs the command.
pub async fn run(platform: Platform, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Init { dirs, node } => {
            let file = founding::init(&platform, &dirs, said(node)).await?;
            tell(&file, &dirs, "is the first of a cluster")?;
            print_line("Then `bixi cluster token` prints what another machine needs for `bixi cluster join`.")
        }
        ClusterCommand::Token { days, access } => {
            let admin = Admin::new(&platform, &access)?;
            let answer = admin.call("POST", "/v1/cluster/token", Some(&json!({ "days": days }))).await?;
            print_line(answer["token"].as_str().unwrap_or_default())
        }
        ClusterCommand::Join { token, dirs, node } => {
            let token = if token == "-" { read_token()? } else { token };
            let file = founding::join(&platform, &token, &dirs, said(node)).await?;
            tell(&file, &dirs, "belongs to the cluster")
        }
        ClusterCommand::Remove { name, lost, yes: _, change } => remove(&platform, &name, lost, &change).await,
        ClusterCommand::SetRedundancy { policy, yes, change } => set_redundancy(&platform, &policy, yes, &change).await,
        ClusterCommand::Finalize { change } => finalize(&platform, &change).await,
        ClusterCommand::RotateCertificates(args) => crate::dev::certificates::rotate(args),
    }
}

fn said(node: NodeDescription) -> Said {
    Said { name: node.name, internal: node.internal_addr, zone: node.zone, rack: node.rack }
}

fn read_token() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().take(TOKEN_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::failed(format!("standard input: {error}")))?;
    Ok(text)
}

fn tell(file: &NodeFile, dirs: &[PathBuf], what: &str) -> Result<(), Failure> {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    print_line(&format!("Node {} {what}. Start it:\n\n  bixi server {}\n", file.name, dirs.join(" ")))
}

async fn remove(platform: &Platform, name: &str, lost: bool, change: &ChangeArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    if change.dry_run {
        let ask = json!({ "disks": [], "nodes": [name] });
        let answer = admin.call("POST", "/v1/safe-to-remove", Some(&ask)).await?;
        print_line(&format!("would be removed: node {name}; {}", answer["reason"].as_str().unwrap_or_default()))?;
        return Err(Failure::would_change());
    }
    let done = admin.call("POST", "/v1/nodes/remove", Some(&json!({ "node": name, "lost": lost }))).await?;
    match change.output {
        Output::Json => print_json(&done),
        Output::Table => print_line(&format!(
            "removed node {name}: disks {}, {} replicas of the metadata; its process can be stopped",
            done["disks"], done["replicas"]
        )),
    }
}

async fn set_redundancy(platform: &Platform, policy: &str, yes: bool, change: &ChangeArgs) -> Result<(), Failure> {
    let parity = |text: &str| text.parse::<Redundancy>().map(Redundancy::parity);
    let wanted = parity(policy).map_err(|error| Failure::usage(error.to_string()))?;
    let admin = Admin::new(platform, &change.access)?;
    let status = admin.call("GET", "/v1/status", None).await?;
    let now = status["redundancy"].as_str().unwrap_or_default();
    if parity(now).is_ok_and(|before| wanted < before) && !yes && !change.dry_run {
        return Err(Failure::usage(format!(
            "with {policy} instead of {now} all data would survive fewer losses; say --yes if that is meant"
        )));
    }
    if change.dry_run {
        if now == policy {
            return Ok(());
        }
        print_line(&format!("would be set: redundancy {policy} instead of {now}"))?;
        return Err(Failure::would_change());
    }
    let done = admin.call("POST", "/v1/cluster/redundancy", Some(&json!({ "policy": policy }))).await?;
    match change.output {
        Output::Json => print_json(&done),
        Output::Table => {
            print_line(&format!("new data is stored with {}; bixi plan shows what follows", done["redundancy"]))
        }
    }
}

async fn finalize(platform: &Platform, change: &ChangeArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    if change.dry_run {
        let upgrade = &admin.call("GET", "/v1/status", None).await?["upgrade"];
        let (now, known) = (upgrade["level"].as_u64().unwrap_or(0), upgrade["known"].as_u64().unwrap_or(0));
        if now >= known {
            return Ok(());
        }
        print_line(&format!("would raise the feature level from {now} to {known}; older versions are shut out then"))?;
        return Err(Failure::would_change());
    }
    let done = admin.call("POST", "/v1/cluster/finalize", Some(&json!({}))).await?;
    match change.output {
        Output::Json => print_json(&done),
        Output::Table if done["before"] == done["feature_level"] => print_line("there is nothing to finalize"),
        Output::Table => print_line(&format!("feature level {}; older versions are shut out", done["feature_level"])),
    }
}
