//! A whole cluster in one process, from one seed: the real core over the real store on many nodes; simulated disks,
//! network, clocks and clients. `cargo test --test sim` runs some hundred seeds. The long run, on two threads:
//!
//! ```text
//! DKV_SIM_SEEDS=5000 [DKV_SIM_FROM=1] cargo test --release --test sim -- seeds --nocapture
//! DKV_SIM_SEED=17 DKV_SIM_TRACE=1 cargo test --release --test sim -- seeds --nocapture     one, told in full
//! ```
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod checks;
mod clock;
mod faults;
mod network;
mod node;
mod scale;
mod stories;
mod trace;
mod voter;
mod workload;
mod world;

#[path = "../support/mod.rs"]
mod support;

use checks::Seen;
use clock::SECOND;
use faults::Mix;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use support::dice::Dice;
use trace::Trace;
use workload::Habits;
use world::{Shape, World};

/// What a seed's world is like.
fn shape(seed: u64) -> Shape {
    let mut dice = Dice::new(seed ^ 0x51_0000);
    let shards = 1 + dice.below(3);
    let mut table = String::new();
    let mut port = 1000;
    let mut address = || {
        port += 1;
        format!("'10.0.0.{}:{port}'", 1 + port % 3)
    };
    for idx in 0..shards {
        let replicas: Vec<String> = (0..*dice.pick(&[0, 1, 1, 1, 2, 2]).unwrap()).map(|_| address()).collect();
        let primary = address();
        table.push_str(&format!(
            "[[shard]]\nname = 's{idx}'\nidx = {idx}\naddress = {primary}\nreplicas = [{}]\n",
            replicas.join(", ")
        ));
    }
    for _ in 0..dice.below(3) {
        table.push_str(&format!("[[witness]]\naddress = {}\n", address()));
    }
    let failover_ms = dice.pick(&[200, 600, 600, 1_500]).unwrap();
    let reads = dice.pick(&["lease", "lease", "lease", "confirm"]).unwrap();
    table.push_str(&format!("[replication]\nfailover_ms = {failover_ms}\nreads = '{reads}'\n"));
    table.push_str("[store]\nsegment_bytes = 262144\n[limits]\nmax_value_bytes = 16384\n");
    let hot = 2 + dice.below(5);
    let keys = (0..hot + 20).map(|n| format!("k{n}").into_bytes()).collect();
    let streams = 2 + dice.below(8);
    let calls_a_second = *dice.pick(&[20, 80, 80, 80, 250]).unwrap();
    let habits = Habits {
        streams,
        depth: 1 + dice.below(4),
        keys,
        hot,
        pause_ns: 2 * SECOND * streams / calls_a_second,
        longest_value: *dice.pick(&[50, 500, 5_000, 16_000]).unwrap(),
        get_percent: 20 + dice.below(50),
        condition_percent: *dice.pick(&[0, 20, 50]).unwrap(),
        stale_percent: *dice.pick(&[0, 10]).unwrap(),
    };
    Shape { table, habits, mix: Mix::draw(&mut dice), faulty_ns: (5 + dice.below(20)) * SECOND }
}

/// Runs a seed. Returns what was seen, and the trace's hash; or what went wrong.
fn run(seed: u64, prints: bool) -> Result<(Seen, u64), String> {
    let shape = shape(seed);
    let trace = Trace::new(prints);
    if prints {
        println!("{shape:#?}");
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(seed, &shape, trace.clone()).run()));
    let wrong = match outcome {
        Ok(Ok(seen)) => return Ok((seen, trace.hash())),
        Ok(Err(wrong)) => wrong,
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => format!("panic: {text}"),
            (None, Some(text)) => format!("panic: {text}"),
            (None, None) => "panic".to_owned(),
        },
    };
    if !prints {
        println!("{}", trace.tail());
    }
    Err(format!(
        "seed {seed}: {wrong}\nagain, told in full: DKV_SIM_SEED={seed} DKV_SIM_TRACE=1 cargo test --release --test sim \
         -- seeds --nocapture"
    ))
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs these seeds on two threads.
fn run_all(seeds: std::ops::Range<u64>) -> Seen {
    let most_failures = setting("DKV_SIM_FAILURES").unwrap_or(0) as usize;
    let (next, all, failed) = (AtomicU64::new(seeds.start), Mutex::new(Seen::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failed.lock().unwrap().len() > most_failures {
                        return;
                    }
                    match run(seed, false) {
                        Ok((seen, _)) => all.lock().unwrap().merge(&seen),
                        Err(wrong) => failed.lock().unwrap().push(wrong),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    all.into_inner().unwrap()
}

#[test]
fn seeds() {
    if let Some(seed) = setting("DKV_SIM_SEED") {
        match run(seed, setting("DKV_SIM_TRACE").is_some()) {
            Ok((seen, hash)) => println!("seed {seed}: {hash:016x} {:#?}", seen.figures),
            Err(wrong) => panic!("{wrong}"),
        }
        return;
    }
    let from = setting("DKV_SIM_FROM").unwrap_or(1);
    let count = setting("DKV_SIM_SEEDS").unwrap_or(300);
    let seen = run_all(from..from + count);
    println!("{count} seeds from {from}: {:#?}", seen.figures);
    if count >= 100 {
        guard(&seen, count);
    }
}

/// A run in which nothing happened shows nothing: so much must have been seen in a hundred seeds.
const LEAST: [(&str, u64); 19] = [
    ("answers", 50_000),
    ("writes", 20_000),
    ("unknown", 200),
    ("failed", 100),
    ("stale reads", 1_000),
    ("starts", 400),
    ("fatal errors", 5),
    ("orderly stops", 20),
    ("failovers", 40),
    ("restarts of primaries", 100),
    ("copies removed", 60),
    ("copies taken in", 100),
    ("full syncs", 10),
    ("wiped voters", 8),
    ("voters re-seeded", 8),
    ("old images", 3),
    ("flipped bits", 8),
    ("shards that went on", 10),
    ("copies filled by a damaged one", 1),
];

fn guard(seen: &Seen, seeds: u64) {
    for (what, least) in LEAST {
        let least = least * seeds / 100;
        assert!(seen.of(what) >= least, "only {} {what} in {seeds} seeds: at least {least} are needed", seen.of(what));
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 1..8 {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!(first.unwrap(), second.unwrap(), "seed {seed}");
    }
}
