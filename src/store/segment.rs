//! Owns: a segment file's head and seal as bytes, file names, and what the store remembers of each segment.
//! Never: the index, when a segment is written or removed.

use super::disk::FileId;
use super::record::{self, BadRecord, COUNT_END, Kind, Mark, Record, put, u32_at, u64_at, u128_at};
use crate::id::{Lsn, Uuid};

/// Where a segment's records begin: behind two sectors, one for the head and one for the seal, so that writing
/// the seal touches no byte that is in use already.
pub const DATA_AT: u64 = 1024;
/// The version of the format of segments and small state.
pub const FORMAT: u32 = 1;
const SEAL_AT: usize = 512;
const HEAD_MAGIC: &[u8; 8] = b"dkv-log\n";
const SEAL_MAGIC: &[u8; 8] = b"dkv-seal";
const HEAD_BYTES: usize = 84;
const SEAL_BYTES: usize = 52;

/// A segment file's number. A compacted segment takes the number of the first that it replaces, so the order of
/// numbers is the order of lsn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The number of the segment after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// The file's name.
    #[must_use]
    pub fn log_name(self) -> String {
        format!("{:016x}.log", self.0)
    }

    /// The name under which it is written before it is installed.
    #[must_use]
    pub fn temporary_name(self) -> String {
        format!("{:016x}.tmp", self.0)
    }

    /// The name of its hint.
    #[must_use]
    pub fn hint_name(self) -> String {
        format!("{:016x}.hint", self.0)
    }

    /// The number in the name of a segment file.
    #[must_use]
    pub fn of_log_name(name: &str) -> Option<Seq> {
        let digits = name.strip_suffix(".log").filter(|d| d.len() == 16)?;
        u64::from_str_radix(digits, 16).ok().map(Seq).filter(|seq| seq.log_name() == name)
    }
}

/// The first sector of a segment: written and synced before the segment is used, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The store that it belongs to.
    pub store: Uuid,
    /// Its number.
    pub seq: Seq,
    /// The last number that it stands for: above `seq` only where compaction made one segment of several.
    pub seq_to: Seq,
    /// In every mark of this file; secret, so that no value can contain a mark.
    pub salt: u64,
    /// Whether compaction wrote it: then its lsns have gaps, and it has no marks.
    pub compacted: bool,
    /// Whether the file was an earlier segment's, of which something may stand behind its end.
    pub reused: bool,
    /// What was committed when compaction began to write it: no record that was dead then is in it. Zero if not
    /// compacted.
    pub purged: Lsn,
}

/// The second sector of a segment: written when all its records are durable. From then on the file never changes,
/// and bad bytes in it are corruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// The lsn of the first record that the segment stands for (it may have been dropped since).
    pub first: Lsn,
    /// The lsn of the last record that it stands for; `first` minus one if there is none.
    pub last: Lsn,
    /// Where its data ends, in bytes from the file's start.
    pub end: u64,
    /// All up to here was committed when it was sealed: the marks behind it may not have reached the disk.
    pub committed: Lsn,
}

impl Head {
    /// The bytes of the file's start.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        put(&mut bytes, 0, HEAD_MAGIC);
        put(&mut bytes, 8, &FORMAT.to_le_bytes());
        put(&mut bytes, 12, &u32::from(self.compacted).to_le_bytes());
        put(&mut bytes, 16, &self.store.0.to_le_bytes());
        put(&mut bytes, 32, &self.seq.0.to_le_bytes());
        put(&mut bytes, 40, &self.seq_to.0.to_le_bytes());
        put(&mut bytes, 48, &self.salt.to_le_bytes());
        put(&mut bytes, 56, &self.purged.0.to_le_bytes());
        put(&mut bytes, 64, &u32::from(self.reused).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..HEAD_BYTES - 4]);
        put(&mut bytes, HEAD_BYTES - 4, &crc.to_le_bytes());
        bytes
    }

    /// The head in the first bytes of a file, if it is sound.
    #[must_use]
    pub fn decode(file: &[u8]) -> Option<Head> {
        let bytes = file.get(..HEAD_BYTES)?;
        let sound = bytes.starts_with(HEAD_MAGIC)
            && u32_at(bytes, 8) == FORMAT
            && u32_at(bytes, 12) <= 1
            && u32_at(bytes, 64) <= 1
            && crc32c::crc32c(&bytes[..HEAD_BYTES - 4]) == u32_at(bytes, HEAD_BYTES - 4);
        let head = sound.then(|| Head {
            store: Uuid(u128_at(bytes, 16)),
            seq: Seq(u64_at(bytes, 32)),
            seq_to: Seq(u64_at(bytes, 40)),
            salt: u64_at(bytes, 48),
            compacted: u32_at(bytes, 12) == 1,
            reused: u32_at(bytes, 64) == 1,
            purged: Lsn(u64_at(bytes, 56)),
        });
        head.filter(|head| head.seq <= head.seq_to && head.seq_to.0 < COUNT_END && head.purged.0 < COUNT_END)
    }
}

