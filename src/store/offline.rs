//! Owns: the tools for a node that is stopped: checking a directory's log, printing it, and cutting it where it is
//! damaged.
//! Never: anything while a node uses the directory: they hold its lock.

use super::dir::{DataDir, DirError};
use super::disk::{Disk, Lane};
use super::files::RealDisk;
use super::record::{Kind, put};
use super::recovery::{self, Found, OpenError, Run, Stop, Survey, read_file};
use super::scan::{Placed, Scan};
use super::segment::{Head, Seal, Seq};
use super::{Corruption, NodeState, Options, SmallState, VoterFile, home, rebuild};
use crate::id::{Epoch, Lsn};
use serde::Serialize;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};

/// Why a tool cannot do its work.
#[derive(Debug)]
pub enum OfflineError {
    /// The directory cannot be used.
    Dir(DirError),
    /// The store in it cannot be read or written.
    Store(OpenError),
    /// Reading or writing a file failed.
    Io(&'static str, io::Error),
}

impl std::fmt::Display for OfflineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OfflineError::Dir(error) => write!(f, "{error}"),
            OfflineError::Store(error) => write!(f, "{error}"),
            OfflineError::Io(what, error) => write!(f, "{what} failed: {error}"),
        }
    }
}

impl std::error::Error for OfflineError {}

impl From<DirError> for OfflineError {
    fn from(error: DirError) -> Self {
        OfflineError::Dir(error)
    }
}

impl From<OpenError> for OfflineError {
    fn from(error: OpenError) -> Self {
        OfflineError::Store(error)
    }
}

/// A place where the log is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file's name.
    pub file: String,
    /// Bytes from its start.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.file, self.offset, self.reason)
    }
}

/// What stands in one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// The file's name.
    pub file: String,
    /// The file's length in bytes.
    pub bytes: u64,
    /// It is complete and never changes.
    pub sealed: bool,
    /// Compaction wrote it.
    pub compacted: bool,
    /// The first lsn that it stands for; 0 if that cannot be told.
    pub first: u64,
    /// The last lsn that it stands for, or, if it is not sealed, that was found in it.
    pub last: u64,
    /// Sound records.
    pub records: u64,
    /// The first place where it is damaged, if it is.
    pub damage: Option<Damage>,
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// The node whose directory it is.
    pub address: String,
    /// The store's uuid.
    pub store: String,
    /// All segments in order, as far as they belong to the log.
    pub segments: Vec<SegmentReport>,
    /// The last lsn.
    pub end: u64,
    /// The last lsn that is known to be committed.
    pub committed: u64,
    /// Bytes behind the last record that were never synced: no damage; the next start cuts them. See
    /// [`super::Recovery::torn_bytes`].
    pub torn_bytes: u64,
    /// The first damage in the order of the log, if there is any: from there on the log cannot be used.
    pub damage: Option<Damage>,
}

/// One record, as [`dump`] prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DumpLine {
    /// The segment's file name.
    pub file: String,
    /// Bytes from the file's start.
    pub offset: u64,
    /// The record's lsn.
    pub lsn: u64,
    /// The record's epoch.
    pub epoch: u64,
    /// `set`, `delete` or `jump`.
    pub kind: &'static str,
    /// The key; what is not printable ASCII is escaped as in Rust.
    pub key: String,
    /// The value's length.
    pub value_bytes: u64,
    /// Unix time in milliseconds at which it expires; 0: never.
    pub expiry_ms: u64,
}

/// What [`cut`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// Where the log was damaged.
    pub damage: Damage,
    /// The last lsn that is left. Newer records are lost; of their keys, older values may be back.
    pub end: u64,
    /// Keys that have a value now.
    pub keys: u64,
    /// The files as they were before, under these names. They are not used any more and can be removed.
    pub kept_aside: Vec<String>,
}

