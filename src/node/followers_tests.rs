//! A primary, node 0, and what it concludes from the words of the copies at nodes 1 and 2.

use super::*;
use crate::id::{ConnId, Uuid};

const EPOCH: Epoch = Epoch(3);
const GRACE_MS: u64 = 600;
const DISK_MS: u64 = 5_000;
/// An arbitrary beginning.
const START_NS: BootNs = 77 * MS;

struct World {
    followers: Followers,
    now_ns: BootNs,
    end: Lsn,
    committed: Lsn,
    links: u32,
}

fn member(node: u32) -> Member {
    Member { node: NodeId(node), store: Uuid(u128::from(node)) }
}

/// What came in the place of a copy's content.
fn other_member(node: u32) -> Member {
    Member { store: Uuid(99), ..member(node) }
}

fn configuration(in_sync: &[u32]) -> Configuration {
    let in_sync = in_sync.iter().map(|node| member(*node)).collect();
    Configuration { version: 5, epoch: EPOCH, primary: NodeId(0), in_sync, forced: 0 }
}

impl World {
    /// Three copies; these are in sync at the beginning of the epoch.
    fn new(in_sync: &[u32]) -> World {
        let (others, timing) = ([1, 2].map(|node| (NodeId(node), Strikes::default())), Timing::new(GRACE_MS));
        let followers = Followers::new(configuration(in_sync), &others, timing, DISK_MS, START_NS);
        World { followers, now_ns: START_NS, end: Lsn(10), committed: Lsn::ZERO, links: 0 }
    }

    /// The same with all copies in sync, up to date and heard.
    fn settled() -> World {
        let mut world = World::new(&[0, 1, 2]);
        for node in [1, 2] {
            world.follows(node, 10);
            world.acks(node, 10);
        }
        world.committed = Lsn(10);
        world
    }

    fn link(&self, node: u32) -> LinkId {
        match self.followers.get(NodeId(node)).unwrap().stage {
            Stage::Down => panic!("node {node} has no link"),
            Stage::Asked(link) | Stage::Streaming(link) => link,
        }
    }

    fn asked(&mut self, node: u32) -> LinkId {
        self.links += 1;
        let link = LinkId(ConnId { slot: self.links, generation: 0 });
        self.followers.asked(NodeId(node), link, self.now_ns);
        link
    }

    /// Its log, up to `end`, is a part of the primary's.
    fn follows(&mut self, node: u32, end: u64) {
        self.follows_as(member(node), end, end, true);
    }

    fn follows_as(&mut self, member: Member, had: u64, end: u64, is_whole: bool) {
        let link = self.asked(member.node.0);
        let said = Following {
            epoch: EPOCH,
            store: member.store,
            had: Lsn(had),
            had_committed: Lsn::ZERO,
            end: Lsn(end),
            durable: Lsn(end),
            is_whole,
            is_ahead: false,
        };
        assert!(self.followers.on_following(member.node, link, &said, self.now_ns));
    }

    fn acks(&mut self, node: u32, durable: u64) {
        self.acks_with(node, Ack { epoch: EPOCH, durable: Lsn(durable), room_bytes: 1_000, is_whole: true });
    }

    fn acks_with(&mut self, node: u32, ack: Ack) {
        let link = self.link(node);
        assert!(self.followers.on_ack(NodeId(node), link, &ack, self.now_ns));
    }

    /// Writes up to `end`, and sends them to the copies that take records.
    fn writes(&mut self, end: u64) {
        self.end = Lsn(end);
        for node in [NodeId(1), NodeId(2)] {
            if self.followers.get(node).unwrap().streaming().is_some() {
                self.followers.sent(node, Lsn(end), 100, self.now_ns);
            }
        }
    }

    fn grants(&mut self, node: u32) {
        self.followers.on_grant(NodeId(node), EPOCH, self.now_ns, 5, self.now_ns);
    }

    fn loses_link(&mut self, node: u32) {
        let link = self.link(node);
        self.followers.on_down(NodeId(node), link, self.now_ns);
    }

