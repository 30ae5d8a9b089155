//! Owns: the clients: streams of calls on any node, what they were answered, and the histories that are judged in the
//! end.
//! Never: what the nodes do.

use super::clock::{MS, Nanos, SECOND};
use crate::support::dice::Dice;
use crate::support::linear::{self, Got, Operation};
use dkv::id::{ConnId, Lsn, NodeId};
use dkv::op::{Condition, Failure, Op, Outcome, Verb};
use std::collections::BTreeMap;
use std::fmt;

/// The slots of clients' connections are above those of links.
const FIRST_SLOT: u32 = 1 << 30;
/// The slot of the connection by which a story calls.
pub const STORY_SLOT: u32 = FIRST_SLOT - 1;

/// A call that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub verb: Verb,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub condition: Condition,
    pub stale: bool,
}

impl Call {
    pub fn op(&self) -> Op<'_> {
        Op { verb: self.verb, key: &self.key, value: &self.value, condition: self.condition, stale: self.stale }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.verb, self.key.escape_ascii())?;
        if self.condition != Condition::None {
            write!(f, " {:?}", self.condition)?;
        }
        match self.verb {
            Verb::Set | Verb::Update => write!(f, " = {}", value_id(&self.value)),
            Verb::Get if self.stale => f.write_str(" (stale)"),
            _ => Ok(()),
        }
    }
}

/// An answer as a client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Known(Got),
    /// A stale read: how far behind the copy may have been, in milliseconds on its clock.
    Stale(Got, u64),
    Failed(Failure),
}

impl Answer {
    pub fn of(outcome: &Outcome<'_>) -> Answer {
        let known = Answer::Known;
        match *outcome {
            Outcome::Found { lsn, value, behind_ms } => {
                let got = Got::Found { lsn: lsn.0, value: checked(value) };
                behind_ms.map_or(known(got), |behind_ms| Answer::Stale(got, behind_ms))
            }
            Outcome::Created(lsn) => known(Got::Created(lsn.0)),
            Outcome::Replaced(lsn) => known(Got::Replaced(lsn.0)),
            Outcome::Deleted => known(Got::Deleted),
            Outcome::NotFound => known(Got::NotFound),
            Outcome::NotModified(lsn) => known(Got::NotModified(lsn.0)),
            Outcome::PreconditionFailed(lsn) => known(Got::PreconditionFailed(lsn.map(|lsn| lsn.0))),
            Outcome::Failed(failure) => Answer::Failed(failure),
        }
    }
}

/// A value: its number, and bytes that follow from it.
pub fn value(id: u64, bytes: u64) -> Vec<u8> {
    let mut value = id.to_le_bytes().to_vec();
    value.resize(8 + bytes as usize, id as u8);
    value
}

/// The number of a value.
pub fn value_id(value: &[u8]) -> u64 {
    value.get(..8).map_or(0, |bytes| bytes.iter().rev().fold(0, |id, byte| id << 8 | u64::from(*byte)))
}

/// The number of a value that must be whole.
fn checked(value: &[u8]) -> u64 {
    let id = value_id(value);
    assert!(
        value.len() >= 8 && value[8..].iter().all(|byte| *byte == id as u8),
        "a value that nobody wrote: {value:?}"
    );
    id
}

/// What the clients are like.
#[derive(Debug, Clone)]
pub struct Habits {
    pub streams: u64,
    /// Calls that a stream has under way at most.
    pub depth: u64,
    pub keys: Vec<Vec<u8>>,
    /// How many of the keys get most of the calls.
    pub hot: u64,
    /// The longest pause between two calls of a stream.
    pub pause_ns: Nanos,
    pub longest_value: u64,
    pub get_percent: u64,
    pub condition_percent: u64,
    pub stale_percent: u64,
}

