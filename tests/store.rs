//! The store on a disk that fails, crashes and fills up: whatever happens, what was reported durable is there, and
//! nothing that was deleted comes back.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::Lsn;
use dkv::store::index::KeyHash;
use dkv::store::{Event, Kind, Lookup, Options, record};
use support::dice::Dice;
use support::driver::{Driver, Halt, Load, Write, fresh};
use support::faulty_disk::Fault;

fn open(driver: &mut Driver) {
    match driver.open() {
        Ok(_) => {}
        Err(Halt::Corrupt) => panic!("{:?}", driver.store().health()),
        Err(halt) => panic!("{halt:?}"),
    }
}

fn expect(result: Result<(), Halt>, driver: &mut Driver) {
    match result {
        Ok(()) => {}
        Err(Halt::Corrupt) => panic!("{:?}", driver.store().health()),
        Err(halt) => panic!("{halt:?}"),
    }
}

#[test]
fn it_holds_what_a_map_holds_through_restarts_compactions_and_cold_reads() {
    for seed in 0..6 {
        let mut driver =
            Driver::new(seed, Load { evicts: seed % 2 == 0, commits_late: seed % 3 == 0, ..Load::default() });
        driver.load.jump_once_in = seed % 3 * 8;
        let mut compactions = 0;
        for restart in 0..5 {
            open(&mut driver);
            let checked = driver.check_all();
            expect(checked, &mut driver);
            let ran = driver.run(400);
            expect(ran, &mut driver);
            let settled = driver.settle();
            expect(settled, &mut driver);
            let checked = driver.check_all();
            expect(checked, &mut driver);
            compactions += driver.store().stats().compactions;
            if restart % 2 == 0 {
                driver.store.take().unwrap().close().unwrap();
            }
            driver.kill();
        }
        assert!(compactions > 3, "seed {seed}: {compactions} compactions");
    }
}

#[test]
fn a_closed_store_opens_with_everything_committed_and_nothing_torn() {
    let mut driver = Driver::new(1, Load::default());
    open(&mut driver);
    let ran = driver.run(50);
    expect(ran, &mut driver);
    let settled = driver.settle();
    expect(settled, &mut driver);
    driver.store.take().unwrap().close().unwrap();
    driver.lose_power(5);
    let recovery = driver.open().unwrap();
    assert_eq!(recovery.committed, recovery.end);
    assert_eq!(recovery.end.0, driver.history.len() as u64);
    assert_eq!(recovery.torn_bytes, 0);
}

/// Runs the same load to the n-th call of the disk for every n, loses the power there, and goes on.
#[test]
fn a_crash_at_every_call_loses_nothing_that_was_durable() {
    let load = Load { longest_value: 12_000, most_of_a_turn: 4, ..Load::default() };
    let mut calls = 0;
    let mut crashes = 0;
    for n in 1.. {
        let mut driver = Driver::new(7, load.clone());
        driver.machine.fault_at(n, Fault::Stop);
        let halted = driver.open().and_then(|_| driver.run(60)).is_err();
        if !halted {
            break;
        }
        calls = n;
        for image in 0..2 {
            crashes += 1;
            let mut copy = Driver::new(n, load.clone());
            copy.machine = driver.machine.fork(n * 10 + image);
            (copy.history, copy.acked) = (driver.history.clone(), driver.acked);
            copy.lose_power(n * 10 + image);
            open(&mut copy);
            let checked = copy.check_all();
            expect(checked, &mut copy);
            let ran = copy.run(3);
            expect(ran, &mut copy);
        }
    }
    assert!(calls > 500 && crashes == 2 * calls, "{calls} calls, {crashes} crashes");
}

/// Crashes again and again, in the middle of starts, too.
#[test]
fn repeated_crashes_lose_nothing_that_was_durable() {
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let mut driver =
            Driver::new(seed, Load { evicts: seed % 3 == 0, commits_late: seed % 2 == 0, ..Load::default() });
        driver.load.jump_once_in = seed % 5 * 4;
        for crash in 0..40 {
            driver.machine.fault_at(1 + dice.below(400), Fault::Stop);
            let ran = driver.open().and_then(|_| driver.run(60));
            if let Err(Halt::Corrupt) = ran {
                // A read that fails while the machine stops looks like damage, and that is all right.
                assert!(driver.machine.is_stopped(), "seed {seed}, crash {crash}: {:?}", driver.store().health());
            }
            match dice.once_in(3) {
                true => driver.kill(),
                false => driver.lose_power(dice.next()),
            }
        }
        open(&mut driver);
        let checked = driver.check_all();
        expect(checked, &mut driver);
    }
}

