//! Owns: the fault scenarios that a doubtful operator would try first, one after the other on the real binary, each
//! with the outcome that is required of it, and what it came to. Those that random faults cover as well are here for
//! their outcome: who leads, how often that changes, how long writes are held up.
//! Never: faults by seed.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::crowd::Crowd;
use crate::faults::{flip, power_loss};
use crate::rig::Rig;
use crate::shim::Word;
use crate::support::dice::Dice;
use crate::support::load::Watch;

/// A scenario.
pub struct Scenario {
    pub name: &'static str,
    /// Copies of each shard.
    pub copies: &'static [usize],
    pub witnesses: usize,
    pub settings: &'static str,
    /// Gives what it came to.
    pub play: fn(&Rig, &Watch<'_, '_>) -> String,
}

/// Two shards of two copies and a witness: five voters.
const fn on_five(name: &'static str, play: fn(&Rig, &Watch<'_, '_>) -> String) -> Scenario {
    Scenario { name, copies: &[2, 2], witnesses: 1, settings: "", play }
}

pub const SCENARIOS: [Scenario; 24] = [
    on_five("04 a primary stands still for 10 s", primary_stands_still),
    on_five("05 a replica stands still for 10 s", replica_stands_still),
    on_five("06 all nodes stand still for 30 s", all_stand_still),
    on_five("07 primary and replica are cut from each other", pair_is_cut),
    on_five("08 a primary is cut off, but not from clients", primary_is_cut_off),
    on_five("08b the same, and it was alone in sync", lone_primary_is_cut_off),
    on_five("09 both copies are in a minority", pair_in_a_minority),
    on_five("10 what a primary sends is lost", primary_is_mute),
    on_five("10b what a primary is sent is lost", primary_is_deaf),
    Scenario { name: "11 two halves", copies: &[2, 2, 2, 2], witnesses: 0, settings: "", play: halves },
    on_five("12 a line that flaps, 2 s and 2 s", flapping),
    on_five("13 a full sync is interrupted, three times and for good", interrupted_syncs),
    on_five("14 the power goes for all nodes", power_goes),
    on_five("16 bits flip in what voters remember", flipped_voters),
    on_five("17 full disks", full_disks),
    on_five("18 a sync fails", sync_fails),
    on_five("19 syncs take 2 s", slow_disks),
    on_five("20 a disk hangs for ever", hung_disk),
    on_five("21 a line of 1 MB/s", slow_line),
    on_five("22 clocks are off and jump", clocks),
    on_five("23 a restart storm", storm),
    on_five("24 all are killed, and one is missing", one_is_missing),
    on_five("25 wiped disks", wiped),
    on_five("26 10,000 connections, slow heads and floods, while a primary dies", crowd),
];

/// What a shard's requests may be held up by a failover.
const BOUND: Duration = Duration::from_secs(2);

/// How long the long ones last.
pub fn long() -> Duration {
    crate::number("DKV_CAMPAIGN_MINUTES").map_or(Duration::from_secs(600), |minutes| Duration::from_secs(minutes * 60))
}

