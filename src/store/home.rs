//! Owns: what a node keeps in its data directory besides a copy's data: the node's file, the voter's file, and which
//! generation of the data counts.
//! Never: what the formation and the voter's bytes say; a generation's log.
//!
//! ```text
//! node    magic "dkv-node", u32 format, u64 generation, u64 largest grace in ms,
//!         u32 length and bytes of the address as text, u32 length and bytes of the formation, u32 crc32c of all before
//! voter   magic "dkv-vote", u32 format, u32 length and bytes, u32 crc32c of all before
//! ```
//!
//! Either file is replaced as a whole: written under another name, synced, renamed. A start writes both anew before
//! anything rests on them: what it read may be in the page cache only.
//!
//! A generation is a [`Store`] whose files' names begin with its number. A fresh one is made beside the one that counts,
//! filled and synced; then the node's file names it, which is one rename: a crash finds the old one or the new one. Only
//! when that is durable are the loser's files removed. Numbers are never used twice while names of them may be left.

use super::disk::{Disk, Done, FileId, Lane, OpId};
use super::record::COUNT_END;
use super::recovery::{is_unused, read_heads, read_if_there};
use super::segment::FORMAT;
use super::space::is_full;
use super::state::{Fields, STATE_NAME};
use super::{Fatal, OpenError, Options, PersistId, Recovery, SmallState, Store};
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;

pub(super) const NODE_NAME: &str = "node";
pub(super) const VOTER_NAME: &str = "voter";
const NODE_MAGIC: &[u8; 8] = b"dkv-node";
const VOTER_MAGIC: &[u8; 8] = b"dkv-vote";
/// No grace was ever granted that is so long; as nanoseconds it is added to a clock.
const GRACE_END_MS: u64 = 1 << 40;
/// The least space that is kept for the next version of a file, in bytes.
const KEPT_BYTES: u64 = 4096;

/// What the node must not forget and that belongs to no generation. Changed by [`Home::persist`] and [`Home::adopt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// The node whose directory this is.
    pub address: SocketAddr,
    /// The generation that counts. Only [`Home::adopt`] changes it.
    pub generation: u64,
    /// How the cluster was formed; empty before.
    pub formation: Vec<u8>,
    /// The largest grace ever granted, in milliseconds.
    pub largest_grace_ms: u64,
}

/// A voter's file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterFile {
    /// There is none.
    Missing,
    /// It cannot be read.
    Damaged,
    /// The voter's bytes.
    Sound(Vec<u8>),
}

/// What [`Home::poll`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeEvent {
    /// The node's file as of this [`Home::persist`] or [`Home::adopt`], and of all before, is durable.
    Persisted(PersistId),
    /// The voter's file as of this [`Home::persist_voter`], and of all before, is durable.
    VoterPersisted(PersistId),
}

/// A file that is replaced as a whole.
#[derive(Debug)]
struct Kept {
    name: &'static str,
    /// The last change that was asked for, and the last that is durable.
    asked: PersistId,
    persisted: PersistId,
    installing: Option<(OpId, PersistId, FileId)>,
    /// A file with space for the next version, so that a full disk does not hinder it.
    prepared: Option<FileId>,
}

/// Files of a generation that are to go.
#[derive(Debug)]
struct Doomed {
    prefix: String,
    /// What must complete before: then nothing of the generation is under way.
    fences: Vec<OpId>,
    /// The removal itself.
    clearing: Option<OpId>,
}

/// See the module.
#[derive(Debug)]
pub struct Home<D: Disk> {
    disk: D,
    state: NodeState,
    voter: Option<Vec<u8>>,
    voter_is_damaged: bool,
    node_file: Kept,
    voter_file: Kept,
    begun: Option<u64>,
    /// The highest number that a generation ever had, as far as is known.
    last_number: u64,
    /// Generations that do not count any more once this change is durable.
    retiring: Vec<(PersistId, u64)>,
    doomed: Vec<Doomed>,
    events: VecDeque<HomeEvent>,
    failed: Option<Fatal>,
}

