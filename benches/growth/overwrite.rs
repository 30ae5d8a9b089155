//! Owns: row 12: what overwriting for ever writes to the disk, and what it takes there.
//! Never: how compaction chooses.

use std::thread;
use std::time::Duration;

use crate::Options;
use crate::keys::Keys;
use crate::load::{Call, Load, Pace, Plan};
use crate::machine::{self, Io, Stolen};
use crate::node::{self, KEY_BYTES, VALUE_BYTES};
use crate::report::{Report, Target, Verdict};
use crate::support::cluster::Cluster;

/// How often the directory is measured.
const LOOK: Duration = Duration::from_millis(100);
/// What a live record takes beside the log: its entry in a hint.
const HINT_ENTRY_BYTES: u64 = 18;
/// For this long nothing was written any more: compaction has caught up.
const SETTLED: Duration = Duration::from_secs(3);

pub fn run(options: &Options, report: &mut Report) {
    let keys = options.keys / 20;
    let writes = keys * 10;
    report.heading(&format!("overwrite: {keys} keys, zipf 0.99, {writes} writes of 100 bytes"));
    report.line("  amplification: write_bytes of /proc/PID/io (pages that the process made dirty, whole: log, marks, hints, compaction,");
    report.line("  small state) over the users' records (key, value and 40 bytes, rounded up to 8); beside it wchar, the bytes given to");
    report.line("  write calls. disk: allocated blocks of the node's directory over the live records, which come without their hints");
    for (connections, depth) in [(8, 100), (64, 1)] {
        one(report, keys, writes, connections, depth);
    }
}

fn one(report: &mut Report, keys: u64, writes: u64, connections: usize, depth: usize) {
    let cluster = node::started();
    node::fill(&cluster, 0, keys);
    settle(&cluster);
    let name = format!("{} under way", connections * depth);
    let (before, stolen) = (Io::of(cluster.pid(0)), Stolen::begin());
    let copied = cluster.metric(0, "dkv_compacted_bytes_total");
    let plan = node::plan(&cluster, Call::Put, Keys::zipf(keys), connections, Pace::Closed(depth));
    let load = Load::start(Plan { calls: Some(writes), ..plan });
    let live = keys * node::record_bytes(KEY_BYTES, VALUE_BYTES);
    let over_live = |cluster: &Cluster| machine::disk_bytes(&cluster.data(0)) as f64 / live as f64;
    let mut most: f64 = 0.0;
    while !load.is_over() {
        thread::sleep(LOOK);
        let now = over_live(&cluster);
        most = most.max(now);
        report.round("overwrite", &format!("disk over live; {name}"), load.answered() as usize, now, "times", 0.0);
    }
    let outcome = load.wait();
    let stolen_percent = stolen.percent();
    settle(&cluster);
    let io = Io::of(cluster.pid(0)).since(before);
    let copied = cluster.metric(0, "dkv_compacted_bytes_total") - copied;
    let records = (writes * node::record_bytes(KEY_BYTES, VALUE_BYTES)) as f64;
    let [written, given, copied] = [io.write_bytes as f64, io.given_bytes as f64, copied].map(|bytes| bytes / records);
    let hinted = node::record_bytes(KEY_BYTES, VALUE_BYTES) as f64;
    let hinted = most * hinted / (hinted + HINT_ENTRY_BYTES as f64);
    report.line(&format!(
        "  {name:<15} {:>7.0} writes/s; amplification {written:.2} (given {given:.2}; of it compaction's copies {copied:.2}); \
         disk at most {most:.2}, {hinted:.2} with hints in the live data; at the end {:.2}",
        outcome.rate(),
        over_live(&cluster)
    ));
    for (what, value, unit) in
        [("write_bytes", written, "times"), ("wchar", given, "times"), ("writes", outcome.rate(), "1/s")]
    {
        report.round("overwrite", &format!("{what}; {name}"), 0, value, unit, stolen_percent);
    }
    for (what, value, most) in [("write amplification", written, 2.0), ("disk over live data, at most", most, 1.8)] {
        let (what, target) = (format!("{what}, {name}"), Target::AtMost(most));
        report.verdict(Verdict { row: 12, what, value, unit: "times", target, stolen_percent });
    }
}

/// Waits until the node writes no more by itself.
fn settle(cluster: &Cluster) {
    loop {
        let before = Io::of(cluster.pid(0)).given_bytes;
        thread::sleep(SETTLED);
        // Its metrics and beacons are no files.
        if Io::of(cluster.pid(0)).given_bytes - before < 4096 {
            return;
        }
    }
}
