//! What a client is told of keys whose primary this node is, and when.

use dkv::id::{Epoch, Lsn, Ticket};
use dkv::op::{Condition, Op, Verb};

use super::world::{FIRST, World, keys, op};

#[test]
fn a_write_is_answered_when_it_is_durable_and_not_before() {
    let mut world = World::alone();
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
    let mut world = World::alone();
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

/// Requests are put off for a moment, to be begun together.
#[test]
fn requests_that_were_put_off_are_begun_in_the_order_in_which_they_came() {
    let mut world = World::alone();
    let (mine, _) = keys(&world);
    world.ask(1, &op(Verb::Set, &mine[0], "old"));
    world.settle();
    let read = world.submit(1, &op(Verb::Get, &mine[0], ""));
    assert!(world.answer_of(read).is_none() && !world.core.is_idle());
    world.submit(1, &op(Verb::Set, &mine[0], "new"));
    let long = world.submit(1, &op(Verb::Set, &mine[1], &"x".repeat(100_000)));
    let other = world.submit(2, &op(Verb::Set, &mine[2], &"x".repeat(100_000)));
    assert_eq!(world.answer_of(read), None, "a long value does not wait, except behind others of its connection");
    world.settle();
    assert_eq!(world.answer_of(other), Some("Created(Lsn(2))"));
    while world.core.begin_some(&mut world.heard) {}
    world.settle();
    assert_eq!(world.answer_of(read), Some("old at 1"));
    assert_eq!(world.answer_of(long), Some("Created(Lsn(4))"));

    let reads: Vec<Ticket> = (0..100).map(|n| world.submit(n % 3, &op(Verb::Get, &mine[0], ""))).collect();
    let unanswered = reads.iter().filter(|read| world.answer_of(**read).is_none()).count();
    assert!((1..50).contains(&unanswered), "only some wait: {unanswered}");
    world.ask(4, &op(Verb::Get, &mine[0], ""));
    world.heard.answers.retain(|(ticket, _)| reads.contains(ticket));
    let delete = world.ask(5, &op(Verb::Delete, &mine[0], ""));
    world.settle();
    let order: Vec<Ticket> = world.heard.answers.iter().map(|(ticket, _)| *ticket).collect();
    assert!(order.ends_with(&[reads.as_slice(), &[delete]].concat()), "{order:?}");
    assert!(reads.iter().all(|read| world.answer_of(*read) == Some("new at 3")));
}

/// What eight clients had sent while the log had no room was staged in one turn when it had: six values of 1 MiB took 6 ms.
#[test]
fn of_what_has_waited_a_turn_begins_no_more_than_it_can_do() {
    const LARGE_BYTES: usize = 100_000;
    let mut world = World::alone_with_room();
    let (mine, _) = keys(&world);
    let large = "x".repeat(LARGE_BYTES);
    let waiting_behind = |world: &mut World, next: &Op<'_>| -> Vec<Ticket> {
        let streams = 0..12;
        let behind = streams.map(|conn| {
            world.ask(conn, &op(Verb::Set, &mine[0], "v"));
            // Behind its own write, which is not committed: what comes next waits with it.
            world.ask(conn, &op(Verb::Get, &mine[0], ""));
            world.ask(conn, next)
        });
        behind.collect()
    };

    let sets = waiting_behind(&mut world, &op(Verb::Set, &mine[1], &large));
    let (mut most, mut turns) = (0, 0);
    while sets.iter().any(|set| world.answer_of(*set).is_none()) {
        world.turn();
        most = most.max(world.core.unwritten_bytes());
        turns += 1;
        assert!(turns < 1_000, "some are never answered");
    }
    assert!((5 * LARGE_BYTES..7 * LARGE_BYTES).contains(&most), "{most} bytes in one turn");

    let gets = waiting_behind(&mut world, &op(Verb::Get, &mine[1], ""));
    let unanswered = |world: &World| gets.iter().filter(|get| world.answer_of(**get).is_none()).count();
    let mut left = gets.len();
    while left > 0 {
        let has_more = world.core.flush(&mut world.heard).unwrap();
        let still = unanswered(&world);
        assert!(left - still <= 6, "{} in one turn", left - still);
        assert!(has_more || still == left || still == 0, "nothing else brings the rest");
        left = still;
        turns += 1;
        assert!(turns < 1_000, "some are never answered");
    }
    assert!(world.core.is_idle());
}

/// A lane that has much to begin does not go before those behind it in every turn.
#[test]
fn of_lanes_that_were_left_each_has_its_turn() {
    let mut world = World::alone_with_room();
    let (mine, _) = keys(&world);
    world.ask(9, &op(Verb::Set, &mine[1], &"x".repeat(300_000)));
    world.settle();
    let streams = [0, 1, 2];
    for conn in streams {
        world.ask(conn, &op(Verb::Set, &mine[0], "v"));
    }
    let gets = streams.map(|conn| [0; 6].map(|_| world.ask(conn, &op(Verb::Get, &mine[1], ""))));
    let mut turns = 0;
    while gets.as_flattened().iter().any(|get| world.answer_of(*get).is_none()) {
        world.turn();
        turns += 1;
        assert!(turns < 1_000, "some are never answered");
        let answered = gets.map(|gets| gets.iter().filter(|get| world.answer_of(**get).is_some()).count());
        let (most, least) = (answered.iter().max().unwrap(), answered.iter().min().unwrap());
        assert!(most - least <= 4, "{answered:?} of each, two a turn");
    }
}

