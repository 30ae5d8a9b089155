//! Owns: what the model's world is made of, as small values that are quick to copy and to hash.
//! Never: what may happen to it.

use dkv::configuration::{Change, Configuration, Member};
use dkv::id::{Epoch, NodeId, Uuid};

/// Nodes 0 and 1 hold the shard's copies; node 2 is the witness. All three vote.
pub(super) const COPIES: usize = 2;
pub(super) const VOTERS: usize = 3;
/// One more than the highest ballot that any instance uses.
pub(super) const BALLOTS: usize = 14;
/// The longest log of any instance.
pub(super) const RECORDS: usize = 3;
/// One more than the highest version that any instance reaches.
pub(super) const VERSIONS: usize = 9;

/// A number of a store; 0: none.
pub(super) type Store = u8;
/// The ids of all voters as one of them knows them, its own among them: how often each has lost its memory.
pub(super) type Table = [u8; VOTERS];

/// A [`Configuration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Conf {
    pub version: u8,
    pub epoch: u8,
    pub primary: u8,
    /// By node: the store that is in sync.
    pub in_sync: [Store; COPIES],
}

pub(super) fn member(node: usize, store: Store) -> Member {
    Member { node: NodeId(node as u32), store: Uuid(u128::from(store)) }
}

impl Conf {
    pub fn holds(&self, node: usize, store: Store) -> bool {
        store != 0 && self.in_sync[node] == store
    }

    pub fn has_both(&self) -> bool {
        self.in_sync.iter().all(|store| *store != 0)
    }

    fn real(&self) -> Configuration {
        let members = self.in_sync.iter().enumerate().filter(|(_, store)| **store != 0);
        Configuration {
            version: u64::from(self.version),
            epoch: Epoch(u64::from(self.epoch)),
            primary: NodeId(u32::from(self.primary)),
            in_sync: members.map(|(node, store)| member(node, *store)).collect(),
            forced: 0,
        }
    }

    fn of(real: &Configuration) -> Self {
        let mut in_sync = [0; COPIES];
        for member in &real.in_sync {
            in_sync[member.node.0 as usize] = member.store.0 as Store;
        }
        Self { version: real.version as u8, epoch: real.epoch.0 as u8, primary: real.primary.0 as u8, in_sync }
    }

    /// What comes of it by the product's own rule.
    pub fn changed_by(&self, change: &Change) -> Option<Self> {
        change.apply(&self.real()).map(|next| Self::of(&next))
    }
}

/// A [`Change`]; of whom it speaks is clear from who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ask {
    Observe,
    Restart,
    TakeOver { epoch: u8, keeps_old: bool },
    Shrink { epoch: u8, other: Store },
    Grow { epoch: u8, other: Store },
}

impl Ask {
    pub fn real(self, by: usize, own: Store) -> Change {
        let (me, other) = (member(by, own), |store| member(1 - by, store));
        let epoch_of = |epoch: u8| Epoch(u64::from(epoch));
        match self {
            Ask::Observe => Change::Observe,
            Ask::Restart => Change::Restart(me),
            Ask::TakeOver { epoch, keeps_old } => Change::TakeOver { by: me, epoch: epoch_of(epoch), keeps_old },
            Ask::Shrink { epoch, other: store } => Change::Shrink { epoch: epoch_of(epoch), member: other(store) },
            Ask::Grow { epoch, other: store } => Change::Grow { epoch: epoch_of(epoch), member: other(store) },
        }
    }
}

/// A voter's memory. What it says of its registers is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Voter {
    pub is_mute: bool,
    pub promised: u8,
    /// The ballot of the proposal.
    pub accepted: Option<u8>,
    pub table: Table,
    /// While it is mute: what the others have answered to its new id.
    pub seeds: [Option<Seed>; VOTERS],
}

/// What a voter tells one that lost its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Seed {
    pub promised: u8,
    pub accepted: Option<u8>,
    pub table: Table,
}

/// A voter's answer to a round. It may be on its way for as long as the round takes; whom a round counts is chosen
/// when it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    pub table: Table,
    /// A promise tells of this.
    pub accepted: Option<u8>,
}

/// A round that a copy's node leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Round {
    pub ask: Ask,
    pub ballot: u8,
    /// The second half has begun; whether the change is in what is proposed.
    pub accepting: Option<bool>,
    pub answers: [Option<Answer>; VOTERS],
    /// A bit for each ballot under which it has proposed what its change made.
    pub sent: u16,
    /// The newest version that was chosen when this ballot began: no less may come of it.
    pub floor: u8,
}

