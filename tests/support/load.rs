//! Owns: clients at every node at once, on few keys: all four calls, with and without conditions; the histories of
//! their calls; and the judgement, key by key, in the end.
//! Never: what is done to the cluster meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dkv::id::Lsn;
use dkv::op::{Condition, Verb};

use super::cluster::Cluster;
use super::dice::Dice;
use super::http::{Client, Response};
use super::linear::{self, Got, Operation};

/// At least so many; more where there are more shards, since each client works on one.
const CLIENTS_A_NODE: usize = 2;
const KEYS_A_SHARD: usize = 3;

/// Keys, and the clock and the numbers that all clients share.
pub struct Load<'a> {
    cluster: &'a Cluster,
    keys: Vec<Key>,
    began: Instant,
    next_value: AtomicU64,
    shards: Vec<Progress>,
    goes_on: AtomicBool,
    /// A client takes a connection for each call, and asks another node where one is refused.
    calls_apart: bool,
    /// What a client waits between two calls.
    pace: Duration,
}

/// How the writes of one shard get on.
#[derive(Debug, Default)]
struct Progress {
    /// Writes answered with success.
    written: AtomicUsize,
    /// When the last was answered, in ns.
    last_ns: AtomicU64,
    longest_gap_ns: AtomicU64,
}

impl Progress {
    fn note(&self, now_ns: u64) {
        self.written.fetch_add(1, Ordering::Relaxed);
        let last_ns = self.last_ns.fetch_max(now_ns, Ordering::Relaxed);
        self.longest_gap_ns.fetch_max(now_ns.saturating_sub(last_ns), Ordering::Relaxed);
    }
}

struct Key {
    name: String,
    shard: usize,
}

/// What the clients were answered.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub written: usize,
    pub read: usize,
    /// Calls by status, where it is none that says how the call went; 0: no answer.
    pub without_result: BTreeMap<u16, usize>,
    /// The texts of those answers, each once, and who gave them.
    pub texts: BTreeMap<String, usize>,
    /// Of calls without a known outcome, those that must have been applied.
    pub unknown_applied: usize,
    /// The longest time between two answered writes, by shard.
    pub gaps: Vec<Duration>,
    /// What each key held in the end.
    pub last: Vec<(String, Option<String>)>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.written += other.written;
        self.read += other.read;
        for (status, n) in other.without_result {
            *self.without_result.entry(status).or_default() += n;
        }
        for (text, n) in other.texts {
            *self.texts.entry(text).or_default() += n;
        }
    }

    /// No call was left without its result.
    #[track_caller]
    pub fn nothing_failed(&self) {
        assert!(self.without_result.is_empty(), "{self:?}");
    }
}

/// Sees how the clients get on.
pub struct Watch<'a, 'b> {
    load: &'a Load<'b>,
    is_over: &'a (dyn Fn() -> bool + Sync),
}

impl Watch<'_, '_> {
    /// Whether a client has found something wrong, and ended.
    pub fn is_over(&self) -> bool {
        (self.is_over)()
    }

    /// The longest time without an answered write of the shard since this was last asked, that until now included.
    pub fn gap(&self, shard: usize) -> Duration {
        let progress = &self.load.shards[shard];
        let now_ns = self.load.now();
        // The time until now must not be told twice.
        let last_ns = progress.last_ns.swap(now_ns, Ordering::Relaxed);
        let longest_ns = progress.longest_gap_ns.swap(0, Ordering::Relaxed);
        Duration::from_nanos(longest_ns.max(now_ns.saturating_sub(last_ns)))
    }

