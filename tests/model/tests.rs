//! Owns: the invariants, the instances, and the mistakes that each must be found.
//! Never: a step of the protocol.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::state::{COPIES, State, VOTERS};
use super::{Fault, Shard};

const ONE: &str = "one chosen configuration per version";
const EPOCH: &str = "an epoch has one primary";
const RECORD: &str = "(epoch, lsn) names one record";
const MEMBERS: &str = "every committed record is at every member of every chosen configuration";
const PREFIX: &str = "what is committed is one log";
const LEASE: &str = "at most one primary may read at any true time";
const READ: &str = "an answered write is seen by every later read";
const MEMORY: &str = "a wiped voter forms no quorum that forgets what was chosen";

const INVARIANTS: [&str; 8] = [ONE, EPOCH, RECORD, MEMBERS, PREFIX, LEASE, READ, MEMORY];

/// What must hold in every state; and what must be reached, or the model would show nothing.
pub(super) fn properties(shard: &Shard) -> Vec<Property<Shard>> {
    let mut properties = vec![
        Property::always(ONE, |_, state: &State| !state.has_forked),
        Property::always(EPOCH, |_, state: &State| {
            (0..COPIES).any(|node| state.lead(node).is_none()) || state.copies[0].epoch != state.copies[1].epoch
        }),
        Property::always(RECORD, |_, state: &State| {
            let mut pairs = state.copies[0].log.records().iter().zip(state.copies[1].log.records());
            pairs.all(|(a, b)| a.epoch != b.epoch || a == b)
        }),
        Property::always(MEMBERS, |_, state: &State| {
            let newest = state.newest();
            let mut members = state.copies.iter().enumerate().filter(|(node, copy)| newest.holds(*node, copy.store));
            members.all(|(_, copy)| copy.log.begins_with(&state.ledger))
        }),
        Property::always(PREFIX, |_, state: &State| !state.has_diverged),
        Property::always(LEASE, |_, state: &State| (0..COPIES).filter(|node| state.may_read(*node)).count() <= 1),
        Property::always(READ, |_, state: &State| {
            let sees_all = |node: usize| state.lead(node).is_some_and(|lead| lead.committed >= state.ledger.end);
            !state.has_read_stale && (0..COPIES).all(|node| !state.may_read(node) || sees_all(node))
        }),
        Property::always(MEMORY, |_, state: &State| !state.has_forgotten),
    ];
    if shard.fault.is_none() {
        properties.extend(reached(shard));
    }
    properties
}

/// What an instance with such bounds must come to.
fn reached(shard: &Shard) -> Vec<Property<Shard>> {
    let mut all: Vec<(bool, Property<Shard>)> = Vec::new();
    all.push((
        shard.writes > 0,
        Property::sometimes("the other copy takes over and answers a write", |_, state: &State| {
            let is_later = state.ledger.records().iter().any(|record| record.epoch > 1);
            is_later && state.lead(1).is_some_and(|lead| lead.committed > 0)
        }),
    ));
    all.push((
        shard.rounds > 1,
        Property::sometimes("a copy that was removed is in sync again", |_, state: &State| {
            state.newest().has_both() && state.newest().version == 3
        }),
    ));
    all.push((
        shard.lease > 0 && shard.rounds > 1,
        Property::sometimes("a copy that took over reads by a lease", |_, state: &State| {
            state.requires_other(1) && state.may_read(1)
        }),
    ));
    all.push((
        shard.wipes > 0 && shard.rounds > 1,
        Property::sometimes("a copy with an emptied disk is in sync again", |_, state: &State| {
            state.newest().in_sync.iter().any(|store| usize::from(*store) > COPIES)
        }),
    ));
    all.push((
        shard.wipes > 0,
        Property::sometimes("a voter that was re-seeded answers a round", |_, state: &State| {
            let mut rounds = state.rounds.iter().flatten();
            rounds.any(|round| (0..VOTERS).any(|at| round.answers[at].is_some_and(|answer| answer.table[at] > 0)))
        }),
    ));
    all.push((
        shard.crashes > 0,
        Property::sometimes("a primary that started anew leads", |_, state: &State| {
            state.newest().primary == 0 && state.newest().epoch > 1 && state.lead(0).is_some_and(|lead| lead.is_settled)
        }),
    ));
    all.push((
        shard.handovers > 0,
        Property::sometimes("the lead is handed over, and both stay in sync", |_, state: &State| {
            state.newest().has_both()
                && state.newest().version == 2
                && state.lead(1).is_some_and(|lead| lead.is_settled)
        }),
    ));
    all.into_iter().filter(|(is_due, _)| *is_due).map(|(_, property)| property).collect()
}

/// No harm, no leases: other bounds are set from here.
const CALM: Shard =
    Shard { rounds: 2, writes: 1, crashes: 0, wipes: 0, harms: 0, handovers: 0, lease: 0, grace: 0, fault: None };
/// A grace is one tick longer than a lease, as much as one clock may gain on the other.
const LEASES: Shard = Shard { lease: 1, grace: 2, ..CALM };

