//! kill -9 under load: every answered write is found, every refused one is not, of an unknown one either is right.
//!
//! Each writer owns its keys, so that it knows what each must hold. It writes values that nobody wrote before, on the
//! condition that the key still holds what the writer last knew (If-Match, If-None-Match), so that a write whose
//! outcome is unknown cannot take effect behind a later one: whatever is found is exact.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::request;
use crate::support::cluster::Cluster;
use crate::support::http::{Client, Response};

/// What a key may hold: one state, or two while the outcome of a write is unknown. `None`: no value.
type State = Option<String>;

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    refused: AtomicUsize,
    unknown: AtomicUsize,
    applied: AtomicUsize,
}

/// A key and what its writer knows of it.
struct Known {
    key: String,
    state: State,
    /// What a write whose outcome is unknown may have made of it.
    perhaps: Option<State>,
    tag: u64,
    /// A creation that is unknown could take effect behind a deletion: then the key is never deleted.
    may_delete: bool,
}

/// A writer: a connection to some node, and its keys.
struct Writer<'a> {
    cluster: &'a Cluster,
    counts: &'a Counts,
    node: usize,
    client: Option<Client>,
    keys: Vec<Known>,
    name: usize,
    steps: usize,
}

impl<'a> Writer<'a> {
    fn new(cluster: &'a Cluster, counts: &'a Counts, name: usize, keys: usize) -> Writer<'a> {
        let key = |n| format!("writer-{name}-key-{n}");
        let keys =
            (0..keys).map(|n| Known { key: key(n), state: None, perhaps: None, tag: 0, may_delete: true }).collect();
        Writer { cluster, counts, node: name, client: None, keys, name, steps: 0 }
    }

    /// Sends a request to a node that takes connections; `None`: it was sent, and no answer came.
    fn ask(&mut self, bytes: &[u8]) -> Option<Response> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => loop {
                self.node = (self.node + 1) % self.cluster.nodes();
                if let Some(client) = Client::try_connect(self.cluster.addresses[self.node]) {
                    break client;
                }
                thread::yield_now();
            },
        };
        let answer = client.try_ask(bytes)?;
        if !answer.closes() {
            self.client = Some(client);
        }
        Some(answer)
    }

    /// Finds out which of the two states a key has. `None`: its shard does not answer.
    fn resolve(&mut self, at: usize) -> Option<()> {
        let line = format!("GET /get?key={}", self.keys[at].key);
        let answer = self.ask(&request(&line, b""))?;
        let found = match answer.status {
            200 => Some(answer.text().to_owned()),
            404 => None,
            503 => return None,
            other => panic!("{line}: {other}"),
        };
        let known = &mut self.keys[at];
        if let Some(perhaps) = known.perhaps.take() {
            assert!(
                found == known.state || found == perhaps,
                "{line}: {found:?}, not {:?} or {perhaps:?}",
                known.state
            );
            self.counts.applied.fetch_add(usize::from(found != known.state), Ordering::Relaxed);
        } else {
            assert_eq!(found, known.state, "{line}");
        }
        known.tag = if found.is_some() { answer.etag() } else { 0 };
        known.state = found;
        Some(())
    }

    /// One conditional write.
    fn step(&mut self) {
        self.steps += 1;
        let at = self.steps % self.keys.len();
        if self.keys[at].perhaps.is_some() && self.resolve(at).is_none() {
            return;
        }
        let known = &self.keys[at];
        let value = format!("{}-{}-{}", self.name, self.steps, "x".repeat(self.steps % 700));
        let deletes = self.steps.is_multiple_of(11) && known.may_delete && known.state.is_some();
        let (line, next) = match &known.state {
            Some(_) if deletes => (format!("DELETE /delete?key={}", known.key), None),
            Some(_) if self.steps.is_multiple_of(2) => (format!("POST /update?key={}", known.key), Some(value)),
            _ => (format!("PUT /set?key={}", known.key), Some(value)),
        };
        let condition = match &known.state {
            Some(_) => format!("If-Match: \"{}\"", known.tag),
            None => "If-None-Match: *".to_owned(),
        };
        let body = next.as_deref().unwrap_or_default();
        let length = if next.is_some() { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let bytes = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{condition}\r\n{length}\r\n{body}");
        let answer = self.ask(bytes.as_bytes());
        let known = &mut self.keys[at];
        match answer.as_ref().map(|answer| answer.status) {
            Some(200 | 201) => {
                known.tag = if next.is_some() { answer.as_ref().unwrap().etag() } else { 0 };
                known.state = next;
                self.counts.answered.fetch_add(1, Ordering::Relaxed);
            }
            Some(503) => _ = self.counts.refused.fetch_add(1, Ordering::Relaxed),
            Some(504) | None => {
                known.may_delete &= known.state.is_some();
                known.perhaps = Some(next);
                self.counts.unknown.fetch_add(1, Ordering::Relaxed);
            }
            Some(other) => panic!("{line} with {condition}: {other} {answer:?}"),
        }
    }

    /// Looks at all keys, when everything runs again. Gives how many hold a value.
    fn check(&mut self) -> usize {
        for at in 0..self.keys.len() {
            while self.resolve(at).is_none() {}
        }
        self.keys.iter().filter(|known| known.state.is_some()).count()
    }
}

