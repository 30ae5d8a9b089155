//! A replica whose data cannot be mended fills a fresh generation beside it: when that takes the other's place, what is
//! said meanwhile, and what becomes of those who read.

use dkv::configuration::Configuration;
use dkv::id::{Epoch, LinkId, Lsn};
use dkv::store::Kind;
use dkv::wire::{Append, Beacon, CopyState, Following, Message};

use super::world::{Asks, CONTROL, DATA, FIRST, World, keys, link, member, pair_in, record, stale, store_of};

fn append(world: &mut World, epoch: u64, after: u64, committed: u64, records: &[u8]) {
    let append = Append { epoch: Epoch(epoch), after: Lsn(after), committed: Lsn(committed), records };
    world.say(FIRST, DATA, &Message::Append(append));
}

/// These records of epoch 1, and as many of the next ones.
fn values(world: &World, from: u64, values: &[&str]) -> Vec<u8> {
    let (mine, _) = keys(world);
    let record = |(lsn, value): (u64, &&str)| record(lsn, 1, Kind::Set, &mine[0], value.as_bytes());
    (from..).zip(values).flat_map(record).collect()
}

fn following(world: &World, link: LinkId) -> Vec<Following> {
    let said = world.said(link).into_iter();
    said.filter_map(|m| if let Message::Following(said) = m { Some(said) } else { None }).collect()
}

/// What the last acknowledgement said: what is durable, and whether it is whole.
fn acked(world: &World) -> Option<(u64, bool)> {
    let said = world.said(DATA).into_iter().rev();
    said.filter_map(|m| if let Message::Ack(ack) = m { Some((ack.durable.0, ack.is_whole)) } else { None }).next()
}

/// A primary whose log goes up to here, and which has dropped tombstones of all of it.
fn asks_anew(world: &mut World, epoch: u64, end: u64) {
    let asks = Asks { epoch, end, floor: end, lineage: &[(1, 1)], is_settled: true };
    world.asks(DATA, &without_it(epoch), &asks).unwrap();
}

/// The primary's configuration in this epoch: this copy is not in sync.
fn without_it(epoch: u64) -> Configuration {
    Configuration { version: epoch + 10, in_sync: vec![member(FIRST)], ..pair_in(epoch) }
}

/// A replica that has begun a fresh generation, which is to hold two records of epoch 1.
fn filling() -> World {
    let mut world = World::replica();
    asks_anew(&mut world, 1, 2);
    world.settle();
    let said = following(&world, DATA);
    assert_eq!((said.len(), said[0].is_whole, said[0].end), (1, false, Lsn::ZERO));
    assert_ne!(said[0].store, store_of(dkv::id::NodeId(1)), "it is to be another copy");
    world
}

/// Goes on until that it counts is on its way to the disk, and no further.
fn adopting(world: &mut World) {
    world.slow_disk(1);
    let before = world.core.generation();
    for _ in 0..100 {
        world.step();
        if world.core.generation() != before {
            assert!(world.core.full_sync().is_some(), "it is not durable yet");
            return;
        }
    }
    panic!("the fresh generation is never adopted");
}

#[test]
fn a_fresh_generation_hears_of_commits_by_beacons_where_nothing_is_written_any_more() {
    let mut world = filling();
    let records = values(&world, 1, &["v", "w"]);
    append(&mut world, 1, 0, 0, &records);
    world.settle();
    assert_eq!((acked(&world), world.core.state()), (Some((2, false)), CopyState::Syncing));
    let beacon = Beacon { epoch: Epoch(1), sent_ns: 5, lease_ms: 540, committed: Lsn(2) };
    world.say(FIRST, CONTROL, &Message::Beacon(beacon));
    world.settle();
    assert_eq!((acked(&world), world.core.full_sync()), (Some((2, true)), None));
    let (mine, _) = keys(&world);
    let read = world.ask(1, &stale(&mine[0]));
    assert_eq!(world.answer_of(read), Some("w at 2"));
}