impl NodeState {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.formation.len());
        out.extend_from_slice(NODE_MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.largest_grace_ms.to_le_bytes());
        put_bytes(&mut out, self.address.to_string().as_bytes());
        put_bytes(&mut out, &self.formation);
        seal(out)
    }

    fn decode(file: &[u8]) -> Result<NodeState, OpenError> {
        let mut fields = Fields { bytes: file, at: NODE_MAGIC.len() };
        if !file.starts_with(NODE_MAGIC) {
            return Err(OpenError::NodeDamaged);
        }
        match fields.u32() {
            Some(FORMAT) => Self::decode_fields(&mut fields).ok_or(OpenError::NodeDamaged),
            Some(format) if format > FORMAT => Err(OpenError::NodeNewer(format)),
            _ => Err(OpenError::NodeDamaged),
        }
    }

    fn decode_fields(fields: &mut Fields<'_>) -> Option<NodeState> {
        let [generation, largest_grace_ms] = [fields.u64()?, fields.u64()?];
        let address = std::str::from_utf8(take_bytes(fields)?).ok()?.parse().ok()?;
        let formation = take_bytes(fields)?.to_vec();
        let is_lawful = is_sealed(fields) && generation < COUNT_END && largest_grace_ms < GRACE_END_MS;
        is_lawful.then_some(NodeState { address, generation, formation, largest_grace_ms })
    }
}

pub(super) fn encode_voter(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + bytes.len());
    out.extend_from_slice(VOTER_MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    put_bytes(&mut out, bytes);
    seal(out)
}

fn decode_voter(file: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Fields { bytes: file, at: VOTER_MAGIC.len() };
    let is_one = file.starts_with(VOTER_MAGIC) && fields.u32()? == FORMAT;
    let bytes = take_bytes(&mut fields)?.to_vec();
    (is_one && is_sealed(&mut fields)).then_some(bytes)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let bytes = fields.u32()? as usize;
    fields.take(bytes)
}

