//! Owns: finding out, at the start, what the log holds: which files belong to it, how far its records go without a
//! gap, and whether what is behind that is a torn tail or damage. Changes nothing on the disk.
//! Never: the index; writing (`rebuild.rs` does).
//!
//! # The rule
//!
//! Sealed segments are whole, or they are damaged. In the unsealed ones, records are taken as long as they follow
//! one another without a gap. If a mark anywhere behind that says that more had been synced, it is damage: something
//! that was durable is gone. Otherwise what is behind was never synced: a crash keeps any part of such writes, and
//! nobody was told that they were done. It is cut.

use super::disk::{Disk, FileId};
use super::record;
use super::scan::{Claims, Scan, up_to_last_mark, without_trailing_zeros};
use super::segment::{DATA_AT, FORMAT, Head, Seal, Seq};
use super::state::{BadState, SmallState};
use super::{Corruption, Fatal, Options, Store, rebuild};
use crate::id::{Epoch, Lsn, Uuid};
use std::io;
use std::net::SocketAddr;

/// At most: the previous, the active and the prepared segment.
const MOST_UNSEALED: usize = 3;

/// Why a store cannot be opened. (A damaged log is no reason: see [`Store::health`].)
#[derive(Debug)]
pub enum OpenError {
    /// An option is out of its range.
    Options(String),
    /// The small state cannot be read.
    State(BadState),
    /// There is a log, but no small state.
    StateMissing,
    /// The node's file is damaged.
    NodeDamaged,
    /// The node's file was written by a later version, with this format.
    NodeNewer(u32),
    /// There is data, but no node's file.
    NodeMissing,
    /// The directory is this other node's.
    OtherNode(SocketAddr),
    /// There is no room for what a start has to write.
    Full,
    /// The disk failed.
    Io(&'static str, io::Error),
    /// A write or sync failed.
    Fatal(Fatal),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Options(what) => f.write_str(what),
            OpenError::State(bad) => write!(f, "{bad}"),
            OpenError::StateMissing => write!(
                f,
                "the data directory has a log, but its file `state` is missing: restore the whole directory, or empty \
                 it and let the node be filled by a peer"
            ),
            OpenError::NodeDamaged => write!(
                f,
                "the file `node` is damaged, so this node no longer knows which of its data counts: restore the whole \
                 directory, or empty it and let the node be filled by a peer"
            ),
            OpenError::NodeNewer(format) => write!(
                f,
                "the file `node` has format {format}, but this version reads up to {FORMAT}: run the newer dkv"
            ),
            OpenError::NodeMissing => write!(
                f,
                "the data directory has data, but its file `node` is missing: restore the whole directory, or empty \
                 it and let the node be filled by a peer"
            ),
            OpenError::OtherNode(owner) => {
                write!(
                    f,
                    "the data directory belongs to the node {owner}: give this node another --data-dir, or, where the \
                     cluster has got another table, run `dkv reform apply` on it"
                )
            }
            OpenError::Full => write!(
                f,
                "the disk is full: a start has to write the last part of the log anew and found no room for it; free \
                 some space and start the node again"
            ),
            OpenError::Io(what, error) => write!(f, "{what} failed: {error}"),
            OpenError::Fatal(fatal) => write!(f, "{fatal}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<Fatal> for OpenError {
    fn from(fatal: Fatal) -> Self {
        OpenError::Fatal(fatal)
    }
}

/// What a start found, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Files of the log.
    pub segments: u64,
    /// Keys with a value.
    pub keys: u64,
    /// Records read from unsealed segments, and written anew.
    pub records: u64,
    /// The last record's lsn.
    pub end: Lsn,
    /// What is known to be committed of these.
    pub committed: Lsn,
    /// Bytes behind the last record that had never been synced, and were cut. In a file that was an earlier segment's, those
    /// up to the last mark only: what else is there cannot be told from what that left.
    pub torn_bytes: u64,
    /// Sealed segments that had to be read because their hint was missing, damaged, or of another format.
    pub hints_made: u64,
}

/// A start goes no further: damage, or an error.
#[derive(Debug)]
pub(super) enum Stop {
    Corrupt(Corruption),
    Error(OpenError),
}

impl From<OpenError> for Stop {
    fn from(error: OpenError) -> Self {
        Stop::Error(error)
    }
}

impl Stop {
    pub fn corrupt(seq: Seq, offset: u64, reason: String) -> Stop {
        Stop::Corrupt(Corruption { file: seq.log_name(), offset, reason })
    }
}

/// A segment file of the log.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub seq: Seq,
    pub file: FileId,
    /// The file's length in bytes.
    pub len: u64,
    pub head: Option<Head>,
    pub seal: Option<Seal>,
}