#[test]
fn who_asks_while_a_fresh_generation_takes_its_place_is_to_ask_again() {
    let mut world = filling();
    let records = values(&world, 1, &["v", "w"]);
    append(&mut world, 1, 0, 2, &records);
    adopting(&mut world);
    let asks = Asks { epoch: 2, end: 2, floor: 0, lineage: &[(1, 1), (2, 3)], is_settled: false };
    world.asks(link(60), &without_it(2), &asks).unwrap();
    assert_eq!(world.heard.finished, [link(60)]);
    assert!(world.said(link(60)).is_empty());
    let followed = world.core.copy().following().unwrap();
    assert_eq!((world.core.copy().epoch(), followed.link), (Epoch(1), Some(DATA)), "nothing has changed");
    (0..5).for_each(|_| world.step());
    assert_eq!((acked(&world), world.core.full_sync()), (Some((2, true)), None));
    let store = world.core.store().small_state().store;
    world.asks(link(61), &without_it(2), &asks).unwrap();
    (0..5).for_each(|_| world.step());
    let said = following(&world, link(61));
    assert_eq!((said.len(), said[0].store, said[0].end, said[0].is_whole), (1, store, Lsn(2), true));
    assert_eq!(world.core.counters().full_syncs, 1);
}

/// What is about to go cannot be what a shard is led by from now on, nor can what is another copy.
#[test]
fn nobody_comes_to_lead_by_data_that_is_being_replaced() {
    type Cause = fn(&mut World);
    let causes: [(&str, Cause); 3] = [
        ("told to", |world| world.say(FIRST, CONTROL, &Message::Lead { epoch: Epoch(1), keeps_old: false })),
        ("forced", |world| {
            let refused = world.core.take_over_by_force(&mut world.heard).unwrap_err();
            assert!(refused.contains("try again"), "{refused}");
        }),
        ("after the grace", |_| ()),
    ];
    for (why, cause) in causes {
        let mut world = World::replica();
        // The primary has not let it go yet: it may still take over, with what it has.
        let asks = Asks { epoch: 1, end: 2, floor: 2, lineage: &[(1, 1)], is_settled: true };
        world.asks(DATA, &pair_in(1), &asks).unwrap();
        world.settle();
        let records = values(&world, 1, &["v", "w"]);
        append(&mut world, 1, 0, 2, &records);
        adopting(&mut world);
        world.machine.hang();
        cause(&mut world);
        for _ in 0..8 {
            world.pass(100);
            (0..50).for_each(|_| world.turn());
        }
        world.machine.resume();
        (0..50).for_each(|_| world.step());
        let copy = world.core.copy();
        assert!(copy.configuration() == Some(&pair_in(1)), "{why}: {:?}", copy.configuration());
        assert!(!copy.leads() && !copy.is_candidate() && copy.me != member(dkv::id::NodeId(1)), "{why}");
    }
}

#[test]
fn whenever_a_copy_is_told_to_lead_it_does_so_with_data_that_stays_or_not_at_all() {
    let [mut leaders, mut others] = [0; 2];
    for at in 0..60 {
        let mut world = World::replica();
        let asks = Asks { epoch: 1, end: 2, floor: 2, lineage: &[(1, 1)], is_settled: true };
        world.asks(DATA, &pair_in(1), &asks).unwrap();
        world.settle();
        world.slow_disk(5);
        let records = values(&world, 1, &["v", "w"]);
        append(&mut world, 1, 0, 2, &records);
        (0..at).for_each(|_| world.step());
        world.say(FIRST, CONTROL, &Message::Lead { epoch: Epoch(1), keeps_old: false });
        (0..200).for_each(|_| world.step());
        let (copy, state) = (world.core.copy(), world.core.store().small_state());
        assert_eq!((copy.me.store, copy.is_candidate()), (state.store, false), "told after {at} ms");
        if copy.leads() {
            assert!(copy.configuration().unwrap().holds(copy.me), "told after {at} ms: {:?}", copy.configuration());
            assert_eq!((copy.epoch(), world.core.state()), (state.epoch, CopyState::Serving), "told after {at} ms");
            assert_eq!(world.core.full_sync(), None);
            leaders += 1;
        } else {
            assert_eq!(copy.configuration(), Some(&pair_in(1)), "told after {at} ms");
            others += 1;
        }
    }
    assert!(leaders > 5 && others > 5, "{leaders} led, {others} did not");
}

