//! Owns: this node's copy of its shard: which role it has in which epoch, and what it may do.
//!
//! ```text
//!            register read                 own round chosen          epoch persisted, one tail
//!  Unknown ───────────────→ Candidate ───────────────────→ Leading ─────────────────────→ (serves)
//!     │                        ↑   ↑                          │
//!     └──→ Following ──────────┘   └────── Stopped ←──────────┘ handover, ahead, damage, hung disk
//!             ↑    grace over, or told to lead      │
//!             └─── a newer epoch's primary asks ←───┘ (from every role)
//! ```
//!
//! Invariants: the epoch never goes back. A copy leads an epoch only if a round of its own, in this run of its process,
//! chose that. A candidate grants, confirms and acknowledges nothing until its round has ended, or was given up before
//! anything was sent that could be chosen. A copy that has stopped in an epoch never serves in it again.
//!
//! Never: what the records hold, how they travel; sockets, files, clocks.

use super::Barrier;
use super::followers::{Followers, Lease, Strikes};
use super::lease::{BootNs, MS, Timing, grace_ms};
use crate::configuration::{Change, Configuration, MOST_FORCED, Member};
use crate::id::{Epoch, LinkId, Lsn, NodeId};
use crate::wire::{Beacon, CopyState};

/// A copy that follows.
#[derive(Debug)]
pub struct Following {
    /// Whom.
    pub primary: NodeId,
    /// The data link by which the primary's log comes, and whether this copy's log has been made a part of it.
    pub link: Option<LinkId>,
    /// See `link`.
    pub is_matched: bool,
    /// What the primary said that it has committed, of what is matched.
    pub known_committed: Lsn,
    /// Not before this it may take over.
    pub grace_until_ns: BootNs,
    /// When it last asked the register, for want of a primary.
    observed_ns: BootNs,
}

/// A copy that leads.
#[derive(Debug)]
pub struct Leading {
    /// The others.
    pub followers: Followers,
    /// Its epoch is durable.
    pub is_persisted: bool,
    /// Where its log ended when the epoch began: all of that is committed before it answers.
    pub begins_behind: Lsn,
    /// That is so.
    pub is_settled: bool,
    /// The last that is committed.
    pub committed: Lsn,
    /// A copy that was forced to lead answers nothing before the leases that it granted have run out.
    pub silent_until_ns: BootNs,
    /// It is to hand over.
    pub handing: Option<Handing>,
}

/// A primary's way out of its role, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handing {
    /// To whom.
    pub to: NodeId,
    /// Then it gives that up.
    pub until_ns: BootNs,
    /// A round of the register that changes nothing has shown that there is a majority to carry the change. Before that,
    /// the primary serves as ever.
    pub is_agreed: bool,
}

#[derive(Debug)]
enum Role {
    /// The register has not been read.
    Unknown,
    Following(Following),
    /// A round of its own is to make it the primary.
    Candidate(Change),
    Leading(Box<Leading>),
    /// It led, and has stopped in that epoch for good. It leads again, in another, if nobody does by then.
    Stopped {
        until_ns: BootNs,
    },
}

/// Why a copy cannot serve its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotServing {
    /// It does not lead, or not yet: requests wait.
    Starting,
    /// Its data is damaged.
    Damaged,
}

/// What a change of role means for what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    None,
    /// It leads a new epoch, which is to be persisted.
    Begins,
    /// It led, and does not any more: all that waits is settled now.
    Deposed,
}

/// What becomes of a primary's word to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The copy follows, once its log is matched.
    Follows,
    /// There is a newer epoch: the primary should know.
    Stale,
    /// Not now: a round of its own is not over.
    Later,
}

