//! Owns: the rounds that this node leads, at most one a shard (CASPaxos: Rystsov 2018, arXiv:1802.07000).
//!
//! A round prepares at a majority; takes the highest accepted value that it is told of, or the initial one; applies its
//! change to it, or leaves it as it is; and has the result accepted by a majority under the same ballot. What a
//! majority has accepted is *chosen*: every later round finds it, or what was made of it. A round that meets a higher
//! ballot begins again above it, after a pause that grows with every collision and differs between proposers. What is
//! lost on the way is sent again.
//!
//! Invariants: a ballot is used for one value only; a round ends only with a chosen value. A change that was sent may be
//! chosen long after, by others' rounds: so from then on a round is never given up, and where it finds its own value, it
//! does not apply the change twice.
//! Never: what a change is for, and what its end leads to.

use std::collections::BTreeMap;

use super::RESEND_MS;
use super::Settled;
use super::electorate::{Electorate, Tally};
use super::message::{Effects, Message, Vote};
use crate::configuration::{Ballot, Change, Configuration, VoterId};
use crate::id::{NodeId, ShardId, Uuid};

/// The pause after a collision is random up to this; it doubles up to the last.
const PAUSE_FIRST_MS: u64 = 10;
const PAUSE_LAST_MS: u64 = 200;

#[derive(Debug)]
enum Stage {
    Prepare { best: Option<Vote> },
    Accept { value: Configuration, applied: bool },
}

#[derive(Debug)]
struct Round {
    change: Change,
    ballot: Ballot,
    stage: Stage,
    answered: Tally,
    /// What its change has made so far, as proposed to voters: any of it may come to be chosen.
    sent: Vec<Configuration>,
    collisions: u32,
    resend_ms: u64,
    /// A higher ballot was met: when to begin again. A majority that answers before is as good.
    retry_ms: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Proposer {
    incarnation: Uuid,
    /// By shard: what its register holds while nothing was accepted.
    initial: Vec<Configuration>,
    /// By shard: the highest round heard of, or used.
    highest: Vec<u64>,
    rounds: BTreeMap<ShardId, Round>,
    /// State of the pauses' randomness; not zero.
    jitter: u64,
}

impl Proposer {
    pub(super) fn new(incarnation: Uuid, seed: u64, initial: Vec<Configuration>) -> Self {
        Self { incarnation, highest: vec![0; initial.len()], initial, rounds: BTreeMap::new(), jitter: seed | 1 }
    }

    /// See [`super::Registers::propose`].
    pub(super) fn propose(
        &mut self,
        shard: ShardId,
        change: Change,
        voters: &Electorate,
        now_ms: u64,
        fx: &mut Effects,
    ) -> bool {
        if !self.withdraw(shard) {
            return false;
        }
        let mut round = Round {
            change,
            ballot: Ballot::default(),
            stage: Stage::Prepare { best: None },
            answered: Tally::new(voters),
            sent: Vec::new(),
            collisions: 0,
            resend_ms: 0,
            retry_ms: None,
        };
        self.begin(shard, &mut round, voters, now_ms, fx);
        self.rounds.insert(shard, round);
        true
    }

    /// See [`super::Registers::withdraw`]. A value that was only written back may be left half written: it is no news.
    pub(super) fn withdraw(&mut self, shard: ShardId) -> bool {
        if self.rounds.get(&shard).is_some_and(|round| !round.sent.is_empty()) {
            return false;
        }
        self.rounds.remove(&shard);
        true
    }

    /// A round of this number was used: the next one of this shard goes above it.
    pub(super) fn hear(&mut self, shard: ShardId, ballot: Ballot) {
        let highest = &mut self.highest[shard.0 as usize];
        *highest = ballot.round.max(*highest);
    }

    pub(super) fn on_promise(
        &mut self,
        (shard, ballot): (ShardId, Ballot),
        (seat, id): (usize, VoterId),
        accepted: Option<Vote>,
        voters: &Electorate,
        now_ms: u64,
        fx: &mut Effects,
    ) {
        let Some(round) = self.rounds.get_mut(&shard).filter(|round| round.ballot == ballot) else { return };
        let Stage::Prepare { best } = &mut round.stage else { return };
        if accepted.as_ref().map(|vote| vote.ballot) > best.as_ref().map(|vote| vote.ballot) {
            *best = accepted;
        }
        round.answered.add(seat, id);
        if round.answered.has_majority(voters) {
            let base = best.take().map_or_else(|| self.initial[shard.0 as usize].clone(), |vote| vote.value);
            round.have_accepted(shard, base, voters, now_ms, fx);
        }
    }

