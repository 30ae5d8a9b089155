//! Owns: judging a history of calls on one key: could they have taken effect one by one, each at a moment between its
//! call and its answer? Wing and Gong's search with Lowe's memory of what was tried ("Testing for linearizability",
//! 2016). Keys are independent of each other, so each is judged alone.
//!
//! A write whose outcome is unknown may take effect at any time after its call, or never. What makes the search short:
//!
//! - Values are unique, and a record's lsn names its value.
//! - lsns grow with the order in which writes took effect: of those whose lsn is known only one can be the next.
//! - A call that changes nothing and fits now need not be tried later.
//! - Unknown writes whose values nobody ever saw differ in what they need, not in what they leave behind.
//!
//! Never: who made the calls, and where.

use dkv::op::{Condition, Verb};
use std::collections::HashMap;
use std::fmt;

/// What a call was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    Found {
        lsn: u64,
        value: u64,
    },
    Created(u64),
    Replaced(u64),
    Deleted,
    NotFound,
    NotModified(u64),
    PreconditionFailed(Option<u64>),
    /// Surely not applied, and nothing learned.
    Failed,
    /// Applied, or not, or yet to be: a 504, or no answer at all.
    Unknown,
}

/// One call on the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    pub verb: Verb,
    pub condition: Condition,
    /// Of a set or update: a number that no other write of the history has.
    pub value: u64,
    /// On one clock with `returned`.
    pub invoked: u64,
    /// Counts only where the outcome is known.
    pub returned: u64,
    pub got: Got,
}

/// What was found out about a good history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judged {
    /// Calls that were put in an order.
    pub calls: usize,
    /// Of them, those with an unknown outcome that must have taken effect.
    pub unknown_applied: usize,
    /// Steps of the search.
    pub steps: u64,
}

/// Why a history is not linearizable: a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Beyond this the search gives up, which counts as a violation: a test must not pass because it was not judged.
const MOST_STEPS: u64 = 20_000_000;

/// Judges the calls on one key, in any order.
///
/// # Errors
/// There is no order of the calls that explains their answers.
pub fn judge(history: &[Operation]) -> Result<Judged, Violation> {
    let lsns = Lsns::learn(history)?;
    let mut seen: HashMap<u64, u64> = HashMap::new();
    for op in history {
        if let Got::Found { value, .. } = op.got {
            let first = seen.entry(value).or_insert(op.returned);
            *first = op.returned.min(*first);
        }
    }
    let (mut ops, mut maybes) = (Vec::new(), Vec::<Maybe>::new());
    for op in history {
        match op.got {
            Got::Failed => {}
            Got::Unknown if op.verb == Verb::Get => {}
            Got::Unknown => match seen.get(&op.value) {
                // It must have taken effect before the first read that saw it was answered.
                Some(returned) if op.verb != Verb::Delete => ops.push(Operation { returned: *returned, ..*op }),
                _ => Maybe::add(&mut maybes, op),
            },
            _ => ops.push(*op),
        }
    }
    ops.sort_by_key(|op| (op.invoked, op.returned));
    for maybe in &mut maybes {
        maybe.invoked.sort_unstable();
    }
    Search::new(&ops, &maybes, &lsns).run()
}

/// What is present. A value that no answer ever named is like any other such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Present {
    Nothing,
    Value(u64),
    SomethingUnseen,
}

/// Writes that may have taken effect, whose values nobody ever saw, and that are alike: which of them does is the same,
/// as they never become impossible.
#[derive(Debug)]
struct Maybe {
    verb: Verb,
    condition: Condition,
    /// When they were called, in order.
    invoked: Vec<u64>,
}

