//! Owns: what the registers need of the cluster's table; who becomes a voter in it, and what a shard's register holds
//! before anything was chosen.
//! Never: addresses as places to reach; settings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::{Cluster, Node};
use crate::configuration::{Configuration, Formation, Member};
use crate::id::{Epoch, NodeId, ShardId};

/// More voters only make a round slower: seven survive the loss of any three.
const VOTERS_MAX: usize = 7;
/// With fewer voters than this, the loss of one node stops every change.
const VOTERS_FOR_FAILOVER: usize = 3;

/// A node of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The shard that it holds a copy of; `None`: a witness.
    pub shard: Option<ShardId>,
    /// Nodes of one IP address are taken to fail together.
    pub ip: IpAddr,
}

/// The nodes and shards of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// By [`NodeId`].
    pub nodes: Vec<Place>,
    /// By [`ShardId`]: the nodes with a copy, the table's primary first. None is empty.
    pub shards: Vec<Vec<NodeId>>,
}

impl Table {
    /// That of a cluster.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let place = |node: &Node| Place { shard: node.shard, ip: node.address.ip().to_canonical() };
        Self {
            nodes: cluster.nodes().iter().map(place).collect(),
            shards: cluster.shards().iter().map(|shard| shard.nodes.clone()).collect(),
        }
    }

    /// All nodes.
    pub(super) fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(NodeId)
    }

    /// What each shard's register holds while nothing was accepted: the table's primary, and every copy in sync (all
    /// are empty).
    pub(super) fn initial(&self, formation: &Formation) -> Vec<Configuration> {
        let configuration = |nodes: &Vec<NodeId>| {
            let member = |node: &NodeId| Member { node: *node, store: formation.stores[node.0 as usize] };
            let mut in_sync: Vec<Member> = nodes.iter().map(member).collect();
            in_sync.sort_unstable();
            Configuration { version: 1, epoch: Epoch(0), primary: nodes[0], in_sync, forced: 0 }
        };
        self.shards.iter().map(configuration).collect()
    }

    /// Whether a formation can be one of this table.
    pub(super) fn fits(&self, formation: &Formation) -> bool {
        formation.stores.len() == self.nodes.len()
    }
}

/// Who is to hold the registers, in order: witnesses first, then the other nodes, one of each IP address in turn. All
/// nodes up to seven, but an odd number: a majority of an even number survives no more losses than of one fewer.
#[must_use]
pub fn choose_voters(table: &Table) -> Vec<NodeId> {
    assert!(!table.nodes.is_empty(), "a cluster has at least one node");
    let mut order: Vec<NodeId> = table.node_ids().filter(|node| table.nodes[node.0 as usize].shard.is_none()).collect();
    let mut of_ip: Vec<(IpAddr, Vec<NodeId>)> = Vec::new();
    for node in table.node_ids() {
        let Place { shard: Some(_), ip } = table.nodes[node.0 as usize] else { continue };
        match of_ip.iter_mut().find(|(known, _)| *known == ip) {
            Some((_, nodes)) => nodes.push(node),
            None => of_ip.push((ip, vec![node])),
        }
    }
    let most = of_ip.iter().map(|(_, nodes)| nodes.len()).max().unwrap_or(0);
    for turn in 0..most {
        order.extend(of_ip.iter().filter_map(|(_, nodes)| nodes.get(turn)));
    }
    let count = order.len().min(VOTERS_MAX);
    order.truncate(count - (count + 1) % 2);
    order.sort_unstable();
    order
}

