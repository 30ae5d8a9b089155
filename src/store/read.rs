//! Owns: looking a key up: committed or pending, from the page cache or after a cold read.
//! Never: changing the log or the index.

use super::disk::{Disk, Done, FileId, OpId};
use super::index::{Candidate, KeyHash, Looked, Position};
use super::overlay::{Indexed, Prior};
use super::record::{self, BadRecord, Kind};
use super::{Event, Purpose, Store};
use crate::id::Lsn;
use std::io;
use std::ops::Range;

/// A record that may be longer is looked at where memory has it. Copying a shorter one costs less than finding its place
/// again.
const COPIED_BYTES: usize = 512;

/// The bytes of a cold read, to be given to the next [`Store::get`] or [`Store::probe`] of the same key.
#[derive(Debug)]
pub struct Arrived {
    /// The operation that [`Lookup::Cold`] or [`Probe::Cold`] named.
    pub op: OpId,
    file: FileId,
    at: u64,
    bytes: Vec<u8>,
}

/// What is known of a key before it is looked up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// What the index said of it: see [`Store::look_in_index`].
    pub looked: Option<Looked>,
    /// What a read that was started for it has brought.
    pub arrived: Option<&'a Arrived>,
}

impl<'a> From<Option<&'a Arrived>> for Known<'a> {
    fn from(arrived: Option<&'a Arrived>) -> Self {
        Known { looked: None, arrived }
    }
}

/// A key's committed state.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'s> {
    /// It has no value.
    Absent,
    /// It has this value.
    Found {
        /// The record's lsn.
        lsn: Lsn,
        /// The value's bytes.
        value: &'s [u8],
    },
    /// A read was started: ask again when [`Event::Read`] brings this operation.
    Cold(OpId),
    /// The store is damaged.
    Corrupt,
}

/// A key's newest state, committed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It has no value.
    Absent {
        /// The pending tombstone that this rests on, or zero: then it rests on committed records only.
        rests_on: Lsn,
        /// For [`Store::stage`].
        prior: Prior,
    },
    /// It has a value.
    Present {
        /// The lsn of the newest record. Pending, if above [`Store::committed`].
        lsn: Lsn,
        /// For [`Store::stage`].
        prior: Prior,
    },
    /// A read was started: ask again when [`Event::Read`] brings this operation.
    Cold(OpId),
    /// The store is damaged.
    Corrupt,
}

/// Where a record's bytes are now.
pub(super) enum Bytes {
    Scratch(usize),
    /// In the disk's memory.
    Viewed(usize),
    Arrived,
}

pub(super) enum Look {
    Absent,
    Found { lsn: Lsn, place: Indexed, bytes: Bytes, value: Range<usize> },
    Cold(OpId),
    Corrupt,
}

