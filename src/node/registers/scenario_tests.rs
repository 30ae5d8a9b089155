//! The stories that a reader should know, one at a time, without chance in what goes wrong.

use super::sim_tests::{Planted, Sim, table};
use super::*;
use crate::configuration::{Ballot, Seat, VoterId};
use crate::id::{ConnId, Epoch};

const SHARD: ShardId = ShardId(0);
const LINK: LinkId = LinkId(ConnId { slot: 0, generation: 0 });

/// Three nodes: two copies of one shard, and a witness.
fn three() -> Sim {
    Sim::new(1, table(&[2], 1), Planted::Nothing)
}

fn formed(mut sim: Sim) -> Sim {
    sim.start_all();
    assert!(sim.run_until(1_000, |sim| sim.counts.formed == sim.size() as u64));
    sim
}

fn settled(sim: &Sim) -> u64 {
    sim.counts.settled
}

#[test]
fn a_cluster_forms_once_its_last_node_is_there() {
    let mut sim = three();
    sim.start(0);
    sim.start(1);
    sim.run(5_000);
    assert!(sim.formation.is_none());
    assert_eq!(sim.standing(0), Standing::Forming { waits_for: vec![NodeId(2)] });
    assert_eq!(sim.standing(1), Standing::Forming { waits_for: vec![NodeId(2)] }, "it is told");
    let began_ms = sim.now_ms;
    sim.start(2);
    assert!(sim.run_until(1_000, |sim| sim.counts.formed == 3));
    assert!(sim.now_ms - began_ms < 200, "the link that comes up is used at once");
    assert_eq!(sim.formation.as_ref().unwrap().voters.len(), 3);
}

#[test]
fn nodes_wait_for_node_0() {
    let mut sim = three();
    sim.start(1);
    sim.start(2);
    sim.run(2_000);
    assert_eq!(sim.standing(2), Standing::Forming { waits_for: vec![NodeId(0)] });
}

#[test]
fn emptied_nodes_are_no_new_cluster_while_one_node_remembers() {
    for survivor in 0..4 {
        let mut sim = formed(Sim::new(2, table(&[2, 2], 0), Planted::Nothing));
        let others: Vec<usize> = (0..4).filter(|node| *node != survivor).collect();
        others.iter().for_each(|node| sim.wipe(*node));
        sim.crash(survivor);
        others.iter().for_each(|node| sim.start(*node));
        sim.run(5_000);
        assert!(others.iter().all(|node| matches!(sim.standing(*node), Standing::Forming { .. })));
        sim.start(survivor);
        sim.run(2_000);
        // The simulation checks that it is the same formation.
        assert_eq!(sim.counts.formed, 4 + 3);
        assert_eq!(sim.violation, None);
        assert!(others.iter().all(|node| !matches!(sim.standing(*node), Standing::Forming { .. })));
        assert!(!others.iter().any(|node| sim.standing(*node) == Standing::Voter), "and they know nothing");
    }
}

#[test]
fn a_formation_that_one_node_accepted_is_taken_over_by_an_emptied_founder() {
    let mut sim = three();
    sim.start_all();
    assert!(sim.run_until(1_000, |sim| sim.accepted_formation(1).is_some()));
    let value = sim.accepted_formation(1).unwrap();
    sim.wipe(0);
    sim.start(0);
    assert!(sim.run_until(1_000, |sim| sim.counts.formed == 3));
    assert_eq!(sim.formation, Some(value));
    assert_ne!(sim.standing(0), Standing::Forming { waits_for: vec![] }, "it knows that it was emptied");
}

#[test]
fn an_emptied_founder_goes_on_above_the_ballots_of_the_one_before() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, table(&[2], 1), Planted::Nothing);
        sim.start(0);
        sim.start(1);
        sim.run(500);
        sim.wipe(0);
        sim.start(0);
        sim.start(2);
        assert!(sim.run_until(1_000, |sim| sim.counts.formed == 3), "seed {seed}");
    }
}

#[test]
fn a_lone_round_takes_two_round_trips_even_after_others() {
    let mut sim = formed(three());
    for proposer in [0, 1, 2, 1] {
        let (began_ms, before) = (sim.now_ms, settled(&sim));
        sim.propose(proposer, SHARD, Change::Force(sim.member(proposer)));
        assert!(sim.run_until(1_000, |sim| settled(sim) > before));
        // Up to 10 ms a way, and rarely a slow disk; a resend or a pause would be seen.
        assert!(sim.now_ms - began_ms < 200, "took {} ms", sim.now_ms - began_ms);
    }
    assert_eq!(sim.counts.applied, 4);
}

