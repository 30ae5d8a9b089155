//! The server's core by itself: no sockets, no clock; a disk in memory and a sink that remembers. Each test tells one
//! law of answers.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::config;
use dkv::id::{ConnId, Epoch, LinkId, Lsn, NodeId, Now, Ticket, Uuid};
use dkv::op::{Condition, Op, Outcome, Verb};
use dkv::server::core::{Core, Sink};
use dkv::server::lane::Stream;
use dkv::store::{Options, SmallState, Store};
use dkv::wire::{self, Forward, Message, Status};
use support::faulty_disk::{FaultyDisk, Machine};

const TABLE: &str = "
[[shard]]
name = 'a'
idx = 0
address = '127.0.0.1:1001'
replicas = ['127.0.0.1:1002']
[[shard]]
name = 'b'
idx = 1
address = '127.0.0.1:1003'
replicas = ['127.0.0.1:1004']
";
const ME: NodeId = NodeId(0);
const OTHER: NodeId = NodeId(2);

/// Answers as text, frames as a link would carry them.
#[derive(Default)]
struct Heard {
    answers: Vec<(Ticket, String)>,
    wanted: Vec<NodeId>,
    finished: Vec<LinkId>,
    link: Vec<u8>,
    returned: Vec<(u64, Vec<u8>)>,
    link_is_full: bool,
}

impl Sink for Heard {
    fn answer(&mut self, ticket: Ticket, outcome: &Outcome<'_>) {
        let text = match outcome {
            Outcome::Found { lsn, value, .. } => format!("{} at {}", value.escape_ascii(), lsn.0),
            other => format!("{other:?}"),
        };
        self.answers.push((ticket, text));
    }
    fn not_primary(&mut self, _: LinkId, id: u64, op: &Op<'_>) {
        self.returned.push((id, op.key.to_vec()));
    }
    fn forward(&mut self, _: LinkId, forward: &Forward<'_>) -> Option<u64> {
        if self.link_is_full {
            return None;
        }
        let place = self.link.len() as u64;
        wire::encode(&Message::Forward(*forward), &mut self.link);
        Some(place)
    }
    fn want(&mut self, node: NodeId) {
        self.wanted.push(node);
    }
    fn finish(&mut self, link: LinkId) {
        self.finished.push(link);
    }
}

struct World {
    machine: Machine,
    core: Core<FaultyDisk>,
    heard: Heard,
    now_ms: u64,
    asked: u64,
}

impl World {
    fn new() -> World {
        let machine = Machine::new(7);
        let cluster = config::parse(TABLE, "table").unwrap().cluster;
        let options = Options { segment_bytes: 1 << 20, ..Options::default() };
        let fresh = || SmallState::new(cluster.node(ME).address, Uuid(1), Uuid(2), 3);
        let (store, _) = Store::open(machine.disk(), options, fresh).unwrap();
        let core = Core::new(&cluster, ME, store).unwrap();
        let mut world = World { machine, core, heard: Heard::default(), now_ms: 1_000, asked: 0 };
        world.core.at(world.now());
        world.settle();
        world
    }

    fn now(&self) -> Now {
        Now { boot_ns: self.now_ms * 1_000_000, wall_ms: 0 }
    }

    /// Turns until the disk has nothing more to say.
    fn settle(&mut self) {
        for _ in 0..50 {
            self.core.flush(&mut self.heard).unwrap();
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.core.at(self.now());
        self.core.tick(&mut self.heard);
    }

    fn ask(&mut self, conn: u32, op: &Op<'_>) -> Ticket {
        let id = ConnId { slot: conn, generation: 1 };
        let ticket = Ticket::Client(id, self.asked);
        self.asked += 1;
        self.core.submit(ticket, Stream::Client(id), op, &mut self.heard);
        ticket
    }

    fn answer_of(&self, ticket: Ticket) -> Option<&str> {
        let mut found = self.heard.answers.iter().filter(|(t, _)| *t == ticket);
        let first = found.next().map(|(_, text)| text.as_str());
        assert!(found.next().is_none(), "a request was answered twice");
        first
    }

    fn frames(&self) -> Vec<Forward<'_>> {
        let mut rest = &self.heard.link[..];
        let mut all = Vec::new();
        while let Some((Message::Forward(forward), length)) = wire::decode(rest, usize::MAX).unwrap() {
            all.push(forward);
            rest = &rest[length..];
        }
        all
    }
}

