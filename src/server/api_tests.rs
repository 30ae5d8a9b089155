//! The contract, row by row, on requests as bytes.

use super::*;
use crate::http::{Decoder, KnownLines, Step};
use proptest::prelude::*;

/// What `input`, a whole request, comes to; handed to `check`, since it borrows.
fn with<R>(input: &[u8], limits: &Limits, check: impl FnOnce(Result<Call<'_>, ApiError>) -> R) -> R {
    let mut buf = input.to_vec();
    let mut scratch = Scratch::default();
    let hosts = AllowedHosts::new(
        "127.0.0.1:8080".parse().unwrap(),
        &["kv.example".into()],
        &["https://console.example".into()],
    );
    match Decoder::default().step(&mut buf, limits, &mut KnownLines::default()) {
        Step::Complete(request, _) => check(call(&request, limits, &hosts, &mut scratch)),
        Step::Reject(reject) => check(Err(reject.into())),
        other => panic!("not a whole request: {other:?}"),
    }
}

/// What `admit` says of a head whose body is still missing.
fn admitted(input: &[u8], limits: &Limits) -> Result<(), ApiError> {
    let mut buf = input.to_vec();
    match Decoder::default().step(&mut buf, limits, &mut KnownLines::default()) {
        Step::Head(head) => admit(&head, limits, &AllowedHosts::default()),
        Step::Reject(reject) => Err(reject.into()),
        other => panic!("not a head: {other:?}"),
    }
}

fn request(line: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{line} HTTP/1.1\r\nHost: localhost:8080\r\n{headers}{length}\r\n{body}").into_bytes()
}

fn refused(input: &[u8]) -> ApiError {
    with(input, &Limits::default(), |r| r.map(|call| format!("{call:?}")).unwrap_err())
}

/// Asserts the op of a request.
fn op(input: &[u8], verb: Verb, key: &[u8], value: &[u8]) {
    with(input, &Limits::default(), |result| match result {
        Ok(Call::Data(op)) => assert_eq!((op.verb, op.key, op.value), (verb, key, value)),
        other => panic!("{}: {other:?}", input.escape_ascii()),
    });
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const EMPTY: &str = "Content-Length: 0\r\n";

#[test]
fn the_four_calls() {
    op(&request("GET /get?key=a", "", ""), Verb::Get, b"a", b"");
    op(&request("HEAD /get?key=a", "", ""), Verb::Get, b"a", b"");
    op(&request("PUT /set?key=a&value=b", "", ""), Verb::Set, b"a", b"b");
    op(&request("POST /update?value=b&key=a", "", ""), Verb::Update, b"a", b"b");
    op(&request("DELETE /delete?key=a", "", ""), Verb::Delete, b"a", b"");
    op(&request("DELETE /delete?key=a", EMPTY, ""), Verb::Delete, b"a", b"");
    op(&request("PUT /set?key=a+b%2B%00&value=%ff+%26%3D=", "", ""), Verb::Set, b"a b+\0", b"\xff &==");
}

#[test]
fn the_value_is_in_the_query_or_the_body() {
    op(&request("PUT /set?key=a", "", "raw+%20&x=y"), Verb::Set, b"a", b"raw+%20&x=y");
    op(&request("PUT /set?key=a", FORM, "raw+%20&value=y"), Verb::Set, b"a", b"raw+%20&value=y");
    op(&request("PUT /set?key=a&value=", "", ""), Verb::Set, b"a", b"");
    op(&request("PUT /set?key=a", EMPTY, ""), Verb::Set, b"a", b"");
    op(&request("PUT /set?key=a&value=b", EMPTY, ""), Verb::Set, b"a", b"b");
    op(&request("POST /update", FORM, "key=a%00&value=b+c"), Verb::Update, b"a\0", b"b c");
    op(&request("POST /update?value=b", FORM, "key=a"), Verb::Update, b"a", b"b");
    let chunked =
        b"PUT /set?key=a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    op(chunked, Verb::Set, b"a", b"hi");
    let empty = b"PUT /set?key=a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    op(empty, Verb::Set, b"a", b"");
}

#[test]
fn refusals_teach() {
    let limits = Limits::default();
    let long_key = format!("GET /get?key={}", "k".repeat(limits.max_key_bytes + 1));
    let rows: &[(&str, &str, &str, u16, &str, &str)] = &[
        ("GET /get", "", "", 400, "missing_key", "no key: /get?key=K"),
        ("GET /get?key=", "", "", 400, "empty_key", "at least one byte"),
        ("GET /get?key", "", "", 400, "bad_parameter", "key without = at byte 0 of the query"),
        ("GET /get?key=a&key=b", "", "", 400, "repeated_parameter", "key is given twice, again at byte 6 of the query"),
        ("PUT /set?key=a&value=b&value=c", "", "", 400, "repeated_parameter", "value is given twice, again at byte 14"),
        ("PUT /set?key=a&value=b&c", "", "", 400, "unknown_parameter", "'c' at byte 14 of the query"),
        ("GET /get?key=a&value=b", "", "", 400, "unknown_parameter", "/get takes key and consistency"),
        ("GET /get?key=a&", "", "", 400, "unknown_parameter", "'' at byte 6"),
        ("GET /get?KEY=a", "", "", 400, "unknown_parameter", "'KEY' at byte 0"),
        ("GET /get?key=ab%4", "", "", 400, "bad_percent", "in key at byte 6 of the query: %4"),
        (
            "PUT /set?key=a&value=100%!",
            "",
            "",
            400,
            "bad_percent",
            "in value at byte 15 of the query: %! (a % itself is %25)",
        ),
        ("PUT /set?key=a", "", "", 400, "missing_value", "unquoted &"),
        ("PUT /set?key=a&value=b", "", "c", 400, "value_twice", "in the query and in the body"),
        ("PUT /set", "", "hello", 400, "missing_key", "no key: /set?key=K&value=V"),
        ("PUT /set", "", "", 400, "missing_key", "no key"),
        ("PUT /set", FORM, "value=b", 400, "missing_key", "no key"),
        ("PUT /set", FORM, "key=a", 400, "missing_value", "the form has a key but no value=V"),
        ("PUT /set", FORM, "key=a&value=%zz", 400, "bad_percent", "in value at byte 12 of the form: %zz"),
        ("PUT /set?value=x", FORM, "key=a&value=y", 400, "repeated_parameter", "at byte 6 of the form"),
        ("GET /get?key=a&consistency=strong", "", "", 400, "bad_consistency", "the only word is stale"),
        ("GET /get?key=a&consistency=stale&consistency=stale", "", "", 400, "repeated_parameter", "at byte 24"),
        ("PUT /set?key=a&value=b&consistency=stale", "", "", 400, "unknown_parameter", "'consistency'"),
        ("GET /get?key=a", "", "x", 400, "unexpected_body", "/get takes no body"),
        ("DELETE /delete?key=a", "", "x", 400, "unexpected_body", "/delete takes no body"),
        ("GET /livez", "", "x", 400, "unexpected_body", "/livez takes no body"),
        ("GET /livez?x=1", "", "", 400, "unknown_parameter", "/livez takes no parameters"),
        ("GET /readyz?verbose=no", "", "", 400, "unknown_parameter", "verbose"),
        (
            "GET /set?key=a&value=b",
            "",
            "",
            405,
            "method_not_allowed",
            "curl -X PUT 'http://localhost:8080/set?key=K&value=V'",
        ),
        ("POST /set?key=a&value=b", "", "", 405, "method_not_allowed", "/set takes PUT, not POST"),
        ("PUT /get?key=a", "", "", 405, "method_not_allowed", "curl 'http://localhost:8080/get?key=K'"),
        ("GET /delete?key=a", "", "", 405, "method_not_allowed", "curl -X DELETE"),
        ("POST /metrics", "", "", 405, "method_not_allowed", "GET, HEAD"),
        ("GET /nope", "", "", 404, "no_such_path", "PUT /set?key=K&value=V"),
        ("GET /peer", "", "", 404, "no_such_path", "GET /where?key=K"),
        ("GET /get/", "", "", 404, "no_such_path", ""),
        ("GET //get?key=a", "", "", 404, "no_such_path", ""),
        ("GET /%67et?key=a", "", "", 404, "no_such_path", ""),
        ("PATCH /set?key=a", "", "", 501, "method_not_implemented", "PATCH"),
        ("get /get?key=a", "", "", 501, "method_not_implemented", "get"),
        ("OPTIONS *", "", "", 501, "method_not_implemented", "OPTIONS"),
        (&long_key, "", "", 414, "key_too_long", "4097 bytes, the limit is 4096 (limits.max_key_bytes)"),
    ];
    for (line, headers, body, status, code, text) in rows {
        let error = refused(&request(line, headers, body));
        assert_eq!((error.status, error.code), (*status, *code), "{line}: {}", error.message);
        assert!(error.message.contains(text), "{line}: {}", error.message);
        assert!(error.message.bytes().all(|b| b.is_ascii() && !b.is_ascii_control()), "one printable line");
        assert_eq!(error.allow.is_some(), *status == 405);
    }
}

#[test]
fn what_the_head_decides_is_decided_before_the_body() {
    let limits = Limits { max_value_bytes: 100, ..Limits::default() };
    let head = |line: &str, headers: &str, length: u64| {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n").into_bytes()
    };
    let status = |input: &[u8]| admitted(input, &limits).map_err(|e| (e.status, e.code));
    assert_eq!(status(&head("PUT /set?key=a", "", 100)), Ok(()));
    assert_eq!(status(&head("PUT /set?key=a", "", 101)), Err((413, "value_too_large")));
    assert_eq!(status(&head("PUT /set?key=a", FORM, 101)), Err((413, "value_too_large")), "the body is the value");
    assert_eq!(status(&head("PUT /set", FORM, 101)), Ok(()), "a form spends three bytes on one");
    assert_eq!(status(&head("PUT /set", FORM, u64::MAX)), Err((413, "value_too_large")));
    assert_eq!(status(&head("PUT /get?key=a", "", 5)), Err((405, "method_not_allowed")));
    assert_eq!(status(&head("PUT /nope", "", 5)), Err((404, "no_such_path")));
    assert_eq!(status(&head("PUT /set", "", 5)), Err((400, "missing_key")));
    assert_eq!(status(&head("PUT /set?key=a&value=b", "", 5)), Err((400, "value_twice")));
    assert_eq!(status(&head("GET /get?key=a", "", 5)), Err((400, "unexpected_body")));
    assert_eq!(status(&head("PUT /set?key=a", "If-Match: 5\r\n", 5)), Err((400, "bad_condition")));
    assert_eq!(status(&head("PUT /set?key=a", "Origin: http://evil.example\r\n", 5)), Err((403, "origin_not_allowed")));
    let long = format!("PUT /set?key={}", "%61".repeat(4097));
    assert_eq!(status(&head(&long, "", 5)), Err((414, "key_too_long")));
    let fits = format!("PUT /set?key={}", "%61".repeat(4096));
    assert_eq!(status(&head(&fits, "", 5)), Ok(()), "the limit is on the decoded key");
    let message = admitted(&head("PUT /set?key=a", "", 101), &limits).unwrap_err().message;
    assert!(message.contains("101 bytes, the limit is 100 (limits.max_value_bytes)"), "{message}");
}

#[test]
fn values_in_the_query_and_in_forms_have_the_same_limit() {
    let limits = Limits { max_value_bytes: 3, ..Limits::default() };
    let status = |input: Vec<u8>| with(&input, &limits, |r| r.map(|_| ()).map_err(|e| e.status));
    assert_eq!(status(request("PUT /set?key=a&value=%61%62%63", "", "")), Ok(()));
    assert_eq!(status(request("PUT /set?key=a&value=abcd", "", "")), Err(413));
    assert_eq!(status(request("PUT /set", FORM, "key=a&value=%61bc")), Ok(()));
    assert_eq!(status(request("PUT /set", FORM, "key=a&value=abcd")), Err(413));
    assert_eq!(status(request("PUT /set?key=a", FORM, "abcd")), Err(413));
}

#[test]
fn conditions() {
    let rows: &[(&str, Result<Condition, &str>)] = &[
        ("", Ok(Condition::None)),
        ("If-Match: *\r\n", Ok(Condition::Exists)),
        ("If-Match: \"7\"\r\n", Ok(Condition::Is(Lsn(7)))),
        ("If-Match: W/\"7\"\r\n", Ok(Condition::Never)),
        ("If-Match: \"x\"\r\n", Ok(Condition::Never)),
        ("If-None-Match: *\r\n", Ok(Condition::Absent)),
        ("If-None-Match: \"7\"\r\n", Ok(Condition::IsNot(Lsn(7)))),
        ("If-None-Match: W/\"7\"\r\n", Ok(Condition::IsNot(Lsn(7)))),
        ("If-None-Match: \"x\"\r\n", Ok(Condition::None)),
        ("If-Match: 7\r\n", Err("in double quotes")),
        ("If-Match: \"7\", \"8\"\r\n", Err("has several tags")),
        ("If-None-Match:\r\n", Err("is no tag")),
        ("If-Match: *\r\nIf-None-Match: *\r\n", Err("together")),
        ("If-Match: \"7\"\r\nIf-Match: \"8\"\r\n", Err("twice")),
    ];
    for line in ["PUT /set?key=a&value=b", "GET /get?key=a", "DELETE /delete?key=a"] {
        for (headers, expected) in rows {
            with(&request(line, headers, ""), &Limits::default(), |result| match (result, expected) {
                (Ok(Call::Data(op)), Ok(condition)) => assert_eq!(op.condition, *condition, "{headers}"),
                (Err(error), Err(text)) => {
                    assert_eq!(error.status, 400);
                    assert!(error.message.contains(text), "{headers}: {}", error.message);
                }
                (other, _) => panic!("{headers}: {other:?}"),
            });
        }
    }
}

#[test]
fn the_other_calls() {
    let is = |line: &str, headers: &str, expected: Call<'_>| {
        with(&request(line, headers, ""), &Limits::default(), |r| assert_eq!(r.unwrap(), expected, "{line}"));
    };
    is("GET /where?key=a%20b", "", Call::Where { key: b"a b" });
    is("GET /cluster", "", Call::Cluster);
    is("HEAD /livez", "", Call::Livez);
    is("GET /readyz", "", Call::Readyz { verbose: false });
    is("GET /readyz?verbose", "", Call::Readyz { verbose: true });
    is("GET /metrics?", "", Call::Metrics);
    is("GET /", "", Call::Guide);
    is("GET /peer", "Connection: Upgrade\r\nUpgrade: dkv-peer\r\n", Call::Peer);
    is("GET /cluster", "Connection: Upgrade\r\nUpgrade: h2c\r\n", Call::Cluster);
    with(&request("GET /get?consistency=stale&key=a", "", ""), &Limits::default(), |r| {
        assert!(matches!(r, Ok(Call::Data(Op { stale: true, verb: Verb::Get, .. }))));
    });
}

#[test]
fn pages_of_other_sites_are_refused() {
    let rows: &[(&str, &str, u16)] = &[
        ("localhost", "", 0),
        ("LOCALHOST:8080", "", 0),
        ("127.0.0.1:8080", "", 0),
        ("[::1]:8080", "", 0),
        ("kv.example", "", 0),
        ("KV.example:8080", "", 0),
        ("evil.example", "", 421),
        ("localhost.evil.example", "", 421),
        ("127.0.0.1.evil.example", "", 421),
        ("1.2.3", "", 421),
        ("[::zz]", "", 400),
        ("localhost", "Origin: http://localhost\r\n", 0),
        ("localhost:8080", "Origin: http://localhost:8080\r\nSec-Fetch-Site: same-origin\r\n", 0),
        ("kv.example", "Origin: https://kv.example\r\n", 0),
        ("localhost", "Origin: https://console.example\r\nSec-Fetch-Site: cross-site\r\n", 0),
        ("localhost", "Sec-Fetch-Site: none\r\n", 0),
        ("localhost:8080", "Origin: http://localhost:3000\r\n", 403),
        ("localhost", "Origin: null\r\n", 403),
        ("localhost", "Origin: http://evil.example\r\n", 403),
        ("localhost", "Origin: http://localhost.evil.example\r\n", 403),
        ("localhost", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("localhost", "Sec-Fetch-Site: same-site\r\n", 403),
        ("localhost", "Origin: http://localhost\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("localhost", "Origin: http://localhost\r\nOrigin: http://evil.example\r\n", 400),
    ];
    for (host, headers, status) in rows {
        let input = format!("POST /update?key=a&value=b HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        let got = with(input.as_bytes(), &Limits::default(), |r| r.map_or_else(|e| e.status, |_| 0));
        assert_eq!(got, *status, "{host} {headers}");
    }
}

proptest! {
    #[test]
    fn every_byte_survives_in_keys_and_values(
        key in proptest::collection::vec(any::<u8>(), 1..100),
        value in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let (mut k, mut v) = (Vec::new(), Vec::new());
        query::encode(&key, &mut k);
        query::encode(&value, &mut v);
        let (k, v) = (String::from_utf8(k).unwrap(), String::from_utf8(v).unwrap());
        op(&request(&format!("PUT /set?key={k}&value={v}"), "", ""), Verb::Set, &key, &value);
        op(&request("PUT /set", FORM, &format!("value={v}&key={k}")), Verb::Set, &key, &value);
        let head = format!("PUT /set?key={k} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n", value.len());
        op(&[head.as_bytes(), &value].concat(), Verb::Set, &key, &value);
    }

    #[test]
    fn any_target_is_answered(target in "/[ -~]{0,30}", query in "[!-~]{0,30}") {
        with(&request(&format!("PUT {target}?{query}"), "", ""), &Limits::default(), |r| {
            if let Err(error) = r {
                assert!(error.message.bytes().all(|b| b.is_ascii() && !b.is_ascii_control()));
            }
        });
    }
}
