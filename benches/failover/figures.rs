//! Owns: what is made of the calls: gaps, percentiles, rates; a table with the goals, and each round's figures.
//! Never: the cluster.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::time::Duration;

use crate::load::Call;

const MS: f64 = 1e6;

/// One event's figures, in milliseconds.
pub struct Round {
    /// The longest time without an answered write of the shard that the event befell.
    gap_ms: f64,
    /// Latencies of the other shards' calls, from the moment when each was due: before and after.
    quiet_ns: Vec<u64>,
    meanwhile_ns: Vec<u64>,
    /// From the node's return until all copies are in sync again.
    whole_ms: f64,
    /// Calls of the shard without a result, by status; 0: none.
    failed: BTreeMap<u16, usize>,
    /// Of the other shards.
    others_failed: usize,
}

impl Round {
    pub fn of(calls: &[Call], victim: usize, window_ns: u64, event_ns: Range<u64>, whole: Duration) -> Round {
        let mut written: Vec<u64> = calls
            .iter()
            .filter(|call| call.shard == victim && call.is_write && call.is_good())
            .map(|call| call.answered_ns)
            .collect();
        written.sort_unstable();
        let gaps = written.windows(2).filter(|pair| pair[1] > event_ns.start);
        let gap_ns = gaps.map(|pair| pair[1] - pair[0]).max().expect("writes were answered after the event");
        let latencies = |due: Range<u64>| {
            let others = calls.iter().filter(|call| call.shard != victim && call.is_good());
            let mut found: Vec<u64> =
                others.filter(|call| due.contains(&call.due_ns)).map(|call| call.answered_ns - call.due_ns).collect();
            found.sort_unstable();
            found
        };
        let mut failed = BTreeMap::new();
        for call in calls.iter().filter(|call| call.shard == victim && !call.is_good()) {
            *failed.entry(call.status).or_default() += 1;
        }
        Round {
            gap_ms: gap_ns as f64 / MS,
            quiet_ns: latencies(event_ns.start - window_ns..event_ns.start),
            meanwhile_ns: latencies(event_ns.start..event_ns.start + window_ns),
            whole_ms: whole.as_secs_f64() * 1e3,
            failed,
            others_failed: calls.iter().filter(|call| call.shard != victim && !call.is_good()).count(),
        }
    }
}

/// A copy's return, in milliseconds and writes a second.
pub struct Rejoin {
    /// From the process's start, and from its first answer.
    whole_ms: f64,
    alive_to_whole_ms: f64,
    before_rate: f64,
    /// With one copy, while the other was away, and while its process started, which shares this machine's disk.
    alone_rate: f64,
    start_rate: f64,
    meanwhile_rate: f64,
}

impl Rejoin {
    pub fn of(calls: &[Call], before_ns: Range<u64>, [started_ns, alive_ns, whole_ns]: [u64; 3]) -> Rejoin {
        let rate = |span: Range<u64>| {
            let written = calls.iter().filter(|call| call.is_good() && span.contains(&call.answered_ns)).count();
            written as f64 / (span.end - span.start) as f64 * 1e9
        };
        Rejoin {
            whole_ms: (whole_ns - started_ns) as f64 / MS,
            alive_to_whole_ms: (whole_ns - alive_ns) as f64 / MS,
            alone_rate: rate(before_ns.end..started_ns),
            before_rate: rate(before_ns),
            start_rate: rate(started_ns..alive_ns),
            meanwhile_rate: rate(alive_ns..whole_ns),
        }
    }
}

/// All figures.
pub struct Figures {
    peak: u64,
    rate: u64,
    rounds: Vec<(String, Round)>,
    rejoins: Vec<Rejoin>,
    load_before: String,
}

fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |ns| *ns as f64 / MS)
}

fn merged<'a>(all: impl Iterator<Item = &'a Vec<u64>>) -> Vec<u64> {
    let mut merged: Vec<u64> = all.flatten().copied().collect();
    merged.sort_unstable();
    merged
}

/// Least, middle and largest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

impl Figures {
    /// `load_before`: of the machine, before there was any of this.
    pub fn new(load_before: String, peak: u64, rate: u64) -> Figures {
        Figures { peak, rate, rounds: Vec::new(), rejoins: Vec::new(), load_before }
    }

    pub fn add(&mut self, scenario: &str, round: Round) {
        self.rounds.push((scenario.to_owned(), round));
    }

    pub fn rejoined(&mut self, rejoin: Rejoin) {
        self.rejoins.push(rejoin);
    }

