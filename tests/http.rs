//! The HTTP contract, row by row, on the real binary: what each call answers, byte for byte.
//! How requests are framed and timed is in `http_wire`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use serde_json::Value;
use support::http::{Client, Response};
use support::process::Node;

fn start() -> (Node, Client) {
    let node = Node::start("");
    let client = Client::connect(node.address);
    (node, client)
}

#[track_caller]
fn is(response: &Response, status: u16, body: &str) {
    assert_eq!((response.status, response.text()), (status, body));
}

/// The number in an ETag.
fn etag(response: &Response) -> u64 {
    let quoted = response.header("etag").expect("an ETag");
    quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"')).expect("quotes").parse().unwrap()
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("%{b:02X}")).collect()
}

#[test]
fn the_four_calls() {
    let (_node, mut c) = start();
    is(&c.call("GET /get?key=a", ""), 404, "key not found\n");
    is(&c.call("POST /update?key=a&value=1", ""), 404, "key not found: PUT /set creates it\n");
    is(&c.call("DELETE /delete?key=a", ""), 404, "key not found\n");

    let created = c.call("PUT /set?key=a&value=one", "");
    is(&created, 201, "OK\n");
    let got = c.call("GET /get?key=a", "");
    is(&got, 200, "one");
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert_eq!(got.header("etag"), created.header("etag"));

    let replaced = c.call("PUT /set?key=a&value=two", "");
    is(&replaced, 200, "OK\n");
    assert!(etag(&replaced) > etag(&created));
    let updated = c.call("POST /update?key=a&value=three", "");
    is(&updated, 200, "OK\n");
    assert!(etag(&updated) > etag(&replaced));
    is(&c.call("GET /get?key=a", ""), 200, "three");

    is(&c.call("DELETE /delete?key=a", ""), 200, "OK\n");
    is(&c.call("GET /get?key=a", ""), 404, "key not found\n");
    is(&c.call("DELETE /delete?key=a", ""), 404, "key not found\n");
    is(&c.call("PUT /set?key=a&value=again", ""), 201, "OK\n");
}

#[test]
fn what_is_always_said() {
    let (_node, mut c) = start();
    c.call("PUT /set?key=a&value=1", "");
    for line in ["GET /get?key=a", "GET /get?key=b", "GET /nothing", "PUT /set?key=a&value=2", "GET /", "GET /metrics"]
    {
        let response = c.call(line, "");
        let date = response.header("date").expect("a Date");
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("content-length"), Some(response.body.len().to_string().as_str()));
        assert!(response.header("connection").is_none() && response.header("server").is_none(), "{response:?}");
    }
}

#[test]
fn head_is_get_without_the_body() {
    let (_node, mut c) = start();
    c.call("PUT /set?key=a&value=12345", "");
    let targets =
        ["/get?key=a", "/get?key=b", "/get", "/nothing", "/", "/livez", "/readyz", "/readyz?verbose", "/where?key=a"];
    for target in targets {
        let get = c.call(&format!("GET {target}"), "");
        let head = c.call(&format!("HEAD {target}"), "");
        assert_eq!(head.timeless(), Response { body: Vec::new(), ..get.timeless() }, "{target}");
    }
    for target in ["/cluster", "/metrics"] {
        assert_eq!(c.call(&format!("HEAD {target}"), "").status, 200);
    }
    assert_eq!(c.call("HEAD /set?key=a&value=b", "").status, 405);
}

#[test]
fn the_value_is_in_the_query_or_in_the_body() {
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
    let (_node, mut c) = start();
    let mut check = |response: Response, value: &str| {
        assert!(matches!(response.status, 200 | 201), "{response:?}");
        is(&c.call("GET /get?key=a", ""), 200, value);
    };
    let mut w = Client::connect(_node.address);
    check(w.call("PUT /set?key=a&value=a+b%2Bc%26d=e", ""), "a b+c&d=e");
    check(w.call("PUT /set?value=turned&key=a", ""), "turned");
    check(w.call("PUT /set?key=a&value=", ""), "");
    check(w.call_with("PUT /set?key=a", "", b"a body+%20"), "a body+%20");
    check(w.call_with("PUT /set?key=a", "", b""), "");
    check(w.call_with("PUT /set?key=a&value=query", "", b""), "query");
    check(w.call_with("PUT /set?key=a", FORM, b"key=b&value=c"), "key=b&value=c");
    check(w.call_with("PUT /set", FORM, b"key=a&value=of+a%20form"), "of a form");
    check(w.call_with("POST /update", FORM, b"value=&key=%61"), "");
    check(w.call_with("POST /update?key=a", "", b"updated"), "updated");
    let chunked = b"PUT /set?key=a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nin \r\n6;x=y\r\nchunks\r\n0\r\nT: x\r\n\r\n";
    check(w.ask(chunked), "in chunks");
}

