//! Owns: that writes go on while a fault lasts: one node of a whole cluster fails, in one way, and nothing else does.
//! Then every shard of which another copy is in sync must answer a write within the time that noticing takes.
//! Never: how the others go on.

use super::*;
use crate::workload::value;
use dkv::op::{Condition, Verb};

/// How long it takes to find each other, to agree and to settle, once a failure was noticed.
const AGREED_NS: Nanos = 1_500 * MS;
const PROBE_NS: Nanos = 100 * MS;

/// A node fails.
#[derive(Debug)]
pub(super) struct Island {
    at: usize,
    how: How,
    began_at: Nanos,
    /// By then writes go on.
    answered_by: Nanos,
    /// How many shards were to go on.
    shards: u64,
    /// Shards that have not answered yet, with the calls that were made.
    waits_for: Vec<(ShardId, Vec<u64>)>,
}

/// How a node fails: at once, and towards all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Dies,
    LosesPower,
    Stands,
    IsCutOff,
    DiskHangs,
}

impl World {
    /// All is whole: this node fails, where the others can go on without it.
    pub(super) fn begin_island(&mut self, at: usize) {
        self.end_lull();
        // For whoever takes a dead link for a good one, all is not whole.
        if self.network.has_untold_breaks() {
            return;
        }
        let id = NodeId(at as u32);
        let voters = self.nodes[at].voters().unwrap_or_default();
        if voters.contains(&id) && voters.len() < 3 {
            return;
        }
        let has_other = |shard: &ShardId| self.nodes.iter().any(|node| node.id != id && node.shard == Some(*shard));
        let shards = (0..self.cluster.shards().len() as u32).map(ShardId).filter(has_other);
        let waits_for: Vec<(ShardId, Vec<u64>)> = shards.map(|shard| (shard, Vec::new())).collect();
        let shards = waits_for.len() as u64;
        let ways = [How::Dies, How::LosesPower, How::Stands, How::IsCutOff, How::DiskHangs];
        let how = *self.fates.faults.pick(&ways).expect("there are five");
        let settings = self.cluster.settings();
        let noticed_ms = match how {
            How::DiskHangs => settings.deadlines.disk_ms + settings.replication.failover_ms,
            _ => 2 * settings.replication.failover_ms,
        };
        let answered_by = self.now + noticed_ms * MS + AGREED_NS;
        self.trace.line(self.now, format_args!("{} alone fails: {how:?}", name(id)));
        self.begin_lull(None);
        if let Some(lull) = &mut self.lull {
            lull.not_before = answered_by;
        }
        self.fail(at, how, answered_by);
        self.island = Some(Island { at, how, began_at: self.now, answered_by, shards, waits_for });
        self.after(1, Event::Probe);
    }

    fn fail(&mut self, at: usize, how: How, until: Nanos) {
        match how {
            How::Dies => self.kill(at),
            How::LosesPower => self.power_loss(at),
            How::Stands => {
                self.nodes[at].paused_until = until;
                self.poke(at, self.now);
            }
            How::IsCutOff => {
                let one = NodeId(at as u32);
                for other in self.cluster.node_ids().filter(|other| *other != one) {
                    for (from, to) in [(one, other), (other, one)] {
                        self.network.cut(from, to);
                        self.at(until, Event::Undo(Undo::Heal(from, to)));
                    }
                }
            }
            How::DiskHangs => {
                self.nodes[at].machine.hang();
                self.at(until, Event::Undo(Undo::DiskWorks(at)));
            }
        }
    }

    /// Writes to each shard that has not answered yet, by some node that is well.
    pub(super) fn probe(&mut self) -> Result<(), String> {
        let Some(mut island) = self.island.take() else { return Ok(()) };
        let is_answered = |call: &u64| matches!(self.told.get(call), Some(Answer::Known(_)));
        island.waits_for.retain(|(_, calls)| !calls.iter().any(is_answered));
        if island.waits_for.is_empty() {
            self.checks.seen.add("shards that went on", island.shards);
            self.checks.seen.add("ms until islands went on", (self.now - island.began_at) / MS);
            return Ok(());
        }
        let Island { at, how, began_at, answered_by, .. } = island;
        if self.now > answered_by {
            let (shards, letter) = (&island.waits_for, name(NodeId(at as u32)));
            let since_ms = (self.now - began_at) / MS;
            return Err(format!(
                "no write is answered, though only {letter} fails ({how:?}) for {since_ms} ms: {shards:?}"
            ));
        }
        let well: Vec<usize> = self.live().map(|(node, _)| node.0 as usize).filter(|node| *node != at).collect();
        for (shard, calls) in &mut island.waits_for {
            let key = (0..).map(|n| format!("probe{n}").into_bytes()).find(|key| self.router.shard_of(key) == *shard);
            let (Some(key), Some(by)) = (key, self.fates.faults.pick(&well).copied()) else { continue };
            let call =
                Call { verb: Verb::Set, key, value: value(u64::MAX, 8), condition: Condition::None, stale: false };
            calls.push(self.call(by, call));
        }
        self.island = Some(island);
        self.after(PROBE_NS, Event::Probe);
        Ok(())
    }
}
