//! Owns: connections between nodes as TCP gives them: two streams of bytes, in order, that arrive late, in pieces, or
//! never; ends that learn late, or never, that the other is gone. Cuts are of a direction between two nodes: what is
//! under way there waits until the cut is healed, as TCP sends it again.
//! Never: what the bytes mean; what the nodes do about it.

use super::clock::{MS, Nanos};
use crate::support::dice::Dice;
use dkv::id::NodeId;
use dkv::wire::Class;
use std::collections::{BTreeMap, VecDeque};

/// Bytes that the kernels of both sides hold for one direction.
const WINDOW_BYTES: u64 = 256 << 10;

/// Stands for the last arrival where nothing arrives any more.
const BROKEN: Nanos = u64::MAX;

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnNumber(pub u32);

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Dialler = 0,
    Acceptor = 1,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Dialler => Side::Acceptor,
            Side::Acceptor => Side::Dialler,
        }
    }
}

/// What travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The dialler says who it is.
    Hello,
    /// The acceptor takes the link.
    Welcome,
    Bytes(Vec<u8>),
    /// Nothing more comes: the other end is closed, or gone.
    End,
}

/// What travels towards one end.
#[derive(Debug, Default)]
struct Pipe {
    flight: VecDeque<(Nanos, Item)>,
    arrived: VecDeque<Item>,
    last_at: Nanos,
    sent_bytes: u64,
    /// Of them, what the receiver took, as far as the sender knows.
    known_taken_bytes: u64,
    taken_bytes: u64,
    /// The receiving end is closed: what comes is answered by a reset.
    is_closed: bool,
}

#[derive(Debug)]
struct Connection {
    nodes: [NodeId; 2],
    class: Class,
    /// Towards the dialler, towards the acceptor.
    pipes: [Pipe; 2],
}

/// How one node reaches another.
#[derive(Debug, Clone, Copy)]
struct Path {
    least_ns: Nanos,
    jitter_ns: Nanos,
    bytes_per_ms: Option<u64>,
    /// How many faults cut it.
    cuts: u32,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    count: usize,
    paths: Vec<Path>,
    connections: BTreeMap<ConnNumber, Connection>,
    next: u32,
    dice: Dice,
    /// Arrivals that the world is to be woken for: when, at which connection and end.
    pub alarms: Vec<(Nanos, ConnNumber, Side)>,
    pub delivered_bytes: u64,
}

impl Network {
    /// Each packet takes at least so long, and up to so much longer.
    pub fn new(count: usize, (least_ns, jitter_ns): (Nanos, Nanos), dice: Dice) -> Network {
        let path = Path { least_ns, jitter_ns, bytes_per_ms: None, cuts: 0 };
        Network {
            count,
            paths: vec![path; count * count],
            connections: BTreeMap::new(),
            next: 0,
            dice,
            alarms: Vec::new(),
            delivered_bytes: 0,
        }
    }

    fn path(&mut self, from: NodeId, to: NodeId) -> &mut Path {
        &mut self.paths[from.0 as usize * self.count + to.0 as usize]
    }

