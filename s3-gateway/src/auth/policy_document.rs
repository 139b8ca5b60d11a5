//! The policy of a POST form (AWS: "Creating a POST policy"): until when, and which fields. Pure.
//!
//! Invariant: fails closed. A condition that is not understood refuses the document; a field that
//! no condition names refuses the upload.

use crypto::hash::base64_decode;
use serde_json::Value;

use crate::body::form::Fields;
use crate::dates;
use crate::errors::{Code, S3Error, S3Result};

/// Bytes of a policy, encoded.
const LEN_MAX: usize = 20 << 10;
/// Fields that need no condition.
const FREE: [&str; 3] = ["policy", "x-amz-signature", "file"];

#[derive(Debug)]
enum Condition {
    Equal(String, String),
    StartsWith(String, String),
    Length(u64, u64),
}

/// A policy that was read, not yet held against anything.
#[derive(Debug)]
pub struct PolicyDocument {
    ends_ms: u64,
    conditions: Vec<Condition>,
}

fn invalid(why: impl std::fmt::Display) -> S3Error {
    S3Error::new(Code::InvalidPolicyDocument, format!("Invalid Policy: {why}"))
}

fn denied(why: impl std::fmt::Display) -> S3Error {
    S3Error::new(Code::AccessDenied, format!("Invalid according to Policy: {why}"))
}

impl PolicyDocument {
    /// Reads the form's field `policy`.
    ///
    /// # Errors
    /// `InvalidPolicyDocument` with what is wrong.
    pub fn read(encoded: &str) -> S3Result<PolicyDocument> {
        if encoded.len() > LEN_MAX {
            return Err(invalid("it is too long."));
        }
        let compact: String = encoded.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
        let bytes = base64_decode(&compact).ok_or_else(|| invalid("it is not base64."))?;
        let tree: Value = serde_json::from_slice(&bytes).map_err(|_| invalid("Invalid JSON."))?;
        let tree = tree.as_object().ok_or_else(|| invalid("Invalid JSON."))?;
        if let Some(name) = tree.keys().find(|name| !matches!(name.as_str(), "expiration" | "conditions")) {
            return Err(invalid(format!("Unexpected: '{name}'.")));
        }
        let expiration =
            tree.get("expiration").and_then(Value::as_str).ok_or_else(|| invalid("Policy missing expiration."))?;
        let ends_ms = dates::parse_iso8601(expiration)
            .ok_or_else(|| invalid(format!("Invalid 'expiration' value: '{expiration}'.")))?;
        let list =
            tree.get("conditions").and_then(Value::as_array).ok_or_else(|| invalid("Policy missing conditions."))?;
        let mut conditions = Vec::new();
        for condition in list {
            read_condition(condition, &mut conditions)?;
        }
        Ok(PolicyDocument { ends_ms, conditions })
    }

    /// Holds the policy against the form. `bucket` is the one that was posted to; `fields` has its
    /// key expanded.
    ///
    /// # Errors
    /// `AccessDenied` with the condition that does not hold.
    pub fn check(&self, bucket: &str, fields: &Fields, now_ms: u64) -> S3Result<()> {
        if now_ms >= self.ends_ms {
            return Err(denied("Policy expired."));
        }
        let value = |name: &str| if name == "bucket" { Some(bucket) } else { fields.get(name) };
        for condition in &self.conditions {
            let (holds, kind, name, wanted) = match condition {
                Condition::Equal(name, wanted) => (value(name) == Some(wanted.as_str()), "eq", name, wanted),
                Condition::StartsWith(name, wanted) => {
                    (value(name).unwrap_or_default().starts_with(wanted.as_str()), "starts-with", name, wanted)
                }
                Condition::Length(..) => continue,
            };
            if !holds {
                return Err(denied(format!("Policy Condition failed: [\"{kind}\", \"${name}\", \"{wanted}\"]")));
            }
        }
        let named = |field: &str| {
            self.conditions.iter().any(|condition| match condition {
                Condition::Equal(name, _) | Condition::StartsWith(name, _) => name == field,
                Condition::Length(..) => false,
            })
        };
        match fields.iter().find(|(name, _)| {
            !FREE.contains(name) && !name.starts_with("x-ignore-") && *name != "bucket" && !named(name)
        }) {
            Some((name, _)) => Err(denied(format!("Extra input fields: {name}"))),
            None if !named("bucket") => Err(denied("Extra input fields: bucket")),
            None => Ok(()),
        }
    }

    /// The least and the greatest length that the file may have.
    pub fn length_range(&self) -> (u64, u64) {
        self.conditions.iter().fold((0, u64::MAX), |(least, most), condition| match condition {
            Condition::Length(from, to) => (least.max(*from), most.min(*to)),
            _ => (least, most),
        })
    }
}

