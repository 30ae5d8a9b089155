//! The campaign: the real binary, each node on a host of its own, clients at every node, and faults drawn by seed, one
//! to three at a time. After each round of faults everything is healed; then every copy must come to be in sync, what
//! the clients saw must fit an order, key by key, and what was written before must still be there.
//!
//! `cargo test` runs a short form. For more, and for the figures:
//! `DKV_CAMPAIGN_FAULTS=300 DKV_CAMPAIGN_SEED=1 DKV_CAMPAIGN_OUT=dir cargo test --release --test campaign -- --nocapture`
//! (or `DKV_CAMPAIGN_SECONDS=7200`; `DKV_CAMPAIGN_ONLY=Kill,Freeze` draws from these alone). The scenarios:
//! `cargo test --release --test campaign scenarios -- --ignored --nocapture` (`DKV_CAMPAIGN_SCENARIOS=12`: those that begin
//! so; `DKV_CAMPAIGN_MINUTES=1`: shorter ones).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by its place")]

#[path = "../support/mod.rs"]
mod support;

mod bulk;
mod crowd;
mod faults;
mod figures;
mod hosts;
mod rig;
mod scenarios;
mod shim;

use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bulk::{Done, Writer};
use faults::{Fault, Strike};
use figures::Figures;
use rig::Rig;
use scenarios::SCENARIOS;
use support::dice::Dice;
use support::load::{Load, Watch};

/// How long a round may go on after it was healed before the cluster counts as wedged.
const PATIENCE: Duration = Duration::from_secs(120);

const BULK_WRITERS: usize = 2;

/// After a round with a longer time without a write, what the nodes wrote is kept, for whoever wants to know why.
const LONG_GAP: Duration = Duration::from_secs(3);

/// How much is to be done.
struct Plan {
    seed: u64,
    /// It ends after so many faults, or after this time, whichever comes first.
    faults: usize,
    time: Duration,
    only: Option<Vec<String>>,
    /// Connections in a crowd.
    crowd: usize,
    out: Option<PathBuf>,
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}

fn known_fault(name: &str) -> String {
    assert!(Fault::all().any(|fault| format!("{fault:?}") == name), "DKV_CAMPAIGN_ONLY: there is no fault {name:?}");
    name.to_owned()
}

impl Plan {
    fn from_environment() -> Plan {
        let (faults, seconds) = (number("DKV_CAMPAIGN_FAULTS"), number("DKV_CAMPAIGN_SECONDS"));
        let is_short = faults.is_none() && seconds.is_none();
        Plan {
            seed: number("DKV_CAMPAIGN_SEED").unwrap_or(1),
            faults: faults.unwrap_or(if is_short { 6 } else { u64::MAX }) as usize,
            time: seconds.map_or(Duration::MAX, Duration::from_secs),
            only: env::var("DKV_CAMPAIGN_ONLY").ok().map(|text| text.split(',').map(known_fault).collect()),
            crowd: if is_short { 500 } else { 10_000 },
            out: env::var_os("DKV_CAMPAIGN_OUT").map(PathBuf::from),
        }
    }

    fn allows(&self, fault: Fault, rig: &Rig) -> bool {
        let is_wanted = self.only.as_ref().is_none_or(|only| only.contains(&format!("{fault:?}")));
        is_wanted && fault.is_possible(rig)
    }

    fn draw(&self, rig: &Rig, dice: &mut Dice) -> Fault {
        assert!(Fault::all().any(|fault| self.allows(fault, rig)), "none of these faults is possible on this system");
        loop {
            let fault = Fault::draw(dice);
            if self.allows(fault, rig) {
                return fault;
            }
        }
    }

