//! The copy at node 1 of a pair, unless it says otherwise; what it may do in which role.

use super::*;
use crate::id::{ConnId, Uuid};
use crate::wire::Following as Said;

const FIRST: NodeId = NodeId(0);
const ME: NodeId = NodeId(1);
const LINK: LinkId = link(1);
const START_NS: BootNs = 1_000 * MS;
const GRACE: BootNs = 600 * MS;

const fn link(slot: u32) -> LinkId {
    LinkId(ConnId { slot, generation: 0 })
}

fn member(node: NodeId) -> Member {
    Member { node, store: Uuid(u128::from(node.0) + 7) }
}

/// Both in sync, led by `primary`; a version an epoch.
fn pair(epoch: u64, primary: NodeId) -> Configuration {
    let in_sync = vec![member(FIRST), member(ME)];
    Configuration { version: epoch + 1, epoch: Epoch(epoch), primary, in_sync, forced: 0 }
}

fn alone(epoch: u64, primary: NodeId) -> Configuration {
    Configuration { in_sync: vec![member(primary)], ..pair(epoch, primary) }
}

fn fresh() -> Copy {
    let mut copy = Copy::new(member(ME), vec![FIRST], Epoch(0), (600, 5_000), 0, START_NS);
    copy.set_health(false, true);
    copy
}

/// It has read the register, and waits for its primary.
fn waiting() -> Copy {
    let mut copy = fresh();
    assert_eq!(copy.wanted(Lsn::ZERO, false), Some(Change::Observe));
    assert_eq!(copy.on_settled(pair(1, FIRST), false), Turn::None);
    copy
}

/// It follows the first node in epoch 1, with its log matched, and granted a lease at the beginning.
fn following() -> Copy {
    let mut copy = waiting();
    assert_eq!(copy.on_follow(FIRST, LINK, &pair(1, FIRST)), (Verdict::Follows, Turn::None));
    assert!(copy.matched(LINK));
    copy.grant(600);
    copy
}

/// It leads epoch 2 alone, and serves.
fn leading() -> Copy {
    let mut copy = waiting();
    copy.learn(alone(2, ME));
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Restart(member(ME))));
    assert_eq!(copy.on_settled(alone(3, ME), true), Turn::Begins);
    copy.epoch_persisted(Epoch(3), Lsn(4));
    assert_eq!(copy.advance(Lsn(4)), Some(Lsn(4)));
    copy
}

fn at(copy: &mut Copy, ns: BootNs) {
    copy.at(START_NS + ns);
    copy.tick(false);
}

/// Ticks often enough that the process did not stand still.
fn pass(copy: &mut Copy, from_ns: BootNs, to_ns: BootNs) {
    for ns in (from_ns..to_ns).step_by(100 * MS as usize) {
        at(copy, ns);
    }
    at(copy, to_ns);
}

fn beacon(epoch: u64) -> Beacon {
    Beacon { epoch: Epoch(epoch), sent_ns: 1, lease_ms: 540, committed: Lsn::ZERO }
}

fn takes_over(copy: &mut Copy) -> bool {
    matches!(copy.wanted(Lsn::ZERO, false), Some(Change::TakeOver { .. }))
}

#[test]
fn nothing_is_granted_before_the_first_round_has_ended() {
    // An earlier run of this process may have proposed a takeover that is still to be chosen.
    let mut copy = fresh();
    assert_eq!(copy.on_follow(FIRST, LINK, &pair(1, FIRST)), (Verdict::Follows, Turn::None));
    assert!(copy.matched(LINK));
    assert_eq!(copy.may_grant(FIRST, &beacon(1)), None);
    assert!(!copy.confirms(FIRST, Epoch(1)));
    assert_eq!(copy.wanted(Lsn::ZERO, false), Some(Change::Observe));
    copy.on_settled(pair(1, FIRST), false);
    assert_eq!(copy.may_grant(FIRST, &beacon(1)), Some(600));
    assert!(copy.confirms(FIRST, Epoch(1)));
}

#[test]
fn an_epoch_that_is_known_to_be_over_does_not_begin() {
    // Its round was chosen, and a later takeover was told before the round's own answers were here (seed 25499).
    let mut copy = following();
    pass(&mut copy, 0, GRACE);
    assert!(takes_over(&mut copy));
    copy.learn(pair(3, FIRST));
    assert_eq!(copy.on_settled(pair(2, ME), true), Turn::None);
    assert!(!copy.leads());
    assert_eq!((copy.epoch(), copy.configuration()), (Epoch(3), Some(&pair(3, FIRST))));
    // To be told by others of what its own round chose is no reason for another round.
    let mut told = following();
    pass(&mut told, 0, GRACE);
    assert!(takes_over(&mut told));
    told.learn(pair(2, ME));
    assert_eq!(told.on_settled(pair(2, ME), true), Turn::Begins);
}

