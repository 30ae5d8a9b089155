//! Clients and peers that behave badly, or just unluckily, against the real binary: what they may cost the others.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use dkv::config;
use dkv::id::{NodeId, Uuid};
use dkv::op::{Condition, Op, Verb};
use dkv::wire::{self, Class, Forward, Hello, Message};
use support::cluster::Cluster;
use support::http::Client;
use support::process::Node;

/// The value of a gauge without labels.
fn gauge(node: SocketAddr, name: &str) -> u64 {
    let page = Client::connect(node).call("GET /metrics", "");
    let line = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the gauge is there").parse().unwrap()
}

/// A node, and a second shard whose only copy is dead.
fn beside_a_dead_shard(settings: &str) -> Cluster {
    let cluster = Cluster::started(2, 1, settings);
    cluster.kill(1);
    cluster
}

#[test]
fn a_connection_that_is_used_is_not_idle() {
    let node = Node::start("[deadlines]\nidle_ms = 1000");
    let mut client = Client::connect(node.address);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2_500) {
        assert_eq!(client.call("GET /livez", "").status, 200);
        // The client's own pace is what is tested.
        thread::sleep(Duration::from_millis(100));
    }
    client.assert_closed();
}

#[test]
fn what_was_refused_is_not_awaited() {
    let node = Node::start("");
    // The refused connections stay open.
    let refused: Vec<Client> = (0..5)
        .map(|_| {
            let mut client = Client::connect(node.address);
            client.send(b"PUT /set?nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx");
            assert_eq!(client.read().status, 400);
            client
        })
        .collect();
    assert_eq!(gauge(node.address, "dkv_inflight_bytes"), 0);
    drop(refused);
}

