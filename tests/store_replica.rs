//! The store as a replica uses it: it takes in what another store has staged, commits that late, is cut off, and goes
//! on with other records, on a disk that fails, crashes and fills up.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::{Epoch, Lsn};
use dkv::store::{AppendError, Arrived, Event, Kind, LogRead, Lookup, Options, Probe, Recovery, Store, record};
use std::collections::BTreeMap;
use std::ops::Bound;
use support::dice::Dice;
use support::driver::{Driver, Halt, Load, fresh};
use support::faulty_disk::{Fault, FaultyDisk, Machine};

/// A record, as its primary staged it.
#[derive(Debug, Clone)]
struct Sent {
    kind: Kind,
    key: Vec<u8>,
    value: Vec<u8>,
    bytes: Vec<u8>,
}

fn sent(lsn: u64, epoch: u64, kind: Kind, key: &[u8], value: &[u8]) -> Sent {
    let mut bytes = Vec::new();
    record::encode(&mut bytes, &record::Record { lsn: Lsn(lsn), epoch: Epoch(epoch), kind, expiry_ms: 0, key, value });
    Sent { kind, key: key.to_vec(), value: value.to_vec(), bytes }
}

/// What the load is like.
#[derive(Debug, Clone)]
struct Mix {
    options: Options,
    keys: u64,
    longest_value: u64,
    /// One turn in so many begins with a cut; 0: none does.
    cut_once_in: u64,
    evicts: bool,
    /// One turn in so many commits a part of what is durable.
    commit_once_in: u64,
}

impl Default for Mix {
    fn default() -> Mix {
        let options = Options { segment_bytes: 256 << 10, ..Options::default() };
        Mix { options, keys: 40, longest_value: 4000, cut_once_in: 0, evicts: false, commit_once_in: 4 }
    }
}

/// A replica's store, and what was appended to it.
struct Replica {
    machine: Machine,
    store: Option<Store<FaultyDisk>>,
    mix: Mix,
    log: BTreeMap<u64, Sent>,
    epoch: u64,
    /// Reported durable, and not cut since.
    acked: u64,
    /// The largest lsn that was given to `commit`.
    goal: u64,
    model: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    modelled: u64,
    arrived: Vec<Arrived>,
    dice: Dice,
    opened: u64,
    /// The last cut that was begun: a jump may end the log there.
    cut_at: u64,
    /// Cuts that took something away.
    cuts: u64,
}

impl Replica {
    fn new(seed: u64, mix: Mix) -> Replica {
        Replica {
            machine: Machine::new(seed),
            store: None,
            mix,
            log: BTreeMap::new(),
            epoch: 1,
            acked: 0,
            goal: 0,
            model: BTreeMap::new(),
            modelled: 0,
            arrived: Vec::new(),
            dice: Dice::new(seed ^ 0x7777),
            opened: 0,
            cut_at: 0,
            cuts: 0,
        }
    }

    /// The same content on another machine, where the power is lost.
    fn after_power_loss(&self, seed: u64) -> Replica {
        let mut copy = Replica::new(seed, self.mix.clone());
        copy.machine = self.machine.fork(seed);
        copy.machine.lose_power(seed);
        (copy.log, copy.epoch, copy.opened) = (self.log.clone(), self.epoch, self.opened);
        (copy.acked, copy.goal, copy.cut_at) = (self.acked, self.goal, self.cut_at);
        copy
    }

    fn store(&mut self) -> &mut Store<FaultyDisk> {
        self.store.as_mut().unwrap()
    }

    fn end(&self) -> u64 {
        self.log.last_key_value().map_or(0, |(lsn, _)| *lsn)
    }

