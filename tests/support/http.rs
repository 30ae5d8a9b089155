//! Owns: a small blocking HTTP client that sends exactly the bytes it is given and reads answers strictly.
//! Never: retries, redirects, time limits.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The header of this name (lower case), which must not be there twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let first = found.next().map(|(_, v)| v.as_str());
        assert!(found.next().is_none(), "{name} twice in {self:?}");
        first
    }

    /// The lsn in the ETag.
    pub fn etag(&self) -> u64 {
        let tag = self.header("etag").unwrap_or_else(|| panic!("no ETag: {self:?}"));
        tag.trim_matches('"').parse().unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// The same without what differs from one answer to the next.
    pub fn timeless(mut self) -> Response {
        self.headers.retain(|(n, _)| n != "date" && n != "etag");
        self
    }
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).expect("the node listens")
    }

    pub fn try_connect(address: SocketAddr) -> Option<Client> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).unwrap();
        Some(Client { stream, unread: Vec::new() })
    }

    /// Another handle on the same connection, to send from another thread; it reads nothing.
    pub fn sender(&self) -> Client {
        Client { stream: self.stream.try_clone().unwrap(), unread: Vec::new() }
    }

    /// Sends, as far as the other side takes it: an answer may close before all is sent.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(e) if !matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => panic!("{e}"),
            _ => {}
        }
    }

    /// No more will be sent.
    pub fn end_output(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, bytes: &[u8]) -> Response {
        self.send(bytes);
        if bytes.starts_with(b"HEAD ") { self.read_head() } else { self.read() }
    }

    /// A request without body: `call("GET /livez", "")`. `headers` are lines with their ends.
    pub fn call(&mut self, line: &str, headers: &str) -> Response {
        self.ask(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes())
    }

    /// A request with a counted body.
    pub fn call_with(&mut self, line: &str, headers: &str, body: &[u8]) -> Response {
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n");
        self.ask(&[head.as_bytes(), body].concat())
    }

    /// Sends a request and reads its answer; `None`: the connection broke, and nobody knows what became of it.
    pub fn try_ask(&mut self, bytes: &[u8]) -> Option<Response> {
        self.stream.write_all(bytes).ok()?;
        let end = loop {
            match memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if self.fill() => {}
                None => return None,
            }
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).unwrap();
        let mut response = parse(head.trim_end_matches("\r\n\r\n"));
        if response.status == 304 {
            return Some(response);
        }
        let length: usize = response.header("content-length").expect("a length").parse().unwrap();
        while self.unread.len() < length {
            if !self.fill() {
                return None;
            }
        }
        response.body = self.unread.drain(..length).collect();
        Some(response)
    }

    /// As [`Client::call`], without headers, on a connection that may break.
    pub fn try_call(&mut self, line: &str) -> Option<Response> {
        self.try_ask(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    }

    /// The next answer.
    pub fn read(&mut self) -> Response {
        let mut response = self.read_head();
        if matches!(response.status, 100..200 | 304) {
            return response;
        }
        let length: usize = response.header("content-length").expect("a length").parse().unwrap();
        while self.unread.len() < length {
            assert!(self.fill(), "closed in the midst of a body: {response:?}");
        }
        response.body = self.unread.drain(..length).collect();
        response
    }

    /// The next answer, which has no body: to HEAD.
    pub fn read_head(&mut self) -> Response {
        self.try_read_head().expect("an answer, not the end of the connection")
    }

    /// `None`: the other side closed instead, with nothing unread.
    pub fn try_read_head(&mut self) -> Option<Response> {
        let end = loop {
            match memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                Some(end) => break end,
                None if self.fill() => {}
                None => {
                    assert!(self.unread.is_empty(), "cut: {}", self.unread.escape_ascii());
                    return None;
                }
            }
        };
        let head = String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
        Some(parse(head.trim_end_matches("\r\n\r\n")))
    }

    /// Asserts that the other side closes and says nothing more.
    pub fn assert_closed(&mut self) {
        while self.fill() {}
        assert!(self.unread.is_empty(), "more came: {}", self.unread.escape_ascii());
    }

    /// Reads until the other side closes or breaks the connection; gives how many bytes came.
    pub fn drain(&mut self) -> usize {
        while self.fill() {}
        self.unread.len()
    }

    /// Whether the other side has closed, without waiting; what came is kept.
    pub fn is_closed(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let mut space = [0; 4096];
        let closed = loop {
            match self.stream.read(&mut space) {
                Ok(0) => break true,
                Ok(n) => self.unread.extend_from_slice(&space[..n]),
                Err(e) => break e.kind() != ErrorKind::WouldBlock,
            }
        };
        self.stream.set_nonblocking(false).unwrap();
        closed
    }

    fn fill(&mut self) -> bool {
        let mut space = [0; 1 << 16];
        match self.stream.read(&mut space) {
            Ok(0) => false,
            Ok(n) => {
                self.unread.extend_from_slice(&space[..n]);
                true
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => false,
            Err(e) => panic!("{e}"),
        }
    }

    /// Waits until the server has read all that was sent before on other connections, so that what they send next
    /// comes in a read of its own. The server is one loop: the first answer comes from a turn that began with those
    /// bytes there, the second from a later turn.
    pub fn let_a_turn_pass(&mut self) {
        for _ in 0..2 {
            assert_eq!(self.call("GET /livez", "").status, 200);
        }
    }

    /// Waits until the server has given the connection up, without reading from it.
    pub fn wait_until_dropped(&self) {
        while self.is_open_at_the_server() {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the server still holds the connection; reads nothing from it.
    pub fn is_open_at_the_server(&self) -> bool {
        let (own, server) = (self.stream.local_addr().unwrap().port(), self.stream.peer_addr().unwrap().port());
        sockets().contains(&(server, own, ESTABLISHED.to_owned()))
    }
}

fn parse(head: &str) -> Response {
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap();
    let (version, rest) = line.split_at("HTTP/1.1 ".len());
    let (status, reason) = rest.split_once(' ').expect("a reason phrase");
    assert!(version == "HTTP/1.1 " && !reason.is_empty(), "{line}");
    let headers = lines.map(|l| l.split_once(": ").expect("NAME: VALUE"));
    Response {
        status: status.parse().unwrap(),
        headers: headers.map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect(),
        body: Vec::new(),
    }
}

/// The kernel's word for a connection that is up.
const ESTABLISHED: &str = "01";

/// The port of each TCP socket of this machine, the port at its other end, and its state.
fn sockets() -> Vec<(u16, u16, String)> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let row = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some((port(words.next()?)?, port(words.next()?)?, words.next()?.to_owned()))
    };
    table.lines().filter_map(row).collect()
}
