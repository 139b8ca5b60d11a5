//! `bixi object ls`, and the pages of keys that recursive commands walk.

use std::collections::VecDeque;

use bytes::Bytes;
use platform::Platform;
use serde_json::json;
use types::size::format_size;

use super::bucket;
use super::failure::Failure;
use super::output::{print_bytes, print_line, printable};
use super::session::{Call, S3, remote_or_usage};
use crate::args::{Output, ReadArgs};

/// A key or a common prefix.
pub struct Row {
    /// Its name.
    pub key: String,
    /// Bytes; `None` for a common prefix.
    pub size: Option<u64>,
    /// ISO 8601.
    pub modified: String,
}

/// Walks all keys below a prefix, a page at a time.
pub struct Pages<'a> {
    s3: &'a S3,
    bucket: &'a str,
    prefix: &'a str,
    delimiter: &'a str,
    token: Option<String>,
    done: bool,
}

impl<'a> Pages<'a> {
    /// `delimiter` is empty to see everything below.
    pub fn new(s3: &'a S3, bucket: &'a str, prefix: &'a str, delimiter: &'a str) -> Pages<'a> {
        Pages { s3, bucket, prefix, delimiter, token: None, done: false }
    }

    /// The next page, `None` after the last.
    pub async fn next(&mut self) -> Result<Option<VecDeque<Row>>, Failure> {
        if self.done {
            return Ok(None);
        }
        let mut query = vec![("list-type", "2"), ("encoding-type", "url"), ("prefix", self.prefix)];
        if !self.delimiter.is_empty() {
            query.push(("delimiter", self.delimiter));
        }
        let token = self.token.take();
        if let Some(token) = &token {
            query.push(("continuation-token", token));
        }
        let call = Call { method: "GET", path: self.bucket, query: &query, headers: &[] };
        let document = self.s3.document(&call, Bytes::new()).await?;
        self.token = document.child_text("NextContinuationToken").map(str::to_owned);
        self.done = self.token.is_none() || document.child_text("IsTruncated") != Some("true");
        let name = |text: &str| {
            let decoded = s3_gateway::uri::decode_text_path(text);
            decoded.ok_or_else(|| Failure::failed("the server's listing cannot be read"))
        };
        let mut rows = VecDeque::new();
        for element in &document.children {
            match element.name.as_str() {
                "Contents" => rows.push_back(Row {
                    key: name(element.child_text("Key").unwrap_or(""))?,
                    size: element.child_text("Size").and_then(|size| size.parse().ok()),
                    modified: element.child_text("LastModified").unwrap_or("").to_owned(),
                }),
                "CommonPrefixes" => rows.push_back(Row {
                    key: name(element.child_text("Prefix").unwrap_or(""))?,
                    size: None,
                    modified: String::new(),
                }),
                _ => {}
            }
        }
        rows.make_contiguous().sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Some(rows))
    }
}

/// Runs `bixi object ls`. Prints page by page, so that a long listing starts at once.
pub async fn run(platform: &Platform, target: Option<String>, recursive: bool, read: ReadArgs) -> Result<(), Failure> {
    let Some(target) = target.filter(|target| target != "s3://") else { return bucket::list(platform, read).await };
    let (bucket, prefix) = remote_or_usage(&target)?;
    let s3 = S3::find(platform, &read.access).await?;
    let mut pages = Pages::new(&s3, bucket, prefix, if recursive { "" } else { "/" });
    let mut first = true;
    if read.output == Output::Json {
        print_bytes(b"{\"schema\":1,\"objects\":[")?;
    }
    while let Some(rows) = pages.next().await? {
        let mut text = String::new();
        for row in rows {
            if read.output == Output::Json {
                let value = match row.size {
                    Some(size) => json!({"key": row.key, "size_bytes": size, "modified": row.modified}),
                    None => json!({"prefix": row.key}),
                };
                text.push_str(if first { "" } else { "," });
                text.push_str(&value.to_string());
            } else {
                let size = row.size.map_or("-".to_owned(), format_size);
                text.push_str(&format!("{:24}  {size:>10}  {}\n", row.modified, printable(&row.key)));
            }
            first = false;
        }
        print_bytes(text.as_bytes())?;
    }
    if read.output == Output::Json { print_line("]}") } else { Ok(()) }
}