#[test]
fn a_lease_is_for_the_primary_that_is_followed_in_its_epoch_with_a_matched_log() {
    let copy = following();
    assert_eq!(copy.may_grant(FIRST, &beacon(1)), Some(600));
    assert_eq!(copy.may_grant(ME, &beacon(1)), None);
    assert_eq!(copy.may_grant(FIRST, &beacon(0)), None);
    assert_eq!(copy.may_grant(FIRST, &beacon(2)), None, "it follows nobody in that epoch yet");
    let mut unmatched = waiting();
    unmatched.on_follow(FIRST, LINK, &pair(1, FIRST));
    assert_eq!(unmatched.may_grant(FIRST, &beacon(1)), None);
    assert!(!unmatched.confirms(FIRST, Epoch(1)));
    assert!(!unmatched.matched(link(2)), "another link's match is not its own");
    let mut cut_off = following();
    cut_off.on_link_lost(LINK);
    assert_eq!(cut_off.may_grant(FIRST, &beacon(1)), None);
    assert!(!cut_off.takes_from(LINK, Epoch(1)));
}

#[test]
fn a_copy_takes_over_after_the_longest_grace_that_it_granted() {
    let mut copy = following();
    pass(&mut copy, 0, GRACE - 1);
    assert!(!takes_over(&mut copy));
    at(&mut copy, GRACE);
    assert!(copy.is_candidate());
    let change = Change::TakeOver { by: member(ME), epoch: Epoch(1), keeps_old: false };
    assert_eq!(copy.wanted(Lsn::ZERO, false), Some(change));
    // A shorter grace does not take back a longer one.
    let mut copy = following();
    copy.grant(900);
    copy.grant(100);
    pass(&mut copy, 0, 900 * MS - 1);
    assert!(!copy.is_candidate());
    at(&mut copy, 900 * MS);
    assert!(copy.is_candidate());
}

#[test]
fn after_a_boot_the_largest_grace_ever_granted_is_waited_for() {
    let mut copy = Copy::new(member(ME), vec![FIRST], Epoch(1), (600, 5_000), 2_000, START_NS);
    copy.set_health(false, true);
    copy.on_settled(pair(1, FIRST), false);
    pass(&mut copy, 0, 2_000 * MS - 1);
    assert!(!copy.is_candidate());
    at(&mut copy, 2_000 * MS);
    assert!(copy.is_candidate());
}

#[test]
fn only_a_sound_copy_that_is_in_sync_takes_over() {
    type Change = fn(&mut Copy);
    let cases: [(&str, Change); 4] = [
        ("damaged", |copy| copy.set_health(true, true)),
        ("never whole", |copy| copy.set_health(false, false)),
        ("another content", |copy| copy.replaced(Member { store: Uuid(99), ..member(ME) }, false)),
        ("not in sync", |copy| {
            copy.learn(Configuration { version: 9, ..alone(1, FIRST) });
        }),
    ];
    for (why, change) in cases {
        let mut copy = following();
        change(&mut copy);
        pass(&mut copy, 0, 2 * GRACE);
        assert!(!copy.is_candidate(), "{why}");
        copy.on_lead(FIRST, Epoch(1), true);
        assert!(!copy.is_candidate(), "{why}: told or not");
    }
    let mut stopping = following();
    for ms in (0..1_200).step_by(100) {
        stopping.at(START_NS + ms * MS);
        stopping.tick(true);
    }
    assert!(!stopping.is_candidate());
}

#[test]
fn a_process_that_stood_still_waits_a_grace_anew() {
    let mut copy = following();
    at(&mut copy, 100 * MS);
    // Beacons may wait in the sockets, and the primary may have stood still as well.
    at(&mut copy, 5_000 * MS);
    assert!(!copy.is_candidate());
    pass(&mut copy, 5_000 * MS, 5_599 * MS);
    assert!(!copy.is_candidate());
    at(&mut copy, 5_600 * MS);
    assert!(copy.is_candidate());
    for (spell_ns, until_ns) in [(GRACE / 2, GRACE), (GRACE / 2 + 1, GRACE / 2 + 1 + GRACE)] {
        let mut copy = following();
        at(&mut copy, spell_ns);
        pass(&mut copy, spell_ns, until_ns - 1);
        assert!(!copy.is_candidate());
        at(&mut copy, until_ns);
        assert!(copy.is_candidate(), "longer than half the grace: {spell_ns}");
    }
}

#[test]
fn a_candidate_grants_confirms_and_takes_nothing() {
    let mut copy = following();
    pass(&mut copy, 0, GRACE);
    assert!(copy.is_candidate() && copy.is_candidate_against(FIRST, Epoch(1)));
    assert_eq!(copy.may_grant(FIRST, &beacon(1)), None);
    assert!(!copy.confirms(FIRST, Epoch(1)));
    assert!(!copy.takes_from(LINK, Epoch(1)));
    assert_eq!(copy.on_follow(FIRST, LINK, &pair(1, FIRST)), (Verdict::Later, Turn::None));
    assert!(copy.is_candidate());
    // Given up in time, it follows again, and owes the primary a grace.
    copy.withdrawn(FIRST);
    assert!(!copy.is_candidate());
    assert_eq!(copy.may_grant(FIRST, &beacon(1)), None, "its log is to be matched first");
    assert_eq!(copy.on_follow(FIRST, link(2), &pair(1, FIRST)), (Verdict::Follows, Turn::None));
    assert!(copy.matched(link(2)) && copy.confirms(FIRST, Epoch(1)));
    pass(&mut copy, GRACE, 2 * GRACE - 1);
    assert!(!copy.is_candidate());
}

