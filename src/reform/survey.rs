//! Owns: what the directory of a stopped node says of itself and of its cluster, as a value and as JSON.
//! Never: what follows from it; changing anything.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::configuration::{Coded, Formation};
use crate::id::{Epoch, Lsn, NodeId, ShardId, Uuid};
use crate::node::registers::{Memory, formation_of, recall};
use crate::router;
use crate::store::VoterFile;
use crate::store::stopped::Stopped;

/// The version of a survey's and a plan's JSON.
pub const FORMAT: u32 = 1;

/// The directories of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Always `dkv survey`: that it is one.
    pub kind: String,
    /// See [`FORMAT`].
    pub format: u32,
    /// All of them.
    pub directories: Vec<Directory>,
}

/// What [`Survey::kind`] says.
pub const KIND: &str = "dkv survey";

/// One node's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Where it stands on its host.
    pub path: String,
    /// The node whose it is.
    pub address: SocketAddr,
    /// That node's number in the old table, as far as the directory tells it.
    pub node: Option<NodeId>,
    /// The cluster that it belongs to; `None`: of none.
    pub formation: Option<Formation>,
    /// What it remembers as a voter.
    pub voter: Voter,
    /// Names what the copy holds.
    pub store: Uuid,
    /// The highest epoch that the copy acted in.
    pub epoch: Epoch,
    /// Where each epoch began in its log.
    pub lineage: Vec<(Epoch, Lsn)>,
    /// The last lsn.
    pub end: Lsn,
    /// The last lsn that it knows to be committed.
    pub committed: Lsn,
    /// Whether it ever had everything.
    pub whole: bool,
    /// Where the log is damaged, if it is.
    pub damage: Option<String>,
    /// Which shard its keys belong to; `None`: it has no keys.
    pub keys: Option<Keys>,
    /// The largest grace that it ever granted, in milliseconds.
    pub largest_grace_ms: u64,
}

/// A voter's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Voter {
    /// There is none: the node does not vote.
    None,
    /// It cannot be read.
    Damaged,
    /// It is no memory of a voter of this cluster: that voter was emptied, or an application of a plan was cut short.
    Foreign,
    /// What it accepted.
    Memory(Memory),
}

/// All keys of a log in two numbers, from which the shard follows for any number of shards: all hashes are equal modulo
/// n if and only if n divides their differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// The hash of the first key.
    pub hash: u64,
    /// The greatest common divisor of all differences of hashes; 0: all are equal.
    pub step: u64,
}

impl Keys {
    /// Those and this one.
    #[must_use]
    pub fn with(keys: Option<Keys>, hash: u64) -> Keys {
        let Some(keys) = keys else { return Keys { hash, step: 0 } };
        Keys { step: common_divisor(keys.step, keys.hash.abs_diff(hash)), ..keys }
    }

    /// The shard of all of them, of so many; `None`: they belong to several.
    #[must_use]
    pub fn shard(&self, shards: usize) -> Option<ShardId> {
        let is_one = self.step.is_multiple_of(shards as u64);
        is_one.then(|| router::Router::of(shards).shard_of_hash(self.hash))
    }
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Reads a stopped node's directory.
///
/// # Errors
/// It is in use, or cannot be read: a sentence.
pub fn survey(path: &Path) -> Result<Directory, String> {
    let told = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let absolute = std::path::absolute(path).map_err(|e| told(&e))?;
    let mut stopped = Stopped::open(&absolute, false).map_err(|e| told(&e))?;
    let mut keys = None;
    stopped.each_key(|key| keys = Some(Keys::with(keys, router::hash(key)))).map_err(|e| told(&e))?;
    let newer = |_| told(&"it was written by a newer version: run the dkv of that version");
    let formation = formation_of(&stopped.node().formation).map_err(newer)?;
    let voter = match (stopped.voter(), &formation) {
        (VoterFile::Missing, _) => Voter::None,
        (VoterFile::Damaged, _) => Voter::Damaged,
        (VoterFile::Sound(_), None) => Voter::Foreign,
        (VoterFile::Sound(bytes), Some(formation)) => {
            recall(formation, bytes).map_err(newer)?.map_or(Voter::Foreign, Voter::Memory)
        }
    };
    let path = absolute.to_str().ok_or_else(|| told(&"the path is not UTF-8, which a survey cannot hold"))?.to_owned();
    let state = stopped.state().clone();
    Ok(Directory {
        path,
        address: stopped.node().address,
        node: node_of(formation.as_ref(), &voter, state.store),
        formation,
        voter,
        store: state.content(),
        epoch: state.epoch,
        lineage: state.lineage,
        end: stopped.end(),
        committed: stopped.committed(),
        whole: state.whole,
        damage: stopped.damage().map(ToString::to_string),
        keys,
        largest_grace_ms: stopped.node().largest_grace_ms,
    })
}

/// The number of the node in its table: as a voter it knows it, and by what its directory held when the cluster was
/// formed.
fn node_of(formation: Option<&Formation>, voter: &Voter, store: Uuid) -> Option<NodeId> {
    if let Voter::Memory(memory) = voter {
        return Some(memory.node);
    }
    let at = formation?.stores.iter().position(|held| *held == store)?;
    u32::try_from(at).ok().map(NodeId)
}

impl Survey {
    /// Of these directories.
    #[must_use]
    pub fn of(directories: Vec<Directory>) -> Survey {
        Survey { kind: KIND.to_owned(), format: FORMAT, directories }
    }