/// Lets the n-th call fail for every n. The store says so, or it makes no difference; a restart without faults has
/// everything.
#[test]
fn an_error_at_every_call_is_said_or_makes_no_difference() {
    let load = Load { longest_value: 12_000, most_of_a_turn: 4, evicts: true, ..Load::default() };
    let [mut said, mut unsaid] = [0, 0];
    for n in 1.. {
        let mut driver = Driver::new(11, load.clone());
        driver.machine.fault_at(n, Fault::Error);
        let result = driver.open().and_then(|_| driver.run(60));
        if driver.machine.is_fault_to_come() {
            break;
        }
        match result {
            Err(Halt::Fatal(fatal)) => {
                assert!(driver.store().poll().is_err(), "a failure holds for ever: {fatal}");
                said += 1;
            }
            Err(_) => said += 1,
            Ok(()) => unsaid += 1,
        }
        // First the process only; its successor reads what is in the page cache, and must not rest on it, whatever it
        // builds upon that: a seal whose sync had failed once came to light a power loss and two segments later.
        driver.kill();
        open(&mut driver);
        let checked = driver.check_all();
        expect(checked, &mut driver);
        if n % 3 == 0 {
            let ran = driver.run(12);
            expect(ran, &mut driver);
        }
        driver.lose_power(n);
        open(&mut driver);
        let checked = driver.check_all();
        expect(checked, &mut driver);
    }
    assert!(said > 500, "{said} errors were said");
    assert!(unsaid < said / 20, "{unsaid} errors made no difference");
}

#[test]
fn keys_overwritten_for_ever_take_twice_their_bytes_and_two_segments() {
    for (keys, longest_value) in [(1, 100), (10, 2000), (300, 300), (1000, 1000), (3000, 40)] {
        let load = Load { keys, longest_value, delete_once_in: 50, most_of_a_turn: 20, polls: 16, ..Load::default() };
        let mut driver = Driver::new(keys, load);
        open(&mut driver);
        for _ in 0..1500 {
            let turned = driver.turn();
            expect(turned, &mut driver);
            driver.check_disk_use();
        }
        driver.kill();
        open(&mut driver);
        driver.check_disk_use();
    }
}

#[test]
fn ever_new_keys_set_and_deleted_take_no_room_in_the_end() {
    // Above nothing, and above much that is old and live: its tombstones have to wait for what is older.
    for base in [0, 2000] {
        let mut driver = Driver::new(base, Load { polls: 16, most_of_a_turn: 20, ..Load::default() });
        open(&mut driver);
        for n in 0..base {
            let write = Write { kind: Kind::Set, key: format!("base {n}").into_bytes(), value: vec![1; 400] };
            while !driver.write(write.clone()).unwrap_or_else(|halt| panic!("{halt:?}")) {
                let settled = driver.settle();
                expect(settled, &mut driver);
            }
        }
        let settled = driver.settle();
        expect(settled, &mut driver);
        (driver.load.keys, driver.load.delete_once_in, driver.load.longest_value) = (0, 2, 600);
        for turn in 0..3000 {
            let turned = driver.turn();
            expect(turned, &mut driver);
            if turn % 4 == 0 {
                driver.check_disk_use();
            }
        }
        let stats = driver.store().stats();
        assert!(driver.store().small_state().tombstone_floor > Lsn::ZERO);
        let index_entries_per_key = stats.index_entries as f64 / driver.store().keys() as f64;
        assert!(index_entries_per_key < 2.0, "{stats:?}, {} keys", driver.store().keys());
        driver.lose_power(1);
        open(&mut driver);
        let checked = driver.check_all();
        expect(checked, &mut driver);
    }
}

fn key(n: u64) -> Vec<u8> {
    format!("key {n}").into_bytes()
}

