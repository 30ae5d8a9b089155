//! Owns: the copies (`node/copy.rs`, `node/followers.rs`, `node/lease.rs`) and the log's way between them.
//!
//! What is written to a log is durable at once; a copy answers in one step with what it takes. A primary commits, and
//! asks for changes, as late as it likes.
//! Never: how a change comes to be chosen.

use dkv::id::{Epoch, Lsn};
use dkv::node::lineage;

use super::state::{Ask, COPIES, Conf, Copy, Lane, Lead, Log, Record, Role, State, Told};
use super::{Fault, Shard};

impl Shard {
    /// The round that a copy needs or may need, `Copy::wanted`. A primary may remove the other copy for any reason.
    pub fn wanted(&self, state: &State, node: usize) -> Option<Ask> {
        let copy = &state.copies[node];
        let conf = state.conf(copy.known);
        match copy.role {
            Role::Unknown => Some(Ask::Observe),
            Role::Candidate(ask) => Some(ask),
            Role::Stopped => Some(Ask::Restart),
            Role::Following { .. } => {
                let is_in_sync = conf.is_some_and(|c| c.holds(node, copy.store) && c.epoch == copy.epoch);
                let takes_over = copy.grace == 0 && is_in_sync && copy.is_whole;
                let take_over = Ask::TakeOver { epoch: copy.epoch, keeps_old: false };
                takes_over.then_some(take_over).or((!copy.has_observed).then_some(Ask::Observe))
            }
            Role::Leading(lead) => {
                let epoch = copy.epoch;
                match conf.map_or(0, |conf| conf.in_sync[1 - node]) {
                    0 => {
                        let has_all = lead.is_up && lead.is_whole && lead.is_settled && lead.acked == copy.log.end;
                        has_all.then_some(Ask::Grow { epoch, other: lead.other })
                    }
                    other => Some(Ask::Shrink { epoch, other }),
                }
            }
        }
    }

    pub fn ask(&self, state: &mut State, node: usize, ask: Ask) {
        let copy = &mut state.copies[node];
        match (&mut copy.role, ask) {
            (Role::Leading(lead), Ask::Grow { .. }) => {
                lead.is_joining = self.fault != Some(Fault::TakenInBeforeRequired);
            }
            (Role::Following { .. }, Ask::TakeOver { .. }) if self.fault != Some(Fault::CandidateGrants) => {
                copy.role = Role::Candidate(ask);
            }
            (Role::Stopped, _) => copy.role = Role::Candidate(ask),
            _ => {}
        }
        self.begin(state, node, ask);
    }

    /// `Copy::on_settled` and `Copy::on_observed`.
    pub fn on_round(&self, state: &mut State, node: usize, chosen: Conf, applied: bool, observes: bool) {
        let copy = &mut state.copies[node];
        copy.has_observed = true;
        if observes && matches!(copy.role, Role::Candidate(_)) {
            return self.learn(state, node, chosen);
        }
        let newer = state.chosen[usize::from(copy.known)].filter(|known| known.version > chosen.version);
        let (chosen, applied) = newer.map_or((chosen, applied), |newer| (newer, false));
        let is_candidate = matches!(copy.role, Role::Candidate(_))
            || (self.fault == Some(Fault::CandidateGrants) && chosen.epoch > copy.epoch);
        let leads = applied && is_candidate && chosen.epoch > copy.epoch;
        if leads && usize::from(chosen.primary) == node && chosen.holds(node, copy.store) {
            copy.epoch = chosen.epoch;
            copy.known = chosen.version;
            copy.grace = 0;
            copy.role = Role::Leading(Lead::new(copy.log.end));
            return;
        }
        if is_candidate && chosen.epoch >= copy.epoch {
            copy.role = Role::Unknown;
        }
        if let Role::Leading(lead) = &mut copy.role
            && chosen.epoch == copy.epoch
        {
            lead.is_joining = false;
        }
        self.learn(state, node, chosen);
    }

    /// `Copy::learn`.
    pub fn learn(&self, state: &mut State, node: usize, chosen: Conf) {
        let copy = &mut state.copies[node];
        if let Role::Leading(lead) = &mut copy.role
            && chosen.epoch == copy.epoch
        {
            if chosen.version > copy.known {
                copy.known = chosen.version;
                lead.is_joining &= chosen.in_sync[1 - node] == 0;
            }
            return;
        }
        if chosen.version > copy.known && chosen.epoch >= copy.epoch {
            copy.known = chosen.version;
        }
        let rises = chosen.epoch > copy.epoch;
        let is_placed = match copy.role {
            Role::Unknown => true,
            Role::Leading(_) | Role::Stopped | Role::Following { .. } => rises,
            Role::Candidate(_) => false,
        };
        if is_placed {
            self.place(copy, node, chosen);
        }
    }

