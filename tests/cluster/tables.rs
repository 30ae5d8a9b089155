//! Nodes whose files describe different clusters have nothing to do with each other, and say why.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::support::cluster::{Cluster, table};
use crate::{get, is, set};

/// `/readyz?verbose` of a node, once it tells of a refused link.
fn refusal(cluster: &Cluster, node: usize) -> String {
    loop {
        let page = cluster.client(node).call("GET /readyz?verbose", "");
        if let Some(line) = page.text().lines().find(|line| line.starts_with("[!]")) {
            return line.to_owned();
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A file that knows nothing of the first shard, so that its nodes have other numbers, too.
fn other_table(cluster: &Cluster) -> PathBuf {
    let other = cluster.path("other.toml");
    fs::write(&other, table(&cluster.addresses[1..], 1) + "[deadlines]\nwait_ms = 300\n").unwrap();
    other
}

#[test]
fn two_nodes_with_different_tables_refuse_each_other_and_both_tell_the_difference() {
    let cluster = Cluster::new(3, 1, "[deadlines]\nwait_ms = 300");
    cluster.spawn(1);
    cluster.spawn_with(2, &other_table(&cluster));
    let (one, two) = (cluster.addresses[1].to_string(), cluster.addresses[2].to_string());
    for (node, peer) in [(1, &two), (2, &one)] {
        let told = cluster.wait_for_log(node, "no link with");
        assert!(told.contains(peer.as_str()), "it names the other node, {peer}: {told}");
        assert!(told.contains("the shard tables of the two nodes differ"), "{told}");
        let missing = cluster.addresses[0].to_string();
        assert!(told.contains(&missing), "it tells the difference, {missing}: {told}");
        cluster.wait_until_alive(node);
        let shown = refusal(&cluster, node);
        assert!(shown.contains(peer.as_str()) && shown.contains(&missing), "{shown}");
        // They are no cluster: nobody answers for any shard.
        let ready = cluster.client(node).call("GET /readyz", "");
        assert!(ready.status == 503 && ready.text().contains("the cluster is not formed yet"), "{ready:?}");
        assert_eq!(set(&mut cluster.client(node), &cluster.key(1, 0), b"x").status, 503);
    }

    // With one table they become one.
    cluster.stop(2);
    cluster.spawn(2);
    cluster.start(0);
    for node in [1, 2] {
        cluster.wait_until_ready(node);
    }
    cluster.wait_for_log(1, &format!("the link with {two} is accepted now"));
    is(&set(&mut cluster.client(1), &cluster.key(2, 0), b"y"), 201, b"OK\n");
    is(&get(&mut cluster.client(0), &cluster.key(2, 0)), 200, b"y");
    let page = cluster.client(1).call("GET /readyz?verbose", "");
    assert!(!page.text().contains("[!]"), "{page:?}");
}

#[test]
fn a_node_of_a_formed_cluster_does_not_start_with_another_table() {
    let cluster = Cluster::started(3, 1, "");
    is(&set(&mut cluster.client(1), &cluster.key(2, 0), b"kept"), 201, b"OK\n");
    cluster.stop(2);
    cluster.spawn_with(2, &other_table(&cluster));
    assert!(!cluster.wait(2).success());
    let told = cluster.wait_for_log(2, "was formed with another table");
    assert!(told.contains("put the table back") && told.contains("`dkv reform`"), "it says what to do: {told}");
    cluster.start(2);
    is(&get(&mut cluster.client(0), &cluster.key(2, 0)), 200, b"kept");
}

#[test]
fn limits_may_differ_and_the_primary_s_own_hold() {
    let cluster = Cluster::new(2, 1, "[limits]\nmax_value_bytes = 2000000");
    let strict = cluster.path("strict.toml");
    fs::write(&strict, table(&cluster.addresses, 1) + "[limits]\nmax_value_bytes = 1000\nmax_key_bytes = 100\n")
        .unwrap();
    cluster.spawn(0);
    cluster.spawn_with(1, &strict);
    cluster.wait_until_ready(0);
    cluster.wait_until_ready(1);
    let mut client = cluster.client(0);
    let key = cluster.key(1, 0);
    is(&set(&mut client, &key, &[1; 1000]), 201, b"OK\n");
    let refused = set(&mut client, &key, &[1; 1001]);
    assert!(refused.status == 413 && refused.text().contains("limits.max_value_bytes"), "{refused:?}");
    let long = (0..).map(|n| format!("{n:0101}")).find(|key| cluster.shard_of(key.as_bytes()) == 1).unwrap();
    let refused = get(&mut client, &long);
    assert!(refused.status == 414 && refused.text().contains("limits.max_key_bytes"), "{refused:?}");
    is(&get(&mut client, &key), 200, &[1; 1000]);
}