/// A directory that is being looked at.
pub(super) struct Examined {
    pub node: NodeState,
    pub voter: VoterFile,
    /// The generation that counts.
    disk: RealDisk,
    pub state: SmallState,
    names: Vec<String>,
    all: Vec<Found>,
    /// Up to the first damage.
    survey: Survey,
    run: Option<Run>,
    segments: Vec<SegmentReport>,
    pub damage: Option<Damage>,
    /// What was given another name, too.
    kept_aside: Vec<String>,
}

/// Reads all of a log and says what is in it, and where it is damaged. Changes nothing.
///
/// # Errors
/// Where the directory is in use or cannot be read.
pub fn verify(path: &Path) -> Result<Verification, OfflineError> {
    let examined = examine(path, false)?;
    Ok(Verification {
        address: examined.node.address.to_string(),
        store: examined.state.store.to_string(),
        end: examined.end().0,
        committed: examined.committed().0,
        torn_bytes: examined.run.as_ref().map_or(0, |run| run.torn_bytes),
        segments: examined.segments,
        damage: examined.damage,
    })
}

/// Hands out every sound record of the log, in order, up to the first damage, which is returned.
///
/// # Errors
/// Where the directory is in use or cannot be read, or `out` fails.
pub fn dump_with(
    path: &Path,
    mut out: impl FnMut(&DumpLine) -> io::Result<()>,
) -> Result<Option<Damage>, OfflineError> {
    let mut examined = examine(path, false)?;
    examined.each_record(|file, placed| {
        let record = placed.record;
        let line = DumpLine {
            file: file.to_owned(),
            offset: placed.at,
            lsn: record.lsn.0,
            epoch: record.epoch.0,
            kind: match record.kind {
                Kind::Set => "set",
                Kind::Delete => "delete",
                Kind::Jump => "jump",
            },
            key: record.key.escape_ascii().to_string(),
            value_bytes: record.value.len() as u64,
            expiry_ms: record.expiry_ms,
        };
        out(&line).map_err(|e| OfflineError::Io("printing a record", e))
    })?;
    Ok(examined.damage)
}

/// Prints every sound record of the log, a line each, as [`dump_with`] hands them out; with `json`, an object a line.
///
/// # Errors
/// As [`dump_with`].
pub fn dump(path: &Path, out: &mut dyn Write, json: bool) -> Result<Option<Damage>, OfflineError> {
    dump_with(path, |line| {
        if json {
            serde_json::to_writer(&mut *out, line)?;
            return writeln!(out);
        }
        let DumpLine { lsn, epoch, kind, key, value_bytes, .. } = line;
        writeln!(out, "{lsn}\tepoch {epoch}\t{kind}\t{key}\t{value_bytes} bytes")
    })
}

/// Cuts a damaged log off at the first damage, so that the store opens again: all from there on is lost, and kept
/// aside under other names. `None`: it is not damaged, and nothing was done.
///
/// # Errors
/// Where the directory is in use, or cannot be read or written.
pub fn cut(path: &Path) -> Result<Option<Cut>, OfflineError> {
    let mut examined = examine(path, true)?;
    let Some(damage) = examined.damage.clone() else {
        return Ok(None);
    };
    let run = examined.keep_what_is_sound(&damage, path)?;
    examined.set_aside(path)?;
    examined.lower_claims(run.end)?;
    // The names are those of before: what was set aside is not there any more for the rebuild to remove.
    let mut names = std::mem::take(&mut examined.names);
    names.retain(|name| examined.path_of(path, name).exists());
    let Examined { disk, mut state, survey, kept_aside, .. } = examined;
    state.cuts += 1;
    let found = Ok((Survey { needless: Vec::new(), ..survey }, run));
    let (store, recovery) = rebuild::rebuild(disk, Options::default(), state, &names, found)?;
    if let Some(corruption) = store.health() {
        return Err(OfflineError::Io("cutting the log", io::Error::other(corruption.to_string())));
    }
    store.close().map_err(OpenError::from)?;
    Ok(Some(Cut { damage, end: recovery.end.0, keys: recovery.keys, kept_aside }))
}

