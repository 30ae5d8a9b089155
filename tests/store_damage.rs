//! The store on logs that were damaged behind its back, and on tails that a crash may leave: what was durable is
//! there, or the store says that it is damaged, and where. Never is anything dropped in silence.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::Lsn;
use dkv::store::Kind;
use dkv::store::record::{MARK_BYTES, RECORD_HEADER};
use dkv::store::segment::DATA_AT;
use support::dice::Dice;
use support::driver::{Driver, Halt, Load, Write};
use support::faulty_disk::Fault;

const FIRST: &str = "0000000000000001.log";
/// A start writes two marks; the first record stands behind them.
const OPENING: usize = DATA_AT as usize + 2 * MARK_BYTES;

fn set(key: &str, value: &[u8]) -> Write {
    Write { kind: Kind::Set, key: key.as_bytes().to_vec(), value: value.to_vec() }
}

/// Bytes of a record with a key of 5 bytes and a value of 59.
const RECORD: usize = 104;

fn write_turn(driver: &mut Driver, first: usize, count: usize) {
    for n in first..first + count {
        assert!(driver.write(set(&format!("key{n:02}"), &[n as u8; 59])).unwrap());
    }
    driver.store().write_turn().unwrap();
}

/// A killed node whose one segment holds records 1 to 6, durable and marked so, and behind them a turn of records 7
/// to 9 that was never synced.
fn with_an_unsynced_tail() -> Driver {
    let mut driver = Driver::new(1, Load::default());
    driver.open().unwrap();
    for turn in 0..3 {
        write_turn(&mut driver, 1 + 2 * turn, 2);
        driver.settle().unwrap();
    }
    driver.store().mark_idle().unwrap();
    driver.settle().unwrap();
    while driver.store().syncs().started > driver.store().syncs().completed {
        driver.poll().unwrap();
    }
    write_turn(&mut driver, 7, 3);
    assert_eq!(driver.acked, 6);
    driver.kill();
    driver
}

/// Where record n begins: each turn ends with a mark, and one more stands behind the third.
fn at(n: usize) -> usize {
    let marks = if n > 6 { 4 } else { (n - 1) / 2 };
    OPENING + (n - 1) * RECORD + marks * MARK_BYTES
}

/// Opens the log after `damage`: the last lsn, or where it is damaged.
fn end_after(damage: impl FnOnce(&mut Vec<u8>)) -> Result<u64, u64> {
    let mut driver = with_an_unsynced_tail();
    driver.machine.damage(FIRST, damage);
    match driver.open() {
        Ok(recovery) => {
            driver.check_all().unwrap();
            // Appending goes on where the log ends.
            driver.run(3).unwrap();
            Ok(recovery.end.0)
        }
        Err(Halt::Corrupt) => {
            let corruption = driver.store().health().unwrap().clone();
            assert_eq!(corruption.file, FIRST);
            assert_eq!(driver.store().end(), Lsn::ZERO);
            Err(corruption.offset)
        }
        Err(halt) => panic!("{halt:?}"),
    }
}

#[test]
fn the_layout_is_what_these_tests_take_it_for() {
    let image = with_an_unsynced_tail().machine.read(FIRST);
    for n in 1..=9 {
        assert_eq!(image[at(n) + RECORD_HEADER..at(n) + RECORD_HEADER + 5], *format!("key{n:02}").as_bytes());
    }
    assert_eq!(end_after(|_| ()), Ok(9));
    assert_eq!(with_an_unsynced_tail().open().unwrap().records, 9);
}

#[test]
fn a_tail_that_was_never_synced_may_end_at_any_byte() {
    for keep in at(7)..at(9) + RECORD + MARK_BYTES + 20 {
        let whole = (7..=9).filter(|n| at(*n) + RECORD <= keep).count() as u64;
        assert_eq!(end_after(|bytes| bytes.truncate(keep)), Ok(6 + whole), "cut off at {keep}");
        assert_eq!(end_after(|bytes| bytes[keep..].fill(0)), Ok(6 + whole), "zeros from {keep}");
    }
}

