//! The store where the order of what reaches the disk decides: moments that random crashes seldom meet.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::Lsn;
use dkv::store::{Event, Kind};
use support::driver::{Driver, Halt, Load, Write};
use support::faulty_disk::Fault;

fn set(n: usize, bytes: usize) -> Write {
    Write { kind: Kind::Set, key: format!("key {n}").into_bytes(), value: vec![n as u8; bytes] }
}

fn opened(seed: u64) -> Driver {
    let mut driver = Driver::new(seed, Load::default());
    driver.open().unwrap();
    driver
}

/// Writes until the active file of 64 KiB is nearly full, the next one is ready, and all is durable.
fn fill_the_first_file(driver: &mut Driver) {
    for n in 0..15 {
        assert!(driver.write(set(n, 4000)).unwrap());
        driver.settle().unwrap();
    }
}

fn reopened(driver: &mut Driver, what: &str) {
    match driver.open() {
        Ok(_) => driver.check_all().unwrap(),
        Err(Halt::Corrupt) => panic!("{what}: {:?}", driver.store().health()),
        Err(halt) => panic!("{what}: {halt:?}"),
    }
}

/// Another machine and process with what this one has.
fn fork(driver: &Driver, seed: u64) -> Driver {
    let mut copy = Driver::new(seed, driver.load.clone());
    copy.machine = driver.machine.fork(seed);
    (copy.history, copy.acked) = (driver.history.clone(), driver.acked);
    copy
}

fn poll_until_durable(driver: &mut Driver, lsn: Lsn) {
    loop {
        if let Some(Event::Durable(upto)) = driver.store().poll().unwrap()
            && upto >= lsn
        {
            driver.acked = upto.0;
            return;
        }
    }
}

/// An idle mark was written while a sync was under way, and the segment was left before the next one: its seal was
/// written while the mark was not durable, so a crash could leave a sealed segment with a hole in it.
#[test]
fn a_segment_is_not_sealed_before_its_last_mark_is_durable() {
    let mut driver = opened(1);
    fill_the_first_file(&mut driver);
    assert!(driver.write(set(100, 2000)).unwrap());
    driver.store().write_turn().unwrap();
    assert!(driver.write(set(101, 4000)).unwrap());
    driver.store().write_turn().unwrap();
    let end = driver.store().end();
    poll_until_durable(&mut driver, Lsn(end.0 - 1));
    // The sync of the last record is under way.
    driver.store().mark_idle().unwrap();
    assert!(driver.write(set(102, 100)).unwrap());
    poll_until_durable(&mut driver, end);
    for seed in 0..40 {
        let mut copy = fork(&driver, seed);
        copy.lose_power(seed);
        reopened(&mut copy, &format!("seed {seed}"));
    }
}

/// A record that found the disk full had made the next file the active one; an idle mark in that took the place of
/// its first mark, and all that was written later stood elsewhere than the index said, with a hole before it.
#[test]
fn an_idle_mark_in_a_file_without_a_record_is_its_first_mark() {
    let mut driver = opened(2);
    fill_the_first_file(&mut driver);
    assert!(driver.write(set(100, 6000)).unwrap());
    driver.settle().unwrap();
    driver.machine.set_capacity(driver.machine.used_bytes());
    assert!(!driver.write(set(101, 6000)).unwrap());
    assert_eq!(driver.refused_full, 1);
    driver.store().mark_idle().unwrap();
    driver.settle().unwrap();
    let mut idle = fork(&driver, 7);
    idle.lose_power(7);
    let recovery = idle.open().unwrap();
    assert_eq!((recovery.committed, recovery.end), (Lsn(driver.acked), Lsn(driver.acked)));
    driver.machine.set_capacity(u64::MAX);
    driver.store().write_turn().unwrap();
    for n in 200..240 {
        assert!(driver.write(set(n, 1000)).unwrap());
        driver.settle().unwrap();
        driver.store().mark_idle().unwrap();
    }
    driver.check_all().unwrap();
    driver.kill();
    reopened(&mut driver, "after a kill");
}

/// A hint can be done without. A disk that fails cannot.
#[test]
fn no_write_that_fails_while_a_file_is_sealed_is_passed_over() {
    for n in 1.. {
        let mut driver = opened(5);
        fill_the_first_file(&mut driver);
        assert!(driver.write(set(100, 6000)).unwrap());
        driver.settle().unwrap();
        driver.machine.fault_at(n, Fault::WriteError);
        let written = driver.write(set(101, 6000)).and_then(|_| driver.settle());
        let closed = driver.store.take().unwrap().close();
        if driver.machine.awaits_fault() {
            assert!(n > 10, "{n} calls");
            break;
        }
        assert!(written.is_err() || closed.is_err(), "call {n}");
    }
}