impl<D: Disk> Store<D> {
    /// A key's hash, which is this store's own.
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::of(self.small.state().hash_seed, key)
    }

    /// Tells the moment: see [`Disk::at`].
    pub fn at(&mut self, now_ms: u64) {
        self.disk.at(now_ms);
    }

    /// A key is looked up soon: memory is asked for the index's part of it.
    pub fn expect(&self, hash: KeyHash) {
        self.index.expect(hash);
    }

    /// When that has come: what the index says of the key.
    #[must_use]
    pub fn look_in_index(&self, hash: KeyHash) -> Looked {
        self.index.look(hash)
    }

    /// Memory is asked for a record.
    pub fn expect_record(&self, candidate: Candidate) {
        let Candidate { position, most_bytes } = candidate;
        self.disk.expect(self.segments.get(position.slot).file, position.at, most_bytes);
    }

    /// A key's committed value. No system call where the record is known to be in the page cache; where it is not, a read is
    /// started, and when it comes back everything is judged anew: what has arrived stands in for that read only.
    pub fn get<'s>(&'s mut self, key: &[u8], known: impl Into<Known<'s>>) -> Lookup<'s> {
        let Known { looked, arrived } = known.into();
        let looked = looked.unwrap_or_else(|| self.index.look(self.hash(key)));
        match self.look(looked, key, arrived) {
            Look::Absent => Lookup::Absent,
            Look::Cold(op) => Lookup::Cold(op),
            Look::Corrupt => Lookup::Corrupt,
            Look::Found { place: Indexed { kind: Kind::Delete, .. }, .. } => Lookup::Absent,
            Look::Found { lsn, place, bytes, value } => match (bytes, arrived) {
                (Bytes::Arrived, Some(arrived)) => Lookup::Found { lsn, value: &arrived.bytes[value] },
                (Bytes::Viewed(len), _) => Lookup::Found { lsn, value: &self.view(place.position, len)[value] },
                _ => Lookup::Found { lsn, value: &self.scratch[value] },
            },
        }
    }

    /// A key's newest state, committed or not: what a condition is judged by, and what a write supersedes.
    pub fn probe<'s>(&mut self, key: &[u8], known: impl Into<Known<'s>>) -> Probe {
        let Known { looked, arrived } = known.into();
        let hash = looked.map_or_else(|| self.hash(key), |looked| looked.hash);
        if self.health.is_none()
            && let Some((lsn, kind)) = self.overlay.newest(hash, key)
        {
            let prior = Prior::Pending(lsn);
            return match kind {
                Kind::Set => Probe::Present { lsn, prior },
                Kind::Delete | Kind::Jump => Probe::Absent { rests_on: lsn, prior },
            };
        }
        let looked = looked.unwrap_or_else(|| self.index.look(hash));
        match self.look(looked, key, arrived) {
            Look::Absent => Probe::Absent { rests_on: Lsn::ZERO, prior: Prior::None },
            Look::Cold(op) => Probe::Cold(op),
            Look::Corrupt => Probe::Corrupt,
            Look::Found { lsn, place, .. } => match place.kind {
                Kind::Set => Probe::Present { lsn, prior: Prior::Indexed(place) },
                Kind::Delete | Kind::Jump => Probe::Absent { rests_on: Lsn::ZERO, prior: Prior::Indexed(place) },
            },
        }
    }

    /// Tries the index's candidates one after the other until one is the key's.
    pub(super) fn look(&mut self, looked: Looked, key: &[u8], arrived: Option<&Arrived>) -> Look {
        if self.health.is_some() {
            return Look::Corrupt;
        }
        let Looked { hash, first, .. } = self.index.look_again(looked);
        let (mut tried, mut next) = (0, first);
        while let Some(candidate) = next {
            tried += 1;
            let bytes = match self.fetch(candidate, arrived) {
                Ok(bytes) => bytes,
                Err(look) => return look,
            };
            let slice = match (&bytes, arrived) {
                (Bytes::Arrived, Some(arrived)) => arrived.bytes.as_slice(),
                (Bytes::Scratch(len), _) => &self.scratch[..*len],
                (Bytes::Viewed(len), _) => self.view(candidate.position, *len),
                (Bytes::Arrived, None) => unreachable!("fetch says Arrived only of what it was given"),
            };
            let segment = self.segments.get(candidate.position.slot);
            let reason = match record::decode(slice) {
                Ok((found, _)) if !(segment.first..=segment.last).contains(&found.lsn) => {
                    format!("record {} stands there, which is not of this file", found.lsn.0)
                }
                Ok((found, taken)) if found.key == key => {
                    let position = candidate.position;
                    let place = Indexed { position, bytes: taken as u32, kind: found.kind };
                    let start = record::RECORD_HEADER + key.len();
                    let (lsn, value) = (found.lsn, start..start + found.value.len());
                    return Look::Found { lsn, place, bytes, value };
                }
                // The index cannot tell these two keys apart: another candidate may be the one.
                Ok((found, _)) if self.hash(found.key).is_alike(hash) => {
                    next = self.index.candidate(hash, tried);
                    continue;
                }
                // A sound record, but not the one that was written there.
                Ok((found, _)) => format!("record {} stands there, where another key's belongs", found.lsn.0),
                Err(reason) => reason.to_string(),
            };
            return self.bad_record(candidate, &reason);
        }
        Look::Absent
    }

    /// The candidate's bytes, as many as its class allows, or else the answer to give.
    fn fetch(&mut self, candidate: Candidate, arrived: Option<&Arrived>) -> Result<Bytes, Look> {
        let Candidate { position, most_bytes } = candidate;
        let segment = self.segments.get(position.slot);
        let file = segment.file;
        if arrived.is_some_and(|a| a.file == file && a.at == position.at) {
            return Ok(Bytes::Arrived);
        }
        let len = most_bytes.min((segment.end - position.at) as usize);
        if len > COPIED_BYTES && self.disk.can_view(file, position.at, len) {
            return Ok(Bytes::Viewed(len));
        }
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        match self.disk.try_read(file, position.at, &mut self.scratch[..len]) {
            // Less than was asked for is enough where the record is shorter than its class allows.
            Ok(Some(read)) if read == len || is_whole(&self.scratch[..read]) => Ok(Bytes::Scratch(read)),
            Ok(_) => {
                let op = self.disk.start_read(file, position.at, len);
                Err(Look::Cold(self.start(op, Purpose::Read { file, at: position.at })))
            }
            Err(error) => Err(self.bad_record(candidate, &format!("reading it failed: {error}"))),
        }
    }

    fn view(&self, position: Position, len: usize) -> &[u8] {
        self.disk.view(self.segments.get(position.slot).file, position.at, len)
    }

    fn bad_record(&mut self, candidate: Candidate, reason: &str) -> Look {
        let name = self.segments.get(candidate.position.slot).head.seq.log_name();
        self.corrupt(name, candidate.position.at, reason.to_owned());
        Look::Corrupt
    }

    /// A cold read came back. One that failed is damage, and whoever waits for it learns that when asking again.
    pub(super) fn read_arrived(&mut self, op: OpId, file: FileId, at: u64, result: io::Result<Done>) {
        let bytes = match result {
            Ok(Done::Read(bytes)) => bytes,
            Ok(Done::Ok) => Vec::new(),
            Err(error) => {
                let name = self.segments.all().find(|s| s.file == file).map(|s| s.head.seq.log_name());
                // A file that compaction has replaced since is read again from its successor.
                if let Some(name) = name {
                    self.corrupt(name, at, format!("reading it failed: {error}"));
                }
                Vec::new()
            }
        };
        let arrived = Arrived { op, file, at, bytes };
        match self.commits.read_for(op) {
            Some(lsn) => self.commit_read_arrived(lsn, &arrived),
            None => self.events.push_back(Event::Read(arrived)),
        }
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    !matches!(record::decode(bytes), Err(BadRecord::Short(_)))
}