#[test]
fn every_byte_survives_in_keys_and_values() {
    let (_node, mut c) = start();
    let all: Vec<u8> = (0..=255).collect();
    for byte in 0..=255u8 {
        let key = escaped(&[byte]);
        assert_eq!(c.call(&format!("PUT /set?key={key}&value={key}"), "").status, 201, "{byte}");
    }
    for byte in 0..=255u8 {
        assert_eq!(c.call(&format!("GET /get?key={}", escaped(&[byte])), "").body, [byte]);
    }
    let key = escaped(&all);
    assert_eq!(c.call_with(&format!("PUT /set?key={key}"), "", &all).status, 201);
    assert_eq!(c.call(&format!("GET /get?key={key}"), "").body, all);
    assert_eq!(c.call(&format!("POST /update?key={key}&value={key}"), "").status, 200);
    assert_eq!(c.call(&format!("GET /get?key={}", key.to_lowercase()), "").body, all);
    assert_eq!(c.call("PUT /set?key=käse&value=ü", "").status, 201);
    is(&c.call("GET /get?key=k%C3%A4se", ""), 200, "ü");
    assert_eq!(c.call("GET /get?key=k%E4se", "").status, 404, "nothing is normalised");
}

#[test]
fn refusals_have_a_stable_code_and_say_what_to_do() {
    const JSON: &str = "Accept: application/json\r\n";
    let (_node, mut c) = start();
    let rows = [
        ("GET /get", 400, "missing_key", "/get?key=K"),
        ("GET /get?key=", 400, "empty_key", "at least one byte"),
        ("GET /get?key=a&key=b", 400, "repeated_parameter", "again at byte 6"),
        ("PUT /set?key=a&value=b&value=c", 400, "repeated_parameter", "value"),
        ("GET /get?key=a%4", 400, "bad_percent", "key at byte 5"),
        ("GET /get?key=a&ttl=5", 400, "unknown_parameter", "'ttl' at byte 6"),
        ("PUT /set?key=a", 400, "missing_value", "unquoted &"),
        ("GET /get?key=a&consistency=strong", 400, "bad_consistency", "stale"),
        ("PUT /set?key=a&value=b&consistency=stale", 400, "unknown_parameter", "consistency"),
        ("GET /set?key=a&value=b", 405, "method_not_allowed", "curl -X PUT 'http://localhost/set?key=K&value=V'"),
        ("PUT /get?key=a", 405, "method_not_allowed", "curl 'http://localhost/get?key=K'"),
        ("GET /update?key=a", 405, "method_not_allowed", "curl -X POST"),
        ("POST /delete?key=a", 405, "method_not_allowed", "curl -X DELETE"),
        ("GET /nothing", 404, "no_such_path", "PUT /set?key=K&value=V"),
        ("BREW /get?key=a", 501, "method_not_implemented", "BREW"),
        ("GET /get?key=absent", 404, "key_not_found", "key not found"),
        ("POST /update?key=absent&value=1", 404, "key_not_found", "PUT /set creates it"),
    ];
    for (line, status, code, text) in rows {
        let response = c.call(line, "");
        assert_eq!(response.status, status, "{line}");
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(response.text().contains(text) && response.text().matches('\n').count() == 1, "{}", response.text());
        let json = c.call(line, JSON);
        assert_eq!((json.status, json.header("content-type")), (status, Some("application/json")));
        let parsed: Value = serde_json::from_str(json.text()).unwrap();
        assert_eq!(parsed["error"]["code"], code, "{line}");
        assert_eq!(parsed["error"]["message"], response.text().trim_end(), "{line}");
    }
    assert_eq!(c.call("GET /set", "").header("allow"), Some("PUT"));
    assert_eq!(c.call("PUT /get", "").header("allow"), Some("GET, HEAD"));
    let twice = c.call_with("PUT /set?key=a&value=b", "", b"c");
    assert_eq!(twice.status, 400);
    assert!(twice.text().contains("in the query and in the body"), "{}", twice.text());
    assert_eq!(c.call_with("GET /get?key=a", "", b"c").status, 400);
    assert_eq!(c.call("GET /get?key=a", "").status, 404, "none of them was applied");
}

