//! Reading the log as another copy is sent it: whatever happens to the segments meanwhile, what arrives follows on
//! without a gap, and a copy that applies it holds what the model holds.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::{Epoch, Lsn};
use dkv::store::{Kind, LogCursor, LogRead, Lookup, Options, Prior, record};
use std::collections::BTreeMap;
use support::driver::{Driver, Halt, Load, Write};
use support::faulty_disk::Fault;

/// A copy that is sent the log.
struct Replica {
    cursor: LogCursor,
    at: u64,
    epoch: Epoch,
    map: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    jumps: u64,
    records: u64,
}

impl Replica {
    /// One that has everything up to `at`, if that is enough to go on from, and else nothing.
    fn at(driver: &mut Driver, at: u64) -> Replica {
        let floor = driver.store().small_state().tombstone_floor.0;
        let at = if floor > at { 0 } else { at };
        let mut map = BTreeMap::new();
        for (n, write) in driver.history[..at as usize].iter().enumerate() {
            apply(&mut map, n as u64 + 1, write);
        }
        driver.store().hold_tombstones(Some(Lsn(at)));
        let cursor = driver.store().log_cursor(Lsn(at));
        Replica { cursor, at, epoch: Epoch(0), map, jumps: 0, records: 0 }
    }

    /// Asks for more once, and takes it in.
    fn ask(&mut self, driver: &mut Driver, most_bytes: usize) -> LogRead {
        let mut bytes = vec![9; 3];
        let read = driver.store().read_log(&mut self.cursor, most_bytes, &mut bytes);
        let mut rest = &bytes[3..];
        let mut records = 0;
        while !rest.is_empty() {
            let (record, taken) = record::decode(rest).unwrap();
            records += 1;
            self.take(driver, &record);
            rest = &rest[taken..];
        }
        assert!(bytes.len() - 3 <= most_bytes || records <= 2, "{} bytes, {most_bytes} asked for", bytes.len() - 3);
        if let LogRead::Read { upto } = read {
            assert_eq!(upto, Lsn(self.at));
            driver.store().hold_tombstones(Some(upto));
        } else {
            // What was sound before the damage may be there, and is not sent.
            assert!(records == 0 || read == LogRead::Corrupt, "{read:?}");
        }
        assert_eq!(self.cursor.after(), Lsn(self.at));
        read
    }

    fn take(&mut self, driver: &Driver, record: &record::Record<'_>) {
        let lsn = record.lsn.0;
        assert!(record.epoch >= self.epoch);
        assert!(lsn <= driver.history.len() as u64);
        self.epoch = record.epoch;
        if record.kind == Kind::Jump {
            assert!(lsn > self.at);
            self.jumps += 1;
        } else {
            assert_eq!(lsn, self.at + 1, "there is a gap before it");
            let write = &driver.history[lsn as usize - 1];
            assert_eq!((record.kind, record.key, record.value), (write.kind, &write.key[..], &write.value[..]));
            apply(&mut self.map, lsn, write);
            self.records += 1;
        }
        self.at = lsn;
    }

    /// Reads on to the end, while nothing else is written.
    fn catch_up(&mut self, driver: &mut Driver) {
        driver.store().write_turn().unwrap();
        loop {
            match self.ask(driver, 10_000) {
                LogRead::End => break,
                LogRead::Corrupt => panic!("{:?}", driver.store().health()),
                LogRead::Read { .. } => {}
                LogRead::Busy | LogRead::Cold(_) => {
                    driver.store().write_turn().unwrap();
                    expect(driver.poll());
                }
            }
        }
        let mut model = BTreeMap::new();
        for (n, write) in driver.history.iter().enumerate() {
            apply(&mut model, n as u64 + 1, write);
        }
        assert_eq!(self.at, driver.history.len() as u64);
        assert!(self.map == model, "the copy holds something else");
    }
}

