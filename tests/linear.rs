//! The judge of histories, judged: histories that are known to be good or bad.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::Lsn;
use dkv::op::{Condition, Verb};
use support::dice::Dice;
use support::linear::{Got, Operation, judge};

fn call(verb: Verb, value: u64, (invoked, returned): (u64, u64), got: Got) -> Operation {
    Operation { verb, condition: Condition::None, value, invoked, returned, got }
}

fn set(value: u64, times: (u64, u64), got: Got) -> Operation {
    call(Verb::Set, value, times, got)
}

fn get(times: (u64, u64), got: Got) -> Operation {
    call(Verb::Get, 0, times, got)
}

fn delete(times: (u64, u64), got: Got) -> Operation {
    call(Verb::Delete, 0, times, got)
}

fn on(condition: Condition, op: Operation) -> Operation {
    Operation { condition, ..op }
}

fn found(lsn: u64, value: u64) -> Got {
    Got::Found { lsn, value }
}

#[track_caller]
fn good(history: &[Operation]) {
    if let Err(violation) = judge(history) {
        panic!("{violation}");
    }
}

#[track_caller]
fn bad(history: &[Operation]) {
    assert!(judge(history).is_err(), "a bad history was found good: {history:#?}");
}

#[test]
fn calls_one_after_the_other() {
    good(&[
        get((0, 1), Got::NotFound),
        set(10, (2, 3), Got::Created(1)),
        get((4, 5), found(1, 10)),
        set(11, (6, 7), Got::Replaced(2)),
        call(Verb::Update, 12, (8, 9), Got::Replaced(3)),
        delete((10, 11), Got::Deleted),
        delete((12, 13), Got::NotFound),
        call(Verb::Update, 13, (14, 15), Got::NotFound),
        set(14, (16, 17), Got::Created(5)),
    ]);
}

#[test]
fn a_lost_write_is_found() {
    bad(&[set(10, (0, 1), Got::Created(1)), get((2, 3), Got::NotFound)]);
    bad(&[set(10, (0, 1), Got::Created(1)), set(11, (2, 3), Got::Replaced(2)), get((4, 5), found(1, 10))]);
}

#[test]
fn a_stale_read_is_found() {
    let writes = [set(10, (0, 1), Got::Created(1)), set(11, (2, 6), Got::Replaced(2))];
    // Concurrent with the write: both may be read, but not the old one after the new one.
    good(&[writes[0], writes[1], get((3, 4), found(1, 10))]);
    good(&[writes[0], writes[1], get((3, 4), found(2, 11))]);
    bad(&[writes[0], writes[1], get((3, 4), found(2, 11)), get((5, 7), found(1, 10))]);
    bad(&[writes[0], writes[1], get((7, 8), found(1, 10))]);
}

#[test]
fn a_resurrected_delete_is_found() {
    bad(&[set(10, (0, 1), Got::Created(1)), delete((2, 3), Got::Deleted), get((4, 5), found(1, 10))]);
    bad(&[
        set(10, (0, 1), Got::Created(1)),
        delete((2, 3), Got::Deleted),
        get((4, 5), Got::NotFound),
        set(11, (6, 7), Got::Replaced(3)),
    ]);
}

#[test]
fn a_write_with_an_unknown_outcome_happens_once_late_or_never() {
    let unknown = set(11, (2, 3), Got::Unknown);
    let first = set(10, (0, 1), Got::Created(1));
    good(&[first, unknown, get((4, 5), found(1, 10))]);
    good(&[first, unknown, get((4, 5), found(2, 11))]);
    good(&[first, unknown, get((4, 5), found(1, 10)), get((6, 7), found(2, 11))]);
    bad(&[first, unknown, get((4, 5), found(2, 11)), get((6, 7), found(1, 10))]);
    // Applied twice: it came back over a later write.
    bad(&[first, unknown, get((4, 5), found(2, 11)), set(12, (6, 7), Got::Replaced(3)), get((8, 9), found(2, 11))]);
    bad(&[unknown, get((0, 1), found(2, 11))]);
}

#[test]
fn an_unknown_delete_explains_an_absence_and_one_only() {
    let first = set(10, (0, 1), Got::Created(1));
    let unknown = delete((2, 3), Got::Unknown);
    good(&[first, unknown, get((4, 5), Got::NotFound)]);
    good(&[first, unknown, set(11, (4, 5), Got::Created(3))]);
    bad(&[first, unknown, set(11, (4, 5), Got::Created(3)), get((6, 7), Got::NotFound)]);
}

#[test]
fn what_failed_for_sure_is_never_seen() {
    bad(&[set(10, (0, 1), Got::Failed), get((2, 3), found(1, 10))]);
    good(&[set(10, (0, 1), Got::Failed), get((2, 3), Got::NotFound)]);
}

#[test]
fn a_compare_and_swap_that_was_applied_twice_is_found() {
    let first = set(10, (0, 1), Got::Created(1));
    let swap = |value, times, got| on(Condition::Is(Lsn(1)), set(value, times, got));
    good(&[first, swap(11, (2, 5), Got::Replaced(2)), swap(12, (3, 4), Got::PreconditionFailed(Some(2)))]);
    bad(&[first, swap(11, (2, 5), Got::Replaced(2)), swap(12, (3, 4), Got::Replaced(3))]);
    // Refused by itself: it had been applied before, and was sent again.
    bad(&[first, swap(11, (2, 5), Got::PreconditionFailed(Some(2))), get((6, 7), found(2, 11))]);
    good(&[first, swap(11, (2, 5), Got::Unknown), get((6, 7), found(2, 11))]);
    good(&[first, swap(11, (2, 5), Got::Unknown), swap(12, (3, 6), Got::Replaced(2))]);
    bad(&[first, swap(11, (2, 5), Got::Unknown), swap(12, (3, 6), Got::Replaced(2)), get((7, 8), found(3, 11))]);
}

