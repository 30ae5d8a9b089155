//! Owns: how a voter that lost its memory becomes one again.
//!
//! It takes a higher id ([`VoterId`]) and asks all voters to record it. A voter records it only if it knows no higher
//! one, and answers, in one step, with its registers and its table of ids. With such answers of a majority of the full
//! set, itself not counted, it adopts the highest promise and the highest accepted proposal of each register and the
//! highest ids, under its new id. Until then it is mute. An attempt that meets a higher id is given up for a higher one;
//! what an attempt left behind under its id is harmless, since nothing was ever answered under it.
//!
//! Why this suffices: let a proposer count an old answer, from before the loss, in its majority. That majority and the
//! seeding one share another voter, as the latter is a majority without the forgetful one. That voter either answered
//! the proposer first: then what it promised or accepted was in the seed, and the forgetful voter is bound by it, as it
//! was before. Or it recorded the new id first: then its answer to the proposer named it, and the old answer is void.
//! The same holds for what voters answer to a seeding: superseded answers do not count here either. The new id is above
//! the last one that was served under: two seeding majorities share a voter, which recorded both. Adopting a proposal
//! that one never accepted is sound: it is a lawful proposal, and to report one more of them changes no choice.
//!
//! Two voters of three that lost their memory at once wait for each other for ever: what they knew is lost. So it would
//! be for one, while another is wrongly mute: an attempt's request must therefore not arrive after those of a later
//! start of the same node (a newer link of a node replaces the older, unread).
//! Never: what the registers hold.

use super::electorate::{Electorate, Tally};
use super::message::{Effects, Message, Slot, Voucher};
use super::{RESEND_MS, acceptor::Acceptor};
use crate::configuration::VoterId;
use crate::id::{NodeId, Uuid};

#[derive(Debug)]
pub(super) struct Reseed {
    seat: usize,
    /// The id of this attempt.
    id: VoterId,
    answered: Tally,
    /// By shard: the highest of what was answered to this attempt.
    slots: Vec<Slot>,
    resend_ms: u64,
}

impl Reseed {
    /// A first attempt of this process. `incarnation` makes its ids unlike those of any other process; the generation
    /// grows from attempt to attempt.
    pub(super) fn new(seat: usize, incarnation: Uuid, shards: usize, voters: &Electorate) -> Self {
        let id = VoterId { generation: voters.known(seat).generation + 1, uuid: incarnation };
        Self { seat, id, answered: Tally::new(voters), slots: vec![Slot::default(); shards], resend_ms: 0 }
    }

    /// Begins anew where a higher id of its own has become known. What was answered to the id before does not count.
    pub(super) fn overtake(&mut self, voters: &Electorate, now_ms: u64, fx: &mut Effects) {
        if voters.known(self.seat) > self.id {
            *self = Self::new(self.seat, self.id.uuid, self.slots.len(), voters);
            self.send(voters, now_ms, fx);
        }
    }

    /// A voter has recorded `id`. The memory, once a majority has.
    pub(super) fn on_seed(
        &mut self,
        seat: usize,
        id: VoterId,
        voucher: &Voucher,
        slots: Vec<Slot>,
        voters: &Electorate,
    ) -> Option<Acceptor> {
        if id != self.id || seat == self.seat || slots.len() != self.slots.len() {
            return None;
        }
        for (mine, theirs) in self.slots.iter_mut().zip(slots) {
            mine.promised = mine.promised.max(theirs.promised);
            if theirs.accepted.as_ref().map(|vote| vote.ballot) > mine.accepted.as_ref().map(|vote| vote.ballot) {
                mine.accepted = theirs.accepted;
            }
        }
        self.answered.add(seat, voucher.id);
        if !self.answered.has_majority(voters) {
            return None;
        }
        // What is known is at least the highest of what was answered.
        let mut table: Vec<VoterId> = (0..voters.nodes().len()).map(|seat| voters.known(seat)).collect();
        table[self.seat] = self.id;
        Some(Acceptor::seeded(self.id, table, std::mem::take(&mut self.slots)))
    }

    /// The other voters that have not answered.
    pub(super) fn waits_for(&self, voters: &Electorate) -> Vec<NodeId> {
        self.answered.missing(voters).filter(|(seat, _)| *seat != self.seat).map(|(_, node)| node).collect()
    }

    pub(super) fn tick(&mut self, voters: &Electorate, now_ms: u64, fx: &mut Effects) {
        if now_ms >= self.resend_ms {
            self.send(voters, now_ms, fx);
        }
    }

    pub(super) fn on_node_up(&self, node: NodeId, voters: &Electorate, fx: &mut Effects) {
        if self.waits_for(voters).contains(&node) {
            fx.requests.push((node, Message::Record { id: self.id }));
        }
    }

    pub(super) fn next_ms(&self) -> u64 {
        self.resend_ms
    }

    fn send(&mut self, voters: &Electorate, now_ms: u64, fx: &mut Effects) {
        self.resend_ms = now_ms + RESEND_MS;
        fx.requests.extend(self.waits_for(voters).into_iter().map(|node| (node, Message::Record { id: self.id })));
    }
}
