//! Reads the file with `access_key=` and `secret_key=` lines that a server keeps in its first
//! directory. The secret is never printed.

use std::path::Path;

use crypto::secret::Secret;
use s3_gateway::auth::signer::Credentials;

use super::failure::Failure;

/// Reads a credentials file.
pub fn read(path: &Path) -> Result<Credentials, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "cannot read credentials {shown}: {error}; name the file with --credentials or BIXI_CREDENTIALS \
             (a server keeps it in its first directory)"
        ))
    })?;
    parse(&text)
        .ok_or_else(|| Failure::usage(format!("credentials {shown} need the lines access_key=... and secret_key=...")))
}

fn parse(text: &str) -> Option<Credentials> {
    let value = |name: &str| {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut pairs = lines.filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let (access_key, secret_key) = (value("access_key")?, value("secret_key")?);
    let complete = !access_key.is_empty() && !secret_key.is_empty();
    complete.then(|| Credentials { access_key, secret_key: Secret::new(secret_key) })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn both_lines_are_needed() {
        let found = parse("# keys\naccess_key=BXA\nsecret_key=a=b/+\n").unwrap();
        assert_eq!((found.access_key.as_str(), found.secret_key.expose().as_str()), ("BXA", "a=b/+"));
        assert!(parse("access_key=BXA\n").is_none());
        assert!(parse("access_key=\nsecret_key=\n").is_none());
    }
}
