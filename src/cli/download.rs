//! From an object to a file or to standard output.
//!
//! A file is written beside its target under another name and renamed when it is whole, so a
//! broken download never looks like a file. The server verifies what it reads; the length is
//! checked here.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use s3_gateway::http::client::{Answer, RequestBody};

use super::failure::Failure;
use super::output::print_bytes;
use super::progress::Progress;
use super::session::{Call, S3};

/// Writes an object to standard output.
pub async fn cat(s3: &S3, bucket: &str, key: &str) -> Result<(), Failure> {
    let (mut answer, connection, len) = open(s3, bucket, key).await?;
    let mut left = len;
    while let Some(piece) = s3.next(&mut answer).await? {
        left = left.saturating_sub(piece.len() as u64);
        print_bytes(&piece)?;
    }
    s3.give_back(connection);
    complete(left)
}

/// Downloads an object to `target`; directories above it are made.
pub async fn file(s3: &S3, bucket: &str, key: &str, target: &Path, progress: &Progress) -> Result<(), Failure> {
    let failed = |what: &str, path: &Path, error: &std::io::Error| {
        Failure::failed(format!("cannot {what} {}: {error}", path.display()))
    };
    if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| failed("make", parent, &error))?;
    }
    let (mut answer, connection, len) = open(s3, bucket, key).await?;
    progress.expect(len);
    let partial = beside(target);
    let mut out = File::create(&partial).map_err(|error| failed("write", &partial, &error))?;
    let mut left = len;
    let result = async {
        while let Some(piece) = s3.next(&mut answer).await? {
            left = left.saturating_sub(piece.len() as u64);
            progress.add(piece.len() as u64);
            out = write(s3, out, piece).await.map_err(|error| failed("write", &partial, &error))?;
        }
        complete(left)?;
        std::fs::rename(&partial, target).map_err(|error| failed("write", target, &error))
    };
    let result = result.await;
    if result.is_err() {
        // What is there is not the object; the failure itself is the one to tell.
        let _ = std::fs::remove_file(&partial);
    } else {
        s3.give_back(connection);
    }
    result
}

async fn open(
    s3: &S3,
    bucket: &str,
    key: &str,
) -> Result<(Answer, s3_gateway::http::client::Connection, u64), Failure> {
    let path = format!("{bucket}/{key}");
    let call = Call { method: "GET", path: &path, query: &[], headers: &[] };
    let (answer, connection) = s3.send(&call, RequestBody::Whole(Bytes::new())).await?;
    let len = answer.header("content-length").and_then(|text| text.parse().ok());
    let len = len.ok_or_else(|| Failure::failed("the server does not say how long the object is"))?;
    Ok((answer, connection, len))
}

fn complete(left: u64) -> Result<(), Failure> {
    if left == 0 { Ok(()) } else { Err(Failure::failed(format!("the object ended {left} bytes early"))) }
}

async fn write(s3: &S3, mut out: File, piece: Bytes) -> Result<File, std::io::Error> {
    s3.platform().lane().run(move || out.write_all(&piece).map(|()| out)).await
}

/// Where a file is written before it is whole.
pub(super) fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".bixi-partial");
    target.with_file_name(name)
}
