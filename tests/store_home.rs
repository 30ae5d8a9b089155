//! A node's directory with its generations, on a disk that fails, crashes and fills up: the generation that counts is
//! the old one or the new one, whole; the other one's space is freed; what was persisted stays.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod support;

use dkv::id::{Epoch, Uuid};
use dkv::store::{
    Event, Home, HomeEvent, Kind, Lookup, OpenError, Options, PersistId, Prior, Recovery, SmallState, StageError, Store,
};
use support::driver::address;
use support::faulty_disk::{Fault, FaultyDisk, Machine};

type Disks = (Home<FaultyDisk>, Store<FaultyDisk>, Recovery);

fn options() -> Options {
    Options { segment_bytes: 256 << 10, ..Options::default() }
}

fn state(store: u128) -> SmallState {
    SmallState::new(Uuid(store), 5, store == 1)
}

fn open(machine: &Machine) -> Result<Disks, OpenError> {
    Home::open(machine.disk(), options(), address(), || state(1))
}

/// The value that every key of a generation has.
fn value(generation: u64) -> [u8; 900] {
    [generation as u8; 900]
}

/// What ends a story before its time: a failed disk.
#[derive(Debug)]
struct Ended;

/// Sets the keys 1 to `keys` and waits until they are durable and committed.
fn fill(store: &mut Store<FaultyDisk>, generation: u64, keys: u64) -> Result<(), Ended> {
    for key in 1..=keys {
        loop {
            let staged = store.stage(Epoch(1), Kind::Set, &key.to_le_bytes(), &value(generation), 0, Prior::None);
            match staged {
                Ok(_) => break,
                Err(StageError::Busy) => turn(store)?,
                Err(error) => panic!("{error:?}"),
            }
        }
        if key % 7 == 0 {
            store.write_turn().map_err(|_| Ended)?;
        }
    }
    while store.committed() < store.end() {
        turn(store)?;
    }
    Ok(())
}

fn turn(store: &mut Store<FaultyDisk>) -> Result<(), Ended> {
    store.write_turn().map_err(|_| Ended)?;
    while let Some(event) = store.poll().map_err(|_| Ended)? {
        if let Event::Durable(upto) = event {
            store.commit(upto);
        }
    }
    Ok(())
}

fn wait_for(home: &mut Home<FaultyDisk>, wanted: HomeEvent) -> Result<(), Ended> {
    for _ in 0..10_000 {
        let event = home.poll().map_err(|_| Ended)?;
        if event == Some(wanted) {
            return Ok(());
        }
    }
    panic!("{wanted:?} does not come");
}

/// What a story had been told.
#[derive(Debug, Default)]
struct Told {
    /// Of these generations, one must count: the last that was told, and the one that may have been adopted since.
    filled: Vec<u64>,
    adopted: u64,
    formation: u8,
    voter: u8,
}

const KEYS: [u64; 6] = [0, 90, 0, 120, 60, 0];

/// Opens a new directory, fills its first generation, abandons a second, fills and adopts a third, and so on.
fn story(machine: &Machine, told: &mut Told) -> Result<(), Ended> {
    let (mut home, mut store, _) = open(machine).map_err(|_| Ended)?;
    fill(&mut store, 1, KEYS[1])?;
    (told.filled, told.adopted) = (vec![1], 1);
    let id = home.persist(|state| state.formation = vec![1]).map_err(|_| Ended)?;
    let first = home.persist_voter(vec![1; 10]).map_err(|_| Ended)?;
    let voter = home.persist_voter(vec![2; 3000]).map_err(|_| Ended)?;
    assert!(voter > first);
    wait_for(&mut home, HomeEvent::VoterPersisted(voter))?;
    told.voter = 2;
    // One that is given up while it is written.
    let mut begun = home.begin(options(), state(2)).map_err(|_| Ended)?;
    begun.stage(Epoch(1), Kind::Set, b"key", &value(2), 0, Prior::None).map_err(|_| Ended)?;
    begun.write_turn().map_err(|_| Ended)?;
    begun.persist(|state| state.epoch = Epoch(4)).map_err(|_| Ended)?;
    drop(begun);
    let third = home.begin(options(), state(3)).map_err(|_| Ended)?;
    told.formation = u8::from(adopt(&mut home, &mut store, third, 3, told)? >= id);
    let fourth = home.begin(options(), state(4)).map_err(|_| Ended)?;
    adopt(&mut home, &mut store, fourth, 4, told)?;
    // What is begun when the machine ends.
    let mut begun = home.begin(options(), state(5)).map_err(|_| Ended)?;
    fill(&mut begun, 5, 20)?;
    drop(begun);
    store.close().map_err(|_| Ended)?;
    home.close().map_err(|_| Ended)
}

