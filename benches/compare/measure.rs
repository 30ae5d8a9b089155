//! Owns: rounds: each candidate in turn, again and again; first as fast as it can, then at fixed rates that follow from
//! that; last, one round each under a count of system calls.
//! Never: what the figures are compared with.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::calls::{Calls, Counting};
use crate::interrupt;
use crate::load::{self, Crowd, Keys, Pace, Plan};
use crate::machine::{Cores, Reading, Spent, program};
use crate::servers::Target;
use crate::speech::{Op, Speech};

/// Before each window.
const WARM_UP: Duration = Duration::from_millis(300);
/// The longest round in which system calls are counted.
const COUNTED: Duration = Duration::from_secs(2);
pub const VALUE_BYTES: usize = 100;

/// One kind of load.
#[derive(Clone)]
pub struct Load {
    /// As on the command line.
    pub group: &'static str,
    pub op: Op,
    pub value_bytes: usize,
    pub keys: Keys,
    pub connections: usize,
    pub depth: usize,
}

impl Load {
    pub fn label(&self) -> String {
        let op = if self.op == Op::Get { "GET" } else { "SET" };
        let deep = if self.depth > 1 { format!(", {} deep", self.depth) } else { String::new() };
        format!("{}: {op}, {} B, {} connections{deep}", self.group, self.value_bytes, self.connections)
    }

    fn plan(&self, pace: Pace, window: Duration) -> Plan {
        let (op, value_bytes, keys) = (self.op, self.value_bytes, self.keys.clone());
        Plan { op, value_bytes, keys, connections: self.connections, depth: self.depth, pace, warm_up: WARM_UP, window }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// A closed loop: as fast as answers come.
    Saturated,
    /// Open loops at one rate: half of what the slowest of them reached.
    EqualRate,
    /// Open loops, each at half of what it reached itself.
    HalfOfOwn,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Saturated => "saturated",
            Phase::EqualRate => "half of the slowest's peak",
            Phase::HalfOfOwn => "half of its own peak",
        }
    }
}

/// What one round of one candidate showed. Times in microseconds.
#[derive(Clone)]
pub struct Record {
    pub load: String,
    pub phase: Phase,
    pub server: String,
    pub tool: &'static str,
    pub round: usize,
    /// Requests a second that were to be made; none in a closed loop.
    pub asked: Option<f64>,
    pub requests: f64,
    /// p50, p99, p99.9; those that the tool told.
    pub latency_us: [Option<f64>; 3],
    pub spent: Spent,
    pub resident: u64,
    pub fault: Option<String>,
}

impl Record {
    pub fn rate(&self) -> f64 {
        self.requests / self.spent.wall.as_secs_f64()
    }

    /// Of the server processes, a request.
    pub fn cpu_us(&self) -> f64 {
        self.spent.server_us / self.requests.max(1.0)
    }

    /// How busy the servers kept their core, from 0 to 1.
    pub fn core(&self) -> f64 {
        self.spent.server_us / self.spent.wall.as_micros() as f64
    }

    pub fn generator(&self) -> f64 {
        self.spent.own_us / self.spent.wall.as_micros() as f64
    }
}

/// Memory that connections cost, in bytes each.
pub struct Idle {
    pub server: String,
    pub round: usize,
    pub connections: usize,
    /// None has sent anything.
    pub silent: f64,
    /// Each has had one answer.
    pub asked_once: f64,
    pub fault: Option<String>,
}

pub struct Bench {
    pub rounds: usize,
    pub window: Duration,
    pub cores: Cores,
    pub records: Vec<Record>,
    pub calls: Vec<(String, &'static str, Calls)>,
    pub idle: Vec<Idle>,
    /// Where perf writes.
    pub dir: std::path::PathBuf,
}

impl Bench {
    /// All rounds of one load. Those in `paced` are asked at fixed rates, too.
    pub fn measure(&mut self, load: &Load, targets: &[&Target], paced: &[&str], phases: &[Phase]) {
        let label = load.label();
        for phase in phases {
            let paced = |target: &&&Target| *phase == Phase::Saturated || paced.contains(&target.name);
            let targets: Vec<_> = targets.iter().filter(paced).collect();
            let equal = targets.iter().filter_map(|target| self.peak(&label, target.name)).reduce(f64::min);
            for round in 0..self.rounds {
                for target in &targets {
                    let peak = match phase {
                        Phase::Saturated => None,
                        Phase::EqualRate => equal,
                        Phase::HalfOfOwn => self.peak(&label, target.name),
                    };
                    if *phase != Phase::Saturated && peak.is_none() {
                        continue;
                    }
                    self.round(load, target, *phase, peak.map(|peak| peak / 2.0), round);
                }
            }
        }
        for target in targets {
            self.count(load, target);
        }
    }

    /// The median of what a candidate reached; `None` if that was faulty.
    fn peak(&self, label: &str, server: &str) -> Option<f64> {
        let mine = |record: &&Record| record.load == label && record.server == server && record.fault.is_none();
        let saturated = self.records.iter().filter(mine).filter(|record| record.phase == Phase::Saturated);
        median(saturated.map(Record::rate))
    }

