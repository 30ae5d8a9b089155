//! What becomes of requests whose primary is another node, and of those that other nodes forward to this one.

use dkv::id::{Epoch, Lsn, Ticket};
use dkv::op::{Outcome, Verb};
use dkv::server::lane::Stream;
use dkv::wire::{Class, Forward, Message, Status};

use super::world::{SECOND, THIRD, World, client, keys, link, op, stale};

fn answer<'a>(id: u64, outcome: Outcome<'a>) -> Message<'a> {
    Message::Answer { id, outcome }
}

#[test]
fn a_request_without_a_primary_waits_and_then_fails_for_sure() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    assert!(world.heard.wanted.contains(&(SECOND, Class::Data)));
    world.pass(1_999);
    assert_eq!(world.answer_of(set), None);
    world.pass(1);
    assert_eq!(world.answer_of(set), Some("Failed(NoPrimary)"));
    assert!(world.core.is_idle());
    assert_eq!(world.core.held_bytes(), 0);
}

#[test]
fn a_link_that_comes_up_in_time_takes_what_waited_in_order() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    let get = world.ask(1, &op(Verb::Get, &theirs[0], ""));
    world.link_up(SECOND, link(1));
    let frames = world.forwards();
    let (ids, verbs): (Vec<u64>, Vec<Verb>) = frames.iter().map(|f| (f.id, f.op.verb)).unzip();
    assert_eq!(verbs, [Verb::Set, Verb::Get]);
    assert_eq!(frames[0].stream, frames[1].stream, "the owner keeps the order of a stream");
    assert!(frames[0].ms_left > 9_000);
    // The answers come in any order.
    let found = Outcome::Found { lsn: Lsn(5), value: b"v", behind_ms: None };
    world.say(SECOND, link(1), &answer(ids[1], found));
    world.say(SECOND, link(1), &answer(ids[0], Outcome::Created(Lsn(5))));
    world.say(SECOND, link(1), &answer(ids[0], Outcome::Created(Lsn(5))));
    assert_eq!(world.answer_of(set), Some("Created(Lsn(5))"));
    assert_eq!(world.answer_of(get), Some("v at 5"));
    assert!(world.core.is_idle());
}

#[test]
fn a_write_that_was_sent_is_never_sent_again_and_one_that_was_not_is() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    let sent = world.ask(1, &op(Verb::Set, &theirs[0], "sent"));
    let read = world.ask(1, &op(Verb::Get, &theirs[0], ""));
    let begun_at = world.stream_of(link(1)).len();
    let begun = world.ask(1, &op(Verb::Set, &theirs[1], "begun"));
    let unsent_at = world.stream_of(link(1)).len();
    let unsent = world.ask(1, &op(Verb::Set, &theirs[2], "unsent"));
    let last = world.ask(1, &op(Verb::Delete, &theirs[3], ""));
    // The kernel took one byte of the third frame.
    let written = begun_at + 1;
    assert!(written < unsent_at);
    world.link_down(SECOND, link(1), written);
    assert_eq!(world.answer_of(sent), Some("Failed(Unknown)"));
    assert_eq!(world.answer_of(begun), Some("Failed(Unknown)"));
    for waits in [read, unsent, last] {
        assert_eq!(world.answer_of(waits), None);
    }
    world.link_up(SECOND, link(2));
    let frames = world.forwards();
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
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    let get = world.ask(1, &op(Verb::Get, &theirs[0], ""));
    let id = world.forwards()[0].id;
    let written = world.stream_of(link(1)).len();
    world.link_down(SECOND, link(1), written);
    world.link_up(SECOND, link(2));
    world.say(SECOND, link(1), &answer(id, Outcome::NotFound));
    assert_eq!(world.answer_of(get), None);
    let id = world.forwards()[0].id;
    world.say(SECOND, link(2), &answer(id, Outcome::NotFound));
    assert_eq!(world.answer_of(get), Some("NotFound"));
}

#[test]
fn a_forward_without_an_answer_is_unknown_for_a_write_and_failed_for_a_read() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
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
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    let under_way = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    let id = world.forwards()[0].id;
    world.say(SECOND, link(1), &Message::Leaving);
    assert!(world.heard.finished.is_empty());
    let next = world.ask(2, &op(Verb::Set, &theirs[0], "w"));
    assert_eq!(world.forwards().len(), 1, "nothing more is sent there");
    world.say(SECOND, link(1), &answer(id, Outcome::Created(Lsn(1))));
    assert_eq!(world.answer_of(under_way), Some("Created(Lsn(1))"));
    assert_eq!(world.heard.finished, [link(1)]);
    world.heard.sent.clear();
    world.link_up(SECOND, link(2));
    assert_eq!(world.forwards()[0].op.value, b"w");
    assert_eq!(world.answer_of(next), None);
}

#[test]
fn a_link_whose_end_stops_is_not_kept_for_an_answer_that_never_comes() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    world.say(SECOND, link(1), &Message::Leaving);
    world.pass(9_999);
    assert!(world.heard.finished.is_empty());
    world.pass(1);
    assert_eq!(world.answer_of(set), Some("Failed(Unknown)"));
    assert_eq!(world.heard.finished, [link(1)]);
}

#[test]
fn a_full_link_refuses_and_nothing_is_kept() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    world.heard.link_is_full = true;
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    assert_eq!(world.answer_of(set), Some("Failed(Overloaded)"));
    assert!(world.core.is_idle());
}

#[test]
fn what_meets_a_closed_link_waits_for_the_next() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    world.heard.link_is_closed = true;
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    world.settle();
    assert_eq!(world.answer_of(set), None);
    world.heard.link_is_closed = false;
    world.link_up(SECOND, link(2));
    assert_eq!(world.forwards()[0].op.value, b"v");
}

