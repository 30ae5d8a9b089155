//! Owns: the load: one thread, so many keep-alive connections, requests in batches (of one, or as deep as they are
//! pipelined), in a closed loop or at a fixed rate; it looks at each answer, and times each from when it was due.
//! Never: what kind of server answers.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::interrupt;
use crate::speech::{Answer, Op, Request, Speech, Wanted};

/// How long an answer may take before the server is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// When batches are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// On each connection when its last batch was answered.
    Closed,
    /// So many requests a second, whatever the answers do. One that is due while all connections wait for answers is
    /// sent late, and timed from when it was due.
    Open(f64),
}

/// Which keys are asked for.
#[derive(Clone)]
pub enum Keys {
    /// Any below this number, at random.
    Below(u32),
    /// Any of these, at random.
    Of(Vec<u32>),
    /// Each of these once; then the load ends.
    Each(std::ops::Range<u32>),
}

#[derive(Clone)]
pub struct Plan {
    pub op: Op,
    pub value_bytes: usize,
    pub keys: Keys,
    pub connections: usize,
    pub depth: usize,
    pub pace: Pace,
    /// Not counted.
    pub warm_up: Duration,
    /// Counted.
    pub window: Duration,
}

/// What came of it.
pub struct Outcome<T> {
    /// Requests answered in the window.
    pub requests: u64,
    /// The same with those before and after it.
    pub in_all: u64,
    /// In nanoseconds. Closed loop: of requests answered in the window. Fixed rate: of all that were due in it.
    pub latency: Histogram<u64>,
    /// What was read at the window's edges.
    pub edges: [T; 2],
    /// A wrong answer, or none at all: the figures mean nothing then.
    pub fault: Option<String>,
}

/// Runs a load; reads something when the window begins and when it ends.
pub fn run<T>(address: SocketAddr, speech: Speech, plan: &Plan, edge: impl Fn() -> T) -> io::Result<Outcome<T>> {
    let mut poll = Poll::new()?;
    let mut generator = Generator::new(address, speech, plan, &poll)?;
    generator.go_on_until(&mut poll, plan.warm_up)?;
    let before = edge();
    let from_ns = generator.now_ns();
    generator.window_ns = from_ns..from_ns + plan.window.as_nanos() as u64;
    let upto = Duration::from_nanos(generator.window_ns.end);
    generator.go_on_until(&mut poll, upto)?;
    let after = edge();
    let requests = generator.answered_in_window;
    generator.finish(&mut poll)?;
    Ok(Outcome {
        requests,
        in_all: generator.answered,
        latency: generator.latency,
        edges: [before, after],
        fault: generator.fault,
    })
}

/// Connections that ask for nothing, or for one key each.
pub struct Crowd {
    poll: Poll,
    generator: Generator,
}

impl Crowd {
    pub fn connect(address: SocketAddr, speech: Speech, plan: &Plan) -> io::Result<Crowd> {
        let poll = Poll::new()?;
        let mut generator = Generator::new(address, speech, plan, &poll)?;
        generator.idle.clear();
        Ok(Crowd { poll, generator })
    }

    /// Each connection makes one request. Gives what was wrong.
    pub fn ask_once(&mut self) -> io::Result<Option<String>> {
        self.generator.idle = (0..self.generator.lines.len()).collect();
        self.generator.send_to_idle();
        self.generator.finish(&mut self.poll)?;
        Ok(self.generator.fault.take())
    }
}

struct Line {
    stream: TcpStream,
    /// The beginning of an answer.
    rest: Vec<u8>,
    /// Bytes of an answer's body that are still to come and need no look.
    skip: usize,
    /// What could not be sent yet.
    output: Vec<u8>,
    unanswered: usize,
    due_ns: u64,
}

struct Generator {
    request: Request,
    wanted: Wanted,
    keys: Keys,
    dice: u64,
    depth: usize,
    pace: Pace,
    began: Instant,
    lines: Vec<Line>,
    /// Connections without a request, the one that has waited longest first.
    idle: VecDeque<usize>,
    batches: u64,
    is_over: bool,
    window_ns: std::ops::Range<u64>,
    answered: u64,
    answered_in_window: u64,
    latency: Histogram<u64>,
    input: Vec<u8>,
    scratch: Vec<u8>,
    fault: Option<String>,
}

