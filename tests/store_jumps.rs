//! Jumps, on real files: through starts and the offline tools.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

use dkv::id::{Epoch, Lsn, Uuid};
use dkv::store::dir::DataDir;
use dkv::store::files::RealDisk;
use dkv::store::offline::{cut, dump_with, verify};
use dkv::store::segment::DATA_AT;
use dkv::store::{Event, Home, Kind, Options, Prior, SmallState, Store};
use std::net::SocketAddr;
use std::path::Path;

fn open(path: &Path) -> Store<RealDisk> {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let disk = RealDisk::start(DataDir::open(path).unwrap(), || ()).unwrap();
    let options = Options { segment_bytes: 256 << 10, ..Options::default() };
    let (_, mut store, _) = Home::open(disk, options, address, || SmallState::new(Uuid(1), 3, true)).unwrap();
    store.commit(store.durable());
    store
}

fn flip(file: &Path, at: u64) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at as usize] ^= 4;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn jumps_are_verified_and_dumped_and_a_cut_keeps_them() {
    let tmp = tempfile::tempdir().unwrap();
    let mut store = open(tmp.path());
    let far = 1_u64 << 48;
    let mut lsns = Vec::new();
    for n in 0..120_u64 {
        let lsn = match n % 40 {
            7 => store.jump(Epoch(1), Lsn(store.end().0 + 3)).unwrap(),
            20 => store.jump(Epoch(1), Lsn((n / 40 + 1) * far)).unwrap(),
            _ => store.stage(Epoch(1), Kind::Set, &n.to_le_bytes(), &[7; 1000], 0, Prior::None).unwrap(),
        };
        lsns.push(lsn.0);
        store.write_turn().unwrap();
        while store.durable() < store.end() {
            if let Some(Event::Durable(upto)) = store.poll().unwrap() {
                store.commit(upto);
            }
            std::thread::yield_now();
        }
    }
    store.close().unwrap();
    let found = verify(tmp.path()).unwrap();
    assert_eq!((found.end, found.committed, &found.damage), (3 * far + 19, 3 * far + 19, &None));
    let mut dumped = Vec::new();
    dump_with(tmp.path(), |line| {
        assert_eq!(line.kind == "jump", line.key.is_empty());
        dumped.push(line.lsn);
        Ok(())
    })
    .unwrap();
    assert_eq!(dumped, lsns);
    // The 20th record of the second segment, behind a jump or not, and all behind it.
    let second = found.segments[1].clone();
    flip(&tmp.path().join(&second.file), DATA_AT + 48 + 20 * 1096 + 100);
    let cut = cut(tmp.path()).unwrap().unwrap();
    assert!(cut.end >= second.first && cut.end < second.last && lsns.contains(&cut.end), "{cut:?}, {second:?}");
    let kept = lsns.iter().enumerate().filter(|(n, lsn)| **lsn <= cut.end && ![7, 20].contains(&(n % 40)));
    let kept = kept.count() as u64;
    let mut store = open(tmp.path());
    assert_eq!((store.health(), store.end(), store.keys()), (None, Lsn(cut.end), kept));
    assert_eq!(store.jump(Epoch(1), Lsn(1 << 60)), Ok(Lsn(1 << 60)));
    store.close().unwrap();
}