fn op<'a>(verb: Verb, key: &'a str, value: &'a str) -> Op<'a> {
    Op { verb, key: key.as_bytes(), value: value.as_bytes(), condition: Condition::None, stale: false }
}

/// Keys of shard 0 (ours) and of shard 1.
fn keys(world: &World) -> (Vec<String>, Vec<String>) {
    (0..60).map(|n| format!("key{n}")).partition(|key| world.core.router().shard_of(key.as_bytes()).0 == 0)
}

fn link(n: u32) -> LinkId {
    LinkId(ConnId { slot: 900 + n, generation: 1 })
}

#[test]
fn a_write_is_answered_when_it_is_durable_and_not_before() {
    let mut world = World::new();
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    assert_eq!(world.answer_of(set), None);
    let syncs = world.machine.syncs();
    world.settle();
    assert!(world.machine.syncs() > syncs);
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"));
}

#[test]
fn others_read_the_committed_value_at_once_and_a_stream_reads_its_own_writes() {
    let mut world = World::new();
    let (mine, _) = keys(&world);
    world.ask(1, &op(Verb::Set, &mine[0], "old"));
    world.settle();
    world.ask(1, &op(Verb::Set, &mine[0], "new"));
    let own = world.ask(1, &op(Verb::Get, &mine[0], ""));
    let other = world.ask(2, &op(Verb::Get, &mine[0], ""));
    let third = world.ask(1, &op(Verb::Set, &mine[0], "third"));
    assert_eq!(world.answer_of(other), Some("old at 1"));
    assert_eq!(world.answer_of(own), None, "its own write is not committed yet");
    world.settle();
    assert_eq!(world.answer_of(own), Some("new at 2"), "and not the value that the stream wrote behind the read");
    assert_eq!(world.answer_of(third), Some("Replaced(Lsn(3))"));
}

#[test]
fn what_rests_on_a_record_that_is_not_committed_waits_for_it() {
    let mut world = World::new();
    let (mine, _) = keys(&world);
    world.ask(1, &op(Verb::Set, &mine[0], "v"));
    let create = Op { condition: Condition::Absent, ..op(Verb::Set, &mine[0], "mine") };
    let refused = world.ask(2, &create);
    assert_eq!(world.answer_of(refused), None, "a 412 that rests on a record under way");
    world.settle();
    assert_eq!(world.answer_of(refused), Some("PreconditionFailed(Some(Lsn(1)))"));

    world.ask(1, &op(Verb::Delete, &mine[0], ""));
    let missing = world.ask(2, &op(Verb::Update, &mine[0], "x"));
    assert_eq!(world.answer_of(missing), None, "a 404 that rests on a delete under way");
    let never_there = world.ask(3, &op(Verb::Update, &mine[1], "x"));
    assert_eq!(world.answer_of(never_there), Some("NotFound"), "this one rests on nothing");
    world.settle();
    assert_eq!(world.answer_of(missing), Some("NotFound"));
}

#[test]
fn conditions_are_evaluated_in_lsn_order() {
    let mut world = World::new();
    let (mine, _) = keys(&world);
    let swap = |lsn| Op { condition: Condition::Is(Lsn(lsn)), ..op(Verb::Set, &mine[0], "x") };
    let first = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    let wins = world.ask(2, &swap(1));
    let loses = world.ask(3, &swap(1));
    world.settle();
    assert_eq!(world.answer_of(first), Some("Created(Lsn(1))"));
    assert_eq!(world.answer_of(wins), Some("Replaced(Lsn(2))"));
    assert_eq!(world.answer_of(loses), Some("PreconditionFailed(Some(Lsn(2)))"));
}

#[test]
fn a_read_from_the_disk_holds_back_its_own_stream_only() {
    let mut world = World::new();
    let (mine, _) = keys(&world);
    world.ask(1, &op(Verb::Set, &mine[0], "cold"));
    world.ask(1, &op(Verb::Set, &mine[1], "too"));
    world.settle();
    world.machine.evict();
    let cold = world.ask(1, &op(Verb::Get, &mine[0], ""));
    let behind = world.ask(1, &op(Verb::Set, &mine[0], "warm"));
    let other = world.ask(2, &op(Verb::Set, &mine[5], "new"));
    assert_eq!(world.answer_of(cold), None);
    world.settle();
    assert_eq!(world.answer_of(cold), Some("cold at 1"), "the write behind it came later");
    assert_eq!(world.answer_of(behind), Some("Replaced(Lsn(4))"));
    assert_eq!(world.answer_of(other), Some("Created(Lsn(3))"));
    assert_eq!(world.core.counters().cold_reads, 1);
}