    /// Starts the process. What had been acked must be there; what had not, may; nothing else is.
    fn open(&mut self) -> Result<Recovery, Halt> {
        self.arrived.clear();
        self.opened += 1;
        let options = Options { entropy: self.opened, ..self.mix.options.clone() };
        let (store, recovery) = Store::open(self.machine.disk(), options, fresh).map_err(Halt::Open)?;
        if store.health().is_some() {
            self.store = Some(store);
            return Err(Halt::Corrupt);
        }
        let (end, committed) = (store.end().0, store.committed().0);
        assert!(end >= self.acked && store.durable().0 == end, "{} was acked, the log ends with {end}", self.acked);
        if end == self.cut_at {
            self.end_at(end);
        }
        assert!(end == 0 || self.log.contains_key(&end), "the log ends with {end}, which was never staged");
        assert!(committed <= self.goal && self.goal <= end, "{committed} committed, {} was to be, {end}", self.goal);
        assert_eq!(store.commit_goal().0, committed);
        self.log.split_off(&(end + 1));
        (self.acked, self.modelled) = (end, 0);
        self.model.clear();
        self.store = Some(store);
        self.advance_model();
        Ok(recovery)
    }

    fn advance_model(&mut self) {
        let committed = self.store().committed().0;
        for (lsn, sent) in self.log.range((Bound::Excluded(self.modelled), Bound::Included(committed))) {
            match sent.kind {
                Kind::Set => drop(self.model.insert(sent.key.clone(), (*lsn, sent.value.clone()))),
                Kind::Delete => drop(self.model.remove(&sent.key)),
                Kind::Jump => {}
            }
        }
        self.modelled = committed;
    }

    fn poll(&mut self) -> Result<(), Halt> {
        while let Some(event) = self.store().poll()? {
            match event {
                Event::Durable(lsn) => {
                    assert!(lsn <= self.store().end(), "what was cut is not durable");
                    self.acked = self.acked.max(lsn.0);
                }
                Event::Read(arrived) => self.arrived.push(arrived),
                Event::LogRead(_) | Event::Persisted(_) => {}
                Event::Corrupt => return Err(Halt::Corrupt),
            }
        }
        Ok(())
    }

    fn commit(&mut self, upto: u64) {
        self.goal = self.goal.max(upto);
        self.store().commit(Lsn(upto));
        assert_eq!(self.store().commit_goal().0, self.goal);
    }

    fn read(&mut self, op: dkv::store::disk::OpId) -> Result<Arrived, Halt> {
        loop {
            if let Some(at) = self.arrived.iter().position(|arrived| arrived.op == op) {
                return Ok(self.arrived.swap_remove(at));
            }
            self.poll()?;
        }
    }

    /// Compares a key with the model, and its newest record with the log.
    fn check(&mut self, key: &[u8]) -> Result<(), Halt> {
        let mut arrived = None;
        let found = loop {
            let op = match self.store().get(key, arrived.as_ref()) {
                Lookup::Absent => break None,
                Lookup::Found { lsn, value } => break Some((lsn.0, value.to_vec())),
                Lookup::Cold(op) => op,
                Lookup::Corrupt => return Err(Halt::Corrupt),
            };
            arrived = Some(self.read(op)?);
        };
        self.advance_model();
        let expected = self.model.get(key).cloned();
        let lsn = |found: &Option<(u64, Vec<u8>)>| found.as_ref().map(|(lsn, value)| (*lsn, value.len()));
        let text = String::from_utf8_lossy(key);
        assert!(found == expected, "{text}: {:?}, not {:?}", lsn(&found), lsn(&expected));
        let newest = self.log.iter().rev().find(|(_, sent)| sent.key == key);
        let newest = newest.filter(|(_, sent)| sent.kind == Kind::Set).map(|(lsn, _)| *lsn);
        assert_eq!(self.probe(key)?.0, newest, "the newest record of {text}");
        Ok(())
    }

    fn probe(&mut self, key: &[u8]) -> Result<(Option<u64>, dkv::store::Prior), Halt> {
        let mut arrived = None;
        loop {
            let op = match self.store().probe(key, arrived.as_ref()) {
                Probe::Absent { prior, .. } => return Ok((None, prior)),
                Probe::Present { lsn, prior } => return Ok((Some(lsn.0), prior)),
                Probe::Cold(op) => op,
                Probe::Corrupt => return Err(Halt::Corrupt),
            };
            arrived = Some(self.read(op)?);
        }
    }

