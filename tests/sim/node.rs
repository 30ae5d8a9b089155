//! Owns: a node as the world runs it: its machine, its clock, and, while it runs, its process: the real core over the
//! real store, in turns like those of `server/turn.rs`, whose part this file plays with simulated sockets. The only file
//! that knows how the core is called.
//! Never: what befalls a node; whether what it does is right.

use super::clock::{Clock, Nanos};
use super::network::{ConnNumber, Item, Network, Side};
use super::trace::Trace;
use super::voter;
use super::workload::{Answer, Call};
use crate::support::dice::Dice;
use crate::support::faulty_disk::{FaultyDisk, Machine};
use dkv::config::{Cluster, Reads};
use dkv::configuration::{Coded, Configuration};
use dkv::id::{ConnId, Epoch, LinkId, Lsn, NodeId, ShardId, Ticket, Uuid};
use dkv::node::registers::Standing;
use dkv::op::Outcome;
use dkv::peers::{BEACON_MS, Peers};
use dkv::server::core::{Core, Sink, Start};
use dkv::server::lane::Stream;
use dkv::store::{Fatal, Home, Lookup, Options, SmallState};
use dkv::wire::{self, Class, CopyState, Message};
use std::collections::{BTreeMap, VecDeque};

const BACKGROUND_BYTES: u64 = 128 << 10;
const IDLE_LOG_MS: u64 = 1_000;
const DRAIN_MS: u64 = 5_000;
/// As long as a frame may be.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// What a client's connection brings.
#[derive(Debug)]
pub enum FromClient {
    Request(ConnId, u64, Call),
    Gone(ConnId),
}

/// Why a process is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It stopped in order.
    Stopped,
    /// It said why it could not go on.
    Fatal(String),
    /// The machine stopped in the middle of a call.
    PowerLost,
}

/// What the world lends to a turn.
pub struct Around<'a> {
    pub now: Nanos,
    pub network: &'a mut Network,
    pub trace: &'a Trace,
    pub dice: &'a mut Dice,
    /// How likely the process is to lose the processor between two steps: once in so many; 0: never.
    pub stall_once_in: u64,
}

/// What came of a turn.
#[derive(Debug)]
pub enum Turned {
    /// It is over; the next is due then.
    Done(Nanos),
    /// It has stopped, and is to be closed.
    Finished,
    /// The process lost the processor in the middle, or waits for its disk, until then; for ever: until that works again.
    Stalled(Nanos),
    Exit(Exit),
}

/// A machine, and what runs on it.
pub struct Node {
    pub id: NodeId,
    pub shard: Option<ShardId>,
    pub clock: Clock,
    pub machine: Machine,
    pub process: Option<Process>,
    /// Starts so far.
    pub starts: u64,
    /// When the process is to be run next.
    pub wake_at: Option<Nanos>,
    /// The process is stopped (SIGSTOP) until then.
    pub paused_until: Nanos,
    /// In so many steps the process is stopped, in the middle of a turn, for so long.
    pub pause_in: Option<(u64, Nanos)>,
    /// What clients sent that was not read.
    pub inbox: VecDeque<FromClient>,
    last_log: Option<LogView>,
    /// A bit was flipped in its voter's file.
    pub has_rotten_voter: bool,
    /// Answers on their way out.
    pub outbox: Vec<(Ticket, Answer)>,
}

/// One end of a connection.
struct Link {
    number: ConnNumber,
    side: Side,
    node: NodeId,
    class: Class,
    is_up: bool,
    output: Vec<u8>,
    written: u64,
    input: Vec<u8>,
    heard_ms: u64,
    is_finished: bool,
}

impl Link {
    fn id(&self) -> LinkId {
        link_id(self.number, self.side)
    }
}

fn link_id(number: ConnNumber, side: Side) -> LinkId {
    LinkId(ConnId { slot: number.0, generation: side as u32 + 1 })
}

