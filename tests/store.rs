//! The store on a disk that fails, crashes and fills up: whatever happens, what was reported durable is there, and
//! nothing that was deleted comes back.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use support::dice::Dice;
use support::driver::{Driver, Halt, Load};
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
        let mut driver = Driver::new(seed, Load { evicts: seed % 2 == 0, ..Load::default() });
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
        let mut driver = Driver::new(seed, Load { evicts: seed % 3 == 0, ..Load::default() });
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
        // First the process only; its successor reads what is in the page cache, and must not rest on it.
        driver.kill();
        open(&mut driver);
        let checked = driver.check_all();
        expect(checked, &mut driver);
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