/// What an operator should know of these voters, a sentence each.
#[must_use]
pub fn voter_warnings(table: &Table, voters: &[NodeId]) -> Vec<String> {
    let mut warnings = Vec::new();
    if table.shards.iter().all(|nodes| nodes.len() < 2) {
        // Nothing can fail over: the voters only have to be there.
        return warnings;
    }
    if voters.len() < VOTERS_FOR_FAILOVER {
        warnings.push(format!(
            "only {} node votes on who leads a shard, so no replica takes over by itself when that node is lost: add a \
             [[witness]] on a third host, or more nodes",
            voters.len()
        ));
    }
    let mut of_ip: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for voter in voters {
        *of_ip.entry(table.nodes[voter.0 as usize].ip).or_default() += 1;
    }
    let is_one_host = table.nodes.iter().all(|place| place.ip == table.nodes[0].ip);
    for (ip, count) in of_ip.into_iter().filter(|(_, count)| !is_one_host && count * 2 >= voters.len()) {
        warnings.push(format!(
            "{ip} holds {count} of the {} voters: if that host is lost, no replica elsewhere takes over by itself; add \
             a [[witness]] on another host",
            voters.len()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One shard a word: its nodes' hosts as letters; `+` before a word: witnesses.
    fn table(text: &str) -> Table {
        let mut table = Table { nodes: Vec::new(), shards: Vec::new() };
        for word in text.split_whitespace() {
            let (is_witness, hosts) = word.strip_prefix('+').map_or((false, word), |hosts| (true, hosts));
            let shard = (!is_witness).then_some(ShardId(table.shards.len() as u32));
            let first = table.nodes.len();
            table.nodes.extend(hosts.bytes().map(|host| Place { shard, ip: IpAddr::from([10, 0, 0, host]) }));
            if !is_witness {
                table.shards.push((first..table.nodes.len()).map(|node| NodeId(node as u32)).collect());
            }
        }
        table
    }

    fn chosen(text: &str) -> Vec<u32> {
        choose_voters(&table(text)).into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn an_odd_number_of_nodes_votes_spread_over_the_hosts() {
        assert_eq!(chosen("a"), [0]);
        assert_eq!(chosen("ab"), [0], "the first of two");
        assert_eq!(chosen("abc"), [0, 1, 2]);
        assert_eq!(chosen("ab ab"), [0, 1, 2]);
        assert_eq!(chosen("aa aa aa aa"), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(chosen("aa aa aa aa aa bb"), [0, 1, 2, 3, 4, 10, 11], "one of each host in turn");
        assert_eq!(chosen("ab +c"), [0, 1, 2]);
        assert_eq!(chosen("ab ab +c"), [0, 1, 2, 3, 4]);
        assert_eq!(chosen("aa aa aa aa +bc"), [0, 1, 2, 3, 4, 8, 9], "witnesses are always in");
    }

    #[test]
    fn what_stops_failover_is_told() {
        let told = |text: &str| {
            let table = table(text);
            voter_warnings(&table, &choose_voters(&table)).join("\n")
        };
        assert!(told("ab").contains("only 1 node votes"));
        assert!(told("ab ab").contains("10.0.0.97 holds 2 of the 3 voters"));
        assert_eq!(told("aa aa"), "", "one host: nothing to spread over");
        assert_eq!(told("ab +c"), "");
        assert_eq!(told("ab ba bc ca"), "");
        assert_eq!(told("a b"), "", "nothing could fail over");
    }

    #[test]
    fn a_clusters_table_has_its_copies_and_witnesses() {
        let text = "[[shard]]\nname='a'\nidx=0\naddress='10.0.0.97:1'\nreplicas=['10.0.0.98:1']\n\
                    [[witness]]\naddress='10.0.0.99:1'\n";
        let cluster = crate::config::parse(text, "test").unwrap().cluster;
        assert_eq!(Table::of(&cluster), table("ab +c"));
    }

    #[test]
    fn at_first_all_copies_are_in_sync_under_the_tables_primary() {
        let mut table = table("ab ab");
        table.shards[1].reverse();
        let stores: Vec<_> = (10..14).map(crate::id::Uuid).collect();
        let formation = Formation { cluster: stores[0], fingerprint: 0, voters: Vec::new(), stores: stores.clone() };
        let first = &table.initial(&formation)[1];
        assert_eq!((first.version, first.primary), (1, NodeId(3)));
        let members = [2, 3].map(|at| Member { node: NodeId(at), store: stores[at as usize] });
        assert_eq!(first.in_sync, members, "sorted");
    }
}
