//! Owns: what this node tells of itself: to the other nodes, and to people.
//! Never: changes anything.

use super::core::Core;
use crate::id::{Lsn, NodeId};
use crate::node::registers::Standing;
use crate::store::disk::Disk;
use crate::wire::{CopyState, Status};

impl<D: Disk> Core<D> {
    /// What this node tells of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.state();
        let configuration = self.copy.configuration();
        let bit = |node: NodeId| {
            let copies = self.my_shard.map(|shard| &self.copies[shard.0 as usize]);
            copies.and_then(|copies| copies.iter().position(|copy| *copy == node)).map_or(0, |at| 1 << at.min(63))
        };
        Status {
            ready: matches!(state, CopyState::Serving | CopyState::InSync | CopyState::Witness) && !self.disk_slow,
            is_primary: self.copy.leading().is_some_and(|leading| leading.is_persisted),
            epoch: self.copy.epoch(),
            end: self.store.end(),
            committed: self.store.committed(),
            state,
            version: configuration.map_or(0, |c| c.version),
            in_sync: configuration.map_or(0, |c| c.in_sync.iter().map(|member| bit(member.node)).sum()),
        }
    }

    /// What its copy is doing.
    #[must_use]
    pub fn state(&self) -> CopyState {
        match self.my_shard {
            None => CopyState::Witness,
            Some(_) if self.agreement.registers.formation().is_none() => CopyState::Forming,
            Some(_) => self.copy.state(self.store.committed(), self.follow.fresh.is_some()),
        }
    }

    /// Why a copy in this state does not serve its role: a sentence.
    #[must_use]
    pub fn why_not(&self, state: CopyState) -> String {
        let standing = match self.agreement.registers.standing() {
            Standing::Forming { waits_for } => {
                return format!("the cluster is not formed yet: it waits for {}", self.names_of(&waits_for));
            }
            Standing::Mute { .. } | Standing::Voter | Standing::NoVoter => {
                self.why_no_vote().map_or_else(String::new, |why| format!(" ({why})"))
            }
        };
        let text = match state {
            CopyState::Settling => "this copy is about to lead: it settles the log with the other copies".to_owned(),
            CopyState::CutOff => {
                "this copy leads, but a copy in sync grants it no lease: it answers when that does, or when a majority of \
                 the voters has let it be removed"
                    .to_owned()
            }
            CopyState::CatchingUp => "this copy is catching up with the primary".to_owned(),
            CopyState::Syncing => "this copy gets all data anew from the primary".to_owned(),
            CopyState::Waiting => self.waits_for(),
            _ => state.as_str().to_owned(),
        };
        format!("{text}{standing}")
    }

    /// Why this node, a voter, does not vote.
    #[must_use]
    pub fn why_no_vote(&self) -> Option<String> {
        match self.agreement.registers.standing() {
            Standing::Mute { waits_for } => {
                Some(format!("as a voter it lost its memory, and waits for {}", self.names_of(&waits_for)))
            }
            Standing::Forming { .. } | Standing::Voter | Standing::NoVoter => None,
        }
    }

    /// What becomes of damaged data.
    #[must_use]
    pub fn remedy(&self) -> String {
        let Some(known) = self.copy.configuration() else { return self.waits_for() };
        let in_sync = known.in_sync.iter().map(|member| member.node);
        let others: Vec<NodeId> = in_sync.filter(|node| *node != self.me).collect();
        if others.is_empty() {
            return self.remedy_alone();
        }
        let others = self.names_of(&others);
        format!(
            "it is repaired by a copy that is in sync, {others}, once that leads; if what that had is gone for good, \
             dkv log verify checks this directory"
        )
    }

    /// The same where no other copy is in sync.
    fn remedy_alone(&self) -> String {
        let by_hand = "dkv log verify checks the directory, dkv log cut drops what is damaged";
        let lacking = match &self.lead.unfillable[..] {
            [] => String::new(),
            nodes => format!("; what {} lacks is damaged, too", self.names_of(nodes)),
        };
        let may_fill = self.copy.is_to_fill() && !self.store.is_given_up();
        if may_fill && self.lead.unfillable.len() < self.others().len() {
            return format!(
                "do not stop this node: another copy that was away is given what it lacks, and leads{lacking}"
            );
        }
        format!("{by_hand}{lacking}")
    }

    /// For whom a copy without a primary waits.
    fn waits_for(&self) -> String {
        let Some(known) = self.copy.configuration() else {
            return "this copy waits for a majority of the voters, to learn who leads".to_owned();
        };
        if known.holds(self.copy.me) {
            return format!("this copy waits for its primary, {}", self.name(known.primary));
        }
        let others: Vec<NodeId> =
            known.in_sync.iter().map(|member| member.node).filter(|node| *node != self.me).collect();
        if others.is_empty() {
            return "this node was the only one with all answered writes, and its data of then is gone: put its \
                    directory back, or give them up with dkv takeover --accept-data-loss"
                .to_owned();
        }
        let names = self.names_of(&others);
        format!("this copy may lack answered writes: it waits for one that has all of them, {names}")
    }

    /// The address of a node.
    pub(super) fn name(&self, node: NodeId) -> &str {
        self.names.get(node.0 as usize).map_or("a node that is not in the table", String::as_str)
    }

    /// The addresses of nodes.
    pub(super) fn names_of(&self, nodes: &[NodeId]) -> String {
        nodes.iter().map(|node| self.name(*node)).collect::<Vec<_>>().join(", ")
    }

    /// Whether a read would be answered now on the strength of leases alone.
    #[must_use]
    pub fn may_read_now(&self) -> bool {
        self.copy.serves(self.store.committed()).is_ok() && self.has_read_right()
    }

    /// How many records this copy lacks of what its primary last said to have.
    #[must_use]
    pub fn lag_records(&self) -> u64 {
        let primary = self.my_shard.map(|shard| self.directory.primary(shard)).filter(|node| *node != self.me);
        let heard = primary.and_then(|node| self.directory.heard(node, self.now_ms));
        heard.map_or(0, |(heard, _)| heard.status.end.0.saturating_sub(self.store.end().0))
    }

    /// Of a full sync under way: the last record that has come, and the one that it is done with.
    #[must_use]
    pub fn full_sync(&self) -> Option<(Lsn, Lsn)> {
        self.follow.fresh.as_ref().map(|fresh| (fresh.store.end(), fresh.goal))
    }

    /// Whether this node's shard has a primary that serves, as far as this node can see.
    pub(super) fn has_primary(&self) -> bool {
        let Some(shard) = self.my_shard else { return true };
        let heard = self.directory.heard(self.directory.primary(shard), self.now_ms);
        self.state() == CopyState::Serving
            || heard.is_some_and(|(heard, is_up)| is_up && heard.status.is_primary && heard.status.ready)
    }
}
