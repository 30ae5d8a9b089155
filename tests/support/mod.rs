//! Owns: what several test programs share.
//! Never: what is tested.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

pub mod cluster;
pub mod dice;
pub mod driver;
pub mod faulty_disk;
pub mod http;
pub mod linear;
pub mod load;
pub mod process;
pub mod view;
