//! What a store refuses: another node's records that it cannot take, for each reason, whole and without a trace; and,
//! as they could only come from a fault of the node itself, cuts of what is committed and ways back.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::{Epoch, Lsn};
use dkv::store::{AppendError, Event, Kind, Lookup, OpenError, Options, Prior, StageError, Store, record};
use support::driver::fresh;
use support::faulty_disk::{FaultyDisk, Machine};

const KEY: &[u8] = b"key";

fn open(machine: &Machine) -> Store<FaultyDisk> {
    let options = Options { segment_bytes: 256 << 10, ..Options::default() };
    Store::open(machine.disk(), options, fresh).unwrap().0
}

fn bytes(lsn: u64, epoch: u64, kind: Kind, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (lsn, epoch) = (Lsn(lsn), Epoch(epoch));
    record::encode(&mut bytes, &record::Record { lsn, epoch, kind, expiry_ms: 0, key, value });
    bytes
}

/// A record of epoch 2 that sets the key.
fn set(lsn: u64, value: &[u8]) -> Vec<u8> {
    bytes(lsn, 2, Kind::Set, KEY, value)
}

/// Turns until all that was taken is durable.
fn sync(store: &mut Store<FaultyDisk>) {
    for _ in 0..200 {
        store.write_turn().unwrap();
        while store.poll().unwrap().is_some() {}
        if store.durable() == store.end() {
            return;
        }
    }
    panic!("{:?} of {:?} is durable", store.durable(), store.end());
}

/// Three durable records of epoch 2, of which one is committed.
fn three() -> (Machine, Store<FaultyDisk>) {
    let machine = Machine::new(1);
    let mut store = open(&machine);
    for lsn in 1..=3 {
        store.append(&set(lsn, &[lsn as u8; 100])).unwrap();
        sync(&mut store);
    }
    store.commit(Lsn(1));
    (machine, store)
}