fn adopt(
    home: &mut Home<FaultyDisk>,
    store: &mut Store<FaultyDisk>,
    mut begun: Store<FaultyDisk>,
    generation: u64,
    told: &mut Told,
) -> Result<PersistId, Ended> {
    fill(&mut begun, generation, KEYS[generation as usize])?;
    told.filled.push(generation);
    let id = home.adopt().map_err(|_| Ended)?;
    // The old one serves and takes writes until then.
    store.stage(Epoch(1), Kind::Set, b"more", b"more", 0, Prior::None).map_err(|_| Ended)?;
    turn(store)?;
    wait_for(home, HomeEvent::Persisted(id))?;
    told.adopted = generation;
    told.filled.retain(|filled| *filled == generation);
    *store = begun;
    for _ in 0..5 {
        home.poll().map_err(|_| Ended)?;
    }
    Ok(id)
}

/// What is there after a crash is what the story had been told, or a little more; and nothing else.
fn judge(machine: &Machine, told: &Told, n: u64) -> (Home<FaultyDisk>, Store<FaultyDisk>) {
    let (home, mut store, _) = open(machine).unwrap_or_else(|error| panic!("call {n}: {error}"));
    assert_eq!(store.health(), None, "call {n}");
    let generation = home.state().generation;
    assert!(told.filled.is_empty() || told.filled.contains(&generation), "call {n}: {generation}, {told:?}");
    assert!(generation >= told.adopted, "call {n}: {generation}, {told:?}");
    assert_eq!(store.small_state().store, Uuid(u128::from(generation)));
    assert_eq!(store.small_state().whole, generation == 1);
    assert!(home.state().formation.len() >= usize::from(told.formation), "call {n}");
    assert_eq!(home.state().address, address());
    assert!(!home.is_voter_damaged(), "call {n}");
    let voter = home.voter().map_or(0, |voter| voter[0]);
    assert!(voter >= told.voter && voter <= 2, "call {n}: {voter}");
    store.commit(store.durable());
    if !told.filled.is_empty() {
        for key in 1..=KEYS[generation as usize] {
            let found = store.get(&key.to_le_bytes(), None);
            assert!(
                matches!(found, Lookup::Found { value: found, .. } if found == value(generation)),
                "call {n}: {key}"
            );
        }
    }
    let prefix = format!("{generation}-");
    let names: Vec<String> = machine.files().into_iter().map(|(name, _)| name).collect();
    let is_known = |name: &String| name.starts_with(&prefix) || name.starts_with("node") || name.starts_with("voter");
    assert!(names.iter().all(is_known), "call {n}: {names:?}");
    (home, store)
}

/// Runs the story to its n-th call of the disk for every n.
fn each_call(fault: Fault, loses_power: bool) {
    let mut calls = 0;
    for n in 1.. {
        let machine = Machine::new(n);
        let mut told = Told::default();
        machine.fault_at(n, fault);
        let ended = story(&machine, &mut told);
        let is_over = machine.is_fault_to_come();
        assert_eq!(ended.is_ok(), is_over || (fault == Fault::Error && ended.is_ok()), "call {n}");
        match loses_power {
            true => machine.lose_power(n),
            false => machine.kill(),
        }
        // The next start, too, may end at any call.
        if n % 3 == 0 {
            let fork = machine.fork(n);
            fork.fault_at(1 + n * 7 % 50, Fault::Stop);
            drop(open(&fork));
            fork.lose_power(n);
            judge(&fork, &told, n);
        }
        let (home, store) = judge(&machine, &told, n);
        // What this start found is for good.
        let generation = home.state().generation;
        let voter = home.voter().map_or(0, |voter| voter[0]);
        let formation = home.state().formation.len() as u8;
        let now = Told { filled: vec![generation], adopted: generation, formation, voter };
        drop((home, store));
        machine.lose_power(n + 1);
        judge(&machine, &if told.filled.is_empty() { Told::default() } else { now }, n);
        if is_over {
            break;
        }
        calls = n;
    }
    assert!(calls > 150, "{calls}");
}

#[test]
fn a_crash_at_every_call_leaves_one_generation_whole() {
    each_call(Fault::Stop, true);
}

#[test]
fn a_killed_process_at_every_call_leaves_one_generation_whole() {
    each_call(Fault::Stop, false);
}

#[test]
fn a_failure_at_every_call_leaves_one_generation_whole() {
    each_call(Fault::Error, true);
}

