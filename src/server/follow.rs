//! Owns: what a copy does that follows: makes its log a part of the primary's, takes records, acknowledges, grants
//! leases; and, where its data cannot be mended, fills a fresh generation.
//! Never: when it may lead ([`crate::node::copy`]), sockets, the clock.

use super::core::{Core, Sink};
use super::lane::Wait;
use crate::configuration::{Coded, Configuration, Member};
use crate::id::{Epoch, LinkId, Lsn, NodeId, Uuid};
use crate::node::copy::Verdict;
use crate::node::lease::{MS, Timing};
use crate::node::lineage;
use crate::store::disk::Disk;
use crate::store::{AppendError, Event, Fatal, OpenError, PersistId, SmallState, Store};
use crate::wire::{self, Ack, Append, Beacon, Following, Message};

/// A full sync that cannot begin is tried again after this.
const PAUSE_MS: u64 = 2_000;

/// A generation that is being filled beside the one that counts.
pub struct Fresh<D: Disk> {
    /// It.
    pub store: Store<D>,
    /// When it holds all up to here, it can take the other's place.
    pub goal: Lsn,
    /// What it said of the primary's committed records.
    committed: Lsn,
    step: Step,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It takes records.
    Filling,
    /// That it is whole is on its way to the disk.
    Whole(PersistId),
    /// That it is the one that counts is on its way to the disk.
    Adopting(PersistId),
}

/// An answer to a primary that waits for the disk.
#[derive(Debug, Clone, Copy)]
struct Answer {
    link: LinkId,
    following: Following,
    persist: PersistId,
}

/// See the module.
pub struct Follow<D: Disk> {
    /// A full sync under way.
    pub fresh: Option<Fresh<D>>,
    answer: Option<Answer>,
    /// What was last acknowledged, by which link.
    acked: Option<(LinkId, Lsn, u64)>,
    /// A primary's link that is closed at this moment, because nothing can be begun now.
    put_off: Option<(LinkId, u64)>,
    /// A grace that is longer than any granted before is on its way to the disk.
    grace: Option<PersistId>,
}

impl<D: Disk> Default for Follow<D> {
    fn default() -> Self {
        Self { fresh: None, answer: None, acked: None, put_off: None, grace: None }
    }
}

/// The grace as nanoseconds.
pub(super) fn grace_ns(timing: Timing) -> u64 {
    timing.grace_ms * MS
}

/// Acknowledges what a store has.
pub(super) fn send_ack_of<D: Disk>(epoch: Epoch, store: &Store<D>, is_whole: bool, link: LinkId, sink: &mut impl Sink) {
    let ack = Ack { epoch, durable: store.durable(), room_bytes: store.window_bytes(), is_whole };
    sink.send(link, &Message::Ack(ack));
}

