//! Owns: the links that this node dials to the others, when to dial them again, and which link of a peer is the newest.
//! A link belongs to the node that dialled it: requests go down, answers come back. So a pair of nodes has up to two
//! links (see [`Class`]) in each direction that has something to ask, and none where nobody asks.
//!
//! Never: what a message means; sockets (it says *dial*, the server does), clocks.

use std::collections::HashMap;

use crate::id::{ConnId, LinkId, NodeId};
use crate::wire::Class;

/// The first pause after a failed dial, in milliseconds; it doubles up to the last.
const BACKOFF_FIRST_MS: u64 = 50;
const BACKOFF_LAST_MS: u64 = 2_000;
/// The pause after a refusal: nothing changes until somebody edits a file and restarts a node.
const BACKOFF_REFUSED_MS: u64 = 5_000;
/// How long a dial and its hello may take.
pub const DIAL_MS: u64 = 2_000;
/// How often each link carries a beacon, and after how long a silent link is given up. TCP alone would not notice a
/// cut for a quarter of an hour.
pub const BEACON_MS: u64 = 500;
/// See [`BEACON_MS`].
pub const SILENCE_MS: u64 = 3_000;
/// A data link's beacons stand behind its bulk, which may be in the kernel's buffers for long where the link is slow. While
/// the control link to the same node says that it is there, a data link may be silent for so long.
const BULK_SILENCE_MS: u64 = 15_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody has needed it yet.
    Unwanted,
    /// To be dialled at this moment.
    Waiting { until_ms: u64 },
    /// Dialled; the hello is not through.
    Dialling { conn: ConnId, since_ms: u64 },
    /// Up.
    Up(LinkId),
}

#[derive(Debug)]
struct Outgoing {
    state: State,
    failures: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Peers {
    me: NodeId,
    outgoing: Vec<[Outgoing; 2]>,
    incoming: HashMap<(NodeId, Class), ConnId>,
    /// State of the jitter of the pauses; anything but zero.
    jitter: u64,
}

impl Peers {
    /// For the node `me` of `count` nodes. `seed` spreads the pauses of different nodes.
    #[must_use]
    pub fn new(me: NodeId, count: usize, seed: u64) -> Self {
        let fresh = || Outgoing { state: State::Unwanted, failures: 0 };
        Self {
            me,
            outgoing: (0..count).map(|_| [fresh(), fresh()]).collect(),
            incoming: HashMap::new(),
            jitter: seed | 1,
        }
    }

    /// The link to a node, if it is up.
    #[must_use]
    pub fn link(&self, node: NodeId, class: Class) -> Option<LinkId> {
        match self.outgoing(node, class)?.state {
            State::Up(link) => Some(link),
            _ => None,
        }
    }

    /// After how long a silent link with a node is given up, in milliseconds.
    #[must_use]
    pub fn patience_ms(&self, node: NodeId, class: Class) -> u64 {
        let is_there = class == Class::Data && self.link(node, Class::Control).is_some();
        if is_there { BULK_SILENCE_MS } else { SILENCE_MS }
    }

    /// From now on this link is kept up.
    pub fn want(&mut self, node: NodeId, class: Class) {
        assert!(node != self.me, "a node has no link to itself");
        if let Some(o) = self.outgoing_mut(node, class)
            && o.state == State::Unwanted
        {
            o.state = State::Waiting { until_ms: 0 };
        }
    }

    /// The links to dial now.
    #[must_use]
    pub fn due(&self, now_ms: u64) -> Vec<(NodeId, Class)> {
        self.each()
            .filter(|(.., o)| matches!(o.state, State::Waiting { until_ms } if until_ms <= now_ms))
            .map(|(node, class, _)| (node, class))
            .collect()
    }

    /// The links whose dial has taken too long; the caller closes them, and says so by [`Peers::down`].
    #[must_use]
    pub fn overdue(&self, now_ms: u64) -> Vec<ConnId> {
        self.each()
            .filter_map(|(.., o)| match o.state {
                State::Dialling { conn, since_ms } if since_ms + DIAL_MS <= now_ms => Some(conn),
                _ => None,
            })
            .collect()
    }

    /// When [`Peers::due`] or [`Peers::overdue`] will have something next.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.each()
            .filter_map(|(.., o)| match o.state {
                State::Waiting { until_ms } => Some(until_ms),
                State::Dialling { since_ms, .. } => Some(since_ms + DIAL_MS),
                State::Unwanted | State::Up(_) => None,
            })
            .min()
    }

    /// The link was dialled as this connection.
    pub fn dialled(&mut self, node: NodeId, class: Class, conn: ConnId, now_ms: u64) {
        if let Some(o) = self.outgoing_mut(node, class) {
            o.state = State::Dialling { conn, since_ms: now_ms };
        }
    }

    /// The other side has welcomed it.
    pub fn up(&mut self, node: NodeId, class: Class, conn: ConnId) {
        if let Some(o) = self.outgoing_mut(node, class) {
            o.state = State::Up(LinkId(conn));
            o.failures = 0;
        }
        self.is_there(node);
    }

    /// A node has shown that it is there: what waits to be dialled again is dialled now, not when its pause is over,
    /// which has grown while the node was away.
    fn is_there(&mut self, node: NodeId) {
        for o in self.outgoing.get_mut(node.0 as usize).into_iter().flatten() {
            if let State::Waiting { until_ms } = &mut o.state {
                (*until_ms, o.failures) = (0, 0);
            }
        }
    }