    pub fn table(&self) -> String {
        let mut text = machine();
        let (peak, rate) = (self.peak, self.rate);
        let _ = writeln!(text, "load average before: {}; at the end: {}", self.load_before, load_average());
        let _ =
            writeln!(text, "load: open loop, {rate} calls/s, half of them writes of 100 bytes; the peak is {peak}\n");
        let mut names: Vec<&str> = self.rounds.iter().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        let _ = writeln!(text, "longest time without an answered write of the shard, ms; p99 of the other shards, ms");
        let _ = writeln!(
            text,
            "{:<15} {:>6} {:>8} {:>8} {:>8}   {:>9} {:>9}   {:>9}   without a result",
            "event", "rounds", "least", "median", "worst", "p99 quiet", "meanwhile", "whole in"
        );
        for name in names {
            let rounds: Vec<&Round> = self.rounds.iter().filter(|(of, _)| of == name).map(|(_, round)| round).collect();
            let (least, median, worst) = spread(rounds.iter().map(|round| round.gap_ms).collect());
            let quiet = percentile(&merged(rounds.iter().map(|round| &round.quiet_ns)), 99);
            let meanwhile = percentile(&merged(rounds.iter().map(|round| &round.meanwhile_ns)), 99);
            let (_, whole, _) = spread(rounds.iter().map(|round| round.whole_ms).collect());
            let mut failed: BTreeMap<u16, usize> = BTreeMap::new();
            for round in &rounds {
                round.failed.iter().for_each(|(status, n)| *failed.entry(*status).or_default() += n);
            }
            let others: usize = rounds.iter().map(|round| round.others_failed).sum();
            let _ = writeln!(
                text,
                "{name:<15} {:>6} {least:>8.1} {median:>8.1} {worst:>8.1}   {quiet:>9.2} {meanwhile:>9.2}   \
                 {whole:>9.0}   {failed:?}, other shards {others}",
                rounds.len()
            );
        }
        if !self.rejoins.is_empty() {
            self.rejoin_table(&mut text);
        }
        text
    }

    fn rejoin_table(&self, text: &mut String) {
        let row = |of: fn(&Rejoin) -> f64| spread(self.rejoins.iter().map(of).collect());
        let _ = writeln!(
            text,
            "\nrejoin of a copy that missed 100000 writes or more of 100 bytes, {} times, under a closed loop of writes",
            self.rejoins.len()
        );
        let _ = writeln!(text, "{:<42} {:>9} {:>9} {:>9}", "", "least", "median", "worst");
        for (name, (least, median, worst)) in [
            ("from the process's start to in sync, ms", row(|r| r.whole_ms)),
            ("from its first answer to in sync, ms", row(|r| r.alive_to_whole_ms)),
            ("writes/s with two copies, before", row(|r| r.before_rate)),
            ("writes/s with one copy", row(|r| r.alone_rate)),
            ("writes/s while the process starts", row(|r| r.start_rate)),
            ("writes/s from its first answer to in sync", row(|r| r.meanwhile_rate)),
            ("of the rate with two copies, %", row(|r| r.meanwhile_rate / r.before_rate * 100.0)),
        ] {
            let _ = writeln!(text, "{name:<42} {least:>9.0} {median:>9.0} {worst:>9.0}");
        }
    }

    pub fn raw(&self) -> String {
        let mut text = "event\tgap_ms\tp99_quiet_ms\tp99_meanwhile_ms\twhole_ms\twithout_result\n".to_owned();
        for (name, round) in &self.rounds {
            let (quiet, meanwhile) = (percentile(&round.quiet_ns, 99), percentile(&round.meanwhile_ns, 99));
            let failed = round.failed.values().sum::<usize>() + round.others_failed;
            let (gap, whole) = (round.gap_ms, round.whole_ms);
            let _ = writeln!(text, "{name}\t{gap:.2}\t{quiet:.2}\t{meanwhile:.2}\t{whole:.0}\t{failed}");
        }
        if !self.rejoins.is_empty() {
            text += "\nevent\twhole_ms\tfrom_first_answer_ms\twrites_s_before\twrites_s_alone\twrites_s_at_start\t\
                     writes_s_meanwhile\n";
        }
        for r in &self.rejoins {
            let (whole, alive) = (r.whole_ms, r.alive_to_whole_ms);
            let _ = write!(text, "rejoin\t{whole:.0}\t{alive:.0}\t{:.0}\t{:.0}", r.before_rate, r.alone_rate);
            let _ = writeln!(text, "\t{:.0}\t{:.0}", r.start_rate, r.meanwhile_rate);
        }
        text
    }
}

/// The machine in a line.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processors", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<&str> = kernel.split('.').take(2).collect();
    format!("{cores} cores ({model}), Linux {}\n", kernel.join("."))
}

/// How many processes wanted to run in the last minute.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}