/// See the module.
#[derive(Debug)]
pub struct Copy {
    /// Which copy it is. Another one after a full sync.
    pub me: Member,
    /// The other copies, and how often each was lost lately.
    others: Vec<(NodeId, Strikes)>,
    timing: Timing,
    disk_ms: u64,
    role: Role,
    configuration: Option<Configuration>,
    epoch: Epoch,
    is_damaged: bool,
    /// The damage was found while it ran: what its log holds is known, and much of that can be read.
    can_fill: bool,
    is_whole: bool,
    /// Somebody gave up what this copy lacks.
    is_cut: bool,
    /// When it last surely had everything; 0: it never has.
    fresh_ns: BootNs,
    /// A takeover before this could meet a lease that was granted before this process began.
    boot_until_ns: BootNs,
    /// Until then a lease that it granted may run.
    granted_until_ns: BootNs,
    /// A round of this process has ended: what an earlier run may have proposed is chosen, or never will be. Before that
    /// it grants nothing.
    has_observed: bool,
    now_ns: BootNs,
    ticked_ns: BootNs,
}

impl Copy {
    /// A copy as recovered. `grace_before_ms`: the largest grace that was ever granted.
    #[must_use]
    pub fn new(
        me: Member,
        others: Vec<NodeId>,
        epoch: Epoch,
        (failover_ms, disk_ms): (u64, u64),
        grace_before_ms: u64,
        now_ns: BootNs,
    ) -> Self {
        let timing = Timing::new(failover_ms);
        let boot_until_ns = now_ns + timing.grace_ms.max(grace_before_ms) * MS;
        Self {
            me,
            others: others.into_iter().map(|node| (node, Strikes::default())).collect(),
            timing,
            disk_ms,
            role: Role::Unknown,
            configuration: None,
            epoch,
            is_damaged: false,
            can_fill: false,
            is_whole: false,
            is_cut: false,
            fresh_ns: 0,
            boot_until_ns,
            granted_until_ns: boot_until_ns,
            has_observed: false,
            now_ns,
            ticked_ns: now_ns,
        }
    }

    /// The moment.
    pub fn at(&mut self, now_ns: BootNs) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// What its data is: damaged, and whether it has once had everything.
    pub fn set_health(&mut self, is_damaged: bool, is_whole: bool) {
        self.is_damaged |= is_damaged;
        self.is_whole = is_whole;
    }

    /// Its data was found damaged while it ran. Where no other copy is in sync it leads all the same, serves nobody, and
    /// fills another with what that lacks, if that can be read; that one leads then.
    pub fn found_damaged(&mut self) {
        (self.is_damaged, self.can_fill) = (true, true);
    }

    /// It cannot lead even for that: for its epoch to begin it would have to write.
    pub fn cannot_fill(&mut self) {
        self.can_fill = false;
    }

    /// Whether it may lead in order to fill another copy: nobody else could.
    #[must_use]
    pub fn is_to_fill(&self) -> bool {
        let is_alone = self.configuration.as_ref().is_some_and(|c| c.holds(self.me) && c.in_sync.len() == 1);
        self.can_fill && self.is_whole && is_alone
    }

    /// An operator cut its log, and so gave up what it lacks: where nobody else is in sync, it leads with what it has.
    pub fn set_cut(&mut self) {
        self.is_cut = true;
    }

    /// A full sync gave it other content: it is another copy now, and not the one that was about to lead.
    pub fn replaced(&mut self, me: Member, is_damaged: bool) {
        if self.is_candidate() {
            self.role = Role::Unknown;
        }
        self.me = me;
        (self.is_damaged, self.can_fill, self.is_whole) = (is_damaged, false, true);
        self.is_cut = false;
    }

    fn is_sound(&self) -> bool {
        !self.is_damaged && self.is_whole
    }