fn wait_s(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

/// The newest that any node knows of a shard's configuration.
fn newest(rig: &Rig, shard: usize, what: &str) -> u64 {
    let told = rig.nodes().filter(|node| rig.cluster.has_process(*node) && !rig.cluster.is_frozen(*node));
    told.map(|node| rig.cluster.view(node).shard(shard).number(what)).max().unwrap()
}

fn version_of(rig: &Rig, shard: usize) -> u64 {
    newest(rig, shard, "version")
}

fn epoch_of(rig: &Rig, shard: usize) -> u64 {
    newest(rig, shard, "epoch")
}

fn replica_of(rig: &Rig, shard: usize) -> usize {
    let leader = rig.cluster.leader(shard);
    rig.cluster.copies(shard).find(|copy| *copy != leader).unwrap()
}

#[track_caller]
fn within(gap: Duration, bound: Duration) -> String {
    assert!(gap <= bound, "writes were held up for {} ms", gap.as_millis());
    format!("writes held up {} ms at most", gap.as_millis())
}

fn shim(rig: &Rig, node: usize) -> &crate::shim::NodeShim {
    rig.shim(node).expect("there is a C compiler")
}

fn hosts(rig: &Rig) -> &crate::hosts::Hosts {
    rig.hosts.as_ref().expect("this system has namespaces")
}

fn peers(rig: &Rig, node: usize) -> impl Iterator<Item = usize> {
    rig.nodes().filter(move |peer| *peer != node)
}

/// Another copy leads, and the first comes back as a replica.
fn another_leads(rig: &Rig, watch: &Watch<'_, '_>, fail: impl Fn(usize), seconds: u64, mend: impl Fn(usize)) -> String {
    let (leader, epoch) = (rig.cluster.leader(0), epoch_of(rig, 0));
    watch.gap(0);
    fail(leader);
    rig.cluster.wait_for_leader(0, |node| node != leader);
    watch.more_writes(0, 20);
    let held_up = within(watch.gap(0), BOUND);
    wait_s(seconds);
    mend(leader);
    rig.wait_until_well();
    let epochs = epoch_of(rig, 0) - epoch;
    assert!(rig.cluster.leader(0) != leader && epochs <= 2, "{epochs} epochs");
    format!("{held_up}; {epochs} new epoch; it came back as a replica")
}

fn primary_stands_still(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    another_leads(rig, watch, |node| rig.cluster.freeze(node), 10, |node| rig.cluster.thaw(node))
}

fn replica_stands_still(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (replica, epoch) = (replica_of(rig, 0), epoch_of(rig, 0));
    watch.gap(0);
    rig.cluster.freeze(replica);
    wait_s(10);
    let held_up = within(watch.gap(0), BOUND);
    rig.signal(replica, Signal::CONT);
    rig.wait_until_well();
    assert_eq!(epoch_of(rig, 0), epoch, "nobody else began to lead");
    format!("{held_up}; no new epoch")
}

fn all_stand_still(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let before: Vec<u64> = (0..2).map(|shard| epoch_of(rig, shard)).collect();
    rig.nodes().for_each(|node| rig.cluster.freeze(node));
    wait_s(30);
    let woken = Instant::now();
    rig.nodes().for_each(|node| rig.signal(node, Signal::CONT));
    watch.more_writes_everywhere(20);
    let served = woken.elapsed();
    rig.wait_until_well();
    let epochs: Vec<u64> = (0..2).map(|shard| epoch_of(rig, shard) - before[shard]).collect();
    assert!(served < Duration::from_secs(5) && epochs.iter().all(|more| *more <= 1), "{served:?} {epochs:?}");
    format!("writes on all shards {} ms after waking; new epochs {epochs:?}", served.as_millis())
}

fn pair_is_cut(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    let version = version_of(rig, 0);
    watch.gap(0);
    hosts(rig).cut_both_ways(leader, replica);
    wait_s(3);
    let held_up = within(watch.gap(0), BOUND);
    let settled = version_of(rig, 0);
    wait_s(10);
    assert_eq!(version_of(rig, 0), settled, "nothing changes while the cut lasts");
    rig.heal();
    rig.wait_until_well();
    format!("{held_up}; {} change of the configuration, none in the 10 s after", settled - version)
}

fn primary_is_cut_off(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let cut = |node| peers(rig, node).for_each(|peer| hosts(rig).cut_both_ways(node, peer));
    another_leads(rig, watch, cut, 5, |_| rig.heal())
}

fn lone_primary_is_cut_off(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    rig.kill(replica);
    watch.more_writes(0, 200);
    let version = version_of(rig, 0);
    peers(rig, leader).for_each(|peer| hosts(rig).cut_both_ways(leader, peer));
    wait_s(8);
    let held_up = within(watch.gap(0), BOUND);
    let view = rig.cluster.view(leader);
    assert_eq!(view.shard(0).number("version"), version, "nothing was changed");
    rig.heal();
    rig.wait_until_well();
    format!("it went on for its clients; {held_up}; no change of the configuration in 8 s")
}

fn pair_in_a_minority(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (leader, version) = (rig.cluster.leader(0), version_of(rig, 0));
    for (inside, outside) in [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)] {
        hosts(rig).cut_both_ways(inside, outside);
    }
    watch.gap(0);
    watch.gap(1);
    wait_s(8);
    let (held_up, other) = (within(watch.gap(0), BOUND), within(watch.gap(1), BOUND));
    assert_eq!(rig.cluster.view(leader).shard(0).number("version"), version, "nothing was changed");
    let line = format!("GET /get?key={}", rig.cluster.key(0, 0));
    let answer = rig.cluster.client(4).call(&line, "");
    assert_eq!(answer.status, 503, "{answer:?}");
    rig.heal();
    rig.wait_until_well();
    format!(
        "the pair went on ({held_up}), and so did the others ({other}); the other side answers 503 for the pair's keys"
    )
}

