//! Owns: the way of an answer out of the core: rendered into its connection's output when its turn has come, or framed
//! onto a link.
//! Never: why the answer is what it is.

use super::conn::{Due, Ledger, Role};
use super::core::Sink;
use super::metrics::Metrics;
use super::render;
use crate::http::response::{CONTINUE, DateText, Persistence};
use crate::id::{ConnId, LinkId, NodeId, Ticket};
use crate::op::{Op, Outcome};
use crate::peers::Peers;
use crate::reactor::{Closing, Reactor};
use crate::wire::{self, Class, Forward, Message};

/// The core's [`Sink`] over real connections.
pub(super) struct Out<'a> {
    pub reactor: &'a mut Reactor<Role>,
    pub peers: &'a mut Peers,
    pub metrics: &'a mut Metrics,
    pub ledger: &'a mut Ledger,
    pub date: &'a DateText,
    pub now_ns: u64,
    /// A link whose output holds more takes no further request.
    pub max_link_bytes: usize,
}

impl Sink for Out<'_> {
    fn answer(&mut self, ticket: Ticket, outcome: &Outcome<'_>) {
        match ticket {
            Ticket::Client(conn, number) => {
                let date = self.date;
                self.respond(conn, number, render::status(outcome), |out, due| {
                    render::outcome(out, due.about, due.verb, outcome, date);
                });
            }
            Ticket::Link(link, id) => self.send(link, &Message::Answer { id, outcome: *outcome }),
        }
    }

    fn not_primary(&mut self, link: LinkId, id: u64, op: &Op<'_>) {
        self.send(link, &Message::NotPrimary { id, op: *op });
    }

    fn forward(&mut self, link: LinkId, forward: &Forward<'_>) -> Option<u64> {
        let place = self.reactor.get(link.0)?.queued_bytes();
        let (out, _) = self.reactor.output(link.0)?;
        if out.len() > self.max_link_bytes {
            return None;
        }
        wire::encode(&Message::Forward(*forward), out);
        Some(place)
    }

    fn want(&mut self, node: NodeId) {
        self.peers.want(node, Class::Data);
    }

    fn finish(&mut self, link: LinkId) {
        self.reactor.close(link.0);
    }
}

impl Out<'_> {
    /// Queues a message on a link, if it is still there.
    pub fn send(&mut self, link: LinkId, message: &Message<'_>) {
        if let Some((out, _)) = self.reactor.output(link.0) {
            wire::encode(message, out);
        }
    }

    /// Answers a client's request: `render` writes the answer once its turn has come.
    pub fn respond(&mut self, id: ConnId, number: u64, status: u16, render: impl FnOnce(&mut Vec<u8>, Due)) {
        let Some((out, Role::Client(client))) = self.reactor.output(id) else { return };
        let (queued, early) = (out.len(), client.pipeline.early_bytes());
        let Some(due) = client.pipeline.answer(number, out, render) else { return };
        self.ledger.queued_bytes += (out.len() - queued) as u64;
        self.ledger.early_bytes = self.ledger.early_bytes + client.pipeline.early_bytes() as u64 - early as u64;
        self.metrics.answered(due.call, status, self.now_ns.saturating_sub(due.since_ns));
        // The answer that closes is the last one: nothing behind its request was taken.
        client.is_last |= due.about.persistence == Persistence::Close;
        if !client.pipeline.is_empty() {
            return;
        }
        if std::mem::take(&mut client.owes_continue) && !client.is_last {
            out.extend_from_slice(CONTINUE);
        }
        let (is_last, is_paused) = (client.is_last, client.is_paused);
        if is_last && let Some(conn) = self.reactor.get(id) {
            conn.closing = Closing::AfterOutput;
        } else if is_paused {
            self.reactor.again(id);
        }
    }
}
