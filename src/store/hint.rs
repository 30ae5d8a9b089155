//! Owns: hint files: what a sealed segment holds, without the values, so that a start need not read the segment.
//! Never: what decides whether a record is live.
//!
//! ```text
//! 0     magic "dkv-hint", u32 format, u32 records left out, u128 store, u64 seq, u64 salt, u64 last lsn, u64 end
//! 64    256 × (u32 entries, u32 crc32c of the group's bytes)
//! 2112  u32 crc32c of all before, u32 0
//! 2120  the groups' entries: u88 of the key's hash, u32 (position / 8) | delete << 31, u24 (bytes of the record / 8)
//! ```
//!
//! A group holds the entries whose hash begins with its number, in lsn order; so a start can take one group of all
//! segments at a time and needs little memory. Of a hash its first 96 bits stand here, eight of them in the group's
//! number: that two of a billion keys share them has a chance of 6e-12.
//!
//! A record that another one of the same segment supersedes may be left out: whoever reads the other needs it no more, and
//! where few keys are written over and over, it is most of them. Losing a hint loses nothing: it is made anew from the
//! segment. It is never synced: one that a crash has torn does not match its checksums.

use super::disk::{Disk, Done, FileId, Lane};
use super::index::KeyHash;
use super::record::{ALIGN, Kind, MAX_RECORD_BYTES, put, u32_at, u64_at, u128_at};
use super::segment::{DATA_AT, Head, Seal, Slot};
use super::space::is_full;
use super::{Fatal, Purpose, Store};
use crate::id::{Lsn, Uuid};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;

pub(super) const GROUPS: usize = 256;
const MAGIC: &[u8; 8] = b"dkv-hint";
/// Of hints alone: one of another format is made anew. The first had entries of 24 bytes.
const FORMAT: u32 = 2;
const TABLE_AT: usize = 64;
const TABLE_END: usize = TABLE_AT + GROUPS * 8;
const ENTRIES_AT: usize = TABLE_END + 8;
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 18;
/// Bytes of a hint without its entries.
pub(super) const HINT_FIXED_BYTES: usize = ENTRIES_AT;
const DELETE_BIT: u32 = 1 << 31;
const HASH_BYTES: usize = 11;
/// The bits of a hash that a hint does not have.
const HASH_SHIFT: u32 = 32;

/// What a hint says of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Without the bits that a hint does not have.
    pub hash: KeyHash,
    /// Where the record stands, in bytes from the start of the segment's file.
    pub at: u64,
    pub bytes: u32,
    pub kind: Kind,
}

impl Entry {
    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let delete = if self.kind == Kind::Delete { DELETE_BIT } else { 0 };
        put(&mut bytes, 0, &(self.hash.0 >> HASH_SHIFT).to_le_bytes()[..HASH_BYTES]);
        put(&mut bytes, HASH_BYTES, &((self.at / 8) as u32 | delete).to_le_bytes());
        put(&mut bytes, HASH_BYTES + 4, &(self.bytes / 8).to_le_bytes()[..3]);
        bytes
    }

    /// `group`: the hash's first byte.
    fn decode(group: usize, bytes: &[u8]) -> Entry {
        let mut hash = [0; size_of::<u128>()];
        put(&mut hash, HASH_SHIFT as usize / 8, &bytes[..HASH_BYTES]);
        hash[size_of::<u128>() - 1] = group as u8;
        let place = u32_at(bytes, HASH_BYTES);
        let mut length = [0; 4];
        put(&mut length, 0, &bytes[HASH_BYTES + 4..]);
        Entry {
            hash: KeyHash(u128::from_le_bytes(hash)),
            at: u64::from(place & !DELETE_BIT) * 8,
            bytes: u32::from_le_bytes(length) * 8,
            kind: if place & DELETE_BIT == 0 { Kind::Set } else { Kind::Delete },
        }
    }
}

/// Collects a segment's entries while it is written or read.
#[derive(Debug, Default)]
pub(super) struct HintBuilder {
    /// Empty, or one a group.
    groups: Vec<Vec<u8>>,
    /// Where those stand that are left out.
    left_out: Vec<u64>,
}