    /// Writes answered until now on the shard.
    pub fn written(&self, shard: usize) -> usize {
        self.load.shards[shard].written.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes on the shard were answered.
    #[track_caller]
    pub fn more_writes(&self, shard: usize, more: usize) {
        let upto = self.written(shard) + more;
        while self.written(shard) < upto {
            assert!(!(self.is_over)(), "a client found something wrong");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The same on every shard.
    #[track_caller]
    pub fn more_writes_everywhere(&self, more: usize) {
        (0..self.load.shards.len()).for_each(|shard| self.more_writes(shard, more));
    }
}

impl<'a> Load<'a> {
    pub fn on(cluster: &'a Cluster) -> Load<'a> {
        Load::with_keys(cluster, "key")
    }

    /// On keys whose names begin with this.
    pub fn with_keys(cluster: &'a Cluster, prefix: &str) -> Load<'a> {
        let shards = cluster.shards();
        let key = |shard, n| Key { name: cluster.key_named(prefix, shard, n), shard };
        Load {
            cluster,
            keys: (0..shards).flat_map(|shard| (0..KEYS_A_SHARD).map(move |n| key(shard, n))).collect(),
            began: Instant::now(),
            next_value: AtomicU64::new(1),
            shards: (0..shards).map(|_| Progress::default()).collect(),
            goes_on: AtomicBool::new(true),
            calls_apart: false,
            pace: Duration::ZERO,
        }
    }

    /// Each call has a connection of its own, so that none is lost because a node closes one that was idle; where a
    /// node says that it stops, or takes no connections, another one is asked.
    pub fn calling_apart(mut self) -> Load<'a> {
        self.calls_apart = true;
        self
    }

    /// Each client waits so long between two calls.
    pub fn paced(mut self, pace: Duration) -> Load<'a> {
        self.pace = pace;
        self
    }

    /// Runs the clients while `disturb` does, which must leave all nodes running. Then every copy must come to be in
    /// sync, with the same content, and what all clients saw of a key must fit an order.
    pub fn run(self, disturb: impl FnOnce(&Watch<'_, '_>)) -> Tally {
        let clients = self.cluster.nodes() * CLIENTS_A_NODE.max(self.cluster.shards());
        let mut histories: Vec<Vec<Operation>> = self.keys.iter().map(|_| Vec::new()).collect();
        let mut tally = Tally::default();
        thread::scope(|scope| {
            let load = &self;
            let threads: Vec<_> =
                (0..clients).map(|name| scope.spawn(move || Caller::new(load, name).go_on())).collect();
            // What panics here must not leave the clients going on, or the test would never end.
            let stops = StopsAtItsEnd(&self.goes_on);
            disturb(&Watch { load: &self, is_over: &|| threads.iter().any(|thread| thread.is_finished()) });
            drop(stops);
            for thread in threads {
                let caller = thread.join().unwrap();
                tally.add(caller.tally);
                histories.iter_mut().zip(caller.histories).for_each(|(all, own)| all.extend(own));
            }
        });
        for shard in 0..self.cluster.shards() {
            self.cluster.wait_until_whole(shard);
        }
        tally.gaps =
            self.shards.iter().map(|s| Duration::from_nanos(s.longest_gap_ns.load(Ordering::Relaxed))).collect();
        tally.last = self.read_everywhere(&mut histories);
        for (key, history) in self.keys.iter().zip(&histories) {
            match linear::judge(history) {
                Ok(judged) => tally.unknown_applied += judged.unknown_applied,
                Err(violation) => panic!("{} of shard {}: {violation}", key.name, key.shard),
            }
        }
        assert!(tally.written > 0 && tally.read > 0);
        tally
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Reads each key at each node once more; each copy must come to hold by itself what was read.
    fn read_everywhere(&self, histories: &mut [Vec<Operation>]) -> Vec<(String, Option<String>)> {
        let mut held = Vec::new();
        for (key, history) in self.keys.iter().zip(histories) {
            let mut last = None;
            for node in 0..self.cluster.nodes() {
                let (invoked, answer, got) = loop {
                    let invoked = self.now();
                    let answer = self.cluster.client(node).call(&format!("GET /get?key={}", key.name), "");
                    if let Some(got) = outcome(Verb::Get, &answer) {
                        break (invoked, answer, got);
                    }
                };
                let returned = self.now();
                let condition = Condition::None;
                history.push(Operation { verb: Verb::Get, condition, value: 0, invoked, returned, got });
                last = Some((answer.status, answer.body));
            }
            for node in self.cluster.copies(key.shard) {
                let line = format!("GET /get?key={}&consistency=stale", key.name);
                let mut client = self.cluster.client(node);
                // A copy hears with the next beacon what is committed.
                while Some(client.call(&line, "")).map(|answer| (answer.status, answer.body)) != last {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            let found = last.filter(|(status, _)| *status == 200).map(|(_, body)| String::from_utf8(body).unwrap());
            held.push((key.name.clone(), found));
        }
        held
    }
}

struct StopsAtItsEnd<'a>(&'a AtomicBool);

impl Drop for StopsAtItsEnd<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// One client.
struct Caller<'a> {
    load: &'a Load<'a>,
    dice: Dice,
    node: usize,
    /// On whose keys it works: a shard that does not answer must not keep clients from another one.
    shard: usize,
    client: Option<Client>,
    /// The last ETag seen, by key.
    tags: HashMap<usize, u64>,
    histories: Vec<Vec<Operation>>,
    tally: Tally,
}

impl<'a> Caller<'a> {
    fn new(load: &'a Load<'a>, name: usize) -> Caller<'a> {
        Caller {
            load,
            dice: Dice::new(name as u64),
            node: name % load.cluster.nodes(),
            shard: name / load.cluster.nodes() % load.cluster.shards(),
            client: None,
            tags: HashMap::new(),
            histories: load.keys.iter().map(|_| Vec::new()).collect(),
            tally: Tally::default(),
        }
    }

    fn go_on(mut self) -> Self {
        while self.load.goes_on.load(Ordering::Relaxed) {
            self.call();
            if !self.load.pace.is_zero() {
                thread::sleep(self.load.pace);
            }
        }
        self
    }

    /// A connection to some node that takes one; `None`: the test is over.
    fn connect(&mut self) -> Option<Client> {
        if self.load.calls_apart {
            self.node = self.dice.below(self.load.cluster.nodes() as u64) as usize;
        }
        loop {
            let address: SocketAddr = self.load.cluster.addresses[self.node];
            match Client::try_connect(address) {
                Some(client) => return Some(client),
                None if !self.load.goes_on.load(Ordering::Relaxed) => return None,
                None => self.node = (self.node + 1) % self.load.cluster.nodes(),
            }
            thread::yield_now();
        }
    }

    fn draw(&mut self, key: usize) -> (Verb, Condition) {
        let verb = match self.dice.below(100) {
            0..35 => Verb::Get,
            35..65 => Verb::Set,
            65..85 => Verb::Update,
            _ => Verb::Delete,
        };
        let tag = self.tags.get(&key).map(|tag| Lsn(*tag));
        let condition = match (verb, self.dice.below(10), tag) {
            (Verb::Get, 2..5, Some(tag)) => Condition::IsNot(tag),
            (Verb::Get, ..) => Condition::None,
            (Verb::Set, 0, _) => Condition::Absent,
            (_, 1, _) => Condition::Exists,
            (_, 2..5, Some(tag)) => Condition::Is(tag),
            _ => Condition::None,
        };
        (verb, condition)
    }

    fn call(&mut self) {
        let at = self.shard * KEYS_A_SHARD + self.dice.below(KEYS_A_SHARD as u64) as usize;
        let (verb, condition) = self.draw(at);
        let value = self.load.next_value.fetch_add(1, Ordering::Relaxed);
        let bytes = request(verb, condition, &self.load.keys[at].name, value);
        let Some(mut client) = self.client.take().or_else(|| self.connect()) else { return };
        let invoked = self.load.now();
        let answer = client.try_ask(&bytes);
        let returned = self.load.now();
        let got = self.learn(at, verb, answer.as_ref());
        self.histories[at].push(Operation { verb, condition, value, invoked, returned, got });
        match answer {
            Some(answer) if !answer.closes() && !self.load.calls_apart => self.client = Some(client),
            Some(_) => {}
            None => self.node = (self.node + 1) % self.load.cluster.nodes(),
        }
    }

    fn learn(&mut self, at: usize, verb: Verb, answer: Option<&Response>) -> Got {
        let got = answer.and_then(|answer| outcome(verb, answer));
        let status = answer.map_or(0, |answer| answer.status);
        match got {
            Some(Got::Found { lsn, .. } | Got::NotModified(lsn)) => {
                self.tags.insert(at, lsn);
                self.tally.read += 1;
            }
            Some(Got::Created(_) | Got::Replaced(_) | Got::Deleted) => {
                if let Some(Got::Created(lsn) | Got::Replaced(lsn)) = got {
                    self.tags.insert(at, lsn);
                }
                self.tally.written += 1;
                self.load.shards[self.load.keys[at].shard].note(self.load.now());
            }
            Some(Got::PreconditionFailed(Some(lsn))) => _ = self.tags.insert(at, lsn),
            Some(_) => {}
            None => {
                let text = answer.map_or("no answer", Response::text).trim();
                let is_refusal = self.load.calls_apart && text.contains("this node is stopping");
                if !is_refusal {
                    *self.tally.without_result.entry(status).or_default() += 1;
                }
                let text = format!("{text} (node {})", self.node);
                *self.tally.texts.entry(text).or_default() += 1;
            }
        }
        got.unwrap_or(if matches!(status, 503 | 507) { Got::Failed } else { Got::Unknown })
    }
}

fn request(verb: Verb, condition: Condition, key: &str, value: u64) -> Vec<u8> {
    let line = match verb {
        Verb::Get => "GET /get",
        Verb::Set => "PUT /set",
        Verb::Update => "POST /update",
        Verb::Delete => "DELETE /delete",
    };
    let header = match condition {
        Condition::Absent => "If-None-Match: *\r\n".to_owned(),
        Condition::Exists => "If-Match: *\r\n".to_owned(),
        Condition::Is(tag) => format!("If-Match: \"{}\"\r\n", tag.0),
        Condition::IsNot(tag) => format!("If-None-Match: \"{}\"\r\n", tag.0),
        Condition::None | Condition::Never => String::new(),
    };
    let body = if matches!(verb, Verb::Set | Verb::Update) { value.to_string() } else { String::new() };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{line}?key={key} HTTP/1.1\r\nHost: localhost\r\n{header}{length}\r\n{body}").into_bytes()
}

/// What an answer says; `None`: not how the call went.
fn outcome(verb: Verb, answer: &Response) -> Option<Got> {
    match (answer.status, verb) {
        (200, Verb::Get) => Some(Got::Found { lsn: answer.etag(), value: answer.text().parse().unwrap() }),
        (201, Verb::Set) => Some(Got::Created(answer.etag())),
        (200, Verb::Set | Verb::Update) => Some(Got::Replaced(answer.etag())),
        (200, Verb::Delete) => Some(Got::Deleted),
        (404, Verb::Get | Verb::Update | Verb::Delete) => Some(Got::NotFound),
        (304, Verb::Get) => Some(Got::NotModified(answer.etag())),
        (412, _) => Some(Got::PreconditionFailed(answer.header("etag").map(|_| answer.etag()))),
        (503 | 504 | 507, _) => None,
        _ => panic!("{verb:?}: {answer:?}"),
    }
}