    /// Nothing goes this way any more until it is healed.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.path(from, to).cuts += 1;
    }

    /// Whether somebody does not know yet that a connection of his broke.
    pub fn has_untold_breaks(&self) -> bool {
        let ends = |pipe: &Pipe| matches!(pipe.flight.back(), Some((_, Item::End)));
        self.connections.values().any(|connection| connection.pipes.iter().any(ends))
    }

    /// Ends one cut. What waited comes after all.
    pub fn heal(&mut self, now: Nanos, from: NodeId, to: NodeId) {
        let path = self.path(from, to);
        path.cuts = path.cuts.saturating_sub(1);
        if path.cuts > 0 {
            return;
        }
        for (number, connection) in &self.connections {
            for side in [Side::Dialler, Side::Acceptor] {
                let is_this = (connection.nodes[side.other() as usize], connection.nodes[side as usize]) == (from, to);
                if is_this && !connection.pipes[side as usize].flight.is_empty() {
                    // TCP tries again when its timer says so.
                    self.alarms.push((now + 1 + self.dice.below(300 * MS), *number, side));
                }
            }
        }
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.paths[from.0 as usize * self.count + to.0 as usize].cuts > 0
    }

    /// From now on so many bytes a millisecond go this way; `None`: as many as there are.
    pub fn set_speed(&mut self, from: NodeId, to: NodeId, bytes_per_ms: Option<u64>) {
        self.path(from, to).bytes_per_ms = bytes_per_ms;
    }

    pub fn set_delay(&mut self, from: NodeId, to: NodeId, least_ns: Nanos, jitter_ns: Nanos) {
        let path = self.path(from, to);
        (path.least_ns, path.jitter_ns) = (least_ns, jitter_ns.max(1));
    }

    /// A node dials another; its hello is on the way.
    pub fn dial(&mut self, now: Nanos, from: NodeId, to: NodeId, class: Class) -> ConnNumber {
        let number = ConnNumber(self.next);
        self.next += 1;
        self.connections.insert(number, Connection { nodes: [from, to], class, pipes: Default::default() });
        self.put(now, number, Side::Acceptor, Item::Hello);
        number
    }

    pub fn class(&self, number: ConnNumber) -> Option<Class> {
        Some(self.connections.get(&number)?.class)
    }

    /// The node at this end.
    pub fn node_at(&self, number: ConnNumber, side: Side) -> Option<NodeId> {
        Some(self.connections.get(&number)?.nodes[side as usize])
    }

    /// Sends towards `to`.
    fn put(&mut self, now: Nanos, number: ConnNumber, to: Side, item: Item) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (sender, receiver) = (connection.nodes[to.other() as usize], connection.nodes[to as usize]);
        let path = self.paths[sender.0 as usize * self.count + receiver.0 as usize];
        let pipe = &mut connection.pipes[to as usize];
        if pipe.last_at == BROKEN {
            return;
        }
        let length = match &item {
            Item::Bytes(bytes) => bytes.len() as u64,
            _ => 1,
        };
        let transfer = path.bytes_per_ms.map_or(0, |speed| length * MS / speed.max(1));
        let at = (now + path.least_ns + self.dice.below(path.jitter_ns)).max(pipe.last_at + 1) + transfer;
        pipe.last_at = at;
        pipe.flight.push_back((at, item));
        self.alarms.push((at, number, to));
    }

    pub fn welcome(&mut self, now: Nanos, number: ConnNumber) {
        self.put(now, number, Side::Dialler, Item::Welcome);
    }

    /// The kernel at `from` takes what it can of these bytes. Returns how many it took.
    pub fn send(&mut self, now: Nanos, number: ConnNumber, from: Side, bytes: &[u8]) -> usize {
        let to = from.other();
        let Some(connection) = self.connections.get_mut(&number) else { return bytes.len() };
        let (sender, receiver) = (connection.nodes[from as usize], connection.nodes[to as usize]);
        // What the receiver took is known only where its acknowledgements come through.
        let pipe = &mut connection.pipes[to as usize];
        if self.paths[receiver.0 as usize * self.count + sender.0 as usize].cuts == 0 {
            pipe.known_taken_bytes = pipe.taken_bytes;
        }
        let room = WINDOW_BYTES.saturating_sub(pipe.sent_bytes - pipe.known_taken_bytes);
        let taken = bytes.len().min(room as usize);
        pipe.sent_bytes += taken as u64;
        let mut rest = &bytes[..taken];
        while !rest.is_empty() {
            // Pieces do not care for frames.
            let most = if self.dice.once_in(4) { 60 } else { 16 << 10 };
            let (piece, behind) = rest.split_at(rest.len().min(1 + self.dice.below(most) as usize));
            self.put(now, number, to, Item::Bytes(piece.to_vec()));
            rest = behind;
        }
        taken
    }

    /// Moves what is due at an end into its kernel's buffer. Returns whether the node there has something to read.
    pub fn arrive(&mut self, now: Nanos, number: ConnNumber, side: Side) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else { return false };
        let (sender, receiver) = (connection.nodes[side.other() as usize], connection.nodes[side as usize]);
        if self.paths[sender.0 as usize * self.count + receiver.0 as usize].cuts > 0 {
            return false;
        }
        let pipe = &mut connection.pipes[side as usize];
        let mut came = false;
        while pipe.flight.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, item)) = pipe.flight.pop_front() else { break };
            came = true;
            if !pipe.is_closed {
                if let Item::Bytes(bytes) = &item {
                    self.delivered_bytes += bytes.len() as u64;
                }
                pipe.arrived.push_back(item);
            }
        }
        let is_closed = pipe.is_closed;
        if is_closed {
            let both_closed = connection.pipes.iter().all(|pipe| pipe.is_closed);
            if both_closed {
                self.connections.remove(&number);
            } else if came {
                self.put(now, number, side.other(), Item::End);
            }
            return false;
        }
        came
    }

    /// What an end can read.
    pub fn read(&mut self, number: ConnNumber, side: Side) -> Vec<Item> {
        let Some(connection) = self.connections.get_mut(&number) else { return vec![Item::End] };
        let pipe = &mut connection.pipes[side as usize];
        let items: Vec<Item> = pipe.arrived.drain(..).collect();
        for item in &items {
            if let Item::Bytes(bytes) = item {
                pipe.taken_bytes += bytes.len() as u64;
            }
        }
        items
    }

    /// One end is closed by its process, or with it. What it sent is still on its way; what it did not read is gone.
    pub fn close(&mut self, now: Nanos, number: ConnNumber, side: Side) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let pipe = &mut connection.pipes[side as usize];
        pipe.is_closed = true;
        pipe.arrived.clear();
        if connection.pipes[side.other() as usize].is_closed {
            self.connections.remove(&number);
        } else {
            self.put(now, number, side.other(), Item::End);
        }
    }

    /// One end's machine is off: what is under way may arrive or not, and nobody says that there will be no more.
    pub fn vanish(&mut self, number: ConnNumber, side: Side) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let own = &mut connection.pipes[side as usize];
        own.is_closed = true;
        own.arrived.clear();
        let theirs = &mut connection.pipes[side.other() as usize];
        let kept = self.dice.below(theirs.flight.len() as u64 + 1) as usize;
        theirs.flight.truncate(kept);
        if theirs.is_closed {
            self.connections.remove(&number);
        }
    }

    /// Breaks a connection somewhere on its way: each end learns of it at a time of its own, after what had come
    /// so far.
    pub fn break_up(&mut self, now: Nanos, number: ConnNumber) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        for side in [Side::Dialler, Side::Acceptor] {
            let pipe = &mut connection.pipes[side as usize];
            let kept = self.dice.below(pipe.flight.len() as u64 + 1) as usize;
            pipe.flight.truncate(kept);
            let late = if self.dice.once_in(3) { self.dice.below(4_000 * MS) } else { self.dice.below(5 * MS) };
            let at = (now + 1 + late).max(pipe.flight.back().map_or(0, |(at, _)| *at));
            // Nothing comes behind the end, even where the other side does not know yet and goes on sending.
            pipe.last_at = BROKEN;
            pipe.flight.push_back((at, Item::End));
            self.alarms.push((at, number, side));
        }
    }

    /// Connections whose two ends are there.
    pub fn whole(&self) -> Vec<ConnNumber> {
        let whole =
            |connection: &Connection| connection.pipes.iter().all(|pipe| !pipe.is_closed && pipe.last_at < BROKEN);
        self.connections.iter().filter(|(_, connection)| whole(connection)).map(|(number, _)| *number).collect()
    }

    /// Whether everything gets through, and soon.
    pub fn is_whole(&self) -> bool {
        self.paths.iter().all(|path| path.cuts == 0 && path.bytes_per_ms.is_none())
    }
}
