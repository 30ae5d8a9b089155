//! Owns: `dkv handover` and `dkv takeover`: who shall lead a shard from now on, by an operator's word.
//! Never: how the lead passes on.

use std::io::{self, BufRead, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use super::client::{self, Answer, NoAnswer, encode};
use super::output::{plain, print};
use super::view::{ShardView, ask};
use super::{ConfigArg, Failure};
use crate::config::{Cluster, parse_address};
use crate::id::ShardId;

/// The command cannot tell whether it was done.
const UNKNOWN: u8 = 3;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv handover --shard 0 --to 127.0.0.1:8081
  dkv handover --config /etc/dkv/sharding.toml --shard 2 --to 10.0.0.3:8080

No answered write is lost: the copy must be in sync. Requests wait some milliseconds while the lead passes on.
Exit code 0: the copy leads. 1: it does not, and why. 3: the answer was lost: dkv status shows who leads.")]
pub(super) struct HandoverArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv takeover --shard 0 --to 127.0.0.1:8081 --accept-data-loss
  dkv takeover --shard 0 --to 127.0.0.1:8081 --accept-data-loss --yes     without being asked, for scripts

For a shard all of whose in-sync copies are lost for good: the copy leads from now on with what it has. Answered
writes that it lacks are lost, and the other copies are made equal to it. Where an in-sync copy can be started again,
start it instead; where one runs, dkv handover loses nothing.
Exit code 0: the copy leads. 1: it does not, and why. 3: the answer was lost: dkv status shows who leads.")]
pub(super) struct TakeoverArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    which: Which,
    /// Answered writes may be lost for good
    #[arg(long, required = true)]
    accept_data_loss: bool,
    /// Do not ask for the shard's number
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Which {
    /// The shard, by its idx
    #[arg(long, value_name = "IDX")]
    shard: u32,
    /// The copy that shall lead it
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    to: SocketAddr,
}

impl Which {
    /// The shard, whose copy `to` is.
    fn find(&self, cluster: &Cluster) -> Result<ShardId, Failure> {
        let (id, count) = (ShardId(self.shard), cluster.shards().len());
        let Some(shard) = cluster.shards().get(self.shard as usize) else {
            return Err(Failure(format!("there is no shard {}: --shard takes 0 to {}", self.shard, count - 1)));
        };
        if cluster.node_at(self.to).is_some_and(|node| shard.nodes.contains(&node)) {
            return Ok(id);
        }
        let (to, name) = (self.to, &shard.name);
        let copies = addresses(cluster, id).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(Failure(format!("{to} holds no copy of shard {} {name}: --to takes one of {copies}", self.shard)))
    }
}

/// The addresses of a shard's copies.
fn addresses(cluster: &Cluster, shard: ShardId) -> Vec<SocketAddr> {
    cluster.shard(shard).nodes.iter().map(|node| cluster.node(*node).address).collect()
}

pub(super) fn handover(args: &HandoverArgs) -> Result<ExitCode, Failure> {
    let cluster = args.config.load()?.cluster;
    let shard = args.which.find(&cluster)?;
    let to = args.which.to;
    let target = format!("/handover?shard={}&to={}", shard.0, encode(to.to_string().as_bytes()));
    // Any node passes it on to the primary. The shard's copies come first: they know best who that is.
    let mut nodes = vec![to];
    let others = addresses(&cluster, shard).into_iter().chain(cluster.nodes().iter().map(|node| node.address));
    others.for_each(|address| {
        if !nodes.contains(&address) {
            nodes.push(address)
        }
    });
    let mut first = None;
    for node in &nodes {
        match client::post(*node, &target) {
            Err(NoAnswer::Unreached(reason)) => drop(first.get_or_insert(format!("{node}: {reason}"))),
            other => return outcome(*node, other),
        }
    }
    Err(Failure(format!("none of {} nodes answers; the first, {}", nodes.len(), first.unwrap_or_default())))
}

pub(super) fn takeover(args: &TakeoverArgs) -> Result<ExitCode, Failure> {
    let cluster = args.config.load()?.cluster;
    let shard = args.which.find(&cluster)?;
    let to = args.which.to;
    assert!(args.accept_data_loss, "the command line requires it");
    if !args.yes {
        if !io::stdin().is_terminal() {
            return Err(Failure(format!(
                "nothing was changed: there is no terminal on which to ask; --yes takes shard {} over without asking",
                shard.0
            )));
        }
        let seen = ask(&[to])?;
        let view = seen.cluster.shards.iter().find(|view| view.idx == shard.0);
        eprint!("{}", question(view, shard, to));
        let _ = io::stderr().flush();
        if !is_confirmed(&mut io::stdin().lock(), shard)? {
            return Err(Failure(format!("nothing was changed: the answer was not {}", shard.0)));
        }
    }
    outcome(to, client::post(to, &format!("/takeover?shard={}&accept_data_loss=true", shard.0)))
}

/// What the operator is asked, with what the copy knows of the shard.
fn question(view: Option<&ShardView>, shard: ShardId, to: SocketAddr) -> String {
    let mut text = format!("Shard {}: {to} shall lead it, with what it has.\n", shard.0);
    if let Some(view) = view {
        let heard = |address: &String| {
            let up = view.node(address).is_some_and(|node| node.up);
            format!("{}{}", plain(address), if up { ", which runs" } else { "" })
        };
        let list: Vec<String> = view.in_sync.iter().map(heard).collect();
        let in_sync = if list.is_empty() { "none known".to_owned() } else { list.join("; ") };
        let primary = view.primary.as_ref().map_or("none known".to_owned(), heard);
        text += &format!("  its primary so far: {primary}\n  copies with all answered writes: {in_sync}\n");
    }
    text + &format!(
        "Answered writes that {to} lacks are lost for good. Type the shard's number, {}, to go on: ",
        shard.0
    )
}

/// Whether the next line is the shard's number.
fn is_confirmed(input: &mut impl BufRead, shard: ShardId) -> Result<bool, Failure> {
    let mut line = String::new();
    input.read_line(&mut line).map_err(|e| Failure(format!("the answer cannot be read: {e}")))?;
    Ok(line.trim() == shard.0.to_string())
}

/// What became of the request.
fn outcome(node: SocketAddr, answer: Result<Answer, NoAnswer>) -> Result<ExitCode, Failure> {
    let reason = match answer {
        Err(NoAnswer::Unreached(reason)) => return Err(Failure(format!("{node}: {reason}"))),
        Err(NoAnswer::Lost(reason)) => reason,
        Ok(Answer { status, body }) => {
            let line = plain(String::from_utf8_lossy(&body).trim_end());
            match status {
                200 => return print(format!("{line}\n").as_bytes()).map(|()| ExitCode::SUCCESS),
                504 => line,
                _ => return Err(Failure(format!("{node} answers {status}: {line}"))),
            }
        }
    };
    eprintln!("dkv: whether it was done is not known: {node}: {reason}; dkv status shows who leads");
    Ok(ExitCode::from(UNKNOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shards_number_confirms() {
        for (typed, confirmed) in [("12\n", true), (" 12 \r\n", true), ("12", true), ("y\n", false), ("1\n2\n", false)]
        {
            assert_eq!(is_confirmed(&mut typed.as_bytes(), ShardId(12)).unwrap(), confirmed, "{typed:?}");
        }
        assert!(!is_confirmed(&mut &b""[..], ShardId(0)).unwrap());
    }

    #[test]
    fn the_question_says_what_may_be_lost_and_who_still_runs() {
        let view: ShardView = serde_json::from_str(
            r#"{"idx":3,"name":"a","epoch":1,"primary":"10.0.0.1:1","in_sync":["10.0.0.1:1","10.0.0.2:1"],"nodes":[
            {"address":"10.0.0.1:1","role":"primary","up":false},{"address":"10.0.0.2:1","role":"replica","up":true}]}"#,
        )
        .unwrap();
        let text = question(Some(&view), ShardId(3), "10.0.0.3:1".parse().unwrap());
        assert_eq!(
            text,
            "Shard 3: 10.0.0.3:1 shall lead it, with what it has.\n  its primary so far: 10.0.0.1:1\n  \
             copies with all answered writes: 10.0.0.1:1; 10.0.0.2:1, which runs\n\
             Answered writes that 10.0.0.3:1 lacks are lost for good. Type the shard's number, 3, to go on: "
        );
    }
}
