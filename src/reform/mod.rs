//! Owns: making a new cluster out of the data directories of one that is stopped, in three steps: [`survey`] reads what
//! the directories of a host say, [`plan`] decides by all surveys, and [`apply`] writes that into the directories.
//!
//! The old cluster's registers are read from its voters' memories as a round would read them; every in-sync copy of that
//! configuration holds all that was answered, so any of them may begin the new cluster. Its epochs, versions and, where
//! answered writes may be lost, its lsns lie above all that was seen, so that nothing is ever named twice. A new id
//! keeps the two clusters apart: links between them are refused.
//!
//! Never: a running node; what is printed.

pub mod apply;
mod old;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod survey;