impl Maybe {
    fn add(maybes: &mut Vec<Maybe>, op: &Operation) {
        let (verb, condition) = match (op.verb, op.condition) {
            (_, Condition::Never) | (Verb::Update | Verb::Delete, Condition::Absent) => return,
            (Verb::Set, Condition::Exists) => (Verb::Update, Condition::None),
            // Taken for possible even where the record named is present: at worst something bad is not found.
            (verb, Condition::Exists | Condition::IsNot(_)) => (verb, Condition::None),
            same => same,
        };
        match maybes.iter_mut().find(|maybe| maybe.verb == verb && maybe.condition == condition) {
            Some(maybe) => maybe.invoked.push(op.invoked),
            None => maybes.push(Maybe { verb, condition, invoked: vec![op.invoked] }),
        }
    }

    /// Whether it must be counted how many were used. A record is present once at most, so a write that needs a certain
    /// one cannot be used twice.
    fn counts(&self) -> bool {
        !matches!(self.condition, Condition::Is(_))
    }
}

/// Which lsn each value has, as far as answers say.
#[derive(Debug, Default)]
struct Lsns {
    of_value: HashMap<u64, u64>,
    values: HashMap<u64, u64>,
}

impl Lsns {
    fn learn(ops: &[Operation]) -> Result<Lsns, Violation> {
        let mut lsns = Lsns::default();
        for op in ops {
            let (lsn, value) = match op.got {
                Got::Found { lsn, value } => (lsn, value),
                Got::Created(lsn) | Got::Replaced(lsn) => (lsn, op.value),
                _ => continue,
            };
            let other_lsn = *lsns.of_value.entry(value).or_insert(lsn);
            let other_value = *lsns.values.entry(lsn).or_insert(value);
            if (other_lsn, other_value) != (lsn, value) {
                return Err(Violation(format!(
                    "lsn {lsn} names value {value} here, but there lsn {lsn} named value {other_value}, and value \
                     {value} had lsn {other_lsn}: {op:?}"
                )));
            }
        }
        Ok(lsns)
    }

    /// The lsn that a write got.
    fn of_write(&self, op: &Operation) -> Option<u64> {
        match op.got {
            Got::Created(lsn) | Got::Replaced(lsn) => Some(lsn),
            Got::Unknown => self.of_value.get(&op.value).copied(),
            _ => None,
        }
    }

    /// Whether what is present has this lsn; `None`: nobody can say.
    fn is(&self, present: Present, lsn: u64) -> Option<bool> {
        match present {
            Present::Nothing => Some(false),
            Present::Value(value) => self.of_value.get(&value).map(|known| *known == lsn),
            Present::SomethingUnseen => self.values.contains_key(&lsn).then_some(false),
        }
    }

    /// Whether a condition holds.
    fn holds(&self, condition: Condition, present: Present) -> Option<bool> {
        match condition {
            Condition::None => Some(true),
            Condition::Never => Some(false),
            Condition::Exists => Some(present != Present::Nothing),
            Condition::Absent => Some(present == Present::Nothing),
            Condition::Is(lsn) => self.is(present, lsn.0),
            Condition::IsNot(lsn) => self.is(present, lsn.0).map(|is| !is),
        }
    }

    /// What is present after a call, if it can have been answered so.
    fn after(&self, op: &Operation, present: Present) -> Option<Present> {
        use Present::{Nothing, Value};
        let holds = self.holds(op.condition, present);
        let fits = |lsn: u64| present != Nothing && self.is(present, lsn) != Some(false);
        let same = |fits: bool| fits.then_some(present);
        let is_set = matches!(op.verb, Verb::Set | Verb::Update);
        match op.got {
            Got::Failed => None,
            Got::Unknown => self.after_maybe(op.verb, op.condition, Value(op.value), present),
            Got::PreconditionFailed(None) => same(holds != Some(true) && present == Nothing),
            Got::PreconditionFailed(Some(lsn)) => same(holds != Some(true) && fits(lsn)),
            Got::NotModified(lsn) => same(op.verb == Verb::Get && holds != Some(true) && fits(lsn)),
            _ if holds == Some(false) => None,
            Got::Found { value, .. } => same(op.verb == Verb::Get && present == Value(value)),
            Got::NotFound => same(op.verb != Verb::Set && present == Nothing),
            Got::Created(_) => (op.verb == Verb::Set && present == Nothing).then_some(Value(op.value)),
            Got::Replaced(_) => (is_set && present != Nothing).then_some(Value(op.value)),
            Got::Deleted => (op.verb == Verb::Delete && present != Nothing).then_some(Nothing),
        }
    }

