//! Clusters of real processes: what holds between nodes, whatever is stopped, killed, full or damaged.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by its place")]

#[path = "../support/mod.rs"]
mod support;

mod crashes;
mod damage;
mod failover;
mod failures;
mod forwarding;
mod limits;
mod orderly;
mod reform;
mod tables;
mod termination;

use support::http::{Client, Response};

/// How a key is written in a query.
fn escaped(key: &[u8]) -> String {
    key.iter().map(|b| format!("%{b:02X}")).collect()
}

fn set(client: &mut Client, key: &str, value: &[u8]) -> Response {
    client.call_with(&format!("PUT /set?key={key}"), "", value)
}

fn get(client: &mut Client, key: &str) -> Response {
    client.call(&format!("GET /get?key={key}"), "")
}

/// A request as it is sent.
fn request(line: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[track_caller]
fn is(response: &Response, status: u16, body: &[u8]) {
    assert_eq!(response.status, status, "{response:?}");
    assert!(response.body == body, "{response:?}");
}