/// A part of a turn. Between two of them the process may be stopped, or die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Signal,
    Read(LinkId),
    Tell,
    Take(LinkId),
    ReadClients,
    Submit,
    Timers,
    Flush,
    Send,
    Background,
    Reap,
}

/// What an operator asks of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM.
    Stop,
    /// `dkv handover`.
    HandOver(NodeId),
    /// `dkv takeover`.
    TakeOver,
}

/// A running `dkv serve`.
pub struct Process {
    core: Core<FaultyDisk>,
    reads: Reads,
    peers: Peers,
    links: BTreeMap<LinkId, Link>,
    /// Ends of connections at which something has arrived.
    ready: Vec<(ConnNumber, Side)>,
    steps: VecDeque<Step>,
    taken: VecDeque<FromClient>,
    /// Stale reads among the requests that were left to the next turn.
    put_off_stale: Vec<Ticket>,
    /// When those were read.
    taken_at: Nanos,
    answers: Vec<(Ticket, Answer)>,
    /// What it said as a voter since that was looked at.
    words: Vec<Vec<u8>>,
    /// What an operator asks for.
    asked: Option<Asked>,
    /// What a message led to, said at the end of the turn.
    fatal: Option<Fatal>,
    next_beacon_ms: u64,
    stops_until_ms: Option<u64>,
    said_goodbye: bool,
    last_write_ms: u64,
    written: Lsn,
    log_is_idle: bool,
    has_more: bool,
}

/// The core's sink over simulated links.
struct Out<'a> {
    links: &'a mut BTreeMap<LinkId, Link>,
    peers: &'a mut Peers,
    answers: &'a mut Vec<(Ticket, Answer)>,
    words: &'a mut Vec<Vec<u8>>,
}

impl Sink for Out<'_> {
    fn answer(&mut self, ticket: Ticket, outcome: &Outcome<'_>) {
        match ticket {
            Ticket::Client(..) => self.answers.push((ticket, Answer::of(outcome))),
            Ticket::Link(link, id) => _ = self.send(link, &Message::Answer { id, outcome: *outcome }),
        }
    }
    fn send(&mut self, id: LinkId, message: &Message<'_>) -> Option<u64> {
        let link = self.links.get_mut(&id).filter(|link| link.is_up && !link.is_finished)?;
        let place = link.written + link.output.len() as u64;
        if let Message::Register { bytes, .. } = message
            && voter::is_word(bytes)
        {
            self.words.push(bytes.to_vec());
        }
        wire::encode(message, &mut link.output);
        Some(place)
    }
    fn queued_bytes(&mut self, link: LinkId) -> usize {
        self.links.get(&link).map_or(0, |link| link.output.len())
    }
    fn want(&mut self, node: NodeId, class: Class) {
        self.peers.want(node, class);
    }
    fn finish(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.is_finished = true;
        }
    }
}

/// A log: whose, up to where it is durable, and where each epoch began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogView {
    pub store: Uuid,
    pub generation: u64,
    pub durable: Lsn,
    pub end: Lsn,
    pub lineage: Vec<(Epoch, Lsn)>,
}

/// What the checks see of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Whether a read that arrived now would be answered without asking anybody.
    pub may_read: bool,
    pub state: CopyState,
    pub epoch: Epoch,
    pub configuration: Option<Configuration>,
    /// Which generation of the data this is about.
    pub store: Uuid,
    pub committed: Lsn,
    pub durable: Lsn,
    pub end: Lsn,
    pub is_damaged: bool,
    /// It is a voter, and remembers; or it is none.
    pub votes: bool,
    pub is_formed: bool,
}

impl Node {
    pub fn new(id: NodeId, cluster: &Cluster, clock: Clock, machine: Machine) -> Node {
        Node {
            id,
            shard: cluster.node(id).shard,
            clock,
            machine,
            process: None,
            starts: 0,
            wake_at: None,
            paused_until: 0,
            pause_in: None,
            inbox: VecDeque::new(),
            last_log: None,
            has_rotten_voter: false,
            outbox: Vec::new(),
        }
    }

    /// A letter for people.
    pub fn name(&self) -> char {
        name(self.id)
    }