fn value(store: &mut Store<FaultyDisk>) -> Option<u8> {
    match store.get(KEY, None) {
        Lookup::Found { value, .. } => value.first().copied(),
        Lookup::Absent => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_that_are_no_part_of_the_log_are_refused_and_the_next_good_ones_are_taken() {
    let (_, mut store) = three();
    let mut flipped = set(5, b"v");
    flipped[41] ^= 1;
    let cases = [
        (set(5, b"v"), "at byte 0 of 48: record 5 of epoch 2 stands where 4 of epoch 2 or later belongs"),
        (set(3, b"v"), "record 3 of epoch 2 stands where 4"),
        (bytes(4, 1, Kind::Set, KEY, b"v"), "record 4 of epoch 1 stands where 4 of epoch 2 or later"),
        ([set(4, b"v"), set(6, b"v")].concat(), "at byte 48 of 96: record 6 of epoch 2 stands where 5"),
        ([set(4, b"v"), flipped].concat(), "at byte 48 of 96: "),
        ([set(4, b"v"), set(5, b"v")[..47].to_vec()].concat(), "at byte 48 of 95: "),
        (bytes(3, 2, Kind::Jump, b"", b""), "record 3 of epoch 2 stands where 4"),
    ];
    for (records, why) in cases {
        let refused = store.append(&records).unwrap_err();
        assert!(matches!(refused, AppendError::Bad(_)), "{refused:?}");
        assert!(refused.to_string().starts_with("the records do not continue the log: at byte"), "{refused}");
        assert!(refused.to_string().contains(why), "{refused}, not {why}");
        assert_eq!((store.end(), store.durable()), (Lsn(3), Lsn(3)));
    }
    assert_eq!(store.append(&set(4, &[4])), Ok(Lsn(4)));
    sync(&mut store);
    store.commit(Lsn(4));
    assert_eq!(value(&mut store), Some(4));
}

#[test]
fn a_full_disk_refuses_what_sets_a_value_whole_and_takes_it_when_there_is_room() {
    let (machine, mut store) = three();
    machine.set_capacity(machine.used_bytes());
    let next = |store: &Store<FaultyDisk>, kind, value: &[u8]| bytes(store.end().0 + 1, 2, kind, KEY, value);
    for value in [&[1; 4_000][..], &[1]] {
        let mut taken = 0;
        while store.append(&next(&store, Kind::Set, value)).is_ok() {
            taken += 1;
            assert!(taken < 500, "the disk is never full");
            sync(&mut store);
        }
    }
    let refused = store.append(&next(&store, Kind::Set, &[1])).unwrap_err();
    assert_eq!(refused, AppendError::Full);
    assert_eq!(refused.to_string(), "the disk has no room for the records");
    let end = store.end();
    sync(&mut store);
    assert_eq!((store.end(), store.stats().disk_full), (end, true));
    // What makes room is taken all the same; nothing that sets a value rides on it.
    let delete = bytes(end.0 + 1, 2, Kind::Delete, KEY, b"");
    let then_set = set(end.0 + 2, &[1]);
    assert_eq!(store.append(&[delete.clone(), then_set].concat()), Err(AppendError::Full));
    assert_eq!(store.append(&delete), Ok(end.next()));
    sync(&mut store);
    machine.set_capacity(u64::MAX);
    sync(&mut store);
    let value_again = next(&store, Kind::Set, &[9; 4_000]);
    assert_eq!(store.append(&value_again), Ok(Lsn(end.0 + 2)));
    sync(&mut store);
    let all = store.end();
    store.commit(all);
    assert_eq!(value(&mut store), Some(9));
}

#[test]
fn records_that_come_faster_than_the_disk_makes_files_are_refused_until_it_has() {
    let (machine, mut store) = three();
    machine.hang();
    let mut refused = None;
    while refused.is_none() {
        let (end, has_room) = (store.end(), store.room_bytes() > 0);
        refused = store.append(&set(end.0 + 1, &[1; 4_000])).err();
        assert!(end.0 < 200, "it takes any number");
        assert_eq!(refused.is_none(), has_room, "{end:?}");
        store.write_turn().unwrap();
    }
    let end = store.end();
    assert_eq!(refused, Some(AppendError::Busy));
    assert_eq!(AppendError::Busy.to_string(), "too much is staged and not committed");
    assert_eq!((store.append(&set(end.0 + 1, b"v")), store.end()), (Err(AppendError::Busy), end));
    machine.resume();
    let next = set(end.0 + 1, b"v");
    let taken = (0..200).find_map(|_| {
        sync(&mut store);
        store.append(&next).ok()
    });
    assert_eq!(taken, Some(end.next()));
}

#[test]
fn what_was_promised_is_taken_without_waiting_for_the_disk() {
    let machine = Machine::new(2);
    let mut store = open(&machine);
    machine.hang();
    let window = store.window_bytes();
    assert!((60 << 10..=64 << 10).contains(&window), "{window}");
    let mut sent = 0;
    for lsn in 1.. {
        let record = set(lsn, b"v");
        sent += record.len() as u64;
        if sent > window {
            break;
        }
        assert_eq!(store.append(&record), Ok(Lsn(lsn)), "{sent} of {window}");
        store.write_turn().unwrap();
    }
}

/// How many such records are taken.
fn append_all(store: &mut Store<FaultyDisk>, kind: Kind, value: &[u8]) -> u64 {
    (0..).find(|_| store.append(&bytes(store.end().0 + 1, 2, kind, KEY, value)).is_err()).unwrap()
}

#[test]
fn on_a_full_disk_room_is_what_is_taken_and_a_little_more_is_found_by_itself() {
    let (machine, mut store) = three();
    machine.set_capacity(machine.used_bytes() + 20_000);
    append_all(&mut store, Kind::Set, &[1; 2_000]);
    sync(&mut store);
    assert!((100..2_000).contains(&store.room_bytes()) && store.stats().disk_full);
    // Two steps of 4 KiB for the log's end, and two for the spare.
    machine.set_capacity(machine.used_bytes() + 4 * 4_096);
    sync(&mut store);
    assert!(store.room_bytes() > 1 << 20 && !store.stats().disk_full);
    append_all(&mut store, Kind::Set, &[1; 2_000]);
    sync(&mut store);
    let room = store.room_bytes() as usize;
    assert!((100..2_000).contains(&room), "{room}");
    let longest = vec![1; room - record::RECORD_HEADER - KEY.len()];
    let one_byte_more = [longest.clone(), vec![1]].concat();
    let next = store.end().0 + 1;
    assert_eq!(store.append(&set(next, &one_byte_more)), Err(AppendError::Full));
    sync(&mut store);
    assert_eq!(store.append(&set(next, &longest)), Ok(Lsn(next)));
    sync(&mut store);
    assert_eq!(store.room_bytes(), 0);
}

#[test]
fn on_a_full_disk_deletes_have_a_step_of_room_and_one_more_where_the_disk_has_some() {
    let (machine, mut store) = three();
    // Less than a step of 4 KiB.
    machine.set_capacity(machine.used_bytes() + 3_000);
    append_all(&mut store, Kind::Set, &[1; 500]);
    let deleted = 48 * append_all(&mut store, Kind::Delete, b"");
    assert!((4_096 + 2_000..4_096 + 3_600).contains(&deleted), "{deleted}");
    sync(&mut store);
    let end = store.end();
    store.close().unwrap();
    machine.kill();
    assert_eq!(open(&machine).end(), end);
}

/// The spare was given back for an output that was not made then: the room was kept for it, and no value was taken any
/// more, however much there was.
#[test]
fn room_that_compaction_does_not_need_after_all_is_anybodys() {
    let machine = Machine::new(3);
    let mut store = open(&machine);
    let append_turn = |store: &mut Store<FaultyDisk>| {
        let first = store.end().0 + 1;
        let deletes = (0..16).map(|n| bytes(first + 1 + n, 2, Kind::Delete, &(first + n).to_le_bytes(), b""));
        let value = bytes(first, 2, Kind::Set, format!("key {first}").as_bytes(), &[1; 4_000]);
        let records = [value].into_iter().chain(deletes).collect::<Vec<_>>().concat();
        store.append(&records).map(|_| {
            sync(store);
            store.commit(store.end());
            sync(store);
        })
    };
    for _ in 0..20 {
        append_turn(&mut store).unwrap();
    }
    machine.set_capacity(machine.used_bytes());
    while append_turn(&mut store).is_ok() {}
    store.write_turn().unwrap();
    // All that is dead are tombstones.
    store.hold_tombstones(Some(Lsn::ZERO));
    (0..100).for_each(|_| drop(store.poll().unwrap()));
    assert!(!machine.files().iter().any(|(name, _)| name == "spare"));
    store.write_turn().unwrap();
    assert_eq!(store.stats().compactions, 0);
    machine.set_capacity(u64::MAX);
    sync(&mut store);
    assert_eq!(append_turn(&mut store), Ok(()));
}

#[test]
fn a_damaged_store_takes_nothing_and_cuts_nothing() {
    let (machine, mut store) = three();
    store.write_turn().unwrap();
    store.close().unwrap();
    machine.kill();
    let (name, _) = machine.files().into_iter().find(|(name, _)| name.ends_with(".log")).unwrap();
    machine.damage(&name, |file| {
        let at = file.windows(100).position(|window| window == [2; 100]).unwrap();
        file[at + 50] ^= 1;
    });
    let mut store = open(&machine);
    assert!(store.health().is_some());
    let (end, image) = (store.end(), machine.read(&name));
    assert_eq!(store.append(&set(end.0 + 1, b"v")), Err(AppendError::Corrupt));
    assert_eq!(AppendError::Corrupt.to_string(), "the store is damaged");
    assert_eq!(store.append(b"not even records"), Err(AppendError::Corrupt));
    assert_eq!(store.stage(Epoch(2), Kind::Set, KEY, b"v", 0, Prior::None), Err(StageError::Corrupt));
    assert_eq!(store.jump(Epoch(2), Lsn(100)), Err(StageError::Corrupt));
    assert_eq!((store.room_bytes(), store.window_bytes()), (0, 0));
    let goal = store.commit_goal();
    store.truncate(goal).unwrap();
    store.write_turn().unwrap();
    assert_eq!((store.end(), machine.read(&name) == image), (end, true));
}

#[test]
fn a_log_is_cut_down_to_what_is_committed() {
    let (_, mut store) = three();
    store.truncate(Lsn(1)).unwrap();
    assert_eq!((store.end(), store.durable(), value(&mut store)), (Lsn(1), Lsn(1), Some(1)));
    assert_eq!(store.append(&set(2, &[7])), Ok(Lsn(2)));
}

#[test]
#[should_panic(expected = "the log is cut at Lsn(0): it may be cut within Lsn(1)..=Lsn(3)")]
fn what_is_committed_is_never_cut() {
    let (_, mut store) = three();
    let _ = store.truncate(Lsn(0));
}

#[test]
#[should_panic(expected = "the log is cut at Lsn(4): it may be cut within Lsn(1)..=Lsn(3)")]
fn what_is_not_there_is_never_cut() {
    let (_, mut store) = three();
    let _ = store.truncate(Lsn(4));
}

/// What is to be committed may still wait for a look at the index: it is safe from cuts from the first word on.
#[test]
#[should_panic(expected = "the log is cut at Lsn(3): it may be cut within Lsn(4)..=Lsn(4)")]
fn what_is_about_to_be_committed_is_never_cut() {
    let (machine, mut store) = three();
    store.commit(Lsn(3));
    store.append(&set(4, b"v")).unwrap();
    sync(&mut store);
    machine.evict();
    store.commit(Lsn(4));
    assert_eq!(store.committed(), Lsn(3), "it must read first");
    let _ = store.truncate(Lsn(3));
}

#[test]
#[should_panic(expected = "Lsn(4) is committed before it is durable (Lsn(3))")]
fn nothing_is_committed_before_it_is_durable() {
    let (_, mut store) = three();
    store.append(&set(4, b"v")).unwrap();
    store.write_turn().unwrap();
    store.commit(Lsn(4));
}

#[test]
#[should_panic(expected = "a jump to Lsn(3) from Lsn(3)")]
fn a_jump_leads_on() {
    let (_, mut store) = three();
    let _ = store.jump(Epoch(2), Lsn(3));
}

#[test]
#[should_panic(expected = "Epoch(1) after Epoch(2)")]
fn a_jump_of_an_older_epoch_is_none() {
    let (_, mut store) = three();
    let _ = store.jump(Epoch(1), Lsn(9));
}

#[test]
#[should_panic(expected = "Epoch(1) after Epoch(2)")]
fn a_record_of_an_older_epoch_is_not_staged() {
    let (_, mut store) = three();
    let _ = store.stage(Epoch(1), Kind::Set, b"other", b"v", 0, Prior::None);
}

#[test]
fn options_out_of_their_range_are_refused() {
    let (kib, mib) = (1 << 10, 1 << 20);
    for (segment_bytes, compact_dead_percent, is_good) in [
        (256 * kib, 5, true),
        (256 * mib, 45, true),
        (252 * kib, 40, false),
        (256 * mib + 4096, 40, false),
        (256 * kib + 512, 40, false),
        (64 * mib, 4, false),
        (64 * mib, 46, false),
    ] {
        let options = Options { segment_bytes, compact_dead_percent, ..Options::default() };
        let refused = Store::open(Machine::new(1).disk(), options, fresh).err();
        let is_right = if is_good { refused.is_none() } else { matches!(refused, Some(OpenError::Options(_))) };
        assert!(is_right, "{segment_bytes} and {compact_dead_percent}: {refused:?}");
    }
}

/// Whoever waits for what stays is told; of what was durable before, nobody is told again.
#[test]
fn a_cut_says_what_it_made_durable() {
    for (durable, to, told) in [(2, 5, vec![5]), (7, 5, vec![]), (5, 5, vec![])] {
        let mut store = open(&Machine::new(1));
        for lsn in 1..=8 {
            store.append(&set(lsn, &[0; 100])).unwrap();
            if lsn == durable {
                sync(&mut store);
            }
        }
        store.truncate(Lsn(to)).unwrap();
        let events: Vec<Event> = std::iter::from_fn(|| store.poll().unwrap()).collect();
        let lsns = events.iter().filter_map(|event| if let Event::Durable(upto) = event { Some(upto.0) } else { None });
        assert_eq!(lsns.collect::<Vec<_>>(), told, "{durable} were durable");
    }
}
