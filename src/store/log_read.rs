//! Owns: reading the log in lsn order, as another copy is sent it.
//! Never: who is sent what, and when.
//!
//! What compaction dropped was superseded by a record with a higher lsn, which comes later in the same stream; where
//! nothing is left of a span of lsns, a jump record stands for it. One thing must not happen on the way: a record is
//! read, and then the tombstone that superseded it is dropped before it is read. So tombstones above a cursor are held
//! ([`Store::hold_tombstones`]), and a compaction that began to drop some before that is finished first.

use super::disk::{Disk, Done, FileId, OpId};
use super::record::{self, BadRecord, Kind, Record};
use super::segment::{DATA_AT, Frame, Segment, Slot, frame};
use super::{Event, Purpose, Store};
use crate::id::{Epoch, Lsn};
use std::collections::VecDeque;
use std::io;

/// Read at a time, in bytes.
const CHUNK_BYTES: u64 = 128 << 10;
/// The most that one call passes over, in bytes, on the way to the first record.
const SLICE_BYTES: usize = 256 << 10;
/// Cold reads that have come and were not asked for yet; one that is given up for a newer one is read again.
const MOST_ARRIVED: usize = 16;

/// A place in the log: all up to it has been read. It stays good while the log goes on, is sealed and is compacted.
#[derive(Debug, Clone)]
pub struct LogCursor {
    after: Lsn,
    /// Between `after` and this there is no record. At least `after`.
    seen: Lsn,
    /// The epoch of the last record that was passed.
    epoch: Epoch,
    place: Option<Place>,
    /// The cold read that is waited for, and how many bytes it asked for.
    waits: Option<(OpId, usize)>,
}

/// Where the next frame stands, for as long as the file is the segment's.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: FileId,
    at: u64,
    /// The last lsn before this place.
    passed: Lsn,
    /// The next frame needs this many bytes, as far as is known.
    need: u64,
}

/// What came of a [`Store::read_log`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRead {
    /// Bytes were appended: all up to this lsn has been read now. Where it is the same as before, nothing was
    /// appended yet (a long way to the first record): ask again.
    Read {
        /// The last lsn that was read.
        upto: Lsn,
    },
    /// A read was started: ask again when [`super::Event::LogRead`] brings this operation.
    Cold(OpId),
    /// A compaction that drops tombstones above the cursor is under way and is finished first: ask again in a later
    /// turn. With [`Store::hold_tombstones`] no other one begins.
    Busy,
    /// There is no more: all that [`Store::write_turn`] has written has been read.
    End,
    /// The store is damaged, as [`Store::health`] says, and what comes next cannot be had.
    Corrupt,
}

/// A cold read that has come.
#[derive(Debug)]
pub(super) struct LogArrived {
    op: OpId,
    file: FileId,
    at: u64,
    bytes: Vec<u8>,
}

/// What stands at a place, as far as it could be had.
struct Chunk {
    bytes: Vec<u8>,
    /// How many of them.
    len: usize,
    /// No fewer bytes than were asked for.
    is_all: bool,
    /// From the device: fewer bytes mean that the file ends there.
    is_cold: bool,
}

impl LogCursor {
    /// All up to here has been read.
    #[must_use]
    pub fn after(&self) -> Lsn {
        self.after
    }

    /// The place in this segment, which holds the lsn behind `seen`: where it was, or its start, if it is another file
    /// now.
    fn enter(&mut self, segment: &Segment) -> Place {
        let start = Place { file: segment.file, at: DATA_AT, passed: Lsn(segment.first.0 - 1), need: 0 };
        let place = self.place.filter(|place| place.file == segment.file).unwrap_or(start);
        self.place = Some(place);
        place
    }

    /// Passes a record, and hands it out if it is news. `false`: it does not fit any more.
    fn pass(&mut self, record: &Record<'_>, bytes: &[u8], room: usize, out: &mut Vec<u8>, is_first: bool) -> bool {
        if record.lsn > self.seen {
            let has_gap = record.lsn > self.after.next() && record.kind != Kind::Jump;
            let with_jump = bytes.len() + if has_gap { record::RECORD_HEADER } else { 0 };
            if !is_first && with_jump > room {
                return false;
            }
            if has_gap {
                jump(out, Lsn(record.lsn.0 - 1), record.epoch);
            }
            out.extend_from_slice(bytes);
            (self.after, self.seen) = (record.lsn, record.lsn);
        }
        self.epoch = self.epoch.max(record.epoch);
        true
    }
}

fn jump(out: &mut Vec<u8>, lsn: Lsn, epoch: Epoch) {
    record::encode(out, &Record { lsn, epoch, kind: Kind::Jump, expiry_ms: 0, key: b"", value: b"" });
}

