//! `bixi volume create|list|status|resize|rename|delete|snapshot|rollback|clone|qos`.

use crypto::suite::Suite;
use platform::Platform;
use s3_gateway::dates::iso8601;
use serde_json::{Value, json};
use types::size::{format_size, parse_size};

use super::failure::Failure;
use super::output::{print_bytes, print_json, print_line, table};
use super::session::Admin;
use super::{volume_attach, volume_image};
use crate::args::{ChangeArgs, Output, ReadArgs, VolumeCommand};

/// Runs a command about volumes.
pub async fn run(platform: Platform, command: VolumeCommand) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create { name, size, redundancy, encrypt, from_snapshot, change } => {
            let size = size.map_or(Ok(0), |size| bytes(&size))?;
            let redundancy = redundancy.unwrap_or_default();
            match from_snapshot {
                Some(from) => clone(&platform, &from, &name, size, &redundancy, &change).await,
                None => {
                    let cipher = cipher(encrypt.as_deref())?;
                    let body = json!({ "name": name, "size": size, "redundancy": redundancy, "cipher": cipher });
                    let encrypted = if cipher.is_empty() { String::new() } else { format!(", encrypted by {cipher}") };
                    let text = format!("volume {name} of {}{encrypted}", format_size(size));
                    change_volumes(&platform, "", &body, "made", &text, &change).await
                }
            }
        }
        VolumeCommand::List(args) => list(&platform, &args).await,
        VolumeCommand::Status { name, read } => status(&platform, &name, &read).await,
        VolumeCommand::Resize { name, size, change } => {
            let size = bytes(&size)?;
            let body = json!({ "name": name, "size": size });
            let text = format!("volume {name} to {}", format_size(size));
            change_volumes(&platform, "/resize", &body, "resized", &text, &change).await
        }
        VolumeCommand::Rename { name, to, change } => {
            let body = json!({ "name": name, "to": to });
            change_volumes(&platform, "/rename", &body, "renamed", &format!("volume {name} to {to}"), &change).await
        }
        VolumeCommand::Delete { name, yes, change } => {
            let what = if name.contains('@') { "snapshot" } else { "volume" };
            if !yes && !change.dry_run {
                return Err(Failure::usage(format!(
                    "{what} {name} would be gone for good; say --yes if that is meant"
                )));
            }
            let text = format!("{what} {name}; what only it held comes back step by step");
            change_volumes(&platform, "/delete", &json!({ "name": name }), "deleted", &text, &change).await
        }
        VolumeCommand::Snapshot { name, change } => {
            let (volume, snapshot) = halves(&name)?;
            let body = json!({ "name": volume, "snapshot": snapshot });
            change_volumes(&platform, "/snapshot", &body, "taken", &format!("snapshot {name}"), &change).await
        }
        VolumeCommand::Rollback { name, yes, change } => {
            let (volume, snapshot) = halves(&name)?;
            if !yes && !change.dry_run {
                let text =
                    format!("what was written to {volume} since {name} would be gone; say --yes if that is meant");
                return Err(Failure::usage(text));
            }
            let body = json!({ "name": volume, "snapshot": snapshot });
            let text = format!("volume {volume} to {name}");
            change_volumes(&platform, "/rollback", &body, "rolled back", &text, &change).await
        }
        VolumeCommand::Clone { from, name, change } => clone(&platform, &from, &name, 0, "", &change).await,
        VolumeCommand::Qos { name, iops, bandwidth, burst, change } => {
            let per_second = bandwidth.map_or(Ok(0), |text| bytes(&text))?;
            let body = json!({ "name": name, "iops": iops, "bytes": per_second, "burst_s": burst });
            let text = format!("volume {name} to {}", limits(iops, per_second, burst));
            change_volumes(&platform, "/qos", &body, "limited", &text, &change).await
        }
        VolumeCommand::Attach(args) => volume_attach::run(&platform, &args).await,
        VolumeCommand::Export(args) => volume_image::export(&platform, &args).await,
        VolumeCommand::Import(args) => volume_image::import(&platform, &args).await,
    }
}

/// A cipher that is asked for; empty: none.
pub(super) fn cipher(said: Option<&str>) -> Result<&'static str, Failure> {
    let Some(said) = said else { return Ok("") };
    let suite = said.parse::<Suite>().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(suite.name())
}

/// The halves of `VOLUME@SNAPSHOT`.
pub(super) fn halves(name: &str) -> Result<(&str, &str), Failure> {
    name.split_once('@').ok_or_else(|| Failure::usage(format!("{name:?} is not VOLUME@SNAPSHOT")))
}

