//! Owns: room on the disk: what is reserved for the log's end, the spare, and what happens when there is no more.
//! Never: what the room is used for.
//!
//! Space is reserved in steps, ahead of what is staged, so that a full disk is known before a record has an lsn.
//! Whenever the active segment's reservation grows, the file `spare` grows first, to one step more: a start on a full
//! disk gives the spare back to write the unsealed segment anew, and compaction gives it back to make room. While the
//! disk is full, deletes may use the last step of what is reserved, and outgrow that by the spare's last step; what
//! sets a value may not. A file that is used again (`reuse.rs`) comes with all of its space; the spare has grown about as
//! far for the one before. While such a file waits, the disk is not full: it goes first.

use super::append::StageError;
use super::disk::{Disk, Done, FileId, Lane};
use super::record::{Kind, MARK_BYTES, MAX_RECORD_BYTES};
use super::{Fatal, Purpose, Store};
use std::io;

/// The spare's file name.
pub(super) const SPARE_NAME: &str = "spare";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Space {
    spare: Option<FileId>,
    spare_reserved: u64,
    spare_goes: bool,
    /// The spare was given back for compaction, which has not taken the room yet: nobody else may.
    kept_for_compaction: bool,
    /// The file that was kept for the log is being removed.
    pub freed_goes: bool,
    /// The last attempt to reserve space found the disk full.
    pub is_full: bool,
    /// So did one in this turn: no other is made before the next.
    tried: bool,
}

impl Space {
    pub fn with_spare(spare: Option<(FileId, u64)>) -> Space {
        let (spare, spare_reserved) = spare.map_or((None, 0), |(file, bytes)| (Some(file), bytes));
        Space { spare, spare_reserved, ..Space::default() }
    }

    pub fn spare_bytes(&self) -> u64 {
        self.spare_reserved
    }

    pub fn next_turn(&mut self) {
        self.tried = false;
    }

    /// Whether to look for room in this turn, for something that can wait.
    pub fn may_try(&self) -> bool {
        !self.tried && !self.kept_for_compaction
    }
}

impl<D: Disk> Store<D> {
    /// Sees to it that a record of this many bytes, and a mark, can be written at the log's end.
    pub(super) fn make_room(&mut self, kind: Kind, bytes: u64) -> Result<(), StageError> {
        let step = self.options.step_bytes();
        let file_bytes = self.options.file_bytes();
        let active = self.segments.get(self.log.active);
        let (file, reserved) = (active.file, active.reserved);
        let need = active.end + bytes + MARK_BYTES as u64;
        // A next segment brings its own room for deletes.
        let with_room_for_deletes = match self.log.next {
            Some(_) => need.max(file_bytes.min(need + step)),
            None => need + step,
        };
        let wanted = if kind == Kind::Delete { need } else { with_room_for_deletes };
        let spare_is_small = kind == Kind::Set && self.space.spare_reserved < reserved;
        if wanted <= reserved && !spare_is_small {
            return Ok(());
        }
        if (self.space.tried || self.space.kept_for_compaction) && !self.may_outgrow(kind, need) {
            return Err(if self.space.freed_goes { StageError::Busy } else { StageError::Full });
        }
        let target = match self.log.next {
            Some(_) if wanted <= file_bytes => wanted.next_multiple_of(step).min(file_bytes),
            // The last record of its segment: what is reserved behind it would be wasted.
            Some(_) => wanted.next_multiple_of(512),
            None => wanted.next_multiple_of(step),
        };
        let target = target.max(reserved);
        let grown = match self.grow_spare(target + step) {
            Ok(true) => self.disk.reserve(file, target).map(|()| target),
            Err(error) if is_full(&error) && self.may_outgrow(kind, need) => {
                self.disk.reserve(file, need).map(|()| need)
            }
            Ok(false) => return Err(StageError::Full),
            Err(error) => Err(error),
        };
        let grown = self.judge_reserve(grown)?;
        self.segments.get_mut(self.log.active).reserved = grown.max(reserved);
        Ok(())
    }

