//! Owns: a store on a faulty disk under a random load, next to a model of what it must hold.

use super::dice::Dice;
use super::faulty_disk::{FaultyDisk, Machine};
use dkv::id::{Epoch, Lsn, Uuid};
use dkv::store::{
    Arrived, Event, Fatal, Kind, Lookup, OpenError, Options, PersistId, Prior, Probe, Recovery, SmallState, StageError,
    Store,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What the load is like.
#[derive(Debug, Clone)]
pub struct Load {
    pub options: Options,
    /// How many different keys there are; 0: a new one for every write.
    pub keys: u64,
    pub longest_value: u64,
    /// One write in so many is a delete.
    pub delete_once_in: u64,
    /// The most writes of a turn.
    pub most_of_a_turn: u64,
    /// How often the disk is polled in a turn: it does about one operation each time.
    pub polls: u64,
    /// Whether what is durable is committed some time later only.
    pub commits_late: bool,
    /// Whether the page cache is emptied now and then.
    pub evicts: bool,
    /// One turn in so many stages a jump; 0: none does.
    pub jump_once_in: u64,
}

impl Default for Load {
    fn default() -> Self {
        Load {
            options: Options { segment_bytes: 256 << 10, compact_dead_percent: 40, ..Options::default() },
            keys: 40,
            longest_value: 4000,
            delete_once_in: 5,
            most_of_a_turn: 8,
            polls: 2,
            commits_late: false,
            evicts: false,
            jump_once_in: 0,
        }
    }
}

/// A write as it was staged; or, without a key, a jump over one lsn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub kind: Kind,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// What stopped a driver.
#[derive(Debug)]
pub enum Halt {
    Fatal(Fatal),
    Corrupt,
    Open(OpenError),
}

impl From<Fatal> for Halt {
    fn from(fatal: Fatal) -> Self {
        Halt::Fatal(fatal)
    }
}

pub struct Driver {
    pub machine: Machine,
    /// `None` while no process runs.
    pub store: Option<Store<FaultyDisk>>,
    pub load: Load,
    /// Every write that has an lsn; the first has lsn 1.
    pub history: Vec<Write>,
    /// The last lsn that was reported durable.
    pub acked: u64,
    /// What was committed.
    pub model: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    modelled: u64,
    pub dice: Dice,
    arrived: Vec<Arrived>,
    new_keys: u64,
    opened: u64,
    /// Writes that were refused.
    pub refused_full: u64,
    pub refused_busy: u64,
    /// Cold reads for other copies that came back.
    pub log_reads: u64,
    /// Which epoch the small state had with each change that was asked for, and the last that is durable.
    asked: BTreeMap<PersistId, u64>,
    persisted: u64,
}

pub fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

pub fn fresh() -> SmallState {
    SmallState::new(Uuid(0x1111), 0x3333_0000_0000_0000_0000_4444, true)
}

impl Driver {
    pub fn new(seed: u64, load: Load) -> Driver {
        Driver {
            machine: Machine::new(seed),
            store: None,
            load,
            history: Vec::new(),
            acked: 0,
            model: BTreeMap::new(),
            modelled: 0,
            dice: Dice::new(seed ^ 0x5555),
            arrived: Vec::new(),
            new_keys: 0,
            opened: 0,
            refused_full: 0,
            refused_busy: 0,
            log_reads: 0,
            asked: BTreeMap::new(),
            persisted: 0,
        }
    }

    pub fn store(&mut self) -> &mut Store<FaultyDisk> {
        self.store.as_mut().expect("a process runs")
    }

    /// Starts the process, and commits what it recovered. What had been acked must be there; what had not, may.
    pub fn open(&mut self) -> Result<Recovery, Halt> {
        self.arrived.clear();
        self.asked.clear();
        self.opened += 1;
        let options = Options { entropy: self.opened, ..self.load.options.clone() };
        let opened = Store::open(self.machine.disk(), options, fresh);
        let (store, recovery) = opened.map_err(Halt::Open)?;
        if store.health().is_some() {
            self.store = Some(store);
            return Err(Halt::Corrupt);
        }
        let epoch = store.small_state().epoch.0;
        assert!(epoch >= self.persisted, "epoch {} was durable, now it is {epoch}", self.persisted);
        self.persisted = epoch;
        let end = store.end().0;
        assert!(end >= self.acked, "{} was acked, but the log ends with {end}", self.acked);
        assert!(end as usize <= self.history.len(), "the log ends with {end} of {}", self.history.len());
        assert!(store.committed().0 <= end && store.durable().0 == end);
        assert!(store.committed().0 <= self.acked, "{:?} committed, {} acked", store.committed(), self.acked);
        self.history.truncate(end as usize);
        self.acked = end;
        // What is uncommitted must be seen by probes and not by reads: the model is that of what is committed.
        self.remodel(store.committed().0);
        self.store = Some(store);
        self.check_some(10)?;
        self.commit(end);
        Ok(recovery)
    }

    fn remodel(&mut self, upto: u64) {
        (self.model, self.modelled) = (BTreeMap::new(), 0);
        self.advance_model(upto);
    }

    fn advance_model(&mut self, upto: u64) {
        for lsn in self.modelled + 1..=upto {
            let Write { kind, key, value } = self.history[lsn as usize - 1].clone();
            match kind {
                Kind::Set => drop(self.model.insert(key, (lsn, value))),
                Kind::Delete => drop(self.model.remove(&key)),
                Kind::Jump => {}
            }
        }
        self.modelled = self.modelled.max(upto);
    }

    /// Takes in what the disk has done.
    pub fn poll(&mut self) -> Result<(), Halt> {
        while let Some(event) = self.store().poll()? {
            match event {
                Event::Durable(lsn) => {
                    self.acked = lsn.0;
                    if !self.load.commits_late {
                        self.commit(lsn.0);
                    }
                }
                Event::Read(arrived) => self.arrived.push(arrived),
                Event::LogRead(_) => self.log_reads += 1,
                Event::Persisted(id) => self.persisted = self.asked.get(&id).copied().unwrap_or(self.persisted),
                Event::Corrupt => return Err(Halt::Corrupt),
            }
        }
        Ok(())
    }

    fn commit(&mut self, upto: u64) {
        self.store().commit(Lsn(upto));
        self.advance_model(upto);
    }

    /// A key's newest state, through as many cold reads as it takes.
    pub fn probe(&mut self, key: &[u8]) -> Result<(Option<u64>, Prior), Halt> {
        let mut arrived: Option<Arrived> = None;
        loop {
            let op = match self.store().probe(key, arrived.as_ref()) {
                Probe::Absent { prior, .. } => return Ok((None, prior)),
                Probe::Present { lsn, prior } => return Ok((Some(lsn.0), prior)),
                Probe::Corrupt => return Err(Halt::Corrupt),
                Probe::Cold(op) => op,
            };
            arrived = Some(self.wait_for_read(op)?);
        }
    }

    /// A key's committed value.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<(u64, Vec<u8>)>, Halt> {
        let mut arrived: Option<Arrived> = None;
        loop {
            let op = match self.store().get(key, arrived.as_ref()) {
                Lookup::Absent => return Ok(None),
                Lookup::Found { lsn, value } => return Ok(Some((lsn.0, value.to_vec()))),
                Lookup::Corrupt => return Err(Halt::Corrupt),
                Lookup::Cold(op) => op,
            };
            arrived = Some(self.wait_for_read(op)?);
        }
    }

    fn wait_for_read(&mut self, op: dkv::store::disk::OpId) -> Result<Arrived, Halt> {
        loop {
            if let Some(at) = self.arrived.iter().position(|arrived| arrived.op == op) {
                return Ok(self.arrived.swap_remove(at));
            }
            // Much may happen before the answer is looked at.
            if self.dice.once_in(2) {
                self.store().background(256 << 10)?;
            }
            self.poll()?;
        }
    }

    fn any_key(&mut self) -> Vec<u8> {
        if self.load.keys > 0 {
            return format!("key {}", self.dice.below(self.load.keys)).into_bytes();
        }
        // Ever-new keys: each is set once and deleted once, a little later.
        format!("key {}", self.new_keys).into_bytes()
    }

    fn any_write(&mut self) -> Write {
        let deletes = self.dice.once_in(self.load.delete_once_in);
        let mut key = self.any_key();
        if self.load.keys == 0 {
            if deletes && self.new_keys > 3 {
                key = format!("key {}", self.new_keys - 1 - self.dice.below(3)).into_bytes();
            } else {
                self.new_keys += 1;
                key = format!("key {}", self.new_keys).into_bytes();
            }
        }
        let kind = if deletes { Kind::Delete } else { Kind::Set };
        let value = match kind {
            Kind::Set => vec![self.dice.next() as u8; self.dice.below(self.load.longest_value + 1) as usize],
            Kind::Delete | Kind::Jump => Vec::new(),
        };
        Write { kind, key, value }
    }

    /// Stages a write, as the core would: deletes of absent keys are answered without one. `false`: not taken.
    pub fn write(&mut self, write: Write) -> Result<bool, Halt> {
        let (present, prior) = self.probe(&write.key)?;
        let newest = self.history.iter().rposition(|w| w.key == write.key);
        let expected = newest.filter(|at| self.history[*at].kind == Kind::Set).map(|at| at as u64 + 1);
        assert_eq!(present, expected, "the newest record of {:?}", String::from_utf8_lossy(&write.key));
        if write.kind == Kind::Delete && present.is_none() {
            return Ok(false);
        }
        match self.store().stage(Epoch(1), write.kind, &write.key, &write.value, 0, prior) {
            Ok(lsn) => {
                self.history.push(write);
                assert_eq!(lsn.0, self.history.len() as u64);
                return Ok(true);
            }
            Err(StageError::Full) => self.refused_full += 1,
            Err(StageError::Busy) => self.refused_busy += 1,
            Err(StageError::Corrupt) => return Err(Halt::Corrupt),
        }
        Ok(false)
    }

    /// Stages a jump over a few lsns.
    fn jump(&mut self) -> Result<(), Halt> {
        let over = 1 + self.dice.below(5);
        let to = Lsn(self.store().end().0 + over);
        match self.store().jump(Epoch(1), to) {
            Ok(lsn) => {
                assert_eq!((lsn, self.store().end()), (to, to));
                let nothing = Write { kind: Kind::Jump, key: Vec::new(), value: Vec::new() };
                self.history.resize(to.0 as usize, nothing);
            }
            Err(StageError::Full) => self.refused_full += 1,
            Err(StageError::Busy) => self.refused_busy += 1,
            Err(StageError::Corrupt) => return Err(Halt::Corrupt),
        }
        Ok(())
    }

    /// One turn of the loop.
    pub fn turn(&mut self) -> Result<(), Halt> {
        for _ in 0..self.load.polls {
            self.poll()?;
        }
        if self.load.commits_late && self.dice.once_in(6) {
            let committed = self.store().committed().0;
            let upto = committed + self.dice.below(self.acked - committed + 1);
            self.commit(upto);
        }
        if self.load.evicts && self.dice.once_in(4) {
            self.machine.evict();
        }
        for _ in 0..self.dice.below(self.load.most_of_a_turn + 1) {
            let write = self.any_write();
            self.write(write)?;
        }
        if self.load.jump_once_in > 0 && self.dice.once_in(self.load.jump_once_in) {
            self.jump()?;
        }
        self.check_some(2)?;
        self.store().write_turn()?;
        if self.dice.once_in(8) {
            self.store().mark_idle()?;
        }
        if self.dice.once_in(16) {
            let id = self.store().persist(|state| state.epoch.0 += 1)?;
            let epoch = self.store().small_state().epoch.0;
            self.asked.insert(id, epoch);
        }
        if self.dice.once_in(2) {
            self.store().background(64 << 10)?;
        }
        Ok(())
    }

    pub fn run(&mut self, turns: u64) -> Result<(), Halt> {
        for _ in 0..turns {
            self.turn()?;
        }
        Ok(())
    }

    /// Until everything is durable, compaction has nothing more to do, and the disk neither.
    pub fn settle(&mut self) -> Result<(), Halt> {
        for _ in 0..100_000 {
            self.store().write_turn()?;
            self.poll()?;
            let acked = self.acked;
            self.commit(acked);
            let more = self.store().background(1 << 20)?;
            if !more && self.acked == self.history.len() as u64 && self.machine.is_idle() {
                return Ok(());
            }
        }
        panic!("the store does not come to rest");
    }

    /// Compares some keys with the model.
    pub fn check_some(&mut self, keys: u64) -> Result<(), Halt> {
        for _ in 0..keys {
            let key = self.any_key();
            self.check(&key)?;
        }
        Ok(())
    }

    fn check(&mut self, key: &[u8]) -> Result<(), Halt> {
        let found = self.get(key)?;
        // The model may have gone on while a cold read was waited for, but so has the answer.
        let expected = self.model.get(key);
        if found.as_ref() != expected {
            let lsn = |record: Option<&(u64, Vec<u8>)>| record.map(|(lsn, value)| (*lsn, value.len()));
            panic!(
                "{:?}: lsn and length are {:?}, not {:?}",
                String::from_utf8_lossy(key),
                lsn(found.as_ref()),
                lsn(expected)
            );
        }
        Ok(())
    }

    /// Compares all keys with the model.
    pub fn check_all(&mut self) -> Result<(), Halt> {
        let mut keys: Vec<Vec<u8>> = self.history.iter().map(|write| write.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys.into_iter().filter(|key| !key.is_empty()) {
            self.check(&key)?;
        }
        assert_eq!(self.store().keys(), self.model.len() as u64);
        Ok(())
    }

    /// The bytes that the model's records take, in the log and in hints.
    pub fn live_bytes(&self) -> u64 {
        let record = |key: &Vec<u8>, value: &Vec<u8>| (40 + key.len() + value.len()).next_multiple_of(8) as u64 + 18;
        self.model.iter().map(|(key, (_, value))| record(key, value)).sum()
    }

    /// The promise on disk use.
    pub fn check_disk_use(&mut self) {
        let most = 2 * self.live_bytes() + 2 * self.load.options.segment_bytes;
        let used = self.machine.used_bytes();
        let stats = self.store().stats();
        assert!(used <= most, "{used} bytes on the disk, promised were {most}; {stats:?}");
    }

    /// The process is gone.
    pub fn kill(&mut self) {
        self.store = None;
        self.arrived.clear();
        self.machine.kill();
    }

    /// The machine is gone.
    pub fn lose_power(&mut self, seed: u64) {
        self.kill();
        self.machine.lose_power(seed);
    }
}