fn apply(map: &mut BTreeMap<Vec<u8>, (u64, Vec<u8>)>, lsn: u64, write: &Write) {
    match write.kind {
        Kind::Set => drop(map.insert(write.key.clone(), (lsn, write.value.clone()))),
        Kind::Delete => drop(map.remove(&write.key)),
        Kind::Jump => {}
    }
}

fn expect(result: Result<(), Halt>) {
    if let Err(halt) = result {
        panic!("{halt:?}");
    }
}

/// Copies come at any time, in any state, read slowly or fast, and give up.
fn copies_come_and_go(seed: u64, load: Load, most_turns: u64) -> [u64; 4] {
    let mut driver = Driver::new(seed, load);
    let [mut jumps, mut records, mut busy, mut compactions] = [0; 4];
    for _ in 0..3 {
        driver.open().unwrap();
        for _ in 0..4 {
            let turns = driver.dice.below(most_turns);
            expect(driver.run(turns));
            let written = driver.history.len() as u64;
            let behind = [0, written, driver.dice.below(written + 1)];
            let at = *driver.dice.pick(&behind).unwrap();
            driver.store().write_turn().unwrap();
            let mut copy = Replica::at(&mut driver, at);
            for _ in 0..driver.dice.below(most_turns) {
                expect(driver.turn());
                for _ in 0..driver.dice.below(5) {
                    let most = [1, 100, 3000, 50_000, 1 << 20][driver.dice.below(5) as usize];
                    busy += u64::from(copy.ask(&mut driver, most) == LogRead::Busy);
                }
            }
            if !driver.dice.once_in(4) {
                copy.catch_up(&mut driver);
            }
            driver.store().hold_tombstones(None);
            (jumps, records) = (jumps + copy.jumps, records + copy.records);
        }
        compactions += driver.store().stats().compactions;
        driver.kill();
    }
    [jumps, records, busy, compactions + driver.log_reads]
}

#[test]
fn a_copy_that_is_sent_the_log_holds_what_the_log_holds() {
    let mut sums = [0; 4];
    for seed in 0..15 {
        let load = Load {
            keys: [0, 40, 300][seed as usize % 3],
            delete_once_in: if seed % 2 == 0 { 2 } else { 6 },
            evicts: seed % 4 == 0,
            commits_late: seed % 5 == 0,
            jump_once_in: if seed % 3 == 1 { 20 } else { 0 },
            ..Load::default()
        };
        let found = copies_come_and_go(seed, load, 180);
        sums = [0, 1, 2, 3].map(|n| sums[n] + found[n]);
    }
    println!("{sums:?}");
    let [jumps, records, busy, others] = sums;
    assert!(jumps > 1000 && records > 50_000 && busy > 10 && others > 500, "{sums:?}");
}

/// A compaction that had begun to drop tombstones before they were held: of a key, its record would be read before
/// that, and its tombstone never.
#[test]
fn a_compaction_under_way_takes_no_tombstone_from_under_a_cursor() {
    let mut busy = 0;
    for seed in 0..60 {
        let mut driver = Driver::new(seed, Load { keys: 0, delete_once_in: 2, ..Load::default() });
        driver.open().unwrap();
        for _ in 0..20 {
            expect(driver.run(10));
            let budget = driver.dice.below(200_000);
            driver.store().background(budget).unwrap();
            let mut copy = Replica::at(&mut driver, 0);
            for _ in 0..driver.dice.below(6) {
                let most = driver.dice.below(60_000) as usize;
                busy += u64::from(copy.ask(&mut driver, most) == LogRead::Busy);
            }
            // It is done now, and perhaps the next.
            for _ in 0..60 {
                driver.store().background(1 << 20).unwrap();
                expect(driver.poll());
            }
            copy.catch_up(&mut driver);
            driver.store().hold_tombstones(None);
        }
    }
    assert!(busy > 10, "{busy}");
}

