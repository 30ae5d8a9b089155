//! Owns: what the surveyed directories of one old cluster say together: its newest configurations, as far as they are
//! certain, and the highest numbers that were ever seen.
//! Never: the cluster to come; files.

use super::survey::{Directory, Voter};
use crate::configuration::{Configuration, Formation};
use crate::id::{Epoch, NodeId, ShardId};
use crate::node::registers::{Memory, Reading, read};

/// Each forced takeover makes a log go on at so many times 2^48: see `server/lead.rs`.
const FORCED_SHIFT: u32 = 48;

/// The highest of what was seen of a shard, chosen or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub version: u64,
    pub epoch: Epoch,
    pub forced: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Old<'s> {
    pub formation: &'s Formation,
    /// Those of this cluster.
    pub directories: Vec<&'s Directory>,
    pub reading: Reading,
    memories: Vec<&'s Memory>,
}

impl<'s> Old<'s> {
    /// The cluster that this formation made.
    ///
    /// # Errors
    /// The directories contradict each other: a sentence.
    pub fn of(formation: &'s Formation, surveyed: &[&'s Directory]) -> Result<Self, String> {
        let is_its = |d: &&&Directory| d.formation.as_ref().is_some_and(|other| other.cluster == formation.cluster);
        let directories: Vec<&Directory> = surveyed.iter().filter(is_its).copied().collect();
        for (at, directory) in directories.iter().enumerate() {
            if directory.formation.as_ref() != Some(formation) {
                return Err(format!(
                    "{} and {} tell the formation of one cluster differently",
                    directories[0].path, directory.path
                ));
            }
            if let Some(twin) = directories[..at].iter().find(|other| is_twin(other, directory)) {
                return Err(format!(
                    "{} and {} are of the same node {}: one is an older copy of the other; survey only the one that \
                     the node used last",
                    twin.path, directory.path, directory.address
                ));
            }
        }
        let memories: Vec<&Memory> = directories.iter().filter_map(|directory| memory_of(directory)).collect();
        let old = Self { formation, reading: read(formation, &memories), memories, directories };
        old.check_votes()?;
        Ok(old)
    }

    /// A ballot has one value; and nothing newer than what counts is held by a majority: it would be chosen.
    fn check_votes(&self) -> Result<(), String> {
        let contradiction =
            |shard: usize| Err(format!("the voters' memories of shard {shard} cannot be those of one cluster"));
        for (shard, highest) in self.reading.highest.iter().enumerate() {
            let votes: Vec<_> =
                self.memories.iter().filter_map(|memory| memory.accepted.get(shard)?.as_ref()).collect();
            for vote in &votes {
                let same = votes.iter().filter(|other| other.ballot == vote.ballot);
                let holders = same.clone().count();
                let is_newer = highest.as_ref().is_some_and(|highest| vote.value.version > highest.value.version);
                if same.clone().any(|other| other.value != vote.value)
                    || (is_newer && self.reading.is_certain() && holders >= self.reading.majority)
                {
                    return contradiction(shard);
                }
            }
        }
        Ok(())
    }

    /// How many shards it had, if any memory tells that.
    pub fn shards(&self) -> Option<usize> {
        self.memories.iter().map(|memory| memory.accepted.len()).max().filter(|shards| *shards > 0)
    }

    /// What a shard's register holds, if that is certain, or what the highest ballot says, if not. `None`: nothing was
    /// ever accepted, or it is not known.
    pub fn newest(&self, shard: ShardId) -> Option<&Configuration> {
        self.reading.highest.get(shard.0 as usize)?.as_ref().map(|vote| &vote.value)
    }

    /// The voters whose memory does not count, and why, as far as their directory was surveyed.
    pub fn missing_voters(&self) -> Vec<String> {
        let missing = self.formation.voters.iter().filter(|seat| !self.reading.counted.contains(&seat.node));
        missing.map(|seat| self.why_missing(seat.node)).collect()
    }

    fn why_missing(&self, node: NodeId) -> String {
        let Some(directory) = self.directories.iter().find(|directory| directory.node == Some(node)) else {
            return format!("node {} was not surveyed", node.0);
        };
        let why = match directory.voter {
            Voter::Damaged => "its file `voter` is damaged",
            Voter::None => "its file `voter` is missing",
            Voter::Foreign => "its file `voter` is of no voter of this cluster",
            Voter::Memory(_) => "it has voted since under another id, so its memory is void",
        };
        format!("node {} ({}): {why}", node.0, directory.path)
    }

    /// The highest numbers: of the shard's register, in every memory; of the epochs, in every directory; of the forced
    /// takeovers, in the logs that may be the shard's, too.
    pub fn highest(&self, shard: ShardId, is_its: impl Fn(&Directory) -> bool) -> Seen {
        let votes = self.memories.iter().filter_map(|memory| memory.accepted.get(shard.0 as usize)?.as_ref());
        let mut seen = Seen::default();
        for vote in votes {
            seen.version = seen.version.max(vote.value.version);
            seen.epoch = seen.epoch.max(vote.value.epoch);
            seen.forced = seen.forced.max(vote.value.forced);
        }
        for directory in &self.directories {
            let began = directory.lineage.last().map_or(Epoch::default(), |(epoch, _)| *epoch);
            seen.epoch = seen.epoch.max(directory.epoch).max(began);
            if is_its(directory) {
                seen.forced = seen.forced.max(directory.end.0 >> FORCED_SHIFT);
            }
        }
        seen
    }
}

fn memory_of(directory: &Directory) -> Option<&Memory> {
    if let Voter::Memory(memory) = &directory.voter { Some(memory) } else { None }
}

/// Whether two directories are two states of one.
fn is_twin(one: &Directory, other: &Directory) -> bool {
    let ids = [one, other].map(|directory| memory_of(directory).map(|memory| (memory.node, memory.id)));
    one.store == other.store || (ids[0].is_some() && ids[0] == ids[1])
}
