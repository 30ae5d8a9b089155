//! Owns: row 8: how long a node takes from exec to its first answer that it is ready.
//! Never: what a start does meanwhile.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::Options;
use crate::keys::Keys;
use crate::load::Load;
use crate::machine::{self, Io, Stolen};
use crate::node;
use crate::report::{Report, Target, Verdict, mark, median};
use crate::support::cluster::Cluster;
use crate::support::http::Client;

const KINDS: [&str; 4] = ["warm", "cold", "no hints", "after kill -9"];

/// One start.
struct Start {
    ms: f64,
    cpu_ms: f64,
    read_bytes: u64,
    stolen_percent: f64,
}

pub fn run(options: &Options, report: &mut Report) {
    let keys = options.keys / 2;
    report.heading(&format!(
        "start: from exec to the first 200 of /readyz, {keys} keys, 100-byte values, {} rounds",
        options.rounds
    ));
    let cluster = node::new();
    let empty = timed(&cluster);
    report.line(&format!("  an empty node: {:.1} ms", empty.ms));
    node::fill(&cluster, 0, keys);
    cluster.stop(0);
    let mut starts: [Vec<Start>; 4] = Default::default();
    for round in 0..options.rounds {
        for (kind, all) in KINDS.iter().zip(&mut starts) {
            let start = prepared(&cluster, kind, keys);
            report.round("start", kind, round, start.ms, "ms", start.stolen_percent);
            report.round("start", &format!("{kind}: CPU"), round, start.cpu_ms, "ms", start.stolen_percent);
            all.push(start);
        }
    }
    let disk_bytes = machine::disk_bytes(&cluster.data(0)) as f64;
    report.line("                        ms   of CPU   keys/s (million)   MB read from the device   every round, ms");
    for (kind, all) in KINDS.iter().zip(&starts) {
        let ms = median_ms(all);
        let median_of = |of: fn(&Start) -> f64| median(&all.iter().map(of).collect::<Vec<f64>>());
        let (cpu_ms, read) = (median_of(|start| start.cpu_ms), median_of(|start| start.read_bytes as f64) / 1e6);
        let every = all.iter().map(|start| format!("{:.0}{}", start.ms, mark(start.stolen_percent)));
        let (rate, every) = (rate(keys, ms), every.collect::<Vec<String>>().join(" "));
        report.line(&format!("  {kind:<14} {ms:>9.0} {cpu_ms:>8.0} {rate:>18.2} {read:>25.1}   {every}"));
    }
    report.line("  cold: the node's files were taken out of the page cache by posix_fadvise(DONTNEED)");
    judge(report, keys, &starts, disk_bytes);
}

fn judge(report: &mut Report, keys: u64, starts: &[Vec<Start>; 4], disk_bytes: f64) {
    let [warm, cold, unhinted, killed] = starts.each_ref().map(|all| median_ms(all));
    let stolen_percent = starts.iter().flatten().map(|start| start.stolen_percent).fold(0.0, f64::max);
    // What reading the log costs more than reading hints, for as much as a segment.
    let scan = (unhinted - warm) * dkv::store::Options::default().segment_bytes as f64 / disk_bytes;
    let rates = [
        ("start, page cache warm", rate(keys, warm), 5.0),
        ("start, page cache cold", rate(keys, cold), 2.0),
        ("start without hint files", rate(keys, unhinted), 2.0),
    ];
    for (what, value, least) in rates {
        let (what, target) = (what.to_owned(), Target::AtLeast(least));
        report.verdict(Verdict { row: 8, what, value, unit: "M keys/s", target, stolen_percent });
    }
    let what = "start after kill -9: more than a warm one, against a segment's scan".to_owned();
    let target = Target::AtMost(scan);
    report.verdict(Verdict { row: 8, what, value: killed - warm, unit: "ms", target, stolen_percent });
}

/// Starts the stopped node in one of the ways, and leaves it stopped.
fn prepared(cluster: &Cluster, kind: &str, keys: u64) -> Start {
    if kind == "after kill -9" {
        cluster.start(0);
        let load = Load::start(node::writes(cluster, Keys::uniform(keys)));
        thread::sleep(Duration::from_secs(1));
        cluster.kill(0);
        load.abandon();
    }
    let files = node::files(cluster);
    match kind {
        "cold" => machine::evict(&files),
        "no hints" => {
            let (hints, logs) = files.into_iter().partition(|path| path.extension().is_some_and(|end| end == "hint"));
            let hints: Vec<_> = hints;
            hints.iter().for_each(|hint| fs::remove_file(hint).unwrap());
            machine::warm(&logs);
        }
        _ => machine::warm(&files),
    }
    let start = timed(cluster);
    let has = cluster.metric(0, "dkv_keys");
    assert!(has == keys as f64, "{has} keys of {keys}");
    cluster.stop(0);
    start
}

/// Starts the node, and waits until it is ready. It listens before it opens its data, and answers afterwards: so its
/// answer tells the moment, however rarely it is asked.
fn timed(cluster: &Cluster) -> Start {
    let stolen = Stolen::begin();
    let began = Instant::now();
    cluster.spawn(0);
    let is_ready = || {
        let answer = Client::try_connect(cluster.addresses[0])?.try_call("GET /readyz")?;
        (answer.status == 200).then_some(())
    };
    while is_ready().is_none() {
        assert!(cluster.has_process(0), "the node ended: {}", cluster.log(0));
        thread::sleep(Duration::from_millis(1));
    }
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let (pid, stolen_percent) = (cluster.pid(0), stolen.percent());
    Start { ms, cpu_ms: machine::cpu_seconds(pid) * 1e3, read_bytes: Io::of(pid).read_bytes, stolen_percent }
}

fn median_ms(starts: &[Start]) -> f64 {
    median(&starts.iter().map(|start| start.ms).collect::<Vec<f64>>())
}

/// Million keys a second.
fn rate(keys: u64, ms: f64) -> f64 {
    keys as f64 / ms / 1e3
}
