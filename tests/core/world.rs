//! Owns: one node's core in a cluster whose other nodes are the test itself; what it answered and sent.
//! Never: what it should have.

use std::collections::BTreeMap;

use dkv::config::{self, Cluster};
use dkv::configuration::{Coded, Configuration, Formation, Member, Seat, VoterId};
use dkv::id::{ConnId, Epoch, LinkId, Lsn, NodeId, Now, ShardId, Ticket, Uuid};
use dkv::node::registers::{formation_file, voter_file};
use dkv::op::{Condition, Op, Outcome, Verb};
use dkv::server::core::{Core, Sink, Start};
use dkv::server::lane::Stream;
use dkv::store::{Fatal, Home, HomeEvent, Kind, Options, SmallState, record};
use dkv::wire::{self, Ack, Class, Follow, Following, Forward, Message};

use super::support::faulty_disk::{FaultyDisk, Machine};

/// A shard of one copy, and another one.
const ALONE: &str = "
[[shard]]
name = 'a'
idx = 0
address = '127.0.0.1:1001'
[[shard]]
name = 'b'
idx = 1
address = '127.0.0.1:1002'
replicas = ['127.0.0.1:1003']
";
/// A shard of two copies, and another one.
pub const PAIR: &str = "
[[shard]]
name = 'a'
idx = 0
address = '127.0.0.1:1001'
replicas = ['127.0.0.1:1002']
[[shard]]
name = 'b'
idx = 1
address = '127.0.0.1:1003'
";
/// The table's primary of the first shard.
pub const FIRST: NodeId = NodeId(0);
/// The second node: in the pair the other copy, else the other shard's primary.
pub const SECOND: NodeId = NodeId(1);
/// The third: the other shard's replica, or its primary beside a pair.
pub const THIRD: NodeId = NodeId(2);
/// More than any copy takes.
const ROOM_BYTES: u64 = 1 << 30;

/// Answers as text, and each frame as a link would carry it.
#[derive(Default)]
pub struct Heard {
    pub answers: Vec<(Ticket, String)>,
    pub wanted: Vec<(NodeId, Class)>,
    pub finished: Vec<LinkId>,
    pub sent: Vec<(LinkId, Vec<u8>)>,
    placed: BTreeMap<LinkId, u64>,
    pub link_is_full: bool,
    /// It is closed, and the core does not know.
    pub link_is_closed: bool,
}

impl Sink for Heard {
    fn answer(&mut self, ticket: Ticket, outcome: &Outcome<'_>) {
        let text = match outcome {
            Outcome::Found { lsn, value, .. } => format!("{} at {}", value.escape_ascii(), lsn.0),
            other => format!("{other:?}"),
        };
        self.answers.push((ticket, text));
    }
    fn send(&mut self, link: LinkId, message: &Message<'_>) -> Option<u64> {
        if self.link_is_closed {
            return None;
        }
        let mut frame = Vec::new();
        wire::encode(message, &mut frame);
        let end = self.placed.entry(link).or_default();
        let place = *end;
        *end += frame.len() as u64;
        self.sent.push((link, frame));
        Some(place)
    }
    fn queued_bytes(&mut self, _: LinkId) -> usize {
        if self.link_is_full { usize::MAX } else { 0 }
    }
    fn want(&mut self, node: NodeId, class: Class) {
        self.wanted.push((node, class));
    }
    fn finish(&mut self, link: LinkId) {
        self.finished.push(link);
    }
}

/// The only message of a frame.
pub fn message(frame: &[u8]) -> Message<'_> {
    let (message, length) = wire::decode(frame, usize::MAX).unwrap().unwrap();
    assert_eq!(length, frame.len());
    message
}

pub struct World {
    pub machine: Machine,
    pub core: Core<FaultyDisk>,
    pub heard: Heard,
    pub cluster: Cluster,
    now_ms: u64,
    asked: u64,
    /// The disk is told the time: each of its operations takes some.
    tells_time: bool,
}

impl World {
    /// The first node, whose shard has no other copy: it serves.
    pub fn alone() -> World {
        let mut world = World::new(ALONE, FIRST);
        world.settle();
        world
    }

    /// The same, whose log takes more at once than a turn should.
    pub fn alone_with_room() -> World {
        let options = Options { segment_bytes: 16 << 20, ..Options::default() };
        let fresh = SmallState::new(store_of(FIRST), 3, true);
        let mut world = World::start_as(Machine::new(7), table(ALONE), FIRST, &[], fresh, options);
        world.settle();
        world
    }

