//! Owns: the command line: arguments, help, what is printed, exit codes (0 done, 1 failed, 2 wrong usage, 3 not
//! known).
//! Never: anything that a node does while it serves.

mod check;
mod client;
mod lead;
mod log;
mod nodes;
mod output;
mod reform;
mod serve;
mod status;
mod view;
mod whereis;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, LoadError, Loaded};
use crate::node::registers::{Table, choose_voters, voter_warnings};

/// A sharded key-value store whose client is curl.
#[derive(Debug, Parser)]
#[command(name = "dkv", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  dkv check                                  is sharding.toml right, and which settings are in effect?
  dkv serve --address 127.0.0.1:8080         run one node in the foreground
  dkv status                                 what the running cluster says of itself
  dkv where user:1                           which shard and nodes hold a key
  dkv reform --help                          another table for a cluster that is stopped
  dkv COMMAND --help                         more about one command";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of the cluster, until SIGTERM or SIGINT
    Serve(serve::ServeArgs),
    /// Check a configuration: all errors and warnings, the effective settings and where each came from
    Check(check::CheckArgs),
    /// List the nodes of a configuration, a line each
    Nodes(nodes::NodesArgs),
    /// Show the running cluster as one of its nodes sees it
    Status(status::StatusArgs),
    /// Make an in-sync copy lead its shard, without losing anything
    Handover(lead::HandoverArgs),
    /// Make a copy lead its shard whose in-sync copies are lost, at the price of answered writes
    Takeover(lead::TakeoverArgs),
    /// Tell which shard, and which nodes, a key belongs to
    Where(whereis::WhereArgs),
    /// Check, print or cut the log of a stopped node
    Log(log::LogArgs),
    /// Make a new cluster, with another table, out of the data directories of one that is stopped
    Reform(reform::ReformArgs),
}

/// The file that most commands read.
#[derive(Debug, Args)]
struct ConfigArg {
    /// The cluster's configuration
    #[arg(long, value_name = "FILE", default_value = "sharding.toml")]
    config: PathBuf,
}

impl ConfigArg {
    fn load(&self) -> Result<Loaded, Failure> {
        load(&self.config).map_err(Failure::from)
    }
}

/// Reads the configuration, and warns where the voters cannot do what one would expect of them.
fn load(file: &std::path::Path) -> Result<Loaded, LoadError> {
    let mut loaded = config::load(file)?;
    let table = Table::of(&loaded.cluster);
    loaded.warnings.extend(voter_warnings(&table, &choose_voters(&table)));
    Ok(loaded)
}

/// Why a command failed, as it is printed after `dkv: `.
#[derive(Debug)]
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Nodes(args) => nodes::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Handover(args) => lead::handover(&args),
        Command::Takeover(args) => lead::takeover(&args),
        Command::Where(args) => whereis::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Reform(args) => reform::run(&args),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("dkv: {failure}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent_and_every_command_shows_examples() {
        let mut cli = super::Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut() {
            let nested = command.get_subcommands().cloned().collect::<Vec<_>>();
            for mut command in nested.into_iter().chain([command.clone()]) {
                let help = command.render_long_help().to_string();
                assert!(help.contains("Examples:"), "{help}");
            }
        }
    }
}
