//! Owns: a world: nodes, network, clients and faults from one seed, in simulated time; what happens next, and next.
//! Never: what the protocol is.

use super::checks::{Checks, Seen};
use super::clock::{Clock, MS, Nanos, SECOND};
use super::faults::{Fault, Mix};
use super::network::{ConnNumber, Network, Side};
use super::node::{Around, Asked, Exit, FromClient, Node, Turned, View, name};
use super::trace::Trace;
use super::workload::{Answer, Call, Habits, STORY_SLOT, Sent, Workload};
use crate::support::dice::Dice;
use crate::support::faulty_disk::{Fault as DiskFault, Machine};
use dkv::config::{self, Cluster, Reads};
use dkv::id::{ConnId, Lsn, NodeId, ShardId, Ticket};
use dkv::router::Router;
use dkv::wire::CopyState;
use island::Island;
use std::collections::BTreeMap;

mod harm;
mod island;
mod tale;

/// What a world is like.
#[derive(Debug, Clone)]
pub struct Shape {
    pub table: String,
    pub habits: Habits,
    pub mix: Mix,
    /// How long faults befall it.
    pub faulty_ns: Nanos,
}

/// After the faults: by then everything must be whole again.
const HEALED_NS: Nanos = 90 * SECOND;

/// What happens at a moment.
#[derive(Debug)]
enum Event {
    /// A node's turn.
    Wake(usize),
    Arrive(ConnNumber, Side),
    /// A stream may make its next call.
    Call(usize),
    /// A call reaches its node.
    Request(Sent),
    /// An answer reaches its client.
    Answer(ConnId, u64, Answer),
    /// A node learns that a client is gone.
    Gone(NodeId, u64, ConnId),
    /// A client learns that its connection is gone.
    Lost(ConnId),
    /// Clients look at their watches.
    Impatience,
    /// Somebody looks whether writes go on while a node fails.
    Probe,
    /// Somebody reads all keys of a node's shard there.
    ReadAll(usize),
    /// The n-th kind of fault.
    Strike(usize),
    Cut(NodeId, NodeId),
    Undo(Undo),
}

/// The end of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// The process is started.
    Start(usize),
    /// A node was told to stop, and has not for too long: kill -9.
    KillIfStopping(usize, u64),
    Heal(NodeId, NodeId),
    FullSpeed(NodeId, NodeId),
    Room(usize),
    DiskPace(usize),
    DiskWorks(usize),
    ClockGoes(usize),
    /// A lull has lasted long enough.
    EndLull(u64),
}

/// A time without further faults, so that one which needs a whole cluster can strike.
#[derive(Debug)]
struct Lull {
    number: u64,
    /// What waits for it; `None`: it has struck, and what it took must come back first.
    fault: Option<Fault>,
    not_before: Nanos,
    /// Since when all has been whole.
    whole_since: Option<Nanos>,
}

/// A process that is kept from running for longer may be late with its answers.
const LONG_NS: Nanos = 100 * MS;

/// All must have been whole for so long: then no removal of a copy is on its way.
const CALM_NS: Nanos = 500 * MS;

/// A bit that was flipped: the bytes around it, to flip it back where nobody has noticed.
#[derive(Debug)]
struct Flip {
    node: usize,
    file: String,
    at: usize,
    bit: usize,
    around: Vec<u8>,
    /// Nobody else need be able to repair it.
    is_alone: bool,
}

/// Independent random numbers for each concern, so that one does not move the others.
struct Fates {
    faults: Dice,
    clocks: Dice,
    processes: Dice,
}

/// See the module.
pub struct World {
    pub now: Nanos,
    pub cluster: Cluster,
    pub nodes: Vec<Node>,
    pub network: Network,
    pub workload: Workload,
    pub checks: Checks,
    pub trace: Trace,
    mix: Mix,
    fates: Fates,
    queue: BTreeMap<(Nanos, u64), Event>,
    next_event: u64,
    /// No process runs before this: it is busy, or not scheduled.
    busy_until: Vec<Nanos>,
    /// Up to when each was last kept from running for long, by a pause or its disk.
    blocked_until: Vec<Nanos>,
    lull: Option<Lull>,
    lulls: u64,
    island: Option<Island>,
    /// Faults that last.
    ailing: u64,
    flip: Option<Flip>,
    /// A story's calls, and their answers.
    calls: u64,
    told: BTreeMap<u64, Answer>,
    /// What a node's disk was some time ago.
    images: BTreeMap<usize, Machine>,
    router: Router,
    faults_end_at: Nanos,
    is_healed: bool,
    delay: (Nanos, Nanos),
    /// How far apart the directions of one cut may begin and end.
    stagger: Nanos,
}

