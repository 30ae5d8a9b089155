//! Owns: the cluster as a value that cannot be wrong: shards, nodes, settings, and the fingerprint by which two
//! nodes see that they hold the same table.
//! Never: what a node does with it; sockets; anything that changes while the cluster runs.

mod address;
mod error;
mod parse;
mod report;
mod settings;
mod table;
mod warnings;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

pub use address::parse_address;
pub use error::{ConfigError, LoadError};
pub use parse::parse;
pub use settings::{Deadlines, Http, Limits, Origin, Reads, Replication, Settings, Store};
pub use table::difference;

use crate::id::{NodeId, ShardId};

/// What a node is in the table. Which copy leads a shard at the moment may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The shard's `address`.
    Primary,
    /// One of the shard's `replicas`.
    Replica,
    /// A `[[witness]]`: it votes and forwards, and holds no data.
    Witness,
}

impl Role {
    /// The role in lower case, as it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Witness => "witness",
        }
    }
}

/// One shard of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// The name, unique in the cluster: 1 to 64 characters, none of them a control character.
    pub name: String,
    /// The nodes that hold a copy: the table's primary first, then the replicas in the file's order. Never empty.
    pub nodes: Vec<NodeId>,
}

/// One node of the table: one copy of one shard, or a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Where the other nodes and the clients reach it. Unique in the cluster.
    pub address: SocketAddr,
    /// The shard that it holds a copy of; `None`: it is a witness.
    pub shard: Option<ShardId>,
    /// What it is in the table.
    pub role: Role,
}

/// The cluster that a `sharding.toml` describes. It has at least one shard; every id that it gives out is an index
/// into its own tables; every address appears once.
#[derive(Debug, Clone)]
pub struct Cluster {
    shards: Vec<Shard>,
    /// The shards' nodes, then the witnesses.
    nodes: Vec<Node>,
    by_address: HashMap<SocketAddr, NodeId>,
    settings: Settings,
}

/// A shard as the parser has found it: valid by itself and against the others.
struct ShardEntry {
    name: String,
    /// Primary first.
    addresses: Vec<SocketAddr>,
}

impl Cluster {
    /// `entries` in order of `idx`, `witnesses` in the file's order, all checked by the parser.
    fn new(entries: Vec<ShardEntry>, witnesses: Vec<SocketAddr>, settings: Settings) -> Cluster {
        assert!(!entries.is_empty(), "a cluster has at least one shard");
        let mut cluster = Cluster { shards: Vec::new(), nodes: Vec::new(), by_address: HashMap::new(), settings };
        for (shard, entry) in (0u32..).map(ShardId).zip(entries) {
            assert!(!entry.addresses.is_empty(), "a shard has at least its primary");
            let mut nodes = Vec::with_capacity(entry.addresses.len());
            for (place, address) in entry.addresses.into_iter().enumerate() {
                let role = if place == 0 { Role::Primary } else { Role::Replica };
                nodes.push(cluster.add(Node { address, shard: Some(shard), role }));
            }
            cluster.shards.push(Shard { name: entry.name, nodes });
        }
        for address in witnesses {
            cluster.add(Node { address, shard: None, role: Role::Witness });
        }
        cluster
    }

    fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes fit a file"));
        let before = self.by_address.insert(address::canonical(node.address), id);
        assert!(before.is_none(), "an address belongs to one node");
        self.nodes.push(node);
        id
    }

    /// All shards, in order of `idx`: `ShardId(i)` is the i-th.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard of an id of this cluster.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> &Shard {
        &self.shards[id.0 as usize]
    }

    /// All nodes: shards in order of `idx`, each primary before its replicas, then the witnesses in the file's order;
    /// `NodeId(i)` is the i-th.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of an id of this cluster.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The ids of all nodes, in order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(NodeId)
    }

    /// The nodes without a shard, in the file's order: they are the last of all nodes.
    pub fn witnesses(&self) -> impl Iterator<Item = NodeId> + use<'_> {
        self.node_ids().filter(|id| self.node(*id).shard.is_none())
    }

    /// The node of an address of the table.
    #[must_use]
    pub fn node_at(&self, address: SocketAddr) -> Option<NodeId> {
        self.by_address.get(&address::canonical(address)).copied()
    }

    /// The table's primary of a shard.
    #[must_use]
    pub fn primary(&self, id: ShardId) -> NodeId {
        self.shard(id).nodes[0]
    }

    /// The settings, the file's where it has them.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The table as text, one line a shard and one for the witnesses, if there are any: what the fingerprint is taken
    /// of, and what two nodes compare ([`difference`]). Settings are not part of it: nodes may differ in them.
    #[must_use]
    pub fn canonical(&self) -> String {
        table::canonical(self)
    }

    /// FNV-1a, 64 bits, of [`Cluster::canonical`]. Equal for two nodes whose tables are equal.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        table::fingerprint(&self.canonical())
    }
}

/// What a good file gives.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The cluster.
    pub cluster: Cluster,
    /// What is legal but probably not wanted, a sentence each.
    pub warnings: Vec<String>,
    /// Every setting with its value and where it came from, in the reference's order.
    pub origins: Vec<Origin>,
}

/// Reads and checks a file.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or does not describe a cluster: then all that is wrong with it.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| LoadError::Read { file: name.clone(), reason: e.to_string() })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        LoadError::Read { file: name.clone(), reason: format!("not UTF-8 text: byte {at} cannot be decoded") }
    })?;
    parse(&text, &name).map_err(LoadError::Invalid)
}

#[cfg(test)]
mod tests;