/// Adds the checksum of all.
fn seal(mut out: Vec<u8>) -> Vec<u8> {
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

fn is_sealed(fields: &mut Fields<'_>) -> bool {
    let crc = crc32c::crc32c(&fields.bytes[..fields.at]);
    fields.u32() == Some(crc)
}

/// What the names of a generation's files begin with.
pub(super) fn prefix_of(generation: u64) -> String {
    format!("{generation}-")
}

/// The generation whose file has this name.
fn generation_of(name: &str) -> Option<u64> {
    let number = name.split_once('-')?.0.parse().ok().filter(|number| *number < COUNT_END)?;
    name.starts_with(&prefix_of(number)).then_some(number)
}

/// The node's file. `None`: there is none.
pub(super) fn read_node<D: Disk>(disk: &mut D) -> Result<Option<NodeState>, OpenError> {
    let names = disk.list().map_err(|e| OpenError::Io("listing the data directory", e))?;
    let bytes = read_if_there(disk, &names, NODE_NAME).map_err(|e| OpenError::Io("reading the file `node`", e))?;
    bytes.map(|bytes| NodeState::decode(&bytes)).transpose()
}

/// The voter's file.
pub(super) fn read_voter<D: Disk>(disk: &mut D, names: &[String]) -> Result<VoterFile, OpenError> {
    let file = read_if_there(disk, names, VOTER_NAME).map_err(|e| OpenError::Io("reading the file `voter`", e))?;
    Ok(file.map_or(VoterFile::Missing, |file| decode_voter(&file).map_or(VoterFile::Damaged, VoterFile::Sound)))
}

impl Kept {
    fn new(name: &'static str) -> Kept {
        let [asked, persisted] = [PersistId(0); 2];
        Kept { name, asked, persisted, installing: None, prepared: None }
    }

    fn temporary(&self) -> String {
        format!("{}.tmp", self.name)
    }

    /// Whether there is something to install, and nothing hinders it.
    fn is_due(&self) -> bool {
        self.installing.is_none() && self.asked != self.persisted
    }

    /// Installs these bytes. On a full disk it stays to be done.
    fn install<D: Disk>(&mut self, disk: &mut D, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = self.prepare(disk, bytes.len() as u64)? else {
            return Ok(());
        };
        self.prepared = None;
        disk.write(file, 0, &[IoSlice::new(bytes)])?;
        let op = disk.start_install(Lane::Small, file, &self.temporary(), self.name);
        self.installing = Some((op, self.asked, file));
        Ok(())
    }

    /// The file for the next version, with space for this many bytes. `None`: the disk is full.
    fn prepare<D: Disk>(&mut self, disk: &mut D, bytes: u64) -> io::Result<Option<FileId>> {
        let file = match self.prepared {
            Some(file) => file,
            None => match disk.create(&self.temporary()) {
                Err(error) if is_full(&error) => return Ok(None),
                created => *self.prepared.insert(created?),
            },
        };
        match disk.reserve(file, bytes) {
            Err(error) if is_full(&error) => Ok(None),
            reserved => reserved.map(|()| Some(file)),
        }
    }

    /// The installation is done: which change is durable now. Keeps space for the next, and for one twice as long.
    fn installed<D: Disk>(&mut self, disk: &mut D, bytes: u64) -> io::Result<PersistId> {
        if let Some((_, id, file)) = self.installing.take() {
            disk.close(file);
            self.persisted = id;
        }
        self.prepare(disk, (2 * bytes).next_multiple_of(KEPT_BYTES))?;
        Ok(self.persisted)
    }

    fn is_installing(&self, op: OpId) -> bool {
        self.installing.is_some_and(|(installing, ..)| installing == op)
    }
}

impl<D: Disk> Home<D> {
    /// Opens a node's directory and the generation that counts; a new directory gets one with the state that `fresh`
    /// makes. What is left of other generations is removed. *Blocking.*
    ///
    /// # Errors
    /// Where the disk fails or is full, the directory is another node's, the node's file or the small state is damaged
    /// or missing, or an option is out of its range.
    pub fn open(
        mut disk: D,
        options: Options,
        address: SocketAddr,
        fresh: impl FnOnce() -> SmallState,
    ) -> Result<(Home<D>, Store<D>, Recovery), OpenError> {
        options.check().map_err(OpenError::Options)?;
        let names = disk.list().map_err(|e| OpenError::Io("listing the data directory", e))?;
        let generations: BTreeSet<u64> = names.iter().filter_map(|name| generation_of(name)).collect();
        let state = match read_node(&mut disk)? {
            Some(state) if state.address != address => return Err(OpenError::OtherNode(state.address)),
            Some(state) if !names.contains(&(prefix_of(state.generation) + STATE_NAME)) => {
                return Err(OpenError::StateMissing);
            }
            Some(state) => state,
            None if !is_new(&mut disk, &names, &generations)? => return Err(OpenError::NodeMissing),
            None => NodeState { address, generation: 1, formation: Vec::new(), largest_grace_ms: 0 },
        };
        let voter = read_voter(&mut disk, &names)?;
        let last_number = generations.last().copied().unwrap_or_default().max(state.generation);
        let mut home = Home {
            disk,
            state,
            voter_is_damaged: voter == VoterFile::Damaged,
            voter: if let VoterFile::Sound(bytes) = voter { Some(bytes) } else { None },
            node_file: Kept::new(NODE_NAME),
            voter_file: Kept::new(VOTER_NAME),
            begun: None,
            last_number,
            retiring: Vec::new(),
            doomed: Vec::new(),
            events: VecDeque::new(),
            failed: None,
        };
        let (older, newer): (Vec<u64>, Vec<u64>) = generations.into_iter().partition(|n| *n < home.state.generation);
        // No file `node` that a crash may bring back names one of these: their room is free for the start.
        home.remove_all(newer.into_iter().filter(|n| *n > home.state.generation).collect())?;
        // A new directory gets its first generation before the file that names it.
        let (mut store, recovery) = Store::open(home.disk.handle(&prefix_of(home.state.generation)), options, fresh)?;
        home.write_anew(&mut store)?;
        home.remove_all(older)?;
        Ok((home, store, recovery))
    }

    fn remove_all(&mut self, generations: Vec<u64>) -> Result<(), Fatal> {
        for generation in generations {
            self.remove(generation);
        }
        self.settle()
    }

    /// Both files are written anew by every start; on a full disk the store gives its spare for them.
    fn write_anew(&mut self, store: &mut Store<D>) -> Result<(), OpenError> {
        self.node_file.asked.0 += 1;
        self.voter_file.asked.0 += u64::from(self.voter.is_some());
        for _ in 0..2 {
            self.advance()?;
            self.settle()?;
            if self.node_file.asked == self.node_file.persisted && self.voter_file.asked == self.voter_file.persisted {
                self.events.clear();
                return Ok(());
            }
            if store.give_spare() {
                store.settle()?;
            }
        }
        Err(OpenError::Full)
    }

    /// The node's state as it is or is being made durable.
    #[must_use]
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// The voter's bytes as they are or are being made durable. `None`: there are none, or they were damaged.
    #[must_use]
    pub fn voter(&self) -> Option<&[u8]> {
        self.voter.as_deref()
    }

    /// Whether this start found a voter's file that was damaged.
    #[must_use]
    pub fn is_voter_damaged(&self) -> bool {
        self.voter_is_damaged
    }

    /// Changes the node's state (but not which generation counts). [`HomeEvent::Persisted`] says when it is durable.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn persist(&mut self, change: impl FnOnce(&mut NodeState)) -> Result<PersistId, Fatal> {
        self.check()?;
        let generation = self.state.generation;
        change(&mut self.state);
        self.state.generation = generation;
        self.node_file.asked.0 += 1;
        self.advance()?;
        Ok(self.node_file.asked)
    }

    /// Replaces the voter's bytes. [`HomeEvent::VoterPersisted`] says when they are durable; several in a row share a
    /// write. The numbers are a sequence of their own.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn persist_voter(&mut self, bytes: Vec<u8>) -> Result<PersistId, Fatal> {
        self.check()?;
        self.voter = Some(bytes);
        self.voter_file.asked.0 += 1;
        self.advance()?;
        Ok(self.voter_file.asked)
    }

    /// The next thing that has happened, if any. Never blocks. Call it each turn until there is no more: what a full
    /// disk hindered is tried again.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn poll(&mut self) -> Result<Option<HomeEvent>, Fatal> {
        self.check()?;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            self.retire();
            let Some((op, result)) = self.disk.poll() else {
                self.advance()?;
                return Ok(None);
            };
            self.complete(op, result)?;
        }
    }

    /// Makes a fresh, empty generation beside the one that counts; one that was begun before and not adopted is
    /// removed (drop its store before). *Blocking*, for a few syncs.
    ///
    /// # Errors
    /// As [`Store::open`]; then nothing was begun.
    pub fn begin(&mut self, options: Options, fresh: SmallState) -> Result<Store<D>, OpenError> {
        self.check()?;
        self.abandon();
        self.last_number += 1;
        let opened = Store::open(self.disk.handle(&prefix_of(self.last_number)), options, || fresh);
        match opened {
            Ok((store, _)) => {
                self.begun = Some(self.last_number);
                Ok(store)
            }
            Err(error) => {
                self.remove(self.last_number);
                Err(error)
            }
        }
    }

    /// The begun generation, whose log the caller has synced, is the one that counts once this is persisted. The caller
    /// drops the old one's store when [`HomeEvent::Persisted`] says so, before the next [`Home::poll`]; its files are
    /// then removed in the background.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    ///
    /// # Panics
    /// If none was begun.
    pub fn adopt(&mut self) -> Result<PersistId, Fatal> {
        self.check()?;
        let begun = self.begun.take().expect("a generation was begun");
        let old = std::mem::replace(&mut self.state.generation, begun);
        self.node_file.asked.0 += 1;
        self.retiring.push((self.node_file.asked, old));
        self.advance()?;
        Ok(self.node_file.asked)
    }

    /// The begun generation, if there is one, is removed. The caller has dropped its store.
    pub fn abandon(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.remove(begun);
        }
    }

    /// Waits for all that is under way. *Blocking.*
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn close(mut self) -> Result<(), Fatal> {
        self.check()?;
        self.advance()?;
        self.settle()
    }

    /// Starts what is due.
    fn advance(&mut self) -> Result<(), Fatal> {
        if self.node_file.is_due() {
            let installed = self.node_file.install(&mut self.disk, &self.state.encode());
            installed.map_err(|e| self.fail("writing the file `node`", &e))?;
        }
        if self.voter_file.is_due()
            && let Some(voter) = &self.voter
        {
            let installed = self.voter_file.install(&mut self.disk, &encode_voter(voter));
            installed.map_err(|e| self.fail("writing the file `voter`", &e))?;
        }
        Ok(())
    }

    fn complete(&mut self, op: OpId, result: io::Result<Done>) -> Result<(), Fatal> {
        if self.node_file.is_installing(op) {
            let bytes = self.state.encode().len() as u64;
            let id = result.and_then(|_| self.node_file.installed(&mut self.disk, bytes));
            let id = id.map_err(|e| self.fail("writing the file `node`", &e))?;
            self.events.push_back(HomeEvent::Persisted(id));
        } else if self.voter_file.is_installing(op) {
            let bytes = self.voter.as_ref().map_or(0, Vec::len) as u64;
            let id = result.and_then(|_| self.voter_file.installed(&mut self.disk, bytes));
            let id = id.map_err(|e| self.fail("writing the file `voter`", &e))?;
            self.events.push_back(HomeEvent::VoterPersisted(id));
        } else {
            result.map_err(|e| self.fail("removing the files of an old generation", &e))?;
            self.removal_went_on(op);
        }
        self.advance()
    }

    /// Removes what does not count any more. Whoever was told so has dropped its store by now.
    fn retire(&mut self) {
        let persisted = self.node_file.persisted;
        let (retired, rest) = self.retiring.drain(..).partition(|(id, _)| *id <= persisted);
        self.retiring = rest;
        let retired: Vec<(PersistId, u64)> = retired;
        for (_, generation) in retired {
            self.remove(generation);
        }
    }

    /// Removes a generation's files, once all that its store may have started is done: an installation under way would
    /// bring a file back. Lanes keep their order, so something in each of them tells.
    fn remove(&mut self, generation: u64) {
        let prefix = prefix_of(generation);
        let doomed = prefix.clone() + STATE_NAME;
        let fences = [Lane::Data, Lane::Small].map(|lane| self.disk.start_remove(lane, &doomed)).to_vec();
        self.doomed.push(Doomed { prefix, fences, clearing: None });
    }

    fn removal_went_on(&mut self, op: OpId) {
        self.doomed.retain(|doomed| doomed.clearing != Some(op));
        for doomed in &mut self.doomed {
            doomed.fences.retain(|fence| *fence != op);
            if doomed.fences.is_empty() && doomed.clearing.is_none() {
                doomed.clearing = Some(self.disk.start_clear(Lane::Background, &doomed.prefix));
            }
        }
    }

    fn settle(&mut self) -> Result<(), Fatal> {
        while let Some((op, result)) = self.disk.wait() {
            self.complete(op, result)?;
        }
        Ok(())
    }

    /// The last failure, if there was one: it holds for ever.
    fn check(&self) -> Result<(), Fatal> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn fail(&mut self, what: &str, error: &io::Error) -> Fatal {
        self.failed.get_or_insert(Fatal::new(what, error)).clone()
    }
}

