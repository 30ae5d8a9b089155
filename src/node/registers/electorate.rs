//! Owns: who the voters are and which of their ids are the newest known; and whose answers count.
//!
//! Invariant: an answer counts only while no higher id of its voter is known. A voter that lost its memory takes a
//! higher id, and the voters that recorded it say so in every answer (`reseed.rs` has the argument).
//! Never: what was answered.

use crate::configuration::{Formation, VoterId};
use crate::id::NodeId;

#[derive(Debug)]
pub(super) struct Electorate {
    nodes: Vec<NodeId>,
    /// The highest id of each voter that was ever heard of. Hearsay is enough to make an answer void.
    known: Vec<VoterId>,
}

impl Electorate {
    pub(super) fn new(formation: &Formation) -> Self {
        Self {
            nodes: formation.voters.iter().map(|seat| seat.node).collect(),
            known: formation.voters.iter().map(|seat| seat.first).collect(),
        }
    }

    /// The voters' nodes; a voter's place in it is its seat.
    pub(super) fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    pub(super) fn seat(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().position(|other| *other == node)
    }

    pub(super) fn known(&self, seat: usize) -> VoterId {
        self.known[seat]
    }

    /// Any two sets of so many voters share one.
    pub(super) fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    pub(super) fn hear(&mut self, seat: usize, id: VoterId) {
        self.known[seat] = self.known[seat].max(id);
    }

    pub(super) fn hear_table(&mut self, table: &[VoterId]) {
        for (known, heard) in self.known.iter_mut().zip(table) {
            *known = (*known).max(*heard);
        }
    }
}

/// Under which id each voter has answered one question.
#[derive(Debug)]
pub(super) struct Tally(Vec<Option<VoterId>>);

impl Tally {
    pub(super) fn new(voters: &Electorate) -> Self {
        Self(vec![None; voters.nodes.len()])
    }

    pub(super) fn add(&mut self, seat: usize, id: VoterId) {
        self.0[seat] = self.0[seat].max(Some(id));
    }

    pub(super) fn has(&self, seat: usize, voters: &Electorate) -> bool {
        self.0[seat].is_some_and(|id| id >= voters.known[seat])
    }

    pub(super) fn has_majority(&self, voters: &Electorate) -> bool {
        (0..self.0.len()).filter(|seat| self.has(*seat, voters)).count() >= voters.majority()
    }

    /// The voters whose answer does not count, or not any more.
    pub(super) fn missing<'a>(&'a self, voters: &'a Electorate) -> impl Iterator<Item = (usize, NodeId)> + 'a {
        let all = voters.nodes.iter().copied().enumerate();
        all.filter(|(seat, _)| !self.has(*seat, voters))
    }
}
