//! Owns: everything about the registers on one node: the formation of the cluster, the voter, and the rounds that the
//! node leads. Sans I/O: messages, completions and the time go in; what is to be sent and persisted comes out.
//!
//! ```text
//! table      who votes; what a register holds at first
//! forming    before the cluster is known to be formed;   founder   node 0, which proposes the formation
//! formed     after;                                      acceptor  a voter's memory
//!                                                        reseed    a voter that lost it
//!                                                        proposer  rounds
//! electorate whose answers count;                        message   what nodes say to each other
//! recall     what the files of a stopped cluster say
//! ```
//!
//! This file holds what all of them share: **an answer leaves only when everything that was handed out to be persisted
//! before it is durable.** A request rests on nothing of one's own disk and leaves at once. A node's messages to itself
//! are delivered here, under the same rule.
//! Never: clocks, files, sockets; what follows from a configuration.

mod acceptor;
mod electorate;
mod formed;
mod forming;
mod founder;
mod message;
mod proposer;
#[cfg(test)]
mod race_tests;
mod recall;
mod reseed;
#[cfg(test)]
mod scenario_tests;
#[cfg(test)]
mod seed_tests;
#[cfg(test)]
mod sim_tests;
mod table;

use std::collections::VecDeque;

pub use message::Vote;
pub use recall::{Memory, Reading, formation_of, read, recall};
pub use table::{Place, Table, choose_voters, voter_warnings};

use crate::configuration::{Ballot, Change, Coded, Configuration, Formation};
use crate::id::{LinkId, NodeId, ShardId, Uuid};
use acceptor::Acceptor;
use formed::Formed;
use forming::{Forming, Kept};
use message::{Effects, Message, Slot};

/// After how long a question is put again to those that have not answered.
const RESEND_MS: u64 = 100;
/// Answers that wait for the disk. What is above is dropped, and asked again.
const HELD_MAX: usize = 4096;

/// What a node's file says of a cluster that was formed so: `formation` of [`Registers::new`].
#[must_use]
pub fn formation_file(formation: &Formation) -> Vec<u8> {
    Kept::of(formation.clone()).to_file()
}

/// What a voter's file holds when the cluster is formed so, and each register is known to hold this: `voter` of
/// [`Registers::new`]. Without `registers`, nothing has been accepted. `None`: the node does not vote.
#[must_use]
pub fn voter_file(formation: &Formation, node: NodeId, registers: &[Configuration]) -> Option<Vec<u8>> {
    let own = formation.voters.iter().find(|seat| seat.node == node)?;
    // Below the ballots of every proposer: its rounds begin with 1.
    let ballot = Ballot { round: 0, proposer: formation.cluster };
    let slot = |value: &Configuration| Slot { promised: ballot, accepted: Some(Vote { ballot, value: value.clone() }) };
    let acceptor = match registers {
        [] => Acceptor::fresh(own.first),
        registers => {
            let table = formation.voters.iter().map(|seat| seat.first).collect();
            Acceptor::seeded(own.first, table, registers.iter().map(slot).collect())
        }
    };
    Some(acceptor.to_file())
}

/// Who this node is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Its place in the table.
    pub me: NodeId,
    /// What its directory holds.
    pub store: Uuid,
    /// Drawn at random at every start of the process. Ballots and voters' ids rest on it: never the same twice.
    pub incarnation: Uuid,
    /// The table's fingerprint.
    pub fingerprint: u64,
    /// Spreads the pauses of contending proposers.
    pub seed: u64,
}

/// Why the registers cannot start from what was persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadStart {
    /// The formation's bytes are none: damaged, or of a later version.
    Formation,
    /// The voter file's bytes are none although its checksum fits: of a later version.
    Voter,
    /// The cluster was formed with another table.
    OtherTable {
        /// That table's fingerprint.
        formed: u64,
    },
}

/// Bytes that are no message of a register; the link that carried them is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadMessage;

/// Where this node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The cluster is not known to be formed.
    Forming {
        /// The nodes without whose answer it cannot go on.
        waits_for: Vec<NodeId>,
    },
    /// It votes.
    Voter,
    /// It is none of the voters.
    NoVoter,
    /// It is a voter that lost its registers, and is being re-seeded.
    Mute {
        /// A majority of the voters is needed, itself not counted; these have not answered. Empty: it is the only
        /// voter; what it held is lost for good.
        waits_for: Vec<NodeId>,
    },
}

/// A round is through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Whose register.
    pub shard: ShardId,
    /// What it holds for sure.
    pub chosen: Configuration,
    /// `chosen` is what the proposed change made. Otherwise it was not applicable, or others went on from it.
    pub applied: bool,
}

/// What is to be done. The caller keeps it, lets it be filled by as many calls as it likes, and takes its content out.
#[derive(Debug, Default)]
pub struct Outbox {
    /// To be sent over this node's own control link to a node; may be lost.
    pub requests: Vec<(NodeId, Vec<u8>)>,
    /// To be sent back by the link that the request came by; may be lost.
    pub answers: Vec<(LinkId, Vec<u8>)>,
    /// The voter file's new content, and its number for [`Registers::persisted`].
    pub persist_voter: Option<(u64, Vec<u8>)>,
    /// The formation's new bytes, and their number. Where both are to be persisted, the lower number goes first.
    pub persist_formation: Option<(u64, Vec<u8>)>,
    /// Rounds that are through.
    pub settled: Vec<Settled>,
    /// [`Registers::formation`] is there from now on.
    pub formed: bool,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy)]