    /// The round that it needs, if any; the caller has none under way. `end`: of its log.
    pub fn wanted(&mut self, end: Lsn, is_stopping: bool) -> Option<Change> {
        let now_ns = self.now_ns;
        match &mut self.role {
            Role::Following(_) if !self.has_observed => Some(Change::Observe),
            Role::Unknown => Some(Change::Observe),
            Role::Candidate(change) => Some(*change),
            Role::Leading(leading) if leading.handing.is_some_and(|handing| !handing.is_agreed) => {
                Some(Change::Observe)
            }
            Role::Leading(leading) if leading.is_persisted => {
                // Before the log is settled nobody is taken in: it would hold that up.
                let committed = if leading.is_settled { leading.committed } else { Lsn(u64::MAX) };
                let due = match self.is_damaged {
                    false => leading.followers.due(end, committed, is_stopping, now_ns),
                    true => leading.followers.due_admission(end, committed, now_ns),
                };
                due.map(|(change, _)| change)
            }
            Role::Following(following) => {
                let is_due = now_ns >= following.grace_until_ns.max(following.observed_ns + self.timing.grace_ms * MS);
                if is_due {
                    following.observed_ns = now_ns;
                }
                is_due.then_some(Change::Observe)
            }
            _ => None,
        }
    }

    /// A round of its own is over.
    pub fn on_settled(&mut self, chosen: Configuration, applied: bool) -> Turn {
        self.has_observed = true;
        // A newer one may have been told while the round ran: then what it chose is over already.
        let newer = self.configuration.clone().filter(|known| known.version > chosen.version);
        let (chosen, applied) = newer.map_or((chosen, applied), |newer| (newer, false));
        let leads_by_this = applied && matches!(self.role, Role::Candidate(_)) && chosen.epoch > self.epoch;
        if leads_by_this && chosen.primary == self.me.node && chosen.holds(self.me) {
            self.epoch = chosen.epoch;
            // A start knows neither whether the force was a moment ago nor what was granted before it.
            let silent_until_ns = if chosen.forced > 0 { self.granted_until_ns } else { 0 };
            self.fresh_ns = self.now_ns;
            let followers = Followers::new(chosen.clone(), &self.others, self.timing, self.disk_ms, self.now_ns);
            self.configuration = Some(chosen);
            self.role = Role::Leading(Box::new(Leading {
                followers,
                is_persisted: false,
                begins_behind: Lsn::ZERO,
                is_settled: false,
                committed: Lsn::ZERO,
                silent_until_ns,
                handing: None,
            }));
            return Turn::Begins;
        }
        if let Role::Candidate(_) = self.role
            && chosen.epoch >= self.epoch
        {
            self.role = Role::Unknown;
        }
        if let Role::Leading(leading) = &mut self.role
            && chosen.epoch == self.epoch
        {
            leading.followers.on_settled(chosen.clone(), self.now_ns);
            keep_strikes(&mut self.others, &leading.followers);
            self.configuration = Some(chosen);
            return Turn::None;
        }
        self.learn(chosen)
    }

    /// A round that only asked is over: what this copy is about to do is not concerned.
    pub fn on_observed(&mut self, chosen: Configuration) -> Turn {
        if matches!(self.role, Role::Candidate(_)) {
            self.has_observed = true;
            return self.learn(chosen);
        }
        let turn = self.on_settled(chosen, false);
        if let Role::Leading(leading) = &mut self.role
            && let Some(handing) = &mut leading.handing
        {
            handing.is_agreed = true;
        }
        turn
    }

    /// A chosen configuration became known.
    pub fn learn(&mut self, chosen: Configuration) -> Turn {
        if let Role::Leading(leading) = &mut self.role
            && chosen.epoch == self.epoch
        {
            if chosen.version > leading.followers.configuration().version {
                leading.followers.learned(chosen.clone(), self.now_ns);
                keep_strikes(&mut self.others, &leading.followers);
                self.configuration = Some(chosen);
            }
            return Turn::None;
        }
        let is_news = self.configuration.as_ref().is_none_or(|known| chosen.version > known.version);
        let epoch_rises = chosen.epoch > self.epoch;
        if is_news && chosen.epoch >= self.epoch {
            self.configuration = Some(chosen.clone());
        }
        match &self.role {
            Role::Leading(_) | Role::Stopped { .. } if epoch_rises => {
                let turn = if matches!(self.role, Role::Leading(_)) { Turn::Deposed } else { Turn::None };
                self.place(&chosen);
                turn
            }
            Role::Unknown => {
                self.place(&chosen);
                Turn::None
            }
            Role::Following(_) if epoch_rises => {
                self.place(&chosen);
                Turn::None
            }
            _ => Turn::None,
        }
    }

