//! Owns: what nodes say to each other about registers and the formation, and its bytes: a kind, then the fields, as
//! [`Coded`] has them.
//! Never: what a message leads to; frames, checksums.

use serde::{Deserialize, Serialize};

use crate::configuration::{Ballot, Coded, Configuration, Formation, VoterId, fields};
use crate::id::{NodeId, ShardId, Uuid};

/// A proposal that a voter accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Under which ballot.
    pub ballot: Ballot,
    /// What was proposed.
    pub value: Configuration,
}
fields!(Vote { ballot, value });

/// One register as one voter holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Slot {
    /// No proposal below this is accepted any more.
    pub(super) promised: Ballot,
    /// The highest proposal that was accepted.
    pub(super) accepted: Option<Vote>,
}
fields!(Slot { promised, accepted });

/// A proposal of the formation that a node accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Founding {
    pub(super) ballot: Ballot,
    pub(super) value: Formation,
}
fields!(Founding { ballot, value });

/// Who answers: a voter under its id, with the ids of all voters as it has recorded them, in the formation's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Voucher {
    pub(super) id: VoterId,
    pub(super) table: Vec<VoterId>,
}
fields!(Voucher { id, table });

macro_rules! messages {
    ($($(#[$doc:meta])* $kind:literal $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) enum Message { $($(#[$doc])* $name { $($field: $type),* }),* }

        impl Coded for Message {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name { $($field),* } => {
                        Coded::put(&$kind, out);
                        $($field.put(out);)*
                    })*
                }
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                Some(match u8::take(from)? {
                    $($kind => Self::$name { $($field: Coded::take(from)?),* },)*
                    _ => return None,
                })
            }
        }
    };
}

messages! {
    /// Is the cluster formed? Answered with `Formed`, by the founder also with `NotYet`, or not at all.
    1u8 Ask {}
    /// It is. Also sent unasked.
    2u8 Formed { formation: Formation }
    /// The founder prepares.
    3u8 FormPrepare { ballot: Ballot }
    /// The answer, with what the formation needs of a node.
    4u8 FormPromise { ballot: Ballot, store: Uuid, voter: VoterId, accepted: Option<Founding> }
    /// The founder proposes.
    5u8 FormAccept { ballot: Ballot, formation: Formation }
    /// The answer.
    6u8 FormAccepted { ballot: Ballot }
    /// The other answer to both: not under this ballot.
    7u8 FormNack { ballot: Ballot, promised: Ballot }
    /// It is not: the founder waits for these nodes.
    8u8 NotYet { waits_for: Vec<NodeId> }

    /// A proposer prepares; `to` is the voter's id as the proposer knows it.
    10u8 Prepare { shard: ShardId, ballot: Ballot, to: VoterId }
    /// The answer.
    11u8 Promise { shard: ShardId, ballot: Ballot, voucher: Voucher, accepted: Option<Vote> }
    /// A proposer proposes.
    12u8 Accept { shard: ShardId, ballot: Ballot, to: VoterId, value: Configuration }
    /// The answer.
    13u8 Accepted { shard: ShardId, ballot: Ballot, voucher: Voucher }
    /// The other answer to both: a higher ballot was promised.
    14u8 Nack { shard: ShardId, ballot: Ballot, promised: Ballot }

    /// A voter without memory takes this id.
    20u8 Record { id: VoterId }
    /// It is recorded; all that the answering voter holds.
    21u8 Seed { id: VoterId, voucher: Voucher, slots: Vec<Slot> }
    /// It is not: a higher one is known.
    22u8 Outdated { voucher: Voucher }
}

impl Message {
    /// The register that it is about.
    pub(super) fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Prepare { shard, .. }
            | Self::Promise { shard, .. }
            | Self::Accept { shard, .. }
            | Self::Accepted { shard, .. }
            | Self::Nack { shard, .. } => Some(*shard),
            _ => None,
        }
    }
}

/// What follows from an event: to be done in the order of the fields.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// The voter's state has changed.
    pub(super) save_voter: bool,
    /// The formation's state has changed.
    pub(super) save_formation: bool,
    /// The answer to the message at hand. **It leaves when all that was handed out to be persisted is durable.**
    pub(super) answer: Option<Message>,
    /// New requests. They rest on nothing of one's own disk.
    pub(super) requests: Vec<(NodeId, Message)>,
    /// Rounds that are through.
    pub(super) settled: Vec<super::Settled>,
}