#[test]
fn a_compaction_that_drops_no_tombstone_above_a_cursor_does_not_keep_it_waiting() {
    let mut driver = Driver::new(1, Load { keys: 0, delete_once_in: 2, ..Load::default() });
    driver.open().unwrap();
    driver.store().hold_tombstones(Some(Lsn::ZERO));
    for _ in 0..300 {
        expect(driver.turn());
        let mut cursor = driver.store().log_cursor(Lsn::ZERO);
        assert_ne!(driver.store().read_log(&mut cursor, 1000, &mut Vec::new()), LogRead::Busy);
    }
    assert!(driver.store().stats().compactions > 3);
}

/// Also where nothing is written: what compaction does then is for those who wait.
#[test]
fn a_compaction_that_a_cursor_waits_for_is_finished() {
    let mut waited = 0;
    for seed in 0..10 {
        let options = Options { compact_dead_percent: 5, ..Load::default().options };
        let load = Load { options, keys: 0, delete_once_in: 2, longest_value: 300, ..Load::default() };
        let mut driver = Driver::new(seed, load);
        driver.open().unwrap();
        driver.store().hold_tombstones(Some(Lsn::ZERO));
        expect(driver.run(300));
        driver.kill();
        driver.open().unwrap();
        while driver.store().small_state().tombstone_floor == Lsn::ZERO {
            driver.store().background(1).unwrap();
            expect(driver.poll());
        }
        let mut copy = Replica::at(&mut driver, 0);
        for turn in 0.. {
            if copy.ask(&mut driver, 1000) != LogRead::Busy {
                break;
            }
            assert!(turn < 500, "it waits for ever");
            driver.store().write_turn().unwrap();
            expect(driver.poll());
            waited += 1;
        }
    }
    assert!(waited > 10, "{waited}");
}

#[test]
fn records_longer_than_a_chunk_arrive_whole() {
    for seed in 0..6 {
        let load =
            Load { keys: 6, longest_value: 700_000, evicts: seed % 2 == 0, most_of_a_turn: 2, ..Load::default() };
        let options = Options { segment_bytes: 1 << 20, ..load.options.clone() };
        copies_come_and_go(seed, Load { options, ..load }, 12);
    }
}

/// What is staged and not written is not read, and a cursor that was at the end goes on.
#[test]
fn a_cursor_follows_the_end() {
    let mut driver = Driver::new(3, Load::default());
    driver.open().unwrap();
    let mut copy = Replica::at(&mut driver, 0);
    assert_eq!(copy.ask(&mut driver, 1000), LogRead::End);
    for n in 1..=3000_u64 {
        let write = Write { kind: Kind::Set, key: n.to_le_bytes().to_vec(), value: vec![7; 50] };
        while !driver.write(write.clone()).unwrap() {
            driver.store().write_turn().unwrap();
            expect(driver.poll());
        }
        assert_eq!(copy.ask(&mut driver, 1000), LogRead::End);
        driver.store().write_turn().unwrap();
        assert_eq!(copy.ask(&mut driver, 1000), LogRead::Read { upto: Lsn(n) });
        expect(driver.poll());
    }
}

#[test]
fn damage_is_found_and_not_passed_on() {
    for seed in 0..8 {
        let load = Load { keys: 200, longest_value: 3000, ..Load::default() };
        let mut driver = Driver::new(seed, load);
        driver.open().unwrap();
        expect(driver.run(120));
        driver.settle().unwrap();
        let logs = driver.machine.files().into_iter().filter(|(name, _)| name.ends_with(".log"));
        let (name, _) = logs.min().unwrap();
        let len = driver.machine.read(&name).iter().rposition(|byte| *byte != 0).unwrap();
        let at = 1024 + 48 + driver.dice.below(len as u64 - 1100) as usize;
        driver.machine.damage(&name, |bytes| bytes[at] ^= 4);
        let mut copy = Replica::at(&mut driver, 0);
        let read = loop {
            match copy.ask(&mut driver, 5000) {
                LogRead::Read { .. } => {}
                LogRead::Busy | LogRead::Cold(_) => {
                    driver.store().write_turn().unwrap();
                    let _ = driver.poll();
                }
                other => break other,
            }
        };
        assert_eq!(read, LogRead::Corrupt);
        let found = driver.store().health().unwrap().clone();
        assert!(found.file == name && found.offset <= at as u64, "{found:?}, {at}");
    }
}