fn one_way(rig: &Rig, watch: &Watch<'_, '_>, cut: impl Fn(usize)) -> String {
    let version = version_of(rig, 0);
    watch.gap(0);
    cut(rig.cluster.leader(0));
    wait_s(4);
    watch.more_writes(0, 20);
    let held_up = within(watch.gap(0), 2 * BOUND);
    let changes = version_of(rig, 0) - version;
    wait_s(5);
    let later = version_of(rig, 0) - version;
    assert_eq!(later, changes, "nothing goes to and fro");
    rig.heal();
    rig.wait_until_well();
    format!("{held_up}; {changes} changes of the configuration in 4 s, none in the 5 s after")
}

fn primary_is_mute(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    one_way(rig, watch, |node| peers(rig, node).for_each(|peer| hosts(rig).cut(node, peer)))
}

fn primary_is_deaf(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    one_way(rig, watch, |node| peers(rig, node).for_each(|peer| hosts(rig).cut(peer, node)))
}

/// Shards 0 and 1 are whole on a side each, 2 and 3 are divided. Of the seven voters, four are on one side.
fn halves(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let sides = [[0, 1, 4, 6], [2, 3, 5, 7]];
    (0..4).for_each(|shard| _ = watch.gap(shard));
    for (a, b) in sides[0].iter().flat_map(|a| sides[1].map(|b| (*a, b))) {
        hosts(rig).cut_both_ways(a, b);
    }
    wait_s(4);
    watch.more_writes_everywhere(20);
    let held_up: Vec<Duration> = (0..4).map(|shard| watch.gap(shard)).collect();
    assert!(
        held_up[0] <= BOUND && held_up[1] <= BOUND && held_up[2] <= 2 * BOUND && held_up[3] <= 2 * BOUND,
        "{held_up:?}"
    );
    let led: Vec<Vec<usize>> = [2, 3]
        .map(|shard| {
            rig.cluster
                .copies(shard)
                .filter(|copy| {
                    let line = format!("GET /get?key={}", rig.cluster.key(shard, 0));
                    rig.cluster.client(*copy).call(&line, "").status != 503
                })
                .collect()
        })
        .to_vec();
    assert!(led.iter().all(|by| by.len() == 1), "one side alone answers for each: {led:?}");
    rig.heal();
    rig.wait_until_well();
    let ms: Vec<u128> = held_up.iter().map(Duration::as_millis).collect();
    format!("all shards go on, each on one side alone; writes held up {ms:?} ms at most")
}

fn flapping(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    let count = |time: Duration, each: &dyn Fn()| {
        let (before, began) = (watch.written(0), Instant::now());
        while began.elapsed() < time {
            each();
        }
        (watch.written(0) - before) as f64 / began.elapsed().as_secs_f64()
    };
    let quiet = count(Duration::from_secs(10), &|| wait_s(1));
    let (version, epoch) = (version_of(rig, 0), epoch_of(rig, 0));
    let flaps = count(long(), &|| {
        hosts(rig).cut_both_ways(leader, replica);
        wait_s(2);
        hosts(rig).heal(leader);
        hosts(rig).heal(replica);
        wait_s(2);
    });
    rig.wait_until_well();
    let minutes = long().as_secs_f64() / 60.0;
    let changes = (version_of(rig, 0) - version) as f64 / minutes;
    let epochs = (epoch_of(rig, 0) - epoch) as f64 / minutes;
    assert!(flaps > 0.5 * quiet && epochs <= 6.0, "{flaps} of {quiet} writes a second; {epochs} epochs a minute");
    format!(
        "{minutes} min: {:.0} % of the writes of before; {changes:.1} changes and {epochs:.1} epochs a minute",
        100.0 * flaps / quiet
    )
}