impl HintBuilder {
    /// Adds the next record. A jump leaves no trace: the index knows nothing of it.
    pub fn push(&mut self, hash: KeyHash, at: u64, bytes: u32, kind: Kind) {
        if kind == Kind::Jump {
            return;
        }
        if self.groups.is_empty() {
            self.groups.resize_with(GROUPS, Vec::new);
        }
        let group = (hash.0 >> 120) as usize;
        self.groups[group].extend_from_slice(&Entry { hash, at, bytes, kind }.encode());
    }

    /// A record that was added is superseded by another that was: it is left out. Both are committed.
    pub fn leave_out(&mut self, at: u64) {
        self.left_out.push(at);
    }

    /// Finds them by itself, of a segment whose records are all committed: so a hint that is made anew needs no more room than
    /// the one that was lost.
    pub fn leave_out_superseded(&mut self) {
        let mut newer: HashSet<KeyHash, BuildHasherDefault<AsItIs>> = HashSet::default();
        let mut left_out = std::mem::take(&mut self.left_out);
        for group in 0..self.groups.len() {
            newer.clear();
            left_out.extend(self.group(group).rev().filter(|entry| !newer.insert(entry.hash)).map(|entry| entry.at));
        }
        self.left_out = left_out;
    }

    /// The entries of a group, in the order in which they were added.
    pub fn group(&self, group: usize) -> impl DoubleEndedIterator<Item = Entry> {
        let bytes = self.groups.get(group).map_or(&[][..], Vec::as_slice);
        bytes.chunks_exact(ENTRY_BYTES).map(move |entry| Entry::decode(group, entry))
    }

    /// Bytes that [`HintBuilder::encode`] gives.
    pub fn encoded_bytes(&self) -> usize {
        ENTRIES_AT + self.groups.iter().map(Vec::len).sum::<usize>() - self.left_out.len() * ENTRY_BYTES
    }

    /// Takes those out that are left out.
    fn thin_out(&mut self) {
        let Some(last) = self.left_out.iter().max() else { return };
        // A bit for each place where a record may stand.
        let bit = |at: u64| (at as usize / ALIGN / 64, 1_u64 << (at as usize / ALIGN % 64));
        let mut bits = vec![0_u64; bit(*last).0 + 1];
        for (word, bit) in self.left_out.iter().map(|at| bit(*at)) {
            bits[word] |= bit;
        }
        for (number, group) in self.groups.iter_mut().enumerate() {
            let mut kept = 0;
            for from in (0..group.len()).step_by(ENTRY_BYTES) {
                let Entry { at, .. } = Entry::decode(number, &group[from..from + ENTRY_BYTES]);
                let (word, bit) = bit(at);
                if bits.get(word).is_none_or(|word| word & bit == 0) {
                    group.copy_within(from..from + ENTRY_BYTES, kept);
                    kept += ENTRY_BYTES;
                }
            }
            group.truncate(kept);
        }
    }

    /// The file of a segment that is sealed with all these entries, in parts.
    pub fn encode(mut self, head: &Head, seal: &Seal) -> Vec<Vec<u8>> {
        self.thin_out();
        let mut out = vec![0; ENTRIES_AT];
        put(&mut out, 0, MAGIC);
        put(&mut out, 8, &FORMAT.to_le_bytes());
        put(&mut out, 12, &(self.left_out.len() as u32).to_le_bytes());
        put(&mut out, 16, &head.store.0.to_le_bytes());
        for (n, word) in [head.seq.0, head.salt, seal.last.0, seal.end].into_iter().enumerate() {
            put(&mut out, 32 + n * 8, &word.to_le_bytes());
        }
        for (n, group) in self.groups.iter().enumerate() {
            put(&mut out, TABLE_AT + n * 8, &((group.len() / ENTRY_BYTES) as u32).to_le_bytes());
            put(&mut out, TABLE_AT + n * 8 + 4, &crc32c::crc32c(group).to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..TABLE_END]);
        put(&mut out, TABLE_END, &crc.to_le_bytes());
        let mut parts = self.groups;
        parts.insert(0, out);
        parts
    }
}

