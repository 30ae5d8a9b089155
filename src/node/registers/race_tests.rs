//! Interleavings that chance hardly meets: three voters whose messages are delivered by hand. Every disk is instant.

use std::collections::BTreeSet;

use super::formed::Formed;
use super::message::{Effects, Message};
use super::sim_tests::table;
use super::*;
use crate::configuration::{Member, Seat, VoterId};
use crate::id::ConnId;

const SHARD: ShardId = ShardId(0);

fn first(node: u32) -> VoterId {
    VoterId { generation: 0, uuid: Uuid(u128::from(node) + 100) }
}

fn member(node: u32) -> Member {
    Member { node: NodeId(node), store: Uuid(u128::from(node)) }
}

fn formation() -> Formation {
    let voters = (0..3).map(|node| Seat { node: NodeId(node), first: first(node) }).collect();
    let stores = (0..3).map(|node| member(node).store).collect();
    Formation { cluster: Uuid(1), fingerprint: 7, voters, stores }
}

fn identity(node: u32, incarnation: u128) -> Identity {
    Identity { me: NodeId(node), store: member(node).store, incarnation: Uuid(incarnation), fingerprint: 7, seed: 1 }
}

/// A voter with nothing in its registers, or without memory.
fn voter(node: u32, incarnation: u128, has_memory: bool) -> Formed {
    let memory = has_memory.then(|| Acceptor::fresh(first(node)));
    Formed::new(identity(node, incarnation), formation(), memory, &table(&[3], 0))
}

/// Delivers a message; gives the answer and the requests that follow.
fn tell(node: &mut Formed, from: u32, message: &Message) -> Effects {
    let mut fx = Effects::default();
    node.handle(NodeId(from), message.clone(), 0, &mut fx);
    fx
}

fn ask(node: &mut Formed, from: u32, message: &Message) -> Message {
    tell(node, from, message).answer.expect("it answers")
}

/// Proposes that `node` leads; gives the prepare.
fn propose(proposer: &mut Formed, node: u32) -> Message {
    let mut fx = Effects::default();
    assert!(proposer.propose(SHARD, Change::Force(member(node)), 0, &mut fx));
    fx.requests.swap_remove(0).1
}

/// The emptied voter 0, seeded by the other two.
fn reseed(a: &mut Formed, b: &mut Formed) -> Formed {
    let mut emptied = voter(0, 77, false);
    let mut fx = Effects::default();
    emptied.tick(0, &mut fx);
    let record = fx.requests.swap_remove(0).1;
    for (node, other) in [(1, a), (2, b)] {
        let seed = ask(other, 0, &record);
        tell(&mut emptied, node, &seed);
    }
    assert_eq!(emptied.standing(), Standing::Voter);
    emptied
}

#[test]
fn an_answer_from_before_the_loss_is_void_for_whoever_hears_of_the_loss() {
    let (mut v, mut a, mut b) = (voter(0, 10, true), voter(1, 11, true), voter(2, 12, true));
    // Node 2 proposes x; a has accepted it, the others have not heard.
    let low = propose(&mut b, 2);
    let promise = ask(&mut a, 2, &low);
    tell(&mut b, 1, &promise);
    let promise = ask(&mut b, 2, &low);
    let x = tell(&mut b, 2, &promise).requests.swap_remove(0).1;
    let accepted = ask(&mut a, 2, &x);
    tell(&mut b, 1, &accepted);
    // Node 1 prepares higher: v promises, without a vote, and loses its memory.
    let high = propose(&mut a, 1);
    let old_promise = ask(&mut v, 1, &high);
    let mut v = reseed(&mut a, &mut b);
    // It accepts x with a: chosen.
    let accepted = ask(&mut v, 2, &x);
    assert_eq!(tell(&mut b, 0, &accepted).settled.len(), 1);
    // With the old promise and b's, node 1 would have a majority that knows nothing of x.
    tell(&mut a, 0, &old_promise);
    let promise = ask(&mut b, 1, &high);
    assert!(tell(&mut a, 2, &promise).requests.is_empty(), "b has told it of the loss");
    let promise = ask(&mut v, 1, &high);
    let next = tell(&mut a, 0, &promise).requests;
    assert!(matches!(&next[0].1, Message::Accept { value, .. } if value.version == 3), "on top of x: {next:?}");
}

