//! Owns: making pending records visible, in lsn order, and finding out what those supersede that were appended without
//! a look at the index.
//! Never: when a record may be seen: the caller says so.
//!
//! A replica must not wait for a cold read before it acknowledges. So [`Store::append`] asks the index nothing: what a
//! record supersedes is looked up when it is committed, ahead of its turn, with several reads at a time. The answer
//! stays right until then: of a key's pending records only the oldest needs one, and compaction, the only thing that
//! moves what is committed before, tells the overlay.

use super::Store;
use super::disk::{Disk, OpId};
use super::overlay::{Pending, Prior};
use super::read::{Arrived, Look};
use super::record::Kind;
use crate::id::Lsn;
use std::collections::HashMap;

/// Cold reads at a time.
const MOST_READS: usize = 64;
/// Looks at the index at a time, and records made visible at a time, so that the loop is not held up: the rest is left to
/// the next call.
const MOST_LOOKUPS: usize = 1024;
const MOST_APPLIED: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(super) struct Commits {
    /// All up to here is to be made visible. Never taken back.
    pub goal: Lsn,
    /// Cold reads under way, and whose record's predecessor they look for.
    reads: HashMap<OpId, Lsn>,
    /// The key that is looked up.
    key: Vec<u8>,
}

impl Commits {
    pub fn new(committed: Lsn) -> Commits {
        Commits { goal: committed, reads: HashMap::new(), key: Vec::new() }
    }

    /// The record that a read was started for, if it was one of these.
    pub fn read_for(&mut self, op: OpId) -> Option<Lsn> {
        self.reads.remove(&op)
    }
}

impl<D: Disk> Store<D> {
    /// Makes the pending records up to `upto` visible, in lsn order. Nothing ever takes them back.
    ///
    /// Those that were staged after a probe are visible at once, unless an appended one stands before them. What was
    /// appended is looked up first; what is not in the page cache is read, and [`Store::poll`] goes on as reads come
    /// back: [`Store::committed`] says how far it is. Where there are very many, [`Store::write_turn`] and
    /// [`Store::background`] go on with the rest.
    ///
    /// # Panics
    /// If `upto` is not durable here.
    pub fn commit(&mut self, upto: Lsn) {
        assert!(upto <= self.log.durable, "{upto:?} is committed before it is durable ({:?})", self.log.durable);
        self.commits.goal = self.commits.goal.max(upto);
        self.advance_commit();
    }

    /// What the largest [`Store::commit`] said: [`Store::committed`] gets there by itself. Nothing up to here may ever
    /// be cut, and the next start knows it to be committed.
    #[must_use]
    pub fn commit_goal(&self) -> Lsn {
        self.commits.goal
    }

    /// Goes on towards the goal. `true`: there is more to do, and nothing has to come from the disk first.
    pub(super) fn advance_commit(&mut self) -> bool {
        let goal = self.commits.goal;
        if self.log.committed == goal {
            return false;
        }
        self.look_ahead();
        let mut applied = 0;
        while applied < MOST_APPLIED
            && let Some((pending, prior)) = self.overlay.pop(goal)
        {
            self.apply(&pending, prior);
            applied += 1;
        }
        let reached = self.overlay.first().map_or(goal, |first| goal.min(Lsn(first.0 - 1)));
        self.log.committed = self.log.committed.max(reached);
        let can_go_on = applied == MOST_APPLIED || self.commits.reads.is_empty();
        self.log.committed < goal && can_go_on && self.health.is_none()
    }

    fn look_ahead(&mut self) {
        for _ in 0..MOST_LOOKUPS {
            if self.commits.reads.len() >= MOST_READS || self.health.is_some() {
                return;
            }
            let Some(lsn) = self.overlay.next_unknown(self.commits.goal) else {
                return;
            };
            self.look_up(lsn, None);
        }
    }

    fn look_up(&mut self, lsn: Lsn, arrived: Option<&Arrived>) {
        let mut key = std::mem::take(&mut self.commits.key);
        key.clear();
        let (hash, bytes) = self.overlay.key(lsn);
        key.extend_from_slice(bytes);
        match self.look(self.index.look(hash), &key, arrived) {
            Look::Absent => self.overlay.know(lsn, Prior::None),
            Look::Found { place, .. } => self.overlay.know(lsn, Prior::Indexed(place)),
            Look::Cold(op) => {
                self.commits.reads.insert(op, lsn);
            }
            // Nothing is committed any more.
            Look::Corrupt => {}
        }
        self.commits.key = key;
    }

    pub(super) fn commit_read_arrived(&mut self, lsn: Lsn, arrived: &Arrived) {
        self.look_up(lsn, Some(arrived));
        self.advance_commit();
    }

    /// A pending record becomes the newest of its key.
    fn apply(&mut self, pending: &Pending, prior: Prior) {
        let Pending { hash, place, .. } = *pending;
        match prior {
            Prior::None => self.index.insert(hash, place.position, place.bytes as usize),
            Prior::Indexed(old) => {
                self.index.replace(hash, old.position, place.position, place.bytes as usize);
                if old.position.slot == place.position.slot {
                    self.log.leave_out_of_hint(old.position);
                }
                let segment = self.segments.get_mut(old.position.slot);
                segment.dead_records += 1;
                self.compactor.credit_dead(old.bytes);
                segment.count_out(old.kind, u64::from(old.bytes));
                // As in `count_out`: a damaged record may be of another kind than the one that was counted.
                self.keys = self.keys.saturating_sub(u64::from(old.kind == Kind::Set));
            }
            Prior::Pending(older) => unreachable!("{older:?} is committed before what supersedes it"),
        }
        let segment = self.segments.get_mut(place.position.slot);
        segment.count_in(place.kind, u64::from(place.bytes));
        self.keys += u64::from(place.kind == Kind::Set);
    }
}