    /// How many bytes [`Store::append`] will take now, before [`Store::write_turn`]: for whoever sends them. Where the
    /// tail is empty, one record of any length. 0: the disk, or the tail of what is not committed, is full.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        if self.health.is_some() || self.failed.is_some() {
            return 0;
        }
        let file_bytes = self.options.file_bytes();
        let active = self.segments.get(self.log.active);
        if active.end >= 2 * file_bytes && !self.can_rotate() {
            return 0;
        }
        let tail = match self.overlay.bytes() {
            0 => self.options.overlay_bytes.max(MAX_RECORD_BYTES as u64),
            pending => self.options.overlay_bytes.saturating_sub(pending),
        };
        if self.space.is_full { tail.min(self.reserved_room()) } else { tail }
    }

    /// How many bytes of records [`Store::append`] will take from now on, in as many calls and turns as they come in,
    /// without waiting for the disk: what may be on the way to this store. 0 where [`Store::room_bytes`] is.
    #[must_use]
    pub fn window_bytes(&self) -> u64 {
        let most = 2 * self.options.file_bytes();
        let end = self.segments.get(self.log.active).end;
        let log = if self.can_rotate() { most } else { most.saturating_sub(end) };
        // Each turn adds a mark, which is no longer than a record.
        self.room_bytes().min(log / 2)
    }

    /// What of the active segment's reserved space sets may use on a full disk.
    fn reserved_room(&self) -> u64 {
        let active = self.segments.get(self.log.active);
        let is_usable = self.space.spare_reserved >= active.reserved;
        let kept = MARK_BYTES as u64 + self.options.step_bytes();
        if is_usable { active.reserved.saturating_sub(active.end + kept) } else { 0 }
    }

    /// On a full disk nothing may be sent to be appended, so it is looked for room once a turn unasked.
    pub(super) fn look_for_room(&mut self) {
        if self.space.is_full && self.space.may_try() && self.health.is_none() {
            // What it finds is in `is_full` and in what is reserved.
            let _ = self.make_room(Kind::Set, self.reserved_room() + self.options.step_bytes());
        }
    }

    /// Whether a record may make the active segment grow although the spare cannot: the next start has room for it.
    fn may_outgrow(&self, kind: Kind, need: u64) -> bool {
        kind == Kind::Delete && need <= self.space.spare_reserved
    }

    /// Once the log is open: the spare should be as large as what it stands in for.
    pub(super) fn regrow_spare(&mut self) -> Result<(), Fatal> {
        let wanted = self.segments.get(self.log.active).reserved + self.options.step_bytes();
        match self.grow_spare(wanted) {
            Err(error) if !is_full(&error) => Err(Fatal::new("reserving the spare", &error)),
            _ => Ok(()),
        }
    }

    /// How much is reserved now. What is no full disk is a failure; it is told by the next call that can tell it.
    fn judge_reserve(&mut self, result: io::Result<u64>) -> Result<u64, StageError> {
        match result {
            Ok(bytes) => {
                self.space.is_full = false;
                Ok(bytes)
            }
            Err(error) if is_full(&error) => Err(self.found_full()),
            Err(error) => {
                self.fail(Fatal::new("reserving space for the log", &error));
                Err(StageError::Busy)
            }
        }
    }

    /// There was no room. What is kept for the log alone goes first.
    fn found_full(&mut self) -> StageError {
        self.space.tried = true;
        if self.give_freed() {
            return StageError::Busy;
        }
        self.space.is_full = true;
        StageError::Full
    }

    /// Grows the spare to at least this many bytes. `false`: it is just being given back.
    fn grow_spare(&mut self, upto: u64) -> io::Result<bool> {
        if self.space.spare_reserved >= upto {
            return Ok(true);
        }
        if self.space.spare_goes {
            return Ok(false);
        }
        let file = match self.space.spare {
            Some(file) => file,
            None => self.disk.create(SPARE_NAME)?,
        };
        self.space.spare = Some(file);
        self.disk.reserve(file, upto)?;
        self.space.spare_reserved = upto;
        Ok(true)
    }

    /// Creates a file with space for this many bytes. `None`: the disk is full.
    pub(super) fn create_reserved(&mut self, name: &str, bytes: u64) -> Result<Option<FileId>, Fatal> {
        let failed = |e: &io::Error| Fatal::new("creating a file of the log", e);
        let file = match self.disk.create(name) {
            Ok(file) => file,
            Err(error) if is_full(&error) => {
                self.found_full();
                return Ok(None);
            }
            Err(error) => return Err(failed(&error)),
        };
        match self.disk.reserve(file, bytes) {
            Ok(()) => Ok(Some(file)),
            Err(error) if is_full(&error) => {
                self.found_full();
                // The empty file stays: a removal under way could meet the file of the next attempt.
                self.disk.close(file);
                Ok(None)
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// Creates compaction's output with space for this many bytes. `None`: the disk is full, and if there was a spare,
    /// it is given back for this.
    pub(super) fn create_output(&mut self, name: &str, bytes: u64) -> Result<Option<FileId>, Fatal> {
        if self.space.spare_goes {
            return Ok(None);
        }
        let created = self.create_reserved(name, bytes)?;
        self.space.kept_for_compaction = created.is_none() && !self.space.freed_goes && self.give_spare();
        Ok(created)
    }

    /// Compaction needs no room after all.
    pub(super) fn need_no_output(&mut self) {
        self.space.kept_for_compaction = false;
    }

    /// Gives the spare's space back. `false`: there is none.
    pub(super) fn give_spare(&mut self) -> bool {
        let Some(file) = self.space.spare.take() else {
            return self.space.spare_goes;
        };
        self.disk.close(file);
        self.space.spare_reserved = 0;
        self.space.spare_goes = true;
        let op = self.disk.start_remove(Lane::Background, SPARE_NAME);
        self.start(op, Purpose::Spare);
        true
    }

    pub(super) fn spare_removed(&mut self, result: io::Result<Done>) -> Result<(), Fatal> {
        result.map_err(|e| Fatal::new("removing the spare", &e))?;
        self.space.spare_goes = false;
        self.space.tried = false;
        Ok(())
    }

    /// Starts a removal that nothing waits for.
    pub(super) fn remove(&mut self, name: &str) {
        let op = self.disk.start_remove(Lane::Background, name);
        self.start(op, Purpose::Removal);
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
