//! What one node takes at most, and that those who behave do not suffer from those who do not.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::http::Client;
use crate::{get, is, request, set};

#[test]
fn a_burst_of_connections_is_accepted_to_the_last() {
    let cluster = Cluster::started(1, 1, "");
    cluster.freeze(0);
    let mut clients: Vec<Client> = (0..300).map(|_| cluster.client(0)).collect();
    for client in &mut clients {
        client.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    // All of them are one event of the listener.
    cluster.thaw(0);
    for client in &mut clients {
        is(&client.read(), 200, b"ok\n");
    }
}

#[test]
fn clients_above_max_connections_are_turned_away_and_peers_are_not() {
    let cluster = Cluster::started(2, 2, "[limits]\nmax_connections = 6\n[deadlines]\nwait_ms = 60000");
    let key = cluster.key(0, 0);
    // Every node has links with every other; they are not counted as clients.
    is(&set(&mut cluster.client(3), &key, b"x"), 201, b"OK\n");
    let mut clients: Vec<Client> = (0..6).map(|_| cluster.client(0)).collect();
    for client in &mut clients {
        is(&get(client, &key), 200, b"x");
    }
    for _ in 0..3 {
        let mut surplus = cluster.client(0);
        let answer = get(&mut surplus, &key);
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.text().contains("limits.max_connections"), "{answer:?}");
        assert!(answer.header("retry-after").is_some() && answer.closes(), "{answer:?}");
        surplus.assert_closed();
    }
    // A peer that starts now gets its links, whoever else waits at the door.
    let at_the_door: Vec<Client> = (0..40).map(|_| cluster.client(0)).collect();
    cluster.kill(2);
    cluster.start(2);
    is(&set(&mut cluster.client(2), &key, b"through a new link"), 200, b"OK\n");
    is(&get(&mut clients[0], &key), 200, b"through a new link");
    // They are let go without a word, soon.
    for client in at_the_door {
        client.wait_until_dropped();
    }
    drop(clients.pop());
    while get(&mut cluster.client(0), &key).status != 200 {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn slow_strangers_do_not_keep_peers_out() {
    let cluster = Cluster::started(2, 1, "[limits]\nmax_connections = 2\n[deadlines]\nwait_ms = 60000");
    let key = cluster.key(0, 0);
    let mut clients = [cluster.client(0), cluster.client(0)];
    clients.iter_mut().for_each(Client::let_a_turn_pass);
    // All the room that is kept, and more, taken by heads that never end.
    let mut strangers: Vec<Client> = (0..200).map(|_| cluster.client(0)).collect();
    for stranger in &mut strangers {
        stranger.send(b"GET /get?key=");
    }
    cluster.kill(1);
    let began = Instant::now();
    cluster.start(1);
    is(&set(&mut cluster.client(1), &key, b"x"), 201, b"OK\n");
    assert!(began.elapsed() < Duration::from_millis(9_000), "long before deadlines.head_ms: {:?}", began.elapsed());
}

#[test]
fn bytes_under_way_are_bounded() {
    let settings = "[limits]\nmax_value_bytes = 131072\nmax_head_bytes = 4096\nmax_inflight_bytes = 300000";
    let cluster = Cluster::started(1, 1, settings);
    let whole = request("PUT /set?key=large", &vec![1; 131_072]);
    let mut slow = [cluster.client(0), cluster.client(0)];
    for client in &mut slow {
        client.send(&whole[..whole.len() - 1]);
    }
    while cluster.metric(0, "dkv_inflight_bytes") < 262_000.0 {
        thread::sleep(Duration::from_millis(5));
    }
    let mut other = cluster.client(0);
    let refused = set(&mut other, "other", &[2; 100_000]);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.text().contains("limits.max_inflight_bytes"), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    // There is room for a small one: what was refused takes none.
    is(&set(&mut cluster.client(0), "small", b"small"), 201, b"OK\n");
    slow[0].send(&whole[whole.len() - 1..]);
    is(&slow[0].read(), 201, b"OK\n");
    is(&set(&mut cluster.client(0), "other", &[2; 100_000]), 201, b"OK\n");
    slow[1].send(&whole[whole.len() - 1..]);
    is(&slow[1].read(), 200, b"OK\n");
    assert_eq!(get(&mut cluster.client(0), "other").body, [2; 100_000]);
}

#[test]
fn a_connection_has_max_pipeline_requests_under_way() {
    let cluster = Cluster::started(2, 1, "[limits]\nmax_pipeline = 4\n[deadlines]\nwait_ms = 60000");
    let keys: Vec<String> = (0..30).map(|n| cluster.key(1, n)).collect();
    is(&set(&mut cluster.client(0), &keys[0], b"the link is up"), 201, b"OK\n");
    let before = cluster.metric(0, "dkv_forwards_sent_total");
    cluster.freeze(1);
    let mut client = cluster.client(0);
    let requests: Vec<Vec<u8>> =
        keys.iter().map(|key| request(&format!("PUT /set?key={key}"), key.as_bytes())).collect();
    client.send(&requests.concat());
    cluster.wait_for_metric(0, "dkv_forwards_sent_total", before + 4.0);
    cluster.client(0).let_a_turn_pass();
    assert_eq!(cluster.metric(0, "dkv_forwards_sent_total"), before + 4.0);
    cluster.thaw(1);
    for (n, _) in keys.iter().enumerate() {
        is(&client.read(), if n == 0 { 200 } else { 201 }, b"OK\n");
    }
    for key in &keys {
        is(&get(&mut client, key), 200, key.as_bytes());
    }
}

#[test]
fn a_reader_that_stalls_holds_little_and_is_dropped_while_others_go_on() {
    let cluster = Cluster::started(2, 1, "[deadlines]\nstall_ms = 1500");
    let key = cluster.key(1, 0);
    is(&set(&mut cluster.client(0), &key, &vec![7; 1 << 20]), 201, b"OK\n");
    let idle = own_bytes(&cluster, 0);
    let mut stalled = cluster.client(0);
    let line = format!("GET /get?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stalled.send(line.repeat(100).as_bytes());
    let mut other = cluster.client(0);
    while stalled.is_open_at_the_server() {
        assert_eq!(get(&mut other, &key).body.len(), 1 << 20);
        // The requests that were begun before its output filled up, at most; not all of them.
        let held = own_bytes(&cluster, 0).saturating_sub(idle);
        assert!(held < 200 << 20, "{held} bytes for one client that does not read");
    }
    is(&set(&mut other, &key, b"x"), 200, b"OK\n");
}

/// Every look of the server's falls into the midst of a head, and each of the heads is quick.
#[test]
fn a_client_that_is_slow_but_in_time_is_never_given_up() {
    let cluster = Cluster::started(1, 1, "[deadlines]\nhead_ms = 1000");
    let mut client = cluster.client(0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3_000) {
        client.send(b"GET /livez HTTP/1.1\r\n");
        thread::sleep(Duration::from_millis(100));
        is(&client.ask(b"Host: localhost\r\n\r\n"), 200, b"ok\n");
    }
}

#[test]
fn idle_connections_hold_almost_no_memory() {
    let cluster = Cluster::started(1, 1, "");
    is(&set(&mut cluster.client(0), "key", &[7; 4096]), 201, b"OK\n");
    let before = own_bytes(&cluster, 0);
    let mut clients: Vec<Client> = (0..1_000).map(|_| cluster.client(0)).collect();
    for client in &mut clients {
        assert_eq!(get(client, "key").status, 200);
        is(&set(client, "key", &[7; 4096]), 200, b"OK\n");
    }
    let each = own_bytes(&cluster, 0).saturating_sub(before) / clients.len();
    println!("{each} bytes of memory for each idle connection");
    assert!(each < 4096, "{each} bytes for each idle connection");
}

fn own_bytes(cluster: &Cluster, node: usize) -> usize {
    cluster.metric(node, "dkv_own_memory_bytes") as usize
}