#[test]
fn on_a_full_disk_a_file_is_sealed_without_a_hint() {
    for room in [0, 1000] {
        let mut driver = opened(6);
        fill_the_first_file(&mut driver);
        assert!(driver.write(set(100, 6000)).unwrap());
        driver.settle().unwrap();
        driver.machine.set_capacity(driver.machine.used_bytes() + room);
        // The next file has some room of its own.
        assert!(driver.write(set(101, 100)).unwrap());
        driver.settle().unwrap();
        driver.store.take().unwrap().close().unwrap();
        driver.kill();
        driver.machine.set_capacity(u64::MAX);
        assert_eq!(driver.open().unwrap().hints_made, 1);
        driver.check_all().unwrap();
    }
}

/// Crashes may leave more than a start knows of: what was replaced, what was not finished, hints without a log.
#[test]
fn a_start_removes_what_nobody_needs_and_nothing_else() {
    let mut driver = Driver::new(7, Load { keys: 30, longest_value: 6000, ..Load::default() });
    let names = |driver: &Driver| -> Vec<String> { driver.machine.files().into_iter().map(|(name, _)| name).collect() };
    driver.open().unwrap();
    driver.run(60).unwrap();
    driver.settle().unwrap();
    let then: Vec<(String, Vec<u8>)> =
        names(&driver).into_iter().map(|name| (name.clone(), driver.machine.read(&name))).collect();
    driver.run(60).unwrap();
    driver.settle().unwrap();
    driver.kill();
    driver.open().unwrap();
    driver.kill();
    let needed = names(&driver);
    let mut replaced = 0;
    for (name, bytes) in then.into_iter().filter(|(name, _)| name.contains('.') && !needed.contains(name)) {
        replaced += usize::from(name.ends_with(".log"));
        driver.machine.put(&name, bytes);
    }
    for name in ["0000000000000001.tmp", "0000000000000fff.hint", "1.hint"] {
        driver.machine.put(name, vec![1; 100]);
    }
    let recovery = driver.open().unwrap();
    assert!(replaced > 0 && recovery.hints_made == 0, "{replaced} replaced, {recovery:?}");
    assert_eq!(names(&driver), needed);
    driver.check_all().unwrap();
}

/// The segment files that another one stands for.
fn replaced_files(driver: &Driver) -> usize {
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let names = driver.machine.files().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".log"));
    let (mut replaced, mut next) = (0, 0);
    for name in names {
        let bytes = driver.machine.read(&name);
        if bytes.len() < 512 {
            continue;
        }
        let [seq, seq_to] = [word(&bytes, 32), word(&bytes, 40)];
        replaced += usize::from(seq != 0 && seq < next);
        next = next.max(seq_to + 1);
    }
    replaced
}

/// A compacted segment's new name may be in memory only, while the files that it replaces are still there: they must
/// not go before that name is durable.
#[test]
fn a_start_removes_replaced_segments_only_when_their_successors_name_is_durable() {
    let load = Load { keys: 30, longest_value: 6000, ..Load::default() };
    let [mut moments, mut crashes] = [0, 0];
    for n in 1.. {
        let mut driver = Driver::new(3, load.clone());
        driver.machine.fault_at(n, Fault::Stop);
        let halted = driver.open().and_then(|_| driver.run(120)).is_err();
        assert!(halted, "no compaction in {n} calls");
        driver.kill();
        if replaced_files(&driver) == 0 {
            continue;
        }
        moments += 1;
        if moments > 2 {
            break;
        }
        for call in 1..60 {
            let mut copy = fork(&driver, call);
            copy.machine.fault_at(call, Fault::Stop);
            if copy.open().is_ok() {
                break;
            }
            for seed in 0..12 {
                crashes += 1;
                let mut crashed = fork(&copy, seed);
                crashed.acked = driver.acked;
                crashed.history.clone_from(&driver.history);
                crashed.lose_power(seed);
                reopened(&mut crashed, &format!("call {n}, then {call} of the start, seed {seed}"));
            }
        }
    }
    assert!(crashes > 100, "{crashes} crashes");
}

/// Of three files that were in use, the first is torn: a start cut short while it removed the other two left the last
/// of them, and the next start missed the one before it.
#[test]
fn a_start_removes_what_is_behind_a_torn_tail_from_the_back() {
    let mut driver = opened(4);
    fill_the_first_file(&mut driver);
    driver.machine.hang();
    for n in 100..112 {
        assert!(driver.write(set(n, 6000)).unwrap());
        driver.store().write_turn().unwrap();
    }
    driver.kill();
    driver.machine.resume();
    let files = driver.machine.files().into_iter().filter(|(name, _)| name.ends_with(".log"));
    assert_eq!(files.count(), 3);
    driver.machine.damage("0000000000000001.log", |bytes| {
        let at = bytes.windows(7).position(|window| window == b"key 100").unwrap();
        bytes[at..].fill(0);
    });
    for call in 1.. {
        let mut copy = fork(&driver, call);
        copy.machine.fault_at(call, Fault::Stop);
        if copy.open().is_ok() {
            assert!(call > 20, "{call} calls");
            break;
        }
        for seed in 0..8 {
            let mut crashed = fork(&copy, seed);
            match seed {
                0 => crashed.kill(),
                _ => crashed.lose_power(seed),
            }
            reopened(&mut crashed, &format!("call {call}, seed {seed}"));
        }
    }
}