    fn check_all(&mut self) -> Result<(), Halt> {
        for n in 0..self.mix.keys {
            self.check(&key(n))?;
        }
        self.advance_model();
        let model_keys = self.model.len() as u64;
        assert_eq!(self.store().keys(), model_keys);
        Ok(())
    }

    /// The next record of the primary, whose log is this one.
    fn any_record(&mut self, after: u64) -> (u64, Sent) {
        match self.dice.below(24) {
            0 => {
                let far = if self.dice.once_in(30) { 1 << 40 } else { 5 };
                let to = after + 1 + self.dice.below(far);
                (to, sent(to, self.epoch, Kind::Jump, b"", b""))
            }
            n => {
                let kind = if n < 5 { Kind::Delete } else { Kind::Set };
                let longest = if kind == Kind::Set { self.mix.longest_value + 1 } else { 1 };
                let value = vec![self.dice.next() as u8; self.dice.below(longest) as usize];
                let key = key(self.dice.below(self.mix.keys));
                (after + 1, sent(after + 1, self.epoch, kind, &key, &value))
            }
        }
    }

    fn append(&mut self, batch: BTreeMap<u64, Sent>) -> Result<bool, Halt> {
        let bytes: Vec<u8> = batch.values().flat_map(|sent| sent.bytes.clone()).collect();
        let (end, room) = (self.store().end(), self.store().room_bytes());
        match self.store().append(&bytes) {
            Ok(last) => {
                self.log.extend(batch);
                assert_eq!((last.0, self.store().end()), (self.end(), last));
                return Ok(true);
            }
            Err(AppendError::Corrupt) => return Err(Halt::Corrupt),
            Err(AppendError::Bad(reason)) => panic!("{reason}"),
            Err(AppendError::Busy) => assert!(room < bytes.len() as u64 || self.store().poll().is_err()),
            Err(AppendError::Full) => {}
        }
        assert_eq!(self.store().end(), end);
        Ok(false)
    }

    fn append_any(&mut self) -> Result<bool, Halt> {
        let mut batch = BTreeMap::new();
        let mut end = self.end();
        for _ in 0..self.dice.below(5) {
            let (lsn, sent) = self.any_record(end);
            batch.insert(lsn, sent);
            end = lsn;
        }
        self.append(batch)
    }

    /// A record of its own: it has taken over.
    fn stage_any(&mut self) -> Result<(), Halt> {
        let (lsn, Sent { kind, key, value, bytes }) = self.any_record(self.end());
        let staged = if kind == Kind::Jump {
            self.store.as_mut().unwrap().jump(Epoch(self.epoch), Lsn(lsn))
        } else {
            let (_, prior) = self.probe(&key)?;
            self.store.as_mut().unwrap().stage(Epoch(self.epoch), kind, &key, &value, 0, prior)
        };
        if staged == Ok(Lsn(lsn)) {
            assert!(self.store().staged_bytes().ends_with(&bytes));
            self.log.insert(lsn, Sent { kind, key, value, bytes });
        }
        Ok(())
    }

    /// The log was cut here, be it between two records.
    fn end_at(&mut self, to: u64) {
        self.log.split_off(&(to + 1));
        if to > self.end() {
            self.log.insert(to, sent(to, 0, Kind::Jump, b"", b""));
        }
    }

