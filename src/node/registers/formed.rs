//! Owns: a node of a formed cluster: its voter, if it is one, and the rounds that it leads; which message goes to which
//! of them.
//!
//! Invariant: a voter that hears of a higher id of its own is one without memory (its disk went back to an older state,
//! or an attempt to re-seed it was recorded and given up), and becomes mute.
//! Never: what is durable; links.

use super::acceptor::Acceptor;
use super::electorate::Electorate;
use super::forming::asks_to_form;
use super::message::{Effects, Message, Voucher};
use super::proposer::Proposer;
use super::reseed::Reseed;
use super::table::Table;
use super::{Identity, Standing};
use crate::configuration::{Change, Formation, VoterId};
use crate::id::{NodeId, ShardId};

#[derive(Debug)]
enum Voter {
    No,
    Serves(Acceptor),
    Mute(Reseed),
}

#[derive(Debug)]
pub(super) struct Formed {
    identity: Identity,
    formation: Formation,
    shards: usize,
    voters: Electorate,
    seat: Option<usize>,
    voter: Voter,
    proposer: Proposer,
}

impl Formed {
    pub(super) fn new(identity: Identity, formation: Formation, voter: Option<Acceptor>, table: &Table) -> Self {
        let mut voters = Electorate::new(&formation);
        let seat = voters.seat(identity.me);
        let shards = table.shards.len();
        let voter = match seat {
            None => Voter::No,
            Some(seat) => match voter.and_then(|voter| voter.seated(&formation, seat, shards)) {
                Some(acceptor) => {
                    voters.hear_table(acceptor.table());
                    Voter::Serves(acceptor)
                }
                None => Voter::Mute(Reseed::new(seat, identity.incarnation, shards, &voters)),
            },
        };
        let proposer = Proposer::new(identity.incarnation, identity.seed, table.initial(&formation));
        Self { identity, formation, shards, voters, seat, voter, proposer }
    }

    pub(super) fn formation(&self) -> &Formation {
        &self.formation
    }

    pub(super) fn standing(&self) -> Standing {
        match &self.voter {
            Voter::No => Standing::NoVoter,
            Voter::Serves(_) => Standing::Voter,
            Voter::Mute(reseed) => Standing::Mute { waits_for: reseed.waits_for(&self.voters) },
        }
    }

    /// The voter's memory, while it has one.
    pub(super) fn acceptor(&self) -> Option<&Acceptor> {
        match &self.voter {
            Voter::Serves(acceptor) => Some(acceptor),
            _ => None,
        }
    }

    pub(super) fn propose(&mut self, shard: ShardId, change: Change, now_ms: u64, fx: &mut Effects) -> bool {
        if let Some(promised) = self.acceptor().map(|acceptor| acceptor.promised(shard)) {
            // Spares a collision with what this node knows already.
            self.proposer.hear(shard, promised);
        }
        self.proposer.propose(shard, change, &self.voters, now_ms, fx)
    }

    pub(super) fn withdraw(&mut self, shard: ShardId) -> bool {
        self.proposer.withdraw(shard)
    }

    pub(super) fn handle(&mut self, from: NodeId, message: Message, now_ms: u64, fx: &mut Effects) {
        match message {
            message if asks_to_form(&message) => {
                fx.answer = Some(Message::Formed { formation: self.formation.clone() });
            }
            Message::Prepare { shard, ballot, to } => {
                self.as_voter(Some(to), now_ms, fx, |voter| voter.prepare(shard, ballot));
            }
            Message::Accept { shard, ballot, to, value } => {
                self.as_voter(Some(to), now_ms, fx, |voter| voter.accept(shard, ballot, value));
            }
            Message::Record { id } => {
                if let Some(seat) = self.voters.seat(from) {
                    self.voters.hear(seat, id);
                    self.as_voter(None, now_ms, fx, |voter| voter.record(seat, id));
                }
            }
            Message::Promise { shard, ballot, voucher, accepted } => {
                if let Some(seat) = self.hear(from, &voucher, now_ms, fx) {
                    let by = (seat, voucher.id);
                    self.proposer.on_promise((shard, ballot), by, accepted, &self.voters, now_ms, fx);
                }
            }
            Message::Accepted { shard, ballot, voucher } => {
                if let Some(seat) = self.hear(from, &voucher, now_ms, fx) {
                    self.proposer.on_accepted((shard, ballot), (seat, voucher.id), &self.voters, fx);
                }
            }
            Message::Nack { shard, ballot, promised } if self.voters.seat(from).is_some() => {
                self.proposer.on_nack((shard, ballot), promised, &self.voters, now_ms, fx);
            }
            Message::Seed { id, voucher, slots } => {
                let seat = self.hear(from, &voucher, now_ms, fx);
                if let (Voter::Mute(reseed), Some(seat)) = (&mut self.voter, seat)
                    && let Some(acceptor) = reseed.on_seed(seat, id, &voucher, slots, &self.voters)
                {
                    self.voter = Voter::Serves(acceptor);
                    fx.save_voter = true;
                }
            }
            Message::Outdated { voucher } => {
                self.hear(from, &voucher, now_ms, fx);
            }
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, now_ms: u64, fx: &mut Effects) {
        if let Voter::Mute(reseed) = &mut self.voter {
            reseed.tick(&self.voters, now_ms, fx);
        }
        self.proposer.tick(&self.voters, now_ms, fx);
    }

    pub(super) fn on_node_up(&self, node: NodeId, fx: &mut Effects) {
        if let Voter::Mute(reseed) = &self.voter {
            reseed.on_node_up(node, &self.voters, fx);
        }
        self.proposer.on_node_up(node, &self.voters, fx);
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        let reseed = match &self.voter {
            Voter::Mute(reseed) => Some(reseed.next_ms()),
            _ => None,
        };
        reseed.into_iter().chain(self.proposer.next_ms()).min()
    }

    /// Answers as the voter, unless it is mute, or `to` says that the asker knows a later one in this seat.
    fn as_voter(
        &mut self,
        to: Option<VoterId>,
        now_ms: u64,
        fx: &mut Effects,
        answer: impl FnOnce(&mut Acceptor) -> (Message, bool),
    ) {
        if let (Some(seat), Some(to)) = (self.seat, to) {
            self.voters.hear(seat, to);
            self.mind_own_id(now_ms, fx);
        }
        if let Voter::Serves(acceptor) = &mut self.voter {
            let (message, has_changed) = answer(acceptor);
            fx.save_voter |= has_changed;
            fx.answer = Some(message);
        }
    }

    /// Takes note of what an answer says of the voters; gives the seat of the one that answered.
    fn hear(&mut self, from: NodeId, voucher: &Voucher, now_ms: u64, fx: &mut Effects) -> Option<usize> {
        let seat = self.voters.seat(from).filter(|_| voucher.table.len() == self.voters.nodes().len())?;
        self.voters.hear(seat, voucher.id);
        self.voters.hear_table(&voucher.table);
        self.mind_own_id(now_ms, fx);
        Some(seat)
    }

    /// A higher id of one's own is known: see the invariant.
    fn mind_own_id(&mut self, now_ms: u64, fx: &mut Effects) {
        let Some(seat) = self.seat else { return };
        match &mut self.voter {
            Voter::Serves(acceptor) if self.voters.known(seat) > acceptor.id() => {
                let mut reseed = Reseed::new(seat, self.identity.incarnation, self.shards, &self.voters);
                reseed.tick(&self.voters, now_ms, fx);
                self.voter = Voter::Mute(reseed);
            }
            Voter::Mute(reseed) => reseed.overtake(&self.voters, now_ms, fx),
            _ => {}
        }
    }
}