    /// Time in which these copies are heard every 100 ms.
    fn pass(&mut self, ms: u64, heard: &[u32]) {
        for _ in 0..ms / 100 {
            self.now_ns += 100 * MS;
            heard.iter().for_each(|node| self.grants(*node));
        }
        self.now_ns += ms % 100 * MS;
    }

    fn due(&mut self) -> Option<(Change, Option<Cause>)> {
        self.followers.due(self.end, self.committed, false, self.now_ns)
    }

    /// Whom it wants to remove now, and why.
    fn removes(&mut self) -> Option<(u32, Cause)> {
        match self.due()? {
            (Change::Shrink { epoch: EPOCH, member }, Some(cause)) => Some((member.node.0, cause)),
            other => panic!("{other:?}"),
        }
    }

    /// Whom it wants to take in now.
    fn takes_in(&mut self) -> Option<Member> {
        match self.due()? {
            (Change::Grow { epoch: EPOCH, member }, None) => Some(member),
            other => panic!("{other:?}"),
        }
    }

    /// What was proposed is chosen.
    fn is_chosen(&mut self) {
        let (change, _) = self.followers.proposed().expect("something was proposed");
        let next = change.apply(self.followers.configuration()).expect("it is applicable");
        self.followers.on_settled(next, self.now_ns);
    }

    /// It turns out that it never will be.
    fn is_void(&mut self) {
        let now = self.followers.configuration().clone();
        self.followers.on_settled(now, self.now_ns);
    }

    fn committed(&self) -> u64 {
        self.followers.committed(self.end).0
    }
}

#[test]
fn committed_is_what_every_required_copy_has() {
    let mut world = World::settled();
    world.writes(20);
    world.acks(1, 15);
    assert_eq!(world.committed(), 10);
    world.acks(2, 18);
    assert_eq!(world.committed(), 15);
    assert_eq!(world.followers.committed(Lsn(12)), Lsn(12), "and the primary itself");
    let alone = World::new(&[0]);
    assert_eq!(alone.followers.committed(Lsn(4)), Lsn(4));
}

#[test]
fn nothing_is_committed_before_every_required_copy_has_followed_in_this_epoch() {
    let mut world = World::new(&[0, 1, 2]);
    world.follows(1, 10);
    assert_eq!((world.committed(), world.followers.all_follow()), (0, false));
    world.follows_as(member(2), 10, 7, true);
    assert_eq!((world.committed(), world.followers.all_follow()), (7, true));
    world.loses_link(2);
    assert_eq!((world.committed(), world.followers.all_follow()), (0, false), "what it has now is not known");
}

#[test]
fn an_acknowledgement_counts_on_the_link_that_carried_the_records() {
    let mut world = World::settled();
    let old = world.link(1);
    world.writes(20);
    world.acks(2, 20);
    let ack = |epoch, durable| Ack { epoch, durable: Lsn(durable), room_bytes: 1, is_whole: true };
    let now_ns = world.now_ns;
    assert!(!world.followers.on_ack(NodeId(1), old, &ack(Epoch(2), 20), now_ns), "of an older epoch");
    assert!(!world.followers.on_ack(NodeId(1), old, &ack(EPOCH, 21), now_ns), "of what was never sent");
    let new = world.asked(1);
    assert!(!world.followers.on_ack(NodeId(1), old, &ack(EPOCH, 20), now_ns), "by the link before");
    assert!(!world.followers.on_ack(NodeId(1), new, &ack(EPOCH, 20), now_ns), "before the copy followed by this one");
    assert_eq!(world.committed(), 0);
    world.follows(1, 20);
    assert_eq!(world.committed(), 20);
}