#[test]
fn a_request_without_a_primary_waits_and_then_fails_for_sure() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    assert_eq!(world.heard.wanted, [OTHER]);
    world.pass(1_999);
    assert_eq!(world.answer_of(set), None);
    world.pass(1);
    assert_eq!(world.answer_of(set), Some("Failed(NoPrimary)"));
    assert!(world.core.is_idle());
    assert_eq!(world.core.held_bytes(), 0);
}

#[test]
fn a_link_that_comes_up_in_time_takes_what_waited_in_order() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    let get = world.ask(1, &op(Verb::Get, &theirs[0], ""));
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let frames = world.frames();
    let (ids, verbs): (Vec<u64>, Vec<Verb>) = frames.iter().map(|f| (f.id, f.op.verb)).unzip();
    assert_eq!(verbs, [Verb::Set, Verb::Get]);
    assert_eq!(frames[0].stream, frames[1].stream, "the owner keeps the order of a stream");
    assert!(frames[0].ms_left > 9_000);
    // The answers come in any order.
    let found = Outcome::Found { lsn: Lsn(5), value: b"v", stale: false };
    world.core.on_answer(link(1), ids[1], &found, &mut world.heard);
    world.core.on_answer(link(1), ids[0], &Outcome::Created(Lsn(5)), &mut world.heard);
    world.core.on_answer(link(1), ids[0], &Outcome::Created(Lsn(5)), &mut world.heard);
    assert_eq!(world.answer_of(set), Some("Created(Lsn(5))"));
    assert_eq!(world.answer_of(get), Some("v at 5"));
    assert!(world.core.is_idle());
}

#[test]
fn a_write_that_was_sent_is_never_sent_again_and_one_that_was_not_is() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let sent = world.ask(1, &op(Verb::Set, &theirs[0], "sent"));
    let read = world.ask(1, &op(Verb::Get, &theirs[0], ""));
    let begun_at = world.heard.link.len() as u64;
    let begun = world.ask(1, &op(Verb::Set, &theirs[1], "begun"));
    let unsent_at = world.heard.link.len() as u64;
    let unsent = world.ask(1, &op(Verb::Set, &theirs[2], "unsent"));
    let last = world.ask(1, &op(Verb::Delete, &theirs[3], ""));
    // The kernel took one byte of the third frame.
    let written = begun_at + 1;
    assert!(written < unsent_at);
    let rest = std::mem::take(&mut world.heard.link).split_off(usize::try_from(written).unwrap());
    world.core.on_link_down(OTHER, link(1), written, &rest, &mut world.heard);
    assert_eq!(world.answer_of(sent), Some("Failed(Unknown)"));
    assert_eq!(world.answer_of(begun), Some("Failed(Unknown)"));
    for waits in [read, unsent, last] {
        assert_eq!(world.answer_of(waits), None);
    }
    world.core.on_link_up(OTHER, link(2), &mut world.heard);
    let frames = world.frames();
    let again: Vec<(Verb, &[u8], &[u8])> = frames.iter().map(|f| (f.op.verb, f.op.key, f.op.value)).collect();
    let expected: [(Verb, &[u8], &[u8]); 3] = [
        (Verb::Get, theirs[0].as_bytes(), b""),
        (Verb::Set, theirs[2].as_bytes(), b"unsent"),
        (Verb::Delete, theirs[3].as_bytes(), b""),
    ];
    assert_eq!(again, expected);
}

#[test]
fn an_answer_of_an_older_link_is_nobodys() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let get = world.ask(1, &op(Verb::Get, &theirs[0], ""));
    let id = world.frames()[0].id;
    let written = world.heard.link.len() as u64;
    world.heard.link.clear();
    world.core.on_link_down(OTHER, link(1), written, &[], &mut world.heard);
    world.core.on_link_up(OTHER, link(2), &mut world.heard);
    world.core.on_answer(link(1), id, &Outcome::NotFound, &mut world.heard);
    assert_eq!(world.answer_of(get), None);
    let id = world.frames()[0].id;
    world.core.on_answer(link(2), id, &Outcome::NotFound, &mut world.heard);
    assert_eq!(world.answer_of(get), Some("NotFound"));
}

#[test]
fn a_forward_without_an_answer_is_unknown_for_a_write_and_failed_for_a_read() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    let get = world.ask(2, &op(Verb::Get, &theirs[0], ""));
    world.pass(9_999);
    assert_eq!(world.answer_of(set), None);
    world.pass(1);
    assert_eq!(world.answer_of(set), Some("Failed(Unknown)"));
    assert_eq!(world.answer_of(get), Some("Failed(NoPrimary)"));
    assert!(world.core.is_idle());
}