pub(super) fn examine(path: &Path, exclusive: bool) -> Result<Examined, OfflineError> {
    let directory = DataDir::open_existing(path, exclusive)?;
    let start = |e| OfflineError::Io("starting the disk's threads", e);
    let mut disk = RealDisk::start(directory, || ()).map_err(start)?;
    let node = home::read_node(&mut disk)?.ok_or(OpenError::NodeMissing)?;
    let names = disk.list().map_err(|e| OfflineError::Io("listing the data directory", e))?;
    let voter = home::read_voter(&mut disk, &names)?;
    let mut disk = disk.handle(&home::prefix_of(node.generation));
    let names = disk.list().map_err(|e| OfflineError::Io("listing the data directory", e))?;
    let state = recovery::read_state(&mut disk, &names)?.ok_or(OpenError::StateMissing)?;
    let all = recovery::read_heads(&mut disk, &names)?;
    let (survey, stop) = recovery::sort(all.clone(), state.store);
    let (run, segments) = (None, Vec::new());
    let mut examined =
        Examined { node, voter, disk, state, names, all, survey, run, segments, damage: None, kept_aside: Vec::new() };
    examined.read_segments()?;
    let sorted_badly = match stop {
        Some(Stop::Corrupt(corruption)) => Some(examined.damage_of(corruption)),
        Some(Stop::Error(error)) => return Err(error.into()),
        None => None,
    };
    // What was found in a segment stands before what was found of the files behind it.
    if examined.damage.is_none() {
        examined.damage = sorted_badly;
    }
    if examined.damage.is_none() {
        examined.follow()?;
    }
    Ok(examined)
}

impl Examined {
    /// The last lsn.
    pub fn end(&self) -> Lsn {
        self.run.as_ref().map_or(self.survey.sealed_end(), |run| run.end)
    }

    /// The last lsn that is known to be committed.
    pub fn committed(&self) -> Lsn {
        self.run.as_ref().map_or(Lsn::ZERO, |run| run.committed.min(run.end))
    }