    /// Its place in a configuration that is news to it.
    fn place(&mut self, chosen: &Configuration) {
        let is_mine = chosen.primary == self.me.node && chosen.holds(self.me);
        let is_given_up = self.is_cut
            && !chosen.holds(self.me)
            && chosen.forced < MOST_FORCED
            && chosen.in_sync.iter().all(|member| member.node == self.me.node);
        self.note_fresh();
        self.epoch = self.epoch.max(chosen.epoch);
        if is_mine && (self.is_sound() || self.is_to_fill()) {
            self.role = Role::Candidate(Change::Restart(self.me));
        } else if is_given_up && self.is_sound() {
            self.role = Role::Candidate(Change::Force(self.me));
        } else {
            let grace_ns = self.timing.grace_ms * MS;
            self.role =
                Role::Following(self.follow_nobody_yet(chosen.primary, self.boot_until_ns.max(self.now_ns + grace_ns)));
        }
    }

    fn follow_nobody_yet(&self, primary: NodeId, grace_until_ns: BootNs) -> Following {
        Following {
            primary,
            link: None,
            is_matched: false,
            known_committed: Lsn::ZERO,
            grace_until_ns,
            observed_ns: self.now_ns,
        }
    }

    /// What time alone brings: a grace that is over, a handover that nobody took up. To be called after the sockets were
    /// drained, so that beacons that wait there count. Returns whether a handover was given up.
    pub fn tick(&mut self, is_stopping: bool) -> bool {
        let (now_ns, grace_ns) = (self.now_ns, self.timing.grace_ms * MS);
        // It was this process that stood still, and perhaps the primary with it.
        let spell_ns = now_ns - self.ticked_ns;
        let stood_still = spell_ns > grace_ns / 2;
        self.ticked_ns = now_ns;
        let (is_sound, is_to_fill) = (self.is_sound(), self.is_to_fill());
        match &mut self.role {
            Role::Following(following) => {
                if stood_still {
                    following.grace_until_ns = following.grace_until_ns.max(now_ns + grace_ns);
                }
                let is_in_sync = self.configuration.as_ref().is_some_and(|c| c.holds(self.me) && c.epoch == self.epoch);
                if now_ns >= following.grace_until_ns && is_in_sync && is_sound && !is_stopping {
                    // It is out by that, and is taken in again as one that was removed for its silence.
                    let lost = self.others.iter_mut().filter(|(node, _)| *node == following.primary);
                    lost.for_each(|(_, strikes)| strikes.add(now_ns));
                    let change = Change::TakeOver { by: self.me, epoch: self.epoch, keeps_old: false };
                    self.role = Role::Candidate(change);
                }
            }
            Role::Stopped { until_ns } if now_ns >= *until_ns && (is_sound || is_to_fill) && !is_stopping => {
                self.role = Role::Candidate(Change::Restart(self.me));
            }
            Role::Leading(leading) if stood_still => leading.followers.stood_still(spell_ns, now_ns),
            Role::Leading(leading) if leading.handing.is_some_and(|handing| now_ns >= handing.until_ns) => {
                leading.handing = None;
                return true;
            }
            _ => {}
        }
        false
    }