fn fill(rig: &Rig, shard: usize, keys: usize, bytes: usize) -> Vec<String> {
    let mut client = rig.cluster.client(rig.cluster.leader(shard));
    let names = (0..).map(|n| format!("fill-{n}")).filter(|key| rig.cluster.shard_of(key.as_bytes()) == shard);
    let names: Vec<String> = names.take(keys).collect();
    for name in &names {
        let answer = client.call_with(&format!("PUT /set?key={name}"), "", &vec![b'x'; bytes]);
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    }
    names
}

fn interrupted_syncs(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let keys = fill(rig, 0, 6000, 1500);
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    rig.kill(replica);
    rig.wipe(replica);
    hosts(rig).slow(leader, 1_000_000);
    for _ in 0..3 {
        rig.cluster.spawn(replica);
        rig.cluster.wait_for_log(replica, "gets all data anew");
        wait_s(1);
        rig.kill(replica);
        watch.more_writes(0, 20);
    }
    rig.cluster.spawn(replica);
    wait_s(2);
    let view = rig.cluster.view(replica);
    let is_half = view.shard(0).role_of(replica) != "primary" && !view.shard(0).is_in_sync(replica);
    assert!(is_half, "it was interrupted again");
    rig.kill(leader);
    let waited = Instant::now();
    while waited.elapsed() < Duration::from_secs(5) {
        let answer = rig.cluster.client(replica).call(&format!("GET /get?key={}", keys[0]), "");
        assert_eq!(answer.status, 503, "half a copy never leads: {answer:?}");
    }
    rig.heal();
    rig.wait_until_well();
    let mut client = rig.cluster.client(replica);
    for key in &keys {
        let answer = client.call(&format!("GET /get?key={key}&consistency=stale"), "");
        assert!(answer.status == 200 && answer.body.len() == 1500, "{key}: {}", answer.status);
    }
    "half a copy never led; then it got everything".to_owned()
}

fn power_goes(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let all: Vec<usize> = rig.nodes().collect();
    let undone: usize = (0..10)
        .map(|seed| {
            watch.more_writes_everywhere(50);
            power_loss(rig, &all, &mut Dice::new(seed))
        })
        .sum();
    rig.wait_until_well();
    assert!(undone > 0, "nothing was taken away: the shim does nothing");
    format!("ten times; {undone} writes to files that were not synced were taken away")
}

fn flipped_voters(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    for node in rig.nodes() {
        rig.kill(node);
        rig.files(node, "voter").iter().for_each(|file| flip(file, &mut Dice::new(node as u64), 2));
        rig.cluster.spawn(node);
        rig.wait_until_well();
        watch.more_writes_everywhere(20);
    }
    "each voter in turn: mute until it had learned from a majority".to_owned()
}

fn full_disks(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let keys = fill(rig, 0, 2, 10);
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    let mut client = rig.cluster.client(2);
    shim(rig, leader).set(Word::NoSpace, 1);
    let mut put = |key: &str| client.call_with(&format!("PUT /set?key={key}"), "", &vec![b'y'; 30_000]);
    let mut n = 0;
    while put(&rig.cluster.key_named("full", 0, n % 50)).status != 507 {
        n += 1;
    }
    let got = rig.cluster.client(2).call(&format!("GET /get?key={}", keys[0]), "").status;
    let deleted = rig.cluster.client(2).call(&format!("DELETE /delete?key={}", keys[1]), "").status;
    assert_eq!((got, deleted), (200, 200), "reads and deletes go on");
    shim(rig, leader).clear();
    while put(&rig.cluster.key_named("full", 0, 0)).status == 507 {}
    watch.gap(0);
    shim(rig, replica).set(Word::NoSpace, 1);
    wait_s(8);
    let gap = watch.gap(0);
    shim(rig, replica).clear();
    rig.wait_until_well();
    format!("507 after {n} writes, reads and deletes go on, no restart needed; a replica's: {}", within(gap, BOUND))
}

