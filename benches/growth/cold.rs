//! Owns: row 10: what hot keys' readers feel while others read what is not in memory.
//! Never: how the node reads.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;

use crate::Options;
use crate::interrupt;
use crate::keys::Keys;
use crate::load::{self, Call, Load, Pace, Plan};
use crate::machine::{self, Io, Stolen};
use crate::node;
use crate::report::{Report, Target, Verdict, mark, median};
use crate::support::cluster::Cluster;

const VALUE_BYTES: usize = 1024;
/// The node may use this share of what its values take; of a million keys: 256 MiB.
const SHARE: u64 = 4;
const WINDOW: Duration = Duration::from_secs(10);
const HOT_KEYS: u64 = 1_000;
const HOT_RATE: u64 = 2_000;
const HOT_CONNECTIONS: usize = 8;
const COLD_CONNECTIONS: usize = 16;

pub fn run(options: &Options, report: &mut Report) {
    let keys = options.keys / 20;
    let limit = keys * VALUE_BYTES as u64 / SHARE;
    report.heading(&format!(
        "cold: {HOT_KEYS} hot keys at {HOT_RATE} GETs/s (open loop), while {COLD_CONNECTIONS} connections read any of {keys} keys of 1 KiB"
    ));
    let group = Group::new();
    let enter = group.as_ref().map(Group::enter).unwrap_or_default();
    let cluster = Cluster::new(1, 1, "")
        .wrapped_each(|_| enter.iter().cloned().chain(machine::pinned(machine::NODES_CORE)).collect());
    cluster.start(0);
    Load::start(Plan { value_bytes: VALUE_BYTES, calls: Some(keys), ..node::writes(&cluster, Keys::InTurn(0)) }).wait();
    let memory = Memory::shorten(&cluster, group, limit);
    let bench = Bench { cluster, memory, keys };
    report.line(&format!("  {}", bench.memory.how(limit)));
    report.line("  round   quiet p50, p99 us   meanwhile p50, p99 us   times   cold reads/s   MB/s from the device");
    let (mut ratios, mut stolen_percent) = (Vec::new(), 0.0_f64);
    for round in 0..options.rounds {
        let stolen = Stolen::begin();
        let [quiet, meanwhile] = [false, true].map(|is_cold| bench.watch(is_cold));
        let percent = stolen.percent();
        stolen_percent = stolen_percent.max(percent);
        let times = meanwhile.p99_us / quiet.p99_us;
        ratios.push(times);
        report.round("cold", "quiet hot p99", round, quiet.p99_us, "us", percent);
        report.round("cold", "hot p99 while cold keys are read", round, meanwhile.p99_us, "us", percent);
        report.round("cold", "cold reads", round, meanwhile.cold_rate, "1/s", percent);
        report.line(&format!(
            "  {round:>5} {:>11.0} {:>7.0} {:>15.0} {:>7.0} {times:>7.2}{:<1} {:>14.0} {:>15.1}",
            quiet.p50_us,
            quiet.p99_us,
            meanwhile.p50_us,
            meanwhile.p99_us,
            mark(percent),
            meanwhile.cold_rate,
            meanwhile.read_mb_s
        ));
    }
    let (value, target) = (median(&ratios), Target::AtMost(2.0));
    let what = "hot keys' p99 while cold keys are read, against the quiet one".to_owned();
    report.verdict(Verdict { row: 10, what, value, unit: "times", target, stolen_percent });
}

struct Seen {
    p50_us: f64,
    p99_us: f64,
    cold_rate: f64,
    read_mb_s: f64,
}

/// In this order they go: a control group can be removed when it is empty.
struct Bench {
    cluster: Cluster,
    memory: Memory,
    keys: u64,
}

impl Bench {
    fn watch(&self, is_cold: bool) -> Seen {
        let Bench { cluster, memory, keys } = self;
        let hot = |pace| node::plan(cluster, Call::Get, memory.hot_keys(*keys), HOT_CONNECTIONS, pace);
        // They are hot: they have been read just now.
        load::for_a_time(hot(Pace::Closed(1)), Duration::from_secs(2));
        let cold = is_cold.then(|| {
            let plan = node::plan(cluster, Call::Get, Keys::uniform(*keys), COLD_CONNECTIONS, Pace::Closed(1));
            let load = Load::start(plan);
            // Until the page cache has changed over to them.
            thread::sleep(Duration::from_secs(2));
            load
        });
        let (io, reads) = (Io::of(cluster.pid(0)), cluster.metric(0, "dkv_cold_reads_total"));
        let outcome = load::for_a_time(hot(Pace::Open(HOT_RATE)), WINDOW);
        let read_bytes = Io::of(cluster.pid(0)).since(io).read_bytes;
        let cold_reads = cluster.metric(0, "dkv_cold_reads_total") - reads;
        if let Some(cold) = cold {
            cold.stop();
        }
        Seen {
            p50_us: outcome.percentile_us(50.0),
            p99_us: outcome.percentile_us(99.0),
            cold_rate: cold_reads / outcome.seconds,
            read_mb_s: read_bytes as f64 / outcome.seconds / 1e6,
        }
    }
}

