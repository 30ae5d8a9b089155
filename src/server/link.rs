//! Owns: peer links: the handshake of both sides, the frames that arrive, beacons. A link starts as an HTTP request
//! (`Upgrade: dkv-peer`) on the one port that a node has; then come a hello and a welcome, which hold the two tables
//! against each other, and then messages.
//! Never: what a forwarded request does.

use std::collections::HashMap;

use super::api::PEER_PATH;
use super::conn::{Link, Role, Stage};
use super::core::Sink;
use super::lane::Stream;
use super::turn::Server;
use crate::config;
use crate::http::UPGRADE_PEER;
use crate::id::{ConnId, LinkId, NodeId, Uuid};
use crate::op::{Failure, Outcome};
use crate::reactor::{Closing, Conn, Filled};
use crate::wire::{self, Class, Hello, Message};

/// No node lets a value be larger than this, so no frame is (`limits.max_value_bytes` is at most 64 MiB).
const FRAME_BYTES_MAX: usize = (64 << 20) + (64 << 10) + wire::FRAME_EXTRA_BYTES;
/// The longest answer to an upgrade that is looked at.
const UPGRADE_BYTES_MAX: usize = 4096;

/// Whoever the table does not have.
const STRANGER: NodeId = NodeId(u32::MAX);

/// Who this node says it is.
#[derive(Debug)]
pub(super) struct Identity {
    pub fingerprint: u64,
    pub table: String,
    pub store: Uuid,
    /// The cluster that this node belongs to; zero while it knows of none.
    pub cluster: Uuid,
    pub incarnation: u64,
    pub address: String,
    /// Why the last link with a node was refused, by either side, until one is accepted: said once, and shown.
    pub refusals: HashMap<NodeId, String>,
}

/// What to do about a node of another cluster.
const REFORMED: &str = "where one was made by `dkv reform`, run `dkv reform apply` with its plan on the directory of the \
                        node that is left behind, or empty that directory, so that it is filled";

/// What a message leads to for the link that it came by.
enum Then {
    Next,
    Close,
}

impl Server {
    /// Dials the links that are due, and gives up the dials that take too long.
    pub(super) fn dial_what_is_due(&mut self) {
        let now_ms = self.now.ms();
        if self.draining_until_ms.is_some() || self.peers.next_ms().is_none_or(|next| next > now_ms) {
            return;
        }
        for conn in self.peers.overdue(now_ms) {
            self.reactor.close(conn);
        }
        for (node, class) in self.peers.due(now_ms) {
            let link = Link {
                node,
                class,
                is_dialled: true,
                stage: Stage::Connecting,
                heard_ms: now_ms,
                cluster: Uuid::default(),
                written_bytes: 0,
            };
            match self.reactor.connect(self.cluster.node(node).address, Role::Link(link)) {
                Ok(conn) => {
                    self.links += 1;
                    self.peers.dialled(node, class, conn, now_ms);
                }
                Err(e) => {
                    log::debug!("{} cannot be dialled: {e}", self.cluster.node(node).address);
                    self.peers.down(node, class, false, now_ms);
                }
            }
        }
    }

    /// A beacon on every link that this node dialled; the other end answers it.
    pub(super) fn send_beacons(&mut self) {
        let status = self.core.status();
        let links: Vec<LinkId> = self.peers.dialled_up().collect();
        let (_, mut out) = self.core_and_sink();
        for link in links {
            out.send(link, &Message::Ping(status));
        }
    }

    /// Tells those who forward requests here that this node stops.
    pub(super) fn say_goodbye(&mut self) {
        let links: Vec<LinkId> = self.peers.accepted_data().collect();
        let (_, mut out) = self.core_and_sink();
        for link in links {
            out.send(link, &Message::Leaving);
        }
    }

    /// Something happened on a link.
    pub(super) fn on_link_ready(&mut self, id: ConnId) {
        let Some(conn) = self.reactor.get(id) else { return };
        if conn.is_broken {
            return self.reactor.close(id);
        }
        if conn.is_connected && matches!(&conn.state, Role::Link(link) if link.stage == Stage::Connecting) {
            self.ask_for_upgrade(id);
        }
        self.reactor.touch(id);
        loop {
            let Some(conn) = self.reactor.get(id) else { return };
            if conn.closing != Closing::No && !matches!(&conn.state, Role::Link(l) if l.stage == Stage::Refused) {
                return;
            }
            let before = conn.input_bytes();
            let buffer = self.reactor.borrow(id);
            let wanted = wire::frame_bytes(buffer.data()).unwrap_or(0).min(FRAME_BYTES_MAX).saturating_sub(before);
            self.reactor.give_back(id, buffer, 0);
            let (buffer, filled) = self.reactor.read(id, wanted);
            self.tell_time();
            let came = buffer.len() - before;
            if came > 0 {
                self.heard_from(id);
            }
            let used = self.take_messages(id, buffer.data());
            let all = buffer.len();
            self.reactor.give_back(id, buffer, used.unwrap_or(all));
            if used.is_none() || matches!(filled, Filled::Gone | Filled::Ended) {
                return self.reactor.close(id);
            }
            if filled == Filled::Drained {
                return;
            }
            if self.has_read_enough() {
                return self.reactor.again(id);
            }
        }
    }