#[test]
fn a_candidate_yields_to_a_newer_epoch() {
    let mut copy = following();
    pass(&mut copy, 0, GRACE);
    assert_eq!(copy.on_follow(FIRST, link(2), &pair(2, FIRST)), (Verdict::Follows, Turn::None));
    assert_eq!(copy.epoch(), Epoch(2));
    assert_eq!(copy.on_settled(pair(2, FIRST), false), Turn::None, "its own round found that, too");
    assert!(copy.following().is_some() && !copy.is_candidate());
}

#[test]
fn a_copy_leads_by_a_round_of_its_own_only() {
    let mut copy = following();
    // Others may have brought an old proposal of this node to its end.
    assert_eq!(copy.learn(alone(2, ME)), Turn::None);
    assert!(!copy.leads());
    assert_eq!(copy.wanted(Lsn::ZERO, false), Some(Change::Restart(member(ME))));
    assert_eq!(copy.on_settled(alone(2, ME), false), Turn::None);
    assert!(!copy.leads() && copy.is_candidate());
    assert_eq!(copy.on_settled(alone(3, ME), true), Turn::Begins);
    assert!(copy.leads());
    assert_eq!(copy.epoch(), Epoch(3));
    // A round of its own may find that, too, where its change does not apply any more.
    let mut copy = following();
    pass(&mut copy, 0, GRACE);
    assert!(takes_over(&mut copy));
    assert_eq!(copy.on_settled(alone(2, ME), false), Turn::None);
    assert!(!copy.leads());
    assert_eq!(copy.wanted(Lsn::ZERO, false), Some(Change::Restart(member(ME))));
}

/// On real machines two copies that lost each other every few seconds took over from one another each time: the new
/// primary knew nothing of how often it had lost the old one.
#[test]
fn a_primary_that_was_lost_again_and_again_is_taken_in_later_each_time() {
    let mut copy = following();
    let (mut epoch, mut now_ns, mut pauses_ms) = (1, 0, Vec::new());
    for _ in 0..4 {
        now_ns += GRACE;
        pass(&mut copy, now_ns - GRACE, now_ns);
        assert!(takes_over(&mut copy));
        assert_eq!(copy.on_settled(alone(epoch + 1, ME), true), Turn::Begins);
        copy.epoch_persisted(Epoch(epoch + 1), Lsn(4));
        assert_eq!(copy.advance(Lsn(4)), Some(Lsn(4)));
        let from_ns = now_ns;
        is_caught_up(&mut copy, FIRST);
        while !matches!(copy.wanted(Lsn(4), false), Some(Change::Grow { .. })) {
            now_ns += MS;
            at(&mut copy, now_ns);
            let now_ns = copy.now_ns;
            copy.leading_mut().unwrap().followers.on_grant(FIRST, Epoch(epoch + 1), now_ns, 0, now_ns);
            assert!(now_ns < 100_000 * MS, "it is taken in");
        }
        pauses_ms.push((now_ns - from_ns) / MS);
        // The other leads again, and is lost again.
        epoch += 2;
        copy.on_settled(pair(epoch - 1, ME), true);
        copy.learn(pair(epoch, FIRST));
        assert_eq!(copy.on_follow(FIRST, LINK, &pair(epoch, FIRST)).0, Verdict::Follows);
        assert!(copy.matched(LINK));
    }
    assert_eq!(pauses_ms, [101, 201, 401, 801]);
}

/// A copy has everything that this primary has, and is heard.
fn is_caught_up(copy: &mut Copy, node: NodeId) {
    let epoch = copy.epoch();
    let now_ns = copy.now_ns;
    let said = Said {
        epoch,
        store: member(node).store,
        had: Lsn(4),
        had_committed: Lsn::ZERO,
        end: Lsn(4),
        durable: Lsn(4),
        is_whole: true,
        is_ahead: false,
    };
    let followers = &mut copy.leading_mut().unwrap().followers;
    followers.asked(node, link(node.0), now_ns);
    assert!(followers.on_following(node, link(node.0), &said, now_ns));
}

#[test]
fn a_takeover_that_another_won_is_over() {
    let mut copy = following();
    pass(&mut copy, 0, GRACE);
    assert!(copy.is_candidate());
    assert_eq!(copy.on_settled(pair(2, FIRST), false), Turn::None);
    assert!(!copy.is_candidate() && !copy.leads());
    assert_eq!(copy.following().map(|following| following.primary), Some(FIRST));
}

#[test]
fn a_copy_that_is_told_to_lead_does_not_wait() {
    let mut copy = following();
    copy.on_lead(ME, Epoch(1), true);
    copy.on_lead(FIRST, Epoch(0), true);
    copy.on_lead(FIRST, Epoch(2), true);
    assert!(!copy.is_candidate(), "by another node, or of another epoch");
    copy.on_lead(FIRST, Epoch(1), true);
    let change = Change::TakeOver { by: member(ME), epoch: Epoch(1), keeps_old: true };
    assert_eq!(copy.wanted(Lsn::ZERO, false), Some(change));
}