/// Reads on, while nothing is written, until there is no more or what comes is damaged.
fn read_out(copy: &mut Replica, driver: &mut Driver) -> LogRead {
    for _ in 0..100_000 {
        match copy.ask(driver, 5000) {
            LogRead::Read { .. } => {}
            LogRead::Busy | LogRead::Cold(_) => {
                driver.store().write_turn().unwrap();
                let _ = driver.poll();
            }
            last @ (LogRead::End | LogRead::Corrupt) => return last,
        }
    }
    panic!("it reads at {} without an end", copy.at);
}

/// The names of the files with a seal. (Of one that compaction replaced, the hint may be there for a while yet.)
fn sealed_files(driver: &Driver) -> Vec<String> {
    let mut names: Vec<String> = driver.machine.files().into_iter().map(|(name, _)| name).collect();
    names.retain(|name| name.ends_with(".log") && driver.machine.read(name)[512..].starts_with(b"dkv-seal"));
    names
}

/// The last lsn of a sealed segment, as its seal has it.
fn last_of(driver: &Driver, name: &str) -> u64 {
    u64::from_le_bytes(driver.machine.read(name)[512 + 24..][..8].try_into().unwrap())
}

/// Where the only copy in sync was found damaged while it ran, another one that lacks nothing of the damaged file can get
/// the rest from it. Of that file nothing is sent, also where it looks sound: compacted, it may have lost records without
/// a trace.
#[test]
fn a_damaged_store_is_read_around_the_damaged_file() {
    let [mut met, mut whole, mut refused, mut compacted] = [0; 4];
    for seed in 0..40 {
        let load = Load { keys: 200, longest_value: 3000, evicts: seed % 4 == 0, ..Load::default() };
        let mut driver = Driver::new(seed, load);
        driver.open().unwrap();
        expect(driver.run(120));
        driver.settle().unwrap();
        let sealed = sealed_files(&driver);
        let name = driver.dice.pick(&sealed).unwrap().clone();
        let last = last_of(&driver, &name);
        let first = sealed.iter().map(|other| last_of(&driver, other)).filter(|other| *other < last).max().unwrap_or(0);
        driver.machine.damage(&name, |bytes| bytes[1024 + 200] ^= 4);
        // Somebody who gets everything meets it.
        if read_out(&mut Replica::at(&mut driver, 0), &mut driver) == LogRead::End {
            // A compaction was just about to put another file in its place, or had, unknown to the store.
            continue;
        }
        met += 1;
        assert_eq!(driver.store().health().map(|found| found.file.clone()), Some(name.clone()));
        compacted += u64::from(driver.machine.read(&name)[12] == 1);
        let end = driver.history.len() as u64;
        for at in [first, last.saturating_sub(1), last, last + (end - last) / 2, end] {
            let mut copy = Replica::at(&mut driver, at);
            let at = copy.at;
            let read = read_out(&mut copy, &mut driver);
            assert_eq!(read == LogRead::End, at >= last, "{read:?} from {at}, {name} ends with {last}");
            match read {
                LogRead::End => {
                    copy.catch_up(&mut driver);
                    whole += 1;
                }
                // Of a part it would make what never was: old records of which newer ones are damaged.
                _ => {
                    assert_eq!((copy.records, copy.jumps), (0, 0), "from {at}");
                    refused += 1;
                }
            }
        }
    }
    assert!(met > 30 && whole > 50 && refused > 20 && compacted > 5, "{met} {whole} {refused} {compacted}");
}

