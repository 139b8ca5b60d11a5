//! `bixi fsck`: goes over all disks page by page and prints where what they hold differs from what
//! the metadata says. It changes nothing; the same comparison runs all the time behind the scenes
//! and repairs what it finds.

use platform::Platform;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{print_bytes, print_json, table};
use super::session::Admin;
use crate::args::{Output, ReadArgs};

/// Runs the command.
pub async fn run(platform: Platform, args: ReadArgs) -> Result<(), Failure> {
    let admin = Admin::new(&platform, &args.access)?;
    let status = admin.call("GET", "/v1/status", None).await?;
    let mut disks = Vec::new();
    for disk in status["disks"].as_array().into_iter().flatten() {
        disks.push(check_disk(&admin, disk).await?);
    }
    let report = report(&status, disks);
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Table => print_bytes(for_people(&report).as_bytes())?,
    }
    if report["sound"].as_bool() == Some(true) { Ok(()) } else { Err(Failure::failed("disks and metadata differ")) }
}

async fn check_disk(admin: &Admin, disk: &Value) -> Result<Value, Failure> {
    let (mut expected, mut differences, mut after) = (0, Vec::new(), 0u64);
    if is_served(disk) {
        loop {
            let ask = json!({"disk": disk["disk"], "after": after});
            let page = admin.call("POST", "/v1/fsck", Some(&ask)).await?;
            expected += page["expected"].as_u64().unwrap_or(0);
            differences.extend(page["differences"].as_array().into_iter().flatten().cloned());
            match page["upto"].as_u64() {
                Some(u64::MAX) => break,
                Some(upto) if upto > after => after = upto,
                _ => return Err(Failure::failed("the server's answer cannot be understood")),
            }
        }
    }
    Ok(json!({
        "disk": disk["disk"],
        "path": disk["path"],
        "state": disk["state"],
        "shards": expected,
        "differences": differences,
    }))
}

/// Sound = every disk that is not lost was compared, nothing differs, and no chunk lacks a shard.
fn report(status: &Value, disks: Vec<Value>) -> Value {
    let count: usize = disks.iter().filter_map(|disk| disk["differences"].as_array()).map(Vec::len).sum();
    let unchecked = disks.iter().filter(|disk| !is_served(disk) && disk["state"] != "lost").count();
    let chunks = &status["chunks"];
    let whole = chunks["degraded"] == 0 && chunks["lost"] == 0;
    json!({
        "sound": count == 0 && unchecked == 0 && whole,
        "differences": count,
        "disks_unchecked": unchecked,
        "chunks": chunks,
        "disks": disks,
    })
}

fn is_served(disk: &Value) -> bool {
    matches!(disk["state"].as_str(), Some("in" | "draining" | "drained"))
}

fn for_people(report: &Value) -> String {
    let mut out = match report["sound"].as_bool() {
        Some(true) => "sound: every disk holds what the metadata says\n\n".to_owned(),
        _ => format!(
            "NOT SOUND: {} differences, {} disks not reached, {} chunks degraded, {} lost\n\n",
            report["differences"], report["disks_unchecked"], report["chunks"]["degraded"], report["chunks"]["lost"]
        ),
    };
    let (mut disks, mut rows) = (Vec::new(), Vec::new());
    for disk in report["disks"].as_array().into_iter().flatten() {
        let cell = |name: &str| disk[name].as_str().map_or_else(|| disk[name].to_string(), str::to_owned);
        let found = disk["differences"].as_array().map_or(0, Vec::len);
        disks.push(vec![cell("disk"), cell("state"), cell("shards"), found.to_string(), cell("path")]);
        for one in disk["differences"].as_array().into_iter().flatten() {
            let cell = |name: &str| one[name].as_str().map_or_else(|| one[name].to_string(), str::to_owned);
            rows.push(vec![
                disk["disk"].to_string(),
                cell("kind"),
                cell("chunk"),
                cell("placement"),
                cell("have"),
                cell("want"),
            ]);
        }
    }
    out.push_str(&table(&["disk", "state", "shards", "differences", "path"], &disks));
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&table(&["disk", "kind", "chunk", "placement", "have", "want"], &rows));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{for_people, report};
    use serde_json::json;

    #[test]
    fn only_a_whole_and_fully_compared_cluster_is_sound() {
        let of = |degraded: u64, state: &str, differences: serde_json::Value| {
            let disk = json!({"disk": 1, "path": "/d", "state": state, "shards": 3, "differences": differences});
            report(&json!({"chunks": {"degraded": degraded, "lost": 0}}), vec![disk])
        };
        assert_eq!(of(0, "in", json!([]))["sound"], true);
        assert_eq!(of(0, "lost", json!([]))["sound"], true, "its chunks are counted as degraded while they are");
        assert_eq!(of(1, "in", json!([]))["sound"], false);
        assert_eq!(of(0, "silent", json!([]))["sound"], false);
        let missing = json!([{"kind": "missing", "chunk": "c1", "placement": "p2", "have": 0, "want": 9}]);
        let report = of(0, "in", missing);
        assert_eq!(report["sound"], false);
        let text = for_people(&report);
        assert!(text.starts_with("NOT SOUND: 1 differences") && text.contains("missing"), "{text}");
    }
}