    fn cut(&mut self, to: u64) -> Result<(), Halt> {
        let cuts = to < self.end();
        self.cuts += u64::from(cuts);
        (self.acked, self.cut_at) = (self.acked.min(to), to);
        self.store().truncate(Lsn(to))?;
        if self.store().health().is_some() {
            return Err(Halt::Corrupt);
        }
        self.end_at(to);
        let logs = self.machine.files().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".log"));
        let is_open = |name: &String| !self.machine.read(name)[512..].starts_with(b"dkv-seal");
        assert!(!cuts || logs.filter(is_open).count() == 1, "what was behind the cut is gone");
        let store = self.store();
        assert_eq!((store.end().0, store.durable().0), (to, to));
        self.acked = to;
        self.epoch += 1;
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Halt> {
        self.poll()?;
        if self.dice.once_in(self.mix.commit_once_in) {
            let upto = self.goal + self.dice.below(self.acked - self.goal + 1);
            if self.log.contains_key(&upto) {
                self.commit(upto);
            }
        }
        if self.mix.evicts && self.dice.once_in(4) {
            self.machine.evict();
        }
        if self.mix.cut_once_in > 0 && self.dice.once_in(self.mix.cut_once_in) {
            // Mostly at a record; sometimes where a jump has left none.
            let above = self.log.range(self.goal..).map(|(lsn, _)| *lsn).collect::<Vec<_>>();
            let to = self.dice.pick(&above).copied().unwrap_or(self.goal);
            let to = if self.dice.once_in(4) { to.saturating_sub(1).max(self.goal) } else { to };
            self.cut(to)?;
        }
        if self.dice.once_in(10) {
            self.stage_any()?;
        }
        for _ in 0..self.dice.below(4) {
            self.append_any()?;
        }
        for _ in 0..2 {
            let key = key(self.dice.below(self.mix.keys));
            self.check(&key)?;
        }
        self.store().write_turn()?;
        if self.dice.once_in(8) {
            self.store().mark_idle()?;
        }
        if self.dice.once_in(2) {
            self.store().background(64 << 10)?;
        }
        Ok(())
    }

    fn run(&mut self, turns: u64) -> Result<(), Halt> {
        (0..turns).try_for_each(|_| self.turn())
    }

    /// Until everything is durable and visible.
    fn settle(&mut self) -> Result<(), Halt> {
        for _ in 0..100_000 {
            self.store().write_turn()?;
            self.poll()?;
            let acked = self.acked;
            self.commit(acked);
            let more = self.store().background(1 << 20)?;
            if !more && self.acked == self.end() && self.store().committed().0 == self.end() {
                return Ok(());
            }
        }
        panic!("the store does not come to rest");
    }
}

fn key(n: u64) -> Vec<u8> {
    format!("key {n}").into_bytes()
}

fn expect<T>(result: Result<T, Halt>, replica: &mut Replica, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(Halt::Corrupt) => panic!("{what}: {:?}", replica.store().health()),
        Err(halt) => panic!("{what}: {halt:?}"),
    }
}

/// Everything through a driver's store on one disk, and the bytes that it staged through a replica's on another.
#[test]
fn a_replica_holds_what_its_primary_holds_byte_for_byte() {
    for seed in 0..4 {
        let mut primary = Driver::new(seed, Load { jump_once_in: 9, evicts: seed % 2 == 0, ..Load::default() });
        primary.open().unwrap();
        let mut replica = Replica::new(seed + 100, Mix { keys: 0, ..Mix::default() });
        expect(replica.open(), &mut replica, "open");
        for turn in 0..400 {
            let before = primary.history.len();
            primary.turn().unwrap();
            if primary.history.len() > before {
                let bytes = primary.store().staged_bytes().to_vec();
                let last = loop {
                    match replica.store().append(&bytes) {
                        Err(AppendError::Busy) => {
                            replica.store().write_turn().unwrap();
                            assert!(!matches!(replica.store().poll().unwrap(), Some(Event::Corrupt)));
                        }
                        taken => break taken.unwrap(),
                    }
                };
                assert_eq!((last, replica.store().staged_bytes()), (primary.store().end(), &bytes[..]));
                replica.store().write_turn().unwrap();
            }
            if turn % 7 == 0 {
                replica.machine.evict();
            }
            while let Some(event) = replica.store().poll().unwrap() {
                if let Event::Durable(upto) = event {
                    let committed = primary.store().committed();
                    replica.store().commit(upto.min(committed));
                }
            }
        }
        primary.settle().unwrap();
        while replica.store().committed() < primary.store().end() {
            replica.store().write_turn().unwrap();
            replica.store().poll().unwrap();
            let durable = replica.store().durable();
            replica.store().commit(durable);
        }
        let stats = replica.store().stats();
        assert!(stats.compactions > 0, "{stats:?}");
        assert_eq!(
            (replica.store().keys(), primary.store().keys()),
            (primary.model.len() as u64, primary.model.len() as u64)
        );
        let model = primary.model.clone();
        (replica.log, replica.model, replica.modelled) = (BTreeMap::new(), model.clone(), u64::MAX - 1);
        for (key, (lsn, value)) in model {
            let mut arrived = None;
            loop {
                let op = match replica.store().get(&key, arrived.as_ref()) {
                    Lookup::Found { lsn: found, value: bytes } => {
                        assert_eq!((found.0, bytes), (lsn, &value[..]));
                        break;
                    }
                    Lookup::Cold(op) => op,
                    other => panic!("{key:?} is {other:?}"),
                };
                arrived = Some(replica.read(op).unwrap());
            }
        }
    }
}

