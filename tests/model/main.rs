//! A model of how a shard stays one: the register, re-seeding, leases and takeovers, with every order of events up to a
//! bound (stateright). ARCHITECTURE.md, "Replication: the argument", says why each invariant holds; here nothing else
//! is believed than the single steps. What a change makes of a configuration, and what two logs share, is the product's
//! own code.
//!
//! Owns: the bounds, and which steps are possible when; `state` has the values, `register` and `copies` the steps,
//! `tests` the invariants and the instances.
//! Never: sockets, files, clocks.
//!
//! Two copies and a witness vote. Any message may be late or lost, a round may be given up, a process may die at any
//! step, a disk may be emptied. `DKV_MODEL=large` explores larger instances.
//!
//! Not in it: what is written and not durable, more than one shard, formation and reform, an operator's force, damage,
//! a primary that finds a longer log than its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by its place")]

mod copies;
mod register;
mod state;
mod tests;

use stateright::{Model, Property};

use register::PAIRS;
use state::{Ask, BALLOTS, COPIES, Conf, Copy, Lane, Lead, Log, Role, State, VERSIONS, VOTERS, Voter};

/// A mistake that the model can be made to contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A lease begins when its grant is received, not when its beacon was sent.
    LeaseFromReceipt,
    /// The grace is no longer than the lease, as if no clock were faster than another.
    GraceNoLongerThanTheLease,
    /// A voter whose disk was emptied answers as if it were new.
    WipedVoterVotesAtOnce,
    /// What is committed does not wait for a copy whose removal is only proposed.
    CommitBeforeTheShrinkIsChosen,
    /// Answers from before a voter lost its memory go on to count.
    SupersededAnswersCount,
    /// A voter that re-seeds another does not remember that.
    NewIdIsNotRecorded,
    /// A copy is taken in that is not required before that is chosen.
    TakenInBeforeRequired,
    /// A copy that is about to lead goes on to grant leases and acknowledge records.
    CandidateGrants,
    /// A copy that has just started takes over without waiting for what it may have granted.
    NoWaitAfterBoot,
    /// A copy that has just started grants before it knows what became of its takeover.
    GrantsBeforeItsRound,
    /// A primary answers before the other members have what its epoch began with.
    ServesBeforeSettled,
}

/// The world, its bounds, and its mistake. Leases and graces are in ticks; without leases a copy takes over at any
/// time, and all reads are confirmed.
#[derive(Debug, Clone)]
struct Shard {
    /// Ballots of all rounds together.
    rounds: u8,
    writes: u8,
    /// Processes that die and start again; only copies have anything to lose by that.
    crashes: u8,
    /// Disks that are emptied.
    wipes: u8,
    /// Of both kinds together.
    harms: u8,
    handovers: u8,
    lease: u8,
    grace: u8,
    fault: Option<Fault>,
}

/// One step. A copy's steps name its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin(usize, Ask),
    BeginAgain(usize),
    Promise(usize, usize),
    Propose(usize, [usize; 2]),
    Accept(usize, u8),
    End(usize),
    Record(usize, usize),
    Learn(usize),
    Follow(usize),
    Write(usize),
    Append(usize),
    Commit(usize),
    Beacon(usize),
    Grant(usize),
    TakeGrant(usize),
    Read(usize),
    Confirm(usize),
    Answer(usize),
    HandOver(usize, bool),
    BeTold(usize),
    Tick([bool; COPIES]),
    Crash(usize),
    Wipe(usize),
}

impl Shard {
    fn register_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for node in 0..COPIES {
            let may_begin = state.rounds_begun < self.rounds;
            match &state.rounds[node] {
                None if may_begin => steps.extend(self.wanted(state, node).map(|ask| Step::Begin(node, ask))),
                Some(_) if may_begin && self.is_refused(state, node) => steps.push(Step::BeginAgain(node)),
                _ => {}
            }
            steps.extend((0..VOTERS).filter(|at| self.may_promise(state, node, *at)).map(|at| Step::Promise(node, at)));
            let majorities = PAIRS.into_iter().filter(|pair| self.is_majority(state, node, *pair));
            match state.rounds[node].and_then(|round| round.accepting) {
                None => steps.extend(majorities.map(|pair| Step::Propose(node, pair))),
                Some(_) => steps.extend(majorities.take(1).map(|_| Step::End(node))),
            }
        }
        for at in 0..VOTERS {
            let ballots = (0..BALLOTS as u8).filter(|ballot| self.may_accept(state, at, *ballot));
            steps.extend(ballots.map(|ballot| Step::Accept(at, ballot)));
            steps.extend((0..VOTERS).filter(|by| self.may_record(state, at, *by)).map(|by| Step::Record(at, by)));
        }
    }

    fn copy_steps(&self, state: &State, node: usize, steps: &mut Vec<Step>) {
        let mut may = |is_possible: bool, step: Step| {
            if is_possible {
                steps.push(step);
            }
        };
        may(state.copies[node].known < state.copies[1 - node].known, Step::Learn(node));
        may(self.may_follow(state, node), Step::Follow(node));
        may(self.may_write(state, node), Step::Write(node));
        may(self.may_append(state, node), Step::Append(node));
        may(self.may_commit(state, node), Step::Commit(node));
        may(self.may_beacon(state, node), Step::Beacon(node));
        may(self.may_grant(state, node), Step::Grant(node));
        let has_grant = state.lead(node).is_some_and(|lead| matches!(lead.lane, Lane::Grant(_)));
        may(has_grant, Step::TakeGrant(node));
        may(self.may_read_stale(state, node), Step::Read(node));
        may(self.may_confirm(state, node), Step::Confirm(node));
        may(self.may_answer(state, node), Step::Answer(node));
        if self.may_hand_over(state, node) {
            let lead = state.lead(node);
            let end = state.copies[node].log.end;
            let is_drained = lead.is_some_and(|lead| lead.acked == end && lead.committed == end);
            may(is_drained, Step::HandOver(node, true));
            may(true, Step::HandOver(node, false));
        }
        may(self.may_be_told(state, node), Step::BeTold(node));
    }

    fn world_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let counts = |copy: &Copy| {
            copy.grace > 0 || matches!(copy.role, Role::Leading(lead) if lead.lease > 0 || lead.lane != Lane::Empty)
        };
        if self.lease > 0 && state.copies.iter().any(counts) {
            // A clock gains a tick at most once before the other does.
            steps.extend([Step::Tick([true, true]), Step::Tick([!state.is_ahead, state.is_ahead])]);
        }
        if state.crashes + state.wipes < self.harms {
            if state.crashes < self.crashes {
                steps.extend((0..COPIES).map(Step::Crash));
            }
            if state.wipes < self.wipes {
                steps.extend((0..VOTERS).map(Step::Wipe));
            }
        }
    }
}

