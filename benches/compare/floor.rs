//! Owns: the least that an HTTP server on mio and httparse can do: it answers every request with the same bytes. One
//! read and one write a readiness, also for pipelined requests; registrations are made once; no allocation a request.
//! Never: what a request asks for.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);

struct Conn {
    stream: TcpStream,
    /// The beginning of a request whose end has not come.
    rest: Vec<u8>,
    /// Bytes of answers that were not taken yet.
    owed: usize,
}

/// The same answer many times over, so that any number of them is a slice of it.
struct Answers {
    bytes: Vec<u8>,
    one: usize,
}

impl Answers {
    /// An answer as long as dkv's own to a GET that finds a value of this length.
    fn new(value_bytes: usize) -> Answers {
        let head = format!(
            "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 16:17:00 GMT\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {value_bytes}\r\nETag: \"500000\"\r\nX-Content-Type-Options: nosniff\r\n\r\n"
        );
        let one = [head.as_bytes(), &vec![b'v'; value_bytes]].concat();
        let many = (64 * 1024 / one.len()).max(2);
        Answers { bytes: one.repeat(many), one: one.len() }
    }

    /// The bytes that come next when so many are owed.
    fn next(&self, owed: usize) -> &[u8] {
        let from = (self.one - owed % self.one) % self.one;
        &self.bytes[from..self.bytes.len().min(from + owed)]
    }
}

/// Answers until the process is killed.
pub fn serve(port: u16, value_bytes: usize) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (answers, mut space) = (Answers::new(value_bytes), vec![0; 64 * 1024]);
    let (mut conns, mut events) = (Slab::<Conn>::new(), Events::with_capacity(1024));
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut conns)?;
                continue;
            }
            let at = event.token().0;
            if !conns[at].turn(&mut space, &answers) {
                conns.remove(at);
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, conns: &mut Slab<Conn>) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        stream.set_nodelay(true)?;
        let slot = conns.vacant_entry();
        poll.registry().register(&mut stream, Token(slot.key()), Interest::READABLE | Interest::WRITABLE)?;
        slot.insert(Conn { stream, rest: Vec::new(), owed: 0 });
    }
}

impl Conn {
    /// Answers what came. `false`: the connection is over.
    fn turn(&mut self, space: &mut [u8], answers: &Answers) -> bool {
        loop {
            let read = match self.stream.read(space) {
                Ok(0) => return false,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return self.owed == 0 || self.write(answers),
                Err(_) => return false,
            };
            let Some(requests) = self.requests(&space[..read]) else { return false };
            self.owed += requests * answers.one;
            if !self.write(answers) {
                return false;
            }
            // A short read has emptied the socket.
            if read < space.len() {
                return true;
            }
        }
    }

    /// How many requests are complete now. `None`: these are none.
    fn requests(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.rest.is_empty() {
            let (requests, taken) = parse(bytes)?;
            self.rest.extend_from_slice(&bytes[taken..]);
            return Some(requests);
        }
        self.rest.extend_from_slice(bytes);
        let (requests, taken) = parse(&self.rest)?;
        self.rest.drain(..taken);
        Some(requests)
    }

    fn write(&mut self, answers: &Answers) -> bool {
        while self.owed > 0 {
            match self.stream.write(answers.next(self.owed)) {
                Ok(n) => self.owed -= n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// How many whole requests, none with a body, and how many bytes they take.
fn parse(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut requests, mut taken) = (0, 0);
    while taken < bytes.len() {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        match httparse::Request::new(&mut headers).parse(&bytes[taken..]).ok()? {
            httparse::Status::Complete(length) => taken += length,
            httparse::Status::Partial => break,
        }
        requests += 1;
    }
    Some((requests, taken))
}