#[test]
fn an_answer_to_an_older_question_is_nobodys() {
    let mut world = World::settled();
    let old = world.asked(1);
    let new = world.asked(1);
    let said = Following {
        epoch: EPOCH,
        store: member(1).store,
        had: Lsn(10),
        had_committed: Lsn(10),
        end: Lsn(10),
        durable: Lsn(10),
        is_whole: true,
        is_ahead: false,
    };
    assert!(!world.followers.on_following(NodeId(1), old, &said, world.now_ns));
    assert_eq!(world.followers.get(NodeId(1)).unwrap().stage, Stage::Asked(new));
    world.followers.on_down(NodeId(1), old, world.now_ns);
    assert_eq!(world.followers.get(NodeId(1)).unwrap().stage, Stage::Asked(new), "nor is the older link's end");
}

#[test]
fn a_copy_counts_only_as_the_member_that_the_configuration_names() {
    let mut world = World::settled();
    world.loses_link(1);
    world.follows_as(other_member(1), 10, 10, true);
    assert_eq!(world.committed(), 0, "it has everything, but it is another");
    assert_eq!(world.removes(), Some((1, Cause::Replaced)));
    world.is_chosen();
    assert_eq!(world.committed(), 10);
    assert_eq!(world.takes_in(), None, "it is required first");
    assert_eq!(world.takes_in(), Some(other_member(1)));
}

#[test]
fn a_copy_that_is_not_whole_is_removed_and_not_taken_in() {
    let mut world = World::settled();
    world.loses_link(1);
    world.follows_as(member(1), 0, 0, false);
    assert_eq!(world.committed(), 0);
    assert_eq!(world.removes(), Some((1, Cause::Replaced)));
    world.is_chosen();
    world.writes(12);
    world.acks(2, 12);
    world.acks_with(1, Ack { epoch: EPOCH, durable: Lsn(12), room_bytes: 1_000, is_whole: false });
    world.committed = Lsn(12);
    assert_eq!((world.due(), world.due()), (None, None), "it has all records, but is not whole on its own word");
    world.acks(1, 12);
    assert_eq!((world.takes_in(), world.takes_in()), (None, Some(member(1))));
}

#[test]
fn a_removed_copy_is_required_until_the_removal_is_chosen() {
    let mut world = World::settled();
    world.writes(20);
    world.acks(2, 20);
    world.pass(600, &[2]);
    assert_eq!(world.removes(), Some((1, Cause::Silent)));
    assert_eq!((world.committed(), world.due()), (10, None), "proposed is not chosen");
    assert!(!world.followers.has_lease(world.now_ns));
    world.is_chosen();
    assert_eq!(world.committed(), 20);
    assert!(world.followers.has_lease(world.now_ns));
}

#[test]
fn a_joining_copy_is_required_before_it_is_proposed_and_until_it_is_known_not_to_be_in() {
    let mut world = World::new(&[0, 2]);
    world.follows(2, 10);
    world.acks(2, 10);
    world.committed = Lsn(10);
    world.follows(1, 5);
    world.followers.sent(NodeId(1), Lsn(9), 100, world.now_ns);
    assert_eq!((world.due(), world.committed()), (None, 10), "it lacks what is committed");
    world.followers.sent(NodeId(1), Lsn(10), 100, world.now_ns);
    world.acks(1, 10);
    assert_eq!((world.due(), world.committed()), (None, 10));
    world.writes(20);
    world.acks(2, 20);
    assert_eq!(world.committed(), 10, "from now on it is required, without being proposed");
    assert!(!world.followers.has_lease(world.now_ns));
    world.grants(2);
    assert!(!world.followers.has_lease(world.now_ns), "its lease, too");
    world.grants(1);
    assert!(world.followers.has_lease(world.now_ns));
    assert_eq!(world.takes_in(), Some(member(1)), "it has what was written when it became required");
    assert_eq!(world.committed(), 10);
    // While that is open, its link breaks: the change may still be chosen, so it stays required.
    world.loses_link(1);
    assert_eq!(world.committed(), 0);
    world.follows(1, 15);
    assert_eq!(world.committed(), 15, "by the next link as well");
    world.is_void();
    assert_eq!(world.committed(), 20);
}

