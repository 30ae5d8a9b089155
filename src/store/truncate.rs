//! Owns: cutting the log's end off: records that were never committed and that another node's log does not have.
//! Never: why they have to go; what is committed.
//!
//! Rare, bounded by the uncommitted tail, and *blocking*: first all that is under way is waited for, so that nothing
//! completes late. Then, from the back, each file behind the cut is replaced by one without records, and goes when the
//! one before it has been, too; at last the file with the cut is replaced by one that ends there. Each step is durable
//! before the next and leaves a log that is whole, with some of the tail or none. A new file has a new salt, and no mark
//! that claims more than is left; what stays keeps its place.

use super::disk::{Disk, Lane};
use super::hint::HintBuilder;
use super::index::KeyHash;
use super::rebuild::wait_for;
use super::record::{self, Kind, Mark, Record};
use super::segment::{DATA_AT, Frame, Head, Slot, frame};
use super::{Event, Fatal, Store};
use crate::id::{Epoch, Lsn};
use std::io::IoSlice;

/// What stays of the file with the cut.
struct Kept {
    head: Head,
    /// From [`DATA_AT`] on: records as they are, marks under the new salt.
    data: Vec<u8>,
    hint: HintBuilder,
    epoch: Epoch,
}

impl<D: Disk> Store<D> {
    /// Drops all records above `to`, durable ones, too: they have never been, and the log goes on from there. *Blocking.*
    /// When it returns, [`Store::end`] and [`Store::durable`] are `to`; a crash on the way leaves some of the tail.
    ///
    /// A store that is or is found damaged is left as it is: see [`Store::health`].
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    ///
    /// # Panics
    /// If `to` is below [`Store::commit_goal`] or above the end.
    pub fn truncate(&mut self, to: Lsn) -> Result<(), Fatal> {
        self.check()?;
        let range = self.commits.goal..=self.log.end;
        assert!(range.contains(&to), "the log is cut at {to:?}: it may be cut within {range:?}");
        if self.health.is_some() || (to == self.log.end && to == self.log.durable) {
            return Ok(());
        }
        let durable_before = self.log.durable;
        self.hold_syncs(false);
        self.write_turn()?;
        self.settle()?;
        if to < self.log.end && self.health.is_none() {
            self.cut(to).map_err(|fatal| self.fail(fatal))?;
        }
        if self.log.end == to {
            self.events.retain(|event| !matches!(event, Event::Durable(upto) if *upto > to));
            if to > durable_before {
                self.events.push_back(Event::Durable(to));
            }
        }
        Ok(())
    }

    fn cut(&mut self, to: Lsn) -> Result<(), Fatal> {
        assert!(self.log.durable == self.log.end && self.log.previous.is_none(), "all was waited for");
        let order = self.segments.order();
        let at = order.iter().position(|slot| self.segments.get(*slot).last > to);
        let doomed = order[at.expect("something stands above the cut")..].to_vec();
        let Some(kept) = self.keep(doomed[0], to) else {
            return Ok(());
        };
        if let Some(next) = self.log.next.take() {
            self.disk.close(next.file);
            self.remove_for_good(&next.head.seq.log_name())?;
        }
        for slot in doomed[1..].iter().rev() {
            let last = Lsn(self.segments.get(*slot).first.0 - 1);
            let head = self.renewed_head(*slot);
            let mark = Mark { last, synced: to, committed: self.commits.goal };
            self.replace_file(*slot, head, &record::encode_mark(mark, head.salt))?;
            self.drop_segments_behind(*slot)?;
        }
        self.replace_file(doomed[0], kept.head, &kept.data)?;
        self.drop_segments_behind(doomed[0])?;
        self.remove_for_good(&kept.head.seq.hint_name())?;
        self.end_at(doomed[0], to, kept);
        self.regrow_spare()
    }

