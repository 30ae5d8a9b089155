//! Owns: the reading of a client's requests: bytes → [`Decoder`](crate::http::Decoder) → [`api`](super::api) → the core
//! or a page, the first two left out where the words are known (`known.rs`); and when to stop reading.
//! Never: how an answer is written, what a call does.

use super::admin;
use super::api::{self, Call, Scratch};
use super::conn::{Client, Due, Link, Role, Stage};
use super::error::ApiError;
use super::known::KnownGet;
use super::lane::Stream;
use super::metrics::CallKind;
use super::render::{self, About};
use super::turn::Server;
use crate::http::response::{CONTINUE, Persistence, write_switching_protocols};
use crate::http::{BodyKind, Decoder, Head, Phase, Step};
use crate::id::{ConnId, NodeId, Ticket, Uuid};
use crate::op::{Condition, Failure, Op, Outcome, Verb};
use crate::reactor::{Buffer, Closing, Conn, Filled};
use crate::wire::Class;

/// What is dropped of a connection that lingers, in bytes: whoever sends more meets a reset.
const LINGER_BYTES: usize = 1 << 20;

/// Whether parsing goes on.
enum Next {
    /// With the request behind.
    Request,
    /// When more bytes have come.
    Bytes,
    /// When answers have left.
    Paused,
    /// Not at all: the connection is closing.
    Never,
    /// As a link.
    Handed,
}

impl Next {
    /// Nothing is left in the buffer.
    fn then_bytes(self) -> Next {
        if matches!(self, Next::Request) { Next::Bytes } else { self }
    }
}

impl Server {
    /// Something happened on a client's connection.
    pub(super) fn on_client_ready(&mut self, id: ConnId) {
        let Some(conn) = self.reactor.get(id) else { return };
        if conn.is_broken {
            return self.reactor.close(id);
        }
        if conn.output_bytes() > 0 || conn.closing == Closing::AfterOutput {
            self.reactor.touch(id);
        }
        let Some(conn) = self.reactor.get(id) else { return };
        let (readable, has_input) = (conn.readable, conn.input_bytes() > 0);
        let Role::Client(client) = &mut conn.state else { return };
        let was_paused = std::mem::take(&mut client.is_paused);
        if conn.closing != Closing::No || client.is_last {
            return self.drop_input(id);
        }
        if was_paused && has_input {
            let mut buffer = self.reactor.borrow(id);
            let (used, next) = self.take_requests(id, &mut buffer);
            self.reactor.give_back(id, buffer, used);
            if !matches!(next, Next::Bytes | Next::Request) {
                return;
            }
        }
        if readable {
            self.read_client(id);
        }
    }

    fn read_client(&mut self, id: ConnId) {
        loop {
            let Some(conn) = self.reactor.get(id) else { return };
            let Role::Client(client) = &conn.state else { return };
            let before = conn.input_bytes();
            let wanted = client.decoder.wanted().saturating_sub(before);
            let (mut buffer, filled) = self.reactor.read(id, wanted);
            self.tell_time();
            let came = buffer.len() - before;
            let (used, next) = match filled {
                Filled::Gone => (0, Next::Never),
                _ if came == 0 => (0, Next::Bytes),
                _ => self.take_requests(id, &mut buffer),
            };
            self.reactor.give_back(id, buffer, used);
            match (filled, next) {
                (Filled::Gone, _) => return self.reactor.close(id),
                (Filled::Ended, Next::Paused) => return self.read_later(id),
                (_, Next::Paused | Next::Handed) => return,
                (_, Next::Never) => return self.drop_input(id),
                (Filled::Ended, _) => return self.end_of_input(id),
                (Filled::Drained, _) => return,
                (Filled::More, _) => {}
            }
            if self.has_read_enough() || self.core.is_behind() {
                return self.reactor.again(id);
            }
        }
    }

    /// The end of the input was seen while the connection is paused: to be seen again when it goes on.
    fn read_later(&mut self, id: ConnId) {
        if let Some(conn) = self.reactor.get(id) {
            conn.readable = true;
        }
    }

    /// The client has ended its half: it still gets its answers.
    fn end_of_input(&mut self, id: ConnId) {
        let Some(conn) = self.reactor.get(id) else { return };
        let has_output = conn.output_bytes() > 0;
        let Role::Client(client) = &mut conn.state else { return };
        client.is_last = true;
        if !client.pipeline.is_empty() {
            return;
        }
        if has_output {
            conn.closing = Closing::AfterOutput;
        } else {
            self.reactor.close(id);
        }
    }

