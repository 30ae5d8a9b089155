//! The server's core by itself: no sockets, no clock; a disk in memory and a sink that remembers. Each test tells one
//! law of answers, or one of what a copy says to the others.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod followers;
mod forwarding;
mod fresh;
mod primaries;
mod roles;
mod sending;
mod world;