    /// Reads a survey's JSON. What came through people's hands is checked against the invariants of its types.
    ///
    /// # Errors
    /// It is none, or of another version: a sentence.
    pub fn read(json: &[u8]) -> Result<Survey, String> {
        let survey: Survey =
            serde_json::from_slice(json).map_err(|e| format!("it is not what `dkv reform survey` prints: {e}"))?;
        if survey.kind != KIND || survey.format != FORMAT {
            return Err(format!(
                "its format is {:?} {}, but this dkv reads {KIND:?} {FORMAT}",
                survey.kind, survey.format
            ));
        }
        match survey.directories.iter().find(|directory| !directory.is_lawful()) {
            Some(bad) => Err(format!("what it says of {} was changed and makes no sense any more", bad.path)),
            None => Ok(survey),
        }
    }
}

impl Directory {
    fn is_lawful(&self) -> bool {
        let memory = if let Voter::Memory(memory) = &self.voter { Some(memory) } else { None };
        let votes = memory.into_iter().flat_map(|memory| memory.accepted.iter().flatten());
        let fits = |formation: &Formation| {
            let is_seat = |memory: &Memory| formation.voters.iter().any(|seat| seat.node == memory.node);
            memory.is_none_or(|memory| is_seat(memory) && memory.table.len() == formation.voters.len())
        };
        self.formation.as_ref().is_none_or(is_lawful)
            && self.formation.as_ref().map_or(memory.is_none(), fits)
            && votes.into_iter().all(|vote| is_lawful(&vote.ballot) && is_lawful(&vote.value))
    }
}

/// Whether a value is one that its own bytes would be taken for.
pub(super) fn is_lawful<T: Coded + PartialEq>(value: &T) -> bool {
    T::decode(&value.encode()).as_ref() == Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_tell_the_shard_of_all_keys_for_any_number_of_shards() {
        for shards in [1, 2, 3, 4, 7, 12] {
            let router = router::Router::of(shards);
            let all: Vec<String> = (0..500).map(|n| format!("key-{n}")).collect();
            for shard in (0..shards as u32).map(ShardId) {
                let own = all.iter().filter(|key| router.shard_of(key.as_bytes()) == shard);
                let mut keys = None;
                for key in own {
                    keys = Some(Keys::with(keys, router::hash(key.as_bytes())));
                    assert_eq!(keys.unwrap().shard(shards), Some(shard));
                }
                let keys = keys.unwrap();
                assert_eq!(keys.shard(shards + 1), None);
                let stray = all.iter().find(|key| router.shard_of(key.as_bytes()) != shard);
                if let Some(stray) = stray {
                    assert_eq!(Keys::with(Some(keys), router::hash(stray.as_bytes())).shard(shards), None);
                }
            }
        }
    }

    #[test]
    fn what_is_no_survey_is_refused() {
        assert!(Survey::read(b"{}").unwrap_err().contains("dkv reform survey"));
        let mut survey = Survey::of(Vec::new());
        assert_eq!(Survey::read(&serde_json::to_vec(&survey).unwrap()), Ok(survey.clone()));
        survey.format += 1;
        assert!(Survey::read(&serde_json::to_vec(&survey).unwrap()).unwrap_err().contains("format"));
    }
}