/// Explores all of it; every invariant holds, and what must be reached is.
fn holds(name: &str, shard: &Shard) {
    let begun = Instant::now();
    let checker = shard.clone().checker().threads(2).spawn_dfs().join();
    let (states, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    println!("{name}: {states} states, {steps} steps, {depth} deep, {:.1} s: {shard:?}", begun.elapsed().as_secs_f64());
    assert!(checker.is_done());
    checker.assert_properties();
}

/// Finds a short way in which one of the invariants breaks by this mistake. Without it the same instance is explored,
/// itself or as a part of a larger one, by [`holds`].
fn breaks(shard: &Shard, fault: Fault, invariants: &[&'static str]) {
    let begun = Instant::now();
    let any = HasDiscoveries::AnyOf(INVARIANTS.iter().copied().collect());
    let with = Shard { fault: Some(fault), ..shard.clone() };
    let checker = with.checker().threads(2).finish_when(any).spawn_bfs().join();
    let found: Vec<_> = checker.discoveries().into_iter().filter(|(name, _)| INVARIANTS.contains(name)).collect();
    let (states, taken_s) = (checker.unique_state_count(), begun.elapsed().as_secs_f64());
    for (name, path) in &found {
        let steps: Vec<String> = path.clone().into_actions().iter().map(|step| format!("{step:?}")).collect();
        println!("{fault:?}, {states} states, {taken_s:.1} s: not \"{name}\": {}", steps.join(", "));
    }
    assert!(found.iter().any(|(name, _)| invariants.contains(name)), "{fault:?} is not found in {states} states");
}

/// Instances that take minutes are for `DKV_MODEL=large`.
fn is_large() -> bool {
    std::env::var("DKV_MODEL").is_ok_and(|size| size == "large")
}

/// Of one harm: a process that dies, or a disk that is emptied.
fn harmed(shard: Shard) -> Shard {
    Shard { crashes: 1, wipes: 1, harms: 1, ..shard }
}

#[test]
fn rounds_with_a_crash_or_an_emptied_disk() {
    holds("confirmed reads, one harm", &harmed(CALM));
}

#[test]
fn rounds_of_two_copies_that_contend() {
    holds("confirmed reads", &Shard { rounds: 3, ..CALM });
}

#[test]
fn leases_and_takeovers() {
    holds("leases", &LEASES);
    holds("leases, one harm", &harmed(Shard { rounds: 1, ..LEASES }));
}

#[test]
fn a_handover() {
    holds("handover", &Shard { handovers: 1, ..CALM });
    holds("handover, leases", &Shard { rounds: 1, handovers: 1, ..LEASES });
}

#[test]
fn large_rounds() {
    if is_large() {
        holds("large: confirmed reads, one harm", &harmed(Shard { rounds: 3, ..CALM }));
        holds("large: confirmed reads, two harms", &Shard { crashes: 1, wipes: 1, harms: 2, ..CALM });
        holds("large: confirmed reads", &Shard { rounds: 4, ..CALM });
        holds("large: handover, one harm", &harmed(Shard { handovers: 1, ..CALM }));
    }
}

#[test]
fn large_leases() {
    if is_large() {
        holds("large: leases, one harm", &harmed(LEASES));
        holds("large: leases", &Shard { rounds: 3, ..LEASES });
        holds("large: leases, two writes", &Shard { lease: 2, grace: 3, writes: 2, ..LEASES });
        holds("large: leases, handover", &Shard { handovers: 1, ..LEASES });
    }
}

#[test]
fn large_restarts_with_leases() {
    if is_large() {
        let shard = Shard { rounds: 3, writes: 0, crashes: 1, harms: 1, ..LEASES };
        holds("large: leases, a crash", &shard);
        breaks(&shard, Fault::GrantsBeforeItsRound, &[LEASE]);
    }
}

#[test]
fn a_mistake_with_leases_is_found() {
    let once = Shard { rounds: 1, ..LEASES };
    let crash = Shard { writes: 0, crashes: 1, harms: 1, ..once };
    breaks(&once, Fault::LeaseFromReceipt, &[LEASE, READ]);
    breaks(&once, Fault::GraceNoLongerThanTheLease, &[LEASE, READ]);
    breaks(&once, Fault::CandidateGrants, &[LEASE, READ]);
    breaks(&crash, Fault::NoWaitAfterBoot, &[LEASE]);
}

#[test]
fn a_mistake_with_emptied_voters_is_found() {
    let wiped = Shard { writes: 0, wipes: 1, harms: 1, ..CALM };
    breaks(&wiped, Fault::WipedVoterVotesAtOnce, &[ONE, MEMORY]);
    breaks(&wiped, Fault::SupersededAnswersCount, &[ONE, MEMORY]);
    breaks(&wiped, Fault::NewIdIsNotRecorded, &[ONE, MEMORY]);
}

#[test]
fn a_mistake_with_what_is_committed_is_found() {
    breaks(&CALM, Fault::CommitBeforeTheShrinkIsChosen, &[MEMBERS]);
    breaks(&CALM, Fault::TakenInBeforeRequired, &[MEMBERS]);
    breaks(&Shard { rounds: 1, crashes: 1, harms: 1, ..CALM }, Fault::ServesBeforeSettled, &[READ]);
}
