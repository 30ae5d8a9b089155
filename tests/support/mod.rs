<<<<<<< HEAD
//! Owns: what tests on the real binary share.
//! Never: what is tested.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod http;
pub mod process;
=======
//! What several test binaries share. Each uses a part of it.
#![allow(dead_code, reason = "every test binary uses another part of this")]
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

pub mod dice;
pub mod driver;
pub mod faulty_disk;
>>>>>>> store