enum Via {
    Me,
    Link(LinkId),
}

#[derive(Debug)]
enum State {
    Forming(Box<Forming>),
    Formed(Box<Formed>),
}

/// An answer that waits until this number is durable.
#[derive(Debug)]
struct Held {
    number: u64,
    via: Via,
    answer: Message,
}

/// See the module.
#[derive(Debug)]
pub struct Registers {
    identity: Identity,
    table: Table,
    state: State,
    /// The last number that was handed out with something to be persisted.
    handed_out: u64,
    /// The last of them that is durable.
    durable: u64,
    /// With this number it is durable that the cluster is formed.
    formed_with: Option<u64>,
    /// In order of their numbers.
    held: VecDeque<Held>,
    /// Messages to itself, about to be delivered.
    to_me: VecDeque<Message>,
}

impl Registers {
    /// From what was persisted: `formation` may be empty, `voter` is `None` where the file is missing or damaged. It
    /// wants to be ticked at once ([`Registers::next_ms`]).
    ///
    /// # Errors
    /// It must not start.
    pub fn new(identity: Identity, table: Table, formation: &[u8], voter: Option<&[u8]>) -> Result<Self, BadStart> {
        assert!((identity.me.0 as usize) < table.nodes.len(), "a node is one of its table");
        let kept = Kept::from_file(formation, identity.fingerprint, &table)?;
        let voter = voter.map(|bytes| Acceptor::from_file(bytes).ok_or(BadStart::Voter)).transpose()?;
        let state = match kept.formed {
            Some(formation) => State::Formed(Box::new(Formed::new(identity, formation, voter, &table))),
            None => State::Forming(Box::new(Forming::new(identity, kept, voter, &table))),
        };
        let (held, to_me) = (VecDeque::new(), VecDeque::new());
        Ok(Self { identity, table, state, handed_out: 0, durable: 0, formed_with: None, held, to_me })
    }

    /// What the cluster was formed with, once that is known and durable here.
    #[must_use]
    pub fn formation(&self) -> Option<&Formation> {
        match &self.state {
            State::Formed(formed) => Some(formed.formation()),
            State::Forming(_) => None,
        }
    }

