//! Owns: what a primary does: begins its epoch, brings the log to the other copies, collects what they say, asks for
//! leases and confirmations, hands over.
//! Never: who is in sync and what is committed ([`crate::node::followers`] says), sockets, the clock.

use std::collections::HashMap;

use super::core::{Core, Sink};
use super::follow::{grace_ns, send_ack_of};
use crate::configuration::{Coded, Configuration, MOST_FORCED};
use crate::id::{LinkId, Lsn, NodeId, ShardId};
use crate::node::copy::{Handing, Turn};
use crate::node::followers::Stage;
use crate::node::lease::MS;
use crate::node::lineage;
use crate::store::disk::Disk;
use crate::store::{Fatal, LogCursor, LogRead, PersistId};
use crate::wire::{self, Ack, Append, Beacon, Following, Message};

/// Records are sent ahead of their acknowledgement up to so many bytes.
const WINDOW_BYTES: usize = 16 << 20;
/// A link with more than this queued is sent no further records.
const QUEUE_BYTES: usize = 4 << 20;
/// The log is read in pieces of this many bytes: catching up must leave the others room in a turn.
const PIECE_BYTES: usize = 128 << 10;
/// How long a handover may take before it is given up.
const HANDOVER_MS: u64 = 1_000;
/// A primary that is told to stop waits so long to see whether the other copies are, too.
const LEAVE_MS: u64 = 100;
/// A primary that was replaced answers what it was asked within this, or it is taken to be unable to.
const LAST_WORD_MS: u64 = 250;
/// Each forced takeover makes the log go on here: its ETags were never seen before.
const FORCED_SHIFT: u32 = 48;

/// See the module.
#[derive(Debug, Default)]
pub struct Lead {
    /// The epoch's way to the disk.
    begins: Option<PersistId>,
    is_durable: bool,
    /// The last record that was offered to the copies as it was written.
    offered: Lsn,
    cursors: HashMap<NodeId, LogCursor>,
    scratch: Vec<u8>,
    /// A read of the log has come back.
    pub has_read: bool,
    next_beacon_ns: u64,
    /// A round of confirmations is wanted.
    wants_round: bool,
    /// Copies that lack what is damaged here.
    pub(super) unfillable: Vec<NodeId>,
    /// The disk was too slow, and the role was given up for it.
    is_given_up: bool,
}

impl<D: Disk> Core<D> {
    /// A round of its own made this copy the primary.
    pub(super) fn begin_epoch(&mut self) -> Result<(), Fatal> {
        self.drop_fresh();
        let (epoch, end) = (self.copy.epoch(), self.store.end());
        self.lead.begins = Some(self.store.persist(|state| {
            state.epoch = epoch;
            lineage::begin(&mut state.lineage, epoch, end);
        })?);
        self.lead.is_durable = false;
        self.lead.cursors.clear();
        self.lead.unfillable.clear();
        Ok(())
    }

    /// The other copies of this shard.
    pub(super) fn others(&self) -> Vec<NodeId> {
        let copies = self.my_shard.map_or(&[][..], |shard| &self.copies[shard.0 as usize]);
        copies.iter().copied().filter(|node| *node != self.me).collect()
    }

    /// The small state is durable.
    pub(super) fn on_persisted(&mut self, id: PersistId, sink: &mut impl Sink) -> Result<(), Fatal> {
        if self.lead.begins.take_if(|begins| *begins <= id).is_some() {
            self.lead.is_durable = true;
            self.go_on_beginning(sink)?;
        }
        self.on_followed(id, sink);
        Ok(())
    }