    pub(super) fn on_accepted(
        &mut self,
        (shard, ballot): (ShardId, Ballot),
        (seat, id): (usize, VoterId),
        voters: &Electorate,
        fx: &mut Effects,
    ) {
        let Some(round) = self.rounds.get_mut(&shard).filter(|round| round.ballot == ballot) else { return };
        let Stage::Accept { value, applied } = &round.stage else { return };
        round.answered.add(seat, id);
        if round.answered.has_majority(voters) {
            fx.settled.push(Settled { shard, chosen: value.clone(), applied: *applied });
            self.rounds.remove(&shard);
        }
    }

    pub(super) fn on_nack(
        &mut self,
        (shard, ballot): (ShardId, Ballot),
        promised: Ballot,
        voters: &Electorate,
        now_ms: u64,
        fx: &mut Effects,
    ) {
        self.hear(shard, promised);
        let random = self.random();
        let Some(round) = self.rounds.get_mut(&shard).filter(|round| round.ballot == ballot) else { return };
        if round.retry_ms.is_some() {
            return;
        }
        round.collisions += 1;
        let is_preparing = matches!(round.stage, Stage::Prepare { .. });
        if round.collisions == 1 && is_preparing {
            // Most likely nobody contends: the ballots of those before us were not known here.
            self.begin_again(shard, voters, now_ms, fx);
        } else {
            let window = (PAUSE_FIRST_MS << (round.collisions - 1).min(8)).min(PAUSE_LAST_MS);
            round.retry_ms = Some(now_ms + 1 + random % window);
        }
    }

    pub(super) fn tick(&mut self, voters: &Electorate, now_ms: u64, fx: &mut Effects) {
        let is_due = |round: &Round| round.retry_ms.is_some_and(|at_ms| now_ms >= at_ms);
        let due: Vec<ShardId> = self.rounds.iter().filter(|(_, r)| is_due(r)).map(|(shard, _)| *shard).collect();
        for shard in due {
            self.begin_again(shard, voters, now_ms, fx);
        }
        for (shard, round) in self.rounds.iter_mut().filter(|(_, round)| now_ms >= round.resend_ms) {
            round.send(*shard, voters, now_ms, fx);
        }
    }

    pub(super) fn on_node_up(&self, node: NodeId, voters: &Electorate, fx: &mut Effects) {
        let Some(seat) = voters.seat(node) else { return };
        for (shard, round) in self.rounds.iter().filter(|(_, round)| !round.answered.has(seat, voters)) {
            fx.requests.push((node, round.question(*shard, seat, voters)));
        }
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.rounds.values().map(|round| round.retry_ms.map_or(round.resend_ms, |at| at.min(round.resend_ms))).min()
    }

    fn begin_again(&mut self, shard: ShardId, voters: &Electorate, now_ms: u64, fx: &mut Effects) {
        let Some(mut round) = self.rounds.remove(&shard) else { return };
        self.begin(shard, &mut round, voters, now_ms, fx);
        self.rounds.insert(shard, round);
    }

    /// Prepares under a ballot that was never used, above all that were heard of.
    fn begin(&mut self, shard: ShardId, round: &mut Round, voters: &Electorate, now_ms: u64, fx: &mut Effects) {
        let highest = &mut self.highest[shard.0 as usize];
        *highest += 1;
        round.ballot = Ballot { round: *highest, proposer: self.incarnation };
        round.stage = Stage::Prepare { best: None };
        round.answered = Tally::new(voters);
        round.retry_ms = None;
        round.send(shard, voters, now_ms, fx);
    }

    /// xorshift64 (Marsaglia 2003): spread is all that is asked of it.
    fn random(&mut self) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter
    }
}

impl Round {
    /// A majority has promised, and `base` is what it told of.
    fn have_accepted(
        &mut self,
        shard: ShardId,
        base: Configuration,
        voters: &Electorate,
        now_ms: u64,
        fx: &mut Effects,
    ) {
        let (value, applied) = if self.sent.contains(&base) {
            (base, true)
        } else {
            let next = self.change.apply(&base);
            self.sent.extend(next.clone());
            let applied = next.is_some();
            (next.unwrap_or(base), applied)
        };
        self.stage = Stage::Accept { value, applied };
        self.answered = Tally::new(voters);
        self.retry_ms = None;
        self.send(shard, voters, now_ms, fx);
    }

    /// Asks every voter that has not answered.
    fn send(&mut self, shard: ShardId, voters: &Electorate, now_ms: u64, fx: &mut Effects) {
        self.resend_ms = now_ms + RESEND_MS;
        let missing = self.answered.missing(voters);
        fx.requests.extend(missing.map(|(seat, node)| (node, self.question(shard, seat, voters))));
    }

    fn question(&self, shard: ShardId, seat: usize, voters: &Electorate) -> Message {
        let (ballot, to) = (self.ballot, voters.known(seat));
        match &self.stage {
            Stage::Prepare { .. } => Message::Prepare { shard, ballot, to },
            Stage::Accept { value, .. } => Message::Accept { shard, ballot, to, value: value.clone() },
        }
    }
}
