//! How a copy comes to lead: after a crash of its formation, told to in the middle of a round, by force without room on
//! the disk, and again after another did.

use dkv::configuration::{Change, Coded, Configuration, Formation};
use dkv::id::{Epoch, Lsn, ShardId, Uuid};
use dkv::node::registers::{Identity, Outbox, Registers, Table, formation_file};
use dkv::op::Verb;
use dkv::store::{AppendError, Kind, SmallState};
use dkv::wire::{Class, CopyState, Message};

use super::support::faulty_disk::Machine;
use super::world::{
    Asks, CONTROL, DATA, FIRST, PAIR, SECOND, THIRD, World, formation, keys, link, member, op, record, registers,
    store_of, table,
};

/// What the disk of a primary holds after a crash between the file that says how the cluster was formed and the one
/// that says that its data is whole.
fn half_formed(store: Uuid) -> World {
    World::start_with(Machine::new(7), table(PAIR), FIRST, &[], SmallState::new(store, 3, false))
}

#[test]
fn a_crash_in_the_middle_of_the_formation_is_made_good_by_the_next_start() {
    let mut world = half_formed(store_of(FIRST));
    world.settle();
    assert!(world.core.store().small_state().whole);
    assert!(world.core.copy().is_whole() && world.core.copy().leads());
}

#[test]
fn what_was_not_there_when_the_cluster_was_formed_is_not_whole_by_that() {
    let mut world = half_formed(Uuid(99));
    world.settle();
    assert!(!world.core.store().small_state().whole && !world.core.copy().is_whole());
    for _ in 0..20 {
        world.pass(100);
        world.settle();
    }
    assert!(!world.core.copy().leads() && !world.core.copy().is_candidate());
    assert_eq!(world.core.state(), CopyState::Waiting);
}

#[test]
fn a_copy_that_is_told_to_lead_while_it_looks_into_the_register_leads() {
    let mut world = World::start(Machine::new(7), table(PAIR), SECOND, &registers(1));
    world.machine.hang();
    world.turn();
    world.primary_asks(1, 0, &[(1, 1)], false);
    world.say(FIRST, CONTROL, &Message::Lead { epoch: Epoch(1), keeps_old: true });
    world.machine.resume();
    world.settle();
    assert!(world.core.copy().leads());
    assert_eq!((world.core.copy().epoch(), world.core.registers().formation().is_some()), (Epoch(2), true));
}

/// A turn on a disk that others keep full.
fn full_turn(world: &mut World) {
    world.machine.set_capacity(world.machine.used_bytes());
    world.turn();
}

