//! Owns: row 9: the longest turn of the loop, and what a GET waits for it, while the index grows, compaction runs and a
//! replica catches up.
//! Never: what a turn is made of.

use std::thread;
use std::time::Duration;

use crate::Options;
use crate::keys::Keys;
use crate::load::{self, Call, Load, Outcome, Pace, Plan};
use crate::machine::{self, Stolen};
use crate::node;
use crate::report::{Report, Target, Verdict};
use crate::support::cluster::Cluster;
use crate::support::process::free_address;

const PEAK: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(15);
/// The node tells its longest turn once a second.
const TOLD: Duration = Duration::from_millis(1_200);
const CONNECTIONS: usize = 64;
/// As a load that gives way.
const OTHERS_NICE: &str = "10";
/// A replica that has not caught up by then does so without being watched.
const LONGEST_CATCH_UP: Duration = Duration::from_secs(300);
/// Nobody is replaced or removed because the machine is busy.
const SETTINGS: &str =
    "[replication]\nfailover_ms = 20000\n[deadlines]\nwait_ms = 60000\nanswer_ms = 60000\ndisk_ms = 60000";
const LARGE_VALUE_BYTES: usize = 1 << 20;

pub fn run(options: &Options, report: &mut Report) {
    report.heading(&format!(
        "turn: the longest turn by the CPU time of its thread, and GETs at half of the peak rate, {CONNECTIONS} connections"
    ));
    report.line("  (open loop, latencies from when a call was due); primary, replica, witness; the primary on its own processor,");
    report.line("  writes and the other nodes nicer than the GETs on theirs");
    let first = options.keys / 20;
    let bench = Bench::start(first);
    report.line(&format!(
        "  peak: {:.0} writes/s, of which a sixteenth goes on beside the GETs; beside it {:.0} GETs/s",
        bench.writes * 16,
        bench.reads * 2
    ));
    report.line(
        "                               p50 us   p99 us   p99.9 us   longest turn, us of CPU beside the wait: median second, all (its phases)",
    );
    let quiet = bench.watch(report, "quiet", |_| thread::sleep(WINDOW));
    let compaction = bench.watch(report, "compaction", |bench| bench.compact(first));
    // Memory that was free for long is its host's, in a virtual machine, and takes 2 ms for 1 MiB to come back.
    bench.large_values();
    let large = bench.watch_turns(report, "1 MiB values, as they come", Bench::large_values);
    bench.cluster.kill(1);
    while bench.cluster.metric(0, "dkv_in_sync") > 1.0 {
        thread::sleep(Duration::from_millis(100));
    }
    let growth = bench.watch(report, &format!("{first} to {} keys", options.keys), |bench| {
        bench.grow(first, options.keys);
    });
    let catch_up = bench.watch(report, "a replica catches up", Bench::catch_up);
    for (what, seen) in [("compaction", &compaction), ("growth", &growth), ("catching up", &catch_up)] {
        seen.judge(report, what, &quiet);
    }
    large.judge_turn(report, "1 MiB values");
}

/// What was seen while something went on.
struct Seen {
    latency_us: f64,
    turns: Turns,
    stolen_percent: f64,
}

impl Seen {
    fn judge(&self, report: &mut Report, what: &str, quiet: &Seen) {
        self.judge_turn(report, what);
        let (value, target) = (self.latency_us / quiet.latency_us, Target::AtMost(2.0));
        let (what, stolen_percent) = (format!("GET p99.9 against the quiet one: {what}"), self.stolen_percent);
        report.verdict(Verdict { row: 9, what, value, unit: "times", target, stolen_percent });
    }

    fn judge_turn(&self, report: &mut Report, what: &str) {
        let target = Target::AtMost(2.0);
        for (which, us) in
            [("longest turn", self.turns.longest_us), ("longest of the median second", self.turns.median_us)]
        {
            let (what, stolen_percent) = (format!("{which}: {what}"), self.stolen_percent);
            report.verdict(Verdict { row: 9, what, value: us / 1e3, unit: "ms", target, stolen_percent });
        }
    }
}

/// The longest turns of some seconds. What the host of a virtual machine takes from a turn counts as the turn's: it shows
/// in the longest of all, not in most seconds' longest.
struct Turns {
    longest_us: f64,
    phases: String,
    median_us: f64,
}

impl Turns {
    /// Those that a part of a log tells of.
    fn told_by(log: &str) -> Turns {
        let told = log.lines().filter_map(|line| line.split_once("the longest took ")?.1.split_once(" us of CPU"));
        let mut turns: Vec<(f64, &str)> = told.filter_map(|(us, rest)| Some((us.parse().ok()?, rest))).collect();
        turns.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (longest_us, rest) = *turns.last().expect("the log tells of turns");
        let phases = rest.rsplit_once(": ").map_or("", |(_, phases)| phases).to_owned();
        Turns { longest_us, phases, median_us: turns[turns.len() / 2].0 }
    }
}

struct Bench {
    cluster: Cluster,
    first: u64,
    /// Half of the peak of GETs, beside writes at a sixteenth of theirs, a second: with two processors, the load and the
    /// other nodes share one, and at half of the peak without writes it would be that one which is measured.
    reads: u64,
    writes: u64,
}

