//! What several test binaries share. Each uses a part of it.
#![allow(dead_code, reason = "every test binary uses another part of this")]
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

pub mod dice;
pub mod driver;
pub mod faulty_disk;