    /// Reads and drops what a connection that is closing still sends.
    fn drop_input(&mut self, id: ConnId) {
        let mut dropped = 0;
        loop {
            let (buffer, filled) = self.reactor.read(id, 0);
            let all = buffer.len();
            self.reactor.give_back(id, buffer, all);
            dropped += all;
            match filled {
                Filled::Drained => return,
                Filled::More if dropped < LINGER_BYTES => {}
                Filled::More => {
                    // Not before its answers have left.
                    if matches!(self.reactor.get(id), Some(c) if matches!(c.closing, Closing::Lingering { .. })) {
                        self.reactor.close(id);
                    }
                    return;
                }
                Filled::Ended => {
                    let lingers =
                        matches!(self.reactor.get(id), Some(c) if matches!(c.closing, Closing::Lingering { .. }));
                    if lingers {
                        self.reactor.close(id);
                    }
                    return;
                }
                Filled::Gone => return self.reactor.close(id),
            }
        }
    }

    /// Takes the requests that stand in the buffer. Returns how many bytes of it are done with.
    fn take_requests(&mut self, id: ConnId, buffer: &mut Buffer) -> (usize, Next) {
        let mut used = 0;
        let next = loop {
            if self.must_pause(id) {
                break Next::Paused;
            }
            let next = match self.take_known(id, buffer, &mut used) {
                Some(next) => next,
                None => self.take_unknown(id, buffer, &mut used),
            };
            if !matches!(next, Next::Request) {
                break next;
            }
        };
        if let Some(Conn { state: Role::Client(client), .. }) = self.reactor.get(id) {
            client.is_paused = matches!(next, Next::Paused);
            if client.is_paused {
                // Of a body under way more may stand in the buffer now.
                self.ledger.promise(client, client.decoder.wanted().saturating_sub(buffer.len() - used) as u64);
            }
        }
        // Of what a closing connection sent behind its last request nothing is kept.
        let used = if matches!(next, Next::Never) { buffer.len() } else { used };
        (used, next)
    }

    fn client(&mut self, id: ConnId) -> Option<&mut Client> {
        match &mut self.reactor.get(id)?.state {
            Role::Client(client) => Some(client),
            Role::Link(_) => None,
        }
    }

    fn must_pause(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.reactor.get(id) else { return false };
        let Role::Client(client) = &conn.state else { return false };
        client.must_pause(conn.output_bytes(), self.cluster.settings().limits.max_pipeline)
    }

    /// Bytes that there is room for, beside those in a connection's buffer.
    fn room(&self, buffer: &Buffer) -> u64 {
        let most = self.cluster.settings().limits.max_inflight_bytes as u64;
        most.saturating_sub(self.inflight_bytes() + buffer.len() as u64)
    }

    /// Takes a GET in words that are known. `None`: what comes next is to be read.
    fn take_known(&mut self, id: ConnId, buffer: &Buffer, used: &mut usize) -> Option<Next> {
        if !self.client(id)?.decoder.is_fresh() || self.draining_until_ms.is_some() {
            return None;
        }
        let (key, about, bytes) = self.known_get.find(&buffer.data()[*used..], &self.limits)?;
        if self.is_surplus(id) {
            return None;
        }
        *used += bytes;
        let room = self.room(buffer);
        let op = Op { verb: Verb::Get, key, value: b"", condition: Condition::None, stale: false };
        let next = self.on_data(id, about, &op, room);
        Some(if *used == buffer.len() { next.then_bytes() } else { next })
    }

    /// Reads what comes next, and takes it if it is a whole request.
    fn take_unknown(&mut self, id: ConnId, buffer: &mut Buffer, used: &mut usize) -> Next {
        let Some(Conn { state: Role::Client(client), .. }) = self.reactor.get(id) else { return Next::Never };
        // What was promised is counted anew behind what has come.
        self.ledger.promise(client, 0);
        let mut decoder = std::mem::take(&mut client.decoder);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut next = self.take_request(id, &mut decoder, &mut scratch, buffer, used);
        if *used == buffer.len() && decoder.phase() == Phase::Idle {
            next = next.then_bytes();
        }
        self.scratch = scratch;
        if let Some(Conn { state: Role::Client(client), .. }) = self.reactor.get(id) {
            // A body that was refused is not waited for.
            let wanted = if matches!(next, Next::Bytes) { decoder.wanted() } else { 0 };
            self.ledger.promise(client, wanted.saturating_sub(buffer.len() - *used) as u64);
            client.decoder = decoder;
        }
        next
    }

