//! The registers of a whole cluster, simulated from one seed: messages are delayed, lost, doubled and reordered; nodes
//! crash and lose what was not durable; directories and voter files are emptied. What is settled is checked as it comes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::IpAddr;

use super::acceptor::Acceptor;
use super::*;
use crate::configuration::Member;
use crate::id::ConnId;

const FINGERPRINT: u64 = 7;

/// splitmix64 (Steele, Lea, Flood 2014).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    fn uuid(&mut self) -> Uuid {
        Uuid(u128::from(self.next()) << 64 | u128::from(self.next()))
    }
}

/// A bug of whoever runs the registers, that the simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    /// What was handed out is called durable before it is.
    DurableTooEarly,
    /// A restarted process draws the same incarnation again.
    SameIncarnation,
    /// A voter that lost its file goes on with an empty one under its old id.
    Amnesia,
}

/// In percent of messages, and per mille of milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) late: u64,
    pub(super) crashes: u64,
    pub(super) wipes: u64,
    pub(super) proposals: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Voter,
    Formation,
}

#[derive(Debug)]
enum Event {
    Request { from: usize, from_life: u32, to: usize, to_life: u32, bytes: Vec<u8> },
    Answer { from: usize, link: LinkId, bytes: Vec<u8> },
    Write { node: usize, life: u32 },
    Restart { node: usize },
}

struct Node {
    /// `None`: it is down.
    registers: Option<Registers>,
    life: u32,
    incarnation: Uuid,
    store: Uuid,
    voter: Option<Vec<u8>>,
    formation: Vec<u8>,
    writes: VecDeque<(u64, File, Vec<u8>)>,
    /// What it last heard of each register.
    heard: Vec<Option<Configuration>>,
    /// By shard: the highest version that was settled anywhere when its round began.
    floors: BTreeMap<ShardId, u64>,
    is_cut: bool,
    /// By node: its newest life that was heard of. Links of older ones are dropped unread.
    newest: BTreeMap<usize, u32>,
}

/// What happened in a run: an empty run proves nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) settled: u64,
    pub(super) applied: u64,
    pub(super) crashes: u64,
    pub(super) wipes: u64,
    pub(super) mute_voters: u64,
    pub(super) formed: u64,
}

pub(super) struct Sim {
    rng: Rng,
    pub(super) now_ms: u64,
    table: Table,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    pending: BTreeMap<u64, Event>,
    sequence: u64,
    faults: Faults,
    planted: Planted,
    pub(super) formation: Option<Formation>,
    /// By shard and version: what was settled, and whether someone was told that his change made it.
    chosen: Vec<BTreeMap<u64, (Configuration, bool)>>,
    pub(super) counts: Counts,
    pub(super) violation: Option<String>,
}

/// So many copies of each shard, and witnesses; every node on a host of its own.
pub(super) fn table(copies: &[usize], witnesses: usize) -> Table {
    let mut table = Table { nodes: Vec::new(), shards: Vec::new() };
    let shards = copies.iter().enumerate().map(|(at, copies)| (Some(ShardId(at as u32)), *copies));
    for (shard, count) in shards.chain([(None, witnesses)]) {
        let ids = table.nodes.len()..table.nodes.len() + count;
        table.nodes.extend(ids.clone().map(|at| Place { shard, ip: IpAddr::from([10, 0, 0, at as u8]) }));
        if shard.is_some() {
            table.shards.push(ids.map(|at| NodeId(at as u32)).collect());
        }
    }
    table
}

impl Sim {
    pub(super) fn new(seed: u64, table: Table, planted: Planted) -> Self {
        let mut rng = Rng(seed);
        let shards = table.shards.len();
        let mut fresh = || Node {
            registers: None,
            life: 0,
            incarnation: rng.uuid(),
            store: rng.uuid(),
            voter: None,
            formation: Vec::new(),
            writes: VecDeque::new(),
            heard: vec![None; shards],
            floors: BTreeMap::new(),
            is_cut: false,
            newest: BTreeMap::new(),
        };
        let nodes = table.nodes.iter().map(|_| fresh()).collect();
        Self {
            rng,
            now_ms: 1_000,
            nodes,
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            sequence: 0,
            faults: Faults::default(),
            planted,
            formation: None,
            chosen: vec![BTreeMap::new(); shards],
            counts: Counts::default(),
            violation: None,
            table,
        }
    }

