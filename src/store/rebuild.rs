//! Owns: making, at the start, a running store of what recovery found: writing the unsealed segments anew, so that
//! what was read is durable, and filling the index.
//! Never: judging what is torn and what is damaged (`recovery.rs` does).

use super::append::Log;
use super::commit::Commits;
use super::compaction::Compactor;
use super::disk::{Disk, Done, FileId, Lane, OpId};
use super::hint::{AsItIs, Entry, GROUPS, HintBuilder, HintFile};
use super::index::{Index, KeyHash, Position};
use super::overlay::{Indexed, Overlay, Prior};
use super::record::{self, Kind, Mark};
use super::recovery::{Found, OpenError, Recovery, Run, Stop, Survey, read_file};
use super::scan::Scan;
use super::segment::{DATA_AT, Head, Seal, Segment, Segments, Seq, Slot};
use super::small::Small;
use super::space::{SPARE_NAME, Space, is_full};
use super::state::SmallState;
use super::{Fatal, Options, Probe, Store};
use crate::id::{Epoch, Lsn, Uuid};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::io::{self, IoSlice};

/// Where a segment's entries come from.
enum Source {
    File(HintFile),
    Memory(HintBuilder),
}

/// A record that is not known to be committed.
struct Uncommitted {
    lsn: Lsn,
    key: Vec<u8>,
    place: Indexed,
}

/// A segment written anew.
struct Rewritten {
    file: FileId,
    head: Head,
    first: Lsn,
    last: Lsn,
    end: u64,
    reserved: u64,
    epoch: Epoch,
}

pub(super) fn rebuild<D: Disk>(
    disk: D,
    options: Options,
    state: SmallState,
    names: &[String],
    found: Result<(Survey, Run), Stop>,
) -> Result<(Store<D>, Recovery), OpenError> {
    let mut store = Store::assemble(disk, options, state);
    let mut report = Recovery::default();
    store.adopt_spare(names).map_err(|e| OpenError::Io("opening the spare", e))?;
    let filled = found.and_then(|(survey, run)| store.fill(names, &survey, run, &mut report));
    match filled {
        Ok(()) => {}
        Err(Stop::Corrupt(corruption)) => {
            // Nothing of it is served or written; the files stay as they are.
            store.give_up(corruption);
            report = Recovery::default();
        }
        Err(Stop::Error(error)) => return Err(error),
    }
    store.persist_at_start()?;
    if store.health.is_none() {
        store.regrow_spare()?;
    }
    report.segments = store.segments.order().len() as u64;
    report.keys = store.keys;
    report.end = store.log.end;
    report.committed = store.log.committed;
    Ok((store, report))
}

