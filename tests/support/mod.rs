//! Owns: what tests on the real binary share.
//! Never: what is tested.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod http;
pub mod process;
