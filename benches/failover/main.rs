//! What users feel when a copy dies, stands still, is handed the lead or comes back: eight real nodes with default
//! settings on this machine, and a load from beside them. `cargo bench --bench failover -- --help` has the rest.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on says so by its place")]

mod figures;
mod load;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use figures::{Figures, Round};
use load::{Call, Load, Pace, Plan};
use support::cluster::Cluster;

const SHARDS: usize = 4;
const COPIES: usize = 2;
/// What befalls the cluster befalls this shard. No connection goes to its nodes: their clients' connections would break
/// with them, which says nothing of the shard.
const VICTIM: usize = 0;
/// How long a load runs before and after each event, of which the other shards' latencies are compared.
const WINDOW: Duration = Duration::from_millis(1_500);
/// How long a process stands still.
const STANDSTILL: Duration = Duration::from_millis(1_500);
const MISSED_WRITES: u64 = 100_000;

const HELP: &str = "\
cargo bench --bench failover -- [--rounds N] [--out DIR] [SCENARIO...]

  --rounds N   how often each event happens (20); of rejoin a quarter of that
  --out DIR    the table and each round's figures, as text files
  SCENARIO     kill-primary, kill-replica, freeze-replica, freeze-primary, handover, rejoin (default: all)

The cluster lies in the directory for temporary files (TMPDIR): put that on a real disk.";

struct Options {
    rounds: usize,
    out: Option<PathBuf>,
    scenarios: Vec<String>,
}

const SCENARIOS: [&str; 6] = ["kill-primary", "kill-replica", "freeze-replica", "freeze-primary", "handover", "rejoin"];

/// `None`: help was asked for, or nothing is to be measured.
fn options() -> Option<Options> {
    // `cargo test` runs this without --bench: it is only to be built then.
    let mut options = Options { rounds: 20, out: None, scenarios: Vec::new() };
    let mut is_bench = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => is_bench = true,
            "--rounds" => options.rounds = words.next()?.parse().ok()?,
            "--out" => options.out = Some(words.next()?.into()),
            name if SCENARIOS.contains(&name) => options.scenarios.push(word),
            _ => return None,
        }
    }
    if options.scenarios.is_empty() {
        options.scenarios = SCENARIOS.map(str::to_owned).into();
    }
    is_bench.then_some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    };
    let load_before = figures::load_average();
    let cluster = Cluster::started(SHARDS, COPIES, "");
    (0..SHARDS).for_each(|shard| cluster.wait_until_whole(shard));
    let bench = Bench { cluster };
    let peak = bench.peak();
    let rate = peak / 4;
    let mut figures = Figures::new(load_before, peak, rate);
    for scenario in &options.scenarios {
        match scenario.as_str() {
            "rejoin" => {
                for _ in 0..options.rounds.div_ceil(4) {
                    figures.rejoined(bench.rejoin());
                }
            }
            name => (0..options.rounds).for_each(|_| figures.add(name, bench.round(name, rate))),
        }
        eprintln!("{scenario} is done");
    }
    print!("{}", figures.table());
    if let Some(out) = options.out {
        fs::create_dir_all(&out).unwrap();
        fs::write(out.join("table.txt"), figures.table()).unwrap();
        fs::write(out.join("rounds.tsv"), figures.raw()).unwrap();
    }
    ExitCode::SUCCESS
}

struct Bench {
    cluster: Cluster,
}

impl Bench {
    fn plan(&self, pace: Pace, asked: Vec<usize>) -> Plan {
        let nodes = (0..self.cluster.nodes()).filter(|node| !self.cluster.copies(VICTIM).contains(node));
        let nodes = nodes.map(|node| self.cluster.addresses[node]).collect();
        Plan { pace, nodes, shards: SHARDS, asked, writes_percent: 50, new_keys: false }
    }

