//! Owns: what the system tells of processes, cores, files and itself; which core is whose.
//! Never: what the processes serve, and what the figures are for.

#![allow(dead_code, reason = "each bench uses a part")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, Resource, getrlimit, setrlimit};

/// One core for all server processes, another for the load.
#[derive(Clone, Copy)]
pub struct Cores {
    pub server: usize,
    pub load: usize,
}

impl Cores {
    /// The last two that this process may use; where there is only one, it is shared, and figures mean little.
    pub fn choose() -> Cores {
        let status = read("/proc/self/status");
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
        let cores: Vec<usize> = list.trim().split(',').filter_map(range).flatten().collect();
        let server = *cores.last().unwrap_or(&0);
        let load = if cores.len() > 1 { cores[cores.len() - 2] } else { server };
        if server == load {
            println!("One core only: servers and load share it, and the figures mean little.");
        }
        Cores { server, load }
    }

    /// Pins this process, which makes the load.
    pub fn pin_self(self) {
        let pid = std::process::id().to_string();
        let done = Command::new("taskset").args(["-cp", &self.load.to_string(), &pid]).output();
        assert!(done.is_ok_and(|done| done.status.success()), "taskset (util-linux) pins to cores");
    }

    /// What starts a server: pinned, and killed with this process whatever ends it.
    pub fn wrapper(self) -> Vec<String> {
        pinned(self.server)
    }
}

/// The node that is measured has this processor to itself, as far as this bench goes.
pub const NODES_CORE: usize = 0;

pub fn cores() -> usize {
    let text = read("/proc/cpuinfo");
    text.lines().filter(|line| line.starts_with("processor")).count().max(1)
}

/// Takes this process, and the threads that it will start, away from the node's processor.
pub fn make_room() {
    if cores() > 1 {
        let mine = format!("1-{}", cores() - 1);
        let pid = std::process::id().to_string();
        let output = Command::new("taskset").args(["-apc", &mine, &pid]).output();
        assert!(output.is_ok_and(|output| output.status.success()), "taskset (util-linux) pins to cores");
    }
}

/// What a program is to be started with: it stays on this processor and dies with the bench.
pub fn pinned(core: usize) -> Vec<String> {
    let core = core.min(cores() - 1).to_string();
    ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", &core].map(str::to_owned).into()
}

/// `3` or `0-7`.
fn range(text: &str) -> Option<std::ops::RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Whether what is written here is only kept in memory, where a sync is free.
pub fn is_in_memory(dir: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    rustix::fs::statfs(dir).is_ok_and(|about| about.f_type == TMPFS)
}

/// As many descriptors as the system allows, here and in what is started from here.
pub fn raise_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Counters at one moment.
#[derive(Clone, Copy)]
pub struct Reading {
    at: Instant,
    server: Cpu,
    own: Cpu,
    machine: Machine,
    pub resident: u64,
}

impl Reading {
    pub fn take(pids: &[u32]) -> Reading {
        let pids: Vec<Pid> = pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)).collect();
        let cpus = pids.iter().map(|pid| Cpu::of(*pid));
        Reading {
            at: Instant::now(),
            server: cpus.fold(Cpu::default(), Cpu::plus),
            own: Cpu::of(rustix::process::getpid()),
            machine: Machine::now(),
            resident: pids.iter().map(|pid| anonymous_bytes(*pid)).sum(),
        }
    }
}

/// What was spent between two readings.
#[derive(Clone, Copy)]
pub struct Spent {
    pub wall: Duration,
    /// The server processes' time on processors, and how much of it in user mode.
    pub server_us: f64,
    pub user_share: f64,
    pub own_us: f64,
    /// Shares of the machine's time: what its host took away; what neither servers nor load used, but was not idle.
    pub steal: f64,
    pub others: f64,
}

impl Spent {
    pub fn between([from, upto]: [Reading; 2]) -> Spent {
        let server_us = upto.server.run_us - from.server.run_us;
        let own_us = upto.own.run_us - from.own.run_us;
        let (user, system) = (upto.server.user_us - from.server.user_us, upto.server.system_us - from.server.system_us);
        let (busy, steal, all) = upto.machine.since(from.machine);
        Spent {
            wall: upto.at - from.at,
            server_us,
            user_share: if user + system > 0.0 { user / (user + system) } else { 0.0 },
            own_us,
            steal: steal / all.max(1.0),
            others: ((busy - server_us - own_us) / all.max(1.0)).max(0.0),
        }
    }
}

/// A process's time on processors, with that of children that have ended.
#[derive(Clone, Copy, Default)]
struct Cpu {
    run_us: f64,
    user_us: f64,
    system_us: f64,
}

impl Cpu {
    fn plus(self, other: Cpu) -> Cpu {
        Cpu {
            run_us: self.run_us + other.run_us,
            user_us: self.user_us + other.user_us,
            system_us: self.system_us + other.system_us,
        }
    }

    fn of(pid: Pid) -> Cpu {
        let text = of_process(pid, "stat");
        // proc_pid_stat(5). The second field is the program's name in parentheses, which may hold spaces.
        let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let us = |number: usize| {
            let ticks: Option<f64> = fields.get(number - 3).and_then(|field| field.parse().ok());
            ticks.unwrap_or(0.0) * tick_us()
        };
        let (user_us, system_us, of_ended_us) = (us(14), us(15), us(16) + us(17));
        // In nanoseconds instead of ticks, but of threads that live.
        let run_us = threads_run_us(pid).unwrap_or(user_us + system_us) + of_ended_us;
        Cpu { run_us, user_us: user_us + us(16), system_us: system_us + us(17) }
    }
}

