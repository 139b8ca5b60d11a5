//! `bixi bucket create|list|delete`, and the way to the trash.

use bytes::Bytes;
use platform::Platform;
use serde_json::json;

use super::failure::Failure;
use super::output::{print_bytes, print_json, print_line, table};
use super::session::{Call, S3};
use super::trash;
use crate::args::{BucketCommand, ChangeArgs, Output, ReadArgs};

/// Runs the command.
pub async fn run(platform: Platform, command: BucketCommand) -> Result<(), Failure> {
    match command {
        BucketCommand::Create { name, change } => alter(&platform, &name, &change, "PUT", "created").await,
        BucketCommand::Delete { name, trash: how, change } if how.with_objects => {
            trash::delete(&platform, bare(&name), &how, &change).await
        }
        BucketCommand::Delete { name, change, .. } => alter(&platform, &name, &change, "DELETE", "deleted").await,
        BucketCommand::List(args) => list(&platform, args).await,
        BucketCommand::Trash { read, .. } => trash::list(&platform, &read).await,
        BucketCommand::Restore { bucket, new_name, change } => {
            let new_name = new_name.as_deref().map(bare);
            trash::restore(&platform, bare(&bucket), new_name, &change).await
        }
        BucketCommand::Purge { bucket, yes, change } => trash::purge(&platform, bare(&bucket), yes, &change).await,
    }
}

/// The bucket of `NAME` or `s3://NAME[/]`.
fn bare(name: &str) -> &str {
    let name = name.strip_prefix("s3://").unwrap_or(name);
    name.strip_suffix('/').unwrap_or(name)
}

async fn alter(platform: &Platform, name: &str, change: &ChangeArgs, method: &str, done: &str) -> Result<(), Failure> {
    let name = bare(name);
    let s3 = S3::find(platform, &change.access).await?;
    if change.dry_run {
        let there = exists(&s3, name).await?;
        if there == (method == "PUT") {
            return if there { Ok(()) } else { Err(Failure::not_found(format!("there is no bucket {name}"))) };
        }
        print_line(&format!("would be {done}: {name}"))?;
        return Err(Failure::would_change());
    }
    s3.call(&Call { method, path: name, query: &[], headers: &[] }, Bytes::new()).await?;
    match change.output {
        Output::Json => print_json(&json!({"bucket": name, "state": done})),
        Output::Table => print_line(&format!("{done} bucket {name}")),
    }
}

async fn exists(s3: &S3, name: &str) -> Result<bool, Failure> {
    match s3.call(&Call { method: "HEAD", path: name, query: &[], headers: &[] }, Bytes::new()).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.exit_code == Failure::not_found("").exit_code => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Prints all buckets the key's user may see.
pub async fn list(platform: &Platform, args: ReadArgs) -> Result<(), Failure> {
    let s3 = S3::find(platform, &args.access).await?;
    let document = s3.document(&Call { method: "GET", path: "", query: &[], headers: &[] }, Bytes::new()).await?;
    let buckets = document.child("Buckets").map(|buckets| buckets.children.as_slice()).unwrap_or_default();
    let text = |index: usize, name: &str| buckets[index].child_text(name).unwrap_or("").to_owned();
    let rows: Vec<Vec<String>> =
        (0..buckets.len()).map(|index| vec![text(index, "Name"), text(index, "CreationDate")]).collect();
    match args.output {
        Output::Table => print_bytes(table(&["BUCKET", "CREATED"], &rows).as_bytes()),
        Output::Json => {
            let rows: Vec<_> = rows.iter().map(|row| json!({"name": row[0], "created": row[1]})).collect();
            print_json(&json!({"schema": 1, "buckets": rows}))
        }
    }
}