impl<D: Disk> Store<D> {
    /// A cursor for [`Store::read_log`] that begins behind this lsn. Hold the tombstones above it first
    /// ([`Store::hold_tombstones`]).
    #[must_use]
    pub fn log_cursor(&self, after: Lsn) -> LogCursor {
        LogCursor { after, seen: after, epoch: Epoch::default(), place: None, waits: None }
    }

    /// Appends the records behind the cursor to `out`, in lsn order, as they stand in the log, and moves the cursor
    /// on: up to `most_bytes`, or one record if that is longer. Marks are left out; where lsns have a gap, a jump
    /// record is put in, so that the bytes go on without one. Their checksums have been checked. Where the store was
    /// found damaged while it was open, what lies behind the damaged file can still be read.
    pub fn read_log(&mut self, cursor: &mut LogCursor, most_bytes: usize, out: &mut Vec<u8>) -> LogRead {
        if !self.is_sound_above(cursor.after) {
            return LogRead::Corrupt;
        }
        if self.compactor.drops_above(cursor.after) {
            self.compactor.hurry();
            return LogRead::Busy;
        }
        let [before, mut passed_bytes] = [out.len(), 0];
        while out.len() == before && passed_bytes < SLICE_BYTES {
            if cursor.seen >= self.log.written {
                return self.log_ends(cursor, out);
            }
            let slot = self.segment_behind(cursor.seen);
            let segment = self.segments.get(slot);
            let (end, last) = (self.written_end(slot), segment.last);
            let Place { at, passed, .. } = cursor.enter(segment);
            if at >= end {
                if passed != last && !segment.head.compacted {
                    let reason = format!("its records end with {}, not with {}", passed.0, last.0);
                    return self.bad_log(slot, at, reason);
                }
                (cursor.seen, cursor.place) = (cursor.seen.max(last), None);
                continue;
            }
            match self.read_chunk(slot, cursor, most_bytes, out) {
                Ok(bytes) => passed_bytes += bytes,
                Err(other) => return other,
            }
        }
        LogRead::Read { upto: cursor.after }
    }

    /// Whether no damage is known of records above `lsn`. Of a damaged file nothing is trusted, also where it looks sound:
    /// compacted, it may have lost records without a trace. And who cannot have all that it lacks gets nothing: between
    /// what compaction left of old records and what is damaged it would hold a mixture that never was.
    fn is_sound_above(&self, lsn: Lsn) -> bool {
        let Some(found) = &self.health else { return true };
        let is_it = |segment: &&Segment| found.file == self.disk.whole_name(&segment.head.seq.log_name());
        let read = self.segments.order().iter().map(|slot| self.segments.get(*slot));
        !self.is_given_up && read.filter(is_it).all(|segment| segment.last <= lsn)
    }

    /// The segment that stands for the lsn behind `seen`, which has been written.
    fn segment_behind(&self, seen: Lsn) -> Slot {
        let order = self.segments.order();
        let n = order.partition_point(|slot| self.segments.get(*slot).last <= seen);
        *order.get(n).expect("what was written stands in a segment")
    }

    /// All that is written has been passed; at its end lsns may be missing.
    fn log_ends(&self, cursor: &mut LogCursor, out: &mut Vec<u8>) -> LogRead {
        let upto = self.log.written;
        if cursor.after >= upto {
            return LogRead::End;
        }
        let lineage = &self.small.state().lineage;
        let begun = lineage.iter().rev().find(|(_, from)| *from <= upto).map_or(Epoch::default(), |(epoch, _)| *epoch);
        // Of what is staged and not written yet, nothing may be told.
        let last = if self.log.end == upto { self.log.epoch } else { Epoch::default() };
        cursor.epoch = cursor.epoch.max(begun).max(last);
        jump(out, upto, cursor.epoch);
        cursor.after = upto;
        LogRead::Read { upto }
    }

