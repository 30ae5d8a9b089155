//! Owns: everything about a request that is not I/O: where it is executed, in which order, what it waits for, and until
//! when. Sans I/O: the clock and the links are arguments, the disk is behind the store, and answers go into a [`Sink`].
//!
//! The way of a request: [`Core::submit`] → its lane → here ([`super::execute`]) or over a link → [`Sink::answer`].
//!
//! Never: sockets, HTTP, the clock; protocol rules (those are the node's) and file formats.

use std::collections::{HashMap, VecDeque};

use fnv::FnvHashMap;
use slab::Slab;

use super::execute::Executed;
use super::lane::{Asked, Lane, LaneKey, Parked, Stream, Target, Wait};
use crate::config::Cluster;
use crate::id::{LinkId, NodeId, Now, ShardId, Ticket};
use crate::node::Barrier;
use crate::node::copy::{Copy, NotServing};
use crate::node::directory::Directory;
use crate::op::{Condition, Failure, Op, Outcome, Verb};
use crate::router::Router;
use crate::store::disk::{Disk, OpId};
use crate::store::{Arrived, Event, Fatal, PersistId, Store};
use crate::wire::{Forward, Message, Status};

/// Where what the core decides goes: to the sockets, or to a simulation's.
pub trait Sink {
    /// The answer to a request. Each ticket gets one.
    fn answer(&mut self, ticket: Ticket, outcome: &Outcome<'_>);
    /// The answer to a forwarded request that is not for this node: it goes back as it came.
    fn not_primary(&mut self, link: LinkId, id: u64, op: &Op<'_>);
    /// Queues a request on a link. Returns the place of its frame's first byte in the link's stream, or `None` where the
    /// link's queue is full.
    fn forward(&mut self, link: LinkId, forward: &Forward<'_>) -> Option<u64>;
    /// A link to this node is needed.
    fn want(&mut self, node: NodeId);
}

/// A request that was sent to another node and is not answered.
#[derive(Debug)]
struct Sent {
    generation: u32,
    asked: Asked,
    link: LinkId,
    /// The place of its first byte in the link's stream. Once the kernel has that byte, a write is never sent again.
    place: u64,
    verb: Verb,
    condition: Condition,
    stale: bool,
    /// Of a read, which may be asked again.
    key: Vec<u8>,
}

/// An answer that waits for its barrier.
#[derive(Debug)]
struct Waiter {
    barrier: Barrier,
    asked: Asked,
    outcome: Outcome<'static>,
    is_write: bool,
}

/// What the core counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent to another node.
    pub forwards: u64,
    /// Forwards that were answered.
    pub forwards_answered: u64,
    /// Forwards whose link broke, or whose time ran out, before the answer.
    pub forwards_lost: u64,
    /// Forwards that the receiver was not the primary for.
    pub forwards_misled: u64,
    /// Requests of other nodes taken.
    pub forwarded_here: u64,
    /// Requests that had to wait for a primary.
    pub waited_for_primary: u64,
    /// Reads that had to go to the disk.
    pub cold_reads: u64,
}

/// See the module.
pub struct Core<D: Disk> {
    pub(super) store: Store<D>,
    pub(super) copy: Copy,
    directory: Directory,
    router: Router,
    me: NodeId,
    my_shard: ShardId,
    /// The moment, as last told by [`Core::at`].
    now_ms: u64,
    answer_ms: u64,
    wait_ms: u64,
    disk_ms: u64,
    max_key_bytes: usize,
    max_value_bytes: usize,
    /// The data link to each node, where it is up.
    links: Vec<Option<LinkId>>,
    lanes: FnvHashMap<LaneKey, Lane>,
    sent: Slab<Sent>,
    next_generation: u32,
    spare_keys: Vec<Vec<u8>>,
    waiters: VecDeque<Waiter>,
    cold: HashMap<OpId, LaneKey>,
    commit_lanes: Vec<LaneKey>,
    raising: Option<PersistId>,
    held_bytes: u64,
    sync_seen: (u64, u64),
    disk_slow: bool,
    counters: Counters,
}

impl<D: Disk> Core<D> {
    /// A core over a recovered store. A primary serves once its new epoch is persisted, which this starts.
    ///
    /// # Errors
    /// The store could not start to persist.
    pub fn new(cluster: &Cluster, me: NodeId, store: Store<D>) -> Result<Self, Fatal> {
        let settings = cluster.settings();
        let node = cluster.node(me);
        let copy = Copy::recovered(node.role, store.small_state().epoch, store.end());
        let mut core = Self {
            store,
            copy,
            directory: Directory::new(cluster),
            router: Router::new(cluster),
            me,
            my_shard: node.shard,
            now_ms: 0,
            answer_ms: settings.deadlines.answer_ms,
            wait_ms: settings.deadlines.wait_ms,
            disk_ms: settings.deadlines.disk_ms,
            max_key_bytes: settings.limits.max_key_bytes,
            max_value_bytes: settings.limits.max_value_bytes,
            links: vec![None; cluster.nodes().len()],
            lanes: FnvHashMap::default(),
            sent: Slab::new(),
            next_generation: 0,
            spare_keys: Vec::new(),
            waiters: VecDeque::new(),
            cold: HashMap::new(),
            commit_lanes: Vec::new(),
            raising: None,
            held_bytes: 0,
            sync_seen: (0, 0),
            disk_slow: false,
            counters: Counters::default(),
        };
        core.start()?;
        Ok(core)
    }

    fn start(&mut self) -> Result<(), Fatal> {
        if self.store.health().is_some() {
            self.copy.damaged();
            return Ok(());
        }
        // What was recovered is durable, and this copy alone decides what is committed.
        self.store.commit(self.copy.committed());
        let (epoch, begins) = (self.copy.epoch(), self.store.end().next());
        if epoch != self.store.small_state().epoch {
            self.raising = Some(self.store.persist(|state| {
                state.epoch = epoch;
                // An epoch in which nothing was written leaves no trace in the lineage.
                state.lineage.retain(|(_, from)| *from < begins);
                state.lineage.push((epoch, begins));
            })?);
        }
        Ok(())
    }

    /// Tells the moment: what follows happens then.
    pub fn at(&mut self, now: Now) {
        self.now_ms = now.ms();
    }

    /// Takes a request. It is answered through the sink: at once, or when it is due.
    pub fn submit(&mut self, ticket: Ticket, stream: Stream, op: &Op<'_>, sink: &mut impl Sink) {
        let deadline_ms = self.now_ms + self.answer_ms;
        let lane = (stream, self.router.shard_of(op.key));
        self.take(Asked { ticket, lane, deadline_ms, wait_until_ms: self.now_ms + self.wait_ms }, op, sink);
    }

    /// Takes a request that another node forwarded.
    pub fn on_forward(&mut self, link: LinkId, forward: &Forward<'_>, sink: &mut impl Sink) {
        self.counters.forwarded_here += 1;
        let ticket = Ticket::Link(link, forward.id);
        let shard = self.router.shard_of(forward.op.key);
        if shard != self.my_shard || !self.leads() {
            return sink.not_primary(link, forward.id, &forward.op);
        }
        if forward.op.key.len() > self.max_key_bytes {
            return sink.answer(ticket, &Outcome::Failed(Failure::KeyTooLong));
        }
        if forward.op.value.len() > self.max_value_bytes {
            return sink.answer(ticket, &Outcome::Failed(Failure::ValueTooLarge));
        }
        // The sender's clock started first: what cannot be done in nine tenths of what it has left comes too late.
        let deadline_ms = self.now_ms + u64::from(forward.ms_left) * 9 / 10;
        let lane = (Stream::Link(link, forward.stream), shard);
        self.take(Asked { ticket, lane, deadline_ms, wait_until_ms: deadline_ms }, &forward.op, sink);
    }

    fn take(&mut self, asked: Asked, op: &Op<'_>, sink: &mut impl Sink) {
        let target = self.target(asked.lane.1, sink);
        match (self.lanes.get(&asked.lane), target) {
            (Some(lane), Some(target)) if !lane.is_open(target) => _ = self.park(asked, op),
            (Some(lane), None) if !lane.queue.is_empty() => _ = self.park(asked, op),
            (_, Some(target)) => self.begin(asked, op, target, None, sink),
            (_, None) => {
                self.counters.waited_for_primary += 1;
                self.park(asked, op).wait = Wait::Primary;
            }
        }
    }

    /// Whether this node's copy leads its shard.
    fn leads(&self) -> bool {
        self.directory.primary(self.my_shard) == self.me && self.copy.is_primary()
    }

    /// Where a request on this shard is executed; `None` while that cannot be reached.
    fn target(&self, shard: ShardId, sink: &mut impl Sink) -> Option<Target> {
        if shard == self.my_shard && self.leads() {
            return (self.copy.serves() != Err(NotServing::Starting)).then_some(Target::Local);
        }
        let primary = self.directory.primary(shard);
        let link = self.links[primary.0 as usize];
        if link.is_none() && primary != self.me {
            sink.want(primary);
        }
        link.map(Target::Link)
    }

    /// Keeps a request behind those of its lane.
    fn park(&mut self, asked: Asked, op: &Op<'_>) -> &mut Lane {
        let parked = Parked::new(asked, op);
        self.held_bytes += parked.held_bytes();
        let lane = self.lanes.entry(asked.lane).or_default();
        lane.queue.push_back(parked);
        lane
    }

    /// Keeps a request before those of its lane: it has been begun, and must wait.
    fn park_first(&mut self, asked: Asked, op: &Op<'_>, wait: Wait) {
        let parked = Parked::new(asked, op);
        self.held_bytes += parked.held_bytes();
        let lane = self.lanes.entry(asked.lane).or_default();
        lane.queue.push_front(parked);
        lane.wait = wait;
    }

    /// Begins a request whose turn it is.
    fn begin(&mut self, asked: Asked, op: &Op<'_>, target: Target, arrived: Option<&Arrived>, sink: &mut impl Sink) {
        match target {
            Target::Link(link) => self.send(asked, op, link, sink),
            Target::Local => {
                let last_write = self.lanes.get(&asked.lane).map_or(crate::id::Lsn::ZERO, |lane| lane.last_write);
                match self.execute(asked.ticket, last_write, op, arrived, sink) {
                    Executed::Answered => {}
                    Executed::Pending { barrier, outcome, is_write } => {
                        let lane = self.lanes.entry(asked.lane).or_default();
                        lane.running += 1;
                        lane.target = target;
                        if is_write {
                            lane.last_write = barrier.committed;
                        }
                        self.waiters.push_back(Waiter { barrier, asked, outcome, is_write });
                    }
                    Executed::Cold(read) => {
                        self.counters.cold_reads += 1;
                        self.cold.insert(read, asked.lane);
                        self.park_first(asked, op, Wait::Disk(read));
                    }
                    Executed::BehindWrite(lsn) => {
                        self.commit_lanes.push(asked.lane);
                        self.park_first(asked, op, Wait::Commit(lsn));
                    }
                }
            }
        }
    }

    fn send(&mut self, asked: Asked, op: &Op<'_>, link: LinkId, sink: &mut impl Sink) {
        let left_ms = asked.deadline_ms.saturating_sub(self.now_ms);
        let stream = match asked.lane.0 {
            Stream::Client(conn) => u64::from(conn.generation) << 32 | u64::from(conn.slot),
            Stream::Link(..) => unreachable!("a forwarded request is never forwarded again"),
        };
        self.next_generation = self.next_generation.wrapping_add(1);
        let entry = self.sent.vacant_entry();
        let id = u64::from(self.next_generation) << 32 | entry.key() as u64;
        let forward = Forward { id, stream, ms_left: u32::try_from(left_ms).unwrap_or(u32::MAX), op: *op };
        let Some(place) = sink.forward(link, &forward) else {
            return sink.answer(asked.ticket, &Outcome::Failed(Failure::Overloaded));
        };
        let mut key = self.spare_keys.pop().unwrap_or_default();
        if op.verb == Verb::Get {
            key.extend_from_slice(op.key);
        }
        entry.insert(Sent {
            generation: self.next_generation,
            asked,
            link,
            place,
            verb: op.verb,
            condition: op.condition,
            stale: op.stale,
            key,
        });
        self.counters.forwards += 1;
        let lane = self.lanes.entry(asked.lane).or_default();
        lane.running += 1;
        lane.target = Target::Link(link);
    }

    /// Another node's answer to a forward.
    pub fn on_answer(&mut self, link: LinkId, id: u64, outcome: &Outcome<'_>, sink: &mut impl Sink) {
        let Some(sent) = self.take_sent(link, id) else { return };
        self.counters.forwards_answered += 1;
        sink.answer(sent.asked.ticket, outcome);
        self.ended(sent.asked.lane, sink);
        self.recycle(sent.key);
    }

    /// The receiver of a forward was not the primary: the request waits for one to be known.
    pub fn on_not_primary(&mut self, link: LinkId, id: u64, op: &Op<'_>) {
        let Some(sent) = self.take_sent(link, id) else { return };
        self.counters.forwards_misled += 1;
        let lane = self.lanes.get_mut(&sent.asked.lane).expect("a lane exists while a request of it is under way");
        lane.running -= 1;
        self.park_first(sent.asked, op, Wait::Primary);
        self.recycle(sent.key);
    }

    fn take_sent(&mut self, link: LinkId, id: u64) -> Option<Sent> {
        let (slot, generation) = ((id & 0xffff_ffff) as usize, (id >> 32) as u32);
        self.sent.get(slot).filter(|sent| sent.generation == generation && sent.link == link)?;
        Some(self.sent.remove(slot))
    }

    fn recycle(&mut self, mut key: Vec<u8>) {
        if self.spare_keys.len() < 1024 {
            key.clear();
            self.spare_keys.push(key);
        }
    }

    /// One request of a lane that was under way has been answered.
    fn ended(&mut self, key: LaneKey, sink: &mut impl Sink) {
        let lane = self.lanes.get_mut(&key).expect("a lane exists while a request of it is under way");
        lane.running -= 1;
        self.drain(key, sink);
    }

    /// Begins what a lane's queue holds, as far as it can.
    fn drain(&mut self, key: LaneKey, sink: &mut impl Sink) {
        loop {
            let Some(lane) = self.lanes.get(&key) else { return };
            if lane.is_idle() {
                self.lanes.remove(&key);
                return;
            }
            if lane.queue.is_empty() || matches!(lane.wait, Wait::Disk(_) | Wait::Commit(_)) {
                return;
            }
            let target = self.target(key.1, sink);
            let lane = self.lanes.get_mut(&key).expect("it was there");
            match target {
                None => {
                    lane.wait = Wait::Primary;
                    return;
                }
                Some(target) if !lane.takes(target) => {
                    lane.wait = Wait::Turn;
                    return;
                }
                Some(target) => {
                    lane.wait = Wait::Turn;
                    let parked = lane.queue.pop_front().expect("it has a first");
                    self.held_bytes -= parked.held_bytes();
                    self.begin(parked.asked, &parked.op(), target, None, sink);
                }
            }
        }
    }

    /// A data link that this node dialled is up.
    pub fn on_link_up(&mut self, node: NodeId, link: LinkId, sink: &mut impl Sink) {
        self.links[node.0 as usize] = Some(link);
        self.retry_primaries(sink);
    }

    /// A data link that this node dialled is gone. `written`: how many bytes of its stream the kernel took; `unsent`:
    /// those behind. What was not begun to be sent waits for the next link; a write that was is unknown; a read is asked
    /// again.
    pub fn on_link_down(&mut self, node: NodeId, link: LinkId, written: u64, unsent: &[u8], sink: &mut impl Sink) {
        if self.links[node.0 as usize] == Some(link) {
            self.links[node.0 as usize] = None;
        }
        let mut lost: Vec<(u64, usize)> =
            self.sent.iter().filter(|(_, sent)| sent.link == link).map(|(slot, sent)| (sent.place, slot)).collect();
        // The last first: each goes before what its lane holds, so that they end up in their order.
        lost.sort_unstable_by(|a, b| b.cmp(a));
        let mut lanes = Vec::new();
        for (place, slot) in lost {
            let sent = self.sent.remove(slot);
            let lane = self.lanes.get_mut(&sent.asked.lane).expect("a lane exists while a request of it is under way");
            lane.running -= 1;
            lanes.push(sent.asked.lane);
            let op = Op { verb: Verb::Get, key: &sent.key, value: &[], condition: sent.condition, stale: sent.stale };
            if place >= written {
                let op = unsent_op(unsent, place - written).expect("a frame that was queued whole");
                self.park_first(sent.asked, &op, Wait::Primary);
            } else if sent.verb == Verb::Get {
                self.park_first(sent.asked, &op, Wait::Primary);
            } else {
                self.counters.forwards_lost += 1;
                sink.answer(sent.asked.ticket, &Outcome::Failed(Failure::Unknown));
            }
            self.recycle(sent.key);
        }
        lanes.sort_unstable();
        lanes.dedup();
        for lane in lanes {
            self.drain(lane, sink);
        }
    }

    /// A stream's source is gone: what it asked and was not begun is forgotten.
    pub fn on_source_gone(&mut self, is_of_it: impl Fn(Stream) -> bool) {
        let held = &mut self.held_bytes;
        self.lanes.retain(|key, lane| {
            if is_of_it(key.0) {
                *held -= lane.queue.drain(..).map(|parked| parked.held_bytes()).sum::<u64>();
                lane.wait = Wait::Turn;
            }
            !lane.is_idle()
        });
    }

    /// A beacon of another node.
    pub fn on_status(&mut self, node: NodeId, status: Status, sink: &mut impl Sink) {
        if self.directory.hear(node, status, self.now_ms) {
            self.retry_primaries(sink);
        }
    }

    fn retry_primaries(&mut self, sink: &mut impl Sink) {
        let waiting: Vec<LaneKey> =
            self.lanes.iter().filter(|(_, lane)| lane.wait == Wait::Primary).map(|(key, _)| *key).collect();
        for key in waiting {
            self.drain(key, sink);
        }
    }

    /// Ends the turn's part of the store: one write for all records of the turn; then what the disk has completed, and
    /// the answers that have become due by it. Returns whether there is more to do at once.
    ///
    /// # Errors
    /// A write or a sync failed: the process must stop.
    pub fn flush(&mut self, sink: &mut impl Sink) -> Result<bool, Fatal> {
        self.note_syncs();
        self.store.write_turn()?;
        let end = self.store.end();
        while let Some(event) = self.store.poll()? {
            match event {
                Event::Durable(upto) => {
                    let committed = self.copy.durable(upto);
                    self.store.commit(committed);
                }
                Event::Read(arrived) => self.on_read(&arrived, sink),
                Event::Persisted(id) => {
                    if self.raising == Some(id) {
                        self.raising = None;
                        self.copy.persisted();
                        self.retry_primaries(sink);
                    }
                }
                Event::Corrupt => self.copy.damaged(),
            }
        }
        self.release(sink);
        Ok(self.store.end() != end)
    }

    /// Answers what has met its barrier.
    fn release(&mut self, sink: &mut impl Sink) {
        while let Some(waiter) = self.waiters.front()
            && self.copy.meets(&waiter.barrier)
        {
            let waiter = self.waiters.pop_front().expect("it has a first");
            sink.answer(waiter.asked.ticket, &waiter.outcome);
            self.ended(waiter.asked.lane, sink);
        }
        for key in std::mem::take(&mut self.commit_lanes) {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            match lane.wait {
                Wait::Commit(lsn) if lsn <= self.copy.committed() => {
                    lane.wait = Wait::Turn;
                    self.drain(key, sink);
                }
                Wait::Commit(_) => self.commit_lanes.push(key),
                _ => {}
            }
        }
    }

    fn on_read(&mut self, arrived: &Arrived, sink: &mut impl Sink) {
        let Some(key) = self.cold.remove(&arrived.op) else { return };
        let Some(lane) = self.lanes.get_mut(&key).filter(|lane| lane.wait == Wait::Disk(arrived.op)) else { return };
        lane.wait = Wait::Turn;
        let parked = lane.queue.pop_front().expect("a lane that waits for the disk has a first");
        self.held_bytes -= parked.held_bytes();
        self.begin(parked.asked, &parked.op(), Target::Local, Some(arrived), sink);
        self.drain(key, sink);
    }

    /// What time alone brings: requests that have waited too long, and a disk that does not answer. To be called every
    /// [`TICK_MS`] while [`Core::is_waiting`].
    pub fn tick(&mut self, sink: &mut impl Sink) {
        let now_ms = self.now_ms;
        self.judge_disk();
        let late: Vec<usize> =
            self.sent.iter().filter(|(_, sent)| sent.asked.deadline_ms <= now_ms).map(|(slot, _)| slot).collect();
        for slot in late {
            let sent = self.sent.remove(slot);
            self.counters.forwards_lost += 1;
            let failure = if sent.verb == Verb::Get { Failure::NoPrimary } else { Failure::Unknown };
            sink.answer(sent.asked.ticket, &Outcome::Failed(failure));
            self.ended(sent.asked.lane, sink);
        }
        self.expire_waiters(now_ms, sink);
        self.expire_parked(now_ms, sink);
    }

    fn expire_waiters(&mut self, now_ms: u64, sink: &mut impl Sink) {
        let (late, kept) = std::mem::take(&mut self.waiters).into_iter().partition(|w| w.asked.deadline_ms <= now_ms);
        self.waiters = kept;
        for waiter in <VecDeque<Waiter> as IntoIterator>::into_iter(late) {
            // A write that has an lsn may yet be committed; what only rested on another's was surely not applied.
            let failure = if waiter.is_write { Failure::Unknown } else { Failure::DiskSlow };
            sink.answer(waiter.asked.ticket, &Outcome::Failed(failure));
            self.ended(waiter.asked.lane, sink);
        }
    }

    fn expire_parked(&mut self, now_ms: u64, sink: &mut impl Sink) {
        let keys: Vec<LaneKey> =
            self.lanes.iter().filter(|(_, lane)| !lane.queue.is_empty()).map(|(k, _)| *k).collect();
        for key in keys {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let (wait, mut at) = (lane.wait, 0);
            while let Some(parked) = lane.queue.get(at) {
                let asked = parked.asked;
                let until = if wait == Wait::Primary { asked.wait_until_ms } else { asked.deadline_ms };
                if until > now_ms {
                    at += 1;
                    continue;
                }
                if let Some(parked) = lane.queue.remove(at) {
                    self.held_bytes -= parked.held_bytes();
                }
                if at == 0 {
                    lane.wait = if wait == Wait::Primary { wait } else { Wait::Turn };
                }
                let failure = match wait {
                    Wait::Primary | Wait::Turn => Failure::NoPrimary,
                    Wait::Disk(_) | Wait::Commit(_) => Failure::DiskSlow,
                };
                sink.answer(asked.ticket, &Outcome::Failed(failure));
            }
            self.drain(key, sink);
        }
    }

    /// A sync that has been under way for too long: the disk hangs. New writes are refused until it answers.
    fn judge_disk(&mut self) {
        self.note_syncs();
        let slow = self.now_ms >= self.sync_seen.1 + self.disk_ms;
        if slow != self.disk_slow {
            if slow {
                log::error!(
                    "the disk has not completed a sync for {} ms (deadlines.disk_ms): writes are refused until it does",
                    self.disk_ms
                );
            } else {
                log::info!("the disk answers again: writes go on");
            }
        }
        self.disk_slow = slow;
    }

    /// Remembers since when the sync that is under way has been the oldest.
    fn note_syncs(&mut self) {
        let syncs = self.store.syncs();
        if syncs.started == syncs.completed || self.sync_seen.0 != syncs.completed {
            self.sync_seen = (syncs.completed, self.now_ms);
        }
    }

    /// Whether anything waits that [`Core::tick`] could end.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let syncs = self.store.syncs();
        !self.lanes.is_empty() || syncs.started != syncs.completed || self.disk_slow
    }

    /// Whether the disk has not answered for too long.
    #[must_use]
    pub fn disk_is_slow(&self) -> bool {
        self.disk_slow
    }

    /// Whether every request was answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Bytes of requests that are kept.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// What this node tells of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            ready: self.copy.serves().is_ok() && !self.disk_slow,
            is_primary: self.copy.is_primary() && self.copy.serves() != Err(NotServing::Damaged),
            epoch: self.copy.epoch(),
            end: self.store.end(),
            committed: self.copy.committed(),
        }
    }

    /// This node's copy.
    #[must_use]
    pub fn copy(&self) -> &Copy {
        &self.copy
    }

    /// What is known of the others.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    /// The store, for its background work.
    pub fn store_mut(&mut self) -> &mut Store<D> {
        &mut self.store
    }

    /// The store, to close it.
    #[must_use]
    pub fn into_store(self) -> Store<D> {
        self.store
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Which shard a key belongs to.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }
}

/// How often [`Core::tick`] is called while something waits.
pub const TICK_MS: u64 = 25;

/// The request whose frame starts at `at` in what a link left unsent.
fn unsent_op(unsent: &[u8], at: u64) -> Option<Op<'_>> {
    let frame = unsent.get(usize::try_from(at).ok()?..)?;
    match crate::wire::decode(frame, usize::MAX) {
        Ok(Some((Message::Forward(forward), _))) => Some(forward.op),
        _ => None,
    }
}
