//! Owns: what an answer looks like: outcome or refusal → the response's bytes, as text or JSON, with or without its
//! body. Success, 404 and 412 are written without allocation.
//! Never: sockets, or why the answer is what it is.

use super::error::{ApiError, Fixed, RETRY_AFTER_S, failure, not_found};
use crate::http::head::Host;
use crate::http::response::{ContentType, DateText, Persistence, ResponseHead};
use crate::http::{Head, Version};
use crate::id::Lsn;
use crate::op::{Outcome, Verb};

/// What of a request its answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// HEAD: no body.
    pub head_only: bool,
    /// Errors as JSON.
    pub json: bool,
    /// What becomes of the connection.
    pub persistence: Persistence,
}

impl About {
    /// For a request that could not be read.
    pub const UNREADABLE: About = About { head_only: false, json: false, persistence: Persistence::Close };

    /// For the request with this head.
    #[must_use]
    pub fn new(head: &Head<'_>) -> About {
        let persistence = match (head.keep_alive, head.version) {
            (false, _) => Persistence::Close,
            (true, Version::Http11) => Persistence::KeepAlive,
            (true, Version::Http10) => Persistence::KeepAliveHttp10,
        };
        About { head_only: head.method == "HEAD", json: head.accepts_json, persistence }
    }

    /// The same, but the connection is closed.
    #[must_use]
    pub fn closing(self) -> About {
        About { persistence: Persistence::Close, ..self }
    }
}

/// Appends the answer to one of the four calls.
pub fn outcome(out: &mut Vec<u8>, about: About, verb: Verb, outcome: &Outcome<'_>, date: &DateText) {
    match *outcome {
        Outcome::Found { lsn, value, behind_ms } => {
            found_head(out, about, lsn, value.len(), behind_ms, date);
            if !about.head_only {
                out.extend_from_slice(value);
            }
        }
        Outcome::Created(lsn) => ok(out, about, 201, Some(lsn), date),
        Outcome::Replaced(lsn) => ok(out, about, 200, Some(lsn), date),
        Outcome::Deleted => ok(out, about, 200, None, date),
        Outcome::NotFound => fixed(out, about, not_found(verb), date),
        Outcome::NotModified(lsn) => {
            let head = plain(about, 304, ContentType::Text, 0);
            ResponseHead { content: None, etag: Some(lsn.0), ..head }.write(out, date);
        }
        Outcome::PreconditionFailed(present) => precondition_failed(out, about, present, date),
        Outcome::Failed(why) => fixed(out, about, failure(why), date),
    }
}

/// Appends the head of a value of `len` bytes. The value must follow, unless `about.head_only`: so that it can be
/// read from the log straight into `out`.
pub fn found_head(out: &mut Vec<u8>, about: About, lsn: Lsn, len: usize, behind_ms: Option<u64>, date: &DateText) {
    let head = plain(about, 200, ContentType::Bytes, len);
    ResponseHead { etag: Some(lsn.0), behind_ms, ..head }.write(out, date);
}

/// Appends a whole response with this body.
pub fn text(out: &mut Vec<u8>, about: About, status: u16, kind: ContentType, body: &[u8], date: &DateText) {
    with_body(out, about, plain(about, status, kind, body.len()), &[body], date);
}

/// Appends a refusal.
pub fn error(out: &mut Vec<u8>, about: About, error: &ApiError, date: &DateText) {
    let (kind, body) = if about.json {
        (ContentType::Json, json_error(error.code, &error.message))
    } else {
        (ContentType::Text, format!("{}\n", error.message))
    };
    let head = plain(about, error.status, kind, body.len());
    let head = ResponseHead { allow: error.allow, retry_after_s: error.retry_after_s, ..head };
    with_body(out, about, head, &[body.as_bytes()], date);
}

/// The status of an outcome.
#[must_use]
pub fn status(outcome: &Outcome<'_>) -> u16 {
    match outcome {
        Outcome::Found { .. } | Outcome::Replaced(_) | Outcome::Deleted => 200,
        Outcome::Created(_) => 201,
        Outcome::NotFound => 404,
        Outcome::NotModified(_) => 304,
        Outcome::PreconditionFailed(_) => 412,
        Outcome::Failed(why) => failure(*why).status,
    }
}

