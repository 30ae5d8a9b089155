//! Any node takes any request, and nobody can tell which one he asked.

use std::thread;

use crate::support::cluster::Cluster;
use crate::support::http::{Client, Response};
use crate::{escaped, get, is, request, set};

/// The sizes of the example: four shards of two nodes.
fn sample() -> Cluster {
    Cluster::started(4, 2, "")
}

#[test]
fn every_node_serves_every_key() {
    let cluster = sample();
    let mut clients: Vec<Client> = (0..cluster.nodes()).map(|node| cluster.client(node)).collect();
    for shard in 0..4 {
        for writer in 0..clients.len() {
            let key = cluster.key(shard, writer);
            is(&set(&mut clients[writer], &key, key.as_bytes()), 201, b"OK\n");
            for client in &mut clients {
                is(&get(client, &key), 200, key.as_bytes());
            }
        }
    }
    for shard in 0..4 {
        for n in 0..clients.len() {
            let key = cluster.key(shard, n);
            let (updater, deleter) = ((n + 3) % 8, (n + 6) % 8);
            is(&clients[updater].call(&format!("POST /update?key={key}&value=new"), ""), 200, b"OK\n");
            for client in &mut clients {
                is(&get(client, &key), 200, b"new");
            }
            is(&clients[deleter].call(&format!("DELETE /delete?key={key}"), ""), 200, b"OK\n");
            for client in &mut clients {
                assert_eq!(get(client, &key).status, 404);
            }
        }
    }
}

/// Every kind of answer of the four calls, with `{}` for the key: line, headers (`{}` for the present ETag), body.
const CALLS: [(&str, &str, Option<&[u8]>); 27] = [
    ("GET /get?key={}", "", None),
    ("HEAD /get?key={}", "", None),
    ("DELETE /delete?key={}", "", None),
    ("POST /update?key={}&value=x", "", None),
    ("PUT /set?key={}&value=x", "If-Match: *\r\n", None),
    ("PUT /set?key={}&value=x", "If-Match: \"1\"\r\n", None),
    ("PUT /set?key={}", "If-None-Match: *\r\n", Some(b"one")),
    ("PUT /set?key={}", "If-None-Match: *\r\n", Some(b"two")),
    ("PUT /set?key={}", "If-None-Match: *\r\nAccept: application/json\r\n", Some(b"two")),
    ("GET /get?key={}", "", None),
    ("HEAD /get?key={}", "", None),
    ("GET /get?key={}", "If-None-Match: {}\r\n", None),
    ("GET /get?key={}", "If-None-Match: \"0\"\r\n", None),
    ("HEAD /get?key={}", "If-None-Match: {}\r\n", None),
    ("GET /get?key={}", "If-Match: {}\r\n", None),
    ("GET /get?key={}", "If-Match: \"0\"\r\n", None),
    ("PUT /set?key={}", "", Some(b"three")),
    ("POST /update?key={}", "If-Match: {}\r\n", Some(b"four")),
    ("POST /update?key={}", "If-Match: \"0\"\r\n", Some(b"five")),
    ("POST /update?key={}", "", Some(b"")),
    ("GET /get?key={}", "", None),
    ("DELETE /delete?key={}", "If-Match: \"0\"\r\n", None),
    ("DELETE /delete?key={}", "If-Match: {}\r\n", None),
    ("DELETE /delete?key={}", "", None),
    ("GET /get?key={}", "Accept: application/json\r\n", None),
    ("GET /get?key={}", "If-Match: *\r\n", None),
    ("GET /get?key={}", "Connection: close\r\n", None),
];

/// Plays [`CALLS`] on one key at one node.
fn play(cluster: &Cluster, node: usize, key: &str) -> Vec<Response> {
    let mut client = cluster.client(node);
    let mut look = cluster.client(cluster.primary(cluster.shard_of(key.as_bytes())));
    let play_one = |(line, headers, body): &(&str, &str, Option<&[u8]>)| {
        let present = look.call(&format!("HEAD /get?key={key}"), "");
        let tag = present.header("etag").unwrap_or("\"7\"").to_owned();
        let (line, headers) = (line.replace("{}", key), headers.replace("{}", &tag));
        let answer = match body {
            Some(body) => client.call_with(&line, &headers, body),
            None => client.call(&line, &headers),
        };
        // The tag is the one thing that must differ between two keys; that it is the right one is looked at here.
        let mut answer = answer;
        if answer.status == 412 && present.status == 200 {
            assert_eq!(answer.header("etag"), Some(&*tag), "{line}");
            answer.body = answer.text().replace(&tag, "TAG").replace(tag.trim_matches('"'), "TAG").into();
        }
        let after = look.call(&format!("HEAD /get?key={key}"), "");
        match answer.header("etag") {
            Some(told) => assert_eq!(Some(told), after.header("etag"), "{line} {answer:?}"),
            None => assert!(!line.starts_with("PUT") || answer.status == 412, "{line} {answer:?}"),
        }
        answer
    };
    CALLS.iter().map(play_one).collect()
}

