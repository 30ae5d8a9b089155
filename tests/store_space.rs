//! The store's use of the disk: what it reserves and in which order, what a full disk leaves to whom, how a start does
//! with it, and that compaction keeps up. Files of the log are of 64 KiB here, and a step is 4 KiB.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::Lsn;
use dkv::store::record::{MARK_BYTES, encoded_bytes};
use dkv::store::segment::DATA_AT;
use dkv::store::{Kind, OpenError, Options};
use support::driver::{Driver, Halt, Load, Write};

const FIRST: &str = "0000000000000001.log";
const STEP: u64 = 4096;

fn set(n: u64, bytes: usize) -> Write {
    Write { kind: Kind::Set, key: format!("key {n}").into_bytes(), value: vec![n as u8; bytes] }
}

fn opened(load: Load) -> Driver {
    let mut driver = Driver::new(1, load);
    driver.open().unwrap();
    driver
}

/// Writes records of 4,000 bytes in one turn, and settles.
fn settled(driver: &mut Driver, keys: std::ops::Range<u64>) {
    for n in keys {
        assert!(driver.write(set(n, 4000)).unwrap());
    }
    driver.settle().unwrap();
}

fn len(driver: &Driver, name: &str) -> u64 {
    driver.machine.files().into_iter().find(|(other, _)| other == name).map_or(0, |(_, len)| len)
}

/// A turn without the time for background work.
fn busy_turn(driver: &mut Driver) {
    driver.store().write_turn().unwrap();
    for _ in 0..16 {
        driver.poll().unwrap();
    }
}

#[test]
fn space_is_reserved_a_step_at_a_time_and_the_spare_is_a_step_ahead() {
    let mut driver = opened(Load::default());
    let mut end = DATA_AT + 2 * MARK_BYTES as u64;
    for n in 0..13 {
        settled(&mut driver, n..n + 1);
        end += (encoded_bytes(format!("key {n}").as_bytes(), &[0; 4000]) + MARK_BYTES) as u64;
        let [active, spare] = [FIRST, "spare"].map(|name| len(&driver, name));
        assert!((end + STEP..end + 2 * STEP).contains(&active), "{active} for {end}");
        assert_eq!(spare, active + STEP);
        let files = driver.machine.files().into_iter().filter(|(name, _)| !name.starts_with("state"));
        let bytes: u64 = files.map(|(_, len)| len).sum();
        assert_eq!(driver.store().stats().log_bytes, bytes);
    }
    driver.kill();
    driver.machine.lose("spare");
    driver.open().unwrap();
    assert_eq!(len(&driver, "spare"), len(&driver, FIRST) + STEP);
}

/// It has an lsn: where its write fails, the process ends.
#[test]
fn what_is_taken_can_be_written_however_full_the_disk_is() {
    let [mut taken, mut refused] = [0, 0];
    for room in (0..20_000).step_by(500) {
        let mut driver = opened(Load::default());
        settled(&mut driver, 0..8);
        settled(&mut driver, 8..15);
        driver.machine.set_capacity(driver.machine.used_bytes() + room);
        // The last of its file, and longer than what is left of that.
        match driver.write(set(100, 6000)).unwrap() {
            true => taken += 1,
            false => refused += 1,
        }
        driver.settle().unwrap();
    }
    assert!(taken > 10 && refused > 5, "{taken} taken, {refused} refused");
}

/// Killed on a disk that is full to the last byte with records that are all live.
fn killed_on_a_full_disk() -> Driver {
    let mut driver = opened(Load::default());
    driver.machine.set_capacity(driver.machine.used_bytes() + 70_000);
    for n in 0.. {
        if !driver.write(set(n, 2000)).unwrap() {
            break;
        }
        driver.settle().unwrap();
    }
    assert_eq!(driver.refused_full, 1);
    driver.kill();
    driver.machine.set_capacity(driver.machine.used_bytes());
    assert!(len(&driver, "spare") >= len(&driver, FIRST) + STEP);
    driver
}

