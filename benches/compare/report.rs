//! Owns: what the rounds say, for people and for programs: medians, ratios within a round, and how they stand to what
//! was to be reached.
//! Never: how anything was measured.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::calls::Calls;
use crate::machine::{self, program};
use crate::measure::{Bench, Idle, Phase, Record, median};
use crate::servers::Site;

/// A machine from which more is taken away is too busy to judge.
const STEAL_LIMIT: f64 = 0.05;
/// A server that leaves more of its core idle than this was not what limited the rate.
const SATURATED: f64 = 0.95;

/// What of a round is compared.
#[derive(Clone, Copy)]
enum Figure {
    Cpu,
    Rate,
    P99,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A ratio that is to be reached: `of` to `against`.
struct Row {
    number: usize,
    what: &'static str,
    load: &'static str,
    phase: Phase,
    of: &'static str,
    against: &'static str,
    figure: Figure,
    bound: Bound,
}

const GET: &str = "get: GET, 100 B, 64 connections";
const PIPELINED: &str = "pipelined: GET, 100 B, 64 connections, 16 deep";
const SET: &str = "set: SET, 100 B, 64 connections";
const PAIR: &str = "pair: SET, 100 B, 64 connections";
const FORWARD: &str = "forward: GET, 100 B, 64 connections";
const FORWARD_ONE: &str = "forward: GET, 100 B, 1 connections";
/// Bytes a connection.
const IDLE_BYTES: f64 = 1024.0;

const fn row(
    number: usize,
    what: &'static str,
    load: &'static str,
    pair: [&'static str; 2],
    figure: Figure,
    bound: Bound,
) -> Row {
    Row { number, what, load, phase: Phase::Saturated, of: pair[0], against: pair[1], figure, bound }
}

const ROWS: [Row; 13] = [
    row(1, "GET, CPU: floor", GET, ["dkv", "floor"], Figure::Cpu, Bound::AtMost(1.15)),
    row(2, "GET, CPU: nginx", GET, ["dkv", "nginx"], Figure::Cpu, Bound::AtMost(0.88)),
    row(2, "GET, CPU: Redis", GET, ["dkv", "redis"], Figure::Cpu, Bound::AtMost(0.95)),
    row(3, "pipelined GET, CPU: floor", PIPELINED, ["dkv", "floor"], Figure::Cpu, Bound::AtMost(2.0)),
    row(3, "pipelined GET, CPU: Redis", PIPELINED, ["dkv", "redis"], Figure::Cpu, Bound::AtMost(1.3)),
    row(4, "durable SET, requests/s: Redis", SET, ["dkv", "redis"], Figure::Rate, Bound::AtLeast(1.0)),
    row(4, "durable SET, CPU: Redis", SET, ["dkv", "redis"], Figure::Cpu, Bound::AtMost(0.9)),
    Row {
        phase: Phase::HalfOfOwn,
        ..row(4, "durable SET, p99: Redis", SET, ["dkv", "redis"], Figure::P99, Bound::AtMost(1.0))
    },
    Row {
        phase: Phase::EqualRate,
        ..row(4, "durable SET, p99: Redis", SET, ["dkv", "redis"], Figure::P99, Bound::AtMost(1.0))
    },
    row(5, "SET on two copies, CPU: three etcd", PAIR, ["dkv-pair", "etcd-three"], Figure::Cpu, Bound::AtMost(0.1)),
    row(
        5,
        "SET on two copies, requests/s: three etcd",
        PAIR,
        ["dkv-pair", "etcd-three"],
        Figure::Rate,
        Bound::AtLeast(10.0),
    ),
    row(6, "forwarded GET, CPU: direct", FORWARD, ["dkv-forwarded", "dkv-direct"], Figure::Cpu, Bound::AtMost(1.6)),
    row(6, "the same, one connection", FORWARD_ONE, ["dkv-forwarded", "dkv-direct"], Figure::Cpu, Bound::AtMost(2.2)),
];

/// Prints and keeps everything. Fails if an answer was wrong.
pub fn write(bench: &Bench, site: &Site, out: Option<&Path>) -> ExitCode {
    let table = [facts(bench, site), loads(bench), idle(&bench.idle), rows(bench)].concat();
    print!("{table}");
    if let Some(out) = out {
        fs::create_dir_all(out).unwrap();
        let files = [
            ("table.txt", table),
            ("rounds.csv", rounds_csv(bench)),
            ("calls.csv", calls_csv(bench)),
            ("idle.csv", idle_csv(bench)),
        ];
        files.iter().for_each(|(name, text)| fs::write(out.join(name), text).unwrap());
    }
    let faults = bench.records.iter().filter_map(|record| record.fault.as_ref());
    let faults: Vec<&String> = faults.chain(bench.idle.iter().filter_map(|idle| idle.fault.as_ref())).collect();
    if faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} rounds are INVALID and left out; the first one's reason: {}", faults.len(), faults[0]);
    ExitCode::FAILURE
}

fn facts(bench: &Bench, site: &Site) -> String {
    let words = machine::without_places(std::env::args().skip(1).filter(|word| word != "--bench"));
    let mut text = format!("cargo bench --bench compare -- {words}\n{}", machine::describe());
    let (rounds, seconds, cores) = (bench.rounds, bench.window.as_secs_f64(), bench.cores);
    let _ = write!(text, "\nservers on core {}, load on core {}; ", cores.server, cores.load);
    let _ = writeln!(text, "{rounds} rounds of {seconds} s, in turns\n");
    for (name, command, version) in &site.started {
        let _ = writeln!(text, "{name}: {version}\n    {command}");
    }
    if let Some(perf) = program("perf") {
        let _ = writeln!(text, "system calls: {}", machine::first_line(&perf, "--version"));
    }
    text
}

/// Names of a kind in the order in which they were measured.
fn distinct<T: PartialEq + Clone>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    all.for_each(|one| {
        if !seen.contains(&one) {
            seen.push(one);
        }
    });
    seen
}

