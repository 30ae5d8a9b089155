//! The store where the log takes a file that compaction has freed: what an earlier segment left behind the log's end must
//! never be taken for a part of it.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::Lsn;
use dkv::store::{Event, Kind, LogRead, Lookup};
use support::dice::Dice;
use support::driver::{Driver, Halt, Load, Write};
use support::faulty_disk::{Fault, Machine};

/// Few keys and many writes, so that compaction frees files all the time.
fn load(seed: u64) -> Load {
    Load {
        keys: 12,
        longest_value: 1500,
        evicts: seed.is_multiple_of(3),
        commits_late: seed.is_multiple_of(2),
        ..Load::default()
    }
}

fn reopened(driver: &mut Driver, what: &str) -> u64 {
    let recovery = match driver.open() {
        Ok(recovery) => recovery,
        Err(Halt::Corrupt) => panic!("{what}: {:?}", driver.store().health()),
        Err(halt) => panic!("{what}: {halt:?}"),
    };
    driver.check_all().unwrap_or_else(|halt| panic!("{what}: {halt:?}"));
    recovery.torn_bytes
}

/// The segments that took the file of an earlier one, and are not sealed.
fn reused(machine: &Machine) -> Vec<String> {
    let logs = machine.files().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".log"));
    logs.filter(|name| {
        let image = machine.read(name);
        let number = u64::from_le_bytes(image[32..40].try_into().unwrap());
        let is_its_own = *name == format!("{number:016x}.log");
        is_its_own && image[64] == 1 && image[512..520] != *b"dkv-seal"
    })
    .collect()
}

/// Whether a file waits to be used again: its number is one that a compacted segment stands for.
fn one_waits(machine: &Machine) -> bool {
    let logs = machine.files().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".log"));
    let numbers: Vec<[u64; 2]> = logs
        .map(|name| machine.read(&name))
        .filter(|image| image.len() >= 1024)
        .map(|image| [32, 40].map(|at| u64::from_le_bytes(image[at..at + 8].try_into().unwrap())))
        .collect();
    numbers.iter().any(|[seq, _]| numbers.iter().any(|[first, last]| (first + 1..=*last).contains(seq)))
}

/// Nothing that is removed is still on its way then.
fn run_until_one_waits(driver: &mut Driver) {
    for _ in 0..2000 {
        driver.run(1).unwrap();
        if one_waits(&driver.machine) {
            driver.settle().unwrap();
            if one_waits(&driver.machine) {
                return;
            }
        }
    }
    panic!("no file waits to be used again");
}

#[test]
fn what_an_earlier_segment_left_in_a_file_is_not_taken_for_the_log() {
    let [mut crashes, mut stops] = [0, 0];
    for seed in 0..40 {
        let mut driver = Driver::new(seed, load(seed));
        driver.open().unwrap();
        for round in 0..6 {
            driver.run(40 + 30 * round).unwrap();
            let what = format!("seed {seed}, round {round}");
            let in_use = !reused(&driver.machine).is_empty();
            if round % 2 == 0 {
                crashes += u32::from(in_use);
                driver.lose_power(seed * 10 + round);
                reopened(&mut driver, &what);
            } else {
                stops += u32::from(in_use);
                driver.settle().unwrap();
                driver.store.take().unwrap().close().unwrap();
                driver.kill();
                assert_eq!(reopened(&mut driver, &what), 0, "{what}: nothing is torn by an orderly stop");
            }
        }
    }
    assert!(crashes > 20 && stops > 20, "{crashes} crashes and {stops} stops with such a file in use");
}

/// From before a file is freed until records stand in it again: at each call of the disk the power is lost.
#[test]
fn a_crash_at_any_call_on_the_way_loses_nothing() {
    const TURNS: u64 = 400;
    let run = |fault: Option<u64>| {
        let mut driver = Driver::new(5, load(5));
        if let Some(n) = fault {
            driver.machine.fault_at(n, Fault::Stop);
        }
        driver.open().unwrap();
        let mut seen = Vec::new();
        for _ in 0..TURNS {
            if driver.run(1).is_err() {
                break;
            }
            seen.push((driver.machine.calls(), reused(&driver.machine).len()));
        }
        (driver, seen)
    };
    let (_, seen) = run(None);
    let first = seen.iter().position(|(_, reused)| *reused > 0).expect("some file is used again");
    let (from, to) = (seen[first.saturating_sub(4)].0, seen[(first + 12).min(seen.len() - 1)].0);
    let mut with_one = 0;
    for n in from..to {
        let (driver, _) = run(Some(n));
        with_one += u32::from(!reused(&driver.machine).is_empty());
        for image in 0..2 {
            let mut copy = Driver::new(n, load(5));
            copy.machine = driver.machine.fork(n * 10 + image);
            (copy.history, copy.acked) = (driver.history.clone(), driver.acked);
            copy.lose_power(n * 10 + image);
            reopened(&mut copy, &format!("call {n}, image {image}"));
            copy.run(3).unwrap();
        }
    }
    assert!(with_one > 20, "{with_one} of {} crashes with such a file", to - from);
}