    fn place(&self, copy: &mut Copy, node: usize, chosen: Conf) {
        copy.epoch = copy.epoch.max(chosen.epoch);
        if usize::from(chosen.primary) == node && chosen.holds(node, copy.store) && copy.is_whole {
            copy.role = Role::Candidate(Ask::Restart);
            copy.grace = 0;
        } else {
            copy.role = Role::Following { primary: chosen.primary, is_matched: false };
            copy.grace = if self.fault == Some(Fault::NoWaitAfterBoot) { 0 } else { self.grace };
        }
    }

    /// Whether the other copy would follow the primary at `node` now, `Copy::on_follow`; not where it does already.
    pub fn may_follow(&self, state: &State, node: usize) -> bool {
        let (copy, other) = (&state.copies[node], &state.copies[1 - node]);
        if !matches!(copy.role, Role::Leading(_)) || copy.epoch < other.epoch {
            return false;
        }
        let is_newer = copy.epoch > other.epoch;
        match other.role {
            Role::Following { primary, is_matched } => is_newer || (usize::from(primary) == node && !is_matched),
            Role::Unknown => true,
            Role::Candidate(_) => is_newer || may_return(state, 1 - node),
            Role::Leading(_) | Role::Stopped => is_newer,
        }
    }

    /// The other copy follows: its log becomes a part of the primary's.
    pub fn follow(&self, state: &mut State, node: usize) {
        let [primary, mut other] = [state.copies[node], state.copies[1 - node]];
        if matches!(other.role, Role::Candidate(_)) && other.epoch == primary.epoch {
            state.rounds[1 - node] = None;
        }
        let shared = shared(&other.log, &primary.log);
        if other.is_whole {
            other.log.cut(shared);
        } else {
            other.log = Log::default();
            other.is_whole = primary.log.end == 0;
        }
        other.epoch = primary.epoch;
        other.known = other.known.max(primary.known);
        other.role = Role::Following { primary: node as u8, is_matched: true };
        other.grace = self.grace;
        state.copies[1 - node] = other;
        let Some(lead) = state.lead_mut(node) else { return };
        if lead.other != other.store {
            lead.lease = 0;
        }
        (lead.is_up, lead.other, lead.is_whole, lead.acked) = (true, other.store, other.is_whole, other.log.end);
    }

    fn follows(state: &State, node: usize) -> bool {
        let (copy, primary) = (&state.copies[node], &state.copies[1 - node]);
        matches!(copy.role, Role::Following { primary, is_matched: true } if usize::from(primary) != node)
            && matches!(primary.role, Role::Leading(_))
            && copy.epoch == primary.epoch
    }

    /// Whether a record of the primary at `node` can reach the other copy.
    pub fn may_append(&self, state: &State, node: usize) -> bool {
        Self::follows(state, 1 - node) && state.copies[1 - node].log.end < state.copies[node].log.end
    }

    pub fn append(&self, state: &mut State, node: usize) {
        let log = state.copies[node].log;
        let other = &mut state.copies[1 - node];
        other.log.push(log.records()[usize::from(other.log.end)]);
        other.is_whole |= other.log.end == log.end;
        let (acked, is_whole) = (other.log.end, other.is_whole);
        if let Some(lead) = state.lead_mut(node) {
            (lead.acked, lead.is_whole) = (acked, is_whole);
        }
    }

    pub fn may_write(&self, state: &State, node: usize) -> bool {
        state.writes < self.writes && state.lead(node).is_some_and(|lead| lead.is_settled)
    }

    pub fn write(&self, state: &mut State, node: usize) {
        state.writes += 1;
        let copy = &mut state.copies[node];
        copy.log.push(Record { epoch: copy.epoch, write: state.writes });
    }

    /// How far all is committed, and whether the primary may answer, `Copy::advance`.
    fn advanced(&self, state: &State, node: usize) -> Option<(u8, bool)> {
        let (copy, lead) = (&state.copies[node], state.lead(node)?);
        let conf = state.conf(copy.known)?;
        let named = conf.in_sync[1 - node];
        let counts = lead.is_up && lead.is_whole && (named == 0 || named == lead.other);
        let shrinks = matches!(state.rounds[node], Some(round) if matches!(round.ask, Ask::Shrink { .. }));
        let is_required =
            state.requires_other(node) && !(shrinks && self.fault == Some(Fault::CommitBeforeTheShrinkIsChosen));
        let committed = match (is_required, counts) {
            (false, _) => copy.log.end,
            (true, true) => copy.log.end.min(lead.acked),
            (true, false) => 0,
        };
        let settles = committed >= lead.begins_behind && (!is_required || counts);
        let is_settled = lead.is_settled || settles || self.fault == Some(Fault::ServesBeforeSettled);
        let committed = if is_settled { committed.max(lead.committed) } else { lead.committed };
        Some((committed, is_settled))
    }

