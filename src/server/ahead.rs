//! Owns: reads that have come and were not begun, so that memory is asked for what all of them need at once. One after
//! the other, each would wait for it twice: for the index, and for the record.
//! Never: what becomes of them.

use std::ops::Range;

use super::lane::Asked;
use crate::op::{Condition, Op, Verb};
use crate::store::disk::Disk;
use crate::store::{KeyHash, Store};

/// So many wait at most: what is asked for first must still be in the cache when the last is.
const MOST: usize = 16;
/// Fewer, where their records are so long together: what is begun at once holds up the turn.
const MOST_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Ahead {
    reads: Vec<Read>,
    keys: Vec<u8>,
    /// How long the records of all but the last are at most.
    bytes: usize,
}

#[derive(Debug)]
struct Read {
    asked: Asked,
    hash: KeyHash,
    key: Range<usize>,
    condition: Condition,
    stale: bool,
}

impl Ahead {
    /// Whether all that wait are to be begun.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.reads.len() >= MOST || self.bytes >= MOST_BYTES
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Keeps a read, and asks memory for the index's part of it.
    pub fn push<D: Disk>(&mut self, asked: Asked, op: &Op<'_>, store: &Store<D>) {
        self.expect_last(store);
        let start = self.keys.len();
        self.keys.extend_from_slice(op.key);
        let (hash, key) = (store.expect(op.key), start..self.keys.len());
        self.reads.push(Read { asked, hash, key, condition: op.condition, stale: op.stale });
    }

    /// Asks memory for the last one's record: its part of the index has come by now, or is waited for.
    pub fn expect_last<D: Disk>(&mut self, store: &Store<D>) {
        if let Some(read) = self.reads.last() {
            self.bytes += store.expect_record(read.hash);
        }
    }

    /// In the order in which they came, with the hashes of their keys.
    pub fn reads(&self) -> impl Iterator<Item = (Asked, Op<'_>, KeyHash)> {
        self.reads.iter().map(|read| {
            let key = &self.keys[read.key.clone()];
            let op = Op { verb: Verb::Get, key, value: &[], condition: read.condition, stale: read.stale };
            (read.asked, op, read.hash)
        })
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.reads.clear();
        self.keys.clear();
        self.bytes = 0;
    }
}