#[test]
fn it_holds_what_was_committed_through_cuts_restarts_compactions_and_cold_reads() {
    for seed in 0..6 {
        let mix = Mix { evicts: seed % 2 == 0, cut_once_in: 12, commit_once_in: 1 + seed * 3, ..Mix::default() };
        let mut replica = Replica::new(seed, mix);
        let mut compactions = 0;
        for restart in 0..5 {
            let what = format!("seed {seed}, restart {restart}");
            expect(replica.open(), &mut replica, &what);
            let checked = replica.check_all();
            expect(checked, &mut replica, &what);
            let ran = replica.run(300);
            expect(ran, &mut replica, &what);
            if restart % 2 == 0 {
                let settled = replica.settle();
                expect(settled, &mut replica, &what);
                let checked = replica.check_all();
                expect(checked, &mut replica, &what);
            }
            compactions += replica.store().stats().compactions;
            match restart {
                0 => drop(replica.store.take().unwrap().close()),
                1 | 3 => replica.machine.lose_power(seed),
                _ => {}
            }
            replica.store = None;
            replica.machine.kill();
        }
        assert!(compactions > 3 && replica.cuts > 50, "seed {seed}: {compactions} compactions, {} cuts", replica.cuts);
    }
}

/// Runs the same load to the n-th call of the disk for every n, loses the power there, and goes on.
#[test]
fn a_crash_at_every_call_of_a_cut_leaves_what_stays_and_may_leave_the_rest() {
    let mix = Mix { longest_value: 9_000, cut_once_in: 8, commit_once_in: 6, evicts: true, ..Mix::default() };
    let mut cuts = 0;
    for n in 1.. {
        let mut replica = Replica::new(21, mix.clone());
        replica.machine.fault_at(n, Fault::Stop);
        let done = replica.open().and_then(|_| replica.run(70)).is_ok();
        cuts = replica.cuts;
        if done {
            break;
        }
        for image in 0..2 {
            let what = format!("call {n}, image {image}");
            let mut copy = replica.after_power_loss(n * 10 + image);
            expect(copy.open(), &mut copy, &what);
            let checked = copy.check_all();
            expect(checked, &mut copy, &what);
            // What had to go goes now, and something else comes.
            let to = copy.goal;
            let cut = copy.cut(to);
            expect(cut, &mut copy, &what);
            let ran = copy.run(3);
            expect(ran, &mut copy, &what);
            let checked = copy.check_all();
            expect(checked, &mut copy, &what);
        }
    }
    assert!(cuts > 5, "{cuts} cuts");
}