    /// The epoch is durable. Behind a forced takeover the log goes on where no ETag has ever been, which may have to wait
    /// for room.
    fn go_on_beginning(&mut self, sink: &mut impl Sink) -> Result<(), Fatal> {
        if !self.lead.is_durable || self.copy.leading().is_none_or(|leading| leading.is_persisted) {
            return Ok(());
        }
        let forced = self.copy.configuration().map_or(0, |known| known.forced);
        let begins_at = Lsn(forced << FORCED_SHIFT);
        if self.store.end() < begins_at {
            if self.store.jump(self.copy.epoch(), begins_at).is_err() {
                if self.store.health().is_some() {
                    self.copy.cannot_fill();
                    self.copy.stop_leading();
                    self.settle(sink);
                }
                return Ok(());
            }
            self.store.write_turn()?;
        }
        self.copy.epoch_persisted(self.copy.epoch(), self.store.end());
        self.lead.offered = self.store.end();
        self.ask_all_to_follow(sink);
        self.spread(sink);
        Ok(())
    }

    fn ask_all_to_follow(&mut self, sink: &mut impl Sink) {
        for node in self.others() {
            if let Some(link) = self.links[node.0 as usize] {
                self.ask_to_follow(node, link, sink);
            }
        }
    }

    /// A data link to a copy is up: it is to follow.
    pub(super) fn ask_to_follow(&mut self, node: NodeId, link: LinkId, sink: &mut impl Sink) {
        if !self.is_copy_of_my_shard(node) {
            return;
        }
        let (end, state) = (self.store.end(), self.store.small_state());
        let (floor, lineage) = (state.tombstone_floor, lineage::encode(&state.lineage));
        let (epoch, now_ns) = (self.copy.epoch(), self.now_ns);
        let Some(leading) = self.copy.leading_mut().filter(|leading| leading.is_persisted) else { return };
        if leading.followers.get(node).is_none() {
            return;
        }
        leading.followers.asked(node, link, now_ns);
        let configuration = leading.followers.configuration().encode();
        let is_settled = leading.is_settled;
        sink.send(
            link,
            &Message::Follow(wire::Follow {
                epoch,
                configuration: &configuration,
                end,
                floor,
                lineage: &lineage,
                is_settled,
            }),
        );
    }

    /// A copy's answer.
    pub(super) fn on_following(&mut self, from: NodeId, link: LinkId, said: &Following, sink: &mut impl Sink) {
        if said.epoch != self.copy.epoch() {
            return;
        }
        let now_ns = self.now_ns;
        let Some(leading) = self.copy.leading_mut() else { return };
        if leading.followers.get(from).is_none_or(|follower| follower.stage != Stage::Asked(link)) {
            return;
        }
        if said.is_ahead && !leading.is_settled {
            log::warn!("{} holds more of the log than this copy: it shall lead", self.name(from));
            let keeps_old = said.had_committed <= said.end;
            return self.yield_to(from, keeps_old, sink);
        }
        if said.is_ahead {
            // It judged by an older word; asked again, it follows.
            return self.ask_to_follow(from, link, sink);
        }
        // While it made up its mind, compaction may have dropped tombstones that it lacks: it must begin anew.
        if said.is_whole && said.end < self.store.small_state().tombstone_floor {
            return self.ask_to_follow(from, link, sink);
        }
        leading.followers.on_following(from, link, said, now_ns);
        self.lead.unfillable.retain(|node| *node != from);
        self.hold_tombstones();
        self.lead.cursors.insert(from, self.store.log_cursor(said.end));
        // It may grant a lease from now on, and the sooner it does, the sooner reads go on.
        self.lead.next_beacon_ns = 0;
        self.lead_on(sink);
    }

    /// A copy's acknowledgement.
    pub(super) fn on_ack(&mut self, from: NodeId, link: LinkId, ack: &Ack) {
        let now_ns = self.now_ns;
        if let Some(leading) = self.copy.leading_mut() {
            leading.followers.on_ack(from, link, ack, now_ns);
        }
    }

