//! Why a command ended, and the exit code that says it to scripts.

use s3_gateway::http::client::ClientError;

/// Wrong use of the command line.
pub const USAGE: i32 = 2;
const FAILED: i32 = 1;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const NOT_PERMITTED: i32 = 5;
const UNREACHABLE: i32 = 6;
const PARTIAL: i32 = 7;
const WOULD_CHANGE: i32 = 8;
const TIMED_OUT: i32 = 124;

/// A command that did not do all it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub exit_code: i32,
    /// What failed, why, and what to do; empty if it was said already.
    pub message: String,
}

impl Failure {
    fn new(exit_code: i32, message: impl Into<String>) -> Failure {
        Failure { exit_code, message: message.into() }
    }

    /// It failed.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::new(FAILED, message)
    }

    /// It failed because of `cause`, which is told with its own causes.
    pub fn caused(what: &str, cause: &dyn std::error::Error) -> Failure {
        let mut message = format!("{what}: {cause}");
        let mut next = cause.source();
        while let Some(cause) = next {
            message.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        Failure::new(FAILED, message)
    }

    /// The arguments cannot be right.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(USAGE, message)
    }

    /// What is there stands against it.
    pub fn conflict(message: impl Into<String>) -> Failure {
        Failure::new(CONFLICT, message)
    }

    /// What was named is not there.
    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(NOT_FOUND, message)
    }

    /// Some was done and some was not.
    pub fn partial(message: impl Into<String>) -> Failure {
        Failure::new(PARTIAL, message)
    }

    /// A dry run that found something to do.
    pub fn would_change() -> Failure {
        Failure::new(WOULD_CHANGE, "")
    }

    /// Standard output was closed: there is nobody left to tell.
    pub fn nobody_reads() -> Failure {
        Failure::new(0, "")
    }

    /// No answer from a server.
    pub fn no_answer(error: &ClientError) -> Failure {
        let code = match error {
            ClientError::Connect { .. } | ClientError::Lost(_) => UNREACHABLE,
            ClientError::TimedOut => TIMED_OUT,
            ClientError::Request(_) => FAILED,
        };
        let advice = match error {
            ClientError::Connect { .. } => "; is the server running? --admin-addr or BIXI_ADMIN_ADDR says where it is",
            _ => "",
        };
        Failure::new(code, format!("{error}{advice}"))
    }

    /// A server's refusal: HTTP status, code and text.
    pub fn refused(what: &str, status: u16, code: &str, message: &str) -> Failure {
        let exit_code = match status {
            404 => NOT_FOUND,
            409 | 412 => CONFLICT,
            401 | 403 => NOT_PERMITTED,
            503 => UNREACHABLE,
            _ => FAILED,
        };
        let message = message.trim_end_matches('.');
        let advice = match code {
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
                "; are these the credentials of this server? See --credentials"
            }
            "RequestTimeTooSkewed" => "; set this machine's clock",
            "BucketNotEmpty" => {
                "; remove its objects first (bixi object rm --recursive), or delete it --with-objects, into the trash"
            }
            _ => "",
        };
        Failure::new(exit_code, format!("{what}: {message} ({status} {code}){advice}"))
    }
}