#[test]
fn a_stale_read_is_answered_by_every_copy_and_soon_shows_every_write() {
    let cluster = sample();
    let key = cluster.key(1, 0);
    let line = format!("GET /get?key={key}&consistency=stale");
    for value in [&b"one"[..], b"two"] {
        set(&mut cluster.client(0), &key, value);
        for node in 0..cluster.nodes() {
            let forwards = cluster.metric(node, "dkv_forwards_sent_total");
            let mut client = cluster.client(node);
            let mut answer = client.call(&line, "");
            // The replica learns with the next beacon that the write is committed.
            while answer.body != value {
                answer = client.call(&line, "");
            }
            assert_eq!((answer.status, answer.header("consistency")), (200, Some("stale")));
            assert!(answer.header("behind-ms").is_some(), "{answer:?}");
            let is_copy = [2, 3].contains(&node);
            assert_eq!(cluster.metric(node, "dkv_forwards_sent_total") == forwards, is_copy, "node {node}");
        }
    }
}

#[test]
fn an_answer_is_the_same_whichever_node_is_asked() {
    let cluster = sample();
    for shard in [0, 3] {
        let own = play(&cluster, cluster.primary(shard), &cluster.key(shard, 0));
        let statuses: Vec<u16> = own.iter().map(|answer| answer.status).collect();
        for status in [200, 201, 304, 404, 412] {
            assert!(statuses.contains(&status), "{status} is tried: {statuses:?}");
        }
        for node in [shard * 2 + 1, 2, 5] {
            let forwarded = play(&cluster, node, &cluster.key(shard, node));
            for ((call, own), forwarded) in CALLS.iter().zip(&own).zip(&forwarded) {
                assert_eq!(own.header("etag").is_some(), forwarded.header("etag").is_some(), "{call:?}");
                let same = |answer: &Response| {
                    let mut answer = answer.clone().timeless();
                    answer.headers.retain(|(name, _)| name != "content-length" || answer.status != 412);
                    answer
                };
                assert_eq!(same(own), same(forwarded), "{call:?}");
            }
        }
    }
}

#[test]
fn reads_are_the_same_with_their_etag() {
    let cluster = sample();
    let key = cluster.key(2, 0);
    let mut primary = cluster.client(cluster.primary(2));
    let tag = set(&mut cluster.client(1), &key, b"value").etag();
    for call in ["GET", "HEAD"] {
        let line = format!("{call} /get?key={key}");
        let without_date = |mut answer: Response| {
            answer.headers.retain(|(name, _)| name != "date");
            answer
        };
        let own = without_date(primary.call(&line, ""));
        assert_eq!(own.etag(), tag);
        for node in 0..cluster.nodes() {
            assert_eq!(own, without_date(cluster.client(node).call(&line, "")), "{line} at {node}");
        }
    }
}

#[test]
fn every_byte_survives_a_forward_and_a_restart() {
    let cluster = sample();
    let all: Vec<u8> = (0..=255).collect();
    let mut keys: Vec<Vec<u8>> = all.iter().map(|b| vec![*b]).collect();
    keys.push(all.clone());
    let value_of = |key: &[u8]| {
        let mut value = all.clone();
        value.rotate_left(key[key.len() / 2].into());
        value
    };
    let mut clients: Vec<Client> = (0..cluster.nodes()).map(|node| cluster.client(node)).collect();
    for (n, key) in keys.iter().enumerate() {
        is(&set(&mut clients[n % 8], &escaped(key), &value_of(key)), 201, b"OK\n");
    }
    let query = format!("PUT /set?key=in-query&value={}", escaped(&all));
    is(&clients[0].call(&query, ""), 201, b"OK\n");

    drop(clients);
    for node in 0..cluster.nodes() {
        if node % 2 == 0 { cluster.stop(node) } else { cluster.kill(node) }
    }
    cluster.start_all();

    let mut clients: Vec<Client> = (0..cluster.nodes()).map(|node| cluster.client(node)).collect();
    for (n, key) in keys.iter().enumerate() {
        for client in [(n + 1) % 8, (n + 4) % 8] {
            is(&get(&mut clients[client], &escaped(key)), 200, &value_of(key));
        }
    }
    is(&get(&mut clients[6], "in-query"), 200, &all);
}