    pub(super) fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.start(node));
    }

    fn at(&mut self, delay_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now_ms + delay_ms, self.sequence)));
        self.pending.insert(self.sequence, event);
    }

    pub(super) fn start(&mut self, at: usize) {
        let incarnation = self.rng.uuid();
        let node = &mut self.nodes[at];
        if node.registers.is_some() {
            return;
        }
        node.life += 1;
        if self.planted != Planted::SameIncarnation {
            node.incarnation = incarnation;
        }
        let identity = Identity {
            me: NodeId(at as u32),
            store: node.store,
            incarnation: node.incarnation,
            fingerprint: FINGERPRINT,
            seed: incarnation.0 as u64,
        };
        if let (Planted::Amnesia, None, Some(formation)) = (self.planted, &node.voter, &self.formation) {
            let seat = formation.voters.iter().find(|seat| seat.node == identity.me);
            node.voter = seat.map(|seat| Acceptor::fresh(seat.first).to_file());
        }
        let registers = Registers::new(identity, self.table.clone(), &node.formation, node.voter.as_deref());
        node.registers = Some(registers.unwrap());
        node.floors.clear();
        if matches!(node.registers.as_ref().unwrap().standing(), Standing::Mute { .. }) {
            self.counts.mute_voters += 1;
        }
        for other in 0..self.nodes.len() {
            self.with(other, |registers, now_ms, out| registers.on_node_up(NodeId(at as u32), now_ms, out));
            self.with(at, |registers, now_ms, out| registers.on_node_up(NodeId(other as u32), now_ms, out));
        }
    }

    /// Some of what was being written has reached the disk.
    pub(super) fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.registers.take().is_none() {
            return;
        }
        self.counts.crashes += 1;
        let kept = self.rng.below(node.writes.len() as u64 + 1) as usize;
        for (_, file, bytes) in node.writes.drain(..).take(kept).collect::<Vec<_>>() {
            node.write(file, bytes);
        }
    }

    /// The directory is emptied. The node is down.
    pub(super) fn wipe(&mut self, at: usize) {
        self.crash(at);
        self.counts.wipes += 1;
        let store = self.rng.uuid();
        let node = &mut self.nodes[at];
        (node.store, node.voter, node.formation) = (store, None, Vec::new());
    }

    /// The voter's file is damaged. The node is down.
    pub(super) fn lose_voter(&mut self, at: usize) {
        self.crash(at);
        self.counts.wipes += 1;
        self.nodes[at].voter = None;
    }

    pub(super) fn cut(&mut self, at: usize, is_cut: bool) {
        self.nodes[at].is_cut = is_cut;
    }

    pub(super) fn size(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn withdraw(&mut self, at: usize, shard: ShardId) -> bool {
        let has_ended = self.nodes[at].registers.as_mut().unwrap().withdraw(shard);
        if has_ended {
            self.nodes[at].floors.remove(&shard);
        }
        has_ended
    }

    /// What the node's disk holds.
    pub(super) fn voter_file(&self, at: usize) -> Vec<u8> {
        self.nodes[at].voter.clone().unwrap()
    }

    pub(super) fn set_voter_file(&mut self, at: usize, file: Vec<u8>) {
        self.nodes[at].voter = Some(file);
    }

    /// Whether the node's disk holds an accepted proposal.
    pub(super) fn has_vote(&self, at: usize, shard: ShardId) -> bool {
        let memory = self.nodes[at].voter.as_deref().and_then(Acceptor::from_file);
        memory.is_some_and(|memory| memory.has_vote(shard))
    }

    /// The formation that the node's disk says was accepted.
    pub(super) fn accepted_formation(&self, at: usize) -> Option<Formation> {
        let kept = Kept::from_file(&self.nodes[at].formation, FINGERPRINT, &self.table).unwrap();
        kept.accepted.map(|founding| founding.value)
    }

    pub(super) fn standing(&self, at: usize) -> Standing {
        self.nodes[at].registers.as_ref().unwrap().standing()
    }

    pub(super) fn member(&self, at: usize) -> Member {
        Member { node: NodeId(at as u32), store: self.nodes[at].store }
    }

    pub(super) fn propose(&mut self, at: usize, shard: ShardId, change: Change) {
        let floor = self.chosen[shard.0 as usize].last_key_value().map_or(0, |(version, _)| *version);
        let before = self.nodes[at].floors.insert(shard, floor);
        let mut has_begun = false;
        self.with(at, |registers, now_ms, out| has_begun = registers.propose(shard, change, now_ms, out));
        if let (false, Some(before)) = (has_begun, before) {
            self.nodes[at].floors.insert(shard, before);
        }
    }

    /// Calls a node that is up, and does what it says.
    fn with(&mut self, at: usize, call: impl FnOnce(&mut Registers, u64, &mut Outbox)) {
        let Some(registers) = &mut self.nodes[at].registers else { return };
        let mut out = Outbox::default();
        call(registers, self.now_ms, &mut out);
        self.take_out(at, out);
    }

    fn take_out(&mut self, at: usize, out: Outbox) {
        let life = self.nodes[at].life;
        let voter = out.persist_voter.map(|(number, bytes)| (number, File::Voter, bytes));
        let formation = out.persist_formation.map(|(number, bytes)| (number, File::Formation, bytes));
        let mut writes: Vec<_> = voter.into_iter().chain(formation).collect();
        writes.sort_by_key(|write| write.0);
        for write in writes {
            let number = write.0;
            let most_ms = if self.rng.percent(10) { 100 } else { 5 };
            let delay_ms = 1 + self.rng.below(most_ms);
            self.nodes[at].writes.push_back(write);
            self.at(delay_ms, Event::Write { node: at, life });
            if self.planted == Planted::DurableTooEarly {
                self.with(at, |registers, now_ms, out| registers.persisted(number, now_ms, out));
            }
        }
        for (to, bytes) in out.requests {
            let (to, to_life) = (to.0 as usize, self.nodes[to.0 as usize].life);
            self.send(|bytes| Event::Request { from: at, from_life: life, to, to_life, bytes }, bytes);
        }
        for (link, bytes) in out.answers {
            self.send(|bytes| Event::Answer { from: at, link, bytes }, bytes);
        }
        if out.formed {
            self.note_formed(at);
        }
        out.settled.into_iter().for_each(|settled| self.note_settled(at, settled));
    }

    fn send(&mut self, event: impl Fn(Vec<u8>) -> Event, bytes: Vec<u8>) {
        if self.rng.percent(self.faults.lost) {
            return;
        }
        for _ in 0..1 + u64::from(self.rng.percent(self.faults.doubled)) {
            let most_ms = if self.rng.percent(self.faults.late) { 400 } else { 10 };
            let delay_ms = 1 + self.rng.below(most_ms);
            self.at(delay_ms, event(bytes.clone()));
        }
    }

    fn note_formed(&mut self, at: usize) {
        self.counts.formed += 1;
        let registers = self.nodes[at].registers.as_ref().unwrap();
        if matches!(registers.standing(), Standing::Mute { .. }) {
            self.counts.mute_voters += 1;
        }
        let formation = registers.formation().unwrap().clone();
        if *self.formation.get_or_insert_with(|| formation.clone()) != formation {
            self.violation = Some(format!("node {at} is in another cluster"));
        }
    }

    fn note_settled(&mut self, at: usize, settled: Settled) {
        let Settled { shard, chosen, applied } = settled;
        self.counts.settled += 1;
        self.counts.applied += u64::from(applied);
        let node = &mut self.nodes[at];
        let floor = node.floors.remove(&shard).expect("a round ends once");
        node.heard[shard.0 as usize] = Some(chosen.clone());
        let known = &mut self.chosen[shard.0 as usize];
        if chosen.version < floor {
            self.violation = Some(format!("{shard:?}: version {floor} was settled, then forgotten: {chosen:?}"));
        }
        match known.get_mut(&chosen.version) {
            Some((value, _)) if *value != chosen => {
                self.violation = Some(format!("{shard:?}: one version, two values: {value:?} and {chosen:?}"));
            }
            Some((_, true)) if applied => {
                self.violation = Some(format!("{shard:?}: two changes made {chosen:?}"));
            }
            Some((_, was_applied)) => *was_applied |= applied,
            None => {
                known.insert(chosen.version, (chosen, applied));
            }
        }
    }

    /// To the next event or tick, but not beyond `until_ms`.
    fn step(&mut self, until_ms: u64) {
        let tick = |node: &Node| node.registers.as_ref().and_then(Registers::next_ms);
        let next_tick = self.nodes.iter().filter_map(tick).min().unwrap_or(u64::MAX);
        let next_event = self.events.peek().map_or(u64::MAX, |Reverse((at_ms, _))| *at_ms);
        self.now_ms = next_tick.min(next_event).clamp(self.now_ms, until_ms.max(self.now_ms));
        if next_event <= self.now_ms {
            let Some(Reverse((_, sequence))) = self.events.pop() else { return };
            let event = self.pending.remove(&sequence).unwrap();
            self.handle(event);
            return;
        }
        for at in 0..self.nodes.len() {
            if tick(&self.nodes[at]).is_some_and(|at_ms| at_ms <= self.now_ms) {
                self.with(at, Registers::tick);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Request { from, from_life, to, to_life, bytes } => {
                let newest = self.nodes[to].newest.entry(from).or_default();
                *newest = from_life.max(*newest);
                let is_newest = *newest == from_life;
                let is_up = self.nodes[to].life == to_life && !self.nodes[to].is_cut && !self.nodes[from].is_cut;
                let is_up = is_up && is_newest;
                let link = LinkId(ConnId { slot: from as u32, generation: from_life });
                if is_up {
                    self.deliver(to, from, link, &bytes);
                }
            }
            Event::Answer { from, link: LinkId(ConnId { slot, generation }), bytes } => {
                let to = slot as usize;
                let is_up = self.nodes[to].life == generation && !self.nodes[to].is_cut && !self.nodes[from].is_cut;
                if is_up {
                    self.deliver(to, from, LinkId(ConnId { slot: u32::MAX, generation: 0 }), &bytes);
                }
            }
            Event::Write { node: at, life } => {
                let node = &mut self.nodes[at];
                if node.life == life
                    && node.registers.is_some()
                    && let Some((number, file, bytes)) = node.writes.pop_front()
                {
                    node.write(file, bytes);
                    self.with(at, |registers, now_ms, out| registers.persisted(number, now_ms, out));
                }
            }
            Event::Restart { node } => self.start(node),
        }
    }

    fn deliver(&mut self, to: usize, from: usize, link: LinkId, bytes: &[u8]) {
        self.with(to, |registers, now_ms, out| {
            registers.on_message(NodeId(from as u32), link, bytes, now_ms, out).unwrap();
        });
    }

    pub(super) fn run(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        while self.now_ms < end_ms && self.violation.is_none() {
            self.step(end_ms);
        }
    }

    /// Runs until this holds; `false`: it did not, in this time.
    pub(super) fn run_until(&mut self, for_ms: u64, holds: impl Fn(&Sim) -> bool) -> bool {
        let end_ms = self.now_ms + for_ms;
        while self.now_ms < end_ms && self.violation.is_none() && !holds(self) {
            self.step(end_ms);
        }
        holds(self)
    }

    /// Faults and proposals, for a while.
    pub(super) fn storm(&mut self, faults: Faults, for_ms: u64) {
        self.faults = faults;
        for _ in 0..for_ms {
            self.run(1);
            let at = self.rng.below(self.nodes.len() as u64) as usize;
            if self.rng.below(1_000) < faults.crashes {
                self.crash(at);
                let pause_ms = self.pause_ms();
                self.at(pause_ms, Event::Restart { node: at });
            }
            let at = self.rng.below(self.nodes.len() as u64) as usize;
            if self.rng.below(1_000) < faults.wipes && self.may_forget(at) {
                if self.rng.percent(50) {
                    self.wipe(at)
                } else {
                    self.lose_voter(at)
                }
                let pause_ms = self.pause_ms();
                self.at(pause_ms, Event::Restart { node: at });
            }
            if self.rng.below(1_000) < faults.proposals {
                self.propose_something();
            }
        }
        self.faults = Faults::default();
    }

    fn pause_ms(&mut self) -> u64 {
        let most_ms = if self.rng.percent(50) { 20 } else { 300 };
        self.rng.below(most_ms)
    }

    /// Whether enough voters keep their memory when this node loses its own. Nobody forgets before the formation is
    /// known to somebody: the sole voter of a value that is then taken over could be among them.
    fn may_forget(&self, at: usize) -> bool {
        let Some(formation) = &self.formation else { return false };
        let of_seat = |(seat, node): (usize, usize)| {
            let file = self.nodes[node].voter.as_deref().and_then(Acceptor::from_file);
            file.and_then(|file| file.seated(formation, seat, self.table.shards.len()))
        };
        let voters: Vec<_> = formation.voters.iter().map(|seat| seat.node.0 as usize).enumerate().collect();
        let memories: Vec<_> = voters.iter().map(|voter| of_seat(*voter)).collect();
        let is_newest = |seat: usize, id| memories.iter().flatten().all(|memory| memory.table()[seat] <= id);
        let remembers = |(seat, node): &&(usize, usize)| {
            *node != at && memories[*seat].as_ref().is_some_and(|memory| is_newest(*seat, memory.id()))
        };
        voters.iter().filter(remembers).count() > voters.len() / 2
    }

    fn propose_something(&mut self) {
        let shard = ShardId(self.rng.below(self.table.shards.len() as u64) as u32);
        let copies = &self.table.shards[shard.0 as usize];
        let at = match self.rng.percent(80) {
            true => copies[self.rng.below(copies.len() as u64) as usize].0 as usize,
            false => self.rng.below(self.nodes.len() as u64) as usize,
        };
        let node = &self.nodes[at];
        let Some(formation) = node.registers.as_ref().and_then(Registers::formation) else { return };
        if node.floors.contains_key(&shard) && self.rng.percent(90) {
            return; // let it end
        }
        let initial = self.table.initial(formation)[shard.0 as usize].clone();
        let heard = node.heard[shard.0 as usize].clone().unwrap_or(initial);
        let other = copies[self.rng.below(copies.len() as u64) as usize].0 as usize;
        let (me, member, epoch) = (self.member(at), self.member(other), heard.epoch);
        let change = match self.rng.below(20) {
            _ if !copies.contains(&me.node) => Change::Observe,
            0..6 => Change::TakeOver { by: me, epoch, keeps_old: self.rng.percent(70) },
            6..9 => Change::Restart(me),
            9..12 if heard.primary == me.node => Change::Shrink { epoch, member },
            9..16 if heard.primary == me.node => Change::Grow { epoch, member },
            16..18 => Change::Force(me),
            _ => Change::Observe,
        };
        self.propose(at, shard, change);
    }

    /// Whether every node knows the formation, every voter serves, and no round is under way.
    fn is_at_rest(&self) -> bool {
        self.nodes.iter().all(|node| {
            let standing = node.registers.as_ref().map(Registers::standing);
            matches!(standing, Some(Standing::Voter | Standing::NoVoter)) && node.floors.is_empty()
        })
    }

    /// The faults have stopped: what was begun ends, and everyone learns of every register, all at once.
    pub(super) fn heal(&mut self) {
        self.start_all();
        if !self.run_until(30_000, Sim::is_at_rest) {
            if self.violation.is_some() || self.planted != Planted::Nothing {
                return;
            }
            let standing: Vec<_> = (0..self.nodes.len()).map(|at| self.standing(at)).collect();
            self.violation = Some(format!("no rest: {standing:?}"));
            return;
        }
        for shard in (0..self.table.shards.len()).map(|shard| ShardId(shard as u32)) {
            (0..self.nodes.len()).for_each(|at| self.propose(at, shard, Change::Observe));
        }
        if !self.run_until(30_000, Sim::is_at_rest) && self.violation.is_none() && self.planted == Planted::Nothing {
            self.violation = Some("contending rounds do not end".to_owned());
        }
    }
}

impl Node {
    fn write(&mut self, file: File, bytes: Vec<u8>) {
        match file {
            File::Voter => self.voter = Some(bytes),
            File::Formation => self.formation = bytes,
        }
    }
}
