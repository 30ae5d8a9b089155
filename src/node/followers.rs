//! Owns: what a primary knows of the other copies of its shard: how far each has come, what each has granted; what
//! follows for what is committed, for reads, and for who is to be taken out of the in-sync copies or into them.
//! Never: the records, the links' bytes, the register.
//!
//! A copy is **required** while the newest configuration has it, and already while it is being taken in: from before
//! that is proposed until it is known that it was not chosen. Committed is what is durable here and at every required
//! copy; a read needs a lease, or a confirmation, of every required copy. So at no moment does anything rest on fewer
//! copies than could take over.

use super::lease::{BootNs, MS, Timing};
use crate::configuration::{Change, Configuration, Member};
use crate::id::{Epoch, LinkId, Lsn, NodeId};
use crate::wire::{Ack, Following};

/// A required copy whose link broke may renew it for so long before it is removed.
const RENEWAL_MS: u64 = 20;
/// A primary waits so long with letting a copy go that is told to stop: it may be told to stop, too.
const LEAVE_MS: u64 = 100;
/// A copy that was removed because of its link or its silence, or as a silent primary, is taken in again after this,
/// which doubles with each further time and is forgotten a minute after it might have been taken in.
const REJOIN_FIRST_MS: u64 = 100;
const REJOIN_LAST_MS: u64 = 20_000;
const FORGIVEN_MS: u64 = 60_000;

/// A copy that has been sent all, and owes acknowledgements for no more than this, keeps up.
const LIVE_BYTES: usize = 1 << 20;
/// A copy that was asked to follow and says nothing for so long is asked anew, by a new link.
const ANSWER_MS: u64 = 10_000;

/// How far the data link to a copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There is none.
    Down,
    /// The copy was asked to follow, and has not answered.
    Asked(LinkId),
    /// It takes records.
    Streaming(LinkId),
}

/// What the copies in sync have granted to their primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Each has granted a lease that runs.
    Runs,
    /// Some copy has not granted one yet.
    Asked,
    /// Some copy let it run out at this moment.
    Over {
        /// When.
        since_ns: BootNs,
    },
}

/// Why a copy is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its link broke and was not renewed at once.
    Gone,
    /// It was not heard for so long.
    Silent,
    /// It holds other content than the configuration says, or damaged or unfinished content.
    Replaced,
    /// Its log ends before what it had acknowledged.
    Lost,
    /// A record that was sent to it is not durable there after `deadlines.disk_ms`.
    Slow,
    /// Its disk has no room.
    Full,
    /// It is told to stop.
    Leaving,
}

impl Cause {
    /// As it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Gone => "its link broke",
            Cause::Silent => "it was silent for too long (replication.failover_ms)",
            Cause::Replaced => "its data is not the one that was in sync",
            Cause::Lost => "it lost records that it had acknowledged",
            Cause::Slow => "it took longer than deadlines.disk_ms to make a record durable",
            Cause::Full => "its disk is full",
            Cause::Leaving => "it stops",
        }
    }
}

/// What is known of one other copy.
#[derive(Debug)]
pub struct Follower {
    /// Its node.
    pub node: NodeId,
    /// Which copy it said it is.
    pub member: Option<Member>,
    /// Its data link.
    pub stage: Stage,
    /// The last record that was sent to it.
    pub sent: Lsn,
    /// All up to here is durable there.
    pub acked: Lsn,
    /// The most that it ever acknowledged in this epoch, as this member.
    most_acked: (Option<Member>, Lsn),
    /// Bytes that it can take beyond what it has acknowledged.
    pub room_bytes: u64,
    /// Parts that were sent and are not acknowledged: the record that ends each, its bytes, and when it was sent.
    pub under_way: std::collections::VecDeque<(Lsn, usize, BootNs)>,
    /// When the first record was sent to it that it has not acknowledged; a new link does not change that.
    owing_since_ns: Option<BootNs>,
    /// Bytes in `under_way`.
    pub under_way_bytes: usize,
    /// It has once had everything, and is not being synced anew.
    is_whole: bool,
    has_lost: bool,
    lease_until_ns: BootNs,
    asked_ns: BootNs,
    heard_ns: BootNs,
    full_since_ns: Option<BootNs>,
    /// Since when it has had no data link, and whether it had one in this epoch.
    down_since_ns: Option<BootNs>,
    was_up: bool,
    leaving_since_ns: Option<BootNs>,
    /// Required since this record, on the way into the configuration.
    joining: Option<Lsn>,
    strikes: Strikes,
    confirmed: u64,
    /// The configuration that it knows.
    pub knows_version: u64,
}