/// Whether a directory without a node's file holds no more than what a first start leaves when it is cut short.
fn is_new<D: Disk>(disk: &mut D, names: &[String], generations: &BTreeSet<u64>) -> Result<bool, OpenError> {
    if names.iter().any(|name| name == VOTER_NAME) || generations.iter().any(|generation| *generation != 1) {
        return Ok(false);
    }
    let mut first = disk.handle(&prefix_of(1));
    let names = first.list().map_err(|e| OpenError::Io("listing the data directory", e))?;
    let found = read_heads(&mut first, &names)?;
    Ok(found.is_empty() || is_unused(&mut first, &found)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checksum fits these, too: such numbers would overflow where they are added to.
    #[test]
    fn numbers_that_no_node_has_are_refused() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let good = NodeState { address, generation: 1, formation: Vec::new(), largest_grace_ms: 0 };
        assert_eq!(NodeState::decode(&good.encode()).ok(), Some(good.clone()));
        for bad in [
            NodeState { generation: COUNT_END, ..good.clone() },
            NodeState { largest_grace_ms: GRACE_END_MS, ..good.clone() },
        ] {
            assert!(matches!(NodeState::decode(&bad.encode()), Err(OpenError::NodeDamaged)), "{bad:?}");
        }
        assert_eq!(generation_of(&format!("{COUNT_END}-state")), None);
        assert_eq!((generation_of("7-state"), generation_of("07-state"), generation_of("node")), (Some(7), None, None));
    }
}