/// How the node was made short of memory.
enum Memory {
    /// A control group of the kernel, with a limit.
    Group(Group),
    /// There are no control groups for us: all files but the first, which holds the hot keys, are taken out of the page
    /// cache again and again.
    StandIn { _evictor: Evictor },
}

impl Memory {
    fn shorten(cluster: &Cluster, group: Option<Group>, limit: u64) -> Memory {
        machine::evict(&node::files(cluster));
        match group.filter(|group| group.limit(cluster.pid(0), limit)) {
            Some(group) => Memory::Group(group),
            None => Memory::StandIn { _evictor: Evictor::start(node::files(cluster)) },
        }
    }

    fn how(&self, limit: u64) -> String {
        let share = format!("{} MiB, a {SHARE}th of the values", limit >> 20);
        match self {
            Memory::Group(group) => {
                format!("the node's memory is limited to {share}, by a control group (version {})", group.version)
            }
            Memory::StandIn { .. } => format!(
                "no control group could be made, so the limit of {share} has a stand-in: all files but the first, \
                 which holds the hot keys, are taken out of the page cache every 100 ms"
            ),
        }
    }

    fn hot_keys(&self, keys: u64) -> Keys {
        match self {
            Memory::Group(_) => Keys::few(HOT_KEYS, keys / HOT_KEYS),
            Memory::StandIn { .. } => Keys::few(HOT_KEYS, 1),
        }
    }
}

/// A control group below the one that this process is in, so that all limits above it go on to hold.
struct Group {
    dir: PathBuf,
    version: u32,
}

impl Group {
    /// `None`: the system has none for us.
    fn new() -> Option<Group> {
        let mine = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        // "cgroup2 /sys/fs/cgroup cgroup2 rw", "cgroup /sys/fs/cgroup/memory cgroup rw,memory": fstab(5).
        let mount_of = |kind: &str, option: &str| {
            let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<&str>>());
            let line = lines.find(|words| words[2] == kind && words[3].split(',').any(|word| word == option))?;
            Some(line[1].to_owned())
        };
        let kinds = [(1, "cgroup", "memory", ":memory:"), (2, "cgroup2", "rw", "0::")];
        kinds.into_iter().find_map(|(version, kind, option, mark)| {
            let path = mine.lines().find_map(|line| Some(line.split_once(mark)?.1.to_owned()))?;
            let dir = PathBuf::from(format!("{}{path}/dkv-growth-{}", mount_of(kind, option)?, std::process::id()));
            fs::create_dir(&dir).ok()?;
            interrupt::goes_in_the_end(&dir);
            let group = Group { dir, version };
            group.setting().exists().then_some(group)
        })
    }

    fn setting(&self) -> PathBuf {
        self.dir.join(if self.version == 1 { "memory.limit_in_bytes" } else { "memory.max" })
    }

    /// What a program is to be started with: it is in the group before it has any memory of its own.
    fn enter(&self) -> Vec<String> {
        let enter = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", self.dir.display());
        ["sh", "-c", &enter, "sh"].map(str::to_owned).into()
    }

    /// Sets the limit; `false`: it would not hold for the process.
    fn limit(&self, pid: Pid, bytes: u64) -> bool {
        let procs = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        let holds_it = procs.lines().any(|line| line == pid.as_raw_nonzero().to_string());
        holds_it && fs::write(self.setting(), bytes.to_string()).is_ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

struct Evictor {
    stops: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Evictor {
    fn start(mut files: Vec<PathBuf>) -> Evictor {
        files.sort();
        files.retain(|path| path.extension().is_some_and(|end| end == "log"));
        let stops = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stops);
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                machine::evict(&files[1..]);
                thread::sleep(Duration::from_millis(100));
            }
        });
        Evictor { stops, thread: Some(thread) }
    }
}

impl Drop for Evictor {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}
