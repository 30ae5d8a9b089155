//! Owns: the log's end: giving records their lsn and place, taking in those of another node, and writing a turn's
//! records with one write.
//! Never: conditions on keys, when a record is committed.

use super::disk::{Disk, FileId};
use super::hint::HintBuilder;
use super::index::{KeyHash, POSITION_END, Position};
use super::overlay::{Indexed, Prior};
use super::record::{self, Kind, MARK_BYTES, Mark, Record};
use super::segment::{DATA_AT, Head, Segment, Slot};
use super::sync::Syncing;
use super::{Fatal, Store, SyncProgress};
use crate::id::{Epoch, Lsn};
use std::io::IoSlice;
use std::ops::Range;

/// The length of a page of the page cache on most systems, in bytes. Where it is longer, [`fill`] saves less.
pub(super) const PAGE_BYTES: u64 = 4096;
/// A turn's buffer that grew beyond this many bytes is given back.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

/// Why a record cannot be staged: nothing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageError {
    /// The disk has no room for it. It is asked again once a turn, so this ends by itself when there is room.
    Full,
    /// Too much is staged and not committed, or the next segment is not ready: later.
    Busy,
    /// The store is damaged.
    Corrupt,
}

/// Why another node's records cannot be taken: nothing has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendError {
    /// As [`StageError::Full`].
    Full,
    /// As [`StageError::Busy`].
    Busy,
    /// The store is damaged.
    Corrupt,
    /// The bytes do not continue this log, for this reason: whoever sent them is at fault, or the way from there.
    Bad(String),
}

impl From<StageError> for AppendError {
    fn from(error: StageError) -> AppendError {
        match error {
            StageError::Full => AppendError::Full,
            StageError::Busy => AppendError::Busy,
            StageError::Corrupt => AppendError::Corrupt,
        }
    }
}

impl std::fmt::Display for AppendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AppendError::Full => write!(f, "the disk has no room for the records"),
            AppendError::Busy => write!(f, "too much is staged and not committed"),
            AppendError::Corrupt => write!(f, "the store is damaged"),
            AppendError::Bad(reason) => write!(f, "the records do not continue the log: {reason}"),
        }
    }
}

impl std::error::Error for AppendError {}

/// What a write from `at` to the segment's end is to be followed by. Where it is the first that touches a page of a file that
/// was an earlier segment's, and touches a part of it, the system would wait for the device to have the rest of the page.
fn fill(segment: &Segment, at: u64) -> &'static [u8] {
    static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
    let bytes = segment.end.next_multiple_of(PAGE_BYTES).min(segment.reserved).saturating_sub(segment.end);
    let is_first = segment.end - segment.end % PAGE_BYTES >= at;
    if segment.head.reused && is_first { &ZEROS[..bytes as usize] } else { &[] }
}

/// Records of another node that were found to continue the log.
#[derive(Debug)]
struct Batch {
    last: Lsn,
    epoch: Epoch,
    /// Where the last record begins.
    last_at: usize,
    sets_any: bool,
}

/// The segment that is prepared to be written next.
#[derive(Debug)]
pub(super) struct Next {
    pub file: FileId,
    pub head: Head,
    pub reserved: u64,
    /// Its file and its name are not durable yet: so many operations to go.
    pub to_go: u8,
}

/// Staged bytes that go into one segment.
#[derive(Debug)]
pub(super) struct Part {
    slot: Slot,
    at: u64,
    bytes: Range<usize>,
    last: Lsn,
}

/// The log's end.
#[derive(Debug)]
pub(super) struct Log {
    /// Where records are staged to.
    pub active: Slot,
    /// The segment before it, until that is sealed.
    pub previous: Option<Slot>,
    pub next: Option<Next>,
    /// What `active` and `previous` hold, for their hints.
    pub hint: HintBuilder,
    pub previous_hint: HintBuilder,
    parts: Vec<Part>,
    /// This turn's records. Kept after the write, until the next turn stages or writes.
    buffer: Vec<u8>,
    is_written: bool,
    pub end: Lsn,
    pub written: Lsn,
    pub durable: Lsn,
    pub committed: Lsn,
    pub epoch: Epoch,
    /// The last mark that was written.
    pub marked: Mark,
    pub syncing: Option<Syncing>,
    /// See [`Store::hold_syncs`].
    pub syncs_are_held: bool,
    pub syncs: SyncProgress,
}

impl Log {
    /// A log whose every record up to `end` is durable, and which goes on in `active`.
    pub fn new(active: Slot, hint: HintBuilder, end: Lsn, committed: Lsn, epoch: Epoch) -> Log {
        Log {
            active,
            previous: None,
            next: None,
            hint,
            previous_hint: HintBuilder::default(),
            parts: Vec::new(),
            buffer: Vec::new(),
            is_written: true,
            end,
            written: end,
            durable: end,
            committed,
            epoch,
            marked: Mark { last: end, synced: end, committed },
            syncing: None,
            syncs_are_held: false,
            syncs: SyncProgress::default(),
        }
    }

