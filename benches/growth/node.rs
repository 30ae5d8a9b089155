//! Owns: the node that is measured: a cluster of one, on a processor of its own, and how it is filled.
//! Never: figures.

use std::path::PathBuf;

use crate::keys::Keys;
use crate::load::{Call, Load, Outcome, Pace, Plan};
use crate::machine;
use crate::support::cluster::Cluster;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_dkv");
pub const KEY_BYTES: usize = 16;
pub const VALUE_BYTES: usize = 100;

/// So many calls are under way while a node is filled: enough that a sync is shared by hundreds.
const FILL_CONNECTIONS: usize = 8;
const FILL_DEPTH: usize = 100;

/// A cluster of one node, which does not run yet.
pub fn new() -> Cluster {
    Cluster::new(1, 1, "").wrapped_each(|_| machine::pinned(machine::NODES_CORE))
}

/// The same, running and empty.
pub fn started() -> Cluster {
    let cluster = new();
    cluster.start(0);
    cluster
}

/// Calls on the first node of a cluster with keys and values of the usual size.
pub fn plan(cluster: &Cluster, call: Call, keys: Keys, connections: usize, pace: Pace) -> Plan {
    let (address, key_bytes, value_bytes) = (cluster.addresses[0], KEY_BYTES, VALUE_BYTES);
    Plan { address, connections, pace, call, keys, key_bytes, value_bytes, calls: None, gives_way: false }
}

/// Writes as fast as the node takes them.
pub fn writes(cluster: &Cluster, keys: Keys) -> Plan {
    plan(cluster, Call::Put, keys, FILL_CONNECTIONS, Pace::Closed(FILL_DEPTH))
}

/// Writes so many keys, from this one on.
pub fn fill(cluster: &Cluster, from: u64, count: u64) -> Outcome {
    Load::start(Plan { calls: Some(count), ..writes(cluster, Keys::InTurn(from)) }).wait()
}

/// The files of the first node, log and hints.
pub fn files(cluster: &Cluster) -> Vec<PathBuf> {
    machine::files(&cluster.data(0))
}

/// What a record takes in the log by the README's rule.
pub fn record_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
    (key_bytes + value_bytes + 40).next_multiple_of(8) as u64
}
