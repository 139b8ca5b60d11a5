//! `bixi object cp|ls|cat|rm`.
//!
//! Recursive copies go on past a file that fails and end with exit code 7 if some were copied.
//! Keys never lead out of the target directory: a key with `..` in it is refused, not followed.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt;
use platform::Platform;
use s3_gateway::xml::write::Writer;
use serde_json::json;
use types::size::format_size;

use super::failure::Failure;
use super::listing::{self, Pages};
use super::output::{print_json, print_line, printable};
use super::progress::Progress;
use super::session::{Call, S3, remote, remote_or_usage};
use super::{download, upload};
use crate::args::{ChangeArgs, ObjectCommand, Output};

/// Files under way at once.
const AT_ONCE: usize = 8;

/// Runs the command.
pub async fn run(platform: Platform, command: ObjectCommand) -> Result<(), Failure> {
    match command {
        ObjectCommand::Cp { source, target, recursive, change } => {
            copy(&platform, &source, &target, recursive, &change).await
        }
        ObjectCommand::Ls { target, recursive, read } => listing::run(&platform, target, recursive, read).await,
        ObjectCommand::Cat { source, access } => {
            let (bucket, key) = remote_or_usage(&source)?;
            let s3 = S3::find(&platform, &access).await?;
            download::cat(&s3, bucket, key).await
        }
        ObjectCommand::Rm { target, recursive, change } => remove(&platform, &target, recursive, &change).await,
    }
}

/// One thing to copy.
enum Job {
    Up { source: PathBuf, bucket: String, key: String },
    UpInput { bucket: String, key: String },
    Down { bucket: String, key: String, target: PathBuf },
    Across { source: String, target: String },
}

impl Job {
    fn name(&self) -> String {
        match self {
            Job::Up { source, bucket, key } => format!("{} -> s3://{bucket}/{key}", source.display()),
            Job::UpInput { bucket, key } => format!("standard input -> s3://{bucket}/{key}"),
            Job::Down { bucket, key, target } => format!("s3://{bucket}/{key} -> {}", target.display()),
            Job::Across { source, target } => format!("s3://{source} -> s3://{target}"),
        }
    }
}