#[test]
fn a_promise_from_before_the_loss_binds_after_it() {
    let (mut v, mut a, mut b) = (voter(0, 10, true), voter(1, 11, true), voter(2, 12, true));
    // Node 2 may propose x: a and b have promised.
    let low = propose(&mut b, 2);
    let promise = ask(&mut a, 2, &low);
    tell(&mut b, 1, &promise);
    let promise = ask(&mut b, 2, &low);
    let x = tell(&mut b, 2, &promise).requests.swap_remove(0).1;
    // Node 1 may propose y, higher: v and a have promised. Then v loses its memory.
    let high = propose(&mut a, 1);
    for (node, promise) in [(0, ask(&mut v, 1, &high)), (1, ask(&mut a, 1, &high))] {
        tell(&mut a, node, &promise);
    }
    let mut v = reseed(&mut a, &mut b);
    // v and b would be a majority for x, and node 1 knows nothing of it.
    assert!(matches!(ask(&mut v, 2, &x), Message::Nack { .. }));
}

#[test]
fn a_voter_that_is_superseded_does_not_count_as_a_source_of_memory() {
    let (mut a, mut b) = (voter(1, 11, true), voter(2, 12, true));
    let mut emptied = voter(0, 77, false);
    let mut fx = Effects::default();
    emptied.tick(0, &mut fx);
    let record = fx.requests.swap_remove(0).1;
    // a answers, then turns out to have lost its memory since: b has recorded its later id.
    let seed = ask(&mut a, 0, &record);
    tell(&mut emptied, 1, &seed);
    ask(&mut b, 1, &Message::Record { id: VoterId { generation: 1, uuid: Uuid(9) } });
    let seed = ask(&mut b, 0, &record);
    tell(&mut emptied, 2, &seed);
    assert_eq!(emptied.standing(), Standing::Mute { waits_for: vec![NodeId(1)] });
}

#[test]
fn an_answer_to_an_attempt_that_was_given_up_or_without_all_registers_is_no_memory() {
    let (mut a, mut b) = (voter(1, 11, true), voter(2, 12, true));
    // An earlier start of node 0 came no further than this.
    ask(&mut b, 0, &Message::Record { id: VoterId { generation: 1, uuid: Uuid(99) } });
    let mut emptied = voter(0, 77, false);
    let mut fx = Effects::default();
    emptied.on_node_up(NodeId(1), &mut fx);
    let first = fx.requests.swap_remove(0).1;
    let seed_of_first = ask(&mut a, 0, &first);
    let outdated = ask(&mut b, 0, &first);
    let second = tell(&mut emptied, 2, &outdated).requests.swap_remove(0).1;
    tell(&mut emptied, 1, &seed_of_first);
    let seed = ask(&mut b, 0, &second);
    tell(&mut emptied, 2, &seed);
    let mute = Standing::Mute { waits_for: vec![NodeId(1)] };
    assert_eq!(emptied.standing(), mute);
    let Message::Seed { id, voucher, slots } = ask(&mut a, 0, &second) else { panic!("it records it") };
    tell(&mut emptied, 1, &Message::Seed { id, voucher: voucher.clone(), slots: vec![] });
    assert_eq!(emptied.standing(), mute);
    tell(&mut emptied, 1, &Message::Seed { id, voucher, slots });
    assert_eq!(emptied.standing(), Standing::Voter);
}

/// How long a round pauses after each collision, where it never comes further than to prepare.
fn pauses_ms(seed: u64) -> Vec<u64> {
    let identity = Identity { seed, ..identity(0, 10) };
    let mut node = Formed::new(identity, formation(), Some(Acceptor::fresh(first(0))), &table(&[3], 0));
    let Message::Prepare { mut ballot, .. } = propose(&mut node, 0) else { panic!("it prepares") };
    let mut now_ms = 0;
    let mut pause_ms = || {
        let (nack, met_ms) = (Message::Nack { shard: SHARD, ballot, promised: ballot }, now_ms);
        let mut fx = Effects::default();
        node.handle(NodeId(1), nack, now_ms, &mut fx);
        loop {
            let newer = fx.requests.iter().find_map(|(_, message)| match message {
                Message::Prepare { ballot: newer, .. } if *newer > ballot => Some(*newer),
                _ => None,
            });
            if let Some(newer) = newer {
                ballot = newer;
                return now_ms - met_ms;
            }
            now_ms += 1;
            node.tick(now_ms, &mut fx);
        }
    };
    (0..7).map(|_| pause_ms()).collect()
}