    /// Calls a second with 64 or more under way, half of them writes, once every key has a value.
    fn peak(&self) -> u64 {
        let load = Load::start(self.plan(Pace::Closed(3), (0..SHARDS).collect()));
        thread::sleep(Duration::from_secs(3));
        let from_ns = load.now_ns();
        thread::sleep(Duration::from_secs(3));
        let upto_ns = load.now_ns();
        let calls = load.stop();
        let counted = calls.iter().filter(|call| (from_ns..upto_ns).contains(&call.answered_ns)).count();
        (counted as f64 / (upto_ns - from_ns) as f64 * 1e9) as u64
    }

    /// The copy that does not lead.
    fn replica(&self) -> usize {
        let leader = self.cluster.leader(VICTIM);
        self.cluster.copies(VICTIM).find(|node| *node != leader).unwrap()
    }

    /// One event, in the midst of a load.
    fn round(&self, scenario: &str, rate: u64) -> Round {
        let cluster = &self.cluster;
        let (leader, replica) = (cluster.leader(VICTIM), self.replica());
        let load = Load::start(self.plan(Pace::Open(rate), (0..SHARDS).collect()));
        // The first calls come in a burst: the connections are new.
        thread::sleep(WINDOW + Duration::from_millis(200));
        let event_ns = load.now_ns();
        match scenario {
            "kill-primary" => cluster.kill(leader),
            "kill-replica" => cluster.kill(replica),
            "freeze-primary" => cluster.freeze(leader),
            "freeze-replica" => cluster.freeze(replica),
            "handover" => self.hand_over(replica),
            other => unreachable!("{other} is no scenario"),
        }
        thread::sleep(WINDOW.max(STANDSTILL));
        let (upto_ns, back) = (load.now_ns(), Instant::now());
        match scenario {
            "kill-primary" => cluster.start(leader),
            "kill-replica" => cluster.start(replica),
            "freeze-primary" => cluster.thaw(leader),
            "freeze-replica" => cluster.thaw(replica),
            _ => {}
        }
        cluster.wait_until_whole(VICTIM);
        let whole = back.elapsed();
        let round = Round::of(&load.stop(), VICTIM, WINDOW.as_nanos() as u64, event_ns..upto_ns, whole);
        (0..SHARDS).for_each(|shard| cluster.wait_until_whole(shard));
        if cluster.leader(VICTIM) == leader {
            self.forgive(replica);
        }
        round
    }

    /// A copy that fails again and again waits ever longer before it counts again, which is not what is measured: a new
    /// primary holds nothing against the others.
    fn forgive(&self, copy: usize) {
        self.hand_over(copy);
        self.cluster.wait_until_whole(VICTIM);
    }

    fn hand_over(&self, to: usize) {
        let line = format!("POST /handover?shard={VICTIM}&to={}", self.cluster.addresses[to]);
        let answer = self.cluster.client(SHARDS * COPIES - 1).call(&line, "");
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// A copy is killed, misses writes, and comes back while writes go on as fast as they can.
    fn rejoin(&self) -> figures::Rejoin {
        let cluster = &self.cluster;
        let replica = self.replica();
        let plan = Plan { new_keys: true, writes_percent: 100, ..self.plan(Pace::Closed(12), vec![VICTIM]) };
        let load = Load::start(plan);
        thread::sleep(Duration::from_millis(500));
        let from_ns = load.now_ns();
        thread::sleep(WINDOW);
        let two_copies_ns = from_ns..load.now_ns();
        cluster.kill(replica);
        let upto = load.written() + MISSED_WRITES;
        while load.written() < upto {
            thread::sleep(Duration::from_millis(1));
        }
        let started_ns = load.now_ns();
        cluster.spawn(replica);
        cluster.wait_until_alive(replica);
        let alive_ns = load.now_ns();
        cluster.wait_until_whole(VICTIM);
        let whole_ns = load.now_ns();
        let calls: Vec<Call> = load.stop();
        self.forgive(replica);
        figures::Rejoin::of(&calls, two_copies_ns, [started_ns, alive_ns, whole_ns])
    }
}