fn bytes(text: &str) -> Result<u64, Failure> {
    parse_size(text).map_err(|error| Failure::usage(error.to_string()))
}

async fn clone(
    platform: &Platform,
    from: &str,
    name: &str,
    size: u64,
    redundancy: &str,
    change: &ChangeArgs,
) -> Result<(), Failure> {
    let (volume, snapshot) = halves(from)?;
    let body = json!({ "from": volume, "snapshot": snapshot, "name": name, "size": size, "redundancy": redundancy });
    change_volumes(platform, "/clone", &body, "cloned", &format!("{from} as volume {name}"), change).await
}

/// Changes something: `done` is what is told of `what` afterwards.
async fn change_volumes(
    platform: &Platform,
    path: &str,
    body: &Value,
    done: &str,
    what: &str,
    change: &ChangeArgs,
) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    if change.dry_run {
        print_line(&format!("would be {done}: {what}"))?;
        return Err(Failure::would_change());
    }
    let told = admin.call("POST", &format!("/v1/volumes{path}"), Some(body)).await?;
    match change.output {
        Output::Json => print_json(&told),
        Output::Table => print_line(&format!("{done} {what}")),
    }
}

fn text(one: &Value, key: &str) -> String {
    one[key].as_str().unwrap_or("-").to_owned()
}

fn size(one: &Value, key: &str) -> String {
    format_size(one[key].as_u64().unwrap_or(0))
}

fn created(one: &Value) -> String {
    iso8601(one["created_ms"].as_u64().unwrap_or(0))
}

fn limits(iops: u64, per_second: u64, burst: u32) -> String {
    let mut parts = Vec::new();
    if iops > 0 {
        parts.push(format!("{iops} requests/s"));
    }
    if per_second > 0 {
        parts.push(format!("{}/s", format_size(per_second)));
    }
    if parts.is_empty() {
        return "no limits".into();
    }
    format!("{}, bursts of {} s", parts.join(", "), burst.max(1))
}

async fn list(platform: &Platform, args: &ReadArgs) -> Result<(), Failure> {
    let found = Admin::new(platform, &args.access)?.call("GET", "/v1/volumes", None).await?;
    if args.output == Output::Json {
        return print_json(&found);
    }
    let rows = found["volumes"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|one| {
        vec![
            text(one, "name"),
            size(one, "size"),
            size(one, "used"),
            text(one, "redundancy"),
            text(one, "encryption"),
            text(one, "attached_by"),
            text(one, "cloned_from"),
            created(one),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let heads = ["VOLUME", "SIZE", "USED", "REDUNDANCY", "ENCRYPTION", "ATTACHED BY", "CLONED FROM", "CREATED"];
    print_bytes(table(&heads, &rows).as_bytes())
}

async fn status(platform: &Platform, name: &str, args: &ReadArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &args.access)?;
    let found = admin.call("POST", "/v1/volumes/status", Some(&json!({ "name": name }))).await?;
    if args.output == Output::Json {
        return print_json(&found);
    }
    let number = |key: &str| found["qos"][key].as_u64().unwrap_or(0);
    print_line(&format!("volume       {}", text(&found, "name")))?;
    print_line(&format!("size         {}, {} used", size(&found, "size"), size(&found, "used")))?;
    let (journal, kept) = (size(&found, "journal"), size(&found, "kept_for_snapshots"));
    let stored = size(&found, "stored");
    print_line(&format!("journal      {journal}, and {kept} kept for snapshots; {stored} on all disks"))?;
    print_line(&format!("redundancy   {}", text(&found, "redundancy")))?;
    print_line(&format!("encryption   {}", text(&found, "encryption")))?;
    print_line(&format!("attached by  {}", text(&found, "attached_by")))?;
    print_line(&format!("cloned from  {}", text(&found, "cloned_from")))?;
    let burst = u32::try_from(number("burst_s")).unwrap_or(u32::MAX);
    print_line(&format!("limits       {}", limits(number("iops"), number("bytes"), burst)))?;
    print_line(&format!("created      {}", created(&found)))?;
    let rows = found["snapshots"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|one| {
        let clones = one["clones"].as_u64().unwrap_or(0).to_string();
        vec![text(one, "name"), size(one, "size"), size(one, "used"), size(one, "unique"), clones, created(one)]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    print_line("")?;
    print_bytes(table(&["SNAPSHOT", "SIZE", "USED", "UNIQUE", "CLONES", "TAKEN"], &rows).as_bytes())
}
