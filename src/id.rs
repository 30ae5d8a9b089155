//! Owns: the names of things, as newtypes, so that no two kinds of number can be mixed up.
//! Never: anything that acts on them.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A shard's place in the flat table: its `idx` in `sharding.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u32);

/// A node's place in the cluster's list of nodes: shards in order of `idx`, each primary before its replicas; then the
/// witnesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u32);

/// A period of a shard under one primary that started once. Grows by one with every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Log sequence number: a record's place in its shard's log. The first record is 1; 0 is "before all".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Lsn = Lsn(0);

    /// The lsn of the record after this one.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// A connection: a slot of the slab and the slot's generation, so that a late event or answer never meets a
/// newer connection in the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Index into the slab of connections.
    pub slot: u32,
    /// How often the slot had been used before.
    pub generation: u32,
}

/// A peer link that is up: the connection that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub ConnId);

/// A random number that names one data directory's store for as long as its content lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uuid(pub u128);

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Uuid> for String {
    fn from(uuid: Uuid) -> String {
        uuid.to_string()
    }
}

impl TryFrom<String> for Uuid {
    type Error = String;

    fn try_from(text: String) -> Result<Uuid, String> {
        let digits = Some(&text).filter(|text| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        number.map(Uuid).ok_or_else(|| format!("{text:?} is no id: 32 hexadecimal digits"))
    }
}

/// Who waits for an answer. A forwarded request differs from a client's in nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ticket {
    /// The n-th request of a client's connection.
    Client(ConnId, u64),
    /// A request that another node forwarded: the link it came by and the sender's number for it.
    Link(LinkId, u64),
}

/// The moment, as an argument: only `server/turn.rs` reads clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// `CLOCK_BOOTTIME` in nanoseconds: goes on while the machine is suspended; for deadlines and leases.
    pub boot_ns: u64,
    /// Unix time in milliseconds: for expiry, logs and the Date header only.
    pub wall_ms: u64,
}

impl Now {
    /// The monotonic moment in whole milliseconds.
    #[must_use]
    pub fn ms(self) -> u64 {
        self.boot_ns / 1_000_000
    }
}

/// `IP:PORT` as file name: `127.0.0.1:8080` → `127.0.0.1_8080`, `[::1]:8080` → `__1_8080`.
#[must_use]
pub fn address_as_file_name(address: SocketAddr) -> String {
    format!("{}_{}", address.ip(), address.port()).replace(':', "_")
}
