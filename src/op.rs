//! Owns: what a client may ask of a key, and what can come of it, as values. The HTTP layer makes an [`Op`] of
//! a request and a response of an [`Outcome`]; a forwarded request carries the same two between nodes.
//! Never: how either is encoded.

use crate::id::Lsn;

/// One of the four calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `GET /get`
    Get,
    /// `PUT /set`: creates or replaces.
    Set,
    /// `POST /update`: replaces what exists.
    Update,
    /// `DELETE /delete`
    Delete,
}

impl Verb {
    /// Whether the call changes the store.
    #[must_use]
    pub fn is_write(self) -> bool {
        !matches!(self, Verb::Get)
    }
}

/// A precondition on the key's present record (RFC 9110, section 13.1). Every record of a shard has its own lsn,
/// so a tag names one record for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// None.
    #[default]
    None,
    /// `If-Match: *`: the key exists.
    Exists,
    /// `If-Match: "N"`.
    Is(Lsn),
    /// `If-Match` with a tag that no record ever has: never true.
    Never,
    /// `If-None-Match: *`: the key is absent.
    Absent,
    /// `If-None-Match: "N"`: absent, or another record.
    IsNot(Lsn),
}

impl Condition {
    /// Whether it holds for a key whose present record has this lsn (`None`: the key is absent).
    #[must_use]
    pub fn holds(self, present: Option<Lsn>) -> bool {
        match self {
            Condition::None => true,
            Condition::Exists => present.is_some(),
            Condition::Is(lsn) => present == Some(lsn),
            Condition::Never => false,
            Condition::Absent => present.is_none(),
            Condition::IsNot(lsn) => present != Some(lsn),
        }
    }
}

/// A request on a key, borrowing key and value from the buffer that it was read into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op<'a> {
    /// Which call.
    pub verb: Verb,
    /// The decoded key: any bytes, 1 to `limits.max_key_bytes`.
    pub key: &'a [u8],
    /// The value to store; empty for `Get` and `Delete`.
    pub value: &'a [u8],
    /// The precondition.
    pub condition: Condition,
    /// `consistency=stale`: any copy may answer from its committed state.
    pub stale: bool,
}

/// How a request ended, borrowing the value from where it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// GET: the key's record.
    Found {
        /// The record's lsn, which is the ETag.
        lsn: Lsn,
        /// The value's bytes.
        value: &'a [u8],
        /// Of an answer to `consistency=stale`: for how many milliseconds the copy may lack what others have. `None`:
        /// the answer is the present value.
        behind_ms: Option<u64>,
    },
    /// SET: the key was absent.
    Created(Lsn),
    /// SET or UPDATE: the key had a value.
    Replaced(Lsn),
    /// DELETE: the key had a value.
    Deleted,
    /// The key is absent.
    NotFound,
    /// GET with `If-None-Match`: the present record is the one named.
    NotModified(Lsn),
    /// The precondition is false; the present record's lsn, if there is one.
    PreconditionFailed(Option<Lsn>),
    /// Not applied, or not known to be.
    Failed(Failure),
}

/// Why a request has no result. All but [`Failure::Unknown`] mean: surely not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// 503: no primary could be reached within `deadlines.wait_ms`.
    NoPrimary,
    /// 503: this node is stopping.
    Draining,
    /// 503: too much under way (queues or `limits.max_inflight_bytes`).
    Overloaded,
    /// 503: the disk has not answered in time (`deadlines.disk_ms`, `deadlines.answer_ms`).
    DiskSlow,
    /// 503: the only copy of the shard's data is damaged.
    Corrupt,
    /// 504: the write may or may not have been applied.
    Unknown,
    /// 507: the disk has no room for the write.
    DiskFull,
    /// 413: over the primary's own limit for values (its settings differ from those of the node that was asked).
    ValueTooLarge,
    /// 414: over the primary's own limit for keys.
    KeyTooLong,
}
