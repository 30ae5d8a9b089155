//! launch.sh and populate.sh as users run them, each test with a cluster of its own: its configuration, directories
//! and ports.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by its place")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use support::process::free_address;

/// Two shards of two nodes, all on this host.
struct Cluster {
    dir: TempDir,
    addresses: Vec<String>,
}

impl Cluster {
    fn new() -> Cluster {
        let addresses: Vec<String> = (0..4).map(|_| free_address().to_string()).collect();
        let shard = |name: &str, idx: usize| {
            let (primary, replica) = (&addresses[2 * idx], &addresses[2 * idx + 1]);
            format!("[[shard]]\nname = \"{name}\"\nidx = {idx}\naddress = \"{primary}\"\nreplicas = [\"{replica}\"]\n")
        };
        let text = shard("New York", 0) + &shard("Minsk", 1);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sharding.toml"), text).unwrap();
        Cluster { dir, addresses }
    }

    fn started() -> Cluster {
        let cluster = Cluster::new();
        cluster.good(&["launch.sh"]);
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
        command
            .env("DKV_BIN", env!("CARGO_BIN_EXE_dkv"))
            .env("DKV_CONFIG", self.path("sharding.toml"))
            .env("DKV_RUN_DIR", self.path("run"))
            .env("DKV_DATA_DIR", self.path("data"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words[0]).args(&words[1..]).output().unwrap()
    }

    /// A command that must succeed; gives its standard output.
    fn good(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}\n{}", output.status, both(&output));
        assert!(!both(&output).contains("is killed"), "a healthy node stops by itself: {}", both(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that must end with exit code 1; gives all that it printed.
    fn bad(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", both(&output));
        both(&output)
    }

    /// The nodes that run, by the pid files and the processes themselves.
    fn pids(&self) -> BTreeMap<String, i32> {
        let Ok(files) = fs::read_dir(self.path("run")) else { return BTreeMap::new() };
        let paths = files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pid"));
        let entries = paths.map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let mut words = text.split_whitespace();
            (words.next().unwrap().parse::<i32>().unwrap(), words.next().unwrap().to_owned())
        });
        entries.filter(|(pid, address)| runs(*pid, address)).map(|(pid, address)| (address, pid)).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stopped = self.run(&["launch.sh", "stop"]);
        if std::thread::panicking() {
            eprintln!("{}", both(&stopped));
        }
    }
}

fn both(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether the process is a dkv that serves the address.
fn runs(pid: i32, address: &str) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|b| *b == 0).any(|word| word == address.as_bytes())
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn start_brings_all_nodes_up_once_and_stop_ends_them() {
    let cluster = Cluster::new();
    let shown = cluster.good(&["launch.sh"]);
    let pids = cluster.pids();
    assert_eq!(pids.len(), 4, "{shown}");
    for (address, pid) in &pids {
        let mut lines = shown.lines().filter(|l| l.split_whitespace().any(|w| w == address));
        let line = lines.next().unwrap_or_else(|| panic!("{address} is not in the table: {shown}"));
        assert!(line.contains(&format!(" {pid} ")) && line.ends_with(".log"), "{line}");
    }
    assert!(shown.contains("0 New York  primary"), "{shown}");
    assert!(shown.contains("curl -X PUT 'http://"), "{shown}");

    cluster.good(&["launch.sh", "start"]);
    assert_eq!(cluster.pids(), pids, "a second start changes nothing");
    let shown = cluster.good(&["launch.sh", "status"]);
    assert!(cluster.addresses.iter().all(|a| shown.contains(a)) && shown.contains("sees it"), "{shown}");

    let shown = cluster.good(&["launch.sh", "stop"]);
    assert_eq!(shown.lines().filter(|l| l.starts_with("stopped ")).count(), 4, "{shown}");
    assert_eq!(pids.iter().filter(|(address, pid)| runs(**pid, address)).count(), 0);
    assert_eq!(cluster.good(&["launch.sh", "stop"]), "No node runs.\n");
    assert!(cluster.bad(&["launch.sh", "status"]).contains("none of 4 nodes answers"));
}

#[test]
fn a_witness_is_a_node_like_the_others() {
    let mut cluster = Cluster::new();
    let witness = free_address().to_string();
    let table = fs::read_to_string(cluster.path("sharding.toml")).unwrap();
    fs::write(cluster.path("sharding.toml"), format!("{table}[[witness]]\naddress = \"{witness}\"\n")).unwrap();
    cluster.addresses.push(witness.clone());
    let shown = cluster.good(&["launch.sh"]);
    let pids = cluster.pids();
    assert_eq!(pids.len(), 5, "{shown}");
    let line = shown.lines().find(|l| l.contains(&format!("{witness} "))).unwrap();
    assert!(line.starts_with("-  ") && line.contains("  witness  "), "{shown}");
    let shown = cluster.good(&["populate.sh", "-n", "200", "--verify", &witness]);
    assert!(shown.contains(" 0 failed, over 1 nodes") && shown.contains(" 0 not as written"), "{shown}");
    let shown = cluster.good(&["launch.sh", "status"]);
    assert!(shown.lines().filter(|l| l.contains(&witness) && l.contains("witness")).count() == 2, "{shown}");

    cluster.good(&["launch.sh", "kill", &witness]);
    assert!(cluster.bad(&["launch.sh", "status"]).contains("1 of this host's 5 nodes do not run"));
    cluster.good(&["launch.sh", "restart", &witness]);
    let shown = cluster.good(&["launch.sh", "stop"]);
    assert_eq!(shown.lines().filter(|l| l.starts_with("stopped ")).count(), 5, "{shown}");

    let _holder = TcpListener::bind(&witness).unwrap();
    assert!(cluster.bad(&["launch.sh"]).contains(&format!("the node {witness} (witness) did not start: exit code 1.")));
}

#[test]
fn two_starts_at_the_same_time_start_each_node_once() {
    let cluster = Cluster::new();
    let mut starts: Vec<Child> = (0..2)
        .map(|_| cluster.command("launch.sh").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    for start in &mut starts {
        assert!(start.wait().unwrap().success());
    }
    assert_eq!(cluster.pids().len(), 4);
}

#[test]
fn a_killed_node_is_told_and_brought_back_alone() {
    let cluster = Cluster::started();
    let before = cluster.pids();
    let victim = cluster.addresses[1].as_str();
    cluster.good(&["launch.sh", "kill", victim]);
    let left = cluster.pids();
    assert!(left.len() == 3 && !left.contains_key(victim) && !runs(before[victim], victim));
    assert!(cluster.bad(&["launch.sh", "kill", victim]).contains("does not run"));
    assert!(cluster.bad(&["launch.sh", "status"]).contains("1 of this host's 4 nodes do not run"));

    cluster.good(&["launch.sh", "restart", victim]);
    let after = cluster.pids();
    assert!(after.iter().all(|(address, pid)| (before[address] == *pid) == (address != victim)), "{after:?}");

    cluster.good(&["launch.sh", "restart"]);
    let all_new = cluster.pids();
    assert_eq!(all_new.len(), 4);
    assert!(all_new.iter().all(|(address, pid)| after[address] != *pid));
    assert!(!cluster.good(&["launch.sh", "logs", victim]).is_empty());
}

/// Stands before the real program: notes what is started and handed over, and tells of copies as a cluster does that
/// replicates. A copy that was started is not in sync for the next looks at it.
const STAND_IN: &str = r#"#!/usr/bin/env bash
set -eu
dir=$(dirname "$0")
case $1 in
  serve)
    for ((i = 2; i < $#; i++)); do [[ ${!i} != --address ]] || { next=$((i + 1)) && address=${!next}; }; done
    echo "serve $address" >>"$dir/told"
    echo 3 >"$dir/behind-$address"
    exec -a "$0" "$REAL" "$@"
    ;;
  handover)
    while (($# > 1)); do
      case $2 in --shard) shard=$3 ;; --to) to=$3 ;; esac
      shift
    done
    [[ ! -e $dir/refuses ]] || { echo "it is not in sync" >&2 && exit 1; }
    echo "handover $shard $to" >>"$dir/told"
    echo "$to" >"$dir/leader-$shard"
    echo "$to leads shard $shard"
    ;;
  status)
    [[ " $* " == *" -o tsv "* ]] || exec "$REAL" "$@"
    for shard in 0 1; do
      for address in $(cat "$dir/copies-$shard"); do
        behind=$(cat "$dir/behind-$address" 2>/dev/null || echo 0) role=replica in_sync=yes
        [[ $address != "$(cat "$dir/leader-$shard")" ]] || role=primary
        if ((behind > 0)); then
          in_sync=no
          echo $((behind - 1)) >"$dir/behind-$address"
          ((behind > 1)) || echo "in sync $address" >>"$dir/told"
        fi
        printf '%s\tn\t%s\t%s\tserving\t%s\tyes\t1\t1\t0\n' "$shard" "$address" "$role" "$in_sync"
      done
    done
    ;;
  *) exec "$REAL" "$@" ;;