#[test]
fn a_primary_answers_nothing_before_its_epoch_is_durable_and_its_log_is_committed() {
    let mut copy = waiting();
    copy.learn(alone(2, ME));
    assert_eq!(copy.on_settled(alone(3, ME), true), Turn::Begins);
    assert_eq!(copy.advance(Lsn(4)), None, "its epoch is not durable");
    assert_eq!(copy.wanted(Lsn(4), false), None);
    copy.epoch_persisted(Epoch(2), Lsn(4));
    assert_eq!(copy.advance(Lsn(4)), None, "nor is it by an older epoch's");
    copy.epoch_persisted(Epoch(3), Lsn(4));
    assert_eq!(copy.advance(Lsn(3)), None);
    assert_eq!(copy.serves(Lsn(4)), Err(NotServing::Starting));
    assert_eq!(copy.advance(Lsn(4)), Some(Lsn(4)));
    assert_eq!(copy.serves(Lsn(3)), Err(NotServing::Starting), "the store does not show it yet");
    assert_eq!(copy.serves(Lsn(4)), Ok(()));
    assert!(copy.meets(&copy.barrier(Lsn(4)), Lsn(4)));
    assert!(!copy.meets(&copy.barrier(Lsn(5)), Lsn(5)), "not committed");
    assert!(!copy.meets(&Barrier { epoch: Epoch(2), ..copy.barrier(Lsn(4)) }, Lsn(4)), "of an older epoch");
    assert!(!copy.meets(&Barrier { round: 1, ..copy.barrier(Lsn(4)) }, Lsn(4)), "not confirmed");
}

#[test]
fn a_primary_with_an_empty_log_waits_for_the_copies_as_well() {
    let mut copy = waiting();
    copy.learn(pair(2, ME));
    assert_eq!(copy.on_settled(pair(3, ME), true), Turn::Begins);
    copy.epoch_persisted(Epoch(3), Lsn::ZERO);
    assert_eq!(copy.advance(Lsn::ZERO), None);
    assert_eq!(copy.serves(Lsn::ZERO), Err(NotServing::Starting));
    let followers = &mut copy.leading_mut().unwrap().followers;
    followers.asked(FIRST, LINK, 0);
    let said = Said {
        epoch: Epoch(3),
        store: member(FIRST).store,
        had: Lsn::ZERO,
        had_committed: Lsn::ZERO,
        end: Lsn::ZERO,
        durable: Lsn::ZERO,
        is_whole: true,
        is_ahead: false,
    };
    assert!(followers.on_following(FIRST, LINK, &said, START_NS));
    assert_eq!(copy.advance(Lsn::ZERO), Some(Lsn::ZERO));
    assert_eq!(copy.serves(Lsn::ZERO), Ok(()));
}

#[test]
fn a_primary_is_deposed_by_a_newer_epoch_and_by_nothing_else() {
    let mut copy = leading();
    assert_eq!(copy.learn(pair(2, FIRST)), Turn::None);
    assert_eq!(copy.learn(alone(3, ME)), Turn::None);
    assert_eq!(copy.on_follow(FIRST, LINK, &pair(2, FIRST)), (Verdict::Stale, Turn::None));
    assert!(copy.leads());
    let mut told = leading();
    assert_eq!(told.learn(pair(4, FIRST)), Turn::Deposed);
    assert_eq!(told.following().map(|following| following.primary), Some(FIRST));
    assert_eq!(copy.on_follow(FIRST, LINK, &pair(4, FIRST)), (Verdict::Follows, Turn::Deposed));
    assert!(!copy.leads());
}

#[test]
fn a_primary_that_is_deposed_gives_the_new_one_a_grace() {
    let mut copy = leading();
    pass(&mut copy, 0, 2 * GRACE);
    assert_eq!(copy.learn(pair(4, FIRST)), Turn::Deposed);
    pass(&mut copy, 2 * GRACE, 3 * GRACE - 1);
    assert!(!copy.is_candidate());
    at(&mut copy, 3 * GRACE);
    assert!(copy.is_candidate());
}

#[test]
fn who_has_stopped_in_an_epoch_never_leads_in_it_again() {
    let mut copy = leading();
    assert_eq!(copy.stop_leading(), Turn::Deposed);
    assert_eq!((copy.stop_leading(), copy.leads(), copy.advance(Lsn(9))), (Turn::None, false, None));
    assert!(!copy.meets(&copy.barrier(Lsn(1)), Lsn(9)));
    assert_eq!(copy.learn(Configuration { version: 9, ..alone(3, ME) }), Turn::None);
    assert_eq!(copy.wanted(Lsn(4), false), None);
    pass(&mut copy, 0, GRACE - 1);
    assert!(!copy.is_candidate());
    // Nobody has taken over: it goes on, in another epoch.
    at(&mut copy, GRACE);
    assert_eq!(copy.on_settled(Configuration { version: 9, ..alone(3, ME) }, true), Turn::None, "not in this one");
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Restart(member(ME))));
    assert_eq!(copy.on_settled(Configuration { version: 10, ..alone(4, ME) }, true), Turn::Begins);
    // Somebody has.
    let mut copy = leading();
    copy.stop_leading();
    assert_eq!(copy.learn(pair(4, FIRST)), Turn::None);
    pass(&mut copy, 0, GRACE - 1);
    assert!(copy.following().is_some() && !copy.is_candidate());
}

#[test]
fn a_node_that_is_told_to_stop_does_not_lead_again() {
    let mut copy = leading();
    copy.stop_leading();
    for ms in (0..2_000).step_by(100) {
        copy.at(START_NS + ms * MS);
        copy.tick(true);
    }
    assert!(!copy.is_candidate());
}