#[test]
fn a_copy_that_was_taken_in_is_required_for_good() {
    let mut world = World::new(&[0]);
    world.committed = Lsn(10);
    world.follows(1, 10);
    world.acks(1, 10);
    assert_eq!(world.takes_in(), None);
    assert_eq!(world.takes_in(), Some(member(1)));
    world.is_chosen();
    assert_eq!(world.followers.configuration().in_sync, [member(0), member(1)]);
    world.writes(20);
    assert_eq!(world.committed(), 10);
    world.loses_link(1);
    assert_eq!(world.committed(), 0);
}

#[test]
fn a_copy_that_breaks_off_before_it_is_proposed_is_not_required() {
    let mut world = World::new(&[0]);
    world.committed = Lsn(10);
    world.follows(1, 10);
    world.acks(1, 10);
    assert_eq!(world.takes_in(), None);
    world.writes(20);
    assert_eq!(world.committed(), 10);
    world.loses_link(1);
    assert_eq!((world.due(), world.committed()), (None, 20));
    world.follows(1, 10);
    assert_eq!((world.due(), world.committed()), (None, 10), "it is, once it is well again");
    world.loses_link(1);
    world.follows(1, 10);
    assert_eq!(world.committed(), 20, "nor where it is back before anybody looked");
}

#[test]
fn a_lease_needs_every_required_copy_and_runs_from_the_beacons_sending() {
    let mut world = World::settled();
    world.grants(1);
    assert!(!world.followers.has_lease(world.now_ns));
    world.grants(2);
    assert!(world.followers.has_lease(world.now_ns));
    let sent_ns = world.now_ns;
    let over_ns = sent_ns + 540 * MS;
    assert!(world.followers.has_lease(over_ns - 1));
    assert!(!world.followers.has_lease(over_ns));
    // A grant that comes late is worth as much as one that comes at once.
    world.pass(300, &[2]);
    world.followers.on_grant(NodeId(1), EPOCH, sent_ns, 5, world.now_ns);
    assert!(!world.followers.has_lease(over_ns));
    world.followers.on_grant(NodeId(1), Epoch(2), world.now_ns, 5, world.now_ns);
    world.followers.on_grant(NodeId(1), EPOCH, world.now_ns + MS, 5, world.now_ns);
    assert!(!world.followers.has_lease(over_ns), "of another epoch, or of a beacon that was never sent");
    assert!(World::new(&[0]).followers.has_lease(0), "alone");
}

#[test]
fn a_lease_is_of_the_copy_that_granted_it_not_of_what_took_its_place() {
    for (back, has_granted) in [(member(1), true), (other_member(1), false)] {
        let mut world = World::settled();
        world.grants(1);
        world.grants(2);
        world.loses_link(1);
        world.follows_as(back, 10, 10, true);
        assert_eq!(world.followers.has_lease(world.now_ns), has_granted);
    }
}

#[test]
fn a_round_of_confirmations_is_through_when_every_required_copy_has_answered_it() {
    let mut world = World::settled();
    let first = world.followers.next_round();
    assert_eq!(world.followers.ask_round(), Some((first, vec![NodeId(1), NodeId(2)])));
    assert_eq!(world.followers.next_round(), first + 1, "a read that comes now needs the next");
    assert_eq!(world.followers.ask_round(), None, "one at a time");
    world.followers.on_confirmed(NodeId(1), EPOCH, first);
    assert_eq!(world.followers.ask_again(), (first, vec![NodeId(2)]));
    world.followers.on_confirmed(NodeId(2), Epoch(2), first);
    assert!(world.followers.confirmed_round() < first, "an answer of another epoch");
    world.followers.on_confirmed(NodeId(2), EPOCH, first + 5);
    assert_eq!(world.followers.confirmed_round(), first, "what was not asked for is not confirmed");
    assert!(!world.followers.is_asking());
}