#[cfg(test)]
impl Head {
    /// That of a segment of one number that nothing has touched.
    pub(super) fn for_test(seq: Seq, salt: u64) -> Head {
        Head { store: Uuid(1), seq, seq_to: seq, salt, compacted: false, reused: false, purged: Lsn::ZERO }
    }
}

impl Seal {
    /// Where the seal stands in the file, in bytes.
    pub const AT: u64 = SEAL_AT as u64;

    /// The seal's bytes in a segment with this salt.
    #[must_use]
    pub fn encode(&self, salt: u64) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        put(&mut bytes, 0, SEAL_MAGIC);
        put(&mut bytes, 8, &salt.to_le_bytes());
        put(&mut bytes, 16, &self.first.0.to_le_bytes());
        put(&mut bytes, 24, &self.last.0.to_le_bytes());
        put(&mut bytes, 32, &self.end.to_le_bytes());
        put(&mut bytes, 40, &self.committed.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..SEAL_BYTES - 4]);
        put(&mut bytes, SEAL_BYTES - 4, &crc.to_le_bytes());
        bytes
    }

    /// The seal in a file's first [`DATA_AT`] bytes, if the segment is sealed.
    #[must_use]
    pub fn decode(file: &[u8], salt: u64) -> Option<Seal> {
        let bytes = file.get(SEAL_AT..SEAL_AT + SEAL_BYTES)?;
        let sound = bytes.starts_with(SEAL_MAGIC)
            && u64_at(bytes, 8) == salt
            && crc32c::crc32c(&bytes[..SEAL_BYTES - 4]) == u32_at(bytes, SEAL_BYTES - 4);
        let seal = sound.then(|| Seal {
            first: Lsn(u64_at(bytes, 16)),
            last: Lsn(u64_at(bytes, 24)),
            end: u64_at(bytes, 32),
            committed: Lsn(u64_at(bytes, 40)),
        });
        seal.filter(Seal::is_lawful)
    }

    /// Whether a segment's records may end before this one. What compaction left out leaves gaps, at the end, too.
    pub(super) fn is_end(&self, next: Lsn, head: &Head) -> bool {
        next == self.last.next() || (head.compacted && next <= self.last)
    }

    /// Whether a segment can be so.
    fn is_lawful(&self) -> bool {
        let counts = [self.first, self.last, self.committed].iter().all(|lsn| lsn.0 < COUNT_END);
        let spans = || self.first > Lsn::ZERO && self.first <= self.last.next();
        counts && spans() && self.end >= DATA_AT && self.end.is_multiple_of(record::ALIGN as u64)
    }
}

/// A record or a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A record.
    Record(Record<'a>),
    /// A mark of this segment.
    Mark(Mark),
}

/// The frame at the start of `bytes` in a segment with this salt, and how many bytes it takes.
///
/// # Errors
/// Where there is neither a sound record nor a mark.
pub fn frame(bytes: &[u8], salt: u64) -> Result<(Frame<'_>, usize), BadRecord> {
    match record::decode(bytes) {
        Ok((found, taken)) => Ok((Frame::Record(found), taken)),
        Err(reason) => match record::decode_mark(bytes, salt) {
            Some(mark) => Ok((Frame::Mark(mark), record::MARK_BYTES)),
            None => Err(reason),
        },
    }
}

/// A segment's place in the store's table; index entries name it by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// What the store remembers of a segment.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub file: FileId,
    pub head: Head,
    /// The first lsn that it stands for.
    pub first: Lsn,
    /// The last lsn that it stands for.
    pub last: Lsn,
    /// Where its data ends (what is staged included).
    pub end: u64,
    /// Bytes allocated on disk.
    pub reserved: u64,
    pub sealed: bool,
    /// Its first mark is written.
    pub has_opening: bool,
    /// A mark has been written alone, and no sync was started since.
    pub mark_unsynced: bool,
    /// Bytes of its hint file.
    pub hint_bytes: u64,
    /// Records that the index points to, tombstones not counted, and their bytes.
    pub live_records: u64,
    pub live_bytes: u64,
    /// Tombstones that the index points to, and their bytes.
    pub tombstone_records: u64,
    pub tombstone_bytes: u64,
    /// Committed records that the index no longer points to.
    pub dead_records: u64,
}

