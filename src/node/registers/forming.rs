//! Owns: a node before it knows its cluster to be formed: what it has promised and accepted of the one value that the
//! formation is (CASPaxos with all nodes as quorum; node 0 alone proposes: `founder.rs`), and the bytes of that.
//!
//! Invariants:
//! - Nothing of a register is served here. The formation is known once it is durable.
//! - A node that knows of it says so to whoever asks, and to whoever proposes another. As the quorum is all nodes, one
//!   that remembers is enough: emptied nodes do not pass for a new cluster.
//! - A proposal is accepted under the promised ballot only, not above it: so one that was sent before this node was
//!   emptied is not accepted after.
//! - What was accepted under another table is forgotten: the table was edited before the cluster was formed. (A node
//!   that knows the formation refuses to start with another table.)
//!
//! Never: registers.

use super::acceptor::Acceptor;
use super::founder::{Founder, Promised};
use super::message::{Effects, Founding, Message};
use super::table::Table;
use super::{BadStart, Identity};
use crate::configuration::{Ballot, Coded, Formation, VoterId, fields};
use crate::id::NodeId;

/// The only node that proposes a formation.
const FOUNDER: NodeId = NodeId(0);
/// How often a node asks all others whether the cluster is formed, beside asking each when its link comes up.
const ASK_MS: u64 = 500;
/// The version of the formation's bytes on the disk.
const VERSION: u8 = 1;

/// What a node keeps of the formation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Kept {
    pub(super) promised: Ballot,
    pub(super) accepted: Option<Founding>,
    /// It is formed.
    pub(super) formed: Option<Formation>,
}
fields!(Kept { promised, accepted, formed });

impl Kept {
    /// Of a cluster that is formed.
    pub(super) fn of(formation: Formation) -> Self {
        Self { formed: Some(formation), ..Self::default() }
    }

    pub(super) fn to_file(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        self.put(&mut bytes);
        bytes
    }

    /// Reads what was kept, under whatever table; nothing was, where there are no bytes.
    pub(super) fn decode_file(bytes: &[u8]) -> Result<Self, BadStart> {
        let Some((version, rest)) = bytes.split_first() else { return Ok(Self::default()) };
        let kept = (*version == VERSION).then(|| Self::decode(rest)).flatten();
        kept.ok_or(BadStart::Formation)
    }

    /// Reads what was kept under this table.
    pub(super) fn from_file(bytes: &[u8], fingerprint: u64, table: &Table) -> Result<Self, BadStart> {
        let mut kept = Self::decode_file(bytes)?;
        if let Some(formed) = &kept.formed
            && (formed.fingerprint != fingerprint || !table.fits(formed))
        {
            return Err(BadStart::OtherTable { formed: formed.fingerprint });
        }
        kept.accepted = kept.accepted.filter(|founding| founding.value.fingerprint == fingerprint);
        Ok(kept)
    }
}

#[derive(Debug)]
pub(super) struct Forming {
    identity: Identity,
    kept: Kept,
    /// The voter that this node is to be; only its id matters yet.
    voter: Acceptor,
    is_voter_saved: bool,
    founder: Option<Founder>,
    /// As the founder last told.
    waits_for: Vec<NodeId>,
    ask_ms: u64,
}

impl Forming {
    /// `voter`: as persisted. Where there is none, this start's incarnation names the new one.
    pub(super) fn new(identity: Identity, kept: Kept, voter: Option<Acceptor>, table: &Table) -> Self {
        let founder = (identity.me == FOUNDER).then(|| Founder::new(identity, table.nodes.len(), kept.promised));
        Self {
            identity,
            kept,
            is_voter_saved: voter.is_some(),
            voter: voter.unwrap_or_else(|| first_voter(identity)),
            founder,
            waits_for: vec![FOUNDER],
            ask_ms: 0,
        }
    }

    /// Without whom the formation cannot go on.
    pub(super) fn waits_for(&self) -> Vec<NodeId> {
        self.founder.as_ref().map_or_else(|| self.waits_for.clone(), Founder::waits_for)
    }