    fn take_request(
        &mut self,
        id: ConnId,
        decoder: &mut Decoder,
        scratch: &mut Scratch,
        buffer: &mut Buffer,
        used: &mut usize,
    ) -> Next {
        let (came, room) = ((buffer.len() - *used) as u64, self.room(buffer));
        let step = decoder.step(&mut buffer.data_mut()[*used..], &self.limits, &mut self.known_lines);
        match step {
            Step::Partial(keep) => {
                buffer.truncate(*used + keep);
                // A body of known length has its room; a head, or a body in chunks, takes it as it comes.
                if room == 0 && !decoder.is_counted() && decoder.phase() != Phase::Idle {
                    self.refuse(id, About::UNREADABLE, CallKind::Other, &overloaded())
                } else {
                    Next::Bytes
                }
            }
            Step::Head(head) => self.on_head(id, &head, room, came),
            Step::Reject(reject) => self.refuse(id, About::UNREADABLE, CallKind::Other, &reject.into()),
            Step::Complete(request, bytes) => {
                *used += bytes;
                let about = self.about(&request.head);
                match api::call(&request, &self.limits, &self.hosts, scratch) {
                    Ok(Call::Peer) => self.become_link(id, about),
                    _ if self.is_surplus(id) => {
                        let why = "this node has limits.max_connections clients: try again, or another node";
                        let error = ApiError::unavailable("too_many_connections", why);
                        self.refuse(id, about.closing(), CallKind::Other, &error)
                    }
                    Ok(call) => {
                        let key_bytes = KnownGet::key_bytes(&request, &call, about);
                        let next = self.on_call(id, &request.head, about, call, room);
                        if let Some(key_bytes) = key_bytes {
                            self.known_get.learn(&buffer.data()[*used - bytes..*used], key_bytes, about);
                        }
                        next
                    }
                    Err(error) => self.refuse(id, about, CallKind::Other, &error),
                }
            }
        }
    }

    /// A stopping node says so with every answer.
    fn about(&self, head: &Head<'_>) -> About {
        let about = About::new(head);
        if self.draining_until_ms.is_some() { about.closing() } else { about }
    }

    /// Whether only a peer may use this connection: it was accepted above the limit, and no room has come since.
    fn is_surplus(&mut self, id: ConnId) -> bool {
        let is_full = self.clients() > self.max_connections;
        let Some(client) = self.client(id) else { return false };
        client.is_surplus &= is_full;
        client.is_surplus
    }

    /// A head whose body is still to come: refused now, or told to go on.
    fn on_head(&mut self, id: ConnId, head: &Head<'_>, room: u64, came: u64) -> Next {
        let about = About::new(head).closing();
        if let Err(error) = api::admit(head, &self.limits, &self.hosts) {
            return self.refuse(id, about, CallKind::Other, &error);
        }
        let needs = match head.body {
            BodyKind::Length(n) => n,
            BodyKind::None | BodyKind::Chunked => 0,
        };
        // What has come of the body is counted already.
        if needs.saturating_sub(came) > room || room == 0 {
            return self.refuse(id, about, CallKind::Other, &overloaded());
        }
        if self.draining_until_ms.is_some() {
            let error = ApiError::unavailable("draining", "this node is stopping; not applied: ask another node");
            return self.refuse(id, about, CallKind::Other, &error);
        }
        if head.expect_continue
            && let Some((out, Role::Client(client))) = self.reactor.output(id, 0)
        {
            if client.pipeline.is_empty() {
                out.extend_from_slice(CONTINUE);
            } else {
                client.owes_continue = true;
            }
        }
        Next::Request
    }

    fn on_call(&mut self, id: ConnId, head: &Head<'_>, about: About, call: Call<'_>, room: u64) -> Next {
        if let Call::Data(op) = &call {
            return self.on_data(id, about, op, room);
        }
        let due = Due { about, verb: Verb::Get, call: kind_of(&call), since_ns: self.woke_ns };
        let Some(number) = self.push(id, due) else { return Next::Never };
        match call {
            Call::Handover { shard, to } => self.on_handover(id, number, shard, to),
            Call::Takeover { shard } => self.on_takeover(id, number, shard),
            page => {
                let page = admin::page(self, &page, head);
                let (_, mut out) = self.core_and_sink();
                let date = out.date;
                out.respond(id, number, page.status, 0, |bytes, due| {
                    render::text(bytes, due.about, page.status, page.kind, page.body.as_bytes(), date);
                });
            }
        }
        self.behind(id, about)
    }