    /// Where this node stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.state {
            State::Formed(formed) => formed.standing(),
            State::Forming(forming) => Standing::Forming { waits_for: forming.waits_for() },
        }
    }

    /// Begins a round that applies `change` to a shard's register; [`Outbox::settled`] tells the end. It takes the
    /// place of a round that can be given up ([`Registers::withdraw`]). `false`: the round under way cannot, and must
    /// end first. The cluster must be formed.
    pub fn propose(&mut self, shard: ShardId, change: Change, now_ms: u64, out: &mut Outbox) -> bool {
        let State::Formed(formed) = &mut self.state else { panic!("a register is used before the cluster is formed") };
        let mut fx = Effects::default();
        let has_begun = formed.propose(shard, change, now_ms, &mut fx);
        self.finish(fx, now_ms, out);
        has_begun
    }

    /// Gives a shard's round up, if its change was not yet proposed to any voter: nothing comes of it then. `false`: it
    /// was, and runs to its end, since it may be chosen whatever this node does.
    pub fn withdraw(&mut self, shard: ShardId) -> bool {
        match &mut self.state {
            State::Formed(formed) => formed.withdraw(shard),
            State::Forming(_) => true,
        }
    }

    /// A node's message, and the link that brought it.
    ///
    /// # Errors
    /// It is none.
    pub fn on_message(
        &mut self,
        from: NodeId,
        link: LinkId,
        bytes: &[u8],
        now_ms: u64,
        out: &mut Outbox,
    ) -> Result<(), BadMessage> {
        let message = Message::decode(bytes).ok_or(BadMessage)?;
        let is_known = message.shard().is_none_or(|shard| (shard.0 as usize) < self.table.shards.len());
        if !is_known || from.0 as usize >= self.table.nodes.len() {
            return Err(BadMessage);
        }
        self.deliver(from, Via::Link(link), message, now_ms, out);
        self.deliver_to_me(now_ms, out);
        Ok(())
    }

    /// This node's control link to a node is up: what it has not answered is asked again at once.
    pub fn on_node_up(&mut self, node: NodeId, now_ms: u64, out: &mut Outbox) {
        let mut fx = Effects::default();
        match &mut self.state {
            State::Forming(forming) => forming.on_node_up(node, &mut fx),
            State::Formed(formed) => formed.on_node_up(node, &mut fx),
        }
        self.finish(fx, now_ms, out);
    }

    /// What was handed out with this number, and all before, is durable.
    pub fn persisted(&mut self, number: u64, now_ms: u64, out: &mut Outbox) {
        assert!(number <= self.handed_out, "what was never handed out cannot be durable");
        self.durable = self.durable.max(number);
        let ready = self.held.partition_point(|held| held.number <= self.durable);
        for Held { via, answer, .. } in self.held.drain(..ready).collect::<Vec<_>>() {
            self.send_answer(via, answer, out);
        }
        if self.formed_with.is_some_and(|number| number <= self.durable) {
            self.formed_with = None;
            self.become_formed(now_ms, out);
        }
        self.deliver_to_me(now_ms, out);
    }

    /// The moment of [`Registers::next_ms`] has come, or may have.
    pub fn tick(&mut self, now_ms: u64, out: &mut Outbox) {
        let mut fx = Effects::default();
        match &mut self.state {
            State::Forming(forming) => forming.tick(&self.table, now_ms, &mut fx),
            State::Formed(formed) => formed.tick(now_ms, &mut fx),
        }
        self.finish(fx, now_ms, out);
    }

    /// When it wants to be ticked, if ever.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        match &self.state {
            State::Forming(forming) => forming.next_ms(),
            State::Formed(formed) => formed.next_ms(),
        }
    }

    /// It is durable here that the cluster is formed. The founder, which alone knows it, tells everyone; whoever does
    /// not hear it will ask.
    fn become_formed(&mut self, now_ms: u64, out: &mut Outbox) {
        let State::Forming(forming) = &self.state else { return };
        let Some(formation) = forming.kept().formed.clone() else { return };
        let mut fx = Effects::default();
        if forming.is_founder() {
            let others = self.table.node_ids().filter(|node| *node != self.identity.me);
            fx.requests.extend(others.map(|node| (node, Message::Formed { formation: formation.clone() })));
        }
        let voter = Some(forming.voter().clone());
        let mut formed = Formed::new(self.identity, formation, voter, &self.table);
        formed.tick(now_ms, &mut fx);
        self.state = State::Formed(Box::new(formed));
        out.formed = true;
        self.apply(Via::Me, fx, out);
    }

    fn deliver(&mut self, from: NodeId, via: Via, message: Message, now_ms: u64, out: &mut Outbox) {
        let mut fx = Effects::default();
        match &mut self.state {
            State::Forming(forming) => forming.handle(from, message, &self.table, now_ms, &mut fx),
            State::Formed(formed) => formed.handle(from, message, now_ms, &mut fx),
        }
        self.apply(via, fx, out);
    }

    /// Ends: a message to itself leads to others only as far as rounds go on, and what rests on the disk waits for it.
    fn deliver_to_me(&mut self, now_ms: u64, out: &mut Outbox) {
        while let Some(message) = self.to_me.pop_front() {
            self.deliver(self.identity.me, Via::Me, message, now_ms, out);
        }
    }

    /// The effects of an event that is no message.
    fn finish(&mut self, fx: Effects, now_ms: u64, out: &mut Outbox) {
        self.apply(Via::Me, fx, out);
        self.deliver_to_me(now_ms, out);
    }

    fn apply(&mut self, via: Via, fx: Effects, out: &mut Outbox) {
        if fx.save_voter {
            self.save_voter(out);
            if fx.save_formation {
                // It rests on the voter's: it gets a later number.
                out.persist_formation = None;
            }
        }
        if fx.save_formation {
            self.save_formation(out);
        }
        if let Some(answer) = fx.answer {
            let number = self.handed_out;
            if number <= self.durable {
                self.send_answer(via, answer, out);
            } else if self.held.len() < HELD_MAX {
                self.held.push_back(Held { number, via, answer });
            }
        }
        for (node, request) in fx.requests {
            match node == self.identity.me {
                true => self.to_me.push_back(request),
                false => out.requests.push((node, request.encode())),
            }
        }
        out.settled.extend(fx.settled);
    }

    fn send_answer(&mut self, via: Via, answer: Message, out: &mut Outbox) {
        match via {
            Via::Me => self.to_me.push_back(answer),
            Via::Link(link) => out.answers.push((link, answer.encode())),
        }
    }

    /// Hands the voter's memory out. What was not yet taken out of the outbox is replaced, under its number.
    fn save_voter(&mut self, out: &mut Outbox) {
        let memory = match &self.state {
            State::Forming(forming) => Some(forming.voter()),
            State::Formed(formed) => formed.acceptor(),
        };
        if let Some(memory) = memory {
            let number = number_of(out.persist_voter.take(), &mut self.handed_out);
            out.persist_voter = Some((number, memory.to_file()));
        }
    }

    fn save_formation(&mut self, out: &mut Outbox) {
        if let State::Forming(forming) = &self.state {
            let kept = forming.kept();
            let number = number_of(out.persist_formation.take(), &mut self.handed_out);
            out.persist_formation = Some((number, kept.to_file()));
            self.formed_with = kept.formed.is_some().then_some(number);
        }
    }
}

/// The number for what is to be persisted: that of what it replaces in the outbox, else a new one.
fn number_of(replaced: Option<(u64, Vec<u8>)>, handed_out: &mut u64) -> u64 {
    replaced.map_or_else(
        || {
            *handed_out += 1;
            *handed_out
        },
        |(number, _)| number,
    )
}