#[test]
fn a_link_whose_end_stops_is_kept_for_its_answers_and_takes_no_more() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let under_way = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    let id = world.frames()[0].id;
    world.core.on_leaving(link(1), &mut world.heard);
    assert!(world.heard.finished.is_empty());
    let next = world.ask(2, &op(Verb::Set, &theirs[0], "w"));
    assert_eq!(world.frames().len(), 1, "nothing more is sent there");
    world.core.on_answer(link(1), id, &Outcome::Created(Lsn(1)), &mut world.heard);
    assert_eq!(world.answer_of(under_way), Some("Created(Lsn(1))"));
    assert_eq!(world.heard.finished, [link(1)]);
    world.heard.link.clear();
    world.core.on_link_up(OTHER, link(2), &mut world.heard);
    assert_eq!(world.frames()[0].op.value, b"w");
    assert_eq!(world.answer_of(next), None);
}

#[test]
fn a_link_whose_end_stops_is_not_kept_for_an_answer_that_never_comes() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    world.core.on_leaving(link(1), &mut world.heard);
    world.pass(9_999);
    assert!(world.heard.finished.is_empty());
    world.pass(1);
    assert_eq!(world.answer_of(set), Some("Failed(Unknown)"));
    assert_eq!(world.heard.finished, [link(1)]);
}

#[test]
fn a_write_that_the_log_has_no_buffer_for_waits_for_one() {
    let mut world = World::new();
    let (mine, _) = keys(&world);
    // Staged faster than segments are sealed and made, with a disk that does nothing meanwhile.
    let value = "x".repeat(60_000);
    world.machine.hang();
    let asked: Vec<Ticket> =
        (0..40).map(|n| world.ask(n, &op(Verb::Set, &mine[n as usize % mine.len()], &value))).collect();
    world.core.flush(&mut world.heard).unwrap();
    assert!(world.core.held_bytes() > 60_000, "some of them wait");
    assert!(world.heard.answers.is_empty());
    world.machine.resume();
    world.settle();
    world.settle();
    for ticket in asked {
        let answer = world.answer_of(ticket).unwrap_or("none");
        assert!(answer.starts_with("Created") || answer.starts_with("Replaced"), "{answer}");
    }
    assert_eq!(world.core.held_bytes(), 0);
}

#[test]
fn a_full_link_refuses_and_nothing_is_kept() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    world.heard.link_is_full = true;
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    assert_eq!(world.answer_of(set), Some("Failed(Overloaded)"));
    assert!(world.core.is_idle());
}

#[test]
fn what_is_not_ours_goes_back_and_is_tried_again() {
    let mut world = World::new();
    let (mine, theirs) = keys(&world);
    let forward = Forward { id: 9, stream: 1, ms_left: 1_000, op: op(Verb::Set, &theirs[0], "v") };
    world.core.on_forward(link(3), &forward, &mut world.heard);
    assert_eq!(world.heard.returned, [(9, theirs[0].clone().into_bytes())]);

    let ours = Forward { op: op(Verb::Set, &mine[0], "v"), id: 10, ..forward };
    world.core.on_forward(link(3), &ours, &mut world.heard);
    world.settle();
    assert_eq!(world.answer_of(Ticket::Link(link(3), 10)), Some("Created(Lsn(1))"));

    // The other way round: the request that comes back waits for a primary, and is sent again.
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "again"));
    let id = world.frames()[0].id;
    let returned = op(Verb::Set, &theirs[0], "again");
    world.core.on_not_primary(link(1), id, &returned, &mut world.heard);
    assert_eq!(world.answer_of(set), None);
    world.heard.link.clear();
    world.pass(25);
    assert_eq!(world.frames()[0].op, returned);
}

#[test]
fn what_comes_back_one_by_one_is_sent_again_in_its_order() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let values = ["1", "2", "3"];
    for value in values {
        world.ask(1, &op(Verb::Set, &theirs[0], value));
    }
    let ids: Vec<u64> = world.frames().iter().map(|frame| frame.id).collect();
    world.heard.link.clear();
    for (id, value) in ids.into_iter().zip(values) {
        world.core.on_not_primary(link(1), id, &op(Verb::Set, &theirs[0], value), &mut world.heard);
    }
    world.ask(1, &op(Verb::Set, &theirs[0], "4"));
    world.pass(25);
    let again: Vec<&[u8]> = world.frames().iter().map(|frame| frame.op.value).collect();
    assert_eq!(again, [b"1", b"2", b"3", b"4"], "the last write of a stream must be the one that stays");
}

