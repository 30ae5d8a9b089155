//! Copies die, stand still, lose their disks: nothing that was answered is lost, no read is stale, and the shard goes
//! on. Each under clients at all nodes, whose histories are judged ([`crate::load`]).

use std::fs;
use std::thread;
use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::load::{Load, Watch};

/// Longer than any lease or grace, and than the silence after which a link is given up.
const STANDSTILL: Duration = Duration::from_secs(3);

/// Two shards of two copies: four nodes, of which three vote.
fn pairs() -> Cluster {
    Cluster::started(2, 2, "")
}

/// The same where calls for a shard that is gone for longer do not hold up the clients.
fn impatient_pairs() -> Cluster {
    Cluster::started(2, 2, "[deadlines]\nwait_ms = 100")
}

fn kill_and_wipe(cluster: &Cluster, node: usize) {
    cluster.kill(node);
    fs::remove_dir_all(cluster.data(node)).unwrap();
}

/// Some copy that does not lead the shard.
fn replica(cluster: &Cluster, shard: usize) -> usize {
    let leader = cluster.leader(shard);
    cluster.copies(shard).find(|node| *node != leader).unwrap()
}

/// Starts a node, and waits until its shard has all its copies again, and more was written.
fn return_of(cluster: &Cluster, shard: usize, node: usize, watch: &Watch<'_, '_>) {
    cluster.start(node);
    cluster.wait_until_whole(shard);
    watch.more_writes(shard, 20);
}

#[test]
fn a_primary_is_killed() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        for _ in 0..2 {
            watch.more_writes_everywhere(20);
            let (old, epoch) = (cluster.leader(0), cluster.epoch(0));
            cluster.kill(old);
            cluster.wait_for_leader(0, |leader| leader != old);
            assert!(cluster.epoch(0) > epoch);
            watch.more_writes_everywhere(20);
            return_of(&cluster, 0, old, watch);
        }
    });
}

#[test]
fn a_primary_is_killed_and_comes_back_before_anybody_has_taken_over() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        for _ in 0..3 {
            watch.more_writes_everywhere(20);
            let old = cluster.leader(0);
            cluster.kill(old);
            return_of(&cluster, 0, old, watch);
        }
    });
}

#[test]
fn a_replica_is_killed() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        watch.more_writes_everywhere(20);
        let replica = replica(&cluster, 0);
        cluster.kill(replica);
        watch.more_writes_everywhere(50);
        return_of(&cluster, 0, replica, watch);
    });
}

#[test]
fn a_primary_stands_still_for_three_seconds() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        watch.more_writes_everywhere(20);
        let old = cluster.leader(0);
        cluster.freeze(old);
        watch.more_writes_everywhere(20);
        thread::sleep(STANDSTILL);
        cluster.thaw(old);
        cluster.wait_until_whole(0);
        watch.more_writes_everywhere(20);
        assert_ne!(cluster.leader(0), old, "nobody gives the lead back by himself");
    });
}

#[test]
fn a_replica_stands_still_for_three_seconds() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        watch.more_writes_everywhere(20);
        let replica = replica(&cluster, 0);
        cluster.freeze(replica);
        watch.more_writes_everywhere(50);
        thread::sleep(STANDSTILL);
        cluster.thaw(replica);
        cluster.wait_until_whole(0);
        watch.more_writes_everywhere(20);
    });
}

#[test]
fn both_copies_of_a_shard_are_killed() {
    let cluster = impatient_pairs();
    Load::on(&cluster).run(|watch| {
        for _ in 0..2 {
            watch.more_writes_everywhere(20);
            let copies: Vec<usize> = cluster.copies(0).collect();
            copies.iter().for_each(|node| cluster.kill(*node));
            // The other shard's copies do without the voters that went with them.
            watch.more_writes(1, 20);
            copies.iter().for_each(|node| cluster.spawn(*node));
            cluster.wait_until_whole(0);
            watch.more_writes_everywhere(20);
        }
    });
}