impl World {
    pub fn new(seed: u64, shape: &Shape, trace: Trace) -> World {
        let mut root = Dice::new(seed);
        let mut stream = || Dice::new(root.next());
        let [network, workload, faults, mut clocks, processes, mut disks] = std::array::from_fn(|_| stream());
        let parsed = config::parse(&shape.table, "world");
        let cluster = parsed.expect("a world's table is sound").cluster;
        let nodes: Vec<Node> = cluster
            .node_ids()
            .map(|id| {
                let fast_ppm = clocks.below(20_001) as i64 - 10_000;
                let clock = Clock::new(SECOND + clocks.below(1_000_000 * SECOND), fast_ppm, clocks.below(1 << 41));
                let machine = Machine::new(disks.next());
                machine.set_pace(50_000, 3 * MS);
                Node::new(id, &cluster, clock, machine)
            })
            .collect();
        let mut network = network;
        let least_ns = *network.pick(&[20_000, 200_000, MS, 15 * MS]).expect("there are four");
        let jitter_ns = *network.pick(&[100_000, MS, 20 * MS]).expect("there are three");
        let stagger = *network.pick(&[1, 100 * MS, SECOND]).expect("there are three");
        let network = Network::new(nodes.len(), (least_ns, jitter_ns), network);
        let mut world = World {
            now: 0,
            network,
            workload: Workload::new(shape.habits.clone(), workload),
            checks: Checks::default(),
            trace,
            mix: shape.mix.clone(),
            fates: Fates { faults, clocks, processes },
            queue: BTreeMap::new(),
            next_event: 0,
            busy_until: vec![0; nodes.len()],
            blocked_until: vec![0; nodes.len()],
            lull: None,
            lulls: 0,
            island: None,
            ailing: 0,
            flip: None,
            calls: 0,
            told: BTreeMap::new(),
            images: BTreeMap::new(),
            router: Router::new(&cluster),
            faults_end_at: shape.faulty_ns,
            is_healed: false,
            delay: (least_ns, jitter_ns),
            stagger,
            nodes,
            cluster,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for at in 0..self.nodes.len() {
            let late = self.fates.processes.below(300 * MS);
            self.after(late, Event::Undo(Undo::Start(at)));
        }
        for stream in 0..self.workload.habits.streams as usize {
            self.after(500 * MS, Event::Call(stream));
        }
        for nth in 0..self.mix.kinds.len() {
            let wait = SECOND + self.mix.next(nth, &mut self.fates.faults);
            self.after(wait, Event::Strike(nth));
        }
        self.after(SECOND, Event::Impatience);
    }

    /// Runs until all is over.
    ///
    /// # Errors
    /// What did not hold.
    pub fn run(&mut self) -> Result<Seen, String> {
        self.run_until(self.faults_end_at)?;
        self.heal();
        let healed_at = self.now;
        // Some more calls on a healed cluster, and then none.
        self.run_until(self.now + 3 * SECOND)?;
        self.workload.is_over = true;
        while let Some(what) = self.unfinished() {
            if self.now > healed_at + HEALED_NS {
                return Err(format!("{what}, though everything has worked for {} s", HEALED_NS / SECOND));
            }
            self.run_until(self.now + 100 * MS)?;
        }
        self.checks.seen.add("ms to heal", (self.now - healed_at) / MS);
        self.compare()?;
        self.workload.judge()?;
        Ok(self.seen())
    }

    /// What is not as it should be in the end.
    pub fn unfinished(&self) -> Option<String> {
        if !self.workload.is_quiet() {
            return Some("calls are not answered".to_owned());
        }
        for node in &self.nodes {
            let Some(view) = node.view(self.now) else { return Some(format!("{} does not run", node.name())) };
            if !view.is_formed || !view.votes {
                return Some(format!("{} does not vote", node.name()));
            }
        }
        let shards = (0..self.cluster.shards().len() as u32).map(ShardId);
        shards.into_iter().find(|shard| !self.is_whole(*shard)).map(|shard| {
            let of_shard = self.nodes.iter().filter(|node| node.shard == Some(shard));
            let views: Vec<Option<View>> = of_shard.map(|node| node.view(self.now)).collect();
            format!("shard {} is not whole: {views:?}", shard.0)
        })
    }

    /// Whether a shard has one primary that serves and all its copies in sync, and all know it.
    fn is_in_sync(&self, shard: ShardId) -> bool {
        let copies: Vec<&Node> = self.nodes.iter().filter(|node| node.shard == Some(shard)).collect();
        let views: Vec<View> = copies.iter().filter_map(|node| node.view(self.now)).collect();
        let Some(first) = views.first() else { return false };
        let serving = views.iter().filter(|view| view.state == CopyState::Serving).count();
        let following = views.iter().filter(|view| view.state == CopyState::InSync).count();
        let all_in = first.configuration.as_ref().is_some_and(|c| c.in_sync.len() == copies.len());
        let agree = views.iter().all(|view| view.configuration == first.configuration);
        serving == 1 && following + 1 == copies.len() && all_in && agree
    }

    /// The same, and nothing is under way: all copies have committed all.
    fn is_whole(&self, shard: ShardId) -> bool {
        let of_shard = self.nodes.iter().filter(|node| node.shard == Some(shard));
        let views: Vec<View> = of_shard.filter_map(|node| node.view(self.now)).collect();
        let end = views.first().map(|view| view.end);
        self.is_in_sync(shard) && views.iter().all(|view| Some(view.end) == end && Some(view.committed) == end)
    }

    /// The copies of a shard hold the same.
    fn compare(&mut self) -> Result<(), String> {
        let keys: Vec<Vec<u8>> = self.workload.habits.keys.clone();
        for key in keys {
            let shard = self.router.shard_of(&key);
            let mut held = Vec::new();
            for node in self.nodes.iter_mut().filter(|node| node.shard == Some(shard)) {
                held.push((node.name(), node.get(&key)));
            }
            if held.iter().any(|(_, what)| *what != held[0].1) {
                return Err(format!("the copies of {} differ: {held:?}", key.escape_ascii()));
            }
            self.workload.read_at_the_end(self.now, &key, held[0].1);
        }
        for (key, lsn, value) in std::mem::take(&mut self.workload.stale_finds) {
            let shard = self.router.shard_of(&key);
            let log = self.nodes.iter().find(|node| node.shard == Some(shard)).and_then(Node::log);
            if let Some(log) = log.filter(|log| !self.checks.is_kept(shard, lsn, value, log)) {
                return Err(format!("a stale read found {value} at {lsn}, which was dropped later: {log:?}"));
            }
        }
        Ok(())
    }

    fn seen(&self) -> Seen {
        let mut seen = self.checks.seen.clone();
        let tally = self.workload.tally;
        seen.add("calls", tally.asked);
        seen.add("answers", tally.known);
        seen.add("writes", tally.writes);
        seen.add("unknown", tally.unknown);
        seen.add("failed", tally.failed);
        seen.add("stale reads", tally.stale);
        seen.add("stale reads older than they said", tally.older_than_said);
        for (compactions, floor) in self.nodes.iter().map(Node::compacted) {
            seen.add("compactions at the end", compactions);
            seen.add("copies without tombstones", u64::from(floor > Lsn::ZERO));
        }
        seen.add("events", self.trace.count());
        seen
    }

    /// Lets everything happen that happens until then.
    pub fn run_until(&mut self, end: Nanos) -> Result<(), String> {
        while let Some(entry) = self.queue.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = at;
            self.happen(event)?;
            for (at, number, side) in std::mem::take(&mut self.network.alarms) {
                self.at(at, Event::Arrive(number, side));
            }
        }
        self.now = end;
        Ok(())
    }

