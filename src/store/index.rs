//! Owns: the index: the hash of every committed key → where its newest record stands. A tombstone is a record, too,
//! and stays in the index until compaction drops it.
//! Never: keys, files. An entry only says "perhaps here": the caller compares the key with the record's.
//!
//! An entry is one word, and there are 4,096 small tables, so that a table that grows holds up the loop for
//! microseconds only:
//!
//! ```text
//! hash:   | table 12 | fingerprint 19 |           33 unused            |
//! entry:  | slot 16  | position / 8: 24 | length class 5 | fingerprint 19 |
//! ```
//!
//! A table is a row of cache lines of eight words (linear probing by lines): what a lookup costs is the one miss of its
//! home line, where a table with control bytes apart has two. Its load is between 7/12 and 7/8: 9 to 14 bytes a key.

use super::mapped::prefetch;
use super::segment::Slot;
use siphasher::sip128::SipHasher13;

const TABLE_BITS: u32 = 12;
const SLOT_SHIFT: u32 = 48;
const POSITION_SHIFT: u32 = 24;
const POSITION_MASK: u64 = (1 << 24) - 1;
const CLASS_SHIFT: u32 = 19;
const CLASS_MASK: u64 = 31;
const FINGERPRINT_MASK: u64 = (1 << 19) - 1;

/// No record may start at or behind this many bytes of a segment: an entry could not say where.
pub const POSITION_END: u64 = (POSITION_MASK + 1) * 8;

/// The upper bounds of the length classes, in bytes.
const CLASSES: [u32; 32] = [
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1 << 10,
    1536,
    2 << 10,
    3 << 10,
    4 << 10,
    6 << 10,
    8 << 10,
    12 << 10,
    16 << 10,
    24 << 10,
    32 << 10,
    48 << 10,
    64 << 10,
    128 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
    2 << 20,
    4 << 20,
    8 << 20,
    16 << 20,
    32 << 20,
    super::record::MAX_RECORD_BYTES as u32,
];

/// A key's seeded 128-bit hash. Clients choose the keys, so the seed is secret. The index uses its first 31 bits,
/// hints 96, so that two keys do not pass for one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u128);

impl KeyHash {
    /// The hash of a key under a store's seed.
    #[must_use]
    pub fn of(seed: u128, key: &[u8]) -> KeyHash {
        let hasher = SipHasher13::new_with_keys((seed >> 64) as u64, seed as u64);
        KeyHash(hasher.hash(key).as_u128())
    }

    /// Whether an index has one entry for either: of a record, not even its place can tell whose it is.
    #[must_use]
    pub fn is_alike(self, other: KeyHash) -> bool {
        self.table() == other.table() && self.fingerprint() == other.fingerprint()
    }

    fn table(self) -> usize {
        (self.0 >> (128 - TABLE_BITS)) as usize
    }

    fn fingerprint(self) -> u64 {
        (self.0 >> (128 - TABLE_BITS - 19)) as u64 & FINGERPRINT_MASK
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Its segment.
    pub slot: Slot,
    /// Bytes from the file's start: a multiple of 8, below [`POSITION_END`].
    pub at: u64,
}

/// What the index says of a key: a record of it may stand here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub position: Position,
    /// The record is at most this long, in bytes.
    pub most_bytes: usize,
}

/// What the index said of a key: it says so as long as it does not change. Of no use with another index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// The key's.
    pub hash: KeyHash,
    /// Its first candidate.
    pub first: Option<Candidate>,
    changes: u64,
}

/// See the module.
pub struct Index {
    tables: Vec<Table>,
    entries: u64,
    /// How often it was changed.
    changes: u64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Index({} entries)", self.entries)
    }
}

impl Default for Index {
    fn default() -> Self {
        Index { tables: (0..1 << TABLE_BITS).map(|_| Table::default()).collect(), entries: 0, changes: 0 }
    }
}

const LINE_WORDS: usize = 8;
/// No entry: no record stands at a file's beginning.
const EMPTY: u64 = 0;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; LINE_WORDS]);

impl Line {
    fn is_full(&self) -> bool {
        !self.0.contains(&EMPTY)
    }
}

/// A word of a table: its line, and its place there.
type Word = (usize, usize);

