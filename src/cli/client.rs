//! Owns: one request to one node, for the commands that ask a running cluster.
//! Never: what is asked; the server's own connections.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A node that takes longer to accept a connection counts as down.
const CONNECT: Duration = Duration::from_secs(2);
/// For the whole answer to a question.
const ANSWER: Duration = Duration::from_secs(5);
/// For the whole answer to a request to change something, which may wait for other nodes.
const CHANGE: Duration = Duration::from_secs(60);
/// The longest answer that is read: a cluster of thousands of nodes is far below.
const MAX_ANSWER_BYTES: usize = 16 << 20;
const MAX_HEADERS: usize = 64;

/// A node's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer: a sentence without the address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// No connection: nothing was asked.
    Unreached(String),
    /// What became of the request is not known.
    Lost(String),
}

/// Asks `address` for `target`; `json` says which form is wanted.
///
/// # Errors
/// A sentence without the address: no connection, no answer in time, no HTTP.
pub(super) fn get(address: SocketAddr, target: &str, json: bool) -> Result<Answer, String> {
    let accept = if json { "application/json" } else { "text/plain" };
    let head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n");
    let answer = exchange(address, &head, ANSWER);
    answer.map_err(|(NoAnswer::Unreached(reason) | NoAnswer::Lost(reason))| reason)
}

/// Asks `address` to do `target`; the answer is wanted as text.
///
/// # Errors
/// There is no answer.
pub(super) fn post(address: SocketAddr, target: &str) -> Result<Answer, NoAnswer> {
    let head = format!("POST {target} HTTP/1.1\r\nHost: {address}\r\nAccept: text/plain\r\nContent-Length: 0\r\n");
    exchange(address, &head, CHANGE)
}

fn exchange(address: SocketAddr, head: &str, time: Duration) -> Result<Answer, NoAnswer> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT).map_err(|e| NoAnswer::Unreached(e.to_string()))?;
    ask(&mut stream, &format!("{head}Connection: close\r\n\r\n"), time).map_err(NoAnswer::Lost)
}

fn ask(stream: &mut TcpStream, request: &str, time: Duration) -> Result<Answer, String> {
    let in_words = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer within {} s", time.as_secs()),
        _ => error.to_string(),
    };
    let deadline = Instant::now() + time;
    stream.set_write_timeout(Some(time)).and_then(|()| stream.write_all(request.as_bytes())).map_err(in_words)?;
    let mut received = Vec::new();
    loop {
        if let Some(answer) = parse(&received)? {
            return Ok(answer);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no answer within {} s", time.as_secs()));
        }
        let mut chunk = [0; 16 << 10];
        match stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut chunk)) {
            Ok(0) => return Err("the connection was closed before the answer was complete".to_owned()),
            Ok(n) => received.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(in_words(e)),
        }
        if received.len() > MAX_ANSWER_BYTES {
            return Err(format!("the answer is longer than {MAX_ANSWER_BYTES} bytes"));
        }
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub(super) fn encode(text: &[u8]) -> String {
    text.iter().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// The answer, if all of it is there. A node always says its body's length.
fn parse(received: &[u8]) -> Result<Option<Answer>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let foreign = || "the answer is not a dkv node's".to_owned();
    let start = match head.parse(received).map_err(|_| foreign())? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(start) => start,
    };
    let length = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length")).ok_or_else(foreign)?;
    let length = std::str::from_utf8(length.value).ok().and_then(|v| v.parse::<usize>().ok()).ok_or_else(foreign)?;
    let status = head.code.ok_or_else(foreign)?;
    let body = start.checked_add(length).and_then(|end| received.get(start..end));
    Ok(body.map(|body| Answer { status, body: body.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_encoded_so_that_nothing_of_them_is_syntax() {
        assert_eq!(encode(b"user:1 &+%\xff\0~"), "user%3A1%20%26%2B%25%FF%00~");
    }

    #[test]
    fn an_answer_is_taken_when_it_is_whole() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nabc";
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).unwrap().is_none(), "{end}");
        }
        let answer = parse(whole).unwrap().unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (503, &b"abc"[..]));
    }

    #[test]
    fn what_is_no_answer_of_a_node_is_refused() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        let huge = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", usize::MAX);
        assert!(parse(huge.as_bytes()).unwrap().is_none());
    }
}
