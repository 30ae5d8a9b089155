//! Owns: `dkv status`: how the running cluster is shown, and what is wrong with it in words.
//! Never: asking for it (view.rs).

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::output::{columns, plain, print, print_json};
use super::view::{ClusterView, NodeView, ShardView, ask};
use super::{ConfigArg, Failure};
use crate::config::parse_address;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv status
  dkv status --address 10.0.0.1:8080
  dkv status -o json
  dkv status -o tsv | cut -f3-5

The nodes are asked in turn until one answers. Exit code 1: none does. What is wrong is told below the table.
Fields of tsv: the shard's idx and name (of a witness: - and -), address, role, state, in sync, up, lsn, committed, lag.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Ask this node, and need no configuration; may be repeated
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address, conflicts_with = "config")]
    address: Vec<SocketAddr>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: StatusFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StatusFormat {
    /// For people
    Text,
    /// For shell scripts: a line a node, fields separated by one tab, which no field contains
    Tsv,
    /// For programs: what the node answers
    Json,
}

pub(super) fn run(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let addresses = if args.address.is_empty() {
        args.config.load()?.cluster.nodes().iter().map(|n| n.address).collect()
    } else {
        args.address.clone()
    };
    let seen = ask(&addresses)?;
    match args.output {
        StatusFormat::Json => print_json(&seen.json)?,
        StatusFormat::Tsv => print(tsv(&seen.cluster).as_bytes())?,
        StatusFormat::Text => print(text(seen.by, &seen.cluster).as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn number(n: Option<u64>) -> String {
    n.map_or("-".to_owned(), |n| n.to_string())
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// What a node does, in a word or two.
fn state(node: &NodeView) -> String {
    match &node.state {
        _ if !node.up => "down".to_owned(),
        Some(state) => plain(state),
        None => "up".to_owned(),
    }
}

fn tsv(view: &ClusterView) -> String {
    let mut text = String::new();
    let mut line = |shard: [String; 2], role: &str, in_sync: bool, node: &NodeView| {
        let node = [
            plain(&node.address),
            plain(role),
            state(node),
            yes(in_sync).to_owned(),
            yes(node.up).to_owned(),
            number(node.lsn),
            number(node.committed),
            number(node.lag_records),
        ];
        text.push_str(&format!("{}\t{}\n", shard.join("\t"), node.join("\t")));
    };
    for shard in &view.shards {
        for node in &shard.nodes {
            let of_shard = [shard.idx.to_string(), plain(&shard.name)];
            line(of_shard, shard.role_of(node), shard.is_in_sync(node), node);
        }
    }
    for witness in &view.witnesses {
        line(["-", "-"].map(str::to_owned), &witness.role, false, witness);
    }
    text
}

fn text(asked: SocketAddr, view: &ClusterView) -> String {
    let heads = ["shard", "name", "epoch", "in sync", "address", "role", "state", "lsn", "committed", "lag"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for shard in &view.shards {
        for (line, node) in shard.nodes.iter().enumerate() {
            let of_shard = match line {
                0 => [shard.idx.to_string(), plain(&shard.name), number(shard.epoch), in_sync(shard)],
                _ => [const { String::new() }; 4],
            };
            rows.push(of_shard.into_iter().chain(cells(shard.role_of(node), node)).collect());
        }
    }
    for witness in &view.witnesses {
        let of_shard = ["-", "", "", ""].map(str::to_owned);
        rows.push(of_shard.into_iter().chain(cells(&witness.role, witness)).collect());
    }
    let mut text = columns(&rows);
    for trouble in troubles(view) {
        text += &format!("\n{trouble}");
    }
    format!("{}\nas {asked} sees it\n", text.trim_end())
}

/// A node's cells of the table.
fn cells(role: &str, node: &NodeView) -> [String; 6] {
    let numbers = [number(node.lsn), number(node.committed), number(node.lag_records)];
    let [lsn, committed, lag] = numbers;
    [plain(&node.address), plain(role), state(node), lsn, committed, lag]
}

fn in_sync(shard: &ShardView) -> String {
    format!("{} of {}", shard.in_sync.len(), shard.nodes.len())
}

/// What is wrong, a line each, shard by shard.
fn troubles(view: &ClusterView) -> Vec<String> {
    let mut told = Vec::new();
    for shard in &view.shards {
        let name = format!("shard {} {}", shard.idx, plain(&shard.name));
        let mut say = |what: String| told.push(format!("{name}: {what}"));
        let primary = shard.primary.as_ref().and_then(|address| shard.node(address));
        match (&shard.primary, primary) {
            (None, _) => say("no primary is known: its requests wait, then get 503".to_owned()),
            (Some(address), Some(node)) if !node.up => {
                say(format!(
                    "the primary {} is down: its requests wait, then get 503, until it is back or an in-sync replica \
                     has taken over",
                    plain(address)
                ));
            }
            _ => {}
        }
        for node in &shard.nodes {
            let leads = shard.primary.as_ref() == Some(&node.address);
            if let Some(trouble) = trouble(node, leads) {
                say(trouble);
            }
        }
        if shard.in_sync.len() < shard.nodes.len() {
            let alone = match shard.in_sync.as_slice() {
                [one] => format!(": every write since is on {} alone", plain(one)),
                _ => String::new(),
            };
            say(format!("{} copies in sync{alone}", in_sync(shard)));
        }
    }
    let down = view.witnesses.iter().filter(|witness| !witness.up);
    told.extend(down.map(|witness| format!("the witness {} is down", plain(&witness.address))));
    told
}

/// What is wrong with a copy.
fn trouble(node: &NodeView, leads: bool) -> Option<String> {
    let address = plain(&node.address);
    if !node.up {
        return (!leads).then(|| format!("{address} is down"));
    }
    let behind = node.lag_records.map_or(String::new(), |n| format!(", {n} records behind"));
    match node.state.as_deref()? {
        "serving" | "in sync" | "unknown" => None,
        "damaged" => Some(format!("{address} is damaged: http://{address}/readyz says where")),
        "forming" => Some(format!("{address} waits for all nodes of the table: the cluster is not formed yet")),
        "settling" => Some(format!("{address} is settling: it makes the in-sync copies equal before it serves")),
        "cut off" => Some(format!("{address} is cut off from a copy in sync: http://{address}/readyz says more")),
        "waiting" => Some(format!("{address} is waiting: http://{address}/readyz says for what")),
        "catching up" => Some(format!("{address} is catching up{behind}")),
        "syncing" => Some(format!("{address} is being filled anew{behind}")),
        other => Some(format!("{address} is {}", plain(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> String {
        text("127.0.0.1:2".parse().unwrap(), &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_healthy_cluster_is_a_table_and_nothing_more() {
        let shown = shown(
            r#"{"shards":[{"idx":0,"name":"Moscow","epoch":3,"version":5,"primary":"127.0.0.1:2",
                "in_sync":["127.0.0.1:1","127.0.0.1:2"],"nodes":[
                {"address":"127.0.0.1:1","role":"replica","state":"in sync","lsn":12,"committed":11,"up":true,
                 "lag_records":0},
                {"address":"127.0.0.1:2","role":"primary","state":"serving","lsn":12,"committed":12,"up":true}]}],
                "witnesses":[{"address":"127.0.0.1:3","role":"witness","up":true}],"fingerprint":"00ff"}"#,
        );
        assert_eq!(
            shown,
            "shard  name    epoch  in sync  address      role     state    lsn  committed  lag\n\
             0      Moscow  3      2 of 2   127.0.0.1:1  replica  in sync  12   11         0\n\
             \u{20}                              127.0.0.1:2  primary  serving  12   12         -\n\
             -                              127.0.0.1:3  witness  up       -    -          -\n\
             as 127.0.0.1:2 sees it\n"
        );
    }

    #[test]
    fn what_is_wrong_is_told_in_words() {
        let node = |n: u32, role: &str, state: &str, up: bool| {
            format!(
                r#"{{"address":"127.0.0.1:{n}","role":"{role}","state":"{state}","up":{up},"lsn":1,"committed":1,
                "lag_records":7}}"#
            )
        };
        let shard = |idx: u32, primary: &str, in_sync: &str, nodes: &[String]| {
            format!(
                r#"{{"idx":{idx},"name":"s{idx}","epoch":1,"primary":{primary},"in_sync":[{in_sync}],"nodes":[{}]}}"#,
                nodes.join(",")
            )
        };
        let shards = [
            shard(0, "null", "", &[node(1, "replica", "forming", true), node(2, "replica", "waiting", true)]),
            shard(
                1,
                r#""127.0.0.1:3""#,
                r#""127.0.0.1:3""#,
                &[node(3, "primary", "serving", false), node(4, "replica", "syncing", true)],
            ),
            shard(
                2,
                r#""127.0.0.1:5""#,
                r#""127.0.0.1:5""#,
                &[node(5, "primary", "settling", true), node(6, "replica", "x\u{7f}", false)],
            ),
            shard(
                3,
                r#""127.0.0.1:7""#,
                r#""127.0.0.1:7","127.0.0.1:8""#,
                &[node(7, "primary", "damaged", true), node(8, "replica", "catching up", true)],
            ),
        ];
        let json = format!(
            r#"{{"shards":[{}],"witnesses":[{}],"fingerprint":"0"}}"#,
            shards.join(","),
            node(9, "witness", "unknown", false)
        );
        let told = troubles(&serde_json::from_str(&json).unwrap());
        let expected = [
            "shard 0 s0: no primary is known: its requests wait, then get 503",
            "shard 0 s0: 127.0.0.1:1 waits for all nodes of the table: the cluster is not formed yet",
            "shard 0 s0: 127.0.0.1:2 is waiting: http://127.0.0.1:2/readyz says for what",
            "shard 0 s0: 0 of 2 copies in sync",
            "shard 1 s1: the primary 127.0.0.1:3 is down: its requests wait, then get 503, until it is back or an \
             in-sync replica has taken over",
            "shard 1 s1: 127.0.0.1:4 is being filled anew, 7 records behind",
            "shard 1 s1: 1 of 2 copies in sync: every write since is on 127.0.0.1:3 alone",
            "shard 2 s2: 127.0.0.1:5 is settling: it makes the in-sync copies equal before it serves",
            "shard 2 s2: 127.0.0.1:6 is down",
            "shard 2 s2: 1 of 2 copies in sync: every write since is on 127.0.0.1:5 alone",
            "shard 3 s3: 127.0.0.1:7 is damaged: http://127.0.0.1:7/readyz says where",
            "shard 3 s3: 127.0.0.1:8 is catching up, 7 records behind",
            "the witness 127.0.0.1:9 is down",
        ];
        assert_eq!(told, expected);
    }
}
