//! Owns: who makes up a shard and a cluster, as values: configurations, ballots, the formation; and their bytes, which
//! are the same on the disk and between the nodes.
//!
//! Integers are little-endian. A list carries its length as u32; its elements follow. An option is 0, or 1 and the
//! value. What is read is checked against the invariants of its type, so that nothing behind has to.
//! Never: how they are agreed upon, and what follows from them.

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, NodeId, ShardId, Uuid};

/// A count that grows by one at a time never comes near this; one that was read and does is no count. So a step from
/// anything that was read cannot overflow.
const COUNT_MAX: u64 = 1 << 62;

/// A copy: a node and the content that it holds. A node whose directory was emptied is another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Where it is.
    pub node: NodeId,
    /// What it holds.
    pub store: Uuid,
}

/// So often can a shard be led by force: each time its log goes on 2^48 records further, and numbers end with 2^62.
pub const MOST_FORCED: u64 = (1 << 14) - 1;

/// What the register of a shard holds: who leads it, and which copies have everything that was ever answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// The number of a proposal. Unique for ever: the round grows within a process, and every start of a process draws
/// another `proposer`, so that neither a crash nor an old disk image brings one back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Ballot {
    /// Grows; 0 is below all proposals.
    pub round: u64,
    /// The incarnation of the process that proposes.
    pub proposer: Uuid,
}

/// A voter's memory: what answers under one id was never forgotten since. A voter that lost its memory takes a higher
/// id before it answers again; answers under a lower one are void from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct VoterId {
    /// How often it was re-seeded, at least.
    pub generation: u64,
    /// Tells two attempts of one generation apart.
    pub uuid: Uuid,
}

/// A voter: its node, and the id that it had when the cluster was formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Where it is.
    pub node: NodeId,
    /// Its first id.
    pub first: VoterId,
}

/// What all nodes have agreed upon once: that they are a cluster. It never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation {
    /// The cluster's id.
    pub cluster: Uuid,
    /// The fingerprint of the table that all of them held.
    pub fingerprint: u64,
    /// Who holds the registers. Sorted by node; at least one.
    pub voters: Vec<Seat>,
    /// What each node's directory held, by [`NodeId`].
    pub stores: Vec<Uuid>,
}

/// A value with bytes of its own.
pub trait Coded: Sized {
    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes it from the front; `None`: the bytes are not such a value.
    fn take(from: &mut &[u8]) -> Option<Self>;

    /// All of `bytes` as one value; `None`: they are not.
    #[must_use]
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let value = Self::take(&mut bytes)?;
        bytes.is_empty().then_some(value)
    }

    /// Its bytes.
    #[must_use]
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                let (head, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_le_bytes(*head))
            }
        }
    )*};
}
integer!(u8, u32, u64, u128);

/// [`Coded`] for a struct: its fields one after the other.
macro_rules! fields {
    ($type:ident { $($field:ident),* }) => {
        impl $crate::configuration::Coded for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::configuration::Coded::put(&self.$field, out);)*
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                $(let $field = $crate::configuration::Coded::take(from)?;)*
                Some(Self { $($field),* })
            }
        }
    };
}
pub(crate) use fields;
fields!(Member { node, store });
fields!(Seat { node, first });

/// A number in a newtype.
macro_rules! newtype {
    ($($type:ident),*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                Coded::take(from).map(Self)
            }
        }
    )*};
}
newtype!(Uuid, NodeId, ShardId);

impl<T: Coded> Coded for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("no list here is longer than the cluster has nodes").put(out);
        self.iter().for_each(|element| element.put(out));
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        let count = u32::take(from)?;
        // Not allocated ahead: the count is only believed as far as elements follow.
        (0..count).map(|_| T::take(from)).collect()
    }
}

impl<T: Coded> Coded for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(self.is_some()).put(out);
        self.iter().for_each(|value| value.put(out));
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            0 => Some(None),
            1 => T::take(from).map(Some),
            _ => None,
        }
    }
}

fn take_count(from: &mut &[u8]) -> Option<u64> {
    u64::take(from).filter(|count| *count < COUNT_MAX)
}

impl Coded for Ballot {
    fn put(&self, out: &mut Vec<u8>) {
        self.round.put(out);
        self.proposer.put(out);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self { round: take_count(from)?, proposer: Uuid::take(from)? })
    }
}

impl Coded for VoterId {
    fn put(&self, out: &mut Vec<u8>) {
        self.generation.put(out);
        self.uuid.put(out);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self { generation: take_count(from)?, uuid: Uuid::take(from)? })
    }
}

impl Coded for Configuration {
    fn put(&self, out: &mut Vec<u8>) {
        self.version.put(out);
        self.epoch.0.put(out);
        self.forced.put(out);
        self.primary.put(out);
        self.in_sync.put(out);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        let (version, epoch, forced) = (take_count(from)?, take_count(from)?, take_count(from)?);
        let value =
            Self { version, epoch: Epoch(epoch), primary: NodeId::take(from)?, in_sync: Vec::take(from)?, forced };
        let is_sorted = value.in_sync.is_sorted_by(|a, b| a.node < b.node);
        (is_sorted && forced <= MOST_FORCED && value.member(value.primary).is_some()).then_some(value)
    }
}

