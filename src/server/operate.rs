//! Owns: what operators ask for: a handover, a takeover by force; and their answers, once it is done or cannot be.
//! Never: how the lead passes on.

use super::render;
use super::turn::Server;
use crate::http::response::ContentType;
use crate::id::{ConnId, Epoch, NodeId, ShardId};

/// How often it is looked whether it is done, in milliseconds.
pub(super) const LOOK_MS: u64 = 2;
/// An operator gets an answer within this, in milliseconds.
const PATIENCE_MS: u64 = 10_000;

/// What was asked for.
#[derive(Debug)]
pub(super) struct Operation {
    conn: ConnId,
    number: u64,
    shard: ShardId,
    to: NodeId,
    /// The epoch before.
    epoch: Epoch,
    until_ms: u64,
}

impl Server {
    /// `POST /handover`
    pub(super) fn on_handover(&mut self, conn: ConnId, number: u64, shard: u32, to: &str) {
        let shard = ShardId(shard);
        let copy = to.parse().ok().and_then(|address| self.cluster.node_at(address));
        let copy = copy.filter(|node| self.cluster.node(*node).shard == Some(shard));
        let Some(to) = copy else {
            let why = format!("{to:?} holds no copy of a shard {}", shard.0);
            return self.answer_operator(conn, number, 400, &why);
        };
        let primary = self.core.directory().primary(shard);
        if primary == to && self.core.directory().epoch(shard) > Epoch(0) {
            let text = format!("shard {} is led by {} already", shard.0, self.name_of(to));
            return self.answer_operator(conn, number, 200, &text);
        }
        let asked = if primary == self.me {
            self.core.hand_over(to)
        } else {
            let (core, mut out) = self.core_and_sink();
            core.ask_to_hand_over(primary, to, &mut out)
        };
        match asked {
            Ok(()) => self.await_lead(conn, number, shard, to),
            Err(why) => self.answer_operator(conn, number, 409, why),
        }
    }

    /// `POST /takeover`
    pub(super) fn on_takeover(&mut self, conn: ConnId, number: u64, shard: u32) {
        let shard = ShardId(shard);
        if self.cluster.node(self.me).shard != Some(shard) {
            let why = format!("this node holds no copy of a shard {}: ask the copy that shall lead", shard.0);
            return self.answer_operator(conn, number, 400, &why);
        }
        let (core, mut out) = self.core_and_sink();
        match core.take_over_by_force(&mut out) {
            Ok(()) => self.await_lead(conn, number, shard, self.me),
            Err(why) => self.answer_operator(conn, number, 409, why),
        }
    }

    fn await_lead(&mut self, conn: ConnId, number: u64, shard: ShardId, to: NodeId) {
        let (epoch, until_ms) = (self.core.directory().epoch(shard), self.now.ms() + PATIENCE_MS);
        self.operations.push(Operation { conn, number, shard, to, epoch, until_ms });
    }

    /// Answers what is done, cannot be, or takes too long.
    pub(super) fn answer_operators(&mut self) {
        let refused = self.core.take_refusal();
        for operation in std::mem::take(&mut self.operations) {
            let Operation { conn, number, shard, to, epoch, until_ms } = operation;
            let directory = self.core.directory();
            let (leader, now) = (directory.primary(shard), directory.epoch(shard));
            if let Some((_, why)) = refused.as_ref().filter(|(from, _)| *from == leader) {
                self.answer_operator(conn, number, 409, why);
            } else if leader == to && now > epoch {
                let text = format!("shard {} is led by {} now, in epoch {}", shard.0, self.name_of(to), now.0);
                self.answer_operator(conn, number, 200, &text);
            } else if self.now.ms() >= until_ms {
                let text = format!("not done within {PATIENCE_MS} ms: it may yet come; /cluster shows who leads");
                self.answer_operator(conn, number, 504, &text);
            } else {
                self.operations.push(operation);
            }
        }
    }

    fn answer_operator(&mut self, conn: ConnId, number: u64, status: u16, text: &str) {
        let body = format!("{text}\n");
        let (_, mut out) = self.core_and_sink();
        let date = out.date;
        out.respond(conn, number, status, 0, |bytes, due| {
            render::text(bytes, due.about, status, ContentType::Text, body.as_bytes(), date);
        });
    }
}
