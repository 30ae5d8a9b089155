//! Owns: the order in which the log's files are synced, sealed and prepared.
//! Never: what the records say.

use super::append::{Next, PAGE_BYTES};
use super::disk::{Disk, Done, FileId, Lane, OpId};
use super::record::put;
use super::reuse::Freed;
use super::segment::{DATA_AT, Head, Seal};
use super::{Event, Fatal, Purpose, Store};
use crate::id::Lsn;
use std::io::{self, IoSlice};

/// The log's sync under way. There is never a second one: what is written meanwhile shares the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncing {
    /// Of records and marks; all up to here are durable when it completes.
    Records(Lsn),
    /// Of the previous segment's seal.
    Seal,
}

impl<D: Disk> Store<D> {
    /// While they are held, no sync of the log begins: more is expected that may share it. Whoever holds them calls
    /// [`Store::write_turn`] again when they are not held any more.
    pub fn hold_syncs(&mut self, is_held: bool) {
        self.log.syncs_are_held = is_held;
    }

    /// Whether a sync of the log would begin if they were not held.
    #[must_use]
    pub fn sync_is_due(&self) -> bool {
        let is_active_due = || self.log.durable < self.log.written || self.segments.get(self.log.active).mark_unsynced;
        self.log.syncing.is_none() && (self.log.previous.is_some() || is_active_due())
    }

    /// Starts the sync that is due, if none is under way and they are not held. The previous segment goes first: its
    /// records, then its seal; only then is the active one synced for the first time, so that recovery, which trusts
    /// nothing behind the first unsealed segment's end, has lost nothing that was durable.
    pub(super) fn advance_sync(&mut self) -> Result<(), Fatal> {
        if self.log.syncing.is_some() || self.log.syncs_are_held {
            return Ok(());
        }
        let (file, syncing) = match self.log.previous {
            Some(previous) => {
                let segment = self.segments.get_mut(previous);
                let (file, last) = (segment.file, segment.last);
                if self.log.written < last {
                    return Ok(());
                }
                // Its last mark, too: a crash must not keep the seal without what is sealed.
                let mark_unsynced = std::mem::take(&mut segment.mark_unsynced);
                if self.log.durable < last || mark_unsynced {
                    (file, Syncing::Records(last))
                } else {
                    let seal = segment.seal(self.commits.goal).encode(segment.head.salt);
                    let written = self.disk.write(file, Seal::AT, &[IoSlice::new(&seal)]);
                    written.map_err(|e| Fatal::new("sealing a segment of the log", &e))?;
                    (file, Syncing::Seal)
                }
            }
            None => {
                let segment = self.segments.get_mut(self.log.active);
                let mark_unsynced = std::mem::take(&mut segment.mark_unsynced);
                if self.log.written == self.log.durable && !mark_unsynced {
                    return Ok(());
                }
                (segment.file, Syncing::Records(self.log.written))
            }
        };
        let op = self.disk.start_sync(Lane::Data, file);
        self.start(op, Purpose::Sync);
        self.log.syncing = Some(syncing);
        self.log.syncs.started += 1;
        Ok(())
    }

    pub(super) fn synced(&mut self, result: io::Result<Done>) -> Result<(), Fatal> {
        result.map_err(|e| Fatal::new("syncing the log", &e))?;
        self.log.syncs.completed += 1;
        match self.log.syncing.take() {
            Some(Syncing::Records(upto)) if upto > self.log.durable => {
                self.log.durable = upto;
                self.events.push_back(Event::Durable(upto));
            }
            Some(Syncing::Seal) => self.sealed()?,
            Some(Syncing::Records(_)) | None => {}
        }
        self.advance_sync()
    }

    fn sealed(&mut self) -> Result<(), Fatal> {
        let Some(slot) = self.log.previous.take() else {
            return Ok(());
        };
        self.segments.get_mut(slot).sealed = true;
        let hint = std::mem::take(&mut self.log.previous_hint);
        self.write_hint(slot, hint)
    }

    /// Makes the next segment's file when the active one is half full: it can be used only when its head and its
    /// name in the directory are durable.
    pub(super) fn prepare_next(&mut self) -> Result<(), Fatal> {
        let active = self.segments.get(self.log.active);
        let is_due = active.end >= self.options.file_bytes() / 2 && self.log.next.is_none();
        // One place is left to compaction's output: nothing else can make room in the table.
        let has_room = self.segments.has_room_for(2);
        if !is_due || self.health.is_some() || !has_room || !self.space.may_try() {
            return Ok(());
        }
        let seq = active.head.seq_to.next();
        let store = active.head.store;
        let freed = self.freed.take();
        let (reused, salt) = (freed.is_some(), self.small.salt());
        let head = Head { store, seq, seq_to: seq, salt, compacted: false, reused, purged: Lsn::ZERO };
        match freed {
            Some(Freed { file, seq: old, reserved }) => {
                self.write_head(file, &head)?;
                let op = self.disk.start_install(Lane::Background, file, &old.log_name(), &seq.log_name());
                self.next_begins(Next { file, head, reserved, to_go: 1 }, &[op]);
            }
            None => {
                // Its first reservation holds deletes even if the disk is full by then.
                let reserved = DATA_AT + 2 * self.options.step_bytes();
                let Some(file) = self.create_reserved(&seq.log_name(), reserved)? else {
                    return Ok(());
                };
                self.write_head(file, &head)?;
                let ops = [self.disk.start_sync(Lane::Background, file), self.disk.start_sync_dir(Lane::Background)];
                self.next_begins(Next { file, head, reserved, to_go: 2 }, &ops);
            }
        }
        Ok(())
    }

    /// The head, and nothing where a seal may have been, nor in the rest of the page, which the system would read otherwise.
    fn write_head(&mut self, file: FileId, head: &Head) -> Result<(), Fatal> {
        let mut start = [0; PAGE_BYTES as usize];
        put(&mut start, 0, &head.encode());
        let written = self.disk.write(file, 0, &[IoSlice::new(&start)]);
        written.map_err(|e| Fatal::new("preparing a segment of the log", &e))
    }

    fn next_begins(&mut self, next: Next, ops: &[OpId]) {
        for op in ops {
            self.start(*op, Purpose::Next);
        }
        self.log.next = Some(next);
    }

    pub(super) fn next_prepared(&mut self, result: io::Result<Done>) -> Result<(), Fatal> {
        result.map_err(|e| Fatal::new("preparing a segment of the log", &e))?;
        if let Some(next) = &mut self.log.next {
            next.to_go -= 1;
        }
        Ok(())
    }
}
