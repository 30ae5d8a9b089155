//! A primary with a replica: what it may answer by the replica's leave, and what it owes those who wait when it is
//! deposed.

use dkv::id::{Epoch, Lsn, Ticket};
use dkv::op::{Condition, Op, Verb};
use dkv::wire::{Ack, Class, CopyState, Following, Forward, Message};

use super::world::{CONTROL, DATA, FIRST, SECOND, THIRD, World, keys, link, op, stale, store_of};

#[test]
fn a_primary_serves_when_the_copies_in_sync_share_its_log() {
    let mut world = World::primary();
    let (mine, _) = keys(&world);
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    world.settle();
    assert_eq!(world.core.state(), CopyState::Settling);
    assert!(matches!(world.said(DATA)[..], [Message::Follow(_)]), "the replica is asked to follow");
    world.replica_follows();
    world.settle();
    assert_eq!(world.core.copy().serves(Lsn::ZERO), Ok(()));
    assert_eq!(world.core.state(), CopyState::Settling, "it has no lease yet");
    assert_eq!(world.answer_of(get), None, "it may not read yet");
    world.replica_confirms(1);
    world.settle();
    assert_eq!(world.answer_of(get), Some("NotFound"));
}

#[test]
fn a_primary_whose_replica_is_silent_serves_without_it_after_the_grace() {
    let mut world = World::primary();
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.pass(599);
    world.settle();
    assert_eq!(world.core.copy().configuration().unwrap().in_sync.len(), 2);
    assert_eq!(world.answer_of(set), None);
    world.pass(1);
    world.settle();
    assert_eq!(world.core.copy().configuration().unwrap().in_sync.len(), 1);
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"));
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    assert_eq!(world.answer_of(get), Some("v at 1"), "nobody else could lead");
}

#[test]
fn a_primary_that_has_lost_its_log_lets_the_copy_lead_that_has_it() {
    let mut world = World::primary();
    let (mine, _) = keys(&world);
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    world.settle();
    let said = Following {
        epoch: Epoch(1),
        store: store_of(SECOND),
        had: Lsn(5),
        had_committed: Lsn(5),
        end: Lsn::ZERO,
        durable: Lsn::ZERO,
        is_whole: true,
        is_ahead: true,
    };
    world.say(SECOND, DATA, &Message::Following(said));
    assert!(matches!(world.said(CONTROL).last(), Some(Message::Lead { keeps_old: false, .. })));
    world.settle();
    assert!(!world.core.copy().leads());
    assert_eq!(world.answer_of(get), None);
    world.replica_takes_over();
    assert_eq!(world.forwards().len(), 1);
}

#[test]
fn a_write_is_answered_when_it_is_durable_at_every_copy_in_sync() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    let Some(Message::Append(append)) = world.said(DATA).last().copied() else { panic!("its record is sent") };
    assert_eq!((append.after, append.committed), (Lsn::ZERO, Lsn::ZERO));
    assert_eq!(world.answer_of(set), None, "it is durable here only");
    world.replica_has(1);
    world.settle();
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"));
}

#[test]
fn an_acknowledgement_does_not_stand_for_the_own_disk() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    world.machine.hang();
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    world.replica_has(1);
    world.settle();
    assert_eq!(world.answer_of(set), None);
    world.machine.resume();
    world.settle();
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"));
}

#[test]
fn a_read_without_a_lease_asks_the_other_copies_and_waits() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let gets: Vec<Ticket> = (0..3).map(|n| world.ask(n, &op(Verb::Get, &mine[0], ""))).collect();
    world.settle();
    assert_eq!(world.rounds_asked(), [1], "once for all reads of the turn");
    let later = world.ask(9, &op(Verb::Get, &mine[0], ""));
    world.settle();
    assert_eq!(world.rounds_asked(), [1]);
    world.replica_confirms(1);
    world.settle();
    for get in gets {
        assert_eq!(world.answer_of(get), Some("NotFound"));
    }
    assert_eq!(world.answer_of(later), None, "what was confirmed may have been so before it came");
    assert_eq!(world.rounds_asked(), [1, 2]);
    world.replica_confirms(2);
    world.settle();
    assert_eq!(world.answer_of(later), Some("NotFound"));
    assert_eq!(world.core.counters().confirmed_reads, 4);
}