#[test]
fn values_go_through_up_to_the_limit_and_keys_too() {
    let cluster = Cluster::started(2, 1, "[limits]\nmax_value_bytes = 4194304\nmax_key_bytes = 5000");
    let mut client = cluster.client(0);
    let bytes = |n: usize| -> Vec<u8> { (0..n).map(|i| (i % 251) as u8).collect() };
    for (n, size) in [0, 1, 65_535, 65_536, 1 << 20, (4 << 20) - 1, 4 << 20].into_iter().enumerate() {
        let key = cluster.key(1, n);
        is(&set(&mut client, &key, &bytes(size)), 201, b"OK\n");
        is(&get(&mut client, &key), 200, &bytes(size));
        is(&get(&mut cluster.client(1), &key), 200, &bytes(size));
    }
    let long = (0..).map(|n| format!("{n:05000}")).find(|key| cluster.shard_of(key.as_bytes()) == 1).unwrap();
    is(&set(&mut client, &long, b"long"), 201, b"OK\n");
    is(&get(&mut client, &long), 200, b"long");
    let refused = set(&mut cluster.client(0), &cluster.key(1, 0), &bytes((4 << 20) + 1));
    assert_eq!(refused.status, 413, "{refused:?}");
}

#[test]
fn pipelined_requests_of_all_shards_are_answered_in_their_order() {
    let cluster = sample();
    let keys: Vec<String> = (0..40).map(|n| cluster.key(n % 4, n / 4)).collect();
    for node in [0, 3, 6] {
        let mut client = cluster.client(node);
        let mut sender = client.sender();
        // More than a connection may have under way, and every read behind the write of its own connection.
        let rounds = 15;
        let mut bytes = Vec::new();
        for round in 0..rounds {
            for key in &keys {
                bytes.extend(request(&format!("PUT /set?key={key}"), format!("{node} {key} {round}").as_bytes()));
                bytes.extend(format!("GET /get?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
            }
        }
        let sending = thread::spawn(move || sender.send(&bytes));
        for round in 0..rounds {
            for key in &keys {
                let put = client.read();
                assert!(matches!(put.status, 200 | 201), "{put:?}");
                is(&client.read(), 200, format!("{node} {key} {round}").as_bytes());
            }
        }
        sending.join().unwrap();
    }
}

#[test]
fn many_requests_under_way_on_one_link_each_get_their_own_answer() {
    let cluster = Cluster::started(2, 1, "");
    let keys: Vec<String> = (0..48).map(|n| cluster.key(1, n)).collect();
    for key in &keys {
        is(&set(&mut cluster.client(0), key, key.as_bytes()), 201, b"OK\n");
    }
    // While the primary stands still, reads, writes and refusals of many clients gather on the link; the reads and the
    // refusals are answered before the writes, which wait for their sync.
    cluster.freeze(1);
    let mut clients: Vec<Client> = keys.iter().map(|_| cluster.client(0)).collect();
    let before = cluster.metric(0, "dkv_forwards_sent_total");
    for (n, (client, key)) in clients.iter_mut().zip(&keys).enumerate() {
        match n % 4 {
            0 => client.send(&request(&format!("PUT /set?key={key}"), format!("new {key}").as_bytes())),
            1 => client.send(format!("GET /get?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()),
            2 => client
                .send(format!("POST /update?key={key}-none&value=x HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()),
            _ => client.send(format!("DELETE /delete?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()),
        }
    }
    let absent = keys
        .iter()
        .enumerate()
        .filter(|(n, key)| n % 4 == 2 && cluster.shard_of(format!("{key}-none").as_bytes()) == 0);
    let local = absent.count() as f64;
    cluster.wait_for_metric(0, "dkv_forwards_sent_total", before + keys.len() as f64 - local);
    cluster.thaw(1);
    for (n, (client, key)) in clients.iter_mut().zip(&keys).enumerate().rev() {
        let answer = client.read();
        match n % 4 {
            0 => is(&answer, 200, b"OK\n"),
            1 => is(&answer, 200, key.as_bytes()),
            2 => assert_eq!(answer.status, 404, "{answer:?}"),
            _ => is(&answer, 200, b"OK\n"),
        }
    }
    for (n, key) in keys.iter().enumerate() {
        let now = get(&mut clients[n], key);
        match n % 4 {
            0 => is(&now, 200, format!("new {key}").as_bytes()),
            3 => assert_eq!(now.status, 404),
            _ => is(&now, 200, key.as_bytes()),
        }
    }
}