    /// Hands out every sound record, with its file's name, in order, up to the first damage.
    pub fn each_record(
        &mut self,
        mut take: impl FnMut(&str, &Placed<'_>) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let Examined { disk, survey, .. } = self;
        let sealed = survey.sealed.iter().map(|(found, head, _)| (found, head));
        let unsealed = survey.unsealed.iter().map(|(found, head)| (found, head));
        let mut next = Lsn(1);
        for (found, head) in sealed.chain(unsealed) {
            let image = read_file(disk, found.file, found.len).map_err(|e| OfflineError::Io("reading the log", e))?;
            let end = found.seal.map_or(image.len() as u64, |seal| seal.end);
            let file = disk.whole_name(&found.seq.log_name());
            let mut scan = Scan::new(&image, head.salt, next, head.compacted, Epoch::default());
            while let Ok(Some(placed)) = scan.next_record(end) {
                take(&file, &placed)?;
            }
            next = found.seal.map_or(scan.expected, |seal| seal.last.next());
        }
        Ok(())
    }

    /// As recovery says it, with the file's name as it stands in the directory.
    fn damage_of(&self, Corruption { file, offset, reason }: Corruption) -> Damage {
        Damage { file: self.disk.whole_name(&file), offset, reason }
    }

    fn path_of(&self, path: &Path, name: &str) -> PathBuf {
        path.join(self.disk.whole_name(name))
    }

    /// Reads every segment up to its first damage.
    fn read_segments(&mut self) -> Result<(), OfflineError> {
        let sealed = self.survey.sealed.iter().map(|(found, head, seal)| (found, head, Some(*seal)));
        let unsealed = self.survey.unsealed.iter().map(|(found, head)| (found, head, None));
        let mut next = Lsn(1);
        for (found, head, seal) in sealed.chain(unsealed) {
            let image = read_file(&mut self.disk, found.file, found.len);
            let image = image.map_err(|e| OfflineError::Io("reading the log", e))?;
            let file = self.disk.whole_name(&found.seq.log_name());
            let first = seal.map_or(next, |seal| seal.first);
            let mut scan = Scan::new(&image, head.salt, first, head.compacted, Epoch::default());
            let (records, damage) = read_segment(&mut scan, &image, seal, head);
            let last = seal.map_or(Lsn(scan.expected.0 - 1), |seal| seal.last);
            next = last.next();
            let damage = damage.map(|reason| Damage { file: file.clone(), offset: scan.at, reason });
            if self.damage.is_none() {
                self.damage.clone_from(&damage);
            }
            self.segments.push(SegmentReport {
                file,
                bytes: found.len,
                sealed: seal.is_some(),
                compacted: head.compacted,
                first: first.0,
                last: last.0,
                records,
                damage,
            });
        }
        Ok(())
    }

    fn follow(&mut self) -> Result<(), OfflineError> {
        let judged = recovery::run(&mut self.disk, &self.survey);
        match judged {
            Ok(run) => self.run = Some(run),
            Err(Stop::Corrupt(corruption)) => {
                self.damage = Some(self.damage_of(corruption));
                let named = |s: &&mut SegmentReport| self.damage.as_ref().is_some_and(|d| d.file == s.file);
                if let Some(segment) = self.segments.iter_mut().find(named) {
                    segment.damage.clone_from(&self.damage);
                }
            }
            Err(Stop::Error(error)) => return Err(error.into()),
        }
        Ok(())
    }

    /// Narrows the survey down to what is sound: whole sealed segments, and the sound part of the one behind them.
    fn keep_what_is_sound(&mut self, damage: &Damage, path: &Path) -> Result<Run, OfflineError> {
        let at = |seq: Seq| self.disk.whole_name(&seq.log_name()) == damage.file;
        if let Some(n) = self.survey.sealed.iter().position(|(found, ..)| at(found.seq)) {
            let (found, head, seal) = self.survey.sealed[n].clone();
            self.survey.sealed.truncate(n);
            self.survey.unsealed.clear();
            if head.compacted {
                self.keep_compacted(&found, &head, &seal, path)?;
            } else {
                self.survey.unsealed.push((found, head));
            }
        } else if let Some(n) = self.survey.unsealed.iter().position(|(found, _)| at(found.seq)) {
            // Damage of the seal: what is behind it is given up. Damage of the records: the run ends there by itself.
            self.survey.unsealed.truncate(if damage.offset == Seal::AT { n + 1 } else { usize::MAX });
        } else {
            // A file is missing, or its head is damaged.
            self.survey.unsealed.clear();
        }
        let (mut run, ..) = recovery::follow(&mut self.disk, &self.survey)?;
        run.committed = run.committed.min(run.end);
        Ok(run)
    }

    /// The sound part of a compacted segment becomes a whole one that stands for less.
    fn keep_compacted(&mut self, found: &Found, head: &Head, seal: &Seal, path: &Path) -> Result<(), OfflineError> {
        let failed = |e| OfflineError::Io("writing the sound part of a segment", e);
        let image = read_file(&mut self.disk, found.file, found.len).map_err(failed)?;
        let mut scan = Scan::new(&image, head.salt, seal.first, true, Epoch::default());
        read_segment(&mut scan, &image, Some(*seal), head);
        let last = Lsn(scan.expected.0 - 1);
        if last < seal.first {
            return Ok(());
        }
        let shorter = Seal { last, end: scan.at, committed: seal.committed.min(last), ..*seal };
        let mut bytes = image.get(..scan.at as usize).unwrap_or_default().to_vec();
        put(&mut bytes, Seal::AT as usize, &shorter.encode(head.salt));
        let [name, temporary] =
            [found.seq.log_name(), found.seq.temporary_name()].map(|name| self.path_of(path, &name));
        let aside = self.name_aside(path, found);
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::hard_link(&name, &aside)?;
            std::fs::rename(&temporary, &name)?;
            File::open(path)?.sync_all()
        };
        write().map_err(failed)?;
        let file = self.disk.open(&found.seq.log_name()).map_err(failed)?;
        let found = Found { file, len: bytes.len() as u64, seal: Some(shorter), ..found.clone() };
        self.survey.sealed.push((found, *head, shorter));
        Ok(())
    }

