//! Owns: what files that were persisted say of a cluster that is stopped: its formation, a voter's memory, and what the
//! registers hold for sure by the memories of a majority.
//! Never: files; what follows for a cluster to come.

use serde::{Deserialize, Serialize};

use super::BadStart;
use super::acceptor::Acceptor;
use super::electorate::{Electorate, Tally};
use super::forming::Kept;
use super::message::Vote;
use crate::configuration::{Formation, VoterId};
use crate::id::NodeId;

/// A voter's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its node.
    pub node: NodeId,
    /// The id under which it voted last.
    pub id: VoterId,
    /// The ids of all voters as it had recorded them, in the formation's order.
    pub table: Vec<VoterId>,
    /// By shard: what it accepted last. Empty: nothing of any shard.
    pub accepted: Vec<Option<Vote>>,
}

/// What memories say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The voters whose memories count.
    pub counted: Vec<NodeId>,
    /// How many are needed.
    pub majority: usize,
    /// By shard, as far as any memory says something: the accepted proposal with the highest ballot of those that count.
    pub highest: Vec<Option<Vote>>,
}

impl Reading {
    /// Whether what is chosen is known for sure: `highest` is what a round would choose. Where it is `None`, nothing
    /// ever was.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.counted.len() >= self.majority
    }
}

/// The formation in a node's file; `None`: that node knew of none.
///
/// # Errors
/// The bytes are no formation: damaged, or of a later version.
pub fn formation_of(bytes: &[u8]) -> Result<Option<Formation>, BadStart> {
    Kept::decode_file(bytes).map(|kept| kept.formed)
}

/// The memory in a voter's file; `None`: it is no memory of a voter of this cluster. That of a voter that was emptied
/// and not re-seeded yet is none.
///
/// # Errors
/// The bytes are of a later version.
pub fn recall(formation: &Formation, voter: &[u8]) -> Result<Option<Memory>, BadStart> {
    let acceptor = Acceptor::from_file(voter).ok_or(BadStart::Voter)?;
    let (id, table, shards) = (acceptor.id(), acceptor.table().to_vec(), acceptor.shards());
    let is_at = |seat: &usize| match table.get(*seat) {
        Some(own) => *own == id,
        None => table.is_empty() && formation.voters[*seat].first == id,
    };
    let Some(seat) = (0..formation.voters.len()).find(is_at) else { return Ok(None) };
    let node = formation.voters[seat].node;
    Ok(acceptor.seated(formation, seat, shards).map(|seated| Memory {
        node,
        id,
        table: seated.table().to_vec(),
        accepted: seated.accepted().cloned().collect(),
    }))
}

/// Reads all registers of a cluster as a round would: an answer counts unless a higher id of its voter is known.
#[must_use]
pub fn read(formation: &Formation, memories: &[&Memory]) -> Reading {
    let mut voters = Electorate::new(formation);
    for memory in memories {
        voters.hear_table(&memory.table);
    }
    let mut tally = Tally::new(&voters);
    let shards = memories.iter().map(|memory| memory.accepted.len()).max().unwrap_or(0);
    let mut highest: Vec<Option<Vote>> = vec![None; shards];
    for memory in memories {
        let Some(seat) = voters.seat(memory.node).filter(|seat| memory.id >= voters.known(*seat)) else { continue };
        tally.add(seat, memory.id);
        for (highest, vote) in highest.iter_mut().zip(&memory.accepted) {
            if vote.as_ref().map(|vote| vote.ballot) > highest.as_ref().map(|vote| vote.ballot) {
                highest.clone_from(vote);
            }
        }
    }
    let nodes = voters.nodes().iter().enumerate();
    let counted = nodes.filter(|(seat, _)| tally.has(*seat, &voters)).map(|(_, node)| *node).collect();
    Reading { counted, majority: voters.majority(), highest }
}

#[cfg(test)]
mod tests {
    use super::super::voter_file;
    use super::*;
    use crate::configuration::{Ballot, Configuration, Member, Seat};
    use crate::id::{Epoch, ShardId, Uuid};