fn loads(bench: &Bench) -> String {
    let mut text = String::new();
    for load in distinct(bench.records.iter().map(|record| &record.load)) {
        let of_load = || bench.records.iter().filter(|record| record.load == *load);
        for phase in distinct(of_load().map(|record| record.phase)) {
            let records: Vec<&Record> = of_load().filter(|record| record.phase == phase).collect();
            let _ = writeln!(text, "\n{load}; {}{}\n{HEAD}", phase.name(), equal_rate(phase, &records));
            for server in distinct(records.iter().map(|record| &record.server)) {
                let mine: Vec<&Record> = records.iter().copied().filter(|record| record.server == *server).collect();
                let calls = bench.calls.iter().find(|(of, name, _)| of == load && name == server);
                line(&mut text, phase, &mine, calls.map(|(.., calls)| calls).filter(|_| phase == Phase::Saturated));
            }
        }
        for (_, server, calls) in bench.calls.iter().filter(|(of, ..)| of == load) {
            kinds(&mut text, server, calls);
        }
    }
    if !text.is_empty() && bench.calls.is_empty() {
        text += "\nNo perf, or it may not count: events an epoll_wait and system calls are left out.\n";
    }
    text
}

const HEAD: &str = "server                     req/s  CPU us   +-%   user    sys  ev/wait  calls     p50     p99   \
                    p99.9  RSS MiB  core%  gen%  steal%  other%";

fn equal_rate(phase: Phase, records: &[&Record]) -> String {
    let rate = records.first().and_then(|record| record.asked).filter(|_| phase == Phase::EqualRate);
    rate.map_or(String::new(), |rate| format!(", {rate:.0}/s"))
}