/// A record: which write it is, in which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Record {
    pub epoch: u8,
    pub write: u8,
}

/// A log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Log {
    records: [Record; RECORDS],
    pub end: u8,
}

impl Log {
    pub fn records(&self) -> &[Record] {
        &self.records[..usize::from(self.end)]
    }

    pub fn push(&mut self, record: Record) {
        self.records[usize::from(self.end)] = record;
        self.end += 1;
    }

    pub fn cut(&mut self, end: u8) {
        self.records[usize::from(end)..].fill(Record::default());
        self.end = end;
    }

    pub fn begins_with(&self, other: &Log) -> bool {
        self.records().starts_with(other.records())
    }
}

/// A beacon or its grant on the way; how long ago the beacon was sent, on the primary's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Empty,
    Beacon(u8),
    Grant(u8),
}

/// A copy that leads, and what it knows of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lead {
    pub begins_behind: u8,
    pub is_settled: bool,
    pub committed: u8,
    /// The other copy takes records; which it said it is.
    pub is_up: bool,
    pub other: Store,
    pub is_whole: bool,
    pub acked: u8,
    /// Required on its way into the configuration.
    pub is_joining: bool,
    /// How much longer the lease runs, on this copy's clock.
    pub lease: u8,
    pub lane: Lane,
    /// A read that would be stale waits for a confirmation; whether it has come. Other reads need not be followed.
    pub stale_read: Option<bool>,
}

/// A primary's word, on its way, that it has stopped and the other is to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Told {
    pub to: u8,
    pub epoch: u8,
    pub keeps_old: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Unknown,
    Following {
        primary: u8,
        is_matched: bool,
    },
    Candidate(Ask),
    Leading(Lead),
    /// It stopped in its epoch for good.
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Copy {
    pub store: Store,
    pub is_whole: bool,
    pub log: Log,
    pub epoch: u8,
    /// The version of the newest configuration that it knows; 0: none.
    pub known: u8,
    pub has_observed: bool,
    pub role: Role,
    /// How much longer it does not take over, on its clock.
    pub grace: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub voters: [Voter; VOTERS],
    /// By ballot: what was proposed under it. Whoever was asked to accept it may be so at any later time.
    pub proposals: [Option<Conf>; BALLOTS],
    pub rounds: [Option<Round>; COPIES],
    pub copies: [Copy; COPIES],
    /// A primary that stopped tells the copy at this node to lead.
    pub told: Option<Told>,
    /// Whether the first copy's clock has gained a tick on the second's.
    pub is_ahead: bool,
    /// By node: its highest ballot so far.
    pub used: [u8; COPIES],
    /// What has happened of what is bounded.
    pub rounds_begun: u8,
    pub writes: u8,
    pub crashes: u8,
    pub wipes: u8,
    pub handovers: u8,
    /// What the invariants speak of: by version, the configuration that is chosen; the records that were ever
    /// committed, and so answered or seen; and what must not happen.
    pub chosen: [Option<Conf>; VERSIONS],
    pub ledger: Log,
    pub has_forked: bool,
    pub has_forgotten: bool,
    pub has_diverged: bool,
    pub has_read_stale: bool,
}

impl State {
    /// The newest configuration that is chosen.
    pub fn newest(&self) -> Conf {
        self.chosen.iter().rev().find_map(|conf| *conf).expect("the first is chosen from the beginning")
    }

    /// The configuration of this version, which is chosen.
    pub fn conf(&self, version: u8) -> Option<Conf> {
        self.chosen[usize::from(version)]
    }

    pub fn lead(&self, node: usize) -> Option<&Lead> {
        if let Role::Leading(lead) = &self.copies[node].role { Some(lead) } else { None }
    }

    pub fn lead_mut(&mut self, node: usize) -> Option<&mut Lead> {
        if let Role::Leading(lead) = &mut self.copies[node].role { Some(lead) } else { None }
    }

    /// Whether the other copy is required of the primary at `node`: the configuration has it, or it is being taken in.
    pub fn requires_other(&self, node: usize) -> bool {
        let conf = self.conf(self.copies[node].known);
        self.lead(node).is_some_and(|lead| lead.is_joining || conf.is_some_and(|conf| conf.in_sync[1 - node] != 0))
    }

    /// Whether this node may answer a read from what it has, at this moment of true time.
    pub fn may_read(&self, node: usize) -> bool {
        self.lead(node).is_some_and(|lead| lead.is_settled && (!self.requires_other(node) || lead.lease > 0))
    }
}