/// Lets the n-th call fail for every n. The store says so, or it makes no difference; a restart without faults has
/// everything.
#[test]
fn an_error_at_every_call_of_a_cut_is_said_or_makes_no_difference() {
    let mix = Mix { longest_value: 9_000, cut_once_in: 8, commit_once_in: 6, evicts: true, ..Mix::default() };
    let mut said = 0;
    for n in 1.. {
        let mut replica = Replica::new(23, mix.clone());
        replica.machine.fault_at(n, Fault::Error);
        let result = replica.open().and_then(|_| replica.run(70));
        if replica.machine.is_fault_to_come() {
            assert!(result.is_ok() && replica.cuts > 5, "{result:?}, {} cuts", replica.cuts);
            break;
        }
        said += u64::from(result.is_err());
        let what = format!("call {n}");
        for restart in 0..2 {
            replica.store = None;
            replica.machine.kill();
            if restart == 1 {
                replica.machine.lose_power(n);
            }
            expect(replica.open(), &mut replica, &what);
            let checked = replica.check_all();
            expect(checked, &mut replica, &what);
            let ran = replica.run(4);
            expect(ran, &mut replica, &what);
        }
    }
    assert!(said > 500, "{said} errors were said");
}

/// Crashes again and again, in the middle of starts, too.
#[test]
fn repeated_crashes_lose_nothing_that_was_durable() {
    for seed in 0..20 {
        let mix = Mix { evicts: seed % 3 == 0, cut_once_in: 1 + seed, commit_once_in: 1 + seed % 5, ..Mix::default() };
        let mut replica = Replica::new(seed, mix);
        for crash in 0..40 {
            let at = 1 + replica.dice.below(500);
            replica.machine.fault_at(at, Fault::Stop);
            if let Err(Halt::Corrupt) = replica.open().and_then(|_| replica.run(60)) {
                // A read that fails while the machine stops looks like damage, and that is all right.
                let health = replica.store().health().cloned();
                assert!(replica.machine.is_stopped(), "seed {seed}, crash {crash}: {health:?}");
            }
            replica.store = None;
            match replica.dice.once_in(3) {
                true => replica.machine.kill(),
                false => replica.machine.lose_power(seed * 100 + crash),
            }
        }
        let what = format!("seed {seed}");
        expect(replica.open(), &mut replica, &what);
        let checked = replica.check_all();
        expect(checked, &mut replica, &what);
    }
}

/// A replica acknowledges what supersedes cold records before it has read one of these; then several are read at a time.
#[test]
fn nothing_is_read_before_it_is_committed() {
    let mut replica = Replica::new(3, Mix { keys: 300, ..Mix::default() });
    expect(replica.open(), &mut replica, "open");
    for round in 0..2_u64 {
        let records =
            (0..300).map(|n| (round * 300 + n + 1, sent(round * 300 + n + 1, 1, Kind::Set, &key(n), &[7; 500])));
        if round == 1 {
            replica.machine.evict();
        }
        let batch: BTreeMap<u64, Sent> = records.collect();
        let calls = replica.machine.calls();
        assert!(replica.append(batch).unwrap());
        // Space is reserved, no more.
        assert!(replica.machine.calls() - calls <= 3);
        replica.store().write_turn().unwrap();
        while replica.acked < replica.end() {
            replica.poll().unwrap();
        }
        assert_eq!(replica.store().committed().0, round * 300);
        replica.commit((round + 1) * 300);
        if round == 1 {
            let (committed, goal) = (replica.store().committed().0, replica.store().commit_goal().0);
            assert!((300..330).contains(&committed) && goal == 600, "{committed} of {goal}");
            assert_eq!(replica.machine.reads(), 64);
            assert!(!replica.store().background(0).unwrap(), "the disk is waited for");
        }
        while replica.store().committed().0 < (round + 1) * 300 {
            replica.poll().unwrap();
        }
        replica.check_all().unwrap();
    }
}

