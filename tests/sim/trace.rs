//! Owns: what happened in a world, one line an event: the last lines for a report, and a hash of all of them, by which
//! two runs are known to be the same.
//! Never: changes what happens.

use super::clock::{MS, Nanos};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::rc::Rc;

/// How many lines are kept.
const KEPT: usize = 400;

#[derive(Debug, Default)]
struct Lines {
    hash: u64,
    count: u64,
    kept: VecDeque<String>,
    spare: String,
    prints: bool,
}

/// Copies share their lines: one outlives the world, to tell of it when it has failed.
#[derive(Debug, Clone, Default)]
pub struct Trace(Rc<RefCell<Lines>>);

impl Trace {
    /// `prints`: each line as it comes.
    pub fn new(prints: bool) -> Trace {
        Trace(Rc::new(RefCell::new(Lines { prints, ..Lines::default() })))
    }

    pub fn line(&self, now: Nanos, line: fmt::Arguments<'_>) {
        let mut lines = self.0.borrow_mut();
        let lines = &mut *lines;
        let mut text = std::mem::take(&mut lines.spare);
        text.clear();
        write!(text, "{:>6}.{:06} ", now / MS, now % MS).expect("a string takes all");
        text.write_fmt(line).expect("a string takes all");
        if lines.prints {
            println!("{text}");
        }
        lines.hash = (lines.hash.rotate_left(5) ^ u64::from(crc32c::crc32c(text.as_bytes())))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(text.len() as u64);
        lines.count += 1;
        lines.kept.push_back(text);
        if lines.kept.len() > KEPT {
            lines.spare = lines.kept.pop_front().unwrap_or_default();
        }
    }

    /// Stands for all lines so far.
    pub fn hash(&self) -> u64 {
        self.0.borrow().hash
    }

    pub fn count(&self) -> u64 {
        self.0.borrow().count
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        let lines = self.0.borrow();
        let kept: Vec<&str> = lines.kept.iter().map(String::as_str).collect();
        kept.join("\n")
    }
}
