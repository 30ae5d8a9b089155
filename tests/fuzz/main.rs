//! Whatever reads bytes that others wrote, under bytes that nobody would write: it answers, refuses or says that they
//! are damaged; it never panics, and never takes one thing for another. Each test is a target; `cargo test --test fuzz`
//! tries some thousand inputs of each, always the same. The long run, and one target alone:
//!
//! ```text
//! DKV_FUZZ_SECONDS=3600 cargo test --release --test fuzz -- --nocapture              an hour each, two at a time
//! DKV_FUZZ_SECONDS=600 [DKV_FUZZ_SEED=7] cargo test --release --test fuzz -- --nocapture --exact log
//! DKV_FUZZ_INPUT=file cargo test --test fuzz -- --exact http                          one input
//! DKV_FUZZ_SECONDS=60 DKV_FUZZ_DISTIL=folder cargo test --release --test fuzz         inputs for corpora
//! ```
//!
//! A failure tells its seed, its bytes, a file with them and how to run that. Where the process itself ended or does not
//! come back, the input stands in `fuzz-TARGET-PID.running`, in the build's own directory for temporary files.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

mod damage;
mod edits;
mod files;
mod frames;
mod harness;
mod http;
mod log;
mod query;
mod registers;
mod repair;
mod table;

#[allow(dead_code, reason = "the answers that its cases must get are other tests'")]
#[path = "../http_cases/mod.rs"]
mod http_cases;
#[path = "../support/mod.rs"]
mod support;

#[test]
fn http() {
    harness::fuzz(&http::TARGET);
}

#[test]
fn query() {
    harness::fuzz(&query::TARGET);
}

#[test]
fn frames() {
    harness::fuzz(&frames::TARGET);
}

#[test]
fn table() {
    harness::fuzz(&table::TARGET);
}

#[test]
fn log() {
    harness::fuzz(&log::TARGET);
}

#[test]
fn files() {
    harness::fuzz(&files::TARGET);
}

#[test]
fn registers() {
    harness::fuzz(&registers::TARGET);
}

#[test]
fn repair() {
    harness::fuzz(&repair::TARGET);
}