#[test]
fn a_primary_without_its_content_does_not_start_again() {
    let mut emptied = Copy::new(member(ME), vec![FIRST], Epoch(3), (600, 5_000), 0, START_NS);
    emptied.set_health(false, false);
    emptied.on_settled(pair(3, ME), false);
    pass(&mut emptied, 0, 3 * GRACE);
    assert!(!emptied.is_candidate());
    assert!(!emptied.may_answer_stale());
    let other = Member { store: Uuid(99), ..member(ME) };
    let mut replaced = Copy::new(other, vec![FIRST], Epoch(0), (600, 5_000), 0, START_NS);
    replaced.set_health(false, true);
    replaced.on_settled(pair(3, ME), false);
    pass(&mut replaced, 0, 3 * GRACE);
    assert!(!replaced.is_candidate(), "it is another copy than the one that led");
}

/// The other one lacks what this one has, and nobody else can give it that.
#[test]
fn the_only_copy_in_sync_leads_to_fill_another_when_it_was_found_damaged_while_it_ran() {
    let stopped_by_damage = |damage: fn(&mut Copy), chosen: Configuration| {
        let mut copy = leading();
        copy.learn(chosen);
        damage(&mut copy);
        copy.stop_leading();
        pass(&mut copy, 0, GRACE);
        copy
    };
    let alone_again = || Configuration { version: 9, ..alone(3, ME) };
    let mut copy = stopped_by_damage(Copy::found_damaged, alone_again());
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Restart(member(ME))));
    // Somebody else's round came between: it tries again.
    assert_eq!(copy.on_settled(Configuration { version: 10, ..alone(3, ME) }, false), Turn::None);
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Restart(member(ME))));
    assert_eq!(copy.on_settled(Configuration { version: 11, ..alone(4, ME) }, true), Turn::Begins);
    copy.epoch_persisted(Epoch(4), Lsn(4));
    assert_eq!(copy.advance(Lsn(4)), Some(Lsn(4)));
    // It serves nobody.
    assert_eq!(copy.serves(Lsn(4)), Err(NotServing::Damaged));
    assert!(!copy.may_answer_stale());
    // The one that it has filled is to lead: it does not let that go, however silent that is.
    copy.learn(Configuration { version: 12, primary: ME, ..pair(4, ME) });
    pass(&mut copy, GRACE, 20 * GRACE);
    assert_eq!(copy.wanted(Lsn(4), false), None);
    // Filled anew itself, it is like any other; one that never had everything has nothing to give.
    let emptied = |copy: &mut Copy| (copy.found_damaged(), copy.set_health(true, false)).1;
    assert!(!stopped_by_damage(emptied, alone_again()).is_candidate());
    let refilled = |copy: &mut Copy| (copy.found_damaged(), copy.replaced(member(ME), true)).1;
    assert!(!stopped_by_damage(refilled, alone_again()).is_candidate());
    // Nor has one that would have to write for its epoch to begin.
    let cannot = |copy: &mut Copy| (copy.found_damaged(), copy.cannot_fill()).1;
    assert!(!stopped_by_damage(cannot, alone_again()).is_candidate());
    // Another one in sync leads instead; of one that opened damaged nothing is known.
    let both = || Configuration { version: 9, primary: ME, ..pair(3, ME) };
    assert!(!stopped_by_damage(Copy::found_damaged, both()).is_candidate());
    assert!(!stopped_by_damage(|copy| copy.set_health(true, true), alone_again()).is_candidate());
}

#[test]
fn force_makes_a_candidate_of_any_role() {
    let mut copy = leading();
    assert_eq!(copy.force(), Turn::Deposed);
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Force(member(ME))));
    let mut copy = following();
    assert_eq!(copy.force(), Turn::None);
    assert_eq!(copy.on_settled(Configuration { forced: 1, ..alone(2, ME) }, true), Turn::Begins);
}

#[test]
fn a_copy_without_a_primary_looks_into_the_register_now_and_then() {
    let mut copy = following();
    copy.learn(Configuration { version: 9, ..alone(1, FIRST) });
    pass(&mut copy, 0, GRACE);
    assert_eq!(copy.wanted(Lsn::ZERO, false), Some(Change::Observe));
    assert_eq!(copy.wanted(Lsn::ZERO, false), None);
    pass(&mut copy, GRACE, 2 * GRACE);
    assert_eq!(copy.wanted(Lsn::ZERO, false), Some(Change::Observe));
}

#[test]
fn how_far_behind_a_copy_is_counts_from_when_it_had_everything() {
    let mut copy = following();
    copy.heard_committed(Lsn(5), Lsn(5));
    at(&mut copy, 100 * MS);
    assert_eq!(copy.behind_ms(), 100);
    copy.heard_committed(Lsn(6), Lsn(5));
    assert_eq!(copy.behind_ms(), 100, "it lacks a record");
    copy.heard_committed(Lsn(6), Lsn(6));
    assert_eq!(copy.behind_ms(), 0);
    assert_eq!(leading().behind_ms(), 0);
}

/// An operator forces it to lead, alone, in epoch 2; its log ends at 4.
fn is_forced(copy: &mut Copy) {
    assert_eq!(copy.force(), Turn::None);
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Force(member(ME))));
    assert_eq!(copy.on_settled(Configuration { forced: 1, ..alone(2, ME) }, true), Turn::Begins);
    copy.epoch_persisted(Epoch(2), Lsn(4));
    assert_eq!(copy.advance(Lsn(4)), Some(Lsn(4)));
}