/// Each try to fill another copy would meet it anew, and read the same part of the disk again and again.
#[test]
fn a_store_that_is_damaged_in_two_files_is_not_read_any_more() {
    let mut driver = Driver::new(5, Load { keys: 200, longest_value: 3000, ..Load::default() });
    driver.open().unwrap();
    expect(driver.run(120));
    driver.settle().unwrap();
    let sealed = sealed_files(&driver);
    let [one, .., two] = &sealed[..] else { panic!("{sealed:?}") };
    for name in [one, two] {
        driver.machine.damage(name, |bytes| bytes[1024 + 200] ^= 4);
    }
    let floor = driver.store().small_state().tombstone_floor.0;
    let (end, after_one) = (driver.history.len() as u64, last_of(&driver, one).max(floor));
    assert!(after_one < last_of(&driver, two));
    assert_eq!(read_out(&mut Replica::at(&mut driver, 0), &mut driver), LogRead::Corrupt);
    assert_eq!(read_out(&mut Replica::at(&mut driver, end), &mut driver), LogRead::End);
    assert_eq!(read_out(&mut Replica::at(&mut driver, after_one), &mut driver), LogRead::Corrupt);
    assert_eq!(driver.store().health().map(|found| &found.file), Some(one));
    let calls = driver.machine.calls();
    for at in [0, after_one, end] {
        let mut cursor = driver.store().log_cursor(Lsn(at));
        assert_eq!(driver.store().read_log(&mut cursor, 5000, &mut Vec::new()), LogRead::Corrupt, "from {at}");
    }
    assert_eq!(driver.machine.calls(), calls);
}

/// A log at rest whose records are equally long, and the names of sealed files of it, which are compacted or not.
fn with_equal_records(compacted: bool) -> (Driver, Vec<String>) {
    let [keys, turns] = if compacted { [3000, 80] } else { [9000, 60] };
    let load = Load { keys, longest_value: 0, delete_once_in: 30, most_of_a_turn: 200, ..Load::default() };
    let mut driver = Driver::new(1, load);
    driver.open().unwrap();
    expect(driver.run(turns));
    driver.settle().unwrap();
    let mut names = sealed_files(&driver);
    names.retain(|name| (driver.machine.read(name)[12] == 1) == compacted);
    assert!(names.len() > 1, "{names:?}");
    (driver, names)
}

/// Where the records of a sealed file stand, and its marks.
fn frames(image: &[u8]) -> (Vec<usize>, Vec<usize>) {
    let end = u64::from_le_bytes(image[512 + 32..][..8].try_into().unwrap()) as usize;
    let is_record = |at: &usize| record::decode(&image[*at..]).is_ok();
    (1024..end).step_by(48).partition(is_record)
}

/// A disk that writes to a wrong place leaves what is sound by itself. Were it passed over, what stood there would seem
/// to be a gap that compaction left.
#[test]
fn what_stands_in_the_place_of_a_record_is_damage_and_no_gap() {
    for compacted in [false, true] {
        let (template, sealed) = with_equal_records(compacted);
        let [image, later] = [&sealed[0], &sealed[1]].map(|name| template.machine.read(name));
        let ((records, marks), (of_later, _)) = (frames(&image), frames(&later));
        let (middle, last) = (records.len() / 2, records.len() - 1);
        let frame = |at: usize| image[at..at + 48].to_vec();
        let mut harms = vec![
            (middle, frame(records[middle - 1])),
            (middle, frame(records[middle + 1])),
            (middle, frame(records[0])),
            (middle, later[of_later[0]..][..48].to_vec()),
            (last, later[of_later[0]..][..48].to_vec()),
            // Its length leads out of the file's data.
            (last, [&frame(records[last])[..6], &[0x10], &frame(records[last])[7..]].concat()),
        ];
        harms.extend(marks.first().into_iter().flat_map(|mark| [(middle, frame(*mark)), (last, frame(*mark))]));
        for (n, (at, other)) in harms.into_iter().enumerate() {
            let (mut driver, sealed) = with_equal_records(compacted);
            driver.machine.damage(&sealed[0], |bytes| bytes[records[at]..][..48].copy_from_slice(&other));
            let read = read_out(&mut Replica::at(&mut driver, 0), &mut driver);
            assert_eq!(read, LogRead::Corrupt, "harm {n}, compacted: {compacted}");
            let found = driver.store().health().unwrap();
            assert!(found.file == sealed[0] && found.offset >= records[at] as u64, "harm {n}: {found}");
        }
    }
}