#[test]
fn a_lease_spares_the_question_until_it_lapses() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    world.pass(100);
    world.replica_grants();
    world.pass(300);
    // It is heard, but grants nothing.
    world.replica_has(0);
    world.pass(239);
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    assert_eq!(world.answer_of(get), Some("NotFound"));
    // From the sending of the beacon, not from the arrival of the grant.
    world.pass(1);
    assert!(!world.core.may_read_now());
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    world.settle();
    assert_eq!(world.answer_of(get), None);
    assert_eq!(world.rounds_asked(), [1]);
    world.pass(25);
    world.replica_grants();
    assert!(world.core.may_read_now(), "the next beacon's");
}

#[test]
fn with_reads_confirm_every_read_asks() {
    let mut world = World::primary_with("[replication]\nreads = 'confirm'");
    world.replica_follows();
    world.settle();
    let (mine, _) = keys(&world);
    world.pass(1);
    world.replica_grants();
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    world.settle();
    assert_eq!(world.answer_of(get), None);
    world.replica_confirms(1);
    world.settle();
    assert_eq!(world.answer_of(get), Some("NotFound"));
}

#[test]
fn a_refusal_is_a_read_and_needs_what_a_read_needs() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let missing = world.ask(1, &op(Verb::Update, &mine[0], "v"));
    let refused = world.ask(2, &Op { condition: Condition::Exists, ..op(Verb::Set, &mine[0], "v") });
    let set = world.ask(3, &op(Verb::Set, &mine[1], "v"));
    world.settle();
    world.replica_has(1);
    world.settle();
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"), "a write needs no lease");
    assert_eq!((world.answer_of(missing), world.answer_of(refused)), (None, None));
    world.replica_confirms(1);
    world.settle();
    assert_eq!(world.answer_of(missing), Some("NotFound"));
    assert_eq!(world.answer_of(refused), Some("PreconditionFailed(None)"));
}

#[test]
fn a_confirmation_that_is_lost_is_asked_for_again() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    world.settle();
    world.pass(100);
    assert_eq!(world.rounds_asked(), [1, 1]);
    world.replica_confirms(1);
    world.settle();
    assert_eq!(world.answer_of(get), Some("NotFound"));
}

#[test]
fn a_deposed_primary_settles_all_that_waits() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let first = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    let behind = world.ask(1, &op(Verb::Get, &mine[0], ""));
    let refused = world.ask(2, &Op { condition: Condition::Absent, ..op(Verb::Set, &mine[0], "w") });
    let read = world.ask(3, &op(Verb::Get, &mine[1], ""));
    let forward = |id, op| Forward { id, stream: 1, ms_left: 5_000, op };
    let get = op(Verb::Get, &mine[2], "");
    world.say(THIRD, link(3), &Message::Forward(forward(1, op(Verb::Set, &mine[2], "v"))));
    world.say(THIRD, link(3), &Message::Forward(forward(2, get)));
    world.settle();
    assert!(world.heard.answers.is_empty(), "{:?}", world.heard.answers);
    world.heard.sent.clear();
    world.replica_takes_over();
    assert_eq!(world.answer_of(first), Some("Failed(Unknown)"), "it has an lsn");
    assert_eq!(world.answer_of(refused), Some("Failed(NoPrimary)"), "surely not applied");
    assert_eq!(world.answer_of(Ticket::Link(link(3), 1)), Some("Failed(Unknown)"));
    assert_eq!(world.said(link(3)), [Message::NotPrimary { id: 2, op: get }], "its node asks the new primary");
    // Its own clients' reads go to the new primary.
    let asked: Vec<&[u8]> = world.forwards().iter().map(|frame| frame.op.key).collect();
    assert_eq!(asked, [mine[0].as_bytes(), mine[1].as_bytes()]);
    assert!(world.forwards().iter().all(|frame| frame.op.verb == Verb::Get));
    assert_eq!((world.answer_of(behind), world.answer_of(read)), (None, None));
    // Whatever the copies say of its epoch from now on changes nothing.
    world.replica_has(1);
    world.replica_confirms(1);
    world.settle();
    assert_eq!(world.heard.answers.len(), 3);
    assert_eq!(world.core.held_bytes(), 0);
}