#[test]
fn a_copy_that_is_forced_to_lead_is_silent_until_the_leases_that_it_granted_are_over() {
    // Nobody asked the primary before: it may still read on the strength of them.
    let mut copy = following();
    pass(&mut copy, 0, 300 * MS);
    copy.grant(600);
    is_forced(&mut copy);
    pass(&mut copy, 300 * MS, 900 * MS - 1);
    assert_eq!(copy.serves(Lsn(4)), Err(NotServing::Starting));
    at(&mut copy, 900 * MS);
    assert_eq!(copy.serves(Lsn(4)), Ok(()));
    // Of what the process before granted, only the length is known.
    let mut started = Copy::new(member(ME), vec![FIRST], Epoch(1), (600, 5_000), 2_000, START_NS);
    started.set_health(false, true);
    is_forced(&mut started);
    pass(&mut started, 0, 2_000 * MS - 1);
    assert_eq!(started.serves(Lsn(4)), Err(NotServing::Starting));
    at(&mut started, 2_000 * MS);
    assert_eq!(started.serves(Lsn(4)), Ok(()));
    assert_eq!(leading().serves(Lsn(4)), Ok(()), "who was the primary before has nobody to wait for");
}

#[test]
fn whoever_is_about_to_lead_follows_in_a_newer_epoch_only() {
    let mut alarmed = following();
    pass(&mut alarmed, 0, GRACE);
    let mut told = following();
    told.on_lead(FIRST, Epoch(1), true);
    let mut forced = following();
    forced.force();
    for (what, mut copy) in [("after the grace", alarmed), ("told to", told), ("forced", forced)] {
        let wish = copy.wanted(Lsn::ZERO, false);
        assert_eq!(copy.on_follow(FIRST, link(2), &pair(1, FIRST)), (Verdict::Later, Turn::None), "{what}");
        assert!(copy.is_candidate() && copy.wanted(Lsn::ZERO, false) == wish, "{what}");
        assert!(!copy.matched(link(2)) && copy.may_grant(FIRST, &beacon(1)).is_none(), "{what}");
        assert_eq!(copy.on_follow(FIRST, link(2), &pair(2, FIRST)), (Verdict::Follows, Turn::None), "{what}");
        assert!(copy.matched(link(2)) && copy.confirms(FIRST, Epoch(2)), "{what}");
    }
    // Who starts anew was the primary of its epoch itself: nobody else can be.
    let mut restarting = waiting();
    restarting.learn(alone(2, ME));
    assert_eq!(restarting.on_follow(FIRST, link(2), &pair(2, FIRST)), (Verdict::Stale, Turn::None));
    assert_eq!(restarting.wanted(Lsn::ZERO, false), Some(Change::Restart(member(ME))));
    assert_eq!(restarting.on_follow(FIRST, link(2), &pair(3, FIRST)), (Verdict::Follows, Turn::None));
    assert!(restarting.matched(link(2)) && restarting.confirms(FIRST, Epoch(3)));
}

#[test]
fn the_wait_of_a_start_outlasts_the_first_word_of_a_primary() {
    // The process before may have granted a lease for so long, to a primary that is still silent about it.
    for has_read_the_register in [true, false] {
        let mut copy = Copy::new(member(ME), vec![FIRST], Epoch(1), (600, 5_000), 2_000, START_NS);
        copy.set_health(false, true);
        if has_read_the_register {
            copy.on_settled(pair(1, FIRST), false);
        }
        pass(&mut copy, 0, 100 * MS);
        assert_eq!(copy.on_follow(FIRST, LINK, &pair(1, FIRST)), (Verdict::Follows, Turn::None));
        assert!(copy.matched(LINK));
        copy.on_link_lost(LINK);
        pass(&mut copy, 100 * MS, 2_000 * MS - 1);
        assert!(!copy.is_candidate());
        at(&mut copy, 2_000 * MS);
        assert!(copy.is_candidate());
    }
}

#[test]
fn a_first_word_late_in_the_wait_of_a_start_is_worth_a_grace_of_its_own() {
    let mut copy = waiting();
    pass(&mut copy, 0, 500 * MS);
    copy.on_follow(FIRST, LINK, &pair(1, FIRST));
    pass(&mut copy, 500 * MS, 1_100 * MS - 1);
    assert!(!copy.is_candidate());
    at(&mut copy, 1_100 * MS);
    assert!(copy.is_candidate());
}

#[test]
fn nobody_is_taken_in_before_the_log_of_a_new_primary_is_settled() {
    const THIRD: NodeId = NodeId(2);
    let mut copy = Copy::new(member(ME), vec![FIRST, THIRD], Epoch(0), (600, 5_000), 0, START_NS);
    copy.set_health(false, true);
    copy.on_settled(pair(2, ME), false);
    assert_eq!(copy.on_settled(pair(3, ME), true), Turn::Begins);
    copy.epoch_persisted(Epoch(3), Lsn(4));
    let follows = |copy: &mut Copy, node: NodeId| {
        let said = Said {
            epoch: Epoch(3),
            store: member(node).store,
            had: Lsn(4),
            had_committed: Lsn::ZERO,
            end: Lsn(4),
            durable: Lsn(4),
            is_whole: true,
            is_ahead: false,
        };
        let followers = &mut copy.leading_mut().unwrap().followers;
        followers.asked(node, link(node.0), START_NS);
        assert!(followers.on_following(node, link(node.0), &said, START_NS));
    };
    // It has everything, but to require it would hold up what the copies in sync are still to agree on.
    follows(&mut copy, THIRD);
    for _ in 0..3 {
        assert_eq!(copy.wanted(Lsn(4), false), None);
        assert_eq!(copy.advance(Lsn(4)), None);
        let followers = &copy.leading().unwrap().followers;
        assert!(!followers.is_required(followers.get(THIRD).unwrap()));
    }
    follows(&mut copy, FIRST);
    assert_eq!(copy.advance(Lsn(4)), Some(Lsn(4)));
    assert_eq!(copy.wanted(Lsn(4), false), None, "it is required first");
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Grow { epoch: Epoch(3), member: member(THIRD) }));
}

