//! Owns: that nothing is left behind when the bench is interrupted.
//! Never: what is under way.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

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