#[test]
fn conditional_writes_are_compare_and_swap() {
    let (_node, mut c) = start();
    let matches = |tag: u64| format!("If-Match: \"{tag}\"\r\n");
    let absent = c.call("PUT /set?key=a&value=0", "If-Match: *\r\n");
    assert_eq!((absent.status, absent.header("etag")), (412, None));
    assert_eq!(c.call("PUT /set?key=a&value=0", &matches(1)).status, 412);

    let first = c.call("PUT /set?key=a&value=1", "If-None-Match: *\r\n");
    assert_eq!(first.status, 201);
    let again = c.call("PUT /set?key=a&value=2", "If-None-Match: *\r\n");
    assert_eq!((again.status, etag(&again)), (412, etag(&first)));
    let second = c.call("PUT /set?key=a&value=3", &matches(etag(&first)));
    assert_eq!(second.status, 200);
    let late = c.call("POST /update?key=a&value=4", &matches(etag(&first)));
    assert_eq!((late.status, etag(&late)), (412, etag(&second)));
    for never in ["If-Match: \"x\"\r\n", "If-Match: W/\"1\"\r\n", "If-Match: \"0\"\r\n"] {
        assert_eq!(c.call("PUT /set?key=a&value=5", never).status, 412, "{never}");
    }
    assert_eq!(c.call("DELETE /delete?key=a", &matches(etag(&first))).status, 412);
    is(&c.call("GET /get?key=a", ""), 200, "3");
    assert_eq!(c.call("DELETE /delete?key=a", &matches(etag(&second))).status, 200);
    assert_eq!(c.call("GET /get?key=a", "").status, 404);

    for bad in ["If-Match: 7\r\n", "If-Match: \"1\", \"2\"\r\n", "If-Match: *\r\nIf-None-Match: *\r\n"] {
        assert_eq!(c.call("PUT /set?key=a&value=6", bad).status, 400, "{bad}");
    }
}

#[test]
fn conditional_reads() {
    let (_node, mut c) = start();
    let tag = etag(&c.call("PUT /set?key=a&value=1", ""));
    let none_match = |tag: &str| format!("If-None-Match: {tag}\r\n");
    let same = c.call("GET /get?key=a", &none_match(&format!("\"{tag}\"")));
    assert_eq!((same.status, etag(&same), same.body.len()), (304, tag, 0));
    assert_eq!(c.call("HEAD /get?key=a", &none_match(&format!("\"{tag}\""))).status, 304);
    assert_eq!(c.call("GET /get?key=a", &none_match("*")).status, 304);
    is(&c.call("GET /get?key=a", &none_match(&format!("\"{}\"", tag + 1))), 200, "1");
    is(&c.call("GET /get?key=a", &none_match("\"x\"")), 200, "1");
    assert_eq!(c.call("GET /get?key=b", &none_match("*")).status, 404);
    is(&c.call("GET /get?key=a", &format!("If-Match: \"{tag}\"\r\n")), 200, "1");
    assert_eq!(c.call("GET /get?key=a", "If-Match: \"x\"\r\n").status, 412);
}

#[test]
fn a_stale_read_says_so() {
    let (_node, mut c) = start();
    c.call("PUT /set?key=a&value=1", "");
    let stale = c.call("GET /get?key=a&consistency=stale", "");
    is(&stale, 200, "1");
    assert_eq!(stale.header("consistency"), Some("stale"));
    assert_eq!(c.call("GET /get?key=a", "").header("consistency"), None);
}