#[test]
fn a_round_that_only_asked_leaves_a_candidate_to_what_it_is_about() {
    let mut forced = waiting();
    forced.force();
    assert_eq!(forced.on_observed(pair(1, FIRST)), Turn::None);
    assert_eq!(forced.wanted(Lsn(4), false), Some(Change::Force(member(ME))));
    // Nor does it keep one from granting once it follows.
    let mut told = fresh();
    told.on_follow(FIRST, LINK, &pair(1, FIRST));
    told.on_lead(FIRST, Epoch(1), true);
    assert_eq!(told.on_observed(pair(1, FIRST)), Turn::None);
    let change = Change::TakeOver { by: member(ME), epoch: Epoch(1), keeps_old: true };
    assert_eq!(told.wanted(Lsn::ZERO, false), Some(change));
    told.withdrawn(FIRST);
    told.on_follow(FIRST, LINK, &pair(1, FIRST));
    assert!(told.matched(LINK) && told.confirms(FIRST, Epoch(1)));
}

#[test]
fn a_handover_begins_with_a_round_that_changes_nothing() {
    let mut copy = leading();
    let handing = Handing { to: FIRST, until_ns: START_NS + GRACE, is_agreed: false };
    copy.leading_mut().unwrap().handing = Some(handing);
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Observe));
    assert_eq!(copy.serves(Lsn(4)), Ok(()), "without a majority it goes on");
    copy.on_observed(alone(3, ME));
    assert_eq!(copy.wanted(Lsn(4), false), None);
    assert_eq!(copy.serves(Lsn(4)), Err(NotServing::Starting));
    pass(&mut copy, 0, GRACE - 1);
    assert_eq!(copy.serves(Lsn(4)), Err(NotServing::Starting));
    at(&mut copy, GRACE);
    assert_eq!(copy.serves(Lsn(4)), Ok(()), "nobody took it up");
}

/// A process that was forced to lead may have been killed before it had waited.
#[test]
fn a_start_behind_a_forced_takeover_is_silent_for_as_long_as_a_lease_may_run() {
    let started = |forced, chosen: fn(u64, NodeId) -> Configuration| {
        let mut copy = Copy::new(member(ME), vec![FIRST], Epoch(1), (600, 5_000), 2_000, START_NS);
        copy.set_health(false, true);
        let by_an_earlier_run = copy.on_settled(Configuration { forced, ..chosen(2, ME) }, false);
        assert_eq!(by_an_earlier_run, Turn::None);
        assert_eq!(copy.on_settled(Configuration { forced, ..chosen(3, ME) }, true), Turn::Begins);
        copy.leading().unwrap().silent_until_ns
    };
    assert_eq!(started(1, alone), START_NS + 2_000 * MS);
    assert_eq!(started(0, alone), 0);
    assert_eq!(started(1, pair), START_NS + 2_000 * MS, "taking another copy in may have been a matter of moments");
}

#[test]
fn a_copy_that_was_emptied_does_not_lead_because_it_was_the_only_one() {
    let mut emptied =
        Copy::new(Member { store: Uuid(99), ..member(ME) }, vec![FIRST], Epoch(0), (600, 5_000), 0, START_NS);
    emptied.set_health(false, true);
    emptied.on_settled(alone(3, ME), false);
    pass(&mut emptied, 0, 3 * GRACE);
    assert!(!emptied.is_candidate());
    // Where an operator has cut its log, he gave that up; but not while another copy is in sync.
    for (chosen, leads) in [(alone(3, ME), true), (pair(3, ME), false)] {
        let mut cut =
            Copy::new(Member { store: Uuid(99), ..member(ME) }, vec![FIRST], Epoch(0), (600, 5_000), 0, START_NS);
        cut.set_health(false, true);
        cut.set_cut();
        cut.on_settled(chosen, false);
        assert_eq!(cut.is_candidate(), leads);
    }
}

#[test]
fn a_new_primary_does_not_shorten_the_grace_that_was_granted_to_the_one_before() {
    let mut copy = following();
    copy.grant(2_000);
    pass(&mut copy, 0, 100 * MS);
    assert_eq!(copy.on_follow(FIRST, link(2), &pair(2, FIRST)), (Verdict::Follows, Turn::None));
    copy.on_link_lost(link(2));
    pass(&mut copy, 100 * MS, 2_000 * MS - 1);
    assert!(!copy.is_candidate());
    at(&mut copy, 2_000 * MS);
    assert!(copy.is_candidate());
}