/// A settled, killed node.
fn settled() -> Machine {
    let machine = Machine::new(3);
    let mut told = Told::default();
    story(&machine, &mut told).unwrap();
    machine.kill();
    machine
}

#[test]
fn a_missing_or_damaged_voters_file_is_no_error() {
    for (damaged, harm) in [(false, None), (true, Some(20)), (true, Some(8)), (true, Some(3))] {
        let machine = settled();
        match harm {
            None => machine.lose("voter"),
            Some(at) => machine.damage("voter", |bytes| bytes[at] ^= 1),
        }
        let (mut home, _store, _) = open(&machine).unwrap();
        assert_eq!((home.voter(), home.is_voter_damaged()), (None, damaged));
        let id = home.persist_voter(vec![8; 4]).unwrap();
        wait_for(&mut home, HomeEvent::VoterPersisted(id)).unwrap();
        drop((home, _store));
        machine.lose_power(1);
        let (home, ..) = open(&machine).unwrap();
        assert_eq!((home.voter(), home.is_voter_damaged()), (Some(&[8; 4][..]), false));
    }
    let machine = settled();
    machine.damage("voter", |bytes| bytes.truncate(0));
    let (home, ..) = open(&machine).unwrap();
    assert_eq!((home.voter(), home.is_voter_damaged()), (None, true));
}

#[test]
fn what_makes_a_directory_unusable_is_one_sentence() {
    let refused = |harm: &dyn Fn(&Machine)| {
        let machine = settled();
        harm(&machine);
        let before = machine.files();
        let refused = open(&machine).map(|_| ()).unwrap_err().to_string();
        assert_eq!(machine.files(), before, "{refused}");
        assert!(!refused.contains('\n'), "{refused}");
        refused
    };
    for at in [0, 9, 14, 40] {
        let text = refused(&|machine| machine.damage("node", |bytes| bytes[at] ^= 0x80));
        assert!(text.contains("`node`") && (text.contains("restore the whole directory") || at == 9), "{at}: {text}");
    }
    assert!(refused(&|machine| machine.damage("node", |bytes| bytes[8] = 9)).contains("format 9"));
    assert!(refused(&|machine| machine.damage("node", |bytes| bytes[8] = 0)).contains("restore the whole directory"));
    assert!(refused(&|machine| machine.lose("node")).contains("`node` is missing"));
    assert!(refused(&|machine| machine.lose("4-state")).contains("`state` is missing"));
    let other = Home::open(settled().disk(), options(), "127.0.0.1:9".parse().unwrap(), || state(1));
    assert!(other.map(|_| ()).unwrap_err().to_string().contains("belongs to the node 127.0.0.1:8080"));
}

#[test]
fn a_full_disk_hinders_neither_file_nor_a_start() {
    let machine = settled();
    for round in 1..=4_u8 {
        let (mut home, mut store, _) = open(&machine).unwrap();
        machine.set_capacity(machine.used_bytes());
        assert!(matches!(home.begin(options(), state(9)), Err(OpenError::Full)));
        for n in 1..=5 {
            let voter = home.persist_voter(vec![round; 3000 + 10 * n]).unwrap();
            let node = home.persist(|state| state.largest_grace_ms += 1).unwrap();
            let mut open = vec![HomeEvent::VoterPersisted(voter), HomeEvent::Persisted(node)];
            for _ in 0..1000 {
                let event = home.poll().unwrap();
                open.retain(|wanted| Some(*wanted) != event);
                turn(&mut store).unwrap();
            }
            assert!(open.is_empty(), "{open:?} do not come");
        }
        drop((home, store));
        machine.lose_power(u64::from(round));
        let (home, store, _) = open(&machine).unwrap();
        assert_eq!(home.state().largest_grace_ms, u64::from(round) * 5);
        assert_eq!(home.voter().unwrap(), [round; 3050]);
        drop((home, store));
        machine.kill();
        machine.set_capacity(u64::MAX);
    }
}

/// The same number of operations is under way for each, and each learns of its own.
#[test]
fn stores_side_by_side_do_not_hear_of_each_other() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        let (mut home, mut one, _) = open(&machine).unwrap();
        let mut two = home.begin(options(), state(2)).unwrap();
        for key in 0..400_u64 {
            for (generation, store) in [(1, &mut one), (2, &mut two)] {
                let staged = store.stage(Epoch(1), Kind::Set, &key.to_le_bytes(), &value(generation), 0, Prior::None);
                assert!(matches!(staged, Ok(_) | Err(StageError::Busy)), "{staged:?}");
                turn(store).unwrap();
            }
            if key % 20 == 0 {
                home.persist(|state| state.largest_grace_ms += 1).unwrap();
                one.persist(|state| state.epoch.0 += 1).unwrap();
                home.poll().unwrap();
            }
        }
        for store in [&mut one, &mut two] {
            for _ in 0..1000 {
                turn(store).unwrap();
            }
            assert_eq!(store.committed(), store.end());
        }
        one.close().unwrap();
        two.close().unwrap();
        home.close().unwrap();
        machine.kill();
        let (home, store, _) = open(&machine).unwrap();
        assert_eq!((home.state().largest_grace_ms, store.small_state().epoch), (20, Epoch(20)));
    }
}