    /// A dialled link could not be made, or broke; `refused`: the other side does not want us.
    pub fn down(&mut self, node: NodeId, class: Class, refused: bool, now_ms: u64) {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let jitter = self.jitter;
        let Some(o) = self.outgoing_mut(node, class) else { return };
        let pause = (BACKOFF_FIRST_MS << o.failures.min(10)).min(BACKOFF_LAST_MS);
        let pause = if refused { BACKOFF_REFUSED_MS } else { pause };
        // A link that was up is dialled again at once, the first time.
        let pause = if matches!(o.state, State::Up(_)) && !refused { 0 } else { pause / 2 + jitter % (pause / 2 + 1) };
        o.failures += 1;
        o.state = State::Waiting { until_ms: now_ms + pause };
    }

    /// A peer's hello arrived on this connection. The older link of that peer and class is to be dropped, unread.
    pub fn accepted(&mut self, node: NodeId, class: Class, conn: ConnId) -> Option<ConnId> {
        self.is_there(node);
        self.incoming.insert((node, class), conn)
    }

    /// An accepted link is gone.
    pub fn lost(&mut self, node: NodeId, class: Class, conn: ConnId) {
        if self.incoming.get(&(node, class)) == Some(&conn) {
            self.incoming.remove(&(node, class));
        }
    }

    /// All links that are up, both ways.
    #[must_use]
    pub fn all_up(&self) -> Vec<ConnId> {
        let out = self.each().filter_map(|(.., o)| match o.state {
            State::Up(link) => Some(link.0),
            _ => None,
        });
        out.chain(self.incoming.values().copied()).collect()
    }

    /// The accepted links by which other nodes forward requests.
    pub fn accepted_data(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.incoming.iter().filter(|((_, class), _)| *class == Class::Data).map(|(_, conn)| LinkId(*conn))
    }

    /// The dialled links that are up.
    pub fn dialled_up(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.each().filter_map(|(.., o)| match o.state {
            State::Up(link) => Some(link),
            _ => None,
        })
    }

    fn each(&self) -> impl Iterator<Item = (NodeId, Class, &Outgoing)> {
        self.outgoing.iter().enumerate().flat_map(|(at, pair)| {
            Class::ALL.into_iter().zip(pair).map(move |(class, o)| (NodeId(at as u32), class, o))
        })
    }

    fn outgoing(&self, node: NodeId, class: Class) -> Option<&Outgoing> {
        Some(&self.outgoing.get(node.0 as usize)?[class as usize])
    }

    fn outgoing_mut(&mut self, node: NodeId, class: Class) -> Option<&mut Outgoing> {
        Some(&mut self.outgoing.get_mut(node.0 as usize)?[class as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: NodeId = NodeId(1);

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 1 }
    }

    #[test]
    fn nothing_is_dialled_before_somebody_needs_it() {
        let mut peers = Peers::new(NodeId(0), 3, 7);
        assert!(peers.due(u64::MAX).is_empty());
        peers.want(OTHER, Class::Data);
        assert_eq!(peers.due(0), [(OTHER, Class::Data)]);
        peers.dialled(OTHER, Class::Data, conn(4), 10);
        assert!(peers.due(u64::MAX).is_empty());
        assert!(peers.overdue(10 + DIAL_MS - 1).is_empty());
        assert_eq!(peers.overdue(10 + DIAL_MS), [conn(4)]);
        peers.up(OTHER, Class::Data, conn(4));
        assert_eq!(peers.link(OTHER, Class::Data), Some(LinkId(conn(4))));
        assert_eq!(peers.link(OTHER, Class::Control), None);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_a_link_that_was_up_comes_back_at_once() {
        let mut peers = Peers::new(NodeId(0), 2, 7);
        peers.want(OTHER, Class::Control);
        let mut last = 0;
        for _ in 0..40 {
            peers.dialled(OTHER, Class::Control, conn(1), 0);
            peers.down(OTHER, Class::Control, false, 0);
            last = peers.next_ms().unwrap();
            assert!(last <= BACKOFF_LAST_MS);
        }
        assert!(last >= BACKOFF_LAST_MS / 2);
        peers.up(OTHER, Class::Control, conn(1));
        peers.down(OTHER, Class::Control, false, 5);
        assert_eq!(peers.next_ms(), Some(5));
    }

    #[test]
    fn a_node_that_shows_itself_is_dialled_at_once() {
        let mut peers = Peers::new(NodeId(0), 2, 7);
        peers.want(OTHER, Class::Data);
        for _ in 0..40 {
            peers.down(OTHER, Class::Data, false, 1_000);
        }
        assert!(peers.due(1_000).is_empty());
        peers.accepted(OTHER, Class::Control, conn(1));
        assert_eq!(peers.due(1_000), [(OTHER, Class::Data)]);
        peers.down(OTHER, Class::Data, false, 1_000);
        assert!(peers.next_ms().is_some_and(|at_ms| at_ms <= 1_000 + BACKOFF_FIRST_MS), "it is not held to the past");
        peers.up(OTHER, Class::Control, conn(2));
        assert_eq!(peers.due(1_000), [(OTHER, Class::Data)]);
    }

    #[test]
    fn a_newer_hello_replaces_the_older_link() {
        let mut peers = Peers::new(NodeId(0), 2, 7);
        assert_eq!(peers.accepted(OTHER, Class::Data, conn(1)), None);
        assert_eq!(peers.accepted(OTHER, Class::Data, conn(2)), Some(conn(1)));
        peers.lost(OTHER, Class::Data, conn(1));
        assert_eq!(peers.all_up(), [conn(2)], "the end of the older one does not end the newer one");
    }
}