/// The files of the log, in order.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub sealed: Vec<(Found, Head, Seal)>,
    pub unsealed: Vec<(Found, Head)>,
    /// What a compaction replaced and a crash left behind, and a next segment that was never finished.
    pub needless: Vec<Found>,
}

impl Survey {
    /// The number of the segment behind the sealed ones.
    pub fn next_seq(&self) -> Seq {
        self.sealed.last().map_or(Seq(1), |(_, head, _)| head.seq_to.next())
    }

    /// The last lsn of the sealed segments.
    pub fn sealed_end(&self) -> Lsn {
        self.sealed.last().map_or(Lsn::ZERO, |(_, _, seal)| seal.last)
    }
}

/// The gap-free run of records in the unsealed segments.
#[derive(Debug)]
pub(super) struct Run {
    /// The unsealed segments' bytes.
    pub images: Vec<Vec<u8>>,
    /// For each of them up to the last that the run reaches: where its part of the run ends.
    pub ends: Vec<u64>,
    pub end: Lsn,
    pub committed: Lsn,
    pub torn_bytes: u64,
}

pub(super) fn open<D: Disk>(
    mut disk: D,
    options: Options,
    fresh: impl FnOnce() -> SmallState,
) -> Result<(Store<D>, Recovery), OpenError> {
    options.check().map_err(OpenError::Options)?;
    let names = disk.list().map_err(|e| OpenError::Io("listing the data directory", e))?;
    let state = read_state(&mut disk, &names)?;
    let mut found = read_heads(&mut disk, &names)?;
    let is_new = state.is_none();
    if is_new && !found.is_empty() && !is_unused(&mut disk, &found)? {
        return Err(OpenError::StateMissing);
    }
    let state = state.unwrap_or_else(fresh);
    let found_or_stop = if is_new {
        // What a first start left behind that was cut short.
        let survey = Survey { needless: std::mem::take(&mut found), ..Survey::default() };
        Ok((survey, Run::of_a_new_store()))
    } else {
        find(&mut disk, found, state.store)
    };
    rebuild::rebuild(disk, options, state, &names, found_or_stop)
}

fn find<D: Disk>(disk: &mut D, found: Vec<Found>, store: Uuid) -> Result<(Survey, Run), Stop> {
    let survey = survey(found, store)?;
    let run = run(disk, &survey)?;
    Ok((survey, run))
}

impl Run {
    fn of_a_new_store() -> Run {
        let [end, committed] = [Lsn::ZERO; 2];
        Run { images: Vec::new(), ends: Vec::new(), end, committed, torn_bytes: 0 }
    }
}