    /// The first node, whose shard has a replica: it leads epoch 1, and waits for the replica.
    pub fn primary() -> World {
        World::primary_with("")
    }

    /// The same with these settings.
    pub fn primary_with(settings: &str) -> World {
        let mut world = World::new(&format!("{PAIR}{settings}"), FIRST);
        world.settle();
        world.core.on_dialled(SECOND, Class::Control, CONTROL, &mut world.heard);
        world.core.on_dialled(SECOND, Class::Data, DATA, &mut world.heard);
        world
    }

    /// The first node as the primary of a pair, with the replica in sync and no lease granted: it serves.
    pub fn leading() -> World {
        let mut world = World::primary();
        world.replica_follows();
        world.settle();
        world
    }

    /// The replica of a pair, which knows that the first node leads epoch 1.
    pub fn replica() -> World {
        let mut world = World::start(Machine::new(7), table(PAIR), SECOND, &registers(1));
        world.settle();
        world
    }

    /// The replica's process starts again, while the first node has gone on to this epoch.
    pub fn replica_restarted(self, epoch: u64) -> World {
        let World { machine, core, cluster, .. } = self;
        drop(core);
        machine.kill();
        let mut world = World::start(machine, cluster, SECOND, &registers(epoch));
        world.settle();
        world
    }

    fn new(text: &str, me: NodeId) -> World {
        World::start(Machine::new(7), table(text), me, &[])
    }

    /// A process starts on the machine: the cluster is formed, and this node alone votes; in its registers is this, or
    /// what they held before.
    pub fn start(machine: Machine, cluster: Cluster, me: NodeId, registers: &[Configuration]) -> World {
        World::start_with(machine, cluster, me, registers, SmallState::new(store_of(me), 3, true))
    }

    /// The same; a directory that is new holds this state.
    pub fn start_with(
        machine: Machine,
        cluster: Cluster,
        me: NodeId,
        registers: &[Configuration],
        fresh: SmallState,
    ) -> World {
        let options = Options { segment_bytes: 1 << 20, ..Options::default() };
        World::start_as(machine, cluster, me, registers, fresh, options)
    }

    fn start_as(
        machine: Machine,
        cluster: Cluster,
        me: NodeId,
        registers: &[Configuration],
        fresh: SmallState,
        options: Options,
    ) -> World {
        let address = cluster.node(me).address;
        let fresh = || fresh;
        let (mut home, store, _) = Home::open(machine.disk(), options.clone(), address, fresh).unwrap();
        if home.state().formation.is_empty() || !registers.is_empty() {
            let formed = formation(&cluster, me);
            home.persist(|state| state.formation = formation_file(&formed)).unwrap();
            home.persist_voter(voter_file(&formed, me, registers).unwrap()).unwrap();
            let mut durable = Vec::new();
            while durable.len() < 2 {
                durable.extend(home.poll().unwrap());
            }
            assert!(durable.iter().any(|event| matches!(event, HomeEvent::VoterPersisted(_))));
        }
        let now = Now { boot_ns: 1_000_000_000, wall_ms: 0 };
        let start = Start { now, incarnation: Uuid(u128::from(machine.calls())), entropy: 9, options };
        let core = Core::new(&cluster, me, home, store, start).unwrap();
        let heard = Heard::default();
        let mut world = World { machine, core, heard, cluster, now_ms: 1_000, asked: 0, tells_time: false };
        world.core.at(world.now());
        world
    }

    pub fn now(&self) -> Now {
        Now { boot_ns: self.now_ms * 1_000_000, wall_ms: 0 }
    }

    pub fn turn(&mut self) {
        self.core.flush(&mut self.heard).unwrap();
    }

    /// Turns until the disk has nothing more to say.
    pub fn settle(&mut self) {
        for _ in 0..50 {
            self.turn();
        }
    }

    /// From now on each operation of the disk takes so long.
    pub fn slow_disk(&mut self, ms: u64) {
        self.tells_time = true;
        self.machine.tell_time(self.now().boot_ns);
        self.machine.set_pace(ms * 1_000_000, ms * 1_000_000);
    }

    /// A millisecond passes, and a turn.
    pub fn step(&mut self) {
        self.pass(1);
        self.turn();
    }