/// Takes what a primary sends, until there is no room for even as little as a jump.
fn fill(world: &mut World) {
    let value = vec![7; 2_000];
    for kind in [Kind::Set, Kind::Jump] {
        let mut refused = 0;
        while refused < 50 {
            let lsn = world.core.store().end().0 + 1;
            let (key, value) = if kind == Kind::Set { ("key", &value[..]) } else { ("", &[][..]) };
            match world.core.store_mut().append(&record(lsn, 1, kind, key, value)) {
                Ok(_) => refused = 0,
                Err(AppendError::Full | AppendError::Busy) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            full_turn(world);
        }
    }
}

#[test]
fn a_forced_takeover_that_has_no_room_for_its_jump_goes_on_when_there_is_some() {
    let mut world = World::replica();
    world.primary_asks(1, 0, &[(1, 1)], false);
    world.settle();
    fill(&mut world);
    let end = world.core.store().end();
    world.core.take_over_by_force(&mut world.heard).unwrap();
    for _ in 0..10 {
        world.pass(100);
        (0..50).for_each(|_| full_turn(&mut world));
    }
    assert!(world.core.copy().leads());
    assert_eq!(world.core.store().small_state().epoch, Epoch(2), "that is durable long since");
    assert_eq!((world.core.store().end(), world.core.status().is_primary), (end, false));
    assert_eq!(world.core.state(), CopyState::Settling);
    world.machine.set_capacity(u64::MAX);
    world.settle();
    assert_eq!((world.core.store().end(), world.core.status().is_primary), (Lsn(1 << 48), true));
    assert_eq!(world.core.state(), CopyState::Serving);
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    world.settle();
    assert_eq!(world.answer_of(set), Some(&*format!("Created(Lsn({}))", (1_u64 << 48) + 1)));
}

/// The registers on the second node, which does not vote: what it proposes is agreed upon with the first.
struct Other {
    registers: Registers,
    formation: Formation,
}

impl Other {
    fn new(world: &World) -> Other {
        let identity = Identity {
            me: SECOND,
            store: store_of(SECOND),
            incarnation: Uuid(1 << 100),
            fingerprint: world.cluster.fingerprint(),
            seed: 1,
        };
        let formation = formation(&world.cluster, FIRST);
        let table = Table::of(&world.cluster);
        let registers = Registers::new(identity, table, &formation_file(&formation), None).unwrap();
        Other { registers, formation }
    }

    /// Proposes a change, and hears what is chosen.
    fn propose(&mut self, world: &mut World, change: Change) -> Configuration {
        let (by, mut out) = (link(70), Outbox::default());
        assert!(self.registers.propose(ShardId(0), change, 0, &mut out));
        for _ in 0..100 {
            for (to, bytes) in std::mem::take(&mut out.requests) {
                assert_eq!((to, self.formation.voters.len()), (FIRST, 1), "the only voter");
                world.say(SECOND, by, &Message::Register { cluster: Uuid::default(), bytes: &bytes });
            }
            world.turn();
            let sent = std::mem::take(&mut world.heard.sent);
            let (answers, others) = sent.into_iter().partition(|(link, _)| *link == by);
            world.heard.sent = others;
            let answers: Vec<_> = answers;
            for (_, frame) in &answers {
                let Message::Register { bytes, .. } = super::world::message(frame) else { panic!("another message") };
                self.registers.on_message(FIRST, by, bytes, 0, &mut out).unwrap();
            }
            if let Some(settled) = out.settled.pop() {
                assert!(settled.applied, "{settled:?}");
                return settled.chosen;
            }
        }
        panic!("nothing is chosen");
    }
}

/// A connection's own write, which was cut, is nothing that a read behind it could wait for when this node leads again.
#[test]
fn a_read_waits_for_no_write_of_its_stream_that_was_cut_since() {
    let mut world = World::leading();
    let (mine, _) = keys(&world);
    let set = world.ask(1, &op(Verb::Set, &mine[0], "v"));
    let get = world.ask(1, &op(Verb::Get, &mine[0], ""));
    world.settle();
    assert_eq!(world.core.store().end(), Lsn(1));
    // The replica, which never had it, takes over; it takes this copy in, which drops it.
    world.core.on_dialled_down(SECOND, Class::Data, DATA, (0, &[]), &mut world.heard);
    let mut other = Other::new(&world);
    let by = member(SECOND);
    let chosen = other.propose(&mut world, Change::TakeOver { by, epoch: Epoch(1), keeps_old: false });
    world.say(THIRD, link(77), &Message::Know(&chosen.encode()));
    assert_eq!(world.answer_of(set), Some("Failed(Unknown)"));
    let chosen = other.propose(&mut world, Change::Grow { epoch: Epoch(2), member: member(FIRST) });
    let asks = Asks { epoch: 2, end: 0, floor: 0, lineage: &[(2, 1)], is_settled: true };
    world.asks(link(78), &chosen, &asks).unwrap();
    world.settle();
    assert_eq!(world.core.store().end(), Lsn::ZERO);
    // It hands the lead back.
    world.say(SECOND, link(79), &Message::Lead { epoch: Epoch(2), keeps_old: true });
    world.settle();
    assert!(world.core.copy().leads());
    world.link_up(SECOND, DATA);
    world.replica_follows();
    world.settle();
    assert_eq!((world.core.copy().epoch(), world.core.state()), (Epoch(3), CopyState::Settling));
    assert_eq!(world.answer_of(get), None, "it has no lease yet");
    world.replica_confirms(1);
    world.settle();
    assert_eq!(world.answer_of(get), Some("NotFound"));
}