#[test]
fn a_round_ends_when_the_copy_that_owes_the_answer_is_out() {
    let mut world = World::settled();
    let (round, _) = world.followers.ask_round().unwrap();
    world.followers.on_confirmed(NodeId(2), EPOCH, round);
    world.pass(600, &[2]);
    assert_eq!(world.removes(), Some((1, Cause::Silent)));
    assert!(world.followers.is_asking());
    world.is_chosen();
    assert_eq!(world.followers.confirmed_round(), round);
}

#[test]
fn each_cause_removes_a_copy_at_its_time_and_not_before() {
    type Fault = fn(&mut World);
    let full: Fault = |world| world.acks_with(1, Ack { epoch: EPOCH, durable: Lsn(10), room_bytes: 0, is_whole: true });
    let cases: [(Fault, &[u32], u64, Cause); 5] = [
        (|world| world.loses_link(1), &[1, 2], RENEWAL_MS, Cause::Gone),
        (|_| (), &[2], GRACE_MS * 3 / 4, Cause::Silent),
        (|world| world.writes(20), &[1, 2], DISK_MS, Cause::Slow),
        (full, &[1, 2], GRACE_MS, Cause::Full),
        (|world| world.followers.on_leave(NodeId(1), world.now_ns), &[1, 2], LEAVE_MS, Cause::Leaving),
    ];
    for (fault, heard, after_ms, cause) in cases {
        let mut world = World::settled();
        fault(&mut world);
        if cause == Cause::Slow {
            world.acks(2, 20);
        }
        world.pass(after_ms - 1, heard);
        assert_eq!(world.removes(), None, "{cause:?}");
        world.pass(1, heard);
        assert_eq!(world.removes(), Some((1, cause)));
    }
}

#[test]
fn what_a_copy_makes_good_in_time_does_not_count_against_it() {
    let mut world = World::settled();
    world.loses_link(1);
    world.pass(RENEWAL_MS - 1, &[]);
    world.follows(1, 10);
    world.acks_with(1, Ack { epoch: EPOCH, durable: Lsn(10), room_bytes: 0, is_whole: true });
    world.pass(GRACE_MS - 1, &[1, 2]);
    world.acks(1, 10);
    world.writes(20);
    world.acks(2, 20);
    world.pass(DISK_MS - 1, &[1, 2]);
    world.acks(1, 20);
    world.writes(30);
    world.pass(1, &[1, 2]);
    world.acks(2, 30);
    world.pass(DISK_MS - 2, &[1, 2]);
    assert_eq!(world.due(), None);
    world.pass(1, &[1, 2]);
    assert_eq!(world.removes(), Some((1, Cause::Slow)));
}

/// Its disk may hang, and its links break meanwhile.
#[test]
fn a_new_link_is_no_excuse_for_a_copy_that_owes_unless_it_has_gone_on() {
    for (durable, has_gone_on) in [(10, false), (15, true)] {
        let mut world = World::settled();
        world.writes(20);
        world.acks(2, 20);
        world.pass(DISK_MS - 10, &[1, 2]);
        world.loses_link(1);
        world.follows(1, durable);
        world.followers.sent(NodeId(1), Lsn(20), 100, world.now_ns);
        world.acks(1, durable);
        world.pass(10, &[1, 2]);
        assert_eq!(world.removes(), (!has_gone_on).then_some((1, Cause::Slow)));
    }
}

#[test]
fn the_removal_of_one_copy_is_held_against_no_other() {
    let mut world = World::settled();
    world.pass(GRACE_MS, &[2]);
    assert_eq!(world.removes(), Some((1, Cause::Silent)));
    world.is_chosen();
    let has_strikes = world.followers.strikes().map(|strikes| strikes != Strikes::default());
    assert_eq!(has_strikes.collect::<Vec<_>>(), [true, false]);
    world.loses_link(2);
    world.follows_as(member(2), 9, 9, true);
    assert_eq!(world.removes(), Some((2, Cause::Lost)), "nor is forgotten what that has acknowledged");
}

