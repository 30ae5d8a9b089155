//! Owns: node 0's part in the formation: it asks every node of the table, and has all of them accept one value.
//!
//! The quorum is all nodes, so a node that was emptied is met, and so is everyone who remembers. A value that any node
//! has accepted is taken over as it is, even where it names content that is gone: it may be chosen already.
//! Never: how nodes answer; when the formation is known here.

use super::message::{Effects, Founding, Message};
use super::table::{Table, choose_voters};
use super::{Identity, RESEND_MS};
use crate::configuration::{Ballot, Formation, Seat, VoterId};
use crate::id::{NodeId, Uuid};

/// What the formation needs of a node.
#[derive(Debug)]
pub(super) struct Promised {
    pub(super) store: Uuid,
    pub(super) voter: VoterId,
    pub(super) accepted: Option<Founding>,
}

#[derive(Debug)]
enum Stage {
    /// By node.
    Prepare(Vec<Option<Promised>>),
    /// By node: whether it has accepted.
    Accept(Formation, Vec<bool>),
}

#[derive(Debug)]
pub(super) struct Founder {
    identity: Identity,
    nodes: usize,
    ballot: Ballot,
    stage: Stage,
    resend_ms: u64,
}

impl Founder {
    /// Prepares at its first tick, above what its own node has promised.
    pub(super) fn new(identity: Identity, nodes: usize, promised: Ballot) -> Self {
        let ballot = Ballot { round: promised.round + 1, proposer: identity.incarnation };
        Self { identity, nodes, ballot, stage: Stage::preparing(nodes), resend_ms: 0 }
    }

    /// The nodes that have not answered.
    pub(super) fn waits_for(&self) -> Vec<NodeId> {
        let has_answered = |at: usize| match &self.stage {
            Stage::Prepare(promised) => promised[at].is_some(),
            Stage::Accept(_, accepted) => accepted[at],
        };
        (0u32..).map(NodeId).take(self.nodes).filter(|node| !has_answered(node.0 as usize)).collect()
    }

    pub(super) fn on_promise(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        promise: Promised,
        table: &Table,
        now_ms: u64,
        fx: &mut Effects,
    ) {
        let Stage::Prepare(promised) = &mut self.stage else { return };
        if ballot != self.ballot {
            return;
        }
        promised[from.0 as usize] = Some(promise);
        let Stage::Prepare(promised) = &self.stage else { return };
        let Some(promised) = promised.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return };
        let accepted = promised.iter().filter_map(|promise| promise.accepted.as_ref());
        let value = match accepted.max_by_key(|founding| founding.ballot) {
            Some(founding) => founding.value.clone(),
            None => self.first_value(&promised, table),
        };
        self.stage = Stage::Accept(value, vec![false; self.nodes]);
        self.send(now_ms, fx);
    }

    /// The value that all nodes have accepted, once they have.
    pub(super) fn on_accepted(&mut self, from: NodeId, ballot: Ballot) -> Option<Formation> {
        let Stage::Accept(value, accepted) = &mut self.stage else { return None };
        if ballot != self.ballot {
            return None;
        }
        accepted[from.0 as usize] = true;
        accepted.iter().all(|has| *has).then(|| value.clone())
    }

    /// A node knows a higher ballot (of an earlier start of node 0), or not this one (it was emptied since).
    pub(super) fn on_nack(&mut self, ballot: Ballot, promised: Ballot, now_ms: u64, fx: &mut Effects) {
        if ballot == self.ballot {
            self.ballot.round = self.ballot.round.max(promised.round) + 1;
            self.stage = Stage::preparing(self.nodes);
            self.send(now_ms, fx);
        }
    }

    pub(super) fn tick(&mut self, now_ms: u64, fx: &mut Effects) {
        if now_ms >= self.resend_ms {
            self.send(now_ms, fx);
        }
    }

    pub(super) fn on_node_up(&self, node: NodeId, fx: &mut Effects) {
        if self.waits_for().contains(&node) {
            fx.requests.push((node, self.question()));
        }
    }

    pub(super) fn next_ms(&self) -> u64 {
        self.resend_ms
    }

    fn first_value(&self, promised: &[&Promised], table: &Table) -> Formation {
        let seat = |node: NodeId| Seat { node, first: promised[node.0 as usize].voter };
        Formation {
            // As random as a fresh one.
            cluster: self.identity.incarnation,
            fingerprint: self.identity.fingerprint,
            voters: choose_voters(table).into_iter().map(seat).collect(),
            stores: promised.iter().map(|promise| promise.store).collect(),
        }
    }

    fn send(&mut self, now_ms: u64, fx: &mut Effects) {
        self.resend_ms = now_ms + RESEND_MS;
        fx.requests.extend(self.waits_for().into_iter().map(|node| (node, self.question())));
    }

    fn question(&self) -> Message {
        match &self.stage {
            Stage::Prepare(_) => Message::FormPrepare { ballot: self.ballot },
            Stage::Accept(value, _) => Message::FormAccept { ballot: self.ballot, formation: value.clone() },
        }
    }
}

impl Stage {
    fn preparing(nodes: usize) -> Self {
        Self::Prepare((0..nodes).map(|_| None).collect())
    }
}
