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
    pub lsn: Lsn,
    pub hash: KeyHash,
    pub place: Indexed,
    /// `None`: not looked up yet. Only ever so in the oldest pending record of its key.
    pub prior: Option<Prior>,
    /// The next pending record of the same key.
    pub newer: Option<Lsn>,
    key_bytes: u16,
    /// Where the key begins, counted from the first byte that `keys` ever held.
    key_at: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// In lsn order, with gaps where there are jumps, which supersede nothing and so are not pending.
    pending: VecDeque<Pending>,
    /// So many of `pending`, from the front, were given out by `next_unknown` or needed no look.
    looked_at: usize,
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

    /// The lsn of the oldest pending record.
    pub fn first(&self) -> Option<Lsn> {
        self.pending.front().map(|record| record.lsn)
    }

    /// The newest pending record of a key.
    pub fn newest(&self, hash: KeyHash, key: &[u8]) -> Option<(Lsn, Kind)> {
        let (_, lsn) = self.newest.find(hash.0 as u64, |(other, lsn)| *other == hash && self.key_of(*lsn) == key)?;
        Some((*lsn, self.get(*lsn).place.kind))
    }

    /// Adds a record behind all others. `None`: what it supersedes is not known yet; it is no pending record.
    pub fn push(&mut self, lsn: Lsn, hash: KeyHash, key: &[u8], place: Indexed, prior: Option<Prior>) {
        assert!(self.pending.back().is_none_or(|last| last.lsn < lsn), "pending records follow one another");
        let key_at = self.keys_base + self.keys.len() as u64;
        self.keys.extend_from_slice(key);
        self.bytes += u64::from(place.bytes);
        self.pending.push_back(Pending { lsn, hash, place, prior, newer: None, key_bytes: key.len() as u16, key_at });
        if let Some(Prior::Pending(older)) = prior {
            self.get_mut(older).newer = Some(lsn);
            let entry = self.newest.find_mut(hash.0 as u64, |(_, newest)| *newest == older);
            entry.expect("a pending prior is the newest of its key").1 = lsn;
        } else {
            self.newest.insert_unique(hash.0 as u64, (hash, lsn), |(hash, _)| hash.0 as u64);
        }
    }

    /// The next record up to `upto`, from the oldest on, of which it is not known what it supersedes. Each is given out
    /// once; [`Overlay::know`] is the answer.
    pub fn next_unknown(&mut self, upto: Lsn) -> Option<Lsn> {
        while let Some(record) = self.pending.get(self.looked_at).filter(|record| record.lsn <= upto) {
            self.looked_at += 1;
            if record.prior.is_none() {
                return Some(record.lsn);
            }
        }
        None
    }

    /// The key's hash and bytes of a pending record.
    pub fn key(&self, lsn: Lsn) -> (KeyHash, &[u8]) {
        (self.get(lsn).hash, self.key_of(lsn))
    }

    /// What a pending record supersedes, which was not known.
    pub fn know(&mut self, lsn: Lsn, prior: Prior) {
        let unknown = self.get_mut(lsn).prior.replace(prior);
        assert!(unknown.is_none(), "{lsn:?} is looked up twice");
    }

    /// Takes the oldest pending record out, if it is at most `upto` and what it supersedes is known: it is committed
    /// now. The next pending record of its key supersedes what it has become.
    pub fn pop(&mut self, upto: Lsn) -> Option<(Pending, Prior)> {
        let oldest = *self.pending.front().filter(|record| record.lsn <= upto)?;
        let prior = oldest.prior?;
        match oldest.newer {
            Some(newer) => self.get_mut(newer).prior = Some(Prior::Indexed(oldest.place)),
            None => self.forget_newest(&oldest),
        }
        self.pending.pop_front();
        self.looked_at = self.looked_at.saturating_sub(1);
        self.bytes -= u64::from(oldest.place.bytes);
        self.free_key(&oldest);
        Some((oldest, prior))
    }

    /// Forgets all records above `to`: they have never been.
    pub fn truncate(&mut self, to: Lsn) {
        while let Some(last) = self.pending.back().filter(|record| record.lsn > to).copied() {
            match last.prior {
                Some(Prior::Pending(older)) => {
                    self.get_mut(older).newer = None;
                    let entry = self.newest.find_mut(last.hash.0 as u64, |(_, newest)| *newest == last.lsn);
                    entry.expect("the last of a chain is the newest of its key").1 = older;
                }
                _ => self.forget_newest(&last),
            }
            self.pending.pop_back();
            self.bytes -= u64::from(last.place.bytes);
            self.keys.truncate((last.key_at - self.keys_base) as usize);
        }
        assert!(self.looked_at <= self.pending.len(), "what is being committed is not cut");
    }

    /// The only pending record of a key goes.
    fn forget_newest(&mut self, record: &Pending) {
        let entry = self.newest.find_entry(record.hash.0 as u64, |(_, newest)| *newest == record.lsn);
        entry.expect("the last of a chain is the newest of its key").remove();
    }

    /// Compaction moved, or dropped, the committed record at `old`: whoever supersedes it learns that.
    pub fn moved(&mut self, hash: KeyHash, old: Position, new: Prior) {
        let Overlay { newest, pending, .. } = self;
        for (_, newest) in newest.iter_hash(hash.0 as u64).filter(|(other, _)| *other == hash) {
            let mut lsn = *newest;
            loop {
                let at = index_of(pending, lsn);
                let record = &mut pending[at];
                match record.prior {
                    Some(Prior::Pending(older)) => lsn = older,
                    Some(Prior::Indexed(prior)) if prior.position == old => {
                        record.prior = Some(new);
                        return;
                    }
                    _ => break,
                }
            }
        }
    }

    fn get(&self, lsn: Lsn) -> &Pending {
        &self.pending[index_of(&self.pending, lsn)]
    }

    fn get_mut(&mut self, lsn: Lsn) -> &mut Pending {
        let at = index_of(&self.pending, lsn);
        &mut self.pending[at]
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

/// Where a pending record stands: its distance from the first, but for jumps.
fn index_of(pending: &VecDeque<Pending>, lsn: Lsn) -> usize {
    let distance = pending.front().map_or(0, |first| lsn.0.saturating_sub(first.lsn.0)) as usize;
    if pending.get(distance).is_some_and(|record| record.lsn == lsn) {
        return distance;
    }
    let found = pending.binary_search_by_key(&lsn, |record| record.lsn);
    found.expect("chains name pending records only")
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
        overlay.push(Lsn(lsn), hash, key, place(lsn, kind), Some(prior));
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
        assert_eq!(overlay.pop(Lsn(7)).map(|(_, prior)| prior), Some(base));
        assert_eq!(overlay.pop(Lsn(7)).map(|(_, prior)| prior), Some(Prior::None));
        assert_eq!(overlay.newest(KeyHash::of(0, b"b"), b"b"), None);
        assert_eq!(overlay.pop(Lsn(7)).map(|(_, prior)| prior), Some(Prior::Indexed(place(5, Kind::Set))));
        assert!(overlay.is_empty() && overlay.bytes() == 0 && overlay.keys.is_empty());
    }

    #[test]
    fn a_chain_with_gaps_whose_prior_comes_late_and_whose_end_is_cut() {
        let mut overlay = Overlay::default();
        let key = |key: &[u8]| KeyHash::of(0, key);
        overlay.push(Lsn(5), key(b"a"), b"a", place(5, Kind::Set), None);
        push(&mut overlay, (1 << 48) + 1, b"a", Kind::Set, Prior::None);
        push(&mut overlay, (1 << 48) + 2, b"b", Kind::Set, Prior::None);
        push(&mut overlay, (1 << 48) + 3, b"a", Kind::Delete, Prior::None);
        assert_eq!((overlay.next_unknown(Lsn(4)), overlay.next_unknown(Lsn(5))), (None, Some(Lsn(5))));
        assert!(overlay.next_unknown(Lsn(5)).is_none() && overlay.pop(Lsn(1 << 50)).is_none());
        overlay.truncate(Lsn((1 << 48) + 1));
        assert_eq!(overlay.newest(key(b"a"), b"a"), Some((Lsn((1 << 48) + 1), Kind::Set)));
        assert_eq!((overlay.newest(key(b"b"), b"b"), overlay.bytes()), (None, 2 * 64));
        push(&mut overlay, (1 << 48) + 2, b"c", Kind::Set, Prior::None);
        let base = Prior::Indexed(place(1000, Kind::Set));
        overlay.know(Lsn(5), base);
        let moved = Prior::Indexed(place(2000, Kind::Set));
        overlay.moved(key(b"a"), place(1000, Kind::Set).position, moved);
        let popped: Vec<_> =
            std::iter::from_fn(|| overlay.pop(Lsn(1 << 50))).map(|(p, prior)| (p.lsn.0, prior)).collect();
        let later = Prior::Indexed(place(5, Kind::Set));
        let jumped = 1 << 48;
        let all = [(5, moved), (jumped + 1, later), (jumped + 2, Prior::None)];
        assert_eq!(popped, all);
        assert!(overlay.is_empty() && overlay.newest.is_empty() && overlay.keys.is_empty() && overlay.looked_at == 0);
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
        assert_eq!(overlay.pop(Lsn(6)).map(|(_, prior)| prior), Some(new));
        assert_eq!(overlay.pop(Lsn(6)).map(|(_, prior)| prior), Some(Prior::Indexed(place(5, Kind::Set))));
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