#[test]
fn a_copy_that_goes_on_but_falls_behind_is_removed_and_not_taken_in_before_it_keeps_up() {
    let mut world = World::settled();
    world.writes(20);
    world.pass(1_000, &[1, 2]);
    world.writes(30);
    world.acks(2, 30);
    world.pass(DISK_MS - 1_001, &[1, 2]);
    world.acks(1, 19);
    assert_eq!(world.due(), None);
    world.pass(1, &[1, 2]);
    assert_eq!(world.removes(), Some((1, Cause::Slow)), "record 20 was sent too long ago");
}

#[test]
fn a_copy_that_never_had_a_link_in_this_epoch_has_the_grace() {
    let mut world = World::new(&[0, 1]);
    world.pass(GRACE_MS - 1, &[]);
    assert_eq!(world.removes(), None);
    world.pass(1, &[]);
    assert_eq!(world.removes(), Some((1, Cause::Silent)));
}

#[test]
fn a_copy_that_lost_what_it_had_acknowledged_is_removed_at_once() {
    let mut world = World::settled();
    world.writes(20);
    world.acks(1, 20);
    world.loses_link(1);
    world.follows_as(member(1), 19, 19, true);
    assert_eq!(world.removes(), Some((1, Cause::Lost)));
    // A copy that was filled anew owes nothing of what the one before acknowledged.
    world.is_chosen();
    world.loses_link(1);
    world.follows_as(other_member(1), 0, 0, true);
    world.followers.sent(NodeId(1), Lsn(20), 100, world.now_ns);
    world.acks(1, 20);
    world.pass(1_000, &[1, 2]);
    assert_eq!((world.takes_in(), world.takes_in()), (None, Some(other_member(1))));
}

#[test]
fn a_primary_that_is_told_to_stop_lets_nobody_go_before_it() {
    let mut world = World::settled();
    assert!(!world.followers.is_leaving(NodeId(1)));
    world.followers.on_leave(NodeId(1), world.now_ns);
    world.pass(LEAVE_MS, &[1, 2]);
    assert_eq!(world.followers.due(world.end, world.committed, true, world.now_ns), None);
    assert_eq!(world.removes(), Some((1, Cause::Leaving)));
    world.is_chosen();
    assert!(world.followers.is_leaving(NodeId(1)));
    world.pass(10_000, &[1, 2]);
    assert_eq!(world.due(), None, "it is not taken in again");
}

/// How long it takes until a copy whose link has broken and is there again is required.
fn pause_ms(world: &mut World) -> u64 {
    world.loses_link(1);
    world.pass(RENEWAL_MS, &[2]);
    assert_eq!(world.removes(), Some((1, Cause::Gone)));
    world.is_chosen();
    world.follows(1, 10);
    world.acks(1, 10);
    for ms in 0.. {
        if world.followers.due(world.end, world.committed, false, world.now_ns).is_some() {
            world.is_chosen();
            return ms;
        }
        world.now_ns += MS;
        [1, 2].iter().for_each(|node| world.grants(*node));
    }
    unreachable!()
}

#[test]
fn a_link_that_flaps_keeps_its_copy_out_for_longer_each_time_until_that_is_forgotten() {
    let mut world = World::settled();
    let pauses: Vec<u64> = (0..10).map(|_| pause_ms(&mut world)).collect();
    // The copy is required from the end of the pause, and proposed with the next look.
    assert_eq!(pauses, [101, 201, 401, 801, 1601, 3201, 6401, 12801, 20001, 20001]);
    world.pass(FORGIVEN_MS, &[1, 2]);
    assert_eq!(pause_ms(&mut world), 101);
}

#[test]
fn the_bytes_under_way_are_those_that_are_not_acknowledged() {
    let mut world = World::settled();
    world.writes(12);
    world.writes(15);
    assert_eq!(world.followers.get(NodeId(1)).unwrap().under_way_bytes, 200);
    world.acks(1, 14);
    assert_eq!(world.followers.get(NodeId(1)).unwrap().under_way_bytes, 100, "the part that ends at 15");
    world.loses_link(1);
    world.follows(1, 15);
    assert_eq!(world.followers.get(NodeId(1)).unwrap().under_way_bytes, 0);
}

