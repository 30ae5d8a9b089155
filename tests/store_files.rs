//! The store on real files: what the page cache, the threads and the directory do to it.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

use dkv::id::{Epoch, Lsn, Uuid};
use dkv::store::dir::DataDir;
use dkv::store::files::RealDisk;
use dkv::store::{Event, Kind, Lookup, Options, Prior, Probe, SmallState, StageError, Store};
use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

const SEGMENT: u64 = 1 << 20;

struct Node {
    store: Store<RealDisk>,
    woken: Receiver<()>,
}

impl Node {
    fn open(path: &Path) -> Node {
        let (wake, woken) = channel();
        let disk = RealDisk::start(DataDir::open(path).unwrap(), move || wake.send(()).unwrap_or(())).unwrap();
        let options = Options { segment_bytes: SEGMENT, ..Options::default() };
        let fresh = || SmallState::new(Uuid(1), 3, true);
        let (mut store, recovery) = Store::open(disk, options, fresh).unwrap();
        assert_eq!(store.health(), None);
        assert_eq!(recovery.end, store.end());
        store.commit(store.durable());
        Node { store, woken }
    }

    fn poll(&mut self) -> Vec<dkv::store::Arrived> {
        let mut reads = Vec::new();
        while let Some(event) = self.store.poll().unwrap() {
            match event {
                Event::Durable(lsn) => self.store.commit(lsn),
                Event::Read(arrived) => reads.push(arrived),
                Event::Persisted(_) | Event::LogRead(_) => {}
                Event::Corrupt => panic!("{:?}", self.store.health()),
            }
        }
        reads
    }

    fn write(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Lsn {
        loop {
            let mut arrived = self.poll();
            let prior = match self.store.probe(key, arrived.first()) {
                Probe::Present { prior, .. } | Probe::Absent { prior, .. } => prior,
                Probe::Cold(_) => {
                    self.woken.recv().unwrap();
                    continue;
                }
                Probe::Corrupt => panic!("{:?}", self.store.health()),
            };
            arrived.clear();
            match self.store.stage(Epoch(1), kind, key, value, 0, prior) {
                Ok(lsn) => return lsn,
                Err(StageError::Busy) => {
                    self.store.write_turn().unwrap();
                    self.woken.recv().unwrap();
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn durable(&mut self) {
        self.store.write_turn().unwrap();
        while self.store.durable() < self.store.end() {
            self.woken.recv().unwrap();
            self.poll();
        }
    }

    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let mut arrived = None;
        loop {
            match self.store.get(key, arrived.as_ref()) {
                Lookup::Absent => return None,
                Lookup::Found { value, .. } => return Some(value.to_vec()),
                Lookup::Corrupt => panic!("{:?}", self.store.health()),
                Lookup::Cold(_) => {}
            }
            self.woken.recv().unwrap();
            arrived = self.poll().pop();
        }
    }
}

fn bytes_on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().map_or(0, |m| m.blocks() * 512)).sum()
}

#[test]
fn what_is_written_is_there_after_a_restart_and_the_disk_stays_small() {
    let tmp = tempfile::tempdir().unwrap();
    let mut model: HashMap<String, Vec<u8>> = HashMap::new();
    let mut dice = 1_u64;
    for restart in 0..4 {
        let mut node = Node::open(tmp.path());
        assert_eq!(node.store.keys(), model.len() as u64);
        for (key, value) in &model {
            assert_eq!(node.get(key.as_bytes()).as_ref(), Some(value), "{key} after restart {restart}");
        }
        for step in 0..30_000_u64 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("key {}", (dice >> 40) % 500);
            if dice >> 60 == 0 {
                if model.remove(&key).is_some() {
                    node.write(Kind::Delete, key.as_bytes(), b"");
                }
            } else {
                let most = if dice >> 56 & 63 == 0 { 20_000 } else { 400 };
                let value = vec![step as u8; (dice >> 32) as usize % most];
                node.write(Kind::Set, key.as_bytes(), &value);
                model.insert(key, value);
            }
            if dice >> 58 == 3 {
                node.durable();
                let stats = node.store.stats();
                let most = 2 * stats.live_bytes + 2 * SEGMENT;
                assert!(stats.log_bytes < most, "{stats:?}");
            }
        }
        node.durable();
        let stats = node.store.stats();
        assert!(stats.compactions > 0, "{stats:?}");
        let on_disk = bytes_on_disk(tmp.path());
        assert!(on_disk < 2 * stats.live_bytes + 2 * SEGMENT + (64 << 10), "{on_disk} bytes on disk, {stats:?}");
        match restart % 2 {
            0 => node.store.close().unwrap(),
            _ => drop(node),
        }
    }
}

/// A long value is looked at where memory has it: before it is answered it is checked, there.
#[test]
fn damage_in_memory_is_met_by_a_get_whatever_the_length() {
    for value_bytes in [100, 50_000] {
        let tmp = tempfile::tempdir().unwrap();
        let mut node = Node::open(tmp.path());
        let value = vec![7; value_bytes];
        node.write(Kind::Set, b"key", &value);
        node.durable();
        assert_eq!(node.get(b"key").as_ref(), Some(&value));
        let log = std::fs::read_dir(tmp.path()).unwrap().map(|entry| entry.unwrap().path());
        let log = log.filter(|path| path.extension().is_some_and(|end| end == "log")).min().unwrap();
        let bytes = std::fs::read(&log).unwrap();
        let at = bytes.windows(50).position(|part| part == [7; 50]).unwrap() + value_bytes / 2;
        let file = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[8], at as u64).unwrap();
        assert_eq!(node.store.get(b"key", None), Lookup::Corrupt);
        assert!(node.store.health().is_some());
    }
}

