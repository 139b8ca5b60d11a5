//! `bixi node list|drain|undrain`: a node is a process that disks belong to.

use std::collections::BTreeMap;

use platform::Platform;
use serde_json::{Value, json};
use types::size::format_size;

use super::disk::{all, tell_draining, wait_drained};
use super::failure::Failure;
use super::output::{print_bytes, print_json, print_line, table};
use super::session::Admin;
use crate::args::{ChangeArgs, NodeCommand, Output};

/// Runs the command.
pub async fn run(platform: Platform, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List(args) => {
            let nodes = nodes(&all(&Admin::new(&platform, &args.access)?).await?);
            match args.output {
                Output::Json => print_json(&json!({"schema": 1, "nodes": nodes})),
                Output::Table => print_bytes(as_table(&nodes).as_bytes()),
            }
        }
        NodeCommand::Drain { name, wait, change } => {
            let disks = set_draining(&platform, &name, true, &change).await?;
            if wait.wait { wait_drained(&platform, &disks, &change).await } else { Ok(()) }
        }
        NodeCommand::Undrain { name, change } => set_draining(&platform, &name, false, &change).await.map(|_| ()),
    }
}

/// What the disks of each node are together.
fn nodes(disks: &[Value]) -> Vec<Value> {
    let mut found: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for disk in disks {
        found.entry(disk["node"].as_str().unwrap_or("")).or_default().push(disk);
    }
    let sum = |disks: &[&Value], name: &str| disks.iter().filter_map(|disk| disk[name].as_u64()).sum::<u64>();
    let one = |(name, disks): (&str, Vec<&Value>)| {
        let is = |state: &str| disks.iter().filter(|disk| disk["state"] == state).count();
        let (used, draining, drained) = (is("in"), is("draining"), is("drained"));
        let state = match (used, draining, drained) {
            (0, 0, 0) => "silent",
            (0, 0, _) => "drained",
            (0, ..) => "draining",
            _ => "in",
        };
        json!({
            "node": name,
            "state": state,
            "disks": disks.iter().map(|disk| disk["disk"].clone()).collect::<Vec<Value>>(),
            "disks_in_use": used,
            "shards": sum(&disks, "shards"),
            "shard_bytes": sum(&disks, "shard_bytes"),
            "total_bytes": sum(&disks, "total_bytes"),
            "available_bytes": sum(&disks, "available_bytes"),
        })
    };
    found.into_iter().map(one).collect()
}

fn as_table(nodes: &[Value]) -> String {
    let text = |row: &Value, name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
    let size = |row: &Value, name: &str| format_size(row[name].as_u64().unwrap_or(0));
    let row = |row: &Value| {
        let disks = row["disks"].as_array().map_or(0, Vec::len).to_string();
        vec![
            text(row, "node"),
            text(row, "state"),
            disks,
            text(row, "shards"),
            size(row, "shard_bytes"),
            size(row, "available_bytes"),
        ]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    table(&["NODE", "STATE", "DISKS", "SHARDS", "HELD", "AVAILABLE"], &rows)
}

async fn set_draining(
    platform: &Platform,
    name: &str,
    draining: bool,
    change: &ChangeArgs,
) -> Result<Vec<u64>, Failure> {
    let admin = Admin::new(platform, &change.access)?;
    if change.dry_run {
        let nodes = nodes(&all(&admin).await?);
        let Some(node) = nodes.iter().find(|node| node["node"] == name) else {
            return Err(Failure::not_found(format!("there is no node {name}; see bixi node list")));
        };
        let what = if draining { "drained" } else { "taken back into use" };
        let bytes = format_size(node["shard_bytes"].as_u64().unwrap_or(0));
        print_line(&format!("would be {what}: disks {}, {} shards, {bytes}", node["disks"], node["shards"]))?;
        return Err(Failure::would_change());
    }
    let body = json!({"node": name, "draining": draining});
    let done = admin.call("POST", "/v1/disks/drain", Some(&body)).await?;
    tell_draining(&done, change.output)?;
    Ok(done["disks"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect())
}

#[cfg(test)]
mod tests {
    use super::nodes;
    use serde_json::json;

    #[test]
    fn node_is_drained_when_all_its_disks_are() {
        let disk =
            |disk: u64, node: &str, state: &str| json!({"disk": disk, "node": node, "state": state, "shards": 2});
        let state = |disks: &[serde_json::Value]| nodes(disks)[0]["state"].clone();
        assert_eq!(state(&[disk(1, "a", "in"), disk(2, "a", "drained")]), "in");
        assert_eq!(state(&[disk(1, "a", "draining"), disk(2, "a", "drained")]), "draining");
        assert_eq!(state(&[disk(1, "a", "drained"), disk(2, "a", "drained")]), "drained");
        let two = nodes(&[disk(1, "b", "in"), disk(2, "a", "in"), disk(3, "b", "in")]);
        assert_eq!((two.len(), &two[1]["node"], &two[1]["shards"]), (2, &json!("b"), &json!(4)));
    }
}