/// One candidate's medians. `calls` were counted in a closed loop.
fn line(text: &mut String, phase: Phase, records: &[&Record], calls: Option<&Calls>) {
    let good = || records.iter().filter(|record| record.fault.is_none());
    let of = |figure: &dyn Fn(&Record) -> f64| median(good().map(|record| figure(record))).unwrap_or(f64::NAN);
    let latency = |at: usize| median(good().filter_map(|record| record.latency_us[at]));
    let cell = |value: Option<f64>, digits| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    let cpu = of(&Record::cpu_us);
    let cpus = || good().map(|record| record.cpu_us());
    let spread = (cpus().fold(0.0, f64::max) - cpus().fold(f64::INFINITY, f64::min)) / cpu * 50.0;
    let user = of(&|record| record.cpu_us() * record.spent.user_share);
    let [p50, p99, p999] = [0, 1, 2].map(|at| cell(latency(at), 0));
    let per_wait = cell(calls.map(|calls| calls.events as f64 / calls.waits.max(1) as f64), 1);
    let per_request = cell(calls.map(|calls| calls.in_all as f64 / calls.requests.max(1) as f64), 2);
    let (steal, core) = (good().map(|record| record.spent.steal).fold(0.0, f64::max), of(&Record::core));
    // A generator that never sleeps says nothing by being busy; another tool's use is not known.
    let is_closed = phase == Phase::Saturated && records[0].tool == "own";
    let generator = cell(is_closed.then(|| of(&Record::generator) * 100.0), 0);
    let _ = write!(
        text,
        "{:<24} {:>7.0} {cpu:>7.2} {spread:>5.1} {user:>6.2} {:>6.2} {per_wait:>8} {per_request:>6} {p50:>7} {p99:>7} \
         {p999:>7} {:>8.1} {:>6.0} {generator:>5} {:>7.1} {:>7.1}",
        records[0].server,
        of(&Record::rate),
        cpu - user,
        of(&|record| record.resident as f64) / 1048576.0,
        core * 100.0,
        steal * 100.0,
        of(&|record| record.spent.others) * 100.0,
    );
    *text += if steal > STEAL_LIMIT { " *" } else { "" };
    *text += if phase == Phase::Saturated && core < SATURATED { " not saturated" } else { "" };
    let late = good().any(|record| record.asked.is_some_and(|asked| record.rate() < asked * 0.99));
    *text += if late { " could not hold the rate" } else { "" };
    let faults = records.len() - good().count();
    *text += &if faults > 0 { format!(" INVALID: {faults} rounds\n") } else { "\n".to_owned() };
}

fn kinds(text: &mut String, server: &str, calls: &Calls) {
    let _ = write!(text, "  calls a request, {server}:");
    for (name, count) in &calls.by_kind {
        let share = *count as f64 / calls.requests.max(1) as f64;
        if share >= 0.001 {
            let _ = write!(text, " {name} {share:.3}");
        }
    }
    text.push('\n');
}

fn idle(idle: &[Idle]) -> String {
    let Some(first) = idle.first() else { return String::new() };
    let mut text = format!("\nidle: {} connections, resident bytes each\n", first.connections);
    let _ = writeln!(text, "server                      silent  after one answer");
    for server in distinct(idle.iter().map(|idle| &idle.server)) {
        let (silent, asked) = idle_medians(idle, server);
        let _ = writeln!(text, "{server:<24} {silent:>9.0} {asked:>17.0}");
    }
    text
}

fn idle_medians(idle: &[Idle], server: &str) -> (f64, f64) {
    let of = |figure: fn(&Idle) -> f64| {
        let good = idle.iter().filter(|idle| idle.server == server && idle.fault.is_none());
        median(good.map(figure)).unwrap_or(f64::NAN)
    };
    (of(|idle| idle.silent), of(|idle| idle.asked_once))
}

fn rows(bench: &Bench) -> String {
    let mut text = format!("\n{:<4} {:<46} {:<28} {:>8}   target\n", "row", "what", "load", "measured");
    for row in &ROWS {
        let ratios = ratios(bench, row);
        let (target, is_reached): (String, fn(f64, f64) -> bool) = match row.bound {
            Bound::AtMost(bound) => (format!("<= {bound}"), |ratio, bound| ratio <= bound),
            Bound::AtLeast(bound) => (format!(">= {bound}"), |ratio, bound| ratio >= bound),
        };
        let (Bound::AtMost(bound) | Bound::AtLeast(bound)) = row.bound;
        verdict(&mut text, row.number, row.what, row.phase.name(), median(ratios.into_iter()), &target, |ratio| {
            is_reached(ratio, bound)
        });
        beside(bench, &mut text, row);
    }
    let has_idle = bench.idle.iter().any(|idle| idle.server == "dkv");
    let (silent, asked) = idle_medians(&bench.idle, "dkv");
    for (phase, bytes) in [("silent", silent), ("after one answer", asked)] {
        let target = format!("<= {IDLE_BYTES} B");
        let bytes = has_idle.then_some(bytes);
        verdict(&mut text, 11, "an idle connection, bytes", phase, bytes, &target, |bytes| bytes <= IDLE_BYTES);
    }
    text + "* the host took more than 5 % of the machine's time in a round: too busy to judge\n"
}