#[test]
fn limits_are_told_before_the_body_is_read() {
    let node = Node::start("[limits]\nmax_key_bytes = 10\nmax_value_bytes = 100\nmax_head_bytes = 1024");
    let mut c = Client::connect(node.address);
    assert_eq!(c.call_with("PUT /set?key=0123456789", "", &[b'v'; 100]).status, 201);
    assert_eq!(c.call(&format!("PUT /set?key={}&value=1", escaped(&[0; 10])), "").status, 201, "decoded bytes count");

    let key = c.call("GET /get?key=0123456789a", "");
    assert_eq!(key.status, 414);
    assert!(key.text().contains("11 bytes, the limit is 10 (limits.max_key_bytes)"), "{}", key.text());
    let value = c.call(&format!("PUT /set?key=a&value={}", "v".repeat(101)), "");
    assert_eq!(value.status, 413);
    assert!(value.text().contains("101 bytes, the limit is 100 (limits.max_value_bytes)"), "{}", value.text());

    let refused = |request: &str, status: u16, text: &str| {
        let mut c = Client::connect(node.address);
        let response = c.ask(request.as_bytes());
        assert_eq!(response.status, status, "{request}");
        assert!(response.text().contains(text), "{}", response.text());
        assert!(response.closes());
        c.assert_closed();
    };
    let put = "PUT /set?key=a HTTP/1.1\r\nHost: localhost\r\n";
    refused(&format!("{put}Content-Length: 101\r\n\r\n"), 413, "limits.max_value_bytes");
    refused(&format!("{put}Expect: 100-continue\r\nContent-Length: 101\r\n\r\n"), 413, "101 bytes");
    refused(&format!("{put}Transfer-Encoding: chunked\r\n\r\n65\r\n"), 413, "limits.max_value_bytes");
    refused(&format!("GET /get?key={}", "k".repeat(1100)), 414, "limits.max_head_bytes");
    refused(&format!("{put}X: {}\r\n\r\n", "x".repeat(1100)), 431, "limits.max_head_bytes");
}

#[test]
fn the_other_paths() {
    let (node, mut c) = start();
    let address = node.address.to_string();
    let place = c.call("GET /where?key=a", "");
    assert_eq!(place.status, 200);
    // FNV-1a of "a", 64 bits.
    assert!(place.text().contains("af63dc4c8601ec8c") && place.text().contains(&address), "{}", place.text());

    let cluster = c.call("GET /cluster", "");
    assert_eq!((cluster.status, cluster.header("content-type")), (200, Some("application/json")));
    let cluster: Value = serde_json::from_str(cluster.text()).unwrap();
    let shard = &cluster["shards"][0];
    assert_eq!((&shard["idx"], &shard["name"]), (&0.into(), &"Only".into()));
    assert_eq!((&shard["primary"], &shard["in_sync"][0]), (&address.clone().into(), &address.clone().into()));
    assert_eq!((&shard["nodes"][0]["address"], &shard["nodes"][0]["up"]), (&address.into(), &true.into()));
    assert!(shard["epoch"].is_u64() && shard["nodes"][0]["lsn"].is_u64() && shard["nodes"][0]["committed"].is_u64());
    assert!(!cluster["fingerprint"].is_null());

    for path in ["/livez", "/readyz", "/readyz?verbose", "/"] {
        let response = c.call(&format!("GET {path}"), "");
        assert_eq!(
            (response.status, response.header("content-type")),
            (200, Some("text/plain; charset=utf-8")),
            "{path}"
        );
        assert!(response.text().ends_with('\n'), "{path}");
    }
    let guide = c.call("GET /", "");
    assert!(guide.text().contains("curl -X PUT") && guide.text().contains("/set?key=K&value=V"), "{}", guide.text());
}

#[test]
fn metrics_are_prometheus_text() {
    let (_node, mut c) = start();
    for _ in 0..3 {
        c.call("GET /get?key=absent", "");
    }
    let metrics = c.call("GET /metrics", "");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut typed = Vec::new();
    for line in metrics.text().lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            typed.push(name);
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            assert!(typed.iter().any(|t| name.starts_with(t)), "{line} has no TYPE");
        }
    }
    let of_get = |l: &&str| l.contains("requests") && l.contains("404") && l.ends_with(" 3");
    assert!(metrics.text().lines().any(|l| of_get(&l)), "three GETs of an absent key: {}", metrics.text());
}

#[test]
fn pages_of_other_sites_are_refused() {
    let node = Node::start("[http]\nallowed_hosts = [\"kv.example\"]\nallowed_origins = [\"https://console.example\"]");
    let rows = [
        ("localhost", "", 201),
        ("127.0.0.1:8080", "", 200),
        ("[::1]", "", 200),
        ("kv.example:80", "", 200),
        ("localhost", "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n", 200),
        ("localhost", "Origin: https://console.example\r\nSec-Fetch-Site: cross-site\r\n", 200),
        ("evil.example", "", 421),
        ("localhost", "Origin: http://evil.example\r\n", 403),
        ("localhost", "Origin: null\r\n", 403),
        ("localhost", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("localhost", "Sec-Fetch-Site: same-site\r\n", 403),
    ];
    let mut c = Client::connect(node.address);
    for (host, headers, status) in rows {
        let request = format!("PUT /set?key=a&value=b HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        assert_eq!(c.ask(request.as_bytes()).status, status, "{host} {headers}");
    }
}