async fn copy(
    platform: &Platform,
    source: &str,
    target: &str,
    recursive: bool,
    change: &ChangeArgs,
) -> Result<(), Failure> {
    let s3 = S3::find(platform, &change.access).await?;
    let jobs = match (remote(source), remote(target)) {
        (None, None) => return Err(Failure::usage("one of the two names must be remote: s3://BUCKET/KEY")),
        (None, Some(target)) => ups(source, target, recursive)?,
        (Some(from), None) => downs(&s3, from, target, recursive).await?,
        (Some(from), Some(to)) => across(&s3, from, to, recursive).await?,
    };
    if change.dry_run {
        for job in &jobs {
            print_line(&format!("would copy {}", printable(&job.name())))?;
        }
        return if jobs.is_empty() { Ok(()) } else { Err(Failure::would_change()) };
    }
    let progress = Progress::start(platform);
    let (s3, shown) = (&s3, &progress);
    let results: Vec<Result<(), Failure>> = futures_util::stream::iter(&jobs)
        .map(|job| async move {
            let result = carry_out(s3, job, shown).await;
            if result.is_ok() {
                shown.file_done(&job.name());
            }
            result
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    progress.finish();
    let mut failures: Vec<Failure> = results.into_iter().filter_map(Result::err).collect();
    match change.output {
        Output::Json => print_json(&json!({
            "schema": 1, "files": progress.files(), "bytes": progress.bytes(), "failed": failures.len(),
        }))?,
        Output::Table => eprintln!("copied {} files, {}", progress.files(), format_size(progress.bytes())),
    }
    match (failures.len(), progress.files()) {
        (0, _) => Ok(()),
        (1, 0) => Err(failures.remove(0)),
        (count, copied) => {
            for failure in &failures {
                eprintln!("bixi: {}", failure.message);
            }
            let message = format!("{count} files were not copied, {copied} were");
            Err(if copied == 0 { Failure::failed(message) } else { Failure::partial(message) })
        }
    }
}

async fn carry_out(s3: &S3, job: &Job, progress: &Progress) -> Result<(), Failure> {
    match job {
        Job::Up { source, bucket, key } => upload::file(s3, source, bucket, key, progress).await,
        Job::UpInput { bucket, key } => upload::standard_input(s3, bucket, key, progress).await,
        Job::Down { bucket, key, target } => download::file(s3, bucket, key, target, progress).await,
        Job::Across { source, target } => {
            let headers = [("x-amz-copy-source".to_owned(), s3_gateway::uri::encode_path(source))];
            let call = Call { method: "PUT", path: target, query: &[], headers: &headers };
            s3.document(&call, Bytes::new()).await.map(|_| ())
        }
    }
}

/// `target` if it names a key, else with the source's last name behind it.
fn key_for(target: &str, source_name: &str) -> String {
    if target.is_empty() || target.ends_with('/') { format!("{target}{source_name}") } else { target.to_owned() }
}

/// A prefix that keys can be put behind.
fn as_folder(prefix: &str) -> String {
    if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") }
}

fn last_name(name: &str) -> &str {
    name.rsplit('/').find(|part| !part.is_empty()).unwrap_or(name)
}

fn ups(source: &str, (bucket, key): (&str, &str), recursive: bool) -> Result<Vec<Job>, Failure> {
    let bucket = bucket.to_owned();
    if source == "-" {
        if key.is_empty() || key.ends_with('/') {
            return Err(Failure::usage("standard input needs a key: s3://BUCKET/KEY"));
        }
        return Ok(vec![Job::UpInput { bucket, key: key.to_owned() }]);
    }
    let path = Path::new(source);
    let about = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(format!("there is no file {source}")),
        _ => Failure::failed(format!("cannot read {source}: {error}")),
    })?;
    if !about.is_dir() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let key = key_for(key, name);
        return Ok(vec![Job::Up { source: path.to_owned(), bucket, key }]);
    }
    if !recursive {
        return Err(Failure::usage(format!("{source} is a directory; add --recursive")));
    }
    let folder = as_folder(key);
    let mut jobs = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(directory) = pending.pop() {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", directory.display()));
        let entries: Result<Vec<_>, _> = std::fs::read_dir(&directory).map_err(failed)?.collect();
        let mut entries: Vec<PathBuf> = entries.map_err(failed)?.into_iter().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            let kind = std::fs::symlink_metadata(&entry).map_err(failed)?;
            // Links to directories are not followed: they may lead in circles.
            if kind.is_dir() {
                pending.push(entry);
            } else if std::fs::metadata(&entry).is_ok_and(|about| about.is_file()) {
                let below = entry.strip_prefix(path).unwrap_or(&entry);
                let name = below.to_str().ok_or_else(|| {
                    Failure::failed(format!("{} is not UTF-8, so it cannot be a key", entry.display()))
                })?;
                jobs.push(Job::Up { key: format!("{folder}{name}"), source: entry, bucket: bucket.clone() });
            }
        }
    }
    Ok(jobs)
}

async fn keys_below(s3: &S3, bucket: &str, prefix: &str) -> Result<Vec<String>, Failure> {
    let mut keys = Vec::new();
    let mut pages = Pages::new(s3, bucket, prefix, "");
    while let Some(rows) = pages.next().await? {
        keys.extend(rows.into_iter().map(|row| row.key));
    }
    Ok(keys)
}

async fn downs(s3: &S3, (bucket, key): (&str, &str), target: &str, recursive: bool) -> Result<Vec<Job>, Failure> {
    let bucket = bucket.to_owned();
    if !recursive {
        if key.is_empty() || key.ends_with('/') {
            return Err(Failure::usage(format!("s3://{bucket}/{key} is not one object; add --recursive")));
        }
        let into_directory = target.ends_with('/') || Path::new(target).is_dir();
        let target = if into_directory { below(Path::new(target), last_name(key))? } else { PathBuf::from(target) };
        return Ok(vec![Job::Down { bucket, key: key.to_owned(), target }]);
    }
    let folder = as_folder(key);
    let keys = keys_below(s3, &bucket, &folder).await?;
    let files = keys.into_iter().filter(|key| !key.ends_with('/'));
    let job = |key: String| {
        let target = below(Path::new(target), key.strip_prefix(folder.as_str()).unwrap_or(&key))?;
        Ok(Job::Down { bucket: bucket.clone(), key, target })
    };
    files.map(job).collect()
}

