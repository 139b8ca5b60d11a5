//! `bixi disk list|add|drain|undrain|replace|remove`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use platform::Platform;
use serde_json::{Value, json};
use types::size::format_size;

use super::failure::Failure;
use super::output::{print_bytes, print_json, print_line, table};
use super::session::Admin;
use crate::args::{ChangeArgs, DiskCommand, Output, ReadArgs};

/// Time between two looks at a drain that is waited for, and between two lines about it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Runs the command.
pub async fn run(platform: Platform, command: DiskCommand) -> Result<(), Failure> {
    match command {
        DiskCommand::List(args) => list(&platform, args).await,
        DiskCommand::Add { dir, node, change } => add(&platform, &dir, &node, &change).await,
        DiskCommand::Drain { disks, wait, change } => {
            set_draining(&platform, &disks, true, &change).await?;
            if wait.wait { wait_drained(&platform, &disks, &change).await } else { Ok(()) }
        }
        DiskCommand::Undrain { disks, change } => set_draining(&platform, &disks, false, &change).await,
        DiskCommand::Replace { disk, dir, change } => replace(&platform, disk, &dir, &change).await,
        DiskCommand::Remove { disk, lost, change, .. } => remove(&platform, disk, lost, &change).await,
    }
}

/// All disks of the pool.
pub async fn all(admin: &Admin) -> Result<Vec<Value>, Failure> {
    let status = admin.call("GET", "/v1/status", None).await?;
    Ok(status["disks"].as_array().cloned().unwrap_or_default())
}

async fn one(admin: &Admin, disk: u64) -> Result<Value, Failure> {
    let found = all(admin).await?.into_iter().find(|row| row["disk"] == disk);
    found.ok_or_else(|| Failure::not_found(format!("there is no disk {disk}; see bixi disk list")))
}

async fn list(platform: &Platform, args: ReadArgs) -> Result<(), Failure> {
    let disks = all(&Admin::new(platform, &args.access)?).await?;
    match args.output {
        Output::Json => print_json(&json!({"schema": 1, "disks": disks})),
        Output::Table => print_bytes(as_table(&disks).as_bytes()),
    }
}

fn as_table(disks: &[Value]) -> String {
    let text = |row: &Value, name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
    let size = |row: &Value, name: &str| format_size(row[name].as_u64().unwrap_or(0));
    let row = |row: &Value| {
        vec![
            text(row, "disk"),
            text(row, "state"),
            text(row, "node"),
            text(row, "shards"),
            size(row, "shard_bytes"),
            size(row, "available_bytes"),
            text(row, "path"),
        ]
    };
    let rows: Vec<Vec<String>> = disks.iter().map(row).collect();
    table(&["DISK", "STATE", "NODE", "SHARDS", "HELD", "AVAILABLE", "DIRECTORY"], &rows)
}

/// The path as the node's machine knows it, if that is this one.
fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(dir).map_err(|error| Failure::caused(&dir.display().to_string(), &error))
}

async fn add(platform: &Platform, dir: &Path, node: &str, change: &ChangeArgs) -> Result<(), Failure> {
    let (admin, path) = (Admin::new(platform, &change.access)?, absolute(dir)?);
    if change.dry_run {
        print_line(&format!("would be added: {}", path.display()))?;
        return Err(Failure::would_change());
    }
    let added = admin.call("POST", "/v1/disks", Some(&json!({"path": path, "node": node}))).await?;
    match change.output {
        Output::Json => print_json(&added),
        Output::Table => print_line(&format!("added disk {}: {}", added["disk"], path.display())),
    }
}

async fn set_draining(platform: &Platform, disks: &[u64], draining: bool, change: &ChangeArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    if change.dry_run {
        let mut left = false;
        for disk in disks {
            let row = one(&admin, *disk).await?;
            if row["draining"].as_bool() != Some(draining) {
                left = true;
                let what = if draining { "drained" } else { "taken back into use" };
                let bytes = format_size(row["shard_bytes"].as_u64().unwrap_or(0));
                print_line(&format!("would be {what}: disk {disk}, {} shards, {bytes}", row["shards"]))?;
            }
        }
        return if left { Err(Failure::would_change()) } else { Ok(()) };
    }
    let body = json!({"disks": disks, "draining": draining});
    let done = admin.call("POST", "/v1/disks/drain", Some(&body)).await?;
    tell_draining(&done, change.output)
}