/// Invariant: every line from an entry's home line to the one before its own is full. So a search ends at the first line
/// that is not.
#[derive(Default)]
struct Table {
    lines: Vec<Line>,
    entries: usize,
}

impl Table {
    /// Where the search for a fingerprint begins.
    fn home(&self, fingerprint: u64) -> usize {
        let spread = fingerprint.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((spread * self.lines.len() as u64) >> 32) as usize
    }

    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }

    /// How many steps of a search lead from one line to another.
    fn steps(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.lines.len() - from }
    }

    /// The first entry with this fingerprint of which `is_it` says so.
    fn search(&self, fingerprint: u64, mut is_it: impl FnMut(u64) -> bool) -> Option<Word> {
        if self.lines.is_empty() {
            return None;
        }
        let mut at = self.home(fingerprint);
        loop {
            let line = &self.lines[at];
            for (word, entry) in line.0.into_iter().enumerate() {
                if entry & FINGERPRINT_MASK == fingerprint && entry != EMPTY && is_it(entry) {
                    return Some((at, word));
                }
            }
            if !line.is_full() {
                return None;
            }
            at = self.next(at);
        }
    }

    /// The entry of the record at this place.
    fn find(&self, fingerprint: u64, locator: u64) -> Option<Word> {
        self.search(fingerprint, |entry| is_at(entry, locator))
    }

    fn at(&self, (line, word): Word) -> u64 {
        self.lines[line].0[word]
    }

    fn insert(&mut self, entry: u64) {
        if (self.entries + 1) * 8 > self.lines.len() * LINE_WORDS * 7 {
            self.grow();
        }
        self.put(entry);
        self.entries += 1;
    }

    fn put(&mut self, entry: u64) {
        let mut line = self.home(entry & FINGERPRINT_MASK);
        while self.lines[line].is_full() {
            line = self.next(line);
        }
        let word = self.lines[line].0.iter().position(|word| *word == EMPTY).expect("it is not full");
        self.lines[line].0[word] = entry;
    }

    fn grow(&mut self) {
        let count = (self.lines.len() * 3 / 2).max(self.lines.len() + 1);
        let old = std::mem::replace(&mut self.lines, vec![Line([EMPTY; LINE_WORDS]); count]);
        old.iter().flat_map(|line| line.0).filter(|entry| *entry != EMPTY).for_each(|entry| self.put(entry));
    }

    /// Takes an entry out. Where its line was full, others may have been put behind it: one of those takes its place, and
    /// leaves its own, and so on.
    fn remove(&mut self, mut hole: Word) {
        self.entries -= 1;
        loop {
            let was_full = self.lines[hole.0].is_full();
            self.lines[hole.0].0[hole.1] = EMPTY;
            let Some(mover) = was_full.then(|| self.displaced_by(hole.0)).flatten() else { return };
            self.lines[hole.0].0[hole.1] = self.at(mover);
            hole = mover;
        }
    }

    /// An entry whose search leads through a line, which was full, to a line behind it.
    fn displaced_by(&self, full: usize) -> Option<Word> {
        let mut line = self.next(full);
        while line != full {
            let passes = |entry: u64| {
                entry != EMPTY && self.steps(self.home(entry & FINGERPRINT_MASK), line) >= self.steps(full, line)
            };
            if let Some(word) = self.lines[line].0.iter().position(|entry| passes(*entry)) {
                return Some((line, word));
            }
            if !self.lines[line].is_full() {
                return None;
            }
            line = self.next(line);
        }
        None
    }
}

fn locator(position: Position) -> u64 {
    let is_possible = position.at > 0 && position.at.is_multiple_of(8) && position.at < POSITION_END;
    assert!(is_possible, "{position:?}");
    (u64::from(position.slot.0) << SLOT_SHIFT) | ((position.at / 8) << POSITION_SHIFT)
}

fn pack(hash: KeyHash, position: Position, bytes: usize) -> u64 {
    let class = CLASSES.iter().position(|most| bytes <= *most as usize).expect("records have a longest length");
    locator(position) | ((class as u64) << CLASS_SHIFT) | hash.fingerprint()
}

fn position_of(entry: u64) -> Position {
    Position { slot: Slot((entry >> SLOT_SHIFT) as u16), at: ((entry >> POSITION_SHIFT) & POSITION_MASK) * 8 }
}