/// How often a copy was lost because of its link lately. Outlives the epoch: where two copies lose each other again and
/// again, each may take over from the other in turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Strikes {
    count: u32,
    rejoin_after_ns: BootNs,
}

impl Strikes {
    /// Once more.
    pub fn add(&mut self, now_ns: BootNs) {
        if now_ns >= self.rejoin_after_ns + FORGIVEN_MS * MS {
            self.count = 0;
        }
        let pause_ms = (REJOIN_FIRST_MS << self.count.min(16)).min(REJOIN_LAST_MS);
        self.count += 1;
        self.rejoin_after_ns = now_ns + pause_ms * MS;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Followers {
    epoch: Epoch,
    me: NodeId,
    timing: Timing,
    disk_ms: u64,
    configuration: Configuration,
    followers: Vec<Follower>,
    /// Numbers the confirmations: the last that was asked for, and the last that all required copies gave.
    asked_round: u64,
    confirmed_round: u64,
    /// What is proposed, and not known to be chosen or not.
    proposed: Option<(Change, Option<Cause>)>,
}

impl Followers {
    /// At the beginning of an epoch, for the shard's other nodes. Nobody has granted anything in it.
    #[must_use]
    pub fn new(
        configuration: Configuration,
        others: &[(NodeId, Strikes)],
        timing: Timing,
        disk_ms: u64,
        now_ns: BootNs,
    ) -> Self {
        let fresh = |(node, strikes): &(NodeId, Strikes)| Follower {
            node: *node,
            strikes: *strikes,
            member: None,
            stage: Stage::Down,
            sent: Lsn::ZERO,
            acked: Lsn::ZERO,
            most_acked: (None, Lsn::ZERO),
            room_bytes: 0,
            under_way: std::collections::VecDeque::new(),
            owing_since_ns: None,
            under_way_bytes: 0,
            is_whole: false,
            has_lost: false,
            lease_until_ns: 0,
            asked_ns: 0,
            heard_ns: now_ns,
            full_since_ns: None,
            down_since_ns: Some(now_ns),
            was_up: false,
            leaving_since_ns: None,
            joining: None,
            confirmed: 0,
            knows_version: 0,
        };
        Self {
            epoch: configuration.epoch,
            me: configuration.primary,
            timing,
            disk_ms,
            followers: others.iter().map(fresh).collect(),
            configuration,
            asked_round: 0,
            confirmed_round: 0,
            proposed: None,
        }
    }

    /// What is remembered of the others beyond the epoch.
    pub fn strikes(&self) -> impl Iterator<Item = Strikes> + use<'_> {
        self.followers.iter().map(|follower| follower.strikes)
    }

    /// The newest configuration of this epoch.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Follower] {
        &self.followers
    }

