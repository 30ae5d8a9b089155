//! Owns: a node's run, from its options to its exit code.
//! Never: the command line.

pub mod core;
mod execute;
pub mod lane;
pub mod pipeline;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Cluster;
use crate::id::NodeId;

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
    Err(ServeError(format!("this build has no server: node {} cannot run", options.listen)))
}