#[test]
fn a_full_disk_refuses_sets_goes_on_with_the_rest_and_recovers() {
    // 102: a delete met a file that was full but for less than it takes, and a next one that was ready.
    for seed in (0..20).chain([102]) {
        let load = Load { keys: 300, longest_value: 3000, delete_once_in: 1000, polls: 8, ..Load::default() };
        let mut driver = Driver::new(seed, load);
        open(&mut driver);
        let ran = driver.run(100);
        expect(ran, &mut driver);
        driver.machine.set_capacity(driver.machine.used_bytes() + 100_000);
        // New keys until there is no room.
        driver.load.keys = 0;
        while driver.refused_full == 0 {
            let turned = driver.turn();
            expect(turned, &mut driver);
        }
        // The room for deletes is there already: not a byte more is to be had. But what is lent to a compaction, which a
        // start needs, nobody else has taken.
        let is_back = |(name, bytes): (String, u64)| name == "spare" && bytes > 0;
        let mut settled_times = 0;
        while !driver.machine.files().into_iter().any(is_back) {
            settled_times += 1;
            assert!(settled_times < 1000, "seed {seed}: the spare does not come back");
            let settled = driver.settle();
            expect(settled, &mut driver);
        }
        driver.machine.set_capacity(driver.machine.used_bytes());
        for n in driver.history.len() as u64 / 2..driver.history.len() as u64 / 2 + 20 {
            let delete = Write { kind: Kind::Delete, key: key(n), value: Vec::new() };
            let full_before = driver.refused_full;
            let deleted = driver.write(delete);
            assert!(deleted.is_ok() && driver.refused_full == full_before, "seed {seed}, delete {n}: {deleted:?}");
        }
        let settled = driver.settle();
        expect(settled, &mut driver);
        // Reads and deletes go on, through a crash, too.
        driver.lose_power(seed);
        open(&mut driver);
        let checked = driver.check_all();
        expect(checked, &mut driver);
        let full_before = driver.refused_full;
        for n in 0..60 {
            let delete = Write { kind: Kind::Delete, key: key(n), value: Vec::new() };
            let deleted = driver.write(delete);
            assert!(deleted.is_ok() && driver.refused_full == full_before, "seed {seed}, delete {n}: {deleted:?}");
            if n % 4 == 0 {
                let settled = driver.settle();
                expect(settled, &mut driver);
            }
        }
        // What was deleted makes room.
        for n in 60..250 {
            let delete = Write { kind: Kind::Delete, key: key(n), value: Vec::new() };
            driver.write(delete).unwrap_or_else(|halt| panic!("{halt:?}"));
            let settled = driver.settle();
            expect(settled, &mut driver);
        }
        let set = Write { kind: Kind::Set, key: b"after".to_vec(), value: vec![1; 500] };
        assert!(driver.write(set).unwrap_or(false), "seed {seed}: {:?}", driver.store().stats());
        let settled = driver.settle();
        expect(settled, &mut driver);
        // And so does a larger disk.
        driver.machine.set_capacity(u64::MAX);
        driver.refused_full = 0;
        let ran = driver.run(100);
        expect(ran, &mut driver);
        assert_eq!(driver.refused_full, 0);
        let checked = driver.check_all();
        expect(checked, &mut driver);
    }
}

#[test]
fn too_much_that_is_not_committed_is_refused_as_busy() {
    let options = Options { overlay_bytes: 10_000, segment_bytes: 256 << 10, ..Options::default() };
    let mut driver = Driver::new(1, Load { options, ..Load::default() });
    open(&mut driver);
    let set = |n: u64, bytes: usize| Write { kind: Kind::Set, key: key(n), value: vec![1; bytes] };
    // A record of any length can be taken when nothing is pending.
    assert!(driver.write(set(0, 20_000)).unwrap());
    assert!(!driver.write(set(1, 1)).unwrap());
    assert_eq!(driver.refused_busy, 1);
    let settled = driver.settle();
    expect(settled, &mut driver);
    assert!((0..3).all(|n| driver.write(set(n, 3_000)).unwrap()));
    assert!(!driver.write(set(4, 3_000)).unwrap());
}

#[test]
fn one_sync_serves_all_that_was_written_while_the_one_before_was_under_way() {
    let mut driver = Driver::new(1, Load::default());
    open(&mut driver);
    for n in 0..10 {
        assert!(driver.write(Write { kind: Kind::Set, key: key(n), value: vec![1; 10] }).unwrap());
        driver.store().write_turn().unwrap();
        assert_eq!(driver.store().syncs().started, 1);
    }
    while driver.acked < 10 {
        driver.poll().unwrap();
    }
    assert_eq!((driver.store().syncs().started, driver.store().syncs().completed), (2, 2));
    // One mark says so, once.
    driver.store().mark_idle().unwrap();
    assert_eq!(driver.store().syncs().started, 3);
    while driver.store().syncs().completed < 3 {
        driver.poll().unwrap();
    }
    driver.store().mark_idle().unwrap();
    assert_eq!(driver.store().syncs().started, 3);
}

