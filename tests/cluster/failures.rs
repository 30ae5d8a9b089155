//! What a client is told when a shard's primary cannot be reached, goes away with his request, or comes back.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::http::Client;
use crate::{get, is, request, set};

const FORWARDS: &str = "dkv_forwards_sent_total";
const WAITS: &str = "dkv_waits_for_primary_total";

#[test]
fn a_dead_shard_fails_its_own_keys_only_and_after_its_time() {
    let cluster = Cluster::started(4, 2, "[deadlines]\nwait_ms = 600");
    let key = cluster.key(1, 0);
    is(&set(&mut cluster.client(0), &key, b"kept"), 201, b"OK\n");
    // Both copies; of one alone the other would go on.
    let copies = [cluster.primary(1), cluster.primary(1) + 1];
    copies.iter().for_each(|node| cluster.kill(*node));
    thread::scope(|scope| {
        let calls =
            ["PUT /set?key={}&value=x", "GET /get?key={}", "POST /update?key={}&value=x", "DELETE /delete?key={}"];
        for (node, call) in [0, 1, 4, 7].into_iter().zip(calls) {
            let (cluster, key) = (&cluster, &key);
            scope.spawn(move || {
                let began = Instant::now();
                let answer = cluster.client(node).call(&call.replace("{}", key), "");
                let waited = began.elapsed();
                // The node counts whole milliseconds from the one in which the request came.
                assert!(waited > Duration::from_millis(600 - 1), "{call} at {node} waited for {waited:?} only");
                assert_eq!(answer.status, 503, "{answer:?}");
                assert_eq!(answer.header("retry-after"), Some("1"));
                assert!(answer.text().contains("not applied"), "{answer:?}");
            });
        }
        for shard in [0, 2, 3] {
            for node in [0, 1, 5, 6, 7] {
                let key = cluster.key(shard, node);
                is(&set(&mut cluster.client(node), &key, key.as_bytes()), 201, b"OK\n");
                is(&get(&mut cluster.client(7 - shard), &key), 200, key.as_bytes());
            }
        }
    });
    assert_eq!(cluster.client(0).call("GET /readyz", "").status, 200, "a dead shard is no fault of this node's");
    copies.iter().for_each(|node| cluster.spawn(*node));
    copies.iter().for_each(|node| cluster.wait_until_ready(*node));
    is(&get(&mut cluster.client(6), &key), 200, b"kept");
}

#[test]
fn a_request_that_waits_for_its_primary_succeeds_when_that_comes_back_in_time() {
    let cluster = Cluster::started(2, 1, "[deadlines]\nwait_ms = 60000\nanswer_ms = 60000");
    let keys: Vec<String> = (0..3).map(|n| cluster.key(1, n)).collect();
    for key in &keys {
        is(&set(&mut cluster.client(0), key, b"old"), 201, b"OK\n");
    }
    cluster.kill(1);
    let before = cluster.metric(0, WAITS);
    // On one connection each: a request for another shard behind the one that waits goes on, and is answered in turn.
    let other = cluster.key(0, 0);
    let mut clients: Vec<Client> = keys.iter().map(|_| cluster.client(0)).collect();
    for (client, (key, call)) in clients.iter_mut().zip(keys.iter().zip([
        "PUT /set?key={}&value=new",
        "GET /get?key={}",
        "DELETE /delete?key={}",
    ])) {
        let lines = [call.replace("{}", key), format!("PUT /set?key={other}&value=x"), format!("GET /get?key={key}")];
        for line in lines {
            client.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        }
    }
    cluster.wait_for_metric(0, WAITS, before + 3.0);
    while get(&mut cluster.client(0), &other).status != 200 {
        thread::sleep(Duration::from_millis(5));
    }
    cluster.start(1);
    for (client, (first, third)) in clients.iter_mut().zip([
        ((200, "OK\n"), (200, "new")),
        ((200, "old"), (200, "old")),
        ((200, "OK\n"), (404, "key not found\n")),
    ]) {
        is(&client.read(), first.0, first.1.as_bytes());
        assert!(matches!(client.read().status, 200 | 201));
        is(&client.read(), third.0, third.1.as_bytes());
    }
}

