//! Owns: compaction: which segments are rewritten, copying what is live, putting the result in their place.
//! Never: pending records; anything that is not sealed.
//!
//! A run of neighbouring sealed segments becomes one, in lsn order, in bounded slices. A record is live if the index
//! points to exactly this place. The index moves to the copy as soon as that is written; the old files stay until
//! the new one is durable under the name of the first of them, so that a crash finds either.
//!
//! A tombstone must stay as long as any older segment may hold a record of its key. None does, if each of them
//! either holds no dead record at all, or was compacted when the tombstone was committed already (`purged`). Before
//! the first is dropped, `tombstone_floor` is durable.

use super::disk::{Disk, Done, Lane};
use super::hint::{ENTRY_BYTES, HINT_FIXED_BYTES, HintBuilder};
use super::index::{KeyHash, Position};
use super::overlay::{Indexed, Prior};
use super::record::{BadRecord, Kind, Record};
use super::segment::{DATA_AT, Frame, Head, Seal, Segment, Slot, frame};
use super::small::PersistId;
use super::{Fatal, Purpose, Store};
use crate::id::Lsn;
use std::io::{self, IoSlice};
use std::ops::Range;

/// Read at a time, in bytes; of what is not in the page cache, whose reading takes a while however little it is.
const CHUNK_BYTES: u64 = 16 << 10;
const COLD_CHUNK_BYTES: u64 = 128 << 10;
/// Bytes of input that may be worked through for each byte that is appended or superseded, whichever are more. Where keys are
/// overwritten evenly, the segment with most dead is half dead when a quarter of all is: 2 would keep up. The rest is for
/// tombstones, which take a second pass over what is older.
const CREDIT: u64 = 6;
/// Of that, a turn spends so many bytes for each that it appends, or that died by then, up to a bound, and at least so many,
/// whatever was saved up; but for one that appends much ([`MOST_SLICE_BYTES`]).
const SLICE: u64 = 3;
const MOST_FOR_DEAD_BYTES: u64 = 256 << 10;
const LEAST_SLICE_BYTES: u64 = 2 * CHUNK_BYTES;
/// A turn for which it would be more has enough to do: the turns behind it do it, so many bytes each, and clients wait for that
/// ([`Store::owes_compaction`]).
const MOST_SLICE_BYTES: u64 = 1 << 20;
/// Where more than so much is owed, since the other copies' links do not wait, every turn does its own part at once.
const MOST_OWED_BYTES: u64 = 4 * MOST_SLICE_BYTES;
/// Of so many turns that owe something, one after the other, clients are read in one.
const TURNS_OF_DEBT: u32 = 5;
/// The longest run of segments that becomes one.
const LONGEST_RUN: usize = 64;
/// What a file takes besides its records.
const FILE_BYTES: u64 = DATA_AT + HINT_FIXED_BYTES as u64;
/// With a full disk, this much dead is enough for compaction to begin.
const FULL_DEAD_PERCENT: u64 = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Compactor {
    work: Option<Work>,
    /// Bytes of input that may be worked through on account of what was appended.
    credit: u64,
    /// Bytes that were appended, and that were superseded, in this turn.
    appended: u64,
    died: u64,
    /// Bytes to be worked through before clients append more; never more than the credit.
    owed: u64,
    /// How many turns in a row have owed some, modulo [`TURNS_OF_DEBT`].
    turn_of_debt: u32,
    /// After a look that found nothing to do: bytes to be appended before the next.
    rest: u64,
    /// A part of an output is being synced, so that there is never much of it before the device at once: the log's own
    /// syncs, which answers wait for, queue behind it.
    is_syncing: bool,
    /// There was no room for an output in this turn.
    was_tried: bool,
    /// No tombstone above this may be dropped.
    hold: Option<Lsn>,
    pub installed: u64,
    pub copied_bytes: u64,
}