impl Index {
    /// How many entries there are, tombstones included.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The n-th record that may be the key's, in no particular order. Nearly always there is at most one.
    #[must_use]
    pub fn candidate(&self, hash: KeyHash, n: usize) -> Option<Candidate> {
        let table = &self.tables[hash.table()];
        let mut others = n;
        let word = table.search(hash.fingerprint(), |_| {
            let is_it = others == 0;
            others = others.saturating_sub(1);
            is_it
        })?;
        let entry = table.at(word);
        let class = ((entry >> CLASS_SHIFT) & CLASS_MASK) as usize;
        Some(Candidate { position: position_of(entry), most_bytes: CLASSES[class] as usize })
    }

    /// What is there to be known of a key, so that it is not searched for again.
    #[must_use]
    pub fn look(&self, hash: KeyHash) -> Looked {
        Looked { hash, first: self.candidate(hash, 0), changes: self.changes }
    }

    /// What was known of a key, as of now.
    #[must_use]
    pub fn look_again(&self, looked: Looked) -> Looked {
        if looked.changes == self.changes { looked } else { self.look(looked.hash) }
    }

    /// Asks memory for what a search for the hash looks at first.
    pub fn expect(&self, hash: KeyHash) {
        let table = &self.tables[hash.table()];
        if !table.lines.is_empty() {
            prefetch(&raw const table.lines[table.home(hash.fingerprint())], 1);
        }
    }

    /// Whether exactly this record is the newest one of its key.
    #[must_use]
    pub fn holds(&self, hash: KeyHash, position: Position) -> bool {
        self.tables[hash.table()].find(hash.fingerprint(), locator(position)).is_some()
    }

    /// Adds a key that the index does not have.
    pub fn insert(&mut self, hash: KeyHash, position: Position, bytes: usize) {
        self.changes += 1;
        self.tables[hash.table()].insert(pack(hash, position, bytes));
        self.entries += 1;
    }

    /// Points a key's entry from `old` to `new`, a record of `bytes`.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn replace(&mut self, hash: KeyHash, old: Position, new: Position, bytes: usize) {
        self.changes += 1;
        let table = &mut self.tables[hash.table()];
        let (line, word) = table.find(hash.fingerprint(), locator(old)).expect("what is replaced is there");
        table.lines[line].0[word] = pack(hash, new, bytes);
    }

    /// Removes a key's entry.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn remove(&mut self, hash: KeyHash, position: Position) {
        self.changes += 1;
        let table = &mut self.tables[hash.table()];
        let word = table.find(hash.fingerprint(), locator(position)).expect("what is removed is there");
        table.remove(word);
        self.entries -= 1;
    }

    /// The memory that the tables hold, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let lines: usize = self.tables.iter().map(|table| table.lines.capacity()).sum();
        lines * size_of::<Line>() + self.tables.len() * size_of::<Table>()
    }
}

