//! How bytes become requests, on the real binary: splits, pipelining, malformed requests, 100-continue, HTTP/1.0,
//! deadlines. What the calls answer is in `http`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod http_cases;
mod support;

use std::thread;
use std::time::{Duration, Instant};

use http_cases::{Case, End};
use support::http::{Client, Response};
use support::process::Node;

/// Rows of the contract whose answers do not change when they are sent again, with `k` present and `absent` not.
fn rows() -> Vec<Vec<u8>> {
    let plain = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
    let with = |line: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes()
    };
    vec![
        plain("GET /get?key=k"),
        plain("HEAD /get?key=k"),
        plain("GET /get?key=absent"),
        plain("PUT /set?key=k&value=v+%20%00%ff"),
        plain("POST /update?key=k&value=w"),
        plain("POST /update?key=absent&value=w"),
        plain("DELETE /delete?key=absent"),
        with("PUT /set?key=k", "", "a body of bytes"),
        with("PUT /set?key=k", "", ""),
        with("PUT /set", "Content-Type: application/x-www-form-urlencoded\r\n", "key=k&value=of+a+form"),
        with("POST /update?key=absent", "If-Match: *\r\n", "x"),
        b"PUT /set?key=k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n".to_vec(),
        plain("GET /get"),
        plain("GET /get?key=%z"),
        plain("GET /set?key=k&value=v"),
        plain("GET /nothing"),
        plain("BREW /get?key=k"),
        plain("GET /livez"),
        b"\r\n\r\nGET /get?key=absent HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n".to_vec(),
    ]
}

/// The answer to `row`, whose bytes were sent.
fn answer(client: &mut Client, row: &[u8]) -> Response {
    let is_head = row.starts_with(b"HEAD");
    let response = if is_head { client.read_head() } else { client.read() };
    response.timeless()
}

fn start(settings: &str) -> (Node, Client) {
    let node = Node::start(settings);
    let mut client = Client::connect(node.address);
    assert_eq!(client.call("PUT /set?key=k&value=v", "").status, 201);
    (node, client)
}

#[test]
fn every_row_split_at_every_byte_gets_the_same_answer() {
    let (_node, mut c) = start("");
    for row in rows() {
        c.send(&row);
        let expected = answer(&mut c, &row);
        for at in 1..row.len() {
            c.send(&row[..at]);
            c.wait_until_consumed();
            c.send(&row[at..]);
            assert_eq!(answer(&mut c, &row), expected, "split at {at}: {}", row.escape_ascii());
        }
    }
}

