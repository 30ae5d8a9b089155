//! Owns: what the campaign has seen: the table by kind of fault, what the nodes used, and what every former round left
//! under its keys.
//! Never: doing anything to the cluster but reading.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bulk::Done;
use crate::faults::{Fault, Strike};
use crate::rig::Rig;
use crate::support::load::Tally;

/// What the faults of one kind came to.
#[derive(Default)]
struct Kind {
    struck: usize,
    /// Of rounds in which it came alone: the longest time without an answered write on a shard that it struck, or, for
    /// those that strike all, on any.
    gaps: Vec<Duration>,
    /// From the healing until every copy was in sync, every node ready.
    healed: Vec<Duration>,
}

/// What a node used at the end of a round.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub node: usize,
    pub resident_bytes: u64,
    pub descriptors: usize,
    pub disk_bytes: u64,
    /// What the rule for disk space allows.
    pub allowed_bytes: u64,
}

pub struct Figures {
    kinds: BTreeMap<Fault, Kind>,
    rounds: usize,
    written: usize,
    read: usize,
    unknown: usize,
    unknown_applied: usize,
    ledger: Vec<(String, Option<String>)>,
    shape: String,
    out: Option<PathBuf>,
    /// By round.
    samples: Vec<Vec<Sample>>,
}

impl Figures {
    pub fn new(out: Option<&Path>, rig: &Rig) -> Figures {
        Figures {
            kinds: BTreeMap::new(),
            rounds: 0,
            written: 0,
            read: 0,
            unknown: 0,
            unknown_applied: 0,
            ledger: Vec::new(),
            shape: rig.shape.clone(),
            out: out.map(Path::to_path_buf),
            samples: Vec::new(),
        }
    }

    pub fn rounds(&self) -> usize {
        self.rounds
    }

    pub fn faults(&self) -> usize {
        self.kinds.values().map(|kind| kind.struck).sum()
    }

    pub fn add(&mut self, strikes: &[Strike], tally: &Tally, healed: Duration, rig: &Rig) {
        for strike in strikes {
            let kind = self.kinds.entry(strike.fault).or_default();
            kind.struck += 1;
            if strikes.len() == 1 {
                let shards = strike.nodes.iter().filter_map(|node| rig.shard_of(*node));
                kind.gaps.extend(shards.map(|shard| tally.gaps[shard]).max());
                kind.healed.push(healed);
            }
        }
        self.rounds += 1;
        self.written += tally.written;
        self.read += tally.read;
        self.unknown +=
            tally.without_result.iter().filter(|(status, _)| matches!(status, 0 | 504)).map(|(_, n)| n).sum::<usize>();
        self.unknown_applied += tally.unknown_applied;
        self.ledger.extend(tally.last.iter().cloned());
        self.samples.push(rig.nodes().map(|node| rig.figures(node)).collect());
        // Some of what was left long ago.
        if self.rounds.is_multiple_of(10) {
            self.check_ledger(rig);
        }
    }

    /// Keeps what the nodes wrote in the last round, if there is a place for it.
    pub fn keep_logs(&self, rig: &Rig) {
        let Some(dir) = self.out.as_ref().map(|out| out.join(format!("round-{}", self.rounds - 1))) else { return };
        fs::create_dir_all(&dir).unwrap();
        for node in rig.nodes() {
            let lines: Vec<String> = rig.cluster.log(node).lines().rev().take(300).map(str::to_owned).collect();
            let text: String = lines.into_iter().rev().map(|line| line + "\n").collect();
            fs::write(dir.join(format!("node-{node}.log")), text).unwrap();
        }
    }

    /// Every key of every former round must hold what its round left.
    pub fn check_ledger(&self, rig: &Rig) {
        let mut client = rig.cluster.client(self.rounds % rig.cluster.nodes());
        for (key, held) in &self.ledger {
            let answer = client.call(&format!("GET /get?key={key}"), "");
            let found = match answer.status {
                200 => Some(answer.text().to_owned()),
                404 => None,
                _ => panic!("{key}: {answer:?}"),
            };
            assert_eq!(&found, held, "{key} held this when its round ended");
        }
    }

    pub fn print(&self, done: &Done, time: Duration) {
        let text = self.table(done, time);
        println!("{text}");
        if let Some(dir) = &self.out {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("table.txt"), text).unwrap();
            fs::write(dir.join("samples.csv"), self.samples_csv()).unwrap();
        }
    }

    fn table(&self, done: &Done, time: Duration) -> String {
        use std::sync::atomic::Ordering::Relaxed;
        let mut text = format!(
            "{}\n\n{:<18}{:>7}{:>24}{:>24}\n",
            self.shape, "fault", "struck", "longest gap, ms", "whole after, ms"
        );
        for (fault, kind) in &self.kinds {
            let _ = writeln!(
                text,
                "{:<18}{:>7}{:>24}{:>24}",
                format!("{fault:?}"),
                kind.struck,
                spread(&kind.gaps),
                spread(&kind.healed)
            );
        }
        let bulk = [&done.written, &done.read, &done.unknown].map(|count| count.load(Relaxed));
        let _ = write!(
            text,
            "\ngaps and times (median / worst) are of rounds in which the fault came alone\n\
             {} faults in {} rounds, {:.0} s; {} writes answered and {} reads judged key by key, {} calls without a known \
             outcome, of which {} took effect; besides, {} writes, {} reads, {} without outcome on many keys; {} keys of \
             former rounds as they were left\nlost 0, stale 0, wedged 0 (any of them would have ended the campaign)\n",
            self.faults(),
            self.rounds,
            time.as_secs_f64(),
            self.written,
            self.read,
            self.unknown,
            self.unknown_applied,
            bulk[0],
            bulk[1],
            bulk[2],
            self.ledger.len()
        );
        text + &self.quarters()
    }

    /// What the nodes used: the most of any of them at the end of a round, by quarter of the rounds.
    fn quarters(&self) -> String {
        let mut text = "\nquarter  resident, MiB  descriptors  directory, of what the rule allows\n".to_owned();
        for (n, rounds) in self.samples.chunks(self.samples.len().div_ceil(4).max(1)).enumerate() {
            let all = || rounds.iter().flatten();
            let resident = all().map(|sample| sample.resident_bytes).max().unwrap_or(0) as f64 / f64::from(1 << 20);
            let descriptors = all().map(|sample| sample.descriptors).max().unwrap_or(0);
            let share = |sample: &Sample| sample.disk_bytes as f64 / sample.allowed_bytes as f64;
            let share = all().map(share).fold(0.0, f64::max);
            let _ = writeln!(text, "{:>7}{resident:>15.1}{descriptors:>13}{share:>37.2}", n + 1);
        }
        text
    }

    fn samples_csv(&self) -> String {
        let mut text = "round,node,resident_bytes,descriptors,disk_bytes,allowed_bytes\n".to_owned();
        for (round, samples) in self.samples.iter().enumerate() {
            for s in samples {
                let (resident, disk, allowed) = (s.resident_bytes, s.disk_bytes, s.allowed_bytes);
                let _ = writeln!(text, "{round},{},{resident},{},{disk},{allowed}", s.node, s.descriptors);
            }
        }
        text
    }
}

fn spread(times: &[Duration]) -> String {
    let mut times: Vec<u128> = times.iter().map(Duration::as_millis).collect();
    times.sort_unstable();
    match times.last() {
        Some(worst) => format!("{} / {worst}", times[times.len() / 2]),
        None => "-".to_owned(),
    }
}
