//! Owns: what the server keeps with each connection: a client's place in its stream of requests, or a link's in its
//! handshake.
//! Never: sockets.

use super::metrics::CallKind;
use super::pipeline::Pipeline;
use super::render::About;
use crate::http::{Decoder, Phase};
use crate::id::{NodeId, Uuid};
use crate::op::Verb;
use crate::reactor::Kept;
use crate::wire::Class;

/// A client whose output holds more than this, in bytes, is not read from.
const OUTPUT_PAUSE_BYTES: usize = 256 * 1024;

/// What a connection is.
pub enum Role {
    /// A client's; the listener knows no other at first.
    Client(Client),
    /// A peer link.
    Link(Link),
}

impl Kept for Role {
    /// Links go before clients: bulk of theirs must not delay a beacon, or an answer of a peer.
    fn is_urgent(&self) -> bool {
        matches!(self, Role::Link(_))
    }
}

/// What a request's answer needs, until it is due.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// How it is written.
    pub about: About,
    /// For the text of a 404.
    pub verb: Verb,
    /// For the metrics.
    pub call: CallKind,
    /// When the turn began that read the request, on the loop's clock.
    pub since_ns: u64,
}

/// A client's connection.
pub struct Client {
    /// Where it is in the stream of requests.
    pub decoder: Decoder,
    /// The answers that are due, in order.
    pub pipeline: Pipeline<Due>,
    /// What it was in the midst of at the last look, and since when (milliseconds of the loop's clock).
    pub phase: Phase,
    /// How many requests had come before that.
    pub request: u64,
    /// See `phase`.
    pub since_ms: u64,
    /// Bytes of the body under way that have come, as of the last look.
    pub body_bytes: u64,
    /// No further request is taken: the answer that closes is under way, or the client has ended its half.
    pub is_last: bool,
    /// Reading stopped until answers have left.
    pub is_paused: bool,
    /// `100 Continue` is due once the answers before it have left.
    pub owes_continue: bool,
    /// Above `limits.max_connections`: only a peer may use it.
    pub is_surplus: bool,
    /// Bytes of the body under way that are still to come, as counted in [`Ledger::promised_bytes`].
    pub promised_bytes: u64,
}

/// Bytes that are in flight, but in no connection's buffers: with those they make up what
/// `limits.max_inflight_bytes` bounds.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Of bodies that were let in and are still to come.
    pub promised_bytes: u64,
    /// Of answers that wait for their turn.
    pub early_bytes: u64,
    /// Of answers that were queued in this turn; once sent, or not, the buffers show them.
    pub queued_bytes: u64,
}

impl Ledger {
    /// All of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.promised_bytes + self.early_bytes + self.queued_bytes
    }

    /// A client's body has so many bytes to come now.
    pub fn promise(&mut self, client: &mut Client, bytes: u64) {
        self.promised_bytes = self.promised_bytes - client.promised_bytes + bytes;
        client.promised_bytes = bytes;
    }
}

impl Client {
    /// A fresh connection.
    #[must_use]
    pub fn new(now_ms: u64, is_surplus: bool) -> Self {
        Self {
            decoder: Decoder::default(),
            pipeline: Pipeline::default(),
            phase: Phase::Idle,
            request: 0,
            since_ms: now_ms,
            body_bytes: 0,
            is_last: false,
            is_paused: false,
            owes_continue: false,
            is_surplus,
            promised_bytes: 0,
        }
    }

    /// Whether it is not to be read from until answers have left. `output_bytes`: what its output holds.
    #[must_use]
    pub fn must_pause(&self, output_bytes: usize, max_pipeline: usize) -> bool {
        self.pipeline.len() >= max_pipeline || output_bytes + self.pipeline.early_bytes() > OUTPUT_PAUSE_BYTES
    }
}

/// How far a link's handshake has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Dialled: the connection is not up.
    Connecting,
    /// Dialled: the upgrade was asked for.
    Upgrading,
    /// Dialled: the hello was sent.
    Greeting,
    /// Accepted: the hello is awaited.
    Listening,
    /// It carries messages.
    Up,
    /// Refused; the other side's word is awaited for a moment.
    Refused,
}

/// A peer link.
#[derive(Debug)]
pub struct Link {
    /// The node at the other end; for an accepted link, once it has said so.
    pub node: NodeId,
    /// What it is for; likewise.
    pub class: Class,
    /// Whether this node dialled it.
    pub is_dialled: bool,
    /// The handshake.
    pub stage: Stage,
    /// When something was last heard on it, or when it began (milliseconds of the loop's clock).
    pub heard_ms: u64,
    /// The cluster that the other end belongs to, as it said in the handshake; zero: it knew of none.
    pub cluster: Uuid,
    /// Bytes that the kernel had taken at the last look.
    pub written_bytes: u64,
}

impl Link {
    /// Whether another node forwards requests by it.
    #[must_use]
    pub fn brings_requests(&self) -> bool {
        !self.is_dialled && self.class == Class::Data && self.stage == Stage::Up
    }
}