    /// The one of this node.
    pub fn get_mut(&mut self, node: NodeId) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.node == node)
    }

    /// The one of this node.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&Follower> {
        self.followers.iter().find(|follower| follower.node == node)
    }

    /// Whether anything rests on this copy.
    #[must_use]
    pub fn is_required(&self, follower: &Follower) -> bool {
        follower.joining.is_some() || self.configuration.member(follower.node).is_some()
    }

    fn required(&self) -> impl Iterator<Item = &Follower> {
        self.followers.iter().filter(|follower| self.is_required(follower))
    }

    /// Whether this copy, as it is now, is in the newest configuration.
    #[must_use]
    pub fn is_in_sync(&self, follower: &Follower) -> bool {
        follower.member.is_some_and(|member| self.configuration.holds(member)) && follower.is_whole
    }

    /// What is durable here (`own`) and at every required copy.
    #[must_use]
    pub fn committed(&self, own: Lsn) -> Lsn {
        self.required().map(|follower| self.counted(follower).unwrap_or(Lsn::ZERO)).fold(own, Lsn::min)
    }

    /// Whether every required copy follows: none can hold more than is known here.
    #[must_use]
    pub fn all_follow(&self) -> bool {
        self.required().all(|follower| self.counted(follower).is_some())
    }

    /// An acknowledgement counts for the copy that the configuration names, not for what took its place.
    fn counted(&self, follower: &Follower) -> Option<Lsn> {
        let named = self.configuration.member(follower.node);
        let is_it = named.is_none() || named == follower.member;
        (is_it && follower.is_whole && matches!(follower.stage, Stage::Streaming(_))).then_some(follower.acked)
    }

    /// Whether every required copy has granted a lease that runs.
    #[must_use]
    pub fn has_lease(&self, now_ns: BootNs) -> bool {
        self.required().all(|follower| now_ns < follower.lease_until_ns)
    }

    /// What the copies in sync have granted: one that is being taken in does not make a primary less than it was.
    #[must_use]
    pub fn lease(&self, now_ns: BootNs) -> Lease {
        let members = self.followers.iter().filter(|follower| self.configuration.member(follower.node).is_some());
        match members.map(|follower| follower.lease_until_ns).min() {
            None => Lease::Runs,
            Some(until_ns) if now_ns < until_ns => Lease::Runs,
            Some(0) => Lease::Asked,
            Some(until_ns) => Lease::Over { since_ns: until_ns },
        }
    }

    /// Whether a copy that cannot be removed has no room: what is written now would wait for it in vain.
    #[must_use]
    pub fn is_full(&self, now_ns: BootNs) -> bool {
        let late_ns = 2 * self.timing.grace_ms * MS;
        self.required().any(|follower| follower.full_since_ns.is_some_and(|since_ns| now_ns >= since_ns + late_ns))
    }

    /// A new data link to a copy is up: it is asked to follow.
    pub fn asked(&mut self, node: NodeId, link: LinkId, now_ns: BootNs) {
        if let Some(follower) = self.get_mut(node) {
            follower.asked_ns = now_ns;
            follower.stage = Stage::Asked(link);
        }
    }

    /// A copy follows. Returns false where that comes by a link that is not the newest.
    pub fn on_following(&mut self, node: NodeId, link: LinkId, said: &Following, now_ns: BootNs) -> bool {
        let is_growing = self.is_growing(node);
        let Some(follower) = self.get_mut(node).filter(|f| f.stage == Stage::Asked(link)) else { return false };
        let member = Member { node, store: said.store };
        let durable = said.durable.min(said.end);
        follower.owing_since_ns.take_if(|_| durable > follower.acked || follower.member != Some(member));
        if follower.most_acked.0 != Some(member) {
            follower.most_acked = (Some(member), Lsn::ZERO);
            // What the one before granted, this one does not know of.
            follower.lease_until_ns = 0;
        }
        follower.has_lost = said.is_whole && said.had < follower.most_acked.1;
        follower.member = Some(member);
        follower.stage = Stage::Streaming(link);
        (follower.sent, follower.acked) = (said.end, durable);
        follower.under_way.clear();
        follower.under_way_bytes = 0;
        follower.room_bytes = 0;
        follower.is_whole = said.is_whole;
        follower.heard_ns = now_ns;
        (follower.full_since_ns, follower.down_since_ns) = (None, None);
        // Perhaps another process than the one that wanted to go; one that still wants to says so again.
        follower.leaving_since_ns = None;
        follower.was_up = true;
        follower.joining = follower.joining.filter(|_| is_growing);
        true
    }

    /// Records up to `upto` were sent to a copy.
    pub fn sent(&mut self, node: NodeId, upto: Lsn, bytes: usize, now_ns: BootNs) {
        let Some(follower) = self.get_mut(node) else { return };
        follower.sent = upto;
        follower.under_way.push_back((upto, bytes, now_ns));
        follower.under_way_bytes += bytes;
        follower.owing_since_ns.get_or_insert(now_ns);
    }

    /// An acknowledgement. Returns false where it comes by a link that does not carry the log.
    pub fn on_ack(&mut self, node: NodeId, link: LinkId, ack: &Ack, now_ns: BootNs) -> bool {
        let (epoch, is_outside) = (self.epoch, self.configuration.member(node).is_none());
        let Some(follower) = self.get_mut(node) else { return false };
        if ack.epoch != epoch || follower.stage != Stage::Streaming(link) || ack.durable > follower.sent {
            return false;
        }
        let is_progress = ack.durable > follower.acked;
        follower.acked = follower.acked.max(ack.durable);
        follower.most_acked.1 = follower.most_acked.1.max(ack.durable);
        while let Some((upto, bytes, _)) = follower.under_way.front().copied()
            && upto <= follower.acked
        {
            follower.under_way.pop_front();
            follower.under_way_bytes -= bytes;
        }
        if is_progress {
            follower.owing_since_ns = follower.under_way.front().map(|(_, _, sent_ns)| *sent_ns);
        }
        if is_outside && follower.acked >= follower.most_acked.1 {
            follower.has_lost = false;
        }
        follower.is_whole = ack.is_whole;
        follower.room_bytes = ack.room_bytes;
        follower.full_since_ns = (ack.room_bytes == 0).then(|| follower.full_since_ns.unwrap_or(now_ns));
        follower.heard_ns = now_ns;
        true
    }

    /// A copy granted what the beacon sent at `sent_ns` asked for.
    pub fn on_grant(&mut self, node: NodeId, epoch: Epoch, sent_ns: BootNs, version: u64, now_ns: BootNs) {
        let lease_ns = self.timing.lease_ms * MS;
        let is_current = epoch == self.epoch && sent_ns <= now_ns;
        let Some(follower) = self.get_mut(node).filter(|_| is_current) else { return };
        follower.lease_until_ns = follower.lease_until_ns.max(sent_ns + lease_ns);
        follower.heard_ns = now_ns;
        follower.knows_version = version;
    }

    /// A copy's data link is gone.
    pub fn on_down(&mut self, node: NodeId, link: LinkId, now_ns: BootNs) {
        let Some(follower) = self.get_mut(node) else { return };
        if matches!(follower.stage, Stage::Asked(its) | Stage::Streaming(its) if its == link) {
            follower.stage = Stage::Down;
            follower.down_since_ns.get_or_insert(now_ns);
        }
    }

    /// The links of copies that were asked to follow and have said nothing for too long.
    #[must_use]
    pub fn mute(&self, now_ns: BootNs) -> Vec<LinkId> {
        let late = self.followers.iter().filter(|follower| now_ns >= follower.asked_ns + ANSWER_MS * MS);
        late.filter_map(|follower| if let Stage::Asked(link) = follower.stage { Some(link) } else { None }).collect()
    }

    /// A copy has no room for its next record.
    pub fn on_full(&mut self, node: NodeId, now_ns: BootNs) {
        if let Some(follower) = self.get_mut(node) {
            follower.full_since_ns.get_or_insert(now_ns);
        }
    }

    /// It was this process that stood still, for so long: no copy is to blame for that time.
    pub fn stood_still(&mut self, spell_ns: BootNs, now_ns: BootNs) {
        for follower in &mut self.followers {
            follower.heard_ns = now_ns.min(follower.heard_ns + spell_ns);
            for since in [&mut follower.owing_since_ns, &mut follower.down_since_ns, &mut follower.full_since_ns] {
                *since = since.map(|since| now_ns.min(since + spell_ns));
            }
            follower.under_way.iter_mut().for_each(|(_, _, sent_ns)| *sent_ns = now_ns.min(*sent_ns + spell_ns));
        }
    }

    /// A copy is told to stop.
    pub fn on_leave(&mut self, node: NodeId, now_ns: BootNs) {
        if let Some(follower) = self.get_mut(node) {
            follower.leaving_since_ns.get_or_insert(now_ns);
        }
    }

    /// Whether a copy has said that it stops.
    #[must_use]
    pub fn is_leaving(&self, node: NodeId) -> bool {
        self.get(node).is_some_and(|follower| follower.leaving_since_ns.is_some())
    }

    /// The copies of which confirmations are asked, for a new round; `None`: the last one is not answered yet.
    pub fn ask_round(&mut self) -> Option<(u64, Vec<NodeId>)> {
        if self.asked_round > self.confirmed_round {
            return None;
        }
        self.asked_round += 1;
        Some(self.ask_again())
    }

    /// The round that is under way, for copies that it may not have reached.
    #[must_use]
    pub fn ask_again(&self) -> (u64, Vec<NodeId>) {
        let silent = self.required().filter(|follower| follower.confirmed < self.asked_round);
        (self.asked_round, silent.map(|follower| follower.node).collect())
    }

    /// Whether a round is under way.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asked_round > self.confirmed_round
    }

    /// The round that a read that begins now has to wait for.
    #[must_use]
    pub fn next_round(&self) -> u64 {
        self.asked_round + 1
    }

    /// A copy confirms that it still follows.
    pub fn on_confirmed(&mut self, node: NodeId, epoch: Epoch, round: u64) {
        if epoch == self.epoch
            && let Some(follower) = self.get_mut(node)
        {
            follower.confirmed = follower.confirmed.max(round);
        }
        self.judge_round();
    }

    fn judge_round(&mut self) {
        let lowest = self.required().map(|follower| follower.confirmed).min().unwrap_or(self.asked_round);
        self.confirmed_round = self.confirmed_round.max(lowest.min(self.asked_round));
    }

    /// The last round that every required copy has confirmed.
    #[must_use]
    pub fn confirmed_round(&self) -> u64 {
        self.confirmed_round
    }

    /// A round of its own is over: what was proposed is chosen, or never will be.
    pub fn on_settled(&mut self, chosen: Configuration, now_ns: BootNs) {
        assert!(chosen.epoch == self.epoch && chosen.primary == self.me, "{chosen:?} is not of {:?}", self.epoch);
        self.learned(chosen, now_ns);
        if let Some((Change::Grow { member, .. }, _)) = self.proposed.take()
            && let Some(follower) = self.get_mut(member.node)
        {
            follower.joining = None;
        }
    }

    /// A configuration of this epoch is chosen. What is proposed may still run: it counts on.
    pub fn learned(&mut self, chosen: Configuration, now_ns: BootNs) {
        let is_fault =
            matches!(self.proposed, Some((_, Some(Cause::Gone | Cause::Silent | Cause::Slow | Cause::Full))));
        for follower in &mut self.followers {
            let (was, is) = (self.configuration.member(follower.node), chosen.member(follower.node));
            if is.is_some() {
                follower.joining = None;
            }
            if was.is_some() && is.is_none() {
                if is_fault {
                    follower.strikes.add(now_ns);
                }
                (follower.has_lost, follower.most_acked) = (false, (None, Lsn::ZERO));
            }
        }
        self.configuration = chosen;
        self.judge_round();
    }

    fn is_growing(&self, node: NodeId) -> bool {
        matches!(self.proposed, Some((Change::Grow { member, .. }, _)) if member.node == node)
    }

    /// What is proposed, and why.
    #[must_use]
    pub fn proposed(&self) -> Option<(Change, Option<Cause>)> {
        self.proposed
    }

    /// The next change to propose, if one is due. `end`: the last record of the log; `is_stopping`: this node is told to
    /// stop, and lets nobody go before.
    pub fn due(
        &mut self,
        end: Lsn,
        committed: Lsn,
        is_stopping: bool,
        now_ns: BootNs,
    ) -> Option<(Change, Option<Cause>)> {
        if self.proposed.is_some() {
            return None;
        }
        let found = self.removal(is_stopping, now_ns).or_else(|| self.admission(end, committed, now_ns));
        self.proposed = found;
        found
    }

    /// The same for a primary that only leads until another copy can: it lets none go.
    pub fn due_admission(&mut self, end: Lsn, committed: Lsn, now_ns: BootNs) -> Option<(Change, Option<Cause>)> {
        if self.proposed.is_none() {
            self.proposed = self.admission(end, committed, now_ns);
            return self.proposed;
        }
        None
    }

    fn removal(&self, is_stopping: bool, now_ns: BootNs) -> Option<(Change, Option<Cause>)> {
        self.configuration.in_sync.iter().filter(|member| member.node != self.me).find_map(|member| {
            let follower = self.get(member.node)?;
            let cause = self.cause(follower, *member, is_stopping, now_ns)?;
            Some((Change::Shrink { epoch: self.epoch, member: *member }, Some(cause)))
        })
    }

    fn cause(&self, follower: &Follower, member: Member, is_stopping: bool, now_ns: BootNs) -> Option<Cause> {
        let longer = |since: Option<BootNs>, ms: u64| since.is_some_and(|since| now_ns >= since + ms * MS);
        let is_up = matches!(follower.stage, Stage::Streaming(_));
        if follower.member.is_some_and(|is| is != member) || (is_up && !follower.is_whole) {
            Some(Cause::Replaced)
        } else if follower.has_lost {
            Some(Cause::Lost)
        } else if !is_stopping && longer(follower.leaving_since_ns, LEAVE_MS) {
            Some(Cause::Leaving)
        } else if follower.was_up && longer(follower.down_since_ns, RENEWAL_MS) {
            Some(Cause::Gone)
        } else if longer(Some(follower.heard_ns), self.silence_ms(follower)) {
            Some(Cause::Silent)
        } else if longer(follower.owing_since_ns, self.disk_ms) {
            Some(Cause::Slow)
        } else if longer(follower.full_since_ns, self.timing.grace_ms) {
            Some(Cause::Full)
        } else {
            None
        }
    }

    /// How long this one may say nothing. One that was never heard in this epoch may be on its way still.
    fn silence_ms(&self, follower: &Follower) -> u64 {
        if follower.was_up { self.timing.silence_ms } else { self.timing.grace_ms }
    }

    /// Takes a copy in that has caught up: first it is required, then, once it has everything, proposed.
    fn admission(&mut self, end: Lsn, committed: Lsn, now_ns: BootNs) -> Option<(Change, Option<Cause>)> {
        let (epoch, silence_ns) = (self.epoch, self.timing.silence_ms * MS);
        for at in 0..self.followers.len() {
            let follower = &self.followers[at];
            let Some(member) = follower.member.filter(|m| self.configuration.member(m.node).is_none()) else {
                continue;
            };
            let is_well = matches!(follower.stage, Stage::Streaming(_))
                && follower.is_whole
                && !follower.has_lost
                && follower.leaving_since_ns.is_none()
                && follower.full_since_ns.is_none()
                && follower.owing_since_ns.is_none_or(|since_ns| now_ns < since_ns + self.disk_ms * MS)
                && now_ns >= follower.strikes.rejoin_after_ns
                && now_ns < follower.heard_ns + silence_ns;
            let acked = follower.acked;
            let is_live = follower.sent >= committed && follower.under_way_bytes <= LIVE_BYTES;
            let joining = &mut self.followers[at].joining;
            match *joining {
                _ if !is_well => *joining = None,
                // What all others have, it has or is about to have: requiring it holds nobody up.
                None if acked >= committed || is_live => *joining = Some(end),
                Some(from) if acked >= from => return Some((Change::Grow { epoch, member }, None)),
                _ => {}
            }
        }
        None
    }

    /// When [`Followers::due`] may find something next, by time alone.
    #[must_use]
    pub fn next_ns(&self, now_ns: BootNs) -> BootNs {
        let soon = self.required().any(|f| f.down_since_ns.is_some() || f.leaving_since_ns.is_some());
        let silent_ns = self.required().map(|f| f.heard_ns + self.silence_ms(f) * MS).filter(|at_ns| *at_ns > now_ns);
        let look_ns = now_ns + if soon { 5 * MS } else { self.timing.beacon_ms * MS };
        silent_ns.fold(look_ns, BootNs::min)
    }
}

impl Follower {
    /// The link on which it takes records.
    #[must_use]
    pub fn streaming(&self) -> Option<LinkId> {
        match self.stage {
            Stage::Streaming(link) => Some(link),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "followers_tests.rs"]
mod tests;