fn read_condition(condition: &Value, out: &mut Vec<Condition>) -> S3Result<()> {
    if let Some(pairs) = condition.as_object() {
        if pairs.len() != 1 {
            return Err(invalid(
                "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.",
            ));
        }
        for (name, value) in pairs {
            let value = value.as_str().ok_or_else(|| invalid("Invalid Simple-Condition: value must be a string."))?;
            out.push(Condition::Equal(name.to_ascii_lowercase(), value.to_owned()));
        }
        return Ok(());
    }
    let wrong = || invalid("Invalid Condition: a condition is an object or a list of three.");
    let list = condition.as_array().ok_or_else(wrong)?;
    let [kind, first, second] = list.as_slice() else { return Err(wrong()) };
    let kind = kind.as_str().ok_or_else(wrong)?.to_ascii_lowercase();
    if kind == "content-length-range" {
        let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(wrong);
        let (least, most) = (number(first)?, number(second)?);
        if least > most {
            return Err(invalid("Invalid content-length-range."));
        }
        out.push(Condition::Length(least, most));
        return Ok(());
    }
    let name = first.as_str().and_then(|name| name.strip_prefix('$')).ok_or_else(wrong)?.to_ascii_lowercase();
    let value = second.as_str().ok_or_else(wrong)?.to_owned();
    out.push(match kind.as_str() {
        "eq" => Condition::Equal(name, value),
        "starts-with" => Condition::StartsWith(name, value),
        _ => return Err(invalid(format!("Unknown condition '{kind}'."))),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::PolicyDocument;
    use crate::body::form::Fields;
    use crate::errors::Code;
    use crypto::hash::base64_encode;

    const NOW: u64 = 1_700_000_000_000;

    fn policy(conditions: &str) -> Result<PolicyDocument, Code> {
        let text = format!(r#"{{"expiration": "2100-01-01T00:00:00.000Z", "conditions": {conditions}}}"#);
        PolicyDocument::read(&base64_encode(text.as_bytes())).map_err(|error| error.code)
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.set(name, value);
        }
        fields
    }

    #[test]
    fn what_the_policy_says_is_what_is_let_in() {
        let policy = policy(
            r#"[{"bUcKeT": "b"}, ["StArTs-WiTh", "$KeY", "user/"], ["eq", "$acl", "private"],
                ["starts-with", "$content-type", ""], ["content-length-range", 3, "10"]]"#,
        )
        .unwrap();
        assert_eq!(policy.length_range(), (3, 10));
        let good =
            [("key", "user/x"), ("acl", "private"), ("content-type", "a/b"), ("policy", "p"), ("x-ignore-a", "1")];
        assert!(policy.check("b", &fields(&good), NOW).is_ok());
        assert!(policy.check("b", &fields(&good), u64::MAX).is_err(), "expired");
        assert!(policy.check("other", &fields(&good), NOW).is_err(), "another bucket");
        for (name, value) in [("key", "elsewhere"), ("acl", "public-read"), ("x-amz-meta-extra", "1")] {
            let mut changed = fields(&good);
            changed.set(name, value);
            let code = policy.check("b", &changed, NOW).map_err(|error| error.code);
            assert_eq!(code, Err(Code::AccessDenied), "{name}={value}");
        }
        assert!(policy.check("b", &fields(&[("key", "user/x")]), NOW).is_err(), "acl is missing");
    }

    #[test]
    fn a_policy_without_the_bucket_lets_nothing_in() {
        let policy = policy(r#"[["starts-with", "$key", ""]]"#).unwrap();
        assert!(policy.check("b", &fields(&[("key", "k")]), NOW).is_err());
    }

    #[test]
    fn malformed_policies_are_refused() {
        for conditions in [
            "{}",
            "[{}]",
            r#"[{"a": "b", "c": "d"}]"#,
            r#"[{"a": 1}]"#,
            r#"[["eq", "$key"]]"#,
            r#"[["eq", "key", "x"]]"#,
            r#"[["like", "$key", "x"]]"#,
            r#"[["content-length-range", 0]]"#,
            r#"[["content-length-range", -1, 0]]"#,
            r#"[["content-length-range", 5, 1]]"#,
            r#"["eq"]"#,
            "[1]",
            "7",
        ] {
            assert_eq!(policy(conditions).err(), Some(Code::InvalidPolicyDocument), "{conditions}");
        }
        for text in [
            "",
            "[]",
            "{",
            r#"{"conditions": []}"#,
            r#"{"expiration": "2100-01-01T00:00:00Z"}"#,
            r#"{"EXPIRATION": "2100-01-01T00:00:00Z", "conditions": []}"#,
            r#"{"expiration": "tomorrow", "conditions": []}"#,
        ] {
            let read = PolicyDocument::read(&base64_encode(text.as_bytes()));
            assert_eq!(read.err().map(|error| error.code), Some(Code::InvalidPolicyDocument), "{text}");
        }
        assert!(PolicyDocument::read("%%%").is_err());
        let deep = "[".repeat(100_000);
        assert!(policy(&deep).is_err());
    }
}