/// Says which disks are drained now, or not any more.
pub fn tell_draining(done: &Value, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return print_json(done);
    }
    let draining = done["draining"].as_bool().unwrap_or(false);
    for disk in done["disks"].as_array().into_iter().flatten() {
        let line = if draining {
            format!("disk {disk} is drained; bixi disk list tells how far, then bixi disk remove {disk}")
        } else {
            format!("disk {disk} is in use again")
        };
        print_line(&line)?;
    }
    Ok(())
}

/// Waits until nothing is left on the disks; tells on standard error how far it is.
pub async fn wait_drained(platform: &Platform, disks: &[u64], change: &ChangeArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    let clock = platform.clock();
    let mut told = None;
    loop {
        let (mut shards, mut bytes) = (0, 0);
        for disk in disks {
            let row = one(&admin, *disk).await?;
            if row["draining"].as_bool() != Some(true) {
                return Err(Failure::conflict(format!("disk {disk} is not drained any more")));
            }
            shards += row["shards"].as_u64().unwrap_or(0);
            bytes += row["shard_bytes"].as_u64().unwrap_or(0);
        }
        if shards == 0 {
            return Ok(());
        }
        let now = clock.now();
        if told.is_none_or(|at| now.saturating_since(at) >= LINE_EVERY) {
            told = Some(now);
            eprintln!("{shards} shards with {} are left", format_size(bytes));
        }
        clock.sleep(LOOK_EVERY).await;
    }
}

async fn replace(platform: &Platform, disk: u64, dir: &Path, change: &ChangeArgs) -> Result<(), Failure> {
    let (admin, path) = (Admin::new(platform, &change.access)?, absolute(dir)?);
    let row = one(&admin, disk).await?;
    let is_lost = row["state"] == "lost";
    let what = if is_lost { "removed" } else { "drained" };
    if change.dry_run {
        print_line(&format!("would be added: {}; disk {disk} would be {what}", path.display()))?;
        return Err(Failure::would_change());
    }
    let added = admin.call("POST", "/v1/disks", Some(&json!({"path": path, "node": row["node"]}))).await?;
    if is_lost {
        admin.call("POST", "/v1/disks/remove", Some(&json!({"disk": disk}))).await?;
    } else {
        admin.call("POST", "/v1/disks/drain", Some(&json!({"disks": [disk], "draining": true}))).await?;
    }
    match change.output {
        Output::Json => print_json(&json!({"disk": added["disk"], "path": path, "replaces": disk, "old": what})),
        Output::Table => {
            print_line(&format!("added disk {}: {}; disk {disk} is {what}", added["disk"], path.display()))
        }
    }
}

async fn remove(platform: &Platform, disk: u64, lost: bool, change: &ChangeArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    if change.dry_run {
        let row = one(&admin, disk).await?;
        let shards = row["shards"].as_u64().unwrap_or(0);
        if shards > 0 && !lost && row["state"] != "lost" {
            return Err(Failure::conflict(format!("disk {disk} holds {shards} shards; drain it first")));
        }
        print_line(&format!("would be removed: disk {disk}, {shards} shards"))?;
        return Err(Failure::would_change());
    }
    let done = admin.call("POST", "/v1/disks/remove", Some(&json!({"disk": disk, "lost": lost}))).await?;
    match change.output {
        Output::Json => print_json(&done),
        Output::Table => print_line(&format!("removed disk {disk}; its directory is not needed any more")),
    }
}

#[cfg(test)]
mod tests {
    use super::as_table;
    use serde_json::json;

    #[test]
    fn disks_are_listed_with_what_they_hold() {
        let disk = json!({
            "disk": 3, "state": "draining", "node": "n", "shards": 7, "shard_bytes": 2048,
            "available_bytes": 1 << 20, "path": "/d",
        });
        let text = as_table(&[disk]);
        let line = text.lines().nth(1).unwrap_or_default();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((cells[0], cells[1], cells[2], cells[3]), ("3", "draining", "n", "7"), "{text}");
        assert!(line.ends_with("/d"), "{text}");
    }
}
