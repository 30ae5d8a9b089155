//! What a store refuses: another node's records that it cannot take, for each reason, whole and without a trace; and,
//! as they could only come from a fault of the node itself, cuts of what is committed and ways back.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::{Epoch, Lsn};
use dkv::store::{AppendError, Kind, Lookup, Options, Prior, StageError, Store, record};
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
        let end = store.end();
        refused = store.append(&set(end.0 + 1, &[1; 4_000])).err();
        assert!(end.0 < 200, "it takes any number");
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