    fn at(&mut self, at: Nanos, event: Event) {
        let will_end = |event: &Event| matches!(event, Event::Undo(undo) if !matches!(undo, Undo::EndLull(_)));
        self.ailing += u64::from(will_end(&event));
        self.queue.insert((at.max(self.now), self.next_event), event);
        self.next_event += 1;
    }

    fn after(&mut self, wait: Nanos, event: Event) {
        self.at(self.now + wait, event);
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Wake(at) => return self.turn(at),
            Event::Arrive(number, side) => {
                let node = self.network.node_at(number, side);
                if self.network.arrive(self.now, number, side)
                    && let Some(node) = node
                {
                    self.arrived(node.0 as usize, number, side);
                }
            }
            Event::Call(stream) => {
                let live: Vec<(NodeId, u64)> = self.live().collect();
                if let Some(sent) = self.workload.call(self.now, stream, &live) {
                    let delay = self.workload.delay();
                    self.after(delay, Event::Request(sent));
                }
                if !self.workload.is_over {
                    let pause = self.workload.pause();
                    self.after(pause, Event::Call(stream));
                }
            }
            Event::Request(sent) => self.request(sent),
            Event::Answer(ConnId { slot: STORY_SLOT, .. }, number, answer) => _ = self.told.insert(number, answer),
            Event::Answer(conn, number, answer) => {
                if let Some(noted) = self.workload.answered(self.now, conn, number, answer) {
                    let shard = self.router.shard_of(&noted.key);
                    self.checks.answered(shard, &noted, &self.nodes)?;
                }
            }
            Event::Gone(node, start, conn) => {
                let node = node.0 as usize;
                if self.nodes[node].process.is_some() && self.nodes[node].starts == start {
                    self.nodes[node].inbox.push_back(FromClient::Gone(conn));
                    self.poke(node, self.now);
                }
            }
            Event::Lost(conn) => self.workload.disconnect(self.now, conn),
            Event::Impatience => {
                for (conn, node, start, asked_at) in self.workload.impatient(self.now) {
                    let at = node.0 as usize;
                    let runs = self.nodes[at].process.is_some() && self.nodes[at].starts == start;
                    if runs && self.blocked_until[at] < asked_at {
                        return Err(format!("{} has left a call without an answer beyond its deadline", name(node)));
                    }
                    self.after(MS, Event::Gone(node, start, conn));
                }
                self.after(500 * MS, Event::Impatience);
            }
            Event::Probe => return self.probe(),
            Event::ReadAll(at) => self.read_all(at),
            Event::Strike(nth) => {
                if !self.is_healed {
                    let fault = self.mix.kinds[nth].0;
                    match &self.lull {
                        Some(_) => {}
                        None if fault.wants_calm() => self.begin_lull(Some(fault)),
                        None => self.strike(fault),
                    }
                    let wait = self.mix.next(nth, &mut self.fates.faults);
                    self.after(wait, Event::Strike(nth));
                }
            }
            Event::Cut(from, to) => {
                if !self.is_healed {
                    self.network.cut(from, to);
                }
            }
            Event::Undo(undo) => self.undo(undo)?,
        }
        Ok(())
    }

    fn live(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        let accepts = |node: &&Node| node.process.is_some() && !node.is_stopping();
        self.nodes.iter().filter(accepts).map(|node| (node.id, node.starts))
    }

    fn request(&mut self, sent: Sent) {
        let at = sent.to.0 as usize;
        let node = &mut self.nodes[at];
        if node.process.is_none() || node.starts != sent.start {
            self.workload.refused(self.now, sent.conn, sent.number);
            return;
        }
        node.inbox.push_back(FromClient::Request(sent.conn, sent.number, sent.call));
        self.poke(at, self.now);
    }

    fn arrived(&mut self, at: usize, number: ConnNumber, side: Side) {
        let node = &mut self.nodes[at];
        match &node.process {
            None => self.network.close(self.now, number, side),
            Some(_) => {
                node.arrived(number, side);
                self.poke(at, self.now);
            }
        }
    }

    /// The node has something to do then.
    fn poke(&mut self, at: usize, when: Nanos) {
        let node = &mut self.nodes[at];
        if node.process.is_none() || when == Nanos::MAX {
            return;
        }
        let runs_from = self.busy_until[at].max(node.paused_until);
        if runs_from > self.now + LONG_NS {
            self.blocked_until[at] = runs_from;
        }
        let when = when.max(runs_from).max(self.now);
        if when == Nanos::MAX {
            // It waits for a disk that hangs.
            return;
        }
        if node.wake_at.is_none_or(|planned| when < planned) {
            node.wake_at = Some(when);
            self.at(when, Event::Wake(at));
        }
    }

    fn turn(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].wake_at != Some(self.now) {
            return Ok(());
        }
        self.nodes[at].wake_at = None;
        if self.nodes[at].paused_until > self.now || self.busy_until[at] > self.now {
            self.poke(at, self.now);
            return Ok(());
        }
        let mut around = Around {
            now: self.now,
            network: &mut self.network,
            trace: &self.trace,
            dice: &mut self.fates.processes,
            stall_once_in: if self.is_healed || self.lull.is_some() { 0 } else { self.mix.stall_once_in },
        };
        let mut turned = self.nodes[at].turn(&mut around);
        if matches!(turned, Turned::Finished) {
            // What it knows as it goes counts, too: its last answers may rest on that.
            self.checks.process(&self.nodes[at], &self.nodes, self.now)?;
            turned = Turned::Exit(self.nodes[at].close(&mut around));
        }
        let spent = 10_000 + self.fates.processes.below(40_000);
        self.answers(at);
        self.written(at)?;
        match turned {
            Turned::Finished => unreachable!("it was closed"),
            Turned::Done(next) => {
                self.busy_until[at] = self.now + spent;
                let late = if self.fates.processes.once_in(20) { self.fates.processes.below(3 * MS) } else { 0 };
                self.poke(at, next.saturating_add(late));
            }
            Turned::Stalled(until) => {
                self.checks.seen.add("stalls", 1);
                self.busy_until[at] = until;
                self.poke(at, until);
            }
            Turned::Exit(exit) => self.exited(at, exit),
        }
        self.checks.process(&self.nodes[at], &self.nodes, self.now)?;
        if std::mem::take(&mut self.checks.serves_anew) {
            self.content(at)?;
        }
        self.checks.together(&self.nodes, self.now)?;
        self.use_lull()
    }

    /// What a primary holds of the keys when it begins to serve is what its log says, from its first record on.
    fn content(&mut self, at: usize) -> Result<(), String> {
        let (id, shard) = (self.nodes[at].id, self.nodes[at].shard);
        let (Some(shard), Some(view)) = (shard, self.nodes[at].view(self.now)) else { return Ok(()) };
        let Some(log) = self.nodes[at].log().filter(|_| !self.checks.rotten.contains(&id)) else { return Ok(()) };
        for key in self.workload.habits.keys.iter().filter(|key| self.router.shard_of(key) == shard) {
            let Some(said) = self.checks.said(shard, key, view.committed, &log) else { continue };
            let held = self.nodes[at].get(key);
            if held != said {
                let (letter, key) = (name(id), key.escape_ascii());
                return Err(format!("{letter} serves {held:?} as {key}, but its log says {said:?}: {log:?}"));
            }
        }
        Ok(())
    }

    /// What a node answered is on its way.
    fn answers(&mut self, at: usize) {
        for (ticket, answer) in std::mem::take(&mut self.nodes[at].outbox) {
            let Ticket::Client(conn, number) = ticket else { continue };
            self.trace.line(self.now, format_args!("{}> #{number} {answer:?}", name(NodeId(at as u32))));
            let delay = self.workload.delay();
            self.after(delay, Event::Answer(conn, number, answer));
        }
    }

    fn written(&mut self, at: usize) -> Result<(), String> {
        let node = &self.nodes[at];
        for (file, bytes) in node.machine.take_watched() {
            self.checks.written(node, &file, &bytes)?;
        }
        Ok(())
    }

    fn start(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].process.is_some() {
            return Ok(());
        }
        let started = self.nodes[at].start(&self.cluster, self.now, &mut self.fates.processes);
        let letter = name(NodeId(at as u32));
        self.written(at)?;
        match started {
            Ok(()) => {
                self.trace.line(self.now, format_args!("{letter} starts"));
                self.checks.seen.add("starts", 1);
                self.busy_until[at] = self.now.max(self.nodes[at].machine.take_wait_ns());
                // Machines that go off once go off again: what a start found must be durable before it is told.
                let goes_off = self.mix.kinds.iter().any(|(fault, _)| *fault == Fault::PowerLossInCall);
                if goes_off && !self.is_healed && self.lull.is_none() && self.fates.faults.once_in(6) {
                    let n = 1 + self.fates.faults.below(40);
                    self.nodes[at].machine.fault_at(n, DiskFault::Stop);
                }
                self.poke(at, self.now);
            }
            Err(why) => {
                self.trace.line(self.now, format_args!("{letter} does not start: {why}"));
                self.checks.seen.add("failed starts", 1);
                if self.nodes[at].machine.is_stopped() {
                    self.power_loss(at);
                    return Ok(());
                }
                self.nodes[at].machine.kill();
                let is_hopeless = !why.contains("injected fault")
                    && !why.contains("full")
                    && self.checks.rotten.contains(&self.nodes[at].id);
                if is_hopeless {
                    // What the message advises.
                    self.empty(at);
                }
                self.after(SECOND, Event::Undo(Undo::Start(at)));
            }
        }
        Ok(())
    }

    fn exited(&mut self, at: usize, exit: Exit) {
        self.trace.line(self.now, format_args!("{} exits: {exit:?}", name(NodeId(at as u32))));
        match exit {
            Exit::PowerLost => return self.power_loss(at),
            Exit::Fatal(_) => self.checks.seen.add("fatal errors", 1),
            Exit::Stopped => self.checks.seen.add("orderly stops", 1),
        }
        self.end(at, false);
        self.nodes[at].machine.kill();
        self.start_later(at);
    }

    /// The process is gone, whatever it was doing.
    fn end(&mut self, at: usize, machine_too: bool) {
        let node = &mut self.nodes[at];
        let (id, start) = (node.id, node.starts);
        let mut around = Around {
            now: self.now,
            network: &mut self.network,
            trace: &self.trace,
            dice: &mut self.fates.processes,
            stall_once_in: 0,
        };
        node.end(&mut around, machine_too);
        for conn in self.workload.connections_to(id, start) {
            let delay = self.workload.delay();
            self.after(delay, Event::Lost(conn));
        }
    }

    fn kill(&mut self, at: usize) {
        if self.nodes[at].process.is_none() {
            return;
        }
        self.trace.line(self.now, format_args!("{} is killed", name(NodeId(at as u32))));
        self.end(at, false);
        self.nodes[at].machine.kill();
        self.start_later(at);
    }

    fn power_loss(&mut self, at: usize) {
        self.trace.line(self.now, format_args!("{} loses power", name(NodeId(at as u32))));
        self.end(at, true);
        let node = &mut self.nodes[at];
        node.clock.goes(self.now);
        node.machine.lose_power(self.fates.faults.next());
        node.clock.boot(self.now, 2 * SECOND + self.fates.clocks.below(20 * SECOND));
        self.start_later(at);
    }

    fn start_later(&mut self, at: usize) {
        if self.mix.starts_by_hand {
            return;
        }
        let longest = *self.fates.faults.pick(&[5 * MS, 300 * MS, 3 * SECOND, 8 * SECOND]).expect("there are four");
        let wait = if self.is_healed { 100 * MS } else { MS + self.fates.faults.below(longest) };
        self.after(wait, Event::Undo(Undo::Start(at)));
    }

    fn disk_works(&mut self, at: usize) {
        self.nodes[at].machine.resume();
        if self.busy_until[at] == Nanos::MAX {
            self.busy_until[at] = self.now;
        }
        self.blocked_until[at] = self.blocked_until[at].min(self.now);
        self.poke(at, self.now);
    }

    /// Everything gets through again.
    pub fn heal_network(&mut self) {
        for from in self.cluster.node_ids() {
            for to in self.cluster.node_ids() {
                while self.network.is_cut(from, to) {
                    self.network.heal(self.now, from, to);
                }
                self.network.set_speed(from, to, None);
                self.network.set_delay(from, to, self.delay.0, self.delay.1);
            }
        }
    }

    /// Everything works again, and every node runs.
    fn heal(&mut self) {
        self.is_healed = true;
        self.end_lull();
        self.trace.line(self.now, format_args!("healed"));
        self.heal_network();
        for at in 0..self.nodes.len() {
            let machine = &self.nodes[at].machine;
            machine.set_capacity(u64::MAX);
            machine.set_pace(50_000, 3 * MS);
            machine.no_fault();
            (self.nodes[at].paused_until, self.nodes[at].pause_in) = (0, None);
            self.nodes[at].clock.goes(self.now);
            self.disk_works(at);
            if self.nodes[at].process.is_none() {
                self.after(100 * MS, Event::Undo(Undo::Start(at)));
            }
        }
    }
}
