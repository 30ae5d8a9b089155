//! Owns: `dkv nodes`: the table of nodes, and which of them belong to this host.
//! Never: whether they run.

use std::net::{IpAddr, UdpSocket};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output::{columns, print, print_json};
use super::serve::default_data_dir;
use super::{ConfigArg, Failure};
use crate::config::{Cluster, Role};
use crate::id::NodeId;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv nodes
  dkv nodes --local            the nodes that this host runs: those whose IP is one of its own
  dkv nodes --local -o tsv | cut -f4

Fields: the shard's idx and name (of a witness: - and -), the role in the table, the address; tsv and json also have
the default data directory.")]
pub(super) struct NodesArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Only the nodes whose IP address belongs to this host
    #[arg(long)]
    local: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: NodesFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NodesFormat {
    /// For people
    Text,
    /// For shell scripts: fields separated by one tab, which no field contains
    Tsv,
    /// For programs
    Json,
}

#[derive(Debug, Serialize)]
struct Line<'c> {
    /// A witness has no shard.
    idx: Option<u32>,
    shard: Option<&'c str>,
    role: Role,
    address: String,
    data_dir: String,
}

pub(super) fn run(args: &NodesArgs) -> Result<ExitCode, Failure> {
    let cluster = args.config.load()?.cluster;
    let chosen = cluster.node_ids().filter(|id| !args.local || is_local(cluster.node(*id).address.ip()));
    let lines: Vec<Line<'_>> = chosen.map(|id| line(&cluster, id)).collect();
    let cells = |l: &Line<'_>| {
        let idx = l.idx.map_or("-".to_owned(), |idx| idx.to_string());
        vec![idx, l.shard.unwrap_or("-").to_owned(), l.role.as_str().to_owned(), l.address.clone()]
    };
    match args.output {
        NodesFormat::Json => print_json(&lines)?,
        NodesFormat::Text => print(columns(&lines.iter().map(cells).collect::<Vec<_>>()).as_bytes())?,
        NodesFormat::Tsv => {
            let row = |l: &Line<'_>| format!("{}\t{}\n", cells(l).join("\t"), l.data_dir);
            print(lines.iter().map(row).collect::<String>().as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(cluster: &Cluster, id: NodeId) -> Line<'_> {
    let node = cluster.node(id);
    Line {
        idx: node.shard.map(|shard| shard.0),
        shard: node.shard.map(|shard| cluster.shard(shard).name.as_str()),
        role: node.role,
        address: node.address.to_string(),
        data_dir: default_data_dir(cluster, id).display().to_string(),
    }
}

/// Whether an IP address is one of this host's: only those can be bound, and asking so needs no list of interfaces.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_reserved_addresses_are_not() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        assert!(is_local("127.9.9.9".parse().unwrap()));
        // Reserved for future use (RFC 1112): no host has it.
        assert!(!is_local("240.0.0.1".parse().unwrap()));
    }
}
