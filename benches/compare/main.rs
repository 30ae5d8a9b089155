//! This store beside what people would use instead, on one machine: what a request costs the server's processor, and
//! how many it answers how soon. `cargo bench --bench compare -- --help` has the rest; benches/README.md says how to
//! read it.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on says so by its place")]

mod calls;
mod floor;
mod interrupt;
mod load;
#[path = "../common/machine.rs"]
mod machine;
mod measure;
mod report;
mod servers;
mod speech;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use dkv::router::Router;
use load::Keys;
use machine::Cores;
use measure::{Bench, Load, Phase, VALUE_BYTES};
use servers::{Server, Site, Target};
use speech::{Op, key_name};

const GROUPS: [&str; 8] = ["get", "pipelined", "set", "pair", "forward", "idle", "sizes", "connections"];
const SERVERS: [&str; 6] = ["floor", "nginx", "redis", "webdis", "etcd", "dkv"];
const CONNECTIONS: usize = 64;
const DEPTH: usize = 16;
/// Larger values are fewer, so that they fit into Redis's memory.
const FILLED_BYTES: usize = 1 << 30;
const IDLE_CONNECTIONS: usize = 10_000;

const HELP: &str = "\
cargo bench --bench compare -- [--rounds N] [--seconds N] [--keys N] [--out DIR] [--only GROUP,...] [--servers NAME,...]
    [--other FILE]

  --rounds N    how often each is measured, in turns with the others (5)
  --seconds N   how long each time (5)
  --keys N      how many there are (1000000)
  --out DIR     table.txt, rounds.csv, calls.csv, idle.csv
  --only        get, pipelined, set, pair, forward, idle, sizes, connections (default: all)
  --servers     floor, nginx, redis, webdis, etcd, dkv (default: all that are installed)
  --other FILE  another build of dkv: measured beside this one, as dkv-other

apt-get install redis-server etcd-server nginx-light webdis linux-perf
Data lie in the directory for temporary files (TMPDIR): put that on a real disk.";

struct Options {
    rounds: usize,
    seconds: f64,
    keys: u32,
    out: Option<PathBuf>,
    only: Vec<String>,
    servers: Vec<String>,
    other: Option<PathBuf>,
}

impl Options {
    fn measures(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == group)
    }
}

/// `None`: help was asked for, or nothing is to be measured.
fn options() -> Option<Options> {
    // `cargo test` runs this without --bench: it is only to be built then.
    let (only, servers) = (Vec::new(), Vec::new());
    let mut options = Options { rounds: 5, seconds: 5.0, keys: 1_000_000, out: None, only, servers, other: None };
    let mut is_bench = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => is_bench = true,
            "--rounds" => options.rounds = words.next()?.parse().ok()?,
            "--seconds" => options.seconds = words.next()?.parse().ok().filter(|seconds| *seconds > 0.0)?,
            "--keys" => options.keys = words.next()?.parse().ok().filter(|keys| *keys >= 1000)?,
            "--out" => options.out = Some(words.next()?.into()),
            "--only" => options.only = names(&words.next()?, &GROUPS)?,
            "--servers" => options.servers = names(&words.next()?, &SERVERS)?,
            "--other" => options.other = Some(std::path::absolute(words.next()?).ok()?),
            _ => return None,
        }
    }
    is_bench.then_some(options)
}

fn names(list: &str, known: &[&str]) -> Option<Vec<String>> {
    let is_known = list.split(',').all(|name| known.contains(&name));
    is_known.then(|| list.split(',').map(str::to_owned).collect())
}

fn main() -> ExitCode {
    // How this program is run again as the floor: see servers.rs.
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, port, bytes] = words.as_slice()
        && word == "floor"
    {
        floor::serve(port.parse().unwrap(), bytes.parse().unwrap()).unwrap();
    }
    let Some(options) = options() else {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    };
    interrupt::watch();
    let descriptors = machine::raise_descriptors();
    let cores = Cores::choose();
    cores.pin_self();
    let site = Site::new(cores, options.servers.clone(), options.other.clone());
    if machine::is_in_memory(site.dir.path()) {
        println!("Data lie in memory: writes are not durable, and their figures worthless. Set TMPDIR.");
    }
    let (dir, window) = (site.dir.path().to_owned(), Duration::from_secs_f64(options.seconds));
    let (records, calls, idle) = Default::default();
    let bench = Bench { rounds: options.rounds, window, cores, records, calls, idle, dir };
    let mut run = Run { options, descriptors, site, bench };
    run.all();
    report::write(&run.bench, &run.site, run.options.out.as_deref())
}

struct Run {
    options: Options,
    descriptors: u64,
    site: Site,
    bench: Bench,
}

impl Run {
    fn all(&mut self) {
        if ["get", "pipelined", "connections", "set"].iter().any(|group| self.options.measures(group)) {
            self.one_copy();
        }
        for (group, part) in
            [("pair", Run::pair as fn(&mut Run)), ("forward", Run::forward), ("sizes", Run::sizes), ("idle", Run::idle)]
        {
            if self.options.measures(group) {
                part(self);
            }
        }
    }

    fn load(&self, group: &'static str, op: Op, connections: usize, depth: usize) -> Load {
        Load { group, op, value_bytes: VALUE_BYTES, keys: Keys::Below(self.options.keys), connections, depth }
    }