#[test]
fn what_does_not_continue_the_log_is_refused_whole() {
    let mut replica = Replica::new(4, Mix::default());
    expect(replica.open(), &mut replica, "open");
    let record = |lsn, epoch| sent(lsn, epoch, Kind::Set, b"key 1", b"value").bytes;
    let jump = |lsn| sent(lsn, 3, Kind::Jump, b"", b"").bytes;
    assert_eq!(replica.store().append(&record(1, 3)), Ok(Lsn(1)));
    assert_eq!(replica.store().append(&[]), Ok(Lsn(1)));
    let mut flipped = record(3, 3);
    flipped[45] ^= 1;
    let bad = [
        [record(2, 3), record(4, 3)].concat(),
        [record(2, 3), record(2, 3)].concat(),
        record(1, 3),
        [record(2, 4), record(3, 3)].concat(),
        record(2, 2),
        [record(2, 3), flipped].concat(),
        [record(2, 3), vec![0; 48]].concat(),
        [record(2, 3), record(3, 3)[..40].to_vec()].concat(),
        jump(1),
        [jump(5), record(5, 3)].concat(),
    ];
    for bytes in bad {
        let refused = replica.store().append(&bytes);
        assert!(matches!(refused, Err(AppendError::Bad(_))), "{refused:?}");
        assert_eq!(replica.store().end(), Lsn(1));
    }
    let all = [record(2, 3), jump(1 << 50), record((1 << 50) + 1, 4)].concat();
    assert_eq!(replica.store().append(&all), Ok(Lsn((1 << 50) + 1)));
    assert_eq!(replica.store().staged_bytes(), [record(1, 3), all].concat());
}

#[test]
fn room_is_what_is_taken() {
    let options = Options { overlay_bytes: 10_000, segment_bytes: 256 << 10, ..Options::default() };
    let mut replica = Replica::new(5, Mix { options, ..Mix::default() });
    expect(replica.open(), &mut replica, "open");
    let record = |lsn: u64, bytes: usize| sent(lsn, 1, Kind::Set, &key(lsn), &vec![1; bytes]).bytes;
    // One record of any length.
    assert!(replica.store().room_bytes() >= record::MAX_RECORD_BYTES as u64);
    assert_eq!(replica.store().append(&record(1, 4000)), Ok(Lsn(1)));
    let room = replica.store().room_bytes() as usize;
    assert_eq!(room, 10_000 - record(1, 4000).len());
    assert_eq!(replica.store().append(&record(2, room)), Err(AppendError::Busy));
    assert_eq!(replica.store().append(&record(2, room - 48)), Ok(Lsn(2)));
    assert_eq!(replica.store().room_bytes(), 0);
    replica.store().write_turn().unwrap();
    while replica.store().durable() < Lsn(2) {
        replica.store().poll().unwrap();
    }
    replica.store().commit(Lsn(2));
    assert!(replica.store().room_bytes() >= 10_000);
}

/// The sender sends nothing where there is no room, so the store has to find out by itself that there is some again.
#[test]
fn a_full_disk_has_no_room_until_it_has() {
    let mut replica = Replica::new(6, Mix { longest_value: 3000, keys: 2000, ..Mix::default() });
    expect(replica.open(), &mut replica, "open");
    let ran = replica.run(30);
    expect(ran, &mut replica, "run");
    // Room for one more small state, which a cut changes.
    replica.machine.set_capacity(replica.machine.used_bytes() + 16_384);
    let mut refused = false;
    for _ in 0..400 {
        let end = replica.end();
        let record = sent(end + 1, replica.epoch, Kind::Set, &key(end % 2000), &[3; 2000]);
        let appended = replica.append(BTreeMap::from([(end + 1, record)])).unwrap();
        refused |= !appended;
        replica.store().write_turn().unwrap();
        replica.poll().unwrap();
        if refused && replica.store().room_bytes() < 2048 {
            break;
        }
    }
    assert!(refused && replica.store().room_bytes() < 2048, "{}", replica.store().room_bytes());
    // A cut needs room for what it writes anew: that of the spare.
    let (goal, acked) = (replica.goal, replica.acked);
    let cut = replica.cut(acked - (acked - goal) / 4);
    expect(cut, &mut replica, "a cut on a full disk");
    replica.machine.set_capacity(u64::MAX);
    for _ in 0..10 {
        replica.store().write_turn().unwrap();
        replica.poll().unwrap();
    }
    assert!(replica.store().room_bytes() > 1 << 20, "{}", replica.store().room_bytes());
    let settled = replica.settle();
    expect(settled, &mut replica, "settle");
    let checked = replica.check_all();
    expect(checked, &mut replica, "check");
}

