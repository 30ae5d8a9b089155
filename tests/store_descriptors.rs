//! A process that has no descriptor left for a new file. Alone in its file, because the limit is the process's.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

use dkv::id::{Epoch, Lsn, Uuid};
use dkv::store::dir::DataDir;
use dkv::store::files::RealDisk;
use dkv::store::{Event, Kind, Options, Prior, SmallState, StageError, Store};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;

fn open(path: &Path) -> Store<RealDisk> {
    let disk = RealDisk::start(DataDir::open(path).unwrap(), || ()).unwrap();
    let options = Options { segment_bytes: 256 << 10, ..Options::default() };
    Store::open(disk, options, || SmallState::new(Uuid(1), 3, true)).unwrap().0
}

/// Writes until this many records are there, or one is refused for want of room.
fn write_upto(store: &mut Store<RealDisk>, end: u64) -> Result<(), StageError> {
    while store.end() < Lsn(end) {
        let key = store.end().0.to_le_bytes();
        match store.stage(Epoch(1), Kind::Set, &key, &[7; 1000], 0, Prior::None) {
            Ok(_) | Err(StageError::Busy) => {}
            Err(error) => return Err(error),
        }
        store.write_turn().unwrap();
        while let Some(event) = store.poll().unwrap() {
            if let Event::Durable(upto) = event {
                store.commit(upto);
            }
        }
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn without_a_descriptor_writes_are_refused_until_there_is_one_and_nothing_is_lost() {
    let tmp = tempfile::tempdir().unwrap();
    let mut store = open(tmp.path());
    write_upto(&mut store, 10).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    assert_eq!(write_upto(&mut store, 1000), Err(StageError::Full));
    let end = store.end().0;
    assert!(end > 10, "there was room in the files that are open");
    setrlimit(Resource::Nofile, limit).unwrap();
    while write_upto(&mut store, 1000).is_err() {
        store.write_turn().unwrap();
        store.poll().unwrap();
    }
    store.close().unwrap();
    let store = open(tmp.path());
    assert_eq!((store.health(), store.end()), (None, Lsn(1000)));
}
