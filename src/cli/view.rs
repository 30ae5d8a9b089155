//! Owns: the running cluster as one of its nodes sees it: asking for `/cluster`, and the answer as values.
//! Never: how a node knows what it answers; how it is shown.

use std::net::SocketAddr;

use serde::Deserialize;

use super::{Failure, client};

/// `/cluster`, from the node that answered.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) by: SocketAddr,
    pub(super) cluster: ClusterView,
    /// The answer as it came.
    pub(super) json: serde_json::Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct ClusterView {
    pub(super) shards: Vec<ShardView>,
    #[serde(default)]
    pub(super) witnesses: Vec<NodeView>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ShardView {
    pub(super) idx: u32,
    pub(super) name: String,
    pub(super) epoch: Option<u64>,
    pub(super) primary: Option<String>,
    /// Addresses of the copies that hold every answered write.
    pub(super) in_sync: Vec<String>,
    pub(super) nodes: Vec<NodeView>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NodeView {
    pub(super) address: String,
    pub(super) role: String,
    /// What it does, in words; `None`: it was not told.
    pub(super) state: Option<String>,
    /// Whether it was heard of late.
    pub(super) up: bool,
    pub(super) lsn: Option<u64>,
    pub(super) committed: Option<u64>,
    /// How many records it is behind the primary.
    pub(super) lag_records: Option<u64>,
}

impl ShardView {
    /// What the node is now: the table's primary may be a replica at the moment.
    pub(super) fn role_of<'v>(&self, node: &'v NodeView) -> &'v str {
        if self.primary.as_ref() == Some(&node.address) { "primary" } else { &node.role }
    }

    pub(super) fn is_in_sync(&self, node: &NodeView) -> bool {
        self.in_sync.contains(&node.address)
    }

    /// The node of an address.
    pub(super) fn node(&self, address: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.address == address)
    }
}

/// Asks the nodes in turn; gives the first answer.
pub(super) fn ask(addresses: &[SocketAddr]) -> Result<Seen, Failure> {
    let mut first = None;
    for address in addresses {
        match ask_one(*address) {
            Ok(seen) => return Ok(seen),
            Err(reason) => drop(first.get_or_insert(format!("{address}: {reason}"))),
        }
    }
    let first = first.unwrap_or_default();
    Err(Failure(match addresses.len() {
        1 => format!("the node does not answer: {first}"),
        n => format!("none of {n} nodes answers; the first, {first}"),
    }))
}

fn ask_one(by: SocketAddr) -> Result<Seen, String> {
    let answer = client::get(by, "/cluster", true)?;
    if answer.status != 200 {
        return Err(format!("it answers {} to GET /cluster", answer.status));
    }
    let foreign = |e: serde_json::Error| format!("its answer to GET /cluster is not a dkv node's: {e}");
    let cluster = serde_json::from_slice(&answer.body).map_err(foreign)?;
    let json = serde_json::from_slice(&answer.body).map_err(foreign)?;
    Ok(Seen { by, cluster, json })
}