#[test]
fn a_round_that_collides_again_pauses_for_longer_each_time_and_rarely_for_as_long_as_another() {
    let all: Vec<Vec<u64>> = (0..400).map(pauses_ms).collect();
    for (at, most_ms) in [0, 20, 40, 80, 160, 200, 200].into_iter().enumerate() {
        let pauses: BTreeSet<u64> = all.iter().map(|pauses| pauses[at]).collect();
        assert!(pauses.iter().all(|ms| *ms <= most_ms), "{at}: {pauses:?}");
        assert!(pauses.len() as u64 >= most_ms / 2, "{at}: {pauses:?}");
    }
}

#[test]
fn a_founder_that_asks_again_is_answered_again() {
    let link = LinkId(ConnId { slot: 3, generation: 0 });
    let mut registers = Registers::new(identity(1, 11), table(&[3], 0), &[], None).unwrap();
    let prepare = Message::FormPrepare { ballot: crate::configuration::Ballot { round: 1, proposer: Uuid(3) } };
    let mut out = Outbox::default();
    for _ in 0..2 {
        registers.on_message(NodeId(0), link, &prepare.encode(), 0, &mut out).unwrap();
        let written = [out.persist_voter.take(), out.persist_formation.take()];
        written.into_iter().flatten().for_each(|(number, _)| registers.persisted(number, 0, &mut out));
    }
    let answers: Vec<_> = out.answers.iter().map(|(_, bytes)| Message::decode(bytes).unwrap()).collect();
    assert!(matches!(answers[..], [Message::FormPromise { .. }, Message::FormPromise { .. }]), "{answers:?}");
}

#[test]
fn a_node_that_has_just_learned_of_the_formation_does_not_help_to_found_another() {
    let link = LinkId(ConnId { slot: 3, generation: 0 });
    let mut registers = Registers::new(identity(1, 11), table(&[3], 0), &[], None).unwrap();
    let mut out = Outbox::default();
    let tell = |registers: &mut Registers, message: Message, out: &mut Outbox| {
        registers.on_message(NodeId(0), link, &message.encode(), 0, out).unwrap();
    };
    tell(&mut registers, Message::Formed { formation: formation() }, &mut out);
    let ballot = crate::configuration::Ballot { round: 1, proposer: Uuid(3) };
    tell(&mut registers, Message::FormPrepare { ballot }, &mut out);
    registers.on_node_up(NodeId(2), 0, &mut out);
    assert!(out.requests.is_empty(), "it has nothing to ask");
    assert!(out.answers.is_empty() && !out.formed && registers.formation().is_none(), "it is not durable yet");
    let (number, _) = out.persist_formation.take().unwrap();
    registers.persisted(number, 0, &mut out);
    assert_eq!(out.answers, [(link, Message::Formed { formation: formation() }.encode())]);
    assert!(out.formed && registers.formation().is_some());
}

#[test]
fn changes_of_one_turn_share_one_write() {
    let memory = Acceptor::fresh(first(0)).to_file();
    let kept = Kept { formed: Some(formation()), ..Kept::default() }.to_file();
    let mut registers = Registers::new(identity(0, 10), table(&[3], 0), &kept, Some(&memory)).unwrap();
    let mut out = Outbox::default();
    let link = LinkId(ConnId { slot: 3, generation: 0 });
    let prepare = |round| {
        let ballot = crate::configuration::Ballot { round, proposer: Uuid(3) };
        Message::Prepare { shard: SHARD, ballot, to: first(0) }.encode()
    };
    for round in [1, 2] {
        registers.on_message(NodeId(1), link, &prepare(round), 0, &mut out).unwrap();
    }
    let (one, _) = out.persist_voter.take().unwrap();
    registers.on_message(NodeId(1), link, &prepare(3), 0, &mut out).unwrap();
    let (two, _) = out.persist_voter.take().unwrap();
    assert_eq!((one, two), (1, 2));
    registers.persisted(1, 0, &mut out);
    assert_eq!(out.answers.len(), 2, "what the first write holds, and no more");
    registers.persisted(2, 0, &mut out);
    assert_eq!(out.answers.len(), 3);
    registers.on_message(NodeId(1), link, &prepare(3), 0, &mut out).unwrap();
    assert!(out.persist_voter.is_none() && out.answers.len() == 4, "nothing new: at once");
}

proptest::proptest! {
    #[test]
    fn garbage_is_no_message_and_no_file(mut bytes in proptest::collection::vec(0u8..24, 1..300)) {
        if let Some(message) = Message::decode(&bytes) {
            assert_eq!(message.encode(), bytes, "one encoding for each");
        }
        bytes[0] = 1;
        let _ = Acceptor::from_file(&bytes);
        let _ = Kept::from_file(&bytes, 7, &table(&[3], 0));
    }
}
