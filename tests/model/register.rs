//! Owns: the register and re-seeding (`node/registers/`): rounds, voters, a voter that lost its memory.
//!
//! A question may reach a voter at any time while its round needs it, an accept even long after. An answer is kept as
//! it was given; which majority a round (or a re-seeding) counts, and how late, is chosen when it goes on. All that it
//! then knows of the voters' ids is what those very answers say: the product knows at least that.
//! Never: what a configuration means.

use super::state::{Answer, Ask, BALLOTS, COPIES, Round, Seed, State, Table, VOTERS, Voter};
use super::{Fault, Shard};

/// The majorities of three.
pub(super) const PAIRS: [[usize; 2]; 3] = [[0, 1], [0, 2], [1, 2]];

impl Shard {
    /// A round begins, or begins again, above what it has met.
    pub fn begin(&self, state: &mut State, node: usize, ask: Ask) {
        let own = &state.voters[node];
        let above = if own.is_mute { 0 } else { own.promised };
        let ballot = next_ballot(node, above.max(state.used[node]));
        self.prepare(state, node, ballot, ask, 0);
    }

    /// Whether some voter refuses the round.
    pub fn is_refused(&self, state: &State, node: usize) -> bool {
        state.rounds[node].is_some_and(|round| state.voters.iter().any(|v| !v.is_mute && v.promised > round.ballot))
    }

    /// It begins again above the ballot that it was refused for.
    pub fn begin_again(&self, state: &mut State, node: usize) {
        let Some(round) = state.rounds[node] else { return };
        let highest = state.voters.iter().filter(|voter| !voter.is_mute).map(|voter| voter.promised).max();
        let ballot = next_ballot(node, highest.unwrap_or(0).max(state.used[node]));
        self.prepare(state, node, ballot, round.ask, round.sent);
    }

    fn prepare(&self, state: &mut State, node: usize, ballot: u8, ask: Ask, sent: u16) {
        assert!(usize::from(ballot) < BALLOTS, "an instance's rounds bound its ballots");
        state.used[node] = ballot;
        state.rounds_begun += 1;
        let floor = state.newest().version;
        state.rounds[node] = Some(Round { ask, ballot, accepting: None, answers: [None; 3], sent, floor });
    }

    /// Whether a voter that is asked to promise would say something new.
    pub fn may_promise(&self, state: &State, node: usize, at: usize) -> bool {
        let voter = &state.voters[at];
        state.rounds[node].is_some_and(|round| {
            let is_asked = round.accepting.is_none() && !voter.is_mute && voter.promised <= round.ballot;
            is_asked && round.answers[at].is_none_or(|answer| answer.table[at] != voter.table[at])
        })
    }

    pub fn promise(&self, state: &mut State, node: usize, at: usize) {
        let Some(round) = &mut state.rounds[node] else { return };
        let voter = &mut state.voters[at];
        voter.promised = round.ballot;
        round.answers[at] = Some(Answer { table: voter.table, accepted: voter.accepted });
    }

    /// Whether a round that counts these voters may go on.
    pub fn is_majority(&self, state: &State, node: usize, pair: [usize; 2]) -> bool {
        let Some(round) = &state.rounds[node] else { return false };
        let tables = pair.map(|at| round.answers[at].map(|answer| answer.table));
        self.counts(pair, tables)
    }

    /// An answer counts only while no later id of its voter is known.
    fn counts(&self, pair: [usize; 2], tables: [Option<Table>; 2]) -> bool {
        let [Some(first), Some(second)] = tables else { return false };
        let is_void = first[pair[0]] < second[pair[0]] || second[pair[1]] < first[pair[1]];
        !is_void || self.fault == Some(Fault::SupersededAnswersCount)
    }

    /// A majority has promised: the round proposes what its change makes of the highest proposal that it is told of.
    pub fn propose(&self, state: &mut State, node: usize, pair: [usize; 2]) {
        let own = state.copies[node].store;
        let Some(round) = &mut state.rounds[node] else { return };
        let best = pair.iter().filter_map(|at| round.answers[*at]).filter_map(|answer| answer.accepted).max();
        // A register in which nothing was accepted holds what it did at first, which is the proposal 0 here.
        let base = state.proposals[usize::from(best.unwrap_or(0))].expect("what was accepted was proposed");
        let is_own = (0..BALLOTS).any(|b| round.sent & (1 << b) != 0 && state.proposals[b] == Some(base));
        let (value, applied) = if is_own {
            (base, true)
        } else {
            let next = base.changed_by(&round.ask.real(node, own));
            round.sent |= if next.is_some() { 1 << round.ballot } else { 0 };
            (next.unwrap_or(base), next.is_some())
        };
        state.proposals[usize::from(round.ballot)] = Some(value);
        round.accepting = Some(applied);
        round.answers = [None; 3];
    }

