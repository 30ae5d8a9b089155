//! The store where the log takes a file that compaction has freed: what an earlier segment left behind the log's end must
//! never be taken for a part of it.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::store::{Event, Kind, Lookup};
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
    driver.run(300).unwrap();
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
