//! Owns: what is legal in a configuration, and probably not wanted: a sentence each.
//! Never: what is wrong.

use std::net::{IpAddr, SocketAddr};

use super::Cluster;

/// What is legal and probably not wanted. A cluster on loopback addresses alone is someone trying things out: that
/// it has one host is no news to them.
pub(super) fn warnings(cluster: &Cluster) -> Vec<String> {
    let mut warnings = Vec::new();
    let ips = |nodes: &mut dyn Iterator<Item = SocketAddr>| -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> = nodes.map(|a| a.ip().to_canonical()).collect();
        ips.sort();
        ips.dedup();
        ips
    };
    let all = ips(&mut cluster.nodes().iter().map(|n| n.address));
    let loopback = all.iter().filter(|ip| ip.is_loopback()).count();
    for shard in cluster.shards() {
        let own = ips(&mut shard.nodes.iter().map(|n| cluster.node(*n).address));
        if shard.nodes.len() == 1 {
            warnings.push(format!("shard {:?} has no replica: its data has one copy", shard.name));
        } else if own.len() == 1 && all.len() > loopback.max(1) {
            let copies = shard.nodes.len();
            let ip = own.first().map(ToString::to_string).unwrap_or_default();
            warnings.push(format!("all {copies} copies of shard {:?} are on {ip}: they are lost together", shard.name));
        }
    }
    if loopback > 0 && loopback < all.len() {
        warnings.push("loopback addresses beside others: a node on another host cannot dial them".to_owned());
    }
    if let [ip] = all.as_slice()
        && !ip.is_loopback()
    {
        warnings.push(format!("every node is on {ip}: the cluster is lost with that host"));
    }
    let (wait_ms, failover_ms) = (cluster.settings().deadlines.wait_ms, cluster.settings().replication.failover_ms);
    if wait_ms <= failover_ms && cluster.shards().iter().any(|shard| shard.nodes.len() > 1) {
        warnings.push(format!(
            "deadlines.wait_ms = {wait_ms} is not longer than replication.failover_ms = {failover_ms}: while a replica \
             takes over, requests are answered 503"
        ));
    }
    warnings
}