    /// A primary asks to be followed. Where it is, what this copy did before is over.
    pub fn on_follow(&mut self, from: NodeId, link: LinkId, asked: &Configuration) -> (Verdict, Turn) {
        let is_stale = asked.epoch < self.epoch
            || asked.primary != from
            || (asked.epoch == self.epoch && !self.follows_or_may(from));
        if is_stale {
            return (Verdict::Stale, Turn::None);
        }
        if matches!(self.role, Role::Candidate(_)) && asked.epoch <= self.epoch {
            return (Verdict::Later, Turn::None);
        }
        let turn = if self.leads() { Turn::Deposed } else { Turn::None };
        let is_news = self.configuration.as_ref().is_none_or(|known| asked.version > known.version);
        if is_news {
            self.configuration = Some(asked.clone());
        }
        let grace_until_ns = match &self.role {
            Role::Following(following) => following.grace_until_ns,
            _ => self.boot_until_ns,
        };
        self.note_fresh();
        self.epoch = asked.epoch;
        let grace_ns = self.timing.grace_ms * MS;
        let mut following = self.follow_nobody_yet(from, grace_until_ns.max(self.now_ns + grace_ns));
        following.link = Some(link);
        self.role = Role::Following(following);
        (Verdict::Follows, turn)
    }

    /// Whether a primary of this very epoch can be this node.
    fn follows_or_may(&self, from: NodeId) -> bool {
        match &self.role {
            Role::Following(following) => following.primary == from,
            Role::Unknown => true,
            Role::Candidate(_) => self.configuration.as_ref().is_some_and(|c| c.primary == from),
            Role::Leading(_) | Role::Stopped { .. } => false,
        }
    }

    /// Its log was made a part of the primary's, by this link, and its epoch is durable.
    pub fn matched(&mut self, link: LinkId) -> bool {
        match &mut self.role {
            Role::Following(following) if following.link == Some(link) => {
                following.is_matched = true;
                true
            }
            _ => false,
        }
    }

    /// The primary's data link is gone.
    pub fn on_link_lost(&mut self, link: LinkId) {
        if let Role::Following(following) = &mut self.role
            && following.link == Some(link)
        {
            (following.link, following.is_matched) = (None, false);
        }
    }

    /// The primary whose log comes by this link, in this epoch, where this copy takes it.
    #[must_use]
    pub fn takes_from(&self, link: LinkId, epoch: Epoch) -> bool {
        matches!(&self.role, Role::Following(f) if f.link == Some(link) && f.is_matched && epoch == self.epoch)
    }

    /// Whether a beacon asks for what this copy may grant; the grace that it would owe then, in milliseconds.
    #[must_use]
    pub fn may_grant(&self, from: NodeId, beacon: &Beacon) -> Option<u64> {
        match &self.role {
            Role::Following(following)
                if self.has_observed
                    && following.primary == from
                    && following.is_matched
                    && beacon.epoch == self.epoch =>
            {
                Some(grace_ms(u64::from(beacon.lease_ms)))
            }
            _ => None,
        }
    }

    /// Grants it.
    pub fn grant(&mut self, grace_ms: u64) {
        if let Role::Following(following) = &mut self.role {
            following.grace_until_ns = following.grace_until_ns.max(self.now_ns + grace_ms * MS);
            self.granted_until_ns = self.granted_until_ns.max(self.now_ns + grace_ms * MS);
        }
    }

    /// Whether it confirms that it still follows.
    #[must_use]
    pub fn confirms(&self, from: NodeId, epoch: Epoch) -> bool {
        self.has_observed
            && matches!(&self.role, Role::Following(f) if f.primary == from && f.is_matched && epoch == self.epoch)
    }

    /// The primary said what it has committed.
    pub fn heard_committed(&mut self, committed: Lsn, own_committed: Lsn) {
        if let Role::Following(following) = &mut self.role {
            following.known_committed = following.known_committed.max(committed);
            if own_committed >= committed {
                self.fresh_ns = self.now_ns;
            }
        }
    }