#[test]
fn what_is_cut_is_gone_and_what_stays_is_durable() {
    let tmp = tempfile::tempdir().unwrap();
    let mut node = Node::open(tmp.path());
    let stage = |node: &mut Node, lsn: u64, value: &[u8]| {
        let epoch = Epoch(1 + u64::from(value[0] == 2));
        let staged = node.store.stage(epoch, Kind::Set, format!("key {lsn}").as_bytes(), value, 0, Prior::None);
        assert_eq!(staged, Ok(Lsn(lsn)));
        node.store.write_turn().unwrap();
        while node.store.durable() < Lsn(lsn) {
            if node.store.poll().unwrap().is_none() {
                node.woken.recv().unwrap();
            }
        }
    };
    (1..=900).for_each(|lsn| stage(&mut node, lsn, &[1; 1000]));
    node.store.commit(Lsn(200));
    // What waits for others to share its sync is not waited for by them.
    node.store.hold_syncs(true);
    node.store.stage(Epoch(1), Kind::Set, b"key 901", b"", 0, Prior::None).unwrap();
    node.store.truncate(Lsn(300)).unwrap();
    assert_eq!((node.store.end(), node.store.durable(), node.store.committed()), (Lsn(300), Lsn(300), Lsn(200)));
    (301..=310).for_each(|lsn| stage(&mut node, lsn, &[2; 500]));
    node.store.hold_syncs(true);
    node.store.stage(Epoch(2), Kind::Set, b"key 311", b"", 0, Prior::None).unwrap();
    node.store.close().unwrap();
    let mut node = Node::open(tmp.path());
    assert_eq!((node.store.end(), node.store.keys()), (Lsn(311), 311));
    for (lsn, value) in [(300, &[1; 1000][..]), (301, &[2; 500][..])] {
        let found = node.store.get(format!("key {lsn}").as_bytes(), None);
        assert_eq!(found, Lookup::Found { lsn: Lsn(lsn), value });
    }
    assert_eq!(node.store.get(b"key 312", None), Lookup::Absent);
}
