//! Owns: why a request is refused, as a value that teaches: status, stable code, one line for people. What was wrong,
//! the limit and its setting, what to do instead.
//! Never: sockets, or how it is written out.

use crate::http::Reject;
use crate::op::{Failure, Verb};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The response's status.
    pub status: u16,
    /// A stable word for programs.
    pub code: &'static str,
    /// One line for people, without a line end; printable.
    pub message: String,
    /// The methods that the path has (405).
    pub allow: Option<&'static str>,
    /// When to try again, in seconds (503).
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    /// A refusal with nothing but these.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), allow: None, retry_after_s: None }
    }

    /// 503 with a reason: not ready, draining, overloaded.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { retry_after_s: Some(RETRY_AFTER_S), ..ApiError::new(503, code, message) }
    }

    /// 408: a head or a body that does not come in time. `setting` names the deadline.
    #[must_use]
    pub fn timeout(setting: &str) -> ApiError {
        ApiError::new(408, "request_timeout", format!("the request did not come in time ({setting})"))
    }
}

impl From<Reject> for ApiError {
    fn from(reject: Reject) -> ApiError {
        ApiError::new(reject.status, reject.code, reject.message)
    }
}

/// Seconds after which a request that met a 503 is worth another try.
pub const RETRY_AFTER_S: u32 = 1;

/// A text for people and its stable code, without allocation: what can happen on the path of a good request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// The response's status.
    pub status: u16,
    /// A stable word for programs.
    pub code: &'static str,
    /// One line, without a line end; no quotes or backslashes, so that it stands in JSON as it is.
    pub message: &'static str,
}

/// 404 of the four calls.
#[must_use]
pub fn not_found(verb: Verb) -> Fixed {
    let message = match verb {
        Verb::Update => "key not found: PUT /set creates it",
        Verb::Get | Verb::Set | Verb::Delete => "key not found",
    };
    Fixed { status: 404, code: "key_not_found", message }
}

/// What a failure is to a client.
#[must_use]
pub fn failure(failure: Failure) -> Fixed {
    let (status, code, message) = match failure {
        Failure::NoPrimary => (
            503,
            "no_primary",
            "the primary of this key's shard cannot be reached; not applied: try again (GET /cluster shows the shards)",
        ),
        Failure::Draining => (503, "draining", "this node is stopping; not applied: ask another node"),
        Failure::Overloaded => (
            503,
            "overloaded",
            "too many requests are under way (limits.max_inflight_bytes); not applied: try again later",
        ),
        Failure::DiskSlow => (
            503,
            "disk_slow",
            "the disk of the shard's primary does not answer in time (deadlines.disk_ms); not applied: try again later",
        ),
        Failure::Corrupt => (
            503,
            "corrupt",
            "this shard's data is damaged and there is no other copy; not applied: \
             the node's log names the file, and dkv log verify checks it",
        ),
        Failure::Unknown => (504, "outcome_unknown", "outcome unknown: the write may have been applied"),
        Failure::DiskFull => (
            507,
            "disk_full",
            "the disk of the shard's primary is full; not applied: free space or delete keys, reads go on",
        ),
        Failure::ValueTooLarge => (
            413,
            "value_too_large",
            "value too large for the primary of this key's shard (limits.max_value_bytes in its settings)",
        ),
        Failure::KeyTooLong => (
            414,
            "key_too_long",
            "key too long for the primary of this key's shard (limits.max_key_bytes in its settings)",
        ),
    };
    Fixed { status, code, message }
}

/// Bytes of a client as they may stand in a message: printable ASCII, at most 40 of them.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 40;
    let mut text = bytes[..bytes.len().min(MOST)].escape_ascii().to_string();
    if bytes.len() > MOST {
        text.push_str("...");
    }
    text
}
