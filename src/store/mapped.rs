//! Owns: looking at what the page cache holds of a file where it is, without a system call: a mapping of the file, and which
//! of its pages were found in memory a moment ago; and asking memory early for what is read soon. The one file with `unsafe`.
//!
//! `preadv2(RWF_NOWAIT)` asks whether bytes are in memory, and copies them, for about a microsecond: most of what a GET
//! costs beside its socket. The copy alone is a twentieth of that. So memory is asked about 64 pages at a time (mincore),
//! and the answer believed for [`TRUST_MS`]; for [`SHORT_TRUST_MS`] where a read has found something not to be there within
//! the last [`SHORT_MS`], since memory may be short then.
//!
//! A believed page that has left memory since makes its reader wait for the device. That is rare: what memory gives up
//! first is what nobody has read for long, and where it gives up much, belief is short. If the device then fails to read, the
//! system ends the process (SIGBUS); after its next start the page is not believed, and a thread's read of it reports the
//! error.
//!
//! A record that is looked at where it is is checked, and then copied. If its page left memory in between, and the device then
//! gave other bytes than the first time, those would be answered unchecked: what was read a moment ago is the last that
//! memory gives up.
//!
//! Never: what the bytes mean; whether to wait for the device where they are not in memory.

#![allow(unsafe_code)]

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr;

/// How long a page that was found in memory is believed to be there, in milliseconds.
const TRUST_MS: u64 = 250;
/// The same for a while after something was not there ([`SHORT_MS`]).
const SHORT_TRUST_MS: u64 = 10;
const SHORT_MS: u64 = 1_000;
const PAGE_BYTES: usize = 4096;
/// Pages whose presence is asked for at once.
const CHUNK_PAGES: usize = u64::BITS as usize;
const CHUNK_BYTES: usize = CHUNK_PAGES * PAGE_BYTES;
/// A mapping is a multiple of this long, so that a file that grows step by step is seldom mapped anew. What is mapped
/// behind a file's end takes addresses only.
const GROWTH_BYTES: usize = 32 << 20;
const LINE_BYTES: usize = 64;
/// A record with a value of a kilobyte. Of a longer one the processor fetches what follows by itself.
const EXPECTED_BYTES: usize = 18 * LINE_BYTES;

/// When it is, and whether memory may be short.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Of any clock that does not go back, in milliseconds.
    pub now_ms: u64,
    /// When something was last found not to be in memory; `None`: never.
    pub missed_ms: Option<u64>,
}

impl Moment {
    /// A page that was looked at then is to be looked at again.
    fn is_long_after(self, looked_ms: u64) -> bool {
        let is_short = self.missed_ms.is_some_and(|missed_ms| self.now_ms < missed_ms + SHORT_MS);
        self.now_ms >= looked_ms + if is_short { SHORT_TRUST_MS } else { TRUST_MS }
    }
}

/// Consecutive pages of a mapping.
#[derive(Debug, Clone, Copy, Default)]
struct Chunk {
    /// When its pages were last looked at.
    looked_ms: Option<u64>,
    /// The pages found in memory then, or written since: one bit each.
    present: u64,
}

