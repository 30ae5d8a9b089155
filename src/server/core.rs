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
use super::forward::Sent;
use super::lane::{Asked, Lane, LaneKey, Parked, Stream, Target, Wait};
use crate::config::Cluster;
use crate::id::{LinkId, NodeId, Now, ShardId, Ticket};
use crate::node::Barrier;
use crate::node::copy::{Copy, NotServing};
use crate::node::directory::Directory;
use crate::op::{Failure, Op, Outcome};
use crate::router::Router;
use crate::store::disk::{Disk, OpId};
use crate::store::{Arrived, Event, Fatal, PersistId, Store};
use crate::wire::{Forward, Status};

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
    /// Nothing more will come or go on this link: it is to be closed.
    fn finish(&mut self, link: LinkId);
}

/// An answer that waits for its barrier.
#[derive(Debug)]
pub(super) struct Waiter {
    pub barrier: Barrier,
    pub asked: Asked,
    pub outcome: Outcome<'static>,
    pub is_write: bool,
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
    pub(super) directory: Directory,
    router: Router,
    me: NodeId,
    /// A witness has none.
    my_shard: Option<ShardId>,
    /// The moment, as last told by [`Core::at`].
    pub(super) now_ms: u64,
    pub(super) answer_ms: u64,
    pub(super) wait_ms: u64,
    pub(super) disk_ms: u64,
    max_key_bytes: usize,
    max_value_bytes: usize,
    /// The data link to each node, where it is up.
    pub(super) links: Vec<Option<LinkId>>,
    /// Links whose other end stops, and that are kept for the answers that are still due.
    pub(super) leaving: Vec<LinkId>,
    pub(super) lanes: FnvHashMap<LaneKey, Lane>,
    pub(super) sent: Slab<Sent>,
    pub(super) next_generation: u32,
    pub(super) spare_keys: Vec<Vec<u8>>,
    pub(super) waiters: VecDeque<Waiter>,
    cold: HashMap<OpId, LaneKey>,
    commit_lanes: Vec<LaneKey>,
    raising: Option<PersistId>,
    pub(super) held_bytes: u64,
    pub(super) sync_seen: (u64, u64),
    pub(super) disk_slow: bool,
    pub(super) counters: Counters,
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
            leaving: Vec::new(),
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
        if !self.leads(shard) {
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

    /// Whether this node's copy leads the shard.
    fn leads(&self, shard: ShardId) -> bool {
        self.my_shard == Some(shard) && self.directory.primary(shard) == self.me && self.copy.is_primary()
    }

    /// Where a request on this shard is executed; `None` while that cannot be reached.
    fn target(&self, shard: ShardId, sink: &mut impl Sink) -> Option<Target> {
        if self.leads(shard) {
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
    pub(super) fn park(&mut self, asked: Asked, op: &Op<'_>) -> &mut Lane {
        let parked = Parked::new(asked, op);
        self.held_bytes += parked.held_bytes();
        let lane = self.lanes.entry(asked.lane).or_default();
        lane.queue.push_back(parked);
        lane
    }

    /// Keeps a request before those of its lane: it has been begun, and must wait.
    pub(super) fn park_first(&mut self, asked: Asked, op: &Op<'_>, wait: Wait) {
        let parked = Parked::new(asked, op);
        self.held_bytes += parked.held_bytes();
        let lane = self.lanes.entry(asked.lane).or_default();
        lane.queue.push_front(parked);
        lane.wait = wait;
    }

    /// Keeps a request that was sent in vain, before those of its lane that came after it: what was sent together comes
    /// back one by one, and what comes back later may be older.
    pub(super) fn park_again(&mut self, asked: Asked, op: &Op<'_>) {
        let parked = Parked::new(asked, op);
        self.held_bytes += parked.held_bytes();
        let lane = self.lanes.entry(asked.lane).or_default();
        let at = lane.queue.partition_point(|other| other.asked.ticket < asked.ticket);
        lane.queue.insert(at, parked);
        lane.wait = Wait::Primary;
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
                    Executed::NoRoom => {
                        self.commit_lanes.push(asked.lane);
                        self.park_first(asked, op, Wait::Commit(self.store.end()));
                    }
                }
            }
        }
    }

    /// One request of a lane that was under way has been answered.
    pub(super) fn ended(&mut self, key: LaneKey, sink: &mut impl Sink) {
        let lane = self.lanes.get_mut(&key).expect("a lane exists while a request of it is under way");
        lane.running -= 1;
        self.drain(key, sink);
    }

    /// Begins what a lane's queue holds, as far as it can.
    pub(super) fn drain(&mut self, key: LaneKey, sink: &mut impl Sink) {
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

    /// The control link to a node broke.
    pub fn on_lost(&mut self, node: NodeId) {
        self.directory.lose(node);
    }

    pub(super) fn retry_primaries(&mut self, sink: &mut impl Sink) {
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
            ..Status::default()
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