    /// The log's end was cut off: it goes on in `active`, behind `end`. Nothing is staged or under way.
    pub fn restart(&mut self, active: Slot, hint: HintBuilder, end: Lsn, epoch: Epoch, committed: Lsn) {
        assert!(self.parts.is_empty() && self.syncing.is_none() && self.next.is_none() && self.previous.is_none());
        (self.active, self.hint, self.epoch) = (active, hint, epoch);
        (self.end, self.written, self.durable) = (end, end, end);
        (self.marked, self.is_written) = (Mark { last: end, synced: end, committed }, true);
        self.buffer.clear();
    }

    /// The record there is superseded by one of its own segment, and both are committed.
    pub fn leave_out_of_hint(&mut self, position: Position) {
        if position.slot == self.active {
            self.hint.leave_out(position.at);
        } else if Some(position.slot) == self.previous {
            self.previous_hint.leave_out(position.at);
        }
    }

    pub fn next_bytes(&self) -> u64 {
        self.next.as_ref().map_or(0, |next| next.reserved)
    }

    fn has_unwritten(&self) -> bool {
        !self.parts.is_empty()
    }
}

impl<D: Disk> Store<D> {
    /// Gives a record the next lsn and its place on the disk, whose space is reserved from here on. Straight after
    /// the [`Store::probe`] that said what it supersedes.
    ///
    /// # Errors
    /// Where it cannot be taken now; nothing has happened then.
    ///
    /// # Panics
    /// If key or value are longer than a record can hold ([`record::MAX_KEY_BYTES`], [`record::MAX_VALUE_BYTES`]),
    /// the key is empty, or the epoch is lower than the last record's.
    pub fn stage(
        &mut self,
        epoch: Epoch,
        kind: Kind,
        key: &[u8],
        value: &[u8],
        expiry_ms: u64,
        prior: Prior,
    ) -> Result<Lsn, StageError> {
        assert!(epoch >= self.log.epoch, "{epoch:?} after {:?}", self.log.epoch);
        self.admit(kind, record::encoded_bytes(key, value) as u64)?;
        let lsn = self.log.end.next();
        self.stage_admitted(&Record { lsn, epoch, kind, expiry_ms, key, value }, prior);
        Ok(lsn)
    }

    /// Stages a jump: that there is no record above [`Store::end`] up to `to`, which is the end then.
    ///
    /// # Errors
    /// Where it cannot be taken now; nothing has happened then.
    ///
    /// # Panics
    /// If `to` is not above the end, or the epoch is lower than the last record's.
    pub fn jump(&mut self, epoch: Epoch, to: Lsn) -> Result<Lsn, StageError> {
        assert!(epoch >= self.log.epoch, "{epoch:?} after {:?}", self.log.epoch);
        assert!(to > self.log.end, "a jump to {to:?} from {:?}", self.log.end);
        // Like a delete it is no burden that lasts.
        self.admit(Kind::Delete, record::RECORD_HEADER as u64)?;
        let jump = Record { lsn: to, epoch, kind: Kind::Jump, expiry_ms: 0, key: b"", value: b"" };
        self.stage_admitted(&jump, Prior::None);
        Ok(to)
    }

    fn stage_admitted(&mut self, record: &Record<'_>, prior: Prior) {
        let start = self.begin_staging();
        let bytes = record::encode(&mut self.log.buffer, record);
        self.extend_part(start, record.lsn);
        self.enter(record, self.hash(record.key), bytes as u32, Some(prior));
    }

    /// Stages records that another node has staged, byte for byte: several, in lsn order from the end on, all of them or
    /// none. What they supersede is looked up when they are committed. Nothing is read.
    ///
    /// Together they go into one file of the log: more than `segment_bytes` / 16 at a time make it longer than it
    /// should be. One record may be as long as it likes; of several, as many as [`Store::room_bytes`] says are taken.
    ///
    /// # Errors
    /// Where they cannot be taken, or do not continue this log; nothing has happened then.
    pub fn append(&mut self, records: &[u8]) -> Result<Lsn, AppendError> {
        if self.health.is_some() {
            return Err(AppendError::Corrupt);
        }
        let Some(batch) = self.judge(records)? else {
            return Ok(self.log.end);
        };
        let kind = if batch.sets_any { Kind::Set } else { Kind::Delete };
        self.admit(kind, records.len() as u64)?;
        if self.segments.get(self.log.active).end + batch.last_at as u64 >= POSITION_END {
            return Err(AppendError::Busy);
        }
        let start = self.begin_staging();
        self.log.buffer.extend_from_slice(records);
        self.extend_part(start, batch.last);
        let mut rest = records;
        while let Ok((record, taken)) = record::decode_again(rest) {
            let hash = self.hash(record.key);
            let pending = self.overlay.newest(hash, record.key);
            self.enter(&record, hash, taken as u32, pending.map(|(older, _)| Prior::Pending(older)));
            rest = &rest[taken..];
        }
        assert!(self.log.end == batch.last && self.log.epoch == batch.epoch, "{batch:?}, but {:?}", self.log.end);
        Ok(batch.last)
    }