#[test]
fn a_hole_in_a_tail_that_was_never_synced_ends_it_whatever_is_behind() {
    // Record 8 is not there, 9 and the mark behind it are.
    assert_eq!(end_after(|bytes| bytes[at(8)..at(9)].fill(0)), Ok(7));
    assert_eq!(end_after(|bytes| bytes[at(8) + 60] ^= 1), Ok(7));
    // All of it but the last mark, which claims no more than what had been synced before.
    assert_eq!(end_after(|bytes| bytes[at(7)..at(9) + RECORD].fill(0)), Ok(6));
    // The length: too long, too short, and such that two records would be one.
    for length in [u32::MAX, 0, 1, RECORD as u32 + 4096, 2 * RECORD as u32] {
        let damage = |bytes: &mut Vec<u8>| bytes[at(8) + 4..at(8) + 8].copy_from_slice(&length.to_le_bytes());
        assert_eq!(end_after(damage), Ok(7), "length {length}");
    }
}

#[test]
fn rubbish_behind_the_end_is_cut() {
    let mut dice = Dice::new(3);
    assert_eq!(end_after(|bytes| bytes[at(7)..].fill_with(|| dice.next() as u8)), Ok(6));
    // A record and a mark from earlier in the same file, where a tail should be.
    let stale = |bytes: &mut Vec<u8>| {
        let copy = bytes[at(5)..at(7)].to_vec();
        bytes[at(7)..at(7) + copy.len()].copy_from_slice(&copy);
    };
    assert_eq!(end_after(stale), Ok(6));
}

#[test]
fn a_durable_record_that_is_gone_is_damage() {
    for n in 1..=6 {
        assert_eq!(end_after(|bytes| bytes[at(n)..at(n) + RECORD].fill(0)), Err(at(n) as u64), "zeros for {n}");
        assert_eq!(end_after(|bytes| bytes[at(n) + 50] ^= 1), Err(at(n) as u64), "a bit of {n}");
    }
    let kind_that_nobody_knows = |bytes: &mut Vec<u8>| {
        bytes[at(2) + 34] = 9;
        let crc = crc32c::crc32c(&bytes[at(2) + 4..at(3) - MARK_BYTES]);
        bytes[at(2)..at(2) + 4].copy_from_slice(&crc.to_le_bytes());
    };
    assert_eq!(end_after(kind_that_nobody_knows), Err(at(2) as u64));
    // Two records that changed places.
    let swapped = |bytes: &mut Vec<u8>| {
        let (one, two) = bytes[at(1)..at(3)].split_at_mut(RECORD);
        one.swap_with_slice(&mut two[..RECORD]);
    };
    assert_eq!(end_after(swapped), Err(at(1) as u64));
}

#[test]
fn no_bit_of_a_log_can_flip_unnoticed() {
    let len = at(7);
    let mut dice = Dice::new(9);
    for _ in 0..400 {
        let bit = dice.below(len as u64 * 8) as usize;
        let unused = |byte: usize| (84..512).contains(&byte) || (512..DATA_AT as usize).contains(&byte);
        match end_after(|bytes| bytes[bit / 8] ^= 1 << (bit % 8)) {
            Ok(end) => {
                assert!(end == 9 && unused(bit / 8) || end >= 6 && bit / 8 >= at(6) + RECORD, "bit {bit}: {end}")
            }
            Err(_) => assert!(!unused(bit / 8), "bit {bit}"),
        }
    }
}

#[test]
fn a_value_cannot_pass_for_a_mark_or_a_record() {
    // The bytes of a whole log, marks and all, as a value; then the tail behind it is torn.
    let image = with_an_unsynced_tail().machine.read(FIRST);
    let mut driver = Driver::new(2, Load::default());
    driver.open().unwrap();
    assert!(driver.write(set("log", &image[..at(9)])).unwrap());
    driver.settle().unwrap();
    assert!(driver.write(set("more", &image[..at(9)])).unwrap());
    driver.store().write_turn().unwrap();
    driver.kill();
    driver.machine.damage(FIRST, |bytes| bytes[OPENING + at(9) + 200..][..40].fill(0));
    assert_eq!(driver.open().unwrap().end, Lsn(1));
    driver.check_all().unwrap();
}

/// A settled, killed node with some sealed segments.
fn with_sealed_segments(seed: u64) -> Driver {
    let mut driver = Driver::new(seed, Load { keys: 200, longest_value: 3000, ..Load::default() });
    driver.open().unwrap();
    driver.run(120).unwrap();
    driver.settle().unwrap();
    driver.kill();
    assert!(driver.machine.files().iter().filter(|(name, _)| name.ends_with(".hint")).count() >= 2);
    driver
}