    fn round(&mut self, load: &Load, target: &Target, phase: Phase, asked: Option<f64>, round: usize) {
        interrupt::check();
        let pace = asked.map_or(Pace::Closed, Pace::Open);
        let plan = load.plan(pace, self.window);
        let outcome = match load::run(target.address, target.speech, &plan, || Reading::take(&target.pids)) {
            Ok(outcome) => outcome,
            Err(e) => return println!("{}: {} cannot be asked: {e}", load.label(), target.name),
        };
        let at =
            |share: f64| (!outcome.latency.is_empty()).then(|| outcome.latency.value_at_quantile(share) as f64 / 1e3);
        let record = Record {
            load: load.label(),
            phase,
            server: target.name.to_owned(),
            tool: "own",
            round,
            asked,
            requests: outcome.requests as f64,
            latency_us: [at(0.5), at(0.99), at(0.999)],
            spent: Spent::between(outcome.edges),
            resident: outcome.edges[1].resident,
            fault: outcome.fault,
        };
        let is_plain = load.value_bytes == VALUE_BYTES && load.connections == 64 && target.speech == Speech::Redis;
        let cross_check = (is_plain && phase == Phase::Saturated && record.fault.is_none())
            .then(|| self.redis_benchmark(load, target, &record))
            .flatten();
        self.keep(record);
        if let Some(record) = cross_check {
            self.keep(record);
        }
    }

    fn keep(&mut self, record: Record) {
        let (load, phase, server) = (&record.load, record.phase.name(), &record.server);
        let (rate, cpu, round) = (record.rate(), record.cpu_us(), record.round + 1);
        let fault = record.fault.as_deref().map_or(String::new(), |fault| format!(", FAULT: {fault}"));
        eprintln!("{load}; {phase}; round {round}: {server} {rate:.0}/s, {cpu:.2} us{fault}");
        self.records.push(record);
    }

    /// The same by Redis's own tool, about as long: is our generator as good?
    fn redis_benchmark(&self, load: &Load, target: &Target, like: &Record) -> Option<Record> {
        let requests = (like.rate() * self.window.as_secs_f64()).max(1000.0).round();
        let Keys::Below(keys) = load.keys else { return None };
        let command = [
            ("-p", target.address.port().to_string()),
            ("-c", load.connections.to_string()),
            ("-P", load.depth.to_string()),
            ("-n", requests.to_string()),
            ("-r", keys.to_string()),
            ("-d", load.value_bytes.to_string()),
            ("-t", if load.op == Op::Get { "get" } else { "set" }.to_owned()),
        ];
        let words = command.iter().flat_map(|(name, value)| [*name, value.as_str()]);
        let (before, from) = (Reading::take(&target.pids), Instant::now());
        // It inherits our core.
        let done = Command::new(program("redis-benchmark")?).args(words).arg("--csv").output().ok()?;
        let took = from.elapsed();
        let after = Reading::take(&target.pids);
        // "GET",rate,average,least,p50,p95,p99,most; in milliseconds
        let said = String::from_utf8_lossy(&done.stdout);
        let line = said.lines().find(|line| line.starts_with("\"GET\"") || line.starts_with("\"SET\""))?;
        let field = |at: usize| line.split(',').nth(at)?.trim_matches('"').parse::<f64>().ok();
        let us = |at: usize| field(at).map(|ms| ms * 1e3);
        // Its own rate leaves out how long it takes to start.
        let wall = field(1).map_or(took, |rate| Duration::from_secs_f64(requests / rate));
        Some(Record {
            server: format!("{} (redis-benchmark)", target.name),
            tool: "redis-benchmark",
            requests,
            latency_us: [us(4), us(6), None],
            spent: Spent { wall, own_us: 0.0, ..Spent::between([before, after]) },
            resident: after.resident,
            fault: (!done.status.success()).then(|| "redis-benchmark failed".to_owned()),
            ..like.clone()
        })
    }

    /// System calls of a round that is not timed, a request.
    fn count(&mut self, load: &Load, target: &Target) {
        interrupt::check();
        let Some(counting) = Counting::start(&target.pids, &self.dir) else { return };
        let plan = load.plan(Pace::Closed, self.window.min(COUNTED));
        let outcome = load::run(target.address, target.speech, &plan, || ());
        let (Some(mut calls), Ok(outcome)) = (counting.stop(), outcome) else { return };
        calls.requests = outcome.in_all;
        self.calls.push((load.label(), target.name, calls));
    }

    /// What connections that ask nothing cost a candidate that is fresh.
    pub fn idle_round(&mut self, target: &Target, connections: usize, round: usize) {
        interrupt::check();
        let load = Load {
            group: "idle",
            op: Op::Get,
            value_bytes: VALUE_BYTES,
            keys: Keys::Below(1000),
            connections,
            depth: 1,
        };
        let plan = load.plan(Pace::Closed, Duration::from_millis(100));
        // What it needs for any request at all, it has before.
        let few = Plan { connections: 8, ..plan.clone() };
        let fault = load::run(target.address, target.speech, &few, || ()).map_or(None, |outcome| outcome.fault);
        let resident = || {
            std::thread::sleep(Duration::from_millis(500));
            Reading::take(&target.pids).resident as f64
        };
        let alone = resident();
        let mut crowd = match Crowd::connect(target.address, target.speech, &plan) {
            Ok(crowd) => crowd,
            Err(e) => return println!("idle: {} takes no {connections} connections: {e}", target.name),
        };
        let each = |now: f64| (now - alone) / connections as f64;
        let silent = each(resident());
        let asked = crowd.ask_once().unwrap_or_else(|e| Some(e.to_string()));
        let asked_once = each(resident());
        eprintln!("idle; round {}: {} {silent:.0} B, {asked_once:.0} B", round + 1, target.name);
        let fault = fault.or(asked);
        self.idle.push(Idle { server: target.name.to_owned(), round, connections, silent, asked_once, fault });
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}
