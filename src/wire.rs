//! Owns: what nodes say to each other, as values, and their encoding as frames.
//!
//! ```text
//! frame   length u32 | crc32c u32 | body          length counts the body; the checksum covers length and body
//! body    kind u8 | fields, little-endian; byte strings carry their length as u32
//! ```
//! Never: sockets, roles, what a message leads to.

use std::fmt;

use crate::id::{Epoch, Lsn, NodeId, Uuid};
use crate::op::{Condition, Failure, Op, Outcome, Verb};

/// The protocol's version: nodes of different versions refuse each other.
pub const VERSION: u16 = 3;
/// Bytes before a frame's body.
pub const FRAME_HEAD_BYTES: usize = 8;
/// Most bytes that a frame needs beside a key and a value.
pub const FRAME_EXTRA_BYTES: usize = 128;
/// Most bytes of a frame before the hello is through: a stranger must not make us buffer more.
pub const HELLO_BYTES_MAX: usize = 1 << 20;

/// What a link is for. A pair of nodes has one of each in each direction that is needed, so that a beacon never stands
/// behind bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Beacons, leases, registers: small, and soon.
    Control,
    /// Forwarded requests and their answers; a primary's log to its copies.
    Data,
}

impl Class {
    /// Both.
    pub const ALL: [Class; 2] = [Class::Control, Class::Data];
}

/// Who speaks on a new link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The sender's protocol version.
    pub version: u16,
    /// What the link is for.
    pub class: Class,
    /// The fingerprint of the sender's shard table.
    pub fingerprint: u64,
    /// The cluster that the sender belongs to; zero while it knows of none.
    pub cluster: Uuid,
    /// The sender's place in that table.
    pub from: NodeId,
    /// Whom the sender believes to be speaking to.
    pub to: NodeId,
    /// The sender's store.
    pub store: Uuid,
    /// A random number that the sender's process drew at its start.
    pub incarnation: u64,
    /// The sender's address in the table.
    pub address: &'a str,
}

/// What a node tells of itself with every beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Whether its copy can serve its role.
    pub ready: bool,
    /// Whether it is its shard's primary.
    pub is_primary: bool,
    /// The epoch of its copy.
    pub epoch: Epoch,
    /// The last record in its log.
    pub end: Lsn,
    /// The last committed record that it knows of.
    pub committed: Lsn,
    /// What its copy is doing.
    pub state: CopyState,
    /// The version of the newest configuration of its shard that it knows.
    pub version: u64,
    /// Which copies are in sync in that: bit n is the shard's n-th node in the table.
    pub in_sync: u64,
}

/// What a copy is doing, for people to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyState {
    /// Nothing is known of it.
    #[default]
    Unknown,
    /// The cluster is not formed yet.
    Forming,
    /// A primary that answers.
    Serving,
    /// A primary that answers nothing now: a copy in sync has let its lease run out.
    CutOff,
    /// A primary before its first answer: it makes one log of those of the copies.
    Settling,
    /// A copy that holds everything that was answered.
    InSync,
    /// A copy that is brought up to date from the primary's log.
    CatchingUp,
    /// A copy that gets everything anew.
    Syncing,
    /// A copy without a primary that it could follow.
    Waiting,
    /// Its data is damaged, and no peer repairs it yet.
    Damaged,
    /// It holds no data: a witness.
    Witness,
}

impl CopyState {
    /// All of them, in the order of their codes in a frame.
    pub const ALL: [CopyState; 11] = [
        CopyState::Unknown,
        CopyState::Forming,
        CopyState::Serving,
        CopyState::CutOff,
        CopyState::Settling,
        CopyState::InSync,
        CopyState::CatchingUp,
        CopyState::Syncing,
        CopyState::Waiting,
        CopyState::Damaged,
        CopyState::Witness,
    ];

    /// As it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CopyState::Unknown => "unknown",
            CopyState::Forming => "forming",
            CopyState::Serving => "serving",
            CopyState::CutOff => "cut off",
            CopyState::Settling => "settling",
            CopyState::InSync => "in sync",
            CopyState::CatchingUp => "catching up",
            CopyState::Syncing => "syncing",
            CopyState::Waiting => "waiting",
            CopyState::Damaged => "damaged",
            CopyState::Witness => "witness",
        }
    }
}