impl<D: Disk> Store<D> {
    /// A store without a log.
    fn assemble(disk: D, options: Options, state: SmallState) -> Store<D> {
        let small = Small::new(state, options.entropy);
        let (segments, log) = nowhere();
        Store {
            disk,
            options,
            small,
            segments,
            index: Index::default(),
            overlay: Overlay::default(),
            log,
            commits: Commits::new(Lsn::ZERO),
            space: Space::default(),
            compactor: Compactor::default(),
            freed: None,
            keys: 0,
            under_way: HashMap::new(),
            events: VecDeque::new(),
            health: None,
            is_given_up: false,
            failed: None,
            log_reads: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    fn give_up(&mut self, corruption: super::Corruption) {
        (self.segments, self.log) = nowhere();
        self.commits = Commits::new(Lsn::ZERO);
        (self.index, self.overlay, self.keys) = (Index::default(), Overlay::default(), 0);
        self.corrupt(corruption.file, corruption.offset, corruption.reason);
        self.is_given_up = true;
        self.events.clear();
    }

    fn adopt_spare(&mut self, names: &[String]) -> io::Result<()> {
        if names.iter().any(|name| name == SPARE_NAME) {
            let file = self.disk.open(SPARE_NAME)?;
            let bytes = self.disk.len(file)?;
            self.space = Space::with_spare(Some((file, bytes)));
        }
        Ok(())
    }

    fn fill(&mut self, names: &[String], survey: &Survey, run: Run, report: &mut Recovery) -> Result<(), Stop> {
        self.segments = Segments::default();
        self.remove_leftovers(names, survey)?;
        let mut sources = Vec::new();
        let mut uncommitted = Vec::new();
        for (found, head, seal) in &survey.sealed {
            let (slot, source) = self.load_sealed(found, head, seal, run.committed, &mut uncommitted, report)?;
            sources.push((slot, source));
        }
        if let Some((found, head, seal)) = survey.sealed.last() {
            self.seal_anew(found.file, head, seal)?;
        }
        report.torn_bytes = run.torn_bytes;
        report.records = self.rewrite_unsealed(survey, run, &mut sources, &mut uncommitted)?;
        self.fill_index(sources).map_err(|e| OpenError::Io("reading the hints", e))?;
        for record in uncommitted {
            self.make_pending(&record)?;
        }
        Ok(())
    }

    fn remove_leftovers(&mut self, names: &[String], survey: &Survey) -> Result<(), OpenError> {
        let needless = |seq: Seq| survey.needless.iter().any(|found| found.seq == seq);
        let mut doomed: Vec<String> = names.iter().filter(|name| name.ends_with(".tmp")).cloned().collect();
        for found in &survey.needless {
            self.disk.close(found.file);
            doomed.push(found.seq.log_name());
        }
        for name in names {
            let log_name = name.strip_suffix(".hint").map(|stem| format!("{stem}.log"));
            let is_orphan = |log: &String| !names.contains(log) || Seq::of_log_name(log).is_none_or(needless);
            if log_name.as_ref().is_some_and(is_orphan) {
                doomed.push(name.clone());
            }
        }
        if !survey.needless.is_empty() {
            // The name of what they were compacted into may be in memory only.
            self.sync_directory()?;
        }
        for name in &doomed {
            self.remove(name);
        }
        self.settle()?;
        if !doomed.is_empty() {
            self.sync_directory()?;
        }
        Ok(())
    }

    pub(super) fn sync_directory(&mut self) -> Result<(), Fatal> {
        let op = self.disk.start_sync_dir(Lane::Background);
        self.start(op, super::Purpose::Removal);
        self.settle()
    }

    /// Takes a sealed segment in: by its hint, or by reading it where there is none, or where it may hold records
    /// that are not committed (a hint has no keys).
    fn load_sealed(
        &mut self,
        found: &Found,
        head: &Head,
        seal: &Seal,
        committed: Lsn,
        uncommitted: &mut Vec<Uncommitted>,
        report: &mut Recovery,
    ) -> Result<(Slot, Source), Stop> {
        if found.len < seal.end {
            let reason = format!("the file ends there, but its seal says {}", seal.end);
            return Err(Stop::corrupt(head.seq, found.len, reason));
        }
        let mut segment = Segment::new(found.file, *head, seal.first);
        (segment.last, segment.end, segment.reserved) = (seal.last, seal.end, found.len);
        (segment.sealed, segment.has_opening) = (true, true);
        // The unsealed ones come behind it.
        if !self.segments.has_room_for(3) {
            return Err(OpenError::Options("more segments than a store can have: raise segment_bytes".into()).into());
        }
        let slot = self.segments.add(segment);
        self.segments.append_to_order(slot);
        let hint = self.open_hint(head, seal).map_err(|e| OpenError::Io("reading a hint", e))?;
        let hint_bytes = hint.as_ref().map(|hint| hint.bytes);
        self.segments.get_mut(slot).hint_bytes = hint_bytes.unwrap_or(0);
        match hint {
            Some(hint) if seal.last <= committed => {
                self.segments.get_mut(slot).dead_records += u64::from(hint.left_out);
                return Ok((slot, Source::File(hint)));
            }
            Some(hint) => self.disk.close(hint.file),
            None => report.hints_made += 1,
        }
        let image = read_file(&mut self.disk, found.file, seal.end);
        let image = image.map_err(|e| OpenError::Io("reading the log", e))?;
        let (mut all, to_index) = self.read_sealed(slot, &image, head, seal, committed, uncommitted)?;
        if hint_bytes.is_none() {
            if seal.last <= committed {
                all.leave_out_superseded();
            }
            self.write_hint_now(slot, all).map_err(OpenError::from)?;
        }
        Ok((slot, Source::Memory(to_index)))
    }

    /// The last seal may be in the page cache only: a crash came before its sync was done, or the sync failed. Nothing
    /// must be built upon it before it is durable, and a page whose sync failed is written only if it is changed anew.
    /// Of the seals before it that is known: the successor of each was synced.
    fn seal_anew(&mut self, file: FileId, head: &Head, seal: &Seal) -> Result<(), OpenError> {
        let io = |e| OpenError::Io("sealing a segment of the log anew", e);
        self.disk.write(file, Seal::AT, &[IoSlice::new(&seal.encode(head.salt))]).map_err(io)?;
        let op = self.disk.start_sync(Lane::Data, file);
        wait_for(&mut self.disk, op).map_err(io)?;
        Ok(())
    }

    fn open_hint(&mut self, head: &Head, seal: &Seal) -> io::Result<Option<HintFile>> {
        let file = match self.disk.open(&head.seq.hint_name()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let hint = HintFile::load(&mut self.disk, file, head, seal)?;
        if hint.is_none() {
            self.disk.close(file);
        }
        Ok(hint)
    }

    /// Reads a sealed segment's records: all of them for the hint, and those of them that are committed.
    fn read_sealed(
        &mut self,
        slot: Slot,
        image: &[u8],
        head: &Head,
        seal: &Seal,
        committed: Lsn,
        uncommitted: &mut Vec<Uncommitted>,
    ) -> Result<(HintBuilder, HintBuilder), Stop> {
        let mut scan = Scan::new(image, head.salt, seal.first, head.compacted, Epoch::default());
        let [mut all, mut to_index] = [HintBuilder::default(), HintBuilder::default()];
        loop {
            match scan.next_record(seal.end) {
                Ok(Some(placed)) => {
                    let (record, at, bytes) = (placed.record, placed.at, placed.bytes);
                    let hash = self.hash(record.key);
                    all.push(hash, at, bytes, record.kind);
                    if record.lsn <= committed {
                        to_index.push(hash, at, bytes, record.kind);
                    } else if record.kind != Kind::Jump {
                        let place = Indexed { position: Position { slot, at }, bytes, kind: record.kind };
                        uncommitted.push(Uncommitted { lsn: record.lsn, key: record.key.to_vec(), place });
                    }
                }
                Ok(None) if seal.is_end(scan.expected, head) => return Ok((all, to_index)),
                Ok(None) => {
                    let reason =
                        format!("its records end with {}, but its seal says {}", scan.expected.0 - 1, seal.last.0);
                    return Err(Stop::corrupt(head.seq, scan.at, reason));
                }
                Err(reason) => return Err(Stop::corrupt(head.seq, scan.at, reason)),
            }
        }
    }

    /// Writes the run's records into new files, synced and installed in order, and the rest of the unsealed
    /// segments is removed: from here on nothing rests on bytes that may be in the page cache only. Each step leaves
    /// a log from which the next start would recover the same. Returns how many records they are.
    fn rewrite_unsealed(
        &mut self,
        survey: &Survey,
        run: Run,
        sources: &mut Vec<(Slot, Source)>,
        uncommitted: &mut Vec<Uncommitted>,
    ) -> Result<u64, Stop> {
        let mut end = survey.sealed_end();
        let mut records = 0;
        let mut epoch = Epoch::default();
        let in_run = run.ends.len().max(1);
        for n in 0..in_run {
            let is_last = n + 1 == in_run;
            let old = survey.unsealed.get(n);
            let seq = old.map_or(survey.next_seq(), |(found, _)| found.seq);
            let image = run.images.get(n).map_or(&[][..], Vec::as_slice);
            let data_end = run.ends.get(n).copied().unwrap_or(DATA_AT);
            let salt = old.map_or(1, |(_, head)| head.salt);
            let scan = Scan::new(image, salt, end.next(), false, epoch);
            let head = self.head_of(seq);
            let slot = self.segments.add(Segment::new(FileId(u32::MAX), head, end.next()));
            self.segments.append_to_order(slot);
            let mut builders = [HintBuilder::default(), HintBuilder::default()];
            let bytes = self.collect(slot, scan, data_end, run.committed, &mut builders, uncommitted);
            let [mut all, to_index] = builders;
            records += bytes.records;
            let rewritten = self.rewrite(slot, bytes, end, run.committed, is_last)?;
            (end, epoch) = (rewritten.last, rewritten.epoch.max(epoch));
            if let Some((found, _)) = old {
                self.disk.close(found.file);
            }
            self.take_in(slot, rewritten, is_last);
            sources.push((slot, Source::Memory(to_index)));
            if is_last {
                let committed = run.committed.min(end);
                self.log = Log::new(slot, all, end, committed, epoch);
                self.commits = Commits::new(committed);
            } else {
                if end <= run.committed {
                    all.leave_out_superseded();
                }
                self.write_hint_now(slot, all).map_err(OpenError::from)?;
            }
        }
        // From the back, each for good before the next: a log may lack its last files, but none before a later one.
        for (found, _) in survey.unsealed.iter().skip(in_run).rev() {
            self.disk.close(found.file);
            self.remove(&found.seq.log_name());
            self.settle().map_err(OpenError::from)?;
            self.sync_directory().map_err(OpenError::from)?;
        }
        Ok(records)
    }

    fn head_of(&mut self, seq: Seq) -> Head {
        let (store, salt) = (self.small.state().store, self.small.salt());
        Head { store, seq, seq_to: seq, salt, compacted: false, reused: false, purged: Lsn::ZERO }
    }

    /// The records of an unsealed segment, one behind the other, as they will stand from the first mark's end on.
    fn collect(
        &mut self,
        slot: Slot,
        mut scan: Scan<'_>,
        data_end: u64,
        committed: Lsn,
        [all, to_index]: &mut [HintBuilder; 2],
        uncommitted: &mut Vec<Uncommitted>,
    ) -> Collected {
        let mut collected =
            Collected { bytes: Vec::new(), records: 0, last: Lsn(scan.expected.0 - 1), epoch: scan.epoch };
        let base = DATA_AT + record::MARK_BYTES as u64;
        while let Ok(Some(placed)) = scan.next_record(data_end) {
            let record = placed.record;
            let position = Position { slot, at: base + collected.bytes.len() as u64 };
            record::encode(&mut collected.bytes, &record);
            let hash = self.hash(record.key);
            all.push(hash, position.at, placed.bytes, record.kind);
            if record.lsn <= committed {
                to_index.push(hash, position.at, placed.bytes, record.kind);
            } else if record.kind != Kind::Jump {
                let place = Indexed { position, bytes: placed.bytes, kind: record.kind };
                uncommitted.push(Uncommitted { lsn: record.lsn, key: record.key.to_vec(), place });
            }
            (collected.last, collected.epoch) = (record.lsn, record.epoch);
            collected.records += 1;
        }
        collected
    }

    /// Writes and installs one segment. On a full disk the spare is given back for it.
    fn rewrite(
        &mut self,
        slot: Slot,
        collected: Collected,
        before: Lsn,
        committed: Lsn,
        is_last: bool,
    ) -> Result<Rewritten, OpenError> {
        let head = self.segments.get(slot).head;
        let Collected { bytes, last, epoch, .. } = collected;
        let end = DATA_AT + 2 * record::MARK_BYTES as u64 + bytes.len() as u64;
        let name = head.seq.temporary_name();
        let io = |e| OpenError::Io("writing the log anew", e);
        // Room for deletes, should the disk be full; but a start must not fail for that.
        let room = if is_last { self.options.step_bytes() } else { 0 };
        let exact = end.next_multiple_of(512);
        let created = match self.create_at_start(&name, exact + room).map_err(io)? {
            None if room > 0 => self.create_at_start(&name, exact).map_err(io)?,
            created => created,
        };
        let (file, reserved) = created.ok_or(OpenError::Full)?;
        let mark = |last: Lsn| Mark { last, synced: last, committed: committed.min(last) };
        let mut start = vec![0; DATA_AT as usize];
        record::put(&mut start, 0, &head.encode());
        if !is_last {
            let seal = Seal { first: before.next(), last, end, committed: committed.min(last) };
            record::put(&mut start, Seal::AT as usize, &seal.encode(head.salt));
        }
        let marks = [mark(before), mark(last)].map(|mark| record::encode_mark(mark, head.salt));
        let slices = [&start[..], &marks[0], &bytes, &marks[1]].map(IoSlice::new);
        self.disk.write(file, 0, &slices).map_err(io)?;
        let op = self.disk.start_install(Lane::Data, file, &name, &head.seq.log_name());
        wait_for(&mut self.disk, op).map_err(io)?;
        Ok(Rewritten { file, head, first: before.next(), last, end, reserved, epoch })
    }

    /// `None`: there is no room, not even without the spare.
    pub(super) fn create_at_start(&mut self, name: &str, bytes: u64) -> io::Result<Option<(FileId, u64)>> {
        for may_give in [true, false] {
            let file = match self.disk.create(name) {
                Err(error) if is_full(&error) => None,
                other => Some(other?),
            };
            if let Some(file) = file {
                match self.disk.reserve(file, bytes) {
                    Ok(()) => return Ok(Some((file, bytes))),
                    Err(error) if is_full(&error) => self.disk.close(file),
                    Err(error) => return Err(error),
                }
            }
            if may_give && self.give_spare() {
                self.settle().map_err(|fatal| io::Error::other(fatal.to_string()))?;
            }
        }
        Ok(None)
    }

    fn take_in(&mut self, slot: Slot, rewritten: Rewritten, is_last: bool) {
        let segment = self.segments.get_mut(slot);
        let Rewritten { file, head, first, last, end, reserved, .. } = rewritten;
        *segment = Segment::new(file, head, first);
        (segment.last, segment.end, segment.reserved) = (last, end, reserved);
        (segment.sealed, segment.has_opening) = (!is_last, true);
    }

    /// Fills the index, one group of hashes of all segments at a time: the map of a group is all that stands in
    /// memory besides the index itself.
    fn fill_index(&mut self, mut sources: Vec<(Slot, Source)>) -> io::Result<()> {
        let mut newest: HashMap<KeyHash, (Slot, Entry), BuildHasherDefault<AsItIs>> = HashMap::default();
        for group in 0..GROUPS {
            for (slot, source) in &mut sources {
                let entries = match source {
                    Source::File(hint) => hint.next_group(&mut self.disk)?,
                    Source::Memory(builder) => builder.group(group).collect(),
                };
                for entry in entries {
                    if let Some((older, _)) = newest.insert(entry.hash, (*slot, entry)) {
                        self.segments.get_mut(older).dead_records += 1;
                    }
                }
            }
            for (hash, (slot, entry)) in newest.drain() {
                self.index.insert(hash, Position { slot, at: entry.at }, entry.bytes as usize);
                let segment = self.segments.get_mut(slot);
                segment.count_in(entry.kind, u64::from(entry.bytes));
                self.keys += u64::from(entry.kind == Kind::Set);
            }
        }
        for (_, source) in sources {
            if let Source::File(HintFile { file, .. }) = source {
                self.disk.close(file);
            }
        }
        Ok(())
    }

    /// A record that is durable, but not known to be committed, is pending again.
    fn make_pending(&mut self, record: &Uncommitted) -> Result<(), Stop> {
        let Uncommitted { lsn, key, place } = record;
        let prior = loop {
            match self.probe(key, None) {
                Probe::Absent { prior, .. } | Probe::Present { prior, .. } => break prior,
                Probe::Cold(op) => {
                    // The read brings it into the page cache, so that the next try finds it.
                    self.under_way.remove(&op);
                    wait_for(&mut self.disk, op).map_err(|e| OpenError::Io("reading the log", e))?;
                }
                Probe::Corrupt => {
                    let found = self.health.clone();
                    return Err(found.map_or(OpenError::StateMissing.into(), Stop::Corrupt));
                }
            }
        };
        debug_assert!(prior != Prior::Pending(*lsn));
        let hash = self.hash(key);
        self.overlay.push(*lsn, hash, key, *place, Some(prior));
        Ok(())
    }

    /// The small state, too, is written anew by every start.
    fn persist_at_start(&mut self) -> Result<(), OpenError> {
        let id = self.persist(|_| {})?;
        self.settle()?;
        if self.small.persisted < id && self.give_spare() {
            self.settle()?;
            self.persist_retry()?;
            self.settle()?;
        }
        self.events.clear();
        if self.small.persisted < id {
            return Err(OpenError::Full);
        }
        Ok(())
    }
}

/// The log of a store without one: its one segment has no file behind it, and is never used.
fn nowhere() -> (Segments, Log) {
    let seq = Seq(0);
    let head =
        Head { store: Uuid::default(), seq, seq_to: seq, salt: 1, compacted: false, reused: false, purged: Lsn::ZERO };
    let mut segments = Segments::default();
    let active = segments.add(Segment::new(FileId(u32::MAX), head, Lsn(1)));
    (segments, Log::new(active, HintBuilder::default(), Lsn::ZERO, Lsn::ZERO, Epoch::default()))
}

/// The records of an unsealed segment.
struct Collected {
    bytes: Vec<u8>,
    records: u64,
    last: Lsn,
    epoch: Epoch,
}

/// Waits for one operation; nothing else is under way.
pub(super) fn wait_for(disk: &mut impl Disk, op: OpId) -> io::Result<Done> {
    loop {
        match disk.wait() {
            Some((done, result)) if done == op => return result,
            Some((_, result)) => {
                result?;
            }
            None => return Err(io::Error::other("the disk lost an operation")),
        }
    }
}