    /// Starts the process.
    ///
    /// # Errors
    /// Why it did not start: what it would print.
    pub fn start(&mut self, cluster: &Cluster, now: Nanos, dice: &mut Dice) -> Result<(), String> {
        assert!(self.process.is_none(), "one process a node");
        self.starts += 1;
        self.machine.tell_time(now);
        self.machine.take_watched();
        let settings = cluster.settings();
        let options = Options {
            segment_bytes: settings.store.segment_bytes,
            compact_dead_percent: settings.store.compact_dead_percent,
            entropy: dice.next(),
            ..Options::default()
        };
        let mut random = || u128::from(dice.next()) << 64 | u128::from(dice.next());
        let [store, seed, incarnation, entropy] = std::array::from_fn(|_| random());
        let address = cluster.node(self.id).address;
        let fresh = || SmallState::new(Uuid(store), seed, false);
        let (home, store, _) =
            Home::open(self.machine.disk(), options.clone(), address, fresh).map_err(|e| e.to_string())?;
        let time = self.clock.now(now);
        let start = Start { now: time, incarnation: Uuid(incarnation), entropy, options };
        let mut core = Core::new(cluster, self.id, home, store, start)?;
        core.at(time);
        let mut peers = Peers::new(self.id, cluster.nodes().len(), dice.next());
        for node in cluster.node_ids().filter(|node| *node != self.id) {
            peers.want(node, Class::Control);
        }
        let written = core.store().end();
        self.process = Some(Process {
            core,
            reads: settings.replication.reads,
            peers,
            links: BTreeMap::new(),
            ready: Vec::new(),
            steps: VecDeque::new(),
            taken: VecDeque::new(),
            put_off_stale: Vec::new(),
            taken_at: now,
            answers: Vec::new(),
            words: Vec::new(),
            asked: None,
            fatal: None,
            next_beacon_ms: 0,
            stops_until_ms: None,
            said_goodbye: false,
            last_write_ms: time.ms(),
            written,
            log_is_idle: false,
            has_more: true,
        });
        Ok(())
    }

    /// An operator asks something of the process.
    pub fn ask(&mut self, asked: Asked) {
        if let Some(process) = &mut self.process {
            process.asked.get_or_insert(asked);
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.stops_until_ms.is_some() || p.asked == Some(Asked::Stop))
    }

    /// Something has arrived at one of its connections.
    pub fn arrived(&mut self, number: ConnNumber, side: Side) {
        if let Some(process) = &mut self.process
            && !process.ready.contains(&(number, side))
        {
            process.ready.push((number, side));
        }
    }

    /// The process is gone: its connections end, or, where the machine is off, they do not even end.
    pub fn end(&mut self, around: &mut Around<'_>, machine_too: bool) {
        self.last_log = self.log();
        if let Some(process) = self.process.take() {
            process.let_go(around, machine_too);
        }
        self.inbox.clear();
        self.outbox.clear();
        (self.wake_at, self.paused_until, self.pause_in) = (None, 0, None);
    }

    /// The process ends in order.
    pub fn close(&mut self, around: &mut Around<'_>) -> Exit {
        self.last_log = self.log();
        let Some(process) = self.process.take() else { return Exit::Stopped };
        let closed = process.let_go(around, false).close();
        match closed {
            _ if self.machine.is_stopped() => Exit::PowerLost,
            Err(fatal) => Exit::Fatal(fatal.to_string()),
            Ok(()) => Exit::Stopped,
        }
    }

    /// Whether a read that arrived at this moment would be answered without asking anybody.
    pub fn may_read(&self, now: Nanos) -> bool {
        self.process.as_ref().is_some_and(|process| process.may_read(&self.clock, now))
    }