#[test]
fn staged_bytes_are_the_turns_records_and_nothing_else() {
    let mut driver = Driver::new(1, Load::default());
    open(&mut driver);
    for turn in 0..3 {
        for n in 0..2 {
            let value = vec![n as u8; 100];
            assert!(driver.write(Write { kind: Kind::Set, key: key(n), value }).unwrap());
        }
        driver.store().write_turn().unwrap();
        let bytes = driver.store().staged_bytes().to_vec();
        let (first, taken) = record::decode(&bytes).unwrap();
        let (second, rest) = record::decode(&bytes[taken..]).unwrap();
        assert_eq!((first.lsn, second.lsn, taken + rest), (Lsn(2 * turn + 1), Lsn(2 * turn + 2), bytes.len()));
    }
}

/// A delete is short, and what dies by it may be long: compaction keeps up with that, too, without idle turns.
#[test]
fn many_deletes_of_long_values_make_room_as_they_go() {
    let mut driver = Driver::new(1, Load::default());
    open(&mut driver);
    for n in 0..1000 {
        assert!(driver.write(Write { kind: Kind::Set, key: key(n), value: vec![1; 4000] }).unwrap());
        let settled = driver.settle();
        expect(settled, &mut driver);
    }
    for n in 0..1000 {
        assert!(driver.write(Write { kind: Kind::Delete, key: key(n * 7 % 1000), value: Vec::new() }).unwrap());
        if n % 4 == 3 {
            driver.store().write_turn().unwrap();
            for _ in 0..16 {
                driver.poll().unwrap();
            }
            driver.check_disk_use();
        }
    }
    let checked = driver.check_all();
    expect(checked, &mut driver);
}

/// A turn without anything to say must not reach the disk, and a mark must not stand between records that are staged.
#[test]
fn an_idle_mark_is_written_where_something_became_durable_and_nothing_is_staged() {
    let mut driver = Driver::new(3, Load::default());
    driver.open().unwrap();
    driver.run(5).unwrap();
    driver.settle().unwrap();
    driver.store().mark_idle().unwrap();
    driver.settle().unwrap();
    let calls = driver.machine.calls();
    driver.store().mark_idle().unwrap();
    assert_eq!(driver.machine.calls(), calls, "nothing is new");
    // There is news, but it has to wait.
    driver.run(5).unwrap();
    driver.settle().unwrap();
    while !driver.write(Write { kind: Kind::Set, key: b"key".to_vec(), value: vec![7; 50] }).unwrap() {}
    let calls = driver.machine.calls();
    driver.store().mark_idle().unwrap();
    assert_eq!(driver.machine.calls(), calls, "a record is staged");
    driver.store().write_turn().unwrap();
    driver.kill();
    driver.open().unwrap();
    driver.check_all().unwrap();
}

#[test]
fn the_figures_are_those_of_the_files() {
    let mut driver = Driver::new(3, Load { keys: 200, ..Load::default() });
    open(&mut driver);
    let ran = driver.run(150);
    expect(ran, &mut driver);
    let settled = driver.settle();
    expect(settled, &mut driver);
    let files = driver.machine.files();
    let images: Vec<(String, u64, Vec<u8>)> =
        files.into_iter().map(|(name, bytes)| (name.clone(), bytes, driver.machine.read(&name))).collect();
    let number = |image: &[u8], at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    let is_log = |name: &str| name.ends_with(".log");
    let spans: Vec<_> =
        images.iter().filter(|file| is_log(&file.0)).map(|file| (number(&file.2, 32), number(&file.2, 40))).collect();
    let [mut logs, mut log_bytes, mut data_bytes] = [0; 3];
    for (name, bytes, image) in &images {
        log_bytes += if ["log", "hint", "spare"].iter().any(|end| name.ends_with(end)) { *bytes } else { 0 };
        if !is_log(name) {
            continue;
        }
        // A compacted segment ends with its bytes, if it has more than a head and a seal. Another one ends with its last
        // mark; one that is only prepared has none, and what is behind the end in it may be an earlier one's.
        let last = match image[12] {
            1 => image.iter().rposition(|byte| *byte != 0).map(|last| last as u64 + 1),
            _ => (1024..image.len()).step_by(8).rfind(|at| image[*at..at + 8] == image[48..56]).map(|at| at as u64 + 8),
        };
        // A file that waits to be used again.
        let is_superseded = spans.iter().any(|(first, last)| (first + 1..=*last).contains(&number(image, 32)));
        let end = last.filter(|_| !is_superseded).map_or(0, |last| last.next_multiple_of(8));
        if end > 512 {
            (logs, data_bytes) = (logs + 1, data_bytes + end.saturating_sub(1024));
        }
    }
    let live_bytes = driver.live_bytes() - 18 * driver.model.len() as u64;
    let stats = driver.store().stats();
    assert_eq!((stats.segments, stats.log_bytes), (logs, log_bytes), "{stats:?}");
    assert_eq!((stats.live_bytes, stats.dead_bytes), (live_bytes, data_bytes - live_bytes), "{stats:?}");
}