#[test]
fn a_read_that_waits_for_the_old_data_is_begun_anew_when_that_is_replaced() {
    let mut world = World::replica();
    world.primary_asks(1, 0, &[(1, 1)], false);
    world.settle();
    let (old, new) = (values(&world, 1, &["old"]), values(&world, 1, &["v", "w", "new"]));
    append(&mut world, 1, 0, 1, &old);
    world.settle();
    append(&mut world, 1, 1, 1, &[]);
    asks_anew(&mut world, 2, 3);
    world.settle();
    append(&mut world, 2, 0, 3, &new);
    adopting(&mut world);
    let (mine, _) = keys(&world);
    world.machine.evict();
    world.slow_disk(10);
    let read = world.ask(1, &stale(&mine[0]));
    let behind = world.ask(1, &stale(&mine[0]));
    while world.core.full_sync().is_some() {
        world.step();
    }
    assert_eq!((world.core.counters().cold_reads, world.answer_of(read)), (2, None), "the old one is gone, unread");
    (0..15).for_each(|_| world.step());
    assert_eq!((world.answer_of(read), world.answer_of(behind)), (Some("new at 3"), Some("new at 3")));
    assert_eq!(world.core.held_bytes(), 0);
}

#[test]
fn an_answer_rests_on_the_epoch_that_was_asked_for_last() {
    let mut world = World::replica();
    world.slow_disk(5);
    world.primary_asks(1, 0, &[(1, 1)], false);
    world.primary_asks(2, 0, &[(2, 1)], false);
    let answered = |world: &World| following(world, DATA).iter().map(|said| said.epoch.0).collect::<Vec<_>>();
    // The first epoch is durable, which nobody waits for any more.
    (0..8).for_each(|_| world.step());
    assert!(answered(&world).is_empty());
    assert!(!world.core.copy().following().unwrap().is_matched);
    (0..8).for_each(|_| world.step());
    assert_eq!(answered(&world), [2]);
}

#[test]
fn an_answer_for_a_fresh_generation_rests_on_that_ones_disk() {
    let mut world = World::replica();
    world.slow_disk(5);
    world.primary_asks(1, 0, &[(1, 1)], false);
    // What the old one was to remember is durable by the time that the fresh one is there.
    asks_anew(&mut world, 2, 2);
    world.turn();
    assert_eq!(world.core.state(), CopyState::Syncing);
    assert!(following(&world, DATA).is_empty(), "the fresh one's epoch is not");
    (0..8).for_each(|_| world.step());
    let said = following(&world, DATA);
    assert_eq!((said.len(), said[0].epoch, said[0].is_whole), (1, Epoch(2), false));
}

#[test]
fn a_disk_without_room_for_a_fresh_generation_puts_the_primary_off() {
    let mut world = World::replica();
    world.machine.set_capacity(world.machine.used_bytes());
    asks_anew(&mut world, 1, 2);
    world.settle();
    assert!(world.core.full_sync().is_none() && following(&world, DATA).is_empty());
    for _ in 0..19 {
        world.pass(100);
        world.settle();
    }
    world.pass(99);
    assert!(world.heard.finished.is_empty(), "asked again at once, it could say nothing else");
    world.pass(1);
    assert_eq!(world.heard.finished, [DATA]);
    world.core.on_accepted_down(DATA);
    // The primary asks by a new link, and there is room now.
    world.machine.set_capacity(u64::MAX);
    let asks = Asks { epoch: 1, end: 2, floor: 2, lineage: &[(1, 1)], is_settled: true };
    world.asks(link(60), &without_it(1), &asks).unwrap();
    world.settle();
    assert_eq!(following(&world, link(60)).len(), 1);
    assert!(world.core.full_sync().is_some());
    world.pass(5_000);
    assert_eq!(world.heard.finished, [DATA], "once");
}

#[test]
fn a_primary_that_was_put_off_and_asks_by_the_same_link_in_another_epoch_keeps_it() {
    let mut world = World::replica();
    world.machine.set_capacity(world.machine.used_bytes());
    asks_anew(&mut world, 1, 2);
    world.machine.set_capacity(u64::MAX);
    world.pass(100);
    asks_anew(&mut world, 2, 2);
    world.settle();
    assert_eq!(following(&world, DATA).len(), 1);
    world.pass(5_000);
    assert!(world.heard.finished.is_empty(), "the full sync has begun");
}

#[test]
fn a_disk_that_fails_where_a_fresh_generation_is_begun_ends_the_process() {
    let mut refusals = 0;
    for call in 1.. {
        let mut world = World::replica();
        world.machine.fault_at(call, super::support::faulty_disk::Fault::Error);
        let asks = Asks { epoch: 1, end: 2, floor: 2, lineage: &[(1, 1)], is_settled: true };
        let asked = world.asks(DATA, &without_it(1), &asks);
        if world.machine.is_fault_to_come() {
            asked.unwrap();
            break;
        }
        assert!(asked.is_err(), "call {call} failed, and nobody was told");
        refusals += 1;
    }
    assert!(refusals > 5, "{refusals} calls");
}