#[test]
fn a_copy_is_looked_at_with_each_beacon_and_when_its_grace_is_over() {
    let mut copy = following();
    let next_ms = |copy: &Copy| (copy.next_ns() - START_NS) / MS;
    assert_eq!(next_ms(&copy), 100);
    pass(&mut copy, 0, 550 * MS);
    assert_eq!(next_ms(&copy), 600);
    pass(&mut copy, 550 * MS, GRACE);
    assert_eq!(next_ms(&copy), 700);
    let mut behind = following();
    behind.learn(Configuration { version: 9, ..alone(1, FIRST) });
    pass(&mut behind, 0, GRACE);
    assert_eq!(next_ms(&behind), 700, "it does not lead when its grace is over");
    let mut leads = leading();
    assert_eq!(next_ms(&leads), 100);
    leads.learn(Configuration { version: 9, primary: ME, ..pair(3, ME) });
    assert_eq!(next_ms(&leads), 5, "a copy in sync has no link: it may be back at any moment");
}

#[test]
fn what_a_primary_was_behind_when_its_role_ended_is_counted_on() {
    // Alone it had everything until then.
    let mut copy = leading();
    pass(&mut copy, 0, GRACE);
    copy.stop_leading();
    at(&mut copy, GRACE + 100 * MS);
    assert_eq!(copy.behind_ms(), 100);
    // Nobody ever granted it a lease: it may be behind since it began.
    let mut copy = waiting();
    copy.learn(pair(2, ME));
    assert_eq!(copy.on_settled(pair(3, ME), true), Turn::Begins);
    at(&mut copy, 300 * MS);
    assert_eq!(copy.behind_ms(), 300);
    copy.stop_leading();
    at(&mut copy, 400 * MS);
    assert_eq!(copy.behind_ms(), 400);
}

#[test]
fn a_copy_that_is_filled_anew_says_so_whatever_its_role() {
    let copy = following();
    assert!(copy.may_answer_stale());
    assert_eq!(copy.state(Lsn::ZERO, true), CopyState::Syncing);
    assert_eq!(copy.state(Lsn::ZERO, false), CopyState::InSync);
    let mut damaged = copy;
    damaged.found_damaged();
    assert_eq!(damaged.state(Lsn::ZERO, false), CopyState::Damaged);
    let leads = leading();
    assert_eq!((leads.is_damaged(), leads.state(Lsn(4), false)), (false, CopyState::Serving));
    assert_eq!(leads.state(Lsn(3), false), CopyState::Settling, "the store does not show all that is committed");
}

#[test]
fn a_primary_proposes_nothing_before_its_epoch_is_durable() {
    let mut copy = waiting();
    copy.learn(pair(2, ME));
    assert_eq!(copy.on_settled(pair(3, ME), true), Turn::Begins);
    pass(&mut copy, 0, 2 * GRACE);
    assert_eq!(copy.wanted(Lsn(4), false), None);
    copy.epoch_persisted(Epoch(3), Lsn(4));
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Shrink { epoch: Epoch(3), member: member(FIRST) }));
}

#[test]
fn what_is_known_of_the_configuration_never_goes_back() {
    let mut copy = following();
    let known = || Configuration { version: 9, ..pair(1, FIRST) };
    copy.learn(known());
    for older in [Configuration { version: 8, ..alone(1, FIRST) }, Configuration { version: 10, ..alone(0, FIRST) }] {
        copy.learn(older);
        assert_eq!(copy.configuration(), Some(&known()));
    }
}

#[test]
fn a_primary_that_stood_still_takes_no_copy_for_silent() {
    let mut copy = waiting();
    copy.learn(pair(2, ME));
    assert_eq!(copy.on_settled(pair(3, ME), true), Turn::Begins);
    copy.epoch_persisted(Epoch(3), Lsn(4));
    at(&mut copy, 20 * GRACE);
    assert_eq!(copy.wanted(Lsn(4), false), None);
    pass(&mut copy, 20 * GRACE, 21 * GRACE);
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Shrink { epoch: Epoch(3), member: member(FIRST) }));
}

#[test]
fn how_often_a_copy_was_lost_is_remembered_beyond_the_epoch() {
    let mut copy = waiting();
    copy.learn(pair(2, ME));
    assert_eq!(copy.on_settled(pair(3, ME), true), Turn::Begins);
    copy.epoch_persisted(Epoch(3), Lsn(4));
    pass(&mut copy, 0, GRACE);
    assert_eq!(copy.wanted(Lsn(4), false), Some(Change::Shrink { epoch: Epoch(3), member: member(FIRST) }));
    assert_eq!(copy.on_settled(Configuration { version: 5, ..alone(3, ME) }, true), Turn::None);
    let mut lost = Strikes::default();
    lost.add(START_NS + GRACE);
    copy.stop_leading();
    pass(&mut copy, GRACE, 2 * GRACE);
    assert_eq!(copy.on_settled(Configuration { version: 6, ..alone(4, ME) }, true), Turn::Begins);
    assert_eq!(copy.leading().unwrap().followers.strikes().collect::<Vec<_>>(), [lost]);
}

#[test]
fn who_has_withdrawn_a_takeover_waits_a_grace_anew() {
    let mut copy = following();
    copy.on_lead(FIRST, Epoch(1), true);
    assert!(copy.is_candidate());
    copy.withdrawn(FIRST);
    assert!(!copy.is_candidate());
    pass(&mut copy, 0, GRACE - 1);
    assert!(!copy.is_candidate());
    at(&mut copy, GRACE);
    assert!(copy.is_candidate());
}