impl Habits {
    /// Nobody calls.
    pub fn none() -> Habits {
        Habits {
            streams: 0,
            depth: 0,
            keys: Vec::new(),
            hot: 0,
            pause_ns: 0,
            longest_value: 0,
            get_percent: 0,
            condition_percent: 0,
            stale_percent: 0,
        }
    }
}

/// A call that is not answered, or the answer to which is still kept.
#[derive(Debug)]
struct Asked {
    stream: usize,
    number: u64,
    /// Where it stands in its key's history; a stale read has no place there.
    place: Option<(Vec<u8>, usize)>,
    stale_of: Option<Vec<u8>>,
    asked_at: Nanos,
    give_up_at: Nanos,
}

#[derive(Debug)]
struct Stream {
    conn: ConnId,
    /// To whom it is connected: a node, and which of its processes.
    to: Option<(NodeId, u64)>,
    next_number: u64,
}

/// Figures of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub asked: u64,
    pub known: u64,
    pub writes: u64,
    pub unknown: u64,
    pub failed: u64,
    pub stale: u64,
    pub older_than_said: u64,
}

/// See the module.
pub struct Workload {
    pub habits: Habits,
    dice: Dice,
    streams: Vec<Stream>,
    asked: Vec<Asked>,
    /// By key.
    pub history: BTreeMap<Vec<u8>, Vec<Operation>>,
    /// What stale reads found: key, lsn, value.
    pub stale_finds: Vec<(Vec<u8>, u64, u64)>,
    last_lsn: BTreeMap<Vec<u8>, u64>,
    next_value: u64,
    pub tally: Tally,
    pub is_over: bool,
}

/// A call on its way.
#[derive(Debug)]
pub struct Sent {
    pub to: NodeId,
    pub start: u64,
    pub conn: ConnId,
    pub number: u64,
    pub call: Call,
}

/// An answer that was noted.
#[derive(Debug)]
pub struct Noted {
    pub key: Vec<u8>,
    pub operation: Operation,
}

impl Workload {
    pub fn new(habits: Habits, dice: Dice) -> Workload {
        let streams = (0..habits.streams as u32)
            .map(|n| Stream { conn: ConnId { slot: FIRST_SLOT + n, generation: 0 }, to: None, next_number: 0 })
            .collect();
        Workload {
            habits,
            dice,
            streams,
            asked: Vec::new(),
            history: BTreeMap::new(),
            stale_finds: Vec::new(),
            last_lsn: BTreeMap::new(),
            next_value: 1,
            tally: Tally::default(),
            is_over: false,
        }
    }

    /// How long a stream waits before its next call.
    pub fn pause(&mut self) -> Nanos {
        1 + self.dice.below(self.habits.pause_ns)
    }

    /// A stream's turn: the call that it makes now, if any. `live`: nodes whose processes run, and their numbers.
    pub fn call(&mut self, now: Nanos, at: usize, live: &[(NodeId, u64)]) -> Option<Sent> {
        let under_way = self.asked.iter().filter(|asked| asked.stream == at).count() as u64;
        // A write that waits holds up its stream: some streams only read, so that somebody sees what it is like meanwhile.
        let only_reads = at.is_multiple_of(3);
        let depth = if only_reads { 8 } else { self.habits.depth };
        if self.is_over || under_way >= depth {
            return None;
        }
        if self.streams[at].to.is_none() {
            let to = *self.dice.pick(live)?;
            let stream = &mut self.streams[at];
            stream.to = Some(to);
            stream.conn.generation += 1;
            stream.next_number = 0;
        }
        let call = self.invent(only_reads);
        Some(self.ask(now, at, call))
    }

