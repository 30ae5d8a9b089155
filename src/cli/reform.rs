//! Owns: `dkv reform`: its arguments, and what is told of a plan and of its application.
//! Never: what a plan is, reading or changing directories ([`crate::reform`]).

use std::fmt::Write as _;
use std::fs;
use std::hash::Hasher;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::output::{columns, print, print_json};
use super::{ConfigArg, Failure};
use crate::config::{Cluster, parse_address};
use crate::id::{NodeId, ShardId, Uuid};
use crate::reform::apply::{Applied, Done, apply};
use crate::reform::plan::{Plan, Wanted, plan};
use crate::reform::survey::{Directory, Survey, survey};
use crate::server::random;

#[derive(Debug, Args)]
#[command(after_help = "\
For another table (addresses, replicas, witnesses; the number of shards stays), and where the majority of the voters is
lost for good. All nodes are stopped; what is not applied can be taken back by starting them with the old table.

Examples:
  dkv reform survey data/* > host.survey                       on each host
  dkv reform plan --config new.toml *.survey > reform.plan     on one: shows what would be done
  dkv reform apply reform.plan                                 on each host
Then start the nodes with the new table.")]
pub(super) struct ReformArgs {
    #[command(subcommand)]
    command: ReformCommand,
}

#[derive(Debug, Subcommand)]
enum ReformCommand {
    /// Read what the directories of this host's stopped nodes hold, and print it as JSON; changes nothing
    #[command(after_help = "\
Examples:
  dkv reform survey data/* > host.survey
  dkv reform survey /var/lib/dkv/10.0.0.1:8080 > 10.0.0.1.survey

All of each log is read. Exit code 1: a directory is in use or cannot be read; nothing is printed.")]
    Survey(SurveyArgs),
    /// Decide by all surveys what becomes of which directory, show it, and print it as JSON; changes nothing
    #[command(after_help = "\
Examples:
  dkv reform plan --config new.toml *.survey > reform.plan
  dkv reform plan --config new.toml *.survey --node 10.0.0.9:8080=data/10.0.0.1_8080 > reform.plan
  dkv reform plan *.survey --accept-data-loss --lead 0=10.0.0.2:8080 > reform.plan

A directory becomes the node of the new table whose directory's name it has, or else the one that has its node's
address; --node says otherwise. Exit code 1: it cannot be done, and what is missing.")]
    Plan(PlanArgs),
    /// Write the plan into this host's directories; run again, it goes on where it was cut short
    #[command(after_help = "\
Examples:
  dkv reform apply reform.plan
  dkv reform apply reform.plan 10.0.0.9:8080=/var/lib/dkv/10.0.0.9:8080

Without more words: all directories of the plan that are here. A directory that is called as its node was gets the name
of the node that it becomes. IP:PORT=DIR: that node's directory is DIR, and keeps its name; where the plan has none for
the node, a new one is made, with the memory of a voter but without data: once a node. The data is never changed.")]
    Apply(ApplyArgs),
}

#[derive(Debug, Args)]
struct SurveyArgs {
    /// The data directories
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct PlanArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The surveys of all hosts; -: standard input
    #[arg(value_name = "SURVEY", required = true)]
    surveys: Vec<PathBuf>,
    /// This surveyed directory becomes that node
    #[arg(long = "node", value_name = "IP:PORT=DIR", value_parser = node_and_text)]
    nodes: Vec<(SocketAddr, String)>,
    /// This copy leads the shard; without loss, one that is in sync
    #[arg(long = "lead", value_name = "SHARD=IP:PORT", value_parser = shard_and_node)]
    leads: Vec<(ShardId, SocketAddr)>,
    /// Answered writes may be lost for good, of the shards of which no copy is known to be in sync
    #[arg(long)]
    accept_data_loss: bool,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    /// What dkv reform plan printed
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Directories of nodes, where they are not as the plan has them
    #[arg(value_name = "IP:PORT=DIR", value_parser = node_and_text)]
    directories: Vec<(SocketAddr, String)>,
}

fn node_and_text(text: &str) -> Result<(SocketAddr, String), String> {
    let (address, rest) = text.split_once('=').filter(|(_, rest)| !rest.is_empty()).ok_or("it is not IP:PORT=DIR")?;
    Ok((parse_address(address)?, rest.to_owned()))
}

fn shard_and_node(text: &str) -> Result<(ShardId, SocketAddr), String> {
    let (shard, address) = text.split_once('=').ok_or("it is not SHARD=IP:PORT")?;
    let shard = shard.parse().map_err(|_| format!("{shard:?} is no shard's idx"))?;
    Ok((ShardId(shard), parse_address(address)?))
}

pub(super) fn run(args: &ReformArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        ReformCommand::Survey(args) => run_survey(args),
        ReformCommand::Plan(args) => run_plan(args),
        ReformCommand::Apply(args) => run_apply(args),
    }
}

fn run_survey(args: &SurveyArgs) -> Result<ExitCode, Failure> {
    let (mut found, mut bad) = (Vec::new(), Vec::new());
    for path in &args.directories {
        match survey(path) {
            Ok(directory) => found.push(directory),
            Err(why) => bad.push(why),
        }
    }
    if !bad.is_empty() {
        return Err(Failure(bad.join("\ndkv: ")));
    }
    print_json(&Survey::of(found)).map(|()| ExitCode::SUCCESS)
}

fn run_plan(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let loaded = args.config.load()?;
    let mut directories: Vec<Directory> = Vec::new();
    for path in &args.surveys {
        directories.extend(read(path, Survey::read)?.directories);
    }
    let surveyed: Vec<&Directory> = directories.iter().collect();
    let (nodes, leads) = (args.nodes.clone(), args.leads.clone());
    let wanted = Wanted { nodes, leads, accepts_data_loss: args.accept_data_loss };
    let mut number = numbers()?;
    let made = plan(&loaded.cluster, &surveyed, &wanted, &mut || Uuid(number()));
    let made = made.map_err(|reasons| Failure(format!("no plan can be made:\n  {}", reasons.join("\n  "))))?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    eprint!("{}", told(&loaded.cluster, &made));
    print_json(&made).map(|()| ExitCode::SUCCESS)
}

fn run_apply(args: &ApplyArgs) -> Result<ExitCode, Failure> {
    let plan = read(&args.plan, Plan::read)?;
    let named: Vec<(SocketAddr, PathBuf)> =
        args.directories.iter().map(|(address, path)| (*address, PathBuf::from(path))).collect();
    let (applied, absent) = apply(&plan, &named, &mut numbers()?).map_err(Failure)?;
    if applied.is_empty() {
        let all: Vec<&str> = plan.nodes.iter().filter_map(|node| Some(node.source.as_ref()?.path.as_str())).collect();
        return Err(Failure(format!("none of the plan's directories is here, as it was surveyed: {}", all.join(", "))));
    }
    let mut text: String = applied.iter().map(line).collect();
    let waits = |node: &&SocketAddr| applied.iter().all(|applied| applied.address != **node);
    for node in absent {
        let _ = writeln!(text, "{node}: its directory is not here: apply the plan on its host, too");
    }
    for node in plan.must_be_made.iter().filter(waits) {
        let _ = writeln!(text, "{node}: on its host, before it starts: dkv reform apply PLAN {node}=DIR");
    }
    print(text.as_bytes()).map(|()| ExitCode::SUCCESS)
}

/// Reads what an earlier step printed.
fn read<T>(path: &Path, decode: impl Fn(&[u8]) -> Result<T, String>) -> Result<T, Failure> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::stdin().lock(), &mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    let named = |e: &dyn std::fmt::Display| Failure(format!("{}: {e}", path.display()));
    decode(&bytes.map_err(|e| named(&e))?).map_err(|e| named(&e))
}

/// Numbers that nobody else draws, all from one: the system may give none, and that is known before anything is done.
fn numbers() -> Result<impl FnMut() -> u128, Failure> {
    let seed = random()?;
    let mut drawn = 0;
    Ok(move || {
        let mut hasher = SipHasher13::new_with_keys((seed >> 64) as u64, seed as u64);
        hasher.write_u64(drawn);
        drawn += 1;
        hasher.finish128().as_u128()
    })
}

fn line(applied: &Applied) -> String {
    let Applied { address, directory, done, was } = applied;
    let done = match done {
        Done::Written => "applied",
        Done::Made => "made",
        Done::Already => "was applied before",
    };
    let was = was.as_ref().map_or(String::new(), |was| format!(" (was {})", was.display()));
    format!("{address}: {done}: {}{was}\n", directory.display())
}

/// A plan for people.
fn told(cluster: &Cluster, plan: &Plan) -> String {
    let mut text = format!("new cluster {}, out of {}\n", plan.formation.cluster, plan.old_cluster);
    for (idx, shard) in plan.shards.iter().enumerate() {
        let list = |nodes: &[SocketAddr]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let loss = if shard.may_lose {
            "ANSWERED WRITES MAY BE LOST: its data is taken as the truth"
        } else {
            "nothing is lost"
        };
        let (name, leads, end) = (&shard.name, shard.leads, shard.end.0);
        let _ = writeln!(text, "shard {idx} {name}: {leads} leads, with records up to {end}; {loss}");
        let _ = writeln!(text, "  in sync: {}", list(&shard.in_sync));
        for note in &shard.notes {
            let _ = writeln!(text, "  {note}");
        }
    }
    let heads = ["NODE", "ROLE", "VOTES", "DIRECTORY"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for (node, planned) in (0..).map(NodeId).zip(&plan.nodes) {
        let directory = match &planned.source {
            None => "none: it starts empty".to_owned(),
            Some(source) if source.path == source.becomes => source.path.clone(),
            Some(source) => format!("{} -> {}", source.path, source.becomes),
        };
        let votes = if plan.votes(node) { "yes" } else { "no" }.to_owned();
        rows.push(vec![planned.address.to_string(), cluster.node(node).role.as_str().to_owned(), votes, directory]);
    }
    text += &columns(&rows);
    for unused in &plan.unused {
        let _ = writeln!(text, "not used: {unused}");
    }
    for node in &plan.must_be_made {
        let _ = writeln!(
            text,
            "NEEDED: fewer than a majority of the new voters have a directory, so {node} must be given one on its host \
             before it starts: dkv reform apply PLAN {node}=DIR"
        );
    }
    text += "nothing is written yet: `dkv reform apply` with this plan, on every host, does it\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_shards_are_read_with_what_they_get() {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        assert_eq!(node_and_text("10.0.0.1:80=data/a=b"), Ok((address, "data/a=b".to_owned())));
        assert_eq!(shard_and_node("3=10.0.0.1:80"), Ok((ShardId(3), address)));
        for bad in ["10.0.0.1:80", "10.0.0.1:80=", "x=y"] {
            assert!(node_and_text(bad).is_err(), "{bad}");
        }
        assert!(shard_and_node("a=10.0.0.1:80").unwrap_err().contains("idx"));
        assert!(shard_and_node("10.0.0.1:80").is_err());
    }
}