    /// Every file that is not whole and sealed gets another name, too; what has a sound part keeps its own as well,
    /// until the rebuild replaces it.
    fn set_aside(&mut self, path: &Path) -> Result<(), OfflineError> {
        for found in self.all.clone() {
            if self.survey.sealed.iter().any(|(kept, ..)| kept.seq == found.seq) {
                continue;
            }
            let has_part = self.survey.unsealed.iter().any(|(kept, _)| kept.seq == found.seq);
            let [from, to] = [self.path_of(path, &found.seq.log_name()), self.name_aside(path, &found)];
            let moved = if has_part { std::fs::hard_link(&from, &to) } else { std::fs::rename(&from, &to) };
            moved.map_err(|e| OfflineError::Io("setting a damaged file aside", e))?;
        }
        let synced = File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(|e| OfflineError::Io("syncing the data directory", e))
    }

    /// A name for what is set aside: one that no earlier cut has taken, and of no generation, so that it outlives this
    /// one.
    fn name_aside(&mut self, path: &Path, found: &Found) -> PathBuf {
        let name = found.seq.log_name();
        let mut names = std::iter::once(format!("{name}.cut")).chain((2..).map(|n| format!("{name}.cut{n}")));
        let free = names.find(|name| !path.join(name).exists()).expect("the names have no end");
        self.kept_aside.push(free.clone());
        path.join(free)
    }

    /// What is cut was committed, and the seals of compacted segments say so: the next start would take its absence
    /// for damage.
    fn lower_claims(&mut self, end: Lsn) -> Result<(), OfflineError> {
        let failed = |e| OfflineError::Io("sealing a segment anew", e);
        for (found, head, seal) in &mut self.survey.sealed {
            if seal.committed <= end {
                continue;
            }
            seal.committed = end;
            found.seal = Some(*seal);
            let bytes = seal.encode(head.salt);
            self.disk.write(found.file, Seal::AT, &[IoSlice::new(&bytes)]).map_err(failed)?;
            let op = self.disk.start_sync(Lane::Data, found.file);
            rebuild::wait_for(&mut self.disk, op).map_err(failed)?;
        }
        Ok(())
    }
}