impl Compactor {
    /// From the next compaction on.
    pub fn hold(&mut self, above: Option<Lsn>) {
        if self.hold != above {
            // There may be more to do now.
            (self.hold, self.rest) = (above, 0);
        }
    }

    /// Whether the compaction under way drops a tombstone above this.
    pub fn drops_above(&self, lsn: Lsn) -> bool {
        self.work.as_ref().is_some_and(|work| work.droppable > lsn)
    }

    /// Somebody waits for the compaction under way.
    pub fn hurry(&mut self) {
        self.credit = self.credit.max(LEAST_SLICE_BYTES);
    }

    /// Bytes were appended.
    pub fn credit(&mut self, bytes: usize) {
        self.appended += bytes as u64;
        self.rest = self.rest.saturating_sub(bytes as u64);
    }

    /// A record of this many bytes was superseded: by a tombstone, perhaps, that is much shorter.
    pub fn credit_dead(&mut self, bytes: u32) {
        self.died += u64::from(bytes);
        self.rest = self.rest.saturating_sub(u64::from(bytes));
    }
}

#[derive(Debug)]
enum Step {
    /// Until the tombstone floor is durable.
    Floor(PersistId),
    Copy,
    /// A chunk is being read that was not in the page cache.
    Reading,
    /// The chunk has come.
    Arrived(Vec<u8>),
    Installing,
}

#[derive(Debug)]
struct Work {
    inputs: Vec<Slot>,
    output: Slot,
    /// Tombstones up to here are dropped.
    droppable: Lsn,
    step: Step,
    /// Where the next frame is read: in this input, at this byte.
    input: usize,
    at: u64,
    /// The last record that was read of this input.
    last: Lsn,
    /// The next frame is longer than a chunk: it needs this much.
    need: u64,
    /// The bytes that the last read was started for.
    asked: usize,
    chunk: Vec<u8>,
    /// The records in the chunk.
    read: Vec<Read>,
    copied: Vec<u8>,
    /// Bytes that were written since the last sync of a part began.
    unsynced: u64,
    moves: Vec<Move>,
    hint: HintBuilder,
}

/// A record of an input.
#[derive(Debug)]
struct Read {
    hash: KeyHash,
    lsn: Lsn,
    kind: Kind,
    /// Where it stands in the chunk.
    place: Range<usize>,
}

#[derive(Debug)]
struct Move {
    hash: KeyHash,
    old: Position,
    new: Indexed,
}

/// Bytes in the log and in the hint.
fn footprint(bytes: u64, records: u64) -> u64 {
    bytes + records * ENTRY_BYTES as u64
}

impl Segment {
    fn live_footprint(&self) -> u64 {
        footprint(self.live_bytes, self.live_records)
    }

    fn tombstone_footprint(&self) -> u64 {
        footprint(self.tombstone_bytes, self.tombstone_records)
    }

    /// What it takes on disk, but for space that is reserved and not used.
    fn weight(&self) -> u64 {
        DATA_AT.max(self.end) + self.hint_bytes.max(HINT_FIXED_BYTES as u64)
    }

    /// All tombstones up to here, in later segments, may be dropped as far as this segment is concerned.
    fn clean_upto(&self) -> Lsn {
        if self.dead_records == 0 { Lsn(u64::MAX) } else { self.head.purged }
    }
}

/// A run of segments in the order, and what compacting it does.
#[derive(Debug, Clone, PartialEq)]
struct Choice {
    run: Range<usize>,
    droppable: Lsn,
}