/// A path below `root`; names that would lead out of it are refused.
fn below(root: &Path, name: &str) -> Result<PathBuf, Failure> {
    let relative = Path::new(name);
    if name.contains('\0') || relative.components().any(|part| !matches!(part, Component::Normal(_))) {
        let name = printable(name);
        return Err(Failure::failed(format!("the key {name:?} cannot be a file below {}", root.display())));
    }
    Ok(root.join(relative))
}

async fn across(
    s3: &S3,
    (from_bucket, from_key): (&str, &str),
    (to_bucket, to_key): (&str, &str),
    recursive: bool,
) -> Result<Vec<Job>, Failure> {
    if !recursive {
        if from_key.is_empty() || from_key.ends_with('/') {
            return Err(Failure::usage(format!("s3://{from_bucket}/{from_key} is not one object; add --recursive")));
        }
        let target = format!("{to_bucket}/{}", key_for(to_key, last_name(from_key)));
        return Ok(vec![Job::Across { source: format!("{from_bucket}/{from_key}"), target }]);
    }
    let (from_folder, to_folder) = (as_folder(from_key), as_folder(to_key));
    let keys = keys_below(s3, from_bucket, &from_folder).await?;
    let job = |key: String| {
        let below = key.strip_prefix(from_folder.as_str()).unwrap_or(&key);
        let target = format!("{to_bucket}/{to_folder}{below}");
        Job::Across { source: format!("{from_bucket}/{key}"), target }
    };
    Ok(keys.into_iter().map(job).collect())
}

async fn remove(platform: &Platform, target: &str, recursive: bool, change: &ChangeArgs) -> Result<(), Failure> {
    let (bucket, key) = remote_or_usage(target)?;
    let s3 = S3::find(platform, &change.access).await?;
    let keys = if recursive {
        keys_below(&s3, bucket, key).await?
    } else {
        if key.is_empty() {
            return Err(Failure::usage(format!("{target} is a bucket; name a key, or add --recursive")));
        }
        // S3 deletes what is not there without a word; people want to know.
        let path = format!("{bucket}/{key}");
        s3.call(&Call { method: "HEAD", path: &path, query: &[], headers: &[] }, Bytes::new()).await?;
        vec![key.to_owned()]
    };
    if change.dry_run {
        for key in &keys {
            print_line(&format!("would remove s3://{bucket}/{}", printable(key)))?;
        }
        return if keys.is_empty() { Ok(()) } else { Err(Failure::would_change()) };
    }
    let mut removed = 0;
    for page in keys.chunks(1_000) {
        delete_page(&s3, bucket, page).await?;
        removed += page.len();
    }
    match change.output {
        Output::Json => print_json(&json!({"schema": 1, "removed": removed})),
        Output::Table => print_line(&format!("removed {removed} objects")),
    }
}

/// Deletes up to 1,000 keys in one request.
pub async fn delete_page(s3: &S3, bucket: &str, keys: &[String]) -> Result<(), Failure> {
    let mut document = Writer::with_root("Delete", keys.len() * 64);
    document.boolean("Quiet", true);
    for key in keys {
        document.open("Object").text("Key", key).close("Object");
    }
    let body = Bytes::from(document.finish("Delete"));
    let md5 = crypto::hash::base64_encode(&crypto::hash::md5(&body));
    let headers = [("content-md5".to_owned(), md5)];
    let call = Call { method: "POST", path: bucket, query: &[("delete", "")], headers: &headers };
    let answer = s3.document(&call, body).await?;
    match answer.child("Error") {
        None => Ok(()),
        Some(error) => {
            let text = |name| error.child_text(name).unwrap_or("");
            Err(Failure::partial(format!("{} was not removed: {}", printable(text("Key")), text("Message"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{as_folder, below, key_for, last_name};
    use std::path::{Path, PathBuf};

    #[test]
    fn keys_never_lead_out_of_the_target() {
        let root = Path::new("/tmp/x");
        assert_eq!(below(root, "a/b").ok(), Some(PathBuf::from("/tmp/x/a/b")));
        for name in ["../a", "a/../../b", "/etc/passwd", "a\0b", ".."] {
            assert!(below(root, name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_are_completed_like_in_cp() {
        assert_eq!(key_for("", "f"), "f");
        assert_eq!(key_for("a/", "f"), "a/f");
        assert_eq!(key_for("a", "f"), "a");
        assert_eq!(as_folder("a"), "a/");
        assert_eq!(last_name("a/b/c"), "c");
    }
}
