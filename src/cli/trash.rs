//! The trash: `bixi bucket delete --with-objects`, `bixi bucket trash|restore|purge`.

use std::io::{BufRead, IsTerminal};

use platform::Platform;
use s3_gateway::dates::iso8601;
use serde_json::{Value, json};
use types::size::format_size;

use super::failure::Failure;
use super::output::{print_bytes, print_json, print_line, printable, table};
use super::session::Admin;
use crate::args::{ChangeArgs, Output, ReadArgs, TrashArgs};

/// Moves a bucket with all it holds to the trash.
pub async fn delete(platform: &Platform, name: &str, how: &TrashArgs, change: &ChangeArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    let body = json!({"bucket": name, "keep_days": how.keep_days, "dry_run": true});
    // Asks only about what is there.
    let found = admin.call("POST", "/v1/trash", Some(&body)).await?;
    if change.dry_run {
        let days = found["keep_seconds"].as_f64().unwrap_or(0.0) / 86_400.0;
        print_line(&format!("would go to the trash with all it holds, for {days:.1} days: {name}"))?;
        return Err(Failure::would_change());
    }
    confirm(how.yes, name, "go to the trash with all it holds")?;
    let body = json!({"bucket": name, "keep_days": how.keep_days});
    let done = admin.call("POST", "/v1/trash", Some(&body)).await?;
    match change.output {
        Output::Json => print_json(&done),
        Output::Table => print_line(&format!(
            "bucket {name} is in the trash until {}; bixi bucket restore {} takes it out again",
            time(&done, "kept_until_ms"),
            text(&done, "id"),
        )),
    }
}

/// Lists what is in the trash.
pub async fn list(platform: &Platform, args: &ReadArgs) -> Result<(), Failure> {
    let found = Admin::new(platform, &args.access)?.call("GET", "/v1/trash", None).await?;
    match args.output {
        Output::Json => print_json(&found),
        Output::Table => {
            let buckets = found["buckets"].as_array().map(Vec::as_slice).unwrap_or_default();
            print_bytes(as_table(buckets).as_bytes())
        }
    }
}

fn as_table(buckets: &[Value]) -> String {
    let row = |one: &Value| {
        let least = if one["counted_all"].as_bool().unwrap_or(true) { "" } else { ">" };
        let until = if one["state"] == "purging" { "being purged".to_owned() } else { time(one, "kept_until_ms") };
        vec![
            text(one, "id"),
            text(one, "name"),
            text(one, "owner"),
            format!("{least}{}", one["objects"].as_u64().unwrap_or(0)),
            format!("{least}{}", format_size(one["bytes"].as_u64().unwrap_or(0))),
            time(one, "deleted_ms"),
            until,
        ]
    };
    let rows: Vec<Vec<String>> = buckets.iter().map(row).collect();
    table(&["ID", "BUCKET", "OWNER", "OBJECTS", "SIZE", "DELETED", "KEPT UNTIL"], &rows)
}

/// Takes a bucket out of the trash.
pub async fn restore(
    platform: &Platform,
    bucket: &str,
    new_name: Option<&str>,
    change: &ChangeArgs,
) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    let body = json!({"bucket": bucket, "as": new_name.unwrap_or(""), "dry_run": change.dry_run});
    let done = admin.call("POST", "/v1/trash/restore", Some(&body)).await?;
    if change.dry_run {
        print_line(&format!("would be restored: {} as {}", text(&done, "id"), text(&done, "name")))?;
        return Err(Failure::would_change());
    }
    match change.output {
        Output::Json => print_json(&done),
        Output::Table => print_line(&format!("restored bucket {}", text(&done, "name"))),
    }
}

/// Gives a bucket in the trash up.
pub async fn purge(platform: &Platform, bucket: &str, yes: bool, change: &ChangeArgs) -> Result<(), Failure> {
    let admin = Admin::new(platform, &change.access)?;
    let found = admin.call("POST", "/v1/trash/purge", Some(&json!({"bucket": bucket, "dry_run": true}))).await?;
    let (name, id) = (text(&found, "name"), text(&found, "id"));
    if change.dry_run {
        let objects = found["objects"].as_u64().unwrap_or(0);
        let bytes = format_size(found["bytes"].as_u64().unwrap_or(0));
        print_line(&format!("would be purged: {id}, bucket {name}, {objects} objects, {bytes}"))?;
        return Err(Failure::would_change());
    }
    confirm(yes, &name, "be removed for good")?;
    // By its id: another one of this name may come to the trash meanwhile.
    let done = admin.call("POST", "/v1/trash/purge", Some(&json!({ "bucket": id }))).await?;
    match change.output {
        Output::Json => print_json(&done),
        Output::Table => print_line(&format!("bucket {name} is being purged; its space comes back step by step")),
    }
}

/// Asks for the bucket's name, unless `--yes` was given; without a terminal nobody is asked.
fn confirm(yes: bool, name: &str, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(format!("bucket {name} would {what}; say --yes if that is meant")));
    }
    eprint!("Bucket {} will {what}. Type its name to go on: ", printable(name));
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed).map_err(|error| Failure::caused("cannot read the answer", &error))?;
    if typed.trim() == name { Ok(()) } else { Err(Failure::failed("that is not its name; nothing was done")) }
}

fn text(tree: &Value, name: &str) -> String {
    tree[name].as_str().unwrap_or("").to_owned()
}

fn time(tree: &Value, name: &str) -> String {
    iso8601(tree[name].as_u64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::as_table;
    use serde_json::json;

    #[test]
    fn the_trash_is_listed_with_what_it_holds_and_until_when() {
        let kept = json!({
            "id": "5:3", "name": "b", "owner": "u", "objects": 7, "bytes": 2048, "counted_all": true,
            "deleted_ms": 0, "kept_until_ms": 86_400_000, "state": "kept",
        });
        let mut purged = kept.clone();
        purged["state"] = "purging".into();
        purged["counted_all"] = false.into();
        let text = as_table(&[kept, purged]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("5:3") && lines[1].contains("1970-01-02T00:00:00"), "{text}");
        assert!(lines[2].contains(">7") && lines[2].ends_with("being purged"), "{text}");
    }
}