    /// One of the four calls.
    fn on_data(&mut self, id: ConnId, about: About, op: &Op<'_>, room: u64) -> Next {
        let due = Due { about, verb: op.verb, call: kind_of(&Call::Data(*op)), since_ns: self.woke_ns };
        let Some(number) = self.push(id, due) else { return Next::Never };
        let ticket = Ticket::Client(id, number);
        let failure = if self.draining_until_ms.is_some() { Failure::Draining } else { Failure::Overloaded };
        let (core, mut out) = self.core_and_sink();
        if failure == Failure::Draining || room == 0 {
            super::core::Sink::answer(&mut out, ticket, &Outcome::Failed(failure));
        } else {
            core.submit(ticket, Stream::Client(id), op, &mut out);
        }
        self.behind(id, about)
    }

    /// What follows a request that was taken.
    fn behind(&mut self, id: ConnId, about: About) -> Next {
        if about.persistence == Persistence::Close { self.no_more(id) } else { Next::Request }
    }

    /// Answers with a refusal, in its turn.
    fn refuse(&mut self, id: ConnId, about: About, call: CallKind, error: &ApiError) -> Next {
        let due = Due { about, verb: Verb::Get, call, since_ns: self.woke_ns };
        let Some(number) = self.push(id, due) else { return Next::Never };
        let (_, mut out) = self.core_and_sink();
        let date = out.date;
        out.respond(id, number, error.status, 0, |bytes, due| render::error(bytes, due.about, error, date));
        self.behind(id, about)
    }

    fn no_more(&mut self, id: ConnId) -> Next {
        if let Some(conn) = self.reactor.get(id)
            && let Role::Client(client) = &mut conn.state
        {
            client.is_last = true;
            self.ledger.promise(client, 0);
        }
        Next::Never
    }

    fn push(&mut self, id: ConnId, due: Due) -> Option<u64> {
        let client = self.client(id)?;
        // It is whole, or refused: it waits for no permission to go on.
        client.owes_continue = false;
        Some(client.pipeline.push(due))
    }

    /// A request that does not come in time: 408, and the connection closes.
    pub(super) fn refuse_late(&mut self, id: ConnId, setting: &str) {
        let error = ApiError::timeout(setting);
        self.refuse(id, About::UNREADABLE, CallKind::Other, &error);
        self.drop_input(id);
    }

    /// The connection becomes a link, if it comes from a host of the table.
    fn become_link(&mut self, id: ConnId, about: About) -> Next {
        let Some(conn) = self.reactor.get(id) else { return Next::Never };
        let from = conn.peer.ip().to_canonical();
        if !self.cluster.nodes().iter().any(|node| node.address.ip().to_canonical() == from) {
            let why = format!("{from} is not the address of a node in this node's sharding.toml: no link with it");
            return self.refuse(id, about.closing(), CallKind::Other, &ApiError::new(403, "not_a_peer", why));
        }
        if !self.client(id).is_some_and(|client| client.pipeline.is_empty()) {
            let why = "the request for a link must be the first on its connection";
            return self.refuse(id, about.closing(), CallKind::Other, &ApiError::new(400, "bad_upgrade", why));
        }
        let heard_ms = self.now.ms();
        let Some(conn) = self.reactor.get(id) else { return Next::Never };
        // First, so that what is sent to it is listed as a link's.
        conn.state = Role::Link(Link {
            node: NodeId(u32::MAX),
            class: Class::Control,
            is_dialled: false,
            stage: Stage::Listening,
            heard_ms,
            cluster: Uuid::default(),
            written_bytes: 0,
        });
        if let Some((out, _)) = self.reactor.output(id, 0) {
            write_switching_protocols(out);
        }
        self.links += 1;
        self.reactor.again(id);
        Next::Handed
    }
}

fn overloaded() -> ApiError {
    ApiError::unavailable(
        "overloaded",
        "too many bytes of requests are under way (limits.max_inflight_bytes); not applied: try again later",
    )
}

fn kind_of(call: &Call<'_>) -> CallKind {
    match call {
        Call::Data(op) => match op.verb {
            Verb::Get => CallKind::Get,
            Verb::Set => CallKind::Set,
            Verb::Update => CallKind::Update,
            Verb::Delete => CallKind::Delete,
        },
        Call::Where { .. } => CallKind::Where,
        Call::Cluster => CallKind::Cluster,
        Call::Livez => CallKind::Livez,
        Call::Readyz { .. } => CallKind::Readyz,
        Call::Metrics => CallKind::Metrics,
        Call::Guide => CallKind::Guide,
        Call::Handover { .. } => CallKind::Handover,
        Call::Takeover { .. } => CallKind::Takeover,
        Call::Peer => CallKind::Other,
    }
}