    fn first(node: u32) -> VoterId {
        VoterId { generation: 0, uuid: Uuid(u128::from(node) + 100) }
    }

    fn formation() -> Formation {
        let voters = (0..3).map(|node| Seat { node: NodeId(node), first: first(node) }).collect();
        Formation { cluster: Uuid(9), fingerprint: 1, voters, stores: vec![Uuid(1); 3] }
    }

    fn value(version: u64) -> Configuration {
        let member = Member { node: NodeId(0), store: Uuid(1) };
        Configuration { version, epoch: Epoch(version), primary: NodeId(0), in_sync: vec![member], forced: 0 }
    }

    /// The memory of a voter that accepted this version under this round.
    fn memory(node: u32, round: u64, version: u64) -> Memory {
        let mut acceptor = Acceptor::fresh(first(node)).seated(&formation(), node as usize, 1).unwrap();
        acceptor.accept(ShardId(0), Ballot { round, proposer: Uuid(1) }, value(version));
        recall(&formation(), &acceptor.to_file()).unwrap().unwrap()
    }

    fn versions(memories: &[&Memory]) -> (bool, Vec<u64>) {
        let reading = read(&formation(), memories);
        let versions = reading.highest.iter().map(|vote| vote.as_ref().map_or(0, |vote| vote.value.version));
        (reading.is_certain(), versions.collect())
    }

    #[test]
    fn the_highest_ballot_of_a_majority_counts_not_the_highest_version() {
        let (never_chosen, old, new) = (memory(0, 5, 6), memory(1, 3, 4), memory(2, 7, 5));
        assert_eq!(versions(&[&never_chosen, &old, &new]), (true, vec![5]));
        assert_eq!(versions(&[&never_chosen, &old]), (true, vec![6]), "it is what a round would choose then");
        assert_eq!(versions(&[&new]), (false, vec![5]));
        assert_eq!(versions(&[]), (false, vec![]));
    }

    #[test]
    fn one_voter_is_one_voter_and_its_older_memory_does_not_count() {
        let (old, other) = (memory(0, 9, 9), memory(1, 3, 4));
        assert_eq!(versions(&[&old, &old]), (false, vec![9]));
        let later = VoterId { generation: 1, uuid: Uuid(7) };
        let mut reseeded = Memory { id: later, ..memory(0, 2, 3) };
        reseeded.table[0] = later;
        assert_eq!(versions(&[&old, &reseeded]), (false, vec![3]));
        assert_eq!(versions(&[&old, &reseeded, &other]), (true, vec![4]));
        let mut knows_of_it = other.clone();
        knows_of_it.table[0] = later;
        assert_eq!(versions(&[&old, &knows_of_it]), (false, vec![4]));
    }

    #[test]
    fn a_file_is_recalled_by_its_own_cluster_only() {
        let file = voter_file(&formation(), NodeId(2), &[value(4), value(5)]).unwrap();
        let memory = recall(&formation(), &file).unwrap().unwrap();
        assert_eq!((memory.node, memory.accepted.len()), (NodeId(2), 2));
        let mut other = formation();
        other.voters[2].first.uuid = Uuid(55);
        assert_eq!(recall(&other, &file).unwrap(), None);
        let fresh = voter_file(&formation(), NodeId(1), &[]).unwrap();
        let memory = recall(&formation(), &fresh).unwrap().unwrap();
        assert_eq!((memory.node, memory.accepted.len(), memory.table.len()), (NodeId(1), 0, 3));
        let emptied = Acceptor::fresh(VoterId { generation: 0, uuid: Uuid(8) }).to_file();
        assert_eq!(recall(&formation(), &emptied).unwrap(), None);
        assert_eq!(recall(&formation(), &[99]), Err(BadStart::Voter));
        let formed = super::super::formation_file(&formation());
        assert_eq!(formation_of(&formed), Ok(Some(formation())));
        assert_eq!((formation_of(&[]), formation_of(&[99])), (Ok(None), Err(BadStart::Formation)));
    }
}
