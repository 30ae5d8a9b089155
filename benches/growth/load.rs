//! Owns: a load of one kind of call on one node, from one thread: at a fixed rate whatever the answers do (an open
//! loop, latencies from the moment when a call was due), or with a fixed number of calls under way (a closed loop).
//! Never: what is measured of the node, what happens to it meanwhile.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use memchr::memmem;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::OwnedFd;
use rustix::process::nice;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::keys::{Keys, write_key};

/// Calls that are due within so short a time are made together: waking for each of a hundred thousand a second takes a
/// processor. Their latencies count from when each was due.
const WAKE: Duration = Duration::from_micros(50);
/// How much nicer a load is that gives way to others.
const NICER: i32 = 10;
/// How often a load looks whether it is to stop, when nothing comes.
const TICK: Duration = Duration::from_millis(20);
const TIMER: Token = Token(usize::MAX);
/// What is read at a time: each load has one such buffer.
const READ_BYTES: usize = 256 << 10;

/// When calls are made.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many a second, over all connections.
    Open(u64),
    /// So many under way on each connection.
    Closed(usize),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Call {
    Get,
    Put,
}

/// What load.
#[derive(Clone)]
pub struct Plan {
    pub address: SocketAddr,
    pub connections: usize,
    pub pace: Pace,
    pub call: Call,
    pub keys: Keys,
    pub key_bytes: usize,
    pub value_bytes: usize,
    /// Ends by itself after so many calls.
    pub calls: Option<u64>,
    /// Another load on the same processor is to be judged, not this one.
    pub gives_way: bool,
}

/// What came of a load.
pub struct Outcome {
    pub answered: u64,
    /// Answers that were neither 200 nor 201.
    pub failed: u64,
    /// The node broke a connection.
    pub is_broken: bool,
    pub seconds: f64,
    pub latencies_ns: Histogram<u64>,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// In microseconds.
    pub fn percentile_us(&self, percentile: f64) -> f64 {
        self.latencies_ns.value_at_percentile(percentile) as f64 / 1e3
    }
}

/// A load that runs.
pub struct Load {
    stops: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Outcome>,
}

