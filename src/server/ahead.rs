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
/// Fewer, where the records of the last ones were long: what is begun together holds up the turn.
const MOST_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Ahead {
    reads: Vec<Read>,
    keys: Vec<u8>,
    /// The longest record of those that were begun last.
    longest_bytes: usize,
}

#[derive(Debug)]
struct Read {
    asked: Asked,
    /// Set when all are begun.
    hash: Option<KeyHash>,
    key: Range<usize>,
    condition: Condition,
    stale: bool,
}

impl Ahead {
    /// Whether all that wait are to be begun.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.reads.len() >= (MOST_BYTES / self.longest_bytes.max(1)).clamp(1, MOST)
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Keeps a read.
    pub fn push(&mut self, asked: Asked, op: &Op<'_>) {
        let start = self.keys.len();
        self.keys.extend_from_slice(op.key);
        let key = start..self.keys.len();
        self.reads.push(Read { asked, hash: None, key, condition: op.condition, stale: op.stale });
    }

    /// Asks memory for all that they need, step by step: while one waits, so do the others.
    pub fn expect<D: Disk>(&mut self, store: &Store<D>) {
        for read in &mut self.reads {
            read.hash = Some(store.expect(&self.keys[read.key.clone()]));
        }
        let hashes = self.reads.iter().filter_map(|read| read.hash);
        self.longest_bytes = hashes.map(|hash| store.expect_record(hash)).max().unwrap_or(0);
    }

    /// In the order in which they came.
    pub fn reads(&self) -> impl Iterator<Item = (Asked, Op<'_>, Option<KeyHash>)> {
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
    }
}