impl Generator {
    fn new(address: SocketAddr, speech: Speech, plan: &Plan, poll: &Poll) -> io::Result<Generator> {
        let mut lines = Vec::with_capacity(plan.connections);
        for at in 0..plan.connections {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
            lines.push(Line { stream, rest: Vec::new(), skip: 0, output: Vec::new(), unanswered: 0, due_ns: 0 });
        }
        Ok(Generator {
            request: speech.request(plan.op, plan.value_bytes),
            wanted: speech.wanted(plan.op, plan.value_bytes),
            keys: plan.keys.clone(),
            dice: 0x9e37_79b9_7f4a_7c15,
            depth: plan.depth,
            pace: plan.pace,
            began: Instant::now(),
            idle: (0..lines.len()).collect(),
            lines,
            batches: 0,
            is_over: false,
            window_ns: u64::MAX..u64::MAX,
            answered: 0,
            answered_in_window: 0,
            latency: Histogram::new(3).expect("three digits are possible"),
            input: vec![0; 256 * 1024],
            scratch: Vec::new(),
            fault: None,
        })
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Goes on until this moment, or until nothing is left to be asked.
    fn go_on_until(&mut self, poll: &mut Poll, upto: Duration) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while self.began.elapsed() < upto && self.fault.is_none() && !(self.is_over && self.is_all_answered()) {
            self.turn(poll, &mut events)?;
        }
        Ok(())
    }

    /// Sends nothing new, but at a fixed rate what was due in the window, and takes the answers that are missing.
    fn finish(&mut self, poll: &mut Poll) -> io::Result<()> {
        let (mut events, from) = (Events::with_capacity(1024), Instant::now());
        self.is_over = true;
        while self.fault.is_none() && !self.is_all_answered() {
            self.turn(poll, &mut events)?;
            if from.elapsed() > PATIENCE {
                self.fault = Some(format!("no answer for {} s", PATIENCE.as_secs()));
            }
        }
        Ok(())
    }

    fn is_all_answered(&self) -> bool {
        self.idle.len() == self.lines.len() && self.next_due_ns().is_none()
    }