#[test]
fn a_deposed_primary_forwards_and_answers_stale_reads_itself() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    world.replica_has(1);
    world.settle();
    world.replica_takes_over();
    world.settle();
    world.heard.sent.clear();
    let read = world.ask(1, &stale(&mine[0]));
    assert_eq!(world.answer_of(read), Some("v at 1"));
    world.ask(1, &op(Verb::Get, &mine[0], ""));
    assert_eq!(world.forwards().len(), 1);
    assert!(!world.core.status().ready, "not before it follows");
}

#[test]
fn a_handover_waits_for_what_was_written_and_loses_no_request() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    world.core.hand_over(SECOND).unwrap();
    world.settle();
    let held = world.ask(2, &op(Verb::Set, &mine[1], "w"));
    let is_told =
        |world: &World| world.said(CONTROL).iter().any(|m| matches!(m, Message::Lead { keeps_old: true, .. }));
    assert!(!is_told(&world), "the replica lacks a record");
    world.replica_has(1);
    world.settle();
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"));
    assert!(is_told(&world));
    world.heard.sent.clear();
    world.replica_takes_over();
    assert_eq!(world.forwards()[0].op.value, b"w");
    assert_eq!(world.answer_of(held), None);
}

#[test]
fn a_handover_lets_the_answers_leave_that_wait_for_a_confirmation() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let missing = world.ask(1, &op(Verb::Update, &mine[0], "v"));
    world.settle();
    world.core.hand_over(SECOND).unwrap();
    world.settle();
    assert!(world.core.copy().leads());
    world.replica_confirms(1);
    world.settle();
    assert_eq!(world.answer_of(missing), Some("NotFound"));
    assert!(!world.core.copy().leads());
}

#[test]
fn a_handover_that_nobody_takes_up_ends_with_the_primary_in_a_new_epoch() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    world.core.hand_over(SECOND).unwrap();
    world.settle();
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.pass(599);
    world.settle();
    assert_eq!(world.core.status().epoch.0, 1);
    world.pass(1);
    world.settle();
    assert_eq!(world.core.status().epoch.0, 2);
    world.replica_follows();
    world.settle();
    world.replica_has(1);
    world.settle();
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"));
}

#[test]
fn only_a_copy_that_is_in_sync_can_be_handed_the_lead() {
    let mut world = World::primary();
    assert!(world.core.hand_over(SECOND).unwrap_err().contains("taken over"));
    world.pass(600);
    world.settle();
    assert!(world.core.hand_over(SECOND).unwrap_err().contains("not in sync"));
    assert!(world.core.hand_over(FIRST).is_err());
    assert!(world.core.hand_over(THIRD).is_err());
    assert!(World::replica().core.hand_over(FIRST).unwrap_err().contains("does not lead"));
}

#[test]
fn a_primary_whose_disk_hangs_lets_the_replica_lead() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    world.pass(1);
    world.replica_grants();
    world.machine.hang();
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    for _ in 0..49 {
        world.pass(100);
        world.replica_grants();
        world.settle();
    }
    world.replica_has(1);
    assert_eq!(world.answer_of(set), None);
    world.pass(100);
    assert_eq!(world.answer_of(set), Some("Failed(Unknown)"));
    assert!(world.said(CONTROL).iter().any(|m| matches!(m, Message::Lead { keeps_old: false, .. })));
    assert!(!world.core.copy().leads());
}

#[test]
fn a_word_by_another_nodes_link_moves_nothing() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    let Some(Message::Append(append)) = world.said(DATA).last().copied() else { panic!("its record is sent") };
    let epoch = append.epoch;
    let ack = Ack { epoch, durable: Lsn(1), room_bytes: 1 << 20, is_whole: true };
    world.say(SECOND, link(60), &Message::Ack(ack));
    world.say(THIRD, link(61), &Message::Ack(ack));
    world.settle();
    assert_eq!(world.answer_of(set), None, "an acknowledgement counts on the link that carried the records");
    assert_eq!(world.heard.finished, [link(61)], "a node without a copy of the shard has no say in it");
    world.core.on_dialled_down(SECOND, Class::Data, DATA, (0, &[]), &mut world.heard);
    world.replica_has(1);
    world.settle();
    assert_eq!(world.answer_of(set), None);
}