/// Finds the run whose compaction frees most for what it copies, if that is worth it. Tombstones above `hold` stay.
fn choose(segments: &[&Segment], percent: u64, file_bytes: u64, hold: Lsn) -> Option<Choice> {
    let weight: u64 = segments.iter().map(|s| s.weight()).sum();
    let live: u64 = segments.iter().map(|s| s.live_footprint()).sum();
    if weight.saturating_sub(live) * 100 <= percent * weight {
        return None;
    }
    let mut best: Option<(f64, Choice)> = None;
    let mut clean = hold;
    for (start, first) in segments.iter().enumerate() {
        let [mut kept, mut freed] = [0, 0];
        for (n, segment) in segments[start..].iter().take(LONGEST_RUN).enumerate() {
            let drops = segment.last <= clean;
            let stays = segment.live_footprint() + if drops { 0 } else { segment.tombstone_footprint() };
            if n > 0 && kept + stays > file_bytes {
                break;
            }
            kept += stays;
            freed += segment.weight().saturating_sub(stays + if n == 0 { FILE_BYTES } else { 0 });
            let score = freed as f64 / (kept + file_bytes / 16) as f64;
            // Less than a sixteenth is not worth copying the rest.
            let is_worth_it = freed * 16 > kept + freed;
            if is_worth_it && best.as_ref().is_none_or(|(highest, _)| score >= *highest) {
                let run = start..start + n + 1;
                best = Some((score, Choice { run, droppable: clean }));
            }
        }
        clean = clean.min(first.clean_upto());
    }
    match best {
        Some((_, choice)) => Some(choice),
        None => sweep(segments, file_bytes, hold),
    }
}

/// Too much is dead, but it is tombstones that older segments keep from being dropped: the oldest of these goes.
fn sweep(segments: &[&Segment], file_bytes: u64, hold: Lsn) -> Option<Choice> {
    let newest_tombstone = segments.iter().rposition(|s| s.tombstone_records > 0 && s.first <= hold)?;
    let start = segments[..newest_tombstone].iter().position(|s| s.dead_records > 0)?;
    let mut kept = 0;
    let fits = segments[start..=newest_tombstone].iter().take(LONGEST_RUN).take_while(|s| {
        kept += s.live_footprint() + s.tombstone_footprint();
        kept <= file_bytes
    });
    let run = start..start + fits.count().max(1);
    let droppable = segments[..start].iter().map(|s| s.clean_upto()).min().map_or(hold, |clean| clean.min(hold));
    Some(Choice { run, droppable })
}