#[test]
fn a_round_waits_for_a_majority_and_goes_on_when_a_link_comes_up() {
    let mut sim = formed(three());
    sim.crash(1);
    sim.crash(2);
    sim.propose(0, SHARD, Change::Restart(sim.member(0)));
    sim.run(3_000);
    assert_eq!(settled(&sim), 0);
    sim.start(2);
    assert!(sim.run_until(100, |sim| settled(sim) == 1));
}

#[test]
fn of_two_that_take_over_one_does() {
    for seed in 0..50 {
        let mut sim = formed(Sim::new(seed, table(&[3], 0), Planted::Nothing));
        for by in [1, 2] {
            sim.propose(by, SHARD, Change::TakeOver { by: sim.member(by), epoch: Epoch(0), keeps_old: false });
        }
        assert!(sim.run_until(3_000, |sim| settled(sim) == 2), "seed {seed}");
        assert_eq!(sim.counts.applied, 1, "seed {seed}");
        assert_eq!(sim.violation, None);
    }
}

#[test]
fn a_round_can_be_given_up_until_its_change_was_sent() {
    let mut sim = formed(three());
    sim.cut(0, true);
    sim.propose(0, SHARD, Change::Restart(sim.member(0)));
    sim.run(500);
    assert!(sim.withdraw(0, SHARD), "nobody has promised: nothing was sent");
    sim.propose(0, SHARD, Change::Restart(sim.member(0)));
    sim.cut(0, false);
    assert!(sim.run_until(500, |sim| sim.has_vote(1, SHARD) || sim.has_vote(2, SHARD)));
    sim.cut(0, true);
    assert!(!sim.withdraw(0, SHARD), "someone accepted it: it may be chosen");
    sim.run(500);
    assert_eq!(settled(&sim), 0);
    sim.cut(0, false);
    assert!(sim.run_until(500, |sim| settled(sim) == 1));
    assert_eq!(sim.counts.applied, 1, "its own value, found again, is its own");
}

#[test]
fn a_voter_without_memory_is_mute_until_the_others_have_told_it_all() {
    let mut sim = formed(three());
    sim.crash(2);
    sim.propose(0, SHARD, Change::Restart(sim.member(0)));
    assert!(sim.run_until(500, |sim| settled(sim) == 1));
    sim.lose_voter(1);
    sim.start(1);
    sim.run(2_000);
    assert_eq!(sim.standing(1), Standing::Mute { waits_for: vec![NodeId(2)] });
    sim.propose(0, SHARD, Change::Observe);
    sim.run(1_000);
    assert_eq!(settled(&sim), 1, "with the mute one it would be a majority");
    sim.start(2);
    let has_adopted = |sim: &Sim| sim.standing(1) == Standing::Voter && sim.has_vote(1, SHARD);
    assert!(sim.run_until(500, has_adopted), "what was chosen without it");
    assert!(sim.run_until(500, |sim| settled(sim) == 2));
    sim.crash(1);
    sim.start(1);
    assert_eq!(sim.standing(1), Standing::Voter, "for good");
}

#[test]
fn the_only_voter_of_two_nodes_serves_and_once_emptied_is_lost() {
    let mut sim = formed(Sim::new(3, table(&[2], 0), Planted::Nothing));
    assert_eq!((sim.standing(0), sim.standing(1)), (Standing::Voter, Standing::NoVoter));
    sim.propose(1, SHARD, Change::TakeOver { by: sim.member(1), epoch: Epoch(0), keeps_old: true });
    assert!(sim.run_until(500, |sim| sim.counts.applied == 1));
    sim.wipe(0);
    sim.start(0);
    sim.run(2_000);
    assert_eq!(sim.standing(0), Standing::Mute { waits_for: vec![] });
}

#[test]
fn an_old_voter_file_is_noticed_where_it_is_older_than_a_reseeding() {
    let mut sim = formed(three());
    let old = sim.voter_file(1);
    sim.lose_voter(1);
    sim.start(1);
    assert!(sim.run_until(500, |sim| sim.standing(1) == Standing::Voter));
    sim.run(200);
    sim.crash(1);
    sim.set_voter_file(1, old);
    sim.start(1);
    sim.propose(0, SHARD, Change::Restart(sim.member(0)));
    sim.run(20);
    assert!(sim.run_until(500, |sim| matches!(sim.standing(1), Standing::Mute { .. })), "it is told its later id");
    assert!(sim.run_until(500, |sim| sim.standing(1) == Standing::Voter));
}