fn is_at(entry: u64, locator: u64) -> bool {
    entry >> POSITION_SHIFT == locator >> POSITION_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn at(n: u64) -> Position {
        Position { slot: Slot((n % 65_536) as u16), at: (n * 8) % (POSITION_END - 8) + 8 }
    }

    fn candidates(index: &Index, hash: KeyHash) -> Vec<Candidate> {
        (0..).map_while(|n| index.candidate(hash, n)).collect()
    }

    proptest! {
        #[test]
        fn it_does_what_a_map_does(steps in proptest::collection::vec((0_u8..3, 0_u64..40, 0_u64..1 << 40, 41_usize..100_000), 1..300)) {
            let mut index = Index::default();
            let mut model: HashMap<u64, (Position, usize)> = HashMap::new();
            for (what, key, place, bytes) in steps {
                // Few different hashes, so that entries share a fingerprint.
                let hash = KeyHash(u128::from(key % 7) << 97 | u128::from(key));
                // No two records stand at one place.
                let is_taken = model.values().any(|(p, _)| *p == at(place));
                let known: Vec<Looked> = (0..7_u64).map(|key| index.look(KeyHash(u128::from(key) << 97))).collect();
                match (what, model.get(&key).copied()) {
                    (0, Some((old, _))) => { index.remove(hash, old); model.remove(&key); }
                    (0, None) => {}
                    _ if is_taken => {}
                    (_, Some((old, _))) => { index.replace(hash, old, at(place), bytes); model.insert(key, (at(place), bytes)); }
                    (_, None) => { index.insert(hash, at(place), bytes); model.insert(key, (at(place), bytes)); }
                }
                prop_assert_eq!(index.entries(), model.len() as u64);
                for looked in known {
                    prop_assert_eq!(index.look_again(looked), index.look(looked.hash), "what was known before that change");
                }
                for (key, (position, bytes)) in &model {
                    let hash = KeyHash(u128::from(key % 7) << 97 | u128::from(*key));
                    prop_assert!(index.holds(hash, *position));
                    let found = candidates(&index, hash).into_iter().find(|c| c.position == *position);
                    prop_assert!(found.is_some_and(|c| c.most_bytes >= *bytes && c.most_bytes <= 2 * *bytes + 64));
                }
            }
        }
    }

    /// Entries in turn at each end of full lines: whatever goes, all others are found.
    #[test]
    fn whatever_is_removed_the_others_are_found() {
        let mut index = Index::default();
        let hash = |n: u64| KeyHash(u128::from(n.wrapping_mul(0x9e37_79b9) & FINGERPRINT_MASK) << 97);
        (0..2_000).for_each(|n| index.insert(hash(n), at(n), 100));
        let full = index.tables[0].lines.iter().filter(|line| line.is_full()).count();
        assert!(full > 20, "{full} of {} lines are full: too few for a test", index.tables[0].lines.len());
        for gone in 0..2_000 {
            index.remove(hash(gone), at(gone));
            assert!(!index.holds(hash(gone), at(gone)));
            assert!((gone + 1..2_000).all(|n| index.holds(hash(n), at(n))), "after {gone}");
        }
    }

    #[test]
    fn a_million_keys_take_at_most_16_bytes_each() {
        let mut index = Index::default();
        let mut candidates_of_absent = 0;
        for n in 0..1_000_000_u64 {
            index.insert(KeyHash::of(1, &n.to_le_bytes()), at(n), 100);
            if n % 125_000 == 124_999 {
                let bytes = index.memory_bytes() as u64;
                assert!((9 * index.entries()..=16 * index.entries()).contains(&bytes), "at {n}: {bytes}");
            }
        }
        for n in 0..1_000_000_u64 {
            assert!(index.holds(KeyHash::of(1, &n.to_le_bytes()), at(n)));
            candidates_of_absent += candidates(&index, KeyHash::of(2, &n.to_le_bytes())).len();
        }
        assert!(candidates_of_absent < 1_000, "{candidates_of_absent} keys that are absent would cost a read");
    }

    /// Hints have them: under another hash, a directory's keys would be there and not be found.
    #[test]
    fn the_hash_of_a_key_is_this_for_ever_and_rests_on_all_of_the_seed() {
        assert_eq!(KeyHash::of(3 << 64 | 5, b"key"), KeyHash(0x2199a845_de2b35b7_fc6bea59_1f4ac064));
        let mut hashes: Vec<KeyHash> = (0..128).map(|bit| KeyHash::of(1 << bit, b"key")).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 128);
    }

    #[test]
    fn hashes_are_alike_where_an_index_cannot_tell_them_apart() {
        let one = KeyHash::of(1, b"key");
        let mut index = Index::default();
        index.insert(one, at(7), 100);
        for bit in 0..128 {
            let other = KeyHash(one.0 ^ 1 << bit);
            assert_eq!(one.is_alike(other), index.holds(other, at(7)), "bit {bit}");
            assert_eq!(one.is_alike(other), index.candidate(other, 0).is_some(), "bit {bit}");
        }
        assert!(one.is_alike(one));
    }

    /// Else each look into a table would go through all of it.
    #[test]
    fn fingerprints_that_differ_little_are_spread_over_a_table() {
        let table = Table { lines: vec![Line([EMPTY; LINE_WORDS]); 100], entries: 0 };
        for shift in [0, 5, 10] {
            let mut homes = [0; 100];
            (0..512).for_each(|n| homes[table.home(n << shift)] += 1);
            assert!(homes.iter().all(|count| (1..20).contains(count)), "{homes:?}");
        }
    }

    #[test]
    fn classes_grow() {
        assert!(CLASSES.is_sorted());
        assert!(CLASSES[0] as usize > super::super::record::RECORD_HEADER);
    }
}