impl<D: Disk> Core<D> {
    /// A primary asks to be followed.
    ///
    /// # Errors
    /// A write or sync failed.
    pub(super) fn on_follow(
        &mut self,
        from: NodeId,
        link: LinkId,
        asked: &wire::Follow<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Fatal> {
        let (Some(configuration), Some(theirs)) =
            (Configuration::decode(asked.configuration), lineage::decode(asked.lineage))
        else {
            sink.finish(link);
            return Ok(());
        };
        // What it holds is about to be replaced: in a moment it will know what it is.
        if self.is_being_replaced() {
            sink.finish(link);
            return Ok(());
        }
        self.return_to(from, configuration.epoch);
        let (verdict, turn) = self.copy.on_follow(from, link, &configuration);
        self.turn_to(turn, sink)?;
        match verdict {
            Verdict::Follows => {}
            Verdict::Stale => {
                if let Some(known) = self.copy.configuration() {
                    sink.send(link, &Message::Know(&known.encode()));
                }
                return Ok(());
            }
            Verdict::Later => {
                sink.finish(link);
                return Ok(());
            }
        }
        self.drop_fresh();
        // It has asked again by itself: the link is not closed for it to do so.
        self.follow.put_off.take_if(|(its, _)| *its == link);
        (self.follow.answer, self.follow.acked) = (None, None);
        self.match_log(link, asked, &configuration, theirs, sink)
    }

    /// Makes the log a part of the primary's: cuts what is not, or begins anew.
    fn match_log(
        &mut self,
        link: LinkId,
        asked: &wire::Follow<'_>,
        configuration: &Configuration,
        theirs: Vec<(Epoch, Lsn)>,
        sink: &mut impl Sink,
    ) -> Result<(), Fatal> {
        let had = self.store.end();
        let had_committed = self.store.commit_goal();
        let is_sound = self.store.health().is_none() && self.copy.is_whole();
        let common = lineage::common_point(&self.store.small_state().lineage, had, &theirs, asked.end);
        let shared = common.unwrap_or(Lsn::ZERO);
        let is_longer = (shared == asked.end && had > asked.end) || had_committed > shared;
        let is_ahead = is_sound && !asked.is_settled && configuration.holds(self.copy.me) && is_longer;
        let mut following = Following {
            epoch: asked.epoch,
            store: self.copy.me.store,
            had,
            had_committed,
            end: shared,
            durable: shared.min(self.store.durable()),
            is_whole: true,
            is_ahead,
        };
        if is_ahead {
            sink.send(link, &Message::Following(following));
            return Ok(());
        }
        let epoch = asked.epoch;
        let adopt = |state: &mut SmallState| {
            state.epoch = epoch;
            state.lineage = theirs;
        };
        let fits = common.is_some_and(|common| common >= had_committed && common >= asked.floor);
        let persist = if is_sound && fits {
            if shared < had {
                log::info!("records {} to {} are not the primary's: they are dropped", shared.0 + 1, had.0);
                self.store.truncate(shared)?;
                following.durable = shared;
            }
            self.store.persist(adopt)?
        } else {
            let Some(store) = self.begin_fresh(link)? else { return Ok(()) };
            following = Following { store, end: Lsn::ZERO, durable: Lsn::ZERO, is_whole: false, ..following };
            let Some(fresh) = &mut self.follow.fresh else { return Ok(()) };
            fresh.goal = asked.end;
            fresh.store.persist(adopt)?
        };
        self.follow.answer = Some(Answer { link, following, persist });
        Ok(())
    }

    /// Makes an empty generation beside the one that counts.
    ///
    /// # Errors
    /// A write or sync failed.
    fn begin_fresh(&mut self, link: LinkId) -> Result<Option<Uuid>, Fatal> {
        log::warn!("this copy gets all data anew from the primary; what it has is kept until then");
        let (store, seed) = (Uuid(self.random()), self.random());
        let options = crate::store::Options { entropy: self.random() as u64, ..self.options.clone() };
        match self.home.begin(options, SmallState::new(store, seed, false)) {
            Ok(begun) => {
                let fresh = Fresh { store: begun, goal: Lsn::ZERO, committed: Lsn::ZERO, step: Step::Filling };
                self.follow.fresh = Some(fresh);
                self.counters.full_syncs += 1;
                Ok(Some(store))
            }
            Err(OpenError::Full) => {
                log::error!("there is no room on the disk for the data anew");
                // When it is renewed, the primary asks again.
                self.follow.put_off = Some((link, self.now_ns + PAUSE_MS * MS));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tries again what was put off.
    pub(super) fn follow_on(&mut self, sink: &mut impl Sink) {
        let now_ns = self.now_ns;
        if let Some((link, _)) = self.follow.put_off.take_if(|(_, until_ns)| *until_ns <= now_ns) {
            sink.finish(link);
        }
    }

    /// Whether a fresh generation is about to take this one's place, and nothing can stop that any more.
    pub(super) fn is_being_replaced(&self) -> bool {
        self.follow.fresh.as_ref().is_some_and(|fresh| matches!(fresh.step, Step::Adopting(_)))
    }

    /// A full sync that was interrupted starts over.
    pub(super) fn drop_fresh(&mut self) {
        if self.follow.fresh.is_some() && !self.is_being_replaced() {
            self.follow.fresh = None;
            self.home.abandon();
        }
    }

    /// What a copy said to its primary rests on this being durable.
    pub(super) fn on_followed(&mut self, id: PersistId, sink: &mut impl Sink) {
        if self.follow.fresh.is_none() {
            self.answer_if_durable(id, sink);
        }
    }

    fn answer_if_durable(&mut self, id: PersistId, sink: &mut impl Sink) {
        let Some(Answer { link, following, .. }) = self.follow.answer.take_if(|answer| answer.persist <= id) else {
            return;
        };
        if self.copy.matched(link) {
            sink.send(link, &Message::Following(following));
            self.follow.acked = Some((link, Lsn(u64::MAX), 0));
        }
    }

    /// Records of the primary.
    ///
    /// # Errors
    /// A write or sync failed.
    pub(super) fn on_append(&mut self, link: LinkId, append: &Append<'_>, sink: &mut impl Sink) {
        if !self.copy.takes_from(link, append.epoch) {
            return;
        }
        // First what is committed of what is there: it may be what makes room.
        let applied = self.store.committed();
        match &mut self.follow.fresh {
            Some(fresh) => {
                fresh.committed = fresh.committed.max(append.committed);
                let committed = fresh.committed.min(fresh.store.durable());
                fresh.store.commit(committed.max(fresh.store.commit_goal()));
            }
            None => {
                self.copy.heard_committed(append.committed, applied);
                let known = self.copy.following().map_or(Lsn::ZERO, |following| following.known_committed);
                let committed = known.min(self.store.durable());
                self.store.commit(committed.max(self.store.commit_goal()));
            }
        }
        let target = self.follow.fresh.as_mut().map_or(&mut self.store, |fresh| &mut fresh.store);
        if append.after != target.end() {
            log::warn!("the primary's records do not follow on record {}: its link is closed", target.end().0);
            return sink.finish(link);
        }
        if !append.records.is_empty()
            && let Err(error) = target.append(append.records)
        {
            match error {
                AppendError::Bad(reason) => log::error!("the primary's link is closed: {reason}"),
                other => log::warn!("records of the primary cannot be taken: {other}"),
            }
            sink.finish(link);
        }
    }

    /// A primary asks for a lease.
    ///
    /// # Errors
    /// A write or sync failed.
    pub(super) fn on_beacon(
        &mut self,
        from: NodeId,
        link: LinkId,
        beacon: &Beacon,
        sink: &mut impl Sink,
    ) -> Result<(), Fatal> {
        if beacon.epoch < self.copy.epoch()
            && let Some(known) = self.copy.configuration()
        {
            sink.send(link, &Message::Know(&known.encode()));
            return Ok(());
        }
        self.return_to(from, beacon.epoch);
        let Some(grace_ms) = self.copy.may_grant(from, beacon) else { return Ok(()) };
        match &mut self.follow.fresh {
            // Nothing else would tell it, where nothing is written any more.
            Some(fresh) => fresh.committed = fresh.committed.max(beacon.committed),
            None => self.copy.heard_committed(beacon.committed, self.store.committed()),
        }
        // A start must know how long a grace the one before may have granted.
        if grace_ms > self.home.state().largest_grace_ms {
            self.follow.grace = Some(self.home.persist(|state| state.largest_grace_ms = grace_ms)?);
        }
        if self.follow.grace.is_some() {
            return Ok(());
        }
        self.copy.grant(grace_ms);
        let version = self.copy.configuration().map_or(0, |c| c.version);
        sink.send(link, &Message::Grant { epoch: beacon.epoch, sent_ns: beacon.sent_ns, version });
        Ok(())
    }

    /// A primary that this copy was about to replace is there again: it follows it, if nothing was sent yet that could
    /// be chosen.
    fn return_to(&mut self, primary: NodeId, epoch: Epoch) {
        if self.copy.is_candidate_against(primary, epoch) && self.withdraw() {
            self.copy.withdrawn(primary);
        }
    }

    /// The home's file is durable.
    ///
    /// # Errors
    /// A write or sync failed.
    pub(super) fn on_node_file(&mut self, id: PersistId, sink: &mut impl Sink) -> Result<(), Fatal> {
        self.follow.grace.take_if(|grace| *grace <= id);
        let Some(fresh) = self.follow.fresh.take_if(|fresh| matches!(fresh.step, Step::Adopting(a) if a <= id)) else {
            return Ok(());
        };
        self.store = fresh.store;
        let member = Member { node: self.me, store: self.store.small_state().content() };
        self.copy.replaced(member, self.store.health().is_some());
        // Reads that the old store had begun are begun anew.
        self.cold.clear();
        for lane in self.lanes.values_mut().filter(|lane| matches!(lane.wait, Wait::Disk(_))) {
            lane.wait = Wait::Primary;
        }
        self.retry_primaries(sink);
        log::info!(
            "this copy has got all data anew: {} keys so far, up to record {}",
            self.store.keys(),
            self.store.end().0
        );
        self.copy.heard_committed(fresh.committed, Lsn::ZERO);
        if let Some(link) = self.copy.following().filter(|f| f.is_matched).and_then(|f| f.link) {
            send_ack_of(self.copy.epoch(), &self.store, true, link, sink);
        }
        Ok(())
    }

    /// The turn of a generation that is being filled.
    ///
    /// # Errors
    /// A write or sync failed.
    pub(super) fn flush_fresh(&mut self, sink: &mut impl Sink) -> Result<(), Fatal> {
        let Some(fresh) = &mut self.follow.fresh else { return Ok(()) };
        fresh.store.write_turn()?;
        let mut persisted = None;
        while let Some(event) = fresh.store.poll()? {
            if let Event::Persisted(id) = event {
                persisted = Some(id);
            }
        }
        if fresh.store.health().is_some() {
            log::error!("the data that came anew is damaged on this disk");
            let link = self.copy.following().and_then(|following| following.link);
            link.into_iter().for_each(|link| sink.finish(link));
            return Ok(());
        }
        let committed = fresh.committed.min(fresh.store.durable());
        if committed > fresh.store.commit_goal() {
            fresh.store.commit(committed);
        }
        match fresh.step {
            Step::Filling
                if fresh.store.durable() >= fresh.goal
                    && fresh.committed >= fresh.goal
                    && self.follow.answer.is_none() =>
            {
                let end = fresh.store.end();
                fresh.step = Step::Whole(fresh.store.persist(|state| {
                    state.whole = true;
                    state.tombstone_floor = end;
                })?);
            }
            // Who is about to lead does so with what it has: the fresh one goes when it leads, or is followed anew.
            Step::Whole(id) if persisted.is_some_and(|done| done >= id) && !self.copy.is_candidate() => {
                fresh.step = Step::Adopting(self.home.adopt()?);
            }
            _ => {}
        }
        if let Some(id) = persisted {
            self.answer_if_durable(id, sink);
        }
        Ok(())
    }

    /// Acknowledges what has become durable, by the link that carried it.
    pub(super) fn acknowledge(&mut self, sink: &mut impl Sink) {
        let Some(link) = self.copy.following().filter(|f| f.is_matched).and_then(|f| f.link) else { return };
        let is_whole = self.follow.fresh.is_none();
        let store = self.follow.fresh.as_ref().map_or(&self.store, |fresh| &fresh.store);
        let (durable, room) = (store.durable(), store.window_bytes());
        let Some((by, acked, told_room)) = self.follow.acked.filter(|(by, ..)| *by == link) else { return };
        let is_news = durable != acked || room > told_room.saturating_mul(2) || (room == 0) != (told_room == 0);
        if is_news {
            send_ack_of(self.copy.epoch(), store, is_whole && self.copy.is_whole(), link, sink);
            self.follow.acked = Some((by, durable, room));
        }
    }
}
