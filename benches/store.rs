//! Owns: what the store costs on real files: a group of writes until it is durable, a read of what is in the page
//! cache. The files lie in the build's directory for temporary files: its file system and disk are what is measured.
//! Never: sockets, HTTP.

use std::hint::black_box;
use std::sync::mpsc::{Receiver, channel};

use divan::Bencher;
use divan::counter::ItemsCount;
use dkv::id::{Epoch, Uuid};
use dkv::store::dir::DataDir;
use dkv::store::files::RealDisk;
use dkv::store::{Arrived, Event, Kind, Lookup, Options, Probe, SmallState, StageError, Store};
use tempfile::TempDir;

fn main() {
    divan::main();
}

const VALUE: [u8; 100] = [b'v'; 100];
/// Bytes of background work after a group, as the event loop gives it.
const BACKGROUND_BYTES: u64 = 128 * 1024;

/// A million in a measurement; few in a test run, which tries each bench once.
fn key_count() -> u64 {
    if std::env::args().any(|argument| argument == "--bench") { 1_000_000 } else { 1_000 }
}

fn key(n: u64) -> [u8; 16] {
    let mut key = *b"user:00000000000";
    let mut rest = n;
    for digit in key[5..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Numbers below `below` in an order without pattern (an odd multiplier and a shift: a linear congruential generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

struct Node {
    store: Store<RealDisk>,
    woken: Receiver<()>,
    _directory: TempDir,
}

impl Node {
    fn open() -> Node {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the store");
        let (wake, woken) = channel();
        let files = DataDir::open(directory.path()).expect("an empty directory becomes a store's");
        let disk = RealDisk::start(files, move || wake.send(()).unwrap_or(())).expect("the disk's threads start");
        let fresh = || SmallState::new(Uuid(1), 3, true);
        let (mut store, _) = Store::open(disk, Options::default(), fresh).expect("an empty store opens");
        store.commit(store.durable());
        Node { store, woken, _directory: directory }
    }

    /// A store with so many keys, all durable.
    fn filled(keys: u64) -> Node {
        let mut node = Node::open();
        for first in (0..keys).step_by(1_000) {
            node.write_group((first..keys.min(first + 1_000)).map(key));
        }
        assert_eq!(node.store.keys(), keys, "every key is there");
        node
    }

    /// One turn of the event loop: the writes, one write to the file, one sync, the commit, some compaction.
    fn write_group(&mut self, keys: impl Iterator<Item = [u8; 16]>) {
        for key in keys {
            self.stage(&key);
        }
        self.store.write_turn().expect("the disk works");
        while self.store.durable() < self.store.end() {
            self.wait();
        }
        self.store.background(BACKGROUND_BYTES).expect("the disk works");
    }

    fn stage(&mut self, key: &[u8]) {
        let mut arrived = None;
        loop {
            let prior = match self.store.probe(key, arrived.as_ref()) {
                Probe::Present { prior, .. } | Probe::Absent { prior, .. } => prior,
                Probe::Cold(_) => {
                    arrived = self.wait();
                    continue;
                }
                Probe::Corrupt => panic!("{:?}", self.store.health()),
            };
            match self.store.stage(Epoch(1), Kind::Set, key, &VALUE, 0, prior) {
                Ok(_) => return,
                // The next file of the log is not prepared yet: a write would wait a turn for it, too.
                Err(StageError::Busy) => {
                    self.store.write_turn().expect("the disk works");
                    arrived = self.wait();
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// The length of a key's value. A page that is being written back counts as not in the page cache, now and then:
    /// then the disk's thread reads it.
    fn get(&mut self, key: &[u8]) -> usize {
        let mut arrived = None;
        loop {
            match self.store.get(key, arrived.as_ref()) {
                Lookup::Found { value, .. } => return black_box(value).len(),
                Lookup::Absent => return 0,
                Lookup::Cold(_) => {}
                Lookup::Corrupt => panic!("{:?}", self.store.health()),
            }
            arrived = self.wait();
        }
    }

    /// Waits for the disk's threads, commits what has become durable, and gives the read that came back, if one did.
    fn wait(&mut self) -> Option<Arrived> {
        self.woken.recv().expect("the disk's threads live");
        let mut read = None;
        while let Some(event) = self.store.poll().expect("the disk works") {
            match event {
                Event::Durable(lsn) => self.store.commit(lsn),
                Event::Read(arrived) => read = Some(arrived),
                Event::Persisted(_) | Event::LogRead(_) => {}
                Event::Corrupt => panic!("{:?}", self.store.health()),
            }
        }
        read
    }
}

/// A group of writes from the first to the commit. What a write costs a client is the time of the group that it is in;
/// what it costs the node is that time divided by the group.
#[divan::bench(args = [1, 16, 128, 1024])]
fn append_and_sync(bencher: Bencher<'_, '_>, group: u64) {
    let mut node = Node::open();
    let mut dice = Dice(1);
    bencher.counter(ItemsCount::new(group)).bench_local(|| {
        node.write_group((0..group).map(|_| key(dice.below(100_000))));
    });
}

#[divan::bench(args = ["hit", "miss"])]
fn get_of_a_million_keys(bencher: Bencher<'_, '_>, what: &str) {
    let keys = key_count();
    let mut node = Node::filled(keys);
    let mut dice = Dice(1);
    let from = if what == "hit" { 0 } else { keys };
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        let key = key(from + dice.below(keys));
        node.get(black_box(&key))
    });
}
