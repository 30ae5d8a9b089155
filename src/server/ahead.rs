//! Owns: requests that have come and were not begun, so that memory is asked for what several of them need at once. One
//! after the other, each would wait for it twice: for the index, and for the record that is there.
//! Never: what becomes of them.

use super::lane::{Asked, LaneKey, Stream};
use crate::op::{Condition, Op, Verb};
use crate::store::disk::Disk;
use crate::store::{KeyHash, Looked, Store};

/// So many wait at most: what is asked for first must still be in the cache when the last is begun.
const MOST: usize = 16;
/// Fewer are begun at once where their records are so long together: that holds up the turn.
const MOST_BYTES: usize = 64 << 10;
/// A request with a longer value waits only behind others of its lane: copying it costs more than waiting saves.
const MOST_VALUE_BYTES: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Ahead {
    waiting: Vec<Waiting>,
    /// Their keys and values.
    bytes: Vec<u8>,
    /// Of those that wait, from the first on, as far as they were looked up.
    hashes: Vec<KeyHash>,
    looked: Vec<Looked>,
    /// Whether some were left the last time, since their records, or others of that turn, are long.
    has_left: bool,
}

#[derive(Debug)]
struct Waiting {
    asked: Asked,
    verb: Verb,
    condition: Condition,
    stale: bool,
    /// In the bytes of all: where its key begins, where its value does, and where that ends.
    places: [usize; 3],
}

impl Ahead {
    /// Whether a request of this lane is to wait.
    #[must_use]
    pub fn takes(&self, lane: LaneKey, op: &Op<'_>) -> bool {
        op.value.len() <= MOST_VALUE_BYTES || self.waiting.iter().any(|waiting| waiting.asked.lane == lane)
    }

    /// Whether some are to be begun before another comes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MOST
    }

    /// Whether those that wait have waited for others with long records.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    /// They wait, if they have not yet: whether they do.
    pub fn leaves_all(&mut self) -> bool {
        let is_fresh = !self.has_left && !self.is_empty();
        self.has_left |= is_fresh;
        is_fresh
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a request, behind the others.
    pub fn push(&mut self, asked: Asked, op: &Op<'_>) {
        let key_at = self.bytes.len();
        self.bytes.extend_from_slice(op.key);
        self.bytes.extend_from_slice(op.value);
        let places = [key_at, key_at + op.key.len(), self.bytes.len()];
        let Op { verb, condition, stale, .. } = *op;
        self.waiting.push(Waiting { asked, verb, condition, stale, places });
    }

    /// Forgets those of a source that is gone.
    pub fn forget_of(&mut self, is_of_it: impl Fn(Stream) -> bool) {
        self.waiting.retain(|waiting| !is_of_it(waiting.asked.lane.0));
        self.forget(0);
    }

    /// The memory that keys and values take here.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Asks memory for what is needed to begin the first of them. Returns how many those are: all, or fewer where their
    /// records, or values, are long.
    ///
    /// Step by step for all of them, not request by request: a processor waits for several places at a time only where what
    /// it does between them is short.
    pub fn expect<D: Disk>(&mut self, store: &Store<D>) -> usize {
        self.hashes.clear();
        self.hashes.extend(self.waiting.iter().map(|waiting| store.hash(waiting.op(&self.bytes).key)));
        self.hashes.iter().for_each(|hash| store.expect(*hash));
        self.looked.clear();
        let mut record_bytes = 0;
        for (hash, waiting) in self.hashes.iter().zip(&self.waiting) {
            if record_bytes >= MOST_BYTES {
                break;
            }
            let looked = store.look_in_index(*hash);
            let found_bytes = looked.first.map_or(0, |candidate| candidate.most_bytes);
            record_bytes += waiting.places[2] - waiting.places[1] + found_bytes;
            self.looked.push(looked);
        }
        self.looked.iter().filter_map(|looked| looked.first).for_each(|candidate| store.expect_record(candidate));
        self.looked.len()
    }

    /// The first `count` in the order in which they came, with what the index said of their keys, as of [`Ahead::expect`].
    pub fn first(&self, count: usize) -> impl Iterator<Item = (Asked, Op<'_>, Looked)> {
        let looked = self.looked.iter().copied();
        self.waiting[..count]
            .iter()
            .zip(looked)
            .map(|(waiting, looked)| (waiting.asked, waiting.op(&self.bytes), looked))
    }

    /// Forgets the first `count`.
    pub fn forget(&mut self, count: usize) {
        self.waiting.drain(..count);
        let end = self.waiting.first().map_or(self.bytes.len(), |first| first.places[0]);
        self.has_left = !self.waiting.is_empty();
        self.bytes.drain(..end);
        self.bytes.shrink_to(MOST_BYTES);
        self.waiting.iter_mut().for_each(|left| left.places = left.places.map(|place| place - end));
    }
}

impl Waiting {
    fn op<'a>(&self, bytes: &'a [u8]) -> Op<'a> {
        let [key_at, value_at, end] = self.places;
        let Waiting { verb, condition, stale, .. } = *self;
        Op { verb, key: &bytes[key_at..value_at], value: &bytes[value_at..end], condition, stale }
    }
}