    /// What it shows at this moment.
    pub fn view(&self, now: Nanos) -> Option<View> {
        let core = &self.process.as_ref()?.core;
        let registers = core.registers();
        Some(View {
            may_read: self.may_read(now),
            state: core.state(),
            epoch: core.copy().epoch(),
            configuration: core.copy().configuration().cloned(),
            store: core.store().small_state().content(),
            committed: core.store().committed(),
            durable: core.store().durable(),
            end: core.store().end(),
            is_damaged: core.store().health().is_some(),
            votes: matches!(registers.standing(), Standing::Voter | Standing::NoVoter),
            is_formed: registers.formation().is_some(),
        })
    }

    /// Where its data is damaged.
    pub fn damage(&self) -> String {
        let health = self.process.as_ref().and_then(|process| process.core.store().health());
        health.map_or(String::new(), ToString::to_string)
    }

    /// What its log holds for good; of a node that does not run, what it held.
    pub fn log(&self) -> Option<LogView> {
        let Some(process) = &self.process else { return self.last_log.clone() };
        let (store, durable) = (process.core.store(), process.core.store().durable());
        let state = store.small_state();
        let generation = process.core.generation();
        Some(LogView { store: state.content(), generation, durable, end: store.end(), lineage: state.lineage.clone() })
    }

    /// Compactions of this process so far, and up to where its log lacks tombstones.
    pub fn compacted(&self) -> (u64, Lsn) {
        let store = self.process.as_ref().map(|process| process.core.store());
        store.map_or((0, Lsn::ZERO), |store| (store.stats().compactions, store.small_state().tombstone_floor))
    }

    /// The nodes that vote, as this one knows.
    pub fn voters(&self) -> Option<Vec<NodeId>> {
        let formation = self.process.as_ref()?.core.registers().formation()?;
        Some(formation.voters.iter().map(|seat| seat.node).collect())
    }

    /// What its store holds of a key: lsn and value.
    pub fn get(&mut self, key: &[u8]) -> Option<(u64, u64)> {
        let process = self.process.as_mut()?;
        self.machine.look(|| match process.core.store_mut().get(key, None) {
            Lookup::Absent => None,
            Lookup::Found { lsn, value } => Some((lsn.0, super::workload::value_id(value))),
            other => panic!("everything can be read, but: {other:?}"),
        })
    }

    /// The directory is emptied, or replaced by what it was.
    pub fn replace_machine(&mut self, machine: Machine) {
        assert!(self.process.is_none(), "nobody uses it");
        self.machine = machine;
        self.last_log = None;
        self.has_rotten_voter = false;
    }

    /// Goes on with the turn that was begun, or begins one.
    pub fn turn(&mut self, around: &mut Around<'_>) -> Turned {
        self.machine.tell_time(around.now);
        let Some(process) = &mut self.process else { return Turned::Done(Nanos::MAX) };
        if process.steps.is_empty() {
            process.core.at(self.clock.now(around.now));
            process.plan();
        }
        while let Some(step) = process.steps.pop_front() {
            match process.step(step, &self.clock, &mut self.inbox, self.id, around) {
                _ if self.machine.is_stopped() => return Turned::Exit(Exit::PowerLost),
                Err(exit) => return Turned::Exit(exit),
                Ok(()) => {}
            }
            for word in process.words.drain(..).filter(|_| !self.has_rotten_voter) {
                let kept = voter::keeps(self.machine.durable("voter").as_deref(), &word);
                kept.unwrap_or_else(|why| panic!("{} {why}", name(self.id)));
            }
            if step == Step::Send {
                self.outbox.append(&mut process.answers);
            }
            let waited_until = self.machine.take_wait_ns();
            if waited_until > around.now {
                return Turned::Stalled(waited_until);
            }
            match self.pause_in.take() {
                Some((0, spell)) => return Turned::Stalled(around.now + spell),
                left => self.pause_in = left.map(|(steps, spell)| (steps - 1, spell)),
            }
            if around.stall_once_in > 0 && around.dice.once_in(around.stall_once_in) {
                let least = around.dice.below(20);
                return Turned::Stalled(around.now + (1 << least) + around.dice.below(1 << (least + 10)));
            }
        }
        if process.is_finished(&self.clock, around.now) {
            return Turned::Finished;
        }
        Turned::Done(process.next_turn(&self.clock, around.now).min(self.machine.next_due_ns().unwrap_or(Nanos::MAX)))
    }
}