    /// Whether these bytes are sound records that continue the log. `None`: there are none.
    fn judge(&self, records: &[u8]) -> Result<Option<Batch>, AppendError> {
        let mut batch = Batch { last: self.log.end, epoch: self.log.epoch, last_at: 0, sets_any: false };
        let mut at = 0;
        while at < records.len() {
            let bad = |reason| AppendError::Bad(format!("at byte {at} of {}: {reason}", records.len()));
            let (record, taken) = record::decode(&records[at..]).map_err(|reason| bad(reason.to_string()))?;
            let expected = batch.last.next();
            let is_next = record.lsn == expected || (record.kind == Kind::Jump && record.lsn > expected);
            if !is_next || record.epoch < batch.epoch {
                return Err(bad(format!(
                    "record {} of epoch {} stands where {} of epoch {} or later belongs",
                    record.lsn.0, record.epoch.0, expected.0, batch.epoch.0
                )));
            }
            let sets_any = batch.sets_any || record.kind == Kind::Set;
            batch = Batch { last: record.lsn, epoch: record.epoch, last_at: at, sets_any };
            at += taken;
        }
        Ok((at > 0).then_some(batch))
    }

    /// The records staged in this turn, as they stand in the log (without this node's marks): until the next turn
    /// stages its first.
    #[must_use]
    pub fn staged_bytes(&self) -> &[u8] {
        &self.log.buffer
    }

    /// Where that of a segment ends which is written: behind it may stand what an earlier one left (`reuse.rs`).
    pub(super) fn written_end(&self, slot: Slot) -> u64 {
        let segment = self.segments.get(slot);
        match self.log.parts.iter().find(|part| part.slot == slot) {
            Some(part) if segment.has_opening => part.at,
            Some(_) => DATA_AT,
            None => segment.end,
        }
    }

    /// How many bytes the next [`Store::write_turn`] writes.
    #[must_use]
    pub fn unwritten_bytes(&self) -> usize {
        if self.log.is_written { 0 } else { self.log.buffer.len() }
    }

    /// Whether a record of this many bytes can be taken; moves on to the next segment where the active one is full.
    fn admit(&mut self, kind: Kind, bytes: u64) -> Result<(), StageError> {
        if self.health.is_some() {
            return Err(StageError::Corrupt);
        }
        let pending = self.overlay.bytes() + bytes;
        if self.failed.is_some() || (pending > self.options.overlay_bytes && !self.overlay.is_empty()) {
            return Err(StageError::Busy);
        }
        let file_bytes = self.options.file_bytes();
        if self.segments.get(self.log.active).end >= file_bytes && self.can_rotate() {
            self.rotate();
        }
        if self.segments.get(self.log.active).end >= 2 * file_bytes {
            // Sealing or preparing is slow, or there is no room for another segment.
            return Err(if self.space.is_full { StageError::Full } else { StageError::Busy });
        }
        match self.make_room(kind, bytes) {
            // What is left of this file is too short, and the next one has brought room for deletes.
            Err(StageError::Full) if kind == Kind::Delete && self.log.next.is_some() => {
                if !self.can_rotate() {
                    return Err(StageError::Busy);
                }
                self.rotate();
                self.make_room(kind, bytes)
            }
            made => made,
        }
    }

    /// Where in the turn's buffer the next bytes will stand.
    fn begin_staging(&mut self) -> usize {
        if self.log.is_written {
            self.log.buffer.clear();
            self.log.is_written = false;
        }
        self.log.buffer.len()
    }

    /// The buffer's bytes from `start` on belong to the active segment.
    fn extend_part(&mut self, start: usize, last: Lsn) {
        let at = self.segments.get(self.log.active).end;
        let log = &mut self.log;
        let end = log.buffer.len();
        match log.parts.last_mut() {
            Some(part) if part.slot == log.active => (part.bytes.end, part.last) = (end, last),
            _ => log.parts.push(Part { slot: log.active, at, bytes: start..end, last }),
        }
    }