fn sync_fails(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let leader = rig.cluster.leader(0);
    watch.gap(0);
    shim(rig, leader).set(Word::FailSyncs, 1);
    let status = rig.cluster.wait(leader);
    rig.cluster.wait_for_leader(0, |node| node != leader);
    watch.more_writes(0, 20);
    let held_up = within(watch.gap(0), BOUND);
    shim(rig, leader).lose_unsynced(&mut Dice::new(1));
    let told = rig.cluster.wait_for_log(leader, "dkv: ");
    rig.heal();
    rig.wait_until_well();
    format!("it ended ({status}) and said: {told:.120}; {held_up}")
}

fn slow_disks(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let versions = || (0..2).map(|shard| version_of(rig, shard)).collect::<Vec<u64>>();
    let before = versions();
    let mut held_up = Vec::new();
    for node in [rig.cluster.leader(0), replica_of(rig, 0)] {
        watch.gap(0);
        shim(rig, node).set(Word::SyncDelayMs, 2000);
        wait_s(15);
        held_up.push(watch.gap(0).as_millis());
        shim(rig, node).clear();
        watch.more_writes(0, 20);
    }
    assert_eq!(versions(), before, "nobody was removed, nobody else led");
    format!("the primary's, then the replica's: no change of the configuration; writes held up {held_up:?} ms at most")
}

fn hung_disk(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let leader = rig.cluster.leader(0);
    watch.gap(0);
    shim(rig, leader).set(Word::Hang, 1);
    rig.cluster.wait_for_leader(0, |node| node != leader);
    watch.more_writes(0, 20);
    // deadlines.disk_ms, and a failover.
    let held_up = within(watch.gap(0), Duration::from_secs(5) + BOUND);
    let ready = rig.cluster.client(leader).call("GET /readyz", "").status;
    assert_eq!(ready, 503, "it says so");
    rig.heal();
    rig.wait_until_well();
    format!("{held_up}; the node says that it is not ready")
}

fn slow_line(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    hosts(rig).slow(leader, 1_000_000);
    hosts(rig).slow(replica, 1_000_000);
    let before = rig.resident_bytes(leader);
    watch.gap(0);
    let (began, mut most, mut calls) = (Instant::now(), before, 0);
    let mut client = rig.cluster.client(leader);
    while began.elapsed() < Duration::from_secs(30) {
        let key = rig.cluster.key_named("slow", 0, calls % 20);
        let answer = client.call_with(&format!("PUT /set?key={key}"), "", &vec![b'z'; 60_000]);
        assert!(matches!(answer.status, 200 | 201 | 503 | 504), "{answer:?}");
        calls += 1;
        most = most.max(rig.resident_bytes(leader));
    }
    let gap = watch.gap(0);
    rig.heal();
    rig.wait_until_well();
    let grown = most.saturating_sub(before) >> 20;
    assert!(grown < 64, "{grown} MiB");
    format!("30 s: {calls} writes of 60 KB; held up {} ms at most; the primary grew by {grown} MiB", gap.as_millis())
}

fn clocks(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let hour = 3_600_000_000_000_i64;
    for (node, ppm) in rig.nodes().zip([9500_i64, -9500, 500, -500, 9500]) {
        shim(rig, node).set(Word::ClockPpm, ppm as u64);
        rig.kill(node);
        rig.cluster.spawn(node);
        rig.wait_until_well();
    }
    let epochs = || (0..2).map(|shard| epoch_of(rig, shard)).collect::<Vec<u64>>();
    let before = epochs();
    watch.gap(0);
    for turn in 0..10 {
        for node in rig.nodes() {
            let ahead = if (turn + node).is_multiple_of(2) { hour } else { -hour };
            shim(rig, node).set(Word::WallOffsetNs, ahead as u64);
        }
        wait_s(1);
    }
    assert_eq!(epochs(), before, "nobody else led");
    let held_up = within(watch.gap(0), BOUND);
    let leader = rig.cluster.leader(0);
    rig.kill(leader);
    rig.cluster.wait_for_leader(0, |node| node != leader);
    rig.heal();
    format!("rates off by up to 9,500 ppm, walls jumping by two hours: no new epoch; {held_up}; then a failover")
}

