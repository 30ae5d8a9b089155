//! Owns: `dkv where`: which shard and nodes keys belong to.
//! Never: the rule itself (router).

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::client::{self, encode};
use super::output::{Format, plain, print, print_json};
use super::{ConfigArg, Failure, view};
use crate::config::{Cluster, parse_address};
use crate::router::{Router, hash};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv where user:1                              by the configuration: no node is asked
  dkv where user:1 --address 127.0.0.1:8080     by a node: who leads the shard now, which copies are in sync
  dkv where - < keys | cut -f1,2 | sort | uniq -c
                                                keys from standard input, one a line: idx, shard and key of each,
                                                separated by tabs")]
pub(super) struct WhereArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The key, or - for keys from standard input
    #[arg(value_name = "KEY")]
    key: OsString,
    /// Ask this node instead of reading the configuration
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address, conflicts_with = "config")]
    address: Option<SocketAddr>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

pub(super) fn run(args: &WhereArgs) -> Result<ExitCode, Failure> {
    let key = args.key.as_bytes();
    if key.is_empty() {
        return Err(Failure("the key is empty: a key has at least one byte".to_owned()));
    }
    match (key == b"-", args.address) {
        (true, _) if args.output == Format::Json => {
            return Err(Failure("-o json takes one key; keys from standard input are printed as text".to_owned()));
        }
        (true, Some(address)) => many(&names_from(address)?)?,
        (true, None) => many(&args.config.load()?.cluster.shards().iter().map(|s| s.name.clone()).collect::<Vec<_>>())?,
        (false, Some(address)) => ask(address, &args.key, args.output)?,
        (false, None) => one(&args.config.load()?.cluster, key, args.output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn one(cluster: &Cluster, key: &[u8], output: Format) -> Result<(), Failure> {
    let id = Router::new(cluster).shard_of(key);
    let shard = cluster.shard(id);
    let hash = format!("{:016x}", hash(key));
    let addresses: Vec<String> = shard.nodes.iter().map(|n| cluster.node(*n).address.to_string()).collect();
    let (primary, replicas) = addresses.split_first().ok_or_else(|| Failure("a shard without nodes".to_owned()))?;
    match output {
        Format::Json => print_json(&json!({
            "hash": hash, "shard": { "idx": id.0, "name": shard.name }, "primary": primary, "replicas": replicas,
        })),
        Format::Text => {
            let name = &shard.name;
            let mut text = format!("hash      {hash}\nshard     {} {name}\nprimary   {primary}\n", id.0);
            let _ =
                writeln!(text, "replicas  {}", if replicas.is_empty() { "-".to_owned() } else { replicas.join(", ") });
            print(text.as_bytes())
        }
    }
}

fn ask(address: SocketAddr, key: &OsStr, output: Format) -> Result<(), Failure> {
    let target = format!("/where?key={}", encode(key.as_bytes()));
    let answer = client::get(address, &target, output == Format::Json)
        .map_err(|reason| Failure(format!("{address}: {reason}")))?;
    if answer.status != 200 {
        let body = plain(String::from_utf8_lossy(&answer.body).trim_end());
        return Err(Failure(format!("{address} answers {}: {body}", answer.status)));
    }
    print(&answer.body)
}

/// The shards' names as a running node has them, in order of `idx`.
fn names_from(address: SocketAddr) -> Result<Vec<String>, Failure> {
    let mut view = view::ask(&[address])?.cluster;
    view.shards.sort_by_key(|s| s.idx);
    let complete = (0..).zip(&view.shards).all(|(idx, shard)| shard.idx == idx) && !view.shards.is_empty();
    if !complete {
        return Err(Failure(format!("{address} does not list all of its shards")));
    }
    Ok(view.shards.into_iter().map(|s| s.name).collect())
}

/// A line for each key of standard input.
fn many(names: &[String]) -> Result<(), Failure> {
    let router = Router::of(names.len());
    let mut out = Vec::new();
    let mut input = io::stdin().lock();
    let mut key = Vec::new();
    while input.read_until(b'\n', &mut key).map_err(|e| Failure(format!("standard input cannot be read: {e}")))? > 0 {
        if key.ends_with(b"\n") {
            key.pop();
        }
        if !key.is_empty() {
            let shard = router.shard_of(&key).0;
            let name = names.get(shard as usize).map_or("", String::as_str);
            out.extend_from_slice(format!("{shard}\t{name}\t").as_bytes());
            out.append(&mut key);
            out.push(b'\n');
        }
        key.clear();
    }
    print(&out)
}