    /// No tombstone is dropped that a copy on its way may still need.
    fn hold_tombstones(&mut self) {
        let followers = self.copy.leading().map(|leading| leading.followers.all());
        let places = followers.into_iter().flatten().filter_map(|follower| match follower.stage {
            Stage::Down => None,
            Stage::Asked(_) => Some(Lsn::ZERO),
            Stage::Streaming(_) => Some(follower.acked),
        });
        self.store.hold_tombstones(places.min());
    }

    /// Offers this turn's records to the copies that have all before them.
    pub(super) fn fan_out(&mut self, sink: &mut impl Sink) {
        let (after, end, now_ns, epoch) = (self.lead.offered, self.store.end(), self.now_ns, self.copy.epoch());
        if after == end {
            return;
        }
        self.lead.offered = end;
        let Some(leading) = self.copy.leading_mut().filter(|leading| leading.is_persisted) else { return };
        let records = self.store.staged_bytes();
        let committed = leading.committed;
        let up_to_date: Vec<(NodeId, LinkId, usize)> = leading
            .followers
            .all()
            .iter()
            .filter(|follower| follower.sent == after)
            .filter_map(|f| Some((f.node, f.streaming()?, window(f.under_way_bytes, f.room_bytes))))
            .collect();
        for (node, link, window) in up_to_date {
            if records.len() <= window && sink.queued_bytes(link) <= QUEUE_BYTES {
                sink.send(link, &Message::Append(Append { epoch, after, committed, records }));
                leading.followers.sent(node, end, records.len(), now_ns);
            }
        }
    }

    /// Sends what copies lack, from the log: at least a piece to each, and twice what this turn has added, so that none falls
    /// behind further. Returns whether more can be sent at once.
    pub(super) fn catch_up(&mut self, staged_bytes: usize, sink: &mut impl Sink) -> bool {
        self.lead.has_read = false;
        let mut more = false;
        for node in self.others() {
            let mut sent_bytes = 0;
            while sent_bytes == 0 || sent_bytes < 2 * staged_bytes {
                let Some(bytes) = self.send_piece(node, sink) else { break };
                more = true;
                if bytes == 0 {
                    break;
                }
                sent_bytes += bytes;
            }
        }
        more
    }

    /// Sends a copy the next piece of the log: how many bytes, which may be none where much of the log was passed over.
    /// `None`: there is no more to be sent for the moment.
    fn send_piece(&mut self, node: NodeId, sink: &mut impl Sink) -> Option<usize> {
        if self.lead.unfillable.contains(&node) {
            return None;
        }
        let (epoch, now_ns, end) = (self.copy.epoch(), self.now_ns, self.store.end());
        let leading = self.copy.leading_mut()?;
        let committed = leading.committed;
        let follower = leading.followers.get(node).filter(|f| f.sent < end)?;
        let link = follower.streaming()?;
        let (under_way, room_bytes) = (follower.under_way_bytes, follower.room_bytes);
        let piece = PIECE_BYTES.min(self.options.segment_bytes as usize / 16);
        let room = window(under_way, room_bytes).min(piece);
        if room == 0 || sink.queued_bytes(link) > QUEUE_BYTES {
            return None;
        }
        let after = follower.sent;
        let cursor = self.lead.cursors.entry(node).or_insert_with(|| self.store.log_cursor(after));
        if cursor.after() != after {
            *cursor = self.store.log_cursor(after);
        }
        self.lead.scratch.clear();
        let before = cursor.clone();
        match self.store.read_log(cursor, room, &mut self.lead.scratch) {
            LogRead::Read { upto } if upto > after => {
                let records = &self.lead.scratch;
                let fits = records.len() <= window(under_way, room_bytes)
                    || (under_way == 0 && records.len() as u64 <= room_bytes);
                if !fits {
                    // One record that is longer than the room: it waits until there is.
                    *cursor = before;
                    if under_way == 0 {
                        leading.followers.on_full(node, now_ns);
                    }
                    return None;
                }
                sink.send(link, &Message::Append(Append { epoch, after, committed, records }));
                leading.followers.sent(node, upto, records.len(), now_ns);
                Some(records.len())
            }
            LogRead::Read { .. } => Some(0),
            LogRead::Corrupt => {
                self.note_unfillable(node);
                None
            }
            LogRead::Cold(_) | LogRead::Busy | LogRead::End => None,
        }
    }

