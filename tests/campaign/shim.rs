//! Owns: the library that stands between a node and its libc (`shim.c`): its build, the control page of each node, and
//! taking away what a dead node had written and not synced.
//! Never: processes; what the bytes mean.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::dice::Dice;

/// Words of the control page.
#[derive(Debug, Clone, Copy)]
pub enum Word {
    /// Every sync fails with EIO.
    FailSyncs = 0,
    /// Every sync takes so much longer.
    SyncDelayMs = 1,
    /// No sync returns.
    Hang = 2,
    /// Writes find no room.
    NoSpace = 3,
    /// The wall clock is so far ahead.
    WallOffsetNs = 4,
    /// How many millionths faster the other clocks run, from the next start of the process on. Outlives [`clear`].
    ///
    /// [`clear`]: NodeShim::clear
    ClockPpm = 5,
}

/// Those that [`NodeShim::clear`] clears come first.
const WORDS: usize = 5;

/// The library.
pub struct Shim(PathBuf);

impl Shim {
    /// Builds it; `None`: there is no C compiler.
    pub fn build(dir: &Path) -> Option<Shim> {
        let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
        fs::write(&source, include_str!("shim.c")).unwrap();
        let output =
            Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(Shim(library))
    }

    /// The shim of one node. `data`: its directory, as the node is told it.
    pub fn of_node(&self, dir: PathBuf, data: PathBuf) -> NodeShim {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("control"), [0; 4096]).unwrap();
        let control = OpenOptions::new().write(true).open(dir.join("control")).unwrap();
        NodeShim { library: self.0.clone(), control, dir, data }
    }
}

/// One node's.
pub struct NodeShim {
    library: PathBuf,
    control: File,
    dir: PathBuf,
    data: PathBuf,
}

impl NodeShim {
    /// The words that go before a program's, so that it runs above the shim.
    pub fn wrapper(&self) -> Vec<String> {
        let (library, dir, data) = (self.library.display(), self.dir.display(), self.data.display());
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={library}"),
            format!("DKV_SHIM_DIR={dir}"),
            format!("DKV_SHIM_DATA={data}"),
        ]
    }

    pub fn set(&self, word: Word, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), word as u64 * 8).unwrap();
    }

    /// The directory is another one than before.
    pub fn forget(&self) {
        let _ = fs::remove_file(self.dir.join("undo"));
    }

    /// All is well again.
    pub fn clear(&self) {
        self.control.write_all_at(&[0; WORDS * 8], 0).unwrap();
    }

    /// What the power's loss does to the data of a process that is dead: of what was not synced, all is lost, or any
    /// part of it. Gives how many writes were undone, in part or whole.
    pub fn lose_unsynced(&self, dice: &mut Dice) -> usize {
        let journal = fs::read(self.dir.join("undo")).unwrap_or_default();
        let _ = fs::remove_file(self.dir.join("undo"));
        let unsynced = unsynced(&journal);
        let files: HashMap<u64, PathBuf> = files_of(&self.data);
        let loses_all = dice.once_in(2);
        let mut undone = 0;
        for record in unsynced.iter().rev() {
            let Some(path) = files.get(&record.inode) else { continue };
            let file = OpenOptions::new().write(true).open(path).unwrap();
            if loses_all {
                file.write_all_at(record.old, record.at).unwrap();
                file.set_len(record.old_len).unwrap();
                undone += 1;
            } else if record.kind == WRITE && dice.once_in(2) {
                // Sectors from some place on.
                let from = dice.below(record.len.div_ceil(SECTOR) + 1) * SECTOR;
                undone += usize::from(from < record.len);
                for at in (from..record.len).step_by(SECTOR as usize) {
                    let upto = (at + SECTOR).min(record.len);
                    let mut old = record.old.get(at as usize..).unwrap_or_default().to_vec();
                    old.resize((upto - at) as usize, 0);
                    file.write_all_at(&old, record.at + at).unwrap();
                }
            }
        }
        undone
    }
}

const SECTOR: u64 = 512;
const WRITE: u64 = 1;
const SYNCED: u64 = 4;
const CREATED: u64 = 5;
const HEAD: usize = 56;

struct Record<'a> {
    kind: u64,
    seq: u64,
    inode: u64,
    at: u64,
    old_len: u64,
    len: u64,
    old: &'a [u8],
}

/// The records of a journal that no sync covers, in order. One that was cut off by the death of its writer was never
/// carried out.
fn unsynced(mut journal: &[u8]) -> Vec<Record<'_>> {
    let mut records: Vec<Record<'_>> = Vec::new();
    while let Some((head, rest)) = journal.split_at_checked(HEAD) {
        let word = |n: usize| u64::from_ne_bytes(head[n * 8..n * 8 + 8].try_into().unwrap());
        let Some((old, rest)) = rest.split_at_checked(word(6) as usize) else { break };
        let record =
            Record { kind: word(0), seq: word(1), inode: word(2), at: word(3), old_len: word(4), len: word(5), old };
        match record.kind {
            SYNCED => records.retain(|r| r.inode != record.inode || r.seq > record.at),
            CREATED => records.retain(|r| r.inode != record.inode),
            _ => records.push(record),
        }
        journal = rest;
    }
    records
}

fn files_of(dir: &Path) -> HashMap<u64, PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
    entries.map(|entry| (entry.metadata().unwrap().ino(), entry.path())).collect()
}