/// The loop sleeps when it is told that there is no more to do.
#[test]
fn much_is_committed_in_slices_until_there_is_no_more() {
    let mut replica = Replica::new(7, Mix { keys: 10_000, ..Mix::default() });
    expect(replica.open(), &mut replica, "open");
    let record = |lsn| (lsn, sent(lsn, 1, Kind::Set, &key(lsn - 1), b""));
    for first in (1..=10_000).step_by(100) {
        while !replica.append((first..first + 100).map(record).collect()).unwrap() {
            replica.store().write_turn().unwrap();
            replica.poll().unwrap();
        }
    }
    replica.store().write_turn().unwrap();
    while replica.acked < 10_000 {
        replica.poll().unwrap();
    }
    replica.commit(10_000);
    let committed = replica.store().committed().0;
    assert!(committed < 6000, "{committed} at once");
    while replica.store().background(0).unwrap() {}
    assert_eq!(replica.store().committed(), Lsn(10_000));
}

/// Else a start would know less to be committed than was said, though the node had time to write it down.
#[test]
fn an_idle_mark_says_what_is_committed() {
    let mut replica = Replica::new(8, Mix::default());
    expect(replica.open(), &mut replica, "open");
    replica.append((1..=10).map(|lsn| (lsn, sent(lsn, 1, Kind::Set, &key(lsn), b"v"))).collect()).unwrap();
    replica.store().write_turn().unwrap();
    for committed in [0, 0, 7] {
        replica.commit(committed);
        replica.store().mark_idle().unwrap();
        for _ in 0..50 {
            replica.poll().unwrap();
        }
        assert_eq!(replica.acked, 10);
    }
    replica.store = None;
    replica.machine.lose_power(1);
    assert_eq!(expect(replica.open(), &mut replica, "open").committed, Lsn(7));
}

/// A jump may be all that stays of a file, and then tells the epoch of the record before.
#[test]
fn a_cut_within_the_first_jump_of_a_file_leaves_a_jump_that_ends_there() {
    let mut replica = Replica::new(9, Mix::default());
    expect(replica.open(), &mut replica, "open");
    let first = loop {
        let end = replica.end();
        replica.append(BTreeMap::from([(end + 1, sent(end + 1, 1, Kind::Set, b"key", &[1; 1000]))])).unwrap();
        let files = replica.store().stats().segments;
        replica.append(BTreeMap::from([(end + 9, sent(end + 9, 1, Kind::Jump, b"", b""))])).unwrap();
        let is_first = replica.store().stats().segments > files;
        for _ in 0..8 {
            replica.store().write_turn().unwrap();
            replica.poll().unwrap();
        }
        if is_first {
            break end + 2;
        }
    };
    replica.store().persist(|state| state.lineage = vec![(Epoch(1), Lsn(1)), (Epoch(2), Lsn(first + 1))]).unwrap();
    replica.cut(first).unwrap();
    replica.store = None;
    replica.machine.lose_power(1);
    expect(replica.open(), &mut replica, "open");
    assert_eq!(replica.store().end(), Lsn(first));
    let mut bytes = Vec::new();
    let mut cursor = replica.store().log_cursor(Lsn(first - 1));
    assert_eq!(replica.store().read_log(&mut cursor, 1000, &mut bytes), LogRead::Read { upto: Lsn(first) });
    let (jump, _) = record::decode(&bytes).unwrap();
    assert_eq!((jump.kind, jump.lsn, jump.epoch), (Kind::Jump, Lsn(first), Epoch(1)));
}
