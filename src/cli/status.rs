//! Owns: `dkv status`: asking the nodes in turn for `/cluster`, and showing the first answer.
//! Never: how a node knows what it answers.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::output::{Format, columns, plain, print, print_json};
use super::{ConfigArg, Failure, client};
use crate::config::parse_address;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv status
  dkv status --address 10.0.0.1:8080
  dkv status -o json

The nodes are asked in turn until one answers. Exit code 1: none does.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Ask this node, and need no configuration; may be repeated
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address, conflicts_with = "config")]
    address: Vec<SocketAddr>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `/cluster`: the cluster as one node sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct View {
    pub(super) shards: Vec<ShardView>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    witnesses: Vec<NodeView>,
    fingerprint: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ShardView {
    pub(super) idx: u32,
    pub(super) name: String,
    epoch: Option<u64>,
    primary: Option<String>,
    in_sync: Vec<String>,
    nodes: Vec<NodeView>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NodeView {
    address: String,
    role: String,
    lsn: Option<u64>,
    committed: Option<u64>,
    up: bool,
}

pub(super) fn run(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let addresses = if args.address.is_empty() {
        args.config.load()?.cluster.nodes().iter().map(|n| n.address).collect()
    } else {
        args.address.clone()
    };
    let (asked, view) = ask(&addresses)?;
    match args.output {
        Format::Json => print_json(&view)?,
        Format::Text => print(text(asked, &view).as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The first answer, and whose it is.
pub(super) fn ask(addresses: &[SocketAddr]) -> Result<(SocketAddr, View), Failure> {
    let mut first = None;
    for address in addresses {
        match view(*address) {
            Ok(view) => return Ok((*address, view)),
            Err(reason) => drop(first.get_or_insert(format!("{address}: {reason}"))),
        }
    }
    let first = first.unwrap_or_default();
    Err(Failure(match addresses.len() {
        1 => format!("the node does not answer: {first}"),
        n => format!("none of {n} nodes answers; the first, {first}"),
    }))
}

fn view(address: SocketAddr) -> Result<View, String> {
    let answer = client::get(address, "/cluster", true)?;
    if answer.status != 200 {
        return Err(format!("it answers {} to GET /cluster", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|e| format!("its answer to GET /cluster is not a dkv node's: {e}"))
}

fn text(asked: SocketAddr, view: &View) -> String {
    let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    let heads = ["shard", "name", "epoch", "address", "role", "in sync", "lsn", "committed", "up"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for shard in &view.shards {
        for (line, node) in shard.nodes.iter().enumerate() {
            let leads = shard.primary.as_ref() == Some(&node.address);
            let of_shard = match line {
                0 => [shard.idx.to_string(), plain(&shard.name), number(shard.epoch)],
                _ => [const { String::new() }; 3],
            };
            let of_node = [
                plain(&node.address),
                if leads { "primary".to_owned() } else { plain(&node.role) },
                if shard.in_sync.contains(&node.address) { "yes" } else { "no" }.to_owned(),
                number(node.lsn),
                number(node.committed),
                if node.up { "yes" } else { "no" }.to_owned(),
            ];
            rows.push(of_shard.into_iter().chain(of_node).collect());
        }
        if shard.primary.is_none() {
            rows.push(vec![String::new(), String::new(), String::new(), "no primary is known".to_owned()]);
        }
    }
    for node in &view.witnesses {
        let up = if node.up { "yes" } else { "no" };
        rows.push(
            ["", "", "", &plain(&node.address), &plain(&node.role), "-", "-", "-", up].map(str::to_owned).to_vec(),
        );
    }
    format!("{}\nas {asked} sees it\n", columns(&rows).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_shown_a_line_a_node() {
        let view: View = serde_json::from_str(
            r#"{"shards":[{"idx":0,"name":"Moscow","epoch":3,"primary":"127.0.0.1:2","in_sync":["127.0.0.1:2"],
                "nodes":[{"address":"127.0.0.1:1","role":"replica","lsn":null,"committed":null,"up":false},
                {"address":"127.0.0.1:2","role":"primary","lsn":12,"committed":11,"up":true}]}],"fingerprint":"00ff"}"#,
        )
        .unwrap();
        let shown = text("127.0.0.1:2".parse().unwrap(), &view);
        assert_eq!(
            shown,
            "shard  name    epoch  address      role     in sync  lsn  committed  up\n\
             0      Moscow  3      127.0.0.1:1  replica  no       -    -          no\n\
             \u{20}                     127.0.0.1:2  primary  yes      12   11         yes\n\
             as 127.0.0.1:2 sees it\n"
        );
    }
}