#[test]
fn a_file_that_ends_before_its_records_do_is_damage() {
    for evicts in [false, true] {
        let (mut driver, sealed) = with_equal_records(false);
        let at = frames(&driver.machine.read(&sealed[1])).0[100];
        driver.machine.damage(&sealed[1], |bytes| bytes.truncate(at + 20));
        if evicts {
            driver.machine.evict();
        }
        assert_eq!(read_out(&mut Replica::at(&mut driver, 0), &mut driver), LogRead::Corrupt);
        let found = driver.store().health().unwrap();
        assert_eq!((&found.file, found.offset), (&sealed[1], at as u64));
    }
}

/// Also for a reader that had asked before the first was answered: only another file's damage is a second one.
#[test]
fn a_cold_read_that_fails_is_damage_of_the_file_that_was_read() {
    for [first, second] in [[0, 0], [1, 1], [0, 1], [1, 0]] {
        let (mut driver, sealed) = with_equal_records(false);
        driver.machine.evict();
        for n in [first, second] {
            let after = if n == 0 { 0 } else { last_of(&driver, &sealed[n - 1]) };
            let mut copy = Replica::at(&mut driver, after);
            assert!(matches!(copy.ask(&mut driver, 5000), LogRead::Cold(_)));
        }
        for is_given_up in [false, first != second] {
            driver.machine.fault_at(1, Fault::Error);
            while driver.machine.is_fault_to_come() {
                let _ = driver.poll();
            }
            let found = driver.store().health().unwrap();
            assert_eq!((&found.file, found.offset), (&sealed[first], 1024));
            assert_eq!(driver.store().is_given_up(), is_given_up);
        }
    }
}

#[test]
fn a_cold_get_that_fails_is_damage_of_the_file_that_was_read() {
    for n in [0, 1] {
        let (mut driver, sealed) = with_equal_records(false);
        let image = driver.machine.read(&sealed[n]);
        let live = frames(&image).0.into_iter().find_map(|at| {
            let (record, _) = record::decode(&image[at..]).unwrap();
            driver.model.get(record.key).filter(|(lsn, _)| *lsn == record.lsn.0).map(|_| (at, record.key))
        });
        let (at, key) = live.unwrap();
        driver.machine.evict();
        assert!(matches!(driver.store().get(key, None), Lookup::Cold(_)));
        driver.machine.fault_at(1, Fault::Error);
        while driver.machine.is_fault_to_come() {
            let _ = driver.poll();
        }
        let found = driver.store().health().unwrap();
        assert_eq!((&found.file, found.offset), (&sealed[n], at as u64));
    }
}

/// Else a reader that the page cache cannot keep up with would read the same for ever.
#[test]
fn what_a_cold_read_brought_is_handed_out_whatever_left_memory_since() {
    let mut driver = Driver::new(4, Load { keys: 200, ..Load::default() });
    driver.open().unwrap();
    expect(driver.run(120));
    driver.settle().unwrap();
    let mut copy = Replica::at(&mut driver, 0);
    let mut cold = 0;
    loop {
        driver.machine.evict();
        match copy.ask(&mut driver, 20_000) {
            LogRead::Cold(_) => cold += 1,
            last => break assert_eq!(last, LogRead::End),
        }
        for _ in 0..100 {
            expect(driver.poll());
        }
        assert_eq!(driver.log_reads, cold);
        driver.machine.evict();
        let read = copy.ask(&mut driver, 20_000);
        assert!(matches!(read, LogRead::Read { .. }), "{read:?}");
    }
    copy.catch_up(&mut driver);
    assert!(cold > 10, "{cold}");
}

