//! Owns: everything about a request that is not I/O: where it is executed, in which order, what it waits for, and until
//! when. Sans I/O: the clock and the links are arguments, the disk is behind the store, and answers go into a [`Sink`].
//!
//! The way of a request: [`Core::submit`] → its lane → here ([`super::execute`]) or over a link → [`Sink::answer`].
//!
//! Never: sockets, HTTP, the clock; protocol rules (those are the node's) and file formats.

use std::collections::{BTreeMap, HashMap, VecDeque};

use fnv::FnvHashMap;
use slab::Slab;

use super::agreement::Agreement;
use super::ahead::Ahead;
use super::execute::Executed;
use super::follow::Follow;
use super::forward::Sent;
use super::lane::{Asked, Lane, LaneKey, Parked, Stream, Target, Wait};
use super::lead::Lead;
use crate::config::{Cluster, Reads};
use crate::configuration::Member;
use crate::id::{LinkId, Lsn, NodeId, Now, ShardId, Ticket, Uuid};
use crate::node::Barrier;
use crate::node::copy::{Copy, NotServing};
use crate::node::directory::Directory;
use crate::node::registers::Registers;
use crate::op::{Failure, Op, Outcome};
use crate::router::Router;
use crate::store::disk::{Disk, OpId};
use crate::store::{Event, Fatal, Home, Known, Options, Store, SyncProgress};
use crate::wire::{Class, Forward, Message};

