//! Owns: a voter's memory: for each register the highest promise and the highest accepted proposal (CASPaxos: Rystsov
//! 2018, arXiv:1802.07000), the ids of all voters as recorded, and the bytes of it all, the voter file.
//!
//! Invariants: a promise never falls; nothing below it is accepted; a recorded id never falls. An answer leaves only
//! when what it says is durable: the caller sees to it.
//! Never: who asks, and why.

use super::message::{Message, Slot, Vote, Voucher};
use crate::configuration::{Ballot, Coded, Configuration, Formation, VoterId, fields};
use crate::id::ShardId;

/// The version of the voter file.
const VERSION: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acceptor {
    id: VoterId,
    /// By seat, one's own among them. Empty before the cluster was formed.
    table: Vec<VoterId>,
    /// By shard. Empty before the cluster was formed.
    slots: Vec<Slot>,
}
fields!(Acceptor { id, table, slots });

impl Acceptor {
    /// A voter of a cluster to come.
    pub(super) fn fresh(id: VoterId) -> Self {
        Self { id, table: Vec::new(), slots: Vec::new() }
    }

    /// One that was re-seeded.
    pub(super) fn seeded(id: VoterId, table: Vec<VoterId>, slots: Vec<Slot>) -> Self {
        Self { id, table, slots }
    }

    /// This memory as that of the voter at `seat`, in a cluster of so many shards; `None`: it is another's, or of
    /// another table. A first id must be the one that the cluster was formed with; a later one was taken with the
    /// consent of a majority.
    pub(super) fn seated(mut self, formation: &Formation, seat: usize, shards: usize) -> Option<Self> {
        if self.id.generation == 0 && self.id != formation.voters[seat].first {
            return None;
        }
        if self.id.generation == 0 && self.table.is_empty() && self.slots.is_empty() {
            self.table = formation.voters.iter().map(|seat| seat.first).collect();
            self.slots = vec![Slot::default(); shards];
        }
        (self.table.len() == formation.voters.len() && self.slots.len() == shards).then_some(self)
    }

    pub(super) fn to_file(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        self.put(&mut bytes);
        bytes
    }

    pub(super) fn from_file(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        (*version == VERSION).then(|| Self::decode(rest)).flatten()
    }

    pub(super) fn id(&self) -> VoterId {
        self.id
    }

    pub(super) fn table(&self) -> &[VoterId] {
        &self.table
    }

    /// How many registers it holds; 0: nothing was accepted before the cluster was formed.
    pub(super) fn shards(&self) -> usize {
        self.slots.len()
    }

    /// By shard: what was accepted last.
    pub(super) fn accepted(&self) -> impl Iterator<Item = &Option<Vote>> {
        self.slots.iter().map(|slot| &slot.accepted)
    }

    pub(super) fn promised(&self, shard: ShardId) -> Ballot {
        self.slots[shard.0 as usize].promised
    }

    #[cfg(test)]
    pub(super) fn has_vote(&self, shard: ShardId) -> bool {
        self.slots.get(shard.0 as usize).is_some_and(|slot| slot.accepted.is_some())
    }

    fn voucher(&self) -> Voucher {
        Voucher { id: self.id, table: self.table.clone() }
    }

    /// The answer to a prepare, and whether the memory has changed. Asked again, it answers again.
    pub(super) fn prepare(&mut self, shard: ShardId, ballot: Ballot) -> (Message, bool) {
        let voucher = self.voucher();
        let slot = &mut self.slots[shard.0 as usize];
        if ballot < slot.promised {
            return (Message::Nack { shard, ballot, promised: slot.promised }, false);
        }
        let is_new = ballot > slot.promised;
        slot.promised = ballot;
        (Message::Promise { shard, ballot, voucher, accepted: slot.accepted.clone() }, is_new)
    }

    /// The answer to an accept, and whether the memory has changed. Asked again, it answers again.
    pub(super) fn accept(&mut self, shard: ShardId, ballot: Ballot, value: Configuration) -> (Message, bool) {
        let voucher = self.voucher();
        let slot = &mut self.slots[shard.0 as usize];
        if ballot < slot.promised {
            return (Message::Nack { shard, ballot, promised: slot.promised }, false);
        }
        let vote = Some(Vote { ballot, value });
        let is_new = slot.accepted != vote;
        slot.promised = ballot;
        slot.accepted = vote;
        (Message::Accepted { shard, ballot, voucher }, is_new)
    }