    /// Time passes, and the process runs all the while.
    pub fn pass(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.now_ms = end_ms.min(self.now_ms + 100);
            if self.tells_time {
                self.machine.tell_time(self.now().boot_ns);
            }
            self.core.at(self.now());
            self.core.tick(&mut self.heard);
        }
    }

    pub fn ask(&mut self, conn: u32, op: &Op<'_>) -> Ticket {
        let ticket = self.submit(conn, op);
        while self.core.begin_some(&mut self.heard) {}
        ticket
    }

    /// It may be put off.
    pub fn submit(&mut self, conn: u32, op: &Op<'_>) -> Ticket {
        let id = client(conn);
        let ticket = Ticket::Client(id, self.asked);
        self.asked += 1;
        self.core.submit(ticket, Stream::Client(id), op, &mut self.heard);
        ticket
    }

    #[track_caller]
    pub fn answer_of(&self, ticket: Ticket) -> Option<&str> {
        let mut found = self.heard.answers.iter().filter(|(t, _)| *t == ticket);
        let first = found.next().map(|(_, text)| text.as_str());
        assert!(found.next().is_none(), "a request was answered twice");
        first
    }

    pub fn say(&mut self, from: NodeId, link: LinkId, message: &Message<'_>) {
        self.try_say(from, link, message).unwrap();
    }

    pub fn try_say(&mut self, from: NodeId, link: LinkId, message: &Message<'_>) -> Result<(), Fatal> {
        self.core.on_message(link, from, message, &mut self.heard)
    }

    /// A data link that this node dialled is up.
    pub fn link_up(&mut self, node: NodeId, link: LinkId) {
        self.core.on_dialled(node, Class::Data, link, &mut self.heard);
    }

    /// It is gone; the kernel has taken so many bytes of its stream.
    pub fn link_down(&mut self, node: NodeId, link: LinkId, written: usize) {
        let unsent = self.stream_of(link).split_off(written);
        self.heard.sent.clear();
        let place = (written as u64, &unsent[..]);
        self.core.on_dialled_down(node, Class::Data, link, place, &mut self.heard);
    }

    /// All bytes that were sent by a link.
    pub fn stream_of(&self, link: LinkId) -> Vec<u8> {
        self.heard.sent.iter().filter(|(by, _)| *by == link).flat_map(|(_, frame)| frame).copied().collect()
    }

    /// What was sent by a link, in order.
    pub fn said(&self, link: LinkId) -> Vec<Message<'_>> {
        self.heard.sent.iter().filter(|(by, _)| *by == link).map(|(_, frame)| message(frame)).collect()
    }

    /// The requests that were forwarded, in order.
    pub fn forwards(&self) -> Vec<Forward<'_>> {
        let sent = self.heard.sent.iter().map(|(_, frame)| message(frame));
        sent.filter_map(|message| if let Message::Forward(forward) = message { Some(forward) } else { None }).collect()
    }

    /// The replica answers the primary's question: it has everything, which is nothing.
    pub fn replica_follows(&mut self) {
        let epoch = self.core.copy().epoch();
        let nothing = Lsn::ZERO;
        self.say(
            SECOND,
            DATA,
            &Message::Following(Following {
                epoch,
                store: store_of(SECOND),
                had: nothing,
                had_committed: nothing,
                end: nothing,
                durable: nothing,
                is_whole: true,
                is_ahead: false,
            }),
        );
        self.replica_has(0);
    }

    /// All up to here is durable at the replica.
    pub fn replica_has(&mut self, lsn: u64) {
        self.replica_has_room(lsn, ROOM_BYTES);
    }

    /// The same; it can take so many bytes more.
    pub fn replica_has_room(&mut self, lsn: u64, room_bytes: u64) {
        let epoch = self.core.copy().epoch();
        let ack = Ack { epoch, durable: Lsn(lsn), room_bytes, is_whole: true };
        self.say(SECOND, DATA, &Message::Ack(ack));
    }

    /// The replica grants what the last beacon asked for.
    pub fn replica_grants(&mut self) {
        let beacons = self.said(CONTROL).into_iter().rev();
        let beacon = beacons.filter_map(|m| if let Message::Beacon(beacon) = m { Some(beacon) } else { None }).next();
        let (epoch, sent_ns) = beacon.map(|beacon| (beacon.epoch, beacon.sent_ns)).expect("a beacon was sent");
        self.say(SECOND, CONTROL, &Message::Grant { epoch, sent_ns, version: 1 });
    }

    /// The rounds of confirmations that were asked for.
    pub fn rounds_asked(&self) -> Vec<u64> {
        let said = self.said(CONTROL).into_iter();
        said.filter_map(|m| if let Message::Confirm { round, .. } = m { Some(round) } else { None }).collect()
    }

    /// The replica confirms that it follows.
    pub fn replica_confirms(&mut self, round: u64) {
        let epoch = self.core.copy().epoch();
        self.say(SECOND, CONTROL, &Message::Confirmed { epoch, round });
    }

    /// Another node tells that the replica has taken over.
    pub fn replica_takes_over(&mut self) {
        let known = self.core.copy().configuration().unwrap();
        let next = Configuration {
            version: known.version + 1,
            epoch: Epoch(known.epoch.0 + 1),
            primary: SECOND,
            in_sync: vec![member(SECOND)],
            forced: 0,
        };
        self.say(THIRD, link(77), &Message::Know(&next.encode()));
    }

    /// The primary of a pair asks the replica to follow, by [`DATA`]; its log is what `end` and `lineage` say.
    pub fn primary_asks(&mut self, epoch: u64, end: u64, lineage: &[(u64, u64)], is_settled: bool) {
        let asks = Asks { epoch, end, floor: 0, lineage, is_settled };
        self.asks(DATA, &pair_in(epoch), &asks).unwrap();
    }

    /// The primary of this configuration asks to be followed.
    pub fn asks(&mut self, link: LinkId, configuration: &Configuration, asks: &Asks<'_>) -> Result<(), Fatal> {
        let lineage: Vec<u8> =
            asks.lineage.iter().flat_map(|(e, l)| [e.to_le_bytes(), l.to_le_bytes()]).flatten().collect();
        let follow = Follow {
            epoch: Epoch(asks.epoch),
            configuration: &configuration.encode(),
            end: Lsn(asks.end),
            floor: Lsn(asks.floor),
            lineage: &lineage,
            is_settled: asks.is_settled,
        };
        self.try_say(configuration.primary, link, &Message::Follow(follow))
    }
}