#[test]
fn on_a_full_disk_a_start_has_the_spares_room() {
    let mut driver = killed_on_a_full_disk();
    for _ in 0..3 {
        driver.open().unwrap();
        driver.check_all().unwrap();
        driver.kill();
    }
}

#[test]
fn on_a_full_disk_a_start_has_the_spares_room_for_a_file_that_was_not_sealed_yet() {
    let mut driver = opened(Load::default());
    settled(&mut driver, 0..8);
    settled(&mut driver, 8..15);
    // Until the next file is ready, too.
    busy_turn(&mut driver);
    driver.machine.hang();
    for n in [15, 100] {
        assert!(driver.write(set(n, 4000)).unwrap());
        driver.store().write_turn().unwrap();
    }
    driver.kill();
    driver.machine.resume();
    driver.machine.set_capacity(driver.machine.used_bytes());
    assert_eq!(driver.open().unwrap().records, 17);
    driver.check_all().unwrap();
}

#[test]
fn without_a_spare_a_start_needs_no_more_than_the_last_part_of_the_log_once_again() {
    let mut driver = killed_on_a_full_disk();
    for name in ["spare", "state.tmp"] {
        driver.machine.lose(name);
    }
    let records: usize = driver.history.iter().map(|write| encoded_bytes(&write.key, &write.value)).sum();
    let needed = (DATA_AT + (2 * MARK_BYTES + records) as u64).next_multiple_of(512);
    let used = driver.machine.used_bytes();
    driver.machine.set_capacity(used + needed - 512);
    let refused = driver.open().map(drop);
    assert!(matches!(refused, Err(Halt::Open(OpenError::Full))), "{refused:?}");
    driver.kill();
    driver.machine.set_capacity(used + needed);
    driver.open().unwrap();
    driver.check_all().unwrap();
}

/// A copy whose log is damaged has still to remember what it promised.
#[test]
fn on_a_full_disk_a_damaged_store_has_the_spares_room_for_its_small_state() {
    for has_spare in [true, false] {
        let mut driver = killed_on_a_full_disk();
        driver.machine.lose("state.tmp");
        if !has_spare {
            driver.machine.lose("spare");
        }
        driver.machine.damage(FIRST, |bytes| bytes[3000] ^= 1);
        driver.machine.set_capacity(driver.machine.used_bytes());
        match driver.open() {
            Err(Halt::Corrupt) if has_spare => {}
            Err(Halt::Open(OpenError::Full)) if !has_spare => {}
            other => panic!("with a spare: {has_spare}, {other:?}"),
        }
    }
}

/// Another file of the log, or a value, would fit in there, and then there was no room for compaction for ever.
#[test]
fn on_a_full_disk_the_spares_room_goes_to_compaction_first() {
    let mut driver = opened(Load::default());
    for first in [0, 5, 10] {
        settled(&mut driver, first..first + 5);
    }
    assert!(driver.write(set(100, 6000)).unwrap());
    driver.settle().unwrap();
    // Six of sixteen records of the first file die: too few, but for a full disk.
    settled(&mut driver, 0..6);
    driver.kill();
    // The new one has just the room that compaction needs.
    driver.machine.lose("spare");
    driver.open().unwrap();
    settled(&mut driver, 200..201);
    assert_eq!(driver.store().stats().compactions, 0);
    // Enough for one record more, but not for the next file, which is due then.
    driver.machine.set_capacity(driver.machine.used_bytes() + 2 * STEP + 200);
    assert!(driver.write(set(201, 4000)).unwrap());
    busy_turn(&mut driver);
    assert!(driver.store().stats().disk_full);
    // From here on nothing is appended.
    let turns = (0..50).take_while(|_| {
        assert!(!driver.write(set(202, 1000)).unwrap());
        busy_turn(&mut driver);
        driver.store().stats().compactions == 0
    });
    assert!(turns.count() < 50);
    busy_turn(&mut driver);
    assert!(driver.write(set(203, 4000)).unwrap());
    driver.settle().unwrap();
    driver.check_all().unwrap();
}