#[test]
fn all_are_killed_and_the_last_to_lead_is_missing_at_the_start() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        for _ in 0..2 {
            watch.more_writes_everywhere(20);
            let missing = cluster.leader(0);
            (0..cluster.nodes()).for_each(|node| cluster.kill(node));
            (0..cluster.nodes()).filter(|node| *node != missing).for_each(|node| cluster.spawn(node));
            watch.more_writes_everywhere(20);
            return_of(&cluster, 0, missing, watch);
        }
    });
}

#[test]
fn all_are_killed_while_one_copy_was_away_and_it_is_not_the_first_to_lead() {
    let cluster = impatient_pairs();
    Load::on(&cluster).run(|watch| {
        watch.more_writes_everywhere(20);
        let behind = replica(&cluster, 0);
        cluster.kill(behind);
        watch.more_writes_everywhere(50);
        (0..cluster.nodes()).filter(|node| *node != behind).for_each(|node| cluster.kill(node));
        // Alone of its shard, with voters enough: it lacks what was answered without it.
        let leader = cluster.copies(0).find(|node| *node != behind).unwrap();
        (0..cluster.nodes()).filter(|node| *node != leader).for_each(|node| cluster.spawn(node));
        watch.more_writes(1, 20);
        thread::sleep(Duration::from_secs(1));
        assert_ne!(cluster.view(behind).shard(0).role_of(behind), "primary");
        return_of(&cluster, 0, leader, watch);
    });
}

#[test]
fn a_replica_loses_its_disk() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        watch.more_writes_everywhere(20);
        let wiped = replica(&cluster, 0);
        kill_and_wipe(&cluster, wiped);
        watch.more_writes_everywhere(20);
        return_of(&cluster, 0, wiped, watch);
        // It is a full copy: the other one can go.
        let old = cluster.leader(0);
        cluster.kill(old);
        watch.more_writes_everywhere(20);
        return_of(&cluster, 0, old, watch);
    });
}

#[test]
fn a_primary_loses_its_disk_and_is_back_at_once() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        for _ in 0..2 {
            watch.more_writes_everywhere(20);
            let wiped = cluster.leader(0);
            kill_and_wipe(&cluster, wiped);
            return_of(&cluster, 0, wiped, watch);
        }
    });
}

#[test]
fn of_three_copies_two_are_killed_at_once() {
    let cluster = Cluster::started(2, 3, "");
    Load::on(&cluster).run(|watch| {
        watch.more_writes_everywhere(20);
        let leader = cluster.leader(0);
        let other = replica(&cluster, 0);
        [leader, other].iter().for_each(|node| cluster.kill(*node));
        watch.more_writes_everywhere(20);
        [leader, other].iter().for_each(|node| cluster.spawn(*node));
        cluster.wait_until_whole(0);
        watch.more_writes_everywhere(20);
    });
}

/// Operators replace disks one by one, and go on when the node is ready: a voter without its memory must not be.
#[test]
fn a_voter_that_lost_its_memory_is_not_ready_before_it_has_it_back() {
    let cluster = pairs();
    Load::on(&cluster).run(|watch| {
        watch.more_writes_everywhere(20);
        // Of the three voters, one is away while another loses its disk.
        cluster.kill(2);
        kill_and_wipe(&cluster, 0);
        cluster.spawn(0);
        cluster.wait_until_alive(0);
        let waits = format!("[-] voter: as a voter it lost its memory, and waits for {}", cluster.addresses[2]);
        loop {
            let ready = cluster.client(0).call("GET /readyz?verbose", "");
            assert_eq!(ready.status, 503, "{ready:?}");
            if ready.text().contains(&waits) {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        cluster.start(2);
        (0..2).for_each(|shard| cluster.wait_until_whole(shard));
        cluster.wait_until_ready(0);
        watch.more_writes_everywhere(20);
    });
}
