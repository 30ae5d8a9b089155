//! Owns: the file that compaction has no more use for and the log takes next, instead of a new one: a sync of bytes that
//! replace others is a write less, since the file system has nothing to note, and there is no file to make and none to
//! remove.
//! Never: what stands in it.
//!
//! What an input of compaction held is committed and durable, and so was, before that, what still earlier segments left in
//! it: a record that is left there has a lower lsn than any that the log still gets, and its marks have another salt.
//! Recovery takes neither for the log's (`scan.rs`), and while the store is open nothing behind what is written is read
//! (`Store::written_end`). A log's end that was cut off is in no such file: cutting writes files anew (`truncate.rs`).
//!
//! Until the log takes it, the file keeps its name, whose number is one that a compacted segment stands for: a start finds
//! it needless.

use super::disk::{Disk, Done, FileId, Lane};
use super::segment::{Segment, Seq};
use super::{Fatal, Purpose, Stats, Store};
use std::io;

/// A file that is kept.
#[derive(Debug)]
pub(super) struct Freed {
    /// Under an id of its own: what was read of it under the old one, or is being read, is not what will stand there.
    pub file: FileId,
    pub seq: Seq,
    /// Bytes allocated on disk.
    pub reserved: u64,
}

impl<D: Disk> Store<D> {
    /// A segment's file is not used any more, and no name of it is another's: the longest one is kept, the others go.
    pub(super) fn free(&mut self, old: &Segment) {
        self.remove(&old.head.seq.hint_name());
        // A short one is of little use, and has no room for deletes on a full disk; in a long one, what is behind the log's
        // end would be wasted.
        let file_bytes = self.options.file_bytes();
        let fits = (file_bytes / 4..=file_bytes + self.options.step_bytes()).contains(&old.reserved);
        if fits && old.reserved > self.freed_bytes() && self.disk.can_be_written_over(old.file) {
            self.remove_freed();
            self.keep_freed(old.head.seq, old.reserved);
        } else {
            self.remove(&old.head.seq.log_name());
        }
        self.disk.close(old.file);
    }

    fn keep_freed(&mut self, seq: Seq, reserved: u64) {
        match self.disk.open(&seq.log_name()) {
            Ok(file) => self.freed = Some(Freed { file, seq, reserved }),
            Err(error) => {
                log::debug!("a file of the log cannot be used again: {error}");
                self.remove(&seq.log_name());
            }
        }
    }

    /// Compaction begins or ends: the file is kept only while disk use is well below what is promised ([`super::Options`]).
    pub(super) fn look_at_freed(&mut self) {
        let Stats { live_bytes, log_bytes, .. } = self.stats();
        if self.space.is_full || log_bytes > 2 * live_bytes + self.options.segment_bytes {
            self.remove_freed();
        }
    }

    /// What it takes on the disk.
    pub(super) fn freed_bytes(&self) -> u64 {
        self.freed.as_ref().map_or(0, |freed| freed.reserved)
    }

    fn remove_freed(&mut self) {
        if let Some(Freed { file, seq, .. }) = self.freed.take() {
            // In this order its space goes back in steps (`files.rs`).
            self.remove(&seq.log_name());
            self.disk.close(file);
        }
    }

    /// The disk is full: the file goes, and until it has, the disk is not called full. `false`: there is none.
    pub(super) fn give_freed(&mut self) -> bool {
        if let Some(Freed { file, seq, .. }) = self.freed.take() {
            // In this order all of its space is back when it is removed.
            self.disk.close(file);
            let op = self.disk.start_remove(Lane::Background, &seq.log_name());
            self.start(op, Purpose::Freed);
            self.space.freed_goes = true;
        }
        self.space.freed_goes
    }

    pub(super) fn freed_removed(&mut self, result: io::Result<Done>) -> Result<(), Fatal> {
        result.map_err(|e| Fatal::new("removing a file of the log", &e))?;
        self.space.freed_goes = false;
        Ok(())
    }
}