    /// What is present after a write that took effect, if it can have done so.
    fn after_maybe(&self, verb: Verb, condition: Condition, value: Present, present: Present) -> Option<Present> {
        if self.holds(condition, present) == Some(false) {
            return None;
        }
        match verb {
            Verb::Get => None,
            Verb::Set => Some(value),
            Verb::Update => (present != Present::Nothing).then_some(value),
            Verb::Delete => (present != Present::Nothing).then_some(Present::Nothing),
        }
    }
}

/// What may come next.
#[derive(Debug, Clone, Copy)]
enum Candidate {
    Op(usize),
    Maybe(usize),
}

/// A choice that was made, what there was to choose, and the state before it.
struct Frame {
    candidates: Vec<Candidate>,
    next: usize,
    undo: Option<(Candidate, Present)>,
}

/// What is being tried.
struct Search<'a> {
    ops: &'a [Operation],
    maybes: &'a [Maybe],
    lsns: &'a Lsns,
    taken: Vec<bool>,
    /// How many of each kind of maybes are taken.
    used: Vec<u32>,
    /// All before this are taken.
    first: usize,
    left: usize,
    present: Present,
    /// The known lsns of the writes, in order, and how many of them are taken.
    order: Vec<u64>,
    written: usize,
    /// Stands for the set of what was taken, but the maybes.
    hash: u128,
    /// What was tried, and with how many of the maybes: with more of them it goes no further.
    tried: HashMap<(u128, Present), Vec<Vec<u32>>>,
    steps: u64,
    /// The furthest that the search came: calls left, what was present, and what could have come next.
    deepest: (usize, Present, Vec<Candidate>),
}

impl<'a> Search<'a> {
    fn new(ops: &'a [Operation], maybes: &'a [Maybe], lsns: &'a Lsns) -> Self {
        let mut order: Vec<u64> = ops.iter().filter_map(|op| lsns.of_write(op)).collect();
        order.sort_unstable();
        Self {
            ops,
            maybes,
            lsns,
            taken: vec![false; ops.len()],
            used: vec![0; maybes.len()],
            first: 0,
            left: ops.len(),
            present: Present::Nothing,
            order,
            written: 0,
            hash: 0,
            tried: HashMap::new(),
            steps: 0,
            deepest: (usize::MAX, Present::Nothing, Vec::new()),
        }
    }