fn threads_run_us(pid: Pid) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).ok()?;
    let run_ns = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.map(|thread| run_ns(thread.ok()?).map(|ns| ns / 1e3)).sum()
}

fn tick_us() -> f64 {
    1e6 / rustix::param::clock_ticks_per_second() as f64
}

/// CPU time of a process so far, user and system, all threads, also those that have ended.
pub fn cpu_seconds(pid: Pid) -> f64 {
    let cpu = Cpu::of(pid);
    (cpu.user_us + cpu.system_us) / 1e6
}

/// A process's anonymous resident memory, in bytes: what it has allocated. Its files' pages, which it also maps or
/// reads, belong to the page cache, and the kernel takes them back when somebody else needs the room. 0: it is gone.
pub fn anonymous_bytes(pid: Pid) -> u64 {
    field(&of_process(pid, "status"), "RssAnon:").unwrap_or(0) * 1024
}

/// What a process caused to be read from and written to disks.
#[derive(Clone, Copy)]
pub struct Io {
    pub read_bytes: u64,
    /// Pages that it made dirty, whole, each time that it made one dirty which was clean.
    pub write_bytes: u64,
    /// Bytes that it gave to the kernel to be written, sockets apart.
    pub given_bytes: u64,
}

impl Io {
    pub fn of(pid: Pid) -> Io {
        let text = of_process(pid, "io");
        let of = |name| field(&text, name).expect("the process runs, and the kernel counts what it reads and writes");
        let [read_bytes, write_bytes, given_bytes] = ["read_bytes:", "write_bytes:", "wchar:"].map(of);
        Io { read_bytes, write_bytes, given_bytes }
    }

    pub fn since(self, before: Io) -> Io {
        Io {
            read_bytes: self.read_bytes - before.read_bytes,
            write_bytes: self.write_bytes - before.write_bytes,
            given_bytes: self.given_bytes - before.given_bytes,
        }
    }
}

/// The number behind a line's name.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn of_process(pid: Pid, what: &str) -> String {
    read(&format!("/proc/{}/{what}", pid.as_raw_nonzero()))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
#[derive(Clone, Copy)]
struct Machine([f64; 8]);

impl Machine {
    fn now() -> Machine {
        let text = read("/proc/stat");
        let line = text.lines().next().unwrap_or_default();
        let mut ticks = [0.0; 8];
        for (at, field) in line.split_whitespace().skip(1).take(8).enumerate() {
            ticks[at] = field.parse().unwrap_or(0.0);
        }
        Machine(ticks)
    }

    /// Microseconds of all cores: busy, stolen, in all.
    fn since(self, before: Machine) -> (f64, f64, f64) {
        let us = |at: usize| (self.0[at] - before.0[at]) * tick_us();
        ([0, 1, 2, 5, 6].map(us).iter().sum(), us(7), (0..8).map(us).sum())
    }
}

/// The share of processor time that the machine's host gave to others.
pub struct Stolen(Machine);

impl Stolen {
    pub fn begin() -> Stolen {
        Stolen(Machine::now())
    }

    /// Since the beginning.
    pub fn percent(&self) -> f64 {
        let (_, stolen, all) = Machine::now().since(self.0);
        stolen * 100.0 / all.max(1.0)
    }
}

/// The files of a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the directory is there");
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect()
}

/// What a directory's files take on the disk, reserved space included.
pub fn disk_bytes(dir: &Path) -> u64 {
    // A file may go while we look.
    files(dir).iter().filter_map(|path| fs::metadata(path).ok()).map(|data| data.blocks() * 512).sum()
}

/// Brings the files into the page cache.
pub fn warm(paths: &[PathBuf]) {
    for path in paths {
        let file = File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
        file.expect("a file can be read");
    }
}

/// Takes the files out of the page cache (`posix_fadvise`): no others than these, and nobody must be root.
pub fn evict(paths: &[PathBuf]) {
    for file in paths.iter().filter_map(|path| File::open(path).ok()) {
        // Only clean pages go.
        file.sync_all().expect("a file can be synced");
        fadvise(&file, 0, None, Advice::DontNeed).expect("a file's pages can be let go");
    }
}

/// Where a program is; also where only root's shell looks.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The first line that a program says to this.
pub fn first_line(program: &Path, argument: &str) -> String {
    let Ok(said) = Command::new(program).arg(argument).output() else { return String::new() };
    let text = [said.stdout, said.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

/// A program's first line about its version; `None`: it is not installed.
pub fn version(name: &str) -> Option<String> {
    program(name).map(|program| first_line(&program, "--version"))
}

/// The machine in a line.
pub fn describe() -> String {
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processors", |(_, model)| model);
    let memory_gib = field(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) >> 20;
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<&str> = kernel.split('.').take(2).collect();
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("?");
    // One that paces (bbr) holds packets back on loopback, too: that shows in latencies.
    let control = read("/proc/sys/net/ipv4/tcp_congestion_control");
    let (kernel, control) = (kernel.join("."), control.trim());
    format!("{} cores ({model}), {memory_gib} GiB, Linux {kernel}, TCP {control}; load average before: {load}", cores())
}

/// A command line as it may be kept: paths without the directories, which are this machine's own.
pub fn without_places(words: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = words
        .map(|word| if word.starts_with('/') { word.rsplit('/').next().unwrap_or_default().to_owned() } else { word })
        .collect();
    names.join(" ")
}
