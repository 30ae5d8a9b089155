//! What operators do to a cluster in use: handovers, restarts node by node, a stop of everything. No call fails.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::cluster::Cluster;
use crate::support::load::Load;

fn launch(cluster: &Cluster, words: &[&str]) {
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("launch.sh"))
        .env("DKV_BIN", env!("CARGO_BIN_EXE_dkv"))
        .env("DKV_CONFIG", cluster.path("sharding.toml"))
        .env("DKV_RUN_DIR", cluster.path("run"))
        .env("DKV_DATA_DIR", cluster.path("data"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !text.contains("is killed"), "{words:?}: {text}");
}

/// Stops the nodes, whatever happens to the test.
struct Launched<'a>(&'a Cluster);

impl Drop for Launched<'_> {
    fn drop(&mut self) {
        launch(self.0, &["stop"]);
        if std::thread::panicking() {
            for address in &self.0.addresses {
                let log = self.0.path(&format!("run/{}.log", dkv::id::address_as_file_name(*address)));
                eprintln!("{address}:\n{}", std::fs::read_to_string(log).unwrap_or_default());
            }
        }
    }
}

#[test]
fn a_shard_is_handed_over_again_and_again() {
    let cluster = Cluster::started(2, 2, "");
    let tally = Load::on(&cluster).run(|watch| {
        for round in 0..6 {
            watch.more_writes_everywhere(20);
            let (leader, epoch) = (cluster.leader(0), cluster.epoch(0));
            let to = cluster.copies(0).find(|node| *node != leader).unwrap();
            // Any node passes it on.
            let line = format!("POST /handover?shard=0&to={}", cluster.addresses[to]);
            let answer = cluster.client(round % cluster.nodes()).call(&line, "");
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(cluster.leader(0) == to && cluster.epoch(0) > epoch);
            cluster.wait_until_whole(0);
        }
    });
    tally.nothing_failed();
}

#[test]
fn a_rolling_restart_fails_no_call() {
    let cluster = Cluster::new(2, 2, "");
    let launched = Launched(&cluster);
    launch(&cluster, &["start"]);
    let tally = Load::on(&cluster).calling_apart().run(|watch| {
        watch.more_writes_everywhere(20);
        launch(&cluster, &["restart"]);
        watch.more_writes_everywhere(20);
    });
    tally.nothing_failed();
    drop(launched);
}

#[test]
fn a_stop_of_everything_leaves_every_copy_in_sync() {
    let cluster = Cluster::started(2, 2, "");
    Load::on(&cluster).run(|watch| {
        for _ in 0..2 {
            watch.more_writes_everywhere(20);
            let versions = [0, 1].map(|shard| cluster.version(shard));
            (0..cluster.nodes()).for_each(|node| cluster.signal(node, Signal::TERM));
            for node in 0..cluster.nodes() {
                let status = cluster.wait(node);
                assert!(status.success(), "node {node} ended with {status}");
            }
            for node in 0..cluster.nodes() {
                assert!(!cluster.log(node).contains("a copy was removed"), "{}", cluster.log(node));
                cluster.spawn(node);
            }
            for (shard, version) in versions.into_iter().enumerate() {
                cluster.wait_until_whole(shard);
                assert!(cluster.version(shard) <= version + 2, "a start raises the epoch, and nothing else changes");
            }
        }
    });
}
