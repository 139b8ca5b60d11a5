//! From a file to an object: one PUT, or parts side by side when it is large.
//!
//! The file is read on the worker lane, a piece ahead of the network, so memory stays bounded.
//! A failed upload of parts is aborted.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use s3_gateway::http::client::RequestBody;
use s3_gateway::xml::write::Writer;
use tokio::sync::mpsc;

use super::failure::Failure;
use super::progress::Progress;
use super::session::{Call, S3};

/// Files above this many bytes go in parts.
const SINGLE_MAX: u64 = 32 << 20;
/// The least bytes of a part; more if there would be more than 10,000.
const PART_LEN: u64 = 16 << 20;
/// Parts under way at once.
const AT_ONCE: usize = 4;
/// Bytes read from a file at a time.
const PIECE_LEN: usize = 1 << 20;

/// Uploads a file as `bucket/key`.
pub async fn file(s3: &S3, path: &Path, bucket: &str, key: &str, progress: &Progress) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let source = Arc::new(File::open(path).map_err(failed)?);
    let len = source.metadata().map_err(failed)?.len();
    progress.expect(len);
    let target = format!("{bucket}/{key}");
    if len > SINGLE_MAX {
        return in_parts(s3, source, len, &target, progress).await;
    }
    let call = Call { method: "PUT", path: &target, query: &[], headers: &[] };
    s3.call_with(&call, piece_by_piece(s3, source, 0, len)).await?;
    progress.add(len);
    Ok(())
}

/// Uploads standard input, whose length nobody knows, as `bucket/key`.
pub async fn standard_input(s3: &S3, bucket: &str, key: &str, progress: &Progress) -> Result<(), Failure> {
    let target = format!("{bucket}/{key}");
    let first = read_input(s3).await?;
    progress.expect(first.len() as u64);
    if (first.len() as u64) < PART_LEN {
        let len = first.len() as u64;
        let call = Call { method: "PUT", path: &target, query: &[], headers: &[] };
        s3.call(&call, first).await?;
        progress.add(len);
        return Ok(());
    }
    let upload = start(s3, &target).await?;
    let work = async {
        let (mut parts, mut piece) = (Vec::new(), first);
        while !piece.is_empty() {
            let len = piece.len() as u64;
            parts.push(part(s3, &target, &upload, parts.len() as u64 + 1, RequestBody::Whole(piece)).await?);
            progress.add(len);
            piece = read_input(s3).await?;
            progress.expect(piece.len() as u64);
        }
        Ok(parts)
    };
    let result = work.await;
    finish(s3, &target, &upload, result).await
}

/// Up to a part's bytes of standard input; empty at its end.
async fn read_input(s3: &S3) -> Result<Bytes, Failure> {
    let read = s3.platform().lane().run(|| {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(PART_LEN).read_to_end(&mut bytes).map(|_| bytes)
    });
    read.await.map(Bytes::from).map_err(|error| Failure::caused("cannot read standard input", &error))
}

async fn in_parts(s3: &S3, source: Arc<File>, len: u64, target: &str, progress: &Progress) -> Result<(), Failure> {
    let part_len = PART_LEN.max(len.div_ceil(10_000));
    let upload = start(s3, target).await?;
    let work = futures_util::stream::iter(0..len.div_ceil(part_len)).map(|index| {
        let (source, upload) = (source.clone(), upload.as_str());
        async move {
            let offset = index * part_len;
            let part_len = part_len.min(len - offset);
            let body = piece_by_piece(s3, source, offset, part_len);
            let done = part(s3, target, upload, index + 1, body).await?;
            progress.add(part_len);
            Ok(done)
        }
    });
    let results: Vec<Result<(u64, String), Failure>> = work.buffered(AT_ONCE).collect().await;
    finish(s3, target, &upload, results.into_iter().collect()).await
}

async fn start(s3: &S3, target: &str) -> Result<String, Failure> {
    let call = Call { method: "POST", path: target, query: &[("uploads", "")], headers: &[] };
    let document = s3.document(&call, Bytes::new()).await?;
    let upload = document.child_text("UploadId").map(str::to_owned);
    upload.ok_or_else(|| Failure::failed("the server gave no upload id"))
}

async fn part(s3: &S3, target: &str, upload: &str, number: u64, body: RequestBody) -> Result<(u64, String), Failure> {
    let query = [("partNumber", number.to_string()), ("uploadId", upload.to_owned())];
    let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let got = s3.call_with(&Call { method: "PUT", path: target, query: &query, headers: &[] }, body).await?;
    Ok((number, got.etag.unwrap_or_default()))
}

/// Completes the upload, or aborts it if a part failed.
async fn finish(
    s3: &S3,
    target: &str,
    upload: &str,
    parts: Result<Vec<(u64, String)>, Failure>,
) -> Result<(), Failure> {
    let query = [("uploadId", upload)];
    let parts = match parts {
        Ok(parts) => parts,
        Err(failure) => {
            let abort = Call { method: "DELETE", path: target, query: &query, headers: &[] };
            // The first failure is the one to tell.
            let _ = s3.call(&abort, Bytes::new()).await;
            return Err(failure);
        }
    };
    let mut document = Writer::with_root("CompleteMultipartUpload", parts.len() * 96);
    for (number, etag) in &parts {
        document.open("Part").number("PartNumber", *number).text("ETag", etag).close("Part");
    }
    let body = Bytes::from(document.finish("CompleteMultipartUpload"));
    s3.document(&Call { method: "POST", path: target, query: &query, headers: &[] }, body).await?;
    Ok(())
}

/// A body that reads `len` bytes of the file at `offset` as the network takes them.
fn piece_by_piece(s3: &S3, source: Arc<File>, offset: u64, len: u64) -> RequestBody {
    let (send, pieces) = mpsc::channel(1);
    let lane = s3.platform().lane().clone();
    let task = async move {
        let (mut offset, end) = (offset, offset + len);
        while offset < end {
            let piece_len = PIECE_LEN.min(usize::try_from(end - offset).unwrap_or(PIECE_LEN));
            let source = source.clone();
            let read = lane.run(move || {
                let mut piece = vec![0; piece_len];
                source.read_exact_at(&mut piece, offset).map(|()| piece)
            });
            match read.await {
                Ok(piece) => {
                    offset += piece.len() as u64;
                    if send.send(Bytes::from(piece)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Dropping the sender early breaks the request off, so nothing is committed.
                    eprintln!("bixi: cannot read the file to its end: {error}");
                    return;
                }
            }
        }
    };
    s3.platform().tasks().spawn(task).detach();
    RequestBody::Channel { pieces, len }
}