/// The guide: `/`.
#[must_use]
pub fn guide_text(head: &Head<'_>) -> String {
    let host = head.host.map_or("localhost:8080", Host::shown);
    format!(
        "DistributedKVStore: keys and values are bytes. Any node takes any key.

  curl -X PUT    'http://{host}/set?key=K&value=V'     201 new, 200 replaced
  curl           'http://{host}/get?key=K'             the value, byte for byte
  curl -X POST   'http://{host}/update?key=K&value=V'  404 where the key is absent
  curl -X DELETE 'http://{host}/delete?key=K'

Quote the URL: the shell ends a command at an unquoted &.
Special characters:  curl -G -X PUT --data-urlencode 'key=a b&c' --data-urlencode 'value=1+1' http://{host}/set
A file as value:     curl -T FILE 'http://{host}/set?key=K'
Compare and swap:    curl -X PUT -H 'If-Match: \"ETAG\"' 'http://{host}/set?key=K&value=V'
Only if absent:      curl -X PUT -H 'If-None-Match: *' 'http://{host}/set?key=K&value=V'

Also: /where?key=K  /cluster  /livez  /readyz?verbose  /metrics
"
    )
}

fn plain(about: About, status: u16, kind: ContentType, len: usize) -> ResponseHead {
    ResponseHead::new(status, about.persistence, kind, len)
}

fn ok(out: &mut Vec<u8>, about: About, status: u16, lsn: Option<Lsn>, date: &DateText) {
    let head = plain(about, status, ContentType::Text, 3);
    with_body(out, about, ResponseHead { etag: lsn.map(|l| l.0), ..head }, &[b"OK\n"], date);
}

fn fixed(out: &mut Vec<u8>, about: About, what: Fixed, date: &DateText) {
    let head = ResponseHead {
        retry_after_s: (what.status == 503).then_some(RETRY_AFTER_S),
        ..plain(about, what.status, ContentType::Text, 0)
    };
    line(out, about, head, what.code, &[what.message.as_bytes()], date);
}

fn precondition_failed(out: &mut Vec<u8>, about: About, present: Option<Lsn>, date: &DateText) {
    let head = ResponseHead { etag: present.map(|l| l.0), ..plain(about, 412, ContentType::Text, 0) };
    let mut number = itoa::Buffer::new();
    let quote: &[u8] = if about.json { b"\\\"" } else { b"\"" };
    let parts: &[&[u8]] = match present {
        Some(lsn) => &[b"precondition failed: the present ETag is ", quote, number.format(lsn.0).as_bytes(), quote],
        None => &[b"precondition failed: the key is absent"],
    };
    line(out, about, head, "precondition_failed", parts, date);
}

/// A one-line text of clean parts, or the same as JSON, without allocation. The length in `head` is set here.
fn line(out: &mut Vec<u8>, about: About, head: ResponseHead, code: &str, parts: &[&[u8]], date: &DateText) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    if !about.json {
        let head = ResponseHead { content: Some((ContentType::Text, len + 1)), ..head };
        with_body(out, about, head, parts, date);
        if !about.head_only {
            out.push(b'\n');
        }
        return;
    }
    let (open, middle, close) = (br#"{"error":{"code":""#, br#"","message":""#, b"\"}}\n");
    let len = len + open.len() + code.len() + middle.len() + close.len();
    let head = ResponseHead { content: Some((ContentType::Json, len)), ..head };
    with_body(out, about, head, &[open, code.as_bytes(), middle], date);
    if !about.head_only {
        parts.iter().for_each(|p| out.extend_from_slice(p));
        out.extend_from_slice(close);
    }
}

fn with_body(out: &mut Vec<u8>, about: About, head: ResponseHead, parts: &[&[u8]], date: &DateText) {
    head.write(out, date);
    if !about.head_only {
        parts.iter().for_each(|p| out.extend_from_slice(p));
    }
}

fn json_error(code: &str, message: &str) -> String {
    format!("{}\n", serde_json::json!({ "error": { "code": code, "message": message } }))
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