/// Hashes a hash, of which a hint has the upper bits: they are good enough as they are, with a secret seed.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write_u128(&mut self, hash: u128) {
        self.0 = (hash >> 32) as u64;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key's hash is a u128");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A hint that was found to be sound, to be read group by group.
#[derive(Debug)]
pub(super) struct HintFile {
    pub file: FileId,
    pub bytes: u64,
    /// Records that have no entry, since another one of the segment supersedes them.
    pub left_out: u32,
    entries: Vec<u32>,
    next_group: usize,
    next_at: u64,
}

impl HintFile {
    /// Checks all of a hint file. `None`: it is damaged, or not this segment's.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load(disk: &mut impl Disk, file: FileId, head: &Head, seal: &Seal) -> io::Result<Option<HintFile>> {
        let len = disk.len(file)? as usize;
        let mut bytes = vec![0; len];
        let read = disk.read(file, 0, &mut bytes)?;
        if read < len || !is_of(&bytes, head, seal) {
            return Ok(None);
        }
        let mut entries = Vec::with_capacity(GROUPS);
        let mut at = ENTRIES_AT;
        for group in 0..GROUPS {
            let count = u32_at(&bytes, TABLE_AT + group * 8);
            let end = at + count as usize * ENTRY_BYTES;
            let sound = bytes.get(at..end).is_some_and(|group_bytes| {
                let crc = u32_at(&bytes, TABLE_AT + group * 8 + 4);
                let in_place = |e: Entry| {
                    e.at >= DATA_AT && e.at + u64::from(e.bytes) <= seal.end && e.bytes as usize <= MAX_RECORD_BYTES
                };
                crc32c::crc32c(group_bytes) == crc
                    && group_bytes.chunks_exact(ENTRY_BYTES).all(|entry| in_place(Entry::decode(group, entry)))
            });
            if !sound {
                return Ok(None);
            }
            entries.push(count);
            at = end;
        }
        let left_out = u32_at(&bytes, 12);
        Ok(Some(HintFile { file, bytes: len as u64, left_out, entries, next_group: 0, next_at: ENTRIES_AT as u64 }))
    }

    /// The entries of the next group.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn next_group(&mut self, disk: &mut impl Disk) -> io::Result<Vec<Entry>> {
        let count = self.entries[self.next_group] as usize;
        let mut bytes = vec![0; count * ENTRY_BYTES];
        let read = disk.read(self.file, self.next_at, &mut bytes)?;
        if read < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let group = self.next_group;
        self.next_group += 1;
        self.next_at += bytes.len() as u64;
        Ok(bytes.chunks_exact(ENTRY_BYTES).map(|entry| Entry::decode(group, entry)).collect())
    }
}

fn is_of(bytes: &[u8], head: &Head, seal: &Seal) -> bool {
    bytes.len() >= ENTRIES_AT
        && bytes.starts_with(MAGIC)
        && u32_at(bytes, 8) == FORMAT
        && Uuid(u128_at(bytes, 16)) == head.store
        && [head.seq.0, head.salt, seal.last.0, seal.end].iter().zip(4..).all(|(w, n)| u64_at(bytes, n * 8) == *w)
        && crc32c::crc32c(&bytes[..TABLE_END]) == u32_at(bytes, TABLE_END)
}

/// A file with room for a hint. `None`: the disk is full.
fn create(disk: &mut impl Disk, head: &Head, bytes: u64) -> io::Result<Option<FileId>> {
    let file = match disk.create(&head.seq.hint_name()) {
        Err(error) if is_full(&error) => return Ok(None),
        other => other?,
    };
    match disk.reserve(file, bytes) {
        Err(error) if is_full(&error) => {
            disk.close(file);
            Ok(None)
        }
        other => other.map(|()| Some(file)),
    }
}

fn failed(error: &io::Error) -> Fatal {
    Fatal::new("writing a hint", error)
}