    pub fn may_commit(&self, state: &State, node: usize) -> bool {
        let before = state.lead(node).map(|lead| (lead.committed, lead.is_settled));
        before.is_some() && self.advanced(state, node) != before
    }

    /// Commits; what is committed may be answered, and seen, from this moment.
    pub fn commit(&self, state: &mut State, node: usize) {
        let Some((committed, is_settled)) = self.advanced(state, node) else { return };
        let mut log = state.copies[node].log;
        log.cut(committed);
        if log.begins_with(&state.ledger) {
            state.ledger = log;
        } else {
            state.has_diverged |= !state.ledger.begins_with(&log);
        }
        if let Some(lead) = state.lead_mut(node) {
            (lead.committed, lead.is_settled) = (committed, is_settled);
        }
    }

    pub fn may_beacon(&self, state: &State, node: usize) -> bool {
        self.lease > 0 && state.lead(node).is_some_and(|lead| lead.lane == Lane::Empty && lead.is_up)
    }

    pub fn beacon(&self, state: &mut State, node: usize) {
        if let Some(lead) = state.lead_mut(node) {
            lead.lane = Lane::Beacon(0);
        }
    }

    /// Whether the other copy grants what the beacon of the primary at `node` asks for, `Copy::may_grant`.
    pub fn may_grant(&self, state: &State, node: usize) -> bool {
        let has_observed = state.copies[1 - node].has_observed || self.fault == Some(Fault::GrantsBeforeItsRound);
        matches!(state.lead(node), Some(Lead { lane: Lane::Beacon(_), .. }))
            && Self::follows(state, 1 - node)
            && has_observed
    }

    pub fn grant(&self, state: &mut State, node: usize) {
        let is_short = self.fault == Some(Fault::GraceNoLongerThanTheLease);
        state.copies[1 - node].grace = if is_short { self.lease } else { self.grace };
        if let Some(lead) = state.lead_mut(node)
            && let Lane::Beacon(age) = lead.lane
        {
            lead.lane = Lane::Grant(age);
        }
    }

    pub fn take_grant(&self, state: &mut State, node: usize) {
        let from_receipt = self.fault == Some(Fault::LeaseFromReceipt);
        if let Some(lead) = state.lead_mut(node)
            && let Lane::Grant(age) = lead.lane
        {
            lead.lease = lead.lease.max(if from_receipt { self.lease } else { self.lease.saturating_sub(age) });
            lead.lane = Lane::Empty;
        }
    }

    /// One tick of true time. A clock may show it before the other does, but gains no second tick before that.
    pub fn tick(&self, state: &mut State, clocks: [bool; COPIES]) {
        if clocks[0] != clocks[1] {
            state.is_ahead = clocks[0];
        }
        for (copy, _) in state.copies.iter_mut().zip(clocks).filter(|(_, ticks)| *ticks) {
            copy.grace = copy.grace.saturating_sub(1);
            if let Role::Leading(lead) = &mut copy.role {
                lead.lease = lead.lease.saturating_sub(1);
                lead.lane = match lead.lane {
                    Lane::Beacon(age) => self.aged(age).map_or(Lane::Empty, Lane::Beacon),
                    Lane::Grant(age) => self.aged(age).map_or(Lane::Empty, Lane::Grant),
                    Lane::Empty => Lane::Empty,
                };
            }
        }
    }

    /// A beacon that is older than the lease is of no use to anybody, and so is its grant.
    fn aged(&self, age: u8) -> Option<u8> {
        let is_over = age + 1 >= self.lease;
        match self.fault {
            Some(Fault::LeaseFromReceipt) => Some(self.lease.min(age + 1)),
            _ => (!is_over).then_some(age + 1),
        }
    }

    /// Whether a read that comes now would miss what was answered before, if it were answered.
    pub fn may_read_stale(&self, state: &State, node: usize) -> bool {
        state
            .lead(node)
            .is_some_and(|lead| lead.is_settled && lead.stale_read.is_none() && lead.committed < state.ledger.end)
    }