/// Where what the core decides goes: to the sockets, or to a simulation's.
pub trait Sink {
    /// The answer to a request. Each ticket gets one.
    fn answer(&mut self, ticket: Ticket, outcome: &Outcome<'_>);
    /// Queues a message on a link. Returns the place of its frame's first byte in the link's stream, or `None` where the
    /// link is gone.
    fn send(&mut self, link: LinkId, message: &Message<'_>) -> Option<u64>;
    /// Bytes that are queued on a link and have not left.
    fn queued_bytes(&mut self, link: LinkId) -> usize;
    /// A link to this node is needed.
    fn want(&mut self, node: NodeId, class: Class);
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
    /// Reads that had to ask the other copies.
    pub confirmed_reads: u64,
    /// Changes of this copy's role or configuration, by reason.
    pub changes: BTreeMap<&'static str, u64>,
    /// Times that this copy was synced anew.
    pub full_syncs: u64,
    /// How long this node's shard has had no primary that serves, as far as this node could see.
    pub without_primary_ns: u64,
}

/// So long at most a sync waits for more to share it, in nanoseconds.
const GATHER_NS: u64 = 250_000;

/// What a core starts from, beside its store.
#[derive(Debug, Clone)]
pub struct Start {
    /// The moment.
    pub now: Now,
    /// Names this run of the process: random, never the same twice.
    pub incarnation: Uuid,
    /// Random: pauses, and the numbers of new generations of the data, derive from it.
    pub entropy: u128,
    /// The settings of a new generation.
    pub options: Options,
}

/// See the module.
pub struct Core<D: Disk> {
    pub(super) home: Home<D>,
    pub(super) store: Store<D>,
    pub(super) copy: Copy,
    pub(super) directory: Directory,
    pub(super) agreement: Agreement,
    pub(super) lead: Lead,
    pub(super) follow: Follow<D>,
    router: Router,
    pub(super) me: NodeId,
    /// The addresses of all nodes, for people to read.
    pub(super) names: Vec<String>,
    pub(super) my_shard: Option<ShardId>,
    /// The nodes of each shard: its copies, in the table's order.
    pub(super) copies: Vec<Vec<NodeId>>,
    /// The moment, as last told by [`Core::at`].
    pub(super) now_ns: u64,
    pub(super) now_ms: u64,
    pub(super) answer_ms: u64,
    pub(super) wait_ms: u64,
    pub(super) disk_ms: u64,
    pub(super) reads: Reads,
    max_key_bytes: usize,
    max_value_bytes: usize,
    pub(super) max_inflight_bytes: usize,
    pub(super) options: Options,
    entropy: u128,
    drawn: u64,
    /// The data link to each node, and the control link, where they are up.
    pub(super) links: Vec<Option<LinkId>>,
    pub(super) controls: Vec<Option<LinkId>>,
    /// Links whose other end stops, and that are kept for the answers that are still due.
    pub(super) leaving: Vec<LinkId>,
    /// Nothing else of a lane overtakes these: see [`Core::submit`].
    ahead: Ahead,
    /// When the last sync began.
    sync_began_ns: u64,
    /// See [`Core::gather_for_sync`].
    gathers_until_ns: u64,
    pub(super) lanes: FnvHashMap<LaneKey, Lane>,
    pub(super) sent: Slab<Sent>,
    pub(super) next_generation: u32,
    pub(super) spare_keys: Vec<Vec<u8>>,
    pub(super) waiters: VecDeque<Waiter>,
    /// Those that also wait for a round of confirmations.
    pub(super) readers: VecDeque<Waiter>,
    pub(super) cold: HashMap<OpId, LaneKey>,
    pub(super) commit_lanes: Vec<LaneKey>,
    /// Lanes that were left to the next turn, in order.
    pub(super) left: VecDeque<LaneKey>,
    /// Bytes of values that were written, sent or answered since the last [`Core::release`] began.
    pub(super) begun_bytes: usize,
    pub(super) confirm_lanes: Vec<LaneKey>,
    pub(super) held_bytes: u64,
    pub(super) sync_seen: (u64, u64),
    pub(super) disk_slow: bool,
    /// Since when it is told to stop.
    pub(super) stopping_since_ns: Option<u64>,
    pub(super) ticked_ns: u64,
    /// The node has more to do than the core knows of.
    pub(super) is_busy: bool,
    /// The other copies can do without it.
    pub(super) is_released: bool,
    /// Shards that have another primary, and until when the one before may answer.
    pub(super) superseded: Vec<(ShardId, u64)>,
    /// A primary's answer to an operator: why it does not hand over.
    pub(super) not_handed: Option<(NodeId, String)>,
    pub(super) counters: Counters,
}

impl<D: Disk> Core<D> {
    /// A core over a recovered home and store.
    ///
    /// # Errors
    /// What is persisted does not fit the table: a sentence.
    pub fn new(cluster: &Cluster, me: NodeId, home: Home<D>, store: Store<D>, start: Start) -> Result<Self, String> {
        let settings = cluster.settings();
        let node = cluster.node(me);
        let member = Member { node: me, store: store.small_state().content() };
        let copies: Vec<Vec<NodeId>> = cluster.shards().iter().map(|shard| shard.nodes.clone()).collect();
        let others = node.shard.map_or(Vec::new(), |shard| {
            copies[shard.0 as usize].iter().copied().filter(|other| *other != me).collect()
        });
        let (failover_ms, disk_ms) = (settings.replication.failover_ms, settings.deadlines.disk_ms);
        let grace_before_ms = home.state().largest_grace_ms;
        let epoch = store.small_state().epoch;
        let mut copy = Copy::new(member, others, epoch, (failover_ms, disk_ms), grace_before_ms, start.now.boot_ns);
        copy.set_health(store.health().is_some(), store.small_state().whole);
        if store.small_state().cuts > 0 {
            copy.set_cut();
        }
        let agreement = Agreement::new(cluster, me, &home, member.store, &start)?;
        Ok(Self {
            home,
            store,
            copy,
            directory: Directory::new(cluster),
            agreement,
            lead: Lead::default(),
            follow: Follow::default(),
            router: Router::new(cluster),
            me,
            names: cluster.nodes().iter().map(|node| node.address.to_string()).collect(),
            my_shard: node.shard,
            copies,
            now_ns: start.now.boot_ns,
            now_ms: start.now.ms(),
            answer_ms: settings.deadlines.answer_ms,
            wait_ms: settings.deadlines.wait_ms,
            disk_ms,
            reads: settings.replication.reads,
            max_key_bytes: settings.limits.max_key_bytes,
            max_value_bytes: settings.limits.max_value_bytes,
            max_inflight_bytes: settings.limits.max_inflight_bytes,
            options: start.options,
            entropy: start.entropy,
            drawn: 0,
            links: vec![None; cluster.nodes().len()],
            controls: vec![None; cluster.nodes().len()],
            leaving: Vec::new(),
            ahead: Ahead::default(),
            sync_began_ns: 0,
            gathers_until_ns: 0,
            lanes: FnvHashMap::default(),
            sent: Slab::new(),
            next_generation: 0,
            spare_keys: Vec::new(),
            waiters: VecDeque::new(),
            readers: VecDeque::new(),
            cold: HashMap::new(),
            commit_lanes: Vec::new(),
            left: VecDeque::new(),
            begun_bytes: 0,
            confirm_lanes: Vec::new(),
            held_bytes: 0,
            sync_seen: (0, start.now.ms()),
            disk_slow: false,
            stopping_since_ns: None,
            ticked_ns: start.now.boot_ns,
            is_busy: false,
            is_released: false,
            superseded: Vec::new(),
            not_handed: None,
            counters: Counters::default(),
        })
    }

    /// A number that nobody else draws.
    pub(super) fn random(&mut self) -> u128 {
        use siphasher::sip128::{Hasher128, SipHasher13};
        use std::hash::Hasher;
        let mut hasher = SipHasher13::new_with_keys((self.entropy >> 64) as u64, self.entropy as u64);
        hasher.write_u64(self.drawn);
        self.drawn += 1;
        hasher.finish128().as_u128()
    }

    /// Tells the moment: what follows happens then. To be told after what it judges was read from the sockets.
    pub fn at(&mut self, now: Now) {
        self.now_ms = now.ms();
        self.now_ns = now.boot_ns;
        self.copy.at(now.boot_ns);
        self.store.at(self.now_ms);
    }

    /// Takes a request. It is answered through the sink: at once, or when it is due. Requests on this node's shard are begun
    /// some at a time, those of a lane in the order in which they came: see [`Core::begin_some`].
    pub fn submit(&mut self, ticket: Ticket, stream: Stream, op: &Op<'_>, sink: &mut impl Sink) {
        let deadline_ms = self.now_ms + self.answer_ms;
        let lane = (stream, self.router.shard_of(op.key));
        let wait_until_ms = self.now_ms + self.wait_ms;
        let asked = Asked { ticket, lane, deadline_ms, wait_until_ms, is_confirmed: false };
        if self.my_shard != Some(lane.1) || !self.ahead.takes(lane, op) {
            return self.take(asked, op, Known::default(), sink);
        }
        self.ahead.push(asked, op);
        if self.ahead.is_full() {
            self.begin_some(sink);
        }
    }

    /// Begins requests that were put off, as many as a turn can at once. To be called when a turn's requests were submitted.
    /// Returns whether some are left: they come before whatever comes later in their lanes, in this turn or the next.
    pub fn begin_some(&mut self, sink: &mut impl Sink) -> bool {
        let mut ahead = std::mem::take(&mut self.ahead);
        let count = ahead.expect(&self.store);
        for (asked, op, looked) in ahead.first(count) {
            self.take(asked, &op, Known { looked: Some(looked), arrived: None }, sink);
        }
        ahead.forget(count);
        self.ahead = ahead;
        !self.ahead.is_empty()
    }

    /// Leaves the requests that were put off to the next turn, if none of them were left already: whether it did.
    pub fn leaves_all(&mut self) -> bool {
        self.ahead.leaves_all()
    }

    /// Whether there is so much to do for the requests that have come that no others should be read in this turn.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.ahead.has_left() || self.store.owes_compaction()
    }

    /// Takes a request that another node forwarded.
    pub(super) fn on_forward(&mut self, link: LinkId, forward: &Forward<'_>, sink: &mut impl Sink) {
        self.counters.forwarded_here += 1;
        let ticket = Ticket::Link(link, forward.id);
        let shard = self.router.shard_of(forward.op.key);
        let is_for_any_copy = forward.op.stale && self.my_shard == Some(shard) && self.copy.may_answer_stale();
        if !self.leads(shard) && !is_for_any_copy {
            return send_back(link, forward.id, &forward.op, sink);
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
        let asked = Asked { ticket, lane, deadline_ms, wait_until_ms: deadline_ms, is_confirmed: false };
        self.take(asked, &forward.op, Known::default(), sink);
    }

    fn take(&mut self, asked: Asked, op: &Op<'_>, known: Known<'_>, sink: &mut impl Sink) {
        let target = self.target(asked.lane, op.stale, sink);
        match (self.lanes.get(&asked.lane), target) {
            (Some(lane), Some(target)) if !lane.is_open(target) => _ = self.park(asked, op),
            (Some(lane), None) if !lane.queue.is_empty() => _ = self.park(asked, op),
            (_, Some(target)) => self.begin(asked, op, target, known, sink),
            (_, None) => {
                self.counters.waited_for_primary += 1;
                self.park(asked, op).wait = Wait::Primary;
            }
        }
    }

    /// Whether requests on this shard are this node's: its copy leads, or it is the last that did and is damaged.
    fn leads(&self, shard: ShardId) -> bool {
        let is_last = || self.copy.is_damaged() && self.directory.primary(shard) == self.me;
        self.my_shard == Some(shard) && (self.copy.leads() || is_last())
    }

    /// Where a request is executed; `None` while that cannot be reached.
    pub(super) fn target(&self, lane: LaneKey, is_stale: bool, sink: &mut impl Sink) -> Option<Target> {
        let shard = lane.1;
        if is_stale && self.my_shard == Some(shard) && self.copy.may_answer_stale() {
            return Some(Target::Local);
        }
        if self.leads(shard) {
            return (self.copy.serves(self.store.committed()) != Err(NotServing::Starting)).then_some(Target::Local);
        }
        // What was forwarded once goes no further.
        if matches!(lane.0, Stream::Link(..)) {
            return None;
        }
        let primary = self.directory.primary(shard);
        if let Some(link) = self.links[primary.0 as usize] {
            return Some(Target::Link(link));
        }
        if primary != self.me {
            sink.want(primary, Class::Data);
        }
        if !is_stale {
            return None;
        }
        // A stale read is answered by any copy.
        let others = || self.copies[shard.0 as usize].iter().filter(|node| **node != self.me);
        others().for_each(|node| sink.want(*node, Class::Data));
        others().find_map(|node| self.links[node.0 as usize]).map(Target::Link)
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
    pub(super) fn begin(&mut self, asked: Asked, op: &Op<'_>, target: Target, known: Known<'_>, sink: &mut impl Sink) {
        match target {
            Target::Link(link) => {
                self.begun_bytes += op.value.len();
                self.send(asked, op, link, sink);
            }
            Target::Local => {
                let last_write = self.lanes.get(&asked.lane).map_or(Lsn::ZERO, |lane| lane.last_write);
                match self.execute(&asked, last_write, op, known, sink) {
                    Executed::Answered => {}
                    Executed::Pending { barrier, outcome, is_write } => {
                        self.begun_bytes += op.value.len();
                        let lane = self.lanes.entry(asked.lane).or_default();
                        lane.running += 1;
                        lane.target = target;
                        if is_write {
                            lane.last_write = barrier.committed;
                        }
                        let queue = if barrier.round > 0 { &mut self.readers } else { &mut self.waiters };
                        queue.push_back(Waiter { barrier, asked, outcome, is_write });
                    }
                    Executed::Cold(read) => {
                        self.counters.cold_reads += 1;
                        self.cold.insert(read, asked.lane);
                        self.park_first(asked, op, Wait::Disk(read));
                    }
                    Executed::Unconfirmed(round) => {
                        self.confirm_lanes.push(asked.lane);
                        self.park_first(asked, op, Wait::Confirm(round));
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

    /// A stream's source is gone: what it asked and was not begun is forgotten.
    pub fn on_source_gone(&mut self, is_of_it: impl Fn(Stream) -> bool) {
        self.ahead.forget_of(&is_of_it);
        let held = &mut self.held_bytes;
        self.lanes.retain(|key, lane| {
            if is_of_it(key.0) {
                *held -= lane.queue.drain(..).map(|parked| parked.held_bytes()).sum::<u64>();
                lane.wait = Wait::Turn;
            }
            !lane.is_idle()
        });
    }

    /// This copy does not lead any more: all that waits for it is settled now. What has an lsn is unknown; the rest was
    /// surely not applied, and goes to the next primary where it still can.
    pub(super) fn settle(&mut self, sink: &mut impl Sink) {
        let waiters: Vec<Waiter> = self.waiters.drain(..).chain(self.readers.drain(..)).collect();
        self.cold.clear();
        self.commit_lanes.clear();
        self.confirm_lanes.clear();
        self.left.clear();
        for lane in self.lanes.values_mut() {
            lane.last_write = Lsn::ZERO;
            if matches!(lane.wait, Wait::Disk(_) | Wait::Commit(_) | Wait::Confirm(_) | Wait::Later) {
                lane.wait = Wait::Primary;
            }
        }
        let is_ours = |key: &LaneKey, shard| matches!(key.0, Stream::Link(..)) && Some(key.1) == shard;
        let mut forwarded: Vec<LaneKey> =
            self.lanes.keys().filter(|key| is_ours(key, self.my_shard)).copied().collect();
        forwarded.sort_unstable();
        for key in forwarded {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let parked: Vec<Parked> = lane.queue.drain(..).collect();
            for parked in parked {
                self.held_bytes -= parked.held_bytes();
                if let Ticket::Link(link, id) = parked.asked.ticket {
                    send_back(link, id, &parked.op(), sink);
                }
            }
        }
        for waiter in waiters {
            let failure = if waiter.is_write { Failure::Unknown } else { Failure::NoPrimary };
            sink.answer(waiter.asked.ticket, &Outcome::Failed(failure));
            self.ended(waiter.asked.lane, sink);
        }
        self.lanes.retain(|_, lane| !lane.is_idle());
        self.retry_primaries(sink);
    }

    /// Ends the turn's part of the store: one write for all records of the turn, which go to the other copies as well;
    /// then what the disk has completed, what the copies have said, and the answers that have become due by it. Returns
    /// whether there is more to do at once.
    ///
    /// # Errors
    /// A write or a sync failed: the process must stop.
    pub fn flush(&mut self, sink: &mut impl Sink) -> Result<bool, Fatal> {
        self.note_syncs();
        let (syncs, staged_bytes) = (self.store.syncs(), self.store.unwritten_bytes());
        self.gather_for_sync();
        self.store.write_turn()?;
        self.fan_out(sink);
        let end = self.store.end();
        while let Some(event) = self.store.poll()? {
            match event {
                // What follows is asked of the store itself, below.
                Event::Durable(_) => {}
                Event::LogRead(_) => self.lead.has_read = true,
                Event::Read(arrived) => self.on_read(&arrived, sink),
                Event::Persisted(id) => self.on_persisted(id, sink)?,
                Event::Corrupt => self.on_damage(sink),
            }
        }
        self.flush_fresh(sink)?;
        self.flush_agreement(sink)?;
        let more = self.catch_up(staged_bytes, sink);
        self.advance(sink)?;
        self.acknowledge(sink);
        self.release(sink);
        self.go_on_handing_over(sink);
        self.note_sync_times(syncs);
        let more = more || self.is_behind() || self.has_left() || !self.ahead.is_empty();
        Ok(more || self.store.sync_is_due() || self.store.end() != end)
    }

    /// Whoever is answered asks again a moment later, and what comes together shares a sync: so behind one, the next begins in
    /// a turn in which nothing came, or in the first turn after so long as that one took, [`GATHER_NS`] at most.
    fn gather_for_sync(&mut self) {
        let syncs = self.store.syncs();
        let is_under_way = syncs.started > syncs.completed;
        let comes_more = self.store.unwritten_bytes() > 0 && self.now_ns < self.gathers_until_ns;
        self.store.hold_syncs(is_under_way || comes_more);
    }

    /// The other end of [`Core::gather_for_sync`]: nothing is held from here on. `before`: the syncs before the flush.
    fn note_sync_times(&mut self, before: SyncProgress) {
        let syncs = self.store.syncs();
        if syncs.completed > before.completed {
            self.gathers_until_ns = self.now_ns + GATHER_NS.min(self.now_ns - self.sync_began_ns);
        }
        if syncs.started > before.started {
            self.sync_began_ns = self.now_ns;
        }
        self.store.hold_syncs(false);
    }

    /// Bytes of records that the next [`Core::flush`] writes.
    #[must_use]
    pub fn unwritten_bytes(&self) -> usize {
        let fresh = self.follow.fresh.as_ref().map_or(0, |fresh| fresh.store.unwritten_bytes());
        self.store.unwritten_bytes() + fresh
    }

    /// Whether the disk has not answered for too long.
    #[must_use]
    pub fn disk_is_slow(&self) -> bool {
        self.disk_slow
    }

    /// Whether every request was answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty() && self.ahead.is_empty()
    }

    /// Tells whether clients or other nodes may still ask for something: until they do not, the last of a shard's copies
    /// to stop lets no other go.
    pub fn set_busy(&mut self, is_busy: bool) {
        self.is_busy = is_busy;
    }

    /// Whether the other copies of the shard can do without this node, which is told to stop.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.is_released
    }

    /// Whether another node has a copy of this node's shard.
    #[must_use]
    pub fn is_copy_of_my_shard(&self, node: NodeId) -> bool {
        self.my_shard.is_some_and(|shard| self.copies[shard.0 as usize].contains(&node))
    }

    /// Bytes of requests that are kept.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes + self.ahead.held_bytes() as u64
    }

    /// This node's copy.
    #[must_use]
    pub fn copy(&self) -> &Copy {
        &self.copy
    }

    /// Which generation of the data counts.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.home.state().generation
    }

    /// The registers on this node.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.agreement.registers
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

    /// Ends it in order: what is staged is written and synced. *Blocking.*
    ///
    /// # Errors
    /// A write or sync failed.
    pub fn close(self) -> Result<(), Fatal> {
        self.store.close()?;
        self.home.close()
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

/// A forwarded request that is not for this node goes back as it came.
fn send_back(link: LinkId, id: u64, op: &Op<'_>, sink: &mut impl Sink) {
    sink.send(link, &Message::NotPrimary { id, op: *op });
}