/// The disk fills as fast as there are writes, whether or not the node is ever idle.
#[test]
fn what_is_appended_pays_for_several_times_as_much_compaction() {
    let options = Options { segment_bytes: 4 << 20, compact_dead_percent: 45, ..Options::default() };
    let mut driver = opened(Load { options, ..Load::default() });
    for first in (0..1500).step_by(50) {
        settled(&mut driver, first..first + 50);
    }
    for n in (0..1500).step_by(2) {
        settled(&mut driver, n..n + 1);
    }
    driver.kill();
    driver.load.options.compact_dead_percent = 5;
    driver.open().unwrap();
    let mut appended = 0;
    for turn in 0..8 {
        for n in 0..20 {
            assert!(driver.write(set(2000 + turn * 20 + n, 4000)).unwrap());
            appended += 4000;
        }
        busy_turn(&mut driver);
    }
    // Half of what it goes through is dead; with two fifths, two and a half times as much would do.
    let read = 2 * driver.store().stats().compacted_bytes;
    assert!(2 * read > 5 * appended, "{read} bytes for {appended}");
}

/// A turn that goes through megabytes at once holds up everybody.
#[test]
fn what_compaction_has_saved_up_is_spent_over_several_turns() {
    let options = Options { segment_bytes: 4 << 20, ..Options::default() };
    let mut driver = opened(Load { options, ..Load::default() });
    for n in 0..1000 {
        assert!(driver.write(set(n, 4000)).unwrap());
        busy_turn(&mut driver);
    }
    let [mut longest, mut before] = [0, 0];
    for n in 0..1200 {
        assert!(driver.write(set(n * 37 % 500 * 2, 4000)).unwrap());
        busy_turn(&mut driver);
        let copied = driver.store().stats().compacted_bytes;
        (longest, before) = (longest.max(copied - before), copied);
    }
    // Two chunks of 16 KiB, and the rest of the one in which they end.
    assert!(before > 1 << 20 && longest < 48 << 10, "{before} bytes were copied, {longest} in one turn");
}

/// Values of a megabyte come one a turn: compaction in proportion to them has turns of its own.
#[test]
fn what_a_turn_that_appends_much_owes_is_paid_by_those_behind_it() {
    let (turns, read, appended) = paid_for_much(16 << 20, 50, 100);
    assert!(turns > 4, "{turns}");
    // Half of what it goes through is dead: twice as much as was appended would do.
    assert!(read > 2 * appended, "{read} bytes for {appended}");
}

/// No more is owed than there is credit for, or it would be owed for ever, and clients never be read again.
#[test]
fn what_is_owed_is_paid_though_it_is_more_than_the_credit() {
    let (turns, ..) = paid_for_much(1 << 20, 1200, 3000);
    assert!(turns > 0, "nothing was owed");
}

/// Turns that append much, with much to compact: of each `of` keys the first `dead` are written anew. How many turns paid for it, how many bytes compaction went through, and
/// how many were appended.
fn paid_for_much(segment_bytes: u64, dead: u64, of: u64) -> (usize, u64, u64) {
    let options = Options { segment_bytes, compact_dead_percent: 45, ..Options::default() };
    let mut driver = opened(Load { options, ..Load::default() });
    for first in (0..3000).step_by(50) {
        settled(&mut driver, first..first + 50);
    }
    for first in (0..3000).step_by(50).filter(|first| first % of < dead) {
        settled(&mut driver, first..first + 50);
    }
    driver.kill();
    driver.load.options.compact_dead_percent = 5;
    driver.open().unwrap();
    let (mut appended, mut turns) = (0, 0);
    let copied_in_turn = |driver: &mut Driver| {
        let before = driver.store().stats().compacted_bytes;
        busy_turn(driver);
        driver.store().stats().compacted_bytes - before
    };
    for first in (4000..4800).step_by(100) {
        // As many as there is room for until the next file of the log is ready.
        let count = (first..first + 100).take_while(|n| driver.write(set(*n, 4000)).unwrap()).count() as u64;
        appended += count * 4000;
        let copied = copied_in_turn(&mut driver);
        assert!(copied == 0 || 3 * count * 4096 < 1 << 20, "{copied} bytes in a turn that appended much");
        let before = turns;
        while driver.store().owes_compaction() {
            turns += 1;
            // Three times 400,000 bytes, a megabyte in each.
            assert!(turns <= before + 2, "what is owed is not paid");
            let copied = copied_in_turn(&mut driver);
            assert!(copied <= (1 << 20) + (64 << 10), "{copied} bytes in a turn behind it");
        }
    }
    // Half of what it goes through is dead.
    (turns, 2 * driver.store().stats().compacted_bytes, appended)
}

