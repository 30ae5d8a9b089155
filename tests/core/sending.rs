//! A primary and the log's way to its replica: what waits for room there, and which tombstones must stay meanwhile.

use dkv::id::{Epoch, Lsn, Ticket};
use dkv::op::Verb;
use dkv::wire::{Ack, Class, Following, Message};

use super::world::{DATA, SECOND, World, keys, link, op, store_of};

/// What was sent by a link: behind which record, and how many bytes.
fn appended(world: &World) -> Vec<(u64, usize)> {
    let said = world.said(DATA).into_iter();
    said.filter_map(|m| if let Message::Append(a) = m { Some((a.after.0, a.records.len())) } else { None }).collect()
}

fn in_sync(world: &World) -> usize {
    world.core.copy().configuration().unwrap().in_sync.len()
}

/// A primary whose replica has room for little, and a write of more that waits for that.
fn short_of_room() -> (World, Ticket) {
    let mut world = World::leading();
    world.replica_has_room(0, 1_000);
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], &"x".repeat(5_000)));
    world.settle();
    assert_eq!(appended(&world), [], "it has no room");
    (world, set)
}

#[test]
fn a_record_that_is_longer_than_the_room_of_a_replica_waits_for_room() {
    let (mut world, set) = short_of_room();
    world.replica_has_room(0, 5_039);
    world.settle();
    assert_eq!(appended(&world), [], "almost");
    world.replica_has_room(0, 6_000);
    world.settle();
    assert_eq!(appended(&world), [(0, 5_048)]);
    world.replica_has_room(1, 6_000);
    world.settle();
    assert_eq!(world.answer_of(set), Some("Created(Lsn(1))"));
    // The next ones go as they are written.
    let (mine, _) = keys(&world);
    world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.turn();
    assert_eq!(appended(&world).len(), 2);
}

#[test]
fn a_replica_that_has_no_room_for_a_record_for_the_grace_is_removed() {
    let (mut world, set) = short_of_room();
    for _ in 0..5 {
        world.pass(100);
        world.replica_grants();
        world.settle();
    }
    world.pass(99);
    world.settle();
    assert_eq!((in_sync(&world), world.answer_of(set)), (2, None));
    world.pass(1);
    world.settle();
    assert_eq!((in_sync(&world), world.answer_of(set)), (1, Some("Created(Lsn(1))")));
    assert_eq!(world.core.counters().changes.get("its disk is full"), Some(&1));
}

/// All tombstones up to here may be gone.
fn floor(world: &World) -> u64 {
    world.core.store().small_state().tombstone_floor.0
}

/// The primary leads alone; its replica is connected, was asked to follow, and says nothing.
fn alone_with_one_asked() -> World {
    let mut world = World::primary();
    world.pass(600);
    world.settle();
    assert_eq!(in_sync(&world), 1);
    world
}

/// Sets keys that were never there, deletes them, and sets others anew, so that files with tombstones are sealed; then
/// compaction goes on until it finds nothing to do. Several times.
fn churn(world: &mut World) {
    let value = "x".repeat(4_000);
    for _ in 0..3 {
        let begins = world.core.store().end().0;
        let is_mine = |key: &String| world.core.router().shard_of(key.as_bytes()).0 == 0;
        let new: Vec<String> = (0..).map(|n| format!("{begins} {n}")).filter(is_mine).take(100).collect();
        let old: Vec<String> = (0..).map(|n| format!("old {n}")).filter(is_mine).take(70).collect();
        for (verb, keys, value) in [(Verb::Set, &new, &*value), (Verb::Delete, &new, ""), (Verb::Set, &old, &value)] {
            for (n, key) in (0..).zip(keys) {
                world.ask(n, &op(verb, key, value));
                if n % 10 == 9 {
                    world.settle();
                }
            }
        }
        assert_eq!(world.core.store().end(), world.core.store().committed());
        for _ in 0..200 {
            world.turn();
            world.core.store_mut().background(1 << 20).unwrap();
        }
    }
}

#[test]
fn while_a_replica_makes_up_its_mind_no_tombstone_goes_and_when_it_is_gone_they_do() {
    let mut world = alone_with_one_asked();
    churn(&mut world);
    assert!(world.core.store().stats().compactions > 0);
    assert_eq!(floor(&world), 0, "it may have any of the records that they superseded");
    world.core.on_dialled_down(SECOND, Class::Data, DATA, (0, &[]), &mut world.heard);
    churn(&mut world);
    assert!(floor(&world) > 200, "{}", floor(&world));
}

#[test]
fn tombstones_stay_that_a_replica_has_not_acknowledged_and_go_as_it_does() {
    let mut world = alone_with_one_asked();
    let epoch = world.core.copy().epoch();
    let (nothing, store) = (Lsn::ZERO, store_of(SECOND));
    // One that is being filled, which nothing waits for.
    let said = Following {
        epoch,
        store,
        had: nothing,
        had_committed: nothing,
        end: nothing,
        durable: nothing,
        is_whole: false,
        is_ahead: false,
    };
    world.say(SECOND, DATA, &Message::Following(said));
    let ack = |lsn| Message::Ack(Ack { epoch, durable: Lsn(lsn), room_bytes: 1 << 30, is_whole: false });
    world.say(SECOND, DATA, &ack(0));
    churn(&mut world);
    assert_eq!(floor(&world), 0);
    let some = 300;
    world.say(SECOND, DATA, &ack(some));
    churn(&mut world);
    assert!((1..=some).contains(&floor(&world)), "{}", floor(&world));
    let all = world.core.store().end().0;
    world.say(SECOND, DATA, &ack(all));
    churn(&mut world);
    let before = floor(&world);
    assert!((some + 1..=all).contains(&before), "{before}");
    // By its next link it is asked anew, and may say that it has lost everything.
    world.core.on_dialled_down(SECOND, Class::Data, DATA, (0, &[]), &mut world.heard);
    world.link_up(SECOND, link(52));
    churn(&mut world);
    assert_eq!((floor(&world), world.core.copy().epoch()), (before, Epoch(1)));
}