impl Segment {
    pub fn new(file: FileId, head: Head, first: Lsn) -> Self {
        let last = Lsn(first.0 - 1);
        Segment {
            file,
            head,
            first,
            last,
            end: DATA_AT,
            reserved: 0,
            sealed: false,
            has_opening: false,
            mark_unsynced: false,
            hint_bytes: 0,
            live_records: 0,
            live_bytes: 0,
            tombstone_records: 0,
            tombstone_bytes: 0,
            dead_records: 0,
        }
    }

    pub fn seal(&self, committed: Lsn) -> Seal {
        Seal { first: self.first, last: self.last, end: self.end, committed }
    }

    /// The index points to another record of it.
    pub fn count_in(&mut self, kind: Kind, bytes: u64) {
        match kind {
            Kind::Set => (self.live_records, self.live_bytes) = (self.live_records + 1, self.live_bytes + bytes),
            Kind::Delete => {
                (self.tombstone_records, self.tombstone_bytes) =
                    (self.tombstone_records + 1, self.tombstone_bytes + bytes);
            }
            Kind::Jump => unreachable!("the index points to no jump"),
        }
    }

    /// The index does not point to one of its records any more. A damaged one may be of another kind or length than
    /// when it was counted in; compaction notices, at the file's end, that this does not come out even.
    pub fn count_out(&mut self, kind: Kind, bytes: u64) {
        let (records, all) = match kind {
            Kind::Set => (&mut self.live_records, &mut self.live_bytes),
            Kind::Delete => (&mut self.tombstone_records, &mut self.tombstone_bytes),
            Kind::Jump => unreachable!("the index points to no jump"),
        };
        (*records, *all) = (records.saturating_sub(1), all.saturating_sub(bytes));
    }

    /// Whether the index points to none of its records.
    pub fn is_dead(&self) -> bool {
        [self.live_records, self.live_bytes, self.tombstone_records, self.tombstone_bytes] == [0; 4]
    }
}

/// All segments: by slot, and in the order of their lsns.
#[derive(Debug, Default)]
pub(super) struct Segments {
    slots: Vec<Option<Segment>>,
    free: Vec<Slot>,
    /// Sorted by number. A compaction's output is not in it before it is installed.
    order: Vec<Slot>,
}

impl Segments {
    /// The most segments there can be at a time.
    pub const MOST: usize = 1 << 16;

    /// Whether this many segments can be added.
    pub fn has_room_for(&self, more: usize) -> bool {
        self.slots.len() - self.free.len() + more <= Self::MOST
    }