    /// A stream makes this call, at the node that it is connected to.
    fn ask(&mut self, now: Nanos, at: usize, call: Call) -> Sent {
        let stream = &mut self.streams[at];
        let (to, start) = stream.to.expect("it is connected");
        let number = stream.next_number;
        stream.next_number += 1;
        let conn = stream.conn;
        self.tally.asked += 1;
        let mut asked = Asked {
            stream: at,
            number,
            place: None,
            stale_of: None,
            asked_at: now,
            give_up_at: now + 12 * SECOND + self.dice.below(4 * SECOND),
        };
        if call.stale {
            asked.stale_of = Some(call.key.clone());
        } else {
            let history = self.history.entry(call.key.clone()).or_default();
            asked.place = Some((call.key.clone(), history.len()));
            history.push(Operation {
                verb: call.verb,
                condition: call.condition,
                value: value_id(&call.value),
                invoked: now,
                returned: Nanos::MAX,
                got: Got::Unknown,
            });
        }
        self.asked.push(asked);
        Sent { to, start, conn, number, call }
    }

    fn invent(&mut self, only_reads: bool) -> Call {
        let Habits { hot, get_percent, condition_percent, stale_percent, longest_value, .. } = self.habits;
        let count = self.habits.keys.len() as u64;
        let nth = if self.dice.below(100) < 75 { self.dice.below(hot) } else { self.dice.below(count) };
        let key = self.habits.keys[nth as usize].clone();
        let verb = match self.dice.below(100) {
            n if only_reads || n < get_percent => Verb::Get,
            _ => *self.dice.pick(&[Verb::Set, Verb::Set, Verb::Set, Verb::Update, Verb::Delete]).unwrap_or(&Verb::Set),
        };
        let lsn = self.last_lsn.get(&key).copied();
        let condition = match (self.dice.below(100) < condition_percent, lsn) {
            (false, _) => Condition::None,
            (true, Some(lsn)) => match self.dice.below(8) {
                0..4 => Condition::Is(Lsn(lsn)),
                4 => Condition::IsNot(Lsn(lsn)),
                5 => Condition::Exists,
                6 => Condition::Absent,
                _ => Condition::Is(Lsn(lsn.saturating_sub(1))),
            },
            (true, None) => {
                if self.dice.once_in(2) {
                    Condition::Absent
                } else {
                    Condition::Exists
                }
            }
        };
        let stale = verb == Verb::Get && self.dice.below(100) < stale_percent;
        let value = match verb {
            Verb::Set | Verb::Update => {
                self.next_value += 1;
                let bytes = if self.dice.once_in(20) { longest_value } else { longest_value / 8 };
                value(self.next_value, self.dice.below(bytes + 1))
            }
            _ => Vec::new(),
        };
        Call { verb, key, value, condition, stale }
    }

    /// An answer reached its client. `None`: the client does not wait for it any more.
    pub fn answered(&mut self, now: Nanos, conn: ConnId, number: u64, answer: Answer) -> Option<Noted> {
        let at = (conn.slot - FIRST_SLOT) as usize;
        if self.streams.get(at)?.conn != conn {
            return None;
        }
        let place = self.asked.iter().position(|asked| asked.stream == at && asked.number == number)?;
        let asked = self.asked.swap_remove(place);
        let got = match answer {
            Answer::Known(got) | Answer::Stale(got, _) => got,
            Answer::Failed(Failure::Unknown) => Got::Unknown,
            Answer::Failed(_) => Got::Failed,
        };
        if let (Answer::Stale(Got::Found { lsn, .. }, behind_ms), Some(key)) = (answer, &asked.stale_of) {
            // Whatever was answered before that, the copy had.
            let behind_ns = behind_ms * MS * 102 / 100 + MS;
            let newer = self.history.get(key).into_iter().flatten().find(|op| {
                matches!(op.got, Got::Created(its) | Got::Replaced(its) if its > lsn)
                    && op.returned.saturating_add(behind_ns) < asked.asked_at
            });
            self.tally.older_than_said += u64::from(newer.is_some());
        }
        self.note(now, &asked, got)
    }