/// Also from between records that compaction dropped, at the end of a file, too.
#[test]
fn a_copy_can_go_on_from_any_place() {
    let mut driver = Driver::new(2, Load { delete_once_in: u64::MAX, ..Load::default() });
    driver.open().unwrap();
    expect(driver.run(100));
    driver.settle().unwrap();
    for at in 0..=driver.history.len() as u64 {
        let mut copy = Replica::at(&mut driver, at);
        assert_eq!(copy.at, at);
        copy.catch_up(&mut driver);
    }
    assert!(driver.store().stats().compactions > 0);
}

#[test]
fn the_room_is_used_to_its_last_byte_and_one_record_comes_without_any() {
    let (mut driver, _) = with_equal_records(false);
    for (room, records) in [(0, 1), (1, 1), (95, 1), (96, 2), (97, 2), (480, 10)] {
        let mut bytes = Vec::new();
        let mut cursor = driver.store().log_cursor(Lsn(0));
        let read = driver.store().read_log(&mut cursor, room, &mut bytes);
        assert_eq!((read, bytes.len() as u64), (LogRead::Read { upto: Lsn(records) }, 48 * records), "{room} bytes");
    }
}

/// A turn must not be long because a copy lacks only the last records of a long file.
#[test]
fn a_long_way_to_the_first_record_is_gone_in_slices() {
    let options = Options { segment_bytes: 64 << 20, ..Options::default() };
    let mut driver = Driver::new(6, Load { options, most_of_a_turn: 200, ..Load::default() });
    driver.open().unwrap();
    expect(driver.run(30));
    driver.settle().unwrap();
    let end = driver.history.len() as u64;
    let mut copy = Replica::at(&mut driver, end - 1);
    let mut asked = 1;
    while copy.ask(&mut driver, 1 << 20) != (LogRead::Read { upto: Lsn(end) }) {
        asked += 1;
    }
    let bytes: usize = driver.history.iter().map(|write| write.value.len()).sum();
    assert!(asked * (3 << 19) > bytes && asked > 3, "asked {asked} times for {bytes} bytes");
}

/// It would be told where an epoch begins before anything of it is written.
#[test]
fn a_jump_to_the_end_is_of_the_epoch_of_what_is_written() {
    let mut driver = Driver::new(1, Load { commits_late: true, ..Load::default() });
    driver.open().unwrap();
    // Until there are some files, of which the last ends with a jump.
    let mut files = 0;
    while driver.store().stats().segments == files || files < 4 {
        files = driver.store().stats().segments;
        let end = driver.store().end();
        if end.0 % 2 == 1 {
            driver.store().jump(Epoch(1), end.next()).unwrap();
            driver.history.push(Write { kind: Kind::Jump, key: Vec::new(), value: Vec::new() });
            files = driver.store().stats().segments;
        } else {
            assert!(driver.write(Write { kind: Kind::Set, key: b"key".to_vec(), value: Vec::new() }).unwrap());
        }
        driver.store().write_turn().unwrap();
        for _ in 0..8 {
            expect(driver.poll());
        }
    }
    let end = driver.history.len() as u64 - 1;
    driver.store().truncate(Lsn(end)).unwrap();
    (driver.acked, _) = (end, driver.history.pop());
    driver.settle().unwrap();
    driver.store().persist(|state| state.lineage = vec![(Epoch(1), Lsn(1)), (Epoch(2), Lsn(end + 1))]).unwrap();
    driver.store().stage(Epoch(2), Kind::Set, b"new", b"", 0, Prior::None).unwrap();
    driver.history.push(Write { kind: Kind::Set, key: b"new".to_vec(), value: Vec::new() });
    let mut copy = Replica::at(&mut driver, 0);
    assert_eq!(read_out(&mut copy, &mut driver), LogRead::End);
    assert_eq!((copy.at, copy.epoch), (end, Epoch(1)));
    driver.store().write_turn().unwrap();
    assert_eq!(read_out(&mut copy, &mut driver), LogRead::End);
    assert_eq!((copy.at, copy.epoch), (end + 1, Epoch(2)));
}