    /// One copy of everything: reads, and durable writes.
    fn one_copy(&mut self) {
        let mut servers = self.single(VALUE_BYTES);
        if self.options.measures("get") || self.options.measures("set") {
            let redis = servers.iter().find(|server| server.target.name == "redis").map(|server| &server.target);
            let webdis = redis.and_then(|redis| self.site.webdis(redis));
            let etcd = self.site.etcd(1);
            servers.extend([webdis, etcd].into_iter().flatten());
        }
        let targets = self.filled(&servers, self.options.keys, VALUE_BYTES);
        let those = |names: &[&str]| -> Vec<&Target> {
            targets.iter().copied().filter(|target| names.contains(&target.name)).collect()
        };
        let (saturated, both) = ([Phase::Saturated], [Phase::Saturated, Phase::EqualRate]);
        let fast = ["floor", "nginx", "redis", "dkv", "dkv-other"];
        if self.options.measures("get") {
            let load = self.load("get", Op::Get, CONNECTIONS, 1);
            self.bench.measure(&load, &targets, &fast, &both);
        }
        if self.options.measures("pipelined") {
            let load = self.load("pipelined", Op::Get, CONNECTIONS, DEPTH);
            self.bench.measure(&load, &those(&fast), &fast, &both);
        }
        if self.options.measures("connections") {
            for connections in [1, 8, 512, IDLE_CONNECTIONS] {
                let load = self.load("connections", Op::Get, connections, 1);
                if self.has_descriptors(connections) {
                    self.bench.measure(&load, &those(&["floor", "nginx", "dkv", "dkv-other"]), &[], &saturated);
                }
            }
        }
        if self.options.measures("set") {
            let load = self.load("set", Op::Set, CONNECTIONS, 1);
            let phases = [Phase::Saturated, Phase::EqualRate, Phase::HalfOfOwn];
            self.bench.measure(
                &load,
                &those(&["redis", "webdis", "etcd", "dkv", "dkv-other"]),
                &["redis", "dkv", "dkv-other"],
                &phases,
            );
        }
    }

    fn single(&mut self, value_bytes: usize) -> Vec<Server> {
        let site = &mut self.site;
        let servers = [site.floor(value_bytes), site.nginx(value_bytes), site.redis(), site.dkv("dkv", 1, 1, 0)];
        let servers = servers.into_iter().chain([site.other_dkv()]);
        servers.flatten().collect()
    }

    fn filled<'a>(&self, servers: &'a [Server], keys: u32, value_bytes: usize) -> Vec<&'a Target> {
        for server in servers {
            eprintln!("filling {} with {keys} keys", server.target.name);
            server.target.fill(keys, value_bytes);
        }
        servers.iter().map(|server| &server.target).collect()
    }

    fn has_descriptors(&self, connections: usize) -> bool {
        let has = self.descriptors > connections as u64 + 100;
        if !has {
            println!(
                "{connections} connections are left out: {} descriptors may be open (ulimit -n).",
                self.descriptors
            );
        }
        has
    }

    /// Durable on two copies: a pair with a witness, as many nodes as etcd needs.
    fn pair(&mut self) {
        let servers = [self.site.etcd(3), self.site.dkv("dkv-pair", 1, 2, 1)];
        let servers: Vec<Server> = servers.into_iter().flatten().collect();
        let targets = self.filled(&servers, self.options.keys, VALUE_BYTES);
        let load = self.load("pair", Op::Set, CONNECTIONS, 1);
        let both = [Phase::Saturated, Phase::EqualRate];
        self.bench.measure(&load, &targets, &["etcd-three", "dkv-pair"], &both);
    }

    /// Keys of the second of two shards, asked of its own node and of the other's. Both nodes' processor time counts.
    fn forward(&mut self) {
        let Some(server) = self.site.dkv("dkv-forwarded", 2, 1, 0) else { return };
        let wrong = &server.target;
        let router = Router::of(2);
        let second: Vec<u32> = (0..self.options.keys).filter(|key| router.shard_of(&key_name(*key)).0 == 1).collect();
        let right = Target { name: "dkv-direct", address: server.primaries[1], ..wrong.clone() };
        self.filled(std::slice::from_ref(&server), self.options.keys, VALUE_BYTES);
        for connections in [CONNECTIONS, 1] {
            let load = Load { keys: Keys::Of(second.clone()), ..self.load("forward", Op::Get, connections, 1) };
            let both = [Phase::Saturated, Phase::EqualRate];
            self.bench.measure(&load, &[&right, wrong], &["dkv-direct", "dkv-forwarded"], &both);
        }
    }

    fn sizes(&mut self) {
        for value_bytes in [1 << 10, 64 << 10] {
            let servers = self.single(value_bytes);
            let keys = self.options.keys.min((FILLED_BYTES / value_bytes) as u32);
            let targets = self.filled(&servers, keys, value_bytes);
            let load = Load { value_bytes, keys: Keys::Below(keys), ..self.load("sizes", Op::Get, CONNECTIONS, 1) };
            self.bench.measure(&load, &targets, &[], &[Phase::Saturated]);
        }
    }

    /// Fresh servers each round: memory that was once used is not given back.
    fn idle(&mut self) {
        if !self.has_descriptors(IDLE_CONNECTIONS) {
            return;
        }
        for round in 0..self.options.rounds {
            let servers = self.single(VALUE_BYTES);
            for target in self.filled(&servers, 1000, VALUE_BYTES) {
                self.bench.idle_round(target, IDLE_CONNECTIONS, round);
            }
        }
    }
}