    pub fn may_confirm(&self, state: &State, node: usize) -> bool {
        state.lead(node).is_some_and(|lead| lead.stale_read == Some(false))
            && Self::follows(state, 1 - node)
            && state.copies[1 - node].has_observed
    }

    pub fn may_answer(&self, state: &State, node: usize) -> bool {
        let is_confirmed = |lead: &Lead| lead.stale_read == Some(true);
        state
            .lead(node)
            .is_some_and(|lead| lead.stale_read.is_some() && (is_confirmed(lead) || !state.requires_other(node)))
    }

    pub fn may_hand_over(&self, state: &State, node: usize) -> bool {
        let copy = &state.copies[node];
        state.handovers < self.handovers
            && state.lead(node).is_some_and(|lead| lead.is_settled && lead.is_up)
            && state.conf(copy.known).is_some_and(|conf| conf.in_sync[1 - node] != 0)
    }

    /// A primary stops for good in its epoch and tells the other to lead: in order, or because its disk hangs.
    pub fn hand_over(&self, state: &mut State, node: usize, keeps_old: bool) {
        state.handovers += 1;
        let copy = &mut state.copies[node];
        copy.role = Role::Stopped;
        state.told = Some(Told { to: 1 - node as u8, epoch: copy.epoch, keeps_old });
    }

    /// Whether a copy that is told to lead does so, `Copy::on_lead`.
    pub fn may_be_told(&self, state: &State, node: usize) -> bool {
        let copy = &state.copies[node];
        state.told.is_some_and(|told| {
            let conf = state.conf(copy.known);
            usize::from(told.to) == node
                && matches!(copy.role, Role::Following { primary, .. } if usize::from(primary) != node)
                && copy.epoch == told.epoch
                && conf.is_some_and(|conf| conf.holds(node, copy.store) && conf.epoch == told.epoch)
                && copy.is_whole
        })
    }

    pub fn be_told(&self, state: &mut State, node: usize) {
        if let Some(told) = state.told.take() {
            let ask = Ask::TakeOver { epoch: told.epoch, keeps_old: told.keeps_old };
            state.copies[node].role = Role::Candidate(ask);
            state.copies[node].grace = 0;
        }
    }

    /// The process dies and starts again; its disk keeps everything.
    pub fn crash(&self, state: &mut State, node: usize) {
        state.crashes += 1;
        if state.voters[node].is_mute {
            self.forget(state, node);
        }
        self.restart(state, node);
    }

    /// Its disk is emptied: the copy is another one, and the voter one without memory.
    pub fn wipe(&self, state: &mut State, at: usize) {
        state.wipes += 1;
        self.forget(state, at);
        if at < COPIES {
            let store = COPIES as u8 + state.wipes;
            let copy = &mut state.copies[at];
            (copy.store, copy.is_whole, copy.log, copy.epoch) = (store, false, Log::default(), 0);
            self.restart(state, at);
        }
    }

    fn restart(&self, state: &mut State, node: usize) {
        state.rounds[node] = None;
        let copy = &mut state.copies[node];
        (copy.known, copy.has_observed, copy.role, copy.grace) = (0, false, Role::Unknown, 0);
    }
}

/// A copy that was about to take over may follow again, if nothing was sent that could be chosen.
fn may_return(state: &State, node: usize) -> bool {
    matches!(state.copies[node].role, Role::Candidate(Ask::TakeOver { .. }))
        && state.rounds[node].is_none_or(|round| round.sent == 0)
}

/// Up to where two logs are the same, by the product's own rule.
fn shared(mine: &Log, theirs: &Log) -> u8 {
    let lineage = |log: &Log| {
        let mut lineage: Vec<(Epoch, Lsn)> = Vec::new();
        for (at, record) in log.records().iter().enumerate() {
            let epoch = Epoch(u64::from(record.epoch));
            if lineage.last().is_none_or(|(last, _)| *last != epoch) {
                lineage::begin(&mut lineage, epoch, Lsn(at as u64));
            }
        }
        lineage
    };
    let end = |log: &Log| Lsn(u64::from(log.end));
    let point = lineage::common_point(&lineage(mine), end(mine), &lineage(theirs), end(theirs));
    point.expect("a lineage of a whole log reaches back to its beginning").0 as u8
}

impl Lead {
    pub fn new(begins_behind: u8) -> Self {
        Self {
            begins_behind,
            is_settled: false,
            committed: 0,
            is_up: false,
            other: 0,
            is_whole: false,
            acked: 0,
            is_joining: false,
            lease: 0,
            lane: Lane::Empty,
            stale_read: None,
        }
    }
}
