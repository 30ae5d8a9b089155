//! Owns: which system calls processes make, and how many events each epoll_wait brings, counted by `perf stat` on the
//! kernel's tracepoints, in rounds that are not timed: counting costs time.
//! Never: what the processes serve.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::machine::program;

const ALL: &str = "raw_syscalls:sys_enter";
/// Those that servers make; others are counted as `other`.
const NAMES: [&str; 30] = [
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "accept4",
    "close",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "write",
    "writev",
    "sendto",
    "sendmsg",
    "sendfile64",
    "pread64",
    "preadv2",
    "pwrite64",
    "pwritev2",
    "fsync",
    "fdatasync",
    "openat",
    "fallocate",
    "futex",
    "nanosleep",
    "sched_yield",
    "madvise",
    "munmap",
    "brk",
    "ioctl",
    "tgkill",
];
/// Events of one wait are counted bit by bit: a tracepoint has a filter, but no sum.
const BITS: usize = 13;

/// What was counted.
pub struct Calls {
    /// Requests that were answered meanwhile.
    pub requests: u64,
    /// By name, most frequent first.
    pub by_kind: Vec<(String, u64)>,
    pub in_all: u64,
    pub waits: u64,
    pub events: u64,
}

/// A count that runs.
pub struct Counting {
    perf: Child,
    out: PathBuf,
}

impl Counting {
    /// `None`: there is no perf here, or it may not count these.
    pub fn start(pids: &[u32], dir: &Path) -> Option<Counting> {
        let tracepoints = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(|dir| Path::new(dir).join("events"));
        let tracepoints = tracepoints.into_iter().find(|dir| dir.join("raw_syscalls").is_dir())?;
        let out = dir.join("perf-stat");
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut perf = Command::new(program("perf")?);
        perf.args(["stat", "-x", ";", "-p", &pids.join(","), "-o"]).arg(&out).args(["-e", ALL]);
        for name in NAMES.iter().filter(|name| tracepoints.join(format!("syscalls/sys_enter_{name}")).is_dir()) {
            perf.args(["-e", &format!("syscalls:sys_enter_{name}")]);
        }
        for wait in ["epoll_wait", "epoll_pwait"] {
            for bit in 0..BITS {
                let filter = format!("ret > 0 && ret & {}", 1 << bit);
                perf.args(["-e", &format!("syscalls:sys_exit_{wait}"), "--filter", &filter]);
            }
        }
        let mut perf = perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        // It attaches to each thread, event by event.
        thread::sleep(Duration::from_millis(500));
        match perf.try_wait() {
            Ok(None) => Some(Counting { perf, out }),
            _ => None,
        }
    }

    pub fn stop(mut self) -> Option<Calls> {
        let _ = kill_process(Pid::from_child(&self.perf), Signal::INT);
        let _ = self.perf.wait();
        Some(parse(&fs::read_to_string(&self.out).ok()?))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// Lines of `count;unit;event;...`.
fn parse(text: &str) -> Calls {
    let (mut by_kind, mut in_all, mut events, mut bit) = (Vec::new(), 0, 0, 0);
    for line in text.lines() {
        let mut fields = line.split(';');
        let (Some(count), Some(event)) = (fields.next().and_then(|count| count.parse::<u64>().ok()), fields.nth(1))
        else {
            continue;
        };
        if event.starts_with("syscalls:sys_exit_") {
            events += count << (bit % BITS);
            bit += 1;
        } else if let Some(name) = event.strip_prefix("syscalls:sys_enter_") {
            by_kind.push((name.to_owned(), count));
        } else {
            in_all = count;
        }
    }
    let waits = by_kind.iter().filter(|(name, _)| name.starts_with("epoll_w") || name.starts_with("epoll_p"));
    let waits = waits.map(|(_, count)| count).sum();
    let named: u64 = by_kind.iter().map(|(_, count)| count).sum();
    by_kind.push(("other".to_owned(), in_all.saturating_sub(named)));
    by_kind.retain(|(_, count)| *count > 0);
    by_kind.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Calls { requests: 0, by_kind, in_all, waits, events }
}