#[test]
fn a_new_primary_takes_over_only_when_nothing_is_under_way_at_the_old_one() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    let first = world.ask(1, &op(Verb::Set, &theirs[0], "1"));
    let id = world.frames()[0].id;
    world.heard.link.clear();
    let replica = NodeId(3);
    let leads = Status { is_primary: true, epoch: Epoch(9), ..Status::default() };
    world.core.on_status(replica, leads, &mut world.heard);
    world.core.on_link_up(replica, link(2), &mut world.heard);
    let second = world.ask(1, &op(Verb::Set, &theirs[0], "2"));
    assert!(world.frames().is_empty(), "the stream's first write is not answered yet");
    let other = world.ask(2, &op(Verb::Get, &theirs[0], ""));
    assert_eq!(world.frames().len(), 1, "another stream goes there at once");
    world.core.on_answer(link(1), id, &Outcome::Created(Lsn(1)), &mut world.heard);
    assert_eq!(world.frames().len(), 2);
    assert_eq!(world.answer_of(first), Some("Created(Lsn(1))"));
    assert_eq!((world.answer_of(second), world.answer_of(other)), (None, None));
}

#[test]
fn a_client_that_is_gone_takes_its_unbegun_requests_along() {
    let mut world = World::new();
    let (_, theirs) = keys(&world);
    world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    let kept = world.ask(2, &op(Verb::Set, &theirs[0], "v"));
    let gone = Stream::Client(ConnId { slot: 1, generation: 1 });
    world.core.on_source_gone(|stream| stream == gone);
    world.core.on_link_up(OTHER, link(1), &mut world.heard);
    assert_eq!(world.frames().len(), 1);
    assert_eq!(world.answer_of(kept), None);
}

#[test]
fn a_disk_that_hangs_refuses_new_writes_and_leaves_the_old_ones_unknown() {
    let mut world = World::new();
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.machine.hang();
    world.core.flush(&mut world.heard).unwrap();
    assert!(world.core.is_waiting());
    world.pass(4_999);
    assert!(world.core.status().ready);
    world.pass(1);
    assert!(!world.core.status().ready);
    let refused = world.ask(2, &op(Verb::Set, &mine[1], "v"));
    assert_eq!(world.answer_of(refused), Some("Failed(DiskSlow)"));
    let read = world.ask(3, &op(Verb::Get, &mine[1], ""));
    assert_eq!(world.answer_of(read), Some("NotFound"), "reads go on");
    world.pass(5_000);
    assert_eq!(world.answer_of(set), Some("Failed(Unknown)"));
    world.machine.resume();
    world.settle();
    world.pass(25);
    assert!(world.core.status().ready);
    let found = world.ask(3, &op(Verb::Get, &mine[0], ""));
    assert_eq!(world.answer_of(found), Some("v at 1"), "unknown may well mean applied");
}

#[test]
fn an_epoch_is_raised_and_persisted_with_every_start_of_a_primary() {
    let mut world = World::new();
    assert_eq!(world.core.status().epoch, Epoch(1));
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    assert!(world.answer_of(set).is_some());
    let World { machine, core, .. } = world;
    drop(core);
    machine.kill();
    let cluster = config::parse(TABLE, "table").unwrap().cluster;
    let options = Options { segment_bytes: 1 << 20, ..Options::default() };
    let (store, _) = Store::open(machine.disk(), options, || unreachable!("it has a state")).unwrap();
    let mut core = Core::new(&cluster, ME, store).unwrap();
    core.at(Now::default());
    let mut heard = Heard::default();
    assert!(!core.status().ready, "nothing is served before the new epoch is on the disk");
    let ticket = Ticket::Client(ConnId { slot: 1, generation: 1 }, 0);
    core.submit(ticket, Stream::Client(ConnId { slot: 1, generation: 1 }), &op(Verb::Get, &mine[0], ""), &mut heard);
    assert!(heard.answers.is_empty(), "but the request waits for it");
    for _ in 0..50 {
        core.flush(&mut heard).unwrap();
    }
    assert_eq!(core.status().epoch, Epoch(2));
    assert_eq!(heard.answers, [(ticket, "v at 1".to_owned())]);
    assert_eq!(core.store().small_state().lineage, [(Epoch(1), Lsn(1)), (Epoch(2), Lsn(2))]);
}
