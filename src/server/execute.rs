//! Owns: what each call does to the store, and which records its answer rests on (the law of answers).
//! Never: where the request came from, sockets, HTTP.

use super::core::{Core, Sink};
use super::lane::Asked;
use crate::id::{Lsn, Ticket};
use crate::node::Barrier;
use crate::node::copy::NotServing;
use crate::op::{Condition, Failure, Op, Outcome, Verb};
use crate::store::disk::{Disk, OpId};
use crate::store::{Kind, Known, Lookup, Probe, StageError};

/// How far a request came.
#[derive(Debug)]
pub enum Executed {
    /// It is answered.
    Answered,
    /// Its answer leaves when its barrier is met.
    Pending {
        /// What the answer rests on.
        barrier: Barrier,
        /// The answer.
        outcome: Outcome<'static>,
        /// Whether it has an lsn of its own: then only success, or *unknown*, may follow.
        is_write: bool,
    },
    /// A record must be read from the disk first: nothing has happened yet.
    Cold(OpId),
    /// A read for which the other copies must confirm first, in this round, that this one leads.
    Unconfirmed(u64),
    /// A read behind a write of its own stream, which must be committed first.
    BehindWrite(Lsn),
    /// The log takes no more for the moment: the disk is behind. Nothing has happened yet.
    NoRoom,
}

impl<D: Disk> Core<D> {
    /// Executes a request on this node's copy. `last_write`: the last record that its stream wrote.
    pub(super) fn execute(
        &mut self,
        asked: &Asked,
        last_write: Lsn,
        op: &Op<'_>,
        known: Known<'_>,
        sink: &mut impl Sink,
    ) -> Executed {
        if op.stale {
            return self.look_up(asked.ticket, op, known, sink);
        }
        let outcome = match self.copy.serves(self.store.committed()) {
            Err(NotServing::Damaged) => Outcome::Failed(Failure::Corrupt),
            Err(NotServing::Starting) => Outcome::Failed(Failure::NoPrimary),
            Ok(()) if op.verb == Verb::Get => return self.read(asked, last_write, op, known, sink),
            Ok(()) => match self.write(op, known) {
                Ok(executed) => match executed {
                    // It rests on committed records only: nothing to wait for.
                    Executed::Pending { barrier, outcome, .. } if self.copy.meets(&barrier, self.store.committed()) => {
                        outcome
                    }
                    executed => return executed,
                },
                Err(failure) => Outcome::Failed(failure),
            },
        };
        sink.answer(asked.ticket, &outcome);
        Executed::Answered
    }

    /// Answers from the committed state: a write under way is concurrent with the read, unless it is its own stream's.
    /// That no other copy leads is known by leases, or by a round of confirmations that began after the request came.
    fn read(
        &mut self,
        asked: &Asked,
        last_write: Lsn,
        op: &Op<'_>,
        known: Known<'_>,
        sink: &mut impl Sink,
    ) -> Executed {
        if last_write > self.store.committed() {
            return Executed::BehindWrite(last_write);
        }
        if !asked.is_confirmed && !self.has_read_right() {
            return Executed::Unconfirmed(self.ask_round());
        }
        self.look_up(asked.ticket, op, known, sink)
    }

    fn look_up(&mut self, ticket: Ticket, op: &Op<'_>, known: Known<'_>, sink: &mut impl Sink) -> Executed {
        let behind_ms = op.stale.then(|| self.copy.behind_ms());
        let outcome = match self.store.get(op.key, known) {
            Lookup::Absent if op.condition.holds(None) => Outcome::NotFound,
            Lookup::Absent => Outcome::PreconditionFailed(None),
            Lookup::Found { lsn, value } if op.condition.holds(Some(lsn)) => {
                self.begun_bytes += value.len();
                Outcome::Found { lsn, value, behind_ms }
            }
            Lookup::Found { lsn, .. } => match op.condition {
                Condition::IsNot(_) | Condition::Absent => Outcome::NotModified(lsn),
                _ => Outcome::PreconditionFailed(Some(lsn)),
            },
            Lookup::Cold(read) => return Executed::Cold(read),
            // The store tells its damage with its next events.
            Lookup::Corrupt => Outcome::Failed(Failure::Corrupt),
        };
        sink.answer(ticket, &outcome);
        Executed::Answered
    }

    /// Evaluates a write on the pending state, in lsn order, and gives it an lsn where it changes something.
    fn write(&mut self, op: &Op<'_>, known: Known<'_>) -> Result<Executed, Failure> {
        if self.disk_is_slow() {
            return Err(Failure::DiskSlow);
        }
        if self.copy.leading().is_some_and(|leading| leading.followers.is_full(self.now_ns)) {
            return Err(Failure::DiskFull);
        }
        let (present, rests_on, prior) = match self.store.probe(op.key, known) {
            Probe::Absent { rests_on, prior } => (None, rests_on, prior),
            Probe::Present { lsn, prior } => (Some(lsn), lsn, prior),
            Probe::Cold(read) => return Ok(Executed::Cold(read)),
            // The store tells its damage with its next events.
            Probe::Corrupt => return Err(Failure::Corrupt),
        };
        let pending = |barrier, outcome, is_write| Ok(Executed::Pending { barrier, outcome, is_write });
        if !op.condition.holds(present) {
            return pending(self.read_barrier(rests_on), Outcome::PreconditionFailed(present), false);
        }
        let kind = match (op.verb, present) {
            (Verb::Update | Verb::Delete, None) => {
                return pending(self.read_barrier(rests_on), Outcome::NotFound, false);
            }
            (Verb::Delete, Some(_)) => Kind::Delete,
            _ => Kind::Set,
        };
        let epoch = self.copy.epoch();
        let lsn = match self.store.stage(epoch, kind, op.key, op.value, 0, prior) {
            Ok(lsn) => lsn,
            Err(StageError::Busy) => return Ok(Executed::NoRoom),
            Err(StageError::Full) => return Err(Failure::DiskFull),
            Err(StageError::Corrupt) => return Err(Failure::Corrupt),
        };
        let outcome = match (op.verb, present) {
            (Verb::Delete, _) => Outcome::Deleted,
            (_, None) => Outcome::Created(lsn),
            (_, Some(_)) => Outcome::Replaced(lsn),
        };
        pending(self.copy.barrier(lsn), outcome, true)
    }

    /// Of an answer that appended nothing: it is a read.
    fn read_barrier(&mut self, rests_on: Lsn) -> Barrier {
        let round = if self.has_read_right() { 0 } else { self.ask_round() };
        Barrier { round, ..self.copy.barrier(rests_on) }
    }
}
