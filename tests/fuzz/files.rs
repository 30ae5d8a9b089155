//! Owns: the target `files`: a node's small files (`node`, `voter`, `state`), damaged or forged. A damaged one is refused,
//! or noticed, or means what it meant; what is taken is written anew by the start, and means the same again.
//!
//! An input's first byte says which file, the second whether its checksum is made to fit; the rest is the file.
//! Never: what a formation or a voter's memory says.

use super::harness::{Target, Trail, number_of};
use super::support::driver::{address, fresh};
use super::support::faulty_disk::{FaultyDisk, Machine};
use dkv::node::registers::formation_of;
use dkv::store::{Event, Home, HomeEvent, Kind, NodeState, OpenError, Options, Prior, SmallState, Store};
use std::collections::BTreeMap;
use std::sync::OnceLock;

pub const TARGET: Target = Target {
    name: "files",
    seeds,
    words: &[
        b"dkv-node",
        b"dkv-vote",
        b"dkv-stat",
        b"127.0.0.1:8080",
        b"[::1]:8080",
        b"\xff\xff\xff\xff",
        b"\x01\x00\x00\x00",
        b"\x02\x00\x00\x00",
    ],
    longest: 600,
    executions: 3000,
    run,
};

const NAMES: [&str; 3] = ["node", "voter", "1-state"];

type Files = BTreeMap<String, Vec<u8>>;

/// What a start makes of a directory.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    node: NodeState,
    voter: Option<Vec<u8>>,
    state: SmallState,
}

/// A directory that was used and closed.
fn template() -> &'static Files {
    static TEMPLATE: OnceLock<Files> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let machine = Machine::new(1);
        let (mut home, mut store) = open(&machine).unwrap();
        let formation = super::registers::formation();
        home.persist(|state| {
            (state.formation, state.largest_grace_ms) = (dkv::node::registers::formation_file(&formation), 700);
        })
        .unwrap();
        home.persist_voter(dkv::node::registers::voter_file(&formation, dkv::id::NodeId(0), &[]).unwrap()).unwrap();
        store
            .persist(|state| {
                state.lineage = vec![(dkv::id::Epoch(1), dkv::id::Lsn(1)), (dkv::id::Epoch(3), dkv::id::Lsn(2))];
                state.epoch.0 = 3;
            })
            .unwrap();
        store.stage(dkv::id::Epoch(3), Kind::Set, b"key", b"value", 0, Prior::None).unwrap();
        store.write_turn().unwrap();
        while store.durable() < store.end() {
            while let Some(event) = store.poll().unwrap() {
                if let Event::Durable(lsn) = event {
                    store.commit(lsn);
                }
            }
        }
        store.close().unwrap();
        home.close().unwrap();
        machine.files().into_iter().map(|(name, _)| (name.clone(), machine.read(&name))).collect()
    })
}

fn open(machine: &Machine) -> Result<(Home<FaultyDisk>, Store<FaultyDisk>), OpenError> {
    let options = Options { segment_bytes: 256 << 10, ..Options::default() };
    Home::open(machine.disk(), options, address(), fresh).map(|(home, store, _)| (home, store))
}

fn machine_of(files: &Files) -> Machine {
    let machine = Machine::new(1);
    for (name, bytes) in files {
        machine.put(name, bytes.clone());
    }
    machine
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (which, name) in (0..).zip(NAMES) {
        let file = &template()[name];
        seeds.push([&[which, 0], &file[..]].concat());
        // Without the checksum and the space behind it.
        let len = file.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        seeds.push([&[which, 1], &file[..len.saturating_sub(4)]].concat());
    }
    seeds
}

fn run(input: &[u8], trail: &mut Trail) {
    let [which, is_forged, content @ ..] = input else { return };
    let name = NAMES[usize::from(*which) % NAMES.len()];
    let is_forged = is_forged & 1 == 1;
    let mut bytes = content.to_vec();
    if is_forged {
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    }
    trail.step((name, is_forged));
    let mut files = template().clone();
    files.insert(name.to_owned(), bytes);
    let Some((found, files)) = start(&files, trail) else { return };
    if !is_forged {
        static WAS: OnceLock<Found> = OnceLock::new();
        let was = WAS.get_or_init(|| start(template(), &mut Trail::default()).unwrap().0);
        assert_eq!((&found.node, &found.state), (&was.node, &was.state), "what is damaged means nothing else");
        assert!(found.voter == was.voter || (found.voter.is_none() && name == "voter"));
    }
    trail.step(formation_of(&found.node.formation).map(|formation| formation.is_some()).is_ok());
    if let Some(voter) = &found.voter {
        super::registers::start_with(&found.node.formation, voter, trail);
    }
    let (again, _) = start(&files, &mut Trail::default()).expect("what a start has taken, the next one takes");
    assert_eq!(again, found);
    trail.step(number_of(&found.node.generation.to_le_bytes()) & 1);
}

/// Opens a directory; changes both of the node's files and back, and closes it.
fn start(files: &Files, trail: &mut Trail) -> Option<(Found, Files)> {
    let machine = machine_of(files);
    let (mut home, store) = match open(&machine) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!matches!(error, OpenError::Io(..) | OpenError::Fatal(_) | OpenError::Full), "{error}");
            assert!(!error.to_string().is_empty());
            trail.step(std::mem::discriminant(&error));
            return None;
        }
    };
    trail.step((home.is_voter_damaged(), home.voter().is_some(), store.health().is_some()));
    let grace = home.state().largest_grace_ms;
    for value in [5, grace] {
        let id = home.persist(|state| state.largest_grace_ms = value).unwrap();
        loop {
            match home.poll().unwrap() {
                Some(HomeEvent::Persisted(done)) if done == id => break,
                _ => {}
            }
        }
    }
    let found = Found {
        node: home.state().clone(),
        voter: home.voter().map(<[u8]>::to_vec),
        state: store.small_state().clone(),
    };
    store.close().unwrap();
    home.close().unwrap();
    let files = machine.files().into_iter().map(|(name, _)| (name.clone(), machine.read(&name))).collect();
    Some((found, files))
}