/// What a primary says of its log: its end, up to where it dropped tombstones, where each epoch began.
pub struct Asks<'a> {
    pub epoch: u64,
    pub end: u64,
    pub floor: u64,
    pub lineage: &'a [(u64, u64)],
    pub is_settled: bool,
}

/// A record as it stands in a log.
pub fn record(lsn: u64, epoch: u64, kind: Kind, key: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (lsn, epoch, key) = (Lsn(lsn), Epoch(epoch), key.as_bytes());
    record::encode(&mut bytes, &record::Record { lsn, epoch, kind, expiry_ms: 0, key, value });
    bytes
}

/// The pair in an epoch of its first node.
pub fn pair_in(epoch: u64) -> Configuration {
    let in_sync = vec![member(FIRST), member(SECOND)];
    Configuration { version: epoch + 1, epoch: Epoch(epoch), primary: FIRST, in_sync, forced: 0 }
}

/// The registers of the pair's cluster in that epoch.
pub fn registers(epoch: u64) -> Vec<Configuration> {
    let other = Configuration { version: 1, epoch: Epoch(0), primary: THIRD, in_sync: vec![member(THIRD)], forced: 0 };
    vec![pair_in(epoch), other]
}

pub fn table(text: &str) -> Cluster {
    config::parse(text, "table").unwrap().cluster
}

pub fn formation(cluster: &Cluster, voter: NodeId) -> Formation {
    let stores = (0..cluster.nodes().len() as u32).map(|node| store_of(NodeId(node))).collect();
    let first = VoterId { generation: 0, uuid: Uuid(5) };
    let voters = vec![Seat { node: voter, first }];
    Formation { cluster: Uuid(4), fingerprint: cluster.fingerprint(), voters, stores }
}

pub fn store_of(node: NodeId) -> Uuid {
    Uuid(100 + u128::from(node.0))
}

pub fn member(node: NodeId) -> Member {
    Member { node, store: store_of(node) }
}

pub fn op<'a>(verb: Verb, key: &'a str, value: &'a str) -> Op<'a> {
    Op { verb, key: key.as_bytes(), value: value.as_bytes(), condition: Condition::None, stale: false }
}

pub fn stale<'a>(key: &'a str) -> Op<'a> {
    Op { stale: true, ..op(Verb::Get, key, "") }
}

/// Keys of the first shard and of the second.
pub fn keys(world: &World) -> (Vec<String>, Vec<String>) {
    (0..60).map(|n| format!("key{n}")).partition(|key| world.core.router().shard_of(key.as_bytes()) == ShardId(0))
}

pub fn client(n: u32) -> ConnId {
    ConnId { slot: n, generation: 1 }
}

pub const fn link(n: u32) -> LinkId {
    LinkId(ConnId { slot: 900 + n, generation: 1 })
}

/// The links between the copies of a pair.
pub const CONTROL: LinkId = link(50);
pub const DATA: LinkId = link(51);