fn hints(driver: &Driver) -> Vec<String> {
    driver.machine.files().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".hint")).collect()
}

/// Where the data of a sealed segment ends: its seal says so.
fn data_end(image: &[u8]) -> usize {
    u64::from_le_bytes(image[512 + 32..512 + 40].try_into().unwrap()) as usize
}

/// Where a hint's table of groups and its entries stand.
const TABLE_AT: usize = 64;
const ENTRIES_AT: usize = 2120;

#[test]
fn losing_hints_loses_nothing() {
    let damages: [fn(&mut Vec<u8>); 6] = [
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes[40] ^= 1,
        |bytes| bytes[100] ^= 1,
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |bytes| bytes[ENTRIES_AT] ^= 1,
    ];
    for damage in damages {
        let mut driver = with_sealed_segments(3);
        let names = hints(&driver);
        driver.machine.damage(&names[0], damage);
        driver.machine.lose(&names[1]);
        let recovery = driver.open().unwrap();
        assert_eq!(recovery.hints_made, 2);
        driver.check_all().unwrap();
        assert_eq!(hints(&driver), names);
        driver.kill();
        assert_eq!(driver.open().unwrap().hints_made, 0);
        driver.check_all().unwrap();
    }
}

#[test]
fn a_hint_of_another_segment_is_not_believed() {
    let mut driver = with_sealed_segments(4);
    let names = hints(&driver);
    let other = driver.machine.read(&names[1]);
    driver.machine.damage(&names[0], |bytes| *bytes = other);
    assert_eq!(driver.open().unwrap().hints_made, 1);
    driver.check_all().unwrap();
}

/// Its checksums fit.
#[test]
fn a_hint_that_leads_out_of_its_segment_is_not_believed() {
    let put = |bytes: &mut [u8], at: usize, word: u32| bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    for position in [0, DATA_AT - 8, 1 << 20] {
        let mut driver = with_sealed_segments(4);
        driver.machine.damage(&hints(&driver)[0], |bytes| {
            put(bytes, ENTRIES_AT + 16, position as u32 / 8);
            let group = TABLE_AT + 8 * bytes[ENTRIES_AT + 15] as usize;
            let count = u32::from_le_bytes(bytes[group..group + 4].try_into().unwrap()) as usize;
            let crc = crc32c::crc32c(&bytes[ENTRIES_AT..ENTRIES_AT + 24 * count]);
            put(bytes, group + 4, crc);
            let crc = crc32c::crc32c(&bytes[..ENTRIES_AT - 8]);
            put(bytes, ENTRIES_AT - 8, crc);
        });
        assert_eq!(driver.open().unwrap().hints_made, 1, "an entry at {position}");
        driver.check_all().unwrap();
    }
}

#[test]
fn no_bit_of_a_sealed_segment_can_flip_unnoticed() {
    let mut dice = Dice::new(5);
    let template = with_sealed_segments(5);
    let image = template.machine.read(FIRST);
    for round in 0..150 {
        let mut driver = with_the_same(&template);
        let byte = DATA_AT as usize + dice.below((data_end(&image) - DATA_AT as usize) as u64) as usize;
        driver.machine.damage(FIRST, |bytes| bytes[byte] ^= 1 << (round % 8));
        // Without its hint the segment is read, and the damage is found at the start.
        driver.machine.lose(&hints(&driver)[0]);
        assert!(matches!(driver.open(), Err(Halt::Corrupt)), "byte {byte}");
        let corruption = driver.store().health().unwrap();
        assert_eq!(corruption.file, FIRST);
        assert!(corruption.offset as usize <= byte, "{corruption}");
    }
}

fn with_the_same(template: &Driver) -> Driver {
    let mut driver = Driver::new(6, template.load.clone());
    driver.machine = template.machine.fork(6);
    (driver.history, driver.acked) = (template.history.clone(), template.acked);
    driver
}