/// The same ratio at an equal rate, where that was measured: it is not what is judged.
fn beside(bench: &Bench, text: &mut String, row: &Row) {
    let is_cpu = matches!(row.figure, Figure::Cpu);
    let same = Row { phase: Phase::EqualRate, what: "  for comparison", bound: Bound::AtMost(0.0), ..*row };
    if let Some(ratio) = median(ratios(bench, &same).into_iter()).filter(|_| is_cpu) {
        let _ = writeln!(text, "{:<4} {:<46} {:<28} {ratio:>8.2}", "", same.what, same.phase.name());
    }
}

fn verdict(
    text: &mut String,
    number: usize,
    what: &str,
    phase: &str,
    measured: Option<f64>,
    target: &str,
    is_reached: impl Fn(f64) -> bool,
) {
    let word = match measured {
        None => "not measured",
        Some(measured) if is_reached(measured) => "reached",
        Some(_) => "NOT REACHED",
    };
    let measured = measured.map_or("-".to_owned(), |measured| format!("{measured:.2}"));
    let _ = writeln!(text, "{number:<4} {what:<46} {phase:<28} {measured:>8}   {target:<9} {word}");
}

/// Round by round.
fn ratios(bench: &Bench, row: &Row) -> Vec<f64> {
    let of = |server: &str, round: usize| {
        let mine = |record: &&Record| record.load == row.load && record.phase == row.phase && record.round == round;
        let record = bench.records.iter().filter(mine).find(|record| record.server == server)?;
        record.fault.is_none().then_some(record)
    };
    let figure = |record: &Record| match row.figure {
        Figure::Cpu => Some(record.cpu_us()),
        Figure::Rate => Some(record.rate()),
        Figure::P99 => record.latency_us[1],
    };
    let ratio = |round| Some(figure(of(row.of, round)?)? / figure(of(row.against, round)?)?);
    (0..bench.rounds).filter_map(ratio).collect()
}

fn rounds_csv(bench: &Bench) -> String {
    let mut text =
        "load;phase;server;tool;round;asked_per_s;requests;seconds;per_s;cpu_us;user_us;system_us;p50_us;p99_us;\
                    p999_us;resident_bytes;core;generator;steal;others;fault\n"
            .to_owned();
    for record in &bench.records {
        let (spent, cpu) = (record.spent, record.cpu_us());
        let user = cpu * spent.user_share;
        let [p50, p99, p999] = record.latency_us.map(|us| us.map_or(String::new(), |us| format!("{us:.1}")));
        let asked = record.asked.map_or(String::new(), |asked| format!("{asked:.0}"));
        let _ = writeln!(
            text,
            "{};{};{};{};{};{asked};{};{:.3};{:.0};{cpu:.3};{user:.3};{:.3};{p50};{p99};{p999};{};{:.3};{:.3};{:.4};{:.4};{}",
            record.load,
            record.phase.name(),
            record.server,
            record.tool,
            record.round + 1,
            record.requests,
            spent.wall.as_secs_f64(),
            record.rate(),
            cpu - user,
            record.resident,
            record.core(),
            record.generator(),
            spent.steal,
            spent.others,
            record.fault.as_deref().unwrap_or_default().replace(';', ","),
        );
    }
    text
}

fn calls_csv(bench: &Bench) -> String {
    let mut text = "load;server;requests;call;count\n".to_owned();
    for (load, server, calls) in &bench.calls {
        let events = ("events of epoll_wait".to_owned(), calls.events);
        for (name, count) in calls.by_kind.iter().chain([&events]) {
            let _ = writeln!(text, "{load};{server};{};{name};{count}", calls.requests);
        }
    }
    text
}

fn idle_csv(bench: &Bench) -> String {
    let mut text = "server;round;connections;bytes_silent;bytes_after_one_answer;fault\n".to_owned();
    for idle in &bench.idle {
        let (server, round, connections) = (&idle.server, idle.round + 1, idle.connections);
        let fault = idle.fault.as_deref().unwrap_or_default().replace(';', ",");
        let _ = writeln!(text, "{server};{round};{connections};{:.1};{:.1};{fault}", idle.silent, idle.asked_once);
    }
    text
}
