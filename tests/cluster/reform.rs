//! A new cluster out of the directories of a stopped one: another table, a lost majority, an application that was cut
//! short, and a node that was left behind.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::cluster::Cluster;
use crate::support::http::Client;
use crate::support::process::free_address;
use crate::{get, is, set};

const KEYS: usize = 20;

/// What a command printed, and said.
struct Output {
    code: Option<i32>,
    out: Vec<u8>,
    told: String,
}

fn reform(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkv"));
    let output = command.arg("reform").args(words).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8([output.stderr, output.stdout.clone()].concat()).unwrap();
    Output { code: output.status.code(), out: output.stdout, told }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Surveys these directories into a file.
fn surveyed(cluster: &Cluster, directories: &[PathBuf]) -> PathBuf {
    let words: Vec<&str> = std::iter::once("survey").chain(directories.iter().map(|path| text(path))).collect();
    let output = reform(&words);
    assert_eq!(output.code, Some(0), "{}", output.told);
    let file = cluster.path("host.survey");
    fs::write(&file, output.out).unwrap();
    file
}

/// Plans for a table by the survey, and more words.
fn planned(cluster: &Cluster, survey: &Path, words: &[&str]) -> (PathBuf, Output) {
    let config = cluster.config();
    let output = reform(&[&["plan", "--config", text(&config), text(survey)], words].concat());
    let file = cluster.path("reform.plan");
    fs::write(&file, &output.out).unwrap();
    (file, output)
}

#[track_caller]
fn applied(plan: &Path, words: &[&str]) -> String {
    let output = reform(&[&["apply", text(plan)], words].concat());
    assert_eq!(output.code, Some(0), "{}", output.told);
    output.told
}

fn all_data(cluster: &Cluster) -> Vec<PathBuf> {
    (0..cluster.nodes()).map(|node| cluster.data(node)).collect()
}

fn addresses(count: usize) -> Vec<SocketAddr> {
    (0..count).map(|_| free_address()).collect()
}

/// Two shards with two copies each, and keys in both; stopped. Also the highest ETag of each shard.
fn filled() -> (Cluster, [u64; 2]) {
    let cluster = Cluster::started(2, 2, "");
    let mut client = cluster.client(0);
    let mut tags = [0; 2];
    for (shard, tag) in tags.iter_mut().enumerate() {
        for n in 0..KEYS {
            let answer = set(&mut client, &cluster.key(shard, n), format!("value {n}").as_bytes());
            assert_eq!(answer.status, 201, "{answer:?}");
            *tag = answer.etag().max(*tag);
        }
        cluster.wait_until_whole(shard);
    }
    stop_all(&cluster);
    (cluster, tags)
}

fn stop_all(cluster: &Cluster) {
    for node in 0..cluster.nodes() {
        cluster.signal(node, rustix::process::Signal::TERM);
    }
    for node in 0..cluster.nodes() {
        assert!(cluster.wait(node).success(), "{}", cluster.log(node));
    }
}

fn has_all(client: &mut Client, cluster: &Cluster, shard: usize) {
    for n in 0..KEYS {
        is(&get(client, &cluster.key(shard, n)), 200, format!("value {n}").as_bytes());
    }
}

#[test]
fn another_table_keeps_all_data_and_its_copies_fail_over() {
    let (old, tags) = filled();
    // Other ports everywhere, a third copy of the first shard, and a witness.
    let new = old.successor("new-", &addresses(6), &[3, 2]);
    let survey = surveyed(&old, &all_data(&old));
    let becomes: Vec<String> = [0, 1, 3, 4]
        .iter()
        .zip(all_data(&old))
        .flat_map(|(node, data)| ["--node".to_owned(), format!("{}={}", new.addresses[*node], data.display())])
        .collect();
    let words: Vec<&str> = becomes.iter().map(String::as_str).collect();
    let (plan, output) = planned(&new, &survey, &words);
    assert_eq!(output.code, Some(0), "{}", output.told);
    let third = format!("{} starts empty", new.addresses[2]);
    assert!(output.told.contains("nothing is lost") && output.told.contains(&third), "{}", output.told);
    assert!(!output.told.contains("MAY BE LOST"), "{}", output.told);
    let told = applied(&plan, &[]);
    assert_eq!(told.lines().filter(|line| line.contains(": applied: ")).count(), 4, "{told}");
    assert!(all_data(&old).iter().all(|data| !data.exists()), "they are called as the new nodes are");

    new.start_all();
    let mut client = new.client(5);
    for (shard, tag) in tags.iter().enumerate() {
        new.wait_until_whole(shard);
        has_all(&mut client, &new, shard);
        let answer = set(&mut client, &new.key(shard, KEYS), b"new");
        assert!(answer.status == 201 && answer.etag() > *tag, "{answer:?}");
    }
    let leader = new.leader(0);
    new.kill(leader);
    is(&get(&mut client, &new.key(0, KEYS)), 200, b"new");
    is(&set(&mut client, &new.key(0, KEYS + 1), b"newer"), 201, b"OK\n");
    has_all(&mut client, &new, 0);
    new.start(leader);
    new.wait_until_whole(0);
}

#[test]
fn a_lost_majority_is_refused_and_its_loss_can_be_accepted() {
    let (old, tags) = filled();
    // Three of four nodes vote: two of them are gone, and with them all of the second shard but its replica.
    for node in [1, 2] {
        fs::remove_dir_all(old.data(node)).unwrap();
    }
    let left = [old.data(0), old.data(3)];
    let survey = surveyed(&old, &left);
    let (_, output) = planned(&old, &survey, &[]);
    assert_eq!((output.code, output.out.len()), (Some(1), 0), "{}", output.told);
    for part in ["2 of the old cluster's 3 voters are needed", "--accept-data-loss", "shard 1 shard-1"] {
        assert!(output.told.contains(part), "{part}: {}", output.told);
    }
    let leads = [format!("0={}", old.addresses[0]), format!("1={}", old.addresses[3])];
    let words = ["--accept-data-loss", "--lead", &leads[0], "--lead", &leads[1]];
    let (plan, output) = planned(&old, &survey, &words);
    assert_eq!(output.code, Some(0), "{}", output.told);
    assert!(output.told.contains("ANSWERED WRITES MAY BE LOST"), "{}", output.told);
    // Only one of the three voters has a directory: another must be made.
    let needed = format!("dkv reform apply PLAN {}=DIR", old.addresses[1]);
    assert!(output.told.contains(&needed), "{}", output.told);
    let made = format!("{}={}", old.addresses[1], old.data(1).display());
    let told = applied(&plan, &[&made]);
    assert!(told.contains(&format!("{}: made: ", old.addresses[1])), "{told}");

    old.start_all();
    let mut client = old.client(2);
    for (shard, tag) in tags.iter().enumerate() {
        old.wait_until_whole(shard);
        has_all(&mut client, &old, shard);
        let answer = set(&mut client, &old.key(shard, KEYS), b"new");
        assert!(answer.status == 201 && answer.etag() > (1 << 48).max(*tag), "{answer:?}");
    }
}

#[test]
fn an_application_that_was_cut_short_is_run_again() {
    let (old, _) = filled();
    // The shards' nodes change places, so that their directories do, too.
    let order = [2, 3, 0, 1].map(|node| old.addresses[node]);
    let new = old.successor("new-", &order, &[2, 2]);
    let survey = surveyed(&old, &all_data(&old));
    let (_, output) = planned(&new, &survey, &[]);
    assert_eq!(output.code, Some(1), "{}", output.told);
    assert!(output.told.contains("holds shard 0 shard-0 and cannot become"), "{}", output.told);
    let becomes: Vec<String> = (0..4)
        .flat_map(|node| ["--node".to_owned(), format!("{}={}", order[node], old.data(node).display())])
        .collect();
    let words: Vec<&str> = becomes.iter().map(String::as_str).collect();
    let (plan, output) = planned(&new, &survey, &words);
    assert_eq!(output.code, Some(0), "{}", output.told);

    // A node runs, or ran in the meantime: nothing is written at all.
    let all_files = || (0..4).map(|node| fs::read(old.data(node).join("node")).unwrap()).collect::<Vec<_>>();
    old.start_all();
    let refused = |plan: &Path, why: &str| {
        let before = all_files();
        let output = reform(&["apply", text(plan)]);
        assert!(output.code == Some(1) && output.told.contains(why), "{}", output.told);
        assert_eq!(all_files(), before);
    };
    refused(&plan, "in use");
    assert!(reform(&["survey", text(&old.data(0))]).told.contains("in use"));
    stop_all(&old);
    refused(&plan, "is not what was surveyed");
    let survey = surveyed(&old, &all_data(&old));
    let (plan, _) = planned(&new, &survey, &words);

    // It was cut short when the first node had its files and was put aside, and the second had its voter's file only.
    let kept = fs::read(old.data(1).join("node")).unwrap();
    applied(&plan, &[]);
    fs::write(new.data(1).join("node"), kept).unwrap();
    fs::rename(new.data(0), format!("{}.reform", text(&new.data(0)))).unwrap();
    let told = applied(&plan, &[]);
    assert!(told.contains(&format!("{}: was applied before: ", order[0])), "{told}");
    assert!(told.contains(&format!("{}: applied: ", order[1])), "{told}");
    let told = applied(&plan, &[]);
    assert_eq!(told.lines().filter(|line| line.contains("was applied before")).count(), 4, "{told}");

    new.start_all();
    for shard in [0, 1] {
        new.wait_until_whole(shard);
        has_all(&mut new.client(3), &new, shard);
        is(&set(&mut new.client(3), &new.key(shard, KEYS), b"new"), 201, b"OK\n");
    }
    // What runs is not written again: its voters have gone on.
    stop_all(&new);
    let voter = fs::read(new.data(0).join("voter")).unwrap();
    applied(&plan, &[]);
    assert_eq!(fs::read(new.data(0).join("voter")).unwrap(), voter);
}

#[test]
fn a_node_that_was_left_behind_is_refused_and_told_what_to_do() {
    let (old, _) = filled();
    let survey = surveyed(&old, &all_data(&old));
    // The same table: nothing but the cluster's id tells the two apart.
    let behind = old.data(3);
    let copy = old.path("left-behind");
    let copied = Command::new("cp").arg("-a").args([&behind, &copy]).status().unwrap();
    assert!(copied.success());
    let (plan, output) = planned(&old, &survey, &[]);
    assert_eq!(output.code, Some(0), "{}", output.told);
    applied(&plan, &[]);
    fs::remove_dir_all(&behind).unwrap();
    fs::rename(&copy, &behind).unwrap();
    for node in 0..3 {
        old.spawn(node);
    }
    for node in 0..3 {
        old.wait_until_ready(node);
    }
    has_all(&mut old.client(0), &old, 1);
    old.spawn(3);
    for node in [0, 3] {
        let told = old.wait_for_log(node, "belong to different clusters");
        assert!(told.contains("dkv reform apply"), "{told}");
    }
    assert_eq!(old.client(3).call("GET /readyz", "").status, 503);
    is(&set(&mut old.client(0), &old.key(1, KEYS), b"without it"), 201, b"OK\n");
    old.kill(3);

    // Applied, or emptied, it is one of them.
    let output = reform(&["apply", text(&plan)]);
    assert!(output.told.contains("is in use"), "the others run: {}", output.told);
    fs::remove_dir_all(&behind).unwrap();
    old.start(3);
    old.wait_until_whole(1);
    let answer = old.client(3).call(&format!("GET /get?key={}&consistency=stale", old.key(1, KEYS)), "");
    is(&answer, 200, b"without it");

    // With another table it does not even start.
    old.stop(3);
    let new = old.successor("new-", &old.addresses, &[2, 1]);
    old.spawn_with(3, &new.config());
    assert!(!old.wait(3).success());
    let told = old.wait_for_log(3, "was formed with another table");
    assert!(told.contains("`dkv reform`"), "{told}");
}