impl Model for Shard {
    type State = State;
    type Action = Step;

    /// The first copy leads, the second follows; the first configuration is what all voters have accepted.
    fn init_states(&self) -> Vec<State> {
        let conf = Conf { version: 1, epoch: 1, primary: 0, in_sync: [1, 2] };
        let (mut proposals, mut chosen) = ([None; BALLOTS], [None; VERSIONS]);
        (proposals[0], chosen[1]) = (Some(conf), Some(conf));
        let voter = Voter { is_mute: false, promised: 0, accepted: Some(0), table: [0; VOTERS], seeds: [None; VOTERS] };
        let lead = Lead { is_settled: true, is_up: true, other: 2, is_whole: true, ..Lead::new(0) };
        let copy = |store, role, grace| Copy {
            store,
            is_whole: true,
            log: Log::default(),
            epoch: 1,
            known: 1,
            has_observed: true,
            role,
            grace,
        };
        let following = Role::Following { primary: 0, is_matched: true };
        let state = State {
            voters: [voter; VOTERS],
            proposals,
            rounds: [None; COPIES],
            copies: [copy(1, Role::Leading(lead), 0), copy(2, following, self.grace)],
            told: None,
            is_ahead: false,
            used: [0; COPIES],
            rounds_begun: 0,
            writes: 0,
            crashes: 0,
            wipes: 0,
            handovers: 0,
            chosen,
            ledger: Log::default(),
            has_forked: false,
            has_forgotten: false,
            has_diverged: false,
            has_read_stale: false,
        };
        let clocks: &[bool] = if self.lease > 0 { &[false, true] } else { &[false] };
        clocks.iter().map(|is_ahead| State { is_ahead: *is_ahead, ..state.clone() }).collect()
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.register_steps(state, steps);
        (0..COPIES).for_each(|node| self.copy_steps(state, node, steps));
        self.world_steps(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        let next = &mut state;
        match step {
            Step::Begin(node, ask) => self.ask(next, node, ask),
            Step::BeginAgain(node) => self.begin_again(next, node),
            Step::Promise(node, at) => self.promise(next, node, at),
            Step::Propose(node, pair) => self.propose(next, node, pair),
            Step::Accept(at, ballot) => self.accept(next, at, ballot),
            Step::End(node) => self.end(next, node),
            Step::Record(at, by) => self.record(next, at, by),
            Step::Learn(node) => {
                let known = last.conf(last.copies[1 - node].known)?;
                self.learn(next, node, known);
            }
            Step::Follow(node) => self.follow(next, node),
            Step::Write(node) => self.write(next, node),
            Step::Append(node) => self.append(next, node),
            Step::Commit(node) => self.commit(next, node),
            Step::Beacon(node) => self.beacon(next, node),
            Step::Grant(node) => self.grant(next, node),
            Step::TakeGrant(node) => self.take_grant(next, node),
            Step::Read(node) => next.lead_mut(node)?.stale_read = Some(false),
            Step::Confirm(node) => next.lead_mut(node)?.stale_read = Some(true),
            Step::Answer(_) => next.has_read_stale = true,
            Step::HandOver(node, keeps_old) => self.hand_over(next, node, keeps_old),
            Step::BeTold(node) => self.be_told(next, node),
            Step::Tick(clocks) => self.tick(next, clocks),
            Step::Crash(node) => self.crash(next, node),
            Step::Wipe(at) => self.wipe(next, at),
        }
        self.drop_dead_proposals(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        tests::properties(self)
    }
}