/// A file's mapping, read-only.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Where it begins: page-aligned, and mapped for `chunks.len() * CHUNK_BYTES` bytes until this is dropped.
    base: *mut c_void,
    chunks: Vec<Chunk>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `Mapped` alone knows of it.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps a file up to `len` bytes, or further.
    ///
    /// # Errors
    /// The file system cannot, or the process has too many mappings (vm.max_map_count).
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        let bytes = usize::try_from(len).map_err(|_| io::ErrorKind::Unsupported)?.next_multiple_of(GROWTH_BYTES);
        if rustix::param::page_size() != PAGE_BYTES {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // SAFETY: the system chooses an address range that is free, so nothing that exists is replaced.
        let base = unsafe { mmap(ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
        // SAFETY: the range is the one that was just mapped, and this advice changes nothing that can be read there.
        if let Err(error) = unsafe { madvise(base, bytes, Advice::Random) } {
            log::debug!("what is around a page that has left memory is read with it: {error}");
        }
        Ok(Self { base, chunks: vec![Chunk::default(); bytes / CHUNK_BYTES] })
    }

    /// How many of the file's bytes are mapped.
    pub(super) fn len(&self) -> u64 {
        (self.chunks.len() * CHUNK_BYTES) as u64
    }

    /// The bytes at `at` if all are believed to be in memory. `file_bytes`: how long the file is at least.
    pub(super) fn try_view(&mut self, at: u64, len: usize, file_bytes: u64, moment: Moment) -> Option<&[u8]> {
        let end = at.saturating_add(len as u64);
        if len == 0 || end > file_bytes.min(self.len()) {
            return None;
        }
        let mut pages = at as usize / PAGE_BYTES..=(end as usize - 1) / PAGE_BYTES;
        pages.all(|page| self.is_present(page, moment)).then(|| self.view(at, len))
    }

    /// The bytes at `at`, which [`Mapped::try_view`] has just had.
    pub(super) fn view(&self, at: u64, len: usize) -> &[u8] {
        assert!(at.saturating_add(len as u64) <= self.len(), "viewed behind the mapping");
        // SAFETY: the range lies within the mapping, as was just asserted, and within the file, as `try_view` has found;
        // nothing makes a file shorter while it is open here (what is cut has been closed: `give_back` in files.rs). What is
        // written to a file of the log, and so to this memory, is written by this thread, through the disk that this is a
        // part of: not while this is borrowed. (The background thread writes hints, which nobody maps.)
        unsafe { std::slice::from_raw_parts(self.base.cast::<u8>().add(at as usize), len) }
    }

    /// Asks memory for the first of these bytes, the line that the last of them begins or ends in included.
    pub(super) fn expect(&self, at: u64, len: usize) {
        if at < self.len() {
            let before = at as usize % LINE_BYTES;
            prefetch(self.base.cast::<u8>().wrapping_add(at as usize - before), before + len.min(EXPECTED_BYTES));
        }
    }

    /// Notes that these bytes were written: their pages are in memory.
    pub(super) fn wrote(&mut self, at: u64, len: u64) {
        if len > 0 && at + len <= self.len() {
            for page in at as usize / PAGE_BYTES..=(at + len - 1) as usize / PAGE_BYTES {
                self.chunks[page / CHUNK_PAGES].present |= 1 << (page % CHUNK_PAGES);
            }
        }
    }

    fn is_present(&mut self, page: usize, moment: Moment) -> bool {
        let at = page / CHUNK_PAGES;
        let chunk = &mut self.chunks[at];
        if chunk.looked_ms.is_none_or(|looked_ms| moment.is_long_after(looked_ms)) {
            let mut found = [0u8; CHUNK_PAGES];
            // SAFETY: the chunk lies within the mapping, and `found` has a byte for each of its pages.
            let failed = unsafe {
                let begin = self.base.cast::<u8>().add(at * CHUNK_BYTES);
                libc::mincore(begin.cast(), CHUNK_BYTES, found.as_mut_ptr())
            };
            *chunk = Chunk { looked_ms: Some(moment.now_ms), present: 0 };
            if failed == 0 {
                chunk.present = found.iter().rev().fold(0, |bits, page| bits << 1 | u64::from(page & 1));
            }
        }
        chunk.present >> (page % CHUNK_PAGES) & 1 == 1
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing points into it.
        if let Err(error) = unsafe { munmap(self.base, self.chunks.len() * CHUNK_BYTES) } {
            log::error!("a file of the log could not be unmapped: {error}");
        }
    }
}

/// Asks the processor to have this memory in its cache soon.
pub(super) fn prefetch<T>(place: *const T, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..len).step_by(LINE_BYTES) {
        // SAFETY: it reads nothing, and an address that is not mapped is ignored.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast::<i8>().wrapping_add(at))
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (place, len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn at_ms(now_ms: u64) -> Moment {
        Moment { now_ms, missed_ms: None }
    }

    /// Whether it has the bytes; copies them.
    fn has(mapped: &mut Mapped, at: u64, buf: &mut [u8], file_bytes: u64, moment: Moment) -> bool {
        let viewed = mapped.try_view(at, buf.len(), file_bytes, moment);
        viewed.map(|bytes| buf.copy_from_slice(bytes)).is_some()
    }

    fn file(bytes: usize) -> (File, Vec<u8>) {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..bytes).map(|at| (at * 31 / 7) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        (file, content)
    }

    #[test]
    fn what_was_just_written_is_read_wherever_it_stands() {
        let len = CHUNK_BYTES + 10_000;
        let (file, content) = file(len);
        let mut mapped = Mapped::new(&file, len as u64).unwrap();
        for (at, bytes) in
            [(0, 1), (4_095, 2), (CHUNK_BYTES - 1, 2), (0, len), (len - 1, 1), (CHUNK_BYTES - 9_000, 12_345)]
        {
            let viewed = mapped.try_view(at as u64, bytes, len as u64, at_ms(5));
            assert_eq!(viewed, Some(&content[at..at + bytes]), "{at} {bytes}");
        }
    }

    #[test]
    fn nothing_is_read_behind_the_file_or_the_mapping() {
        let (file, _) = file(5_000);
        let mut mapped = Mapped::new(&file, 5_000).unwrap();
        let mapped_bytes = mapped.len();
        let mut buf = [0; 2];
        assert!(!has(&mut mapped, 4_999, &mut buf, 5_000, at_ms(1)));
        assert!(!has(&mut mapped, 5_000, &mut buf, 5_000, at_ms(1)));
        assert!(!has(&mut mapped, u64::MAX, &mut buf, u64::MAX, at_ms(1)));
        assert!(!has(&mut mapped, mapped_bytes - 1, &mut buf, u64::MAX, at_ms(1)));
        assert!(!has(&mut mapped, 0, &mut [], 5_000, at_ms(1)));
        assert!(has(&mut mapped, 4_998, &mut buf, 5_000, at_ms(1)));
    }

    #[test]
    fn a_page_is_believed_for_a_while_and_one_that_is_not_there_is_not_read() {
        // A hole is in nobody's memory.
        let (file, content) = file(4_096);
        file.set_len(3 * 4_096).unwrap();
        let mut mapped = Mapped::new(&file, 3 * 4_096).unwrap();
        let len = 3 * 4_096;
        let mut buf = [9; 100];
        assert!(has(&mut mapped, 0, &mut buf, len, at_ms(10)));
        assert_eq!(buf, content[..100]);
        assert!(!has(&mut mapped, 4_090, &mut buf, len, at_ms(10)), "its second page is not there");
        file.write_all_at(&[7; 200], 4_096).unwrap();
        assert!(!has(&mut mapped, 4_096, &mut buf, len, at_ms(10 + TRUST_MS - 1)), "not looked at again");
        assert!(has(&mut mapped, 4_096, &mut buf, len, at_ms(10 + TRUST_MS)), "looked at again");
        assert_eq!(buf, [7; 100]);
        file.write_all_at(&[8; 200], 8_192).unwrap();
        assert!(!has(&mut mapped, 8_192, &mut buf, len, at_ms(11 + TRUST_MS)));
        mapped.wrote(8_192, 200);
        assert!(has(&mut mapped, 8_192, &mut buf, len, at_ms(11 + TRUST_MS)), "told that it is there");
        assert_eq!(buf, [8; 100]);
    }

    #[test]
    fn belief_is_short_for_a_while_after_something_was_missed() {
        let len = 2 * 4_096;
        let (file, _) = file(4_096);
        file.set_len(len).unwrap();
        let mut mapped = Mapped::new(&file, len).unwrap();
        let mut buf = [9; 100];
        let mut reads = |now_ms, missed_ms| has(&mut mapped, 4_096, &mut buf, len, Moment { now_ms, missed_ms });
        assert!(!reads(5_000, Some(5_000)));
        file.write_all_at(&[7; 200], 4_096).unwrap();
        assert!(
            !reads(5_000 + SHORT_TRUST_MS, Some(5_000 + SHORT_TRUST_MS - SHORT_MS)),
            "memory is not short any more"
        );
        assert!(!reads(5_000 + SHORT_TRUST_MS - 1, Some(5_000)), "not looked at again");
        assert!(reads(5_000 + SHORT_TRUST_MS, Some(5_000)), "looked at again");
    }
}