pub fn name(node: NodeId) -> char {
    char::from(b'A' + node.0 as u8)
}

impl Process {
    /// All connections end, and the core is left.
    fn let_go(self, around: &mut Around<'_>, machine_too: bool) -> Core<FaultyDisk> {
        for link in self.links.values() {
            match machine_too {
                true => around.network.vanish(link.number, link.side),
                false => around.network.close(around.now, link.number, link.side),
            }
        }
        // What came in and was not even accepted is reset.
        for (number, side) in &self.ready {
            if !self.links.contains_key(&link_id(*number, *side)) {
                around.network.close(around.now, *number, *side);
            }
        }
        self.core
    }

    /// See [`Node::may_read`].
    fn may_read(&self, clock: &Clock, now: Nanos) -> bool {
        let Some(leading) = self.core.copy().leading() else { return false };
        let followers = &leading.followers;
        let is_alone = !followers.all().iter().any(|follower| followers.is_required(follower));
        // What it would say once it has looked at its clock.
        let has_lease = || self.reads == Reads::Lease && followers.has_lease(clock.now(now).boot_ns);
        (is_alone || has_lease()) && self.core.copy().serves(self.core.store().committed()).is_ok()
    }

    fn parts(&mut self) -> (&mut Core<FaultyDisk>, Out<'_>) {
        let out =
            Out { links: &mut self.links, peers: &mut self.peers, answers: &mut self.answers, words: &mut self.words };
        (&mut self.core, out)
    }

    fn plan(&mut self) {
        if self.asked.is_some() {
            self.steps.extend([Step::Signal, Step::Tell]);
        }
        for (number, side) in &self.ready {
            let id = link_id(*number, *side);
            self.steps.extend([Step::Read(id), Step::Tell, Step::Take(id)]);
        }
        self.ready.clear();
        self.steps.extend([Step::ReadClients, Step::Tell, Step::Submit, Step::Tell, Step::Timers, Step::Tell]);
        self.steps.extend([Step::Flush, Step::Tell, Step::Send, Step::Tell, Step::Background, Step::Reap]);
    }

    fn step(
        &mut self,
        step: Step,
        clock: &Clock,
        inbox: &mut VecDeque<FromClient>,
        me: NodeId,
        around: &mut Around<'_>,
    ) -> Result<(), Exit> {
        let fatal = |fatal: dkv::store::Fatal| Exit::Fatal(fatal.to_string());
        let now_ms = clock.now(around.now).ms();
        match step {
            Step::Signal => self.signal(now_ms, me, around),
            Step::Tell => self.core.at(clock.now(around.now)),
            Step::Read(id) => self.read(id, now_ms, around),
            Step::Take(id) => self.take(id, me, around),
            Step::ReadClients => {
                self.taken.append(inbox);
                self.taken_at = around.now;
            }
            Step::Submit => self.submit(clock, me, around),
            Step::Timers => self.timers(now_ms, me, around),
            Step::Flush => {
                if let Some(failed) = self.fatal.take() {
                    return Err(fatal(failed));
                }
                let (core, mut out) = self.parts();
                self.has_more = core.flush(&mut out).map_err(fatal)?;
                let end = self.core.store().end();
                if end != self.written {
                    (self.written, self.last_write_ms, self.log_is_idle) = (end, now_ms, false);
                }
            }
            Step::Send => self.send(around),
            Step::Background => {
                self.has_more |= self.core.store_mut().background(BACKGROUND_BYTES).map_err(fatal)?;
                if !self.log_is_idle && now_ms >= self.last_write_ms + IDLE_LOG_MS {
                    self.core.store_mut().mark_idle().map_err(fatal)?;
                    self.log_is_idle = true;
                }
            }
            Step::Reap => self.reap(now_ms, around),
        }
        Ok(())
    }