impl Bench {
    /// A primary with so many keys, a replica and a witness, so that there is a majority without the replica.
    fn start(first: u64) -> Bench {
        let addresses = [free_address(), free_address(), free_address()];
        let cluster = Cluster::at(&addresses, &[2], SETTINGS).wrapped_each(|node| {
            let (log, core) = if node == 0 {
                ("RUST_LOG=info,dkv::turns=debug", machine::NODES_CORE)
            } else {
                ("RUST_LOG=info", machine::cores() - 1)
            };
            let nicer = if node == 0 { "0" } else { OTHERS_NICE };
            ["env", log, "nice", "-n", nicer].map(str::to_owned).into_iter().chain(machine::pinned(core)).collect()
        });
        cluster.start_all();
        cluster.wait_until_whole(0);
        assert_eq!(cluster.leader(0), 0, "the table's primary leads");
        node::fill(&cluster, 0, first);
        let writes = load::for_a_time(node::writes(&cluster, Keys::uniform(first)), PEAK);
        let writes = (writes.rate() / 16.0) as u64;
        let beside = Load::start(Plan {
            pace: Pace::Open(writes),
            gives_way: true,
            ..node::writes(&cluster, Keys::uniform(first))
        });
        let reads = load::for_a_time(gets(&cluster, first, Pace::Closed(1)), PEAK);
        beside.stop();
        Bench { cluster, first, reads: (reads.rate() / 2.0) as u64, writes }
    }

    /// GETs at half of the peak rate while something goes on.
    fn watch(&self, report: &mut Report, what: &str, goes_on: impl FnOnce(&Bench)) -> Seen {
        // Until the longest turn of what was before is told.
        thread::sleep(TOLD);
        let log_bytes = self.cluster.log(0).len();
        let stolen = Stolen::begin();
        let load = Load::start(gets(&self.cluster, self.first, Pace::Open(self.reads)));
        goes_on(self);
        let outcome = load.stop();
        let stolen_percent = stolen.percent();
        thread::sleep(TOLD);
        let latency_us = outcome.percentile_us(99.9);
        let turns = Turns::told_by(&self.cluster.log(0)[log_bytes..]);
        let seen = Seen { latency_us, turns, stolen_percent };
        tell(report, what, Some(&outcome), &seen);
        seen
    }

    /// The same without GETs at a rate of their own.
    fn watch_turns(&self, report: &mut Report, what: &str, goes_on: impl FnOnce(&Bench)) -> Seen {
        thread::sleep(TOLD);
        let log_bytes = self.cluster.log(0).len();
        let stolen = Stolen::begin();
        goes_on(self);
        thread::sleep(TOLD);
        let turns = Turns::told_by(&self.cluster.log(0)[log_bytes..]);
        let seen = Seen { latency_us: f64::NAN, turns, stolen_percent: stolen.percent() };
        tell(report, what, None, &seen);
        seen
    }

    /// Overwrites all keys until compactions have been done.
    fn compact(&self, keys: u64) {
        let before = self.cluster.metric(0, "dkv_compactions_total");
        let pace = Pace::Open(self.writes);
        let writes = Load::start(Plan { pace, gives_way: true, ..node::writes(&self.cluster, Keys::uniform(keys)) });
        thread::sleep(WINDOW);
        while self.cluster.metric(0, "dkv_compactions_total") < before + 3.0 {
            thread::sleep(Duration::from_millis(100));
        }
        writes.stop();
    }

    fn grow(&self, from: u64, upto: u64) {
        let (pace, calls) = (Pace::Open(self.writes), Some(upto - from));
        Load::start(Plan { pace, calls, gives_way: true, ..node::writes(&self.cluster, Keys::InTurn(from)) }).wait();
    }

    /// Starts the replica, and waits until it has everything.
    fn catch_up(&self) {
        let began = std::time::Instant::now();
        self.cluster.spawn(1);
        while self.cluster.metric(0, "dkv_in_sync") < 2.0 && began.elapsed() < LONGEST_CATCH_UP {
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Reads and writes of the largest values, on eight connections each.
    fn large_values(&self) {
        let value_bytes = LARGE_VALUE_BYTES;
        let plan = |call, keys| {
            let plan = node::plan(&self.cluster, call, keys, 8, Pace::Closed(1));
            Plan { value_bytes, ..plan }
        };
        // Keys of their own.
        let (from, count) = (1 << 40, 64);
        Load::start(Plan { calls: Some(count), ..plan(Call::Put, Keys::InTurn(from)) }).wait();
        let reads = Load::start(plan(Call::Get, Keys::few(1, 0)));
        let writes = Load::start(plan(Call::Put, Keys::few(1, 0)));
        thread::sleep(PEAK);
        reads.stop();
        writes.stop();
        // As it was.
        node::fill(&self.cluster, 0, 1);
    }
}

fn gets(cluster: &Cluster, keys: u64, pace: Pace) -> Plan {
    node::plan(cluster, Call::Get, Keys::uniform(keys), CONNECTIONS, pace)
}

fn tell(report: &mut Report, what: &str, gets: Option<&Outcome>, seen: &Seen) {
    let stolen = seen.stolen_percent;
    let percentile = |percentile| gets.map_or("-".to_owned(), |gets| format!("{:.0}", gets.percentile_us(percentile)));
    let [p50, p99, p999] = [50.0, 99.0, 99.9].map(percentile);
    let (Turns { longest_us, median_us, phases }, mark) = (&seen.turns, crate::report::mark(stolen));
    report.line(&format!(
        "  {what:<27} {p50:>8} {p99:>8} {p999:>10}   {median_us:>6.0} {longest_us:>8.0}{mark} ({phases})"
    ));
    report.round("turn", &format!("{what}: longest turn"), 0, *longest_us, "us", stolen);
    report.round("turn", &format!("{what}: longest turn of the median second"), 0, *median_us, "us", stolen);
    if gets.is_some() {
        report.round("turn", &format!("{what}: GET p99.9"), 0, seen.latency_us, "us", stolen);
    }
}