/// A primary's first word to a copy on a new data link: what its log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow<'a> {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The configuration in which it leads: [`crate::configuration::Configuration`] as bytes.
    pub configuration: &'a [u8],
    /// The last record of its log.
    pub end: Lsn,
    /// A copy that shares less than this with it needs everything anew: the primary dropped tombstones up to here.
    pub floor: Lsn,
    /// Where each epoch began in its log: pairs of epoch and first lsn, 8 bytes each.
    pub lineage: &'a [u8],
    /// Whether the primary has made one log of those of the in-sync copies: before that, a copy whose log is longer
    /// says so instead of cutting it.
    pub is_settled: bool,
}

/// A copy's answer to [`Follow`]: from here on it takes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Following {
    /// The primary's epoch, which the copy has made its own.
    pub epoch: Epoch,
    /// What the copy holds: another number than in the configuration means that it is another copy.
    pub store: Uuid,
    /// Where its log ended before it was cut to what it shares with the primary's.
    pub had: Lsn,
    /// Of this it knew that it is committed.
    pub had_committed: Lsn,
    /// Where its log ends now: all of it is the primary's, too.
    pub end: Lsn,
    /// Of this, what is on its disk for good.
    pub durable: Lsn,
    /// Whether it is in the middle of nothing: a copy that is synced anew is not.
    pub is_whole: bool,
    /// It is in sync and holds more than the primary: it did not cut its log, and shall lead.
    pub is_ahead: bool,
}

/// Records of a primary's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Append<'a> {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The record before the first of these.
    pub after: Lsn,
    /// What the primary has committed.
    pub committed: Lsn,
    /// The records as they stand in the log, in order.
    pub records: &'a [u8],
}

/// How far a copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// All up to here is on its disk for good.
    pub durable: Lsn,
    /// Bytes that it can take beyond what it has taken.
    pub room_bytes: u64,
    /// See [`Following::is_whole`].
    pub is_whole: bool,
}

/// A primary's sign of life, which asks for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// When it was sent, on the primary's clock: the lease begins here. The grant carries it back.
    pub sent_ns: u64,
    /// How long the lease is, on the primary's clock.
    pub lease_ms: u32,
    /// What the primary has committed.
    pub committed: Lsn,
}

/// A forwarded request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The sender's number for it; the answer carries it.
    pub id: u64,
    /// Requests of one stream came from one client's connection and are to be taken in their order.
    pub stream: u64,
    /// After so many milliseconds nobody waits for the answer any more.
    pub ms_left: u32,
    /// The request.
    pub op: Op<'a>,
}