    /// Whether a voter that is asked to accept would say, or remember, something new.
    pub fn may_accept(&self, state: &State, at: usize, ballot: u8) -> bool {
        let voter = &state.voters[at];
        if ballot == 0 || voter.is_mute || voter.promised > ballot || state.proposals[usize::from(ballot)].is_none() {
            return false;
        }
        let asker = (0..COPIES).find_map(|node| state.rounds[node].filter(|round| round.ballot == ballot));
        let answered = asker.filter(|round| round.accepting.is_some()).map(|round| round.answers[at]);
        let is_news = answered.is_some_and(|answer| answer.is_none_or(|answer| answer.table[at] != voter.table[at]));
        is_news || voter.accepted != Some(ballot)
    }

    pub fn accept(&self, state: &mut State, at: usize, ballot: u8) {
        let voter = &mut state.voters[at];
        (voter.promised, voter.accepted) = (ballot, Some(ballot));
        for round in state.rounds.iter_mut().flatten() {
            if round.ballot == ballot && round.accepting.is_some() {
                round.answers[at] = Some(Answer { table: voter.table, accepted: None });
            }
        }
    }

    /// A majority has accepted: the round is over.
    pub fn end(&self, state: &mut State, node: usize) {
        let Some(round) = state.rounds[node].take() else { return };
        let chosen = state.proposals[usize::from(round.ballot)].expect("it was proposed");
        let place = &mut state.chosen[usize::from(chosen.version)];
        state.has_forked |= place.is_some_and(|other| other != chosen);
        state.has_forgotten |= chosen.version < round.floor;
        *place = Some(chosen);
        self.on_round(state, node, chosen, round.accepting == Some(true), round.ask == Ask::Observe);
    }

    /// A voter's disk is emptied, or one without memory starts anew: it takes a later id.
    pub fn forget(&self, state: &mut State, at: usize) {
        let id = state.wipes + state.crashes;
        let mut table = [0; VOTERS];
        let is_mute = self.fault != Some(Fault::WipedVoterVotesAtOnce);
        if is_mute {
            table[at] = id;
        }
        state.voters[at] = Voter { is_mute, promised: 0, accepted: None, table, seeds: [None; VOTERS] };
    }

    /// Whether the voter `by` would record the new id of the one at `at`.
    pub fn may_record(&self, state: &State, at: usize, by: usize) -> bool {
        let (mute, voter) = (&state.voters[at], &state.voters[by]);
        at != by && mute.is_mute && !voter.is_mute && mute.seeds[by].is_none() && mute.table[at] >= voter.table[at]
    }

    pub fn record(&self, state: &mut State, at: usize, by: usize) {
        let id = state.voters[at].table[at];
        let voter = &mut state.voters[by];
        if self.fault != Some(Fault::NewIdIsNotRecorded) {
            voter.table[at] = id;
        }
        let seed = Seed { promised: voter.promised, accepted: voter.accepted, table: voter.table };
        state.voters[at].seeds[by] = Some(seed);
        self.vote_again(state, at);
    }

    /// Once a majority without itself has told it what it needs, a voter votes again: to do so later would be as if it
    /// were asked later.
    fn vote_again(&self, state: &mut State, at: usize) {
        let pair = others(at);
        let voter = &mut state.voters[at];
        if !self.counts(pair, pair.map(|by| voter.seeds[by].map(|seed| seed.table))) {
            return;
        }
        let seeds = std::mem::take(&mut voter.seeds);
        for seed in seeds.iter().flatten() {
            voter.promised = voter.promised.max(seed.promised);
            voter.accepted = voter.accepted.max(seed.accepted);
            voter.table = std::array::from_fn(|seat| voter.table[seat].max(seed.table[seat]));
        }
        voter.is_mute = false;
    }

    /// Proposals that no voter accepts any more and none has accepted last are of no consequence: worlds that differ
    /// only in them are one.
    pub fn drop_dead_proposals(&self, state: &mut State) {
        if state.voters.iter().any(|voter| voter.is_mute) || self.fault == Some(Fault::WipedVoterVotesAtOnce) {
            return;
        }
        for ballot in 1..BALLOTS {
            let number = ballot as u8;
            let is_alive = state.voters.iter().any(|v| v.promised <= number || v.accepted == Some(number));
            let is_of = |round: &Round| round.ballot == number || round.sent & (1 << ballot) != 0;
            let is_told = |round: &Round| round.answers.iter().flatten().any(|a| a.accepted == Some(number));
            if !is_alive && !state.rounds.iter().flatten().any(|round| is_of(round) || is_told(round)) {
                state.proposals[ballot] = None;
            }
        }
    }
}

fn others(at: usize) -> [usize; 2] {
    [(at + 1) % VOTERS, (at + 2) % VOTERS]
}

/// The lowest ballot of this node above `above`: each node has its own.
fn next_ballot(node: usize, above: u8) -> u8 {
    let next = above + 1;
    if usize::from(next) % COPIES == node { next } else { next + 1 }
}