#[test]
fn what_is_not_ours_goes_back_and_is_tried_again() {
    let mut world = World::alone();
    let (mine, theirs) = keys(&world);
    let forward = Forward { id: 9, stream: 1, ms_left: 1_000, op: op(Verb::Set, &theirs[0], "v") };
    world.say(SECOND, link(3), &Message::Forward(forward));
    assert_eq!(world.said(link(3)), [Message::NotPrimary { id: 9, op: forward.op }]);

    let ours = Forward { op: op(Verb::Set, &mine[0], "v"), id: 10, ..forward };
    world.say(SECOND, link(3), &Message::Forward(ours));
    world.settle();
    assert_eq!(world.answer_of(Ticket::Link(link(3), 10)), Some("Created(Lsn(1))"));

    // The other way round: the request that comes back waits for a primary, and is sent again.
    world.link_up(SECOND, link(1));
    let set = world.ask(1, &op(Verb::Set, &theirs[0], "again"));
    let id = world.forwards()[0].id;
    let returned = op(Verb::Set, &theirs[0], "again");
    world.say(SECOND, link(1), &Message::NotPrimary { id, op: returned });
    assert_eq!(world.answer_of(set), None);
    world.heard.sent.clear();
    world.pass(25);
    assert_eq!(world.forwards()[0].op, returned);
}

#[test]
fn what_comes_back_one_by_one_is_sent_again_in_its_order() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    let values = ["1", "2", "3"];
    for value in values {
        world.ask(1, &op(Verb::Set, &theirs[0], value));
    }
    let ids: Vec<u64> = world.forwards().iter().map(|frame| frame.id).collect();
    world.heard.sent.clear();
    for (id, value) in ids.into_iter().zip(values) {
        let op = op(Verb::Set, &theirs[0], value);
        world.say(SECOND, link(1), &Message::NotPrimary { id, op });
    }
    world.ask(1, &op(Verb::Set, &theirs[0], "4"));
    world.pass(25);
    let again: Vec<&[u8]> = world.forwards().iter().map(|frame| frame.op.value).collect();
    assert_eq!(again, [b"1", b"2", b"3", b"4"], "the last write of a stream must be the one that stays");
}

#[test]
fn a_new_primary_takes_over_only_when_nothing_is_under_way_at_the_old_one() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    let first = world.ask(1, &op(Verb::Set, &theirs[0], "1"));
    let id = world.forwards()[0].id;
    world.heard.sent.clear();
    let leads = Status { is_primary: true, epoch: Epoch(9), ..Status::default() };
    world.say(THIRD, link(9), &Message::Pong(leads));
    world.link_up(THIRD, link(2));
    let second = world.ask(1, &op(Verb::Set, &theirs[0], "2"));
    assert!(world.forwards().is_empty(), "the stream's first write is not answered yet");
    let other = world.ask(2, &op(Verb::Get, &theirs[0], ""));
    assert_eq!(world.forwards().len(), 1, "another stream goes there at once");
    world.say(SECOND, link(1), &answer(id, Outcome::Created(Lsn(1))));
    assert_eq!(world.forwards().len(), 2);
    assert_eq!(world.answer_of(first), Some("Created(Lsn(1))"));
    assert_eq!((world.answer_of(second), world.answer_of(other)), (None, None));
}

#[test]
fn a_client_that_is_gone_takes_its_unbegun_requests_along() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.ask(1, &op(Verb::Set, &theirs[0], "v"));
    let kept = world.ask(2, &op(Verb::Set, &theirs[0], "v"));
    let gone = Stream::Client(client(1));
    world.core.on_source_gone(|stream| stream == gone);
    world.link_up(SECOND, link(1));
    assert_eq!(world.forwards().len(), 1);
    assert_eq!(world.answer_of(kept), None);
}

#[test]
fn a_primary_that_was_replaced_has_the_last_word_for_a_while_only() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(SECOND, link(1));
    let [answered, set] = [0, 1].map(|n| world.ask(1, &op(Verb::Set, &theirs[n], "1")));
    let get = world.ask(2, &op(Verb::Get, &theirs[0], ""));
    let id = world.forwards()[0].id;
    world.heard.sent.clear();
    world.say(THIRD, link(9), &Message::Pong(Status { is_primary: true, epoch: Epoch(9), ..Status::default() }));
    world.link_up(THIRD, link(2));
    world.pass(249);
    world.say(SECOND, link(1), &answer(id, Outcome::Created(Lsn(1))));
    assert_eq!(world.answer_of(answered), Some("Created(Lsn(1))"));
    assert_eq!((world.answer_of(set), world.answer_of(get)), (None, None));
    world.pass(1);
    assert_eq!(world.answer_of(set), Some("Failed(Unknown)"), "it may have been applied");
    let again: Vec<Verb> = world.forwards().iter().map(|frame| frame.op.verb).collect();
    assert_eq!(again, [Verb::Get], "a read is asked again, of the new primary");
    assert_eq!(world.said(link(2)).len(), 1);
}

#[test]
fn a_stale_read_goes_to_any_copy_and_another_to_the_primary_only() {
    let mut world = World::alone();
    let (_, theirs) = keys(&world);
    world.link_up(THIRD, link(2));
    world.ask(1, &stale(&theirs[0]));
    world.ask(2, &op(Verb::Get, &theirs[0], ""));
    let sent: Vec<bool> = world.forwards().iter().map(|frame| frame.op.stale).collect();
    assert_eq!(sent, [true]);
    world.link_up(SECOND, link(1));
    assert_eq!(world.said(link(1)).len(), 1);
}