    /// Reads at the cursor's place and goes on through what is there: through how many bytes.
    fn read_chunk(
        &mut self,
        slot: Slot,
        cursor: &mut LogCursor,
        most_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, LogRead> {
        let segment = self.segments.get(slot);
        let (end, place) = (self.written_end(slot), cursor.enter(segment));
        let wanted = CHUNK_BYTES.min(most_bytes.max(64 << 10) as u64).max(place.need);
        let len = wanted.min(end - place.at) as usize;
        let chunk = self.fetch_chunk(slot, cursor, place, len)?;
        let passed = self.pass_frames(slot, cursor, &chunk.bytes[..chunk.len], most_bytes, out)?;
        let need = cursor.place.map_or(0, |place| place.need);
        if !chunk.is_cold {
            self.scratch = chunk.bytes;
        }
        if passed > 0 || need > len as u64 {
            return Ok(passed);
        }
        if chunk.is_cold && !chunk.is_all {
            return Err(self.bad_log(slot, place.at, "the file ends there".to_owned()));
        }
        let op = self.disk.start_read(place.file, place.at, len);
        cursor.waits = Some((op, len));
        Err(LogRead::Cold(self.start(op, Purpose::LogRead { file: place.file, at: place.at })))
    }

    fn fetch_chunk(&mut self, slot: Slot, cursor: &mut LogCursor, place: Place, len: usize) -> Result<Chunk, LogRead> {
        if let Some((op, asked)) = cursor.waits {
            if self.under_way.contains_key(&op) {
                return Err(LogRead::Cold(op));
            }
            cursor.waits = None;
            let found = self.log_reads.iter().position(|arrived| arrived.op == op);
            let arrived = found.and_then(|n| self.log_reads.remove(n));
            // Meanwhile another file may have taken the place of the one that was read.
            if let Some(LogArrived { bytes, .. }) = arrived.filter(|a| a.file == place.file && a.at == place.at) {
                let len = bytes.len();
                return Ok(Chunk { bytes, len, is_all: len >= asked, is_cold: true });
            }
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        match self.disk.try_read(place.file, place.at, &mut bytes[..len]) {
            Ok(read) => {
                let read = read.unwrap_or(0);
                Ok(Chunk { bytes, len: read, is_all: read == len, is_cold: false })
            }
            Err(error) => Err(self.bad_log(slot, place.at, format!("reading it failed: {error}"))),
        }
    }

    /// Passes the whole frames at the start of `chunk`, which stands at the cursor's place, as far as they are written
    /// and there is room: their bytes.
    fn pass_frames(
        &mut self,
        slot: Slot,
        cursor: &mut LogCursor,
        chunk: &[u8],
        most_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, LogRead> {
        let segment = self.segments.get(slot);
        let (salt, end, may_have_gaps) = (segment.head.salt, self.written_end(slot), segment.head.compacted);
        let last = segment.last;
        let mut place = cursor.enter(segment);
        let [before, mut taken] = [out.len(), 0];
        while taken < chunk.len() && cursor.seen < self.log.written {
            let (found, bytes) = match frame(&chunk[taken..], salt) {
                Ok(found) => found,
                Err(BadRecord::Short(need)) if place.at + need as u64 <= end => {
                    place.need = need as u64;
                    break;
                }
                // What is sound goes out first.
                Err(_) if out.len() > before => break,
                Err(reason) => return Err(self.bad_log(slot, place.at, reason.to_string())),
            };
            if let Frame::Record(record) = found {
                let is_next = record.lsn == place.passed.next();
                let may_follow = record.lsn > place.passed && (may_have_gaps || record.kind == Kind::Jump);
                // A sound record of a later file, in the midst of one with gaps, would hide those between.
                if !(is_next || may_follow) || record.lsn > last {
                    let reason = format!("record {} stands behind {}", record.lsn.0, place.passed.0);
                    return Err(self.bad_log(slot, place.at, reason));
                }
                let has = out.len() - before;
                let room = most_bytes.saturating_sub(has);
                if !cursor.pass(&record, &chunk[taken..taken + bytes], room, out, has == 0) {
                    break;
                }
                place.passed = record.lsn;
            }
            taken += bytes;
            (place.at, place.need) = (place.at + bytes as u64, 0);
        }
        cursor.place = Some(place);
        Ok(taken)
    }

    fn bad_log(&mut self, slot: Slot, at: u64, reason: String) -> LogRead {
        self.corrupt(self.segments.get(slot).head.seq.log_name(), at, reason);
        LogRead::Corrupt
    }

    /// A cold read came back.
    pub(super) fn log_read_arrived(&mut self, op: OpId, file: FileId, at: u64, result: io::Result<Done>) {
        let in_use = self.segments.all().find(|s| s.file == file).map(|s| s.head.seq.log_name());
        match (result, in_use) {
            (Ok(Done::Read(bytes)), _) => self.log_reads.push_back(LogArrived { op, file, at, bytes }),
            (Ok(Done::Ok), _) => {}
            (Err(error), Some(name)) => self.corrupt(name, at, format!("reading it failed: {error}")),
            // A file that compaction has replaced since is read again from its successor.
            (Err(_), None) => {}
        }
        if self.log_reads.len() > MOST_ARRIVED {
            self.log_reads.pop_front();
        }
        self.events.push_back(Event::LogRead(op));
    }

    /// While `Some`: compaction drops no tombstone above this lsn, because there is a copy that may have older records
    /// of its key. A compaction that is under way is not held back: [`Store::read_log`] waits for it.
    pub fn hold_tombstones(&mut self, above: Option<Lsn>) {
        self.compactor.hold(above);
    }
}

/// See [`LogArrived`].
pub(super) type LogReads = VecDeque<LogArrived>;
