//! A disk that is full, or gives back other bytes than were written.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::{get, is, set};

/// Small files of the log, so that there are several.
const SMALL_LOG: &str = "[store]\nsegment_bytes = 262144\n[limits]\nmax_value_bytes = 16384";

fn value(n: usize) -> Vec<u8> {
    let seed = format!("value {n} ");
    seed.bytes().cycle().take(8_000).collect()
}

/// A cluster of two shards whose second has 60 keys in a log of several files, and is stopped.
fn filled() -> (Cluster, Vec<String>) {
    let (cluster, keys) = running(1);
    cluster.stop(1);
    (cluster, keys)
}

/// The same with so many copies of each shard, and running.
fn running(copies: usize) -> (Cluster, Vec<String>) {
    let cluster = Cluster::started(2, copies, SMALL_LOG);
    let keys: Vec<String> = (0..60).map(|n| cluster.key(1, n)).collect();
    let mut client = cluster.client(0);
    for (n, key) in keys.iter().enumerate() {
        is(&set(&mut client, key, &value(n)), 201, b"OK\n");
    }
    (cluster, keys)
}

/// The files of a node's log, oldest first.
fn segments(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    let files = fs::read_dir(cluster.data(node)).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    logs.sort();
    logs
}

/// Turns one bit in the midst of the `n`th key's value, which must stand in a sealed file; gives that file.
fn flip(cluster: &Cluster, node: usize, n: usize) -> PathBuf {
    let holds = |file: &PathBuf| {
        let bytes = fs::read(file).unwrap();
        memchr::memmem::find(&bytes, &value(n)[..4_000]).map(|at| (file.clone(), at + 3_000, bytes))
    };
    let (file, at, bytes) = segments(cluster, node).iter().find_map(holds).expect("the value is in the log");
    assert!(file.with_extension("hint").exists(), "{} is sealed", file.display());
    let handle = OpenOptions::new().write(true).open(&file).unwrap();
    handle.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
    file
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

fn dkv(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dkv")).args(words).output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(both).unwrap())
}

/// What holds once the damage is known: the shard answers nothing, says where, and all else goes on.
fn damaged(cluster: &Cluster, keys: &[String], file: &str) {
    let ready = cluster.client(1).call("GET /readyz", "");
    assert!(ready.status == 503 && ready.text().contains(file) && ready.text().contains("at byte"), "{ready:?}");
    assert_eq!(cluster.client(1).call("GET /livez", "").status, 200);
    assert!(cluster.log(1).lines().any(|line| line.contains("ERROR") && line.contains(file)), "{}", cluster.log(1));
    for key in &keys[..3] {
        for node in [0, 1] {
            let answer = get(&mut cluster.client(node), key);
            assert!(answer.status == 503 && answer.text().contains("damaged"), "{answer:?}");
            let answer = set(&mut cluster.client(node), key, b"x");
            assert!(answer.status == 503 && answer.text().contains("damaged"), "{answer:?}");
        }
    }
    let mut client = cluster.client(1);
    is(&set(&mut client, &cluster.key(0, 7), b"of another shard"), 201, b"OK\n");
    is(&get(&mut client, &cluster.key(0, 7)), 200, b"of another shard");

    // What was damaged stays damaged.
    cluster.stop(1);
    let data = cluster.data(1);
    let data = data.to_str().unwrap();
    let (code, told) = dkv(&["log", "verify", data]);
    assert!(code == Some(1) && told.contains(file), "{code:?} {told}");
}

#[test]
fn damage_that_a_start_finds() {
    let (cluster, keys) = filled();
    let file = flip(&cluster, 1, 10);
    fs::remove_file(file.with_extension("hint")).unwrap();
    cluster.spawn(1);
    cluster.wait_until_alive(1);
    damaged(&cluster, &keys, name(&file));

    // With the damage cut away, what stands before it is served again.
    let data = cluster.data(1);
    let data = data.to_str().unwrap();
    let (code, told) = dkv(&["log", "cut", data]);
    assert!(code == Some(0) && told.contains(name(&file)), "{code:?} {told}");
    let (code, told) = dkv(&["log", "verify", data]);
    assert_eq!(code, Some(0), "{told}");
    cluster.start(1);
    let mut client = cluster.client(0);
    for (n, key) in keys.iter().enumerate() {
        let answer = get(&mut client, key);
        if n < 10 { is(&answer, 200, &value(n)) } else { assert_eq!(answer.status, 404, "{n}") }
    }
    let answer = set(&mut client, &keys[20], b"new");
    is(&answer, 201, b"OK\n");
    // No ETag means two values.
    assert!(answer.etag() > 1 << 48, "{answer:?}");
}

#[test]
fn damage_that_a_read_finds() {
    let (cluster, keys) = filled();
    let file = flip(&cluster, 1, 10);
    // The file's hint is good, so that the start has no need to read it.
    cluster.start(1);
    let mut client = cluster.client(0);
    is(&get(&mut client, &keys[9]), 200, &value(9));
    let answer = get(&mut client, &keys[10]);
    assert!(answer.status == 503 && answer.text().contains("damaged"), "{answer:?}");
    damaged(&cluster, &keys, name(&file));
}

/// A copy of the second shard of a cluster of pairs has got all data anew: it is in sync, and its log is sound.
fn is_repaired(cluster: &Cluster, keys: &[String], node: usize) {
    cluster.wait_for_log(node, "this copy has got all data anew");
    has_everything(cluster, keys, node);
}

/// A copy is in sync, and its log is sound.
fn has_everything(cluster: &Cluster, keys: &[String], node: usize) {
    cluster.wait_until_ready(node);
    let mut client = cluster.client(node);
    for (n, key) in keys.iter().enumerate() {
        is(&client.call(&format!("GET /get?key={key}&consistency=stale"), ""), 200, &value(n));
    }
    is(&set(&mut cluster.client(0), &cluster.key(1, 100), b"new"), 201, b"OK\n");
    // It is in sync: the other copy is not needed.
    cluster.kill(5 - node);
    is(&get(&mut cluster.client(0), &cluster.key(1, 100)), 200, b"new");
    for (n, key) in keys.iter().enumerate() {
        is(&get(&mut cluster.client(0), key), 200, &value(n));
    }
    cluster.stop(node);
    let (code, told) = dkv(&["log", "verify", cluster.data(node).to_str().unwrap()]);
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn a_copy_whose_damage_a_start_finds_is_repaired_by_the_other() {
    let (cluster, keys) = running(2);
    cluster.stop(2);
    let file = flip(&cluster, 2, 10);
    fs::remove_file(file.with_extension("hint")).unwrap();
    cluster.spawn(2);
    is_repaired(&cluster, &keys, 2);
}

/// It once led over the other, and had that filled with what it had left.
#[test]
fn a_copy_whose_log_was_cut_does_not_lead_while_another_is_in_sync() {
    let (cluster, keys) = running(2);
    cluster.kill(2);
    cluster.kill(3);
    flip(&cluster, 3, 10);
    let (code, told) = dkv(&["log", "cut", cluster.data(3).to_str().unwrap()]);
    assert_eq!(code, Some(0), "{told}");
    cluster.spawn(3);
    cluster.wait_until_alive(3);
    let waits = format!("it waits for one that has all of them, {}", cluster.addresses[2]);
    while !cluster.client(3).call("GET /readyz", "").text().contains(&waits) {
        assert!(!cluster.log(3).contains("is about to lead"), "{}", cluster.log(3));
    }
    cluster.spawn(2);
    has_everything(&cluster, &keys, 3);
}

#[test]
fn a_primary_whose_damage_a_read_finds_lets_the_other_lead_and_is_repaired() {
    let (cluster, keys) = running(2);
    flip(&cluster, 2, 10);
    let mut client = cluster.client(0);
    let mut answer = get(&mut client, &keys[10]);
    while answer.status == 503 {
        assert!(answer.text().contains("damaged"), "{answer:?}");
        answer = get(&mut client, &keys[10]);
    }
    is(&answer, 200, &value(10));
    is_repaired(&cluster, &keys, 2);
}

/// One copy is away and lacks the keys from the 60th on; the other finds the `n`th key's record damaged.
fn damaged_alone(n: usize) -> (Cluster, Vec<String>) {
    let (cluster, mut keys) = running(2);
    cluster.kill(3);
    let mut client = cluster.client(0);
    for later in 60..120 {
        keys.push(cluster.key(1, later + 100));
        is(&set(&mut client, &keys[later], &value(later)), 201, b"OK\n");
    }
    flip(&cluster, 2, n);
    let answer = get(&mut client, &keys[n]);
    assert!(answer.status == 503 && answer.text().contains("damaged"), "{answer:?}");
    (cluster, keys)
}

/// The shard stood still until an operator cut the log, though the other copy held the very record that was damaged.
#[test]
fn a_copy_that_is_found_damaged_alone_fills_the_other_which_leads_and_repairs_it() {
    let (cluster, keys) = damaged_alone(10);
    let ready = cluster.client(2).call("GET /readyz", "");
    let remedy = "do not stop this node: another copy";
    assert!(ready.status == 503 && ready.text().contains(remedy), "{ready:?}");
    cluster.start(3);
    is_repaired(&cluster, &keys, 2);
}

/// Whoever waited then, as the message advises at first, would wait for ever.
#[test]
fn a_copy_that_is_found_damaged_alone_says_so_where_the_other_lacks_what_is_damaged() {
    let (cluster, keys) = damaged_alone(70);
    cluster.spawn(3);
    cluster.wait_until_alive(3);
    loop {
        let ready = cluster.client(2).call("GET /readyz", "");
        assert_eq!(ready.status, 503, "{ready:?}");
        let text = ready.text();
        if text.contains("dkv log verify") && text.contains("lacks is damaged, too") {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    // What the other has it still tells to those who ask for no more.
    let stale = format!("GET /get?key={}&consistency=stale", keys[10]);
    is(&cluster.client(3).call(&stale, ""), 200, &value(10));
}

#[test]
fn a_full_disk_refuses_writes_alone_and_recovers() {
    // What follows the program is `serve --config FILE --data-dir DIR ...`.
    let script = "mkdir -p \"$5\" && mount -t tmpfs -o size=6m tmpfs \"$5\" && exec \"$0\" \"$@\"";
    let wrapper = ["unshare", "-Urm", "sh", "-c", script];
    let probe = Command::new("unshare").args(["-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: this system lets nobody mount a small disk of his own (unshare -Urm mount -t tmpfs)");
        return;
    }
    let cluster = Cluster::new(2, 1, SMALL_LOG).wrapped(&wrapper);
    cluster.start_all();
    let disk = PathBuf::from(format!("/proc/{}/root{}", cluster.pid(1).as_raw_nonzero(), cluster.data(1).display()));
    let mut client = cluster.client(0);

    // Somebody else fills it.
    is(&set(&mut client, &cluster.key(1, 0), b"before"), 201, b"OK\n");
    let filler = disk.join("filler");
    while fs::write(&filler, vec![0; fs::metadata(&filler).map_or(0, |m| m.len() as usize) + (1 << 16)]).is_ok() {}
    let mut written = fill(&cluster, 1, 100_000);
    assert_eq!(cluster.metric(1, "dkv_disk_full"), 1.0);
    assert_eq!(cluster.client(1).call("GET /readyz", "").status, 200, "reads and deletes go on");
    is(&get(&mut client, &cluster.key(1, 0)), 200, b"before");
    is(&set(&mut client, &cluster.key(0, 0), b"another disk"), 201, b"OK\n");
    is(&client.call(&format!("DELETE /delete?key={}", cluster.key(1, 0)), ""), 200, b"OK\n");
    fs::remove_file(&filler).unwrap();
    while set(&mut client, &cluster.key(1, 1), b"after").status == 507 {
        thread::sleep(Duration::from_millis(5));
    }

    // The store fills it; deletes make room again.
    written.extend(fill(&cluster, 1, 200_000));
    for (key, value) in &written {
        is(&get(&mut client, key), 200, value);
    }
    for (key, _) in &written {
        // What deletes may use at once is bounded: the rest waits for compaction.
        let mut answer = client.call(&format!("DELETE /delete?key={key}"), "");
        while answer.status == 507 {
            thread::sleep(Duration::from_millis(5));
            answer = client.call(&format!("DELETE /delete?key={key}"), "");
        }
        is(&answer, 200, b"OK\n");
    }
    while set(&mut client, &cluster.key(1, 2), b"room").status == 507 {
        thread::sleep(Duration::from_millis(5));
    }
    let again = fill(&cluster, 1, 300_000);
    println!("{} writes before it was full of them, {} after those were deleted", written.len(), again.len());
    assert!(again.len() > written.len() / 2);
    for (key, value) in &again {
        is(&get(&mut client, key), 200, value);
    }
    assert!(cluster.log(1).lines().all(|line| !line.contains("ERROR")), "{}", cluster.log(1));
}

/// Sets fresh keys of a shard until its disk is full; gives those that were answered.
fn fill(cluster: &Cluster, shard: usize, from: usize) -> Vec<(String, Vec<u8>)> {
    let mut client = cluster.client(0);
    let mut written = Vec::new();
    for n in from.. {
        let key = format!("fill-{n}");
        if cluster.shard_of(key.as_bytes()) != shard {
            continue;
        }
        let answer = set(&mut client, &key, &value(n));
        match answer.status {
            201 => written.push((key, value(n))),
            507 => {
                assert!(answer.text().contains("not applied"), "{answer:?}");
                assert_eq!(get(&mut client, &key).status, 404, "it was refused");
                return written;
            }
            other => panic!("{other} {answer:?}"),
        }
    }
    unreachable!("no disk is endless")
}
