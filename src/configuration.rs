//! Owns: who makes up a shard and a cluster, as values: configurations, ballots, the formation; and their bytes, which
//! are the same on the disk and between the nodes.
//! Never: how they are agreed upon, and what follows from them.

use crate::id::{Epoch, NodeId, Uuid};

/// A copy: a node and the content that it holds. A node whose directory was emptied is another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Where it is.
    pub node: NodeId,
    /// What it holds.
    pub store: Uuid,
}

/// What the register of a shard holds: who leads it, and which copies have everything that was ever answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Raised by one with every chosen change; compare-and-swap compares it.
    pub version: u64,
    /// Raised with every change of the primary, and with every start of it.
    pub epoch: Epoch,
    /// Who leads. It is one of `in_sync`.
    pub primary: NodeId,
    /// The copies that hold every answered write. Sorted.
    pub in_sync: Vec<Member>,
    /// How often a copy was made the primary by force, at the price of answered writes.
    pub forced: u64,
}

impl Configuration {
    /// Whether this very copy is in sync.
    #[must_use]
    pub fn holds(&self, member: Member) -> bool {
        self.in_sync.contains(&member)
    }

    /// The member of this node, if it is in sync.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<Member> {
        self.in_sync.iter().copied().find(|member| member.node == node)
    }
}

/// A change that one copy asks for. It is applied to what the register holds, or it is not applicable, and nothing
/// changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// None: to learn what is chosen.
    Observe,
    /// The primary (re)starts: a new epoch. Applicable where this member is in sync and its node the primary.
    Restart(Member),
    /// An in-sync copy leads from now on. Applicable in this epoch, where it is in sync and not the primary.
    TakeOver {
        /// Who takes over.
        by: Member,
        /// The epoch that it followed.
        epoch: Epoch,
        /// Whether the primary so far stays in sync: it stopped by itself, in order.
        keeps_old: bool,
    },
    /// The primary removes a copy. Applicable in this epoch.
    Shrink {
        /// The primary's epoch.
        epoch: Epoch,
        /// Who is removed.
        member: Member,
    },
    /// The primary takes a copy in (in the place of an older one of its node). Applicable in this epoch.
    Grow {
        /// The primary's epoch.
        epoch: Epoch,
        /// Who is taken in.
        member: Member,
    },
    /// An operator makes this copy the primary, alone, whatever was answered before.
    Force(Member),
}

impl Change {
    /// What comes of it; `None`: it is not applicable to what is chosen.
    #[must_use]
    pub fn apply(&self, now: &Configuration) -> Option<Configuration> {
        let mut next = Configuration { version: now.version + 1, ..now.clone() };
        match *self {
            Change::Observe => return None,
            Change::Restart(me) => {
                if now.primary != me.node || !now.holds(me) {
                    return None;
                }
                next.epoch.0 += 1;
            }
            Change::TakeOver { by, epoch, keeps_old } => {
                if now.epoch != epoch || now.primary == by.node || !now.holds(by) {
                    return None;
                }
                next.epoch.0 += 1;
                next.primary = by.node;
                next.in_sync.retain(|member| keeps_old || member.node != now.primary);
            }
            Change::Shrink { epoch, member } => {
                if now.epoch != epoch || !now.holds(member) || member.node == now.primary {
                    return None;
                }
                next.in_sync.retain(|other| *other != member);
            }
            Change::Grow { epoch, member } => {
                if now.epoch != epoch || now.holds(member) || member.node == now.primary {
                    return None;
                }
                next.in_sync.retain(|other| other.node != member.node);
                next.in_sync.push(member);
                next.in_sync.sort_unstable();
            }
            Change::Force(me) => {
                next.epoch.0 += 1;
                next.primary = me.node;
                next.in_sync = vec![me];
                next.forced += 1;
            }
        }
        Some(next)
    }
}