    /// Reads what has arrived at one end. A hello makes a link.
    fn read(&mut self, id: LinkId, now_ms: u64, around: &mut Around<'_>) {
        let (number, side) = (ConnNumber(id.0.slot), if id.0.generation == 1 { Side::Dialler } else { Side::Acceptor });
        for item in around.network.read(number, side) {
            match item {
                // Who stops does not listen any more.
                Item::Hello if self.stops_until_ms.is_some() => around.network.close(around.now, number, side),
                Item::Hello => self.accept(number, now_ms, around),
                Item::Welcome => {
                    let Some(link) = self.links.get_mut(&id) else { continue };
                    (link.is_up, link.heard_ms) = (true, now_ms);
                    let (node, class) = (link.node, link.class);
                    self.peers.up(node, class, id.0);
                    let (core, mut out) = self.parts();
                    core.on_dialled(node, class, id, &mut out);
                }
                Item::Bytes(bytes) => {
                    let Some(link) = self.links.get_mut(&id) else { continue };
                    link.input.extend_from_slice(&bytes);
                    link.heard_ms = now_ms;
                }
                Item::End => match self.links.get_mut(&id) {
                    Some(link) => link.is_finished = true,
                    None => around.network.close(around.now, number, side),
                },
            }
        }
    }

    fn accept(&mut self, number: ConnNumber, now_ms: u64, around: &mut Around<'_>) {
        let network = &mut *around.network;
        let (Some(node), Some(class)) = (network.node_at(number, Side::Dialler), network.class(number)) else { return };
        let link = Link {
            number,
            side: Side::Acceptor,
            node,
            class,
            is_up: true,
            output: Vec::new(),
            written: 0,
            input: Vec::new(),
            heard_ms: now_ms,
            is_finished: false,
        };
        let id = link.id();
        self.links.insert(id, link);
        if let Some(older) = self.peers.accepted(node, class, id.0)
            && let Some(older) = self.links.get_mut(&LinkId(older))
        {
            older.is_finished = true;
            older.input.clear();
        }
        network.welcome(around.now, number);
        let (core, mut out) = self.parts();
        core.on_accepted(id, &mut out);
        if self.said_goodbye && class == Class::Data {
            self.say_goodbye();
        }
    }

    fn signal(&mut self, now_ms: u64, me: NodeId, around: &mut Around<'_>) {
        let Some(asked) = self.asked.take() else { return };
        around.trace.line(around.now, format_args!("{} is asked: {asked:?}", name(me)));
        let (core, mut out) = self.parts();
        match asked {
            Asked::Stop => {
                core.stop(&mut out);
                self.stops_until_ms = Some(now_ms + DRAIN_MS);
            }
            Asked::HandOver(to) => _ = core.hand_over(to),
            Asked::TakeOver => _ = core.take_over_by_force(&mut out),
        }
    }

    /// Those who forward requests here are told that this node stops.
    fn say_goodbye(&mut self) {
        self.said_goodbye = true;
        let brings = |link: &&Link| link.side == Side::Acceptor && link.class == Class::Data;
        let accepted: Vec<LinkId> = self.links.values().filter(brings).map(Link::id).collect();
        let (_, mut out) = self.parts();
        for link in accepted {
            out.send(link, &Message::Leaving);
        }
    }

    /// Takes the messages that an end has brought.
    fn take(&mut self, id: LinkId, me: NodeId, around: &mut Around<'_>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (input, node) = (std::mem::take(&mut link.input), link.node);
        let mut used = 0;
        loop {
            // A link that was replaced meanwhile is not read on.
            if self.links.get(&id).is_none_or(|link| link.is_finished && link.side == Side::Acceptor) {
                return;
            }
            match wire::decode(&input[used..], FRAME_BYTES_MAX).expect("nobody sends what is no frame") {
                None => break,
                Some((message, length)) => {
                    used += length;
                    around.trace.line(around.now, format_args!("{}<{} {}", name(me), name(node), brief(&message)));
                    self.on_message(id, node, &message);
                }
            }
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.input = input[used..].to_vec();
        }
    }