/// Runs writers on a cluster while `disturb` does; then checks all that they know, before and after one more kill of
/// everything. `disturb` gets a closure that waits until so many more writes were answered.
fn under_load(cluster: &Cluster, writers: usize, disturb: impl FnOnce(&dyn Fn(usize))) {
    let (counts, goes_on) = (Counts::default(), AtomicBool::new(true));
    let writers = thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|name| {
                let mut writer = Writer::new(cluster, &counts, name, 12);
                let goes_on = &goes_on;
                scope.spawn(move || {
                    while goes_on.load(Ordering::Relaxed) {
                        writer.step();
                    }
                    writer
                })
            })
            .collect();
        disturb(&|more| {
            let upto = counts.answered.load(Ordering::Relaxed) + more;
            while counts.answered.load(Ordering::Relaxed) < upto {
                thread::yield_now();
                assert!(threads.iter().all(|thread| !thread.is_finished()), "a writer found something wrong");
            }
        });
        goes_on.store(false, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let mut writers = writers;
    let found: usize = writers.iter_mut().map(Writer::check).sum();
    for node in 0..cluster.nodes() {
        cluster.kill(node);
    }
    cluster.start_all();
    let again: usize = writers.iter_mut().map(Writer::check).sum();
    assert_eq!(found, again);
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    println!(
        "{} writes answered, {} refused, {} unknown, of which {} were applied; {found} of {} keys hold a value, each the \
         right one, also after one more kill of all nodes",
        count(&counts.answered),
        count(&counts.refused),
        count(&counts.unknown),
        count(&counts.applied),
        writers.iter().map(|writer| writer.keys.len()).sum::<usize>(),
    );
    assert!(count(&counts.answered) > 0);
}

#[test]
fn every_node_is_killed_in_turn() {
    let cluster = Cluster::started(4, 2, "[deadlines]\nwait_ms = 60000\nanswer_ms = 60000");
    under_load(&cluster, 8, |wait_for| {
        for node in 0..cluster.nodes() {
            wait_for(40);
            cluster.kill(node);
            cluster.start(node);
        }
        wait_for(40);
    });
}

#[test]
fn one_primary_is_killed_again_and_again() {
    let cluster = Cluster::started(2, 1, "[store]\nsegment_bytes = 262144\n[limits]\nmax_value_bytes = 16384");
    under_load(&cluster, 6, |wait_for| {
        for round in 0..25 {
            wait_for(10 + 13 * (round % 5));
            cluster.kill(1);
            // Some starts are killed, too, in the midst of their recovery.
            for _ in 0..round % 3 {
                cluster.spawn(1);
                cluster.wait_for_start(1);
                cluster.kill(1);
            }
            cluster.start(1);
        }
        wait_for(100);
    });
}

#[test]
fn all_are_killed_at_once() {
    let cluster = Cluster::started(3, 1, "[deadlines]\nwait_ms = 60000\nanswer_ms = 60000");
    under_load(&cluster, 6, |wait_for| {
        for _ in 0..6 {
            wait_for(100);
            for node in 0..3 {
                cluster.kill(node);
            }
            cluster.start_all();
        }
        wait_for(100);
    });
}
