//! Owns: the way of an answer out of the core: rendered into its connection's output when its turn has come, or framed
//! onto a link.
//! Never: why the answer is what it is.

use super::conn::{Due, Ledger, Role};
use super::core::Sink;
use super::metrics::Metrics;
use super::render;
use crate::http::response::{CONTINUE, DateText, Persistence};
use crate::id::{ConnId, LinkId, NodeId, Ticket};
use crate::op::{Failure, Outcome};
use crate::peers::Peers;
use crate::reactor::{Closing, Reactor};
use crate::wire::{self, Class, Message};

/// The core's [`Sink`] over real connections.
pub(super) struct Out<'a> {
    pub reactor: &'a mut Reactor<Role>,
    pub peers: &'a mut Peers,
    pub metrics: &'a mut Metrics,
    pub ledger: &'a mut Ledger,
    pub date: &'a DateText,
    pub now_ns: u64,
    /// The bound of all bytes in flight.
    pub max_inflight_bytes: usize,
    /// Of them, what the core kept when this was made.
    pub core_held_bytes: u64,
}

impl Sink for Out<'_> {
    fn answer(&mut self, ticket: Ticket, outcome: &Outcome<'_>) {
        // How long a value is, is known only now: a small request may not bring more than there is room for.
        let outcome = match outcome {
            Outcome::Found { value, .. } if value.len() as u64 > self.room() => &Outcome::Failed(Failure::Overloaded),
            fits => fits,
        };
        match ticket {
            Ticket::Client(conn, number) => {
                let date = self.date;
                self.respond(conn, number, render::status(outcome), value_bytes(outcome), |out, due| {
                    render::outcome(out, due.about, due.verb, outcome, date);
                });
            }
            Ticket::Link(link, id) => _ = self.send(link, &Message::Answer { id, outcome: *outcome }),
        }
    }

    fn send(&mut self, link: LinkId, message: &Message<'_>) -> Option<u64> {
        let place = self.reactor.get(link.0)?.queued_bytes();
        let (out, _) = self.reactor.output(link.0, bulk_bytes(message))?;
        let queued = out.len();
        wire::encode(message, out);
        self.ledger.queued_bytes += (out.len() - queued) as u64;
        Some(place)
    }

    fn queued_bytes(&mut self, link: LinkId) -> usize {
        self.reactor.get(link.0).map_or(0, |conn| conn.output_bytes())
    }

    fn want(&mut self, node: NodeId, class: Class) {
        self.peers.want(node, class);
    }

    fn finish(&mut self, link: LinkId) {
        self.reactor.close(link.0);
    }
}

impl Out<'_> {
    /// Bytes that there is room for.
    fn room(&self) -> u64 {
        let held = self.reactor.held_bytes() + self.core_held_bytes + self.ledger.bytes();
        (self.max_inflight_bytes as u64).saturating_sub(held)
    }

    /// Answers a client's request: `render` writes the answer, of about so many bytes where they may be many, once its turn
    /// has come.
    pub fn respond(
        &mut self,
        id: ConnId,
        number: u64,
        status: u16,
        bytes: usize,
        render: impl FnOnce(&mut Vec<u8>, Due),
    ) {
        let Some((out, Role::Client(client))) = self.reactor.output(id, bytes) else { return };
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

fn value_bytes(outcome: &Outcome<'_>) -> usize {
    if let Outcome::Found { value, .. } = outcome { value.len() } else { 0 }
}

/// Of a message that may be long.
fn bulk_bytes(message: &Message<'_>) -> usize {
    match message {
        Message::Append(append) => append.records.len(),
        Message::Forward(forward) => forward.op.value.len(),
        Message::Answer { outcome, .. } => value_bytes(outcome),
        _ => 0,
    }
}
