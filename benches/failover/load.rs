//! Owns: a load on some shards, from one thread: at a fixed rate whatever the answers do (an open loop), or a fixed
//! number of calls under way (a closed loop); and when each call was due and answered.
//! Never: what is done to the cluster meanwhile.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dkv::router::Router;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// The longest that the generator waits for answers before it looks whether calls are due.
const TICK: Duration = Duration::from_millis(1);
const KEYS: u64 = 1_000;
pub const VALUE_BYTES: usize = 100;

/// When calls are made.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many a second, over all shards.
    Open(u64),
    /// So many under way on each connection.
    Closed(usize),
}

/// What load.
#[derive(Clone)]
pub struct Plan {
    pub pace: Pace,
    /// Every shard has a connection of its own to each of these nodes, which must stay up.
    pub nodes: Vec<SocketAddr>,
    /// How many shards the cluster has, and which of them are asked.
    pub shards: usize,
    pub asked: Vec<usize>,
    /// Of every hundred calls; the others are reads.
    pub writes_percent: u64,
    /// Every write has a key of its own. Otherwise there are a thousand a shard.
    pub new_keys: bool,
}

/// One call. Times in nanoseconds of the load's clock.
#[derive(Clone, Copy)]
pub struct Call {
    pub shard: usize,
    pub is_write: bool,
    pub due_ns: u64,
    pub answered_ns: u64,
    pub status: u16,
}

impl Call {
    pub fn is_good(&self) -> bool {
        matches!(self.status, 200 | 201 | 404)
    }
}

/// A load that runs.
pub struct Load {
    began: Instant,
    stops: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Call>>,
}

impl Load {
    pub fn start(plan: Plan) -> Load {
        let (stops, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let began = Instant::now();
        let mut generator = Generator::new(plan, began, Arc::clone(&written));
        let told = Arc::clone(&stops);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                generator.turn();
            }
            generator.stops = true;
            while generator.under_way > 0 {
                generator.turn();
            }
            generator.calls
        });
        Load { began, stops, written, thread }
    }

    /// The moment on the clock of the calls.
    pub fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Writes that were answered with success.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Ends the load; gives all its calls, each answered.
    pub fn stop(self) -> Vec<Call> {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load ran to its end")
    }
}

struct Line {
    shard: usize,
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Calls without an answer: whether a write, and when due.
    asked: VecDeque<(bool, u64)>,
}

struct Generator {
    plan: Plan,
    poll: Poll,
    events: Events,
    lines: Vec<Line>,
    router: Router,
    keys: Vec<Vec<String>>,
    next_key: u64,
    began: Instant,
    made: u64,
    under_way: usize,
    stops: bool,
    written: Arc<AtomicU64>,
    calls: Vec<Call>,
}

impl Generator {
    fn new(plan: Plan, began: Instant, written: Arc<AtomicU64>) -> Generator {
        let poll = Poll::new().expect("epoll");
        let mut lines = Vec::new();
        for node in &plan.nodes {
            for shard in &plan.asked {
                let stream = std::net::TcpStream::connect(node).expect("the node listens");
                stream.set_nodelay(true).expect("a socket option");
                stream.set_nonblocking(true).expect("a socket option");
                let mut stream = TcpStream::from_std(stream);
                poll.registry().register(&mut stream, Token(lines.len()), Interest::READABLE).expect("epoll");
                let (input, output, asked) = (Vec::new(), Vec::new(), VecDeque::new());
                lines.push(Line { shard: *shard, stream, input, output, asked });
            }
        }
        let router = Router::of(plan.shards);
        let of_shard = |shard: usize| {
            let keys = (0..).map(|n| format!("key-{n}"));
            keys.filter(|key| router.shard_of(key.as_bytes()).0 as usize == shard).take(KEYS as usize).collect()
        };
        let keys = (0..plan.shards).map(of_shard).collect();
        let events = Events::with_capacity(1024);
        let calls = Vec::with_capacity(1 << 20);
        Generator {
            plan,
            poll,
            events,
            lines,
            router,
            keys,
            next_key: 0,
            began,
            made: 0,
            under_way: 0,
            stops: false,
            written,
            calls,
        }
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Makes the calls that are due, and takes the answers that are there.
    fn turn(&mut self) {
        if !self.stops {
            self.make_calls();
        }
        self.lines.iter_mut().for_each(Line::flush);
        self.poll.poll(&mut self.events, Some(TICK)).expect("epoll");
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        for at in ready {
            self.lines[at].fill();
            self.take_answers(at);
        }
    }

    fn make_calls(&mut self) {
        let now_ns = self.now_ns();
        match self.plan.pace {
            Pace::Open(rate) => {
                while self.made * 1_000_000_000 / rate <= now_ns {
                    let at = self.made as usize % self.lines.len();
                    self.call(at, self.made * 1_000_000_000 / rate);
                }
            }
            Pace::Closed(depth) => {
                for at in 0..self.lines.len() {
                    while self.lines[at].asked.len() < depth {
                        self.call(at, now_ns);
                    }
                }
            }
        }
    }

    fn call(&mut self, at: usize, due_ns: u64) {
        // Mixes reads and writes on every connection.
        let is_write = (self.made / self.lines.len() as u64 * 37) % 100 < self.plan.writes_percent;
        let shard = self.lines[at].shard;
        let new_key;
        let key = if self.plan.new_keys && is_write {
            new_key = self.new_key(shard);
            &new_key
        } else {
            &self.keys[shard][(self.made / self.lines.len() as u64 % KEYS) as usize]
        };
        let output = &mut self.lines[at].output;
        if is_write {
            let head =
                format!("PUT /set?key={key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {VALUE_BYTES}\r\n\r\n");
            output.extend_from_slice(head.as_bytes());
            output.resize(output.len() + VALUE_BYTES, b'v');
        } else {
            output.extend_from_slice(format!("GET /get?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        }
        self.lines[at].asked.push_back((is_write, due_ns));
        self.made += 1;
        self.under_way += 1;
    }

    fn new_key(&mut self, shard: usize) -> String {
        loop {
            let key = format!("new-{}", self.next_key);
            self.next_key += 1;
            if self.router.shard_of(key.as_bytes()).0 as usize == shard {
                return key;
            }
        }
    }

    fn take_answers(&mut self, at: usize) {
        let answered_ns = self.now_ns();
        let line = &mut self.lines[at];
        let mut taken = 0;
        while let Some((status, length)) = answer(&line.input[taken..]) {
            taken += length;
            let (is_write, due_ns) = line.asked.pop_front().expect("an answer to a call");
            let call = Call { shard: line.shard, is_write, due_ns, answered_ns, status };
            self.written.fetch_add(u64::from(is_write && call.is_good()), Ordering::Relaxed);
            self.under_way -= 1;
            self.calls.push(call);
        }
        line.input.drain(..taken);
    }
}

impl Line {
    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => _ = self.output.drain(..n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => panic!("a node that should have stayed up broke a connection: {e}"),
            }
        }
    }

    fn fill(&mut self) {
        let mut space = [0; 1 << 16];
        loop {
            match self.stream.read(&mut space) {
                Ok(0) => panic!("a node that should have stayed up closed a connection"),
                Ok(n) => self.input.extend_from_slice(&space[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => panic!("a node that should have stayed up broke a connection: {e}"),
            }
        }
    }
}

/// The status and the length of the first answer, when all of it is there.
fn answer(bytes: &[u8]) -> Option<(u16, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(bytes).expect("an HTTP answer") else { return None };
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    (bytes.len() >= head_bytes + length).then_some((head.code?, head_bytes + length))
}
