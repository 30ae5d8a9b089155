//! Owns: `dkv serve`: the node's options out of arguments and configuration, and its logging.
//! Never: serving.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use env_logger::{Env, Target};

use super::{ConfigArg, Failure};
use crate::config::{Cluster, parse_address};
use crate::id::{NodeId, address_as_file_name};
use crate::server::{ServeOptions, serve};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv serve --address 127.0.0.1:8080
  dkv serve --config /etc/dkv/sharding.toml --address 10.0.0.1:8080 --data-dir /var/lib/dkv
  dkv serve --address 10.0.0.1:8080 --listen 0.0.0.0:8080     bind every interface
  RUST_LOG=debug dkv serve --address 127.0.0.1:8080

The log goes to standard error; RUST_LOG sets its level (default info). SIGTERM or SIGINT: requests under way are
finished, data is synced, exit code 0; a second one exits at once.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Which node of the configuration this is: one of a shard, or a witness
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    address: SocketAddr,
    /// The node's own data directory [default: one named after the address, in store.directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The address to bind, where it differs from the one that others dial
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    listen: Option<SocketAddr>,
}

pub(super) fn run(args: &ServeArgs) -> Result<ExitCode, Failure> {
    env_logger::Builder::from_env(Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .target(Target::Stderr)
        .init();
    let loaded = args.config.load()?;
    for warning in &loaded.warnings {
        log::warn!("{}: {warning}", args.config.config.display());
    }
    let node = find(&loaded.cluster, args.address, &args.config.config)?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| default_data_dir(&loaded.cluster, node));
    let listen = args.listen.unwrap_or(args.address);
    serve(ServeOptions { cluster: loaded.cluster, node, listen, data_dir })?;
    Ok(ExitCode::SUCCESS)
}

fn find(cluster: &Cluster, address: SocketAddr, file: &Path) -> Result<NodeId, Failure> {
    cluster.node_at(address).ok_or_else(|| {
        let known: Vec<String> = cluster.nodes().iter().map(|n| n.address.to_string()).collect();
        let (file, known) = (file.display(), known.join(", "));
        Failure(format!("{address} is no node of {file}: --address takes one of {known}"))
    })
}

/// Where a node's data lies unless it is told otherwise.
pub(super) fn default_data_dir(cluster: &Cluster, node: NodeId) -> PathBuf {
    let name = address_as_file_name(cluster.node(node).address);
    Path::new(&cluster.settings().store.directory).join(name)
}