    /// Reads what stays of a file. `None`: it is damaged.
    fn keep(&mut self, slot: Slot, to: Lsn) -> Option<Kept> {
        let segment = self.segments.get(slot);
        let (file, old, end) = (segment.file, segment.head, segment.end);
        let mut last = Lsn(segment.first.0 - 1);
        let mut image = vec![0; end as usize];
        let mut kept = Kept {
            head: self.renewed_head(slot),
            data: Vec::with_capacity(image.len()),
            hint: HintBuilder::default(),
            epoch: self.epoch_of(to),
        };
        let mut read = || -> Result<(), (u64, String)> {
            let len = self.disk.read(file, 0, &mut image).map_err(|e| (0, format!("reading it failed: {e}")))?;
            image.truncate(len);
            loop {
                let at = DATA_AT + kept.data.len() as u64;
                let rest = image.get(at as usize..).unwrap_or_default();
                let (found, taken) = frame(rest, old.salt).map_err(|reason| (at, reason.to_string()))?;
                match found {
                    Frame::Record(record) if record.lsn <= to => {
                        let hash = KeyHash::of(self.small.state().hash_seed, record.key);
                        kept.hint.push(hash, at, taken as u32, record.kind);
                        kept.data.extend_from_slice(&rest[..taken]);
                        (last, kept.epoch) = (record.lsn, record.epoch);
                    }
                    Frame::Mark(mark) if mark.last <= to => {
                        kept.data.extend_from_slice(&record::encode_mark(mark, kept.head.salt));
                    }
                    Frame::Record(_) | Frame::Mark(_) => return Ok(()),
                }
            }
        };
        if let Err((at, reason)) = read() {
            self.corrupt(old.seq.log_name(), at, reason);
            return None;
        }
        if last < to {
            // The cut is between two records, in what a jump stood for.
            let jump = Record { lsn: to, epoch: kept.epoch, kind: Kind::Jump, expiry_ms: 0, key: b"", value: b"" };
            record::encode(&mut kept.data, &jump);
        }
        let mark = Mark { last: to, synced: to, committed: self.commits.goal };
        kept.data.extend_from_slice(&record::encode_mark(mark, kept.head.salt));
        Some(kept)
    }

    /// The epoch of a record, as far as the lineage tells.
    fn epoch_of(&self, lsn: Lsn) -> Epoch {
        let begun = self.small.state().lineage.iter().rev().find(|(_, first)| *first <= lsn);
        begun.map_or(Epoch::default(), |(epoch, _)| *epoch)
    }

    fn renewed_head(&mut self, slot: Slot) -> Head {
        Head { salt: self.small.salt(), reused: false, ..self.segments.get(slot).head }
    }

    /// Puts an unsealed file with this data in the place of a segment's. It is durable when this returns.
    fn replace_file(&mut self, slot: Slot, head: Head, data: &[u8]) -> Result<(), Fatal> {
        let failed = |e| Fatal::new("cutting the log", &e);
        let end = DATA_AT + data.len() as u64;
        let name = head.seq.temporary_name();
        let exact = end.next_multiple_of(512);
        let created = match self.create_at_start(&name, exact + self.options.step_bytes()).map_err(failed)? {
            None => self.create_at_start(&name, exact).map_err(failed)?,
            created => created,
        };
        let Some((file, reserved)) = created else {
            let full = "the disk is full: cutting the log's end off has to write its last part anew and found no room; \
                        free some space and start the node again";
            return Err(Fatal(full.to_owned()));
        };
        let mut start = vec![0; DATA_AT as usize];
        record::put(&mut start, 0, &head.encode());
        self.disk.write(file, 0, &[IoSlice::new(&start), IoSlice::new(data)]).map_err(failed)?;
        let op = self.disk.start_install(Lane::Data, file, &name, &head.seq.log_name());
        wait_for(&mut self.disk, op).map_err(failed)?;
        let segment = self.segments.get_mut(slot);
        self.disk.close(segment.file);
        (segment.file, segment.head, segment.end, segment.reserved) = (file, head, end, reserved);
        (segment.sealed, segment.has_opening, segment.mark_unsynced) = (false, true, false);
        segment.hint_bytes = 0;
        Ok(())
    }

    /// Removes the files behind this one, which have no records any more.
    fn drop_segments_behind(&mut self, slot: Slot) -> Result<(), Fatal> {
        while self.segments.order().last() != Some(&slot) {
            let Some(segment) = self.segments.pop() else {
                return Ok(());
            };
            self.disk.close(segment.file);
            self.remove(&segment.head.seq.hint_name());
            self.remove_for_good(&segment.head.seq.log_name())?;
        }
        Ok(())
    }

    fn remove_for_good(&mut self, name: &str) -> Result<(), Fatal> {
        self.remove(name);
        self.settle()?;
        self.sync_directory()
    }

    /// The log ends in this segment, which holds what was kept.
    fn end_at(&mut self, slot: Slot, to: Lsn, kept: Kept) {
        self.segments.get_mut(slot).last = to;
        self.overlay.truncate(to);
        self.log.restart(slot, kept.hint, to, kept.epoch, self.commits.goal);
    }
}
