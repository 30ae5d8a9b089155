//! Owns: the target `log`: a store's files, damaged as an input says, and opened. It opens with what had been written
//! up to some record, all of it and nothing else; or it says that it is damaged, or refuses. What it was opened with,
//! it goes on with.
//!
//! An input is a script: which files to begin with, whether checksums are made to fit again (then nothing can be said
//! of what is read, only that nothing breaks), and [`Damage`]s.
//! Never: the record's format, but for where frames begin and what their checksums cover.

use super::damage::{self, Files, Script};
use super::harness::{Target, Trail, number_of};
use super::support::driver::{Driver, Load, Write, fresh};
use super::support::faulty_disk::{FaultyDisk, Machine};
use dkv::id::{Epoch, Lsn};
use dkv::store::{Arrived, Event, Kind, Lookup, OpenError, Options, Prior, Store};
use std::collections::BTreeMap;
use std::sync::OnceLock;

pub const TARGET: Target =
    Target { name: "log", seeds: damage::seeds, words: damage::WORDS, longest: 200, executions: 1500, run };

/// Files of a process that is gone, and all writes of its log: the first has lsn 1.
pub struct Template {
    pub files: Files,
    pub history: Vec<Write>,
}

/// What scripts can begin with.
pub fn templates() -> &'static [Template] {
    static TEMPLATES: OnceLock<Vec<Template>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let short = Load { keys: 12, longest_value: 60, jump_once_in: 9, ..Load::default() };
        let long = Load { keys: 60, longest_value: 3000, commits_late: true, ..Load::default() };
        vec![
            // One file, settled; one with a tail that was never synced; one whose power was lost.
            template(1, &short, 12, Driver::kill),
            template(2, &Load { commits_late: true, ..short.clone() }, 9, Driver::kill),
            template(3, &short, 10, |driver| driver.lose_power(5)),
            // Several files, sealed and compacted, with hints.
            template(4, &long, 90, Driver::kill),
            template(5, &Load { jump_once_in: 20, commits_late: false, ..long.clone() }, 130, |driver| {
                driver.settle().unwrap();
                driver.kill();
            }),
            template(6, &Load { keys: 0, ..long }, 110, |driver| driver.lose_power(6)),
        ]
    })
}

fn template(seed: u64, load: &Load, turns: u64, end: impl FnOnce(&mut Driver)) -> Template {
    let mut driver = Driver::new(seed, load.clone());
    driver.open().unwrap();
    driver.run(turns).unwrap();
    end(&mut driver);
    let names = driver.machine.files().into_iter().map(|(name, _)| name);
    let files = names.map(|name| (name.clone(), driver.machine.read(&name))).collect();
    Template { files, history: driver.history }
}

fn run(input: &[u8], trail: &mut Trail) {
    let templates = templates();
    let script = Script::of(input, templates.len());
    let template = &templates[script.template];
    let mut files = template.files.clone();
    for step in script.inflict(&mut files, templates) {
        trail.step(step);
    }
    let machine = Machine::new(number_of(input));
    for (name, bytes) in files {
        machine.put(&name, bytes);
    }
    let mut history = template.history.clone();
    let trust = match (script.is_forged, script.moves_frames) {
        (true, _) => Trust::Nothing,
        (false, true) => Trust::Written,
        (false, false) => Trust::Newest,
    };
    let Some(mut copy) = Copy::open(&machine, 1, trail) else { return };
    copy.check(&mut history, trust, trail);
    if copy.go_on(&mut history, trust, trail) {
        drop(copy);
        machine.kill();
        if let Some(mut copy) = Copy::open(&machine, 2, trail) {
            copy.check(&mut history, trust, trail);
        }
    }
}

/// What must be true of what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// It is the newest value of its key.
    Newest,
    /// It was written under its key.
    Written,
    Nothing,
}

/// A store that was opened.
struct Copy {
    store: Store<FaultyDisk>,
    arrived: Vec<Arrived>,
}

/// It turned out to be damaged.
struct Damaged;

impl Copy {
    /// `None`: it was refused.
    fn open(machine: &Machine, entropy: u64, trail: &mut Trail) -> Option<Copy> {
        let options = Options { segment_bytes: 256 << 10, entropy, ..Options::default() };
        match Store::open(machine.disk(), options, fresh) {
            Ok((store, _)) => Some(Copy { store, arrived: Vec::new() }),
            Err(error) => {
                assert!(!matches!(error, OpenError::Io(..) | OpenError::Fatal(_)), "the disk did not fail: {error}");
                trail.step(("refused", std::mem::discriminant(&error)));
                None
            }
        }
    }

