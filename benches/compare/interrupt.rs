//! Owns: that Ctrl-C unwinds: what was started is ended, and directories go away, by the same drops as at a good end.
//! (Should the bench be killed, the system kills the servers with it: see `servers`.)
//! Never: what is under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static WORD: OnceLock<Arc<AtomicBool>> = OnceLock::new();

pub fn watch() {
    let word = WORD.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(word)).expect("the signal can be caught");
    }
}

/// To be called wherever something lasts.
pub fn check() {
    if WORD.get().is_some_and(|word| word.load(Ordering::Relaxed)) {
        eprintln!("interrupted");
        // Not a panic: there is nothing to report.
        std::panic::resume_unwind(Box::new("interrupted"));
    }
}
