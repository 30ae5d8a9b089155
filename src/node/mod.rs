//! Owns: the rules. What this node's copy may do ([`copy`]), and what is known of the other shards and nodes
//! ([`directory`]). Sans I/O: what happened goes in, what follows comes out.
//! Never: sockets, files, clocks, HTTP; keys and values.

pub mod copy;
pub mod directory;
pub mod followers;
pub mod lease;
pub mod lineage;
pub mod registers;

use crate::id::{Epoch, Lsn};

/// What an answer rests on. **The law of effects: an answer leaves only when its barrier is met**
/// ([`copy::Copy::meets`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// The epoch in which it was made: an answer of an older one never leaves.
    pub epoch: Epoch,
    /// The last record that it rests on: the write's own, or the one that made it a 404 or a 412.
    pub committed: Lsn,
    /// The round of confirmations that it needs; 0: none.
    pub round: u64,
}