#[test]
fn a_copy_without_room_that_is_not_removed_makes_writes_wait_in_vain() {
    let mut world = World::settled();
    world.followers.on_full(NodeId(1), world.now_ns);
    let since_ns = world.now_ns;
    assert!(!world.followers.is_full(since_ns + 2 * GRACE_MS * MS - 1));
    assert!(world.followers.is_full(since_ns + 2 * GRACE_MS * MS));
    assert_eq!(world.removes(), None);
    world.pass(GRACE_MS, &[1, 2]);
    assert_eq!(world.removes(), Some((1, Cause::Full)));
    world.is_chosen();
    assert!(!world.followers.is_full(since_ns + 2 * GRACE_MS * MS), "nobody waits for it any more");
}

/// What it acknowledged on the way in was counted, whatever becomes of the proposal.
#[test]
fn a_copy_that_lost_records_while_it_was_being_taken_in_is_removed_unless_it_has_them_again() {
    for (has_again, removed) in [(15, true), (19, true), (20, false)] {
        let mut world = World::new(&[0]);
        world.committed = Lsn(10);
        world.follows(1, 10);
        world.acks(1, 10);
        assert_eq!((world.takes_in(), world.takes_in()), (None, Some(member(1))));
        world.writes(20);
        world.acks(1, 20);
        assert_eq!(world.committed(), 20);
        world.loses_link(1);
        world.follows_as(member(1), 15, 15, true);
        world.followers.sent(NodeId(1), Lsn(20), 100, world.now_ns);
        world.acks(1, has_again);
        world.is_chosen();
        assert_eq!(world.removes(), removed.then_some((1, Cause::Lost)), "{has_again}");
    }
}

#[test]
fn for_the_time_in_which_the_primary_itself_stood_still_no_copy_is_to_blame() {
    type Fault = fn(&mut World);
    let cases: [(Fault, u64, Cause); 4] = [
        (|world| world.loses_link(1), RENEWAL_MS, Cause::Gone),
        (|_| (), GRACE_MS * 3 / 4, Cause::Silent),
        (|world| world.followers.on_full(NodeId(1), world.now_ns), GRACE_MS, Cause::Full),
        (|world| world.writes(20), DISK_MS, Cause::Slow),
    ];
    for (fault, after_ms, cause) in cases {
        let mut world = World::settled();
        fault(&mut world);
        if cause == Cause::Slow {
            world.acks(2, 20);
        }
        let heard: &[u32] = if cause == Cause::Silent { &[2] } else { &[1, 2] };
        let before_ms = after_ms / 2;
        world.pass(before_ms, heard);
        let spell_ns = 20_000 * MS;
        world.now_ns += spell_ns;
        world.followers.stood_still(spell_ns, world.now_ns);
        world.pass(after_ms - before_ms - 1, heard);
        assert_eq!(world.removes(), None, "{cause:?}");
        world.pass(1, heard);
        assert_eq!(world.removes(), Some((1, cause)));
    }
    // Nor for what was sent before, and is the oldest that it owes only afterwards.
    let mut world = World::settled();
    world.writes(20);
    world.writes(30);
    world.acks(2, 30);
    world.pass(1_000, &[1, 2]);
    world.now_ns += 20_000 * MS;
    world.followers.stood_still(20_000 * MS, world.now_ns);
    world.acks(1, 20);
    world.pass(DISK_MS - 1_001, &[1, 2]);
    assert_eq!(world.removes(), None);
    world.pass(1, &[1, 2]);
    assert_eq!(world.removes(), Some((1, Cause::Slow)));
}

#[test]
fn what_the_copies_have_granted_was_never_asked_runs_or_is_over() {
    let mut world = World::settled();
    assert_eq!(world.followers.lease(world.now_ns), Lease::Asked);
    world.grants(1);
    assert_eq!(world.followers.lease(world.now_ns), Lease::Asked, "not by all");
    world.grants(2);
    let over_ns = world.now_ns + 540 * MS;
    assert_eq!(world.followers.lease(over_ns - 1), Lease::Runs);
    assert_eq!(world.followers.lease(over_ns), Lease::Over { since_ns: over_ns });
    assert_eq!(World::new(&[0]).followers.lease(0), Lease::Runs, "alone");
}