impl Load {
    pub fn start(plan: Plan) -> Load {
        let (stops, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut generator = Generator::new(plan, Arc::clone(&stops), Arc::clone(&answered));
        let thread = std::thread::spawn(move || {
            if generator.plan.gives_way {
                nice(NICER).expect("whoever wants to may be nicer");
            }
            generator.run()
        });
        Load { stops, answered, thread }
    }

    /// Calls answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether it has made all its calls, or failed.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Makes no more calls, and waits for the answers that are due.
    pub fn stop(self) -> Outcome {
        self.stops.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until it has made all its calls.
    pub fn wait(self) -> Outcome {
        let outcome = self.thread.join().expect("the load ran to its end");
        assert!(!outcome.is_broken && outcome.failed == 0, "calls failed: figures of such a run mean nothing");
        outcome
    }

    /// Lets go of a load whose node was killed under it.
    pub fn abandon(self) {
        let outcome = self.thread.join().expect("the load ran to its end");
        assert!(outcome.is_broken, "the node was killed");
    }
}

/// Runs a load for so long.
pub fn for_a_time(plan: Plan, time: Duration) -> Outcome {
    let load = Load::start(plan);
    std::thread::sleep(time);
    load.stop()
}

struct Line {
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    /// When the calls without an answer were due.
    due_ns: VecDeque<u64>,
}

struct Generator {
    plan: Plan,
    poll: Poll,
    timer: OwnedFd,
    lines: Vec<Line>,
    space: Vec<u8>,
    began: Instant,
    made: u64,
    under_way: usize,
    stops: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    outcome: Outcome,
}

impl Generator {
    fn new(plan: Plan, stops: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Generator {
        let poll = Poll::new().expect("epoll");
        let lines = (0..plan.connections).map(|at| Line::connect(plan.address, &poll, Token(at))).collect();
        // mio waits in whole milliseconds, which is far too coarse for when a call is due.
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).expect("a timer");
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE).expect("epoll");
        let latencies_ns = Histogram::new_with_bounds(1_000, 100_000_000_000, 3).expect("bounds of a histogram");
        let outcome = Outcome { answered: 0, failed: 0, is_broken: false, seconds: 0.0, latencies_ns };
        Generator {
            plan,
            poll,
            timer,
            lines,
            space: vec![0; READ_BYTES],
            began: Instant::now(),
            made: 0,
            under_way: 0,
            stops,
            answered,
            outcome,
        }
    }

    fn run(&mut self) -> Outcome {
        let mut events = Events::with_capacity(1024);
        self.began = Instant::now();
        loop {
            let is_over = self.stops.load(Ordering::Relaxed) || self.plan.calls.is_some_and(|all| self.made >= all);
            if !is_over {
                self.make_calls();
            } else if self.under_way == 0 {
                break;
            }
            for line in &mut self.lines {
                self.outcome.is_broken |= line.flush().is_err();
            }
            self.poll.poll(&mut events, Some(TICK)).expect("epoll");
            for at in events.iter().map(|event| event.token()).filter(|token| *token != TIMER) {
                self.take_answers(at.0);
            }
            self.answered.store(self.outcome.answered, Ordering::Relaxed);
            if self.outcome.is_broken {
                break;
            }
        }
        self.outcome.seconds = self.began.elapsed().as_secs_f64();
        let empty = Histogram::new(3).expect("a histogram");
        let latencies_ns = std::mem::replace(&mut self.outcome.latencies_ns, empty);
        Outcome { latencies_ns, ..self.outcome }
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn make_calls(&mut self) {
        let now_ns = self.now_ns();
        let most = self.plan.calls.unwrap_or(u64::MAX);
        match self.plan.pace {
            Pace::Open(rate) => {
                let due_ns = |made: u64| (u128::from(made) * 1_000_000_000 / u128::from(rate)) as u64;
                while due_ns(self.made) <= now_ns && self.made < most {
                    self.call(self.made as usize % self.lines.len(), due_ns(self.made));
                }
                self.wake_at(due_ns(self.made));
            }
            Pace::Closed(depth) => {
                for at in 0..self.lines.len() {
                    while self.lines[at].due_ns.len() < depth && self.made < most {
                        self.call(at, now_ns);
                    }
                }
            }
        }
    }

    /// Of the load's own clock, but not sooner than [`WAKE`].
    fn wake_at(&self, due_ns: u64) {
        let left_ns = due_ns.saturating_sub(self.now_ns()).max(WAKE.as_nanos() as u64);
        let it_value = Timespec { tv_sec: (left_ns / 1_000_000_000) as i64, tv_nsec: (left_ns % 1_000_000_000) as i64 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).expect("a timer");
    }

    fn call(&mut self, at: usize, due_ns: u64) {
        let key = self.plan.keys.next();
        let Plan { call, key_bytes, value_bytes, .. } = self.plan;
        let line = &mut self.lines[at];
        let output = &mut line.output;
        output.extend_from_slice(if call == Call::Put { b"PUT /set?key=" } else { b"GET /get?key=" });
        write_key(output, key, key_bytes);
        output.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\n");
        if call == Call::Put {
            let mut length = String::new();
            let _ = write!(length, "Content-Length: {value_bytes}\r\n\r\n");
            output.extend_from_slice(length.as_bytes());
            output.resize(output.len() + value_bytes, b'v');
        } else {
            output.extend_from_slice(b"\r\n");
        }
        line.due_ns.push_back(due_ns);
        self.made += 1;
        self.under_way += 1;
    }

    fn take_answers(&mut self, at: usize) {
        // Edges: all that is there is read.
        loop {
            match self.lines[at].fill(&mut self.space) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    self.outcome.is_broken = true;
                    break;
                }
            }
        }
        let answered_ns = self.now_ns();
        let line = &mut self.lines[at];
        let mut taken = 0;
        while let Some((is_good, length)) = answer(&line.input[taken..]) {
            taken += length;
            let due_ns = line.due_ns.pop_front().expect("an answer to a call");
            self.outcome.latencies_ns.saturating_record(answered_ns.saturating_sub(due_ns));
            self.outcome.answered += 1;
            self.outcome.failed += u64::from(!is_good);
            self.under_way -= 1;
        }
        line.input.drain(..taken);
    }
}

impl Line {
    fn connect(address: SocketAddr, poll: &Poll, token: Token) -> Line {
        let stream = std::net::TcpStream::connect(address).expect("the node listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_nonblocking(true).expect("a socket option");
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).expect("epoll");
        Line { stream, output: Vec::new(), input: Vec::new(), due_ns: VecDeque::new() }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.output.len() {
            match self.stream.write(&self.output[written..]) {
                Ok(n) => written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        self.output.drain(..written);
        Ok(())
    }

    /// `false`: there is no more.
    fn fill(&mut self, space: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(space) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.input.extend_from_slice(&space[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Whether the first answer says success, and its length, when all of it is there.
fn answer(bytes: &[u8]) -> Option<(bool, usize)> {
    const LENGTH: &[u8] = b"\r\nContent-Length: ";
    let head = memmem::find(bytes, b"\r\n\r\n")?;
    let length = &bytes[memmem::find(&bytes[..head], LENGTH).expect("a length") + LENGTH.len()..];
    let digits = length.iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    let all = head + 4 + length;
    let is_good = matches!(&bytes[..12], b"HTTP/1.1 200" | b"HTTP/1.1 201");
    (bytes.len() >= all).then_some((is_good, all))
}
