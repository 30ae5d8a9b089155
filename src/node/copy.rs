//! Owns: this node's copy of its shard: role, epoch, how far its log is durable and committed, and whether it may
//! serve. A record is committed when it is durable on every in-sync copy; the primary is the only one so far.
//! Never: what the records hold.

use super::Barrier;
use crate::config::Role;
use crate::id::{Epoch, Lsn};

/// Where a copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The epoch of this start is not persisted yet: nothing may be answered in it.
    Starting,
    /// It does what its role asks.
    Serving,
    /// Its data is damaged.
    Damaged,
}

/// See the module.
#[derive(Debug)]
pub struct Copy {
    role: Role,
    state: State,
    epoch: Epoch,
    durable: Lsn,
    committed: Lsn,
}

/// Why a copy cannot serve its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotServing {
    /// It has not finished starting.
    Starting,
    /// Its data is damaged.
    Damaged,
}

impl Copy {
    /// A copy as recovered: its log ends with `end`, all of it durable, in the persisted `epoch`. A primary starts a new
    /// epoch, and serves once that is persisted ([`Copy::persisted`]): a record of the old one that was sent or
    /// answered before the crash, but is not here, can then never share its (epoch, lsn) with another.
    #[must_use]
    pub fn recovered(role: Role, epoch: Epoch, end: Lsn) -> Self {
        match role {
            Role::Primary => {
                let epoch = Epoch(epoch.0 + 1);
                Self { role, state: State::Starting, epoch, durable: end, committed: end }
            }
            Role::Replica | Role::Witness => Self { role, state: State::Serving, epoch, durable: end, committed: end },
        }
    }

    /// The epoch that [`Copy::recovered`] chose is on the disk.
    pub fn persisted(&mut self) {
        if self.state == State::Starting {
            self.state = State::Serving;
        }
    }

    /// The data was found damaged: the copy gives up its role for good.
    pub fn damaged(&mut self) {
        self.state = State::Damaged;
    }

    /// The log is durable up to here. Returns up to where it is committed now.
    pub fn durable(&mut self, upto: Lsn) -> Lsn {
        assert!(upto >= self.durable, "durability went back from {:?} to {upto:?}", self.durable);
        self.durable = upto;
        self.committed = upto;
        self.committed
    }

    /// Whether an answer that rests on this may leave.
    #[must_use]
    pub fn meets(&self, barrier: &Barrier) -> bool {
        barrier.epoch == self.epoch && barrier.committed <= self.committed
    }

    /// The barrier of an answer that rests on this record.
    #[must_use]
    pub fn barrier(&self, committed: Lsn) -> Barrier {
        Barrier { epoch: self.epoch, committed }
    }

    /// Whether it can serve its role.
    ///
    /// # Errors
    /// Why not.
    pub fn serves(&self) -> Result<(), NotServing> {
        match self.state {
            State::Starting => Err(NotServing::Starting),
            State::Serving => Ok(()),
            State::Damaged => Err(NotServing::Damaged),
        }
    }

    /// Whether it leads its shard.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    /// The present epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last committed record.
    #[must_use]
    pub fn committed(&self) -> Lsn {
        self.committed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_serves_only_in_a_new_and_persisted_epoch() {
        let mut copy = Copy::recovered(Role::Primary, Epoch(4), Lsn(10));
        assert_eq!(copy.epoch(), Epoch(5));
        assert_eq!(copy.serves(), Err(NotServing::Starting));
        copy.persisted();
        assert_eq!(copy.serves(), Ok(()));
        assert_eq!(copy.committed(), Lsn(10));
    }

    #[test]
    fn damage_stays() {
        let mut copy = Copy::recovered(Role::Primary, Epoch(4), Lsn(10));
        copy.damaged();
        copy.persisted();
        assert_eq!(copy.serves(), Err(NotServing::Damaged));
    }

    #[test]
    fn an_answer_waits_for_what_it_rests_on_and_dies_with_its_epoch() {
        let mut copy = Copy::recovered(Role::Primary, Epoch(0), Lsn(3));
        let mine = copy.barrier(Lsn(5));
        assert!(copy.meets(&copy.barrier(Lsn(3))));
        assert!(!copy.meets(&mine));
        assert_eq!(copy.durable(Lsn(5)), Lsn(5));
        assert!(copy.meets(&mine));
        assert!(!copy.meets(&Barrier { epoch: Epoch(0), ..mine }));
    }

    #[test]
    #[should_panic(expected = "durability went back")]
    fn durability_never_goes_back() {
        Copy::recovered(Role::Replica, Epoch(0), Lsn(3)).durable(Lsn(2));
    }
}
