//! Owns: row 7: what a key costs in memory, as the number of keys grows; and Redis on the same data.
//! Never: how the index is made.

use std::io::{BufWriter, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;

use crate::keys::{Keys, write_key};
use crate::load::{Load, Plan};
use crate::machine::{self, Stolen, anonymous_bytes};
use crate::node::{self, KEY_BYTES, VALUE_BYTES};
use crate::report::{Report, Target, Verdict};
use crate::support::process::free_address;
use crate::{Options, support};

/// Tables grow at certain numbers of keys, and the worst is just behind: so this often it is looked.
const STEPS: u64 = 80;
const LONG_KEY_BYTES: usize = 200;

pub fn run(options: &Options, report: &mut Report) {
    report.heading("memory: anonymous resident bytes (RssAnon) a key, those of the empty process taken off");
    report.line("  the page cache is not in it: the kernel takes that back when somebody needs the room");
    for (key_bytes, keys) in [(KEY_BYTES, options.keys), (LONG_KEY_BYTES, options.keys / 2)] {
        let stolen = Stolen::begin();
        let worst = dkv(report, key_bytes, keys);
        let stolen_percent = stolen.percent();
        let what = format!("memory a key, {key_bytes}-byte keys, the worst from {} to {keys} keys", keys / 4);
        let target = Target::AtMost(24.0);
        report.verdict(Verdict { row: 7, what, value: worst, unit: "bytes", target, stolen_percent });
    }
    match machine::version("redis-server").and(machine::version("redis-cli")) {
        Some(_) => redis(report, options.keys),
        None => report.line("  redis: not installed, skipped"),
    }
}

/// Grows a node, and gives the worst from a quarter of the keys on.
fn dkv(report: &mut Report, key_bytes: usize, keys: u64) -> f64 {
    let name = format!("dkv, {key_bytes}-byte keys");
    let cluster = node::started();
    let empty = anonymous_bytes(cluster.pid(0));
    report.line(&format!("  {name}; the empty process: {:.1} MiB", empty as f64 / f64::from(1 << 20)));
    let step = keys / STEPS;
    let mut worst: f64 = 0.0;
    for n in 0..STEPS {
        let plan = node::writes(&cluster, Keys::InTurn(n * step));
        Load::start(Plan { key_bytes, calls: Some(step), ..plan }).wait();
        let count = (n + 1) * step;
        let a_key = (anonymous_bytes(cluster.pid(0)) - empty) as f64 / count as f64;
        report.round("memory", &name, count as usize, a_key, "bytes/key", 0.0);
        if count >= keys / 4 {
            worst = worst.max(a_key);
        }
        if is_shown(n) {
            let index = cluster.metric(0, "dkv_index_bytes") / count as f64;
            report.line(&format!(
                "  {:>6.2} M keys {a_key:>7.2}   by the index's own count {index:>6.2}",
                millions(count)
            ));
        }
    }
    report.line(&format!("  the worst from {:.2} M keys on: {worst:.2}", millions(keys / 4)));
    worst
}

/// The first, and every twentieth from a quarter on.
fn is_shown(step: u64) -> bool {
    step + 1 == STEPS / 20 || (step + 1 >= STEPS / 4 && (step + 1).is_multiple_of(STEPS / 20))
}

fn millions(count: u64) -> f64 {
    count as f64 / 1e6
}

/// Redis keeps the values in memory, too, so their bytes are in the figure; no persistence.
fn redis(report: &mut Report, keys: u64) {
    let redis = Redis::start();
    let empty = anonymous_bytes(redis.pid());
    report.line("  redis, 16-byte keys (keys and values are in memory: 116 of the bytes are the data)");
    let step = keys / STEPS;
    for n in 0..STEPS {
        if n > 0 && !is_shown(n) {
            continue;
        }
        let from = redis.filled.get();
        let count = (n + 1) * step;
        redis.fill(from, count);
        let a_key = (anonymous_bytes(redis.pid()) - empty) as f64 / count as f64;
        report.round("memory", "redis", count as usize, a_key, "bytes/key", 0.0);
        report.line(&format!(
            "  {:>6.2} M keys {a_key:>7.2}   without the data {:>6.2}",
            millions(count),
            a_key - 116.0
        ));
    }
}

struct Redis {
    child: Child,
    port: String,
    filled: std::cell::Cell<u64>,
}

impl Redis {
    fn start() -> Redis {
        let port = free_address().port().to_string();
        let mut words = machine::pinned(machine::NODES_CORE);
        let args = ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        words.extend(args.map(str::to_owned));
        let mut command = Command::new(&words[0]);
        let child = command.args(&words[1..]).stdout(Stdio::null()).spawn().unwrap();
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        while support::http::Client::try_connect(address).is_none() {
            thread::sleep(Duration::from_millis(10));
        }
        Redis { child, port, filled: std::cell::Cell::new(0) }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sets the keys from one number up to another, by redis-cli's way for masses.
    fn fill(&self, from: u64, upto: u64) {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port, "--pipe"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut pipe = BufWriter::new(child.stdin.take().unwrap());
        let mut call = Vec::new();
        for n in from..upto {
            call.clear();
            call.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n");
            write_key(&mut call, n, KEY_BYTES);
            call.extend_from_slice(b"\r\n$100\r\n");
            call.resize(call.len() + VALUE_BYTES, b'v');
            call.extend_from_slice(b"\r\n");
            pipe.write_all(&call).unwrap();
        }
        drop(pipe);
        assert!(child.wait().unwrap().success(), "redis-cli --pipe failed");
        self.filled.set(upto);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
