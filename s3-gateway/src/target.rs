//! Which bucket and key a request means: path style or virtual host. Pure.
//!
//! Invariant: keys are the decoded bytes of the path, nothing more; they are never normalised and
//! never become paths of a file system.

use http::HeaderMap;
use http::request::Parts;

use crate::errors::{Code, S3Error, S3Result};
use crate::uri::{self, Query};

/// What a request points at.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// None for the service itself.
    pub bucket: Option<String>,
    /// None for the bucket itself.
    pub key: Option<String>,
    /// The decoded query.
    pub query: Query,
}

impl Target {
    /// Reads path, query and host. `domains` are those whose subdomains are buckets.
    pub fn read(parts: &Parts, domains: &[String]) -> S3Result<Target> {
        let host = host(&parts.headers)?;
        let query = Query::parse(parts.uri.query().unwrap_or("")).ok_or(Code::InvalidURI)?;
        let path = uri::decode_text_path(parts.uri.path()).ok_or(Code::InvalidURI)?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        let (bucket, key) = match bucket_of_host(&host, domains) {
            Some(bucket) => (Some(bucket.to_owned()), path),
            None => match path.split_once('/') {
                Some((bucket, key)) => (Some(bucket.to_owned()), key),
                None => (Some(path.to_owned()), ""),
            },
        };
        let some = |text: String| (!text.is_empty()).then_some(text);
        Ok(Target { bucket: bucket.and_then(some), key: some(key.to_owned()), query })
    }

    /// `/bucket/key`, for error documents.
    pub fn resource(&self) -> String {
        match (&self.bucket, &self.key) {
            (Some(bucket), Some(key)) => format!("/{bucket}/{key}"),
            (Some(bucket), None) => format!("/{bucket}"),
            _ => "/".to_owned(),
        }
    }
}

/// The host without its port, in lower case. Exactly one `Host` header is needed.
fn host(headers: &HeaderMap) -> S3Result<String> {
    let mut values = headers.get_all(http::header::HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(S3Error::new(Code::BadRequest, "Exactly one Host header is required."));
    };
    let text = value.to_str().map_err(|_| S3Error::new(Code::BadRequest, "The Host header is not a host."))?;
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => text,
    };
    Ok(name.to_ascii_lowercase())
}

/// `bucket` of `bucket.domain`.
fn bucket_of_host<'a>(host: &'a str, domains: &[String]) -> Option<&'a str> {
    let of = |domain: &String| host.strip_suffix(domain.as_str())?.strip_suffix('.');
    domains.iter().find_map(of).filter(|bucket| !bucket.is_empty())
}

#[cfg(test)]
mod tests {
    use super::Target;
    use crate::errors::Code;

    fn target(uri: &str, host: &str) -> Result<(Option<String>, Option<String>), Code> {
        let parts = http::Request::builder().uri(uri).header("host", host).body(()).unwrap().into_parts().0;
        let domains = ["s3.example.com".to_owned(), "localhost".to_owned()];
        Target::read(&parts, &domains).map(|t| (t.bucket, t.key)).map_err(|error| error.code)
    }

    fn pair(bucket: &str, key: &str) -> Result<(Option<String>, Option<String>), Code> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok((some(bucket), some(key)))
    }

    #[test]
    fn both_styles_name_buckets() {
        assert_eq!(target("/b/k", "localhost:9000"), pair("b", "k"));
        assert_eq!(target("/k/l", "b.localhost:9000"), pair("b", "k/l"));
        assert_eq!(target("/k", "a.b.S3.Example.com"), pair("a.b", "k"));
        assert_eq!(target("/", "b.localhost"), pair("b", ""));
        assert_eq!(target("/b/", "127.0.0.1:9000"), pair("b", ""));
        assert_eq!(target("/", "s3.example.com"), pair("", ""));
        assert_eq!(target("/b/k", "[::1]:9000"), pair("b", "k"));
    }

    #[test]
    fn keys_are_not_normalised() {
        assert_eq!(target("/b/a%2Fb//../c+d%20", "h"), pair("b", "a/b//../c+d "));
        assert_eq!(target("/b//k", "h"), pair("b", "/k"));
        assert_eq!(target("/b/%00..%5C", "h"), pair("b", "\0..\\"));
        assert_eq!(target("/b/%ff", "h"), Err(Code::InvalidURI));
        assert_eq!(target("/b/%2", "h"), Err(Code::InvalidURI));
    }
}