    /// The primary has stopped, and tells this copy to lead.
    pub fn on_lead(&mut self, from: NodeId, epoch: Epoch, keeps_old: bool) {
        let is_told = matches!(&self.role, Role::Following(f) if f.primary == from) && epoch == self.epoch;
        let is_in_sync = self.configuration.as_ref().is_some_and(|c| c.holds(self.me) && c.epoch == epoch);
        if is_told && is_in_sync && self.is_sound() {
            self.role = Role::Candidate(Change::TakeOver { by: self.me, epoch, keeps_old });
        }
    }

    /// An operator forces it to lead.
    pub fn force(&mut self) -> Turn {
        let turn = if self.leads() { Turn::Deposed } else { Turn::None };
        self.note_fresh();
        self.role = Role::Candidate(Change::Force(self.me));
        turn
    }

    /// Its round was given up before anything was sent that could be chosen: it follows again.
    pub fn withdrawn(&mut self, primary: NodeId) {
        if let Role::Candidate(Change::TakeOver { .. }) = self.role {
            let grace_ns = self.timing.grace_ms * MS;
            self.role = Role::Following(self.follow_nobody_yet(primary, self.now_ns + grace_ns));
        }
    }

    /// When time alone may change something that the last [`Copy::tick`] has not.
    #[must_use]
    pub fn next_ns(&self) -> BootNs {
        let beat = self.ticked_ns + self.timing.beacon_ms * MS;
        match &self.role {
            Role::Leading(leading) => leading.followers.next_ns(self.ticked_ns),
            Role::Following(following) if following.grace_until_ns > self.ticked_ns => {
                following.grace_until_ns.min(beat)
            }
            _ => beat,
        }
    }

    /// Whether a takeover from this primary in this epoch is being tried.
    #[must_use]
    pub fn is_candidate_against(&self, primary: NodeId, epoch: Epoch) -> bool {
        matches!(self.role, Role::Candidate(Change::TakeOver { epoch: from, .. }) if from == epoch)
            && self.configuration.as_ref().is_some_and(|c| c.primary == primary)
    }

    /// It stops in its epoch for good.
    pub fn stop_leading(&mut self) -> Turn {
        if !self.leads() {
            return Turn::None;
        }
        self.note_fresh();
        self.role = Role::Stopped { until_ns: self.now_ns + self.timing.grace_ms * MS };
        Turn::Deposed
    }

    /// Its epoch is durable, and its log ends here.
    pub fn epoch_persisted(&mut self, epoch: Epoch, end: Lsn) {
        if let Role::Leading(leading) = &mut self.role
            && epoch == self.epoch
            && !leading.is_persisted
        {
            leading.is_persisted = true;
            leading.begins_behind = end;
        }
    }

    /// How far all is committed now that the own log is durable up to `durable`. Nothing before the epoch is durable.
    pub fn advance(&mut self, durable: Lsn) -> Option<Lsn> {
        let Role::Leading(leading) = &mut self.role else { return None };
        if !leading.is_persisted {
            return None;
        }
        let committed = leading.followers.committed(durable);
        // Of an empty log nothing has to be acknowledged, but a copy may still hold more.
        if committed >= leading.begins_behind && leading.followers.all_follow() {
            leading.is_settled = true;
        }
        // Before that, copies may hold less than was committed by others.
        if leading.is_settled {
            leading.committed = leading.committed.max(committed);
        }
        leading.is_settled.then_some(leading.committed)
    }

    /// Whether an answer that rests on this may leave. `applied`: what the store shows.
    #[must_use]
    pub fn meets(&self, barrier: &Barrier, applied: Lsn) -> bool {
        match &self.role {
            Role::Leading(leading) => {
                barrier.epoch == self.epoch
                    && barrier.committed <= leading.committed.min(applied)
                    && barrier.round <= leading.followers.confirmed_round()
            }
            _ => false,
        }
    }

    /// The barrier of an answer that rests on this record, and on no lease.
    #[must_use]
    pub fn barrier(&self, committed: Lsn) -> Barrier {
        Barrier { epoch: self.epoch, committed, round: 0 }
    }