    /// A record has its place at the active segment's end: it is pending, if it is not a jump. `None`: what it supersedes is not known yet.
    fn enter(&mut self, record: &Record<'_>, hash: KeyHash, bytes: u32, prior: Option<Prior>) {
        let Record { lsn, epoch, kind, key, .. } = *record;
        let segment = self.segments.get_mut(self.log.active);
        let position = Position { slot: self.log.active, at: segment.end };
        segment.end += u64::from(bytes);
        segment.last = lsn;
        (self.log.end, self.log.epoch) = (lsn, epoch);
        if kind != Kind::Jump {
            self.log.hint.push(hash, position.at, bytes, kind);
            self.overlay.push(lsn, hash, key, Indexed { position, bytes, kind }, prior);
        }
    }

    pub(super) fn can_rotate(&self) -> bool {
        let next_is_ready = self.log.next.as_ref().is_some_and(|next| next.to_go == 0);
        next_is_ready && self.log.previous.is_none()
    }

    /// The next segment becomes the active one. What is staged for the old one is written with this turn.
    fn rotate(&mut self) {
        let Some(Next { file, head, reserved, .. }) = self.log.next.take() else {
            return;
        };
        let mut segment = Segment::new(file, head, self.log.end.next());
        segment.reserved = reserved;
        // Its first mark is written with its first record.
        segment.end = DATA_AT + MARK_BYTES as u64;
        let slot = self.segments.add(segment);
        self.segments.append_to_order(slot);
        self.log.previous = Some(self.log.active);
        self.log.active = slot;
        self.log.previous_hint = std::mem::take(&mut self.log.hint);
    }

    /// Writes this turn's records with one write (two where they go into two segments), each with a mark behind it,
    /// and sees to it that they are synced: now, or when the sync under way completes, unless they are held
    /// ([`Store::hold_syncs`]). Call it once a turn, whether or not anything was staged: it also goes on with what runs in
    /// the background, in proportion to what was written.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn write_turn(&mut self) -> Result<(), Fatal> {
        self.check()?;
        self.try_write_turn().map_err(|fatal| self.fail(fatal))
    }

    fn try_write_turn(&mut self) -> Result<(), Fatal> {
        let mut parts = std::mem::take(&mut self.log.parts);
        for part in parts.drain(..) {
            self.write_part(&part)?;
            self.compactor.credit(part.bytes.len() + MARK_BYTES);
        }
        self.log.parts = parts;
        if self.log.is_written && self.log.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.log.buffer = Vec::new();
        }
        self.log.is_written = true;
        self.log.written = self.log.end;
        self.look_for_room();
        self.space.next_turn();
        self.advance_commit();
        self.advance_sync()?;
        self.prepare_next()?;
        self.persist_retry()?;
        self.compact_on_credit()
    }

    fn write_part(&mut self, part: &Part) -> Result<(), Fatal> {
        let mark = self.mark(part.last);
        let segment = self.segments.get_mut(part.slot);
        let salt = segment.head.salt;
        let is_first = !std::mem::replace(&mut segment.has_opening, true);
        let last = Lsn(segment.first.0 - 1);
        let opening = Mark { last, synced: mark.synced.min(last), committed: mark.committed.min(last) };
        let [opening, closing] = [record::encode_mark(opening, salt), record::encode_mark(mark, salt)];
        let (file, at) = (segment.file, if is_first { DATA_AT } else { part.at });
        segment.end += MARK_BYTES as u64;
        let opening = if is_first { opening.as_slice() } else { &[] };
        let fill = fill(segment, at);
        let slices = [opening, &self.log.buffer[part.bytes.clone()], &closing, fill].map(IoSlice::new);
        self.disk.write(file, at, &slices).map_err(|e| Fatal::new("writing the log", &e))?;
        self.log.marked = mark;
        Ok(())
    }

    /// For a turn in which nothing has been written for a while (about 100 ms): where the last mark says less than
    /// what is durable and committed by now, writes one more and syncs it. Otherwise does nothing.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn mark_idle(&mut self) -> Result<(), Fatal> {
        self.check()?;
        let mark = self.mark(self.log.end);
        let is_news = mark.synced > self.log.marked.synced || mark.committed > self.log.marked.committed;
        if self.health.is_some() || self.log.has_unwritten() || !is_news {
            return Ok(());
        }
        let segment = self.segments.get_mut(self.log.active);
        // In a segment without a record it is the first mark, whose place is taken already.
        let at = if segment.has_opening { segment.end } else { DATA_AT };
        let end = at + MARK_BYTES as u64;
        if end > segment.reserved {
            // A full disk. Recovery does without it.
            return Ok(());
        }
        let (file, bytes) = (segment.file, record::encode_mark(mark, segment.head.salt));
        (segment.end, segment.has_opening, segment.mark_unsynced) = (end, true, true);
        let written = self.disk.write(file, at, &[IoSlice::new(&bytes), IoSlice::new(fill(segment, at))]);
        written.map_err(|e| self.fail(Fatal::new("writing the log", &e)))?;
        self.log.marked = mark;
        self.advance_sync().map_err(|fatal| self.fail(fatal))
    }
}