#[test]
fn every_row_gets_the_same_answer_behind_another() {
    let (_node, mut c) = start("");
    for row in rows() {
        for before in rows() {
            let mut one_by_one = || {
                [&before, &row].map(|request| {
                    c.send(request);
                    answer(&mut c, request)
                })
            };
            // The first round brings `k` to where every further one leaves it.
            one_by_one();
            let expected = one_by_one();
            c.send(&[before.as_slice(), &row].concat());
            let got = [&before, &row].map(|request| answer(&mut c, request));
            assert_eq!(got, expected, "{} behind {}", row.escape_ascii(), before.escape_ascii());
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_see_each_other() {
    let (_node, mut c) = start("");
    let mut all = Vec::new();
    for i in 0..100 {
        let host = "HTTP/1.1\r\nHost: localhost\r\n";
        all.extend_from_slice(format!("PUT /set?key=p&value={i} {host}\r\n").as_bytes());
        all.extend_from_slice(format!("GET /get?key=p {host}\r\n").as_bytes());
        all.extend_from_slice(format!("DELETE /delete?key=p {host}\r\n").as_bytes());
        all.extend_from_slice(format!("GET /get?key=p {host}\r\n").as_bytes());
    }
    c.send(&all);
    for i in 0..100 {
        assert_eq!(c.read().status, 201);
        assert_eq!(c.read().text(), i.to_string());
        assert_eq!(c.read().status, 200);
        assert_eq!(c.read().status, 404);
    }
}

/// Sends `pieces`, each in a read of its own, and checks what comes back.
fn check(node: &Node, case: &Case, pieces: &[&[u8]], how: &str) {
    let mut c = Client::connect(node.address);
    for (i, piece) in pieces.iter().enumerate() {
        if i > 0 {
            c.wait_until_consumed();
        }
        c.send(piece);
    }
    if let Some((rest, status)) = &case.rest {
        c.wait_until_consumed();
        c.send(rest);
        assert_eq!(c.read().status, *status, "{} ({how})", case.name);
        return;
    }
    let mut last = None;
    for (i, &status) in case.answers.iter().enumerate() {
        let got = c.read();
        assert_eq!(got.status, status, "{} ({how}): answer {i}: {}", case.name, got.text());
        // A request that is refused before its body has come closes; sent at once it need not.
        if got.closes() && pieces.len() > 1 && status >= 400 {
            return c.assert_closed();
        }
        last = Some(got);
    }
    let closes = last.is_some_and(|l| l.closes());
    assert_eq!(closes, case.end == End::Closes, "{} ({how})", case.name);
    if closes {
        c.assert_closed();
    } else {
        assert_eq!(c.call("GET /livez", "").status, 200, "{} ({how}): the next request", case.name);
    }
}

#[test]
fn malformed_requests_get_their_answers() {
    let node = Node::start("");
    for case in http_cases::all() {
        check(&node, &case, &[&case.bytes], "whole");
        if (2..2000).contains(&case.bytes.len()) {
            let (a, b) = case.bytes.split_at(case.bytes.len() / 2);
            check(&node, &case, &[a, b], "in halves");
            let (a, b) = case.bytes.split_at(case.bytes.len() - 1);
            check(&node, &case, &[a, b], "without the last byte");
        }
    }
    let mut c = Client::connect(node.address);
    assert_eq!(c.call("GET /get?key=absent", "").status, 404, "none of them was applied");
}

#[test]
fn what_stands_before_a_malformed_request_is_answered() {
    let node = Node::start("");
    let before: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for case in http_cases::all().into_iter().filter(|c| c.end == End::Closes && c.bytes.len() < 2000) {
        let mut c = Client::connect(node.address);
        c.send(&[before, &case.bytes, before].concat());
        assert_eq!(c.read().status, 200, "{}", case.name);
        for &status in case.answers {
            assert_eq!(c.read().status, status, "{}", case.name);
        }
        c.assert_closed();
    }
}

#[test]
fn a_body_is_asked_for_only_where_it_will_be_taken() {
    let (node, _c) = start("");
    let head = |line: &str, headers: &str| {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{headers}\r\n").into_bytes()
    };
    let mut c = Client::connect(node.address);
    for headers in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        c.send(&head("PUT /set?key=e", headers));
        assert_eq!(c.read_head().status, 100);
        c.send(if headers.starts_with('C') { b"hello" } else { b"5\r\nhello\r\n0\r\n\r\n" });
        assert!(matches!(c.read().status, 200 | 201));
        assert_eq!(c.call("GET /get?key=e", "").text(), "hello");
    }
    for (line, headers, status) in [
        ("PUT /get?key=e", "Content-Length: 5\r\n", 405),
        ("PUT /nothing", "Content-Length: 5\r\n", 404),
        ("PUT /set", "Content-Length: 5\r\n", 400),
        ("PUT /set?key=e&value=x", "Content-Length: 5\r\n", 400),
        ("PUT /set?key=e", "Content-Length: 5\r\nIf-Match: 5\r\n", 400),
        ("PUT /set?key=e", "Content-Length: 5000000\r\n", 413),
        ("BREW /set?key=e", "Content-Length: 5\r\n", 501),
        ("PUT /set?key=e", "Content-Length: 5\r\nOrigin: http://evil.example\r\n", 403),
    ] {
        let mut c = Client::connect(node.address);
        c.send(&head(line, headers));
        let response = c.read();
        assert_eq!(response.status, status, "{line}: no 100 before it");
        assert!(response.closes());
        c.assert_closed();
    }
    let long = format!("PUT /set?key={}", "k".repeat(4097));
    let mut c = Client::connect(node.address);
    c.send(&head(&long, "Content-Length: 5\r\n"));
    assert_eq!(c.read().status, 414);
}

#[test]
fn http_1_0_closes_unless_asked_not_to() {
    let (node, _c) = start("");
    let mut c = Client::connect(node.address);
    let response = c.ask(b"GET /get?key=k HTTP/1.0\r\n\r\n");
    assert_eq!((response.text(), response.closes()), ("v", true));
    c.assert_closed();
    let mut c = Client::connect(node.address);
    for _ in 0..2 {
        let response = c.ask(b"GET /get?key=k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((response.text(), response.header("connection")), ("v", Some("keep-alive")));
    }
    let response = c.ask(b"GET /get?key=k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((response.text(), response.closes()), ("v", true));
    c.assert_closed();
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_answers() {
    let (_node, mut c) = start("");
    let get = b"GET /get?key=k HTTP/1.1\r\nHost: localhost\r\n\r\n";
    c.send(&get.repeat(3));
    c.end_output();
    for _ in 0..3 {
        assert_eq!(c.read().text(), "v");
    }
    c.assert_closed();
}

#[test]
fn a_large_value_goes_and_comes_back_whole() {
    let (_node, mut c) = start("");
    let value: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(c.call_with("PUT /set?key=large", "", &value).status, 201);
    assert!(c.call("GET /get?key=large", "").body == value);
    let mut chunked = b"PUT /set?key=large2 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in value.chunks(1000) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(c.ask(&chunked).status, 201);
    assert!(c.call("GET /get?key=large2", "").body == value);
}

#[test]
fn a_head_has_one_deadline_however_it_dribbles() {
    let node = Node::start("[deadlines]\nhead_ms = 300");
    let mut silent = Client::connect(node.address);
    let begun = Instant::now();
    silent.send(b"GET /livez HT");
    silent.drain();
    assert!(begun.elapsed() >= Duration::from_millis(250), "closed before its time");

    let mut dribbling = Client::connect(node.address);
    let mut sent = 0;
    dribbling.send(b"GET /livez?");
    while !dribbling.is_closed() {
        dribbling.send(b"x");
        sent += 1;
        assert!(sent < 200, "every byte gives it more time");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_idle_connection_is_closed_in_its_time() {
    let node = Node::start("[deadlines]\nidle_ms = 300");
    let mut c = Client::connect(node.address);
    assert_eq!(c.call("GET /livez", "").status, 200);
    let begun = Instant::now();
    c.assert_closed();
    assert!(begun.elapsed() >= Duration::from_millis(250), "closed before its time");
}

#[test]
fn a_body_that_trickles_is_given_up() {
    let node = Node::start("[deadlines]\nidle_ms = 3600000\nbody_min_bytes_per_s = 1000000");
    let mut c = Client::connect(node.address);
    let begun = Instant::now();
    c.send(b"PUT /set?key=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx");
    c.drain();
    assert!(begun.elapsed() >= Duration::from_secs(9), "the first ten seconds are given");
    assert_eq!(Client::connect(node.address).call("GET /get?key=a", "").status, 404);
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let (_node, mut c) = start("[deadlines]\nstall_ms = 300\nidle_ms = 3600000");
    let value = vec![b'v'; 1 << 20];
    c.call_with("PUT /set?key=large", "", &value);
    let begun = Instant::now();
    c.send(&b"GET /get?key=large HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(64));
    c.wait_until_dropped();
    assert!(begun.elapsed() >= Duration::from_millis(250), "closed before its time");
    assert!(c.drain() < 64 << 20, "not all was sent");
}