/// Where not even an idle mark fits, a start does without it.
#[test]
fn idle_marks_on_a_full_disk_are_no_failure() {
    for seed in 0..5 {
        let mut driver = Driver::new(seed, Load { keys: 0, longest_value: 3000, polls: 8, ..Load::default() });
        open(&mut driver);
        driver.machine.set_capacity(1 << 20);
        while driver.refused_full == 0 {
            let turned = driver.turn();
            expect(turned, &mut driver);
        }
        driver.machine.set_capacity(0);
        for n in 0..300 {
            let deleted = driver.write(Write { kind: Kind::Delete, key: key(n), value: Vec::new() });
            expect(deleted.map(drop), &mut driver);
            driver.store().write_turn().unwrap();
            for _ in 0..10 {
                let polled = driver.poll();
                expect(polled, &mut driver);
            }
            driver.store().mark_idle().unwrap();
        }
    }
}

/// Two keys that the index has one entry for, as far as it can tell.
#[test]
fn keys_that_the_index_cannot_tell_apart_are_two_keys() {
    let seed = fresh().hash_seed;
    let mut hashes: Vec<(KeyHash, u64)> = (0..200_000).map(|n| (KeyHash::of(seed, &key(n)), n)).collect();
    hashes.sort_unstable();
    let alike = hashes.windows(2).find(|two| two[0].0.is_alike(two[1].0)).unwrap();
    let [one, two] = [key(alike[0].1), key(alike[1].1)];
    for evicts in [false, true] {
        let mut driver = Driver::new(4, Load::default());
        open(&mut driver);
        let holds = |driver: &mut Driver, values: [Option<&[u8]>; 2]| {
            for (key, value) in [&one, &two].into_iter().zip(values) {
                if evicts {
                    driver.machine.evict();
                }
                let found = driver.get(key).unwrap().map(|(_, value)| value);
                assert_eq!(found.as_deref(), value);
            }
        };
        let write = |driver: &mut Driver, kind, key: &[u8], value: &[u8]| {
            assert!(driver.write(Write { kind, key: key.to_vec(), value: value.to_vec() }).unwrap());
            let settled = driver.settle();
            expect(settled, driver);
        };
        write(&mut driver, Kind::Set, &one, b"1");
        holds(&mut driver, [Some(b"1"), None]);
        write(&mut driver, Kind::Set, &two, b"2");
        write(&mut driver, Kind::Set, &one, b"3");
        holds(&mut driver, [Some(b"3"), Some(b"2")]);
        write(&mut driver, Kind::Delete, &one, b"");
        holds(&mut driver, [None, Some(b"2")]);
    }
}

/// Else a key whose page leaves memory before its reader's turn comes would be read again and again.
#[test]
fn what_a_cold_read_brought_is_the_answer_whatever_left_memory_since() {
    let mut driver = Driver::new(5, Load::default());
    open(&mut driver);
    assert!(driver.write(Write { kind: Kind::Set, key: key(1), value: vec![1; 100] }).unwrap());
    let settled = driver.settle();
    expect(settled, &mut driver);
    driver.machine.evict();
    let store = driver.store();
    assert!(matches!(store.get(&key(1), None), Lookup::Cold(_)));
    let arrived = std::iter::repeat_with(|| store.poll().unwrap()).take(100).flatten().find_map(|event| match event {
        Event::Read(arrived) => Some(arrived),
        _ => None,
    });
    driver.machine.evict();
    assert!(matches!(driver.store().get(&key(1), arrived.as_ref()), Lookup::Found { value, .. } if value == [1; 100]));
}