    /// What became of a call.
    fn note(&mut self, now: Nanos, asked: &Asked, got: Got) -> Option<Noted> {
        match got {
            Got::Unknown => self.tally.unknown += 1,
            Got::Failed => self.tally.failed += 1,
            _ => self.tally.known += 1,
        }
        if let Some(key) = &asked.stale_of {
            self.tally.stale += 1;
            if let Got::Found { value, lsn } = got {
                self.stale_finds.push((key.clone(), lsn, value));
                let written = self.history.get(key).is_some_and(|history| {
                    history.iter().any(|op| op.value == value && op.got != Got::Failed && op.verb != Verb::Get)
                });
                assert!(written, "a stale read of {} found value {value}, which was never there", key.escape_ascii());
            }
            return None;
        }
        let (key, at) = asked.place.clone()?;
        let operation = &mut self.history.get_mut(&key)?[at];
        (operation.returned, operation.got) = (now, got);
        let operation = *operation;
        if let Got::Created(lsn) | Got::Replaced(lsn) | Got::Found { lsn, .. } = got {
            self.last_lsn.insert(key.clone(), lsn);
        }
        self.tally.writes += u64::from(matches!(got, Got::Created(_) | Got::Replaced(_) | Got::Deleted));
        Some(Noted { key, operation })
    }

    /// A call met a closed port, or a connection that was gone when it came: nobody has read it.
    pub fn refused(&mut self, now: Nanos, conn: ConnId, number: u64) {
        self.answered(now, conn, number, Answer::Failed(Failure::NoPrimary));
        self.disconnect(now, conn);
    }

    /// The client's connection is gone. What it waited for is unknown.
    pub fn disconnect(&mut self, now: Nanos, conn: ConnId) {
        let at = (conn.slot - FIRST_SLOT) as usize;
        if self.streams[at].conn != conn {
            return;
        }
        self.streams[at].to = None;
        let (gone, kept) = std::mem::take(&mut self.asked).into_iter().partition(|asked: &Asked| asked.stream == at);
        self.asked = kept;
        for asked in &gone {
            self.note(now, asked, Got::Unknown);
        }
    }

    /// A node's process is gone: the connections to it.
    pub fn connections_to(&self, node: NodeId, start: u64) -> Vec<ConnId> {
        self.streams.iter().filter(|stream| stream.to == Some((node, start))).map(|stream| stream.conn).collect()
    }

    /// What is there when all is over is what somebody would read then.
    pub fn read_at_the_end(&mut self, now: Nanos, key: &[u8], held: Option<(u64, u64)>) {
        let got = held.map_or(Got::NotFound, |(lsn, value)| Got::Found { lsn, value });
        let (verb, condition) = (Verb::Get, Condition::None);
        let read = Operation { verb, condition, value: 0, invoked: now, returned: now + 1, got };
        self.history.entry(key.to_vec()).or_default().push(read);
    }

    /// Gives up the connections whose calls were not answered for too long: which, to whom, and since when.
    pub fn impatient(&mut self, now: Nanos) -> Vec<(ConnId, NodeId, u64, Nanos)> {
        let late = self.asked.iter().filter(|asked| asked.give_up_at <= now);
        let late: Vec<(usize, Nanos)> = late.map(|asked| (asked.stream, asked.asked_at)).collect();
        let mut given_up = Vec::new();
        for (at, asked_at) in late {
            let Stream { conn, to, .. } = self.streams[at];
            let Some((node, start)) = to else { continue };
            given_up.push((conn, node, start, asked_at));
            self.disconnect(now, conn);
        }
        given_up
    }

    pub fn is_quiet(&self) -> bool {
        self.asked.is_empty()
    }

    /// Judges all that was answered.
    ///
    /// # Errors
    /// The first key whose answers cannot be explained.
    pub fn judge(&self) -> Result<(), String> {
        for (key, history) in &self.history {
            linear::judge(history).map_err(|violation| format!("key {}: {violation}", key.escape_ascii()))?;
        }
        Ok(())
    }

    /// How long a packet takes between a client and a node.
    pub fn delay(&mut self) -> Nanos {
        20_000 + self.dice.below(MS)
    }
}
