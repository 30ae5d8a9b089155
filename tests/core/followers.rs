//! A replica: what it takes, acknowledges and grants, and what it answers meanwhile.

use dkv::id::{Epoch, Lsn};
use dkv::op::Verb;
use dkv::wire::{Append, Beacon, CopyState, Following, Forward, Message};

use super::world::{CONTROL, DATA, FIRST, THIRD, World, keys, link, message, op, stale};

/// Records as a primary sends them: so many, the first of them at `from`.
fn records(from: u64, values: &[&str]) -> Vec<Vec<u8>> {
    let mut primary = World::leading();
    let (mine, _) = keys(&primary);
    let skipped = (1..from).map(|_| "skipped");
    for value in skipped.chain(values.iter().copied()) {
        primary.ask(1, &op(Verb::Set, &mine[0], value));
        primary.settle();
        let end = primary.core.store().end().0;
        primary.replica_has(end);
        primary.settle();
    }
    let sent = primary.heard.sent.into_iter().filter(|(by, _)| *by == DATA);
    let appended = sent.filter_map(|(_, frame)| match message(&frame) {
        Message::Append(append) if !append.records.is_empty() => Some(append.records.to_vec()),
        _ => None,
    });
    appended.skip(from as usize - 1).collect()
}

fn append<'a>(after: u64, committed: u64, records: &'a [u8]) -> Message<'a> {
    Message::Append(Append { epoch: Epoch(1), after: Lsn(after), committed: Lsn(committed), records })
}

fn following(world: &World) -> Vec<Following> {
    let said = world.said(DATA).into_iter();
    said.filter_map(|m| if let Message::Following(said) = m { Some(said) } else { None }).collect()
}

fn acked(world: &World) -> Vec<u64> {
    let said = world.said(DATA).into_iter();
    said.filter_map(|m| if let Message::Ack(ack) = m { Some(ack.durable.0) } else { None }).collect()
}

fn beacon() -> Message<'static> {
    Message::Beacon(Beacon { epoch: Epoch(1), sent_ns: 5, lease_ms: 540, committed: Lsn::ZERO })
}

/// A replica that follows the first node in epoch 1, with nothing in its log.
fn in_sync() -> World {
    let mut world = World::replica();
    world.primary_asks(1, 0, &[(1, 1)], false);
    world.settle();
    world
}

#[test]
fn a_copy_that_is_asked_follows_once_that_is_on_its_disk() {
    let mut world = World::replica();
    assert_eq!(world.core.state(), CopyState::Waiting);
    world.machine.hang();
    world.primary_asks(1, 0, &[(1, 1)], false);
    world.settle();
    assert!(following(&world).is_empty(), "its epoch is not durable");
    world.machine.resume();
    world.settle();
    let said = following(&world);
    assert_eq!((said.len(), said[0].end, said[0].is_whole, said[0].is_ahead), (1, Lsn::ZERO, true, false));
    assert_eq!(world.core.state(), CopyState::InSync);
    assert!(world.core.status().ready);
}

#[test]
fn records_are_acknowledged_when_they_are_durable() {
    let mut world = in_sync();
    let [one, two] = &records(1, &["v", "w"])[..] else { panic!("two") };
    world.machine.hang();
    world.say(FIRST, DATA, &append(0, 0, one));
    world.settle();
    assert!(!acked(&world).contains(&1));
    world.machine.resume();
    world.settle();
    assert_eq!(acked(&world).last(), Some(&1));
    world.say(FIRST, DATA, &append(1, 1, two));
    world.settle();
    assert_eq!(acked(&world).last(), Some(&2));
    assert_eq!(world.core.store().committed(), Lsn(1), "as far as the primary has said");
}

#[test]
fn records_that_do_not_follow_or_come_by_another_link_are_not_taken() {
    let mut world = in_sync();
    let both = records(1, &["v", "w"]);
    world.say(FIRST, link(60), &append(0, 0, &both[0]));
    assert_eq!(world.core.store().end(), Lsn::ZERO, "not the link that was matched");
    world.say(FIRST, DATA, &append(1, 0, &both[1]));
    assert_eq!(world.core.store().end(), Lsn::ZERO);
    assert_eq!(world.heard.finished, [DATA], "there is a gap before them");
    let mut world = in_sync();
    let old = Append { epoch: Epoch(0), after: Lsn::ZERO, committed: Lsn::ZERO, records: &both[0] };
    world.say(FIRST, DATA, &Message::Append(old));
    assert_eq!(world.core.store().end(), Lsn::ZERO, "not the epoch's");
}