    /// A copy lacks what cannot be read any more. (Where that is only just found, another copy may lead.)
    fn note_unfillable(&mut self, node: NodeId) {
        if self.copy.is_damaged() {
            log::error!("{} lacks records that are damaged here: this copy cannot fill it", self.name(node));
            self.lead.unfillable.push(node);
        }
    }

    /// Commits what has become durable everywhere it must, or, as a follower, what the primary has committed; goes on
    /// with what follows from that.
    ///
    /// # Errors
    /// A write or sync failed.
    pub(super) fn advance(&mut self, sink: &mut impl Sink) -> Result<(), Fatal> {
        self.go_on_beginning(sink)?;
        self.hold_tombstones();
        let durable = self.store.durable();
        let was_serving = self.copy.serves(self.store.committed()).is_ok();
        if self.copy.leads() {
            if let Some(committed) = self.copy.advance(durable) {
                self.commit(committed);
            }
        } else if let Some(known) = self.copy.following().map(|following| following.known_committed)
            && self.follow.fresh.is_none()
        {
            self.commit(known.min(durable));
        }
        if !was_serving && self.copy.serves(self.store.committed()).is_ok() {
            self.spread(sink);
            self.retry_primaries(sink);
        }
        self.propose(sink);
        self.send_round(sink);
        Ok(())
    }

    fn commit(&mut self, upto: Lsn) {
        if upto > self.store.commit_goal() {
            self.store.commit(upto);
        }
    }

    /// Whether a read may be answered now: no other copy is required, or all of them have granted leases.
    pub(super) fn has_read_right(&self) -> bool {
        let Some(leading) = self.copy.leading() else { return false };
        let is_alone = !leading.followers.all().iter().any(|follower| leading.followers.is_required(follower));
        is_alone || (self.reads == crate::config::Reads::Lease && self.copy.has_lease())
    }

    /// The round of confirmations that a read which comes now has to wait for.
    pub(super) fn ask_round(&mut self) -> u64 {
        self.lead.wants_round = true;
        self.counters.confirmed_reads += 1;
        self.copy.leading().map_or(0, |leading| leading.followers.next_round())
    }

    /// Asks the other copies to confirm, once for all reads of the turn.
    fn send_round(&mut self, sink: &mut impl Sink) {
        let epoch = self.copy.epoch();
        let Some(leading) = self.copy.leading_mut().filter(|_| self.lead.wants_round) else { return };
        if let Some((round, nodes)) = leading.followers.ask_round() {
            self.lead.wants_round = false;
            self.send_confirms(epoch, round, &nodes, sink);
            if let Some(leading) = self.copy.leading_mut() {
                leading.followers.on_confirmed(self.me, epoch, round);
            }
        }
    }

    fn send_confirms(&self, epoch: crate::id::Epoch, round: u64, nodes: &[NodeId], sink: &mut impl Sink) {
        for link in nodes.iter().filter_map(|node| self.controls[node.0 as usize]) {
            sink.send(link, &Message::Confirm { epoch, round });
        }
    }

    /// A copy confirms that it follows.
    pub(super) fn on_confirmed(&mut self, from: NodeId, epoch: crate::id::Epoch, round: u64) {
        if let Some(leading) = self.copy.leading_mut() {
            leading.followers.on_confirmed(from, epoch, round);
        }
    }

