//! Owns: the uncommitted tail: what has an lsn, but is not committed yet, in lsn order, with the newest pending
//! record of each key.
//! Never: values, files, the index.

use super::index::{KeyHash, Position};
use super::record::Kind;
use crate::id::Lsn;
use hashbrown::HashTable;
use std::collections::VecDeque;

/// A committed record that the index points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indexed {
    pub(super) position: Position,
    pub(super) bytes: u32,
    pub(super) kind: Kind,
}

/// What a record supersedes: found by [`super::Store::probe`], given to [`super::Store::stage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prior {
    /// Nothing: the key was never there, or its tombstone has been dropped.
    None,
    /// A committed record.
    Indexed(Indexed),
    /// A record that is pending itself.
    Pending(Lsn),
}

/// A pending record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub hash: KeyHash,
    pub place: Indexed,
    pub prior: Prior,
    /// The next pending record of the same key.
    pub newer: Option<Lsn>,
    key_bytes: u16,
    /// Where the key begins, counted from the first byte that `keys` ever held.
    key_at: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// The lsn of the first in `pending`; meaningless while there is none.
    first: Lsn,
    pending: VecDeque<Pending>,
    /// By key: the lsn of its newest pending record.
    newest: HashTable<(KeyHash, Lsn)>,
    /// The keys of the pending records, one behind the other; those before `keys_freed` are not needed any more.
    keys: Vec<u8>,
    /// What was removed from the front of `keys` so far.
    keys_base: u64,
    keys_freed: u64,
    bytes: u64,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Bytes of the pending records in the log.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The newest pending record of a key.
    pub fn newest(&self, hash: KeyHash, key: &[u8]) -> Option<(Lsn, Kind)> {
        let (_, lsn) = self.newest.find(hash.0 as u64, |(other, lsn)| *other == hash && self.key_of(*lsn) == key)?;
        Some((*lsn, self.get(*lsn).place.kind))
    }

    /// Adds the record with the next lsn.
    pub fn push(&mut self, lsn: Lsn, hash: KeyHash, key: &[u8], place: Indexed, prior: Prior) {
        if self.pending.is_empty() {
            self.first = lsn;
        }
        assert_eq!(lsn.0, self.first.0 + self.pending.len() as u64, "pending records follow one another");
        let key_at = self.keys_base + self.keys.len() as u64;
        self.keys.extend_from_slice(key);
        self.bytes += u64::from(place.bytes);
        self.pending.push_back(Pending { hash, place, prior, newer: None, key_bytes: key.len() as u16, key_at });
        if let Prior::Pending(older) = prior {
            self.get_mut(older).newer = Some(lsn);
            let entry = self.newest.find_mut(hash.0 as u64, |(_, newest)| *newest == older);
            entry.expect("a pending prior is the newest of its key").1 = lsn;
        } else {
            self.newest.insert_unique(hash.0 as u64, (hash, lsn), |(hash, _)| hash.0 as u64);
        }
    }

    /// Takes the oldest pending record out, if it is at most `upto`: it is committed now. The next pending record of
    /// its key supersedes what it has become.
    pub fn pop(&mut self, upto: Lsn) -> Option<Pending> {
        if self.first > upto {
            return None;
        }
        let popped = self.pending.pop_front()?;
        let lsn = self.first;
        self.first = lsn.next();
        self.bytes -= u64::from(popped.place.bytes);
        match popped.newer {
            Some(newer) => self.get_mut(newer).prior = Prior::Indexed(popped.place),
            None => {
                let entry = self.newest.find_entry(popped.hash.0 as u64, |(_, newest)| *newest == lsn);
                entry.expect("the last of a chain is the newest of its key").remove();
            }
        }
        self.free_key(&popped);
        Some(popped)
    }

    /// Compaction moved, or dropped, the committed record at `old`: whoever supersedes it learns that.
    pub fn moved(&mut self, hash: KeyHash, old: Position, new: Prior) {
        let Overlay { newest, pending, first, .. } = self;
        for (_, newest) in newest.iter_hash(hash.0 as u64).filter(|(other, _)| *other == hash) {
            let mut lsn = *newest;
            loop {
                let record = &mut pending[(lsn.0 - first.0) as usize];
                match record.prior {
                    Prior::Pending(older) if older >= *first => lsn = older,
                    Prior::Indexed(prior) if prior.position == old => {
                        record.prior = new;
                        return;
                    }
                    _ => break,
                }
            }
        }
    }

    fn get(&self, lsn: Lsn) -> &Pending {
        &self.pending[(lsn.0 - self.first.0) as usize]
    }

    fn get_mut(&mut self, lsn: Lsn) -> &mut Pending {
        &mut self.pending[(lsn.0 - self.first.0) as usize]
    }

    fn key_of(&self, lsn: Lsn) -> &[u8] {
        let record = self.get(lsn);
        let start = (record.key_at - self.keys_base) as usize;
        &self.keys[start..start + record.key_bytes as usize]
    }

    /// Gives a key's bytes back; moves the rest to the front only when more than half is free, so that each byte
    /// moves less than twice.
    fn free_key(&mut self, popped: &Pending) {
        self.keys_freed = popped.key_at + u64::from(popped.key_bytes);
        let free = (self.keys_freed - self.keys_base) as usize;
        if free == self.keys.len() {
            self.keys.clear();
            self.keys_base = self.keys_freed;
        } else if free > self.keys.len() / 2 && free > 4096 {
            self.keys.drain(..free);
            self.keys_base = self.keys_freed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Slot;
    use super::*;

    fn place(n: u64, kind: Kind) -> Indexed {
        Indexed { position: Position { slot: Slot(0), at: n * 8 }, bytes: 64, kind }
    }

    fn push(overlay: &mut Overlay, lsn: u64, key: &[u8], kind: Kind, base: Prior) {
        let hash = KeyHash::of(0, key);
        let prior = overlay.newest(hash, key).map_or(base, |(lsn, _)| Prior::Pending(lsn));
        overlay.push(Lsn(lsn), hash, key, place(lsn, kind), prior);
    }

    #[test]
    fn a_chain_resolves_as_it_commits() {
        let mut overlay = Overlay::default();
        let base = Prior::Indexed(place(1000, Kind::Set));
        push(&mut overlay, 5, b"a", Kind::Set, base);
        push(&mut overlay, 6, b"b", Kind::Set, Prior::None);
        push(&mut overlay, 7, b"a", Kind::Delete, Prior::None);
        assert_eq!(overlay.newest(KeyHash::of(0, b"a"), b"a"), Some((Lsn(7), Kind::Delete)));
        assert_eq!(overlay.newest(KeyHash::of(0, b"c"), b"c"), None);
        assert_eq!(overlay.bytes(), 3 * 64);
        assert!(overlay.pop(Lsn(4)).is_none());
        assert_eq!(overlay.pop(Lsn(7)).map(|p| p.prior), Some(base));
        assert_eq!(overlay.pop(Lsn(7)).map(|p| p.prior), Some(Prior::None));
        assert_eq!(overlay.newest(KeyHash::of(0, b"b"), b"b"), None);
        assert_eq!(overlay.pop(Lsn(7)).map(|p| p.prior), Some(Prior::Indexed(place(5, Kind::Set))));
        assert!(overlay.is_empty() && overlay.bytes() == 0 && overlay.keys.is_empty());
    }

    #[test]
    fn what_compaction_moves_is_learned_by_the_oldest_of_the_chain() {
        let mut overlay = Overlay::default();
        let old = place(1000, Kind::Set);
        push(&mut overlay, 5, b"a", Kind::Set, Prior::Indexed(old));
        push(&mut overlay, 6, b"a", Kind::Set, Prior::None);
        let new = Prior::Indexed(place(2000, Kind::Set));
        overlay.moved(KeyHash::of(0, b"a"), place(1, Kind::Set).position, Prior::None);
        overlay.moved(KeyHash::of(0, b"a"), old.position, new);
        assert_eq!(overlay.pop(Lsn(6)).map(|p| p.prior), Some(new));
        assert_eq!(overlay.pop(Lsn(6)).map(|p| p.prior), Some(Prior::Indexed(place(5, Kind::Set))));
    }

    #[test]
    fn keys_are_freed_as_the_tail_moves_on() {
        let mut overlay = Overlay::default();
        for lsn in 1..5000_u64 {
            push(&mut overlay, lsn, format!("key {lsn}").as_bytes(), Kind::Set, Prior::None);
            if lsn > 100 {
                assert!(overlay.pop(Lsn(lsn - 100)).is_some());
            }
        }
        assert!(overlay.keys.len() < 3 * 8192, "{}", overlay.keys.len());
        let key = b"key 4950";
        assert_eq!(overlay.newest(KeyHash::of(0, key), key), Some((Lsn(4950), Kind::Set)));
    }
}