/// Reads up to `len` bytes of a file from its start.
pub(super) fn read_file<D: Disk>(disk: &mut D, file: FileId, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let read = disk.read(file, 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// All bytes of a file. `None`: there is none.
pub(super) fn read_if_there<D: Disk>(disk: &mut D, names: &[String], name: &str) -> io::Result<Option<Vec<u8>>> {
    if !names.iter().any(|other| other == name) {
        return Ok(None);
    }
    let file = disk.open(name)?;
    let len = disk.len(file)?;
    let bytes = read_file(disk, file, len);
    disk.close(file);
    bytes.map(Some)
}

pub(super) fn read_state<D: Disk>(disk: &mut D, names: &[String]) -> Result<Option<SmallState>, OpenError> {
    let bytes = read_if_there(disk, names, super::state::STATE_NAME);
    let bytes = bytes.map_err(|e| OpenError::Io("reading the small state", e))?;
    bytes.map(|bytes| SmallState::decode(&bytes)).transpose().map_err(OpenError::State)
}

/// All segment files with their heads and seals, in order.
pub(super) fn read_heads<D: Disk>(disk: &mut D, names: &[String]) -> Result<Vec<Found>, OpenError> {
    let mut seqs: Vec<Seq> = names.iter().filter_map(|name| Seq::of_log_name(name)).collect();
    seqs.sort_unstable();
    let mut read_head = |seq: Seq| {
        let file = disk.open(&seq.log_name())?;
        let len = disk.len(file)?;
        let bytes = read_file(disk, file, len.min(DATA_AT))?;
        let head = Head::decode(&bytes).filter(|head| head.seq == seq);
        let seal = head.and_then(|head| Seal::decode(&bytes, head.salt));
        Ok(Found { seq, file, len, head, seal })
    };
    let found: io::Result<Vec<Found>> = seqs.into_iter().map(&mut read_head).collect();
    found.map_err(|e| OpenError::Io("reading the log", e))
}

/// Whether this is no more than what a first start leaves when it is cut short: one segment with two marks. One that
/// holds anything else, be it damaged, is somebody's log.
pub(super) fn is_unused<D: Disk>(disk: &mut D, found: &[Found]) -> Result<bool, OpenError> {
    let [Found { file, len, seal: None, seq: Seq(1), head }] = found else {
        return Ok(false);
    };
    let image = read_file(disk, *file, *len).map_err(|e| OpenError::Io("reading the log", e))?;
    let data = image.get(DATA_AT as usize..).unwrap_or_default();
    Ok(head.is_some() && without_trailing_zeros(data) <= 2 * record::MARK_BYTES as u64)
}

/// Puts the files in order and checks that none is missing.
pub(super) fn survey(found: Vec<Found>, store: Uuid) -> Result<Survey, Stop> {
    match sort(found, store) {
        (survey, None) => Ok(survey),
        (_, Some(stop)) => Err(stop),
    }
}

/// Puts the files in order, up to the first where something is wrong.
pub(super) fn sort(found: Vec<Found>, store: Uuid) -> (Survey, Option<Stop>) {
    let mut survey = Survey::default();
    let mut next_seq = Seq(1);
    for file in found {
        if file.seq < next_seq {
            survey.needless.push(file);
        } else if let Err(stop) = survey.take(file, &mut next_seq, store) {
            return (survey, Some(stop));
        }
    }
    let stop = match survey.unsealed.len() {
        0 => Some(Stop::corrupt(next_seq, 0, "the file is missing".to_owned())),
        1..=MOST_UNSEALED => None,
        _ => {
            let reason = "it has no sound seal, but later segments are in use".to_owned();
            Some(Stop::corrupt(survey.unsealed[0].0.seq, Seal::AT, reason))
        }
    };
    (survey, stop)
}

impl Survey {
    /// Takes in the next file, whose number must be `next_seq`.
    fn take(&mut self, file: Found, next_seq: &mut Seq, store: Uuid) -> Result<(), Stop> {
        let seq = file.seq;
        let Some(head) = file.head else {
            // A next segment is prepared while its predecessor is in use, and sealing that comes after using this.
            if self.unsealed.is_empty() {
                return Err(Stop::corrupt(seq, 0, "the head of the segment is damaged".to_owned()));
            }
            self.needless.push(file);
            return Ok(());
        };
        if head.store != store {
            let reason = format!("it belongs to the store {}, not to this one, {store}", head.store);
            return Err(Stop::corrupt(seq, 0, reason));
        }
        if seq != *next_seq {
            return Err(Stop::corrupt(*next_seq, 0, "the file is missing".to_owned()));
        }
        let Some(seal) = file.seal else {
            self.unsealed.push((file, head));
            *next_seq = head.seq_to.next();
            return Ok(());
        };
        if let Some((unsealed, _)) = self.unsealed.first() {
            let reason = "it has no sound seal, but a later segment has".to_owned();
            return Err(Stop::corrupt(unsealed.seq, Seal::AT, reason));
        }
        let end = self.sealed_end();
        if seal.first != end.next() {
            let reason =
                format!("it begins with record {}, but the segment before it ends with {}", seal.first.0, end.0);
            return Err(Stop::corrupt(seq, Seal::AT, reason));
        }
        self.sealed.push((file, head, seal));
        *next_seq = head.seq_to.next();
        Ok(())
    }
}

/// Follows the records through the unsealed segments, and judges what is behind them.
pub(super) fn run<D: Disk>(disk: &mut D, survey: &Survey) -> Result<Run, Stop> {
    let (run, synced, reason) = follow(disk, survey)?;
    if synced <= run.end {
        return Ok(run);
    }
    let last = run.ends.len() - 1;
    let text = format!("records up to {} were durable, but they end with {}: {reason}", synced.0, run.end.0);
    Err(Stop::corrupt(survey.unsealed[last].0.seq, run.ends[last], text))
}

/// Follows the records through the unsealed segments. Also: the last lsn that anything says was durable, and why the
/// run ends where it does.
pub(super) fn follow<D: Disk>(disk: &mut D, survey: &Survey) -> Result<(Run, Lsn, String), OpenError> {
    let mut images = Vec::new();
    for (found, _) in &survey.unsealed {
        let image = read_file(disk, found.file, found.len);
        images.push(image.map_err(|e| OpenError::Io("reading the log", e))?);
    }
    let mut end = survey.sealed_end();
    let mut epoch = Epoch::default();
    let mut ends: Vec<u64> = Vec::new();
    let mut reason = String::new();
    for (image, (_, head)) in images.iter().zip(&survey.unsealed) {
        let mut scan = Scan::new(image, head.salt, end.next(), false, epoch);
        let stopped = scan.run_out();
        let went_on = scan.expected > end.next();
        if !ends.is_empty() && !went_on {
            break;
        }
        (end, epoch, reason) = (Lsn(scan.expected.0 - 1), scan.epoch, stopped);
        ends.push(scan.at);
    }
    let mut run = Run { images, ends, end, committed: Lsn::ZERO, torn_bytes: 0 };
    let claims = judge(survey, &mut run);
    let sealed_claim = survey.sealed.iter().map(|(_, _, seal)| seal.committed).max().unwrap_or_default();
    run.committed = claims.committed.max(sealed_claim);
    Ok((run, claims.synced.max(sealed_claim), reason))
}

/// Collects what all marks say, and counts what is behind the run's end.
fn judge(survey: &Survey, run: &mut Run) -> Claims {
    let mut claims = Claims::default();
    for (n, (image, (_, head))) in run.images.iter().zip(&survey.unsealed).enumerate() {
        let data = image.get(DATA_AT as usize..).unwrap_or_default();
        claims = claims.and(Claims::anywhere_in(data, head.salt));
        // A segment that was only opened holds nothing but its first mark.
        let untorn = run.ends.get(n).copied().unwrap_or(DATA_AT + record::MARK_BYTES as u64);
        let behind = image.get(untorn as usize..).unwrap_or_default();
        // What an earlier segment left in the file tells nothing.
        run.torn_bytes += if head.reused { up_to_last_mark(behind, head.salt) } else { without_trailing_zeros(behind) };
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(seq: u64, to: u64, span: Option<(u64, u64)>) -> Found {
        let head = Head { seq_to: Seq(to), compacted: to > seq, ..Head::for_test(Seq(seq), 1) };
        let seal = span.map(|(first, last)| Seal { first: Lsn(first), last: Lsn(last), end: 2048, committed: Lsn(0) });
        Found { seq: Seq(seq), file: FileId(seq as u32), len: 4096, head: Some(head), seal }
    }

    fn damaged(seq: u64) -> Found {
        Found { head: None, seal: None, ..found(seq, seq, None) }
    }

    fn shape(found: Vec<Found>) -> Result<(usize, usize, Vec<u64>), (String, u64)> {
        match survey(found, Uuid(1)) {
            Ok(s) => Ok((s.sealed.len(), s.unsealed.len(), s.needless.iter().map(|f| f.seq.0).collect())),
            Err(Stop::Corrupt(corruption)) => Err((corruption.file, corruption.offset)),
            Err(Stop::Error(error)) => panic!("{error}"),
        }
    }

    fn at(seq: u64, offset: u64) -> Result<(usize, usize, Vec<u64>), (String, u64)> {
        Err((Seq(seq).log_name(), offset))
    }

    #[test]
    fn files_fall_into_place() {
        let log = || vec![found(1, 1, Some((1, 9))), found(2, 2, Some((10, 12))), found(3, 3, None)];
        assert_eq!(shape(log()), Ok((2, 1, vec![])));
        // Compaction replaced 1 to 2, and a crash came before 2 was removed, whatever has become of that.
        assert_eq!(shape(vec![found(1, 2, Some((1, 12))), log()[1].clone(), log()[2].clone()]), Ok((1, 1, vec![2])));
        assert_eq!(shape(vec![found(1, 2, Some((1, 12))), damaged(2), log()[2].clone()]), Ok((1, 1, vec![2])));
        // A next segment whose head had not reached the disk.
        assert_eq!(shape([log(), vec![damaged(4)]].concat()), Ok((2, 1, vec![4])));
        assert_eq!(shape([log(), vec![found(4, 4, None), damaged(5)]].concat()), Ok((2, 2, vec![5])));
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let [one, two, three] = [found(1, 1, Some((1, 9))), found(2, 2, Some((10, 12))), found(3, 3, None)];
        assert_eq!(shape(vec![]), at(1, 0));
        assert_eq!(shape(vec![two.clone(), three.clone()]), at(1, 0));
        assert_eq!(shape(vec![one.clone(), three.clone()]), at(2, 0));
        assert_eq!(shape(vec![one.clone(), two.clone()]), at(3, 0));
        assert_eq!(shape(vec![one.clone(), two.clone(), damaged(3)]), at(3, 0));
        assert_eq!(shape(vec![one.clone(), damaged(2), three.clone()]), at(2, 0));
        assert_eq!(shape(vec![found(1, 1, None), two.clone(), three.clone()]), at(1, Seal::AT));
        assert_eq!(shape(vec![one.clone(), found(2, 2, Some((11, 12))), three.clone()]), at(2, Seal::AT));
        let in_use = (1..5).map(|seq| found(seq, seq, None)).collect();
        assert_eq!(shape(in_use), at(1, Seal::AT));
        let mut other = found(3, 3, None);
        other.head.as_mut().unwrap().store = Uuid(2);
        assert_eq!(shape(vec![one, two, other]), at(3, 0));
    }
}
