//! Owns: clients that overwrite, delete and read many keys all the time, so that the log is compacted and copies are
//! filled while faults last. Each key has one writer, which knows what the key may hold.
//! Never: faults. Orders of concurrent calls: those are judged on fewer keys.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::dice::Dice;
use crate::support::http::{Client, Response};

const KEYS: usize = 3000;

/// One writer and its keys.
pub struct Writer {
    name: usize,
    dice: Dice,
    keys: Vec<Known>,
    next: u64,
    client: Option<Client>,
}

/// What a key may hold; 0 is nothing.
#[derive(Clone, Default)]
struct Known {
    answered: u64,
    /// Writes without a known outcome, and when they ended: each may yet take effect, for a while.
    unknown: Vec<(u64, Instant)>,
}

/// After this nothing of a call is on its way any more: longer than any deadline, and than any process is stopped.
const LONGEST_WAY: Duration = Duration::from_secs(60);

/// What all writers did.
#[derive(Debug, Default)]
pub struct Done {
    pub written: AtomicU64,
    pub read: AtomicU64,
    pub unknown: AtomicU64,
}

impl Writer {
    pub fn new(name: usize, seed: u64) -> Writer {
        let keys = vec![Known::default(); KEYS];
        Writer { name, dice: Dice::new(seed.wrapping_add(name as u64)), keys, next: 1, client: None }
    }

    /// Works until it is told to stop.
    pub fn go_on(&mut self, cluster: &Cluster, goes_on: &AtomicBool, done: &Done) {
        while goes_on.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(2));
            if !self.connect(cluster) {
                continue;
            }
            let at = self.dice.below(KEYS as u64) as usize;
            match self.dice.below(10) {
                0..7 => self.write(at, done),
                7 => self.delete(at, done),
                _ => _ = self.check(at, done),
            }
        }
    }

    /// Reads every key once more.
    pub fn check_all(&mut self, cluster: &Cluster, done: &Done) {
        for at in 0..KEYS {
            while !(self.connect(cluster) && self.check(at, done)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn name_of(&self, at: usize) -> String {
        format!("bulk-{}-{at}", self.name)
    }

    /// Takes a connection to some node, if there is none.
    fn connect(&mut self, cluster: &Cluster) -> bool {
        let node = self.dice.below(cluster.nodes() as u64) as usize;
        self.client = self.client.take().or_else(|| Client::try_connect(cluster.addresses[node]));
        self.client.is_some()
    }

    fn ask(&mut self, bytes: &[u8]) -> Option<Response> {
        let mut client = self.client.take().expect("connected before");
        let answer = client.try_ask(bytes)?;
        // Another node now and then.
        if !answer.closes() && !self.dice.once_in(50) {
            self.client = Some(client);
        }
        Some(answer)
    }

    fn write(&mut self, at: usize, done: &Done) {
        let version = self.next;
        self.next += 1;
        let body = format!("{version}:{}", "x".repeat(self.dice.below(2000) as usize));
        let (key, length) = (self.name_of(at), body.len());
        let head = format!("PUT /set?key={key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        let answer = self.ask((head + &body).as_bytes());
        self.learn(at, version, answer, &[200, 201], done);
    }

    fn delete(&mut self, at: usize, done: &Done) {
        let line = format!("DELETE /delete?key={} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.name_of(at));
        let answer = self.ask(line.as_bytes());
        self.learn(at, 0, answer, &[200, 404], done);
    }

    fn learn(&mut self, at: usize, version: u64, answer: Option<Response>, good: &[u16], done: &Done) {
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let key = &mut self.keys[at];
        match status {
            _ if good.contains(&status) => {
                key.answered = version;
                key.unknown.retain(|(_, ended)| ended.elapsed() < LONGEST_WAY);
                done.written.fetch_add(1, Ordering::Relaxed);
            }
            503 | 507 => {}
            0 | 504 => {
                key.unknown.push((version, Instant::now()));
                done.unknown.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("{answer:?}"),
        }
    }

    /// Reads a key, and compares; false: there was no answer.
    fn check(&mut self, at: usize, done: &Done) -> bool {
        let name = self.name_of(at);
        let answer = self.ask(format!("GET /get?key={name} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let found = match answer.as_ref().map(|answer| answer.status) {
            Some(200) => {
                let text = answer.as_ref().unwrap().text();
                text.split_once(':').expect("a version and its filling").0.parse().unwrap()
            }
            Some(404) => 0,
            _ => return false,
        };
        let key = &self.keys[at];
        let is_known = found == key.answered || key.unknown.iter().any(|(version, _)| *version == found);
        assert!(is_known, "{name} holds {found}; answered: {}, unknown: {:?}", key.answered, key.unknown);
        done.read.fetch_add(1, Ordering::Relaxed);
        true
    }
}