impl<D: Disk> Store<D> {
    /// Goes on with what [`Store::commit`] left to do, and, unless a sync of the log is waited for, with compaction, if there
    /// is any to do, through at most about `budget_bytes` of old segments. `true`: there is more to do at once. `false`:
    /// nothing, or the disk is waited for, which [`Store::poll`] learns of.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn background(&mut self, budget_bytes: u64) -> Result<bool, Fatal> {
        self.check()?;
        let commits_more = self.advance_commit();
        // Somebody waits for the sync, whose thread may have to share the processor with this one.
        if self.log.syncing.is_some() || self.sync_is_due() {
            return Ok(commits_more);
        }
        self.compact(budget_bytes).map(|(_, more)| more || commits_more).map_err(|fatal| self.fail(fatal))
    }

    /// The part of compaction that keeps up with what is appended.
    pub(super) fn compact_on_credit(&mut self) -> Result<(), Fatal> {
        let [appended, died] = [&mut self.compactor.appended, &mut self.compactor.died].map(std::mem::take);
        let fresh = CREDIT * appended.max(died);
        self.compactor.was_tried = false;
        let most = 4 * self.options.file_bytes();
        self.compactor.credit = (self.compactor.credit + fresh).min(most);
        // What was saved up while the disk was waited for is spent over several turns, and so is what a deletion of much
        // allows: a turn does what must be done for what it appends, and some for what died, or leaves it to those behind it.
        let (before, due) = (self.compactor.owed, SLICE * appended);
        let for_dead = (SLICE * died).min(MOST_FOR_DEAD_BYTES);
        let owed = (before + due).min(self.compactor.credit);
        let slice = match due {
            MOST_SLICE_BYTES.. if before == 0 => 0,
            _ if owed > MOST_OWED_BYTES => due.max(MOST_SLICE_BYTES),
            _ => owed.max(for_dead).clamp(LEAST_SLICE_BYTES, MOST_SLICE_BYTES),
        };
        let budget = self.compactor.credit.min(slice);
        let mut done = 0;
        // On a full disk nothing may be appended until it has made room.
        if fresh > 0 || owed > 0 || self.compactor.work.is_some() || self.space.is_full {
            (done, _) = self.compact(budget)?;
            self.compactor.credit = self.compactor.credit.saturating_sub(done);
        }
        // Where it waits for the disk, or finds nothing to do, nobody waits for it.
        let owed = if done < budget { 0 } else { owed.saturating_sub(done) };
        self.compactor.turn_of_debt = if owed > 0 { (self.compactor.turn_of_debt + 1) % TURNS_OF_DEBT } else { 0 };
        self.compactor.owed = owed;
        Ok(())
    }

    /// Whether so much was appended that compaction should go on before clients are read again.
    #[must_use]
    pub fn owes_compaction(&self) -> bool {
        self.compactor.turn_of_debt > 0
    }

    /// Works through about `budget` bytes: how many it were, and whether there is more to do at once.
    fn compact(&mut self, budget: u64) -> Result<(u64, bool), Fatal> {
        let mut done = 0;
        while done < budget {
            if self.health.is_some() {
                return Ok((done, false));
            }
            let mut work = match self.compactor.work.take() {
                Some(work) => work,
                None => match self.begin_compaction()? {
                    Some(work) => work,
                    None => return Ok((done, false)),
                },
            };
            let worked = self.work(&mut work)?;
            self.compactor.work = Some(work);
            match worked {
                Some(bytes) => done += bytes,
                None => return Ok((done, false)),
            }
        }
        Ok((done, self.compactor.work.is_some()))
    }

    fn begin_compaction(&mut self) -> Result<Option<Work>, Fatal> {
        if self.compactor.rest > 0 && !self.space.is_full || self.compactor.was_tried {
            return Ok(None);
        }
        let committed = self.log.committed;
        let settled = |slot: &&Slot| {
            let segment = self.segments.get(**slot);
            segment.sealed && segment.last <= committed
        };
        let order: Vec<Slot> = self.segments.order().iter().take_while(settled).copied().collect();
        let sealed: Vec<&Segment> = order.iter().map(|slot| self.segments.get(*slot)).collect();
        let percent = u64::from(self.options.compact_dead_percent);
        let percent = if self.space.is_full { percent.min(FULL_DEAD_PERCENT) } else { percent };
        let hold = self.compactor.hold.unwrap_or(Lsn(u64::MAX));
        let choice = choose(&sealed, percent, self.options.file_bytes(), hold);
        // The next segment is not in the table yet.
        let has_room = self.segments.has_room_for(1 + usize::from(self.log.next.is_some()));
        let Some(Choice { run, droppable }) = choice.filter(|_| has_room) else {
            self.compactor.rest = self.options.step_bytes();
            self.need_no_output();
            return Ok(None);
        };
        self.prepare_output(&order[run], droppable)
    }

    /// Makes the file of the output, with space for all that may come to stand in it.
    fn prepare_output(&mut self, inputs: &[Slot], droppable: Lsn) -> Result<Option<Work>, Fatal> {
        self.look_at_freed();
        let run: Vec<&Segment> = inputs.iter().map(|slot| self.segments.get(*slot)).collect();
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(None);
        };
        let droppable = droppable.min(last.last);
        let drops_any = run.iter().any(|s| s.tombstone_records > 0 && s.first <= droppable);
        let most: u64 =
            run.iter().map(|s| s.live_bytes + if s.last <= droppable { 0 } else { s.tombstone_bytes }).sum();
        let Head { store, seq, .. } = first.head;
        let (seq_to, span) = (last.head.seq_to, (first.first, last.last));
        let reserved = (DATA_AT + most).next_multiple_of(512);
        let Some(file) = self.create_output(&seq.temporary_name(), reserved)? else {
            self.compactor.was_tried = true;
            return Ok(None);
        };
        let salt = self.small.salt();
        let head = Head { store, seq, seq_to, salt, compacted: true, reused: false, purged: self.log.committed };
        let mut segment = Segment::new(file, head, span.0);
        (segment.last, segment.reserved) = (span.1, reserved);
        let written = self.disk.write(file, 0, &[IoSlice::new(&head.encode())]);
        written.map_err(|e| Fatal::new("writing a compacted segment", &e))?;
        let step = if drops_any && droppable > self.small.state().tombstone_floor {
            Step::Floor(self.persist(|state| state.tombstone_floor = droppable)?)
        } else {
            Step::Copy
        };
        Ok(Some(Work {
            inputs: inputs.to_vec(),
            output: self.segments.add(segment),
            droppable: if drops_any { droppable } else { Lsn::ZERO },
            step,
            input: 0,
            at: DATA_AT,
            last: Lsn::ZERO,
            need: 0,
            asked: 0,
            chunk: Vec::new(),
            read: Vec::new(),
            copied: Vec::new(),
            unsynced: 0,
            moves: Vec::new(),
            hint: HintBuilder::default(),
        }))
    }

    /// One step: the bytes worked through, or `None` where the disk is waited for.
    fn work(&mut self, work: &mut Work) -> Result<Option<u64>, Fatal> {
        match &mut work.step {
            Step::Floor(id) if self.small.persisted < *id => Ok(None),
            Step::Reading | Step::Installing => Ok(None),
            Step::Floor(_) => {
                work.step = Step::Copy;
                Ok(Some(0))
            }
            Step::Arrived(bytes) => {
                let chunk = std::mem::take(bytes);
                work.step = Step::Copy;
                let copied = self.copy(work, &chunk, true)?;
                // A read that came is short only at the end of the file, which must lie behind the last record.
                if copied == 0 && chunk.len() < work.asked && self.health.is_none() {
                    self.input_ends(work);
                }
                Ok(Some(copied))
            }
            Step::Copy => self.read_on(work),
        }
    }

    fn read_on(&mut self, work: &mut Work) -> Result<Option<u64>, Fatal> {
        let Some(slot) = work.inputs.get(work.input) else {
            self.finish(work)?;
            return Ok(None);
        };
        let segment = self.segments.get(*slot);
        if work.at >= segment.end {
            if !segment.is_dead() {
                let reason = "records that are in use were not found in it".to_owned();
                self.corrupt(segment.head.seq.log_name(), work.at, reason);
                return Ok(None);
            }
            (work.input, work.at, work.last, work.need) = (work.input + 1, DATA_AT, Lsn::ZERO, 0);
            return Ok(Some(0));
        }
        let (file, end, name) = (segment.file, segment.end, segment.head.seq.log_name());
        let len = CHUNK_BYTES.max(work.need).min(end - work.at) as usize;
        let mut chunk = std::mem::take(&mut work.chunk);
        if chunk.len() < len {
            chunk.resize(len, 0);
        }
        let copied = match self.disk.try_read(file, work.at, &mut chunk[..len]) {
            Ok(Some(read)) => self.copy(work, &chunk[..read], read == len)?,
            Ok(None) => 0,
            Err(error) => {
                self.corrupt(name, work.at, format!("reading it failed: {error}"));
                return Ok(None);
            }
        };
        work.chunk = chunk;
        let must_read = copied == 0 && work.need <= len as u64;
        if self.health.is_some() || !must_read {
            return Ok(Some(copied));
        }
        let len = COLD_CHUNK_BYTES.max(len as u64).min(end - work.at) as usize;
        let op = self.disk.start_read(file, work.at, len);
        work.asked = len;
        self.start(op, Purpose::Compact);
        work.step = Step::Reading;
        Ok(None)
    }

    /// The input's file ends before its records do.
    fn input_ends(&mut self, work: &Work) {
        if let Some(slot) = work.inputs.get(work.input) {
            let name = self.segments.get(*slot).head.seq.log_name();
            self.corrupt(name, work.at, "the file ends there".to_owned());
        }
    }

    /// Copies what is live of the whole frames in `chunk`, which stands at `work.at`. Returns the bytes of these.
    /// Zero, and `work.need`, where the first frame is longer than the chunk; `is_all`: nothing was missing of what
    /// was asked for.
    fn copy(&mut self, work: &mut Work, chunk: &[u8], is_all: bool) -> Result<u64, Fatal> {
        let Some(taken) = self.read_frames(work, chunk, is_all) else { return Ok(0) };
        let slot = work.inputs[work.input];
        let output_at = self.segments.get(work.output).end;
        let read = std::mem::take(&mut work.read);
        for record in &read {
            let at = work.at + record.place.start as u64;
            let [old, new] = [(slot, at), (work.output, output_at + work.copied.len() as u64)]
                .map(|(slot, at)| Position { slot, at });
            if !self.take_over(work, record, old, new, &chunk[record.place.clone()]) {
                self.misplaced(slot, at, record);
                return Ok(0);
            }
        }
        work.read = read;
        work.at += taken as u64;
        self.move_over(work)?;
        Ok(taken as u64)
    }

    /// The whole frames in `chunk`, all checked: their bytes, and their records in `work.read`. Memory is asked for what the
    /// index says of each, so that it has come for all of them when the first is looked up. `None`: one is damaged.
    fn read_frames(&mut self, work: &mut Work, chunk: &[u8], is_all: bool) -> Option<usize> {
        let slot = work.inputs[work.input];
        let Segment { head: Head { salt, .. }, end, first, last, .. } = *self.segments.get(slot);
        let mut taken = 0;
        work.read.clear();
        // What the frame before this needed says nothing any more.
        work.need = 0;
        while taken < chunk.len() {
            let at = work.at + taken as u64;
            let (found, bytes) = match frame(&chunk[taken..], salt) {
                Ok(found) => found,
                Err(BadRecord::Short(need)) if at + need as u64 <= end => {
                    work.need = if taken == 0 && is_all { need as u64 } else { 0 };
                    break;
                }
                Err(reason) => {
                    self.corrupt(self.segments.get(slot).head.seq.log_name(), at, reason.to_string());
                    return None;
                }
            };
            if let Frame::Record(Record { lsn, kind, key, .. }) = found {
                let read = Read { hash: self.hash(key), lsn, kind, place: taken..taken + bytes };
                // A start reads no segment that has a hint: a sound record at a place that is not its own shows here.
                if lsn <= work.last || !(first..=last).contains(&lsn) {
                    self.misplaced(slot, at, &read);
                    return None;
                }
                self.index.expect(read.hash);
                work.last = lsn;
                work.read.push(read);
            }
            taken += bytes;
        }
        Some(taken)
    }

    fn misplaced(&mut self, slot: Slot, at: u64, record: &Read) {
        let reason = format!("record {} of {} bytes does not belong there", record.lsn.0, record.place.len());
        self.corrupt(self.segments.get(slot).head.seq.log_name(), at, reason);
    }

    /// Copies a record from one position to the other, if it is live; a tombstone may be dropped instead. `false`: it is
    /// longer than what had been counted.
    fn take_over(&mut self, work: &mut Work, record: &Read, old: Position, to: Position, frame: &[u8]) -> bool {
        let (hash, bytes, kind) = (record.hash, frame.len(), record.kind);
        // A jump needs no copy: a compacted segment's lsns may have gaps.
        if kind == Kind::Jump || !self.index.holds(hash, old) {
            return true;
        }
        if kind == Kind::Delete && record.lsn <= work.droppable {
            self.drop_tombstone(hash, old, bytes as u64);
            return true;
        }
        if to.at + bytes as u64 > self.segments.get(work.output).reserved {
            return false;
        }
        work.moves.push(Move { hash, old, new: Indexed { position: to, bytes: bytes as u32, kind } });
        work.copied.extend_from_slice(frame);
        true
    }

    fn drop_tombstone(&mut self, hash: KeyHash, at: Position, bytes: u64) {
        self.index.remove(hash, at);
        self.overlay.moved(hash, at, Prior::None);
        self.segments.get_mut(at.slot).count_out(Kind::Delete, bytes);
    }

    /// Writes the copies and moves the index over to them.
    fn move_over(&mut self, work: &mut Work) -> Result<(), Fatal> {
        let output = self.segments.get_mut(work.output);
        let (file, at) = (output.file, output.end);
        output.end += work.copied.len() as u64;
        assert!(output.end <= output.reserved, "a compacted segment is no longer than what was live when it began");
        if !work.copied.is_empty() {
            let written = self.disk.write(file, at, &[IoSlice::new(&work.copied)]);
            written.map_err(|e| Fatal::new("writing a compacted segment", &e))?;
        }
        self.compactor.copied_bytes += work.copied.len() as u64;
        work.unsynced += work.copied.len() as u64;
        if work.unsynced >= self.options.step_bytes() && !self.compactor.is_syncing {
            let op = self.disk.start_sync(Lane::Background, file);
            self.start(op, Purpose::CompactSync);
            (work.unsynced, self.compactor.is_syncing) = (0, true);
        }
        work.copied.clear();
        for Move { hash, old, new } in work.moves.drain(..) {
            self.index.replace(hash, old, new.position, new.bytes as usize);
            self.overlay.moved(hash, old, Prior::Indexed(new));
            self.segments.get_mut(old.slot).count_out(new.kind, u64::from(new.bytes));
            self.segments.get_mut(work.output).count_in(new.kind, u64::from(new.bytes));
            work.hint.push(hash, new.position.at, new.bytes, new.kind);
        }
        Ok(())
    }

    fn finish(&mut self, work: &mut Work) -> Result<(), Fatal> {
        let output = self.segments.get(work.output);
        let Segment { file, head, first, last, end, .. } = *output;
        // What was dropped was superseded by something committed: that must not be forgotten.
        let seal = Seal { first, last, end, committed: self.log.committed };
        let written = self.disk.write(file, Seal::AT, &[IoSlice::new(&seal.encode(head.salt))]);
        written.map_err(|e| Fatal::new("writing a compacted segment", &e))?;
        let op = self.disk.start_install(Lane::Background, file, &head.seq.temporary_name(), &head.seq.log_name());
        self.start(op, Purpose::Compact);
        work.step = Step::Installing;
        Ok(())
    }

    /// The read or the installation that compaction waited for is done.
    pub(super) fn compaction_went_on(&mut self, result: io::Result<Done>) -> Result<(), Fatal> {
        let Some(mut work) = self.compactor.work.take() else {
            return Ok(());
        };
        if matches!(work.step, Step::Installing) {
            result.map_err(|e| Fatal::new("installing a compacted segment", &e))?;
            return self.installed(work);
        }
        let reason = match result {
            Ok(Done::Read(bytes)) if !bytes.is_empty() => {
                work.step = Step::Arrived(bytes);
                None
            }
            Ok(_) => Some("the file ends there".to_owned()),
            Err(error) => Some(format!("reading it failed: {error}")),
        };
        if let (Some(reason), Some(slot)) = (reason, work.inputs.get(work.input)) {
            self.corrupt(self.segments.get(*slot).head.seq.log_name(), work.at, reason);
        }
        self.compactor.work = Some(work);
        Ok(())
    }

    /// The sync of a part of an output is done.
    pub(super) fn compaction_synced(&mut self, result: io::Result<Done>) -> Result<(), Fatal> {
        self.compactor.is_syncing = false;
        result.map(|_| ()).map_err(|e| Fatal::new("syncing a compacted segment", &e))
    }

    fn installed(&mut self, work: Work) -> Result<(), Fatal> {
        self.segments.get_mut(work.output).sealed = true;
        let replaced = self.segments.replace(&work.inputs, work.output);
        for (n, old) in replaced.into_iter().enumerate() {
            // The first one's names are the output's now.
            if n > 0 {
                self.free(&old);
            } else {
                self.disk.close(old.file);
            }
        }
        self.look_at_freed();
        self.compactor.installed += 1;
        self.write_hint(work.output, work.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::FileId;
    use super::super::segment::Seq;
    use super::*;

    const FILE: u64 = 1 << 20;

    /// A full segment of 1 KiB records, `live` and `tombstones` of them in percent.
    fn segment(seq: u64, live: u64, tombstones: u64) -> Segment {
        let head = Head::for_test(Seq(seq), 1);
        let mut segment = Segment::new(FileId(0), head, Lsn(seq * 1000 + 1));
        let records = FILE / 1024;
        (segment.last, segment.end) = (Lsn(seq * 1000 + 1000), DATA_AT + FILE);
        segment.hint_bytes = HINT_FIXED_BYTES as u64 + records * ENTRY_BYTES as u64;
        (segment.live_records, segment.tombstone_records) = (records * live / 100, records * tombstones / 100);
        segment.live_bytes = segment.live_records * 1024;
        segment.tombstone_bytes = segment.tombstone_records * 1024;
        segment.dead_records = records - segment.live_records - segment.tombstone_records;
        segment
    }

    fn choice(segments: &[Segment]) -> Option<(Range<usize>, u64)> {
        let all: Vec<&Segment> = segments.iter().collect();
        choose(&all, 40, FILE, Lsn(u64::MAX)).map(|c| (c.run, c.droppable.0))
    }

    #[test]
    fn little_dead_is_left_alone() {
        assert_eq!(choice(&[]), None);
        assert_eq!(choice(&[segment(0, 100, 0), segment(1, 30, 0)]), None);
    }

    #[test]
    fn the_run_that_frees_most_for_what_it_copies_goes_first() {
        let log = [segment(0, 90, 0), segment(1, 10, 0), segment(2, 12, 0), segment(3, 95, 0), segment(4, 60, 0)];
        assert_eq!(choice(&log).map(|c| c.0), Some(1..3));
    }

    #[test]
    fn tombstones_go_where_nothing_older_can_hold_their_keys() {
        // Over whole segments, over purged ones, but not over one with dead records.
        assert_eq!(choice(&[segment(0, 100, 0), segment(1, 0, 90), segment(2, 0, 90)]), Some((1..3, u64::MAX)));
        let mut purged = segment(0, 50, 0);
        purged.head.purged = Lsn(2500);
        assert_eq!(choice(&[purged, segment(1, 0, 90), segment(2, 0, 97)]).map(|c| c.1), Some(2500));
    }

    #[test]
    fn what_keeps_tombstones_from_going_is_swept() {
        // The first keeps none, and the second fills a file.
        let tombstones = [2, 3, 4].map(|seq| segment(seq, 0, 99));
        let log = [&[segment(0, 100, 0), segment(1, 99, 0)], &tombstones[..]].concat();
        assert_eq!(choice(&log), Some((1..2, u64::MAX)));
    }

    #[test]
    fn for_tombstones_that_have_to_stay_nothing_is_copied() {
        let log = [segment(0, 99, 0), segment(1, 0, 99), segment(2, 0, 99), segment(3, 0, 99)];
        assert_eq!(choice(&log), Some((0..1, u64::MAX)));
        let all: Vec<&Segment> = log.iter().collect();
        assert_eq!(choose(&all, 40, FILE, Lsn(1000)), None);
    }

    #[test]
    fn what_is_longer_than_a_file_is_compacted_alone() {
        let mut long = segment(0, 100, 0);
        (long.live_bytes, long.end, long.dead_records) = (2 * FILE, 5 * FILE, 1);
        assert_eq!(choice(&[long, segment(1, 100, 0)]), Some((0..1, u64::MAX)));
    }
}
