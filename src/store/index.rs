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
//! Nine bytes a bucket at a load between 7/16 and 7/8: 10 to 21 bytes a key.

use super::segment::Slot;
use hashbrown::HashTable;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

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

/// A key's seeded 128-bit hash. Clients choose the keys, so the seed is secret. The index uses the high half; hints
/// use both, so that two keys never pass for one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u128);

impl KeyHash {
    /// The hash of a key under a store's seed.
    #[must_use]
    pub fn of(seed: u128, key: &[u8]) -> KeyHash {
        let mut hasher = SipHasher13::new_with_keys((seed >> 64) as u64, seed as u64);
        hasher.write(key);
        KeyHash(hasher.finish128().as_u128())
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

/// See the module.
pub struct Index {
    tables: Vec<HashTable<u64>>,
    entries: u64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Index({} entries)", self.entries)
    }
}

impl Default for Index {
    fn default() -> Self {
        Index { tables: (0..1 << TABLE_BITS).map(|_| HashTable::new()).collect(), entries: 0 }
    }
}

/// A table's own hash of an entry: hashbrown wants its entropy in the low and in the top bits.
fn spread(entry: u64) -> u64 {
    (entry & FINGERPRINT_MASK).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn locator(position: Position) -> u64 {
    assert!(position.at.is_multiple_of(8) && position.at < POSITION_END, "{position:?}");
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
        let fingerprint = hash.fingerprint();
        let entries = self.tables[hash.table()].iter_hash(spread(fingerprint));
        let entry = entries.filter(|entry| **entry & FINGERPRINT_MASK == fingerprint).nth(n)?;
        let class = ((*entry >> CLASS_SHIFT) & CLASS_MASK) as usize;
        Some(Candidate { position: position_of(*entry), most_bytes: CLASSES[class] as usize })
    }

    /// Whether exactly this record is the newest one of its key.
    #[must_use]
    pub fn holds(&self, hash: KeyHash, position: Position) -> bool {
        let wanted = locator(position);
        self.tables[hash.table()].find(spread(hash.fingerprint()), |entry| is_at(*entry, wanted)).is_some()
    }

    /// Adds a key that the index does not have.
    pub fn insert(&mut self, hash: KeyHash, position: Position, bytes: usize) {
        let entry = pack(hash, position, bytes);
        self.tables[hash.table()].insert_unique(spread(entry), entry, |entry| spread(*entry));
        self.entries += 1;
    }

    /// Points a key's entry from `old` to `new`, a record of `bytes`.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn replace(&mut self, hash: KeyHash, old: Position, new: Position, bytes: usize) {
        let wanted = locator(old);
        let table = &mut self.tables[hash.table()];
        let entry = table.find_mut(spread(hash.fingerprint()), |entry| is_at(*entry, wanted));
        *entry.expect("what is replaced is there") = pack(hash, new, bytes);
    }

    /// Removes a key's entry.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn remove(&mut self, hash: KeyHash, position: Position) {
        let wanted = locator(position);
        let table = &mut self.tables[hash.table()];
        let entry = table.find_entry(spread(hash.fingerprint()), |entry| is_at(*entry, wanted));
        entry.expect("what is removed is there").remove();
        self.entries -= 1;
    }

    /// The memory that the tables hold, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.tables.iter().map(|table| table.allocation_size() + size_of::<HashTable<u64>>()).sum()
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
        Position { slot: Slot((n % 65_536) as u16), at: (n * 8) % POSITION_END }
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
                match (what, model.get(&key).copied()) {
                    (0, Some((old, _))) => { index.remove(hash, old); model.remove(&key); }
                    (0, None) => {}
                    _ if is_taken => {}
                    (_, Some((old, _))) => { index.replace(hash, old, at(place), bytes); model.insert(key, (at(place), bytes)); }
                    (_, None) => { index.insert(hash, at(place), bytes); model.insert(key, (at(place), bytes)); }
                }
                prop_assert_eq!(index.entries(), model.len() as u64);
                for (key, (position, bytes)) in &model {
                    let hash = KeyHash(u128::from(key % 7) << 97 | u128::from(*key));
                    prop_assert!(index.holds(hash, *position));
                    let found = candidates(&index, hash).into_iter().find(|c| c.position == *position);
                    prop_assert!(found.is_some_and(|c| c.most_bytes >= *bytes && c.most_bytes <= 2 * *bytes + 64));
                }
            }
        }
    }

    #[test]
    fn a_million_keys_take_at_most_24_bytes_each() {
        let mut index = Index::default();
        let mut candidates_of_absent = 0;
        for n in 0..1_000_000_u64 {
            index.insert(KeyHash::of(1, &n.to_le_bytes()), at(n), 100);
            if n % 125_000 == 124_999 {
                assert!(index.memory_bytes() as u64 <= 24 * index.entries(), "at {n}: {}", index.memory_bytes());
            }
        }
        for n in 0..1_000_000_u64 {
            assert!(index.holds(KeyHash::of(1, &n.to_le_bytes()), at(n)));
            candidates_of_absent += candidates(&index, KeyHash::of(2, &n.to_le_bytes())).len();
        }
        assert!(candidates_of_absent < 1_000, "{candidates_of_absent} keys that are absent would cost a read");
    }

    #[test]
    fn classes_grow() {
        assert!(CLASSES.is_sorted());
        assert!(CLASSES[0] as usize > super::super::record::RECORD_HEADER);
    }
}