/// The file that waits for the log is named by nothing that a start could take for the log's; it is removed.
#[test]
fn a_file_that_waits_to_be_used_again_goes_with_the_next_start() {
    let mut driver = Driver::new(3, load(3));
    driver.open().unwrap();
    run_until_one_waits(&mut driver);
    driver.settle().unwrap();
    driver.store.take().unwrap().close().unwrap();
    driver.kill();
    reopened(&mut driver, "a start");
    driver.settle().unwrap();
    let stats = driver.store().stats();
    let logs = driver.machine.files().iter().filter(|(name, _)| name.ends_with(".log")).count() as u64;
    assert_eq!(logs, stats.segments, "{:?}", driver.machine.files());
}

/// What a cold read brought is asked about later, when another record stands at the same place of the same file.
#[test]
fn what_was_read_of_a_file_does_not_stand_for_what_is_in_it_now() {
    let mut driver = Driver::new(1, Load::default());
    driver.open().unwrap();
    let key = |n: u64| format!("key {n}").into_bytes();
    let mut held = Vec::new();
    let mut dice = Dice::new(1);
    for n in 0..600 {
        let key_now = key(dice.below(12));
        assert!(driver.write(Write { kind: Kind::Set, key: key_now, value: vec![n as u8; 1000] }).unwrap());
        driver.settle().unwrap();
        driver.machine.evict();
        let asked = key(n % 12);
        if let Lookup::Cold(op) = driver.store().get(&asked, None) {
            let arrived = std::iter::from_fn(|| driver.store().poll().unwrap()).find_map(|event| match event {
                Event::Read(arrived) if arrived.op == op => Some(arrived),
                _ => None,
            });
            held.extend(arrived.map(|arrived| (asked, arrived)));
        }
        driver.machine.warm();
        for (key, arrived) in &held {
            let Some((lsn, value)) = driver.model.get(key).cloned() else { continue };
            match driver.store().get(key, Some(arrived)) {
                Lookup::Found { lsn: found, value: bytes } => assert_eq!((found.0, bytes), (lsn, &value[..])),
                other => panic!("write {n}: {other:?}"),
            }
        }
    }
    assert!(held.len() > 100, "{} cold reads", held.len());
}

/// The primary reads its log for another copy while records are staged: bytes come back from behind what is written, and
/// when they are looked at, what should stand there has been written.
#[test]
fn what_an_earlier_segment_left_is_not_read_for_another_copy() {
    let mut reads = 0;
    for seed in 0..12 {
        let value = [8, 48, 104, 1000][seed as usize % 4];
        let mut driver = Driver::new(seed, Load::default());
        driver.open().unwrap();
        let mut number = 0_u64;
        let mut set = |driver: &mut Driver| {
            number += 1;
            let key = format!("key {:04}", number % 13).into_bytes();
            driver.write(Write { kind: Kind::Set, key, value: vec![number as u8; value] }).unwrap();
        };
        for round in 0..4000 {
            (0..=seed % 3).for_each(|_| set(&mut driver));
            driver.settle().unwrap();
            if round % 7 != 0 || reused(&driver.machine).is_empty() {
                continue;
            }
            let mut cursor = {
                let end = driver.store().end().0;
                driver.store().log_cursor(Lsn(end - 1))
            };
            (0..3).for_each(|_| set(&mut driver));
            driver.machine.evict();
            let mut out = Vec::new();
            if let LogRead::Cold(op) = driver.store().read_log(&mut cursor, 1 << 20, &mut out) {
                let come = |event: Event| matches!(event, Event::LogRead(found) if found == op);
                while !std::iter::from_fn(|| driver.store().poll().unwrap()).any(come) {}
                reads += 1;
            }
            driver.machine.warm();
            driver.store().write_turn().unwrap();
            let read = driver.store().read_log(&mut cursor, 1 << 20, &mut out);
            assert!(read != LogRead::Corrupt, "seed {seed}, round {round}: {:?}", driver.store().health());
            driver.settle().unwrap();
        }
    }
    assert!(reads > 500, "{reads} cold reads of a log in such a file");
}

/// Its room is what is missing: nothing is refused, nor the spare lent, before it is given.
#[test]
fn on_a_full_disk_the_file_that_waits_goes_first() {
    let mut busy = 0;
    for seed in 0..60 {
        let mut driver = Driver::new(seed, Load { keys: 14, longest_value: 2000, ..Load::default() });
        driver.open().unwrap();
        run_until_one_waits(&mut driver);
        driver.machine.set_capacity(driver.machine.used_bytes());
        let spare = |driver: &Driver| {
            driver.machine.files().into_iter().find(|(name, _)| name == "spare").map(|(_, bytes)| bytes)
        };
        let before = spare(&driver);
        assert!(before.is_some(), "seed {seed}");
        for _ in 0..200 {
            driver.run(1).unwrap();
            if !one_waits(&driver.machine) {
                break;
            }
            assert_eq!((driver.refused_full, spare(&driver) < before), (0, false), "seed {seed}");
        }
        busy += driver.refused_busy;
    }
    assert!(busy > 0, "in no case was it the room that was missing");
}
