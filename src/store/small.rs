//! Owns: the small state in memory and its way to the disk, which does not stand behind the log's.
//! Never: what the state means.

use super::disk::{Disk, Done, FileId, Lane};
use super::space::is_full;
use super::state::{STATE_NAME, STATE_RESERVED_BYTES, STATE_TEMPORARY, SmallState};
use super::{Event, Fatal, Purpose, Store};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::io::{self, IoSlice};

/// Numbers the changes of the small state: when one is durable, so are all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PersistId(pub u64);

/// See the module.
#[derive(Debug)]
pub(super) struct Small {
    state: SmallState,
    /// The last change that was asked for, that is being installed, and that is durable.
    asked: PersistId,
    installing: Option<(PersistId, FileId)>,
    pub persisted: PersistId,
    /// A file with reserved space for the next state, so that a full disk does not hinder it.
    prepared: Option<FileId>,
    entropy: u64,
    salts: u64,
}

impl Small {
    pub fn new(state: SmallState, entropy: u64) -> Small {
        let [asked, persisted] = [PersistId(0); 2];
        Small { state, asked, installing: None, persisted, prepared: None, entropy, salts: 0 }
    }

    pub fn state(&self) -> &SmallState {
        &self.state
    }

    /// A new segment's salt. It is never zero: a file is full of those.
    pub fn salt(&mut self) -> u64 {
        let seed = self.state.hash_seed;
        let mut hasher = SipHasher13::new_with_keys((seed >> 64) as u64, seed as u64);
        hasher.write_u64(self.entropy);
        hasher.write_u64(self.salts);
        self.salts += 1;
        hasher.finish() | 1
    }
}

impl<D: Disk> Store<D> {
    /// Changes the small state. [`Event::Persisted`] says when the change is durable; what rests on it waits for
    /// that.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn persist(&mut self, change: impl FnOnce(&mut SmallState)) -> Result<PersistId, Fatal> {
        self.check()?;
        change(&mut self.small.state);
        self.small.state.bound();
        self.small.asked.0 += 1;
        self.persist_retry().map_err(|fatal| self.fail(fatal))?;
        Ok(self.small.asked)
    }

    /// Installs the newest state, if there is one to install and no installation is under way. On a full disk it
    /// stays to be done.
    pub(super) fn persist_retry(&mut self) -> Result<(), Fatal> {
        let failed = |e: &io::Error| Fatal::new("writing the small state", e);
        if self.small.installing.is_some() || self.small.asked == self.small.persisted {
            return Ok(());
        }
        let Some(file) = self.prepare_state()? else {
            return Ok(());
        };
        let bytes = self.small.state.encode();
        match self.disk.reserve(file, bytes.len() as u64) {
            Err(error) if is_full(&error) => return Ok(()),
            other => other.map_err(|e| failed(&e))?,
        }
        self.small.prepared = None;
        self.disk.write(file, 0, &[IoSlice::new(&bytes)]).map_err(|e| failed(&e))?;
        let op = self.disk.start_install(Lane::Small, file, STATE_TEMPORARY, STATE_NAME);
        self.start(op, Purpose::Persist);
        self.small.installing = Some((self.small.asked, file));
        Ok(())
    }

    /// The file for the next state. `None`: the disk is full.
    pub(super) fn prepare_state(&mut self) -> Result<Option<FileId>, Fatal> {
        if self.small.prepared.is_none() && self.small.installing.is_none() {
            self.small.prepared = self.create_reserved(STATE_TEMPORARY, STATE_RESERVED_BYTES)?;
        }
        Ok(self.small.prepared)
    }

    pub(super) fn persisted(&mut self, result: io::Result<Done>) -> Result<(), Fatal> {
        result.map_err(|e| Fatal::new("writing the small state", &e))?;
        if let Some((id, file)) = self.small.installing.take() {
            self.disk.close(file);
            self.small.persisted = id;
            self.events.push_back(Event::Persisted(id));
        }
        self.prepare_state()?;
        self.persist_retry()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Uuid;
    use std::collections::HashSet;

    /// No mark of one file may count in another, of an earlier run or of another store, and none is to be guessed.
    #[test]
    fn no_two_salts_are_the_same() {
        let mut salts = HashSet::new();
        for seed in [1, 2, 1 << 64, 1 << 127] {
            for entropy in [0, 1, 1 << 63] {
                let mut small = Small::new(SmallState::new(Uuid(1), seed, true), entropy);
                assert!((0..50).all(|_| salts.insert(small.salt())), "seed {seed}, entropy {entropy}");
            }
        }
        assert!(!salts.contains(&0) && salts.iter().any(|salt| salt >> 32 > 0));
    }
}
