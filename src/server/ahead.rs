//! Owns: requests that have come and were not begun, so that memory is asked for what all of them need at once. One after
//! the other, each would wait for it twice: for the index, and for the record that is there.
//! Never: what becomes of them.

use super::lane::Asked;
use crate::op::{Condition, Op, Verb};
use crate::store::disk::Disk;
use crate::store::{KeyHash, Store};

/// So many wait at most: what is asked for first must still be in the cache when the last is.
const MOST: usize = 16;
/// Fewer, where their records are so long together: what is begun at once holds up the turn.
const MOST_BYTES: usize = 64 << 10;
/// A request with a longer value does not wait: copying it would cost more than that saves.
const MOST_VALUE_BYTES: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Ahead {
    waiting: Vec<Waiting>,
    /// Their keys and values.
    bytes: Vec<u8>,
    /// How long the records of all but the last are at most.
    record_bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    asked: Asked,
    hash: KeyHash,
    verb: Verb,
    condition: Condition,
    stale: bool,
    /// In the bytes of all: where its key begins, where its value does, and where that ends.
    places: [usize; 3],
}

impl Ahead {
    /// Whether a request may wait here.
    #[must_use]
    pub fn takes(op: &Op<'_>) -> bool {
        op.value.len() <= MOST_VALUE_BYTES
    }

    /// Whether all that wait are to be begun.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MOST || self.record_bytes >= MOST_BYTES
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a request, and asks memory for the index's part of it.
    pub fn push<D: Disk>(&mut self, asked: Asked, op: &Op<'_>, store: &Store<D>) {
        self.expect_last(store);
        let key_at = self.bytes.len();
        self.bytes.extend_from_slice(op.key);
        self.bytes.extend_from_slice(op.value);
        let places = [key_at, key_at + op.key.len(), self.bytes.len()];
        let Op { verb, condition, stale, .. } = *op;
        self.waiting.push(Waiting { asked, hash: store.expect(op.key), verb, condition, stale, places });
    }

    /// Asks memory for the last one's record: its part of the index has come by now, or is waited for.
    pub fn expect_last<D: Disk>(&mut self, store: &Store<D>) {
        if let Some(last) = self.waiting.last() {
            self.record_bytes += store.expect_record(last.hash);
        }
    }

    /// In the order in which they came, with the hashes of their keys.
    pub fn all(&self) -> impl Iterator<Item = (Asked, Op<'_>, KeyHash)> {
        self.waiting.iter().map(|waiting| {
            let [key_at, value_at, end] = waiting.places;
            let (key, value) = (&self.bytes[key_at..value_at], &self.bytes[value_at..end]);
            let Waiting { asked, hash, verb, condition, stale, .. } = *waiting;
            (asked, Op { verb, key, value, condition, stale }, hash)
        })
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.bytes.clear();
        self.record_bytes = 0;
    }
}
