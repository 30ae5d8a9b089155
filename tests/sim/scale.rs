//! Owns: a cluster of many nodes: that it forms, serves and fails over; and what it costs in messages.
//! Never: small clusters, faults beside lost processes.

use super::clock::SECOND;
use super::faults::{Fault, Mix};
use super::trace::Trace;
use super::workload::Habits;
use super::world::{Shape, World};

/// So many shards of two copies each, every copy on a host of its own.
fn table(shards: usize) -> String {
    let address = |node: usize| format!("'10.{}.{}.1:7000'", node / 256, node % 256);
    let shard = |idx: usize| {
        let (primary, replica) = (address(2 * idx), address(2 * idx + 1));
        format!("[[shard]]\nname = 's{idx}'\nidx = {idx}\naddress = {primary}\nreplicas = [{replica}]\n")
    };
    (0..shards).map(shard).collect::<String>() + "[store]\nsegment_bytes = 262144\n[limits]\nmax_value_bytes = 16384\n"
}

fn run(shards: usize) {
    let habits = Habits {
        streams: 64,
        depth: 2,
        keys: (0..1_000).map(|n| format!("k{n}").into_bytes()).collect(),
        hot: 500,
        pause_ns: SECOND / 10,
        longest_value: 100,
        get_percent: 50,
        condition_percent: 10,
        stale_percent: 0,
    };
    let mix = Mix { kinds: vec![(Fault::Kill, SECOND)], stall_once_in: 0, starts_by_hand: false };
    let shape = Shape { table: table(shards), habits, mix, faulty_ns: 10 * SECOND };
    let seen = World::new(1, &shape, Trace::new(false)).run().unwrap();
    println!("{} nodes: {:#?}", 2 * shards, seen.figures);
    assert!(seen.of("answers") > 2_000 && seen.of("failovers") > 0, "{:?}", seen.figures);
}

#[test]
fn many_nodes_form_serve_and_fail_over() {
    let nodes = std::env::var("DKV_SIM_NODES").ok().and_then(|text| text.parse().ok()).unwrap_or(32);
    run(nodes / 2);
}