impl Coded for Formation {
    fn put(&self, out: &mut Vec<u8>) {
        self.cluster.put(out);
        self.fingerprint.put(out);
        self.voters.put(out);
        self.stores.put(out);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        let value = Self {
            cluster: Uuid::take(from)?,
            fingerprint: u64::take(from)?,
            voters: Vec::take(from)?,
            stores: Vec::take(from)?,
        };
        let is_sorted = value.voters.is_sorted_by(|a, b| a.node < b.node);
        let last = value.voters.last()?.node.0 as usize;
        (is_sorted && last < value.stores.len()).then_some(value)
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
    /// An operator makes this copy the primary, alone, whatever was answered before. Applicable [`MOST_FORCED`] times.
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
            Change::Force(_) if now.forced >= MOST_FORCED => return None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn count() -> impl Strategy<Value = u64> {
        0..COUNT_MAX
    }

    fn uuid() -> impl Strategy<Value = Uuid> {
        any::<u128>().prop_map(Uuid)
    }

    fn configuration() -> impl Strategy<Value = Configuration> {
        let members = vec((0u32..9, uuid()), 1..6);
        (count(), count(), 0..=MOST_FORCED, members, any::<prop::sample::Index>()).prop_map(
            |(version, epoch, forced, members, primary)| {
                let mut in_sync: Vec<Member> =
                    members.into_iter().map(|(node, store)| Member { node: NodeId(node), store }).collect();
                in_sync.sort_unstable();
                in_sync.dedup_by_key(|member| member.node);
                let primary = in_sync[primary.index(in_sync.len())].node;
                Configuration { version, epoch: Epoch(epoch), primary, in_sync, forced }
            },
        )
    }

    fn formation() -> impl Strategy<Value = Formation> {
        let ids = vec((count(), uuid()), 1..8);
        (uuid(), any::<u64>(), ids, vec(uuid(), 8..12)).prop_map(|(cluster, fingerprint, ids, stores)| {
            let first = |(generation, uuid)| VoterId { generation, uuid };
            let seat = |(node, id)| Seat { node: NodeId(node), first: first(id) };
            Formation { cluster, fingerprint, voters: (0..).zip(ids).map(seat).collect(), stores }
        })
    }

    fn comes_back<T: Coded + PartialEq + std::fmt::Debug>(value: &T) {
        let bytes = value.encode();
        assert_eq!(T::decode(&bytes).as_ref(), Some(value));
        for cut in 0..bytes.len() {
            assert_eq!(T::decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back(
            value in configuration(),
            formation in formation(),
            (round, proposer) in (count(), uuid()),
        ) {
            comes_back(&value);
            comes_back(&formation);
            comes_back(&Ballot { round, proposer });
            comes_back(&VoterId { generation: round, uuid: proposer });
            comes_back(&vec![Some(value), None]);
        }

        #[test]
        fn garbage_is_refused_or_a_lawful_value(bytes in vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200)) {
            if let Some(value) = Configuration::decode(&bytes) {
                prop_assert!(value.member(value.primary).is_some());
            }
            if let Some(value) = Formation::decode(&bytes) {
                prop_assert!(!value.voters.is_empty());
            }
            let _ = Vec::<Option<Ballot>>::decode(&bytes);
        }
    }

    /// One more, and its log could not be read again: its numbers would be none that a log can reach.
    #[test]
    fn a_shard_is_led_by_force_no_more_often_than_its_log_has_numbers_for() {
        let me = Member { node: NodeId(1), store: Uuid(1) };
        let before =
            |forced| Configuration { version: 1, epoch: Epoch(0), primary: NodeId(1), in_sync: vec![me], forced };
        let last = Change::Force(me).apply(&before(MOST_FORCED - 1)).unwrap();
        assert!(last.forced == MOST_FORCED && (last.forced + 1) << 48 == 1 << 62);
        assert_eq!(Change::Force(me).apply(&last), None);
        assert!(Change::Restart(me).apply(&last).is_some());
    }

    #[test]
    fn unlawful_values_are_refused() {
        let member = |node| Member { node: NodeId(node), store: Uuid(1) };
        let good =
            Configuration { version: 1, epoch: Epoch(0), primary: NodeId(1), in_sync: vec![member(1)], forced: 0 };
        assert!(Configuration::decode(&good.encode()).is_some());
        for bad in [
            Configuration { primary: NodeId(2), ..good.clone() },
            Configuration { in_sync: vec![], ..good.clone() },
            Configuration { in_sync: vec![member(2), member(1)], ..good.clone() },
            Configuration { in_sync: vec![member(1), member(1)], ..good.clone() },
            Configuration { version: COUNT_MAX, ..good.clone() },
            Configuration { forced: MOST_FORCED + 1, ..good.clone() },
        ] {
            assert_eq!(Configuration::decode(&bad.encode()), None, "{bad:?}");
        }
        assert_eq!(Vec::<u8>::decode(&u32::MAX.to_le_bytes()), None, "a list is believed as far as it goes");
    }
}