    fn on_message(&mut self, id: LinkId, node: NodeId, message: &Message<'_>) {
        let (core, mut out) = self.parts();
        if let Err(failed) = core.on_message(id, node, message, &mut out) {
            self.fatal.get_or_insert(failed);
        }
    }

    fn submit(&mut self, clock: &Clock, me: NodeId, around: &mut Around<'_>) {
        let may_read = self.may_read(clock, self.taken_at);
        let answered = self.answers.len();
        let mut stale = std::mem::take(&mut self.put_off_stale);
        for what in std::mem::take(&mut self.taken) {
            let (core, mut out) = self.parts();
            match what {
                FromClient::Gone(conn) => core.on_source_gone(|stream| stream == Stream::Client(conn)),
                FromClient::Request(conn, number, call) => {
                    around.trace.line(around.now, format_args!("{}< #{number} {call}", name(me)));
                    if call.stale {
                        stale.push(Ticket::Client(conn, number));
                    }
                    core.submit(Ticket::Client(conn, number), Stream::Client(conn), &call.op(), &mut out);
                }
            }
        }
        let (core, mut out) = self.parts();
        // Now and then they are left to the next turn, as those behind long records are.
        let are_left = around.stall_once_in > 0 && around.dice.once_in(8);
        while !are_left && core.begin_some(&mut out) {}
        // What is answered at once is a read, and it was not there before this moment.
        for (ticket, answer) in &self.answers[answered..] {
            if let Answer::Known(got) = answer
                && !may_read
                && !stale.contains(ticket)
            {
                panic!("{} answers {got:?}, but when it read the request, another copy may have led", name(me));
            }
        }
        if are_left {
            self.put_off_stale = stale;
        }
    }

    fn timers(&mut self, now_ms: u64, me: NodeId, around: &mut Around<'_>) {
        if now_ms >= self.core.next_tick_ms() {
            let (core, mut out) = self.parts();
            core.tick(&mut out);
        }
        if self.stops_until_ms.is_some() && !self.said_goodbye && !self.core.copy().leads() {
            self.say_goodbye();
        }
        if self.stops_until_ms.is_none() {
            self.dial(now_ms, me, around);
        }
        if now_ms >= self.next_beacon_ms {
            self.next_beacon_ms = now_ms + BEACON_MS;
            let status = self.core.status();
            let dialled: Vec<LinkId> =
                self.links.values().filter(|link| link.side == Side::Dialler).map(Link::id).collect();
            let (_, mut out) = self.parts();
            for link in dialled {
                out.send(link, &Message::Ping(status));
            }
            for link in self.links.values_mut() {
                let patience_ms = self.peers.patience_ms(link.node, link.class);
                link.is_finished |= link.is_up && now_ms >= link.heard_ms + patience_ms;
            }
        }
    }

    fn dial(&mut self, now_ms: u64, me: NodeId, around: &mut Around<'_>) {
        for conn in self.peers.overdue(now_ms) {
            if let Some(link) = self.links.get_mut(&LinkId(conn)) {
                link.is_finished = true;
            }
        }
        for (node, class) in self.peers.due(now_ms) {
            let number = around.network.dial(around.now, me, node, class);
            let link = Link {
                number,
                side: Side::Dialler,
                node,
                class,
                is_up: false,
                output: Vec::new(),
                written: 0,
                input: Vec::new(),
                heard_ms: now_ms,
                is_finished: false,
            };
            self.peers.dialled(node, class, link.id().0, now_ms);
            self.links.insert(link.id(), link);
        }
    }

    /// Gives the kernel what it takes.
    fn send(&mut self, around: &mut Around<'_>) {
        for link in self.links.values_mut().filter(|link| !link.output.is_empty()) {
            let taken = around.network.send(around.now, link.number, link.side, &link.output);
            link.output.drain(..taken);
            link.written += taken as u64;
        }
    }

