//! Owns: who leads which shard, as last heard, and what each node last told of itself.
//! Never: how it was told; this node's own copy.

use crate::config::Cluster;
use crate::id::{Epoch, NodeId, ShardId};
use crate::wire::Status;

/// A node is taken to be up while it was heard within this time, in milliseconds.
const UP_MS: u64 = crate::peers::SILENCE_MS;

/// What a node last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Its beacon.
    pub status: Status,
    /// When it arrived, on this node's clock.
    pub at_ms: u64,
    /// The link by which it came has broken since.
    pub is_lost: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    shards: Vec<(Epoch, NodeId)>,
    /// A witness has none.
    homes: Vec<Option<ShardId>>,
    heard: Vec<Option<Heard>>,
}

impl Directory {
    /// Before anything was heard: the table's primaries.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            shards: cluster.shards().iter().map(|shard| (Epoch(0), shard.nodes[0])).collect(),
            homes: cluster.nodes().iter().map(|node| node.shard).collect(),
            heard: vec![None; cluster.nodes().len()],
        }
    }

    /// Who leads a shard.
    #[must_use]
    pub fn primary(&self, shard: ShardId) -> NodeId {
        self.shards[shard.0 as usize].1
    }

    /// The epoch in which it leads; 0 while nothing was heard of it.
    #[must_use]
    pub fn epoch(&self, shard: ShardId) -> Epoch {
        self.shards[shard.0 as usize].0
    }

    /// A node's beacon arrived. Returns its shard, if that has another primary now, or another start of it.
    pub fn hear(&mut self, node: NodeId, status: Status, now_ms: u64) -> Option<ShardId> {
        self.heard[node.0 as usize] = Some(Heard { status, at_ms: now_ms, is_lost: false });
        let shard = self.homes[node.0 as usize]?;
        (status.is_primary && self.learn(shard, status.epoch, node)).then_some(shard)
    }

    /// Who leads a shard became known. Returns whether that is news: an epoch has one primary.
    pub fn learn(&mut self, shard: ShardId, epoch: Epoch, primary: NodeId) -> bool {
        let known = &mut self.shards[shard.0 as usize];
        if epoch <= known.0 {
            return false;
        }
        *known = (epoch, primary);
        true
    }

    /// The link by which a node was heard broke: it is not up until it is heard again.
    pub fn lose(&mut self, node: NodeId) {
        if let Some(heard) = &mut self.heard[node.0 as usize] {
            heard.is_lost = true;
        }
    }

    /// What a node last said, and whether that is recent enough for it to be up.
    #[must_use]
    pub fn heard(&self, node: NodeId, now_ms: u64) -> Option<(Heard, bool)> {
        self.heard[node.0 as usize].map(|heard| (heard, !heard.is_lost && heard.at_ms + UP_MS > now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        let text = "[[shard]]\nname='a'\nidx=0\naddress='127.0.0.1:1'\nreplicas=['127.0.0.1:2']\n";
        crate::config::parse(text, "test").unwrap().cluster
    }

    #[test]
    fn the_highest_epoch_leads() {
        let mut directory = Directory::new(&cluster());
        let primary = |epoch| Status { is_primary: true, epoch: Epoch(epoch), ..Status::default() };
        assert_eq!(directory.primary(ShardId(0)), NodeId(0));
        assert_eq!(directory.hear(NodeId(1), primary(3), 0), Some(ShardId(0)));
        assert_eq!(directory.hear(NodeId(0), primary(2), 0), None, "an older primary changes nothing");
        assert_eq!(directory.hear(NodeId(1), primary(3), 0), None, "that is known");
        assert_eq!(directory.hear(NodeId(1), primary(4), 0), Some(ShardId(0)), "it started anew");
        assert_eq!(directory.primary(ShardId(0)), NodeId(1));
        assert_eq!(directory.epoch(ShardId(0)), Epoch(4));
    }

    #[test]
    fn a_node_that_is_silent_is_not_up() {
        let mut directory = Directory::new(&cluster());
        assert!(directory.heard(NodeId(1), 0).is_none());
        directory.hear(NodeId(1), Status::default(), 100);
        assert!(directory.heard(NodeId(1), 100 + UP_MS - 1).unwrap().1);
        assert!(!directory.heard(NodeId(1), 100 + UP_MS).unwrap().1);
        directory.hear(NodeId(1), Status::default(), 200);
        directory.lose(NodeId(1));
        assert!(!directory.heard(NodeId(1), 200).unwrap().1);
        directory.hear(NodeId(1), Status::default(), 201);
        assert!(directory.heard(NodeId(1), 201).unwrap().1);
    }
}