#[test]
fn a_lease_is_granted_by_a_copy_that_follows_and_by_no_other() {
    let mut world = World::replica();
    world.say(FIRST, CONTROL, &beacon());
    world.settle();
    assert!(world.said(CONTROL).is_empty(), "its log is not the primary's yet");
    world.primary_asks(1, 0, &[(1, 1)], false);
    world.settle();
    world.say(FIRST, CONTROL, &Message::Confirm { epoch: Epoch(1), round: 7 });
    assert_eq!(world.said(CONTROL), [Message::Confirmed { epoch: Epoch(1), round: 7 }]);
    world.heard.sent.clear();
    // The grace must be durable first: the next start has to know of it.
    world.say(FIRST, CONTROL, &beacon());
    assert!(world.said(CONTROL).is_empty());
    world.settle();
    world.say(FIRST, CONTROL, &beacon());
    assert!(matches!(world.said(CONTROL)[..], [Message::Grant { epoch: Epoch(1), sent_ns: 5, .. }]));
    world.say(FIRST, CONTROL, &Message::Confirm { epoch: Epoch(0), round: 8 });
    assert_eq!(world.said(CONTROL).len(), 1);
}

#[test]
fn a_copy_takes_over_after_its_grace_and_not_before_and_then_serves() {
    let mut world = in_sync();
    world.say(FIRST, CONTROL, &beacon());
    world.settle();
    world.pass(300);
    world.say(FIRST, CONTROL, &beacon());
    assert!(matches!(world.said(CONTROL).last(), Some(Message::Grant { .. })));
    for _ in 0..5 {
        world.pass(119);
        world.settle();
    }
    assert!(!world.core.copy().is_candidate() && !world.core.copy().leads());
    world.pass(5);
    world.settle();
    assert!(world.core.copy().leads());
    assert_eq!(world.core.copy().configuration().unwrap().in_sync.len(), 1, "the silent primary is out");
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"));
    // The one before learns it by its next word.
    world.heard.sent.clear();
    world.say(FIRST, CONTROL, &beacon());
    assert!(matches!(world.said(CONTROL)[..], [Message::Know(_)]));
    world.primary_asks(1, 0, &[(1, 1)], true);
    assert!(matches!(world.said(DATA)[..], [Message::Know(_)]));
}

#[test]
fn a_copy_that_is_told_to_lead_does_not_wait_and_one_that_has_more_says_so() {
    let mut world = in_sync();
    let all = records(1, &["v", "w"]);
    for (at, record) in all.iter().enumerate() {
        world.say(FIRST, DATA, &append(at as u64, 0, record));
        world.settle();
    }
    // The primary has started anew, and has lost a record.
    let mut world = world.replica_restarted(2);
    world.primary_asks(2, 1, &[(1, 1), (2, 2)], false);
    world.settle();
    let said = *following(&world).last().unwrap();
    assert!(said.is_ahead, "{said:?}");
    assert_eq!(world.core.store().end(), Lsn(2), "it has cut nothing");
    world.say(FIRST, CONTROL, &Message::Lead { epoch: Epoch(2), keeps_old: true });
    world.settle();
    assert!(world.core.copy().leads());
    assert_eq!(world.core.copy().epoch(), Epoch(3));
}

#[test]
fn what_was_never_committed_goes_when_the_primary_never_had_it() {
    let mut world = in_sync();
    let all = records(1, &["v", "w"]);
    world.say(FIRST, DATA, &append(0, 0, &all[0]));
    world.say(FIRST, DATA, &append(1, 1, &all[1]));
    world.settle();
    world.primary_asks(2, 1, &[(1, 1), (2, 2)], true);
    world.settle();
    let said = *following(&world).last().unwrap();
    assert_eq!((said.had, said.end, said.is_ahead), (Lsn(2), Lsn(1), false));
    assert_eq!(world.core.store().end(), Lsn(1));
    let (mine, _) = keys(&world);
    let read = world.ask(1, &stale(&mine[0]));
    assert_eq!(world.answer_of(read), Some("v at 1"));
}

#[test]
fn a_whole_copy_answers_stale_reads_and_sends_other_requests_on() {
    let mut world = in_sync();
    let (mine, _) = keys(&world);
    let all = records(1, &["v"]);
    world.say(FIRST, DATA, &append(0, 0, &all[0]));
    world.settle();
    let early = world.ask(1, &stale(&mine[0]));
    assert_eq!(world.answer_of(early), Some("NotFound"), "what is not committed is not seen");
    world.say(FIRST, DATA, &append(1, 1, &[]));
    world.settle();
    let read = world.ask(1, &stale(&mine[0]));
    assert_eq!(world.answer_of(read), Some("v at 1"));
    let get = op(Verb::Get, &mine[0], "");
    world.link_up(FIRST, link(1));
    world.ask(1, &get);
    assert_eq!(world.forwards()[0].op, get);
    // The same for what others forward.
    let forward = |id, op| Message::Forward(Forward { id, stream: 1, ms_left: 1_000, op });
    world.say(THIRD, link(3), &forward(1, stale(&mine[0])));
    world.say(THIRD, link(3), &forward(2, get));
    assert_eq!(world.answer_of(dkv::id::Ticket::Link(link(3), 1)), Some("v at 1"));
    assert_eq!(world.said(link(3)), [Message::NotPrimary { id: 2, op: get }]);
}
