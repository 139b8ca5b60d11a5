//! `bixi plan`: what the cluster would move now, why, from where to where, and how long it takes.

use platform::Platform;
use serde_json::Value;
use types::size::format_size;

use super::failure::Failure;
use super::output::{print_bytes, print_json, table};
use super::session::Admin;
use crate::args::{Output, ReadArgs};

/// Moves shown to people one by one.
const SHOWN: usize = 20;

/// Runs the command.
pub async fn run(platform: Platform, args: ReadArgs) -> Result<(), Failure> {
    let plan = Admin::new(&platform, &args.access)?.call("GET", "/v1/plan", None).await?;
    match args.output {
        Output::Json => print_json(&plan),
        Output::Table => print_bytes(for_people(&plan).as_bytes()),
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

fn for_people(plan: &Value) -> String {
    let count = number(plan, "moves_total");
    if count == 0 {
        return "nothing is to be moved\n".to_owned();
    }
    let mut out = format!(
        "{count} moves, {} of new shards, about {} s at {} a second\n\n",
        format_size(number(plan, "bytes_total")),
        number(plan, "eta_seconds"),
        format_size(number(plan, "bytes_per_second")),
    );
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or("").to_owned();
    let rows = |name: &str| plan[name].as_array().cloned().unwrap_or_default();
    let total = |row: &Value| {
        let blocked = number(row, "blocked").to_string();
        vec![text(row, "why"), number(row, "moves").to_string(), format_size(number(row, "bytes")), blocked]
    };
    let totals: Vec<Vec<String>> = rows("totals").iter().map(total).collect();
    out.push_str(&table(&["WHY", "MOVES", "BYTES", "NO ROOM NOW"], &totals));
    out.push('\n');
    let disks = |row: &Value, name: &str| {
        let disks: Vec<String> = row[name].as_array().into_iter().flatten().map(Value::to_string).collect();
        if disks.is_empty() { "-".to_owned() } else { disks.join(",") }
    };
    let one = |row: &Value| {
        let state = if row["under_way"].as_bool() == Some(true) { "under way" } else { "waits" };
        let size = format_size(number(row, "bytes"));
        vec![text(row, "why"), text(row, "chunk"), size, disks(row, "from"), disks(row, "to"), state.to_owned()]
    };
    let moves: Vec<Vec<String>> = rows("moves").iter().take(SHOWN).map(one).collect();
    let more = count - moves.len() as u64;
    out.push_str(&table(&["WHY", "CHUNK", "BYTES", "FROM", "TO", "STATE"], &moves));
    if more > 0 {
        out.push_str(&format!("and {more} more\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::for_people;
    use serde_json::json;

    #[test]
    fn plan_says_what_moves_why_and_from_where_to_where() {
        assert_eq!(for_people(&json!({"moves_total": 0})), "nothing is to be moved\n");
        let text = for_people(&json!({
            "moves_total": 30, "bytes_total": 4096, "bytes_per_second": 2048, "eta_seconds": 2,
            "totals": [{"why": "drain", "moves": 30, "bytes": 4096, "blocked": 1}],
            "moves": [{"why": "drain", "chunk": "c7", "bytes": 4096, "from": [3], "to": [7], "under_way": false}],
        }));
        assert!(text.starts_with("30 moves") && text.contains("about 2 s"), "{text}");
        let line = text.lines().find(|line| line.contains("c7")).unwrap_or_default();
        assert!(line.contains("drain") && line.contains('3') && line.ends_with("waits"), "{text}");
        assert!(text.ends_with("and 29 more\n"), "{text}");
    }
}