    /// The strikes of a round: on different nodes, at most one that destroys, which comes first.
    fn round(&self, rig: &Rig, dice: &mut Dice) -> Vec<Strike> {
        let mut free: Vec<usize> = rig.nodes().collect();
        let mut strikes: Vec<Strike> = Vec::new();
        for _ in 0..[1, 1, 1, 2, 2, 3][dice.below(6) as usize] {
            let fault = self.draw(rig, dice);
            // What takes synced data away must find all copies in sync.
            if fault.destroys() && !strikes.is_empty() {
                continue;
            }
            let Some(strike) = Strike::draw(fault, rig, &free, dice) else { continue };
            free.retain(|node| !strike.nodes.contains(node));
            // These strike more than the node that they are drawn for, or need everybody well.
            if matches!(fault, Fault::Crowd | Fault::OldImage) {
                free.clear();
            }
            strikes.push(strike);
        }
        strikes
    }
}

#[test]
fn campaign() {
    match inside("campaign") {
        Where::Inside => run(&Plan::from_environment(), true),
        Where::Done => {}
        Where::Impossible => {
            println!("this system lets nobody have networks of his own: without faults of the network");
            run(&Plan::from_environment(), false);
        }
    }
}

#[test]
#[ignore = "takes about half an hour, and needs networks of its own; asserts times"]
fn scenarios() {
    let Some(name) = env::var_os("DKV_CAMPAIGN_SCENARIO") else {
        let only = env::var("DKV_CAMPAIGN_SCENARIOS").unwrap_or_default();
        let wanted = SCENARIOS.iter().filter(|scenario| scenario.name.starts_with(&only));
        let failed: Vec<&str> =
            wanted.map(|scenario| scenario.name).filter(|name| !in_namespaces("scenarios", name)).collect();
        assert!(failed.is_empty(), "{failed:?}");
        return;
    };
    let scenario = SCENARIOS.iter().find(|scenario| name == scenario.name).expect("a name of the list");
    let rig = Rig::start(scenario.copies, scenario.witnesses, scenario.settings, true);
    let mut outcome = String::new();
    let (goes_on, heart) = (AtomicBool::new(true), Heart::new(PATIENCE + scenarios::long()));
    let tally = thread::scope(|scope| {
        let (rig, goes_on, heart) = (&rig, &goes_on, &heart);
        scope.spawn(move || heart.watch(rig, goes_on));
        let _ends = EndsAll(goes_on);
        let load = Load::on(&rig.cluster).paced(Duration::from_millis(2));
        load.run(|watch| {
            watch.more_writes_everywhere(50);
            outcome = (scenario.play)(rig, watch);
            watch.more_writes_everywhere(20);
        })
    });
    let unknown: usize =
        tally.without_result.iter().filter(|(status, _)| matches!(status, 0 | 504)).map(|(_, n)| n).sum();
    println!(
        "{}: {outcome}. {} writes answered, {} reads, {unknown} unknown of which {} took effect; 0 lost, 0 stale",
        scenario.name, tally.written, tally.read, tally.unknown_applied
    );
}

/// Where this process is.
enum Where {
    Inside,
    /// Another one, inside, has done it all.
    Done,
    Impossible,
}

fn inside(test: &str) -> Where {
    if env::var_os("DKV_CAMPAIGN_INSIDE").is_some() {
        return Where::Inside;
    }
    if !hosts::are_possible() {
        return Where::Impossible;
    }
    assert!(in_namespaces(test, ""), "it failed inside its namespaces");
    Where::Done
}