    pub fn add(&mut self, segment: Segment) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.slots[slot.0 as usize] = Some(segment);
            return slot;
        }
        assert!(self.slots.len() < Self::MOST, "has_room_for was not asked");
        self.slots.push(Some(segment));
        Slot((self.slots.len() - 1) as u16)
    }

    pub fn get(&self, slot: Slot) -> &Segment {
        self.slots[slot.0 as usize].as_ref().expect("slots in use stay filled")
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut Segment {
        self.slots[slot.0 as usize].as_mut().expect("slots in use stay filled")
    }

    pub fn append_to_order(&mut self, slot: Slot) {
        self.order.push(slot);
    }

    /// Puts `output` where the run of `inputs` stands in the order, and gives their slots back.
    pub fn replace(&mut self, inputs: &[Slot], output: Slot) -> Vec<Segment> {
        let start = self.order.iter().position(|slot| inputs.first() == Some(slot));
        let start = start.expect("a run of inputs stands in the order");
        assert_eq!(&self.order[start..start + inputs.len()], inputs);
        self.order.splice(start..start + inputs.len(), [output]);
        inputs.iter().filter_map(|slot| self.remove_slot(*slot)).collect()
    }

    /// Takes the last segment of the order out.
    pub fn pop(&mut self) -> Option<Segment> {
        let slot = self.order.pop()?;
        self.remove_slot(slot)
    }

    fn remove_slot(&mut self, slot: Slot) -> Option<Segment> {
        self.free.push(slot);
        self.slots[slot.0 as usize].take()
    }

    pub fn order(&self) -> &[Slot] {
        &self.order
    }

    /// Every segment, a compaction's output included.
    pub fn all(&self) -> impl Iterator<Item = &Segment> {
        self.slots.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            store: Uuid(5),
            seq: Seq(3),
            seq_to: Seq(4),
            salt: 0x1234_5678_9abc_def0,
            compacted: true,
            reused: true,
            purged: Lsn(9),
        }
    }

    #[test]
    fn head_and_seal_survive_and_no_flipped_bit_does() {
        let mut file = vec![0; DATA_AT as usize];
        let seal = Seal { first: Lsn(1), last: Lsn(8), end: 4096, committed: Lsn(3) };
        put(&mut file, 0, &head().encode());
        put(&mut file, SEAL_AT, &seal.encode(head().salt));
        assert_eq!(Head::decode(&file), Some(head()));
        assert_eq!(Seal::decode(&file, head().salt), Some(seal));
        assert_eq!(Seal::decode(&file, 1), None);
        for bit in 0..SEAL_AT * 8 + SEAL_BYTES * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let in_head = bit / 8 < HEAD_BYTES;
            let in_seal = bit / 8 >= SEAL_AT;
            assert_eq!(Head::decode(&bad).is_none(), in_head, "bit {bit}");
            assert_eq!(Seal::decode(&bad, head().salt).is_none(), in_seal, "bit {bit}");
        }
    }

    /// A checksum fits these, too.
    #[test]
    fn spans_that_no_segment_has_are_refused() {
        let decoded = |seal: Seal| {
            let mut file = vec![0; DATA_AT as usize];
            put(&mut file, SEAL_AT, &seal.encode(7));
            Seal::decode(&file, 7)
        };
        let good = Seal { first: Lsn(5), last: Lsn(4), end: 1024, committed: Lsn(3) };
        assert_eq!(decoded(good), Some(good), "nothing may be left of a segment");
        for bad in [
            Seal { first: Lsn(6), ..good },
            Seal { first: Lsn(0), ..good },
            Seal { last: Lsn(u64::MAX), ..good },
            Seal { committed: Lsn(COUNT_END), ..good },
            Seal { end: 1016, ..good },
            Seal { end: 1028, ..good },
        ] {
            assert_eq!(decoded(bad), None, "{bad:?}");
        }
        let mut file = vec![0; DATA_AT as usize];
        for bad in [
            Head { seq_to: Seq(COUNT_END), ..head() },
            Head { seq_to: Seq(2), ..head() },
            Head { purged: Lsn(COUNT_END), ..head() },
        ] {
            put(&mut file, 0, &bad.encode());
            assert_eq!(Head::decode(&file), None, "{bad:?}");
        }
    }

    #[test]
    fn a_head_of_another_kind_or_format_is_none_whatever_its_checksum_says() {
        for (at, byte) in [(0, b'D'), (8, FORMAT as u8 + 1), (12, 2)] {
            let mut bytes = head().encode();
            bytes[at] = byte;
            let crc = crc32c::crc32c(&bytes[..HEAD_BYTES - 4]);
            put(&mut bytes, HEAD_BYTES - 4, &crc.to_le_bytes());
            assert_eq!(Head::decode(&bytes), None, "{byte} at {at}");
        }
    }

    #[test]
    fn there_is_room_for_so_many_segments_and_for_those_that_went() {
        let mut segments = Segments::default();
        let segment = || Segment::new(FileId(0), head(), Lsn(1));
        for _ in 0..Segments::MOST {
            assert!(segments.has_room_for(1));
            let slot = segments.add(segment());
            segments.append_to_order(slot);
        }
        assert!(segments.has_room_for(0) && !segments.has_room_for(1));
        segments.pop();
        segments.pop();
        assert!(segments.has_room_for(2) && !segments.has_room_for(3));
        segments.add(segment());
        assert!(segments.has_room_for(1) && !segments.has_room_for(2));
    }

    #[test]
    fn names_go_both_ways() {
        assert_eq!(Seq(0x1f).log_name(), "000000000000001f.log");
        // A start removes what ends so.
        assert_eq!(Seq(0x1f).temporary_name(), "000000000000001f.tmp");
        assert_eq!(Seq::of_log_name("000000000000001f.log"), Some(Seq(0x1f)));
        for bad in ["1f.log", "000000000000001F.log", "000000000000001f.tmp", "+00000000000001f.log", "state"] {
            assert_eq!(Seq::of_log_name(bad), None, "{bad}");
        }
    }
}