/// Opened with a setting by which much is left to compact.
fn opened_with_much_to_compact() -> Driver {
    let options = Options { compact_dead_percent: 45, ..Load::default().options };
    let mut driver = opened(Load { options, keys: 200, ..Load::default() });
    driver.run(150).unwrap();
    driver.settle().unwrap();
    driver.kill();
    driver.load.options.compact_dead_percent = 5;
    driver.open().unwrap();
    driver
}

#[test]
fn idle_turns_compact_what_is_left_to_do() {
    let mut driver = opened_with_much_to_compact();
    let before = driver.store().stats();
    let mut more = 0;
    for _ in 0..500 {
        more += u64::from(driver.store().background(10_000).unwrap());
        driver.poll().unwrap();
    }
    let after = driver.store().stats();
    assert!(after.compactions > 0 && after.log_bytes < before.log_bytes && more > 3, "{before:?} {after:?} {more}");
}

/// With one processor for both, compaction in turn after turn kept the sync's thread from it: where a sync takes 0.4 ms, each
/// took 5, for as long as there was something to compact.
#[test]
fn compaction_leaves_the_processor_to_a_sync_that_is_waited_for() {
    let mut driver = opened_with_much_to_compact();
    driver.poll().unwrap();
    for is_begun in [false, true] {
        driver.store().hold_syncs(!is_begun);
        assert!(driver.write(set(0, 100)).unwrap());
        driver.store().write_turn().unwrap();
        let syncs = driver.store().syncs();
        assert_eq!(syncs.started - syncs.completed, u64::from(is_begun));
        let before = driver.store().stats().compacted_bytes;
        assert!((0..10).all(|_| !driver.store().background(1 << 20).unwrap()));
        assert_eq!(driver.store().stats().compacted_bytes, before);
    }
    driver.settle().unwrap();
    assert!(driver.store().stats().compactions > 0);
}

/// A copy that comes back and lacks the deletion would keep the key: the floor says that it must begin anew.
#[test]
fn no_tombstone_goes_before_the_floor_that_says_so_is_durable() {
    let options = Options { compact_dead_percent: 5, ..Load::default().options };
    let mut driver = opened(Load { options, keys: 0, delete_once_in: 2, longest_value: 300, ..Load::default() });
    driver.store().hold_tombstones(Some(Lsn::ZERO));
    driver.run(300).unwrap();
    driver.settle().unwrap();
    let entries = driver.store().stats().index_entries;
    driver.machine.hang();
    driver.store().hold_tombstones(None);
    let compact = |driver: &mut Driver| {
        for _ in 0..100 {
            driver.store().background(1 << 20).unwrap();
            driver.poll().unwrap();
        }
    };
    compact(&mut driver);
    assert!(driver.store().small_state().tombstone_floor > Lsn::ZERO);
    assert_eq!(driver.store().stats().index_entries, entries);
    driver.machine.resume();
    compact(&mut driver);
    assert!(driver.store().stats().index_entries < entries);
}