    /// A long frame is a sign of life before it is complete; a handshake must get on.
    fn heard_from(&mut self, id: ConnId) {
        let now_ms = self.now.ms();
        if let Some(Conn { state: Role::Link(link), .. }) = self.reactor.get(id)
            && link.stage == Stage::Up
        {
            link.heard_ms = now_ms;
        }
    }

    fn ask_for_upgrade(&mut self, id: ConnId) {
        let Some((out, Role::Link(link))) = self.reactor.output(id, 0) else { return };
        let host = self.cluster.node(link.node).address;
        let request = format!(
            "GET {PEER_PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE_PEER}\r\n\r\n"
        );
        out.extend_from_slice(request.as_bytes());
        link.stage = Stage::Upgrading;
    }

    /// Takes what stands in the buffer. Returns how many bytes of it are done with; `None`: the link is to be closed.
    fn take_messages(&mut self, id: ConnId, bytes: &[u8]) -> Option<usize> {
        let mut used = 0;
        loop {
            let now_ms = self.now.ms();
            let Role::Link(link) = &mut self.reactor.get(id)?.state else { return None };
            let (node, stage) = (link.node, link.stage);
            if stage == Stage::Connecting {
                return Some(used);
            }
            if stage == Stage::Upgrading {
                let rest = &bytes[used..];
                let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") else {
                    return (rest.len() < UPGRADE_BYTES_MAX).then_some(used);
                };
                if !rest.starts_with(b"HTTP/1.1 101 ") {
                    let line = String::from_utf8_lossy(rest.split(|b| *b == b'\r').next().unwrap_or(rest)).into_owned();
                    self.note_refusal(node, &format!("its answer to the request for a link was {line:?}"));
                    return None;
                }
                used += end + 4;
                self.greet(id);
                continue;
            }
            let limit = if matches!(stage, Stage::Up) { FRAME_BYTES_MAX } else { wire::HELLO_BYTES_MAX };
            match wire::decode(&bytes[used..], limit) {
                Ok(None) => return Some(used),
                Ok(Some((message, length))) => {
                    link.heard_ms = now_ms;
                    used += length;
                    match self.on_message(id, stage, &message) {
                        Then::Next => {}
                        Then::Close => return None,
                    }
                }
                Err(e) => {
                    let peer = self.reactor.get(id)?.peer;
                    log::warn!("the link with {peer} is closed: it sent {e}");
                    return None;
                }
            }
        }
    }

    fn greet(&mut self, id: ConnId) {
        let Some(conn) = self.reactor.get(id) else { return };
        let Role::Link(link) = &mut conn.state else { return };
        link.stage = Stage::Greeting;
        let (to, class) = (link.node, link.class);
        let address = self.identity.address.clone();
        let hello = self.hello(to, class, &address);
        let (_, mut out) = self.core_and_sink();
        out.send(LinkId(id), &Message::Hello(hello));
    }

    fn hello<'a>(&self, to: NodeId, class: Class, address: &'a str) -> Hello<'a> {
        Hello {
            version: wire::VERSION,
            class,
            fingerprint: self.identity.fingerprint,
            cluster: self.identity.cluster,
            from: self.me,
            to,
            store: self.identity.store,
            incarnation: self.identity.incarnation,
            address,
        }
    }

    fn on_message(&mut self, id: ConnId, stage: Stage, message: &Message<'_>) -> Then {
        match (stage, message) {
            (Stage::Listening, Message::Hello(hello)) => return self.on_hello(id, hello),
            (Stage::Greeting, Message::Welcome(hello)) => return self.on_welcome(id, hello),
            (Stage::Greeting | Stage::Refused, Message::Refuse { reason, table }) => {
                self.on_refused(id, reason, table);
                return Then::Close;
            }
            (Stage::Up, Message::Hello(_) | Message::Welcome(_) | Message::Refuse { .. }) | (_, _)
                if stage != Stage::Up =>
            {
                log::warn!("a link is closed: a message came out of turn ({stage:?})");
                return Then::Close;
            }
            (Stage::Up, Message::Forward(forward)) if self.is_full() => {
                let (_, mut out) = self.core_and_sink();
                let outcome = Outcome::Failed(Failure::Overloaded);
                out.send(LinkId(id), &Message::Answer { id: forward.id, outcome });
            }
            _ => {
                let Some(Conn { state: Role::Link(Link { node, .. }), .. }) = self.reactor.get(id) else {
                    return Then::Close;
                };
                let node = *node;
                let (core, mut out) = self.core_and_sink();
                if let Err(fatal) = core.on_message(LinkId(id), node, message, &mut out) {
                    self.fatal.get_or_insert(fatal);
                    return Then::Close;
                }
            }
        }
        Then::Next
    }

    fn is_full(&self) -> bool {
        self.inflight_bytes() >= self.cluster.settings().limits.max_inflight_bytes as u64
    }

    /// The accepting side: who dials?
    fn on_hello(&mut self, id: ConnId, hello: &Hello<'_>) -> Then {
        let node = hello.from;
        if let Err(reason) = self.check_hello(hello) {
            // Its number is a place in its own table, which may be another.
            let node = self.node_called(hello.address);
            if let Some(conn) = self.reactor.get(id)
                && let Role::Link(link) = &mut conn.state
            {
                link.stage = Stage::Refused;
                link.node = node;
            }
            let told = format!("a link of {} is refused: {reason}", hello.address);
            if hello.version != wire::VERSION || hello.fingerprint == self.identity.fingerprint {
                self.note_refusal(node, &told);
            }
            let table = self.identity.table.clone();
            let (_, mut out) = self.core_and_sink();
            out.send(LinkId(id), &Message::Refuse { reason: &reason, table: &table });
            return Then::Next;
        }
        let now_ms = self.now.ms();
        if let Some(conn) = self.reactor.get(id)
            && let Role::Link(link) = &mut conn.state
        {
            let (class, cluster) = (hello.class, hello.cluster);
            *link = Link { node, class, stage: Stage::Up, heard_ms: now_ms, cluster, ..*link };
        }
        if let Some(older) = self.peers.accepted(node, hello.class, id) {
            self.reactor.close(older);
        }
        self.forget_refusal(node);
        let address = self.identity.address.clone();
        let welcome = self.hello(node, hello.class, &address);
        let (core, mut out) = self.core_and_sink();
        out.send(LinkId(id), &Message::Welcome(welcome));
        // Whoever has just come up learns at once how we are.
        core.on_accepted(LinkId(id), &mut out);
        if self.draining_until_ms.is_some() {
            self.say_goodbye();
        }
        Then::Next
    }

    /// The dialling side: is it whom we meant?
    fn on_welcome(&mut self, id: ConnId, hello: &Hello<'_>) -> Then {
        let Some(Conn { state: Role::Link(Link { node: dialled, .. }), .. }) = self.reactor.get(id) else {
            return Then::Close;
        };
        let dialled = *dialled;
        if let Err(reason) = self.check_hello(hello) {
            self.note_refusal(dialled, &format!("its welcome is refused: {reason}"));
            return Then::Close;
        }
        let Some(conn) = self.reactor.get(id) else { return Then::Close };
        let Role::Link(link) = &mut conn.state else { return Then::Close };
        if link.node != hello.from {
            return Then::Close;
        }
        (link.stage, link.cluster) = (Stage::Up, hello.cluster);
        let (node, class) = (link.node, link.class);
        self.peers.up(node, class, id);
        self.forget_refusal(node);
        let (core, mut out) = self.core_and_sink();
        core.on_dialled(node, class, LinkId(id), &mut out);
        Then::Next
    }

    /// Both know their cluster, and it is not the same.
    fn is_of_another(&self, hello: &Hello<'_>) -> bool {
        let (theirs, ours) = (hello.cluster, self.identity.cluster);
        theirs != ours && theirs != Uuid::default() && ours != Uuid::default()
    }

    /// This node may have learnt which cluster it belongs to. What is up with nodes that did not say they belong to it is
    /// begun anew: they may have learnt of another one.
    pub(super) fn mind_cluster(&mut self) {
        let cluster = self.core.cluster_id();
        if cluster == self.identity.cluster {
            return;
        }
        self.identity.cluster = cluster;
        for id in self.peers.all_up() {
            if let Some(Conn { state: Role::Link(link), .. }) = self.reactor.get(id)
                && link.cluster != cluster
            {
                self.reactor.close(id);
            }
        }
    }

    fn check_hello(&self, hello: &Hello<'_>) -> Result<(), String> {
        if hello.version != wire::VERSION {
            return Err(format!(
                "it speaks version {} of the protocol between nodes, this node version {}: run the same dkv on both",
                hello.version,
                wire::VERSION
            ));
        }
        if hello.fingerprint != self.identity.fingerprint {
            let reformed = if self.is_of_another(hello) {
                format!(", and they belong to different clusters; {REFORMED}")
            } else {
                String::new()
            };
            return Err(format!("the shard tables of the two nodes differ{reformed}"));
        }
        if self.is_of_another(hello) {
            let (theirs, ours) = (hello.cluster, self.identity.cluster);
            return Err(format!("the two nodes belong to different clusters, {theirs} and {ours}; {REFORMED}"));
        }
        let known = self.cluster.nodes().get(hello.from.0 as usize);
        if known.is_none_or(|node| node.address.to_string() != hello.address) || hello.from == self.me {
            return Err(format!("{} is no other node of the table", hello.address));
        }
        if hello.to != self.me {
            return Err(format!("it was meant for another node than {}", self.identity.address));
        }
        Ok(())
    }

    /// The other side refuses; with its table, both can say the difference. It gets ours for that, if it has not.
    fn on_refused(&mut self, id: ConnId, reason: &str, table: &str) {
        let Some(Conn { state: Role::Link(Link { node, stage, .. }), .. }) = self.reactor.get(id) else { return };
        let (node, stage) = (*node, *stage);
        let difference = config::difference(&self.identity.table, table);
        let told = if self.identity.table == table { reason.to_owned() } else { format!("{reason}: {difference}") };
        self.note_refusal(node, &told);
        if stage == Stage::Greeting {
            let mine = self.identity.table.clone();
            let (_, mut out) = self.core_and_sink();
            out.send(LinkId(id), &Message::Refuse { reason, table: &mine });
            // It is closed behind this; what the kernel takes now still arrives.
            let now_ms = self.now.ms();
            self.reactor.flush(id, now_ms);
        }
    }

    /// Says once why there is no link with a node.
    fn note_refusal(&mut self, node: NodeId, why: &str) {
        self.metrics.refused_links += 1;
        let known = self.identity.refusals.get(&node);
        if known.is_none_or(|known| known != why) {
            log::error!("no link with {}: {why}", self.name_of(node));
            self.identity.refusals.insert(node, why.to_owned());
        }
    }

    /// The node at this address, or [`STRANGER`].
    fn node_called(&self, address: &str) -> NodeId {
        address.parse().ok().and_then(|address| self.cluster.node_at(address)).unwrap_or(STRANGER)
    }

    /// How a node is called in messages.
    pub(super) fn name_of(&self, node: NodeId) -> String {
        let known = self.cluster.nodes().get(node.0 as usize);
        known.map_or("a node that is not in this node's table".to_owned(), |node| node.address.to_string())
    }

    fn forget_refusal(&mut self, node: NodeId) {
        if self.identity.refusals.remove(&node).is_some() {
            log::info!("the link with {} is accepted now", self.cluster.node(node).address);
        }
    }

    /// A connection is gone for good.
    pub(super) fn on_gone(&mut self, mut conn: Conn<Role>) {
        let now_ms = self.now.ms();
        let id = conn.id;
        self.links -= usize::from(matches!(conn.state, Role::Link(_)));
        match &mut conn.state {
            Role::Client(client) => {
                self.ledger.promise(client, 0);
                self.ledger.early_bytes -= client.pipeline.early_bytes() as u64;
                self.core.on_source_gone(|stream| stream == Stream::Client(id));
            }
            Role::Link(link) if link.is_dialled => {
                let refused = matches!(link.stage, Stage::Greeting | Stage::Upgrading | Stage::Refused)
                    && self.identity.refusals.contains_key(&link.node);
                self.peers.down(link.node, link.class, refused, now_ms);
                let (node, class, written) = (link.node, link.class, conn.written_bytes);
                let (core, mut out) = self.core_and_sink();
                core.on_dialled_down(node, class, LinkId(id), (written, conn.unsent()), &mut out);
            }
            Role::Link(link) => {
                self.peers.lost(link.node, link.class, id);
                let ours = LinkId(id);
                self.core.on_source_gone(|stream| matches!(stream, Stream::Link(link, _) if link == ours));
                self.core.on_accepted_down(ours);
            }
        }
    }
}