/// Runs a test of this program in namespaces of its own.
fn in_namespaces(test: &str, scenario: &str) -> bool {
    let mut command = hosts::in_namespaces();
    command.arg(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--include-ignored"]).env("DKV_CAMPAIGN_INSIDE", "1");
    if !scenario.is_empty() {
        command.env("DKV_CAMPAIGN_SCENARIO", scenario);
    }
    command.status().unwrap().success()
}

fn run(plan: &Plan, has_hosts: bool) {
    let mut dice = Dice::new(plan.seed);
    let rig = Rig::draw(&mut dice, has_hosts);
    println!("seed {}: {}", plan.seed, rig.shape);
    let mut figures = Figures::new(plan.out.as_deref(), &rig);
    let (goes_on, beats, done) = (AtomicBool::new(true), AtomicBool::new(true), Done::default());
    let heart = Heart::new(PATIENCE);
    thread::scope(|scope| {
        let (rig, done, goes_on, heart) = (&rig, &done, &goes_on, &heart);
        let beats = &beats;
        scope.spawn(move || heart.watch(rig, beats));
        let beats = EndsAll(beats);
        let write = move |name| {
            let mut writer = Writer::new(name, plan.seed);
            scope.spawn(move || {
                writer.go_on(&rig.cluster, goes_on, done);
                writer
            })
        };
        let writers: Vec<_> = (0..BULK_WRITERS).map(write).collect();
        let ends = EndsAll(goes_on);
        while figures.faults() < plan.faults && heart.began.elapsed() < plan.time {
            assert!(!writers.iter().any(|writer| writer.is_finished()), "a writer found something wrong");
            round(plan, rig, &mut dice, &mut figures, heart);
        }
        goes_on.store(false, Ordering::Relaxed);
        for writer in writers {
            let mut writer = writer.join().unwrap();
            heart.beat();
            writer.check_all(&rig.cluster, done);
        }
        heart.beat();
        figures.check_ledger(rig);
        drop((ends, beats));
    });
    figures.print(&done, heart.began.elapsed());
}

fn round(plan: &Plan, rig: &Rig, dice: &mut Dice, figures: &mut Figures, heart: &Heart) {
    heart.beat();
    rig.wait_until_well();
    let strikes = plan.round(rig, dice);
    let number = figures.rounds();
    println!("{:7.1} s, round {number}: {strikes:?}", heart.began.elapsed().as_secs_f64());
    let mut healed = Instant::now();
    let load = Load::with_keys(&rig.cluster, &format!("r{number}")).paced(Duration::from_millis(1));
    let tally = load.run(|watch| {
        watch.more_writes_everywhere(20);
        carry_out(&strikes, rig, watch, plan.crowd);
        heart.beat();
        for node in rig.ended() {
            let is_expected =
                strikes.iter().any(|strike| strike.fault.ends_processes() && strike.nodes.contains(&node));
            assert!(is_expected, "node {node} has ended by itself: {}", rig.last_words(node));
        }
        rig.heal();
        healed = Instant::now();
        watch.more_writes_everywhere(20);
        rig.wait_until_well();
    });
    figures.add(&strikes, &tally, healed.elapsed(), rig);
    let gap = tally.gaps.iter().max().copied().unwrap_or_default();
    if gap > LONG_GAP {
        println!("  {} ms without an answered write of some shard", gap.as_millis());
        figures.keep_logs(rig);
    }
}

fn carry_out(strikes: &[Strike], rig: &Rig, watch: &Watch<'_, '_>, crowd: usize) {
    thread::scope(|scope| {
        for strike in strikes {
            let thread = scope.spawn(move || strike.carry_out(rig, watch, crowd));
            // Those that follow must not take what it needs to be in sync.
            if strike.fault.destroys() {
                thread.join().unwrap();
            }
        }
    });
}

/// Ends the threads that go on, also where a round panics.
struct EndsAll<'a>(&'a AtomicBool);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Sees that the rounds get on; where they do not, the cluster is wedged, and everything ends.
struct Heart {
    began: Instant,
    last_beat_ms: AtomicU64,
    patience: Duration,
}

impl Heart {
    fn new(patience: Duration) -> Heart {
        Heart { began: Instant::now(), last_beat_ms: AtomicU64::new(0), patience }
    }

    fn beat(&self) {
        self.last_beat_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn watch(&self, rig: &Rig, goes_on: &AtomicBool) {
        while goes_on.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(200));
            let last = Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
            if self.began.elapsed().saturating_sub(last) > self.patience {
                println!("WEDGED: no progress for {} s\n{}", self.patience.as_secs(), rig.describe());
                rig.keep_all();
                rig.nodes().for_each(|node| rig.kill(node));
                std::process::exit(101);
            }
        }
    }
}
