//! DistributedKVStore: a key-value store started by one script and used with curl.
//!
//! The modules, in the order in which a request meets them:
//!
//! - [`reactor`]: sockets, buffers, deadlines; knows bytes only.
//! - [`http`]: bytes ↔ requests and responses; knows neither sockets nor shards.
//! - [`server`]: the turn of the event loop, and the core that orders, forwards and answers requests.
//! - [`router`]: which shard a key belongs to.
//! - [`node`]: this copy's role and epoch, and what is known of the other nodes.
//! - [`wire`], [`peers`]: frames and links between nodes.
//! - [`store`]: the log on disk and the index in memory.
//!
//! [`configuration`] says who makes up a shard; [`config`] reads `sharding.toml`, [`cli`] is the command line, [`id`] and [`op`] are the words that all
//! of them share. ARCHITECTURE.md is the map.

pub mod cli;
pub mod config;
pub mod configuration;
pub mod http;
pub mod id;
pub mod node;
pub mod op;
pub mod peers;
pub mod reactor;
pub mod reform;
pub mod router;
pub mod server;
pub mod store;
pub mod wire;