    fn turn(&mut self, poll: &mut Poll, events: &mut Events) -> io::Result<()> {
        interrupt::check();
        self.send_to_idle();
        // At a fixed rate the generator never sleeps: it has a core of its own, and a timer wakes too late.
        let wait = if matches!(self.pace, Pace::Open(_)) { 0 } else { 100 };
        match poll.poll(events, Some(Duration::from_millis(wait))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in events.iter() {
            let at = event.token().0;
            if let Err(e) = self.serve(at) {
                self.fault.get_or_insert_with(|| e.to_string());
                break;
            }
        }
        Ok(())
    }

    /// When the next batch is due at a fixed rate, as long as there are any.
    fn next_due_ns(&self) -> Option<u64> {
        let Pace::Open(rate) = self.pace else { return None };
        let due_ns = (self.batches as f64 * self.depth as f64 / rate * 1e9) as u64;
        (!self.is_over || due_ns < self.window_ns.end).then_some(due_ns)
    }

    fn send_to_idle(&mut self) {
        let now_ns = self.now_ns();
        match self.pace {
            Pace::Closed => {
                while !self.is_over
                    && let Some(at) = self.idle.pop_front()
                {
                    self.send(at, now_ns);
                }
            }
            Pace::Open(_) => {
                while let Some(due_ns) = self.next_due_ns().filter(|due_ns| *due_ns <= now_ns)
                    && let Some(at) = self.idle.pop_front()
                {
                    self.send(at, due_ns);
                }
            }
        }
    }

    /// Sends a batch that was due then.
    fn send(&mut self, at: usize, due_ns: u64) {
        self.scratch.clear();
        let mut asked = 0;
        while asked < self.depth
            && let Some(key) = self.next_key()
        {
            self.request.write(key, &mut self.scratch);
            asked += 1;
        }
        if asked == 0 {
            self.is_over = true;
            self.idle.push_back(at);
            return;
        }
        self.batches += 1;
        let line = &mut self.lines[at];
        (line.unanswered, line.due_ns) = (asked, due_ns);
        if let Err(e) = line.send(&self.scratch) {
            self.fault.get_or_insert_with(|| e.to_string());
        }
    }

    fn next_key(&mut self) -> Option<u32> {
        // xorshift: good enough to choose keys, and costs next to nothing.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let below = |n: u64| ((self.dice >> 32) * n) >> 32;
        match &mut self.keys {
            Keys::Below(n) => Some(below(u64::from(*n)) as u32),
            Keys::Of(keys) => Some(keys[below(keys.len() as u64) as usize]),
            Keys::Each(left) => left.next(),
        }
    }

    /// Takes what a connection brought, and makes it busy again.
    fn serve(&mut self, at: usize) -> io::Result<()> {
        self.lines[at].flush()?;
        loop {
            let read = match self.lines[at].stream.read(&mut self.input) {
                Ok(0) => return Err(io::Error::other("the server closed a connection")),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            let answers = self.lines[at].take(&self.input[..read], &self.wanted)?;
            if answers > self.lines[at].unanswered {
                return Err(io::Error::other("more answers than requests"));
            }
            if answers > 0 {
                self.count(at, answers);
            }
            // A short read has emptied the socket.
            if read < self.input.len() {
                return Ok(());
            }
        }
    }

    fn count(&mut self, at: usize, answers: usize) {
        let now_ns = self.now_ns();
        let line = &mut self.lines[at];
        line.unanswered -= answers;
        let (is_done, due_ns) = (line.unanswered == 0, line.due_ns);
        self.answered += answers as u64;
        if self.window_ns.contains(&now_ns) {
            self.answered_in_window += answers as u64;
        }
        let counts_at = if matches!(self.pace, Pace::Open(_)) { due_ns } else { now_ns };
        if self.window_ns.contains(&counts_at) {
            let _ = self.latency.record_n((now_ns - due_ns).max(1), answers as u64);
        }
        match self.pace {
            Pace::Closed if is_done && !self.is_over => self.send(at, now_ns),
            _ if is_done => self.idle.push_back(at),
            _ => {}
        }
    }
}

impl Line {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            return self.flush();
        }
        match self.stream.write(bytes) {
            Ok(n) => self.output.extend_from_slice(&bytes[n..]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.output.extend_from_slice(bytes),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => _ = self.output.drain(..n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// How many answers end in these bytes.
    fn take(&mut self, bytes: &[u8], wanted: &Wanted) -> io::Result<usize> {
        if self.rest.is_empty() {
            let mut skip = self.skip;
            let (answers, taken) = answers(bytes, &mut skip, wanted)?;
            self.skip = skip;
            self.rest.extend_from_slice(&bytes[taken..]);
            return Ok(answers);
        }
        self.rest.extend_from_slice(bytes);
        let (answers, taken) = answers(&self.rest, &mut self.skip, wanted)?;
        self.rest.drain(..taken);
        Ok(answers)
    }
}

/// How many answers end in these bytes, of which the first `skip` belong to one that was judged, and how many bytes
/// need not be seen again.
fn answers(bytes: &[u8], skip: &mut usize, wanted: &Wanted) -> io::Result<(usize, usize)> {
    let (mut answers, mut taken) = (0, 0);
    loop {
        if *skip > 0 {
            let skipped = (*skip).min(bytes.len() - taken);
            *skip -= skipped;
            taken += skipped;
            if *skip > 0 {
                return Ok((answers, taken));
            }
            answers += 1;
        }
        if taken == bytes.len() {
            return Ok((answers, taken));
        }
        match wanted.judge(&bytes[taken..]) {
            Answer::Part => return Ok((answers, taken)),
            Answer::Right(length) => *skip = length,
            Answer::Wrong => {
                let seen = String::from_utf8_lossy(&bytes[taken..bytes.len().min(taken + 200)]);
                return Err(io::Error::other(format!("a wrong answer: {seen:?}")));
            }
        }
    }
}