#[test]
fn bodies_in_chunks_are_bounded_together() {
    let most = 4 << 20;
    let node = Node::start(&format!("[limits]\nmax_inflight_bytes = {most}\nmax_head_bytes = 1024"));
    let mut clients: Vec<Client> = (0..24).map(|_| Client::connect(node.address)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let head = format!("PUT /set?key=k{n} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(head.as_bytes());
    }
    let_it_read(node.address);
    let chunk = [b"8000\r\n".as_slice(), &[b'x'; 0x8000], b"\r\n"].concat();
    for _ in 0..20 {
        clients.iter_mut().for_each(|client| client.send(&chunk));
        let held = gauge(node.address, "dkv_inflight_bytes");
        assert!(held < most + (1 << 20), "{held} bytes are in flight, {most} are allowed");
    }
    drop(clients);
}

#[test]
fn a_paused_connection_costs_no_turns() {
    let cluster = beside_a_dead_shard("[deadlines]\nwait_ms = 20000\nanswer_ms = 30000");
    let (node, here, dead) = (cluster.addresses[0], cluster.key(0, 0), cluster.key(1, 0));
    Client::connect(node).call_with(&format!("PUT /set?key={here}"), "", &vec![b'v'; 150_000]);
    let mut client = Client::connect(node);
    let get = |key: &str| format!("GET /get?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // Until the sockets are full, and some of the answers wait in the node.
    while gauge(node, "dkv_inflight_bytes") == 0 {
        client.send(get(&here).as_bytes());
        let_it_read(node);
    }
    // More than limits.max_pipeline that must wait.
    client.send(get(&dead).repeat(200).as_bytes());
    let_it_read(node);
    let before = gauge(node, "dkv_turns_total");
    let began = Instant::now();
    thread::sleep(Duration::from_millis(500));
    let turns = gauge(node, "dkv_turns_total") - before;
    // A tick each 25 ms, a sweep, a beacon and the questions of this test.
    let allowed = began.elapsed().as_millis() as u64 / 5;
    assert!(turns < allowed, "{turns} turns in {:?}", began.elapsed());
}

#[test]
fn permission_to_go_on_is_given_before_the_answer_or_never() {
    let cluster = beside_a_dead_shard("[deadlines]\nwait_ms = 300");
    let (node, here, dead) = (cluster.addresses[0], cluster.key(0, 0), cluster.key(1, 0));
    let mut client = Client::connect(node);
    let mut text = String::new();
    write!(text, "GET /get?key={dead} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    write!(text, "PUT /set?key={here} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n").unwrap();
    text.push_str("Content-Length: 4\r\n\r\n");
    client.send(text.as_bytes());
    let_it_read(node);
    // It does not wait for the permission.
    client.send(b"body");
    assert_eq!(client.read().status, 503);
    assert_eq!(client.read().status, 201);
    assert_eq!(client.call("GET /livez", "").status, 200, "and no 100 between the answers");
}

/// A peer that this test plays: its link to the node is up.
struct Peer {
    client: Client,
    key: Vec<u8>,
}

impl Peer {
    /// It is the other node of two.
    fn link(cluster: &Cluster) -> Peer {
        let text = std::fs::read_to_string(cluster.path("sharding.toml")).unwrap();
        let table = config::parse(&text, "table").unwrap().cluster;
        let mut client = cluster.client(0);
        client.send(b"GET /peer HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: dkv-peer\r\n\r\n");
        assert_eq!(client.read_head().status, 101);
        let address = cluster.addresses[1].to_string();
        let hello = Hello {
            version: wire::VERSION,
            class: Class::Data,
            fingerprint: table.fingerprint(),
            cluster: Uuid::default(),
            from: NodeId(1),
            to: NodeId(0),
            store: Uuid(1),
            incarnation: 1,
            address: &address,
        };
        let key = cluster.key(0, 0).into_bytes();
        let mut peer = Peer { client, key };
        peer.client.send(&frame(&Message::Hello(hello)));
        peer
    }

    fn forward(&self, id: u64, verb: Verb, value: &[u8]) -> Vec<u8> {
        let op = Op { verb, key: &self.key, value, condition: Condition::None, stale: false };
        frame(&Message::Forward(Forward { id, stream: id, ms_left: 20_000, op }))
    }
}

fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(message, &mut bytes);
    bytes
}

#[test]
fn a_frame_that_takes_long_keeps_its_link() {
    let cluster = beside_a_dead_shard("");
    let mut peer = Peer::link(&cluster);
    let forward = peer.forward(1, Verb::Set, &[b'v'; 4000]);
    // Slower than the silence after which a link is given up, though never silent for so long.
    for part in forward.chunks(500) {
        peer.client.send(part);
        thread::sleep(Duration::from_millis(600));
    }
    assert_eq!(cluster.client(0).call(&format!("GET /get?key={}", utf8(&peer.key)), "").status, 200);
    assert!(!peer.client.is_closed());
}

#[test]
fn a_peer_that_does_not_read_is_not_answered_without_bound() {
    let most = 4 << 20;
    let cluster = beside_a_dead_shard(&format!("[limits]\nmax_inflight_bytes = {most}\nmax_head_bytes = 1024"));
    let node = cluster.addresses[0];
    let mut client = Client::connect(node);
    let mut peer = Peer::link(&cluster);
    let key = utf8(&peer.key);
    assert_eq!(client.call_with(&format!("PUT /set?key={key}"), "", &vec![b'v'; 1_000_000]).status, 201);
    let gets: Vec<u8> = (0..200).flat_map(|id| peer.forward(id, Verb::Get, &[])).collect();
    peer.client.send(&gets);
    let held = gauge(node, "dkv_inflight_bytes");
    assert!(held < most + (1 << 20), "{held} bytes are in flight, {most} are allowed");
    drop(peer);
    // The other side's end is seen, and all of it given back.
    while gauge(node, "dkv_inflight_bytes") > 0 {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(client.call(&format!("GET /get?key={key}"), "").status, 200);
}

fn utf8(key: &[u8]) -> String {
    String::from_utf8(key.to_vec()).unwrap()
}

/// Waits until the node has read what was sent before.
fn let_it_read(node: SocketAddr) {
    Client::connect(node).let_a_turn_pass();
}