#[test]
fn damage_met_by_a_get_or_by_compaction_is_said_then_and_nothing_is_dropped() {
    let template = with_sealed_segments(5);
    let image = template.machine.read(FIRST);
    let mut dice = Dice::new(8);
    let mut met = 0;
    for round in 0..100 {
        let mut driver = with_the_same(&template);
        let byte = DATA_AT as usize + dice.below((data_end(&image) - DATA_AT as usize) as u64) as usize;
        driver.machine.damage(FIRST, |bytes| bytes[byte] ^= 1);
        // The hint is there, so the start does not look. A look at every key must, if a live record was hit.
        let checked = driver.open().and_then(|_| driver.check_all());
        let compacted = if round % 2 == 0 { driver.run(300) } else { Ok(()) };
        match (checked, compacted) {
            (Err(Halt::Corrupt), _) | (_, Err(Halt::Corrupt)) => {
                met += 1;
                assert_eq!(driver.store().health().map(|c| c.file.as_str()), Some(FIRST));
                assert!(matches!(driver.get(b"key 1"), Err(Halt::Corrupt)));
                assert!(matches!(driver.probe(b"key 1"), Err(Halt::Corrupt)));
                driver.store().write_turn().unwrap();
                assert!(!driver.store().background(1 << 20).unwrap());
                assert!(driver.machine.files().iter().any(|(name, _)| name == FIRST));
            }
            (Ok(()), Ok(())) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(met > 20, "only {met} of 100 were met");
}

/// The start has not looked, as there is a hint; and what waits for bytes that never come must not wait for ever.
#[test]
fn compaction_says_where_a_file_ends_too_early() {
    let mut template = with_sealed_segments(5);
    template.load.options.compact_dead_percent = 5;
    let image = template.machine.read(FIRST);
    let is_record = |at: &usize| dkv::store::record::decode(&image[*at..]).is_ok();
    let first = (DATA_AT as usize..).step_by(8).find(is_record).unwrap();
    // Where it is cut off; or, whole, with a record that would be longer than the file.
    let damages = [(None, first), (Some(DATA_AT as usize), DATA_AT as usize), (Some(first + 20), first)];
    for (cut, at) in damages {
        let mut driver = with_the_same(&template);
        driver.open().unwrap();
        driver.machine.damage(FIRST, |bytes| match cut {
            Some(len) => bytes.truncate(len),
            None => bytes[first + 4..first + 8].copy_from_slice(&(data_end(&image) as u32).to_le_bytes()),
        });
        driver.machine.evict();
        let said = (0..1000).find_map(|_| {
            driver.store().background(1 << 20).unwrap();
            driver.poll().err()
        });
        assert!(matches!(said, Some(Halt::Corrupt)), "{cut:?}: {said:?}");
        let found = driver.store().health().map(|damage| (damage.file.as_str(), damage.offset as usize));
        assert_eq!(found, Some((FIRST, at)));
    }
}

#[test]
fn a_missing_or_shortened_segment_is_damage() {
    let template = with_sealed_segments(6);
    for name in hints(&template).iter().map(|hint| hint.replace(".hint", ".log")) {
        let mut driver = with_the_same(&template);
        driver.machine.lose(&name);
        assert!(matches!(driver.open(), Err(Halt::Corrupt)), "{name}");
        assert_eq!(driver.store().health().map(|c| (c.file.clone(), c.offset)), Some((name.clone(), 0)));
        let mut driver = with_the_same(&template);
        let len = data_end(&template.machine.read(&name)) - 1;
        driver.machine.damage(&name, |bytes| bytes.truncate(len));
        assert!(matches!(driver.open(), Err(Halt::Corrupt)), "{name}");
        assert_eq!(driver.store().health().map(|c| (c.file.clone(), c.offset)), Some((name, len as u64)));
    }
}

#[test]
fn a_start_for_which_the_disk_fails_says_so() {
    let template = with_sealed_segments(6);
    for n in 1.. {
        let mut driver = with_the_same(&template);
        driver.machine.fault_at(n, Fault::Error);
        let opened = driver.open();
        if driver.machine.is_fault_to_come() {
            assert!(n > 50, "{n} calls");
            break;
        }
        assert!(opened.is_err(), "call {n}");
    }
}

#[test]
fn a_damaged_store_still_keeps_its_small_state() {
    let mut driver = with_sealed_segments(6);
    driver.machine.lose(FIRST);
    assert!(matches!(driver.open(), Err(Halt::Corrupt)));
    let id = driver.store().persist(|state| state.tombstone_floor = Lsn(77)).unwrap();
    let mut persisted = None;
    while persisted != Some(id) {
        if let Some(dkv::store::Event::Persisted(done)) = driver.store().poll().unwrap() {
            persisted = Some(done);
        }
    }
    driver.store().write_turn().unwrap();
    driver.store().mark_idle().unwrap();
    driver.lose_power(1);
    assert!(matches!(driver.open(), Err(Halt::Corrupt)));
    assert_eq!(driver.store().small_state().tombstone_floor, Lsn(77));
}

#[test]
fn a_missing_or_damaged_small_state_is_refused_with_a_remedy() {
    let mut driver = with_sealed_segments(7);
    driver.machine.damage("state", |bytes| bytes[30] ^= 1);
    let Err(Halt::Open(refused)) = driver.open() else { panic!("opened") };
    assert!(refused.to_string().contains("damaged"), "{refused}");
    driver.kill();
    driver.machine.lose("state");
    let Err(Halt::Open(refused)) = driver.open() else { panic!("opened") };
    assert!(refused.to_string().contains("missing"), "{refused}");
    // A log of one segment, whatever its first record looks like, is not what a first start leaves.
    for damage in [0, 1] {
        let mut driver = with_an_unsynced_tail();
        driver.machine.lose("state");
        driver.machine.damage(FIRST, |bytes| bytes[at(1) + 50] ^= damage);
        let Err(Halt::Open(refused)) = driver.open() else { panic!("opened") };
        assert!(refused.to_string().contains("missing"), "{refused}");
    }
}

/// A settled, killed node all of whose records are equally long, and the place of one that is live: file, byte, key.
fn with_equal_records() -> (Driver, String, usize, Vec<u8>) {
    let load = Load { keys: 400, longest_value: 0, most_of_a_turn: 200, ..Load::default() };
    let mut driver = Driver::new(11, load);
    driver.open().unwrap();
    driver.run(40).unwrap();
    driver.settle().unwrap();
    driver.kill();
    for name in hints(&driver).iter().map(|hint| hint.replace(".hint", ".log")) {
        let image = driver.machine.read(&name);
        for at in (DATA_AT as usize + MARK_BYTES..data_end(&image) - RECORD_HEADER).step_by(8) {
            let Ok((record, _)) = dkv::store::record::decode(&image[at..]) else { continue };
            if driver.model.get(record.key).is_some_and(|(lsn, _)| *lsn == record.lsn.0) {
                let key = record.key.to_vec();
                return (driver, name, at, key);
            }
        }
    }
    panic!("nothing sealed is live");
}

/// Another record of the same file over the one at `at`, as a disk does that writes to a wrong place.
fn misplace(driver: &Driver, name: &str, at: usize) {
    driver.machine.damage(name, |bytes| {
        let (mine, _) = dkv::store::record::decode(&bytes[at..]).unwrap();
        let is_other = |from: &usize| {
            dkv::store::record::decode(&bytes[*from..]).is_ok_and(|(other, taken)| {
                other.key != mine.key && taken == dkv::store::record::encoded_bytes(mine.key, b"")
            })
        };
        let from = (at + 48..bytes.len()).step_by(8).find(is_other).unwrap();
        let other = bytes[from..from + 48].to_vec();
        bytes[at..at + 48].copy_from_slice(&other);
    });
}

/// Such a key was answered 404: the record that stood at its place was sound, and it was another key's, as with two keys
/// that the index cannot tell apart.
#[test]
fn a_sound_record_in_the_place_of_another_is_damage_when_it_is_read() {
    let (mut driver, name, at, key) = with_equal_records();
    misplace(&driver, &name, at);
    let Err(Halt::Corrupt) = driver.open().and_then(|_| driver.get(&key)) else { panic!("it was not noticed") };
    assert_eq!(driver.store().health().map(|c| (c.file.clone(), c.offset)), Some((name, at as u64)));
}

/// Compaction took the record at its place for a dead one of another key, dropped the key for good, and left the index
/// pointing to a file that was gone: the next GET of the key ended the process.
#[test]
fn a_sound_record_in_the_place_of_another_stops_compaction() {
    let (mut driver, name, at, key) = with_equal_records();
    misplace(&driver, &name, at);
    // The start may look at the key, too.
    let written = driver.open().and_then(|_| {
        for _ in 0..8 {
            for n in 0..400 {
                let other = format!("key {n}");
                if other.as_bytes() != key {
                    driver.write(set(&other, b""))?;
                }
            }
            driver.settle()?;
        }
        Ok(())
    });
    assert!(matches!(written, Err(Halt::Corrupt)), "{written:?}");
    let damage = driver.store().health().unwrap();
    assert_eq!(damage.file, name);
    assert!(damage.offset >= at as u64, "{damage}");
    assert!(driver.machine.files().iter().any(|(left, _)| *left == name), "nothing is dropped");
}

/// Of a compacted file, whose records may have gaps, it was not asked whether they end where its seal says: one of a
/// later file at its end was taken in there, before those that it follows, and the start ended the process.
#[test]
fn a_record_behind_the_end_of_a_compacted_file_is_damage() {
    let mut driver = with_sealed_segments(5);
    let is_compacted = |name: &String| driver.machine.read(name)[12] == 1;
    let name = hints(&driver).iter().map(|hint| hint.replace(".hint", ".log")).find(is_compacted).unwrap();
    driver.machine.damage(&name, |bytes| {
        let end = data_end(bytes);
        let at = (DATA_AT as usize..end)
            .step_by(8)
            .rfind(|at| dkv::store::record::decode(&bytes[*at..]).is_ok_and(|(_, taken)| at + taken == end));
        let (at, later) = (at.unwrap(), Lsn(u64::from_le_bytes(bytes[512 + 24..512 + 32].try_into().unwrap()) + 5));
        let (last, _) = dkv::store::record::decode(&bytes[at..]).unwrap();
        let mut other = Vec::new();
        dkv::store::record::encode(&mut other, &dkv::store::record::Record { lsn: later, ..last });
        bytes[at..end].copy_from_slice(&other);
    });
    driver.machine.lose(&name.replace(".log", ".hint"));
    assert!(matches!(driver.open(), Err(Halt::Corrupt)));
    assert_eq!(driver.store().health().map(|c| c.file.clone()), Some(name));
}

/// A write that the disk never did leaves what stood there before: an older value of the same key, sound.
#[test]
fn an_older_record_of_the_same_key_in_its_place_is_damage() {
    let mut driver = with_sealed_segments(5);
    let name = hints(&driver).pop().unwrap().replace(".hint", ".log");
    let image = driver.machine.read(&name);
    let live = (DATA_AT as usize..data_end(&image)).step_by(8).find_map(|at| {
        let (record, _) = dkv::store::record::decode(&image[at..]).ok()?;
        driver.model.get(record.key).filter(|(lsn, _)| *lsn == record.lsn.0)?;
        Some((at, record))
    });
    let (at, record) = live.unwrap();
    let mut older = Vec::new();
    dkv::store::record::encode(&mut older, &dkv::store::record::Record { lsn: Lsn(1), ..record });
    driver.machine.damage(&name, |bytes| bytes[at..at + older.len()].copy_from_slice(&older));
    let Err(Halt::Corrupt) = driver.open().and_then(|_| driver.get(record.key)) else { panic!("it was not noticed") };
    assert_eq!(driver.store().health().map(|c| (c.file.clone(), c.offset)), Some((name, at as u64)));
}

/// Compaction would leave the key out, and the file that it is in would go.
#[test]
fn a_mark_in_the_place_of_the_last_record_stops_compaction() {
    let load = Load { keys: 9000, longest_value: 0, delete_once_in: 30, most_of_a_turn: 200, ..Load::default() };
    let mut driver = Driver::new(1, load);
    driver.open().unwrap();
    driver.run(60).unwrap();
    driver.settle().unwrap();
    let name = hints(&driver)[1].replace(".hint", ".log");
    let image = driver.machine.read(&name);
    let is_record = |at: &usize| dkv::store::record::decode(&image[*at..]).is_ok();
    let (records, marks): (Vec<usize>, Vec<usize>) =
        (DATA_AT as usize..data_end(&image)).step_by(48).partition(is_record);
    let at = *records.last().unwrap();
    let (last, _) = dkv::store::record::decode(&image[at..]).unwrap();
    assert!(driver.model.get(last.key).is_some_and(|(lsn, _)| *lsn == last.lsn.0), "it is live");
    driver.machine.damage(&name, |bytes| bytes.copy_within(marks[0]..marks[0] + 48, at));
    let written = (0..9000).try_for_each(|n| {
        let other = format!("key {n}");
        if other.as_bytes() != last.key {
            driver.write(set(&other, b""))?;
        }
        if n % 100 == 0 { driver.settle() } else { Ok(()) }
    });
    assert!(matches!(written, Err(Halt::Corrupt)), "{written:?}");
    assert_eq!(driver.store().health().map(|c| &c.file), Some(&name));
    assert!(driver.machine.files().iter().any(|(left, _)| *left == name), "nothing is dropped");
}
