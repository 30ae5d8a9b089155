//! Owns: what the system says of the machine and of a process, its files' way out of the page cache, which processor is
//! whose, and that nothing is left behind when the bench is interrupted.
//! Never: what the figures are for.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, Signal, kill_process};

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
        assert!(output.is_ok_and(|output| output.status.success()), "taskset (util-linux) is needed");
    }
}

/// What a program is to be started with: it stays on this processor and dies with the bench.
pub fn pinned(core: usize) -> Vec<String> {
    let core = core.min(cores() - 1).to_string();
    ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", &core].map(str::to_owned).into()
}

/// A process's anonymous resident memory, in bytes: what it has allocated. Its files' pages, which it also maps or
/// reads, belong to the page cache, and the kernel takes them back when somebody else needs the room.
pub fn anonymous_bytes(pid: Pid) -> u64 {
    let status = read(&format!("/proc/{}/status", pid.as_raw_nonzero()));
    field(&status, "RssAnon:") * 1024
}

/// CPU time of a process so far, user and system, all threads: what holds on a busy machine, too.
pub fn cpu_seconds(pid: Pid) -> f64 {
    let stat = read(&format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The second field is the program's name in parentheses, which may hold spaces; these are the 14th and the 15th.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
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
        let text = read(&format!("/proc/{}/io", pid.as_raw_nonzero()));
        let [read_bytes, write_bytes, given_bytes] =
            ["read_bytes:", "write_bytes:", "wchar:"].map(|name| field(&text, name));
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
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {text:?}"))
}

/// The share of processor time that the machine's host gave to others.
pub struct Stolen {
    all: u64,
    stolen: u64,
}

impl Stolen {
    pub fn begin() -> Stolen {
        let stat = read("/proc/stat");
        let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        // user nice system idle iowait irq softirq steal; what follows is counted in these already.
        let times: Vec<u64> = times.take(8).filter_map(|n| n.parse().ok()).collect();
        Stolen { all: times.iter().sum(), stolen: times.get(7).copied().unwrap_or(0) }
    }

    /// Since the beginning.
    pub fn percent(&self) -> f64 {
        let now = Stolen::begin();
        (now.stolen - self.stolen) as f64 * 100.0 / (now.all - self.all).max(1) as f64
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

/// The machine in a few lines.
pub fn description() -> String {
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processors", |(_, model)| model);
    let memory = field(&read("/proc/meminfo"), "MemTotal:") >> 20;
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<&str> = kernel.trim().splitn(3, '.').collect();
    let kernel = kernel[..kernel.len().min(2)].join(".");
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("?");
    let cores = cores();
    format!("{cores} processors ({model}), {memory} GiB, Linux {kernel}; load average before: {load}\n")
}

/// A program's first line about its version; `None`: it is not installed.
pub fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);
static LITTER: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A directory that is to go, also when the bench is interrupted.
pub fn goes_in_the_end(dir: &Path) {
    LITTER.lock().expect("no thread panics with it").push(dir.to_owned());
}

/// From here on an interruption ends this bench's processes and removes what it has made.
pub fn clean_up_when_interrupted() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]).expect("signals can be handled");
    // What fails then fails because its node is gone.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        while IS_INTERRUPTED.load(Ordering::Relaxed) {
            thread::park();
        }
        usual(panic);
    }));
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            IS_INTERRUPTED.store(true, Ordering::Relaxed);
            children().into_iter().for_each(|pid| _ = kill_process(pid, Signal::KILL));
            thread::sleep(Duration::from_millis(500));
            for dir in LITTER.lock().expect("no thread panics with it").iter().rev() {
                // A control group can only be removed like an empty directory.
                let _ = fs::remove_dir(dir).or_else(|_| fs::remove_dir_all(dir));
            }
            std::process::exit(130);
        }
    });
}

/// This process's own children.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let all: String = texts.collect();
    all.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