esac
"#;

#[test]
fn a_rolling_restart_goes_copy_by_copy_and_never_takes_the_only_one_in_sync() {
    let cluster = Cluster::new();
    let [a, b, c, d] = [0, 1, 2, 3].map(|node| cluster.addresses[node].as_str());
    let stand_in = cluster.path("dkv");
    fs::write(&stand_in, STAND_IN).unwrap();
    fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (file, text) in [("copies-0", format!("{a} {b}")), ("copies-1", format!("{c} {d}"))] {
        fs::write(cluster.path(file), text).unwrap();
    }
    // Of shard 1 the table's replica leads.
    fs::write(cluster.path("leader-0"), a).unwrap();
    fs::write(cluster.path("leader-1"), d).unwrap();
    let launch = |words: &[&str]| {
        let mut command = cluster.command("launch.sh");
        command.env("DKV_BIN", &stand_in).env("REAL", env!("CARGO_BIN_EXE_dkv")).args(words).output().unwrap()
    };
    let told = || {
        let text = fs::read_to_string(cluster.path("told")).unwrap_or_default();
        let _ = fs::remove_file(cluster.path("told"));
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let settle =
        || cluster.addresses.iter().for_each(|x| fs::write(cluster.path(&format!("behind-{x}")), "0").unwrap());
    assert!(launch(&["start"]).status.success());
    told();
    settle();

    let output = launch(&["restart"]);
    assert!(output.status.success(), "{}", both(&output));
    let step = |replica: &str, primary: &str, shard: u32| {
        [
            format!("serve {replica}"),
            format!("in sync {replica}"),
            format!("handover {shard} {replica}"),
            format!("serve {primary}"),
            format!("in sync {primary}"),
            format!("handover {shard} {primary}"),
        ]
    };
    assert_eq!(told(), [step(b, a, 0), step(c, d, 1)].concat(), "{}", both(&output));

    fs::write(cluster.path("refuses"), "").unwrap();
    let output = launch(&["restart"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(both(&output).contains(&format!("shard 0 was not handed over: {a} and the nodes after it")));
    assert_eq!(told(), [format!("serve {b}"), format!("in sync {b}")]);
    let output = launch(&["restart", a]);
    assert!(output.status.success(), "one that is named is restarted all the same: {}", both(&output));
    assert_eq!(told(), [format!("serve {a}"), format!("in sync {a}")]);

    // The replica of shard 1 has been lost.
    fs::remove_file(cluster.path("refuses")).unwrap();
    fs::write(cluster.path(&format!("behind-{c}")), "1000000").unwrap();
    let output = launch(&["restart", d]);
    assert!(output.status.success(), "{}", both(&output));
    assert!(both(&output).contains("shard 1 has no other copy in sync"), "{}", both(&output));
    let told = told();
    assert_eq!(told, [format!("serve {d}"), format!("in sync {d}")]);
    assert!(launch(&["stop"]).status.success());
}

#[test]
fn the_first_host_of_a_new_cluster_does_not_wait_for_the_others_for_long() {
    let cluster = Cluster::new();
    let table = fs::read_to_string(cluster.path("sharding.toml")).unwrap();
    fs::write(cluster.path("sharding.toml"), table + "[[witness]]\naddress = \"240.0.0.1:8080\"\n").unwrap();
    let program = |name: &str, text: &str| {
        fs::write(cluster.path(name), text).unwrap();
        fs::set_permissions(cluster.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    program("curl", "#!/bin/sh\nprintf 'no cluster yet\\n503'\n");
    program(
        "dkv",
        "#!/bin/bash\n[[ $1 == status ]] || exec -a \"$0\" \"$REAL\" \"$@\"\n\
         printf '0\\tn\\t%s\\tprimary\\tforming\\tno\\tyes\\t-\\t-\\t-\\n' \"$3\"\n",
    );
    let path = format!("{}:{}", cluster.path("").display(), std::env::var("PATH").unwrap());
    let output = cluster
        .command("launch.sh")
        .env("PATH", path)
        .env("DKV_BIN", cluster.path("dkv"))
        .env("REAL", env!("CARGO_BIN_EXE_dkv"))
        .env("DKV_READY_SECONDS", "600")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", both(&output));
    assert!(both(&output).contains("start those of the other hosts"), "{}", both(&output));
    assert_eq!(cluster.pids().len(), 4);
}

#[test]
fn a_node_that_cannot_start_shows_its_log_and_the_others_go_on() {
    let cluster = Cluster::new();
    let busy = cluster.addresses[2].clone();
    let _holder = TcpListener::bind(&busy).unwrap();
    let shown = cluster.bad(&["launch.sh"]);
    assert!(
        shown.contains(&format!("the node {busy} (primary of shard 1 Minsk) did not start: exit code 1.")),
        "{shown}"
    );
    let log = fs::read_to_string(cluster.path("run").join(format!("{}.log", busy.replace(':', "_")))).unwrap();
    let reason = log.lines().last().unwrap();
    assert!(reason.contains(&busy) && shown.contains(&format!("  | {reason}")), "{shown}");
    assert_eq!(cluster.pids().len(), 3);
}

#[test]
fn a_node_that_is_not_ready_in_time_is_named() {
    let cluster = Cluster::started();
    let (address, pid) = cluster.pids().pop_first().unwrap();
    signal(pid, Signal::STOP);
    let output = cluster.command("launch.sh").env("DKV_READY_SECONDS", "1").output().unwrap();
    signal(pid, Signal::CONT);
    assert_eq!(output.status.code(), Some(1));
    let shown = both(&output);
    assert!(shown.contains(&format!("{address} is not ready after 1 s: curl: (28)")), "{shown}");
}

#[test]
fn a_node_that_does_not_stop_is_killed() {
    let cluster = Cluster::started();
    let (address, pid) = cluster.pids().pop_first().unwrap();
    signal(pid, Signal::STOP);
    let output = cluster.command("launch.sh").arg("stop").env("DKV_STOP_SECONDS", "1").output().unwrap();
    assert!(output.status.success());
    assert!(both(&output).contains(&format!("{address} did not stop within 1 s and is killed")), "{}", both(&output));
    assert!(!runs(pid, &address) && cluster.pids().is_empty());
}

#[test]
fn only_processes_that_are_the_node_are_ended() {
    let cluster = Cluster::new();
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    let address = &cluster.addresses[0];
    fs::create_dir(cluster.path("run")).unwrap();
    let file = cluster.path("run").join(format!("{}.pid", address.replace(':', "_")));
    fs::write(file, format!("{} {address} {}\n", other.id(), env!("CARGO_BIN_EXE_dkv"))).unwrap();
    assert!(cluster.bad(&["launch.sh", "kill", address]).contains("does not run"));
    assert_eq!(cluster.good(&["launch.sh", "stop"]), "No node runs.\n");
    assert!(other.try_wait().unwrap().is_none(), "a process that has got the pid of an old node was ended");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn run_stays_in_the_foreground_and_ends_all_nodes_with_itself() {
    let cluster = Cluster::new();
    let mut run = cluster.command("launch.sh");
    let mut run = run.arg("run").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("Ctrl-C stops all nodes.")));
    assert_eq!(cluster.pids().len(), 4);
    assert!(cluster.bad(&["launch.sh", "run"]).contains("runs already"));
    let victim = &cluster.addresses[3];
    cluster.good(&["launch.sh", "kill", victim]);
    assert!(lines.any(|line| line.contains(&format!("{victim} has ended"))));
    cluster.good(&["launch.sh", "restart", victim]);
    signal(run.id() as i32, Signal::TERM);
    assert_eq!(lines.filter(|line| line.starts_with("stopped ")).count(), 4, "the one brought back, too");
    let ended = run.wait_with_output().unwrap();
    assert!(ended.status.success() && !both(&ended).contains("is killed"), "{}", both(&ended));
    assert_eq!(cluster.pids().len(), 0);
}

#[test]
fn clean_deletes_only_when_told_yes_and_only_data_of_nodes() {
    let cluster = Cluster::started();
    assert!(cluster.bad(&["launch.sh", "clean"]).contains("stop first"));
    cluster.good(&["launch.sh", "stop"]);
    let clean = |answer: &str| {
        let mut child = cluster
            .command("launch.sh")
            .arg("clean")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have refused before it read the answer.
        let _ = child.stdin.take().unwrap().write_all(answer.as_bytes());
        child.wait_with_output().unwrap()
    };
    let data = || fs::read_dir(cluster.path("data")).unwrap().count();
    for answer in ["", "no\n", "y\n", "yes please\n"] {
        assert_eq!(clean(answer).status.code(), Some(1), "{answer:?}");
        assert_eq!(data(), 4);
    }
    let version = cluster.path("data").join(cluster.addresses[0].replace(':', "_")).join("VERSION");
    fs::rename(&version, version.with_extension("away")).unwrap();
    assert!(both(&clean("yes\n")).contains("not a node's data, not touched"));
    assert_eq!(data(), 4);
    fs::rename(version.with_extension("away"), &version).unwrap();
    assert!(clean("yes\n").status.success());
    assert_eq!(data(), 0);
    cluster.good(&["launch.sh"]);
}

#[test]
fn mistakes_are_told_and_nothing_is_started() {
    let cluster = Cluster::new();
    for (words, says) in [
        (&["launch.sh", "begin"][..], "unknown command begin"),
        (&["launch.sh", "start", "x"], "start takes no argument"),
        (&["launch.sh", "kill"], "which node? give one of: 127.0.0.1:"),
        (&["launch.sh", "restart", "1.2.3.4:5"], "1.2.3.4:5 is not a node of this host"),
        (&["launch.sh", "logs", &cluster.addresses[0]], "has no log yet"),
    ] {
        assert!(cluster.bad(words).contains(says), "{words:?}: {}", cluster.bad(words));
    }
    let mut wrong = fs::read_to_string(cluster.path("sharding.toml")).unwrap();
    wrong += "[limit]\n";
    fs::write(cluster.path("sharding.toml"), wrong).unwrap();
    assert!(cluster.bad(&["launch.sh"]).contains("did you mean [limits]?"));
    fs::write(
        cluster.path("sharding.toml"),
        "[[shard]]\nname = \"a\"\nidx = 0\naddress = \"240.0.0.1:8080\"\nreplicas = [\"240.0.0.2:8080\"]\n",
    )
    .unwrap();
    assert!(cluster.bad(&["launch.sh"]).contains("belongs to this host"));
    assert!(cluster.pids().is_empty());
    assert!(cluster.good(&["launch.sh", "--help"]).contains("Usage: ./launch.sh [COMMAND]"));
    assert!(cluster.good(&["populate.sh", "--help"]).contains("Usage: ./populate.sh"));
}

#[test]
fn populate_fills_the_cluster_and_finds_again_what_it_wrote() {
    let cluster = Cluster::started();
    let shown = cluster.good(&["populate.sh", "-n", "2000", "-s", "7", "--verify"]);
    assert!(shown.contains("wrote 2000 keys") && shown.contains(" 0 failed, over 4 nodes"), "{shown}");
    assert!(shown.contains("read 2000 keys") && shown.contains(" 0 not as written"), "{shown}");
    let per_shard = shown.lines().filter_map(|l| l.strip_prefix("  shard ")?.strip_suffix(" keys")?.split_once(": "));
    let counts: BTreeMap<&str, u32> = per_shard.map(|(shard, n)| (shard, n.parse().unwrap())).collect();
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["0 New York", "1 Minsk"]);
    assert!(counts.values().sum::<u32>() == 2000 && counts.values().all(|n| *n > 850), "{counts:?}");

    // Long values take another way into curl.
    cluster.good(&["populate.sh", "-n", "40", "-s", "8", "-c", "9", "--value-size", "200000", "--verify"]);
    cluster.good(&["launch.sh", "restart"]);
    cluster.good(&["populate.sh", "-n", "2000", "-s", "7", "--verify-only", &cluster.addresses[3]]);
    cluster.good(&["populate.sh", "-n", "40", "-s", "8", "--value-size", "200000", "--verify-only"]);
    let shown = cluster.bad(&["populate.sh", "-n", "50", "-s", "9", "--verify-only"]);
    assert!(shown.contains("50 x 404") && shown.contains("50 values were not read back as written"), "{shown}");
    let shown = cluster.bad(&["populate.sh", "-n", "50", "-s", "7", "--value-size", "99", "--verify-only"]);
    assert!(shown.contains(" 50 not as written"), "{shown}");
}

#[test]
fn populate_rides_through_a_rolling_restart() {
    let cluster = Cluster::started();
    let mut populate = cluster.command("populate.sh");
    let populate = populate.args(["-n", "4000", "-c", "4", "--verify"]);
    let populate = populate.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    cluster.good(&["launch.sh", "restart"]);
    let output = populate.wait_with_output().unwrap();
    let shown = both(&output);
    assert!(output.status.success() && shown.contains(" 0 failed") && shown.contains(" 0 not as written"), "{shown}");
}

#[test]
fn populate_counts_what_failed() {
    let cluster = Cluster::started();
    let (alive, dead) = (&cluster.addresses[0], &cluster.addresses[1]);
    cluster.good(&["launch.sh", "kill", dead]);
    let shown = cluster.good(&["populate.sh", "-n", "400", "--verify", alive, dead]);
    assert!(shown.contains(" 0 failed, over 2 nodes, 200 requests made again"), "{shown}");
    assert!(shown.contains(" 0 not as written, 200 requests made again"), "{shown}");
    let shown = cluster.bad(&["populate.sh", "-n", "40", dead]);
    assert!(shown.contains(" 40 failed, over 1 nodes, 280 requests made again"), "{shown}");
    assert!(shown.contains("  40 x 000 Failed to connect"), "{shown}");
    for (words, says) in [
        (&["populate.sh", "-n", "0"][..], "-n takes a whole number from 1"),
        (&["populate.sh", "-c", "301"], "-c takes a whole number from 1 to 300, not '301'"),
        (&["populate.sh", "-s", "-1"], "-s takes a whole number"),
        (&["populate.sh", "-n"], "-n takes a number"),
        (&["populate.sh", "--fast"], "unknown option --fast"),
    ] {
        assert!(cluster.bad(words).contains(says), "{words:?}: {}", cluster.bad(words));
    }
}

#[test]
fn the_log_of_a_stopped_node_is_verified_dumped_and_cut() {
    let cluster = Cluster::started();
    cluster.good(&["populate.sh", "-n", "300"]);
    let data = cluster.path("data").join(cluster.addresses[0].replace(':', "_"));
    let log = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkv"));
        command.arg("log").args(words).arg(&data).stdin(Stdio::null()).output().unwrap()
    };
    let json = |output: &Output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    let in_use = log(&["verify"]);
    assert_eq!((in_use.status.code(), in_use.stdout.len()), (Some(1), 0));
    assert!(both(&in_use).starts_with("dkv: ") && both(&in_use).lines().count() == 1, "{}", both(&in_use));
    cluster.good(&["launch.sh", "stop"]);

    let sound = log(&["verify", "-o", "json"]);
    assert!(sound.status.success(), "{}", both(&sound));
    let end = json(&sound)["end"].as_u64().unwrap();
    assert!(end > 100, "about half of the keys are this shard's");
    assert!(both(&log(&["verify"])).ends_with("not damaged\n"));
    assert_eq!(both(&log(&["cut"])), "not damaged: nothing was cut\n");
    let dumped = log(&["dump", "-o", "json"]);
    let records: Vec<serde_json::Value> =
        both(&dumped).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len() as u64, end);
    assert!(both(&log(&["dump"])).lines().all(|l| l.split('\t').count() == 5));

    let victim = &records[59];
    assert_eq!(victim["lsn"], 60);
    let segment = data.join(victim["file"].as_str().unwrap());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[victim["offset"].as_u64().unwrap() as usize + 60] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let damaged = log(&["verify"]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(both(&damaged).contains("is damaged at byte"), "{}", both(&damaged));
    let dumped = log(&["dump"]);
    assert_eq!(dumped.status.code(), Some(1));
    assert!(both(&dumped).contains("`dkv log cut "), "{}", both(&dumped));
    let cut = log(&["cut", "-o", "json"]);
    assert!(cut.status.success(), "{}", both(&cut));
    assert_eq!((json(&cut)["cut"]["end"].as_u64(), json(&cut)["cut"]["keys"].as_u64()), (Some(59), Some(59)));
    assert!(log(&["verify"]).status.success());
    cluster.good(&["launch.sh"]);
    // What the cut dropped is at the shard's other copy, which leads: nothing is missing.
    let read = both(&cluster.run(&["populate.sh", "-n", "300", "--verify-only"]));
    assert!(read.contains("0 not as written"), "{read}");
}