fn identity(me: u32) -> Identity {
    Identity { me: NodeId(me), store: Uuid(5), incarnation: Uuid(6), fingerprint: 7, seed: 8 }
}

fn formation(fingerprint: u64) -> Formation {
    let seat = |node| Seat { node: NodeId(node), first: VoterId { generation: 0, uuid: Uuid(u128::from(node)) } };
    Formation { cluster: Uuid(1), fingerprint, voters: (0..3).map(seat).collect(), stores: vec![Uuid(5); 3] }
}

#[test]
fn what_was_persisted_for_another_table_or_by_another_version_is_not_started_with() {
    let formed = Kept { formed: Some(formation(9)), ..Kept::default() }.to_file();
    let start = |formation: &[u8], voter: Option<&[u8]>| {
        Registers::new(identity(0), table(&[2], 1), formation, voter).map(|_| ()).unwrap_err()
    };
    assert_eq!(start(&formed, None), BadStart::OtherTable { formed: 9 });
    let longer = Formation { stores: vec![Uuid(5); 4], ..formation(7) };
    assert_eq!(start(&formation_file(&longer), None), BadStart::OtherTable { formed: 7 });
    assert_eq!(start(&[9, 9], None), BadStart::Formation);
    assert_eq!(start(&[], Some(&[9, 9])), BadStart::Voter);
}

#[test]
fn a_formation_is_proposed_by_node_0_alone_and_is_one_of_the_table() {
    let is_heard = |from, message: Message| {
        let mut registers = Registers::new(identity(1), table(&[2], 1), &[], None).unwrap();
        let (before, mut out) = (registers.standing(), Outbox::default());
        registers.on_message(NodeId(from), LINK, &message.encode(), 0, &mut out).unwrap();
        out.persist_formation.is_some() || registers.standing() != before
    };
    let prepare = || Message::FormPrepare { ballot: Ballot { round: 1, proposer: Uuid(4) } };
    let accept = |formation| Message::FormAccept { ballot: Ballot::default(), formation };
    for (from, is_founder) in [(0, true), (2, false)] {
        assert_eq!(is_heard(from, prepare()), is_founder);
        assert_eq!(is_heard(from, accept(formation(7))), is_founder);
        assert_eq!(is_heard(from, Message::NotYet { waits_for: vec![NodeId(2)] }), is_founder);
        assert!(is_heard(from, Message::Formed { formation: formation(7) }), "what is formed is told by all");
    }
    for other in [formation(8), Formation { stores: vec![Uuid(5); 4], ..formation(7) }] {
        assert!(!is_heard(0, accept(other.clone())));
        assert!(!is_heard(0, Message::Formed { formation: other }));
    }
}

#[test]
fn who_waits_for_the_formation_asks_all_others_twice_a_second() {
    let mut registers = Registers::new(identity(1), table(&[2], 1), &[], None).unwrap();
    let mut asked = Vec::new();
    for now_ms in 0..=1_000 {
        let mut out = Outbox::default();
        registers.tick(now_ms, &mut out);
        asked.extend(out.requests.iter().map(|(node, _)| (now_ms, node.0)));
    }
    assert_eq!(asked, [(0, 0), (0, 2), (500, 0), (500, 2), (1_000, 0), (1_000, 2)]);
}

#[test]
fn no_bytes_of_a_node_make_it_panic() {
    let ballot = Ballot { round: 3, proposer: Uuid(4) };
    let voucher = message::Voucher { id: VoterId::default(), table: vec![VoterId::default(); 9] };
    let messages = [
        (false, Message::Prepare { shard: ShardId(1), ballot, to: VoterId::default() }),
        (true, Message::Seed { id: VoterId::default(), voucher: voucher.clone(), slots: vec![] }),
        (true, Message::Promise { shard: SHARD, ballot, voucher, accepted: None }),
        (true, Message::FormAccept { ballot, formation: formation(7) }),
        (true, Message::Formed { formation: formation(8) }),
    ];
    for at in [vec![], Kept { formed: Some(formation(7)), ..Kept::default() }.to_file()] {
        for (is_of_the_table, message) in &messages {
            let bytes = message.encode();
            for from in [0, 1, 2, 3] {
                for cut in 0..=bytes.len() {
                    let mut registers = Registers::new(identity(0), table(&[2], 1), &at, None).unwrap();
                    let mut out = Outbox::default();
                    let result = registers.on_message(NodeId(from), LINK, &bytes[..cut], 0, &mut out);
                    assert!(result.is_err() || (cut == bytes.len() && from < 3 && *is_of_the_table));
                }
            }
        }
    }
}