#[test]
fn conditions_on_reads() {
    let first = set(10, (0, 1), Got::Created(1));
    let unless = |lsn| on(Condition::IsNot(Lsn(lsn)), get((2, 3), Got::NotModified(1)));
    good(&[first, unless(1)]);
    bad(&[first, unless(2)]);
    bad(&[first, set(11, (2, 2), Got::Replaced(2)), on(Condition::IsNot(Lsn(1)), get((3, 4), Got::NotModified(1)))]);
    good(&[first, on(Condition::Absent, set(11, (2, 3), Got::PreconditionFailed(Some(1))))]);
    bad(&[first, on(Condition::Absent, set(11, (2, 3), Got::Created(2)))]);
    bad(&[first, on(Condition::Exists, set(11, (2, 3), Got::PreconditionFailed(None)))]);
    bad(&[on(Condition::Never, set(11, (2, 3), Got::Created(1)))]);
}

#[test]
fn one_lsn_names_one_value_and_lsns_grow() {
    bad(&[set(10, (0, 1), Got::Created(1)), set(11, (2, 3), Got::Replaced(1))]);
    bad(&[set(10, (0, 1), Got::Created(5)), set(11, (2, 3), Got::Replaced(4))]);
    bad(&[set(10, (0, 1), Got::Created(5)), get((2, 3), found(6, 10))]);
}

/// A key that is what it should be, called by several at a time; some never hear their answer.
fn random_history(dice: &mut Dice, calls: usize) -> Vec<Operation> {
    let mut history: Vec<Operation> = Vec::new();
    let (mut lsn, mut present, mut time) = (0, None::<(u64, u64)>, 0);
    for number in 0..calls as u64 {
        time += dice.below(6);
        let invoked = time - dice.below(20).min(time);
        let known = dice.below(lsn + 2);
        let condition = match dice.below(8) {
            0 => Condition::Is(Lsn(known)),
            1 => Condition::IsNot(Lsn(known)),
            2 => Condition::Absent,
            3 => Condition::Exists,
            _ => Condition::None,
        };
        let verb = *dice.pick(&[Verb::Get, Verb::Get, Verb::Set, Verb::Set, Verb::Update, Verb::Delete]).unwrap();
        let value = number + 1_000;
        let at = present.map(|(lsn, _)| lsn);
        let mut got = match (verb, present) {
            (Verb::Get, Some((lsn, _))) if !condition.holds(at.map(Lsn)) => match condition {
                Condition::IsNot(_) | Condition::Absent => Got::NotModified(lsn),
                _ => Got::PreconditionFailed(at),
            },
            _ if !condition.holds(at.map(Lsn)) => Got::PreconditionFailed(at),
            (Verb::Get, Some((lsn, value))) => found(lsn, value),
            (Verb::Get | Verb::Update | Verb::Delete, None) => Got::NotFound,
            (Verb::Set, None) => Got::Created(lsn + 1),
            (Verb::Set | Verb::Update, Some(_)) => Got::Replaced(lsn + 1),
            (Verb::Delete, Some(_)) => Got::Deleted,
        };
        match got {
            Got::Created(_) | Got::Replaced(_) => (lsn, present) = (lsn + 1, Some((lsn + 1, value))),
            Got::Deleted => (lsn, present) = (lsn + 1, None),
            _ => {}
        }
        if dice.once_in(10) {
            got = Got::Unknown;
        }
        history.push(Operation { verb, condition, value, invoked, returned: time + dice.below(20), got });
    }
    history
}

#[test]
fn random_good_histories_are_good() {
    let mut dice = Dice::new(1);
    for _ in 0..200 {
        let judged = judge(&random_history(&mut dice, 150));
        assert!(judged.is_ok(), "{}", judged.unwrap_err());
    }
    let judged = judge(&random_history(&mut dice, 20_000)).unwrap();
    assert!(judged.steps < 2_000_000, "{judged:?}");
}

/// A read that is moved behind what superseded its value.
#[test]
fn random_stale_reads_are_found() {
    let mut dice = Dice::new(2);
    let mut found_bad = 0;
    for _ in 0..200 {
        let mut history = random_history(&mut dice, 100);
        let Some(at) = history.iter().position(|op| matches!(op.got, Got::Found { .. })) else { continue };
        let end = history.iter().map(|op| op.returned).max().unwrap();
        let last = history.iter().rev().find(|op| matches!(op.got, Got::Created(_) | Got::Replaced(_))).unwrap();
        let Got::Found { value, .. } = history[at].got else { continue };
        if last.value == value {
            continue;
        }
        (history[at].invoked, history[at].returned) = (end + 1, end + 2);
        assert!(judge(&history).is_err(), "{history:#?}");
        found_bad += 1;
    }
    assert!(found_bad > 100, "{found_bad}");
}