impl<D: Disk> Store<D> {
    /// Starts writing the hint of a segment that has just been sealed: it may be longer than a turn is. On a full disk it
    /// does without.
    pub(super) fn write_hint(&mut self, slot: Slot, hint: HintBuilder) -> Result<(), Fatal> {
        let segment = self.segments.get_mut(slot);
        let bytes = hint.encoded_bytes() as u64;
        segment.hint_bytes = 0;
        if let Some(file) = create(&mut self.disk, &segment.head, bytes).map_err(|e| failed(&e))? {
            segment.hint_bytes = bytes;
            let parts = hint.encode(&segment.head, &segment.seal(Lsn::ZERO));
            let op = self.disk.start_write(Lane::Background, file, 0, parts);
            self.disk.close(file);
            self.start(op, Purpose::Hint);
        }
        Ok(())
    }

    pub(super) fn hint_written(&mut self, result: io::Result<Done>) -> Result<(), Fatal> {
        result.map(drop).map_err(|e| failed(&e))
    }

    /// The same as [`Store::write_hint`], *blocking*: a start that makes many holds no more than one in memory.
    pub(super) fn write_hint_now(&mut self, slot: Slot, hint: HintBuilder) -> Result<(), Fatal> {
        self.write_hint(slot, hint)?;
        self.settle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::segment::Seq;

    fn known(hash: KeyHash) -> KeyHash {
        KeyHash(hash.0 >> HASH_SHIFT << HASH_SHIFT)
    }

    #[test]
    fn entries_survive_by_group_and_in_order() {
        let mut builder = HintBuilder::default();
        let mut entries = Vec::new();
        for n in 0..5000_u64 {
            let kind = if n % 3 == 0 { Kind::Delete } else { Kind::Set };
            let hash = KeyHash::of(9, &(n % 700).to_le_bytes());
            let entry = Entry { hash: known(hash), at: n * 8, bytes: n as u32 * 8 + 48, kind };
            builder.push(hash, entry.at, entry.bytes, entry.kind);
            entries.push(entry);
        }
        let all: Vec<Entry> = (0..GROUPS).flat_map(|group| builder.group(group)).collect();
        entries.sort_by_key(|entry| (entry.hash.0 >> 120, entry.at));
        assert_eq!(all, entries);
        let head = Head::for_test(Seq(2), 3);
        let seal = Seal { first: Lsn(1), last: Lsn(5000), end: 1 << 20, committed: Lsn(5000) };
        let length = builder.encoded_bytes();
        let bytes = builder.encode(&head, &seal).concat();
        assert_eq!(bytes.len(), length);
        assert!(is_of(&bytes, &head, &seal));
        assert!(!is_of(&bytes, &Head { salt: 4, ..head }, &seal));
        assert!(!is_of(&bytes, &head, &Seal { last: Lsn(4999), ..seal }));
    }

    #[test]
    fn what_is_superseded_in_its_own_segment_is_left_out() {
        let hash = |n: u64| KeyHash::of(9, &(n % 300).to_le_bytes());
        let mut builder = HintBuilder::default();
        for n in 0..1000 {
            builder.push(hash(n), n * 48, 48, Kind::Set);
            if n >= 300 {
                builder.leave_out((n - 300) * 48);
            }
        }
        let mut found = HintBuilder { left_out: Vec::new(), groups: builder.groups.clone() };
        found.leave_out_superseded();
        found.left_out.sort_unstable();
        assert_eq!(found.left_out, builder.left_out);
        let head = Head::for_test(Seq(2), 3);
        let seal = Seal { first: Lsn(1), last: Lsn(1000), end: 1 << 20, committed: Lsn(1000) };
        let length = builder.encoded_bytes();
        let bytes = builder.encode(&head, &seal).concat();
        assert_eq!((bytes.len(), u32_at(&bytes, 12)), (length, 700));
        let mut left: Vec<(KeyHash, u64)> = Vec::new();
        let mut at = ENTRIES_AT;
        for group in 0..GROUPS {
            for _ in 0..u32_at(&bytes, TABLE_AT + group * 8) {
                let Entry { hash, at: place, .. } = Entry::decode(group, &bytes[at..at + ENTRY_BYTES]);
                left.push((hash, place));
                at += ENTRY_BYTES;
            }
        }
        left.sort_by_key(|(_, place)| *place);
        assert_eq!(left, (700..1000).map(|n| (known(hash(n)), n * 48)).collect::<Vec<_>>());
    }
}