    pub(super) fn is_founder(&self) -> bool {
        self.founder.is_some()
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    pub(super) fn voter(&self) -> &Acceptor {
        &self.voter
    }

    pub(super) fn handle(&mut self, from: NodeId, message: Message, table: &Table, now_ms: u64, fx: &mut Effects) {
        if let Some(formation) = &self.kept.formed {
            // Known, but not durable yet: the answer waits for that.
            fx.answer = asks_to_form(&message).then(|| Message::Formed { formation: formation.clone() });
            return;
        }
        match message {
            Message::Formed { formation } => self.learn(formation, table, fx),
            Message::Ask {} if self.founder.is_some() => {
                fx.answer = Some(Message::NotYet { waits_for: self.waits_for() });
            }
            Message::NotYet { waits_for } if from == FOUNDER => self.waits_for = waits_for,
            Message::FormPrepare { ballot } if from == FOUNDER => {
                fx.answer = Some(self.prepare(ballot, fx));
            }
            Message::FormAccept { ballot, formation } if from == FOUNDER && self.fits(&formation, table) => {
                fx.answer = Some(self.accept(ballot, formation, fx));
            }
            Message::FormPromise { ballot, store, voter, accepted } => {
                let is_ours = accepted.as_ref().is_none_or(|founding| self.fits(&founding.value, table));
                if let Some(founder) = self.founder.as_mut().filter(|_| is_ours) {
                    founder.on_promise(from, ballot, Promised { store, voter, accepted }, table, now_ms, fx);
                }
            }
            Message::FormAccepted { ballot } => {
                if let Some(formation) = self.founder.as_mut().and_then(|f| f.on_accepted(from, ballot)) {
                    self.learn(formation, table, fx);
                }
            }
            Message::FormNack { ballot, promised } => {
                if let Some(founder) = &mut self.founder {
                    founder.on_nack(ballot, promised, now_ms, fx);
                }
            }
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, table: &Table, now_ms: u64, fx: &mut Effects) {
        if self.kept.formed.is_some() {
            return;
        }
        match &mut self.founder {
            // Its proposal asks as well.
            Some(founder) => founder.tick(now_ms, fx),
            None if now_ms >= self.ask_ms => {
                self.ask_ms = now_ms + ASK_MS;
                let others = table.node_ids().filter(|node| *node != self.identity.me);
                fx.requests.extend(others.map(|node| (node, Message::Ask {})));
            }
            None => {}
        }
    }

    pub(super) fn on_node_up(&self, node: NodeId, fx: &mut Effects) {
        match &self.founder {
            _ if self.kept.formed.is_some() => {}
            Some(founder) => founder.on_node_up(node, fx),
            None => fx.requests.push((node, Message::Ask {})),
        }
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        let at_ms = self.founder.as_ref().map_or(self.ask_ms, Founder::next_ms);
        self.kept.formed.is_none().then_some(at_ms)
    }

    fn fits(&self, formation: &Formation, table: &Table) -> bool {
        formation.fingerprint == self.identity.fingerprint && table.fits(formation)
    }

    fn prepare(&mut self, ballot: Ballot, fx: &mut Effects) -> Message {
        if ballot < self.kept.promised {
            return Message::FormNack { ballot, promised: self.kept.promised };
        }
        fx.save_formation |= ballot > self.kept.promised;
        // Its id becomes part of the formation.
        fx.save_voter |= !self.is_voter_saved;
        self.is_voter_saved = true;
        self.kept.promised = ballot;
        Message::FormPromise {
            ballot,
            store: self.identity.store,
            voter: self.voter.id(),
            accepted: self.kept.accepted.clone(),
        }
    }

    fn accept(&mut self, ballot: Ballot, value: Formation, fx: &mut Effects) -> Message {
        if ballot != self.kept.promised {
            return Message::FormNack { ballot, promised: self.kept.promised };
        }
        let founding = Some(Founding { ballot, value });
        fx.save_formation |= self.kept.accepted != founding;
        self.kept.accepted = founding;
        Message::FormAccepted { ballot }
    }

    /// The cluster is formed. A node that it knows by other content was emptied since: its registers are gone, too.
    fn learn(&mut self, formation: Formation, table: &Table, fx: &mut Effects) {
        if !self.fits(&formation, table) {
            return;
        }
        if formation.stores[self.identity.me.0 as usize] != self.identity.store {
            self.voter = first_voter(self.identity);
            fx.save_voter = true;
        }
        self.kept = Kept::of(formation);
        fx.save_formation = true;
    }
}

/// Whether the answer to it, from who knows, is that the cluster is formed.
pub(super) fn asks_to_form(message: &Message) -> bool {
    matches!(message, Message::Ask {} | Message::FormPrepare { .. } | Message::FormAccept { .. })
}

fn first_voter(identity: Identity) -> Acceptor {
    Acceptor::fresh(VoterId { generation: 0, uuid: identity.incarnation })
}
