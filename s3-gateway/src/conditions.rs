//! Conditional reads (RFC 9110 section 13) and the conditions of copies. Pure.
//!
//! Conditions of writes and deletes are not decided here: they travel in the command and are
//! decided where it is applied, so that of racing writers exactly one wins.

/// What a reader asked of the object's state.
#[derive(Clone, Debug, Default)]
pub struct ReadConditions {
    /// `If-Match`.
    pub matches: Option<String>,
    /// `If-None-Match`.
    pub none_match: Option<String>,
    /// `If-Modified-Since`, milliseconds since 1970.
    pub modified_since: Option<u64>,
    /// `If-Unmodified-Since`, milliseconds since 1970.
    pub unmodified_since: Option<u64>,
}

/// What to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Serve it.
    Go,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

impl ReadConditions {
    /// Decides for an object with this ETag (without quotes) and time.
    pub fn check(&self, etag: &str, modified_ms: u64) -> Verdict {
        // Headers carry whole seconds, so the object's time is cut to them too.
        let modified = modified_ms / 1_000 * 1_000;
        match (&self.matches, self.unmodified_since) {
            (Some(tags), _) if !lists(tags, etag) => return Verdict::Failed,
            (None, Some(since)) if modified > since => return Verdict::Failed,
            _ => {}
        }
        match (&self.none_match, self.modified_since) {
            (Some(tags), _) if lists(tags, etag) => Verdict::NotModified,
            (None, Some(since)) if modified <= since => Verdict::NotModified,
            _ => Verdict::Go,
        }
    }
}

/// Whether a list of entity tags (`"a", W/"b"`, also unquoted, or `*`) names `etag`.
pub fn lists(tags: &str, etag: &str) -> bool {
    tags.split(',').map(bare_tag).any(|tag| tag == "*" || tag == etag)
}

/// An entity tag without weakness mark and quotes.
pub fn bare_tag(tag: &str) -> &str {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::{ReadConditions, Verdict, bare_tag};

    fn with(matches: &str, none: &str, modified: u64, unmodified: u64) -> ReadConditions {
        let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        let time = |value: u64| (value > 0).then_some(value);
        ReadConditions {
            matches: text(matches),
            none_match: text(none),
            modified_since: time(modified),
            unmodified_since: time(unmodified),
        }
    }

    #[test]
    fn tags_come_before_times() {
        assert_eq!(with("\"abc\"", "", 0, 1_000).check("abc", 9_000), Verdict::Go);
        assert_eq!(with("", "\"x\"", 99_000, 0).check("abc", 9_000), Verdict::Go);
        assert_eq!(with("", "abc", 1_000, 0).check("abc", 9_000), Verdict::NotModified);
        assert_eq!(with("x, *", "", 0, 0).check("abc", 9_000), Verdict::Go);
        assert_eq!(with("x", "", 0, 0).check("abc", 9_000), Verdict::Failed);
    }

    #[test]
    fn times_are_whole_seconds() {
        assert_eq!(with("", "", 9_000, 0).check("abc", 9_999), Verdict::NotModified);
        assert_eq!(with("", "", 8_000, 0).check("abc", 9_999), Verdict::Go);
        assert_eq!(with("", "", 0, 9_000).check("abc", 9_999), Verdict::Go);
        assert_eq!(with("", "", 0, 8_000).check("abc", 9_999), Verdict::Failed);
    }

    #[test]
    fn tags_lose_their_quotes() {
        for tag in ["abc", "\"abc\"", " W/\"abc\" "] {
            assert_eq!(bare_tag(tag), "abc");
        }
        assert_eq!(bare_tag("\""), "\"");
    }
}