/// Reads a segment to its end or its first damage: how many records, and what is wrong at `scan.at`.
fn read_segment(scan: &mut Scan<'_>, image: &[u8], seal: Option<Seal>, head: &Head) -> (u64, Option<String>) {
    let end = seal.map_or(image.len() as u64, |seal| seal.end);
    let mut records = 0;
    loop {
        match (scan.next_record(end), seal) {
            (Ok(Some(_)), _) => records += 1,
            (Ok(None), Some(seal)) if !seal.is_end(scan.expected, head) => {
                let reason = format!("its records end with {}, but its seal says {}", scan.expected.0 - 1, seal.last.0);
                return (records, Some(reason));
            }
            // Where an unsealed one ends is judged by what is behind it.
            (Ok(None), _) | (Err(_), None) => return (records, None),
            (Err(reason), Some(_)) => return (records, Some(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Uuid;
    use crate::store::segment::DATA_AT;
    use crate::store::stopped::Stopped;
    use crate::store::{Home, Prior, Probe, Store};
    use std::net::SocketAddr;

    fn open(path: &Path) -> Store<RealDisk> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let disk = RealDisk::start(DataDir::open(path).unwrap(), || ()).unwrap();
        let options = Options { segment_bytes: 256 << 10, ..Options::default() };
        let (_, mut store, _) = Home::open(disk, options, address, || SmallState::new(Uuid(1), 3, true)).unwrap();
        store.commit(store.durable());
        store
    }

    /// Writes what is staged and waits for all that follows, so that the same is in the files each time.
    fn turn(store: &mut Store<RealDisk>) {
        store.write_turn().unwrap();
        store.settle().unwrap();
        store.commit(store.durable());
        while store.background(1 << 20).unwrap() || !store.under_way.is_empty() {
            store.settle().unwrap();
        }
        store.events.clear();
    }

    /// Sets a key, in a turn of its own.
    fn set(store: &mut Store<RealDisk>, key: u64) {
        let key = key.to_le_bytes();
        let prior = loop {
            match store.probe(&key, None) {
                Probe::Present { prior, .. } | Probe::Absent { prior, .. } => break prior,
                // The kernel may say so of what is in the page cache, too.
                Probe::Cold(_) => store.settle().unwrap(),
                Probe::Corrupt => panic!("{:?}", store.health()),
            }
        };
        store.stage(Epoch(1), Kind::Set, &key, &[8; 900], 0, prior).unwrap();
        turn(store);
    }

    /// Records 1 to `n`: keys of the same number, in turns of ten.
    fn fill(path: &Path, n: u64) {
        let mut store = open(path);
        for lsn in 1..=n {
            let staged = store.stage(Epoch(1), Kind::Set, &lsn.to_le_bytes(), &[7; 1000], 0, Prior::None);
            assert_eq!(staged, Ok(Lsn(lsn)));
            if lsn % 10 == 0 || lsn == n {
                turn(&mut store);
            }
        }
        store.close().unwrap();
    }

    fn name_of(seq: u64) -> String {
        format!("1-{}", Seq(seq).log_name())
    }

    type Harm = (&'static str, fn(&Path));

    fn flip(path: &Path, seq: u64, at: u64) {
        let name = path.join(name_of(seq));
        let mut bytes = std::fs::read(&name).unwrap();
        bytes[at as usize] ^= 4;
        std::fs::write(&name, bytes).unwrap();
    }

    fn keys_upto(path: &Path, end: u64) {
        let mut store = open(path);
        assert_eq!((store.health(), store.end(), store.keys()), (None, Lsn(end), end));
        assert!(matches!(store.probe(&end.to_le_bytes(), None), Probe::Present { .. }));
        store.close().unwrap();
    }

    #[test]
    fn a_sound_log_is_verified_dumped_and_not_cut() {
        let tmp = tempfile::tempdir().unwrap();
        fill(tmp.path(), 150);
        let found = verify(tmp.path()).unwrap();
        assert_eq!((found.end, found.committed, found.torn_bytes, &found.damage), (150, 150, 0, &None));
        assert_eq!(found.segments.iter().map(|s| s.records).sum::<u64>(), 150);
        assert!(found.segments.len() >= 3 && found.segments[0].sealed, "{:?}", found.segments);
        let mut next = 1;
        for segment in &found.segments {
            assert_eq!((segment.first, segment.last), (next, next + segment.records - 1), "{segment:?}");
            next = segment.last + 1;
        }
        let mut text = Vec::new();
        assert_eq!(dump(tmp.path(), &mut text, false).unwrap(), None);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 150);
        assert!(text.starts_with("1\tepoch 1\tset\t\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\t1000 bytes\n"), "{text}");
        let mut json = Vec::new();
        dump(tmp.path(), &mut json, true).unwrap();
        let last: serde_json::Value =
            serde_json::from_slice(json.trim_ascii_end().rsplit(|b| *b == b'\n').next().unwrap()).unwrap();
        assert_eq!((last["lsn"].as_u64(), last["kind"].as_str()), (Some(150), Some("set")));
        assert_eq!(cut(tmp.path()).unwrap(), None);
        keys_upto(tmp.path(), 150);
    }

    #[test]
    fn a_log_is_cut_where_a_sealed_segment_is_damaged() {
        let tmp = tempfile::tempdir().unwrap();
        fill(tmp.path(), 200);
        let second = verify(tmp.path()).unwrap().segments[1].clone();
        assert!(second.sealed);
        flip(tmp.path(), 2, DATA_AT + 48 + 20 * 1048 + 100);
        let damage = verify(tmp.path()).unwrap().damage.unwrap();
        assert_eq!(damage.file, name_of(2));
        let cut = cut(tmp.path()).unwrap().unwrap();
        assert_eq!(cut.damage, damage);
        assert!(cut.end >= second.first + 15 && cut.end < second.last, "{cut:?}");
        assert_eq!(cut.kept_aside[0], format!("{}.cut", Seq(2).log_name()));
        assert_eq!(verify(tmp.path()).unwrap().damage, None);
        keys_upto(tmp.path(), cut.end);
    }

    #[test]
    fn a_log_is_cut_where_a_file_is_missing_or_its_head_or_seal_is_damaged() {
        let damages: [Harm; 4] = [
            ("missing", |path| std::fs::remove_file(path.join(name_of(2))).unwrap()),
            ("head", |path| flip(path, 2, 20)),
            ("seal", |path| flip(path, 2, Seal::AT + 20)),
            ("seals", |path| [2, 3].into_iter().for_each(|seq| flip(path, seq, Seal::AT + 20))),
        ];
        for (what, damage) in damages {
            let tmp = tempfile::tempdir().unwrap();
            fill(tmp.path(), 250);
            let segments = verify(tmp.path()).unwrap().segments;
            damage(tmp.path());
            assert!(verify(tmp.path()).unwrap().damage.is_some(), "{what}");
            let cut = cut(tmp.path()).unwrap().unwrap();
            let end = if what.starts_with("seal") { segments[1].last } else { segments[0].last };
            assert_eq!(cut.end, end, "{what}: {cut:?}");
            keys_upto(tmp.path(), end);
        }
    }

    /// A file that was sealed before its last records were in it, as far as the disk has it.
    #[test]
    fn a_seal_that_promises_more_than_there_is_is_damage() {
        let tmp = tempfile::tempdir().unwrap();
        fill(tmp.path(), 150);
        let first = verify(tmp.path()).unwrap().segments[0].clone();
        let mut last_at = 0;
        let found = dump_with(tmp.path(), |line| {
            last_at = if line.lsn == first.last { line.offset } else { last_at };
            Ok(())
        });
        assert_eq!(found.unwrap(), None);
        let name = tmp.path().join(name_of(1));
        let mut bytes = std::fs::read(&name).unwrap();
        let salt = Head::decode(&bytes).unwrap().salt;
        let seal = Seal { end: last_at, ..Seal::decode(&bytes, salt).unwrap() };
        put(&mut bytes, Seal::AT as usize, &seal.encode(salt));
        std::fs::write(&name, &bytes).unwrap();
        let damage = verify(tmp.path()).unwrap().damage.unwrap();
        assert_eq!((damage.file, damage.offset), (name_of(1), last_at));
        // They are all there.
        assert_eq!(cut(tmp.path()).unwrap().unwrap().end, first.last);
        keys_upto(tmp.path(), first.last);
    }

    #[test]
    fn a_log_is_cut_where_durable_records_of_the_active_segment_are_damaged() {
        let tmp = tempfile::tempdir().unwrap();
        fill(tmp.path(), 30);
        flip(tmp.path(), 1, DATA_AT + 48 + 15 * 1048 + 300);
        let store = open(tmp.path());
        assert_eq!(store.health().map(|c| c.file.clone()), Some(name_of(1)));
        drop(store);
        let found = verify(tmp.path()).unwrap();
        assert!(found.damage.is_some() && found.segments[0].damage == found.damage, "{found:?}");
        let cut = cut(tmp.path()).unwrap().unwrap();
        assert!((10..20).contains(&cut.end), "{cut:?}");
        keys_upto(tmp.path(), cut.end);
    }

    /// Where only a part of it stays, that stands for no more than its last sound record.
    #[test]
    fn a_log_is_cut_where_a_compacted_segment_is_damaged() {
        let template = tempfile::tempdir().unwrap();
        fill(template.path(), 300);
        // The first two thirds are overwritten but for each fifth key, so that compaction makes less of them.
        let mut store = open(template.path());
        for n in (1..=200_u64).filter(|n| n % 5 != 1) {
            set(&mut store, n);
        }
        store.close().unwrap();
        let segment = verify(template.path()).unwrap().segments[0].clone();
        assert!(segment.compacted && segment.records > 8, "{segment:?}");
        for kept in [0, 1, 5] {
            let tmp = tempfile::tempdir().unwrap();
            for entry in std::fs::read_dir(template.path()).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), tmp.path().join(entry.file_name())).unwrap();
            }
            let at = DATA_AT + kept * 1048;
            flip(tmp.path(), 1, at + 99);
            let bytes = std::fs::read(tmp.path().join(&segment.file)).unwrap();
            let damage = verify(tmp.path()).unwrap().damage.unwrap();
            assert_eq!((&damage.file, damage.offset), (&segment.file, at));
            let cut = cut(tmp.path()).unwrap().unwrap();
            let end = if kept == 0 { 0 } else { 5 * kept - 4 };
            assert_eq!((cut.end, cut.keys), (end, kept), "{cut:?}");
            assert_eq!(std::fs::read(tmp.path().join(&cut.kept_aside[0])).unwrap(), bytes);
            let found = verify(tmp.path()).unwrap();
            assert_eq!((found.damage, found.end), (None, cut.end));
            assert!(
                found.segments.iter().all(|segment| segment.records > 0 || !segment.sealed),
                "{:?}",
                found.segments
            );
            let mut store = open(tmp.path());
            assert_eq!((store.health(), store.end(), store.keys()), (None, Lsn(end), kept));
            let first = store.get(&1_u64.to_le_bytes(), None);
            assert_eq!(matches!(first, crate::store::Lookup::Found { .. }), kept > 0);
        }
    }

    /// The seal of a compacted segment says how far the log was committed when it was made, which may lie behind what
    /// a cut leaves: the log was damaged for ever then. And a second cut found the first one's names taken.
    #[test]
    fn a_log_is_cut_twice_behind_a_compacted_segment() {
        let tmp = tempfile::tempdir().unwrap();
        fill(tmp.path(), 100);
        let mut store = open(tmp.path());
        for n in 1..=250_u64 {
            set(&mut store, n % 40);
        }
        store.close().unwrap();
        for times in 1..=2 {
            let found = verify(tmp.path()).unwrap();
            assert!(found.segments[0].compacted, "{:?}", found.segments);
            // Behind it there may be one that is prepared.
            let last = found.segments.iter().rfind(|segment| segment.records > 0).unwrap();
            let seq = last.file.trim_start_matches("1-").trim_end_matches(".log").parse().unwrap();
            flip(tmp.path(), seq, DATA_AT + 48 + 300);
            let content = Stopped::open(tmp.path(), true).unwrap().state().content();
            let cut = cut(tmp.path()).unwrap().unwrap();
            assert_eq!(cut.end, last.first - 1);
            let is_another = Stopped::open(tmp.path(), true).unwrap().state().content() != content;
            assert!(is_another, "it lacks what the copy of that name had");
            assert_eq!(verify(tmp.path()).unwrap().damage, None, "cut {times}");
            let mut store = open(tmp.path());
            assert_eq!((store.health(), store.end()), (None, Lsn(cut.end)));
            store.stage(Epoch(1), Kind::Set, b"more", &[9; 900], 0, Prior::None).unwrap();
            store.write_turn().unwrap();
            store.close().unwrap();
        }
    }
}