fn storm(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (began, dice) = (Instant::now(), &mut Dice::new(23));
    let mut due: Vec<Duration> = rig.nodes().map(|_| Duration::from_millis(dice.below(7000))).collect();
    let mut kills = 0;
    while began.elapsed() < long() {
        for node in rig.nodes() {
            if began.elapsed() >= due[node] {
                rig.kill(node);
                rig.cluster.spawn(node);
                due[node] = began.elapsed() + Duration::from_millis(3000 + dice.below(7000));
                kills += 1;
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    let ended = Instant::now();
    rig.wait_until_well();
    watch.more_writes_everywhere(20);
    let well = ended.elapsed();
    assert!(well < Duration::from_secs(10), "{well:?}");
    let gaps: Vec<u128> = (0..2).map(|shard| watch.gap(shard).as_millis()).collect();
    format!("{kills} kills in {} s; all well {} ms after; longest gaps {gaps:?} ms", long().as_secs(), well.as_millis())
}

fn one_is_missing(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    rig.kill(replica);
    watch.more_writes(0, 50);
    rig.nodes().for_each(|node| rig.kill(node));
    peers(rig, leader).for_each(|node| rig.cluster.spawn(node));
    let missing = rig.cluster.addresses[leader].to_string();
    rig.cluster.wait_until_alive(replica);
    let told = loop {
        let answer = rig.cluster.client(replica).call("GET /readyz", "");
        assert_eq!(answer.status, 503, "{answer:?}");
        if answer.text().contains(&missing) {
            break answer.text().trim().to_owned();
        }
    };
    watch.more_writes(1, 50);
    wait_s(3);
    let answer = rig.cluster.client(replica).call(&format!("GET /get?key={}", rig.cluster.key(0, 0)), "");
    assert_eq!(answer.status, 503, "the copy that lacks writes never serves: {answer:?}");
    rig.cluster.spawn(leader);
    rig.wait_until_well();
    format!("the other shard went on; the copy that lacks writes said: {told}")
}

fn wiped(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    for node in [replica_of(rig, 0), rig.cluster.leader(0), 4] {
        rig.kill(node);
        rig.wipe(node);
        rig.cluster.spawn(node);
        rig.wait_until_well();
        watch.more_writes_everywhere(20);
    }
    // The only copy in sync: it must not come up empty.
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    rig.kill(replica);
    watch.more_writes(0, 50);
    rig.kill(leader);
    let image = rig.keep_image(leader);
    rig.wipe(leader);
    rig.cluster.spawn(leader);
    rig.cluster.spawn(replica);
    rig.cluster.wait_until_alive(leader);
    let told = loop {
        let answer = rig.cluster.client(leader).call("GET /readyz", "");
        assert_eq!(answer.status, 503, "{answer:?}");
        if answer.text().contains("put its directory back") {
            break answer.text().trim().to_owned();
        }
    };
    rig.kill(leader);
    rig.put_image(leader, &image);
    let _ = fs::remove_dir_all(&image);
    rig.cluster.spawn(leader);
    rig.wait_until_well();
    format!("replica, primary, witness: filled again; the only copy in sync: {told}")
}

fn crowd(rig: &Rig, watch: &Watch<'_, '_>) -> String {
    let (leader, replica) = (rig.cluster.leader(0), replica_of(rig, 0));
    let crowds = [leader, replica].map(|node| Crowd::gather(rig.cluster.addresses[node], 5000));
    let connections: usize = crowds.iter().map(Crowd::connections).sum();
    let epoch = epoch_of(rig, 0);
    wait_s(5);
    assert_eq!(epoch_of(rig, 0), epoch, "beacons and leases come through");
    watch.gap(0);
    rig.kill(leader);
    rig.cluster.wait_for_leader(0, |node| node != leader);
    watch.more_writes(0, 20);
    let held_up = within(watch.gap(0), BOUND);
    drop(crowds);
    rig.heal();
    rig.wait_until_well();
    format!("{connections} connections; no new epoch before the kill; {held_up} after it")
}