    /// The answer to a voter that takes a new id, and whether the memory has changed. The registers in it are those of
    /// this very moment: whoever is answered after it is told the id.
    pub(super) fn record(&mut self, seat: usize, id: VoterId) -> (Message, bool) {
        if id < self.table[seat] {
            return (Message::Outdated { voucher: self.voucher() }, false);
        }
        let is_new = id > self.table[seat];
        self.table[seat] = id;
        (Message::Seed { id, voucher: self.voucher(), slots: self.slots.clone() }, is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Member, Seat};
    use crate::id::{Epoch, NodeId, Uuid};

    const SHARD: ShardId = ShardId(1);

    fn ballot(round: u64, proposer: u128) -> Ballot {
        Ballot { round, proposer: Uuid(proposer) }
    }

    fn value(version: u64) -> Configuration {
        let member = Member { node: NodeId(0), store: Uuid(1) };
        Configuration { version, epoch: Epoch(0), primary: NodeId(0), in_sync: vec![member], forced: 0 }
    }

    fn first(seat: u32) -> VoterId {
        VoterId { generation: 0, uuid: Uuid(u128::from(seat) + 100) }
    }

    fn formation() -> Formation {
        let voters = (0..3).map(|seat| Seat { node: NodeId(seat), first: first(seat) }).collect();
        Formation { cluster: Uuid(9), fingerprint: 1, voters, stores: vec![Uuid(1); 3] }
    }

    fn acceptor() -> Acceptor {
        Acceptor::fresh(first(0)).seated(&formation(), 0, 2).unwrap()
    }

    #[test]
    fn a_promise_binds_and_tells_what_was_accepted() {
        let mut acceptor = acceptor();
        assert!(matches!(acceptor.prepare(SHARD, ballot(1, 5)), (Message::Promise { accepted: None, .. }, true)));
        assert!(matches!(acceptor.prepare(SHARD, ballot(1, 5)), (Message::Promise { .. }, false)), "asked again");
        assert!(matches!(acceptor.accept(SHARD, ballot(1, 5), value(2)), (Message::Accepted { .. }, true)));
        assert!(matches!(acceptor.accept(SHARD, ballot(1, 5), value(2)), (Message::Accepted { .. }, false)));
        let (Message::Promise { accepted: Some(vote), .. }, true) = acceptor.prepare(SHARD, ballot(1, 6)) else {
            panic!("a higher proposer wins a round's tie");
        };
        assert_eq!(vote, Vote { ballot: ballot(1, 5), value: value(2) });
        let nack = Message::Nack { shard: SHARD, ballot: ballot(1, 5), promised: ballot(1, 6) };
        assert_eq!(acceptor.accept(SHARD, ballot(1, 5), value(3)), (nack.clone(), false));
        assert_eq!(acceptor.prepare(SHARD, ballot(1, 5)), (nack, false));
        assert_eq!(acceptor.promised(ShardId(0)), Ballot::default(), "the other register is untouched");
    }

    #[test]
    fn an_accept_promises() {
        let mut acceptor = acceptor();
        acceptor.accept(SHARD, ballot(4, 1), value(2));
        assert!(matches!(acceptor.prepare(SHARD, ballot(3, 1)), (Message::Nack { .. }, false)));
    }

    #[test]
    fn a_recorded_id_only_rises_and_comes_with_all_that_is_known() {
        let mut acceptor = acceptor();
        acceptor.accept(SHARD, ballot(4, 1), value(2));
        let id = |generation, uuid| VoterId { generation, uuid: Uuid(uuid) };
        let (Message::Seed { slots, voucher, .. }, true) = acceptor.record(2, id(1, 7)) else { panic!() };
        assert_eq!(slots[1].accepted, Some(Vote { ballot: ballot(4, 1), value: value(2) }));
        assert_eq!(voucher.table, [first(0), first(1), id(1, 7)]);
        assert!(matches!(acceptor.record(2, id(1, 7)), (Message::Seed { .. }, false)), "asked again");
        assert!(matches!(acceptor.record(2, id(1, 6)), (Message::Outdated { .. }, false)));
        let (Message::Promise { voucher, .. }, _) = acceptor.prepare(SHARD, ballot(5, 1)) else { panic!() };
        assert_eq!(voucher.table[2], id(1, 7), "every answer tells it");
    }

    #[test]
    fn the_file_brings_it_back_and_no_other_voter_takes_it() {
        let mut acceptor = acceptor();
        acceptor.accept(SHARD, ballot(4, 1), value(2));
        let file = acceptor.to_file();
        let back = Acceptor::from_file(&file).unwrap();
        assert_eq!(back.clone().seated(&formation(), 0, 2), Some(acceptor));
        assert_eq!(back.clone().seated(&formation(), 1, 2), None, "another seat");
        assert_eq!(back.seated(&formation(), 0, 3), None, "another table");
        let later = Acceptor::fresh(VoterId { generation: 1, ..first(0) });
        assert_eq!(later.seated(&formation(), 0, 2), None, "a later id without the memory that came with it");
        for cut in 0..file.len() {
            assert_eq!(Acceptor::from_file(&file[..cut]), None);
        }
        assert_eq!(Acceptor::from_file(&[&[VERSION + 1], &file[1..]].concat()), None, "a later version");
    }
}