#[test]
fn a_write_under_way_at_a_killed_primary_is_unknown_and_a_read_is_asked_again() {
    let cluster = Cluster::started(2, 1, "[deadlines]\nwait_ms = 60000\nanswer_ms = 60000");
    let keys: Vec<String> = (0..4).map(|n| cluster.key(1, n)).collect();
    for key in &keys {
        is(&set(&mut cluster.client(0), key, b"old"), 201, b"OK\n");
    }
    cluster.freeze(1);
    let before = cluster.metric(0, FORWARDS);
    let lines =
        ["PUT /set?key={}&value=new", "POST /update?key={}&value=new", "DELETE /delete?key={}", "GET /get?key={}"];
    let mut clients: Vec<Client> = keys.iter().map(|_| cluster.client(0)).collect();
    for (client, (key, line)) in clients.iter_mut().zip(keys.iter().zip(lines)) {
        // Behind each on its own connection, a read of the same key: it keeps its place.
        client.send(format!("{} HTTP/1.1\r\nHost: localhost\r\n\r\n", line.replace("{}", key)).as_bytes());
        client.send(format!("GET /get?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    }
    cluster.wait_for_metric(0, FORWARDS, before + 8.0);
    cluster.kill(1);
    for client in &mut clients[..3] {
        let answer = client.read();
        assert_eq!(answer.status, 504, "{answer:?}");
        assert_eq!(answer.text(), "outcome unknown: the write may have been applied\n");
    }
    cluster.start(1);
    is(&clients[3].read(), 200, b"old");
    for (client, key) in clients.iter_mut().zip(&keys) {
        // The kernel of a frozen process took the frames, the process never did.
        is(&client.read(), 200, b"old");
        is(&get(client, key), 200, b"old");
    }
}

#[test]
fn a_write_that_was_not_sent_yet_is_sent_to_the_restarted_primary() {
    let cluster = Cluster::started(2, 1, "[deadlines]\nwait_ms = 60000\nanswer_ms = 60000");
    let values: Vec<Vec<u8>> = (0..36).map(|n| vec![n as u8; 1 << 20]).collect();
    let keys: Vec<String> = (0..values.len()).map(|n| cluster.key(1, n)).collect();
    is(&set(&mut cluster.client(0), &cluster.key(1, 100), b"the link is up"), 201, b"OK\n");
    cluster.freeze(1);
    let before = cluster.metric(0, FORWARDS);
    let mut clients: Vec<Client> = keys.iter().map(|_| cluster.client(0)).collect();
    // More than the kernel takes for a process that does not read.
    for ((client, key), value) in clients.iter_mut().zip(&keys).zip(&values) {
        client.send(&request(&format!("PUT /set?key={key}"), value));
    }
    cluster.wait_for_metric(0, FORWARDS, before + keys.len() as f64);
    cluster.kill(1);
    cluster.start(1);
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.read().status).collect();
    let unknown = statuses.iter().filter(|status| **status == 504).count();
    let done = statuses.iter().filter(|status| **status == 201).count();
    println!("{done} writes were sent again, {unknown} had begun to be sent");
    assert_eq!(done + unknown, keys.len(), "{statuses:?}");
    assert!(done > 0 && unknown > 0, "{statuses:?}");
    let mut client = cluster.client(0);
    for ((status, key), value) in statuses.iter().zip(&keys).zip(&values) {
        let now = get(&mut client, key);
        match status {
            201 => is(&now, 200, value),
            _ => assert!(now.status == 404 || now.body == *value, "{key}: {}", now.status),
        }
    }
}

#[test]
fn a_primary_that_stands_still_is_given_up_and_found_again() {
    let cluster = Cluster::started(2, 1, "[deadlines]\nwait_ms = 60000");
    let key = cluster.key(1, 0);
    is(&set(&mut cluster.client(0), &key, b"old"), 201, b"OK\n");
    cluster.freeze(1);
    // Nothing but its silence tells.
    let answer = cluster.client(0).call(&format!("PUT /set?key={key}&value=new"), "");
    assert_eq!(answer.status, 504, "{answer:?}");
    is(&set(&mut cluster.client(0), &cluster.key(0, 0), b"x"), 201, b"OK\n");
    cluster.thaw(1);
    let now = get(&mut cluster.client(0), &key);
    assert!(now.status == 200 && (now.body == b"old" || now.body == b"new"), "{now:?}");
    is(&set(&mut cluster.client(0), &key, b"newer"), 200, b"OK\n");
}

#[test]
fn a_client_that_is_gone_leaves_nothing_behind() {
    let cluster = Cluster::started(2, 1, "[deadlines]\nwait_ms = 60000\nanswer_ms = 60000");
    let key = cluster.key(1, 0);
    let idle = cluster.metric(0, "dkv_inflight_bytes");
    cluster.kill(1);
    let before = cluster.metric(0, WAITS);
    for _ in 0..20 {
        cluster.client(0).send(&request(&format!("PUT /set?key={key}"), &vec![7; 1 << 20]));
    }
    // A connection that ends with its request behind it waits for the answer; one that is reset does not.
    let mut clients: Vec<Client> = (0..20).map(|_| cluster.client(0)).collect();
    for client in &mut clients {
        client.send(&request(&format!("PUT /set?key={key}"), &vec![7; 1 << 20]));
    }
    cluster.wait_for_metric(0, WAITS, before + 40.0);
    drop(clients);
    cluster.start(1);
    while cluster.metric(0, "dkv_inflight_bytes") > idle + 1024.0 {
        thread::sleep(Duration::from_millis(5));
    }
    // What the primary got of all that may yet fill its log faster than that can take.
    while set(&mut cluster.client(0), &cluster.key(1, 1), b"x").status != 201 {
        thread::sleep(Duration::from_millis(5));
    }
}