#[test]
fn a_copy_that_was_sent_everything_and_owes_little_is_required_before_it_has_acknowledged_it() {
    let mut world = World::new(&[0, 2]);
    world.follows(2, 10);
    world.committed = Lsn(10);
    world.follows(1, 5);
    world.followers.sent(NodeId(1), Lsn(10), LIVE_BYTES + 1, world.now_ns);
    let is_required = |world: &World| world.followers.is_required(world.followers.get(NodeId(1)).unwrap());
    assert!(world.due().is_none() && !is_required(&world), "it owes too much");
    world.acks(1, 10);
    world.writes(20);
    world.acks(2, 20);
    world.committed = Lsn(20);
    assert!(world.due().is_none() && is_required(&world), "a little");
    world.acks(1, 19);
    assert_eq!(world.takes_in(), None, "it lacks what may have been committed before it was required");
    world.acks(1, 20);
    assert_eq!(world.takes_in(), Some(member(1)));
}

#[test]
fn the_next_look_is_due_with_the_next_beacon_a_silence_or_soon() {
    let mut world = World::settled();
    let next_ms = |world: &World| (world.followers.next_ns(world.now_ns) - world.now_ns) / MS;
    assert_eq!(next_ms(&world), 100);
    world.pass(400, &[2]);
    assert_eq!(next_ms(&world), 50, "node 1 is silent for 400 ms of 450");
    world.loses_link(2);
    assert_eq!(next_ms(&world), 5);
}

#[test]
fn a_copy_that_was_asked_to_follow_and_says_nothing_is_mute_after_a_while() {
    let mut world = World::settled();
    let link = world.asked(1);
    world.now_ns += ANSWER_MS * MS - 1;
    assert_eq!(world.followers.mute(world.now_ns), []);
    world.now_ns += 1;
    assert_eq!(world.followers.mute(world.now_ns), [link], "the other one has answered long ago");
}

#[test]
fn a_primary_that_only_leads_until_another_can_takes_in_and_lets_none_go() {
    let mut world = World::new(&[0, 2]);
    world.committed = Lsn(10);
    world.follows(1, 10);
    world.acks(1, 10);
    world.pass(10_000, &[1]);
    let due = |world: &mut World| world.followers.due_admission(world.end, world.committed, world.now_ns);
    assert_eq!(due(&mut world), None, "node 2 is silent; node 1 is required first");
    let grow = Some((Change::Grow { epoch: EPOCH, member: member(1) }, None));
    assert_eq!((due(&mut world), world.followers.proposed()), (grow, grow));
    assert_eq!(due(&mut world), None, "one proposal at a time");
}

#[test]
fn a_copy_is_taken_in_if_it_was_heard_and_does_not_owe_for_too_long() {
    for (silent_ms, owes_ms, is_taken) in [(449, 1, true), (450, 1, false), (1, DISK_MS - 1, true), (1, DISK_MS, false)]
    {
        let mut world = World::new(&[0]);
        world.committed = Lsn(10);
        world.follows(1, 10);
        world.now_ns += 20_000 * MS;
        let ago_ns = |ms: u64| world.now_ns - ms * MS;
        let (sent_ns, heard_ns) = (ago_ns(owes_ms), ago_ns(silent_ms));
        world.followers.sent(NodeId(1), Lsn(11), 100, sent_ns);
        world.followers.on_grant(NodeId(1), EPOCH, heard_ns, 5, heard_ns);
        assert_eq!(world.due(), None);
        let is_required = world.followers.is_required(world.followers.get(NodeId(1)).unwrap());
        assert_eq!(is_required, is_taken, "{silent_ms} {owes_ms}");
    }
}