    /// Closes the links that are finished.
    fn reap(&mut self, now_ms: u64, around: &mut Around<'_>) {
        let finished: Vec<LinkId> = self.links.values().filter(|link| link.is_finished).map(Link::id).collect();
        for id in finished {
            let Some(link) = self.links.remove(&id) else { continue };
            around.network.close(around.now, link.number, link.side);
            let (node, class) = (link.node, link.class);
            match link.side {
                Side::Dialler => {
                    self.peers.down(node, class, false, now_ms);
                    let (core, mut out) = self.parts();
                    core.on_dialled_down(node, class, id, (link.written, &link.output), &mut out);
                }
                Side::Acceptor => {
                    self.peers.lost(node, class, id.0);
                    self.core.on_source_gone(|stream| matches!(stream, Stream::Link(link, _) if link == id));
                    self.core.on_accepted_down(id);
                }
            }
        }
    }

    fn is_finished(&self, clock: &Clock, now: Nanos) -> bool {
        let Some(until_ms) = self.stops_until_ms else { return false };
        let is_busy = self.links.values().any(|link| {
            let brings = link.side == Side::Acceptor && link.class == Class::Data;
            !link.output.is_empty() || (brings && !self.core.is_copy_of_my_shard(link.node))
        });
        clock.now(now).ms() >= until_ms || (!is_busy && self.core.is_idle() && self.core.is_released())
    }

    /// When the next turn is due, without what arrives or completes.
    fn next_turn(&self, clock: &Clock, now: Nanos) -> Nanos {
        let mut next_ms = self.next_beacon_ms.min(self.core.next_tick_ms());
        if let Some(peers) = self.peers.next_ms().filter(|_| self.stops_until_ms.is_none()) {
            next_ms = next_ms.min(peers);
        }
        if !self.log_is_idle {
            next_ms = next_ms.min(self.last_write_ms + IDLE_LOG_MS);
        }
        let is_busy = self.has_more || !self.ready.is_empty() || self.links.values().any(|link| link.is_finished);
        if is_busy { now } else { clock.true_time_of(next_ms).max(now) }
    }
}

/// A message for the trace.
fn brief(message: &Message<'_>) -> String {
    match message {
        Message::Forward(forward) => {
            format!("forward {:?} {} {:?}", forward.op.verb, forward.op.key.escape_ascii(), forward.op.condition)
        }
        Message::Answer { outcome: Outcome::Found { lsn, value, .. }, .. } => {
            format!("answer Found {} {}", lsn.0, super::workload::value_id(value))
        }
        Message::Answer { outcome, .. } => format!("answer {outcome:?}"),
        Message::NotPrimary { op, .. } => format!("not primary {:?} {}", op.verb, op.key.escape_ascii()),
        Message::Ping(s) => format!("ping {:?} {} {} {}", s.state, s.epoch.0, s.end.0, s.committed.0),
        Message::Pong(s) => format!("pong {:?} {} {} {}", s.state, s.epoch.0, s.end.0, s.committed.0),
        Message::Register { bytes, .. } => format!("register {:?} of {}", bytes.first(), bytes.len()),
        Message::Know(bytes) => format!("know {}", Configuration::decode(bytes).map_or("?".to_owned(), |c| told(&c))),
        Message::Follow(follow) => format!(
            "follow epoch {} end {} floor {} settled {} {}",
            follow.epoch.0,
            follow.end.0,
            follow.floor.0,
            follow.is_settled,
            Configuration::decode(follow.configuration).map_or("?".to_owned(), |c| told(&c))
        ),
        Message::Append(a) => {
            format!(
                "append epoch {} after {} committed {}: {} bytes",
                a.epoch.0,
                a.after.0,
                a.committed.0,
                a.records.len()
            )
        }
        other => format!("{other:?}"),
    }
}

/// A configuration for people.
pub fn told(configuration: &Configuration) -> String {
    let copies: String = configuration.in_sync.iter().map(|member| name(member.node)).collect();
    let Configuration { version, epoch, primary, .. } = configuration;
    format!("v{version} e{} {} of {copies}", epoch.0, name(*primary))
}