    /// A copy granted a lease.
    pub(super) fn on_grant(
        &mut self,
        from: NodeId,
        epoch: crate::id::Epoch,
        sent_ns: u64,
        version: u64,
        sink: &mut impl Sink,
    ) {
        let now_ns = self.now_ns;
        let Some(leading) = self.copy.leading_mut() else { return };
        leading.followers.on_grant(from, epoch, sent_ns, version, now_ns);
        if leading.followers.configuration().version > version
            && let Some(link) = self.controls[from.0 as usize]
        {
            let known = leading.followers.configuration().encode();
            sink.send(link, &Message::Know(&known));
        }
    }

    /// What a primary does as time goes by: beacons, and confirmations that were lost.
    pub(super) fn lead_on(&mut self, sink: &mut impl Sink) {
        let (now_ns, timing, epoch) = (self.now_ns, self.copy.timing(), self.copy.epoch());
        if self.disk_slow {
            return self.give_up_for_the_disk(sink);
        }
        self.lead.is_given_up = false;
        if self.copy.is_damaged()
            && let Some(to) = self.best_successor()
        {
            return self.yield_to(to, false, sink);
        }
        if now_ns < self.lead.next_beacon_ns {
            return;
        }
        self.lead.next_beacon_ns = now_ns + timing.beacon_ms * MS;
        let Some(leading) = self.copy.leading().filter(|leading| leading.is_persisted) else { return };
        let lease_ms = timing.lease_ms as u32;
        let beacon = Beacon { epoch, sent_ns: now_ns, lease_ms, committed: leading.committed };
        let asked = leading.followers.is_asking().then(|| leading.followers.ask_again());
        let released: Vec<NodeId> = leading
            .followers
            .all()
            .iter()
            .filter(|f| leading.followers.is_leaving(f.node) && !leading.followers.is_required(f))
            .map(|f| f.node)
            .collect();
        for link in leading.followers.mute(now_ns) {
            sink.finish(link);
        }
        for link in self.others().iter().filter_map(|node| self.controls[node.0 as usize]) {
            sink.send(link, &Message::Beacon(beacon));
        }
        if let Some((round, nodes)) = asked {
            self.send_confirms(epoch, round, &nodes, sink);
        }
        for link in released.iter().filter_map(|node| self.controls[node.0 as usize]) {
            sink.send(link, &Message::Released);
        }
    }

    /// The disk hangs: who cannot write must not lead. The lease is not renewed, and a copy that is in sync leads at
    /// once.
    fn give_up_for_the_disk(&mut self, sink: &mut impl Sink) {
        let to = self.best_successor();
        if let Some(to) = to.filter(|_| !self.lead.is_given_up) {
            self.lead.is_given_up = true;
            self.yield_to(to, false, sink);
        }
    }

    /// The in-sync copy that has come furthest.
    pub(super) fn best_successor(&self) -> Option<NodeId> {
        let followers = &self.copy.leading()?.followers;
        let able = followers
            .all()
            .iter()
            .filter(|f| followers.is_in_sync(f) && f.streaming().is_some() && !followers.is_leaving(f.node));
        able.max_by_key(|f| (f.acked, std::cmp::Reverse(f.node))).map(|f| f.node)
    }

    /// Stops in this epoch for good, and tells another copy to lead: at once, unless this copy was forced to lead and
    /// still waits for the leases that it had granted, of which the other knows nothing. Its own grace is longer.
    pub(super) fn yield_to(&mut self, to: NodeId, keeps_old: bool, sink: &mut impl Sink) {
        let epoch = self.copy.epoch();
        let is_silent = self.copy.leading().is_some_and(|leading| self.now_ns < leading.silent_until_ns);
        if self.copy.stop_leading() != Turn::Deposed {
            return;
        }
        log::info!("this copy stops leading in epoch {}: {} is to lead", epoch.0, self.name(to));
        if let Some(link) = self.controls[to.0 as usize].filter(|_| !is_silent) {
            sink.send(link, &Message::Lead { epoch, keeps_old });
        }
        self.settle(sink);
    }

