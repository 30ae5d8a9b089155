//! Owns: the order of requests of one stream on one shard, and requests that are kept until they can go on.
//!
//! A stream is one client's connection, here or at the node that forwarded its requests. Requests of a stream on one
//! shard keep their order: one that must wait (for a primary, for the disk, for a commit) holds those behind it. A
//! stream's requests on another shard go on.
//!
//! Never: what the requests do.

use std::collections::VecDeque;

use crate::id::{ConnId, LinkId, Lsn, ShardId, Ticket};
use crate::op::{Condition, Op, Verb};
use crate::store::disk::OpId;

/// Where requests come from in an order that must be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// A client's connection to this node.
    Client(ConnId),
    /// A client's connection to the node at the other end of the link, by that node's number for it.
    Link(LinkId, u64),
}

/// One stream's requests on one shard.
pub type LaneKey = (Stream, ShardId);

/// What is known of a request beside what it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Who waits for the answer.
    pub ticket: Ticket,
    /// Its lane.
    pub lane: LaneKey,
    /// After this nobody waits for the answer any more.
    pub deadline_ms: u64,
    /// Until then it may wait for a primary.
    pub wait_until_ms: u64,
    /// The other copies have confirmed, since it was asked, that this one leads.
    pub is_confirmed: bool,
}

/// A request that owns its bytes.
#[derive(Debug)]
pub struct Parked {
    /// What is known of it.
    pub asked: Asked,
    verb: Verb,
    condition: Condition,
    stale: bool,
    key_bytes: usize,
    bytes: Box<[u8]>,
}

impl Parked {
    /// Copies a request.
    #[must_use]
    pub fn new(asked: Asked, op: &Op<'_>) -> Self {
        let bytes = [op.key, op.value].concat().into_boxed_slice();
        Self { asked, verb: op.verb, condition: op.condition, stale: op.stale, key_bytes: op.key.len(), bytes }
    }

    /// The request.
    #[must_use]
    pub fn op(&self) -> Op<'_> {
        let (key, value) = self.bytes.split_at(self.key_bytes);
        Op { verb: self.verb, key, value, condition: self.condition, stale: self.stale }
    }

    /// The memory it takes.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        (self.bytes.len() + size_of::<Self>()) as u64
    }
}

/// Where a lane's requests are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Here.
    Local,
    /// At the other end of a link.
    Link(LinkId),
}

/// What the first request in a lane's queue waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// For those before it to be answered.
    Turn,
    /// For the shard's primary to be reachable.
    Primary,
    /// For a record to be read.
    Disk(OpId),
    /// For a record to be committed: a write of its own stream, or what fills the log's buffers.
    Commit(Lsn),
    /// For the next [`super::core::Core::flush`] to go on: enough has been begun before.
    Later,
    /// For the other copies to confirm that this one leads: this round of asking them.
    Confirm(u64),
}

/// See [`LaneKey`]. It exists only while something in it is unanswered.
#[derive(Debug)]
pub struct Lane {
    /// Requests under way at the target: sent, or waiting for their commit.
    pub running: u32,
    /// Where those are executed. A new target is taken only when none is under way at the old one.
    pub target: Target,
    /// The last record that the stream wrote here.
    pub last_write: Lsn,
    /// What the first in the queue waits for.
    pub wait: Wait,
    /// Requests that have not begun, in order.
    pub queue: VecDeque<Parked>,
}

impl Lane {
    /// A lane with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self { running: 0, target: Target::Local, last_write: Lsn::ZERO, wait: Wait::Turn, queue: VecDeque::new() }
    }

    /// Whether a request for this target may begin now.
    #[must_use]
    pub fn is_open(&self, target: Target) -> bool {
        self.queue.is_empty() && self.takes(target)
    }

    /// Whether the first in the queue may begin at this target.
    #[must_use]
    pub fn takes(&self, target: Target) -> bool {
        self.running == 0 || self.target == target
    }

    /// Whether everything in it was answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running == 0 && self.queue.is_empty()
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self::new()
    }
}
