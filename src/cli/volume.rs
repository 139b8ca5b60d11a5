//! `bixi volume create|list|resize|delete`.

use platform::Platform;
use s3_gateway::dates::iso8601;
use serde_json::{Value, json};
use types::size::{format_size, parse_size};

use super::failure::Failure;
use super::output::{print_bytes, print_json, print_line, table};
use super::session::Admin;
use crate::args::{ChangeArgs, Output, ReadArgs, VolumeCommand};

/// Runs a command about volumes.
pub async fn run(platform: Platform, command: VolumeCommand) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create { name, size, redundancy, change } => {
            let size = bytes(&size)?;
            let body = json!({ "name": name, "size": size, "redundancy": redundancy.unwrap_or_default() });
            let what = format!("would be made: volume {name} of {}", format_size(size));
            let done = change_volumes(&platform, "/v1/volumes", &body, &what, &change).await?;
            tell(&done, &change, &format!("made volume {name} of {}", format_size(size)))
        }
        VolumeCommand::List(args) => list(&platform, &args).await,
        VolumeCommand::Resize { name, size, change } => {
            let size = bytes(&size)?;
            let what = format!("would have {}: volume {name}", format_size(size));
            let body = json!({ "name": name, "size": size });
            let done = change_volumes(&platform, "/v1/volumes/resize", &body, &what, &change).await?;
            tell(&done, &change, &format!("volume {name} has {}", format_size(size)))
        }
        VolumeCommand::Delete { name, yes, change } => {
            if !yes && !change.dry_run {
                return Err(Failure::usage(format!(
                    "volume {name} would be gone for good; say --yes if that is meant"
                )));
            }
            let what = format!("would be deleted: volume {name}");
            let body = json!({ "name": name });
            let done = change_volumes(&platform, "/v1/volumes/delete", &body, &what, &change).await?;
            tell(&done, &change, &format!("deleted volume {name}; its space comes back step by step"))
        }
    }
}

fn bytes(text: &str) -> Result<u64, Failure> {
    parse_size(text).map_err(|error| Failure::usage(error.to_string()))
}

async fn change_volumes(
    platform: &Platform,
    path: &str,
    body: &Value,
    what: &str,
    change: &ChangeArgs,
) -> Result<Value, Failure> {
    let admin = Admin::new(platform, &change.access)?;
    if change.dry_run {
        print_line(what)?;
        return Err(Failure::would_change());
    }
    admin.call("POST", path, Some(body)).await
}

fn tell(done: &Value, change: &ChangeArgs, text: &str) -> Result<(), Failure> {
    match change.output {
        Output::Json => print_json(done),
        Output::Table => print_line(text),
    }
}

async fn list(platform: &Platform, args: &ReadArgs) -> Result<(), Failure> {
    let found = Admin::new(platform, &args.access)?.call("GET", "/v1/volumes", None).await?;
    if args.output == Output::Json {
        return print_json(&found);
    }
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or("-").to_owned();
    let size = |one: &Value, key: &str| format_size(one[key].as_u64().unwrap_or(0));
    let rows = found["volumes"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|one| {
        let created = iso8601(one["created_ms"].as_u64().unwrap_or(0));
        vec![
            text(one, "name"),
            size(one, "size"),
            size(one, "used"),
            text(one, "redundancy"),
            text(one, "attached_by"),
            created,
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    print_bytes(table(&["VOLUME", "SIZE", "USED", "REDUNDANCY", "ATTACHED BY", "CREATED"], &rows).as_bytes())
}
