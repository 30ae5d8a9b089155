//! Owns: the file that compaction has no more use for and the log takes next, instead of a new one: a sync of bytes that
//! replace others is a write less, since the file system has nothing to note, and there is no file to make and none to
//! remove.
//! Never: what stands in it.
//!
//! What an input of compaction held is committed and durable, so a record that is left in it has a lower lsn than any that
//! the log still gets, and its marks have another salt: recovery takes neither for the log's (`scan.rs`). A log's end that
//! was cut off is in no such file: cutting writes files anew (`truncate.rs`).
//!
//! Until the log takes it, the file keeps its name, whose number is one that a compacted segment stands for: a start finds
//! it needless.

use super::disk::{Disk, FileId};
use super::segment::{Segment, Seq};
use super::{Stats, Store};

/// A file that is kept.
#[derive(Debug)]
pub(super) struct Freed {
    seq: Seq,
    reserved: u64,
}

impl<D: Disk> Store<D> {
    /// A segment's file is not used any more, and no name of it is another's: the longest one is kept, the others go.
    pub(super) fn free(&mut self, old: &Segment) {
        self.remove(&old.head.seq.hint_name());
        // A short one is of little use, and has no room for deletes on a full disk; in a long one, what is behind the log's
        // end would be wasted.
        let file_bytes = self.options.file_bytes();
        let fits = (file_bytes / 4..=file_bytes + self.options.step_bytes()).contains(&old.reserved);
        if fits && old.reserved > self.freed_bytes() {
            self.remove_freed();
            self.freed = Some(Freed { seq: old.head.seq, reserved: old.reserved });
        } else {
            self.remove(&old.head.seq.log_name());
        }
        self.disk.close(old.file);
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

    /// The file that is kept, if there is one, under an id of its own: reads of what it held may be under way. Its number,
    /// and how much is reserved in it.
    pub(super) fn take_freed(&mut self) -> Option<(FileId, Seq, u64)> {
        let Freed { seq, reserved } = self.freed.take()?;
        match self.disk.open(&seq.log_name()) {
            Ok(file) => Some((file, seq, reserved)),
            Err(error) => {
                log::debug!("a file of the log cannot be used again: {error}");
                self.remove(&seq.log_name());
                None
            }
        }
    }

    /// Its room is needed.
    pub(super) fn remove_freed(&mut self) {
        let Some((file, seq, _)) = self.take_freed() else { return };
        // In this order it goes step by step (`files.rs`).
        self.remove(&seq.log_name());
        self.disk.close(file);
    }
}