    /// Whether it can serve as the primary. `applied`: what the store shows.
    ///
    /// # Errors
    /// Why not.
    pub fn serves(&self, applied: Lsn) -> Result<(), NotServing> {
        match &self.role {
            _ if self.is_damaged => Err(NotServing::Damaged),
            Role::Leading(leading)
                if leading.is_settled
                    && leading.handing.is_none_or(|handing| !handing.is_agreed)
                    && applied >= leading.begins_behind
                    && self.now_ns >= leading.silent_until_ns =>
            {
                Ok(())
            }
            _ => Err(NotServing::Starting),
        }
    }

    /// Whether a read may be answered now without asking the other copies.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        matches!(&self.role, Role::Leading(leading) if leading.followers.has_lease(self.now_ns))
    }

    /// Whether its data can be read as what it once was.
    #[must_use]
    pub fn may_answer_stale(&self) -> bool {
        self.is_sound()
    }

    /// How long ago it surely had everything, in milliseconds: 0 for a primary as long as its leases run.
    #[must_use]
    pub fn behind_ms(&self) -> u64 {
        let fresh_ns = match &self.role {
            Role::Leading(leading) => match leading.followers.lease(self.now_ns) {
                Lease::Runs => self.now_ns,
                Lease::Asked => self.fresh_ns,
                Lease::Over { since_ns } => since_ns.max(self.fresh_ns),
            },
            _ => self.fresh_ns,
        };
        (self.now_ns - fresh_ns) / MS
    }

    /// A role ends: what it knew of the copy's age is kept.
    fn note_fresh(&mut self) {
        if self.leads() {
            self.fresh_ns = self.now_ns - self.behind_ms() * MS;
        }
    }

    /// Whether it leads, serving or not.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    /// The leading role.
    #[must_use]
    pub fn leading(&self) -> Option<&Leading> {
        if let Role::Leading(leading) = &self.role { Some(leading) } else { None }
    }

    /// The leading role.
    pub fn leading_mut(&mut self) -> Option<&mut Leading> {
        if let Role::Leading(leading) = &mut self.role { Some(leading) } else { None }
    }

    /// The following role.
    #[must_use]
    pub fn following(&self) -> Option<&Following> {
        if let Role::Following(following) = &self.role { Some(following) } else { None }
    }

    /// Whether it is on its way to lead, or was stopped: somebody will.
    #[must_use]
    pub fn is_candidate(&self) -> bool {
        matches!(self.role, Role::Candidate(_))
    }

    /// The present epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest configuration that it knows.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// Leases and graces.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Whether its data is damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Whether it has once had everything.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// What it is doing. `is_syncing`: a fresh generation is being filled.
    #[must_use]
    pub fn state(&self, applied: Lsn, is_syncing: bool) -> CopyState {
        let is_in_sync = self.configuration.as_ref().is_some_and(|c| c.holds(self.me));
        match &self.role {
            _ if is_syncing => CopyState::Syncing,
            _ if self.is_damaged => CopyState::Damaged,
            Role::Unknown => CopyState::Waiting,
            Role::Leading(leading) if self.serves(applied).is_ok() => match leading.followers.lease(self.now_ns) {
                Lease::Runs => CopyState::Serving,
                Lease::Asked => CopyState::Settling,
                Lease::Over { .. } => CopyState::CutOff,
            },
            Role::Leading(_) | Role::Candidate(_) => CopyState::Settling,
            Role::Following(f) if f.is_matched && is_in_sync => CopyState::InSync,
            Role::Following(f) if f.is_matched => CopyState::CatchingUp,
            Role::Following(_) | Role::Stopped { .. } => CopyState::Waiting,
        }
    }
}

fn keep_strikes(others: &mut [(NodeId, Strikes)], followers: &Followers) {
    others.iter_mut().zip(followers.strikes()).for_each(|((_, kept), strikes)| *kept = strikes);
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