    /// Compares all of it with what was written up to its end, which `history` is cut to.
    fn check(&mut self, history: &mut Vec<Write>, trust: Trust, trail: &mut Trail) {
        if let Some(damage) = self.store.health() {
            assert!(!damage.file.is_empty() && !damage.reason.is_empty());
            let words = damage.reason.replace(|c: char| c.is_ascii_digit(), "");
            trail.step(("damaged", damage.file.len(), words));
            assert!(matches!(self.store.get(b"key 1", None), Lookup::Corrupt));
            return;
        }
        let end = self.store.end();
        assert!(self.store.committed() <= end && self.store.durable() == end);
        trail.step(("opened", self.store.committed() == end, self.store.stats().segments));
        if trust != Trust::Nothing {
            assert!(end.0 as usize <= history.len(), "the log ends with {} of {}", end.0, history.len());
            history.truncate(end.0 as usize);
        }
        self.store.commit(end);
        if let Err(Damaged) = self.compare(history, trust) {
            trail.step("damaged when read");
        }
    }

    fn compare(&mut self, history: &[Write], trust: Trust) -> Result<(), Damaged> {
        let mut newest: BTreeMap<&[u8], Option<u64>> = BTreeMap::new();
        for (lsn, write) in (1..).zip(history).filter(|(_, write)| write.kind != Kind::Jump) {
            newest.insert(&write.key, (write.kind == Kind::Set).then_some(lsn));
        }
        for (key, lsn) in &newest {
            let found = self.get(key)?;
            if trust == Trust::Newest {
                assert_eq!(found.as_ref().map(|(lsn, _)| *lsn), *lsn, "{}", key.escape_ascii());
            }
            if trust != Trust::Nothing
                && let Some((lsn, value)) = found
            {
                let write = &history[lsn as usize - 1];
                assert!(write.key == *key && write.value == value, "{}: record {lsn}", key.escape_ascii());
            }
        }
        if trust == Trust::Newest {
            assert_eq!(self.store.keys(), newest.values().flatten().count() as u64);
        }
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<(u64, Vec<u8>)>, Damaged> {
        let mut arrived: Option<Arrived> = None;
        loop {
            let op = match self.store.get(key, arrived.as_ref()) {
                Lookup::Absent => return Ok(None),
                Lookup::Found { lsn, value } => return Ok(Some((lsn.0, value.to_vec()))),
                Lookup::Corrupt => return Err(Damaged),
                Lookup::Cold(op) => op,
            };
            while !self.arrived.iter().any(|arrived| arrived.op == op) {
                self.poll()?;
            }
            let at = self.arrived.iter().position(|arrived| arrived.op == op);
            arrived = at.map(|at| self.arrived.swap_remove(at));
        }
    }

    fn poll(&mut self) -> Result<(), Damaged> {
        while let Some(event) = self.store.poll().unwrap() {
            match event {
                Event::Durable(lsn) => self.store.commit(lsn),
                Event::Read(arrived) => self.arrived.push(arrived),
                Event::Corrupt => return Err(Damaged),
                Event::LogRead(_) | Event::Persisted(_) => {}
            }
        }
        Ok(())
    }

    /// Some more writes, and compaction until it has nothing to do. `false`: it is damaged.
    fn go_on(&mut self, history: &mut Vec<Write>, trust: Trust, trail: &mut Trail) -> bool {
        if self.store.health().is_some() {
            return false;
        }
        let went_on = self.write_more(history);
        let went_on = went_on.and_then(|()| self.compare(history, trust));
        trail.step(("went on", went_on.is_ok()));
        went_on.is_ok()
    }

    fn write_more(&mut self, history: &mut Vec<Write>) -> Result<(), Damaged> {
        for n in 0..4_u8 {
            let write = Write { kind: Kind::Set, key: vec![b'n', n], value: vec![n; 700] };
            // No key twice: what it was before need not be known.
            self.store
                .stage(Epoch((1 << 62) - 1), Kind::Set, &write.key, &write.value, 0, Prior::None)
                .map_err(|_| Damaged)?;
            history.push(write);
        }
        let end = self.store.end();
        loop {
            self.store.write_turn().unwrap();
            self.poll()?;
            let more = self.store.background(1 << 20).unwrap();
            if !more && self.store.committed() >= end {
                return Ok(());
            }
            if self.store.health().is_some() {
                return Err(Damaged);
            }
        }
    }
}

/// Only a start reads the files; what it then writes is its own.
#[test]
fn undamaged_files_open_with_all_that_was_durable() {
    for template in templates() {
        let machine = Machine::new(1);
        for (name, bytes) in &template.files {
            machine.put(name, bytes.clone());
        }
        let mut history = template.history.clone();
        let mut copy = Copy::open(&machine, 1, &mut Trail::default()).unwrap();
        assert_eq!(copy.store.health(), None);
        assert!(copy.store.end() > Lsn(10));
        copy.check(&mut history, Trust::Newest, &mut Trail::default());
        assert!(copy.go_on(&mut history, Trust::Newest, &mut Trail::default()));
    }
}
