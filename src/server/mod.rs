//! Owns: a node's run, from its options to its exit code.
//! Never: the command line.

mod admin;
mod agreement;
mod ahead;
pub mod api;
pub mod browser;
mod client;
mod conn;
pub mod core;
mod drain;
pub mod error;
mod execute;
mod expiry;
mod follow;
mod forward;
mod known;
pub mod lane;
mod lead;
mod link;
mod longest;
mod messages;
pub mod metrics;
mod operate;
pub mod pipeline;
mod process;
pub mod render;
mod sink;
mod standing;
mod turn;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Cluster;
use crate::id::{NodeId, Uuid};
use crate::reactor::Reactor;
use crate::store::dir::DataDir;
use crate::store::files::RealDisk;
use crate::store::{Home, Options, SmallState, Store};

/// Descriptors that are not for clients: segments of the log, standard streams, the poll.
const OWN_DESCRIPTORS: u64 = 512;
/// A control link and a data link, each way.
const LINKS_A_PEER: u64 = 4;

/// What one node needs to run.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The cluster.
    pub cluster: Cluster,
    /// Which of its nodes this process is.
    pub node: NodeId,
    /// The address to bind.
    pub listen: SocketAddr,
    /// The node's own data directory.
    pub data_dir: PathBuf,
}

/// Why a node did not run, or did not go on: a sentence.
#[derive(Debug)]
pub struct ServeError(pub String);

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServeError {}

/// Runs a node until it is told to stop.
///
/// # Errors
/// The node could not start, or had to stop: a sentence.
pub fn serve(options: ServeOptions) -> Result<(), ServeError> {
    let ServeOptions { cluster, node, listen, data_dir } = options;
    let address = cluster.node(node).address;
    let mut signals = turn::stop_signals().map_err(|e| ServeError(format!("signals cannot be handled: {e}")))?;
    let directory = DataDir::open(&data_dir).map_err(|e| ServeError(e.to_string()))?;
    let reactor = Reactor::new(listen).map_err(|e| ServeError(format!("{listen} cannot be listened on: {e}")))?;
    reactor.register_own(&mut signals).map_err(|e| ServeError(format!("signals cannot be handled: {e}")))?;
    let max_connections = descriptors(&cluster);
    let (home, store, options) = open_home(&cluster, address, directory, &reactor)?;
    let incarnation = random()?;
    let identity = link::Identity {
        fingerprint: cluster.fingerprint(),
        table: cluster.canonical(),
        store: store.small_state().content(),
        cluster: Uuid::default(),
        incarnation: incarnation as u64,
        address: address.to_string(),
        refusals: std::collections::HashMap::new(),
    };
    let start = core::Start { now: turn::now(), incarnation: Uuid(incarnation), entropy: random()?, options };
    let core = core::Core::new(&cluster, node, home, store, start).map_err(ServeError)?;
    match cluster.node(node).shard {
        Some(shard) => log::info!(
            "{address} is the {} of shard {} ({}), listening on {listen}",
            cluster.node(node).role.as_str(),
            shard.0,
            cluster.shard(shard).name
        ),
        None => log::info!("{address} is a witness, listening on {listen}"),
    }
    turn::Server::new(turn::Parts { cluster, me: node, reactor, core, signals, max_connections, identity }).run()
}

fn open_home(
    cluster: &Cluster,
    address: SocketAddr,
    directory: DataDir,
    reactor: &Reactor<conn::Role>,
) -> Result<(Home<RealDisk>, Store<RealDisk>, Options), ServeError> {
    let waker = reactor.waker().map_err(|e| ServeError(format!("the event loop cannot be woken: {e}")))?;
    let wake = move || {
        if let Err(e) = waker.wake() {
            log::error!("the event loop cannot be woken: {e}");
        }
    };
    let path = directory.path().display().to_string();
    let disk = RealDisk::start(directory, wake).map_err(|e| ServeError(format!("{path}: {e}")))?;
    let settings = cluster.settings();
    let options = Options {
        segment_bytes: settings.store.segment_bytes,
        compact_dead_percent: settings.store.compact_dead_percent,
        entropy: random()? as u64,
        ..Options::default()
    };
    let fresh = [random()?, random()?];
    let began_ns = turn::boot_ns();
    let (home, store, recovery) =
        Home::open(disk, options.clone(), address, || SmallState::new(Uuid(fresh[0]), fresh[1], false))
            .map_err(|e| ServeError(format!("{path}: {e}")))?;
    log::info!(
        "{path}: {} keys in {} segments, {} records made durable anew, {} torn bytes cut, in {} ms",
        recovery.keys,
        recovery.segments,
        recovery.records,
        recovery.torn_bytes,
        turn::boot_ns().saturating_sub(began_ns) / 1_000_000
    );
    if let Some(damage) = store.health() {
        log::error!(
            "{path}: {damage}. This copy serves no requests until a copy that is in sync has repaired it. Where there is \
             none: dkv log verify {path} checks it, and dkv log cut {path}, with the node stopped, drops what is damaged"
        );
    }
    Ok((home, store, options))
}

/// Raises the limit on descriptors as far as it goes, and says how many connections fit below it.
fn descriptors(cluster: &Cluster) -> usize {
    let wanted = cluster.settings().limits.max_connections;
    let own = OWN_DESCRIPTORS + turn::PEER_RESERVE as u64 + LINKS_A_PEER * (cluster.nodes().len() as u64 - 1);
    let needed = wanted as u64 + own;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let have = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(have) = have.filter(|have| *have < needed) else { return wanted };
    let fit = have.saturating_sub(own).max(16) as usize;
    log::warn!("limits.max_connections = {wanted} needs {needed} descriptors, and {have} are allowed: {fit} it is");
    fit
}

/// A number that nobody else draws.
///
/// # Errors
/// The system gives none.
pub fn random() -> Result<u128, ServeError> {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| ServeError(format!("the system gives no random numbers: {e}")))?;
    assert!(filled == bytes.len(), "getrandom gives up to 256 bytes whole");
    Ok(u128::from_ne_bytes(bytes))
}