/// What a hung disk had begun for a generation that is given up does not come back.
#[test]
fn what_is_under_way_for_a_generation_that_goes_leaves_nothing() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        let (mut home, store, _) = open(&machine).unwrap();
        let mut begun = home.begin(options(), state(2)).unwrap();
        machine.hang();
        begun.persist(|state| state.epoch = Epoch(4)).unwrap();
        begun.stage(Epoch(1), Kind::Set, b"key", &value(2), 0, Prior::None).unwrap();
        begun.write_turn().unwrap();
        drop(begun);
        home.abandon();
        for _ in 0..50 {
            assert_eq!(home.poll().unwrap(), None);
        }
        machine.resume();
        for _ in 0..50 {
            assert_eq!(home.poll().unwrap(), None);
        }
        assert!(machine.files().iter().all(|(name, _)| !name.starts_with("2-")), "{:?}", machine.files());
        let next = home.begin(options(), state(3)).unwrap();
        assert_eq!(next.small_state().store, Uuid(3));
        drop((home, store, next));
    }
}

#[test]
fn what_a_full_disk_hindered_is_done_when_there_is_room() {
    let machine = settled();
    let (mut home, ..) = open(&machine).unwrap();
    let first = home.persist_voter(vec![1; 10_000]).unwrap();
    wait_for(&mut home, HomeEvent::VoterPersisted(first)).unwrap();
    machine.set_capacity(0);
    // There is room for one that is twice as long, and then no more.
    let second = home.persist_voter(vec![2; 19_900]).unwrap();
    wait_for(&mut home, HomeEvent::VoterPersisted(second)).unwrap();
    let third = home.persist_voter(vec![3; 10]).unwrap();
    for _ in 0..100 {
        assert_eq!(home.poll().unwrap(), None);
    }
    machine.set_capacity(u64::MAX);
    wait_for(&mut home, HomeEvent::VoterPersisted(third)).unwrap();
}

#[test]
fn what_was_asked_for_is_durable_when_a_home_is_closed() {
    let machine = settled();
    let (mut home, ..) = open(&machine).unwrap();
    home.persist(|state| state.largest_grace_ms = 77).unwrap();
    home.persist_voter(vec![7]).unwrap();
    home.close().unwrap();
    machine.lose_power(1);
    let (home, ..) = open(&machine).unwrap();
    assert_eq!((home.state().largest_grace_ms, home.voter()), (77, Some(&[7][..])));
}

#[test]
fn the_files_of_a_generation_that_was_replaced_go_while_the_node_runs() {
    let machine = Machine::new(4);
    let (mut home, mut store, _) = open(&machine).unwrap();
    let next = home.begin(options(), state(2)).unwrap();
    adopt(&mut home, &mut store, next, 2, &mut Told::default()).unwrap();
    for _ in 0..100 {
        home.poll().unwrap();
    }
    assert!(machine.files().iter().all(|(name, _)| !name.starts_with("1-")), "{:?}", machine.files());
}

#[test]
fn a_failure_of_the_disk_is_said_ever_after() {
    let machine = settled();
    let (mut home, ..) = open(&machine).unwrap();
    machine.fault_at(1, Fault::WriteError);
    let failed = home
        .persist_voter(vec![1])
        .and_then(|_| std::iter::repeat_with(|| home.poll()).take(100).find_map(Result::err).map_or(Ok(()), Err));
    assert!(failed.is_err());
    assert!(home.poll().is_err() && home.persist(|_| ()).is_err() && home.adopt().is_err() && home.close().is_err());
}

/// Its voter may have promised something, though the first generation holds nothing.
#[test]
fn a_directory_with_a_voters_file_and_without_a_nodes_file_is_not_a_new_one() {
    for has_voter in [false, true] {
        let machine = Machine::new(5);
        let (mut home, ..) = open(&machine).unwrap();
        if has_voter {
            home.persist_voter(vec![1]).unwrap();
        }
        home.close().unwrap();
        machine.lose("node");
        machine.kill();
        let opened = open(&machine).map(drop);
        assert_eq!(opened.is_err(), has_voter, "{opened:?}");
    }
}
