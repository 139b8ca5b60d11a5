//! `bixi status`: is it safe, is it fast, is it full. The server's tree is printed as it is with
//! `--output json`; for people the three answers come first.

use platform::Platform;
use serde_json::Value;

use super::failure::Failure;
use super::output::{print_bytes, print_json, printable};
use super::session::Admin;
use crate::args::{Output, ReadArgs};

/// Runs the command.
pub async fn run(platform: Platform, args: ReadArgs) -> Result<(), Failure> {
    let status = Admin::new(&platform, &args.access)?.call("GET", "/v1/status", None).await?;
    match args.output {
        Output::Json => print_json(&status),
        Output::Table => print_bytes(for_people(&status).as_bytes()),
    }
}

/// The lines of the table: the verdict, then every value of the tree.
fn for_people(status: &Value) -> String {
    let mut out = format!("{}\n\n", verdict(status));
    let mut rows = Vec::new();
    flatten("", status, &mut rows);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        out.push_str(&format!("{name:width$}  {}\n", printable(&value)));
    }
    out
}

/// Never a green lamp for an empty or unchecked cluster.
fn verdict(status: &Value) -> String {
    let count = |name: &str| status["chunks"][name].as_u64();
    let ready = status["ready"].as_bool().unwrap_or(false);
    let (Some(healthy), Some(crowded), Some(degraded), Some(lost)) =
        (count("healthy"), count("crowded"), count("degraded"), count("lost"))
    else {
        return "not checked: the server gives no count of chunks".to_owned();
    };
    let sum = healthy + crowded + degraded + lost;
    match (ready, sum, lost, degraded) {
        (false, ..) => "not ready: requests are refused for now".to_owned(),
        (_, 0, ..) => "empty: nothing is stored yet".to_owned(),
        (_, _, 1.., _) => format!("DATA LOST: {lost} of {sum} chunks cannot be read"),
        (_, _, _, 1..) => format!("degraded: {degraded} of {sum} chunks lack redundancy, repair is under way"),
        _ if crowded > 0 => format!("safe, but {crowded} of {sum} chunks are crowded for lack of disks"),
        _ => format!("safe: all {sum} chunks have their full redundancy"),
    }
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        // The tree is the server's own; its depth is that of the code that makes it, and bounded here.
        Value::Object(map) if name.matches('.').count() < 8 => {
            for (key, value) in map {
                flatten(&below(key), value, rows);
            }
        }
        Value::Array(values) if name.matches('.').count() < 8 => {
            for (index, value) in values.iter().enumerate() {
                flatten(&below(&index.to_string()), value, rows);
            }
        }
        Value::String(text) => rows.push((name.to_owned(), text.clone())),
        other => rows.push((name.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::for_people;
    use serde_json::json;

    #[test]
    fn only_checked_and_whole_clusters_are_safe() {
        let of = |ready: bool, healthy: u64, degraded: u64, lost: u64| {
            let chunks = json!({"healthy": healthy, "crowded": 0, "degraded": degraded, "lost": lost});
            for_people(&json!({"ready": ready, "chunks": chunks}))
        };
        assert!(of(true, 3, 0, 0).starts_with("safe"));
        for text in
            [of(true, 0, 0, 0), of(false, 3, 0, 0), of(true, 3, 1, 0), of(true, 3, 0, 1), for_people(&json!({}))]
        {
            assert!(!text.starts_with("safe"), "{text}");
        }
        assert!(of(true, 3, 0, 0).contains("chunks.healthy   3\n"));
    }
}