    fn run(mut self) -> Result<Judged, Violation> {
        let mut frames = vec![self.frame(None)];
        while self.left > 0 {
            let Some(frame) = frames.last_mut() else { return Err(self.violation()) };
            let Some(candidate) = frame.candidates.get(frame.next).copied() else {
                let undo = frame.undo;
                frames.pop();
                if let Some(undo) = undo {
                    self.untake(undo);
                }
                continue;
            };
            frame.next += 1;
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return Err(Violation(format!("not decided after {MOST_STEPS} steps; {}", self.violation())));
            }
            if let Some(undo) = self.take(candidate) {
                frames.push(self.frame(Some(undo)));
            }
        }
        let seen = self.ops.iter().filter(|op| op.got == Got::Unknown).count();
        let unseen = self.used.iter().sum::<u32>() as usize;
        Ok(Judged { calls: self.ops.len(), unknown_applied: seen + unseen, steps: self.steps })
    }

    /// What may come next: calls that were made before any call that is not taken was answered; those that must have
    /// happened come first.
    fn frame(&mut self, undo: Option<(Candidate, Present)>) -> Frame {
        while self.taken.get(self.first) == Some(&true) {
            self.first += 1;
        }
        let mut answered = u64::MAX;
        let mut open = Vec::new();
        for at in self.first..self.ops.len() {
            let op = &self.ops[at];
            if op.invoked > answered {
                break;
            }
            if !self.taken[at] {
                answered = answered.min(op.returned);
                open.push(at);
            }
        }
        if let Some(at) = open.iter().find(|at| self.lsns.after(&self.ops[**at], self.present) == Some(self.present)) {
            return Frame { candidates: vec![Candidate::Op(*at)], next: 0, undo };
        }
        open.sort_by_key(|at| self.ops[*at].returned);
        let mut candidates: Vec<Candidate> = open.into_iter().map(Candidate::Op).collect();
        for (at, maybe) in self.maybes.iter().enumerate() {
            if maybe.invoked.get(self.used[at] as usize).is_some_and(|invoked| *invoked <= answered) {
                candidates.push(Candidate::Maybe(at));
            }
        }
        if self.left < self.deepest.0 {
            self.deepest = (self.left, self.present, candidates.clone());
        }
        Frame { candidates, next: 0, undo }
    }

    /// Takes a call as the next one, if its answer fits.
    fn take(&mut self, candidate: Candidate) -> Option<(Candidate, Present)> {
        let undo = (candidate, self.present);
        let (present, hash) = match candidate {
            Candidate::Op(at) => {
                let op = &self.ops[at];
                if self.lsns.of_write(op).is_some_and(|lsn| self.order.get(self.written) != Some(&lsn)) {
                    return None;
                }
                (self.lsns.after(op, self.present)?, self.hash ^ mark(at))
            }
            Candidate::Maybe(at) => {
                let Maybe { verb, condition, .. } = self.maybes[at];
                (self.lsns.after_maybe(verb, condition, Present::SomethingUnseen, self.present)?, self.hash)
            }
        };
        self.count(candidate, 1);
        let tried = self.tried.entry((hash, present)).or_default();
        if tried.iter().any(|used| used.iter().zip(&self.used).all(|(then, now)| then <= now)) {
            self.count(candidate, -1);
            return None;
        }
        tried.push(self.used.clone());
        (self.present, self.hash) = (present, hash);
        Some(undo)
    }

    fn count(&mut self, candidate: Candidate, by: i32) {
        match candidate {
            Candidate::Op(at) => {
                self.taken[at] = by > 0;
                self.left = self.left.saturating_add_signed(-by as isize);
                if self.lsns.of_write(&self.ops[at]).is_some() {
                    self.written = self.written.saturating_add_signed(by as isize);
                }
            }
            Candidate::Maybe(at) if !self.maybes[at].counts() => {}
            Candidate::Maybe(at) => self.used[at] = self.used[at].saturating_add_signed(by),
        }
    }

    fn untake(&mut self, (candidate, present): (Candidate, Present)) {
        self.count(candidate, -1);
        if let Candidate::Op(at) = candidate {
            self.first = self.first.min(at);
            self.hash ^= mark(at);
        }
        self.present = present;
    }

    fn violation(&self) -> Violation {
        let (left, present, candidates) = &self.deepest;
        let placed = self.ops.len().saturating_sub(*left);
        let mut text = format!(
            "the answers fit no order: {placed} of {} calls can be put in one, after which {present:?} is present and \
             none of these fits:",
            self.ops.len(),
        );
        for candidate in candidates {
            let line = match candidate {
                Candidate::Op(at) => {
                    let Operation { verb, condition, value, invoked, returned, got } = self.ops[*at];
                    format!("{invoked}..{returned} {verb:?} {condition:?} value {value} got {got:?}")
                }
                Candidate::Maybe(at) => {
                    let Maybe { verb, condition, invoked } = &self.maybes[*at];
                    format!("{} times {verb:?} {condition:?} with unknown outcomes", invoked.len())
                }
            };
            text.push_str("\n    ");
            text.push_str(&line);
        }
        Violation(text)
    }
}

/// A random number for each place: sets of places are told apart by the sum of theirs.
fn mark(at: usize) -> u128 {
    let word = |seed: u64| {
        let mut z = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(z ^ (z >> 31))
    };
    word(0x5bd1) << 64 | word(0xe995_a3f1)
}
