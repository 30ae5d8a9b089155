//! Answers, byte for byte.

use super::*;
use crate::http::response::format_date;
use crate::op::Failure;

const PLAIN: About = About { head_only: false, json: false, persistence: Persistence::KeepAlive };
const JSON: About = About { json: true, ..PLAIN };

fn render(about: About, verb: Verb, what: Outcome<'_>) -> String {
    let mut out = Vec::new();
    outcome(&mut out, about, verb, &what, &format_date(0));
    String::from_utf8(out).unwrap()
}

/// Status line, the headers that are not always there, and the body; checks what is always there.
fn parts(response: &str) -> (String, Vec<String>, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap();
    let mut headers: Vec<String> = lines.collect();
    let always = ["Date: Thu, 01 Jan 1970 00:00:00 GMT", "X-Content-Type-Options: nosniff"];
    assert!(always.iter().all(|h| headers.iter().any(|l| l == h)), "{response}");
    headers.retain(|h| !always.contains(&&**h) && !h.starts_with("Content-Type"));
    (status, headers, body.to_owned())
}

fn check(response: &str, status: &str, headers: &[&str], body: &str) {
    let (s, h, b) = parts(response);
    assert_eq!((&*s, &*b), (format!("HTTP/1.1 {status}").as_str(), body));
    let mut expected: Vec<String> = headers.iter().map(|h| (*h).to_string()).collect();
    if !status.starts_with("304") {
        expected.insert(0, format!("Content-Length: {}", body.len()));
    }
    assert_eq!(h, expected);
}

#[test]
fn outcomes_as_text() {
    let found = Outcome::Found { lsn: Lsn(7), value: b"v\n", behind_ms: None };
    check(&render(PLAIN, Verb::Get, found), "200 OK", &["ETag: \"7\""], "v\n");
    let stale = Outcome::Found { lsn: Lsn(7), value: b"", behind_ms: Some(7) };
    check(&render(PLAIN, Verb::Get, stale), "200 OK", &["ETag: \"7\"", "Consistency: stale", "Behind-Ms: 7"], "");
    check(&render(PLAIN, Verb::Set, Outcome::Created(Lsn(8))), "201 Created", &["ETag: \"8\""], "OK\n");
    check(&render(PLAIN, Verb::Set, Outcome::Replaced(Lsn(9))), "200 OK", &["ETag: \"9\""], "OK\n");
    check(&render(PLAIN, Verb::Delete, Outcome::Deleted), "200 OK", &[], "OK\n");
    check(&render(PLAIN, Verb::Get, Outcome::NotFound), "404 Not Found", &[], "key not found\n");
    check(&render(PLAIN, Verb::Delete, Outcome::NotFound), "404 Not Found", &[], "key not found\n");
    let update = "key not found: PUT /set creates it\n";
    check(&render(PLAIN, Verb::Update, Outcome::NotFound), "404 Not Found", &[], update);
    check(&render(PLAIN, Verb::Get, Outcome::NotModified(Lsn(3))), "304 Not Modified", &["ETag: \"3\""], "");
    let failed = Outcome::PreconditionFailed(Some(Lsn(5)));
    let text = "precondition failed: the present ETag is \"5\"\n";
    check(&render(PLAIN, Verb::Set, failed), "412 Precondition Failed", &["ETag: \"5\""], text);
    let text = "precondition failed: the key is absent\n";
    check(&render(PLAIN, Verb::Set, Outcome::PreconditionFailed(None)), "412 Precondition Failed", &[], text);
}

#[test]
fn failures_say_whether_the_write_was_applied() {
    for (why, status, retry) in [
        (Failure::NoPrimary, 503, true),
        (Failure::Draining, 503, true),
        (Failure::Overloaded, 503, true),
        (Failure::DiskSlow, 503, true),
        (Failure::Corrupt, 503, true),
        (Failure::Unknown, 504, false),
        (Failure::DiskFull, 507, false),
        (Failure::ValueTooLarge, 413, false),
        (Failure::KeyTooLong, 414, false),
    ] {
        let response = render(PLAIN, Verb::Set, Outcome::Failed(why));
        let (line, headers, body) = parts(&response);
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{line}");
        assert!(line.len() > "HTTP/1.1 503 ".len(), "a reason phrase");
        assert_eq!(headers.iter().any(|h| h == "Retry-After: 1"), retry);
        assert_eq!(status == 504, body == "outcome unknown: the write may have been applied\n");
        assert!(status >= 503 && status != 504 && body.contains("not applied") || matches!(status, 504 | 413 | 414));
        let quoted = |b| matches!(b, b'"' | b'\\' | 0..0x20 | 0x7f..);
        assert!(!failure(why).message.bytes().any(quoted), "stands in JSON as it is");
    }
}

#[test]
fn errors_as_json() {
    for (verb, what, code) in [
        (Verb::Get, Outcome::NotFound, "key_not_found"),
        (Verb::Set, Outcome::PreconditionFailed(Some(Lsn(5))), "precondition_failed"),
        (Verb::Set, Outcome::PreconditionFailed(None), "precondition_failed"),
        (Verb::Set, Outcome::Failed(Failure::Unknown), "outcome_unknown"),
    ] {
        let response = render(JSON, verb, what);
        assert!(response.contains("Content-Type: application/json\r\n"));
        let (_, headers, body) = parts(&response);
        assert!(headers.contains(&format!("Content-Length: {}", body.len())));
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["error"]["code"], code);
        assert!(json["error"]["message"].as_str().unwrap().len() > 5);
    }
    let mut out = Vec::new();
    let refusal = ApiError::new(400, "bad_percent", "a \"quote\" and a \\");
    error(&mut out, JSON, &refusal, &format_date(0));
    let (_, _, body) = parts(std::str::from_utf8(&out).unwrap());
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["error"]["message"], refusal.message);
}

#[test]
fn refusals_as_text() {
    let mut out = Vec::new();
    let refusal = ApiError { allow: Some("PUT"), ..ApiError::new(405, "method_not_allowed", "use PUT") };
    error(&mut out, PLAIN.closing(), &refusal, &format_date(0));
    let response = String::from_utf8(out).unwrap();
    check(&response, "405 Method Not Allowed", &["Allow: PUT", "Connection: close"], "use PUT\n");
}

#[test]
fn head_says_all_that_get_says_but_the_body() {
    for json in [false, true] {
        for (verb, what) in [
            (Verb::Get, Outcome::Found { lsn: Lsn(7), value: b"value", behind_ms: Some(0) }),
            (Verb::Get, Outcome::NotFound),
            (Verb::Get, Outcome::PreconditionFailed(Some(Lsn(12)))),
            (Verb::Get, Outcome::Failed(Failure::NoPrimary)),
            (Verb::Get, Outcome::NotModified(Lsn(1))),
        ] {
            let get = render(About { json, ..PLAIN }, verb, what);
            let head = render(About { json, head_only: true, ..PLAIN }, verb, what);
            assert_eq!(head, get[..get.find("\r\n\r\n").unwrap() + 4]);
        }
    }
}

#[test]
fn what_becomes_of_the_connection_is_said_where_it_must_be() {
    for (persistence, header) in [
        (Persistence::KeepAlive, None),
        (Persistence::KeepAliveHttp10, Some("Connection: keep-alive")),
        (Persistence::Close, Some("Connection: close")),
    ] {
        let (_, headers, _) = parts(&render(About { persistence, ..PLAIN }, Verb::Get, Outcome::NotFound));
        assert_eq!(headers.iter().find(|h| h.starts_with("Connection")).map(String::as_str), header);
    }
}