/// What a turn has of long records is enough for it; but nobody waits for ever behind those that come.
#[test]
fn requests_are_left_to_the_next_turn_once_and_come_first_there() {
    let mut world = World::alone();
    let (mine, _) = keys(&world);
    assert!(!world.core.leaves_all(), "there is none");
    let read = world.submit(1, &op(Verb::Get, &mine[0], ""));
    assert!(!world.core.is_behind() && world.core.leaves_all());
    assert!(world.core.is_behind(), "no other is read before it");
    assert!(world.core.flush(&mut world.heard).unwrap(), "it has more to do");
    assert!(!world.core.leaves_all(), "it was left once");
    assert!(world.answer_of(read).is_none() && !world.core.begin_some(&mut world.heard));
    assert!(world.answer_of(read).is_some() && !world.core.is_behind());
}

/// Copying many of them would hold up the turn: the rest is the next one's.
#[test]
fn requests_behind_long_records_are_begun_one_by_one() {
    let mut world = World::alone();
    let (mine, _) = keys(&world);
    let long = "x".repeat(100_000);
    world.ask(1, &op(Verb::Set, &mine[0], &long));
    world.settle();
    world.heard.answers.clear();
    let mut asked: Vec<Ticket> = (0..5).map(|_| world.submit(1, &op(Verb::Get, &mine[0], ""))).collect();
    assert!(world.heard.answers.is_empty() && !world.core.is_behind());
    asked.push(world.submit(1, &op(Verb::Set, &mine[0], &long)));
    asked.push(world.submit(1, &op(Verb::Set, &mine[1], "behind it")));
    for begun in 1..=asked.len() {
        let is_last = begun == asked.len();
        assert_eq!(world.core.begin_some(&mut world.heard), !is_last);
        assert_eq!((world.heard.answers.len(), world.core.is_behind()), (begun.min(5), !is_last));
        assert!(world.core.flush(&mut world.heard).unwrap() || is_last, "it has more to do");
    }
    assert!(!world.core.is_behind());
    world.settle();
    let order: Vec<Ticket> = world.heard.answers.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(order, asked);
}

#[test]
fn what_rests_on_a_record_that_is_not_committed_waits_for_it() {
    let mut world = World::alone();
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
    let mut world = World::alone();
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
    let mut world = World::alone();
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
fn a_write_that_the_log_has_no_buffer_for_waits_for_one() {
    let mut world = World::alone();
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

/// At 64 connections a sync was shared by half of them, and each cost more than the answers did.
#[test]
fn what_comes_behind_a_sync_shares_the_next_one_but_does_not_wait_for_long() {
    let mut world = World::alone();
    let (mine, _) = keys(&world);
    world.settle();
    world.slow_disk(1);
    let before = world.core.store().syncs().started;
    let write = |world: &mut World| {
        world.ask(1, &op(Verb::Set, &mine[0], "v"));
        let more = world.core.flush(&mut world.heard).unwrap();
        (more, world.core.store().syncs().started - before)
    };
    assert_eq!(write(&mut world), (false, 1), "it comes alone");
    assert_eq!(write(&mut world), (false, 1), "the next sync is its");
    world.pass(1);
    assert!(world.core.flush(&mut world.heard).unwrap(), "the sync is done, and who was answered may ask again");
    assert_eq!(write(&mut world), (true, 1), "more may come");
    world.turn();
    assert_eq!(world.core.store().syncs().started, before + 2, "nothing came");
    world.step();
    world.pass(1);
    assert_eq!(write(&mut world), (false, 3), "no sync has ended just now");
    world.pass(1);
    assert_eq!(write(&mut world), (true, 3), "this one has");
    world.pass(1);
    assert_eq!(write(&mut world), (false, 4), "that was long enough, though something came again");
}

#[test]
fn a_disk_that_hangs_refuses_new_writes_and_leaves_the_old_ones_unknown() {
    let mut world = World::alone();
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.machine.hang();
    while world.core.flush(&mut world.heard).unwrap() {}
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
    let mut world = World::alone();
    assert_eq!(world.core.status().epoch, Epoch(1));
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    assert!(world.answer_of(set).is_some());
    let World { machine, core, cluster, .. } = world;
    drop(core);
    machine.kill();
    let mut world = World::start(machine, cluster, FIRST, &[]);
    assert!(!world.core.status().ready, "nothing is served before the new epoch is on the disk");
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    assert_eq!(world.answer_of(get), None, "but the request waits for it");
    world.settle();
    assert_eq!(world.core.status().epoch, Epoch(2));
    assert_eq!(world.answer_of(get), Some("v at 1"));
    assert_eq!(world.core.store().small_state().lineage, [(Epoch(1), Lsn(1)), (Epoch(2), Lsn(2))]);
}