    /// The primary's store was found damaged, or a copy's.
    pub(super) fn on_damage(&mut self, sink: &mut impl Sink) {
        self.copy.found_damaged();
        match self.best_successor() {
            Some(to) => self.yield_to(to, false, sink),
            None if self.copy.leads() => {
                self.copy.stop_leading();
                self.settle(sink);
            }
            // The primary is to ask anew: then everything comes anew.
            None => {
                if let Some(link) = self.copy.following().and_then(|following| following.link) {
                    send_ack_of(self.copy.epoch(), &self.store, false, link, sink);
                    sink.finish(link);
                }
            }
        }
    }

    /// Begins a handover to another copy, in order.
    ///
    /// # Errors
    /// It cannot be: a sentence.
    pub fn hand_over(&mut self, to: NodeId) -> Result<(), &'static str> {
        let until_ns = self.now_ns + HANDOVER_MS * MS;
        let Some(leading) = self.copy.leading_mut() else { return Err("this node does not lead the shard") };
        let followers = &leading.followers;
        if !leading.is_settled || self.now_ns < leading.silent_until_ns {
            return Err("the shard's primary has only just taken over: try again");
        }
        if followers.get(to).is_none_or(|f| !followers.is_in_sync(f) || f.streaming().is_none()) {
            return Err("that copy is not in sync");
        }
        leading.handing.get_or_insert(Handing { to, until_ns, is_agreed: false });
        Ok(())
    }

    /// Passes an operator's wish on to the primary.
    ///
    /// # Errors
    /// It cannot be: a sentence.
    pub fn ask_to_hand_over(&mut self, primary: NodeId, to: NodeId, sink: &mut impl Sink) -> Result<(), &'static str> {
        let Some(link) = self.controls[primary.0 as usize] else {
            return Err("the shard's primary cannot be reached from this node");
        };
        sink.send(link, &Message::HandOver { to });
        Ok(())
    }

    /// The primary's answer to an operator's wish: why it cannot be.
    pub fn take_refusal(&mut self) -> Option<(NodeId, String)> {
        self.not_handed.take()
    }

    /// Makes this copy the primary, alone, whatever was answered before. For an operator.
    ///
    /// # Errors
    /// It cannot be: a sentence.
    pub fn take_over_by_force(&mut self, sink: &mut impl Sink) -> Result<(), &'static str> {
        if self.copy.is_damaged() || !self.copy.is_whole() {
            return Err("this copy is damaged, or never had all data: it cannot lead");
        }
        if self.copy.configuration().is_some_and(|known| known.forced >= MOST_FORCED) {
            return Err(
                "this shard was led by force as often as its ETags have numbers for: copy its keys to a new cluster",
            );
        }
        if self.is_being_replaced() {
            return Err("this copy is just putting the data that it got anew in the place of the old: try again");
        }
        if !self.withdraw() {
            return Err("a round of this copy is under way: try again");
        }
        if self.copy.force() == Turn::Deposed {
            self.settle(sink);
        }
        Ok(())
    }

    /// Once all that was written is durable everywhere, the other copy is told to lead.
    pub(super) fn go_on_handing_over(&mut self, sink: &mut impl Sink) {
        let end = self.store.end();
        let Some(leading) = self.copy.leading() else { return };
        let Some(Handing { to, .. }) = leading.handing.filter(|handing| handing.is_agreed) else { return };
        let followers = &leading.followers;
        let has_all = followers.get(to).is_some_and(|f| f.acked == end && followers.is_in_sync(f));
        // Who waits for a confirmation could only be told to ask again.
        let nobody_waits = self.waiters.is_empty() && self.readers.is_empty();
        if has_all && self.store.committed() == end && nobody_waits {
            // A node that stops is of no use to the next primary.
            let is_stopping = self.stopping_since_ns.is_some();
            self.yield_to(to, !is_stopping, sink);
            self.is_released |= is_stopping;
        }
    }

    /// Tells all nodes who leads and which copies are in sync.
    pub(super) fn spread(&mut self, sink: &mut impl Sink) {
        let status = self.status();
        if let (Some(shard), Some(known)) = (self.my_shard, self.copy.configuration().cloned()) {
            if self.directory.learn(shard, known.epoch, known.primary) {
                self.on_new_primary(shard, sink);
            }
            self.tell_copies(&known, sink);
        }
        for link in self.controls.iter().flatten() {
            sink.send(*link, &Message::Ping(status));
        }
    }

    fn tell_copies(&self, known: &Configuration, sink: &mut impl Sink) {
        let bytes = known.encode();
        for link in self.others().iter().filter_map(|node| self.controls[node.0 as usize]) {
            sink.send(link, &Message::Know(&bytes));
        }
    }

    /// Another node leads a shard.
    pub(super) fn on_new_primary(&mut self, shard: ShardId, sink: &mut impl Sink) {
        self.superseded.push((shard, self.now_ms + LAST_WORD_MS));
        self.retry_primaries(sink);
    }

    /// What was sent to a primary before is settled when that has not answered soon after it was replaced: it would
    /// have, if it could.
    pub(super) fn settle_forwards(&mut self, sink: &mut impl Sink) {
        while let Some((shard, until_ms)) = self.superseded.first().copied()
            && until_ms <= self.now_ms
        {
            self.superseded.remove(0);
            self.forget_sent(shard, sink);
        }
    }

    /// This node is told to stop.
    pub fn stop(&mut self, sink: &mut impl Sink) {
        self.stopping_since_ns.get_or_insert(self.now_ns);
        self.stop_on(sink);
    }

    /// Goes on with stopping: a primary hands over, unless all copies stop; a copy asks to be let go.
    pub(super) fn stop_on(&mut self, sink: &mut impl Sink) {
        let Some(since_ns) = self.stopping_since_ns else { return };
        if self.copy.leads() {
            if self.now_ns < since_ns + LEAVE_MS * MS {
                return;
            }
            match self.best_successor() {
                Some(to) => _ = self.hand_over(to),
                None if self.is_idle() && !self.is_busy => self.release_all(sink),
                None => {}
            }
        } else if let Some(following) = self.copy.following()
            && following.is_matched
            && self.now_ns < since_ns + grace_ns(self.copy.timing()) * 4
        {
            if let Some(link) = self.controls[following.primary.0 as usize] {
                sink.send(link, &Message::Leave);
            }
        } else if !self.copy.is_candidate() && self.now_ns >= since_ns + LEAVE_MS * MS {
            self.is_released = true;
        }
    }

    /// Whether this node leads, is told to stop, and no copy is there to lead after it: who wants something of its shard
    /// wants it in vain.
    #[must_use]
    pub fn leaves_no_successor(&self) -> bool {
        let is_settled = self.stopping_since_ns.is_some_and(|since_ns| self.now_ns >= since_ns + LEAVE_MS * MS);
        is_settled && self.copy.leads() && self.best_successor().is_none()
    }

    /// All copies stop: each has everything, and stays in sync.
    fn release_all(&mut self, sink: &mut impl Sink) {
        let Some(leading) = self.copy.leading() else { return };
        let (epoch, committed, after) = (self.copy.epoch(), leading.committed, self.store.end());
        if committed < after {
            return;
        }
        for follower in leading.followers.all() {
            if let Some(link) = follower.streaming().filter(|_| follower.sent == after) {
                sink.send(link, &Message::Append(Append { epoch, after, committed, records: &[] }));
                sink.send(link, &Message::Released);
            }
        }
        self.is_released = true;
    }
}

fn window(under_way_bytes: usize, room_bytes: u64) -> usize {
    WINDOW_BYTES.min(usize::try_from(room_bytes).unwrap_or(usize::MAX)).saturating_sub(under_way_bytes)
}