/// One frame's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// The dialling node's first frame.
    Hello(Hello<'a>),
    /// The hello is accepted; the accepting node's own.
    Welcome(Hello<'a>),
    /// The hello is refused, or the welcome is: why, and the sender's shard table in canonical text.
    Refuse {
        /// A sentence.
        reason: &'a str,
        /// The sender's table.
        table: &'a str,
    },
    /// The accepting side of a data link is about to stop: it answers what it gets, but wants no more. The dialling side
    /// closes the link once it has its answers.
    Leaving,
    /// A beacon; answered by [`Message::Pong`].
    Ping(Status),
    /// The answer to a beacon.
    Pong(Status),
    /// A request for the receiver's shard.
    Forward(Forward<'a>),
    /// The answer to [`Message::Forward`].
    Answer {
        /// The number that the request carried.
        id: u64,
        /// What came of it.
        outcome: Outcome<'a>,
    },
    /// The answer to [`Message::Forward`] of a node that is not the shard's primary: surely not executed. It carries the
    /// request back, so that the sender need not keep a copy of every one that it forwards.
    NotPrimary {
        /// The number that the request carried.
        id: u64,
        /// The request.
        op: Op<'a>,
    },
    /// A message of the registers, for [`crate::node::registers`] to read.
    Register {
        /// The cluster that the sender belongs to; zero while it knows of none.
        cluster: Uuid,
        /// The message.
        bytes: &'a [u8],
    },
    /// A configuration that was chosen, for whoever has an older one: [`crate::configuration::Configuration`] as bytes.
    Know(&'a [u8]),
    /// Primary to copy, on the data link: follow.
    Follow(Follow<'a>),
    /// The answer to [`Message::Follow`].
    Following(Following),
    /// Primary to copy, on the data link: records.
    Append(Append<'a>),
    /// Copy to primary, on the data link by which the records came.
    Ack(Ack),
    /// Primary to copy, on the control link: a lease is asked for.
    Beacon(Beacon),
    /// The answer to [`Message::Beacon`]: the copy will not take over before a grace longer than the lease is over.
    Grant {
        /// The primary's epoch.
        epoch: Epoch,
        /// As in the beacon.
        sent_ns: u64,
        /// The version of the configuration that the copy knows.
        version: u64,
    },
    /// Primary to copy, on the control link: am I still followed?
    Confirm {
        /// The primary's epoch.
        epoch: Epoch,
        /// Numbers the question.
        round: u64,
    },
    /// The answer to [`Message::Confirm`]: yes.
    Confirmed {
        /// The primary's epoch.
        epoch: Epoch,
        /// As in the question.
        round: u64,
    },
    /// Primary to copy: I have stopped in this epoch for good; lead, at once.
    Lead {
        /// The epoch that ends.
        epoch: Epoch,
        /// Whether the primary's own copy stays in sync.
        keeps_old: bool,
    },
    /// Copy to primary: I am about to stop; let me go.
    Leave,
    /// Primary to copy: go, nothing waits for you.
    Released,
    /// To the primary, for an operator: hand over to this node.
    HandOver {
        /// The copy that shall lead.
        to: NodeId,
    },
    /// The answer to [`Message::HandOver`] where it cannot be: a sentence.
    NotHanded(&'a str),
}

/// Why bytes are not a frame. The link is closed then: nothing behind it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// Longer than is allowed.
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The checksum does not fit the bytes.
    Checksum,
    /// The fields do not fit the kind.
    Malformed,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, limit } => write!(f, "a frame of {length} bytes, over the limit of {limit}"),
            Self::Checksum => f.write_str("a frame whose checksum does not fit"),
            Self::Malformed => f.write_str("a frame that makes no sense"),
        }
    }
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSE: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;
const FORWARD: u8 = 6;
const ANSWER: u8 = 7;
const NOT_PRIMARY: u8 = 8;
const LEAVING: u8 = 9;
const REGISTER: u8 = 10;
const KNOW: u8 = 11;
const FOLLOW: u8 = 12;
const FOLLOWING: u8 = 13;
const APPEND: u8 = 14;
const ACK: u8 = 15;
const BEACON: u8 = 16;
const GRANT: u8 = 17;
const CONFIRM: u8 = 18;
const CONFIRMED: u8 = 19;
const LEAD: u8 = 20;
const LEAVE: u8 = 21;
const RELEASED: u8 = 22;
const HAND_OVER: u8 = 23;
const NOT_HANDED: u8 = 24;

/// Appends a message as one frame.
pub fn encode(message: &Message<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    let mut w = Writer(out);
    match message {
        Message::Hello(hello) => w.u8(HELLO).hello(hello),
        Message::Welcome(hello) => w.u8(WELCOME).hello(hello),
        Message::Refuse { reason, table } => w.u8(REFUSE).bytes(reason.as_bytes()).bytes(table.as_bytes()),
        Message::Leaving => w.u8(LEAVING),
        Message::Ping(status) => w.u8(PING).status(status),
        Message::Pong(status) => w.u8(PONG).status(status),
        Message::Forward(forward) => {
            w.u8(FORWARD).u64(forward.id).u64(forward.stream).u32(forward.ms_left).op(&forward.op)
        }
        Message::Answer { id, outcome } => w.u8(ANSWER).u64(*id).outcome(outcome),
        Message::NotPrimary { id, op } => w.u8(NOT_PRIMARY).u64(*id).op(op),
        Message::Register { cluster, bytes } => w.u8(REGISTER).uuid(*cluster).bytes(bytes),
        Message::Know(bytes) => w.u8(KNOW).bytes(bytes),
        Message::Follow(f) => w
            .u8(FOLLOW)
            .u64(f.epoch.0)
            .bytes(f.configuration)
            .u64(f.end.0)
            .u64(f.floor.0)
            .bytes(f.lineage)
            .u8(f.is_settled.into()),
        Message::Following(f) => w.u8(FOLLOWING).following(f),
        Message::Append(a) => w.u8(APPEND).u64(a.epoch.0).u64(a.after.0).u64(a.committed.0).bytes(a.records),
        Message::Ack(a) => w.u8(ACK).u64(a.epoch.0).u64(a.durable.0).u64(a.room_bytes).u8(a.is_whole.into()),
        Message::Beacon(b) => w.u8(BEACON).u64(b.epoch.0).u64(b.sent_ns).u32(b.lease_ms).u64(b.committed.0),
        Message::Grant { epoch, sent_ns, version } => w.u8(GRANT).u64(epoch.0).u64(*sent_ns).u64(*version),
        Message::Confirm { epoch, round } => w.u8(CONFIRM).u64(epoch.0).u64(*round),
        Message::Confirmed { epoch, round } => w.u8(CONFIRMED).u64(epoch.0).u64(*round),
        Message::Lead { epoch, keeps_old } => w.u8(LEAD).u64(epoch.0).u8((*keeps_old).into()),
        Message::Leave => w.u8(LEAVE),
        Message::Released => w.u8(RELEASED),
        Message::HandOver { to } => w.u8(HAND_OVER).u32(to.0),
        Message::NotHanded(why) => w.u8(NOT_HANDED).bytes(why.as_bytes()),
    };
    let body = out.len() - start - FRAME_HEAD_BYTES;
    let length = u32::try_from(body).expect("keys and values are limited far below 4 GiB").to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &out[start + FRAME_HEAD_BYTES..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The first frame in `bytes` and its length there; `None` while it is not complete.
///
/// # Errors
/// The bytes are not a frame of at most `limit` bytes.
pub fn decode(bytes: &[u8], limit: usize) -> Result<Option<(Message<'_>, usize)>, WireError> {
    let Some(length) = frame_bytes(bytes) else { return Ok(None) };
    if length > limit {
        return Err(WireError::TooLong { length, limit });
    }
    let Some(frame) = bytes.get(..length) else { return Ok(None) };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[FRAME_HEAD_BYTES..]);
    if crc.to_le_bytes() != frame[4..8] {
        return Err(WireError::Checksum);
    }
    let mut r = Reader(&frame[FRAME_HEAD_BYTES..]);
    let message = r.message().filter(|_| r.0.is_empty()).ok_or(WireError::Malformed)?;
    Ok(Some((message, length)))
}

/// The length of the first frame in `bytes`, its head included, once that is known.
#[must_use]
pub fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(FRAME_HEAD_BYTES + u32::from_le_bytes(length) as usize)
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }
    fn u16(&mut self, v: u16) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.u32(u32::try_from(v.len()).expect("byte strings are limited far below 4 GiB"));
        self.0.extend_from_slice(v);
        self
    }
    fn uuid(&mut self, v: Uuid) -> &mut Self {
        self.0.extend_from_slice(&v.0.to_le_bytes());
        self
    }
    fn hello(&mut self, h: &Hello<'_>) -> &mut Self {
        self.u16(h.version).u8(matches!(h.class, Class::Data).into()).u64(h.fingerprint);
        self.uuid(h.cluster).u32(h.from.0).u32(h.to.0).uuid(h.store);
        self.u64(h.incarnation).bytes(h.address.as_bytes())
    }
    fn status(&mut self, s: &Status) -> &mut Self {
        let state = CopyState::ALL.iter().position(|state| *state == s.state).expect("every state is in the list");
        self.u8(u8::from(s.ready) | u8::from(s.is_primary) << 1).u64(s.epoch.0).u64(s.end.0).u64(s.committed.0);
        self.u8(state as u8).u64(s.version).u64(s.in_sync)
    }
    fn following(&mut self, f: &Following) -> &mut Self {
        self.u64(f.epoch.0).uuid(f.store);
        self.u64(f.had.0).u64(f.had_committed.0).u64(f.end.0).u64(f.durable.0);
        self.u8(f.is_whole.into()).u8(f.is_ahead.into())
    }
    fn op(&mut self, op: &Op<'_>) -> &mut Self {
        let verb = match op.verb {
            Verb::Get => 0,
            Verb::Set => 1,
            Verb::Update => 2,
            Verb::Delete => 3,
        };
        let (condition, lsn) = match op.condition {
            Condition::None => (0, 0),
            Condition::Exists => (1, 0),
            Condition::Is(lsn) => (2, lsn.0),
            Condition::Never => (3, 0),
            Condition::Absent => (4, 0),
            Condition::IsNot(lsn) => (5, lsn.0),
        };
        self.u8(verb).u8(op.stale.into()).u8(condition).u64(lsn).bytes(op.key).bytes(op.value)
    }
    fn outcome(&mut self, outcome: &Outcome<'_>) -> &mut Self {
        match outcome {
            Outcome::Found { lsn, value, behind_ms } => {
                self.u8(1).u64(lsn.0).u64(behind_ms.map_or(0, |ms| ms.saturating_add(1))).bytes(value)
            }
            Outcome::Created(lsn) => self.u8(2).u64(lsn.0),
            Outcome::Replaced(lsn) => self.u8(3).u64(lsn.0),
            Outcome::Deleted => self.u8(4),
            Outcome::NotFound => self.u8(5),
            Outcome::NotModified(lsn) => self.u8(6).u64(lsn.0),
            Outcome::PreconditionFailed(None) => self.u8(7),
            Outcome::PreconditionFailed(Some(lsn)) => self.u8(8).u64(lsn.0),
            Outcome::Failed(failure) => {
                let at = FAILURES.iter().position(|f| f == failure).expect("every failure is in the list");
                self.u8(9).u8(at as u8)
            }
        }
    }
}

/// The failures, in the order of their codes in a frame.
const FAILURES: [Failure; 9] = [
    Failure::NoPrimary,
    Failure::Draining,
    Failure::Overloaded,
    Failure::DiskSlow,
    Failure::Corrupt,
    Failure::Unknown,
    Failure::DiskFull,
    Failure::ValueTooLarge,
    Failure::KeyTooLong,
];

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    fn bool(&mut self) -> Option<bool> {
        self.u8().filter(|b| *b < 2).map(|b| b == 1)
    }
    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn u128(&mut self) -> Option<u128> {
        Some(u128::from_le_bytes(self.take(16)?.try_into().ok()?))
    }
    fn epoch(&mut self) -> Option<Epoch> {
        self.u64().map(Epoch)
    }
    fn lsn(&mut self) -> Option<Lsn> {
        self.u64().map(Lsn)
    }
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()?;
        self.take(n as usize)
    }
    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
    fn message(&mut self) -> Option<Message<'a>> {
        Some(match self.u8()? {
            HELLO => Message::Hello(self.hello()?),
            WELCOME => Message::Welcome(self.hello()?),
            REFUSE => Message::Refuse { reason: self.text()?, table: self.text()? },
            LEAVING => Message::Leaving,
            PING => Message::Ping(self.status()?),
            PONG => Message::Pong(self.status()?),
            FORWARD => {
                Message::Forward(Forward { id: self.u64()?, stream: self.u64()?, ms_left: self.u32()?, op: self.op()? })
            }
            ANSWER => Message::Answer { id: self.u64()?, outcome: self.outcome()? },
            NOT_PRIMARY => Message::NotPrimary { id: self.u64()?, op: self.op()? },
            REGISTER => Message::Register { cluster: Uuid(self.u128()?), bytes: self.bytes()? },
            KNOW => Message::Know(self.bytes()?),
            FOLLOW => Message::Follow(Follow {
                epoch: self.epoch()?,
                configuration: self.bytes()?,
                end: self.lsn()?,
                floor: self.lsn()?,
                lineage: self.bytes()?,
                is_settled: self.bool()?,
            }),
            FOLLOWING => Message::Following(self.following()?),
            APPEND => Message::Append(Append {
                epoch: self.epoch()?,
                after: self.lsn()?,
                committed: self.lsn()?,
                records: self.bytes()?,
            }),
            ACK => Message::Ack(Ack {
                epoch: self.epoch()?,
                durable: self.lsn()?,
                room_bytes: self.u64()?,
                is_whole: self.bool()?,
            }),
            BEACON => Message::Beacon(Beacon {
                epoch: self.epoch()?,
                sent_ns: self.u64()?,
                lease_ms: self.u32()?,
                committed: self.lsn()?,
            }),
            GRANT => Message::Grant { epoch: self.epoch()?, sent_ns: self.u64()?, version: self.u64()? },
            CONFIRM => Message::Confirm { epoch: self.epoch()?, round: self.u64()? },
            CONFIRMED => Message::Confirmed { epoch: self.epoch()?, round: self.u64()? },
            LEAD => Message::Lead { epoch: self.epoch()?, keeps_old: self.bool()? },
            LEAVE => Message::Leave,
            RELEASED => Message::Released,
            HAND_OVER => Message::HandOver { to: NodeId(self.u32()?) },
            NOT_HANDED => Message::NotHanded(self.text()?),
            _ => return None,
        })
    }
    fn hello(&mut self) -> Option<Hello<'a>> {
        Some(Hello {
            version: self.u16()?,
            class: if self.bool()? { Class::Data } else { Class::Control },
            fingerprint: self.u64()?,
            cluster: Uuid(self.u128()?),
            from: NodeId(self.u32()?),
            to: NodeId(self.u32()?),
            store: Uuid(self.u128()?),
            incarnation: self.u64()?,
            address: self.text()?,
        })
    }
    fn status(&mut self) -> Option<Status> {
        let flags = self.u8().filter(|f| *f < 4)?;
        Some(Status {
            ready: flags & 1 != 0,
            is_primary: flags & 2 != 0,
            epoch: Epoch(self.u64()?),
            end: self.lsn()?,
            committed: self.lsn()?,
            state: *CopyState::ALL.get(self.u8()? as usize)?,
            version: self.u64()?,
            in_sync: self.u64()?,
        })
    }
    fn following(&mut self) -> Option<Following> {
        Some(Following {
            epoch: self.epoch()?,
            store: Uuid(self.u128()?),
            had: self.lsn()?,
            had_committed: self.lsn()?,
            end: self.lsn()?,
            durable: self.lsn()?,
            is_whole: self.bool()?,
            is_ahead: self.bool()?,
        })
    }
    fn op(&mut self) -> Option<Op<'a>> {
        let verb = match self.u8()? {
            0 => Verb::Get,
            1 => Verb::Set,
            2 => Verb::Update,
            3 => Verb::Delete,
            _ => return None,
        };
        let stale = self.bool()?;
        let (condition, lsn) = (self.u8()?, self.lsn()?);
        let condition = match condition {
            0 => Condition::None,
            1 => Condition::Exists,
            2 => Condition::Is(lsn),
            3 => Condition::Never,
            4 => Condition::Absent,
            5 => Condition::IsNot(lsn),
            _ => return None,
        };
        let key = self.bytes().filter(|key| !key.is_empty())?;
        Some(Op { verb, key, value: self.bytes()?, condition, stale })
    }
    fn outcome(&mut self) -> Option<Outcome<'a>> {
        Some(match self.u8()? {
            1 => {
                let (lsn, behind_ms) = (self.lsn()?, self.u64()?.checked_sub(1));
                Outcome::Found { lsn, behind_ms, value: self.bytes()? }
            }
            2 => Outcome::Created(self.lsn()?),
            3 => Outcome::Replaced(self.lsn()?),
            4 => Outcome::Deleted,
            5 => Outcome::NotFound,
            6 => Outcome::NotModified(self.lsn()?),
            7 => Outcome::PreconditionFailed(None),
            8 => Outcome::PreconditionFailed(Some(self.lsn()?)),
            9 => Outcome::Failed(*FAILURES.get(self.u8()? as usize)?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn condition() -> impl Strategy<Value = Condition> {
        prop_oneof![
            Just(Condition::None),
            Just(Condition::Exists),
            any::<u64>().prop_map(|n| Condition::Is(Lsn(n))),
            Just(Condition::Never),
            Just(Condition::Absent),
            any::<u64>().prop_map(|n| Condition::IsNot(Lsn(n))),
        ]
    }

    fn round_trip(message: &Message<'_>) {
        let mut bytes = vec![9; 3];
        encode(message, &mut bytes);
        let (back, length) = decode(&bytes[3..], 1 << 20).unwrap().unwrap();
        assert_eq!(back, *message);
        assert_eq!(length, bytes.len() - 3);
        for cut in 3..bytes.len() {
            assert_eq!(decode(&bytes[3..cut], 1 << 20), Ok(None), "a part of a frame is not a frame");
        }
    }

    proptest! {
        #[test]
        fn forwards_survive(
            id: u64, stream: u64, ms_left: u32, verb in 0..4u8, stale: bool, condition in condition(),
            key in prop::collection::vec(any::<u8>(), 1..50), value in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let verb = [Verb::Get, Verb::Set, Verb::Update, Verb::Delete][verb as usize];
            let op = Op { verb, key: &key, value: &value, condition, stale };
            round_trip(&Message::Forward(Forward { id, stream, ms_left, op }));
            round_trip(&Message::NotPrimary { id, op });
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes, 1 << 20);
            // The same behind a checksum that fits, so that the fields are reached.
            let mut frame = vec![0; FRAME_HEAD_BYTES];
            frame.extend_from_slice(&bytes);
            frame[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &bytes);
            frame[4..8].copy_from_slice(&crc.to_le_bytes());
            let _ = decode(&frame, 1 << 20);
        }
    }

    #[test]
    fn every_answer_survives() {
        let mut outcomes = vec![
            Outcome::Found { lsn: Lsn(7), value: b"v\0\xff", behind_ms: Some(0) },
            Outcome::Found { lsn: Lsn(7), value: b"", behind_ms: None },
            Outcome::Created(Lsn(1)),
            Outcome::Replaced(Lsn(u64::MAX)),
            Outcome::Deleted,
            Outcome::NotFound,
            Outcome::NotModified(Lsn(3)),
            Outcome::PreconditionFailed(None),
            Outcome::PreconditionFailed(Some(Lsn(4))),
        ];
        outcomes.extend(FAILURES.map(Outcome::Failed));
        for outcome in outcomes {
            round_trip(&Message::Answer { id: 5, outcome });
        }
    }

    #[test]
    fn the_rest_survives() {
        let hello = Hello {
            version: VERSION,
            class: Class::Data,
            fingerprint: 0x1234_5678_9abc_def0,
            cluster: Uuid(1 << 101),
            from: NodeId(3),
            to: NodeId(4),
            store: Uuid(1 << 100),
            incarnation: 77,
            address: "127.0.0.1:8080",
        };
        let status = Status {
            ready: true,
            is_primary: false,
            epoch: Epoch(2),
            end: Lsn(10),
            committed: Lsn(9),
            state: CopyState::InSync,
            version: 7,
            in_sync: 3,
        };
        round_trip(&Message::Hello(hello));
        round_trip(&Message::Welcome(Hello { class: Class::Control, ..hello }));
        round_trip(&Message::Refuse { reason: "no", table: "0 Moscow" });
        round_trip(&Message::Leaving);
        round_trip(&Message::Ping(status));
        round_trip(&Message::Pong(Status { is_primary: true, ..status }));
        for state in CopyState::ALL {
            round_trip(&Message::Ping(Status { state, ..status }));
        }
    }

    #[test]
    fn what_copies_say_survives() {
        let epoch = Epoch(7);
        let follow =
            Follow { epoch, configuration: b"who", end: Lsn(9), floor: Lsn(2), lineage: &[1; 32], is_settled: true };
        round_trip(&Message::Follow(follow));
        round_trip(&Message::Following(Following {
            epoch,
            store: Uuid(1 << 99),
            had: Lsn(12),
            had_committed: Lsn(8),
            end: Lsn(9),
            durable: Lsn(7),
            is_whole: true,
            is_ahead: false,
        }));
        round_trip(&Message::Append(Append { epoch, after: Lsn(3), committed: Lsn(2), records: b"records" }));
        round_trip(&Message::Ack(Ack { epoch, durable: Lsn(4), room_bytes: 1 << 40, is_whole: false }));
        round_trip(&Message::Beacon(Beacon { epoch, sent_ns: 1 << 60, lease_ms: 540, committed: Lsn(1) }));
        round_trip(&Message::Grant { epoch, sent_ns: 5, version: 6 });
        round_trip(&Message::Confirm { epoch, round: 3 });
        round_trip(&Message::Confirmed { epoch, round: 3 });
        round_trip(&Message::Lead { epoch, keeps_old: true });
        for message in [
            Message::Leave,
            Message::Released,
            Message::HandOver { to: NodeId(3) },
            Message::NotHanded("why"),
            Message::Register { cluster: Uuid(1 << 98), bytes: b"x" },
            Message::Know(b"y"),
        ] {
            round_trip(&message);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        encode(&Message::Ping(Status::default()), &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode(&bad, 1 << 20), Ok(Some(_))), "bit {bit}");
        }
    }
}
